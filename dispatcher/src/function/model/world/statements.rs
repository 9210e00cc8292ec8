//! The ledger's statements: they run, and their answers come, or do not.

use super::*;

impl World {
    pub(super) fn execute(&mut self, which: u8) {
        let mut waiting: Vec<&mut Pending> =
            self.pending.iter_mut().filter(|pending| pending.answer.is_none()).collect();
        let Some(at) = usize::from(which).checked_rem(waiting.len()) else { return };
        let pending = &mut waiting[at];
        pending.answer = Some(match &pending.ask {
            Ask::Claim(owner, requests) => {
                let books = &mut self.books;
                let claim = |request: &ClaimRequest| {
                    let retake = books.doubts.contains(&request.key);
                    books.claim(Who::Us, owner.incarnation, request, retake)
                };
                Answer::Claim(requests.iter().map(claim).collect())
            }
            Ask::Settle(settles) => Answer::Settle(settles.iter().map(|settle| self.books.settle(settle)).collect()),
            Ask::Bury(burials) => {
                let books = &mut self.books;
                let known = |burial: &Burial| {
                    burial.known_as.as_ref().is_some_and(|admitted| books.rows.contains_key(&admitted.key))
                };
                let known: Vec<bool> = burials.iter().map(known).collect();
                for (burial, _) in burials.iter().zip(&known).filter(|(_, known)| !**known) {
                    books.bury(&burial.letter);
                }
                Answer::Bury(known)
            }
        });
        self.note_settled();
    }

    pub(super) fn note_settled(&mut self) {
        for (key, row) in &self.books.rows {
            if row.state != State::Claimed {
                self.settled.insert(key.clone(), self.step);
            }
        }
    }

    pub(super) fn answer(&mut self, which: u8) {
        let done: Vec<usize> = (0..self.pending.len()).filter(|&at| self.pending[at].answer.is_some()).collect();
        let Some(at) = usize::from(which).checked_rem(done.len()) else { return };
        let Pending { ask, answer } = self.pending.remove(done[at]);
        let input = match (ask, answer) {
            (Ask::Claim(_, requests), Some(Answer::Claim(verdicts))) => {
                self.books.doubts.retain(|key| requests.iter().all(|request| request.key != *key));
                let keys = requests.into_iter().map(|request| request.key).collect();
                Input::Claimed { keys, result: Ok(verdicts) }
            }
            (Ask::Settle(settles), Some(Answer::Settle(settled))) => {
                Input::Settled { keys: settles.into_iter().map(|settle| settle.key).collect(), result: Ok(settled) }
            }
            (Ask::Bury(burials), Some(Answer::Bury(are_known))) => {
                let mut are_known = are_known.into_iter();
                let (known, burials) = burials.into_iter().partition(|_| are_known.next() == Some(true));
                Input::Buried { burials, known, result: Ok(()) }
            }
            (ask, answer) => panic!("{ask:?} and {answer:?}"),
        };
        self.hand(input);
    }

    /// A statement that is not answered: before it ran, or after.
    pub(super) fn fail(&mut self, which: u8, executed: bool) {
        let Some(at) = usize::from(which).checked_rem(self.pending.len()) else { return };
        if executed && self.pending[at].answer.is_none() {
            let pending = self.pending.remove(at);
            self.pending.push(pending);
            let waiting = self.pending.iter().filter(|pending| pending.answer.is_none()).count();
            self.execute(u8::try_from(waiting - 1).unwrap());
        }
        let at = if executed { self.pending.len() - 1 } else { at };
        let lost = || weft_ledger::Error::Unavailable { address: "x".to_owned(), source: "gone".into() };
        let input = match self.pending.remove(at).ask {
            Ask::Claim(_, requests) => {
                let keys: Vec<Key> = requests.into_iter().map(|request| request.key).collect();
                self.books.doubts.extend(keys.iter().cloned());
                Input::Claimed { keys, result: Err(lost()) }
            }
            Ask::Settle(settles) => {
                let keys = settles.into_iter().map(|settle| settle.key).collect();
                Input::Settled { keys, result: Err(lost()) }
            }
            Ask::Bury(burials) => Input::Buried { burials, known: Vec::new(), result: Err(lost()) },
        };
        self.hand(input);
    }
}
