//! Who is at the other end of a connection over loopback: the kernel lists each socket with its user.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// The user of the socket at `peer` that is connected to `ours`. `Ok(None)`: the kernel lists none, because it is closed
/// already. Reads files of the kernel: blocks for about a microsecond per socket of the machine.
///
/// # Errors
/// The kernel's list cannot be read.
pub(crate) fn user_of(peer: SocketAddr, ours: SocketAddr) -> io::Result<Option<u32>> {
    let found = find(&std::fs::read_to_string("/proc/net/tcp")?, &hex_v4(peer), &hex_v4(ours));
    if found.is_some() {
        return Ok(found);
    }
    // A socket that can speak both protocols stands in the other list. There is none where the machine has no IPv6.
    let list = std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    Ok(find(&list, &hex_mapped(peer), &hex_mapped(ours)))
}

/// The user in the line of one connection: `sl local remote state queues timer retransmits uid …`.
fn find(list: &str, local: &str, remote: &str) -> Option<u32> {
    list.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next()? != local || fields.next()? != remote {
            return None;
        }
        fields.nth(4)?.parse().ok()
    })
}

/// An address as the kernel writes it: each 32 bits in the machine's own order.
fn hex_v4(address: SocketAddr) -> String {
    let mut text = String::new();
    if let IpAddr::V4(ip) = address.ip() {
        // Cannot fail: it is a string.
        let _ = write!(text, "{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    }
    text
}

/// The same as an IPv6 address that stands for one of IPv4.
fn hex_mapped(address: SocketAddr) -> String {
    let prefix = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    format!("{:016X}{prefix:08X}{}", 0, hex_v4(address))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_user_of_a_connection_is_found_and_of_another_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = listener.local_addr().unwrap();
        let client = TcpStream::connect(ours).unwrap();
        let peer = client.local_addr().unwrap();
        assert_eq!(user_of(peer, ours).unwrap(), Some(rustix::process::geteuid().as_raw()));
        let other = SocketAddr::new(peer.ip(), 1);
        assert_eq!(user_of(other, ours).unwrap(), None);
    }

    #[test]
    fn a_line_is_found_by_both_its_ends() {
        let list = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0200007F:9C40 01 00000000:00000000 00:00000000 00000000  1001        0 1 1\n";
        assert_eq!(find(list, "0100007F:1F90", "0200007F:9C40"), Some(1001));
        assert_eq!(find(list, "0100007F:1F90", "0200007F:9C41"), None);
        assert_eq!(find("", "a", "b"), None);
    }
}
