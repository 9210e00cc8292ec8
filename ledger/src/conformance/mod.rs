//! The suite that every ledger must pass, so that the embedded default can never be kinder than Postgres.
//!
//! Each claim is a function of a fresh [`Subject`]; [`conformance_tests!`](crate::conformance_tests) makes a test of each. For tests only: it
//! panics where a claim does not hold.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

pub mod audits;
pub mod cases;
pub mod claims;
pub mod dead;
pub mod history;
pub mod joins;
pub mod letters;
pub mod model;
pub mod nodes;
pub mod outbox;
pub mod permits;
pub mod settles;
pub mod tables;
pub mod usage;
pub mod walk;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use weft_schemas::{
    Attempt, DeadLetter, DeadLetterId, Digest, ErrorInfo, Fence, FunctionName, Key, Message, NodeName, Reason,
};

use crate::{
    Claim, ClaimRequest, Error, InvocationQuery, InvocationRecord, Joiner, Ledger, NodeSession, OutboxKind,
    OutboxMessage, Postgres, Settle, Settled, Settlement, Sqlite, Verdict,
};

/// A ledger whose clock a test can move.
#[async_trait]
pub trait Testable: Ledger {
    /// Makes `by` pass for everything stored: leases, due times, expiry.
    async fn advance(&self, by: Duration) -> Result<(), Error>;
    /// How the database would look for what was closed since now, in its own words.
    async fn plan_of_closed_since(&self) -> Result<String, Error>;
}

/// An empty, migrated ledger.
pub struct Subject {
    pub ledger: Arc<dyn Testable>,
    pub url: String,
}

pub const HOUR: Duration = Duration::from_secs(3600);
pub const LEASE: Duration = Duration::from_secs(30);

impl Subject {
    /// Opens and migrates the empty database at `url`.
    pub async fn open(url: &str) -> Self {
        let ledger: Arc<dyn Testable> = if url.starts_with("sqlite:") {
            Arc::new(Sqlite::open(&crate::sqlite::path_of(url).unwrap()).await.unwrap())
        } else {
            Arc::new(Postgres::connect(url).await.unwrap())
        };
        ledger.migrate().await.unwrap();
        Self { ledger, url: url.to_owned() }
    }

    pub fn joiner(&self) -> Joiner {
        Joiner::connect(&self.url).unwrap()
    }

    pub async fn enter(&self, node: &str) -> Box<dyn NodeSession> {
        self.ledger.enter(&NodeName::new(node).unwrap(), LEASE).await.unwrap()
    }

    pub async fn claim_all(&self, session: &dyn NodeSession, requests: &[ClaimRequest]) -> Vec<Verdict> {
        self.ledger.claim(session.owner(), &function(), requests).await.unwrap()
    }

    /// Claims one key with the payload `data`.
    pub async fn claim(&self, session: &dyn NodeSession, key: &str, data: &str) -> Verdict {
        self.claim_all(session, &[request(key, data)]).await.remove(0)
    }

    /// Claims one key that must be granted.
    pub async fn run(&self, session: &dyn NodeSession, key: &str, data: &str) -> Claim {
        granted(self.claim(session, key, data).await)
    }

    pub async fn settle(&self, key: &str, fence: Fence, to: Settlement) -> Settled {
        let settles = [Settle { key: Key::new(key).unwrap(), fence, to }];
        self.ledger.settle(&function(), &settles).await.unwrap().remove(0)
    }

    pub async fn record(&self, key: &str) -> Option<InvocationRecord> {
        let query = InvocationQuery {
            function: Some(function()),
            key: Some(Key::new(key).unwrap()),
            ..InvocationQuery::default()
        };
        self.ledger.invocations(&query).await.unwrap().pop()
    }

    /// Publishes nothing, but takes everything that is due out of the outbox: (kind, body).
    pub async fn drain(&self) -> Vec<(OutboxKind, String)> {
        let batch = self.ledger.due(1000).await.unwrap();
        let taken = batch.rows().iter().map(|due| (due.kind, body(&due.message))).collect();
        let ids: Vec<_> = batch.rows().iter().map(|due| due.id).collect();
        batch.finish(&ids, &[]).await.unwrap();
        taken
    }
}

pub fn function() -> FunctionName {
    FunctionName::new("create-order").unwrap()
}

pub fn request(key: &str, data: &str) -> ClaimRequest {
    ClaimRequest {
        key: Key::new(key).unwrap(),
        digest: Digest::of(&[data.as_bytes()]),
        resume: None,
        interrupted: false,
    }
}

#[track_caller]
pub fn granted(verdict: Verdict) -> Claim {
    match verdict {
        Verdict::Run(claim) => claim,
        other => panic!("expected a grant, got {other:?}"),
    }
}

pub fn body(message: &Message) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

pub fn outgoing(kind: OutboxKind, text: &str, due_in: Duration) -> OutboxMessage {
    let message = Message {
        routing_key: "weft.fn.create-order".to_owned(),
        headers: [("n".to_owned(), weft_schemas::HeaderValue::I64(7))].into(),
        body: Bytes::copy_from_slice(text.as_bytes()),
        ..Message::default()
    };
    OutboxMessage { kind, due_in, message }
}

pub fn failure() -> ErrorInfo {
    ErrorInfo::new("Flaky", "the provider did not answer")
}

pub fn succeeded(result: &str, keep: Duration) -> Settlement {
    Settlement::Succeeded { result: Bytes::copy_from_slice(result.as_bytes()), keep, outbox: Vec::new() }
}

pub fn waiting(due_in: Duration) -> Settlement {
    Settlement::Waiting { error: failure(), crashed: false, retry: outgoing(OutboxKind::Retry, "retry", due_in) }
}

pub fn letter(key: &str, claim: &Claim, reason: Reason) -> DeadLetter {
    let key = Key::new(key).unwrap();
    DeadLetter {
        id: DeadLetterId::of_invocation(&function(), &key, claim.epoch),
        function: function(),
        key: Some(key),
        epoch: claim.epoch,
        reason,
        error: failure(),
        attempts: claim.attempt,
        first_at: claim.first_seen_at,
        last_at: claim.first_seen_at,
        trace_id: None,
        message: outgoing(OutboxKind::Emit, "original", Duration::ZERO).message,
    }
}

/// A letter for a message that never became an invocation.
pub fn refused(text: &str) -> DeadLetter {
    let message = outgoing(OutboxKind::Emit, text, Duration::ZERO).message;
    let at = jiff::Timestamp::from_second(1_700_000_000).unwrap();
    DeadLetter {
        id: DeadLetterId::of_message(&function(), Reason::Undecodable, &message),
        function: function(),
        key: None,
        epoch: weft_schemas::Epoch(0),
        reason: Reason::Undecodable,
        error: failure(),
        attempts: Attempt(0),
        first_at: at,
        last_at: at,
        trace_id: None,
        message,
    }
}

pub fn dead(key: &str, claim: &Claim) -> Settlement {
    Settlement::Dead {
        letter: Box::new(letter(key, claim, Reason::Exhausted)),
        copy: outgoing(OutboxKind::DeadLetter, "copy", Duration::ZERO),
    }
}

/// Makes a test of every claim. `$factory` is an `async fn() -> (Guard, Subject)`; the guard is dropped after the test.
#[macro_export]
macro_rules! conformance_tests {
    ($factory:path) => {
        $crate::conformance_tests! { @each $factory;
            tables: migrating_again_changes_nothing, tables_of_a_newer_program_are_refused,
                listing_and_totals_follow_the_filters, what_was_closed_is_found_without_reading_what_is_open,
                an_unmigrated_ledger_says_so;
            nodes: a_live_nodes_name_is_taken, a_name_left_is_free_at_once,
                case_05_a_new_incarnation_frees_its_predecessors_claims_at_once, a_superseded_session_is_told_so,
                case_15_an_owner_without_a_live_lease_claims_nothing, leaving_frees_what_is_still_claimed;
            claims: case_01_the_first_claim_runs_with_attempt_one_and_a_fence_of_its_time, case_02_a_duplicate_of_a_success_is_replayed,
                case_03_fifty_racers_have_one_winner, overlapping_batches_do_not_deadlock,
                case_04_a_duplicate_of_a_live_claim_is_busy_and_costs_no_attempt,
                case_17_another_payload_is_a_mismatch_in_every_state, case_18_keys_of_two_functions_are_independent,
                case_19_an_expired_success_runs_again_with_a_higher_fence, case_19_a_swept_key_comes_back_with_a_higher_fence,
                an_early_copy_is_deferred_and_the_retry_itself_resumes, a_due_invocation_runs_again,
                case_05_a_lapsed_lease_is_taken_over_and_the_stale_fence_refused, case_14_a_renewed_lease_is_never_taken_over,
                a_claim_whose_answer_was_lost_is_taken_back, verdicts_come_in_the_order_of_the_requests;
            settles: case_21_a_mixed_batch_settles_with_its_outbox_and_refuses_the_stale, settling_twice_is_refused,
                a_release_costs_no_attempt, case_13_the_same_owner_cannot_settle_with_its_older_fence,
                case_12_nothing_late_touches_a_successors_success, a_crash_is_counted, what_is_held_waits_without_a_message_and_counts_its_attempt, a_thousand_settle_at_once,
                racing_settles_of_one_claim_have_one_winner;
            outbox: due_messages_come_oldest_first_and_whole, messages_not_due_stay, posted_messages_leave_when_due,
                two_relays_never_hold_the_same_message, a_dropped_batch_gives_its_messages_back,
                a_failed_publish_is_counted_and_put_off, the_next_due_time_is_known;
            permits: permits_are_given_up_to_the_bound_and_taken_back,
                the_sum_of_permits_is_never_more_than_the_bound, permits_of_a_vanished_node_are_free_after_its_lease,
                permits_of_a_predecessor_are_free_soon_after_its_successor_began,
                an_owner_without_a_live_lease_gets_no_permit, racing_dispatchers_never_hold_more_than_the_bound;
            dead: burying_twice_counts_and_sends_one_copy, one_batch_may_bury_the_same_letter_twice,
                case_24_two_quick_redrives_are_one, case_24_a_redriven_invocation_starts_afresh, a_letter_can_die_again_after_a_redrive,
                an_unknown_letter_is_not_found, a_refused_message_is_redriven_by_the_outbox_alone,
                a_redriven_mismatch_leaves_the_dead_invocation_of_its_key_dead,
                letters_are_listed_by_filter_and_kept_whole;
            letters: every_filter_of_letters_selects, letters_are_paged_without_loss_or_repetition,
                letters_are_grouped_by_what_they_died_of,
                an_edited_redrive_leaves_the_dead_invocation_dead_and_links_its_successor,
                a_redriven_invocation_is_due_whatever_its_message_waits_for,
                a_purge_throws_the_message_away_and_says_who_did_it,
                what_was_closed_is_told_whichever_way_it_was,
                a_purged_letter_that_is_buried_again_opens_with_its_message;
            history: failed_attempts_are_remembered_over_all_epochs, only_the_latest_failed_attempts_are_kept,
                an_attempt_that_vanished_is_a_crash_and_is_remembered,
                a_claim_says_whether_the_attempt_before_it_vanished, an_attempt_that_is_spared_costs_a_crash_and_no_attempt,
                an_interrupted_attempt_costs_nothing_and_the_fence_grows,
                a_letter_of_an_attempt_that_was_never_started_counts_none, an_error_with_any_text_is_settled;
            audits: the_books_of_a_system_at_work_balance, each_accepted_invocation_is_counted_once,
                a_row_deleted_or_made_by_hand_is_a_difference, the_dead_and_their_letters_belong_together,
                a_retry_whose_invocation_is_gone_is_a_difference, what_should_have_left_long_ago_is_a_difference;
            usage: usage_is_kept_by_function_hour_and_dispatcher, usage_that_is_written_again_is_not_counted_again;
            tables: case_20_the_sweep_is_bounded_and_takes_expired_successes_only,
                rows_of_the_first_version_are_read_out_by_the_second;
            joins: effects_events_and_settle_commit_together, case_11_a_stale_settle_rolls_back_its_effects,
                a_stale_attempt_cannot_begin, a_dropped_transaction_leaves_nothing, values_and_rows_are_portable,
                a_refused_statement_says_why, a_script_is_all_or_nothing;
            cases: case_16_a_session_that_is_gone_renews_no_more, case_18_an_empty_key_is_no_key,
                case_19_a_sweep_that_races_claims_deletes_no_new_row_and_no_fence_comes_twice,
                case_25_a_large_result_replays_byte_for_byte, case_26_an_attempt_that_vanished_is_counted,
                case_29_every_time_is_the_databases_whatever_the_caller_believes;
            model: any_history_goes_as_the_model_says;
            walk: every_event_in_every_state_does_what_the_function_says;
        }
    };
    (@each $factory:path; $($module:ident: $($name:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let (guard, subject) = $factory().await;
                $crate::conformance::$module::$name(&subject).await;
                drop(subject);
                drop(guard);
            }
        )+)+
    };
}
