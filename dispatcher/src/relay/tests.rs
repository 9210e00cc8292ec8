//! The relay over a real ledger (one SQLite file) and a broker that does as the test says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

use async_trait::async_trait;
use tokio::sync::watch;
use weft_ledger::{ClaimRequest, OutboxMessage, Settle, Settlement, Verdict};
use weft_schemas::{Digest, FunctionName, Key, NodeName};

use super::*;
use crate::broker::{BrokerError, Replies, Subscription, Topology};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

struct Fake {
    /// The queues that are there.
    queues: Mutex<BTreeSet<String>>,
    /// The queues that do not confirm.
    stuck: watch::Sender<BTreeSet<String>>,
    /// Calls that were made to wait for a confirm for long.
    asked: watch::Sender<u32>,
    published: watch::Sender<Vec<String>>,
    calls: Mutex<u32>,
    health: watch::Sender<Health>,
}

#[async_trait]
impl Broker for Fake {
    fn address(&self) -> &str {
        "fake"
    }
    async fn declare(&self, _: &Topology) -> Result<(), BrokerError> {
        Ok(())
    }
    async fn subscribe(&self, _: &str, _: u16) -> Result<Subscription, BrokerError> {
        unreachable!("the relay consumes nothing")
    }
    async fn replies(&self, _: &str) -> Result<Replies, BrokerError> {
        unreachable!("the relay asks nothing")
    }
    async fn publish(&self, messages: &[Message]) -> Vec<Result<(), PublishError>> {
        *self.calls.lock().unwrap() += 1;
        assert_eq!(*self.health.borrow(), Health::Connected, "published while the broker was away");
        let queues = self.queues.lock().unwrap();
        let answers = messages.iter().map(|message| {
            if !queues.contains(&message.routing_key) {
                return Err(PublishError::Unroutable { detail: "no queue".to_owned() });
            }
            self.published.send_modify(|published| published.push(message.routing_key.clone()));
            Ok(())
        });
        answers.collect()
    }
    async fn publish_within(&self, messages: &[Message], limit: Duration) -> Vec<Result<(), PublishError>> {
        let open: Vec<bool> =
            messages.iter().map(|message| !self.stuck.borrow().contains(&message.routing_key)).collect();
        let passed: Vec<Message> =
            messages.iter().zip(&open).filter(|(_, open)| **open).map(|(message, _)| message.clone()).collect();
        let mut passed = self.publish(&passed).await.into_iter();
        if !open.contains(&false) {
            return passed.collect();
        }
        let freed = |stuck: &BTreeSet<String>| messages.iter().all(|message| !stuck.contains(&message.routing_key));
        // Long is here as long as the test likes.
        let limit = if limit == LONGEST { LIMIT } else { limit };
        self.asked.send_modify(|asked| *asked += u32::from(limit == LIMIT));
        let freed = tokio::time::timeout(limit, self.stuck.subscribe().wait_for(freed)).await.is_ok();
        let mut late = messages.iter().zip(&open).filter(|(_, open)| !**open);
        let mut late = |()| {
            let message = late.next().map(|(message, _)| message.routing_key.clone()).unwrap_or_default();
            if !freed {
                return Err(PublishError::Unconfirmed { after: limit });
            }
            self.published.send_modify(|published| published.push(message));
            Ok(())
        };
        open.iter().map(|open| if *open { passed.next().unwrap() } else { late(()) }).collect()
    }
    async fn depth(&self, _: &str) -> Option<u64> {
        None
    }
    async fn counts(&self, _: &str) -> Option<crate::broker::Counts> {
        None
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
    async fn close(&self) {}
}

struct World {
    folder: PathBuf,
    ledger: Arc<dyn Ledger>,
    broker: Arc<Fake>,
    wake: Arc<Notify>,
    stats: Stats,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl World {
    /// A relay at work on an outbox that holds one message of each kind, to a queue of that name.
    async fn new(kinds: &[(OutboxKind, &str)], health: Health) -> Self {
        let folder = std::env::temp_dir().join(format!("weft-relay-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let ledger = weft_ledger::open(&format!("sqlite://{}", folder.join("weft.db").display())).await.unwrap();
        ledger.migrate().await.unwrap();
        let session = ledger.enter(&NodeName::new("n").unwrap(), Duration::from_secs(60)).await.unwrap();
        let (function, key) = (FunctionName::new("f").unwrap(), Key::new("k").unwrap());
        let request = ClaimRequest { key: key.clone(), digest: Digest::of(&[]), resume: None, interrupted: false };
        let Verdict::Run(claim) = ledger.claim(session.owner(), &function, &[request]).await.unwrap().remove(0) else {
            panic!("not granted")
        };
        let outbox = kinds.iter().map(|(kind, queue)| OutboxMessage {
            kind: *kind,
            due_in: Duration::ZERO,
            message: Message { routing_key: (*queue).to_owned(), ..Message::default() },
        });
        let keep = Duration::from_secs(60);
        let to = Settlement::Succeeded { result: Default::default(), keep, outbox: outbox.collect() };
        ledger.settle(&function, &[Settle { key, fence: claim.fence, to }]).await.unwrap();
        let broker = Arc::new(Fake {
            queues: Mutex::default(),
            stuck: watch::Sender::default(),
            asked: watch::Sender::default(),
            published: watch::Sender::default(),
            calls: Mutex::default(),
            health: watch::Sender::new(health),
        });
        let (wake, stats, stop) = (Arc::new(Notify::new()), Stats::default(), CancellationToken::new());
        let relay = Relay {
            ledger: Arc::clone(&ledger),
            broker: Arc::clone(&broker) as Arc<dyn Broker>,
            wake: Arc::clone(&wake),
            closed: Arc::new(Notify::new()),
            stats: stats.clone(),
        };
        tokio::spawn(relay.run(stop.clone()));
        Self { folder, ledger, broker, wake, stats, stop }
    }

    async fn published(&self, count: usize) -> Vec<String> {
        let mut published = self.broker.published.subscribe();
        let published = tokio::time::timeout(LIMIT, published.wait_for(|published| published.len() >= count)).await;
        published.expect("not published").unwrap().clone()
    }

    /// Waits until nothing is left: the rows are deleted after they are counted.
    async fn outbox_empty(&self) {
        let look = async {
            while self.ledger.next_due().await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, look).await.is_ok(), "something is left in the outbox");
    }

    /// Looks again and again until it holds.
    async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let look = async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, look).await.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn a_reply_that_nobody_takes_is_dropped_and_counted_and_holds_up_nothing() {
    let world = World::new(&[(OutboxKind::Reply, "gone"), (OutboxKind::Emit, "q")], Health::Connected).await;
    world.until("the reply is dropped", || world.stats.snapshot().replies_dropped == 1).await;
    world.broker.queues.lock().unwrap().extend(["gone".to_owned(), "q".to_owned()]);
    world.wake.notify_one();
    assert_eq!(world.published(1).await, ["q"]);
    world.until("it is counted", || world.stats.snapshot().relayed == 1).await;
    world.outbox_empty().await;
}

#[tokio::test]
async fn a_retry_whose_queue_is_gone_is_kept_told_and_leaves_when_the_queue_is_there() {
    let world = World::new(&[(OutboxKind::Retry, "weft.fn.f")], Health::Connected).await;
    world.until("it is told", || world.stats.snapshot().held.contains_key("weft.fn.f")).await;
    world.broker.queues.lock().unwrap().insert("weft.fn.f".to_owned());
    assert_eq!(world.published(1).await, ["weft.fn.f"]);
    world.until("it is told no more", || world.stats.snapshot().held.is_empty()).await;
}

#[tokio::test]
async fn while_the_broker_is_away_nothing_is_tried_and_what_is_due_leaves_when_it_is_back() {
    let away = Health::Disconnected { reason: "a test says so".to_owned() };
    let world = World::new(&[(OutboxKind::Retry, "q")], away).await;
    world.broker.queues.lock().unwrap().insert("q".to_owned());
    for _ in 0..20 {
        world.wake.notify_one();
        tokio::task::yield_now().await;
    }
    assert_eq!(*world.broker.calls.lock().unwrap(), 0);
    world.broker.health.send_replace(Health::Connected);
    assert_eq!(world.published(1).await, ["q"]);
    assert_eq!(*world.broker.calls.lock().unwrap(), 1, "at the first try");
}

#[tokio::test]
async fn an_address_that_does_not_confirm_holds_up_no_other_and_is_told() {
    let world = World::new(&[], Health::Connected).await;
    world.broker.queues.lock().unwrap().extend(["stuck".to_owned(), "q".to_owned()]);
    world.broker.stuck.send_modify(|stuck| {
        stuck.insert("stuck".to_owned());
    });
    let to = |queue: &str| OutboxMessage {
        kind: OutboxKind::Emit,
        due_in: Duration::ZERO,
        message: Message { routing_key: queue.to_owned(), ..Message::default() },
    };
    let post = async |queues: &[&str]| {
        world.ledger.post(&queues.iter().map(|queue| to(queue)).collect::<Vec<_>>()).await.unwrap();
        world.wake.notify_one();
    };
    post(&["stuck", "q"]).await;
    world.until("it is told", || world.stats.snapshot().held.contains_key("stuck")).await;
    // While it is asked again, for long, the others come and go.
    world.until("it is asked again", || *world.broker.asked.borrow() == 1).await;
    for n in 2..5 {
        post(&["stuck", "q"]).await;
        assert_eq!(world.published(n).await, vec!["q"; n]);
        world.until("it is finished", || world.stats.snapshot().relayed == n as u64).await;
    }
    assert_eq!(*world.broker.asked.borrow(), 1, "by one call, which waits still");
    world.broker.stuck.send_modify(BTreeSet::clear);
    let published = world.published(8).await;
    assert_eq!(published.iter().filter(|queue| *queue == "stuck").count(), 4);
    world.until("it is told no more", || world.stats.snapshot().held.is_empty()).await;
    world.until("all is finished", || world.stats.snapshot().relayed == 8).await;
    assert_eq!(world.ledger.next_due().await.unwrap(), None);
}

#[test]
fn waits_are_bounded_and_shorter_when_the_broker_did_not_answer() {
    let (no_queue, silent) =
        (PublishError::Unroutable { detail: String::new() }, PublishError::Disconnected { detail: String::new() });
    for tries in [0, 1, 5, 16, u32::MAX] {
        assert!(wait(&no_queue, tries) <= SLOWEST && wait(&silent, tries) <= UNANSWERED);
        assert!(wait(&no_queue, tries) >= FIRST && wait(&silent, tries) >= FIRST, "no busy loop");
    }
}
