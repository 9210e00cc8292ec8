//! `weft dlq purge`: dead letters thrown away for good, after a question.

use jiff::Timestamp;
use serde_json::json;
use weft_ledger::{DeadLetterGroup, DeadLetterRecord, Ledger};
use weft_process::report::{Code, Exit, Report};
use weft_process::shutdown::Shutdown;
use weft_schemas::DeadLetterId;

use super::pages::{self, Pages};
use super::{filter, groups};
use crate::args;
use crate::services::Services;
use crate::show;

pub async fn run(args: args::DlqPurge) -> Result<Exit, Report> {
    let mut query = filter::query(&args.selection.filter, Timestamp::now())?;
    let ledger = Services::resolve(&args.selection.services)?.checked_ledger().await?;
    let ledger = ledger.as_ref();
    let (groups, ids) = if args.targets.ids.is_empty() {
        // What dies while the question is open is not what was asked about.
        let any = pages::freeze(ledger, &mut query).await?;
        (if any { groups::of_query(ledger, &query).await? } else { Vec::new() }, None)
    } else {
        let open = open(ledger, &args.targets.ids).await?;
        (groups::of_records(open.iter()), Some(open.into_iter().map(|record| record.letter.id).collect::<Vec<_>>()))
    };
    let matched = groups::total(&groups);
    if matched == 0 || args.targets.dry_run {
        return report(&args, &groups, 0, false);
    }
    if !args.yes {
        consent(&groups, matched)?;
    }
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to follow signals: {error}")))?;
    let bar = show::bar(Some(matched), args.selection.json);
    let mut purged = 0;
    let walk = match ids {
        Some(ids) => throw(ledger, &ids, &mut purged).await.map(|()| false),
        None => {
            let pages = Pages::new(ledger, query, None);
            throw_all(ledger, pages, &shutdown, &mut purged, |done| bar.set_position(done)).await
        }
    };
    bar.finish_and_clear();
    match walk {
        Ok(stopped) => report(&args, &groups, purged, stopped),
        Err(report) => Err(super::so_far(report, &format!("{} thrown away", super::letters(purged)))),
    }
}

/// The open ones among the ids, each once.
async fn open(ledger: &dyn Ledger, ids: &[String]) -> Result<Vec<DeadLetterRecord>, Report> {
    let mut open = Vec::new();
    for id in super::known(ledger, ids).await? {
        if let Some(mut record) = super::find(ledger, &id.0).await?
            && !super::is_closed(&record)
        {
            // Only its head is needed.
            record.letter.message = weft_schemas::Message::default();
            open.push(record);
        }
    }
    Ok(open)
}

/// Says what is at stake and asks. Where nobody can be asked, the answer is no.
fn consent(groups: &[DeadLetterGroup], matched: u64) -> Result<(), Report> {
    let what = super::letters(matched);
    let refused = |why: &str| Report::new(Code::NotConfirmed, format!("failed to throw {what} away: {why}"));
    if !show::is_interactive() {
        let report = refused("nobody can be asked here");
        return Err(report.help("look at them with `--dry-run`, then say `--yes`; nothing was thrown away"));
    }
    groups::table(groups)?;
    if show::confirm(&format!("throw {what} away for good? their invocations stay dead"))? {
        return Ok(());
    }
    Err(refused("nobody said yes").help("nothing was thrown away"))
}

async fn throw(ledger: &dyn Ledger, ids: &[DeadLetterId], purged: &mut u64) -> Result<(), Report> {
    let by = super::who();
    *purged += ledger.purge(ids, &by).await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    Ok(())
}

/// Page by page, until all are gone or a signal comes (`true`).
async fn throw_all(
    ledger: &dyn Ledger,
    mut pages: Pages<'_>,
    shutdown: &Shutdown,
    purged: &mut u64,
    progress: impl Fn(u64),
) -> Result<bool, Report> {
    while let Some(page) = pages.next().await? {
        if shutdown.drain.is_cancelled() {
            return Ok(true);
        }
        let ids: Vec<_> = page.into_iter().map(|record| record.letter.id).collect();
        throw(ledger, &ids, purged).await?;
        progress(*purged);
    }
    Ok(false)
}

fn report(args: &args::DlqPurge, groups: &[DeadLetterGroup], purged: u64, stopped: bool) -> Result<Exit, Report> {
    let matched = groups::total(groups);
    if args.selection.json {
        show::json(&json!({
            "dry_run": args.targets.dry_run,
            "matched": matched,
            "purged": purged,
            "groups": groups,
            "stopped": stopped,
        }))?;
    } else if args.targets.dry_run {
        groups::table(groups)?;
        show::line(&format!("would throw {} away", super::letters(matched)))?;
    } else {
        let mut text = format!("threw {} away", super::letters(purged));
        if stopped {
            text.push_str("; stopped by a signal, run the same again for the rest");
        }
        show::line(&text)?;
    }
    Ok(if stopped { Exit::Killed } else { Exit::Ok })
}
