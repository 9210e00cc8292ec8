//! The broker seam over a real RabbitMQ: the conformance suite, and what only RabbitMQ can do.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use weft_dispatcher::broker::amqp::Amqp;
use weft_dispatcher::broker::conformance::{Installation, event, queue, topology};
use weft_dispatcher::broker::{
    Broker, BrokerError, Delivery, FunctionQueue, Health, Names, PublishError, Subscription, Topology,
};
use weft_process::secret::Address;
use weft_schemas::{FunctionName, HeaderValue, Message};
use weft_tests::{PrivateRabbit, Proxy, Vhost, poll, rabbitmq};

const LIMIT: Duration = Duration::from_secs(30);

struct Place(Vhost);

#[async_trait]
impl Installation for Place {
    async fn open(&self) -> Arc<dyn Broker> {
        Arc::new(connect(&self.0.amqp_url).await)
    }

    async fn cut(&self) {
        // Both connections: the broker lists one that has just opened a little later.
        let mut closed = 0;
        timeout(LIMIT, async {
            while closed < 2 {
                closed += self.0.close_connections().await;
            }
        })
        .await
        .expect("the broker lists fewer than two connections");
    }
}

weft_dispatcher::broker_conformance!(Place(rabbitmq().await), connected);

async fn connect(url: &str) -> Amqp {
    Amqp::connect(&Address::new(url), "test").await.expect("connect")
}

async fn next(subscription: &mut Subscription) -> Delivery {
    timeout(LIMIT, subscription.deliveries.recv()).await.expect("no delivery in time").expect("the deliveries ended")
}

fn function(name: &str, source: Option<&str>) -> FunctionQueue {
    FunctionQueue {
        function: FunctionName::new(name).unwrap(),
        source: source.map(str::to_owned),
        patterns: vec!["#".to_owned()],
        ordered: false,
    }
}

fn installation(prefix: &str, functions: Vec<FunctionQueue>) -> Topology {
    Topology { prefix: prefix.to_owned(), functions }
}

fn unroutable(outcome: &Result<(), PublishError>) -> bool {
    matches!(outcome, Err(PublishError::Unroutable { .. }))
}

#[tokio::test]
async fn other_arguments_are_refused_and_the_queue_is_named() {
    let broker = connect(&rabbitmq().await.amqp_url).await;
    // Makes `weft.fn.unrouted` with the arguments of a queue that keeps.
    broker.declare(&installation("weft.fn", vec![])).await.unwrap();
    let error = broker.declare(&installation("weft", vec![function("unrouted", None)])).await.unwrap_err();
    let BrokerError::Mismatch { what, detail, hint } = &error else { panic!("{error:?}") };
    assert_eq!(what, "queue weft.fn.unrouted");
    assert!(detail.contains("x-"), "{detail}");
    assert!(hint.contains("delete"), "{hint}");
    // The refusal closed a throw-away channel, no more.
    broker.declare(&topology(&["#"])).await.unwrap();
    broker.close().await;
}

#[tokio::test]
async fn a_missing_source_is_named() {
    let broker = connect(&rabbitmq().await.amqp_url).await;
    let error = broker.declare(&installation("weft", vec![function("work", Some("shop"))])).await.unwrap_err();
    let BrokerError::Missing { what, .. } = &error else { panic!("{error:?}") };
    assert!(what.contains("shop") && what.contains("work"), "{what}");
    broker.declare(&installation("shop", vec![])).await.unwrap();
    broker.declare(&installation("weft", vec![function("work", Some("shop.events"))])).await.unwrap();
    let message = Message { exchange: "shop.events".to_owned(), routing_key: "x".to_owned(), ..Message::default() };
    assert_eq!(broker.publish(&[message]).await, vec![Ok(())]);
    assert_eq!(next(&mut broker.subscribe(&queue(), 1).await.unwrap()).await.message.exchange, "shop.events");
    broker.close().await;
}

/// Acks are kept for a moment, so that one frame says many; a delivery that runs on must not keep them for ever.
#[tokio::test]
async fn acks_are_written_although_an_older_delivery_runs_on() {
    let vhost = rabbitmq().await;
    let broker = connect(&vhost.amqp_url).await;
    broker.declare(&topology(&["#"])).await.unwrap();
    let left = async |count: u64| {
        poll("so many are not settled", LIMIT, || async {
            let depth = vhost.queue_depth("weft.fn.work").await;
            if depth.as_ref().is_some_and(|depth| depth.ready + depth.unacked == count) { Ok(()) } else { Err(depth) }
        })
        .await;
    };
    let mut subscription = broker.subscribe(&queue(), 20).await.unwrap();
    let mut oldest = Vec::new();
    // The second time, it is known that the oldest takes long.
    for round in 0..2 {
        let ids = [0, 1, 2].map(|number| format!("{round}-{number}"));
        let sent = broker.publish(&ids.map(|id| event("any", &id))).await;
        assert!(sent.iter().all(Result::is_ok), "{sent:?}");
        let mut newer = Vec::new();
        for _ in 0..3 {
            newer.push(next(&mut subscription).await.id);
        }
        if round == 0 {
            oldest.push(newer.remove(0));
        }
        left(oldest.len() as u64 + newer.len() as u64).await;
        subscription.acks.ack(newer);
        left(1).await;
    }
    subscription.acks.ack(oldest);
    left(0).await;
    broker.close().await;
}

/// The loss is seen by the write of the ack, or before it, or after it: the rounds hit each of them.
#[tokio::test]
async fn a_stop_that_comes_with_an_ack_on_a_lost_connection_ends_the_deliveries() {
    let vhost = rabbitmq().await;
    let direct = connect(&vhost.amqp_url).await;
    direct.declare(&topology(&["#"])).await.unwrap();
    let port = url::Url::parse(&vhost.amqp_url).unwrap().port().unwrap();
    for round in 0..12 {
        let proxy = Proxy::before(port).await;
        let broker = connect(&proxy.url(&vhost.amqp_url)).await;
        let mut subscription = broker.subscribe(&queue(), 10).await.unwrap();
        direct.publish(&[event("any", &round.to_string())]).await.remove(0).unwrap();
        let delivery = next(&mut subscription).await;
        proxy.reset();
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        subscription.acks.ack(vec![delivery.id]);
        subscription.acks.stop();
        let end = async { while subscription.deliveries.recv().await.is_some() {} };
        timeout(LIMIT, end).await.unwrap_or_else(|_| panic!("the deliveries did not end in round {round}"));
        broker.close().await;
    }
    direct.close().await;
}

#[tokio::test]
async fn a_missing_queue_is_named() {
    let broker = connect(&rabbitmq().await.amqp_url).await;
    let error = broker.subscribe("nobody", 1).await.err().unwrap();
    assert!(matches!(&error, BrokerError::Missing { what, .. } if what.contains("nobody")), "{error:?}");
    broker.close().await;
}

#[tokio::test]
async fn a_wrong_password_or_virtual_host_is_refused_without_telling_it() {
    let right = rabbitmq().await.amqp_url;
    let (server, vhost) = right.rsplit_once('/').unwrap();
    let (_, host) = server.rsplit_once('@').unwrap();
    for address in
        [format!("amqp://guest:s3cret@{host}/{vhost}"), format!("{server}/no-such-vhost"), format!("{server}/")]
    {
        let error = Amqp::connect(&Address::new(address), "test").await.err().unwrap();
        assert!(matches!(error, BrokerError::Refused { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
    }
}

#[tokio::test]
async fn a_port_that_speaks_something_else_is_told_within_the_limit() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, b"\x15\x03\x03\x00\x02\x02\x32").await;
        }
    });
    for scheme in ["amqp", "amqps"] {
        let error = Amqp::connect(&Address::new(format!("{scheme}://127.0.0.1:{port}")), "test").await.err().unwrap();
        assert!(matches!(error, BrokerError::Unavailable { .. }), "{error:?}");
        assert!(format!("{error:?}").contains("TLS"), "{error:?}");
    }
    other.abort();
}

#[tokio::test]
async fn a_queue_deleted_under_its_consumer_is_made_again() {
    let vhost = rabbitmq().await;
    let broker = connect(&vhost.amqp_url).await;
    broker.declare(&topology(&["orders.*"])).await.unwrap();
    let mut subscription = broker.subscribe(&queue(), 10).await.unwrap();
    assert_eq!(broker.publish(&[event("orders.placed", "a")]).await, vec![Ok(())]);
    let old = next(&mut subscription).await;
    vhost.delete_queue(&queue()).await;
    // Its message is gone with the queue. One straight to the queue says when it is there again.
    let straight = Message { routing_key: queue(), ..Message::default() };
    timeout(LIMIT, async { while broker.publish(std::slice::from_ref(&straight)).await != vec![Ok(())] {} })
        .await
        .expect("the queue was not made again");
    let new = next(&mut subscription).await;
    assert_eq!(new.message.routing_key, queue());
    // It is bound a moment later: until then the event goes to the net of what nobody is bound to.
    let bound = timeout(LIMIT, async {
        loop {
            assert_eq!(broker.publish(&[event("orders.placed", "b")]).await, vec![Ok(())]);
            if let Ok(Some(bound)) = timeout(Duration::from_secs(1), subscription.deliveries.recv()).await {
                break bound;
            }
        }
    })
    .await
    .expect("the queue was not bound again");
    assert_eq!(&bound.message.body[..], b"b");
    subscription.acks.ack(vec![old.id, new.id, bound.id]);
    subscription.acks.flush().await;
    assert_eq!(*broker.health().borrow(), Health::Connected);
    broker.close().await;
    let broker = connect(&vhost.amqp_url).await;
    assert_eq!(broker.depth(&queue()).await, Some(0));
    broker.close().await;
}

#[tokio::test]
async fn another_users_message_can_be_published_again() {
    let broker = connect(&rabbitmq().await.amqp_url).await;
    broker.declare(&topology(&["orders.*"])).await.unwrap();
    let mut mine = event("orders.placed", "mine");
    mine.properties.user_id = Some("guest".to_owned());
    let mut theirs = event("orders.placed", "theirs");
    theirs.properties.user_id = Some("somebody".to_owned());
    assert_eq!(broker.publish(&[mine, theirs]).await, vec![Ok(()), Ok(())]);
    let mut subscription = broker.subscribe(&queue(), 10).await.unwrap();
    assert_eq!(next(&mut subscription).await.message.properties.user_id.as_deref(), Some("guest"));
    let theirs = next(&mut subscription).await.message;
    assert_eq!(theirs.properties.user_id, None);
    assert_eq!(theirs.header("weft-user-id"), Some("somebody"));
    broker.close().await;
}

#[tokio::test]
async fn a_message_that_the_broker_rejects_is_found_among_its_neighbours() {
    let broker = connect(&rabbitmq().await.amqp_url).await;
    broker.declare(&topology(&["orders.*"])).await.unwrap();
    let mut bad = event("orders.placed", "bad");
    bad.properties.expiration = Some("soon".to_owned());
    let mut large = event("orders.placed", "headers");
    large.headers.insert("large".to_owned(), HeaderValue::Text("x".repeat(200_000)));
    let outcomes = broker.publish(&[event("orders.placed", "a"), bad, large, event("orders.placed", "b")]).await;
    assert!(
        outcomes[0].is_ok() && unroutable(&outcomes[1]) && unroutable(&outcomes[2]) && outcomes[3].is_ok(),
        "{outcomes:?}"
    );
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_return_is_never_taken_for_a_neighbours() {
    let broker = Arc::new(connect(&rabbitmq().await.amqp_url).await);
    broker.declare(&topology(&["orders.*"])).await.unwrap();
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move {
                for round in 0..10 {
                    let lost = |n: usize| (n * 7 + caller + round).is_multiple_of(3);
                    let messages: Vec<Message> = (0..40)
                        .map(|n| {
                            let mut message = event("orders.placed", &format!("{caller}-{round}-{n}"));
                            if lost(n) {
                                message.exchange = String::new();
                                message.routing_key = format!("nobody-{}", n % 2);
                            }
                            message
                        })
                        .collect();
                    for (n, outcome) in broker.publish(&messages).await.into_iter().enumerate() {
                        assert_eq!(unroutable(&outcome), lost(n), "{n}: {outcome:?}");
                        assert_eq!(outcome.is_ok(), !lost(n), "{n}: {outcome:?}");
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    broker.close().await;
}

#[tokio::test]
async fn what_is_returned_too_often_goes_to_the_crash_net() {
    let broker = connect(&rabbitmq().await.amqp_url).await;
    broker.declare(&topology(&["orders.*"])).await.unwrap();
    assert_eq!(broker.publish(&[event("orders.placed", "poison")]).await, vec![Ok(())]);
    let mut subscription = broker.subscribe(&queue(), 1).await.unwrap();
    let mut net = broker.subscribe(&Names::new("weft").crashed(), 1).await.unwrap();
    let mut handed_out = 0;
    let caught = loop {
        tokio::select! {
            delivery = next(&mut subscription) => {
                handed_out += 1;
                subscription.acks.requeue(vec![delivery.id]);
            }
            caught = next(&mut net) => break caught,
        }
    };
    assert_eq!(&caught.message.body[..], b"poison");
    assert_eq!(handed_out, 51);
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_is_told_and_found_again() {
    let server = PrivateRabbit::start().await;
    let broker = connect(&server.vhost().await.amqp_url).await;
    broker.declare(&topology(&["orders.*"])).await.unwrap();
    let mut subscription = broker.subscribe(&queue(), 10).await.unwrap();
    assert_eq!(broker.publish(&[event("orders.placed", "a")]).await, vec![Ok(())]);
    let before = next(&mut subscription).await;
    let mut health = broker.health();
    server.stop().await;
    timeout(LIMIT, health.wait_for(|health| matches!(health, Health::Disconnected { .. }))).await.unwrap().unwrap();
    // Bounded in time, and said.
    let outcomes = timeout(LIMIT, broker.publish(&[event("orders.placed", "b")])).await.expect("publish hangs");
    assert!(matches!(outcomes[..], [Err(PublishError::Disconnected { .. })]), "{outcomes:?}");
    assert_eq!(broker.depth(&queue()).await, None);
    // Settling and flushing without a connection neither hangs nor fails.
    subscription.acks.ack(vec![before.id]);
    timeout(LIMIT, subscription.acks.flush()).await.expect("flush hangs");
    server.start_again().await;
    let again = next(&mut subscription).await;
    assert_eq!(again.message.body, before.message.body);
    assert_ne!(again.id, before.id);
    timeout(LIMIT, health.wait_for(|health| *health == Health::Connected)).await.unwrap().unwrap();
    assert_eq!(broker.publish(&[event("orders.placed", "c")]).await, vec![Ok(())]);
    assert_eq!(&next(&mut subscription).await.message.body[..], b"c");
    broker.close().await;
}

#[tokio::test]
async fn a_close_without_a_server_is_bounded() {
    let server = PrivateRabbit::start().await;
    let broker = connect(&server.vhost().await.amqp_url).await;
    broker.declare(&topology(&["orders.*"])).await.unwrap();
    let subscription = broker.subscribe(&queue(), 10).await.unwrap();
    server.pause();
    timeout(LIMIT, broker.close()).await.expect("close hangs");
    drop(subscription);
    server.resume();
}
