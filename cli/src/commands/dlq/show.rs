//! `weft dlq show`: one dead letter, its attempts, and what became of it.

use std::io::Write as _;

use serde_json::json;
use weft_ledger::{DeadLetterRecord, InvocationQuery, InvocationRecord, Ledger};
use weft_process::report::{Code, Exit, Report};
use weft_schemas::{FunctionName, Key, Message, requeue};

use super::letter;
use crate::args;
use crate::services::Services;
use crate::show;

/// How much of a payload that is no text is shown.
const HEX_BYTES: usize = 256;

pub async fn run(args: args::DlqShow) -> Result<Exit, Report> {
    let ledger = Services::resolve(&args.services)?.checked_ledger().await?;
    let Some(record) = super::find(ledger.as_ref(), &args.id).await? else { return Err(super::unknown(&[args.id])) };
    if args.payload {
        return payload(&record);
    }
    let function = &record.letter.function;
    let invocation = invocation(ledger.as_ref(), function, record.letter.key.as_ref()).await?;
    let successor = invocation_of_successor(ledger.as_ref(), &record).await?;
    let history = invocation.as_ref().map(|invocation| invocation.failures.as_slice()).unwrap_or_default();
    if args.json {
        let mut value = letter::as_json(&record);
        value["history"] = json!(history);
        value["state"] = json!(invocation.as_ref().map(|invocation| invocation.state));
        value["successor"] =
            json!(successor.as_ref().map(|successor| json!({ "key": successor.key, "state": successor.state })));
        value["properties"] = json!(record.letter.message.properties);
        value["headers"] = headers(&record.letter.message).into_iter().collect();
        show::json(&value)?;
        return Ok(Exit::Ok);
    }
    let mut lines = summary(&record);
    match (&record.redriven_as, &successor) {
        (Some(key), Some(successor)) => {
            let state = crate::commands::invocations::state_name(successor.state);
            lines.push(field("successor", &format!("{} ({state})", show::printable(key.as_str()))));
        }
        (Some(key), None) => lines.push(field("successor", &format!("{} (not begun)", show::printable(key.as_str())))),
        (None, _) => {}
    }
    if let Some(predecessor) = requeue::redriven_from(&record.letter.message) {
        lines.push(field("predecessor", &format!("{predecessor} (its payload was edited)")));
    }
    for failure in history {
        let error = format!("{}: {}", failure.error.kind, failure.error.message);
        let crashed = if failure.crashed { ", killed its worker" } else { "" };
        let node = failure.node.as_deref().map(|node| format!(" on {node}")).unwrap_or_default();
        lines.push(field(
            "attempt",
            &format!(
                "{} of epoch {} at {}{node}{crashed}\n             {}",
                failure.attempt,
                failure.epoch.0,
                failure.ended_at,
                show::printable(&error).replace('\n', "\n             ")
            ),
        ));
    }
    lines.extend(contents(&record));
    show::line(&lines.join("\n"))?;
    Ok(Exit::Ok)
}

/// The payload alone, for a file or another program.
fn payload(record: &DeadLetterRecord) -> Result<Exit, Report> {
    if record.purged_at.is_some() {
        return Err(Report::new(
            Code::DeadLetterUnknown,
            format!("failed to find the payload of {}: it was purged", record.letter.id),
        )
        .help("`weft dlq show` says by whom and when"));
    }
    let mut out = std::io::stdout().lock();
    match out.write_all(&record.letter.message.body).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Report::new(Code::Unexpected, format!("failed to write to standard output: {error}")))
        }
        _ => Ok(Exit::Ok),
    }
}

async fn invocation(
    ledger: &dyn Ledger,
    function: &FunctionName,
    key: Option<&Key>,
) -> Result<Option<InvocationRecord>, Report> {
    let Some(key) = key else { return Ok(None) };
    let query = InvocationQuery {
        function: Some(function.clone()),
        key: Some(key.clone()),
        limit: 1,
        ..InvocationQuery::default()
    };
    let mut found = ledger.invocations(&query).await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    Ok(found.pop())
}

async fn invocation_of_successor(
    ledger: &dyn Ledger,
    record: &DeadLetterRecord,
) -> Result<Option<InvocationRecord>, Report> {
    invocation(ledger, &record.letter.function, record.redriven_as.as_ref()).await
}

fn field(name: &str, value: &str) -> String {
    format!("{name:<12} {value}")
}

fn summary(record: &DeadLetterRecord) -> Vec<String> {
    let letter = &record.letter;
    let text = show::printable;
    let mut lines = vec![
        field("id", &letter.id.0),
        field("function", letter.function.as_str()),
        field("key", &letter.key.as_ref().map_or_else(|| "(none)".to_owned(), |key| text(key.as_str()))),
        field("reason", &format!("{} ({})", letter.reason, letter.reason.code())),
        field("error", &text(&format!("{}: {}", letter.error.kind, letter.error.message))),
        field("fingerprint", &record.fingerprint),
        field("attempts", &letter.attempts.to_string()),
        field("epoch", &letter.epoch.0.to_string()),
        field("first", &format!("{} ({})", letter.first_at, show::ago(letter.first_at))),
        field("last", &format!("{} ({})", letter.last_at, show::ago(letter.last_at))),
        field("arrivals", &record.arrivals.to_string()),
        field("see", &letter.reason.page()),
    ];
    if let Some(trace) = &letter.trace_id {
        lines.push(field("trace", trace));
    }
    let by = |by: &Option<String>| by.as_deref().map_or_else(|| "(unknown)".to_owned(), text);
    if let Some(at) = record.redriven_at {
        lines.push(field("redriven", &format!("{at} by {}", by(&record.redriven_by))));
    }
    if let Some(at) = record.purged_at {
        lines.push(field("purged", &format!("{at} by {}", by(&record.purged_by))));
    }
    lines
}

/// Properties, headers and payload, as the publisher made them.
fn contents(record: &DeadLetterRecord) -> Vec<String> {
    if record.purged_at.is_some() {
        return vec![field("payload", "(thrown away)")];
    }
    let message = requeue::original(&record.letter.message);
    let mut lines =
        vec![field("published", &format!("{:?} with routing key {:?}", message.exchange, message.routing_key))];
    if let Ok(serde_json::Value::Object(properties)) = serde_json::to_value(&message.properties) {
        for (name, value) in properties {
            let value = value.as_str().map_or_else(|| value.to_string(), show::printable);
            lines.push(field("property", &format!("{name}: {value}")));
        }
    }
    for (name, value) in headers(&message) {
        lines.push(field("header", &format!("{}: {value}", show::printable(&name))));
    }
    let bytes = message.body.len();
    match std::str::from_utf8(&message.body) {
        Ok(text) => lines.push(format!("{}\n{}", field("payload", &format!("{bytes} bytes")), show::printable(text))),
        Err(_) => lines.push(format!(
            "{}\n{}",
            field("payload", &format!("{bytes} bytes, not text: `--payload` writes them to standard output")),
            letter::hex(&message.body, HEX_BYTES)
        )),
    }
    lines
}

fn headers(message: &Message) -> Vec<(String, String)> {
    let original = requeue::original(message);
    original.headers.iter().map(|(name, value)| (name.clone(), letter::header(value))).collect()
}
