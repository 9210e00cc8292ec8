//! The floor: a Runtime API with nothing behind it. It answers one client, one request after the other, and knows no more of
//! HTTP than that client needs.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::kit::{ARGUMENTS, Kit};
use crate::clock::{micros_between, now_ns};
use crate::fault::{Fault, Result, ensure};
use crate::stage;

/// The longest that the client may take for anything.
const LIMIT: Duration = Duration::from_secs(20);
/// The longest request.
const MOST_BYTES: usize = 64 * 1024;
const NEXT: &str = "GET /2018-06-01/runtime/invocation/next ";
const ACCEPTED: &[u8] =
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n";

/// The interpreter with its client and its function, and what it talks to. Dropped, the process is killed.
pub struct Floor {
    listener: TcpListener,
    connection: Option<TcpStream>,
    child: Child,
}

/// One start: spawn → the whole of the first response, in microseconds.
pub fn cold(kit: &Kit, number: u32) -> Result<f64> {
    let listener = listen()?;
    let address = listener.local_addr()?;
    let started = now_ns();
    let mut floor = Floor { child: spawn(kit, address)?, listener, connection: None };
    floor.asked()?;
    floor.hand_out(number)?;
    floor.answered(number)?;
    let took = micros_between(started, now_ns());
    floor.accept()?;
    Ok(took)
}

impl Floor {
    /// Started, and waiting for an invocation.
    pub fn start(kit: &Kit) -> Result<Self> {
        let listener = listen()?;
        let child = spawn(kit, listener.local_addr()?)?;
        let mut floor = Self { listener, connection: None, child };
        floor.asked()?;
        Ok(floor)
    }

    /// One round trip: hand-out → the whole of the response, in microseconds. It waits for the next invocation then.
    pub fn warm(&mut self, number: u32) -> Result<f64> {
        let started = now_ns();
        self.hand_out(number)?;
        self.answered(number)?;
        let took = micros_between(started, now_ns());
        self.accept()?;
        self.asked()?;
        Ok(took)
    }

    fn asked(&mut self) -> Result<()> {
        let request = self.request()?;
        ensure(request.starts_with(NEXT), || format!("the client sent {request:?} instead of its question"))
    }

    /// Head and body in one piece.
    fn hand_out(&mut self, number: u32) -> Result<()> {
        let event = stage::cloud_event(number).to_string();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: {}\r\n\
             Lambda-Runtime-Deadline-Ms: {}\r\n\
             Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:us-east-1:000000000000:function:python\r\n\
             Content-Length: {}\r\n\r\n{event}",
            stage::id(number),
            now.as_millis() + 30_000,
            event.len(),
        );
        self.send(answer.as_bytes())
    }

    fn answered(&mut self, number: u32) -> Result<()> {
        let wanted = format!("POST /2018-06-01/runtime/invocation/{}/response ", stage::id(number));
        let request = self.request()?;
        ensure(request.starts_with(&wanted) && request.contains("entered_ns"), || {
            format!("the client sent {request:?} instead of its response")
        })
    }

    fn accept(&mut self) -> Result<()> {
        self.send(ACCEPTED)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let connection = self.connection.as_mut().ok_or_else(|| Fault("the client is not connected".to_owned()))?;
        Ok(connection.write_all(bytes)?)
    }

    /// A whole request; on a new connection where the client has closed the one before.
    fn request(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            if let Some(length) = length(&bytes)?
                && bytes.len() >= length
            {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            ensure(bytes.len() < MOST_BYTES, || "the client sends without end".to_owned())?;
            let connection = match &mut self.connection {
                Some(connection) => connection,
                none => none.insert(connected(&self.listener)?),
            };
            let mut chunk = [0; 4096];
            match connection.read(&mut chunk) {
                Ok(0) if bytes.is_empty() => self.connection = None,
                Ok(0) => return Err(Fault("the client broke off".to_owned())),
                Ok(read) => bytes.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(Fault(format!("the client sent nothing for {LIMIT:?}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

fn connected(listener: &TcpListener) -> Result<TcpStream> {
    let limit = Timespec::try_from(LIMIT).ok();
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], limit.as_ref())?;
    ensure(ready == 1, || format!("the client did not connect within {LIMIT:?}"))?;
    let (connection, _) = listener.accept()?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(LIMIT))?;
    Ok(connection)
}

/// How long the request is, by its head; `None`: that is not whole yet.
fn length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(bytes.get(..head).unwrap_or_default()).to_ascii_lowercase();
    ensure(!text.contains("transfer-encoding: chunked"), || "the client sends in chunks".to_owned())?;
    let body =
        text.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(Ok(0), |text| text.trim().parse());
    Ok(Some(head + 4 + body.map_err(|_| Fault("the client's Content-Length is no number".to_owned()))?))
}

/// The same command, working directory and environment as a worker of Weft's, with the outputs to nowhere.
fn spawn(kit: &Kit, api: SocketAddr) -> Result<Child> {
    let folder: &Path = &kit.folder;
    let child = Command::new(&kit.python)
        .args(ARGUMENTS)
        .current_dir(folder)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("LANG", "C.UTF-8")
        .env("HOME", "/tmp")
        .env("TMPDIR", "/tmp")
        .env("AWS_LAMBDA_RUNTIME_API", api.to_string())
        .env("LAMBDA_TASK_ROOT", folder)
        .envs([
            ("AWS_LAMBDA_FUNCTION_NAME", "python"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/python"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]floor"),
            ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
            ("AWS_LAMBDA_LOG_LEVEL", "INFO"),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
            ("TZ", "UTC"),
            ("_HANDLER", "app.handler"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_body_and_not_before() {
        assert_eq!(length(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap(), None);
        assert_eq!(length(b"GET / HTTP/1.1\r\n\r\n").unwrap(), Some(18));
        assert_eq!(length(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhe").unwrap(), Some(43));
        assert!(length(b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n").is_err());
        assert!(length(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }
}
