//! Python frames: where a call comes from.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::object::Object;
use crate::op;

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

/// await_frames(coroutine)
///
/// The frames of a suspended coroutine, and of what it awaits, outermost first; of one that is
/// running, only those that are known without its thread's stack.
///
/// What a coroutine awaits may be asked only while it is suspended, or the interpreter
/// crashes; another thread's may go on whenever the interpreter's lock is let go. So it is not
/// let go in here: no Python code is run.
#[pyfunction]
pub(crate) fn await_frames(coroutine: Bound<'_, PyAny>) -> PyResult<Vec<Py<PyAny>>> {
    let referents = coroutine.py().import("gc")?.getattr("get_referents")?;
    let mut frames = Vec::new();
    let mut next = Some(coroutine);
    while let Some(awaited) = next {
        let Some(names) = Names::of(&awaited) else {
            // An object that steps through a coroutine or generator, as `asend()` gives one.
            let inside = referents.call1((&awaited,))?.try_iter()?.flatten();
            next = inside.into_iter().find(|inside| Names::of(inside).is_some());
            continue;
        };
        let frame = awaited.getattr(names.frame)?;
        if !frame.is_none() {
            frames.push(frame.unbind());
        }
        let running = match names.running {
            Some(running) => awaited.getattr(running)?.is_truthy()?,
            None => false, // it runs only if what awaits it does
        };
        next = if running { None } else { Some(awaited.getattr(names.awaits)?) };
        next = next.filter(|next| !next.is_none());
    }
    Ok(frames)
}

/// What the attributes of a kind of coroutine are called.
struct Names {
    frame: &'static str,
    running: Option<&'static str>,
    awaits: &'static str,
}

impl Names {
    fn of(object: &Bound<'_, PyAny>) -> Option<Names> {
        let object = object.as_ptr();
        // SAFETY: a live object.
        let (coroutine, generator, asynchronous) = unsafe {
            (
                ffi::PyCoro_CheckExact(object) != 0 || op::is_op(object),
                ffi::PyGen_CheckExact(object) != 0,
                ffi::PyAsyncGen_CheckExact(object) != 0,
            )
        };
        if coroutine {
            Some(Names { frame: "cr_frame", running: Some("cr_running"), awaits: "cr_await" })
        } else if generator {
            Some(Names { frame: "gi_frame", running: Some("gi_running"), awaits: "gi_yieldfrom" })
        } else if asynchronous {
            // Its `ag_running` is true of one that is suspended, too.
            Some(Names { frame: "ag_frame", running: None, awaits: "ag_await" })
        } else {
            None
        }
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
