//! The Python face: translation between CPython and the crate, and no scheduling of its own.
//!
//! - [`op`]: the object that Python awaits, with a future of the crate's inside.
//! - [`function`]: functions that look like Python's and make ops.
//! - [`coroutine`]: Python coroutines as bodies of tasks.
//! - [`task`], [`kernel`], [`time`], [`socket`]: the classes and operations of the package.
//! - [`poller`]: sleeping without the interpreter's lock.
//! - [`error`], [`object`], [`frames`]: exceptions, references, lines of code.

use pyo3::exceptions::PyLookupError;
use pyo3::prelude::*;

mod coroutine;
mod error;
mod frames;
mod function;
mod kernel;
mod object;
mod op;
mod poller;
mod socket;
mod task;
mod time;

use function::Implementation;

/// What `operation` finds by name.
const OPERATIONS: &[(&str, Implementation)] = &[
    ("Socket._wait", socket::wait),
    ("Socket.accept", socket::accept),
    ("Socket.recv", socket::recv),
    ("Socket.send", socket::send),
    ("Socket.sendall", socket::sendall),
    ("Task.cancel", task::cancel),
    ("Task.cancel_children", task::cancel_children),
    ("Task.join", task::join),
    ("Task.wait", task::wait),
    ("check_cancellation", time::check_cancellation),
    ("clock", time::clock),
    ("current_task", kernel::current_task),
    ("disable_cancellation", time::disable_cancellation),
    ("ignore_after", time::ignore_after),
    ("set_cancellation", time::set_cancellation),
    ("sleep", time::sleep),
    ("spawn", kernel::spawn),
    ("timeout_after", time::timeout_after),
];

/// operation(stub)
///
/// Give a function that is declared in Python its native implementation, found by its
/// qualified name. The declaration's body is never run; its signature and docs stay.
#[pyfunction]
fn operation(stub: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let name: String = stub.getattr("__qualname__")?.extract()?;
    let Some((_, implementation)) = OPERATIONS.iter().find(|(known, _)| *known == name) else {
        return Err(PyLookupError::new_err(format!("there is no native operation {name:?}")));
    };
    function::new(stub, *implementation)
}

#[pymodule(gil_used = true)]
fn _curio(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    error::init(py)?;
    op::init(py)?;
    function::init(py)?;
    task::init(py, module)?;
    socket::init(py, module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<kernel::KernelBase>()?;
    module.add_class::<error::Origin>()?;
    module.add_class::<time::TimeoutBlock>()?;
    module.add_class::<time::ShieldBlock>()?;
    module.add_function(wrap_pyfunction!(operation, module)?)?;
    module.add_function(wrap_pyfunction!(task::set_task_class, module)?)?;
    module.add_function(wrap_pyfunction!(kernel::run, module)?)?;
    module.add_function(wrap_pyfunction!(kernel::get_all_tasks, module)?)?;
    Ok(())
}
