//! The servers, and a fresh place on them for every round: virtual host, database, queue and keys of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use weft_dispatcher::Config;
use weft_dispatcher::broker::amqp::Amqp;
use weft_dispatcher::broker::{Broker, Names};
use weft_dispatcher::dispatcher::topology;
use weft_ledger::Ledger;
use weft_process::secret::Address;
use weft_process::telemetry::{Export, Metrics};
use weft_schemas::manifest::Manifest;
use weft_schemas::{Event, FunctionName, Message, NodeName};
use weft_tests::{PrivatePostgres, PrivateRabbit, PrivateRedis, Vhost};

use crate::child;
use crate::fault::{Fault, Result, ensure};

const PREFIX: &str = "bench";
const EVENT: &str = "bench.happened";
/// Events that are published and confirmed together.
const PUBLISH_BATCH: usize = 1_000;

/// Private servers for the whole run. Postgres and RabbitMQ write to the disk before they answer, as in production.
pub struct Servers {
    pub rabbit: PrivateRabbit,
    pub postgres: PrivatePostgres,
    pub redis: PrivateRedis,
}

impl Servers {
    /// Starts all three.
    ///
    /// # Panics
    /// One cannot be found or does not start; the text says what to install.
    pub async fn start() -> Self {
        let (rabbit, postgres, redis) =
            tokio::join!(PrivateRabbit::start(), PrivatePostgres::start_durable(), PrivateRedis::start());
        Self { rabbit, postgres, redis }
    }
}

/// How the one function of a round is declared.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub slots: u32,
    pub workers: u32,
    pub keep_alive: &'static str,
}

/// One round's place.
pub struct Stage {
    pub vhost: Vhost,
    pub broker: Arc<dyn Broker>,
    pub ledger: Arc<dyn Ledger>,
    pub manifest: Manifest,
    pub function: FunctionName,
    ledger_address: Address,
    state_address: Address,
    shape: Shape,
}

impl Stage {
    /// A fresh place with the queue declared and empty, and the ledger's tables made.
    pub async fn fresh(servers: &Servers, shape: Shape) -> Result<Self> {
        let vhost = servers.rabbit.vhost().await;
        let ledger_address = Address::new(servers.postgres.database().await);
        let broker = Amqp::connect(&Address::new(vhost.amqp_url.as_str()), PREFIX).await?;
        let ledger = weft_ledger::open(ledger_address.expose()).await?;
        ledger.migrate().await?;
        let manifest = manifest(shape)?;
        broker.declare(&topology(PREFIX, &manifest)).await?;
        Ok(Self {
            vhost,
            broker: Arc::new(broker),
            ledger,
            manifest,
            function: FunctionName::new(child::HANDLER)?,
            ledger_address,
            state_address: Address::new(servers.redis.url()),
            shape,
        })
    }

    /// The function's queue.
    pub fn queue(&self) -> String {
        Names::new(PREFIX).function(&self.function)
    }

    /// Deliveries that may be unsettled at once: what a dispatcher of this shape asks for.
    pub fn prefetch(&self) -> u16 {
        u16::try_from(self.shape.slots.saturating_mul(self.shape.workers).clamp(1, 2_000)).unwrap_or(2_000)
    }

    /// A dispatcher's parts, as `weft run` puts them together, with `broker` in place of this stage's own.
    pub fn config(&self, broker: Arc<dyn Broker>) -> Result<Config> {
        Ok(Config {
            node: NodeName::new("bench")?,
            prefix: PREFIX.to_owned(),
            manifest: self.manifest.clone(),
            broker,
            ledger: Arc::clone(&self.ledger),
            ledger_address: self.ledger_address.clone(),
            state_address: self.state_address.clone(),
            admin: None,
            lease: Config::LEASE,
            drain_limit: Config::DRAIN_LIMIT,
            max_workers: self.shape.workers,
            budget: weft_dispatcher::machine::budget(&self.manifest),
            export: Export::None,
            metrics: Metrics::off(),
        })
    }

    /// Publishes events number `from` to `to` (excluded) and waits until the broker has confirmed them all.
    pub async fn publish(&self, from: u32, to: u32) -> Result<()> {
        let messages: Vec<Message> = (from..to).map(event).collect();
        for batch in messages.chunks(PUBLISH_BATCH) {
            for confirmed in self.broker.publish(batch).await {
                confirmed?;
            }
        }
        Ok(())
    }

    /// Waits until the broker says that the queue is empty and nothing is unsettled.
    ///
    /// # Panics
    /// It does not say so within 10 s.
    pub async fn wait_empty(&self) {
        let queue = self.queue();
        weft_tests::poll("the queue is empty", Duration::from_secs(10), || async {
            match self.vhost.queue_depth(&queue).await {
                Some(depth) if depth.ready == 0 && depth.unacked == 0 => Ok(()),
                depth => Err(depth),
            }
        })
        .await;
    }

    /// Fails unless the ledger holds exactly `events` invocations, all of them succeeded.
    pub async fn check_ledger(&self, events: u64) -> Result<()> {
        let totals = self.ledger.totals().await?;
        let expected = [(self.function.clone(), weft_ledger::State::Succeeded, events)];
        ensure(totals == expected, || format!("the ledger holds {totals:?} instead of {events} successes"))
    }
}

/// The id of event `number`, which is its `message_id` too.
pub fn id(number: u32) -> String {
    format!("event-{number:08}")
}

/// An event of about 300 bytes of JSON in CloudEvents binary mode.
pub fn event(number: u32) -> Message {
    let data = serde_json::json!({
        "order": id(number),
        "customer": { "id": format!("customer-{}", number % 997), "name": "Zoë Ångström", "country": "SE" },
        "items": [
            { "sku": "WEFT-0001", "quantity": 2, "unit_price_minor": 1999 },
            { "sku": "WEFT-0002", "quantity": 1, "unit_price_minor": 450 },
        ],
        "currency": "EUR",
        "note": "leave it with the neighbours if nobody is at home",
    });
    let event = Event {
        id: id(number),
        source: "/weft/bench".to_owned(),
        kind: EVENT.to_owned(),
        subject: None,
        time: None,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: std::collections::BTreeMap::new(),
        data: data.to_string().into(),
    };
    event.to_message(&Names::new(PREFIX).events(), EVENT)
}

fn manifest(shape: Shape) -> Result<Manifest> {
    let program = own_program()?;
    let program = program.to_str().ok_or_else(|| Fault("the path of this program is no text".to_owned()))?;
    // A JSON string is a TOML string.
    let command = serde_json::to_string(&[program, child::WORKER])?;
    let text = format!(
        "[functions.{}]\ncommand = {command}\nevents = [\"{EVENT}\"]\nslots = {}\nkeep_alive = \"{}\"\n",
        child::HANDLER,
        shape.slots,
        shape.keep_alive
    );
    Ok(Manifest::parse(&text, std::path::Path::new("/"))?)
}

/// This program's file.
pub fn own_program() -> Result<PathBuf> {
    Ok(std::env::current_exe()?)
}
