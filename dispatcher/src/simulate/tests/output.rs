//! The figures' form, the costs and the chart.

use super::*;

fn report() -> Report {
    let trace = trace_of(vec![
        function("steady", 800, vec![60; 60]),
        function("seldom", 1_000, at(60, &[5, 40])),
        function("silent", 1_000, vec![0; 60]),
    ]);
    let policies = ["fixed:10m", "adaptive", "provisioned:1", "always-on"].map(|name| name.parse().unwrap());
    simulate(&trace, &Setup::default(), &policies, &|| ())
}

#[test]
fn the_json_has_the_keys_that_programs_read() {
    let json = serde_json::to_value(report()).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&json), ["functions", "policies", "prices", "trace"]);
    let policies = json["policies"].as_array().unwrap();
    let names: Vec<_> = policies.iter().map(|policy| policy["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["fixed:10m", "adaptive", "provisioned:1", "always-on"]);
    for policy in policies {
        for number in [
            "cold_starts",
            "cold_share_median",
            "cold_share_p75",
            "worker_seconds",
            "memory_mb_seconds",
            "peak_workers",
            "throttles",
        ] {
            assert!(policy[number].is_number(), "{number}: {policy}");
        }
    }
    assert_eq!(
        keys(&policies[0]),
        [
            "cold_share",
            "cold_share_median",
            "cold_share_p75",
            "cold_starts",
            "containers_usd",
            "invocations",
            "memory_mb_seconds",
            "name",
            "nodes_usd",
            "peak_memory_mb",
            "peak_workers",
            "throttles",
            "unfinished",
            "worker_seconds",
        ]
    );
    assert_eq!((&json["trace"]["functions"], &json["trace"]["silent_functions"]), (&2.into(), &1.into()));
    assert_eq!(json["functions"].as_array().unwrap().len(), 2);
}

#[test]
fn costs_are_what_the_price_list_says() {
    let report = report();
    let steady = &report.functions[0];
    // 2,880 seconds of 128 MB, the least that is billed, and 3,600 requests.
    assert_eq!((steady.invocations, steady.billed_gb_seconds), (3_600, 360.0));
    let on_demand = 3_600.0 * 0.20 / 1e6 + 360.0 * 0.000_016_666_7;
    assert!((steady.on_demand_usd - on_demand).abs() < 1e-12);
    // A quarter of a processor and 100 MB for the hour.
    let always_on = 0.25 * 0.040_48 + 100.0 / 1_024.0 * 0.004_445;
    assert_eq!(steady.always_on_workers, 1);
    assert!((steady.always_on_usd - always_on).abs() < 1e-12);
    assert!((steady.break_even_per_hour - always_on / (on_demand / 3_600.0)).abs() < 1e-6);
    assert_eq!(
        report.functions.iter().map(|function| function.cheaper).collect::<Vec<_>>(),
        ["on-demand", "on-demand"]
    );
    // Were seconds dearer, it would pay to be always on.
    let dear = Setup { prices: price::Prices { gb_second: 1.0, ..price::Prices::default() }, ..Setup::default() };
    let trace = trace_of(vec![function("f", 1_000, vec![60; 60])]);
    assert_eq!(simulate(&trace, &dear, &[Policy::Adaptive], &|| ()).functions[0].cheaper, "always-on");
    // Three kept workers of 100 MB fit on one node; provisioned ones are paid for all hour.
    let provisioned = &report.policies[2];
    assert!((provisioned.containers_usd - 3.0 * always_on).abs() < 1e-9, "{provisioned:?}");
    assert!((provisioned.nodes_usd - 0.096).abs() < 1e-12);
}

#[test]
fn quantiles_lie_between_neighbours() {
    let quantile = super::super::figures::quantile;
    assert_eq!(quantile(&[], 0.5), 0.0);
    assert_eq!(quantile(&[3.0], 0.75), 3.0);
    assert_eq!(quantile(&[0.0, 1.0], 0.75), 0.75);
    assert_eq!(quantile(&[0.0, 1.0, 2.0, 10.0], 0.5), 1.5);
    assert_eq!(quantile(&[0.0, 1.0, 2.0, 10.0], 1.0), 10.0);
}

#[test]
fn policies_are_named_as_they_are_written() {
    for name in ["fixed:10m", "fixed:1h30m", "fixed:0s", "adaptive", "provisioned:2", "always-on"] {
        assert_eq!(name.parse::<Policy>().unwrap().to_string(), name);
    }
    for wrong in
        ["", "fixed", "fixed:", "fixed:10", "adaptive:1", "provisioned:0", "provisioned:x", "always", "Adaptive"]
    {
        assert_eq!(wrong.parse::<Policy>(), Err(PolicyFault), "{wrong}");
    }
    assert_eq!("fixed:60m".parse::<Policy>().unwrap().to_string(), "fixed:1h");
}

#[test]
fn the_chart_names_every_policy() {
    let report = report();
    let svg = chart::svg(&report).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for policy in &report.policies {
        assert_eq!(
            svg.matches(&format!("\n{}\n", policy.name)).count(),
            2,
            "{}: in the legend, at its point",
            policy.name
        );
    }
    assert_eq!(svg.matches("<circle").count(), report.policies.len());
    // Nothing ran: there is still something to look at.
    let silent = trace_of(vec![function("f", 1, vec![0])]);
    chart::svg(&simulate(&silent, &Setup::default(), &Policy::usual(), &|| ())).unwrap();
}
