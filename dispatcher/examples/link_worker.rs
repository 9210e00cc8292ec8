//! The worker that the link's tests start, without the worker library: what it does is chosen by a variable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::sync::mpsc;
use weft_dispatcher::link::{FromWorker, Launch, Program, Worker, WorkerId};
use weft_schemas::frame::{InvocationId, Start, ToDispatcher, ToWorker, decode, encode};
use weft_schemas::{FunctionName, Outcome};

/// Selects what it does.
const MODE: &str = "WEFT_TEST_WORKER";

fn main() {
    let Ok(mode) = std::env::var(MODE) else {
        eprintln!("this is a worker for the link's tests, which start it");
        std::process::exit(2);
    };
    if mode == "dispatcher" {
        return be_a_dispatcher();
    }
    // Descriptor 0 is the link; a copy of it serves.
    let link = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut link = Far(link);
    let ready = || ToDispatcher::Ready { handlers: vec!["h".into()], batch_handlers: Vec::new() };
    let Some(ToWorker::Start(_)) = link.receive() else { std::process::exit(90) };
    match mode.as_str() {
        "echo" => {
            link.send(&ready());
            loop {
                match link.receive() {
                    Some(ToWorker::Invoke(invoke)) => link.send(&done(invoke.id, invoke.event.data)),
                    Some(ToWorker::Drain) => std::process::exit(0),
                    Some(ToWorker::Cancel { id }) => link.send(&ToDispatcher::Outcome {
                        id,
                        outcome: Outcome::TimedOut,
                        emits: Vec::new(),
                        entered_us: None,
                    }),
                    Some(ToWorker::Start(_) | ToWorker::InvokeBatch { .. }) | None => std::process::exit(91),
                }
            }
        }
        // Tells what it can see of its own process as the handlers' names.
        "look" => {
            let mut seen: Vec<String> = std::env::vars().map(|(name, value)| format!("env {name}={value}")).collect();
            for fd in std::fs::read_dir("/proc/self/fd").unwrap() {
                let fd = fd.unwrap();
                let target = std::fs::read_link(fd.path()).unwrap();
                seen.push(format!("fd {} {}", fd.file_name().display(), target.display()));
            }
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let wanted = |line: &&str| line.starts_with("NoNewPrivs") || line.starts_with("SigBlk");
            seen.extend(status.lines().filter(wanted).map(str::to_owned));
            seen.push(format!("core {:?}", rustix::process::getrlimit(rustix::process::Resource::Core).maximum));
            seen.push(format!("cwd {}", std::env::current_dir().unwrap().display()));
            std::fs::write(std::env::temp_dir().join("left-behind"), "x").unwrap();
            link.send(&ToDispatcher::Ready { handlers: seen, batch_handlers: Vec::new() });
            link.wait_for_drain();
        }
        // Answers, then dies with what it was sent unread.
        "answer-and-die" => {
            link.send(&ready());
            let Some(ToWorker::Invoke(invoke)) = link.receive() else { std::process::exit(92) };
            for number in 0..1000 {
                link.send(&done(InvocationId(number), invoke.event.data.clone()));
            }
            link.0.write_all(&[0, 0, 1, 0, 7]).unwrap();
            rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
        }
        // Has a child of its own, and says which.
        "parent" => {
            #[expect(clippy::zombie_processes, reason = "whether it dies unasked is what is tested")]
            let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
            link.send(&ToDispatcher::Ready { handlers: vec![child.id().to_string()], batch_handlers: Vec::new() });
            link.wait_for_drain();
        }
        "garbage" => {
            link.0.write_all(&[0, 0, 0, 2, 0xc1, 0xc1]).unwrap();
            std::thread::park();
        }
        "too-long" => {
            link.0.write_all(&[0xff; 4]).unwrap();
            std::thread::park();
        }
        "closes" => {
            link.send(&ready());
            link.0.shutdown(std::net::Shutdown::Both).unwrap();
            loop {
                std::thread::park();
            }
        }
        "refuses" => {
            eprintln!("no database\nnowhere to go");
            link.send(&ToDispatcher::StartFailed { message: "no database".into() });
            std::process::exit(3);
        }
        "silent" => loop {
            std::thread::park();
        },
        // Does not obey a drain, and notes that SIGTERM ends it.
        "deaf" => {
            link.send(&ready());
            loop {
                std::thread::park();
            }
        }
        // Takes memory until it is refused, 1 GiB at most.
        "hungry" => {
            link.send(&ready());
            let mut held: Vec<Vec<u8>> = Vec::new();
            while held.len() < 1024 {
                held.push(vec![1; 1 << 20]);
            }
            link.wait_for_drain();
        }
        "talks" => {
            println!("plain words");
            eprintln!("to stderr");
            println!(r#"{{"level":"DEBUG","fields":{{"message":"structured","left":3}}}}"#);
            for _ in 0..5000 {
                println!("flood");
            }
            link.send(&ready());
            link.wait_for_drain();
        }
        other => panic!("no such mode: {other}"),
    }
}

fn done(id: InvocationId, result: Bytes) -> ToDispatcher {
    ToDispatcher::Outcome { id, outcome: Outcome::Succeeded { result }, emits: Vec::new(), entered_us: Some(7) }
}

/// A worker's end of the link, blocking.
struct Far(UnixStream);

impl Far {
    fn send(&mut self, frame: &ToDispatcher) {
        let body = encode(frame).unwrap();
        let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(body);
        self.0.write_all(&bytes).unwrap();
    }

    fn receive(&mut self) -> Option<ToWorker> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head).ok()?;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(head)).unwrap()];
        self.0.read_exact(&mut body).ok()?;
        decode(&body).ok()
    }

    fn wait_for_drain(&mut self) {
        while let Some(frame) = self.receive() {
            if frame == ToWorker::Drain {
                std::process::exit(0);
            }
        }
        std::process::exit(93);
    }
}

/// Launches a worker that ignores the loss of its link, prints its id, and stays until it is killed.
fn be_a_dispatcher() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let program = Program {
            path: std::env::current_exe().unwrap(),
            args: Vec::new(),
            env: vec![(MODE.into(), "deaf".into())],
            cwd: PathBuf::from("/"),
            confinement: Arc::default(),
            lambda: None,
            private_tmp: false,
        };
        let start = Start {
            function: "create-order".parse::<FunctionName>().unwrap(),
            worker: "create-order-7".into(),
            ledger_url: String::new(),
            state_url: String::new(),
            prefix: "weft".into(),
            spans: false,
            max_result_bytes: 1 << 20,
            warm_up_ms: None,
        };
        let (sender, mut events) = mpsc::channel(16);
        let init_timeout = Duration::from_secs(20);
        let worker =
            Worker::launch(Launch { id: WorkerId(7), program: Arc::new(program), start, init_timeout }, sender);
        assert!(matches!(events.recv().await, Some((_, FromWorker::Ready { .. }))));
        println!("\npid {}", worker.pid().unwrap());
        std::future::pending::<()>().await;
    });
}
