//! `weft simulate` as people and programs meet it: no service, no dispatcher.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weft_tests::{Exit, Process};

const LIMIT: Duration = Duration::from_secs(60);

/// Two functions over an hour: one every five minutes, one twice.
fn write_trace(folder: &Path) {
    let minutes: Vec<String> = (1..=60).map(|minute: u32| minute.to_string()).collect();
    let row = |busy: &dyn Fn(u32) -> bool| {
        (1..=60).map(|minute| u32::from(busy(minute)).to_string()).collect::<Vec<_>>().join(",")
    };
    let timer = row(&|minute| minute % 5 == 0);
    let seldom = row(&|minute| minute == 3 || minute == 40);
    let head = "HashOwner,HashApp,HashFunction";
    let invocations =
        format!("{head},Trigger,{}\no,a,timer,timer,{timer}\no,a,seldom,http,{seldom}\n", minutes.join(","));
    std::fs::write(folder.join("invocations.csv"), invocations).unwrap();
    let durations =
        format!("{head},percentile_Average_0,percentile_Average_100\no,a,timer,500,500\no,a,seldom,900,900\n");
    std::fs::write(folder.join("durations.csv"), durations).unwrap();
    let memory = format!("{head},AverageAllocatedMb\no,a,timer,64\no,a,seldom,256\n");
    std::fs::write(folder.join("memory.csv"), memory).unwrap();
}

async fn simulate(folder: &Path, args: &[&str]) -> Exit {
    Process::weft("weft").args(["simulate", "--trace"]).arg(folder).args(args).run(LIMIT).await
}

#[tokio::test]
async fn policies_are_compared_as_json_as_a_table_and_as_a_chart() {
    let folder = tempfile::tempdir().unwrap();
    write_trace(folder.path());
    let chart = folder.path().join("policies.svg");
    let chosen = ["--policy", "fixed:10m", "--policy", "always-on", "--json", "--chart", chart.to_str().unwrap()];
    let exit = simulate(folder.path(), &chosen).await.success();
    let json: Value = serde_json::from_str(exit.stdout.first().unwrap()).unwrap();
    let [fixed, always] = json["policies"].as_array().unwrap().as_slice() else { panic!("{json:#}") };
    assert_eq!((&fixed["name"], &always["name"]), (&"fixed:10m".into(), &"always-on".into()));
    // The timer is cold once in twelve, the other one both times: the middle of the two shares, and three quarters up.
    assert_eq!((&fixed["cold_starts"], &fixed["peak_workers"], &fixed["throttles"]), (&3.into(), &2.into(), &0.into()));
    let near = |value: &Value, wanted: f64| (value.as_f64().unwrap() - wanted).abs() < 1e-9;
    assert!(near(&fixed["cold_share_median"], (1.0 / 12.0 + 1.0) / 2.0), "{fixed:#}");
    assert!(near(&fixed["cold_share_p75"], 1.0 / 12.0 + (1.0 - 1.0 / 12.0) * 0.75), "{fixed:#}");
    assert_eq!(always["cold_starts"], 0);
    assert!(
        near(&always["worker_seconds"], 7_200.0) && near(&always["memory_mb_seconds"], 3_600.0 * 320.0),
        "{always:#}"
    );
    let svg = std::fs::read_to_string(&chart).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("always-on"));

    let again = simulate(folder.path(), &chosen).await.success();
    assert_eq!(again.stdout, exit.stdout, "the same seed, the same figures");

    let text = simulate(folder.path(), &["--functions", "--hours", "1"]).await.success().text();
    for part in
        ["POLICY", "COLD P75", "fixed:1m", "fixed:1h", "adaptive", "BREAK-EVEN PER HOUR", "seldom", "on demand: $"]
    {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[tokio::test]
async fn a_trace_with_faults_is_refused_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let text = simulate(folder.path(), &[]).await.code(3).text();
    assert!(text.contains("W0102") && text.contains("holds neither invocations.csv nor"), "{text}");
    write_trace(folder.path());
    let path = folder.path().join("durations.csv");
    let durations = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, durations.replace("seldom,900,900", "seldom,fast,900")).unwrap();
    let text = simulate(folder.path(), &["--json"]).await.code(3).text();
    assert!(text.contains("durations.csv:3: percentile_Average_0 holds \"fast\": write a number"), "{text}");
    let text = simulate(folder.path(), &["--policy", "sometimes"]).await.code(2).text();
    assert!(text.contains("write fixed:TIME"), "{text}");
    let text = simulate(folder.path(), &["--chart", "chart.gif"]).await.code(2).text();
    assert!(text.contains("ends in .svg"), "{text}");
}
