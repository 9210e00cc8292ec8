//! What is declared at the broker, on a throw-away channel: a refused declare closes the channel that it was made on.
//!
//! | name | what | arguments |
//! | --- | --- | --- |
//! | `<p>.events` | topic exchange | alternate exchange `<p>.unrouted` |
//! | `<p>.unrouted` | fanout exchange and quorum queue | delivery limit out of reach |
//! | `<p>.crashed` | fanout exchange and quorum queue | delivery limit out of reach |
//! | `<p>.fn.<function>` | quorum queue | delivery limit 50, at-least-once dead-lettering to `<p>.crashed`, 1,000,000 messages, reject-publish |
//! | 〃, with `ordering` | 〃 | a single active consumer, delivery limit 1,000 |
//! | `<p>.dlq.<function>`, `<p>.dlq.unrouted` | quorum queue | delivery limit out of reach |
//!
//! Everything is durable, and no argument depends on the broker's version, so that an upgrade finds what it expects.
//! What this cannot do without the broker's management interface: remove a binding that an earlier configuration made
//! (the old events keep coming, until someone unbinds them), and see the policies that apply to a queue.

use std::time::Duration;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ErrorKind, ExchangeKind};

use super::convert::short;
use crate::broker::{BrokerError, FunctionQueue, Names, Topology};
use weft_schemas::FunctionName;

/// How long the whole of a declare may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How often the broker hands a message out before it goes to the crash net. Only a net: attempts are counted in the
/// ledger, and every return at a drain counts here too.
const DELIVERY_LIMIT: i32 = 50;
/// Where events have an order what waits for its turn is not acked, and goes back with each channel that closes: also
/// with those that the broker closes because a delivery is half an hour old.
const ORDERED_DELIVERY_LIMIT: i32 = 1_000;
/// The broker's default from 4.0 on is 20, and it drops what has no dead-letter exchange; "no limit" is not accepted
/// as an argument by 3.10.
const NO_DELIVERY_LIMIT: i32 = 2_000_000_000;
/// Ready messages in a function's queue; above it a publisher is told no.
const MAX_LENGTH: i32 = 1_000_000;

/// Declares and binds all of a topology. Safe to repeat.
///
/// # Errors
/// [`BrokerError::Mismatch`] when something of a name exists with other arguments, [`BrokerError::Missing`] when a
/// function's source exchange does not exist, [`BrokerError::Protocol`] for anything else, a time limit included.
pub(super) async fn declare(connection: &Connection, topology: &Topology) -> Result<(), BrokerError> {
    let all = async {
        let channel =
            connection.create_channel().await.map_err(|error| protocol("open a channel to declare on", error))?;
        let result = declare_on(&channel, topology).await;
        if channel.status().connected() {
            // Nothing depends on it: an open channel costs the broker little, and the connection ends it.
            let _ = channel.close(200, "OK".into()).await;
        }
        result
    };
    match tokio::time::timeout(LIMIT, all).await {
        Ok(result) => result,
        Err(elapsed) => Err(BrokerError::Protocol {
            doing: format!("declare exchanges and queues within {}s", LIMIT.as_secs()),
            source: Box::new(elapsed),
        }),
    }
}

/// Deletes what [`declare`] makes. What does not exist counts as deleted.
///
/// # Errors
/// [`BrokerError::Protocol`].
pub(super) async fn remove(connection: &Connection, topology: &Topology) -> Result<(), BrokerError> {
    let names = Names::new(&topology.prefix);
    let queues: Vec<String> = queues(topology).collect();
    let exchanges = [names.events(), names.unrouted(), names.crashed()];
    let all = async {
        let channel = connection.create_channel().await?;
        for queue in &queues {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        for exchange in &exchanges {
            channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await?;
        }
        channel.close(200, "OK".into()).await
    };
    match tokio::time::timeout(LIMIT, all).await {
        Ok(result) => result.map_err(|error| protocol("delete exchanges and queues", error)),
        Err(elapsed) => Err(BrokerError::Protocol {
            doing: "delete exchanges and queues in time".to_owned(),
            source: Box::new(elapsed),
        }),
    }
}

/// The names of all queues of a topology.
pub(super) fn queues(topology: &Topology) -> impl Iterator<Item = String> {
    let names = Names::new(&topology.prefix);
    let shared = [names.unrouted(), names.crashed(), names.dlq(&FunctionName::unrouted())];
    let of_functions = topology
        .functions
        .iter()
        .map(move |FunctionQueue { function, .. }| [names.function(function), names.dlq(function)]);
    shared.into_iter().chain(of_functions.flatten())
}

async fn declare_on(channel: &Channel, topology: &Topology) -> Result<(), BrokerError> {
    let names = Names::new(&topology.prefix);
    let (events, unrouted, crashed) = (names.events(), names.unrouted(), names.crashed());
    for name in [&unrouted, &crashed] {
        exchange(channel, name, ExchangeKind::Fanout, FieldTable::default()).await?;
        queue(channel, name, keep()).await?;
        bind(channel, name, name, "").await?;
    }
    exchange(channel, &events, ExchangeKind::Topic, table([("alternate-exchange", text(&unrouted))])).await?;
    queue(channel, &names.dlq(&FunctionName::unrouted()), keep()).await?;
    for function in &topology.functions {
        let name = names.function(&function.function);
        queue(channel, &names.dlq(&function.function), keep()).await?;
        queue(channel, &name, work(&crashed, function.ordered)).await?;
        let source = match &function.source {
            Some(source) => {
                must_exist(channel, source, function.function.as_str()).await?;
                source
            }
            None => &events,
        };
        for pattern in &function.patterns {
            bind(channel, &name, source, pattern).await?;
        }
    }
    Ok(())
}

/// The arguments of a function's queue.
fn work(crashed: &str, ordered: bool) -> FieldTable {
    let limit = if ordered { ORDERED_DELIVERY_LIMIT } else { DELIVERY_LIMIT };
    let mut arguments = table([
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongInt(limit)),
        ("x-dead-letter-exchange", text(crashed)),
        // Both of the next are what at-least-once needs; without reject-publish the broker quietly falls back.
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-max-length", AMQPValue::LongInt(MAX_LENGTH)),
    ]);
    if ordered {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments
}

/// The arguments of a queue that keeps what it has until someone takes it.
fn keep() -> FieldTable {
    table([("x-queue-type", text("quorum")), ("x-delivery-limit", AMQPValue::LongInt(NO_DELIVERY_LIMIT))])
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.as_bytes().into())
}

fn table<const N: usize>(entries: [(&'static str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind, arguments: FieldTable) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(named(name)?, kind, options, arguments)
        .await
        .map_err(|error| explain(&format!("exchange {name}"), error))
}

async fn queue(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), BrokerError> {
    channel
        .queue_declare(named(name)?, QueueDeclareOptions::durable(), arguments)
        .await
        .map(drop)
        .map_err(|error| explain(&format!("queue {name}"), error))
}

async fn bind(channel: &Channel, queue: &str, source: &str, pattern: &str) -> Result<(), BrokerError> {
    channel
        .queue_bind(named(queue)?, named(source)?, named(pattern)?, QueueBindOptions::default(), FieldTable::default())
        .await
        .map_err(|error| explain(&format!("binding of queue {queue} to {source} by {pattern:?}"), error))
}

async fn must_exist(channel: &Channel, source: &str, function: &str) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    match channel.exchange_declare(named(source)?, ExchangeKind::Topic, options, FieldTable::default()).await {
        Ok(()) => Ok(()),
        Err(error) if code(&error) == Some(404) => Err(BrokerError::Missing {
            what: format!("exchange {source}, the source of function {function}"),
            hint: "create it first (it belongs to whoever publishes to it), or leave the source out".to_owned(),
        }),
        Err(error) => Err(explain(&format!("exchange {source}"), error)),
    }
}

fn named(name: &str) -> Result<ShortString, BrokerError> {
    short(name, "name").map_err(|unfit| BrokerError::Protocol {
        doing: format!("declare {}", name.chars().take(80).collect::<String>()),
        source: Box::new(unfit),
    })
}

/// The AMQP reply code of an error, if the broker sent one.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(protocol) => Some(protocol.get_id()),
        _ => None,
    }
}

fn explain(what: &str, error: lapin::Error) -> BrokerError {
    let ErrorKind::ProtocolError(told) = error.kind() else {
        return protocol(&format!("declare {what}"), error);
    };
    match told.get_id() {
        406 => BrokerError::Mismatch {
            what: what.to_owned(),
            detail: told.get_message().as_str().trim_start_matches("PRECONDITION_FAILED - ").to_owned(),
            hint: "empty and delete it so that it is made anew (a function's queue is another one with ordering than \
                   without), or choose another prefix"
                .to_owned(),
        },
        _ => protocol(&format!("declare {what}"), error),
    }
}

pub(super) fn protocol(doing: &str, error: lapin::Error) -> BrokerError {
    BrokerError::Protocol { doing: doing.to_owned(), source: Box::new(error) }
}
