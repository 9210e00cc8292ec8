//! RabbitMQ, 3.10 to 4.x, over AMQP 0-9-1.
//!
//! Two connections, because a broker in alarm stops reading from connections that publish: one to consume (and to
//! declare and ask), one to publish. Each has one supervisor that dials again with backoff; consumers and publishers
//! rebuild their own channels on whatever connection is up.
//!
//! Not done here: the management interface is never asked, so bindings of earlier configurations stay, policies are not
//! seen, and the broker's version is not known (lapin does not tell it).

mod acks;
mod connect;
mod consumer;
pub(in crate::broker) mod convert;
mod health;
mod publisher;
mod replies;
#[cfg(feature = "conformance")]
pub mod requester;
mod topology;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use weft_process::secret::Address;
use weft_schemas::Message;

use self::connect::{Dialer, Line, Role};
use self::health::HealthBoard;
use self::publisher::Publisher;
use super::{Acks, Broker, BrokerError, Counts, Health, PublishError, Replies, Subscription, Topology};

/// How long a queue's counts may take to find out.
const COUNT_LIMIT: Duration = Duration::from_secs(5);
/// How long a queue must have been gone before it is declared again. A consumer that the broker finds with its queue back at
/// once is kept, and so is what its channel knows of the old queue: RabbitMQ 3.10 then takes the new queue's messages for
/// known ones and holds them back for good. Given this time, it cancels every consumer, on every node.
const SETTLED: Duration = Duration::from_secs(1);
/// How often queues that are gone are declared again because of what was published to them.
const MEND_EVERY: Duration = Duration::from_secs(5);
/// How long consumers have to write out what was acked, at a close.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// How long the connections have to close after that.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A RabbitMQ broker. Dropping it without [`Broker::close`] lets everything go at once: what is not settled comes again.
pub struct Amqp {
    address: String,
    consume: Line,
    publisher: Publisher,
    declared: Arc<Declared>,
    /// Numbers channel incarnations, over all consumers. Only a name: nobody orders by it.
    generations: Arc<AtomicU64>,
    health: Arc<HealthBoard>,
    /// A channel to ask on, apart from the deliveries. A question about a queue that is not there closes it.
    asking: Mutex<Option<lapin::Channel>>,
    /// When queues that were gone were last declared again because of a publish.
    mended: Mutex<Option<Instant>>,
    consumers: TaskTracker,
    supervisors: TaskTracker,
    closing_consumers: CancellationToken,
    closing_lines: CancellationToken,
    /// Ends every task when the broker is dropped.
    _drop: (DropGuard, DropGuard),
}

/// The topology that was last declared, for when a queue disappears under a consumer.
#[derive(Default)]
struct Declared {
    topology: std::sync::Mutex<Option<Topology>>,
}

impl Declared {
    fn remember(&self, topology: &Topology) {
        *self.topology.lock().unwrap_or_else(PoisonError::into_inner) = Some(topology.clone());
    }

    /// Whether a queue is one of the remembered topology's.
    fn names(&self, queue: &str) -> bool {
        let topology = self.topology.lock().unwrap_or_else(PoisonError::into_inner);
        topology.as_ref().is_some_and(|topology| topology::queues(topology).any(|name| name == queue))
    }

    /// Declares the remembered topology again. False when there is none or it was refused.
    async fn again(&self, connection: &lapin::Connection) -> bool {
        let topology = self.topology.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(topology) = topology else { return false };
        tokio::time::sleep(SETTLED).await;
        match topology::declare(connection, &topology).await {
            Ok(()) => {
                // What the ledger knows of it, `weft audit` shows; of the rest nobody knows.
                tracing::error!(
                    prefix = topology.prefix,
                    "queues were deleted at the broker and are declared again: what lay in them is lost"
                );
                true
            }
            Err(error) => {
                tracing::debug!(error = connect::chain(&error), "broker queues are gone and not declared");
                false
            }
        }
    }
}

impl Amqp {
    /// Connects twice, once to consume and once to publish, and keeps both up from then on. `node` names the
    /// connections in the broker's own tools. Tries once, within 10 s each: the first connect tells the truth.
    ///
    /// # Errors
    /// [`BrokerError::Address`], [`BrokerError::Unavailable`] or [`BrokerError::Refused`]; none of them holds the
    /// address's credentials.
    pub async fn connect(address: &Address, node: &str) -> Result<Self, BrokerError> {
        let dialer = Dialer::new(address, &format!("weft {node}"))?;
        let consume = dialer.dial(Role::Consume).await?;
        let publish = dialer.dial(Role::Publish).await?;
        let health = Arc::new(HealthBoard::new());
        let closing_lines = CancellationToken::new();
        let closing_consumers = CancellationToken::new();
        let supervisors = TaskTracker::new();
        let keep = |role, connection| {
            let (line, supervisor) =
                Line::keep(dialer.clone(), role, connection, Arc::clone(&health), closing_lines.clone());
            supervisors.spawn(supervisor);
            line
        };
        let consume = keep(Role::Consume, consume);
        let publish = keep(Role::Publish, publish);
        Ok(Self {
            address: dialer.address.clone(),
            consume,
            publisher: Publisher::new(publish, dialer.user()),
            declared: Arc::default(),
            generations: Arc::new(AtomicU64::new(1)),
            health,
            asking: Mutex::new(None),
            mended: Mutex::new(None),
            consumers: TaskTracker::new(),
            supervisors,
            _drop: (closing_consumers.clone().drop_guard(), closing_lines.clone().drop_guard()),
            closing_consumers,
            closing_lines,
        })
    }

    /// The connection to consume on, or why there is none.
    fn connection(&self, doing: &str) -> Result<Arc<lapin::Connection>, BrokerError> {
        self.consume.now().map_err(|reason| BrokerError::Unavailable {
            address: self.address.clone(),
            source: format!("{doing}: {reason}").into(),
        })
    }

    /// Deletes every queue and exchange of a topology, with what is in them. Safe to repeat. For what a demo made: a
    /// running dispatcher declares its own again.
    ///
    /// # Errors
    /// There is no connection, or the broker refused; what came before is deleted.
    pub async fn remove(&self, topology: &Topology) -> Result<(), BrokerError> {
        topology::remove(&*self.connection("remove")?, topology).await
    }

    async fn ask_counts(&self, queue: &str) -> Option<Counts> {
        let name = convert::short(queue, "name of the queue").ok()?;
        let mut asking = self.asking.lock().await;
        // Out of its place while it is in use: one that is left half-way through a question is not used again.
        let channel = match asking.take() {
            Some(channel) if channel.status().connected() => channel,
            _ => self.consume.now().ok()?.create_channel().await.ok()?,
        };
        let told =
            channel.queue_declare(name, QueueDeclareOptions::default().passive(), FieldTable::default()).await.ok()?;
        *asking = Some(channel);
        Some(Counts { ready: u64::from(told.message_count()), unacked: None, consumers: Some(told.consumer_count()) })
    }

    /// Declares the topology again when a message for one of its queues found none: somebody has deleted it. Whoever
    /// published tries again by himself. Not more often than every [`MEND_EVERY`].
    async fn mend(&self, messages: &[Message], outcomes: &[Result<(), PublishError>]) {
        let lost = messages.iter().zip(outcomes).any(|(message, outcome)| {
            matches!(outcome, Err(PublishError::Unroutable { .. }))
                && message.exchange.is_empty()
                && self.declared.names(&message.routing_key)
        });
        if !lost {
            return;
        }
        // Who comes while somebody mends need not do it too.
        let Ok(mut mended) = self.mended.try_lock() else { return };
        if mended.is_some_and(|at| at.elapsed() < MEND_EVERY) {
            return;
        }
        *mended = Some(Instant::now());
        if let Ok(connection) = self.consume.now() {
            self.declared.again(&connection).await;
        }
    }
}

#[async_trait]
impl Broker for Amqp {
    fn address(&self) -> &str {
        &self.address
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        let connection = self.connection("declare")?;
        topology::declare(&connection, topology).await?;
        self.declared.remember(topology);
        Ok(())
    }

    async fn subscribe(&self, queue: &str, prefetch: u16) -> Result<Subscription, BrokerError> {
        let prefetch = prefetch.clamp(1, 2000);
        let wanted = consumer::Wanted {
            queue: queue.to_owned(),
            prefetch: prefetch.into(),
            line: self.consume.clone(),
            declared: Arc::clone(&self.declared),
            generations: Arc::clone(&self.generations),
            closing: self.closing_consumers.clone(),
        };
        let connection = self.connection("consume")?;
        let first = consumer::open(&wanted, &connection).await.map_err(|error| match topology::code(&error) {
            Some(404) => {
                BrokerError::Missing { what: format!("queue {queue}"), hint: "declare the functions first".to_owned() }
            }
            _ => topology::protocol(&format!("consume from queue {queue}"), error),
        })?;
        let (deliveries, receiver) = mpsc::channel(usize::from(prefetch));
        let (acks, commands) = Acks::channel();
        self.consumers.spawn(consumer::run(wanted, first, deliveries, commands));
        Ok(Subscription { deliveries: receiver, acks })
    }

    async fn replies(&self, name: &str) -> Result<Replies, BrokerError> {
        let wanted = replies::Wanted {
            queue: name.to_owned(),
            line: self.consume.clone(),
            closing: self.closing_consumers.clone(),
        };
        let connection = self.connection("take answers")?;
        let first = replies::open(&wanted, &connection)
            .await
            .map_err(|error| topology::protocol(&format!("take answers from queue {name}"), error))?;
        let (to, arriving) = mpsc::channel(usize::from(replies::PREFETCH));
        self.consumers.spawn(replies::run(wanted, first, to));
        Ok(Replies { address: name.to_owned(), arriving })
    }

    async fn publish(&self, messages: &[Message]) -> Vec<Result<(), PublishError>> {
        self.publish_within(messages, Duration::MAX).await
    }

    async fn publish_within(&self, messages: &[Message], limit: Duration) -> Vec<Result<(), PublishError>> {
        let outcomes = self.publisher.publish(messages, limit).await;
        self.mend(messages, &outcomes).await;
        outcomes
    }

    async fn counts(&self, queue: &str) -> Option<Counts> {
        tokio::time::timeout(COUNT_LIMIT, self.ask_counts(queue)).await.ok().flatten()
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.health.follow()
    }

    async fn close(&self) {
        self.closing_consumers.cancel();
        self.consumers.close();
        if tokio::time::timeout(DRAIN_LIMIT, self.consumers.wait()).await.is_err() {
            tracing::warn!(consumers = self.consumers.len(), "broker consumers did not end in time");
        }
        self.closing_lines.cancel();
        self.supervisors.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.supervisors.wait()).await.is_err() {
            tracing::warn!("broker connections did not close in time");
        }
    }
}
