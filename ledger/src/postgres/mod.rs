//! The ledger in Postgres 14 or newer.
//!
//! Three habits keep the hot path short. Claims and settles are one statement for a batch. Both run on connections of
//! their own that forbid the planner anything but index scans in a nested loop, because a plan made for an empty table
//! would otherwise stay in use while the table grows. And claims alone do without waiting for the disk.

mod audit;
mod bury;
mod claim;
mod closed;
mod connect;
mod dead_letter;
mod error;
mod inspect;
mod instant;
mod locked;
mod migrate;
mod node;
mod outbox;
mod permit;
mod redrive;
mod settle;
mod sweep;
#[cfg(feature = "conformance")]
mod testing;
mod usage;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Mutex;
use weft_schemas::{DeadLetter, DeadLetterId, FunctionName, NodeName};

use crate::verdict::Doubts;
use crate::{
    Audit, ClaimRequest, ClosedSince, DeadLetterGroup, DeadLetterQuery, DeadLetterRecord, DueBatch, Error,
    InvocationQuery, InvocationRecord, Ledger, NodeSession, OutboxMessage, Owner, PermitAsk, Permits, Redrive,
    Redriven, Settle, Settled, State, Usage, Verdict,
};

pub(crate) use connect::{ACQUIRE, options, pool, preflight, redacted};
use connect::{GENERAL, HOT};
pub(crate) use error::{code, is_contention, map};
pub(crate) use instant::Instant;
pub(crate) use settle::Outbox;

/// The ledger in Postgres. Up to twelve connections: 3 for claims, 3 for settles, 2 for the outbox, 1 for the sweep, 2 for
/// everything else, and one for each node session.
pub struct Postgres {
    address: String,
    connect: PgConnectOptions,
    /// Not durable at commit, index scans only.
    claims: PgPool,
    /// Durable, index scans only.
    settles: PgPool,
    /// Held while messages are published.
    relay: PgPool,
    /// Durable, never a scan of the whole table: a plan that was made for a small one would stay.
    sweeps: PgPool,
    general: PgPool,
    /// Written and read by `sweep` alone.
    sweep_walk: Mutex<sweep::Walk>,
    doubts: Doubts,
    stuck: locked::Stuck,
}

#[async_trait]
impl Ledger for Postgres {
    fn address(&self) -> &str {
        &self.address
    }

    async fn migrate(&self) -> Result<Vec<i64>, Error> {
        self.run_migrations().await
    }

    async fn check(&self) -> Result<(), Error> {
        self.within(GENERAL, self.check_version()).await
    }

    async fn ping(&self) -> Result<(), Error> {
        let ping = async { sqlx::query("SELECT 1").execute(&self.general).await.map_err(self.map("ping")) };
        self.within(HOT, ping).await.map(drop)
    }

    async fn enter(&self, node: &NodeName, lease: Duration) -> Result<Box<dyn NodeSession>, Error> {
        self.enter_node(node, lease).await
    }

    async fn claim(
        &self,
        owner: &Owner,
        function: &FunctionName,
        requests: &[ClaimRequest],
    ) -> Result<Vec<Verdict>, Error> {
        self.within(HOT, self.claim_batch(owner, function, requests)).await
    }

    async fn settle(&self, function: &FunctionName, settles: &[Settle]) -> Result<Vec<Settled>, Error> {
        self.within(HOT, self.settle_batch(function, settles)).await
    }

    async fn bury(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<(), Error> {
        self.within(HOT, self.bury_batch(letters)).await
    }

    async fn permits(&self, owner: &Owner, function: &FunctionName, ask: PermitAsk) -> Result<Permits, Error> {
        self.within(HOT, self.take_permits(owner, function, ask)).await
    }

    async fn due(&self, limit: u32) -> Result<Box<dyn DueBatch>, Error> {
        self.within(HOT, self.take_due(limit)).await
    }

    async fn next_due(&self) -> Result<Option<Duration>, Error> {
        self.within(HOT, self.wait_until_due()).await
    }

    async fn invocations(&self, query: &InvocationQuery) -> Result<Vec<InvocationRecord>, Error> {
        self.within(GENERAL, self.list_invocations(query)).await
    }

    async fn totals(&self) -> Result<Vec<(FunctionName, State, u64)>, Error> {
        self.within(GENERAL, self.count_invocations()).await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Error> {
        self.within(GENERAL, self.list_dead_letters(query)).await
    }

    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterGroup>, Error> {
        self.within(GENERAL, self.group_dead_letters(query)).await
    }

    async fn redrive(&self, id: &DeadLetterId, redrive: &Redrive) -> Result<Redriven, Error> {
        self.within(GENERAL, self.redrive_letter(id, redrive)).await
    }

    async fn closed_since(&self, since: Timestamp) -> Result<ClosedSince, Error> {
        self.within(GENERAL, self.functions_closed_since(since)).await
    }

    async fn closed_letters(&self, ids: &[DeadLetterId]) -> Result<Vec<DeadLetterId>, Error> {
        self.within(GENERAL, self.which_are_closed(ids)).await
    }

    async fn purge(&self, ids: &[DeadLetterId], by: &str) -> Result<u64, Error> {
        self.within(GENERAL, self.purge_letters(ids, by)).await
    }

    async fn post(&self, messages: &[OutboxMessage]) -> Result<(), Error> {
        self.within(HOT, self.post_messages(messages)).await
    }

    async fn audit(&self, limit: u32) -> Result<Audit, Error> {
        self.audit_tables(limit).await
    }

    async fn write_usage(&self, rows: &[Usage]) -> Result<(), Error> {
        self.within(GENERAL, self.write_usage_rows(rows)).await
    }

    async fn usage(&self, since: Timestamp) -> Result<Vec<Usage>, Error> {
        self.within(GENERAL, self.read_usage(since)).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64, Error> {
        self.within(GENERAL, self.sweep_expired(limit)).await
    }
}

impl Postgres {
    fn map(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> Error + '_ {
        move |error| map(&self.address, doing, error)
    }
}

/// Waits a little, growing and jittered, before a statement that lost a deadlock or a serialisation check runs again.
async fn pause(attempt: u32) {
    let base = 2u64 << attempt.min(6);
    tokio::time::sleep(Duration::from_millis(base + fastrand::u64(0..=base))).await;
}

/// How often a statement that lost a deadlock or a serialisation check is run at most.
const TRIES: u32 = 6;

/// Runs an expression of `sqlx::Result` again while it loses deadlocks or serialisation checks.
macro_rules! retried {
    ($run:expr) => {{
        let mut attempt = 0;
        loop {
            match $run.await {
                Err(error) if $crate::postgres::is_contention(&error) && attempt + 1 < $crate::postgres::TRIES => {
                    attempt += 1;
                    $crate::postgres::pause(attempt).await;
                }
                result => break result,
            }
        }
    }};
}
use retried;
