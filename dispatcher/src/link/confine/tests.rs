//! What is promised on machines that can keep it, what is refused on those that cannot, and what gives way.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use weft_schemas::manifest::Manifest;

use super::cgroup::{Branch, Version};
use super::machine::Rights;
use super::*;

fn function(more: &str) -> Function {
    let text = format!("[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\nslots = 4\n{more}\n");
    Manifest::parse(&text, Path::new("/")).unwrap().functions.into_values().next().unwrap()
}

/// A machine with everything, in version 2.
fn able() -> Machine {
    let branch = Branch { folder: PathBuf::from("/nowhere"), controllers: Controller::ALL.to_vec() };
    Machine {
        tree: Tree { v2: Some(branch), ..Tree::default() },
        files: Ok(()),
        scopes: true,
        filters: Ok(()),
        rights: Rights(u64::MAX),
        users: "alice:x:1000:1001::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n".to_owned(),
    }
}

/// A machine with nothing.
fn unable() -> Machine {
    let missing = Controller::ALL.map(|controller| (controller, "no group can be made".to_owned()));
    Machine {
        tree: Tree { missing: BTreeMap::from(missing), ..Tree::default() },
        files: Err("no Landlock".to_owned()),
        scopes: false,
        filters: Err("no seccomp".to_owned()),
        rights: Rights(0),
        ..able()
    }
}

fn of(machine: Machine, more: &str) -> Result<Confinement, Vec<Unfit>> {
    // A machine is looked at once and for good.
    Confinement::of(&function(more), Box::leak(Box::new(machine)), Path::new("/"), &[])
}

fn said(confinement: &Confinement) -> Vec<String> {
    confinement.in_force().iter().map(|(what, how)| format!("{what}: {how}")).collect()
}

const ALL: &str = r#"
memory = "64MiB"
limits = { cpu = 0.5, files = 100, processes = 40, disk = "32MiB", file_size = "1GiB" }
isolation = { user = "alice", read_only = true, write = ["tmp"], network = false }
"#;

#[test]
fn a_machine_that_can_keeps_everything_and_says_how() {
    let all = of(able(), ALL).unwrap();
    assert_eq!(all.share, Share { memory_bytes: Some(64 << 20), processes: Some(40), cpu: Some(0.5) });
    assert_eq!((all.disk_bytes, all.data_bytes), (Some(32 << 20), None));
    assert_eq!(all.walls, Walls { writable: Some(vec![PathBuf::from("/tmp")]), scoped: true });
    assert!(all.filter.is_some());
    assert_eq!(all.user.as_ref().map(|user| (user.uid.as_raw(), user.gid.as_raw())), Some((1000, 1001)));
    let said = said(&all);
    for line in [
        "memory: 64MiB by cgroup v2",
        "processes: 40 by cgroup v2",
        "cpu: 0.5 by cgroup v2",
        "files: 100",
        "file_size: 1GiB",
        "disk: 32MiB by a private tmpfs",
        "user: alice (1000:1001)",
        "read_only: by Landlock",
        "network: none, by seccomp",
    ] {
        assert!(said.iter().any(|other| other == line), "{line} in {said:#?}");
    }
}

#[test]
fn a_machine_that_cannot_refuses_each_demand_by_its_key() {
    let refused: Vec<String> = of(unable(), ALL).unwrap_err().iter().map(ToString::to_string).collect();
    for key in ["limits.cpu", "limits.disk", "isolation.user", "isolation.read_only", "isolation.network"] {
        assert!(refused.iter().any(|fault| fault.starts_with(key)), "{key} in {refused:#?}");
    }
    let alone = of(unable(), "limits = { processes = 40 }").unwrap_err();
    assert_eq!(alone, [Unfit::Processes("no group can be made".to_owned())]);
}

#[test]
fn without_a_demand_such_a_machine_limits_the_data_of_each_process_and_says_so() {
    let plain = of(unable(), "memory = \"64MiB\"").unwrap();
    // 64 MiB, and the stacks of 4 slots and 8 other threads.
    let data = (64 << 20) + 12 * (2 << 20);
    assert_eq!((plain.data_bytes, plain.share), (Some(data), Share::default()));
    assert!(plain.rlimits.iter().any(|(resource, limit)| *resource == Resource::Data && limit.maximum == Some(data)));
    assert_eq!(said(&plain), ["memory: 88MiB of data of each process by RLIMIT_DATA"]);
}

#[test]
fn the_number_of_processes_has_a_default_where_it_can_be_counted() {
    let mut v1 = unable();
    v1.tree.v1 = BTreeMap::from([(Controller::Pids, PathBuf::from("/nowhere"))]);
    let plain = of(v1, "").unwrap();
    assert_eq!(plain.share.processes, Some(PROCESSES));
    assert!(said(&plain).contains(&format!("processes: {PROCESSES} by {}", Version::One)));
}

#[test]
fn processes_of_a_user_can_be_counted_without_groups() {
    let machine = Machine { tree: unable().tree, ..able() };
    let counted = of(machine, "limits = { processes = 40 }\nisolation = { user = \"alice\" }").unwrap();
    assert!(counted.rlimits.iter().any(|(resource, limit)| *resource == Resource::Nproc && limit.maximum == Some(40)));
    assert!(said(&counted).iter().any(|line| line == "processes: 40 of the user alice altogether by RLIMIT_NPROC"));
}

#[test]
fn a_user_that_is_none_and_root_are_refused_and_so_is_a_folder_that_is_not_there() {
    let one = |more: &str| of(able(), more).unwrap_err();
    assert_eq!(one("isolation = { user = \"bob\" }"), [Unfit::NoUser("bob".to_owned())]);
    assert_eq!(one("isolation = { user = \"root\" }"), [Unfit::Root("root".to_owned())]);
    let nowhere = one("isolation = { read_only = true, write = [\"no/where\"] }");
    assert_eq!(nowhere, [Unfit::NoFolder(PathBuf::from("/no/where"))]);
}
