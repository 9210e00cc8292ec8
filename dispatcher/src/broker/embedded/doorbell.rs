//! Tells the consuming process that another one has published: a Unix datagram socket beside the file.
//!
//! A ring carries nothing and may be lost; whoever waits for it also looks once a second.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

/// Where the bell of a file hangs.
pub fn path_of(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".bell");
    path.into()
}

/// Rings the bell of a file. Says nothing when nobody listens: then nobody needs to know.
pub fn ring(file: &Path) {
    // Never blocks: a full socket means that rings are waiting already.
    if let Ok(socket) = std::os::unix::net::UnixDatagram::unbound()
        && socket.set_nonblocking(true).is_ok()
    {
        let _ = socket.send_to(&[1], path_of(file));
    }
}

/// The hung-up bell of a file; taken down when dropped.
#[derive(Debug)]
pub struct Doorbell {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Doorbell {
    /// Hangs it up, in place of one that a dead process left.
    ///
    /// # Errors
    /// A living process has it ([`io::ErrorKind::AddrInUse`]), or the socket cannot be made (its path may be longer
    /// than the 107 bytes that a socket's may have).
    pub fn hang(file: &Path) -> io::Result<Self> {
        let path = path_of(file);
        if let Err(error) = std::os::unix::net::UnixDatagram::unbound()?.connect(&path) {
            // Refused: a socket file with nobody behind it.
            if error.kind() == io::ErrorKind::ConnectionRefused {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(Self { socket: UnixDatagram::bind(&path)?, path })
    }

    /// Waits for a ring; takes all that wait as one. Cancel-safe.
    pub async fn rung(&self) {
        let mut bytes = [0_u8; 8];
        // An error is no reason to spin: the second of the safety poll stands in.
        if self.socket.recv(&mut bytes).await.is_err() {
            tokio::time::sleep(super::POLL_EVERY).await;
        }
        while self.socket.try_recv(&mut bytes).is_ok() {}
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
