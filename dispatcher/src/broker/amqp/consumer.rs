//! One queue's consumer: a channel of its own, rebuilt until it is stopped.
//!
//! One task owns the channel, the stream and the [`AckBook`]. It never waits for the deliveries' receiver while
//! settles are queued: what does not fit is held here, and the broker's prefetch bounds it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use weft_process::crash::{self, Point};
use weft_schemas::Message;

use super::acks::{AckBook, Frame, Frames};
use super::connect::{Line, chain};
use super::convert::{from_properties, short};
use super::topology::code;
use super::{Declared, convert};
use crate::broker::{AckCommand, Delivery, DeliveryId};

/// How long opening a channel and starting to consume may take.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How long writing settles out may take before the channel counts as lost.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long an ack waits for older deliveries, to be said with them in one frame.
const KEPT: Duration = Duration::from_millis(5);
/// From which prefetch on acks are kept for a joint frame: below it there is little to join, and each place counts.
const KEPT_FROM: u16 = 16;
/// A channel that lived so long is not one that the broker closes again and again.
const STEADY: Duration = Duration::from_secs(10);

/// What one subscription is to be, for as long as it lives; its owner may change the prefetch.
pub(super) struct Wanted {
    pub(super) queue: String,
    pub(super) prefetch: AtomicU16,
    pub(super) line: Line,
    pub(super) declared: Arc<Declared>,
    pub(super) generations: Arc<AtomicU64>,
    pub(super) closing: CancellationToken,
}

/// Why a channel incarnation ended.
enum End {
    /// The owner is done with it, or the broker is being closed.
    Done,
    /// It has to be built again.
    Lost(String),
}

/// One incarnation of a consumer.
pub(super) struct Incarnation {
    channel: Channel,
    stream: Consumer,
    book: AckBook,
}

/// Opens a channel and consumes on it; queues that are gone are declared again first, if we know them.
///
/// # Errors
/// The broker's own.
pub(super) async fn open(wanted: &Wanted, connection: &lapin::Connection) -> Result<Incarnation, lapin::Error> {
    match open_once(wanted, connection).await {
        Err(error) if code(&error) == Some(404) && wanted.declared.again(connection).await => {
            open_once(wanted, connection).await
        }
        other => other,
    }
}

async fn open_once(wanted: &Wanted, connection: &lapin::Connection) -> Result<Incarnation, lapin::Error> {
    let late = |_| lapin::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let unfit = |unfit: convert::Unfit| lapin::Error::from(std::io::Error::other(unfit));
    let queue = short(&wanted.queue, "name of the queue").map_err(unfit)?;
    let opened = async {
        let channel = connection.create_channel().await?;
        // Before the consume: without it the broker sends all that it has, into lapin's unbounded buffer.
        channel.basic_qos(wanted.prefetch.load(Ordering::Relaxed), BasicQosOptions::default()).await?;
        let stream = consume_on(&channel, queue).await?;
        let generation = wanted.generations.fetch_add(1, Ordering::Relaxed);
        Ok(Incarnation { channel, stream, book: AckBook::new(generation) })
    };
    tokio::time::timeout(OPEN_LIMIT, opened).await.map_err(late)?
}

async fn consume_on(channel: &Channel, queue: ShortString) -> Result<Consumer, lapin::Error> {
    channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default()).await
}

/// Consumes anew on the same channel, since a consumer keeps the prefetch that it began with. What was delivered before
/// can be settled as ever.
async fn consume_anew(wanted: &Wanted, channel: &Channel) -> Result<Consumer, String> {
    let queue = short(&wanted.queue, "name of the queue").map_err(|unfit| unfit.to_string())?;
    let opened = async {
        channel.basic_qos(wanted.prefetch.load(Ordering::Relaxed), BasicQosOptions::default()).await?;
        consume_on(channel, queue).await
    };
    match tokio::time::timeout(OPEN_LIMIT, opened).await {
        Ok(opened) => opened.map_err(|error| chain(&error)),
        Err(_) => Err(format!("a consumer was not started anew within {}s", OPEN_LIMIT.as_secs())),
    }
}

/// Keeps a subscription up until its owner stops it and lets go of it, or the broker is closed.
pub(super) async fn run(
    wanted: Wanted,
    first: Incarnation,
    deliveries: mpsc::Sender<Delivery>,
    mut commands: mpsc::UnboundedReceiver<AckCommand>,
) {
    let mut deliveries = Some(deliveries);
    let mut current = Some(first);
    let mut waits = weft_process::backoff::reconnect();
    let mut told = false;
    loop {
        if let Some(incarnation) = current.take() {
            let since = Instant::now();
            match consume(&wanted, incarnation, &mut deliveries, &mut commands).await {
                End::Done => return,
                End::Lost(reason) => {
                    if since.elapsed() >= STEADY {
                        waits = weft_process::backoff::reconnect();
                    }
                    // When the connection is lost, its supervisor tells it.
                    told = wanted.line.now().is_ok();
                    if told {
                        tracing::warn!(queue = wanted.queue, reason, "broker ended a consumer");
                    }
                }
            }
        }
        // There is no channel now, so every settle is stale: the broker has taken the deliveries back.
        let wanted_still = deliveries.as_ref().is_some_and(|deliveries| !deliveries.is_closed());
        let wait = waits.next().unwrap_or(Duration::from_secs(5));
        let rebuilt = tokio::select! {
            () = wanted.closing.cancelled() => return,
            stale = answer_stale(&wanted, &mut commands) => match stale {
                Stale::Gone => return,
                Stale::Stopped => {
                    deliveries = None;
                    continue;
                }
            },
            rebuilt = rebuild(&wanted, wait), if wanted_still => rebuilt,
        };
        match rebuilt {
            Some(Ok(incarnation)) => {
                if told {
                    tracing::info!(queue = wanted.queue, "broker consumer restored");
                }
                current = Some(incarnation);
            }
            Some(Err(error)) => {
                tracing::debug!(queue = wanted.queue, error = chain(&error), "broker consumer not restored");
            }
            None => return,
        }
    }
}

/// Waits, then waits for the connection, then opens; `None` once the line is closed.
async fn rebuild(wanted: &Wanted, wait: Duration) -> Option<Result<Incarnation, lapin::Error>> {
    tokio::time::sleep(wait).await;
    let connection = wanted.line.clone().up().await?;
    Some(open(wanted, &connection).await)
}

/// What the owner said while there was no channel.
enum Stale {
    /// It wants no more deliveries.
    Stopped,
    /// It let go of the subscription.
    Gone,
}

/// Answers the owner while there is no channel. Cancel-safe.
async fn answer_stale(wanted: &Wanted, commands: &mut mpsc::UnboundedReceiver<AckCommand>) -> Stale {
    while let Some(command) = commands.recv().await {
        match command {
            AckCommand::Ack(_) | AckCommand::Requeue(_) => {}
            AckCommand::Flush(done) => {
                let _ = done.send(());
            }
            AckCommand::Prefetch(most) => wanted.prefetch.store(most.max(1), Ordering::Relaxed),
            AckCommand::Stop => return Stale::Stopped,
        }
    }
    Stale::Gone
}

/// Serves one incarnation to its end.
async fn consume(
    wanted: &Wanted,
    incarnation: Incarnation,
    deliveries: &mut Option<mpsc::Sender<Delivery>>,
    commands: &mut mpsc::UnboundedReceiver<AckCommand>,
) -> End {
    let Incarnation { channel, mut stream, mut book } = incarnation;
    // Received and not yet taken by the owner. At most the prefetch.
    let mut held: VecDeque<Delivery> = VecDeque::new();
    let mut streaming = true;
    let mut stopping = false;
    // Cancelled only to be consumed anew.
    let mut renewing = false;
    let mut batch = Vec::new();
    let mut keep = Keep::default();
    let mut kept = std::pin::pin!(tokio::time::sleep(KEPT));
    loop {
        if !streaming && held.is_empty() && stopping {
            *deliveries = None;
        }
        tokio::select! {
            biased;
            count = commands.recv_many(&mut batch, 1024) => {
                let (Told { stop, resized }, written) = settle(wanted, &channel, &mut book, &mut batch, &keep, stopping).await;
                if let Err(reason) = written {
                    // A stop that came with settles that could not be written is a stop all the same.
                    let end = lost(wanted, reason);
                    return if stop || stopping { stopped(deliveries, end) } else { end };
                }
                if stop && !stopping {
                    stopping = true;
                    if let Err(reason) = cancel(&channel, &stream).await {
                        return stopped(deliveries, lost(wanted, reason));
                    }
                }
                if resized && !stopping && !renewing {
                    renewing = true;
                    if let Err(reason) = cancel(&channel, &stream).await {
                        return lost(wanted, reason);
                    }
                }
                if count == 0 {
                    // The owner let go of it: what is not settled goes back with the channel.
                    close(&channel).await;
                    return End::Done;
                }
                let before = std::mem::replace(&mut keep.some, book.kept() > 0);
                if keep.some && !before {
                    kept.as_mut().reset(tokio::time::Instant::now() + KEPT);
                }
            }
            () = &mut kept, if keep.some => {
                keep = Keep { some: false, vain: book.oldest() };
                if let Err(reason) = write(&channel, book.take()).await {
                    let end = lost(wanted, reason);
                    return if stopping { stopped(deliveries, end) } else { end };
                }
            }
            () = wanted.closing.cancelled() => {
                // What was decided before the close is still in the queue.
                commands.close();
                while let Ok(command) = commands.try_recv() {
                    batch.push(command);
                }
                let _ = settle(wanted, &channel, &mut book, &mut batch, &keep, true).await;
                close(&channel).await;
                return End::Done;
            }
            room = room(deliveries.as_ref()), if !held.is_empty() => match (room, held.pop_front()) {
                    // Nobody else sends, so the room is still there.
                    (true, Some(delivery)) => {
                        if let Some(deliveries) = &deliveries
                            && let Err(mpsc::error::TrySendError::Full(delivery)) = deliveries.try_send(delivery)
                        {
                            held.push_front(delivery);
                        }
                    }
                    // The owner dropped the receiver: hand back what it did not take, and take no more.
                    (false, delivery) => {
                        let ids: Vec<DeliveryId> = delivery.iter().chain(&held).map(|delivery| delivery.id).collect();
                        held.clear();
                        book.requeue(&ids);
                        let mut done = write(&channel, book.take()).await;
                        if done.is_ok() && !stopping {
                            stopping = true;
                            done = cancel(&channel, &stream).await;
                        }
                        if let Err(reason) = done {
                            return stopped(deliveries, lost(wanted, reason));
                        }
                    }
                    (true, None) => {}
            },
            next = stream.next(), if streaming => match next {
                Some(Ok(delivery)) => {
                    // Buffered by lapin before the channel ended: the broker has taken it back.
                    if !delivery.acker.usable() {
                        continue;
                    }
                    let (properties, headers) = from_properties(&delivery.properties);
                    held.push_back(Delivery {
                        id: book.delivered(delivery.delivery_tag),
                        redelivered: delivery.redelivered,
                        message: Message {
                            exchange: delivery.exchange.as_str().to_owned(),
                            routing_key: delivery.routing_key.as_str().to_owned(),
                            properties,
                            headers,
                            body: delivery.data.into(),
                        },
                    });
                }
                Some(Err(error)) => {
                    let end = lost(wanted, chain(&error));
                    return if stopping { stopped(deliveries, end) } else { end };
                }
                None if stopping && channel.status().connected() => streaming = false,
                None if renewing && channel.status().connected() => {
                    renewing = false;
                    match consume_anew(wanted, &channel).await {
                        Ok(anew) => stream = anew,
                        Err(reason) => {
                            close(&channel).await;
                            return lost(wanted, reason);
                        }
                    }
                }
                None => {
                    // Cancelled by the broker (queue deleted, consumer timeout), or the channel is gone. What is
                    // unsettled comes again, so the channel goes too: no delivery may live in two incarnations.
                    close(&channel).await;
                    let end = lost(wanted, "the broker cancelled the consumer".to_owned());
                    return if stopping { stopped(deliveries, end) } else { end };
                }
            },
        }
    }
}

fn lost(wanted: &Wanted, reason: String) -> End {
    if wanted.closing.is_cancelled() { End::Done } else { End::Lost(reason) }
}

/// Nothing more will come: lets the owner see the end.
fn stopped(deliveries: &mut Option<mpsc::Sender<Delivery>>, end: End) -> End {
    *deliveries = None;
    end
}

/// Waits until the owner has room for a delivery; false when it takes no more. Cancel-safe.
async fn room(deliveries: Option<&mpsc::Sender<Delivery>>) -> bool {
    match deliveries {
        Some(deliveries) => deliveries.reserve().await.is_ok(),
        None => false,
    }
}

/// What of the commands is not a matter of settling.
#[derive(Debug, Default)]
struct Told {
    /// No more deliveries are wanted.
    stop: bool,
    /// The prefetch is another one.
    resized: bool,
}

/// Whether acks are kept for a joint frame.
#[derive(Debug, Default)]
struct Keep {
    /// Some are.
    some: bool,
    /// The delivery behind which they were kept in vain: it takes long. Each kept ack is a place in the prefetch, so
    /// nothing is kept behind it again.
    vain: Option<u64>,
}

/// Works off queued commands: one write for all of them, then the answers. Tells what else was among them, and how the
/// write went. Keeps what had better be said together, unless it is the `last` or too much is kept.
async fn settle(
    wanted: &Wanted,
    channel: &Channel,
    book: &mut AckBook,
    batch: &mut Vec<AckCommand>,
    keep: &Keep,
    last: bool,
) -> (Told, Result<(), String>) {
    let mut told = Told::default();
    let mut flushes: Vec<oneshot::Sender<()>> = Vec::new();
    for command in batch.drain(..) {
        match command {
            AckCommand::Ack(ids) => book.ack(&ids),
            AckCommand::Requeue(ids) => book.requeue(&ids),
            AckCommand::Prefetch(most) => {
                let most = most.max(1);
                told.resized |= wanted.prefetch.swap(most, Ordering::Relaxed) != most;
            }
            AckCommand::Stop => told.stop = true,
            AckCommand::Flush(done) => flushes.push(done),
        }
    }
    let prefetch = wanted.prefetch.load(Ordering::Relaxed);
    let at_once = last || told.stop || !flushes.is_empty() || prefetch < KEPT_FROM;
    let mut frames = if at_once { book.take() } else { book.take_joined() };
    if book.oldest() == keep.vain || book.kept() > usize::from(prefetch) / 4 {
        frames.acks.extend(book.take().acks);
    }
    let written = write(channel, frames).await;
    // Also after a failure: there is nothing left to wait for, and what was not written comes again.
    for done in flushes {
        let _ = done.send(());
    }
    (told, written)
}

async fn write(channel: &Channel, frames: Frames) -> Result<(), String> {
    if frames.is_empty() {
        return Ok(());
    }
    let requeue = |Frame { tag, multiple }| channel.basic_nack(tag, BasicNackOptions { multiple, requeue: true });
    let ack = |Frame { tag, multiple }| channel.basic_ack(tag, BasicAckOptions { multiple });
    let all = async {
        for result in join_all(frames.requeues.into_iter().map(requeue)).await {
            result?;
        }
        for result in join_all(frames.acks.into_iter().map(ack)).await {
            result?;
            crash::point(Point::AfterAck);
        }
        Ok::<(), lapin::Error>(())
    };
    match tokio::time::timeout(WRITE_LIMIT, all).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(_) => Err(format!("settles not written within {}s", WRITE_LIMIT.as_secs())),
    }
}

/// Stops the broker's sending. What lapin has buffered by then still comes, and then the stream ends.
async fn cancel(channel: &Channel, stream: &Consumer) -> Result<(), String> {
    match tokio::time::timeout(WRITE_LIMIT, channel.basic_cancel(stream.tag(), BasicCancelOptions::default())).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(_) => Err(format!("a cancel was not answered within {}s", WRITE_LIMIT.as_secs())),
    }
}

async fn close(channel: &Channel) {
    if channel.status().connected() {
        // A channel that cannot be closed is closed with its connection.
        let _ = tokio::time::timeout(Duration::from_secs(2), channel.close(200, "OK".into())).await;
    }
}
