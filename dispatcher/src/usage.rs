//! What functions use, written down hour by hour: the figures that `weft cost` reckons from.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use weft_ledger::{Ledger, Owner, Usage, Used};
use weft_schemas::FunctionName;

use crate::status::Stats;

/// How often it is written down. What a dispatcher that vanished had not written is lost to the figures, to nothing else.
const PERIOD: Duration = Duration::from_secs(60);
/// The last writing may take so long.
const LAST: Duration = Duration::from_secs(2);

/// How long after an hour it may still grow.
const REMEMBERED_S: i64 = 2 * 3_600;

/// What was used since the start, sorted into the hours in which it was first seen.
#[derive(Debug)]
struct Books {
    by: Owner,
    /// What each function's counters had reached at the last look.
    seen: BTreeMap<FunctionName, Used>,
    /// The hours that are not written down as they are now.
    open: BTreeMap<(FunctionName, Timestamp), Used>,
    /// The latest hours', as written down.
    written: BTreeMap<(FunctionName, Timestamp), Used>,
}

impl Books {
    fn new(by: Owner) -> Self {
        Self { by, seen: BTreeMap::new(), open: BTreeMap::new(), written: BTreeMap::new() }
    }

    /// Takes what the counters have reached; what is new belongs to the hour of `now`.
    fn look(&mut self, now: Timestamp, reached: impl IntoIterator<Item = (FunctionName, Used)>) {
        let hour = hour_of(now);
        for (function, used) in reached {
            let before = self.seen.insert(function.clone(), used).unwrap_or_default();
            let new = used.since(before);
            if new == Used::default() {
                continue;
            }
            let place = (function, hour);
            let so_far = self.open.get(&place).or_else(|| self.written.get(&place)).copied().unwrap_or_default();
            self.open.insert(place, so_far.plus(new));
        }
    }

    /// What is to be written.
    fn rows(&self) -> Vec<Usage> {
        let row = |((function, hour), used): (&(FunctionName, Timestamp), &Used)| Usage {
            function: function.clone(),
            hour: *hour,
            by: self.by.clone(),
            used: *used,
        };
        self.open.iter().map(row).collect()
    }

    /// It was written. Only the newest hour can still grow, but for clocks that are set back.
    fn wrote(&mut self) {
        self.written.append(&mut self.open);
        if let Some(newest) = self.written.keys().map(|(_, hour)| hour.as_second()).max() {
            self.written.retain(|(_, hour), _| hour.as_second() >= newest - REMEMBERED_S);
        }
    }
}

/// The start of the hour, in UTC.
fn hour_of(now: Timestamp) -> Timestamp {
    let second = now.as_second();
    Timestamp::from_second(second - second.rem_euclid(3_600)).unwrap_or(now)
}

/// Writes down what is used until told to stop, and then once more. A ledger that does not answer is asked again at the next
/// turn; who looks after the ledger has said so.
pub(crate) async fn keep(ledger: Arc<dyn Ledger>, stats: Stats, by: Owner, stop: CancellationToken) {
    let mut books = Books::new(by);
    loop {
        let last = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(PERIOD) => false,
        };
        books.look(Timestamp::now(), stats.used(Instant::now()));
        let rows = books.rows();
        if !rows.is_empty() {
            match tokio::time::timeout(if last { LAST } else { PERIOD }, ledger.write_usage(&rows)).await {
                Ok(Ok(())) => books.wrote(),
                Ok(Err(error)) => {
                    tracing::debug!(error = weft_process::report::chain(&error), "usage was not written");
                }
                Err(_) => tracing::debug!("usage was not written in time"),
            }
        }
        if last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weft_schemas::NodeName;

    use super::*;

    fn name(text: &str) -> FunctionName {
        FunctionName::new(text).unwrap()
    }

    fn used(attempts: u64) -> Used {
        Used { attempts, worker_ms: attempts * 100, ..Used::default() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 / 3_600 * 3_600 + second).unwrap()
    }

    fn books() -> Books {
        Books::new(Owner { node: NodeName::new("n").unwrap(), incarnation: 3 })
    }

    /// (function, seconds from the first hour, attempts)
    fn shown(books: &Books) -> Vec<(String, i64, u64)> {
        let row = |row: Usage| (row.function.to_string(), row.hour.as_second() - at(0).as_second(), row.used.attempts);
        books.rows().into_iter().map(row).collect()
    }

    #[test]
    fn what_is_used_counts_in_the_hour_in_which_it_is_seen() {
        let mut books = books();
        books.look(at(10), [(name("a"), used(5)), (name("b"), used(0))]);
        assert_eq!(shown(&books), [("a".to_owned(), 0, 5)]);
        books.wrote();
        assert!(shown(&books).is_empty());
        // The row is written whole again when it has grown.
        books.look(at(3_599), [(name("a"), used(7)), (name("b"), used(1))]);
        assert_eq!(shown(&books), [("a".to_owned(), 0, 7), ("b".to_owned(), 0, 1)]);
        books.wrote();
        books.look(at(3_600), [(name("a"), used(9)), (name("b"), used(1))]);
        assert_eq!(shown(&books), [("a".to_owned(), 3_600, 2)]);
        assert_eq!(books.rows()[0].used.worker_ms, 200);
    }

    #[test]
    fn what_could_not_be_written_is_written_later_and_once() {
        let mut books = books();
        books.look(at(10), [(name("a"), used(5))]);
        // The ledger did not answer, and an hour goes by.
        books.look(at(4_000), [(name("a"), used(6))]);
        books.look(at(4_060), [(name("a"), used(8))]);
        assert_eq!(shown(&books), [("a".to_owned(), 0, 5), ("a".to_owned(), 3_600, 3)]);
        books.wrote();
        assert!(books.rows().is_empty());
        for hour in 2..9 {
            books.look(at(3_600 * hour), [(name("a"), used(8 + hour.unsigned_abs()))]);
            books.wrote();
        }
        assert_eq!(books.written.len(), 3, "only the latest hours are remembered");
    }

    #[test]
    fn a_clock_that_is_set_back_loses_nothing() {
        let mut books = books();
        books.look(at(3_700), [(name("a"), used(5))]);
        books.wrote();
        books.look(at(3_500), [(name("a"), used(7))]);
        books.wrote();
        books.look(at(3_800), [(name("a"), used(8))]);
        assert_eq!(shown(&books), [("a".to_owned(), 3_600, 6)]);
        books.wrote();
        books.look(at(3_500), [(name("a"), used(9))]);
        assert_eq!(shown(&books), [("a".to_owned(), 0, 3)]);
    }
}
