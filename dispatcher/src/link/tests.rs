//! Real processes: the worker is `dispatcher/examples/link_worker.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, PidfdFlags};
use tokio::sync::mpsc;
use weft_schemas::frame::{InvocationId, Invoke, Start};
use weft_schemas::{Attempt, ErrorInfo, Event, Fence, FunctionName, Key, Outcome};

use super::*;

/// A bound for what must happen soon; never waited out when all is well.
const SOON: Duration = Duration::from_secs(20);
/// Selects what the worker does: `dispatcher/examples/link_worker.rs`.
const MODE: &str = "WEFT_TEST_WORKER";

type Events = mpsc::Receiver<(WorkerId, FromWorker)>;

fn program(mode: &str) -> Program {
    // This program is in `target/PROFILE/deps`; Cargo builds the examples beside that folder with every test.
    let path = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/link_worker");
    assert!(path.exists(), "{} is missing: `cargo build -p weft-dispatcher --examples`", path.display());
    Program {
        path,
        args: Vec::new(),
        env: vec![(MODE.into(), mode.into())],
        cwd: PathBuf::from("/"),
        confinement: Arc::default(),
        lambda: None,
        private_tmp: false,
    }
}

fn start_frame() -> Start {
    Start {
        function: "create-order".parse::<FunctionName>().unwrap(),
        worker: "create-order-7".into(),
        ledger_url: String::new(),
        state_url: String::new(),
        prefix: "weft".into(),
        spans: false,
        max_result_bytes: 1 << 20,
        warm_up_ms: None,
    }
}

fn launch_program(program: Program, init_timeout: Duration) -> (Worker, Events) {
    let (sender, events) = mpsc::channel(16);
    let launch = Launch { id: WorkerId(7), program: Arc::new(program), start: start_frame(), init_timeout };
    (Worker::launch(launch, sender), events)
}

fn launch(mode: &str) -> (Worker, Events) {
    launch_program(program(mode), SOON)
}

async fn next(events: &mut Events) -> FromWorker {
    let (id, said) = tokio::time::timeout(SOON, events.recv()).await.expect("in time").expect("a last event first");
    assert_eq!(id, WorkerId(7));
    said
}

async fn ready(events: &mut Events) -> Vec<String> {
    match next(events).await {
        FromWorker::Ready { registered, .. } => registered.handlers,
        other => panic!("not ready: {other:?}"),
    }
}

/// The ending, which must be the next event and the last.
async fn gone(events: &mut Events) -> Ending {
    match next(events).await {
        FromWorker::Gone(ending) => {
            assert!(events.recv().await.is_none(), "nothing follows the end");
            ending
        }
        other => panic!("not gone: {other:?}"),
    }
}

fn invoke(id: u64, data: &'static [u8]) -> Invoke {
    Invoke {
        id: InvocationId(id),
        handler: "h".into(),
        key: Key::new("k").unwrap(),
        fence: Fence(1),
        epoch: Default::default(),
        attempt: Attempt(1),
        remaining_ms: 1000,
        keep_ms: 1000,
        event: Event {
            id: "1".into(),
            source: "/s".into(),
            kind: "t".into(),
            subject: None,
            time: None,
            datacontenttype: None,
            dataschema: None,
            extensions: Default::default(),
            data: Bytes::from_static(data),
        },
        trace: None,
    }
}

/// Follows a process that is not this one's child.
fn watch(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap()
}

/// Waits until the process has ended.
fn assert_ends(process: &OwnedFd) {
    let mut fds = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1, "the process still runs");
}

#[tokio::test]
async fn an_invocation_comes_back_with_its_outcome_and_a_drain_ends_the_worker_with_0() {
    let (worker, mut events) = launch("echo");
    assert_eq!(ready(&mut events).await, ["h"]);
    assert!(worker.pid().is_some());
    worker.invoke(invoke(1, b"{}"));
    match next(&mut events).await {
        FromWorker::Outcome { id: InvocationId(1), outcome: Outcome::Succeeded { result }, emits, entered_us } => {
            assert_eq!((&result[..], emits.len(), entered_us), (&b"{}"[..], 0, Some(7)));
        }
        other => panic!("no outcome: {other:?}"),
    }
    worker.cancel(InvocationId(2));
    let cancelled = next(&mut events).await;
    assert!(matches!(cancelled, FromWorker::Outcome { id: InvocationId(2), outcome: Outcome::TimedOut, .. }));
    worker.drain();
    let ending = gone(&mut events).await;
    assert_eq!((ending.ready, ending.how), (true, How::Exited(0)));
    assert_eq!(worker.pid(), None);
}

#[tokio::test]
async fn many_invocations_are_all_answered() {
    let (worker, mut events) = launch("echo");
    ready(&mut events).await;
    static LARGE: [u8; 100_000] = [b'x'; 100_000];
    for id in 0..200 {
        worker.invoke(invoke(id, &LARGE));
    }
    for wanted in 0..200 {
        match next(&mut events).await {
            FromWorker::Outcome { id, outcome: Outcome::Succeeded { result }, .. } => {
                assert_eq!((id, result.len()), (InvocationId(wanted), LARGE.len()));
            }
            other => panic!("no outcome: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_invocation_too_large_for_a_frame_fails_and_the_worker_goes_on() {
    static HUGE: [u8; 33 * 1024 * 1024] = [0; 33 * 1024 * 1024];
    let (worker, mut events) = launch("echo");
    ready(&mut events).await;
    worker.invoke(invoke(1, &HUGE));
    worker.invoke(invoke(2, b"1"));
    match next(&mut events).await {
        FromWorker::Outcome {
            id: InvocationId(1), outcome: Outcome::Failed { error: ErrorInfo { kind, .. } }, ..
        } => {
            assert_eq!(kind, "FrameTooLarge");
        }
        other => panic!("no refusal: {other:?}"),
    }
    assert!(matches!(next(&mut events).await, FromWorker::Outcome { id: InvocationId(2), .. }));
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_a_spawn_failure_that_names_it() {
    let missing = Program { path: "/nowhere/orders".into(), ..program("echo") };
    let (worker, mut events) = launch_program(missing, SOON);
    let ending = gone(&mut events).await;
    assert!(matches!(&ending.how, How::SpawnFailed(why) if why.contains("/nowhere/orders")), "{ending}");
    assert!(!ending.ready && worker.pid().is_none());
}

#[tokio::test]
async fn a_worker_sees_its_own_environment_and_three_descriptors_and_its_room_is_removed() {
    // A descriptor without close-on-exec, as a careless library would make it.
    let careless = std::fs::File::open("/dev/zero").unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    let (worker, mut events) = launch("look");
    let seen = ready(&mut events).await;

    let names: Vec<&str> =
        seen.iter().filter_map(|line| line.strip_prefix("env ")).filter_map(|line| line.split('=').next()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["HOME", "TMPDIR", "WEFT_LINK_FD", MODE], "{seen:?}");
    assert!(!seen.iter().any(|line| line.contains("/dev/zero")), "{seen:?}");
    for wanted in ["NoNewPrivs:\t1", "SigBlk:\t0000000000000000", "core Some(0)", "cwd /"] {
        assert!(seen.iter().any(|line| line == wanted), "{wanted} in {seen:?}");
    }
    // 0 and this worker's own copy of it are the link; 1 and 2 pipes; the rest is its look into /proc.
    for line in seen.iter().filter(|line| line.starts_with("fd ")) {
        assert!(["socket:", "pipe:", "/proc/"].iter().any(|kind| line.contains(kind)), "{line}");
    }
    assert_eq!(seen.iter().filter(|line| line.contains("socket:")).count(), 2, "{seen:?}");

    let room = seen.iter().find_map(|line| line.strip_prefix("env TMPDIR=")).map(PathBuf::from).unwrap();
    assert!(room.join("left-behind").exists());
    let mode = std::os::unix::fs::PermissionsExt::mode(&room.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    worker.drain();
    gone(&mut events).await;
    assert!(!room.exists());
}

#[tokio::test]
async fn what_was_written_before_a_death_is_delivered_before_its_end() {
    let (worker, mut events) = launch("answer-and-die");
    ready(&mut events).await;
    // More than the one that it reads: what it leaves unread makes the kernel report a reset.
    for id in 0..50 {
        worker.invoke(invoke(id, b"{}"));
    }
    for wanted in 0..1000 {
        let said = next(&mut events).await;
        assert!(matches!(said, FromWorker::Outcome { id, .. } if id == InvocationId(wanted)), "{wanted}: {said:?}");
    }
    assert_eq!(gone(&mut events).await.how, How::Signalled(9));
}

#[tokio::test]
async fn a_workers_children_die_with_it() {
    let (worker, mut events) = launch("parent");
    let grandchild = watch(ready(&mut events).await[0].parse().unwrap());
    worker.drain();
    assert_eq!(gone(&mut events).await.how, How::Exited(0));
    assert_ends(&grandchild);
}

#[tokio::test]
async fn a_dropped_handle_kills_the_worker_and_its_end_still_comes() {
    let (worker, mut events) = launch("parent");
    let grandchild = watch(ready(&mut events).await[0].parse().unwrap());
    drop(worker);
    assert_eq!(gone(&mut events).await.how, How::Signalled(9));
    assert_ends(&grandchild);
}

#[test]
fn a_worker_dies_with_a_runtime_that_is_dropped() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (worker, process) = runtime.block_on(async {
        let (worker, mut events) = launch("deaf");
        ready(&mut events).await;
        let process = watch(worker.pid().unwrap());
        (worker, process)
    });
    drop(runtime);
    assert_ends(&process);
    drop(worker);
}

#[test]
fn a_worker_dies_with_its_dispatcher_however_that_dies() {
    let Program { path, args, .. } = program("");
    let mut dispatcher = Command::new(path).args(args).env(MODE, "dispatcher").stdout(Stdio::piped()).spawn().unwrap();
    let output = std::io::BufReader::new(dispatcher.stdout.take().unwrap());
    let pid = std::io::BufRead::lines(output)
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("pid ").map(|pid| pid.parse().unwrap()))
        .expect("the worker's id");
    let worker = watch(pid);
    dispatcher.kill().unwrap();
    dispatcher.wait().unwrap();
    assert_ends(&worker);
}

#[tokio::test]
async fn a_frame_of_garbage_or_of_absurd_length_is_a_breach_and_ends_the_worker() {
    for mode in ["garbage", "too-long"] {
        let (_worker, mut events) = launch(mode);
        let ending = gone(&mut events).await;
        assert!(matches!(ending.how, How::Protocol(_)), "{mode}: {ending}");
    }
}

#[tokio::test]
async fn a_worker_that_closes_its_link_and_stays_is_ended() {
    let (_worker, mut events) = launch("closes");
    ready(&mut events).await;
    let ending = gone(&mut events).await;
    assert!(matches!(&ending.how, How::Protocol(why) if why.contains("closed its link")), "{ending}");
}

#[tokio::test]
async fn a_worker_that_is_not_ready_in_time_is_ended() {
    let (_worker, mut events) = launch_program(program("silent"), Duration::from_millis(50));
    let ending = gone(&mut events).await;
    assert_eq!((ending.ready, ending.how), (false, How::InitTimedOut));
}

#[tokio::test]
async fn a_worker_that_cannot_start_says_why_and_its_last_words_are_kept() {
    let (_worker, mut events) = launch("refuses");
    let ending = gone(&mut events).await;
    assert_eq!((ending.ready, &ending.how), (false, &How::StartFailed("no database".into())));
    assert!(ending.stderr_tail.contains("no database"), "{ending:?}");
    assert_eq!(ending.to_string(), "could not start: no database (its last words: nowhere to go)");
}

#[tokio::test]
async fn a_worker_that_ignores_a_drain_is_terminated() {
    let (worker, mut events) = launch("deaf");
    ready(&mut events).await;
    worker.drain_within(Duration::from_millis(10));
    assert_eq!(gone(&mut events).await.how, How::Signalled(15));
}

#[tokio::test]
async fn a_drain_before_the_worker_is_ready_is_not_lost() {
    let (worker, mut events) = launch("echo");
    worker.drain();
    ready(&mut events).await;
    assert_eq!(gone(&mut events).await.how, How::Exited(0));
}

#[tokio::test]
async fn a_kill_is_at_once_and_may_be_repeated() {
    let (worker, mut events) = launch("deaf");
    ready(&mut events).await;
    worker.kill();
    worker.kill();
    assert_eq!(gone(&mut events).await.how, How::Signalled(9));
}

#[tokio::test]
async fn a_probe_gives_the_handlers_or_how_it_ended() {
    assert_eq!(probe(Arc::new(program("echo")), start_frame(), SOON).await.unwrap().handlers, ["h"]);
    let ending = probe(Arc::new(program("refuses")), start_frame(), SOON).await.unwrap_err();
    assert!(matches!(ending.how, How::StartFailed(_)));
}

#[tokio::test]
async fn output_becomes_log_events_that_name_the_function_and_the_worker() {
    let seen = Seen::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::layer::SubscriberExt::with(
        tracing_subscriber::registry(),
        seen.clone(),
    ));
    let (worker, mut events) = launch("talks");
    ready(&mut events).await;
    worker.drain();
    gone(&mut events).await;

    let seen = seen.0.lock().unwrap();
    let find = |what: &str| seen.iter().find(|line| line.contains(what)).cloned().unwrap_or_default();
    for (what, level, stream) in [("plain words", "INFO", "stdout"), ("to stderr", "WARN", "stderr")] {
        let line = find(what);
        let stream = format!("stream=\"{stream}\"");
        for part in [level, "function=create-order ", "worker=\"create-order-7\"", stream.as_str()] {
            assert!(line.contains(part), "{part} in {line:?}");
        }
    }
    let structured = find("structured");
    assert!(structured.starts_with("DEBUG") && structured.contains("left"), "{structured}");
    let floods = seen.iter().filter(|line| line.contains("flood")).count();
    assert!((1..5000).contains(&floods) && find("worker output dropped").contains("lines="), "{floods}");
}

#[tokio::test]
async fn a_worker_of_version_2_is_born_in_its_group_which_goes_with_it() {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let own = confine::cgroup::own(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    // Without a tree of version 2, or the right to write it, there is no such group to be born in.
    let Some(base) = own.v2.map(|base| base.join(format!("weft-test-{:016x}", fastrand::u64(..)))) else { return };
    if std::fs::create_dir(&base).is_err() {
        return;
    }
    let branch = confine::cgroup::Branch { folder: base.clone(), controllers: Vec::new() };
    let tree = confine::cgroup::Tree { v2: Some(branch), ..Default::default() };
    let confinement = Confinement::in_tree(Box::leak(Box::new(tree)));
    let program = Program { confinement: Arc::new(confinement), ..program("parent") };
    let (worker, mut events) = launch_program(program, SOON);
    let child: u32 = ready(&mut events).await[0].parse().unwrap();
    let name = base.file_name().unwrap().to_str().unwrap();
    for pid in [worker.pid().unwrap(), child] {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(groups.lines().any(|line| line.starts_with("0::") && line.contains(name)), "{groups}");
    }
    worker.drain();
    assert_eq!(gone(&mut events).await.how, How::Exited(0));
    // Only an empty folder can be removed: the worker's own group is gone from it.
    std::fs::remove_dir(&base).unwrap();
}

#[tokio::test]
async fn a_worker_that_is_refused_data_has_run_out_of_memory() {
    let limit_bytes = 64 << 20;
    let confinement = Arc::new(Confinement::of_data(limit_bytes));
    let (_worker, mut events) = launch_program(Program { confinement, ..program("hungry") }, SOON);
    ready(&mut events).await;
    let ending = gone(&mut events).await;
    assert_eq!(ending.how, How::OutOfMemory { limit_bytes }, "{ending}");
    assert!(ending.to_string().starts_with("ran out of memory, its limit is 64MiB"), "{ending}");
}

#[tokio::test]
async fn a_step_that_fails_before_the_program_is_named() {
    let nowhere = Program { cwd: PathBuf::from("/nowhere/at/all"), ..program("echo") };
    let (_worker, mut events) = launch_program(nowhere, SOON);
    let ending = gone(&mut events).await;
    let How::SpawnFailed(why) = &ending.how else { panic!("{ending}") };
    assert!(why.contains("failed to enter the manifest's folder") && why.contains("No such file"), "{why}");
}

/// Keeps every event as text.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Seen {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write as _;
        write!(self.0, "{}={value:?} ", field.name()).unwrap();
    }
}
