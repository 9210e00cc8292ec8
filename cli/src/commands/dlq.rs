//! `weft dlq`: list, show and redrive dead letters.

use weft_ledger::{DeadLetterQuery, DeadLetterRecord, Ledger, OutboxKind, OutboxMessage, Redrive, Redriven};
use weft_process::report::{Code, Exit, Report};
use weft_schemas::{DeadLetterId, requeue};

use crate::args::{self, Dlq};
use crate::services::Services;
use crate::show;

/// The most that one redrive takes on.
const MOST: u32 = 100_000;

pub async fn run(args: Dlq) -> Result<Exit, Report> {
    match args {
        Dlq::Ls(args) => ls(args).await,
        Dlq::Show(args) => show_one(args).await,
        Dlq::Redrive(args) => redrive(args).await,
    }
}

async fn ask(ledger: &dyn Ledger, query: &DeadLetterQuery) -> Result<Vec<DeadLetterRecord>, Report> {
    ledger.dead_letters(query).await.map_err(|error| weft_dispatcher::report::ledger(&error))
}

async fn ls(args: args::DlqLs) -> Result<Exit, Report> {
    let ledger = Services::resolve(&args.services)?.checked_ledger().await?;
    let query = DeadLetterQuery {
        function: args.function,
        reason: args.reason,
        include_closed: args.all,
        limit: args.limit,
        ..DeadLetterQuery::default()
    };
    let found = ask(ledger.as_ref(), &query).await?;
    if args.json {
        let all: Vec<_> = found.iter().map(as_json).collect();
        show::json(&all)?;
        return Ok(Exit::Ok);
    }
    let rows = found.iter().map(|record| {
        let letter = &record.letter;
        vec![
            letter.id.to_string(),
            letter.function.to_string(),
            show::cut(letter.key.as_ref().map_or("-", |key| key.as_str()), 40),
            letter.reason.to_string(),
            letter.attempts.to_string(),
            show::ago(letter.last_at),
            if record.redriven_at.is_some() { "yes".to_owned() } else { String::new() },
            show::cut(&format!("{}: {}", letter.error.kind, letter.error.message), 60),
        ]
    });
    show::table(&["ID", "FUNCTION", "KEY", "REASON", "ATTEMPTS", "DIED", "REDRIVEN", "ERROR"], rows.collect())?;
    Ok(Exit::Ok)
}

/// The record with the body as text where it is text, else in base64's stead as a count of bytes.
fn as_json(record: &DeadLetterRecord) -> serde_json::Value {
    let letter = &record.letter;
    serde_json::json!({
        "id": letter.id,
        "function": letter.function,
        "key": letter.key,
        "epoch": letter.epoch,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "first_at": letter.first_at,
        "last_at": letter.last_at,
        "trace_id": letter.trace_id,
        "arrivals": record.arrivals,
        "redriven_at": record.redriven_at,
        "redriven_by": record.redriven_by,
        "exchange": letter.message.exchange,
        "routing_key": letter.message.routing_key,
        "message_id": letter.message.properties.message_id,
        "content_type": letter.message.properties.content_type,
        "body": std::str::from_utf8(&letter.message.body).ok(),
        "body_bytes": letter.message.body.len(),
    })
}

async fn show_one(args: args::DlqShow) -> Result<Exit, Report> {
    let ledger = Services::resolve(&args.services)?.checked_ledger().await?;
    let record = find(ledger.as_ref(), &args.id).await?;
    if args.json {
        show::json(&as_json(&record))?;
        return Ok(Exit::Ok);
    }
    let letter = &record.letter;
    let mut lines = vec![
        format!("id         {}", letter.id),
        format!("function   {}", letter.function),
        format!("key        {}", letter.key.as_ref().map_or("(none)", |key| key.as_str())),
        format!("reason     {} (see docs/delivery.md)", letter.reason),
        format!("error      {}: {}", letter.error.kind, letter.error.message),
        format!("attempts   {}", letter.attempts),
        format!("first      {} ({})", letter.first_at, show::ago(letter.first_at)),
        format!("last       {} ({})", letter.last_at, show::ago(letter.last_at)),
        format!("arrivals   {}", record.arrivals),
        format!("published  {:?} with routing key {:?}", letter.message.exchange, letter.message.routing_key),
    ];
    if let Some(trace) = &letter.trace_id {
        lines.push(format!("trace      {trace}"));
    }
    if let (Some(at), Some(by)) = (record.redriven_at, &record.redriven_by) {
        lines.push(format!("redriven   {at} by {by}"));
    }
    match std::str::from_utf8(&letter.message.body) {
        Ok(text) => lines.push(format!("body       {} bytes\n{text}", text.len())),
        Err(_) => lines.push(format!("body       {} bytes, not text", letter.message.body.len())),
    }
    show::line(&lines.join("\n"))?;
    Ok(Exit::Ok)
}

async fn find(ledger: &dyn Ledger, id: &str) -> Result<DeadLetterRecord, Report> {
    let query = DeadLetterQuery {
        id: Some(DeadLetterId(id.to_owned())),
        include_closed: true,
        limit: 1,
        ..DeadLetterQuery::default()
    };
    ask(ledger, &query).await?.pop().ok_or_else(|| {
        Report::new(Code::DeadLetterUnknown, format!("failed to find the dead letter {id}"))
            .help("`weft dlq ls --all` lists them with their ids")
    })
}

async fn redrive(args: args::DlqRedrive) -> Result<Exit, Report> {
    let ledger = Services::resolve(&args.services)?.checked_ledger().await?;
    let mut letters = Vec::new();
    if args.ids.is_empty() {
        let query =
            DeadLetterQuery { function: args.function, reason: args.reason, limit: MOST, ..DeadLetterQuery::default() };
        letters = ask(ledger.as_ref(), &query).await?;
    } else {
        for id in &args.ids {
            letters.push(find(ledger.as_ref(), id).await?);
        }
    }
    let by = who();
    let (mut redriven, mut already) = (Vec::new(), Vec::new());
    for record in &letters {
        let id = &record.letter.id;
        if args.dry_run {
            let list = if record.redriven_at.is_some() { &mut already } else { &mut redriven };
            list.push(id.clone());
            continue;
        }
        let message = OutboxMessage {
            kind: OutboxKind::Redrive,
            due_in: std::time::Duration::ZERO,
            message: requeue::redrive_message(&record.letter, &args.services.prefix),
        };
        let redrive = Redrive { by: by.clone(), message, successor: None };
        match ledger.redrive(id, &redrive).await.map_err(|error| weft_dispatcher::report::ledger(&error))? {
            Redriven::Done => redriven.push(id.clone()),
            Redriven::Already | Redriven::NotFound => already.push(id.clone()),
        }
    }
    if args.json {
        show::json(&serde_json::json!({ "dry_run": args.dry_run, "redriven": redriven, "already": already }))?;
    } else {
        let verb = if args.dry_run { "would redrive" } else { "redrove" };
        show::line(&format!("{verb} {}, {} had been redriven before", redriven.len(), already.len()))?;
        if !redriven.is_empty() && !args.dry_run {
            show::line("a running dispatcher takes them within 5 s; `weft invocations --follow` shows it")?;
        }
    }
    Ok(Exit::Ok)
}

/// Whom the ledger records: the login name and the host.
fn who() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned());
    format!("{user}@{}", super::hostname())
}
