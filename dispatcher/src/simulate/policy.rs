//! How long workers are kept, as the command line names it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use weft_schemas::manifest::duration;

/// A policy to replay. Its text form is stable: it is the `name` in the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `fixed:10m`: an idle worker is stopped after so long.
    Fixed(Duration),
    /// `adaptive`: what a function's pauses have taught decides.
    Adaptive,
    /// `provisioned:2`: so many invocations of each function find a warm worker at any time; workers beyond those are kept
    /// for the setup's keep-alive.
    Provisioned(u32),
    /// `always-on`: as many workers as each function ever needs at once, from the first minute to the last.
    AlwaysOn,
}

impl Policy {
    /// What is compared when nobody chooses: the fixed keep-alives of the paper's figures, and `adaptive`.
    pub fn usual() -> Vec<Self> {
        let fixed = [1, 5, 10, 20, 60].map(|minutes| Self::Fixed(Duration::from_secs(60 * minutes)));
        fixed.into_iter().chain([Self::Adaptive]).collect()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(keep) => write!(f, "fixed:{}", duration::format(*keep)),
            Self::Adaptive => f.write_str("adaptive"),
            Self::Provisioned(count) => write!(f, "provisioned:{count}"),
            Self::AlwaysOn => f.write_str("always-on"),
        }
    }
}

/// A text that names no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write fixed:TIME (such as fixed:10m), adaptive, provisioned:COUNT (1 to 1000) or always-on")]
pub struct PolicyFault;

impl FromStr for Policy {
    type Err = PolicyFault;

    fn from_str(text: &str) -> Result<Self, PolicyFault> {
        match text.split_once(':') {
            None if text == "adaptive" => Ok(Self::Adaptive),
            None if text == "always-on" => Ok(Self::AlwaysOn),
            Some(("fixed", keep)) => duration::parse(keep).map(Self::Fixed).ok_or(PolicyFault),
            Some(("provisioned", count)) => {
                let count = count.parse().ok().filter(|count| (1..=1_000).contains(count));
                count.map(Self::Provisioned).ok_or(PolicyFault)
            }
            _ => Err(PolicyFault),
        }
    }
}
