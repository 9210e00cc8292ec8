//! How a dispatcher ends and begins again, and how everything is healed at last.

use super::*;

impl World {
    pub(super) fn reenter(&mut self) {
        if self.owner.is_none() {
            self.books.us.incarnation += 1;
            self.books.us.live = true;
            self.own();
        }
    }

    /// The broker's connection is made anew: it has everything back that was not acked, and the loop is not told.
    pub(super) fn reconnect(&mut self) {
        self.generation += 1;
        // As a quorum queue does, in the order in which they had been delivered.
        let back = std::mem::take(&mut self.held).into_values().map(|held| (held.message, true));
        if self.ordered {
            back.rev().for_each(|returned| self.queue.push_front(returned));
        } else {
            self.queue.extend(back);
        }
    }

    /// Kill -9 of the dispatcher: its workers go with it, and statements under way may have run.
    pub(super) fn crash(&mut self) {
        self.workers.clear();
        self.pending.clear();
        self.reconnect();
        self.restart();
    }

    pub(super) fn restart(&mut self) {
        self.books.us.incarnation += 1;
        self.books.us.live = true;
        self.books.doubts.clear();
        let admission = if self.changed { &self.stricter } else { &self.admission };
        self.core = core(&self.function, admission);
        (self.draining, self.ended, self.stopped) = (false, false, false);
        (self.wish, self.wished, self.granted, self.looking) = (Wish::default(), false, 0, false);
        self.own();
    }

    pub(super) fn end_deliveries(&mut self) {
        if self.draining && !self.ended {
            self.ended = true;
            self.hand(Input::DeliveriesEnded);
        }
    }

    /// Everything answers again, every attempt succeeds. What is left must come to its end, and then the loop stops.
    pub fn heal(&mut self) {
        self.take(Step::Node { workers: 2 });
        self.take(Step::RivalCrashes);
        if self.draining {
            self.wind_down();
        }
        for _ in 0..500 {
            if self.at_rest() {
                break;
            }
            self.take(Step::Reenter);
            if self.books.us.live {
                self.round();
            } else {
                self.take(Step::LoseLease { left: true });
            }
            self.take(Step::Relay);
            self.take(Step::Deliver { most: 10 });
        }
        assert!(self.at_rest(), "it does not come to rest: {:?} {:?}", self.books.rows, self.pending);
        for (key, row) in &self.books.rows {
            assert!(matches!(row.state, State::Succeeded | State::Dead), "{key} has not ended: {row:?}");
        }
        assert!(self.core.invocations.is_empty(), "something is remembered for ever");
        assert!(self.core.lanes.is_empty(), "a lane is held by nobody");
        self.take(Step::Drain);
        self.wind_down();
    }

    pub(super) fn at_rest(&self) -> bool {
        self.queue.is_empty()
            && self.books.outbox.is_empty()
            && self.held.is_empty()
            && self.pending.is_empty()
            && self.workers.values().all(|worker| worker.running.is_empty())
            && self.core.invocations.is_empty()
    }

    pub(super) fn round(&mut self) {
        for _ in 0..3 {
            self.take(Step::Execute { which: 0 });
            self.take(Step::Answer { which: 0 });
        }
        for _ in 0..2 {
            self.take(Step::Ready { which: 0 });
        }
        for _ in 0..4 {
            self.take(Step::Finish { which: 0, end: End::Succeeded });
        }
        self.take(Step::Pass { ms: 30_000 });
        let gone = self.workers.iter().position(|(_, worker)| worker.drained && worker.running.is_empty());
        if let Some(at) = gone {
            self.take(Step::Die { which: u8::try_from(at).unwrap(), committed: false });
        }
    }

    /// The drain that is under way comes to its end; the next loop starts at once.
    pub(super) fn wind_down(&mut self) {
        if !self.draining {
            // There was nothing to finish.
            return;
        }
        let generation = self.books.us.incarnation;
        self.take(Step::EndDeliveries);
        for _ in 0..200 {
            if self.books.us.incarnation != generation {
                return;
            }
            self.round();
        }
        panic!("the drain does not end: {:?} {:?}", self.books.rows, self.pending);
    }
}
