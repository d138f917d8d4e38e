//! Activations written in Python.

use std::cell::RefCell;

use curio::{Activation, Target, TaskRef, TaskState};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::seconds;
use crate::kernel;
use crate::object::Object;
use crate::task;

/// All activations of a kernel.
pub(crate) struct PythonActivations {
    created: Vec<Object>,
    running: Vec<Object>,
    suspended: Vec<Object>,
    terminated: Vec<Object>,
    /// The task that runs: at its end, the kernel does not know its object any more.
    at_work: RefCell<Option<(u64, Object)>>,
}

/// The methods of that name; those that `curio.kernel.Activation` has by itself do nothing.
fn methods(activations: &[Bound<'_, PyAny>], name: &str) -> PyResult<Vec<Object>> {
    let mut found = Vec::new();
    for activation in activations {
        let py = activation.py();
        let base = py.import("curio.kernel")?.getattr("Activation")?.getattr(name)?;
        if let Ok(method) = activation.getattr(name)
            && !method.getattr("__func__").is_ok_and(|own| own.is(&base))
        {
            found.push(method.into());
        }
    }
    Ok(found)
}

impl PythonActivations {
    pub(crate) fn new(activations: &[Bound<'_, PyAny>]) -> PyResult<Self> {
        Ok(PythonActivations {
            created: methods(activations, "created")?,
            running: methods(activations, "running")?,
            suspended: methods(activations, "suspended")?,
            terminated: methods(activations, "terminated")?,
            at_work: RefCell::new(None),
        })
    }

    fn object(&self, task: &TaskRef) -> Option<Object> {
        match &*self.at_work.borrow() {
            Some((id, object)) if *id == task.id() => Some(object.clone()),
            _ => task::object_of(task),
        }
    }

    fn call(&self, methods: &[Object], task: &TaskRef, with_trap: bool) {
        if methods.is_empty() {
            return;
        }
        let Some(object) = self.object(task) else { return };
        // SAFETY: the kernel is run by attached threads, and tells activations between resumptions.
        let py = unsafe { Python::assume_attached() };
        for method in methods {
            let called = if with_trap {
                trap(py, task).and_then(|trap| method.bind(py).call1((object.bind(py), trap)))
            } else {
                method.bind(py).call1((object.bind(py),))
            };
            if let Err(error) = called {
                kernel::raise_in_run(py, error, Some(&method.bind(py)));
            }
        }
    }
}

impl Activation for PythonActivations {
    fn created(&self, task: &TaskRef) {
        self.call(&self.created, task, false);
    }

    fn running(&self, task: &TaskRef) {
        let former = self.at_work.replace(task::object_of(task).map(|object| (task.id(), object)));
        drop(former);
        self.call(&self.running, task, false);
    }

    fn suspended(&self, task: &TaskRef) {
        self.call(&self.suspended, task, true);
    }

    fn terminated(&self, task: &TaskRef) {
        self.call(&self.terminated, task, false);
        drop(self.at_work.take());
    }
}

/// What a task has asked for: a name, and what goes with it.
fn trap<'py>(py: Python<'py>, task: &TaskRef) -> PyResult<Bound<'py, PyTuple>> {
    let (state, info) = (task.state(), task.info());
    let name = match state {
        TaskState::Terminated => return PyTuple::new(py, ["trap_exit"]),
        TaskState::Ready | TaskState::Running | TaskState::TimeSleep => {
            let deadline = info.sleep().map(seconds).unwrap_or(0.0);
            return PyTuple::new(py, ["trap_sleep".into_py_any(py)?, deadline.into_py_any(py)?]);
        }
        TaskState::ReadWait | TaskState::WriteWait => "trap_io",
        TaskState::FutureWait => "trap_future_wait",
        _ => "trap_sched_wait",
    };
    let target = match info.target() {
        Target::Task(id) | Target::Resource(id) => id.into_py_any(py)?,
        Target::Descriptor(fd) => fd.into_py_any(py)?,
        _ => py.None(),
    };
    PyTuple::new(py, [name.into_py_any(py)?, target, state.name().into_py_any(py)?])
}
