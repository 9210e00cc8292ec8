//! A ledger whose answers do not come: every call ends, and when the way is free again so is every connection's place.

use std::time::Duration;

use weft_ledger::conformance::Subject;
use weft_ledger::{Error, Ledger as _, Postgres};
use weft_tests::{Flow, PrivatePostgres, Proxy, poll};

use crate::outage_stage::resident_kib;
use crate::system_stage::{Place, Stage, admin, started, stop};

/// Longer than the ledger's own limit on one batch.
const ENDS: Duration = Duration::from_secs(20);

/// A database on the shared server, and a proxy before that.
async fn behind_a_proxy() -> (Proxy, String) {
    let url = weft_tests::postgres().await;
    let proxy = Proxy::before(url::Url::parse(&url).unwrap().port().unwrap_or(5432)).await;
    let through = proxy.url(&url);
    (proxy, through)
}

#[tokio::test]
async fn connections_whose_answers_were_lost_do_not_keep_their_places() {
    let (proxy, url) = behind_a_proxy().await;
    let ledger = Postgres::connect(&url).await.unwrap();
    ledger.ping().await.unwrap();
    proxy.answers(Flow::Lose);
    // More than the pool has places, each given up by its caller.
    for _ in 0..6 {
        let given_up = tokio::time::timeout(Duration::from_millis(50), ledger.ping()).await;
        assert!(given_up.is_err(), "{given_up:?}");
    }
    // The connections live on, and what was lost never comes.
    proxy.heal();
    poll("the ledger is used again", ENDS, || async { ledger.ping().await.map_err(|error| error.to_string()) }).await;
}

#[tokio::test]
async fn a_call_that_is_never_answered_ends_as_unavailable() {
    let (proxy, url) = behind_a_proxy().await;
    let subject = Subject::open(&url).await;
    subject.ledger.ping().await.unwrap();
    proxy.pause();
    let (ping, due, totals) = tokio::join!(
        tokio::time::timeout(ENDS, subject.ledger.ping()),
        tokio::time::timeout(ENDS, subject.ledger.due(1)),
        tokio::time::timeout(ENDS, subject.ledger.next_due()),
    );
    let (ping, due, totals) =
        (ping.unwrap().unwrap_err(), due.unwrap().map(drop).unwrap_err(), totals.unwrap().unwrap_err());
    for error in [ping, due, totals] {
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
    proxy.heal();
    poll("the ledger is used again", ENDS, || async { subject.ledger.ping().await.map_err(|error| error.to_string()) })
        .await;
}

/// One event of the queue: large, so that a dispatcher that took them all would show it.
const BODY: usize = 64 * 1024;
const QUEUED: u32 = 500;
/// What a dispatcher may grow by while nothing can be claimed. It may hold 4 slots of one worker, twice over (received
/// and decoded), half a megabyte, and the broker's client its buffers of two; as much again for what the allocator keeps.
/// All that is queued would be 32 MiB.
const GROWTH_KIB: u64 = 8 * 1024;

#[tokio::test]
async fn while_the_ledger_is_away_the_queue_stays_at_the_broker_and_memory_stays_bounded() {
    let (proxy, ledger) = behind_a_proxy().await;
    let Place::Real { vhost, state, .. } = Stage::real().await.place else { unreachable!("it is real") };
    let stage = Stage::with(Place::Real { vhost, ledger, state }).manifest(
        "[functions.noop]\ncommand = [\"HANDLERS\"]\nevents = [\"noop.event\"]\nslots = 4\nidempotency = { key = \"/id\" }\n",
    );
    let mut dispatcher = started(stage.dispatcher(&["--lease", "3s", "--max-workers", "1"])).await;
    let address = admin(&mut dispatcher).await;
    stage.publish("noop.event", "first", &serde_json::json!({})).await;
    stage.invocations_in("noop", "succeeded", 1).await;
    let pid = dispatcher.pid().unwrap();
    let before = resident_kib(pid);
    let lines = dispatcher.lines().len();
    proxy.refuse();
    proxy.reset();
    crate::outage_stage::health_names(&address, &["ledger"]).await;
    let data = serde_json::json!({ "filling": "x".repeat(BODY) }).to_string();
    let args = ["publish", "noop.event", "--source", "/t", "--data", &data, "--count", &QUEUED.to_string(), "--json"];
    stage.done(&args).await;
    let queue = stage.queue("noop");
    poll("all but the prefetch waits at the broker", ENDS, || async {
        match stage.vhost().queue_depth(&queue).await {
            Some(depth) if depth.ready + depth.unacked == u64::from(QUEUED) && depth.unacked <= 4 => Ok(()),
            depth => Err(depth),
        }
    })
    .await;
    let grown = resident_kib(pid).saturating_sub(before);
    println!("{grown} KiB more for {QUEUED} events queued, {} lines", dispatcher.lines().len() - lines);
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    proxy.heal();
    poll("it goes on by itself", ENDS, || async {
        let done = stage.sql("select count(*) from weft.invocation where state = 'succeeded'").await;
        if done.parse::<u32>().is_ok_and(|done| done > 20) { Ok(()) } else { Err(done) }
    })
    .await;
    assert_eq!(stage.sql("select distinct attempt from weft.invocation").await, "1");
    let told = dispatcher.lines().len() - lines;
    assert!(told <= 14, "{told} lines:\n{:#?}", dispatcher.lines());
    stop(dispatcher).await;
}

#[tokio::test]
async fn a_ledger_that_is_paused_for_less_than_the_lease_costs_nothing_and_is_told() {
    let postgres = PrivatePostgres::start().await;
    let ledger = postgres.database().await;
    let Place::Real { vhost, state, .. } = Stage::real().await.place else { unreachable!("it is real") };
    let stage = Stage::with(Place::Real { vhost, ledger, state })
        .manifest("[functions.noop]\ncommand = [\"HANDLERS\"]\nevents = [\"noop.event\"]\n");
    let mut dispatcher = started(stage.dispatcher(&["--max-workers", "1"])).await;
    let address = admin(&mut dispatcher).await;
    postgres.pause();
    let told = crate::outage_stage::health_names(&address, &["ledger"]).await;
    postgres.resume();
    assert!(told.body["ledger"].as_str().is_some_and(|text| text.contains("no answer")), "{told:?}");
    stage.publish("noop.event", "first", &serde_json::json!({})).await;
    stage.invocations_in("noop", "succeeded", 1).await;
    crate::outage_stage::health_names(&address, &[]).await;
    let exit = stop(dispatcher).await;
    assert!(!exit.text().contains("lease lost"), "{}", exit.text());
}
