//! TCP.

use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::Location;

use socket2::{Domain, Protocol, Socket, Type};

use super::connect::{ConnectOptions, connect_registered};
use super::lookup::lookup;
use super::registered::{Registered, ip};
use crate::error::Result;
use crate::kernel::{Direction, Source};
use crate::stream::Transport;
use crate::testing;
use crate::traps::at;

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
        if let Some(network) = testing::network() {
            return Ok(TcpListener(Registered::new(network.listen(address)?)?));
        }
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
    #[track_caller]
    pub fn accept(&self) -> impl Future<Output = Result<(TcpStream, SocketAddr)>> + '_ {
        at(Location::caller(), self.0.run(Direction::Read, || self.try_accept()))
    }

    pub(super) fn source(&self) -> &Source {
        self.0.source()
    }

    pub(super) fn try_accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, address) = self.0.try_accept()?;
        if testing::address_of(&address).is_some()
            && let Some(network) = testing::network()
        {
            network.welcome(&socket.socket);
        }
        Ok((TcpStream(socket), ip(&address)?))
    }
}

/// A connection.
///
/// It can be read by one task while another writes to it; so all methods take `&self`.
pub struct TcpStream(Registered);

impl TcpStream {
    pub(crate) fn of(socket: Socket) -> io::Result<Self> {
        Ok(TcpStream(Registered::new(socket)?))
    }

    /// Connects to `host`, a name or an address: looks it up, and connects to the first of its
    /// addresses that answers.
    ///
    /// The addresses are tried in turn, IPv6 and IPv4 alternating, each 250 ms after the one
    /// before, or at once when one has failed (RFC 8305). So one that does not answer costs a
    /// quarter of a second, not minutes.
    ///
    /// # Errors
    /// Those of [`lookup`](super::lookup). If no address can be connected to, an I/O error that
    /// tells what became of each; its kind, and [`Error::raw_os_error`](crate::Error::raw_os_error), are the first one's.
    ///
    /// # Cancellation
    /// All attempts are given up and their sockets closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use curio::net::{TcpListener, TcpStream};
    ///
    /// # fn main() -> curio::Result<()> {
    /// curio::run(async {
    ///     let listener = TcpListener::bind("127.0.0.1:0")?;
    ///     let address = listener.local_addr()?;
    ///     let stream = TcpStream::open("localhost", address.port()).await?;
    ///     assert_eq!(stream.peer_addr()?, address);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    #[track_caller]
    pub fn open(host: &str, port: u16) -> impl Future<Output = Result<Self>> + use<> {
        Self::open_with(host, port, ConnectOptions::new())
    }

    /// As [`open`](Self::open), with options: the address to connect from.
    #[track_caller]
    pub fn open_with(
        host: &str,
        port: u16,
        options: ConnectOptions,
    ) -> impl Future<Output = Result<Self>> + use<> {
        let addresses = lookup(host, port);
        at(Location::caller(), async move {
            Ok(TcpStream(connect_registered(addresses.await?, options).await?))
        })
    }

    /// Connects to `address`, or to the first of several that answers, as [`open`](Self::open)
    /// tries them.
    ///
    /// It is for numeric addresses. A name is looked up by the system in this thread, and no task
    /// runs meanwhile: use [`open`](Self::open) for names.
    ///
    /// # Errors
    /// As those of [`open`](Self::open).
    ///
    /// # Cancellation
    /// All attempts are given up and their sockets closed.
    #[track_caller]
    pub fn connect<A: ToSocketAddrs>(address: A) -> impl Future<Output = Result<Self>> + use<A> {
        at(Location::caller(), async move {
            let addresses = address.to_socket_addrs()?.collect();
            Ok(TcpStream(connect_registered(addresses, ConnectOptions::new()).await?))
        })
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
    /// What was read is in the buffer; how much, [`Error::bytes_done`](crate::Error::bytes_done) says.
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
        let simulated = testing::address_of(&self.0.socket.local_addr()?).is_some();
        // A simulated network gathers nothing.
        if !simulated {
            self.0.socket.set_tcp_nodelay(nodelay)?;
        }
        Ok(())
    }
}

impl Transport for TcpStream {
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
