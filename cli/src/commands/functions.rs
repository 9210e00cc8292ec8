//! `weft functions`: what the manifest declares, with live numbers when a dispatcher answers.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use weft_process::report::{Code, Exit, Report};

use crate::args;
use crate::show;

pub async fn run(args: args::Functions) -> Result<Exit, Report> {
    let mut manifest = super::run::load(&args.manifest)?;
    if let Some(name) = &args.name {
        let Some(function) = manifest.functions.remove(name) else {
            let known: Vec<_> = manifest.functions.keys().map(|known| known.as_str()).collect();
            return Err(Report::new(
                Code::FunctionUnknown,
                format!("failed to find function {name} in {}", args.manifest.manifest.display()),
            )
            .help(format!("it declares: {}", known.join(", "))));
        };
        manifest.functions = std::collections::BTreeMap::from([(name.clone(), function)]);
    }
    let live = status(args.admin).await?;
    if args.json {
        let functions: Vec<Value> = manifest
            .functions
            .values()
            .map(|function| {
                json!({
                    "name": function.name,
                    "events": function.events,
                    "handler": function.handler,
                    "command": function.command,
                    "timeout_ms": u64::try_from(function.timeout.as_millis()).unwrap_or(u64::MAX),
                    "slots": function.slots,
                    "attempts": function.retry.attempts,
                    "key": function.idempotency.key,
                    "live": live_of(live.as_ref(), function.name.as_str()),
                })
            })
            .collect();
        show::json(&functions)?;
        return Ok(Exit::Ok);
    }
    let rows = manifest.functions.values().map(|function| {
        let numbers = live_of(live.as_ref(), function.name.as_str());
        let number = |key: &str| numbers.get(key).map_or_else(|| "-".to_owned(), ToString::to_string);
        let late = numbers.pointer("/scaling/late_ms").and_then(Value::as_u64);
        let late = late.map(|late| format!("late by up to {} s", late.div_ceil(1000)));
        let note = numbers.get("unhealthy").and_then(Value::as_str).map(str::to_owned).or(late).unwrap_or_default();
        vec![
            function.name.to_string(),
            function.events.join(" "),
            number("workers"),
            numbers.get("scale").and_then(Value::as_str).unwrap_or("-").to_owned(),
            number("running"),
            number("waiting"),
            number("succeeded"),
            number("duplicates"),
            number("retries"),
            numbers.get("dead").and_then(Value::as_object).map_or_else(
                || "-".to_owned(),
                |dead| dead.values().filter_map(Value::as_u64).sum::<u64>().to_string(),
            ),
            show::cut(&note, 60),
        ]
    });
    let header = [
        "FUNCTION",
        "EVENTS",
        "WORKERS",
        "BECAUSE",
        "RUNNING",
        "WAITING",
        "SUCCEEDED",
        "DUPLICATES",
        "RETRIES",
        "DEAD",
        "TROUBLE",
    ];
    show::table(&header, rows.collect())?;
    if live.is_none() {
        show::line(&format!("no dispatcher answers at {}: numbers are missing", args.admin))?;
    }
    Ok(Exit::Ok)
}

fn live_of(status: Option<&Value>, function: &str) -> Value {
    status.and_then(|status| status.get("functions")?.get(function).cloned()).unwrap_or(Value::Null)
}

/// A running dispatcher's status; `None` when nothing answers there.
pub async fn status(admin: SocketAddr) -> Result<Option<Value>, Report> {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(2))
        .no_proxy()
        .build()
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to make an HTTP client: {error}")))?;
    let Ok(answer) = client.get(format!("http://{admin}/status")).send().await else { return Ok(None) };
    answer.json::<Value>().await.map(Some).map_err(|_| {
        Report::new(Code::Setting, format!("failed to read the status at {admin}: another program answers there"))
            .help("give --admin")
    })
}
