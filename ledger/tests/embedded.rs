//! The embedded queues and state, and what is particular to one file with several writers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use weft_ledger::conformance::{HOUR, Subject, function, outgoing, request, succeeded};
use weft_ledger::embedded::{Authority, Binding, EmbeddedState, Queues, StateError};
use weft_ledger::{Error, Joiner, OutboxKind, Settled, Verdict};
use weft_schemas::{Fence, FunctionName, Key, Message, NodeName};

struct Place {
    path: PathBuf,
    url: String,
    _folder: TempDir,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weft.db");
    Place { url: format!("sqlite://{}", path.display()), path, _folder: folder }
}

fn message(exchange: &str, routing_key: &str, body: &str) -> Message {
    Message {
        exchange: exchange.to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..outgoing(OutboxKind::Emit, "", Duration::ZERO).message
    }
    .routed(routing_key)
}

trait Routed {
    fn routed(self, routing_key: &str) -> Self;
}

impl Routed for Message {
    fn routed(mut self, routing_key: &str) -> Self {
        self.routing_key = routing_key.to_owned();
        self
    }
}

fn binding(queue: &str, exchange: &str, pattern: &str) -> Binding {
    Binding { queue: queue.to_owned(), exchange: exchange.to_owned(), pattern: pattern.to_owned() }
}

fn bodies(fetched: &[(i64, Message)]) -> Vec<String> {
    fetched.iter().map(|(_, message)| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn what_is_published_is_routed_kept_in_order_and_gone_when_acked() {
    let place = place();
    let queues = Queues::open(&place.path).await.unwrap();
    queues.declare(&[binding("orders", "events", "orders.*"), binding("all", "events", "#")]).await.unwrap();
    queues.declare(&[binding("dlq", "", "")]).await.unwrap();
    let sent = [
        message("events", "orders.placed", "1"),
        message("events", "payments.done", "2"),
        message("", "dlq", "3"),
        message("", "nowhere", "4"),
        message("events", "orders.placed", "5"),
    ];
    assert_eq!(queues.publish(&sent).await.unwrap(), [2, 1, 1, 0, 2]);
    // Another process, later.
    drop(queues);
    let queues = Queues::open(&place.path).await.unwrap();
    let orders = queues.fetch("orders", 0, 10).await.unwrap();
    assert_eq!(bodies(&orders), ["1", "5"]);
    assert_eq!(orders[0].1, sent[0]);
    assert_eq!(bodies(&queues.fetch("orders", orders[0].0, 10).await.unwrap()), ["5"]);
    assert_eq!(bodies(&queues.fetch("all", 0, 2).await.unwrap()), ["1", "2"]);
    assert_eq!((queues.depth("all").await.unwrap(), queues.depth("dlq").await.unwrap()), (3, 1));
    for _ in 0..2 {
        queues.ack(&[orders[0].0, 9999]).await.unwrap();
        assert_eq!(bodies(&queues.fetch("orders", 0, 10).await.unwrap()), ["5"]);
    }
}

#[tokio::test]
async fn declaring_again_replaces_a_queues_bindings_and_keeps_its_messages() {
    let place = place();
    let queues = Queues::open(&place.path).await.unwrap();
    queues.declare(&[binding("q", "events", "a"), binding("other", "events", "a")]).await.unwrap();
    queues.publish(&[message("events", "a", "1")]).await.unwrap();
    queues.declare(&[binding("q", "events", "b")]).await.unwrap();
    assert_eq!(queues.publish(&[message("events", "a", "2"), message("events", "b", "3")]).await.unwrap(), [1, 1]);
    assert_eq!(bodies(&queues.fetch("q", 0, 10).await.unwrap()), ["1", "3"]);
    assert_eq!(bodies(&queues.fetch("other", 0, 10).await.unwrap()), ["1", "2"]);
}

#[tokio::test]
async fn an_alternate_takes_what_is_routed_nowhere() {
    let place = place();
    let queues = Queues::open(&place.path).await.unwrap();
    queues.declare_alternate("events", "unrouted").await.unwrap();
    assert_eq!(queues.publish(&[message("events", "a", "1"), message("x", "a", "2")]).await.unwrap(), [1, 0]);
    assert_eq!(bodies(&queues.fetch("unrouted", 0, 10).await.unwrap()), ["1"]);
}

#[tokio::test]
async fn ids_are_never_used_twice() {
    let place = place();
    let queues = Queues::open(&place.path).await.unwrap();
    assert_eq!(queues.max_id().await.unwrap(), 0);
    queues.declare(&[binding("q", "", "")]).await.unwrap();
    let mut last = 0;
    for _ in 0..3 {
        queues.publish(&[message("", "q", "1")]).await.unwrap();
        let id = queues.fetch("q", 0, 1).await.unwrap()[0].0;
        assert!(id > last);
        assert_eq!(queues.max_id().await.unwrap(), id);
        queues.ack(&[id]).await.unwrap();
        last = id;
    }
}

fn authority(key: &str, fence: i64) -> Authority {
    Authority { function: function(), key: Key::new(key).unwrap(), fence: Fence(fence) }
}

#[tokio::test]
async fn a_newer_fence_shuts_the_older_out() {
    let place = place();
    let state = EmbeddedState::open(&place.path).await.unwrap();
    let (old, new) = (authority("k", 1), authority("k", 2));
    state.set(&old, "a", b"1", None).await.unwrap();
    state.set(&new, "a", b"2", None).await.unwrap();
    assert!(matches!(state.set(&old, "a", b"3", None).await, Err(StateError::Fenced)));
    assert!(matches!(state.get(&old, "a").await, Err(StateError::Fenced)));
    assert!(matches!(state.increment(&old, "n", 1).await, Err(StateError::Fenced)));
    assert!(matches!(state.once_increment(&old, "op", "n", 1).await, Err(StateError::Fenced)));
    assert_eq!(state.get(&new, "a").await.unwrap().as_deref(), Some(&b"2"[..]));
    // Fences are of one invocation: another key's low fence is its own.
    state.set(&authority("other", 1), "a", b"4", None).await.unwrap();
    assert_eq!(state.peek(&function(), "a").await.unwrap().as_deref(), Some(&b"4"[..]));
    let other = FunctionName::new("other").unwrap();
    assert_eq!(state.peek(&other, "a").await.unwrap(), None);
}

#[tokio::test]
async fn operations_answer_as_documented() {
    let place = place();
    let state = EmbeddedState::open(&place.path).await.unwrap();
    let at = authority("k", 1);
    assert_eq!(state.get(&at, "a").await.unwrap(), None);
    assert_eq!(state.increment(&at, "n", 5).await.unwrap(), 5);
    assert_eq!(state.increment(&at, "n", -7).await.unwrap(), -2);
    assert_eq!(state.get(&at, "n").await.unwrap().as_deref(), Some(&b"-2"[..]));
    state.set(&at, "n", b"9223372036854775807", None).await.unwrap();
    assert!(matches!(state.increment(&at, "n", 1).await, Err(StateError::NotANumber { .. })));
    state.set(&at, "text", "x".as_bytes(), None).await.unwrap();
    assert!(matches!(state.increment(&at, "text", 1).await, Err(StateError::NotANumber { .. })));

    assert!(state.compare_and_set(&at, "c", None, b"1", None).await.unwrap());
    assert!(!state.compare_and_set(&at, "c", None, b"2", None).await.unwrap());
    assert!(!state.compare_and_set(&at, "c", Some(b"2"), b"3", None).await.unwrap());
    assert!(state.compare_and_set(&at, "c", Some(b"1"), b"3", None).await.unwrap());
    assert!(state.delete(&at, "c").await.unwrap());
    assert!(!state.delete(&at, "c").await.unwrap());
}

#[tokio::test]
async fn a_value_lives_as_long_as_it_was_given() {
    let place = place();
    let state = EmbeddedState::open(&place.path).await.unwrap();
    let at = authority("k", 1);
    state.set(&at, "gone", b"1", Some(Duration::ZERO)).await.unwrap();
    assert_eq!(state.get(&at, "gone").await.unwrap(), None);
    assert_eq!(state.increment(&at, "gone", 1).await.unwrap(), 1, "an expired counter starts at 0");
    state.set(&at, "kept", b"1", Some(HOUR)).await.unwrap();
    assert!(state.get(&at, "kept").await.unwrap().is_some());
    assert!(state.expire(&at, "kept", Duration::ZERO).await.unwrap());
    assert_eq!(state.get(&at, "kept").await.unwrap(), None);
    assert!(!state.expire(&at, "kept", HOUR).await.unwrap());
}

#[tokio::test]
async fn once_is_applied_once_for_a_key_and_an_operation() {
    let place = place();
    let state = EmbeddedState::open(&place.path).await.unwrap();
    for fence in 1..4 {
        assert_eq!(state.once_increment(&authority("k", fence), "count", "n", 1).await.unwrap(), 1);
    }
    assert_eq!(state.once_increment(&authority("k2", 1), "count", "n", 1).await.unwrap(), 2);
    assert_eq!(state.once_increment(&authority("k", 3), "other", "n", 10).await.unwrap(), 12);
    let at = authority("k", 3);
    state.once_set(&at, "set", "s", b"1", None).await.unwrap();
    state.once_set(&at, "set", "s", b"2", None).await.unwrap();
    assert_eq!(state.get(&at, "s").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert!(state.once_delete(&at, "delete", "s").await.unwrap());
    assert!(state.once_delete(&at, "delete", "s").await.unwrap(), "the first answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_write_at_once() {
    let place = place();
    let subject = Subject::open(&place.url).await;
    let session = subject.enter("a").await;
    let queues = Queues::open(&place.path).await.unwrap();
    queues.declare(&[binding("q", "", "")]).await.unwrap();
    let mut tasks = Vec::new();
    // As many connections as several processes would have.
    for task in 0..4 {
        let path = place.path.clone();
        tasks.push(tokio::spawn(async move {
            let (queues, state) = (Queues::open(&path).await.unwrap(), EmbeddedState::open(&path).await.unwrap());
            for n in 0..25 {
                queues.publish(&[message("", "q", &format!("{task}/{n}"))]).await.unwrap();
                state.increment(&authority(&format!("{task}"), 1), "n", 1).await.unwrap();
            }
        }));
    }
    for n in 0..25 {
        let key = format!("k{n}");
        let claim = subject.run(&*session, &key, "x").await;
        assert_eq!(subject.settle(&key, claim.fence, succeeded("1", HOUR)).await, Settled::Done);
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(queues.depth("q").await.unwrap(), 100);
    let state = EmbeddedState::open(&place.path).await.unwrap();
    assert_eq!(state.peek(&function(), "n").await.unwrap().as_deref(), Some(&b"100"[..]));
}

#[tokio::test]
async fn one_dispatcher_has_the_file_whatever_its_name() {
    let place = place();
    let subject = Subject::open(&place.url).await;
    let session = subject.enter("a").await;
    let second = Subject::open(&place.url).await;
    let refused = second.ledger.enter(&NodeName::new("b").unwrap(), HOUR).await;
    assert!(matches!(refused, Err(Error::NodeTaken { .. })));
    session.leave().await.unwrap();
    assert!(!session.renew().await.unwrap());
    let successor = second.enter("b").await;
    let claimed = second.ledger.claim(successor.owner(), &function(), &[request("k", "x")]).await.unwrap();
    assert!(matches!(claimed[0], Verdict::Run(_)));
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused() {
    let place = place();
    std::fs::write(&place.path, "this is certainly no SQLite database, whatever its name says").unwrap();
    let refused = weft_ledger::open(&place.url).await.err().unwrap();
    assert!(matches!(refused, Error::Corrupt { .. }), "{refused:?}");
    let missing = format!("sqlite://{}", place.path.join("no/such/folder/weft.db").display());
    let refused = weft_ledger::open(&missing).await.err().unwrap();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    for unknown in ["", "sqlite:", "sqlite::memory:", "weft.db", "mysql://x"] {
        let refused = weft_ledger::open(unknown).await.err().unwrap();
        assert!(matches!(refused, Error::Address { .. }), "{unknown}: {refused:?}");
    }
    assert!(Joiner::connect("redis://x").is_err());
}
