//! `cargo xtask check`: what can be said without running a test.

use crate::{arch, failures, run};

/// Runs every check, also after one has failed.
///
/// # Errors
/// The checks that failed.
pub fn run() -> Result<(), String> {
    type Check = fn() -> Result<(), String>;
    let checks: [(&str, Check); 5] = [
        ("format", format),
        ("architecture", arch::run),
        ("failure table", failures::run),
        ("dependency rules", dependencies),
        ("lints", lints),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("checking: {name}");
        if let Err(fault) = check() {
            eprintln!("xtask: {name}: {fault}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

fn format() -> Result<(), String> {
    run::succeed(run::cargo().args(["fmt", "--all", "--check"]))?;
    // A workspace of its own.
    run::succeed(run::cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))
}

fn lints() -> Result<(), String> {
    run::succeed(run::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}

/// `deny.toml` must be readable and give a reason for each ban; with cargo-deny on the machine it is also obeyed.
fn dependencies() -> Result<(), String> {
    let path = run::root().join("deny.toml");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    let rules: toml::Table = text.parse().map_err(|error| format!("reading deny.toml: {error}"))?;
    let unreasoned = unreasoned(&rules);
    if !unreasoned.is_empty() {
        return Err(format!("deny.toml gives no reason for: {}", unreasoned.join(", ")));
    }
    if !run::works(run::cargo().args(["deny", "--version"])) {
        println!("cargo-deny is not installed: deny.toml was read, not applied");
        return Ok(());
    }
    // Advisories need the network and change by the day; they are the business of a scheduled run.
    run::succeed(run::cargo().args(["deny", "--locked", "check", "bans", "licenses", "sources"]))
}

/// The banned crates without a `reason`.
fn unreasoned(rules: &toml::Table) -> Vec<String> {
    let banned = rules.get("bans").and_then(|bans| bans.get("deny")).and_then(toml::Value::as_array);
    let has_reason =
        |ban: &toml::Value| ban.get("reason").and_then(toml::Value::as_str).is_some_and(|reason| !reason.is_empty());
    banned
        .into_iter()
        .flatten()
        .filter(|ban| !has_reason(ban))
        .map(|ban| ban.get("crate").and_then(toml::Value::as_str).unwrap_or("?").to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn deny_rules_are_read_and_reasoned() {
        let text = std::fs::read_to_string(run::root().join("deny.toml")).unwrap();
        let rules: toml::Table = text.parse().unwrap();
        assert!(rules["bans"]["deny"].as_array().unwrap().len() > 5);
        assert!(unreasoned(&rules).is_empty());
    }

    #[test]
    fn a_ban_without_a_reason_is_found() {
        let rules: toml::Table = "[bans]\ndeny = [{ crate = 'a', reason = 'b' }, { crate = 'c' }]".parse().unwrap();
        assert_eq!(unreasoned(&rules), ["c"]);
    }
}
