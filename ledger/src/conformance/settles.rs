//! What an attempt's end writes, and what is refused.

use weft_schemas::Epoch;

use super::*;
use crate::State;

pub async fn case_21_a_mixed_batch_settles_with_its_outbox_and_refuses_the_stale(subject: &Subject) {
    let session = subject.enter("a").await;
    let mut claims = std::collections::HashMap::new();
    for key in ["done", "wait", "dead", "back", "stale"] {
        claims.insert(key, subject.run(&*session, key, "x").await);
    }
    let settle = |key: &str, to| Settle { key: Key::new(key).unwrap(), fence: claims[key].fence, to };
    let with_events = |tag: &str| Settlement::Succeeded {
        result: Bytes::from_static(b"1"),
        keep: HOUR,
        outbox: ["1", "2"].map(|n| outgoing(OutboxKind::Emit, &format!("{tag}{n}"), Duration::ZERO)).into(),
    };
    let mut stale = settle("stale", with_events("stale"));
    stale.fence = Fence(99);
    let batch = [
        settle("done", with_events("done")),
        stale,
        settle("wait", waiting(HOUR)),
        settle("dead", dead("dead", &claims["dead"])),
        settle("back", Settlement::Released),
        Settle { key: Key::new("absent").unwrap(), fence: Fence(1), to: with_events("absent") },
    ];
    let settled = subject.ledger.settle(&function(), &batch).await.unwrap();
    use Settled::{AuthorityLost, Done};
    assert_eq!(settled, [Done, AuthorityLost, Done, Done, Done, AuthorityLost]);

    for (key, state) in [
        ("done", State::Succeeded),
        ("wait", State::Waiting),
        ("dead", State::Dead),
        ("back", State::Waiting),
        ("stale", State::Claimed),
    ] {
        assert_eq!(subject.record(key).await.unwrap().state, state, "{key}");
    }
    let record = subject.record("done").await.unwrap();
    assert_eq!((record.result.as_deref(), record.error), (Some("1"), None));
    assert_eq!(subject.record("wait").await.unwrap().error, Some(failure()));
    assert_eq!(subject.record("dead").await.unwrap().error, Some(failure()));

    let mut texts: Vec<_> = subject.drain().await.into_iter().map(|(_, text)| text).collect();
    texts.sort();
    assert_eq!(texts, ["copy", "done1", "done2"]);
    subject.ledger.advance(HOUR).await.unwrap();
    assert_eq!(subject.drain().await, [(OutboxKind::Retry, "retry".to_owned())]);
    let letters = subject.ledger.dead_letters(&crate::DeadLetterQuery::default()).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].letter, letter("dead", &claims["dead"], Reason::Exhausted));
}

pub async fn settling_twice_is_refused(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", claim.fence, succeeded("1", HOUR)).await, Settled::Done);
    for to in [succeeded("2", HOUR), waiting(HOUR), Settlement::Released, dead("k", &claim)] {
        assert_eq!(subject.settle("k", claim.fence, to).await, Settled::AuthorityLost);
    }
    assert_eq!(subject.record("k").await.unwrap().result.as_deref(), Some("1"));
    assert_eq!(subject.drain().await, []);
}

pub async fn a_release_costs_no_attempt(subject: &Subject) {
    let session = subject.enter("a").await;
    let mut last = Fence(0);
    for _ in 0..3 {
        let claim = subject.run(&*session, "k", "x").await;
        assert_eq!(claim.attempt, Attempt(1));
        assert!(claim.fence > last, "{claim:?}");
        last = claim.fence;
        assert_eq!(subject.settle("k", claim.fence, Settlement::Released).await, Settled::Done);
        assert_eq!(subject.record("k").await.unwrap().attempt, Attempt(0));
    }
    assert_eq!(subject.drain().await, [], "the broker still holds the event");
}

pub async fn case_13_the_same_owner_cannot_settle_with_its_older_fence(subject: &Subject) {
    let session = subject.enter("a").await;
    let old = subject.run(&*session, "k", "x").await;
    assert_eq!(subject.settle("k", old.fence, Settlement::Released).await, Settled::Done);
    let new = subject.run(&*session, "k", "x").await;
    // Both in one batch, as two tasks of one dispatcher may send them.
    let batch = [old, new].map(|claim| Settle {
        key: Key::new("k").unwrap(),
        fence: claim.fence,
        to: succeeded(&claim.fence.to_string(), HOUR),
    });
    let settled = subject.ledger.settle(&function(), &batch).await.unwrap();
    assert_eq!(settled, [Settled::AuthorityLost, Settled::Done]);
    assert_eq!(subject.record("k").await.unwrap().result, Some(new.fence.to_string()));
}

pub async fn case_12_nothing_late_touches_a_successors_success(subject: &Subject) {
    let first = subject.enter("a").await;
    let stale = subject.run(&*first, "k", "x").await;
    drop(first);
    let second = subject.enter("a").await;
    let taken = subject.run(&*second, "k", "x").await;
    assert_eq!(subject.settle("k", taken.fence, succeeded("mine", HOUR)).await, Settled::Done);
    let before = subject.record("k").await.unwrap();
    for to in [succeeded("late", HOUR), waiting(HOUR), Settlement::Released, dead("k", &stale)] {
        assert_eq!(subject.settle("k", stale.fence, to).await, Settled::AuthorityLost);
    }
    let after = subject.record("k").await.unwrap();
    assert_eq!((before.updated_at, after.result.as_deref()), (after.updated_at, Some("mine")));
    assert_eq!(subject.drain().await, []);
}

pub async fn a_crash_is_counted(subject: &Subject) {
    let session = subject.enter("a").await;
    for crashes in 0..3 {
        let claim = subject.run(&*session, "k", "x").await;
        assert_eq!((claim.crashes, claim.attempt, claim.epoch), (crashes, Attempt(crashes + 1), Epoch(0)));
        let to = Settlement::Waiting {
            error: failure(),
            crashed: true,
            retry: outgoing(OutboxKind::Retry, "retry", Duration::ZERO),
        };
        assert_eq!(subject.settle("k", claim.fence, to).await, Settled::Done);
    }
    assert_eq!(subject.record("k").await.unwrap().crashes, 3);
}

pub async fn a_thousand_settle_at_once(subject: &Subject) {
    let session = subject.enter("a").await;
    let requests: Vec<_> = (0..1000).map(|n| request(&format!("k{n}"), "x")).collect();
    let verdicts = subject.claim_all(&*session, &requests).await;
    let settles: Vec<_> = requests
        .iter()
        .zip(verdicts)
        .map(|(request, verdict)| Settle {
            key: request.key.clone(),
            fence: granted(verdict).fence,
            to: Settlement::Succeeded {
                result: Bytes::copy_from_slice(request.key.as_str().as_bytes()),
                keep: HOUR,
                outbox: vec![outgoing(OutboxKind::Emit, request.key.as_str(), Duration::ZERO)],
            },
        })
        .collect();
    let settled = subject.ledger.settle(&function(), &settles).await.unwrap();
    assert!(settled.iter().all(|settled| *settled == Settled::Done));
    // Each row got its own values, and the outbox kept the order.
    for n in [0, 1, 500, 999] {
        assert_eq!(subject.record(&format!("k{n}")).await.unwrap().result, Some(format!("k{n}")));
    }
    let texts: Vec<_> = subject.drain().await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, (0..1000).map(|n| format!("k{n}")).collect::<Vec<_>>());
}

pub async fn racing_settles_of_one_claim_have_one_winner(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    let racers: Vec<_> = (0..20)
        .map(|n| {
            let ledger = subject.ledger.clone();
            let to = Settlement::Succeeded {
                result: Bytes::from(n.to_string()),
                keep: HOUR,
                outbox: vec![outgoing(OutboxKind::Emit, &n.to_string(), Duration::ZERO)],
            };
            let settle = Settle { key: Key::new("k").unwrap(), fence: claim.fence, to };
            tokio::spawn(async move { ledger.settle(&function(), &[settle]).await.unwrap().remove(0) })
        })
        .collect();
    let mut won = 0;
    for racer in racers {
        won += usize::from(racer.await.unwrap() == Settled::Done);
    }
    assert_eq!(won, 1);
    let sent = subject.drain().await;
    assert_eq!(sent.len(), 1);
    assert_eq!(subject.record("k").await.unwrap().result.as_ref(), Some(&sent[0].1));
}

pub async fn what_is_held_waits_without_a_message_and_counts_its_attempt(subject: &Subject) {
    let session = subject.enter("a").await;
    let claim = subject.run(&*session, "k", "x").await;
    let held = Settlement::Held { error: failure(), crashed: true, spared: false, due_in: HOUR };
    assert_eq!(subject.settle("k", claim.fence, held).await, Settled::Done);
    assert!(subject.drain().await.is_empty());
    let record = subject.record("k").await.unwrap();
    assert_eq!((record.state, record.failures.len()), (State::Waiting, 1), "{record:?}");
    assert!(matches!(subject.claim(&*session, "k", "x").await, Verdict::Deferred { .. }));

    // Whoever has it in hand may go by his own clock.
    let resumed = ClaimRequest { resume: Some(claim.fence), ..request("k", "x") };
    let again = granted(subject.claim_all(&*session, &[resumed]).await.remove(0));
    assert_eq!((again.attempt, again.crashes), (Attempt(2), 1));
    let held = Settlement::Held { error: failure(), crashed: false, spared: false, due_in: HOUR };
    assert_eq!(subject.settle("k", claim.fence, held.clone()).await, Settled::AuthorityLost);
    assert_eq!(subject.settle("k", again.fence, held).await, Settled::Done);
    subject.ledger.advance(HOUR).await.unwrap();
    assert!(session.renew().await.unwrap());
    let third = subject.run(&*session, "k", "x").await;
    assert_eq!(third.attempt, Attempt(3));
    let spared = Settlement::Held { error: failure(), crashed: true, spared: true, due_in: Duration::ZERO };
    assert_eq!(subject.settle("k", third.fence, spared).await, Settled::Done);
    let again = subject.run(&*session, "k", "x").await;
    assert_eq!((again.attempt, again.crashes), (Attempt(3), 2), "a crash that a neighbour may be to blame for");
}
