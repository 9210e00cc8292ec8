//! The broker in one SQLite file: for a first look, for development and for tests.
//!
//! It keeps RabbitMQ's semantics (the conformance suite runs over both): a bounded prefetch, at-least-once delivery
//! over restarts, requeues near the head, alternate queues, nothing silently dropped. What it does not have: several
//! consuming processes on one file, a delivery limit, expiry, lengths. A delivery limit is not missed: a hand-back costs
//! nothing here, a poisonous event that takes the process down has been claimed by then, and the ledger counts that.

mod consumer;
pub mod doorbell;
mod shelf;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use weft_ledger::embedded::{Binding, Queues};
use weft_schemas::{FunctionName, Message};

use self::doorbell::Doorbell;
use self::shelf::Shelf;
use super::amqp::convert;
use super::{
    Acks, Broker, BrokerError, Counts, FromReplies, Health, Names, PublishError, Replies, Subscription, Topology,
};

/// How often the file is looked at without a ring: once for all its queues.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How long consumers have to write out what was acked, at a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Answers that wait to be taken, at most; then the publisher waits.
const REPLIES: usize = 64;
/// What a frame of RabbitMQ's carries, so that a message that fits here fits there.
const HEADERS_LIMIT: usize = 131_072 - 64;

/// A broker in a SQLite file. Any process may open it to publish; the first [`Broker::subscribe`] makes this process
/// the one that consumes.
pub struct Embedded {
    address: String,
    hub: Arc<Hub>,
    generations: AtomicU64,
    /// Where answers to requests of this process go, by address. They never touch the file.
    replies: Mutex<HashMap<String, mpsc::Sender<FromReplies>>>,
    tasks: TaskTracker,
    closing: CancellationToken,
    _drop: DropGuard,
}

/// What the consumers of a file share.
struct Hub {
    path: PathBuf,
    queues: Queues,
    /// Changes whenever something may be there to fetch.
    wake: watch::Sender<u64>,
    shelves: Mutex<HashMap<String, Arc<Shelf>>>,
    /// The highest id of the time before this process: what is not above it may have been delivered before.
    before: i64,
    /// Told when the file cannot be used, and when it can again.
    health: watch::Sender<Health>,
    /// Whether this process consumes, and so hears of its own publishes without a bell.
    consuming: std::sync::atomic::AtomicBool,
}

impl Hub {
    fn wake(&self) {
        self.wake.send_modify(|rings| *rings = rings.wrapping_add(1));
    }

    fn shelf(&self, queue: &str) -> Arc<Shelf> {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shelves.entry(queue.to_owned()).or_insert_with(|| Arc::new(Shelf::new(self.before))))
    }

    /// Passes a result on, and keeps the health by it: told once when it turns.
    fn heed<T>(&self, result: Result<T, weft_ledger::Error>) -> Result<T, weft_ledger::Error> {
        let now = match &result {
            Ok(_) => Health::Connected,
            Err(error) => Health::Disconnected { reason: error.to_string() },
        };
        let turned = self.health.send_if_modified(|health| {
            let turned = std::mem::discriminant(health) != std::mem::discriminant(&now);
            if turned {
                *health = now;
            }
            turned
        });
        match &result {
            Ok(_) if turned => tracing::info!("embedded broker works again"),
            Err(error) if turned => tracing::warn!(error = error as &dyn std::error::Error, "embedded broker fails"),
            Ok(_) | Err(_) => {}
        }
        result
    }
}

impl Embedded {
    /// Opens the file, and makes it if it is not there.
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] when it cannot be opened or is of a newer program.
    pub async fn open(path: &Path) -> Result<Self, BrokerError> {
        let address = format!("sqlite:{}", path.display());
        let unavailable =
            |error: weft_ledger::Error| BrokerError::Unavailable { address: address.clone(), source: Box::new(error) };
        let queues = Queues::open(path).await.map_err(unavailable)?;
        let before = queues.max_id().await.map_err(unavailable)?;
        let closing = CancellationToken::new();
        Ok(Self {
            address,
            hub: Arc::new(Hub {
                path: path.to_owned(),
                queues,
                wake: watch::Sender::new(0),
                shelves: Mutex::default(),
                before,
                health: watch::Sender::new(Health::Connected),
                consuming: false.into(),
            }),
            generations: AtomicU64::new(1),
            replies: Mutex::default(),
            tasks: TaskTracker::new(),
            _drop: closing.clone().drop_guard(),
            closing,
        })
    }

    /// Hands an answer to whoever takes them under its address in this process; `None`: it is for no such address.
    async fn reply(&self, message: &Message) -> Option<Result<(), PublishError>> {
        if !message.exchange.is_empty() {
            return None;
        }
        let known = |replies: &HashMap<_, mpsc::Sender<_>>| replies.get(&message.routing_key).cloned();
        let to = known(&self.replies.lock().unwrap_or_else(PoisonError::into_inner))?;
        let gone = |_| PublishError::Unroutable { detail: "nobody takes answers there any more".to_owned() };
        Some(to.send(FromReplies::Answer(Box::new(message.clone()))).await.map_err(gone))
    }

    /// Makes this process the one that consumes: hangs up the bell, once.
    fn consume(&self) -> Result<(), BrokerError> {
        if self.hub.consuming.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let bell = match Doorbell::hang(&self.hub.path) {
            Ok(bell) => Some(bell),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                self.hub.consuming.store(false, Ordering::Release);
                return Err(BrokerError::Unavailable {
                    address: self.address.clone(),
                    source: "another process consumes from this file".into(),
                });
            }
            Err(error) => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "no doorbell: events of other processes are seen within a second"
                );
                None
            }
        };
        self.tasks.spawn(listen(Arc::clone(&self.hub), bell, self.closing.clone()));
        Ok(())
    }
}

/// Wakes the consumers when the bell rings, and when the file holds messages that nobody has rung for.
async fn listen(hub: Arc<Hub>, bell: Option<Doorbell>, closing: CancellationToken) {
    let rung = async || match &bell {
        Some(bell) => bell.rung().await,
        None => std::future::pending().await,
    };
    let mut seen = hub.before;
    let mut look = tokio::time::interval(POLL_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = rung() => hub.wake(),
            _ = look.tick() => {
                if let Ok(newest) = hub.heed(hub.queues.max_id().await)
                    && newest != seen
                {
                    seen = newest;
                    hub.wake();
                }
            }
        }
    }
}

#[async_trait]
impl Broker for Embedded {
    fn address(&self) -> &str {
        &self.address
    }

    async fn declare(&self, topology: &Topology) -> Result<(), BrokerError> {
        let names = Names::new(&topology.prefix);
        let (events, unrouted, crashed) = (names.events(), names.unrouted(), names.crashed());
        // A queue that only has to be there.
        let there = |queue: String| Binding { queue, exchange: String::new(), pattern: String::new() };
        let mut bindings = vec![there(unrouted.clone()), there(crashed), there(names.dlq(&FunctionName::unrouted()))];
        for function in &topology.functions {
            let queue = names.function(&function.function);
            bindings.push(there(names.dlq(&function.function)));
            bindings.push(there(queue.clone()));
            bindings.extend(function.patterns.iter().map(|pattern| Binding {
                queue: queue.clone(),
                exchange: function.source.clone().unwrap_or_else(|| events.clone()),
                pattern: pattern.clone(),
            }));
        }
        let refused = |error: weft_ledger::Error| BrokerError::Protocol {
            doing: "declare queues".to_owned(),
            source: Box::new(error),
        };
        self.hub.heed(self.hub.queues.declare(&bindings).await).map_err(refused)?;
        for function in &topology.functions {
            let queue = names.function(&function.function);
            if !self.hub.heed(self.hub.queues.order(&queue, function.ordered).await).map_err(refused)? {
                return Err(BrokerError::Mismatch {
                    what: format!("queue {queue}"),
                    detail: "what lies in it came with another setting of the function's ordering".to_owned(),
                    hint: "let it run empty with the ordering that it had, or choose another prefix".to_owned(),
                });
            }
        }
        self.hub.heed(self.hub.queues.declare_alternate(&events, &unrouted).await).map_err(refused)
    }

    async fn subscribe(&self, queue: &str, prefetch: u16) -> Result<Subscription, BrokerError> {
        self.consume()?;
        let prefetch = usize::from(prefetch.clamp(1, 2000));
        let (deliveries, receiver) = mpsc::channel(prefetch);
        let (acks, commands) = Acks::channel();
        let consumer = consumer::Consumer::new(
            consumer::Wanted {
                queue: queue.to_owned(),
                prefetch,
                generation: self.generations.fetch_add(1, Ordering::Relaxed),
                closing: self.closing.clone(),
            },
            Arc::clone(&self.hub),
        );
        self.tasks.spawn(consumer.run(deliveries, commands));
        Ok(Subscription { deliveries: receiver, acks })
    }

    async fn replies(&self, name: &str) -> Result<Replies, BrokerError> {
        let (to, arriving) = mpsc::channel(REPLIES);
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), to);
        Ok(Replies { address: name.to_owned(), arriving })
    }

    async fn publish(&self, messages: &[Message]) -> Vec<Result<(), PublishError>> {
        let unroutable = |detail: String| Err(PublishError::Unroutable { detail });
        let mut outcomes: Vec<Result<(), PublishError>> = Vec::with_capacity(messages.len());
        let mut fit = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            if let Some(outcome) = self.reply(message).await {
                outcomes.push(outcome);
                continue;
            }
            // Refuses what RabbitMQ would refuse.
            match convert::check(message, HEADERS_LIMIT) {
                Ok(()) => {
                    let mut message = message.clone();
                    message.properties.delivery_mode = Some(2);
                    fit.push((index, message));
                    outcomes.push(Ok(()));
                }
                Err(unfit) => outcomes.push(unroutable(unfit.to_string())),
            }
        }
        let (places, fit): (Vec<usize>, Vec<Message>) = fit.into_iter().unzip();
        let reached = self.hub.heed(self.hub.queues.publish(&fit).await);
        for (at, place) in places.into_iter().enumerate() {
            let Some(outcome) = outcomes.get_mut(place) else { continue };
            match &reached {
                Ok(reached) if reached.get(at).copied().unwrap_or(0) == 0 => {
                    *outcome = unroutable("no queue is bound to it".to_owned());
                }
                Ok(_) => {}
                Err(error) => *outcome = Err(PublishError::Disconnected { detail: error.to_string() }),
            }
        }
        if reached.is_ok() {
            if self.hub.consuming.load(Ordering::Acquire) {
                self.hub.wake();
            } else {
                doorbell::ring(&self.hub.path);
            }
        }
        outcomes
    }

    async fn counts(&self, queue: &str) -> Option<Counts> {
        let (ready, out) = self.hub.shelf(queue).counts(&self.hub, queue).await?;
        // What another process has out looks ready from here.
        let unacked = self.hub.consuming.load(Ordering::Acquire).then_some(out);
        Some(Counts { ready, unacked, consumers: None })
    }

    fn health(&self) -> watch::Receiver<Health> {
        self.hub.health.subscribe()
    }

    async fn close(&self) {
        self.closing.cancel();
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "embedded consumers did not end in time");
        }
    }
}

#[cfg(test)]
mod tests;
