//! The program `orders`: with no argument it is the worker that `weft` starts; its commands are for people.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use weft_example_orders::judge::{Verdict, compare, observe};
use weft_example_orders::{dataset, model, prepare, worker_main};
use weft_process::report::{Exit, chain};

/// A shop on Weft. Without a command it is a worker, which only `weft` can start.
#[derive(Debug, Parser)]
#[command(name = "orders", version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create the shop's tables and fill its customers' accounts; what is there is left as it is
    Prepare(Database),
    /// Print a file of orders with known trouble in it, for `weft publish --file`
    Generate {
        /// The same seed and count make the same bytes
        #[arg(long, default_value_t = dataset::SEED)]
        seed: u64,
        /// Number of lines; at least 100
        #[arg(long, default_value_t = dataset::COUNT)]
        count: usize,
        /// Print the end that the file must lead to instead
        #[arg(long)]
        expected: bool,
    },
    /// Say whether the end is as expected; exits with 6 if it is not
    Judge {
        #[command(flatten)]
        database: Database,
        /// Redis, such as <redis://host:6379>
        #[arg(long, env = "WEFT_STATE_URL", hide_env_values = true, value_name = "URL")]
        state: Option<String>,
        /// Prefix of every queue, exchange and state key
        #[arg(long, env = "WEFT_PREFIX", default_value = "weft")]
        prefix: String,
        /// The orders that were published [default: the committed ones]
        #[arg(long, value_name = "FILE")]
        orders: Option<PathBuf>,
        /// One JSON object instead of lines
        #[arg(long)]
        json: bool,
    },
}

/// Where the ledger is.
#[derive(Debug, Args)]
struct Database {
    /// Postgres, such as <postgres://user@host:5432/weft>
    #[arg(long, env = "WEFT_LEDGER_URL", hide_env_values = true, value_name = "URL")]
    ledger: Option<String>,
    /// The SQLite file to use when no --ledger is given
    #[arg(long, env = "WEFT_EMBEDDED", default_value = ".weft/weft.db", value_name = "FILE")]
    embedded: PathBuf,
}

impl Database {
    fn embedded_url(&self) -> String {
        format!("sqlite://{}", self.embedded.display())
    }

    fn url(&self) -> String {
        self.ledger.clone().unwrap_or_else(|| self.embedded_url())
    }
}

type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    // A worker answers as soon as it can: not a step more than needed before that.
    if std::env::args_os().len() <= 1 {
        return worker_main();
    }
    match run(Arguments::parse().command) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("error: failed to {}", chain(error.as_ref()));
            ExitCode::from(Exit::Failure as u8)
        }
    }
}

fn run(command: Command) -> Result<Exit, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        Command::Prepare(database) => {
            if let (None, Some(folder)) = (&database.ledger, database.embedded.parent()) {
                std::fs::create_dir_all(folder)?;
            }
            runtime.block_on(prepare(&database.url()))?;
            println!("the shop's tables are there, with {} accounts", dataset::accounts().len());
            Ok(Exit::Ok)
        }
        Command::Generate { seed, count, expected } => {
            let entries = dataset::generate(seed, count)?;
            let text = match expected {
                true => model::expect(&entries, dataset::accounts())?.to_text()?,
                false => dataset::to_text(&entries)?,
            };
            std::io::stdout().lock().write_all(text.as_bytes())?;
            Ok(Exit::Ok)
        }
        Command::Judge { database, state, prefix, orders, json } => {
            let state = match (state, &database.ledger) {
                (Some(state), _) => state,
                (None, None) => database.embedded_url(),
                (None, Some(_)) => return Err("know where the state is: give --state or WEFT_STATE_URL".into()),
            };
            let entries = match orders {
                Some(file) => dataset::parse(&std::fs::read_to_string(file)?)?,
                None => dataset::committed()?,
            };
            let verdict = runtime.block_on(judge(&database.url(), &state, &prefix, &entries))?;
            report(&verdict, json)?;
            Ok(if verdict.passes() { Exit::Ok } else { Exit::Check })
        }
    }
}

async fn judge(ledger_url: &str, state_url: &str, prefix: &str, entries: &[dataset::Entry]) -> Result<Verdict, Failed> {
    let expected = model::expect(entries, dataset::accounts())?;
    let ledger = weft_ledger::open(ledger_url).await?;
    ledger.check().await?;
    let observed = observe(ledger_url, state_url, ledger.as_ref(), prefix).await?;
    Ok(compare(&expected, &observed, dataset::accounts()))
}

fn report(verdict: &Verdict, json: bool) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, verdict)?;
        writeln!(out)?;
        return Ok(());
    }
    for difference in &verdict.differences {
        writeln!(out, "- {difference}")?;
    }
    writeln!(out, "lost: {}", verdict.lost)?;
    writeln!(out, "double effects: {}", verdict.double_effects)?;
    writeln!(out, "differences: {}", verdict.differences.len())?;
    Ok(())
}
