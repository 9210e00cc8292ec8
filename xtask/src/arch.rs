//! Who may depend on whom: the directions between our packages, and the one owner of each client library. And that what
//! is there for tests alone is turned on by tests alone.
//!
//! Tests may use what they like (`dev-dependencies` are not looked at).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::run;

/// Each of our packages and those of ours that it may use. A package that is not listed is refused.
const MAY_USE: &[(&str, &[&str])] = &[
    ("weft-schemas", &[]),
    ("weft-process", &[]),
    ("weft-ledger", &["weft-schemas", "weft-process"]),
    ("weft-worker", &["weft-ledger", "weft-schemas", "weft-process"]),
    ("weft-dispatcher", &["weft-ledger", "weft-schemas", "weft-process"]),
    ("weft-example-orders", &["weft-worker", "weft-ledger", "weft-schemas", "weft-process"]),
    ("weft", &["weft-dispatcher", "weft-worker", "weft-ledger", "weft-schemas", "weft-process", "weft-example-orders"]),
    // Measures every part against its floor, so it may see all of them, on the servers of the harness.
    ("weft-bench", &["weft-dispatcher", "weft-worker", "weft-ledger", "weft-schemas", "weft-process", "weft-tests"]),
    // The harness knows nothing of what it tests; its tests do.
    ("weft-tests", &["weft-worker"]),
    ("xtask", &[]),
];

/// Each client library and the packages that may use it directly. The first is its owner; `weft-bench` measures floors,
/// which are the client library and nothing else.
const OWNED: &[(&str, &[&str])] = &[
    ("lapin", &["weft-dispatcher", "weft-bench"]),
    ("sqlx", &["weft-ledger", "weft-bench"]),
    ("redis", &["weft-worker", "weft-bench"]),
    ("opentelemetry_sdk", &["weft-process"]),
    ("opentelemetry-otlp", &["weft-process"]),
];

/// Features that only tests may turn on: no feature of ours and no normal dependency may. A program that is built without
/// the test package has no trace of what is behind them.
const FOR_TESTS: &[&str] = &["crash-points"];

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
    /// What each feature turns on.
    #[serde(default)]
    features: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// `None` for a normal one, else `dev` or `build`.
    kind: Option<String>,
    /// What is turned on in it.
    #[serde(default)]
    features: Vec<String>,
}

/// Checks the workspace.
///
/// # Errors
/// Every violation, one per line.
pub fn run() -> Result<(), String> {
    let output = run::output(run::cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let faults = violations(&String::from_utf8_lossy(&output.stdout))?;
    if faults.is_empty() {
        println!("architecture: every dependency goes the right way");
        return Ok(());
    }
    Err(format!("the architecture does not hold:\n  {}", faults.join("\n  ")))
}

/// What in `metadata` (of `cargo metadata --no-deps`) goes against the rules.
fn violations(metadata: &str) -> Result<Vec<String>, String> {
    let metadata: Metadata =
        serde_json::from_str(metadata).map_err(|error| format!("reading cargo's metadata: {error}"))?;
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let ours: Vec<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some(allowed) = rules.get(name) else {
            faults.push(format!(
                "{name}: a package that the rules do not know; say in xtask/src/arch.rs what it may use"
            ));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev")) {
            let used = dependency.name.as_str();
            if ours.contains(&used) && !allowed.contains(&used) {
                faults.push(format!("{name} uses {used}; it may use: {}", listed(allowed)));
            }
            if let Some((_, owners)) = OWNED.iter().find(|(library, _)| *library == used)
                && !owners.contains(&name)
            {
                faults.push(format!("{name} uses {used}, which belongs to {}", listed(owners)));
            }
            for feature in dependency.features.iter().filter(|feature| for_tests(feature)) {
                faults.push(format!("{name} turns on {feature} in {used}, which is for tests alone"));
            }
        }
        for (feature, turns_on) in &package.features {
            for other in turns_on.iter().filter(|other| for_tests(other)) {
                faults.push(format!("{name}'s feature {feature} turns on {other}, which is for tests alone"));
            }
        }
    }
    Ok(faults)
}

/// `feature`, `package/feature` or `package?/feature`.
fn for_tests(feature: &str) -> bool {
    FOR_TESTS.contains(&feature.rsplit('/').next().unwrap_or(feature))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "none of ours".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use serde_json::{Value, json};

    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        json!({ "name": name, "dependencies": dependencies })
    }

    fn faults(packages: &[Value]) -> Vec<String> {
        violations(&json!({ "packages": packages }).to_string()).expect("metadata")
    }

    #[test]
    fn the_workspace_keeps_its_architecture() {
        assert_eq!(run(), Ok(()));
    }

    #[test]
    fn every_rule_names_a_package_that_exists() {
        let output = run::output(run::cargo().args(["metadata", "--format-version", "1", "--no-deps"])).unwrap();
        let metadata: Metadata = serde_json::from_slice(&output.stdout).unwrap();
        for (name, _) in MAY_USE {
            assert!(metadata.packages.iter().any(|package| package.name == *name), "{name}");
        }
    }

    #[test]
    fn a_dependency_against_the_direction_is_found() {
        let found = faults(&[
            package("weft-schemas", &[("serde", None), ("weft-ledger", None)]),
            package("weft-ledger", &[("weft-schemas", None)]),
        ]);
        assert_eq!(found, ["weft-schemas uses weft-ledger; it may use: none of ours"]);
    }

    #[test]
    fn dispatcher_and_worker_meet_only_in_schemas() {
        let found = faults(&[
            package("weft-dispatcher", &[("weft-worker", None)]),
            package("weft-worker", &[("weft-dispatcher", None)]),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_client_library_in_a_second_hand_is_found() {
        for (library, owners) in OWNED {
            let found = faults(&[package("weft", &[(library, None)])]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(library) && found[0].contains(owners[0]), "{found:?}");
            assert!(faults(&[package(owners[0], &[(library, None)])]).is_empty());
        }
    }

    #[test]
    fn tests_may_use_what_they_like_and_build_scripts_may_not() {
        assert!(faults(&[package("weft", &[("lapin", Some("dev"))])]).is_empty());
        assert_eq!(faults(&[package("weft", &[("lapin", Some("build"))])]).len(), 1);
    }

    #[test]
    fn what_is_for_tests_is_turned_on_by_tests_alone() {
        let turned_on = |kind: Option<&str>| {
            json!({ "name": "weft-tests", "dependencies": [
                { "name": "weft-process", "kind": kind, "features": ["crash-points"] }
            ] })
        };
        assert!(faults(&[turned_on(Some("dev"))]).is_empty());
        assert_eq!(faults(&[turned_on(None)]).len(), 1);
        for other in ["crash-points", "weft-process/crash-points", "weft-process?/crash-points"] {
            let package = json!({ "name": "weft", "dependencies": [], "features": { "default": [other] } });
            assert_eq!(faults(&[package]).len(), 1, "{other}");
        }
    }

    #[test]
    fn a_package_without_a_rule_is_refused() {
        assert_eq!(faults(&[package("weft-new", &[])]).len(), 1);
    }
}
