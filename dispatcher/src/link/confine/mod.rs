//! What a worker is confined to: from the manifest's `memory`, `limits` and `isolation`, and from what this machine can
//! keep.
//!
//! It is decided once per function, before anything is promised: what the manifest demands by name and the machine cannot
//! keep is refused ([`Unfit`]). Only two defaults give way: memory falls back to a limit of each process's data, and the
//! number of processes to none; [`Confinement::in_force`] says which. What each step protects against, and what not, is
//! in `docs/isolation.md`; their order is that of `prepare` in `spawn.rs`.

pub(crate) mod cgroup;
mod files;
pub(crate) mod group;
mod machine;
mod network;
#[cfg(test)]
mod tests;
mod user;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit};
use seccompiler::BpfProgram;
use weft_schemas::manifest::{Function, bytes};

use cgroup::{Controller, Tree};
pub(crate) use files::Walls;
use group::{Group, Share};
use machine::Right;
pub use machine::{Machine, Offer};
pub(crate) use user::User;

/// Processes and threads of one worker where the manifest does not say and the machine can count them.
const PROCESSES: u32 = 1024;
/// What a thread's stack takes of a limit of data, though it is hardly touched.
const STACK_BYTES: u64 = 2 << 20;
/// Threads that a worker has besides those of its slots.
const THREADS: u64 = 8;

/// Why a function cannot be started as its manifest demands. Each names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("limits.cpu cannot be kept: {0}")]
    Cpu(String),
    #[error("limits.processes cannot be kept: {0}; without it, only the processes of a user can be counted")]
    Processes(String),
    #[error("limits.files of {wanted} is more than this process may have itself ({own})")]
    Files { wanted: u32, own: u64 },
    #[error(
        "limits.disk cannot be kept: the dispatcher needs CAP_SYS_ADMIN to give a worker a folder of a limited size"
    )]
    Disk,
    #[error("isolation.user {0:?} is no user of this machine")]
    NoUser(String),
    #[error("isolation.user {0:?} is root, from whom nothing is kept")]
    Root(String),
    #[error("isolation.user cannot be taken on: the dispatcher needs {0}")]
    User(&'static str),
    #[error("isolation.read_only cannot be kept: {0}")]
    ReadOnly(String),
    #[error("isolation.write names {0:?}, which is not there")]
    NoFolder(PathBuf),
    #[error("isolation.network = false cannot be kept: {0}")]
    Network(String),
}

/// What one function's workers are confined to. The default is nothing at all.
#[derive(Debug, Default)]
pub struct Confinement {
    /// Where groups are made; `None`: it needs none.
    tree: Option<&'static Tree>,
    share: Share,
    /// Set for each process, soft and hard.
    pub(crate) rlimits: Vec<(Resource, Rlimit)>,
    /// The limit of data that stands in for one of memory, in bytes.
    pub(crate) data_bytes: Option<u64>,
    pub(crate) user: Option<User>,
    /// The worker's own folder is a file system of this size.
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) walls: Walls,
    /// System calls are filtered.
    pub(crate) filter: Option<BpfProgram>,
    /// What is logged of a stream's output in a second.
    pub(crate) output_bytes: Option<u64>,
    in_force: Vec<(&'static str, String)>,
}

impl Confinement {
    /// Decides what a function's workers are confined to on this machine. `services`: files that a worker must be able to
    /// write wherever it is, such as the embedded ledger. Looks at the file system.
    ///
    /// # Errors
    /// Everything that the manifest demands and this machine cannot keep; never empty.
    pub fn of(
        function: &Function,
        machine: &'static Machine,
        root: &Path,
        services: &[PathBuf],
    ) -> Result<Self, Vec<Unfit>> {
        let mut made = Self::default();
        let mut unfit = Vec::new();
        made.limit(function, machine, &mut unfit);
        made.isolate(function, machine, root, services, &mut unfit);
        if unfit.is_empty() { Ok(made) } else { Err(unfit) }
    }

    /// Nothing but a limit of data, in bytes.
    #[cfg(test)]
    pub(crate) fn of_data(most: u64) -> Self {
        let mut made = Self { data_bytes: Some(most), ..Self::default() };
        made.rlimit(Resource::Data, most);
        made
    }

    /// Nothing but a group in a tree.
    #[cfg(test)]
    pub(crate) fn in_tree(tree: &'static Tree) -> Self {
        Self { tree: Some(tree), ..Self::default() }
    }

    fn limit(&mut self, function: &Function, machine: &'static Machine, unfit: &mut Vec<Unfit>) {
        let limits = &function.limits;
        self.tree = Some(&machine.tree);
        let memory = function.memory_bytes;
        match machine.tree.version(Controller::Memory) {
            Some(version) => {
                self.share.memory_bytes = Some(memory);
                self.say("memory", format!("{} by {version}", bytes::format(memory)));
            }
            None => {
                let stacks = STACK_BYTES.saturating_mul(u64::from(function.slots).saturating_add(THREADS));
                let data = memory.saturating_add(stacks);
                self.data_bytes = Some(data);
                self.rlimit(Resource::Data, data);
                self.say("memory", format!("{} of data of each process by RLIMIT_DATA", bytes::format(data)));
            }
        }
        match (machine.tree.version(Controller::Pids), limits.processes, &function.isolation.user) {
            (Some(version), processes, _) => {
                let processes = processes.unwrap_or(PROCESSES);
                self.share.processes = Some(processes);
                self.say("processes", format!("{processes} by {version}"));
            }
            (None, Some(processes), Some(user)) => {
                self.rlimit(Resource::Nproc, u64::from(processes));
                self.say("processes", format!("{processes} of the user {user} altogether by RLIMIT_NPROC"));
            }
            (None, Some(_), None) => unfit.push(Unfit::Processes(machine.why_no(Controller::Pids))),
            (None, None, _) => {}
        }
        match (machine.tree.version(Controller::Cpu), limits.cpu) {
            (Some(version), Some(cores)) => {
                self.share.cpu = Some(cores);
                self.say("cpu", format!("{cores} by {version}"));
            }
            (None, Some(_)) => unfit.push(Unfit::Cpu(machine.why_no(Controller::Cpu))),
            (_, None) => {}
        }
        self.limit_files(limits.files, machine, unfit);
        if let Some(most) = limits.file_size_bytes {
            self.rlimit(Resource::Fsize, most);
            self.say("file_size", bytes::format(most));
        }
        match limits.disk_bytes {
            Some(_) if !machine.rights.has(Right::SysAdmin) => unfit.push(Unfit::Disk),
            Some(most) => {
                self.disk_bytes = Some(most);
                self.say("disk", format!("{} by a private tmpfs", bytes::format(most)));
            }
            None => {}
        }
        self.output_bytes = Some(limits.output_bytes);
    }

    fn limit_files(&mut self, wanted: Option<u32>, machine: &Machine, unfit: &mut Vec<Unfit>) {
        let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let most = if machine.rights.has(Right::SysResource) { u64::MAX } else { own };
        match wanted {
            Some(wanted) if u64::from(wanted) > most => unfit.push(Unfit::Files { wanted, own }),
            Some(wanted) => {
                self.rlimit(Resource::Nofile, u64::from(wanted));
                self.say("files", wanted.to_string());
            }
            // As many as the dispatcher itself.
            None => {}
        }
    }

    fn isolate(
        &mut self,
        function: &Function,
        machine: &Machine,
        root: &Path,
        services: &[PathBuf],
        unfit: &mut Vec<Unfit>,
    ) {
        let isolation = &function.isolation;
        if let Some(wanted) = &isolation.user {
            self.take_user(wanted, machine, unfit);
        }
        if isolation.read_only {
            if let Err(why) = &machine.files {
                unfit.push(Unfit::ReadOnly(why.clone()));
            }
            let named: Vec<PathBuf> = isolation.write.iter().map(|path| root.join(path)).collect();
            unfit.extend(named.iter().filter(|path| !path.exists()).cloned().map(Unfit::NoFolder));
            self.walls.writable = Some(named.into_iter().chain(services.iter().cloned()).collect());
            self.say("read_only", "by Landlock".to_owned());
        }
        if !isolation.network {
            match machine.filters.clone().and_then(|()| network::filter()) {
                Ok(filter) => self.filter = Some(filter),
                Err(why) => unfit.push(Unfit::Network(why)),
            }
            self.say("network", "none, by seccomp".to_owned());
        }
        // Not asked for by name: taken where it costs nothing more.
        if (isolation.read_only || !isolation.network) && machine.scopes {
            self.walls.scoped = true;
            self.say("signals", "to its own processes only, by Landlock".to_owned());
        }
    }

    fn take_user(&mut self, wanted: &str, machine: &Machine, unfit: &mut Vec<Unfit>) {
        let Some(user) = user::find(&machine.users, wanted) else {
            unfit.push(Unfit::NoUser(wanted.to_owned()));
            return;
        };
        if user.uid.is_root() {
            unfit.push(Unfit::Root(wanted.to_owned()));
            return;
        }
        for (right, name) in [
            (Right::Setuid, "CAP_SETUID"),
            (Right::Setgid, "CAP_SETGID"),
            (Right::Chown, "CAP_CHOWN"),
            (Right::Kill, "CAP_KILL"),
        ] {
            if !machine.rights.has(right) {
                unfit.push(Unfit::User(name));
            }
        }
        self.say("user", user.to_string());
        self.user = Some(user);
    }

    fn rlimit(&mut self, resource: Resource, most: u64) {
        // Not above what this process has: it could not be raised to that without a right to.
        let own = getrlimit(resource).maximum;
        let most = own.map_or(most, |own| if resource == Resource::Nofile { most } else { most.min(own) });
        self.rlimits.push((resource, Rlimit { current: Some(most), maximum: Some(most) }));
    }

    fn say(&mut self, what: &'static str, how: String) {
        self.in_force.push((what, how));
    }

    /// What is in force, by its key, and how; for people.
    pub fn in_force(&self) -> &[(&'static str, String)] {
        &self.in_force
    }

    /// The limits of one worker, made. Blocks for a few system calls.
    ///
    /// # Errors
    /// The kernel refused.
    pub(crate) fn group(&self) -> io::Result<Option<Group>> {
        self.tree.map(|tree| Group::make(tree, &self.share)).transpose()
    }

    /// Whether a worker's own folder must be opened before its start.
    pub(crate) fn needs_place(&self) -> bool {
        self.disk_bytes.is_some() || self.walls.writable.is_some()
    }

    /// The ruleset of one worker, if it needs one. `place`: its own folder, opened, where it is the one that it may write.
    ///
    /// # Errors
    /// A folder that it may write to is gone, or the kernel refused.
    pub(crate) fn ruleset(&self, place: Option<&OwnedFd>) -> io::Result<Option<OwnedFd>> {
        files::ruleset(&self.walls, place)
    }

    /// The limit of processes that a group keeps.
    pub(crate) fn processes(&self) -> Option<u32> {
        self.share.processes
    }

    /// The limit of memory that a group keeps, in bytes.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        self.share.memory_bytes
    }
}
