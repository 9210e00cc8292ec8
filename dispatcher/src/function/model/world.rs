//! A dispatcher's surroundings in small: a queue, a ledger, workers, a lease, and another dispatcher. What the loop says
//! is checked as it is done.

mod ends;
mod rival;
mod statements;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_ledger::{ClaimRequest, OutboxKind, OutboxMessage, Owner, Settle, Settled, Settlement, State, Verdict};
use weft_schemas::frame::InvocationId;
use weft_schemas::manifest::{Function, Manifest};
use weft_schemas::{
    DeadLetter, DeadLetterId, Digest, Epoch, ErrorInfo, Event, Fence, Key, Message, NodeName, Outcome, Reason, requeue,
};

use super::super::core::{Action, Bounds, Burial, Core, Input, Now, WorkerPhase};
use super::books::{Books, Who, wall};
use super::{End, RivalEnd, Step};
use crate::admission::Admission;
use crate::broker::{Counts, Delivery, DeliveryId};
use crate::link::{Ending, FromWorker, How, Registered, WorkerId};
use crate::scale::Wish;
use crate::status::FunctionStats;

/// What the ledger was asked, in the order in which it was.
#[derive(Debug)]
enum Ask {
    Claim(Owner, Vec<ClaimRequest>),
    Settle(Vec<Settle>),
    Bury(Vec<Burial>),
}

#[derive(Debug)]
enum Answer {
    Claim(Vec<Verdict>),
    Settle(Vec<Settled>),
    /// Which of them are known, and so were not buried.
    Bury(Vec<bool>),
}

/// A statement under way. Done, its answer is on its way.
#[derive(Debug)]
struct Pending {
    ask: Ask,
    answer: Option<Answer>,
}

struct Held {
    message: Message,
    of: Option<(Key, Digest)>,
    received: u64,
}

#[derive(Default)]
struct Process {
    up: bool,
    drained: bool,
    running: BTreeMap<InvocationId, Run>,
}

struct Run {
    key: Key,
    fence: Fence,
    cancelled: bool,
}

pub struct World {
    function: Arc<Function>,
    /// What the function asks of an event, at first and by a manifest that was changed since.
    admission: Admission,
    stricter: Admission,
    changed: bool,
    core: Core,
    mono: Instant,
    step: u64,
    /// As the loop was told.
    owner: Option<i64>,
    books: Books,
    queue: VecDeque<(Message, bool)>,
    held: BTreeMap<DeliveryId, Held>,
    generation: u64,
    tag: u64,
    pending: Vec<Pending>,
    workers: BTreeMap<WorkerId, Process>,
    rival: Vec<(Key, Fence, Message)>,
    /// When a key last stood succeeded, dead or parked.
    settled: BTreeMap<Key, u64>,
    draining: bool,
    ended: bool,
    stopped: bool,
    /// The broker was asked what is behind.
    looking: bool,
    /// The node: what is wished, whether that is to be answered, what is granted, and how much it has.
    wish: Wish,
    wished: bool,
    granted: u32,
    node: u32,
    /// The function's events have an order, and the queue a single active consumer.
    ordered: bool,
    /// What was published to each lane, in order.
    arrived: BTreeMap<u8, Vec<Key>>,
}

fn core(function: &Arc<Function>, admission: &Admission) -> Core {
    let bounds =
        Bounds { workers: 2, reserved: u32::MAX, prefetch: 3, starts: 2, shared: true, drain: Duration::from_secs(5) };
    let stats = Arc::new(FunctionStats::default());
    let mut core = Core::new(Arc::clone(function), "weft", admission.clone(), bounds, stats);
    core.random = fastrand::Rng::with_seed(7);
    core
}

fn message(key: u8, payload: bool) -> Message {
    let data = serde_json::json!({ "k": format!("k{key}"), "p": payload });
    event(&format!("{key}-{payload}"), &data)
}

/// The `n`th event of a lane, each with a key of its own.
fn in_lane(lane: u8, n: usize) -> Message {
    let name = format!("k{lane}-{n}");
    event(&name, &serde_json::json!({ "k": name, "l": lane }))
}

fn event(id: &str, data: &serde_json::Value) -> Message {
    let event = Event {
        id: id.to_owned(),
        source: "/t".to_owned(),
        kind: "e".to_owned(),
        subject: None,
        time: None,
        datacontenttype: Some("application/json".to_owned()),
        dataschema: None,
        extensions: BTreeMap::new(),
        data: Bytes::from(data.to_string()),
    };
    event.to_message("weft.events", "e")
}

pub(super) fn registered() -> Registered {
    Registered { handlers: vec!["f".to_owned()], batch_handlers: Vec::new(), any: false }
}

fn error() -> ErrorInfo {
    ErrorInfo::new("E", "m")
}

impl World {
    pub fn new() -> Self {
        Self::make(false)
    }

    /// Events have an order, and nobody else takes them while we do.
    pub fn ordered() -> Self {
        Self::make(true)
    }

    fn manifest(ordered: bool) -> String {
        let text = "[functions.f]\ncommand = [\"./f\"]\nevents = [\"e\"]\nslots = 2\nkeep_alive = \"1s\"\n\
                    idempotency = { key = \"/data/k\" }\nretry = { attempts = 4 }\n";
        format!("{text}{}", if ordered { "ordering = { key = \"/data/l\" }\n" } else { "" })
    }

    fn make(ordered: bool) -> Self {
        let manifest = Manifest::parse(&Self::manifest(ordered), Path::new("/")).unwrap();
        let function = Arc::new(manifest.functions.values().next().unwrap().clone());
        let admission = Admission::new(Arc::clone(&function)).unwrap();
        // One of the two payloads is too large for it.
        let most = message(0, true).body.len() as u64;
        let less = Arc::new(Function { max_event_bytes: most, ..function.as_ref().clone() });
        let mut world = Self {
            core: core(&function, &admission),
            function,
            admission,
            stricter: Admission::new(less).unwrap(),
            changed: false,
            mono: Instant::now(),
            step: 0,
            owner: None,
            books: Books::new(),
            queue: VecDeque::new(),
            held: BTreeMap::new(),
            generation: 1,
            tag: 0,
            pending: Vec::new(),
            workers: BTreeMap::new(),
            rival: Vec::new(),
            settled: BTreeMap::new(),
            draining: false,
            ended: false,
            stopped: false,
            looking: false,
            wish: Wish::default(),
            wished: false,
            granted: 0,
            node: 2,
            ordered,
            arrived: BTreeMap::new(),
        };
        world.own();
        world
    }

    fn now(&self) -> Now {
        let ms = self.books.now_ms;
        Now { mono: self.mono + Duration::from_millis(ms), shared_us: ms * 1000, wall: wall(ms) }
    }

    fn own(&mut self) {
        self.owner = Some(self.books.us.incarnation);
        let owner = Owner { node: NodeName::new("n").unwrap(), incarnation: self.books.us.incarnation };
        self.hand(Input::Owner(Some(owner)));
    }

    /// Hands one input to the loop and does what it says.
    fn hand(&mut self, input: Input) {
        assert!(!self.stopped, "an input after the loop has stopped");
        let now = self.now();
        let tick = matches!(input, Input::Tick);
        let actions = self.core.handle(input, now);
        if tick {
            let next = self.core.next_timer();
            assert!(next.is_none_or(|at| at > now.mono), "a timer that is due stays due: the loop would spin");
        }
        for action in actions {
            assert!(!self.stopped, "{action:?} after Stopped");
            self.act(action);
        }
        for (key, row) in &self.books.rows {
            if row.state != State::Claimed {
                self.settled.insert(key.clone(), self.step);
            }
        }
        // The node answers at once, as its lock does.
        if std::mem::take(&mut self.wished) && !self.stopped {
            self.grant();
        }
    }

    fn grant(&mut self) {
        self.granted = self.wish.total().min(self.node);
        self.hand(Input::Granted(self.granted));
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Claim { owner, requests } => self.ask(Ask::Claim(owner, requests)),
            Action::Settle(settles) => self.ask(Ask::Settle(settles)),
            Action::Bury(burials) => self.ask(Ask::Bury(burials)),
            Action::Ack(ids) => ids.into_iter().for_each(|id| self.ack(id)),
            Action::Requeue(ids) => {
                assert!(!self.ordered, "handed back out of its turn");
                for id in ids {
                    if let Some(held) = self.let_go(id) {
                        self.queue.push_back((held.message, true));
                    }
                }
            }
            Action::Launch(id) => {
                let staying = self.core.workers.values().filter(|worker| worker.phase != WorkerPhase::Draining).count();
                assert!(staying <= self.granted as usize, "{id:?} starts beyond what the node grants");
                let known = self.workers.insert(id, Process::default());
                assert!(known.is_none(), "{id:?} launched twice");
            }
            Action::Invoke(id, invoke) => {
                let beside = self.workers.iter().any(|(id, worker)| {
                    worker.running.iter().any(|(run, running)| running.key == invoke.key && !self.given_up(*id, *run))
                });
                assert!(!beside, "{} runs twice at once", invoke.key);
                self.is_its_turn(&invoke.key);
                assert!(self.core.used() <= self.core.bounds.reserved as usize, "more runs than is reserved");
                assert!(!self.core.workers[&id].condemned, "{id:?} is condemned and gets work");
                let granted = self.books.granted.get(&(invoke.key.clone(), invoke.fence.0)).copied();
                assert!(granted.is_some() && granted == self.owner, "{} runs on a claim of a lost lease", invoke.key);
                let worker = self.workers.get_mut(&id).expect("it is known");
                assert!(worker.up && !worker.drained, "{id:?} takes no work");
                let run = Run { key: invoke.key, fence: invoke.fence, cancelled: false };
                worker.running.insert(invoke.id, run);
            }
            Action::InvokeBatch(..) => panic!("the function has no batch"),
            Action::Cancel(id, invocation) => {
                let run = self.workers.get_mut(&id).and_then(|worker| worker.running.get_mut(&invocation));
                if let Some(run) = run {
                    run.cancelled = true;
                }
            }
            Action::DrainWorker(id) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    assert!(worker.running.is_empty(), "{id:?} is sent home in the middle of its work");
                    worker.drained = true;
                }
            }
            Action::KillWorker(id) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.drained = true;
                }
            }
            Action::Wish(wish) => {
                let there = (wish.staying + wish.leaving) as usize;
                assert!(there == self.workers.len(), "{wish:?} is not what there is");
                self.wish = wish;
                self.wished = true;
            }
            Action::LookBehind => {
                assert!(!self.looking, "asked twice before an answer");
                self.looking = true;
            }
            Action::StopConsuming => assert!(!self.ordered, "the lanes are left to others before they have ended"),
            Action::WorkerGone(_) | Action::WakeRelay | Action::ForwardSpans(_) | Action::Prefetch(_) => {}
            Action::Entry(..) => panic!("nobody calls here"),
            Action::Post(_) => panic!("nobody asks for an answer here"),
            Action::Permits { .. } => panic!("the function has no bound over all dispatchers"),
            Action::Stopped => {
                if self.ordered {
                    // The channel closes.
                    self.reconnect();
                }
                assert!(self.held.is_empty(), "stopped with deliveries in hand");
                assert!(self.pending.is_empty() && self.workers.is_empty(), "stopped in the middle of something");
                self.stopped = true;
            }
        }
    }

    /// Whatever came before it in its lane has ended.
    fn is_its_turn(&self, key: &Key) {
        for lane in self.arrived.values() {
            let before = lane.iter().take_while(|before| *before != key).filter(|_| lane.contains(key));
            for earlier in before {
                let state = self.books.rows.get(earlier).map(|row| row.state);
                let ended = matches!(state, Some(State::Succeeded | State::Dead));
                assert!(ended, "{key} runs before {earlier} has ended: {state:?}");
            }
        }
    }

    fn publish(&mut self, key: u8, payload: bool) {
        if !self.ordered {
            self.queue.push_back((message(key, payload), false));
            return;
        }
        let lane = self.arrived.entry(key).or_default();
        // Some are a duplicate of the last.
        let n = if payload || lane.is_empty() { lane.len() } else { lane.len() - 1 };
        let message = in_lane(key, n);
        if n == lane.len() {
            lane.push(Key::new(format!("k{key}-{n}")).unwrap());
        }
        self.queue.push_back((message, false));
    }

    /// What the ordered world leaves out: another consumer beside ours, and letters that come back.
    fn leaves_out(&self, step: Step) -> bool {
        use Step::{Change, Redrive, RelayEarly, RivalCrashes, RivalEnds, RivalTakes};
        self.ordered
            && matches!(step, RivalTakes | RivalEnds { .. } | RivalCrashes | Redrive { .. } | RelayEarly | Change)
    }

    /// An attempt that ignored its deadline is settled before its worker is dead. Its retry waits for that; a redrive by
    /// hand does not.
    fn given_up(&self, id: WorkerId, run: InvocationId) -> bool {
        self.core.workers.get(&id).is_some_and(|worker| worker.condemned && !worker.running.contains_key(&run))
    }

    fn ask(&mut self, ask: Ask) {
        let same = |pending: &Pending| std::mem::discriminant(&pending.ask) == std::mem::discriminant(&ask);
        assert!(!self.pending.iter().any(same), "two statements of one kind at once: {ask:?}");
        self.pending.push(Pending { ask, answer: None });
    }

    /// Takes a delivery out of hand; `None` if its connection is gone, as the broker then has it.
    fn let_go(&mut self, id: DeliveryId) -> Option<Held> {
        let held = self.held.remove(&id);
        assert!(held.is_some() || id.generation < self.generation, "{id:?} is settled twice");
        held
    }

    /// No ack without a settled or parked row that postdates the delivery, or a letter of this very event.
    fn ack(&mut self, id: DeliveryId) {
        let Some(held) = self.let_go(id) else { return };
        // Duplicates of one event share the letter of the first.
        let lettered = self.books.letters.values().any(|(letter, _)| match &held.of {
            Some(_) => self.of(&letter.message) == held.of,
            None => letter.message.body == held.message.body,
        });
        let of = held.of.as_ref();
        let known = of.is_some_and(|(key, digest)| {
            let same = self.books.rows.get(key).is_some_and(|row| row.digest == *digest);
            let now = self.books.rows.get(key).is_some_and(|row| row.state != State::Claimed);
            same && (now || self.settled.get(key).is_some_and(|at| *at >= held.received))
        });
        assert!(known || lettered, "{:?} is acked and nothing stands for it: {:?}", held.of, self.books.rows);
    }

    /// Which event it is, whatever the manifest says of it by now.
    fn of(&self, message: &Message) -> Option<(Key, Digest)> {
        let admitted = self.admission.admit(message.clone(), true, self.now().wall).ok()?;
        Some((admitted.key, admitted.digest))
    }

    pub fn take(&mut self, step: Step) {
        if self.leaves_out(step) {
            return;
        }
        self.step += 1;
        match step {
            Step::Publish { key, payload } => self.publish(key, payload),
            Step::PublishGarbage => {
                let garbage = Message { body: Bytes::from_static(b"{"), ..message(0, true) };
                self.queue.push_back((garbage, false));
            }
            Step::Deliver { most } => self.deliver(usize::from(most)),
            Step::Relay => self.relay(self.books.now_ms),
            Step::RelayEarly => self.relay(u64::MAX),
            Step::Execute { which } => self.execute(which),
            Step::Answer { which } => self.answer(which),
            Step::Fail { which, executed } => self.fail(which, executed),
            Step::Ready { which } => self.ready(which),
            Step::Finish { which, end } => self.finish(which, end),
            Step::Die { which, committed } => self.die(which, committed),
            Step::Pass { ms } => self.pass(ms),
            Step::Node { workers } => {
                self.node = workers;
                self.grant();
            }
            Step::LapseUnknown => self.books.us.live = false,
            Step::LoseLease { left } => {
                self.owner = None;
                self.books.us.live &= !left;
                self.hand(Input::Owner(None));
            }
            Step::Reenter => self.reenter(),
            Step::Reconnect => self.reconnect(),
            Step::RivalTakes => self.rival_takes(),
            Step::RivalEnds { which, end, acks } => self.rival_ends(which, end, acks),
            Step::RivalCrashes => self.rival_crashes(),
            Step::Redrive { which } => self.books.redrive(usize::from(which), &self.function.name),
            Step::Crash => self.crash(),
            Step::Change => {
                self.changed = !self.changed;
                self.crash();
            }
            Step::CodeChanged => self.hand(Input::CodeChanged),
            Step::Reserve { bound } => self.hand(Input::Reserve(bound)),
            Step::Drain => {
                self.draining = true;
                self.hand(Input::Drain);
            }
            Step::EndDeliveries => self.end_deliveries(),
        }
        if self.stopped {
            self.restart();
        }
        self.nothing_is_stranded();
    }

    /// Whatever is not settled has a message somewhere that brings it back.
    fn nothing_is_stranded(&self) {
        for (key, row) in &self.books.rows {
            if !matches!(row.state, State::Claimed | State::Waiting) {
                continue;
            }
            let of = Some((key.clone(), row.digest));
            let outbox = self.books.outbox.iter().map(|(_, message)| message);
            let elsewhere = self.rival.iter().map(|(_, _, message)| message);
            let mut messages = outbox.chain(elsewhere).chain(self.queue.iter().map(|(message, _)| message));
            let carried =
                self.held.values().any(|held| held.of == of) || messages.any(|message| self.of(message) == of);
            assert!(carried, "{key} is stranded: {row:?}");
        }
    }

    fn deliver(&mut self, most: usize) {
        if self.ended {
            return;
        }
        let most = most.min(self.queue.len());
        let messages: Vec<(Message, bool)> = self.queue.drain(..most).collect();
        let mut deliveries = Vec::new();
        for (message, redelivered) in messages {
            self.tag += 1;
            let id = DeliveryId { generation: self.generation, tag: self.tag };
            let held = Held { of: self.of(&message), message: message.clone(), received: self.step };
            self.held.insert(id, held);
            deliveries.push(Delivery { id, redelivered, message });
        }
        if !deliveries.is_empty() {
            self.hand(Input::Delivered(deliveries));
        }
    }

    fn relay(&mut self, until_ms: u64) {
        let (due, later) = self.books.outbox.drain(..).partition(|(at, _)| *at <= until_ms);
        self.books.outbox = later;
        let due: Vec<(u64, Message)> = due;
        self.queue.extend(due.into_iter().map(|(_, message)| (message, false)));
    }

    fn pass(&mut self, ms: u64) {
        self.books.now_ms += ms;
        if std::mem::take(&mut self.looking) {
            let ready = self.queue.len() as u64;
            // Now and then it cannot say.
            let counts = Counts { ready, unacked: None, consumers: Some(1) };
            self.hand(Input::Behind((ready % 3 != 1).then_some(counts)));
        }
        if self.core.next_timer().is_some_and(|at| at <= self.now().mono) {
            self.hand(Input::Tick);
        }
    }
}
