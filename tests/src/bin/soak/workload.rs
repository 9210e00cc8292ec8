//! What is published: a pure function of the seed, tick by tick.

use std::collections::VecDeque;

use fastrand::Rng;
use serde_json::{Value, json};

/// The queue that the answers go to.
pub const ANSWERS: &str = "answers";

/// The CloudEvents source of every event.
pub const SOURCE: &str = "/soak";

/// How many counters `stock` counts in.
pub const COUNTERS: u32 = 7;

/// The functions whose success is one row in `effects`, written in the transaction that settles it.
pub const TRANSACTIONAL: [&str; 7] = ["pay", "order", "ship", "slow", "flaky", "mixed", "strict"];

/// Every function.
pub const FUNCTIONS: [&str; 9] = ["pay", "stock", "order", "ship", "slow", "flaky", "doomed", "mixed", "strict"];

/// Crashes that `mixed` allows: more than the innocent may come by in a run, few enough for the poison to die.
pub const MIXED_CRASHES: u32 = 8;

/// How an event must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// One success.
    Succeeded,
    /// Never an invocation that succeeds: dead for this reason.
    Dead(&'static str),
    /// One success and one dead letter of the reason `mismatch`: two payloads have the key, and either may be first.
    Mismatch,
}

/// An event that is published for the first time.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub id: String,
    pub function: &'static str,
    pub end: End,
    /// Which counter it counts in.
    pub counter: Option<u32>,
    /// As a line for `weft publish -f`.
    pub line: String,
}

impl Planned {
    /// The key that the ledger knows it by.
    pub fn key(&self) -> String {
        key(&self.id)
    }
}

/// The default key of an event with this id.
pub fn key(id: &str) -> String {
    format!("{SOURCE} {id}")
}

/// Somebody who waits for an answer: an event that must succeed, or its duplicate. Each asks for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub correlation: String,
    pub function: &'static str,
    pub key: String,
}

/// What is published together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Events that are new.
    pub fresh: Vec<Planned>,
    /// Lines on top: duplicates, and other payloads under keys that are known.
    pub again: Vec<String>,
    /// How many of `again` are duplicates.
    pub duplicates: usize,
    /// Those of `fresh` and of `again` that want an answer.
    pub requests: Vec<Request>,
}

impl Batch {
    /// All lines, for `weft publish -f`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in self.fresh.iter().map(|event| &event.line).chain(&self.again) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// How many recent events a duplicate is taken from.
const RECENT: usize = 400;

/// The generator.
pub struct Workload {
    rng: Rng,
    next: u64,
    recent: VecDeque<Planned>,
    /// How many requests there were: the correlation id of the next.
    asked: u64,
    /// Other payloads, with the number of batches until they are published.
    later: VecDeque<(u32, String)>,
}

impl Workload {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed ^ 0xe7_e2_75),
            next: 0,
            recent: VecDeque::with_capacity(RECENT),
            asked: 0,
            later: VecDeque::new(),
        }
    }

    /// The next batch: `count` new events, and a tenth as many duplicates.
    pub fn batch(&mut self, count: u32) -> Batch {
        let mut batch = Batch::default();
        for _ in 0..count {
            if self.rng.u32(..10) == 0
                && let Some(event) = self.recent.get(self.rng.usize(..self.recent.len().max(1)))
            {
                let event = event.clone();
                batch.again.push(self.asking(&event, &mut batch.requests).line);
                batch.duplicates += 1;
            }
            let event = self.event();
            if event.end != End::Mismatch {
                if self.recent.len() == RECENT {
                    self.recent.pop_front();
                }
                self.recent.push_back(event.clone());
            }
            batch.fresh.push(self.asking(&event, &mut batch.requests));
        }
        batch.again.extend(self.due());
        batch
    }

    /// The event as a request, if it must succeed.
    fn asking(&mut self, event: &Planned, requests: &mut Vec<Request>) -> Planned {
        let mut event = event.clone();
        if event.end == End::Succeeded {
            let correlation = format!("c{}", self.asked);
            self.asked += 1;
            let with = format!("{{\"reply_to\":\"{ANSWERS}\",\"correlation_id\":\"{correlation}\",");
            event.line = event.line.replacen('{', &with, 1);
            requests.push(Request { correlation, function: event.function, key: event.key() });
        }
        event
    }

    /// Other payloads that are due.
    fn due(&mut self) -> Vec<String> {
        let (mut now, mut kept) = (Vec::new(), VecDeque::new());
        for (wait, line) in self.later.drain(..) {
            match wait.checked_sub(1) {
                Some(wait) => kept.push_back((wait, line)),
                None => now.push(line),
            }
        }
        self.later = kept;
        now
    }

    /// The last batch: what has still to be published.
    pub fn rest(&mut self) -> Batch {
        Batch { again: self.later.drain(..).map(|(_, line)| line).collect(), ..Batch::default() }
    }

    fn event(&mut self) -> Planned {
        let number = self.next;
        self.next += 1;
        let id = format!("e{number}");
        let rng = &mut self.rng;
        let mut counter = None;
        let (function, end, data) = match rng.u32(..1000) {
            0..300 => ("pay", End::Succeeded, json!({ "n": number })),
            300..450 => {
                let chosen = rng.u32(..COUNTERS);
                counter = Some(chosen);
                ("stock", End::Succeeded, json!({ "counter": chosen }))
            }
            450..600 => ("order", End::Succeeded, json!({ "n": number })),
            600..640 => {
                // One in five runs longer than a lease.
                let ms = if rng.u32(..5) == 0 { rng.u32(3_500..5_000) } else { rng.u32(200..1_500) };
                ("slow", End::Succeeded, json!({ "ms": ms }))
            }
            640..740 => ("flaky", End::Succeeded, json!({ "until": rng.u32(2..5) })),
            740..860 => ("mixed", End::Succeeded, json!({ "n": number })),
            860..940 => ("strict", End::Succeeded, json!({ "n": number })),
            940..960 => ("doomed", End::Dead("terminal"), json!({ "n": number })),
            960..964 => ("mixed", End::Dead("crashed"), json!({ "poison": true })),
            964..974 => ("strict", End::Dead("schema"), json!({ "n": format!("not a number: {number}") })),
            974..984 => {
                let line = json!({
                    "mode": "structured", "type": "soak.strict", "id": id,
                    "raw": format!("{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"data\":{{"),
                });
                let line = line.to_string();
                return Planned { id, function: "strict", end: End::Dead("undecodable"), counter, line };
            }
            _ => {
                self.later.push_back((rng.u32(..4), line("pay", &id, &json!({ "n": number, "other": true }))));
                ("pay", End::Mismatch, json!({ "n": number }))
            }
        };
        let line = line(function, &id, &data);
        Planned { id, function, end, counter, line }
    }
}

/// A CloudEvent in binary mode.
pub fn line(function: &str, id: &str, data: &Value) -> String {
    json!({ "mode": "binary", "type": format!("soak.{function}"), "source": SOURCE, "id": id, "data": data })
        .to_string()
}

/// The manifest; `program` holds the handlers.
pub fn manifest(program: &str) -> String {
    let retry = |crashes: u32| {
        format!(
            "{{ attempts = 100, crashes = {crashes}, backoff = {{ first = \"100ms\", factor = 2.0, max = \"2s\" }} }}"
        )
    };
    let mut text = String::new();
    for function in FUNCTIONS {
        let crashes = if function == "mixed" { MIXED_CRASHES } else { 20 };
        text.push_str(&format!(
            "[functions.{function}]\ncommand = [{program:?}, \"handlers\"]\nevents = [\"soak.{function}\"]\n\
             timeout = \"15s\"\nslots = 16\nkeep_alive = \"20s\"\nretry = {}\n\
             env = {{ SOAK_RUNS = \"${{SOAK_RUNS}}\", SOAK_NODE = \"${{SOAK_NODE}}\", SOAK_TRAP = \"${{SOAK_TRAP}}\" }}\n",
            retry(crashes)
        ));
        if function == "strict" {
            text.push_str("schema = \"strict.json\"\n");
        }
        text.push('\n');
    }
    text
}

/// The JSON Schema of `strict`.
pub const STRICT_SCHEMA: &str =
    r#"{ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } }"#;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_events() {
        let (mut one, mut two) = (Workload::new(7), Workload::new(7));
        for _ in 0..50 {
            assert_eq!(one.batch(40), two.batch(40));
        }
        assert_ne!(Workload::new(7).batch(40), Workload::new(8).batch(40));
    }

    #[test]
    fn ids_are_new_and_every_end_comes_up() {
        let mut workload = Workload::new(1);
        let events: Vec<_> = (0..100).flat_map(|_| workload.batch(50).fresh).collect();
        let ids: BTreeSet<_> = events.iter().map(|event| &event.id).collect();
        assert_eq!(ids.len(), events.len());
        let mut ends: BTreeMap<End, usize> = BTreeMap::new();
        events.iter().for_each(|event| *ends.entry(event.end).or_default() += 1);
        assert_eq!(ends.len(), 6, "{ends:?}");
    }

    #[test]
    fn every_event_that_must_succeed_asks_and_so_does_each_duplicate_for_itself() {
        let mut workload = Workload::new(2);
        let batches: Vec<_> = (0..30).map(|_| workload.batch(50)).collect();
        let requests: Vec<_> = batches.iter().flat_map(|batch| &batch.requests).collect();
        let asking = |line: &&String| line.contains(r#""reply_to":"answers""#);
        let lines = batches.iter().flat_map(|batch| batch.fresh.iter().map(|event| &event.line).chain(&batch.again));
        assert_eq!(lines.filter(asking).count(), requests.len());
        let correlations: BTreeSet<_> = requests.iter().map(|request| &request.correlation).collect();
        assert_eq!(correlations.len(), requests.len());
        let keys: BTreeSet<_> = requests.iter().map(|request| &request.key).collect();
        let succeeding = |event: &&Planned| event.end == End::Succeeded;
        assert_eq!(keys.len(), batches.iter().flat_map(|batch| &batch.fresh).filter(succeeding).count());
        assert!(requests.len() > keys.len() + 50, "{} requests for {} events", requests.len(), keys.len());
    }

    #[test]
    fn every_other_payload_is_published_in_the_end() {
        let mut workload = Workload::new(3);
        let mut batches: Vec<_> = (0..30).map(|_| workload.batch(50)).collect();
        batches.push(workload.rest());
        let pairs = batches.iter().flat_map(|batch| &batch.fresh).filter(|event| event.end == End::Mismatch).count();
        let others = batches.iter().flat_map(|batch| &batch.again).filter(|line| line.contains("\"other\"")).count();
        let duplicates: usize = batches.iter().map(|batch| batch.duplicates).sum();
        assert!(pairs > 5 && duplicates > 50, "{pairs} pairs, {duplicates} duplicates");
        assert_eq!(pairs, others);
        assert_eq!(duplicates + others, batches.iter().map(|batch| batch.again.len()).sum::<usize>());
    }
}
