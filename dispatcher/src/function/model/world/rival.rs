//! The other dispatcher on the same services.

use super::*;

impl World {
    pub(super) fn rival_takes(&mut self) {
        let Some((message, _)) = self.queue.pop_front() else { return };
        let Ok(admitted) = self.admission.admit(message.clone(), true, self.now().wall) else {
            self.queue.push_back((message, true));
            return;
        };
        let request = ClaimRequest {
            key: admitted.key.clone(),
            digest: admitted.digest,
            resume: admitted.resume,
            interrupted: false,
        };
        let incarnation = self.books.rival.incarnation;
        match self.books.claim(Who::Rival, incarnation, &request, false) {
            Verdict::Run(claim) => self.rival.push((admitted.key, claim.fence, message)),
            Verdict::Busy { .. } => self.queue.push_back((message, true)),
            Verdict::Replay { .. } | Verdict::Deferred { .. } | Verdict::Dead => {}
            Verdict::Mismatch => {
                let id = DeadLetterId::of_message(&self.function.name, Reason::Mismatch, &message);
                let letter = self.letter(id, admitted.key, requeue::epoch(&message), message);
                self.books.bury(&DeadLetter { reason: Reason::Mismatch, ..letter });
            }
        }
    }

    pub(super) fn letter(&self, id: DeadLetterId, key: Key, epoch: Epoch, message: Message) -> DeadLetter {
        let at = self.now().wall;
        DeadLetter {
            id,
            function: self.function.name.clone(),
            key: Some(key),
            epoch,
            reason: Reason::Terminal,
            error: error(),
            attempts: weft_schemas::Attempt(1),
            first_at: at,
            last_at: at,
            trace_id: None,
            message,
        }
    }

    pub(super) fn rival_ends(&mut self, which: u8, end: RivalEnd, acks: bool) {
        let Some(at) = usize::from(which).checked_rem(self.rival.len()) else { return };
        let (key, fence, message) = self.rival.remove(at);
        let to = match end {
            RivalEnd::Succeeds => {
                Settlement::Succeeded { result: Bytes::new(), keep: Duration::from_secs(1), outbox: Vec::new() }
            }
            RivalEnd::Retries => {
                let retry = requeue::retry_message(&message, "weft", &self.function.name, fence);
                let due_in = Duration::from_secs(5);
                let retry = OutboxMessage { kind: OutboxKind::Retry, due_in, message: retry };
                Settlement::Waiting { error: error(), crashed: false, retry }
            }
            RivalEnd::Dies => {
                let epoch = Epoch(self.books.rows[&key].epoch);
                let id = DeadLetterId::of_invocation(&self.function.name, &key, epoch);
                let letter = Box::new(self.letter(id, key.clone(), epoch, message.clone()));
                let copy =
                    OutboxMessage { kind: OutboxKind::DeadLetter, due_in: Duration::ZERO, message: message.clone() };
                Settlement::Dead { letter, copy }
            }
            RivalEnd::Releases => Settlement::Released,
        };
        let done = self.books.settle(&Settle { key, fence, to });
        if !(acks && done == Settled::Done && end != RivalEnd::Releases) {
            self.queue.push_back((message, true));
        }
    }

    pub(super) fn rival_crashes(&mut self) {
        self.books.rival.incarnation += 1;
        for (_, _, message) in std::mem::take(&mut self.rival) {
            self.queue.push_back((message, true));
        }
    }
}
