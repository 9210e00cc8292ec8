//! What a dispatcher costs while nothing happens: the real `weft` program with ten functions, watched from outside.

use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;
use weft_tests::Process;

use crate::child;
use crate::fault::{Fault, Result, ensure};
use crate::machine::{TICKS_PER_SECOND, process_ticks};
use crate::stage::{Servers, own_program};

const FUNCTIONS: usize = 10;
/// From "taking events" until we look: buffers of the start are freed, timers of the start have passed.
const SETTLE: Duration = Duration::from_secs(5);
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
pub struct Idle {
    pub functions: usize,
    pub seconds: f64,
    /// At the end of the watch.
    pub resident_mib: f64,
    /// Of that: pages of its own, without those of the program file and shared libraries.
    pub anonymous_mib: f64,
    /// The highest ever, the start with its probe included.
    pub resident_peak_mib: f64,
    pub threads: u64,
    /// Processor time used in the watch.
    pub cpu_ms: f64,
    /// Share of one core.
    pub cpu_percent: f64,
    /// Voluntary context switches of all threads: each is a thread that waited and was woken.
    pub wakeups_per_second: f64,
    /// Calls of the read and write families.
    pub reads_and_writes_per_second: f64,
    /// The busiest threads.
    pub wakeups_by_thread: Vec<(String, f64)>,
}

pub async fn run(servers: &Servers, seconds: u32) -> Result<Idle> {
    let vhost = servers.rabbit.vhost().await;
    let folder = own_folder()?;
    let manifest = folder.join("weft.toml");
    fs::write(&manifest, manifest_text()?)?;
    eprintln!("idle: building and starting `weft run` with {FUNCTIONS} functions");
    let mut weft = Process::weft("weft")
        .args(["run", "--node", "bench", "--admin", "127.0.0.1:0", "--manifest"])
        .arg(&manifest)
        .env("WEFT_AMQP_URL", &vhost.amqp_url)
        .env("WEFT_LEDGER_URL", servers.postgres.database().await)
        .env("WEFT_STATE_URL", servers.redis.url())
        .folder(&folder)
        .spawn();
    weft.wait_for_line("taking events", START_LIMIT).await;
    let pid = weft.pid().ok_or_else(|| Fault("weft has ended".to_owned()))?.to_string();
    tokio::time::sleep(SETTLE).await;
    let (started, before) = (Instant::now(), Seen::of(&pid)?);
    tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    let (watched, after) = (started.elapsed().as_secs_f64(), Seen::of(&pid)?);
    weft.terminate();
    let exit = weft.wait(STOP_LIMIT).await;
    fs::remove_dir_all(&folder)?;
    ensure(exit.status.success(), || format!("weft ended with {}: {}", exit.status, exit.text()))?;

    let mut by_thread: Vec<(String, f64)> = Vec::new();
    for (thread, name, switches) in &after.switches {
        let earlier =
            before.switches.iter().find(|(other, ..)| other == thread).map_or(0.0, |(.., switches)| *switches);
        by_thread.push((name.clone(), (switches - earlier) / watched));
    }
    by_thread.sort_by(|a, b| b.1.total_cmp(&a.1));
    let cpu_seconds = (after.ticks - before.ticks) / TICKS_PER_SECOND;
    let wakeups_per_second = by_thread.iter().map(|(_, rate)| rate).sum();
    by_thread.truncate(6);
    Ok(Idle {
        functions: FUNCTIONS,
        seconds: watched,
        resident_mib: after.status("VmRSS")? / 1024.0,
        anonymous_mib: after.status("RssAnon")? / 1024.0,
        resident_peak_mib: after.status("VmHWM")? / 1024.0,
        threads: after.switches.len() as u64,
        cpu_ms: cpu_seconds * 1e3,
        cpu_percent: cpu_seconds / watched * 100.0,
        wakeups_per_second,
        reads_and_writes_per_second: (after.calls - before.calls) / watched,
        wakeups_by_thread: by_thread,
    })
}

/// What `/proc` says about a process.
struct Seen {
    status: String,
    ticks: f64,
    calls: f64,
    /// Thread, its name, and its voluntary context switches.
    switches: Vec<(String, String, f64)>,
}

impl Seen {
    fn of(pid: &str) -> Result<Self> {
        let mut switches = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let entry = entry?;
            let status = fs::read_to_string(entry.path().join("status"))?;
            let name = status.lines().next().and_then(|line| line.split_once('\t')).map_or("", |(_, name)| name);
            let thread = entry.file_name().to_string_lossy().into_owned();
            switches.push((thread, name.to_owned(), field(&status, "voluntary_ctxt_switches")?));
        }
        let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
        Ok(Self {
            status: fs::read_to_string(format!("/proc/{pid}/status"))?,
            ticks: process_ticks(pid)?.own,
            calls: field(&io, "syscr")? + field(&io, "syscw")?,
            switches,
        })
    }

    fn status(&self, name: &str) -> Result<f64> {
        field(&self.status, name)
    }
}

/// The number behind `name:` in a file of `/proc`; KiB where there is a unit.
fn field(text: &str, name: &str) -> Result<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Fault(format!("/proc does not tell {name}")))
}

fn manifest_text() -> Result<String> {
    let program = own_program()?;
    let command = serde_json::to_string(&[program.to_string_lossy().as_ref(), child::WORKER])?;
    Ok((0..FUNCTIONS)
        .map(|n| {
            format!(
                "[functions.idle-{n}]\ncommand = {command}\nhandler = \"{}\"\nevents = [\"idle.{n}\"]\n",
                child::NOOP
            )
        })
        .collect())
}

/// A folder of this run's own.
fn own_folder() -> Result<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(format!("weft-bench-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
