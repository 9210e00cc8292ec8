//! `weft audit`: is every event that was accepted accounted for? Reads broker and ledger twice and compares.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::sync::Arc;

use serde_json::json;
use weft_dispatcher::audit::{self, BrokerFinding, Finding, Judged, Look, Published, Reader};
use weft_dispatcher::broker::{Broker, Names};
use weft_ledger::Ledger;
use weft_process::report::{Code, Exit, Report};
use weft_schemas::line::Line;

use crate::args;
use crate::services::Services;
use crate::show;

pub async fn run(args: args::Audit) -> Result<Exit, Report> {
    let services = Services::resolve(&args.services)?;
    let names = Names::new(args.services.prefix.clone());
    let ledger = services.checked_ledger().await?;
    let broker = services.broker().await?;
    let audited = audited(&args, broker.as_ref(), &ledger, &names).await;
    broker.close().await;
    let (look, judged, published) = audited?;
    let clean = judged.findings.is_empty() && judged.unlisted == 0;
    if args.json {
        show::json(&as_json(&look, &judged, published.as_ref(), clean))?;
    } else {
        print(&look, &judged, published.as_ref(), clean)?;
    }
    Ok(if clean { Exit::Ok } else { Exit::Check })
}

async fn audited(
    args: &args::Audit,
    broker: &dyn Broker,
    ledger: &Arc<dyn Ledger>,
    names: &Names,
) -> Result<(Look, Judged, Option<Published>), Report> {
    let failed = |error: weft_ledger::Error| weft_dispatcher::report::ledger(&error);
    let functions = BTreeSet::new();
    let first = audit::look(broker, ledger.as_ref(), names, &functions).await.map_err(failed)?;
    // What publishers say needs no pause of its own.
    let published = match &args.published {
        Some(_) => Some(compare(args, ledger.as_ref(), names).await?),
        None => None,
    };
    tokio::time::sleep(args.pause).await;
    let second = audit::look(broker, ledger.as_ref(), names, &functions).await.map_err(failed)?;
    let mut judged = audit::judge(&first, &second, args.grace);
    for (function, depth) in judged.suspect.clone() {
        let queue = names.dlq(&function);
        let found = audit::foreign(broker, ledger, &queue, depth).await.map_err(|error| {
            Report::new(Code::BrokerUnreachable, format!("failed to look through {queue}: {error}"))
        })?;
        let found = found.into_iter().map(|message| BrokerFinding::Foreign { function: function.clone(), message });
        judged.findings.extend(found.map(Finding::Broker));
    }
    if let Some(published) = &published {
        for missing in &published.missing {
            // A message that still waits in a queue may be it.
            let queued = second.queues.get(&missing.function).and_then(|queues| queues.work).unwrap_or(0);
            if queued == 0 {
                judged.findings.push(Finding::Broker(BrokerFinding::Missing(missing.clone())));
            }
        }
    }
    Ok((second, judged, published))
}

/// Reads the file of published events and asks the ledger for each.
async fn compare(args: &args::Audit, ledger: &dyn Ledger, names: &Names) -> Result<Published, Report> {
    let path = args.published.as_deref().unwrap_or(std::path::Path::new("-"));
    let manifest = super::run::load(&args.manifest)?;
    let reader = Reader::new(&manifest)
        .map_err(|problem| Report::new(Code::Manifest, format!("failed to read a schema: {problem}")))?;
    let unreadable =
        |error: std::io::Error| Report::new(Code::InputFile, format!("failed to read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut published = Published::default();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let text = line.map_err(unreadable)?;
        if text.trim().is_empty() {
            continue;
        }
        let line = Line::parse(&text, number).map_err(|error| Report::of(Code::InputFile, &error))?;
        let message = line.to_message(&names.events());
        published.check(&reader, ledger, &message).await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    }
    Ok(published)
}

fn as_json(look: &Look, judged: &Judged, published: Option<&Published>, clean: bool) -> serde_json::Value {
    json!({
        "clean": clean,
        "ledger_at": look.ledger.at,
        "queues_counted": { "from": look.counted.0, "to": look.counted.1 },
        "functions": look.ledger.functions,
        "queues": look.queues,
        "unrouted": look.unrouted,
        "crashed": look.crashed,
        "backed_by_queued_messages": judged.backed,
        "taken_from_dead_letter_queues": judged.taken,
        "published": published.map(|published| json!({
            "expected": published.expected,
            "unknown": published.missing,
        })),
        "differences": judged.findings,
        "differences_not_listed": judged.unlisted,
    })
}

fn print(look: &Look, judged: &Judged, published: Option<&Published>, clean: bool) -> Result<(), Report> {
    let known = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    let rows = look.ledger.functions.iter().map(|books| {
        let queues = look.queues.get(&books.function).copied().unwrap_or_default();
        let counts =
            [books.accepted, books.succeeded, books.dead, books.waiting, books.claimed, books.lapsed, books.swept];
        let mut row = vec![books.function.to_string()];
        row.extend(counts.map(|count| count.to_string()));
        row.extend([known(queues.work), books.open_letters.to_string(), known(queues.dead)]);
        row
    });
    let header = [
        "FUNCTION",
        "ACCEPTED",
        "SUCCEEDED",
        "DEAD",
        "WAITING",
        "CLAIMED",
        "LAPSED",
        "SWEPT",
        "QUEUED",
        "OPEN LETTERS",
        "IN DLQ",
    ];
    show::table(&header, rows.collect())?;
    for (net, count) in [("unrouted", look.unrouted), ("crashed", look.crashed)] {
        if count.is_some_and(|count| count > 0) {
            show::line(&format!("{} messages are in the net {net}, on their way to the dead letters", known(count)))?;
        }
    }
    for (function, count) in &judged.backed {
        show::line(&format!(
            "{function}: {count} invocations need a message, and the queue holds enough: theirs, unless they are new events"
        ))?;
    }
    for (function, count) in &judged.taken {
        show::line(&format!(
            "{function}: {count} copies were taken out of the dead-letter queue; the ledger has the letters"
        ))?;
    }
    if let Some(published) = published {
        let unknown = published.missing.len();
        show::line(&format!("published: {} expected, {unknown} not known to the ledger", published.expected))?;
    }
    show::line(&format!(
        "ledger as of {}, {}; queues counted just before and after",
        look.ledger.at,
        show::ago(look.ledger.at)
    ))?;
    for finding in &judged.findings {
        let text = serde_json::to_string(finding)
            .map_err(|error| Report::new(Code::Unexpected, format!("failed to print a difference: {error}")))?;
        show::line(&format!("DIFFERENCE {text}"))?;
    }
    if judged.unlisted > 0 {
        show::line(&format!("and {} more differences", judged.unlisted))?;
    }
    show::line(if clean { "every accepted event is accounted for" } else { "NOT every event is accounted for" })
}
