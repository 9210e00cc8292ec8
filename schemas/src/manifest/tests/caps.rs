//! `concurrency` and its windows, `rate`, `ordering`, `batch`.

use super::*;

#[test]
fn a_schedule_says_when_where_how_long_and_how_many() {
    let text = "concurrency = { provisioned = 1, schedule = [\n\
                  { cron = \"0 7 * * 1-5\", for = \"2h\", time_zone = \"Europe/Berlin\", provisioned = 10 },\n\
                  { cron = \"@daily\", for = \"90s\", provisioned = 2 },\n] }";
    let concurrency = function(&with(text)).concurrency;
    let windows: Vec<_> = concurrency
        .schedule
        .iter()
        .map(|window| (window.opens.text(), window.opens.zone(), window.lasts.as_secs(), window.provisioned))
        .collect();
    assert_eq!(windows, [("0 7 * * 1-5", "Europe/Berlin", 7200, 10), ("@daily", "UTC", 90, 2)]);
}

#[test]
fn a_smaller_reserve_takes_the_default_of_slots_with_it() {
    assert_eq!(function(&with("concurrency = { reserved = 4 }")).slots, 4);
    assert_eq!(function(&with("concurrency = { reserved = 200 }")).slots, 16);
}

#[test]
fn each_rule_of_a_cap_has_its_fault() {
    each_is_refused(&[
        (
            "slots = 4\nconcurrency = { reserved = 3 }",
            "slots (4) is more than concurrency.reserved (3); write at most 3",
        ),
        ("concurrency = { reserved = 2, provisioned = 3 }", "provisioned (3) is more than reserved (2)"),
        ("concurrency = { reserved = 0 }", "is 0, less than 1"),
        ("concurrency = { total = 2, provisioned = 3 }", "provisioned (3) is more than total (2)"),
        ("concurrency = { total = 0 }", "total in [functions.f.concurrency] is 0, less than 1"),
        ("rate = \"100\"", "rate is no rate: \"100\"; write a whole number from 1 to 1000000, a slash, and s, m or h"),
        ("rate = \"0/s\"", "rate is no rate"),
        ("ordering = {}", "ordering has no key; write ordering = { key = \"/data/customer_id\" }"),
        ("ordering = { key = \"customer_id\" }", "ordering.key \"customer_id\" is no JSON Pointer"),
        ("batch = { size = 0 }", "size in [functions.f.batch] is 0, less than 1"),
        ("batch = { wait = \"2m\" }", "write \"0s\" to \"1m\""),
        ("concurrency = 5", "write a table with any of reserved, provisioned, total, weight, schedule"),
        ("concurrency.weight = 0", "is 0, less than 1"),
        ("concurrency.schedule = 5", "schedule in [functions.f.concurrency] is of type integer, not array of tables"),
        ("concurrency.schedule = [5]", "write a list of tables with cron, for, time_zone, provisioned"),
        (
            "concurrency.schedule = [{ for = \"2h\", provisioned = 1 }]",
            "cron is missing in [functions.f.concurrency.schedule.0]",
        ),
        ("concurrency.schedule = [{ cron = \"0 7 * * *\", provisioned = 1 }]", "for is missing"),
        ("concurrency.schedule = [{ cron = \"0 7 * * *\", for = \"2h\" }]", "write provisioned = 10"),
        (
            "concurrency.schedule = [{ cron = \"0 7 * *\", for = \"2h\", provisioned = 1 }]",
            "cron \"0 7 * *\" cannot be read",
        ),
        ("concurrency.schedule = [{ cron = \"0 0 7 * * *\", for = \"2h\", provisioned = 1 }]", "cannot be read"),
        ("concurrency.schedule = [{ cron = \"0 25 * * *\", for = \"2h\", provisioned = 1 }]", "cannot be read"),
        ("concurrency.schedule = [{ cron = \"0 7 30 2 *\", for = \"2h\", provisioned = 1 }]", "never comes"),
        (
            "concurrency.schedule = [{ cron = \"0 7 * * *\", for = \"2h\", time_zone = \"Europe/Berln\", provisioned = 1 }]",
            "time_zone \"Europe/Berln\" is not known; write a name of the IANA database",
        ),
        ("concurrency.schedule = [{ cron = \"0 7 * * *\", for = \"30s\", provisioned = 1 }]", "write \"1m\" to \"7d\""),
        ("concurrency.schedule = [{ cron = \"0 7 * * *\", for = \"2h\", provisioned = 0 }]", "is 0, less than 1"),
        (
            "concurrency.schedule = [{ cron = \"0 7 * * *\", fro = \"2h\", for = \"2h\", provisioned = 1 }]",
            "unknown key \"fro\"",
        ),
        (
            "slots = 1\nconcurrency = { reserved = 5, schedule = [{ cron = \"0 7 * * *\", for = \"2h\", provisioned = 6 }] }",
            "provisioned (6) in a window is more than reserved (5); write at most 5",
        ),
    ]);
}
