//! Time in Python: `sleep`, limits, shields, and pending cancellations.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use curio::Sleep;
use curio::embed::{self, TimeoutRegion, Verdict};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::coroutine::{Sent, instantiate, resume};
use crate::error::{self, Origin, classes, timeout_of};
use crate::function::Call;
use crate::object::{Object, Outcome, Raised, repr_of, take_error};
use crate::op::{self, Instant, Keep, Mapped, Operation, Plain};

/// A time in seconds, as a duration; negative is zero. `None` for none, if that is allowed.
fn seconds(call: &Call<'_>, py: Python<'_>, index: usize, name: &str) -> PyResult<Duration> {
    // SAFETY: a live object, attached; -1 may mean that an error is set. The second call would
    // make a float of an int first.
    let value = unsafe {
        match ffi::PyLong_CheckExact(call.ptr(index)) {
            0 => ffi::PyFloat_AsDouble(call.ptr(index)),
            _ => ffi::PyLong_AsDouble(call.ptr(index)),
        }
    };
    if value == -1.0
        && let Some(error) = PyErr::take(py)
    {
        let given = call.get(py, index);
        if !error.is_instance_of::<PyTypeError>(py) {
            // Its own conversion has failed: too large an int, or whatever its class says.
            return Err(error);
        }
        let message = format!("{name}() needs a number of seconds, not {}", repr_of(&given)?);
        return Err(PyTypeError::new_err(message));
    }
    if value.is_nan() {
        return Err(PyValueError::new_err(format!("{name}() needs a number of seconds, not nan")));
    }
    // Beyond some centuries, it is for ever.
    Ok(Duration::try_from_secs_f64(value.max(0.0)).unwrap_or(Duration::MAX))
}

/// When a region ends. `None`: it sets no limit of its own.
#[derive(Clone, Copy)]
enum Limit {
    After(Option<Duration>),
    /// A moment of the kernel's clock, in nanoseconds.
    At(Option<u64>),
}

impl Limit {
    fn after(call: &Call<'_>, py: Python<'_>, name: &str) -> PyResult<Limit> {
        let limit = (!call.is_none(0)).then(|| seconds(call, py, 0, name)).transpose()?;
        Ok(Limit::After(limit))
    }

    fn at(call: &Call<'_>, py: Python<'_>, name: &str) -> PyResult<Limit> {
        deadline(call, py, 0, name).map(Limit::At)
    }

    fn enter(self) -> curio::Result<TimeoutRegion> {
        match self {
            Limit::After(limit) => TimeoutRegion::enter(limit),
            Limit::At(deadline) => TimeoutRegion::enter_until(|_| deadline),
        }
    }
}

/// A moment of the kernel's clock, in nanoseconds; `None` for none.
pub(crate) fn deadline(
    call: &Call<'_>,
    py: Python<'_>,
    index: usize,
    name: &str,
) -> PyResult<Option<u64>> {
    if call.is_none(index) {
        return Ok(None);
    }
    let clock = seconds(call, py, index, name)?;
    Ok(Some(u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX)))
}

/// `sleep(seconds)`
pub(crate) fn sleep(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let sleep = curio::sleep(seconds(call, py, 0, "sleep")?);
    op::new(call.function, None, Plain(SleepOp(sleep)))
}

struct SleepOp(Sleep);

impl Operation for SleepOp {
    const KEEPS: bool = false;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        _keep: &Keep,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        let sleep = Pin::new(&mut self.get_mut().0);
        Future::poll(sleep, cx).map(|woken| match woken {
            // SAFETY: attached; a new reference, or null with the error set.
            Ok(clock) => unsafe { Object::owned(ffi::PyFloat_FromDouble(clock.as_secs_f64())) },
            Err(error) => Err(error::raise(py, &error)),
        })
    }
}

/// `wake_at(clock)`
pub(crate) fn wake_at(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let sleep = curio::sleep_until(seconds(call, py, 0, "wake_at")?);
    let woken = |_: Python<'_>, _: &Keep, clock: Duration| {
        // SAFETY: attached; a new reference, or null with the error set.
        unsafe { Object::owned(ffi::PyFloat_FromDouble(clock.as_secs_f64())) }
    };
    op::new(call.function, None, Plain(Mapped::new(sleep, woken)))
}

/// `clock()`
pub(crate) fn clock(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let clock = |py: Python<'_>, _: &Keep| {
        let clock = curio::clock().map_err(|error| error::raise(py, &error))?;
        // SAFETY: attached; a new reference, or null with the error set.
        unsafe { Object::owned(ffi::PyFloat_FromDouble(clock.as_secs_f64())) }
    };
    op::new(call.function, None, Instant::new(clock))
}

// Timeouts.

/// What is to happen when the limit of a region has expired.
enum OnExpiry {
    Raise,
    /// The region ends as if nothing had happened, with this result.
    Ignore(Object),
}

/// A region with a limit, on its way out: what it makes of the exception that leaves it.
///
/// `Ok(None)`: the limit has expired, and is ignored. `Ok(Some(exception))`: raise this.
fn leave(
    py: Python<'_>,
    region: &mut TimeoutRegion,
    exception: &Bound<'_, PyAny>,
    on_expiry: &OnExpiry,
) -> PyResult<Option<PyErr>> {
    let timeout = timeout_of(exception)?;
    match region.leave_with(timeout) {
        None | Some(Verdict::Passing) => Ok(Some(PyErr::from_value(exception.clone()))),
        Some(Verdict::Own(_)) if matches!(on_expiry, OnExpiry::Ignore(_)) => Ok(None),
        Some(Verdict::Own(own)) => {
            if exception.is_instance(classes(py).task_timeout.bind(py))? {
                error::mark(exception, &own)?;
                return Ok(Some(PyErr::from_value(exception.clone())));
            }
            // Inside, it was an outer region's timeout; outside, it is this one's.
            let own = error::timed_out(py, &own)?;
            own.value(py).setattr("__traceback__", exception.getattr("__traceback__")?)?;
            own.set_cause(py, None);
            Ok(Some(own))
        }
        Some(Verdict::Uncaught) => {
            let message = "the timeout of an inner timeout_after was not handled there, and the \
                           one around it has not expired";
            let class = classes(py).uncaught_timeout.bind(py).clone();
            let uncaught = PyErr::from_type(class, message);
            uncaught.set_cause(py, Some(PyErr::from_value(exception.clone())));
            Ok(Some(uncaught))
        }
    }
}

/// Leaves a region of which nobody asks how it ended; `handled` is the exception that is being
/// handled there, or `None`.
pub(crate) fn leave_unseen(
    py: Python<'_>,
    region: &mut TimeoutRegion,
    handled: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if handled.is_none() {
        region.leave_with(None);
        return Ok(());
    }
    leave(py, region, handled, &OnExpiry::Raise).map(drop)
}

/// What a region may overrun in silence. On a busy machine less says nothing about the program.
const TOLERATED_OVERRUN: Duration = Duration::from_millis(50);

/// Leaves a region without an exception; tells if its time is long over all the same.
fn leave_in_time(py: Python<'_>, region: &mut TimeoutRegion) -> PyResult<()> {
    let overrun = region.overrun().filter(|&overrun| overrun > TOLERATED_OVERRUN);
    region.leave_with(None);
    let Some(overrun) = overrun else { return Ok(()) };
    let logger = py.import("logging")?.call_method1("getLogger", ("curio.time",))?;
    let task = crate::task::current().unwrap_or_else(Object::none);
    let message = "%r has finished normally, but %.6f seconds after the end of its timeout";
    logger.call_method1("warning", (message, task.bind(py), overrun.as_secs_f64()))?;
    Ok(())
}

/// `timeout_after(seconds, corofunc=None, *args)`
pub(crate) fn timeout_after(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let limit = Limit::after(call, py, "timeout_after")?;
    limited(py, call, "timeout_after", limit, || OnExpiry::Raise)
}

/// `ignore_after(seconds, corofunc=None, *args, timeout_result=None)`
pub(crate) fn ignore_after(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let limit = Limit::after(call, py, "ignore_after")?;
    limited(py, call, "ignore_after", limit, || OnExpiry::Ignore(call.object(3)))
}

/// `timeout_at(clock, corofunc=None, *args)`
pub(crate) fn timeout_at(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let limit = Limit::at(call, py, "timeout_at")?;
    limited(py, call, "timeout_at", limit, || OnExpiry::Raise)
}

/// `ignore_at(clock, corofunc=None, *args, timeout_result=None)`
pub(crate) fn ignore_at(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let limit = Limit::at(call, py, "ignore_at")?;
    limited(py, call, "ignore_at", limit, || OnExpiry::Ignore(call.object(3)))
}

fn limited(
    py: Python<'_>,
    call: &Call<'_>,
    name: &'static str,
    limit: Limit,
    on_expiry: impl FnOnce() -> OnExpiry,
) -> Outcome {
    if call.is_none(1) {
        let block = TimeoutBlock::new(py, limit, on_expiry())?;
        return Ok(Bound::new(py, block)?.into_any().into());
    }
    let (corofunc, args) = (call.get(py, 1), call.get(py, 2));
    let args = args.cast::<PyTuple>().map_err(PyErr::from)?;
    let coroutine = instantiate(py, name, &corofunc, args)?;
    let driven = Driven { started: false };
    let limited = Limited { limit, region: None, driven, on_expiry: on_expiry() };
    op::new(call.function, Some(coroutine), limited)
}

/// A coroutine that an operation runs: the op's `keep`.
struct Driven {
    started: bool,
}

impl Driven {
    fn poll(&mut self, py: Python<'_>, keep: &Keep) -> Poll<Outcome> {
        let thrown = keep.take_thrown();
        if !std::mem::replace(&mut self.started, true)
            && op::is_op(keep.as_ptr())
            && op::is_started(keep.as_ptr())
        {
            let message = "the operation is being awaited already";
            return Poll::Ready(Err(PyRuntimeError::new_err(message).into()));
        }
        match resume(py, keep.as_ptr(), thrown, embed::in_foreign_future) {
            Sent::Yielded => Poll::Pending,
            Sent::Returned(value) => Poll::Ready(Ok(value)),
            Sent::Raised(raised) => Poll::Ready(Err(raised)),
        }
    }
}

/// `timeout_after` over a coroutine.
struct Limited {
    limit: Limit,
    region: Option<TimeoutRegion>,
    driven: Driven,
    on_expiry: OnExpiry,
}

impl Operation for Limited {
    const KEEPS: bool = true;
    const DELEGATES: bool = true;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        _cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        let this = self.get_mut();
        let region = match &mut this.region {
            Some(region) => region,
            none => match this.limit.enter() {
                Ok(region) => none.insert(region),
                Err(error) => return Poll::Ready(Err(error::raise(py, &error))),
            },
        };
        let driven = &mut this.driven;
        let polled = region.inside(|| driven.poll(py, keep));
        polled.map(|outcome| match outcome {
            Ok(value) => leave_in_time(py, region).map(|()| value).map_err(Raised::from),
            Err(raised) => {
                let raised = take_error(py, raised);
                match leave(py, region, raised.value(py).as_any(), &this.on_expiry)? {
                    Some(error) => Err(error.into()),
                    None => match &this.on_expiry {
                        OnExpiry::Ignore(result) => Ok(result.clone()),
                        OnExpiry::Raise => Ok(Object::none()),
                    },
                }
            }
        })
    }
}

/// `async with timeout_after(...)`: a block with a limit.
#[pyclass(frozen, module = "curio", name = "TimeoutBlock")]
pub(crate) struct TimeoutBlock {
    state: Guarded<BlockState>,
}

struct BlockState {
    limit: Limit,
    region: Option<TimeoutRegion>,
    on_expiry: OnExpiry,
    expired: bool,
    result: Object,
}

/// What only attached threads touch.
struct Guarded<T>(std::cell::RefCell<T>);

// SAFETY: the interpreter's lock keeps threads apart: every access is made by a method, or the
// deallocation, of a Python object. See also `kernel::Held`.
unsafe impl<T> Send for Guarded<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Guarded<T> {}

impl TimeoutBlock {
    fn new(_py: Python<'_>, limit: Limit, on_expiry: OnExpiry) -> PyResult<Self> {
        // SAFETY: the singleton is always alive.
        let result = unsafe { Object::borrowed(ffi::Py_True()) };
        let state = BlockState { limit, region: None, on_expiry, expired: false, result };
        Ok(TimeoutBlock { state: Guarded(state.into()) })
    }
}

#[pymethods]
impl TimeoutBlock {
    /// Whether the block was ended by its limit.
    #[getter]
    fn expired(&self) -> bool {
        self.state.0.borrow().expired
    }

    /// True, or what `timeout_result` says once the block was ended by its limit.
    #[getter]
    fn result(&self, py: Python<'_>) -> Py<PyAny> {
        self.state.0.borrow().result.bind(py).clone().unbind()
    }

    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let mut state = slf.get().state.0.borrow_mut();
        if state.region.is_some() {
            return Err(PyRuntimeError::new_err("the block of this timeout was entered already"));
        }
        let region = state.limit.enter();
        state.region = Some(region.map_err(|error| take_error(py, error::raise(py, &error)))?);
        drop(state);
        ready(py, slf.into_any().into())
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        exception: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let region = self.state.0.borrow_mut().region.take();
        let Some(mut region) = region else {
            return Err(PyRuntimeError::new_err("the block of this timeout was not entered"));
        };
        if exception.is_none() {
            leave_in_time(py, &mut region)?;
            return ready(py, Object::none());
        }
        let mut state = self.state.0.borrow_mut();
        match leave(py, &mut region, exception, &state.on_expiry)? {
            Some(error) => {
                if error.is_instance(py, classes(py).task_timeout.bind(py)) {
                    state.expired = true;
                    state.result = Object::none();
                }
                // The exception of the body goes on by itself.
                if error.value(py).is(exception) {
                    return ready(py, Object::none());
                }
                Err(error)
            }
            None => {
                state.expired = true;
                if let OnExpiry::Ignore(result) = &state.on_expiry {
                    state.result = result.clone();
                }
                // SAFETY: the singleton is always alive.
                ready(py, unsafe { Object::borrowed(ffi::Py_True()) })
            }
        }
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        enter_plainly(slf.as_any(), "a timeout")
    }

    #[pyo3(signature = (*exception))]
    fn __exit__<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        leave_plainly(slf.as_any(), "a timeout", exception)
    }
}

/// A plain `with`: in an async thread as `async with`, elsewhere an error.
fn enter_plainly<'py>(block: &Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyAny>> {
    block.py().import("curio._plain")?.call_method1("enter", (block, what))
}

/// Its end.
fn leave_plainly<'py>(
    block: &Bound<'py, PyAny>,
    what: &str,
    exception: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    block.py().import("curio._plain")?.call_method1("leave", (block, what, exception))
}

/// An awaitable that has the value already.
fn ready(py: Python<'_>, value: Object) -> PyResult<Py<PyAny>> {
    let ready = op::new(std::ptr::null_mut(), Some(value), Ready);
    ready.map(|op| op.bind(py).unbind()).map_err(|raised| take_error(py, raised))
}

/// See `ready`: the value is the op's object.
struct Ready;

impl Operation for Ready {
    const KEEPS: bool = true;
    const NEEDS_KERNEL: bool = false;

    fn poll(
        self: Pin<&mut Self>,
        _py: Python<'_>,
        keep: &Keep,
        _cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        // SAFETY: the op was made with an object.
        Poll::Ready(Ok(unsafe { Object::borrowed(keep.as_ptr()) }))
    }
}

// Shields.

/// `disable_cancellation(corofunc=None, *args)`
pub(crate) fn disable_cancellation(py: Python<'_>, call: &Call<'_>) -> Outcome {
    if call.is_none(0) {
        return Ok(Bound::new(py, ShieldBlock)?.into_any().into());
    }
    let (corofunc, args) = (call.get(py, 0), call.get(py, 1));
    let args = args.cast::<PyTuple>().map_err(PyErr::from)?;
    let coroutine = instantiate(py, "disable_cancellation", &corofunc, args)?;
    op::new(call.function, Some(coroutine), Shielded { driven: Driven { started: false } })
}

/// `disable_cancellation` over a coroutine.
struct Shielded {
    driven: Driven,
}

impl Operation for Shielded {
    const KEEPS: bool = true;
    const DELEGATES: bool = true;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        _cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        embed::with_shields(|shields| shields + 1);
        let polled = self.get_mut().driven.poll(py, keep);
        let polled = polled.map(|outcome| match outcome {
            Ok(value) => Ok(value),
            Err(raised) => {
                let raised = take_error(py, raised);
                if hold_back(py, raised.value(py).as_any(), 1)? {
                    return Ok(Object::none());
                }
                Err(raised.into())
            }
        });
        embed::with_shields(|shields| shields - 1);
        polled
    }
}

/// Makes a cancellation that is raised where `inner` shields end pending again, if there are
/// others around them; says whether it has.
fn hold_back(py: Python<'_>, exception: &Bound<'_, PyAny>, inner: u32) -> PyResult<bool> {
    let is_cancellation = exception.is_instance(classes(py).cancelled_error.bind(py))?;
    if !is_cancellation || embed::with_shields(|shields| shields) <= inner {
        return Ok(false);
    }
    set_pending(py, Some(exception.clone().unbind()))?;
    Ok(true)
}

/// `async with disable_cancellation()`: a block in which nothing cancels.
#[pyclass(frozen, module = "curio", name = "ShieldBlock")]
pub(crate) struct ShieldBlock;

#[pymethods]
impl ShieldBlock {
    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        ensure_running()?;
        embed::with_shields(|shields| shields + 1);
        ready(slf.py(), slf.into_any().into())
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        exception: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        embed::with_shields(|shields| shields.saturating_sub(1));
        let held_back = !exception.is_none() && hold_back(py, exception, 0)?;
        // SAFETY: the singletons are always alive.
        ready(py, unsafe {
            Object::borrowed(if held_back { ffi::Py_True() } else { ffi::Py_False() })
        })
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        enter_plainly(slf.as_any(), "a shield")
    }

    #[pyo3(signature = (*exception))]
    fn __exit__<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        leave_plainly(slf.as_any(), "a shield", exception)
    }
}

/// `enable_cancellation(corofunc=None, *args)`
pub(crate) fn enable_cancellation(py: Python<'_>, call: &Call<'_>) -> Outcome {
    if call.is_none(0) {
        return Ok(Bound::new(py, OpenBlock::default())?.into_any().into());
    }
    let (corofunc, args) = (call.get(py, 0), call.get(py, 1));
    let args = args.cast::<PyTuple>().map_err(PyErr::from)?;
    let coroutine = instantiate(py, "enable_cancellation", &corofunc, args)?;
    op::new(call.function, Some(coroutine), Opened { driven: Driven { started: false } })
}

/// The number of shields that are to be opened.
fn shields() -> PyResult<u32> {
    match embed::with_shields(|shields| shields) {
        0 => Err(PyRuntimeError::new_err(
            "enable_cancellation() is for the inside of disable_cancellation()",
        )),
        shields => Ok(shields),
    }
}

/// Makes a cancellation that has ended what was open pending; says whether it has.
fn close_again(py: Python<'_>, exception: &Bound<'_, PyAny>) -> PyResult<bool> {
    let is_cancellation = exception.is_instance(classes(py).cancelled_error.bind(py))?;
    if is_cancellation {
        set_pending(py, Some(exception.clone().unbind()))?;
    }
    Ok(is_cancellation)
}

/// `enable_cancellation` over a coroutine.
struct Opened {
    driven: Driven,
}

impl Operation for Opened {
    const KEEPS: bool = true;
    const DELEGATES: bool = true;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        _cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        let shields = match shields() {
            Ok(shields) => shields,
            Err(error) => return Poll::Ready(Err(error.into())),
        };
        embed::with_shields(|_| 0);
        let polled = self.get_mut().driven.poll(py, keep);
        embed::with_shields(|_| shields);
        polled.map(|outcome| {
            let Err(raised) = outcome else { return outcome };
            let raised = take_error(py, raised);
            if close_again(py, raised.value(py).as_any())? {
                return Ok(Object::none());
            }
            Err(raised.into())
        })
    }
}

/// `async with enable_cancellation()`: a block inside of a shield that can be cancelled.
#[pyclass(frozen, module = "curio", name = "OpenBlock")]
#[derive(Default)]
pub(crate) struct OpenBlock {
    shields: std::sync::atomic::AtomicU32,
}

#[pymethods]
impl OpenBlock {
    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        ensure_running()?;
        slf.get().shields.store(shields()?, std::sync::atomic::Ordering::Relaxed);
        embed::with_shields(|_| 0);
        ready(slf.py(), slf.into_any().into())
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        exception: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        let shields = self.shields.load(std::sync::atomic::Ordering::Relaxed);
        embed::with_shields(|_| shields);
        let closed = !exception.is_none() && close_again(py, exception)?;
        // SAFETY: the singletons are always alive.
        ready(py, unsafe {
            Object::borrowed(if closed { ffi::Py_True() } else { ffi::Py_False() })
        })
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        enter_plainly(slf.as_any(), "enable_cancellation()")
    }

    #[pyo3(signature = (*exception))]
    fn __exit__<'py>(
        slf: &Bound<'py, Self>,
        exception: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        leave_plainly(slf.as_any(), "enable_cancellation()", exception)
    }
}

fn ensure_running() -> PyResult<()> {
    if embed::is_running() {
        return Ok(());
    }
    Err(PyRuntimeError::new_err("there is nothing to shield outside of a Curio kernel"))
}

// Pending cancellations.

fn set_pending(py: Python<'_>, exception: Option<Py<PyAny>>) -> PyResult<()> {
    // A timeout that is put back goes when its region is left.
    let timeout = match &exception {
        Some(exception) => timeout_of(exception.bind(py))?.map(|timeout| timeout.owner),
        None => None,
    };
    let cancellation = exception
        .map(|exception| Origin::with_exception(exception).into_cancellation(py))
        .transpose()?;
    embed::set_own_cancel(cancellation.map(Arc::new), timeout);
    Ok(())
}

/// Takes the pending cancellation as an exception.
fn take_pending(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    let Some(error) = embed::take_pending() else { return Ok(None) };
    Ok(Some(error::to_python(py, &error)?.into_value(py).into_any()))
}

/// `check_cancellation(exc_type=None)`
pub(crate) fn check_cancellation(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let wanted = (!call.is_none(0)).then(|| call.object(0));
    let keep = wanted.clone();
    let check = move |py: Python<'_>, _: &Keep| check_now(py, wanted.as_ref());
    op::new(call.function, keep, Instant::new(check))
}

fn check_now(py: Python<'_>, wanted: Option<&Object>) -> Outcome {
    let Some(pending) = take_pending(py)? else { return Ok(Object::none()) };
    let fits = wanted.map_or(Ok(true), |wanted| pending.bind(py).is_instance(&wanted.bind(py)))?;
    if !fits {
        set_pending(py, Some(pending))?;
        return Ok(Object::none());
    }
    if embed::with_shields(|shields| shields) == 0 {
        return Err(PyErr::from_value(pending.into_bound(py)).into());
    }
    if wanted.is_none() {
        set_pending(py, Some(pending.clone_ref(py)))?;
    }
    Ok(pending.into_bound(py).into())
}

/// `set_cancellation(exc)`
pub(crate) fn set_cancellation(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let exception = call.get(py, 0);
    if !exception.is_none() && !exception.is_instance_of::<pyo3::exceptions::PyBaseException>() {
        let message = format!("exc must be an exception or None, not {}", repr_of(&exception)?);
        return Err(PyTypeError::new_err(message).into());
    }
    let set = |py: Python<'_>, keep: &Keep| {
        let former = take_pending(py)?;
        // SAFETY: the op is made with the exception, or None, as its object.
        let exception = unsafe { Bound::from_borrowed_ptr(py, keep.as_ptr()) };
        set_pending(py, (!exception.is_none()).then(|| exception.unbind()))?;
        Ok(former.map_or_else(Object::none, |former| former.into_bound(py).into()))
    };
    op::new(call.function, Some(exception.into()), Instant::new(set))
}
