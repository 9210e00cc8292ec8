//! A ledger that notes when it was asked and when it had answered, for rounds with one event at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use weft_ledger::{
    Audit, ClaimRequest, ClosedSince, DeadLetterGroup, DeadLetterQuery, DeadLetterRecord, DueBatch, Error,
    InvocationQuery, InvocationRecord, Ledger, NodeSession, OutboxMessage, Owner, PermitAsk, Permits, Redrive,
    Redriven, Settle, Settled, State, Usage, Verdict,
};
use weft_schemas::{DeadLetter, DeadLetterId, FunctionName, NodeName};

use crate::clock;

type Result<T> = std::result::Result<T, Error>;

/// [`clock::now_ns`] at the latest claim and the latest settle.
#[derive(Debug, Clone, Copy)]
pub struct Notes {
    /// The claim had its verdicts.
    pub claimed_ns: u64,
    /// The settle was about to be sent.
    pub settling_ns: u64,
    /// It was durable.
    pub settled_ns: u64,
}

/// Hands everything on.
pub struct Noted {
    inner: Arc<dyn Ledger>,
    claimed_ns: AtomicU64,
    settling_ns: AtomicU64,
    settled_ns: AtomicU64,
}

impl Noted {
    pub fn new(inner: Arc<dyn Ledger>) -> Self {
        let (claimed_ns, settling_ns, settled_ns) = Default::default();
        Self { inner, claimed_ns, settling_ns, settled_ns }
    }

    /// Of the latest event, once it is settled.
    pub fn notes(&self) -> Notes {
        let read = |note: &AtomicU64| note.load(Ordering::Acquire);
        Notes {
            claimed_ns: read(&self.claimed_ns),
            settling_ns: read(&self.settling_ns),
            settled_ns: read(&self.settled_ns),
        }
    }
}

#[async_trait]
impl Ledger for Noted {
    async fn claim(&self, owner: &Owner, function: &FunctionName, requests: &[ClaimRequest]) -> Result<Vec<Verdict>> {
        let verdicts = self.inner.claim(owner, function, requests).await;
        self.claimed_ns.store(clock::now_ns(), Ordering::Release);
        verdicts
    }

    async fn settle(&self, function: &FunctionName, settles: &[Settle]) -> Result<Vec<Settled>> {
        self.settling_ns.store(clock::now_ns(), Ordering::Release);
        let settled = self.inner.settle(function, settles).await;
        self.settled_ns.store(clock::now_ns(), Ordering::Release);
        settled
    }

    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn migrate(&self) -> Result<Vec<i64>> {
        self.inner.migrate().await
    }

    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }

    async fn enter(&self, node: &NodeName, lease: Duration) -> Result<Box<dyn NodeSession>> {
        self.inner.enter(node, lease).await
    }

    async fn bury(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<()> {
        self.inner.bury(letters).await
    }

    async fn permits(&self, owner: &Owner, function: &FunctionName, ask: PermitAsk) -> Result<Permits> {
        self.inner.permits(owner, function, ask).await
    }

    async fn due(&self, limit: u32) -> Result<Box<dyn DueBatch>> {
        self.inner.due(limit).await
    }

    async fn next_due(&self) -> Result<Option<Duration>> {
        self.inner.next_due().await
    }

    async fn invocations(&self, query: &InvocationQuery) -> Result<Vec<InvocationRecord>> {
        self.inner.invocations(query).await
    }

    async fn totals(&self) -> Result<Vec<(FunctionName, State, u64)>> {
        self.inner.totals().await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>> {
        self.inner.dead_letters(query).await
    }

    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterGroup>> {
        self.inner.dead_letter_groups(query).await
    }

    async fn redrive(&self, id: &DeadLetterId, redrive: &Redrive) -> Result<Redriven> {
        self.inner.redrive(id, redrive).await
    }

    async fn purge(&self, ids: &[DeadLetterId], by: &str) -> Result<u64> {
        self.inner.purge(ids, by).await
    }

    async fn closed_since(&self, since: jiff::Timestamp) -> Result<ClosedSince> {
        self.inner.closed_since(since).await
    }

    async fn closed_letters(&self, ids: &[DeadLetterId]) -> Result<Vec<DeadLetterId>> {
        self.inner.closed_letters(ids).await
    }

    async fn post(&self, messages: &[OutboxMessage]) -> Result<()> {
        self.inner.post(messages).await
    }

    async fn audit(&self, limit: u32) -> Result<Audit> {
        self.inner.audit(limit).await
    }

    async fn write_usage(&self, rows: &[Usage]) -> Result<()> {
        self.inner.write_usage(rows).await
    }

    async fn usage(&self, since: jiff::Timestamp) -> Result<Vec<Usage>> {
        self.inner.usage(since).await
    }

    async fn sweep(&self, limit: u32) -> Result<u64> {
        self.inner.sweep(limit).await
    }
}
