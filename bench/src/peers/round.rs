//! One round of one peer: its queue is filled, its workers start, every job writes a byte, and nothing may be left.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use weft_tests::{PrivateRedis, Vhost};

use super::process::{Group, Line};
use super::{Home, Peer, Store};
use crate::fault::{Fault, Result, ensure};
use crate::stage::{PREFIX, Servers};

/// Filling the queue.
const ENQUEUE: Duration = Duration::from_secs(60);
/// From the start of the workers to the first job.
const FIRST: Duration = Duration::from_secs(30);
/// From the first job on. A peer that has not done all by then is rated by what it has done.
const JOBS: Duration = Duration::from_secs(45);
/// From the last job until its store holds none.
const SETTLED: Duration = Duration::from_secs(20);

/// What a round came to.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub jobs: u32,
    /// From the first job to the last one, where the store is Postgres to the last completion. The way of the first job is
    /// never in it.
    pub took: Duration,
}

/// Where a round's jobs are kept. A store of the round's own ends with it.
struct Place {
    vhost: Option<Vhost>,
    database: Option<String>,
    redis_url: String,
    _redis: Option<PrivateRedis>,
}

impl Place {
    async fn fresh(servers: &Servers, store: Store) -> Self {
        servers.redis.flush().await;
        let (mut vhost, mut database, mut own) = (None, None, None);
        match store {
            Store::RabbitMq => vhost = Some(servers.rabbit.vhost().await),
            Store::Postgres => database = Some(servers.postgres.database().await),
            Store::Redis("everysec") => {}
            Store::Redis(fsync) => own = Some(PrivateRedis::start_durable(fsync).await),
        }
        let redis_url = own.as_ref().map_or_else(|| servers.redis.url(), PrivateRedis::url);
        Self { vhost, database, redis_url, _redis: own }
    }

    fn env(&self, line: Line) -> Line {
        let mut line = line.env("BENCH_REDIS_URL", &self.redis_url).env("BENCH_PREFIX", PREFIX);
        if let Some(vhost) = &self.vhost {
            line = line.env("BENCH_AMQP_URL", &vhost.amqp_url);
        }
        if let Some(database) = &self.database {
            line = line.env("BENCH_POSTGRES_URL", database);
        }
        line
    }
}

/// What a peer's programs are asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Enqueue,
    Work,
    /// How many jobs are not done.
    Left,
}

fn line(home: &Home, peer: Peer, ask: Ask) -> Line {
    let python = |args: &[&str]| {
        let folder = home.python();
        let program = folder.join("venv/bin/python");
        Line::new(program, &folder).args(args.iter().copied()).env("PYTHONDONTWRITEBYTECODE", "1")
    };
    let word = match ask {
        Ask::Enqueue => "enqueue",
        Ask::Work => "work",
        Ask::Left => "left",
    };
    let node = |file: &str| Line::new("node", &home.node()).args([file, word]).env("NODE_ENV", "production");
    let rust = |store: &str| {
        let folder = home.rust();
        Line::new(folder.join("target/release/bench-apalis"), &folder).args([store, word])
    };
    match (peer, ask) {
        (Peer::Celery, Ask::Work) => python(&[
            "-m",
            "celery",
            "-A",
            "celery_peer",
            "worker",
            "-P",
            "prefork",
            "--without-gossip",
            "--without-mingle",
            "--loglevel",
            "WARNING",
        ]),
        (Peer::Celery, _) => python(&["celery_peer.py"]),
        (Peer::Dramatiq, Ask::Work) => python(&["-m", "dramatiq", "dramatiq_peer", "-p", "2", "-t", "8"]),
        (Peer::Dramatiq, _) => python(&["dramatiq_peer.py"]),
        (Peer::GraphileWorker, _) => node("graphile.mjs").env("BENCH_BATCHED", "1"),
        (Peer::GraphileSingle, _) => node("graphile.mjs"),
        (Peer::PgBoss, _) => node("pgboss.mjs"),
        (Peer::Bullmq | Peer::BullmqAlways, _) => node("bullmq.mjs"),
        (Peer::ApalisPostgres, _) => rust("postgres"),
        (Peer::ApalisAmqp, _) => rust("amqp"),
    }
}

/// Runs one round with `events` jobs on a fresh place.
pub async fn round(servers: &Servers, home: &Home, peer: Peer, events: u32) -> Result<Done> {
    let place = Place::fresh(servers, peer.store()).await;
    let log = home.log(peer);
    let mut tally = Tally::new()?;
    let number = events.to_string();
    let all = |ask| {
        let line = place.env(line(home, peer, ask));
        line.env("BENCH_EVENTS", &number).env("BENCH_DONE", tally.path.as_os_str())
    };
    all(Ask::Enqueue).run(&log, ENQUEUE).await?;
    let work = all(Ask::Work);
    let left = all(Ask::Left);
    let mut workers = Vec::new();
    for _ in 0..peer.programs() {
        workers.push(work.start(&log)?);
    }
    let mut done = tally.count(events, &mut workers).await?;
    if done.jobs == events {
        let waited = Instant::now();
        nothing_left(peer, &place, &left, &log.with_extension("left")).await?;
        if peer.left().is_some() {
            done.took += waited.elapsed();
        }
        ensure(tally.more()? == 0, || "jobs were executed twice".to_owned())?;
    }
    for worker in workers {
        worker.stop().await;
    }
    Ok(done)
}

/// The pipe that every executed job writes a byte to.
struct Tally {
    path: PathBuf,
    pipe: pipe::Receiver,
}

impl Tally {
    fn new() -> Result<Self> {
        let path = weft_tests::folder("peer").join("done");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)?;
        // Open for writing too, so that it does not end when a worker does.
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(&path)?;
        Ok(Self { path, pipe })
    }

    async fn count(&mut self, events: u32, workers: &mut [Group]) -> Result<Done> {
        let mut bytes = vec![0; 64 * 1024];
        let (mut jobs, mut first, mut last) = (0u32, None, Instant::now());
        let mut end = tokio::time::Instant::now() + FIRST;
        while jobs < events {
            match tokio::time::timeout_at(end, self.pipe.read(&mut bytes)).await {
                Ok(count) => {
                    jobs += u32::try_from(count?).unwrap_or(u32::MAX);
                    last = Instant::now();
                    if first.is_none() {
                        first = Some(last);
                        end = tokio::time::Instant::now() + JOBS;
                    }
                }
                Err(_) => break,
            }
        }
        for worker in workers.iter_mut() {
            worker.check()?;
        }
        let words = || workers.first().map(Group::words).unwrap_or_default();
        let Some(first) = first else {
            return Err(Fault(format!("no job was executed within {FIRST:?}: {}", words())));
        };
        ensure(jobs <= events, || format!("{jobs} of {events} jobs were executed"))?;
        ensure(jobs > 1 && last > first, || format!("{jobs} of {events} jobs were executed: {}", words()))?;
        Ok(Done { jobs, took: last - first })
    }

    /// Bytes that came since.
    fn more(&mut self) -> Result<usize> {
        match self.pipe.try_read(&mut [0; 16]) {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// Waits until the store says that every job is done and acknowledged.
async fn nothing_left(peer: Peer, place: &Place, left: &Line, log: &Path) -> Result<()> {
    let end = Instant::now() + SETTLED;
    loop {
        let left = match (&place.vhost, &place.database, peer.left()) {
            (Some(vhost), _, _) => messages(vhost).await,
            (None, Some(database), Some(statement)) => weft_tests::sql(database, statement).await.map_err(Fault)?,
            _ => left.run(log, SETTLED).await?.trim().lines().last().unwrap_or_default().to_owned(),
        };
        if left == "0" {
            return Ok(());
        }
        ensure(Instant::now() < end, || format!("the store still holds {left} jobs after {SETTLED:?}"))?;
        tokio::time::sleep(Duration::from_millis(if peer.left().is_some() { 10 } else { 250 })).await;
    }
}

/// Messages in all queues of the jobs, or what is not known yet.
async fn messages(vhost: &Vhost) -> String {
    let mut sum = 0;
    for queue in vhost.queues().await.iter().filter(|queue| queue.starts_with(PREFIX)) {
        match vhost.queue_depth(queue).await {
            Some(depth) => sum += depth.ready + depth.unacked,
            None => return format!("an unknown number in {queue}"),
        }
    }
    sum.to_string()
}
