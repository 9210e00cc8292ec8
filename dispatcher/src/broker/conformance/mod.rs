//! What every broker must do, as claims. Each claim is an async function over a fresh, private installation; the
//! [`broker_conformance`](crate::broker_conformance) macro makes a test of each.
//!
//! A claim waits on signals or polls a condition up to [`LIMIT`]; it never sleeps for a fixed time.

mod answers;
mod delivery;
mod publishing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout};
use weft_schemas::message::{HeaderValue, Headers};
use weft_schemas::{FunctionName, Message};

use super::{Broker, Delivery, DeliveryId, FunctionQueue, Names, Subscription, Topology};
pub use answers::*;
pub use delivery::*;
pub use publishing::*;

/// How long a claim waits for something that must come.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How long a claim looks for something that must not come, by asking again and again.
const QUIET: Duration = Duration::from_millis(300);

/// A place where brokers can be opened on the same, private state.
#[async_trait]
pub trait Installation: Send + Sync {
    /// Connects; the state of earlier ones is there.
    async fn open(&self) -> Arc<dyn Broker>;
    /// Cuts the broker's connections from outside, for `broker_conformance!(place, connected)`.
    async fn cut(&self) {
        panic!("this broker has no connections to cut");
    }
}

fn name(text: &str) -> FunctionName {
    FunctionName::new(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A topology of one function, `work`, fed by `patterns`.
pub fn topology(patterns: &[&str]) -> Topology {
    Topology {
        prefix: "weft".to_owned(),
        functions: vec![FunctionQueue {
            function: name("work"),
            source: None,
            patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
            ordered: false,
        }],
    }
}

/// The queue of [`topology`]'s function.
pub fn queue() -> String {
    Names::new("weft").function(&name("work"))
}

/// An event with this routing key and body.
pub fn event(routing_key: &str, body: &str) -> Message {
    Message {
        exchange: Names::new("weft").events(),
        routing_key: routing_key.to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        ..Message::default()
    }
}

async fn start(place: &dyn Installation) -> Arc<dyn Broker> {
    let broker = place.open().await;
    broker.declare(&topology(&["orders.*"])).await.unwrap_or_else(|error| panic!("{error:?}"));
    broker
}

async fn subscribe(broker: &dyn Broker, queue: &str, prefetch: u16) -> Subscription {
    broker.subscribe(queue, prefetch).await.unwrap_or_else(|error| panic!("{error:?}"))
}

async fn publish(broker: &dyn Broker, bodies: &[&str]) {
    let messages: Vec<Message> = bodies.iter().map(|body| event("orders.placed", body)).collect();
    let outcomes = broker.publish(&messages).await;
    assert_eq!(outcomes, vec![Ok(()); messages.len()]);
}

async fn next(subscription: &mut Subscription) -> Delivery {
    match timeout(LIMIT, subscription.deliveries.recv()).await {
        Ok(Some(delivery)) => delivery,
        Ok(None) => panic!("the deliveries ended"),
        Err(_) => panic!("no delivery within {LIMIT:?}"),
    }
}

async fn take(subscription: &mut Subscription, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(next(subscription).await);
    }
    all
}

async fn nothing_comes(subscription: &mut Subscription) {
    if let Ok(got) = timeout(QUIET, subscription.deliveries.recv()).await {
        panic!("came although it must not: {got:?}");
    }
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let mut all: Vec<String> =
        deliveries.iter().map(|delivery| String::from_utf8_lossy(&delivery.message.body).into_owned()).collect();
    all.sort();
    all
}

fn ids(deliveries: &[Delivery]) -> Vec<DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

async fn depth_becomes(broker: &dyn Broker, queue: &str, wanted: u64) {
    let deadline = Instant::now() + LIMIT;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    loop {
        let seen = broker.depth(queue).await;
        if seen == Some(wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "the depth of {queue} is {seen:?}, not {wanted}");
        pause.tick().await;
    }
}

/// One header of every type that AMQP has.
pub fn every_header() -> Headers {
    let mut headers: Headers = BTreeMap::from([
        ("void".to_owned(), HeaderValue::Void),
        ("bool".to_owned(), HeaderValue::Bool(true)),
        ("i8".to_owned(), HeaderValue::I8(i8::MIN)),
        ("u8".to_owned(), HeaderValue::U8(u8::MAX)),
        ("i16".to_owned(), HeaderValue::I16(i16::MIN)),
        ("u16".to_owned(), HeaderValue::U16(u16::MAX)),
        ("i32".to_owned(), HeaderValue::I32(i32::MIN)),
        ("u32".to_owned(), HeaderValue::U32(u32::MAX)),
        ("i64".to_owned(), HeaderValue::I64(i64::MIN)),
        ("f32".to_owned(), HeaderValue::F32(0.1)),
        ("f64".to_owned(), HeaderValue::F64(-1e300)),
        ("decimal".to_owned(), HeaderValue::Decimal { scale: 2, value: 12_345 }),
        ("text".to_owned(), HeaderValue::Text("grüße \u{1f980}".to_owned())),
        ("opaque".to_owned(), HeaderValue::Opaque(vec![0xff, 0x00, 0xfe])),
        ("bytes".to_owned(), HeaderValue::Bytes(vec![0, 1, 2, 255])),
        ("timestamp".to_owned(), HeaderValue::Timestamp(1_700_000_000)),
    ]);
    let all: Vec<HeaderValue> = headers.values().cloned().collect();
    headers.insert("table".to_owned(), HeaderValue::Table(headers.clone()));
    headers.insert("array".to_owned(), HeaderValue::Array(all));
    headers
}

/// Makes a test of every claim. `$place` is an expression that gives an [`Installation`], evaluated in each test;
/// `connected` adds the claims about connections that are cut.
#[macro_export]
macro_rules! broker_conformance {
    ($place:expr) => {
        $crate::broker_conformance!(@each $place;
            a_message_arrives_untouched
            the_prefetch_bounds_what_is_outstanding
            the_prefetch_can_be_changed
            the_unacked_comes_again_and_the_acked_does_not
            a_close_writes_out_what_was_acked
            a_requeued_message_comes_again
            an_event_that_nobody_is_bound_to_is_kept
            each_publish_has_its_own_answer
            a_message_that_amqp_cannot_carry_is_refused
            a_stop_and_a_flush_lose_nothing
            a_dropped_subscription_hands_back
            ids_of_an_earlier_subscription_settle_nothing
            declaring_twice_is_fine
            a_topic_pattern_routes
            the_depth_counts_what_waits
            many_publishers_at_once_lose_nothing
            an_answer_reaches_the_place_it_is_for
        );
    };
    ($place:expr, connected) => {
        $crate::broker_conformance!($place);
        $crate::broker_conformance!(@each $place;
            a_cut_connection_is_rebuilt_and_late_acks_are_ignored
            a_place_for_answers_is_there_again_after_a_cut_and_tells_of_the_gap
        );
    };
    (@each $place:expr; $($claim:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $claim() {
            let place = $place;
            $crate::broker::conformance::$claim(&place).await;
        }
    )*};
}
