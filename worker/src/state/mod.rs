//! A function's state: small values that its invocations share, in Redis or in the embedded file.
//!
//! Every operation, reads too, carries the attempt's fence: once a newer claim of the same key has touched the state, an
//! older one is refused. That is what stops a worker that was paused from overwriting its successor. State is *not* part
//! of [`crate::Transaction`]: what must happen together with the settle belongs there.
//!
//! Deliberately absent: anything that could change the ledger's answer. Losing the state loses values, not invocations.

mod check;
pub(crate) mod embedded;
pub(crate) mod redis;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_process::secret::Address;
use weft_schemas::{Fence, FunctionName, Key};

pub use check::{CheckError, check_state};

use crate::context::Context;
use crate::failure::Failure;
use crate::failure::millis_up;

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// Where the state lives, decided by the scheme of its address.
#[derive(Clone)]
pub(crate) enum Backend {
    Redis(redis::RedisState),
    Embedded(embedded::Embedded),
}

/// Who asks, and for which values.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    /// The installation.
    pub(crate) prefix: String,
    pub(crate) function: FunctionName,
    /// Whose fence is compared, and for whom `once` counts.
    pub(crate) key: Key,
    pub(crate) fence: Fence,
}

/// One operation on one value. Values are JSON text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    Get,
    Set { value: Vec<u8>, ttl_ms: Option<u64>, once_ms: Option<u64> },
    Delete,
    Increment { by: i64, once_ms: Option<u64> },
    CompareAndSet { expected: Option<Vec<u8>>, value: Vec<u8> },
    Expire { ttl_ms: u64 },
}

impl Op {
    /// Whether doing it a second time with the same right leaves what the first left.
    pub(crate) fn is_idempotent(&self) -> bool {
        match self {
            Self::Get | Self::Set { .. } | Self::Delete | Self::Expire { .. } => true,
            Self::Increment { once_ms, .. } => once_ms.is_some(),
            Self::CompareAndSet { .. } => false,
        }
    }
}

/// What an operation answers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// A newer claim of the key has touched this state; nothing was done.
    Stale,
    /// To [`Op::Get`].
    Value(Option<Vec<u8>>),
    /// To [`Op::Increment`].
    Number(i64),
    /// To everything else: whether it changed something.
    Done(bool),
}

/// What an address leads to.
enum Kind {
    Redis,
    Embedded,
}

/// Chooses by the scheme: `redis://` (also `rediss`, `redis+unix`, `unix`) or `sqlite:`.
fn kind(address: &Address) -> Option<Kind> {
    match address.expose().split_once(':')?.0 {
        "redis" | "rediss" | "redis+unix" | "unix" => Some(Kind::Redis),
        "sqlite" => Some(Kind::Embedded),
        _ => None,
    }
}

impl Backend {
    /// Opens what the address leads to. Redis is not connected before the first operation.
    pub(crate) async fn open(address: &Address) -> Result<Self, Failure> {
        match kind(address) {
            Some(Kind::Redis) => redis::RedisState::new(address.clone()).map(Self::Redis),
            Some(Kind::Embedded) => embedded::Embedded::open(address).await.map(Self::Embedded),
            None => Err(Failure::retry("State", format!("use the state: {address} is of no known kind"))),
        }
    }
}

/// Reads one value of a function's state from outside of any invocation, unfenced: for checks and for looking. The
/// bytes are the value's JSON. It opens a connection of its own.
///
/// # Errors
/// The address is of no known kind, or the store cannot be used.
pub async fn peek_state(
    address: &Address,
    prefix: &str,
    function: &FunctionName,
    name: &str,
) -> Result<Option<Vec<u8>>, Failure> {
    match Backend::open(address).await? {
        Backend::Redis(state) => state.peek(prefix, function, name).await,
        Backend::Embedded(state) => state.peek(function, name).await,
    }
}

/// A function's values by name, as one attempt may touch them. Cheap to clone.
///
/// Names have 1 to 512 bytes and belong to one function: two functions never see each other's values. Values are
/// anything that serde can write as JSON. Every operation is one atomic step, and every error of the store is a
/// retryable [`Failure`]; a lost right to run is a failure with [`Failure::is_superseded`].
#[derive(Clone)]
pub struct State {
    ctx: Context,
    backend: Backend,
}

impl State {
    pub(crate) async fn of(ctx: Context) -> Result<Self, Failure> {
        let backend = ctx.services().state().await?;
        Ok(Self { ctx, backend })
    }

    /// The same operations, each applied once per idempotency key.
    pub fn once(&self) -> Once {
        Once(self.clone())
    }

    /// The connection to Redis, for commands that are not here. It is *unfenced*: a paused worker may overwrite its
    /// successor through it, and keys are not prefixed. Blocking commands stall every other user of the connection.
    /// `None` on the embedded state.
    pub fn raw(&self) -> Option<::redis::aio::ConnectionManager> {
        match &self.backend {
            Backend::Redis(state) => Some(state.connection()),
            Backend::Embedded(_) => None,
        }
    }

    /// The value, or `None` when there is none. Safe to repeat.
    ///
    /// # Errors
    /// The store fails, the right to run is lost, or the value is no `T` (all but the second retryable).
    pub async fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        match self.apply(name, Op::Get).await? {
            Reply::Value(Some(json)) => serde_json::from_slice(&json)
                .map(Some)
                .map_err(|error| Failure::retry("StateNotReadable", format!("the value of {name:?}: {error}"))),
            _ => Ok(None),
        }
    }

    /// Sets the value, for good. Safe to repeat.
    ///
    /// # Errors
    /// The store fails, the right to run is lost, or the value does not serialise.
    pub async fn set<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let op = Op::Set { value: json(name, value)?, ttl_ms: None, once_ms: None };
        self.apply(name, op).await.map(drop)
    }

    /// Sets the value for `ttl` (at least 1 ms; rounded up to milliseconds), counted from now. Safe to repeat.
    ///
    /// # Errors
    /// As for [`Self::set`].
    pub async fn set_for<T: Serialize + ?Sized>(&self, name: &str, value: &T, ttl: Duration) -> Result<(), Failure> {
        let op = Op::Set { value: json(name, value)?, ttl_ms: Some(ttl_ms(ttl)), once_ms: None };
        self.apply(name, op).await.map(drop)
    }

    /// Removes the value; `false` when there was none. Safe to repeat.
    ///
    /// # Errors
    /// The store fails or the right to run is lost.
    pub async fn delete(&self, name: &str) -> Result<bool, Failure> {
        Ok(self.apply(name, Op::Delete).await? == Reply::Done(true))
    }

    /// Adds `by` to an integer (0 where there is none) and returns the sum. Keeps the time to live. *Not* safe to
    /// repeat: a later attempt adds again. For counting an event once, use [`Self::once`].
    ///
    /// # Errors
    /// The store fails, the right to run is lost, the value is no integer, or the sum leaves the range of `i64`.
    pub async fn increment(&self, name: &str, by: i64) -> Result<i64, Failure> {
        number(self.apply(name, Op::Increment { by, once_ms: None }).await?)
    }

    /// Sets the value if it is `expected` (`None`: if there is none), and says whether it did. Values are compared as
    /// the JSON text that serde writes, so a type whose text varies (such as one with a `HashMap`) never matches
    /// reliably. A set value lives for good. Not safe to repeat: the second call answers `false`.
    ///
    /// # Errors
    /// As for [`Self::set`].
    pub async fn compare_and_set<T: Serialize + ?Sized>(
        &self,
        name: &str,
        expected: Option<&T>,
        value: &T,
    ) -> Result<bool, Failure> {
        let expected = expected.map(|value| json(name, value)).transpose()?;
        let op = Op::CompareAndSet { expected, value: json(name, value)? };
        Ok(self.apply(name, op).await? == Reply::Done(true))
    }

    /// Lets the value live for `ttl` more (at least 1 ms; rounded up to milliseconds); `false` when there is none.
    ///
    /// # Errors
    /// The store fails or the right to run is lost.
    pub async fn expire(&self, name: &str, ttl: Duration) -> Result<bool, Failure> {
        Ok(self.apply(name, Op::Expire { ttl_ms: ttl_ms(ttl) }).await? == Reply::Done(true))
    }

    async fn apply(&self, name: &str, op: Op) -> Result<Reply, Failure> {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            let text = format!("a name in the state has 1 to {MAX_NAME_BYTES} bytes, this one {}", name.len());
            return Err(Failure::retry("InvalidStateName", text));
        }
        let scope = self.scope();
        let reply = match &self.backend {
            Backend::Redis(state) => state.apply(&scope, name, &op).await,
            Backend::Embedded(state) => state.apply(&scope, name, &op).await,
        };
        match reply? {
            Reply::Stale => {
                self.ctx.cancel();
                Err(Failure::superseded("use the state: a newer claim of the key has used it"))
            }
            reply => Ok(reply),
        }
    }

    fn scope(&self) -> Scope {
        Scope {
            prefix: self.ctx.services().prefix.clone(),
            function: self.ctx.function().clone(),
            key: self.ctx.key().clone(),
            fence: self.ctx.fence(),
        }
    }
}

/// Operations that are applied once per idempotency key, however many attempts ask: a repetition answers what the first
/// did and changes nothing. One operation per kind and name counts; the same name twice in one handler is a repetition.
///
/// What was applied is remembered at least for the function's `idempotency.keep`, counted from the last time it was
/// asked for. So `keep` must not be shorter than the longest wait between two attempts (`retry.backoff.max`), nor than
/// the time after which dead letters are redriven.
#[derive(Clone)]
pub struct Once(State);

impl Once {
    /// [`State::increment`], once. A repetition answers the first sum. Safe to repeat.
    ///
    /// # Errors
    /// As for [`State::increment`].
    pub async fn increment(&self, name: &str, by: i64) -> Result<i64, Failure> {
        number(self.0.apply(name, Op::Increment { by, once_ms: Some(self.keep_ms()) }).await?)
    }

    /// [`State::set`], once: a repetition does not overwrite what others have set since. Safe to repeat.
    ///
    /// # Errors
    /// As for [`State::set`].
    pub async fn set<T: Serialize + ?Sized>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let op = Op::Set { value: json(name, value)?, ttl_ms: None, once_ms: Some(self.keep_ms()) };
        self.0.apply(name, op).await.map(drop)
    }

    fn keep_ms(&self) -> u64 {
        ttl_ms(self.0.ctx.keep())
    }
}

fn json<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value)
        .map_err(|error| Failure::retry("StateNotSerializable", format!("the value for {name:?}: {error}")))
}

fn number(reply: Reply) -> Result<i64, Failure> {
    match reply {
        Reply::Number(sum) => Ok(sum),
        _ => Err(Failure::retry("State", "the state answered an increment without a number")),
    }
}

/// At least 1 ms, at most 100 years: what every store takes.
fn ttl_ms(ttl: Duration) -> u64 {
    millis_up(ttl).clamp(1, 100 * 365 * 24 * 3600 * 1000)
}
