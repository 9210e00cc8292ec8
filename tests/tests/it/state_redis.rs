//! A function's state in a real Redis, used by real worker processes over the link.

use std::time::Duration;

use serde_json::{Value, json};
use weft_process::secret::Address;
use weft_schemas::frame::Start;
use weft_schemas::{Fence, Outcome};
use weft_tests::PrivateRedis;
use weft_worker::redis::{Client, cmd};
use weft_worker::{CheckError, check_state, peek_state};

use crate::worker_link::{Attempted, Driven, SOON, outage, paused, retry, start};

const FUNCTION: &str = "count-orders";

/// A place of the test's own on the shared Redis.
async fn place() -> Start {
    let space = weft_tests::redis().await;
    Start { state_url: space.url, prefix: space.prefix.trim_end_matches(':').to_owned(), ..start(FUNCTION) }
}

fn attempt(key: &str, fence: i64) -> Attempted<'_> {
    Attempted { handler: "state", key, fence: Fence(fence) }
}

/// Runs the steps as an attempt and gives their answers.
async fn answers(worker: &mut Driven, key: &str, fence: i64, steps: Value) -> Value {
    match worker.run(&attempt(key, fence), &steps).await {
        Outcome::Succeeded { result } => serde_json::from_slice(&result).unwrap(),
        other => panic!("{steps} came to {other:?}"),
    }
}

/// The value as one sees it from outside, without any right to run.
async fn peek(place: &Start, name: &str) -> Option<Value> {
    let address = Address::new(place.state_url.as_str());
    let value = peek_state(&address, &place.prefix, &place.function, name).await.unwrap();
    value.map(|json| serde_json::from_slice(&json).unwrap())
}

/// One command to the server itself.
async fn ask<T: weft_worker::redis::FromRedisValue>(url: &str, words: &[&str]) -> T {
    let mut connection = Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await.unwrap()
}

/// Milliseconds that a value has left: -1 for good, -2 none.
async fn left_ms(place: &Start, name: &str) -> i64 {
    let key = format!("{}:{{{FUNCTION}}}:value:{name}", place.prefix);
    ask(&place.state_url, &["PTTL", &key]).await
}

fn basket(owner: &str) -> Value {
    json!({ "owner": owner, "items": { "møller\u{0}": 4_294_967_295_u32, "tea": 2 }, "paid": null })
}

#[tokio::test]
async fn a_value_comes_back_with_its_type_in_another_process() {
    let place = place().await;
    let mut writer = Driven::start(place.clone()).await;
    answers(&mut writer, "a", 1, json!([{ "do": "put", "name": "b", "basket": basket("ada") }])).await;
    let mut reader = Driven::start(place.clone()).await;
    let read =
        answers(&mut reader, "b", 1, json!([{ "do": "read", "name": "b" }, { "do": "read", "name": "c" }])).await;
    assert_eq!(read, json!([basket("ada"), null]));
    // A value of another type is an error, not a default.
    let other = json!([{ "do": "increment", "name": "n", "by": 1 }, { "do": "read", "name": "n" }]);
    let outcome = reader.run(&attempt("b", 1), &other).await;
    assert_eq!(retry(&outcome).0, "StateNotReadable");
}

#[tokio::test]
async fn an_increment_once_counts_once_per_key_over_repeated_attempts_and_answers_the_first_sum() {
    let place = place().await;
    let count = |by: i64| json!([{ "do": "increment_once", "name": "n", "by": by }]);
    let mut first = Driven::start(place.clone()).await;
    // This attempt counts, and then fails.
    let fails = json!([{ "do": "increment_once", "name": "n", "by": 2 }, { "do": "fail" }]);
    assert_eq!(retry(&first.run(&attempt("a", 1), &fails).await).0, "Told");
    assert_eq!(peek(&place, "n").await, Some(json!(2)));
    assert_eq!(answers(&mut first, "b", 1, count(10)).await, json!([12]), "another key counts too");
    first.killed().await;
    // Its successor, in another process and with a higher fence, counts nothing and hears what was said before.
    let mut second = Driven::start(place.clone()).await;
    assert_eq!(answers(&mut second, "a", 2, count(2)).await, json!([2]));
    assert_eq!(answers(&mut second, "a", 7, count(2)).await, json!([2]));
    assert_eq!(peek(&place, "n").await, Some(json!(12)));
    // What is not told to count once counts each time.
    let plain = json!([{ "do": "increment", "name": "n", "by": 1 }]);
    assert_eq!(answers(&mut second, "a", 7, plain.clone()).await, json!([13]));
    assert_eq!(answers(&mut second, "a", 8, plain).await, json!([14]));
}

#[tokio::test]
async fn an_attempt_that_was_paused_is_superseded_and_its_write_does_not_land() {
    let place = place().await;
    let folder = weft_tests::folder("state");
    let (runs, go) = (folder.join("runs"), folder.join("go"));
    let mut old = Driven::start(place.clone()).await;
    let steps = json!([
        { "do": "put", "name": "b", "basket": basket("old") },
        { "do": "pause", "runs": runs, "file": go },
        { "do": "put", "name": "b", "basket": basket("late") },
    ]);
    let id = old.begin(&attempt("a", 9), &steps);
    paused(&runs).await;
    let mut new = Driven::start(place.clone()).await;
    // 10 is above 9 as a number, not as a text. A read alone is enough: what the new one has read must stay.
    let read = answers(&mut new, "a", 10, json!([{ "do": "read", "name": "b" }])).await;
    assert_eq!(read, json!([basket("old")]));
    std::fs::write(&go, "").unwrap();
    assert_eq!(old.outcome(id).await, Outcome::Superseded);
    assert_eq!(peek(&place, "b").await, Some(basket("old")));
    for step in [
        json!({ "do": "read", "name": "b" }),
        json!({ "do": "increment", "name": "n", "by": 1 }),
        json!({ "do": "increment_once", "name": "n", "by": 1 }),
        json!({ "do": "swap", "name": "n", "expected": null, "value": 1 }),
        json!({ "do": "expire", "name": "b", "ttl_ms": 1 }),
    ] {
        assert_eq!(old.run(&attempt("a", 9), &json!([step])).await, Outcome::Superseded, "{step}");
    }
    assert_eq!((peek(&place, "b").await, peek(&place, "n").await), (Some(basket("old")), None));
    // Another key's fence is no rival.
    answers(&mut old, "b", 1, json!([{ "do": "put", "name": "b", "basket": basket("b") }])).await;
}

#[tokio::test]
async fn of_two_processes_that_compare_and_set_exactly_one_wins() {
    let place = place().await;
    let (mut left, mut right) = tokio::join!(Driven::start(place.clone()), Driven::start(place.clone()));
    let race = |value: i64| -> Value {
        (0..100).map(|n| json!({ "do": "swap", "name": format!("v{n}"), "expected": null, "value": value })).collect()
    };
    let (left_won, right_won) = {
        let (ones, twos) = (race(1), race(2));
        tokio::join!(answers(&mut left, "a", 1, ones), answers(&mut right, "b", 1, twos))
    };
    for n in 0..100 {
        let winner = match (left_won[n].as_bool().unwrap(), right_won[n].as_bool().unwrap()) {
            (true, false) => 1,
            (false, true) => 2,
            both => panic!("v{n}: {both:?}"),
        };
        assert_eq!(peek(&place, &format!("v{n}")).await, Some(json!(winner)));
    }
    let steps = json!([
        { "do": "swap", "name": "w", "expected": 1, "value": 2 },
        { "do": "swap", "name": "w", "expected": null, "value": 1 },
        { "do": "swap", "name": "w", "expected": 3, "value": 4 },
        { "do": "swap", "name": "w", "expected": 1, "value": 2 },
    ]);
    assert_eq!(answers(&mut left, "a", 1, steps).await, json!([false, true, false, true]));
    assert_eq!(peek(&place, "w").await, Some(json!(2)));
}

#[tokio::test]
async fn a_value_lives_as_long_as_it_was_told() {
    let place = place().await;
    let mut worker = Driven::start(place.clone()).await;
    let steps = json!([
        { "do": "put_for", "name": "hour", "basket": basket("a"), "ttl_ms": 3_600_000 },
        { "do": "put_for", "name": "short", "basket": basket("a"), "ttl_ms": 50 },
        { "do": "put", "name": "later", "basket": basket("a") },
        { "do": "put", "name": "good", "basket": basket("a") },
        { "do": "expire", "name": "later", "ttl_ms": 50 },
        { "do": "expire", "name": "none", "ttl_ms": 50 },
        { "do": "put_for", "name": "lifted", "basket": basket("a"), "ttl_ms": 50 },
        { "do": "put", "name": "lifted", "basket": basket("b") },
        { "do": "increment", "name": "sum", "by": 1 },
        { "do": "expire", "name": "sum", "ttl_ms": 3_600_000 },
        { "do": "increment", "name": "sum", "by": 1 },
    ]);
    let said = answers(&mut worker, "a", 1, steps).await;
    assert_eq!((&said[4], &said[5], &said[10]), (&json!(true), &json!(false), &json!(2)));
    for name in ["short", "later"] {
        weft_tests::poll("the value ends", SOON, || async {
            match peek(&place, name).await {
                None => Ok(()),
                Some(value) => Err(value),
            }
        })
        .await;
    }
    let gone = answers(&mut worker, "a", 1, json!([{ "do": "read", "name": "short" }])).await;
    assert_eq!(gone, json!([null]));
    for hour in ["hour", "sum"] {
        let left = left_ms(&place, hour).await;
        assert!((3_000_000..=3_600_000).contains(&left), "{hour}: {left}");
    }
    assert_eq!((left_ms(&place, "good").await, left_ms(&place, "lifted").await), (-1, -1));
    assert_eq!(peek(&place, "lifted").await, Some(basket("b")));
}

#[tokio::test]
async fn two_functions_and_two_installations_share_no_values() {
    let place = place().await;
    let function = Start { function: "other-function".parse().unwrap(), ..place.clone() };
    let installation = Start { prefix: format!("{}-other", place.prefix), ..place.clone() };
    let mut mine = Driven::start(place.clone()).await;
    let steps = json!([
        { "do": "put", "name": "b", "basket": basket("mine") },
        { "do": "increment_once", "name": "n", "by": 1 },
    ]);
    answers(&mut mine, "a", 5, steps).await;
    for other in [function, installation] {
        let mut theirs = Driven::start(other.clone()).await;
        // A lower fence of the same key: neither it nor what was counted once is shared.
        let steps = json!([
            { "do": "read", "name": "b" },
            { "do": "increment_once", "name": "n", "by": 30 },
            { "do": "put", "name": "b", "basket": basket("theirs") },
        ]);
        assert_eq!(answers(&mut theirs, "a", 1, steps).await, json!([null, 30, null]));
        assert_eq!(peek(&other, "b").await, Some(basket("theirs")));
    }
    assert_eq!((peek(&place, "b").await, peek(&place, "n").await), (Some(basket("mine")), Some(json!(1))));
}

#[tokio::test]
async fn while_redis_is_down_attempts_run_into_an_outage_and_the_same_worker_goes_on_after() {
    let redis = PrivateRedis::start().await;
    let place = Start { state_url: redis.url(), ..start(FUNCTION) };
    let mut worker = Driven::start(place.clone()).await;
    let pid = worker.pid();
    let once = json!([{ "do": "increment_once", "name": "n", "by": 4 }]);
    assert_eq!(answers(&mut worker, "a", 1, once.clone()).await, json!([4]));
    for down in [PrivateRedis::kill, PrivateRedis::pause] {
        down(&redis);
        let outcome = worker.run(&attempt("a", 2), &once).await;
        assert_eq!(outage(&outcome).0, "StateUnreachable", "{outcome:?}");
        if redis.is_running() {
            redis.resume();
        } else {
            redis.start_again().await;
        }
        // What was counted before the fall is still known; the fence of the failed attempt is in nobody's way.
        assert_eq!(answers(&mut worker, "a", 3, once.clone()).await, json!([4]));
    }
    assert_eq!(peek(&place, "n").await, Some(json!(4)));
    assert_eq!(worker.pid(), pid, "the outage cost the worker");
}

#[tokio::test]
async fn a_check_refuses_a_wrong_password_and_so_does_an_attempt() {
    let redis = PrivateRedis::start().await;
    check_state(&redis.url()).await.unwrap();
    ask::<()>(&redis.url(), &["CONFIG", "SET", "requirepass", "s3cret"]).await;
    let with = |password: &str| format!("redis://:{password}@127.0.0.1:{}/", redis.port());
    check_state(&with("s3cret")).await.unwrap();
    let right = Start { state_url: with("s3cret"), ..start(FUNCTION) };
    let steps = json!([{ "do": "increment", "name": "n", "by": 1 }]);
    assert_eq!(answers(&mut Driven::start(right.clone()).await, "a", 1, steps.clone()).await, json!([1]));
    for url in [with("wr0ng"), redis.url()] {
        let refused = check_state(&url).await.unwrap_err();
        assert!(matches!(refused, CheckError::Refused { .. }), "{refused:?}");
        assert!(!weft_process::report::chain(&refused).contains("wr0ng"), "{refused:?}");
    }
    let mut worker = Driven::start(Start { state_url: with("wr0ng"), ..start(FUNCTION) }).await;
    let outcome = worker.run(&attempt("a", 2), &steps).await;
    let (kind, text) = outage(&outcome);
    assert!(kind == "StateRefused" && !text.contains("wr0ng"), "{outcome:?}");
    let mut worker = Driven::start(Start { state_url: redis.url(), ..start(FUNCTION) }).await;
    assert_eq!(outage(&worker.run(&attempt("a", 2), &steps).await).0, "StateRefused");
    assert_eq!(peek(&right, "n").await, Some(json!(1)));
}

#[tokio::test]
async fn a_check_says_unavailable_of_a_closed_port_and_of_a_server_that_hangs() {
    let redis = PrivateRedis::start().await;
    let url = format!("redis://:s3cret@127.0.0.1:{}/", redis.port());
    for down in [PrivateRedis::pause, PrivateRedis::kill] {
        down(&redis);
        let begun = std::time::Instant::now();
        let error = check_state(&url).await.unwrap_err();
        assert!(matches!(error, CheckError::Unavailable { .. }), "{error:?}");
        assert!(!weft_process::report::chain(&error).contains("s3cret"), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
