//! A ledger that counts what it is asked, and fails when it is told to.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use weft_ledger::{Audit, ClosedSince, DeadLetterGroup, DueBatch, Error, PermitAsk, Permits, Settled, Usage};
use weft_schemas::{DeadLetter, DeadLetterId};

use super::*;

pub(super) struct Flaky {
    inner: Arc<dyn Ledger>,
    asked: Mutex<HashMap<&'static str, u32>>,
    failing: Mutex<HashMap<String, u32>>,
    refused: Mutex<Option<String>>,
}

impl Flaky {
    pub(super) fn new(inner: Arc<dyn Ledger>) -> Self {
        Self { inner, asked: Mutex::default(), failing: Mutex::default(), refused: Mutex::default() }
    }

    /// The next `times` calls of a method fail; with `-after` behind its name they do their work first.
    pub(super) fn fail(&self, method: &str, times: u32) {
        self.failing.lock().unwrap().insert(method.to_owned(), times);
    }

    /// Statements with a letter whose message id holds this text are refused for good.
    pub(super) fn refuse_letters_with(&self, id: &str) {
        *self.refused.lock().unwrap() = Some(id.to_owned());
    }

    pub(super) fn asked(&self, method: &str) -> u32 {
        self.asked.lock().unwrap().get(method).copied().unwrap_or(0)
    }

    async fn may<T>(&self, method: &'static str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        *self.asked.lock().unwrap().entry(method).or_default() += 1;
        if self.fails(method) {
            return Err(unavailable());
        }
        let answer = call.await?;
        if self.fails(&format!("{method}-after")) { Err(unavailable()) } else { Ok(answer) }
    }

    fn fails(&self, method: &str) -> bool {
        let mut failing = self.failing.lock().unwrap();
        let Some(left) = failing.get_mut(method).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }
}

fn unavailable() -> Error {
    Error::Unavailable { address: "here".to_owned(), source: "a test says so".into() }
}

#[async_trait]
impl Ledger for Flaky {
    fn address(&self) -> &str {
        self.inner.address()
    }
    async fn migrate(&self) -> Result<Vec<i64>, Error> {
        self.inner.migrate().await
    }
    async fn check(&self) -> Result<(), Error> {
        self.inner.check().await
    }
    async fn ping(&self) -> Result<(), Error> {
        self.inner.ping().await
    }
    async fn enter(&self, node: &NodeName, lease: Duration) -> Result<Box<dyn NodeSession>, Error> {
        self.inner.enter(node, lease).await
    }
    async fn claim(
        &self,
        owner: &Owner,
        function: &FunctionName,
        requests: &[ClaimRequest],
    ) -> Result<Vec<Verdict>, Error> {
        self.may("claim", self.inner.claim(owner, function, requests)).await
    }
    async fn settle(&self, function: &FunctionName, settles: &[Settle]) -> Result<Vec<Settled>, Error> {
        self.may("settle", self.inner.settle(function, settles)).await
    }
    async fn bury(&self, letters: &[(DeadLetter, OutboxMessage)]) -> Result<(), Error> {
        let refused = self.refused.lock().unwrap().clone();
        let named = |letter: &DeadLetter, text: &str| letter.message.header("cloudEvents_id") == Some(text);
        if refused.is_some_and(|text| letters.iter().any(|(letter, _)| named(letter, &text))) {
            return Err(Error::Statement { doing: "bury", source: "a test says so".into() });
        }
        self.may("bury", self.inner.bury(letters)).await
    }
    async fn permits(&self, owner: &Owner, function: &FunctionName, ask: PermitAsk) -> Result<Permits, Error> {
        self.inner.permits(owner, function, ask).await
    }
    async fn due(&self, limit: u32) -> Result<Box<dyn DueBatch>, Error> {
        self.inner.due(limit).await
    }
    async fn next_due(&self) -> Result<Option<Duration>, Error> {
        self.inner.next_due().await
    }
    async fn invocations(&self, query: &InvocationQuery) -> Result<Vec<InvocationRecord>, Error> {
        self.may("invocations", self.inner.invocations(query)).await
    }
    async fn totals(&self) -> Result<Vec<(FunctionName, State, u64)>, Error> {
        self.inner.totals().await
    }
    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Error> {
        self.inner.dead_letters(query).await
    }
    async fn redrive(&self, id: &DeadLetterId, redrive: &Redrive) -> Result<Redriven, Error> {
        self.inner.redrive(id, redrive).await
    }
    async fn dead_letter_groups(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetterGroup>, Error> {
        self.inner.dead_letter_groups(query).await
    }
    async fn purge(&self, ids: &[DeadLetterId], by: &str) -> Result<u64, Error> {
        self.inner.purge(ids, by).await
    }
    async fn post(&self, messages: &[OutboxMessage]) -> Result<(), Error> {
        self.inner.post(messages).await
    }
    async fn audit(&self, limit: u32) -> Result<Audit, Error> {
        self.inner.audit(limit).await
    }
    async fn closed_since(&self, since: Timestamp) -> Result<ClosedSince, Error> {
        self.may("closed_since", self.inner.closed_since(since)).await
    }
    async fn closed_letters(&self, ids: &[DeadLetterId]) -> Result<Vec<DeadLetterId>, Error> {
        self.may("closed_letters", self.inner.closed_letters(ids)).await
    }
    async fn write_usage(&self, rows: &[Usage]) -> Result<(), Error> {
        self.may("write_usage", self.inner.write_usage(rows)).await
    }
    async fn usage(&self, since: Timestamp) -> Result<Vec<Usage>, Error> {
        self.inner.usage(since).await
    }
    async fn sweep(&self, limit: u32) -> Result<u64, Error> {
        self.inner.sweep(limit).await
    }
}
