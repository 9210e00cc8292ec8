//! What tests of functions and clients in other languages talk through. `cargo xtask clients` makes it, and so does
//! `cargo xtask test`, from the pinned lists in `tests/clients/`.

use std::path::{Path, PathBuf};

use crate::error::or_fail;
use crate::programs::Program;
use crate::{Error, env};

const NODE: Program = Program { name: "node", package: "nodejs", folders: &[] };

/// A Python interpreter with the packages of `tests/clients/requirements.txt`: `awslambdaric`, `boto3`,
/// `aws_lambda_powertools` with its parser. An absolute path; a program in a virtual environment.
///
/// # Panics
/// It has not been made; the text says which command makes it.
#[must_use]
pub fn python() -> PathBuf {
    or_fail(made(env::PYTHON, "python", "bin/python"))
}

/// A `node_modules` with the packages of `tests/clients/package.json`: `@aws-sdk/client-lambda`, `sharp`, `express`,
/// `serverless-http`. An absolute path; give it as `NODE_PATH` to CommonJS, or link it beside the code: ES modules look
/// nowhere else.
///
/// # Panics
/// It has not been made; the text says which command makes it.
#[must_use]
pub fn node_modules() -> PathBuf {
    or_fail(made(env::NODE_MODULES, "node", "node_modules"))
}

/// A Lambda function in Rust on AWS's own client: `tests/clients/rust`, built.
///
/// # Panics
/// It has not been made; the text says which command makes it.
#[must_use]
pub fn rust_function() -> PathBuf {
    or_fail(made(env::RUST_FUNCTION, "rust", "debug/weft-test-lambda-rust"))
}

/// The example `examples/rust-lambda`, built beside [`rust_function`].
///
/// # Panics
/// As [`rust_function`].
#[must_use]
pub fn rust_example() -> PathBuf {
    let path = rust_function().with_file_name("weft-example-rust-lambda");
    or_fail(
        path.is_file()
            .then_some(path)
            .ok_or_else(|| Error::new("the Rust example is not built: run `cargo xtask clients`")),
    )
}

/// The program `node`.
///
/// # Panics
/// It is not installed; the text says which package brings it.
#[must_use]
pub fn node() -> PathBuf {
    or_fail(NODE.find())
}

/// What the variable names, else what stands finished under `target/clients/`.
fn made(variable: &str, folder: &str, inside: &str) -> Result<PathBuf, Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = env::get(variable).map_or_else(
        || {
            let folder = root.join("target/clients").join(folder);
            // Written last: without it the folder is unfinished.
            folder.join("made-from").is_file().then(|| folder.join(inside))
        },
        |path| Some(PathBuf::from(path)),
    );
    let missing =
        || Error::new(format!("there is no {inside} for the tests: run `cargo xtask clients`, or set {variable}"));
    let path = path.filter(|path| path.exists()).ok_or_else(missing)?;
    // Not resolved: an interpreter knows its environment by the path that it was started with.
    std::path::absolute(&path).map_err(Error::while_doing(format!("looking at {}", path.display())))
}
