//! A file for each table of the manifest, one for faults that no table has, and one for manifests made at random.

#![allow(clippy::unwrap_used)]

mod any;
mod caps;
mod confined;
mod environment;
mod faults;
mod function;
mod lambda;
mod retry;
mod table;

use super::*;

const MINIMAL: &str = "[functions.f]\ncommand = [\"./f\"]\nevents = [\"a.b\"]\n";

/// Files that a manifest may name.
fn read(path: &Path) -> io::Result<String> {
    match path.to_str().unwrap() {
        "/app/good.json" => Ok(r#"{"type":"object","required":["order_id"]}"#.into()),
        "/app/no-json.json" => Ok("{\n  \"type\": }".into()),
        "/app/no-schema.json" => Ok(r#"{"type":"orders"}"#.into()),
        "/app/remote.json" => Ok(r#"{"$ref":"https://example.com/schema.json"}"#.into()),
        "/app/file.json" => Ok(r#"{"$ref":"file:///etc/passwd"}"#.into()),
        "/app/dangling.json" => Ok(r##"{"$ref":"#/$defs/none"}"##.into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn parse(text: &str) -> Result<Manifest, Faults> {
    Manifest::parse_with(text, Path::new("weft.toml"), Path::new("/app"), &read)
}

fn function(text: &str) -> Function {
    parse(text).unwrap().functions.into_values().next().unwrap()
}

/// The minimal manifest with lines added to its function.
fn with(lines: &str) -> String {
    format!("{MINIMAL}{lines}\n")
}

/// The faults as they are shown.
fn shown(text: &str) -> Vec<String> {
    parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

/// Lines of a function, each with a part of the one fault that it has.
fn each_is_refused(rules: &[(&str, &str)]) {
    for (lines, part) in rules {
        let shown = shown(&with(lines));
        assert_eq!(shown.len(), 1, "{lines}: {shown:?}");
        assert!(shown[0].contains(part), "{lines}: {:?} does not say {part:?}", shown[0]);
    }
}
