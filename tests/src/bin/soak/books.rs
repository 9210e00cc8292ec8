//! The books: everything that a run left behind, read from where it is and not from the programs under test.

use std::collections::{BTreeMap, BTreeSet};

use crate::stand::{PREFIX, Stand};
use crate::workload::{self, ANSWERS, FUNCTIONS, Planned, Request};

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub function: String,
    pub key: String,
    pub state: String,
    pub attempt: i64,
    pub crashes: i64,
    pub epoch: i64,
    pub fence: i64,
    /// What its handler returned, once it has succeeded.
    pub result: Option<String>,
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The same when an answer is sent again.
    pub message: String,
    pub correlation: String,
    pub status: String,
    pub body: String,
}

/// A row of the table that handlers write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub function: String,
    pub key: String,
    pub fence: i64,
    pub attempt: i64,
    pub epoch: i64,
    /// The order that a shipment is for.
    pub about: Option<String>,
}

/// A dead letter in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub id: String,
    pub function: String,
    pub key: Option<String>,
    pub reason: String,
}

/// A dead letter's copy in its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    pub id: String,
    pub function: String,
    pub reason: String,
    /// The id of the event.
    pub event: String,
}

/// A line that a handler wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `begin`, or `set` once the state has taken the fence.
    pub what: String,
    pub function: String,
    pub key: String,
    pub fence: i64,
    pub attempt: i64,
    pub epoch: i64,
    pub pid: u32,
    pub node: String,
    pub nanos: u64,
}

impl Run {
    /// Reads one line of the run log.
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split('\t');
        let mut text = || fields.next().map(str::to_owned);
        let run = Self {
            what: text()?,
            function: text()?,
            key: text()?,
            fence: text()?.parse().ok()?,
            attempt: text()?.parse().ok()?,
            epoch: text()?.parse().ok()?,
            pid: text()?.parse().ok()?,
            node: text()?,
            nanos: text()?.parse().ok()?,
        };
        fields.next().is_none().then_some(run)
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// What was published and confirmed.
    pub planned: Vec<Planned>,
    /// Who was published to get an answer.
    pub requests: Vec<Request>,
    /// What came. One that was sent twice is one.
    pub answers: Vec<Answer>,
    pub rows: Vec<Row>,
    pub effects: Vec<Effect>,
    /// Those that are open.
    pub letters: Vec<Letter>,
    pub copies: Vec<Copy>,
    /// Messages in each work queue and in the nets.
    pub queues: BTreeMap<String, u64>,
    pub outbox: u64,
    pub runs: Vec<Run>,
    /// Values of `stock` by name.
    pub state: BTreeMap<String, Option<i64>>,
    /// When Redis was last emptied, on the clock of [`Run::nanos`].
    pub flushed: Option<u64>,
    /// Dispatchers that ended as none may.
    pub faulty: Vec<String>,
    /// What `weft audit` found.
    pub differences: Vec<String>,
}

fn fields<const N: usize>(line: &str) -> Option<[String; N]> {
    let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
    fields.try_into().ok()
}

async fn rows<const N: usize>(stand: &Stand, sql: &str) -> Result<Vec<[String; N]>, String> {
    let text = stand.sql(sql).await?;
    text.lines().map(|line| fields(line).ok_or_else(|| format!("a row of other fields: {line}"))).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("no number: {text}"))
}

impl Books {
    /// Reads ledger, effects, dead letters, queues and the run log. Takes every message out of its queue, so nobody may
    /// consume any more.
    ///
    /// # Errors
    /// Something cannot be read.
    pub async fn read(stand: &Stand) -> Result<Self, String> {
        let mut books = Self::default();
        let sql = "select function, key, state, attempt, crashes, epoch, fence, \
                   coalesce(convert_from(result, 'UTF8'), '-') from weft.invocation";
        for [function, key, state, attempt, crashes, epoch, fence, result] in rows(stand, sql).await? {
            books.rows.push(Row {
                function,
                key,
                state,
                attempt: number(&attempt)?,
                crashes: number(&crashes)?,
                epoch: number(&epoch)?,
                fence: number(&fence)?,
                result: Some(result).filter(|result| result != "-"),
            });
        }
        books.answers = answers(stand).await;
        let sql = "select function, key, fence, attempt, epoch, coalesce(about, '-') from effects";
        for [function, key, fence, attempt, epoch, about] in rows(stand, sql).await? {
            books.effects.push(Effect {
                function,
                key,
                fence: number(&fence)?,
                attempt: number(&attempt)?,
                epoch: number(&epoch)?,
                about: Some(about).filter(|about| about != "-"),
            });
        }
        let sql = "select id, function, coalesce(key, ''), reason from weft.dead_letter where redriven_at is null";
        for [id, function, key, reason] in rows(stand, sql).await? {
            books.letters.push(Letter { id, function, key: Some(key).filter(|key| !key.is_empty()), reason });
        }
        books.outbox = number(&stand.sql("select count(*) from weft.outbox").await?)?;
        for function in FUNCTIONS {
            books.queues.insert(format!("fn.{function}"), emptied(stand, &format!("fn.{function}")).await);
            books.copies.extend(copies(stand, &format!("{PREFIX}.dlq.{function}")).await);
        }
        for net in ["crashed", "unrouted"] {
            books.queues.insert(net.to_owned(), emptied(stand, net).await);
        }
        let text = std::fs::read_to_string(stand.folder.join("runs")).map_err(|error| error.to_string())?;
        for line in text.lines() {
            books.runs.push(Run::parse(line).ok_or_else(|| format!("a run that cannot be read: {line}"))?);
        }
        Ok(books)
    }
}

async fn depth(stand: &Stand, queue: &str) -> u64 {
    stand.vhost.queue_depth(&format!("{PREFIX}.{queue}")).await.map_or(0, |depth| depth.ready + depth.unacked)
}

/// How many messages are in a queue: counted by taking them, as the broker's own numbers are a moment old.
async fn emptied(stand: &Stand, queue: &str) -> u64 {
    let queue = format!("{PREFIX}.{queue}");
    let mut count = 0;
    loop {
        match u64::try_from(stand.vhost.take(&queue, 500).await.len()) {
            Ok(taken @ 1..) => count += taken,
            _ => return count,
        }
    }
}

/// Takes the answers out of their queue.
async fn answers(stand: &Stand) -> Vec<Answer> {
    let mut found = BTreeMap::new();
    loop {
        let taken = stand.vhost.take(ANSWERS, 500).await;
        if taken.is_empty() {
            return found.into_values().collect();
        }
        for message in taken {
            let text = |name: &str| {
                let value = message.properties.pointer(name).and_then(serde_json::Value::as_str);
                value.unwrap_or_default().to_owned()
            };
            let answer = Answer {
                message: text("/message_id"),
                correlation: text("/correlation_id"),
                status: text("/headers/weft-status"),
                body: message.payload.clone(),
            };
            found.insert((answer.message.clone(), answer.body.clone()), answer);
        }
    }
}

/// Takes the copies out of a dead-letter queue. One that was published twice is one.
async fn copies(stand: &Stand, queue: &str) -> Vec<Copy> {
    let mut found = BTreeMap::new();
    loop {
        let taken = stand.vhost.take(queue, 500).await;
        if taken.is_empty() {
            return found.into_values().collect();
        }
        for message in taken {
            let header = |name: &str| {
                let value = message.properties.pointer(&format!("/headers/{name}"));
                value.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
            };
            let event = message.properties.get("message_id").and_then(serde_json::Value::as_str).unwrap_or_default();
            let copy = Copy {
                id: header("weft-id"),
                function: header("weft-function"),
                reason: header("weft-reason"),
                event: event.to_owned(),
            };
            found.insert(copy.id.clone(), copy);
        }
    }
}

/// What is not done yet: messages in queues, outbox rows, invocations that are claimed or waiting. With it, how many
/// invocations have ended, which must grow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub queued: u64,
    pub outbox: u64,
    pub claimed: u64,
    pub waiting: u64,
    pub ended: u64,
}

impl Left {
    /// # Errors
    /// The ledger cannot be read.
    pub async fn read(stand: &Stand) -> Result<Self, String> {
        let mut queued = 0;
        for function in FUNCTIONS {
            queued += depth(stand, &format!("fn.{function}")).await;
        }
        let sql = "select (select count(*) from weft.outbox), count(*) filter (where state = 'claimed'), \
                   count(*) filter (where state = 'waiting'), count(*) filter (where state in ('succeeded', 'dead')) \
                   from weft.invocation";
        let [outbox, claimed, waiting, ended] =
            rows(stand, sql).await?.into_iter().next().ok_or("no answer to a count")?;
        Ok(Self {
            queued,
            outbox: number(&outbox)?,
            claimed: number(&claimed)?,
            waiting: number(&waiting)?,
            ended: number(&ended)?,
        })
    }

    pub fn is_nothing(&self) -> bool {
        self.queued + self.outbox + self.claimed + self.waiting == 0
    }
}

/// The names of the values that the judge wants to know of `stock`.
pub fn state_names(planned: &[Planned]) -> BTreeSet<String> {
    let keys = planned.iter().filter(|event| event.counter.is_some()).map(|event| format!("fence {}", event.key()));
    keys.chain((0..workload::COUNTERS).map(|counter| format!("counter-{counter}"))).collect()
}
