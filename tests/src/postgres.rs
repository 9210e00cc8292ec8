use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::OnceCell;

use crate::error::or_fail;
use crate::instance::{Instance, folder, free_port};
use crate::{Error, env, programs};

/// The URL of a fresh, empty database on the shared Postgres, of which only this test knows.
///
/// It goes with the server; on a server of your own (see [`crate::env`]) `weft_test_…` databases stay behind.
///
/// # Panics
/// No Postgres can be found or started, or the database cannot be made; the text says what to do.
pub async fn postgres() -> String {
    static OWN: OnceCell<PrivatePostgres> = OnceCell::const_new();
    let server = match env::get(env::POSTGRES_URL) {
        Some(url) => url,
        None => or_fail(OWN.get_or_try_init(PrivatePostgres::try_start).await).url(),
    };
    or_fail(fresh_database(&server).await)
}

async fn fresh_database(server: &str) -> Result<String, Error> {
    let name = format!("weft_test_{:016x}", fastrand::u64(..));
    psql(server, &format!("create database {name}")).await.map_err(Error::while_doing("creating a database"))?;
    let mut url = url::Url::parse(server).map_err(Error::while_doing("reading the Postgres URL"))?;
    url.set_path(&name);
    Ok(url.into())
}

/// Runs one statement with the server's own client: the harness stays independent of the library under test.
async fn psql(url: &str, sql: &str) -> Result<String, String> {
    let program = programs::PSQL.find().map_err(|error| error.to_string())?;
    let output = tokio::process::Command::new(program)
        .args(["-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", sql, url])
        .env("PGCONNECT_TIMEOUT", "5")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// Runs one statement with the server's own client and answers its rows as lines, with tabs between the fields.
///
/// # Errors
/// What the client or the server said; the client gives up after 5 s without a connection.
pub async fn sql(url: &str, statement: &str) -> Result<String, String> {
    psql(url, statement).await
}

/// A Postgres of the test's own. Dropping it kills it.
pub struct PrivatePostgres {
    port: u16,
    template: PathBuf,
    instance: Instance,
}

impl PrivatePostgres {
    /// Starts one that keeps its data over [`kill`](Self::kill) and [`start_again`](Self::start_again).
    ///
    /// `fsync` is off: killing the process leaves the kernel's page cache alone, so nothing that was committed is lost;
    /// only a crash of the machine would tell the difference.
    ///
    /// # Panics
    /// It cannot be found or does not start.
    pub async fn start() -> Self {
        or_fail(Self::try_start().await)
    }

    /// As [`start`](Self::start), but every commit is on the disk before it is answered, as it is in production, and with
    /// further settings of the server, such as `shared_buffers=1GB`: for benches.
    ///
    /// # Panics
    /// It cannot be found or does not start.
    pub async fn start_durable(settings: &'static [&'static str]) -> Self {
        or_fail(Self::try_start_with(&[&["fsync=on", "full_page_writes=on"], settings]).await)
    }

    pub(crate) async fn try_start() -> Result<Self, Error> {
        let quick = &["fsync=off", "full_page_writes=off", "shared_buffers=64MB", "max_wal_size=256MB"];
        Self::try_start_with(&[quick]).await
    }

    async fn try_start_with(settings: &[&[&'static str]]) -> Result<Self, Error> {
        let settings: Vec<&'static str> = settings.concat();
        let server = programs::POSTGRES_SERVER.find()?;
        let template = template().await?;
        let folder = folder("postgres")?;
        let data = folder.join("data");
        // `-a` keeps the owner and the 0700 that the server insists on.
        run(Command::new("cp").arg("-a").arg(&template).arg(&data)).await?;
        let port = free_port()?;
        let instance = Instance::new("postgres", folder, (Signal::INT, "INT"), move || {
            let mut command = as_owner(&server);
            command.arg("-D").arg(&data).args(["-p", &port.to_string()]);
            for setting in [
                "listen_addresses=127.0.0.1",
                // A socket's path may be too long for the kernel in a deep temporary folder, and nobody uses it.
                "unix_socket_directories=",
                "max_connections=300",
            ]
            .iter()
            .chain(&settings)
            {
                command.args(["-c", setting]);
            }
            command
        });
        let postgres = Self { port, template, instance };
        postgres.try_start_again().await?;
        Ok(postgres)
    }

    async fn try_start_again(&self) -> Result<(), Error> {
        self.instance.spawn()?;
        let url = self.url();
        let ready = || {
            let url = url.clone();
            async move { psql(&url, "select 1").await.map(drop) }
        };
        self.instance.wait_ready(Duration::from_secs(60), ready).await
    }

    /// The URL of the server's `postgres` database, as the superuser; the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://weft@127.0.0.1:{}/postgres", self.port)
    }

    /// The URL of a fresh, empty database on this server.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn database(&self) -> String {
        or_fail(fresh_database(&self.url()).await)
    }

    /// The server's version, such as `15.20`.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn version(&self) -> String {
        or_fail(psql(&self.url(), "show server_version").await.map_err(Error::while_doing("asking for the version")))
    }

    /// The port, for a [`Proxy`](crate::Proxy) before it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn template(&self) -> &Path {
        &self.template
    }

    /// SIGKILL to the server and all its backends, and the wait for the end.
    pub fn kill(&self) {
        self.instance.kill();
    }

    /// SIGSTOP to the server and all its backends: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.instance.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.instance.resume();
    }

    /// A fast shutdown: open sessions are ended, the data is clean.
    ///
    /// # Panics
    /// It has not ended after a minute.
    pub async fn stop(&self) {
        or_fail(self.instance.stop().await);
    }

    /// Starts it on the same port and data and waits until it answers a query, recovery included.
    ///
    /// # Panics
    /// It runs already, or does not start.
    pub async fn start_again(&self) {
        or_fail(self.try_start_again().await);
    }

    /// Whether the process is there (a paused one is).
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.instance.is_running()
    }

    /// The server's own folder, for a test that breaks what is in it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.instance.folder()
    }
}

/// The folder that `initdb` filled: the run's, or made once by this process.
async fn template() -> Result<PathBuf, Error> {
    static OWN: OnceCell<PathBuf> = OnceCell::const_new();
    if let Some(path) = env::get(env::POSTGRES_TEMPLATE) {
        return Ok(PathBuf::from(path));
    }
    let make = || async {
        let program = programs::INITDB.find()?;
        let folder = folder("postgres-template")?;
        let data = folder.join("data");
        fs::create_dir(&data).map_err(Error::while_doing("making Postgres' data folder"))?;
        if let Some((user, group)) = owner()? {
            chown(&data, Some(user), Some(group)).map_err(Error::while_doing("handing over Postgres' data folder"))?;
        }
        let mut command = as_owner(&program);
        command.arg("-D").arg(&data);
        run(command.args([
            "-U",
            "weft",
            "--auth=trust",
            "--no-sync",
            "--no-instructions",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        ]))
        .await?;
        Ok(data)
    };
    OWN.get_or_try_init(make).await.cloned()
}

/// Postgres refuses to run as root: then the account of Debian's package runs it. (user id, group id)
fn owner() -> Result<Option<(u32, u32)>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd").map_err(Error::while_doing("reading /etc/passwd"))?;
    let find = |name: &str| {
        let mut fields = accounts.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody")).map(Some).ok_or_else(|| {
        Error::new("Postgres does not run as root, and there is neither a `postgres` nor a `nobody` account to run it")
    })
}

/// `program`, run by [`owner`].
fn as_owner(program: &Path) -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    if let Ok(Some((user, group))) = owner() {
        // The standard library drops supplementary groups when it changes the user as root.
        command.uid(user).gid(group);
    }
    // The current folder may be one that the other user cannot enter.
    command.current_dir("/");
    command
}

async fn run(command: &mut Command) -> Result<(), Error> {
    command.stdin(std::process::Stdio::null());
    let name = command.get_program().to_string_lossy().into_owned();
    let mut command = tokio::process::Command::from(std::mem::replace(command, Command::new("")));
    let output = command.output().await.map_err(Error::while_doing(format!("running {name}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(format!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}
