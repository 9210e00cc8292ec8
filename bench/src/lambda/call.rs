//! A caller of the Invoke API, on one connection.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clock::{micros_between, now_ns};
use crate::fault::{Fault, Result, ensure};

pub struct Caller {
    stream: TcpStream,
    address: SocketAddr,
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address })
    }

    /// Invokes `function` and waits for its answer, which must be of the bench's function; microseconds.
    pub async fn invoke(&mut self, function: &str, payload: &str) -> Result<f64> {
        let request = format!(
            "POST /2015-03-31/functions/{function}/invocations HTTP/1.1\r\nHost: {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{payload}",
            self.address,
            payload.len()
        );
        let started = now_ns();
        self.stream.write_all(request.as_bytes()).await?;
        let answer = self.answer().await?;
        let took = micros_between(started, now_ns());
        ensure(answer.starts_with("HTTP/1.1 200 ") && answer.contains("entered_ns"), || {
            format!("the Invoke API answered {answer:?}")
        })?;
        Ok(took)
    }

    async fn answer(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                let length: usize = length.ok_or_else(|| Fault(format!("an answer without a length: {head}")))?;
                if body.len() >= length {
                    return Ok(text.into_owned());
                }
            }
            ensure(self.stream.read_buf(&mut bytes).await? > 0, || "the Invoke API broke off".to_owned())?;
        }
    }
}
