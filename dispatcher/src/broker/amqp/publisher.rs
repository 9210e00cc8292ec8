//! Publishing with confirms.
//!
//! A small set of lanes (channels), each used by one call at a time: lapin hands a returned message to whichever
//! confirm comes next on its channel, so a return can be told apart only when all that is in flight on a channel
//! belongs to one call. A lane goes back to the set only when everything published on it has been answered.
//!
//! A message that makes the broker close the channel (its exchange is missing, the user may not write to it, its
//! properties are not valid) takes the unanswered ones around it down. They are published again on a fresh lane until
//! the time is up, so such a neighbour may arrive twice, with the same id; the guilty one is found and refused.

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind, PublisherConfirm};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout_at};
use weft_schemas::Message;
use weft_schemas::message::HeaderValue;

use super::connect::{Line, chain};
use super::convert::{Unfit, short, to_properties};
use crate::broker::PublishError;

/// How long a call may take from start to end, waiting for a connection included.
const LIMIT: Duration = Duration::from_secs(10);
/// How many calls publish at once; others wait their turn.
const LANES: usize = 4;
/// How many messages are in flight on a lane.
const WAVE: usize = 512;
/// What a frame holds besides the properties.
const FRAME_OVERHEAD: usize = 64;
/// The broker refuses a user id that is not the connection's own and closes the channel. A message that another user
/// published keeps its user id in this header instead.
pub(super) const USER_ID_HEADER: &str = "weft-user-id";

type Outcome = Result<(), PublishError>;

/// Publishes for any number of callers.
pub(super) struct Publisher {
    line: Line,
    user: String,
    /// Lanes that nobody uses now, with nothing unanswered.
    idle: Mutex<Vec<Lane>>,
    turns: Semaphore,
}

/// A channel in confirm mode.
struct Lane {
    channel: Channel,
    frame_max: usize,
}

/// A message in the form in which it is published.
struct Ready<'a> {
    index: usize,
    message: &'a Message,
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
}

/// What RabbitMQ makes of `amq.rabbitmq.reply-to` in a request: a way to its connection, with no queue in between.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

impl Ready<'_> {
    fn is_direct_reply(&self) -> bool {
        self.message.exchange.is_empty() && self.message.routing_key.starts_with(DIRECT_REPLY)
    }
}

/// How one wave ended. Those without an outcome are to be published again, time permitting.
enum Wave {
    /// Every message has its outcome.
    Answered,
    /// Time is up.
    Late,
    /// The broker closed the channel (or the connection) because of one of the messages.
    Refused { code: u16, text: String },
    /// The connection was lost, or the channel for no fault of a message.
    Lost(String),
}

impl Publisher {
    pub(super) fn new(line: Line, user: &str) -> Self {
        Self { line, user: user.to_owned(), idle: Mutex::new(Vec::new()), turns: Semaphore::new(LANES) }
    }

    /// One answer for each message, in order, within `limit` and [`LIMIT`]. Dropping the future is safe; what was written
    /// by then may arrive.
    pub(super) async fn publish(&self, messages: &[Message], limit: Duration) -> Vec<Outcome> {
        let limit = limit.min(LIMIT);
        let deadline = Instant::now() + limit;
        let mut outcomes = Outcomes(vec![None; messages.len()]);
        let rest = match timeout_at(deadline, self.turns.acquire()).await {
            Ok(Ok(_turn)) => self.publish_until(deadline, limit, messages, &mut outcomes).await,
            Ok(Err(_)) => PublishError::Disconnected { detail: "closed".to_owned() },
            Err(_) => PublishError::Unconfirmed { after: limit },
        };
        outcomes.0.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(rest.clone()))).collect()
    }

    /// Fills in outcomes; returns what to say of those that have none at the end.
    async fn publish_until(
        &self,
        deadline: Instant,
        limit: Duration,
        messages: &[Message],
        outcomes: &mut Outcomes,
    ) -> PublishError {
        let late = PublishError::Unconfirmed { after: limit };
        // After a refusal that names no culprit each message goes alone, so that the guilty one is found.
        let mut at_once = WAVE;
        let mut lost = None;
        loop {
            let open: Vec<usize> = (0..messages.len()).filter(|&index| outcomes.open(index)).take(at_once).collect();
            if open.is_empty() {
                return late;
            }
            let lane = match timeout_at(deadline, self.lane()).await {
                Ok(Ok(lane)) => lane,
                Ok(Err(reason)) => {
                    lost = Some(reason);
                    if self.line.clone().up().await.is_none() {
                        return PublishError::Disconnected { detail: "closed".to_owned() };
                    }
                    continue;
                }
                Err(_) => {
                    return match lost.or_else(|| self.line.now().err()) {
                        Some(detail) => PublishError::Disconnected { detail },
                        None => late,
                    };
                }
            };
            let ready = self.ready(&lane, messages, open, outcomes);
            if ready.is_empty() {
                self.idle.lock().await.push(lane);
                continue;
            }
            match wave(&lane.channel, &ready, deadline, outcomes).await {
                Wave::Answered => self.idle.lock().await.push(lane),
                Wave::Late => return late,
                Wave::Lost(reason) => lost = Some(reason),
                Wave::Refused { code, text } => {
                    let alone = ready.len() == 1;
                    let mut found = false;
                    for Ready { index, message, .. } in &ready {
                        let named = code == 404 && text.contains(&format!("no exchange '{}'", message.exchange));
                        if outcomes.open(*index) && (alone || named) {
                            outcomes.set(*index, Err(PublishError::Unroutable { detail: text.clone() }));
                            found = true;
                        }
                    }
                    if !found {
                        at_once = 1;
                    }
                }
            }
        }
    }

    /// An idle lane that still lives, or a new one. Waits for the connection.
    async fn lane(&self) -> Result<Lane, String> {
        let connection = self.line.clone().up().await.ok_or("closed")?;
        while let Some(lane) = self.idle.lock().await.pop() {
            if lane.channel.status().connected() {
                return Ok(lane);
            }
        }
        let told = |error: lapin::Error| chain(&error);
        let channel = connection.create_channel().await.map_err(told)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(told)?;
        let frame_max = usize::try_from(connection.configuration().frame_max()).unwrap_or(usize::MAX);
        Ok(Lane { channel, frame_max })
    }

    /// The messages as lapin takes them; those that AMQP cannot carry get their outcome here.
    fn ready<'a>(
        &self,
        lane: &Lane,
        messages: &'a [Message],
        open: Vec<usize>,
        outcomes: &mut Outcomes,
    ) -> Vec<Ready<'a>> {
        let mut all = Vec::with_capacity(open.len());
        for index in open {
            let Some(message) = messages.get(index) else { continue };
            match self.prepare(lane, index, message) {
                Ok(ready) => all.push(ready),
                Err(unfit) => outcomes.set(index, Err(PublishError::Unroutable { detail: unfit.to_string() })),
            }
        }
        all
    }

    fn prepare<'a>(&self, lane: &Lane, index: usize, message: &'a Message) -> Result<Ready<'a>, Unfit> {
        let limit = lane.frame_max.saturating_sub(FRAME_OVERHEAD);
        let properties = match &message.properties.user_id {
            Some(user) if *user != self.user => {
                let mut own = Message { body: bytes::Bytes::new(), ..message.clone() };
                own.properties.user_id = None;
                own.headers.entry(USER_ID_HEADER.to_owned()).or_insert_with(|| HeaderValue::Text(user.clone()));
                to_properties(&own, limit)?
            }
            _ => to_properties(message, limit)?,
        };
        Ok(Ready {
            index,
            message,
            exchange: short(&message.exchange, "name of the exchange")?,
            routing_key: short(&message.routing_key, "routing key")?,
            properties,
        })
    }
}

/// One place for each message of a call.
struct Outcomes(Vec<Option<Outcome>>);

impl Outcomes {
    fn open(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(Option::is_none)
    }

    fn set(&mut self, index: usize, outcome: Outcome) {
        if let Some(place) = self.0.get_mut(index) {
            *place = Some(outcome);
        }
    }
}

/// Publishes all, then takes the answers.
async fn wave(channel: &Channel, ready: &[Ready<'_>], deadline: Instant, outcomes: &mut Outcomes) -> Wave {
    let mut failure: Option<lapin::Error> = None;
    let confirms = match timeout_at(deadline, write_all(channel, ready, &mut failure)).await {
        Ok(confirms) => confirms,
        Err(_) => return Wave::Late,
    };
    let mut answers: FuturesUnordered<_> =
        confirms.into_iter().map(|(place, confirm)| async move { (place, confirm.await) }).collect();
    let mut confirmed: Vec<(usize, bool)> = Vec::with_capacity(ready.len());
    let mut returned: Vec<BasicReturnMessage> = Vec::new();
    let mut late = false;
    loop {
        let next = if late {
            // Whatever has been answered by now must be seen: it may carry the return of another message.
            answers.next().now_or_never().flatten()
        } else {
            match timeout_at(deadline, answers.next()).await {
                Ok(next) => next,
                Err(_) => {
                    late = true;
                    continue;
                }
            }
        };
        match next {
            None => break,
            Some((place, Ok(Confirmation::Ack(message)))) => {
                confirmed.push((place, true));
                returned.extend(message);
            }
            Some((place, Ok(Confirmation::Nack(message)))) => {
                confirmed.push((place, false));
                returned.extend(message);
            }
            // Cannot be: the lane is in confirm mode. No confirm, so no outcome.
            Some((_, Ok(Confirmation::NotRequested))) => {}
            Some((_, Err(error))) => note(&mut failure, error),
        }
    }
    let complete = confirmed.len() == ready.len();
    let clean = returned.is_empty();
    let strays = returned.into_iter().filter(|message| !attribute(message, ready, outcomes)).count();
    for (place, acked) in confirmed {
        let Some(Ready { index, .. }) = ready.get(place) else { continue };
        if !outcomes.open(*index) {
            continue;
        }
        if !acked {
            outcomes.set(*index, Err(PublishError::Nacked));
        } else if clean || complete && strays == 0 {
            // With returns about and answers missing, an ack does not yet say that its own message was not returned.
            outcomes.set(*index, Ok(()));
        }
    }
    if complete {
        return if strays == 0 { Wave::Answered } else { Wave::Late };
    }
    if late {
        return Wave::Late;
    }
    match failure {
        Some(error) => blame(&error),
        None => Wave::Lost("the channel was closed".to_owned()),
    }
}

/// Writes every message in order, as much at once as lapin takes.
async fn write_all(
    channel: &Channel,
    ready: &[Ready<'_>],
    failure: &mut Option<lapin::Error>,
) -> Vec<(usize, PublisherConfirm)> {
    let mut confirms = Vec::with_capacity(ready.len());
    let mut pending = Vec::new();
    for (place, ready) in ready.iter().enumerate() {
        // RabbitMQ delivers a direct reply and then returns it as one that no queue takes.
        let mandatory = !ready.is_direct_reply();
        let options = BasicPublishOptions { mandatory, immediate: false };
        let mut write = Box::pin(channel.basic_publish(
            ready.exchange.clone(),
            ready.routing_key.clone(),
            options,
            &ready.message.body,
            ready.properties.clone(),
        ));
        // The first poll queues the frames, so the order is ours; the rest waits until they are written.
        match std::future::poll_fn(|context| Poll::Ready(Pin::as_mut(&mut write).poll(context))).await {
            Poll::Ready(Ok(confirm)) => confirms.push((place, confirm)),
            Poll::Ready(Err(error)) => note(failure, error),
            Poll::Pending => pending.push((place, write)),
        }
    }
    for (place, write) in pending {
        match write.await {
            Ok(confirm) => confirms.push((place, confirm)),
            Err(error) => note(failure, error),
        }
    }
    confirms
}

/// Keeps the error that says most: the broker's own words over what follows from them.
fn note(failure: &mut Option<lapin::Error>, error: lapin::Error) {
    if failure.as_ref().is_none_or(|known| !known.is_amqp_error() && error.is_amqp_error()) {
        *failure = Some(error);
    }
}

/// Whether a message is at fault for what ended the channel.
fn blame(error: &lapin::Error) -> Wave {
    if let ErrorKind::ProtocolError(told) = error.kind() {
        let code = told.get_id();
        // Of the errors that end a connection, those that a frame of ours can cause. Not 320 (closed by an operator)
        // and not 541 (the broker's own fault).
        if error.is_amqp_soft_error() || matches!(code, 501..=505 | 540) {
            return Wave::Refused { code, text: told.get_message().as_str().to_owned() };
        }
    }
    Wave::Lost(chain(error))
}

/// Finds the message that was returned and gives it its outcome. The same message may stand there more than once; then
/// any of them will do.
fn attribute(returned: &BasicReturnMessage, ready: &[Ready<'_>], outcomes: &mut Outcomes) -> bool {
    let found = ready.iter().find(|ready| {
        outcomes.open(ready.index)
            && ready.exchange == returned.exchange
            && ready.routing_key == returned.routing_key
            && ready.message.body == returned.data
            && ready.properties == returned.properties
    });
    // The same route, if the broker gave the rest back in another form.
    let found = found.or_else(|| {
        ready.iter().find(|ready| {
            outcomes.open(ready.index)
                && ready.exchange == returned.exchange
                && ready.routing_key == returned.routing_key
        })
    });
    let Some(Ready { index, .. }) = found else { return false };
    outcomes.set(*index, Err(PublishError::Unroutable { detail: returned.reply_text.as_str().to_owned() }));
    true
}
