//! Rows that the ledger does not take.

use super::*;

fn refusal() -> weft_ledger::Error {
    let source = weft_ledger::sqlx::Error::Encode("a text with a NUL".into());
    weft_ledger::Error::Statement { doing: "settle invocations", source: Box::new(source) }
}

impl Bench {
    fn settle_refused(&mut self, settles: &[Settle]) -> Vec<Action> {
        let keys = settles.iter().map(|settle| settle.key.clone()).collect();
        self.handle(Input::Settled { keys, result: Err(refusal()) })
    }
}

#[test]
fn one_settle_that_the_ledger_refuses_does_not_hold_up_its_neighbours() {
    let mut bench = bench(2, 1);
    let (worker, bad) = bench.running("bad");
    let asked = claimed(&bench.deliver(vec![message("good", "a")]));
    let good = invoked(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]))[0].1.clone();
    let first = settles(&bench.outcome(worker, &bad, succeeded()));
    assert_eq!(first.len(), 1);
    bench.outcome(worker, &good, succeeded());
    // The first goes alone and is refused; the other goes at once.
    let next = settles(&bench.settle_refused(&first));
    assert_eq!(next.iter().map(|settle| settle.key.as_str()).collect::<Vec<_>>(), ["good"]);
    assert_eq!(acked(&bench.settled(&next, Settled::Done)), [2]);
    let again = settles(&bench.later(Duration::from_secs(1)));
    assert_eq!(again[0].key.as_str(), "bad");
}

#[test]
fn a_settle_that_is_refused_for_good_becomes_a_plain_death() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let mut settle = settles(&bench.outcome(worker, &invoke, succeeded()));
    for _ in 0..2 {
        assert!(settles(&bench.settle_refused(&settle)).is_empty(), "it does not spin");
        settle = settles(&bench.later(Duration::from_secs(1)));
        assert!(matches!(settle[0].to, Settlement::Succeeded { .. }), "it is tried as it is");
    }
    bench.settle_refused(&settle);
    let settle = settles(&bench.later(Duration::from_secs(1)));
    let Settlement::Dead { letter, .. } = &settle[0].to else { panic!("{settle:?}") };
    assert_eq!((letter.reason, letter.error.kind.as_str()), (Reason::Terminal, "RefusedByLedger"));
    assert_eq!(acked(&bench.settled(&settle, Settled::Done)), [1]);
}

#[test]
fn what_the_ledger_takes_in_no_form_stays_unacked_and_is_tried_ever_more_slowly() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let mut settle = settles(&bench.outcome(worker, &invoke, succeeded()));
    let mut tries = 0;
    for _ in 0..600 {
        if !settle.is_empty() {
            tries += 1;
            assert!(acked(&bench.settle_refused(&settle)).is_empty());
        }
        settle = settles(&bench.later(Duration::from_secs(1)));
    }
    assert!((10..25).contains(&tries), "{tries} tries in ten minutes");
}

#[test]
fn an_outage_of_the_ledger_never_turns_a_success_into_a_death() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let mut settle = settles(&bench.outcome(worker, &invoke, succeeded()));
    for _ in 0..10 {
        let keys = vec![settle[0].key.clone()];
        bench.handle(Input::Settled { keys, result: Err(unreachable()) });
        settle = settles(&bench.later(Duration::from_secs(10)));
        assert!(matches!(settle[0].to, Settlement::Succeeded { .. }));
    }
}

#[test]
fn a_letter_that_the_ledger_refuses_does_not_hold_up_the_others_and_gets_a_plain_error() {
    let mut bench = bench(1, 1);
    let bad = Message { body: Bytes::from_static(b"no json"), ..message("k", "a") };
    let buried = |actions: &[Action]| {
        actions.iter().find_map(|action| if let Action::Bury(burials) = action { Some(burials.clone()) } else { None })
    };
    let mut burials = buried(&bench.deliver(vec![bad.clone()])).unwrap();
    for n in 0..3 {
        assert_eq!(burials[0].letter.error.kind, "Undecodable", "try {n}");
        assert!(
            buried(&bench.handle(Input::Buried { burials, known: Vec::new(), result: Err(refusal()) })).is_none(),
            "it does not spin"
        );
        burials = buried(&bench.later(Duration::from_secs(1))).unwrap();
    }
    assert_eq!((burials.len(), burials[0].letter.error.kind.as_str()), (1, "RefusedByLedger"));
    assert_eq!(acked(&bench.handle(Input::Buried { burials, known: Vec::new(), result: Ok(()) })), [1]);
}

#[test]
fn an_error_with_a_nul_from_a_worker_of_another_make_is_cleaned() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let error = ErrorInfo { kind: "E\0".to_owned(), message: "x\0y".repeat(10_000) };
    let settle = settles(&bench.outcome(worker, &invoke, Outcome::Failed { error })).remove(0);
    let Settlement::Dead { letter, .. } = settle.to else { panic!("{settle:?}") };
    assert_eq!(letter.error.kind, "E\u{fffd}");
    assert!(!letter.error.message.contains('\0') && letter.error.message.len() <= 8 * 1024);
}
