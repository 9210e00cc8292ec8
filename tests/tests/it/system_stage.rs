//! What the whole-system tests share: services of a test's own, a folder with a manifest, and `weft` as a process.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use weft_tests::{Exit, PrivateRabbit, Process, ProcessBuilder, Vhost, poll};

/// Longer than anything here takes; only a fault waits so long.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Where a test's events, ledger and state are.
pub enum Place {
    Real { vhost: Box<Vhost>, ledger: String, state: String },
    Embedded,
}

/// A test's surroundings. Commands run in its folder, where `weft.toml` is.
pub struct Stage {
    pub folder: PathBuf,
    pub place: Place,
    pub prefix: String,
    pub node: String,
}

impl Stage {
    /// A vhost, a database and a key prefix on the shared servers.
    pub async fn real() -> Self {
        let vhost = weft_tests::rabbitmq();
        let (vhost, ledger, redis) = tokio::join!(vhost, weft_tests::postgres(), weft_tests::redis());
        Self::with(Place::Real { vhost: Box::new(vhost), ledger, state: redis.url })
    }

    /// As [`Self::real`], with a RabbitMQ that the test may stop.
    pub async fn with_rabbit(rabbit: &PrivateRabbit) -> Self {
        let (vhost, ledger, redis) = tokio::join!(rabbit.vhost(), weft_tests::postgres(), weft_tests::redis());
        Self::with(Place::Real { vhost: Box::new(vhost), ledger, state: redis.url })
    }

    /// One SQLite file in the folder.
    pub fn embedded() -> Self {
        Self::with(Place::Embedded)
    }

    /// With services of the caller's choice.
    pub fn with(place: Place) -> Self {
        let name = format!("t{:016x}", fastrand::u64(..));
        Self { folder: weft_tests::folder("stage"), place, prefix: name.clone(), node: name }
    }

    /// Writes `weft.toml`; `HANDLERS` in it stands for the test's worker program.
    pub fn manifest(self, text: &str) -> Self {
        let text = text.replace("HANDLERS", env!("CARGO_BIN_EXE_weft-test-handlers"));
        std::fs::write(self.folder.join("weft.toml"), text).unwrap();
        self
    }

    /// The orders example's manifest and schema, with the built program.
    pub fn orders(self) -> Self {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/orders");
        let program = weft_tests::bin("orders").display().to_string();
        let manifest = std::fs::read_to_string(example.join("weft.toml")).unwrap();
        std::fs::write(self.folder.join("weft.toml"), manifest.replace("./orders", &program)).unwrap();
        std::fs::create_dir(self.folder.join("schemas")).unwrap();
        let schema = "schemas/order-placed.json";
        std::fs::copy(example.join(schema), self.folder.join(schema)).unwrap();
        std::fs::copy(example.join("data/orders.ndjson"), self.folder.join("orders.ndjson")).unwrap();
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A program with this stage's services in its environment.
    pub fn program(&self, program: ProcessBuilder) -> ProcessBuilder {
        let program = program
            .folder(&self.folder)
            .env("WEFT_PREFIX", &self.prefix)
            .env("WEFT_INVOKE", "off")
            .env("WEFT_URLS", "off");
        match &self.place {
            Place::Real { vhost, ledger, state } => program
                .env("WEFT_AMQP_URL", &vhost.amqp_url)
                .env("WEFT_LEDGER_URL", ledger)
                .env("WEFT_STATE_URL", state),
            Place::Embedded => program,
        }
    }

    pub fn weft(&self, args: &[&str]) -> ProcessBuilder {
        self.program(Process::weft("weft")).args(args)
    }

    pub fn orders_program(&self, args: &[&str]) -> ProcessBuilder {
        self.program(Process::weft("orders")).args(args)
    }

    /// `weft run` or `weft dev` with a free admin port and JSON log lines; not started yet.
    pub fn dispatcher(&self, args: &[&str]) -> ProcessBuilder {
        let command = match self.place {
            Place::Real { .. } => "run",
            Place::Embedded => "dev",
        };
        self.weft(&[command, "--admin", "127.0.0.1:0", "--node", &self.node, "--log-format", "json"]).args(args)
    }

    /// Starts a dispatcher and waits until it takes events.
    pub async fn start(&self, args: &[&str]) -> Process {
        started(self.dispatcher(args)).await
    }

    /// Runs `weft` to its good end.
    pub async fn done(&self, args: &[&str]) -> Exit {
        self.weft(args).run(LIMIT).await.success()
    }

    /// Runs `weft` to its good end and reads the one JSON value that it prints.
    pub async fn json(&self, args: &[&str]) -> Value {
        one_json(&self.done(args).await)
    }

    /// Publishes one event with an id, which is its key.
    pub async fn publish(&self, kind: &str, id: &str, data: &Value) {
        let key = ["publish", kind, "--id", id, "--source", "/t", "--data", &data.to_string(), "--json"];
        assert_eq!(self.json(&key).await["published"], 1);
    }

    /// The invocations of a function, or of all, newest change first.
    pub async fn invocations(&self, more: &[&str]) -> Vec<Value> {
        let args = [&["invocations", "--json", "-n", "10000"], more].concat();
        self.json(&args).await.as_array().unwrap().clone()
    }

    /// Waits until a function has `count` invocations in `state`, and returns them.
    pub async fn invocations_in(&self, function: &str, state: &str, count: usize) -> Vec<Value> {
        poll(&format!("{count} invocations of {function} are {state}"), LIMIT, || async {
            // All of them, as a function that the ledger has not seen yet would be an error.
            let all = self.invocations(&[]).await;
            let fits = |invocation: &&Value| invocation["function"] == function && invocation["state"] == state;
            let found: Vec<_> = all.iter().filter(fits).cloned().collect();
            if found.len() == count { Ok(found) } else { Err(all) }
        })
        .await
    }

    /// One SQL statement on the ledger's Postgres through the server's own client.
    pub async fn sql(&self, statement: &str) -> String {
        let Place::Real { ledger, .. } = &self.place else { panic!("the embedded stage has no Postgres") };
        sql(ledger, statement).await
    }

    pub fn vhost(&self) -> &Vhost {
        let Place::Real { vhost, .. } = &self.place else { panic!("the embedded stage has no RabbitMQ") };
        vhost
    }

    /// The name of a function's queue.
    pub fn queue(&self, function: &str) -> String {
        format!("{}.fn.{function}", self.prefix)
    }

    /// Waits until the broker counts a function's queue as empty.
    pub async fn queue_empty(&self, function: &str) {
        let queue = self.queue(function);
        poll(&format!("{queue} is empty"), LIMIT, || async {
            match self.vhost().queue_depth(&queue).await {
                Some(depth) if depth.ready + depth.unacked == 0 => Ok(()),
                depth => Err(depth),
            }
        })
        .await;
    }
}

/// Starts a dispatcher and waits until it takes events.
pub async fn started(dispatcher: ProcessBuilder) -> Process {
    let mut dispatcher = dispatcher.spawn();
    dispatcher.wait_for_line("taking events", LIMIT).await;
    dispatcher
}

/// Asks a dispatcher to stop, and requires a good end within the limit.
pub async fn stop(dispatcher: Process) -> Exit {
    dispatcher.terminate();
    dispatcher.wait(LIMIT).await.success()
}

/// The one JSON value that a program prints on standard output, on one line.
pub fn one_json(exit: &Exit) -> Value {
    assert_eq!(exit.stdout.len(), 1, "not one line on standard output:\n{}", exit.text());
    serde_json::from_str(&exit.stdout.concat()).unwrap_or_else(|error| panic!("no JSON ({error}):\n{}", exit.text()))
}

/// One SQL statement through Postgres' own client.
pub async fn sql(url: &str, statement: &str) -> String {
    let args = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, url];
    Process::at("psql").args(args).run(LIMIT).await.success().text()
}

/// Asks an admin port.
pub async fn get(address: &str, path: &str) -> reqwest::Response {
    let client = reqwest::Client::builder().no_proxy().timeout(LIMIT).build().unwrap();
    client.get(format!("http://{address}{path}")).send().await.unwrap()
}

/// The admin port of a dispatcher with JSON log lines.
pub async fn admin(dispatcher: &mut Process) -> String {
    let line = dispatcher.wait_for_line("admin port open", LIMIT).await;
    record(&line).unwrap()["fields"]["address"].as_str().unwrap().to_owned()
}

/// The Invoke API of a dispatcher that was started with `--invoke 127.0.0.1:0` and JSON log lines.
pub async fn invoke_api(dispatcher: &mut Process) -> String {
    let line = dispatcher.wait_for_line("Invoke API open", LIMIT).await;
    record(&line).unwrap()["fields"]["address"].as_str().unwrap().to_owned()
}

/// A log line as JSON.
pub fn record(line: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().filter(|record| record.get("level").is_some())
}

/// The log records of a level or worse, as `LEVEL message`; what the test provokes on purpose is left out.
pub fn complaints(lines: &[String], expected: &[&str]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| match record(line) {
            Some(record) => matches!(record["level"].as_str(), Some("WARN" | "ERROR")),
            // Anything else on the streams of a dispatcher that logs JSON is a complaint of somebody's.
            None => true,
        })
        .filter(|line| !expected.iter().any(|expected| line.contains(expected)))
        .cloned()
        .collect()
}

/// The lines of a file that handlers write their attempts to; none when it is not there.
pub fn runs(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Waits until handlers have written `count` attempts down.
pub async fn runs_reach(path: &Path, count: usize) -> Vec<Vec<String>> {
    poll(&format!("{count} attempts were started"), LIMIT, || async {
        let runs = runs(path);
        if runs.len() >= count { Ok(runs) } else { Err(runs) }
    })
    .await
}

/// The processes that a process started and that have not ended.
pub fn children(parent: u32) -> BTreeSet<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let fields = stat(pid)?;
            (fields.get(1)?.parse() == Ok(parent)).then_some(pid)
        })
        .collect()
}

/// Whether a process is there; a zombie is not.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| !matches!(fields.first().map(String::as_str), None | Some("Z" | "X")))
}

/// The state of a process, such as `S` or `T`; `None` when it is not there.
pub fn state_of(pid: u32) -> Option<String> {
    stat(pid)?.into_iter().next()
}

/// What `/proc/PID/stat` says behind the name: state, parent, group and so on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}
