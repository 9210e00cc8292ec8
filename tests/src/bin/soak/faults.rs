//! Doing the faults of the plan.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_tests::Flow;

use crate::nodes::{Node, signal, workers};
use crate::schedule::{Fault, Server, Way, What};
use crate::stand::Stand;

/// A fault as it was done.
#[derive(Debug, Clone)]
pub struct Done {
    /// From the start of the run.
    pub from: Duration,
    pub until: Duration,
    pub what: What,
    /// Whether there was somebody to do it to.
    pub hit: bool,
    /// On the clock that all processes share, in nanoseconds, when it ended.
    pub until_nanos: u64,
}

/// One lock for each thing that can be broken in one way at a time.
#[derive(Default)]
struct Locks {
    servers: [tokio::sync::Mutex<()>; 3],
    proxies: [tokio::sync::Mutex<()>; 3],
    nodes: [tokio::sync::Mutex<()>; 2],
}

/// Breaks things by the plan until it is over and everything is whole again; returns what was done, in the order in
/// which it ended.
pub async fn run(plan: &[Fault], stand: &Arc<Stand>, nodes: &Arc<[Node; 2]>, began: Instant) -> Vec<Done> {
    let done = Arc::new(Mutex::new(Vec::new()));
    let locks = Arc::new(Locks::default());
    let mut under_way = JoinSet::new();
    for fault in plan.iter().copied() {
        tokio::time::sleep_until(began + fault.at).await;
        let (stand, nodes, locks, done) = (stand.clone(), nodes.clone(), locks.clone(), done.clone());
        under_way.spawn(async move {
            let from = began.elapsed();
            let hit = act(fault, &stand, &nodes, &locks).await;
            let until = began.elapsed();
            let until_nanos = crate::handlers::nanos();
            println!(
                "{:8.2} s  {:5.2} s  {}{}",
                from.as_secs_f64(),
                (until - from).as_secs_f64(),
                fault.what,
                if hit { "" } else { " (nobody there)" }
            );
            done.lock().unwrap_or_else(PoisonError::into_inner).push(Done {
                from,
                until,
                what: fault.what,
                hit,
                until_nanos,
            });
        });
    }
    while let Some(ended) = under_way.join_next().await {
        if let Err(error) = ended {
            // A server that does not come back: there is nothing to judge.
            std::panic::resume_unwind(error.into_panic());
        }
    }
    std::mem::take(&mut done.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Does one fault from its beginning to its end. `false`: nobody was there to do it to.
async fn act(fault: Fault, stand: &Stand, nodes: &[Node; 2], locks: &Locks) -> bool {
    let lasts = fault.lasts;
    match fault.what {
        What::KillWorker { node, pick } => with_worker(nodes, node, pick, Signal::KILL).is_some(),
        What::PauseWorker { node, pick } => {
            let Some(pid) = with_worker(nodes, node, pick, Signal::STOP) else { return false };
            tokio::time::sleep(lasts).await;
            signal(pid, Signal::CONT);
            true
        }
        What::KillDispatcher { node } | What::DrainDispatcher { node } => {
            let how = if matches!(fault.what, What::KillDispatcher { .. }) { Signal::KILL } else { Signal::TERM };
            let Some(pid) = nodes.get(node).and_then(Node::pid) else { return false };
            signal(pid, how);
            true
        }
        What::PauseDispatcher { node } | What::PauseNode { node } => {
            let Some(lock) = locks.nodes.get(node) else { return false };
            let _one_at_a_time = lock.lock().await;
            let Some(pid) = nodes.get(node).and_then(Node::pid) else { return false };
            signal(pid, Signal::STOP);
            let its = if matches!(fault.what, What::PauseNode { .. }) { workers(pid) } else { Vec::new() };
            its.iter().for_each(|worker| signal(*worker, Signal::STOP));
            tokio::time::sleep(lasts).await;
            signal(pid, Signal::CONT);
            its.iter().for_each(|worker| signal(*worker, Signal::CONT));
            true
        }
        What::TrapDispatcher { node, trap } | What::TrapWorker { node, trap } => {
            let (Some(lock), Some(node)) = (locks.nodes.get(node), nodes.get(node)) else { return false };
            let _one_at_a_time = lock.lock().await;
            let Some(pid) = node.pid() else { return false };
            // The file is made by the process that springs it: so one dies, and we know that it did.
            let sprung = stand.folder.join(format!("sprung-{:016x}", fastrand::u64(..)));
            let text = format!("{}:{}@{}", trap.point, trap.passing, sprung.display());
            match fault.what {
                What::TrapDispatcher { .. } => node.trap(text, String::new()),
                _ => node.trap(String::new(), text),
            }
            signal(pid, Signal::KILL);
            // Starting takes its time before anything can be sprung. A trap that is not sprung stays in the process.
            let end = Instant::now() + lasts + Duration::from_secs(9);
            while !sprung.exists() && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            sprung.exists()
        }
        What::Stop(server) | What::Kill(server) | What::Pause(server) => {
            let Some(lock) = locks.servers.get(index(server)) else { return false };
            let _one_at_a_time = lock.lock().await;
            match fault.what {
                What::Pause(_) => pause(stand, server, lasts).await,
                what => restart(stand, server, matches!(what, What::Kill(_)), lasts).await,
            }
            true
        }
        What::FlushRedis => {
            let _one_at_a_time = locks.servers[index(Server::Redis)].lock().await;
            flush(stand.redis.port()).await.is_ok()
        }
        What::Alarm => {
            let _one_at_a_time = locks.servers[index(Server::Rabbit)].lock().await;
            stand.rabbit.alarm(true).await;
            tokio::time::sleep(lasts).await;
            stand.rabbit.alarm(false).await;
            true
        }
        What::Cut(server) => {
            stand.proxy(server).cut();
            true
        }
        What::Reset(server) => {
            stand.proxy(server).reset();
            true
        }
        What::Refuse(server) | What::Delay(server, ..) | What::Hold(server, _) | What::Lose(server, _) => {
            let Some(lock) = locks.proxies.get(index(server)) else { return false };
            let _one_at_a_time = lock.lock().await;
            disturb(stand, server, fault.what, lasts).await;
            true
        }
    }
}

const fn index(server: Server) -> usize {
    match server {
        Server::Postgres => 0,
        Server::Rabbit => 1,
        Server::Redis => 2,
    }
}

fn with_worker(nodes: &[Node; 2], node: usize, pick: u32, what: Signal) -> Option<u32> {
    let workers = workers(nodes.get(node)?.pid()?);
    let pid = *workers.get(usize::try_from(pick).ok()?.checked_rem(workers.len())?)?;
    signal(pid, what);
    Some(pid)
}

async fn pause(stand: &Stand, server: Server, lasts: Duration) {
    let (postgres, rabbit, redis) = (&stand.postgres, &stand.rabbit, &stand.redis);
    match server {
        Server::Postgres => postgres.pause(),
        Server::Rabbit => rabbit.pause(),
        Server::Redis => redis.pause(),
    }
    tokio::time::sleep(lasts).await;
    match server {
        Server::Postgres => postgres.resume(),
        Server::Rabbit => rabbit.resume(),
        Server::Redis => redis.resume(),
    }
}

async fn restart(stand: &Stand, server: Server, kill: bool, lasts: Duration) {
    let (postgres, rabbit, redis) = (&stand.postgres, &stand.rabbit, &stand.redis);
    match (server, kill) {
        (Server::Postgres, true) => postgres.kill(),
        (Server::Postgres, false) => postgres.stop().await,
        (Server::Rabbit, true) => rabbit.kill(),
        (Server::Rabbit, false) => rabbit.stop().await,
        (Server::Redis, true) => redis.kill(),
        (Server::Redis, false) => redis.stop().await,
    }
    tokio::time::sleep(lasts).await;
    match server {
        Server::Postgres => postgres.start_again().await,
        Server::Rabbit => rabbit.start_again().await,
        Server::Redis => redis.start_again().await,
    }
}

async fn disturb(stand: &Stand, server: Server, what: What, lasts: Duration) {
    let proxy = stand.proxy(server);
    let set = |way: Way, flow: Flow| match way {
        Way::Requests => proxy.requests(flow),
        Way::Answers => proxy.answers(flow),
    };
    match what {
        What::Refuse(_) => {
            proxy.refuse();
            proxy.cut();
        }
        What::Delay(_, way, ms) => set(way, Flow::Delay(Duration::from_millis(ms))),
        What::Hold(_, way) => set(way, Flow::Hold),
        What::Lose(_, way) => set(way, Flow::Lose),
        _ => {}
    }
    tokio::time::sleep(lasts).await;
    if matches!(what, What::Lose(..)) {
        // A stream with a hole in it is nothing that a network makes: what was lost ends with its connection.
        proxy.reset();
        // The connections must be gone before anything passes again: one that lived on would take the next answer for
        // the one that was lost.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    proxy.heal();
}

/// `FLUSHALL`, past the proxy.
async fn flush(port: u16) -> std::io::Result<()> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"FLUSHALL\r\n").await?;
    let mut answer = [0; 16];
    let _ = stream.read(&mut answer).await?;
    Ok(())
}
