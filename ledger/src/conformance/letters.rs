//! Finding dead letters, and closing them: by an edited message, or by a purge.

use jiff::Timestamp;
use weft_schemas::Epoch;

use super::*;
use crate::{DeadLetterGroup, DeadLetterQuery, DeadLetterRecord, Redrive, Redriven, State};

fn redrive(successor: Option<&str>) -> Redrive {
    let message = outgoing(OutboxKind::Redrive, "again", Duration::ZERO);
    Redrive { by: "op".to_owned(), message, successor: successor.map(|key| Key::new(key).unwrap()) }
}

fn copy(text: &str) -> OutboxMessage {
    outgoing(OutboxKind::DeadLetter, text, Duration::ZERO)
}

fn all() -> DeadLetterQuery {
    DeadLetterQuery::default()
}

async fn find(subject: &Subject, query: DeadLetterQuery) -> Vec<DeadLetterRecord> {
    subject.ledger.dead_letters(&query).await.unwrap()
}

async fn bodies(subject: &Subject, query: DeadLetterQuery) -> Vec<String> {
    find(subject, query).await.iter().map(|record| body(&record.letter.message)).collect()
}

/// Buries a message that never became an invocation, for a function of its own.
async fn refuse(subject: &Subject, text: &str, function: &str, error: ErrorInfo) {
    let mut letter = refused(text);
    letter.function = FunctionName::new(function).unwrap();
    letter.id = DeadLetterId(text.to_owned());
    letter.error = error;
    subject.ledger.bury(&[(letter, copy(text))]).await.unwrap();
}

/// Claims and buries a key; answers its letter's id.
async fn die(subject: &Subject, session: &dyn NodeSession, key: &str) -> DeadLetterId {
    let claim = subject.run(session, key, "x").await;
    assert_eq!(subject.settle(key, claim.fence, dead(key, &claim)).await, Settled::Done);
    letter(key, &claim, Reason::Exhausted).id
}

pub async fn every_filter_of_letters_selects(subject: &Subject) {
    let timeout = |ms: u32| ErrorInfo::new("Timeout", format!("no answer within {ms} ms"));
    refuse(subject, "1", "f", timeout(30)).await;
    refuse(subject, "2", "f", timeout(40)).await;
    refuse(subject, "3", "g", ErrorInfo::new("Refused", "no")).await;
    let session = subject.enter("a").await;
    die(subject, &*session, "k").await;
    assert_eq!(bodies(subject, all()).await, ["original", "3", "2", "1"]);

    let key = Some(Key::new("k").unwrap());
    assert_eq!(bodies(subject, DeadLetterQuery { key, ..all() }).await, ["original"]);
    let error_kind = Some("Timeout".to_owned());
    assert_eq!(bodies(subject, DeadLetterQuery { error_kind, ..all() }).await, ["2", "1"]);
    let fingerprint = Some(timeout(1).fingerprint());
    assert_eq!(bodies(subject, DeadLetterQuery { fingerprint: fingerprint.clone(), ..all() }).await, ["2", "1"]);
    let reason = Some(Reason::Exhausted);
    assert_eq!(bodies(subject, DeadLetterQuery { reason, fingerprint, ..all() }).await, [""; 0]);

    let found = find(subject, all()).await;
    let at = |place: usize| Some(found[place].buried_at);
    assert_eq!(bodies(subject, DeadLetterQuery { before: at(1), ..all() }).await, ["2", "1"]);
    assert_eq!(bodies(subject, DeadLetterQuery { since: at(1), ..all() }).await, ["original", "3"]);
    assert_eq!(bodies(subject, DeadLetterQuery { since: at(2), before: at(1), ..all() }).await, ["2"]);
    assert_eq!(found[2].fingerprint, timeout(40).fingerprint());
    assert_eq!(found[0].fingerprint, failure().fingerprint());
}

pub async fn letters_are_paged_without_loss_or_repetition(subject: &Subject) {
    // Buried by one statement: many at the same time.
    let letters: Vec<_> = (0..25)
        .map(|n| {
            let text = format!("{n:02}");
            (refused(&text), copy(&text))
        })
        .collect();
    for half in letters.chunks(13) {
        subject.ledger.bury(half).await.unwrap();
    }
    let whole: Vec<_> = find(subject, all()).await.into_iter().map(|record| record.letter.id).collect();
    assert_eq!(whole.len(), 25);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = find(subject, DeadLetterQuery { after, limit: 4, ..all() }).await;
        let Some(last) = page.last() else { break };
        after = Some((last.buried_at, last.letter.id.clone()));
        paged.extend(page.into_iter().map(|record| record.letter.id));
        assert!(paged.len() <= 25, "a page was repeated");
    }
    assert_eq!(paged, whole);
}

pub async fn letters_are_grouped_by_what_they_died_of(subject: &Subject) {
    let timeout = |ms: u32| ErrorInfo::new("Timeout", format!("no answer within {ms} ms"));
    for n in 1..=3 {
        refuse(subject, &format!("f{n}"), "f", timeout(n)).await;
    }
    refuse(subject, "g1", "g", timeout(9)).await;
    refuse(subject, "f4", "f", ErrorInfo::new("Refused", "no")).await;
    let found = find(subject, all()).await;
    let groups = async |query| subject.ledger.dead_letter_groups(&query).await.unwrap();
    let shown = |groups: &[DeadLetterGroup]| {
        let shape = |group: &DeadLetterGroup| format!("{} {} {}", group.function, group.error_kind, group.count);
        groups.iter().map(shape).collect::<Vec<_>>()
    };
    let largest_first = groups(all()).await;
    assert_eq!(shown(&largest_first), ["f Timeout 3", "f Refused 1", "g Timeout 1"]);
    let expected = DeadLetterGroup {
        function: FunctionName::new("f").unwrap(),
        reason: Reason::Undecodable,
        error_kind: "Timeout".to_owned(),
        fingerprint: timeout(1).fingerprint(),
        error_message: timeout(3).message,
        count: 3,
        first_at: found[4].buried_at,
        last_at: found[2].buried_at,
    };
    assert_eq!(largest_first[0], expected);
    assert_eq!(shown(&groups(DeadLetterQuery { limit: 1, ..all() }).await), ["f Timeout 3"]);
    let error_kind = Some("Refused".to_owned());
    assert_eq!(shown(&groups(DeadLetterQuery { error_kind, ..all() }).await), ["f Refused 1"]);
    let before = Some(found[2].buried_at);
    assert_eq!(shown(&groups(DeadLetterQuery { before, ..all() }).await), ["f Timeout 2"]);
    // Closed letters count only when they are asked for.
    assert_eq!(subject.ledger.purge(&[DeadLetterId("f4".to_owned())], "op").await.unwrap(), 1);
    assert_eq!(shown(&groups(all()).await), ["f Timeout 3", "g Timeout 1"]);
    assert_eq!(groups(DeadLetterQuery { include_closed: true, ..all() }).await.len(), 3);
}

pub async fn an_edited_redrive_leaves_the_dead_invocation_dead_and_links_its_successor(subject: &Subject) {
    let session = subject.enter("a").await;
    let id = die(subject, &*session, "k").await;
    subject.drain().await;
    assert_eq!(subject.ledger.redrive(&id, &redrive(Some("k2"))).await.unwrap(), Redriven::Done);
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.state, record.epoch), (State::Dead, Epoch(0)));
    assert_eq!(subject.drain().await, [(OutboxKind::Redrive, "again".to_owned())]);
    assert_eq!(find(subject, all()).await.len(), 0);
    let closed = find(subject, DeadLetterQuery { include_closed: true, ..all() }).await.remove(0);
    assert_eq!(closed.redriven_as, Some(Key::new("k2").unwrap()));
    assert!(closed.redriven_at.is_some() && closed.redriven_by.as_deref() == Some("op"), "{closed:?}");
    for again in [redrive(None), redrive(Some("k3"))] {
        assert_eq!(subject.ledger.redrive(&id, &again).await.unwrap(), Redriven::Already);
    }
    assert_eq!(subject.claim(&*session, "k", "x").await, Verdict::Dead);
    assert_eq!(subject.drain().await, []);
}

pub async fn a_redriven_invocation_is_due_whatever_its_message_waits_for(subject: &Subject) {
    let session = subject.enter("a").await;
    let id = die(subject, &*session, "k").await;
    subject.drain().await;
    let message = outgoing(OutboxKind::Redrive, "again", HOUR);
    let later = Redrive { message, ..redrive(None) };
    assert_eq!(subject.ledger.redrive(&id, &later).await.unwrap(), Redriven::Done);
    let due_at = subject.record("k").await.unwrap().due_at.unwrap();
    assert!(due_at < Timestamp::now() + Duration::from_secs(60), "{due_at}");
    assert_eq!(subject.drain().await, [], "the message itself waits");
    // Even if the clock is set back behind the redrive.
    assert_eq!(subject.run(&*session, "k", "x").await.attempt, Attempt(1));
}

pub async fn a_purge_throws_the_message_away_and_says_who_did_it(subject: &Subject) {
    let session = subject.enter("a").await;
    let id = die(subject, &*session, "k").await;
    let before = find(subject, all()).await.remove(0).letter;
    let redriven = die(subject, &*session, "redriven").await;
    assert_eq!(subject.ledger.redrive(&redriven, &redrive(None)).await.unwrap(), Redriven::Done);
    let unknown = DeadLetterId("unknown".to_owned());
    let ids = [id.clone(), unknown, redriven.clone()];
    assert_eq!(subject.ledger.purge(&ids, "op").await.unwrap(), 1);
    assert_eq!(subject.ledger.purge(&ids, "other").await.unwrap(), 0);
    assert_eq!(subject.ledger.purge(&[], "op").await.unwrap(), 0);
    assert_eq!(find(subject, all()).await.len(), 0);

    let closed = DeadLetterQuery { include_closed: true, id: Some(id.clone()), ..all() };
    let purged = find(subject, closed).await.remove(0);
    assert!(purged.purged_at.is_some() && purged.redriven_at.is_none(), "{purged:?}");
    assert_eq!(purged.purged_by.as_deref(), Some("op"));
    let Message { routing_key, .. } = before.message.clone();
    let left = DeadLetter { message: Message { routing_key, ..Message::default() }, ..before };
    assert_eq!(purged.letter, left, "all but the message's bytes stays");
    let other = DeadLetterQuery { include_closed: true, id: Some(redriven), ..all() };
    assert_eq!(bodies(subject, other).await, ["original"]);

    assert_eq!(subject.record("k").await.unwrap().state, State::Dead);
    assert_eq!(subject.ledger.redrive(&id, &redrive(None)).await.unwrap(), Redriven::Already);
    assert_eq!(subject.claim(&*session, "k", "x").await, Verdict::Dead);
}

pub async fn what_was_closed_is_told_whichever_way_it_was(subject: &Subject) {
    let session = subject.enter("a").await;
    let (open, redriven) = (die(subject, &*session, "open").await, die(subject, &*session, "redriven").await);
    refuse(subject, "purged", "other", failure()).await;
    let purged = DeadLetterId("purged".to_owned());
    assert_eq!(subject.ledger.closed_since(Timestamp::UNIX_EPOCH).await.unwrap().functions, []);
    assert_eq!(subject.ledger.purge(std::slice::from_ref(&purged), "op").await.unwrap(), 1);
    let other = FunctionName::new("other").unwrap();
    assert_eq!(
        subject.ledger.closed_since(Timestamp::UNIX_EPOCH).await.unwrap().functions,
        std::slice::from_ref(&other)
    );
    assert_eq!(subject.ledger.redrive(&redriven, &redrive(None)).await.unwrap(), Redriven::Done);
    let closed = subject.ledger.closed_since(Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(closed.functions, [function(), other]);
    let later = closed.at + jiff::SignedDuration::from_secs(1);
    assert_eq!(subject.ledger.closed_since(later).await.unwrap().functions, []);

    let unknown = DeadLetterId("unknown".to_owned());
    let ids = [open, redriven.clone(), purged.clone(), unknown];
    let found = subject.ledger.closed_letters(&ids).await.unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.contains(&redriven) && found.contains(&purged), "{found:?}");
    assert_eq!(subject.ledger.closed_letters(&[]).await.unwrap(), []);
}

pub async fn a_purged_letter_that_is_buried_again_opens_with_its_message(subject: &Subject) {
    let letter = refused("a");
    subject.ledger.bury(&[(letter.clone(), copy("a"))]).await.unwrap();
    assert_eq!(subject.ledger.purge(std::slice::from_ref(&letter.id), "op").await.unwrap(), 1);
    subject.drain().await;
    subject.ledger.bury(&[(letter.clone(), copy("again"))]).await.unwrap();
    let found = find(subject, all()).await.remove(0);
    assert_eq!((found.letter, found.arrivals, found.purged_at, found.purged_by), (letter.clone(), 2, None, None));
    assert_eq!(subject.drain().await, [(OutboxKind::DeadLetter, "again".to_owned())]);
    assert_eq!(subject.ledger.redrive(&letter.id, &redrive(Some("k2"))).await.unwrap(), Redriven::Done);
    subject.ledger.bury(&[(letter.clone(), copy("third"))]).await.unwrap();
    let found = find(subject, all()).await.remove(0);
    assert_eq!((found.arrivals, found.redriven_at, found.redriven_as), (3, None, None));
}
