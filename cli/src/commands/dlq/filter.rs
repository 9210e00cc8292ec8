//! From the flags to what the ledger is asked.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use weft_ledger::DeadLetterQuery;
use weft_process::report::{Code, Report};
use weft_schemas::manifest::duration;

use crate::args::DeadLetterFilter;

/// The query for a filter, open letters alone. Ages count from `now`, the clock of this machine.
///
/// # Errors
/// The ages leave no time between them.
pub fn query(filter: &DeadLetterFilter, now: Timestamp) -> Result<DeadLetterQuery, Report> {
    if let (Some(older), Some(newer)) = (filter.older_than, filter.newer_than)
        && older >= newer
    {
        let (older, newer) = (duration::format(older), duration::format(newer));
        return Err(Report::new(
            Code::Setting,
            format!("failed to filter: nothing is older than {older} and newer than {newer} at once"),
        )
        .help("--newer-than takes the longer time: `--older-than 30m --newer-than 2h`"));
    }
    let ago = |age: Duration| {
        let then = SignedDuration::try_from(age).ok().and_then(|age| now.checked_sub(age).ok());
        then.unwrap_or(Timestamp::MIN)
    };
    Ok(DeadLetterQuery {
        function: filter.function.clone(),
        key: filter.key.clone(),
        reason: filter.reason,
        error_kind: filter.error_type.clone(),
        fingerprint: filter.fingerprint.clone(),
        before: filter.older_than.map(ago),
        since: filter.newer_than.map(ago),
        ..DeadLetterQuery::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use weft_schemas::{FunctionName, Key, Reason};

    use super::*;

    fn minutes(count: u64) -> Option<Duration> {
        Some(Duration::from_secs(60 * count))
    }

    #[test]
    fn every_flag_becomes_a_condition() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let filter = DeadLetterFilter {
            function: Some(FunctionName::new("f").unwrap()),
            reason: Some(Reason::Terminal),
            error_type: Some("NotFixed".to_owned()),
            fingerprint: Some("0123456789abcdef".to_owned()),
            older_than: minutes(30),
            newer_than: minutes(120),
            key: Some(Key::new("k").unwrap()),
        };
        let query = query(&filter, now).unwrap();
        assert_eq!(query.function, filter.function);
        assert_eq!(query.reason, filter.reason);
        assert_eq!((query.error_kind, query.fingerprint), (filter.error_type, filter.fingerprint));
        assert_eq!(query.key, filter.key);
        assert_eq!(query.before, Some(Timestamp::from_second(1_000_000 - 1_800).unwrap()));
        assert_eq!(query.since, Some(Timestamp::from_second(1_000_000 - 7_200).unwrap()));
        assert!(!query.include_closed);
    }

    #[test]
    fn ages_that_leave_nothing_between_them_are_refused() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ages = |older_than, newer_than| DeadLetterFilter { older_than, newer_than, ..DeadLetterFilter::default() };
        for (older, newer) in [(120, 30), (30, 30)] {
            let report = query(&ages(minutes(older), minutes(newer)), now).unwrap_err();
            assert_eq!(report.code, Code::Setting);
        }
        assert!(query(&ages(minutes(30), minutes(31)), now).is_ok());
        // Longer ago than there is time.
        let query = query(&ages(Some(Duration::MAX), None), now).unwrap();
        assert_eq!(query.before, Some(Timestamp::MIN));
    }
}
