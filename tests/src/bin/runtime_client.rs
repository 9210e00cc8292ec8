//! `weft-test-runtime-client`: a Lambda function that speaks the Runtime API byte by byte and breaks it as its event says.
//!
//! What it was answered is in the result of the same invocation, or of the next where it was answered after the result.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Condvar, Mutex, PoisonError};

use serde_json::{Value, json};

const BASE: &str = "/2018-06-01/runtime";

/// What a request was answered.
#[derive(Debug, Default)]
struct Answer {
    status: u16,
    /// In lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Status and type of error, for the result.
    fn seen(&self) -> Value {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json!([self.status, body["errorType"]])
    }
}

fn connect() -> std::io::Result<TcpStream> {
    TcpStream::connect(std::env::var("AWS_LAMBDA_RUNTIME_API").unwrap_or_default())
}

/// Sends bytes on a connection of their own and reads the answer.
fn raw(bytes: &[u8]) -> std::io::Result<Answer> {
    let mut stream = connect()?;
    // One that is refused early may break off while this is sent; its answer is there all the same.
    let _ = stream.write_all(bytes);
    read(stream)
}

fn read(stream: TcpStream) -> std::io::Result<Answer> {
    let mut reader = BufReader::new(stream);
    let mut answer = Answer::default();
    let mut line = String::new();
    reader.read_line(&mut line)?;
    answer.status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            answer.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = answer.header("content-length").parse().unwrap_or(0);
    answer.body.resize(length, 0);
    reader.read_exact(&mut answer.body)?;
    Ok(answer)
}

fn request(method: &str, path: &str, more: &str, body: &[u8]) -> std::io::Result<Answer> {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n");
    raw(&[head.as_bytes(), body].concat())
}

fn post(path: &str, body: &[u8]) -> std::io::Result<Answer> {
    request("POST", &format!("{BASE}{path}"), "", body)
}

fn next() -> std::io::Result<Answer> {
    request("GET", &format!("{BASE}/invocation/next"), "", b"")
}

fn main() -> ExitCode {
    match run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("the runtime client failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> std::io::Result<ExitCode> {
    if let Ok(init) = std::env::var("TEST_INIT") {
        let (what, until) = init.split_once(' ').unwrap_or((&init, ""));
        if !Path::new(until).exists() {
            match what {
                "hang" => loop {
                    std::thread::park();
                },
                "exit" => return Ok(ExitCode::from(3)),
                "extension" => register()?,
                "error" => {
                    let body = br#"{"errorType":"Runtime.NoSuchModule","errorMessage":"no module of this name"}"#;
                    let answer = post("/init/error", body)?;
                    eprintln!("init error was answered with {}", answer.status);
                    return Ok(ExitCode::FAILURE);
                }
                _ => {}
            }
        }
    }
    // As a client that may have several invocations at once: each thread asks for its own.
    let more =
        std::env::var("AWS_LAMBDA_MAX_CONCURRENCY").ok().and_then(|most| most.parse::<usize>().ok()).unwrap_or(1);
    for _ in 1..more {
        // It ends when the API is gone, and the process with it.
        std::thread::spawn(serve);
    }
    serve()
}

/// One invocation after the other, until one says how the process ends.
fn serve() -> std::io::Result<ExitCode> {
    // Answered after the result of the invocation before.
    let mut after: Vec<Value> = Vec::new();
    loop {
        let invocation = next()?;
        let id = invocation.header("lambda-runtime-aws-request-id").to_owned();
        let event: Value = serde_json::from_slice(&invocation.body).unwrap_or_default();
        let said = std::mem::take(&mut after);
        if let Some(status) = one(&id, &event["data"], &invocation, said, &mut after)? {
            return Ok(status);
        }
    }
}

/// How many invocations have come together here.
static TOGETHER: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());

/// Waits until so many invocations are in this process at once.
fn meet(of: u64) {
    let (count, more) = &TOGETHER;
    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
    *count += 1;
    more.notify_all();
    drop(more.wait_while(count, |count| *count < of));
}

/// What the extension heard of invocations.
static EVENTS: Mutex<Vec<Value>> = Mutex::new(Vec::new());

/// Registers an extension and has a thread listen for it.
fn register() -> std::io::Result<()> {
    let name = "Lambda-Extension-Name: listener\r\n";
    let body = br#"{"events":["INVOKE","SHUTDOWN"]}"#;
    let registered = request("POST", "/2020-01-01/extension/register", name, body)?;
    let own = format!("Lambda-Extension-Identifier: {}\r\n", registered.header("lambda-extension-identifier"));
    std::thread::spawn(move || {
        while let Ok(answer) = request("GET", "/2020-01-01/extension/event/next", &own, b"") {
            let event: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            println!("heard {}", event["eventType"].as_str().unwrap_or("nothing"));
            if event["eventType"] != "INVOKE" {
                break;
            }
            if let Ok(mut events) = EVENTS.lock() {
                events.push(event);
            }
        }
    });
    Ok(())
}

/// Handles one invocation; a status ends the process.
fn one(
    id: &str,
    ask: &Value,
    invocation: &Answer,
    before: Vec<Value>,
    after: &mut Vec<Value>,
) -> std::io::Result<Option<ExitCode>> {
    let (response, error) = (format!("/invocation/{id}/response"), format!("/invocation/{id}/error"));
    let full = |path: &str| format!("{BASE}{path}");
    let failure = br#"{"errorType":"Asked","errorMessage":"it was asked to fail"}"#;
    let mut seen = Vec::new();
    match ask["do"].as_str().unwrap_or_default() {
        "second_response" => {
            post(&response, b"1")?;
            after.push(post(&response, b"2")?.seen());
            after.push(post(&error, failure)?.seen());
            return Ok(None);
        }
        "response_after_error" => {
            post(&error, failure)?;
            after.push(post(&response, b"2")?.seen());
            return Ok(None);
        }
        "strange" => {
            seen.push(post("/invocation/00000000-0000-0000-0000-000000000000/response", b"1")?.seen());
            seen.push(post("/init/error", failure)?.seen());
            seen.push(request("GET", "/2018-06-01/other", "Accept: text/html\r\n", b"")?.seen());
            seen.push(request("DELETE", &full(&response), "", b"")?.seen());
            let mode = "Lambda-Runtime-Function-Response-Mode: sideways\r\n";
            seen.push(request("POST", &full(&response), mode, b"1")?.seen());
            seen.push(json!([request("GET", "/2018-06-01/ping", "", b"")?.status, null]));
            seen.push(request("PUT", "/2020-08-15/logs", "", b"{}")?.seen());
            seen.push(request("PUT", "/2022-07-01/telemetry", "", b"{}")?.seen());
            seen.push(request("POST", "/2020-01-01/extension/register", "", b"{}")?.seen());
            seen.push(request("GET", "/2020-01-01/extension/event/next", "", b"")?.seen());
            seen.push(json!([raw(b"\x16\x03\x01 this is no HTTP\r\n\r\n")?.status, null]));
        }
        "too_large" => {
            let body = vec![b'1'; ask["bytes"].as_u64().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)];
            after.push(post(&response, &body)?.seen());
            after.push(post(&response, b"1")?.seen());
            return Ok(None);
        }
        "no_headers" => {
            after.push(json!([raw(format!("POST {} HTTP/1.0\r\n\r\n", full(&response)).as_bytes())?.status, null]));
            return Ok(None);
        }
        "slow_body" => {
            let mut stream = connect()?;
            let body = b"\"one byte after the other\"";
            write!(stream, "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", full(&response), body.len())?;
            for byte in body {
                stream.write_all(std::slice::from_ref(byte))?;
                stream.flush()?;
                std::thread::yield_now();
            }
            read(stream)?;
            return Ok(None);
        }
        "endless_body" => {
            let mut stream = connect()?;
            write!(stream, "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n\"", full(&response))?;
            // It sends nothing more, and keeps the connection.
            loop {
                std::thread::park();
            }
        }
        "aborted_body" => {
            let mut stream = connect()?;
            write!(stream, "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n\"half", full(&response))?;
            stream.shutdown(Shutdown::Both)?;
            drop(stream);
            // The API may not have heard of the end yet.
            loop {
                let answer = post(&response, br#""whole""#)?;
                if answer.status == 202 {
                    return Ok(None);
                }
                std::thread::yield_now();
            }
        }
        "two_next" => seen.push(json!(next()?.header("lambda-runtime-aws-request-id") == id)),
        "two_waiting" => {
            post(&response, b"1")?;
            // Each waits on a connection of its own until it is given something.
            let wait = |question: u64| -> std::io::Result<()> {
                let invocation = next()?;
                let id = invocation.header("lambda-runtime-aws-request-id");
                post(&format!("/invocation/{id}/response"), question.to_string().as_bytes())?;
                Ok(())
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(|| wait(2));
                let this = wait(1);
                this.and(other.join().unwrap_or(Ok(())))
            })?;
            return Ok(None);
        }
        "streamed" => {
            let head = format!(
                "POST {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Lambda-Runtime-Function-Error-Type\r\n\
                 Lambda-Runtime-Function-Response-Mode: streaming\r\n\
                 Content-Type: application/vnd.awslambda.http-integration-response\r\n\r\n",
                full(&response)
            );
            let chunks = "14\r\n{\"statusCode\": 201 }\r\n8\r\n\0\0\0\0\0\0\0\0\r\n5\r\nhello\r\n0\r\n";
            let end =
                if ask["broken"] == true { "Lambda-Runtime-Function-Error-Type: Half.Way\r\n\r\n" } else { "\r\n" };
            raw([head.as_str(), chunks, end].concat().as_bytes())?;
            return Ok(None);
        }
        // Of several at once, each does its own; the second time that it comes, it answers.
        "together" => {
            let again = ask["marker"].as_str().unwrap_or_default();
            if std::fs::File::create_new(again).is_ok() {
                meet(ask["of"].as_u64().unwrap_or(1));
                match ask["then"].as_str().unwrap_or_default() {
                    "fail" => {
                        post(&error, failure)?;
                        return Ok(None);
                    }
                    "kill" => {
                        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                    }
                    "stay" => loop {
                        std::thread::park();
                    },
                    _ => {}
                }
            }
            seen.push(id.into());
        }
        "fail" => {
            post(&error, ask["body"].to_string().as_bytes())?;
            return Ok(None);
        }
        "exit" => return Ok(Some(ExitCode::SUCCESS)),
        "kill" => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        "hang" => loop {
            std::thread::park();
        },
        "flood" => {
            let end = if ask["one_line"] == true { "x" } else { "\n" };
            let line = format!("{}{end}", "x".repeat(1023));
            let mut stdout = std::io::stdout().lock();
            for _ in 0..ask["kib"].as_u64().unwrap_or(0) {
                stdout.write_all(line.as_bytes())?;
            }
        }
        "environment" => {
            let environment: serde_json::Map<String, Value> =
                std::env::vars().map(|(name, value)| (name, value.into())).collect();
            seen.push(environment.into());
            seen.push(json!(std::env::current_dir()?));
            seen.push(json!(invocation.headers));
        }
        "extension" => {
            // The extension has a connection of its own, which may be the later one.
            let heard = loop {
                match EVENTS.lock().ok().and_then(|mut events| events.pop()) {
                    Some(event) => break event,
                    None => std::thread::yield_now(),
                }
            };
            seen.push(heard);
            seen.push(id.into());
        }
        what @ ("tmp" | "list_tmp") => {
            let names = std::fs::read_dir("/tmp")?.flatten().map(|entry| entry.file_name().display().to_string());
            seen.push(names.collect::<Vec<_>>().into());
            if what == "tmp" {
                std::fs::write("/tmp/mine", b"1")?;
            }
        }
        _ => {}
    }
    post(&response, json!({ "seen": seen, "before": before, "process": std::process::id() }).to_string().as_bytes())?;
    Ok(None)
}
