//! Why a figure could not be measured: a text for a person; nothing branches on it.

use weft_process::report::chain;

/// What went wrong. Deliberately no [`std::error::Error`], so that `?` takes every error there is.
#[derive(Debug)]
pub struct Fault(pub String);

pub type Result<T> = std::result::Result<T, Fault>;

impl<E: std::error::Error + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}

/// Fails with `text` unless `holds`.
pub fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Fault(text())) }
}
