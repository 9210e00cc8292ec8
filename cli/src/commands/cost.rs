//! `weft cost`: what the functions of an installation have used, and what that would cost elsewhere.

use jiff::Timestamp;
use weft_dispatcher::cost::{Costs, Figures, reckon};
use weft_process::report::{Exit, Report};

use crate::args;
use crate::services::Services;
use crate::show;

/// Usage is kept by the hour.
const HOUR_S: i64 = 3_600;

pub async fn run(args: args::Cost) -> Result<Exit, Report> {
    let ledger = Services::resolve(&args.services)?.checked_ledger().await?;
    let until = Timestamp::now();
    let since = args.since.map_or(Timestamp::UNIX_EPOCH, |age| {
        let since = until.as_second().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX)).max(0);
        Timestamp::from_second(since - since.rem_euclid(HOUR_S)).unwrap_or(Timestamp::UNIX_EPOCH)
    });
    let mut rows = ledger.usage(since).await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
    if let Some(function) = &args.function {
        rows.retain(|row| row.function == *function);
    }
    // Without --since, what is told begins with what there is.
    let since = if args.since.is_none() { rows.iter().map(|row| row.hour).min().unwrap_or(until) } else { since };
    let costs = reckon(&rows, since, until, (&args.prices).into());
    if args.json {
        show::json(&costs)?;
    } else {
        print(&costs)?;
    }
    Ok(Exit::Ok)
}

fn print(costs: &Costs) -> Result<(), Report> {
    if costs.functions.is_empty() {
        return show::line(&format!("nothing was used since {}", costs.since));
    }
    let cells = |name: &str, figures: &Figures| {
        vec![
            name.to_owned(),
            figures.attempts.to_string(),
            format!("{:.1}%", 100.0 * figures.cold_share),
            format!("{:.1}", figures.billed_gb_seconds),
            format!("{:.2}", figures.worker_seconds / 3_600.0),
            format!("{:.2}", figures.memory_mb_seconds / 1_024.0 / 3_600.0),
            format!("{:.4}", figures.on_demand_usd),
            format!("{:.4}", figures.containers_usd),
        ]
    };
    let mut rows: Vec<_> = costs
        .functions
        .iter()
        .map(|function| {
            let mut row = cells(function.name.as_str(), &function.figures);
            row.extend([
                format!("{:.1}", function.per_hour),
                format!("{:.0}", function.break_even_per_hour),
                function.cheaper.to_owned(),
            ]);
            row
        })
        .collect();
    rows.push(cells("all", &costs.total.figures));
    let header = [
        "FUNCTION",
        "ATTEMPTS",
        "COLD",
        "BILLED GB-S",
        "WORKER HOURS",
        "GB HOURS",
        "ON DEMAND $",
        "AS CONTAINERS $",
        "PER HOUR",
        "BREAK-EVEN PER HOUR",
        "CHEAPER",
    ];
    show::table(&header, rows)?;
    show::line(&format!(
        "since {}: {} node-hours with work, as nodes ${:.2}",
        costs.since, costs.total.node_hours, costs.total.nodes_usd
    ))
}
