//! The project's own tools: `cargo xtask test`, `check`, `fuzz`, `soak` and `arch`.
//!
//! Depends on nothing of Weft's, so that it builds in seconds and works while the rest does not.

mod arch;
mod check;
mod clients;
mod failures;
mod fuzz;
mod install;
mod outcome;
mod run;
mod services;
mod soak;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--no-install] [FILTER…]   every test of the workspace, on real servers
cargo xtask check                           format, lints, architecture, dependency rules
cargo xtask fuzz [--seconds N] [TARGET…]     event, frame, manifest and runtime on hostile input
cargo xtask soak [--minutes N] [--seed S]   random faults to everything, and a judge; see docs/soak.md
cargo xtask clients                         what the tests need of PyPI and npm, in target/clients/
cargo xtask arch                            who may depend on whom";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let result = match command.as_deref() {
        Some("test") => test::run(&rest),
        Some("check") => check::run(),
        Some("fuzz") => fuzz::run(&rest),
        Some("clients") => clients::run(),
        Some("arch") => arch::run(),
        Some("soak") => soak::run(&rest),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            if !fault.is_empty() {
                eprintln!("xtask: {fault}");
            }
            ExitCode::FAILURE
        }
    }
}
