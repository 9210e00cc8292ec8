//! What the core of a function is told, and what it wants done.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use weft_ledger::{ClaimRequest, OutboxMessage, Owner, PermitAsk, Permits, Settle, Settled, Verdict};
use weft_schemas::frame::{InvocationId, Invoke};
use weft_schemas::{DeadLetter, Key};

use super::callers::{CallId, Entry};
use super::replies::{Posting, Waiting};
use crate::admission::Admitted;
use crate::broker::{Counts, Delivery, DeliveryId};
use crate::link::{FromWorker, WorkerId};
use crate::scale::Wish;

/// The two clocks, read once for each input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub mono: Instant,
    /// The clock that all processes of the machine share, in microseconds.
    pub shared_us: u64,
    pub wall: Timestamp,
}

impl Now {
    pub(crate) fn read() -> Self {
        let shared = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let shared_us = Duration::try_from(shared).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0));
        Self { mono: Instant::now(), shared_us, wall: Timestamp::now() }
    }
}

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Input {
    Delivered(Vec<Delivery>),
    /// The consumer has stopped and everything it had buffered has been handed over.
    DeliveriesEnded,
    Claimed {
        keys: Vec<Key>,
        result: Result<Vec<Verdict>, weft_ledger::Error>,
    },
    Settled {
        keys: Vec<Key>,
        result: Result<Vec<Settled>, weft_ledger::Error>,
    },
    Buried {
        burials: Vec<Burial>,
        /// Those that were not buried, because the ledger has their rows.
        known: Vec<Burial>,
        result: Result<(), weft_ledger::Error>,
    },
    Posted {
        postings: Vec<Posting>,
        result: Result<(), weft_ledger::Error>,
    },
    Permits {
        owner: Owner,
        result: Result<Permits, weft_ledger::Error>,
    },
    Worker(WorkerId, FromWorker),
    /// What is at the broker behind the deliveries that are here; `None`: it cannot say.
    Behind(Option<Counts>),
    /// Whether the broker answers.
    Broker(bool),
    /// How many workers the node's budget lets it have.
    Granted(u32),
    /// The right to claim: `None` while the node's lease is not ours.
    Owner(Option<Owner>),
    /// The code of its workers is another one.
    CodeChanged,
    /// A caller of this dispatcher wants to call it.
    Call {
        call: CallId,
        key: Key,
    },
    /// A caller that was let in waits no more.
    CallLeft(CallId),
    /// `concurrency.reserved` is another one; `None`: there is none.
    Reserve(Option<u32>),
    /// A timer is due.
    Tick,
    Drain,
}

/// Something to do.
#[derive(Debug)]
pub(crate) enum Action {
    Claim {
        owner: Owner,
        requests: Vec<ClaimRequest>,
    },
    Settle(Vec<Settle>),
    Bury(Vec<Burial>),
    Post(Vec<Posting>),
    Permits {
        owner: Owner,
        ask: PermitAsk,
    },
    Ack(Vec<DeliveryId>),
    Requeue(Vec<DeliveryId>),
    StopConsuming,
    /// Take so many deliveries at once at most.
    Prefetch(u32),
    /// Whether a call may be made.
    Entry(CallId, Entry),
    /// Ask the broker what is behind the deliveries that are here.
    LookBehind,
    /// Ask the node for workers; it answers at once.
    Wish(Wish),
    Launch(WorkerId),
    Invoke(WorkerId, Box<Invoke>),
    /// One call of a batch handler.
    InvokeBatch(WorkerId, Vec<Invoke>),
    Cancel(WorkerId, InvocationId),
    DrainWorker(WorkerId),
    KillWorker(WorkerId),
    /// Forget it: it has ended.
    WorkerGone(WorkerId),
    WakeRelay,
    ForwardSpans(bytes::Bytes),
    /// Everything is settled or handed back and every worker is gone.
    Stopped,
}

/// A message on its way to the dead letters without ever having been an invocation.
#[derive(Debug, Clone)]
pub(crate) struct Burial {
    pub delivery: Waiting,
    /// How often the ledger has refused its values.
    pub refusals: u32,
    pub letter: DeadLetter,
    pub copy: OutboxMessage,
    /// It was delivered before, and may have been claimed then, when the manifest asked for less: if the ledger has its row,
    /// it is not buried but claimed, and dies by the settle that ends the row.
    pub known_as: Option<Box<Admitted>>,
}
