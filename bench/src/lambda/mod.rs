//! A Python function on AWS's own client, started and warm: Weft against the same interpreter, client and function at a
//! Runtime API with nothing behind it.

mod call;
mod kit;
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::block_in_place;
use weft_dispatcher::http::Listen;
use weft_ledger::Ledger;
use weft_schemas::manifest::Manifest;

use self::call::Caller;
use self::kit::{ARGUMENTS, Kit};
use self::server::Floor;
use crate::clock::{micros_between, now_ns};
use crate::fault::{Fault, Result, ensure};
use crate::noted::{Noted, Notes};
use crate::numbers::Percentiles;
use crate::running::{Done, Running};
use crate::stage::{self, EVENT, Servers, Shape, Stage};

const FUNCTION: &str = "python";
/// The longest that all samples of one kind may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Warm samples for each cold one.
const WARM_FACTOR: u32 = 10;
/// What is not used of each kind: caches are filled and connections made.
const FIRST: u32 = 2;

/// In microseconds. A response is *taken* when its outcome is about to be settled, which is after the link has read it.
#[derive(Debug, Serialize)]
pub struct Lambda {
    /// Of the interpreter and the client.
    pub versions: String,
    pub cold: Cold,
    pub warm: Warm,
}

#[derive(Debug, Serialize)]
pub struct Cold {
    /// Spawn → response.
    pub floor_us: Percentiles,
    /// The event's arrival → response taken: claim, start, hand-out, response.
    pub received_to_taken_us: Percentiles,
    /// Of that, from the claim on.
    pub claimed_to_taken_us: Percentiles,
    /// From before the publish until the result is durable.
    pub published_to_settled_us: Percentiles,
    /// Received to taken over the floor.
    pub ratio_p50: f64,
    pub ratio_p99: f64,
}

#[derive(Debug, Serialize)]
pub struct Warm {
    /// Hand-out → response.
    pub floor_us: Percentiles,
    /// The invocation is claimed → response taken: all that Weft does but broker and ledger.
    pub claimed_to_taken_us: Percentiles,
    /// The event's arrival → response taken: the claim too.
    pub received_to_taken_us: Percentiles,
    /// The event's arrival → the result is durable.
    pub received_to_settled_us: Percentiles,
    /// From before the publish until the result is durable.
    pub published_to_settled_us: Percentiles,
    /// A caller of the Invoke API: request → answer, with the broker, both ways, and the ledger in between.
    pub invoke_us: Percentiles,
    /// Claimed to taken over the floor.
    pub ratio_p50: f64,
}

/// Cold samples as many as asked for, warm ones [`WARM_FACTOR`] times as many.
pub async fn run(servers: &Servers, samples: u32) -> Result<Lambda> {
    let kit = Kit::install().await?;
    eprintln!("lambda: {samples} cold and {} warm samples of each side, {}", samples * WARM_FACTOR, kit.versions);
    let cold = limited("cold", cold(servers, &kit, samples)).await?;
    let warm = limited("warm", warm(servers, &kit, samples.saturating_mul(WARM_FACTOR))).await?;
    Ok(Lambda { versions: kit.versions, cold, warm })
}

async fn limited<T>(name: &str, samples: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(LIMIT, samples)
        .await
        .map_err(|_| Fault(format!("the {name} samples were not done within {LIMIT:?}")))?
}

async fn cold(servers: &Servers, kit: &Kit, samples: u32) -> Result<Cold> {
    let ours = Ours::start(servers, kit, "0s").await?;
    let mut floor = Vec::new();
    let mut ways = Vec::new();
    for number in 0..samples + FIRST {
        let least = block_in_place(|| server::cold(kit, number))?;
        ours.running.no_worker().await?;
        let way = ours.event(number).await?;
        if number >= FIRST {
            floor.push(least);
            ways.push(way);
        }
    }
    let cold_starts = ours.running.cold_starts();
    ours.running.stop().await?;
    ensure(cold_starts == u64::from(samples + FIRST), || format!("{cold_starts} events waited for a worker"))?;
    let floor_us = Percentiles::of(floor);
    let received_to_taken_us = Way::all(&ways, |way| micros_between(way.done.received_ns, way.notes.settling_ns));
    Ok(Cold {
        floor_us,
        received_to_taken_us,
        claimed_to_taken_us: Way::all(&ways, Way::claimed_to_taken),
        published_to_settled_us: Way::all(&ways, Way::published_to_settled),
        ratio_p50: received_to_taken_us.p50 / floor_us.p50,
        ratio_p99: received_to_taken_us.p99 / floor_us.p99,
    })
}

async fn warm(servers: &Servers, kit: &Kit, samples: u32) -> Result<Warm> {
    let ours = Ours::start(servers, kit, "5m").await?;
    let mut least = block_in_place(|| Floor::start(kit))?;
    let address = ours.running.invoke.ok_or_else(|| Fault("the Invoke API does not listen".to_owned()))?;
    let mut caller = Caller::connect(address).await?;
    let (mut floor, mut ways, mut invoked) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..samples + FIRST {
        let floor_us = block_in_place(|| least.warm(number))?;
        let way = ours.event(number).await?;
        let succeeded = ours.running.succeeded();
        let invoke_us = caller.invoke(FUNCTION, &stage::data(number).to_string()).await?;
        ours.running.settled(succeeded).await?;
        if number >= FIRST {
            floor.push(floor_us);
            ways.push(way);
            invoked.push(invoke_us);
        }
    }
    let cold_starts = ours.running.cold_starts();
    ours.running.stop().await?;
    ensure(cold_starts == 1, || format!("{cold_starts} events waited for a worker instead of the first alone"))?;
    let floor_us = Percentiles::of(floor);
    let claimed_to_taken_us = Way::all(&ways, Way::claimed_to_taken);
    Ok(Warm {
        floor_us,
        claimed_to_taken_us,
        received_to_taken_us: Way::all(&ways, |way| micros_between(way.done.received_ns, way.notes.settling_ns)),
        received_to_settled_us: Way::all(&ways, |way| micros_between(way.done.received_ns, way.notes.settled_ns)),
        published_to_settled_us: Way::all(&ways, Way::published_to_settled),
        invoke_us: Percentiles::of(invoked),
        ratio_p50: claimed_to_taken_us.p50 / floor_us.p50,
    })
}

/// A dispatcher with the function, and the ledger's notes.
struct Ours {
    running: Running,
    noted: Arc<Noted>,
}

/// What is known of one event.
struct Way {
    done: Done,
    notes: Notes,
}

impl Ours {
    async fn start(servers: &Servers, kit: &Kit, keep_alive: &'static str) -> Result<Self> {
        let shape = Shape { handler: FUNCTION, slots: 1, workers: 1, keep_alive };
        let ledger = stage::fresh_ledger(servers).await?;
        let mut stage = Stage::of(servers, shape, manifest(kit, keep_alive)?, ledger).await?;
        let noted = Arc::new(Noted::new(Arc::clone(&stage.ledger)));
        stage.ledger = Arc::clone(&noted) as Arc<dyn Ledger>;
        let listen = Listen { invoke: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))), ..Listen::default() };
        Ok(Self { running: Running::start_for(stage, listen).await?, noted })
    }

    async fn event(&self, number: u32) -> Result<Way> {
        let done = self.running.event(number).await?;
        let notes = self.noted.notes();
        let in_order =
            [done.published_ns, done.received_ns, notes.claimed_ns, notes.settling_ns, notes.settled_ns, now_ns()];
        ensure(in_order.is_sorted(), || format!("times out of order: {done:?}, {notes:?}"))?;
        Ok(Way { done, notes })
    }
}

impl Way {
    fn claimed_to_taken(&self) -> f64 {
        micros_between(self.notes.claimed_ns, self.notes.settling_ns)
    }

    fn published_to_settled(&self) -> f64 {
        micros_between(self.done.published_ns, self.notes.settled_ns)
    }

    fn all(ways: &[Self], of: impl Fn(&Self) -> f64) -> Percentiles {
        Percentiles::of(ways.iter().map(of))
    }
}

fn manifest(kit: &Kit, keep_alive: &str) -> Result<Manifest> {
    let python = kit.python.to_str().ok_or_else(|| Fault("the path of the interpreter is no text".to_owned()))?;
    let [dash, client, handler] = ARGUMENTS;
    // JSON strings are TOML strings.
    let command = serde_json::to_string(&[python, dash, client, handler])?;
    let root = serde_json::to_string(&kit.folder)?;
    let text = format!(
        "[functions.{FUNCTION}]\nruntime = \"lambda\"\ncommand = {command}\nroot = {root}\nevents = [\"{EVENT}\"]\n\
         timeout = \"30s\"\nkeep_alive = \"{keep_alive}\"\n"
    );
    Ok(Manifest::parse(&text, Path::new("/"))?)
}
