//! The command line of `weft-soak`.

use std::path::PathBuf;
use std::time::Duration;

use crate::plant::Plant;

pub const USAGE: &str = "\
cargo xtask soak --minutes N --seed S [--rate R] [--json FILE] [--plan] [--calm] [--plant WHAT]

  --minutes N    how long events are published and faults done, such as 2 or 0.5; healing and judging come on top
  --seed S       what decides every event and every fault; the same seed is the same plan (default 1)
  --rate R       new events in a second, 1 to 1000 (default 50)
  --json FILE    also write the report there, as one JSON object
  --plan         print the plan of faults and do nothing
  --calm         no faults: the workload alone
  --plant WHAT   falsify what the run left behind, to see the judge refuse it; may be repeated, `all` is everything";

/// What to do.
#[derive(Debug, Clone)]
pub struct Args {
    /// How long events are published and faults done.
    pub length: Duration,
    pub seed: u64,
    /// New events in a second.
    pub rate: u32,
    pub json: Option<PathBuf>,
    /// Only print the plan.
    pub plan: bool,
    pub calm: bool,
    /// What is falsified before the books are judged.
    pub plant: Vec<Plant>,
}

impl Args {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// What is wrong, for a person.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            length: Duration::from_secs(120),
            seed: 1,
            rate: 50,
            json: None,
            plan: false,
            calm: false,
            plant: Vec::new(),
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--minutes" => {
                    let text = value()?;
                    let minutes: f64 = text.parse().map_err(|_| format!("--minutes {text} is no number"))?;
                    if !(0.1..=24.0 * 60.0).contains(&minutes) {
                        return Err(format!("--minutes {text} is not within 0.1 and 1440"));
                    }
                    parsed.length = Duration::from_secs_f64(minutes * 60.0);
                }
                "--seed" => {
                    let text = value()?;
                    parsed.seed = text.parse().map_err(|_| format!("--seed {text} is no whole number"))?;
                }
                "--rate" => {
                    let text = value()?;
                    let rate = text.parse().ok().filter(|rate| (1..=1000).contains(rate));
                    parsed.rate = rate.ok_or_else(|| format!("--rate {text} is not within 1 and 1000"))?;
                }
                "--json" => parsed.json = Some(value()?.into()),
                "--plan" => parsed.plan = true,
                "--calm" => parsed.calm = true,
                "--plant" => {
                    let text = value()?;
                    let known = || Plant::ALL.map(Plant::as_str).join(", ");
                    if text == "all" {
                        parsed.plant.extend(Plant::ALL);
                    } else {
                        let plant = Plant::parse(&text);
                        parsed.plant.push(plant.ok_or_else(|| format!("--plant {text} is none of all, {}", known()))?);
                    }
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Args, String> {
        Args::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read_and_their_ranges_kept() {
        let args = parse("--minutes 0.5 --seed 7 --rate 20 --json out.json --plant double-effect").unwrap();
        assert_eq!((args.length, args.seed, args.rate), (Duration::from_secs(30), 7, 20));
        assert_eq!((args.json, args.plant), (Some("out.json".into()), vec![Plant::DoubleEffect]));
        for bad in ["--minutes", "--minutes 0", "--minutes x", "--seed -1", "--rate 0", "--plant nothing", "--what"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
