//! Other people's work queues, each with its own advice for durable, acknowledged work, on the same servers.
//!
//! Their programs stand in `bench/peers/`, with the versions of everything that they need pinned. [`install`] puts them into
//! a folder of their own, [`round`] runs one round of one peer.

mod install;
mod process;
mod round;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

pub use install::{Home, install, install_lambda};
pub use round::round;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Peer {
    Celery,
    Dramatiq,
    /// With its local queue and completions in batches
    GraphileWorker,
    /// Graphile Worker without them: each job fetched and completed by itself
    GraphileSingle,
    PgBoss,
    Bullmq,
    /// BullMQ on a Redis that writes to the disk before it answers
    BullmqAlways,
    ApalisPostgres,
    ApalisAmqp,
}

/// What installs a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kit {
    Python,
    Node,
    Rust,
}

/// What a peer keeps its jobs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// And results in Redis.
    RabbitMq,
    Postgres,
    /// With the fsync policy of its append-only file.
    Redis(&'static str),
}

/// A peer that is not measured, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Absent {
    pub peer: Peer,
    pub reason: String,
}

/// A peer as it is measured.
#[derive(Debug, Clone, Serialize)]
pub struct Installed {
    pub peer: Peer,
    pub version: String,
    pub settings: &'static str,
}

impl Peer {
    pub const ALL: [Self; 9] = [
        Self::Celery,
        Self::Dramatiq,
        Self::GraphileWorker,
        Self::GraphileSingle,
        Self::PgBoss,
        Self::Bullmq,
        Self::BullmqAlways,
        Self::ApalisPostgres,
        Self::ApalisAmqp,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Celery => "celery",
            Self::Dramatiq => "dramatiq",
            Self::GraphileWorker => "graphile_worker",
            Self::GraphileSingle => "graphile_single",
            Self::PgBoss => "pg_boss",
            Self::Bullmq => "bullmq",
            Self::BullmqAlways => "bullmq_always",
            Self::ApalisPostgres => "apalis_postgres",
            Self::ApalisAmqp => "apalis_amqp",
        }
    }

    pub const fn kit(self) -> Kit {
        match self {
            Self::Celery | Self::Dramatiq => Kit::Python,
            Self::GraphileWorker | Self::GraphileSingle | Self::PgBoss | Self::Bullmq | Self::BullmqAlways => Kit::Node,
            Self::ApalisPostgres | Self::ApalisAmqp => Kit::Rust,
        }
    }

    pub const fn store(self) -> Store {
        match self {
            Self::Celery | Self::Dramatiq | Self::ApalisAmqp => Store::RabbitMq,
            Self::GraphileWorker | Self::GraphileSingle | Self::PgBoss | Self::ApalisPostgres => Store::Postgres,
            Self::Bullmq => Store::Redis("everysec"),
            Self::BullmqAlways => Store::Redis("always"),
        }
    }

    /// The package whose version is told.
    const fn package(self) -> &'static str {
        match self {
            Self::Celery => "celery",
            Self::Dramatiq => "dramatiq",
            Self::GraphileWorker | Self::GraphileSingle => "graphile-worker",
            Self::PgBoss => "pg-boss",
            Self::Bullmq | Self::BullmqAlways => "bullmq",
            Self::ApalisPostgres => "apalis-postgres",
            Self::ApalisAmqp => "apalis-amqp",
        }
    }

    /// Its settings and what they keep over a crash of the machine, for the report.
    pub const fn settings(self) -> &'static str {
        match self {
            Self::Celery => {
                "quorum queue, confirms, prefork 2, acks late, prefetch 2 × 64, results in Redis (fsync each second)"
            }
            Self::Dramatiq => "quorum queue, confirms, 2 processes × 8 threads, acked after the actor, no results",
            Self::GraphileWorker => "24 at once, local queue 500, completions in batches; each commit on the disk",
            Self::GraphileSingle => "24 at once, each job fetched and completed by itself; each commit on the disk",
            Self::PgBoss => "batches of 500, polled each 0.5 s; each commit on the disk",
            Self::Bullmq => "2 processes × 50; append-only file, fsync each second: a crash may lose the last second",
            Self::BullmqAlways => "2 processes × 50; append-only file, fsync before each answer",
            Self::ApalisPostgres => "256 at once on all cores, batches of 256; each commit on the disk",
            Self::ApalisAmqp => {
                "quorum queue, no confirms, prefetch 256 on all cores, acked after the task, no results"
            }
        }
    }

    /// How many of its jobs are not done, for those whose store is Postgres: asked as often as need be.
    pub const fn left(self) -> Option<&'static str> {
        match self {
            Self::GraphileWorker | Self::GraphileSingle => Some("select count(*) from graphile_worker._private_jobs"),
            Self::PgBoss => Some("select count(*) from pgboss.job where name = 'bench' and state < 'completed'"),
            Self::ApalisPostgres => Some("select count(*) from apalis.jobs where status <> 'Done'"),
            Self::Celery | Self::Dramatiq | Self::Bullmq | Self::BullmqAlways | Self::ApalisAmqp => None,
        }
    }

    /// How many of its worker programs are started; each may start more by itself.
    const fn programs(self) -> usize {
        match self {
            Self::Bullmq | Self::BullmqAlways => 2,
            Self::Celery
            | Self::Dramatiq
            | Self::GraphileWorker
            | Self::GraphileSingle
            | Self::PgBoss
            | Self::ApalisPostgres
            | Self::ApalisAmqp => 1,
        }
    }

    /// Jobs in a round are at most this many: a slow peer says the same with fewer.
    pub const fn most_events(self) -> u32 {
        match self {
            Self::Celery | Self::GraphileSingle => 4_000,
            Self::Dramatiq
            | Self::GraphileWorker
            | Self::PgBoss
            | Self::Bullmq
            | Self::BullmqAlways
            | Self::ApalisPostgres
            | Self::ApalisAmqp => u32::MAX,
        }
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
