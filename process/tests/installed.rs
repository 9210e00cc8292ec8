//! Telemetry as a process has it: installed for good, inside an async runtime. Each case runs in a process of its own,
//! `process/examples/installed_case.rs`, because a subscriber can be installed once only.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

const ENDPOINT: &str = "TEST_ENDPOINT";

/// Runs a case of `process/examples/installed_case.rs` and returns what it wrote to stderr.
fn in_a_process(case: &str, endpoint: &str) -> String {
    // This program is in `target/PROFILE/deps`; Cargo builds the examples beside that folder with every test.
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/installed_case");
    assert!(program.exists(), "{} is missing: `cargo build -p weft-process --examples`", program.display());
    let output = Command::new(program).arg(case).env(ENDPOINT, endpoint).env_remove("RUST_LOG").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
    text
}

#[test]
fn spans_leave_a_single_threaded_runtime() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let sink = std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).unwrap(), 0);
        }
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().to_owned();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        (head, body)
    });
    let lines = in_a_process("case_single_threaded_runtime", &endpoint);
    let (head, body) = sink.join().unwrap();
    assert!(head.starts_with("POST /v1/traces "), "{head}");
    assert!(body.windows(17).any(|bytes| bytes == b"process weft.fn.f"));
    assert!(lines.contains(r#""trace_id":""#), "{lines}");
    assert!(!lines.contains("WARN"), "{lines}");
}

#[test]
fn an_endpoint_that_is_down_is_said_once_and_slows_nothing() {
    // A port that was free a moment ago, and that nothing listens on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let started = Instant::now();
    let lines = in_a_process("case_endpoint_down", &format!("http://{free}"));
    assert!(started.elapsed() < Duration::from_secs(60));
    let said = lines.lines().filter(|line| line.contains("telemetry could not be sent")).count();
    assert_eq!(said, 1, "{lines}");
    assert!(!lines.contains("opentelemetry"), "the SDK's own log is off: {lines}");
    assert!(!lines.contains("ERROR"), "{lines}");
}
