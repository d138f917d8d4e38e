//! Python frames: where a call comes from.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::object::Object;

/// File and line of the Python code that is running in this thread.
pub(crate) fn caller(py: Python<'_>) -> (Option<Py<PyAny>>, Option<i32>) {
    // SAFETY: attached. The frame is borrowed, and alive while it runs, which it does until we
    // return to it; its code object is a new reference.
    unsafe {
        let frame = ffi::PyEval_GetFrame();
        if frame.is_null() {
            return (None, None);
        }
        let line = ffi::PyFrame_GetLineNumber(frame);
        let Ok(code) = Object::owned(ffi::PyFrame_GetCode(frame).cast()) else {
            return (None, None);
        };
        let file = code.bind(py).getattr(pyo3::intern!(py, "co_filename"));
        (file.ok().map(Bound::unbind), Some(line))
    }
}
