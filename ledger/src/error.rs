//! What can go wrong with a ledger, by what the caller can do about it.

/// A ledger error. Its text never holds a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database cannot be reached, or went away in the middle. Nothing may run or be acked; try again later.
    #[error("reach the ledger at {address}")]
    Unavailable {
        /// The address without credentials.
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database refused the credentials. Trying again is pointless until somebody changes them.
    #[error("log in to the ledger at {address}")]
    Refused {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database's tables are newer than this program.
    #[error("use the ledger: its schema has version {found}, this program knows up to {known}")]
    Newer { found: i64, known: i64 },
    /// The tables are missing or older: `weft migrate` has not run.
    #[error("use the ledger: its schema has version {found}, this program needs {needed}")]
    Older { found: i64, needed: i64 },
    /// Another live dispatcher has this node's name.
    #[error("start node {node}: a dispatcher with this name is running")]
    NodeTaken { node: String },
    /// The address is of no known kind.
    #[error("understand the ledger address {address}: {problem}")]
    Address { address: String, problem: String },
    /// What the database returned is not what this program wrote: a defect or a foreign hand.
    #[error("read the ledger: {what}")]
    Corrupt { what: String },
    /// The database refused a statement.
    #[error("{doing}")]
    Statement {
        /// What the statement was to do, such as `settle invocations`.
        doing: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Whether the database refused a value that it was to hold (a text with a NUL, a row that is too large, a constraint),
    /// so that the same values are refused each time while others are taken. `false` for a database that refuses
    /// everything: a full disk, a missing permission, a server that is read-only.
    pub fn blames_the_values(&self) -> bool {
        let Self::Statement { source, .. } = self else { return false };
        match source.downcast_ref::<sqlx::Error>() {
            Some(sqlx::Error::Encode(_)) => true,
            Some(error) => {
                let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
                code.is_some_and(|code| match code.len() {
                    // SQLSTATE: data exception, integrity constraint, program limit.
                    5 => ["22", "23", "54"].iter().any(|class| code.starts_with(class)),
                    // SQLite, the primary code in the low byte: too big, constraint, mismatch, out of range.
                    _ => code.parse::<u32>().is_ok_and(|code| [18, 19, 20, 25].contains(&(code & 0xff))),
                })
            }
            // It could not be written in our own form.
            None => source.is::<rmp_serde::encode::Error>(),
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Refused { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::NodeTaken { .. }
            | Self::Address { .. }
            | Self::Corrupt { .. }
            | Self::Statement { .. } => false,
        }
    }
}
