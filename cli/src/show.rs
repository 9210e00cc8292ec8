//! What people see: tables, colours on a terminal, reports; and plain JSON for machines.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;
use weft_process::report::{Code, Report};

/// Prints a report on standard error, coloured on a terminal.
pub fn report(report: &Report) {
    let text = report.to_string();
    let mut out = std::io::stderr().lock();
    let coloured = if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        text.replacen("error[", "\u{1b}[1;31merror[", 1).replacen("]:", "]\u{1b}[0m:", 1)
    } else {
        text
    };
    // Nobody is left to tell when standard error itself is closed.
    let _ = writeln!(out, "{coloured}");
}

/// Prints one JSON value on a line of its own.
pub fn json(value: &impl Serialize) -> Result<(), Report> {
    let text = serde_json::to_string(value)
        .map_err(|error| Report::new(Code::Unexpected, format!("failed to print JSON: {error}")))?;
    line(&text)
}

/// Prints a line. A closed pipe (`| head`) is no error of ours.
pub fn line(text: &str) -> Result<(), Report> {
    piece(&format!("{text}\n")).map(|_| ())
}

/// Prints a text as it is; `false` when nobody reads any more (`| head`), so that a long list can end.
pub fn piece(text: &str) -> Result<bool, Report> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Report::new(Code::Unexpected, format!("failed to write to standard output: {error}"))),
    }
}

/// A table that fits the terminal, or plain columns when piped.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> Result<(), Report> {
    let mut table = plain_table();
    table.set_header(header);
    line(&with(table, rows).trim_fmt())
}

/// Rows of a table whose head was printed before; `false` when nobody reads any more.
pub fn rows(rows: Vec<Vec<String>>) -> Result<bool, Report> {
    piece(&format!("{}\n", with(plain_table(), rows).trim_fmt()))
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    table
}

fn with(mut table: Table, rows: Vec<Vec<String>>) -> Table {
    for row in rows {
        table.add_row(row);
    }
    table
}

/// Whether a person can be asked: questions go to standard error, answers come from standard input.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks a question; only `y` and `yes` are yes.
pub fn confirm(question: &str) -> Result<bool, Report> {
    let failed = |error: std::io::Error| Report::new(Code::Unexpected, format!("failed to ask: {error}"));
    let mut out = std::io::stderr().lock();
    write!(out, "{question} [y/N] ").and_then(|()| out.flush()).map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(is_yes(&answer))
}

pub fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

/// A progress bar on standard error, where a person waits; a spinner when the total is not known.
pub fn bar(total: Option<u64>, hidden: bool) -> ProgressBar {
    if hidden || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = if total.is_some() { "{bar:30} {pos}/{len} {per_sec} {eta}" } else { "{spinner} {pos} {per_sec}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// A text of somebody else's that cannot command a terminal: control characters but the line's end and the tab are
/// written out.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && !['\n', '\t'].contains(&c) {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// How long ago, in the largest unit that says enough.
pub fn ago(then: Timestamp) -> String {
    let seconds = Timestamp::now().as_second().saturating_sub(then.as_second());
    match seconds {
        i64::MIN..=0 => "now".to_owned(),
        1..=119 => format!("{seconds}s ago"),
        120..=7_199 => format!("{}m ago", seconds / 60),
        7_200..=172_799 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// Cuts a text to a width, in characters, on one line.
pub fn cut(text: &str, width: usize) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if flat.chars().count() <= width {
        return flat;
    }
    flat.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}
