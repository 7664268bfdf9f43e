//! Whether the relay could listen where it is to, or does so already.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::Finding;
use super::places::uid_of;
use crate::front::{Listener, TlsMode};
use crate::run::FRONT_USER;

/// Tries it exactly as the front end does: `0.0.0.0` and `[::]` are two listeners.
pub(super) fn look(address: SocketAddr) -> Option<Finding> {
    let error = Listener::bind("check", address, TlsMode::StartTls).err()?;
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse if is_ours(address) => return None,
        io::ErrorKind::AddrInUse => format!("find out who listens there: ss -ltnp 'sport = :{}'", address.port()),
        // The relay may bind this port; the user who runs the check may not.
        io::ErrorKind::PermissionDenied if !nix::unistd::geteuid().is_root() => return None,
        io::ErrorKind::PermissionDenied => "ports below 1024 need CAP_NET_BIND_SERVICE".to_owned(),
        io::ErrorKind::AddrNotAvailable => "compare with the addresses of this host: ip address".to_owned(),
        _ => "write another address".to_owned(),
    };
    Some(Finding::warning(format!("listen: {address} cannot be listened on now: {error}"), remedy))
}

/// A listening socket, as the kernel lists it.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    address: IpAddr,
    port: u16,
    uid: u32,
    inode: String,
}

/// Whether everybody in the way is a front end of pamrelay: its user made the socket, or a process of ours holds it.
fn is_ours(address: SocketAddr) -> bool {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let in_the_way = |held: &Held| {
        let same_kind = held.address.is_ipv4() == address.is_ipv4();
        let any = held.address.is_unspecified() || address.ip().is_unspecified();
        held.port == address.port() && same_kind && (any || held.address == address.ip())
    };
    let held: Vec<Held> = tables.iter().flat_map(|table| table.lines()).filter_map(listening).filter(in_the_way).collect();
    let front = uid_of(FRONT_USER);
    !held.is_empty() && held.iter().all(|held| Some(held.uid) == front || is_held_by_us(&held.inode))
}

/// A line of /proc/net/tcp (proc(5)) in the state LISTEN.
fn listening(line: &str) -> Option<Held> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = fields.nth(1)?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.to_owned();
    (state == "0A").then_some(())?;
    Some(Held { address: address_of(address)?, port: u16::from_str_radix(port, 16).ok()?, uid, inode })
}

/// The kernel prints words of four octets, each as the machine has them.
fn address_of(text: &str) -> Option<IpAddr> {
    let words: Vec<[u8; 4]> = text
        .as_bytes()
        .chunks(8)
        .map(|word| Some(u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    let octets = words.concat();
    <[u8; 4]>::try_from(octets.as_slice()).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets.as_slice()).map(IpAddr::from)).ok()
}

/// Whether a process of this program has it open: under `pamrelay run` root made the socket.
fn is_held_by_us(inode: &str) -> bool {
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = |process: &Path| {
        let program = fs::read_link(process.join("exe")).unwrap_or_default();
        // After an upgrade the running program is `pamrelay (deleted)`.
        program.file_name().is_some_and(|name| name == "pamrelay" || name == "pamrelay (deleted)")
    };
    processes.filter(|process| ours(process)).any(|process| {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target.as_os_str() == socket.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_somebody_else_is_warned_of_and_a_free_one_is_not() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();

        assert!(look(address).unwrap().to_string().contains("cannot be listened on now"));
        drop(taken);
        assert!(look(address).is_none());
    }

    #[test]
    fn the_listener_of_all_addresses_of_one_family_is_not_in_the_way_of_the_other() {
        let Ok(six) = std::net::TcpListener::bind("[::1]:0") else { return };
        let port = six.local_addr().unwrap().port();
        drop(six);
        let _taken = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();

        assert!(look(SocketAddr::new("::".parse().unwrap(), port)).is_none());
    }

    #[test]
    fn the_table_of_the_kernel_is_read() {
        let line = "   0: 0100007F:0A1B 00000000:0000 0A 00000000:00000000 00:00000000 00000000   993        0 12345 1 0000000000000000 100 0 0 10 0";
        let wanted = Held { address: "127.0.0.1".parse().unwrap(), port: 2587, uid: 993, inode: "12345".into() };

        assert_eq!(listening(line), cfg!(target_endian = "little").then_some(wanted));
        assert_eq!(listening("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"), None);
        assert_eq!(address_of("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
    }
}
