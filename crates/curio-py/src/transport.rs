//! What bytes of Python programs go through: sockets, files, objects like sockets, TLS.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use curio::Transport;
use curio::embed::{Direction, Link, Source};
use pyo3::exceptions::{PyBlockingIOError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};
use rustix::net::{RecvFlags, SendFlags};

use crate::object::Object;

/// One of them. The descriptor belongs to an object of the standard library's, which outlives the
/// source: `Source::close` comes before it is closed.
pub(crate) struct Channel {
    source: Source,
    kind: Kind,
}

pub(crate) enum Kind {
    /// Bytes come as a stream, or in datagrams. Those of UDP over IPv4 have addresses that are
    /// translated here.
    Socket {
        stream: bool,
        udp: bool,
    },
    /// A pipe or something else that has a descriptor.
    File {
        pipe: bool,
    },
    /// An object with the methods of a socket.
    Methods(Object),
    Tls(Tls),
}

impl Channel {
    pub(crate) fn new(fd: RawFd, kind: Kind) -> Channel {
        Channel { source: Source::new(fd), kind }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        match &self.kind {
            Kind::Tls(tls) => Some(tls),
            _ => None,
        }
    }

    /// Fetches ciphertext.
    pub(crate) fn feed(&self) -> io::Result<()> {
        self.tls().map_or(Ok(()), |tls| tls.feed(&self.source))
    }
}

/// What must have been said before bytes can go through: TLS's handshake.
pub(crate) async fn open(link: &Rc<Link<Channel>>) -> curio::Result<()> {
    match link.transport().tls() {
        Some(tls) if !tls.agreed.get() => converse(link, "do_handshake").await,
        _ => Ok(()),
    }
}

/// A conversation of TLS's own: `do_handshake` or `shutdown`.
pub(crate) async fn converse(link: &Rc<Link<Channel>>, method: &str) -> curio::Result<()> {
    let channel = link.transport();
    let Some(tls) = channel.tls() else { return Ok(()) };
    loop {
        match tls.step(method) {
            Ok(()) => {
                // After a good-bye, what comes is not TLS.
                tls.agreed.set(method == "do_handshake");
                // What was fetched may hold more than this conversation's.
                channel.source().try_again(Direction::Read);
                return link.flush().await;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // The alert that tells the peer.
                let _ = channel.try_flush();
                return Err(error.into());
            }
        }
        link.flush().await?;
        channel.source().run(Direction::Read, |_| channel.feed()).await?;
    }
}

fn attached<'py>() -> Python<'py> {
    // SAFETY: transports are used by operations, which slots poll in attached threads, and by the
    // kernel between two resumptions, which runs in an attached thread.
    unsafe { Python::assume_attached() }
}

pub(crate) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: u32) -> io::Result<usize> {
    let flags = RecvFlags::from_bits_retain(flags);
    Ok(rustix::net::recv(fd, buffer, flags).map(|(length, _)| length)?)
}

pub(crate) fn send(fd: BorrowedFd<'_>, data: &[u8], flags: u32) -> io::Result<usize> {
    // A closed peer is an error, not a signal.
    let flags = SendFlags::from_bits_retain(flags) | SendFlags::NOSIGNAL;
    Ok(rustix::net::send(fd, curio::testing::some_of(fd, data), flags)?)
}

pub(crate) fn recv_from(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: u32,
) -> io::Result<(usize, SocketAddrV4)> {
    let flags = RecvFlags::from_bits_retain(flags);
    let (length, _, sender) = rustix::net::recvfrom(fd, buffer, flags)?;
    let sender = sender.and_then(|sender| SocketAddrV4::try_from(sender).ok());
    Ok((length, sender.unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))))
}

pub(crate) fn send_to(
    fd: BorrowedFd<'_>,
    data: &[u8],
    flags: u32,
    address: SocketAddrV4,
) -> io::Result<usize> {
    let flags = SendFlags::from_bits_retain(flags) | SendFlags::NOSIGNAL;
    Ok(rustix::net::sendto(fd, data, flags, &address)?)
}

/// What a method has raised, as the error of an operation.
pub(crate) fn raised(py: Python<'_>, error: PyErr) -> io::Error {
    if error.is_instance_of::<PyBlockingIOError>(py) || wants(py, &error, "SSLWantReadError") {
        return io::ErrorKind::WouldBlock.into();
    }
    io::Error::other(error)
}

/// Whether it is an exception of that name of the module `ssl`, if somebody has loaded that.
fn wants(py: Python<'_>, error: &PyErr, name: &str) -> bool {
    // Rare, and its name is nobody else's.
    error.get_type(py).name().is_ok_and(|found| found == name)
}

impl Transport for Channel {
    fn source(&self) -> &Source {
        &self.source
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.kind {
            Kind::Socket { .. } => recv(self.source.fd()?, buffer, 0),
            Kind::File { .. } => Ok(rustix::io::read(self.source.fd()?, buffer)?),
            Kind::Methods(object) => {
                let py = attached();
                let recv = pyo3::intern!(py, "recv");
                let data = object.bind(py).call_method1(recv, (buffer.len(),));
                copy(&data.map_err(|error| raised(py, error))?, buffer)
            }
            Kind::Tls(tls) => tls.read(&self.source, buffer),
        }
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        match &self.kind {
            Kind::Socket { .. } => send(self.source.fd()?, data, 0),
            Kind::File { .. } => Ok(rustix::io::write(self.source.fd()?, data)?),
            Kind::Methods(object) => {
                let py = attached();
                let data = PyBytes::new(py, data);
                let most = data.as_bytes().len();
                let sent = object.bind(py).call_method1(pyo3::intern!(py, "send"), (data,));
                let sent = sent.and_then(|sent| sent.extract::<usize>());
                Ok(sent.map_err(|error| raised(py, error))?.min(most))
            }
            Kind::Tls(tls) => tls.write(&self.source, data),
        }
    }

    fn try_flush(&self) -> io::Result<()> {
        self.tls().map_or(Ok(()), |tls| tls.flush(&self.source))
    }

    fn short_read_drains(&self) -> bool {
        match self.kind {
            Kind::Socket { stream, .. } => stream,
            Kind::File { pipe } => pipe,
            // TLS knows when its socket is drained, and whether it has more itself.
            Kind::Methods(_) | Kind::Tls(_) => false,
        }
    }
}

/// The content of a bytes object.
fn copy(data: &Bound<'_, PyAny>, buffer: &mut [u8]) -> io::Result<usize> {
    let data = data.cast::<PyBytes>().map_err(|error| io::Error::other(PyErr::from(error)))?;
    let data = data.as_bytes();
    let Some(room) = buffer.get_mut(..data.len()) else {
        let (asked, given) = (buffer.len(), data.len());
        let message = format!("recv({asked}) of the object below has given {given} bytes");
        return Err(io::Error::other(PyValueError::new_err(message)));
    };
    room.copy_from_slice(data);
    Ok(data.len())
}

/// TLS by the standard library's `ssl`, which only transforms bytes here: ciphertext comes and
/// goes by our own calls. So what was encrypted and could not be sent stays in its place, whoever
/// is cancelled, and one task can read while another writes.
pub(crate) struct Tls {
    /// The `_ssl._SSLSocket`.
    object: Object,
    /// Its two `MemoryBIO`s.
    incoming: Object,
    outgoing: Object,
    /// Ciphertext on its way out.
    unsent: RefCell<Vec<u8>>,
    /// Nothing can be decrypted before more has come.
    starved: Cell<bool>,
    /// The two have agreed on how to talk.
    agreed: Cell<bool>,
    /// The peer will say no more.
    ended: Cell<bool>,
    /// An end of the connection is an end of the stream, though the peer has not said so.
    lenient: bool,
}

impl Tls {
    pub(crate) fn new(object: Object, incoming: Object, outgoing: Object, lenient: bool) -> Tls {
        Tls {
            object,
            incoming,
            outgoing,
            unsent: RefCell::default(),
            starved: Cell::new(true),
            agreed: Cell::new(false),
            ended: Cell::new(false),
            lenient,
        }
    }

    /// Others have used the objects: there may be something to decrypt.
    pub(crate) fn look_again(&self, source: &Source) {
        self.starved.set(false);
        source.try_again(Direction::Read);
    }

    /// Fetches ciphertext.
    fn feed(&self, source: &Source) -> io::Result<()> {
        const ROOM: usize = 64 * 1024;
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM]);
        }
        let py = attached();
        let fd = source.fd()?;
        let data = BUFFER.with_borrow_mut(|buffer| {
            let count = recv(fd, buffer, 0)?;
            if (1..ROOM).contains(&count) {
                // At once: what comes from now on, the poller tells.
                source.drained();
            }
            io::Result::Ok(PyBytes::new(py, &buffer[..count]))
        })?;
        let incoming = self.incoming.bind(py);
        let fed = if data.as_bytes().is_empty() {
            incoming.call_method0(pyo3::intern!(py, "write_eof"))
        } else {
            incoming.call_method1(pyo3::intern!(py, "write"), (data,))
        };
        fed.map_err(|error| raised(py, error))?;
        self.starved.set(false);
        Ok(())
    }

    fn read(&self, source: &Source, buffer: &mut [u8]) -> io::Result<usize> {
        let py = attached();
        if self.ended.get() || buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.starved.get() {
                self.feed(source)?;
            }
            match self.decrypt(py, buffer) {
                Ok(count) => {
                    self.ended.set(count == 0);
                    self.look(py, source).map_err(|error| raised(py, error))?;
                    return Ok(count);
                }
                Err(error) if wants(py, &error, "SSLWantReadError") => {
                    self.starved.set(true);
                    // An answer that the protocol wants, such as to a change of keys.
                    self.collect(py).map_err(|error| raised(py, error))?;
                    if let Err(error) = self.flush(source)
                        && error.kind() != io::ErrorKind::WouldBlock
                    {
                        return Err(error);
                    }
                    if !source.ready(Direction::Read) {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
                // The peer has said that it is the end, or has just gone: as the standard
                // library has it, unless one asks for the difference.
                Err(error)
                    if wants(py, &error, "SSLZeroReturnError")
                        || self.lenient && wants(py, &error, "SSLEOFError") =>
                {
                    self.ended.set(true);
                    return Ok(0);
                }
                Err(error) => return Err(raised(py, error)),
            }
        }
    }

    /// Some of what has come, a record at most.
    fn decrypt(&self, py: Python<'_>, buffer: &mut [u8]) -> PyResult<usize> {
        const RECORD: usize = 16 * 1024;
        // Left to itself, `read` makes an object of the size that is asked for, and cuts it down to
        // what has come: something small then lies where something large had been, and the heap
        // grows and grows. While one of these is used, the lock of the interpreter is not held.
        static SPARE: Mutex<Vec<Py<PyByteArray>>> = Mutex::new(Vec::new());
        let spare = || SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        let room = match spare().pop() {
            Some(room) => room.into_bound(py),
            None => PyByteArray::new(py, &[0; RECORD]),
        };
        let asked = (buffer.len().min(RECORD), &room);
        let read = self.object.bind(py).call_method1(pyo3::intern!(py, "read"), asked);
        let count = read.and_then(|count| {
            let count = count.extract()?;
            // SAFETY: `as_bytes` wants that nothing changes the object while the slice lives. Nobody
            // else has it, for it was taken out of SPARE, `read` has returned, and the collector,
            // through which objects can be found, does not track byte arrays; and we are attached.
            let content = unsafe { room.as_bytes() };
            buffer.iter_mut().zip(content).take(count).for_each(|(to, from)| *to = *from);
            Ok(count)
        });
        spare().push(room.unbind());
        count
    }

    /// After a read: if there is more without asking the socket, the next one need not wait.
    fn look(&self, py: Python<'_>, source: &Source) -> PyResult<()> {
        let incoming = self.incoming.bind(py);
        let more = incoming.getattr(pyo3::intern!(py, "pending"))?.is_truthy()?
            || self.object.bind(py).call_method0(pyo3::intern!(py, "pending"))?.is_truthy()?
            || incoming.getattr(pyo3::intern!(py, "eof"))?.is_truthy()?;
        self.starved.set(!more);
        if more {
            source.try_again(Direction::Read);
        }
        Ok(())
    }

    fn write(&self, source: &Source, data: &[u8]) -> io::Result<usize> {
        // What one call encrypts: more would only lie in memory.
        const MOST: usize = 256 * 1024;
        self.flush(source)?;
        let py = attached();
        let data = PyBytes::new(py, &data[..data.len().min(MOST)]);
        let written = self.object.bind(py).call_method1(pyo3::intern!(py, "write"), (data,));
        let written = written.and_then(|written| {
            self.collect(py)?;
            written.extract::<usize>()
        });
        let written = written.map_err(|error| raised(py, error))?;
        match self.flush(source) {
            // It is encrypted: it will be sent before anything else.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(written),
            other => other.map(|()| written),
        }
    }

    /// Takes over what the protocol wants to send.
    fn collect(&self, py: Python<'_>) -> PyResult<()> {
        let outgoing = self.outgoing.bind(py);
        if outgoing.getattr(pyo3::intern!(py, "pending"))?.is_truthy()? {
            let data = outgoing.call_method0(pyo3::intern!(py, "read"))?;
            self.unsent.borrow_mut().extend_from_slice(data.cast::<PyBytes>()?.as_bytes());
        }
        Ok(())
    }

    /// Sends ciphertext.
    fn flush(&self, source: &Source) -> io::Result<()> {
        let mut unsent = self.unsent.borrow_mut();
        while !unsent.is_empty() {
            let fd = source.fd()?;
            match send(fd, &unsent, 0) {
                Ok(count) if count == unsent.len() => unsent.clear(),
                Ok(count) => drop(unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    unsent.clear();
                    return Err(error);
                }
            }
        }
        if unsent.capacity() > 64 * 1024 {
            *unsent = Vec::new();
        }
        Ok(())
    }

    /// One step of a conversation of the protocol's own: `do_handshake` or `shutdown`. `WouldBlock`
    /// if it wants more from the peer.
    fn step(&self, method: &str) -> io::Result<()> {
        let py = attached();
        let stepped = self.object.bind(py).call_method0(method);
        let collected = self.collect(py);
        stepped
            .and(collected.map(|()| py.None().into_bound(py)))
            .map_err(|error| raised(py, error))?;
        Ok(())
    }

    /// Says good-bye, if that can be done at once.
    pub(crate) fn say_goodbye(&self, source: &Source) {
        if !self.agreed.get() {
            return;
        }
        let _ = self.step("shutdown");
        let _ = self.flush(source);
        // Were something left unread, such as a ticket for later sessions, the system would
        // break the connection off, and the peer might lose what we have sent.
        let mut unread = [0; 4096];
        let mut most = 64;
        while most > 0
            && source.fd().is_ok_and(|fd| recv(fd, &mut unread, 0).is_ok_and(|count| count > 0))
        {
            most -= 1;
        }
    }
}
