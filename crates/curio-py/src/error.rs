//! Errors on their way between Rust and Python.
//!
//! A kind of the crate's becomes an exception of `curio.errors`; an exception that a
//! task was to be cancelled with comes back as the same object.

use std::sync::Arc;

use curio::Cancellation;
use curio::embed::{ErrorKind, Timeout};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use crate::object::{Raised, text_of};

/// The classes of `curio.errors`.
pub(crate) struct Classes {
    pub(crate) cancelled_error: Py<PyType>,
    pub(crate) task_cancelled: Py<PyType>,
    pub(crate) task_timeout: Py<PyType>,
    pub(crate) timeout_cancellation: Py<PyType>,
    pub(crate) uncaught_timeout: Py<PyType>,
    pub(crate) task_error: Py<PyType>,
    pub(crate) curio_error: Py<PyType>,
    pub(crate) not_held: Py<PyType>,
    pub(crate) task_exit: Py<PyType>,
    read_busy: Py<PyType>,
    write_busy: Py<PyType>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    let module = py.import("curio.errors")?;
    let class = |name| -> PyResult<Py<PyType>> {
        Ok(module.getattr(name)?.cast_into::<PyType>()?.unbind())
    };
    let classes = Classes {
        cancelled_error: class("CancelledError")?,
        task_cancelled: class("TaskCancelled")?,
        task_timeout: class("TaskTimeout")?,
        timeout_cancellation: class("TimeoutCancellationError")?,
        uncaught_timeout: class("UncaughtTimeoutError")?,
        task_error: class("TaskError")?,
        curio_error: class("CurioError")?,
        not_held: class("NotHeldError")?,
        task_exit: class("TaskExit")?,
        read_busy: class("ReadResourceBusy")?,
        write_busy: class("WriteResourceBusy")?,
    };
    let _ = CLASSES.set(py, classes);
    Ok(())
}

pub(crate) fn classes(py: Python<'_>) -> &'static Classes {
    CLASSES.get(py).expect("the module's initialisation has set the classes")
}

/// Seconds, as Python counts them.
pub(crate) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Sets `error` as the exception of this thread.
pub(crate) fn raise(py: Python<'_>, error: &curio::Error) -> Raised {
    to_python(py, error).unwrap_or_else(|failure| failure).into()
}

/// The exception for `error`.
pub(crate) fn to_python(py: Python<'_>, error: &curio::Error) -> PyResult<PyErr> {
    let classes = classes(py);
    let make = |class: &Py<PyType>, message: &str| {
        PyErr::from_type(class.bind(py).clone(), message.to_owned())
    };
    Ok(match error.kind() {
        ErrorKind::Cancelled(cancellation) => cancelled(py, cancellation)?,
        ErrorKind::Timeout(timeout) => timed_out(py, timeout)?,
        ErrorKind::UncaughtTimeout => make(&classes.uncaught_timeout, &error.to_string()),
        ErrorKind::Io(failure) => match failure.raw_os_error() {
            Some(errno) => os_error(py, errno)?,
            // What a Python call inside of an operation has raised.
            None => match failure.get_ref().and_then(|inner| inner.downcast_ref::<PyErr>()) {
                Some(raised) => raised.clone_ref(py),
                None => match error.raw_os_error() {
                    Some(errno) => PyOSError::new_err((errno, failure.to_string())),
                    None => PyOSError::new_err(failure.to_string()),
                },
            },
        },
        ErrorKind::ReadBusy(message) => make(&classes.read_busy, message),
        ErrorKind::WriteBusy(message) => make(&classes.write_busy, message),
        ErrorKind::TooLong(message) => PyValueError::new_err(message.clone()),
        ErrorKind::Misuse(message) => make(&classes.curio_error, message),
        _ => PyRuntimeError::new_err(error.to_string()),
    })
}

/// `OSError(errno, strerror)`, whose constructor picks the subclass.
pub(crate) fn os_error(py: Python<'_>, errno: i32) -> PyResult<PyErr> {
    let text = py.import("os")?.call_method1("strerror", (errno,))?.unbind();
    Ok(PyOSError::new_err((errno, text)))
}

/// Who has cancelled a task, from where and why.
///
/// Instances are the `origin` of a `CancelledError` and the `cancel_origin` of a `Task`; as a
/// text, they say it in words.
#[pyclass(frozen, module = "curio", name = "CancelOrigin")]
pub(crate) struct Origin {
    /// Id of the task that has asked; None for the kernel and for code outside of it.
    #[pyo3(get)]
    task_id: Option<u64>,
    /// Name of that task.
    #[pyo3(get)]
    task_name: Option<Py<PyAny>>,
    /// File of the line that has asked.
    #[pyo3(get)]
    filename: Option<Py<PyAny>>,
    /// Number of that line.
    #[pyo3(get)]
    lineno: Option<i32>,
    /// Deadline that has passed, on the kernel's clock; None unless a timeout has asked.
    #[pyo3(get)]
    deadline: Option<f64>,
    /// Reason, in words.
    #[pyo3(get)]
    reason: Option<String>,
    /// The exception, or its class, that the task is to see.
    exception: Option<Py<PyAny>>,
}

#[pymethods]
impl Origin {
    fn __str__(&self, py: Python<'_>) -> String {
        let mut text = String::new();
        match self.deadline {
            Some(deadline) => text += &format!("deadline {deadline:.6} has passed"),
            None => text += "cancelled",
        }
        if let Some(id) = self.task_id {
            text += &format!(" by task {id}");
            if let Some(name) = &self.task_name {
                text += &format!(" ({})", text_of(name.bind(py)));
            }
        }
        if let (Some(file), Some(line)) = (&self.filename, self.lineno) {
            text += &format!(" at {}:{line}", text_of(file.bind(py)));
        }
        if let Some(reason) = &self.reason {
            text += &format!(": {reason}");
        }
        text
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<CancelOrigin: {}>", self.__str__(py))
    }
}

impl Origin {
    /// The running Python code's, for a cancellation with `exception`.
    pub(crate) fn here(
        py: Python<'_>,
        by: Option<(u64, Py<PyAny>)>,
        exception: Option<Py<PyAny>>,
    ) -> Origin {
        let (filename, lineno) = crate::frames::caller(py);
        let (task_id, task_name) = by.unzip();
        Origin { task_id, task_name, filename, lineno, deadline: None, reason: None, exception }
    }

    /// What the task is to see is `exception`, and nothing else is known.
    pub(crate) fn with_exception(exception: Py<PyAny>) -> Origin {
        Origin {
            task_id: None,
            task_name: None,
            filename: None,
            lineno: None,
            deadline: None,
            reason: None,
            exception: Some(exception),
        }
    }

    fn exception(&self) -> Option<&Py<PyAny>> {
        self.exception.as_ref()
    }

    /// Whether `exception` could be made again from this: it says nothing more.
    pub(crate) fn explains(slf: &Py<Origin>, exception: &Bound<'_, PyAny>) -> bool {
        let py = exception.py();
        // SAFETY: a live exception; the context is a new reference, or null.
        let context = unsafe { ffi::PyException_GetContext(exception.as_ptr()) };
        if !context.is_null() {
            // SAFETY: not null, and ours.
            unsafe { ffi::Py_DECREF(context) };
            return false;
        }
        exception.get_type().is(classes(py).task_cancelled.bind(py))
            && slf.get().exception.is_none()
            && exception.getattr(pyo3::intern!(py, "origin")).is_ok_and(|origin| origin.is(slf))
    }

    /// Whether `exception` is what the task was to be cancelled with.
    pub(crate) fn asks_for(&self, exception: &Bound<'_, PyAny>) -> bool {
        self.exception.as_ref().is_some_and(|asked| {
            let asked = asked.bind(exception.py());
            asked.is(exception) || asked.is(exception.get_type())
        })
    }

    /// As the kernel carries it.
    pub(crate) fn into_cancellation(self, py: Python<'_>) -> PyResult<Cancellation> {
        let payload = Arc::new(Py::new(py, self)?);
        Ok(Cancellation { payload: Some(payload), ..Cancellation::default() })
    }
}

/// The origin of a cancellation: the one that it was made with, or what the kernel says.
pub(crate) fn origin(py: Python<'_>, cancellation: &Cancellation) -> PyResult<Py<Origin>> {
    let payload = cancellation.payload.as_ref();
    if let Some(origin) = payload.and_then(|payload| payload.downcast_ref::<Py<Origin>>()) {
        return Ok(origin.clone_ref(py));
    }
    Py::new(
        py,
        Origin {
            task_id: cancellation.by,
            task_name: None,
            filename: None,
            lineno: None,
            deadline: None,
            reason: cancellation.reason.as_deref().map(str::to_owned).or_else(|| {
                cancellation.by_monitor.then(|| "somebody at the monitor has asked".to_owned())
            }),
            exception: None,
        },
    )
}

/// Whether an exception is of the family that cancels.
pub(crate) fn is_cancellation(exception: &Bound<'_, PyAny>) -> bool {
    let family = classes(exception.py()).cancelled_error.as_ptr().cast();
    // SAFETY: a live object's type, and a live type.
    unsafe { ffi::PyType_IsSubtype(ffi::Py_TYPE(exception.as_ptr()), family) != 0 }
}

pub(crate) fn cancelled(py: Python<'_>, cancellation: &Cancellation) -> PyResult<PyErr> {
    let origin = origin(py, cancellation)?;
    let Some(asked) = origin.get().exception() else {
        let name = pyo3::intern!(py, "TaskCancelled");
        let exception = classes(py).task_cancelled.bind(py).call1((name,))?;
        exception.setattr(pyo3::intern!(py, "origin"), origin)?;
        return Ok(PyErr::from_value(exception));
    };
    let asked = asked.bind(py);
    let exception = match asked.cast::<PyType>() {
        Ok(class) => class.call1((class.name()?,))?,
        // An instance is raised as it is, wherever it comes from.
        Err(_) => asked.clone(),
    };
    let knows = !is_cancellation(&exception) || !exception.getattr("origin")?.is_none();
    if !knows && !origin.get().is_bare() {
        exception.setattr("origin", origin)?;
    }
    Ok(PyErr::from_value(exception))
}

impl Origin {
    fn is_bare(&self) -> bool {
        self.task_id.is_none()
            && self.filename.is_none()
            && self.reason.is_none()
            && self.deadline.is_none()
    }
}

/// The exception for a timeout: its argument is the clock, its `_timeout` tells whose it is.
pub(crate) fn timed_out(py: Python<'_>, timeout: &Timeout) -> PyResult<PyErr> {
    let classes = classes(py);
    let class = if timeout.own { &classes.task_timeout } else { &classes.timeout_cancellation };
    let exception = class.bind(py).call1((seconds(timeout.clock),))?;
    let origin = Origin {
        task_id: None,
        task_name: None,
        filename: None,
        lineno: None,
        deadline: Some(seconds(timeout.deadline)),
        reason: None,
        exception: None,
    };
    exception.setattr("origin", Py::new(py, origin)?)?;
    mark(&exception, timeout)?;
    Ok(PyErr::from_value(exception))
}

/// Notes on an exception what the kernel knows of its timeout.
pub(crate) fn mark(exception: &Bound<'_, PyAny>, timeout: &Timeout) -> PyResult<()> {
    let Timeout { owner, own, escaped, deadline, clock } = *timeout;
    exception.setattr("_timeout", (owner, own, escaped, deadline, clock))
}

/// The timeout that an exception stands for, if it is one.
pub(crate) fn timeout_of(exception: &Bound<'_, PyAny>) -> PyResult<Option<Timeout>> {
    let classes = classes(exception.py());
    let own = exception.is_instance(classes.task_timeout.bind(exception.py()))?;
    if !own && !exception.is_instance(classes.timeout_cancellation.bind(exception.py()))? {
        return Ok(None);
    }
    let marked = exception.getattr("_timeout")?;
    Ok(Some(match marked.cast::<PyTuple>() {
        Ok(marked) => {
            let (owner, own, escaped, deadline, clock) = marked.extract()?;
            Timeout { owner, own, escaped, deadline, clock }
        }
        // Raised by hand: nobody's.
        Err(_) => Timeout { owner: 0, own, escaped: own, deadline: 0, clock: 0 },
    }))
}
