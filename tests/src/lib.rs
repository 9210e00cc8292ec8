//! The harness: real RabbitMQ, Postgres and Redis for tests, real binaries, and faults.
//!
//! A test asks for a space of its own ([`postgres`], [`redis`], [`rabbitmq`]) on servers that the whole run shares, or
//! starts a server of its own ([`PrivatePostgres`], [`PrivateRedis`], [`PrivateRabbit`]) that it may kill, pause and
//! start again. Nothing is skipped: a server that cannot be found or started fails the test and says what to install.
//!
//! `cargo xtask test` starts the shared servers once and hands their addresses to every test process in the environment
//! (see [`env`]). A test process that finds none starts what it needs itself. Either way the servers die with the
//! process that started them, however it dies.
//!
//! What this crate deliberately does not do: it knows nothing of Weft's own types, so that a fault in them cannot hide
//! itself here.

mod binary;
mod clients;
mod disk;
pub mod env;
mod error;
mod instance;
mod poll;
mod postgres;
mod process;
mod programs;
mod proxy;
mod rabbit;
mod redis;

pub use binary::bin;
pub use clients::{node, node_modules, python, rust_example, rust_function};
pub use disk::SmallDisk;
pub use error::Error;
pub use poll::{poll, poll_every};
pub use postgres::{PrivatePostgres, postgres, sql};
pub use process::{Exit, Process, ProcessBuilder};
pub use proxy::{Flow, Proxy};
pub use rabbit::{Fetched, PrivateRabbit, QueueDepth, Vhost, rabbitmq};
pub use redis::{PrivateRedis, RedisSpace, redis};

/// A new, empty folder of the test's own, removed when the test's process ends.
///
/// # Panics
/// It cannot be made.
#[must_use]
pub fn folder(name: &str) -> std::path::PathBuf {
    error::or_fail(instance::folder(name))
}

/// Starts shared servers in parallel (those of `postgres`, `redis` and `rabbitmq` that are named, or all if none is), for
/// `weft-test-services`; the returned guard stops them.
///
/// # Errors
/// The first server that is missing or does not start.
pub async fn start_shared(names: &[String]) -> Result<SharedServers, Error> {
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let (postgres, redis, rabbit) = tokio::join!(
        start_if(wanted("postgres"), PrivatePostgres::try_start()),
        start_if(wanted("redis"), PrivateRedis::try_start(redis::Durability::None)),
        start_if(wanted("rabbitmq"), PrivateRabbit::try_start())
    );
    Ok(SharedServers { postgres: postgres?, redis: redis?, rabbit: rabbit? })
}

async fn start_if<T>(wanted: bool, start: impl Future<Output = Result<T, Error>>) -> Result<Option<T>, Error> {
    if wanted { start.await.map(Some) } else { Ok(None) }
}

/// The shared servers of a run. Dropping it kills them and removes their data.
pub struct SharedServers {
    postgres: Option<PrivatePostgres>,
    redis: Option<PrivateRedis>,
    rabbit: Option<PrivateRabbit>,
}

impl SharedServers {
    /// The variables (see [`env`]) that make test processes use these servers.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        if let Some(postgres) = &self.postgres {
            variables.push((env::POSTGRES_URL, postgres.url()));
            variables.push((env::POSTGRES_TEMPLATE, postgres.template().display().to_string()));
        }
        if let Some(redis) = &self.redis {
            variables.push((env::REDIS_URL, redis.url()));
        }
        if let Some(rabbit) = &self.rabbit {
            variables.push((env::AMQP_URL, rabbit.url()));
            variables.push((env::RABBITMQ_API, rabbit.api_url()));
        }
        variables
    }
}
