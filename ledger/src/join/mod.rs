//! The handler's transaction on the ledger's database: its SQL, its emitted events and the ledger's settle commit
//! together or not at all.
//!
//! Also plain access to the same database, in the same portable terms, for examples and checks. This is no ORM and no
//! dialect translator: SQL is passed on as it is written, with `$1`, `$2`, … as parameters in both databases.

mod value;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::Mutex;
use weft_process::crash::{self, Point};
use weft_schemas::{Fence, FunctionName, Key};

pub use value::{ColumnIndex, FromValue, Row, Value};

use crate::codec::{encode, micros};
use crate::open::{Kind, kind};
use crate::postgres::{self, Outbox};
use crate::sqlite::{self, Turn, path_of};
use crate::{Error, OutboxMessage};

/// What can go wrong in a joined transaction. Unless it is `Unknown`, nothing was committed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A newer claim holds the invocation, or it is settled: this attempt may not write. Everything is rolled back.
    #[error("write as the invocation's holder: a newer claim has it, or it is settled")]
    AuthorityLost,
    /// The connection broke during the commit. Whether it happened can only be read from the ledger, by the fence;
    /// treat the attempt as not settled.
    #[error("learn whether the transaction was committed")]
    Unknown {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database cannot be used: see the error.
    #[error(transparent)]
    Ledger(#[from] Error),
    /// The database refused a statement. The transaction is rolled back when it is dropped.
    #[error("run a statement")]
    Statement {
        /// SQLSTATE in Postgres, the extended result code in SQLite.
        code: Option<String>,
        #[source]
        source: sqlx::Error,
    },
    /// A column cannot be read as asked.
    #[error("read column {column}: {problem}")]
    Column { column: String, problem: &'static str },
}

impl JoinError {
    /// Whether a row with the same unique value exists.
    pub fn is_unique_violation(&self) -> bool {
        match self {
            Self::Statement { source: sqlx::Error::Database(error), .. } => error.is_unique_violation(),
            Self::Statement { .. }
            | Self::AuthorityLost
            | Self::Unknown { .. }
            | Self::Ledger(_)
            | Self::Column { .. } => false,
        }
    }

    /// Whether the same attempt, begun anew, may succeed without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Ledger(error) => error.is_transient(),
            // Serialisation failure, deadlock.
            Self::Statement { code, .. } => matches!(code.as_deref(), Some("40001" | "40P01")),
            Self::AuthorityLost | Self::Unknown { .. } | Self::Column { .. } => false,
        }
    }
}

/// A way to the ledger's database for the code that runs in a worker. Clones share the connections: at most four in
/// Postgres; in SQLite one for transactions (they are serial anyway) and two for the rest. Nothing connects before it is
/// used.
#[derive(Clone)]
pub struct Joiner {
    address: String,
    pools: Pools,
}

#[derive(Clone)]
enum Pools {
    Postgres { pool: PgPool, queue: Arc<Queue> },
    Sqlite { path: PathBuf, transactions: SqlitePool, plain: SqlitePool },
}

/// What those that wait for a place in a pool share.
struct Queue {
    options: PgConnectOptions,
    /// When the server was last asked for a sign of life, and whether it gave one.
    asked: Mutex<Option<(Instant, bool)>>,
}

impl Queue {
    /// Whether the server takes a connection. Of all that wait one asks, or as many as wait would connect at once.
    ///
    /// # Errors
    /// Why it takes none, for the one that asked.
    async fn server_answers(&self, address: &str) -> Result<bool, Error> {
        let mut asked = self.asked.lock().await;
        if let Some((at, answered)) = *asked
            && at.elapsed() < postgres::ACQUIRE
        {
            return Ok(answered);
        }
        let answer = postgres::preflight(address, &self.options).await;
        *asked = Some((Instant::now(), answer.is_ok()));
        let _ = answer?.close().await;
        Ok(true)
    }
}

enum Open {
    Postgres(Transaction<'static, sqlx::Postgres>),
    Sqlite(Transaction<'static, sqlx::Sqlite>),
}

/// A transaction that holds an invocation's right to write. Dropped: rolled back.
///
/// On SQLite it keeps every other writer of the file out until it ends: keep it short.
pub struct Joined {
    open: Open,
    address: String,
    function: FunctionName,
    key: Key,
    fence: Fence,
    /// After `open`, so that it ends after the transaction has.
    _turn: Option<Turn>,
}

/// How long a transaction waits for its turn in SQLite, where writers are serial.
const TURN: Duration = Duration::from_secs(15);

impl Joiner {
    /// Prepares connections to `postgres://…` or `sqlite://path`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`] when the address cannot be understood. Nothing is connected yet.
    pub fn connect(url: &str) -> Result<Self, Error> {
        match kind(url)? {
            Kind::Postgres => {
                // A handler may run for 15 minutes; what idles longer inside a transaction is lost.
                let options =
                    postgres::options(url, "weft-worker")?.options([("idle_in_transaction_session_timeout", "16min")]);
                let pools = Pools::Postgres {
                    pool: postgres::pool(options.clone(), 4),
                    queue: Arc::new(Queue { options, asked: Mutex::new(None) }),
                };
                Ok(Self { address: postgres::redacted(url), pools })
            }
            Kind::Sqlite => {
                let path: PathBuf = path_of(url)?;
                let options = sqlite::options(&path).busy_timeout(TURN);
                let pool = |size| {
                    let options = SqlitePoolOptions::new().max_connections(size).acquire_timeout(TURN);
                    // One that believes to be in a transaction for ever is replaced: see `File::writer`.
                    options.before_acquire(|connection, _| {
                        Box::pin(async move {
                            if connection.is_in_transaction() {
                                connection.ping().await?;
                            }
                            Ok(!connection.is_in_transaction())
                        })
                    })
                };
                let address = format!("sqlite://{}", path.display());
                let pools = Pools::Sqlite {
                    path,
                    transactions: pool(1).connect_lazy_with(options.clone()),
                    plain: pool(2).connect_lazy_with(options),
                };
                Ok(Self { address, pools })
            }
        }
    }

    /// Address without credentials, for messages.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Begins the invocation's transaction, if `fence` still holds the claim.
    ///
    /// # Errors
    /// [`JoinError::AuthorityLost`]: stop this attempt. [`JoinError::Ledger`]: the database cannot be used.
    pub async fn begin(&self, function: &FunctionName, key: &Key, fence: Fence) -> Result<Joined, JoinError> {
        let doing = "begin the handler's transaction";
        // An early look only; what counts is the settle.
        let mut turn = None;
        let (open, held) = match &self.pools {
            Pools::Postgres { pool, queue } => {
                let mut transaction = loop {
                    match pool.begin().await {
                        Ok(transaction) => break transaction,
                        // A pool that cannot connect only says that it waited in vain. When the server answers, the
                        // others' transactions are what is waited for, and the attempt's deadline says how long.
                        Err(sqlx::Error::PoolTimedOut) if queue.server_answers(&self.address).await? => {}
                        Err(error) => return Err(postgres::map(&self.address, doing, error).into()),
                    }
                };
                let held: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT FROM weft.invocation
                                    WHERE function = $1 AND key = $2 AND fence = $3 AND state = 'claimed')",
                )
                .bind(function.as_str())
                .bind(key.as_str())
                .bind(fence.0)
                .fetch_one(&mut *transaction)
                .await
                .map_err(|error| postgres::map(&self.address, doing, error))?;
                (Open::Postgres(transaction), held)
            }
            Pools::Sqlite { path, transactions, .. } => {
                let failed = |error| sqlite::map(&self.address, doing, error);
                turn = Turn::take(path).await;
                let mut transaction = transactions.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
                let held: bool = sqlx::query_scalar(
                    "SELECT EXISTS (SELECT 1 FROM invocation
                                    WHERE function = ?1 AND key = ?2 AND fence = ?3 AND state = 'claimed')",
                )
                .bind(function.as_str())
                .bind(key.as_str())
                .bind(fence.0)
                .fetch_one(&mut *transaction)
                .await
                .map_err(failed)?;
                (Open::Sqlite(transaction), held)
            }
        };
        if !held {
            return Err(JoinError::AuthorityLost);
        }
        Ok(Joined {
            open,
            address: self.address.clone(),
            function: function.clone(),
            key: key.clone(),
            fence,
            _turn: turn,
        })
    }

    /// Runs one statement outside any invocation; answers the number of rows affected.
    ///
    /// # Errors
    /// As [`Joined::execute`].
    pub async fn execute(&self, sql: &str, params: &[Value]) -> Result<u64, JoinError> {
        match &self.pools {
            Pools::Postgres { pool, .. } => {
                let done = value::pg_query(sql, params).execute(pool).await;
                Ok(done.map_err(|error| pg_error(&self.address, error))?.rows_affected())
            }
            Pools::Sqlite { plain, .. } => {
                let done = value::sqlite_query(sql, params).execute(plain).await;
                Ok(done.map_err(|error| sqlite_error(&self.address, error))?.rows_affected())
            }
        }
    }

    /// Runs one query outside any invocation; answers every row.
    ///
    /// # Errors
    /// As [`Joined::execute`].
    pub async fn query(&self, sql: &str, params: &[Value]) -> Result<Vec<Row>, JoinError> {
        match &self.pools {
            Pools::Postgres { pool, .. } => {
                let rows = value::pg_query(sql, params).fetch_all(pool).await;
                value::pg_rows(&rows.map_err(|error| pg_error(&self.address, error))?)
            }
            Pools::Sqlite { plain, .. } => {
                let rows = value::sqlite_query(sql, params).fetch_all(plain).await;
                value::sqlite_rows(&rows.map_err(|error| sqlite_error(&self.address, error))?)
            }
        }
    }

    /// Runs several statements, separated by semicolons and without parameters, in one transaction: for set-up.
    ///
    /// # Errors
    /// As [`Joined::execute`]; then none of them had an effect.
    pub async fn run_script(&self, sql: &str) -> Result<(), JoinError> {
        let script = || sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        match &self.pools {
            Pools::Postgres { pool, .. } => {
                let failed = |error| pg_error(&self.address, error);
                let mut transaction = pool.begin().await.map_err(failed)?;
                script().execute(&mut *transaction).await.map_err(failed)?;
                transaction.commit().await.map_err(failed)
            }
            Pools::Sqlite { plain, .. } => {
                let failed = |error| sqlite_error(&self.address, error);
                let mut transaction = plain.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
                script().execute(&mut *transaction).await.map_err(failed)?;
                transaction.commit().await.map_err(failed)
            }
        }
    }

    /// Closes the connections; waits for those in use.
    pub async fn close(&self) {
        match &self.pools {
            Pools::Postgres { pool, .. } => pool.close().await,
            Pools::Sqlite { transactions, plain, .. } => {
                transactions.close().await;
                plain.close().await;
            }
        }
    }
}

impl Joined {
    /// Runs one statement; answers the number of rows affected. `$1` is the first parameter, in both databases.
    ///
    /// # Errors
    /// [`JoinError::Statement`]: in Postgres the transaction then takes nothing but its end.
    /// [`JoinError::Ledger`]: the database cannot be used.
    pub async fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, JoinError> {
        match &mut self.open {
            Open::Postgres(transaction) => {
                let done = value::pg_query(sql, params).execute(&mut **transaction).await;
                Ok(done.map_err(|error| pg_error(&self.address, error))?.rows_affected())
            }
            Open::Sqlite(transaction) => {
                let done = value::sqlite_query(sql, params).execute(&mut **transaction).await;
                Ok(done.map_err(|error| sqlite_error(&self.address, error))?.rows_affected())
            }
        }
    }

    /// Runs one query; answers every row.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, JoinError> {
        match &mut self.open {
            Open::Postgres(transaction) => {
                let rows = value::pg_query(sql, params).fetch_all(&mut **transaction).await;
                value::pg_rows(&rows.map_err(|error| pg_error(&self.address, error))?)
            }
            Open::Sqlite(transaction) => {
                let rows = value::sqlite_query(sql, params).fetch_all(&mut **transaction).await;
                value::sqlite_rows(&rows.map_err(|error| sqlite_error(&self.address, error))?)
            }
        }
    }

    /// The connection inside the transaction, when the ledger is in Postgres. Do not end the transaction on it.
    pub fn postgres(&mut self) -> Option<&mut PgConnection> {
        match &mut self.open {
            Open::Postgres(transaction) => Some(transaction),
            Open::Sqlite(_) => None,
        }
    }

    /// The connection inside the transaction, when the ledger is in SQLite. Do not end the transaction on it.
    pub fn sqlite(&mut self) -> Option<&mut SqliteConnection> {
        match &mut self.open {
            Open::Postgres(_) => None,
            Open::Sqlite(transaction) => Some(transaction),
        }
    }

    /// Settles the invocation as `succeeded`, puts `outbox` in the outbox and commits, all in one. The result is kept
    /// for `keep` from now.
    ///
    /// # Errors
    /// [`JoinError::AuthorityLost`]: rolled back, effects included. [`JoinError::Unknown`]: the connection broke during
    /// the commit. Anything else: rolled back. Dropped half-way the outcome is unknown, too.
    pub async fn settle(self, result: Bytes, keep: Duration, outbox: Vec<OutboxMessage>) -> Result<(), JoinError> {
        let (address, function, key, fence) = (self.address, self.function, self.key, self.fence);
        match self.open {
            Open::Postgres(mut transaction) => {
                let mut columns = Outbox::default();
                outbox.iter().try_for_each(|message| columns.push(1, None, message))?;
                let done = sqlx::query(
                    "WITH done AS (
                         UPDATE weft.invocation SET
                             state = 'succeeded', result = $4, error_kind = NULL, error_message = NULL,
                             expires_at = clock_timestamp() + $5 * interval '1 microsecond',
                             updated_at = clock_timestamp()
                         WHERE function = $1 AND key = $2 AND fence = $3 AND state = 'claimed'
                         RETURNING 1
                     ), posted AS (
                         INSERT INTO weft.outbox (due_at, kind, message)
                         SELECT statement_timestamp() + o.due_us * interval '1 microsecond', o.kind, o.message
                         FROM unnest($6::bigint[], $7::text[], $8::bytea[]) WITH ORDINALITY
                              AS o(due_us, kind, message, place)
                         WHERE EXISTS (SELECT FROM done)
                         ORDER BY o.place
                     )
                     SELECT 1 FROM done",
                )
                .bind(function.as_str())
                .bind(key.as_str())
                .bind(fence.0)
                .bind(result.as_ref())
                .bind(micros(keep))
                .bind(columns.due_us)
                .bind(columns.kind)
                .bind(columns.message)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(|error| pg_error(&address, error))?;
                if done.is_none() {
                    // Dropping would roll back as well, but later.
                    let _ = transaction.rollback().await;
                    return Err(JoinError::AuthorityLost);
                }
                // A deferred constraint may still say no, which is a definite answer.
                crash::point(Point::BeforeCommit);
                transaction.commit().await.map_err(|error| match error {
                    sqlx::Error::Database(_) => pg_error(&address, error),
                    lost => JoinError::Unknown { source: Box::new(lost) },
                })
            }
            Open::Sqlite(mut transaction) => {
                let mut messages = Vec::with_capacity(outbox.len());
                for message in &outbox {
                    messages.push((message, encode(&message.message)?));
                }
                let failed = |error| sqlite_error(&address, error);
                let at = sqlite::now();
                let done = sqlx::query(
                    "UPDATE invocation SET
                         state = 'succeeded', result = ?4, error_kind = NULL, error_message = NULL,
                         expires_at = ?5, updated_at = ?6
                     WHERE function = ?1 AND key = ?2 AND fence = ?3 AND state = 'claimed'",
                )
                .bind(function.as_str())
                .bind(key.as_str())
                .bind(fence.0)
                .bind(result.as_ref())
                .bind(at + micros(keep))
                .bind(at)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
                if done.rows_affected() == 0 {
                    let _ = transaction.rollback().await;
                    return Err(JoinError::AuthorityLost);
                }
                sqlite::post(&mut transaction, at, None, &messages).await.map_err(failed)?;
                crash::point(Point::BeforeCommit);
                transaction.commit().await.map_err(|error| match error {
                    sqlx::Error::Database(_) => sqlite_error(&address, error),
                    lost => JoinError::Unknown { source: Box::new(lost) },
                })
            }
        }
    }

    /// Gives up every effect. Dropping does the same a little later.
    ///
    /// # Errors
    /// [`JoinError::Ledger`]: the connection is gone, which rolls back as well.
    pub async fn rollback(self) -> Result<(), JoinError> {
        match self.open {
            Open::Postgres(transaction) => transaction.rollback().await.map_err(|error| pg_error(&self.address, error)),
            Open::Sqlite(transaction) => {
                transaction.rollback().await.map_err(|error| sqlite_error(&self.address, error))
            }
        }
    }
}

/// A user's statement that the database refused keeps its own error; trouble with the database becomes the ledger's.
fn pg_error(address: &str, error: sqlx::Error) -> JoinError {
    let code = postgres::code(&error);
    match code.as_deref() {
        Some(text) if !["08", "28", "3D", "53", "57P"].iter().any(|class| text.starts_with(class)) => {
            JoinError::Statement { code, source: error }
        }
        Some(_) => postgres::map(address, "run a statement", error).into(),
        None => trouble(error, |error| postgres::map(address, "run a statement", error)),
    }
}

fn sqlite_error(address: &str, error: sqlx::Error) -> JoinError {
    let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    // Busy, locked, I/O, full.
    let primary = code.as_deref().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    match primary {
        Some(5 | 6 | 10 | 13) => sqlite::map(address, "run a statement", error).into(),
        Some(_) => JoinError::Statement { code, source: error },
        None => trouble(error, |error| sqlite::map(address, "run a statement", error)),
    }
}

fn trouble(error: sqlx::Error, map: impl Fn(sqlx::Error) -> Error) -> JoinError {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => map(error).into(),
        source => JoinError::Statement { code: None, source },
    }
}
