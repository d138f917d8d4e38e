//! `TaskGroup`: the native base of the class in `curio/task.py`.

use curio::embed::{Ended, Group, GroupUntil, Member};
use curio::{Cancellation, TaskRef};
use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::error::Origin;
use crate::function::Call;
use crate::kernel;
use crate::object::{Attached, Object, Outcome, repr_of, take_error};
use crate::op::{self, Instant, Keep, Mapped};
use crate::queue::traverse;
use crate::sync::{Figures, figures, this};
use crate::task::{self, inner, is_task};

/// A task of a group.
pub(crate) struct Kept {
    object: Object,
    task: TaskRef,
}

impl Member for Kept {
    fn task(&self) -> &TaskRef {
        &self.task
    }

    fn ended(&self) -> Ended {
        // SAFETY: attached: groups are used by operations, which slots poll. It is a task's object.
        let (py, inner) =
            unsafe { (Python::assume_attached(), inner(self.object.as_ptr().cast())) };
        inner.ended(py)
    }
}

#[pyclass(subclass, frozen, module = "curio", name = "TaskGroupBase")]
pub(crate) struct TaskGroupBase {
    group: Attached<Group<Kept>>,
    until: GroupUntil,
}

/// What `wait=` says.
fn until(wait: &Bound<'_, PyAny>) -> PyResult<GroupUntil> {
    let builtins = wait.py().import("builtins")?;
    let policies =
        [("all", GroupUntil::All), ("any", GroupUntil::Any), ("object", GroupUntil::Value)];
    for (name, until) in policies {
        if wait.is(builtins.getattr(name)?) {
            return Ok(until);
        }
    }
    if wait.is_none() {
        return Ok(GroupUntil::Nobody);
    }
    let message =
        format!("wait is one of all, any, object (not quoted) and None, not {}", repr_of(wait)?);
    Err(PyValueError::new_err(message))
}

#[pymethods]
impl TaskGroupBase {
    #[new]
    fn new(wait: &Bound<'_, PyAny>) -> PyResult<Self> {
        let until = until(wait)?;
        Ok(TaskGroupBase { group: Attached::new(Group::new()), until })
    }

    /// Takes the tasks in that the group is made with.
    fn _start_with(slf: &Bound<'_, Self>, tasks: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, group) = (slf.py(), Object::from(slf.clone().into_any()));
        for task in tasks.try_iter()? {
            let task = checked(&task?)?;
            // SAFETY: it was checked to be a task.
            if unsafe { inner(task.as_ptr().cast()) }.group().is_some() {
                let message =
                    format!("{} belongs to a task group already", repr_of(&task.bind(py))?);
                return Err(PyAssertionError::new_err(message));
            }
            add(py, &group, &task).map_err(|raised| take_error(py, raised))?;
        }
        Ok(())
    }

    /// Fails if the group takes no more tasks.
    fn _ensure_open(&self) -> PyResult<()> {
        self.group.ensure_open().map_err(|error| misuse(&error))
    }

    /// The tasks that nobody has taken out of the group, daemons aside, in the order of their ids.
    #[getter]
    fn tasks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let tasks = self.group.map(|member| {
            let daemon = member.task.info().daemon();
            (!daemon).then(|| member.object.bind(py))
        });
        PyList::new(py, tasks.into_iter().flatten())
    }

    /// The task that has ended the waiting of `join`, or None.
    #[getter]
    fn completed(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let id = self.group.completed()?;
        self.group.with(id, |member| member.object.bind(py).unbind())
    }

    /// The task whose failure has ended the waiting of `join`, or None.
    #[getter]
    fn _failed(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let id = self.group.failed()?;
        self.group.with(id, |member| member.object.bind(py).unbind())
    }

    #[getter]
    fn _joined(&self) -> bool {
        self.group.is_joined()
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.group.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.group.resource())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Members that are being changed are looked at the next time.
        let Ok(members) = self.group.members().try_borrow() else { return Ok(()) };
        members.values().try_for_each(|member| traverse(&member.object, &visit))
    }

    fn __clear__(&self) {
        drop(self.group.members().take());
    }
}

fn checked(task: &Bound<'_, PyAny>) -> PyResult<Object> {
    if is_task(task.as_ptr()) {
        return Ok(task.clone().into());
    }
    Err(PyTypeError::new_err(format!("a task group takes tasks, not {}", repr_of(task)?)))
}

fn misuse(error: &curio::Error) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

fn base<'py>(py: Python<'py>, group: &Object) -> PyResult<Bound<'py, TaskGroupBase>> {
    group.bind(py).cast_into::<TaskGroupBase>().map_err(PyErr::from)
}

/// Fails if the group takes no more tasks.
pub(crate) fn ensure_open(py: Python<'_>, group: &Object) -> PyResult<()> {
    base(py, group)?.get()._ensure_open()
}

/// Takes a task in that has no group.
pub(crate) fn add(py: Python<'_>, group: &Object, task: &Object) -> Outcome<()> {
    // SAFETY: callers have a task.
    let inner = unsafe { inner(task.as_ptr().cast()) };
    let member = Kept { object: task.clone(), task: inner.task()? };
    base(py, group)?.get().group.add(member).map_err(|error| misuse(&error))?;
    drop(inner.set_group(Some(group.clone())));
    Ok(())
}

/// A task that was joined directly leaves its group.
pub(crate) fn leave(py: Python<'_>, task: &task::Inner) {
    let (Some(group), Ok(reference)) = (task.group(), task.task()) else { return };
    if let Ok(group) = base(py, &group) {
        let group = &group.get().group;
        // What a group has to tell at its end stays.
        if !group.is_joined() {
            drop(group.take(reference.id()));
            drop(task.set_group(None));
        }
    }
}

// What the coroutine functions of the class do.

pub(crate) fn spawn(py: Python<'_>, call: &Call<'_>) -> Outcome {
    this::<TaskGroupBase>(call, py)?;
    kernel::spawn_into(py, call)
}

pub(crate) fn add_task(py: Python<'_>, call: &Call<'_>) -> Outcome {
    this::<TaskGroupBase>(call, py)?;
    let task = checked(&call.get(py, 1))?;
    let add_now = move |py: Python<'_>, keep: &Keep| {
        // SAFETY: the op is made with the group as its object, and the task as its second.
        let group = unsafe { Object::borrowed(keep.as_ptr()) };
        let Some(task) = keep.take_second() else { return Ok(Object::none()) };
        // SAFETY: it was checked to be a task.
        if unsafe { inner(task.as_ptr().cast()) }.group().is_some() {
            let message = format!("{} belongs to a task group already", repr_of(&task.bind(py))?);
            return Err(PyRuntimeError::new_err(message).into());
        }
        add(py, &group, &task).map(|()| Object::none())
    };
    op::new_with(call.function, Some(call.object(0)), Some(task), Instant::new(add_now))
}

pub(crate) fn next_done(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let group = this::<TaskGroupBase>(call, py)?.group.clone();
    let next = async move { group.next().await };
    op::new(
        call.function,
        Some(call.object(0)),
        Mapped::new(next, |_, _, member: Option<Kept>| {
            let Some(member) = member else { return Ok(Object::none()) };
            left(std::slice::from_ref(&member));
            Ok(member.object)
        }),
    )
}

/// A cancellation by the running task, at the line that it is in.
fn cancellation() -> Cancellation {
    // SAFETY: attached: operations are polled by slots.
    let py = unsafe { Python::assume_attached() };
    let origin = Origin::here(py, task::current_identity(py), None);
    origin.into_cancellation(py).unwrap_or_default()
}

/// Notes that the ends of its tasks were seen.
fn note_joined(py: Python<'_>, keep: &Keep, _: ()) -> Outcome {
    // SAFETY: the ops here are made with the group as their object.
    let group = unsafe { Object::borrowed(keep.as_ptr()) };
    base(py, &group)?.get().group.map(|member| {
        // SAFETY: it is a task's object.
        unsafe { inner(member.object.as_ptr().cast()) }.set_joined();
    });
    Ok(Object::none())
}

pub(crate) fn join(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let this = this::<TaskGroupBase>(call, py)?;
    let (group, until) = (this.group.clone(), this.until);
    let join = async move { group.join(until, cancellation).await };
    op::new(call.function, Some(call.object(0)), Mapped::new(join, note_joined))
}

/// `__aexit__(exc_type, exc, traceback)`
pub(crate) fn exit(py: Python<'_>, call: &Call<'_>) -> Outcome {
    if call.is_none(1) {
        return join(py, call);
    }
    let this = this::<TaskGroupBase>(call, py)?;
    let group = this.group.clone();
    let abort = async move { group.abort(cancellation).await };
    let ended = |py: Python<'_>, keep: &Keep, cancelled: Vec<Kept>| {
        left(&cancelled);
        note_joined(py, keep, ())
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(abort, ended))
}

pub(crate) fn cancel_remaining(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let group = this::<TaskGroupBase>(call, py)?.group.clone();
    let cancel = async move { group.cancel_remaining(cancellation).await };
    let ended = |_: Python<'_>, _: &Keep, cancelled: Vec<Kept>| {
        left(&cancelled);
        Ok(Object::none())
    };
    op::new(call.function, Some(call.object(0)), Mapped::new(cancel, ended))
}

/// Notes of tasks that were taken out that their ends were seen.
fn left(members: &[Kept]) {
    for member in members {
        // SAFETY: it is a task's object.
        let inner = unsafe { inner(member.object.as_ptr().cast()) };
        inner.set_joined();
        drop(inner.set_group(None));
    }
}
