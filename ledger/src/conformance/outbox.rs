//! Messages that wait for the relay.

use super::*;

/// Writes messages through a settle, in order.
async fn post(subject: &Subject, key: &str, outbox: Vec<OutboxMessage>) {
    let session = subject.enter(key).await;
    let claim = subject.run(&*session, key, "x").await;
    let to = Settlement::Succeeded { result: Bytes::new(), keep: HOUR, outbox };
    assert_eq!(subject.settle(key, claim.fence, to).await, Settled::Done);
    session.leave().await.unwrap();
}

fn emit(text: &str, due_in: Duration) -> OutboxMessage {
    outgoing(OutboxKind::Emit, text, due_in)
}

fn texts(batch: &dyn crate::DueBatch) -> Vec<String> {
    batch.rows().iter().map(|due| body(&due.message)).collect()
}

pub async fn due_messages_come_oldest_first_and_whole(subject: &Subject) {
    post(subject, "a", vec![emit("late", HOUR), emit("1", Duration::ZERO), emit("2", Duration::ZERO)]).await;
    post(subject, "b", vec![emit("3", Duration::ZERO), emit("soon", HOUR / 2)]).await;
    subject.ledger.advance(HOUR).await.unwrap();
    let batch = subject.ledger.due(3).await.unwrap();
    assert_eq!(texts(&*batch), ["1", "2", "3"]);
    assert_eq!(batch.rows()[0].message, emit("1", Duration::ZERO).message);
    assert_eq!((batch.rows()[0].kind, batch.rows()[0].tries), (OutboxKind::Emit, 0));
    let ids: Vec<_> = batch.rows().iter().map(|due| due.id).collect();
    batch.finish(&ids, &[]).await.unwrap();
    let rest: Vec<_> = subject.drain().await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(rest, ["soon", "late"]);
    assert_eq!(subject.drain().await, []);
}

pub async fn messages_not_due_stay(subject: &Subject) {
    post(subject, "a", vec![emit("1", HOUR)]).await;
    assert_eq!(subject.drain().await, []);
    subject.ledger.advance(HOUR).await.unwrap();
    assert_eq!(subject.drain().await.len(), 1);
}

pub async fn two_relays_never_hold_the_same_message(subject: &Subject) {
    let all: Vec<_> = (0..6).map(|n| n.to_string()).collect();
    post(subject, "a", all.iter().map(|text| emit(text, Duration::ZERO)).collect()).await;
    let first = subject.ledger.due(4).await.unwrap();
    let second = subject.ledger.due(4).await.unwrap();
    assert_eq!((texts(&*first), texts(&*second)), (all[..4].to_vec(), all[4..].to_vec()));
    assert_eq!(subject.ledger.next_due().await.unwrap(), None, "all is in hand");
    let ids: Vec<_> = first.rows().iter().map(|due| due.id).collect();
    first.finish(&ids, &[]).await.unwrap();
    drop(second);
}

pub async fn a_dropped_batch_gives_its_messages_back(subject: &Subject) {
    post(subject, "a", vec![emit("1", Duration::ZERO), emit("2", Duration::ZERO)]).await;
    drop(subject.ledger.due(10).await.unwrap());
    // The roll-back happens behind the drop.
    let mut seen = Vec::new();
    let waited = std::time::Instant::now();
    while seen.is_empty() {
        assert!(waited.elapsed() < Duration::from_secs(10), "the messages did not come back");
        seen = texts(&*subject.ledger.due(10).await.unwrap());
    }
    assert_eq!(seen, ["1", "2"]);
}

pub async fn a_failed_publish_is_counted_and_put_off(subject: &Subject) {
    post(subject, "a", vec![emit("1", Duration::ZERO), emit("2", Duration::ZERO)]).await;
    for tries in 0..3 {
        let batch = subject.ledger.due(10).await.unwrap();
        let failed = batch.rows().iter().find(|due| body(&due.message) == "2").expect("the second is due");
        assert_eq!(failed.tries, tries);
        let failed = [(failed.id, HOUR, "no queue takes it".to_owned())];
        let ids: Vec<_> = batch.rows().iter().filter(|due| body(&due.message) == "1").map(|due| due.id).collect();
        batch.finish(&ids, &failed).await.unwrap();
        assert_eq!(subject.drain().await, []);
        subject.ledger.advance(HOUR).await.unwrap();
    }
    assert_eq!(subject.drain().await, [(OutboxKind::Emit, "2".to_owned())]);
}

pub async fn the_next_due_time_is_known(subject: &Subject) {
    assert_eq!(subject.ledger.next_due().await.unwrap(), None);
    post(subject, "a", vec![emit("1", HOUR)]).await;
    let left = subject.ledger.next_due().await.unwrap().unwrap();
    assert!(left > HOUR - Duration::from_secs(60) && left <= HOUR, "{left:?}");
    subject.ledger.advance(HOUR).await.unwrap();
    assert_eq!(subject.ledger.next_due().await.unwrap(), Some(Duration::ZERO));
}

pub async fn posted_messages_leave_when_due(subject: &Subject) {
    subject.ledger.post(&[]).await.unwrap();
    let reply = |text: &str, due_in| outgoing(OutboxKind::Reply, text, due_in);
    subject.ledger.post(&[reply("later", HOUR), reply("1", Duration::ZERO), reply("2", Duration::ZERO)]).await.unwrap();
    let sent = |texts: &[&str]| texts.iter().map(|text| (OutboxKind::Reply, (*text).to_owned())).collect::<Vec<_>>();
    assert_eq!(subject.drain().await, sent(&["1", "2"]));
    subject.ledger.advance(HOUR).await.unwrap();
    assert_eq!(subject.drain().await, sent(&["later"]));
}
