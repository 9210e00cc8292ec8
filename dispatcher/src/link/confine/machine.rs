//! What this machine offers to keep workers within bounds: looked at once, before anything is promised.

use std::sync::OnceLock;

use super::cgroup::{Controller, Tree};
use super::{files, network};

/// What the machine, and this process's own rights on it, allow.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(crate) tree: Tree,
    /// The read-only view; why not.
    pub(crate) files: Result<(), String>,
    /// Signals and abstract sockets kept inside.
    pub(crate) scopes: bool,
    /// System calls filtered; why not.
    pub(crate) filters: Result<(), String>,
    pub(crate) rights: Rights,
    /// `/etc/passwd`.
    pub(crate) users: String,
}

/// Capabilities of this process, as a mask (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rights(pub(crate) u64);

/// What is done with a capability here, and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    Chown = 0,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    SysAdmin = 21,
    SysResource = 24,
}

impl Rights {
    pub(crate) const fn has(self, right: Right) -> bool {
        self.0 & (1 << right as u64) != 0
    }

    /// From the text of `/proc/self/status`; none if it does not say.
    pub(crate) fn of_status(status: &str) -> Self {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        Self(line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
    }
}

impl Machine {
    /// This machine, with a folder for this process's control groups where that is allowed. The first call of a process
    /// makes it (and, in version 2, moves the process into it); blocks for some system calls.
    pub fn enter() -> &'static Self {
        static HERE: OnceLock<Machine> = OnceLock::new();
        HERE.get_or_init(|| Self::with(Tree::enter()))
    }

    /// This machine, with nothing made and nothing moved: for `weft doctor`. What is said of control groups holds for a
    /// dispatcher that is started where this process was.
    pub fn look() -> &'static Self {
        static SEEN: OnceLock<Machine> = OnceLock::new();
        SEEN.get_or_init(|| Self::with(Tree::look()))
    }

    fn with(tree: Tree) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            tree,
            files: files::supported(),
            scopes: files::scopes_supported(),
            filters: network::supported(),
            rights: Rights::of_status(&read("/proc/self/status")),
            users: read("/etc/passwd"),
        }
    }

    /// Removes what [`Machine::enter`] made, as far as it is empty. Safe to repeat; a start of a worker makes it anew.
    pub fn leave(&self) {
        self.tree.leave();
    }

    /// Each thing that workers can be confined by, and by what it is kept here or why it cannot be; for people.
    pub fn offers(&self) -> Vec<Offer> {
        let mut offers: Vec<Offer> = Controller::ALL
            .into_iter()
            .map(|controller| {
                let by = match self.tree.version(controller) {
                    Some(version) => Ok(version.to_string()),
                    None if controller == Controller::Memory => {
                        Ok(format!("RLIMIT_DATA, per process ({})", self.why_no(controller)))
                    }
                    None => Err(self.why_no(controller)),
                };
                Offer { what: controller.name(), by }
            })
            .collect();
        let kept = |kept: &Result<(), String>, by: &str| kept.clone().map(|()| by.to_owned());
        let right = |right, by: &str, name: &str| {
            if self.rights.has(right) { Ok(by.to_owned()) } else { Err(format!("it needs {name}")) }
        };
        offers.push(Offer { what: "read_only", by: kept(&self.files, "Landlock") });
        offers.push(Offer { what: "network", by: kept(&self.filters, "seccomp") });
        let scopes =
            if self.scopes { Ok(()) } else { Err("Landlock of Linux 6.12 or later is not in this kernel".to_owned()) };
        offers.push(Offer { what: "signals", by: kept(&scopes, "Landlock") });
        offers.push(Offer { what: "user", by: right(Right::Setuid, "setuid", "CAP_SETUID") });
        offers.push(Offer { what: "disk", by: right(Right::SysAdmin, "a private tmpfs", "CAP_SYS_ADMIN") });
        offers
    }

    /// Whether folders can be mounted for workers.
    pub(crate) fn may_mount(&self) -> bool {
        self.rights.has(Right::SysAdmin)
    }

    /// Why a controller cannot be used.
    pub(crate) fn why_no(&self, controller: Controller) -> String {
        let why = self.tree.missing.get(&controller).cloned();
        why.unwrap_or_else(|| "control groups cannot be used".to_owned())
    }
}

/// One thing that workers can be confined by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// As the manifest has it, or the controller's name.
    pub what: &'static str,
    /// By what it is kept, or why it cannot be.
    pub by: Result<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_what_the_kernel_says_of_the_process() {
        let rights = Rights::of_status("Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000081\n");
        assert!(rights.has(Right::Setuid) && rights.has(Right::Chown));
        assert!(!rights.has(Right::Setgid) && !rights.has(Right::SysAdmin));
        assert_eq!(Rights::of_status("Name:\tx\n"), Rights(0));
    }
}
