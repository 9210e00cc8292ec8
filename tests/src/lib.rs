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
pub use error::Error;
pub use poll::{poll, poll_every};
pub use postgres::{PrivatePostgres, postgres};
pub use process::{Exit, Process, ProcessBuilder};
pub use proxy::{Flow, Proxy};
pub use rabbit::{Fetched, PrivateRabbit, QueueDepth, Vhost, rabbitmq};
pub use redis::{PrivateRedis, RedisSpace, redis};

/// Starts the shared servers in parallel, for `weft-test-services`; the returned guard stops them.
///
/// # Errors
/// The first server that is missing or does not start.
pub async fn start_shared() -> Result<SharedServers, Error> {
    let (postgres, redis, rabbit) = tokio::join!(
        PrivatePostgres::try_start(),
        PrivateRedis::try_start(redis::Durability::None),
        PrivateRabbit::try_start()
    );
    Ok(SharedServers { postgres: postgres?, redis: redis?, rabbit: rabbit? })
}

/// The shared servers of a run. Dropping it kills them and removes their data.
pub struct SharedServers {
    postgres: PrivatePostgres,
    redis: PrivateRedis,
    rabbit: PrivateRabbit,
}

impl SharedServers {
    /// The variables (see [`env`]) that make test processes use these servers.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            (env::POSTGRES_URL, self.postgres.url()),
            (env::POSTGRES_TEMPLATE, self.postgres.template().display().to_string()),
            (env::REDIS_URL, self.redis.url()),
            (env::AMQP_URL, self.rabbit.url()),
            (env::RABBITMQ_API, self.rabbit.api_url()),
        ]
    }
}
