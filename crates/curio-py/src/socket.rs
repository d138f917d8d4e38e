//! Sockets in Python: the operations that are worth doing natively.
//!
//! `curio.io.Socket` wraps a socket of the standard library; this is its base class. The calls
//! that carry most data are made on the descriptor directly; the rest are the methods of the
//! wrapped socket, tried again when there is something to do.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use curio::Transport;
use curio::embed::{Acceptor, Direction, Link, Source};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::error;
use crate::function::Call;
use crate::kernel;
use crate::object::{Object, Outcome, Raised, take_error, text_of};
use crate::op::{self, Instant, Keep, Mapped, make_type, slot};
use crate::transport::{self, Channel, Kind, Tls};

#[repr(C)]
pub(crate) struct SocketObject {
    base: ffi::PyObject,
    inner: Inner,
}

#[derive(Default)]
struct Inner {
    /// The standard library's socket; `None` until `_attach`.
    socket: RefCell<Option<Object>>,
    /// Shared with the streams over the socket; `None` once it is closed.
    link: RefCell<Option<Rc<Link<Channel>>>>,
    /// A server's.
    acceptor: RefCell<Option<Rc<Acceptor>>>,
}

static BASE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// # Safety
/// `object` is a live socket object, and outlives the use of the result.
unsafe fn inner<'a>(object: *mut ffi::PyObject) -> &'a Inner {
    // SAFETY: the caller's promise. Only cells in it change.
    unsafe { &(*object.cast::<SocketObject>()).inner }
}

/// The socket of a method's call.
fn this<'a>(call: &Call<'a>) -> PyResult<&'a Inner> {
    let object = call.ptr(0);
    // SAFETY: a live object; the base class was made by `init`.
    if unsafe { ffi::PyObject_TypeCheck(object, BASE.load(Relaxed)) } == 0 {
        return Err(PyTypeError::new_err("a method of Socket was called on something else"));
    }
    // SAFETY: it is a socket, and the caller keeps its arguments alive during the call.
    Ok(unsafe { inner(object) })
}

fn link(call: &Call<'_>) -> PyResult<Rc<Link<Channel>>> {
    let link = this(call)?.link.borrow().clone();
    link.ok_or_else(|| {
        // SAFETY: operations are called in attached threads.
        closed(unsafe { Python::assume_attached() })
    })
}

/// A closed socket: the same error that the system would give.
pub(crate) fn closed(py: Python<'_>) -> PyErr {
    error::os_error(py, rustix::io::Errno::BADF.raw_os_error()).unwrap_or_else(|error| error)
}

fn source(call: &Call<'_>) -> PyResult<Source> {
    Ok(link(call)?.transport().source().clone())
}

/// The link of a Python object, if that is an open socket of ours.
pub(crate) fn link_of(object: &Bound<'_, PyAny>) -> PyResult<Rc<Link<Channel>>> {
    let object_ptr = object.as_ptr();
    // SAFETY: a live object; the base class was made by `init`.
    if unsafe { ffi::PyObject_TypeCheck(object_ptr, BASE.load(Relaxed)) } == 0 {
        let message =
            format!("a curio socket is wanted, not {}", text_of(object.get_type().as_any()));
        return Err(PyTypeError::new_err(message));
    }
    // SAFETY: it is a socket, alive while it is bound.
    unsafe { inner(object_ptr) }.link.borrow().clone().ok_or_else(|| closed(object.py()))
}

fn flags(call: &Call<'_>, py: Python<'_>, index: usize) -> PyResult<u32> {
    Ok(call.get(py, index).extract::<i32>()? as u32)
}

// Reading.

/// Up to this size, bytes are read into a buffer first, and copied into an object of just
/// their length; beyond it, into the object itself.
const SMALL: usize = 64 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// `recv(maxsize, flags=0)`
pub(crate) fn recv(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let wanted: isize = call.get(py, 1).extract()?;
    let Ok(wanted) = usize::try_from(wanted) else {
        let message = format!("recv() needs a positive number of bytes, not {wanted}");
        return Err(PyValueError::new_err(message).into());
    };
    let flags = flags(call, py, 2)?;
    let link = link(call)?;
    if wanted == 0 {
        // There is nothing to wait for; the system would say so.
        let nothing =
            |_: Python<'_>, _: &Keep| bytes(None, 0).map_err(|error| PyErr::from(error).into());
        return op::new(call.function, Some(call.object(0)), Instant::new(nothing));
    }
    // A short read says that nothing is left only of a stream, and only if it has taken it away.
    let shortens = match link.transport().kind() {
        Kind::Socket { stream, .. } => *stream && flags == 0,
        _ => {
            plain(&link, flags)?;
            return recv_through(call, link, wanted);
        }
    };
    let source = link.transport().source().clone();
    let receive = async move {
        let read = |fd: BorrowedFd<'_>| receive(wanted, |room| transport::recv(fd, room, flags));
        let bytes = source.run(Direction::Read, read).await?;
        if shortens && (1..wanted).contains(&bytes.length) {
            source.drained();
        }
        Ok(bytes.object)
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(receive, |_, _, bytes| Ok(bytes)))
}

/// Refuses flags, unless it is the system that gets them.
fn plain(link: &Link<Channel>, flags: u32) -> PyResult<()> {
    if flags == 0 || matches!(link.transport().kind(), Kind::Socket { .. }) {
        return Ok(());
    }
    let message = format!("flags are for plain sockets: this one takes none, not {flags:#x}");
    Err(PyValueError::new_err(message))
}

/// The same by other means than the system's call.
fn recv_through(call: &Call<'_>, link: Rc<Link<Channel>>, wanted: usize) -> Outcome {
    let receive = async move {
        transport::open(&link).await?;
        let channel = link.transport();
        let read = |_: BorrowedFd<'_>| receive(wanted, |room| channel.try_read(room));
        Ok(channel.source().run(Direction::Read, read).await?.object)
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(receive, |_, _, bytes| Ok(bytes)))
}

struct Received {
    object: Object,
    length: usize,
}

fn receive(
    wanted: usize,
    recv: impl FnOnce(&mut [u8]) -> io::Result<usize>,
) -> io::Result<Received> {
    if wanted <= SMALL {
        // Taken out, for `recv` may call Python code, and that come back here.
        let mut buffer = BUFFER.take();
        if buffer.len() < wanted {
            buffer.resize(SMALL, 0);
        }
        let received = recv(&mut buffer[..wanted]).and_then(|length| {
            Ok(Received { object: bytes(Some(&buffer[..length]), length)?, length })
        });
        BUFFER.set(buffer);
        return received;
    }
    let object = bytes(None, wanted)?;
    // SAFETY: a new bytes object has room for `wanted` bytes, and nobody else has seen it.
    let room = unsafe {
        std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(object.as_ptr()).cast::<u8>(), wanted)
    };
    let length = recv(room)?;
    let mut object = object.into_ptr();
    // SAFETY: a bytes object with one reference, ours, which the call takes over and gives back,
    // perhaps at another address; null with the error set if there is no memory.
    let object = unsafe {
        _PyBytes_Resize(&mut object, length as ffi::Py_ssize_t);
        Object::owned(object)
    };
    Ok(Received { object: object.map_err(out_of_memory)?, length })
}

unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> c_int;
}

/// A bytes object: a copy of `content`, or with room for `length` bytes.
pub(crate) fn bytes(content: Option<&[u8]>, length: usize) -> io::Result<Object> {
    let start = content.map_or(ptr::null(), <[u8]>::as_ptr);
    let length = ffi::Py_ssize_t::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // SAFETY: attached: operations are polled by slots. `start` is null, for room only, or the
    // start of `length` bytes.
    let object = unsafe { Object::owned(ffi::PyBytes_FromStringAndSize(start.cast(), length)) };
    object.map_err(out_of_memory)
}

fn out_of_memory(raised: Raised) -> io::Error {
    // SAFETY: as in `bytes`.
    io::Error::other(take_error(unsafe { Python::assume_attached() }, raised))
}

// Writing.

/// What is to be sent.
pub(crate) enum Data {
    /// A bytes object, whose memory stays in place as long as it lives.
    Bytes(Object),
    /// The memory of an object that was asked for its buffer. In a box, for some exporters want
    /// it back at the same address.
    View(Box<ffi::Py_buffer>),
}

impl Data {
    pub(crate) fn of(data: &Bound<'_, PyAny>) -> PyResult<Data> {
        // SAFETY: a live object.
        if unsafe { ffi::PyBytes_CheckExact(data.as_ptr()) } != 0 {
            return Ok(Data::Bytes(data.clone().into()));
        }
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: a live object, and memory for the result.
        let got = unsafe { ffi::PyObject_GetBuffer(data.as_ptr(), &mut *view, ffi::PyBUF_SIMPLE) };
        if got < 0 {
            return Err(PyErr::fetch(data.py()));
        }
        Ok(Data::View(view))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let (start, length) = match self {
            // SAFETY: a bytes object.
            Data::Bytes(bytes) => unsafe {
                (ffi::PyBytes_AS_STRING(bytes.as_ptr()), ffi::PyBytes_Size(bytes.as_ptr()))
            },
            Data::View(view) => (view.buf.cast_const().cast(), view.len),
        };
        if length == 0 {
            return &[];
        }
        // SAFETY: a bytes object does not change; an exporter keeps that much memory in place
        // until the view is released. Both happen after the borrow of `self`.
        unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length as usize) }
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        if let Data::View(view) = self {
            // SAFETY: filled by `PyObject_GetBuffer`, and released once, by an attached thread:
            // data live in ops.
            unsafe { ffi::PyBuffer_Release(&mut **view) }
        }
    }
}

/// `send(data, flags=0)`
pub(crate) fn send(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let data = Data::of(&call.get(py, 1))?;
    let flags = flags(call, py, 2)?;
    let link = link(call)?;
    plain(&link, flags)?;
    let send = async move { send_some(&link, data.bytes(), flags).await };
    let count = |py: Python<'_>, _: &Keep, sent: usize| Ok(number(py, sent)?);
    op::new(call.function, Some(call.object(0)), Mapped::new(send, count))
}

pub(crate) fn number(py: Python<'_>, number: usize) -> PyResult<Object> {
    Ok(number.into_pyobject(py)?.into_any().into())
}

/// Sends some of `data`, behind what streams have written.
async fn send_some(link: &Rc<Link<Channel>>, data: &[u8], flags: u32) -> curio::Result<usize> {
    if let Kind::Socket { .. } = link.transport().kind() {
        if !link.is_clear() {
            link.flush().await?;
        }
        let send = |fd: BorrowedFd<'_>| transport::send(fd, data, flags);
        link.transport().source().run(Direction::Write, send).await
    } else {
        transport::open(link).await?;
        let sent = link.send(data).await?;
        // What is encrypted counts as sent: the kernel goes on with it by itself.
        link.try_flush()?;
        Ok(sent)
    }
}

/// Sends all of `data`; says how much was sent.
async fn send_whole(
    link: &Rc<Link<Channel>>,
    data: &[u8],
    flags: u32,
) -> (usize, Option<curio::Error>) {
    if !matches!(link.transport().kind(), Kind::Socket { .. }) {
        if let Err(error) = transport::open(link).await {
            return (0, Some(error));
        }
        let (sent, result) = link.send_all(data).await;
        return (sent, result.err());
    }
    let mut sent = 0;
    while sent < data.len() {
        match send_some(link, &data[sent..], flags).await {
            Ok(count) => sent += count,
            Err(error) => return (sent, Some(error)),
        }
    }
    (sent, None)
}

/// `sendall(data, flags=0)`
pub(crate) fn sendall(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let data = Data::of(&call.get(py, 1))?;
    let flags = flags(call, py, 2)?;
    let link = link(call)?;
    plain(&link, flags)?;
    let send = async move { Ok(send_whole(&link, data.bytes(), flags).await) };
    let done = |py: Python<'_>, _: &Keep, (sent, failure): (usize, Option<curio::Error>)| {
        let Some(failure) = failure else { return Ok(Object::none()) };
        Err(with_progress(py, &failure, "bytes_sent", &number(py, sent)?)?.into())
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(send, done))
}

/// The exception for `failure`, which says as `attribute` how far the operation has come.
pub(crate) fn with_progress(
    py: Python<'_>,
    failure: &curio::Error,
    attribute: &str,
    done: &Object,
) -> PyResult<PyErr> {
    let failure = error::to_python(py, failure)?;
    failure.value(py).setattr(attribute, done.bind(py))?;
    Ok(failure)
}

/// `_flush()`: until what streams have written has been sent.
pub(crate) fn flush(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let link = link(call)?;
    let flush = async move { link.flush().await };
    op::new(call.function, Some(call.object(0)), Mapped::new(flush, |_, _, ()| Ok(Object::none())))
}

// What the wrapped socket does itself.

/// A method of the wrapped socket, with the call's arguments, until it does not block.
pub(crate) fn method(
    py: Python<'_>,
    call: &Call<'_>,
    name: &'static str,
    direction: Direction,
) -> Outcome {
    let link = link(call)?;
    let socket = this(call)?.socket.borrow().clone().unwrap_or_else(Object::none);
    let method = Object::from(socket.bind(py).getattr(name)?);
    let arguments = (1..call.count()).map(|place| call.get(py, place));
    let arguments = Object::from(PyTuple::new(py, arguments)?.into_any());
    run_method(call, link, method, arguments, direction)
}

/// The same for `method(data, *arguments)`.
pub(crate) fn method_varargs(
    py: Python<'_>,
    call: &Call<'_>,
    name: &'static str,
    direction: Direction,
) -> Outcome {
    let link = link(call)?;
    let socket = this(call)?.socket.borrow().clone().unwrap_or_else(Object::none);
    let method = Object::from(socket.bind(py).getattr(name)?);
    let rest = call.get(py, 2);
    let arguments =
        std::iter::once(call.get(py, 1)).chain(rest.cast::<PyTuple>().map_err(PyErr::from)?.iter());
    let arguments = PyTuple::new(py, arguments.collect::<Vec<_>>())?.into_any();
    run_method(call, link, method, arguments.into(), direction)
}

fn run_method(
    call: &Call<'_>,
    link: Rc<Link<Channel>>,
    method: Object,
    arguments: Object,
    direction: Direction,
) -> Outcome {
    let run = async move {
        if direction == Direction::Write && !link.is_clear() {
            link.flush().await?;
        }
        let call = |_: BorrowedFd<'_>| {
            // SAFETY: attached: operations are polled by slots.
            let py = unsafe { Python::assume_attached() };
            let arguments = arguments.bind(py);
            let arguments = arguments.cast::<PyTuple>().map_err(PyErr::from);
            let called = arguments.and_then(|arguments| method.bind(py).call1(arguments));
            called.map(Object::from).map_err(|error| transport::raised(py, error))
        };
        link.transport().source().run(direction, call).await
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(run, |_, _, result| Ok(result)))
}

/// `recvfrom(bufsize, flags=0)`
pub(crate) fn recvfrom(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let link = link(call)?;
    let wanted = call.get(py, 1).extract::<usize>();
    let (Ok(wanted @ 1..), Kind::Socket { udp: true, .. }) = (wanted, link.transport().kind())
    else {
        return method(py, call, "recvfrom", Direction::Read);
    };
    let flags = flags(call, py, 2)?;
    let source = link.transport().source().clone();
    let receive = async move {
        let read = |fd: BorrowedFd<'_>| {
            let mut sender = None;
            let received = receive(wanted, |room| {
                let (length, address) = transport::recv_from(fd, room, flags)?;
                sender = Some(address);
                Ok(length)
            });
            Ok((received?.object, sender))
        };
        source.run(Direction::Read, read).await
    };
    let pair = |py: Python<'_>, _: &Keep, (data, sender): (Object, Option<SocketAddrV4>)| {
        let sender = sender.map(|sender| (sender.ip().to_string(), sender.port()));
        Ok((data.bind(py).clone(), sender).into_pyobject(py)?.into_any().into())
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(receive, pair))
}

/// `sendto(data, [flags,] address)`
pub(crate) fn sendto(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let link = link(call)?;
    let to = match link.transport().kind() {
        Kind::Socket { udp: true, .. } => flags_and_address(&call.get(py, 2)),
        _ => None,
    };
    // What is not an address in figures is the standard library's to look up, or to refuse.
    let Some((flags, address)) = to else {
        return method_varargs(py, call, "sendto", Direction::Write);
    };
    let data = Data::of(&call.get(py, 1))?;
    let source = link.transport().source().clone();
    let send = async move {
        let send = |fd: BorrowedFd<'_>| transport::send_to(fd, data.bytes(), flags, address);
        source.run(Direction::Write, send).await
    };
    let count = |py: Python<'_>, _: &Keep, sent: usize| Ok(number(py, sent)?);
    op::new(call.function, Some(call.object(0)), Mapped::new(send, count))
}

/// `address` or `flags, address`, if the address is one of IPv4 in figures.
fn flags_and_address(given: &Bound<'_, PyAny>) -> Option<(u32, SocketAddrV4)> {
    let given = given.cast::<PyTuple>().ok()?;
    let (flags, address) = match given.len() {
        1 => (0, given.get_item(0).ok()?),
        2 => (given.get_item(0).ok()?.extract::<i32>().ok()?, given.get_item(1).ok()?),
        _ => return None,
    };
    let address = address.cast_exact::<PyTuple>().ok()?;
    let (host, port): (Bound<'_, PyString>, u16) = address.extract().ok()?;
    let host: Ipv4Addr = host.to_str().ok()?.parse().ok()?;
    Some((flags as u32, SocketAddrV4::new(host, port)))
}

/// `_converse(method)`: the TLS object's `do_handshake` or `shutdown`, with the peer's part in it.
pub(crate) fn converse(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let method: String = call.get(py, 1).extract()?;
    let link = link(call)?;
    if link.transport().tls().is_none() {
        return Err(PyTypeError::new_err("the socket has no TLS").into());
    }
    let converse = async move { transport::converse(&link, &method).await };
    op::new(
        call.function,
        Some(call.object(0)),
        Mapped::new(converse, |_, _, ()| Ok(Object::none())),
    )
}

/// `accept()`: the standard library makes the socket; `Socket._accepted` wraps it.
pub(crate) fn accept(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let source = source(call)?;
    let socket = this(call)?.socket.borrow().clone().unwrap_or_else(Object::none);
    let accept = async move {
        let accept = |_: BorrowedFd<'_>| accept_now(&socket);
        source.run(Direction::Read, accept).await
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(accept, wrap_accepted))
}

// By value: what an operation gives is handed over.
#[allow(clippy::needless_pass_by_value)]
fn wrap_accepted(py: Python<'_>, keep: &Keep, accepted: Object) -> Outcome {
    // SAFETY: the op's object is the listening socket.
    let listening = unsafe { Bound::from_borrowed_ptr(py, keep.as_ptr()) };
    Ok(listening.call_method1(pyo3::intern!(py, "_accepted"), (accepted.bind(py),))?.into())
}

/// `_accept_always(report)`: the same for a server, which goes on when there is no descriptor left
/// and has `report` called with the error's number then.
pub(crate) fn accept_always(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let source = source(call)?;
    let this = this(call)?;
    let socket = this.socket.borrow().clone().unwrap_or_else(Object::none);
    let acceptor = this.acceptor.borrow_mut().get_or_insert_default().clone();
    let report = call.object(1);
    let accept = async move {
        let accept = |_: BorrowedFd<'_>| accept_now(&socket);
        let report = |failure: &curio::Error| {
            // SAFETY: attached: operations are polled by slots.
            let py = unsafe { Python::assume_attached() };
            if let Err(error) = report.bind(py).call1((failure.raw_os_error(),)) {
                kernel::raise_in_run(py, error, None);
            }
        };
        acceptor.accept(&source, accept, report).await
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(accept, wrap_accepted))
}

fn accept_now(socket: &Object) -> io::Result<Object> {
    // SAFETY: attached: operations are polled by slots.
    let py = unsafe { Python::assume_attached() };
    let accepted = socket.bind(py).call_method0(pyo3::intern!(py, "accept"));
    accepted.map(Object::from).map_err(|error| {
        // A number says what to do about it.
        let errno = error.value(py).getattr(pyo3::intern!(py, "errno"));
        match errno.and_then(|errno| errno.extract()) {
            Ok(errno) => io::Error::from_raw_os_error(errno),
            Err(_) => transport::raised(py, error),
        }
    })
}

/// `_wait(write)`: until a call might succeed; `write` says in which direction.
pub(crate) fn wait(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let write = call.get(py, 1).is_truthy()?;
    let direction = if write { Direction::Write } else { Direction::Read };
    let source = source(call)?;
    // The caller has just seen that it would block.
    source.clear(direction);
    let wait = source.wait(direction);
    op::new(call.function, Some(call.object(0)), Mapped::new(wait, |_, _, ()| Ok(Object::none())))
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn attach(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a method is called with a live socket and a tuple, attached.
    let (py, this, args) = unsafe {
        let py = Python::assume_attached();
        (py, inner(object), Bound::from_borrowed_ptr(py, args))
    };
    let attached = || -> PyResult<()> {
        let (socket, fd, kind, rest): (Bound<'_, PyAny>, RawFd, String, Bound<'_, PyTuple>) =
            args.extract()?;
        if fd < 0 {
            return Err(PyOverflowError::new_err("the socket is closed"));
        }
        let part = |place| rest.get_item(place).map(Object::from);
        let kind = match &*kind {
            "stream" => Kind::Socket { stream: true, udp: false },
            "udp" => Kind::Socket { stream: false, udp: true },
            "datagrams" => Kind::Socket { stream: false, udp: false },
            "methods" => Kind::Methods(socket.clone().into()),
            "tls" => {
                Kind::Tls(Tls::new(part(0)?, part(1)?, part(2)?, rest.get_item(3)?.is_truthy()?))
            }
            other => return Err(PyValueError::new_err(format!("no kind of socket: {other}"))),
        };
        *this.socket.borrow_mut() = Some(socket.into());
        *this.link.borrow_mut() = Some(Link::new(Channel::new(fd, kind)));
        Ok(())
    };
    match attached() {
        Ok(()) => Object::none().into_ptr(),
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    }
}

/// Ends the registration with the kernel, before the descriptor is closed or handed out.
///
/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn detach(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a method is called with a live socket, attached.
    let this = unsafe { inner(object) };
    drop(this.acceptor.take());
    let link = this.link.take();
    if let Some(link) = link {
        close(&link);
    }
    Object::none().into_ptr()
}

/// Sends what can be sent now.
///
/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn flush_now(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a method is called with a live socket, attached.
    let (py, link) = unsafe { (Python::assume_attached(), inner(object).link.borrow().clone()) };
    match link.map_or(Ok(true), |link| link.try_flush()) {
        Ok(_) => Object::none().into_ptr(),
        Err(error) => {
            let _raised = error::raise(py, &error.into());
            ptr::null_mut()
        }
    }
}

/// Others have used the TLS objects.
///
/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn look_again(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a method is called with a live socket, attached.
    let link = unsafe { inner(object) }.link.borrow().clone();
    if let Some(link) = link
        && let Some(tls) = link.transport().tls()
    {
        tls.look_again(link.transport().source());
    }
    Object::none().into_ptr()
}

/// Sends what can be sent at once, and ends the registration.
fn close(link: &Rc<Link<Channel>>) {
    if !link.is_clear() {
        let _ = link.try_flush();
    }
    let channel = link.transport();
    if let Some(tls) = channel.tls() {
        tls.say_goodbye(channel.source());
    }
    link.discard();
    channel.source().close();
}

/// `_unsent`: how many bytes streams have written and the system has not taken.
unsafe extern "C" fn get_unsent(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a getter is called with a live socket, attached.
    let unsent = unsafe { inner(object) }.link.borrow().as_ref().map_or(0, |link| link.unsent());
    // SAFETY: attached.
    unsafe { ffi::PyLong_FromSize_t(unsent) }
}

unsafe extern "C" fn get_socket(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a getter is called with a live socket, attached.
    let socket = unsafe { inner(object) }.socket.borrow().clone();
    socket.unwrap_or_else(Object::none).into_ptr()
}

unsafe extern "C" fn new(
    class: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the slot is called with our class or a subclass of it; the allocator gives zeroed
    // memory for an instance, or null with the error set. `inner` is written before anything else
    // can see the object.
    unsafe {
        let object = ffi::PyType_GenericAlloc(class, 0);
        if !object.is_null() {
            ptr::addr_of_mut!((*object.cast::<SocketObject>()).inner).write(Inner::default());
        }
        object
    }
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn traverse(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector calls it with a live socket.
    unsafe {
        if let Ok(socket) = inner(object).socket.try_borrow()
            && let Some(socket) = &*socket
        {
            let stop = visit(socket.as_ptr(), arg);
            if stop != 0 {
                return stop;
            }
        }
        visit(ffi::Py_TYPE(object).cast(), arg)
    }
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn clear(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector calls it with a socket that nobody can reach any more.
    let this = unsafe { inner(object) };
    if let Some(link) = this.link.take() {
        // The streams over it refer to the socket: nobody else uses the link. No code of Python's
        // is run from here: a TLS connection ends without a word.
        if link.transport().tls().is_none() && !link.is_clear() {
            let _ = link.try_flush();
        }
        link.discard();
        link.transport().source().close();
    }
    drop(this.socket.take());
    0
}

unsafe extern "C" fn dealloc(object: *mut ffi::PyObject) {
    // SAFETY: called when the last reference has gone, attached: the source ends before the
    // descriptor, then `inner` is dropped once, and the memory given back.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        clear(object);
        let class = ffi::Py_TYPE(object);
        ptr::drop_in_place(ptr::addr_of_mut!((*object.cast::<SocketObject>()).inner));
        let free = (*class).tp_free.expect("every class can free its instances");
        free(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}

/// Makes the native base class.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    let methods = Box::leak(Box::new([
        ffi::PyMethodDef {
            ml_name: c"_attach".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: attach },
            ml_flags: ffi::METH_VARARGS,
            ml_doc: c"Take a non-blocking socket over: it, its descriptor, its kind and what that needs."
                .as_ptr(),
        },
        ffi::PyMethodDef {
            ml_name: c"_detach".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: detach },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: c"End the registration; tasks that wait on the socket get an error.".as_ptr(),
        },
        ffi::PyMethodDef {
            ml_name: c"_flush_now".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: flush_now },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: c"Send what can be sent now.".as_ptr(),
        },
        ffi::PyMethodDef {
            ml_name: c"_look_again".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: look_again },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: c"Say that others have used the TLS objects.".as_ptr(),
        },
        ffi::PyMethodDef::zeroed(),
    ]));
    let getters = Box::leak(Box::new([
        ffi::PyGetSetDef {
            name: c"_socket".as_ptr(),
            get: Some(get_socket),
            set: None,
            doc: c"The standard library's socket.".as_ptr(),
            closure: ptr::null_mut(),
        },
        ffi::PyGetSetDef {
            name: c"_unsent".as_ptr(),
            get: Some(get_unsent),
            set: None,
            doc: c"Bytes that were written and not sent yet.".as_ptr(),
            closure: ptr::null_mut(),
        },
        // SAFETY: the sentinel at the end of a table of getters is all zero.
        unsafe { std::mem::zeroed() },
    ]));
    let mut slots = [
        slot(ffi::Py_tp_new, new as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear as *mut c_void),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, getters.as_mut_ptr().cast()),
        slot(0, ptr::null_mut()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    // SAFETY: the tables in the slots are as CPython wants them, and live for ever.
    let class = unsafe {
        make_type(py, c"curio._curio.SocketBase", size_of::<SocketObject>(), 0, flags, &mut slots)
    }?;
    BASE.store(class.cast(), Relaxed);
    // SAFETY: a live object, of which the module takes a reference of its own.
    module.add("SocketBase", unsafe { Bound::from_borrowed_ptr(py, class) })
}
