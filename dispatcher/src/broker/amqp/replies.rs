//! A private queue for answers: exclusive to the connection, so that it goes with it, and made anew on the next one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_schemas::Message;

use super::connect::{Line, chain};
use super::convert::{Unfit, from_properties, short};
use crate::broker::FromReplies;

/// Answers that are in memory at once.
pub(super) const PREFETCH: u16 = 64;
/// How long opening a channel and starting to consume may take.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// What is kept up.
pub(super) struct Wanted {
    pub(super) queue: String,
    pub(super) line: Line,
    pub(super) closing: CancellationToken,
}

/// One incarnation of the queue and its consumer.
pub(super) struct Incarnation {
    channel: Channel,
    stream: Consumer,
}

/// Declares the queue and consumes from it.
///
/// # Errors
/// The broker's own. For a moment after a lost connection the broker may still hold the old queue for it.
pub(super) async fn open(wanted: &Wanted, connection: &Connection) -> Result<Incarnation, lapin::Error> {
    let late = |_| lapin::Error::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let unfit = |unfit: Unfit| lapin::Error::from(std::io::Error::other(unfit));
    let queue = short(&wanted.queue, "name of the queue").map_err(unfit)?;
    let opened = async {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let stream = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        Ok(Incarnation { channel, stream })
    };
    tokio::time::timeout(OPEN_LIMIT, opened).await.map_err(late)?
}

/// Hands answers over until the broker is closed or nobody takes them.
pub(super) async fn run(wanted: Wanted, first: Incarnation, to: mpsc::Sender<FromReplies>) {
    let mut current = Some(first);
    let mut waits = weft_process::backoff::reconnect();
    loop {
        if let Some(Incarnation { channel, mut stream }) = current.take() {
            let lost = tokio::select! {
                lost = take(&mut stream, &to) => lost,
                () = wanted.closing.cancelled() => None,
                () = to.closed() => None,
            };
            let Some(reason) = lost else {
                if channel.status().connected() {
                    // A channel that cannot be closed is closed with its connection.
                    let _ = tokio::time::timeout(Duration::from_secs(2), channel.close(200, "OK".into())).await;
                }
                return;
            };
            // When the connection is lost, its supervisor tells it.
            if wanted.line.now().is_ok() {
                tracing::warn!(queue = wanted.queue, reason, "broker ended the consumer of replies");
                let _ = tokio::time::timeout(Duration::from_secs(2), channel.close(200, "OK".into())).await;
            }
        }
        let wait = waits.next().unwrap_or(Duration::from_secs(5));
        let rebuilt = tokio::select! {
            () = wanted.closing.cancelled() => return,
            () = to.closed() => return,
            rebuilt = rebuild(&wanted, wait) => rebuilt,
        };
        match rebuilt {
            Some(Ok(incarnation)) => {
                waits = weft_process::backoff::reconnect();
                current = Some(incarnation);
                if to.send(FromReplies::Gap).await.is_err() {
                    return;
                }
            }
            Some(Err(error)) => {
                tracing::debug!(queue = wanted.queue, error = chain(&error), "broker consumer of replies not restored");
            }
            None => return,
        }
    }
}

/// Waits, then waits for the connection, then opens; `None` once the line is closed.
async fn rebuild(wanted: &Wanted, wait: Duration) -> Option<Result<Incarnation, lapin::Error>> {
    tokio::time::sleep(wait).await;
    let connection: Arc<Connection> = wanted.line.clone().up().await?;
    Some(open(wanted, &connection).await)
}

/// Passes answers on; returns why no more come, or `None` when nobody takes them.
async fn take(stream: &mut Consumer, to: &mpsc::Sender<FromReplies>) -> Option<String> {
    loop {
        let delivery = match stream.next().await {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Some(chain(&error)),
            None => return Some("the broker cancelled the consumer".to_owned()),
        };
        let (properties, headers) = from_properties(&delivery.properties);
        let acker = delivery.acker;
        let message = Message {
            exchange: delivery.exchange.as_str().to_owned(),
            routing_key: delivery.routing_key.as_str().to_owned(),
            properties,
            headers,
            body: delivery.data.into(),
        };
        if to.send(FromReplies::Answer(Box::new(message))).await.is_err() {
            return None;
        }
        if let Err(error) = acker.ack(BasicAckOptions::default()).await {
            return Some(chain(&error));
        }
    }
}
