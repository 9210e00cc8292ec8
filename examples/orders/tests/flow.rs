//! The committed orders through the real program and a real ledger, one invocation at a time, and what the judge says of it.
//!
//! The dispatcher here is a stand-in of a page: no queue, no concurrency, no timing. What it leaves must be what the model
//! says; then faults are planted, which the judge must find.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod stand_in;

use stand_in::{Folder, StandIn};
use weft_example_orders::judge::{Verdict, compare, observe};
use weft_example_orders::model::Expected;
use weft_example_orders::{dataset, prepare};
use weft_ledger::join::Joiner;

async fn judge(url: &str) -> Verdict {
    let ledger = weft_ledger::open(url).await.unwrap();
    let observed = observe(url, url, ledger.as_ref(), "weft").await.unwrap();
    compare(&Expected::committed().unwrap(), &observed, dataset::accounts())
}

#[tokio::test]
async fn the_orders_lead_to_the_expected_end_and_planted_faults_are_found() {
    let folder = Folder::new("flow");
    let url = folder.url();
    prepare(&url).await.unwrap();
    prepare(&url).await.expect("preparing twice changes nothing");

    let mut weft = StandIn::start(&url, &url).await;
    for entry in dataset::committed().unwrap() {
        weft.publish(entry.to_message("weft.events"));
    }
    weft.run().await;
    let verdict = judge(&url).await;
    assert!(verdict.passes(), "{verdict:#?}");
    assert_eq!(weft.replays, 2 * Expected::committed().unwrap().duplicates, "both functions answer every repeat");
    // Twelve payments fail twice, and the poison order kills its worker three times, twice with another try to come.
    assert_eq!((weft.retries, weft.crashes), (12 * 2, 3));

    let joiner = Joiner::connect(&url).unwrap();
    joiner.execute("INSERT INTO payments (order_id, customer_id, currency, amount_minor, provider) SELECT order_id, customer_id, currency, amount_minor, provider FROM payments WHERE id = 1", &[]).await.unwrap();
    let verdict = judge(&url).await;
    // The payment itself, and an account that was charged less than its payments say.
    assert_eq!((verdict.double_effects, verdict.lost), (1, 1), "{verdict:#?}");

    joiner.execute("DELETE FROM payments WHERE id = (SELECT max(id) FROM payments)", &[]).await.unwrap();
    assert!(judge(&url).await.passes());
    joiner.execute("DELETE FROM notifications WHERE id = 1", &[]).await.unwrap();
    joiner.execute("DELETE FROM dead_letter WHERE reason = 'schema' AND function = 'create-order'", &[]).await.unwrap();
    let verdict = judge(&url).await;
    assert_eq!((verdict.double_effects, verdict.lost), (0, 1 + 8), "{verdict:#?}");
    joiner.close().await;
}
