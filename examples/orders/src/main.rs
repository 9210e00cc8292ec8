//! The program `orders`: with no argument it is the worker that `weft` starts; its commands are for people.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use weft_example_orders::{dataset, model};

/// A shop on Weft. Without a command it is a worker, which only `weft` can start.
#[derive(Debug, Parser)]
#[command(name = "orders", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a file of orders with known trouble in it, for `weft publish --file`.
    Generate {
        /// The same seed and count make the same bytes.
        #[arg(long, default_value_t = dataset::SEED)]
        seed: u64,
        /// Number of lines; at least 100.
        #[arg(long, default_value_t = dataset::COUNT)]
        count: usize,
        /// Print the end state that the file must lead to instead.
        #[arg(long)]
        expected: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: failed to {}", weft_process::report::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Generate { seed, count, expected } => {
            let entries = dataset::generate(seed, count)?;
            let text = match expected {
                true => model::expect(&entries, dataset::accounts())?.to_text()?,
                false => dataset::to_text(&entries)?,
            };
            std::io::stdout().lock().write_all(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
