//! The ledger in one SQLite file: the embedded default, with the semantics of the Postgres ledger.
//!
//! Times are this machine's clock, which every process with the file shares. Writers are serial in SQLite: within this
//! process they queue in order on a mutex, and across processes they wait for each other up to the busy time-out.

mod audit;
mod bury;
mod claim;
mod closed;
mod connect;
mod dead_letter;
mod inspect;
mod migrate;
mod node;
mod outbox;
mod permit;
mod redrive;
mod settle;
mod sweep;
#[cfg(feature = "conformance")]
mod testing;
mod turn;
mod usage;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::SqlitePool;
use weft_schemas::{DeadLetter, DeadLetterId, FunctionName, NodeName};

use crate::verdict::Doubts;
use crate::{
    Audit, ClaimRequest, ClosedSince, DeadLetterGroup, DeadLetterQuery, DeadLetterRecord, DueBatch, Error,
    InvocationQuery, InvocationRecord, Ledger, NodeSession, OutboxMessage, Owner, PermitAsk, Permits, Redrive,
    Redriven, Settle, Settled, State, Usage, Verdict,
};

pub(crate) use connect::{BUSY, File, map, now, options, path_of};
pub(crate) use settle::post;
pub(crate) use turn::Turn;

/// The ledger in one SQLite file.
pub struct Sqlite {
    address: String,
    path: PathBuf,
    file: Arc<File>,
    readers: SqlitePool,
    /// Outbox rows that a batch of this process holds. One dispatcher has the file, so that nobody else relays from it.
    taken: Arc<Mutex<HashSet<i64>>>,
    doubts: Doubts,
}

#[async_trait]
impl Ledger for Sqlite {
    fn address(&self) -> &str {
        &self.address
    }

    async fn migrate(&self) -> Result<Vec<i64>, Error> {
        self.file.migrate().await
    }

    async fn check(&self) -> Result<(), Error> {
        self.file.check().await
    }

    async fn ping(&self) -> Result<(), Error> {
        sqlx::query("SELECT 1").execute(&self.readers).await.map_err(|error| map(&self.address, "ping", error))?;
        Ok(())
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
        self.claim_batch(owner, function, requests).await
    }

    async fn settle(&self, function: &FunctionName, settles: &[Settle]) -> Result<Vec<Settled>, Error> {
        self.settle_batch(function, settles).await
    }

    async fn bury(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<(), Error> {
        self.bury_batch(letters).await
    }

    async fn permits(&self, owner: &Owner, function: &FunctionName, ask: PermitAsk) -> Result<Permits, Error> {
        self.take_permits(owner, function, ask).await
    }

    async fn due(&self, limit: u32) -> Result<Box<dyn DueBatch>, Error> {
        self.take_due(limit).await
    }

    async fn next_due(&self) -> Result<Option<Duration>, Error> {
        self.wait_until_due().await
    }

    async fn invocations(&self, query: &InvocationQuery) -> Result<Vec<InvocationRecord>, Error> {
        self.list_invocations(query).await
    }

    async fn totals(&self) -> Result<Vec<(FunctionName, State, u64)>, Error> {
        self.count_invocations().await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Error> {
        self.list_dead_letters(query).await
    }

    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterGroup>, Error> {
        self.group_dead_letters(query).await
    }

    async fn redrive(&self, id: &DeadLetterId, redrive: &Redrive) -> Result<Redriven, Error> {
        self.redrive_letter(id, redrive).await
    }

    async fn closed_since(&self, since: Timestamp) -> Result<ClosedSince, Error> {
        self.functions_closed_since(since).await
    }

    async fn closed_letters(&self, ids: &[DeadLetterId]) -> Result<Vec<DeadLetterId>, Error> {
        self.which_are_closed(ids).await
    }

    async fn purge(&self, ids: &[DeadLetterId], by: &str) -> Result<u64, Error> {
        self.purge_letters(ids, by).await
    }

    async fn post(&self, messages: &[OutboxMessage]) -> Result<(), Error> {
        self.post_messages(messages).await
    }

    async fn audit(&self, limit: u32) -> Result<Audit, Error> {
        self.audit_tables(limit).await
    }

    async fn write_usage(&self, rows: &[Usage]) -> Result<(), Error> {
        self.write_usage_rows(rows).await
    }

    async fn usage(&self, since: Timestamp) -> Result<Vec<Usage>, Error> {
        self.read_usage(since).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64, Error> {
        self.sweep_expired(limit).await
    }
}

impl Sqlite {
    fn map(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> Error + '_ {
        move |error| map(&self.address, doing, error)
    }
}
