//! apalis on Postgres and on AMQP: `bench-apalis postgres|amqp enqueue|work`.
//!
//! As in the other peers, every job writes one byte to a pipe that the bench reads: the first byte starts the clock, the
//! last one stops it.

use std::fs::File;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;

use apalis::prelude::{BoxDynError, Data, ParallelizeExt as _, TaskSink as _, WorkerBuilder, WorkerBuilderExt as _};
use apalis_amqp::AmqpBackend;
use apalis_postgres::{PgPool, PostgresStorage};
use futures_sink::Sink;
use serde_json::{Value, json};

/// Jobs at once, and what is fetched at once: as many as the prefetch of the other sides of the bench.
const AT_ONCE: usize = 256;

fn env(name: &str) -> Result<String, BoxDynError> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

/// The same data as the bench's own events carry.
fn event(number: u32) -> Value {
    json!({
        "order": format!("event-{number:08}"),
        "customer": { "id": format!("customer-{}", number % 997), "name": "Zoë Ångström", "country": "SE" },
        "items": [
            { "sku": "WEFT-0001", "quantity": 2, "unit_price_minor": 1999 },
            { "sku": "WEFT-0002", "quantity": 1, "unit_price_minor": 450 },
        ],
        "currency": "EUR",
        "note": "leave it with the neighbours if nobody is at home",
    })
}

async fn noop(_order: Value, done: Data<Arc<File>>) -> Result<(), BoxDynError> {
    let mut pipe: &File = &done;
    Ok(pipe.write_all(b".")?)
}

async fn postgres() -> Result<PostgresStorage<Value>, BoxDynError> {
    let pool = PgPool::connect(&env("BENCH_POSTGRES_URL")?).await?;
    PostgresStorage::setup(&pool).await?;
    let config = apalis_postgres::Config::default().queue(env("BENCH_PREFIX")?.as_str()).batch_size(AT_ONCE);
    Ok(PostgresStorage::new(&pool).with_config(config))
}

fn amqp() -> Result<AmqpBackend<Value>, BoxDynError> {
    let prefetch = u16::try_from(AT_ONCE)?;
    let config = apalis_amqp::Config::default().queue(env("BENCH_PREFIX")?.as_str()).quorum(true);
    Ok(AmqpBackend::new_from_addr(env("BENCH_AMQP_URL")?)?.with_config(config.prefetch_count(prefetch)))
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let mut args = std::env::args().skip(1);
    let asked = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    let events: u32 = env("BENCH_EVENTS")?.parse()?;
    let all = || (0..events).map(event).collect::<Vec<_>>();
    let pipe = || Ok::<_, BoxDynError>(Arc::new(File::options().write(true).open(env("BENCH_DONE")?)?));
    match (asked.0.as_str(), asked.1.as_str()) {
        ("postgres", "enqueue") => postgres().await?.push_bulk(all()).await?,
        ("amqp", "enqueue") => amqp()?.push_bulk(all()).await?,
        ("postgres", "work") => {
            let worker = WorkerBuilder::new("bench").backend(postgres().await?).data(pipe()?).parallelize(tokio::spawn);
            worker.concurrency(AT_ONCE).build(noop).run().await?;
        }
        ("amqp", "work") => {
            // Release 1.0.0 panics when its worker takes a backend that has no channel yet.
            let mut backend = amqp()?;
            std::future::poll_fn(|cx| Sink::poll_ready(Pin::new(&mut backend), cx)).await?;
            let worker = WorkerBuilder::new("bench").backend(backend).data(pipe()?).parallelize(tokio::spawn);
            worker.concurrency(AT_ONCE).build(noop).run().await?;
        }
        (store, word) => return Err(format!("asked for {store:?} {word:?}").into()),
    }
    Ok(())
}
