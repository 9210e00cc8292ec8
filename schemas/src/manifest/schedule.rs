//! Windows in which more concurrency is provisioned: when they open, in which time zone, how long they last.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use std::time::Duration;

/// The time zone where none is named.
pub const DEFAULT_ZONE: &str = "UTC";

/// Moments that come again: a pattern of five fields (minute, hour, day of the month, month, day of the week) or a
/// nickname such as `@daily`, read in a time zone. Equal when they were written the same.
///
/// On the day when clocks go forward, a moment that is left out is the first one after the gap. When they go back, a
/// moment that comes twice is the first of the two, unless the pattern names every hour.
#[derive(Clone)]
pub struct Moments {
    text: String,
    zone: TimeZone,
    cron: Box<Cron>,
}

/// Why a text does not name moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoMoments {
    /// The pattern cannot be read: why, in the reader's words.
    Pattern(String),
    /// It can be read and never comes, such as the 30th of February.
    Never,
    /// There is no such time zone.
    Zone,
}

impl Moments {
    /// Reads a pattern in a time zone of the IANA database (`Europe/Berlin`, `UTC`).
    ///
    /// # Errors
    /// See [`NoMoments`].
    pub fn parse(text: &str, zone: &str) -> Result<Self, NoMoments> {
        let zone = TimeZone::get(zone).map_err(|_| NoMoments::Zone)?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| NoMoments::Pattern(error.to_string()))?;
        let moments = Self { text: text.to_owned(), zone, cron: Box::new(cron) };
        // From a moment far enough back that it is in every pattern's future; leap days come within eight years.
        if moments.after(Timestamp::UNIX_EPOCH).is_none() {
            return Err(NoMoments::Never);
        }
        Ok(moments)
    }

    /// The first one after `now`; `None`: there is none that a calendar can name.
    pub fn after(&self, now: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_next_occurrence(&now.to_zoned(self.zone.clone()), false).ok()?;
        Some(found.timestamp())
    }

    /// The last one that is not after `now`; `None`: there was none.
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let found = self.cron.find_previous_occurrence(&now.to_zoned(self.zone.clone()), true).ok()?;
        Some(found.timestamp())
    }

    /// The pattern as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The time zone's name.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or(DEFAULT_ZONE)
    }
}

impl PartialEq for Moments {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl fmt::Debug for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.text, self.zone())
    }
}

/// One window, again and again: `{ cron = "0 7 * * 1-5", for = "2h", time_zone = "Europe/Berlin", provisioned = 10 }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// When it opens.
    pub opens: Moments,
    /// How long it stays open, in time that passes; 1 min to 7 d.
    pub lasts: Duration,
    /// Room for this many invocations is kept warm while it is open; 1 to 100,000.
    pub provisioned: u32,
}

impl Window {
    /// Whether it is open at `now`: an opening is not longer ago than it lasts.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.closes(now).is_some()
    }

    /// When it closes, if it is open at `now`.
    pub fn closes(&self, now: Timestamp) -> Option<Timestamp> {
        let lasts = SignedDuration::try_from(self.lasts).ok()?;
        let closes = self.opens.until(now)?.checked_add(lasts).ok()?;
        (closes > now).then_some(closes)
    }
}
