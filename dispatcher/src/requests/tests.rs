//! Requests over a real ledger (one SQLite file) and a broker that takes everything and brings no reply.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use weft_ledger::{ClaimRequest, NodeSession, Settle, Settlement, Verdict};
use weft_schemas::RequestKind;

use super::*;
use crate::broker::{Counts, Health, Subscription, Topology};
use crate::function::FromCaller;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

struct Deaf {
    published: watch::Sender<usize>,
    replies: Mutex<Option<mpsc::Receiver<FromReplies>>>,
    health: watch::Sender<Health>,
}

#[async_trait]
impl Broker for Deaf {
    fn address(&self) -> &str {
        "deaf"
    }
    async fn declare(&self, _: &Topology) -> Result<(), BrokerError> {
        Ok(())
    }
    async fn subscribe(&self, _: &str, _: u16) -> Result<Subscription, BrokerError> {
        unreachable!("requests consume nothing")
    }
    async fn replies(&self, name: &str) -> Result<Replies, BrokerError> {
        let arriving = self.replies.lock().unwrap().take().unwrap();
        Ok(Replies { address: name.to_owned(), arriving })
    }
    async fn publish(&self, messages: &[Message]) -> Vec<Result<(), PublishError>> {
        self.published.send_modify(|published| *published += messages.len());
        vec![Ok(()); messages.len()]
    }
    async fn counts(&self, _: &str) -> Option<Counts> {
        None
    }
    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }
    async fn close(&self) {}
}

struct World {
    folder: PathBuf,
    broker: Arc<Deaf>,
    ledger: Arc<dyn Ledger>,
    session: Box<dyn NodeSession>,
    replies: mpsc::Sender<FromReplies>,
    requests: Requests,
    door: Door,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn function() -> FunctionName {
    FunctionName::new("f").unwrap()
}

fn request(data: &'static str) -> Request {
    let event = RequestKind::Invoke.event("k", Bytes::from_static(data.as_bytes()), Timestamp::UNIX_EPOCH, true);
    Request { function: function(), key: event.default_key().unwrap(), event }
}

impl World {
    /// With a function whose loop gives everybody this answer.
    async fn new(entry: Entry) -> Self {
        let folder = std::env::temp_dir().join(format!("weft-requests-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let ledger = weft_ledger::open(&format!("sqlite://{}", folder.join("weft.db").display())).await.unwrap();
        ledger.migrate().await.unwrap();
        let node = NodeName::new("n").unwrap();
        let session = ledger.enter(&node, Duration::from_secs(60)).await.unwrap();
        let (replies, arriving) = mpsc::channel(8);
        let health = watch::Sender::new(Health::Connected);
        let broker =
            Arc::new(Deaf { published: watch::Sender::default(), replies: Mutex::new(Some(arriving)), health });
        let of_requests = Arc::clone(&broker) as Arc<dyn Broker>;
        let opened = Requests::open(of_requests, Arc::clone(&ledger), Names::new("weft"), &node).await;
        let (requests, arriving) = opened.unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(requests.clone().collect(arriving, stop.clone()));
        let (door, mut callers) = Door::new();
        tokio::spawn(async move {
            while let Some(said) = callers.recv().await {
                if let FromCaller::Enter { verdict, .. } = said {
                    let _ = verdict.send(entry);
                }
            }
        });
        Self { folder, broker, ledger, session, replies, requests, door, stop }
    }

    fn ask(&self, data: &'static str) -> JoinHandle<Result<Answer, AskError>> {
        let (requests, door) = (self.requests.clone(), self.door.clone());
        tokio::spawn(async move {
            let seat = requests.seat(data.len()).expect("there is room");
            requests.ask(seat, &request(data), &door, LIMIT * 2).await.map(|(answer, _)| answer)
        })
    }

    async fn published(&self) {
        let mut published = self.broker.published.subscribe();
        let published = tokio::time::timeout(LIMIT, published.wait_for(|published| *published > 0)).await;
        assert!(published.is_ok_and(|published| published.is_ok()), "nothing was sent");
    }

    /// Another dispatcher has run the request of these data, and its reply is lost.
    async fn ran(&self, data: &'static str) {
        let Request { function, key, event } = request(data);
        let claim = ClaimRequest { key: key.clone(), digest: event.digest(), resume: None, interrupted: false };
        let verdicts = self.ledger.claim(self.session.owner(), &function, &[claim]).await.unwrap();
        let Some(Verdict::Run(claim)) = verdicts.into_iter().next() else { panic!("not granted") };
        let result = Bytes::from_static(b"\"done\"");
        let to = Settlement::Succeeded { result, keep: Duration::from_secs(60), outbox: Vec::new() };
        self.ledger.settle(&function, &[Settle { key, fence: claim.fence, to }]).await.unwrap();
    }
}

async fn ended(asked: JoinHandle<Result<Answer, AskError>>) -> Result<Answer, AskError> {
    tokio::time::timeout(LIMIT, asked).await.expect("nobody was answered").unwrap()
}

fn done() -> Answer {
    Answer::Succeeded { result: Bytes::from_static(b"\"done\"") }
}

#[tokio::test]
async fn an_answer_whose_reply_was_lost_is_read_from_the_ledger() {
    let world = World::new(Entry::Admitted).await;
    let asked = world.ask("1");
    world.published().await;
    world.ran("1").await;
    world.replies.send(FromReplies::Gap).await.unwrap();
    assert_eq!(ended(asked).await.unwrap(), done());
}

#[tokio::test]
async fn an_answer_is_looked_for_although_nobody_says_that_a_reply_was_lost() {
    let world = World::new(Entry::Admitted).await;
    let asked = world.ask("1");
    world.published().await;
    world.ran("1").await;
    assert_eq!(ended(asked).await.unwrap(), done());
}

#[tokio::test]
async fn at_the_end_whoever_waits_is_told_so_and_has_no_answer_to_another_payload() {
    let world = World::new(Entry::Admitted).await;
    world.ran("1").await;
    let asked = world.ask("2");
    world.published().await;
    world.requests.close();
    assert!(matches!(ended(asked).await, Err(AskError::Stopping)));
}

#[tokio::test]
async fn what_is_refused_is_not_sent_unless_its_key_is_known() {
    let world = World::new(Entry::Throttled).await;
    assert!(matches!(ended(world.ask("1")).await, Err(AskError::Throttled)));
    assert_eq!(*world.broker.published.borrow(), 0);
    world.ran("1").await;
    let asked = world.ask("1");
    world.published().await;
    world.replies.send(FromReplies::Gap).await.unwrap();
    assert_eq!(ended(asked).await.unwrap(), done());
    let world = World::new(Entry::Stopping).await;
    assert!(matches!(ended(world.ask("1")).await, Err(AskError::Stopping)));
    assert_eq!(*world.broker.published.borrow(), 0);
}
