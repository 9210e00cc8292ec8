//! From an address to a ledger.

use std::sync::Arc;

use crate::postgres::{Postgres, redacted};
use crate::sqlite::{Sqlite, path_of};
use crate::{Error, Ledger};

/// Which kind of ledger an address names.
pub(crate) enum Kind {
    Postgres,
    Sqlite,
}

pub(crate) fn kind(url: &str) -> Result<Kind, Error> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok(Kind::Postgres)
    } else if url.starts_with("sqlite:") {
        Ok(Kind::Sqlite)
    } else {
        Err(Error::Address {
            address: redacted(url),
            problem: "it starts with neither postgres:// nor sqlite://".to_owned(),
        })
    }
}

/// Opens the ledger at `postgres://…`, `postgresql://…`, `sqlite://path` or `sqlite:path`. Safe to repeat.
///
/// A SQLite file is created if it is missing (its folder must exist). Tables are neither created nor looked at: call
/// [`Ledger::migrate`] or [`Ledger::check`] next.
///
/// # Errors
/// [`Error::Unavailable`] within five seconds when the database cannot be reached, [`Error::Refused`] when it does not
/// take the credentials, [`Error::Address`] when the address cannot be understood or the database does not exist.
pub async fn open(url: &str) -> Result<Arc<dyn Ledger>, Error> {
    Ok(match kind(url)? {
        Kind::Postgres => Arc::new(Postgres::connect(url).await?),
        Kind::Sqlite => Arc::new(Sqlite::open(&path_of(url)?).await?),
    })
}
