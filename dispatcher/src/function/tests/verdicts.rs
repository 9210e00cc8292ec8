//! For each reason an event that dies of it, limits on what handlers answer and emit.

use weft_schemas::DeadLetter;
use weft_schemas::manifest::Schema;

use super::*;
use crate::function::core::Burial;

fn letter(actions: &[Action]) -> Option<DeadLetter> {
    actions.iter().find_map(|action| match action {
        Action::Bury(burials) => burials.first().map(|burial| burial.letter.clone()),
        Action::Settle(settles) => settles.iter().find_map(|settle| match &settle.to {
            Settlement::Dead { letter, .. } => Some(letter.as_ref().clone()),
            _ => None,
        }),
        _ => None,
    })
}

/// The letter of what ends in this way at the attempt and with the crashes before it.
fn ends(attempt: u32, crashes: u32, outcome: Outcome) -> Option<DeadLetter> {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let worker = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, attempt, crashes))]))[0];
    let invoke = invoked(&bench.ready(worker))[0].1.clone();
    letter(&bench.outcome(worker, &invoke, outcome))
}

fn refused(message: Message) -> Option<DeadLetter> {
    letter(&bench_with(1, 1, "max_event = \"1KiB\"").deliver(vec![message]))
}

/// An event that dies of the reason; `None` for one that is not given here.
fn death(reason: Reason) -> Option<DeadLetter> {
    let error = ErrorInfo::new("E", "m");
    let mut plain = message("k", "a");
    match reason {
        Reason::Undecodable => refused(Message { body: Bytes::from_static(b"no json"), ..plain }),
        Reason::Schema => {
            let manifest = "[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\n";
            let mut function =
                Manifest::parse(manifest, Path::new("/")).unwrap().functions.into_values().next().unwrap();
            let document = serde_json::json!({ "required": ["other"] });
            function.schema = Some(Schema { path: "s.json".into(), document });
            letter(&bench_of(function, 1).deliver(vec![plain]))
        }
        Reason::NoKey => refused(Message { body: Bytes::from_static(b"{}"), ..plain }),
        Reason::TooLarge => refused(message("k", &"x".repeat(1024))),
        Reason::TooOld => {
            plain.headers.insert("cloudEvents_time".to_owned(), "2001-01-01T00:00:00Z".into());
            refused(plain)
        }
        Reason::Mismatch => {
            let mut bench = bench(1, 1);
            let asked = claimed(&bench.deliver(vec![plain]));
            letter(&bench.verdicts(&asked, vec![Verdict::Mismatch]))
        }
        Reason::Terminal => ends(1, 0, Outcome::Failed { error }),
        Reason::Exhausted => ends(3, 0, Outcome::Retry { error, after_ms: None }),
        Reason::TimedOut => ends(3, 0, Outcome::TimedOut),
        Reason::Crashed => ends(3, 2, Outcome::Crashed { error }),
        Reason::Recursion => {
            plain.headers.insert("cloudEvents_weftdepth".to_owned(), "17".into());
            refused(plain)
        }
        // No function's loop ever sees it: the nets of the broker bury it.
        Reason::Unroutable => None,
    }
}

#[test]
fn case_23_what_cannot_be_read_is_buried_at_once_with_its_bytes_and_acked_after() {
    let mut bench = bench(1, 1);
    let mut unreadable = message("k", "a");
    unreadable.body = Bytes::from_static(b"\xff{ no json\0");
    let actions = bench.deliver(vec![unreadable.clone()]);
    assert!(claimed(&actions).is_empty() && launched(&actions).is_empty(), "nothing is tried: {actions:?}");
    let [Action::Bury(burials)] = &actions[..] else { panic!("{actions:?}") };
    let letter = &burials[0].letter;
    assert_eq!((letter.reason, letter.attempts), (Reason::Undecodable, Attempt(0)));
    assert_eq!(letter.message, unreadable);
    assert_eq!(burials[0].copy.message.body, unreadable.body, "what lies in the dead-letter queue");
    let burials = burials.clone();
    assert_eq!(acked(&bench.handle(Input::Buried { burials, known: Vec::new(), result: Ok(()) })), [1]);
}

#[test]
fn an_event_dies_of_each_reason_with_its_original_message() {
    for reason in Reason::ALL {
        if reason == Reason::Unroutable {
            continue;
        }
        let letter = death(reason).unwrap_or_else(|| panic!("nothing died of {reason}"));
        assert_eq!(letter.reason, reason, "{:?}", letter.error);
        assert_eq!(letter.message.routing_key, "e");
        assert_eq!(letter.to_message("weft").header("weft-code"), Some(reason.code()));
    }
}

fn old() -> Message {
    let mut old = message("k", "a");
    old.headers.insert("cloudEvents_time".to_owned(), "2001-01-01T00:00:00Z".into());
    old
}

/// What becomes of an old event that comes again, by the ledger's verdict.
fn again(message: Message, verdict: Verdict) -> Vec<Action> {
    let mut bench = bench(1, 1);
    let mut actions = bench.deliver_as(true, vec![message]);
    // What we sent ourselves has a row; of a redelivery the ledger says so.
    if let Some(known) = buried(&actions) {
        actions = bench.handle(Input::Buried { burials: Vec::new(), known, result: Ok(()) });
    }
    let asked = claimed(&actions);
    assert_eq!((asked.len(), letter(&actions)), (1, None), "its row has to end: {actions:?}");
    bench.verdicts(&asked, vec![verdict])
}

#[test]
fn an_old_event_that_comes_again_ends_the_row_that_its_first_delivery_left() {
    let actions = again(old(), Verdict::Run(claim(2, 1, 0)));
    let Settlement::Dead { letter, .. } = &settles(&actions)[0].to else { panic!("{actions:?}") };
    assert_eq!((letter.reason, letter.attempts), (Reason::TooOld, Attempt(0)), "it was never begun");
    assert!(letter.key.is_some() && launched(&actions).is_empty(), "{actions:?}");

    let actions = again(old(), Verdict::Run(claim(2, 2, 1)));
    assert_eq!(
        launched(&actions).len(),
        1,
        "it was begun in time and vanished: its retry is judged by the ledger's clock"
    );
    assert_eq!(acked(&again(old(), Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) })), [1]);
}

/// A function that asks for more by now than when the event was taken in: less bytes, other data, fewer steps.
fn stricter() -> [(Reason, Bench, Message); 3] {
    let manifest = "[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\nidempotency = { key = \"/data/k\" }\n";
    let mut function = Manifest::parse(manifest, Path::new("/")).unwrap().functions.into_values().next().unwrap();
    function.schema = Some(Schema { path: "s.json".into(), document: serde_json::json!({ "required": ["other"] }) });
    let mut deep = message("k", "a");
    deep.headers.insert("cloudEvents_weftdepth".to_owned(), "2".into());
    [
        (Reason::Schema, bench_of(function, 1), message("k", "a")),
        (Reason::TooLarge, bench_with(1, 1, "max_event = \"1KiB\""), message("k", &"x".repeat(1024))),
        (Reason::Recursion, bench_with(1, 1, "max_depth = 1"), deep),
    ]
}

fn buried(actions: &[Action]) -> Option<Vec<Burial>> {
    actions.iter().find_map(|action| if let Action::Bury(burials) = action { Some(burials.clone()) } else { None })
}

#[test]
fn what_the_manifest_refuses_by_now_ends_the_row_that_an_earlier_delivery_left() {
    for (reason, mut bench, message) in stricter() {
        let known = buried(&bench.deliver_as(true, vec![message])).unwrap();
        let asked = claimed(&bench.handle(Input::Buried { burials: Vec::new(), known, result: Ok(()) }));
        assert_eq!(asked.len(), 1, "{reason}: the row that stands for it has to end");
        let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(2, 2, 1))]);
        let Settlement::Dead { letter, .. } = &settles(&actions)[0].to else { panic!("{actions:?}") };
        assert_eq!((letter.reason, letter.attempts), (reason, Attempt(1)), "the one that vanished");
        assert_eq!(letter.key.as_ref().map(Key::as_str), Some("k"));
        assert!(launched(&actions).is_empty(), "{actions:?}");
        assert_eq!(acked(&bench.settled(&settles(&actions), Settled::Done)), [1]);
    }
}

#[test]
fn what_was_refused_before_and_comes_again_is_the_same_dead_letter() {
    for ((reason, mut first, message), (_, mut again, _)) in stricter().into_iter().zip(stricter()) {
        let letter = letter(&first.deliver(vec![message.clone()])).unwrap();
        let actions = again.deliver_as(true, vec![message]);
        let burials = buried(&actions).unwrap();
        assert_eq!((&burials[0].letter.id, claimed(&actions).len()), (&letter.id, 0), "{reason}");
        assert_eq!(acked(&again.handle(Input::Buried { burials, known: Vec::new(), result: Ok(()) })), [1]);
    }
}

#[test]
fn a_first_delivery_that_the_manifest_refuses_leaves_no_row() {
    for (reason, mut bench, message) in stricter() {
        let actions = bench.deliver(vec![message]);
        assert_eq!((letter(&actions).map(|letter| letter.reason), claimed(&actions).len()), (Some(reason), 0));
    }
}

#[test]
fn a_retry_and_a_redrive_that_the_manifest_refuses_by_now_end_the_row_that_waits_for_them() {
    let name = FunctionName::new("f").unwrap();
    let dead = |actions: &[Action]| match &settles(actions)[0].to {
        Settlement::Dead { letter, .. } => letter.as_ref().clone(),
        other => panic!("{other:?}"),
    };
    for (reason, mut bench, message) in stricter() {
        let retry = requeue::retry_message(&message, "weft", &name, Fence(1));
        let asked = claimed(&bench.deliver(vec![retry]));
        let letter = dead(&bench.verdicts(&asked, vec![Verdict::Run(claim(2, 2, 0))]));
        assert_eq!(letter.reason, reason);
        if reason == Reason::Recursion {
            // A redrive begins at one step again.
            continue;
        }
        let (_, mut bench, _) = stricter().into_iter().find(|(which, ..)| *which == reason).unwrap();
        let asked = claimed(&bench.deliver(vec![requeue::redrive_message(&letter, "weft")]));
        let redriven = Claim { epoch: Epoch(1), ..claim(3, 1, 0) };
        assert_eq!(dead(&bench.verdicts(&asked, vec![Verdict::Run(redriven)])).reason, reason);
    }
}

#[test]
fn a_retry_and_a_redrive_find_their_row_although_the_manifest_names_another_key() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    let error = ErrorInfo::new("E", "m");
    let parked = settles(&bench.outcome(worker, &invoke, Outcome::Retry { error: error.clone(), after_ms: None }));
    let Settlement::Waiting { retry, .. } = &parked[0].to else { panic!("{parked:?}") };
    let given_up = letter(&bench_running_to(Outcome::Failed { error })).unwrap();

    let other = || {
        let manifest = "[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\nidempotency = { key = \"/data/none\" }\n";
        bench_of(Manifest::parse(manifest, Path::new("/")).unwrap().functions.into_values().next().unwrap(), 1)
    };
    for message in [retry.message.clone(), requeue::redrive_message(&given_up, "weft")] {
        let asked = claimed(&other().deliver(vec![message]));
        assert_eq!(asked.iter().map(Key::as_str).collect::<Vec<_>>(), ["k"]);
    }
    // Nothing says which row a redelivery may have left: it becomes a letter, and weft audit shows the row.
    let refused = letter(&other().deliver_as(true, vec![message("k", "a")])).unwrap();
    assert_eq!((refused.reason, refused.key), (Reason::NoKey, None));
}

/// What a first attempt that ends so leads to.
fn bench_running_to(outcome: Outcome) -> Vec<Action> {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.running("k");
    bench.outcome(worker, &invoke, outcome)
}

#[test]
fn an_old_event_whose_row_was_redriven_runs_whichever_message_claims_it() {
    let redriven = Claim { epoch: Epoch(1), ..claim(2, 1, 0) };
    assert_eq!(launched(&again(old(), Verdict::Run(redriven))).len(), 1, "its own message, once more");
    let letter = letter(&bench(1, 1).deliver(vec![old()])).unwrap();
    let mut bench = bench(1, 1);
    let known = buried(&bench.deliver_as(true, vec![old()])).unwrap();
    let asked = claimed(&bench.handle(Input::Buried { burials: Vec::new(), known, result: Ok(()) }));
    bench.deliver(vec![requeue::redrive_message(&letter, "weft")]);
    assert_eq!(
        launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))])).len(),
        1,
        "a redrive has joined it"
    );
}

#[test]
fn an_event_at_the_depth_limit_runs_and_what_it_emits_is_one_step_further() {
    let mut bench = bench(1, 1);
    let mut at_limit = message("k", "a");
    at_limit.headers.insert("cloudEvents_weftdepth".to_owned(), "16".into());
    let asked = claimed(&bench.deliver(vec![at_limit]));
    let worker = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]))[0];
    let invoke = invoked(&bench.ready(worker))[0].1.clone();
    let emits = vec![Event::decode(&message("next", "a")).unwrap()];
    let from = FromWorker::Outcome { id: invoke.id, outcome: succeeded(), emits, entered_us: None };
    let settles = settles(&bench.handle(Input::Worker(worker, from)));
    let Settlement::Succeeded { outbox, .. } = &settles[0].to else { panic!("{settles:?}") };
    assert_eq!(Event::decode(&outbox[0].message).unwrap().depth(), 17, "whether the worker knows of depth or not");
    assert_eq!(letter(&bench.deliver(vec![outbox[0].message.clone()])).unwrap().reason, Reason::Recursion);
}

#[test]
fn a_retry_keeps_its_depth_and_a_redrive_begins_anew() {
    let mut deep = message("k", "a");
    deep.headers.insert("cloudEvents_weftdepth".to_owned(), "17".into());
    let function = FunctionName::new("f").unwrap();
    let retry = requeue::retry_message(&deep, "weft", &function, Fence(1));
    assert_eq!(Event::decode(&retry).unwrap().depth(), 17);

    let letter = letter(&bench(1, 1).deliver(vec![deep])).unwrap();
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![requeue::redrive_message(&letter, "weft")]));
    let worker = launched(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]))[0];
    let invoke = invoked(&bench.ready(worker))[0].1.clone();
    assert_eq!(invoke.event.depth(), 0, "so that what it emits is one step away");
}

#[test]
fn depth_is_not_looked_at_where_the_manifest_says_so() {
    let mut deep = message("k", "a");
    deep.headers.insert("cloudEvents_weftdepth".to_owned(), "4000000000".into());
    assert_eq!(claimed(&bench_with(1, 1, "max_depth = 0").deliver(vec![deep])).len(), 1);
}

#[test]
fn case_25_a_result_over_the_limit_is_a_terminal_failure_whatever_the_worker_let_pass() {
    let answer = |bytes: usize| {
        let mut bench = bench_with(1, 1, "max_result = \"1KiB\"");
        let (worker, invoke) = bench.running("k");
        let result = Bytes::from(vec![b'1'; bytes]);
        settles(&bench.outcome(worker, &invoke, Outcome::Succeeded { result })).remove(0).to
    };
    assert!(matches!(answer(1024), Settlement::Succeeded { .. }));
    let Settlement::Dead { letter, .. } = answer(1025) else { panic!("it was kept") };
    assert_eq!((letter.reason, letter.error.kind.as_str()), (Reason::Terminal, "ResultTooLarge"));
}
