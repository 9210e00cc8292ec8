//! One worker's control group: its limits, the way into it, what happened in it, and its end.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};

use super::cgroup::{Controller, Tree, Version};

/// What a worker may use; `None`: any amount.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Share {
    pub(crate) memory_bytes: Option<u64>,
    /// Processes and threads.
    pub(crate) processes: Option<u32>,
    /// Cores.
    pub(crate) cpu: Option<f64>,
}

impl Share {
    const fn limits(&self, controller: Controller) -> bool {
        match controller {
            Controller::Memory => self.memory_bytes.is_some(),
            Controller::Pids => self.processes.is_some(),
            Controller::Cpu => self.cpu.is_some(),
        }
    }
}

/// How often a CPU share is counted anew, in microseconds: the kernel's own default.
const PERIOD_US: u32 = 100_000;

/// A file of a group, what to write there, and whether the group is of no use without it.
type Setting = (&'static str, String, bool);

/// What to write for a controller's limit, in this order.
fn settings(version: Version, controller: Controller, share: &Share) -> Vec<Setting> {
    let must = |file, value: String| (file, value, true);
    let may = |file, value: &str| (file, value.to_owned(), false);
    match (controller, version) {
        (Controller::Memory, Version::Two) => share.memory_bytes.map_or_else(Vec::new, |bytes| {
            // A worker with a process missing is of no use: all of it goes.
            vec![must("memory.max", bytes.to_string()), may("memory.swap.max", "0"), may("memory.oom.group", "1")]
        }),
        (Controller::Memory, Version::One) => share.memory_bytes.map_or_else(Vec::new, |bytes| {
            let bytes = bytes.to_string();
            // Memory and swap together; there only where swap is counted. Never below the first.
            vec![must("memory.limit_in_bytes", bytes.clone()), may("memory.memsw.limit_in_bytes", &bytes)]
        }),
        (Controller::Pids, _) => share.processes.map_or_else(Vec::new, |most| vec![must("pids.max", most.to_string())]),
        (Controller::Cpu, version) => share.cpu.map_or_else(Vec::new, |cores| {
            // 1,000 µs are the least that the kernel takes.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of cores, of µs; saturates"
            )]
            let quota = ((cores * f64::from(PERIOD_US)) as u64).max(1_000);
            match version {
                Version::Two => vec![must("cpu.max", format!("{quota} {PERIOD_US}"))],
                Version::One => {
                    vec![must("cpu.cfs_period_us", PERIOD_US.to_string()), must("cpu.cfs_quota_us", quota.to_string())]
                }
            }
        }),
    }
}

/// Names groups within one dispatcher's process.
static LAST: AtomicU64 = AtomicU64::new(0);

/// How long a group may take to become empty once everything in it was killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(2);

/// A worker's group; in version 1 one in each tree. Dropped, it is removed if it is empty.
#[derive(Debug)]
pub(crate) struct Group {
    folders: Vec<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    version: Version,
    controllers: Vec<Controller>,
}

/// The way into a group for a process that is being made. Descriptors that are closed at its exec.
#[derive(Debug, Default)]
pub(crate) struct Entrance {
    /// For the making of a process: it is born in this group.
    pub(crate) born_in: Option<OwnedFd>,
    /// For a process of one thread: it enters by writing `0` to each.
    pub(crate) write_zero: Vec<OwnedFd>,
}

impl Group {
    /// Makes a group and sets its limits. What the tree cannot limit is left out. Blocks; a few system calls.
    ///
    /// # Errors
    /// A folder could not be made, or a limit was refused. Nothing is left then.
    pub(crate) fn make(tree: &Tree, share: &Share) -> io::Result<Self> {
        let name = format!("worker-{}", LAST.fetch_add(1, Ordering::Relaxed));
        let mut group = Self { folders: Vec::new() };
        let v2 = tree.v2.iter().map(|branch| (&branch.folder, Version::Two, branch.controllers.clone()));
        let v1 = tree.v1.iter().filter(|(controller, _)| share.limits(**controller));
        let v1 = v1.map(|(controller, folder)| (folder, Version::One, vec![*controller]));
        for (parent, version, controllers) in v2.chain(v1) {
            let path = parent.join(&name);
            make_in(parent, &path)?;
            let folder = Folder { path, version, controllers };
            let set = folder.limit(share);
            // Before the error is looked at, so that it is removed as well.
            group.folders.push(folder);
            set?;
        }
        Ok(group)
    }

    /// # Errors
    /// The group has been removed, or no descriptor is left.
    pub(crate) fn entrance(&self) -> io::Result<Entrance> {
        let mut entrance = Entrance::default();
        for folder in &self.folders {
            match folder.version {
                Version::Two => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    entrance.born_in = Some(rustix::fs::open(&folder.path, flags, Mode::empty())?);
                }
                // To `tasks` and not `cgroup.procs`: a thread that moves itself waits for nobody.
                Version::One => entrance.write_zero.push(open_to_write(&folder.path.join("tasks"))?),
            }
        }
        Ok(entrance)
    }

    /// The other way in, for a kernel that lets nobody be born in a group. Waits for a grace period of the kernel.
    pub(crate) fn entrance_by_writing(&self) -> io::Result<Vec<OwnedFd>> {
        let file = |folder: &Folder| match folder.version {
            Version::Two => folder.path.join("cgroup.procs"),
            Version::One => folder.path.join("tasks"),
        };
        self.folders.iter().map(|folder| open_to_write(&file(folder))).collect()
    }

    /// How many of its processes were killed because it was over its limit of memory.
    pub(crate) fn out_of_memory(&self) -> u64 {
        self.count(Controller::Memory, |version| match version {
            Version::Two => ("memory.events", "oom_kill"),
            Version::One => ("memory.oom_control", "oom_kill"),
        })
    }

    /// How often a new process or thread was refused because it was at its limit.
    pub(crate) fn out_of_processes(&self) -> u64 {
        self.count(Controller::Pids, |_| ("pids.events", "max"))
    }

    /// A number that the kernel counts; 0 if it does not.
    fn count(&self, controller: Controller, file: impl Fn(Version) -> (&'static str, &'static str)) -> u64 {
        let folder = self.folders.iter().find(|folder| folder.controllers.contains(&controller));
        folder.map_or(0, |folder| {
            let (file, name) = file(folder.version);
            number_of(&fs::read_to_string(folder.path.join(file)).unwrap_or_default(), name)
        })
    }

    /// Kills whatever is in it, also what left the worker's process group, and removes it.
    pub(crate) async fn end(mut self) {
        let limit = tokio::time::Instant::now() + EMPTY_WITHIN;
        loop {
            self.folders.retain(|folder| match fs::remove_dir(&folder.path) {
                Ok(()) => false,
                Err(error) => error.kind() != io::ErrorKind::NotFound,
            });
            if self.folders.is_empty() || tokio::time::Instant::now() >= limit {
                break;
            }
            self.folders.iter().for_each(Folder::kill);
            tokio::time::sleep(LOOK).await;
        }
        if let Some(folder) = self.folders.first() {
            tracing::warn!(group = %folder.path.display(), "a worker's control group is not empty, left behind");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            let _ = fs::remove_dir(&folder.path);
        }
    }
}

impl Folder {
    fn limit(&self, share: &Share) -> io::Result<()> {
        for controller in &self.controllers {
            for (file, value, must) in settings(self.version, *controller, share) {
                match fs::write(self.path.join(file), &value) {
                    Err(error) if must => {
                        let text = format!("set {file} to {value}: {error}");
                        return Err(io::Error::new(error.kind(), text));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Kills every process in it. First nothing may fork, so that none gets away between the list and the kill.
    fn kill(&self) {
        if self.controllers.contains(&Controller::Pids) {
            let _ = fs::write(self.path.join("pids.max"), "0");
        }
        if self.version == Version::Two && fs::write(self.path.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        let listed = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for pid in listed.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Makes a group's folder, and its parent if a dispatcher of this process that has ended took that along.
fn make_in(parent: &Path, path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir(parent)?;
            fs::create_dir(path)
        }
        made => made,
    }
}

fn open_to_write(path: &Path) -> io::Result<OwnedFd> {
    File::options().write(true).open(path).map(OwnedFd::from)
}

/// The number behind a name, in a file of lines `name number`.
fn number_of(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(known, _)| *known == name).find_map(|(_, number)| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
