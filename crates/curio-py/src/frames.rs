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

/// Takes the package's own frames off the outer end of an exception's traceback: the user's
/// coroutine may have been called by one of ours, as a server's handler is.
pub(crate) fn leave_out_our_own(exception: &Bound<'_, PyAny>) {
    let _ = leave_out(exception);
}

fn leave_out(exception: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = exception.py();
    let package: String = py.import("curio")?.getattr("__file__")?.extract()?;
    let package = package.trim_end_matches("__init__.py");
    let first = exception.getattr("__traceback__")?;
    let mut traceback = first.clone();
    while !traceback.is_none() {
        let code = traceback.getattr("tb_frame")?.getattr("f_code")?;
        let file: String = code.getattr("co_filename")?.extract()?;
        if !file.starts_with(package) {
            break;
        }
        traceback = traceback.getattr("tb_next")?;
    }
    // An exception that is all ours keeps what it has.
    if !traceback.is_none() && !traceback.is(&first) {
        exception.setattr("__traceback__", traceback)?;
    }
    Ok(())
}
