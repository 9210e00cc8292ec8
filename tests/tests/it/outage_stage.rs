//! What the tests of outages share: three services of a test's own, each behind a proxy, what may befall them, and what
//! the admin port says meanwhile.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use weft_tests::{Flow, PrivatePostgres, PrivateRabbit, PrivateRedis, Proxy, poll};

use crate::system_stage::{LIMIT, Place, Stage, get};

/// One of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Postgres,
    RabbitMq,
    Redis,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::Postgres, Self::RabbitMq, Self::Redis];

    /// As the admin port names it.
    pub fn role(self) -> &'static str {
        match self {
            Self::Postgres => "ledger",
            Self::RabbitMq => "broker",
            Self::Redis => "state",
        }
    }
}

/// What befalls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It ends in good order and is started again.
    Stopped,
    /// SIGKILL to all its processes; it is started again.
    Killed,
    /// SIGSTOP to all its processes, then SIGCONT.
    Paused,
    /// Its answers come late.
    Slowed,
    /// Every connection is reset and new ones are refused.
    Cut,
    /// Its answers get lost while the connections stay. Then they break, as TCP does not lose bytes in the middle.
    AnswersLost,
}

impl Fault {
    pub const ALL: [Self; 6] = [Self::Stopped, Self::Killed, Self::Paused, Self::Slowed, Self::Cut, Self::AnswersLost];
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The services, and the ways to them.
pub struct Services {
    pub postgres: PrivatePostgres,
    pub rabbit: PrivateRabbit,
    pub redis: PrivateRedis,
    to_postgres: Proxy,
    to_rabbit: Proxy,
    to_redis: Proxy,
}

impl Services {
    pub async fn start() -> Self {
        let (postgres, rabbit, redis) =
            tokio::join!(PrivatePostgres::start(), PrivateRabbit::start(), PrivateRedis::start());
        let (to_postgres, to_rabbit, to_redis) =
            tokio::join!(Proxy::before(postgres.port()), Proxy::before(rabbit.port()), Proxy::before(redis.port()));
        Self { postgres, rabbit, redis, to_postgres, to_rabbit, to_redis }
    }

    /// A stage whose programs reach the services through the proxies; the test itself goes to them directly.
    pub async fn stage(&self) -> (Stage, Direct) {
        let (mut vhost, ledger) = tokio::join!(self.rabbit.vhost(), self.postgres.database());
        let direct = Direct { ledger: ledger.clone(), state: self.redis.url() };
        // A peer that is silent for three seconds is gone, so that no test waits for a minute.
        vhost.amqp_url = format!("{}?heartbeat=2", self.to_rabbit.url(&vhost.amqp_url));
        let place = Place::Real {
            vhost: Box::new(vhost),
            ledger: self.to_postgres.url(&ledger),
            state: self.to_redis.url(&self.redis.url()),
        };
        (Stage::with(place), direct)
    }

    pub fn proxy(&self, service: Service) -> &Proxy {
        match service {
            Service::Postgres => &self.to_postgres,
            Service::RabbitMq => &self.to_rabbit,
            Service::Redis => &self.to_redis,
        }
    }

    /// Lets a fault befall a service.
    pub async fn strike(&self, service: Service, fault: Fault) {
        let proxy = self.proxy(service);
        match (fault, service) {
            (Fault::Stopped, Service::Postgres) => self.postgres.stop().await,
            (Fault::Stopped, Service::RabbitMq) => self.rabbit.stop().await,
            (Fault::Stopped, Service::Redis) => self.redis.stop().await,
            (Fault::Killed, Service::Postgres) => self.postgres.kill(),
            (Fault::Killed, Service::RabbitMq) => self.rabbit.kill(),
            (Fault::Killed, Service::Redis) => self.redis.kill(),
            (Fault::Paused, Service::Postgres) => self.postgres.pause(),
            (Fault::Paused, Service::RabbitMq) => self.rabbit.pause(),
            (Fault::Paused, Service::Redis) => self.redis.pause(),
            (Fault::Slowed, _) => proxy.answers(Flow::Delay(Duration::from_millis(100))),
            (Fault::Cut, _) => {
                proxy.refuse();
                proxy.reset();
            }
            (Fault::AnswersLost, _) => proxy.answers(Flow::Lose),
        }
    }

    /// Ends what [`Self::strike`] began.
    pub async fn heal(&self, service: Service, fault: Fault) {
        let proxy = self.proxy(service);
        match (fault, service) {
            (Fault::Stopped | Fault::Killed, Service::Postgres) => self.postgres.start_again().await,
            (Fault::Stopped | Fault::Killed, Service::RabbitMq) => self.rabbit.start_again().await,
            (Fault::Stopped | Fault::Killed, Service::Redis) => self.redis.start_again().await,
            (Fault::Paused, Service::Postgres) => self.postgres.resume(),
            (Fault::Paused, Service::RabbitMq) => self.rabbit.resume(),
            (Fault::Paused, Service::Redis) => self.redis.resume(),
            (Fault::Slowed | Fault::Cut, _) => proxy.heal(),
            (Fault::AnswersLost, _) => {
                proxy.heal();
                proxy.reset();
            }
        }
    }
}

/// The addresses that lead past the proxies.
pub struct Direct {
    pub ledger: String,
    pub state: String,
}

/// What `GET /health` answered.
#[derive(Debug, Clone)]
pub struct Health {
    pub code: u16,
    pub body: Value,
}

impl Health {
    /// Which services it says are not well.
    pub fn wrong(&self) -> Vec<&'static str> {
        let told = |role: &&str| !self.body[*role].is_null();
        Service::ALL.iter().map(|service| service.role()).filter(told).collect()
    }
}

/// Asks an admin port.
pub async fn health(address: &str) -> Health {
    let response = get(address, "/health").await;
    Health { code: response.status().as_u16(), body: response.json().await.unwrap() }
}

/// Waits until the admin port names exactly these services.
pub async fn health_names(address: &str, roles: &[&str]) -> Health {
    poll(&format!("/health names {roles:?}"), LIMIT, || async {
        let health = health(address).await;
        if health.wrong() == roles { Ok(health) } else { Err(health) }
    })
    .await
}

/// A process's resident memory, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
