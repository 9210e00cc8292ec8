//! A private Redis server on a socket file in a folder of its own. Tests fail where `redis-server` is missing.

use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::PATIENCE;

pub(super) struct RedisServer {
    folder: TempDir,
    child: Child,
}

impl RedisServer {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = spawn(&folder);
        let mut this = Self { folder, child };
        this.answers().await;
        this
    }

    /// From now on it asks for this password.
    pub(super) async fn require_password(&self, password: &str) {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut set = redis::cmd("CONFIG");
        set.arg(&["SET", "requirepass", password]);
        set.query_async::<()>(&mut connection).await.unwrap();
    }

    pub(super) fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("socket").display())
    }

    pub(super) async fn stop(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Kills it and starts another in its place, with nothing in it.
    pub(super) async fn restart(&mut self) {
        self.stop().await;
        self.child = spawn(&self.folder);
        self.answers().await;
    }

    async fn answers(&mut self) {
        let client = redis::Client::open(self.url()).unwrap();
        let ready = async {
            while client.get_multiplexed_async_connection().await.is_err() {
                assert!(self.child.try_wait().unwrap().is_none(), "redis-server ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("redis-server does not answer");
    }
}

fn spawn(folder: &TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--unixsocket", "socket", "--save", "", "--appendonly", "no", "--dir"])
        .arg(folder.path())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server must be installed (Debian: apt-get install redis-server)")
}
