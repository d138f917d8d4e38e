//! What the monitor's threads want to know of Python tasks.
//!
//! They wait for the interpreter's lock, as any thread of Python's does; while a task computes
//! in Python, they get it within its switch interval. At the interpreter's end they must not ask
//! any more: [`close`] sees to that.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use curio::Cancellation;
use curio::embed::{Frame, Inspector, Locator, Stack, TaskKey};
use pyo3::prelude::*;

use crate::error;
use crate::object::{Attached, Object, repr_of, text_of};
use crate::task;

/// No thread that is not Python's may attach any more.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// How many of them are attached, or wait to be.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// How long to wait for them. In a forked child, some of those that are counted do not exist.
const PATIENCE: Duration = Duration::from_secs(1);

/// Ends the use of Python by threads that are not Python's, and waits for those in the middle of it.
pub(crate) fn close(py: Python<'_>) {
    CLOSED.store(true, SeqCst);
    py.detach(|| {
        let start = Instant::now();
        while INSIDE.load(SeqCst) > 0 && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Counts a thread in and, however it leaves, out.
struct Inside;

impl Inside {
    fn enter() -> Inside {
        INSIDE.fetch_add(1, SeqCst);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.fetch_sub(1, SeqCst);
    }
}

fn with_python<R>(f: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    let _inside = Inside::enter();
    if CLOSED.load(SeqCst) { None } else { Python::try_attach(f) }
}

/// See the module.
pub(crate) struct PythonInspector {
    /// `None` while it is being dropped.
    locator: Option<Attached<Locator>>,
}

impl PythonInspector {
    pub(crate) fn new(locator: Locator) -> Self {
        PythonInspector { locator: Some(Attached::new(locator)) }
    }

    /// The object of a task that has not ended. Attached threads only.
    fn task(&self, _py: Python<'_>, key: TaskKey) -> Option<Object> {
        let face = self.locator.as_ref()?.face(key).filter(|&face| face != 0)?;
        // SAFETY: the face of a task of this binding that has not ended is its object, which its
        // body keeps alive; it cannot end while this thread has the interpreter's lock.
        Some(unsafe { Object::borrowed(face as _) })
    }
}

impl Drop for PythonInspector {
    fn drop(&mut self) {
        // The locator counts references to the kernel, which is the business of attached threads.
        let mut locator = std::mem::ManuallyDrop::new(self.locator.take());
        // At the interpreter's end it is not dropped at all.
        with_python(|_| drop(locator.take()));
    }
}

impl Inspector for PythonInspector {
    fn names(&self, tasks: &[TaskKey]) -> Vec<Option<String>> {
        let names = with_python(|py| {
            let name = |&key: &TaskKey| Some(task::name_of(py, &self.task(py, key)?));
            tasks.iter().map(name).collect()
        });
        names.unwrap_or_else(|| vec![None; tasks.len()])
    }

    fn stack(&self, key: TaskKey) -> Option<Stack> {
        with_python(|py| {
            let task = self.task(py, key)?;
            stack(&task.bind(py)).ok()
        })
        .flatten()
    }

    fn describe(&self, cancellation: &Cancellation) -> Option<String> {
        cancellation.payload.as_ref()?;
        with_python(|py| {
            let origin = error::origin(py, cancellation).ok()?;
            Some(text_of(origin.bind(py)))
        })
        .flatten()
    }
}

fn stack(task: &Bound<'_, PyAny>) -> PyResult<Stack> {
    let lines = task.py().import("curio._stack")?.call_method1("lines", (task,))?;
    let mut frames = Vec::new();
    for line in lines.try_iter()? {
        let (file, line, function, source) = line?.extract()?;
        frames.push(Frame { file, line, function, source });
    }
    // A subclass may have a repr that fails.
    let repr = repr_of(task).unwrap_or_else(|_| "the task".into());
    Ok(Stack { repr, frames })
}
