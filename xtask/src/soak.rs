//! `cargo xtask soak`: builds what a soak needs and runs it.

use std::path::Path;
use std::process::Command;

use crate::run;

/// Builds the dispatcher, the soak and its handlers, with crash points in them, and hands the arguments on.
///
/// # Errors
/// It does not build (the compiler has said why), or the soak says no (it has said why): then the text is empty.
pub fn run(args: &[String]) -> Result<(), String> {
    if !args.iter().any(|arg| arg == "--plan") {
        crate::install::servers(false)?;
    }
    println!("building");
    // Everything that the whole-system tests use, as they use it: crash points come with the tests' own dependencies, and
    // nothing is built a second time.
    let build = ["build", "--quiet", "--locked", "-p", "weft", "-p", "weft-tests", "--all-targets"];
    run::succeed(run::cargo().args(build))?;
    let program = binary("weft-soak")?;
    let status = Command::new(&program)
        .args(args)
        .current_dir(run::root())
        .stdin(std::process::Stdio::null())
        .status()
        .map_err(|error| format!("starting {program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(String::new()) }
}

/// Where Cargo put a binary of the debug build.
fn binary(name: &str) -> Result<String, String> {
    let output = run::output(run::cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("reading cargo's metadata: {error}"))?;
    let target = metadata.get("target_directory").and_then(serde_json::Value::as_str);
    let target = target.ok_or("cargo names no target folder")?;
    Ok(Path::new(target).join("debug").join(name).display().to_string())
}
