#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use weft_ledger::{Audit, FunctionAudit};

use super::super::Queues;
use super::*;

const GRACE: Duration = Duration::from_secs(10);

fn second(n: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + n).unwrap()
}

fn function() -> FunctionName {
    FunctionName::new("f").unwrap()
}

fn waiting(key: &str, since: i64) -> AtBroker {
    AtBroker { key: Key::new(key).unwrap(), state: State::Waiting, fence: Fence(1), updated_at: second(since) }
}

/// At a second: what needs a message, what the queues hold, and the open letters.
fn look(at: i64, at_broker: Vec<AtBroker>, ready: u64, in_dlq: u64, open_letters: u64) -> Look {
    let books = FunctionAudit {
        function: function(),
        accepted: 10,
        swept: 0,
        claimed: 0,
        lapsed: 0,
        waiting: at_broker.len() as u64,
        succeeded: 5,
        dead: open_letters,
        open_letters,
        outbox_runs: 0,
        outbox_copies: 0,
        at_broker_count: at_broker.len() as u64,
        at_broker,
    };
    let ledger = Audit { at: second(at), functions: vec![books], differences: Vec::new(), differences_found: 0 };
    let queues = BTreeMap::from([(function(), Queues { work: Some(ready), dead: Some(in_dlq) })]);
    Look { counted: (second(at), second(at)), ledger, queues, unrouted: Some(0), crashed: Some(0) }
}

fn stranded(judged: &Judged) -> Vec<&str> {
    let found = judged.findings.iter();
    found
        .filter_map(|finding| match finding {
            Finding::Broker(Broker::Stranded { key, .. }) => Some(key.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn what_waits_for_a_message_that_is_nowhere_is_stranded() {
    let looks = [100, 102].map(|at| look(at, vec![waiting("a", 0), waiting("b", 0)], 0, 0, 0));
    assert_eq!(stranded(&judge(&looks[0], &looks[1], GRACE)), ["a", "b"]);
}

#[test]
fn what_moves_between_the_looks_is_not_stranded() {
    let first = look(100, vec![waiting("a", 0), waiting("b", 0)], 0, 0, 0);
    let second = look(102, vec![waiting("a", 101)], 0, 0, 0);
    assert_eq!(stranded(&judge(&first, &second, GRACE)), Vec::<&str>::new());
}

#[test]
fn what_changed_within_the_grace_is_not_stranded() {
    let looks = [100, 102].map(|at| look(at, vec![waiting("a", 95)], 0, 0, 0));
    assert_eq!(stranded(&judge(&looks[0], &looks[1], GRACE)), Vec::<&str>::new());
    assert_eq!(stranded(&judge(&looks[0], &looks[1], Duration::from_secs(7))), ["a"]);
}

#[test]
fn messages_in_the_queue_may_be_theirs_in_either_look() {
    for (before, after) in [(2, 0), (0, 2)] {
        let both = || vec![waiting("a", 0), waiting("b", 0)];
        let judged = judge(&look(100, both(), before, 0, 0), &look(102, both(), after, 0, 0), GRACE);
        assert_eq!(stranded(&judged), Vec::<&str>::new());
        assert_eq!(judged.backed, BTreeMap::from([(function(), 2)]));
    }
    let looks = [100, 102].map(|at| look(at, vec![waiting("a", 0), waiting("b", 0)], 1, 0, 0));
    assert_eq!(stranded(&judge(&looks[0], &looks[1], GRACE)), ["a", "b"], "one message is not enough for two");
}

#[test]
fn a_dead_letter_queue_with_more_than_the_open_letters_is_suspect_and_with_fewer_is_taken_from() {
    for (in_dlq, suspect, taken) in [(3, None, None), (4, Some(4), None), (1, None, Some(2))] {
        let looks = [100, 102].map(|at| look(at, Vec::new(), 0, in_dlq, 3));
        let judged = judge(&looks[0], &looks[1], GRACE);
        assert_eq!(judged.suspect.get(&function()).copied(), suspect);
        assert_eq!(judged.taken.get(&function()).copied(), taken);
    }
}

#[test]
fn a_letter_that_comes_between_the_looks_makes_no_queue_suspect() {
    let judged = judge(&look(100, Vec::new(), 0, 3, 3), &look(102, Vec::new(), 0, 5, 5), GRACE);
    assert!(judged.suspect.is_empty() && judged.taken.is_empty());
    // Closed letters whose copies still lie there.
    let judged = judge(&look(100, Vec::new(), 0, 5, 5), &look(102, Vec::new(), 0, 5, 2), GRACE);
    assert!(judged.suspect.is_empty());
}

#[test]
fn the_ledger_s_own_differences_count_when_both_looks_have_them() {
    let lost = Difference::Rows { function: function(), accepted: 10, present: 9, swept: 0 };
    let (mut first, mut second) = (look(100, Vec::new(), 0, 0, 0), look(102, Vec::new(), 0, 0, 0));
    second.ledger.differences.push(lost.clone());
    second.ledger.differences_found = 1;
    assert_eq!(judge(&first, &second, GRACE).findings, []);
    first.ledger.differences.push(lost.clone());
    assert_eq!(judge(&first, &second, GRACE).findings, [Finding::Ledger(lost)]);
}
