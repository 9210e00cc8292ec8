//! Where a demo happens: a temporary file, or a database and a prefix of its own on real services.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use weft_dispatcher::broker::Broker;
use weft_dispatcher::broker::amqp::Amqp;
use weft_ledger::Ledger;
use weft_ledger::join::Joiner;
use weft_process::report::{Code, Report, chain};
use weft_process::secret::Address;

use crate::args;
use crate::services::Services;

pub struct Place {
    services: Services,
    prefix: String,
    /// Removed at the end.
    folder: Option<PathBuf>,
    /// The server's own address, and the database that is dropped at the end.
    database: Option<(Address, String)>,
}

impl Place {
    pub async fn make(flags: &args::Services) -> Result<Self, Report> {
        let name = format!("weft_demo_{:x}_{}", Timestamp::now().as_microsecond(), std::process::id());
        if Services::is_default(flags) {
            let folder = std::env::temp_dir().join(&name);
            std::fs::create_dir(&folder).map_err(|error| {
                Report::new(Code::Setting, format!("failed to make the folder {}: {error}", folder.display()))
            })?;
            let services = Services::Embedded(folder.join("weft.db"));
            return Ok(Self { services, prefix: "weft".to_owned(), folder: Some(folder), database: None });
        }
        let services = Services::resolve(flags)?;
        let Services::Real { amqp, state, .. } = &services else {
            return Ok(Self { services, prefix: flags.prefix.clone(), folder: None, database: None });
        };
        let prefix = format!("{}-{}", flags.prefix, name.trim_start_matches("weft_").replace('_', "-"));
        let server = services.ledger_address()?;
        services.state_address()?;
        let own = with_database(&server, &name)?;
        // The ledger's own error tells an absent server from refused credentials better than a failed statement would.
        services.ledger().await?;
        statement(&server, &format!("CREATE DATABASE {name}")).await.map_err(|cause| {
            Report::new(Code::LedgerRefused, format!("failed to make the demo's database on {server}: {cause}"))
                .help("the demo works in a database of its own: its user needs the right CREATEDB")
        })?;
        let services = Services::Real { amqp: amqp.clone(), ledger: Some(own), state: state.clone() };
        Ok(Self { services, prefix, folder: None, database: Some((server, name)) })
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub async fn ledger(&self) -> Result<Arc<dyn Ledger>, Report> {
        self.services.ledger().await
    }

    pub async fn broker(&self) -> Result<Arc<dyn Broker>, Report> {
        self.services.broker().await
    }

    pub fn ledger_address(&self) -> Address {
        // Both were checked when the place was made.
        self.services.ledger_address().unwrap_or_else(|_| Address::new(""))
    }

    pub fn state_address(&self) -> Address {
        self.services.state_address().unwrap_or_else(|_| Address::new(""))
    }

    async fn remove_queues(&self) -> Result<(), String> {
        let Services::Real { amqp: Some(address), .. } = &self.services else { return Ok(()) };
        let manifest = weft_example_orders::manifest().map_err(|faults| faults.to_string())?;
        let broker = Amqp::connect(address, "demo").await.map_err(|error| chain(&error))?;
        let topology = weft_dispatcher::dispatcher::topology(&self.prefix, &manifest);
        let removed = broker.remove(&topology).await.map_err(|error| chain(&error));
        broker.close().await;
        removed
    }

    /// Removes what the demo made. What cannot be removed is named.
    pub async fn remove(self) {
        if let Some(folder) = &self.folder
            && let Err(error) = std::fs::remove_dir_all(folder)
        {
            tracing::warn!(folder = %folder.display(), %error, "demo's folder not removed");
        }
        let Some((server, name)) = &self.database else { return };
        if let Err(cause) = self.remove_queues().await {
            tracing::warn!(prefix = self.prefix, error = cause, "demo's queues not removed");
        }
        if let Err(cause) = statement(server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await {
            tracing::warn!(database = name, error = cause, "demo's database not removed");
        }
    }
}

async fn statement(server: &Address, sql: &str) -> Result<(), String> {
    let joiner = Joiner::connect(server.expose()).map_err(|error| chain(&error))?;
    let done = joiner.execute(sql, &[]).await.map(drop).map_err(|error| chain(&error));
    joiner.close().await;
    done
}

fn with_database(server: &Address, name: &str) -> Result<Address, Report> {
    let mut url = url::Url::parse(server.expose()).map_err(|error| {
        Report::new(Code::Setting, format!("failed to understand the ledger's address {server}: {error}"))
            .help("write it as postgres://user:password@host:5432/database")
    })?;
    url.set_path(&format!("/{name}"));
    Ok(Address::new(url))
}
