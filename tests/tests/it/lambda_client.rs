//! The Runtime API as a client breaks it, state by state, and workers that misbehave: each costs its own attempt and
//! nothing else.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};
use weft_tests::{Process, poll};

use crate::isolation_stage::started_or_refused;
use crate::system_stage::{LIMIT, Place, Stage, complaints, stop};

const MANIFEST: &str = r#"
[functions.raw]
runtime = "lambda"
command = ["CLIENT"]
events = ["raw.*"]
timeout = "2s"
env = { DECLARED = "yes", TEST_INIT = "HOW", _X_OWN = "kept" }
init_timeout = "1s"
retry = { attempts = 2, crashes = 2, backoff = { first = "10ms", max = "10ms" } }
terminal_errors = ["ValidationError"]

[functions.loud]
runtime = "lambda"
command = ["CLIENT"]
events = ["loud.*"]
timeout = "2s"
retry = { attempts = 1 }

[functions.beside]
runtime = "lambda"
command = ["CLIENT"]
events = ["beside.*"]
"#;

/// What a dispatcher may take in addition when two workers print a gigabyte each. Of one line without an end 32 MiB come
/// before the deadline.
const FLOOD_MEMORY: u64 = 16 << 20;

fn with_init(stage: Stage, init: &str) -> Stage {
    let text = MANIFEST.replace("CLIENT", env!("CARGO_BIN_EXE_weft-test-runtime-client")).replace("HOW", init);
    stage.manifest(&text)
}

fn stage() -> Stage {
    with_init(Stage::embedded(), "no")
}

async fn ask(stage: &Stage, id: &str, data: &Value) {
    stage.publish("raw.event", id, data).await;
}

/// The invocation of an event, when it is in `state`.
async fn in_state(stage: &Stage, id: &str, state: &str) -> Value {
    poll(&format!("{id} is {state}"), LIMIT, || async {
        let all = stage.invocations(&[]).await;
        let fits = |one: &&Value| one["key"].as_str().is_some_and(|key| key.ends_with(id)) && one["state"] == state;
        all.iter().find(fits).cloned().ok_or(all)
    })
    .await
}

/// What an event's invocation answered.
async fn result(stage: &Stage, id: &str, data: &Value) -> Value {
    ask(stage, id, data).await;
    let done = in_state(stage, id, "succeeded").await;
    serde_json::from_str(done["result"].as_str().unwrap()).unwrap()
}

/// What the client was answered after the result of the invocation before.
async fn before(stage: &Stage) -> Value {
    result(stage, "then", &json!({})).await["before"].clone()
}

/// The dead letter of an event.
async fn letter(stage: &Stage, id: &str) -> Value {
    in_state(stage, id, "dead").await;
    let letters = stage.json(&["dlq", "ls", "--json"]).await;
    let letter = letters.as_array().unwrap().iter().find(|letter| letter.to_string().contains(id)).unwrap();
    stage.json(&["dlq", "show", letter["id"].as_str().unwrap(), "--json"]).await
}

async fn ended_well(dispatcher: Process, expected: &[&str]) {
    let exit = stop(dispatcher).await;
    let usual = ["share /tmp", "attempt failed", "event given up"];
    assert_eq!(complaints(&exit.lines, &[&usual, expected].concat()), Vec::<String>::new());
}

#[tokio::test]
async fn a_second_response_is_refused_and_the_first_counts() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    assert_eq!(result(&stage, "twice", &json!({ "do": "second_response" })).await, 1);
    assert_eq!(before(&stage).await, json!([[403, "InvalidStateTransition"], [403, "InvalidStateTransition"]]));
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_response_after_an_error_is_refused_and_the_error_counts() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    ask(&stage, "late", &json!({ "do": "response_after_error" })).await;
    let letter = letter(&stage, "late").await;
    assert!(letter.to_string().contains("it was asked to fail"), "{letter:#}");
    assert_eq!(before(&stage).await, json!([[403, "InvalidStateTransition"]]));
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn what_the_api_does_not_know_is_refused_in_its_own_form_and_costs_nothing() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    let seen = result(&stage, "strange", &json!({ "do": "strange" })).await["seen"].clone();
    let wanted = json!([
        [400, "InvalidRequestID"],
        [403, "InvalidStateTransition"],
        [404, "NotFound"],
        [405, "MethodNotAllowed"],
        [400, "InvalidFunctionResponseMode"],
        [200, null],
        [202, "Logs.NotSupported"],
        [202, "Telemetry.NotSupported"],
        [403, "Extension.InvalidExtensionName"],
        [403, "Extension.UnknownExtensionIdentifier"],
        [400, null],
    ]);
    assert_eq!(seen, wanted);
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_response_of_the_largest_size_is_taken_and_a_larger_one_is_for_good() {
    let most = 6 * 1024 * 1024;
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    ask(&stage, "fits", &json!({ "do": "too_large", "bytes": most })).await;
    in_state(&stage, "fits", "succeeded").await;
    ask(&stage, "larger", &json!({ "do": "too_large", "bytes": most + 101 })).await;
    let letter = letter(&stage, "larger").await;
    assert!(letter.to_string().contains("Function.ResponseSizeTooLarge"), "{letter:#}");
    let before = before(&stage).await;
    assert_eq!(before, json!([[413, "RequestEntityTooLarge"], [403, "InvalidStateTransition"]]));
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_response_without_headers_is_one_without_a_body() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    assert_eq!(result(&stage, "bare", &json!({ "do": "no_headers" })).await, Value::Null);
    assert_eq!(before(&stage).await, json!([[202, null]]));
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_body_may_come_slowly_and_one_that_breaks_off_may_come_again() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    assert_eq!(result(&stage, "slow", &json!({ "do": "slow_body" })).await, "one byte after the other");
    assert_eq!(result(&stage, "again", &json!({ "do": "aborted_body" })).await, "whole");
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_bounded_by_the_timeout() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    ask(&stage, "endless", &json!({ "do": "endless_body" })).await;
    let letter = letter(&stage, "endless").await;
    assert!(letter.to_string().contains("TimedOut"), "{letter:#}");
    ended_well(dispatcher, &["worker ignores the deadline"]).await;
}

#[tokio::test]
async fn a_second_question_before_the_answer_gets_the_same_invocation() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    assert_eq!(result(&stage, "two", &json!({ "do": "two_next" })).await["seen"], json!([true]));
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn of_two_questions_that_wait_each_gets_an_invocation_of_its_own() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    assert_eq!(result(&stage, "first", &json!({ "do": "two_waiting" })).await, 1);
    let mut questions =
        [result(&stage, "one", &json!({})).await.as_u64(), result(&stage, "two", &json!({})).await.as_u64()];
    questions.sort_unstable();
    assert_eq!(questions, [Some(1), Some(2)]);
    assert!(result(&stage, "then", &json!({})).await["process"].is_u64());
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_streamed_response_is_kept_whole_and_one_that_fails_half_way_is_an_error() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    let response = result(&stage, "streamed", &json!({ "do": "streamed" })).await;
    assert_eq!(response, json!({ "statusCode": 201, "body": "hello", "isBase64Encoded": false }));
    ask(&stage, "broken", &json!({ "do": "streamed", "broken": true })).await;
    let letter = letter(&stage, "broken").await;
    assert!(letter.to_string().contains("Half.Way"), "{letter:#}");
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn a_type_of_error_that_is_terminal_is_not_tried_again_and_another_is() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    let error = |kind: &str| {
        let body = json!({ "errorType": kind, "errorMessage": "so it is", "stackTrace": ["  at one", "  at two"] });
        json!({ "do": "fail", "body": body })
    };
    ask(&stage, "final", &error("orders::ValidationError")).await;
    ask(&stage, "again", &error("OtherError")).await;
    assert_eq!(in_state(&stage, "final", "dead").await["attempt"], 1);
    assert_eq!(in_state(&stage, "again", "dead").await["attempt"], 2);
    let letter = letter(&stage, "final").await.to_string();
    for part in ["orders::ValidationError", "so it is", "  at one", "  at two"] {
        assert!(letter.contains(part), "{part} is not in {letter}");
    }
    ended_well(dispatcher, &[]).await;
}

/// Every way in which a worker goes wrong in the middle of an invocation, while another function works on.
async fn a_worker_that_goes_wrong_costs_its_own_attempt(stage: Stage) {
    let dispatcher = stage.start(&[]).await;
    for (id, data, word) in [
        ("exits", json!({ "do": "exit" }), "exited with status 0"),
        ("killed", json!({ "do": "kill" }), "SIGKILL"),
        ("hangs", json!({ "do": "hang" }), "TimedOut"),
    ] {
        ask(&stage, id, &data).await;
        stage.publish("beside.event", &format!("beside-{id}"), &json!({})).await;
        let beside = in_state(&stage, &format!("beside-{id}"), "succeeded").await;
        assert_eq!((&beside["attempt"], &beside["crashes"]), (&json!(1), &json!(0)), "{beside:#}");
        let letter = letter(&stage, id).await.to_string();
        assert!(letter.contains(word), "{id}: {letter}");
        // Its worker was replaced.
        let well = result(&stage, &format!("after-{id}"), &json!({})).await;
        assert!(well["process"].is_u64(), "{well:#}");
    }
    ended_well(dispatcher, &["worker went away with work", "worker ignores the deadline"]).await;
}

#[tokio::test]
async fn a_worker_that_goes_wrong_costs_its_own_attempt_embedded() {
    a_worker_that_goes_wrong_costs_its_own_attempt(stage()).await;
}

#[tokio::test]
async fn a_worker_that_goes_wrong_costs_its_own_attempt_on_rabbitmq() {
    a_worker_that_goes_wrong_costs_its_own_attempt(with_init(Stage::real().await, "no")).await;
}

/// The most memory that a process ever held, in bytes.
fn most_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn workers_that_print_without_end_cost_their_own_attempts_and_little_memory() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    let pid = dispatcher.pid().unwrap();
    // What is done for the first time takes memory for itself.
    result(&stage, "some", &json!({ "do": "flood", "kib": 64 })).await;
    let before = most_memory(pid);
    // A gigabyte each, in lines and in one: more than is read of a worker before its deadline.
    stage.publish("raw.event", "lines", &json!({ "do": "flood", "kib": 1 << 20 })).await;
    stage.publish("loud.event", "one-line", &json!({ "do": "flood", "kib": 1 << 20, "one_line": true })).await;
    let beside = async {
        stage.publish("beside.event", "beside", &json!({})).await;
        in_state(&stage, "beside", "succeeded").await
    };
    let (lines, one, beside) = tokio::join!(letter(&stage, "lines"), letter(&stage, "one-line"), beside);
    for letter in [lines, one] {
        assert!(letter.to_string().contains("TimedOut"), "{letter:#}");
    }
    assert_eq!((&beside["attempt"], &beside["crashes"]), (&json!(1), &json!(0)), "{beside:#}");
    let grown = most_memory(pid) - before;
    assert!(grown < FLOOD_MEMORY, "{grown} bytes were taken for what workers print");
    assert!(result(&stage, "then", &json!({})).await["process"].is_u64());
    ended_well(dispatcher, &["worker ignores the deadline", "worker writes too much", "worker output dropped"]).await;
}

/// A worker that does not start costs no attempt, and the next start may go well.
async fn a_failed_start_is_tried_again(stage: Stage, init: &str, reason: &str) {
    let go = stage.path("go").display().to_string();
    let stage = with_init(stage, &format!("{init} {go}"));
    let mut dispatcher = stage.start(&[]).await;
    ask(&stage, "waits", &json!({})).await;
    stage.publish("beside.event", "beside", &json!({})).await;
    let beside = in_state(&stage, "beside", "succeeded").await;
    assert_eq!((&beside["attempt"], &beside["crashes"]), (&json!(1), &json!(0)), "{beside:#}");
    let line = dispatcher.wait_for_line("worker did not start", LIMIT).await;
    assert!(line.contains(reason), "{line}");
    std::fs::write(&go, "").unwrap();
    let done = in_state(&stage, "waits", "succeeded").await;
    assert_eq!((&done["attempt"], &done["crashes"]), (&json!(1), &json!(0)), "{done:#}");
    ended_well(dispatcher, &["worker did not start", "function is unhealthy", "init error was answered with 202"])
        .await;
}

#[tokio::test]
async fn a_worker_that_reports_a_failed_init_is_started_again() {
    a_failed_start_is_tried_again(Stage::embedded(), "error", "Runtime.NoSuchModule: no module of this name").await;
}

#[tokio::test]
async fn a_worker_that_hangs_in_its_init_is_started_again() {
    a_failed_start_is_tried_again(Stage::embedded(), "hang", "was not ready in time").await;
}

#[tokio::test]
async fn a_worker_that_exits_in_its_init_is_started_again() {
    a_failed_start_is_tried_again(Stage::embedded(), "exit", "exited with status 3").await;
}

#[tokio::test]
async fn the_api_of_a_worker_closes_with_it() {
    let stage = stage();
    let dispatcher = stage.start(&[]).await;
    let seen = result(&stage, "environment", &json!({ "do": "environment" })).await["seen"].clone();
    let address = seen[0]["AWS_LAMBDA_RUNTIME_API"].as_str().unwrap();
    assert!(std::net::TcpStream::connect(address).is_ok(), "while it lives");
    ask(&stage, "exits", &json!({ "do": "exit" })).await;
    in_state(&stage, "exits", "dead").await;
    poll("nobody listens there", LIMIT, || async {
        if std::net::TcpStream::connect(address).is_err() { Ok(()) } else { Err("somebody does") }
    })
    .await;
    ended_well(dispatcher, &["worker went away with work"]).await;
}

#[tokio::test]
async fn a_worker_finds_the_whole_environment_and_nothing_of_the_dispatchers() {
    let stage = stage();
    let dispatcher = crate::system_stage::started(stage.dispatcher(&[]).env("NOT_FOR_WORKERS", "1")).await;
    let seen = result(&stage, "environment", &json!({ "do": "environment" })).await["seen"].clone();
    let environment = &seen[0];
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "raw"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/raw"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("TZ", "UTC"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("_HANDLER", "raw"),
        ("DECLARED", "yes"),
        ("_X_OWN", "kept"),
    ] {
        assert_eq!(environment[name], value, "{name}");
    }
    let root = std::fs::canonicalize(&stage.folder).unwrap();
    assert_eq!((environment["LAMBDA_TASK_ROOT"].as_str(), seen[1].as_str()), (root.to_str(), root.to_str()));
    assert!(environment["AWS_LAMBDA_LOG_STREAM_NAME"].as_str().unwrap().contains("[$LATEST]raw-"));
    assert!(environment["AWS_LAMBDA_RUNTIME_API"].as_str().unwrap().starts_with("127."));
    for name in ["NOT_FOR_WORKERS", "WEFT_LINK_FD", "AWS_LAMBDA_MAX_CONCURRENCY", "_X_AMZN_TRACE_ID"] {
        assert_eq!(environment[name], Value::Null, "{name}");
    }
    let headers: Vec<&str> = seen[2].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    for name in [
        "lambda-runtime-aws-request-id",
        "lambda-runtime-deadline-ms",
        "lambda-runtime-invoked-function-arn",
        "content-type",
    ] {
        assert!(headers.contains(&name), "{name} is not among {headers:?}");
    }
    ended_well(dispatcher, &[]).await;
}

#[tokio::test]
async fn each_worker_has_a_tmp_of_its_own_where_the_machine_lets_weft_mount() {
    // Not below /tmp, where the function's own code would be hidden.
    let folder = tempfile::Builder::new().prefix("weft-lambda-").tempdir_in("/var/tmp").unwrap();
    let program = folder.path().join("client");
    std::fs::copy(env!("CARGO_BIN_EXE_weft-test-runtime-client"), &program).unwrap();
    let mut stage = Stage::with(Place::Embedded);
    stage.folder = folder.path().to_owned();
    let manifest = "[functions.raw]\nruntime = \"lambda\"\ncommand = [\"./client\"]\nevents = [\"raw.*\"]\n";
    std::fs::write(stage.path("weft.toml"), manifest).unwrap();
    let dispatcher = stage.start(&[]).await;
    // What a run left that failed here.
    let _ = std::fs::remove_file("/tmp/mine");
    let marker = format!("/tmp/weft-lambda-test-{:016x}", fastrand::u64(..));
    std::fs::write(&marker, "").unwrap();
    let seen = result(&stage, "tmp", &json!({ "do": "tmp" })).await["seen"][0].clone();
    let again = result(&stage, "more", &json!({ "do": "tmp" })).await["seen"][0].clone();
    std::fs::remove_file(&marker).unwrap();
    let exit = stop(dispatcher).await;
    if exit.text().contains("CAP_SYS_ADMIN") {
        assert!(exit.text().contains("share /tmp with the machine"), "{}", exit.text());
        return;
    }
    assert_eq!(seen, json!([]), "it sees what is not its own");
    assert_eq!(again, json!(["mine"]), "the next invocation of the same worker finds what it wrote");
    assert!(!std::path::Path::new("/tmp/mine").exists());
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn a_process_of_another_user_is_refused_at_a_workers_api() {
    let stage = stage();
    let text = std::fs::read_to_string(stage.path("weft.toml")).unwrap();
    // Its own user, where that can be had: then this process, and root, are somebody else.
    let text = text.replacen("timeout = \"2s\"", "timeout = \"2s\"\nisolation = { user = \"4321:4322\" }", 1);
    std::fs::write(stage.path("weft.toml"), text).unwrap();
    let Some(mut dispatcher) = started_or_refused(&stage, "user: by setuid", "isolation.user").await else { return };
    let seen = result(&stage, "environment", &json!({ "do": "environment" })).await["seen"].clone();
    let address = seen[0]["AWS_LAMBDA_RUNTIME_API"].as_str().unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // Either end may see the other's close first.
    let _ = stream.write_all(b"GET /2018-06-01/ping HTTP/1.0\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(String::from_utf8_lossy(&answer), "");
    dispatcher.wait_for_line("a process of another user was refused", LIMIT).await;
    assert!(result(&stage, "then", &json!({})).await["process"].is_u64(), "the worker goes on");
    ended_well(dispatcher, &["a process of another user was refused"]).await;
}

#[tokio::test]
async fn an_extension_is_told_of_invocations_and_the_worker_of_its_end() {
    let stage = stage();
    let text = std::fs::read_to_string(stage.path("weft.toml")).unwrap();
    let text = text.replace("TEST_INIT = \"no\"", "TEST_INIT = \"extension\"");
    // Deaf to SIGTERM, so that what it hears of its end does not race with it.
    let client = env!("CARGO_BIN_EXE_weft-test-runtime-client");
    let deaf = format!("[\"sh\", \"-c\", \"trap '' TERM; exec {client}\"]");
    std::fs::write(stage.path("weft.toml"), text.replacen(&format!("[{client:?}]"), &deaf, 1)).unwrap();
    let dispatcher = stage.start(&[]).await;
    let seen = result(&stage, "told", &json!({ "do": "extension" })).await["seen"].clone();
    assert_eq!((&seen[0]["eventType"], seen[0]["requestId"] == seen[1]), (&json!("INVOKE"), true), "{seen:#}");
    let exit = stop(dispatcher).await;
    assert!(exit.text().contains("heard SHUTDOWN"), "{}", exit.text());
}
