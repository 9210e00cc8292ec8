//! Each judgement is seen to fail: good books, and one thing wrong with them.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::books::{Answer, Copy, Effect, Letter};
use crate::workload::{Planned, Request};

fn planned(number: u32, function: &'static str, end: End) -> Planned {
    let counter = (function == "stock").then_some(3);
    Planned { id: format!("e{number}"), function, end, counter, line: String::new() }
}

fn row(function: &str, key: &str, state: &str, fence: i64) -> Row {
    let (function, key, state) = (function.to_owned(), key.to_owned(), state.to_owned());
    let result = (state == "succeeded").then(|| format!("{{\"fence\":{fence}}}"));
    Row { function, key, state, attempt: fence, crashes: 0, epoch: 0, fence, result }
}

fn effect(function: &str, key: &str, fence: i64, about: Option<&str>) -> Effect {
    let about = about.map(str::to_owned);
    Effect { function: function.to_owned(), key: key.to_owned(), fence, attempt: fence, epoch: 0, about }
}

fn run(what: &str, function: &str, key: &str, fence: i64) -> Run {
    Run {
        what: what.to_owned(),
        function: function.to_owned(),
        key: key.to_owned(),
        fence,
        attempt: fence,
        epoch: 0,
        pid: 1,
        node: "node-a".to_owned(),
        nanos: 1_000,
    }
}

fn copy(id: &str, function: &str, reason: &str, event: &str) -> Copy {
    Copy { id: id.to_owned(), function: function.to_owned(), reason: reason.to_owned(), event: event.to_owned() }
}

fn request(correlation: &str, function: &'static str, key: &str) -> Request {
    Request { correlation: correlation.to_owned(), function, key: key.to_owned() }
}

fn answer(message: &str, correlation: &str, body: &str) -> Answer {
    let (message, correlation, body) = (message.to_owned(), correlation.to_owned(), body.to_owned());
    Answer { message, correlation, status: "succeeded".to_owned(), body }
}

/// A run in which everything went as it must: a payment on its second attempt, an order and its shipment, a count, a
/// terminal failure, a malformed event, and a key with two payloads.
fn good() -> Books {
    let copies = vec![
        copy("l1", "doomed", "terminal", "e3"),
        copy("l2", "strict", "undecodable", "e4"),
        copy("l3", "pay", "mismatch", "e5"),
    ];
    let letter = |copy: &Copy| Letter {
        id: copy.id.clone(),
        function: copy.function.clone(),
        key: None,
        reason: copy.reason.clone(),
    };
    Books {
        planned: vec![
            planned(0, "pay", End::Succeeded),
            planned(1, "order", End::Succeeded),
            planned(2, "stock", End::Succeeded),
            planned(3, "doomed", End::Dead("terminal")),
            planned(4, "strict", End::Dead("undecodable")),
            planned(5, "pay", End::Mismatch),
        ],
        rows: vec![
            row("pay", "/soak e0", "succeeded", 2),
            row("order", "/soak e1", "succeeded", 1),
            row("ship", "/weft/order 1f", "succeeded", 1),
            row("stock", "/soak e2", "succeeded", 1),
            row("doomed", "/soak e3", "dead", 1),
            row("pay", "/soak e5", "succeeded", 1),
        ],
        effects: vec![
            effect("pay", "/soak e0", 2, None),
            effect("order", "/soak e1", 1, None),
            effect("ship", "/weft/order 1f", 1, Some("/soak e1")),
            effect("pay", "/soak e5", 1, None),
        ],
        letters: copies.iter().map(letter).collect(),
        copies,
        queues: [("fn.pay".to_owned(), 0), ("crashed".to_owned(), 0)].into(),
        runs: vec![
            run("begin", "pay", "/soak e0", 1),
            run("begin", "pay", "/soak e0", 2),
            run("begin", "order", "/soak e1", 1),
            run("begin", "stock", "/soak e2", 1),
            run("set", "stock", "/soak e2", 1),
        ],
        requests: vec![request("c0", "pay", "/soak e0"), request("c1", "pay", "/soak e0")],
        answers: vec![answer("m0", "c0", r#"{"fence":2}"#), answer("m1", "c1", r#"{"fence":2}"#)],
        state: [("counter-3".to_owned(), Some(1)), ("fence /soak e2".to_owned(), Some(1))].into(),
        ..Books::default()
    }
}

/// What is found wrong after `spoil`.
#[track_caller]
fn spoiled(spoil: impl FnOnce(&mut Books)) -> BTreeSet<Judgement> {
    let mut books = good();
    spoil(&mut books);
    judge(&books).into_iter().map(|finding| finding.judgement).collect()
}

#[test]
fn good_books_are_not_found_fault_with() {
    assert_eq!(judge(&good()), []);
}

#[test]
fn an_event_without_its_end_is_lost() {
    use Judgement::{Answers, Lost, StrangeEffect};
    assert_eq!(spoiled(|books| drop(books.rows.remove(0))), [Answers, Lost, StrangeEffect].into());
    assert_eq!(spoiled(|books| books.planned.push(planned(9, "slow", End::Succeeded))), [Lost].into());
    assert!(spoiled(|books| books.rows[0].state = "dead".to_owned()).contains(&Lost));
    assert!(spoiled(|books| books.rows[4].state = "succeeded".to_owned()).contains(&Lost));
}

#[test]
fn effects_must_be_there_once_and_of_the_fence_that_succeeded() {
    use Judgement::{DoubleEffect, Emitted, MissingEffect, StrangeEffect};
    let double = |books: &mut Books| books.effects.push(effect("pay", "/soak e0", 2, None));
    assert_eq!(spoiled(double), [DoubleEffect].into());
    let late = |books: &mut Books| books.effects.push(effect("pay", "/soak e0", 1, None));
    assert_eq!(spoiled(late), [DoubleEffect, StrangeEffect].into());
    assert_eq!(spoiled(|books| drop(books.effects.remove(0))), [MissingEffect].into());
    assert_eq!(spoiled(|books| books.effects[0].fence = 1), [StrangeEffect].into());
    let of_the_dead = |books: &mut Books| books.effects.push(effect("doomed", "/soak e3", 1, None));
    assert_eq!(spoiled(of_the_dead), [StrangeEffect].into());
    assert_eq!(spoiled(|books| books.effects[2].about = Some("/soak e7".to_owned())), [Emitted].into());
}

#[test]
fn an_order_is_shipped_once() {
    use Judgement::Emitted;
    let lost = |books: &mut Books| {
        books.rows.retain(|row| row.function != "ship");
        books.effects.retain(|effect| effect.function != "ship");
    };
    assert_eq!(spoiled(lost), [Emitted].into());
    let twice_under_two_keys = |books: &mut Books| {
        books.rows.push(row("ship", "/weft/order 2e", "succeeded", 1));
        books.effects.push(effect("ship", "/weft/order 2e", 1, Some("/soak e1")));
    };
    assert_eq!(spoiled(twice_under_two_keys), [Emitted].into());
}

#[test]
fn what_is_left_over_is_found() {
    use Judgement::Left;
    assert!(spoiled(|books| books.rows[3].state = "waiting".to_owned()).contains(&Left));
    assert!(spoiled(|books| books.rows[3].state = "claimed".to_owned()).contains(&Left));
    assert_eq!(spoiled(|books| books.outbox = 1), [Left].into());
    assert_eq!(spoiled(|books| books.queues.extend([("crashed".to_owned(), 1)])), [Left].into());
}

#[test]
fn fences_must_be_single_and_grow_with_the_attempts() {
    use Judgement::Fence;
    assert_eq!(spoiled(|books| books.runs.push(run("begin", "pay", "/soak e0", 2))), [Fence].into());
    assert_eq!(spoiled(|books| books.runs[1].attempt = 0), [Fence].into());
    assert_eq!(spoiled(|books| books.runs[2].fence = 5), [Fence].into());
    // A late beginning is none of these.
    assert_eq!(spoiled(|books| books.runs.swap(0, 1)), [].into());
    // Nor is an attempt that was handed back and counts no more.
    assert_eq!(spoiled(|books| books.runs[1].attempt = 1), [].into());
}

#[test]
fn dead_letters_must_be_those_that_are_expected_and_no_others() {
    use Judgement::{Copies, DeadLetter};
    let innocent = |books: &mut Books| {
        books.copies.push(copy("l9", "pay", "exhausted", "e0"));
        books.letters.push(Letter {
            id: "l9".to_owned(),
            function: "pay".to_owned(),
            key: None,
            reason: "exhausted".to_owned(),
        });
    };
    assert_eq!(spoiled(innocent), [DeadLetter].into());
    assert_eq!(spoiled(|books| drop(books.copies.remove(1))), [Copies, DeadLetter].into());
    assert_eq!(spoiled(|books| drop(books.letters.remove(1))), [Copies].into());
    assert_eq!(spoiled(|books| books.letters[0].reason = "crashed".to_owned()), [Copies].into());
    let again = |books: &mut Books| {
        books.copies.push(copy("l8", "doomed", "terminal", "e3"));
        books.letters.push(Letter {
            id: "l8".to_owned(),
            function: "doomed".to_owned(),
            key: None,
            reason: "terminal".to_owned(),
        });
    };
    assert_eq!(spoiled(again), [DeadLetter].into());
}

#[test]
fn counters_and_fenced_values_must_be_right_unless_redis_was_emptied() {
    use Judgement::State;
    let sum = |sum: i64| move |books: &mut Books| books.state.extend([("counter-3".to_owned(), Some(sum))]);
    assert_eq!(spoiled(sum(2)), [State].into());
    assert_eq!(spoiled(sum(0)), [State].into());
    let emptied = |at: u64, then: &dyn Fn(&mut Books)| {
        spoiled(|books| {
            books.flushed = Some(at);
            then(books);
        })
    };
    assert_eq!(emptied(5_000, &sum(0)), [].into());
    assert_eq!(emptied(5_000, &sum(2)), [State].into());
    let overwritten = |books: &mut Books| {
        books.runs.push(run("set", "stock", "/soak e2", 2));
        books.rows[3].fence = 2;
    };
    assert_eq!(spoiled(overwritten), [State].into());
    assert_eq!(emptied(5_000, &overwritten), [].into());
    assert_eq!(emptied(500, &overwritten), [State].into());
    let gone = |books: &mut Books| books.state.extend([("fence /soak e2".to_owned(), None)]);
    assert_eq!(spoiled(gone), [State].into());
}

#[test]
fn strangers_and_bad_ends_are_found() {
    use Judgement::{Dispatcher, MissingEffect, Stranger};
    let stranger = |books: &mut Books| books.rows.push(row("pay", "/soak e77", "succeeded", 1));
    assert_eq!(spoiled(stranger), [MissingEffect, Stranger].into());
    assert_eq!(spoiled(|books| books.faulty.push("it panicked".to_owned())), [Dispatcher].into());
    assert_eq!(spoiled(|books| books.differences.push("{}".to_owned())), [Judgement::Audit].into());
}

#[test]
fn every_request_must_have_the_answer_that_is_stored() {
    use Judgement::Answers;
    assert_eq!(spoiled(|books| drop(books.answers.pop())), [Answers].into());
    assert_eq!(spoiled(|books| books.answers[1].body = r#"{"fence":1}"#.to_owned()), [Answers].into());
    assert_eq!(spoiled(|books| books.answers[1].status = "dead".to_owned()), [Answers].into());
    assert_eq!(spoiled(|books| books.answers[1].correlation = "c9".to_owned()), [Answers].into());
    assert_eq!(spoiled(|books| books.rows[0].result = None), [Answers].into());
    // Sent twice after a crash, with the same bytes.
    assert_eq!(spoiled(|books| books.answers.push(answer("m2", "c1", r#"{"fence":2}"#))), [].into());
}
