//! The services that a command talks to, from flags, variables and secret files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;
use weft_dispatcher::broker::{Broker, amqp::Amqp, embedded::Embedded};
use weft_ledger::Ledger;
use weft_process::report::{Code, Report};
use weft_process::secret::Address;

use crate::args;

/// Where the embedded file is when nobody says otherwise.
pub const EMBEDDED: &str = ".weft/weft.db";

/// What was chosen. Each address is checked by whoever connects.
#[derive(Debug, Clone)]
pub enum Services {
    Embedded(PathBuf),
    Real { amqp: Option<Address>, ledger: Option<Address>, state: Option<Address> },
}

impl Services {
    /// Reads the flags, their variables and the files behind `…_FILE`.
    ///
    /// # Errors
    /// A named file cannot be read.
    pub fn resolve(flags: &args::Services) -> Result<Self, Report> {
        if let Some(path) = &flags.embedded {
            return Ok(Self::Embedded(path.clone()));
        }
        let amqp = address(flags.amqp.as_deref(), "WEFT_AMQP_URL_FILE")?;
        let ledger = address(flags.ledger.as_deref(), "WEFT_LEDGER_URL_FILE")?;
        let state = address(flags.state.as_deref(), "WEFT_STATE_URL_FILE")?;
        if amqp.is_none() && ledger.is_none() && state.is_none() {
            return Ok(Self::Embedded(PathBuf::from(EMBEDDED)));
        }
        Ok(Self::Real { amqp, ledger, state })
    }

    /// Whether nothing was named at all.
    pub fn is_default(flags: &args::Services) -> bool {
        flags.embedded.is_none() && matches!(Self::resolve(flags), Ok(Self::Embedded(_)))
    }

    pub fn ledger_address(&self) -> Result<Address, Report> {
        match self {
            Self::Embedded(path) => sqlite(path),
            Self::Real { ledger, .. } => {
                ledger.clone().ok_or_else(|| missing("the ledger", "--ledger", "WEFT_LEDGER_URL"))
            }
        }
    }

    pub fn state_address(&self) -> Result<Address, Report> {
        match self {
            Self::Embedded(path) => sqlite(path),
            Self::Real { state, .. } => state.clone().ok_or_else(|| missing("the state", "--state", "WEFT_STATE_URL")),
        }
    }

    /// Opens the ledger without looking at its tables.
    pub async fn ledger(&self) -> Result<Arc<dyn Ledger>, Report> {
        if let Self::Embedded(path) = self {
            make_folder(path)?;
        }
        let address = self.ledger_address()?;
        weft_ledger::open(address.expose()).await.map_err(|error| weft_dispatcher::report::ledger(&error))
    }

    /// Opens the ledger for reading, refusing tables of another version.
    pub async fn checked_ledger(&self) -> Result<Arc<dyn Ledger>, Report> {
        let ledger = self.ledger().await?;
        if let Self::Embedded(_) = self {
            ledger.migrate().await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
        }
        ledger.check().await.map_err(|error| weft_dispatcher::report::ledger(&error))?;
        Ok(ledger)
    }

    /// Connects to the broker.
    pub async fn broker(&self) -> Result<Arc<dyn Broker>, Report> {
        let node = crate::commands::hostname();
        let failed = |error: weft_dispatcher::broker::BrokerError| weft_dispatcher::report::broker(&error);
        match self {
            Self::Embedded(path) => {
                make_folder(path)?;
                Ok(Arc::new(Embedded::open(path).await.map_err(failed)?))
            }
            Self::Real { amqp, .. } => {
                let address = amqp.clone().ok_or_else(|| missing("the broker", "--amqp", "WEFT_AMQP_URL"))?;
                Ok(Arc::new(Amqp::connect(&address, &node).await.map_err(failed)?))
            }
        }
    }
}

fn address(given: Option<&str>, file_variable: &str) -> Result<Option<Address>, Report> {
    if let Some(text) = given {
        return Ok(Some(Address::new(text)));
    }
    let Some(path) = std::env::var_os(file_variable) else { return Ok(None) };
    let path = PathBuf::from(path);
    let text = std::fs::read_to_string(&path).map_err(|error| {
        Report::new(Code::InputFile, format!("failed to read {} named by {file_variable}: {error}", path.display()))
    })?;
    Ok(Some(Address::new(text.trim())))
}

fn sqlite(path: &Path) -> Result<Address, Report> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Report::new(Code::Setting, format!("failed to find {}: {error}", path.display())))?;
    Ok(Address::new(format!("sqlite://{}", absolute.display())))
}

fn make_folder(path: &Path) -> Result<(), Report> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(folder)
        .map_err(|error| Report::new(Code::Setting, format!("failed to make the folder {}: {error}", folder.display())))
}

/// The state's error with what to do.
pub fn state(address: &Address, error: &weft_worker::CheckError) -> Report {
    use weft_worker::CheckError;
    let (code, help) = match error {
        CheckError::Unavailable { .. } => (
            Code::StateUnreachable,
            "start Redis, or correct --state / WEFT_STATE_URL (such as redis://user:password@host:6379)",
        ),
        CheckError::Refused { .. } => (Code::StateRefused, "check user and password in --state / WEFT_STATE_URL"),
        CheckError::Address { .. } => (Code::Setting, "write it as redis://host:6379 or sqlite://file"),
    };
    Report::new(code, format!("failed to {} at {address}", weft_process::report::chain(error))).help(help)
}

fn missing(what: &str, flag: &str, variable: &str) -> Report {
    Report::new(Code::Setting, format!("failed to find {what}: neither {flag} nor {variable} is given"))
        .help(format!("give {flag} URL, set {variable} or {variable}_FILE, or use --embedded FILE for all three"))
}

/// Warns of passwords that every user of the machine can read in the list of processes.
pub fn warn_of_visible_passwords(matches: &ArgMatches) {
    let mut matches = Some(matches);
    while let Some(level) = matches {
        for (flag, variable) in [("amqp", "WEFT_AMQP_URL"), ("ledger", "WEFT_LEDGER_URL"), ("state", "WEFT_STATE_URL")]
        {
            let given = level.try_get_one::<String>(flag).ok().flatten();
            let on_command_line =
                level.ids().any(|id| id == flag) && level.value_source(flag) == Some(ValueSource::CommandLine);
            if on_command_line && given.is_some_and(|text| Address::new(text).has_password()) {
                eprintln!(
                    "warning: the password in --{flag} can be read by every user of this machine; set {variable} or {variable}_FILE instead"
                );
            }
        }
        matches = level.subcommand().map(|(_, inner)| inner);
    }
}
