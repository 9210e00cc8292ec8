//! The worker as a process of its own: what it does with its descriptors, its parent and its exit status.
//!
//! The child is this very test program, told by its environment to be a worker.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use weft_schemas::frame::{self, InvocationId, Invoke, Start, ToDispatcher, ToWorker};
use weft_schemas::{Attempt, Epoch, Event, Fence, FunctionName, Key, Outcome};
use weft_worker::{Context, Failure, Worker};

const PATIENCE: Duration = Duration::from_secs(20);
const ROLE: &str = "WEFT_TEST_ROLE";

async fn look(_: Context, (): ()) -> Result<(String, Vec<String>), Failure> {
    let target = |path: &str| std::fs::read_link(path).map(|target| target.display().to_string());
    let mut inherited = Vec::new();
    // A child of the handler shows which descriptors are handed on.
    let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output()?;
    for line in String::from_utf8_lossy(&listing.stdout).lines().filter(|line| line.contains("socket:")) {
        inherited.push(line.to_owned());
    }
    Ok((target("/proc/self/fd/0")?, inherited))
}

async fn hang(_: Context, (): ()) -> Result<(), Failure> {
    // Blocks its thread, as badly as a handler can.
    loop {
        std::thread::park();
    }
}

async fn explode(_: Context, (): ()) -> Result<(), Failure> {
    panic!("boom")
}

/// No test by itself: what the children of the tests below run.
#[test]
fn child() {
    let worker = || Worker::new().handler("look", look).handler("hang", hang).handler("explode", explode);
    let code = match std::env::var(ROLE).as_deref() {
        Ok("worker") => worker().run(),
        Ok("duplicate") => worker().handler("look", look).run(),
        _ => return,
    };
    // `ExitCode` cannot be read; its `exit_process` is not stable. Compare with what it may be.
    let code = [0u8, 1, 2].into_iter().find(|n| std::process::ExitCode::from(*n) == code).unwrap();
    std::process::exit(code.into());
}

fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env(ROLE, role).env_remove("WEFT_LINK_FD");
    command.env_remove("RUST_LOG").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A worker process and the other end of its link.
struct Process {
    child: Child,
    link: UnixStream,
}

impl Process {
    fn start(role: &str) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = command(role).env("WEFT_LINK_FD", "0").stdin(OwnedFd::from(theirs)).spawn().unwrap();
        Self { child, link: ours }
    }

    /// Starts one and waits until it is ready.
    fn ready(spans: bool) -> Self {
        let mut this = Self::start("worker");
        this.send(&ToWorker::Start(Start {
            function: FunctionName::new("look").unwrap(),
            worker: "look-1".to_owned(),
            ledger_url: "sqlite:///nowhere".to_owned(),
            state_url: "redis://127.0.0.1:1".to_owned(),
            prefix: "weft".to_owned(),
            spans,
            max_result_bytes: 1 << 20,
            warm_up_ms: None,
        }));
        assert!(matches!(this.receive(), ToDispatcher::Ready { handlers, .. } if handlers.len() == 3));
        this
    }

    fn send(&mut self, frame: &ToWorker) {
        let body = frame::encode(frame).unwrap();
        self.link.write_all(&u32::try_from(body.len()).unwrap().to_be_bytes()).unwrap();
        self.link.write_all(&body).unwrap();
    }

    fn receive(&mut self) -> ToDispatcher {
        let mut length = [0; 4];
        self.link.read_exact(&mut length).expect("the worker says nothing");
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.link.read_exact(&mut body).unwrap();
        frame::decode(&body).unwrap()
    }

    fn invoke(&mut self, handler: &str) {
        self.send(&ToWorker::Invoke(Box::new(Invoke {
            id: InvocationId(1),
            handler: handler.to_owned(),
            key: Key::new("order-1").unwrap(),
            fence: Fence(1),
            epoch: Epoch(0),
            attempt: Attempt(1),
            remaining_ms: 60_000,
            keep_ms: 60_000,
            event: Event {
                id: "1".to_owned(),
                source: "/test".to_owned(),
                kind: "test".to_owned(),
                subject: None,
                time: None,
                datacontenttype: None,
                dataschema: None,
                extensions: Default::default(),
                data: Default::default(),
            },
            trace: Some(weft_schemas::TraceContext {
                traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
                tracestate: None,
            }),
        })));
    }

    fn wait(mut self) -> (ExitStatus, String, String) {
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap(), out, err)
    }
}

#[test]
fn started_by_hand_it_says_so_and_lists_its_handlers() {
    let Output { status, stderr, .. } = command("worker").output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("weft dev") && text.contains("\n  explode\n  hang\n  look"), "{text}");
}

#[test]
fn a_link_that_is_no_socket_is_refused() {
    let output = command("worker").env("WEFT_LINK_FD", "0").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("failed to take over the link"));
}

#[test]
fn a_duplicate_handler_name_ends_the_program_with_a_message() {
    let mut process = Process::start("duplicate");
    assert!(matches!(process.receive(), ToDispatcher::StartFailed { message } if message.contains("\"look\"")));
    let (status, _, err) = process.wait();
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("registered more than once: \"look\""), "{err}");
}

#[test]
fn standard_input_is_empty_and_no_child_inherits_the_link() {
    let mut process = Process::ready(false);
    process.invoke("look");
    let ToDispatcher::Outcome { outcome: Outcome::Succeeded { result }, .. } = process.receive() else {
        panic!("no success")
    };
    let (stdin, inherited): (String, Vec<String>) = serde_json::from_slice(&result).unwrap();
    assert_eq!(stdin, "/dev/null");
    assert!(inherited.is_empty(), "{inherited:?}");
    process.send(&ToWorker::Drain);
    assert_eq!(process.wait().0.code(), Some(0));
}

#[test]
fn spans_come_over_the_link_before_a_drained_worker_ends() {
    let mut process = Process::ready(true);
    process.invoke("look");
    assert!(matches!(process.receive(), ToDispatcher::Outcome { .. }));
    process.send(&ToWorker::Drain);
    let ToDispatcher::Spans(spans) = process.receive() else { panic!("no spans") };
    let trace = [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];
    assert!(spans.windows(16).any(|window| window == trace), "the span is not in the event's trace");
    assert_eq!(process.wait().0.code(), Some(0));
}

#[test]
fn a_panic_is_one_log_line_that_says_which_invocation() {
    let mut process = Process::ready(false);
    process.invoke("explode");
    assert!(matches!(process.receive(), ToDispatcher::Outcome { outcome: Outcome::Retry { .. }, .. }));
    process.send(&ToWorker::Drain);
    let (status, out, err) = process.wait();
    assert_eq!(status.code(), Some(0));
    let lines: Vec<_> = out.lines().filter(|line| line.contains("boom")).collect();
    let [line] = lines[..] else { panic!("{out}") };
    // The test program's own words may stand in front.
    let line: serde_json::Value = serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap();
    assert_eq!(line["message"], "handler panicked");
    assert_eq!(line["fields"]["key"], "order-1", "{line}");
    assert_eq!(line["fields"]["function"], "look", "{line}");
    assert!(!err.contains("boom"), "{err}");
}

#[test]
fn an_end_of_the_link_ends_the_process_even_with_a_handler_that_blocks() {
    let mut process = Process::ready(false);
    process.invoke("hang");
    drop(std::mem::replace(&mut process.link, UnixStream::pair().unwrap().0));
    let began = Instant::now();
    let (status, ..) = process.wait();
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
