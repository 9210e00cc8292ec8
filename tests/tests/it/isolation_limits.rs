//! Workers that take more than their share: of memory, processes, disk and log. None of it reaches the other functions.

use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::{Process, poll};

use crate::isolation_stage::{result, started_or_refused};
use crate::system_stage::{LIMIT, Stage, admin, complaints, stop};

/// `confined` with the given keys, and `noop`, which must go on whatever the other does.
fn stage(keys: &str) -> Stage {
    Stage::embedded().manifest(&format!(
        r#"
        [functions.confined]
        command = ["HANDLERS"]
        events = ["confined.event"]
        slots = 2
        retry = {{ attempts = 3, crashes = 2, backoff = {{ first = "10ms", max = "10ms" }} }}
        {keys}

        [functions.noop]
        command = ["HANDLERS"]
        events = ["noop.event"]
        "#
    ))
}

/// The status of one function, as its dispatcher tells it.
async fn live(stage: &Stage, dispatcher: &mut Process) -> Value {
    let admin = admin(dispatcher).await;
    stage.json(&["functions", "confined", "--json", "--admin", &admin]).await[0]["live"].clone()
}

async fn others_go_on(stage: &Stage) {
    stage.publish("noop.event", "other", &json!({})).await;
    let done = stage.invocations_in("noop", "succeeded", 1).await;
    assert_eq!(done[0]["attempt"], 1, "{done:#?}");
}

#[tokio::test]
async fn a_worker_is_limited_as_the_manifest_says_and_the_status_tells_by_what() {
    let stage = stage("memory = \"96MiB\"\nlimits = { files = 200, file_size = \"2MiB\" }");
    let mut dispatcher = stage.start(&[]).await;
    let seen = result(&stage, "one", &json!({ "do": "look" })).await;
    let status = live(&stage, &mut dispatcher).await;
    let limits = seen["limits"].as_str().unwrap();
    let of = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.trim_start_matches(name).split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("Max open files"), ["200", "200"]);
    assert_eq!(of("Max file size"), ["2097152", "2097152"]);
    assert_eq!(of("Max core file size"), ["0", "0"]);
    assert_eq!(seen["no_new_privileges"], "1");
    let memory = status["confined"]["memory"].as_str().unwrap();
    if memory.contains("cgroup") {
        assert_eq!((memory.split(' ').next(), &seen["memory"]), (Some("96MiB"), &json!("100663296")), "{seen:#}");
    } else {
        assert!(memory.ends_with("by RLIMIT_DATA") && of("Max data size")[0] != "unlimited", "{memory} {limits}");
    }
    assert_eq!((&status["confined"]["files"], &status["confined"]["file_size"]), (&json!("200"), &json!("2MiB")));
    let exit = stop(dispatcher).await;
    assert!(exit.text().contains("workers are confined"));
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn a_worker_that_takes_more_memory_than_it_may_is_said_to_have_run_out_of_it() {
    let stage = stage("memory = \"64MiB\"");
    let mut dispatcher = stage.start(&[]).await;
    stage.publish("confined.event", "hog", &json!({ "do": "memory", "mib": 400, "from_attempt": 9 })).await;
    others_go_on(&stage).await;
    let dead = poll("there is a dead letter", LIMIT, || async {
        let letters = stage.json(&["dlq", "ls", "--json"]).await;
        if letters.as_array().is_some_and(|letters| letters.len() == 1) { Ok(letters[0].clone()) } else { Err(letters) }
    })
    .await;
    assert_eq!((&dead["reason"], &dead["error"]["kind"]), (&json!("crashed"), &json!("OutOfMemory")), "{dead:#}");
    assert!(dead["error"]["message"].as_str().unwrap().contains("ran out of memory, its limit is "), "{dead:#}");
    // One that takes too much the first time only goes on where it can.
    assert_eq!(
        result(&stage, "twice", &json!({ "do": "memory", "mib": 400, "from_attempt": 2 })).await,
        json!(0),
        "the second attempt took nothing"
    );
    let status = live(&stage, &mut dispatcher).await;
    assert_eq!((&status["crashes"], &status["succeeded"]), (&json!(3), &json!(1)), "{status:#}");
    let exit = stop(dispatcher).await;
    let provoked = ["worker went away with work", "event given up", "memory allocation of"];
    assert_eq!(complaints(&exit.lines, &provoked), Vec::<String>::new());
}

#[tokio::test]
async fn a_worker_gets_no_more_of_the_processors_than_its_share() {
    let stage = stage("limits = { cpu = 0.1 }");
    let Some(dispatcher) = started_or_refused(&stage, "cpu: by cgroup", "limits.cpu").await else { return };
    let burnt = result(&stage, "burn", &json!({ "do": "burn", "ms": 3_000 })).await;
    let (took, got) = (burnt["took_us"].as_u64().unwrap(), burnt["got_us"].as_u64().unwrap());
    // A tenth, and what of it may fall due at the two ends.
    assert!(got <= took / 10 + 100_000, "{got} us of {took} us");
    assert!(got > 0);
    others_go_on(&stage).await;
    stop(dispatcher).await;
}

/// The processes whose command line has a word.
fn with_marker(marker: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    processes
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(marker))
        .collect()
}

#[tokio::test]
async fn a_fork_bomb_stays_within_its_workers_limit_and_goes_with_its_worker() {
    let stage = stage("limits = { processes = 40 }\nkeep_alive = \"0s\"");
    let Some(dispatcher) = started_or_refused(&stage, "pids: by cgroup", "limits.processes").await else { return };
    let seen = result(&stage, "one", &json!({ "do": "look" })).await;
    assert_eq!(seen["processes"], "40", "no bomb without a limit: {seen:#}");
    let marker = format!("bomb-{:016x}", fastrand::u64(..));
    let bomb = result(&stage, "bomb", &json!({ "do": "bomb", "depth": 7, "marker": marker })).await;
    assert_eq!(bomb["refused"], true, "{bomb:#}");
    assert!(bomb["now"].as_str().unwrap().parse::<u32>().unwrap() <= 40, "{bomb:#}");
    others_go_on(&stage).await;
    // Its processes are in a session of their own: only the group has them all.
    poll("nothing of the bomb is left", Duration::from_secs(15), || async {
        let left = with_marker(&marker);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    let exit = stop(dispatcher).await;
    // What the shells of the bomb say to their standard error is in the log.
    assert_eq!(complaints(&exit.lines, &["worker output"]), Vec::<String>::new());
}

#[tokio::test]
async fn a_disk_filler_is_told_that_its_folder_is_full_and_nothing_is_left_of_it() {
    let stage = stage("limits = { disk = \"8MiB\" }");
    let Some(dispatcher) = started_or_refused(&stage, "disk: by a private tmpfs", "limits.disk").await else { return };
    let filled = result(&stage, "fill", &json!({ "do": "fill", "mib": 64 })).await;
    assert_eq!(filled["error"], "StorageFull", "{filled:#}");
    assert!((6..=8).contains(&filled["written"].as_u64().unwrap()), "{filled:#}");
    let seen = result(&stage, "look", &json!({ "do": "look" })).await;
    let room = seen["room"].as_str().unwrap().to_owned();
    assert_eq!(std::fs::read_dir(&room).unwrap().count(), 0, "what it wrote is seen by itself only");
    others_go_on(&stage).await;
    let exit = stop(dispatcher).await;
    assert!(!std::path::Path::new(&room).exists());
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn a_flood_of_output_is_cut_counted_and_told_and_its_writer_comes_to_its_end() {
    let stage = stage("limits = { output = \"64KiB\" }");
    let dispatcher = stage.start(&[]).await;
    let began = std::time::Instant::now();
    let flood = json!({ "do": "flood", "mib": 64 });
    let (flooded, ()) = tokio::join!(result(&stage, "flood", &flood), others_go_on(&stage));
    assert_eq!(flooded, 64);
    let took = began.elapsed().as_secs();
    let exit = stop(dispatcher).await;
    let lines = |part: &str| exit.lines.iter().filter(|line| line.contains(part)).cloned().collect::<Vec<_>>();
    let passed = lines("xxxxxxxx").len();
    // 64 lines of 1 KiB a second, for as long as it took; all of it would be 65,536 lines.
    let most = 64 * (usize::try_from(took).unwrap() + 2);
    assert!((60..=most).contains(&passed), "{passed} lines of the flood are in the log, {most} are allowed");
    assert_eq!(lines("worker writes too much, the rest is dropped").len(), 1);
    let told = lines("worker output dropped, too much of it");
    assert_eq!(told.len(), 1, "{told:#?}");
    let fields = &crate::system_stage::record(&told[0]).unwrap()["fields"];
    assert_eq!(fields["lines"].as_u64().unwrap() + passed as u64, 65_536, "{fields:#}");
}
