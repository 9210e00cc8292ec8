//! From an event to its handler, one event at a time: with a worker to start for each (cold), and with one that waits (warm).

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_ledger::{ClaimRequest, NodeSession, Verdict};
use weft_schemas::{Digest, FunctionName, Key, NodeName};

use crate::child::{self, Entered};
use crate::clock::{micros_between, now_ns};
use crate::fault::{Fault, Result, ensure};
use crate::numbers::Percentiles;
use crate::running::{Done, Running};
use crate::stage::{Servers, Shape, Stage, id, own_program};

/// The longest that all samples of one kind may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Warm samples for each cold one.
const WARM_FACTOR: u32 = 10;
/// About what an `Invoke` frame of the bench's event has.
const MESSAGE_BYTES: usize = 600;

/// One kind of start against its floor, in microseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub floor_us: Percentiles,
    /// From the delivery's arrival in this process to the handler's first line.
    pub received_to_entered_us: Percentiles,
    /// From before the publish to the handler's first line: the broker's part too.
    pub published_to_entered_us: Percentiles,
    /// Received to entered over the floor, p50.
    pub ratio_p50: f64,
    pub ratio_p99: f64,
}

/// Cold starts.
pub async fn cold(servers: &Servers, samples: u32) -> Result<Latency> {
    eprintln!("cold: {samples} samples of each side");
    limited("cold", sample_cold(servers, samples)).await
}

/// Workers that wait; [`WARM_FACTOR`] times `samples`.
pub async fn warm(servers: &Servers, samples: u32) -> Result<Latency> {
    let samples = samples.saturating_mul(WARM_FACTOR);
    eprintln!("warm: {samples} samples of each side");
    limited("warm", sample_warm(servers, samples)).await
}

async fn limited(name: &str, samples: impl Future<Output = Result<Latency>>) -> Result<Latency> {
    tokio::time::timeout(LIMIT, samples)
        .await
        .map_err(|_| Fault(format!("the {name} samples were not done within {LIMIT:?}")))?
}

async fn sample_cold(servers: &Servers, samples: u32) -> Result<Latency> {
    let running = Running::start(Stage::fresh(servers, shape("0s")).await?).await?;
    let mut sampled = Samples::default();
    for number in 0..samples {
        let floor = tokio::task::spawn_blocking(start_and_answer).await??;
        running.no_worker().await?;
        sampled.add(floor, way(&running.event(number).await?)?);
    }
    let cold_starts = running.cold_starts();
    running.stop().await?;
    ensure(cold_starts == u64::from(samples), || format!("{cold_starts} of {samples} events waited for a worker"))?;
    Ok(sampled.into())
}

async fn sample_warm(servers: &Servers, samples: u32) -> Result<Latency> {
    let running = Running::start(Stage::fresh(servers, shape("5m")).await?).await?;
    // Starts the worker, and the connections of both sides.
    running.event(0).await?;
    let mut floor = WarmFloor::start(&running.stage).await?;
    floor.sample(0).await?;
    let mut sampled = Samples::default();
    for number in 1..=samples {
        sampled.add(floor.sample(number).await?, way(&running.event(number).await?)?);
    }
    let cold_starts = running.cold_starts();
    floor.session.leave().await?;
    running.stop().await?;
    ensure(cold_starts == 1, || format!("{cold_starts} events waited for a worker instead of the first alone"))?;
    Ok(sampled.into())
}

fn shape(keep_alive: &'static str) -> Shape {
    Shape { handler: child::NOOP, slots: 1, workers: 1, keep_alive }
}

/// Received → entered in microseconds of events `from` to `to` (excluded), one at a time, on a stage that others have used;
/// event `from` starts the worker and is left out.
pub async fn warm_on(stage: Stage, from: u32, to: u32) -> Result<Percentiles> {
    let running = Running::start(stage).await?;
    running.event(from).await?;
    let mut sampled = Vec::new();
    for number in from + 1..to {
        sampled.push(way(&running.event(number).await?)?.received_to_entered);
    }
    running.stop().await?;
    Ok(Percentiles::of(sampled))
}

#[derive(Default)]
struct Samples {
    floor: Vec<f64>,
    events: Vec<Way>,
}

/// How long one event was under way, in microseconds.
struct Way {
    received_to_entered: f64,
    published_to_entered: f64,
}

/// When its handler was entered is its result.
fn way(done: &Done) -> Result<Way> {
    let Entered { entered_ns } = serde_json::from_str(&done.result)?;
    let Done { published_ns, received_ns, .. } = *done;
    ensure(received_ns < entered_ns, || format!("times out of order: received {received_ns}, entered {entered_ns}"))?;
    Ok(Way {
        received_to_entered: micros_between(received_ns, entered_ns),
        published_to_entered: micros_between(published_ns, entered_ns),
    })
}

impl Samples {
    fn add(&mut self, floor: f64, way: Way) {
        self.floor.push(floor);
        self.events.push(way);
    }
}

impl From<Samples> for Latency {
    fn from(samples: Samples) -> Self {
        let floor_us = Percentiles::of(samples.floor);
        let received = Percentiles::of(samples.events.iter().map(|way| way.received_to_entered));
        Self {
            floor_us,
            received_to_entered_us: received,
            published_to_entered_us: Percentiles::of(samples.events.iter().map(|way| way.published_to_entered)),
            ratio_p50: received.p50 / floor_us.p50,
            ratio_p99: received.p99 / floor_us.p99,
        }
    }
}

/// The cold floor: starts a program that does nothing but answer one message, and waits for the answer.
pub fn start_and_answer() -> Result<f64> {
    use std::io::{Read, Write};
    let program = own_program()?;
    let started = now_ns();
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let mut child = Command::new(program)
        .arg(child::EMPTY)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    ours.write_all(&[1])?;
    let mut answer = [0];
    ours.read_exact(&mut answer)?;
    let took = micros_between(started, now_ns());
    let status = child.wait()?;
    ensure(status.success(), || format!("the empty program ended with {status}"))?;
    Ok(took)
}

/// The warm floor: one claim, and one message to a process that waits, with its answer.
struct WarmFloor {
    ledger: Arc<dyn weft_ledger::Ledger>,
    session: Box<dyn NodeSession>,
    function: FunctionName,
    link: tokio::net::UnixStream,
    /// Ends when `link` is dropped.
    _program: tokio::process::Child,
}

impl WarmFloor {
    async fn start(stage: &Stage) -> Result<Self> {
        let session = stage.ledger.enter(&NodeName::new("floor")?, LIMIT).await?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let program = tokio::process::Command::new(own_program()?)
            .arg(child::ECHO)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            ledger: Arc::clone(&stage.ledger),
            session,
            function: FunctionName::new("floor")?,
            link: tokio::net::UnixStream::from_std(ours)?,
            _program: program,
        })
    }

    async fn sample(&mut self, number: u32) -> Result<f64> {
        let request = ClaimRequest {
            key: Key::new(id(number))?,
            digest: Digest::of(&[b"floor"]),
            resume: None,
            interrupted: false,
        };
        let started = now_ns();
        let verdicts = self.ledger.claim(self.session.owner(), &self.function, &[request]).await?;
        let mut message = [0; MESSAGE_BYTES];
        self.link.write_all(&message).await?;
        self.link.read_exact(&mut message).await?;
        let took = micros_between(started, now_ns());
        ensure(matches!(verdicts[..], [Verdict::Run(_)]), || format!("a fresh key was answered with {verdicts:?}"))?;
        Ok(took)
    }
}
