//! Each service stopped, killed, paused, slowed, cut off and robbed of its answers, while one dispatcher is at work: in
//! the end everything has happened once, no attempt was counted for it, and the dispatcher was never started again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_process::secret::Address;
use weft_tests::{Process, poll};
use weft_worker::peek_state;

use crate::outage_stage::{Direct, Fault, Service, Services, health_names};
use crate::system_stage::{LIMIT, Stage, admin, runs_reach, sql, started, stop};

/// `wait` and the gated `order`s run while the fault strikes; the first with nothing open, the second with a
/// transaction. `count` uses the state, `flaky` leaves a retry in the outbox.
const MANIFEST: &str = r#"
[functions.order]
command = ["HANDLERS"]
events = ["order.event"]
slots = 8
idempotency = { key = "/id" }

[functions.count]
command = ["HANDLERS"]
handler = "state"
events = ["count.event"]
slots = 8
idempotency = { key = "/id" }

[functions.flaky]
command = ["HANDLERS"]
handler = "retry"
events = ["flaky.event"]
slots = 8
idempotency = { key = "/id" }
retry = { backoff = { first = "300ms" } }

[functions.wait]
command = ["HANDLERS"]
events = ["wait.event"]
slots = 8
idempotency = { key = "/id" }
"#;

/// Of each function but `wait` in a row.
const KEYS: usize = 6;
/// Invocations that run while the fault strikes: of `order`, and of `wait`.
const GATED: (usize, usize) = (2, 2);
/// The most lines that a dispatcher of four functions may log for one outage: for each function one at the start and one
/// at the end of what it meets (the ledger silent, the lease lost, attempts without a service), and for the dispatcher the
/// same for the lease, the relay, and either connection to the broker.
const LINES: usize = 4 * 6 + 8;

/// Some outages outlive it: then what runs is cancelled and claimed anew, which costs no attempt either.
const LEASE: &str = "3s";

/// One row of the matrix.
struct Row {
    name: String,
    service: Service,
    fault: Fault,
    runs: PathBuf,
    go: PathBuf,
}

impl Row {
    fn new(stage: &Stage, service: Service, fault: Fault) -> Self {
        let name = format!("{service:?}-{fault:?}").to_lowercase();
        let (runs, go) = (stage.path(&format!("{name}.runs")), stage.path(&format!("{name}.go")));
        Self { name, service, fault, runs, go }
    }

    /// Its events, each twice, those that are to be under way first.
    fn events(&self, gated: bool) -> String {
        let event = |function: &str, n: usize, data: &Value| {
            let line = json!({
                "specversion": "1.0", "id": format!("{}-{function}-{n}", self.name), "source": "/t",
                "type": format!("{function}.event"), "datacontenttype": "application/json", "data": data,
            });
            format!("{line}\n{line}\n")
        };
        if gated {
            let order = json!({ "pause": [self.runs, self.go], "end": "commit" });
            let orders = (0..GATED.0).map(|n| event("order", n, &order));
            let wait = json!({ "runs": self.runs, "file": self.go });
            return orders.chain((0..GATED.1).map(|n| event("wait", n, &wait))).collect();
        }
        let free = |n| {
            [
                event("order", GATED.0 + n, &json!({ "end": "commit" })),
                event("count", n, &json!([{ "do": "increment_once", "name": "n", "by": 1 }])),
                event("flaky", n, &json!({ "from_attempt": 2 })),
            ]
            .concat()
        };
        (0..KEYS).map(free).collect()
    }

    async fn publish(&self, stage: &Stage, gated: bool) {
        let file = stage.path(&format!("{}-{gated}.ndjson", self.name));
        std::fs::write(&file, self.events(gated)).unwrap();
        stage.done(&["publish", "-f", &file.display().to_string(), "--json"]).await;
    }

    async fn publish_late(&self, stage: &Stage) {
        let order = json!({ "end": "commit" });
        let count = json!([{ "do": "increment_once", "name": "n", "by": 1 }]);
        for (function, data) in [("order", order), ("count", count)] {
            stage.publish(&format!("{function}.event"), &format!("{}-{function}-late", self.name), &data).await;
        }
    }

    /// What became of its keys: function, state, attempts, crashes, count.
    async fn books(&self, direct: &Direct) -> String {
        let sums = format!(
            "select function, state, attempt, crashes, count(*) from weft.invocation
             where key like '{}-%' group by 1, 2, 3, 4 order by 1, 2, 3, 4",
            self.name
        );
        sql(&direct.ledger, &sums).await
    }

    /// What must have become of them: each attempt of a handler counted, and none that only the fault ended.
    fn expected(&self) -> String {
        let (orders, waits) = GATED;
        format!(
            "count|succeeded|1|0|{}\nflaky|succeeded|2|0|{KEYS}\norder|succeeded|1|0|{}\nwait|succeeded|1|0|{waits}",
            KEYS + 1,
            KEYS + orders + 1
        )
    }

    /// Whether the service is away, as opposed to slow.
    fn is_outage(&self) -> bool {
        self.fault != Fault::Slowed
    }

    async fn run(&self, services: &Services, stage: &Stage, direct: &Direct, dispatcher: &Process, admin: &str) {
        let before = dispatcher.lines().len();
        self.publish(stage, true).await;
        runs_reach(&self.runs, GATED.0 + GATED.1).await;
        // At work while it strikes, or waiting at the broker: what the fault meets is different each time.
        self.publish(stage, false).await;
        services.strike(self.service, self.fault).await;
        if self.is_outage() {
            let told = health_names(admin, &[self.service.role()]).await;
            // The state is told and takes nobody out: what does not use it goes on.
            assert_eq!(told.code, if self.service == Service::Redis { 200 } else { 503 }, "{}: {told:?}", self.name);
            assert_eq!(told.body["healthy"], self.service == Service::Redis, "{}: {told:?}", self.name);
        }
        // They end in the midst of it.
        std::fs::write(&self.go, "").unwrap();
        // What is new meanwhile waits as well. While the broker is away there is nothing new.
        let meanwhile = self.service != Service::RabbitMq;
        if meanwhile {
            self.publish_late(stage).await;
        }
        services.heal(self.service, self.fault).await;
        if !meanwhile {
            self.publish_late(stage).await;
        }
        let expected = self.expected();
        poll(&format!("{}: everything is done once and no attempt is counted for it", self.name), LIMIT, || async {
            let books = self.books(direct).await;
            if books == expected { Ok(()) } else { Err(books) }
        })
        .await;
        let told = health_names(admin, &[]).await;
        assert_eq!((told.code, &told.body["healthy"]), (200, &Value::Bool(true)), "{}: {told:?}", self.name);
        let effects = format!("select count(*), count(distinct id) from orders where id like '{}-%'", self.name);
        let orders = KEYS + GATED.0 + 1;
        assert_eq!(sql(&direct.ledger, &effects).await, format!("{orders}|{orders}"), "{}: double effects", self.name);
        let lines = dispatcher.lines();
        let lines = lines.get(before..).unwrap_or_default();
        // Attempts that failed by themselves have a line each, outage or not.
        let lines: Vec<_> = lines.iter().filter(|line| !line.contains("will be tried again\"")).collect();
        println!("{}: {} lines", self.name, lines.len());
        assert!(lines.len() <= LINES, "{}: {} lines:\n{lines:#?}", self.name, lines.len());
        let errors = lines.iter().filter(|line| line.contains("\"level\":\"ERROR\"")).count();
        let most = usize::from(self.service == Service::Postgres);
        assert!(errors <= most, "{}: {errors} errors:\n{lines:#?}", self.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_may_go_and_come_back_in_flight_and_no_attempt_is_counted_for_it() {
    let services = Services::start().await;
    let (stage, direct) = services.stage().await;
    let stage = stage.manifest(MANIFEST);
    stage.done(&["migrate"]).await;
    sql(&direct.ledger, "create table orders (id text not null, process bigint not null)").await;
    let mut dispatcher = started(stage.dispatcher(&["--lease", LEASE, "--max-workers", "1"])).await;
    let admin = admin(&mut dispatcher).await;
    health_names(&admin, &[]).await;
    let mut counted = 0;
    let only = std::env::var("WEFT_TEST_ROW").ok();
    for service in Service::ALL {
        for fault in Fault::ALL {
            let row = Row::new(&stage, service, fault);
            if only.as_ref().is_some_and(|only| !row.name.contains(only)) {
                continue;
            }
            let begun = Instant::now();
            row.run(&services, &stage, &direct, &dispatcher, &admin).await;
            counted += KEYS + 1;
            let address = Address::new(direct.state.as_str());
            let sum = peek_state(&address, &stage.prefix, &"count".parse().unwrap(), "n").await.unwrap();
            assert_eq!(sum, Some(counted.to_string().into_bytes()), "{}: counted once per key", row.name);
            println!("{}: {:?}", row.name, begun.elapsed());
        }
    }
    // Nobody takes the events that `order` emits, so those are letters.
    let dead = "select count(*) from weft.dead_letter where reason <> 'unroutable'";
    assert_eq!(sql(&direct.ledger, dead).await, "0");
    for function in ["order", "count", "flaky", "wait"] {
        stage.queue_empty(function).await;
    }
    poll("the outbox is empty", Duration::from_secs(10), || async {
        let left = sql(&direct.ledger, "select count(*) from weft.outbox").await;
        if left == "0" { Ok(()) } else { Err(left) }
    })
    .await;
    stop(dispatcher).await;
}
