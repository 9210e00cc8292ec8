//! One suite for every backend of the state.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use weft_schemas::frame::Start;
use weft_schemas::{Fence, FunctionName, Key};

use super::redis_server::RedisServer;
use super::{PATIENCE, invoke, start_frame};
use crate::context::Context;
use crate::services::Services;
use crate::{CheckError, Failure, State, check_state};

/// The state as an attempt of `key` with `fence` sees it, in a process of its own.
async fn attempt(start: &Start, key: &str, fence: i64) -> (Context, State) {
    let mut frame = invoke("any", &());
    (frame.key, frame.fence) = (Key::new(key).unwrap(), Fence(fence));
    let ctx = Context::new(Arc::new(Services::new(start.clone())), frame, Instant::now());
    let state = ctx.state().await.unwrap();
    (ctx, state)
}

async fn values_are_read_back_until_they_are_deleted(start: Start) {
    let (_, state) = attempt(&start, "a", 1).await;
    assert_eq!(state.get::<u8>("none").await.unwrap(), None);
    let value = json!({"text": "ø\u{0}", "list": [1, null]});
    state.set("v", &value).await.unwrap();
    assert_eq!(attempt(&start, "b", 1).await.1.get("v").await.unwrap(), Some(value));
    assert_eq!(state.get::<u8>("v").await.unwrap_err().kind(), "StateNotReadable");
    assert!(state.delete("v").await.unwrap());
    assert!(!state.delete("v").await.unwrap());
    assert_eq!(state.get::<u8>("v").await.unwrap(), None);
}

async fn increments_add_and_stay_exact(start: Start) {
    let (_, state) = attempt(&start, "a", 1).await;
    assert_eq!(state.increment("n", 5).await.unwrap(), 5);
    assert_eq!(state.increment("n", -7).await.unwrap(), -2);
    assert_eq!(state.get::<i64>("n").await.unwrap(), Some(-2));
    state.set("n", &(i64::MAX - 1)).await.unwrap();
    assert_eq!(state.increment("n", 1).await.unwrap(), i64::MAX);
    let overflow = state.increment("n", 1).await.unwrap_err();
    assert!(!overflow.is_terminal() && !overflow.is_superseded());
    assert_eq!(state.get::<i64>("n").await.unwrap(), Some(i64::MAX));
    state.set("text", "seven").await.unwrap();
    state.increment("text", 1).await.unwrap_err();
    assert_eq!(state.get::<String>("text").await.unwrap().as_deref(), Some("seven"));
}

async fn concurrent_increments_lose_none(start: Start) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (_, state) = attempt(&start, &format!("k{}", n % 5), 1).await;
        tasks.spawn(async move { state.increment("n", 1).await.unwrap() });
    }
    let mut sums = tasks.join_all().await;
    sums.sort_unstable();
    assert_eq!(sums, (1..=50).collect::<Vec<_>>());
}

async fn once_increments_once_per_key_and_repeats_the_first_sum(start: Start) {
    let (_, first) = attempt(&start, "a", 1).await;
    assert_eq!(first.once().increment("n", 2).await.unwrap(), 2);
    assert_eq!(first.once().increment("n", 2).await.unwrap(), 2);
    assert_eq!(attempt(&start, "b", 1).await.1.once().increment("n", 10).await.unwrap(), 12);
    let (_, again) = attempt(&start, "a", 2).await;
    assert_eq!(again.once().increment("n", 2).await.unwrap(), 2);
    assert_eq!(again.get::<i64>("n").await.unwrap(), Some(12));
    assert_eq!(again.once().increment("other", 1).await.unwrap(), 1);
}

async fn once_sets_once_and_leaves_what_others_set_since(start: Start) {
    let (_, first) = attempt(&start, "a", 1).await;
    first.once().set("v", "first").await.unwrap();
    attempt(&start, "b", 1).await.1.set("v", "second").await.unwrap();
    let (_, again) = attempt(&start, "a", 2).await;
    again.once().set("v", "first").await.unwrap();
    assert_eq!(again.get::<String>("v").await.unwrap().as_deref(), Some("second"));
}

async fn a_stale_fence_is_refused_everything_and_cancels_the_attempt(start: Start) {
    let (ctx, old) = attempt(&start, "a", 9).await;
    old.set("v", &1).await.unwrap();
    let (_, new) = attempt(&start, "a", 10).await;
    // Reading is enough: what the successor has read, its predecessor must not change any more.
    assert_eq!(new.get::<i64>("v").await.unwrap(), Some(1));
    let refused = |failure: Failure| assert!(failure.is_superseded(), "{failure:?}");
    refused(old.set("v", &2).await.unwrap_err());
    refused(old.set_for("v", &2, Duration::from_secs(1)).await.unwrap_err());
    refused(old.get::<i64>("v").await.unwrap_err());
    refused(old.increment("v", 1).await.unwrap_err());
    refused(old.delete("v").await.unwrap_err());
    refused(old.expire("v", Duration::from_secs(1)).await.unwrap_err());
    refused(old.compare_and_set("v", Some(&1), &2).await.unwrap_err());
    refused(old.once().increment("v", 1).await.unwrap_err());
    refused(old.once().set("v", &2).await.unwrap_err());
    assert!(ctx.is_cancelled());
    assert_eq!(new.get::<i64>("v").await.unwrap(), Some(1));
}

async fn fences_of_different_keys_are_strangers(start: Start) {
    attempt(&start, "a", 100).await.1.set("v", &1).await.unwrap();
    attempt(&start, "b", 1).await.1.set("v", &2).await.unwrap();
    assert_eq!(attempt(&start, "a", 100).await.1.get::<i64>("v").await.unwrap(), Some(2));
}

async fn compare_and_set_needs_the_expected_value(start: Start) {
    let (_, state) = attempt(&start, "a", 1).await;
    assert!(!state.compare_and_set("v", Some(&1), &2).await.unwrap());
    assert!(state.compare_and_set("v", None, &1).await.unwrap());
    assert!(!state.compare_and_set("v", None, &5).await.unwrap());
    assert!(!state.compare_and_set("v", Some(&7), &5).await.unwrap());
    assert!(state.compare_and_set("v", Some(&1), &2).await.unwrap());
    assert_eq!(state.get::<i64>("v").await.unwrap(), Some(2));
}

async fn a_time_to_live_ends_a_value_and_a_set_lifts_it(start: Start) {
    let (_, state) = attempt(&start, "a", 1).await;
    state.set_for("short", &1, Duration::from_millis(60)).await.unwrap();
    state.set_for("kept", &1, Duration::from_millis(60)).await.unwrap();
    state.set("kept", &2).await.unwrap();
    state.set("later", &1).await.unwrap();
    assert!(state.expire("later", Duration::from_millis(60)).await.unwrap());
    assert!(!state.expire("none", Duration::from_secs(1)).await.unwrap());
    let gone = async {
        while state.get::<i64>("short").await.unwrap().is_some() || state.get::<i64>("later").await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the values stay");
    assert_eq!(state.get::<i64>("kept").await.unwrap(), Some(2));
    assert!(state.compare_and_set("short", None, &3).await.unwrap());
    assert_eq!(state.increment("later", 1).await.unwrap(), 1);
}

async fn functions_do_not_see_each_other(start: Start) {
    let other = Start { function: FunctionName::new("charge-payment").unwrap(), ..start.clone() };
    let ((_, mine), (_, theirs)) = (attempt(&start, "a", 5).await, attempt(&other, "a", 1).await);
    mine.set("v", &1).await.unwrap();
    assert_eq!(theirs.get::<i64>("v").await.unwrap(), None);
    theirs.once().increment("v", 9).await.unwrap();
    assert_eq!(mine.get::<i64>("v").await.unwrap(), Some(1));
}

async fn a_value_can_be_looked_at_from_outside(start: Start) {
    attempt(&start, "a", 1).await.1.increment("n", 3).await.unwrap();
    let address = weft_process::secret::Address::new(start.state_url.as_str());
    let look = async |name| crate::peek_state(&address, &start.prefix, &start.function, name).await.unwrap();
    assert_eq!(look("n").await.as_deref(), Some(&b"3"[..]));
    assert_eq!(look("none").await, None);
}

async fn names_that_cannot_be_kept_are_refused(start: Start) {
    let (_, state) = attempt(&start, "a", 1).await;
    for name in [String::new(), "x".repeat(513)] {
        assert_eq!(state.get::<u8>(&name).await.unwrap_err().kind(), "InvalidStateName");
    }
    state.set(&"x".repeat(512), &1).await.unwrap();
}

macro_rules! suite {
    ($($claim:ident,)+) => {
        mod on_redis {
            use super::*;
            $(#[tokio::test]
            async fn $claim() {
                let server = RedisServer::start().await;
                super::$claim(Start { state_url: server.url(), ..start_frame() }).await;
            })+
        }

        mod on_sqlite {
            use super::*;
            $(#[tokio::test]
            async fn $claim() {
                let folder = tempfile::tempdir().unwrap();
                let state_url = format!("sqlite://{}", folder.path().join("weft.db").display());
                super::$claim(Start { state_url, ..start_frame() }).await;
            })+
        }
    };
}

suite! {
    values_are_read_back_until_they_are_deleted,
    increments_add_and_stay_exact,
    concurrent_increments_lose_none,
    once_increments_once_per_key_and_repeats_the_first_sum,
    once_sets_once_and_leaves_what_others_set_since,
    a_stale_fence_is_refused_everything_and_cancels_the_attempt,
    fences_of_different_keys_are_strangers,
    compare_and_set_needs_the_expected_value,
    a_time_to_live_ends_a_value_and_a_set_lifts_it,
    functions_do_not_see_each_other,
    a_value_can_be_looked_at_from_outside,
    names_that_cannot_be_kept_are_refused,
}

#[tokio::test]
async fn a_restart_of_redis_is_bridged_for_what_may_be_repeated() {
    let mut server = RedisServer::start().await;
    let (_, state) = attempt(&Start { state_url: server.url(), ..start_frame() }, "a", 1).await;
    state.set("v", &1).await.unwrap();
    server.restart().await;
    state.set("v", &2).await.unwrap();
    assert_eq!(state.get::<i64>("v").await.unwrap(), Some(2));
}

#[tokio::test]
async fn an_absent_redis_is_an_outage_told_without_the_password() {
    let mut server = RedisServer::start().await;
    let url = server.url();
    server.stop().await;
    let (_, state) = attempt(&Start { state_url: url, ..start_frame() }, "a", 1).await;
    let began = Instant::now();
    let failure = state.set("v", &1).await.unwrap_err();
    assert_eq!(failure.kind(), "StateUnreachable");
    assert!(failure.is_outage() && !failure.is_terminal());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let start = Start { state_url: "redis://user:s3cret@127.0.0.1:1".to_owned(), ..start_frame() };
    let failure = attempt(&start, "a", 1).await.1.set("v", &1).await.unwrap_err();
    assert!(!failure.message().contains("s3cret"), "{}", failure.message());
}

#[tokio::test]
async fn a_check_tells_an_absent_from_a_refusing_from_an_unknown_state() {
    let mut server = RedisServer::start().await;
    check_state(&server.url()).await.unwrap();
    server.require_password("s3cret").await;
    assert!(matches!(check_state(&server.url()).await, Err(CheckError::Refused { .. })));
    check_state(&format!("{}?pass=s3cret", server.url())).await.unwrap();
    let wrong = check_state(&format!("{}?pass=wr0ng", server.url())).await.unwrap_err();
    assert!(matches!(wrong, CheckError::Refused { .. }), "{wrong:?}");
    let state_url = format!("{}?pass=wr0ng", server.url());
    let (_, state) = attempt(&Start { state_url, ..start_frame() }, "a", 1).await;
    let refused = state.set("v", &1).await.unwrap_err();
    assert_eq!(refused.kind(), "StateRefused", "{}", refused.message());
    assert!(refused.is_outage());
    server.stop().await;
    assert!(matches!(check_state(&server.url()).await, Err(CheckError::Unavailable { .. })));
    for unknown in ["memcached://s3cret@host", "s3cret", "redis://:s3cret@host:port"] {
        let error = check_state(unknown).await.unwrap_err();
        assert!(matches!(error, CheckError::Address { .. }), "{unknown}: {error:?}");
        assert!(!weft_process::report::chain(&error).contains("s3cret"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    check_state(&format!("sqlite://{}", folder.path().join("new.db").display())).await.unwrap();
    let nowhere = check_state(&format!("sqlite://{}/no/such/folder.db", folder.path().display())).await;
    assert!(matches!(nowhere, Err(CheckError::Unavailable { .. })), "{nowhere:?}");
}

/// Such a server finds a longer command malformed before it asks who sends it.
#[tokio::test]
async fn without_any_password_long_and_short_commands_are_refused_alike() {
    let server = RedisServer::start().await;
    server.require_password("s3cret").await;
    let (_, state) = attempt(&Start { state_url: server.url(), ..start_frame() }, "a", 1).await;
    for _ in 0..3 {
        let long = state.set("v", &"x".repeat(100)).await.unwrap_err();
        let short = state.get::<i64>("v").await.unwrap_err();
        assert_eq!((long.kind(), short.kind()), ("StateRefused", "StateRefused"), "{long:?} {short:?}");
    }
    let huge = state.set("v", &"x".repeat(100_000)).await.unwrap_err();
    assert_eq!(huge.kind(), "StateRefused", "{huge:?}");
}

#[tokio::test]
async fn a_redis_that_cannot_work_for_now_is_an_outage_and_a_value_of_another_kind_is_not() {
    let server = RedisServer::start().await;
    let (_, state) = attempt(&Start { state_url: server.url(), ..start_frame() }, "a", 1).await;
    state.set("text", "no number").await.unwrap();
    let failure = state.increment("text", 1).await.unwrap_err();
    assert!(failure.kind() == "State" && !failure.is_outage(), "{failure:?}");
    let mut raw = state.raw().unwrap();
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec_async(&mut raw).await.unwrap();
    let failure = state.set("v", &1).await.unwrap_err();
    assert!(failure.kind() == "StateUnable" && failure.is_outage(), "{failure:?}");
}

#[tokio::test]
async fn the_raw_connection_is_the_same_server() {
    let server = RedisServer::start().await;
    let (_, state) = attempt(&Start { state_url: server.url(), ..start_frame() }, "a", 1).await;
    let mut raw = state.raw().unwrap();
    let answer: String = redis::cmd("PING").query_async(&mut raw).await.unwrap();
    assert_eq!(answer, "PONG");
}

#[tokio::test]
async fn every_key_carries_the_prefix_and_the_functions_hash_tag() {
    let server = RedisServer::start().await;
    let (_, state) = attempt(&Start { state_url: server.url(), ..start_frame() }, "a", 1).await;
    state.once().increment("n", 1).await.unwrap();
    let mut raw = state.raw().unwrap();
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut raw).await.unwrap();
    keys.sort_unstable();
    assert_eq!(keys.len(), 3, "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("weft:{create-order}:")), "{keys:?}");
    assert_eq!(keys[2], "weft:{create-order}:value:n");
    for key in &keys[..2] {
        let ttl: i64 = redis::cmd("PTTL").arg(key).query_async(&mut raw).await.unwrap();
        assert!(ttl > 0, "{key} lives for ever");
    }
}
