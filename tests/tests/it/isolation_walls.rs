//! What workers are kept from: other users' files, writes, the network; and what a machine cannot keep is refused.

use std::path::PathBuf;

use serde_json::{Value, json};
use weft_tests::Process;

use crate::isolation_stage::{result, started_or_refused};
use crate::system_stage::{LIMIT, Stage, complaints, started, stop};

fn stage(keys: &str) -> Stage {
    Stage::embedded()
        .manifest(&format!("[functions.confined]\ncommand = [\"HANDLERS\"]\nevents = [\"confined.event\"]\n{keys}\n"))
}

#[tokio::test]
async fn a_read_only_worker_writes_where_it_is_allowed_to_and_nowhere_else() {
    let stage = stage("isolation = { read_only = true, write = [\"allowed\"] }");
    std::fs::create_dir(stage.path("allowed")).unwrap();
    std::fs::create_dir(stage.path("other")).unwrap();
    let Some(dispatcher) = started_or_refused(&stage, "read_only: by Landlock", "isolation.read_only").await else {
        return;
    };
    let room = result(&stage, "look", &json!({ "do": "look" })).await["room"].as_str().unwrap().to_owned();
    let paths = [
        stage.path("allowed/file"),
        PathBuf::from(room).join("file"),
        PathBuf::from("/dev/null"),
        stage.path("other/file"),
        PathBuf::from("/tmp/weft-test-is-not-to-be-written"),
    ];
    let written = result(&stage, "write", &json!({ "do": "write", "paths": paths })).await;
    let said: Vec<&str> = paths.iter().map(|path| written[path.to_str().unwrap()].as_str().unwrap()).collect();
    assert_eq!(said, ["ok", "ok", "ok", "PermissionDenied", "PermissionDenied"], "{written:#}");
    assert!(stage.path("allowed/file").exists() && !stage.path("other/file").exists());
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn a_read_only_worker_writes_in_a_folder_of_a_limited_size_and_finds_it_full() {
    let stage = stage("isolation = { read_only = true, user = \"4321:4322\" }\nlimits = { disk = \"2MiB\" }");
    let Some(dispatcher) = started_or_refused(&stage, "disk: by a private tmpfs", "limits.disk").await else { return };
    let filled = result(&stage, "fill", &json!({ "do": "fill", "mib": 8 })).await;
    assert_eq!(filled["error"], "StorageFull", "{filled:#}");
    assert!((1..=2).contains(&filled["written"].as_u64().unwrap()), "{filled:#}");
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn a_worker_without_network_gets_no_socket_but_a_unix_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ask = json!({ "do": "connect", "to": listener.local_addr().unwrap() });
    let open = stage("");
    let dispatcher = open.start(&[]).await;
    let reached = result(&open, "open", &ask).await;
    assert_eq!(reached, json!({ "tcp": "ok", "udp": "ok", "unix": "ok" }), "without the filter it gets through");
    stop(dispatcher).await;

    let stage = stage("isolation = { network = false }");
    let Some(dispatcher) = started_or_refused(&stage, "network: by seccomp", "isolation.network").await else { return };
    let refused = result(&stage, "closed", &ask).await;
    assert_eq!(refused, json!({ "tcp": "PermissionDenied", "udp": "PermissionDenied", "unix": "ok" }));
    assert_eq!(result(&stage, "look", &json!({ "do": "look" })).await["filters"], "2");
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn a_confined_worker_reaches_no_process_outside_with_a_signal() {
    let stage = stage("isolation = { network = false }");
    let Some(dispatcher) = started_or_refused(&stage, "network: by seccomp", "isolation.network").await else { return };
    let seen = result(&stage, "look", &json!({ "do": "look" })).await;
    let said = result(&stage, "signal", &json!({ "do": "signal", "pid": seen["parent"] })).await;
    let status = stage.weft(&["doctor", "--json"]).run(LIMIT).await.text();
    if status.contains("signals: by Landlock") {
        assert_eq!(said, "PermissionDenied", "it could have killed its dispatcher");
    }
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_worker_runs_as_its_user_with_no_other_groups_and_no_rights_and_owns_its_folder() {
    let stage = stage("isolation = { user = \"4321:4322\" }\nmemory = \"64MiB\"");
    let machine = stage.weft(&["doctor", "--json"]).run(LIMIT).await.text();
    if !machine.contains("user: by setuid") {
        let refused = stage.dispatcher(&[]).run(LIMIT).await.code(9).text();
        assert!(refused.contains("W0504") && refused.contains("isolation.user"), "{refused}");
        return;
    }
    // Groups that a dispatcher may well have and a worker must not inherit.
    let program = stage.program(Process::at("setpriv")).args(["--groups", "4,27", "--"]).arg(weft_tests::bin("weft"));
    let args = ["dev", "--admin", "127.0.0.1:0", "--node", &stage.node, "--log-format", "json"];
    let dispatcher = started(program.args(args)).await;
    let seen = result(&stage, "look", &json!({ "do": "look" })).await;
    assert_eq!(seen["uid"], "4321 4321 4321 4321", "{seen:#}");
    assert_eq!(seen["gid"], "4322 4322 4322 4322", "{seen:#}");
    assert_eq!((&seen["groups"], &seen["capabilities"]), (&json!(""), &json!("0000000000000000")), "{seen:#}");
    assert_eq!(seen["room_owner"], 4321);
    let written = result(&stage, "write", &json!({ "do": "write", "paths": [stage.path("weft.toml")] })).await;
    assert_eq!(written[stage.path("weft.toml").to_str().unwrap()], "PermissionDenied");
    // Another's processes are killed all the same, and it died with nothing left: the stop is a good one.
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
    assert!(!std::path::Path::new(seen["room"].as_str().unwrap()).exists());
}

#[tokio::test]
async fn a_demand_that_cannot_be_kept_is_refused_at_start_with_its_key() {
    let stage = stage("isolation = { user = \"nobody-of-that-name\", read_only = true, write = [\"no/where\"] }");
    let refused = stage.dispatcher(&[]).run(LIMIT).await.code(9).text();
    for part in ["W0504", "isolation.user \"nobody-of-that-name\" is no user", "isolation.write names", "no/where"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    let doctor = stage.weft(&["doctor"]).run(LIMIT).await.code(6).text();
    assert!(doctor.contains("isolation.user \"nobody-of-that-name\" is no user"), "{doctor}");
}

#[tokio::test]
async fn a_secret_from_a_file_reaches_the_worker_and_nobody_else() {
    let secret = format!("s3cret-{:016x}", fastrand::u64(..));
    let stage = Stage::embedded().manifest(
        "[functions.environment]\ncommand = [\"HANDLERS\"]\nevents = [\"environment.event\"]\n\
         env = { PASSWORD = \"${file:secrets/password}\", DSN = \"x:${FROM_OUTSIDE}\" }\n",
    );
    std::fs::create_dir(stage.path("secrets")).unwrap();
    std::fs::write(stage.path("secrets/password"), format!("{secret}\n")).unwrap();
    let dispatcher = stage.dispatcher(&["--log", "debug"]).env("FROM_OUTSIDE", &secret);
    let mut dispatcher = crate::system_stage::started(dispatcher).await;
    let admin = crate::system_stage::admin(&mut dispatcher).await;
    stage.publish("environment.event", "one", &json!({})).await;
    let done = stage.invocations_in("environment", "succeeded", 1).await;
    let given: Value = serde_json::from_str(done[0]["result"].as_str().unwrap()).unwrap();
    assert_eq!(given["variables"]["PASSWORD"], json!(secret));
    assert_eq!(given["variables"]["DSN"], json!(format!("x:{secret}")));

    let status = crate::system_stage::get(&admin, "/status").await.text().await.unwrap();
    let functions = stage.done(&["functions", "--json", "--admin", &admin]).await.text();
    let lines: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .collect();
    for (what, text) in [("/status", &status), ("weft functions", &functions), ("a command line", &lines.concat())] {
        assert!(!text.contains(&secret), "the secret is in {what}");
    }
    let exit = stop(dispatcher).await;
    assert!(!exit.text().contains(&secret), "the secret is in the log");
    std::fs::remove_file(stage.path("secrets/password")).unwrap();
    let refused = stage.dispatcher(&[]).env("FROM_OUTSIDE", &secret).run(LIMIT).await.code(9).text();
    assert!(refused.contains("secrets/password") && !refused.contains(&secret), "{refused}");
}
