//! `weft publish`: one event, many copies of it, or the lines of a file; confirmed by the broker before it is counted.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use weft_dispatcher::broker::{Broker, Names, PublishError};
use weft_process::report::{Code, Exit, Report, chain};
use weft_process::telemetry::{self, spans};
use weft_schemas::line::Line;
use weft_schemas::{Event, Message, TraceContext};

use crate::args;
use crate::services::Services;
use crate::show;

/// Messages under way before confirms are waited for.
const BATCH: usize = 256;
/// How often a refused message is tried again before it is reported.
const TRIES: u32 = 5;

pub async fn run(args: args::Publish) -> Result<Exit, Report> {
    let exchange = args.exchange.clone().unwrap_or_else(|| Names::new(args.services.prefix.clone()).events());
    let source: Box<dyn Iterator<Item = Result<Message, Report>> + Send> = match &args.file {
        Some(path) => lines(path, exchange)?,
        None => copies(&args, exchange)?,
    };
    let total = args.file.is_none().then_some(args.count);
    let broker = Services::resolve(&args.services)?.broker().await?;
    let bar = show::bar(total, args.json);
    let published = publish_all(&broker, source, args.rate, |done| bar.set_position(done)).await;
    bar.finish_and_clear();
    broker.close().await;
    let (count, took) = published?;
    if args.json {
        show::json(&serde_json::json!({ "published": count, "seconds": took.as_secs_f64() }))?;
    } else {
        show::line(&format!(
            "published {count} event{} in {:.2} s",
            if count == 1 { "" } else { "s" },
            took.as_secs_f64()
        ))?;
    }
    Ok(Exit::Ok)
}

/// Publishes everything, at most `rate` a second, and returns how many the broker confirmed and how long it took.
///
/// # Errors
/// A message could not be made, or was still not taken after several tries. What came before it is published.
pub async fn publish_all(
    broker: &Arc<dyn Broker>,
    messages: impl Iterator<Item = Result<Message, Report>>,
    rate: Option<u32>,
    mut progress: impl FnMut(u64),
) -> Result<(u64, Duration), Report> {
    let started = Instant::now();
    let most = rate.map_or(BATCH, |rate| usize::try_from(rate / 20).unwrap_or(BATCH).clamp(1, BATCH));
    let mut messages = messages.peekable();
    let mut done = 0u64;
    while messages.peek().is_some() {
        let mut batch = Vec::with_capacity(most);
        let mut fault = None;
        while batch.len() < most {
            match messages.next() {
                Some(Ok(message)) => batch.push(message),
                Some(Err(report)) => {
                    fault = Some(report);
                    break;
                }
                None => break,
            }
        }
        done += publish_batch(broker, batch).await?;
        progress(done);
        if let Some(report) = fault {
            return Err(report.help(format!("{done} events before it are published")));
        }
        if let Some(rate) = rate {
            let due = started + Duration::from_secs_f64(done as f64 / f64::from(rate));
            tokio::time::sleep_until(due.into()).await;
        }
    }
    Ok((done, started.elapsed()))
}

async fn publish_batch(broker: &Arc<dyn Broker>, mut batch: Vec<Message>) -> Result<u64, Report> {
    let total = batch.len() as u64;
    for message in &mut batch {
        trace(message);
    }
    for attempt in 1..=TRIES {
        let answers = broker.publish(&batch).await;
        let mut last = None;
        let mut left = Vec::new();
        for (message, answer) in batch.into_iter().zip(answers) {
            if let Err(error) = answer {
                left.push(message);
                last = Some(error);
            }
        }
        let Some(error) = last else { return Ok(total) };
        // Nobody will ever take it: trying again is pointless.
        if attempt == TRIES || matches!(error, PublishError::Unroutable { .. }) {
            let (code, count) = (Code::PublishFailed, left.len());
            return Err(Report::new(code, format!("failed to publish {count} of {total} events: {error}"))
                .help("start a dispatcher once (`weft run`), which declares the exchange and the queues; then publish again: events with an id are safe to repeat"));
        }
        tokio::time::sleep(Duration::from_millis(200) * attempt).await;
        batch = left;
    }
    Ok(total)
}

/// Begins the event's trace, unless the publisher has begun one.
fn trace(message: &mut Message) {
    if message.trace_context().is_some() {
        return;
    }
    let id = message.properties.message_id.clone().unwrap_or_default();
    let span = spans::publish(&message.exchange, &message.routing_key, &id);
    if let Some(context) = telemetry::of(&span) {
        message.set_trace_context(&TraceContext { traceparent: context.traceparent, tracestate: context.tracestate });
    }
}

fn copies(
    args: &args::Publish,
    exchange: String,
) -> Result<Box<dyn Iterator<Item = Result<Message, Report>> + Send>, Report> {
    let kind = args.kind.clone().unwrap_or_default();
    let data = read_data(args.data.as_deref())?;
    let (id, source, count) = (args.id.clone(), args.source.clone(), args.count);
    let run = Timestamp::now().as_nanosecond();
    let event = move |number: u64| {
        let event = Event {
            id: match (&id, count) {
                (Some(id), 1) => id.clone(),
                (Some(id), _) => format!("{id}-{number}"),
                (None, _) => format!("{run:x}-{number}"),
            },
            source: source.clone(),
            kind: kind.clone(),
            subject: None,
            time: Some(Timestamp::now()),
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: std::collections::BTreeMap::new(),
            data: data.clone(),
        };
        event.check().map_err(|error| Report::new(Code::Setting, format!("failed to make the event: {error}")))?;
        Ok(event.to_message(&exchange, &event.kind))
    };
    Ok(Box::new((0..count).map(event)))
}

/// JSON from the command line: the text itself, `@FILE`, or `-` for standard input; absent: `null`.
///
/// # Errors
/// It cannot be read, or is no JSON.
pub fn read_data(given: Option<&str>) -> Result<Bytes, Report> {
    let text = match given {
        None => return Ok(Bytes::from_static(b"null")),
        Some("-") => {
            std::io::read_to_string(std::io::stdin()).map_err(|error| file(Path::new("standard input"), &error))?
        }
        Some(named) => match named.strip_prefix('@') {
            Some(path) => std::fs::read_to_string(path).map_err(|error| file(Path::new(path), &error))?,
            None => named.to_owned(),
        },
    };
    serde_json::from_str::<serde::de::IgnoredAny>(&text)
        .map_err(|error| Report::new(Code::InputFile, format!("failed to read the event's data as JSON: {error}")))?;
    Ok(Bytes::from(text))
}

/// Lines are read one by one, so that a file may be larger than memory.
fn lines(path: &Path, exchange: String) -> Result<Box<dyn Iterator<Item = Result<Message, Report>> + Send>, Report> {
    let reader: Box<dyn std::io::BufRead + Send> = if path == Path::new("-") {
        Box::new(std::io::BufReader::new(std::io::stdin()))
    } else {
        Box::new(std::io::BufReader::new(std::fs::File::open(path).map_err(|error| file(path, &error))?))
    };
    let path = path.to_owned();
    let messages = std::io::BufRead::lines(reader).enumerate().filter_map(move |(index, line)| {
        let line = match line {
            Ok(line) if line.trim().is_empty() => return None,
            Ok(line) => line,
            Err(error) => return Some(Err(file(&path, &error))),
        };
        let message = match Line::parse(&line, index + 1) {
            // A bare event is checked here, so that a slip shows before it is published.
            Ok(Line::Event(_)) => Event::from_structured_json(line.as_bytes())
                .map(|event| event.to_message(&exchange, &event.kind))
                .map_err(|error| error.to_string()),
            Ok(described) => Ok(described.to_message(&exchange)),
            Err(error) => Err(chain(&error)),
        };
        Some(message.map_err(|problem| {
            Report::new(Code::InputFile, format!("failed to read {}:{}: {problem}", path.display(), index + 1))
        }))
    });
    Ok(Box::new(messages))
}

fn file(path: &Path, error: &std::io::Error) -> Report {
    Report::new(Code::InputFile, format!("failed to read {}: {error}", path.display()))
}
