//! Requests of this dispatcher's own callers: put into the queue of one function, run by whichever dispatcher takes them,
//! and answered from the ledger.
//!
//! ```text
//! caller ─▶ ask ─▶ queue ─▶ (any dispatcher: claim, run, settle + reply in the outbox) ─▶ relay ─▶ replies ─▶ caller
//!                                                     └─ the row, for when the reply is lost ─────────────────▲
//! ```
//!
//! Nothing of it is in memory alone: a caller that goes away, or whose dispatcher does, asks again with the same key and
//! gets the answer of the first time. What is here is who waits, bounded in number and bytes.

mod answer;
#[cfg(test)]
mod tests;
mod waiting;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_ledger::{DeadLetterQuery, InvocationQuery, InvocationRecord, Ledger};
use weft_process::telemetry::{self, spans};
use weft_schemas::{Event, FunctionName, Key, Message, NodeName, TraceContext};

pub(crate) use self::answer::Answer;
use self::waiting::{RequestId, Waiting};
use crate::broker::{Broker, BrokerError, FromReplies, Names, PublishError, Replies};
use crate::function::{Door, Entry, Took};

/// Requests that wait at once, and the bytes of their payloads together.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 256 << 20;
/// When the ledger is first asked about a request whose answer does not come, and how the wait grows: a reply may be lost
/// with no connection lost here, as with the one of the dispatcher that sent it.
const LOOK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// Why a request has no answer. Whatever it is, it may be asked again with the same key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The function's queue is full, or the broker refuses for another reason.
    #[error("the broker refused the request")]
    Refused,
    /// It may have arrived all the same.
    #[error("the broker does not answer: {0}")]
    Broker(PublishError),
    /// It goes on.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The function's `concurrency.reserved` is all busy. Nothing was sent.
    #[error("all that is reserved for the function is busy")]
    Throttled,
    /// This dispatcher stops; another one, or the next, runs it.
    #[error("the dispatcher stops")]
    Stopping,
}

/// A request with the key that it runs under.
pub(crate) struct Request {
    pub function: FunctionName,
    pub key: Key,
    pub event: Event,
}

/// The requests under way. Clones share them.
#[derive(Clone)]
pub(crate) struct Requests {
    shared: Arc<Shared>,
}

struct Shared {
    broker: Arc<dyn Broker>,
    ledger: Arc<dyn Ledger>,
    names: Names,
    reply_to: String,
    waiting: Mutex<Waiting<oneshot::Sender<(Answer, Took)>>>,
    /// Raised when answers may have been lost.
    gaps: watch::Sender<u64>,
    closing: CancellationToken,
}

/// A place among those who wait; given back when dropped.
pub(crate) struct Seat {
    shared: Arc<Shared>,
    id: RequestId,
    answer: oneshot::Receiver<(Answer, Took)>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.waiting().leave(&self.id);
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting<oneshot::Sender<(Answer, Took)>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    /// Opens the place for answers. [`collect`](Self::collect) has to run then.
    ///
    /// # Errors
    /// The broker's.
    pub async fn open(
        broker: Arc<dyn Broker>,
        ledger: Arc<dyn Ledger>,
        names: Names,
        node: &NodeName,
    ) -> Result<(Self, mpsc::Receiver<FromReplies>), BrokerError> {
        // Cut, so that the name stays within what a broker takes; the rest of it is unique.
        let node: String = node.as_str().chars().take(64).collect();
        let place = names.replies(&format!("{node}.{}", uuid::Uuid::new_v4().simple()));
        let Replies { address, arriving } = broker.replies(&place).await?;
        let shared = Shared {
            broker,
            ledger,
            names,
            reply_to: address,
            waiting: Mutex::new(Waiting::new(MOST, MOST_BYTES)),
            gaps: watch::Sender::new(0),
            closing: CancellationToken::new(),
        };
        Ok((Self { shared: Arc::new(shared) }, arriving))
    }

    /// Hands answers to those who wait for them, until told to stop or the broker is closed.
    pub async fn collect(self, mut arriving: mpsc::Receiver<FromReplies>, stop: CancellationToken) {
        loop {
            let from = tokio::select! {
                () = stop.cancelled() => return,
                from = arriving.recv() => from,
            };
            match from {
                Some(FromReplies::Answer(message)) => self.deliver(&message),
                Some(FromReplies::Gap) => self.shared.gaps.send_modify(|gaps| *gaps += 1),
                // The broker is closed: nothing comes any more. Who still waits is told by `close`.
                None => {
                    stop.cancelled().await;
                    return;
                }
            }
        }
    }

    fn deliver(&self, message: &Message) {
        let id = message.properties.correlation_id.as_deref().unwrap_or_default();
        let Some(answer) = Answer::of_reply(message) else {
            tracing::debug!(id, "reply is none of a dispatcher's, dropped");
            return;
        };
        if let Some(waits) = self.shared.waiting().leave(id) {
            // Who has just gone away needs none.
            let _ = waits.send((answer, Answer::took(message)));
        }
    }

    /// A place to wait in, for a payload of so many bytes; `None` when there is no room.
    pub fn seat(&self, bytes: usize) -> Option<Seat> {
        let (to, answer) = oneshot::channel();
        let id = uuid::Uuid::new_v4().to_string();
        self.shared.waiting().enter(id.clone(), bytes, to).ok()?;
        Some(Seat { shared: Arc::clone(&self.shared), id, answer })
    }

    /// Whether the ledger knows a request's key, whatever became of it: what it knows takes no slot by being asked again.
    async fn is_known(&self, request: &Request) -> bool {
        // What the ledger cannot say now is asked again with the call itself.
        self.record(&request.function, &request.key).await.is_ok_and(|record| record.is_some())
    }

    /// Puts a request into its function's queue and waits for the answer. `door`: the function's; it lets nobody in who would
    /// have to wait for a slot of `concurrency.reserved`. The same key with the same payload runs once,
    /// whoever asks and however often, and has the same answer each time. With the answer comes what the attempt took; nothing
    /// of a stored one.
    ///
    /// Dropping it loses nothing: the request goes on.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(
        &self,
        mut seat: Seat,
        request: &Request,
        door: &Door,
        limit: Duration,
    ) -> Result<(Answer, Took), AskError> {
        let began = Instant::now();
        // Held until there is an answer.
        let (entry, _inside) = door.enter(&seat.id, &request.key).await;
        match entry {
            Entry::Admitted => {}
            Entry::Throttled if self.is_known(request).await => {}
            Entry::Throttled => return Err(AskError::Throttled),
            Entry::Stopping => return Err(AskError::Stopping),
        }
        let mut gaps = self.shared.gaps.subscribe();
        let mut message = self.message(request);
        message.properties.reply_to = Some(self.shared.reply_to.clone());
        message.properties.correlation_id = Some(seat.id.clone());
        self.publish(message).await?;
        let mut wait = LOOK.0;
        let mut look = began + wait;
        loop {
            let closing = tokio::select! {
                biased;
                Ok(answer) = &mut seat.answer => return Ok(answer),
                () = self.shared.closing.cancelled() => true,
                Ok(()) = gaps.changed() => false,
                () = tokio::time::sleep_until(look.min(began + limit)) => false,
            };
            // What the ledger cannot say now it says at the next look.
            if let Ok(Some(answer)) = self.look(request).await {
                return Ok((answer, Took::default()));
            }
            if closing {
                return Err(AskError::Stopping);
            }
            if began.elapsed() >= limit {
                return Err(AskError::Late(limit));
            }
            if Instant::now() >= look {
                wait = (wait * 2).min(LOOK.1);
                look = Instant::now() + wait;
            }
        }
    }

    /// Puts a request into its function's queue; nobody waits for its answer.
    ///
    /// # Errors
    /// [`AskError::Refused`] and [`AskError::Broker`].
    pub async fn post(&self, request: &Request) -> Result<(), AskError> {
        self.publish(self.message(request)).await
    }

    fn message(&self, request: &Request) -> Message {
        request.event.to_message("", &self.shared.names.function(&request.function))
    }

    async fn publish(&self, mut message: Message) -> Result<(), AskError> {
        if message.trace_context().is_none() {
            let id = message.properties.message_id.clone().unwrap_or_default();
            let span = spans::publish(&message.exchange, &message.routing_key, &id);
            if let Some(context) = telemetry::of(&span) {
                let trace = TraceContext { traceparent: context.traceparent, tracestate: context.tracestate };
                message.set_trace_context(&trace);
            }
        }
        match self.shared.broker.publish(std::slice::from_ref(&message)).await.pop() {
            Some(Ok(())) => Ok(()),
            Some(Err(PublishError::Nacked)) => Err(AskError::Refused),
            Some(Err(error)) => Err(AskError::Broker(error)),
            None => Err(AskError::Broker(PublishError::Disconnected { detail: "no outcome".to_owned() })),
        }
    }

    /// What the ledger says of a request; `None` while it has not ended, and when its key is known with another payload.
    async fn look(&self, request: &Request) -> Result<Option<Answer>, weft_ledger::Error> {
        let Some(record) = self.record(&request.function, &request.key).await? else { return Ok(None) };
        if record.digest != request.event.digest() {
            return Ok(None);
        }
        self.answer(record).await
    }

    /// The invocation of a key, as the ledger has it.
    pub async fn record(
        &self,
        function: &FunctionName,
        key: &Key,
    ) -> Result<Option<InvocationRecord>, weft_ledger::Error> {
        let query = InvocationQuery {
            function: Some(function.clone()),
            key: Some(key.clone()),
            limit: 1,
            ..InvocationQuery::default()
        };
        Ok(self.shared.ledger.invocations(&query).await?.pop())
    }

    /// The answer that a row stands for; `None` while it has not ended.
    pub async fn answer(&self, record: InvocationRecord) -> Result<Option<Answer>, weft_ledger::Error> {
        let query = DeadLetterQuery {
            function: Some(record.function.clone()),
            key: Some(record.key.clone()),
            include_closed: true,
            limit: 1,
            ..DeadLetterQuery::default()
        };
        let letters = match record.state {
            weft_ledger::State::Dead => self.shared.ledger.dead_letters(&query).await?,
            _ => Vec::new(),
        };
        Ok(Answer::of_record(record, letters.first()))
    }

    /// Ends the wait of all who wait: each looks at the ledger once more.
    pub fn close(&self) {
        self.shared.closing.cancel();
    }
}
