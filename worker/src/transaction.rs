//! The handler's transaction on the ledger's database: its SQL, its events and its success commit together.

use serde::Serialize;
use weft_ledger::join::{JoinError, Joined, Row, Value};
use weft_ledger::sqlx::{PgConnection, SqliteConnection};
use weft_ledger::{OutboxKind, OutboxMessage};
use weft_process::crash::{self, Point};
use weft_schemas::Event;

use crate::context::{Context, TransactionState, already_committed};
use crate::failure::Failure;
use crate::handler::to_json;

/// An open transaction of one attempt. It holds a connection until it ends, and on SQLite it keeps every other writer
/// of the file out: keep it short, and call outside services before it or after it.
///
/// Dropped: rolled back. See [`Context::transaction`] for what a handler that just drops it answers.
pub struct Transaction {
    joined: Joined,
    emits: Vec<Event>,
    slot: Slot,
}

/// The attempt's one place for a transaction, given back when dropped.
struct Slot {
    ctx: Context,
    /// What the place held before.
    before: TransactionState,
    /// What it holds afterwards.
    leave: TransactionState,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.ctx.effects().transaction = self.leave;
    }
}

impl Slot {
    fn take(ctx: Context) -> Result<Self, Failure> {
        let mut effects = ctx.effects();
        if effects.committed.is_some() {
            return Err(already_committed());
        }
        if effects.transaction == TransactionState::Open {
            return Err(Failure::retry("TransactionOpen", "the handler has an open transaction; end it first"));
        }
        let before = std::mem::replace(&mut effects.transaction, TransactionState::Open);
        drop(effects);
        Ok(Self { ctx, before, leave: before })
    }
}

impl Transaction {
    pub(crate) async fn begin(ctx: Context) -> Result<Self, Failure> {
        let mut slot = Slot::take(ctx)?;
        let ctx = &slot.ctx;
        let joiner = ctx.services().joiner().await?;
        let joined = joiner.begin(ctx.function(), ctx.key(), ctx.fence()).await.map_err(|error| lost(ctx, error))?;
        slot.leave = TransactionState::Abandoned;
        Ok(Self { joined, emits: Vec::new(), slot })
    }

    /// Runs one statement and answers the number of rows affected. `$1` is the first parameter in both databases; see
    /// [`crate::params`].
    ///
    /// # Errors
    /// The database refuses the statement (in Postgres the transaction then takes nothing but its end) or is gone. `?`
    /// makes a retryable [`Failure`] of either; match on it to tell a unique violation from the rest.
    pub async fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, JoinError> {
        self.joined.execute(sql, params).await
    }

    /// Runs one query and answers every row.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, JoinError> {
        self.joined.query(sql, params).await
    }

    /// The connection inside the transaction, when the ledger is in Postgres. Do not end the transaction on it.
    pub fn postgres(&mut self) -> Option<&mut PgConnection> {
        self.joined.postgres()
    }

    /// The connection inside the transaction, when the ledger is in SQLite. Do not end the transaction on it.
    pub fn sqlite(&mut self) -> Option<&mut SqliteConnection> {
        self.joined.sqlite()
    }

    /// Emits an event that leaves exactly if this transaction commits, after those of [`Context::emit`].
    ///
    /// # Errors
    /// As [`Context::emit`].
    pub fn emit<D: Serialize + ?Sized>(&mut self, kind: &str, data: &D) -> Result<(), Failure> {
        let mut effects = self.slot.ctx.effects();
        let event = self.slot.ctx.build_event(&mut effects, kind, data)?;
        drop(effects);
        self.emits.push(event);
        Ok(())
    }

    /// Commits: the handler's SQL, every event emitted so far, and the success of this invocation with `result`, which
    /// is given back. From then on the invocation is settled: whatever the handler returns, a duplicate of the event is
    /// answered with `result`.
    ///
    /// # Errors
    /// Nothing was committed, with one exception: when the connection breaks in the middle of the commit (kind
    /// `CommitUnknown`, retryable) the next attempt's claim finds out, and a commit that did happen is not repeated. A
    /// lost right to run is [`Failure::is_superseded`]. Dropped half-way, it is as if the connection had broken.
    pub async fn commit<R: Serialize>(self, result: R) -> Result<R, Failure> {
        let Self { joined, emits, slot } = self;
        let ctx = &slot.ctx;
        let json = to_json(&result, ctx.services().max_result)?;
        let exchange = ctx.services().events_exchange();
        // A copy: should the commit fail, another transaction of this attempt may still take them along.
        let earlier = ctx.effects().emits.clone();
        let outbox = earlier.iter().chain(&emits).map(|event| OutboxMessage {
            kind: OutboxKind::Emit,
            due_in: std::time::Duration::ZERO,
            message: event.to_message(&exchange, &event.kind),
        });
        joined.settle(json.clone(), ctx.keep(), outbox.collect()).await.map_err(|error| lost(ctx, error))?;
        crash::point(Point::AfterCommit);
        ctx.effects().committed = Some(json);
        Ok(result)
    }

    /// Gives up everything done in this transaction, on purpose: the handler may go on and succeed without it.
    pub async fn rollback(mut self) {
        self.slot.leave = self.slot.before;
        // It fails only with the connection, which rolls back as well.
        let _ = self.joined.rollback().await;
    }
}

/// A join error as the attempt's failure. A lost right to run also tells the handler's other parts to stop.
fn lost(ctx: &Context, error: JoinError) -> Failure {
    let failure = Failure::from(error);
    if failure.is_superseded() {
        ctx.cancel();
    }
    failure
}
