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
use weft_schemas::{Event, FunctionName, Key, Message, NodeName};
use weft_tests::{PrivatePostgres, PrivateRabbit, PrivateRedis, Vhost};

use crate::child;
use crate::fault::{Fault, Result, ensure};

pub const PREFIX: &str = "bench";
/// The type of the bench's events.
pub const EVENT: &str = "bench.happened";
const SOURCE: &str = "/weft/bench";
/// What differs from Postgres' own defaults, which are for a machine of 1 GiB; `pg_stat_statements` is asked by the sweep.
const POSTGRES: &[&str] =
    &["shared_buffers=1GB", "max_wal_size=4GB", "shared_preload_libraries=pg_stat_statements", "track_io_timing=off"];
/// Events that are published and confirmed together.
const PUBLISH_BATCH: usize = 1_000;

/// Private servers for the whole run. Postgres and RabbitMQ write to the disk before they answer, as in production; Redis
/// does once a second, as its manual and BullMQ's guide advise.
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
        let (rabbit, postgres, redis) = tokio::join!(
            PrivateRabbit::start(),
            PrivatePostgres::start_durable(POSTGRES),
            PrivateRedis::start_durable("everysec")
        );
        Self { rabbit, postgres, redis }
    }
}

/// A ledger with its tables made, in a database of its own.
pub async fn fresh_ledger(servers: &Servers) -> Result<Address> {
    let address = Address::new(servers.postgres.database().await);
    weft_ledger::open(address.expose()).await?.migrate().await?;
    Ok(address)
}

/// How the one function of a round is declared.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Registered by [`child::worker`]; the function's name too.
    pub handler: &'static str,
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
        Self::on(servers, shape, fresh_ledger(servers).await?).await
    }

    /// As [`Self::fresh`], on a ledger that is there already.
    pub async fn on(servers: &Servers, shape: Shape, ledger_address: Address) -> Result<Self> {
        Self::of(servers, shape, manifest(shape)?, ledger_address).await
    }

    /// As [`Self::on`], with a manifest whose one function has the name, and the bounds, that `shape` says.
    pub async fn of(servers: &Servers, shape: Shape, manifest: Manifest, ledger_address: Address) -> Result<Self> {
        let vhost = servers.rabbit.vhost().await;
        let broker = Amqp::connect(&Address::new(vhost.amqp_url.as_str()), PREFIX).await?;
        let ledger = weft_ledger::open(ledger_address.expose()).await?;
        broker.declare(&topology(PREFIX, &manifest)).await?;
        Ok(Self {
            vhost,
            broker: Arc::new(broker),
            ledger,
            manifest,
            function: FunctionName::new(shape.handler)?,
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

    /// Runs one statement on the ledger's database, and answers its rows as lines.
    pub async fn sql(&self, statement: &str) -> Result<String> {
        weft_tests::sql(self.ledger_address.expose(), statement).await.map_err(Fault)
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

/// The id of event `number`, which is its `message_id` too: as random as a UUID of version 4, in whose form it is, so that
/// neighbours in time are none in an index.
pub fn id(number: u32) -> String {
    // Two different, invertible mixings of the number (that of SplitMix64).
    let mixed = |seed: u64| {
        let mut bits = u64::from(number).wrapping_add(1).wrapping_mul(seed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    let (high, low) = (mixed(0x9e37_79b9_7f4a_7c15), mixed(0xd1b5_4a32_d192_ed03));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 50),
        low & 0xffff_ffff_ffff
    )
}

/// The idempotency key of event `number`.
pub fn key(number: u32) -> Result<Key> {
    Ok(Key::new(format!("{SOURCE} {}", id(number)))?)
}

/// The data of event `number`: about 300 bytes of JSON.
pub fn data(number: u32) -> serde_json::Value {
    serde_json::json!({
        "order": id(number),
        "customer": { "id": format!("customer-{}", number % 997), "name": "Zoë Ångström", "country": "SE" },
        "items": [
            { "sku": "WEFT-0001", "quantity": 2, "unit_price_minor": 1999 },
            { "sku": "WEFT-0002", "quantity": 1, "unit_price_minor": 450 },
        ],
        "currency": "EUR",
        "note": "leave it with the neighbours if nobody is at home",
    })
}

/// The whole event as one JSON object, as a function gets it.
pub fn cloud_event(number: u32) -> serde_json::Value {
    serde_json::json!({
        "specversion": "1.0", "id": id(number), "source": SOURCE, "type": EVENT, "datacontenttype": "application/json",
        "data": data(number),
    })
}

/// An event in CloudEvents binary mode.
pub fn event(number: u32) -> Message {
    let event = Event {
        id: id(number),
        source: SOURCE.to_owned(),
        kind: EVENT.to_owned(),
        subject: None,
        time: None,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: std::collections::BTreeMap::new(),
        data: data(number).to_string().into(),
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
        shape.handler, shape.slots, shape.keep_alive
    );
    Ok(Manifest::parse(&text, std::path::Path::new("/"))?)
}

/// This program's file.
pub fn own_program() -> Result<PathBuf> {
    Ok(std::env::current_exe()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_have_the_form_of_a_uuid() {
        let ids: std::collections::BTreeSet<String> = (0..10_000).map(id).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            assert!(id.len() == 36 && id.as_bytes().get(14) == Some(&b'4'), "{id}");
        }
    }
}
