//! What comes from other threads: the native base of `curio.workers`, and connecting.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Mutex;

use curio::embed::{Completer, Completion, ConnectOptions, completion, connect_any};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::function::Call;
use crate::object::{Object, Outcome};
use crate::op::{self, Mapped, Plain};
use crate::socket::number;
use crate::sync::this;

#[pyclass(subclass, frozen, module = "curio", name = "CompletionBase")]
pub(crate) struct CompletionBase {
    completer: Mutex<Option<Completer<Py<PyAny>>>>,
    completion: Mutex<Option<Completion<Py<PyAny>>>>,
}

fn taken<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

#[pymethods]
impl CompletionBase {
    #[new]
    fn new() -> Self {
        let (completer, completion) = completion();
        CompletionBase {
            completer: Mutex::new(Some(completer)),
            completion: Mutex::new(Some(completion)),
        }
    }

    /// Give the result. Any thread; what nobody waits for is dropped.
    fn give(&self, result: Py<PyAny>) {
        if let Some(completer) = taken(&self.completer) {
            let _unwanted = completer.give(result);
        }
    }
}

/// `Completion.wait()`
pub(crate) fn wait(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let completion = taken(&this::<CompletionBase>(call, py)?.completion);
    let Some(mut completion) = completion else {
        return Err(PyRuntimeError::new_err("a completion is waited for once").into());
    };
    let wait = async move { completion.wait().await };
    let unpack = |py: Python<'_>, _: &op::Keep, given: Py<PyAny>| Ok(given.into_bound(py).into());
    op::new(call.function, Some(call.object(0)), Mapped::new(wait, unpack))
}

/// While it is there, the kernel that runs now waits for other processes.
#[pyclass(frozen, module = "curio")]
pub(crate) struct Outside {
    _inside: Option<curio::embed::Outside>,
}

#[pymethods]
impl Outside {
    #[new]
    fn new() -> Self {
        Outside { _inside: curio::embed::Outside::new() }
    }
}

/// What the monitor sees of a worker, while this is there.
#[pyclass(frozen, module = "curio")]
pub(crate) struct Seen(curio::embed::Seen);

#[pymethods]
impl Seen {
    #[new]
    fn new(name: String) -> Self {
        Seen(curio::embed::Seen::new(name))
    }

    fn begin(&self, work: String) {
        self.0.begin(work);
    }

    fn end(&self) {
        self.0.end();
    }
}

/// What the system, and so `ps -T`, calls this thread.
#[pyfunction]
pub(crate) fn name_thread(name: &str) {
    curio::embed::name_thread(name);
}

/// `connect_any(addresses, source)`: gives the descriptor of a connected socket.
pub(crate) fn connect(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let mut addresses = Vec::new();
    for given in call.get(py, 0).try_iter()? {
        addresses.push(address(&given?)?);
    }
    let mut options = ConnectOptions::new();
    if !call.is_none(1) {
        options = options.source(address(&call.get(py, 1))?);
    }
    let connect = async move {
        let (source, socket) = connect_any(addresses, options).await?;
        source.close();
        Ok(OwnedFd::from(socket))
    };
    let hand_over = |py: Python<'_>, _: &op::Keep, fd: OwnedFd| -> Outcome {
        let number = number(py, fd.into_raw_fd() as usize)?;
        Ok(Object::from(number.bind(py).clone()))
    };
    op::new(call.function, None, Plain(Mapped::new(connect, hand_over)))
}

/// A numeric address, as Python's sockets have it.
fn address(given: &Bound<'_, PyAny>) -> PyResult<SocketAddr> {
    let wrong = || PyValueError::new_err(format!("not the address of a TCP socket: {given}"));
    let tuple = given.cast::<PyTuple>().map_err(|_| wrong())?;
    let host: String = tuple.get_item(0)?.extract()?;
    let port: u16 = tuple.get_item(1)?.extract()?;
    let host = host.split('%').next().unwrap_or_default();
    let number = |place: usize| tuple.get_item(place).and_then(|item| item.extract::<u32>());
    Ok(match host.parse::<IpAddr>().map_err(|_| wrong())? {
        IpAddr::V4(host) => (host, port).into(),
        IpAddr::V6(host) => {
            let (flow, scope) = (number(2).unwrap_or(0), number(3).unwrap_or(0));
            SocketAddrV6::new(host, port, flow, scope).into()
        }
    })
}
