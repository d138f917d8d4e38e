//! The requests below the package's operations: `curio/traps.py`, and the lines of `curio/sched.py`.

use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use curio::embed::{Direction, Lent, TimeoutRegion, TurnTrap, Wait, ended};
use curio::sched::{Barrier, Fifo};
use curio::{TaskRef, TaskState};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::coroutine::instantiate_with;
use crate::error::{raise, seconds};
use crate::function::Call;
use crate::kernel;
use crate::object::{Attached, Object, Outcome, repr_of, take_error};
use crate::op::{self, Instant, Keep, Mapped, Operation, Plain};
use crate::sync::{Figures, figures};
use crate::task::{self, inner, is_task, object_of};
use crate::time;

// Descriptors.

/// A descriptor that is not ours.
struct Number(RawFd);

impl AsFd for Number {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is not negative. Whoever has passed it keeps it open; if it is closed all the
        // same, the calls of the system that are made with it say so.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// The number of an object with `fileno()`, or of an int.
fn number(py: Python<'_>, call: &Call<'_>) -> PyResult<RawFd> {
    // SAFETY: attached, and a live object; -1 with an error set.
    match unsafe { ffi::PyObject_AsFileDescriptor(call.ptr(0)) } {
        -1 => Err(PyErr::fetch(py)),
        number => Ok(number),
    }
}

/// `_read_wait(fileobj)` and `_write_wait(fileobj)`
pub(crate) fn io_wait(py: Python<'_>, call: &Call<'_>, direction: Direction) -> Outcome {
    let wait = Lent::wait(Number(number(py, call)?), direction);
    // The object is kept: its end would close the descriptor.
    op::new(call.function, Some(call.object(0)), Mapped::new(wait, |_, _, ()| Ok(Object::none())))
}

/// `_child_ended(pidfd)`
pub(crate) fn child_ended(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let ended = ended(Number(number(py, call)?));
    op::new(call.function, None, Plain(Mapped::new(ended, |_, _, ()| Ok(Object::none()))))
}

/// `_io_release(fileobj)`
pub(crate) fn io_release(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let number = number(py, call)?;
    let release = move |_: Python<'_>, _: &Keep| {
        Lent::release(number);
        Ok(Object::none())
    };
    op::new(call.function, Some(call.object(0)), Instant::new(release))
}

/// `_io_waiting(fileobj)`
pub(crate) fn io_waiting(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let number = number(py, call)?;
    let look = move |py: Python<'_>, _: &Keep| {
        let (reader, writer) = Lent::waiting(number);
        let object = |task: Option<TaskRef>| {
            task.and_then(|task| object_of(&task)).map(|task| task.bind(py).unbind())
        };
        Ok(PyTuple::new(py, [object(reader), object(writer)])?.into_any().into())
    };
    op::new(call.function, Some(call.object(0)), Instant::new(look))
}

// Timeouts.

/// The object of the running task.
fn current() -> PyResult<Object> {
    task::current().ok_or_else(|| PyRuntimeError::new_err("no task is running"))
}

/// `_set_timeout(clock)`
pub(crate) fn set_timeout(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let deadline = time::deadline(call, py, 0, "_set_timeout")?;
    let set = move |py: Python<'_>, _: &Keep| {
        let task = current()?;
        // SAFETY: a task's object, which lives.
        let inner = unsafe { inner(task.as_ptr().cast()) };
        let previous = inner.task()?.info().timeout().map(seconds);
        let region = TimeoutRegion::enter_until(|_| deadline).map_err(|error| raise(py, &error))?;
        inner.limits().borrow_mut().push(region);
        Ok(previous.into_bound_py_any(py)?.into())
    };
    op::new(call.function, None, Instant::new(set))
}

/// `_unset_timeout(previous)`
pub(crate) fn unset_timeout(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let unset = |py: Python<'_>, _: &Keep| {
        let task = current()?;
        // SAFETY: a task's object, which lives.
        let region = unsafe { inner(task.as_ptr().cast()) }.limits().borrow_mut().pop();
        let Some(mut region) = region else {
            let message = "_unset_timeout() without a _set_timeout() of this task before it";
            return Err(PyRuntimeError::new_err(message).into());
        };
        // In a `finally` or an `except`, the timeout may be this one's, and is about to leave it.
        let handled = py.import("sys")?.call_method0("exc_info")?.get_item(1)?;
        time::leave_unseen(py, &mut region, &handled)?;
        Ok(Object::none())
    };
    op::new(call.function, None, Instant::new(unset))
}

/// `_get_kernel()`
pub(crate) fn get_kernel(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    op::new(call.function, None, Instant::new(|py: Python<'_>, _: &Keep| Ok(kernel::object(py)?)))
}

// Lines of tasks.

enum Queue {
    Fifo(Fifo),
    Barrier(Barrier),
}

/// The native base of `SchedFIFO` and `SchedBarrier`.
#[pyclass(subclass, frozen, module = "curio", name = "SchedLine")]
pub(crate) struct SchedLine(Attached<Queue>);

impl SchedLine {
    fn suspend(&self, reason: TaskState) -> Wait<TurnTrap> {
        match &*self.0 {
            Queue::Fifo(line) => line.suspend(reason),
            Queue::Barrier(barrier) => barrier.suspend(reason),
        }
    }

    fn wake(&self, n: usize) {
        match &*self.0 {
            Queue::Fifo(line) => line.wake(n),
            Queue::Barrier(barrier) => barrier.wake(),
        };
    }
}

#[pymethods]
impl SchedLine {
    #[new]
    #[pyo3(signature = (barrier, /))]
    fn new(barrier: bool) -> Self {
        let queue = if barrier { Queue::Barrier(Barrier::new()) } else { Queue::Fifo(Fifo::new()) };
        SchedLine(Attached::new(queue))
    }

    fn __len__(&self) -> usize {
        match &*self.0 {
            Queue::Fifo(line) => line.len(),
            Queue::Barrier(barrier) => barrier.len(),
        }
    }

    #[getter]
    fn _id(&self) -> u64 {
        match &*self.0 {
            Queue::Fifo(line) => line.resource().id(),
            Queue::Barrier(barrier) => barrier.resource().id(),
        }
    }

    fn _figures(&self) -> Figures {
        match &*self.0 {
            Queue::Fifo(line) => figures(line.resource()),
            Queue::Barrier(barrier) => figures(barrier.resource()),
        }
    }
}

/// `_scheduler_wait(sched, state)`
pub(crate) fn scheduler_wait(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let (sched, state) = (call.get(py, 0), call.get(py, 1));
    let Ok(reason) = state.extract::<String>() else {
        let message = format!("the state of a suspended task is a text, not {}", repr_of(&state)?);
        return Err(PyTypeError::new_err(message).into());
    };
    let reason = TaskState::named(&reason);
    let keep = Some(call.object(0));
    if let Ok(line) = sched.cast::<SchedLine>() {
        let suspend = line.get().suspend(reason);
        return op::new(call.function, keep, Mapped::new(suspend, |_, _, ()| Ok(Object::none())));
    }
    op::new(call.function, keep, Parking::New(reason))
}

/// A task that a user's scheduler has in its keeping, in a line of its own.
enum Parking {
    New(TaskState),
    Parked(Object, Wait<TurnTrap>),
}

impl Operation for Parking {
    const KEEPS: bool = true;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        let this = self.get_mut();
        if let Parking::New(reason) = *this {
            match park(py, keep) {
                Ok((task, line)) => *this = Parking::Parked(task, line.suspend(reason)),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        let Parking::Parked(task, wait) = this else { unreachable!("it was parked above") };
        let Poll::Ready(woken) = Pin::new(wait).poll(cx) else { return Poll::Pending };
        // SAFETY: a task's object, which lives.
        drop(unsafe { inner(task.as_ptr().cast()) }.parked().take());
        let undo = keep.take_second();
        Poll::Ready(match woken {
            Ok(()) => Ok(Object::none()),
            Err(error) => {
                if let Some(undo) = undo
                    && let Err(error) = undo.bind(py).call0()
                {
                    kernel::raise_in_run(py, error, Some(&undo.bind(py)));
                }
                Err(raise(py, &error))
            }
        })
    }
}

/// Hands the running task to the scheduler that the op keeps, with what undoes that in the op.
fn park(py: Python<'_>, keep: &Keep) -> PyResult<(Object, Fifo)> {
    let task = current()?;
    // SAFETY: the op was made with a scheduler; the task is alive.
    let (sched, inner) =
        unsafe { (Bound::from_borrowed_ptr(py, keep.as_ptr()), inner(task.as_ptr().cast())) };
    let undo = sched.call_method1("_kernel_suspend", (task.bind(py),))?;
    if !undo.is_callable() {
        let message = format!(
            "_kernel_suspend() has to return a function that takes the task out again, not {}",
            repr_of(&undo)?
        );
        return Err(PyTypeError::new_err(message));
    }
    keep.set_second(undo.into());
    let line = Fifo::new();
    *inner.parked().borrow_mut() = Some(line.clone());
    Ok((task, line))
}

/// `_scheduler_wake(sched, n=1)`
pub(crate) fn scheduler_wake(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let n: isize = call.get(py, 1).extract()?;
    let Ok(n) = usize::try_from(n) else {
        return Err(PyValueError::new_err(format!("wake() wakes 0 or more tasks, not {n}")).into());
    };
    let wake = move |py: Python<'_>, keep: &Keep| {
        // SAFETY: the op is made with the scheduler as its object.
        let sched = unsafe { Bound::from_borrowed_ptr(py, keep.as_ptr()) };
        match sched.cast::<SchedLine>() {
            Ok(line) => line.get().wake(n),
            Err(_) => wake_parked(&sched, n)?,
        }
        Ok(Object::none())
    };
    op::new(call.function, Some(call.object(0)), Instant::new(wake))
}

/// Wakes whom a user's scheduler names.
fn wake_parked(sched: &Bound<'_, PyAny>, n: usize) -> PyResult<()> {
    let named: Vec<Bound<'_, PyAny>> =
        sched.call_method1("_kernel_wake", (n,))?.try_iter()?.collect::<PyResult<_>>()?;
    let mut wrong = None;
    for task in named {
        if !is_task(task.as_ptr()) {
            wrong = Some(format!("_kernel_wake() gives tasks, not {}", repr_of(&task)?));
            continue;
        }
        // SAFETY: it was checked to be a task.
        let line = unsafe { inner(task.as_ptr().cast()) }.parked().take();
        match line {
            Some(line) => drop(line.wake(1)),
            None => wrong = Some(format!("{} is not suspended by a scheduler", repr_of(&task)?)),
        }
    }
    wrong.map_or(Ok(()), |wrong| Err(PyRuntimeError::new_err(wrong)))
}

/// The coroutine that `corofunc(*args, **kwargs)` gives, or `corofunc` is.
#[pyfunction]
pub(crate) fn instantiate(
    py: Python<'_>,
    corofunc: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: &Bound<'_, PyDict>,
) -> PyResult<Py<PyAny>> {
    let name = "instantiate_coroutine";
    let made = instantiate_with(py, name, corofunc, args, Some(kwargs));
    made.map(|made| made.bind(py).unbind()).map_err(|raised| take_error(py, raised))
}

/// Whether a kernel runs in this thread.
#[pyfunction]
pub(crate) fn is_running() -> bool {
    curio::embed::is_running()
}
