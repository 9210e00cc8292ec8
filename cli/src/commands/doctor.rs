//! `weft doctor`: looks at everything that a dispatcher needs, changes nothing, and says what to do.

use std::io::IsTerminal as _;

use serde::Serialize;
use weft_dispatcher::broker::Names;
use weft_dispatcher::link::{Confinement, Machine, Offer};
use weft_ledger::{DeadLetterQuery, State};
use weft_process::report::{Exit, Report};
use weft_schemas::FunctionName;
use weft_schemas::manifest::Manifest;

use crate::args;
use crate::services::Services;
use crate::show;

/// Descriptors that a dispatcher needs besides those of its workers, generously.
const DESCRIPTORS: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    verdict: Verdict,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn new(what: &str, verdict: Verdict, seen: impl Into<String>) -> Self {
        Self { what: what.to_owned(), verdict, seen: seen.into(), advice: None }
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    fn of(what: &str, report: Report) -> Self {
        let mut finding = Self::new(what, Verdict::Fail, format!("[{}] {}", report.code.as_str(), report.message));
        finding.advice = report.help;
        finding
    }
}

pub async fn run(args: args::Doctor) -> Result<Exit, Report> {
    let services = Services::resolve(&args.services)?;
    let mut findings = Vec::new();
    let manifest = match super::run::load(&args.manifest) {
        Ok(manifest) => {
            let seen = format!("{} functions in {}", manifest.functions.len(), args.manifest.manifest.display());
            findings.push(Finding::new("manifest", Verdict::Ok, seen));
            Some(manifest)
        }
        Err(report) => {
            findings.push(Finding::of("manifest", report));
            None
        }
    };
    broker(&services, &args.services.prefix, manifest.as_ref(), &mut findings).await;
    ledger(&services, &mut findings).await;
    state(&services, &mut findings).await;
    limits(manifest.as_ref(), &mut findings);
    isolation(manifest.as_ref(), &mut findings);

    let failed = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    if args.json {
        show::json(&serde_json::json!({ "healthy": !failed, "findings": findings }))?;
    } else {
        findings.iter().try_for_each(print)?;
    }
    Ok(if failed { Exit::Check } else { Exit::Ok })
}

fn print(finding: &Finding) -> Result<(), Report> {
    let (word, colour) = match finding.verdict {
        Verdict::Ok => ("ok  ", "32"),
        Verdict::Warn => ("warn", "33"),
        Verdict::Fail => ("FAIL", "31"),
    };
    let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let word = if coloured { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.to_owned() };
    show::line(&format!("{word}  {:<10} {}", finding.what, finding.seen))?;
    match &finding.advice {
        Some(advice) => show::line(&format!("                 → {advice}")),
        None => Ok(()),
    }
}

async fn broker(services: &Services, prefix: &str, manifest: Option<&Manifest>, findings: &mut Vec<Finding>) {
    let broker = match services.broker().await {
        Ok(broker) => broker,
        Err(report) => {
            findings.push(Finding::of("broker", report));
            return;
        }
    };
    findings.push(Finding::new("broker", Verdict::Ok, broker.address().to_owned()));
    let names = Names::new(prefix);
    for function in manifest.iter().flat_map(|manifest| manifest.functions.keys()) {
        let queue = names.function(function);
        findings.push(match broker.depth(&queue).await {
            Some(ready) => Finding::new("queue", Verdict::Ok, format!("{queue}: {ready} ready")),
            None => Finding::new("queue", Verdict::Warn, format!("{queue} is not there"))
                .advice("`weft run` declares it at its first start; until then its events go to no queue"),
        });
    }
    for (queue, advice) in [
        (
            names.unrouted(),
            "no function is bound to these events' types; a dispatcher that runs makes dead letters of them: start one",
        ),
        (
            names.crashed(),
            "the broker gave these up after many returns; a dispatcher that runs makes dead letters of them: start one",
        ),
    ] {
        if let Some(ready) = broker.depth(&queue).await.filter(|ready| *ready > 0) {
            findings.push(Finding::new("queue", Verdict::Warn, format!("{queue}: {ready} ready")).advice(advice));
        }
    }
    broker.close().await;
}

async fn ledger(services: &Services, findings: &mut Vec<Finding>) {
    let ledger = match services.ledger().await {
        Ok(ledger) => ledger,
        Err(report) => {
            findings.push(Finding::of("ledger", report));
            return;
        }
    };
    if let Err(error) = ledger.check().await {
        findings.push(Finding::of("ledger", weft_dispatcher::report::ledger(&error)));
        return;
    }
    match ledger.totals().await {
        Ok(totals) => {
            let count = |state| totals.iter().filter(|(_, s, _)| *s == state).map(|(_, _, n)| n).sum::<u64>();
            let seen = format!(
                "{}: {} claimed, {} waiting, {} succeeded, {} dead",
                ledger.address(),
                count(State::Claimed),
                count(State::Waiting),
                count(State::Succeeded),
                count(State::Dead)
            );
            let mut finding = Finding::new("ledger", Verdict::Ok, seen);
            if count(State::Dead) > 0 {
                finding = finding.advice("`weft dlq ls` shows what was given up and why");
            }
            findings.push(finding);
        }
        Err(error) => findings.push(Finding::of("ledger", weft_dispatcher::report::ledger(&error))),
    }
    let query = DeadLetterQuery { function: Some(FunctionName::unrouted()), limit: 1, ..DeadLetterQuery::default() };
    if let Ok(unrouted) = ledger.dead_letters(&query).await
        && let Some(newest) = unrouted.first()
    {
        let (exchange, routing_key) = newest.letter.message.origin();
        let seen = format!("no function is bound to {routing_key:?} at exchange {exchange:?}, or was not when it came");
        findings.push(Finding::new("unrouted", Verdict::Warn, seen).advice(
            "correct `events` in the manifest, then `weft dlq redrive` sends it where it was published to; \
             `weft dlq ls --function unrouted` shows all",
        ));
    }
}

async fn state(services: &Services, findings: &mut Vec<Finding>) {
    let address = match services.state_address() {
        Ok(address) => address,
        Err(report) => {
            findings.push(Finding::of("state", report));
            return;
        }
    };
    findings.push(match weft_worker::check_state(address.expose()).await {
        Ok(()) => Finding::new("state", Verdict::Ok, address.redacted()),
        Err(error) => Finding::of("state", crate::services::state(&address, &error)),
    });
}

/// What this machine can keep workers to, and whether it is what the functions demand.
fn isolation(manifest: Option<&Manifest>, findings: &mut Vec<Finding>) {
    let machine = Machine::look();
    for Offer { what, by } in machine.offers() {
        let seen = match by {
            Ok(by) => format!("{what}: by {by}"),
            Err(why) => format!("{what}: cannot be kept here, {why}"),
        };
        findings.push(Finding::new("isolation", Verdict::Ok, seen));
    }
    for (function, root) in manifest.iter().flat_map(|m| m.functions.values().map(|function| (function, &m.root))) {
        if let Err(unfit) = Confinement::of(function, machine, root, &[]) {
            findings.push(Finding::of("isolation", weft_dispatcher::report::unfit(&function.name, &unfit)));
        }
    }
}

fn limits(manifest: Option<&Manifest>, findings: &mut Vec<Finding>) {
    let workers: u64 = manifest.map_or(1, |manifest| manifest.functions.len() as u64) * 16;
    let needed = DESCRIPTORS + workers * 6;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    findings.push(match limit {
        Some(limit) if limit < needed => {
            Finding::new("limits", Verdict::Warn, format!("{limit} open files allowed, {needed} may be needed"))
                .advice("raise it: `ulimit -n 65536`, or LimitNOFILE= in the service's unit")
        }
        limit => Finding::new(
            "limits",
            Verdict::Ok,
            format!(
                "{} open files allowed",
                limit.map_or_else(|| "any number of".to_owned(), |limit| limit.to_string())
            ),
        ),
    });
}
