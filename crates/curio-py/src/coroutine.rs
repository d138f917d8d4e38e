//! Python coroutines: making them from what users give, and running them as a task's body.

use std::future::Future;
use std::pin::Pin;
use std::ptr;
use std::rc::Rc;
use std::task::{Context, Poll};

use curio::embed::End;
use pyo3::exceptions::{PyException, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::error::{Origin, is_cancellation};
use crate::frames;
use crate::function;
use crate::kernel::{self, Settings};
use crate::object::{Object, Outcome, Raised, repr_of, take_error, text_of};
use crate::op;
use crate::task::{TaskObject, inner};

/// The coroutine that `target(*args)` is, or that `target` itself is.
pub(crate) fn instantiate(
    py: Python<'_>,
    operation: &str,
    target: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
) -> Outcome {
    instantiate_with(py, operation, target, args, None)
}

/// As `instantiate`, with keyword arguments.
pub(crate) fn instantiate_with(
    py: Python<'_>,
    operation: &str,
    target: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> Outcome {
    if is_coroutine(target)? {
        if !args.is_empty() || kwargs.is_some_and(|kwargs| !kwargs.is_empty()) {
            let message = format!(
                "{operation}() got a coroutine object and arguments for it; arguments go with a \
                 coroutine function"
            );
            return Err(PyTypeError::new_err(message).into());
        }
        ensure_fresh(py, target)?;
        return Ok(target.clone().into());
    }
    if !target.is_callable() {
        let message = format!(
            "{operation}() needs a coroutine or a coroutine function, not {}",
            describe(target)
        );
        return Err(PyTypeError::new_err(message).into());
    }
    let made = call(py, target, args, kwargs)?;
    if !is_coroutine(&made)? {
        let message = format!(
            "{operation}() needs a coroutine function, but {} returned {}, which is not a coroutine",
            name(target),
            describe(&made)
        );
        return Err(PyTypeError::new_err(message).into());
    }
    Ok(made.into())
}

/// Calls `target`, where coroutines are made for it: functions with a twin for other callers look
/// who calls.
fn call<'py>(
    py: Python<'py>,
    target: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    // In a kernel, the caller is a coroutine.
    if curio::embed::is_running() || target.getattr_opt("_awaitable")?.is_none() {
        return target.call(args, kwargs);
    }
    let caller = py.import("curio.task")?.getattr("_call")?;
    let kwargs = kwargs.cloned().unwrap_or_else(|| PyDict::new(py));
    match caller.call1((target, args, kwargs))?.call_method1("send", (py.None(),)) {
        Err(stop) if stop.is_instance_of::<pyo3::exceptions::PyStopIteration>(py) => {
            stop.value(py).getattr("value")
        }
        other => other,
    }
}

/// An object and its type, in words.
fn describe(object: &Bound<'_, PyAny>) -> String {
    let class = object.get_type();
    let class = class.name().map_or_else(|_| "?".into(), |name| text_of(&name));
    let object = kernel::settle(object.py(), repr_of(object)).unwrap_or_else(|| "?".into());
    format!("{object} of type '{class}'")
}

/// The name that `ps` shows for a coroutine.
pub(crate) fn name(coroutine: &Bound<'_, PyAny>) -> String {
    let qualname = pyo3::intern!(coroutine.py(), "__qualname__");
    // Of an object that is like a coroutine, its class's.
    let name = coroutine.getattr(qualname).or_else(|_| coroutine.get_type().getattr(qualname));
    name.map_or_else(|_| describe(coroutine), |name| text_of(&name))
}

fn is_coroutine(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    // SAFETY: a live object, and classes that are static.
    unsafe {
        if ffi::PyCoro_CheckExact(object.as_ptr()) != 0 || op::is_op(object.as_ptr()) {
            return Ok(true);
        }
        // What it mostly is if it is not that: the look-ups below cost more than a task.
        let class = ffi::Py_TYPE(object.as_ptr());
        let function = [&raw mut ffi::PyFunction_Type, &raw mut PyMethod_Type];
        if function.contains(&class) || function::is_function(object.as_ptr()) {
            return Ok(false);
        }
    }
    let py = object.py();
    // Generators that `types.coroutine` has marked, and what other compilers make.
    let inspect = py.import("inspect")?;
    if inspect.call_method1("isgenerator", (object,))?.is_truthy()? {
        return inspect.call_method1("isawaitable", (object,))?.is_truthy();
    }
    let coroutine = py.import("collections.abc")?.getattr("Coroutine")?;
    object.is_instance(&coroutine)
}

// SAFETY: the interpreter's own declaration of this type.
unsafe extern "C" {
    static mut PyMethod_Type: ffi::PyTypeObject;
}

/// A coroutine can be run by one task, once.
fn ensure_fresh(py: Python<'_>, coroutine: &Bound<'_, PyAny>) -> Outcome<()> {
    if is_fresh(py, coroutine) {
        return Ok(());
    }
    let message = format!("{} is being awaited already, or has ended", describe(coroutine));
    Err(PyRuntimeError::new_err(message).into())
}

fn is_fresh(py: Python<'_>, coroutine: &Bound<'_, PyAny>) -> bool {
    if op::is_op(coroutine.as_ptr()) {
        return !op::is_started(coroutine.as_ptr());
    }
    // SAFETY: a live object.
    if unsafe { ffi::PyCoro_CheckExact(coroutine.as_ptr()) } == 0 {
        return true;
    }
    let awaits = coroutine.getattr(pyo3::intern!(py, "cr_await"));
    awaits.is_ok_and(|awaits| awaits.is_none())
}

/// What one resumption of a coroutine has come to.
pub(crate) enum Sent {
    /// It has yielded, to the kernel's knowledge: it is blocked in a trap.
    Yielded,
    Returned(Object),
    Raised(Raised),
}

/// Resumes a coroutine; `thrown` is raised where it waits. `awaits_foreign` tells whether the task
/// is about to yield without being blocked in a trap.
///
/// What it yields must have come from one of our operations. Anything else is thrown back at
/// the line that awaits it, as an error that names it.
pub(crate) fn resume(
    py: Python<'_>,
    coroutine: *mut ffi::PyObject,
    thrown: Option<Object>,
    awaits_foreign: impl Fn() -> bool,
) -> Sent {
    let mut sent = match thrown {
        None => send(coroutine),
        Some(thrown) => throw(py, coroutine, &thrown),
    };
    loop {
        let yielded = match sent {
            Ok(Some(yielded)) => yielded,
            Ok(None) => return Sent::Yielded,
            Err(Ok(value)) => return Sent::Returned(value),
            Err(Err(raised)) => return Sent::Raised(raised),
        };
        let yielded = yielded.bind(py);
        if yielded.is_none() && !awaits_foreign() {
            return Sent::Yielded;
        }
        let message = format!(
            "the task has awaited something that is not Curio's: {} was yielded to the kernel; \
             awaitables of asyncio, trio and other libraries work only in their own",
            describe(&yielded)
        );
        let error = PyRuntimeError::new_err(message).into_value(py).into_bound(py).into_any();
        sent = throw(py, coroutine, &Object::from(error));
    }
}

/// `Ok`: yielded. `Err(Ok)`: returned. `Err(Err)`: raised.
type Step = Result<Option<Object>, Result<Object, Raised>>;

fn send(coroutine: *mut ffi::PyObject) -> Step {
    let mut result = ptr::null_mut();
    // SAFETY: a live coroutine, attached; on NEXT and RETURN the result is a new reference.
    unsafe {
        match ffi::PyIter_Send(coroutine, ffi::Py_None(), &mut result) {
            ffi::PySendResult::PYGEN_NEXT => Ok(Object::owned(result).ok()),
            ffi::PySendResult::PYGEN_RETURN => Err(Object::owned(result)),
            ffi::PySendResult::PYGEN_ERROR => Err(Err(Raised)),
        }
    }
}

fn throw(py: Python<'_>, coroutine: *mut ffi::PyObject, exception: &Object) -> Step {
    // SAFETY: a live coroutine.
    let coroutine = unsafe { Bound::from_borrowed_ptr(py, coroutine) };
    match coroutine.call_method1(pyo3::intern!(py, "throw"), (exception.bind(py),)) {
        Ok(yielded) => Ok(Some(yielded.into())),
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyStopIteration>(py) => {
            let value = error.value(py).getattr("value");
            Err(value.map(Object::from).map_err(Raised::from))
        }
        Err(error) => Err(Err(error.into())),
    }
}

/// The body of a task that is a Python coroutine.
pub(crate) struct CoroutineBody {
    /// Strong: a live task's object lives.
    task: Object,
    settings: Rc<Settings>,
    started: bool,
}

impl CoroutineBody {
    pub(crate) fn new(task: Object, settings: Rc<Settings>) -> Self {
        CoroutineBody { task, settings, started: false }
    }

    fn task(&self) -> *mut TaskObject {
        self.task.as_ptr().cast()
    }
}

impl Future for CoroutineBody {
    type Output = End;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        // SAFETY: the kernel is run by methods of `Kernel`, in attached threads, and re-attaches
        // after its poll before it resumes a task.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: the object is a task, and lives as long as its body.
        let (coroutine, context) = unsafe { inner(this.task()).running() };
        if !std::mem::replace(&mut this.started, true) {
            // Two tasks may have been given the same coroutine before either has run.
            // SAFETY: the task holds a reference to its coroutine.
            let coroutine = unsafe { Bound::from_borrowed_ptr(py, coroutine) };
            if let Err(raised) = ensure_fresh(py, &coroutine) {
                return Poll::Ready(this.raised(py, raised));
            }
        }
        // SAFETY: a live context, which no other thread has entered: it is the task's own.
        if unsafe { ffi::PyContext_Enter(context) } < 0 {
            return Poll::Ready(this.raised(py, Raised));
        }
        // SAFETY: as above.
        let sent = resume(py, coroutine, None, || unsafe { inner(this.task()) }.is_running());
        // Leaving needs a clear error indicator, like all Python calls.
        let sent = match sent {
            Sent::Raised(raised) => Err(take_error(py, raised)),
            other => Ok(other),
        };
        // SAFETY: the context was entered above, and what the coroutine has entered it has left.
        unsafe { ffi::PyContext_Exit(context) };
        match sent {
            Ok(Sent::Yielded) => Poll::Pending,
            Ok(Sent::Returned(value)) => {
                // SAFETY: as above.
                unsafe { inner(this.task()).set_result(value) };
                Poll::Ready(End::Returned)
            }
            Ok(Sent::Raised(raised)) => Poll::Ready(this.raised(py, raised)),
            Err(error) => Poll::Ready(this.ended_with(py, &error)),
        }
    }
}

impl CoroutineBody {
    fn raised(&self, py: Python<'_>, raised: Raised) -> End {
        self.ended_with(py, &take_error(py, raised))
    }

    /// Notes the exception; reports it, unless it is the main task's, which `run` raises.
    fn ended_with(&self, py: Python<'_>, error: &PyErr) -> End {
        let exception = error.value(py);
        // SAFETY: the object is a task, and lives as long as its body.
        let task = unsafe { inner(self.task()) };
        let is_main = self.settings.main.get() == self.task.as_ptr();
        let asked = task.origin(py).ok().flatten();
        let was_asked = asked.is_some();
        let is_asked = asked.as_ref().is_some_and(|asked| asked.get().asks_for(exception.as_any()));
        let is_cancellation = is_cancellation(exception.as_any());
        if asked.is_some_and(|asked| Origin::explains(&asked, exception.as_any())) {
            task.set_plainly_cancelled();
            return End::Cancelled;
        }
        frames::leave_out_our_own(exception.as_any());
        task.set_exception(exception.clone().into_any().into());
        if is_asked || (is_cancellation && (was_asked || !is_main)) {
            // An intended end needs no traceback, which would keep every local alive.
            if is_cancellation {
                // SAFETY: a live exception; None is allowed for a traceback.
                unsafe { ffi::PyException_SetTraceback(exception.as_ptr(), ffi::Py_None()) };
            }
            return End::Cancelled;
        }
        if !is_cancellation && !exception.is_instance_of::<PyException>() {
            self.settings.fatal.set(Some(error.clone_ref(py)));
            return End::Fatal;
        }
        let reported = !is_main && self.settings.report(py, &self.task, error);
        if self.settings.pdb.get() {
            kernel::debug(py, &self.task, error, reported);
        }
        End::Failed
    }
}

impl Drop for CoroutineBody {
    fn drop(&mut self) {
        // SAFETY: bodies are dropped by the kernel, which is run, and dropped, by attached threads;
        // the object is a task, which was untracked when it was made, and once has a body.
        unsafe {
            ffi::PyObject_GC_Track(self.task.as_ptr().cast());
            inner(self.task()).abandon(Python::assume_attached());
        }
    }
}
