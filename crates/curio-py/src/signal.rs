//! `SignalSet`: the native base of the class in `curio/signal.py`, and the interpreter's handlers.
//!
//! Facts. Python's handlers run in the main thread, between two bytecodes; only that thread may
//! install them. While a kernel sleeps there, its poller runs them.
//!
//! Choice. The handler of a signal that is watched is a function of ours, which tells the pipes of
//! the kernels that watch it. The former handler is kept, and put back after the last.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use curio::embed::{Handlers, Pipe, YieldNow};
use curio::signal::{SIGKILL, SIGSTOP, Watching};
use curio::{Error, SignalSet};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyAssertionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::function::Call;
use crate::object::{Attached, Object, Outcome, text_of};
use crate::op::{self, Keep, Mapped, Plain};
use crate::sync::{Figures, figures, this};

/// Signals that are watched, by their numbers.
static WATCHED: Mutex<Option<HashMap<i32, Watched>>> = Mutex::new(None);

struct Watched {
    /// What handled the signal before.
    former: Py<PyAny>,
    /// None are left if the last went in another thread, where the handler cannot be put back.
    pipes: Vec<Arc<Pipe>>,
    /// The process that watches: a forked child has the handler, but nobody who watches.
    process: u32,
}

fn watched<R>(f: impl FnOnce(&mut HashMap<i32, Watched>) -> R) -> R {
    // No Python code runs with the lock held, and nothing here panics.
    let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    f(watched.get_or_insert_default())
}

/// The handler of every signal that is watched.
#[pyfunction]
fn tell(py: Python<'_>, signal: i32, _frame: &Bound<'_, PyAny>) -> PyResult<()> {
    let process = std::process::id();
    let (pipes, stale) = watched(|watched| match watched.get(&signal) {
        Some(entry) if entry.process == process && !entry.pipes.is_empty() => {
            (entry.pipes.clone(), None)
        }
        _ => (Vec::new(), watched.remove(&signal)),
    });
    for pipe in pipes {
        pipe.tell(signal);
    }
    if let Some(stale) = stale {
        // Nobody watches: the former handler is put back, and has the signal.
        py.import("_signal")?.call_method1("signal", (signal, stale.former))?;
        py.import("os")?.call_method1("kill", (process, signal))?;
    }
    Ok(())
}

/// The interpreter's.
pub(crate) struct PythonHandlers;

impl Handlers for PythonHandlers {
    fn watch(&self, signal: i32, pipe: &Arc<Pipe>) -> curio::Result<()> {
        // SAFETY: sets are watched by operations, which slots poll, attached.
        let py = unsafe { Python::assume_attached() };
        let known = watched(|watched| match watched.get_mut(&signal) {
            Some(watched) if watched.process == std::process::id() => {
                watched.pipes.push(pipe.clone());
                true
            }
            _ => false,
        });
        if known {
            return Ok(());
        }
        let former = install(py, signal).map_err(raised)?;
        let (pipes, process) = (vec![pipe.clone()], std::process::id());
        // In a forked child, there may be the parent's entry: what was before that is what counts.
        let parents = watched(|watched| watched.remove(&signal)).map(|entry| entry.former);
        let former = parents.unwrap_or(former);
        watched(|watched| watched.insert(signal, Watched { former, pipes, process }));
        Ok(())
    }

    fn unwatch(&self, signal: i32, pipe: &Arc<Pipe>) {
        let former = watched(|watched| {
            let entry = watched.get_mut(&signal)?;
            entry.pipes.retain(|other| !Arc::ptr_eq(other, pipe));
            // SAFETY: as above; the drop of a kernel is a Python object's deallocation.
            let py = unsafe { Python::assume_attached() };
            entry.pipes.is_empty().then(|| entry.former.clone_ref(py))
        });
        let Some(former) = former else { return };
        // SAFETY: as above.
        let py = unsafe { Python::assume_attached() };
        let module = py.import("_signal");
        // In another thread than the main one it stays, and `tell` sees to it.
        if module.and_then(|module| module.call_method1("signal", (signal, former))).is_ok() {
            drop(watched(|watched| watched.remove(&signal)));
        }
    }
}

/// A Python exception on its way through the crate.
fn raised(error: PyErr) -> Error {
    std::io::Error::other(error).into()
}

fn install(py: Python<'_>, signal: i32) -> PyResult<Py<PyAny>> {
    let module = py.import("_signal")?;
    let threading = py.import("threading")?;
    let thread = threading.call_method0("current_thread")?;
    if !thread.is(threading.call_method0("main_thread")?) {
        let name: String = thread.getattr("name")?.extract()?;
        return Err(PyValueError::new_err(format!(
            "signals can be watched in the main thread only; this kernel runs in thread '{name}'"
        )));
    }
    if [SIGKILL, SIGSTOP].contains(&signal) {
        let name = py.import("signal")?.getattr("Signals")?.call1((signal,))?.getattr("name")?;
        let name = text_of(&name);
        return Err(PyValueError::new_err(format!("{name} cannot be caught by any program")));
    }
    // What was not installed from Python is None, and cannot be put back: the default can.
    let former = module.call_method1("signal", (signal, wrap_pyfunction!(tell, py)?))?;
    let former = if former.is_none() { module.getattr("SIG_DFL")? } else { former };
    Ok(former.unbind())
}

#[pyclass(subclass, frozen, module = "curio", name = "SignalSetBase")]
pub(crate) struct SignalSetBase {
    set: Attached<SignalSet>,
    /// The block that watches, while there is one.
    block: Attached<Block>,
}

type Block = Rc<RefCell<Option<Watching>>>;

#[pymethods]
impl SignalSetBase {
    #[new]
    #[pyo3(signature = (*signos))]
    fn new(signos: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let signals: Vec<i32> = signos.extract()?;
        let set = Attached::new(SignalSet::new(signals));
        Ok(SignalSetBase { set, block: Attached::new(Block::default()) })
    }

    #[getter]
    fn _signals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.set.signals())
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.set.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.set.resource())
    }
}

pub(crate) fn wait(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let wait = this::<SignalSetBase>(call, py)?.set.wait();
    let number = |py: Python<'_>, _: &Keep, signal: i32| -> Outcome {
        let named = py.import("signal")?.getattr("Signals")?.call1((signal,));
        // A real-time signal has a number only.
        named.or_else(|_| signal.into_bound_py_any(py)).map(Object::from).map_err(Into::into)
    };
    op::new(call.function, None, Plain(Mapped::new(wait, number)))
}

pub(crate) fn enter(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let this = this::<SignalSetBase>(call, py)?;
    let (set, block) = (this.set.clone(), this.block.clone());
    let enter = async move {
        if set.is_entered() {
            return Ok(false);
        }
        // What is left of a block that ended with its kernel goes first.
        drop(block.take());
        let watching = set.watch().await?;
        *block.borrow_mut() = Some(watching);
        Ok(true)
    };
    let entered = |_: Python<'_>, keep: &Keep, entered: bool| -> Outcome {
        if !entered {
            let message = "the SignalSet has been entered already, and not left";
            return Err(PyAssertionError::new_err(message).into());
        }
        // SAFETY: the op is made with the set as its object.
        Ok(unsafe { Object::borrowed(keep.as_ptr()) })
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(enter, entered))
}

pub(crate) fn exit(py: Python<'_>, call: &Call<'_>) -> Outcome {
    // At once, not when the op is polled: in a coroutine that is closed, it never is, and the
    // handlers are to be back all the same.
    drop(this::<SignalSetBase>(call, py)?.block.take());
    let leave = YieldNow::uncancellable();
    op::new(call.function, None, Plain(Mapped::new(leave, |_, _, ()| Ok(Object::none()))))
}
