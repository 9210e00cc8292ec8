//! Opening the file.

use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use super::Sqlite;
use super::turn::Turn;
use crate::Error;
use crate::verdict::Doubts;

/// How long a writer waits for the writer of another process.
pub(crate) const BUSY: Duration = Duration::from_secs(5);

/// The path in `sqlite://path` or `sqlite:path`. Parameters (`?…`) are ignored.
///
/// # Errors
/// [`Error::Address`] when the path is empty or names memory, which no second process could share.
pub(crate) fn path_of(url: &str) -> Result<PathBuf, Error> {
    let rest = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).unwrap_or(url);
    let path = rest.split('?').next().unwrap_or_default();
    if path.is_empty() || path.starts_with(":memory") {
        return Err(Error::Address {
            address: url.to_owned(),
            problem: "it is not of the form sqlite://path/to/file".to_owned(),
        });
    }
    Ok(PathBuf::from(path))
}

/// `synchronous = NORMAL`: every commit survives kill -9 of any process; a power cut may undo the last commits, all of
/// them from some moment on, but never tear the file. Waiting for the disk at each commit would cost a newcomer's first
/// run most of its time; who needs more has the real services.
pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY)
        .foreign_keys(false)
        .disable_statement_logging()
}

/// This machine's clock in microseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn map(address: &str, doing: &'static str, error: sqlx::Error) -> Error {
    let address = address.to_owned();
    match &error {
        sqlx::Error::Database(database) => {
            let message = database.message().to_owned();
            // The primary result code is the low byte: 5 busy, 6 locked, 10 I/O, 13 disk full, 14 cannot open.
            let code = database.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
            match code {
                Some(5 | 6 | 10 | 13) => Error::Unavailable { address, source: Box::new(error) },
                Some(14) => Error::Unavailable { address, source: Box::new(error) },
                // Not a database, or a malformed one.
                Some(11 | 26) => Error::Corrupt { what: message },
                _ if message.starts_with("no such table") || message.starts_with("no such column") => {
                    Error::Older { found: 0, needed: super::migrate::KNOWN }
                }
                _ => Error::Statement { doing, source: Box::new(error) },
            }
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
            Error::Corrupt { what: format!("{doing}: {error}") }
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            Error::Unavailable { address, source: Box::new(error) }
        }
        _ => Error::Statement { doing, source: Box::new(error) },
    }
}

/// A SQLite file that this process writes to.
pub(crate) struct File {
    pub address: String,
    path: PathBuf,
    writer: Mutex<SqliteConnection>,
}

/// This process's writing connection, in its turn among all processes.
pub(crate) struct Writer<'a> {
    connection: MutexGuard<'a, SqliteConnection>,
    _turn: Option<Turn>,
}

impl Deref for Writer<'_> {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for Writer<'_> {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl File {
    /// Opens the file, creating it if it is missing; its folder must exist.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let address = format!("sqlite://{}", path.display());
        let failed = |error| map(&address, "open the ledger's file", error);
        let writer = SqliteConnection::connect_with(&options(path)).await.map_err(failed)?;
        Ok(Self { address, path: path.to_owned(), writer: Mutex::new(writer) })
    }

    /// Waits for this process's turn to write.
    ///
    /// SQLite itself ends a transaction that a full disk stopped. The client then fails to roll it back and believes to be
    /// in it for ever, so such a connection is replaced. If that does not work, whatever is asked of it fails, and the
    /// next turn tries again.
    pub async fn writer(&self) -> Writer<'_> {
        let mut connection = self.writer.lock().await;
        if connection.is_in_transaction() {
            // Not if the rollback is only under way: the answer comes after it.
            let _ = connection.ping().await;
            if connection.is_in_transaction()
                && let Ok(another) = SqliteConnection::connect_with(&options(&self.path)).await
            {
                *connection = another;
            }
        }
        Writer { connection, _turn: Turn::take(&self.path).await }
    }

    pub fn map(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> Error + '_ {
        move |error| map(&self.address, doing, error)
    }
}

impl Sqlite {
    /// Opens the file, creating it if it is missing; its folder must exist. Tables are not looked at: see
    /// [`crate::Ledger::check`] and [`crate::Ledger::migrate`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file cannot be opened, [`Error::Corrupt`] when it is no SQLite database.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).await?;
        let readers =
            SqlitePoolOptions::new().max_connections(2).acquire_timeout(BUSY).connect_lazy_with(options(path));
        Ok(Self {
            address: file.address.clone(),
            path: path.to_owned(),
            file: Arc::new(file),
            readers,
            taken: Arc::new(std::sync::Mutex::new(HashSet::new())),
            doubts: Doubts::default(),
        })
    }
}
