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
