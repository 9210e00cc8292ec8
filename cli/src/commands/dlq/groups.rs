//! `weft dlq groups`: what dead letters died of.

use jiff::Timestamp;
use serde_json::json;
use weft_ledger::{DeadLetterGroup, DeadLetterQuery, DeadLetterRecord, Ledger};
use weft_process::report::{Exit, Report};

use super::filter;
use crate::args;
use crate::services::Services;
use crate::show;

/// More groups than anybody reads. What is counted from groups is exact below it.
const MOST: u32 = 100_000;

pub async fn run(args: args::DlqGroups) -> Result<Exit, Report> {
    let mut query = filter::query(&args.selection.filter, Timestamp::now())?;
    query.include_closed = args.all;
    let ledger = Services::resolve(&args.selection.services)?.checked_ledger().await?;
    let groups = of_query(ledger.as_ref(), &query).await?;
    if args.selection.json {
        show::json(&groups.iter().map(as_json).collect::<Vec<_>>())?;
    } else {
        table(&groups)?;
    }
    Ok(Exit::Ok)
}

/// The groups of what a query finds, largest first.
pub async fn of_query(ledger: &dyn Ledger, query: &DeadLetterQuery) -> Result<Vec<DeadLetterGroup>, Report> {
    let query = DeadLetterQuery { limit: MOST, ..query.clone() };
    ledger.dead_letter_groups(&query).await.map_err(|error| weft_dispatcher::report::ledger(&error))
}

/// The groups of letters at hand, largest first.
pub fn of_records<'a>(records: impl Iterator<Item = &'a DeadLetterRecord>) -> Vec<DeadLetterGroup> {
    let mut groups: Vec<DeadLetterGroup> = Vec::new();
    for record in records {
        let letter = &record.letter;
        let known = groups.iter_mut().find(|group| {
            group.function == letter.function
                && group.reason == letter.reason
                && group.fingerprint == record.fingerprint
        });
        match known {
            Some(group) => {
                group.count += 1;
                group.first_at = group.first_at.min(record.buried_at);
                if record.buried_at > group.last_at {
                    group.last_at = record.buried_at;
                    group.error_message.clone_from(&letter.error.message);
                }
            }
            None => groups.push(DeadLetterGroup {
                function: letter.function.clone(),
                reason: letter.reason,
                error_kind: letter.error.kind.clone(),
                fingerprint: record.fingerprint.clone(),
                error_message: letter.error.message.clone(),
                count: 1,
                first_at: record.buried_at,
                last_at: record.buried_at,
            }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups
}

fn as_json(group: &DeadLetterGroup) -> serde_json::Value {
    let mut value = json!(group);
    value["code"] = json!(group.reason.code());
    value["page"] = json!(group.reason.page());
    value
}

pub fn total(groups: &[DeadLetterGroup]) -> u64 {
    groups.iter().map(|group| group.count).sum()
}

pub fn table(groups: &[DeadLetterGroup]) -> Result<(), Report> {
    show::table(&HEADER, groups.iter().map(row).collect())
}

const HEADER: [&str; 9] = ["COUNT", "FUNCTION", "REASON", "CODE", "ERROR", "FINGERPRINT", "FIRST", "LAST", "EXAMPLE"];

fn row(group: &DeadLetterGroup) -> Vec<String> {
    vec![
        group.count.to_string(),
        group.function.to_string(),
        group.reason.to_string(),
        group.reason.code().to_owned(),
        show::cut(&group.error_kind, 30),
        group.fingerprint.clone(),
        show::ago(group.first_at),
        show::ago(group.last_at),
        show::cut(&group.error_message, 60),
    ]
}
