//! What people and scripts look at: invocations, functions, dead letters, health, schemas; and redriving what died.

use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::{Process, poll};

use crate::system_stage::{LIMIT, Place, Stage, admin, one_json, runs, runs_reach, stop};

const MANIFEST: &str = r#"
[functions.noop]
command = ["HANDLERS"]
events = ["noop.event"]

[functions.fail]
command = ["HANDLERS"]
events = ["fail.event"]
slots = 4
"#;

#[tokio::test]
async fn invocations_are_listed_shown_and_followed() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let mut dispatcher = stage.start(&[]).await;
    let admin = admin(&mut dispatcher).await;
    let mut follower = stage.weft(&["invocations", "--follow", "--json"]).spawn();
    stage.publish("noop.event", "first", &json!({ "n": 1 })).await;
    let line = follower.wait_for_line("\"succeeded\"", LIMIT).await;
    let seen: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&seen["function"], &seen["state"], &seen["attempt"]), (&json!("noop"), &json!("succeeded"), &json!(1)));
    follower.terminate();
    follower.wait(LIMIT).await.success();

    // A duplicate is answered from the ledger; another id is another invocation.
    stage.publish("noop.event", "first", &json!({ "n": 1 })).await;
    stage.publish("noop.event", "second", &json!(null)).await;
    let found = stage.invocations_in("noop", "succeeded", 2).await;
    let key = seen["key"].as_str().unwrap();
    assert_eq!(found.iter().filter(|invocation| invocation["key"] == key).count(), 1);
    assert!(stage.invocations(&["--in", "dead"]).await.is_empty());
    assert_eq!(stage.json(&["invocations", "--json", "-n", "1"]).await.as_array().unwrap().len(), 1);

    let one = stage.json(&["invocations", key, "--json"]).await;
    assert_eq!((one.as_array().unwrap().len(), &one[0]["result"]), (1, &json!("null")), "{one:#}");
    let text = stage.done(&["invocations", key]).await.text();
    for part in ["function     noop", "state        succeeded", "attempt      1", key] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let table = stage.done(&["invocations"]).await.text();
    assert!(table.contains("FUNCTION") && table.contains("succeeded"), "{table}");

    let functions = poll("the duplicate is counted", LIMIT, || async {
        let functions = stage.json(&["functions", "--json", "--admin", &admin]).await;
        if functions[1]["live"]["duplicates"] == 1 { Ok(functions) } else { Err(functions) }
    })
    .await;
    let names: Vec<_> =
        functions.as_array().unwrap().iter().map(|function| function["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["fail", "noop"]);
    let live = &functions[1]["live"];
    assert_eq!(
        (&live["succeeded"], &live["received"], &live["cold_starts"]),
        (&json!(2), &json!(3), &json!(1)),
        "{live:#}"
    );
    assert_eq!((&live["running"], &live["waiting"], &live["workers"]), (&json!(0), &json!(0), &json!(1)), "{live:#}");
    let one = stage.json(&["functions", "noop", "--json", "--admin", &admin]).await;
    assert_eq!(one.as_array().unwrap().len(), 1);
    stop(dispatcher).await;

    let gone = stage.json(&["functions", "--json", "--admin", &admin]).await;
    assert_eq!(gone[1]["live"], Value::Null);
    let table = stage.done(&["functions", "--admin", &admin]).await.text();
    assert!(table.contains("no dispatcher answers"), "{table}");
}

/// Whoever reads of a death is led to its reason's page.
async fn code_is_shown(stage: &Stage, letter: &Value, shown: &str) {
    let (code, page) = ("W0907", "docs/errors/W0907.md");
    assert_eq!((&letter["code"], &letter["page"]), (&json!(code), &json!(page)));
    assert!(shown.contains(code) && shown.contains(page), "{shown}");
    let groups = stage.json(&["dlq", "groups", "--json"]).await;
    assert_eq!((&groups[0]["code"], &groups[0]["page"]), (&json!(code), &json!(page)));
    for table in ["ls", "groups"] {
        let text = stage.done(&["dlq", table]).await.text();
        assert!(text.contains("terminal") && text.contains(code), "{text}");
    }
}

/// A terminal failure, the fix, and two redrives at once: it runs once more, and succeeds.
async fn redriven(stage: Stage) {
    let dispatcher = stage.start(&[]).await;
    let data = json!({ "runs": stage.path("runs"), "file": stage.path("fixed") });
    stage.publish("fail.event", "one", &data).await;
    stage.publish("fail.event", "two", &data).await;
    let dead = stage.invocations_in("fail", "dead", 2).await;
    assert!(dead.iter().all(|invocation| invocation["error"]["kind"] == "NotFixed"), "{dead:#?}");

    let list = stage.json(&["dlq", "ls", "--json"]).await;
    assert_eq!(list.as_array().unwrap().len(), 2, "{list:#}");
    let key = dead[0]["key"].clone();
    let letter = list.as_array().unwrap().iter().find(|letter| letter["key"] == key).unwrap();
    assert_eq!((&letter["function"], &letter["reason"]), (&json!("fail"), &json!("terminal")));
    assert_eq!((&letter["attempts"], &letter["error"]["message"]), (&json!(1), &json!("it is not fixed yet")));
    assert_eq!(serde_json::from_str::<Value>(letter["body"].as_str().unwrap()).unwrap(), data, "the body was touched");
    for (filter, count) in
        [("--function=fail", 2), ("--function=noop", 0), ("--reason=terminal", 2), ("--reason=schema", 0)]
    {
        let found = stage.json(&["dlq", "ls", "--json", filter]).await;
        assert_eq!(found.as_array().unwrap().len(), count, "{filter}");
    }
    let id = letter["id"].as_str().unwrap();
    let shown = stage.json(&["dlq", "show", id, "--json"]).await;
    for (name, value) in letter.as_object().unwrap() {
        assert_eq!(&shown[name], value, "{name}");
    }
    let text = stage.done(&["dlq", "show", id]).await.text();
    assert!(text.contains("NotFixed: it is not fixed yet") && text.contains(id), "{text}");
    assert!(stage.done(&["dlq", "ls"]).await.text().contains(id));
    code_is_shown(&stage, letter, &text).await;

    let dry = stage.json(&["dlq", "redrive", id, "--dry-run", "--json"]).await;
    assert_eq!((&dry["dry_run"], &dry["redriven"], &dry["already"]), (&json!(true), &json!([id]), &json!([])));
    assert_eq!(runs(&stage.path("runs")).len(), 2, "a dry run ran");

    std::fs::write(stage.path("fixed"), "").unwrap();
    let redrive = || stage.weft(&["dlq", "redrive", id, "--json"]).run(LIMIT);
    let (one, other) = tokio::join!(redrive(), redrive());
    let (one, other) = (one_json(&one.success()), one_json(&other.success()));
    let mut redriven = [&one["redriven"], &other["redriven"]].map(|ids| ids.as_array().unwrap().len());
    redriven.sort_unstable();
    assert_eq!(redriven, [0, 1], "{one} {other}");
    let mut already = [&one["already"], &other["already"]].map(|ids| ids.as_array().unwrap().len());
    already.sort_unstable();
    assert_eq!(already, [0, 1], "{one} {other}");

    let done = stage.invocations_in("fail", "succeeded", 1).await;
    assert_eq!((&done[0]["key"], &done[0]["epoch"], &done[0]["attempt"]), (&key, &json!(1), &json!(1)), "{done:#?}");
    // Everything that is left, by a filter: only the other one is.
    let rest = stage.json(&["dlq", "redrive", "--reason", "terminal", "--json"]).await;
    assert_eq!(rest["redriven"].as_array().unwrap().len(), 1, "{rest}");
    stage.invocations_in("fail", "succeeded", 2).await;
    assert_eq!(runs_reach(&stage.path("runs"), 4).await.len(), 4, "a redrive ran twice");
    assert_eq!(stage.json(&["dlq", "ls", "--json"]).await, json!([]));
    let all = stage.json(&["dlq", "ls", "--all", "--json"]).await;
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert!(all.as_array().unwrap().iter().all(|letter| letter["redriven_at"].is_string()), "{all:#}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_redrive_runs_once_and_succeeds_after_the_fix_on_real_services() {
    redriven(Stage::real().await.manifest(MANIFEST)).await;
}

#[tokio::test]
async fn a_redrive_runs_once_and_succeeds_after_the_fix_on_one_file() {
    redriven(Stage::embedded().manifest(MANIFEST)).await;
}

#[tokio::test]
async fn the_doctor_tells_health_from_illness_and_migrating_twice_is_once() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let finding = |report: &Value, what: &str| -> Value {
        let found = report["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == what);
        found.unwrap_or_else(|| panic!("nothing about {what}: {report:#}")).clone()
    };
    // Before anything was made: the ledger has no tables.
    let ill = one_json(&stage.weft(&["doctor", "--json"]).run(LIMIT).await.code(6));
    assert_eq!((&ill["healthy"], &finding(&ill, "ledger")["verdict"]), (&json!(false), &json!("fail")), "{ill:#}");
    assert!(finding(&ill, "ledger")["advice"].as_str().unwrap().contains("weft migrate"), "{ill:#}");
    assert_eq!(finding(&ill, "queue")["verdict"], "warn", "{ill:#}");

    assert!(!stage.json(&["migrate", "--json"]).await["applied"].as_array().unwrap().is_empty());
    assert_eq!(stage.json(&["migrate", "--json"]).await["applied"], json!([]));
    assert!(stage.done(&["migrate"]).await.text().contains("up to date"));

    stop(stage.start(&[]).await).await;
    let well = stage.json(&["doctor", "--json"]).await;
    assert_eq!(well["healthy"], true, "{well:#}");
    let verdicts: Vec<_> = well["findings"].as_array().unwrap().iter().map(|finding| &finding["verdict"]).collect();
    assert!(verdicts.iter().all(|verdict| *verdict == "ok"), "{well:#}");
    assert!(stage.done(&["doctor"]).await.text().lines().all(|line| line.starts_with("ok")));

    let ill = stage.weft(&["doctor", "--json"]).env("WEFT_STATE_URL", "redis://127.0.0.1:1/").run(LIMIT).await.code(6);
    let ill = one_json(&ill);
    assert!(finding(&ill, "state")["seen"].as_str().unwrap().contains("W0401"), "{ill:#}");
    assert_eq!(finding(&ill, "ledger")["verdict"], "ok", "{ill:#}");
}

#[tokio::test]
async fn schemas_and_completions_are_printed_without_any_service() {
    let schema = |name: &'static str| async move {
        let exit = Process::weft("weft").args(["schema", name]).run(LIMIT).await.success();
        serde_json::from_str::<Value>(&exit.text()).unwrap()
    };
    for (name, part) in
        [("manifest", "functions"), ("dead-letter", "weft-reason"), ("events", "weft.deadletter.created")]
    {
        let schema = schema(name).await;
        assert!(schema.to_string().contains(&format!("{part:?}")), "{part} is not in {schema:#}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = Process::weft("weft").args(["completions", shell]).run(LIMIT).await.success().text();
        assert!(script.contains("invocations") && script.contains("redrive"), "{shell}");
    }
    let script = Process::weft("weft").args(["completions", "bash"]).run(LIMIT).await.success().text();
    let file = weft_tests::folder("completions").join("weft.bash");
    std::fs::write(&file, script).unwrap();
    Process::at("bash").arg("-n").arg(&file).run(LIMIT).await.success();
}

#[tokio::test]
async fn events_come_from_arguments_files_and_standard_input() {
    let stage = Stage::real().await.manifest(MANIFEST);
    // Before a dispatcher was ever there, nothing takes events, and that is no success.
    let early = stage.weft(&["publish", "noop.event"]).run(LIMIT).await.code(1).text();
    assert!(early.contains("error[W0204]") && early.contains("weft run"), "{early}");

    let dispatcher = stage.start(&[]).await;
    let line = |id: &str| {
        let event =
            json!({ "specversion": "1.0", "id": id, "source": "/t", "type": "noop.event", "data": { "of": id } });
        format!("{event}\n")
    };
    let plain = json!({ "mode": "plain", "type": "noop.event", "id": "plain", "data": 7 });
    std::fs::write(stage.path("events.ndjson"), line("a") + "\n" + &line("b") + &plain.to_string()).unwrap();
    assert_eq!(stage.json(&["publish", "-f", "events.ndjson", "--json"]).await["published"], 3);

    let piped = format!("cat events.ndjson | {} publish -f - --json", weft_tests::bin("weft").display());
    let piped = stage.program(Process::at("sh")).args(["-c", &piped]).run(LIMIT).await.success();
    assert_eq!(one_json(&piped)["published"], 3);

    std::fs::write(stage.path("data.json"), "{\"from\":\"a file\"}").unwrap();
    assert_eq!(stage.json(&["publish", "noop.event", "-d", "@data.json", "--json"]).await["published"], 1);
    let started = std::time::Instant::now();
    let paced = stage.json(&["publish", "noop.event", "--count", "6", "--rate", "20", "--json"]).await;
    assert_eq!(paced["published"], 6);
    assert!(started.elapsed() >= Duration::from_millis(250), "the rate was not kept");
    // Three from the file, which standard input repeats, one, and six.
    stage.invocations_in("noop", "succeeded", 3 + 1 + 6).await;

    std::fs::write(stage.path("bad.ndjson"), line("c") + "{\"specversion\":").unwrap();
    let bad = stage.weft(&["publish", "-f", "bad.ndjson"]).run(LIMIT).await.code(3).text();
    assert!(bad.contains("error[W0102]") && bad.contains("bad.ndjson:2"), "{bad}");
    let unread = stage.weft(&["publish", "noop.event", "-d", "{no json"]).run(LIMIT).await.code(3).text();
    assert!(unread.contains("error[W0102]"), "{unread}");
    // An event that no function wants becomes a dead letter and is shown by the doctor.
    let Place::Real { .. } = &stage.place else { unreachable!("made so above") };
    assert_eq!(stage.json(&["publish", "nobody.wants", "--json"]).await["published"], 1);
    poll("the doctor sees it", LIMIT, || async {
        let text = stage.done(&["doctor"]).await.text();
        if text.contains("no function is bound to \"nobody.wants\"") { Ok(()) } else { Err(text) }
    })
    .await;
    stop(dispatcher).await;
}
