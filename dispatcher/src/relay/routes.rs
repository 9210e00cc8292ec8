//! Which addresses do not confirm, so that one of them does not hold up the others. Pure: time comes in.
//!
//! A call that publishes a batch ends with its slowest confirm. So an address that let a call wait past its patience is set
//! apart: its rows are put off unpublished, but for a few that ask it again at times, in a call of their own which may
//! take long. It is one of the others again once it confirms them all.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use weft_schemas::Message;

/// How long a call waits for confirms, unless the broker was seen to need longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// The longest that it is ever given: what a call that asks again may take.
pub(super) const LONGEST: Duration = Duration::from_secs(10);
/// Rows of one address that ask it again.
const ASK: usize = 16;
/// The time until an address is asked again, doubled each time up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// What is done with a row that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Publish,
    /// Publish, and wait for long: its address did not confirm.
    Ask,
    /// Not now.
    PutOff(Duration),
}

struct Slow {
    wait: Duration,
    until: Instant,
}

/// The addresses that do not confirm. Those that nobody publishes to any more stay, a few bytes each.
pub(super) struct Routes {
    slow: HashMap<String, Slow>,
    patience: Duration,
}

impl Routes {
    pub fn new() -> Self {
        Self { slow: HashMap::new(), patience: PATIENCE }
    }

    /// How long a call waits for confirms now.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Decides over a batch, in order. `asking`: a call that asks again is under way already.
    pub fn sort<'a>(&self, rows: impl Iterator<Item = &'a Message>, asking: bool, now: Instant) -> Vec<Fate> {
        if self.slow.is_empty() {
            return rows.map(|_| Fate::Publish).collect();
        }
        let mut asked: HashMap<String, usize> = HashMap::new();
        rows.map(|message| {
            let route = route(message);
            let Some(slow) = self.slow.get(&route) else { return Fate::Publish };
            let left = slow.until.saturating_duration_since(now);
            if !left.is_zero() {
                return Fate::PutOff(left);
            }
            let asks = asked.entry(route).or_default();
            if asking || *asks >= ASK {
                return Fate::PutOff(slow.wait);
            }
            *asks += 1;
            Fate::Ask
        })
        .collect()
    }

    /// An address has not confirmed in time; how long its row is put off.
    pub fn silent(&mut self, message: &Message, now: Instant) -> Duration {
        let slow = self.slow.entry(route(message)).or_insert(Slow { wait: Duration::ZERO, until: now });
        // Once for all rows of one call.
        if slow.until <= now {
            slow.wait = (slow.wait * 2).clamp(AGAIN.0, AGAIN.1);
            slow.until = now + slow.wait;
        }
        slow.until.saturating_duration_since(now)
    }

    /// An address has answered every row of a call; `true` when it was set apart. `took`: the whole call.
    pub fn answers(&mut self, message: &Message, took: Duration) -> bool {
        if self.slow.is_empty() || self.slow.remove(&route(message)).is_none() {
            return false;
        }
        // It is no slower than that: the next call waits as long before it sets anybody apart.
        self.patience = self.patience.max(took * 2).min(LONGEST);
        true
    }

    /// A call has ended well; what it was given beyond need goes.
    pub fn took(&mut self, took: Duration) {
        if took * 4 < self.patience {
            self.patience = (self.patience / 2).max(PATIENCE);
        }
    }
}

/// An address as status and people write it.
pub(super) fn route(message: &Message) -> String {
    if message.exchange.is_empty() {
        message.routing_key.clone()
    } else {
        format!("{} ({})", message.exchange, message.routing_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(queue: &str) -> Message {
        Message { routing_key: queue.to_owned(), ..Message::default() }
    }

    #[test]
    fn a_silent_address_is_asked_again_at_times_by_a_few_rows_and_by_one_call() {
        let (mut routes, start) = (Routes::new(), Instant::now());
        let (stuck, other) = (to("stuck"), to("other"));
        let rows: Vec<&Message> = std::iter::once(&other).chain(std::iter::repeat_n(&stuck, ASK + 1)).collect();
        let sort = |routes: &Routes, asking, at| routes.sort(rows.iter().copied(), asking, at);
        assert!(sort(&routes, false, start).iter().all(|fate| *fate == Fate::Publish));
        let wait = routes.silent(&stuck, start);
        assert_eq!(routes.silent(&stuck, start), wait, "once for all rows of a call");
        let mut expected = vec![Fate::PutOff(wait); ASK + 2];
        expected[0] = Fate::Publish;
        assert_eq!(sort(&routes, false, start), expected);
        let later = start + wait;
        assert_eq!(sort(&routes, true, later), expected, "it is being asked");
        let asks = sort(&routes, false, later).iter().filter(|fate| **fate == Fate::Ask).count();
        assert_eq!(asks, ASK);
        assert!(routes.silent(&stuck, later) > wait, "ever more seldom");
        assert!(routes.answers(&stuck, Duration::from_secs(3)) && !routes.answers(&stuck, Duration::from_secs(3)));
        assert!(sort(&routes, false, later).iter().all(|fate| *fate == Fate::Publish));
    }

    #[test]
    fn a_broker_that_needs_longer_is_given_longer_and_not_for_ever() {
        let mut routes = Routes::new();
        let (stuck, now) = (to("stuck"), Instant::now());
        for _ in 0..20 {
            assert!(routes.silent(&stuck, now) <= AGAIN.1);
        }
        assert!(routes.answers(&stuck, Duration::from_secs(3)));
        assert_eq!(routes.patience(), Duration::from_secs(6));
        routes.silent(&stuck, now);
        routes.answers(&stuck, Duration::from_secs(9));
        assert_eq!(routes.patience(), LONGEST);
        (0..20).for_each(|_| routes.took(Duration::from_millis(5)));
        assert_eq!(routes.patience(), PATIENCE);
    }
}
