//! Tells a service manager that waits for it that the member serves, and that it stops.
//!
//! The protocol is one datagram a state to the unix socket that `NOTIFY_SOCKET` names; `@` begins the name of an
//! abstract one. A datagram that the manager does not take at once is not waited for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::log::Logger;

/// The variable that names the socket.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first request can be answered.
    Ready,
    /// The end has begun.
    Stopping,
}

impl Notice {
    fn text(self) -> &'static str {
        match self {
            Notice::Ready => "READY=1\nSTATUS=Serving clients.",
            Notice::Stopping => "STOPPING=1\nSTATUS=Closing the log.",
        }
    }
}

/// The way to the manager, if there is one.
#[derive(Debug)]
pub struct Notifier(Option<OsString>);

impl Notifier {
    /// With the value of `NOTIFY_SOCKET`.
    pub fn new(socket: Option<OsString>) -> Notifier {
        Notifier(socket.filter(|socket| !socket.is_empty()))
    }

    /// Tells it; what goes wrong is logged, because a manager that waits in vain ends the process.
    pub fn tell(&self, notice: Notice, logger: &Logger) {
        let Some(socket) = &self.0 else {
            return;
        };
        let state = notice.text().split('\n').next().unwrap_or_default();
        match send(socket, notice.text()) {
            Ok(()) => logger.info(
                "successfully notified init daemon",
                &[("state", state.into())],
            ),
            Err(error) => {
                let fields = [
                    ("state", state.into()),
                    ("socket", socket.to_string_lossy().into()),
                    ("error", error.to_string().into()),
                ];
                logger.warn("failed to notify init daemon", &fields);
            }
        }
    }
}

fn send(socket: &OsStr, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(socket)?,
        _ => {
            let what = "a socket's name begins with / or @";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    };
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(text.as_bytes(), &address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn received(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn both_kinds_of_sockets() {
        let logger = Logger::silent();
        let path = std::env::temp_dir().join(format!("ringd-notify-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).unwrap();
        Notifier::new(Some(path.clone().into())).tell(Notice::Ready, &logger);
        assert!(received(&manager).starts_with("READY=1\n"));
        std::fs::remove_file(&path).unwrap();

        let name = format!("ringd-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier::new(Some(format!("@{name}").into()));
        notifier.tell(Notice::Stopping, &logger);
        assert!(received(&manager).starts_with("STOPPING=1\n"));
    }

    #[test]
    fn nobody_to_tell_is_fine_and_a_socket_that_is_none_is_said() {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let kept = lines.clone();
        let logger = Logger::with(move |line| kept.borrow_mut().push(line.to_owned()));
        Notifier::new(None).tell(Notice::Ready, &logger);
        Notifier::new(Some(OsString::new())).tell(Notice::Ready, &logger);
        assert!(lines.borrow().is_empty());
        Notifier::new(Some("nowhere".into())).tell(Notice::Ready, &logger);
        Notifier::new(Some("/nonexistent/socket".into())).tell(Notice::Ready, &logger);
        let lines = lines.borrow();
        assert!(lines.iter().all(|line| line.contains("\"level\":\"warn\"")));
        assert_eq!(lines.len(), 2);
    }
}
