//! From a delivery to a claim: admission, joining what is under way, and the ledger's verdicts.

use std::time::Duration;

use weft_ledger::{Claim, ClaimRequest, Verdict};
use weft_process::crash::{self, Point};
use weft_schemas::{Attempt, ErrorInfo, Key, Reason};

use super::core::{Action, Burial, Core, Invocation, LetterOf, Now, Phase, Took};
use super::replies::{Post, Waiting, refusal, success};
use super::settling::age;
use super::timer::{Timer, What};
use crate::admission::{Admitted, Doom, Refusal};
use crate::broker::{Delivery, DeliveryId};
use crate::retry::{Begin, Granted, begin};
use crate::spans;

/// How long a key that another owner holds is left alone at most before the ledger is asked again.
const BUSY_AT_MOST: Duration = Duration::from_secs(2);

/// How long a retry that waits in hand is left alone at most: the database's clock may be set.
const DEFERRED_AT_MOST: Duration = Duration::from_secs(30);

impl Core {
    pub(super) fn on_delivered(&mut self, deliveries: Vec<Delivery>, now: Now) {
        if self.draining {
            self.hand_back(deliveries.into_iter().map(|delivery| delivery.id).collect());
            return;
        }
        for delivery in deliveries {
            self.forget_stale(delivery.id.generation);
            self.stats.add(&self.stats.received);
            let redelivered = delivery.redelivered;
            match self.admission.admit(delivery.message, redelivered, now.wall) {
                Ok(admitted) if redelivered && self.is_doubtful(&admitted) => self.doubt(delivery.id, admitted, now),
                Ok(admitted) => {
                    self.count_duplicate(&admitted, redelivered);
                    self.accept(delivery.id, admitted, redelivered, now);
                }
                Err(refusal) => self.refuse(delivery.id, *refusal, now),
            }
        }
    }

    /// A duplicate that joins what runs here. The other duplicates are counted by the ledger's verdict.
    fn count_duplicate(&self, admitted: &Admitted, redelivered: bool) {
        let joins =
            self.invocations.get(&admitted.key).is_some_and(|invocation| invocation.admitted.digest == admitted.digest);
        if joins && !redelivered && admitted.resume.is_none() {
            self.stats.add(&self.stats.duplicates);
        }
    }

    pub(super) fn accept(&mut self, delivery: DeliveryId, admitted: Admitted, redelivered: bool, now: Now) {
        let Some(admitted) = self.in_turn(delivery, admitted, redelivered) else { return };
        let waiting = self.waiting(delivery, &admitted.message);
        let Some(known) = self.invocations.get_mut(&admitted.key) else {
            let span = spans::process(&self.queue, &self.function.name, &admitted);
            let step = spans::claim(&span);
            self.to_claim.push_back(admitted.key.clone());
            let invocation = Invocation {
                deliveries: vec![waiting],
                rivals: Vec::new(),
                phase: Phase::Claiming,
                covered: 0,
                received_us: now.shared_us,
                fresh: !redelivered && admitted.resume.is_none(),
                span,
                step,
                outages: 0,
                refusals: 0,
                interrupted: false,
                took: Took::default(),
                admitted,
            };
            self.invocations.insert(invocation.admitted.key.clone(), invocation);
            return;
        };
        if known.admitted.digest == admitted.digest {
            known.deliveries.push(waiting);
            // The retry that a waiting row stands for must not be taken for a superfluous copy of it.
            known.admitted.resume = known.admitted.resume.max(admitted.resume);
            // Nor may a redrive die of the age of the copy that it joins.
            known.admitted.doom = known.admitted.doom.take().and(admitted.doom);
            return;
        }
        match known.phase {
            // The ledger may yet say that it is the other payload that it knows.
            Phase::Claiming | Phase::Parked => known.rivals.push((delivery, admitted)),
            Phase::Ready { .. } | Phase::Running(_) | Phase::Settling { .. } => self.mismatch(waiting, &admitted, now),
        }
    }

    /// Whether an event that would be refused by now may have a row from an earlier delivery, or none. A retry and a redrive
    /// have one.
    fn is_doubtful(&self, admitted: &Admitted) -> bool {
        let ours = admitted.resume.is_some() || weft_schemas::requeue::is_redriven(&admitted.message);
        admitted.doom.is_some() && !ours && !self.invocations.contains_key(&admitted.key)
    }

    /// Buries it as a first delivery would be, unless the ledger has its row: two letters for one event would be one too
    /// many, and so would be a row that nothing ends.
    fn doubt(&mut self, delivery: DeliveryId, admitted: Admitted, now: Now) {
        let Some(Doom { reason, error }) = admitted.doom.clone() else { return };
        let delivery = self.waiting(delivery, &admitted.message);
        let (letter, copy) =
            self.letter(LetterOf::Message { key: None, message: &admitted.message }, reason, error, now);
        self.to_bury.push(Burial { delivery, refusals: 0, letter, copy, known_as: Some(Box::new(admitted)) });
    }

    fn refuse(&mut self, delivery: DeliveryId, refusal: Refusal, now: Now) {
        let Refusal { reason, error, message } = refusal;
        tracing::info!(function = %self.function.name, reason = reason.as_str(), error = error.message, "event refused");
        let waiting = self.waiting(delivery, &message);
        self.bury(waiting, LetterOf::Message { key: None, message: &message }, reason, error, now);
    }

    fn mismatch(&mut self, delivery: Waiting, admitted: &Admitted, now: Now) {
        tracing::info!(function = %self.function.name, key = %admitted.key, "key reused with another payload");
        let error =
            ErrorInfo::new("Mismatch", format!("key {:?} is known with another payload", admitted.key.as_str()));
        let of = LetterOf::Message { key: Some(&admitted.key), message: &admitted.message };
        self.bury(delivery, of, Reason::Mismatch, error, now);
    }

    fn bury(&mut self, delivery: Waiting, of: LetterOf<'_>, reason: Reason, error: ErrorInfo, now: Now) {
        let (letter, copy) = self.letter(of, reason, error, now);
        self.to_bury.push(Burial { delivery, refusals: 0, letter, copy, known_as: None });
    }

    pub(super) fn on_buried(
        &mut self,
        burials: Vec<Burial>,
        known: Vec<Burial>,
        result: Result<(), weft_ledger::Error>,
        now: Now,
    ) {
        self.burying = false;
        match result {
            Ok(()) => {
                crash::point(Point::AfterBury);
                self.ledger_answered();
                for Burial { delivery, known_as, .. } in known {
                    if let Some(admitted) = known_as {
                        self.accept(delivery.id, *admitted, true, now);
                    }
                }
                let mut acks = Vec::new();
                for Burial { delivery, letter, .. } in burials {
                    self.stats.died(letter.reason);
                    let function = self.function.name.clone();
                    acks.extend(self.answer(vec![delivery], |address| {
                        Post::Message(Box::new(refusal(&function, letter.key.as_ref(), Some(&letter), &address)))
                    }));
                }
                if !acks.is_empty() {
                    self.actions.push(Action::Ack(acks));
                }
                self.actions.push(Action::WakeRelay);
            }
            Err(error) if error.blames_the_values() => self.burials_refused(burials, &error, now),
            Err(error) => {
                self.to_bury.extend(burials);
                self.ledger_failed("bury dead letters", &error, now);
            }
        }
    }

    /// The next batch of claims: keys are distinct because a key is queued only when its invocation is made.
    pub(super) fn ask_claim(&mut self) {
        let Some(owner) = self.owner.clone() else { return };
        let mut requests = Vec::new();
        while requests.len() < self.batch {
            let Some(key) = self.to_claim.pop_front() else { break };
            let Some(invocation) = self.invocations.get_mut(&key) else { continue };
            if !matches!(invocation.phase, Phase::Claiming) {
                continue;
            }
            invocation.covered = invocation.deliveries.len();
            let Admitted { digest, resume, .. } = &invocation.admitted;
            requests.push(ClaimRequest { key, digest: *digest, resume: *resume, interrupted: invocation.interrupted });
        }
        if !requests.is_empty() {
            self.claiming = true;
            self.claiming_as = Some(owner.clone());
            self.actions.push(Action::Claim { owner, requests });
        }
    }

    pub(super) fn on_claimed(&mut self, keys: Vec<Key>, result: Result<Vec<Verdict>, weft_ledger::Error>, now: Now) {
        self.claiming = false;
        let lost = self.claiming_as.take() != self.owner;
        let verdicts = match result {
            Ok(verdicts) if verdicts.len() == keys.len() => verdicts,
            Ok(verdicts) => {
                // Fail closed: an answer that does not fit the question is no answer.
                let what = format!("{} verdicts for {} claims", verdicts.len(), keys.len());
                self.claims_failed(keys, &weft_ledger::Error::Corrupt { what }, now);
                return;
            }
            Err(error) => {
                self.claims_failed(keys, &error, now);
                return;
            }
        };
        self.ledger_answered();
        let (mut known, mut acks) = (0u64, Vec::new());
        for (key, verdict) in keys.into_iter().zip(verdicts) {
            // A success that this loop did not write: what it emitted may be in the outbox, and nobody has told the relay.
            let untold = matches!(verdict, Verdict::Replay { .. })
                && self.invocations.get(&key).is_some_and(|invocation| !invocation.fresh);
            if untold && !self.actions.iter().any(|action| matches!(action, Action::WakeRelay)) {
                self.actions.push(Action::WakeRelay);
            }
            self.on_verdict(&key, verdict, lost, &mut known, &mut acks, now);
        }
        for _ in 0..known {
            self.stats.add(&self.stats.duplicates);
        }
        if !acks.is_empty() {
            self.actions.push(Action::Ack(acks));
        }
    }

    fn claims_failed(&mut self, keys: Vec<Key>, error: &weft_ledger::Error, now: Now) {
        for key in &keys {
            self.interrupt(key);
        }
        self.to_claim.extend(keys);
        self.ledger_failed("claim", error, now);
        if self.draining {
            self.hand_back_unclaimed();
        }
    }

    /// `lost`: the lease under which it was claimed is no longer ours.
    fn on_verdict(
        &mut self,
        key: &Key,
        verdict: Verdict,
        lost: bool,
        known: &mut u64,
        acks: &mut Vec<DeliveryId>,
        now: Now,
    ) {
        let Some(invocation) = self.invocations.get_mut(key) else { return };
        if !matches!(invocation.phase, Phase::Claiming) {
            return;
        }
        spans::verdict(&invocation.step, &invocation.span, &verdict);
        let fresh = std::mem::take(&mut invocation.fresh);
        match verdict {
            Verdict::Run(claim) => {
                crash::point(Point::AfterClaim);
                // A retry or a redrive that was due, won by a duplicate of its event.
                *known += u64::from(fresh && is_known(&claim));
                // The claim proves that the ledger knows this payload, so rivals are mismatches now.
                let rivals = std::mem::take(&mut invocation.rivals);
                self.granted(key, claim, lost, now);
                for (delivery, rival) in rivals {
                    let waiting = self.waiting(delivery, &rival.message);
                    self.mismatch(waiting, &rival, now);
                }
            }
            // A success is for good, whatever has joined since.
            Verdict::Replay { result, .. } => {
                *known += u64::from(fresh);
                let function = self.function.name.clone();
                let answered = self.forget(key, now);
                acks.extend(
                    self.answer(answered, |address| {
                        Post::Message(Box::new(success(&function, key, &result, &address)))
                    }),
                );
            }
            // The retry is in hand, and this is it: nothing in the outbox brings it back.
            Verdict::Deferred { due_in } if self.function.ordering.is_some() => {
                *known += u64::from(fresh);
                invocation.phase = Phase::Parked;
                let wait = due_in.clamp(Duration::from_millis(1), DEFERRED_AT_MOST);
                self.timers.push(Timer::new(now.mono + wait, What::Parked(key.clone())));
            }
            Verdict::Deferred { due_in } => {
                *known += u64::from(fresh);
                let message = invocation.admitted.message.clone();
                let answered = self.ack_covered(key, now);
                acks.extend(self.put_off(answered, &message, None, due_in));
            }
            Verdict::Dead => {
                *known += u64::from(fresh);
                let answered = self.ack_covered(key, now);
                acks.extend(self.answer(answered, |address| Post::OfDead { key: key.clone(), address }));
            }
            Verdict::Busy { retry_in } => {
                invocation.fresh = fresh;
                invocation.phase = Phase::Parked;
                let wait =
                    retry_in.clamp(Duration::from_millis(20), BUSY_AT_MOST).mul_f64(0.9 + 0.2 * self.random.f64());
                self.timers.push(Timer::new(now.mono + wait, What::Parked(key.clone())));
            }
            Verdict::Mismatch => {
                let Some(invocation) = self.invocations.remove(key) else { return };
                for delivery in invocation.deliveries {
                    self.mismatch(delivery, &invocation.admitted, now);
                }
                self.leave_lane(&invocation.admitted, invocation.rivals, now);
            }
        }
    }

    /// Lets the next claim count no attempt for the last one, where the function allows a second attempt at all.
    pub(super) fn interrupt(&mut self, key: &Key) {
        let Some(invocation) = self.invocations.get(key) else { return };
        let again = self.retry_policy(&invocation.admitted).attempts > 1;
        if let Some(invocation) = self.invocations.get_mut(key) {
            invocation.interrupted |= again;
        }
    }

    /// Queues a claim for a slot, unless it is over a limit of its function, the lease is lost, or
    /// nothing starts any more.
    fn granted(&mut self, key: &Key, claim: Claim, lost: bool, now: Now) {
        let Claim { attempt, crashes, vanished, .. } = claim;
        let granted = Granted { attempt: attempt.0, crashes, age: age(&claim, now), vanished };
        let Some(policy) = self.invocations.get(key).map(|invocation| self.retry_policy(&invocation.admitted)) else {
            return;
        };
        let Some(invocation) = self.invocations.get_mut(key) else { return };
        let doom = invocation.admitted.doom.clone().filter(|doom| holds(doom, &claim));
        let begin = match doom {
            Some(Doom { reason, error }) => Begin::Dead { reason, error },
            None => begin(&policy, granted),
        };
        invocation.interrupted = false;
        invocation.step = spans::wait(&invocation.span);
        invocation.phase =
            Phase::Ready { claim, since: now.mono, waited: false, throttled: false, turn: self.next_turn };
        self.next_turn += 1;
        match begin {
            Begin::Dead { reason, error } => {
                // This attempt is not made.
                let made = Claim { attempt: Attempt(claim.attempt.0.saturating_sub(1)), ..claim };
                self.give_up(key, made, reason, error, now);
            }
            Begin::Run { .. } if self.draining || lost => self.release(key),
            Begin::Run { alone: true } => self.ready_alone.push_back(key.clone()),
            Begin::Run { alone: false } => self.ready.push_back(key.clone()),
        }
    }

    /// What an answer that may be outdated by now is about: the deliveries that were there when it was asked for. Those
    /// that joined since ask anew; when there are none, the key is forgotten.
    pub(super) fn ack_covered(&mut self, key: &Key, now: Now) -> Vec<Waiting> {
        let Some(invocation) = self.invocations.get_mut(key) else { return Vec::new() };
        let covered = invocation.covered.min(invocation.deliveries.len());
        if covered == invocation.deliveries.len() {
            return self.forget(key, now);
        }
        let rest = invocation.deliveries.split_off(covered);
        let answered = std::mem::replace(&mut invocation.deliveries, rest);
        self.ask_again(key, now);
        answered
    }

    /// A parked key's wait is over.
    pub(super) fn claim_again(&mut self, key: &Key) {
        if let Some(invocation) = self.invocations.get_mut(key) {
            invocation.phase = Phase::Claiming;
            invocation.step = spans::claim(&invocation.span);
            self.to_claim.push_back(key.clone());
        }
    }
}

/// Whether the event was here before this claim. An attempt that a neighbour's crash ended counts as a crash and not as
/// an attempt.
fn is_known(claim: &Claim) -> bool {
    claim.attempt.0 > 1 || claim.crashes > 0 || claim.epoch.0 > 0
}

/// Whether what would be refused by now has to die. Too old is what has not begun in time, by the event's own time, and
/// which nobody has asked for again, as a redrive does; whatever else the manifest refuses by now ends at any attempt.
fn holds(doom: &Doom, claim: &Claim) -> bool {
    doom.reason != Reason::TooOld || (claim.attempt.0 <= 1 && claim.epoch.0 == 0)
}
