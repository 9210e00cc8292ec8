//! From an outcome to an ack: the retry decision, the ledger's settle, and what its refusal means.

use std::time::Duration;

use weft_ledger::{Claim, Settle, Settled, Settlement};
use weft_process::crash::{self, Point};
use weft_schemas::{ErrorInfo, Event, Key, Outcome, Reason};

use super::core::{Action, AfterSettle, Core, LetterOf, Now, Phase, retry};
use crate::retry::{Ended, Next, decide};
use crate::spans;

impl Core {
    pub(super) fn on_outcome(&mut self, key: &Key, outcome: Outcome, emits: Vec<Event>, now: Now) {
        let Some(invocation) = self.invocations.get(key) else { return };
        let Phase::Running(running) = &invocation.phase else { return };
        let claim = running.claim;
        let superseded = running.superseded;
        spans::outcome(&invocation.step, &invocation.span, &outcome);
        let ended = Ended {
            outcome: match &outcome {
                Outcome::Committed { .. } | Outcome::Crashed { .. } => &outcome,
                // We cancelled it because our lease was lost: given back, if it is still ours to give.
                _ if superseded => &Outcome::Drained,
                _ => &outcome,
            },
            attempt: claim.attempt.0,
            crashes: claim.crashes,
            outages: invocation.outages,
            age: age(&claim, now),
            timeout: self.function.timeout,
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
        let next = decide(&self.function.retry, ended);
        self.note_outage(key, &outcome, now);
        let Some(invocation) = self.invocations.get(key) else { return };
        match next {
            Next::Succeed => {
                let Outcome::Succeeded { result } = outcome else { return };
                let outbox = emits.iter().map(|event| self.emitted(event, &invocation.span)).collect();
                let keep = self.function.idempotency.keep;
                self.settle(key, claim, Settlement::Succeeded { result, keep, outbox }, AfterSettle::Ack);
            }
            Next::Nothing => {
                crash::point(Point::AfterSettle);
                self.stats.add(&self.stats.succeeded);
                spans::ack(&invocation.span, &self.queue);
                let deliveries = self.forget(key, now);
                self.actions.push(Action::Ack(deliveries));
                self.actions.push(Action::WakeRelay);
            }
            Next::Again { after, error, crashed } => {
                tracing::info!(
                    function = %self.function.name, %key, attempt = claim.attempt.0, kind = error.kind, error = error.message,
                    after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX), "attempt failed, will be tried again"
                );
                let mut retry = retry(&invocation.admitted.message, &self.prefix, &self.function, claim.fence, after);
                spans::leave_link(&mut retry.message, &invocation.step);
                self.settle(key, claim, Settlement::Waiting { error, crashed, retry }, AfterSettle::Ack);
            }
            Next::Wait { after, .. } => self.settle(key, claim, Settlement::Released, AfterSettle::Wait(after)),
            Next::Dead { reason, error } => self.give_up(key, claim, reason, error, now),
            Next::Release => self.settle(key, claim, Settlement::Released, AfterSettle::Release),
            Next::AskAgain => self.ask_again(key, now),
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
            if let Some(invocation) = self.invocations.get_mut(&key)
                && let Phase::Settling { settle, .. } = &invocation.phase
            {
                invocation.covered = invocation.deliveries.len();
                settles.push(settle.as_ref().clone());
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
                    wake |= !matches!(&settle.to, Settlement::Succeeded { outbox, .. } if outbox.is_empty());
                    self.count(&settle.to);
                    spans::ack(&invocation.span, &self.queue);
                    let for_good = matches!(settle.to, Settlement::Succeeded { .. });
                    let answered = if for_good { self.forget(&key, now) } else { self.ack_covered(&key, now) };
                    acks.extend(answered);
                }
                (Settled::Done, AfterSettle::Release) => self.ask_again(&key, now),
                (Settled::Done, &AfterSettle::Wait(after)) => self.wait_out(&key, after, now),
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

    /// A settle that was not answered may have been written: asked again, it is refused by its own fence then, and
    /// the claim that follows tells where the invocation stands.
    fn settles_failed(&mut self, keys: Vec<Key>, error: &weft_ledger::Error, now: Now) {
        self.to_settle.extend(keys);
        self.ledger_failed("settle", error, now);
    }

    fn count(&self, settlement: &Settlement) {
        match settlement {
            Settlement::Succeeded { .. } => self.stats.add(&self.stats.succeeded),
            Settlement::Waiting { .. } => self.stats.add(&self.stats.retries),
            Settlement::Dead { letter, .. } => self.stats.died(letter.reason),
            Settlement::Released => {}
        }
    }

    /// Finds out anew where an invocation stands; in a drain the broker keeps it for whoever comes next.
    pub(super) fn ask_again(&mut self, key: &Key, now: Now) {
        if self.draining {
            let deliveries = self.forget(key, now);
            self.actions.push(Action::Requeue(deliveries));
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
