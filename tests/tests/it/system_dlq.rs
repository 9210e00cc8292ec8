//! Dead letters as operators handle them: filters, groups, history, redrives, edits and purges.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use weft_tests::{Exit, Process, poll};

use crate::system_stage::{LIMIT, Stage, one_json, runs, runs_reach, stop};

/// `fail` fails for good until its file is there; `keyed` does so under a key from its data; `retry` gives up after three.
const MANIFEST: &str = r#"
[functions.fail]
command = ["HANDLERS"]
events = ["fail.event"]
slots = 8

[functions.keyed]
command = ["HANDLERS"]
handler = "fail"
events = ["keyed.event"]
idempotency = { key = "/data/emit" }

[functions.retry]
command = ["HANDLERS"]
events = ["retry.event"]
retry = { attempts = 3, backoff = { first = "10ms", max = "20ms" } }
"#;

/// Times are written without trailing zeros, so their texts do not sort.
fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

fn ids(letters: &Value) -> Vec<String> {
    let letters = letters.as_array().unwrap();
    letters.iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until so many letters are open, and returns them.
async fn letters(stage: &Stage, count: usize) -> Value {
    poll(&format!("{count} dead letters are open"), LIMIT, || async {
        let found = stage.json(&["dlq", "ls", "--json"]).await;
        if found.as_array().unwrap().len() == count { Ok(found) } else { Err(ids(&found).len()) }
    })
    .await
}

/// Publishes so many events to `fail`, which write their attempts to `runs` and succeed once `fixed` is there.
async fn failing(stage: &Stage, count: usize) {
    let data = json!({ "runs": stage.path("runs"), "file": stage.path("fixed") }).to_string();
    let count = count.to_string();
    let published = stage.json(&["publish", "fail.event", "--count", &count, "--data", &data, "--json"]).await;
    assert_eq!(published["published"].to_string(), count);
}

/// The command as a person runs it, on a terminal, typing `input`.
async fn on_a_terminal(stage: &Stage, input: &str, command: &str, variables: &[(&str, &str)]) -> Exit {
    let weft = weft_tests::bin("weft");
    let script = format!("printf '{input}' | script -qec '{} {command}' /dev/null", weft.display());
    let mut shell = stage.program(Process::at("sh")).args(["-c", &script]);
    for (name, value) in variables {
        shell = shell.env(name, value);
    }
    shell.run(LIMIT).await
}

async fn filtered(stage: Stage) {
    let dispatcher = stage.start(&[]).await;
    // More than one page of them.
    failing(&stage, 60).await;
    stage.publish("retry.event", "three", &json!({ "from_attempt": 9 })).await;
    stage.publish("keyed.event", "k", &json!({ "emit": "order-7" })).await;
    let all = letters(&stage, 62).await;
    let times: Vec<_> = all.as_array().unwrap().iter().map(|letter| time(&letter["buried_at"])).collect();
    assert!(times.is_sorted_by(|one, next| one >= next), "not newest first: {times:#?}");
    assert_eq!(ids(&all).iter().collect::<BTreeSet<_>>().len(), 62, "a letter is on two pages");
    assert_eq!(ids(&stage.json(&["dlq", "ls", "--json", "-n", "55"]).await), ids(&all)[..55]);
    let table = stage.done(&["dlq", "ls"]).await;
    assert_eq!(table.stdout.len(), 63, "one line of head and one for each: {}", table.text());

    let groups = stage.json(&["dlq", "groups", "--json"]).await;
    let counts: Vec<_> = groups.as_array().unwrap().iter().map(|group| (&group["function"], &group["count"])).collect();
    assert_eq!(counts[0], (&json!("fail"), &json!(60)), "{groups:#}");
    assert_eq!(counts.len(), 3, "{groups:#}");
    let of =
        |function: &str| groups.as_array().unwrap().iter().find(|group| group["function"] == function).unwrap().clone();
    let (fail, retry) = (of("fail"), of("retry"));
    assert_eq!((&retry["reason"], &retry["error_kind"]), (&json!("exhausted"), &json!("NotYet")));
    assert_eq!(fail["error_message"], "it is not fixed yet");
    assert!(time(&fail["first_at"]) < time(&fail["last_at"]), "{fail:#}");
    assert_eq!(fail["fingerprint"], of("keyed")["fingerprint"], "the same error has one fingerprint");
    let table = stage.done(&["dlq", "groups"]).await.text();
    assert!(table.contains("COUNT") && table.contains("a later attempt will do"), "{table}");

    let fingerprint = retry["fingerprint"].as_str().unwrap();
    for (filter, count) in [
        (&["--function", "fail"][..], 60),
        (&["--reason", "exhausted"], 1),
        (&["--error-type", "NotFixed"], 61),
        (&["--error-type", "notfixed"], 0),
        (&["--fingerprint", fingerprint], 1),
        (&["--key", "order-7"], 1),
        (&["--key", "order-7", "--function", "fail"], 0),
        (&["--older-than", "1h"], 0),
        (&["--older-than", "0s", "--reason", "terminal"], 61),
        (&["--newer-than", "1h"], 62),
    ] {
        let found = stage.json(&[&["dlq", "ls", "--json"][..], filter].concat()).await;
        assert_eq!(ids(&found).len(), count, "{filter:?}");
        let groups = stage.json(&[&["dlq", "groups", "--json"][..], filter].concat()).await;
        let counted: u64 = groups.as_array().unwrap().iter().map(|group| group["count"].as_u64().unwrap()).sum();
        assert_eq!(counted, count as u64, "{filter:?}: {groups:#}");
        let dry = stage.json(&[&["dlq", "redrive", "--dry-run", "--json"][..], filter].concat()).await;
        assert_eq!(dry["redriven"].as_array().unwrap().len(), count, "{filter:?}");
        let dry = stage.json(&[&["dlq", "purge", "--dry-run", "--json"][..], filter].concat()).await;
        assert_eq!((&dry["matched"], &dry["purged"]), (&json!(count), &json!(0)), "{filter:?}");
    }
    let empty = stage.weft(&["dlq", "ls", "--older-than", "2h", "--newer-than", "1h"]).run(LIMIT).await.code(2).text();
    assert!(empty.contains("error[W0103]"), "{empty}");
    assert_eq!(ids(&letters(&stage, 62).await), ids(&all), "a dry run changed something");
    stop(dispatcher).await;
}

#[tokio::test]
async fn dead_letters_are_filtered_grouped_and_paged_on_real_services() {
    filtered(Stage::real().await.manifest(MANIFEST)).await;
}

#[tokio::test]
async fn dead_letters_are_filtered_grouped_and_paged_on_one_file() {
    filtered(Stage::embedded().manifest(MANIFEST)).await;
}

#[tokio::test]
async fn a_letter_shows_its_attempts_and_its_message() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    let message = json!({
        "mode": "plain", "type": "retry.event", "id": "three",
        "headers": { "tenant": "blue", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" },
        "raw": "{ \"from_attempt\":  9 }",
    });
    std::fs::write(stage.path("one.ndjson"), message.to_string()).unwrap();
    stage.json(&["publish", "-f", "one.ndjson", "--json"]).await;
    let id = ids(&letters(&stage, 1).await).concat();

    let shown = stage.json(&["dlq", "show", &id, "--json"]).await;
    let history = shown["history"].as_array().unwrap();
    let attempts: Vec<_> = history.iter().map(|failed| (&failed["attempt"], &failed["epoch"])).collect();
    assert_eq!(attempts, [(&json!(1), &json!(0)), (&json!(2), &json!(0)), (&json!(3), &json!(0))], "{shown:#}");
    assert!(
        history.iter().all(|failed| failed["error"]["kind"] == "NotYet" && failed["crashed"] == false),
        "{shown:#}"
    );
    assert!(history.is_sorted_by(|one, next| time(&one["ended_at"]) < time(&next["ended_at"])), "{shown:#}");
    assert_eq!((&shown["reason"], &shown["state"]), (&json!("exhausted"), &json!("dead")));
    assert_eq!(shown["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((&shown["headers"]["tenant"], &shown["message_id"]), (&json!("blue"), &json!("three")));
    assert_eq!(shown["routing_key"], "retry.event");

    let text = stage.done(&["dlq", "show", &id]).await;
    assert_eq!(text.stdout.iter().filter(|line| line.starts_with("attempt ")).count(), 3, "{}", text.text());
    for part in [
        "reason       exhausted",
        "header       tenant: blue",
        "property     message_id: three",
        "trace        0af7651916cd43dd8448eb211c80319c",
        "NotYet: a later attempt will do",
        "{ \"from_attempt\":  9 }",
    ] {
        assert!(text.text().contains(part), "{part:?} is not in:\n{}", text.text());
    }
    let payload = stage.done(&["dlq", "show", &id, "--payload"]).await;
    assert_eq!(payload.stdout, ["{ \"from_attempt\":  9 }"], "not byte for byte");
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_redrive_by_filter_keeps_its_rate_and_leaves_the_rest() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    failing(&stage, 8).await;
    stage.publish("keyed.event", "k", &json!({ "emit": "order-7" })).await;
    letters(&stage, 9).await;
    std::fs::write(stage.path("fixed"), "").unwrap();
    let dry = stage.done(&["dlq", "redrive", "--function", "fail", "--dry-run"]).await.text();
    assert!(dry.contains("would redrive 8 dead letters") && dry.contains("NotFixed"), "{dry}");

    let started = Instant::now();
    let redriven = stage.json(&["dlq", "redrive", "--function", "fail", "--rate", "20/s", "--json"]).await;
    assert!(started.elapsed() >= Duration::from_millis(350), "the rate was not kept");
    assert_eq!(redriven["redriven"].as_array().unwrap().len(), 8, "{redriven}");
    stage.invocations_in("fail", "succeeded", 8).await;
    assert_eq!(runs(&stage.path("runs")).len(), 16);
    let left = letters(&stage, 1).await;
    assert_eq!(left[0]["key"], "order-7");

    let closed = stage.json(&["dlq", "ls", "--all", "--json", "--function", "fail"]).await;
    let closed = closed.as_array().unwrap();
    let recorded =
        |letter: &Value| letter["redriven_at"].is_string() && letter["redriven_by"].as_str().unwrap().contains('@');
    assert!(closed.len() == 8 && closed.iter().all(recorded), "{closed:#?}");
    let table = stage.done(&["dlq", "ls", "--all"]).await.text();
    assert_eq!(table.lines().filter(|line| line.contains("redriven by ")).count(), 8, "{table}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn case_24_redrives_from_two_processes_at_once_run_each_letter_once() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    failing(&stage, 30).await;
    letters(&stage, 30).await;
    std::fs::write(stage.path("fixed"), "").unwrap();
    let redrive = || stage.weft(&["dlq", "redrive", "--all", "--json"]).run(LIMIT);
    let (one, other) = tokio::join!(redrive(), redrive());
    let (one, other) = (one_json(&one.success()), one_json(&other.success()));
    let redriven = [&one, &other].map(|tally| tally["redriven"].as_array().unwrap().clone()).concat();
    let distinct: BTreeSet<_> = redriven.iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!((redriven.len(), distinct.len()), (30, 30), "{one} {other}");

    let done = stage.invocations_in("fail", "succeeded", 30).await;
    assert!(done.iter().all(|invocation| invocation["epoch"] == 1), "an epoch was raised twice: {done:#?}");
    stage.queue_empty("fail").await;
    assert_eq!(runs(&stage.path("runs")).len(), 60, "a redrive ran twice");
    assert_eq!(stage.json(&["dlq", "ls", "--json"]).await, json!([]));
    stop(dispatcher).await;
}

#[tokio::test]
async fn case_24_an_edited_letter_runs_once_under_a_new_key_linked_to_the_old() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    let data = |file: &str| json!({ "runs": stage.path("runs"), "file": stage.path(file), "emit": "order-7" });
    stage.publish("keyed.event", "first", &data("never")).await;
    let id = ids(&letters(&stage, 1).await).concat();

    // What is no event is refused before anything is written.
    std::fs::write(stage.path("bad.json"), "{ \"emit\": ").unwrap();
    let refused = stage.weft(&["dlq", "redrive", &id, "--edit", "bad.json"]).run(LIMIT).await.code(3).text();
    assert!(refused.contains("error[W0102]") && refused.contains("JSON"), "{refused}");
    let missing = stage.weft(&["dlq", "redrive", &id, "--edit", "none.json"]).run(LIMIT).await.code(3).text();
    assert!(missing.contains("none.json"), "{missing}");
    let two = stage.weft(&["dlq", "redrive", &id, "another", "--edit", "bad.json"]).run(LIMIT).await.code(2).text();
    assert!(two.contains("exactly one"), "{two}");
    let nobody = stage.weft(&["dlq", "redrive", &id, "--edit"]).env("EDITOR", "true").run(LIMIT).await.code(2).text();
    assert!(nobody.contains("no terminal"), "{nobody}");
    letters(&stage, 1).await;

    // The corrected data still names the old key, and still fails.
    std::fs::write(stage.path("payload.json"), data("fixed").to_string()).unwrap();
    let dry = stage.json(&["dlq", "redrive", &id, "--edit", "payload.json", "--dry-run", "--json"]).await;
    let piped = format!("cat payload.json | {} dlq redrive {id} --edit - --json", weft_tests::bin("weft").display());
    let edit = || stage.program(Process::at("sh")).args(["-c", &piped]).run(LIMIT);
    let (one, other) = tokio::join!(edit(), edit());
    let (one, other) = (one_json(&one.success()), one_json(&other.success()));
    let winner = if one["redriven_as"].is_string() { &one } else { &other };
    assert_eq!([&one, &other].map(|tally| tally["redriven"].as_array().unwrap().len()).iter().sum::<usize>(), 1);
    let key = winner["redriven_as"].as_str().unwrap();
    assert!(key.starts_with("order-7~") && dry["redriven_as"] == key, "{winner} {dry}");
    assert!(winner["event_id"].as_str().unwrap().starts_with("first~"), "{winner}");

    let successor = letters(&stage, 1).await[0].clone();
    assert_eq!((&successor["key"], &successor["redriven_from"]), (&json!(key), &json!(id)), "{successor:#}");
    assert_eq!((&successor["reason"], &successor["message_id"]), (&json!("terminal"), &winner["event_id"]));
    let second = successor["id"].as_str().unwrap();
    let text = stage.done(&["dlq", "show", second]).await.text();
    assert!(text.contains(&format!("predecessor  {id}")), "{text}");
    let dead = stage.invocations_in("keyed", "dead", 2).await;
    assert!(dead.iter().all(|invocation| invocation["epoch"] == 0), "the old invocation was woken: {dead:#?}");

    // Redriven as it is, the successor keeps its own key.
    std::fs::write(stage.path("fixed"), "").unwrap();
    stage.json(&["dlq", "redrive", second, "--json"]).await;
    let done = stage.invocations_in("keyed", "succeeded", 1).await;
    assert_eq!((&done[0]["key"], &done[0]["epoch"]), (&json!(key), &json!(1)), "{done:#?}");
    let keys: Vec<_> = runs(&stage.path("runs")).into_iter().map(|run| run[1].clone()).collect();
    assert_eq!(keys, ["order-7", key, key]);
    let first = stage.json(&["dlq", "show", &id, "--json"]).await;
    assert_eq!((&first["redriven_as"], &first["successor"]["state"]), (&json!(key), &json!("succeeded")), "{first:#}");
    assert_eq!(first["state"], "dead");
    let text = stage.done(&["dlq", "show", &id]).await.text();
    assert!(text.contains(&format!("successor    {key} (succeeded)")), "{text}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_letter_is_edited_in_the_editor_of_the_person_who_asks() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    stage.publish("fail.event", "one", &json!({ "runs": stage.path("runs"), "file": stage.path("nevermore") })).await;
    let id = ids(&letters(&stage, 1).await).concat();
    let command = format!("dlq redrive {id} --edit");
    let unchanged = on_a_terminal(&stage, "", &command, &[("EDITOR", "true")]).await.code(2).text();
    assert!(unchanged.contains("error[W0104]") && unchanged.contains("left as it was"), "{unchanged}");
    let failed = on_a_terminal(&stage, "", &command, &[("EDITOR", "false")]).await.code(3).text();
    assert!(failed.contains("error[W0102]"), "{failed}");
    letters(&stage, 1).await;

    std::fs::write(stage.path("fixed"), "").unwrap();
    // VISUAL wins, and may have arguments.
    let variables = [("EDITOR", "false"), ("VISUAL", "sed -i s/nevermore/fixed/")];
    let edited = on_a_terminal(&stage, "", &command, &variables).await.success().text();
    assert!(edited.contains(&format!("redrove {id} as /t one~")), "{edited}");
    let done = stage.invocations_in("fail", "succeeded", 1).await;
    assert!(done[0]["key"].as_str().unwrap().starts_with("/t one~"), "{done:#?}");
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_purge_asks_first_and_records_who_did_it() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    failing(&stage, 3).await;
    stage.publish("keyed.event", "k", &json!({ "emit": "order-7" })).await;
    let all = letters(&stage, 4).await;

    let unasked = stage.weft(&["dlq", "purge", "--function", "fail"]).run(LIMIT).await.code(2).text();
    assert!(
        unasked.contains("error[W0104]") && unasked.contains("3 dead letters") && unasked.contains("--yes"),
        "{unasked}"
    );
    let dry = stage.done(&["dlq", "purge", "--all", "--dry-run"]).await.text();
    assert!(dry.contains("would throw 4 dead letters away"), "{dry}");
    let no = on_a_terminal(&stage, "n\\n", "dlq purge --function fail", &[]).await.code(2).text();
    assert!(no.contains("throw 3 dead letters away for good?"), "{no}");
    assert_eq!(ids(&letters(&stage, 4).await), ids(&all), "thrown away without a yes");

    let yes = on_a_terminal(&stage, "y\\n", "dlq purge --function fail", &[("USER", "ann")]).await.success().text();
    assert!(yes.contains("threw 3 dead letters away"), "{yes}");
    let left = letters(&stage, 1).await;
    assert_eq!(left[0]["key"], "order-7");
    let closed = stage.json(&["dlq", "ls", "--all", "--function", "fail", "--json"]).await;
    for letter in closed.as_array().unwrap() {
        assert!(letter["purged_at"].is_string(), "{letter:#}");
        assert!(letter["purged_by"].as_str().unwrap().starts_with("ann@"), "{letter:#}");
        assert_eq!((&letter["body_bytes"], &letter["redriven_at"]), (&json!(0), &Value::Null), "{letter:#}");
    }
    stage.invocations_in("fail", "dead", 3).await;

    let purged = closed[0]["id"].as_str().unwrap();
    let text = stage.done(&["dlq", "show", purged]).await.text();
    assert!(text.contains("by ann@") && text.contains("(thrown away)"), "{text}");
    stage.weft(&["dlq", "show", purged, "--payload"]).run(LIMIT).await.code(7);
    let again = stage.json(&["dlq", "redrive", purged, "--json"]).await;
    assert_eq!((&again["redriven"], &again["already"]), (&json!([]), &json!([purged])));
    let again = stage.json(&["dlq", "purge", purged, "--yes", "--json"]).await;
    assert_eq!((&again["matched"], &again["purged"]), (&json!(0), &json!(0)));
    let last = stage.json(&["dlq", "purge", left[0]["id"].as_str().unwrap(), "--yes", "--json"]).await;
    assert_eq!(
        (&last["matched"], &last["purged"], &last["groups"][0]["function"]),
        (&json!(1), &json!(1), &json!("keyed"))
    );
    assert_eq!(runs(&stage.path("runs")).len(), 3, "a purged letter ran");
    stop(dispatcher).await;
}

#[tokio::test]
async fn letters_that_die_again_are_not_redriven_in_a_loop() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    failing(&stage, 16).await;
    let first = ids(&letters(&stage, 16).await);
    // A dispatcher looks for redriven letters every 5 s, so the first ones are dead again before the last one is redriven.
    let redriven = stage.json(&["dlq", "redrive", "--all", "--rate", "2/s", "--json"]).await;
    let mut asked: Vec<_> =
        redriven["redriven"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    let mut expected = first.clone();
    asked.sort();
    expected.sort();
    assert_eq!(asked, expected);
    let dead = stage.invocations_in("fail", "dead", 16).await;
    assert!(dead.iter().all(|invocation| invocation["epoch"] == 1), "{dead:#?}");
    let again = letters(&stage, 16).await;
    assert!(ids(&again).iter().all(|id| !first.contains(id)), "{again:#}");
    assert_eq!(runs_reach(&stage.path("runs"), 32).await.len(), 32);
    stop(dispatcher).await;
}

#[tokio::test]
async fn an_interrupted_redrive_says_how_far_it_came() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    failing(&stage, 5).await;
    letters(&stage, 5).await;
    stop(dispatcher).await;

    let redrive = stage.weft(&["dlq", "redrive", "--all", "--rate", "1/h", "--json"]).spawn();
    letters(&stage, 4).await;
    redrive.signal(Signal::INT);
    let tally = one_json(&redrive.wait(LIMIT).await.code(130));
    assert_eq!((tally["redriven"].as_array().unwrap().len(), &tally["stopped"]), (1, &json!(true)), "{tally}");
    letters(&stage, 4).await;
    let text = stage.weft(&["dlq", "redrive", "--all"]).run(LIMIT).await.success().text();
    assert!(text.contains("redrove 4 dead letters"), "{text}");
}

#[tokio::test]
async fn an_unknown_id_among_others_is_found_before_anything_is_done() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let dispatcher = stage.start(&[]).await;
    failing(&stage, 1).await;
    let id = ids(&letters(&stage, 1).await).concat();
    for command in [&["redrive"][..], &["purge", "--yes"]] {
        let args = [&["dlq"][..], command, &[&id, "nope", "neither"]].concat();
        let refused = stage.weft(&args).run(LIMIT).await.code(7).text();
        assert!(refused.contains("error[W0703]") && refused.contains("nope, neither"), "{refused}");
        assert_eq!(ids(&letters(&stage, 1).await).concat(), id, "{command:?}");
    }
    stop(dispatcher).await;
}
