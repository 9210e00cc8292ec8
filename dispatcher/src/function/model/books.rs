//! The ledger as the world has it: the rules of [`weft_ledger::state::next`] over a map.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use weft_ledger::state::{Event, Facts, Illegal, next};
use weft_ledger::{Claim, ClaimRequest, OutboxKind, OutboxMessage, Settle, Settled, Settlement, State, Verdict};
use weft_schemas::{Attempt, DeadLetter, DeadLetterId, Digest, Epoch, Fence, FunctionName, Key, Message, requeue};

/// Who holds a claim: the dispatcher under test, or the other one on the same services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Us,
    Rival,
}

#[derive(Debug, Clone)]
pub struct Row {
    pub state: State,
    pub attempt: u32,
    pub crashes: u32,
    pub epoch: u32,
    pub fence: i64,
    pub owner: (Who, i64),
    pub digest: Digest,
    pub due_ms: u64,
    pub first_ms: u64,
    /// The attempt that vanished last.
    pub vanished: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
pub struct Node {
    pub incarnation: i64,
    pub live: bool,
}

pub struct Books {
    pub now_ms: u64,
    pub rows: BTreeMap<Key, Row>,
    /// (due, message).
    pub outbox: Vec<(u64, Message)>,
    /// With whether it is open.
    pub letters: BTreeMap<DeadLetterId, (DeadLetter, bool)>,
    pub us: Node,
    pub rival: Node,
    /// Keys of claims of ours whose answer was lost.
    pub doubts: BTreeSet<Key>,
    /// Successes by key and epoch.
    pub effects: BTreeMap<(Key, u32), u32>,
    /// The incarnation of ours that a fence was granted to.
    pub granted: BTreeMap<(Key, i64), i64>,
}

/// The model's time zero on the wall clock.
const BASE: i64 = 1_700_000_000;

pub fn wall(ms: u64) -> Timestamp {
    Timestamp::from_millisecond(BASE * 1000 + i64::try_from(ms).unwrap()).unwrap()
}

impl Books {
    pub fn new() -> Self {
        let node = Node { incarnation: 1, live: true };
        Self {
            now_ms: 0,
            rows: BTreeMap::new(),
            outbox: Vec::new(),
            letters: BTreeMap::new(),
            us: node,
            rival: node,
            doubts: BTreeSet::new(),
            effects: BTreeMap::new(),
            granted: BTreeMap::new(),
        }
    }

    fn node(&self, who: Who) -> Node {
        match who {
            Who::Us => self.us,
            Who::Rival => self.rival,
        }
    }

    fn owner_live(&self, (who, incarnation): (Who, i64)) -> bool {
        let node = self.node(who);
        incarnation > node.incarnation || (incarnation == node.incarnation && node.live)
    }

    pub fn claim(&mut self, who: Who, incarnation: i64, request: &ClaimRequest, retake: bool) -> Verdict {
        let facts = self.rows.get(&request.key).map_or(
            Facts { same_payload: true, owner_live: false, due: false, expired: false },
            |row| Facts {
                same_payload: row.digest == request.digest,
                owner_live: self.owner_live(row.owner) && !(retake && row.owner == (who, incarnation)),
                due: row.due_ms <= self.now_ms || request.resume == Some(Fence(row.fence)),
                expired: false,
            },
        );
        let state = self.rows.get(&request.key).map(|row| row.state);
        let node = self.node(who);
        let may = node.incarnation == incarnation && node.live;
        let busy = Verdict::Busy { retry_in: Duration::from_millis(50) };
        match next(state, Event::Claim(facts)) {
            Ok(_) if may => Verdict::Run(self.grant(who, incarnation, request)),
            Ok(_) => busy,
            Err(Illegal::Replay) => Verdict::Replay { result: Bytes::new(), epoch: Epoch(0) },
            Err(Illegal::Deferred) => Verdict::Deferred { due_in: Duration::ZERO },
            Err(Illegal::Mismatch) => Verdict::Mismatch,
            Err(Illegal::Dead) => Verdict::Dead,
            Err(_) => busy,
        }
    }

    fn grant(&mut self, who: Who, incarnation: i64, request: &ClaimRequest) -> Claim {
        let now_ms = self.now_ms;
        let row = self.rows.entry(request.key.clone()).or_insert(Row {
            state: State::Waiting,
            attempt: 0,
            crashes: 0,
            epoch: 0,
            fence: 0,
            owner: (who, incarnation),
            digest: request.digest,
            due_ms: 0,
            first_ms: now_ms,
            vanished: None,
        });
        // Taking one's own claim back counts no attempt.
        if !(row.state == State::Claimed && row.owner == (who, incarnation)) {
            if row.state == State::Claimed {
                // Its attempt has no outcome.
                (row.vanished, row.crashes) = (Some(row.attempt), row.crashes + 1);
            }
            row.attempt += 1;
        }
        row.state = State::Claimed;
        row.fence += 1;
        row.owner = (who, incarnation);
        if who == Who::Us {
            self.granted.insert((request.key.clone(), row.fence), incarnation);
        }
        Claim {
            fence: Fence(row.fence),
            attempt: Attempt(row.attempt),
            crashes: row.crashes,
            epoch: Epoch(row.epoch),
            first_seen_at: wall(row.first_ms),
            vanished: row.vanished.is_some_and(|vanished| vanished + 1 == row.attempt),
        }
    }

    /// The row, if `fence` still holds it.
    fn held(&mut self, key: &Key, fence: Fence) -> Option<&mut Row> {
        self.rows.get_mut(key).filter(|row| row.state == State::Claimed && row.fence == fence.0)
    }

    /// The worker's own transaction.
    pub fn commit(&mut self, key: &Key, fence: Fence) -> bool {
        let to = Settlement::Succeeded { result: Bytes::new(), keep: Duration::ZERO, outbox: Vec::new() };
        self.settle(&Settle { key: key.clone(), fence, to }) == Settled::Done
    }

    pub fn settle(&mut self, settle: &Settle) -> Settled {
        let now_ms = self.now_ms;
        let Some(row) = self.held(&settle.key, settle.fence) else { return Settled::AuthorityLost };
        match &settle.to {
            Settlement::Succeeded { .. } => {
                row.state = State::Succeeded;
                let of = (settle.key.clone(), row.epoch);
                let effects = self.effects.entry(of).or_default();
                *effects += 1;
                assert_eq!(*effects, 1, "two effects of {}", settle.key);
            }
            Settlement::Waiting { crashed, retry, .. } => {
                row.state = State::Waiting;
                row.crashes += u32::from(*crashed);
                row.due_ms = now_ms + millis(retry.due_in);
                self.post(retry);
            }
            Settlement::Spared { retry, .. } => {
                row.state = State::Waiting;
                (row.attempt, row.crashes) = (row.attempt.saturating_sub(1), row.crashes + 1);
                row.due_ms = now_ms + millis(retry.due_in);
                self.post(retry);
            }
            Settlement::Held { crashed, spared, due_in, .. } => {
                row.state = State::Waiting;
                row.attempt = row.attempt.saturating_sub(u32::from(*spared));
                row.crashes += u32::from(*crashed);
                row.due_ms = now_ms + millis(*due_in);
            }
            Settlement::Dead { letter, .. } => {
                row.state = State::Dead;
                self.letters.insert(letter.id.clone(), (letter.as_ref().clone(), true));
            }
            Settlement::Released => {
                row.state = State::Waiting;
                row.attempt = row.attempt.saturating_sub(1);
                row.due_ms = now_ms;
            }
        }
        Settled::Done
    }

    pub fn post(&mut self, message: &OutboxMessage) {
        if matches!(message.kind, OutboxKind::Retry | OutboxKind::Redrive) {
            self.outbox.push((self.now_ms + millis(message.due_in), message.message.clone()));
        }
    }

    pub fn bury(&mut self, letter: &DeadLetter) {
        self.letters.insert(letter.id.clone(), (letter.clone(), true));
    }

    /// Brings an open letter back, as an operator does.
    pub fn redrive(&mut self, which: usize, function: &FunctionName) {
        let open: Vec<DeadLetterId> =
            self.letters.iter().filter(|(_, (_, open))| *open).map(|(id, _)| id.clone()).collect();
        let Some(id) = open.get(which.checked_rem(open.len()).unwrap_or(0)) else { return };
        let Some((letter, open)) = self.letters.get_mut(id) else { return };
        *open = false;
        if let Some(key) = &letter.key
            && letter.id == DeadLetterId::of_invocation(function, key, letter.epoch)
            && let Some(row) = self.rows.get_mut(key)
            && row.state == State::Dead
        {
            (row.state, row.attempt, row.crashes, row.vanished) = (State::Waiting, 0, 0, None);
            (row.epoch, row.due_ms, row.first_ms) = (row.epoch + 1, self.now_ms, self.now_ms);
        }
        let message = requeue::redrive_message(letter, "weft");
        self.outbox.push((self.now_ms, message));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}
