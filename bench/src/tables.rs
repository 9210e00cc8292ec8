//! The report for people.

use crate::drain::Drain;
use crate::growth::Growth;
use crate::idle::Idle;
use crate::lambda::Lambda;
use crate::latency::Latency;
use crate::numbers::{Percentiles, Spread};
use crate::report::{Ratios, Report};
use crate::throughput::{Side, Throughput};

pub fn print(report: &Report) {
    let machine = &report.machine;
    println!(
        "{} build · {} cores of {} · Linux {} · {} MiB · {} on {} · load before: {}",
        report.build,
        machine.cores,
        machine.cpu,
        machine.kernel,
        machine.memory_mib,
        machine.file_system,
        machine.folder,
        machine.load_before
    );
    let servers = &report.servers;
    println!("RabbitMQ {} · Postgres {}, fsync on · Redis {}", servers.rabbitmq, servers.postgres, servers.redis);
    if let Some(throughput) = &report.throughput {
        print_throughput(throughput);
    }
    if let Some(cold) = &report.cold {
        print_latency("cold: event → handler, a worker to start for each", "start + round trip", cold);
    }
    if let Some(warm) = &report.warm {
        print_latency("warm: event → handler, a worker waits", "claim + round trip", warm);
    }
    if let Some(lambda) = &report.lambda {
        print_lambda(lambda);
    }
    if let Some(burst) = &report.burst {
        println!("\nburst: nothing → {} at once, {} workers of {} slots", burst.events, burst.workers, burst.slots);
        print_spread("floor: ten starts", burst.floor_ms, "ms");
        print_spread("weft: first delivery → 1,000th entered", burst.thousand_ms, "ms");
        print_spread("  its first", Spread::of(burst.rounds.iter().map(|round| round.first_ms)), "ms");
        print_spread("  its 100th", Spread::of(burst.rounds.iter().map(|round| round.hundredth_ms)), "ms");
        print_spread("  its 500th", Spread::of(burst.rounds.iter().map(|round| round.half_ms)), "ms");
    }
    if let Some(idle) = &report.idle {
        print_idle(idle);
    }
    if let Some(drain) = &report.drain {
        print_drain(drain);
    }
    if let Some(growth) = &report.growth {
        print_growth(growth);
    }
    if let Some(sweep) = &report.sweep {
        println!("\nsweep: {} rows, {} of them expired", sweep.rows, sweep.deleted);
        println!(
            "  {:.0} rows/s in {} calls over {:.1} s; longest call {:.0} ms, longest statement {:.1} ms ({})",
            sweep.rows_per_second,
            sweep.calls,
            sweep.seconds,
            sweep.longest_call_ms,
            sweep.longest_statement_ms,
            sweep.statement
        );
        print_percentiles_head();
        print_percentiles("a claim alone", sweep.claim_alone_us);
        print_percentiles("a claim beside it", sweep.claim_beside_us);
    }
    if let Some(audit) = &report.audit {
        println!("\naudit: {} rows", audit.rows);
        print_spread("weft audit", audit.seconds, "s");
    }
    print_budgets(report);
    let loads: Vec<_> =
        report.loads.iter().map(|load| format!("{} {}→{}", load.part, load.before, load.after)).collect();
    println!("\nload by part: {} · {:.0} s in all", loads.join(", "), report.seconds);
    for note in &report.left_out {
        println!("left out: {}: {}", note.part, note.reason);
    }
    for note in &report.faults {
        println!("went wrong: {}: {}", note.part, note.reason);
    }
}

/// What a figure must be.
enum Budget {
    Least(f64),
    Most(f64),
}

fn print_budgets(report: &Report) {
    let Ratios { throughput_vs_floor, .. } = report.ratios;
    let ratios = &report.ratios;
    let rows = [
        ("throughput over the floor", throughput_vs_floor, Some(Budget::Least(0.6))),
        ("throughput over Celery", ratios.throughput_vs_celery, Some(Budget::Least(10.0))),
        ("throughput over Dramatiq", ratios.throughput_vs_dramatiq, Some(Budget::Least(5.0))),
        ("throughput over Graphile Worker", ratios.throughput_vs_graphile_worker, Some(Budget::Least(5.0))),
        ("throughput over it, job by job", ratios.throughput_vs_graphile_single, None),
        ("throughput over BullMQ", ratios.throughput_vs_bullmq, Some(Budget::Least(1.0))),
        ("throughput over BullMQ, fsync always", ratios.throughput_vs_bullmq_always, None),
        ("throughput over pg-boss", ratios.throughput_vs_pg_boss, None),
        ("throughput over apalis on Postgres", ratios.throughput_vs_apalis_postgres, None),
        ("throughput over apalis on AMQP", ratios.throughput_vs_apalis_amqp, None),
        ("cold p50 over its floor", ratios.cold_p50_vs_floor, Some(Budget::Most(2.5))),
        ("cold p99 in ms", report.cold_p99_ms, Some(Budget::Most(10.0))),
        ("warm p50 over its floor", ratios.warm_p50_vs_floor, Some(Budget::Most(2.0))),
        ("Python cold p50 over its floor", ratios.lambda_cold_p50_vs_floor, Some(Budget::Most(1.3))),
        ("Python cold p99 over its floor", ratios.lambda_cold_p99_vs_floor, None),
        ("Python warm p50 in ms, claimed → taken", report.lambda_warm_p50_ms, Some(Budget::Most(0.5))),
        ("Python warm p50 over its floor", ratios.lambda_warm_p50_vs_floor, None),
        ("Python warm p50 in ms, with the claim", report.lambda_warm_received_p50_ms, None),
        ("Python Invoke API p50 in ms", report.lambda_invoke_p50_ms, None),
        ("burst to 1,000 over ten starts", ratios.burst_1000_vs_ten_spawns, Some(Budget::Most(5.0))),
        ("throughput at 10 M rows over 10 k", ratios.growth_10m_vs_10k, Some(Budget::Least(0.9))),
        ("idle resident MiB", report.idle_rss_mib, Some(Budget::Most(30.0))),
    ];
    println!("\n{:<42}{:>10}{:>18}", "figure", "is", "budget");
    for (name, value, budget) in rows {
        let Some(value) = value else { continue };
        let (text, held) = match budget {
            Some(Budget::Least(least)) => (format!("at least {least}"), value >= least),
            Some(Budget::Most(most)) => (format!("at most {most}"), value <= most),
            None => ("-".to_owned(), true),
        };
        println!("{name:<42}{value:>10.2}{text:>18}{}", if held { "" } else { "   missed" });
    }
}

fn print_throughput(throughput: &Throughput) {
    let plan = throughput.plan;
    println!(
        "\nthroughput: up to {} events, {} rounds of each side, up to {} workers of {} slots, prefetch {}",
        plan.events, throughput.rounds_run, plan.workers, plan.slots, throughput.prefetch
    );
    println!("  {:<18}{:>10}{:>14}{:>12}{:>12}{:>12}", "", "events", "events/s p50", "min", "max", "weft is");
    for side in &throughput.sides {
        let Spread { median, min, max } = side.events_per_second;
        let over = side.weft_over.map_or_else(String::new, |over| format!("{over:.2} ×"));
        println!("  {:<18}{:>10}{median:>14.0}{min:>12.0}{max:>12.0}{over:>12}", side.side.name(), side.events);
    }
    for peer in &throughput.peers {
        println!("  {} {}: {}", peer.peer.name(), peer.version, peer.settings);
    }
    for absent in &throughput.absent {
        println!("  absent: {}: {}", absent.peer.name(), absent.reason);
    }
    println!("  processor seconds of each round: this process + workers + rest of the machine, of wall seconds");
    for round in throughput.all_rounds.iter().filter(|round| matches!(round.side, Side::Floor | Side::Weft)) {
        let Some(cpu) = round.cpu else { continue };
        println!(
            "  {:<8}{:>5.2} + {:.2} + {:.2} of {:.2}",
            format!("{} {}", round.side.name(), round.round),
            cpu.own,
            cpu.workers,
            cpu.rest,
            round.seconds
        );
    }
}

fn print_percentiles_head() {
    println!("  {:<40}{:>10}{:>10}{:>10}{:>10}", "", "p50 ms", "p99 ms", "min ms", "max ms");
}

fn print_percentiles(name: &str, Percentiles { p50, p99, min, max, .. }: Percentiles) {
    let ms = |us: f64| us / 1e3;
    println!("  {name:<40}{:>10.3}{:>10.3}{:>10.3}{:>10.3}", ms(p50), ms(p99), ms(min), ms(max));
}

fn print_spread(name: &str, Spread { median, min, max }: Spread, unit: &str) {
    println!("  {name:<40}{median:>10.2} {unit} ({min:.2} to {max:.2})");
}

fn print_latency(title: &str, floor: &str, latency: &Latency) {
    println!("\n{title}, {} samples", latency.floor_us.samples);
    print_percentiles_head();
    print_percentiles(&format!("floor: {floor}"), latency.floor_us);
    print_percentiles("weft: received → entered", latency.received_to_entered_us);
    print_percentiles("weft: published → entered", latency.published_to_entered_us);
    println!("  ratio {:.2} at p50, {:.2} at p99", latency.ratio_p50, latency.ratio_p99);
}

fn print_lambda(Lambda { versions, cold, warm }: &Lambda) {
    println!("\nlambda: a Python function, a worker to start for each, {} samples; {versions}", cold.floor_us.samples);
    print_percentiles_head();
    print_percentiles("floor: spawn → response", cold.floor_us);
    print_percentiles("weft: received → response taken", cold.received_to_taken_us);
    print_percentiles("  claimed → response taken", cold.claimed_to_taken_us);
    print_percentiles("weft: published → settled", cold.published_to_settled_us);
    println!("  ratio {:.2} at p50, {:.2} at p99", cold.ratio_p50, cold.ratio_p99);
    println!("lambda: the same, a worker waits, {} samples", warm.floor_us.samples);
    print_percentiles("floor: hand-out → response", warm.floor_us);
    print_percentiles("weft: claimed → response taken", warm.claimed_to_taken_us);
    print_percentiles("weft: received → response taken", warm.received_to_taken_us);
    print_percentiles("weft: received → settled", warm.received_to_settled_us);
    print_percentiles("weft: published → settled", warm.published_to_settled_us);
    print_percentiles("weft: a call of the Invoke API", warm.invoke_us);
    println!("  ratio {:.2} at p50 (claimed → response taken)", warm.ratio_p50);
}

fn print_idle(idle: &Idle) {
    println!("\nidle: `weft run` with {} functions, watched for {:.0} s", idle.functions, idle.seconds);
    println!(
        "  resident {:.1} MiB, of that anonymous {:.1}; highest ever {:.1}; {} threads",
        idle.resident_mib, idle.anonymous_mib, idle.resident_peak_mib, idle.threads
    );
    println!("  processor {:.0} ms ({:.3} % of a core)", idle.cpu_ms, idle.cpu_percent);
    println!(
        "  wake-ups {:.2}/s, reads and writes {:.2}/s; by thread: {}",
        idle.wakeups_per_second,
        idle.reads_and_writes_per_second,
        idle.wakeups_by_thread.iter().map(|(name, rate)| format!("{name} {rate:.2}")).collect::<Vec<_>>().join(", ")
    );
}

fn print_drain(drain: &Drain) {
    println!(
        "\ndrain: {} events wait, then a start; up to {} workers of {} slots",
        drain.events, drain.most_workers, drain.slots
    );
    println!(
        "  first effect after {:.3} s, last after {:.2} s ({:.0} events/s), {} workers at most",
        drain.first_effect_seconds, drain.last_effect_seconds, drain.events_per_second, drain.peak_workers
    );
    match drain.workers_gone_seconds {
        Some(gone) => {
            println!("  no worker left {gone:.2} s after the last effect (keep-alive 1 s); chart: {}", drain.chart)
        }
        None => println!("  workers were left when the look ended; chart: {}", drain.chart),
    }
}

fn print_growth(growth: &Growth) {
    println!("\ngrowth: {} events a round", growth.events);
    println!(
        "  {:>12}{:>12}{:>12}{:>14}{:>10}{:>10}{:>14}{:>14}{:>18}",
        "rows",
        "table MiB",
        "index MiB",
        "events/s p50",
        "min",
        "max",
        "warm p50 ms",
        "over smallest",
        "after checkpoint"
    );
    for size in &growth.sizes {
        let Spread { median, min, max } = size.events_per_second;
        println!(
            "  {:>12}{:>12.0}{:>12.0}{median:>14.0}{min:>10.0}{max:>10.0}{:>14.3}{:>14.2}{:>18.0}",
            size.rows,
            size.table_mib,
            size.index_mib,
            size.warm_us.p50 / 1e3,
            size.over_smallest,
            size.after_checkpoint.median
        );
    }
    println!("  after a checkpoint the largest does {:.2} of the smallest", growth.ratio_after_checkpoint);
}
