//! Every way to start wrong gives one clear message with what to do, a code that has a page, and the documented status.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use weft_tests::{Exit, PrivatePostgres, Process};

use crate::system_stage::{LIMIT, Place, Stage, sql, stop};

/// How long a refusal may take: long enough for a busy machine, too short for a client library's default of 30 s.
const SOON: Duration = Duration::from_secs(15);

const PASSWORD: &str = "Tr0ub4dor-and-3";

const MANIFEST: &str = r#"
[functions.noop]
command = ["HANDLERS"]
events = ["noop.event"]
"#;

/// Holds a program that refused to go on to the form that all errors have.
#[track_caller]
fn refused(exit: Exit, status: i32, code: &str, parts: &[&str]) {
    let exit = exit.code(status);
    let text = exit.text();
    assert_eq!(text.matches("error[").count(), 1, "not exactly one error:\n{text}");
    assert!(text.contains(&format!("error[{code}]: ")), "not {code}:\n{text}");
    let help = text.lines().find_map(|line| line.trim_start().strip_prefix("help: "));
    assert!(help.is_some_and(|help| help.len() > 10), "no help:\n{text}");
    let page = format!("docs/errors/{code}.md");
    assert!(text.contains(&format!("see: {page}")), "no page named:\n{text}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&page);
    assert!(std::fs::read_to_string(&file).is_ok_and(|page| page.contains(code)), "{} is missing", file.display());
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    for secret in [PASSWORD, "Tr0ub4dor"] {
        assert!(!text.contains(secret), "the password is in the output:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

/// A port where nobody listens.
async fn nobody() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// Puts a user and the password into an address.
fn with_user(url: &str, user: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(user).unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    url.into()
}

#[tokio::test]
async fn every_fault_of_a_manifest_is_told_at_once_with_its_line() {
    let stage = Stage::embedded().manifest(
        r#"[functions.first]
command = ["HANDLERS"]
event = ["first.event"]
timeout = "30 parsecs"

[functions.second]
command = ["HANDLERS"]
events = ["second.event"]
slots = 0
"#,
    );
    let exit = stage.dispatcher(&[]).run(SOON).await;
    refused(exit, 3, "W0101", &["weft.toml:3:", "weft.toml:4:", "weft.toml:9:", "events", "timeout", "slots"]);

    std::fs::remove_file(stage.path("weft.toml")).unwrap();
    refused(stage.dispatcher(&[]).run(SOON).await, 3, "W0101", &["weft.toml"]);
    refused(stage.weft(&["functions"]).run(SOON).await, 3, "W0101", &["weft.toml"]);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named_within_seconds() {
    let stage = Stage::real().await.manifest(MANIFEST);
    for (variable, scheme, path, code, flag) in [
        ("WEFT_AMQP_URL", "amqp", "weft", "W0201", "--amqp"),
        ("WEFT_LEDGER_URL", "postgres", "weft", "W0301", "--ledger"),
        ("WEFT_STATE_URL", "redis", "0", "W0401", "--state"),
    ] {
        let port = nobody().await;
        let address = format!("{scheme}://weft:{PASSWORD}@127.0.0.1:{port}/{path}");
        let asked = Instant::now();
        let exit = stage.dispatcher(&[]).env(variable, address).run(SOON).await;
        refused(exit, 4, code, &[&format!("127.0.0.1:{port}"), flag]);
        println!("{variable}: {:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn refused_credentials_are_told_from_an_absent_service_and_never_shown() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let Place::Real { vhost, .. } = &stage.place else { unreachable!("made so above") };

    let wrong = with_user(&vhost.amqp_url, "weft");
    refused(stage.dispatcher(&[]).env("WEFT_AMQP_URL", wrong).run(SOON).await, 5, "W0202", &["--amqp"]);

    // The harness's servers trust whoever comes; this one asks.
    let postgres = PrivatePostgres::start().await;
    sql(&postgres.url(), "set password_encryption = 'scram-sha-256'; create role doe login password 'another'").await;
    let rules = "host all doe 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(postgres.folder().join("data/pg_hba.conf"), rules).unwrap();
    assert_eq!(sql(&postgres.url(), "select pg_reload_conf()").await, "t");
    // The server reads its rules when it gets to it: until then the role needs no password.
    weft_tests::poll("the rules are read", LIMIT, || async {
        let wrong = with_user(&postgres.url(), "doe");
        let exit = Process::at("psql").args(["-XqAt", "-c", "select 1", &wrong]).run(LIMIT).await;
        if exit.status.success() { Err(exit.text()) } else { Ok(()) }
    })
    .await;
    let wrong = with_user(&postgres.url(), "doe");
    refused(stage.dispatcher(&[]).env("WEFT_LEDGER_URL", &wrong).run(SOON).await, 5, "W0302", &["--ledger"]);
    refused(stage.weft(&["migrate"]).env("WEFT_LEDGER_URL", &wrong).run(SOON).await, 5, "W0302", &["--ledger"]);
    refused(stage.weft(&["invocations"]).env("WEFT_LEDGER_URL", wrong).run(SOON).await, 5, "W0302", &["--ledger"]);

    let Place::Real { state, .. } = &stage.place else { unreachable!("made so above") };
    let wrong = with_user(state, "nobody");
    refused(stage.dispatcher(&[]).env("WEFT_STATE_URL", wrong).run(SOON).await, 5, "W0402", &["--state"]);
}

#[tokio::test]
async fn a_password_in_a_file_is_used_and_one_on_the_command_line_is_warned_of() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let Place::Real { vhost, ledger, state } = &stage.place else { unreachable!("made so above") };
    std::fs::write(stage.path("secret"), with_user(&vhost.amqp_url, "weft") + "\n").unwrap();
    let by_file = Process::weft("weft")
        .args(["run", "--admin", "127.0.0.1:0", "--ledger", ledger, "--state", state])
        .env("WEFT_AMQP_URL_FILE", stage.path("secret"))
        .folder(&stage.folder);
    refused(by_file.run(SOON).await, 5, "W0202", &[]);

    let flag = with_user(&vhost.amqp_url, "weft");
    let exit = stage.dispatcher(&["--amqp", &flag]).run(SOON).await;
    assert!(exit.text().contains("warning: the password in --amqp can be read by every user"), "{}", exit.text());
    refused(exit, 5, "W0202", &[]);
}

#[tokio::test]
async fn a_port_or_a_name_that_is_taken_is_told_with_another_way() {
    let stage = Stage::real().await.manifest(MANIFEST);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(stage.weft(&["run", "--admin", &address]).run(SOON).await, 8, "W0601", &[&address, "--admin"]);

    let first = stage.start(&[]).await;
    refused(stage.dispatcher(&[]).run(SOON).await, 8, "W0305", &[&stage.node, "--node"]);
    stop(first).await;
    // The name is free at once, not when the lease is over.
    stop(stage.start(&[]).await).await;

    let stage = Stage::embedded().manifest(MANIFEST);
    let first = stage.start(&[]).await;
    // One file has one dispatcher, whatever its name.
    let another = stage.weft(&["dev", "--admin", "127.0.0.1:0", "--node", "another"]);
    refused(another.run(SOON).await, 8, "W0305", &[]);
    stop(first).await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let stage = Stage::embedded().manifest(MANIFEST);
    let exit = stage.weft(&["functions", "nope"]).run(SOON).await;
    refused(exit, 7, "W0701", &["nope", "it declares: noop"]);
    refused(stage.weft(&["invocations", "--function", "nope"]).run(SOON).await, 7, "W0701", &["nope"]);
    refused(stage.weft(&["invocations", "nope"]).run(SOON).await, 7, "W0702", &["nope"]);
    refused(stage.weft(&["dlq", "show", "nope"]).run(SOON).await, 7, "W0703", &["nope", "weft dlq ls"]);
    refused(stage.weft(&["dlq", "redrive", "nope"]).run(SOON).await, 7, "W0703", &["nope"]);
}

#[tokio::test]
async fn a_worker_program_at_fault_is_found_at_the_start() {
    let start = |manifest: &'static str| {
        let stage = Stage::embedded().manifest(manifest);
        async move { stage.dispatcher(&[]).run(SOON).await }
    };
    let unregistered = start("[functions.nope]\ncommand = ['HANDLERS']\nevents = ['a.b']\n").await;
    refused(unregistered, 9, "W0502", &["nope", "noop", "retry", "[functions.nope]"]);

    let missing = start("[functions.a]\ncommand = ['./no-such-program']\nevents = ['a.b']\n").await;
    refused(missing, 9, "W0501", &["no-such-program", "[functions.a]"]);
    let nowhere = start("[functions.a]\ncommand = ['no-such-program-in-path']\nevents = ['a.b']\n").await;
    refused(nowhere, 9, "W0501", &["no-such-program-in-path"]);

    let unset = start("[functions.a]\ncommand = ['HANDLERS']\nevents = ['a.b']\nenv = { B = '${NOT_SET}' }\n").await;
    refused(unset, 9, "W0501", &["NOT_SET", "\"B\"", "help: set NOT_SET", "[functions.a]"]);

    let text = "[functions.a]\ncommand = ['/bin/sh', '-c', 'echo my last words >&2; exit 3']\nevents = ['a.b']\n";
    refused(start(text).await, 9, "W0503", &["my last words", "status 3", "function a"]);
}

#[tokio::test]
async fn the_command_line_explains_itself() {
    let weft = || Process::weft("weft");
    let unknown = weft().args(["run", "--no-such-flag"]).run(SOON).await.code(2).text();
    assert!(unknown.contains("--no-such-flag") && unknown.contains("--help"), "{unknown}");
    weft().arg("no-such-command").run(SOON).await.code(2);
    weft().run(SOON).await.code(2);

    let help = weft().arg("--help").run(SOON).await.success();
    let commands = [
        "demo",
        "dev",
        "run",
        "publish",
        "functions",
        "invocations",
        "dlq",
        "migrate",
        "doctor",
        "schema",
        "completions",
    ];
    for command in commands {
        assert!(help.stdout.iter().any(|line| line.trim_start().starts_with(command)), "{command}: {}", help.text());
        let help = weft().args([command, "--help"]).run(SOON).await.success();
        assert!(help.text().contains("Usage: weft"), "{command}: {}", help.text());
    }
    assert!(help.text().contains("130"), "the statuses are not told: {}", help.text());
    assert!(weft().arg("--version").run(SOON).await.success().text().starts_with("weft "));

    let no_services = Stage::embedded().manifest(MANIFEST).weft(&["run"]).run(SOON).await;
    refused(no_services, 2, "W0103", &["--amqp", "weft dev"]);
}
