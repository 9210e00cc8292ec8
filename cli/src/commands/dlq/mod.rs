//! `weft dlq`: list, group, show, redrive and purge dead letters.

mod filter;
mod groups;
mod letter;
mod ls;
mod pages;
mod payload;
mod purge;
mod redrive;
mod show;

use weft_ledger::{DeadLetterQuery, DeadLetterRecord, Ledger};
use weft_process::report::{Code, Exit, Report};
use weft_schemas::DeadLetterId;

use crate::args::Dlq;

pub async fn run(args: Dlq) -> Result<Exit, Report> {
    match args {
        Dlq::Ls(args) => ls::run(args).await,
        Dlq::Groups(args) => groups::run(args).await,
        Dlq::Show(args) => show::run(args).await,
        Dlq::Redrive(args) => redrive::run(args).await,
        Dlq::Purge(args) => purge::run(args).await,
    }
}

async fn ask(ledger: &dyn Ledger, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Report> {
    ledger.dead_letters(query).await.map_err(|error| weft_dispatcher::report::ledger(&error))
}

/// The letter of an id, open or closed.
async fn find(ledger: &dyn Ledger, id: &str) -> Result<Option<DeadLetterRecord>, Report> {
    let query = DeadLetterQuery {
        id: Some(DeadLetterId(id.to_owned())),
        include_closed: true,
        limit: 1,
        ..DeadLetterQuery::default()
    };
    Ok(ask(ledger, &query).await?.pop())
}

/// What is said of ids that the ledger does not know.
fn unknown(ids: &[String]) -> Report {
    let what = if ids.len() == 1 { "the dead letter" } else { "the dead letters" };
    Report::new(Code::DeadLetterUnknown, format!("failed to find {what} {}", ids.join(", ")))
        .help("`weft dlq ls --all` lists them with their ids")
}

/// Each id once, in the order given. An unknown one is refused before anything is done with the others.
async fn known(ledger: &dyn Ledger, ids: &[String]) -> Result<Vec<DeadLetterId>, Report> {
    let mut seen = std::collections::BTreeSet::new();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for id in ids.iter().filter(|id| seen.insert(id.as_str())) {
        match find(ledger, id).await? {
            Some(record) => found.push(record.letter.id),
            None => missing.push(id.clone()),
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(unknown(&missing)) }
}

/// Redriven or purged: nothing is left to be done with it.
fn is_closed(record: &DeadLetterRecord) -> bool {
    record.redriven_at.is_some() || record.purged_at.is_some()
}

/// `1 dead letter`, `2 dead letters`.
fn letters(count: u64) -> String {
    format!("{count} dead letter{}", if count == 1 { "" } else { "s" })
}

/// An error in the middle of a long run, with what was done before it.
fn so_far(mut report: Report, done: &str) -> Report {
    let help = report.help.take().map(|help| format!("{help}; ")).unwrap_or_default();
    report.help(format!("{help}before it {done}; run the same again for the rest"))
}

/// Whom the ledger records: the login name and the host.
fn who() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.unwrap_or_else(|| format!("uid-{}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", super::hostname())
}
