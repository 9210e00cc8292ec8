//! `weft dlq redrive`: dead letters run again, one transaction for each.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;
use weft_ledger::{DeadLetterQuery, DeadLetterRecord, Ledger, OutboxKind, OutboxMessage, Redrive, Redriven};
use weft_process::report::{Code, Exit, Report};
use weft_process::shutdown::Shutdown;
use weft_schemas::{DeadLetterId, Message, requeue};

use super::pages::{self, Pages};
use super::{filter, groups, payload};
use crate::args::{self, Rate};
use crate::services::Services;
use crate::show;

pub async fn run(args: args::DlqRedrive) -> Result<Exit, Report> {
    // Wrong flags are told before anything is connected.
    let query = filter::query(&args.selection.filter, Timestamp::now())?;
    if args.edit.is_some() && args.targets.ids.len() != 1 {
        return Err(Report::new(Code::Setting, "failed to edit: --edit takes the id of exactly one dead letter"));
    }
    let ledger = Services::resolve(&args.selection.services)?.checked_ledger().await?;
    let ledger = ledger.as_ref();
    if let (Some(file), [id]) = (&args.edit, args.targets.ids.as_slice()) {
        return edit(ledger, id, file.as_deref(), &args).await;
    }
    let Some((letters, total)) = letters(ledger, &args, query).await? else {
        return report(&Tally::default(), &args);
    };
    if args.targets.dry_run && !args.selection.json && args.targets.ids.is_empty() {
        // Only ids are worth a walk.
        return report(&Tally { redriven: total, ..Tally::default() }, &args);
    }
    let run = Run {
        ledger,
        by: super::who(),
        prefix: args.selection.services.prefix.clone(),
        rate: args.rate,
        dry_run: args.targets.dry_run,
        keep_ids: args.selection.json,
    };
    // From here on a signal stops between two letters.
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to follow signals: {error}")))?;
    let bar = show::bar(Some(total), args.selection.json || args.targets.dry_run);
    let mut tally = Tally::default();
    let ended = run.all(letters, &shutdown, &mut tally, |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    match ended {
        Ok(()) => report(&tally, &args),
        Err(report) => Err(super::so_far(report, &format!("{} redriven", super::letters(tally.redriven)))),
    }
}

/// What is to be redriven, and how many that are; `None` when there is nothing.
async fn letters<'a>(
    ledger: &'a dyn Ledger,
    args: &args::DlqRedrive,
    mut query: DeadLetterQuery,
) -> Result<Option<(Letters<'a>, u64)>, Report> {
    if !args.targets.ids.is_empty() {
        let ids: VecDeque<_> = super::known(ledger, &args.targets.ids).await?.into();
        let count = ids.len() as u64;
        return Ok(Some((Letters::Ids(ledger, ids), count)));
    }
    if !pages::freeze(ledger, &mut query).await? {
        return Ok(None);
    }
    let groups = groups::of_query(ledger, &query).await?;
    let total = groups::total(&groups);
    if args.targets.dry_run && !args.selection.json {
        groups::table(&groups)?;
    }
    if !args.targets.dry_run && !args.yes && !args.selection.json && total > 1 && show::is_interactive() {
        groups::table(&groups)?;
        if !show::confirm(&format!("redrive these {}?", super::letters(total)))? {
            return Err(
                Report::new(Code::NotConfirmed, "failed to redrive: nobody said yes").help("nothing was redriven")
            );
        }
    }
    Ok(Some((Letters::Pages(Pages::new(ledger, query, None)), total)))
}

/// Where the letters come from.
enum Letters<'a> {
    Ids(&'a dyn Ledger, VecDeque<DeadLetterId>),
    Pages(Pages<'a>),
}

impl Letters<'_> {
    async fn next(&mut self) -> Result<Option<Vec<DeadLetterRecord>>, Report> {
        match self {
            Self::Pages(pages) => pages.next().await,
            Self::Ids(ledger, ids) => {
                let Some(id) = ids.pop_front() else { return Ok(None) };
                // Somebody may have deleted it since it was found.
                super::find(*ledger, &id.0)
                    .await?
                    .map_or_else(|| Err(super::unknown(&[id.0])), |found| Ok(Some(vec![found])))
            }
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    redriven: u64,
    already: u64,
    /// Kept for JSON alone: there may be many.
    redriven_ids: Vec<DeadLetterId>,
    already_ids: Vec<DeadLetterId>,
    /// A signal came before the end.
    stopped: bool,
}

struct Run<'a> {
    ledger: &'a dyn Ledger,
    by: String,
    prefix: String,
    rate: Option<Rate>,
    dry_run: bool,
    keep_ids: bool,
}

impl Run<'_> {
    /// Redrives letter by letter until all are done or a signal comes. What is in `tally` is done, whatever comes after.
    async fn all(
        &self,
        mut letters: Letters<'_>,
        shutdown: &Shutdown,
        tally: &mut Tally,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Report> {
        let started = Instant::now();
        let mut done = 0u64;
        while let Some(page) = letters.next().await? {
            for record in &page {
                if let (Some(rate), false) = (self.rate, self.dry_run) {
                    tokio::select! {
                        () = tokio::time::sleep_until(started + due(rate, tally.redriven)) => {}
                        () = shutdown.drain.cancelled() => {}
                    }
                }
                if shutdown.drain.is_cancelled() {
                    tally.stopped = true;
                    return Ok(());
                }
                let redriven = self.one(record).await?;
                tally.count(&record.letter.id, redriven, self.keep_ids);
                done += 1;
                progress(done);
            }
        }
        Ok(())
    }

    async fn one(&self, record: &DeadLetterRecord) -> Result<bool, Report> {
        if super::is_closed(record) {
            return Ok(false);
        }
        if self.dry_run {
            return Ok(true);
        }
        let message = requeue::redrive_message(&record.letter, &self.prefix);
        send(self.ledger, &record.letter.id, Redrive { by: self.by.clone(), message: now(message), successor: None })
            .await
    }
}

impl Tally {
    fn count(&mut self, id: &DeadLetterId, redriven: bool, keep_id: bool) {
        let (count, ids) = if redriven {
            (&mut self.redriven, &mut self.redriven_ids)
        } else {
            (&mut self.already, &mut self.already_ids)
        };
        *count += 1;
        if keep_id {
            ids.push(id.clone());
        }
    }
}

/// When the next letter may go, from the start on: the first at once, then one each `1 / rate` seconds.
fn due(rate: Rate, redriven: u64) -> Duration {
    // Exact up to 2^53 letters.
    Duration::try_from_secs_f64(redriven as f64 / rate.0).unwrap_or(Duration::MAX / 4)
}

fn now(message: Message) -> OutboxMessage {
    OutboxMessage { kind: OutboxKind::Redrive, due_in: Duration::ZERO, message }
}

/// Whether it was this call that redrove the letter.
async fn send(ledger: &dyn Ledger, id: &DeadLetterId, redrive: Redrive) -> Result<bool, Report> {
    let answer = ledger.redrive(id, &redrive).await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    match answer {
        Redriven::Done => Ok(true),
        Redriven::Already => Ok(false),
        Redriven::NotFound => Err(super::unknown(std::slice::from_ref(&id.0))),
    }
}

/// One letter with another payload: a new event under a new key. The dead invocation stays dead.
async fn edit(ledger: &dyn Ledger, id: &str, file: Option<&Path>, args: &args::DlqRedrive) -> Result<Exit, Report> {
    let Some(record) = super::find(ledger, id).await? else { return Err(super::unknown(&[id.to_owned()])) };
    let letter = &record.letter;
    let mut tally = Tally::default();
    let mut edited = None;
    if super::is_closed(&record) {
        tally.count(&letter.id, false, args.selection.json);
    } else {
        let body = payload::read(file, &letter.message.body)?;
        let new = requeue::edited_message(letter, &args.selection.services.prefix, body).map_err(|error| {
            Report::new(Code::InputFile, format!("failed to {error}")).help("nothing was redriven: correct the payload")
        })?;
        let redriven = if args.targets.dry_run {
            true
        } else {
            let (by, successor) = (super::who(), Some(new.key.clone()));
            send(ledger, &letter.id, Redrive { by, message: now(new.message), successor }).await?
        };
        tally.count(&letter.id, redriven, args.selection.json);
        edited = redriven.then_some((new.key, new.event_id));
    }
    if args.selection.json {
        let mut value = tally.as_json(args.targets.dry_run);
        value["redriven_as"] = json!(edited.as_ref().map(|(key, _)| key));
        value["event_id"] = json!(edited.as_ref().map(|(_, event_id)| event_id));
        show::json(&value)?;
        return Ok(Exit::Ok);
    }
    match &edited {
        Some((key, _)) => {
            let verb = if args.targets.dry_run { "would redrive" } else { "redrove" };
            show::line(&format!("{verb} {} as {}", letter.id, show::printable(key.as_str())))?;
            if !args.targets.dry_run {
                show::line(FOLLOW)?;
            }
        }
        None => show::line(&format!("{} was redriven or purged before: nothing was done", letter.id))?,
    }
    Ok(Exit::Ok)
}

const FOLLOW: &str = "a running dispatcher takes redriven letters up within 5 s; `weft invocations --follow` shows it";

impl Tally {
    fn as_json(&self, dry_run: bool) -> serde_json::Value {
        json!({
            "dry_run": dry_run,
            "redriven": self.redriven_ids,
            "already": self.already_ids,
            "stopped": self.stopped,
        })
    }
}

fn report(tally: &Tally, args: &args::DlqRedrive) -> Result<Exit, Report> {
    if args.selection.json {
        show::json(&tally.as_json(args.targets.dry_run))?;
    } else {
        let verb = if args.targets.dry_run { "would redrive" } else { "redrove" };
        let mut text = format!("{verb} {}", super::letters(tally.redriven));
        if tally.already > 0 {
            text.push_str(&format!("; {} had been redriven or purged before", tally.already));
        }
        if tally.stopped {
            text.push_str("; stopped by a signal, run the same again for the rest");
        }
        show::line(&text)?;
        if tally.redriven > 0 && !args.targets.dry_run {
            show::line(FOLLOW)?;
        }
    }
    Ok(if tally.stopped { Exit::Killed } else { Exit::Ok })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spaces_letters_evenly_from_the_start_on() {
        assert_eq!(due(Rate(50.0), 0), Duration::ZERO);
        assert_eq!(due(Rate(50.0), 1), Duration::from_millis(20));
        assert_eq!(due(Rate(0.01), 3), Duration::from_secs(300));
        assert_eq!(due(Rate(f64::MIN_POSITIVE), u64::MAX), Duration::MAX / 4);
    }
}
