#![allow(clippy::unwrap_used)]

use super::*;
use crate::dataset::accounts;

/// What a run without any fault leaves.
fn faultless(expected: &Expected) -> Observed {
    let mut observed =
        Observed { balances: expected.balances.clone(), counters: expected.counters.clone(), ..Observed::default() };
    for (function, end) in &expected.functions {
        observed.dead.insert(function.clone(), end.dead.clone());
    }
    for (id, order) in &expected.orders {
        // In the order of the flow, since later functions are expected by what became of the earlier ones.
        for function in FUNCTIONS {
            if let Some(state) = final_state(function, id, order, &observed) {
                observed.invocations.entry(function.to_owned()).or_default().insert(id.clone(), state);
            }
        }
        for (table, function) in TABLES {
            if state_of(&observed, function, id) == Some(State::Succeeded) {
                let n = if table == "order_lines" { order.lines } else { 1 };
                observed.rows.entry(table.to_owned()).or_default().insert(id.clone(), n);
            }
        }
        if order.end == End::Paid {
            *observed.paid.entry(order.customer.clone()).or_default() += order.total_minor;
        }
    }
    observed
}

/// The committed end state, what a faultless run leaves, and the ids of a paid, an unpaid and the poison order.
fn setting() -> (Expected, Observed, [String; 3]) {
    let expected = Expected::committed().unwrap();
    let observed = faultless(&expected);
    let first = |end| expected.orders.iter().find(|(_, order)| order.end == end).unwrap().0.clone();
    let ids = [first(End::Paid), first(End::Unpaid), first(End::Crashed)];
    (expected, observed, ids)
}

fn row<'a>(observed: &'a mut Observed, table: &str, id: &str) -> &'a mut u64 {
    observed.rows.get_mut(table).unwrap().entry(id.to_owned()).or_default()
}

fn forget(observed: &mut Observed, function: &str, id: &str) {
    observed.invocations.get_mut(function).unwrap().remove(id).unwrap();
}

#[test]
fn a_faultless_run_passes_and_agrees_with_the_model_s_counts() {
    let (expected, observed, _) = setting();
    let verdict = compare(&expected, &observed, accounts());
    assert!(verdict.passes(), "{verdict:?}");
    for (table, &n) in &expected.rows {
        assert_eq!(observed.rows[table].values().sum::<u64>(), n, "{table}");
    }
    for (function, end) in &expected.functions {
        let all = observed.invocations[function].values();
        assert_eq!(all.filter(|state| **state == State::Succeeded).count() as u64, end.succeeded, "{function}");
    }
}

#[test]
fn a_row_too_many_is_a_double_effect_in_every_table() {
    let (expected, observed, [paid, unpaid, poison]) = setting();
    for (table, _) in TABLES {
        let mut observed = observed.clone();
        *row(&mut observed, table, &paid) += 2;
        let verdict = compare(&expected, &observed, accounts());
        assert_eq!((verdict.lost, verdict.double_effects, verdict.differences.len()), (0, 2, 1), "{table}");
    }
    // Effects of invocations that did not succeed are one too many as well.
    for (table, id) in [("payments", &unpaid), ("orders", &poison)] {
        let mut observed = observed.clone();
        *row(&mut observed, table, id) += 1;
        assert_eq!(compare(&expected, &observed, accounts()).double_effects, 1, "{table}");
    }
}

#[test]
fn an_effect_that_its_invocation_accounts_for_and_is_not_there_is_lost() {
    let (expected, observed, [paid, ..]) = setting();
    for (table, _) in TABLES {
        let mut observed = observed.clone();
        *row(&mut observed, table, &paid) -= 1;
        let verdict = compare(&expected, &observed, accounts());
        assert_eq!((verdict.lost, verdict.double_effects), (1, 0), "{table}");
    }
}

#[test]
fn an_event_that_is_neither_invocation_nor_dead_letter_is_lost_once() {
    let (expected, mut observed, [paid, ..]) = setting();
    // Lost at the first step: nothing that follows from it can be there, and none of that is lost once more.
    for function in [CREATE, CHARGE, NOTIFY] {
        forget(&mut observed, function, &paid);
    }
    for (table, _) in TABLES {
        *row(&mut observed, table, &paid) = 0;
    }
    let order = &expected.orders[&paid];
    *observed.paid.get_mut(&order.customer).unwrap() -= order.total_minor;
    *observed.balances.get_mut(&order.customer).unwrap() += order.total_minor;
    let verdict = compare(&expected, &observed, accounts());
    assert_eq!((verdict.lost, verdict.double_effects), (1, 0), "{verdict:?}");
}

#[test]
fn an_emitted_event_that_never_arrives_is_lost() {
    let (expected, mut observed, [paid, ..]) = setting();
    forget(&mut observed, NOTIFY, &paid);
    *row(&mut observed, "notifications", &paid) = 0;
    assert_eq!(compare(&expected, &observed, accounts()).lost, 1);
}

#[test]
fn a_missing_dead_letter_is_lost_and_another_reason_is_only_a_difference() {
    let (expected, observed, _) = setting();
    for (function, reason) in [(CREATE, "undecodable"), (CREATE, "crashed"), (CHARGE, "terminal")] {
        let mut observed = observed.clone();
        *observed.dead.get_mut(function).unwrap().get_mut(reason).unwrap() -= 1;
        assert_eq!(compare(&expected, &observed, accounts()).lost, 1, "{reason}");
    }
    let mut observed = observed;
    let dead = observed.dead.get_mut(CREATE).unwrap();
    *dead.get_mut("schema").unwrap() -= 1;
    *dead.get_mut("undecodable").unwrap() += 1;
    let verdict = compare(&expected, &observed, accounts());
    assert_eq!((verdict.lost, verdict.double_effects, verdict.differences.len()), (0, 0, 2), "{verdict:?}");
}

#[test]
fn an_account_charged_behind_the_payments_back_is_a_double_effect() {
    let (expected, mut observed, [paid, ..]) = setting();
    let customer = &expected.orders[&paid].customer;
    *observed.balances.get_mut(customer).unwrap() -= 5;
    let verdict = compare(&expected, &observed, accounts());
    assert_eq!((verdict.lost, verdict.double_effects), (0, 1), "{verdict:?}");
}

#[test]
fn a_counter_too_high_is_double_and_one_too_low_is_lost() {
    let (expected, observed, _) = setting();
    for (by, lost, double) in [(1, 0, 1), (-1, 1, 0)] {
        let mut observed = observed.clone();
        *observed.counters.get_mut("units:chair").unwrap() += by;
        let verdict = compare(&expected, &observed, accounts());
        assert_eq!((verdict.lost, verdict.double_effects), (lost, double), "{verdict:?}");
    }
}

#[test]
fn work_that_is_not_done_is_a_difference_and_not_a_loss() {
    let (expected, mut observed, [paid, ..]) = setting();
    observed.invocations.get_mut(NOTIFY).unwrap().insert(paid.clone(), State::Waiting);
    *row(&mut observed, "notifications", &paid) = 0;
    let verdict = compare(&expected, &observed, accounts());
    assert_eq!((verdict.lost, verdict.double_effects, verdict.differences.len()), (0, 0, 1), "{verdict:?}");
    assert!(!verdict.passes());
}

#[test]
fn nothing_at_all_is_not_taken_for_a_pass() {
    let (expected, ..) = setting();
    let verdict = compare(&expected, &Observed::default(), accounts());
    // Every order at both first functions, and every refused event at both.
    assert_eq!(verdict.lost, 2 * (257 + 23), "{:?}", &verdict.differences[..5]);
}
