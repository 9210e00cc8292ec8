//! `weft`: parses the command line, composes the parts, and decides nothing itself.

mod args;
mod commands;
mod services;
mod show;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::args::Weft;

/// The first argument that turns this program into the demo's worker. Not for people.
const WORKER: &str = "__worker";

fn main() -> ExitCode {
    // Before anything else: a worker's start is somebody's cold start.
    if std::env::args_os().nth(1).is_some_and(|first| first == WORKER) {
        return weft_example_orders::worker_main();
    }
    let matches = Weft::command().get_matches();
    let weft = match Weft::from_arg_matches(&matches) {
        Ok(weft) => weft,
        Err(error) => error.exit(),
    };
    services::warn_of_visible_passwords(&matches);
    match commands::run(weft) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(report) => {
            show::report(&report);
            ExitCode::from(report.code.exit() as u8)
        }
    }
}
