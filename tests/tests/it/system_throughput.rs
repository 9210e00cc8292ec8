//! Ten thousand plain events through one function that does nothing.

use std::time::{Duration, Instant};

use weft_tests::poll_every;

use crate::system_stage::{LIMIT, Stage, complaints, stop};

const EVENTS: &str = "10000";

#[tokio::test]
async fn ten_thousand_events_run_without_an_error_or_a_warning() {
    let stage = Stage::real().await.manifest(
        r#"
        [functions.noop]
        command = ["HANDLERS"]
        events = ["noop.event"]
        slots = 100
        "#,
    );
    let dispatcher = stage.start(&[]).await;
    let started = Instant::now();
    let published = stage.json(&["publish", "noop.event", "--count", EVENTS, "--json"]).await;
    assert_eq!(published["published"].to_string(), EVENTS);
    poll_every(Duration::from_millis(100), "all have succeeded", LIMIT * 2, || async {
        let states = stage.sql("select state, attempt, count(*) from invocation group by 1, 2 order by 1, 2").await;
        if states == format!("succeeded|1|{EVENTS}") { Ok(()) } else { Err(states) }
    })
    .await;
    let took = started.elapsed().as_secs_f64();
    println!("{EVENTS} events in {took:.1} s, publishing included: {:.0}/s", 10_000.0 / took);
    stage.queue_empty("noop").await;
    assert_eq!(stage.sql("select count(*) from outbox").await, "0");
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}
