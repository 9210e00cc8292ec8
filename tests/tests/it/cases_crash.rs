//! Cases 5 to 10: a process that is killed before or after each durable step, from the claim to the ack.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::cases::{Case, LONG, SHORT, killed, stopped};
use crate::system_stage::{runs, started, stop};

fn kill(run: &[String]) {
    let pid: i32 = run[3].parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn stands(state: &str, attempt: i64) -> (String, i64) {
    (state.to_owned(), attempt)
}

fn plain() -> Value {
    json!({ "plain": true })
}

#[tokio::test]
async fn case_05_the_next_incarnation_of_a_killed_node_has_its_claim_at_once() {
    let case = Case::new().await;
    let first = started(case.doomed("a", LONG, "after-claim")).await;
    case.order("one", &json!({})).await;
    killed(first).await;
    assert_eq!(case.stands("one").await, stands("claimed", 1));
    assert!(case.runs().is_empty(), "the handler was entered");
    let again = Instant::now();
    let second = started(case.node("a", LONG)).await;
    case.ends_well(1).await;
    let took = again.elapsed();
    assert!(took < Duration::from_secs(50), "{took:?}: the lease was waited for");
    assert_eq!(case.stands("one").await, stands("succeeded", 2));
    assert_eq!((case.row("one").await["incarnation"].as_i64(), case.runs().len()), (Some(2), 1));
    stop(second).await;
}

#[tokio::test]
async fn case_05_another_node_takes_a_killed_nodes_claims_over_when_the_lease_is_over_and_not_before() {
    let case = Case::new().await;
    let (a, b) = tokio::join!(
        started(case.doomed("a", SHORT, "after-claim")),
        // Up all the while: the broker hands it at once what the other leaves.
        started(case.node("b", SHORT))
    );
    // As many as a worker has connections for their transactions.
    let ids = ["k1", "k2", "k3", "k4"];
    let orders: Vec<_> = ids.iter().map(|id| ((*id).to_owned(), json!({ "hold": case.hold(id) }))).collect();
    case.orders(&orders).await;
    killed(a).await;
    case.runs_reach(ids.len()).await;
    // Every attempt is held, so that a row's last change is its claim.
    let taken_over = "invocation i join node n on n.id like '%-a' and i.owner like '%-b' and i.attempt = 2";
    let (all, early) = tokio::join!(
        case.count(taken_over),
        case.count("invocation i join node n on n.id like '%-a' and i.attempt = 2 and i.updated_at < n.lease_until")
    );
    assert!(all > 0, "the killed node held nothing");
    assert_eq!(early, 0, "taken over before the lease was over");
    for id in ids {
        case.let_go(id, 1);
        case.let_go(id, 2);
    }
    case.ends_well(ids.len()).await;
    stop(b).await;
}

#[tokio::test]
async fn case_05_a_worker_killed_before_its_handler_costs_an_attempt_and_nothing_else() {
    let case = Case::crashing("before-handler").await;
    let dispatcher = started(case.node("a", LONG)).await;
    case.order("one", &json!({})).await;
    case.ends_well(1).await;
    assert_eq!(case.stands("one").await, stands("succeeded", 2));
    assert_eq!((case.crashes("one").await, case.runs().len()), (1, 1));
    stop(dispatcher).await;
}

#[tokio::test]
async fn case_06_a_side_call_is_repeated_with_the_same_key_and_the_effect_is_one() {
    let case = Case::new().await;
    let side = case.stage.path("side");
    let first = started(case.node("a", LONG)).await;
    case.order("one", &json!({ "side": side, "hold": case.hold("one") })).await;
    kill(&case.runs_reach(1).await[0]);
    case.runs_reach(2).await;
    first.kill();
    killed(first).await;
    let second = started(case.node("a", LONG)).await;
    case.runs_reach(3).await;
    assert_eq!(case.stands("one").await, stands("claimed", 3));
    case.let_go("one", 3);
    case.ends_well(1).await;
    let calls = runs(&side);
    assert_eq!(calls.iter().map(|call| call[1].as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    assert!(calls.iter().all(|call| call[0].len() == 64 && call[0] == calls[0][0]), "{calls:?}");
    stop(second).await;
}

#[tokio::test]
async fn case_07_a_worker_killed_before_its_commit_leaves_nothing_and_the_next_attempt_commits_once() {
    let case = Case::crashing("before-commit").await;
    let dispatcher = started(case.node("a", LONG)).await;
    case.spy().await;
    case.let_go("one", 1);
    case.order("one", &json!({ "hold": case.hold("one") })).await;
    case.runs_reach(2).await;
    assert_eq!(case.stands("one").await, stands("claimed", 2));
    assert_eq!((case.count("orders").await, case.count("outbox").await), (0, 0), "something of it is seen");
    case.let_go("one", 2);
    case.ends_well(1).await;
    assert_eq!(case.spied(1).await.len(), 1);
    assert_eq!(case.stands("one").await, stands("succeeded", 2));
    stop(dispatcher).await;
}

#[tokio::test]
async fn case_07_a_success_that_was_not_settled_has_emitted_nothing() {
    let case = Case::new().await;
    let first = started(case.doomed("a", LONG, "before-settle")).await;
    case.spy().await;
    case.order("one", &plain()).await;
    killed(first).await;
    assert_eq!(case.stands("one").await, stands("claimed", 1));
    assert_eq!(case.count("outbox").await, 0);
    let second = started(case.node("a", LONG)).await;
    case.reaches("one", "succeeded").await;
    assert_eq!((case.spied(1).await.len(), case.runs().len()), (1, 2));
    assert_eq!(case.stands("one").await, stands("succeeded", 2));
    case.queue_holds("place", 0).await;
    stop(second).await;
}

#[tokio::test]
async fn case_08_a_commit_whose_worker_died_before_it_told_is_not_repeated() {
    let case = Case::crashing("after-commit").await;
    let dispatcher = started(case.node("a", LONG)).await;
    case.spy().await;
    case.order("one", &json!({})).await;
    case.ends_well(1).await;
    assert_eq!((case.spied(1).await.len(), case.runs().len()), (1, 1));
    assert_eq!(case.stands("one").await, stands("succeeded", 1));
    let exit = stop(dispatcher).await;
    assert!(exit.text().contains("worker went away with work"), "no worker died:\n{}", exit.text());
}

#[tokio::test]
async fn case_08_what_was_settled_and_not_acked_is_answered_and_its_event_leaves_once() {
    let case = Case::new().await;
    // Once in a transaction of the handler's own, once settled by the dispatcher.
    let first = started(case.doomed("a", LONG, "after-settle")).await;
    case.spy().await;
    case.order("own", &json!({})).await;
    killed(first).await;
    assert_eq!((case.stands("own").await, case.count("orders").await), (stands("succeeded", 1), 1));
    // A second one is killed when it is about to send what the first has left.
    killed(case.doomed("a", LONG, "before-publish").spawn()).await;
    let third = started(case.node("a", LONG)).await;
    case.ends_well(1).await;
    stop(third).await;

    let fourth = started(case.doomed("a", LONG, "after-settle")).await;
    case.order("plain", &plain()).await;
    killed(fourth).await;
    assert_eq!(case.stands("plain").await, stands("succeeded", 1));
    let fifth = started(case.node("a", LONG)).await;
    case.queue_holds("place", 0).await;
    assert_eq!((case.spied(2).await.len(), case.runs().len()), (2, 2));
    assert_eq!(case.stands("plain").await, stands("succeeded", 1));
    stop(fifth).await;
}

#[tokio::test]
async fn case_09_an_event_that_is_published_twice_has_one_id_and_is_handled_once() {
    let case = Case::new().await;
    let first = started(case.doomed("a", LONG, "after-publish")).await;
    case.spy().await;
    case.order("one", &json!({})).await;
    killed(first).await;
    assert_eq!((case.count("outbox").await, case.spied(1).await.len()), (1, 1));
    let second = started(case.node("a", LONG)).await;
    let published = case.spied(2).await;
    assert_eq!((published.len(), &published[0]), (2, &published[1]), "{published:?}");
    case.ends_well(1).await;
    assert_eq!(case.runs().len(), 1);
    stop(second).await;
}

#[tokio::test]
async fn case_10_what_was_sent_and_not_acked_is_answered_and_not_sent_again() {
    let case = Case::new().await;
    // It holds the message, has not acked it, and another relay sends what it has put into the outbox.
    let first = started(case.doomed("a", LONG, "after-settle=stop")).await;
    case.spy().await;
    case.order("one", &json!({})).await;
    stopped(first.pid().unwrap()).await;
    assert_eq!((case.stands("one").await, case.count("outbox").await), (stands("succeeded", 1), 1));
    let second = started(case.node("b", LONG)).await;
    case.spied(1).await;
    case.queue_holds("place", 1).await;
    first.kill();
    killed(first).await;
    case.ends_well(1).await;
    assert_eq!((case.spied(1).await.len(), case.runs().len()), (1, 1));
    stop(second).await;
}

#[tokio::test]
async fn case_10_a_relay_killed_when_it_has_crossed_a_message_out_does_not_send_it_again() {
    let case = Case::new().await;
    let first = started(case.doomed("a", LONG, "after-finish")).await;
    case.spy().await;
    case.order("one", &json!({})).await;
    killed(first).await;
    assert_eq!(case.count("outbox").await, 0);
    let second = started(case.node("a", LONG)).await;
    case.ends_well(1).await;
    assert_eq!((case.spied(1).await.len(), case.runs().len()), (1, 1));
    stop(second).await;
}
