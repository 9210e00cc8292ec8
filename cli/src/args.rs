//! The command line.

mod dlq;
mod simulate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use weft_schemas::{FunctionName, Key, NodeName};

pub use dlq::{DeadLetterFilter, Dlq, DlqGroups, DlqLs, DlqPurge, DlqRedrive, DlqShow, Rate};
pub use simulate::{PriceList, Simulate};

/// Serverless functions on events, on machines you own: from RabbitMQ, with effects that happen once.
///
/// Exit statuses: 0 done, 1 failed, 2 usage, 3 bad input file, 4 service unreachable, 5 credentials refused,
/// 6 a check said no, 7 not found, 8 port or name taken, 9 worker program at fault, 130 stopped before the work was done.
#[derive(Debug, Parser)]
#[command(name = "weft", version, max_term_width = 110)]
pub struct Weft {
    #[command(flatten)]
    pub log: Log,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Log {
    /// Which log lines to show, such as `info` or `weft_dispatcher=debug`
    #[arg(long = "log", env = "WEFT_LOG", global = true, value_name = "FILTER")]
    pub filter: Option<String>,
    /// How log lines look
    #[arg(long = "log-format", env = "WEFT_LOG_FORMAT", global = true, value_enum, default_value_t = LogFormat::Human)]
    pub format: LogFormat,
    /// Where traces go: the base address of an OTLP/HTTP receiver such as <http://127.0.0.1:4318>
    #[arg(long = "otlp", env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true, value_name = "URL")]
    pub otlp: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an e-commerce flow from zero workers back to zero, and check every effect
    Demo(Demo),
    /// Run the functions of a manifest on the embedded default: one file, no services
    Dev(Dev),
    /// Run the functions of a manifest on RabbitMQ, Postgres and Redis
    Run(Run),
    /// Write a function that runs at once: its code, its manifest, and how to run it
    Init(Init),
    /// Become a runtime that Weft brings along; a worker's program, named by `command` in `weft.toml`
    Runtime(Runtime),
    /// Publish events
    Publish(Publish),
    /// Invoke a function of a running dispatcher, and print its answer and what it took
    Invoke(Invoke),
    /// List the functions of a manifest, with live numbers when a dispatcher runs
    Functions(Functions),
    /// List, show or follow invocations
    Invocations(Invocations),
    /// List, group, show, redrive or purge dead letters
    #[command(subcommand)]
    Dlq(Dlq),
    /// Check that every accepted event is accounted for, by the ledger's books and the broker's queues
    Audit(Audit),
    /// Show what the functions have used, and what it would cost on demand, as containers or as nodes
    Cost(Cost),
    /// Replay a trace of invocations under several keep-alive policies, and compare cold starts, memory and costs
    Simulate(Simulate),
    /// Create or upgrade the ledger's tables
    Migrate(Migrate),
    /// Check connections, versions, topology and limits, and say what to do
    Doctor(Doctor),
    /// Print a JSON Schema: of the manifest, the dead letter, or Weft's own events
    Schema(Schema),
    /// Print a completion script for a shell
    Completions(Completions),
}

/// Where the services are. With none named, the embedded file is used where a command allows it.
///
/// A password on a command line can be read by every user of the machine: give the address by its variable, or by a
/// file named in the variable with `_FILE` behind it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Services")]
pub struct Services {
    /// RabbitMQ, such as <amqp://user@host:5672/vhost> (also: `WEFT_AMQP_URL_FILE`)
    #[arg(long, env = "WEFT_AMQP_URL", hide_env_values = true, value_name = "URL")]
    pub amqp: Option<String>,
    /// Postgres, such as <postgres://user@host:5432/weft> (also: `WEFT_LEDGER_URL_FILE`)
    #[arg(long, env = "WEFT_LEDGER_URL", hide_env_values = true, value_name = "URL")]
    pub ledger: Option<String>,
    /// Redis, such as <redis://host:6379> (also: `WEFT_STATE_URL_FILE`)
    #[arg(long, env = "WEFT_STATE_URL", hide_env_values = true, value_name = "URL")]
    pub state: Option<String>,
    /// One SQLite file instead of the three services [default: .weft/weft.db]
    #[arg(long, env = "WEFT_EMBEDDED", value_name = "FILE", conflicts_with_all = ["amqp", "ledger", "state"])]
    pub embedded: Option<PathBuf>,
    /// Prefix of every queue, exchange and state key
    #[arg(long, env = "WEFT_PREFIX", default_value = "weft")]
    pub prefix: String,
}

#[derive(Debug, Clone, Args)]
pub struct ManifestFile {
    /// The function manifest
    #[arg(long, short = 'm', env = "WEFT_MANIFEST", default_value = "weft.toml", value_name = "FILE")]
    pub manifest: PathBuf,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Dispatcher")]
pub struct Dispatching {
    /// This dispatcher's name; two on the same services must differ [default: the host's name]
    #[arg(long, env = "WEFT_NODE")]
    pub node: Option<NodeName>,
    /// Address of the admin port (health and status); port 0 takes a free one
    #[arg(long, env = "WEFT_ADMIN", default_value = "127.0.0.1:7070", value_name = "HOST:PORT")]
    pub admin: SocketAddr,
    /// Address of the Invoke API for AWS's clients, or `off`; port 0 takes a free one [default: `weft run` off, `weft dev`
    /// 127.0.0.1:9001]
    #[arg(long, env = "WEFT_INVOKE", value_name = "HOST:PORT|off", value_parser = listening)]
    pub invoke: Option<Listening>,
    /// Address of the function URLs (`/fn/NAME/…`), open to whoever reaches it, or `off`; port 0 takes a free one [default:
    /// `weft run` off, `weft dev` 127.0.0.1:9002]
    #[arg(long, env = "WEFT_URLS", value_name = "HOST:PORT|off", value_parser = listening)]
    pub urls: Option<Listening>,
    /// Who may call the Invoke API: a file with one `ACCESS_KEY:SECRET` a line (also: `WEFT_INVOKE_CREDENTIALS`). Without it
    /// the API answers this machine only
    #[arg(long, env = "WEFT_INVOKE_CREDENTIALS_FILE", value_name = "FILE")]
    pub invoke_credentials_file: Option<PathBuf>,
    /// Workers of one function at most
    #[arg(long, env = "WEFT_MAX_WORKERS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_workers: u32,
    /// Workers of all functions together at most [default: 32 per core, at least 128]
    #[arg(long, env = "WEFT_NODE_WORKERS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub node_workers: Option<u32>,
    /// Memory of all workers together at most, by what the functions declare, such as `6GiB` [default: 3/4 of what there is]
    #[arg(long, env = "WEFT_NODE_MEMORY", value_name = "SIZE", value_parser = size)]
    pub node_memory: Option<u64>,
    /// How long a dispatcher's claims outlive it when it vanishes, 1s to 10m
    #[arg(long, env = "WEFT_LEASE", default_value = "15s", value_parser = duration(1, 600))]
    pub lease: Duration,
    /// How long a stop waits for what runs, 0s to 1h
    #[arg(long, env = "WEFT_DRAIN_LIMIT", default_value = "30s", value_parser = duration(0, 3600))]
    pub drain_limit: Duration,
}

/// Whether and where a listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    Off,
    At(SocketAddr),
}

/// Reads an address, or `off`.
fn listening(text: &str) -> Result<Listening, String> {
    if text == "off" {
        return Ok(Listening::Off);
    }
    text.parse()
        .map(Listening::At)
        .map_err(|_| "write an address and a port, such as 127.0.0.1:9001, or off".to_owned())
}

#[derive(Debug, Args)]
pub struct Demo {
    #[command(flatten)]
    pub services: Services,
    /// One JSON object instead of progress and a table
    #[arg(long)]
    pub json: bool,
    /// Give up after this long
    #[arg(long, default_value = "120s", value_parser = duration(1, 3600))]
    pub limit: Duration,
}

#[derive(Debug, Args)]
pub struct Dev {
    #[command(flatten)]
    pub manifest: ManifestFile,
    /// The SQLite file that holds queues, ledger and state
    #[arg(long, env = "WEFT_EMBEDDED", default_value = ".weft/weft.db", value_name = "FILE")]
    pub embedded: PathBuf,
    /// Prefix of every queue, exchange and state key
    #[arg(long, env = "WEFT_PREFIX", default_value = "weft")]
    pub prefix: String,
    /// Keep workers when the code of their function changes
    #[arg(long)]
    pub no_watch: bool,
    #[command(flatten)]
    pub dispatching: Dispatching,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub manifest: ManifestFile,
    #[command(flatten)]
    pub services: Services,
    #[command(flatten)]
    pub dispatching: Dispatching,
}

#[derive(Debug, Args)]
pub struct Publish {
    /// The event's type, such as `orders.placed`
    #[arg(value_name = "TYPE", required_unless_present = "file")]
    pub kind: Option<String>,
    /// The event's data as JSON; `@FILE` reads a file, `-` standard input
    #[arg(long, short = 'd', value_name = "JSON", conflicts_with = "file")]
    pub data: Option<String>,
    /// The event's id [default: a new one each time]
    #[arg(long, conflicts_with = "file")]
    pub id: Option<String>,
    /// The event's source
    #[arg(long, default_value = "/weft/publish")]
    pub source: String,
    /// Publish every line of an NDJSON file (`-`: standard input): a CloudEvent, or a message by its parts
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with = "kind")]
    pub file: Option<PathBuf>,
    /// How many copies of the event, each with an id of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub count: u64,
    /// At most this many events a second [default: as fast as the broker confirms]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Publish to this exchange [default: PREFIX.events]
    #[arg(long)]
    pub exchange: Option<String>,
    /// One JSON object instead of a bar and a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub services: Services,
}

/// By the Invoke API of a running dispatcher. The answer goes to standard output, the rest to standard error. Exit status 1
/// when the function fails.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft invoke create-order -d @event.json --key order-17")]
pub struct Invoke {
    /// The function
    pub name: FunctionName,
    /// The payload as JSON; `@FILE` reads a file, `-` standard input [default: null]
    #[arg(long, short = 'd', value_name = "JSON")]
    pub data: Option<String>,
    /// The idempotency key: again with the same one it is not run again, and has the same answer [default: a new one each
    /// time]
    #[arg(long)]
    pub key: Option<String>,
    /// Do not wait for the answer
    #[arg(long = "async")]
    pub asynchronous: bool,
    /// Address of the Invoke API [default: 127.0.0.1:9001]
    #[arg(long, env = "WEFT_INVOKE", value_name = "HOST:PORT", value_parser = listening)]
    pub invoke: Option<Listening>,
    /// The API's access keys, of which the first signs the call (also: `WEFT_INVOKE_CREDENTIALS`)
    #[arg(long, env = "WEFT_INVOKE_CREDENTIALS_FILE", value_name = "FILE")]
    pub invoke_credentials_file: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Safe on a live system. Exit status 6 when something is unaccounted for.
#[derive(Debug, Args)]
pub struct Audit {
    /// Also check that each event of this file was accepted (the lines that `weft publish --file` takes)
    #[arg(long, value_name = "FILE")]
    pub published: Option<PathBuf>,
    /// The function manifest, for --published
    #[command(flatten)]
    pub manifest: ManifestFile,
    /// Time between the two looks: only what both show unchanged is a difference; 0s to 10m
    #[arg(long, default_value = "2s", value_parser = duration(0, 600))]
    pub pause: Duration,
    /// What changed within this time is under way and not judged, 0s to 1h
    #[arg(long, default_value = "30s", value_parser = duration(0, 3600))]
    pub grace: Duration,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub services: Services,
}

/// From what the dispatchers have written into the ledger, at most a minute ago: attempts, billed time, workers' time.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft cost --since 30d")]
pub struct Cost {
    /// Only this function
    pub function: Option<FunctionName>,
    /// Only the hours from so long ago on, such as `1d` [default: all that is known]
    #[arg(long, value_name = "AGE", value_parser = duration(0, 315_360_000))]
    pub since: Option<Duration>,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub prices: PriceList,
    #[command(flatten)]
    pub services: Services,
}

#[derive(Debug, Args)]
pub struct Functions {
    /// Only this one
    pub name: Option<FunctionName>,
    #[command(flatten)]
    pub manifest: ManifestFile,
    /// Address of a running dispatcher's admin port
    #[arg(long, env = "WEFT_ADMIN", default_value = "127.0.0.1:7070", value_name = "HOST:PORT")]
    pub admin: SocketAddr,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Invocations {
    /// Show this one whole (needs --function when the key is not unique)
    pub key: Option<Key>,
    /// Only this function
    #[arg(long)]
    pub function: Option<FunctionName>,
    /// Only those that stand so
    #[arg(long = "in", value_enum, value_name = "STATE")]
    pub standing: Option<InvocationState>,
    /// At most this many, newest change first
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Keep printing what changes, oldest first, until interrupted
    #[arg(long, short = 'F', conflicts_with = "key")]
    pub follow: bool,
    /// A JSON array; with --follow one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub services: Services,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InvocationState {
    Claimed,
    Waiting,
    Succeeded,
    Dead,
}

#[derive(Debug, Args)]
pub struct Migrate {
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub services: Services,
}

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    pub manifest: ManifestFile,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub services: Services,
}

#[derive(Debug, Args)]
pub struct Schema {
    /// Which one
    #[arg(value_enum)]
    pub name: SchemaName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaName {
    Manifest,
    DeadLetter,
    Events,
}

#[derive(Debug, Args)]
pub struct Init {
    /// The folder to write into; made if need be. A file that is there is never overwritten
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// What the function is written in
    #[arg(long, value_enum)]
    pub from: Language,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// Python, through AWS's runtime client
    Python,
    /// Node.js, through the runtime that Weft brings along
    Node,
    /// Rust, with the crate `lambda_runtime`
    Rust,
    /// Any program that speaks AWS Lambda's Runtime API: here a shell script
    Lambda,
}

#[derive(Debug, Args)]
pub struct Runtime {
    /// Which runtime
    #[arg(value_enum)]
    pub name: RuntimeName,
    /// The handler, such as `index.handler` [default: the variable `_HANDLER`]
    pub handler: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuntimeName {
    /// Node.js 18.17 or newer
    Node,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    pub shell: clap_complete::Shell,
}

/// Reads sizes such as `512MiB`, 16 MiB at least: less holds no worker.
fn size(text: &str) -> Result<u64, String> {
    match weft_schemas::manifest::bytes::parse(text) {
        Some(bytes) if bytes >= 16 << 20 => Ok(bytes),
        Some(_) => Err("must be 16MiB or more".to_owned()),
        None => Err("write a number and a unit, such as 512MiB or 6GiB".to_owned()),
    }
}

/// Reads durations such as `500ms`, `15s`, `2m`, within bounds in seconds.
fn duration(least: u64, most: u64) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let duration = weft_schemas::manifest::duration::parse(text)
            .ok_or_else(|| "write a number and a unit, such as 500ms, 15s or 2m".to_owned())?;
        if duration < Duration::from_secs(least) || duration > Duration::from_secs(most) {
            return Err(format!("must be from {least}s to {most}s"));
        }
        Ok(duration)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_command_has_two_flags_of_one_name() {
        super::Weft::command().debug_assert();
    }
}
