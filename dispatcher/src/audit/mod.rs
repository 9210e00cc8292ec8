//! Conservation: whether every event that was accepted is accounted for, by the ledger's books and the broker's queues.
//!
//! Broker and ledger have no common clock, and a system at work moves events from one to the other. So an audit looks
//! twice ([`look`]), with a pause in between, and [`judge`] (pure) calls a difference only what both looks show unchanged
//! and no movement explains. It reads; what it takes from a dead-letter queue to see whose it is it hands back.

mod judge;
mod published;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use weft_ledger::{DeadLetterQuery, Ledger};
use weft_process::report::chain;
use weft_schemas::dead_letter::header;
use weft_schemas::{DeadLetterId, FunctionName};

use crate::broker::{Broker, Delivery, Names};

pub use judge::{Broker as BrokerFinding, Finding, Judged, judge};
pub use published::{Missing, Published, Reader};

/// Items of each list that are read and shown.
pub const MOST: u32 = 1_000;
/// Messages that are looked at in a dead-letter queue which holds more than the ledger knows.
const SEEN: u16 = 2_000;
/// How long the broker may keep silent before a queue is taken to have no more.
const QUIET: Duration = Duration::from_millis(500);

/// What broker and ledger said at one time.
#[derive(Debug, Clone, Serialize)]
pub struct Look {
    /// When the first and the last queue were counted, by this machine's clock.
    pub counted: (Timestamp, Timestamp),
    pub ledger: weft_ledger::Audit,
    pub queues: BTreeMap<FunctionName, Queues>,
    /// Messages in the broker's own nets, on their way to the dead letters.
    pub unrouted: Option<u64>,
    pub crashed: Option<u64>,
}

/// Ready messages of a function; `None`: there is no such queue, or the broker does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Queues {
    pub work: Option<u64>,
    pub dead: Option<u64>,
}

/// Looks once: the queues, then the ledger's books, then the queues again, of which the larger count is kept (a message
/// that leaves a queue meanwhile is in the books or was in the first count; one that comes is in the second).
///
/// # Errors
/// The ledger does not answer.
pub async fn look(
    broker: &dyn Broker,
    ledger: &dyn Ledger,
    names: &Names,
    functions: &BTreeSet<FunctionName>,
) -> Result<Look, weft_ledger::Error> {
    let began = Timestamp::now();
    let mut functions = functions.clone();
    let mut queues = count(broker, names, &functions).await;
    let books = ledger.audit(MOST).await?;
    functions.extend(books.functions.iter().map(|function| function.function.clone()));
    for (function, after) in count(broker, names, &functions).await {
        let kept = queues.entry(function).or_default();
        *kept = Queues { work: kept.work.max(after.work), dead: kept.dead.max(after.dead) };
    }
    let unrouted = broker.depth(&names.unrouted()).await;
    let crashed = broker.depth(&names.crashed()).await;
    Ok(Look { counted: (began, Timestamp::now()), ledger: books, queues, unrouted, crashed })
}

async fn count(
    broker: &dyn Broker,
    names: &Names,
    functions: &BTreeSet<FunctionName>,
) -> BTreeMap<FunctionName, Queues> {
    let mut queues = BTreeMap::new();
    for function in functions {
        let work = broker.depth(&names.function(function)).await;
        let dead = broker.depth(&names.dlq(function)).await;
        queues.insert(function.clone(), Queues { work, dead });
    }
    queues
}

/// A message in a dead-letter queue that is the copy of no dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Foreign {
    pub message_id: Option<String>,
    pub exchange: String,
    pub routing_key: String,
}

/// Looks through a dead-letter queue for what the ledger has no letter of, and hands everything back. At most the first
/// 2,000 messages: beyond them nothing is said. Dropped half-way, the broker has all of it again.
///
/// # Errors
/// The queue cannot be read, or the ledger does not answer; the text says which.
pub async fn foreign(
    broker: &dyn Broker,
    ledger: &Arc<dyn Ledger>,
    queue: &str,
    depth: u64,
) -> Result<Vec<Foreign>, String> {
    let mut subscription = broker.subscribe(queue, SEEN).await.map_err(|error| chain(&error))?;
    let mut seen: Vec<Delivery> = Vec::new();
    while (seen.len() as u64) < depth.min(SEEN.into()) {
        match tokio::time::timeout(QUIET, subscription.deliveries.recv()).await {
            Ok(Some(delivery)) => seen.push(delivery),
            Ok(None) | Err(_) => break,
        }
    }
    subscription.acks.stop();
    let mut foreign = Vec::new();
    let mut result = Ok(());
    for delivery in &seen {
        let known = match delivery.message.header(header::ID) {
            None => false,
            Some(id) => {
                let query = DeadLetterQuery {
                    id: Some(DeadLetterId(id.to_owned())),
                    include_closed: true,
                    limit: 1,
                    ..DeadLetterQuery::default()
                };
                match ledger.dead_letters(&query).await {
                    Ok(found) => !found.is_empty(),
                    Err(error) => {
                        result = Err(chain(&error));
                        break;
                    }
                }
            }
        };
        if !known {
            let (exchange, routing_key) = delivery.message.origin();
            foreign.push(Foreign {
                message_id: delivery.message.properties.message_id.clone(),
                exchange: exchange.to_owned(),
                routing_key: routing_key.to_owned(),
            });
        }
    }
    while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, subscription.deliveries.recv()).await {
        seen.push(delivery);
    }
    subscription.acks.requeue(seen.iter().map(|delivery| delivery.id).collect());
    subscription.acks.flush().await;
    result.map(|()| foreign)
}
