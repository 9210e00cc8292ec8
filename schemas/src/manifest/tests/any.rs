//! Manifests made at random: written and read back, bent, or no manifest at all.

use std::fmt::Write as _;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::sample;

/// A duration within a range, in whole milliseconds.
fn duration_in(key: &keys::Ranged<Duration>) -> impl Strategy<Value = Duration> + use<> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap();
    (ms(key.min)..=ms(key.max)).prop_map(Duration::from_millis)
}

fn any_text() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| text.replace('\0', "")).prop_filter("not empty", |text| !text.is_empty())
}

fn any_backoff() -> impl Strategy<Value = Backoff> {
    (duration_in(&keys::FIRST), 1.0..=10.0_f64, duration_in(&keys::MAX), 0.0..=1.0_f64)
        .prop_map(|(first, factor, max, jitter)| Backoff { first, factor, max: max.max(first), jitter })
}

fn any_keep_alive() -> impl Strategy<Value = KeepAlive> {
    prop_oneof![3 => duration_in(&keys::KEEP_ALIVE).prop_map(KeepAlive::Fixed), 1 => Just(KeepAlive::Adaptive)]
}

/// Windows as numbers choose them; few patterns, for it is croner that reads them.
fn any_schedule(number: u32) -> Vec<Window> {
    let zones = ["UTC", "Europe/Berlin", "America/New_York"];
    let patterns = ["0 7 * * 1-5", "*/5 * * * *", "30 2 * * *"];
    let windows = (0..number % 3).map(|at| {
        let pick = (number / 3 + at) as usize;
        let opens = Moments::parse(patterns[pick % 3], zones[(pick / 3) % 3]).unwrap();
        Window {
            opens,
            lasts: Duration::from_secs(u64::from(60 + number % 1000)),
            provisioned: number.clamp(1, 100_000),
        }
    });
    windows.collect()
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (
        option::of(0.01..=1024.0_f64),
        option::of(64_u32..=1 << 20),
        option::of(16_u32..=100_000),
        option::of(keys::DISK.min..=keys::MEMORY.min),
        option::of(keys::FILE_SIZE.min..=keys::FILE_SIZE.max),
        keys::OUTPUT.min..=keys::OUTPUT.max,
    )
        .prop_map(|(cpu, files, processes, disk_bytes, file_size_bytes, output_bytes)| Limits {
            cpu,
            files,
            processes,
            disk_bytes,
            file_size_bytes,
            output_bytes,
        })
}

fn any_isolation() -> impl Strategy<Value = Isolation> {
    (option::of("[a-z]{1,8}"), option::of(vec("[a-z/]{1,8}", 0..3)), any::<bool>()).prop_map(
        |(user, write, network)| Isolation {
            user,
            read_only: write.is_some(),
            write: write.unwrap_or_default(),
            network,
        },
    )
}

fn any_function() -> impl Strategy<Value = Function> {
    let patterns = || {
        vec("[a-z]{1,3}\\.(\\*|#|[a-z]{1,3})", 1..4).prop_map(|mut all| {
            all.sort();
            all.dedup();
            all
        })
    };
    let env = btree_map("[A-VX-Z_][A-Z0-9_]{0,5}", any_text().prop_map(|text| text.replace("${", "$$$${")), 0..3)
        .prop_map(|map| map.into_iter().filter(|(_, text)| env::check(text).is_ok()).collect::<BTreeMap<_, _>>());
    let concurrency = option::of(1_u32..=100_000).prop_flat_map(|reserved| {
        (1..=reserved.unwrap_or(1000).min(1000), 0..=reserved.unwrap_or(100_000)).prop_map(
            move |(slots, provisioned)| {
                (
                    slots,
                    Concurrency {
                        reserved,
                        provisioned,
                        total: None,
                        weight: 1 + provisioned % 100,
                        schedule: any_schedule(provisioned),
                    },
                )
            },
        )
    });
    let per = prop::sample::select(vec!["s", "m", "h"]);
    let rate = (1..=rate::MOST, per).prop_map(|(starts, per)| Rate::parse(&format!("{starts}/{per}")).unwrap());
    let ordering = "/data(/[a-z]{1,5}){1,3}".prop_map(|key| Ordering { key });
    let batch = (1_u32..=1000, duration_in(&keys::BATCH_WAIT)).prop_map(|(size, wait)| Batch { size, wait });
    let caps = (option::of(rate), option::of(ordering), option::of(batch), option::of(0_u32..=10));
    (
        (
            (sample::function_name(), any::<bool>(), option::of("[a-z./]{1,9}"), vec("[A-Za-z.:]{1,9}", 0..3)),
            vec(any_text(), 1..4),
            any_text(),
            patterns(),
            option::of("[a-z.]{1,20}"),
        ),
        (
            (duration_in(&keys::TIMEOUT), duration_in(&keys::INIT_TIMEOUT)),
            (keys::MEMORY.min..=keys::MEMORY.max, any_limits(), any_isolation()),
            concurrency,
            any_keep_alive(),
        ),
        (1_u32..=100, 1_u32..=20, duration_in(&keys::MAX_AGE), any_backoff()),
        caps,
        (
            option::of("/data(/[a-z]{1,5}){1,3}"),
            duration_in(&keys::KEEP),
            env,
            (keys::MAX_EVENT.min..=keys::MAX_EVENT.max, keys::MAX_RESULT.min..=keys::MAX_RESULT.max, 0_u32..=10_000),
        ),
    )
        .prop_map(
            |(
                ((name, lambda, root, terminal_errors), command, handler, events, source),
                ((timeout, init_timeout), (memory_bytes, limits, isolation), (slots, concurrency), keep_alive),
                (attempts, crashes, max_age, backoff),
                (rate, ordering, batch, total),
                (key, keep, env, (max_event_bytes, max_result_bytes, max_depth)),
            )| Function {
                name,
                command,
                handler,
                runtime: if lambda && isolation.network { Runtime::Lambda } else { Runtime::Native },
                // With a batch some shapes are refused.
                shape: if lambda && isolation.network && batch.is_none() {
                    Shape::ALL[attempts as usize % 6]
                } else {
                    Shape::CloudEvent
                },
                root,
                terminal_errors,
                events,
                source,
                schema: None,
                timeout,
                init_timeout,
                memory_bytes,
                limits,
                isolation,
                slots,
                concurrency: Concurrency {
                    total: total.map(|more| (concurrency.provisioned + more).clamp(1, 100_000)),
                    ..concurrency
                },
                rate,
                ordering,
                batch,
                keep_alive,
                retry: Retry { attempts, crashes, max_age, backoff },
                idempotency: Idempotency { key, keep },
                env,
                max_event_bytes,
                max_result_bytes,
                max_depth,
            },
        )
}

fn write_confined(out: &mut String, f: &Function) {
    let (limits, isolation) = (&f.limits, &f.isolation);
    writeln!(out, "limits.output = \"{}\"", bytes::format(limits.output_bytes)).unwrap();
    let numbers = [("files", limits.files), ("processes", limits.processes)];
    for (name, number) in numbers.into_iter().filter_map(|(name, number)| Some((name, number?))) {
        writeln!(out, "limits.{name} = {number}").unwrap();
    }
    let sizes = [("disk", limits.disk_bytes), ("file_size", limits.file_size_bytes)];
    for (name, size) in sizes.into_iter().filter_map(|(name, size)| Some((name, size?))) {
        writeln!(out, "limits.{name} = \"{}\"", bytes::format(size)).unwrap();
    }
    if let Some(cpu) = limits.cpu {
        writeln!(out, "limits.cpu = {cpu:?}").unwrap();
    }
    writeln!(out, "isolation.read_only = {}\nisolation.network = {}", isolation.read_only, isolation.network).unwrap();
    if let Some(user) = &isolation.user {
        writeln!(out, "isolation.user = {user:?}").unwrap();
    }
    if !isolation.write.is_empty() {
        writeln!(out, "isolation.write = {:?}", isolation.write).unwrap();
    }
}

/// A manifest as its author may write it, every key set.
fn written(functions: &[Function]) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
    let time = duration::format;
    let mut out = String::new();
    for f in functions {
        writeln!(out, "[functions.{}]", f.name).unwrap();
        writeln!(out, "command = [{}]\nevents = [{}]", list(&f.command), list(&f.events)).unwrap();
        writeln!(out, "handler = {}", quoted(&f.handler)).unwrap();
        let runtime = if f.runtime == Runtime::Lambda { "lambda" } else { "native" };
        writeln!(out, "runtime = \"{runtime}\"").unwrap();
        writeln!(out, "event = \"{}\"", f.shape.as_str()).unwrap();
        if let Some(root) = &f.root {
            writeln!(out, "root = {}", quoted(root)).unwrap();
        }
        if !f.terminal_errors.is_empty() {
            writeln!(out, "terminal_errors = [{}]", list(&f.terminal_errors)).unwrap();
        }
        if let Some(source) = &f.source {
            writeln!(out, "source = {}", quoted(source)).unwrap();
        }
        writeln!(out, "init_timeout = \"{}\"", time(f.init_timeout)).unwrap();
        let keep_alive = match f.keep_alive {
            KeepAlive::Fixed(fixed) => time(fixed),
            KeepAlive::Adaptive => "adaptive".to_owned(),
        };
        writeln!(out, "timeout = \"{}\"\nkeep_alive = \"{keep_alive}\"", time(f.timeout)).unwrap();
        writeln!(
            out,
            "memory = \"{}\"\nmax_event = \"{}\"",
            bytes::format(f.memory_bytes),
            bytes::format(f.max_event_bytes)
        )
        .unwrap();
        writeln!(out, "max_result = \"{}\"\nmax_depth = {}", bytes::format(f.max_result_bytes), f.max_depth).unwrap();
        writeln!(out, "slots = {}\nconcurrency.provisioned = {}", f.slots, f.concurrency.provisioned).unwrap();
        if let Some(total) = f.concurrency.total {
            writeln!(out, "concurrency.total = {total}").unwrap();
        }
        if let Some(rate) = f.rate {
            writeln!(out, "rate = \"{rate}\"").unwrap();
        }
        if let Some(ordering) = &f.ordering {
            writeln!(out, "ordering.key = {}", quoted(&ordering.key)).unwrap();
        }
        if let Some(batch) = f.batch {
            writeln!(out, "batch = {{ size = {}, wait = \"{}\" }}", batch.size, time(batch.wait)).unwrap();
        }
        writeln!(out, "concurrency.weight = {}", f.concurrency.weight).unwrap();
        if let Some(reserved) = f.concurrency.reserved {
            writeln!(out, "concurrency.reserved = {reserved}").unwrap();
        }
        if !f.concurrency.schedule.is_empty() {
            let windows = f.concurrency.schedule.iter().map(|window| {
                format!(
                    "{{ cron = {}, for = \"{}\", time_zone = {}, provisioned = {} }}",
                    quoted(window.opens.text()),
                    time(window.lasts),
                    quoted(window.opens.zone()),
                    window.provisioned
                )
            });
            writeln!(out, "concurrency.schedule = [{}]", windows.collect::<Vec<_>>().join(", ")).unwrap();
        }
        let (retry, backoff) = (f.retry, f.retry.backoff);
        writeln!(
            out,
            "retry = {{ attempts = {}, crashes = {}, max_age = \"{}\", backoff = {{ first = \"{}\", factor = {:?}, max = \"{}\", jitter = {:?} }} }}",
            retry.attempts, retry.crashes, time(retry.max_age), time(backoff.first), backoff.factor, time(backoff.max), backoff.jitter,
        )
        .unwrap();
        writeln!(out, "idempotency.keep = \"{}\"", time(f.idempotency.keep)).unwrap();
        if let Some(key) = &f.idempotency.key {
            writeln!(out, "idempotency.key = {}", quoted(key)).unwrap();
        }
        write_confined(&mut out, f);
        writeln!(out, "[functions.{}.env]", f.name).unwrap();
        for (name, text) in &f.env {
            writeln!(out, "{name} = {}", quoted(text)).unwrap();
        }
    }
    out
}

proptest! {
    #[test]
    fn a_manifest_written_is_read_back(functions in btree_map(sample::function_name(), any_function(), 1..4)) {
        let functions: BTreeMap<_, _> =
            functions.into_iter().map(|(name, function)| (name.clone(), Function { name, ..function })).collect();
        let text = written(&functions.values().cloned().collect::<Vec<_>>());
        let read = parse(&text);
        prop_assert!(read.is_ok(), "{}\n{}", read.unwrap_err(), text);
        prop_assert_eq!(read.unwrap().functions, functions);
    }

    #[test]
    fn a_bent_manifest_is_read_or_refused_with_places_that_exist(
        function in any_function(), at in any::<prop::sample::Index>(), with in "\\PC{0,3}|[\\[\\]{}=.\"'\n#]{0,3}", cut in 0_usize..6,
    ) {
        let mut text = written(&[function]);
        let start = text.floor_char_boundary(at.index(text.len()));
        let end = text.floor_char_boundary((start + cut).min(text.len())).max(start);
        text.replace_range(start..end, &with);
        if let Err(faults) = parse(&text) {
            prop_assert!(!faults.0.is_empty());
            for fault in faults.0 {
                prop_assert!(fault.line >= 1 && fault.line <= text.matches('\n').count() + 1, "{}", fault);
                prop_assert!(!fault.message.is_empty() && !fault.help.is_empty() && fault.column >= 1);
            }
        }
    }

    #[test]
    fn any_text_is_a_manifest_or_refused(text in any::<String>(), toml in "(\\[functions(\\.[a-z]{0,2}){0,2}\\]\n|[a-z_]{0,7} ?= ?(1|\"[a-z]{0,2}\"|\\[|\\{|\\}|\\])\n?){0,6}") {
        let _ = parse(&text);
        let _ = parse(&toml);
    }
}
