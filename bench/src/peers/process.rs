//! A program of a peer, with its children: heard through a file, and gone with its guard.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::fault::{Fault, Result, ensure};

/// The end of a log that a fault quotes, in bytes.
const QUOTED: usize = 400;
/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct Line {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub folder: PathBuf,
    pub env: Vec<(&'static str, OsString)>,
}

impl Line {
    pub fn new(program: impl Into<PathBuf>, folder: &Path) -> Self {
        Self { program: program.into(), args: Vec::new(), folder: folder.to_owned(), env: Vec::new() }
    }

    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Starts it in a process group of its own; both of its outputs go to `log`.
    pub fn start(&self, log: &Path) -> Result<Group> {
        let output = File::options().create(true).append(true).open(log)?;
        // Tells the program when this one is killed; the group's guard sees to every other end.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(&self.program);
        command.args(&self.args).current_dir(&self.folder).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn().map_err(|error| Fault(format!("start {}: {error}", self.program.display())))?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Group { child, leader, log: log.to_owned() })
    }

    /// Runs it to its end, which must be a good one, and answers what it wrote.
    pub async fn run(&self, log: &Path, limit: Duration) -> Result<String> {
        let from = fs::metadata(log).map_or(0, |known| usize::try_from(known.len()).unwrap_or(0));
        let mut group = self.start(log)?;
        let status = tokio::time::timeout(limit, group.child.wait()).await;
        let said = fs::read(log).unwrap_or_default();
        let said = String::from_utf8_lossy(said.get(from..).unwrap_or_default()).into_owned();
        match status {
            Ok(status) => {
                let status = status?;
                ensure(status.success(), || {
                    format!("{} ended with {status}: {}", self.program.display(), ends_of(&said))
                })?;
                Ok(said)
            }
            Err(_) => Err(Fault(format!("{} has not ended after {limit:?}", self.program.display()))),
        }
    }
}

/// A program that runs. Dropping it kills it and what it started.
pub struct Group {
    child: Child,
    leader: Option<Pid>,
    log: PathBuf,
}

impl Group {
    /// Fails when it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(Fault(format!("a worker ended with {status}: {}", self.words()))),
        }
    }

    /// The end of what it has written.
    pub fn words(&self) -> String {
        end_of(&String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()))
    }

    /// SIGTERM, and the wait for its end; what is left is killed.
    pub async fn stop(mut self) {
        self.signal(Signal::TERM);
        let _ = tokio::time::timeout(GRACE, self.child.wait()).await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // Fails when nobody is left.
            let _ = kill_process_group(leader, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The beginning and the end, one of which has the reason.
fn ends_of(text: &str) -> String {
    let first: Vec<&str> = text.lines().take(3).collect();
    if text.lines().count() <= 6 { end_of(text) } else { format!("{} … {}", first.join(" · "), end_of(text)) }
}

fn end_of(text: &str) -> String {
    let text = text.trim();
    let from = (text.len().saturating_sub(QUOTED)..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(from..).unwrap_or_default().replace('\n', " · ")
}
