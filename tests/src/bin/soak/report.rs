//! What a run says in the end: a table for people, one JSON object for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::Args;
use crate::books::Books;
use crate::faults::Done;
use crate::oracle::{Finding, Judgement, by_key};
use crate::publisher::Published;

/// Findings of one judgement that are printed; the JSON has them all.
const SHOWN: usize = 20;

/// Everything that a report is made of.
pub struct Run<'a> {
    pub args: &'a Args,
    pub published: &'a Published,
    pub faults: &'a [Done],
    pub books: &'a Books,
    /// Starts of dispatchers beyond the first of each.
    pub restarts: usize,
    /// From the end of the faults until nothing was left to do.
    pub healing: Duration,
    pub findings: &'a [Finding],
}

/// How an invocation's attempts went from one dispatcher to another, and how many there were.
#[derive(Debug, Default, PartialEq, Eq)]
struct Attempts {
    all: usize,
    /// Beyond the first of each invocation.
    more: usize,
    /// Attempts whose predecessor ran on the other dispatcher.
    takeovers: usize,
    /// Attempts that began after one with a higher fence: paused between claim and beginning.
    late: usize,
}

fn attempts(books: &Books) -> Attempts {
    let mut counted = Attempts::default();
    for runs in by_key(books).values() {
        counted.all += runs.len();
        counted.more += runs.len().saturating_sub(1);
        counted.late += runs.windows(2).filter(|pair| matches!(pair, [one, two] if two.fence < one.fence)).count();
        let mut by_fence = runs.clone();
        by_fence.sort_by_key(|run| run.fence);
        counted.takeovers +=
            by_fence.windows(2).filter(|pair| matches!(pair, [one, two] if one.node != two.node)).count();
    }
    counted
}

/// Answers beyond the first for an invocation: stored results that were handed out again.
fn replays(books: &Books) -> usize {
    let asked: BTreeMap<&str, (&str, &str)> = books
        .requests
        .iter()
        .map(|request| (request.correlation.as_str(), (request.function, request.key.as_str())))
        .collect();
    let answered: BTreeMap<&str, &(&str, &str)> = books
        .answers
        .iter()
        .filter_map(|answer| Some((answer.correlation.as_str(), asked.get(answer.correlation.as_str())?)))
        .collect();
    answered.len() - answered.values().collect::<BTreeSet<_>>().len()
}

impl Run<'_> {
    fn faults_by_kind(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for fault in self.faults.iter().filter(|fault| fault.hit) {
            *kinds.entry(fault.what.kind()).or_default() += 1;
        }
        kinds
    }

    fn found(&self, judgement: Judgement) -> usize {
        self.findings.iter().filter(|finding| finding.judgement == judgement).count()
    }

    fn states(&self) -> BTreeMap<&str, usize> {
        let mut states = BTreeMap::new();
        self.books.rows.iter().for_each(|row| *states.entry(row.state.as_str()).or_default() += 1);
        states
    }

    fn dead_by_reason(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        self.books.letters.iter().for_each(|letter| *reasons.entry(letter.reason.as_str()).or_default() += 1);
        reasons
    }

    /// The whole report.
    pub fn json(&self) -> Value {
        let attempts = attempts(self.books);
        let judgements: BTreeMap<&str, usize> =
            Judgement::ALL.into_iter().map(|judgement| (judgement.as_str(), self.found(judgement))).collect();
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                let about = finding.about.as_ref().map(|(function, key)| json!({ "function": function, "key": key }));
                json!({ "judgement": finding.judgement.as_str(), "about": about, "text": finding.text })
            })
            .collect();
        let faults: Vec<Value> = self
            .faults
            .iter()
            .map(|fault| {
                json!({
                    "from": fault.from.as_secs_f64(), "until": fault.until.as_secs_f64(),
                    "what": fault.what.to_string(), "hit": fault.hit,
                })
            })
            .collect();
        json!({
            "verdict": if self.findings.is_empty() { "kept" } else { "broken" },
            "seed": self.args.seed,
            "minutes": self.args.length.as_secs_f64() / 60.0,
            "rate": self.args.rate,
            "messages": self.published.messages,
            "unique": self.published.events.len(),
            "duplicates": self.published.duplicates,
            "unconfirmed_batches": self.published.unconfirmed,
            "states": self.states(),
            "dead": self.dead_by_reason(),
            "effects": self.books.effects.len(),
            "attempts": attempts.all,
            "further_attempts": attempts.more,
            "takeovers": attempts.takeovers,
            "answers": self.books.answers.len(),
            "replays": replays(self.books),
            "late_beginnings": attempts.late,
            "restarts": self.restarts,
            "faults": self.faults.iter().filter(|fault| fault.hit).count(),
            "faults_by_kind": self.faults_by_kind(),
            "healing_seconds": self.healing.as_secs_f64(),
            "lost": self.found(Judgement::Lost),
            "double_effects": self.found(Judgement::DoubleEffect),
            "judgements": judgements,
            "findings": findings,
            "fault_log": faults,
        })
    }

    /// The table.
    pub fn print(&self) {
        let attempts = attempts(self.books);
        println!("\nfaults by kind");
        for (kind, count) in self.faults_by_kind() {
            println!("  {count:5}  {kind}");
        }
        let line = |name: &str, value: String| println!("  {name:22} {value}");
        println!("\nthe run");
        line("seed", self.args.seed.to_string());
        line("messages published", self.published.messages.to_string());
        line("unique events", self.published.events.len().to_string());
        line("duplicates", self.published.duplicates.to_string());
        line("batches sent again", self.published.unconfirmed.to_string());
        for (state, count) in self.states() {
            line(&format!("invocations {state}"), count.to_string());
        }
        for (reason, count) in self.dead_by_reason() {
            line(&format!("dead: {reason}"), count.to_string());
        }
        line("effects", self.books.effects.len().to_string());
        line("attempts", format!("{}, {} of them further ones", attempts.all, attempts.more));
        line("takeovers", attempts.takeovers.to_string());
        line("answers", self.books.answers.len().to_string());
        line("replays", replays(self.books).to_string());
        line("late beginnings", attempts.late.to_string());
        line("dispatcher restarts", self.restarts.to_string());
        line("healed after", format!("{:.1} s", self.healing.as_secs_f64()));
        println!("\njudged");
        for judgement in Judgement::ALL {
            println!("  {:22} {}", judgement.as_str(), self.found(judgement));
        }
        for judgement in self.findings.iter().map(|finding| finding.judgement).collect::<BTreeSet<_>>() {
            println!("\n{}", judgement.as_str());
            let its = self.findings.iter().filter(|finding| finding.judgement == judgement);
            for finding in its.clone().take(SHOWN) {
                println!("  {}", self.explained(finding));
            }
            let more = its.count().saturating_sub(SHOWN);
            if more > 0 {
                println!("  and {more} more");
            }
        }
        let verdict = if self.findings.is_empty() { "kept: 0 lost, 0 double effects" } else { "BROKEN" };
        println!("\nverdict: {verdict}");
    }

    /// A finding with the ledger's row and the attempts that it is about.
    pub fn explained(&self, finding: &Finding) -> String {
        let Some((function, key)) = &finding.about else { return finding.text.clone() };
        let mut text = format!("{function} {key:?}: {}", finding.text);
        if let Some(row) = self.books.rows.iter().find(|row| row.function == *function && row.key == *key) {
            text.push_str(&format!(
                "\n      ledger: {} attempt {} crashes {} epoch {} fence {}",
                row.state, row.attempt, row.crashes, row.epoch, row.fence
            ));
        }
        for run in self.books.runs.iter().filter(|run| run.function == *function && run.key == *key) {
            text.push_str(&format!(
                "\n      {}: fence {} attempt {} on {} (process {}) at {:.3} s",
                run.what,
                run.fence,
                run.attempt,
                run.node,
                run.pid,
                std::time::Duration::from_nanos(run.nanos).as_secs_f64()
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{books, workload};

    #[test]
    fn a_result_that_is_handed_out_again_is_a_replay_and_an_answer_sent_twice_is_none() {
        let request = |correlation: &str, key: &str| workload::Request {
            correlation: correlation.to_owned(),
            function: "pay",
            key: key.to_owned(),
        };
        let answer = |message: &str, correlation: &str| books::Answer {
            message: message.to_owned(),
            correlation: correlation.to_owned(),
            status: "succeeded".to_owned(),
            body: "{}".to_owned(),
        };
        let books = Books {
            requests: vec![request("c1", "a"), request("c2", "a"), request("c3", "b"), request("c4", "c")],
            answers: vec![answer("1", "c1"), answer("2", "c2"), answer("3", "c2"), answer("4", "c3")],
            ..Books::default()
        };
        assert_eq!(replays(&books), 1);
    }

    #[test]
    fn takeovers_and_late_beginnings_are_counted() {
        let run = |fence: i64, node: &str| books::Run {
            what: "begin".to_owned(),
            function: "pay".to_owned(),
            key: "k".to_owned(),
            fence,
            attempt: fence,
            epoch: 0,
            pid: 1,
            node: node.to_owned(),
            nanos: 0,
        };
        let books = Books { runs: vec![run(1, "a"), run(3, "b"), run(2, "a"), run(4, "b")], ..Books::default() };
        assert_eq!(attempts(&books), Attempts { all: 4, more: 3, takeovers: 1, late: 1 });
    }
}
