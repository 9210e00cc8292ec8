use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::error::or_fail;
use crate::instance::{Instance, folder, free_port};
use crate::{Error, env, programs};

/// A part of the shared Redis that only one test uses.
#[derive(Debug, Clone)]
pub struct RedisSpace {
    /// The server's URL, shared with other tests: never flush it.
    pub url: String,
    /// Goes before every key; unique to the test.
    pub prefix: String,
}

/// A key prefix of the test's own on the shared Redis.
///
/// # Panics
/// No Redis can be found or started; the text says what to install.
pub async fn redis() -> RedisSpace {
    static OWN: OnceCell<PrivateRedis> = OnceCell::const_new();
    let url = match env::get(env::REDIS_URL) {
        Some(url) => url,
        None => or_fail(OWN.get_or_try_init(|| PrivateRedis::try_start(Durability::None)).await).url(),
    };
    RedisSpace { url, prefix: format!("t{:016x}:", fastrand::u64(..)) }
}

/// What a Redis keeps when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing.
    None,
    /// Every write that was answered. A process kill leaves the kernel's page cache alone, so no fsync is needed.
    AppendOnly,
    /// Every write that was answered, also over a crash of the machine (`always`), or all but the last second of them
    /// (`everysec`).
    Disk { fsync: &'static str },
}

/// A Redis of the test's own. Dropping it kills it.
pub struct PrivateRedis {
    port: u16,
    instance: Instance,
}

impl PrivateRedis {
    /// Starts one that keeps its data over [`kill`](Self::kill) and [`start_again`](Self::start_again).
    ///
    /// # Panics
    /// It cannot be found or does not start.
    pub async fn start() -> Self {
        or_fail(Self::try_start(Durability::AppendOnly).await)
    }

    /// Starts one whose append-only file is written to the disk as `fsync` says: `always` (before each answer) or `everysec`
    /// (every second, what its manual advises). For benches.
    ///
    /// # Panics
    /// It cannot be found or does not start.
    pub async fn start_durable(fsync: &'static str) -> Self {
        or_fail(Self::try_start(Durability::Disk { fsync }).await)
    }

    /// Starts one that has forgotten everything after [`kill`](Self::kill) or [`stop`](Self::stop).
    ///
    /// # Panics
    /// It cannot be found or does not start.
    pub async fn start_forgetful() -> Self {
        or_fail(Self::try_start(Durability::None).await)
    }

    /// Throws every key away.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn flush(&self) {
        let answer = ask(self.port, b"FLUSHALL\r\n").await;
        let answer = or_fail(answer.map_err(Error::while_doing("flushing Redis")));
        assert!(answer.starts_with("+OK"), "the test harness failed: flushing Redis: {answer}");
    }

    pub(crate) async fn try_start(durability: Durability) -> Result<Self, Error> {
        let program = programs::REDIS.find()?;
        let port = free_port()?;
        let data = folder("redis")?;
        let folder = data.clone();
        let instance = Instance::new("redis-server", folder, (Signal::TERM, "TERM"), move || {
            let mut command = Command::new(&program);
            command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]).arg("--dir").arg(&data);
            let fsync = match durability {
                Durability::None => None,
                Durability::AppendOnly => Some("no"),
                Durability::Disk { fsync } => Some(fsync),
            };
            if let Some(fsync) = fsync {
                command.args(["--appendonly", "yes", "--appendfsync", fsync]);
            }
            command
        });
        let redis = Self { port, instance };
        redis.try_start_again().await?;
        Ok(redis)
    }

    async fn try_start_again(&self) -> Result<(), Error> {
        self.instance.spawn()?;
        let port = self.port;
        self.instance.wait_ready(Duration::from_secs(20), || ping(port)).await
    }

    /// `redis://127.0.0.1:PORT/`, the same after a restart.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The server's version, such as `7.0.15`.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn version(&self) -> String {
        let info = ask(self.port, b"INFO server\r\n").await;
        let info = or_fail(info.map_err(Error::while_doing("asking Redis for its version")));
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        version.unwrap_or("unknown").trim().to_owned()
    }

    /// The port, for a [`Proxy`](crate::Proxy) before it.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// SIGKILL, and the wait for the end.
    pub fn kill(&self) {
        self.instance.kill();
    }

    /// SIGSTOP: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.instance.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.instance.resume();
    }

    /// Asks it to end in good order and waits.
    ///
    /// # Panics
    /// It has not ended after a minute.
    pub async fn stop(&self) {
        or_fail(self.instance.stop().await);
    }

    /// Starts it on the same port and data and waits until it answers.
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
}

/// `PING` over the wire; while the data is being loaded the answer is an error, which is "not yet".
async fn ping(port: u16) -> Result<(), String> {
    match ask(port, b"PING\r\n").await {
        Ok(answer) if answer.starts_with("+PONG") => Ok(()),
        Ok(answer) => Err(answer),
        Err(error) => Err(error.to_string()),
    }
}

/// The beginning of the answer to one command.
async fn ask(port: u16, command: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(command).await?;
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).await?;
    Ok(String::from_utf8_lossy(answer.get(..read).unwrap_or_default()).into_owned())
}
