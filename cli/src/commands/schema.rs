//! `weft schema`.

use weft_process::report::{Code, Exit, Report};
use weft_schemas::json_schema;

use crate::args::{self, SchemaName};

pub fn run(args: &args::Schema) -> Result<Exit, Report> {
    let document: serde_json::Value = match args.name {
        SchemaName::Manifest => json_schema::manifest(),
        SchemaName::DeadLetter => json_schema::dead_letter(),
        SchemaName::Events => {
            json_schema::events().into_iter().map(|schema| (schema.name.to_owned(), schema.document)).collect()
        }
    };
    let text = serde_json::to_string_pretty(&document)
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to print the schema: {error}")))?;
    println!("{text}");
    Ok(Exit::Ok)
}
