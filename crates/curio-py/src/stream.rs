//! Streams in Python: the native base of the classes in `curio/io.py`.
//!
//! The buffer is the crate's: an object is made when a line or block is there, of its bytes.

use std::cell::{Cell, RefCell};
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;

use curio::embed::{Link, Reader};
use curio::{Error, LINE_LIMIT};
use pyo3::exceptions::{PyBufferError, PyEOFError, PyStopAsyncIteration, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error;
use crate::function::Call;
use crate::object::{Attached, Object, Outcome};
use crate::op::{self, Keep, Mapped};
use crate::socket::{self, Data, closed, number, with_progress};
use crate::sync::this;
use crate::transport::{self, Channel, Kind};

#[pyclass(subclass, frozen, module = "curio", name = "StreamBase")]
pub(crate) struct StreamBase(Attached<Inner>);

#[derive(Default)]
struct Inner {
    /// `None` before it is attached, and once it is closed.
    reader: RefCell<Option<Rc<Reader<Channel>>>>,
    limit: Cell<usize>,
}

#[pymethods]
impl StreamBase {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyAny>, _kwargs: Option<&Bound<'_, PyAny>>) -> Self {
        let inner = Inner::default();
        inner.limit.set(LINE_LIMIT);
        StreamBase(Attached::new(inner))
    }

    /// Read and write through a socket of ours.
    fn _attach_socket(&self, socket: &Bound<'_, PyAny>) -> PyResult<()> {
        let link = socket::link_of(socket)?;
        self.0.reader.replace(Some(Rc::new(Reader::new(link))));
        Ok(())
    }

    /// Read and write a descriptor, which is in non-blocking mode and stays open until `_detach`.
    fn _attach_file(&self, py: Python<'_>, fd: RawFd) -> PyResult<()> {
        if fd < 0 {
            return Err(closed(py));
        }
        // SAFETY: the caller has an open descriptor, which is only looked at here.
        let stat = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) });
        let stat = stat.map_err(std::io::Error::from)?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        let pipe = matches!(kind, rustix::fs::FileType::Fifo | rustix::fs::FileType::Socket);
        let link = Link::new(Channel::new(fd, Kind::File { pipe }));
        self.0.reader.replace(Some(Rc::new(Reader::new(link))));
        Ok(())
    }

    /// End the registration; `file` says that it is of a descriptor of the stream's own.
    fn _detach(&self, file: bool) {
        let Some(reader) = self.0.reader.take() else { return };
        if file {
            let link = reader.link();
            link.discard();
            curio::Transport::source(link.transport()).close();
        }
    }

    /// Put bytes before those that will be read.
    fn _feed(&self, bytes: &[u8]) -> PyResult<()> {
        self.reader()?.input().borrow_mut().append(bytes);
        Ok(())
    }

    /// Send what can be sent now; whether that was all.
    fn _try_flush(&self, py: Python<'_>) -> PyResult<bool> {
        let link = self.reader()?.link().clone();
        link.try_flush()
            .map_err(|failure| error::to_python(py, &failure.into()).unwrap_or_else(|error| error))
    }

    /// How many bytes were received and not read yet.
    #[getter]
    fn _unread(&self) -> usize {
        let reader = self.0.reader.borrow();
        reader.as_ref().map_or(0, |reader| reader.input().borrow().bytes().len())
    }

    /// Whether something was written that is not sent yet, or has failed, and nobody was told.
    #[getter]
    fn _pending(&self) -> bool {
        self.0.reader.borrow().as_ref().is_some_and(|reader| !reader.link().is_clear())
    }

    /// The most bytes that a line may have, its end included; 1 MiB at first. A longer one makes
    /// `readline` raise ValueError, so that no peer can fill the memory.
    #[getter]
    fn limit(&self) -> usize {
        self.0.limit.get()
    }

    #[setter]
    fn set_limit(&self, limit: isize) -> PyResult<()> {
        let Some(limit) = usize::try_from(limit).ok().filter(|&limit| limit > 0) else {
            let message = format!("limit is a positive number of bytes, not {limit}");
            return Err(PyValueError::new_err(message));
        };
        self.0.limit.set(limit);
        Ok(())
    }

    /// Whether it is closed.
    #[getter]
    fn closed(&self) -> bool {
        self.0.reader.borrow().is_none()
    }
}

impl StreamBase {
    fn reader(&self) -> PyResult<Rc<Reader<Channel>>> {
        let reader = self.0.reader.borrow().clone();
        reader.ok_or_else(|| PyValueError::new_err("I/O operation on closed stream"))
    }
}

/// An operation on the stream; the second closure turns its result into an object.
fn operation<T, F: Future<Output = curio::Result<T>>>(
    call: &Call<'_>,
    py: Python<'_>,
    work: impl FnOnce(Rc<Reader<Channel>>) -> F,
    map: impl FnOnce(Python<'_>, T) -> Outcome,
) -> Outcome {
    let reader = this::<StreamBase>(call, py)?.reader()?;
    let future = async move {
        transport::open(reader.link()).await?;
        work(reader).await
    };
    let map = |py: Python<'_>, _: &Keep, value| map(py, value);
    op::new(call.function, Some(call.object(0)), Mapped::new(future, map))
}

/// A bytes object of what is there.
fn object(bytes: &[u8]) -> Outcome {
    // SAFETY: attached, for operations are polled by slots; as many bytes as said. Making one
    // runs no code of Python's.
    unsafe {
        let length = bytes.len() as ffi::Py_ssize_t;
        Object::owned(ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), length))
    }
}

/// What a stream has received, and loses with an operation that gives it to its exception.
fn taken(reader: &Reader<Channel>) -> Outcome {
    let mut input = reader.input().borrow_mut();
    let bytes = object(input.bytes());
    let count = input.bytes().len();
    input.consume(count);
    bytes
}

/// `read(maxbytes=-1)`
pub(crate) fn read(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let most: isize = call.get(py, 1).extract()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let read = async move |reader: Rc<Reader<Channel>>| reader.some(most, object).await;
    operation(call, py, read, |_, bytes| bytes)
}

/// `readline()`
pub(crate) fn readline(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let limit = this::<StreamBase>(call, py)?.limit();
    let line = async move |reader: Rc<Reader<Channel>>| reader.line(limit, object).await;
    operation(call, py, line, |_, bytes| bytes)
}

/// `__anext__()`
pub(crate) fn next_line(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let limit = this::<StreamBase>(call, py)?.limit();
    let line = async move |reader: Rc<Reader<Channel>>| {
        let line = |bytes: &[u8]| (!bytes.is_empty()).then(|| object(bytes));
        reader.line(limit, line).await
    };
    operation(call, py, line, |_, line| {
        line.unwrap_or_else(|| Err(PyStopAsyncIteration::new_err(()).into()))
    })
}

/// `read_exactly(n)`
pub(crate) fn read_exactly(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let count: isize = call.get(py, 1).extract()?;
    let Ok(count) = usize::try_from(count) else {
        let message = format!("read_exactly() needs a number of bytes, not {count}");
        return Err(PyValueError::new_err(message).into());
    };
    let read = async move |reader: Rc<Reader<Channel>>| {
        Ok(match reader.exactly(count, object).await {
            Ok(bytes) => (bytes, None),
            // What another task is reading is not ours to take.
            Err(error) if error.is_busy() => (Ok(Object::none()), Some(error)),
            Err(error) => (taken(&reader), Some(error)),
        })
    };
    operation(call, py, read, |py, (bytes, failure)| read_or_progress(py, bytes, failure))
}

/// `readall()`
pub(crate) fn readall(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let read = async move |reader: Rc<Reader<Channel>>| {
        Ok(match reader.rest(object).await {
            Ok(bytes) => (bytes, None),
            // What another task is reading is not ours to take.
            Err(error) if error.is_busy() => (Ok(Object::none()), Some(error)),
            Err(error) => (taken(&reader), Some(error)),
        })
    };
    operation(call, py, read, |py, (bytes, failure)| read_or_progress(py, bytes, failure))
}

fn read_or_progress(py: Python<'_>, bytes: Outcome, failure: Option<Error>) -> Outcome {
    let Some(failure) = failure else { return bytes };
    let ended = failure.as_io().filter(|error| error.kind() == std::io::ErrorKind::UnexpectedEof);
    if let Some(ended) = ended {
        let error = PyEOFError::new_err(ended.to_string());
        error.value(py).setattr("bytes_read", bytes?.bind(py))?;
        return Err(error.into());
    }
    if failure.is_busy() {
        return Err(error::raise(py, &failure));
    }
    Err(with_progress(py, &failure, "bytes_read", &bytes?)?.into())
}

/// `readlines()`
pub(crate) fn readlines(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let limit = this::<StreamBase>(call, py)?.limit();
    let read = async move |reader: Rc<Reader<Channel>>| {
        let mut lines = Vec::new();
        loop {
            let line = |bytes: &[u8]| (!bytes.is_empty()).then(|| object(bytes));
            match reader.line(limit, line).await {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => return Ok((lines, None)),
                Err(error) => return Ok((lines, Some(error))),
            }
        }
    };
    operation(call, py, read, |py, (lines, failure): (Vec<Outcome>, _)| {
        let lines: Vec<Object> = lines.into_iter().collect::<Outcome<_>>()?;
        let list = PyList::new(py, lines.iter().map(|line| line.bind(py)))?.into_any();
        match failure {
            None => Ok(list.into()),
            Some(failure) => Err(with_progress(py, &failure, "lines_read", &list.into())?.into()),
        }
    })
}

/// `readinto(buffer)`
pub(crate) fn readinto(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let mut buffer = Room::of(&call.get(py, 1))?;
    let read = async move |reader: Rc<Reader<Channel>>| {
        let most = buffer.room().len();
        let copy = |bytes: &[u8]| {
            buffer.room()[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        };
        reader.some(most, copy).await
    };
    operation(call, py, read, |py, count| Ok(number(py, count)?))
}

/// Memory of an object's, to be written into.
struct Room(Box<ffi::Py_buffer>);

impl Room {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Room> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: a live object, and memory for the result.
        let got =
            unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, ffi::PyBUF_WRITABLE) };
        if got < 0 {
            return Err(PyErr::fetch(object.py()));
        }
        if view.buf.is_null() && view.len > 0 {
            return Err(PyBufferError::new_err("the buffer has no memory"));
        }
        Ok(Room(view))
    }

    fn room(&mut self) -> &mut [u8] {
        if self.0.len == 0 {
            return &mut [];
        }
        // SAFETY: the exporter keeps that much writable memory in place until the view is
        // released, which is after the borrow of `self`. Other Python code may look at it, but
        // does not run while it is written: no code of Python's is called meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: filled by `PyObject_GetBuffer`, and released once, by an attached thread: it
        // lives in an op.
        unsafe { ffi::PyBuffer_Release(&mut *self.0) }
    }
}

/// `write(data)`
pub(crate) fn write(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let data = Data::of(&call.get(py, 1))?;
    let write =
        async move |reader: Rc<Reader<Channel>>| Ok(reader.link().write(data.bytes()).await);
    operation(call, py, write, written)
}

/// `writelines(lines)`
pub(crate) fn writelines(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let mut lines = Vec::new();
    for line in call.get(py, 1).try_iter()? {
        lines.push(Data::of(&line?)?);
    }
    let write = async move |reader: Rc<Reader<Channel>>| {
        let mut done = 0;
        for line in &lines {
            let (count, result) = reader.link().write(line.bytes()).await;
            done += count;
            if result.is_err() {
                return Ok((done, result));
            }
        }
        Ok((done, Ok(())))
    };
    operation(call, py, write, |py, (count, result)| {
        written(py, (count, result))?;
        Ok(Object::none())
    })
}

fn written(py: Python<'_>, (count, result): (usize, curio::Result<()>)) -> Outcome {
    match result {
        Ok(()) => Ok(number(py, count)?),
        Err(failure) => {
            Err(with_progress(py, &failure, "bytes_written", &number(py, count)?)?.into())
        }
    }
}

/// `flush()`
pub(crate) fn flush(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let flush = async move |reader: Rc<Reader<Channel>>| reader.link().flush().await;
    operation(call, py, flush, |_, ()| Ok(Object::none()))
}
