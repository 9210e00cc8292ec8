//! The judge: what the books must say. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::books::{Books, Row, Run};
use crate::workload::{End, TRANSACTIONAL, key};

/// What is judged. The text form is in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Judgement {
    /// A published and confirmed event without the end that it must have.
    Lost,
    /// More than one effect for a function, a key and an epoch.
    DoubleEffect,
    /// A success of a transactional function without its effect.
    MissingEffect,
    /// An effect without a success, or one of another fence than the success.
    StrangeEffect,
    /// An order's emitted event that did not succeed exactly once.
    Emitted,
    /// Claimed or waiting after everything was healed; a message left in a queue, a net or the outbox.
    Left,
    /// Two attempts with one fence, fences that do not grow with the attempts, or one above the ledger's own.
    Fence,
    /// A dead letter that must not be, or one that is missing.
    DeadLetter,
    /// Dead letters and the copies in their queues differ.
    Copies,
    /// A request without an answer, or with one that is not the stored result.
    Answers,
    /// A counter or a fenced value in the state is wrong.
    State,
    /// A dispatcher panicked, or did not stop in good order in the end.
    Dispatcher,
    /// An invocation of an event that nobody published.
    Stranger,
    /// `weft audit` says that something is not accounted for.
    Audit,
}

impl Judgement {
    pub const ALL: [Self; 14] = [
        Self::Lost,
        Self::DoubleEffect,
        Self::MissingEffect,
        Self::StrangeEffect,
        Self::Emitted,
        Self::Left,
        Self::Fence,
        Self::DeadLetter,
        Self::Copies,
        Self::Answers,
        Self::State,
        Self::Dispatcher,
        Self::Stranger,
        Self::Audit,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::DoubleEffect => "double_effects",
            Self::MissingEffect => "missing_effects",
            Self::StrangeEffect => "strange_effects",
            Self::Emitted => "emitted",
            Self::Left => "left",
            Self::Fence => "fences",
            Self::DeadLetter => "dead_letters",
            Self::Copies => "copies",
            Self::Answers => "answers",
            Self::State => "state",
            Self::Dispatcher => "dispatchers",
            Self::Stranger => "strangers",
            Self::Audit => "audit",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub judgement: Judgement,
    /// Function and key, where it is about one invocation.
    pub about: Option<(String, String)>,
    pub text: String,
}

type Name<'a> = (&'a str, &'a str);

/// Everything that is wrong with the books. Empty: the promise was kept.
pub fn judge(books: &Books) -> Vec<Finding> {
    let rows: BTreeMap<Name<'_>, &Row> =
        books.rows.iter().map(|row| ((row.function.as_str(), row.key.as_str()), row)).collect();
    let mut found = Vec::new();
    ends(books, &rows, &mut found);
    strangers(books, &mut found);
    effects(books, &rows, &mut found);
    emitted(books, &rows, &mut found);
    left(books, &mut found);
    fences(books, &rows, &mut found);
    dead_letters(books, &mut found);
    answers(books, &rows, &mut found);
    state(books, &mut found);
    for text in &books.faulty {
        found.push(Finding { judgement: Judgement::Dispatcher, about: None, text: text.clone() });
    }
    for text in &books.differences {
        found.push(Finding { judgement: Judgement::Audit, about: None, text: text.clone() });
    }
    found.sort();
    found
}

fn finding(judgement: Judgement, (function, key): Name<'_>, text: impl Into<String>) -> Finding {
    Finding { judgement, about: Some((function.to_owned(), key.to_owned())), text: text.into() }
}

/// Every event has its end. Those that never become invocations are judged by their dead letters.
fn ends(books: &Books, rows: &BTreeMap<Name<'_>, &Row>, found: &mut Vec<Finding>) {
    for event in &books.planned {
        let wanted = match event.end {
            End::Succeeded | End::Mismatch => "succeeded",
            End::Dead("terminal" | "crashed") => "dead",
            End::Dead(_) => continue,
        };
        let key = event.key();
        let name = (event.function, key.as_str());
        match rows.get(&name) {
            Some(row) if row.state == wanted => {}
            Some(row) => found.push(finding(Judgement::Lost, name, format!("is {} and must be {wanted}", row.state))),
            None => found.push(finding(Judgement::Lost, name, format!("is not in the ledger and must be {wanted}"))),
        }
    }
}

fn strangers(books: &Books, found: &mut Vec<Finding>) {
    let known: BTreeSet<(String, String)> =
        books.planned.iter().map(|event| (event.function.to_owned(), event.key())).collect();
    for row in &books.rows {
        let shipment = row.function == "ship" && row.key.starts_with("/weft/order ");
        if !shipment && !known.contains(&(row.function.clone(), row.key.clone())) {
            found.push(finding(Judgement::Stranger, (&row.function, &row.key), "nobody published it"));
        }
    }
}

fn effects(books: &Books, rows: &BTreeMap<Name<'_>, &Row>, found: &mut Vec<Finding>) {
    let mut seen: BTreeMap<(Name<'_>, i64), u32> = BTreeMap::new();
    for effect in &books.effects {
        let name = (effect.function.as_str(), effect.key.as_str());
        *seen.entry((name, effect.epoch)).or_default() += 1;
        match rows.get(&name) {
            Some(row) if row.state == "succeeded" && row.fence == effect.fence && row.epoch == effect.epoch => {}
            Some(row) => {
                let text = format!(
                    "its effect has fence {} and epoch {}; it is {} with fence {} and epoch {}",
                    effect.fence, effect.epoch, row.state, row.fence, row.epoch
                );
                found.push(finding(Judgement::StrangeEffect, name, text));
            }
            None => found.push(finding(Judgement::StrangeEffect, name, "an effect, and it is not in the ledger")),
        }
    }
    for ((name, epoch), count) in &seen {
        if *count > 1 {
            found.push(finding(Judgement::DoubleEffect, *name, format!("{count} effects in epoch {epoch}")));
        }
    }
    for (name, row) in rows {
        if row.state == "succeeded" && TRANSACTIONAL.contains(&name.0) && !seen.contains_key(&(*name, row.epoch)) {
            found.push(finding(Judgement::MissingEffect, *name, "succeeded without its effect"));
        }
    }
}

/// Each order that succeeded has emitted one event, and that one has succeeded once.
fn emitted(books: &Books, rows: &BTreeMap<Name<'_>, &Row>, found: &mut Vec<Finding>) {
    let mut shipped: BTreeMap<&str, u32> = BTreeMap::new();
    for effect in books.effects.iter().filter(|effect| effect.function == "ship") {
        *shipped.entry(effect.about.as_deref().unwrap_or_default()).or_default() += 1;
    }
    let orders = rows.iter().filter(|((function, _), row)| *function == "order" && row.state == "succeeded");
    for (name, _) in orders {
        match shipped.remove(name.1) {
            Some(1) => {}
            count => {
                let count = count.unwrap_or_default();
                found.push(finding(Judgement::Emitted, *name, format!("was shipped {count} times")));
            }
        }
    }
    for order in shipped.keys() {
        found.push(finding(Judgement::Emitted, ("order", order), "was shipped and has not succeeded"));
    }
}

fn left(books: &Books, found: &mut Vec<Finding>) {
    for row in books.rows.iter().filter(|row| matches!(row.state.as_str(), "claimed" | "waiting")) {
        let text = format!("is still {}", row.state);
        found.push(finding(Judgement::Left, (&row.function, &row.key), text));
    }
    let all = books.queues.iter().map(|(queue, count)| (queue.as_str(), *count)).chain([("the outbox", books.outbox)]);
    for (place, count) in all.filter(|(_, count)| *count > 0) {
        found.push(Finding { judgement: Judgement::Left, about: None, text: format!("{count} messages in {place}") });
    }
}

/// Every claim has a fence of its own, above all before it. The order of the run log is not judged: an attempt may be
/// paused between its claim and its first line. That such a late one has no effect is judged with the effects.
fn fences(books: &Books, rows: &BTreeMap<Name<'_>, &Row>, found: &mut Vec<Finding>) {
    for (name, mut runs) in by_key(books) {
        runs.sort_by_key(|run| run.fence);
        for pair in runs.windows(2) {
            let [one, two] = pair else { continue };
            if one.fence == two.fence {
                let text = format!(
                    "two attempts with fence {}: {} on {} and {} on {}",
                    one.fence, one.attempt, one.node, two.attempt, two.node
                );
                found.push(finding(Judgement::Fence, name, text));
            } else if (one.epoch, one.attempt) > (two.epoch, two.attempt) {
                let text = format!(
                    "fence {} is attempt {}, and the higher {} is attempt {}",
                    one.fence, one.attempt, two.fence, two.attempt
                );
                found.push(finding(Judgement::Fence, name, text));
            }
        }
        if let (Some(last), Some(row)) = (runs.last(), rows.get(&name))
            && last.fence > row.fence
        {
            let text = format!("an attempt had fence {}, the ledger knows {}", last.fence, row.fence);
            found.push(finding(Judgement::Fence, name, text));
        }
    }
}

/// The attempts of each invocation, in the order of the run log.
pub fn by_key(books: &Books) -> BTreeMap<Name<'_>, Vec<&Run>> {
    let mut runs: BTreeMap<Name<'_>, Vec<&Run>> = BTreeMap::new();
    for run in books.runs.iter().filter(|run| run.what == "begin") {
        runs.entry((run.function.as_str(), run.key.as_str())).or_default().push(run);
    }
    runs
}

fn dead_letters(books: &Books, found: &mut Vec<Finding>) {
    let reason = |end: End| match end {
        End::Succeeded => None,
        End::Dead(reason) => Some(reason),
        End::Mismatch => Some("mismatch"),
    };
    let wanted: BTreeSet<(&str, &str, &str)> = books
        .planned
        .iter()
        .filter_map(|event| Some((event.function, reason(event.end)?, event.id.as_str())))
        .collect();
    let mut there: BTreeMap<(&str, &str, &str), u32> = BTreeMap::new();
    for copy in &books.copies {
        *there.entry((&copy.function, &copy.reason, &copy.event)).or_default() += 1;
    }
    for (function, reason, event) in &wanted {
        if !there.contains_key(&(*function, *reason, *event)) {
            let text = format!("no dead letter of the reason {reason}");
            found.push(finding(Judgement::DeadLetter, (function, &key(event)), text));
        }
    }
    for ((function, reason, event), count) in &there {
        if !wanted.contains(&(*function, *reason, *event)) {
            let text = format!("died of {reason} and must not");
            found.push(finding(Judgement::DeadLetter, (function, &key(event)), text));
        } else if *count > 1 {
            found.push(finding(Judgement::DeadLetter, (function, &key(event)), format!("{count} letters of {reason}")));
        }
    }
    let letters: BTreeMap<&str, (&str, &str)> = books
        .letters
        .iter()
        .map(|letter| (letter.id.as_str(), (letter.function.as_str(), letter.reason.as_str())))
        .collect();
    let copies: BTreeMap<&str, (&str, &str)> =
        books.copies.iter().map(|copy| (copy.id.as_str(), (copy.function.as_str(), copy.reason.as_str()))).collect();
    for id in letters.keys().chain(copies.keys()).collect::<BTreeSet<_>>() {
        let (letter, copy) = (letters.get(id), copies.get(id));
        if letter != copy {
            let text = format!("letter {id} is {letter:?} in the ledger and {copy:?} in the queue");
            found.push(Finding { judgement: Judgement::Copies, about: None, text });
        }
    }
}

/// Every request has its answer, and every answer is what the ledger has stored, whichever attempt or duplicate it is for.
fn answers(books: &Books, rows: &BTreeMap<Name<'_>, &Row>, found: &mut Vec<Finding>) {
    let asked: BTreeMap<&str, Name<'_>> = books
        .requests
        .iter()
        .map(|request| (request.correlation.as_str(), (request.function, request.key.as_str())))
        .collect();
    let mut answered = BTreeSet::new();
    for answer in &books.answers {
        let Some(name) = asked.get(answer.correlation.as_str()) else {
            let text = format!("an answer to {:?}, which nobody asked", answer.correlation);
            found.push(Finding { judgement: Judgement::Answers, about: None, text });
            continue;
        };
        answered.insert(answer.correlation.as_str());
        let stored = rows.get(name).and_then(|row| row.result.as_deref());
        if answer.status != "succeeded" || stored != Some(answer.body.as_str()) {
            let (status, body) = (&answer.status, &answer.body);
            let text = format!("{} was answered {status} {body:?}, and {stored:?} is stored", answer.correlation);
            found.push(finding(Judgement::Answers, *name, text));
        }
    }
    for (correlation, name) in asked.iter().filter(|(correlation, _)| !answered.contains(*correlation)) {
        found.push(finding(Judgement::Answers, *name, format!("{correlation} has no answer")));
    }
}

/// Counters count each key once, or fewer after Redis was emptied; a value with a fence holds the highest that was set.
fn state(books: &Books, found: &mut Vec<Finding>) {
    let mut counted: BTreeMap<String, i64> = BTreeMap::new();
    let mut wrong = |text: String| found.push(Finding { judgement: Judgement::State, about: None, text });
    for counter in books.planned.iter().filter_map(|event| event.counter) {
        *counted.entry(format!("counter-{counter}")).or_default() += 1;
    }
    for (name, count) in &counted {
        let sum = books.state.get(name).copied().flatten().unwrap_or_default();
        let right = if books.flushed.is_some() { sum <= *count } else { sum == *count };
        if !right {
            wrong(format!("{name} is {sum}, and {count} keys count in it"));
        }
    }
    // What an attempt wrote that began before may have been thrown away.
    let began_before = |run: &&Run| books.flushed.is_some_and(|flushed| run.nanos <= flushed);
    let emptied: BTreeSet<&str> = books.runs.iter().filter(began_before).map(|run| run.key.as_str()).collect();
    let mut set: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in books.runs.iter().filter(|run| run.what == "set") {
        set.entry(run.key.as_str()).or_default().push(run);
    }
    for (key, runs) in set {
        let highest = runs.iter().map(|run| run.fence).max().unwrap_or_default();
        let value = books.state.get(&format!("fence {key}")).copied().flatten();
        // A worker that dies between the write and its line leaves a higher one behind.
        let right = value.is_some_and(|value| value >= highest) || emptied.contains(key);
        if !right {
            wrong(format!("the fence of {key} is {value:?} in the state, and {highest} was set"));
        }
    }
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
