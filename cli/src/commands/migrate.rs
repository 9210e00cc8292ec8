//! `weft migrate`.

use weft_process::report::{Exit, Report};

use crate::args;
use crate::services::Services;

pub async fn run(args: args::Migrate) -> Result<Exit, Report> {
    let ledger = Services::resolve(&args.services)?.ledger().await?;
    let applied = ledger.migrate().await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    if args.json {
        println!("{}", serde_json::json!({ "ledger": ledger.address(), "applied": applied }));
    } else if applied.is_empty() {
        println!("{} is up to date", ledger.address());
    } else {
        let versions: Vec<_> = applied.iter().map(ToString::to_string).collect();
        println!("{}: applied {}", ledger.address(), versions.join(", "));
    }
    Ok(Exit::Ok)
}
