//! Where this machine lets us make control groups, and one group for each worker.
//!
//! Version 2 is one tree in which a group with children may hold no process itself, so the dispatcher moves into a leaf
//! of its own. Version 1 has a tree for each controller and no such rule. Which of the two a controller is in is the
//! machine's choice; where neither can be written, limits are kept by other means or not at all ([`super::machine`]).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a controller counts and limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Pids, Self::Cpu];

    /// Its name in the kernel's files.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
        }
    }

    /// A file that a group of version 1 must have for its limit to be set.
    const fn file_v1(self) -> &'static str {
        match self {
            Self::Memory => "memory.limit_in_bytes",
            Self::Pids => "pids.max",
            Self::Cpu => "cpu.cfs_quota_us",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    One,
    Two,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "cgroup v1",
            Self::Two => "cgroup v2",
        })
    }
}

/// Where this process's own groups are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) v2: Option<PathBuf>,
    pub(crate) v1: BTreeMap<Controller, PathBuf>,
}

/// Reads `/proc/self/cgroup` and `/proc/self/mountinfo` as they are documented in cgroups(7) and proc(5). What is in a form
/// of its own is passed over: the controller counts as not there.
pub(crate) fn own(cgroup: &str, mountinfo: &str) -> Own {
    let mut own = Own::default();
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if number == "0" && controllers.is_empty() {
            own.v2 = mounts(mountinfo).find(|mount| mount.kind == "cgroup2").and_then(|mount| mount.locate(path));
            continue;
        }
        for controller in Controller::ALL {
            if controllers.split(',').any(|name| name == controller.name()) {
                let is_its = |mount: &Mount<'_>| {
                    mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller.name())
                };
                let place = mounts(mountinfo).find(is_its).and_then(|mount| mount.locate(path));
                own.v1.extend(place.map(|place| (controller, place)));
            }
        }
    }
    own
}

/// One mounted file system.
struct Mount<'a> {
    /// Which folder of the file system is its root here.
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    /// Of the file system, not of the mount.
    options: &'a str,
}

fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut system = system.split(' ');
        let (root, point) = (mount.next()?, mount.next()?);
        let (kind, _source, options) = (system.next()?, system.next()?, system.next()?);
        Some(Mount { root, point, kind, options })
    })
}

impl Mount<'_> {
    /// The folder of a group, `None` if it is not below this mount.
    fn locate(&self, group: &str) -> Option<PathBuf> {
        let below = match self.root {
            "/" => group,
            root => group.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/'))?,
        };
        // A path of another name space goes up from ours: there is nothing of it here.
        if below.split('/').any(|step| step == "..") {
            return None;
        }
        let point = PathBuf::from(unescape(self.point));
        Some(match below.trim_start_matches('/') {
            "" => point,
            below => point.join(below),
        })
    }
}

/// Mount points have blanks and the like as `\040`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, code) = rest.split_at(at);
        out.push_str(before);
        match code.get(1..4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                out.push(char::from(byte));
                rest = code.get(4..).unwrap_or_default();
            }
            _ => {
                out.push('\\');
                rest = code.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// Names the folder that holds a dispatcher's groups: this, and its process id.
const PREFIX: &str = "weft-";
/// The dispatcher's own leaf in it, in version 2.
const LEAF: &str = "dispatcher";

/// Where the workers' groups are made, by controller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) v2: Option<Branch>,
    pub(crate) v1: BTreeMap<Controller, PathBuf>,
    /// Why a controller is in neither.
    pub(crate) missing: BTreeMap<Controller, String>,
}

/// The folder for groups of version 2, and what may be limited there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Branch {
    pub(crate) folder: PathBuf,
    pub(crate) controllers: Vec<Controller>,
}

impl Tree {
    /// Makes this process's folders where that is allowed, and moves this process into its leaf. Once per process.
    pub(crate) fn enter() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::enter_in(&own(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo")), std::process::id())
    }

    /// What [`Tree::enter`] would find, with nothing made and nothing moved.
    pub(crate) fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let own = own(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        let pid = std::process::id();
        Self::find(&own, pid, &look_v2, &|base, _, _| {
            // The limits themselves are in a group below; the root of a tree has none.
            writable(base).map(|()| base.to_path_buf())
        })
    }

    fn enter_in(own: &Own, pid: u32) -> Self {
        Self::find(own, pid, &enter_v2, &enter_v1)
    }

    /// Version 2 goes first, where both have a controller.
    fn find(
        own: &Own,
        pid: u32,
        v2: &dyn Fn(&Path, u32) -> io::Result<Branch>,
        v1: &dyn Fn(&Path, Controller, u32) -> io::Result<PathBuf>,
    ) -> Self {
        let mut tree = Self::default();
        let mut why_not = "this machine mounts no tree of control groups for it".to_owned();
        if let Some(base) = &own.v2 {
            match v2(base, pid) {
                Ok(branch) if !branch.controllers.is_empty() => tree.v2 = Some(branch),
                Ok(_) => why_not = format!("{} has no controllers to hand on", base.display()),
                Err(error) => why_not = format!("{} cannot be used: {error}", base.display()),
            }
        }
        for controller in Controller::ALL {
            if tree.v2.as_ref().is_some_and(|branch| branch.controllers.contains(&controller)) {
                continue;
            }
            match own.v1.get(&controller).map(|base| (base, v1(base, controller, pid))) {
                Some((_, Ok(folder))) => drop(tree.v1.insert(controller, folder)),
                Some((base, Err(error))) => {
                    tree.missing.insert(controller, format!("{} cannot be used: {error}", base.display()));
                }
                None => drop(tree.missing.insert(controller, why_not.clone())),
            }
        }
        tree
    }

    /// Which version limits it; `None`: neither.
    pub(crate) fn version(&self, controller: Controller) -> Option<Version> {
        if self.v2.as_ref().is_some_and(|branch| branch.controllers.contains(&controller)) {
            return Some(Version::Two);
        }
        self.v1.contains_key(&controller).then_some(Version::One)
    }

    /// Removes this process's folders; for a process that goes on without them. Groups of workers must be gone.
    pub(crate) fn leave(&self) {
        for folder in self.v1.values() {
            let _ = fs::remove_dir(folder);
        }
        // The leaf of version 2 holds this process, and cannot go before it: the next dispatcher sweeps it.
    }
}

fn enter_v1(base: &Path, controller: Controller, pid: u32) -> io::Result<PathBuf> {
    sweep(base, pid);
    let folder = base.join(format!("{PREFIX}{pid}"));
    make(&folder)?;
    let file = folder.join(controller.file_v1());
    match fs::OpenOptions::new().write(true).open(&file) {
        Ok(_) => Ok(folder),
        Err(error) => {
            let _ = fs::remove_dir(&folder);
            Err(error)
        }
    }
}

fn writable(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(path, rustix::fs::Access::WRITE_OK)?)
}

fn look_v2(base: &Path, pid: u32) -> io::Result<Branch> {
    let controllers = offered(base)?;
    if !controllers.is_empty() {
        writable(base)?;
        writable(&base.join("cgroup.subtree_control"))?;
        let listed = fs::read_to_string(base.join("cgroup.procs"))?;
        if listed.lines().any(|line| line.parse() != Ok(pid)) {
            return Err(io::Error::other(CROWDED));
        }
    }
    Ok(Branch { folder: base.to_path_buf(), controllers })
}

/// Which controllers a group of version 2 may hand on.
fn offered(base: &Path) -> io::Result<Vec<Controller>> {
    let offered = fs::read_to_string(base.join("cgroup.controllers"))?;
    let has = |controller: &Controller| offered.split_whitespace().any(|name| name == controller.name());
    Ok(Controller::ALL.into_iter().filter(has).collect())
}

/// Why a group of version 2 may not have groups below it.
const CROWDED: &str = "other processes than the dispatcher are in it";

/// The steps, each of which the next one needs: our folder, a leaf in it, this process in the leaf (from here on the base is
/// empty, if this was its only process), the controllers handed to our folder, and by it to the groups in it.
fn enter_v2(base: &Path, pid: u32) -> io::Result<Branch> {
    let controllers = offered(base)?;
    let folder = base.join(format!("{PREFIX}{pid}"));
    if controllers.is_empty() {
        return Ok(Branch { folder, controllers });
    }
    sweep(base, pid);
    make(&folder)?;
    let leaf = folder.join(LEAF);
    let entered = make(&leaf).and_then(|()| fs::write(leaf.join("cgroup.procs"), pid.to_string())).and_then(|()| {
        let wanted: Vec<String> = controllers.iter().map(|controller| format!("+{}", controller.name())).collect();
        let wanted = wanted.join(" ");
        fs::write(base.join("cgroup.subtree_control"), &wanted).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => io::Error::other(CROWDED),
            _ => error,
        })?;
        fs::write(folder.join("cgroup.subtree_control"), &wanted)
    });
    if let Err(error) = entered {
        // Back to where it was, as if nothing had been tried.
        let _ = fs::write(base.join("cgroup.procs"), pid.to_string());
        let _ = fs::remove_dir(&leaf);
        let _ = fs::remove_dir(&folder);
        return Err(error);
    }
    Ok(Branch { folder, controllers })
}

fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        // One of its groups was not empty when it was swept; it does not stand in our way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Removes what dispatchers left that were killed, also one that had this process's number before. Only empty groups can be
/// removed, so nothing that lives is touched.
fn sweep(base: &Path, own: u32) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| pid == own || !Path::new(&format!("/proc/{pid}")).exists()) {
            let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
            for inner in inner.filter(|inner| inner.file_type().is_ok_and(|kind| kind.is_dir())) {
                let _ = fs::remove_dir(inner.path());
            }
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
