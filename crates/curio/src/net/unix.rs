//! Unix sockets: between programs of one machine, at paths of its file system.
//!
//! *Facts.* Binding makes a file, and nobody removes it when the socket is closed; a path that exists
//! cannot be bound to. A full backlog, or a receiver whose queue is full, makes a call fail with
//! `EAGAIN`, and the caller's own socket may never be reported as ready after that: whether there
//! is room is the other socket's matter.
//!
//! *Meaning for us.* The file is the program's. Connecting to a full backlog is tried again after
//! a pause. A datagram to a full queue waits on a socket of its own that is connected to the
//! receiver: such a one is told of room.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::SocketAddr;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny, SocketAddrUnix};
use socket2::{Domain, SockAddr, Socket, Type};

use super::registered::Registered;
use crate::error::Result;
use crate::kernel::{Direction, Source};
use crate::stream::Transport;
use crate::time::sleep;
use crate::traps::at;

/// A Unix socket that accepts connections.
///
/// # Examples
///
/// ```
/// use curio::net::{UnixListener, UnixStream};
///
/// # fn main() -> curio::Result<()> {
/// let path = std::env::temp_dir().join(format!("curio-doc-{}", std::process::id()));
/// let result = curio::run({
///     let path = path.clone();
///     async move {
///         let listener = UnixListener::bind(&path)?;
///         let client = UnixStream::connect(&path).await?;
///         let (served, _address) = listener.accept().await?;
///         client.send_all(b"Hello").await?;
///         let mut greeting = [0; 5];
///         served.recv_exact(&mut greeting).await?;
///         assert_eq!(&greeting, b"Hello");
///         Ok(())
///     }
/// });
/// std::fs::remove_file(path)?; // nobody else does
/// result
/// # }
/// ```
pub struct UnixListener(Registered);

impl UnixListener {
    /// Listens at `path`, where a file is made. It stays when the listener is gone.
    ///
    /// # Errors
    /// An I/O error that names the path: `AddrInUse` if it exists, `InvalidInput` if it is too
    /// long (107 bytes is the most), the system's.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        let socket = bound(Type::STREAM, path.as_ref())?;
        socket.listen(1024)?;
        Ok(UnixListener(Registered::new(socket)?))
    }

    /// The address it listens at.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(unix(&self.0.socket.local_addr()?)?)
    }

    /// Waits for a connection; gives it and the peer's address, which mostly has no name.
    ///
    /// # Errors
    /// The system's, such as having no descriptor left.
    ///
    /// # Cancellation
    /// No connection is lost.
    #[track_caller]
    pub fn accept(&self) -> impl Future<Output = Result<(UnixStream, SocketAddr)>> + '_ {
        at(Location::caller(), async {
            let (socket, address) = self.0.accept().await?;
            Ok((UnixStream(socket), unix(&address)?))
        })
    }

    pub(super) fn source(&self) -> &Source {
        self.0.source()
    }

    pub(super) fn try_accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let (socket, address) = self.0.try_accept()?;
        Ok((UnixStream(socket), unix(&address)?))
    }
}

/// A connection between programs of one machine.
///
/// It can be read by one task while another writes to it; so all methods take `&self`.
///
/// # Examples
///
/// ```
/// use curio::Stream;
/// use curio::net::UnixStream;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let (one, other) = UnixStream::pair()?;
///     one.send_all(b"Hello\n").await?;
///     let other = Stream::new(other);
///     assert_eq!(other.read_line().await?.as_deref(), Some(&b"Hello\n"[..]));
///     Ok(())
/// })
/// # }
/// ```
pub struct UnixStream(Registered);

impl UnixStream {
    /// Connects to the socket at `path`.
    ///
    /// While the listener's backlog is full, it is asked again after pauses of up to 50 ms: the
    /// system does not tell when there is room.
    ///
    /// # Errors
    /// An I/O error that names the path: it does not exist, it is no socket, nobody listens there
    /// (`ConnectionRefused`), it is too long.
    ///
    /// # Cancellation
    /// There is no connection.
    #[track_caller]
    pub fn connect<P: AsRef<Path>>(path: P) -> impl Future<Output = Result<Self>> + use<P> {
        at(Location::caller(), async move {
            let path = path.as_ref();
            let failed = |cause| failure("connect to", path, cause);
            let address = address(path).map_err(failed)?;
            let stream = Registered::new(Socket::new(Domain::UNIX, Type::STREAM, None)?)?;
            let mut pause = Duration::from_millis(1);
            loop {
                match stream.socket.connect(&address) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        sleep(pause).await?;
                        pause = (2 * pause).min(Duration::from_millis(50));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    connected => {
                        return Ok(connected.map(|()| UnixStream(stream)).map_err(failed)?);
                    }
                }
            }
        })
    }

    /// Two ends of a connection that has no path.
    ///
    /// # Errors
    /// The system's, such as having no descriptor left.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = Socket::pair(Domain::UNIX, Type::STREAM, None)?;
        Ok((UnixStream(Registered::new(one)?), UnixStream(Registered::new(other)?)))
    }

    /// Reads what there is, at most the buffer's length, and waits if there is
    /// nothing. 0 is the end of the stream.
    ///
    /// # Errors
    /// The system's; [`is_busy`](crate::Error::is_busy) if another task is reading.
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[track_caller]
    pub fn recv<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<usize>> + use<'a> {
        at(Location::caller(), self.0.recv(buffer))
    }

    /// Fills the whole buffer.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); `UnexpectedEof` if the stream ends first.
    ///
    /// # Cancellation
    /// What was read is in the buffer; how much, [`Error::bytes_done`](crate::Error::bytes_done)
    /// says.
    #[track_caller]
    pub fn recv_exact<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<()>> + use<'a> {
        at(Location::caller(), self.0.recv_exact(buffer))
    }

    /// Sends what the system takes of `data`, at least a byte; gives the count.
    ///
    /// # Errors
    /// The system's; [`is_busy`](crate::Error::is_busy) if another task is sending.
    ///
    /// # Cancellation
    /// Nothing was sent.
    #[track_caller]
    pub fn send<'a>(&'a self, data: &'a [u8]) -> impl Future<Output = Result<usize>> + use<'a> {
        at(Location::caller(), self.0.send(data))
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancellation
    /// Part may have been sent; how much, [`Error::bytes_done`](crate::Error::bytes_done) says.
    #[track_caller]
    pub fn send_all<'a>(&'a self, data: &'a [u8]) -> impl Future<Output = Result<()>> + use<'a> {
        at(Location::caller(), self.0.send_all(data))
    }

    /// Ends one direction, or both: the peer sees the end of the stream.
    ///
    /// # Errors
    /// The system's.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        Ok(self.0.socket.shutdown(how)?)
    }

    /// The address of the peer.
    ///
    /// # Errors
    /// The system's: the connection is gone.
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        Ok(unix(&self.0.socket.peer_addr()?)?)
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(unix(&self.0.socket.local_addr()?)?)
    }
}

impl Transport for UnixStream {
    fn source(&self) -> &Source {
        self.0.source()
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn try_shutdown(&self) -> io::Result<()> {
        self.0.socket.shutdown(Shutdown::Write)
    }

    fn short_read_drains(&self) -> bool {
        true
    }
}

/// A Unix socket for datagrams.
///
/// None is lost on the way: who sends to a receiver whose queue is full waits. What does not fit
/// into the receiver's buffer is cut off and lost. One task may receive while another sends; so
/// all methods take `&self`.
///
/// # Examples
///
/// ```
/// use curio::net::UnixDatagram;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let (one, other) = UnixDatagram::pair()?;
///     one.send(b"Hello").await?;
///     one.send(b"World").await?;
///     let mut buffer = [0; 100];
///     assert_eq!(other.recv(&mut buffer).await?, 5); // one at a time
///     assert_eq!(&buffer[..5], b"Hello");
///     Ok(())
/// })
/// # }
/// ```
pub struct UnixDatagram(Registered);

impl UnixDatagram {
    /// A socket at `path`, where a file is made. It stays when the socket is gone.
    ///
    /// # Errors
    /// Those of [`UnixListener::bind`].
    pub fn bind(path: impl AsRef<Path>) -> Result<Self> {
        Ok(UnixDatagram(Registered::new(bound(Type::DGRAM, path.as_ref())?)?))
    }

    /// A socket without an address: it can send, and nobody can answer.
    ///
    /// # Errors
    /// The system's, such as having no descriptor left.
    pub fn unbound() -> Result<Self> {
        Ok(UnixDatagram(Registered::new(Socket::new(Domain::UNIX, Type::DGRAM, None)?)?))
    }

    /// Two sockets that are each other's peer, and have no path.
    ///
    /// # Errors
    /// The system's, such as having no descriptor left.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = Socket::pair(Domain::UNIX, Type::DGRAM, None)?;
        Ok((UnixDatagram(Registered::new(one)?), UnixDatagram(Registered::new(other)?)))
    }

    /// Sets the peer: [`send`](Self::send) goes to it, and only its datagrams are received from
    /// now on. Nothing is sent.
    ///
    /// # Errors
    /// Those of [`UnixStream::connect`].
    pub fn connect(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let connected = address(path).and_then(|address| self.0.socket.connect(&address));
        Ok(connected.map_err(|cause| failure("connect to", path, cause))?)
    }

    /// Receives a datagram; gives its length, at most the buffer's. 0 is an empty datagram.
    ///
    /// # Errors
    /// The system's; [`is_busy`](crate::Error::is_busy) if another task is receiving.
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[track_caller]
    pub fn recv<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<usize>> + use<'a> {
        at(Location::caller(), self.0.recv_message(buffer))
    }

    /// As [`recv`](Self::recv), with the sender's address, which has no name if the sender is
    /// [`unbound`](Self::unbound).
    #[track_caller]
    pub fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<(usize, SocketAddr)>> + use<'a> {
        at(Location::caller(), async move {
            let received = self.0.recv_message_from(buffer, RecvFlags::empty());
            let (count, address) = received.await?;
            Ok((count, sender(address)?))
        })
    }

    /// Sends `data` as one datagram to the peer, waiting while there is no room for it.
    ///
    /// # Errors
    /// The system's: there is no peer, or no more; the datagram is too large.
    /// [`is_busy`](crate::Error::is_busy) if another task is sending.
    ///
    /// # Cancellation
    /// Nothing was sent.
    #[track_caller]
    pub fn send<'a>(&'a self, data: &'a [u8]) -> impl Future<Output = Result<usize>> + use<'a> {
        at(Location::caller(), self.0.send(data))
    }

    /// As [`send`](Self::send), to the socket at `path`.
    ///
    /// # Errors
    /// As [`UnixStream::connect`] if there is nobody; the datagram is too large.
    ///
    /// # Cancellation
    /// Nothing was sent.
    #[track_caller]
    pub fn send_to<'a, P: AsRef<Path>>(
        &'a self,
        data: &'a [u8],
        path: P,
    ) -> impl Future<Output = Result<usize>> + use<'a, P> {
        at(Location::caller(), async move {
            let path = path.as_ref();
            let failed = |cause| failure("send to", path, cause);
            let address = address(path).map_err(failed)?;
            let flags = SendFlags::NOSIGNAL.bits() as i32;
            loop {
                // A full queue is not the socket's own readiness: `run` is not to wait for that.
                let sent = self.0.run(Direction::Write, || {
                    match self.0.socket.send_to_with_flags(data, &address, flags) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                        sent => sent.map(Some).map_err(failed),
                    }
                });
                if let Some(count) = sent.await? {
                    return Ok(count);
                }
                self.room_at(&address).await?;
            }
        })
    }

    /// Waits until there may be room for a datagram to `address`, after there was none.
    async fn room_at(&self, address: &SockAddr) -> Result<()> {
        let probe = Registered::new(Socket::new(Domain::UNIX, Type::DGRAM, None)?)?;
        // Who is gone now is so for the next attempt to send as well.
        if probe.socket.connect(address).is_err() {
            return Ok(());
        }
        let source = if !writable(&probe)? {
            probe.source()
        } else if !writable(&self.0)? {
            self.0.source()
        } else {
            return Ok(());
        };
        source.clear(Direction::Write);
        source.wait(Direction::Write).await
    }

    /// The address of this end; without a name if it is [`unbound`](Self::unbound).
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(unix(&self.0.socket.local_addr()?)?)
    }

    /// The address of the peer.
    ///
    /// # Errors
    /// The system's: there is none.
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        Ok(unix(&self.0.socket.peer_addr()?)?)
    }
}

fn writable(socket: &Registered) -> io::Result<bool> {
    let mut asked = [PollFd::new(&socket.socket, PollFlags::OUT)];
    Ok(poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0)
}

/// A new socket at a path.
fn bound(kind: Type, path: &Path) -> io::Result<Socket> {
    let bind = || {
        let address = address(path)?;
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        socket.bind(&address)?;
        Ok(socket)
    };
    bind().map_err(|cause| failure("bind to", path, cause))
}

fn address(path: &Path) -> io::Result<SockAddr> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    // A zero at the beginning makes it a name that is no path.
    match path.as_os_str().as_bytes() {
        [] => refused("the path is empty"),
        [0, ..] => SockAddr::unix(path),
        path if path.contains(&0) => refused("the path has a zero byte in it"),
        path if path.len() > 107 => {
            refused("the path is too long: 107 bytes is the most for a socket's")
        }
        _ => SockAddr::unix(path),
    }
}

/// The standard library's form of an address.
fn unix(address: &SockAddr) -> io::Result<SocketAddr> {
    match address.as_abstract_namespace() {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(address.as_pathname().unwrap_or(Path::new(""))),
    }
}

fn sender(address: Option<SocketAddrAny>) -> io::Result<SocketAddr> {
    let address = address.map(SocketAddrUnix::try_from).transpose()?;
    let Some(address) = &address else { return SocketAddr::from_pathname("") };
    match address.abstract_name() {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => {
            let path = address.path_bytes().unwrap_or_default();
            SocketAddr::from_pathname(OsStr::from_bytes(path))
        }
    }
}

/// What could not be done with a path, and why.
#[derive(Debug)]
struct PathFailure {
    verb: &'static str,
    path: PathBuf,
    hint: &'static str,
    cause: io::Error,
}

fn failure(verb: &'static str, path: &Path, cause: io::Error) -> io::Error {
    let is_socket = || fs::metadata(path).map(|found| found.file_type().is_socket());
    let hint = match cause.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => match is_socket() {
            Ok(false) => ", for it exists and is no socket",
            _ => ", for it exists: remove it if whoever has made it is gone",
        },
        Some(Errno::CONNREFUSED) => match is_socket() {
            Ok(false) => ", for it is no socket",
            _ => ", for nobody is there",
        },
        Some(Errno::PROTOTYPE) => ", for it is a socket of another type",
        _ => "",
    };
    let kind = cause.kind();
    io::Error::new(kind, PathFailure { verb, path: path.into(), hint, cause })
}

impl fmt::Display for PathFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PathFailure { verb, path, hint, cause } = self;
        write!(f, "cannot {verb} {path:?}{hint}: {cause}")
    }
}

impl std::error::Error for PathFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl AsFd for UnixListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl AsFd for UnixStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl AsFd for UnixDatagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}
