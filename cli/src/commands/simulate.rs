//! `weft simulate`: a trace under several keep-alive policies, side by side.

use std::time::Duration;

use weft_dispatcher::simulate::{Policy, Report as Figures, Setup, Trace, chart, simulate};
use weft_process::report::{Code, Exit, Report};

use crate::args;
use crate::show;

pub fn run(args: &args::Simulate) -> Result<Exit, Report> {
    let trace = read(args)?;
    let minutes = args.hours.map(|hours| hours.saturating_mul(60)).or(args.minutes);
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    if count(args.from) >= trace.minutes {
        let message = format!("failed to begin at minute {}: the trace has {}", args.from, trace.minutes);
        return Err(Report::new(Code::Setting, message).help("give a smaller --from"));
    }
    let setup = Setup {
        slots: args.slots,
        cold_start: args.cold_start,
        starts: args.starts,
        reserved: args.reserved,
        node_workers: args.node_workers,
        keep_alive: args.keep_alive,
        arrivals: args.arrivals.into(),
        seed: args.seed,
        from: count(args.from),
        minutes: minutes.map(count),
        prices: (&args.prices).into(),
    };
    let policies = if args.policies.is_empty() { Policy::usual() } else { args.policies.clone() };
    let bar = show::bar(u64::try_from(policies.len()).ok(), args.json);
    let figures = simulate(&trace, &setup, &policies, &|| bar.inc(1));
    bar.finish_and_clear();
    if let Some(path) = &args.chart {
        let svg = chart::svg(&figures).map_err(|error| Report::of(Code::Unexpected, &error))?;
        std::fs::write(path, svg).map_err(|error| {
            Report::new(Code::Setting, format!("failed to write the chart to {}: {error}", path.display()))
        })?;
    }
    if args.json {
        show::json(&figures)?;
    } else {
        print(&figures, args.functions)?;
    }
    Ok(Exit::Ok)
}

fn read(args: &args::Simulate) -> Result<Trace, Report> {
    Trace::read(&args.trace, args.skip_incomplete).map_err(|faults| {
        let mut message = format!("failed to read the trace in {}", args.trace.display());
        faults.iter().for_each(|fault| message.push_str(&format!("\n  {}", show::printable(&fault.to_string()))));
        Report::new(Code::InputFile, message).help("the format is described in docs/simulate.md")
    })
}

fn print(figures: &Figures, functions: bool) -> Result<(), Report> {
    let trace = &figures.trace;
    show::line(&format!(
        "{} functions, {} invocations in {}; arrivals {}, seed {}",
        trace.functions,
        trace.invocations,
        weft_schemas::manifest::duration::format(minutes(trace.minutes)),
        trace.arrivals,
        trace.seed,
    ))?;
    for (count, what) in [
        (trace.silent_functions, "have no event in this time and are left out"),
        (trace.incomplete_functions, "lack durations or memory and are left out"),
    ] {
        if count > 0 {
            show::line(&format!("{count} more functions {what}"))?;
        }
    }
    let rows = figures.policies.iter().map(|policy| {
        vec![
            policy.name.clone(),
            policy.cold_starts.to_string(),
            percent(policy.cold_share_median),
            percent(policy.cold_share_p75),
            format!("{:.1}", policy.worker_seconds / 3_600.0),
            format!("{:.2}", policy.memory_mb_seconds / 1_024.0 / 3_600.0),
            policy.peak_workers.to_string(),
            policy.throttles.to_string(),
            format!("{:.2}", policy.containers_usd),
            format!("{:.2}", policy.nodes_usd),
        ]
    });
    let header = [
        "POLICY",
        "COLD STARTS",
        "COLD MEDIAN",
        "COLD P75",
        "WORKER HOURS",
        "GB HOURS",
        "PEAK WORKERS",
        "THROTTLES",
        "AS CONTAINERS $",
        "AS NODES $",
    ];
    show::table(&header, rows.collect())?;
    for policy in figures.policies.iter().filter(|policy| policy.unfinished > 0) {
        show::line(&format!(
            "{}: {} invocations wait for ever, because the workers that it keeps fill the node",
            policy.name, policy.unfinished
        ))?;
    }
    let on_demand: f64 = figures.functions.iter().map(|function| function.on_demand_usd).sum();
    let always_on: f64 = figures.functions.iter().map(|function| function.always_on_usd).sum();
    let dearer = figures.functions.iter().filter(|function| function.cheaper == "always-on").count();
    show::line(&format!(
        "on demand: ${on_demand:.2}; containers always on, as many as each function needs at once: ${always_on:.2}, \
         cheaper for {dearer} of {} functions",
        figures.functions.len()
    ))?;
    if functions {
        let rows = figures.functions.iter().map(|function| {
            vec![
                show::cut(&function.name, 16),
                function.invocations.to_string(),
                format!("{:.0}", function.memory_mb),
                format!("{:.4}", function.on_demand_usd),
                function.always_on_workers.to_string(),
                format!("{:.4}", function.always_on_usd),
                format!("{:.1}", function.per_hour),
                format!("{:.0}", function.break_even_per_hour),
                function.cheaper.to_owned(),
            ]
        });
        let header = [
            "FUNCTION",
            "INVOCATIONS",
            "MB",
            "ON DEMAND $",
            "WORKERS",
            "ALWAYS ON $",
            "PER HOUR",
            "BREAK-EVEN PER HOUR",
            "CHEAPER",
        ];
        show::table(&header, rows.collect())?;
    }
    Ok(())
}

fn minutes(minutes: usize) -> Duration {
    Duration::from_secs(60).saturating_mul(u32::try_from(minutes).unwrap_or(u32::MAX))
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}
