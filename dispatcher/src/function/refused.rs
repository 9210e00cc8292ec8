//! Rows that the ledger does not take for what is in them: each is tried by itself, a few times, and then written with a
//! plain error in place of what it held. So one of them neither holds up the others nor goes round for ever.

use std::time::Duration;

use weft_ledger::Settlement;
use weft_schemas::{ErrorInfo, Key, Reason};

use super::core::{AfterSettle, Burial, Core, LetterOf, Now, Phase};
use super::timer::{Timer, What};

/// Refusals in a row after which a plain error is written instead.
const TRIES: u32 = 3;
/// The first wait, doubled for each refusal up to the second.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// The `error.kind` of an event that was given up because the ledger would not take what became of it.
const KIND: &str = "RefusedByLedger";

impl Core {
    /// A settle was refused for what is in it. Nothing of the batch was written.
    pub(super) fn settles_refused(&mut self, keys: Vec<Key>, error: &weft_ledger::Error, now: Now) {
        let [key] = keys.as_slice() else {
            // One by one, so that the guilty is found.
            self.batch = 1;
            self.to_settle.extend(keys);
            return;
        };
        let Some(invocation) = self.invocations.get_mut(key) else { return };
        invocation.refusals = invocation.refusals.saturating_add(1);
        let refusals = invocation.refusals;
        if refusals == TRIES {
            self.settle_plainly(key, error, now);
        }
        self.tell(key.as_str(), refusals, error);
        self.timers.push(Timer::new(now.mono + wait(refusals), What::Refused(key.clone())));
    }

    /// Puts a death with a plain error in the place of a settle.
    fn settle_plainly(&mut self, key: &Key, error: &weft_ledger::Error, now: Now) {
        let Some(invocation) = self.invocations.get(key) else { return };
        let Phase::Settling { claim, .. } = invocation.phase else { return };
        let of = LetterOf::Invocation { admitted: &invocation.admitted, claim: &claim };
        let (letter, copy) = self.letter(of, Reason::Terminal, plain(error), now);
        let to = Settlement::Dead { letter: Box::new(letter), copy };
        if let Some(invocation) = self.invocations.get_mut(key)
            && let Phase::Settling { settle, then, .. } = &mut invocation.phase
        {
            settle.to = to;
            *then = AfterSettle::Ack;
        }
    }

    pub(super) fn burials_refused(&mut self, mut burials: Vec<Burial>, error: &weft_ledger::Error, now: Now) {
        let [burial] = burials.as_mut_slice() else {
            self.batch = 1;
            self.to_bury.extend(burials);
            return;
        };
        burial.refusals = burial.refusals.saturating_add(1);
        if burial.refusals == TRIES {
            burial.letter.error = plain(error);
            burial.copy.message = burial.letter.to_message(&self.prefix);
        }
        let refusals = burial.refusals;
        self.tell(&burial.letter.id.0.clone(), refusals, error);
        self.timers.push(Timer::new(now.mono + wait(refusals), What::RefusedBurials));
        self.refused_burials.append(&mut burials);
    }

    pub(super) fn ask_bury(&mut self) {
        // What was refused before goes by itself.
        let together = self.to_bury.iter().take_while(|burial| burial.refusals == 0).count().max(1);
        let burials = self.to_bury.drain(..together.min(self.batch).min(self.to_bury.len())).collect();
        self.burying = true;
        self.actions.push(super::core::Action::Bury(burials));
    }

    /// Once when a plain error takes its place, and once when not even that is taken: then a person must look.
    fn tell(&self, what: &str, refusals: u32, error: &weft_ledger::Error) {
        let text = weft_process::report::chain(error);
        if refusals == TRIES {
            tracing::warn!(
                function = %self.function.name, what, error = text, "ledger refuses what became of an event, given up"
            );
        } else if refusals == 2 * TRIES {
            tracing::error!(
                function = %self.function.name, what, error = text,
                "ledger refuses an event in any form, it stays with the broker and is tried every minute"
            );
        }
    }
}

fn plain(error: &weft_ledger::Error) -> ErrorInfo {
    let text = weft_process::report::chain(error);
    ErrorInfo::new(KIND, format!("the ledger does not take what became of it: {text}"))
}

fn wait(refusals: u32) -> Duration {
    WAIT.0.saturating_mul(1 << refusals.min(16)).min(WAIT.1)
}
