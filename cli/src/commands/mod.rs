//! One file for each command.

mod audit;
mod completions;
mod cost;
mod demo;
mod dlq;
mod doctor;
mod functions;
mod init;
mod invocations;
mod invoke;
mod migrate;
mod publish;
mod run;
mod runtime;
mod schema;
mod simulate;

use weft_process::report::{Code, Exit, Report};
use weft_process::telemetry::{self, Export, Telemetry};

use crate::args::{Command, Log, LogFormat, Weft};

/// How much a command logs when nobody says.
const QUIET: &str = "warn,lapin=off,sqlx=error";
const INFO: &str = "info,lapin=off,sqlx=error";
/// The demo has trouble on purpose, and tells of it in its summary.
const ERRORS: &str = "error,lapin=off";

/// Runs a command on a runtime of its own.
pub fn run(weft: Weft) -> Result<Exit, Report> {
    // These need neither a runtime nor telemetry.
    match weft.command {
        Command::Schema(schema) => return schema::run(&schema),
        Command::Simulate(simulate) => return simulate::run(&simulate),
        Command::Completions(completions) => return completions::run(&completions),
        Command::Init(init) => return init::run(&init),
        Command::Runtime(args) => return runtime::run(&args),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)))
        .enable_all()
        .build()
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to start the runtime: {error}")))?;
    let filter = match weft.command {
        Command::Run(_) | Command::Dev(_) => INFO,
        Command::Demo(_) => ERRORS,
        _ => QUIET,
    };
    let export = Export::from_env(weft.log.otlp.as_deref());
    let telemetry = start_telemetry(&weft.log, filter, export.clone())?;
    let result = runtime.block_on(async {
        match weft.command {
            Command::Demo(demo) => demo::run(demo, export).await,
            Command::Dev(dev) => run::dev(dev, export).await,
            Command::Run(args) => run::run(args, export).await,
            Command::Publish(publish) => publish::run(publish).await,
            Command::Invoke(invoke) => invoke::run(invoke).await,
            Command::Functions(functions) => functions::run(functions).await,
            Command::Invocations(invocations) => invocations::run(invocations).await,
            Command::Dlq(dlq) => dlq::run(dlq).await,
            Command::Audit(audit) => audit::run(audit).await,
            Command::Cost(cost) => cost::run(cost).await,
            Command::Migrate(migrate) => migrate::run(migrate).await,
            Command::Doctor(doctor) => doctor::run(doctor).await,
            Command::Schema(_)
            | Command::Simulate(_)
            | Command::Completions(_)
            | Command::Init(_)
            | Command::Runtime(_) => Ok(Exit::Ok),
        }
    });
    // Not in the runtime: the exporters have threads of their own and block while they flush.
    telemetry.shutdown();
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

fn start_telemetry(log: &Log, default_filter: &str, export: Export) -> Result<Telemetry, Report> {
    let settings = telemetry::Settings {
        service: "weft".to_owned(),
        instance: hostname(),
        log: match log.format {
            LogFormat::Human => telemetry::LogFormat::Human,
            LogFormat::Json => telemetry::LogFormat::Json,
        },
        log_target: telemetry::LogTarget::Stderr,
        filter: Some(log.filter.clone().unwrap_or_else(|| default_filter.to_owned())),
        export,
    };
    telemetry::init(settings).map_err(|error| Report::of(Code::Setting, &error).help("see docs/telemetry.md"))
}

/// The host's name, printable; `weft` when it has none.
pub fn hostname() -> String {
    let name = rustix::system::uname();
    let name: String = name.nodename().to_string_lossy().chars().filter(char::is_ascii_graphic).collect();
    if name.is_empty() { "weft".to_owned() } else { name }
}
