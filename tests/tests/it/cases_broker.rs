//! Case 32: the connection to the broker is lost while an attempt runs.

use serde_json::json;
use weft_tests::{Proxy, poll};

use crate::cases::{Case, LONG, killed};
use crate::system_stage::{LIMIT, Stage, admin, started, stop};

#[tokio::test]
async fn case_32_an_ack_of_a_lost_connection_settles_nothing_on_the_next() {
    let case = Case::standard(Stage::real().await).await;
    let amqp = case.stage.vhost().amqp_url.clone();
    let proxy = Proxy::before(url::Url::parse(&amqp).unwrap().port().unwrap()).await;
    let mut dispatcher = started(case.node("a", LONG).env("WEFT_AMQP_URL", proxy.url(&amqp))).await;
    let port = admin(&mut dispatcher).await;
    let received = |count: u64| {
        let (case, port) = (&case, &port);
        async move {
            poll(&format!("{count} deliveries were received"), LIMIT, || async {
                let live = case.stage.json(&["functions", "place", "--json", "--admin", port]).await;
                let now = live[0]["live"]["received"].as_u64().unwrap();
                if now >= count { Ok(()) } else { Err(now) }
            })
            .await;
        }
    };
    // Settled before, so that a delivery's number differs between the connections.
    case.order("zero", &json!({})).await;
    case.ends_well(1).await;
    let held = |id: &str| (id.to_owned(), json!({ "hold": case.hold(id) }));
    case.orders(&[held("one"), held("two")]).await;
    case.runs_reach(3).await;

    // One ends while there is no connection: its ack has nowhere to go, and it comes again.
    proxy.refuse();
    proxy.cut();
    case.let_go("one", 1);
    case.reaches("one", "succeeded").await;
    let one = case.row("one").await;
    proxy.heal();
    received(5).await;
    case.queue_holds("place", 1).await;
    assert_eq!((case.row("one").await, case.runs().len()), (one, 3), "it was run again");

    // The other ends after the connection is back: the number that its first delivery had is now that of a third.
    case.orders(&[held("three")]).await;
    case.runs_reach(4).await;
    case.let_go("two", 1);
    case.reaches("two", "succeeded").await;
    case.queue_holds("place", 1).await;

    // What the broker still holds is the third: whoever comes next gets it.
    dispatcher.kill();
    killed(dispatcher).await;
    let second = started(case.node("a", LONG)).await;
    assert_eq!(case.runs_reach(5).await[4][0], "three");
    case.let_go("three", 2);
    case.ends_well(4).await;
    assert_eq!(case.runs().len(), 5);
    assert_eq!(case.count("invocation where function = 'place' and attempt = 1").await, 3);
    stop(second).await;
}
