//! What the Invoke API tells of an invocation beside its answer: measures, and the last of its log, as AWS Lambda does.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::call::LATEST;
use super::error::ApiError;
use super::invoke::put;
use crate::function::Took;

/// The longest log that is told, in bytes, before base64, as AWS has it.
const MOST_BYTES: usize = 4 * 1024;

/// Whether the caller wants the log.
///
/// # Errors
/// It asks for something else.
pub(super) fn is_wanted(headers: &HeaderMap) -> Result<bool, ApiError> {
    match headers.get("x-amz-log-type").map(HeaderValue::as_bytes) {
        None | Some(b"None") => Ok(false),
        Some(b"Tail") => Ok(true),
        Some(_) => Err(ApiError::parameter("X-Amz-Log-Type is neither None nor Tail")),
    }
}

/// What is told in headers. `id`: this call, where the function has no name of its own for it.
pub(super) fn tell(response: &mut Response, took: &Took, id: &str, memory_bytes: u64) {
    let memory_mib = memory_bytes.div_ceil(1 << 20);
    if let Some(ran) = took.ran {
        put(response, "x-weft-duration-ms", &millis(ran));
        put(response, "x-weft-billed-duration-ms", &billed(ran).to_string());
    }
    if let Some(init) = took.init {
        put(response, "x-weft-init-duration-ms", &millis(init));
    }
    put(response, "x-weft-memory-size-mb", &memory_mib.to_string());
    let Some(seen) = &took.seen else { return };
    if let Some(used) = seen.memory_mib {
        put(response, "x-weft-max-memory-used-mb", &used.to_string());
    }
    let id = seen.request.as_deref().unwrap_or(id);
    // As the function knows it.
    put(response, "x-amzn-requestid", id);
    put(response, "x-amz-log-result", &BASE64.encode(tail(took, id, memory_mib)));
}

fn millis(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1e3)
}

fn billed(ran: Duration) -> u128 {
    ran.as_micros().div_ceil(1_000)
}

/// The last of the log: what the invocation wrote between the platform's own lines, whole lines where it has to be cut.
fn tail(took: &Took, id: &str, memory_mib: u64) -> String {
    let mut report = format!("END RequestId: {id}\nREPORT RequestId: {id}");
    // Cannot fail: it is a string.
    if let Some(ran) = took.ran {
        let _ = write!(report, "\tDuration: {} ms\tBilled Duration: {} ms", millis(ran), billed(ran));
    }
    let _ = write!(report, "\tMemory Size: {memory_mib} MB");
    if let Some(used) = took.seen.as_ref().and_then(|seen| seen.memory_mib) {
        let _ = write!(report, "\tMax Memory Used: {used} MB");
    }
    if let Some(init) = took.init {
        let _ = write!(report, "\tInit Duration: {} ms", millis(init));
    }
    report.push('\n');
    let written = took.seen.as_ref().map(|seen| seen.log.as_str()).unwrap_or_default();
    let whole = format!("START RequestId: {id} Version: {LATEST}\n{written}{report}");
    let excess = whole.len().saturating_sub(MOST_BYTES);
    if excess == 0 {
        return whole;
    }
    let from = (excess..=whole.len()).find(|at| whole.is_char_boundary(*at)).unwrap_or(whole.len());
    whole.get(from..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::link::Seen;

    fn took(log: &str) -> Took {
        let seen = Seen { request: None, log: log.to_owned(), memory_mib: Some(38) };
        let (ran, init) = (Some(Duration::from_micros(1_234)), Some(Duration::from_millis(70)));
        Took { ran, init, seen: Some(Arc::new(seen)) }
    }

    #[test]
    fn the_log_is_what_was_written_between_the_platforms_own_lines() {
        assert_eq!(
            tail(&took("one\ntwo\n"), "r", 256),
            "START RequestId: r Version: $LATEST\none\ntwo\nEND RequestId: r\nREPORT RequestId: r\tDuration: 1.23 ms\t\
             Billed Duration: 2 ms\tMemory Size: 256 MB\tMax Memory Used: 38 MB\tInit Duration: 70.00 ms\n"
        );
        let warm = Took { init: None, ..took("") };
        assert!(!tail(&warm, "r", 256).contains("Init"));
    }

    #[test]
    fn of_a_long_log_the_end_is_told() {
        let long = tail(&took(&"ü\n".repeat(2_000)), "r", 256);
        assert!(long.len() <= MOST_BYTES && long.len() > MOST_BYTES - 4, "{}", long.len());
        assert!(long.ends_with("Init Duration: 70.00 ms\n") && !long.contains("START"), "{long}");
    }

    #[test]
    fn the_log_is_told_to_who_asks_for_it_in_the_words_of_the_api() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-log-type", HeaderValue::from_static(value));
            is_wanted(&headers).map_err(|error| error.kind)
        };
        assert_eq!(is_wanted(&HeaderMap::new()), Ok(false));
        assert_eq!((of("None"), of("Tail")), (Ok(false), Ok(true)));
        assert_eq!(of("tail"), Err("InvalidParameterValueException"));
    }
}
