//! Who may have a worker when the node is full: its memory and its number of workers, shared fairly among functions. Pure:
//! the parties come in, what each may have goes out.
//!
//! A worker takes one of the node's workers and some of its memory, and functions differ in how much. So what is made
//! even is each function's **dominant share**: the larger of its parts of the two (Ghodsi et al., "Dominant Resource
//! Fairness", NSDI 2011), divided by its weight. Filling goes from the bottom up, worker by worker, in three rounds:
//!
//! 1. what is provisioned, whatever the others want;
//! 2. what events that wait or run can use: max-min fair, so that nobody can have more while somebody with less goes
//!    without, however much one asks for;
//! 3. workers that are kept or expected without work, from what nobody needs.
//!
//! When there are more functions with work than workers, they take turns: one that has waited for its first worker comes
//! before one that has had its turn, so that nobody starves.

use std::time::{Duration, Instant};

/// How long a function keeps its first worker before it has had its turn, while others have none.
pub const TURN: Duration = Duration::from_secs(2);

/// What the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// At least 1.
    pub workers: u32,
    /// Of all workers together. At least as much as the largest worker wants, or that one never starts.
    pub memory_bytes: u64,
}

/// One function as the budget sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// What one of its workers takes.
    pub memory_bytes: u64,
    /// Its part compared with the others', from 1.
    pub weight: u32,
    /// What it asks for.
    pub wish: Wish,
    /// Workers that it was last told it may have, without those that leave.
    pub granted: u32,
    /// Workers that it may be starting on what it was told since it last spoke: their room is taken until it says how many
    /// it has.
    pub promised: u32,
    /// Since when it has had at least one, or, if it wants one and may have none, has waited for it.
    pub since: Instant,
}

/// What a function asks of the node, in workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// Alive or starting, and to stay.
    pub staying: u32,
    /// Alive, and to go: they get no more work, and take room until they have ended.
    pub leaving: u32,
    /// Provisioned.
    pub guaranteed: u32,
    /// What its events can use, the provisioned ones among them.
    pub demand: u32,
    /// To be kept or started without work, beyond both.
    pub spare: u32,
}

impl Wish {
    /// All that it asks for.
    pub fn total(&self) -> u32 {
        self.guaranteed.max(self.demand).saturating_add(self.spare)
    }
}

/// What is left of a grant when so many workers that stay no longer have been told to leave: what was granted for them is
/// taken up by them until they have gone. `staying`: the workers that are left. Those that were more than granted go first.
pub fn without(granted: u32, staying: u32, leaving_now: u32) -> u32 {
    let had = staying.saturating_add(leaving_now).max(granted);
    granted.min(had.saturating_sub(leaving_now))
}

/// What each party should come to have; in the order of the parties.
pub fn share(now: Instant, budget: Budget, parties: &[Party]) -> Vec<u32> {
    let given: Vec<u32> = parties.iter().map(|party| party.wish.guaranteed).collect();
    let mut room = Room::of(budget);
    for (party, &given) in parties.iter().zip(&given) {
        room.take(party, given);
    }
    let mut filling = Filling { budget, parties, order: turns(now, parties), room, given };
    filling.fill(|_, party| party.wish.guaranteed.max(party.wish.demand));
    filling.fill(|_, party| party.wish.total());
    filling.given
}

/// What each party may have now besides what is leaving, on the way to what it should have: nobody gets what another has not let go of yet.
pub fn grant(now: Instant, budget: Budget, parties: &[Party]) -> Vec<u32> {
    let targets = share(now, budget, parties);
    let target = |at: usize| targets.get(at).copied().unwrap_or_default();
    // What it has, it has paid for already, as far as it may keep it.
    let kept = |(party, &target): (&Party, &u32)| party.granted.max(party.wish.staying).min(target);
    let given: Vec<u32> = parties.iter().zip(&targets).map(kept).collect();
    let mut room = Room::of(budget);
    for (party, &given) in parties.iter().zip(&given) {
        room.take(party, given.max(party.wish.staying).max(party.promised).saturating_add(party.wish.leaving));
    }
    let mut filling = Filling { budget, parties, order: turns(now, parties), room, given };
    filling.fill(|at, party| target(at).min(party.wish.guaranteed));
    filling.fill(|at, _| target(at));
    filling.given
}

/// What is left of the node.
struct Room {
    workers: u32,
    memory_bytes: u64,
}

impl Room {
    fn of(budget: Budget) -> Self {
        Self { workers: budget.workers, memory_bytes: budget.memory_bytes }
    }

    fn fits(&self, party: &Party) -> bool {
        self.workers >= 1 && self.memory_bytes >= party.memory_bytes
    }

    fn take(&mut self, party: &Party, workers: u32) {
        self.workers = self.workers.saturating_sub(workers);
        self.memory_bytes = self.memory_bytes.saturating_sub(party.memory_bytes.saturating_mul(workers.into()));
    }
}

/// Progressive filling.
struct Filling<'a> {
    budget: Budget,
    parties: &'a [Party],
    order: Vec<usize>,
    room: Room,
    given: Vec<u32>,
}

impl Filling<'_> {
    /// One worker after the other to whoever has the least and wants more, until nothing fits or nobody wants.
    fn fill(&mut self, want: impl Fn(usize, &Party) -> u32) {
        loop {
            let wanting = self.order.iter().copied().filter(|&at| {
                let (Some(party), Some(&given)) = (self.parties.get(at), self.given.get(at)) else { return false };
                given < want(at, party) && self.room.fits(party)
            });
            // Of equals the first in the order: `min_by` keeps it.
            let Some(at) = wanting.min_by(|&a, &b| self.share_of(a).total_cmp(&self.share_of(b))) else { return };
            if let (Some(party), Some(given)) = (self.parties.get(at), self.given.get_mut(at)) {
                *given += 1;
                self.room.take(party, 1);
            }
        }
    }

    /// The dominant share, by weight.
    #[expect(clippy::cast_precision_loss, reason = "shares are compared, and equal ones by their order")]
    fn share_of(&self, at: usize) -> f64 {
        let (Some(party), Some(&given)) = (self.parties.get(at), self.given.get(at)) else { return f64::INFINITY };
        let workers = f64::from(given) / f64::from(self.budget.workers.max(1));
        let memory = f64::from(given) * (party.memory_bytes as f64 / self.budget.memory_bytes.max(1) as f64);
        workers.max(memory) / f64::from(party.weight.max(1))
    }
}

/// Who comes first among equals: one whose turn it is, then those that wait for their first worker, the longest first,
/// then those that have had their turn.
fn turns(now: Instant, parties: &[Party]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..parties.len()).collect();
    order.sort_by_key(|&at| {
        parties.get(at).map(|party| {
            let has = party.granted > 0;
            let rank = match (has, now.saturating_duration_since(party.since) < TURN) {
                (true, true) => 0,
                (false, _) => 1,
                (true, false) => 2,
            };
            (rank, party.since, at)
        })
    });
    order
}

#[cfg(test)]
mod tests;
