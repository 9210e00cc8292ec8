//! `weft invocations`: list, show, follow.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_ledger::{InvocationQuery, InvocationRecord, Ledger, State};
use weft_process::report::{Code, Exit, Report};
use weft_process::shutdown::Shutdown;
use weft_schemas::FunctionName;

use crate::args::{self, InvocationState};
use crate::services::Services;
use crate::show;

/// How often a follower asks the ledger.
const FOLLOW_PERIOD: Duration = Duration::from_secs(1);

pub async fn run(args: args::Invocations) -> Result<Exit, Report> {
    let ledger = Services::resolve(&args.services)?.checked_ledger().await?;
    let query = InvocationQuery {
        function: args.function.clone(),
        key: args.key.clone(),
        state: args.standing.map(state),
        changed_after: None,
        limit: args.limit,
    };
    if args.follow {
        return follow(ledger.as_ref(), query, args.json).await;
    }
    let found = ask(ledger.as_ref(), &query).await?;
    if let (Some(function), true) = (&args.function, found.is_empty()) {
        known(ledger.as_ref(), function).await?;
    }
    if let Some(key) = &args.key {
        if found.is_empty() {
            return Err(Report::new(Code::InvocationUnknown, format!("failed to find an invocation with key {key}"))
                .help(
                    "`weft invocations` lists them; a success is forgotten after the function's `idempotency.keep`",
                ));
        }
        if !args.json {
            return found.iter().try_for_each(show_one).map(|()| Exit::Ok);
        }
    }
    if args.json {
        show::json(&found)?;
    } else {
        show::table(&HEADER, found.iter().map(row).collect())?;
    }
    Ok(Exit::Ok)
}

async fn ask(ledger: &dyn Ledger, query: &InvocationQuery) -> Result<Vec<InvocationRecord>, Report> {
    ledger.invocations(query).await.map_err(|error| weft_dispatcher::report::ledger(&error))
}

/// Tells an unknown function from one without such invocations.
async fn known(ledger: &dyn Ledger, function: &FunctionName) -> Result<(), Report> {
    let totals = ledger.totals().await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    let names: BTreeSet<_> = totals.iter().map(|(name, _, _)| name.as_str()).collect();
    if names.contains(function.as_str()) {
        return Ok(());
    }
    let names: Vec<_> = names.into_iter().collect();
    let names = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
    Err(Report::new(
        Code::FunctionUnknown,
        format!("failed to find function {function}: the ledger has no invocation of it"),
    )
    .help(format!("functions with invocations: {names}")))
}

async fn follow(ledger: &dyn Ledger, mut query: InvocationQuery, json: bool) -> Result<Exit, Report> {
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to follow signals: {error}")))?;
    let mut period = tokio::time::interval(FOLLOW_PERIOD);
    loop {
        tokio::select! {
            () = shutdown.drain.cancelled() => return Ok(Exit::Ok),
            _ = period.tick() => {}
        }
        let mut changed = ask(ledger, &query).await?;
        changed.reverse();
        if let Some(newest) = changed.last() {
            query.changed_after = Some(newest.updated_at);
        }
        for record in &changed {
            if json {
                show::json(record)?;
            } else {
                show::line(&row(record).join("  "))?;
            }
        }
    }
}

const HEADER: [&str; 7] = ["FUNCTION", "KEY", "STATE", "ATTEMPT", "EPOCH", "CHANGED", "ERROR"];

fn row(record: &InvocationRecord) -> Vec<String> {
    let error = record.error.as_ref().map(|error| format!("{}: {}", error.kind, error.message)).unwrap_or_default();
    vec![
        record.function.to_string(),
        show::cut(record.key.as_str(), 48),
        state_name(record.state).to_owned(),
        record.attempt.to_string(),
        record.epoch.0.to_string(),
        show::ago(record.updated_at),
        show::cut(&error, 60),
    ]
}

fn show_one(record: &InvocationRecord) -> Result<(), Report> {
    let mut lines = vec![
        format!("function     {}", record.function),
        format!("key          {}", record.key),
        format!("state        {}", state_name(record.state)),
        format!("attempt      {} (of these {} killed their worker)", record.attempt, record.crashes),
        format!("epoch        {}", record.epoch.0),
        format!("fence        {}", record.fence),
        format!("first seen   {} ({})", record.first_seen_at, show::ago(record.first_seen_at)),
        format!("changed      {} ({})", record.updated_at, show::ago(record.updated_at)),
    ];
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name:<12} {value}"));
        }
    };
    add("owner", record.owner.clone());
    add("due", record.due_at.map(|at| at.to_string()));
    add("kept until", record.expires_at.map(|at| at.to_string()));
    add("error", record.error.as_ref().map(|error| format!("{}: {}", error.kind, error.message)));
    add("result", record.result.clone());
    show::line(&lines.join("\n"))?;
    show::line("")
}

fn state(given: InvocationState) -> State {
    match given {
        InvocationState::Claimed => State::Claimed,
        InvocationState::Waiting => State::Waiting,
        InvocationState::Succeeded => State::Succeeded,
        InvocationState::Dead => State::Dead,
    }
}

/// How a state is written.
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Claimed => "claimed",
        State::Waiting => "waiting",
        State::Succeeded => "succeeded",
        State::Dead => "dead",
    }
}
