//! Dead letters and redrives.

use weft_schemas::Epoch;

use super::*;
use crate::{DeadLetterQuery, DeadLetterRecord, Redrive, Redriven, State};

fn by(name: &str) -> Redrive {
    Redrive { by: name.to_owned(), message: redrive_message(), successor: None }
}

async fn letters(subject: &Subject, query: DeadLetterQuery) -> Vec<DeadLetterRecord> {
    subject.ledger.dead_letters(&query).await.unwrap()
}

fn copy(text: &str) -> OutboxMessage {
    outgoing(OutboxKind::DeadLetter, text, Duration::ZERO)
}

fn redrive_message() -> OutboxMessage {
    outgoing(OutboxKind::Redrive, "again", Duration::ZERO)
}

/// Claims and buries a key; answers its letter's id.
async fn die(subject: &Subject, session: &dyn NodeSession, key: &str) -> DeadLetterId {
    let claim = subject.run(session, key, "x").await;
    assert_eq!(subject.settle(key, claim.fence, dead(key, &claim)).await, Settled::Done);
    letter(key, &claim, Reason::Exhausted).id
}

pub async fn burying_twice_counts_and_sends_one_copy(subject: &Subject) {
    for _ in 0..3 {
        subject.ledger.bury(&[(refused("a"), copy("a")), (refused("b"), copy("b"))]).await.unwrap();
    }
    let found = letters(subject, DeadLetterQuery::default()).await;
    assert_eq!(found.iter().map(|record| record.arrivals).collect::<Vec<_>>(), [3, 3]);
    let mut sent: Vec<_> = subject.drain().await.into_iter().map(|(_, text)| text).collect();
    sent.sort();
    assert_eq!(sent, ["a", "b"]);
    subject.ledger.bury(&[]).await.unwrap();
}

pub async fn one_batch_may_bury_the_same_letter_twice(subject: &Subject) {
    subject.ledger.bury(&[(refused("a"), copy("a")), (refused("a"), copy("a"))]).await.unwrap();
    assert_eq!(letters(subject, DeadLetterQuery::default()).await[0].arrivals, 2);
    assert_eq!(subject.drain().await.len(), 1);
}

pub async fn case_24_two_quick_redrives_are_one(subject: &Subject) {
    let session = subject.enter("a").await;
    let id = die(subject, &*session, "k").await;
    subject.drain().await;
    let racers: Vec<_> = (0..8)
        .map(|n| {
            let (ledger, id) = (subject.ledger.clone(), id.clone());
            tokio::spawn(async move { ledger.redrive(&id, &by(&format!("op{n}"))).await.unwrap() })
        })
        .collect();
    let (mut done, mut already) = (0, 0);
    for racer in racers {
        match racer.await.unwrap() {
            Redriven::Done => done += 1,
            Redriven::Already => already += 1,
            Redriven::NotFound => panic!("not found"),
        }
    }
    assert_eq!((done, already), (1, 7));
    assert_eq!(subject.drain().await, [(OutboxKind::Redrive, "again".to_owned())]);
    assert_eq!(subject.record("k").await.unwrap().epoch, Epoch(1));
}

pub async fn case_24_a_redriven_invocation_starts_afresh(subject: &Subject) {
    let session = subject.enter("a").await;
    let id = die(subject, &*session, "k").await;
    subject.ledger.advance(HOUR).await.unwrap();
    assert!(session.renew().await.unwrap());
    assert_eq!(subject.claim(&*session, "k", "x").await, Verdict::Dead, "the dead do not expire");
    assert_eq!(subject.ledger.redrive(&id, &by("op")).await.unwrap(), Redriven::Done);
    let before = subject.record("k").await.unwrap();
    assert_eq!((before.state, before.attempt), (State::Waiting, Attempt(0)));
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!((claim.attempt, claim.crashes, claim.epoch), (Attempt(1), 0, Epoch(1)));
    assert!(claim.fence > before.fence, "{claim:?}");
    let age = jiff::Timestamp::now().duration_since(claim.first_seen_at);
    assert!(age < jiff::SignedDuration::from_mins(30), "its age is counted anew: {age:?}");

    assert_eq!(letters(subject, DeadLetterQuery::default()).await.len(), 0);
    let all = letters(subject, DeadLetterQuery { include_closed: true, ..DeadLetterQuery::default() }).await;
    assert_eq!(all[0].redriven_by.as_deref(), Some("op"));
    assert!(all[0].redriven_at.is_some());
}

pub async fn a_letter_can_die_again_after_a_redrive(subject: &Subject) {
    let session = subject.enter("a").await;
    let first = die(subject, &*session, "k").await;
    assert_eq!(subject.ledger.redrive(&first, &by("op")).await.unwrap(), Redriven::Done);
    let second = die(subject, &*session, "k").await;
    assert_ne!(first, second);
    assert_eq!(subject.ledger.redrive(&first, &by("op")).await.unwrap(), Redriven::Already);
    assert_eq!(subject.ledger.redrive(&second, &by("op")).await.unwrap(), Redriven::Done);
    assert_eq!(subject.record("k").await.unwrap().epoch, Epoch(2));

    // A message that never became an invocation has the same id each time.
    subject.ledger.bury(&[(refused("a"), copy("a"))]).await.unwrap();
    let id = refused("a").id;
    assert_eq!(subject.ledger.redrive(&id, &by("op")).await.unwrap(), Redriven::Done);
    subject.drain().await;
    subject.ledger.bury(&[(refused("a"), copy("again"))]).await.unwrap();
    assert_eq!(subject.drain().await, [(OutboxKind::DeadLetter, "again".to_owned())]);
    let found = letters(subject, DeadLetterQuery { id: Some(id.clone()), ..DeadLetterQuery::default() }).await;
    assert_eq!((found[0].arrivals, found[0].redriven_at), (2, None));
    assert_eq!(subject.ledger.redrive(&id, &by("op")).await.unwrap(), Redriven::Done);
}

pub async fn an_unknown_letter_is_not_found(subject: &Subject) {
    let id = DeadLetterId("unknown".to_owned());
    assert_eq!(subject.ledger.redrive(&id, &by("op")).await.unwrap(), Redriven::NotFound);
    assert_eq!(subject.drain().await, []);
}

pub async fn a_refused_message_is_redriven_by_the_outbox_alone(subject: &Subject) {
    let session = subject.enter("a").await;
    // A mismatch names a key whose invocation did not die.
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", claim.fence, succeeded("1", HOUR)).await, Settled::Done);
    let mut mismatch = refused("other payload");
    mismatch.key = Some(Key::new("k").unwrap());
    subject.ledger.bury(&[(mismatch.clone(), copy("a"))]).await.unwrap();
    subject.drain().await;
    assert_eq!(subject.ledger.redrive(&mismatch.id, &by("op")).await.unwrap(), Redriven::Done);
    assert_eq!(subject.drain().await, [(OutboxKind::Redrive, "again".to_owned())]);
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.state, record.epoch), (State::Succeeded, Epoch(0)));
}

pub async fn a_redriven_mismatch_leaves_the_dead_invocation_of_its_key_dead(subject: &Subject) {
    let session = subject.enter("a").await;
    die(subject, &*session, "k").await;
    let mut mismatch = refused("other payload");
    (mismatch.key, mismatch.reason) = (Some(Key::new("k").unwrap()), Reason::Mismatch);
    subject.ledger.bury(&[(mismatch.clone(), copy("a"))]).await.unwrap();
    assert_eq!(subject.ledger.redrive(&mismatch.id, &by("op")).await.unwrap(), Redriven::Done);
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.state, record.epoch), (State::Dead, Epoch(0)), "nothing would ever run it again");
}

pub async fn letters_are_listed_by_filter_and_kept_whole(subject: &Subject) {
    let session = subject.enter("a").await;
    let id = die(subject, &*session, "k").await;
    let mut other = refused("ü\0\u{1}");
    other.message.headers.insert("raw".to_owned(), weft_schemas::HeaderValue::Opaque(vec![0xff, 0]));
    subject.ledger.bury(&[(other.clone(), copy("a"))]).await.unwrap();

    let newest_first = letters(subject, DeadLetterQuery::default()).await;
    assert_eq!(newest_first.iter().map(|record| &record.letter.id).collect::<Vec<_>>(), [&other.id, &id]);
    assert_eq!(newest_first[0].letter, other);
    let by_id = letters(subject, DeadLetterQuery { id: Some(id.clone()), ..DeadLetterQuery::default() }).await;
    assert_eq!(by_id.len(), 1);
    assert_eq!(by_id[0].letter.id, id);
    let reason = Some(Reason::Undecodable);
    let by_reason = letters(subject, DeadLetterQuery { reason, ..DeadLetterQuery::default() }).await;
    assert_eq!(by_reason.iter().map(|record| &record.letter.id).collect::<Vec<_>>(), [&other.id]);
    let unknown = Some(FunctionName::new("unknown").unwrap());
    assert_eq!(letters(subject, DeadLetterQuery { function: unknown, ..DeadLetterQuery::default() }).await.len(), 0);
    assert_eq!(letters(subject, DeadLetterQuery { limit: 1, ..DeadLetterQuery::default() }).await.len(), 1);
}
