//! A server process of ours: its folder, its log, its signals, and its end.
//!
//! Ends are the point. Every process folder has a *janitor*: a small shell that waits on a pipe which only this process
//! holds. However this process ends (return, panic, abort, kill -9), the pipe closes, and the janitor kills the servers
//! that are left and removes the folder. `PR_SET_PDEATHSIG` would not do: it follows the thread that spawned, and test
//! threads end long before the process.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Error;
use crate::poll::poll_until;

/// Reads until end of file; then asks each listed server to end (the file's content is the signal, its name the process),
/// kills what is still there, and removes the folder. The tests have ended, so its waiting holds nobody up.
const JANITOR: &str = r#"
cat >/dev/null
for f in "$1"/pids/*; do
    [ -e "$f" ] || continue
    p=${f##*/}
    read -r s < "$f"
    kill -s "$s" "$p" 2>/dev/null && kill -s CONT "$p" 2>/dev/null
done
n=0
while [ $n -lt 50 ]; do
    left=0
    for f in "$1"/pids/*; do [ -e "$f" ] && kill -0 "${f##*/}" 2>/dev/null && left=1; done
    [ $left = 1 ] || break
    n=$((n+1)); sleep 0.1
done
for f in "$1"/pids/*; do [ -e "$f" ] && kill -s KILL "${f##*/}" 2>/dev/null; done
rm -rf "$1"
"#;

struct Root {
    path: PathBuf,
    /// Held open for the life of the process; its closing is the janitor's signal.
    _pipe: ChildStdin,
}

/// The folder of everything that this process starts.
fn root() -> Result<&'static Path, Error> {
    static ROOT: OnceLock<Result<Root, String>> = OnceLock::new();
    ROOT.get_or_init(|| make_root().map_err(|error| error.to_string()))
        .as_ref()
        .map(|root| root.path.as_path())
        .map_err(|error| Error::new(error.clone()))
}

fn make_root() -> Result<Root, Error> {
    use std::os::unix::process::CommandExt;
    let path = std::env::temp_dir().join(format!("weft-test-{}-{:08x}", std::process::id(), fastrand::u32(..)));
    fs::create_dir_all(path.join("pids"))
        // Whatever the umask: Postgres runs as another user when root runs the tests.
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
        .map_err(Error::while_doing(format!("making {}", path.display())))?;
    let mut janitor = Command::new("/bin/sh")
        .args(["-c", JANITOR, "janitor"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own: Ctrl-C and a test runner's kill reach the tests, not the one who cleans up after them.
        .process_group(0)
        .spawn()
        .map_err(Error::while_doing("starting the janitor"))?;
    let pipe = janitor.stdin.take().ok_or_else(|| Error::new("the janitor has no pipe"))?;
    Ok(Root { path, _pipe: pipe })
}

/// A new folder of this process's, removed when it ends.
pub(crate) fn folder(name: &str) -> Result<PathBuf, Error> {
    let path = root()?.join(format!("{name}-{:08x}", fastrand::u32(..)));
    fs::create_dir(&path)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o755)))
        .map_err(Error::while_doing(format!("making {}", path.display())))?;
    Ok(path)
}

/// A loopback port that nobody listens on, outside the range that the kernel hands out to outgoing connections: a server
/// that is down for a while must find its port free when it starts again.
pub(crate) fn free_port() -> Result<u16, Error> {
    for _ in 0..200 {
        let port = fastrand::u16(15_000..32_000);
        if TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::new("no free port was found on 127.0.0.1 in 200 tries"))
}

/// One server process that can be killed, paused and started again with the same command, port and data.
pub(crate) struct Instance {
    name: &'static str,
    folder: PathBuf,
    /// Asks the server to end in good order.
    stop_signal: Signal,
    stop_signal_name: &'static str,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    child: Mutex<Option<Child>>,
}

impl Instance {
    pub(crate) fn new(
        name: &'static str,
        folder: PathBuf,
        (stop_signal, stop_signal_name): (Signal, &'static str),
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Self {
        Self { name, folder, stop_signal, stop_signal_name, command: Box::new(command), child: Mutex::new(None) }
    }

    /// Starts the process and returns at once. Refused while one runs.
    pub(crate) fn spawn(&self) -> Result<(), Error> {
        use std::os::unix::process::CommandExt;
        let mut child = self.child();
        // One that has ended by itself may start again.
        if child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            return Err(Error::new(format!("{} runs already", self.name)));
        }
        let doing = || format!("starting {}", self.name);
        let log =
            File::options().create(true).append(true).open(self.log_path()).map_err(Error::while_doing(doing()))?;
        let errors = log.try_clone().map_err(Error::while_doing(doing()))?;
        let started = (self.command)()
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(Error::while_doing(doing()))?;
        File::create(pid_file(started.id())?)
            .and_then(|mut file| writeln!(file, "{}", self.stop_signal_name))
            .map_err(Error::while_doing(doing()))?;
        *child = Some(started);
        Ok(())
    }

    /// Waits until `ready` says so; the failure carries the end of the server's log.
    pub(crate) async fn wait_ready<F>(&self, limit: Duration, mut ready: impl FnMut() -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), String>>,
    {
        let answer = poll_until(Duration::from_millis(25), limit, || {
            let exited = self.try_wait();
            let ready = ready();
            async move {
                match exited {
                    Some(status) => Ok(Err(format!("it ended with {status}"))),
                    None => ready.await.map(Ok),
                }
            }
        })
        .await;
        let fault = match answer {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(ended)) => ended,
            Err(last) => format!("it was not ready after {limit:?}; last answer: {last}"),
        };
        Err(Error::new(format!("{} did not start: {fault}\n{}", self.name, self.log_tail())))
    }

    fn try_wait(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    pub(crate) fn is_running(&self) -> bool {
        let mut child = self.child();
        child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL to the process and all its descendants, and the wait for its end. Nothing to do when none runs.
    pub(crate) fn kill(&self) {
        let Some(mut child) = self.child().take() else { return };
        // Stopped first, so that it cannot fork while its children are being counted.
        signal_tree(child.id(), Signal::STOP);
        let tree = signal_tree(child.id(), Signal::KILL);
        let _ = child.kill();
        let _ = child.wait();
        // Postgres refuses to start while a backend of its predecessor is attached to the shared memory.
        let end = Instant::now() + Duration::from_secs(5);
        while tree.iter().any(|pid| is_alive(*pid)) && Instant::now() < end {
            #[expect(
                clippy::disallowed_methods,
                reason = "a kill takes a millisecond or two, and must also work in drop"
            )]
            std::thread::sleep(Duration::from_millis(1));
        }
        forget(child.id());
    }

    /// Asks the process to end in good order, and kills it if it has not after a minute.
    pub(crate) async fn stop(&self) -> Result<(), Error> {
        if let Some(pid) = self.child().as_ref().map(Child::id) {
            signal(pid, self.stop_signal);
        }
        let ended = poll_until(Duration::from_millis(20), Duration::from_secs(60), || {
            let running = self.is_running();
            async move { if running { Err("still running") } else { Ok(()) } }
        })
        .await;
        self.kill();
        ended.map_err(|_| Error::new(format!("{} did not stop within a minute and was killed", self.name)))
    }

    /// SIGSTOP to the whole tree: connections stay open and nothing answers.
    pub(crate) fn pause(&self) {
        if let Some(pid) = self.child().as_ref().map(Child::id) {
            signal_tree(pid, Signal::STOP);
        }
    }

    /// SIGCONT to the whole tree.
    pub(crate) fn resume(&self) {
        if let Some(pid) = self.child().as_ref().map(Child::id) {
            signal_tree(pid, Signal::CONT);
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("output.log")
    }

    fn log_tail(&self) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn pid_file(pid: u32) -> Result<PathBuf, Error> {
    Ok(root()?.join("pids").join(pid.to_string()))
}

fn forget(pid: u32) {
    if let Ok(file) = pid_file(pid) {
        let _ = fs::remove_file(file);
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Signals a process and its descendants, parents first, and returns them all. Process groups would miss Postgres'
/// children, which each make a session of their own.
pub(crate) fn signal_tree(pid: u32, what: Signal) -> Vec<u32> {
    if what == Signal::STOP {
        // Before its children are counted: what is stopped cannot fork. Any other signal comes after the count, as the
        // children of a process that has ended are nobody's.
        signal(pid, what);
    }
    let parents = parents();
    let mut tree = vec![pid];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, its_parent)| *its_parent == parent).map(|(child, _)| child));
        next += 1;
    }
    for &pid in &tree {
        signal(pid, what);
    }
    tree
}

/// Whether a process still holds what it held: a zombie does not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !matches!(fields.trim_start().chars().next(), Some('Z' | 'X')))
}

/// (process, its parent) of every process that can be seen.
fn parents() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name in brackets may hold anything, so fields are counted from its end.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}
