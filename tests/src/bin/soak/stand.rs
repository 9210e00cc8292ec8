//! What a soak stands on: private servers, a fault proxy before each, a folder, and the publishing side, which goes past
//! the proxies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use weft_tests::{PrivatePostgres, PrivateRabbit, PrivateRedis, Process, ProcessBuilder, Proxy, Vhost};

use crate::schedule::Server;
use crate::workload;

/// The installation's prefix.
pub const PREFIX: &str = "soak";
/// How long a dispatcher's claims outlive it.
pub const LEASE: Duration = Duration::from_secs(3);

/// Where effects go. No key: what is there twice must show.
const EFFECTS: &str = "create table effects (
    function text not null, key text not null, fence bigint not null, attempt bigint not null, epoch bigint not null,
    about text, at timestamptz not null default clock_timestamp())";

pub struct Stand {
    pub postgres: PrivatePostgres,
    pub rabbit: PrivateRabbit,
    pub redis: PrivateRedis,
    postgres_proxy: Proxy,
    rabbit_proxy: Proxy,
    redis_proxy: Proxy,
    pub vhost: Vhost,
    /// The ledger's database, past the proxy.
    pub ledger: String,
    /// Everything of this run; removed when the program ends.
    pub folder: PathBuf,
    /// Where the built programs are.
    programs: PathBuf,
}

impl Stand {
    /// Starts the servers and prepares database, vhost and manifest.
    ///
    /// # Errors
    /// The programs are not built, or a file cannot be written.
    ///
    /// # Panics
    /// A server is missing or does not start.
    pub async fn start() -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| format!("finding the own program: {error}"))?;
        let programs = own.parent().map(Path::to_owned).ok_or("the own program has no folder")?;
        if !programs.join("weft").is_file() {
            return Err(format!("`weft` is not in {}; `cargo xtask soak` builds it", programs.display()));
        }
        let (postgres, rabbit, redis) =
            tokio::join!(PrivatePostgres::start(), PrivateRabbit::start(), PrivateRedis::start());
        let (vhost, ledger) = tokio::join!(rabbit.vhost(), postgres.database());
        let folder = weft_tests::folder("soak");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).map_err(|error| format!("writing {name}: {error}"))
        };
        write("weft.toml", &workload::manifest(&own.display().to_string()))?;
        write("strict.json", workload::STRICT_SCHEMA)?;
        write("runs", "")?;
        std::fs::create_dir(folder.join("logs")).map_err(|error| format!("making a folder: {error}"))?;
        let stand = Self {
            postgres_proxy: Proxy::before(postgres.port()).await,
            rabbit_proxy: Proxy::before(rabbit.port()).await,
            redis_proxy: Proxy::before(redis.port()).await,
            postgres,
            rabbit,
            redis,
            vhost,
            ledger,
            folder,
            programs,
        };
        stand.sql(EFFECTS).await?;
        stand.vhost.declare_queue(workload::ANSWERS, json!({ "x-queue-type": "quorum" })).await;
        Ok(stand)
    }

    pub fn proxy(&self, server: Server) -> &Proxy {
        match server {
            Server::Postgres => &self.postgres_proxy,
            Server::Rabbit => &self.rabbit_proxy,
            Server::Redis => &self.redis_proxy,
        }
    }

    /// `weft run` for a node, with its services behind the proxies; not started.
    pub fn dispatcher(&self, node: &str, trap: &str, workers_trap: &str) -> ProcessBuilder {
        let lease = format!("{}ms", LEASE.as_millis());
        Process::at(self.programs.join("weft"))
            .args(["run", "--node", node, "--admin", "127.0.0.1:0", "--log-format", "json"])
            .args(["--lease", &lease, "--drain-limit", "10s", "--max-workers", "3", "--prefix", PREFIX])
            .folder(&self.folder)
            .env("WEFT_AMQP_URL", self.rabbit_proxy.url(&self.vhost.amqp_url))
            .env("WEFT_LEDGER_URL", self.postgres_proxy.url(&self.ledger))
            .env("WEFT_STATE_URL", self.redis_proxy.url(&self.redis.url()))
            .env("WEFT_CRASH_AT", trap)
            .env(crate::handlers::RUNS, self.folder.join("runs"))
            .env(crate::handlers::NODE, node)
            .env(crate::handlers::TRAP, workers_trap)
    }

    /// A `weft` command with its services past the proxies.
    pub fn weft(&self, args: &[&str]) -> ProcessBuilder {
        Process::at(self.programs.join("weft"))
            .args(args)
            .folder(&self.folder)
            .env("WEFT_PREFIX", PREFIX)
            .env("WEFT_AMQP_URL", &self.vhost.amqp_url)
            .env("WEFT_LEDGER_URL", &self.ledger)
            .env("WEFT_STATE_URL", self.redis.url())
    }

    /// One SQL statement on the ledger's database; fields with tabs between.
    ///
    /// # Errors
    /// What the server or its client said.
    pub async fn sql(&self, statement: &str) -> Result<String, String> {
        weft_tests::sql(&self.ledger, statement).await
    }
}
