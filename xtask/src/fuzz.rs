//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, each for a fixed time on its stored corpus.
//!
//! It builds them as cargo-fuzz does, with coverage but without a sanitizer: that needs no nightly compiler and no further
//! tool, and what is fuzzed has no unsafe code of ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;

use crate::run;

/// Every target; `fuzz/Cargo.toml` names the same (a test compares).
pub const TARGETS: [&str; 4] = ["event", "frame", "manifest", "runtime"];

/// What makes libFuzzer see which branches an input takes.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing";

/// `cargo xtask fuzz [--seconds N] [TARGET…]`: 60 s each unless told.
///
/// # Errors
/// A target is unknown, was not built, or an input broke it; the text says how to see it again.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut seconds, mut targets) = (60, Vec::new());
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            let number =
                args.next().and_then(|text| text.parse().ok()).filter(|seconds| (1..=86_400).contains(seconds));
            seconds = number.ok_or("--seconds takes a number from 1 to 86400")?;
        } else if TARGETS.contains(&arg.as_str()) {
            targets.push(arg.as_str());
        } else {
            return Err(format!("unknown fuzz target {arg}; there are: {}", TARGETS.join(", ")));
        }
    }
    if targets.is_empty() {
        targets.extend(TARGETS);
    }
    let programs = build()?;
    let broken: Vec<String> = targets.into_iter().filter_map(|target| fuzz(&programs, target, seconds).err()).collect();
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
}

/// Builds all targets; returns the folder of the programs.
///
/// # Errors
/// Cargo's own, or the compiler does not say what it builds for.
pub fn build() -> Result<PathBuf, String> {
    let host = host()?;
    run::succeed(&mut cargo_build(run::cargo(), &host)?)?;
    Ok(programs(&host))
}

/// The same while something else runs: at the lowest priority, and without a word.
pub fn build_aside() -> JoinHandle<Result<PathBuf, String>> {
    std::thread::spawn(|| {
        let host = host()?;
        run::output(&mut cargo_build(nice_cargo(), &host)?)?;
        Ok(programs(&host))
    })
}

fn nice_cargo() -> Command {
    let mut cargo = run::program("nice");
    cargo.args(["-n", "19"]).arg(run::cargo().get_program());
    cargo
}

fn programs(host: &str) -> PathBuf {
    run::root().join("target/fuzz").join(host).join("debug")
}

/// What builds all targets. `command`: calls cargo.
fn cargo_build(mut command: Command, host: &str) -> Result<Command, String> {
    // The versions that everything else is built with; only the fuzzer's own library is resolved anew.
    let lock = run::root().join("fuzz/Cargo.lock");
    std::fs::copy(run::root().join("Cargo.lock"), &lock)
        .map_err(|error| format!("writing {}: {error}", lock.display()))?;
    // Named even though it is the host: build scripts and macros are left without coverage then.
    command.args(["build", "--bins", "--manifest-path", "fuzz/Cargo.toml", "--target", host]);
    command.args(["--target-dir", "target/fuzz"]).env("RUSTFLAGS", COVERAGE).env_remove("CARGO_ENCODED_RUSTFLAGS");
    Ok(command)
}

fn host() -> Result<String, String> {
    let output = run::output(run::program("rustc").arg("-vV"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc -vV names no host".to_owned())
}

/// Runs one target. New inputs go to `target/`, not to the stored corpus.
///
/// # Errors
/// An input broke it.
pub fn fuzz(programs: &Path, target: &str, seconds: u32) -> Result<(), String> {
    let found = run::root().join("target/fuzz/found").join(target);
    let broke = run::root().join("target/fuzz/broke").join(target);
    for folder in [&found, &broke] {
        std::fs::create_dir_all(folder).map_err(|error| format!("making {}: {error}", folder.display()))?;
    }
    let stored = run::root().join("fuzz/corpus").join(target);
    let mut command = Command::new(programs.join(target));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", broke.display()));
    // An input may take 10 s and 1 GiB at most: what hangs or swells is a fault too.
    command.args([
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-max_len=16384",
        "-verbosity=0",
        "-print_funcs=0",
        "-print_final_stats=1",
    ]);
    command.arg(&found).arg(&stored).current_dir(run::root());
    println!("fuzzing {target} for {seconds} s");
    let output = run::output(&mut command).map_err(|error| {
        format!(
            "fuzz target {target}: an input broke it; it is in {}, and {} FILE runs it again. When that is mended, store \
             the input in fuzz/corpus/{target}. {error}",
            broke.display(),
            programs.join(target).display()
        )
    })?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let tried = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    println!("fuzzing {target}: {} inputs, none broke it", tried.unwrap_or("?").trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn cargo_can_be_called_at_the_lowest_priority() {
        let version = |command: &mut Command| run::output(command.arg("--version")).unwrap().stdout;
        assert_eq!(version(&mut nice_cargo()), version(&mut run::cargo()));
    }

    #[test]
    fn the_targets_are_those_of_the_fuzz_package_and_each_has_a_corpus() {
        let text = std::fs::read_to_string(run::root().join("fuzz/Cargo.toml")).unwrap();
        let package: toml::Table = text.parse().unwrap();
        let bins = package["bin"].as_array().unwrap();
        let names: Vec<&str> = bins.iter().map(|bin| bin["name"].as_str().unwrap()).collect();
        assert_eq!(names, TARGETS);
        for target in TARGETS {
            let inputs = std::fs::read_dir(run::root().join("fuzz/corpus").join(target)).unwrap().count();
            assert!(inputs >= 5, "{target} has {inputs} stored inputs");
        }
    }
}
