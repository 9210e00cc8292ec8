//! `confined`: a handler that tries, within bounds of its own, what its confinement should keep it from, and tells how far
//! it came.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use weft_worker::{Context, Failure};

use crate::LOOK;

/// What it tries.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Try {
    /// Tells what is in force: the limits of its process, of its groups, and who it is.
    Look,
    /// Keeps one thread busy for so long, and tells how much processor time its process has got meanwhile.
    Burn { ms: u64 },
    /// Starts processes one by one until one is refused, `most` at the most, and ends them.
    Processes { most: usize },
    /// Fills this much memory, in steps; before the attempt `from_attempt`.
    Memory { mib: usize, from_attempt: u32 },
    /// Starts processes that each start two more, in a session of their own, `depth` deep; goes on when one was refused.
    Bomb { depth: u32, marker: String },
    /// Writes files of 1 MiB into its temporary folder, this many at most.
    Fill { mib: u32 },
    /// Writes this much to its standard output.
    Flood { mib: u32 },
    /// Writes a file there, and says in how far.
    Write { paths: Vec<PathBuf> },
    /// Opens sockets.
    Connect { to: SocketAddr },
    /// Sends a signal that does nothing.
    Signal { pid: i32 },
}

pub async fn confined(ctx: Context, attempt: Try) -> Result<Value, Failure> {
    match attempt {
        Try::Look => look(),
        Try::Burn { ms } => {
            let (began, before) = (Instant::now(), processor_time()?);
            while began.elapsed() < Duration::from_millis(ms) {
                std::hint::spin_loop();
            }
            let (took, got) = (began.elapsed(), processor_time()?.saturating_sub(before));
            Ok(json!({ "took_us": took.as_micros(), "got_us": got.as_micros() }))
        }
        Try::Processes { most } => Ok(processes(most.min(200))),
        Try::Memory { mib, from_attempt } => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            while ctx.attempt().0 < from_attempt && held.len() < mib {
                held.push(vec![1; 1 << 20]);
            }
            Ok(json!(held.len()))
        }
        Try::Bomb { depth, marker } => bomb(depth, &marker).await,
        Try::Fill { mib } => fill(mib),
        Try::Flood { mib } => {
            let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
            let mut out = std::io::stdout().lock();
            for _ in 0..u64::from(mib) * 1024 {
                out.write_all(&line)?;
            }
            Ok(json!(mib))
        }
        Try::Write { paths } => {
            let attempts = paths.iter().map(|path| (path.display().to_string(), told(std::fs::write(path, "x"))));
            Ok(json!(attempts.collect::<BTreeMap<_, _>>()))
        }
        Try::Connect { to } => Ok(json!({
            "tcp": told(TcpStream::connect_timeout(&to, Duration::from_secs(5))),
            "udp": told(UdpSocket::bind("127.0.0.1:0")),
            "unix": told(UnixStream::pair()),
        })),
        Try::Signal { pid } => {
            let pid =
                rustix::process::Pid::from_raw(pid).ok_or_else(|| Failure::terminal("NoPid", "it is no process"))?;
            Ok(json!(told(rustix::process::test_kill_process(pid).map_err(std::io::Error::from))))
        }
    }
}

/// `ok`, or the kind of the error.
fn told<T>(result: std::io::Result<T>) -> String {
    result.map_or_else(|error| format!("{:?}", error.kind()), |_| "ok".to_owned())
}

/// The folder of its group that a controller of version 1 has it in, or that of version 2.
fn group(controller: &str) -> Option<PathBuf> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path_of = |wanted: &str| {
        groups.lines().find_map(|line| line.split_once(':')?.1.split_once(':').filter(|(names, _)| *names == wanted))
    };
    if let Some((_, path)) = path_of(controller) {
        return Some(Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')));
    }
    path_of("").map(|(_, path)| Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')))
}

fn in_group(controller: &str, files: &[&str]) -> Option<String> {
    let folder = group(controller)?;
    let mut read = files.iter().filter_map(|file| std::fs::read_to_string(folder.join(file)).ok());
    read.next().map(|text| text.trim().to_owned())
}

fn look() -> Result<Value, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let home = std::env::var("HOME").unwrap_or_default();
    let room = std::fs::metadata(&home)?;
    Ok(json!({
        "memory": in_group("memory", &["memory.limit_in_bytes", "memory.max"]),
        "processes": in_group("pids", &["pids.max"]),
        "cpu": in_group("cpu", &["cpu.cfs_quota_us", "cpu.max"]),
        "limits": std::fs::read_to_string("/proc/self/limits")?,
        "uid": field("Uid:"), "gid": field("Gid:"), "groups": field("Groups:"), "capabilities": field("CapEff:"),
        "no_new_privileges": field("NoNewPrivs:"), "filters": field("Seccomp:"),
        "room": home, "room_owner": std::os::unix::fs::MetadataExt::uid(&room),
        "parent": std::os::unix::process::parent_id(),
    }))
}

/// At most `2^(depth + 1)` processes, whatever is in force; each ends by itself after 20 s.
async fn bomb(depth: u32, marker: &str) -> Result<Value, Failure> {
    let limit = in_group("pids", &["pids.max"]);
    // No bomb without a limit that is seen to be in force.
    let Some(most) = limit.as_deref().and_then(|limit| limit.parse::<u32>().ok()).filter(|most| *most <= 64) else {
        return Err(Failure::terminal("NoLimit", format!("pids.max is {limit:?}")));
    };
    let script = "b() { if [ $1 -gt 0 ]; then b $(($1-1)) & b $(($1-1)) & fi; sleep 20; }; b $0";
    let mut first = Command::new("setsid").args(["sh", "-c", script, &depth.min(7).to_string(), marker]).spawn()?;
    let limit = Instant::now() + Duration::from_secs(15);
    loop {
        let events = in_group("pids", &["pids.events"]).unwrap_or_default();
        let refused = events.lines().any(|line| line.strip_prefix("max ").is_some_and(|count| count != "0"));
        if refused || Instant::now() > limit {
            let _ = first.try_wait();
            return Ok(json!({ "refused": refused, "most": most, "now": in_group("pids", &["pids.current"]) }));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What this process has used of processors, all of its threads together.
fn processor_time() -> Result<Duration, Failure> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).map_err(|error| Failure::terminal("NoTime", error.to_string()))
}

fn processes(most: usize) -> Value {
    let mut started = Vec::new();
    let mut refused = None;
    while started.len() < most {
        match Command::new("sleep").arg("20").spawn() {
            Ok(child) => started.push(child),
            Err(error) => {
                refused = Some(format!("{:?}", error.kind()));
                break;
            }
        }
    }
    let count = started.len();
    for mut child in started {
        let _ = child.kill();
        let _ = child.wait();
    }
    json!({ "started": count, "refused": refused })
}

fn fill(mib: u32) -> Result<Value, Failure> {
    let folder = std::env::temp_dir();
    let block = vec![7; 1 << 20];
    for written in 0..mib {
        if let Err(error) = std::fs::write(folder.join(format!("block-{written}")), &block) {
            return Ok(json!({ "written": written, "error": format!("{:?}", error.kind()) }));
        }
    }
    Ok(json!({ "written": mib, "error": null }))
}
