//! Cases 3 and 4: many copies of one event at once, and a copy that comes to another dispatcher while the first runs.

use serde_json::{Value, json};
use weft_tests::{Process, poll};

use crate::cases::{Case, LONG};
use crate::system_stage::{LIMIT, admin, started, stop};

/// The live counts of a dispatcher's function.
async fn live(case: &Case, admin: &str) -> Value {
    case.stage.json(&["functions", "place", "--json", "--admin", admin]).await[0]["live"].clone()
}

/// Two dispatchers, and their admin ports.
async fn two(case: &Case) -> ([Process; 2], [String; 2]) {
    let (mut a, mut b) = tokio::join!(started(case.node("a", LONG)), started(case.node("b", LONG)));
    let ports = [admin(&mut a).await, admin(&mut b).await];
    ([a, b], ports)
}

/// Waits until the dispatchers have received so many copies, and each some of them; what each counts then.
async fn received(case: &Case, ports: &[String; 2], copies: u64) -> Vec<Value> {
    poll(&format!("{copies} copies are with both dispatchers"), LIMIT, || async {
        let counts = [live(case, &ports[0]).await, live(case, &ports[1]).await];
        let received: Vec<_> = counts.iter().map(|live| live["received"].as_u64().unwrap()).collect();
        if received.iter().sum::<u64>() >= copies && received.iter().all(|&count| count > 0) {
            Ok(counts.to_vec())
        } else {
            Err(received)
        }
    })
    .await
}

#[tokio::test]
async fn case_03_of_fifty_copies_at_two_dispatchers_one_runs() {
    let case = Case::new().await;
    let (nodes, ports) = two(&case).await;
    let copies: Vec<_> = (0..50).map(|_| ("one".to_owned(), json!({ "hold": case.hold("one") }))).collect();
    case.orders(&copies).await;
    // The function runs at most eight at once: a dispatcher holds no more of them than that.
    received(&case, &ports, 16).await;
    case.runs_reach(1).await;
    case.let_go("one", 1);
    case.ends_well(1).await;
    assert_eq!(case.runs().len(), 1);
    assert_eq!(case.stands("one").await, ("succeeded".to_owned(), 1));
    let counts = received(&case, &ports, 50).await;
    let sum = |name: &str| counts.iter().map(|live| live[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("attempts"), sum("duplicates")), (1, 49), "{counts:#?}");
    for node in nodes {
        stop(node).await;
    }
}

#[tokio::test]
async fn case_04_a_copy_at_another_dispatcher_waits_uncounted_and_is_answered() {
    let case = Case::new().await;
    let (nodes, ports) = two(&case).await;
    case.order("one", &json!({ "hold": case.hold("one") })).await;
    case.runs_reach(1).await;
    let before = case.row("one").await;
    let copies: Vec<_> = (0..4).map(|_| ("one".to_owned(), json!({ "hold": case.hold("one") }))).collect();
    case.orders(&copies).await;
    received(&case, &ports, 5).await;
    case.queue_holds("place", 5).await;
    assert_eq!((case.row("one").await, case.runs().len()), (before, 1), "a copy changed something");
    case.let_go("one", 1);
    case.ends_well(1).await;
    assert_eq!(case.runs().len(), 1);
    assert_eq!(case.stands("one").await, ("succeeded".to_owned(), 1));
    for node in nodes {
        stop(node).await;
    }
}
