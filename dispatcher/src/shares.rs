//! The node's workers and memory in the running dispatcher: each function's loop says what it wishes and is told what it
//! may have. The rules are in [`crate::scale::budget`]; here are the lock, the way to the loops, and the turns.
//!
//! The lock is held for a few additions while there is enough for everybody, and for one filling of the node when there is
//! not; never across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::scale::budget::{self, Budget, Party, Wish};

/// The node's budget, shared by the functions' loops. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    budget: Budget,
    parties: Mutex<Parties>,
    /// Somebody has work and no worker: turns are to be looked at.
    starving: Notify,
}

#[derive(Debug, Default)]
struct Parties {
    parties: Vec<Party>,
    told: Vec<watch::Sender<u32>>,
}

/// One function's side. Dropping it gives everything back.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    at: usize,
    granted: watch::Receiver<u32>,
}

impl Shares {
    pub(crate) fn new(budget: Budget) -> Self {
        let inner = Inner { budget, parties: Mutex::default(), starving: Notify::new() };
        Self(Arc::new(inner))
    }

    /// A function joins: what one of its workers takes, and its weight.
    pub(crate) fn join(&self, memory_bytes: u64, weight: u32) -> Share {
        let (told, granted) = watch::channel(0);
        let mut parties = self.lock();
        let at = parties.parties.len();
        let since = Instant::now();
        parties.parties.push(Party { memory_bytes, weight, wish: Wish::default(), granted: 0, promised: 0, since });
        parties.told.push(told);
        Share { shares: self.clone(), at, granted }
    }

    /// Sees to the turns while there are more functions with work than workers; until cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.starving.notified() => {}
            }
            while self.settle(Instant::now()) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(budget::TURN / 2) => {}
                }
            }
        }
    }

    /// Brings everybody's grant up to date; whether somebody has work and may have no worker.
    fn settle(&self, now: Instant) -> bool {
        self.lock().settle(self.0.budget, now)
    }

    fn lock(&self) -> MutexGuard<'_, Parties> {
        self.0.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parties {
    fn settle(&mut self, budget: Budget, now: Instant) -> bool {
        let grants = if self.all_fit(budget) {
            self.parties.iter().map(|party| party.wish.total()).collect()
        } else {
            budget::grant(now, budget, &self.parties)
        };
        let mut starving = false;
        for ((party, told), granted) in self.parties.iter_mut().zip(&self.told).zip(grants) {
            if (party.granted > 0) != (granted > 0) {
                party.since = now;
            }
            party.granted = granted;
            party.promised = party.promised.max(granted);
            told.send_if_modified(|told| std::mem::replace(told, granted) != granted);
            starving |= granted == 0 && party.wish.demand > 0;
        }
        starving
    }

    fn all_fit(&self, budget: Budget) -> bool {
        let (mut workers, mut memory) = (0u32, 0u64);
        for party in &self.parties {
            let Wish { staying, leaving, .. } = party.wish;
            let most = party.wish.total().max(staying).max(party.promised).saturating_add(leaving);
            workers = workers.saturating_add(most);
            memory = memory.saturating_add(party.memory_bytes.saturating_mul(most.into()));
        }
        workers <= budget.workers && memory <= budget.memory_bytes
    }
}

impl Share {
    /// Says what the function wishes from now on, and returns how many workers it may have. Never waits for others. Whoever
    /// is told a smaller number has to speak again: until then the room of the larger one is kept for him.
    pub(crate) fn wish(&mut self, now: Instant, wish: Wish) -> u32 {
        let starving = {
            let mut parties = self.shares.lock();
            if let Some(party) = parties.parties.get_mut(self.at) {
                // It waits from when it began to want, not from when it last had one.
                if party.granted == 0 && party.wish.total() == 0 && wish.total() > 0 {
                    party.since = now;
                }
                let leaving_now = wish.leaving.saturating_sub(party.wish.leaving);
                party.granted = budget::without(party.granted, wish.staying, leaving_now);
                party.wish = wish;
                party.promised = 0;
            }
            parties.settle(self.shares.0.budget, now)
        };
        if starving {
            self.shares.0.starving.notify_one();
        }
        *self.granted.borrow_and_update()
    }

    /// Waits until it may have another number of workers than it was last told, and returns it. Cancel-safe.
    pub(crate) async fn changed(&mut self) -> u32 {
        if self.granted.changed().await.is_err() {
            // Its sender lives as long as the shares, which this holds.
            std::future::pending::<()>().await;
        }
        *self.granted.borrow_and_update()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.wish(Instant::now(), Wish::default());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn shares(workers: u32) -> Shares {
        Shares::new(Budget { workers, memory_bytes: 1_000 * MIB })
    }

    fn demand(demand: u32, staying: u32) -> Wish {
        Wish { demand, staying, ..Wish::default() }
    }

    #[tokio::test]
    async fn who_is_over_its_share_is_told_and_who_waits_is_told_when_there_is_room() {
        let shares = shares(4);
        let now = Instant::now();
        let (mut flood, mut late) = (shares.join(MIB, 1), shares.join(MIB, 1));
        assert_eq!(flood.wish(now, demand(100, 0)), 4);
        assert_eq!(flood.wish(now, demand(100, 4)), 4);
        assert_eq!(late.wish(now, demand(2, 0)), 0, "there is no room yet");
        assert_eq!(flood.changed().await, 2);
        assert_eq!(flood.wish(now, Wish { leaving: 2, ..demand(100, 2) }), 2);
        assert_eq!(flood.wish(now, Wish { leaving: 1, ..demand(100, 2) }), 2);
        assert_eq!(late.changed().await, 1);
        assert_eq!(flood.wish(now, demand(100, 2)), 2);
        assert_eq!(late.changed().await, 2);
        assert_eq!(late.wish(now, Wish { leaving: 2, ..demand(0, 0) }), 0);
        assert_eq!(late.wish(now, demand(0, 0)), 0);
        assert_eq!(flood.changed().await, 4);
    }

    #[tokio::test]
    async fn memory_bounds_as_workers_do() {
        let shares = shares(100);
        let mut large = shares.join(400 * MIB, 1);
        assert_eq!(large.wish(Instant::now(), demand(5, 0)), 2);
    }

    #[tokio::test]
    async fn a_worker_that_leaves_keeps_its_room_until_it_has_gone() {
        let shares = shares(2);
        let now = Instant::now();
        let (mut one, mut other) = (shares.join(MIB, 1), shares.join(MIB, 1));
        assert_eq!(one.wish(now, demand(1, 0)), 1);
        assert_eq!(one.wish(now, demand(1, 1)), 1);
        assert_eq!(other.wish(now, demand(1, 0)), 1);
        assert_eq!(other.wish(now, demand(1, 1)), 1);
        // Its worker was sent home, and then came an event.
        assert_eq!(one.wish(now, Wish { leaving: 1, ..demand(1, 0) }), 0);
        assert_eq!(one.wish(now, demand(1, 0)), 1);
    }

    #[tokio::test]
    async fn what_one_may_be_starting_is_not_given_to_another() {
        let shares = shares(2);
        let now = Instant::now();
        let (mut one, mut other) = (shares.join(MIB, 1), shares.join(MIB, 1));
        assert_eq!(one.wish(now, demand(2, 0)), 2);
        assert_eq!(other.wish(now, demand(1, 0)), 0, "the first may have started both");
        assert_eq!(one.changed().await, 1);
        assert_eq!(one.wish(now, demand(2, 1)), 1, "it had started one");
        assert_eq!(other.changed().await, 1);
    }

    #[tokio::test]
    async fn what_a_loop_that_ends_had_is_free() {
        let shares = shares(1);
        let now = Instant::now();
        let (mut one, mut other) = (shares.join(MIB, 1), shares.join(MIB, 1));
        assert_eq!(one.wish(now, demand(1, 1)), 1);
        assert_eq!(other.wish(now, demand(1, 0)), 0);
        drop(one);
        assert_eq!(other.changed().await, 1);
    }

    #[tokio::test]
    async fn turns_are_taken_without_anybody_asking_again() {
        let shares = shares(1);
        let stop = CancellationToken::new();
        let turns = tokio::spawn(shares.clone().run(stop.clone()));
        let (mut one, mut other) = (shares.join(MIB, 1), shares.join(MIB, 1));
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap_or_else(Instant::now);
        assert_eq!(one.wish(long_ago, demand(9, 0)), 1);
        assert_eq!(one.wish(long_ago, demand(9, 1)), 1);
        assert_eq!(other.wish(long_ago, demand(9, 0)), 0);
        assert_eq!(one.changed().await, 0, "its turn is over");
        assert_eq!(one.wish(Instant::now(), demand(9, 0)), 0);
        assert_eq!(other.changed().await, 1);
        stop.cancel();
        assert!(turns.await.is_ok());
    }
}
