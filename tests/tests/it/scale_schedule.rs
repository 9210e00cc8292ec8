//! Concurrency that is provisioned by the clock.

use std::time::Duration;

use jiff::{Timestamp, Unit, tz::TimeZone};
use serde_json::{Value, json};
use weft_tests::poll_every;

use crate::system_stage::{LIMIT, Stage, admin, children, complaints, get, stop};

#[tokio::test]
async fn a_window_keeps_workers_warm_while_it_is_open_and_lets_them_go_when_it_closes() {
    // The window of the minute that it is in five seconds, so that it is open for a while.
    let opens = (Timestamp::now() + Duration::from_secs(5)).to_zoned(TimeZone::UTC);
    let manifest = format!(
        "[functions.f]\ncommand = ['HANDLERS']\nhandler = 'noop'\nevents = ['f.event']\nslots = 1\nkeep_alive = '0s'\n\
         concurrency = {{ schedule = [{{ cron = '{} {} * * *', for = '1m', provisioned = 2 }}] }}",
        opens.minute(),
        opens.hour()
    );
    let closes = opens.round(jiff::ZonedRound::new().smallest(Unit::Minute).mode(jiff::RoundMode::Floor)).unwrap();
    let closes = closes.timestamp() + Duration::from_secs(60);
    let stage = Stage::embedded().manifest(&manifest);
    let mut dispatcher = stage.start(&[]).await;
    let address = admin(&mut dispatcher).await;
    let pid = dispatcher.pid().unwrap();
    let status = async || get(&address, "/status").await.json::<Value>().await.unwrap();

    poll_every(Duration::from_millis(50), "two workers are warm", LIMIT, || async {
        let seen = status().await;
        let function = &seen["functions"]["f"];
        if function["workers"] == 2 && function["scale"] == "provisioned" { Ok(()) } else { Err(seen) }
    })
    .await;
    assert!(Timestamp::now() < closes);
    stage.publish("f.event", "one", &Value::Null).await;
    stage.invocations_in("f", "succeeded", 1).await;
    assert_eq!(status().await["functions"]["f"]["cold_starts"], json!(0), "a worker was there");

    poll_every(
        Duration::from_millis(100),
        "the window closes and no worker is left",
        Duration::from_secs(100),
        || async {
            let left = children(pid);
            if left.is_empty() { Ok(()) } else { Err(left) }
        },
    )
    .await;
    assert!(Timestamp::now() >= closes, "they went before it closed");
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}
