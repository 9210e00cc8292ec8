//! How long `weft audit` takes on a large ledger: the real program, against real servers.

use std::time::{Duration, Instant};

use serde::Serialize;
use weft_tests::Process;

use crate::child;
use crate::fault::{Result, ensure};
use crate::fill::filled;
use crate::numbers::Spread;
use crate::stage::{PREFIX, Servers, Shape, Stage};

const LIMIT: Duration = Duration::from_secs(120);
const ROUNDS: u32 = 3;

#[derive(Debug, Serialize)]
pub struct Audit {
    pub rows: u64,
    /// The whole program, with `--pause 0s`: it reads the books twice.
    pub seconds: Spread,
}

pub async fn run(servers: &Servers, rows: u64) -> Result<Audit> {
    eprintln!("audit: filling a ledger with {rows} rows");
    let address = filled(servers, rows, 0).await?;
    let shape = Shape { handler: child::NOOP, slots: 1, workers: 1, keep_alive: "5m" };
    let stage = Stage::on(servers, shape, address.clone()).await?;
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let exit = Process::weft("weft")
            .args(["audit", "--pause", "0s", "--prefix", PREFIX, "--json"])
            .env("WEFT_AMQP_URL", &stage.vhost.amqp_url)
            .env("WEFT_LEDGER_URL", address.expose())
            .env("WEFT_STATE_URL", servers.redis.url())
            .run(LIMIT)
            .await;
        seconds.push(began.elapsed().as_secs_f64());
        ensure(exit.status.success(), || format!("weft audit ended with {}: {}", exit.status, exit.text()))?;
    }
    stage.broker.close().await;
    Ok(Audit { rows, seconds: Spread::of(seconds) })
}
