//! The node in virtual time: events in, decisions of [`crate::scale`], workers that start, run and stop.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use super::arrivals::{self, Arrival, Stream};
use super::figures::{FunctionRun, Run};
use super::policy::Policy;
use super::{Setup, Trace};
use crate::scale::adaptive::Adaptive;
use crate::scale::{self, Limit};

/// Replays the trace under one policy.
pub(super) fn run(trace: &Trace, setup: &Setup, policy: &Policy) -> Run {
    let mut node = Node::new(trace, setup, policy);
    node.begin();
    while let Some(Reverse(due)) = node.due.pop() {
        node.now = due.at;
        node.handle(due.event);
    }
    node.end()
}

/// What is due at a time. At the same time the one that was noted first comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    nth: u64,
    event: Event,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The pool's next event arrives.
    Arrival(usize),
    /// A worker says ready.
    Ready(usize, u32),
    /// An attempt in this worker ends.
    Done(usize, u32),
    /// A worker's keep-alive may be over, or what is to be kept warm changes.
    Look(usize),
}

/// How long idle workers stay.
enum Keep {
    For(Duration),
    Forever,
    Adaptive(Box<Adaptive>),
}

impl Keep {
    /// Until when a worker is kept; `None` while it is not idle, and for ever. What adaptive keeps, it keeps by its plan.
    fn until(&self, worker: &Worker) -> Option<Duration> {
        match self {
            Self::For(keep) => Some(worker.idle_since + *keep),
            Self::Forever => None,
            Self::Adaptive(_) => Some(worker.idle_since),
        }
        .filter(|_| worker.is_idle())
    }
}

struct Worker {
    ready: bool,
    /// No attempt has ended in it: what waited for it starts cold.
    fresh: bool,
    running: u32,
    launched: Duration,
    idle_since: Duration,
}

impl Worker {
    fn is_idle(&self) -> bool {
        self.ready && self.running == 0
    }
}

/// A claimed invocation without a slot.
struct Waiting {
    lasts: Duration,
    waited: bool,
}

struct Pool<'a> {
    stream: Stream<'a>,
    next: Option<Arrival>,
    waiting: VecDeque<Waiting>,
    workers: BTreeMap<u32, Worker>,
    launched: u32,
    running: u32,
    /// Workers that are kept whatever comes.
    least: u32,
    keep: Keep,
    memory_mb: f64,
    /// When [`Event::Look`] is due; an earlier one looks again.
    look: Option<Duration>,
    /// It stands in the node's `short`.
    short: bool,
    run: FunctionRun,
}

struct Node<'a> {
    setup: &'a Setup,
    /// Any moment: the decision is asked as of so long after it. Nothing depends on which.
    origin: Instant,
    now: Duration,
    end: Duration,
    due: BinaryHeap<Reverse<Due>>,
    noted: u64,
    pools: Vec<Pool<'a>>,
    /// Pools that want more workers than the node has room for, in turn.
    short: VecDeque<usize>,
    /// A worker has fallen idle or gone since those that are short of room were looked at.
    freed: bool,
    workers: u32,
    memory_mb: f64,
    peak_workers: u32,
    peak_memory_mb: f64,
}

impl<'a> Node<'a> {
    fn new(trace: &'a Trace, setup: &'a Setup, policy: &Policy) -> Self {
        let range = setup.range(trace);
        let slots = setup.slots.get();
        let pools = trace.functions.iter().enumerate().map(|(nth, function)| {
            let mut stream = Stream::new(function, nth, setup.arrivals, setup.seed, range);
            let (least, keep) = match policy {
                Policy::Fixed(keep) => (0, Keep::For(*keep)),
                Policy::Adaptive => (0, Keep::Adaptive(Box::new(Adaptive::new(setup.keep_alive)))),
                Policy::Provisioned(count) => (count.div_ceil(slots), Keep::For(setup.keep_alive)),
                Policy::AlwaysOn => {
                    let peak = u32::try_from(arrivals::peak(stream.clone())).unwrap_or(u32::MAX);
                    (peak.div_ceil(slots), Keep::Forever)
                }
            };
            let next = stream.next();
            Pool {
                stream,
                next,
                waiting: VecDeque::new(),
                workers: BTreeMap::new(),
                launched: 0,
                running: 0,
                least: setup.reserved.map_or(least, |reserved| least.min(reserved.get())),
                keep,
                memory_mb: function.memory_mb,
                look: None,
                short: false,
                run: FunctionRun::default(),
            }
        });
        let minutes = u32::try_from(range.1 - range.0).unwrap_or(u32::MAX);
        Self {
            setup,
            origin: Instant::now(),
            now: Duration::ZERO,
            end: Duration::from_secs(60).saturating_mul(minutes),
            due: BinaryHeap::new(),
            noted: 0,
            pools: pools.collect(),
            short: VecDeque::new(),
            freed: false,
            workers: 0,
            memory_mb: 0.0,
            peak_workers: 0,
            peak_memory_mb: 0.0,
        }
    }

    /// What is kept whatever comes has been there before the first minute.
    fn begin(&mut self) {
        for nth in 0..self.pools.len() {
            let Some(pool) = self.pools.get(nth) else { continue };
            let (least, first) = (pool.least, pool.next);
            for _ in 0..least {
                if self.free() > 0 {
                    self.launch(nth, true);
                }
            }
            if let Some(first) = first {
                self.note(first.at, Event::Arrival(nth));
            }
        }
    }

    fn end(mut self) -> Run {
        for pool in &mut self.pools {
            for worker in std::mem::take(&mut pool.workers).into_values() {
                pool.run.worker_time += self.end.saturating_sub(worker.launched);
            }
        }
        let unfinished = |pool: &Pool<'_>| u64::from(pool.running) + u64::from(count(pool.waiting.len()));
        Run {
            unfinished: self.pools.iter().map(unfinished).sum(),
            functions: self.pools.into_iter().map(|pool| pool.run).collect(),
            peak_workers: self.peak_workers,
            peak_memory_mb: self.peak_memory_mb,
        }
    }

    fn note(&mut self, at: Duration, event: Event) {
        self.noted += 1;
        self.due.push(Reverse(Due { at, nth: self.noted, event }));
    }

    fn handle(&mut self, event: Event) {
        let nth = match event {
            Event::Arrival(nth) => {
                self.arrive(nth);
                nth
            }
            Event::Ready(nth, id) => {
                if let Some(worker) = self.pools.get_mut(nth).and_then(|pool| pool.workers.get_mut(&id)) {
                    worker.ready = true;
                }
                self.fell_idle(nth, id);
                nth
            }
            Event::Done(nth, id) => {
                self.done(nth, id);
                nth
            }
            Event::Look(nth) => {
                if let Some(pool) = self.pools.get_mut(nth) {
                    pool.look = None;
                }
                nth
            }
        };
        self.act(nth);
        while std::mem::take(&mut self.freed) && !self.short.is_empty() {
            self.share();
        }
    }

    /// Gives room to the pools that are short of it, first come first served.
    fn share(&mut self) {
        for _ in 0..self.short.len() {
            if self.free() == 0 && !self.evict() {
                return;
            }
            let Some(nth) = self.short.pop_front() else { return };
            if let Some(pool) = self.pools.get_mut(nth) {
                pool.short = false;
            }
            self.act(nth);
        }
    }

    /// The phases that follow each input in the dispatcher's own loop: slots first, then workers.
    fn act(&mut self, nth: usize) {
        self.place(nth);
        self.scale(nth);
    }

    fn arrive(&mut self, nth: usize) {
        let Some(pool) = self.pools.get_mut(nth) else { return };
        let Some(arrival) = pool.next.take() else { return };
        pool.run.invocations += 1;
        pool.run.billed += arrival.lasts;
        pool.waiting.push_back(Waiting { lasts: arrival.lasts, waited: false });
        pool.next = pool.stream.next();
        if let Some(next) = pool.next {
            self.note(next.at, Event::Arrival(nth));
        }
    }

    /// Gives slots to what waits: the fullest worker with room first, of equals the newest, as the dispatcher does.
    fn place(&mut self, nth: usize) {
        let slots = self.setup.slots.get();
        loop {
            let Some(pool) = self.pools.get_mut(nth) else { return };
            if pool.waiting.is_empty() {
                return;
            }
            let room = pool.workers.iter_mut().filter(|(_, worker)| worker.ready && worker.running < slots);
            let Some((&id, worker)) = room.max_by_key(|(_, worker)| worker.running) else { return };
            let Some(waiting) = pool.waiting.pop_front() else { return };
            worker.running += 1;
            pool.running += 1;
            pool.run.cold_starts += u64::from(waiting.waited && worker.fresh);
            self.note(self.now + waiting.lasts, Event::Done(nth, id));
        }
    }

    fn done(&mut self, nth: usize, id: u32) {
        let Some(pool) = self.pools.get_mut(nth) else { return };
        let Some(worker) = pool.workers.get_mut(&id) else { return };
        worker.fresh = false;
        worker.running -= 1;
        pool.running -= 1;
        if worker.running == 0 {
            self.fell_idle(nth, id);
        }
    }

    fn fell_idle(&mut self, nth: usize, id: u32) {
        let Some(pool) = self.pools.get_mut(nth) else { return };
        let Some(worker) = pool.workers.get_mut(&id) else { return };
        worker.idle_since = self.now;
        self.freed = true;
    }

    /// Starts what is missing and stops what is kept long enough, as the dispatcher's own loop does.
    fn scale(&mut self, nth: usize) {
        let (now, end, slots) = (self.now, self.end, self.setup.slots.get());
        let most = self.setup.reserved.map_or(u32::MAX, std::num::NonZeroU32::get);
        let Some(pool) = self.pools.get_mut(nth) else { return };
        let demand = pool.running.saturating_add(count(pool.waiting.len())).div_ceil(slots);
        let missing = demand.min(most).saturating_sub(count(pool.workers.len()));
        let (mut expected, mut until) = (0, None);
        if let Keep::Adaptive(adaptive) = &mut pool.keep {
            adaptive.needs(now, demand.min(most));
            let plan = adaptive.plan(now);
            expected = plan.workers;
            until = plan.until;
        }
        for _ in self.free()..missing {
            if !self.evict() {
                break;
            }
        }
        let free = self.free();
        let Some(pool) = self.pools.get_mut(nth) else { return };
        let workers = count(pool.workers.len());
        let room = workers.saturating_add(free);
        let (mut starting, mut over) = (0, 0);
        for worker in pool.workers.values() {
            starting += u32::from(!worker.ready);
            match pool.keep.until(worker) {
                Some(kept) if kept <= now => over += 1,
                Some(kept) => until = Some(until.map_or(kept, |until: Duration| until.min(kept))),
                None => {}
            }
        }
        // One look at a time is due: one that is too early looks for the next.
        let look = until.filter(|&until| until < end && pool.look.is_none_or(|look| until < look));
        pool.look = look.or(pool.look);
        let signals = scale::Signals {
            running: pool.running,
            waiting: count(pool.waiting.len()),
            workers,
            starting,
            over,
            behind: Some(0),
            ..scale::Signals::default()
        };
        let policy = scale::Policy {
            slots,
            reserved: u32::MAX,
            most,
            granted: self.setup.node_workers.map(|_| room),
            least: pool.least,
            expected,
            starts: self.setup.starts.get(),
            max_age: Duration::MAX,
        };
        let decision = scale::decide(self.origin + now, &signals, &policy, &scale::Memory::default());
        // What has no slot even when all workers are there is throttled.
        let places = decision.demand.min(room).saturating_mul(slots).saturating_sub(pool.running);
        for (place, waiting) in (0..).zip(&mut pool.waiting) {
            let first = !std::mem::replace(&mut waiting.waited, true);
            pool.run.throttles += u64::from(first && decision.limit.is_some() && place >= places);
        }
        if decision.limit == Some(Limit::Node) && !pool.short {
            pool.short = true;
            self.short.push_back(nth);
        }
        if let Some(look) = look {
            self.note(look, Event::Look(nth));
        }
        for _ in workers..decision.workers.min(room) {
            self.launch(nth, false);
        }
        for _ in decision.workers..workers {
            self.stop_idle(nth);
        }
    }

    /// Stops the worker that has been idle longest, if its keep-alive is over.
    fn stop_idle(&mut self, nth: usize) {
        let Some(pool) = self.pools.get(nth) else { return };
        let over =
            pool.workers.iter().filter(|(_, worker)| pool.keep.until(worker).is_some_and(|until| until <= self.now));
        if let Some((&id, _)) = over.min_by_key(|(_, worker)| worker.idle_since) {
            self.stop(nth, id);
        }
    }

    /// Makes room on a full node: the worker that has been idle longest goes, provisioned ones excepted.
    /// `false`: there is none.
    fn evict(&mut self) -> bool {
        let mut oldest = None;
        for (nth, pool) in self.pools.iter().enumerate() {
            if count(pool.workers.len()) <= pool.least {
                continue;
            }
            for (&id, worker) in pool.workers.iter().filter(|(_, worker)| worker.is_idle()) {
                let this = (worker.idle_since, nth, id);
                oldest = Some(oldest.map_or(this, |oldest| this.min(oldest)));
            }
        }
        if let Some((_, nth, id)) = oldest {
            self.stop(nth, id);
        }
        oldest.is_some()
    }

    /// Workers that the node has room for.
    fn free(&self) -> u32 {
        self.setup.node_workers.map_or(u32::MAX, |most| most.get()).saturating_sub(self.workers)
    }

    fn launch(&mut self, nth: usize, ready: bool) {
        let Some(pool) = self.pools.get_mut(nth) else { return };
        let id = pool.launched;
        pool.launched += 1;
        let worker = Worker { ready, fresh: true, running: 0, launched: self.now, idle_since: self.now };
        pool.workers.insert(id, worker);
        pool.run.peak_workers = pool.run.peak_workers.max(count(pool.workers.len()));
        self.workers += 1;
        self.memory_mb += pool.memory_mb;
        self.peak_workers = self.peak_workers.max(self.workers);
        self.peak_memory_mb = self.peak_memory_mb.max(self.memory_mb);
        if !ready {
            self.note(self.now + self.setup.cold_start, Event::Ready(nth, id));
        }
    }

    fn stop(&mut self, nth: usize, id: u32) {
        let Some(pool) = self.pools.get_mut(nth) else { return };
        let Some(worker) = pool.workers.remove(&id) else { return };
        pool.run.worker_time += self.now.min(self.end).saturating_sub(worker.launched);
        self.workers -= 1;
        self.memory_mb -= pool.memory_mb;
        self.freed = true;
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
