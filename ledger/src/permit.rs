//! Permits: how many invocations of a function each dispatcher may run, where the function has a bound over all of them.
//!
//! A dispatcher holds a number of permits, and runs no more than that. The sum over all dispatchers that may still run
//! something is never more than the bound: every change is made under one row's lock, by a statement that adds the others
//! up. Who gets how many is [`share`]; no dispatcher has permits taken from it, it gives them back when it asks next.

use std::time::Duration;

/// What a dispatcher asks for one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermitAsk {
    /// The bound over all dispatchers, as this one's manifest has it; at least 1. A lowered bound holds as soon as what ran
    /// above it has ended.
    pub total: u32,
    /// What it runs, and may start until the answer is there: it has no fewer than that afterwards.
    pub keep: u32,
    /// What it could use. More than `keep`: it waits; less than it holds: it gives back.
    pub wanted: u32,
}

/// What a dispatcher has then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permits {
    /// What is counted as its own. All of it is given back by asking with less.
    pub held: u32,
    /// What is fair, from what all of them want. Whoever holds more starts nothing until it runs less than that, and gives
    /// the rest back.
    pub share: u32,
}

/// How long after its lease, or after its next incarnation's start, a dispatcher's permits still count as held: what it had
/// to stop has ended by then.
pub const PERMIT_GRACE: Duration = Duration::from_secs(2);

/// How long those that come first, where permits cannot be split evenly, do so.
pub(crate) const TURN: Duration = Duration::from_secs(5);

/// One dispatcher's part of `total`: each gets what it wants as long as that is not more than an even part, and what they
/// leave is split among the others (max-min fairness). What cannot be split goes to whose turn it is: it goes round among
/// the dispatchers, by name, with `turn`, so that none is left without for ever where there are fewer permits than
/// dispatchers.
///
/// Whoever computes it from the same numbers gets the same parts, and their sum is not more than `total`.
fn share(total: u32, others: &[(String, u32)], me: &str, wanted: u32, turn: u64) -> u32 {
    let mut all: Vec<(u32, &str)> = others.iter().map(|(node, wanted)| ((*wanted).min(total), node.as_str())).collect();
    all.push((wanted.min(total), me));
    all.sort_unstable_by_key(|(_, node)| *node);
    let count = u64::try_from(all.len()).unwrap_or(u64::MAX).max(1);
    all.rotate_left(usize::try_from(turn % count).unwrap_or(0));
    // Stable: among those that want the same, the turn decides; the last gets what is left over.
    all.sort_by_key(|(wanted, _)| *wanted);
    let (mut left, mut waiting) = (total, u32::try_from(all.len()).unwrap_or(u32::MAX));
    for (wanted, node) in all {
        let part = wanted.min(left / waiting.max(1));
        if node == me {
            return part;
        }
        left -= part;
        waiting -= 1;
    }
    0
}

/// What another dispatcher holds, and what it could use.
pub(crate) struct Other {
    pub node: String,
    pub held: u32,
    pub wanted: u32,
}

/// What a dispatcher has after asking, given what the others hold and want in this turn.
pub(crate) fn exchange(ask: PermitAsk, me: &str, others: Vec<Other>, turn: u64) -> Permits {
    let taken = others.iter().map(|other| other.held).fold(0, u32::saturating_add);
    let wants: Vec<(String, u32)> = others.into_iter().map(|other| (other.node, other.wanted)).collect();
    let share = share(ask.total, &wants, me, ask.wanted, turn);
    Permits { held: held(ask, taken, share), share }
}

fn held(ask: PermitAsk, others: u32, share: u32) -> u32 {
    let free = ask.total.saturating_sub(others);
    share.min(free).max(ask.keep)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares(total: u32, wanted: &[u32], turn: u64) -> Vec<u32> {
        let all: Vec<(String, u32)> = wanted.iter().enumerate().map(|(n, wanted)| (format!("n{n}"), *wanted)).collect();
        let of = |(node, wanted): &(String, u32)| {
            let others: Vec<(String, u32)> = all.iter().filter(|(other, _)| other != node).cloned().collect();
            share(total, &others, node, *wanted, turn)
        };
        all.iter().map(of).collect()
    }

    #[test]
    fn parts_are_as_even_as_what_is_wanted() {
        for (total, wanted, expected) in [
            (10, vec![3], vec![3]),
            (10, vec![30], vec![10]),
            (10, vec![30, 30], vec![5, 5]),
            (10, vec![2, 30], vec![2, 8]),
            (10, vec![1, 4, 30], vec![1, 4, 5]),
            (10, vec![0, 0], vec![0, 0]),
            (3, vec![30, 30], vec![1, 2]),
        ] {
            assert_eq!(shares(total, &wanted, 0), expected, "{total} among {wanted:?}");
        }
    }

    #[test]
    fn what_cannot_be_split_goes_round() {
        assert_eq!(shares(3, &[9, 9], 0), [1, 2]);
        assert_eq!(shares(3, &[9, 9], 1), [2, 1]);
        let mut served = [0; 3];
        for turn in 0..3 {
            for (at, part) in shares(1, &[9, 9, 9], turn).into_iter().enumerate() {
                served[at] += part;
            }
        }
        assert_eq!(served, [1, 1, 1], "each has its turn");
    }

    proptest! {
        #[test]
        fn parts_add_up_to_what_there_is_or_is_wanted(
            total in 1_u32..50, wanted in prop::collection::vec(0_u32..60, 1..8), turn in 0_u64..20,
        ) {
            let parts = shares(total, &wanted, turn);
            let sum: u32 = parts.iter().sum();
            let demand: u32 = wanted.iter().map(|wanted| (*wanted).min(total)).sum();
            prop_assert_eq!(sum, demand.min(total), "{:?}", parts);
            prop_assert!(parts.iter().zip(&wanted).all(|(part, wanted)| part <= wanted));
        }

        #[test]
        fn nobody_holds_more_than_the_others_leave_or_less_than_it_keeps(
            total in 1_u32..50, keep in 0_u32..60, others in 0_u32..60, share in 0_u32..50,
        ) {
            let held = held(PermitAsk { total, keep, wanted: 0 }, others, share);
            prop_assert!(held >= keep);
            prop_assert!(held <= keep.max(total.saturating_sub(others)), "{}", held);
        }
    }
}
