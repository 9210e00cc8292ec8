//! A worker's output as log events, and the tail of its standard error for the report of how it ended.
//!
//! Everything here is bounded: a line, the lines and bytes per second, the tail. What is over a bound is dropped and
//! counted; that it is begins with one line and ends with one that has the count. A worker is slowed down only when it
//! writes more than a dispatcher should spend its time on ([`READ_MOST`]).

use std::io;
use std::pin::pin;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Level;
use weft_schemas::FunctionName;

use super::current::{Asks, Current};

/// The longest line; the rest of a longer one is cut off, and the event says so.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Lines per window and stream: a flood of chatter must not hide the errors.
const MAX_LINES: u32 = 1_000;
/// What is logged of a stream in a window where nobody says otherwise.
const MAX_BYTES: u64 = 1 << 20;
/// What is read of a stream in a window, to be logged or dropped: then its writer waits for the next window.
const READ_MOST: u64 = 16 << 20;
const WINDOW: Duration = Duration::from_secs(1);
const TAIL_BYTES: usize = 4 * 1024;
const READ_BYTES: usize = 16 * 1024;

/// Whose output it is; fields of every event.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) function: FunctionName,
    pub(super) worker: String,
    /// The call that is under way, where that is known.
    pub(super) current: Current,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Logs both streams until both have ended, or until `stop`; gives the tail of standard error. `most`: bytes of each that
/// are logged in a second; default [`MAX_BYTES`].
pub(super) async fn follow(
    labels: Labels,
    most: Option<u64>,
    stdout: impl AsyncRead,
    stderr: impl AsyncRead,
    mut asks: Asks,
    stop: CancellationToken,
) -> String {
    let (mut stdout, mut stderr) = (pin!(stdout), pin!(stderr));
    let (mut out_open, mut err_open) = (true, true);
    let (mut out_lines, mut err_lines) = (Lines::default(), Lines::default());
    let mut out_buffer = vec![0; READ_BYTES].into_boxed_slice();
    let mut err_buffer = vec![0; READ_BYTES].into_boxed_slice();
    let mut tail = Tail::default();
    let most = most.unwrap_or(MAX_BYTES);
    let (mut out_rate, mut err_rate) = (Rate::new(Stream::Stdout, most), Rate::new(Stream::Stderr, most));

    let mut asked: Option<oneshot::Sender<()>> = None;

    while out_open || err_open {
        tokio::select! {
            // In this order: who asks is answered when there is nothing to be read of either.
            biased;
            () = stop.cancelled() => break,
            read = stdout.read(&mut out_buffer), if out_open && !out_rate.full() => {
                let bytes = taken(read, &out_buffer);
                out_open = !bytes.is_empty();
                out_rate.read(bytes.len());
                out_lines.push(bytes, |line, cut| out_rate.log(&labels, line, cut));
            }
            read = stderr.read(&mut err_buffer), if err_open && !err_rate.full() => {
                let bytes = taken(read, &err_buffer);
                err_open = !bytes.is_empty();
                err_rate.read(bytes.len());
                tail.push(bytes);
                err_lines.push(bytes, |line, cut| err_rate.log(&labels, line, cut));
            }
            () = tokio::time::sleep_until(out_rate.until), if out_rate.waits() => out_rate.roll(&labels),
            () = tokio::time::sleep_until(err_rate.until), if err_rate.waits() => err_rate.roll(&labels),
            () = std::future::ready(()), if asked.is_some() => {
                // Who asked may have gone on without.
                let _ = asked.take().map(|asked| asked.send(()));
            }
            Some(ask) = asks.recv(), if asked.is_none() => asked = Some(ask),
        }
    }
    out_lines.finish(|line, cut| out_rate.log(&labels, line, cut));
    err_lines.finish(|line, cut| err_rate.log(&labels, line, cut));
    out_rate.end(&labels);
    err_rate.end(&labels);
    tail.text()
}

/// What a read gave; nothing at the end, and an error is an end.
fn taken(read: io::Result<usize>, buffer: &[u8]) -> &[u8] {
    buffer.get(..read.unwrap_or(0)).unwrap_or_default()
}

/// Cuts bytes into lines, with at most [`MAX_LINE_BYTES`] kept of each.
#[derive(Debug, Default)]
struct Lines {
    /// The unfinished line.
    partial: Vec<u8>,
    /// Whether bytes of the unfinished line were left out.
    cut: bool,
}

impl Lines {
    /// Gives each line that is complete now, without its end, and whether it was cut. Empty lines are left out.
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8], bool)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = MAX_LINE_BYTES - self.partial.len();
            self.cut |= text.len() > room;
            self.partial.extend_from_slice(text.get(..room).unwrap_or(text));
            if ended {
                self.finish(&mut each);
            }
        }
    }

    /// Gives the unfinished line, if there is one.
    fn finish(&mut self, mut each: impl FnMut(&[u8], bool)) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        if !line.is_empty() {
            each(line, self.cut);
        }
        self.partial.clear();
        self.cut = false;
    }
}

/// The last [`TAIL_BYTES`] of a stream.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..excess);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim().to_owned()
    }
}

/// Lets so many lines and bytes through per window, and counts the others.
#[derive(Debug)]
struct Rate {
    stream: Stream,
    /// Bytes of a window that are logged.
    most: u64,
    until: Instant,
    lines: u32,
    bytes: u64,
    /// What was read of the stream in this window, in bytes.
    read: u64,
    /// Lines dropped in this window.
    dropped: u64,
    /// What a flood that goes on over several windows has lost so far.
    flood: Option<Flood>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flood {
    lines: u64,
    bytes: u64,
}

impl Rate {
    fn new(stream: Stream, most: u64) -> Self {
        let until = Instant::now() + WINDOW;
        Self { stream, most, until, lines: 0, bytes: 0, read: 0, dropped: 0, flood: None }
    }

    fn log(&mut self, labels: &Labels, line: &[u8], cut: bool) {
        if Instant::now() >= self.until {
            self.roll(labels);
        }
        // The caller who wants them has the last lines whether they are logged or not.
        labels.current.wrote(line);
        let length = line.len() as u64;
        if self.lines < MAX_LINES && self.bytes.saturating_add(length) <= self.most {
            self.lines += 1;
            self.bytes += length;
            emit(labels, self.stream, &String::from_utf8_lossy(line), cut);
            return;
        }
        self.dropped += 1;
        let (Labels { function, worker, .. }, stream) = (labels, self.stream.name());
        let flood = self.flood.get_or_insert_with(|| {
            tracing::warn!(%function, worker, stream, "worker writes too much, the rest is dropped");
            Flood::default()
        });
        flood.lines += 1;
        flood.bytes += length;
    }

    fn read(&mut self, bytes: usize) {
        self.read += bytes as u64;
    }

    /// Nothing more is read in this window.
    fn full(&self) -> bool {
        self.read >= READ_MOST
    }

    /// The end of the window is of interest.
    fn waits(&self) -> bool {
        self.full() || self.flood.is_some()
    }

    /// Begins a window. A flood is over when one has passed in which nothing was dropped.
    fn roll(&mut self, labels: &Labels) {
        if self.dropped == 0 {
            self.end(labels);
        }
        *self = Self { flood: self.flood, ..Self::new(self.stream, self.most) };
    }

    /// Says what a flood has lost, if there was one.
    fn end(&mut self, labels: &Labels) {
        if let Some(Flood { lines, bytes }) = self.flood.take() {
            let (Labels { function, worker, .. }, stream) = (labels, self.stream.name());
            tracing::warn!(%function, worker, stream, lines, bytes, "worker output dropped, too much of it");
        }
    }
}

/// A line that the worker library, or anything that logs in its form, wrote as a JSON object.
#[derive(Debug, PartialEq)]
struct Record {
    level: Level,
    message: String,
    /// Everything else of it, as JSON.
    rest: Map<String, Value>,
}

/// Reads `{"level": …, "message": …, "fields": {…}, …}`, with the message at the top or within the fields.
fn record(line: &str) -> Option<Record> {
    if !line.starts_with('{') {
        return None;
    }
    let mut object: Map<String, Value> = serde_json::from_str(line).ok()?;
    let level = object.get("level")?.as_str()?.parse().ok()?;
    let mut rest = match object.remove("fields") {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let message = match object.remove("message").or_else(|| rest.remove("message")) {
        Some(Value::String(message)) => message,
        _ => return None,
    };
    // The time is that of our own event, and the level is its level.
    object.retain(|name, _| !matches!(name.as_str(), "level" | "timestamp" | "time"));
    rest.extend(object);
    Some(Record { level, message, rest })
}

fn fields_text(fields: &Map<String, Value>) -> String {
    serde_json::to_string(fields).unwrap_or_default()
}

/// One line, one event. Target `weft_worker`, so that it can be filtered apart from the dispatcher's own events.
fn emit(labels: &Labels, stream: Stream, line: &str, cut: bool) {
    let Labels { function, worker, current } = labels;
    let request = current.get();
    let request_id = request.as_deref();
    let stream_name = stream.name();
    /// The level of an event is part of its call site: one site for each.
    macro_rules! event {
        ($level:ident, $record:expr) => {
            tracing::event!(
                target: "weft_worker", Level::$level, %function, worker, request_id, stream = stream_name,
                text = $record.message, fields = fields_text(&$record.rest), "worker log"
            )
        };
    }
    match (record(line), stream) {
        (Some(said), _) => match said.level {
            Level::ERROR => event!(ERROR, said),
            Level::WARN => event!(WARN, said),
            Level::INFO => event!(INFO, said),
            Level::DEBUG => event!(DEBUG, said),
            Level::TRACE => event!(TRACE, said),
        },
        (None, Stream::Stdout) => {
            tracing::info!(target: "weft_worker", %function, worker, request_id, stream = stream_name, text = line, cut, "worker output");
        }
        (None, Stream::Stderr) => {
            tracing::warn!(target: "weft_worker", %function, worker, request_id, stream = stream_name, text = line, cut, "worker output");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<(String, bool)> {
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        let mut keep = |line: &[u8], cut| seen.push((String::from_utf8_lossy(line).into_owned(), cut));
        for piece in pieces {
            lines.push(piece, &mut keep);
        }
        lines.finish(&mut keep);
        seen
    }

    #[test]
    fn lines_are_put_together_from_pieces_and_the_last_needs_no_end() {
        let seen = lines(&[b"on", b"e\r\n\ntw", b"o\nthr\xffe"]);
        assert_eq!(seen, [("one".into(), false), ("two".into(), false), ("thr\u{fffd}e".into(), false)]);
    }

    #[test]
    fn a_long_line_is_cut_and_marked_and_the_next_is_whole() {
        let long = vec![b'x'; MAX_LINE_BYTES];
        let seen = lines(&[&long, b"yyy", b"y\nnext\n", &long, b"\n"]);
        let text = String::from_utf8(long).unwrap();
        assert_eq!(seen, [(text.clone(), true), ("next".into(), false), (text, false)]);
    }

    #[test]
    fn the_tail_is_the_end() {
        let mut tail = Tail::default();
        tail.push(&vec![b'a'; TAIL_BYTES]);
        tail.push(b"the end\n");
        assert!(tail.text().ends_with("aathe end") && tail.text().len() < TAIL_BYTES);
    }

    #[test]
    fn a_log_record_gives_its_level_message_and_fields() {
        let said =
            record(r#"{"timestamp":"x","level":"WARN","fields":{"message":"low","left":3},"target":"t"}"#).unwrap();
        assert_eq!((said.level, said.message.as_str()), (Level::WARN, "low"));
        assert_eq!(Value::Object(said.rest), serde_json::json!({"left": 3, "target": "t"}));
        let flat = record(r#"{"level":"debug","message":"m"}"#).unwrap();
        assert_eq!((flat.level, flat.rest.len()), (Level::DEBUG, 0));
    }

    #[test]
    fn what_is_no_log_record_is_a_plain_line() {
        for line in ["hello", "{", r#"{"level":"INFO"}"#, r#"{"message":"m"}"#, r#"{"level":"loud","message":"m"}"#] {
            assert_eq!(record(line), None, "{line}");
        }
    }
}
