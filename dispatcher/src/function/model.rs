//! The loop in a small world, in which anything may happen at any time: generated histories, shrunk when they fail.
//!
//! The world ([`world`]) holds a queue, a ledger ([`books`]), workers, a lease and another dispatcher on the same
//! services. A history is a list of [`Step`]s; each names one thing that happens, in any order and at any moment: a
//! statement that runs and is not answered, a worker that dies after its commit, a retry that overtakes the answer to
//! the settle that parked it. After every step the world checks that
//!
//! - nothing is acked without a settled or parked row that postdates the delivery, or a letter of that very event;
//! - whatever is not settled has a message in the outbox, in the queue or in somebody's hand that brings it back;
//! - no two attempts of one key run at once, and none on a claim of a lease that is lost;
//! - a key and epoch have one effect at most;
//! - in the world with an order, no attempt starts before every event that came before it in its lane has ended;
//! - the loop asks one statement of each kind at a time, does not spin, settles no delivery twice, and does nothing
//!   after it has stopped.
//!
//! In the end everything is healed: every delivery is acked or handed back, every invocation has ended, and the drain
//! ends. Nothing here is timed and nothing is random but the history, so a failure's history, which is printed and
//! kept under `proptest-regressions/`, reproduces it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod books;
mod world;

use proptest::prelude::*;

use world::World;

/// One thing that happens. A `which` chooses among what there is, and nothing happens when there is nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Publish {
        key: u8,
        payload: bool,
    },
    PublishGarbage,
    /// `concurrency.reserved` is changed while it runs.
    Reserve {
        bound: Option<u32>,
    },
    Deliver {
        most: u8,
    },
    /// Due outbox rows are published.
    Relay,
    /// The database's clock went back after a message was found due.
    RelayEarly,
    /// A statement runs; its answer is on its way.
    Execute {
        which: u8,
    },
    Answer {
        which: u8,
    },
    /// A statement is not answered, whether it ran or not.
    Fail {
        which: u8,
        executed: bool,
    },
    Ready {
        which: u8,
    },
    Finish {
        which: u8,
        end: End,
    },
    /// A worker dies, or fails to start; its attempts may have committed.
    Die {
        which: u8,
        committed: bool,
    },
    Pass {
        ms: u64,
    },
    /// Other functions want more of the node, or less.
    Node {
        workers: u32,
    },
    /// The lease is over by the database's clock, and nobody here knows.
    LapseUnknown,
    /// The keeper gives the lease up; `left`: and the database knows.
    LoseLease {
        left: bool,
    },
    Reenter,
    Reconnect,
    RivalTakes,
    RivalEnds {
        which: u8,
        end: RivalEnd,
        acks: bool,
    },
    RivalCrashes,
    Redrive {
        which: u8,
    },
    Crash,
    /// It is stopped hard, and its manifest changed before it starts again: it asks for more, or for less again.
    Change,
    CodeChanged,
    Drain,
    EndDeliveries,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Succeeded,
    Committed,
    Retry,
    Failed,
    TimedOut,
    Drained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RivalEnd {
    Succeeds,
    Retries,
    Dies,
    Releases,
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        2 => Just(End::Succeeded),
        2 => Just(End::Committed),
        3 => Just(End::Retry),
        2 => Just(End::Failed),
        1 => Just(End::TimedOut),
        1 => Just(End::Drained),
    ]
}

fn rival_end() -> impl Strategy<Value = RivalEnd> {
    prop_oneof![Just(RivalEnd::Succeeds), Just(RivalEnd::Retries), Just(RivalEnd::Dies), Just(RivalEnd::Releases)]
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0u8..4;
    prop_oneof![
        // Payloads differ seldom, so that most duplicates are duplicates.
        8 => (0u8..2, prop::bool::weighted(0.9)).prop_map(|(key, payload)| Step::Publish { key, payload }),
        1 => Just(Step::PublishGarbage),
        14 => (1u8..4).prop_map(|most| Step::Deliver { most }),
        8 => Just(Step::Relay),
        1 => Just(Step::RelayEarly),
        16 => which().prop_map(|which| Step::Execute { which }),
        16 => which().prop_map(|which| Step::Answer { which }),
        4 => (which(), any::<bool>()).prop_map(|(which, executed)| Step::Fail { which, executed }),
        8 => which().prop_map(|which| Step::Ready { which }),
        12 => (which(), end()).prop_map(|(which, end)| Step::Finish { which, end }),
        3 => (which(), any::<bool>()).prop_map(|(which, committed)| Step::Die { which, committed }),
        8 => prop::sample::select(vec![1, 60, 1_000, 6_000, 40_000]).prop_map(|ms| Step::Pass { ms }),
        2 => (0u32..3).prop_map(|workers| Step::Node { workers }),
        1 => Just(Step::LapseUnknown),
        1 => any::<bool>().prop_map(|left| Step::LoseLease { left }),
        3 => Just(Step::Reenter),
        1 => Just(Step::Reconnect),
        4 => Just(Step::RivalTakes),
        4 => (which(), rival_end(), any::<bool>())
            .prop_map(|(which, end, acks)| Step::RivalEnds { which, end, acks }),
        1 => Just(Step::RivalCrashes),
        3 => which().prop_map(|which| Step::Redrive { which }),
        1 => Just(Step::Crash),
        1 => Just(Step::Change),
        1 => Just(Step::CodeChanged),
        1 => prop::sample::select(vec![None, Some(1), Some(2)]).prop_map(|bound| Step::Reserve { bound }),
        1 => Just(Step::Drain),
        1 => Just(Step::EndDeliveries),
    ]
}

/// Steps that go together more often than by chance: an answer that is overtaken by what came of its own statement.
fn stretch() -> impl Strategy<Value = Vec<Step>> {
    let which = || 0u8..4;
    let arrives = [Step::Pass { ms: 40_000 }, Step::Relay, Step::Deliver { most: 9 }];
    let then = move |first: Vec<Step>| first.into_iter().chain(arrives).collect::<Vec<_>>();
    prop_oneof![
        20 => step().prop_map(|step| vec![step]),
        4 => Just(vec![Step::Execute { which: 0 }, Step::Answer { which: 0 }]),
        2 => (0u8..2).prop_map(|key| vec![Step::Publish { key, payload: true }, Step::Deliver { most: 9 }]),
        2 => which().prop_map(move |which| then(vec![Step::Execute { which: 0 }, Step::Redrive { which }])),
        2 => which().prop_map(move |which| {
            let end = RivalEnd::Retries;
            then(vec![Step::Execute { which: 0 }, Step::RivalTakes, Step::RivalEnds { which, end, acks: true }])
        }),
        2 => which().prop_map(move |which| then(vec![Step::Finish { which, end: End::Retry }, Step::Execute { which: 0 }])),
    ]
}

/// 400 histories, or as many as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let config = ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: 400, ..config } }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn whatever_happens_nothing_is_stranded_acked_early_or_run_twice_at_once(
        history in prop::collection::vec(stretch(), 1..100),
    ) {
        let mut world = World::new();
        for step in history.into_iter().flatten() {
            world.take(step);
        }
        world.heal();
    }

    #[test]
    fn whatever_happens_no_event_runs_before_those_of_its_key_that_came_earlier_have_ended(
        history in prop::collection::vec(stretch(), 1..100),
    ) {
        let mut world = World::ordered();
        for step in history.into_iter().flatten() {
            world.take(step);
        }
        world.heal();
    }
}
