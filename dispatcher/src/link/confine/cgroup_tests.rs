//! The texts of the kernel, as machines of each kind have them.

#![allow(clippy::unwrap_used)]

use super::*;

const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

fn mount_v1(root: &str, point: &str, options: &str) -> String {
    format!("35 31 0:32 {root} {point} rw,relatime shared:9 - cgroup cgroup rw,{options}\n")
}

fn folders(own: &Own) -> Vec<(&'static str, &str)> {
    own.v1.iter().map(|(controller, path)| (controller.name(), path.to_str().unwrap())).collect()
}

#[test]
fn in_version_2_a_process_has_one_group_below_the_one_mount() {
    let own = own("0::/system.slice/weft.service\n", &format!("22 1 8:1 / / rw - ext4 /dev/vda rw\n{V2_MOUNT}"));
    assert_eq!(own.v2.unwrap(), Path::new("/sys/fs/cgroup/system.slice/weft.service"));
    assert!(own.v1.is_empty());
}

#[test]
fn in_version_1_each_controller_has_a_tree_and_some_share_one() {
    let mounts = [
        mount_v1("/", "/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
        mount_v1("/", "/sys/fs/cgroup/memory", "memory"),
        mount_v1("/", "/sys/fs/cgroup/pids", "pids"),
    ];
    let own = own("12:memory:/a/b\n8:pids:/\n4:cpu,cpuacct:/a\n1:name=systemd:/x\n", &mounts.concat());
    let wanted = [
        ("memory", "/sys/fs/cgroup/memory/a/b"),
        ("pids", "/sys/fs/cgroup/pids"),
        ("cpu", "/sys/fs/cgroup/cpu,cpuacct/a"),
    ];
    assert_eq!(folders(&own), wanted);
    assert_eq!(own.v2, None);
}

#[test]
fn a_mount_of_a_part_of_the_tree_begins_there() {
    let own = own(
        "3:memory:/docker/17/x\n2:pids:/elsewhere\n",
        &(mount_v1("/docker/17", "/cg/me\\040mory", "memory") + &mount_v1("/docker/17", "/cg/pids", "pids")),
    );
    assert_eq!(folders(&own), [("memory", "/cg/me mory/x")], "what is not below the mount cannot be reached");
}

#[test]
fn a_group_of_another_name_space_is_none_of_ours() {
    assert_eq!(own("0::/../../user.slice\n", V2_MOUNT).v2, None);
    assert_eq!(own("0::/x\n", "").v2, None);
    assert_eq!(own("nonsense\n\n0:\n", "nonsense - \n - cgroup2\n"), Own::default());
}

/// A folder that looks like a group of version 2.
struct Fake(PathBuf);

impl Fake {
    fn new(controllers: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weft-cgroup-test-{:016x}", fastrand::u64(..)));
        fs::create_dir(&path).unwrap();
        for (file, text) in [("cgroup.controllers", controllers), ("cgroup.subtree_control", ""), ("cgroup.procs", "")]
        {
            fs::write(path.join(file), text).unwrap();
        }
        Self(path)
    }

    fn own(&self) -> Own {
        Own { v2: Some(self.0.clone()), v1: BTreeMap::new() }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn in_version_2_the_dispatcher_moves_into_a_leaf_and_hands_the_controllers_on() {
    let fake = Fake::new("cpuset cpu io memory hugetlb pids\n");
    let tree = Tree::enter_in(&fake.own(), 4321);
    let branch = tree.v2.clone().unwrap();
    assert_eq!(branch.folder, fake.0.join("weft-4321"));
    let written = |file: &str| fs::read_to_string(fake.0.join(file)).unwrap();
    assert_eq!(written("weft-4321/dispatcher/cgroup.procs"), "4321");
    assert_eq!(written("cgroup.subtree_control"), "+memory +pids +cpu");
    assert_eq!(written("weft-4321/cgroup.subtree_control"), "+memory +pids +cpu");
    assert!(Controller::ALL.iter().all(|controller| tree.version(*controller) == Some(Version::Two)));
}

#[test]
fn a_controller_that_is_not_handed_on_is_missing_with_its_reason() {
    let fake = Fake::new("memory pids\n");
    let tree = Tree::enter_in(&fake.own(), 4321);
    assert_eq!((tree.version(Controller::Memory), tree.version(Controller::Cpu)), (Some(Version::Two), None));
    assert!(tree.missing.contains_key(&Controller::Cpu));
    let none = Tree::enter_in(&Fake::new("\n").own(), 4321);
    assert!(none.v2.is_none() && none.missing[&Controller::Memory].contains("no controllers to hand on"), "{none:?}");
}

#[test]
fn what_a_dead_dispatcher_left_is_swept_and_a_living_one_is_left_alone() {
    let fake = Fake::new("memory\n");
    // No process has this number: it is over the most that there can be.
    let (dead, alive) = (fake.0.join("weft-4999999"), fake.0.join(format!("weft-{}", std::process::id())));
    fs::create_dir_all(dead.join("worker-1")).unwrap();
    fs::create_dir_all(alive.join("worker-1")).unwrap();
    let foreign = fake.0.join("weft-x");
    fs::create_dir(&foreign).unwrap();
    let reused = fake.0.join("weft-4321");
    fs::create_dir_all(reused.join("worker-0")).unwrap();
    sweep(&fake.0, 4321);
    assert!(!reused.exists(), "a group of that name would stand in the way of ours");
    assert!(!dead.exists() && alive.join("worker-1").exists() && foreign.exists());
}
