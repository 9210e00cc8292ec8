//! The broker seam: what the dispatcher needs of a message broker, and nothing more.
//!
//! Two implementations share one conformance suite: [`amqp`] (RabbitMQ 3.10 to 4.x) and [`embedded`] (one SQLite file).

pub mod amqp;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use weft_schemas::{FunctionName, Message};

/// What must exist at the broker for a set of functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Prefix of every name; default `weft`.
    pub prefix: String,
    pub functions: Vec<FunctionQueue>,
}

/// One function's queue and what feeds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionQueue {
    pub function: FunctionName,
    /// The exchange that feeds it; `None`: `<prefix>.events`.
    pub source: Option<String>,
    /// Topic patterns.
    pub patterns: Vec<String>,
    /// One consumer at a time gets what is in it, and the next one, when that is gone, what it had not acked first.
    pub ordered: bool,
}

/// Every broker name of an installation, in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }
    /// The topic exchange that users publish to.
    pub fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }
    /// Where events go that no function is bound to: a fanout exchange and the queue behind it.
    pub fn unrouted(&self) -> String {
        format!("{}.unrouted", self.prefix)
    }
    /// The broker's own crash net: a fanout exchange and the queue behind it.
    pub fn crashed(&self) -> String {
        format!("{}.crashed", self.prefix)
    }
    /// A function's work queue.
    pub fn function(&self, function: &FunctionName) -> String {
        format!("{}.fn.{function}", self.prefix)
    }
    /// Whose work queue this is; `None` when it is no function's.
    pub fn of_function(&self, queue: &str) -> Option<FunctionName> {
        let name = queue.strip_prefix(&self.prefix)?.strip_prefix(".fn.")?;
        FunctionName::new(name).ok().filter(|name| !name.is_unrouted())
    }
    /// Where a dispatcher takes the answers to its own requests. `unique`: which dispatcher.
    pub fn replies(&self, unique: &str) -> String {
        format!("{}.replies.{unique}", self.prefix)
    }
    /// A function's dead-letter queue.
    pub fn dlq(&self, function: &FunctionName) -> String {
        format!("{}.dlq.{function}", self.prefix)
    }
}

/// A delivery's name. Good only for the connection generation that it came on: a settle of an older one is dropped
/// here and never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId {
    pub generation: u64,
    pub tag: u64,
}

/// A message handed to us and not yet acked.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    pub redelivered: bool,
    pub message: Message,
}

/// A function's consumer, kept alive across reconnects by the broker implementation.
pub struct Subscription {
    /// Holds at most the prefetch. Ends only after [`Acks::stop`] or when the broker is closed.
    pub deliveries: mpsc::Receiver<Delivery>,
    pub acks: Acks,
}

/// What a consumer's owner tells it. Clones share the consumer.
#[derive(Debug, Clone)]
pub struct Acks {
    commands: mpsc::UnboundedSender<AckCommand>,
}

/// The commands behind [`Acks`], for implementations.
#[derive(Debug)]
pub enum AckCommand {
    Ack(Vec<DeliveryId>),
    Requeue(Vec<DeliveryId>),
    /// Hand out so many at once at most; what was delivered stays ours to settle.
    Prefetch(u16),
    /// Stop consuming; what was delivered stays ours to settle.
    Stop,
    /// Answers when every earlier command has been written out.
    Flush(tokio::sync::oneshot::Sender<()>),
}

impl Acks {
    /// The pair for an implementation. Unbounded because at most the prefetch is unsettled, so at most that many
    /// commands (and a stop) can be under way.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<AckCommand>) {
        #[expect(clippy::disallowed_methods, reason = "bounded by the prefetch")]
        let (commands, receiver) = mpsc::unbounded_channel();
        (Self { commands }, receiver)
    }
    /// Settles for good. Coalesced; never blocks. Unknown, repeated and stale ids are ignored.
    pub fn ack(&self, ids: Vec<DeliveryId>) {
        self.send(AckCommand::Ack(ids));
    }
    /// Hands back to the queue.
    pub fn requeue(&self, ids: Vec<DeliveryId>) {
        self.send(AckCommand::Requeue(ids));
    }
    /// Hands out so many unsettled deliveries at once at most from now on, 1 to 2,000. For a moment there may be as many as
    /// before and as many as now, together.
    pub fn prefetch(&self, most: u16) {
        self.send(AckCommand::Prefetch(most));
    }
    /// Stops consuming; deliveries end once what the broker has already sent is out.
    pub fn stop(&self) {
        self.send(AckCommand::Stop);
    }
    /// Returns when all commands so far are written out, or at once when the consumer is gone.
    pub async fn flush(&self) {
        let (done, wait) = tokio::sync::oneshot::channel();
        self.send(AckCommand::Flush(done));
        let _ = wait.await;
    }
    fn send(&self, command: AckCommand) {
        // A closed channel means that the consumer is gone: its deliveries will come again.
        let _ = self.commands.send(command);
    }
}

/// The place where answers to this process's own requests come in, kept alive across reconnects.
pub struct Replies {
    /// What a request gives as its `reply_to`, for as long as this lives.
    pub address: String,
    /// Ends when the broker is closed. Dropping it lets the place go.
    pub arriving: mpsc::Receiver<FromReplies>,
}

/// What comes in at [`Replies`].
#[derive(Debug, Clone)]
pub enum FromReplies {
    Answer(Box<Message>),
    /// The place was gone for a while and is there again: answers that were under way may be lost.
    Gap,
}

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue takes it (exchange missing, or mandatory and unroutable).
    #[error("no queue takes it: {detail}")]
    Unroutable { detail: String },
    /// The broker said no (queue full, internal fault).
    #[error("the broker refused it")]
    Nacked,
    /// No confirm in time. It may or may not have arrived.
    #[error("no confirm within {}s", .after.as_secs())]
    Unconfirmed { after: Duration },
    /// No connection. It may or may not have arrived.
    #[error("no connection to the broker: {detail}")]
    Disconnected { detail: String },
}

/// What is in a queue at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Messages that nobody has. For the embedded broker, seen from a process that does not consume: all messages.
    pub ready: u64,
    /// Delivered and not settled; `None` when the broker does not say (AMQP never does).
    pub unacked: Option<u64>,
    /// Who takes from it, over all processes; `None` when that is not known.
    pub consumers: Option<u32>,
}

/// How the broker's connections are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Connected,
    /// A memory or disk alarm: the broker takes no publishes.
    Blocked {
        reason: String,
    },
    Disconnected {
        reason: String,
    },
}

/// What can go wrong when starting with a broker. Texts never hold a password.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("reach the broker at {address}")]
    Unavailable {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("log in to the broker at {address}: it refused the user, the password or the virtual host")]
    Refused {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("understand the broker address {address}: {problem}")]
    Address { address: String, problem: String },
    /// Something of this name exists with other arguments. `hint` says what to do.
    #[error("declare {what}: it exists with other arguments ({detail}); {hint}")]
    Mismatch { what: String, detail: String, hint: String },
    /// Something that we do not create is not there. `hint` says what to do.
    #[error("find {what}; {hint}")]
    Missing { what: String, hint: String },
    #[error("{doing}")]
    Protocol {
        doing: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A message broker.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Address without credentials.
    fn address(&self) -> &str;
    /// Declares the topology on a throw-away channel and verifies it. Safe to repeat.
    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError>;
    /// Starts consuming a queue; reconnects and resubscribes by itself until stopped. `prefetch` is 1 to 2,000.
    async fn subscribe(&self, queue: &str, prefetch: u16) -> Result<Subscription, BrokerError>;
    /// Opens a private place for answers, by a name that nobody else uses. Nothing in it outlives this process or the
    /// connection, so it is no place for what must not be lost.
    async fn replies(&self, name: &str) -> Result<Replies, BrokerError>;
    /// Publishes with confirms and `mandatory`, persistent. One answer for each message, in order. Bounded in time.
    async fn publish(&self, messages: &[Message]) -> Vec<Result<(), PublishError>>;
    /// As [`publish`](Self::publish), but waits no longer than `limit` for the confirms: what is not confirmed by then is
    /// [`PublishError::Unconfirmed`] and may arrive all the same. A broker whose addresses cannot be slow one by one
    /// takes its own time.
    async fn publish_within(&self, messages: &[Message], limit: Duration) -> Vec<Result<(), PublishError>> {
        let _ = limit;
        self.publish(messages).await
    }
    /// What is in a queue and who takes from it; `None` when that cannot be known now, or there is no such queue.
    async fn counts(&self, queue: &str) -> Option<Counts>;
    /// Ready messages in a queue; `None` when that cannot be known now.
    async fn depth(&self, queue: &str) -> Option<u64> {
        self.counts(queue).await.map(|counts| counts.ready)
    }
    /// Follows the connections' state.
    fn health(&self) -> watch::Receiver<Health>;
    /// Closes the connections after what was acked is written out. Bounded in time.
    async fn close(&self);
}
