//! Requests and their answers.

use weft_ledger::OutboxMessage;

use super::*;
use crate::function::replies::{Post, Posting};

fn request(key: &str, to: &str, correlation: &str) -> Message {
    let mut message = message(key, "a");
    message.properties.reply_to = Some(to.to_owned());
    message.properties.correlation_id = Some(correlation.to_owned());
    message
}

fn postings(actions: &[Action]) -> Vec<Posting> {
    let posts = actions.iter().filter_map(|action| if let Action::Post(posts) = action { Some(posts) } else { None });
    posts.flatten().cloned().collect()
}

fn posted(actions: &[Action]) -> Vec<OutboxMessage> {
    let messages = postings(actions).into_iter().map(|posting| match posting.what {
        Post::Message(message) => *message,
        Post::OfDead { .. } => panic!("its letter has to be looked up"),
    });
    messages.collect()
}

/// Queue, correlation, status and body of an answer.
fn answer(message: &OutboxMessage) -> (String, Option<String>, String, Bytes) {
    let Message { exchange, routing_key, properties, body, .. } = &message.message;
    assert_eq!(exchange, "", "by the default exchange");
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(message.message.header("weft-function"), Some("f"));
    let status = message.message.header("weft-status").unwrap().to_owned();
    (routing_key.clone(), properties.correlation_id.clone(), status, body.clone())
}

fn replies(settles: &[Settle]) -> Vec<(String, Option<String>, String, Bytes)> {
    let Settlement::Succeeded { outbox, .. } = &settles[0].to else { panic!("{settles:?}") };
    outbox.iter().map(answer).collect()
}

fn expected(to: &str, correlation: &str, body: &'static str) -> (String, Option<String>, String, Bytes) {
    (to.to_owned(), Some(correlation.to_owned()), "succeeded".to_owned(), Bytes::from_static(body.as_bytes()))
}

impl Bench {
    fn runs(&mut self, messages: Vec<Message>) -> (WorkerId, Invoke) {
        let asked = claimed(&self.deliver(messages));
        let worker = launched(&self.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]))[0];
        (worker, invoked(&self.ready(worker))[0].1.clone())
    }

    fn post_done(&mut self, actions: &[Action]) -> Vec<Action> {
        self.handle(Input::Posted { postings: postings(actions), result: Ok(()) })
    }
}

#[test]
fn a_success_answers_everybody_who_waits_in_the_very_settle() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.runs(vec![request("k", "q1", "c1")]);
    bench.deliver(vec![request("k", "q2", "c2"), message("k", "a")]);
    let settles = settles(&bench.outcome(worker, &invoke, succeeded()));
    assert_eq!(replies(&settles), [expected("q1", "c1", "1"), expected("q2", "c2", "1")]);
    assert_eq!(acked(&bench.settled(&settles, Settled::Done)), [1, 2, 3]);
}

#[test]
fn a_request_that_joins_while_its_success_is_written_is_answered_before_its_ack() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.runs(vec![request("k", "q1", "c1")]);
    let settles = settles(&bench.outcome(worker, &invoke, succeeded()));
    bench.deliver(vec![request("k", "q2", "c2")]);
    let actions = bench.settled(&settles, Settled::Done);
    assert_eq!(acked(&actions), [1], "the settle did not answer the second");
    let asked = claimed(&actions);
    let replay = Verdict::Replay { result: Bytes::from_static(b"1"), epoch: Epoch(0) };
    let actions = bench.verdicts(&asked, vec![replay]);
    assert_eq!(posted(&actions).iter().map(answer).collect::<Vec<_>>(), [expected("q2", "c2", "1")]);
    assert!(acked(&actions).is_empty(), "not before its answer is in the outbox");
    assert_eq!(acked(&bench.post_done(&actions)), [2]);
}

#[test]
fn a_duplicate_request_gets_the_stored_bytes_and_is_acked_after() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![request("k", "q", "c"), message("k", "a")]));
    let stored = Bytes::from_static(b"{ \"as\":\"stored\" }");
    let actions = bench.verdicts(&asked, vec![Verdict::Replay { result: stored.clone(), epoch: Epoch(0) }]);
    assert_eq!(posted(&actions)[0].message.body, stored);
    assert_eq!(acked(&actions), [2], "who asked for no answer does not wait");
    assert_eq!(acked(&bench.post_done(&actions)), [1]);
}

#[test]
fn an_answer_that_cannot_be_posted_is_kept_and_its_request_unacked() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![request("k", "q", "c")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) }]);
    let failed = bench.handle(Input::Posted { postings: postings(&actions), result: Err(unreachable()) });
    assert!(acked(&failed).is_empty() && postings(&failed).is_empty(), "{failed:?}");
    let again = bench.later(Duration::from_secs(1));
    assert_eq!(postings(&again).len(), 1);
    assert_eq!(acked(&bench.post_done(&again)), [1]);
}

#[test]
fn a_commit_of_the_handlers_own_is_answered_too() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.runs(vec![request("k", "q", "c")]);
    let actions = bench.outcome(worker, &invoke, Outcome::Committed { result: Bytes::from_static(b"7") });
    assert_eq!(posted(&actions).iter().map(answer).collect::<Vec<_>>(), [expected("q", "c", "7")]);
    assert!(acked(&actions).is_empty(), "a crash before the post brings it back, and the replay answers");
    assert_eq!(acked(&bench.post_done(&actions)), [1]);
}

#[test]
fn a_death_is_answered_with_its_reason_and_error() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.runs(vec![request("k", "q", "c")]);
    let error = ErrorInfo::new("NoStock", "none left");
    let settles = settles(&bench.outcome(worker, &invoke, Outcome::Failed { error }));
    let actions = bench.settled(&settles, Settled::Done);
    let message = &posted(&actions)[0];
    let (to, correlation, status, body) = answer(message);
    assert_eq!((to.as_str(), correlation.as_deref(), status.as_str()), ("q", Some("c"), "dead"));
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let error = serde_json::json!({ "kind": "NoStock", "message": "none left" });
    assert_eq!(body, serde_json::json!({ "reason": "terminal", "code": "W0907", "error": error }));
    assert_eq!(message.message.header("weft-reason"), Some("terminal"));
    assert!(acked(&actions).is_empty());
    assert_eq!(acked(&bench.post_done(&actions)), [1]);
}

#[test]
fn a_refused_request_and_one_for_a_dead_key_are_answered() {
    let mut bench = bench(1, 1);
    let mut refused = request("k", "q", "c");
    refused.body = Bytes::from_static(b"no json");
    let actions = bench.deliver(vec![refused]);
    let Some(Action::Bury(burials)) = actions.iter().find(|action| matches!(action, Action::Bury(_))) else {
        panic!("{actions:?}")
    };
    let actions = bench.handle(Input::Buried { burials: burials.clone(), known: Vec::new(), result: Ok(()) });
    assert_eq!(posted(&actions)[0].message.header("weft-code"), Some("W0901"));
    assert_eq!(acked(&bench.post_done(&actions)), [1]);

    let asked = claimed(&bench.deliver(vec![request("dead", "q", "c")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Dead]);
    assert!(matches!(&postings(&actions)[0].what, Post::OfDead { key, .. } if key.as_str() == "dead"));
    assert!(acked(&actions).is_empty());
    assert_eq!(acked(&bench.post_done(&actions)), [2]);
}

#[test]
fn a_retry_carries_the_first_request_and_the_others_come_back_after_it() {
    let mut bench = bench(1, 1);
    let (worker, invoke) = bench.runs(vec![request("k", "q1", "c1")]);
    bench.deliver(vec![request("k", "q2", "c2"), message("k", "a")]);
    let outcome = Outcome::Retry { error: ErrorInfo::new("E", "m"), after_ms: None };
    let settles = settles(&bench.outcome(worker, &invoke, outcome));
    let Settlement::Waiting { retry, .. } = &settles[0].to else { panic!("{settles:?}") };
    let carried = &retry.message.properties;
    assert_eq!((carried.reply_to.as_deref(), carried.correlation_id.as_deref()), (Some("q1"), Some("c1")));
    let actions = bench.settled(&settles, Settled::Done);
    assert_eq!(acked(&actions), [1, 3]);
    let put_off = posted(&actions).remove(0);
    assert_eq!(put_off.message.routing_key, "weft.fn.f");
    assert_eq!(put_off.message.properties.reply_to.as_deref(), Some("q2"));
    assert_eq!(requeue::resume_fence(&put_off.message), None, "it is no retry");
    assert!(put_off.due_in > retry.due_in);
    assert_eq!(acked(&bench.post_done(&actions)), [2]);

    // Should it come before the retry is over, it is put off again.
    let asked = claimed(&bench.deliver(vec![put_off.message]));
    let actions = bench.verdicts(&asked, vec![Verdict::Deferred { due_in: Duration::from_secs(60) }]);
    assert!(posted(&actions)[0].due_in > Duration::from_secs(60));
    assert!(acked(&actions).is_empty());
}

#[test]
fn a_reply_to_a_queue_of_wefts_own_is_no_request() {
    for to in ["weft.fn.f", "weft.dlq.f", "weft.crashed", "weft.unrouted", ""] {
        let mut bench = bench(1, 1);
        let (worker, invoke) = bench.runs(vec![request("k", to, "c")]);
        let settles = settles(&bench.outcome(worker, &invoke, succeeded()));
        assert!(replies(&settles).is_empty(), "{to:?}");
    }
}

#[test]
fn a_drain_waits_for_answers_to_be_posted() {
    let mut bench = bench(1, 1);
    let asked = claimed(&bench.deliver(vec![request("k", "q", "c")]));
    let replay = bench.verdicts(&asked, vec![Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) }]);
    bench.handle(Input::Drain);
    let actions = bench.handle(Input::DeliveriesEnded);
    assert!(!actions.iter().any(|action| matches!(action, Action::Stopped)), "{actions:?}");
    let actions = bench.post_done(&replay);
    assert_eq!(acked(&actions), [1]);
    assert!(actions.iter().any(|action| matches!(action, Action::Stopped)));
}
