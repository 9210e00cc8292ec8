//! `weft run` and `weft dev`: a dispatcher until told to stop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use weft_dispatcher::http::{Credentials, Listen};
use weft_dispatcher::scale::Budget;
use weft_dispatcher::{Config, Dispatcher};
use weft_process::report::{Code, Exit, Report};
use weft_process::shutdown::Shutdown;
use weft_process::telemetry::{Export, Metrics};
use weft_schemas::NodeName;
use weft_schemas::manifest::Manifest;

use crate::args;
use crate::services::Services;

/// Where the function URLs of `weft dev` are when nobody says.
const URLS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9002);
/// Where the Invoke API of `weft dev` is when nobody says.
pub const INVOKE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9001);

pub async fn run(args: args::Run, export: Export) -> Result<Exit, Report> {
    if Services::is_default(&args.services) {
        return Err(Report::new(Code::Setting, "failed to choose services: none is named").help(
            "give --amqp, --ledger and --state (or their variables), or --embedded FILE; `weft dev` uses one file",
        ));
    }
    let services = Services::resolve(&args.services)?;
    let manifest = load(&args.manifest)?;
    let callers = callers(&args.dispatching, None)?;
    dispatch(manifest, &services, &args.services.prefix, args.dispatching, callers, None, export).await
}

pub async fn dev(args: args::Dev, export: Export) -> Result<Exit, Report> {
    let manifest = load(&args.manifest)?;
    let callers = callers(&args.dispatching, Some([INVOKE, URLS]))?;
    let followed = (!args.no_watch).then_some(args.manifest.manifest);
    let services = Services::Embedded(args.embedded);
    dispatch(manifest, &services, &args.prefix, args.dispatching, callers, followed, export).await
}

/// The callers' listeners: what is given, else what the command has by itself.
fn callers(given: &args::Dispatching, by_itself: Option<[SocketAddr; 2]>) -> Result<Listen, Report> {
    let choose = |given: Option<args::Listening>, default: Option<SocketAddr>| match given {
        Some(args::Listening::At(address)) => Some(address),
        Some(args::Listening::Off) => None,
        // Another `weft dev` may have it; nobody has asked for it here.
        None => default.filter(|address| std::net::TcpListener::bind(address).is_ok()),
    };
    Ok(Listen {
        invoke: choose(given.invoke, by_itself.map(|[invoke, _]| invoke)),
        urls: choose(given.urls, by_itself.map(|[_, urls]| urls)),
        credentials: credentials(given.invoke_credentials_file.as_deref())?,
    })
}

/// Who may call, from the file or from the variable; never from the command line, which every user can read.
///
/// # Errors
/// The file cannot be read, or what is there are no access keys.
pub fn credentials(file: Option<&Path>) -> Result<Option<Credentials>, Report> {
    let (text, place) = match (file, std::env::var("WEFT_INVOKE_CREDENTIALS")) {
        (Some(path), _) => {
            let place = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|error| Report::new(Code::InputFile, format!("failed to read {place}: {error}")))?;
            (text, place)
        }
        (None, Ok(text)) if !text.is_empty() => (text, "WEFT_INVOKE_CREDENTIALS".to_owned()),
        (None, _) => return Ok(None),
    };
    let read = Credentials::parse(&text);
    read.map(Some).map_err(|fault| {
        Report::new(Code::InputFile, format!("failed to read the access keys in {place}: {fault}"))
            .help("write one ACCESS_KEY:SECRET a line")
    })
}

/// Reads a manifest, with every fault in one report.
pub fn load(file: &args::ManifestFile) -> Result<Manifest, Report> {
    let mut manifest = Manifest::load(&file.manifest).map_err(|faults| {
        Report::new(Code::Manifest, faults.to_string()).help("`weft schema manifest` prints what a manifest may hold")
    })?;
    name_ourselves(&mut manifest);
    Ok(manifest)
}

/// A program `weft` is this one, wherever it lies: the runtimes that it brings along are of its own version.
fn name_ourselves(manifest: &mut Manifest) {
    let Some(own) = std::env::current_exe().ok().and_then(|path| path.into_os_string().into_string().ok()) else {
        return;
    };
    for function in manifest.functions.values_mut() {
        if let Some(program) = function.command.first_mut().filter(|program| *program == "weft") {
            program.clone_from(&own);
        }
    }
}

/// What the workers may have together: what is given, else what the machine has.
fn budget(manifest: &Manifest, dispatching: &args::Dispatching) -> Budget {
    let machine = weft_dispatcher::machine::budget(manifest);
    Budget {
        workers: dispatching.node_workers.unwrap_or(machine.workers),
        memory_bytes: dispatching.node_memory.unwrap_or(machine.memory_bytes),
    }
}

async fn dispatch(
    manifest: Manifest,
    services: &Services,
    prefix: &str,
    dispatching: args::Dispatching,
    callers: Listen,
    followed: Option<PathBuf>,
    export: Export,
) -> Result<Exit, Report> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to follow signals: {error}")))?;
    let budget = budget(&manifest, &dispatching);
    let node = match dispatching.node {
        Some(node) => node,
        None => NodeName::new(super::hostname()).map_err(|error| {
            Report::new(Code::Setting, format!("failed to name this node: {error}")).help("give --node")
        })?,
    };
    let metrics = Metrics::from_env("weft", node.as_str())
        .map_err(|error| Report::of(Code::Setting, &error).help("see docs/telemetry.md"))?;
    let ledger = services.ledger().await?;
    ledger.migrate().await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    let config = Config {
        node,
        prefix: prefix.to_owned(),
        manifest,
        broker: services.broker().await?,
        ledger,
        ledger_address: services.ledger_address()?,
        state_address: services.state_address()?,
        admin: Some(dispatching.admin),
        lease: dispatching.lease,
        drain_limit: dispatching.drain_limit,
        max_workers: dispatching.max_workers,
        budget,
        export,
        metrics,
    };
    weft_worker::check_state(config.state_address.expose())
        .await
        .map_err(|error| crate::services::state(&config.state_address, &error))?;
    let state = config.state_address.clone();
    let dispatcher = Dispatcher::prepare(config).await?.with_state_check(std::sync::Arc::new(move || {
        let state = state.clone();
        let check = async move { weft_worker::check_state(state.expose()).await };
        Box::pin(async move { check.await.map_err(|error| weft_process::report::chain(&error)) })
    }));
    let mut dispatcher = dispatcher.with_callers(callers).await?;
    if let Some(manifest) = followed {
        dispatcher = dispatcher.following_code(manifest);
    }
    if let Some(address) = dispatcher.admin_address() {
        tracing::info!(%address, "admin port open");
    }
    dispatcher.run(shutdown.clone()).await?;
    Ok(if shutdown.kill.is_cancelled() { Exit::Killed } else { Exit::Ok })
}
