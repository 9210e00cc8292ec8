//! A real program under test: started with an environment of its own, listened to, signalled, and waited for.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::instance::{signal, signal_tree};

/// What to start. The environment is empty but for `PATH` and `HOME`: what a developer has set must not change a test.
#[derive(Debug)]
pub struct ProcessBuilder {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
}

impl ProcessBuilder {
    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The folder to start in; default: the test's own.
    #[must_use]
    pub fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Starts the program, in a process group of its own and with no input.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn spawn(self) -> Process {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear();
        for kept in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.envs(self.env).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        if let Some(folder) = self.folder {
            command.current_dir(folder);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("starting {}: {error}", self.program.display()),
        };
        let output = Arc::new(Output { lines: Mutex::default(), count: watch::Sender::new(0) });
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(tokio::spawn(read_lines(stdout, Stream::Stdout, output.clone())));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(tokio::spawn(read_lines(stderr, Stream::Stderr, output.clone())));
        }
        let name = self.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Process { name, child, output, readers }
    }

    /// Starts the program and waits for its end.
    ///
    /// # Panics
    /// It cannot be started or has not ended after `limit`.
    pub async fn run(self, limit: Duration) -> Exit {
        self.spawn().wait(limit).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

#[derive(Debug)]
struct Output {
    lines: Mutex<Vec<(Stream, String)>>,
    /// How many lines there are; written by the readers.
    count: watch::Sender<usize>,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<(Stream, String)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first line that contains `part`.
    fn find(&self, part: &str) -> Option<String> {
        self.lines().iter().map(|(_, line)| line).find(|line| line.contains(part)).cloned()
    }
}

async fn read_lines(from: impl AsyncRead + Unpin, stream: Stream, output: Arc<Output>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let count = {
            let mut lines = output.lines();
            lines.push((stream, line));
            lines.len()
        };
        output.count.send_replace(count);
    }
}

/// A program that runs. Dropping it kills it and its descendants.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

/// How a program ended.
#[derive(Debug)]
pub struct Exit {
    /// Its status.
    pub status: ExitStatus,
    /// Every line that it wrote to either stream; in order within a stream.
    pub lines: Vec<String>,
    /// The lines that it wrote to standard output.
    pub stdout: Vec<String>,
}

impl Exit {
    /// The output as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Fails unless the status is zero; hands itself back.
    ///
    /// # Panics
    /// Another status; shows the output.
    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "ended with {}; output:\n{}", self.status, self.text());
        self
    }

    /// Fails unless the status is `code`; hands itself back.
    ///
    /// # Panics
    /// Another status; shows the output.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "ended with {}; output:\n{}", self.status, self.text());
        self
    }
}

impl Process {
    /// A program of the workspace by its name, built if need be (see [`crate::bin`]).
    ///
    /// # Panics
    /// It cannot be built or found.
    #[must_use]
    pub fn weft(name: &str) -> ProcessBuilder {
        Self::at(crate::bin(name))
    }

    /// Any program.
    #[must_use]
    pub fn at(program: impl Into<PathBuf>) -> ProcessBuilder {
        ProcessBuilder { program: program.into(), args: Vec::new(), env: Vec::new(), folder: None }
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything written so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.output.lines().iter().map(|(_, line)| line.clone()).collect()
    }

    /// Waits for the first line, from the beginning on, that contains `part`, and returns it.
    ///
    /// # Panics
    /// After `limit`, or when the program ends without such a line; shows the output.
    pub async fn wait_for_line(&mut self, part: &str, limit: Duration) -> String {
        let mut count = self.output.count.subscribe();
        let output = self.output.clone();
        let found = async {
            loop {
                count.borrow_and_update();
                if let Some(line) = output.find(part) {
                    return line;
                }
                if count.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let fault = tokio::select! {
            biased;
            line = tokio::time::timeout(limit, found) => match line {
                Ok(line) => return line,
                Err(_) => format!("no line with {part:?} within {limit:?}"),
            },
            status = self.child.wait() => {
                self.finish_reading().await;
                if let Some(line) = self.output.find(part) {
                    return line;
                }
                format!("ended ({status:?}) without a line with {part:?}")
            }
        };
        panic!("{}: {fault}; output:\n{}", self.name, self.lines().join("\n"));
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, what: Signal) {
        if let Some(pid) = self.pid() {
            signal(pid, what);
        }
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGKILL to the program alone: its children must notice by themselves.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// SIGSTOP to the program and its descendants.
    pub fn pause(&self) {
        if let Some(pid) = self.pid() {
            signal_tree(pid, Signal::STOP);
        }
    }

    /// SIGCONT to the program and its descendants.
    pub fn resume(&self) {
        if let Some(pid) = self.pid() {
            signal_tree(pid, Signal::CONT);
        }
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// It has not ended after `limit`; shows the output. It is killed then.
    pub async fn wait(mut self, limit: Duration) -> Exit {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) => {
                self.finish_reading().await;
                let on_stdout = |(stream, line): &(Stream, String)| (*stream == Stream::Stdout).then(|| line.clone());
                let stdout = self.output.lines().iter().filter_map(on_stdout).collect();
                Exit { status, lines: self.lines(), stdout }
            }
            Ok(Err(error)) => panic!("waiting for {}: {error}", self.name),
            Err(_) => panic!("{} has not ended within {limit:?}; output:\n{}", self.name, self.lines().join("\n")),
        }
    }

    /// A descendant that outlives the program may hold the pipe open: then what was read so far must do.
    async fn finish_reading(&mut self) {
        for reader in &mut self.readers {
            let _ = tokio::time::timeout(Duration::from_secs(2), reader).await;
        }
        self.readers.clear();
    }
}

/// The lines of a program that a failing test shows.
const SHOWN_LINES: usize = 60;

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test failed while this ran: what it said is the best account of why.
            let lines = self.lines();
            let shown = lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default();
            eprintln!("{} was running; its last {} lines:\n{}", self.name, shown.len(), shown.join("\n"));
        }
        if let Some(pid) = self.child.id() {
            signal_tree(pid, Signal::STOP);
            signal_tree(pid, Signal::KILL);
        }
        for reader in &self.readers {
            reader.abort();
        }
    }
}
