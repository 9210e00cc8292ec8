//! A dispatcher with nothing to do: small, quiet, and without workers.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use weft_tests::poll_every;

use crate::system_stage::{LIMIT, Stage, children, complaints, stop};

/// The release binary's bound is 30 MiB and is measured by the bench; an unoptimised one maps and touches more.
const RESIDENT_MOST: u64 = if cfg!(debug_assertions) { 60 << 20 } else { 30 << 20 };
/// Everything that may wake a thread: the relay, the lease, heartbeats of two connections. No timer of ours may be
/// shorter than a second, and they are few.
const WAKE_UPS_MOST: f64 = 10.0;
/// With one file each function looks at its queue once a second, in case a doorbell was lost; each look wakes the
/// database's thread and ours a few times.
const WAKE_UPS_MOST_EMBEDDED: f64 = 10.0 + 10.0 * 8.0;
/// How long wake-ups are counted.
const WINDOW: Duration = Duration::from_secs(5);

fn functions(count: u32) -> String {
    let mut text = String::new();
    for number in 0..count {
        let _ = writeln!(
            text,
            "[functions.f{number}]\ncommand = ['HANDLERS']\nhandler = 'noop'\nevents = ['f{number}.event']\nkeep_alive = '1s'"
        );
    }
    text
}

/// Bytes of memory that are resident.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// How often threads have waited and been woken so far, over all threads.
fn wake_ups(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok())
        .filter_map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<u64>().ok()
        })
        .sum()
}

/// Counts wake-ups over a window; there is no signal for nothing happening, so time it is.
async fn wake_ups_per_second(pid: u32) -> f64 {
    let (before, since) = (wake_ups(pid), Instant::now());
    tokio::time::sleep(WINDOW).await;
    (wake_ups(pid) - before) as f64 / since.elapsed().as_secs_f64()
}

async fn idles(stage: Stage, most: f64) {
    let stage = stage.manifest(&functions(10));
    let dispatcher = stage.start(&[]).await;
    let pid = dispatcher.pid().unwrap();
    // One event, so that what is lazy has been made; then its worker has to leave.
    stage.publish("f3.event", "one", &serde_json::json!(null)).await;
    stage.invocations_in("f3", "succeeded", 1).await;
    poll_every(Duration::from_millis(100), "no worker is left", LIMIT, || async {
        let left = children(pid);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;

    let rate = poll_every(Duration::from_millis(1), "it is quiet", LIMIT, || async {
        let rate = wake_ups_per_second(pid).await;
        if rate < most { Ok(rate) } else { Err(format!("{rate:.1} wake-ups a second")) }
    })
    .await;
    let bytes = resident(pid);
    println!("idle with ten functions: {:.1} MiB resident, {rate:.1} wake-ups a second", bytes as f64 / 1_048_576.0);
    assert!(bytes < RESIDENT_MOST, "{bytes} bytes are resident");
    assert!(children(pid).is_empty());
    let exit = stop(dispatcher).await;
    assert_eq!(complaints(&exit.lines, &[]), Vec::<String>::new());
}

#[tokio::test]
async fn an_idle_dispatcher_on_real_services_is_small_and_quiet() {
    idles(Stage::real().await, WAKE_UPS_MOST).await;
}

#[tokio::test]
async fn an_idle_dispatcher_on_one_file_is_small_and_quiet() {
    idles(Stage::embedded(), WAKE_UPS_MOST_EMBEDDED).await;
}
