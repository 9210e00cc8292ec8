//! `weft init`: writes a function that runs at once.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use weft_process::report::{Code, Exit, Report};

use crate::args::{self, Language};

/// A file of a template: its name, its text, and its mode.
struct File {
    name: &'static str,
    text: &'static str,
    mode: u32,
}

const fn plain(name: &'static str, text: &'static str) -> File {
    File { name, text, mode: 0o644 }
}

macro_rules! template {
    ($folder:literal: $($name:literal),+) => {
        &[$(plain($name, include_str!(concat!("../../templates/", $folder, "/", $name)))),+]
    };
}

const PYTHON: &[File] = template!("python": "app.py", "requirements.txt", "weft.toml", "README.md");
const NODE: &[File] = template!("node": "index.mjs", "weft.toml", "README.md");
const RUST: &[File] = template!("rust": "Cargo.toml", "src/main.rs", "weft.toml", "README.md");
const LAMBDA: &[File] = template!("lambda": "weft.toml", "README.md");
const BOOTSTRAP: File = File { name: "bootstrap", text: include_str!("../../templates/lambda/bootstrap"), mode: 0o755 };
/// What no template wants in a repository.
const IGNORE: File = plain(".gitignore", "/.weft/\n/venv/\n/target/\n/node_modules/\n__pycache__/\n");

fn files(language: Language) -> Vec<&'static File> {
    let (files, more): (&'static [File], &'static [File]) = match language {
        Language::Python => (PYTHON, &[]),
        Language::Node => (NODE, &[]),
        Language::Rust => (RUST, &[]),
        Language::Lambda => (LAMBDA, const { &[BOOTSTRAP] }),
    };
    files.iter().chain(more).collect()
}

/// Writes nothing when a file of the function is there already. A `.gitignore` that is there is left as it is.
pub fn run(args: &args::Init) -> Result<Exit, Report> {
    let files = files(args.from);
    let taken: Vec<&str> =
        files.iter().filter(|file| args.dir.join(file.name).symlink_metadata().is_ok()).map(|file| file.name).collect();
    if !taken.is_empty() {
        let dir = args.dir.display();
        return Err(Report::new(
            Code::Setting,
            format!("failed to write a function: {dir} has {} already", taken.join(", ")),
        )
        .help("nothing was written; name another folder: weft init DIR --from …"));
    }
    for file in &files {
        write(&args.dir, file)?;
        println!("wrote {}", args.dir.join(file.name).display());
    }
    if args.dir.join(IGNORE.name).symlink_metadata().is_err() {
        write(&args.dir, &IGNORE)?;
    }
    println!("{} says how to run it", args.dir.join("README.md").display());
    Ok(Exit::Ok)
}

fn write(dir: &Path, file: &File) -> Result<(), Report> {
    let path: PathBuf = dir.join(file.name);
    let fault = |error: std::io::Error| {
        Report::new(Code::Unexpected, format!("failed to write {}: {error}", path.display()))
            .help("is the folder one that you may write in?")
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(fault)?;
    }
    // New files only: what came into being since we looked is not overwritten either.
    let mut new = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&path).map_err(fault)?;
    new.write_all(file.text.as_bytes()).map_err(fault)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::ValueEnum as _;
    use weft_schemas::Manifest;

    use super::*;

    #[test]
    fn every_template_has_a_manifest_that_is_one() {
        for language in Language::value_variants() {
            let files = files(*language);
            let manifest = files.iter().find(|file| file.name == "weft.toml").unwrap();
            let parsed = Manifest::parse(manifest.text, Path::new(".")).unwrap();
            assert!(parsed.functions.contains_key(&weft_schemas::FunctionName::new("hello").unwrap()), "{language:?}");
            assert!(files.iter().any(|file| file.name == "README.md"));
        }
    }

    #[test]
    fn a_file_that_came_into_being_since_the_look_is_not_written_over() {
        let folder = std::env::temp_dir().join(format!("weft-init-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(IGNORE.name), "mine").unwrap();
        let refused = write(&folder, &IGNORE).unwrap_err();
        assert!(refused.to_string().contains(IGNORE.name), "{refused}");
        assert_eq!(fs::read_to_string(folder.join(IGNORE.name)).unwrap(), "mine");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_runtime_client_is_the_one_that_the_tests_run() {
        let pinned = PYTHON.iter().find(|file| file.name == "requirements.txt").unwrap().text;
        let tested = include_str!("../../../tests/clients/requirements.txt");
        for package in pinned.lines().filter(|line| line.contains("==")) {
            assert!(tested.lines().any(|line| line == package), "{package}");
        }
    }
}
