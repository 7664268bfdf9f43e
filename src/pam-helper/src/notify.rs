//! `sd_notify`: tells a service manager that the helper answers questions, or why it does not start. Invariant: never fails a start.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `READY=1` to $NOTIFY_SOCKET, if there is one.
pub(crate) fn ready() {
    if let Ok(name) = std::env::var("NOTIFY_SOCKET") {
        let _ = send(&name, b"READY=1");
    }
}

/// Sends why the helper does not start, in one line: `systemctl status` shows it.
pub(crate) fn status(words: &str) {
    if let Ok(name) = std::env::var("NOTIFY_SOCKET") {
        let _ = send(&name, status_line(words).as_bytes());
    }
}

fn status_line(words: &str) -> String {
    let line: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("STATUS={line}")
}

/// Who starts a helper again that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    Systemd,
    /// `pamrelay run`, which waits longer after each death, or nobody.
    Other,
}

pub(crate) fn manager() -> Manager {
    let supervised = std::env::var_os("PAMRELAY_SUPERVISED").is_some();
    if std::env::var_os("NOTIFY_SOCKET").is_some() && !supervised { Manager::Systemd } else { Manager::Other }
}

fn send(name: &str, state: &[u8]) -> io::Result<()> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_whatever_the_reason_says() {
        assert_eq!(status_line("no room\nREADY=1"), "STATUS=no room READY=1");
    }

    #[test]
    fn reaches_a_manager_by_path_and_by_abstract_name() {
        let path = std::env::temp_dir().join(format!("pamrelay-notify-{}", std::process::id()));
        let abstract_name = format!("pamrelay-notify-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();

        send(path.to_str().unwrap(), b"READY=1").unwrap();
        send(&format!("@{abstract_name}"), b"READY=1").unwrap();

        let mut heard = [0; 16];
        for manager in [by_path, by_name] {
            assert_eq!(manager.recv(&mut heard).unwrap(), 7);
        }
        std::fs::remove_file(path).unwrap();
    }
}
