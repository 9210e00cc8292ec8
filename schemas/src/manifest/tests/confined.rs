//! `limits` and `isolation`.

use super::*;

#[test]
fn what_a_worker_is_confined_to_is_read_as_it_stands() {
    let function = function(&with(
        "limits = { cpu = 0.5, files = 1024, processes = 64, disk = \"64MiB\", file_size = \"1GiB\", output = \"64KiB\" }\n\
         isolation = { user = \"nobody\", read_only = true, write = [\"data\", \"/var/x\"], network = false }",
    ));
    let limits = Limits {
        cpu: Some(0.5),
        files: Some(1024),
        processes: Some(64),
        disk_bytes: Some(64 << 20),
        file_size_bytes: Some(1 << 30),
        output_bytes: 64 << 10,
    };
    assert_eq!(function.limits, limits);
    let write = vec!["data".to_owned(), "/var/x".to_owned()];
    let isolation = Isolation { user: Some("nobody".to_owned()), read_only: true, write, network: false };
    assert_eq!(function.isolation, isolation);
}

#[test]
fn what_contradicts_itself_in_a_confinement_is_refused() {
    for (lines, fault) in [
        ("limits = { disk = \"300MiB\" }", "limits.disk (300MiB) is more than memory (256MiB)"),
        ("isolation = { write = [\"x\"] }", "isolation.write says nothing without isolation.read_only"),
        ("isolation = { network = \"no\" }", "network in [functions.f.isolation] is of type string, not boolean"),
        ("limits = { cpu = 0 }", "cpu in [functions.f.limits] is out of range"),
    ] {
        let shown = shown(&with(lines)).join("\n");
        assert!(shown.contains(fault), "{shown}");
    }
}
