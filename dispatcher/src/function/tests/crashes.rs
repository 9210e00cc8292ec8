//! Workers that die, and whom that costs an attempt.

use super::*;

#[test]
fn what_crashed_a_worker_runs_alone_next_time() {
    let mut bench = bench(4, 4);
    let (worker, _) = bench.running("k");
    let actions = bench.gone(worker, true);
    let Settlement::Waiting { crashed: true, .. } = settles(&actions)[0].to else { panic!("{actions:?}") };
    bench.settled(&settles(&actions), Settled::Done);
    let retry = requeue::retry_message(&message("k", "a"), "weft", &FunctionName::new("f").unwrap(), Fence(1));
    let asked = claimed(&bench.deliver(vec![retry, message("l", "a")]));
    // A fence is at least the clock, so that it does not tell that nothing came in between.
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(1700, 2, 1)), Verdict::Run(claim(1, 1, 0))]);
    let workers = launched(&actions);
    assert_eq!(workers.len(), 2, "one for it alone, one for its neighbour");
    assert_eq!(invoked(&bench.ready(workers[0])).len(), 1);
    assert_eq!(invoked(&bench.ready(workers[1])).len(), 1);
}

#[test]
fn case_26_a_claim_after_an_attempt_that_vanished_and_was_the_last_allowed_is_not_run() {
    let mut bench = bench_with(1, 1, "retry = { attempts = 1 }");
    let asked = claimed(&bench.deliver(vec![message("k", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(Claim { vanished: true, ..claim(2, 2, 1) })]);
    assert!(launched(&actions).is_empty(), "{actions:?}");
    let Settlement::Dead { letter, .. } = &settles(&actions)[0].to else { panic!("{actions:?}") };
    assert_eq!((letter.reason, letter.error.kind.as_str()), (Reason::Crashed, "Vanished"));
    assert_eq!(letter.attempts, Attempt(1), "the one that vanished");
    assert_eq!(acked(&bench.settled(&settles(&actions), Settled::Done)), [1]);
}

#[test]
fn what_must_be_alone_gets_its_turn_although_the_others_never_cease() {
    let mut bench = bench(2, 1);
    let (worker, first) = bench.running("k0");
    let alone = claimed(&bench.deliver(vec![message("p", "a")]));
    bench.verdicts(&alone, vec![Verdict::Run(claim(3, 3, 2))]);
    // Others come whenever one ends: without a turn of its own it would wait for ever.
    let mut running = vec![first];
    for n in 1..4 {
        let asked = claimed(&bench.deliver(vec![message(&format!("k{n}"), "a")]));
        let mut begun = invoked(&bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]));
        if let Some(ended) = running.pop() {
            let actions = bench.outcome(worker, &ended, succeeded());
            begun.extend(invoked(&actions));
            bench.settled(&settles(&actions), Settled::Done);
        }
        if begun.iter().any(|(_, invoke)| invoke.key.as_str() == "p") {
            assert_eq!(begun.len(), 1, "it has no neighbour: {begun:?}");
            return;
        }
        running.extend(begun.into_iter().map(|(_, invoke)| invoke));
    }
    panic!("it never began");
}

#[test]
fn a_neighbours_crash_at_the_last_attempt_is_survived_alone_and_as_the_same_attempt() {
    let mut bench = bench(2, 1);
    let (worker, _) = bench.running("k");
    let asked = claimed(&bench.deliver(vec![message("last", "a")]));
    bench.verdicts(&asked, vec![Verdict::Run(claim(3, 3, 0))]);
    let both = settles(&bench.gone(worker, true));
    assert!(
        both.iter().all(|settle| matches!(settle.to, Settlement::Spared { .. })),
        "either may be to blame: {both:?}"
    );
    bench.settled(&both, Settled::Done);
    let asked = claimed(&bench.deliver(vec![message("last", "a"), message("k", "a")]));
    let actions = bench.verdicts(&asked, vec![Verdict::Run(claim(4, 3, 1)), Verdict::Run(claim(4, 1, 1))]);
    let worker = launched(&actions)[0];
    let [(_, invoke)] = &invoked(&bench.ready(worker))[..] else { panic!("two suspects in one worker") };
    assert_eq!((invoke.key.as_str(), invoke.attempt), ("last", Attempt(3)));
    let Settlement::Dead { letter, .. } = &settles(&bench.gone(worker, true))[0].to else { panic!("it was alone") };
    assert_eq!((letter.reason, letter.attempts), (Reason::Crashed, Attempt(3)));
}

#[test]
fn what_may_run_once_does_not_run_again_after_a_neighbours_crash() {
    let mut bench = bench_with(2, 1, "retry = { attempts = 1 }");
    let (worker, _) = bench.running("k");
    let asked = claimed(&bench.deliver(vec![message("l", "a")]));
    bench.verdicts(&asked, vec![Verdict::Run(claim(1, 1, 0))]);
    let both = settles(&bench.gone(worker, true));
    assert!(both.iter().all(|settle| matches!(settle.to, Settlement::Dead { .. })), "{both:?}");
}

/// A ledger with nothing but what the loop sees of it, and workers that die as soon as they hold a poison.
struct World {
    bench: Bench,
    /// Per key: attempts, crashes, fence.
    rows: std::collections::BTreeMap<Key, (u32, u32, i64)>,
    dead: std::collections::BTreeMap<Key, Reason>,
    done: std::collections::BTreeSet<Key>,
    /// How often an innocent fails by itself before it succeeds.
    failures: std::collections::BTreeMap<Key, u32>,
    /// How often an innocent was in a worker that died.
    taken_along: std::collections::BTreeMap<Key, u32>,
    workers: std::collections::BTreeMap<WorkerId, Vec<Invoke>>,
    random: fastrand::Rng,
}

fn is_poison(key: &Key) -> bool {
    key.as_str().starts_with("poison")
}

impl World {
    fn handle(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Claim { requests, .. } => {
                    let keys: Vec<Key> = requests.iter().map(|request| request.key.clone()).collect();
                    let verdicts = keys.iter().map(|key| {
                        let row = self.rows.entry(key.clone()).or_insert((0, 0, 0));
                        (row.0, row.2) = (row.0 + 1, row.2 + 1000);
                        Verdict::Run(claim(row.2, row.0, row.1))
                    });
                    let verdicts = verdicts.collect();
                    let next = self.bench.verdicts(&keys, verdicts);
                    self.handle(next);
                }
                Action::Settle(batch) => {
                    let mut retries = Vec::new();
                    for settle in &batch {
                        let row = self.rows.get_mut(&settle.key).unwrap();
                        match &settle.to {
                            Settlement::Succeeded { .. } => drop(self.done.insert(settle.key.clone())),
                            Settlement::Dead { letter, .. } => {
                                self.dead.insert(settle.key.clone(), letter.reason);
                            }
                            Settlement::Waiting { crashed, retry, .. } => {
                                row.1 += u32::from(*crashed);
                                retries.push(retry.message.clone());
                            }
                            Settlement::Spared { retry, .. } => {
                                (row.0, row.1) = (row.0 - 1, row.1 + 1);
                                retries.push(retry.message.clone());
                            }
                            Settlement::Released | Settlement::Held { .. } => panic!("nothing is given back here"),
                        }
                    }
                    let next = self.bench.settled(&batch, Settled::Done);
                    self.handle(next);
                    let next = self.bench.deliver(retries);
                    self.handle(next);
                }
                Action::Launch(worker) => {
                    self.workers.insert(worker, Vec::new());
                    let next = self.bench.ready(worker);
                    self.handle(next);
                }
                Action::Invoke(worker, invoke) => self.workers.get_mut(&worker).unwrap().push(*invoke),
                _ => {}
            }
        }
    }

    /// Lets one worker take a step; `false` when none has anything to do.
    fn step(&mut self) -> bool {
        let busy: Vec<WorkerId> =
            self.workers.iter().filter(|(_, running)| !running.is_empty()).map(|(&id, _)| id).collect();
        if busy.is_empty() {
            return false;
        }
        let worker = busy[self.random.usize(..busy.len())];
        let running = self.workers.get_mut(&worker).unwrap();
        let actions = if running.iter().any(|invoke| is_poison(&invoke.key)) {
            for invoke in self.workers.remove(&worker).unwrap() {
                *self.taken_along.entry(invoke.key).or_default() += 1;
            }
            self.bench.gone(worker, true)
        } else {
            let invoke = running.swap_remove(self.random.usize(..running.len()));
            let left = self.failures.entry(invoke.key.clone()).or_default();
            let outcome = match left.checked_sub(1) {
                Some(less) => {
                    *left = less;
                    Outcome::Retry { error: ErrorInfo::new("E", "m"), after_ms: None }
                }
                None => succeeded(),
            };
            self.bench.outcome(worker, &invoke, outcome)
        };
        self.handle(actions);
        true
    }
}

proptest::proptest! {
    #[test]
    fn case_22_poisons_die_and_none_of_their_neighbours_does(
        slots in 1u32..9, workers in 1u32..4, innocents in 0usize..30, poisons in 0usize..8, crashes in 1u32..5,
        attempts in 2u32..5, seed: u64,
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut names: Vec<String> = (0..innocents).map(|n| format!("k{n}")).collect();
        // Each innocent has an attempt that would succeed, and be it the last.
        let failures = names.iter().map(|name| (Key::new(name).unwrap(), random.u32(..attempts))).collect();
        names.extend((0..poisons).map(|n| format!("poison{n}")));
        random.shuffle(&mut names);
        let mut world = World {
            bench: bench_with(slots, workers, &format!("retry = {{ attempts = {attempts}, crashes = {crashes} }}")),
            rows: Default::default(),
            dead: Default::default(),
            done: Default::default(),
            failures,
            taken_along: Default::default(),
            workers: Default::default(),
            random,
        };
        let actions = world.bench.deliver(names.iter().map(|name| message(name, "a")).collect());
        world.handle(actions);
        let mut steps = 0;
        while world.step() {
            steps += 1;
            proptest::prop_assert!(steps < 2000, "it does not come to an end");
        }
        proptest::prop_assert_eq!(world.done.len(), innocents, "{:?}", world.dead);
        proptest::prop_assert_eq!(world.dead.len(), poisons);
        proptest::prop_assert!(world.dead.values().all(|reason| *reason == Reason::Crashed));
        proptest::prop_assert!(world.rows.values().all(|(had, ..)| *had <= attempts));
        for (key, times) in &world.taken_along {
            let most = if is_poison(key) { attempts.min(crashes.max(2)) + 1 } else { 1 };
            proptest::prop_assert!(*times <= most, "{} was in {} workers that died", key, times);
        }
    }
}
