//! Sockets in Python: the operations that are worth doing natively.
//!
//! `curio.io.Socket` wraps a socket of the standard library; this is its base class. It has
//! the calls that carry data, made on the descriptor directly, and the waits from which
//! Python code makes the rest.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use curio::embed::{Direction, Source};
use pyo3::exceptions::{PyBlockingIOError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use rustix::net::{RecvFlags, SendFlags};

use crate::error;
use crate::function::Call;
use crate::object::{Object, Outcome, Raised, take_error};
use crate::op::{self, Instant, Keep, Mapped, make_type, slot};

#[repr(C)]
pub(crate) struct SocketObject {
    base: ffi::PyObject,
    inner: Inner,
}

struct Inner {
    /// The standard library's socket; `None` until `_attach`.
    socket: RefCell<Option<Object>>,
    source: RefCell<Option<Source>>,
    /// Bytes come as a stream: a short read has taken all there was.
    stream: Cell<bool>,
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

fn source(call: &Call<'_>) -> PyResult<Source> {
    let source = this(call)?.source.borrow().clone();
    source.ok_or_else(|| {
        // A closed socket: the same error that the system would give.
        // SAFETY: operations are called in attached threads.
        let py = unsafe { Python::assume_attached() };
        error::os_error(py, rustix::io::Errno::BADF.raw_os_error()).unwrap_or_else(|error| error)
    })
}

fn flags(call: &Call<'_>, py: Python<'_>, index: usize) -> PyResult<u32> {
    Ok(call.get(py, index).extract::<i32>()? as u32)
}

// Reading.

/// Up to this size, bytes are read into a buffer first, and copied into an object of just
/// their length; beyond it, into the object itself.
const SMALL: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// `recv(maxsize, flags=0)`
pub(crate) fn recv(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let socket = this(call)?;
    let wanted: isize = call.get(py, 1).extract()?;
    let Ok(wanted) = usize::try_from(wanted) else {
        let message = format!("recv() needs a positive number of bytes, not {wanted}");
        return Err(PyValueError::new_err(message).into());
    };
    let flags = flags(call, py, 2)?;
    let source = source(call)?;
    if wanted == 0 {
        // There is nothing to wait for; the system would say so.
        let nothing =
            |_: Python<'_>, _: &Keep| bytes(None, 0).map_err(|error| PyErr::from(error).into());
        return op::new(call.function, Some(call.object(0)), Instant::new(nothing));
    }
    // A short read says that nothing is left only of a stream, and only if it has taken it away.
    let shortens = socket.stream.get() && flags == 0;
    let receive = async move {
        let read = |fd: BorrowedFd<'_>| receive(fd, wanted, flags);
        let bytes = source.run(Direction::Read, read).await?;
        if shortens && (1..wanted).contains(&bytes.length) {
            source.drained();
        }
        Ok(bytes.object)
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(receive, |_, _, bytes| Ok(bytes)))
}

struct Received {
    object: Object,
    length: usize,
}

fn receive(fd: BorrowedFd<'_>, wanted: usize, flags: u32) -> io::Result<Received> {
    if wanted <= SMALL {
        return BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < wanted {
                buffer.resize(SMALL, 0);
            }
            let length = recv_into(fd, &mut buffer[..wanted], flags)?;
            Ok(Received { object: bytes(Some(&buffer[..length]), length)?, length })
        });
    }
    let object = bytes(None, wanted)?;
    // SAFETY: a new bytes object has room for `wanted` bytes, and nobody else has seen it.
    let room = unsafe {
        std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(object.as_ptr()).cast::<u8>(), wanted)
    };
    let length = recv_into(fd, room, flags)?;
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

fn recv_into(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: u32) -> io::Result<usize> {
    let flags = RecvFlags::from_bits_retain(flags);
    Ok(rustix::net::recv(fd, buffer, flags).map(|(length, _)| length)?)
}

/// A bytes object: a copy of `content`, or with room for `length` bytes.
fn bytes(content: Option<&[u8]>, length: usize) -> io::Result<Object> {
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
enum Data {
    /// A bytes object, whose memory stays in place as long as it lives.
    Bytes(Object),
    /// The memory of an object that was asked for its buffer. In a box, for some exporters want
    /// it back at the same address.
    View(Box<ffi::Py_buffer>),
}

impl Data {
    fn of(data: &Bound<'_, PyAny>) -> PyResult<Data> {
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

    fn bytes(&self) -> &[u8] {
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

fn send_some(fd: BorrowedFd<'_>, data: &[u8], flags: u32) -> io::Result<usize> {
    // A closed peer is an error, not a signal.
    let flags = SendFlags::from_bits_retain(flags) | SendFlags::NOSIGNAL;
    Ok(rustix::net::send(fd, data, flags)?)
}

/// `send(data, flags=0)`
pub(crate) fn send(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let data = Data::of(&call.get(py, 1))?;
    let flags = flags(call, py, 2)?;
    let source = source(call)?;
    let send =
        async move { source.run(Direction::Write, |fd| send_some(fd, data.bytes(), flags)).await };
    let count = |py: Python<'_>, _: &Keep, sent: usize| -> Outcome {
        Ok(sent.into_pyobject(py).map_err(PyErr::from)?.into_any().into())
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(send, count))
}

/// `sendall(data, flags=0)`
pub(crate) fn sendall(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let data = Data::of(&call.get(py, 1))?;
    let flags = flags(call, py, 2)?;
    let source = source(call)?;
    let send = async move {
        let (mut rest, mut failure) = (data.bytes(), None);
        while !rest.is_empty() && failure.is_none() {
            match source.run(Direction::Write, |fd| send_some(fd, rest, flags)).await {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => failure = Some(error),
            }
        }
        Ok((data.bytes().len() - rest.len(), failure))
    };
    let done = |py: Python<'_>, _: &Keep, (sent, failure): (usize, Option<curio::Error>)| {
        let Some(failure) = failure else { return Ok(Object::none()) };
        let failure = error::to_python(py, &failure)?;
        failure.value(py).setattr("bytes_sent", sent)?;
        Err(failure.into())
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(send, done))
}

// What is left to Python.

/// `accept()`: the standard library makes the socket; `Socket._accepted` wraps it.
pub(crate) fn accept(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let source = source(call)?;
    let socket = this(call)?.socket.borrow().clone().unwrap_or_else(Object::none);
    let accept = async move {
        let accept = |_: BorrowedFd<'_>| accept_now(&socket);
        source.run(Direction::Read, accept).await
    };
    let wrap = |py: Python<'_>, keep: &Keep, accepted: Object| -> Outcome {
        // SAFETY: the op's object is the listening socket.
        let listening = unsafe { Bound::from_borrowed_ptr(py, keep.as_ptr()) };
        Ok(listening.call_method1(pyo3::intern!(py, "_accepted"), (accepted.bind(py),))?.into())
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(accept, wrap))
}

fn accept_now(socket: &Object) -> io::Result<Object> {
    // SAFETY: attached: operations are polled by slots.
    let py = unsafe { Python::assume_attached() };
    match socket.bind(py).call_method0(pyo3::intern!(py, "accept")) {
        Ok(accepted) => Ok(accepted.into()),
        Err(error) if error.is_instance_of::<PyBlockingIOError>(py) => {
            Err(io::ErrorKind::WouldBlock.into())
        }
        Err(error) => Err(io::Error::other(error)),
    }
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
        let (socket, fd, stream): (Bound<'_, PyAny>, RawFd, bool) = args.extract()?;
        if fd < 0 {
            return Err(PyOverflowError::new_err("the socket is closed"));
        }
        *this.socket.borrow_mut() = Some(socket.into());
        *this.source.borrow_mut() = Some(Source::new(fd));
        this.stream.set(stream);
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
    let source = unsafe { inner(object) }.source.take();
    if let Some(source) = source {
        source.close();
    }
    Object::none().into_ptr()
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
            ptr::addr_of_mut!((*object.cast::<SocketObject>()).inner).write(Inner {
                socket: RefCell::new(None),
                source: RefCell::new(None),
                stream: Cell::new(false),
            });
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
    drop(this.source.take());
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
            ml_doc: c"Take a non-blocking socket over: the socket, its descriptor, is it a stream."
                .as_ptr(),
        },
        ffi::PyMethodDef {
            ml_name: c"_detach".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer { PyCFunction: detach },
            ml_flags: ffi::METH_NOARGS,
            ml_doc: c"End the registration; tasks that wait on the socket get an error.".as_ptr(),
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
