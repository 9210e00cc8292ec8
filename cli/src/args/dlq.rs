//! The command line of `weft dlq`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use weft_schemas::{FunctionName, Key, Reason};

use super::{Services, duration};

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List dead letters, newest first
    Ls(DlqLs),
    /// Count dead letters by function, reason and error, largest group first
    Groups(DlqGroups),
    /// Show one dead letter: why it died, its attempts, and what it held
    Show(DlqShow),
    /// Run dead letters again, with attempts from zero and the same key
    Redrive(DlqRedrive),
    /// Throw dead letters away for good; their invocations stay dead
    Purge(DlqPurge),
}

/// Which dead letters. Every condition that is given must hold.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "chosen", multiple = true)]
#[command(next_help_heading = "Filters")]
pub struct DeadLetterFilter {
    /// Only those of this function
    #[arg(long, value_name = "NAME")]
    pub function: Option<FunctionName>,
    /// Only those of this reason, such as `terminal`, `exhausted` or `schema`
    #[arg(long, value_parser = reason)]
    pub reason: Option<Reason>,
    /// Only those whose error has this type, such as `NotFixed`
    #[arg(long, value_name = "TYPE")]
    pub error_type: Option<String>,
    /// Only those that died of the same thing, as `weft dlq groups` names it
    #[arg(long, value_parser = fingerprint)]
    pub fingerprint: Option<String>,
    /// Only those that died longer ago than this, such as `2h`
    #[arg(long, value_name = "AGE", value_parser = duration(0, 315_360_000))]
    pub older_than: Option<Duration>,
    /// Only those that died within this time, such as `30m`
    #[arg(long, value_name = "AGE", value_parser = duration(0, 315_360_000))]
    pub newer_than: Option<Duration>,
    /// Only those with this key
    #[arg(long)]
    pub key: Option<Key>,
}

/// Where dead letters are looked for, which of them, and how they are told.
#[derive(Debug, Args)]
pub struct Selection {
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub filter: DeadLetterFilter,
    #[command(flatten)]
    pub services: Services,
}

/// What a command that changes dead letters is to change: ids, those of a filter, or all.
#[derive(Debug, Args)]
pub struct Targets {
    /// Ids of dead letters, as `weft dlq ls` shows them
    #[arg(required_unless_present_any = ["all", "chosen"], conflicts_with_all = ["all", "chosen"])]
    pub ids: Vec<String>,
    /// Everything that is neither redriven nor purged yet
    #[arg(long, conflicts_with = "chosen")]
    pub all: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft dlq ls --function create-order --newer-than 1d")]
pub struct DlqLs {
    /// Also those that were redriven or purged, with how
    #[arg(long)]
    pub all: bool,
    /// At most this many [default: all]
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub selection: Selection,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft dlq groups --newer-than 1d")]
pub struct DlqGroups {
    /// Count also those that were redriven or purged
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub selection: Selection,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft dlq show 0e5b7f0c4b1d9a3c2f8e6d5a4b3c2d1e --payload > payload.json")]
pub struct DlqShow {
    /// Its id, as `weft dlq ls` shows it
    pub id: String,
    /// Write the payload to standard output, byte for byte, and nothing else
    #[arg(long, conflicts_with = "json")]
    pub payload: bool,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub services: Services,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft dlq redrive 0e5b7f0c4b1d9a3c2f8e6d5a4b3c2d1e
  weft dlq redrive --function create-order --reason terminal --rate 50/s
  weft dlq redrive 0e5b7f0c4b1d9a3c2f8e6d5a4b3c2d1e --edit payload.json")]
pub struct DlqRedrive {
    #[command(flatten)]
    pub targets: Targets,
    /// At most this many a second, or with `/m` or `/h` a minute or an hour [default: as fast as the ledger takes them]
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub rate: Option<Rate>,
    /// Send this payload in the place of the letter's own, as a new event under a new key: a file, `-` for standard
    /// input, or nothing for an editor ($VISUAL, $EDITOR)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "chosen", "rate"])]
    pub edit: Option<Option<PathBuf>>,
    /// Do not ask; off a terminal nothing is asked
    #[arg(long, short = 'y')]
    pub yes: bool,
    #[command(flatten)]
    pub selection: Selection,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft dlq purge --reason schema --older-than 30d --dry-run")]
pub struct DlqPurge {
    #[command(flatten)]
    pub targets: Targets,
    /// Do not ask; needed where nobody can be asked
    #[arg(long, short = 'y')]
    pub yes: bool,
    #[command(flatten)]
    pub selection: Selection,
}

/// How many letters are redriven a second; more than 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(pub f64);

fn rate(text: &str) -> Result<Rate, String> {
    let (number, seconds) = match text.split_once('/') {
        None | Some((_, "s")) => (text.trim_end_matches("/s"), 1.0),
        Some((number, "m")) => (number, 60.0),
        Some((number, "h")) => (number, 3_600.0),
        Some(_) => return Err("write a number with /s, /m or /h, such as 50/s".to_owned()),
    };
    match number.parse::<u32>() {
        Ok(number @ 1..=1_000_000) => Ok(Rate(f64::from(number) / seconds)),
        _ => Err("write a whole number from 1 to 1000000 with /s, /m or /h, such as 50/s".to_owned()),
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    Reason::parse(text).ok_or_else(|| {
        let known: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("write one of {}", known.join(", "))
    })
}

fn fingerprint(text: &str) -> Result<String, String> {
    let is_one = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if is_one { Ok(text.to_owned()) } else { Err("write the 16 digits that `weft dlq groups` shows".to_owned()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser as _;

    use super::*;
    use crate::args::{Command, Weft};

    fn parse(args: &[&str]) -> Result<Dlq, clap::Error> {
        let weft = Weft::try_parse_from([&["weft", "dlq"], args].concat())?;
        let Command::Dlq(dlq) = weft.command else { panic!("another command") };
        Ok(dlq)
    }

    #[test]
    fn every_filter_is_known_to_every_command_that_takes_many() {
        let filters = [
            ["--function", "f"],
            ["--reason", "terminal"],
            ["--error-type", "NotFixed"],
            ["--fingerprint", "0123456789abcdef"],
            ["--older-than", "2h"],
            ["--newer-than", "30m"],
            ["--key", "/t order-7"],
        ];
        for command in ["ls", "groups", "redrive", "purge"] {
            for filter in &filters {
                assert!(parse(&[command, filter[0], filter[1]]).is_ok(), "{command} {filter:?}");
            }
            assert!(parse(&[&[command][..], &filters.concat()].concat()).is_ok(), "{command} with all of them");
        }
    }

    #[test]
    fn ids_filters_and_all_exclude_each_other_and_one_is_needed() {
        for command in ["redrive", "purge"] {
            assert!(parse(&[command]).is_err(), "{command} of what?");
            assert!(parse(&[command, "--dry-run", "--yes"]).is_err(), "{command} of what?");
            for good in [&["a", "b"][..], &["--all"], &["--function", "f", "--key", "k"]] {
                assert!(parse(&[&[command][..], good].concat()).is_ok(), "{command} {good:?}");
            }
            for bad in [&["a", "--all"][..], &["a", "--function", "f"], &["--all", "--reason", "schema"]] {
                assert!(parse(&[&[command][..], bad].concat()).is_err(), "{command} {bad:?}");
            }
        }
    }

    #[test]
    fn an_edit_takes_a_file_standard_input_or_an_editor_and_ids_alone() {
        let edit = |args: &[&str]| match parse(&[&["redrive"][..], args].concat()) {
            Ok(Dlq::Redrive(redrive)) => redrive.edit.map(|file| file.map(|path| path.display().to_string())),
            other => panic!("{other:?}"),
        };
        assert_eq!(edit(&["id"]), None);
        assert_eq!(edit(&["id", "--edit", "f.json"]), Some(Some("f.json".to_owned())));
        assert_eq!(edit(&["id", "--edit", "-"]), Some(Some("-".to_owned())));
        assert_eq!(edit(&["id", "--edit"]), Some(None));
        for bad in
            [&["--all", "--edit", "f"][..], &["--function", "f", "--edit", "f"], &["a", "--edit", "f", "--rate", "1"]]
        {
            assert!(parse(&[&["redrive"][..], bad].concat()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rates_are_read_a_second_a_minute_and_an_hour() {
        for (text, a_second) in [("50", 50.0), ("50/s", 50.0), ("30/m", 0.5), ("36/h", 0.01)] {
            assert_eq!(rate(text), Ok(Rate(a_second)), "{text}");
        }
        for text in ["", "0", "-1", "0/s", "1.5/s", "50/d", "50/", "/s", "50/s/s", "s", "1000001", "5 /s"] {
            assert!(rate(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn reasons_fingerprints_and_ages_that_cannot_be_are_refused() {
        for bad in [
            ["--reason", "Terminal"],
            ["--fingerprint", "0123"],
            ["--fingerprint", "0123456789ABCDEF"],
            ["--older-than", "2"],
            ["--newer-than", "yesterday"],
            ["--key", ""],
            ["-n", "0"],
        ] {
            assert!(parse(&["ls", bad[0], bad[1]]).is_err(), "{bad:?}");
        }
    }
}
