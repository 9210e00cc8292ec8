//! What is written to the kernel, and what is read of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use super::super::cgroup::Branch;
use super::super::machine::Machine;
use super::*;

const SHARE: Share = Share { memory_bytes: Some(64 << 20), processes: Some(40), cpu: Some(0.5) };

fn written(version: Version, share: &Share) -> Vec<String> {
    let of = |controller| settings(version, controller, share);
    Controller::ALL.into_iter().flat_map(of).map(|(file, value, must)| format!("{file}={value} {must}")).collect()
}

#[test]
fn the_limits_of_version_2_are_these() {
    let wanted = [
        "memory.max=67108864 true",
        "memory.swap.max=0 false",
        "memory.oom.group=1 false",
        "pids.max=40 true",
        "cpu.max=50000 100000 true",
    ];
    assert_eq!(written(Version::Two, &SHARE), wanted);
    assert_eq!(written(Version::Two, &Share::default()), [""; 0]);
}

#[test]
fn the_limits_of_version_1_are_these() {
    let wanted = [
        "memory.limit_in_bytes=67108864 true",
        "memory.memsw.limit_in_bytes=67108864 false",
        "pids.max=40 true",
        "cpu.cfs_period_us=100000 true",
        "cpu.cfs_quota_us=50000 true",
    ];
    assert_eq!(written(Version::One, &SHARE), wanted);
    let least = Share { cpu: Some(0.001), ..Share::default() };
    assert_eq!(written(Version::One, &least)[1], "cpu.cfs_quota_us=1000 true", "the kernel takes no less");
}

#[test]
fn a_number_is_found_by_its_whole_name() {
    let events = "low 0\nhigh 3\nmax 12\noom 4\noom_kill 2\noom_group_kill 1\n";
    assert_eq!((number_of(events, "oom_kill"), number_of(events, "oom"), number_of(events, "swap")), (2, 4, 0));
    assert_eq!(number_of("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "oom_kill"), 7);
}

#[test]
fn a_group_of_version_2_has_its_limits_and_tells_its_events() {
    let base = std::env::temp_dir().join(format!("weft-group-test-{:016x}", fastrand::u64(..)));
    fs::create_dir(&base).unwrap();
    let controllers = Controller::ALL.to_vec();
    let tree = Tree { v2: Some(Branch { folder: base.clone(), controllers }), ..Tree::default() };
    let group = Group::make(&tree, &SHARE).unwrap();
    let folder = group.folders[0].path.clone();
    assert_eq!(fs::read_to_string(folder.join("memory.max")).unwrap(), "67108864");
    assert!(group.entrance().unwrap().born_in.is_some());
    fs::write(folder.join("memory.events"), "oom_kill 1\n").unwrap();
    fs::write(folder.join("pids.events"), "max 5\n").unwrap();
    assert_eq!((group.out_of_memory(), group.out_of_processes()), (1, 5));
    drop(group);
    fs::remove_dir_all(&base).unwrap();
}

/// A group in a tree of version 2 of this machine, with no controllers: groups of version 1 have them here. `None`: there is
/// no such tree, or it may not be written.
fn real_v2() -> Option<(PathBuf, Group)> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let own = super::super::cgroup::own(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    let base = own.v2?.join(format!("weft-test-{:016x}", fastrand::u64(..)));
    fs::create_dir(&base).ok()?;
    let tree = Tree { v2: Some(Branch { folder: base.clone(), controllers: Vec::new() }), ..Tree::default() };
    Some((base, Group::make(&tree, &SHARE).unwrap()))
}

/// A process in the group, and one that it has started in a session of its own; their ids.
fn two_processes_in(group: &Group) -> (std::process::Child, u32) {
    use std::io::BufRead as _;
    use std::process::{Command, Stdio};
    let script = format!("echo $$ > {}/cgroup.procs; setsid sleep 60 & echo $!; wait", group.folders[0].path.display());
    let mut child = Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

fn members(group: &Group) -> Vec<u32> {
    let text = fs::read_to_string(group.folders[0].path.join("cgroup.procs")).unwrap();
    let mut members: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    members.sort_unstable();
    members
}

#[tokio::test]
async fn in_version_2_the_kernel_kills_all_that_is_in_a_group_also_in_another_session() {
    let Some((base, group)) = real_v2() else { return };
    let (mut child, inner) = two_processes_in(&group);
    let mut both = [child.id(), inner];
    both.sort_unstable();
    assert_eq!(members(&group), both);
    // Nothing counts here: no controller has files in it.
    assert!(!group.folders[0].path.join("memory.events").exists());
    assert_eq!((group.out_of_memory(), group.out_of_processes()), (0, 0));
    // By the one file that does it, or else the list would.
    group.folders[0].kill();
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    group.end().await;
    fs::remove_dir(&base).expect("its group is gone, and with it whoever was in it");
}

#[tokio::test]
async fn a_group_is_left_when_all_in_it_has_ended_by_itself_and_a_limit_that_is_not_there_is_an_error() {
    let Some((base, group)) = real_v2() else { return };
    assert_eq!(members(&group), [0_u32; 0]);
    assert_eq!(group.entrance_by_writing().unwrap().len(), 1);
    group.end().await;
    // What is promised and has no file in the kernel is no group.
    let branch = Branch { folder: base.clone(), controllers: vec![Controller::Memory] };
    let error = Group::make(&Tree { v2: Some(branch), ..Tree::default() }, &SHARE).unwrap_err();
    assert!(error.to_string().starts_with("set memory.max to 67108864"), "{error}");
    fs::remove_dir(&base).expect("nothing is left of what could not be limited");
}

/// What this machine has, with its own files: the names of files and the rights to write them are the kernel's.
#[tokio::test]
async fn a_group_is_made_limited_entered_and_removed_on_this_machine() {
    let tree = &Machine::enter().tree;
    let versions: BTreeMap<_, _> = Controller::ALL.map(|controller| (controller, tree.version(controller))).into();
    let group = Group::make(tree, &SHARE).expect("what can be used can be limited");
    let entrance = group.entrance().unwrap();
    let ways = entrance.write_zero.len() + usize::from(entrance.born_in.is_some());
    assert_eq!(ways > 0, versions.values().any(Option::is_some), "{versions:?}");
    if versions[&Controller::Pids].is_some() {
        let folder = group.folders.iter().find(|folder| folder.controllers.contains(&Controller::Pids)).unwrap();
        assert_eq!(fs::read_to_string(folder.path.join("pids.max")).unwrap().trim(), "40");
        assert_eq!(group.out_of_processes(), 0);
    }
    let folders: Vec<PathBuf> = group.folders.iter().map(|folder| folder.path.clone()).collect();
    drop(entrance);
    group.end().await;
    assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
}
