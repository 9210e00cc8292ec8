//! All the dead letters of a query, page by page, newest first.

use jiff::{SignedDuration, Timestamp};
use weft_ledger::{DeadLetterQuery, DeadLetterRecord, Ledger};
use weft_process::report::Report;

/// A page holds about so many bytes of messages, as each letter brings its whole message along.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// The first page, when nothing is known of the letters' sizes.
const FIRST: u32 = 50;
const MOST: u32 = 1_000;
/// What a letter weighs besides its message.
const LETTER_BYTES: usize = 512;

/// Narrows a query to what is there now: letters that are buried later, such as those that die again while they are
/// redriven, are left out. `false` when there is nothing at all.
///
/// The newest letter's own time is the bound, so it is the database's clock that counts and not this machine's.
pub async fn freeze(ledger: &dyn Ledger, query: &mut DeadLetterQuery) -> Result<bool, Report> {
    let newest = DeadLetterQuery { limit: 1, ..query.clone() };
    let Some(newest) = super::ask(ledger, &newest).await?.pop() else { return Ok(false) };
    query.before = Some(just_after(newest.buried_at).min(query.before.unwrap_or(Timestamp::MAX)));
    Ok(true)
}

/// Ledgers tell times apart by the microsecond.
fn just_after(time: Timestamp) -> Timestamp {
    time.checked_add(SignedDuration::from_micros(1)).unwrap_or(Timestamp::MAX)
}

/// A walk through everything that a query finds. What is closed or buried on the way does not disturb it.
pub struct Pages<'a> {
    ledger: &'a dyn Ledger,
    query: DeadLetterQuery,
    /// How many may still come; `None` is all.
    left: Option<u64>,
    page: u32,
    ended: bool,
}

impl<'a> Pages<'a> {
    pub fn new(ledger: &'a dyn Ledger, query: DeadLetterQuery, limit: Option<u64>) -> Self {
        Self { ledger, query, left: limit, page: FIRST, ended: false }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<DeadLetterRecord>>, Report> {
        if self.ended || self.left == Some(0) {
            return Ok(None);
        }
        let left = self.left.map_or(u32::MAX, |left| u32::try_from(left).unwrap_or(u32::MAX));
        self.query.limit = self.page.min(left);
        let found = super::ask(self.ledger, &self.query).await?;
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        self.ended = count < self.query.limit;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(u64::from(count));
        }
        let Some(last) = found.last() else { return Ok(None) };
        self.query.after = Some((last.buried_at, last.letter.id.clone()));
        let bytes = found.iter().map(|record| record.letter.message.body.len().saturating_add(LETTER_BYTES)).sum();
        self.page = next_page(found.len(), bytes);
        Ok(Some(found))
    }
}

/// How many letters to ask for next, from how large the last ones were.
fn next_page(letters: usize, bytes: usize) -> u32 {
    let average = bytes / letters.max(1);
    u32::try_from(PAGE_BYTES / average.max(1)).unwrap_or(MOST).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_as_large_as_the_letters_allow() {
        assert_eq!(next_page(50, 50 * 600), MOST);
        assert_eq!(next_page(50, 50 * 1024 * 1024), 4);
        assert_eq!(next_page(1, 64 * 1024 * 1024), 1);
        assert_eq!(next_page(0, 0), MOST);
    }

    #[test]
    fn the_bound_takes_the_newest_letter_in() {
        let time = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap_or_default();
        assert_eq!(just_after(time).as_microsecond() - time.as_microsecond(), 1);
        assert_eq!(just_after(Timestamp::MAX), Timestamp::MAX);
    }
}
