//! `weft completions`.

use clap::CommandFactory as _;
use weft_process::report::{Exit, Report};

use crate::args;

pub fn run(args: &args::Completions) -> Result<Exit, Report> {
    clap_complete::generate(args.shell, &mut args::Weft::command(), "weft", &mut std::io::stdout());
    Ok(Exit::Ok)
}
