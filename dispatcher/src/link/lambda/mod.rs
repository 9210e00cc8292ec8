//! The Lambda link: a worker that speaks AWS Lambda's Runtime API.
//!
//! Each worker has a listener of its own on loopback, which closes with it: what is asked there is asked by that worker, so
//! that no request needs to say whose it is. The rules are in [`machine`] (pure); [`api`] serves them over HTTP/1.1;
//! [`answer`] makes outcomes of bodies. To the pool a Lambda worker is a worker like any other: it gets the same frames and
//! says the same things (see [`super`]).
//!
//! What the Runtime API has no word for is done from outside: an attempt cannot be cancelled, so a worker that goes on after
//! its deadline is replaced; a worker is drained by leaving its question for the next invocation unanswered, and ended when
//! nothing is under way.

pub(crate) mod answer;
mod api;
pub(crate) mod environment;
mod function;
pub(crate) mod machine;
mod peer;
mod report;
pub(crate) mod route;
mod serve;
mod tmp;

use std::path::Path;

use weft_schemas::manifest::Function;

use super::Seen;
use super::current::{Current, Watched, most_memory};

pub use function::Lambda;
pub(super) use serve::{Bound, Drained, Ways, Whose, serve};
pub(crate) use tmp::{TMP, needs_shared_tmp};

/// The folder that a function's workers run in.
pub(super) fn task_root(function: &Function, root: &Path) -> std::io::Result<std::path::PathBuf> {
    std::path::absolute(function.root.as_ref().map_or_else(|| root.to_owned(), |own| root.join(own)))
}
