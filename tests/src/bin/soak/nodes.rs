//! The two dispatchers, each under a supervisor that starts it again at once, whatever ended it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use crate::stand::Stand;

/// Longer than any run: only its end ends a dispatcher's wait.
const FOREVER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between two starts of a dispatcher that ends by itself at once, as when a server is away.
const AGAIN: Duration = Duration::from_secs(1);

/// How a dispatcher ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The number of its start, from 0.
    pub start: usize,
    pub status: ExitStatus,
    /// Its last lines, for the report.
    pub last: Vec<String>,
}

impl Ended {
    /// A panic's status, or a signal that we never send: a fault of the dispatcher's.
    pub fn is_a_fault(&self) -> bool {
        match self.status.signal() {
            Some(signal) => ![Signal::KILL.as_raw(), Signal::TERM.as_raw()].contains(&signal),
            None => self.status.code() == Some(101),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    pid: Option<u32>,
    /// Traps for the next start: the dispatcher's and its workers'.
    traps: (String, String),
    ended: Vec<Ended>,
    starts: usize,
}

/// A supervised dispatcher.
pub struct Node {
    pub name: &'static str,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    supervisor: JoinHandle<()>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub fn start(stand: Arc<Stand>, name: &'static str) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let supervisor = tokio::spawn(supervise(stand, name, state.clone(), stop.clone()));
        Self { name, state, stop, supervisor }
    }

    /// The dispatcher's process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.state).pid
    }

    /// Sets traps for the next start of the dispatcher and of its workers.
    pub fn trap(&self, dispatcher: String, workers: String) {
        lock(&self.state).traps = (dispatcher, workers);
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        lock(&self.state).starts
    }

    /// Every end so far.
    pub fn ended(&self) -> Vec<Ended> {
        lock(&self.state).ended.clone()
    }

    /// Asks the dispatcher to end and starts it no more; returns how it ended last, or `None` if it has not within
    /// `limit` (it is killed then).
    pub async fn finish(self, limit: Duration) -> (Vec<Ended>, Option<ExitStatus>) {
        self.stop.store(true, Ordering::Relaxed);
        let done = tokio::time::timeout(limit, async {
            let mut supervisor = self.supervisor;
            loop {
                // Again and again: it may be just being started.
                if let Some(pid) = lock(&self.state).pid {
                    signal(pid, Signal::TERM);
                }
                if tokio::time::timeout(Duration::from_secs(1), &mut supervisor).await.is_ok() {
                    break;
                }
            }
        })
        .await;
        let ended = lock(&self.state).ended.clone();
        let last = done.is_ok().then(|| ended.last().map(|end| end.status)).flatten();
        if let Some(pid) = lock(&self.state).pid {
            signal(pid, Signal::KILL);
        }
        (ended, last)
    }
}

async fn supervise(stand: Arc<Stand>, node: &'static str, state: Arc<Mutex<State>>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let ((trap, workers), start) = {
            let mut state = lock(&state);
            let start = state.starts;
            state.starts += 1;
            (std::mem::take(&mut state.traps), start)
        };
        let process = stand.dispatcher(node, &trap, &workers).spawn();
        lock(&state).pid = process.pid();
        let exit = process.wait(FOREVER).await;
        let _ = std::fs::write(stand.folder.join("logs").join(format!("{node}.{start:03}.log")), exit.text());
        let last = exit.lines.iter().rev().take(5).rev().cloned().collect();
        let by_itself = exit.status.code().is_some();
        {
            let mut state = lock(&state);
            state.pid = None;
            state.ended.push(Ended { start, status: exit.status, last });
        }
        if by_itself && !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Sends a signal; a process that is gone is none of our business.
pub fn signal(pid: u32, what: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, what);
    }
}

/// The workers of a dispatcher: its child processes that live.
pub fn workers(dispatcher: u32) -> Vec<u32> {
    let mut found: Vec<u32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name in brackets may hold anything, so fields are counted from its end.
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let lives = !matches!(fields.next()?, "Z" | "X");
            (lives && fields.next()?.parse() == Ok(dispatcher)).then_some(pid)
        })
        .collect();
    found.sort_unstable();
    found
}
