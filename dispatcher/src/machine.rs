//! What the machine has for workers: memory, less what others and the dispatcher itself want, and cores.

use std::path::{Path, PathBuf};

use weft_schemas::manifest::Manifest;

use crate::scale::budget::Budget;

/// Of the memory that there is, the part that workers may have where nothing else is said: three quarters.
const PART: (u64, u64) = (3, 4);
/// Workers per core where nothing else is said: most of them wait for others most of the time.
const WORKERS_PER_CORE: u32 = 32;
/// And at least so many.
const WORKERS_LEAST: u32 = 128;

/// The budget where nothing else is said: three quarters of the machine's memory (or of the control group's limit, if that
/// is less), and 32 workers for each core, 128 at least. Where the memory cannot be read, it is no bound; on a machine that
/// is too small for the largest worker of the manifest it is enough for that one, by what its function declares.
pub fn budget(manifest: &Manifest) -> Budget {
    let cores = std::thread::available_parallelism().map_or(2, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    let largest = manifest.functions.values().map(|function| function.memory_bytes).max().unwrap_or_default();
    let memory_bytes = memory_bytes().map_or(u64::MAX, |bytes| bytes / PART.1 * PART.0).max(largest);
    Budget { workers: cores.saturating_mul(WORKERS_PER_CORE).max(WORKERS_LEAST), memory_bytes }
}

/// The memory that this process may use; `None` when nothing says so.
pub fn memory_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let group = std::fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.as_deref().and_then(|text| limits(text, &|path| std::fs::read_to_string(path).ok()));
    machine.into_iter().chain(group).min()
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The lowest limit among the process's control groups, of version 2 and 1, and those above them. What is not limited
/// says `max`, or a number larger than any machine.
fn limits(cgroup: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut lowest = None;
    for line in cgroup.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            names if names.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut folder = PathBuf::from(root).join(path.trim_start_matches('/'));
        while folder.starts_with(root) {
            let limit = read(&folder.join(file)).and_then(|text| text.trim().parse::<u64>().ok());
            lowest = lowest.into_iter().chain(limit).min();
            if !folder.pop() {
                break;
            }
        }
    }
    lowest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_in_bytes() {
        assert_eq!(total("MemTotal:        8140404 kB\nMemFree: 1 kB\n"), Some(8_140_404 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_holds() {
        let files = |path: &Path| match path.to_str() {
            Some("/sys/fs/cgroup/system.slice/weft.service/memory.max") => Some("max\n".to_owned()),
            Some("/sys/fs/cgroup/system.slice/memory.max") => Some("1073741824\n".to_owned()),
            Some("/sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes") => Some("536870912\n".to_owned()),
            _ => None,
        };
        assert_eq!(limits("0::/system.slice/weft.service\n", &files), Some(1 << 30));
        assert_eq!(limits("5:cpu,memory:/docker/a\n0::/system.slice/weft.service\n", &files), Some(512 << 20));
        assert_eq!(limits("0::/\n", &files), None);
        assert_eq!(limits("nonsense", &files), None);
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn there_is_a_budget_on_this_machine_and_the_largest_worker_fits_it() {
        let text = "[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\nmemory = \"64GiB\"\n";
        let budget = budget(&Manifest::parse(text, Path::new("/")).unwrap());
        assert!(budget.workers >= WORKERS_LEAST && budget.memory_bytes >= 64 << 30);
    }
}
