//! A connection with one request in flight, plain or over TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustls::{ClientConfig, ClientConnection};

/// How long a connection may take, and its handshake.
pub(crate) const CONNECTING: Duration = Duration::from_secs(10);

/// What a connection's bytes go through.
enum Wire {
    Plain(TcpStream),
    Tls(TcpStream, Box<ClientConnection>),
}

impl Wire {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) | Self::Tls(stream, _) => stream,
        }
    }

    /// A read of less than the buffer's length has taken all there was.
    fn short_read_drains(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Sends the records that the system did not take at once.
    fn flush(&mut self) -> io::Result<()> {
        let Self::Tls(stream, tls) = self else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(data),
            Self::Tls(_, tls) => {
                let size = tls.writer().write(data)?;
                self.flush()?;
                if size == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(size) }
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream, tls) => loop {
                match tls.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    other => return other,
                }
                if tls.read_tls(stream)? == 0 {
                    return Ok(0);
                }
                tls.process_new_packets().map_err(io::Error::other)?;
            },
        }
    }
}

/// One connection: how far its request and the echo of it have come.
pub(crate) struct Connection {
    wire: Wire,
    sent: usize,
    received: usize,
    started: Instant,
    verified: bool,
}

impl Connection {
    /// Connects, and makes the handshake where there is a configuration for one.
    pub(crate) fn open(addr: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&addr, CONNECTING)?;
        stream.set_nodelay(true)?;
        let wire = match tls {
            None => Wire::Plain(stream),
            Some(config) => {
                let name = "localhost".try_into().map_err(io::Error::other)?;
                let mut tls =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                stream.set_read_timeout(Some(CONNECTING))?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut stream)?;
                }
                Wire::Tls(stream, Box::new(tls))
            }
        };
        wire.socket().set_nonblocking(true)?;
        Ok(Self { wire, sent: 0, received: 0, started: Instant::now(), verified: false })
    }

    /// Has its edges told as `place`.
    pub(crate) fn register(&self, poll: &OwnedFd, place: usize) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(poll, self.wire.socket(), EventData::new_u64(place as u64), flags)?)
    }

    /// Whether an echo was compared, and was right.
    pub(crate) fn is_verified(&self) -> bool {
        self.verified
    }

    /// When the request began that is in flight.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Begins a request, one that was due at `due`.
    pub(crate) fn start(&mut self, request: &[u8], due: Instant) -> io::Result<()> {
        self.started = due;
        self.sent = 0;
        self.received = 0;
        self.send(request)
    }

    /// Sends what is left of the request, as far as the system takes it.
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        while self.sent < request.len() {
            match self.wire.write(&request[self.sent..]) {
                Ok(size) => self.sent += size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what has arrived; true when the echo is complete. The buffer is larger
    /// than an echo, so that one read empties a plain socket.
    fn receive(&mut self, request: &[u8], buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            let size = match self.wire.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            let end = self.received + size;
            if end > self.sent || (!self.verified && buffer[..size] != request[self.received..end])
            {
                return Err(ErrorKind::InvalidData.into());
            }
            self.received = end;
            if end == request.len() || self.wire.short_read_drains() {
                return Ok(end == request.len());
            }
        }
    }

    /// One event: how long the echo took that is complete now, if it is, and whether it was
    /// the first.
    pub(crate) fn step(
        &mut self,
        request: &[u8],
        buffer: &mut [u8],
    ) -> io::Result<Option<(Duration, bool)>> {
        self.wire.flush()?;
        if self.sent < request.len() {
            self.send(request)?;
        }
        if !self.receive(request, buffer)? {
            return Ok(None);
        }
        let first = !std::mem::replace(&mut self.verified, true);
        Ok(Some((self.started.elapsed(), first)))
    }
}
