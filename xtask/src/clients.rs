//! The clients that the whole-system tests talk through: a Python environment, a folder of npm packages and a Rust function
//! on AWS's client, made once
//! under `target/clients/` from the pinned lists in `tests/clients/`, and anew when a list changes.
//!
//! Both come from the package registries alone: no package's own script runs, nothing is compiled.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::run;

/// The Python whose packages are those of `requirements.txt`. Set: it is taken as it is.
pub const PYTHON: &str = "WEFT_TEST_PYTHON";
/// A `node_modules` with the packages of `package.json`. Set: it is taken as it is.
pub const NODE_MODULES: &str = "WEFT_TEST_NODE_MODULES";

/// A Rust function on AWS's own client, built. Set: it is taken as it is.
pub const RUST_FUNCTION: &str = "WEFT_TEST_RUST_FUNCTION";

/// Written last, so that a folder without it is unfinished. Holds what the folder was made from.
const STAMP: &str = "made-from";

/// `cargo xtask clients`: makes what is missing and prints what to export.
///
/// # Errors
/// As [`install`].
pub fn run() -> Result<(), String> {
    crate::install::clients(true)?;
    for (name, value) in install()? {
        println!("export {name}={value}");
    }
    Ok(())
}

/// Makes all where they are missing or out of date; the variables that lead tests to them.
///
/// # Errors
/// The registries do not answer, or have no built package for this machine. What pip or npm said is on standard error.
pub fn install() -> Result<Vec<(String, String)>, String> {
    let (python, node, rust) = std::thread::scope(|scope| {
        let python = scope.spawn(python);
        let rust = scope.spawn(rust);
        let node = node();
        let ended = |what: &str| Err(format!("installing {what} ended in a panic"));
        let python = python.join().unwrap_or_else(|_| ended("Python's packages"));
        (python, node, rust.join().unwrap_or_else(|_| ended("the Rust function")))
    });
    Ok(vec![(PYTHON.to_owned(), python?), (NODE_MODULES.to_owned(), node?), (RUST_FUNCTION.to_owned(), rust?)])
}

/// The variables, when both are there and up to date or given: for a run that installs nothing.
pub fn present() -> Vec<(String, String)> {
    let found = |name: &str, folder: &Folder, inside: &str| {
        let value = given(name).or_else(|| folder.is_current().then(|| folder.path.join(inside).display().to_string()));
        value.map(|value| (name.to_owned(), value))
    };
    let python = python_folder().ok().and_then(|folder| found(PYTHON, &folder, "bin/python"));
    let node = node_folder().ok().and_then(|folder| found(NODE_MODULES, &folder, "node_modules"));
    let rust = rust_folder().ok().and_then(|folder| found(RUST_FUNCTION, &folder, RUST_PROGRAM));
    python.into_iter().chain(node).chain(rust).collect()
}

fn given(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn python() -> Result<String, String> {
    if let Some(given) = given(PYTHON) {
        return Ok(given);
    }
    let folder = python_folder()?;
    folder.make("Python packages for the tests", || {
        run::quietly(run::program("python3").args(["-m", "venv"]).arg(&folder.path))?;
        let mut pip = run::program(&folder.path.join("bin/python").display().to_string());
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
        run::quietly(pip.args(["--requirement", "tests/clients/requirements.txt"]))
    })?;
    Ok(folder.path.join("bin/python").display().to_string())
}

fn node() -> Result<String, String> {
    if let Some(given) = given(NODE_MODULES) {
        return Ok(given);
    }
    let folder = node_folder()?;
    folder.make("npm packages for the tests", || {
        fs::create_dir_all(&folder.path).map_err(|error| format!("making {}: {error}", folder.path.display()))?;
        for name in ["package.json", "package-lock.json"] {
            let from = run::root().join("tests/clients").join(name);
            fs::copy(&from, folder.path.join(name)).map_err(|error| format!("copying {}: {error}", from.display()))?;
        }
        let mut npm = run::program("npm");
        npm.current_dir(&folder.path);
        run::quietly(npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]))
    })?;
    Ok(folder.path.join("node_modules").display().to_string())
}

/// Where Cargo puts the program, in its target folder.
const RUST_PROGRAM: &str = "debug/weft-test-lambda-rust";
/// The functions in Rust, each in a workspace of its own: that of the tests, and the example. Their lists name the same
/// versions, so that what they need is built once.
const RUST_PACKAGES: [&str; 2] = ["tests/clients/rust", "examples/rust-lambda"];

fn rust() -> Result<String, String> {
    if let Some(given) = given(RUST_FUNCTION) {
        return Ok(given);
    }
    let folder = rust_folder()?;
    folder.make("Rust functions for the tests", || {
        RUST_PACKAGES.iter().try_for_each(|package| {
            let mut cargo = run::cargo();
            cargo.args(["build", "--quiet", "--locked", "--manifest-path", &format!("{package}/Cargo.toml")]);
            run::quietly(cargo.arg("--target-dir").arg(&folder.path))
        })
    })?;
    Ok(folder.path.join(RUST_PROGRAM).display().to_string())
}

fn rust_folder() -> Result<Folder, String> {
    let mut made_from = String::new();
    for package in RUST_PACKAGES {
        for name in ["Cargo.lock", "Cargo.toml", "src/main.rs"] {
            made_from.push_str(&read(&run::root().join(package).join(name))?);
        }
    }
    Ok(Folder { path: clients().join("rust"), made_from })
}

/// A folder that was made from something, and knows from what.
struct Folder {
    path: PathBuf,
    made_from: String,
}

/// An environment belongs to one interpreter and to one place: both are part of what it is made from.
fn python_folder() -> Result<Folder, String> {
    let path = clients().join("python");
    let version = run::output(run::program("python3").arg("--version"))
        .map_err(|error| format!("{error}. The tests run Python functions: install Python 3 with its module venv"))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let made_from = format!("{version}\n{}\n{}", path.display(), list("requirements.txt")?);
    Ok(Folder { path, made_from })
}

fn node_folder() -> Result<Folder, String> {
    Ok(Folder { path: clients().join("node"), made_from: list("package-lock.json")? })
}

fn clients() -> PathBuf {
    let target = given("CARGO_TARGET_DIR").map_or_else(|| run::root().join("target"), |dir| run::root().join(dir));
    target.join("clients")
}

fn list(name: &str) -> Result<String, String> {
    read(&run::root().join("tests/clients").join(name))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("reading {}: {error}", path.display()))
}

impl Folder {
    fn is_current(&self) -> bool {
        fs::read_to_string(self.path.join(STAMP)).is_ok_and(|text| text == self.made_from)
    }

    /// Makes it anew unless it is current.
    fn make(&self, what: &str, fill: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        if self.is_current() {
            return Ok(());
        }
        eprintln!("installing {what} in {}", self.path.display());
        let begun = Instant::now();
        remove(&self.path)?;
        fill().map_err(|error| format!("installing {what}: {error}"))?;
        fs::write(self.path.join(STAMP), &self.made_from)
            .map_err(|error| format!("writing in {}: {error}", self.path.display()))?;
        eprintln!("installed {what} in {:.0} s", begun.elapsed().as_secs_f64());
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("removing {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::*;

    fn folder(name: &str, made_from: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("weft-xtask-{}-{name}", std::process::id()));
        Folder { path, made_from: made_from.to_owned() }
    }

    #[test]
    fn a_folder_is_made_once_and_anew_when_its_list_changes() {
        let first = folder("list", "one");
        let fill = |folder: &Folder| {
            let path = folder.path.clone();
            move || fs::create_dir_all(&path).and_then(|()| fs::write(path.join("x"), "")).map_err(|e| e.to_string())
        };
        first.make("x", fill(&first)).expect("made");
        assert!(first.is_current());
        first.make("x", || Err("made twice".to_owned())).expect("current");
        let second = folder("list", "two");
        assert!(!second.is_current());
        second.make("x", fill(&second)).expect("made anew");
        assert!(second.is_current() && !first.is_current());
        remove(&first.path).expect("removed");
    }

    #[test]
    fn a_folder_whose_filling_failed_is_not_taken_for_made() {
        let folder = folder("failed", "one");
        let failed = folder.make("x", || {
            fs::create_dir_all(&folder.path).map_err(|error| error.to_string())?;
            Err("no network".to_owned())
        });
        assert_eq!(failed, Err("installing x: no network".to_owned()));
        assert!(!folder.is_current());
        remove(&folder.path).expect("removed");
    }

    #[test]
    fn the_lock_names_no_address() {
        let lock = list("package-lock.json").expect("there");
        assert!(lock.contains("\"integrity\"") && !lock.contains("\"resolved\""));
    }

    #[test]
    fn every_python_package_is_pinned() {
        let list = list("requirements.txt").expect("there");
        let packages = || list.lines().filter(|line| !line.starts_with('#'));
        assert!(packages().count() > 3);
        assert!(packages().all(|line| line.contains("==")));
    }
}
