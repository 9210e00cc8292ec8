//! The books: they balance while work goes on, and what was done by hand shows.

use super::*;
use crate::{Audit, Difference, FunctionAudit, OutboxId, Redrive, Redriven, State};

async fn audit(subject: &Subject) -> Audit {
    subject.ledger.audit(0).await.unwrap()
}

fn of<'a>(audit: &'a Audit, name: &str) -> &'a FunctionAudit {
    audit.functions.iter().find(|books| books.function.as_str() == name).unwrap()
}

/// Does by hand what only a hand would do. The tables are named as in Postgres.
async fn by_hand(subject: &Subject, sql: &str) {
    let sql = if subject.url.starts_with("sqlite:") { sql.replace("weft.", "") } else { sql.to_owned() };
    subject.joiner().run_script(&sql).await.unwrap();
}

fn redrive() -> Redrive {
    let message = outgoing(OutboxKind::Redrive, "again", Duration::ZERO);
    Redrive { by: "op".to_owned(), message, successor: None }
}

async fn settle(subject: &Subject, session: &dyn NodeSession, key: &str, to: Settlement) -> Claim {
    let claim = subject.run(session, key, "x").await;
    assert_eq!(subject.settle(key, claim.fence, to).await, Settled::Done);
    claim
}

async fn die(subject: &Subject, session: &dyn NodeSession, key: &str) -> DeadLetterId {
    let claim = subject.run(session, key, "x").await;
    assert_eq!(subject.settle(key, claim.fence, dead(key, &claim)).await, Settled::Done);
    letter(key, &claim, Reason::Exhausted).id
}

pub async fn the_books_of_a_system_at_work_balance(subject: &Subject) {
    let empty = audit(subject).await;
    assert_eq!((empty.functions.len(), empty.differences_found), (0, 0));

    // Claimed by a node that is gone.
    let gone = subject.enter("gone").await;
    subject.run(&*gone, "lapsed", "x").await;
    gone.leave().await.unwrap();
    let session = subject.enter("a").await;
    settle(subject, &*session, "swept", succeeded("1", Duration::ZERO)).await;
    assert_eq!(subject.ledger.sweep(10).await.unwrap(), 1);
    settle(subject, &*session, "waiting", waiting(HOUR)).await;
    settle(subject, &*session, "succeeded", succeeded("1", HOUR)).await;
    die(subject, &*session, "dead").await;
    let purged = die(subject, &*session, "purged").await;
    assert_eq!(subject.ledger.purge(&[purged], "op").await.unwrap(), 1);
    let edited = die(subject, &*session, "edited").await;
    let successor = Some(Key::new("successor").unwrap());
    assert_eq!(subject.ledger.redrive(&edited, &Redrive { successor, ..redrive() }).await.unwrap(), Redriven::Done);
    // What never was an invocation, one of them about the key of one that succeeded.
    let mut mismatch = refused("other payload");
    (mismatch.key, mismatch.reason) = (Some(Key::new("gone with the sweep").unwrap()), Reason::Mismatch);
    let copies = ["a", "b"].map(|text| outgoing(OutboxKind::DeadLetter, text, Duration::ZERO));
    let [one, other] = copies;
    subject.ledger.bury(&[(refused("a"), one), (mismatch, other)]).await.unwrap();
    subject.run(&*session, "claimed", "x").await;
    // Every key but those that are new was claimed before, so that only the new ones are counted.
    for key in ["claimed", "waiting", "succeeded", "dead"] {
        assert!(!matches!(subject.claim(&*session, key, "x").await, Verdict::Run(_)), "{key}");
    }

    let audit = audit(subject).await;
    assert_eq!((audit.differences.as_slice(), audit.differences_found), ([].as_slice(), 0));
    let books = of(&audit, "create-order");
    let numbers = [
        books.accepted,
        books.swept,
        books.claimed,
        books.lapsed,
        books.waiting,
        books.succeeded,
        books.dead,
        books.open_letters,
        books.outbox_runs,
        books.outbox_copies,
        books.at_broker_count,
    ];
    assert_eq!(numbers, [8, 1, 1, 1, 1, 1, 3, 3, 2, 5, 1], "{books:#?}");
    let [waits] = books.at_broker.as_slice() else { panic!("{books:#?}") };
    assert_eq!((waits.key.as_str(), waits.state), ("lapsed", State::Claimed));

    // The retry leaves for the broker: what waits for it is there now. The oldest change comes first.
    subject.ledger.advance(HOUR).await.unwrap();
    assert!(session.renew().await.unwrap());
    subject.drain().await;
    let audit = self::audit(subject).await;
    let books = of(&audit, "create-order");
    let keys: Vec<_> = books.at_broker.iter().map(|waits| waits.key.as_str()).collect();
    assert_eq!((keys.as_slice(), books.at_broker_count), (["lapsed", "waiting"].as_slice(), 2));
    let short = subject.ledger.audit(1).await.unwrap();
    let books = of(&short, "create-order");
    assert_eq!((books.at_broker.len(), books.at_broker_count), (1, 2));
}

pub async fn each_accepted_invocation_is_counted_once(subject: &Subject) {
    let requests: Vec<_> = (0..20).map(|n| request(&format!("k{n}"), "x")).collect();
    let other = FunctionName::new("other").unwrap();
    for node in ["a", "b"] {
        let session = subject.enter(node).await;
        for batch in [&requests[..10], &requests[5..], &requests[..]] {
            subject.claim_all(&*session, batch).await;
            subject.ledger.claim(session.owner(), &other, &batch[..1]).await.unwrap();
        }
        subject.run(&*session, node, "x").await;
        session.leave().await.unwrap();
    }
    let accepted = async |name: &str| of(&audit(subject).await, name).accepted;
    assert_eq!((accepted("create-order").await, accepted("other").await), (22, 2));
    let session = subject.enter("a").await;
    // A key that expires and comes back is the same row; one that was swept is another.
    for (key, sweep) in [("k0", false), ("k1", true), ("k2", true)] {
        let record = subject.record(key).await.unwrap();
        assert_eq!(subject.settle(key, record.fence, succeeded("1", Duration::ZERO)).await, Settled::Done);
        if sweep {
            assert_eq!(subject.ledger.sweep(10).await.unwrap(), 1);
        }
        subject.run(&*session, key, "x").await;
    }
    assert_eq!(accepted("create-order").await, 24);
    assert_eq!(audit(subject).await.differences, []);
}

pub async fn a_row_deleted_or_made_by_hand_is_a_difference(subject: &Subject) {
    let session = subject.enter("a").await;
    for key in ["k1", "k2", "k3"] {
        settle(subject, &*session, key, succeeded("1", HOUR)).await;
    }
    by_hand(subject, "DELETE FROM weft.invocation WHERE key = 'k2'").await;
    let expected = |present| [Difference::Rows { function: function(), accepted: 3, present, swept: 0 }];
    let audit = audit(subject).await;
    assert_eq!((audit.differences.as_slice(), audit.differences_found), (expected(2).as_slice(), 1));
    for key in ["made", "too"] {
        let copy = format!(
            "INSERT INTO weft.invocation
                 (function, key, state, attempt, crashes, epoch, fence, digest, first_seen_at, updated_at, expires_at)
             SELECT function, '{key}', state, attempt, crashes, epoch, fence, digest, first_seen_at, updated_at, expires_at
             FROM weft.invocation WHERE key = 'k1'"
        );
        by_hand(subject, &copy).await;
    }
    assert_eq!(self::audit(subject).await.differences, expected(4));
}

pub async fn the_dead_and_their_letters_belong_together(subject: &Subject) {
    let session = subject.enter("a").await;
    let mut ids = Vec::new();
    for key in ["k1", "k2", "k3"] {
        ids.push(die(subject, &*session, key).await);
    }
    // A letter about the same key and epoch that an invocation did not end with is none for the dead one.
    let mut mismatch = refused("other payload");
    (mismatch.key, mismatch.reason) = (Some(Key::new("k1").unwrap()), Reason::Mismatch);
    subject.ledger.bury(&[(mismatch, outgoing(OutboxKind::DeadLetter, "copy", Duration::ZERO))]).await.unwrap();
    assert_eq!(audit(subject).await.differences, []);
    by_hand(subject, &format!("DELETE FROM weft.dead_letter WHERE id = '{}'", ids[0].0)).await;
    let key = |text: &str| Key::new(text).unwrap();
    let first = Difference::DeadWithoutLetter { function: function(), key: key("k1") };
    assert_eq!(audit(subject).await.differences, std::slice::from_ref(&first));

    by_hand(subject, "DELETE FROM weft.invocation WHERE key IN ('k2', 'k3')").await;
    let letterless = |n: usize, id: &DeadLetterId| Difference::LetterWithoutInvocation {
        function: function(),
        key: key(&format!("k{n}")),
        id: id.clone(),
    };
    let all = self::audit(subject).await;
    let rows = Difference::Rows { function: function(), accepted: 3, present: 1, swept: 0 };
    assert_eq!(all.differences, [rows.clone(), first, letterless(2, &ids[1]), letterless(3, &ids[2])]);
    let some = subject.ledger.audit(1).await.unwrap();
    assert_eq!((some.differences.as_slice(), some.differences_found), ([rows].as_slice(), 4));

    // Redriven, an invocation may succeed and be swept: its letter stays, and nothing is wrong.
    let id = die(subject, &*session, "k4").await;
    assert_eq!(subject.ledger.redrive(&id, &redrive()).await.unwrap(), Redriven::Done);
    settle(subject, &*session, "k4", succeeded("1", Duration::ZERO)).await;
    assert_eq!(subject.ledger.sweep(10).await.unwrap(), 1);
    subject.drain().await;
    assert_eq!(self::audit(subject).await.differences_found, 4);
}

pub async fn a_retry_whose_invocation_is_gone_is_a_difference(subject: &Subject) {
    let session = subject.enter("a").await;
    for key in ["k1", "k2"] {
        settle(subject, &*session, key, waiting(HOUR)).await;
    }
    let id = die(subject, &*session, "k3").await;
    assert_eq!(subject.ledger.redrive(&id, &redrive()).await.unwrap(), Redriven::Done);
    assert_eq!(audit(subject).await.differences, []);
    by_hand(subject, "DELETE FROM weft.invocation WHERE key <> 'k1'; UPDATE weft.tally SET accepted = 1").await;
    let gone = |text: &str| Difference::RetryWithoutInvocation { function: function(), key: Key::new(text).unwrap() };
    assert_eq!(audit(subject).await.differences, [gone("k2"), gone("k3")]);
    // The dispatcher does not depend on it: the message makes a new invocation.
    subject.run(&*session, "k2", "x").await;
}

pub async fn what_should_have_left_long_ago_is_a_difference(subject: &Subject) {
    let session = subject.enter("a").await;
    settle(subject, &*session, "k", waiting(Duration::ZERO)).await;
    subject.ledger.post(&[outgoing(OutboxKind::Reply, "reply", Duration::from_secs(40))]).await.unwrap();
    subject.ledger.advance(Duration::from_secs(30)).await.unwrap();
    assert_eq!(audit(subject).await.differences, []);
    // Put off again and again, it is still late: what counts is when it was due at first.
    let batch = subject.ledger.due(10).await.unwrap();
    let failed: Vec<(OutboxId, Duration, String)> =
        batch.rows().iter().map(|due| (due.id, HOUR, "no queue takes it".to_owned())).collect();
    assert_eq!(failed.len(), 1);
    let id = failed[0].0;
    batch.finish(&[], &failed).await.unwrap();
    subject.ledger.advance(Duration::from_secs(40)).await.unwrap();
    let (function, key) = (Some(function()), Some(Key::new("k").unwrap()));
    let retry = Difference::Overdue { kind: OutboxKind::Retry, id, function, key, tries: 1 };
    assert_eq!(audit(subject).await.differences, std::slice::from_ref(&retry));
    subject.ledger.advance(Duration::from_secs(40)).await.unwrap();
    let reply = audit(subject).await.differences.remove(1);
    assert!(
        matches!(reply, Difference::Overdue { kind: OutboxKind::Reply, function: None, key: None, tries: 0, .. }),
        "{reply:?}"
    );
}
