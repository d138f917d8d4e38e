//! TCP.

use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::{Error, Result};
use crate::kernel::{Direction, Source};

/// A socket, and what is known of its readiness. The registration ends before the
/// descriptor is closed, because fields are dropped in the order of their declaration.
struct Registered {
    source: SourceGuard,
    socket: Socket,
}

struct SourceGuard(Source);

impl Drop for SourceGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Registered {
    fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let source = SourceGuard(Source::new(socket.as_raw_fd()));
        Ok(Registered { source, socket })
    }

    fn source(&self) -> &Source {
        &self.source.0
    }
}

fn ip(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the socket's address is not an IP address")
    })
}

/// A socket that accepts connections.
///
/// # Examples
///
/// An echo server, with a task for each connection:
///
/// ```
/// use curio::net::{TcpListener, TcpStream};
///
/// async fn echo(client: TcpStream) -> curio::Result<()> {
///     let mut buffer = [0; 1000];
///     loop {
///         let count = client.recv(&mut buffer).await?;
///         if count == 0 {
///             return Ok(());
///         }
///         client.send_all(&buffer[..count]).await?;
///     }
/// }
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let address = listener.local_addr()?;
///     let server = curio::spawn(async move {
///         loop {
///             let (client, _address) = listener.accept().await?;
///             curio::spawn(echo(client));
///         }
///         # #[allow(unreachable_code)]
///         # curio::Result::<()>::Ok(())
///     });
///
///     let client = TcpStream::connect(address).await?;
///     client.send_all(b"Hello").await?;
///     let mut answer = [0; 5];
///     client.recv_exact(&mut answer).await?;
///     assert_eq!(&answer, b"Hello");
///     server.cancel().await?;
///     Ok(())
/// })
/// # }
/// ```
pub struct TcpListener(Registered);

impl TcpListener {
    /// Listens at `address`; port 0 lets the system choose (see [`local_addr`](Self::local_addr)).
    /// The address can be used again at once when the listener is gone.
    ///
    /// Names are looked up by the system, which may block: give a numeric address in a task.
    ///
    /// # Errors
    /// The system's: the port is in use, the address is not ours.
    pub fn bind(address: impl ToSocketAddrs) -> Result<Self> {
        let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address to listen at");
        for address in address.to_socket_addrs()? {
            match Self::bind_one(address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failure = error,
            }
        }
        Err(failure.into())
    }

    fn bind_one(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(TcpListener(Registered::new(socket)?))
    }

    /// The address it listens at.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(ip(&self.0.socket.local_addr()?)?)
    }

    /// Waits for a connection; gives it and the peer's address.
    ///
    /// # Errors
    /// The system's, such as having no descriptor left.
    ///
    /// # Cancellation
    /// No connection is lost.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        let accept = |_: BorrowedFd<'_>| self.0.socket.accept();
        let (socket, address) = self.0.source().run(Direction::Read, accept).await?;
        Ok((TcpStream(Registered::new(socket)?), ip(&address)?))
    }
}

/// A connection.
///
/// It can be read by one task while another writes to it; so all methods take `&self`.
pub struct TcpStream(Registered);

impl TcpStream {
    /// Connects to `address`, or to the first of several that answers.
    ///
    /// Names are looked up by the system, which may block: give a numeric address in a task.
    ///
    /// # Errors
    /// That of the last address tried.
    ///
    /// # Cancellation
    /// The attempt is given up and its socket closed.
    pub async fn connect(address: impl ToSocketAddrs) -> Result<Self> {
        let nothing = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
        let mut failure = Error::from(nothing);
        for address in address.to_socket_addrs()? {
            match Self::connect_one(address).await {
                Err(error) if !error.is_cancellation() => failure = error,
                result => return result,
            }
        }
        Err(failure)
    }

    async fn connect_one(address: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        let stream = Registered::new(socket)?;
        match stream.socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
                stream.source().clear(Direction::Write);
                stream.source().wait(Direction::Write).await?;
                if let Some(error) = stream.socket.take_error()? {
                    return Err(error.into());
                }
            }
            result => result?,
        }
        Ok(TcpStream(stream))
    }

    /// Reads what there is, at most the buffer's length, and waits if there is
    /// nothing. 0 is the end of the stream.
    ///
    /// # Errors
    /// The system's; [`is_busy`](Error::is_busy) if another task is reading.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = buffer.len();
        let recv = |fd: BorrowedFd<'_>| {
            Ok(rustix::net::recv(fd, &mut *buffer, RecvFlags::empty()).map(|(count, _)| count)?)
        };
        let count = self.0.source().run(Direction::Read, recv).await?;
        if (1..wanted).contains(&count) {
            self.0.source().drained();
        }
        Ok(count)
    }

    /// Fills the whole buffer.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); `UnexpectedEof` if the stream ends first.
    ///
    /// # Cancellation
    /// What was read is in the buffer; how much, [`Error::bytes_done`] says.
    pub async fn recv_exact(&self, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.recv(&mut buffer[done..]).await {
                Ok(0) => {
                    let message =
                        format!("the stream ended after {done} of {} bytes", buffer.len());
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, message);
                    return Err(Error::from(error).with_progress(done));
                }
                Ok(count) => done += count,
                Err(error) => return Err(error.with_progress(done)),
            }
        }
        Ok(())
    }

    /// Sends what the system takes of `data`, at least a byte; gives the count.
    ///
    /// # Errors
    /// The system's; [`is_busy`](Error::is_busy) if another task is sending.
    ///
    /// # Cancellation
    /// Nothing was sent.
    pub async fn send(&self, data: &[u8]) -> Result<usize> {
        // A closed peer is an error, not the end of the process.
        let send = |fd: BorrowedFd<'_>| Ok(rustix::net::send(fd, data, SendFlags::NOSIGNAL)?);
        self.0.source().run(Direction::Write, send).await
    }

    /// Sends all of `data`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancellation
    /// Part may have been sent; how much, [`Error::bytes_done`] says.
    pub async fn send_all(&self, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            match self.send(&data[done..]).await {
                Ok(count) => done += count,
                Err(error) => return Err(error.with_progress(done)),
            }
        }
        Ok(())
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
        Ok(ip(&self.0.socket.peer_addr()?)?)
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(ip(&self.0.socket.local_addr()?)?)
    }

    /// Sends small pieces at once instead of gathering them (`TCP_NODELAY`).
    ///
    /// # Errors
    /// The system's.
    pub fn set_nodelay(&self, nodelay: bool) -> Result<()> {
        Ok(self.0.socket.set_tcp_nodelay(nodelay)?)
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}
