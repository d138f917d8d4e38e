//! Owned pointers to Python objects, for places outside of PyO3's bookkeeping.
//!
//! An operation is polled, and dropped, in slots that the interpreter calls
//! directly. `Py<T>` would put off its decref there, because PyO3 does not know
//! that the thread is attached; an [`Object`] never does.

use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::kernel;

/// An object as text, as `str()` gives it. Not by way of `Display`: `PyObject_Str` runs the handlers
/// of signals, and `Display` prints and forgets what they raise.
pub(crate) fn text_of(object: &Bound<'_, PyAny>) -> String {
    if let Ok(text) = object.cast::<PyString>() {
        return text.to_string_lossy().into_owned();
    }
    let text = kernel::settle(object.py(), object.str());
    text.map_or_else(|| "?".into(), |text| text.to_string_lossy().into_owned())
}

/// The same for `repr()`.
///
/// # Errors
/// What it raises.
pub(crate) fn repr_of(object: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(object.repr()?.to_string_lossy().into_owned())
}

/// A Python error is set in this thread: what slots report by their return value.
#[derive(Debug)]
pub(crate) struct Raised;

/// The result of something that may have raised.
pub(crate) type Outcome<T = Object> = Result<T, Raised>;

impl From<PyErr> for Raised {
    fn from(error: PyErr) -> Raised {
        // SAFETY: everything that makes a `Raised` runs in a slot or a method, which the
        // interpreter calls in an attached thread.
        error.restore(unsafe { Python::assume_attached() });
        Raised
    }
}

/// A panic of ours, as an exception: it must not cross into the interpreter.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Raised {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    let message = format!("curio has failed internally, please report this: {text}");
    pyo3::exceptions::PySystemError::new_err(message).into()
}

/// Takes the error that is set.
pub(crate) fn take_error(py: Python<'_>, _: Raised) -> PyErr {
    let error = PyErr::fetch(py);
    // Up to Python 3.11 the traceback travels beside the exception; we hand the exception on.
    if let Some(traceback) = error.traceback(py) {
        // SAFETY: a live exception and a live traceback of it.
        unsafe { ffi::PyException_SetTraceback(error.value(py).as_ptr(), traceback.as_ptr()) };
    }
    error
}

/// A strong reference. Only touched, and only dropped, by attached threads.
#[derive(Debug)]
pub(crate) struct Object(NonNull<ffi::PyObject>);

impl Object {
    /// Takes over the reference that a C function has returned; null means it has raised.
    ///
    /// # Safety
    /// `pointer` is null with an error set, or a new reference.
    pub(crate) unsafe fn owned(pointer: *mut ffi::PyObject) -> Outcome {
        NonNull::new(pointer).map(Object).ok_or(Raised)
    }

    /// A new reference to a borrowed object.
    ///
    /// # Safety
    /// `pointer` is a live object.
    pub(crate) unsafe fn borrowed(pointer: *mut ffi::PyObject) -> Object {
        // SAFETY: the caller's promise: a live object is not null, and may be increfed.
        unsafe {
            ffi::Py_INCREF(pointer);
            Object(NonNull::new_unchecked(pointer))
        }
    }

    pub(crate) fn none() -> Object {
        // SAFETY: `None` is always alive.
        unsafe { Object::borrowed(ffi::Py_None()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    pub(crate) fn into_ptr(self) -> *mut ffi::PyObject {
        std::mem::ManuallyDrop::new(self).0.as_ptr()
    }

    pub(crate) fn bind<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        // SAFETY: it is a live object, and the thread is attached: there is a `py`.
        unsafe { Bound::from_borrowed_ptr(py, self.as_ptr()) }
    }
}

impl From<Bound<'_, PyAny>> for Object {
    fn from(object: Bound<'_, PyAny>) -> Object {
        // SAFETY: a `Bound` holds a strong reference, which is handed over.
        unsafe { Object(NonNull::new_unchecked(object.into_ptr())) }
    }
}

impl Clone for Object {
    fn clone(&self) -> Object {
        // SAFETY: we hold a reference, so the object is alive.
        unsafe { Object::borrowed(self.as_ptr()) }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and the thread is attached: objects live in Python
        // objects, and in futures that only such objects own.
        unsafe { ffi::Py_DECREF(self.as_ptr()) }
    }
}

/// Something of one thread's that Python objects hold, and any attached thread may touch.
pub(crate) struct Attached<T>(T);

// SAFETY: what a kernel's thread shares with nobody is kept apart here by the interpreter's lock.
// - Every access, and the drop, is made by attached threads: methods, slots, deallocation.
// - The lock is given up in the middle of an access at one place only, in the poller's wait, where
//   the kernel holds no borrow of its tables (`Core::look`).
// - Free-threaded interpreters are not supported; the module says so.
unsafe impl<T> Send for Attached<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Attached<T> {}

impl<T> Attached<T> {
    pub(crate) fn new(content: T) -> Self {
        Attached(content)
    }

    pub(crate) fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Attached<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
