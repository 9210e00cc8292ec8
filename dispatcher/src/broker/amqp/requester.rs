//! A client that asks over AMQP and waits for its answer, as programs of others do. For tests only: it panics where
//! something goes wrong, and knows nothing of Weft.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};

/// Longer than any answer takes.
const LIMIT: Duration = Duration::from_secs(40);

/// Where a requester wants its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyTo {
    /// RabbitMQ's direct reply-to: no queue at all.
    Direct,
    /// A queue with a name of the broker's, for this connection alone.
    Exclusive,
}

/// An answer: its correlation id and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub correlation: Option<String>,
    pub body: String,
}

/// A connection of its own, which asks and consumes the answers.
pub struct Requester {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    reply_to: String,
}

impl Requester {
    /// Connects, and consumes its answers.
    pub async fn connect(url: &str, reply_to: ReplyTo) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let reply_to = match reply_to {
            ReplyTo::Direct => "amq.rabbitmq.reply-to".to_owned(),
            ReplyTo::Exclusive => {
                let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
                let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
                queue.name().as_str().to_owned()
            }
        };
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let consumer =
            channel.basic_consume(reply_to.as_str().into(), "".into(), options, FieldTable::default()).await.unwrap();
        Self { connection, channel, consumer, reply_to }
    }

    /// Publishes a request with JSON data; its id is its key.
    pub async fn ask(&self, exchange: &str, routing_key: &str, id: &str, correlation: &str, data: &str) {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(id.into())
            .with_correlation_id(correlation.into())
            .with_reply_to(self.reply_to.as_str().into());
        let options = BasicPublishOptions::default();
        let sent =
            self.channel.basic_publish(exchange.into(), routing_key.into(), options, data.as_bytes(), properties);
        sent.await.unwrap().await.unwrap();
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Answer {
        let delivery = tokio::time::timeout(LIMIT, self.consumer.next()).await.expect("no answer in time");
        let delivery = delivery.expect("the answers ended").unwrap();
        let correlation = delivery.properties.correlation_id().as_ref().map(|text| text.as_str().to_owned());
        Answer { correlation, body: String::from_utf8_lossy(&delivery.data).into_owned() }
    }

    /// Goes away; an exclusive queue goes with it.
    pub async fn close(self) {
        self.connection.close(200, "".into()).await.unwrap();
    }
}
