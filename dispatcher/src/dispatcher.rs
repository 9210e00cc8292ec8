//! A dispatcher, put together: bind and check first, then build, then run; the drain goes the other way round.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_ledger::Ledger;
use weft_process::report::{Code, Report};
use weft_process::secret::Address;
use weft_process::shutdown::Shutdown;
use weft_process::telemetry::{Export, Forwarder, Metrics};
use weft_schemas::frame::Start;
use weft_schemas::manifest::{Function, Manifest, bytes};
use weft_schemas::{FunctionName, NodeName};

use crate::admission::Admission;
use crate::broker::{Broker, FunctionQueue, Names, Topology};
use crate::function::Door;
use crate::function::core::{Bounds, Core};
use crate::function::rate;
use crate::function::task::{Surroundings, run as run_function};
use crate::http::Listen;
use crate::link::{Confinement, Machine, Program};
use crate::nets::copies::Copies;
use crate::nets::{self, Nets};
use crate::node::Keeper;
use crate::relay::Relay;
use crate::requests::Requests;
use crate::scale::{Budget, Schedule};
use crate::services::{Check, Condition, Pace, watch_state};
use crate::shares::Shares;
use crate::status::Stats;
use crate::{admin, http, report, usage};

/// The most deliveries that one function may hold; RabbitMQ caps a quorum queue's prefetch at 2,000.
const PREFETCH_MOST: u32 = 2_000;
/// The least that a function with an order takes: so many events may wait for their turn without holding up other keys.
const ORDERED_PREFETCH: u32 = 1_000;
/// How long the nets have to write out what is under way when the functions have stopped.
const NETS_LIMIT: Duration = Duration::from_secs(5);
/// How long callers have to take their answers when the functions have stopped.
const CALLERS_LIMIT: Duration = Duration::from_secs(5);
/// The period of the retention sweep, and the most rows that it deletes in one statement.
const SWEEP: (Duration, u32) = (Duration::from_secs(60), 5_000);

/// What a dispatcher is made of.
pub struct Config {
    pub node: NodeName,
    /// Prefix of every broker name and state key.
    pub prefix: String,
    pub manifest: Manifest,
    pub broker: Arc<dyn Broker>,
    pub ledger: Arc<dyn Ledger>,
    /// Where workers connect when a handler asks: the ledger and the state.
    pub ledger_address: Address,
    pub state_address: Address,
    /// `None`: no admin port.
    pub admin: Option<SocketAddr>,
    /// How long claims outlive a dispatcher that vanished; 1 s to 10 min.
    pub lease: Duration,
    /// How long a drain waits for what runs.
    pub drain_limit: Duration,
    /// Workers of one function at most.
    pub max_workers: u32,
    /// Workers of all functions at most, and their memory; [`machine::budget`](crate::machine::budget) says what fits here.
    pub budget: Budget,
    /// Where spans go; the workers' too.
    pub export: Export,
    /// Where counts and durations go.
    pub metrics: Metrics,
}

impl Config {
    pub const LEASE: Duration = Duration::from_secs(15);
    pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);
    pub const MAX_WORKERS: u32 = 16;
}

/// A dispatcher that is ready to run: everything that can be wrong at start has been found.
pub struct Dispatcher {
    config: Config,
    stats: Stats,
    functions: Vec<Prepared>,
    admin: Option<tokio::net::TcpListener>,
    state_check: Option<Check>,
    front: Option<http::Bound>,
    /// The manifest, where the code of functions is to be followed.
    followed: Option<PathBuf>,
}

struct Prepared {
    function: Arc<Function>,
    program: Arc<Program>,
    admission: Admission,
}

impl Dispatcher {
    /// Resolves programs, makes sure that what their workers are to be confined to can be kept, binds the admin port, checks that each program registers its handlers, migrates nothing.
    ///
    /// # Errors
    /// The first thing that is wrong, as a person should read it.
    pub async fn prepare(config: Config) -> Result<Self, Report> {
        fits(&config)?;
        let mut functions = Vec::new();
        let files = embedded_folders([&config.ledger_address, &config.state_address]);
        for function in config.manifest.functions.values() {
            let lookup = |name: &str| std::env::var_os(name);
            let mut program = Program::resolve(function, &config.manifest.root, &lookup)
                .map_err(|error| report::program(&function.name, &error))?;
            let confinement = Confinement::of(function, Machine::enter(), &config.manifest.root, &files)
                .map_err(|unfit| report::unfit(&function.name, &unfit))?;
            let in_force = confinement.in_force().iter().map(|(what, how)| format!("{what}: {how}"));
            tracing::info!(function = %function.name, limits = in_force.collect::<Vec<_>>().join(", "), "workers are confined");
            program.confinement = Arc::new(confinement);
            if let Some(why) = program.keep_tmp(Machine::enter().may_mount()) {
                tracing::warn!(function = %function.name, why, "workers of a Lambda function share /tmp with the machine");
            }
            let function = Arc::new(function.clone());
            let admission = Admission::new(Arc::clone(&function)).map_err(|problem| {
                Report::new(Code::Manifest, format!("failed to read the schema of {}: {problem}", function.name))
            })?;
            functions.push(Prepared { function, program: Arc::new(program), admission });
        }
        let admin = match config.admin {
            Some(address) => Some(admin::bind(address).await.map_err(|error| report::port(address, &error))?),
            None => None,
        };
        let stats = Stats::new(config.manifest.functions.keys(), &config.metrics);
        for function in config.manifest.functions.values() {
            stats.memory(&function.name, function.memory_bytes);
        }
        for Prepared { function, program, .. } in &functions {
            if let Some(own) = stats.functions().get(&function.name) {
                own.confined(program.confinement.in_force());
            }
        }
        let this = Self { config, stats, functions, admin, state_check: None, front: None, followed: None };
        this.probe().await?;
        Ok(this)
    }

    /// How to find out whether the state answers: the admin port and the log tell. Without it nobody looks.
    #[must_use]
    pub fn with_state_check(mut self, check: Check) -> Self {
        self.state_check = Some(check);
        self
    }

    /// Opens the callers' listeners; without it nobody can call.
    ///
    /// # Errors
    /// A port is taken, or what is asked for would be open to anybody.
    pub async fn with_callers(mut self, listen: Listen) -> Result<Self, Report> {
        self.front = Some(http::Bound::bind(listen).await?).filter(|bound| !bound.is_off());
        Ok(self)
    }

    /// The address that the Invoke API got.
    pub fn invoke_address(&self) -> Option<SocketAddr> {
        self.front.as_ref().and_then(http::Bound::invoke_address)
    }

    /// Follows the code of functions while it runs: when it changes, workers finish what they run and are replaced, and no
    /// event is lost. Of a change of the manifest itself, `manifest`, it only says that it needs a new start.
    #[must_use]
    pub fn following_code(mut self, manifest: PathBuf) -> Self {
        self.followed = Some(manifest);
        self
    }

    /// Starts to follow code, and what each function hears of its own.
    fn follow_code(
        &self,
        background: &mut JoinSet<()>,
        stop: CancellationToken,
    ) -> BTreeMap<FunctionName, watch::Receiver<u64>> {
        let Some(manifest) = self.followed.clone() else { return BTreeMap::new() };
        let of = |own: &Prepared| crate::code::Code::of(own.function.name.clone(), &own.function.command, &own.program);
        let codes: Vec<crate::code::Code> = self.functions.iter().map(of).collect();
        let (mut tell, mut hear) = (BTreeMap::new(), BTreeMap::new());
        for Prepared { function, .. } in &self.functions {
            let (teller, hearer) = watch::channel(0);
            tell.insert(function.name.clone(), teller);
            hear.insert(function.name.clone(), hearer);
        }
        match crate::code::watch(codes, manifest, tell) {
            Ok(following) => {
                background.spawn(async move {
                    stop.run_until_cancelled(following).await;
                });
            }
            Err(error) => tracing::warn!(%error, "code is not followed; start again when it has changed"),
        }
        hear
    }

    /// The live numbers; may be read while it runs.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// The address that the admin port got.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Starts each distinct program once, to learn whether it starts and which handlers it registers.
    async fn probe(&self) -> Result<(), Report> {
        type Distinct<'a> = (&'a std::path::Path, &'a [OsString], &'a [(&'static str, String)]);
        let mut programs: BTreeMap<Distinct<'_>, Vec<&Prepared>> = BTreeMap::new();
        // A Lambda function registers nothing, and what keeps it from starting today may not tomorrow.
        for prepared in self.functions.iter().filter(|prepared| prepared.program.lambda.is_none()) {
            let Program { path, args, confinement, .. } = &*prepared.program;
            // One that starts freely may not start confined.
            programs.entry((path, args, confinement.in_force())).or_default().push(prepared);
        }
        for users in programs.into_values() {
            let Some(first) = users.first() else { continue };
            // Only asked what it registers: a warm-up may take long, and another may be down that it needs.
            let start = Start { warm_up_ms: Some(0), ..self.start(&first.function) };
            let limit = users.iter().map(|user| user.function.init_timeout).max().unwrap_or_default();
            let registered = crate::link::probe(Arc::clone(&first.program), start, limit)
                .await
                .map_err(|ending| report::start(&first.function.name, &first.program, &ending))?;
            for user in users {
                if let Some(misfit) = registered.misfit(&user.function) {
                    return Err(report::handler(&user.function, &user.program, &misfit));
                }
            }
        }
        Ok(())
    }

    fn start(&self, function: &Function) -> Start {
        Start {
            function: function.name.clone(),
            worker: format!("{}-0", function.name),
            max_result_bytes: function.max_result_bytes,
            // A tenth is left for the start itself, so that the worker can tell what took too long.
            warm_up_ms: Some(millis(function.init_timeout * 9 / 10)),
            ledger_url: self.config.ledger_address.expose().to_owned(),
            state_url: self.config.state_address.expose().to_owned(),
            prefix: self.config.prefix.clone(),
            spans: !matches!(self.config.export, Export::None),
        }
    }

    /// What must exist at the broker.
    pub fn topology(&self) -> Topology {
        topology(&self.config.prefix, &self.config.manifest)
    }

    /// Takes events until told to stop; returns when everything is settled or handed back and every worker is gone.
    ///
    /// # Errors
    /// The topology or the node's name was refused, or a consumer could not be started.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Report> {
        let Self { ref config, ref stats, .. } = self;
        config.broker.declare(&self.topology()).await.map_err(|error| report::broker(&error))?;
        let (ledger, state) = (Condition::well(), Condition::well());
        let (keeper, owner) =
            Keeper::enter(Arc::clone(&config.ledger), config.node.clone(), config.lease, ledger.clone())
                .await
                .map_err(|error| report::ledger(&error))?;

        let stop = CancellationToken::new();
        // What goes on until nothing is claimed any more, and what ends when the drain begins.
        let (mut background, mut emptiers) = (JoinSet::new(), JoinSet::new());
        let (wake, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let forwarder = Arc::new(Forwarder::new(&config.export));
        background.spawn(keeper.run(stop.clone()));
        if let Some(check) = &self.state_check {
            background.spawn(watch_state(Arc::clone(check), Pace::STATE, state.clone(), stop.clone()));
        }
        if let Some(by) = owner.borrow().clone() {
            background.spawn(usage::keep(Arc::clone(&config.ledger), stats.clone(), by, stop.clone()));
        }
        background.spawn(sweep(Arc::clone(&config.ledger), stop.clone()));
        let relay = Relay {
            ledger: Arc::clone(&config.ledger),
            broker: Arc::clone(&config.broker),
            wake: Arc::clone(&wake),
            closed: Arc::clone(&closed),
            stats: stats.clone(),
        };
        background.spawn(relay.run(stop.clone()));

        let names = Names::new(config.prefix.clone());
        let caught = nets::subscribe(&*config.broker, &names).await.map_err(|error| report::broker(&error))?;
        let admissions = self.functions.iter().map(|own| (own.function.name.clone(), own.admission.clone()));
        let emptying = Nets {
            names: names.clone(),
            prefix: config.prefix.clone(),
            functions: admissions.collect(),
            ledger: Arc::clone(&config.ledger),
            owner: owner.clone(),
            relay: Arc::clone(&wake),
            stats: stats.clone(),
        };
        emptiers.spawn(emptying.run(caught, shutdown.drain.clone()));
        let copies = Copies {
            ledger: Arc::clone(&config.ledger),
            broker: Arc::clone(&config.broker),
            names: names.clone(),
            functions: stats.functions().keys().cloned().chain([FunctionName::unrouted()]).collect(),
            closed,
            stats: stats.clone(),
        };
        emptiers.spawn(copies.run(shutdown.drain.clone()));

        let shares = Shares::new(config.budget);
        background.spawn(shares.clone().run(stop.clone()));
        let code = self.follow_code(&mut background, stop.clone());
        let mut loops = JoinSet::new();
        let mut served = Vec::new();
        for Prepared { function, program, admission } in &self.functions {
            let bounds = bounds(function, config);
            let queue = names.function(&function.name);
            let subscription = config
                .broker
                .subscribe(&queue, u16::try_from(bounds.prefetch).unwrap_or(u16::MAX))
                .await
                .map_err(|error| report::broker(&error))?;
            let numbers = stats.functions().get(&function.name).cloned().unwrap_or_default();
            let (door, callers) = Door::new();
            let core = Core::new(Arc::clone(function), &config.prefix, admission.clone(), bounds, Arc::clone(&numbers));
            served.push(http::Served::new(Arc::clone(function), admission.clone(), door, numbers));
            loops.spawn(run_function(
                core,
                Surroundings {
                    function: Arc::clone(function),
                    subscription,
                    broker: Arc::clone(&config.broker),
                    queue,
                    share: shares.join(function.memory_bytes, function.concurrency.weight),
                    ledger: Arc::clone(&config.ledger),
                    owner: owner.clone(),
                    program: Arc::clone(program),
                    code: code.get(&function.name).cloned().unwrap_or_else(|| watch::channel(0).1),
                    start: self.start(function),
                    callers,
                    relay: Arc::clone(&wake),
                    forwarder: Arc::clone(&forwarder),
                    stats: stats.clone(),
                    shutdown: shutdown.clone(),
                    drain_limit: config.drain_limit,
                },
            ));
        }
        if let Some(listener) = self.admin {
            let view = admin::View {
                node: config.node.clone(),
                stats: stats.clone(),
                broker: config.broker.health(),
                owner: owner.clone(),
                ledger,
                state,
            };
            background.spawn(admin::serve(listener, view, stop.clone()));
        }
        let mut callers = JoinSet::new();
        let mut requests = None;
        if let Some(front) = self.front {
            let (open, arriving) =
                Requests::open(Arc::clone(&config.broker), Arc::clone(&config.ledger), names.clone(), &config.node)
                    .await
                    .map_err(|error| report::broker(&error))?;
            background.spawn(open.clone().collect(arriving, stop.clone()));
            callers.spawn(front.serve(served, open.clone(), shutdown.drain.clone()));
            requests = Some(open);
        }
        tracing::info!(node = %config.node, functions = self.functions.len(), "taking events");

        let mut failed = None;
        loop {
            let (what, ended) = tokio::select! {
                biased;
                ended = loops.join_next() => match ended {
                    Some(ended) => ("a function's loop", ended),
                    None => break,
                },
                Some(ended) = background.join_next() => ("a background task", ended),
                // These end with the drain, and may fail as well.
                Some(ended) = emptiers.join_next() => ("the emptying of the broker's nets", ended),
            };
            let panic = ended.err();
            if panic.is_none() && shutdown.drain.is_cancelled() {
                continue;
            }
            // What ends by itself has said why; the rest must not go on half.
            let how = panic.map_or_else(|| "ended by itself".to_owned(), |panic| format!("failed: {panic}"));
            tracing::error!(what, how, "a part of the dispatcher is gone, stopping");
            failed.get_or_insert_with(|| Report::new(Code::Unexpected, format!("{what} {how}")));
            shutdown.drain.cancel();
        }
        let wait = async { while emptiers.join_next().await.is_some() {} };
        if tokio::time::timeout(NETS_LIMIT, wait).await.is_err() {
            tracing::warn!("the broker's nets were not let go of in time");
            emptiers.abort_all();
        }
        // Whose answer has not come by now looks for it in the ledger, and is told to ask again.
        if let Some(requests) = requests {
            requests.close();
        }
        let wait = async { while callers.join_next().await.is_some() {} };
        if tokio::time::timeout(CALLERS_LIMIT, wait).await.is_err() {
            tracing::warn!("callers did not take their answers in time");
            callers.abort_all();
        }
        // Only now: nothing of ours is claimed any more, so the lease, the relay and the connections may go.
        config.broker.close().await;
        stop.cancel();
        let wait = async { while background.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_secs(5), wait).await.is_err() {
            tracing::warn!("background tasks did not stop in time");
        }
        let (forwarder, metrics) = (Arc::clone(&forwarder), config.metrics.clone());
        let flush = move || {
            forwarder.shutdown();
            metrics.shutdown();
        };
        let _ = tokio::task::spawn_blocking(flush).await;
        Machine::enter().leave();
        tracing::info!("stopped");
        failed.map_or(Ok(()), Err)
    }
}

/// The folders of embedded ledgers and states: a worker whose writes are confined must reach these all the same.
fn embedded_folders(addresses: [&Address; 2]) -> Vec<PathBuf> {
    let file = |address: &&Address| {
        let path = address.expose().strip_prefix("sqlite:")?.split('?').next()?;
        let path = path.strip_prefix("//").unwrap_or(path);
        std::path::absolute(path).ok()?.parent().map(std::path::Path::to_path_buf)
    };
    let mut folders: Vec<PathBuf> = addresses.iter().filter_map(file).filter(|folder| folder.is_dir()).collect();
    folders.dedup();
    folders
}

/// What must exist at the broker for a manifest.
pub fn topology(prefix: &str, manifest: &Manifest) -> Topology {
    let functions = manifest.functions.values().map(|function| FunctionQueue {
        function: function.name.clone(),
        source: function.source.clone(),
        patterns: function.events.clone(),
        ordered: function.ordering.is_some(),
    });
    Topology { prefix: prefix.to_owned(), functions: functions.collect() }
}

/// What a function takes from the broker at most: what it may run at once, and what its caps let start soon. The rest is
/// better off with another dispatcher, or in the queue.
pub(crate) fn prefetch(function: &Function, workers: u32, reserved: u32) -> u32 {
    let call = function.batch.map_or(1, |batch| batch.size);
    let mut most = function.slots.saturating_mul(workers).min(reserved).saturating_mul(call);
    if let Some(rate) = function.rate {
        most = most.min(rate::prefetch(rate, function.timeout));
    }
    if let Some(total) = function.concurrency.total {
        most = most.min(total.saturating_mul(2).saturating_mul(call));
    }
    if function.ordering.is_some() {
        // Those that are not their key's turn are in hand too, and must not keep the others out.
        most = most.max(ORDERED_PREFETCH);
    }
    most.clamp(1, PREFETCH_MOST)
}

fn bounds(function: &Function, config: &Config) -> Bounds {
    let slots = function.slots.max(1);
    let reserved = function.concurrency.reserved.unwrap_or(u32::MAX);
    let provisioned = Schedule::new(&function.concurrency).most();
    let workers = config.max_workers.max(provisioned.div_ceil(slots)).max(1);
    Bounds {
        workers,
        reserved,
        prefetch: prefetch(function, workers, reserved),
        starts: cores(),
        shared: true,
        drain: config.drain_limit,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is provisioned must fit the node together, and a worker of each function by itself: else the promise could not be
/// kept, or the function would wait for ever.
fn fits(config: &Config) -> Result<(), Report> {
    let Budget { workers, memory_bytes } = config.budget;
    let (mut owed, mut owed_bytes) = (0u64, 0u64);
    for function in config.manifest.functions.values() {
        if function.memory_bytes > memory_bytes {
            let (wants, has) = (bytes::format(function.memory_bytes), bytes::format(memory_bytes));
            let text = format!(
                "failed to fit function {}: its worker wants {wants}, all workers may have {has}",
                function.name
            );
            return Err(
                Report::new(Code::Setting, text).help("give a larger --node-memory, or the function less memory")
            );
        }
        let provisioned = Schedule::new(&function.concurrency).most().div_ceil(function.slots.max(1));
        owed += u64::from(provisioned);
        owed_bytes = owed_bytes.saturating_add(function.memory_bytes.saturating_mul(provisioned.into()));
    }
    if owed > u64::from(workers) || owed_bytes > memory_bytes {
        let (wants, has) = (bytes::format(owed_bytes), bytes::format(memory_bytes));
        let text = format!(
            "failed to fit what is provisioned: {owed} workers with {wants}, the node has {workers} workers and {has}"
        );
        return Err(Report::new(Code::Setting, text).help("provision less, or raise --node-workers and --node-memory"));
    }
    Ok(())
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(2, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)).max(2)
}

async fn sweep(ledger: Arc<dyn Ledger>, stop: CancellationToken) {
    let (period, limit) = SWEEP;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        loop {
            match ledger.sweep(limit).await {
                Ok(swept) if swept >= u64::from(limit) && !stop.is_cancelled() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(error = weft_process::report::chain(&error), "sweep did not run");
                    break;
                }
            }
        }
    }
}
