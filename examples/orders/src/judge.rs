//! The judge: what is there, against what must be there.
//!
//! Every effect of the shop leaves a row of its own in a table without a unique constraint, so an effect that happened
//! twice is seen as what it is, and not hidden by the database.

mod observe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use weft_ledger::State;

use crate::dataset::Account;
use crate::model::{End, Expected, OrderEnd};

pub use observe::{ObserveError, observe};

/// What is there, as read at one time.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Invocations by function and key, which is the order's id.
    pub invocations: BTreeMap<String, BTreeMap<String, State>>,
    /// Dead letters by function and reason.
    pub dead: BTreeMap<String, BTreeMap<String, u64>>,
    /// Number of rows by table and order.
    pub rows: BTreeMap<String, BTreeMap<String, u64>>,
    /// What each customer's account holds, in minor units.
    pub balances: BTreeMap<String, i64>,
    /// The sum of each customer's payments, in minor units.
    pub paid: BTreeMap<String, i64>,
    /// `update-analytics`'s counters by name; those that do not exist are absent.
    pub counters: BTreeMap<String, i64>,
}

/// The judgement.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// What has vanished: events that should be an invocation or a dead letter and are neither, dead invocations without
    /// a dead letter, and effects that an invocation says it had and that are not there.
    pub lost: u64,
    /// Effects beyond one per order: rows, accounts charged more than their payments say, counters that are too high.
    pub double_effects: u64,
    /// Everything that is not as expected, for people; what is lost or double included.
    pub differences: Vec<String>,
}

impl Verdict {
    /// Whether everything is as expected.
    pub fn passes(&self) -> bool {
        self.lost == 0 && self.double_effects == 0 && self.differences.is_empty()
    }

    fn lost(&mut self, n: u64, what: String) {
        self.lost += n;
        self.differences.push(what);
    }

    fn double(&mut self, n: u64, what: String) {
        self.double_effects += n;
        self.differences.push(what);
    }
}

const CREATE: &str = "create-order";
const CHARGE: &str = "charge-payment";
const NOTIFY: &str = "notify-customer";
const ANALYTICS: &str = "update-analytics";
const FUNCTIONS: [&str; 4] = [CREATE, CHARGE, NOTIFY, ANALYTICS];
/// Tables, and the function whose effect a row is.
const TABLES: [(&str, &str); 5] =
    [("orders", CREATE), ("order_lines", CREATE), ("audit", CREATE), ("payments", CHARGE), ("notifications", NOTIFY)];
/// Reasons of dead letters that have an invocation behind them.
const AFTER_AN_ATTEMPT: [&str; 4] = ["terminal", "exhausted", "timed_out", "crashed"];

/// Compares. `accounts` are those that the ledger's database was prepared with.
///
/// It takes the state of things for final: an invocation that is still claimed or waiting is a difference, though not lost.
pub fn compare(expected: &Expected, observed: &Observed, accounts: &[Account]) -> Verdict {
    let mut verdict = Verdict::default();
    for function in FUNCTIONS {
        invocations(function, expected, observed, &mut verdict);
        dead_letters(function, expected, observed, &mut verdict);
    }
    for (table, function) in TABLES {
        rows(table, function, expected, observed, &mut verdict);
    }
    for account in accounts {
        balance(account, expected, observed, &mut verdict);
    }
    counters(expected, observed, &mut verdict);
    verdict
}

fn state_of(observed: &Observed, function: &str, order: &str) -> Option<State> {
    observed.invocations.get(function)?.get(order).copied()
}

/// The state that an order's invocation of a function must end in; `None` when there must be none. What follows from an
/// invocation is expected only if that one did succeed, so that one fault is not counted again at each later step.
fn final_state(function: &str, id: &str, order: &OrderEnd, observed: &Observed) -> Option<State> {
    let after = |earlier: &str| state_of(observed, earlier, id) == Some(State::Succeeded);
    match (function, order.end) {
        (CREATE, End::Crashed) => Some(State::Dead),
        (CREATE | ANALYTICS, _) => Some(State::Succeeded),
        (CHARGE, End::Paid) => after(CREATE).then_some(State::Succeeded),
        (CHARGE, End::Unpaid) => after(CREATE).then_some(State::Dead),
        (NOTIFY, End::Paid) => after(CHARGE).then_some(State::Succeeded),
        _ => None,
    }
}

fn invocations(function: &str, expected: &Expected, observed: &Observed, verdict: &mut Verdict) {
    for (id, order) in &expected.orders {
        match (final_state(function, id, order, observed), state_of(observed, function, id)) {
            (Some(_), None) => verdict.lost(1, format!("{function} has no invocation for {id}")),
            (None, Some(state)) => verdict.differences.push(format!("{function} of {id} is {state:?}; expected: none")),
            (Some(end), Some(state)) if end != state => {
                verdict.differences.push(format!("{function} of {id} is {state:?}; expected: {end:?}"));
            }
            _ => {}
        }
    }
    for id in observed.invocations.get(function).into_iter().flat_map(BTreeMap::keys) {
        if !expected.orders.contains_key(id) {
            verdict.differences.push(format!("{function} has an invocation for {id}, which is no expected order"));
        }
    }
}

fn dead_letters(function: &str, expected: &Expected, observed: &Observed, verdict: &mut Verdict) {
    let none = BTreeMap::new();
    let wanted = expected.functions.get(function).map_or(&none, |end| &end.dead);
    let found = observed.dead.get(function).unwrap_or(&none);
    let sum = |letters: &BTreeMap<String, u64>, attempted: bool| -> u64 {
        let of_kind = |reason: &str| AFTER_AN_ATTEMPT.contains(&reason) == attempted;
        letters.iter().filter(|(reason, _)| of_kind(reason)).map(|(_, n)| n).sum()
    };
    let refused = (sum(wanted, false), sum(found, false));
    if refused.1 < refused.0 {
        verdict.lost(
            refused.0 - refused.1,
            format!("{function} has {} refused events; expected: {}", refused.1, refused.0),
        );
    }
    let all = observed.invocations.get(function);
    let dead = all.map_or(0, |all| all.values().filter(|state| **state == State::Dead).count() as u64);
    let letters = sum(found, true);
    if letters < dead {
        verdict.lost(
            dead - letters,
            format!("{function} has {dead} dead invocations and {letters} dead letters for them"),
        );
    }
    let reasons: std::collections::BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    for reason in reasons {
        let (wanted, found) = (wanted.get(reason).copied().unwrap_or(0), found.get(reason).copied().unwrap_or(0));
        if wanted != found {
            verdict.differences.push(format!("{function} has {found} dead letters for {reason}; expected: {wanted}"));
        }
    }
}

fn rows(table: &str, function: &str, expected: &Expected, observed: &Observed, verdict: &mut Verdict) {
    let none = BTreeMap::new();
    let found = observed.rows.get(table).unwrap_or(&none);
    for (id, order) in &expected.orders {
        let each = if table == "order_lines" { order.lines } else { 1 };
        // An attempt that did not succeed must have left nothing.
        let wanted = if state_of(observed, function, id) == Some(State::Succeeded) { each } else { 0 };
        let found = found.get(id).copied().unwrap_or(0);
        let text = || format!("{table} has {found} rows for {id}; its {function} accounts for {wanted}");
        if found > wanted {
            verdict.double(found - wanted, text());
        } else if found < wanted {
            verdict.lost(wanted - found, text());
        }
    }
    for (id, n) in found.iter().filter(|(id, _)| !expected.orders.contains_key(*id)) {
        verdict.differences.push(format!("{table} has {n} rows for {id}, which is no expected order"));
    }
}

fn balance(account: &Account, expected: &Expected, observed: &Observed, verdict: &mut Verdict) {
    let id = account.customer_id;
    let Some(&holds) = observed.balances.get(id) else {
        return verdict.differences.push(format!("{id} has no account: the database has not been prepared"));
    };
    let taken = account.opening_minor - holds;
    let paid = observed.paid.get(id).copied().unwrap_or(0);
    let text = || format!("the account of {id} was charged {taken}, its payments say {paid}");
    if taken > paid {
        verdict.double(1, text());
    } else if taken < paid {
        verdict.lost(1, text());
    }
    if let Some(&wanted) = expected.balances.get(id)
        && wanted != holds
    {
        verdict.differences.push(format!("the account of {id} holds {holds}; expected: {wanted}"));
    }
}

fn counters(expected: &Expected, observed: &Observed, verdict: &mut Verdict) {
    // A counter that is short because an order has not been counted yet is no loss of its own.
    let counted = |id: &String| state_of(observed, ANALYTICS, id) == Some(State::Succeeded);
    let all_counted = expected.orders.keys().all(counted);
    for (name, &wanted) in &expected.counters {
        let found = observed.counters.get(name).copied().unwrap_or(0);
        let text = format!("the counter {name} stands at {found}; expected: {wanted}");
        if found > wanted {
            verdict.double(1, text);
        } else if found < wanted && all_counted {
            verdict.lost(1, text);
        } else if found < wanted {
            verdict.differences.push(text);
        }
    }
    for (name, n) in observed.counters.iter().filter(|(name, _)| !expected.counters.contains_key(*name)) {
        verdict.differences.push(format!("the counter {name} stands at {n}; expected: none"));
    }
}
