//! The cases of `process/tests/installed.rs`, each of which needs a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use weft_process::telemetry::{Export, InitError, LogFormat, Settings, init, spans};

const ENDPOINT: &str = "TEST_ENDPOINT";

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("case_single_threaded_runtime") => case_single_threaded_runtime(),
        Some("case_endpoint_down") => case_endpoint_down(),
        other => panic!("no such case: {other:?}"),
    }
}

fn settings() -> Settings {
    let mut settings = Settings::new("weft", "node-1");
    settings.log = LogFormat::Json;
    settings.export = Export::Http { endpoint: std::env::var(ENDPOINT).unwrap(), headers: Vec::new() };
    settings
}

fn one_event() {
    let root = spans::process("weft.fn.f", "f", Some("k"), "m");
    root.in_scope(|| tracing::info!("inside"));
}

fn case_single_threaded_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let telemetry = init(settings()).unwrap();
        assert!(matches!(init(settings()), Err(InitError::Installed(_))));
        one_event();
        tokio::task::spawn_blocking(move || telemetry.shutdown()).await.unwrap();
    });
}

fn case_endpoint_down() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let telemetry = init(settings()).unwrap();
        for _ in 0..3 {
            let started = Instant::now();
            for _ in 0..1000 {
                drop(spans::process("weft.fn.f", "f", None, "m"));
            }
            assert!(started.elapsed() < Duration::from_secs(2), "making spans waited for the endpoint");
            let telemetry = telemetry.clone();
            tokio::task::spawn_blocking(move || telemetry.flush()).await.unwrap();
        }
        tokio::task::spawn_blocking(move || telemetry.shutdown()).await.unwrap();
    });
}
