//! `cargo xtask test`: every test of the workspace in one run, with one closing line.
//!
//! Nothing is skipped, nothing is tried twice, and a suite that went missing fails the run as a failed test does.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::outcome::{self, Outcome};
use crate::services::Services;
use crate::{clients, fuzz, run};

/// Suites that must have tests: (package, test program, how a test's name begins).
const REQUIRED: &[(&str, &str, &str)] = &[
    ("weft-schemas", "weft_schemas", ""),
    ("weft-process", "weft_process", ""),
    ("weft-ledger", "weft_ledger", ""),
    ("weft-worker", "weft_worker", ""),
    ("weft-dispatcher", "weft_dispatcher", ""),
    ("weft", "weft", ""),
    ("weft-example-orders", "weft_example_orders", ""),
    ("xtask", "xtask", "arch::"),
    ("weft-tests", "it", "harness::"),
    ("weft-tests", "it", "ledger_postgres::"),
    ("weft-tests", "it", "broker_rabbitmq::"),
    ("weft-tests", "it", "state_redis::"),
    ("weft-tests", "it", "worker_postgres::"),
    ("weft-tests", "it", "compose::"),
    ("weft-tests", "it", "runtimes::"),
    ("weft-tests", "it", "soak::"),
    ("weft-tests", "it", "system_"),
    ("weft-tests", "it", "cases_"),
];

/// What every build and run names, so that Cargo sees one and the same thing each time and builds it once.
const WORKSPACE: [&str; 2] = ["--workspace", "--locked"];

/// How long each fuzz target runs here; `cargo xtask fuzz` runs them longer.
const FUZZ_SECONDS: u32 = 5;

struct TestProgram {
    package: String,
    name: String,
    path: PathBuf,
}

/// Runs it.
///
/// # Errors
/// A test failed, was skipped or is missing: an empty text, as the closing line has said it all. Or the run could not be
/// made.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut install = true;
    let mut filters = Vec::new();
    for arg in args {
        match arg.as_str() {
            "--no-install" => install = false,
            option if option.starts_with('-') => {
                return Err(format!("unknown option {option}; there is: --no-install"));
            }
            filter => filters.push(filter.to_owned()),
        }
    }
    crate::install::servers(install)?;
    let clients = if install {
        crate::install::clients(true)?;
        clients::install()?
    } else {
        clients::present()
    };

    println!("building");
    run::succeed(run::cargo().arg("build").args(WORKSPACE).args(["--lib", "--bins", "--tests", "--examples"]))?;
    let programs = test_programs()?;
    let (listed, missing) = inventory(&programs)?;
    let bin = binaries(&programs)?;

    println!("starting the servers");
    let services = Services::start(&bin)?;
    let mut environment = services.variables.clone();
    environment.push(("WEFT_TEST_BIN_DIR".to_owned(), bin.display().to_string()));
    environment.extend(clients);
    // The tests wait more than they compute.
    let fuzzers = filters.is_empty().then(fuzz::build_aside);
    let run = if run::works(run::cargo().args(["nextest", "--version"])) { with_nextest } else { with_libtest };
    let (mut total, mut ok) = run(&filters, &environment)?;

    let mut faults: Vec<String> =
        missing.iter().map(|suite| format!("no test of the required suite {suite}")).collect();
    if filters.is_empty() && total.total() != listed {
        faults.push(format!("{} tests were run or counted, and {listed} are there", total.total()));
    }
    if filters.is_empty() {
        let (documentation, fine) = doc_tests(&environment)?;
        total += documentation;
        ok &= fine;
    }
    drop(services);
    if let Some(fuzzers) = fuzzers {
        let programs = fuzzers.join().map_err(|_| "the build of the fuzz targets broke off".to_owned())??;
        total += fuzz_targets(&programs);
    }

    if total.failed == 0 && !ok {
        faults.push("the runner failed without a failed test; see above".to_owned());
    }
    if total.skipped > 0 {
        faults.push("a test was skipped; tests run or go".to_owned());
    }
    if total.total() == 0 {
        faults.push("no test was run".to_owned());
    }
    for fault in &faults {
        eprintln!("xtask: {fault}");
    }
    println!("{total}");
    if total.failed == 0 && faults.is_empty() { Ok(()) } else { Err(String::new()) }
}

/// Every test program of the workspace, as Cargo built it.
fn test_programs() -> Result<Vec<TestProgram>, String> {
    let mut command = run::cargo();
    command.arg("test").args(WORKSPACE).args(["--lib", "--bins", "--tests", "--examples", "--no-run", "--quiet"]);
    let output = run::output(command.arg("--message-format=json"))?;
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let is_test = message.pointer("/profile/test").and_then(serde_json::Value::as_bool) == Some(true);
        let text = |pointer: &str| message.pointer(pointer).and_then(serde_json::Value::as_str).map(str::to_owned);
        let (Some(path), Some(name), Some(id), true) =
            (text("/executable"), text("/target/name"), text("/package_id"), is_test)
        else {
            continue;
        };
        programs.push(TestProgram { package: package_of(&id), name: name.replace('-', "_"), path: path.into() });
    }
    if programs.is_empty() { Err("cargo built no test program".to_owned()) } else { Ok(programs) }
}

/// `path+file:///…/tests#weft-tests@0.1.0`, or `path+file:///…/xtask#0.1.0` where the folder is the name.
fn package_of(id: &str) -> String {
    let (path, after) = id.rsplit_once('#').unwrap_or(("", id));
    match after.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => path.rsplit('/').next().unwrap_or(path).to_owned(),
    }
}

/// How many tests there are, and which required suites have none.
fn inventory(programs: &[TestProgram]) -> Result<(u64, Vec<String>), String> {
    let mut listed = 0;
    let mut names = Vec::new();
    for program in programs {
        let output =
            run::output(Command::new(&program.path).args(["--list", "--format", "terse"]).stdin(Stdio::null()))?;
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some(test) = line.strip_suffix(": test") {
                listed += 1;
                names.push((program.package.as_str(), program.name.as_str(), test.to_owned()));
            }
        }
    }
    let has = |package: &str, program: &str, begin: &str| {
        names.iter().any(|(its_package, its_program, test)| {
            *its_package == package && *its_program == program && test.starts_with(begin)
        })
    };
    let missing = REQUIRED
        .iter()
        .filter(|(package, program, begin)| !has(package, program, begin))
        .map(|(package, program, begin)| format!("{package}/{program}/{begin}"))
        .collect();
    Ok((listed, missing))
}

/// The folder of the built binaries: one above the test programs.
fn binaries(programs: &[TestProgram]) -> Result<PathBuf, String> {
    let deps = programs.first().and_then(|program| program.path.parent());
    deps.and_then(Path::parent).map(Path::to_owned).ok_or_else(|| "test programs lie in no folder".to_owned())
}

type Ran = Result<(Outcome, bool), String>;

fn with_nextest(filters: &[String], environment: &[(String, String)]) -> Ran {
    let mut command = run::cargo();
    command.args(["nextest", "run"]).args(WORKSPACE).args(["--lib", "--bins", "--tests", "--examples"]);
    command.args(["--retries", "0", "--no-fail-fast", "--color", "never", "--status-level", "fail"]);
    command.args(["--final-status-level", "slow", "--no-tests", "pass"]).args(filters);
    let filtered = !filters.is_empty();
    counted(command, environment, |line| outcome::nextest(line, filtered))
}

/// For machines without nextest: the same tests, one program after the other.
fn with_libtest(filters: &[String], environment: &[(String, String)]) -> Ran {
    let mut command = run::cargo();
    command.arg("test").args(WORKSPACE).args(["--lib", "--bins", "--tests", "--examples", "--no-fail-fast", "--"]);
    command.args(filters);
    counted(command, environment, outcome::libtest)
}

fn doc_tests(environment: &[(String, String)]) -> Ran {
    let mut command = run::cargo();
    command.arg("test").args(WORKSPACE).args(["--doc", "--no-fail-fast"]);
    counted(command, environment, outcome::libtest)
}

/// Each fuzz target is one test, for a short and fixed time.
fn fuzz_targets(programs: &Path) -> Outcome {
    let mut total = Outcome::default();
    for target in fuzz::TARGETS {
        match fuzz::fuzz(programs, target, FUZZ_SECONDS) {
            Ok(()) => total.passed += 1,
            Err(fault) => {
                eprintln!("xtask: {fault}");
                total.failed += 1;
            }
        }
    }
    total
}

/// Runs a test runner, passes its output on and adds up what `read` finds in it. Also: whether it ended with zero.
fn counted(mut command: Command, environment: &[(String, String)], read: impl Fn(&str) -> Option<Outcome>) -> Ran {
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    // One pipe for both streams keeps their order.
    let (reader, writer) = std::io::pipe().map_err(|error| format!("making a pipe: {error}"))?;
    let errors = writer.try_clone().map_err(|error| format!("making a pipe: {error}"))?;
    let mut child = command
        .stdout(writer)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("starting {}: {error}", run::shown(&command)))?;
    // The command holds the pipe's other end open; without it the reading ends with the child.
    drop(command);
    let total = sum_lines(reader, &read);
    let status = child.wait().map_err(|error| format!("waiting for the tests: {error}"))?;
    Ok((total, status.success()))
}

fn sum_lines(from: impl Read, read: &impl Fn(&str) -> Option<Outcome>) -> Outcome {
    let mut total = Outcome::default();
    let mut out = std::io::stdout().lock();
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        let _ = writeln!(out, "{line}");
        if let Some(found) = read(&line) {
            total += found;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_names_are_read_from_both_forms_of_an_id() {
        assert_eq!(package_of("path+file:///home/u/weft/tests#weft-tests@0.1.0"), "weft-tests");
        assert_eq!(package_of("path+file:///home/u/weft/xtask#0.1.0"), "xtask");
    }

    #[test]
    fn every_program_that_reports_is_added_up() {
        let text = "test result: ok. 5 passed; 0 failed; 0 ignored\nnoise\ntest result: FAILED. 1 passed; 2 failed; 1 ignored\n";
        let total = sum_lines(text.as_bytes(), &outcome::libtest);
        assert_eq!(total, Outcome { passed: 6, failed: 2, skipped: 1 });
    }
}
