//! `weft runtime`: becomes a runtime that Weft brings along. A worker's program: `command = ["weft", "runtime", "node",
//! "index.handler"]`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use weft_process::report::{Code, Exit, Report};

use crate::args::{self, RuntimeName};

/// The runtime for Node.js, as it lies in `runtimes/node/`. The first file is the one that is run.
const NODE: [(&str, &str); 7] = [
    ("bootstrap.mjs", include_str!("../../../runtimes/node/bootstrap.mjs")),
    ("api.mjs", include_str!("../../../runtimes/node/api.mjs")),
    ("errors.mjs", include_str!("../../../runtimes/node/errors.mjs")),
    ("load.mjs", include_str!("../../../runtimes/node/load.mjs")),
    ("log.mjs", include_str!("../../../runtimes/node/log.mjs")),
    ("run.mjs", include_str!("../../../runtimes/node/run.mjs")),
    ("stream.mjs", include_str!("../../../runtimes/node/stream.mjs")),
];

/// Does not return where it succeeds: the process is the runtime's from then on.
pub fn run(args: &args::Runtime) -> Result<Exit, Report> {
    let RuntimeName::Node = args.name;
    let folder = unpack().map_err(|error| {
        Report::new(
            Code::Unexpected,
            format!("failed to write the runtime below {}: {error}", std::env::temp_dir().display()),
        )
    })?;
    let error = Command::new("node").arg(folder.join("bootstrap.mjs")).args(&args.handler).exec();
    Err(Report::new(Code::ProgramMissing, format!("failed to start node: {error}"))
        .help("install Node.js 18.17 or newer, in the PATH of the worker"))
}

/// Writes the runtime into a new folder. A worker's temporary folder is its own and goes with it.
fn unpack() -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("weft-node-{}", std::process::id()));
    // Refused where it is there already: in a shared folder it could be somebody else's.
    DirBuilder::new().mode(0o700).create(&folder)?;
    for (name, text) in NODE {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_file_of_the_runtime_is_brought_along() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtimes/node");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".mjs"))
            .collect();
        let mut brought: Vec<&str> = NODE.iter().map(|(name, _)| *name).collect();
        there.sort();
        brought.sort_unstable();
        assert_eq!(there, brought);
    }
}
