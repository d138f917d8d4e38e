//! What all sockets have in common.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};
use socket2::{SockAddr, Socket};

use crate::error::{Error, Result};
use crate::kernel::{Direction, Source};
use crate::testing::{address_of, some_of};

/// A socket, and what is known of its readiness. The registration ends before the
/// descriptor is closed, because fields are dropped in the order of their declaration.
pub(super) struct Registered {
    source: SourceGuard,
    pub(super) socket: Socket,
}

struct SourceGuard {
    source: Source,
    /// Somebody else closes it.
    released: bool,
}

impl Drop for SourceGuard {
    fn drop(&mut self) {
        if !self.released {
            self.source.close();
        }
    }
}

impl Registered {
    pub(super) fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let source = SourceGuard { source: Source::new(socket.as_raw_fd()), released: false };
        Ok(Registered { source, socket })
    }

    pub(super) fn source(&self) -> &Source {
        &self.source.source
    }

    /// Its parts. The source is to be closed, or dropped, before the socket is.
    pub(super) fn into_parts(mut self) -> (Source, Socket) {
        self.source.released = true;
        (self.source.source.clone(), self.socket)
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = rustix::net::recv(self.socket.as_fd(), buffer, RecvFlags::empty())?;
        Ok(count)
    }

    pub(super) fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        let data = some_of(self.socket.as_fd(), data);
        // A closed peer is an error, not the end of the process.
        Ok(rustix::net::send(self.socket.as_fd(), data, SendFlags::NOSIGNAL)?)
    }

    pub(super) fn try_accept(&self) -> io::Result<(Self, SockAddr)> {
        let (socket, address) = self.socket.accept()?;
        Ok((Registered::new(socket)?, address))
    }

    /// Calls `operation`, and again whenever the socket is ready, until it does not block.
    pub(super) async fn run<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Result<T> {
        self.source().run(direction, |_: BorrowedFd<'_>| operation()).await
    }

    pub(super) async fn accept(&self) -> Result<(Self, SockAddr)> {
        self.run(Direction::Read, || self.try_accept()).await
    }

    /// Receives of a stream, of which a short read has taken all there was.
    pub(super) async fn recv(&self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = buffer.len();
        let count = self.run(Direction::Read, || self.try_read(buffer)).await?;
        if (1..wanted).contains(&count) {
            self.source().drained();
        }
        Ok(count)
    }

    pub(super) async fn recv_exact(&self, buffer: &mut [u8]) -> Result<()> {
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

    /// Receives one message whole, unless `buffer` is shorter.
    pub(super) async fn recv_message(&self, buffer: &mut [u8]) -> Result<usize> {
        self.run(Direction::Read, || self.try_read(buffer)).await
    }

    /// As `recv_message`, with the sender's address; `None`: it has none.
    pub(super) async fn recv_message_from(
        &self,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> Result<(usize, Option<SocketAddrAny>)> {
        let receive = || {
            let (count, _, address) =
                rustix::net::recvfrom(self.socket.as_fd(), &mut *buffer, flags)?;
            Ok((count, address))
        };
        self.run(Direction::Read, receive).await
    }

    pub(super) async fn send(&self, data: &[u8]) -> Result<usize> {
        self.run(Direction::Write, || self.try_write(data)).await
    }

    pub(super) async fn send_all(&self, data: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            match self.send(&data[done..]).await {
                Ok(count) => done += count,
                Err(error) => return Err(error.with_progress(done)),
            }
        }
        Ok(())
    }
}

pub(super) fn ip(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().or_else(|| address_of(address)).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the socket's address is not an IP address")
    })
}
