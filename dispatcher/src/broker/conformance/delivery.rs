//! Claims about what is delivered and settled.

use bytes::Bytes;
use tokio::time::timeout;
use weft_schemas::{Message, Properties};

use super::super::{DeliveryId, Health};
use super::{
    Installation, LIMIT, bodies, depth_becomes, event, every_header, ids, next, nothing_comes, publish, queue, start,
    subscribe, take,
};

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

/// A larger prefetch counts at once, a smaller one when what is out has been settled, and what was out stays the owner's.
pub async fn the_prefetch_can_be_changed(place: &dyn Installation) {
    let broker = start(place).await;
    publish(&*broker, &["a", "b", "c", "d", "e", "f"]).await;
    let mut subscription = subscribe(&*broker, &queue(), 1).await;
    let first = take(&mut subscription, 1).await;
    nothing_comes(&mut subscription).await;
    subscription.acks.prefetch(3);
    let more = take(&mut subscription, 2).await;
    assert!(first.iter().chain(&more).all(|delivery| !delivery.redelivered), "{more:?}");
    subscription.acks.ack(ids(&first));
    subscription.acks.ack(ids(&more));
    let rest = take(&mut subscription, 3).await;
    assert_eq!(bodies(&[first, more, rest.clone()].concat()), ["a", "b", "c", "d", "e", "f"]);
    assert!(rest.iter().all(|delivery| !delivery.redelivered), "what was acked across the change came again: {rest:?}");
    subscription.acks.ack(ids(&rest));
    subscription.acks.stop();
    subscription.acks.flush().await;
    depth_becomes(&*broker, &queue(), 0).await;
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
