//! What every broker must do, as claims. Each claim is an async function over a fresh, private installation; the
//! [`broker_conformance`](crate::broker_conformance) macro makes a test of each.
//!
//! A claim waits on signals or polls a condition up to [`LIMIT`]; it never sleeps for a fixed time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout};
use weft_schemas::message::{HeaderValue, Headers};
use weft_schemas::{FunctionName, Message, Properties};

use super::{
    Broker, Delivery, DeliveryId, FromReplies, FunctionQueue, Health, Names, PublishError, Replies, Subscription,
    Topology,
};

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

/// Body, properties and headers of every type arrive untouched.
pub async fn a_message_arrives_untouched(place: &dyn Installation) {
    let broker = start(place).await;
    let mut subscription = subscribe(&*broker, &queue(), 10).await;
    let sent = Message {
        properties: Properties {
            content_type: Some("application/json".to_owned()),
            content_encoding: Some("identity".to_owned()),
            delivery_mode: Some(2),
            priority: Some(3),
            correlation_id: Some("correlation".to_owned()),
            reply_to: Some("somewhere".to_owned()),
            expiration: Some("600000".to_owned()),
            message_id: Some("id-1".to_owned()),
            timestamp: Some(1_700_000_000),
            kind: Some("orders.placed".to_owned()),
            user_id: None,
            app_id: Some("shop".to_owned()),
        },
        headers: every_header(),
        body: Bytes::from_static(&[0, 159, 146, 150, 255]),
        ..event("orders.placed", "")
    };
    let empty_body = event("orders.placed", "");
    let large = event("orders.placed", &"x".repeat(1 << 20));
    assert_eq!(broker.publish(&[sent.clone(), empty_body, large]).await, vec![Ok(()); 3]);
    let mut got = next(&mut subscription).await;
    assert!(!got.redelivered);
    // Brokers before 3.12 count from the first delivery on.
    got.message.headers.remove("x-delivery-count");
    assert_eq!(got.message, sent);
    assert_eq!(next(&mut subscription).await.message.body.len(), 0);
    assert_eq!(next(&mut subscription).await.message.body.len(), 1 << 20);
    broker.close().await;
}

/// No more than the prefetch is out and unsettled.
pub async fn the_prefetch_bounds_what_is_outstanding(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a", "b", "c", "d", "e"]).await;
    let mut subscription = subscribe(&*broker, &queue(), 2).await;
    let first = take(&mut subscription, 2).await;
    nothing_comes(&mut subscription).await;
    assert_eq!(broker.depth(&queue()).await, Some(3));
    subscription.acks.ack(ids(&first));
    let second = take(&mut subscription, 2).await;
    nothing_comes(&mut subscription).await;
    subscription.acks.ack(ids(&second));
    let third = take(&mut subscription, 1).await;
    assert_eq!(bodies(&[first, second, third].concat()), ["a", "b", "c", "d", "e"]);
    broker.close().await;
}

/// What is acked is gone; what is not comes again to whoever connects next, marked as redelivered.
pub async fn the_unacked_comes_again_and_the_acked_does_not(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a", "b", "c"]).await;
    let mut subscription = subscribe(&*broker, &queue(), 10).await;
    let got = take(&mut subscription, 3).await;
    subscription.acks.ack(ids(&got[1..2]));
    subscription.acks.flush().await;
    broker.close().await;
    assert!(timeout(LIMIT, subscription.deliveries.recv()).await.is_ok_and(|end| end.is_none()), "still open");
    let broker = start(place).await;
    let mut subscription = subscribe(&*broker, &queue(), 10).await;
    let again = take(&mut subscription, 2).await;
    assert_eq!(bodies(&again), ["a", "c"]);
    assert!(again.iter().all(|delivery| delivery.redelivered), "{again:?}");
    subscription.acks.ack(ids(&again));
    subscription.acks.flush().await;
    nothing_comes(&mut subscription).await;
    broker.close().await;
    let broker = start(place).await;
    depth_becomes(&*broker, &queue(), 0).await;
    broker.close().await;
}

/// A close writes out what was acked before it, without a flush.
pub async fn a_close_writes_out_what_was_acked(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a", "b"]).await;
    let mut subscription = subscribe(&*broker, &queue(), 10).await;
    let got = take(&mut subscription, 2).await;
    subscription.acks.ack(ids(&got));
    broker.close().await;
    let broker = start(place).await;
    assert_eq!(broker.depth(&queue()).await, Some(0));
    broker.close().await;
}

/// What is handed back comes again, marked as redelivered.
pub async fn a_requeued_message_comes_again(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a", "b", "c"]).await;
    let mut subscription = subscribe(&*broker, &queue(), 3).await;
    let got = take(&mut subscription, 3).await;
    subscription.acks.ack(ids(&got[..1]));
    subscription.acks.requeue(ids(&got[1..]));
    let again = take(&mut subscription, 2).await;
    assert_eq!(bodies(&again), ["b", "c"]);
    assert!(again.iter().all(|delivery| delivery.redelivered), "{again:?}");
    subscription.acks.ack(ids(&again));
    subscription.acks.flush().await;
    depth_becomes(&*broker, &queue(), 0).await;
    broker.close().await;
}

/// An event that no function is bound to is kept where it can be found.
pub async fn an_event_that_nobody_is_bound_to_is_kept(place: &dyn Installation) {
    let broker = start(place).await;
    assert_eq!(broker.publish(&[event("payments.made", "lost?")]).await, vec![Ok(())]);
    let unrouted = Names::new("weft").unrouted();
    let mut subscription = subscribe(&*broker, &unrouted, 1).await;
    let got = next(&mut subscription).await;
    assert_eq!(bodies(std::slice::from_ref(&got)), ["lost?"]);
    assert_eq!(got.message.routing_key, "payments.made");
    assert_eq!(broker.depth(&queue()).await, Some(0));
    broker.close().await;
}

/// Each message of a batch has an answer of its own, in order, whatever is wrong with its neighbours.
pub async fn each_publish_has_its_own_answer(place: &dyn Installation) {
    let broker = start(place).await;
    let to = |exchange: &str, routing_key: &str| Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        ..Message::default()
    };
    let outcomes = broker
        .publish(&[
            event("orders.placed", "a"),
            to("nowhere", "x"),
            to("", "no-such-queue"),
            event("orders.placed", "b"),
            to("nowhere-else", "x"),
            to("", &queue()),
        ])
        .await;
    let unroutable = |outcome: &Result<(), PublishError>| matches!(outcome, Err(PublishError::Unroutable { .. }));
    assert_eq!(outcomes.len(), 6);
    for (index, refused) in [false, true, true, false, true, false].into_iter().enumerate() {
        let outcome = &outcomes[index];
        assert!(if refused { unroutable(outcome) } else { outcome.is_ok() }, "{index}: {outcomes:?}");
    }
    // At least once: a neighbour of a refused message may have come twice.
    let mut subscription = subscribe(&*broker, &queue(), 100).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 3 {
        seen.insert(next(&mut subscription).await.message.body);
    }
    assert_eq!(broker.publish(&[]).await, vec![]);
    broker.close().await;
}

/// What AMQP cannot carry is refused alone.
pub async fn a_message_that_amqp_cannot_carry_is_refused(place: &dyn Installation) {
    let broker = start(place).await;
    let mut unfit = event("orders.placed", "unfit");
    unfit.headers.insert("x".repeat(256), HeaderValue::Void);
    let outcomes = broker.publish(&[unfit, event("orders.placed", "fit")]).await;
    assert!(matches!(outcomes[0], Err(PublishError::Unroutable { .. })), "{outcomes:?}");
    assert_eq!(outcomes[1], Ok(()));
    broker.close().await;
}

/// After a stop the deliveries end, what came before can be settled, and nothing is lost or doubled.
pub async fn a_stop_and_a_flush_lose_nothing(place: &dyn Installation) {
    let broker = start(place).await;
    let all: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
    publish(&*broker, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut subscription = subscribe(&*broker, &queue(), 20).await;
    let mut got = take(&mut subscription, 5).await;
    subscription.acks.stop();
    loop {
        match timeout(LIMIT, subscription.deliveries.recv()).await {
            Ok(Some(delivery)) => got.push(delivery),
            Ok(None) => break,
            Err(_) => panic!("the deliveries did not end"),
        }
    }
    assert!(got.len() <= 20, "{} delivered", got.len());
    let (acked, back) = got.split_at(3);
    subscription.acks.requeue(ids(back));
    subscription.acks.ack(ids(acked));
    subscription.acks.flush().await;
    let done = bodies(acked);
    drop(subscription);
    let mut rest = subscribe(&*broker, &queue(), 100).await;
    let mut left = take(&mut rest, all.len() - done.len()).await;
    nothing_comes(&mut rest).await;
    left.extend(got.drain(..3));
    assert_eq!(bodies(&left), all);
    broker.close().await;
}

/// Letting go of a subscription hands back what was not settled.
pub async fn a_dropped_subscription_hands_back(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a", "b"]).await;
    let mut subscription = subscribe(&*broker, &queue(), 1).await;
    assert_eq!(bodies(&take(&mut subscription, 1).await), ["a"]);
    drop(subscription);
    let mut subscription = subscribe(&*broker, &queue(), 10).await;
    assert_eq!(bodies(&take(&mut subscription, 2).await), ["a", "b"]);
    broker.close().await;
}

/// Ids of an earlier subscription settle nothing, and neither do ids that never were.
pub async fn ids_of_an_earlier_subscription_settle_nothing(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a"]).await;
    let mut earlier = subscribe(&*broker, &queue(), 1).await;
    let old = next(&mut earlier).await.id;
    drop(earlier);
    let mut subscription = subscribe(&*broker, &queue(), 1).await;
    let new = next(&mut subscription).await;
    assert_ne!(old, new.id);
    subscription.acks.ack(vec![old, DeliveryId { tag: new.id.tag + 1000, ..new.id }]);
    subscription.acks.requeue(vec![old]);
    subscription.acks.flush().await;
    // Still out: neither acked nor handed back.
    nothing_comes(&mut subscription).await;
    assert_eq!(broker.depth(&queue()).await, Some(0));
    subscription.acks.requeue(vec![new.id]);
    assert_eq!(bodies(&[next(&mut subscription).await]), ["a"]);
    broker.close().await;
}

/// Declaring what is there changes nothing and loses nothing.
pub async fn declaring_twice_is_fine(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a"]).await;
    broker.declare(&topology(&["orders.*", "payments.#"])).await.unwrap_or_else(|error| panic!("{error:?}"));
    broker.declare(&topology(&["orders.*", "payments.#"])).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(broker.publish(&[event("payments.made.today", "b")]).await, vec![Ok(())]);
    let mut subscription = subscribe(&*broker, &queue(), 10).await;
    assert_eq!(bodies(&take(&mut subscription, 2).await), ["a", "b"]);
    nothing_comes(&mut subscription).await;
    broker.close().await;
}

/// Patterns route as topic exchanges do: `*` is one word, `#` any number.
pub async fn a_topic_pattern_routes(place: &dyn Installation) {
    let broker = place.open().await;
    let function = |text: &str, patterns: &[&str]| FunctionQueue {
        function: name(text),
        source: None,
        patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ordered: false,
    };
    let topology = Topology {
        prefix: "weft".to_owned(),
        functions: vec![
            function("exact", &["orders.placed"]),
            function("star", &["orders.*"]),
            function("hash", &["orders.#", "*.placed"]),
        ],
    };
    broker.declare(&topology).await.unwrap_or_else(|error| panic!("{error:?}"));
    let keys = ["orders", "orders.placed", "orders.placed.late", "orders.sent", "carts.placed", "carts"];
    let events: Vec<Message> = keys.iter().map(|key| event(key, key)).collect();
    assert_eq!(broker.publish(&events).await, vec![Ok(()); keys.len()]);
    let names = Names::new("weft");
    for (queue, expected) in [
        (names.function(&name("exact")), vec!["orders.placed"]),
        (names.function(&name("star")), vec!["orders.placed", "orders.sent"]),
        // Once, though two of its patterns match.
        (
            names.function(&name("hash")),
            vec!["carts.placed", "orders", "orders.placed", "orders.placed.late", "orders.sent"],
        ),
        (names.unrouted(), vec!["carts"]),
    ] {
        let mut subscription = subscribe(&*broker, &queue, 100).await;
        assert_eq!(bodies(&take(&mut subscription, expected.len()).await), expected, "{queue}");
        nothing_comes(&mut subscription).await;
    }
    broker.close().await;
}

/// Only what waits is counted, not what is out. A queue that is not there has none.
pub async fn the_depth_counts_what_waits(place: &dyn Installation) {
    let broker = start(place).await;
    assert_eq!(broker.depth(&queue()).await, Some(0));
    assert!(broker.depth("weft.fn.nobody").await.is_none_or(|depth| depth == 0));
    publish(&*broker, &["a", "b", "c"]).await;
    depth_becomes(&*broker, &queue(), 3).await;
    let mut subscription = subscribe(&*broker, &queue(), 1).await;
    take(&mut subscription, 1).await;
    depth_becomes(&*broker, &queue(), 2).await;
    let counts = broker.counts(&queue()).await.unwrap_or_else(|| panic!("no counts"));
    // Of these a broker may not know; what it says must be so.
    assert!(counts.ready == 2 && counts.unacked.is_none_or(|out| out == 1), "{counts:?}");
    assert!(counts.consumers.is_none_or(|consumers| consumers == 1), "{counts:?}");
    broker.close().await;
}

/// Many callers publish and many settle at once, and each event is seen.
pub async fn many_publishers_at_once_lose_nothing(place: &dyn Installation) {
    let broker = start(place).await;
    let mut subscription = subscribe(&*broker, &queue(), 200).await;
    let publishers: Vec<_> = (0..8)
        .map(|publisher| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move {
                for round in 0..5 {
                    let all: Vec<String> = (0..20).map(|n| format!("{publisher}-{round}-{n:02}")).collect();
                    publish(&*broker, &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
                }
            })
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 800 {
        let delivery = next(&mut subscription).await;
        subscription.acks.ack(vec![delivery.id]);
        seen.insert(delivery.message.body);
    }
    for publisher in publishers {
        publisher.await.unwrap_or_else(|error| panic!("{error}"));
    }
    subscription.acks.flush().await;
    depth_becomes(&*broker, &queue(), 0).await;
    broker.close().await;
}

fn answer(to: &str, body: &str) -> Message {
    let mut message =
        Message { routing_key: to.to_owned(), body: Bytes::copy_from_slice(body.as_bytes()), ..Message::default() };
    message.properties.correlation_id = Some(body.to_owned());
    message.headers.insert("weft-status".to_owned(), HeaderValue::from("succeeded"));
    message
}

async fn replies(broker: &dyn Broker, name: &str) -> Replies {
    broker.replies(name).await.unwrap_or_else(|error| panic!("{error:?}"))
}

async fn next_answer(replies: &mut Replies) -> Option<Message> {
    match timeout(LIMIT, replies.arriving.recv()).await {
        Ok(Some(FromReplies::Answer(message))) => Some(*message),
        Ok(Some(FromReplies::Gap)) => None,
        Ok(None) => panic!("the answers ended"),
        Err(_) => panic!("no answer within {LIMIT:?}"),
    }
}

/// What is published to a place for answers comes in there alone; to one that is gone it is told as not taken.
pub async fn an_answer_reaches_the_place_it_is_for(place: &dyn Installation) {
    let broker = start(place).await;
    let names = Names::new("weft");
    let (mut one, mut two) =
        (replies(&*broker, &names.replies("one")).await, replies(&*broker, &names.replies("two")).await);
    let sent: Vec<Message> = (0..200).map(|n| answer(&one.address, &format!("{n:03}"))).collect();
    let taking = async {
        for message in &sent {
            let got = next_answer(&mut one).await.unwrap_or_else(|| panic!("a gap although nothing was cut"));
            assert_eq!(
                (&got.body, &got.properties.correlation_id),
                (&message.body, &message.properties.correlation_id)
            );
            assert_eq!(got.header("weft-status"), Some("succeeded"));
        }
    };
    let (outcomes, ()) = tokio::join!(broker.publish(&sent), taking);
    assert_eq!(outcomes, vec![Ok(()); sent.len()]);
    assert_eq!(broker.publish(&[answer(&two.address, "x")]).await, vec![Ok(())]);
    assert_eq!(next_answer(&mut two).await.map(|got| got.body), Some(Bytes::from_static(b"x")));
    let nobody = broker.publish(&[answer(&names.replies("nobody"), "x")]).await;
    assert!(matches!(nobody.as_slice(), [Err(PublishError::Unroutable { .. })]), "{nobody:?}");
    broker.close().await;
}

/// After a cut the place for answers is there again under its address, and says that some may be lost.
pub async fn a_place_for_answers_is_there_again_after_a_cut_and_tells_of_the_gap(place: &dyn Installation) {
    let broker = start(place).await;
    let mut replies = replies(&*broker, &Names::new("weft").replies("one")).await;
    place.cut().await;
    assert!(next_answer(&mut replies).await.is_none(), "an answer before the gap was told");
    assert_eq!(broker.publish(&[answer(&replies.address, "x")]).await, vec![Ok(())]);
    assert_eq!(next_answer(&mut replies).await.map(|got| got.body), Some(Bytes::from_static(b"x")));
    broker.close().await;
}

/// After a cut the subscription goes on by itself, old ids settle nothing, and publishing works again.
pub async fn a_cut_connection_is_rebuilt_and_late_acks_are_ignored(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a", "b"]).await;
    let mut subscription = subscribe(&*broker, &queue(), 10).await;
    let before = take(&mut subscription, 2).await;
    let mut health = broker.health();
    assert_eq!(*health.borrow_and_update(), Health::Connected);
    place.cut().await;
    let again = take(&mut subscription, 2).await;
    assert_eq!(bodies(&again), ["a", "b"]);
    assert!(again.iter().all(|delivery| delivery.redelivered), "{again:?}");
    for (old, new) in before.iter().zip(&again) {
        assert_ne!(old.id, new.id);
    }
    subscription.acks.ack(ids(&before));
    subscription.acks.flush().await;
    publish(&*broker, &["c"]).await;
    let mut got = again;
    got.extend(take(&mut subscription, 1).await);
    assert_eq!(bodies(&got), ["a", "b", "c"]);
    subscription.acks.requeue(ids(&got[..1]));
    let back = take(&mut subscription, 1).await;
    assert_eq!(bodies(&back), bodies(&got[..1]), "a late ack settled it");
    subscription.acks.ack(ids(&got[1..]));
    subscription.acks.ack(ids(&back));
    subscription.acks.flush().await;
    depth_becomes(&*broker, &queue(), 0).await;
    timeout(LIMIT, health.wait_for(|health| *health == Health::Connected))
        .await
        .unwrap_or_else(|_| panic!("never healthy again"))
        .unwrap_or_else(|error| panic!("{error}"));
    broker.close().await;
}

/// Makes a test of every claim. `$place` is an expression that gives an [`Installation`], evaluated in each test;
/// `connected` adds the claims about connections that are cut.
#[macro_export]
macro_rules! broker_conformance {
    ($place:expr) => {
        $crate::broker_conformance!(@each $place;
            a_message_arrives_untouched
            the_prefetch_bounds_what_is_outstanding
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
