//! The machine that figures are of, and who used its processors.

use std::fs;

use serde::Serialize;

use crate::fault::{Fault, Result};

/// Linux reports processor time in this many parts of a second on every architecture that we run on.
pub const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub cpu: String,
    pub kernel: String,
    pub memory_mib: u64,
    /// Where the servers write.
    pub folder: String,
    pub file_system: String,
    /// Runnable processes over the last minute, before anything of ours was started.
    pub load_before: String,
}

impl Machine {
    pub fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let folder = std::env::temp_dir();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024,
            file_system: file_system(&read("/proc/mounts"), &folder).unwrap_or_else(|| "unknown".to_owned()),
            folder: folder.display().to_string(),
            load_before: load(),
        }
    }
}

/// Runnable processes over the last minute. On a machine that does nothing else it says what we cause ourselves.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The type of the file system that holds `folder`: that of the longest mount point in front of it.
fn file_system(mounts: &str, folder: &std::path::Path) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(point, _)| folder.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind.to_owned())
}

/// Processor seconds, user and kernel together.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cpu {
    /// This process: the floor's loop, or the dispatcher.
    pub own: f64,
    /// Children that have ended: the workers.
    pub workers: f64,
    /// Everything else on the machine: the servers, and whatever should not have run.
    pub rest: f64,
}

impl Cpu {
    pub fn now() -> Result<Self> {
        let ticks = process_ticks("self")?;
        let stat = fs::read_to_string("/proc/stat")?;
        // user nice system idle iowait irq softirq steal
        let machine: f64 = stat
            .lines()
            .next()
            .into_iter()
            .flat_map(|line| line.split_whitespace().skip(1).take(8).enumerate())
            .filter(|(index, _)| ![3, 4, 7].contains(index))
            .filter_map(|(_, ticks)| ticks.parse::<f64>().ok())
            .sum();
        let (own, workers) = (ticks.own / TICKS_PER_SECOND, ticks.children / TICKS_PER_SECOND);
        Ok(Self { own, workers, rest: machine / TICKS_PER_SECOND - own - workers })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            own: self.own - before.own,
            workers: self.workers - before.workers,
            rest: (self.rest - before.rest).max(0.0),
        }
    }
}

pub struct ProcessTicks {
    pub own: f64,
    /// Of children that it has waited for.
    pub children: f64,
}

/// Processor ticks of a process, all threads together.
pub fn process_ticks(pid: &str) -> Result<ProcessTicks> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold anything, so fields are counted from its end.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, fields)| fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect())
        .unwrap_or_default();
    match fields[..] {
        [user, system, children_user, children_system] => {
            Ok(ProcessTicks { own: user + system, children: children_user + children_system })
        }
        _ => Err(Fault(format!("/proc/{pid}/stat has another form than expected"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_longest_mount_point_says_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmpfiles xfs rw 0 0\n";
        let kind = |folder: &str| file_system(mounts, std::path::Path::new(folder)).unwrap();
        assert_eq!((kind("/tmp/x").as_str(), kind("/tmpx").as_str()), ("tmpfs", "ext4"));
    }

    #[test]
    fn a_process_has_used_no_more_than_the_machine() {
        let now = Cpu::now().unwrap();
        assert!(now.own >= 0.0 && now.rest >= 0.0, "{now:?}");
    }
}
