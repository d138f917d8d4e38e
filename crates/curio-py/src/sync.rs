//! `Event`, `Lock` and the others: the native bases of the classes in `curio/sync.py`.

use curio::embed::{Held, RawLock};
use curio::sync::{Condition, Event, Kind, RLock, Resource, Semaphore};
use pyo3::PyClass;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::classes;
use crate::function::Call;
use crate::kernel;
use crate::object::{Attached, Object, Outcome, repr_of, text_of};
use crate::op::{self, Instant, Keep, Mapped, Plain};
use crate::task;

/// Owner, tasks waiting, level, highest level, capacity.
pub(crate) type Figures = (Option<u64>, usize, usize, usize, usize);

pub(crate) fn figures(resource: &Resource) -> Figures {
    let all = resource.statistics();
    (all.owner, all.waiting, all.level, all.highest, all.capacity)
}

/// The object that a method was called on.
pub(crate) fn this<'a, T>(call: &Call<'a>, py: Python<'_>) -> PyResult<&'a T>
where
    T: PyClass<Frozen = pyo3::pyclass::boolean_struct::True> + Sync,
{
    let object = call.get(py, 0);
    let object = object.cast::<T>().map_err(|_| {
        let class = py.get_type::<T>();
        PyTypeError::new_err(format!("a method of {class} was called on something else"))
    })?;
    let object: *const T = object.get();
    // SAFETY: a frozen object's content stays where it is while the object lives, and the caller
    // of the function keeps its arguments alive during the call.
    Ok(unsafe { &*object })
}

/// An operation that refers to no object, and gives `True`.
fn gives_true<F>(call: &Call<'_>, future: F) -> Outcome
where
    F: Future<Output = curio::Result<()>>,
{
    op::new(call.function, None, Plain(Mapped::new(future, |_, _, ()| Ok(truth(true)))))
}

/// An operation that gives its own object: what `async with` binds.
fn gives_itself<F>(call: &Call<'_>, future: F) -> Outcome
where
    F: Future<Output = curio::Result<()>>,
{
    // SAFETY: the op is made with its object.
    let itself = |_: Python<'_>, keep: &Keep, ()| Ok(unsafe { Object::borrowed(keep.as_ptr()) });
    op::new(call.function, Some(call.object(0)), Mapped::new(future, itself))
}

/// An operation that does something at once.
fn at_once(call: &Call<'_>, work: impl FnOnce(Python<'_>) -> PyResult<()> + Unpin) -> Outcome {
    let work = move |py: Python<'_>, _: &Keep| Ok(work(py).map(|()| Object::none())?);
    op::new(call.function, None, Plain(Instant::new(work)))
}

pub(crate) fn truth(value: bool) -> Object {
    // SAFETY: the two are always alive.
    unsafe { Object::borrowed(if value { ffi::Py_True() } else { ffi::Py_False() }) }
}

/// A task in words: its number, its name, and where it is.
fn describe(py: Python<'_>, id: u64) -> String {
    let tasks = curio::get_all_tasks().unwrap_or_default();
    let Some(task) = tasks.iter().find(|task| task.id() == id) else {
        return format!("task {id}");
    };
    let Some(object) = task::object_of(task) else { return task.to_string() };
    let name = task::name_of(py, &object);
    let place = object.bind(py).call_method0("where").and_then(|place| place.extract());
    match kernel::settle(py, place) {
        Some((Some(file), Some(line))) => {
            let (file, line): (String, u32) = (file, line);
            format!("task {id} ({name}, at {file}:{line})")
        }
        _ => format!("task {id} ({name})"),
    }
}

/// Says of a task that it does not hold `resource`, and who does.
fn not_held(py: Python<'_>, resource: &Resource, attempt: &str) -> PyErr {
    let holder = match resource.owner() {
        Some(owner) => format!("is held by {}", describe(py, owner)),
        None => "is held by nobody".into(),
    };
    let who = task::current_identity(py).map_or_else(
        || "code outside of a task".into(),
        |(id, name)| format!("task {id} ({})", text_of(name.bind(py))),
    );
    let message = format!("{who} {attempt}, but {resource} {holder}");
    PyErr::from_type(classes(py).not_held.bind(py).clone(), message)
}

// Events.

#[pyclass(subclass, frozen, module = "curio", name = "EventBase")]
pub(crate) struct EventBase(Attached<Event>);

#[pymethods]
impl EventBase {
    #[new]
    #[pyo3(signature = (*, _of_result=false), text_signature = "()")]
    fn new(_of_result: bool) -> Self {
        let kind = if _of_result { Kind::Result } else { Kind::Event };
        EventBase(Attached::new(Event::of_kind(kind)))
    }

    /// Whether it is set.
    fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Make it not set. Tasks that were woken go on all the same.
    fn clear(&self) {
        self.0.clear();
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.0.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.0.resource())
    }
}

pub(crate) fn event_wait(py: Python<'_>, call: &Call<'_>) -> Outcome {
    gives_true(call, this::<EventBase>(call, py)?.0.wait())
}

pub(crate) fn event_set(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let set = this::<EventBase>(call, py)?.0.set();
    op::new(call.function, None, Plain(Mapped::new(set, |_, _, ()| Ok(Object::none()))))
}

// Locks.

#[pyclass(subclass, frozen, module = "curio", name = "LockBase")]
pub(crate) struct LockBase(Attached<RawLock>);

#[pymethods]
impl LockBase {
    #[new]
    fn new() -> Self {
        LockBase(Attached::new(RawLock::new()))
    }

    /// Whether some task holds it.
    fn locked(&self) -> bool {
        self.0.is_locked()
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.0.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.0.resource())
    }
}

pub(crate) fn lock_acquire(py: Python<'_>, call: &Call<'_>) -> Outcome {
    gives_true(call, this::<LockBase>(call, py)?.0.acquire())
}

pub(crate) fn lock_enter(py: Python<'_>, call: &Call<'_>) -> Outcome {
    gives_itself(call, this::<LockBase>(call, py)?.0.acquire())
}

pub(crate) fn lock_release(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let lock = this::<LockBase>(call, py)?.0.clone();
    at_once(call, move |py| {
        if lock.release() {
            return Ok(());
        }
        Err(not_held(py, lock.resource(), "has released a lock"))
    })
}

#[pyclass(subclass, frozen, module = "curio", name = "RLockBase")]
pub(crate) struct RLockBase(Attached<RLock>);

#[pymethods]
impl RLockBase {
    #[new]
    fn new() -> Self {
        RLockBase(Attached::new(RLock::new()))
    }

    /// Whether some task holds it.
    fn locked(&self) -> bool {
        self.0.is_locked()
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.0.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.0.resource())
    }
}

pub(crate) fn rlock_acquire(py: Python<'_>, call: &Call<'_>) -> Outcome {
    gives_true(call, this::<RLockBase>(call, py)?.0.acquire())
}

pub(crate) fn rlock_enter(py: Python<'_>, call: &Call<'_>) -> Outcome {
    gives_itself(call, this::<RLockBase>(call, py)?.0.acquire())
}

pub(crate) fn rlock_release(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let lock = this::<RLockBase>(call, py)?.0.clone();
    at_once(call, move |py| {
        lock.release().map_err(|_| not_held(py, lock.resource(), "has released a lock"))
    })
}

// Semaphores.

#[pyclass(subclass, frozen, module = "curio", name = "SemaphoreBase")]
pub(crate) struct SemaphoreBase(Attached<Semaphore>);

#[pymethods]
impl SemaphoreBase {
    #[new]
    #[pyo3(signature = (value, bounded))]
    fn new(value: isize, bounded: bool) -> PyResult<Self> {
        let Ok(permits) = usize::try_from(value) else {
            let message = format!("a semaphore starts with 0 or more permits, not {value}");
            return Err(PyValueError::new_err(message));
        };
        let make = if bounded { Semaphore::bounded } else { Semaphore::new };
        Ok(SemaphoreBase(Attached::new(make(permits))))
    }

    /// Whether a task that wants a permit has to wait.
    fn locked(&self) -> bool {
        self.0.value() == 0
    }

    /// Permits that can be had at once.
    #[getter]
    fn value(&self) -> usize {
        self.0.value()
    }

    #[getter]
    fn _bound(&self) -> Option<usize> {
        self.0.bound()
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.0.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.0.resource())
    }
}

pub(crate) fn semaphore_acquire(py: Python<'_>, call: &Call<'_>) -> Outcome {
    gives_true(call, this::<SemaphoreBase>(call, py)?.0.acquire_raw())
}

pub(crate) fn semaphore_enter(py: Python<'_>, call: &Call<'_>) -> Outcome {
    gives_itself(call, this::<SemaphoreBase>(call, py)?.0.acquire_raw())
}

pub(crate) fn semaphore_release(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let semaphore = this::<SemaphoreBase>(call, py)?.0.clone();
    at_once(call, move |_| {
        semaphore.release().map_err(|error| PyValueError::new_err(error.to_string()))
    })
}

// Conditions.

#[pyclass(subclass, frozen, module = "curio", name = "ConditionBase")]
pub(crate) struct ConditionBase {
    condition: Attached<Condition>,
    held: Attached<Held>,
}

#[pymethods]
impl ConditionBase {
    #[new]
    fn new(lock: &Bound<'_, PyAny>) -> PyResult<Self> {
        let held = if let Ok(lock) = lock.cast::<LockBase>() {
            Held::Lock(lock.get().0.clone())
        } else if let Ok(lock) = lock.cast::<RLockBase>() {
            Held::RLock(lock.get().0.clone())
        } else {
            let message = format!("a condition needs a Lock or an RLock, not {}", repr_of(lock)?);
            return Err(PyTypeError::new_err(message));
        };
        let condition = Attached::new(Condition::new());
        Ok(ConditionBase { condition, held: Attached::new(held) })
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.condition.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.condition.resource())
    }
}

fn is_held(held: &Held) -> bool {
    match held {
        Held::Lock(lock) => lock.is_locked(),
        Held::RLock(lock) => lock.is_ours(),
    }
}

/// The error of using a condition without its lock.
fn unheld_condition(py: Python<'_>, held: &Held, attempt: &str) -> PyErr {
    let resource = match held {
        Held::Lock(lock) => lock.resource(),
        Held::RLock(lock) => lock.resource(),
    };
    not_held(py, resource, &format!("has called Condition.{attempt}() without its lock"))
}

pub(crate) fn condition_wait(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let this = this::<ConditionBase>(call, py)?;
    let (condition, held) = (this.condition.clone(), this.held.clone());
    let wait = async move {
        if !is_held(&held) {
            // SAFETY: attached: operations are polled by slots.
            let py = unsafe { Python::assume_attached() };
            return Ok(Err(unheld_condition(py, &held, "wait")));
        }
        condition.wait_raw(&held).await?.map(Ok)
    };
    let waited = |_: Python<'_>, _: &Keep, waited: PyResult<()>| Ok(waited.map(|()| truth(true))?);
    op::new(call.function, None, Plain(Mapped::new(wait, waited)))
}

pub(crate) fn condition_notify(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let count: isize = call.get(py, 1).extract()?;
    let Ok(count) = usize::try_from(count) else {
        let message = format!("notify() wakes 0 or more tasks, not {count}");
        return Err(PyValueError::new_err(message).into());
    };
    notify(py, call, "notify", move |condition| condition.notify(count))
}

pub(crate) fn condition_notify_all(py: Python<'_>, call: &Call<'_>) -> Outcome {
    notify(py, call, "notify_all", Condition::notify_all)
}

fn notify(
    py: Python<'_>,
    call: &Call<'_>,
    attempt: &'static str,
    notify: impl FnOnce(&Condition) + Unpin,
) -> Outcome {
    let this = this::<ConditionBase>(call, py)?;
    let (condition, held) = (this.condition.clone(), this.held.clone());
    at_once(call, move |py| {
        if !is_held(&held) {
            return Err(unheld_condition(py, &held, attempt));
        }
        notify(&condition);
        Ok(())
    })
}

/// For errors of the queue's.
pub(crate) fn value_error(error: &curio::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// A task of Rust's that takes two locks, one after the other, and releases them.
#[pyfunction]
pub(crate) fn spawn_locker(
    first: &Bound<'_, LockBase>,
    second: &Bound<'_, LockBase>,
) -> PyResult<()> {
    if !curio::embed::is_running() {
        return Err(PyRuntimeError::new_err("no Curio kernel is running in this thread"));
    }
    let (first, second) = (first.get().0.clone(), second.get().0.clone());
    curio::TaskBuilder::new().name("locker").spawn(async move {
        first.acquire().await?;
        curio::sleep(std::time::Duration::from_millis(10)).await?;
        let taken = second.acquire().await;
        if taken.is_ok() {
            second.release();
        }
        first.release();
        taken
    });
    Ok(())
}
