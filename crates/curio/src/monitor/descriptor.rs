//! What a descriptor's number stands for.
//!
//! The number belongs to a task, which may close it at any moment; so what is said here is what
//! was found under the number, and may be another's already.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType, sockopt};

/// What was found under a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Descriptor {
    Socket {
        /// TCP, UDP, Unix …
        kind: &'static str,
        listening: bool,
        local: Option<String>,
        peer: Option<String>,
    },
    /// A file, by its name, or what the system calls something else.
    Other(String),
    Closed,
}

impl Descriptor {
    pub(super) fn of(fd: RawFd) -> Descriptor {
        if fd < 0 {
            return Descriptor::Closed;
        }
        // SAFETY: `BorrowedFd` wants a descriptor that is open for the time of the borrow, and is
        // not -1. It is not negative. Nobody keeps its task from closing it meanwhile; but we hand
        // the number to system calls alone that tell of a socket, read nothing from it and close
        // nothing. Of a closed number they say so, and another's under the same number they
        // describe instead, which is all that goes wrong.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        match rustix::net::getsockname(socket) {
            Ok(local) => Descriptor::socket(socket, local),
            Err(Errno::BADF) => Descriptor::Closed,
            Err(_) => match std::fs::read_link(format!("/proc/self/fd/{fd}")) {
                Ok(link) => Descriptor::Other(link.display().to_string()),
                Err(_) => Descriptor::Closed,
            },
        }
    }

    fn socket(socket: BorrowedFd<'_>, local: SocketAddrAny) -> Descriptor {
        let stream = sockopt::socket_type(socket) == Ok(SocketType::STREAM);
        let kind = match (SocketAddr::try_from(local.clone()), stream) {
            (Ok(_), true) => "TCP",
            (Ok(_), false) => "UDP",
            (Err(_), _) if SocketAddrUnix::try_from(local.clone()).is_ok() => "Unix",
            (Err(_), _) => "other",
        };
        let peer = rustix::net::getpeername(socket).ok().flatten();
        Descriptor::Socket {
            kind,
            listening: sockopt::socket_acceptconn(socket) == Ok(true),
            local: address(local),
            peer: peer.and_then(address),
        }
    }
}

/// An address in words, if it has any.
fn address(address: SocketAddrAny) -> Option<String> {
    if let Ok(address) = SocketAddr::try_from(address.clone()) {
        return Some(address.to_string());
    }
    let address = SocketAddrUnix::try_from(address).ok()?;
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match address.abstract_name() {
        Some([]) => None,
        Some(name) => Some(format!("@{}", lossy(name))),
        None => address.path_bytes().map(lossy),
    }
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Descriptor::Closed => f.write_str("closed"),
            Descriptor::Other(what) if Path::new(what).is_absolute() => write!(f, "file {what}"),
            Descriptor::Other(what) => f.write_str(what),
            Descriptor::Socket { kind, listening, local, peer } => {
                write!(f, "{kind} socket")?;
                match local {
                    Some(local) if *listening => write!(f, " listening at {local}")?,
                    Some(local) => write!(f, " {local}")?,
                    None => {}
                }
                match peer {
                    Some(peer) => write!(f, " connected to {peer}"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn words(socket: &impl AsRawFd) -> String {
        Descriptor::of(socket.as_raw_fd()).to_string()
    }

    #[test]
    fn sockets_say_who_they_are_and_to_whom_they_talk() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert_eq!(words(&listener), format!("TCP socket listening at {at}"));
        let stream = TcpStream::connect(at).unwrap();
        let from = stream.local_addr().unwrap();
        assert_eq!(words(&stream), format!("TCP socket {from} connected to {at}"));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(words(&udp), format!("UDP socket {}", udp.local_addr().unwrap()));

        let path = std::env::temp_dir().join(format!("curio-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(words(&listener), format!("Unix socket listening at {}", path.display()));
        let stream = UnixStream::connect(&path).unwrap();
        assert_eq!(words(&stream), format!("Unix socket connected to {}", path.display()));
        std::fs::remove_file(&path).unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        assert_eq!(words(&one), "Unix socket");
    }

    #[test]
    fn what_is_no_socket_is_called_as_the_system_does() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(words(&file), "file /dev/null");
        let (pipe, _) = std::io::pipe().unwrap();
        assert!(words(&pipe).starts_with("pipe:["), "{}", words(&pipe));
        assert_eq!(Descriptor::of(-1), Descriptor::Closed);
        assert_eq!(Descriptor::of(1_000_000), Descriptor::Closed);
    }
}
