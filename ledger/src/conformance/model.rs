//! Generated histories against a model in memory, shrunk when they fail.
//!
//! A history is a list of [`Step`]s: claims in batches by three nodes (of attempts that a node interrupted itself, too),
//! settles of every kind with current and stale fences, crashes and returns of nodes, leases that lapse, clocks that jump,
//! releases, redrives as they were and edited, purges, sweeps. Each goes
//! through the real statements and through the model, which is [`crate::state::next`] over a map; after each, answers
//! and rows must agree. Fences grow for ever, a sweep or not; the outbox holds what the model says, and nothing else.
//!
//! Time passes in steps of [`UNIT`], so that the time which really passes does not matter. A failure prints the shrunk
//! history and a seed, and `WEFT_MODEL_SEED` repeats the whole run.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use weft_schemas::Epoch;

use super::*;
use crate::state::{Before, Event, Facts, Illegal, next, toll};
use crate::{DeadLetterQuery, Redrive, Redriven, State};

/// What `by` counts.
const UNIT: Duration = Duration::from_secs(1000);
/// The lease of each node.
const LEASE_UNITS: i64 = 3;
const NODES: usize = 3;
const KEYS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// A node comes, or comes back after kill -9.
    Enter {
        node: usize,
    },
    Leave {
        node: usize,
    },
    Renew {
        node: usize,
    },
    Claim {
        node: usize,
        asks: Vec<Ask>,
    },
    Settle {
        ends: Vec<End>,
    },
    Pass {
        by: i64,
    },
    /// Of the present epoch's letter, or of the one before.
    Redrive {
        key: usize,
        older: bool,
        edited: bool,
    },
    Purge {
        key: usize,
        older: bool,
    },
    Sweep,
    Relay,
}

#[derive(Debug, Clone)]
struct Ask {
    key: usize,
    same_payload: bool,
    resume: Resume,
    interrupted: bool,
}

#[derive(Debug, Clone, Copy)]
enum Resume {
    No,
    Current,
    Stale,
}

#[derive(Debug, Clone)]
struct End {
    key: usize,
    current: bool,
    to: To,
}

#[derive(Debug, Clone, Copy)]
enum To {
    Succeeded { keep: i64, events: usize },
    Waiting { wait: i64, crashed: bool },
    Spared { wait: i64 },
    Dead { crashed: bool },
    Released,
}

fn distinct<T: Clone>(items: Vec<T>, key: impl Fn(&T) -> usize) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}

fn step() -> impl Strategy<Value = Step> {
    let resume = prop_oneof![4 => Just(Resume::No), 2 => Just(Resume::Current), 1 => Just(Resume::Stale)];
    let ask = (0..KEYS, prop::bool::weighted(0.9), resume, prop::bool::weighted(0.3));
    let ask = ask.prop_map(|(key, same_payload, resume, interrupted)| Ask { key, same_payload, resume, interrupted });
    let to = prop_oneof![
        3 => (0i64..4, 0usize..3).prop_map(|(keep, events)| To::Succeeded { keep, events }),
        3 => (0i64..4, any::<bool>()).prop_map(|(wait, crashed)| To::Waiting { wait, crashed }),
        1 => (0i64..4).prop_map(|wait| To::Spared { wait }),
        2 => any::<bool>().prop_map(|crashed| To::Dead { crashed }),
        2 => Just(To::Released),
    ];
    let end = (0..KEYS, prop::bool::weighted(0.85), to).prop_map(|(key, current, to)| End { key, current, to });
    prop_oneof![
        2 => (0..NODES).prop_map(|node| Step::Enter { node }),
        1 => (0..NODES).prop_map(|node| Step::Leave { node }),
        3 => (0..NODES).prop_map(|node| Step::Renew { node }),
        10 => (0..NODES, prop::collection::vec(ask, 1..=KEYS))
            .prop_map(|(node, asks)| Step::Claim { node, asks: distinct(asks, |ask| ask.key) }),
        9 => prop::collection::vec(end, 1..=KEYS)
            .prop_map(|ends| Step::Settle { ends: distinct(ends, |end| end.key) }),
        4 => (1i64..5).prop_map(|by| Step::Pass { by }),
        3 => (0..KEYS, prop::bool::weighted(0.2), prop::bool::weighted(0.3))
            .prop_map(|(key, older, edited)| Step::Redrive { key, older, edited }),
        1 => (0..KEYS, prop::bool::weighted(0.2)).prop_map(|(key, older)| Step::Purge { key, older }),
        2 => Just(Step::Sweep),
        2 => Just(Step::Relay),
    ]
}

/// A row as the model has it. Times are in units.
#[derive(Debug, Clone)]
struct Row {
    state: State,
    attempt: u32,
    crashes: u32,
    epoch: u32,
    fence: i64,
    owner: (usize, i64),
    data: &'static str,
    first: i64,
    due: i64,
    expires: i64,
    result: Option<String>,
    /// The attempt that vanished last.
    vanished: Option<u32>,
}

#[derive(Default)]
struct Node {
    session: Option<Box<dyn NodeSession>>,
    incarnation: i64,
    until: i64,
}

struct Run<'a> {
    subject: &'a Subject,
    now: i64,
    nodes: [Node; NODES],
    rows: BTreeMap<usize, Row>,
    /// The highest fence of a key that was ever granted.
    highest: BTreeMap<usize, i64>,
    /// (due, kind, text).
    outbox: Vec<(i64, OutboxKind, String)>,
    /// Whether the letter of a key and epoch is open.
    letters: BTreeMap<(usize, u32), bool>,
    texts: u64,
}

fn name(key: usize) -> String {
    format!("k{key}")
}

fn node_name(node: usize) -> String {
    format!("n{node}")
}

fn units(by: i64) -> Duration {
    UNIT * u32::try_from(by).unwrap()
}

impl Row {
    fn facts(&self, run: &Run<'_>, data: &str, resumes: bool) -> Facts {
        let (node, incarnation) = self.owner;
        let node = &run.nodes[node];
        Facts {
            same_payload: self.data == data,
            owner_live: incarnation == node.incarnation && node.until > run.now,
            due: self.due <= run.now || resumes,
            expired: self.expires <= run.now,
        }
    }
}

impl Run<'_> {
    async fn take(&mut self, step: &Step) {
        match step {
            Step::Enter { node } => self.enter(*node).await,
            Step::Leave { node } => {
                if let Some(session) = self.nodes[*node].session.take() {
                    session.leave().await.unwrap();
                    self.nodes[*node].until = self.now;
                }
            }
            Step::Renew { node } => {
                let node = &mut self.nodes[*node];
                if let Some(session) = &node.session {
                    assert!(session.renew().await.unwrap());
                    node.until = self.now + LEASE_UNITS;
                }
            }
            Step::Claim { node, asks } => self.claim(*node, asks).await,
            Step::Settle { ends } => self.settle(ends).await,
            Step::Pass { by } => {
                self.subject.ledger.advance(units(*by)).await.unwrap();
                self.now += by;
            }
            Step::Redrive { key, older, edited } => self.redrive(*key, *older, *edited).await,
            Step::Purge { key, older } => self.purge(*key, *older).await,
            Step::Sweep => {
                self.subject.ledger.sweep(1000).await.unwrap();
                let now = self.now;
                self.rows.retain(|_, row| {
                    let expired = row.state == State::Succeeded && row.expires <= now;
                    next(Some(row.state), Event::Sweep { expired }).is_err()
                });
            }
            Step::Relay => self.relay().await,
        }
        self.compare().await;
    }

    async fn enter(&mut self, node: usize) {
        // Kill -9: nothing is said, the connection is gone. A file has one dispatcher at a time.
        for (other, known) in self.nodes.iter_mut().enumerate() {
            if other == node || self.subject.url.starts_with("sqlite:") {
                known.session = None;
            }
        }
        let session = self.subject.ledger.enter(&NodeName::new(node_name(node)).unwrap(), units(LEASE_UNITS)).await;
        let session = session.unwrap();
        let incarnation = session.owner().incarnation;
        assert!(incarnation > self.nodes[node].incarnation, "an incarnation is taken twice");
        self.nodes[node] = Node { session: Some(session), incarnation, until: self.now + LEASE_UNITS };
    }

    async fn claim(&mut self, node: usize, asks: &[Ask]) {
        let Some(owner) = self.nodes[node].session.as_ref().map(|session| session.owner().clone()) else { return };
        let requests: Vec<ClaimRequest> = asks
            .iter()
            .map(|ask| {
                let fence = self.rows.get(&ask.key).map_or(0, |row| row.fence);
                let resume = match ask.resume {
                    Resume::No => None,
                    Resume::Current => Some(Fence(fence)),
                    Resume::Stale => Some(Fence(fence - 1)),
                };
                ClaimRequest { resume, interrupted: ask.interrupted, ..request(&name(ask.key), data(ask)) }
            })
            .collect();
        let verdicts = self.subject.ledger.claim(&owner, &function(), &requests).await.unwrap();
        assert_eq!(verdicts.len(), requests.len());
        for (ask, verdict) in asks.iter().zip(verdicts) {
            self.judge(node, owner.incarnation, ask, verdict);
        }
    }

    fn judge(&mut self, node: usize, incarnation: i64, ask: &Ask, verdict: Verdict) {
        let row = self.rows.get(&ask.key);
        let absent = Facts { same_payload: true, owner_live: false, due: false, expired: false };
        let resumes = matches!(ask.resume, Resume::Current);
        let facts = row.map_or(absent, |row| row.facts(self, data(ask), resumes));
        let may = self.nodes[node].until > self.now;
        let expected = next(row.map(|row| row.state), Event::Claim(facts));
        match (expected, verdict) {
            (Ok(_), Verdict::Run(claim)) if may => self.granted(node, incarnation, ask, &claim),
            // An owner whose lease is over is told to ask again.
            (Ok(_), Verdict::Busy { .. }) if !may => {}
            (Err(Illegal::Busy), Verdict::Busy { .. })
            | (Err(Illegal::Mismatch), Verdict::Mismatch)
            | (Err(Illegal::Dead), Verdict::Dead) => {}
            (Err(Illegal::Deferred), Verdict::Deferred { due_in }) => {
                let left = self.rows[&ask.key].due - self.now;
                assert!(due_in <= units(left) && due_in > units(left - 1), "{due_in:?} with {left} units to go");
            }
            (Err(Illegal::Replay), Verdict::Replay { result, epoch }) => {
                let row = &self.rows[&ask.key];
                assert_eq!(row.result.as_deref().map(str::as_bytes), Some(&result[..]));
                assert_eq!(epoch, Epoch(row.epoch));
            }
            (expected, verdict) => panic!("{expected:?} was expected (lease held: {may}), the verdict is {verdict:?}"),
        }
    }

    fn granted(&mut self, node: usize, incarnation: i64, ask: &Ask, claim: &Claim) {
        let highest = self.highest.entry(ask.key).or_default();
        assert!(claim.fence.0 > *highest, "fence {:?} after {highest}", claim.fence);
        *highest = claim.fence.0;
        let fresh = Row {
            state: State::Claimed,
            attempt: 1,
            crashes: 0,
            epoch: 0,
            fence: claim.fence.0,
            owner: (node, incarnation),
            data: data(ask),
            first: self.now,
            due: 0,
            expires: 0,
            result: None,
            vanished: None,
        };
        let row = match self.rows.get(&ask.key) {
            None => fresh,
            Some(row) => {
                assert!(claim.fence.0 > row.fence);
                match row.state {
                    State::Succeeded => Row { epoch: row.epoch, ..fresh },
                    State::Claimed | State::Waiting | State::Dead => {
                        let before = match row.state {
                            State::Claimed if ask.interrupted && row.owner.0 == node => Before::Interrupted,
                            // What is taken over vanished with its dispatcher.
                            State::Claimed => Before::Vanished,
                            State::Waiting | State::Dead | State::Succeeded => Before::Parked,
                        };
                        let costs = toll(before);
                        Row {
                            attempt: row.attempt + u32::from(costs.attempt),
                            crashes: row.crashes + u32::from(costs.crash),
                            epoch: row.epoch,
                            first: row.first,
                            vanished: if costs.crash { Some(row.attempt) } else { row.vanished },
                            ..fresh
                        }
                    }
                }
            }
        };
        assert_eq!((claim.attempt.0, claim.crashes, claim.epoch.0), (row.attempt, row.crashes, row.epoch));
        assert_eq!(claim.vanished, row.vanished.is_some_and(|vanished| vanished + 1 == row.attempt), "{claim:?}");
        let age = jiff::Timestamp::now().duration_since(claim.first_seen_at).as_secs();
        let unit = i64::try_from(UNIT.as_secs()).unwrap();
        assert_eq!(age.div_euclid(unit), self.now - row.first, "first seen {age} s ago");
        self.rows.insert(ask.key, row);
    }

    async fn settle(&mut self, ends: &[End]) {
        let mut settles = Vec::new();
        let mut expected = Vec::new();
        for end in ends {
            let fence = self.rows.get(&end.key).map_or(1, |row| row.fence) - i64::from(!end.current);
            let row = self.rows.get(&end.key);
            let event = match end.to {
                To::Succeeded { .. } => Event::Succeed { current: end.current },
                To::Waiting { .. } | To::Spared { .. } => Event::Park { current: end.current },
                To::Dead { .. } => Event::Bury { current: end.current },
                To::Released => Event::Release { current: end.current },
            };
            let done = next(row.map(|row| row.state), event).is_ok();
            let to = self.end(end, fence, done);
            settles.push(Settle { key: Key::new(name(end.key)).unwrap(), fence: Fence(fence), to });
            expected.push(if done { Settled::Done } else { Settled::AuthorityLost });
        }
        let settled = self.subject.ledger.settle(&function(), &settles).await.unwrap();
        assert_eq!(settled, expected, "{settles:?}");
    }

    /// What to settle with; the model does it, if it is to be `done`.
    fn end(&mut self, end: &End, fence: i64, done: bool) -> Settlement {
        let mut text = |what: &str| {
            self.texts += 1;
            format!("{what} {}", self.texts)
        };
        let row = self.rows.get_mut(&end.key).filter(|_| done);
        match end.to {
            To::Succeeded { keep, events } => {
                let result = text("result");
                let texts: Vec<String> = (0..events).map(|_| text("event")).collect();
                if let Some(row) = row {
                    (row.state, row.expires, row.result) = (State::Succeeded, self.now + keep, Some(result.clone()));
                    self.outbox.extend(texts.iter().map(|text| (self.now, OutboxKind::Emit, text.clone())));
                }
                let outbox = texts.iter().map(|text| outgoing(OutboxKind::Emit, text, Duration::ZERO)).collect();
                Settlement::Succeeded { result: Bytes::from(result), keep: units(keep), outbox }
            }
            To::Waiting { wait, crashed } => {
                let text = text("retry");
                if let Some(row) = row {
                    (row.state, row.due) = (State::Waiting, self.now + wait);
                    row.crashes += u32::from(crashed);
                    self.outbox.push((self.now + wait, OutboxKind::Retry, text.clone()));
                }
                Settlement::Waiting {
                    error: failure(),
                    crashed,
                    retry: outgoing(OutboxKind::Retry, &text, units(wait)),
                }
            }
            To::Spared { wait } => {
                let text = text("alone");
                if let Some(row) = row {
                    (row.state, row.due) = (State::Waiting, self.now + wait);
                    (row.attempt, row.crashes) = (row.attempt.saturating_sub(1), row.crashes + 1);
                    self.outbox.push((self.now + wait, OutboxKind::Retry, text.clone()));
                }
                Settlement::Spared { error: failure(), retry: outgoing(OutboxKind::Retry, &text, units(wait)) }
            }
            To::Dead { crashed } => {
                let text = text("copy");
                let (epoch, attempt) = row.as_ref().map_or((0, 1), |row| (row.epoch, row.attempt));
                let claim = Claim {
                    fence: Fence(fence),
                    attempt: Attempt(attempt),
                    crashes: 0,
                    epoch: Epoch(epoch),
                    first_seen_at: jiff::Timestamp::UNIX_EPOCH,
                    vanished: false,
                };
                if let Some(row) = row {
                    row.state = State::Dead;
                    row.crashes += u32::from(crashed);
                    self.letters.insert((end.key, epoch), true);
                    self.outbox.push((self.now, OutboxKind::DeadLetter, text.clone()));
                }
                let reason = if crashed { Reason::Crashed } else { Reason::Exhausted };
                let letter = Box::new(letter(&name(end.key), &claim, reason));
                Settlement::Dead { letter, copy: outgoing(OutboxKind::DeadLetter, &text, Duration::ZERO) }
            }
            To::Released => {
                if let Some(row) = row {
                    (row.state, row.due) = (State::Waiting, self.now);
                    row.attempt = row.attempt.saturating_sub(1);
                }
                Settlement::Released
            }
        }
    }

    /// The letter of the present epoch, or of the one before.
    fn letter_of(&self, key: usize, older: bool) -> (u32, DeadLetterId) {
        let epoch = self.rows.get(&key).map_or(0, |row| row.epoch.saturating_sub(u32::from(older)));
        (epoch, DeadLetterId::of_invocation(&function(), &Key::new(name(key)).unwrap(), Epoch(epoch)))
    }

    /// The message is thrown away; the invocation stays dead for good.
    async fn purge(&mut self, key: usize, older: bool) {
        let (epoch, id) = self.letter_of(key, older);
        let open = self.letters.get_mut(&(key, epoch)).map(|open| std::mem::replace(open, false));
        let purged = self.subject.ledger.purge(&[id], "op").await.unwrap();
        assert_eq!(purged, u64::from(open == Some(true)), "purge of {key} in epoch {epoch}");
    }

    /// `edited`: another event leaves in its stead, and the invocation stays dead.
    async fn redrive(&mut self, key: usize, older: bool, edited: bool) {
        let (epoch, id) = self.letter_of(key, older);
        self.texts += 1;
        let text = format!("redrive {}", self.texts);
        let message = outgoing(OutboxKind::Redrive, &text, Duration::ZERO);
        let successor = edited.then(|| Key::new(format!("{}~{epoch}", name(key))).unwrap());
        let redrive = Redrive { by: "op".to_owned(), message, successor };
        let answer = self.subject.ledger.redrive(&id, &redrive).await.unwrap();
        let expected = match self.letters.get_mut(&(key, epoch)) {
            None => Redriven::NotFound,
            Some(false) => Redriven::Already,
            Some(open) => {
                *open = false;
                self.outbox.push((self.now, OutboxKind::Redrive, text));
                if let Some(row) = self.rows.get_mut(&key).filter(|_| !edited)
                    && row.epoch == epoch
                    && next(Some(row.state), Event::Redrive).is_ok()
                {
                    (row.state, row.attempt, row.crashes) = (State::Waiting, 0, 0);
                    (row.epoch, row.due, row.first) = (row.epoch + 1, self.now, self.now);
                    row.vanished = None;
                }
                Redriven::Done
            }
        };
        assert_eq!(answer, expected, "redrive of {key} in epoch {epoch}");
    }

    /// Everything that is due leaves, and it is just what the model says.
    async fn relay(&mut self) {
        let mut left = self.subject.drain().await;
        left.sort_by(|a, b| a.1.cmp(&b.1));
        let now = self.now;
        let (due, later) = self.outbox.drain(..).partition(|(at, _, _)| *at <= now);
        self.outbox = later;
        let due: Vec<(i64, OutboxKind, String)> = due;
        let mut expected: Vec<_> = due.into_iter().map(|(_, kind, text)| (kind, text)).collect();
        expected.sort_by(|a, b| a.1.cmp(&b.1));
        assert_eq!(left, expected);
    }

    async fn compare(&self) {
        let query = InvocationQuery { function: Some(function()), ..InvocationQuery::default() };
        let mut records = self.subject.ledger.invocations(&query).await.unwrap();
        records.sort_by(|a, b| a.key.as_str().cmp(b.key.as_str()));
        let keys: Vec<&str> = records.iter().map(|record| record.key.as_str()).collect();
        assert_eq!(keys, self.rows.keys().map(|&key| name(key)).collect::<Vec<_>>());
        for (record, row) in records.iter().zip(self.rows.values()) {
            let found = (record.state, record.attempt.0, record.crashes, record.epoch.0, record.fence.0);
            assert_eq!(found, (row.state, row.attempt, row.crashes, row.epoch, row.fence), "{record:?}");
            let (node, incarnation) = row.owner;
            assert_eq!(record.owner, Some(format!("{}/{incarnation}", node_name(node))));
            if row.state == State::Succeeded {
                assert_eq!(record.result, row.result);
            }
        }
        let open = self.subject.ledger.dead_letters(&DeadLetterQuery::default()).await.unwrap();
        let mut open: Vec<_> =
            open.iter().map(|record| (record.letter.key.clone().unwrap().to_string(), record.letter.epoch.0)).collect();
        open.sort();
        let expected = self.letters.iter().filter(|(_, open)| **open).map(|((key, epoch), _)| (name(*key), *epoch));
        assert_eq!(open, expected.collect::<Vec<_>>(), "open letters");
    }

    /// In the end the outbox is empty, once everything in it is due.
    async fn end_of_history(&mut self) {
        self.take(&Step::Pass { by: 10 }).await;
        self.relay().await;
        assert!(self.outbox.is_empty());
        assert_eq!(self.subject.ledger.next_due().await.unwrap(), None);
    }
}

fn data(ask: &Ask) -> &'static str {
    if ask.same_payload { "x" } else { "y" }
}

/// Runs one history on an empty ledger.
async fn run(subject: &Subject, history: &[Step]) {
    let schema = if subject.url.starts_with("sqlite:") { "" } else { "weft." };
    let tables = ["invocation", "outbox", "dead_letter", "swept", "node"];
    let script: String = tables.iter().map(|table| format!("DELETE FROM {schema}{table};")).collect();
    subject.joiner().run_script(&script).await.unwrap();
    let mut run = Run {
        subject,
        now: 0,
        nodes: Default::default(),
        rows: BTreeMap::new(),
        highest: BTreeMap::new(),
        outbox: Vec::new(),
        letters: BTreeMap::new(),
        texts: 0,
    };
    run.take(&Step::Enter { node: 0 }).await;
    for step in history {
        run.take(step).await;
    }
    run.end_of_history().await;
}

pub async fn any_history_goes_as_the_model_says(subject: &Subject) {
    let sqlite = subject.url.starts_with("sqlite:");
    let config = Config {
        cases: if sqlite { 200 } else { 60 },
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let seed = std::env::var("WEFT_MODEL_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let histories = prop::collection::vec(step(), 1..40);
    let done = tokio::task::block_in_place(|| {
        runner.run(&histories, |history| {
            tokio::runtime::Handle::current().block_on(run(subject, &history));
            Ok(())
        })
    });
    match done {
        Ok(()) => {}
        Err(TestError::Fail(why, history)) => panic!("{why}\nWEFT_MODEL_SEED={seed}\n{history:#?}"),
        Err(TestError::Abort(why)) => panic!("{why}\nWEFT_MODEL_SEED={seed}"),
    }
}
