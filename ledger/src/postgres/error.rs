//! From SQLSTATE to what the caller can do about it.

use crate::Error;

/// Versions: see `migrate`.
use super::migrate::KNOWN;

/// Deadlock or serialisation failure: the same statement may succeed at once.
pub(crate) fn is_contention(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01"))
}

pub(crate) fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()))
}

pub(crate) fn map(address: &str, doing: &'static str, error: sqlx::Error) -> Error {
    let address = address.to_owned();
    let Some(code) = code(&error) else {
        return match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
                Error::Corrupt { what: format!("{doing}: {error}") }
            }
            sqlx::Error::Configuration(_) => {
                Error::Address { address, problem: "it is not a Postgres address".to_owned() }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Error::Unavailable { address, source: Box::new(error) },
            other => Error::Statement { doing, source: Box::new(other) },
        };
    };
    match code.as_str() {
        // The server has answered; the classes are in Postgres' appendix A.
        code if code.starts_with("28") => Error::Refused { address, source: Box::new(error) },
        "3D000" => Error::Address { address, problem: "the database does not exist".to_owned() },
        "42P01" | "3F000" | "42703" => Error::Older { found: 0, needed: KNOWN },
        // Connection trouble, no resources, operator intervention (shutdown, statement time-out), a lock waited for too
        // long, a stand-by that is read-only yet, contention that did not go away.
        code if ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class)) => {
            Error::Unavailable { address, source: Box::new(error) }
        }
        "55P03" | "25006" | "25P03" => Error::Unavailable { address, source: Box::new(error) },
        _ => Error::Statement { doing, source: Box::new(error) },
    }
}
