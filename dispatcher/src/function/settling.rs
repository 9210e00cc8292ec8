//! From an outcome to an ack: the retry decision, the ledger's settle, and what its refusal means.

use std::time::Duration;

use weft_ledger::{Claim, OutboxMessage, Settle, Settled, Settlement};
use weft_process::crash::{self, Point};
use weft_schemas::manifest::Retry;
use weft_schemas::request::most_attempts;
use weft_schemas::{ErrorInfo, Event, Key, Outcome, Reason, requeue};

use super::core::{Action, AfterSettle, Core, Invocation, LetterOf, Now, Phase, retry};
use super::replies::{Post, Waiting, address, measured, refusal, success};
use crate::admission::Admitted;
use crate::broker::DeliveryId;
use crate::retry::{Ended, Next, decide};
use crate::spans;

impl Core {
    /// `shared`: others ran in its worker when that went away.
    pub(super) fn on_outcome(&mut self, key: &Key, outcome: Outcome, emits: Vec<Event>, shared: bool, now: Now) {
        let outcome = self.within_limits(outcome);
        let Some(invocation) = self.invocations.get(key) else { return };
        let Phase::Running(running) = &invocation.phase else { return };
        let claim = running.claim;
        let superseded = running.superseded;
        let policy = self.retry_policy(&invocation.admitted);
        spans::outcome(&invocation.step, &invocation.span, &outcome);
        let ended = Ended {
            outcome: match &outcome {
                Outcome::Committed { .. } | Outcome::Crashed { .. } => &outcome,
                // Given back it would run a second time. The next claim counts it, and finds it over the limit.
                _ if superseded && policy.attempts <= 1 => &Outcome::Superseded,
                // We cancelled it because our lease was lost: given back, if it is still ours to give.
                _ if superseded => &Outcome::Drained,
                _ => &outcome,
            },
            attempt: claim.attempt.0,
            crashes: claim.crashes,
            outages: invocation.outages,
            age: age(&claim, now),
            timeout: self.function.timeout,
            shared,
            random: self.random.f64(),
        };
        match &outcome {
            Outcome::Crashed { .. } => self.stats.add(&self.stats.crashes),
            Outcome::TimedOut => self.stats.add(&self.stats.timeouts),
            _ => {}
        }
        if outcome.is_error() {
            self.stats.add(&self.stats.errors);
        }
        let next = decide(&policy, ended);
        self.note_outage(key, &outcome, now);
        let Some(invocation) = self.invocations.get(key) else { return };
        match next {
            Next::Succeed => {
                let Outcome::Succeeded { result } = outcome else { return };
                let outbox = emits
                    .into_iter()
                    .map(|event| self.emitted(event, &invocation.admitted.event, &invocation.span))
                    .collect();
                let keep = self.function.idempotency.keep;
                self.settle(key, claim, Settlement::Succeeded { result, keep, outbox }, AfterSettle::Ack);
            }
            Next::Nothing => {
                crash::point(Point::AfterSettle);
                self.stats.add(&self.stats.succeeded);
                spans::ack(&invocation.span, &self.queue);
                let Outcome::Committed { result } = outcome else { return };
                let (function, took) = (self.function.name.clone(), invocation.took.clone());
                let answered = self.forget(key, now);
                let acks = self.answer(answered, |address| {
                    Post::Message(Box::new(measured(success(&function, key, &result, &address), &took)))
                });
                if !acks.is_empty() {
                    self.actions.push(Action::Ack(acks));
                }
                self.actions.push(Action::WakeRelay);
            }
            Next::Again { after, error, crashed } => {
                let retry = self.park(invocation, claim, after, &error);
                let (to, then) = match self.is_ordered() {
                    true => {
                        (Settlement::Held { error, crashed, spared: false, due_in: after }, AfterSettle::Wait(after))
                    }
                    false => (Settlement::Waiting { error, crashed, retry }, AfterSettle::Ack),
                };
                self.settle(key, claim, to, then);
            }
            Next::Spare { after, error } => {
                let retry = self.park(invocation, claim, after, &error);
                let (to, then) = match self.is_ordered() {
                    true => {
                        let held = Settlement::Held { error, crashed: true, spared: true, due_in: after };
                        (held, AfterSettle::Wait(after))
                    }
                    false => (Settlement::Spared { error, retry }, AfterSettle::Ack),
                };
                self.settle(key, claim, to, then);
            }
            Next::Wait { after, .. } => self.settle(key, claim, Settlement::Released, AfterSettle::Wait(after)),
            Next::Dead { reason, error } => self.give_up(key, claim, reason, error, now),
            Next::Release => self.settle(key, claim, Settlement::Released, AfterSettle::Release),
            Next::AskAgain => self.ask_again(key, now),
        }
    }

    /// The function's policy, as far as the event allows it: who waits for an answer decides itself whether to ask again.
    /// What a person has redriven nobody waits for.
    pub(super) fn retry_policy(&self, admitted: &Admitted) -> Retry {
        let policy = self.function.retry;
        let most = most_attempts(&admitted.event).filter(|_| !requeue::is_redriven(&admitted.message));
        Retry { attempts: most.map_or(policy.attempts, |most| most.min(policy.attempts)), ..policy }
    }

    /// The message that brings an invocation back after the wait.
    fn park(&self, invocation: &Invocation, claim: Claim, after: Duration, error: &ErrorInfo) -> OutboxMessage {
        tracing::info!(
            function = %self.function.name, key = %invocation.admitted.key, attempt = claim.attempt.0, kind = error.kind,
            error = error.message, after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
            "attempt failed, will be tried again"
        );
        let mut retry = retry(&invocation.admitted, &self.prefix, &self.function, claim.fence, after);
        spans::leave_link(&mut retry.message, &invocation.step);
        retry
    }

    /// A worker of ours has checked its result; another may not have.
    fn within_limits(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Succeeded { result } if result.len() as u64 > self.function.max_result_bytes => {
                let most = self.function.max_result_bytes;
                let text = format!("the result has {} bytes, max_result allows {most}", result.len());
                Outcome::Failed { error: ErrorInfo::new("ResultTooLarge", text) }
            }
            // What a worker of another make sends is cut and cleaned as one of ours does.
            Outcome::Retry { error, .. } if self.function.is_terminal(&error.kind) => {
                Outcome::Failed { error: ErrorInfo::new(error.kind, error.message) }
            }
            Outcome::Retry { error, after_ms } => {
                Outcome::Retry { error: ErrorInfo::new(error.kind, error.message), after_ms }
            }
            Outcome::Outage { error, after_ms } => {
                Outcome::Outage { error: ErrorInfo::new(error.kind, error.message), after_ms }
            }
            Outcome::Failed { error } => Outcome::Failed { error: ErrorInfo::new(error.kind, error.message) },
            other => other,
        }
    }

    /// Settles a claimed invocation as dead.
    pub(super) fn give_up(&mut self, key: &Key, claim: Claim, reason: Reason, error: ErrorInfo, now: Now) {
        let Some(invocation) = self.invocations.get(key) else { return };
        tracing::warn!(
            function = %self.function.name, %key, attempt = claim.attempt.0, reason = reason.as_str(),
            kind = error.kind, error = error.message, "event given up"
        );
        let of = LetterOf::Invocation { admitted: &invocation.admitted, claim: &claim };
        let (letter, copy) = self.letter(of, reason, error, now);
        self.settle(key, claim, Settlement::Dead { letter: Box::new(letter), copy }, AfterSettle::Ack);
    }

    /// Gives a claim back without counting its attempt.
    pub(super) fn release(&mut self, key: &Key) {
        if let Some(claim) = self.claim_of(key) {
            self.settle(key, claim, Settlement::Released, AfterSettle::Release);
        }
    }

    fn settle(&mut self, key: &Key, claim: Claim, to: Settlement, then: AfterSettle) {
        let Some(invocation) = self.invocations.get_mut(key) else { return };
        invocation.step = spans::settle(&invocation.span);
        let settle = Box::new(Settle { key: key.clone(), fence: claim.fence, to });
        invocation.phase = Phase::Settling { claim, settle, then };
        self.to_settle.push_back(key.clone());
    }

    pub(super) fn ask_settle(&mut self) {
        let mut settles = Vec::new();
        while settles.len() < self.batch {
            let Some(key) = self.to_settle.pop_front() else { break };
            let refused = self.invocations.get(&key).is_some_and(|invocation| invocation.refusals > 0);
            if refused && !settles.is_empty() {
                self.to_settle.push_front(key);
                break;
            }
            if let Some(invocation) = self.invocations.get_mut(&key)
                && let Phase::Settling { settle, .. } = &invocation.phase
            {
                invocation.covered = invocation.deliveries.len();
                let mut settle = settle.as_ref().clone();
                if let Settlement::Succeeded { result, outbox, .. } = &mut settle.to {
                    let addresses = invocation.deliveries.iter().filter_map(|waiting| waiting.reply.as_deref());
                    let (name, took) = (&self.function.name, &invocation.took);
                    outbox.extend(addresses.map(|address| measured(success(name, &key, result, address), took)));
                }
                settles.push(settle);
                if refused {
                    break;
                }
            }
        }
        if !settles.is_empty() {
            self.settling = true;
            self.actions.push(Action::Settle(settles));
        }
    }

    pub(super) fn on_settled(&mut self, keys: Vec<Key>, result: Result<Vec<Settled>, weft_ledger::Error>, now: Now) {
        self.settling = false;
        let answers = match result {
            Ok(answers) if answers.len() == keys.len() => answers,
            Ok(answers) => {
                let what = format!("{} answers for {} settles", answers.len(), keys.len());
                self.settles_failed(keys, &weft_ledger::Error::Corrupt { what }, now);
                return;
            }
            Err(error) => {
                self.settles_failed(keys, &error, now);
                return;
            }
        };
        self.ledger_answered();
        let (mut acks, mut wake, mut late) = (Vec::new(), false, 0usize);
        for (key, answer) in keys.into_iter().zip(answers) {
            let Some(invocation) = self.invocations.get(&key) else { continue };
            let Phase::Settling { settle, then, .. } = &invocation.phase else { continue };
            match (answer, then) {
                (Settled::Done, AfterSettle::Ack) => {
                    crash::point(Point::AfterSettle);
                    let settlement = settle.to.clone();
                    self.count(&settlement);
                    spans::ack(&invocation.span, &self.queue);
                    let (answered, wakes) = self.settled(&key, settlement, now);
                    acks.extend(answered);
                    wake |= wakes;
                }
                (Settled::Done, AfterSettle::Release) => self.ask_again(&key, now),
                (Settled::Done, &AfterSettle::Wait(after)) => {
                    self.count(&settle.to);
                    let held = matches!(settle.to, Settlement::Held { .. }).then_some(settle.fence);
                    if let Some(invocation) = self.invocations.get_mut(&key) {
                        invocation.admitted.resume = invocation.admitted.resume.max(held);
                    }
                    self.wait_out(&key, after, now);
                }
                (Settled::AuthorityLost, _) => {
                    tracing::debug!(function = %self.function.name, %key, "late settle refused");
                    late += 1;
                    self.ask_again(&key, now);
                }
            }
        }
        if late > 0 {
            // One line for all: after an outage every answer that was lost on the way is asked for again.
            tracing::info!(function = %self.function.name, late, "late settles refused, asking the ledger");
        }
        if !acks.is_empty() {
            self.actions.push(Action::Ack(acks));
        }
        if wake {
            self.actions.push(Action::WakeRelay);
        }
    }

    /// What a settle that is written means for those that wait: whom to ack, and whether the outbox has something new.
    fn settled(&mut self, key: &Key, settlement: Settlement, now: Now) -> (Vec<DeliveryId>, bool) {
        let Some(invocation) = self.invocations.get(key) else { return (Vec::new(), false) };
        let function = self.function.name.clone();
        match settlement {
            Settlement::Succeeded { outbox, .. } => {
                let wants = |waiting: &Waiting| waiting.reply.is_some();
                let covered = invocation.covered.min(invocation.deliveries.len());
                let (asked, joined) = invocation.deliveries.split_at(covered);
                let wake = !outbox.is_empty() || asked.iter().any(wants);
                // A success is for good, whatever has joined since; but only those of the settle were answered by it.
                let answered =
                    if joined.iter().any(wants) { self.ack_covered(key, now) } else { self.forget(key, now) };
                (answered.into_iter().map(|waiting| waiting.id).collect(), wake)
            }
            Settlement::Waiting { retry, .. } | Settlement::Spared { retry, .. } => {
                let message = invocation.admitted.message.clone();
                let carried = address(&message, &self.prefix);
                let answered = self.ack_covered(key, now);
                (self.put_off(answered, &message, carried.as_ref(), retry.due_in), true)
            }
            Settlement::Dead { letter, .. } => {
                let took = invocation.took.clone();
                let answered = self.ack_covered(key, now);
                let acks = self.answer(answered, |address| {
                    Post::Message(Box::new(measured(refusal(&function, Some(key), Some(&letter), &address), &took)))
                });
                (acks, true)
            }
            Settlement::Held { .. } | Settlement::Released => {
                (self.ack_covered(key, now).into_iter().map(|waiting| waiting.id).collect(), false)
            }
        }
    }

    /// A settle that was not answered may have been written: asked again, it is refused by its own fence then, and
    /// the claim that follows tells where the invocation stands.
    fn settles_failed(&mut self, keys: Vec<Key>, error: &weft_ledger::Error, now: Now) {
        if error.blames_the_values() {
            self.settles_refused(keys, error, now);
            return;
        }
        self.to_settle.extend(keys);
        self.ledger_failed("settle", error, now);
    }

    fn count(&self, settlement: &Settlement) {
        match settlement {
            Settlement::Succeeded { .. } => self.stats.add(&self.stats.succeeded),
            Settlement::Waiting { .. } | Settlement::Spared { .. } | Settlement::Held { .. } => {
                self.stats.add(&self.stats.retries);
            }
            Settlement::Dead { letter, .. } => self.stats.died(letter.reason),
            Settlement::Released => {}
        }
    }

    /// Finds out anew where an invocation stands; in a drain the broker keeps it for whoever comes next.
    pub(super) fn ask_again(&mut self, key: &Key, now: Now) {
        if self.draining {
            let deliveries = self.forget(key, now);
            self.hand_back(deliveries.into_iter().map(|waiting| waiting.id).collect());
        } else {
            self.claim_again(key);
        }
    }
}

/// How long ago the event was first seen, in this epoch.
pub(super) fn age(claim: &Claim, now: Now) -> Duration {
    let age_ms = now.wall.as_millisecond().saturating_sub(claim.first_seen_at.as_millisecond());
    Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
}
