//! What a claim that was not granted is answered with, and which claims are in doubt.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use weft_schemas::{Epoch, FunctionName, Key};

use crate::state::{Event, Facts, Illegal, next};
use crate::{ClaimRequest, State, Verdict};

/// How soon to ask again when the row changed, or could not be seen, between two statements.
const RACED: Duration = Duration::from_millis(50);
/// How long to wait at most for another owner, whose lease says when it must be over or renewed.
const BUSY: Duration = Duration::from_secs(1);

/// A row that a claim lost against, as a second look found it.
pub(crate) struct Standing {
    pub state: State,
    pub facts: Facts,
    pub epoch: Epoch,
    pub result: Option<Bytes>,
    /// For `claimed`: what is left of the owner's lease.
    pub lease_left: Duration,
    /// For `waiting`: until it is due.
    pub due_in: Duration,
}

/// The verdict for a claim that the statement did not grant.
pub(crate) fn of_loser(standing: Option<Standing>) -> Verdict {
    // A row that cannot be seen is being written by somebody else right now.
    let Some(standing) = standing else { return Verdict::Busy { retry_in: RACED } };
    match next(Some(standing.state), Event::Claim(standing.facts)) {
        // It could be claimed by now: it changed since the claim's statement.
        Ok(_) => Verdict::Busy { retry_in: RACED },
        Err(Illegal::Busy) => Verdict::Busy { retry_in: standing.lease_left.clamp(RACED, BUSY) },
        Err(Illegal::Deferred) => Verdict::Deferred { due_in: standing.due_in },
        Err(Illegal::Replay) => Verdict::Replay { result: standing.result.unwrap_or_default(), epoch: standing.epoch },
        Err(Illegal::Mismatch) => Verdict::Mismatch,
        Err(Illegal::Dead) => Verdict::Dead,
        // No claim ends so (see `state::next`); asking again is always safe.
        Err(Illegal::AuthorityLost | Illegal::NotDead | Illegal::Kept) => Verdict::Busy { retry_in: RACED },
    }
}

/// Claims whose answer was lost: the connection broke, or the caller stopped waiting, after the statement may have
/// committed. The row then says that this owner holds the invocation while nobody runs it, and as the owner's lease is
/// renewed, it would say so for ever. So the keys are remembered here, and the next claim of such a key by the same
/// owner takes it back (with a higher fence, and without counting an attempt, as none was started).
///
/// Written by [`Asked`] when dropped, read by the next claim. It dies with the process, as the incarnation does.
#[derive(Default)]
pub(crate) struct Doubts(Mutex<HashSet<(FunctionName, Key)>>);

impl Doubts {
    /// Begins a claim. What is asked is in doubt if the returned guard is dropped without [`Asked::answered`].
    pub fn ask<'a>(&'a self, function: &'a FunctionName, requests: &'a [ClaimRequest]) -> Asked<'a> {
        let doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let retake = if doubts.is_empty() {
            Vec::new()
        } else {
            let keys = requests.iter().map(|request| &request.key);
            keys.filter(|key| doubts.contains(&(function.clone(), (*key).clone()))).cloned().collect()
        };
        Asked { doubts: self, function, requests, retake, answered: false }
    }
}

/// A claim under way.
pub(crate) struct Asked<'a> {
    doubts: &'a Doubts,
    function: &'a FunctionName,
    requests: &'a [ClaimRequest],
    /// The keys among the requests whose earlier claim is in doubt.
    pub retake: Vec<Key>,
    answered: bool,
}

impl Asked<'_> {
    /// The whole answer is known: nothing of it is in doubt.
    pub fn answered(self) {
        self.answered_but(&HashSet::new());
    }

    /// The answer is known of all but those that were left out: what was in doubt of them is so still.
    pub fn answered_but(mut self, left_out: &HashSet<Key>) {
        self.retake.retain(|key| !left_out.contains(key));
        self.answered = true;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.answered && self.retake.is_empty() {
            return;
        }
        let mut doubts = self.doubts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.answered {
            for key in self.retake.drain(..) {
                doubts.remove(&(self.function.clone(), key));
            }
        } else {
            doubts.extend(self.requests.iter().map(|request| (self.function.clone(), request.key.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use weft_schemas::Digest;

    #[test]
    fn a_claim_without_an_answer_is_retaken_once() {
        let (doubts, function) = (Doubts::default(), FunctionName::new("f").unwrap());
        let requests = [ClaimRequest {
            key: Key::new("k").unwrap(),
            digest: Digest::of(&[b"x"]),
            resume: None,
            interrupted: false,
        }];
        drop(doubts.ask(&function, &requests));
        let asked = doubts.ask(&function, &requests);
        assert_eq!(asked.retake, [requests[0].key.clone()]);
        asked.answered();
        assert!(doubts.ask(&function, &requests).retake.is_empty());
    }

    #[test]
    fn a_claim_in_doubt_that_was_not_asked_for_is_in_doubt_still() {
        let (doubts, function) = (Doubts::default(), FunctionName::new("f").unwrap());
        let requests = ["a", "b"].map(|key| ClaimRequest {
            key: Key::new(key).unwrap(),
            digest: Digest::of(&[b"x"]),
            resume: None,
            interrupted: false,
        });
        drop(doubts.ask(&function, &requests));
        let left_out = HashSet::from([requests[1].key.clone()]);
        doubts.ask(&function, &requests).answered_but(&left_out);
        assert_eq!(doubts.ask(&function, &requests).retake, [requests[1].key.clone()]);
    }

    #[test]
    fn an_unseen_row_is_busy() {
        assert_eq!(of_loser(None), Verdict::Busy { retry_in: RACED });
    }
}
