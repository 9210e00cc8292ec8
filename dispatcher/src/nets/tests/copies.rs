//! The copies of closed letters.

use std::collections::BTreeSet;

use weft_schemas::{Attempt, DeadLetter, DeadLetterId, Epoch, ErrorInfo};

use super::*;
use crate::nets::copies::Copies;

fn letter(n: u32) -> DeadLetter {
    let message = published(&n.to_string(), "{");
    DeadLetter {
        id: DeadLetterId::of_message(&work(), Reason::Undecodable, &message),
        function: work(),
        key: None,
        epoch: Epoch(0),
        reason: Reason::Undecodable,
        error: ErrorInfo::new("Undecodable", "read the event"),
        attempts: Attempt(0),
        first_at: Timestamp::UNIX_EPOCH,
        last_at: Timestamp::UNIX_EPOCH,
        trace_id: None,
        message,
    }
}

impl Place {
    /// Buries letters and lays their copies into the queue, in order.
    async fn bury(&self, count: u32) -> Vec<DeadLetter> {
        let letters: Vec<DeadLetter> = (0..count).map(letter).collect();
        let mut copies = Vec::new();
        for letter in &letters {
            let copy = letter.to_message("weft");
            copies.push(copy.clone());
            let copy = OutboxMessage { kind: OutboxKind::DeadLetter, due_in: Duration::ZERO, message: copy };
            self.ledger.bury(&[(letter.clone(), copy)]).await.unwrap();
        }
        assert!(self.broker.publish(&copies).await.iter().all(Result::is_ok));
        letters
    }

    async fn redrive(&self, letter: &DeadLetter) {
        let message = OutboxMessage {
            kind: OutboxKind::Redrive,
            due_in: Duration::ZERO,
            message: requeue::redrive_message(letter, "weft"),
        };
        let redrive = Redrive { by: "test".into(), message, successor: None };
        assert_eq!(self.ledger.redrive(&letter.id, &redrive).await.unwrap(), Redriven::Done);
    }

    fn copies(&self, closed: Arc<Notify>) -> Copies {
        Copies {
            ledger: self.ledger.clone(),
            broker: Arc::clone(&self.broker),
            names: self.names.clone(),
            functions: BTreeSet::from([work()]),
            closed,
            stats: self.stats.clone(),
        }
    }

    /// The ids in the dead-letter queue, in the order in which a consumer gets them.
    async fn in_queue(&self) -> Vec<String> {
        let count = self.lies("weft.dlq.work").await;
        let mut subscription = self.broker.subscribe("weft.dlq.work", 2_000).await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..count {
            let delivery = tokio::time::timeout(LIMIT, subscription.deliveries.recv()).await.unwrap().unwrap();
            ids.push(delivery.message.header("weft-id").unwrap_or("foreign").to_owned());
        }
        drop(subscription);
        until("all are back", || async { (self.broker.depth("weft.dlq.work").await == Some(count)).then_some(()) })
            .await;
        ids
    }
}

#[tokio::test]
async fn the_copies_of_closed_letters_go_and_the_open_ones_keep_their_order() {
    let place = Place::new().await;
    let letters = place.bury(10).await;
    // Somebody else's message is nobody's to take.
    place.publish(Message { routing_key: "weft.dlq.work".into(), ..Message::default() }).await;
    // A copy that a relay published twice.
    place.publish(letters[3].to_message("weft")).await;
    for n in [0, 3, 4, 9] {
        place.redrive(&letters[n]).await;
    }
    let passed = place.copies(Arc::default()).pass("weft.dlq.work", 64).await.unwrap();
    assert_eq!((passed.resolved, passed.kept, passed.full), (5, 7, false));
    let mut open: Vec<String> = [1, 2, 5, 6, 7, 8].iter().map(|n: &usize| letters[*n].id.0.clone()).collect();
    open.push("foreign".into());
    assert_eq!(place.in_queue().await, open);
}

#[tokio::test]
async fn a_pass_holds_no_more_than_it_may_and_loses_nothing() {
    let place = Place::new().await;
    let letters = place.bury(20).await;
    for n in [0, 1, 19] {
        place.redrive(&letters[n]).await;
    }
    let copies = place.copies(Arc::default());
    let passed = copies.pass("weft.dlq.work", 4).await.unwrap();
    assert_eq!((passed.resolved, passed.kept, passed.full), (2, 4, true));
    assert_eq!(place.in_queue().await, letters[2..].iter().map(|letter| letter.id.0.clone()).collect::<Vec<_>>());
    let passed = copies.pass("weft.dlq.work", 64).await.unwrap();
    assert_eq!((passed.resolved, passed.kept, passed.full), (1, 17, false));
}

#[tokio::test]
async fn a_ledger_that_does_not_answer_leaves_every_copy_where_it_was() {
    let place = Place::new().await;
    let letters = place.bury(3).await;
    place.redrive(&letters[0]).await;
    place.ledger.fail("closed_letters", 1);
    assert!(place.copies(Arc::default()).pass("weft.dlq.work", 64).await.is_err());
    assert_eq!(place.in_queue().await, letters.iter().map(|letter| letter.id.0.clone()).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_passes_at_once_lose_no_open_copy() {
    let place = Place::new().await;
    let letters = place.bury(40).await;
    for letter in letters.iter().step_by(2) {
        place.redrive(letter).await;
    }
    let (one, other) = (place.copies(Arc::default()), place.copies(Arc::default()));
    let (one, other) = tokio::join!(one.pass("weft.dlq.work", 64), other.pass("weft.dlq.work", 64));
    assert_eq!(one.unwrap().resolved + other.unwrap().resolved, 20);
    let left: BTreeSet<String> = place.in_queue().await.into_iter().collect();
    assert_eq!(left, letters.iter().skip(1).step_by(2).map(|letter| letter.id.0.clone()).collect());
}

#[tokio::test]
async fn a_redrive_wakes_the_cleaning_and_without_one_no_queue_is_touched() {
    let place = Place::new().await;
    let letters = place.bury(3).await;
    let (closed, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let task = tokio::spawn(place.copies(Arc::clone(&closed)).run(stop.clone()));
    closed.notify_one();
    until("a second question", || async { (place.ledger.asked("closed_since") == 2).then_some(()) }).await;
    assert_eq!(place.ledger.asked("closed_letters"), 0, "nothing is closed, and it looked through the queue");
    place.redrive(&letters[1]).await;
    closed.notify_one();
    until("one copy less", || async { (place.lies("weft.dlq.work").await == 2).then_some(()) }).await;
    until("the number", || async { (place.stats.snapshot().copies_resolved == 1).then_some(()) }).await;
    stop.cancel();
    tokio::time::timeout(LIMIT, task).await.unwrap().unwrap();
}
