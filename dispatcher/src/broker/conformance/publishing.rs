//! Claims about what is published, and where it goes.

use std::sync::Arc;

use weft_schemas::Message;
use weft_schemas::message::HeaderValue;

use super::super::{FunctionQueue, Names, PublishError, Topology};
use super::{
    Installation, bodies, depth_becomes, event, name, next, nothing_comes, publish, queue, start, subscribe, take,
    topology,
};

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
