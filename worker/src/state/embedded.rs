//! State in the embedded default's SQLite file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use weft_ledger::embedded::{Authority, EmbeddedState, StateError};
use weft_process::report::chain;
use weft_process::secret::Address;
use weft_schemas::FunctionName;

use super::{Op, Reply, Scope};
use crate::failure::Failure;

/// A name that no value has (names are not empty).
const NO_NAME: &str = "";

#[derive(Clone)]
pub(crate) struct Embedded(Arc<EmbeddedState>);

impl Embedded {
    /// Opens the file of a `sqlite://path` or `sqlite:path` address.
    pub(crate) async fn open(address: &Address) -> Result<Self, Failure> {
        let state = EmbeddedState::open(path(address)).await.map_err(|error| failure(&error.into()))?;
        Ok(Self(Arc::new(state)))
    }

    pub(crate) async fn apply(&self, scope: &Scope, name: &str, op: &Op) -> Result<Reply, Failure> {
        match self.change(scope, name, op).await {
            Err(StateError::Fenced) => Ok(Reply::Stale),
            other => other.map_err(|error| failure(&error)),
        }
    }

    /// Reads a value without any right to run: for checks from outside of an invocation.
    pub(crate) async fn peek(&self, function: &FunctionName, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let value = self.0.peek(function, name).await.map_err(|error| failure(&error.into()))?;
        Ok(value.map(Vec::from))
    }

    async fn change(&self, scope: &Scope, name: &str, op: &Op) -> Result<Reply, StateError> {
        let (function, key) = (scope.function.clone(), scope.key.clone());
        let (state, by) = (&self.0, &Authority { function, key, fence: scope.fence });
        Ok(match op {
            Op::Get => {
                // A read alone raises no fence in the file; a change of nothing does. Done first, so that no write of a
                // predecessor can follow what is read here.
                state.expire(by, NO_NAME, Duration::from_millis(1)).await?;
                Reply::Value(state.get(by, name).await?.map(Vec::from))
            }
            Op::Set { value, ttl_ms, once_ms: None } => {
                state.set(by, name, value, ttl_ms.map(Duration::from_millis)).await?;
                Reply::Done(true)
            }
            Op::Set { value, ttl_ms, once_ms: Some(_) } => {
                let ttl = ttl_ms.map(Duration::from_millis);
                state.once_set(by, &format!("set:{name}"), name, value, ttl).await?;
                Reply::Done(true)
            }
            Op::Delete => Reply::Done(state.delete(by, name).await?),
            Op::Increment { by: amount, once_ms: None } => Reply::Number(state.increment(by, name, *amount).await?),
            Op::Increment { by: amount, once_ms: Some(_) } => {
                Reply::Number(state.once_increment(by, &format!("increment:{name}"), name, *amount).await?)
            }
            Op::CompareAndSet { expected, value } => {
                Reply::Done(state.compare_and_set(by, name, expected.as_deref(), value, None).await?)
            }
            Op::Expire { ttl_ms } => Reply::Done(state.expire(by, name, Duration::from_millis(*ttl_ms)).await?),
        })
    }
}

/// The file of an address.
pub(super) fn path(address: &Address) -> &Path {
    let text = address.expose();
    let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")).unwrap_or(text);
    Path::new(path.split('?').next().unwrap_or(path))
}

/// As with Redis, every error is worth another attempt.
fn failure(error: &StateError) -> Failure {
    match error {
        StateError::Ledger(weft_ledger::Error::Unavailable { .. }) => Failure::outage("StateUnreachable", chain(error)),
        StateError::Ledger(_) | StateError::NotANumber { .. } | StateError::Fenced => {
            Failure::retry("State", chain(error))
        }
    }
}
