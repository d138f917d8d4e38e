//! TLS over any transport, by `rustls`.
//!
//! A [`TlsStream`] is a [`Transport`] itself: under a [`Stream`](crate::Stream) it has lines, blocks
//! and writes that are gathered. `rustls` only transforms bytes here; ciphertext comes and goes
//! by calls that never wait. So what was encrypted and could not be sent stays in its place, whoever
//! is cancelled, and one task reads while another writes.
//!
//! *Readiness* is the transport's. What was decrypted, or can be without asking the transport, makes a
//! read succeed whatever the poller has said; so whoever leaves something behind says that the
//! source is ready. That a short read has drained the socket is said right after it: later, more
//! may have come, and the poller does not say so twice.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::Location;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::error::Result;
use crate::kernel::{Direction, Source};
use crate::stream::Transport;
use crate::traps::at;

pub use rustls;

/// Begins TLS as a client.
///
/// `name` is the host's, or its address: the server's certificate must be for it.
///
/// # Errors
/// An I/O error: `InvalidInput` if `name` is no name of a host, `InvalidData` if the two do not agree,
/// such as about the certificate (its source is `rustls`'s), `UnexpectedEof` if the peer goes; the
/// transport's. The transport is dropped.
///
/// # Cancellation
/// The transport is dropped.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use curio::Stream;
/// use curio::net::UnixStream;
/// use curio::net::tls::{self, rustls};
/// use rustls::pki_types::PrivatePkcs8KeyDer;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A certificate that the client knows.
/// let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
/// let certificate = made.cert.der().clone();
/// let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
/// let server = rustls::ServerConfig::builder()
///     .with_no_client_auth()
///     .with_single_cert(vec![certificate.clone()], key.into())?;
/// let mut roots = rustls::RootCertStore::empty();
/// roots.add(certificate)?;
/// let client =
///     rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
///
/// curio::run(async {
///     let (one, other) = UnixStream::pair()?;
///     let server = curio::spawn(async move {
///         let stream = Stream::new(tls::accept(other, Arc::new(server)).await?);
///         let line = stream.read_line().await?.unwrap_or_default();
///         stream.write(&line).await?;
///         stream.close().await
///     });
///     let stream = Stream::new(tls::connect(one, "localhost", Arc::new(client)).await?);
///     stream.write(b"Hello\n").await?;
///     assert_eq!(stream.read_line().await?.as_deref(), Some(&b"Hello\n"[..]));
///     assert_eq!(stream.read_line().await?, None);
///     server.join().await
/// })?;
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn connect<T: Transport>(
    transport: T,
    name: &str,
    config: Arc<ClientConfig>,
) -> impl Future<Output = Result<TlsStream<T>>> + use<T> {
    let name = ServerName::try_from(name.to_owned()).map_err(|error| {
        let message = format!("{name:?} is not the name of a host: {error}");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    });
    at(Location::caller(), async move {
        let connection = ClientConnection::new(config, name?).map_err(broken)?;
        shake_hands(transport, connection.into()).await
    })
}

/// Begins TLS as a server.
///
/// # Errors
/// As [`connect`].
///
/// # Cancellation
/// The transport is dropped.
#[track_caller]
pub fn accept<T: Transport>(
    transport: T,
    config: Arc<ServerConfig>,
) -> impl Future<Output = Result<TlsStream<T>>> + use<T> {
    at(Location::caller(), async move {
        let connection = ServerConnection::new(config).map_err(broken)?;
        shake_hands(transport, connection.into()).await
    })
}

async fn shake_hands<T: Transport>(transport: T, mut tls: Connection) -> Result<TlsStream<T>> {
    // How much is encrypted ahead is decided here.
    tls.set_buffer_limit(None);
    let session = Session { tls, input: Vec::new(), start: 0, end: 0, failure: None, said: true };
    let stream = TlsStream { session: RefCell::new(session), transport };
    loop {
        let (transport, session) = (&stream.transport, &stream.session);
        let source = transport.source();
        if session.borrow().tls.wants_write() {
            source.run(Direction::Write, |_| session.borrow_mut().flush(transport)).await?;
        }
        if !session.borrow().tls.is_handshaking() {
            break;
        }
        source.run(Direction::Read, |_| session.borrow_mut().step(transport)).await?;
    }
    // What came with the handshake's last message.
    stream.transport.source().try_again(Direction::Read);
    stream.session.borrow_mut().said = false;
    Ok(stream)
}

/// A transport whose bytes are encrypted.
///
/// Use it through a [`Stream`](crate::Stream). An end of the stream that the peer has not announced
/// (`close_notify`) is `UnexpectedEof`, since somebody else may have made it.
/// [`Stream::shutdown`](crate::Stream::shutdown) announces ours, and reading goes on;
/// [`Stream::close`](crate::Stream::close) does as well, and closes. Neither waits for the peer's answer,
/// and both wait until the system has room: limit that with a timeout. Dropping announces the end
/// if the system takes it at once.
///
/// See [`connect`] for an example.
pub struct TlsStream<T: Transport> {
    session: RefCell<Session>,
    transport: T,
}

struct Session {
    tls: Connection,
    /// Ciphertext that was received and not looked at, between `start` and `end`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Nothing more can be understood.
    failure: Option<rustls::Error>,
    /// Good-bye was said, or nobody expects it.
    said: bool,
}

impl<T: Transport> TlsStream<T> {
    /// What the ciphertext goes through.
    pub fn get_ref(&self) -> &T {
        &self.transport
    }

    /// The protocol that the two have agreed on (ALPN), such as `h2`; `None` if there was no offer.
    pub fn alpn_protocol(&self) -> Option<Vec<u8>> {
        self.session.borrow().tls.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// The peer's certificates, its own first; `None` if it has shown none.
    pub fn peer_certificates(&self) -> Option<Vec<CertificateDer<'static>>> {
        self.session.borrow().tls.peer_certificates().map(<[_]>::to_vec)
    }

    /// Under which name the client has addressed the server (SNI); `None` at the client's end, or
    /// if the client gave none.
    pub fn server_name(&self) -> Option<String> {
        match &self.session.borrow().tls {
            Connection::Server(server) => server.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        }
    }

    /// The version of the protocol.
    pub fn protocol_version(&self) -> Option<rustls::ProtocolVersion> {
        self.session.borrow().tls.protocol_version()
    }
}

impl<T: Transport> Transport for TlsStream<T> {
    fn source(&self) -> &Source {
        self.transport.source()
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session.borrow_mut();
        let read = session.read(&self.transport, buffer);
        if session.has_more() {
            self.source().try_again(Direction::Read);
        }
        read
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.session.borrow_mut().write(&self.transport, data)
    }

    fn try_flush(&self) -> io::Result<()> {
        self.session.borrow_mut().flush(&self.transport)
    }

    fn try_shutdown(&self) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        if !std::mem::replace(&mut session.said, true) {
            session.tls.send_close_notify();
        }
        session.flush(&self.transport)
    }

    fn closing_announces(&self) -> bool {
        false
    }
}

/// How much ciphertext is received at once.
const ROOM: usize = 64 * 1024;

/// How much is encrypted ahead.
const AHEAD: usize = 64 * 1024;

thread_local! {
    /// A session holds a buffer only while something is in it.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// Records that are sent with one call.
    static GATHERED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Session {
    fn read(&mut self, transport: &impl Transport, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.tls.reader().read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
            if filled > 0 && (self.start == self.end || self.failure.is_some()) {
                break;
            }
            self.step(transport)?;
        }
        Ok(filled)
    }

    /// Whether a read would not have to ask the transport.
    fn has_more(&mut self) -> bool {
        self.start < self.end
            || self.failure.is_some()
            || match self.tls.reader().into_first_chunk() {
                Ok(_) => true,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            }
    }

    /// Decrypts some of what has come; asks the transport if nothing has.
    fn step(&mut self, transport: &impl Transport) -> io::Result<()> {
        if let Some(failure) = &self.failure {
            return Err(broken(failure.clone()));
        }
        if self.start == self.end && self.receive(transport)? == 0 {
            self.tls.read_tls(&mut io::empty())?;
            if self.tls.is_handshaking() {
                let message = "the peer has gone in the middle of the handshake";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            return Ok(());
        }
        let taken = self.tls.read_tls(&mut &self.input[self.start..self.end])?;
        // 0: the peer has said good-bye, and what comes after that is nobody's.
        self.start = if taken == 0 { self.end } else { self.start + taken };
        if self.start == self.end {
            SPARE.set(std::mem::take(&mut self.input));
        }
        let processed = self.tls.process_new_packets();
        // The protocol's answers, such as an alert. What cannot be sent now goes with the next
        // write, and errors are for the writer.
        let _ = self.flush(transport);
        processed.map(drop).map_err(|failure| {
            self.failure = Some(failure.clone());
            broken(failure)
        })
    }

    fn receive(&mut self, transport: &impl Transport) -> io::Result<usize> {
        let source = transport.source();
        if !source.ready(Direction::Read) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut room = SPARE.take();
        if room.len() < ROOM {
            room = vec![0; ROOM];
        }
        let received = transport.try_read(&mut room);
        match received {
            Ok(count) if count > 0 => {
                if count < room.len() && transport.short_read_drains() {
                    source.drained();
                }
                (self.input, self.start, self.end) = (room, 0, count);
            }
            _ => SPARE.set(room),
        }
        received
    }

    fn write(&mut self, transport: &impl Transport, data: &[u8]) -> io::Result<usize> {
        if self.said {
            let message = "the end of what is written was announced already";
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, message));
        }
        self.flush(transport)?;
        let count = self.tls.writer().write(&data[..data.len().min(AHEAD)])?;
        match self.flush(transport) {
            // It is encrypted: it will be sent before anything else.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(count),
            flushed => flushed.map(|()| count),
        }
    }

    fn flush(&mut self, transport: &impl Transport) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Outlet(transport)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => drop(sent?),
            }
        }
        transport.try_flush()
    }
}

/// Where `rustls` writes ciphertext to.
struct Outlet<'a, T>(&'a T);

impl<T: Transport> Write for Outlet<'_, T> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.try_write(data)
    }

    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [record] = records {
            return self.write(record);
        }
        let mut all = GATHERED.take();
        records.iter().for_each(|record| all.extend_from_slice(record));
        let sent = self.write(&all);
        all.clear();
        if all.capacity() <= 4 * AHEAD {
            GATHERED.set(all);
        }
        sent
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: Transport> Drop for TlsStream<T> {
    fn drop(&mut self) {
        let session = self.session.get_mut();
        if !std::mem::replace(&mut session.said, true) {
            session.tls.send_close_notify();
        }
        let _ = session.flush(&self.transport);
        // Were something left unread, such as a ticket for later sessions, the system would
        // break the connection off, and the peer might lose what we have sent.
        let mut unread = [0; 4096];
        for _ in 0..64 {
            if !self.transport.try_read(&mut unread).is_ok_and(|count| count > 0) {
                break;
            }
        }
    }
}

impl<T: Transport + AsFd> AsFd for TlsStream<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

impl<T: Transport> fmt::Debug for TlsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("version", &self.protocol_version())
            .finish_non_exhaustive()
    }
}

fn broken(failure: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, failure)
}
