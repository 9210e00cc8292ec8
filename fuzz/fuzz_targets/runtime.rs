//! The Runtime API against a worker that does whatever it likes: hostile bytes on several connections at once, between calls
//! that the pool offers, cancels and drains. Whatever was said, each call is answered at most once and none is lost: it can be
//! taken and answered by a runtime that comes after; what is refused is refused in AWS's own form; and no more memory is taken
//! than the largest answers need.
//!
//! An input is a line of settings (`1 data`: slots, and the shape of the events) and steps, each ended by a line of `--`:
//! `offer`, `batch`, `cancel N`, `drain`; `on C` with the bytes that follow for connection C, where `{x}` is the identifier of
//! the extension that registered last; `fill C N`, N bytes `1`; `shut C`, which ends what is sent, and `drop C`. Calls are
//! named `r0`, `r1` and so on.

#![no_main]

// The pure part of the link and what serves it over HTTP, without the program around it, which takes minutes to build.
#[allow(dead_code)]
#[path = "../../dispatcher/src/link/lambda/answer.rs"]
mod answer;
#[allow(dead_code)]
#[path = "../../dispatcher/src/link/lambda/api/mod.rs"]
mod api;
#[allow(dead_code)]
#[path = "../../dispatcher/src/link/current.rs"]
mod current;
#[allow(dead_code)]
#[path = "../../dispatcher/src/link/lambda/environment.rs"]
mod environment;
#[allow(dead_code)]
#[path = "../../dispatcher/src/link/lambda/function.rs"]
mod function;
#[allow(dead_code)]
#[path = "../../dispatcher/src/link/lambda/machine.rs"]
mod machine;
#[path = "runtime/memory.rs"]
mod memory;
#[allow(dead_code)]
#[path = "../../dispatcher/src/link/lambda/report.rs"]
mod report;
#[allow(dead_code)]
#[path = "../../dispatcher/src/link/lambda/route.rs"]
mod route;
#[path = "runtime/worker.rs"]
mod worker;

use current::{Current, Seen, Watched, most_memory};
use function::Lambda;
use libfuzzer_sys::{Corpus, fuzz_target};
use weft_schemas::shape::Shape;
use worker::Worker;

/// Connections, calls and steps of one input, and the bytes that `fill` may send.
const MOST_CONNECTIONS: usize = 4;
const MOST_CALLS: usize = 8;
const MOST_STEPS: usize = 64;
const MOST_FILLED: usize = 20 << 20;

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((slots, shape, steps)) = read(input) else { return Corpus::Reject };
    // Its clock stands still until nothing else is left to do: to wait is to see everything done.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let before = memory::start();
    runtime.expect("a runtime").block_on(async {
        let mut worker = Worker::new(slots, shape);
        for step in &steps {
            worker.step(step).await;
        }
        worker.end().await;
    });
    // An answer grows by doubling, and is copied into its outcome.
    let most = slots * 6 * machine::MAX_RESPONSE_BYTES + 64 * input.len() + (4 << 20);
    let took = memory::peak().saturating_sub(before);
    assert!(took <= most, "{took} bytes were taken at once, more than {most}");
    Corpus::Keep
});

enum Step<'a> {
    Offer,
    Batch,
    Cancel(u64),
    Drain,
    On(usize, &'a [u8]),
    Fill(usize, usize),
    Shut(usize),
    Drop(usize),
}

/// `None`: not in the form of an input.
fn read(input: &[u8]) -> Option<(usize, Shape, Vec<Step<'_>>)> {
    let at = input.iter().position(|byte| *byte == b'\n')?;
    let (slots, shape) = std::str::from_utf8(&input[..at]).ok()?.split_once(' ')?;
    let slots = slots.parse().ok().filter(|slots| (1..=3).contains(slots))?;
    let shape = match shape {
        "event" => Shape::CloudEvent,
        "data" => Shape::Data,
        "sqs" => Shape::Sqs,
        _ => return None,
    };
    let (mut steps, mut rest, mut filled) = (Vec::new(), &input[at + 1..], 0);
    while !rest.is_empty() && steps.len() < MOST_STEPS {
        let end = rest.windows(4).position(|part| part == b"\n--\n");
        let step = &rest[..end.unwrap_or(rest.len())];
        rest = end.map_or(&[], |end| &rest[end + 4..]);
        let line = step.iter().position(|byte| *byte == b'\n').unwrap_or(step.len());
        let mut words = std::str::from_utf8(&step[..line]).ok()?.split(' ');
        let (what, mut number) = (words.next()?, || words.next()?.parse::<usize>().ok());
        let mut connection = || number().filter(|number| *number < MOST_CONNECTIONS);
        steps.push(match what {
            "offer" => Step::Offer,
            "batch" => Step::Batch,
            "drain" => Step::Drain,
            "cancel" => Step::Cancel(number()? as u64),
            "on" => Step::On(connection()?, step.get(line + 1..).unwrap_or_default()),
            "fill" => {
                let (connection, bytes) = (connection()?, number()?.min(MOST_FILLED - filled));
                filled += bytes;
                Step::Fill(connection, bytes)
            }
            "shut" => Step::Shut(connection()?),
            "drop" => Step::Drop(connection()?),
            _ => return None,
        });
    }
    Some((slots, shape, steps))
}
