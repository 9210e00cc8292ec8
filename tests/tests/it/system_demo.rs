//! `weft demo` as a user runs it: on nothing, on real services, and while RabbitMQ is restarted under it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weft_tests::{Exit, PrivateRabbit, Process, poll};

use crate::system_stage::{LIMIT, Place, Stage, children, is_alive, one_json};

const DEMO: Duration = Duration::from_secs(110);

/// The counts that the example says its orders lead to.
fn expected() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/orders/data/expected.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Holds a summary to the promise and to the example's expected end.
fn check(exit: Exit) {
    let summary = one_json(&exit.success());
    let expected = expected();
    let sum = |field: fn(&Value) -> u64| expected["functions"].as_object().unwrap().values().map(field).sum::<u64>();
    let dead = |function: &Value| function["dead"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    for field in ["lost", "double_effects", "workers_at_end"] {
        assert_eq!(summary[field], 0, "{field}: {summary:#}");
    }
    assert_eq!(summary["differences"], Value::Array(Vec::new()), "{summary:#}");
    assert_eq!(summary["published"], expected["published"]);
    assert_eq!(summary["unique"], expected["unique"]);
    assert_eq!(summary["succeeded"], sum(|function| function["succeeded"].as_u64().unwrap()));
    assert_eq!(summary["dead"], sum(dead));
    for field in ["cold_starts", "peak_workers"] {
        assert!(summary[field].as_u64().unwrap() > 0, "{field}: {summary:#}");
    }
    for (group, field) in [("cold_start_ms", "p50"), ("cold_start_ms", "p99"), ("warm_ms", "p50"), ("warm_ms", "p99")] {
        assert!(summary[group][field].as_f64().unwrap() > 0.0, "{group}.{field}: {summary:#}");
    }
    // Each repeat of an order reaches two functions. A broker that goes away may repeat more.
    let duplicates = expected["duplicates"].as_u64().unwrap() * 2;
    assert!(summary["duplicates_answered"].as_u64().unwrap() >= duplicates, "{summary:#}");
}

#[tokio::test]
async fn the_demo_needs_nothing_and_passes_twice_in_a_row() {
    let folder = weft_tests::folder("demo");
    for _ in 0..2 {
        // Its own temporary folder, so that what it leaves can be seen.
        let demo = Process::weft("weft").args(["demo", "--json"]).folder(&folder).env("TMPDIR", &folder);
        check(demo.run(DEMO).await);
        let left: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn the_demo_passes_on_real_services_and_leaves_nothing_behind() {
    let stage = Stage::real().await;
    let demo = stage.weft(&["demo", "--json"]).spawn();
    let database = demo_database(&stage, demo.pid().unwrap()).await;
    check(demo.wait(DEMO).await);
    assert_eq!(stage.vhost().queues().await, Vec::<String>::new());
    assert_eq!(stage.sql(&format!("select count(*) from pg_database where datname = '{database}'")).await, "0");
}

/// The demo's own database, once it is there.
async fn demo_database(stage: &Stage, pid: u32) -> String {
    poll("the demo has made its database", LIMIT, || async {
        let name = stage.sql(&format!("select datname from pg_database where datname like 'weft_demo_%_{pid}'")).await;
        if name.is_empty() { Err(name) } else { Ok(name) }
    })
    .await
}

#[tokio::test]
async fn the_demo_passes_while_rabbitmq_is_restarted_in_the_middle() {
    let rabbit = PrivateRabbit::start().await;
    let stage = Stage::with_rabbit(&rabbit).await;
    let Place::Real { ledger, .. } = &stage.place else { unreachable!("made so above") };
    let demo = stage.weft(&["demo", "--json", "--limit", "100s"]).spawn();
    let database = demo_database(&stage, demo.pid().unwrap()).await;
    let mut own = url::Url::parse(ledger).unwrap();
    own.set_path(&database);
    // In the middle: some payments are made, most are not.
    let payments = poll("the demo is in its middle", LIMIT, || async {
        let count = Process::at("psql").args(["-XqAt", "-c", "select count(*) from payments", own.as_str()]);
        let seen = count.run(LIMIT).await.text();
        seen.parse::<u64>().ok().filter(|count| *count >= 5).ok_or(seen)
    })
    .await;
    rabbit.stop().await;
    rabbit.start_again().await;
    println!("restarted when {payments} of 250 payments were made");
    assert!(payments < 250, "the demo was done before RabbitMQ was stopped");
    check(demo.wait(DEMO).await);
    assert_eq!(stage.vhost().queues().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_demo_that_is_stopped_or_runs_out_of_time_fails_and_leaves_nothing_behind() {
    let folder = weft_tests::folder("demo");
    let demo = |args: &[&str]| {
        let demo = Process::weft("weft").args(["demo", "--json"]).args(args);
        demo.folder(&folder).env("TMPDIR", &folder)
    };
    // The folder of the workers' rooms may outlive a stop on a busy machine; the next start sweeps it, which is tested
    // where it is made. What the demo itself makes must be gone.
    let left = || -> Vec<_> {
        let names = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| !name.as_encoded_bytes().starts_with(b"weft-run-")).collect()
    };
    let late = demo(&["--limit", "1s"]).run(DEMO).await.code(6).text();
    assert!(late.contains("error[W0801]") && late.contains("--limit"), "{late}");
    assert!(left().is_empty(), "{:?}", left());

    let stopped = demo(&[]).spawn();
    let workers = poll("workers are there", LIMIT, || async {
        let workers = children(stopped.pid().unwrap());
        if workers.len() >= 2 { Ok(workers) } else { Err(workers) }
    })
    .await;
    stopped.terminate();
    let exit = stopped.wait(DEMO).await.code(6);
    assert!(exit.text().contains("was stopped before it was done"), "{}", exit.text());
    assert!(workers.iter().all(|pid| !is_alive(*pid)), "a worker outlived the demo");
    assert!(left().is_empty(), "{:?}", left());
}
