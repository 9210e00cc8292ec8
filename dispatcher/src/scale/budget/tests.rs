//! Who gets what: tables of parties, and what holds for any.

#![allow(clippy::indexing_slicing)]

use super::*;

const MIB: u64 = 1 << 20;
const NODE: Budget = Budget { workers: 10, memory_bytes: 10_000 * MIB };

fn party(now: Instant, demand: u32) -> Party {
    let wish = Wish { demand, ..Wish::default() };
    Party { memory_bytes: 100 * MIB, weight: 1, wish, granted: 0, promised: 0, since: now }
}

fn shares(budget: Budget, wishes: &[Wish]) -> Vec<u32> {
    let now = Instant::now();
    let parties: Vec<Party> = wishes.iter().map(|&wish| Party { wish, ..party(now, 0) }).collect();
    share(now, budget, &parties)
}

fn demand(demand: u32) -> Wish {
    Wish { demand, ..Wish::default() }
}

#[test]
fn while_there_is_room_everybody_has_what_it_asks_for() {
    let wishes = [demand(3), Wish { spare: 2, ..demand(1) }, Wish { guaranteed: 2, ..Wish::default() }];
    assert_eq!(shares(NODE, &wishes), [3, 3, 2]);
}

#[test]
fn a_flood_leaves_the_others_their_even_part() {
    // (what is asked for) → (what each gets)
    let table: [(&[u32], &[u32]); 6] = [
        (&[1_000], &[10]),
        (&[1_000, 1], &[9, 1]),
        (&[1_000, 4], &[6, 4]),
        (&[1_000, 1_000], &[5, 5]),
        (&[1_000, 7], &[5, 5]),
        (&[1_000, 2, 3], &[5, 2, 3]),
    ];
    for (asked, wanted) in table {
        let wishes: Vec<Wish> = asked.iter().map(|&count| demand(count)).collect();
        assert_eq!(shares(NODE, &wishes), wanted, "{asked:?}");
    }
}

#[test]
fn what_is_provisioned_comes_before_any_demand_and_counts_as_a_part() {
    let wishes = [demand(1_000), Wish { guaranteed: 4, ..Wish::default() }];
    assert_eq!(shares(NODE, &wishes), [6, 4]);
    let wishes = [demand(1_000), Wish { guaranteed: 7, ..Wish::default() }];
    assert_eq!(shares(NODE, &wishes), [3, 7], "more than an even part");
    let wishes = [demand(1_000), Wish { guaranteed: 2, demand: 1_000, ..Wish::default() }];
    assert_eq!(shares(NODE, &wishes), [5, 5], "the guarantee is no gift on top");
}

#[test]
fn kept_workers_are_given_up_before_anybody_waits() {
    let wishes = [Wish { staying: 10, spare: 10, ..Wish::default() }, demand(3)];
    assert_eq!(shares(NODE, &wishes), [7, 3]);
}

#[test]
fn weights_divide_what_is_scarce() {
    let now = Instant::now();
    let parties = [Party { weight: 4, ..party(now, 100) }, party(now, 100)];
    assert_eq!(share(now, NODE, &parties), [8, 2]);
    let small = [Party { weight: 4, ..party(now, 3) }, party(now, 100)];
    assert_eq!(share(now, NODE, &small), [3, 7], "a weight takes nothing that is not wanted");
}

#[test]
fn the_scarcer_of_memory_and_workers_is_made_even() {
    let now = Instant::now();
    let budget = Budget { workers: 100, memory_bytes: 1_000 * MIB };
    let large = Party { memory_bytes: 200 * MIB, ..party(now, 100) };
    let small = Party { memory_bytes: 10 * MIB, ..party(now, 100) };
    // At two large ones and 40 small ones each has two fifths, of the memory and of the workers; the next is the first's.
    assert_eq!(share(now, budget, &[large, small]), [3, 40]);
}

#[test]
fn what_another_has_not_let_go_of_is_not_granted() {
    let now = Instant::now();
    let flood = Party { wish: Wish { staying: 10, ..demand(1_000) }, granted: 10, ..party(now, 0) };
    let late = party(now, 3);
    assert_eq!(grant(now, NODE, &[flood, late]), [7, 0], "it is asked back first");
    let left = Party { wish: Wish { staying: 7, leaving: 1, ..demand(1_000) }, granted: 7, ..flood };
    assert_eq!(grant(now, NODE, &[left, late]), [7, 2], "and handed on as it ends");
    let left = Party { wish: Wish { staying: 7, ..demand(1_000) }, granted: 7, ..flood };
    assert_eq!(grant(now, NODE, &[left, Party { granted: 2, ..late }]), [7, 3]);
}

#[test]
fn a_worker_that_is_leaving_takes_room_until_it_has_ended() {
    let now = Instant::now();
    let leaving = Party { wish: Wish { leaving: 10, ..Wish::default() }, ..party(now, 0) };
    assert_eq!(grant(now, NODE, &[leaving, party(now, 1)]), [0, 0]);
}

#[test]
fn when_there_are_more_functions_than_workers_they_take_turns() {
    let budget = Budget { workers: 1, ..NODE };
    let start = Instant::now();
    let mut parties = [party(start, 5), party(start, 5), party(start, 5)];
    let mut turns = [0; 3];
    let mut now = start;
    for _ in 0..60 {
        now += Duration::from_secs(1);
        let granted = grant(now, budget, &parties);
        assert!(granted.iter().sum::<u32>() <= 1);
        for (at, (party, granted)) in parties.iter_mut().zip(granted).enumerate() {
            if (party.granted > 0) != (granted > 0) {
                party.since = now;
            }
            party.granted = granted;
            // Whoever may have a worker starts one at once; the other's ends at once.
            party.wish.staying = granted;
            turns[at] += granted;
        }
    }
    for (at, turns) in turns.iter().enumerate() {
        assert!((10..=20).contains(turns), "function {at} had {turns} of 60 seconds");
    }
}

#[test]
fn a_turn_is_not_cut_short() {
    let budget = Budget { workers: 1, ..NODE };
    let now = Instant::now();
    let working = Party { wish: Wish { staying: 1, ..demand(5) }, granted: 1, ..party(now, 0) };
    let waiting = party(now, 5);
    let soon = now + TURN / 2;
    assert_eq!(grant(soon, budget, &[working, waiting]), [1, 0]);
    assert_eq!(grant(now + TURN, budget, &[working, waiting]), [0, 0], "its turn is over: it leaves");
}

#[test]
fn for_any_parties_the_budget_holds_and_nobody_has_more_while_another_with_less_goes_without() {
    let mut random = fastrand::Rng::with_seed(11);
    let now = Instant::now();
    for _ in 0..20_000 {
        let budget = Budget { workers: random.u32(1..30), memory_bytes: random.u64(1_000..6_000) * MIB };
        let equal = random.bool();
        let parties: Vec<Party> = (0..random.usize(1..6))
            .map(|_| {
                let wish = Wish { demand: random.u32(0..40), spare: random.u32(0..4), ..Wish::default() };
                let memory_bytes = if equal { 100 * MIB } else { random.u64(16..900) * MIB };
                let granted = random.u32(0..3);
                Party { memory_bytes, wish, granted, ..party(now, 0) }
            })
            .collect();
        let given = share(now, budget, &parties);
        let workers: u32 = given.iter().sum();
        let memory: u64 = given.iter().zip(&parties).map(|(&given, party)| u64::from(given) * party.memory_bytes).sum();
        let context = format!("{budget:?} {parties:?} {given:?}");
        assert!(workers <= budget.workers && memory <= budget.memory_bytes, "over the budget: {context}");
        for (given, party) in given.iter().zip(&parties) {
            assert!(*given <= party.wish.total(), "more than it wants: {context}");
        }
        // Nothing is left over that somebody wants and that fits.
        for (given, party) in given.iter().zip(&parties) {
            let fits = workers < budget.workers && memory + party.memory_bytes <= budget.memory_bytes;
            assert!(!fits || *given == party.wish.total(), "room is wasted: {context}");
        }
        if equal {
            for (mine, party) in given.iter().zip(&parties).filter(|(given, party)| **given < party.wish.demand) {
                let richest = given.iter().max().copied().unwrap_or_default();
                assert!(richest <= mine + 1, "{party:?} goes without while another has more: {context}");
            }
        }
    }
}

#[test]
fn for_any_history_of_wishes_no_more_is_granted_than_there_is_and_it_comes_to_rest() {
    let mut random = fastrand::Rng::with_seed(13);
    for _ in 0..500 {
        let start = Instant::now();
        let budget = Budget { workers: random.u32(2..12), memory_bytes: random.u64(900..4_000) * MIB };
        let mut parties: Vec<Party> = (0..random.usize(2..5))
            .map(|_| Party { memory_bytes: random.u64(16..800) * MIB, ..party(start, 0) })
            .collect();
        let mut now = start;
        for step in 0..60 {
            now += Duration::from_millis(200);
            if step < 40 {
                let count = parties.len();
                parties[random.usize(0..count)].wish.demand = random.u32(0..20);
            }
            let granted = grant(now, budget, &parties);
            for (party, granted) in parties.iter_mut().zip(granted) {
                if (party.granted > 0) != (granted > 0) {
                    party.since = now;
                }
                party.granted = granted;
                // Started as far as it may, and ended one after the other.
                party.wish.leaving += party.wish.staying.saturating_sub(granted);
                party.wish.leaving -= u32::from(party.wish.leaving > 0 && random.bool());
                party.wish.staying = granted;
            }
            let all = |party: &Party| party.wish.staying + party.wish.leaving;
            let workers: u32 = parties.iter().map(all).sum();
            let memory: u64 = parties.iter().map(|party| u64::from(all(party)) * party.memory_bytes).sum();
            assert!(workers <= budget.workers && memory <= budget.memory_bytes, "{budget:?} {parties:?}");
        }
        // Nothing is wished anew. But for the moments in which a turn goes over, nothing that fits is left over.
        let mut wasted = 0;
        for _ in 0..200 {
            now += Duration::from_millis(1);
            let granted = grant(now, budget, &parties);
            for (party, granted) in parties.iter_mut().zip(granted) {
                if (party.granted > 0) != (granted > 0) {
                    party.since = now;
                }
                party.granted = granted;
                (party.wish.staying, party.wish.leaving) = (granted, 0);
            }
            let workers: u32 = parties.iter().map(|party| party.granted).sum();
            let memory: u64 = parties.iter().map(|party| u64::from(party.granted) * party.memory_bytes).sum();
            let fits = |party: &Party| workers < budget.workers && memory + party.memory_bytes <= budget.memory_bytes;
            wasted += u32::from(parties.iter().any(|party| party.granted < party.wish.demand && fits(party)));
        }
        assert!(wasted <= 10, "there is room in {wasted} of 200 moments: {budget:?} {parties:?}");
    }
}
