//! `weft dlq ls`: dead letters, newest first.

use jiff::Timestamp;
use weft_ledger::DeadLetterRecord;
use weft_process::report::{Exit, Report};

use super::pages::Pages;
use super::{filter, letter};
use crate::args;
use crate::services::Services;
use crate::show;

pub async fn run(args: args::DlqLs) -> Result<Exit, Report> {
    let mut query = filter::query(&args.selection.filter, Timestamp::now())?;
    query.include_closed = args.all;
    let ledger = Services::resolve(&args.selection.services)?.checked_ledger().await?;
    let mut pages = Pages::new(ledger.as_ref(), query, args.limit);
    if args.selection.json {
        return as_json(&mut pages).await;
    }
    let header: &[&str] = if args.all { &HEADER } else { HEADER.split_last().map_or(&[], |(_, open)| open) };
    let mut page = pages.next().await?.unwrap_or_default();
    show::table(header, page.iter().map(|record| row(record, args.all)).collect())?;
    while let Some(next) = pages.next().await? {
        page = next;
        // The head is said once; columns fit their own page.
        if !show::rows(page.iter().map(|record| row(record, args.all)).collect())? {
            break;
        }
    }
    Ok(Exit::Ok)
}

/// One array on one line, written as it is read.
async fn as_json(pages: &mut Pages<'_>) -> Result<Exit, Report> {
    let mut before = "[";
    while let Some(page) = pages.next().await? {
        for record in &page {
            if !show::piece(&format!("{before}{}", letter::as_json(record)))? {
                return Ok(Exit::Ok);
            }
            before = ",";
        }
    }
    show::line(if before == "[" { "[]" } else { "]" })?;
    Ok(Exit::Ok)
}

/// The last column is there when closed letters are.
const HEADER: [&str; 9] = ["ID", "FUNCTION", "KEY", "REASON", "CODE", "ATTEMPTS", "DIED", "ERROR", "CLOSED"];

fn row(record: &DeadLetterRecord, closed: bool) -> Vec<String> {
    let letter = &record.letter;
    let mut row = vec![
        letter.id.to_string(),
        letter.function.to_string(),
        show::cut(letter.key.as_ref().map_or("-", |key| key.as_str()), 40),
        letter.reason.to_string(),
        letter.reason.code().to_owned(),
        letter.attempts.to_string(),
        show::ago(letter.last_at),
        show::cut(&format!("{}: {}", letter.error.kind, letter.error.message), 60),
    ];
    if closed {
        row.push(letter::closed(record).unwrap_or_default());
    }
    row
}
