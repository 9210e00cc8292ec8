//! Disks that are full: what cannot be written waits, is told, and goes on by itself when there is room.

use serde_json::{Value, json};
use weft_tests::{PrivatePostgres, Process, SmallDisk, poll, sql};

use crate::system_stage::{LIMIT, Place, Stage, admin, get, record, runs, runs_reach, stop};

const MANIFEST: &str = r#"
[functions.wait]
command = ["HANDLERS"]
events = ["t.wait"]

[functions.noop]
command = ["HANDLERS"]
events = ["t.noop"]
"#;

/// Waits until the admin port says that the ledger is well, or what is wrong with it; tells what it says.
async fn ledger_is(admin: &str, well: bool) -> String {
    poll(&format!("the ledger is well: {well}"), LIMIT, || async {
        let answer = get(admin, "/health").await;
        let code = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        if body["ledger"].is_null() != well {
            return Err(body);
        }
        assert_eq!(code, if well { 200 } else { 503 }, "{body}");
        Ok(body["ledger"].as_str().unwrap_or_default().to_owned())
    })
    .await
}

/// How often each of the lines that tell of an outage was logged.
fn told(dispatcher: &Process) -> Vec<String> {
    let lines = dispatcher.lines();
    let messages = lines.iter().filter_map(|line| record(line)).filter(|line| line["level"] != "INFO");
    messages.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_full_disk_under_the_embedded_file_is_told_and_everything_goes_on_when_there_is_room() {
    let stage = Stage::embedded().manifest(MANIFEST);
    std::fs::create_dir(stage.path(".weft")).unwrap();
    let disk = SmallDisk::mount(&stage.path(".weft"), 16);
    let mut dispatcher = stage.start(&[]).await;
    let admin = admin(&mut dispatcher).await;
    let (file, begun) = (stage.path("go"), stage.path("runs"));
    stage.publish("t.wait", "held", &json!({ "file": file, "runs": begun })).await;
    runs_reach(&begun, 1).await;

    disk.fill();
    std::fs::write(&file, "").unwrap();
    let reason = ledger_is(&admin, false).await;
    assert!(reason.contains("full"), "{reason}");
    // What is not stored is not confirmed either.
    let refused = stage.weft(&["publish", "t.noop", "--id", "late", "--source", "/t", "--data", "{}"]).run(LIMIT).await;
    assert!(!refused.status.success(), "{}", refused.text());
    let waits = stage.invocations_in("wait", "claimed", 1).await;
    assert_eq!(waits[0]["attempt"], 1);

    disk.free();
    ledger_is(&admin, true).await;
    let ended = stage.invocations_in("wait", "succeeded", 1).await;
    assert_eq!((&ended[0]["attempt"], runs(&begun).len()), (&json!(1), 1), "it cost no attempt");
    stage.publish("t.noop", "late", &json!({})).await;
    stage.invocations_in("noop", "succeeded", 1).await;
    let told = told(&dispatcher);
    let holding = told.iter().filter(|message| *message == "ledger does not answer, holding back").count();
    assert!((1..=2).contains(&holding), "once for each function: {told:?}");
    stop(dispatcher).await;
    drop(disk);
}

#[tokio::test]
async fn a_full_disk_under_postgres_is_told_and_everything_goes_on_when_there_is_room() {
    const EVENTS: usize = 600;
    let postgres = PrivatePostgres::start().await;
    // The ledger's tables are on the small disk; the server's own log is not, as without that no server runs at all.
    let place = postgres.folder().join("data").join("small");
    std::fs::create_dir(&place).unwrap();
    let owner = std::fs::metadata(postgres.folder().join("data")).unwrap();
    {
        use std::os::unix::fs::{MetadataExt as _, chown};
        chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let disk = SmallDisk::mount(&place, 64);
    let server = postgres.url();
    sql(&server, &format!("create tablespace small location '{}'", place.display())).await.unwrap();
    sql(&server, "create database small tablespace small").await.unwrap();
    let mut ledger = url::Url::parse(&server).unwrap();
    ledger.set_path("small");
    let (vhost, redis) = tokio::join!(weft_tests::rabbitmq(), weft_tests::redis());
    let stage = Stage::with(Place::Real { vhost: Box::new(vhost), ledger: ledger.into(), state: redis.url });
    let stage = stage.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    let admin = admin(&mut dispatcher).await;
    stage.publish("t.noop", "first", &json!({})).await;
    stage.invocations_in("noop", "succeeded", 1).await;

    disk.fill();
    // More than fits into the pages that the table has.
    let line = |n| json!({ "specversion": "1.0", "type": "t.noop", "id": format!("n{n}"), "source": "/t", "data": {} });
    let lines: String = (0..EVENTS).map(|n| format!("{}\n", line(n))).collect();
    std::fs::write(stage.path("events.ndjson"), lines).unwrap();
    stage.done(&["publish", "--file", &stage.path("events.ndjson").display().to_string(), "--json"]).await;
    let reason = ledger_is(&admin, false).await;
    assert!(reason.contains("No space left"), "{reason}");

    disk.free();
    ledger_is(&admin, true).await;
    let ended = stage.invocations_in("noop", "succeeded", EVENTS + 1).await;
    assert!(ended.iter().all(|invocation| invocation["attempt"] == 1), "it cost no attempt");
    stage.queue_empty("noop").await;
    let told = told(&dispatcher);
    let holding = told.iter().filter(|message| *message == "ledger does not answer, holding back").count();
    assert!((1..=4).contains(&holding), "not at every try: {told:?}");
    stop(dispatcher).await;
    drop(postgres);
    drop(disk);
}

/// Postgres cannot go on without room for its own log (WAL): it panics and cannot start. Nothing else may end with it.
#[tokio::test]
async fn a_full_disk_under_the_log_of_postgres_ends_the_server_and_loses_nothing() {
    let postgres = PrivatePostgres::start().await;
    let ledger = postgres.database().await;
    postgres.stop().await;
    let log = postgres.folder().join("data").join("pg_wal");
    let kept = postgres.folder().join("pg_wal");
    let copied = std::process::Command::new("cp").arg("-a").args([&log, &kept]).status().unwrap();
    assert!(copied.success());
    let disk = SmallDisk::mount(&log, 64);
    let copied = std::process::Command::new("cp").args(["-a", "-T"]).args([&kept, &log]).status().unwrap();
    assert!(copied.success());
    postgres.start_again().await;

    let (vhost, redis) = tokio::join!(weft_tests::rabbitmq(), weft_tests::redis());
    let stage = Stage::with(Place::Real { vhost: Box::new(vhost), ledger: ledger.clone(), state: redis.url });
    let stage = stage.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    let admin = admin(&mut dispatcher).await;
    let (file, begun) = (stage.path("go"), stage.path("runs"));
    stage.publish("t.wait", "held", &json!({ "file": file, "runs": begun })).await;
    runs_reach(&begun, 1).await;
    stage.publish("t.noop", "first", &json!({})).await;
    stage.invocations_in("noop", "succeeded", 1).await;

    disk.fill();
    // Each switch begins a new file, until one finds no room.
    let switch = "create table if not exists filler (n int); insert into filler values (1); select pg_switch_wal()";
    poll("Postgres has ended", LIMIT, || async {
        match sql(&ledger, switch).await {
            Ok(_) => Err("it still writes".to_owned()),
            Err(_) if postgres.is_running() => Err("it tries to recover".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await;
    // The handler ends, and more comes in, while there is no ledger.
    std::fs::write(&file, "").unwrap();
    for id in ["while-1", "while-2"] {
        stage.publish("t.noop", id, &json!({})).await;
    }
    ledger_is(&admin, false).await;

    disk.free();
    postgres.start_again().await;
    ledger_is(&admin, true).await;
    let ended = stage.invocations_in("noop", "succeeded", 3).await;
    assert!(ended.iter().all(|invocation| invocation["attempt"] == 1), "it cost no attempt: {ended:?}");
    stage.invocations_in("wait", "succeeded", 1).await;
    for function in ["noop", "wait"] {
        stage.queue_empty(function).await;
    }
    stop(dispatcher).await;
    drop(postgres);
    drop(disk);
}
