//! What is provisioned when, over ordinary days and over the two on which clocks change.

#![allow(clippy::unwrap_used)]

use weft_schemas::manifest::Moments;

use super::*;

fn schedule(always: u32, windows: &[(&str, &str, &str, u32)]) -> Schedule {
    let windows = windows.iter().map(|&(cron, zone, lasts, provisioned)| Window {
        opens: Moments::parse(cron, zone).unwrap(),
        lasts: weft_schemas::manifest::duration::parse(lasts).unwrap(),
        provisioned,
    });
    Schedule { always, windows: windows.collect() }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What is provisioned at each moment, without any lead.
fn timetable(schedule: &Schedule, times: &[(&str, u32)]) {
    for &(moment, wanted) in times {
        assert_eq!(schedule.at(at(moment), Duration::ZERO).invocations, wanted, "at {moment}");
    }
}

/// Every change from one moment to another, as the schedule itself tells when to look.
fn changes(schedule: &Schedule, from: &str, to: &str, lead: Duration) -> Vec<(String, u32)> {
    let (mut now, mut found) = (at(from), Vec::new());
    let mut last = schedule.at(now, lead).invocations;
    while let Some(until) = schedule.at(now, lead).until.filter(|until| *until < at(to)) {
        assert!(until > now, "it would be asked again and again at {now}");
        now = until;
        let provisioned = schedule.at(now, lead).invocations;
        if provisioned != last {
            found.push((now.to_string(), provisioned));
            last = provisioned;
        }
    }
    found
}

#[test]
fn without_windows_it_never_changes() {
    let schedule = schedule(3, &[]);
    let provisioned = schedule.at(at("2026-11-22T10:00:00Z"), Duration::from_secs(60));
    assert_eq!(provisioned, Provisioned { invocations: 3, until: None });
    assert!(schedule.is_constant());
}

#[test]
fn a_window_opens_and_closes_to_the_second_on_its_days() {
    let schedule = schedule(1, &[("0 7 * * 1-5", "UTC", "2h", 10)]);
    // The 20th of November 2026 is a Friday.
    timetable(
        &schedule,
        &[
            ("2026-11-20T06:59:59.999Z", 1),
            ("2026-11-20T07:00:00Z", 10),
            ("2026-11-20T07:00:00.001Z", 10),
            ("2026-11-20T08:59:59.999Z", 10),
            ("2026-11-20T09:00:00Z", 1),
            ("2026-11-21T08:00:00Z", 1),
            ("2026-11-23T08:00:00Z", 10),
        ],
    );
}

#[test]
fn workers_are_wanted_before_the_window_opens() {
    let schedule = schedule(0, &[("0 7 * * 1-5", "UTC", "2h", 10)]);
    let found = changes(&schedule, "2026-11-20T00:00:00Z", "2026-11-23T12:00:00Z", Duration::from_secs(30));
    let wanted = [
        ("2026-11-20T06:59:30Z", 10),
        ("2026-11-20T09:00:00Z", 0),
        ("2026-11-23T06:59:30Z", 10),
        ("2026-11-23T09:00:00Z", 0),
    ];
    assert_eq!(found, wanted.map(|(at, count)| (at.to_owned(), count)));
}

#[test]
fn of_windows_that_overlap_the_largest_holds() {
    let schedule =
        schedule(2, &[("0 7 * * *", "UTC", "4h", 10), ("0 8 * * *", "UTC", "1h", 50), ("0 9 * * *", "UTC", "5h", 1)]);
    let found = changes(&schedule, "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z", Duration::ZERO);
    let wanted = [
        ("2026-11-20T07:00:00Z", 10),
        ("2026-11-20T08:00:00Z", 50),
        ("2026-11-20T09:00:00Z", 10),
        ("2026-11-20T11:00:00Z", 2),
    ];
    assert_eq!(found, wanted.map(|(at, count)| (at.to_owned(), count)));
    assert_eq!(schedule.most(), 50);
}

#[test]
fn a_window_that_opens_again_before_it_closes_stays_open() {
    let schedule = schedule(0, &[("*/10 * * * *", "UTC", "15m", 4)]);
    assert_eq!(changes(&schedule, "2026-11-20T00:00:00Z", "2026-11-20T03:00:00Z", Duration::ZERO), []);
    timetable(&schedule, &[("2026-11-20T00:00:00Z", 4), ("2026-11-20T01:59:59Z", 4)]);
}

#[test]
fn the_morning_rush_follows_the_clocks_of_its_place() {
    // Berlin goes from +02:00 to +01:00 on the 25th of October 2026 and to +02:00 on the 28th of March 2027.
    let schedule = schedule(0, &[("0 7 * * *", "Europe/Berlin", "2h", 10)]);
    timetable(
        &schedule,
        &[
            ("2026-10-24T04:59:59Z", 0),
            ("2026-10-24T05:00:00Z", 10),
            ("2026-10-25T05:30:00Z", 0),
            ("2026-10-25T06:00:00Z", 10),
            ("2027-03-27T05:59:59Z", 0),
            ("2027-03-27T06:00:00Z", 10),
            ("2027-03-28T05:00:00Z", 10),
            ("2027-03-28T07:00:00Z", 0),
        ],
    );
}

#[test]
fn an_opening_in_the_hour_that_is_left_out_comes_right_after_it() {
    // On the 28th of March 2027, 02:30 does not exist in Berlin: 02:00 is 03:00, which is 01:00 in UTC.
    let schedule = schedule(0, &[("30 2 * * *", "Europe/Berlin", "1h", 5)]);
    let found = changes(&schedule, "2027-03-27T12:00:00Z", "2027-03-29T12:00:00Z", Duration::ZERO);
    let wanted = [
        ("2027-03-28T01:00:00Z", 5),
        ("2027-03-28T02:00:00Z", 0),
        ("2027-03-29T00:30:00Z", 5),
        ("2027-03-29T01:30:00Z", 0),
    ];
    assert_eq!(found, wanted.map(|(at, count)| (at.to_owned(), count)));
}

#[test]
fn an_opening_in_the_hour_that_comes_twice_comes_once_and_lasts_as_long_as_it_says() {
    // On the 25th of October 2026, 02:30 comes twice in Berlin: at 00:30 and at 01:30 in UTC.
    let schedule = schedule(0, &[("30 2 * * *", "Europe/Berlin", "20m", 5)]);
    let found = changes(&schedule, "2026-10-24T12:00:00Z", "2026-10-26T00:00:00Z", Duration::ZERO);
    let wanted = [("2026-10-25T00:30:00Z", 5), ("2026-10-25T00:50:00Z", 0)];
    assert_eq!(found, wanted.map(|(at, count)| (at.to_owned(), count)));
}

#[test]
fn a_window_over_the_change_of_clocks_lasts_in_time_that_passes() {
    let schedule = schedule(0, &[("0 1 * * *", "Europe/Berlin", "4h", 5)]);
    // 01:00 +02:00 is 23:00 in UTC; four hours later it is 04:00 +01:00 there.
    timetable(&schedule, &[("2026-10-24T23:00:00Z", 5), ("2026-10-25T02:59:59Z", 5), ("2026-10-25T03:00:00Z", 0)]);
}

#[test]
fn the_lead_is_as_long_as_the_starts_take() {
    let mut memory = Memory::default();
    assert_eq!(lead(&memory, 1, 2), Duration::from_secs(4), "two seconds before one was seen");
    memory.started(Duration::from_secs(10));
    assert_eq!(lead(&memory, 5, 2), Duration::from_secs(46), "three waves of fifteen seconds");
    assert_eq!(lead(&memory, 5_000, 2), LEAD_MOST);
}
