//! Rates: a whole number of starts per second, minute or hour, such as `100/s`.

use std::fmt;
use std::time::Duration;

/// The units, and how long each is.
const UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

/// The most starts in one unit.
pub const MOST: u32 = 1_000_000;

/// What to write in place of what is no rate.
pub const EXAMPLE: &str = "a whole number from 1 to 1000000, a slash, and s, m or h, such as \"100/s\" or \"10/m\"";

/// How many attempts may start in a time. Only its quotient counts: `60/m` is `1/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 1 to [`MOST`].
    pub starts: u32,
    /// A second, a minute or an hour.
    pub per: Duration,
}

impl Rate {
    /// Reads `100/s`, `10/m` or `5/h`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = text.split_once('/')?;
        let (_, seconds) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let starts = number.parse().ok().filter(|starts| (1..=MOST).contains(starts))?;
        Some(Self { starts, per: Duration::from_secs(seconds) })
    }

    /// The time from one start to the next where they come evenly; at least a microsecond.
    pub fn interval(&self) -> Duration {
        self.per / self.starts.max(1)
    }
}

impl fmt::Display for Rate {
    /// As [`Rate::parse`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.into_iter().find(|(_, seconds)| *seconds == self.per.as_secs()).map_or("s", |(name, _)| name);
        write!(f, "{}/{unit}", self.starts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_mean_what_they_say() {
        for (text, interval_us) in
            [("100/s", 10_000), ("1/s", 1_000_000), ("60/m", 1_000_000), ("3600/h", 1_000_000), ("1000000/s", 1)]
        {
            let rate = Rate::parse(text);
            assert_eq!(rate.map(|rate| rate.interval()), Some(Duration::from_micros(interval_us)), "{text}");
            assert_eq!(rate.map(|rate| rate.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "",
            "/",
            "100",
            "100/",
            "/s",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "100/d",
            "100/S",
            "100 / s",
            "1000001/s",
            "99999999999999999999/s",
            "1/s/s",
        ] {
            assert_eq!(Rate::parse(text), None, "{text:?}");
        }
    }
}
