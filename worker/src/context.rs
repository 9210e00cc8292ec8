//! What a handler knows of its attempt and may do in it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_schemas::frame::Invoke;
use weft_schemas::{Attempt, Digest, Epoch, Event, Fence, FunctionName, Key};

use crate::emit::{Emitter, MAX_EMITS_BYTES};
use crate::failure::Failure;
use crate::services::Services;
use crate::span;
use crate::state::State;
use crate::transaction::Transaction;

/// One attempt, as its handler sees it. Cheap to clone; clones are the same attempt.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    services: Arc<Services>,
    handler: String,
    key: Key,
    fence: Fence,
    epoch: Epoch,
    attempt: Attempt,
    keep: Duration,
    deadline: Instant,
    event: Event,
    cancel: CancellationToken,
    /// Written by the handler's calls, read once by the attempt's end. Never held across an await.
    effects: Mutex<Effects>,
}

/// What the handler has done so far that leaves with the settle.
#[derive(Default)]
pub(crate) struct Effects {
    /// Events that leave when the handler succeeds, outside of any transaction.
    pub(crate) emits: Vec<Event>,
    /// The number of events built so far, in a transaction or not: the next one's index.
    pub(crate) built: u32,
    /// Bytes of event data built so far.
    pub(crate) built_bytes: usize,
    pub(crate) transaction: TransactionState,
    /// The result that the handler's own transaction has settled the invocation with.
    pub(crate) committed: Option<Bytes>,
}

/// Where the attempt's transaction stands; there is at most one at a time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransactionState {
    #[default]
    None,
    Open,
    /// Dropped without commit or rollback: its work is undone, and the handler did not say that it meant that.
    Abandoned,
}

impl Context {
    pub(crate) fn new(services: Arc<Services>, invoke: Invoke, received: Instant) -> Self {
        // A deadline beyond the clock's range is none that could pass.
        let remaining = Duration::from_millis(invoke.remaining_ms).min(Duration::from_secs(24 * 3600));
        Self(Arc::new(Inner {
            services,
            handler: invoke.handler,
            key: invoke.key,
            fence: invoke.fence,
            epoch: invoke.epoch,
            attempt: invoke.attempt,
            keep: Duration::from_millis(invoke.keep_ms),
            deadline: received + remaining,
            event: invoke.event,
            cancel: CancellationToken::new(),
            effects: Mutex::default(),
        }))
    }

    /// The function that runs, as declared in `weft.toml`.
    pub fn function(&self) -> &FunctionName {
        &self.0.services.function
    }

    /// The handler's registered name.
    pub fn handler(&self) -> &str {
        &self.0.handler
    }

    /// The idempotency key: the same for every duplicate and every attempt of this event.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// Which attempt this is, from 1 in each epoch.
    pub fn attempt(&self) -> Attempt {
        self.0.attempt
    }

    /// How often the invocation has been redriven from the dead letters, from 0.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// The number that proves the right to run: every claim of this key has a higher one than all before it. A store that
    /// compares it can refuse a worker that was paused and has been replaced. It changes with each attempt: it is no key.
    pub fn fence(&self) -> Fence {
        self.0.fence
    }

    /// The event as it arrived.
    pub fn event(&self) -> &Event {
        &self.0.event
    }

    /// When the attempt must have answered, on the monotonic clock.
    pub fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// The time left until the deadline; zero once it has passed.
    pub fn remaining(&self) -> Duration {
        self.0.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether the attempt should stop: its deadline has passed, or its right to run is lost. What a handler does after
    /// that no longer counts; it is dropped 250 ms later.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancel.is_cancelled()
    }

    /// Waits until [`Self::is_cancelled`]. Cancel-safe.
    pub async fn cancelled(&self) {
        self.0.cancel.cancelled().await;
    }

    /// A token to hand to code that takes one. Cancelling it has no effect on the attempt.
    pub fn cancellation(&self) -> CancellationToken {
        self.0.cancel.child_token()
    }

    /// A key to hand to an outside service as *its* idempotency key: 64 hexadecimal digits that depend on the
    /// function, the key and `step` only, so that it is the same in every attempt and after every redrive.
    pub fn downstream_key(&self, step: &str) -> String {
        let (function, key) = (self.function().as_str().as_bytes(), self.0.key.as_str().as_bytes());
        Digest::of(&[b"downstream", function, key, step.as_bytes()]).to_hex()
    }

    /// Emits an event of type `kind` (its routing key) with `data` as JSON. It leaves together with the success of this
    /// attempt, in the order of the calls, and not at all if the attempt fails. Repeating the attempt emits events with
    /// the same ids, as long as the handler emits in the same order.
    ///
    /// # Errors
    /// The type is no routing key (1 to 255 bytes, no wildcard), the data does not serialise or is too large
    /// ([`crate::MAX_EMIT_BYTES`] each, [`crate::MAX_EMITS_BYTES`] together), or the invocation has been committed
    /// already. All retryable.
    pub fn emit<D: Serialize + ?Sized>(&self, kind: &str, data: &D) -> Result<(), Failure> {
        let mut effects = self.effects();
        let event = self.build_event(&mut effects, kind, data)?;
        effects.emits.push(event);
        Ok(())
    }

    /// Opens a transaction on the ledger's database. What the handler does in it, the events that it emits through it,
    /// and the success of this invocation take effect together at [`Transaction::commit`], exactly once per key.
    ///
    /// There is at most one open transaction per attempt, and none after a commit. A handler that drops a transaction
    /// without [`Transaction::commit`] or [`Transaction::rollback`] and then returns `Ok` gets a failed attempt of kind
    /// `TransactionNotCommitted`: its work was undone, and a success would hide that.
    ///
    /// # Errors
    /// The database cannot be reached (retryable), the right to run is lost (see [`Failure::is_superseded`]), or a
    /// transaction of this attempt is open or committed (retryable). Cancel-safe.
    pub async fn transaction(&self) -> Result<Transaction, Failure> {
        Transaction::begin(self.clone()).await
    }

    /// The function's state: Redis, or the embedded file. Every operation proves the right to run.
    ///
    /// # Errors
    /// The state's address is of no known kind. Nothing connects before the first operation.
    pub async fn state(&self) -> Result<State, Failure> {
        State::of(self.clone()).await
    }

    pub(crate) fn services(&self) -> &Arc<Services> {
        &self.0.services
    }

    pub(crate) fn keep(&self) -> Duration {
        self.0.keep
    }

    /// Tells the handler to stop.
    pub(crate) fn cancel(&self) {
        self.0.cancel.cancel();
    }

    pub(crate) fn effects(&self) -> MutexGuard<'_, Effects> {
        // A panic while the lock is held leaves the effects whole: every change is one assignment or push.
        self.0.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds the next event of this attempt, with the trace context of the current span.
    pub(crate) fn build_event<D: Serialize + ?Sized>(
        &self,
        effects: &mut Effects,
        kind: &str,
        data: &D,
    ) -> Result<Event, Failure> {
        if effects.committed.is_some() {
            return Err(already_committed());
        }
        let emitter = Emitter { function: self.function(), key: self.key(), epoch: self.epoch() };
        let mut event = emitter.event(effects.built, kind, data, Timestamp::now())?;
        let bytes = effects.built_bytes.saturating_add(event.data.len());
        if bytes > MAX_EMITS_BYTES {
            let text = format!("an attempt may emit at most {MAX_EMITS_BYTES} bytes");
            return Err(Failure::retry("EmitTooLarge", text));
        }
        span::stamp(&mut event, self.event());
        event.set_depth_after(self.event());
        effects.built = effects.built.saturating_add(1);
        effects.built_bytes = bytes;
        Ok(event)
    }
}

/// A retry, not an end: the defect is the program's, and a corrected one may be on its way.
pub(crate) fn already_committed() -> Failure {
    Failure::retry("AlreadyCommitted", "the handler has committed its transaction: the invocation is settled")
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("function", self.function())
            .field("key", &self.0.key)
            .field("attempt", &self.0.attempt)
            .field("epoch", &self.0.epoch)
            .finish_non_exhaustive()
    }
}
