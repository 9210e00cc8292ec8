//! Worker processes: they start, end attempts and die.

use super::*;

impl World {
    pub(super) fn ready(&mut self, which: u8) {
        let starting: Vec<WorkerId> = self.workers.iter().filter(|(_, worker)| !worker.up).map(|(&id, _)| id).collect();
        let Some(at) = usize::from(which).checked_rem(starting.len()) else { return };
        self.workers.get_mut(&starting[at]).unwrap().up = true;
        let ready = FromWorker::Ready { registered: super::registered(), init: Duration::ZERO };
        self.hand(Input::Worker(starting[at], ready));
    }

    pub(super) fn finish(&mut self, which: u8, end: End) {
        let running: Vec<(WorkerId, InvocationId)> = self
            .workers
            .iter()
            .flat_map(|(&worker, process)| process.running.keys().map(move |&id| (worker, id)))
            .collect();
        let Some(at) = usize::from(which).checked_rem(running.len()) else { return };
        let (worker, id) = running[at];
        let run = self.workers.get_mut(&worker).unwrap().running.remove(&id).unwrap();
        let outcome = match end {
            End::Committed if self.books.commit(&run.key, run.fence) => Outcome::Committed { result: Bytes::new() },
            End::Committed => Outcome::Superseded,
            _ if run.cancelled => Outcome::Superseded,
            End::Succeeded => Outcome::Succeeded { result: Bytes::new() },
            End::Retry => Outcome::Retry { error: error(), after_ms: None },
            End::Failed => Outcome::Failed { error: error() },
            End::TimedOut => Outcome::TimedOut,
            End::Drained => Outcome::Drained,
        };
        self.note_settled();
        let from = FromWorker::Outcome { id, outcome, emits: Vec::new(), entered_us: None };
        self.hand(Input::Worker(worker, from));
    }

    /// A worker goes away; what it ran may have committed and not been told.
    pub(super) fn die(&mut self, which: u8, committed: bool) {
        let Some(at) = usize::from(which).checked_rem(self.workers.len()) else { return };
        let (&id, process) = self.workers.iter().nth(at).unwrap();
        if committed {
            let runs: Vec<(Key, Fence)> = process.running.values().map(|run| (run.key.clone(), run.fence)).collect();
            for (key, fence) in runs {
                self.books.commit(&key, fence);
            }
            self.note_settled();
        }
        let ready = self.workers.remove(&id).unwrap().up;
        let ending = Ending { ready, how: How::Signalled(9), stderr_tail: String::new() };
        self.hand(Input::Worker(id, FromWorker::Gone(ending)));
    }
}
