//! A machine without control groups: what a worker is limited by there, and what is refused.

use serde_json::json;
use weft_tests::{Process, ProcessBuilder, poll};

use crate::isolation_stage::result;
use crate::system_stage::{LIMIT, Stage, admin, complaints, started, stop};

fn stage(keys: &str) -> Stage {
    Stage::embedded().manifest(&format!(
        r#"
        [functions.confined]
        command = ["HANDLERS"]
        events = ["confined.event"]
        slots = 2
        retry = {{ attempts = 3, crashes = 1, backoff = {{ first = "10ms", max = "10ms" }} }}
        {keys}
        "#
    ))
}

/// A program that sees this machine as one that mounts no control groups.
fn bare(stage: &Stage, args: &[&str]) -> ProcessBuilder {
    let script = "umount --lazy --recursive /sys/fs/cgroup 2>/dev/null; exec \"$@\"";
    let unshared = ["--mount", "--propagation", "private", "sh", "-c", script, "sh"];
    stage.program(Process::at("unshare")).args(unshared).arg(weft_tests::bin("weft")).args(args)
}

fn dispatcher(stage: &Stage) -> ProcessBuilder {
    bare(stage, &["dev", "--admin", "127.0.0.1:0", "--node", &stage.node, "--log-format", "json"])
}

/// Whether this test may make such a view of the machine, and may start others' processes.
async fn possible(stage: &Stage) -> bool {
    let machine = stage.weft(&["doctor", "--json"]).run(LIMIT).await.text();
    machine.contains("disk: by a private tmpfs") && machine.contains("user: by setuid")
}

#[tokio::test]
async fn without_control_groups_the_processes_of_a_user_are_counted_altogether() {
    // Nobody else's, or others would count as well.
    let user = 1_000_000 + fastrand::u32(..1_000_000);
    let stage = stage(&format!("limits = {{ processes = 40 }}\nisolation = {{ user = \"{user}:{user}\" }}"));
    if !possible(&stage).await {
        return;
    }
    let mut dispatcher = started(dispatcher(&stage)).await;
    let seen = result(&stage, "look", &json!({ "do": "look" })).await;
    assert_eq!(
        (&seen["processes"], seen["uid"].as_str()),
        (&json!(null), Some(&*format!("{user} {user} {user} {user}")))
    );
    let limits = seen["limits"].as_str().unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max processes")).unwrap();
    assert_eq!(line.split_whitespace().nth(2), Some("40"), "{line}");
    let tried = result(&stage, "many", &json!({ "do": "processes", "most": 100 })).await;
    assert_eq!(tried["refused"], "WouldBlock", "{tried:#}");
    assert!((1..40).contains(&tried["started"].as_u64().unwrap()), "its threads count as well: {tried:#}");
    let admin = admin(&mut dispatcher).await;
    let live = &stage.json(&["functions", "confined", "--json", "--admin", &admin]).await[0]["live"];
    let said = live["confined"]["processes"].as_str().unwrap();
    assert_eq!(said, format!("40 of the user {user}:{user} altogether by RLIMIT_NPROC"), "{live:#}");
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn without_control_groups_memory_is_limited_by_the_data_of_each_process() {
    let stage = stage("memory = \"64MiB\"");
    if !possible(&stage).await {
        return;
    }
    let mut dispatcher = started(dispatcher(&stage)).await;
    stage.publish("confined.event", "hog", &json!({ "do": "memory", "mib": 400, "from_attempt": 9 })).await;
    let dead = poll("there is a dead letter", LIMIT, || async {
        let letters = stage.json(&["dlq", "ls", "--json"]).await;
        if letters.as_array().is_some_and(|letters| letters.len() == 1) { Ok(letters[0].clone()) } else { Err(letters) }
    })
    .await;
    assert_eq!((&dead["reason"], &dead["error"]["kind"]), (&json!("crashed"), &json!("OutOfMemory")), "{dead:#}");
    let admin = admin(&mut dispatcher).await;
    let live = &stage.json(&["functions", "confined", "--json", "--admin", &admin]).await[0]["live"];
    // The stacks of two slots and eight threads besides.
    assert_eq!(live["confined"]["memory"], "84MiB of data of each process by RLIMIT_DATA", "{live:#}");
    let exit = stop(dispatcher).await;
    let provoked = ["worker went away with work", "event given up", "worker output"];
    assert_eq!(complaints(&exit.lines, &provoked), Vec::<String>::new());
}

#[tokio::test]
async fn without_control_groups_what_they_alone_can_keep_is_refused_at_start() {
    let stage = stage("limits = { cpu = 0.5, processes = 40 }");
    if !possible(&stage).await {
        return;
    }
    let refused = dispatcher(&stage).run(LIMIT).await.code(9).text();
    for part in ["W0504", "limits.cpu cannot be kept", "limits.processes cannot be kept", "no tree of control groups"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    let doctor = bare(&stage, &["doctor"]).run(LIMIT).await.text();
    assert!(doctor.contains("RLIMIT_DATA, per process"), "{doctor}");
}
