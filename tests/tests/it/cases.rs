//! What the numbered cases of the ledger share: an order whose steps a test can hold (see `place` of the test's worker
//! program), a consumer of the event that it emits, and the counts that must come out.
//!
//! The cases are split by subject over the files `cases_*.rs`; the number in a test's name is that of its case.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::{Exit, Process, ProcessBuilder, poll, poll_every};

use crate::system_stage::{LIMIT, Place, Stage, record, runs, runs_reach};

/// A lease that no test waits for.
pub const LONG: &str = "60s";
/// A lease that a test waits for.
pub const SHORT: &str = "2s";

/// One worker for all orders of a dispatcher. `HANDLERS` is the program; [`Case::crashing`] puts `env` before it.
const MANIFEST: &str = r#"
[functions.place]
command = [PROGRAM]
events = ["place.event"]
timeout = "TIMEOUT"
slots = 8
concurrency = { reserved = 8 }
retry = { attempts = 4, backoff = { first = "10ms", max = "10ms" } }
idempotency = { key = "/id" }

[functions.seen]
command = ["HANDLERS"]
events = ["order.placed"]
"#;

/// A stage with two functions and a table for effects. An order's key is its event's id.
pub struct Case {
    pub stage: Stage,
}

impl Case {
    pub async fn new() -> Self {
        Self::with("10m", None).await
    }

    /// The attempts of an order may take so long.
    pub async fn timeout(timeout: &str) -> Self {
        Self::with(timeout, None).await
    }

    /// The first worker that comes to a crash point is killed there; those after it pass.
    pub async fn crashing(point: &str) -> Self {
        Self::with("10m", Some(point)).await
    }

    async fn with(timeout: &str, crash: Option<&str>) -> Self {
        let stage = Stage::real().await;
        let program = match crash {
            Some(point) => format!(r#""env", "WEFT_CRASH_AT={}", "HANDLERS""#, once(&stage, point)),
            None => r#""HANDLERS""#.to_owned(),
        };
        Self::on(stage, &MANIFEST.replace("PROGRAM", &program).replace("TIMEOUT", timeout)).await
    }

    /// Any stage and any manifest.
    pub async fn on(stage: Stage, manifest: &str) -> Self {
        let case = Self { stage: stage.manifest(manifest) };
        case.stage.done(&["migrate"]).await;
        let tables = "create table public.orders (id text not null, process bigint not null);
                      create table public.seen (id text not null)";
        case.stage.sql(tables).await;
        case
    }

    /// The standard manifest on any stage.
    pub async fn standard(stage: Stage) -> Self {
        Self::on(stage, &MANIFEST.replace("PROGRAM", r#""HANDLERS""#).replace("TIMEOUT", "10m")).await
    }

    /// A dispatcher with a name and a lease of its own; not started yet.
    pub fn node(&self, name: &str, lease: &str) -> ProcessBuilder {
        let node = format!("{}-{name}", self.stage.node);
        self.stage.weft(&["run", "--admin", "127.0.0.1:0", "--log-format", "json", "--node", &node, "--lease", lease])
    }

    /// A dispatcher that is killed where it first comes to a crash point.
    pub fn doomed(&self, name: &str, lease: &str, point: &str) -> ProcessBuilder {
        self.node(name, lease).env("WEFT_CRASH_AT", point)
    }

    /// What an order asks for, with `more` in it.
    pub fn ask(&self, more: &Value) -> Value {
        let mut ask = json!({ "runs": self.stage.path("runs") });
        for (name, value) in more.as_object().unwrap() {
            ask[name] = value.clone();
        }
        ask
    }

    /// Publishes one order.
    pub async fn order(&self, id: &str, more: &Value) {
        self.stage.publish("place.event", id, &self.ask(more)).await;
    }

    /// Publishes several orders, or several copies of one, at once.
    pub async fn orders(&self, orders: &[(String, Value)]) {
        let line = |(id, more): &(String, Value)| {
            let line =
                json!({ "mode": "binary", "type": "place.event", "id": id, "source": "/t", "data": self.ask(more) });
            format!("{line}\n")
        };
        let file = self.stage.path(&format!("orders-{:08x}.ndjson", fastrand::u32(..)));
        std::fs::write(&file, orders.iter().map(line).collect::<String>()).unwrap();
        let published = self.stage.json(&["publish", "-f", file.to_str().unwrap(), "--json"]).await;
        assert_eq!(published["published"], orders.len());
    }

    /// What holds the attempts of an order: see [`Self::let_go`].
    pub fn hold(&self, id: &str) -> PathBuf {
        self.stage.path(&format!("hold-{id}"))
    }

    /// Lets an order's attempt go on.
    pub fn let_go(&self, id: &str, attempt: u32) {
        std::fs::write(format!("{}.{attempt}", self.hold(id).display()), "").unwrap();
    }

    /// The attempts that have written their effect: key, attempt, epoch, process, time in microseconds.
    pub fn runs(&self) -> Vec<Vec<String>> {
        runs(&self.stage.path("runs"))
    }

    pub async fn runs_reach(&self, count: usize) -> Vec<Vec<String>> {
        runs_reach(&self.stage.path("runs"), count).await
    }

    /// An order's row, every column of it.
    pub async fn row(&self, id: &str) -> Value {
        let row = format!("select row_to_json(i) from invocation i where function = 'place' and key = '{id}'");
        let row = self.stage.sql(&row).await;
        serde_json::from_str(&row).unwrap_or_else(|error| panic!("no row of {id} ({error}): {row}"))
    }

    /// How many attempts of an order have killed their worker.
    pub async fn crashes(&self, id: &str) -> i64 {
        self.row(id).await["crashes"].as_i64().unwrap()
    }

    /// State and attempt of an order.
    pub async fn stands(&self, id: &str) -> (String, i64) {
        let row = self.row(id).await;
        (row["state"].as_str().unwrap().to_owned(), row["attempt"].as_i64().unwrap())
    }

    /// Waits until an order is in a state.
    pub async fn reaches(&self, id: &str, state: &str) {
        let ask = format!("select state from invocation where function = 'place' and key = '{id}'");
        poll(&format!("{id} is {state}"), LIMIT, || async {
            let now = self.stage.sql(&ask).await;
            if now == state { Ok(()) } else { Err(now) }
        })
        .await;
    }

    /// One number out of the ledger's database.
    pub async fn count(&self, from: &str) -> i64 {
        self.stage.sql(&format!("select count(*) from {from}")).await.parse().unwrap()
    }

    /// A queue of a bystander that gets a copy of every emitted event. A dispatcher must have declared the exchange.
    pub async fn spy(&self) {
        let vhost = self.stage.vhost();
        vhost.declare_queue("spy", json!({ "x-queue-type": "quorum" })).await;
        vhost.bind(&format!("{}.events", self.stage.prefix), "spy", "order.placed").await;
    }

    /// The message ids of the events that have been published, once there are `count`.
    pub async fn spied(&self, count: usize) -> Vec<String> {
        // The messages themselves: the broker's count of a queue that nobody consumes is seconds behind.
        poll_every(Duration::from_millis(100), &format!("{count} events were published"), LIMIT, || async {
            let fetched = self.stage.vhost().look("spy", 100).await;
            let ids = fetched.iter().map(|event| event.properties["message_id"].as_str().unwrap().to_owned());
            let ids: Vec<_> = ids.collect();
            if ids.len() >= count { Ok(ids) } else { Err(ids) }
        })
        .await
    }

    /// Waits until the broker counts what a function's queue holds: what waits and what runs.
    pub async fn queue_holds(&self, function: &str, messages: u64) {
        let queue = self.stage.queue(function);
        poll(&format!("{queue} holds {messages}"), LIMIT, || async {
            match self.stage.vhost().queue_depth(&queue).await {
                Some(depth) if depth.ready + depth.unacked == messages => Ok(()),
                depth => Err(depth),
            }
        })
        .await;
    }

    /// Waits until the outbox is empty: a row goes after its message was taken, and that may have been handled by then.
    pub async fn outbox_empty(&self) {
        poll("the outbox is empty", LIMIT, || async {
            let left = self.count("outbox").await;
            if left == 0 { Ok(()) } else { Err(left) }
        })
        .await;
    }

    /// The number of messages in a function's dead-letter queue.
    pub async fn letters(&self, function: &str) -> u64 {
        let queue = format!("{}.dlq.{function}", self.stage.prefix);
        let depth = self.stage.vhost().queue_depth(&queue).await;
        depth.map_or(0, |depth| depth.ready + depth.unacked)
    }

    /// Waits for the good end of `orders` orders and requires that everything about them happened once: each has
    /// succeeded with one effect, its event was handled once, and nothing is left anywhere.
    pub async fn ends_well(&self, orders: usize) {
        self.ends_well_but(orders, 0).await;
    }

    /// As [`Self::ends_well`], after so many dead letters, all of them redriven.
    pub async fn ends_well_but(&self, orders: usize, letters: i64) {
        let all = "select coalesce(string_agg(function || ' ' || state || ' ' || n, ', ' order by function, state), '')
                   from (select function, state, count(*) n from invocation group by function, state) x";
        poll("every order and every event has succeeded", LIMIT, || async {
            let now = self.stage.sql(all).await;
            if now == format!("place succeeded {orders}, seen succeeded {orders}") { Ok(()) } else { Err(now) }
        })
        .await;
        for table in ["orders", "seen"] {
            let effects = format!(
                "select count(*) || ' ' || coalesce(max(n), 0) from (select count(*) n from {table} group by id) x"
            );
            let effects = self.stage.sql(&effects).await;
            assert_eq!(effects, format!("{orders} 1"), "not one row of {table} for each order");
        }
        self.stage.queue_empty("place").await;
        self.stage.queue_empty("seen").await;
        self.outbox_empty().await;
        assert_eq!(self.count("dead_letter").await, letters, "not as many have died");
        assert_eq!(self.count("dead_letter where redriven_at is null").await, 0, "something is dead");
    }

    /// The ledger's address, for a test that goes round a proxy.
    pub fn ledger(&self) -> &str {
        let Place::Real { ledger, .. } = &self.stage.place else { panic!("the embedded stage has no Postgres") };
        ledger
    }
}

/// A crash point that acts in one process of all that ever run on a stage.
pub fn once(stage: &Stage, point: &str) -> String {
    format!("{point}@{}", stage.path(&format!("crashed-{}", fastrand::u32(..))).display())
}

/// Waits for the end of a dispatcher that a crash point kills.
pub async fn killed(dispatcher: Process) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    let exit = dispatcher.wait(LIMIT).await;
    assert_eq!(exit.status.signal(), Some(9), "it ended with {}:\n{}", exit.status, exit.text());
    exit
}

/// Waits until a process is stopped, as a crash point or a pause does it.
pub async fn stopped(pid: u32) {
    poll("the process is stopped", LIMIT, || async move {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().chars().next());
        if state == Some(Some('T')) { Ok(()) } else { Err(state) }
    })
    .await;
}

/// Waits until a process that runs has told of so many settles that were refused as late.
pub async fn refused_late(process: &Process, count: u64) {
    poll(&format!("{count} late settles refused"), Duration::from_secs(30), || async {
        let lines = process.lines();
        let told = lines.iter().filter_map(|line| record(line)).filter_map(|told| told["fields"]["late"].as_u64());
        let found: u64 = told.sum();
        if found >= count { Ok(()) } else { Err(found) }
    })
    .await;
}
