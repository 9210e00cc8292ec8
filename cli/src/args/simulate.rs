//! The command line of `weft simulate`, and the prices that `weft cost` takes too.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use weft_dispatcher::simulate::{Arrivals, Policy, price::Prices};

use super::duration;

/// The trace is three CSV files of the Azure Functions format: events per minute, durations, memory. The replay takes no
/// time of the clock, and the same seed gives the same figures.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  weft simulate --trace traces/ --policy fixed:10m --policy adaptive --chart policies.svg"
)]
pub struct Simulate {
    /// The folder with the trace: invocations.csv, durations.csv and memory.csv, or their published names
    #[arg(long, value_name = "DIR")]
    pub trace: PathBuf,
    /// fixed:TIME, adaptive, provisioned:COUNT or always-on; repeat to compare
    /// [default: fixed:1m, 5m, 10m, 20m, 1h, and adaptive]
    #[arg(long = "policy", value_name = "POLICY")]
    pub policies: Vec<Policy>,
    /// Replay so many hours [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with = "minutes")]
    pub hours: Option<u32>,
    /// Replay so many minutes [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600_000))]
    pub minutes: Option<u32>,
    /// Leave out so many minutes at the start
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub from: u32,
    /// Concurrent invocations in one worker
    #[arg(long, default_value = "1")]
    pub slots: NonZeroU32,
    /// How long a worker takes to start, up to 10m
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration(0, 600))]
    pub cold_start: Duration,
    /// Workers of one function that start at once, at most
    #[arg(long, value_name = "N", default_value = "2")]
    pub starts: NonZeroU32,
    /// Workers of one function at most [default: no limit]
    #[arg(long, value_name = "N")]
    pub reserved: Option<NonZeroU32>,
    /// Workers of all functions at most [default: no limit]
    #[arg(long, value_name = "N")]
    pub node_workers: Option<NonZeroU32>,
    /// Keep-alive where a policy does not say: beyond provisioned workers, and where `adaptive` knows no pattern
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration(0, 86_400))]
    pub keep_alive: Duration,
    /// Where in its minute an event arrives
    #[arg(long, value_enum, default_value_t = ArrivalsName::Even)]
    pub arrivals: ArrivalsName,
    /// Arrivals and durations are drawn from this
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Leave out functions whose durations or memory the trace lacks
    #[arg(long)]
    pub skip_incomplete: bool,
    /// Also list each function's costs and break-even rate
    #[arg(long, conflicts_with = "json")]
    pub functions: bool,
    /// Draw the policies into this SVG file
    #[arg(long, value_name = "FILE.svg", value_parser = svg)]
    pub chart: Option<PathBuf>,
    /// One JSON object instead of tables
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub prices: PriceList,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArrivalsName {
    /// At equal distances; what comes once in ten minutes comes after exactly ten minutes
    Even,
    /// Anywhere, each by itself
    Uniform,
}

impl From<ArrivalsName> for Arrivals {
    fn from(name: ArrivalsName) -> Self {
        match name {
            ArrivalsName::Even => Self::Even,
            ArrivalsName::Uniform => Self::Uniform,
        }
    }
}

/// Prices in US dollars; see docs/simulate.md for where the defaults are from, and when.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Prices")]
pub struct PriceList {
    /// On demand: a million requests
    #[arg(long, value_name = "USD", default_value_t = Prices::default().million_requests, value_parser = price)]
    pub price_million_requests: f64,
    /// On demand: a second of 1,024 MB
    #[arg(long, value_name = "USD", default_value_t = Prices::default().gb_second, value_parser = price)]
    pub price_gb_second: f64,
    /// A container's virtual processor for an hour
    #[arg(long, value_name = "USD", default_value_t = Prices::default().vcpu_hour, value_parser = price)]
    pub price_vcpu_hour: f64,
    /// A container's 1,024 MB for an hour
    #[arg(long, value_name = "USD", default_value_t = Prices::default().gb_hour, value_parser = price)]
    pub price_gb_hour: f64,
    /// Virtual processors of a container that holds one worker
    #[arg(long, value_name = "N", default_value_t = Prices::default().vcpus, value_parser = price)]
    pub container_vcpus: f64,
    /// A node for an hour
    #[arg(long, value_name = "USD", default_value_t = Prices::default().node_hour, value_parser = price)]
    pub price_node_hour: f64,
    /// A node's memory in MB
    #[arg(long, value_name = "MB", default_value_t = Prices::default().node_mb, value_parser = memory)]
    pub node_memory_mb: f64,
}

impl From<&PriceList> for Prices {
    fn from(list: &PriceList) -> Self {
        Self {
            million_requests: list.price_million_requests,
            gb_second: list.price_gb_second,
            vcpu_hour: list.price_vcpu_hour,
            gb_hour: list.price_gb_hour,
            vcpus: list.container_vcpus,
            node_hour: list.price_node_hour,
            node_mb: list.node_memory_mb,
            ..Self::default()
        }
    }
}

fn price(text: &str) -> Result<f64, String> {
    let price = text.parse::<f64>().ok().filter(|price| (0.0..=1e6).contains(price));
    price.ok_or_else(|| "write a number from 0 to 1000000, such as 0.2".to_owned())
}

fn memory(text: &str) -> Result<f64, String> {
    let mb = text.parse::<f64>().ok().filter(|mb| (1.0..=1e9).contains(mb));
    mb.ok_or_else(|| "write a number of megabytes from 1, such as 8192".to_owned())
}

fn svg(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let is_svg = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
    if is_svg { Ok(path) } else { Err("charts are SVG: write a name that ends in .svg".to_owned()) }
}
