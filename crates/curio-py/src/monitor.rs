//! Starting the monitor for a kernel of Python's, and ending it with the interpreter.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use curio::Kernel;
use curio::embed::Address;
use curio::monitor::{Monitor, Quiet, quiet};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::inspector::{self, PythonInspector};
use crate::object::Attached;

/// The monitors that were started: those of kernels which are never shut down end with the
/// interpreter. `None` until there is one.
static STARTED: Mutex<Option<Vec<Monitor>>> = Mutex::new(None);

/// Starts a monitor for a kernel.
pub(crate) fn start(py: Python<'_>, kernel: &Kernel, address: Address) -> io::Result<Monitor> {
    let inspector = Arc::new(PythonInspector::new(kernel.locator()));
    let monitor = kernel.start_monitor(address, Some(inspector))?;
    let first = {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        let first = started.is_none();
        let started = started.get_or_insert_default();
        started.retain(|monitor| !monitor.is_stopped());
        started.push(monitor.clone());
        first
    };
    if first {
        at_exit(py).map_err(io::Error::other)?;
    }
    Ok(monitor)
}

/// What a monitor of this kernel would answer to a command.
pub(crate) fn ask(_py: Python<'_>, kernel: &Kernel, command: &str) -> String {
    let inspector = PythonInspector::new(kernel.locator());
    kernel.ask_monitor(command, Some(&inspector))
}

/// All that it could tell.
pub(crate) fn dump(_py: Python<'_>, kernel: &Kernel) -> String {
    let inspector = PythonInspector::new(kernel.locator());
    let mut out = Vec::new();
    kernel.dump_with(Some(&inspector), &mut out).expect("a vector takes everything");
    String::from_utf8_lossy(&out).into_owned()
}

/// A monitor that was started by hand.
#[pyclass(frozen, module = "curio", name = "RunningMonitor")]
pub(crate) struct RunningMonitor(Monitor);

impl RunningMonitor {
    pub(crate) fn new(monitor: Monitor) -> Self {
        RunningMonitor(monitor)
    }
}

#[pymethods]
impl RunningMonitor {
    /// End all sessions, and listen no more.
    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }

    /// Path, or (host, port).
    #[getter]
    fn address(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match (self.0.path(), self.0.tcp_address()) {
            (Some(path), _) => path.to_string_lossy().into_py_any(py),
            (None, Some(address)) => (address.ip().to_string(), address.port()).into_py_any(py),
            (None, None) => Ok(py.None()),
        }
    }
}

fn at_exit(py: Python<'_>) -> PyResult<()> {
    let end = wrap_pyfunction!(end, py)?;
    py.import("atexit")?.call_method1("register", (end,))?;
    let hooks = PyDict::new(py);
    hooks.set_item("before", wrap_pyfunction!(before_fork, py)?)?;
    hooks.set_item("after_in_parent", wrap_pyfunction!(after_fork, py)?)?;
    hooks.set_item("after_in_child", wrap_pyfunction!(after_fork, py)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&hooks)).map(drop)
}

thread_local! {
    /// No session answers while this thread forks.
    static FORKING: RefCell<Option<Quiet>> = const { RefCell::new(None) };
}

#[pyfunction]
fn before_fork(py: Python<'_>) {
    // A session that asks Python something is to get its lock.
    FORKING.with(|forking| {
        // The closure runs in this thread; the interpreter does not know.
        *forking.borrow_mut() = Attached::into_inner(py.detach(|| Attached::new(quiet())));
    });
}

#[pyfunction]
fn after_fork() {
    drop(FORKING.take());
}

#[pyfunction]
fn end(py: Python<'_>) {
    let started = STARTED.lock().unwrap_or_else(PoisonError::into_inner).take();
    // A session that asks Python something is let finish, so it must be able to get its lock.
    py.detach(|| started.into_iter().flatten().for_each(|monitor| monitor.stop()));
    inspector::close(py);
}
