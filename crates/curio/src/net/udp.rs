//! UDP.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::Location;

use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};
use socket2::{Domain, Protocol, Socket, Type};

use super::registered::{Registered, ip};
use crate::error::Result;
use crate::kernel::Direction;
use crate::traps::at;

/// A socket for datagrams.
///
/// A datagram arrives whole or not at all; what does not fit into the receiver's buffer is cut off
/// and lost. One task may receive while another sends; so all methods take `&self`.
///
/// # Examples
///
/// ```
/// use curio::net::UdpSocket;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let server = UdpSocket::bind("127.0.0.1:0")?;
///     let client = UdpSocket::bind("127.0.0.1:0")?;
///     client.send_to(b"Hello", server.local_addr()?).await?;
///
///     let mut buffer = [0; 1500];
///     let (count, address) = server.recv_from(&mut buffer).await?;
///     assert_eq!((&buffer[..count], address), (&b"Hello"[..], client.local_addr()?));
///     Ok(())
/// })
/// # }
/// ```
pub struct UdpSocket(Registered);

impl UdpSocket {
    pub(crate) fn of(socket: Socket) -> io::Result<Self> {
        Ok(UdpSocket(Registered::new(socket)?))
    }

    /// A socket at `address`, or at the first of several that can be had; port 0 lets the system
    /// choose (see [`local_addr`](Self::local_addr)).
    ///
    /// Names are looked up by the system, which may block: give a numeric address in a task.
    ///
    /// # Errors
    /// The system's: the port is in use, the address is not ours.
    pub fn bind(address: impl ToSocketAddrs) -> Result<Self> {
        let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address to bind to");
        for address in address.to_socket_addrs()? {
            match Self::bind_one(address) {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = error,
            }
        }
        Err(failure.into())
    }

    fn bind_one(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&address.into())?;
        Ok(UdpSocket(Registered::new(socket)?))
    }

    /// Sets the peer: [`send`](Self::send) goes to it, and only its datagrams are received from
    /// now on. Of several addresses, the first that the system accepts. Nothing is sent.
    ///
    /// Names are looked up as for [`bind`](Self::bind).
    ///
    /// # Errors
    /// The system's: there is no way to the address.
    pub fn connect(&self, address: impl ToSocketAddrs) -> Result<()> {
        let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
        for address in address.to_socket_addrs()? {
            match self.0.socket.connect(&address.into()) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure.into())
    }

    /// Receives a datagram from the peer, or from anybody if there is no peer; gives its length,
    /// at most the buffer's. 0 is an empty datagram.
    ///
    /// # Errors
    /// The system's, such as `ConnectionRefused`: nobody listens where the peer should be;
    /// [`is_busy`](crate::Error::is_busy) if another task is receiving.
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

    /// As [`recv`](Self::recv), with the sender's address.
    #[track_caller]
    pub fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<(usize, SocketAddr)>> + use<'a> {
        self.receive(buffer, RecvFlags::empty())
    }

    /// As [`recv_from`](Self::recv_from), and leaves the datagram to be received again.
    #[track_caller]
    pub fn peek_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<(usize, SocketAddr)>> + use<'a> {
        self.receive(buffer, RecvFlags::PEEK)
    }

    #[track_caller]
    fn receive<'a>(
        &'a self,
        buffer: &'a mut [u8],
        flags: RecvFlags,
    ) -> impl Future<Output = Result<(usize, SocketAddr)>> + use<'a> {
        at(Location::caller(), async move {
            let (count, address) = self.0.recv_message_from(buffer, flags).await?;
            Ok((count, sender(address)?))
        })
    }

    /// Sends `data` as one datagram to the peer, waiting if the system has no room for it.
    ///
    /// # Errors
    /// The system's: there is no peer, the datagram is too large; `ConnectionRefused` if an
    /// earlier one has found nobody. [`is_busy`](crate::Error::is_busy) if another task is sending.
    ///
    /// # Cancellation
    /// Nothing was sent.
    #[track_caller]
    pub fn send<'a>(&'a self, data: &'a [u8]) -> impl Future<Output = Result<usize>> + use<'a> {
        at(Location::caller(), self.0.send(data))
    }

    /// As [`send`](Self::send), to `address`.
    #[track_caller]
    pub fn send_to<'a>(
        &'a self,
        data: &'a [u8],
        address: SocketAddr,
    ) -> impl Future<Output = Result<usize>> + use<'a> {
        at(Location::caller(), async move {
            let send = || {
                let socket = self.0.socket.as_fd();
                Ok(rustix::net::sendto(socket, data, SendFlags::NOSIGNAL, &address)?)
            };
            self.0.run(Direction::Write, send).await
        })
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(ip(&self.0.socket.local_addr()?)?)
    }

    /// The address of the peer.
    ///
    /// # Errors
    /// The system's: [`connect`](Self::connect) has set none.
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        Ok(ip(&self.0.socket.peer_addr()?)?)
    }

    /// Allows sending to a broadcast address (`SO_BROADCAST`).
    ///
    /// # Errors
    /// The system's.
    pub fn set_broadcast(&self, broadcast: bool) -> Result<()> {
        Ok(self.0.socket.set_broadcast(broadcast)?)
    }
}

fn sender(address: Option<SocketAddrAny>) -> io::Result<SocketAddr> {
    let address = address.map(SocketAddr::try_from);
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "the sender has no IP address");
    Ok(address.ok_or_else(unknown)??)
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}
