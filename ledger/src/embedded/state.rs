//! The functions' state in the embedded default: bytes by function and name, guarded by fences.
//!
//! The same semantics as the scripts on Redis. A write under an invocation says which fence it holds; the highest one
//! seen for that invocation is kept, and a write with a lower one is refused. So a paused worker cannot overwrite its
//! successor. Reading is refused likewise, but raises nothing.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{Connection, SqliteConnection};
use weft_schemas::{Fence, FunctionName, Key};

use crate::Error;
use crate::codec::micros;
use crate::sqlite::{File, map, now};

/// Under which right an operation runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    pub function: FunctionName,
    pub key: Key,
    pub fence: Fence,
}

/// Why an operation on state had no effect.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A newer claim of this invocation has touched the state.
    #[error("use the state: a newer claim of this invocation has used it")]
    Fenced,
    /// The stored value is no decimal 64-bit integer, or the sum is out of range.
    #[error("increment {name}: it holds no 64-bit integer, or the sum is out of range")]
    NotANumber { name: String },
    #[error(transparent)]
    Ledger(#[from] Error),
}

/// State in a SQLite file. Several processes may use it at once; each operation is one transaction, which survives
/// kill -9. Counters are stored as decimal text, as in Redis.
pub struct EmbeddedState {
    file: File,
}

enum Change<'a> {
    Set { value: &'a [u8], ttl: Option<Duration> },
    Delete,
    Increment { by: i64 },
    CompareAndSet { expected: Option<&'a [u8]>, value: &'a [u8], ttl: Option<Duration> },
    Expire { ttl: Duration },
}

/// What a change answers, in the form that `once` stores.
enum Answer {
    Done,
    Fact(bool),
    Number(i64),
}

impl Answer {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Done => Vec::new(),
            Self::Fact(fact) => vec![u8::from(*fact)],
            Self::Number(number) => number.to_be_bytes().to_vec(),
        }
    }

    fn read(bytes: &[u8]) -> Self {
        match (bytes, <[u8; 8]>::try_from(bytes)) {
            (_, Ok(number)) => Self::Number(i64::from_be_bytes(number)),
            ([fact], _) => Self::Fact(*fact != 0),
            _ => Self::Done,
        }
    }

    fn fact(&self) -> bool {
        match self {
            Self::Fact(fact) => *fact,
            Self::Done | Self::Number(_) => true,
        }
    }

    fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            Self::Done | Self::Fact(_) => 0,
        }
    }
}

impl EmbeddedState {
    /// Opens the file and creates its tables where they are missing. Safe to repeat.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file cannot be opened, [`Error::Newer`] when its tables are of a newer program.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).await?;
        file.migrate().await?;
        Ok(Self { file })
    }

    /// The value, or `None` when there is none or its time is over.
    ///
    /// # Errors
    /// [`StateError::Fenced`], [`StateError::Ledger`].
    pub async fn get(&self, authority: &Authority, name: &str) -> Result<Option<Bytes>, StateError> {
        let failed = self.file.map("read state");
        let mut writer = self.file.writer().await;
        let connection = &mut *writer;
        let newer: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM state_fence WHERE function = ?1 AND key = ?2 AND fence > ?3)",
        )
        .bind(authority.function.as_str())
        .bind(authority.key.as_str())
        .bind(authority.fence.0)
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
        if newer {
            return Err(StateError::Fenced);
        }
        Ok(read(connection, &authority.function, name, now()).await.map_err(&failed)?.map(Bytes::from))
    }

    /// Reads without any authority: for checks from outside an invocation.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn peek(&self, function: &FunctionName, name: &str) -> Result<Option<Bytes>, Error> {
        let mut writer = self.file.writer().await;
        let value = read(&mut writer, function, name, now()).await.map_err(self.file.map("read state"))?;
        Ok(value.map(Bytes::from))
    }

    /// Sets a value, for ever or for `ttl`.
    ///
    /// # Errors
    /// [`StateError::Fenced`], [`StateError::Ledger`]; then nothing was changed. So for every other operation here.
    pub async fn set(
        &self,
        authority: &Authority,
        name: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<(), StateError> {
        self.change(authority, name, None, Change::Set { value, ttl }).await.map(|_| ())
    }

    /// Deletes a value; answers whether there was one.
    #[allow(clippy::missing_errors_doc)]
    pub async fn delete(&self, authority: &Authority, name: &str) -> Result<bool, StateError> {
        Ok(self.change(authority, name, None, Change::Delete).await?.fact())
    }

    /// Adds to a counter, absent being 0, and answers the sum. The time to live stays.
    #[allow(clippy::missing_errors_doc)]
    pub async fn increment(&self, authority: &Authority, name: &str, by: i64) -> Result<i64, StateError> {
        Ok(self.change(authority, name, None, Change::Increment { by }).await?.number())
    }

    /// Sets a value if the present one is `expected` (`None`: if there is none); answers whether it did.
    #[allow(clippy::missing_errors_doc)]
    pub async fn compare_and_set(
        &self,
        authority: &Authority,
        name: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<bool, StateError> {
        Ok(self.change(authority, name, None, Change::CompareAndSet { expected, value, ttl }).await?.fact())
    }

    /// Lets a value live for `ttl` from now; answers whether there is one.
    #[allow(clippy::missing_errors_doc)]
    pub async fn expire(&self, authority: &Authority, name: &str, ttl: Duration) -> Result<bool, StateError> {
        Ok(self.change(authority, name, None, Change::Expire { ttl }).await?.fact())
    }

    /// [`Self::set`], applied once for each idempotency key and `operation`.
    #[allow(clippy::missing_errors_doc)]
    pub async fn once_set(
        &self,
        authority: &Authority,
        operation: &str,
        name: &str,
        value: &[u8],
        ttl: Option<Duration>,
    ) -> Result<(), StateError> {
        self.change(authority, name, Some(operation), Change::Set { value, ttl }).await.map(|_| ())
    }

    /// [`Self::delete`], applied once for each idempotency key and `operation`; later calls answer as the first did.
    #[allow(clippy::missing_errors_doc)]
    pub async fn once_delete(&self, authority: &Authority, operation: &str, name: &str) -> Result<bool, StateError> {
        Ok(self.change(authority, name, Some(operation), Change::Delete).await?.fact())
    }

    /// [`Self::increment`], applied once for each idempotency key and `operation`; later calls answer the first sum.
    #[allow(clippy::missing_errors_doc)]
    pub async fn once_increment(
        &self,
        authority: &Authority,
        operation: &str,
        name: &str,
        by: i64,
    ) -> Result<i64, StateError> {
        Ok(self.change(authority, name, Some(operation), Change::Increment { by }).await?.number())
    }

    async fn change(
        &self,
        authority: &Authority,
        name: &str,
        once: Option<&str>,
        change: Change<'_>,
    ) -> Result<Answer, StateError> {
        let failed = |error| map(&self.file.address, "write state", error);
        let mut writer = self.file.writer().await;
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let at = now();
        let raised = sqlx::query(
            "INSERT INTO state_fence (function, key, fence, touched_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (function, key) DO UPDATE SET fence = excluded.fence, touched_at = excluded.touched_at
             WHERE excluded.fence >= fence",
        )
        .bind(authority.function.as_str())
        .bind(authority.key.as_str())
        .bind(authority.fence.0)
        .bind(at)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        if raised.rows_affected() == 0 {
            return Err(StateError::Fenced);
        }
        if let Some(operation) = once {
            let first: Option<Vec<u8>> =
                sqlx::query_scalar("SELECT result FROM state_once WHERE function = ?1 AND key = ?2 AND operation = ?3")
                    .bind(authority.function.as_str())
                    .bind(authority.key.as_str())
                    .bind(operation)
                    .fetch_optional(&mut *transaction)
                    .await
                    .map_err(failed)?;
            if let Some(first) = first {
                transaction.commit().await.map_err(failed)?;
                return Ok(Answer::read(&first));
            }
        }
        let answer = apply(&mut transaction, &authority.function, name, at, change)
            .await
            .map_err(failed)?
            .ok_or_else(|| StateError::NotANumber { name: name.to_owned() })?;
        if let Some(operation) = once {
            sqlx::query(
                "INSERT INTO state_once (function, key, operation, result, done_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .bind(authority.function.as_str())
            .bind(authority.key.as_str())
            .bind(operation)
            .bind(answer.bytes())
            .bind(at)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(answer)
    }
}

async fn read(
    connection: &mut SqliteConnection,
    function: &FunctionName,
    name: &str,
    at: i64,
) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar(
        "SELECT value FROM state WHERE function = ?1 AND name = ?2 AND (expires_at IS NULL OR expires_at > ?3)",
    )
    .bind(function.as_str())
    .bind(name)
    .bind(at)
    .fetch_optional(connection)
    .await
}

/// `None`: the value is not a number.
async fn apply(
    connection: &mut SqliteConnection,
    function: &FunctionName,
    name: &str,
    at: i64,
    change: Change<'_>,
) -> sqlx::Result<Option<Answer>> {
    let expiry = |ttl: Option<Duration>| ttl.map(|ttl| at + micros(ttl));
    Ok(Some(match change {
        Change::Set { value, ttl } => {
            write(connection, function, name, value, expiry(ttl)).await?;
            Answer::Done
        }
        Change::Delete => {
            let existed = read(connection, function, name, at).await?.is_some();
            sqlx::query("DELETE FROM state WHERE function = ?1 AND name = ?2")
                .bind(function.as_str())
                .bind(name)
                .execute(connection)
                .await?;
            Answer::Fact(existed)
        }
        Change::Increment { by } => {
            let present = read(connection, function, name, at).await?;
            let existed = present.is_some();
            let number = match present {
                None => Some(0),
                Some(bytes) => std::str::from_utf8(&bytes).ok().and_then(|text| text.parse::<i64>().ok()),
            };
            let Some(sum) = number.and_then(|number| number.checked_add(by)) else { return Ok(None) };
            let text = sum.to_string();
            if existed {
                sqlx::query("UPDATE state SET value = ?3 WHERE function = ?1 AND name = ?2")
                    .bind(function.as_str())
                    .bind(name)
                    .bind(text.as_bytes())
                    .execute(connection)
                    .await?;
            } else {
                write(connection, function, name, text.as_bytes(), None).await?;
            }
            Answer::Number(sum)
        }
        Change::CompareAndSet { expected, value, ttl } => {
            let present = read(connection, function, name, at).await?;
            let equal = present.as_deref() == expected;
            if equal {
                write(connection, function, name, value, expiry(ttl)).await?;
            }
            Answer::Fact(equal)
        }
        Change::Expire { ttl } => {
            let existed = read(connection, function, name, at).await?.is_some();
            if existed {
                sqlx::query("UPDATE state SET expires_at = ?3 WHERE function = ?1 AND name = ?2")
                    .bind(function.as_str())
                    .bind(name)
                    .bind(at + micros(ttl))
                    .execute(connection)
                    .await?;
            }
            Answer::Fact(existed)
        }
    }))
}

async fn write(
    connection: &mut SqliteConnection,
    function: &FunctionName,
    name: &str,
    value: &[u8],
    expires_at: Option<i64>,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO state (function, name, value, expires_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (function, name) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at",
    )
    .bind(function.as_str())
    .bind(name)
    .bind(value)
    .bind(expires_at)
    .execute(connection)
    .await?;
    Ok(())
}
