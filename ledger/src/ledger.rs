//! The interface of a ledger, which both implementations and one conformance suite share.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use weft_schemas::{
    Attempt, DeadLetter, DeadLetterId, Digest, Epoch, ErrorInfo, Fence, FunctionName, Key, Message, NodeName, Reason,
};

use crate::{Error, PermitAsk, Permits, Usage};

/// Who claims: a node and its incarnation. Claims of an older incarnation of the same node are lapsed at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    pub node: NodeName,
    pub incarnation: i64,
}

/// One event that asks for the right to run.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    pub key: Key,
    pub digest: Digest,
    /// The fence that a retry message carries: proves that it is the retry which a `waiting` row stands for, so that
    /// it may run even if the database clock says that it is early.
    pub resume: Option<Fence>,
    /// The attempt before was cancelled by this node itself, because its lease was lost. If the row is still the lapsed
    /// claim of an earlier incarnation of this node, then taking it over counts neither an attempt nor a crash: an outage
    /// burns no attempt. The fence grows all the same. Anywhere else it changes nothing. Default: `false`.
    pub interrupted: bool,
}

/// The ledger's answer to a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Run it, with this right.
    Run(Claim),
    /// It has succeeded before; here is the result.
    Replay { result: Bytes, epoch: Epoch },
    /// Another live owner holds it, or its row cannot be seen yet. Ask again after `retry_in`.
    Busy { retry_in: Duration },
    /// It waits for a retry, which the outbox holds: this copy is superfluous.
    Deferred { due_in: Duration },
    /// The key is known with another payload. The row is untouched.
    Mismatch,
    /// It was given up; the dead letter holds it.
    Dead,
}

/// The right to run an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub fence: Fence,
    /// From 1 in each epoch; this claim is counted.
    pub attempt: Attempt,
    /// Attempts of this epoch that killed their worker, or vanished with their dispatcher.
    pub crashes: u32,
    pub epoch: Epoch,
    /// When the key was first seen in this epoch, by the database clock.
    pub first_seen_at: Timestamp,
    /// The attempt before this one has no outcome: it vanished with its dispatcher. The ledger remembers it as its latest
    /// failed attempt, of kind [`FailedAttempt::VANISHED`].
    pub vanished: bool,
}

/// A message that leaves once the transaction that wrote it has committed.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxMessage {
    pub kind: OutboxKind,
    /// From now, by the database clock.
    pub due_in: Duration,
    /// Where and what to publish.
    pub message: Message,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxKind {
    Retry,
    DeadLetter,
    Emit,
    Reply,
    Redrive,
}

/// One claimed invocation's end of attempt. Refused unless `fence` is current and the state is `claimed`.
#[derive(Debug, Clone)]
pub struct Settle {
    pub key: Key,
    pub fence: Fence,
    pub to: Settlement,
}

#[derive(Debug, Clone)]
pub enum Settlement {
    /// `succeeded`; the result is kept for `keep` from now. `outbox` holds emitted events and a reply.
    Succeeded { result: Bytes, keep: Duration, outbox: Vec<OutboxMessage> },
    /// `waiting`, with the retry in the outbox (its `due_in` is the wait). Remembered as a failed attempt.
    Waiting { error: ErrorInfo, crashed: bool, retry: OutboxMessage },
    /// `waiting`, with the retry in the outbox, after a crash that a neighbour may be to blame for: a crash and a failed
    /// attempt to remember, and no attempt to count. The next has the same number.
    Spared { error: ErrorInfo, retry: OutboxMessage },
    /// `waiting`, due in `due_in`, and nothing in the outbox: the broker still holds the event, and whoever has it asks
    /// again then. Remembered as a failed attempt; `spared`: and not counted, as [`Self::Spared`].
    Held { error: ErrorInfo, crashed: bool, spared: bool, due_in: Duration },
    /// `dead`, with the dead letter in the ledger and its copy for the dead-letter queue in the outbox. Remembered as a
    /// failed attempt (and as a crash, by its reason), unless `letter.attempts` is less than the claim's attempt: then
    /// the attempt was never started, and the invocation's attempts become those of the letter.
    Dead { letter: Box<DeadLetter>, copy: OutboxMessage },
    /// Handed back unstarted: `waiting`, due now, this claim's attempt not counted. The broker still holds the event.
    Released,
}

/// What became of one [`Settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Done,
    /// Zero rows: the fence is stale or the state is no longer `claimed`. Nothing was written for it.
    AuthorityLost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OutboxId(pub i64);

/// An outbox row that is due.
#[derive(Debug, Clone)]
pub struct Due {
    pub id: OutboxId,
    pub kind: OutboxKind,
    pub message: Message,
    /// How often publishing it has failed.
    pub tries: u32,
}

/// Rows taken for publishing. Dropping it unfinished gives them back untouched (they may be published again).
#[async_trait]
pub trait DueBatch: Send {
    fn rows(&self) -> &[Due];
    /// Deletes what was published; counts a failed try and sets a later due time for the rest that is named.
    async fn finish(
        self: Box<Self>,
        published: &[OutboxId],
        failed: &[(OutboxId, Duration, String)],
    ) -> Result<(), Error>;
}

/// Where an invocation stands. `Waiting` and `Claimed` never expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Claimed,
    Waiting,
    Succeeded,
    Dead,
}

/// An invocation as `weft invocations` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct InvocationRecord {
    pub function: FunctionName,
    pub key: Key,
    pub state: State,
    pub attempt: Attempt,
    pub crashes: u32,
    pub fence: Fence,
    pub epoch: Epoch,
    /// `node/incarnation` of the last claim.
    pub owner: Option<String>,
    pub error: Option<ErrorInfo>,
    /// The stored result, JSON text.
    pub result: Option<String>,
    /// The payload's, with which the key is known.
    #[serde(skip)]
    pub digest: Digest,
    pub first_seen_at: Timestamp,
    pub updated_at: Timestamp,
    pub due_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// The attempts that failed, oldest first, over all epochs; the latest [`FailedAttempt::KEPT`] are kept.
    pub failures: Vec<FailedAttempt>,
}

/// An attempt that did not succeed, as the ledger remembers it. Of the error's message it keeps 1,024 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttempt {
    pub epoch: Epoch,
    /// From 1 in each epoch.
    pub attempt: Attempt,
    /// It killed its worker, or vanished with its dispatcher.
    pub crashed: bool,
    pub error: ErrorInfo,
    /// By the database clock; for an attempt that vanished, when the next one took over.
    pub ended_at: Timestamp,
    /// The node that ran it.
    pub node: Option<String>,
}

impl FailedAttempt {
    /// How many of an invocation's failed attempts are kept.
    pub const KEPT: usize = 32;
    /// The `error.kind` of an attempt whose dispatcher went away without an outcome.
    pub const VANISHED: &str = "Vanished";
}

/// Which invocations to list, newest change first.
#[derive(Debug, Clone, Default)]
pub struct InvocationQuery {
    pub function: Option<FunctionName>,
    pub key: Option<Key>,
    pub state: Option<State>,
    /// Only what changed after this; for following.
    pub changed_after: Option<Timestamp>,
    /// At most this many; 0 means 100.
    pub limit: u32,
}

/// A dead letter as the ledger holds it.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetterRecord {
    pub letter: DeadLetter,
    /// How often the same thing was buried (a malformed message may arrive twice).
    pub arrivals: u64,
    /// When it was buried last, by the database clock.
    pub buried_at: Timestamp,
    /// Groups letters that died of the same thing: see [`ErrorInfo::fingerprint`].
    pub fingerprint: String,
    pub redriven_at: Option<Timestamp>,
    pub redriven_by: Option<String>,
    /// The key of the edited event that a redrive sent in its stead.
    pub redriven_as: Option<Key>,
    /// When its message was thrown away; `letter.message` is empty then.
    pub purged_at: Option<Timestamp>,
    pub purged_by: Option<String>,
}

/// Which dead letters to list, newest first. Every condition that is set must hold.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterQuery {
    pub id: Option<DeadLetterId>,
    pub function: Option<FunctionName>,
    pub key: Option<Key>,
    pub reason: Option<Reason>,
    /// `error.kind` as the handler named it.
    pub error_kind: Option<String>,
    pub fingerprint: Option<String>,
    /// Buried before this.
    pub before: Option<Timestamp>,
    /// Buried at this time or later.
    pub since: Option<Timestamp>,
    /// Also those that were redriven or purged.
    pub include_closed: bool,
    /// Only those after this one in the list: the last of the page before.
    pub after: Option<(Timestamp, DeadLetterId)>,
    /// At most this many; 0 means 100.
    pub limit: u32,
}

/// Dead letters that died of the same thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadLetterGroup {
    pub function: FunctionName,
    pub reason: Reason,
    pub error_kind: String,
    pub fingerprint: String,
    /// The newest letter's message, as an example.
    pub error_message: String,
    pub count: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

/// How to bring a dead letter back.
#[derive(Debug, Clone)]
pub struct Redrive {
    /// Who does it: kept beside the letter.
    pub by: String,
    pub message: OutboxMessage,
    /// Set when `message` was edited: it runs under this key, and the dead invocation stays dead.
    pub successor: Option<Key>,
}

/// What a redrive did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redriven {
    Done,
    /// It is closed, redriven or purged before; nothing was written.
    Already,
    NotFound,
}

/// Where dead letters were closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedSince {
    /// When it was asked, by the database clock.
    pub at: Timestamp,
    /// Each once.
    pub functions: Vec<FunctionName>,
}

/// What the ledger says of itself at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// The snapshot's time, by the database clock.
    pub at: Timestamp,
    pub functions: Vec<FunctionAudit>,
    /// What cannot be explained by a system at work. Empty when all is well.
    pub differences: Vec<Difference>,
    /// How many differences there are; `differences` may hold fewer.
    pub differences_found: u64,
}

/// One function's books.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionAudit {
    pub function: FunctionName,
    /// Invocations that ever came into being: each is a row now, or was swept.
    pub accepted: u64,
    pub swept: u64,
    /// Claimed by a live owner.
    pub claimed: u64,
    /// Claimed by an owner that is gone: the broker's redelivery takes them over.
    pub lapsed: u64,
    pub waiting: u64,
    pub succeeded: u64,
    pub dead: u64,
    /// Dead letters that are neither redriven nor purged.
    pub open_letters: u64,
    /// Outbox rows of this function's retries and redrives, and of its dead letters' copies.
    pub outbox_runs: u64,
    pub outbox_copies: u64,
    /// Waiting or lapsed invocations with no outbox row, so that only a message at the broker brings them back. Oldest
    /// change first.
    pub at_broker: Vec<AtBroker>,
    pub at_broker_count: u64,
}

/// An invocation that needs a message at the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AtBroker {
    pub key: Key,
    pub state: State,
    pub fence: Fence,
    pub updated_at: Timestamp,
}

/// A contradiction in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub enum Difference {
    /// More invocations were accepted than there are rows and were swept (or fewer): rows were deleted (or made) by hand.
    /// These are counts, so that a row deleted and another made hide each other here.
    Rows { function: FunctionName, accepted: u64, present: u64, swept: u64 },
    /// It is dead, and there is no dead letter for it.
    DeadWithoutLetter { function: FunctionName, key: Key },
    /// A letter of an invocation that is not there.
    LetterWithoutInvocation { function: FunctionName, key: Key, id: DeadLetterId },
    /// A retry or a redrive in the outbox, and its invocation is not there.
    RetryWithoutInvocation { function: FunctionName, key: Key },
    /// An outbox row that was due more than a minute ago, counted from when it was due at first if publishing it fails.
    Overdue { kind: OutboxKind, id: OutboxId, function: Option<FunctionName>, key: Option<Key>, tries: u32 },
}

/// A dispatcher's hold on its node name. The name is proven free by a lock that dies with the process.
#[async_trait]
pub trait NodeSession: Send + Sync {
    fn owner(&self) -> &Owner;
    /// Extends the lease of every claim of this owner by the ledger's lease length, in one statement.
    /// `false`: this incarnation has been superseded or the lock was lost to another: cancel every run.
    async fn renew(&self) -> Result<bool, Error>;
    /// Gives the lease up at once, so that another node may take over what is still claimed.
    async fn leave(&self) -> Result<(), Error>;
}

/// The ledger. All times are the database clock's. Every method may be repeated safely after an error.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Address without credentials, for messages.
    fn address(&self) -> &str;
    /// Creates or upgrades the tables. Returns the versions applied. Safe to run from several processes at once.
    async fn migrate(&self) -> Result<Vec<i64>, Error>;
    /// `Ok` when the tables are of exactly the version that this program knows.
    async fn check(&self) -> Result<(), Error>;
    /// One cheap round trip.
    async fn ping(&self) -> Result<(), Error>;

    /// Takes the node's name and raises its incarnation, which frees what its predecessor had claimed.
    async fn enter(&self, node: &NodeName, lease: Duration) -> Result<Box<dyn NodeSession>, Error>;

    /// Claims a batch for one function: one statement. Verdicts are in the order of the requests.
    /// Keys in a batch must be distinct. At most 1,000 requests.
    async fn claim(
        &self,
        owner: &Owner,
        function: &FunctionName,
        requests: &[ClaimRequest],
    ) -> Result<Vec<Verdict>, Error>;
    /// Settles a batch for one function: one durable transaction. Answers are in the order of the settles.
    async fn settle(&self, function: &FunctionName, settles: &[Settle]) -> Result<Vec<Settled>, Error>;
    /// Buries messages that never became invocations, with their copies for the dead-letter queue. The same letter
    /// twice counts an arrival and sends no second copy.
    async fn bury(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<(), Error>;

    /// Tells what a dispatcher runs and wants of a function that has a bound over all dispatchers, and answers what it may.
    /// The sum of what all hold that may still run something is never more than the bound, save what was running when the
    /// bound was lowered. An owner without a live lease holds nothing. Unanswered, it holds what it had before or what it
    /// asked for, and at least `keep`. May be repeated.
    async fn permits(&self, owner: &Owner, function: &FunctionName, ask: PermitAsk) -> Result<Permits, Error>;

    /// Takes up to `limit` due rows, oldest first. Rows taken by another relay are skipped.
    async fn due(&self, limit: u32) -> Result<Box<dyn DueBatch>, Error>;
    /// How long until the next row is due (zero if one is); `None` when the outbox is empty.
    async fn next_due(&self) -> Result<Option<Duration>, Error>;

    async fn invocations(&self, query: &InvocationQuery) -> Result<Vec<InvocationRecord>, Error>;
    /// Counts by function and state.
    async fn totals(&self) -> Result<Vec<(FunctionName, State, u64)>, Error>;
    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Error>;
    /// Dead letters by function, reason and fingerprint, largest group first. `query.after` is ignored; `limit` bounds
    /// the groups.
    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterGroup>, Error>;
    /// Sets a dead letter's invocation to `waiting` (epoch + 1, attempts from 0) and puts the message in the outbox, in
    /// one transaction. Only the outbox row is written for a letter without an invocation, and for an edited message.
    ///
    /// The invocation is due at once, whatever the message's `due_in`: no claim can find its own redrive early.
    async fn redrive(&self, id: &DeadLetterId, redrive: &Redrive) -> Result<Redriven, Error>;
    /// Throws the messages of open dead letters away and records who did it and when; their invocations stay `dead`.
    /// Returns how many. Unknown ids and letters that are closed already are passed over.
    ///
    /// What is left of a letter is everything but body, properties and headers of its message. Copies in the outbox and
    /// at the broker are not touched. A purged letter cannot be redriven; buried again, it opens with the new message.
    async fn purge(&self, ids: &[DeadLetterId], by: &str) -> Result<u64, Error>;
    /// The functions of which dead letters were redriven or purged at this time or later, with the time of asking.
    async fn closed_since(&self, since: Timestamp) -> Result<ClosedSince, Error>;
    /// Which of these dead letters are closed (redriven or purged). Unknown ids are not. At most 1,000 ids.
    async fn closed_letters(&self, ids: &[DeadLetterId]) -> Result<Vec<DeadLetterId>, Error>;
    /// Puts messages into the outbox by themselves, in one durable transaction: replies to duplicates. Called
    /// again after an error it may post them twice.
    async fn post(&self, messages: &[OutboxMessage]) -> Result<(), Error>;

    /// Looks at the whole ledger in one snapshot. Reads only, blocks nobody; at most `limit` items of each list, where 0
    /// means 100. Reads every invocation once, so that it takes seconds for millions of them.
    async fn audit(&self, limit: u32) -> Result<Audit, Error>;

    /// Writes down what functions have used: each row whole, as it has become. The same row again changes nothing, and one
    /// that says less than what is known lowers nothing.
    async fn write_usage(&self, rows: &[Usage]) -> Result<(), Error>;
    /// What was used in the hours that began at `since` or later, by function, hour and dispatcher.
    async fn usage(&self, since: Timestamp) -> Result<Vec<Usage>, Error>;

    /// Deletes up to `limit` expired rows; returns how many. Never touches claimed, waiting or dead rows.
    async fn sweep(&self, limit: u32) -> Result<u64, Error>;
}
