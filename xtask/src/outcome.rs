//! What a run of tests came to, read from the runner's own words.

use std::fmt;
use std::ops::AddAssign;

/// Counts of tests. Its text is the run's closing line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    pub passed: u64,
    pub failed: u64,
    /// Ignored ones, and those that never ran.
    pub skipped: u64,
}

impl Outcome {
    pub fn total(self) -> u64 {
        self.passed + self.failed + self.skipped
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// A line of libtest: `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s`.
/// What the filter left out is not counted: it was not asked for.
pub fn libtest(line: &str) -> Option<Outcome> {
    let counts = line.trim().strip_prefix("test result:")?.split_once(". ")?.1;
    let mut outcome = Outcome::default();
    for part in counts.split(';') {
        let mut words = part.split_whitespace();
        let (Some(count), Some(word)) = (words.next(), words.next()) else { continue };
        let Ok(count) = count.parse::<u64>() else { continue };
        match word {
            "passed" | "measured" => outcome.passed += count,
            "failed" => outcome.failed += count,
            "ignored" => outcome.skipped += count,
            _ => {}
        }
    }
    Some(outcome)
}

/// The closing line of nextest: `Summary [ 6.4s] 5/13 tests run: 3 passed (1 slow), 1 failed, 1 timed out, 0 skipped`.
/// Its skipped ones are both the ignored and those that a filter left out, so `filtered` says whether they count.
pub fn nextest(line: &str, filtered: bool) -> Option<Outcome> {
    let rest = line.trim().strip_prefix("Summary [")?.split_once(']')?.1;
    let (run, counts) = rest.split_once(" run: ")?;
    let mut outcome = Outcome::default();
    for part in counts.split(", ") {
        let mut words = part.split_whitespace();
        let (Some(count), Some(word)) = (words.next(), words.next()) else { continue };
        // `(1 slow)` and the like only describe what the number before them counted.
        let Ok(count) = count.parse::<u64>() else { continue };
        match word {
            "passed" => outcome.passed += count,
            "skipped" if filtered => {}
            "skipped" => outcome.skipped += count,
            // failed, timed out, exec failed: whatever is not a pass is a failure.
            _ => outcome.failed += count,
        }
    }
    // `5/13`: the rest was never started.
    let run = run.split_whitespace().next()?;
    if let Some((started, wanted)) = run.split_once('/') {
        let never: u64 = wanted.parse::<u64>().ok()?.saturating_sub(started.parse().ok()?);
        outcome.skipped += never;
    }
    Some(outcome)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn outcome(passed: u64, failed: u64, skipped: u64) -> Option<Outcome> {
        Some(Outcome { passed, failed, skipped })
    }

    #[test]
    fn libtest_lines_are_read() {
        for (line, expected) in [
            (
                "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.10s",
                outcome(5, 0, 1),
            ),
            (
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s",
                outcome(3, 2, 0),
            ),
            ("running 5 tests", None),
            ("", None),
        ] {
            assert_eq!(libtest(line), expected, "{line}");
        }
    }

    #[test]
    fn nextest_lines_are_read() {
        for (line, filtered, expected) in [
            ("     Summary [  26.403s] 13 tests run: 13 passed, 0 skipped", false, outcome(13, 0, 0)),
            ("     Summary [   6.469s] 5/13 tests run: 4 passed, 1 failed, 0 skipped", false, outcome(4, 1, 8)),
            (
                "Summary [ 1.0s] 4 tests run: 2 passed (1 slow), 1 failed, 1 timed out, 3 skipped",
                false,
                outcome(2, 2, 3),
            ),
            ("Summary [ 1.0s] 1 test run: 1 passed (1 leaky), 90 skipped", true, outcome(1, 0, 0)),
            ("Summary [ 1.0s] 2 tests run: 1 passed, 1 exec failed, 0 skipped", false, outcome(1, 1, 0)),
            ("Starting 13 tests across 1 binary", false, None),
        ] {
            assert_eq!(nextest(line, filtered), expected, "{line}");
        }
    }

    #[test]
    fn closing_line_is_plain() {
        assert_eq!(Outcome { passed: 12, failed: 0, skipped: 1 }.to_string(), "12 passed, 0 failed, 1 skipped");
    }
}
