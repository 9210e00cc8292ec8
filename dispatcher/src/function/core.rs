//! One function's state and everything that may change it. No I/O: inputs come in, actions go out, and nothing awaits
//! between reading state and writing it.
//!
//! An invocation's life in here:
//!
//! ```text
//!  delivered ─▶ Claiming ─▶ Ready ─▶ Running ─▶ Settling ─▶ (acked, forgotten)
//!                  │ ▲         ▲                   │
//!             busy ▼ │ later   └── released ───────┘
//!                 Parked
//! ```
//!
//! [`super::intake`] holds the steps up to `Ready`, [`super::placing`] those with workers, [`super::settling`] the
//! rest, [`super::deadline`] what does not end in time, [`super::stopping`] the drain.

use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Span;
use weft_ledger::{Claim, OutboxMessage, Owner, Settle};
use weft_schemas::frame::InvocationId;
use weft_schemas::manifest::Function;
use weft_schemas::{DeadLetter, ErrorInfo, Event, Fence, Key, Message, Reason};

use super::callers::Callers;
use super::ordering::Lane;
use super::outage::Outage;
use super::rate::Pace;
use super::replies::{Posting, Waiting};
use super::scaling::Scaling;
use super::timer::Timer;
use super::total::Held;
use crate::admission::{Admission, Admitted};
use crate::broker::{DeliveryId, Names};
use crate::link::{Seen, WorkerId};
use crate::status::FunctionStats;

pub(crate) use super::inputs::{Action, Burial, Input, Now};

/// One key that this dispatcher is busy with.
pub(crate) struct Invocation {
    pub admitted: Admitted,
    /// The delivery that began it and the duplicates that joined it; acked together.
    pub deliveries: Vec<Waiting>,
    /// Same key, other payload, arrived while the claim was still open.
    pub rivals: Vec<(DeliveryId, Admitted)>,
    pub phase: Phase,
    /// How many of `deliveries` were there when the ledger was last asked about it. What joins later may stand for what
    /// came of that very answer, elsewhere: a retry or a redrive. It is not acked on an answer that is not about it.
    pub covered: usize,
    /// On the clock that the machine's processes share, in microseconds.
    pub received_us: u64,
    /// It came from a publisher, neither as a retry of ours nor as a redelivery, and no verdict has counted it yet: if
    /// the ledger knows its key already, it is a duplicate.
    pub fresh: bool,
    /// The event's span in this dispatcher, and the one for the step it is in.
    pub span: Span,
    pub step: Span,
    /// Attempts in a row that an outage ended.
    pub outages: u32,
    /// Its claim got no answer, so nothing was started: the next claim counts no attempt for that. Never for a function
    /// that allows one attempt only: it rather dies than runs twice.
    pub interrupted: bool,
    /// How often the ledger has refused the values of its settle.
    pub refusals: u32,
    /// What its last attempt took, for who waits for the answer.
    pub took: Took,
}

/// What an attempt took, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Took {
    /// From the handler's entry to its answer.
    pub ran: Option<Duration>,
    /// The start of its worker, when it waited for that.
    pub init: Option<Duration>,
    /// What was seen of it, when its caller asked for that.
    pub seen: Option<Arc<Seen>>,
}

pub(crate) enum Phase {
    /// Its claim is queued or under way.
    Claiming,
    /// Another owner holds it; asks again at a timer.
    Parked,
    /// Claimed, waiting for a slot. `waited`: none was free when it came. `throttled`: a bound has made it wait. `turn`:
    /// its place in the order of arrival. `since`: when it was claimed.
    Ready {
        claim: Claim,
        since: Instant,
        waited: bool,
        throttled: bool,
        turn: u64,
    },
    Running(Box<Running>),
    /// Its settle is queued or under way.
    Settling {
        claim: Claim,
        settle: Box<Settle>,
        then: AfterSettle,
    },
}

pub(crate) struct Running {
    pub claim: Claim,
    pub id: InvocationId,
    pub worker: WorkerId,
    /// What its time from receive to the handler's entry is a sample of; `None`: it waited for a busy slot, and that
    /// says how busy the function was.
    pub sample: Option<Sampled>,
    /// Our right was lost while it ran: whatever it answers, ask the ledger.
    pub superseded: bool,
    /// When it was handed to its worker.
    pub began: Instant,
    /// When it should have ended by itself at the latest.
    pub overdue_at: Instant,
}

/// Which distribution an attempt's way to its handler belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sampled {
    Cold,
    Warm,
}

/// What a settle that succeeds leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterSettle {
    /// The ledger has it: ack.
    Ack,
    /// It was released: hand it back, or claim it anew.
    Release,
    /// It was released because of an outage: claim it anew after a while.
    Wait(Duration),
}

/// One worker process as the loop sees it.
pub(crate) struct WorkerState {
    pub phase: WorkerPhase,
    /// Invocations by their name on the link.
    pub running: BTreeMap<InvocationId, Key>,
    /// Those of `running` that are of one call, for each call; empty where the function takes single events.
    pub calls: Vec<Vec<InvocationId>>,
    /// It runs something that must not have neighbours.
    pub alone: bool,
    /// It has not answered anything yet: what it runs has waited for its start.
    pub fresh: bool,
    /// One of its attempts ignored its deadline: it is killed when the others have had time to end. See
    /// [`super::deadline`].
    pub condemned: bool,
    /// Killed by us, for no fault of what still runs in it.
    pub killed: bool,
    /// From its start until it was ready; `None` before.
    pub init: Option<Duration>,
    pub idle_since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkerPhase {
    Starting,
    Up,
    /// No new work; leaves when it has finished.
    Draining,
}

/// What bounds a function in this dispatcher.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Workers at most.
    pub workers: u32,
    /// Invocations at once at most; `u32::MAX`: as many as its workers have slots.
    pub reserved: u32,
    /// Deliveries that the broker hands out at once at most.
    pub prefetch: u32,
    /// Starts of workers under way at once, at most.
    pub starts: u32,
    /// The node's budget is shared with other functions: workers are asked for.
    pub shared: bool,
    /// How long a drain waits for what runs.
    pub drain: Duration,
}

/// Failures of the ledger in a row that the admin port is told of: fewer are over before anybody looks.
const TOLD_AFTER: u32 = 3;

/// One function's state. Owned by [`super::task::run`] alone.
pub(crate) struct Core {
    pub(super) function: Arc<Function>,
    pub(super) names: Names,
    /// Its work queue's name.
    pub(super) queue: String,
    pub(super) prefix: String,
    pub(super) admission: Admission,
    pub(super) bounds: Bounds,
    pub(super) stats: Arc<FunctionStats>,
    pub(super) random: fastrand::Rng,

    pub(super) owner: Option<Owner>,
    pub(super) invocations: HashMap<Key, Invocation>,
    /// Keys whose claim is to be asked for, in order of arrival.
    pub(super) to_claim: VecDeque<Key>,
    pub(super) claiming: bool,
    /// Who claims, while a claim is under way: what is granted to an owner that we are no longer must not run.
    pub(super) claiming_as: Option<Owner>,
    pub(super) to_settle: VecDeque<Key>,
    pub(super) settling: bool,
    pub(super) to_bury: Vec<Burial>,
    pub(super) burying: bool,
    /// Burials whose values the ledger refuses; each is tried again by itself, at a timer.
    pub(super) refused_burials: Vec<Burial>,
    pub(super) to_post: Vec<Posting>,
    pub(super) posting: bool,
    /// Failures of the ledger in a row; nothing is asked of it until `ledger_again`.
    pub(super) ledger_failures: u32,
    pub(super) ledger_again: Option<Instant>,
    /// The most rows in the next statement: one after a statement was refused, so that one bad row cannot hold up
    /// the others; then growing again.
    pub(super) batch: usize,

    /// Keys that wait for a slot they may share, and for a worker of their own.
    pub(super) ready: VecDeque<Key>,
    pub(super) ready_alone: VecDeque<Key>,
    pub(super) next_turn: u64,
    pub(super) workers: BTreeMap<WorkerId, WorkerState>,
    pub(super) next_worker: u64,
    pub(super) next_invocation: u64,
    /// Failed starts in a row, and when the next may be tried.
    pub(super) failed_starts: u32,
    pub(super) start_again: Option<Instant>,

    pub(super) outage: Option<Outage>,
    /// `None`: attempts start at any rate.
    pub(super) pace: Option<Pace>,
    pub(super) scaling: Scaling,
    /// `None`: the function has no bound over all dispatchers.
    pub(super) permits: Option<Held>,
    /// Who waits at this dispatcher for its answers.
    pub(super) callers: Callers,
    /// By the ordering key; empty where the function has no order.
    pub(super) lanes: HashMap<String, Lane>,
    /// The newest generation of deliveries that was seen, where there are lanes.
    pub(super) lanes_of: u64,
    /// The timer that is set for a batch that waits for more.
    pub(super) gather: Option<Instant>,

    pub(super) draining: bool,
    pub(super) deliveries_ended: bool,
    pub(super) timers: BinaryHeap<Timer>,
    pub(super) actions: Vec<Action>,
}

impl Core {
    pub(crate) fn new(
        function: Arc<Function>,
        prefix: &str,
        admission: Admission,
        bounds: Bounds,
        stats: Arc<FunctionStats>,
    ) -> Self {
        let pace = Pace::of(function.rate);
        let scaling = Scaling::new(&function);
        let permits = Held::of(function.concurrency.total);
        Self {
            queue: Names::new(prefix).function(&function.name),
            names: Names::new(prefix),
            function,
            prefix: prefix.to_owned(),
            admission,
            bounds,
            stats,
            random: fastrand::Rng::new(),
            owner: None,
            invocations: HashMap::new(),
            to_claim: VecDeque::new(),
            claiming: false,
            claiming_as: None,
            to_settle: VecDeque::new(),
            settling: false,
            to_bury: Vec::new(),
            burying: false,
            refused_burials: Vec::new(),
            to_post: Vec::new(),
            posting: false,
            ledger_failures: 0,
            ledger_again: None,
            batch: super::BATCH,
            ready: VecDeque::new(),
            ready_alone: VecDeque::new(),
            next_turn: 0,
            workers: BTreeMap::new(),
            next_worker: 1,
            next_invocation: 1,
            failed_starts: 0,
            start_again: None,
            outage: None,
            pace,
            scaling,
            permits,
            callers: Callers::default(),
            lanes: HashMap::new(),
            lanes_of: 0,
            gather: None,
            draining: false,
            deliveries_ended: false,
            timers: BinaryHeap::new(),
            actions: Vec::new(),
        }
    }

    /// Takes one input and returns what is to be done about it, in order.
    pub(crate) fn handle(&mut self, input: Input, now: Now) -> Vec<Action> {
        match input {
            Input::Delivered(deliveries) => {
                self.arrived(deliveries.len(), now);
                self.on_delivered(deliveries, now);
            }
            Input::DeliveriesEnded => self.deliveries_ended = true,
            Input::Claimed { keys, result } => self.on_claimed(keys, result, now),
            Input::Settled { keys, result } => self.on_settled(keys, result, now),
            Input::Buried { burials, known, result } => self.on_buried(burials, known, result, now),
            Input::Posted { postings, result } => self.on_posted(postings, result, now),
            Input::Permits { owner, result } => self.on_permits(&owner, result),
            Input::Worker(worker, from) => self.on_worker(worker, from, now),
            Input::Behind(counts) => self.on_behind(counts, now),
            Input::Broker(connected) => self.on_broker(connected),
            Input::Granted(workers) => self.on_granted(workers),
            Input::Owner(owner) => self.on_owner(owner, now),
            Input::CodeChanged => self.replace_workers(),
            Input::Call { call, key } => self.on_call(call, &key),
            Input::CallLeft(call) => self.on_call_left(&call),
            Input::Reserve(bound) => self.on_reserve(bound),
            Input::Tick => self.on_timers(now),
            Input::Drain => self.on_drain(now),
        }
        self.place(now);
        self.scale(now);
        self.ask_ledger(now);
        self.ask_permits(now);
        self.check_stopped();
        self.stats.gauge(
            u32::try_from(self.running()).unwrap_or(u32::MAX),
            u32::try_from(self.ready.len() + self.ready_alone.len()).unwrap_or(u32::MAX),
            u32::try_from(self.workers.len()).unwrap_or(u32::MAX),
        );
        let actions = std::mem::take(&mut self.actions);
        self.count_held(&actions);
        actions
    }

    /// When [`Input::Tick`] is due next.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|timer| timer.at)
    }

    pub(super) fn running(&self) -> usize {
        self.workers.values().map(|worker| worker.running.len()).sum()
    }

    /// Sends the next batches to the ledger, one of each kind at a time: what arrives meanwhile makes the next batch.
    fn ask_ledger(&mut self, now: Now) {
        if self.ledger_again.is_some_and(|again| again > now.mono) {
            return;
        }
        self.ledger_again = None;
        if !self.settling && !self.to_settle.is_empty() {
            self.ask_settle();
        }
        if !self.burying && !self.to_bury.is_empty() {
            self.ask_bury();
        }
        if !self.posting && !self.to_post.is_empty() {
            self.ask_post();
        }
        if !self.claiming && !self.draining && !self.to_claim.is_empty() {
            self.ask_claim();
        }
    }

    /// The ledger did not answer: hold everything back for a while. Nothing is acked, nothing is lost.
    pub(super) fn ledger_failed(&mut self, doing: &'static str, error: &weft_ledger::Error, now: Now) {
        if self.ledger_failures == 0 {
            let error = weft_process::report::chain(error);
            tracing::warn!(function = %self.function.name, doing, error, "ledger does not answer, holding back");
        }
        if !error.is_transient() {
            self.batch = 1;
        }
        self.ledger_failures = self.ledger_failures.saturating_add(1);
        if self.ledger_failures >= TOLD_AFTER {
            self.stats.ledger(Some(weft_process::report::chain(error)));
        }
        let doublings = self.ledger_failures.min(6);
        let wait = Duration::from_millis(50 << doublings).mul_f64(0.8 + 0.4 * self.random.f64());
        let again = now.mono + wait;
        self.ledger_again = Some(again);
        self.timers.push(Timer::new(again, super::timer::What::Ledger));
    }

    pub(super) fn ledger_answered(&mut self) {
        self.batch = self.batch.saturating_mul(2).min(super::BATCH);
        if self.ledger_failures > 0 {
            tracing::info!(function = %self.function.name, "ledger answers again");
            self.ledger_failures = 0;
            self.ledger_again = None;
            self.stats.ledger(None);
        }
    }

    /// Forgets an invocation, and lets those try that waited for its end: rivals, and the next of its lane.
    pub(super) fn forget(&mut self, key: &Key, now: Now) -> Vec<Waiting> {
        let Some(invocation) = self.invocations.remove(key) else { return Vec::new() };
        self.leave_lane(&invocation.admitted, invocation.rivals, now);
        invocation.deliveries
    }

    /// A dead letter and its copy for the dead-letter queue.
    pub(super) fn letter(
        &self,
        of: LetterOf<'_>,
        reason: Reason,
        error: ErrorInfo,
        now: Now,
    ) -> (DeadLetter, OutboxMessage) {
        use weft_schemas::{Attempt, DeadLetterId};
        let function = self.function.name.clone();
        let letter = match of {
            LetterOf::Invocation { admitted, claim } => DeadLetter {
                id: DeadLetterId::of_invocation(&function, &admitted.key, claim.epoch),
                function,
                key: Some(admitted.key.clone()),
                epoch: claim.epoch,
                reason,
                error,
                attempts: claim.attempt,
                first_at: claim.first_seen_at,
                last_at: now.wall,
                trace_id: trace_id(&admitted.message),
                message: admitted.message.clone(),
            },
            LetterOf::Message { key, message } => DeadLetter {
                id: DeadLetterId::of_message(&function, reason, message),
                function,
                key: key.cloned(),
                epoch: weft_schemas::requeue::epoch(message),
                reason,
                error,
                attempts: Attempt(0),
                first_at: now.wall,
                last_at: now.wall,
                trace_id: trace_id(message),
                message: message.clone(),
            },
        };
        let copy = OutboxMessage {
            kind: weft_ledger::OutboxKind::DeadLetter,
            due_in: Duration::ZERO,
            message: letter.to_message(&self.prefix),
        };
        (letter, copy)
    }

    /// An emitted event as it leaves.
    pub(super) fn emitted(&self, mut event: Event, cause: &Event, span: &Span) -> OutboxMessage {
        // The worker has done so, if it is one of ours; another may have forgotten it.
        event.set_depth_after(cause);
        let mut message = event.to_message(&self.names.events(), &event.kind);
        if let (None, Some(context)) = (message.trace_context(), crate::spans::context(span)) {
            message.set_trace_context(&context);
        }
        OutboxMessage { kind: weft_ledger::OutboxKind::Emit, due_in: Duration::ZERO, message }
    }
}

/// What a dead letter is made of.
pub(super) enum LetterOf<'a> {
    Invocation { admitted: &'a Admitted, claim: &'a Claim },
    Message { key: Option<&'a Key>, message: &'a Message },
}

fn trace_id(message: &Message) -> Option<String> {
    message.trace_context().and_then(|context| context.trace_id().map(str::to_owned))
}

/// The message that brings a parked invocation back, with its fence and its key.
pub(super) fn retry(
    admitted: &Admitted,
    prefix: &str,
    function: &Function,
    fence: Fence,
    after: Duration,
) -> OutboxMessage {
    use weft_schemas::requeue;
    let mut message = requeue::retry_message(&admitted.message, prefix, &function.name, fence);
    requeue::carry_key(&mut message, &admitted.key);
    OutboxMessage { kind: weft_ledger::OutboxKind::Retry, due_in: after, message }
}
