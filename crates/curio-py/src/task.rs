//! `Task`: the Python object of a task.
//!
//! The object is made with the task and outlives it: it holds the result. What the kernel
//! knows is read through [`TaskRef`], whose numbers any thread may read. The coroutine
//! functions of the class are declared in `curio/task.py`, in a subclass.

use std::cell::{Cell, RefCell};
use std::os::raw::{c_int, c_void};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use curio::embed::{Body, Ended, JoinTrap, Label, Spawn, TimeoutRegion, Wait};
use curio::sched::Fifo;
use curio::{TaskRef, TaskState};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PySet;

use crate::coroutine::{self, CoroutineBody};
use crate::error::{self, Origin, classes, seconds};
use crate::function::Call;
use crate::group;
use crate::kernel::Settings;
use crate::object::{Object, Outcome, Raised, panicked, repr_of, text_of};
use crate::op::{self, Instant, Keep, Mapped, make_type, slot};

/// The instance; subclasses may add to it.
#[repr(C)]
pub(crate) struct TaskObject {
    base: ffi::PyObject,
    inner: Inner,
}

pub(crate) struct Inner {
    /// `None` until the kernel has taken the task in.
    task: RefCell<Option<TaskRef>>,
    coroutine: RefCell<Option<Object>>,
    context: RefCell<Option<Object>>,
    result: RefCell<Option<Object>>,
    exception: RefCell<Option<Object>>,
    /// It has ended with the cancellation that was asked for: the exception is made again if
    /// somebody wants to see it. Ten thousands of them would keep the collector busy.
    plainly_cancelled: Cell<bool>,
    taskgroup: RefCell<Option<Object>>,
    joined: Cell<bool>,
    /// What `_set_timeout` has set, and `_unset_timeout` has not ended.
    limits: RefCell<Vec<TimeoutRegion>>,
    /// Where a scheduler of the user's wakes it.
    parked: RefCell<Option<Fifo>>,
}

/// The native base class, and the class of which tasks are made.
static BASE: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

/// What a task object holds.
///
/// # Safety
/// `task` is a live task object, and outlives the use of the result.
pub(crate) unsafe fn inner<'a>(task: *mut TaskObject) -> &'a Inner {
    // SAFETY: the caller's promise. Only cells in it change.
    unsafe { &(*task).inner }
}

pub(crate) fn is_task(object: *mut ffi::PyObject) -> bool {
    // SAFETY: a live object has a type; the base class was made by `init`.
    unsafe { ffi::PyObject_TypeCheck(object, BASE.load(Relaxed)) != 0 }
}

/// Makes a task of `coroutine`; `add` gives it to a kernel.
pub(crate) fn spawn(
    py: Python<'_>,
    settings: &Rc<Settings>,
    coroutine: Object,
    daemon: bool,
    add: impl FnOnce(Body, Spawn) -> curio::Result<TaskRef>,
) -> Outcome {
    spawn_as(py, settings.task_class(), settings, coroutine, daemon, add)
}

/// As [`spawn`]; `class` is a subclass of our base class, alive during the call.
pub(crate) fn spawn_as(
    py: Python<'_>,
    class: *mut ffi::PyTypeObject,
    settings: &Rc<Settings>,
    coroutine: Object,
    daemon: bool,
    add: impl FnOnce(Body, Spawn) -> curio::Result<TaskRef>,
) -> Outcome {
    // SAFETY: a subclass of our base class; the allocator gives zeroed memory for an instance, or
    // null with the error set. Nothing runs between the allocation and the writing of `inner`.
    let object = unsafe { Object::owned(ffi::PyType_GenericAlloc(class, 0)) }?;
    let task = object.as_ptr().cast::<TaskObject>();
    // SAFETY: as above: `inner` is written once, before anyone sees the object.
    unsafe {
        ptr::addr_of_mut!((*task).inner).write(Inner {
            task: RefCell::new(None),
            coroutine: RefCell::new(Some(coroutine)),
            context: RefCell::new(None),
            result: RefCell::new(None),
            exception: RefCell::new(None),
            plainly_cancelled: Cell::new(false),
            taskgroup: RefCell::new(None),
            joined: Cell::new(false),
            limits: RefCell::default(),
            parked: RefCell::default(),
        });
        // A live task is held by its kernel, so the collector need not look at it: there may be
        // a hundred thousand. It is told when the task has ended.
        ffi::PyObject_GC_UnTrack(task.cast());
    }
    // SAFETY: attached; a new reference or null with the error set.
    let context = unsafe { Object::owned(ffi::PyContext_CopyCurrent()) }?;
    // SAFETY: alive: `object` holds it.
    let inner = unsafe { inner(task) };
    *inner.context.borrow_mut() = Some(context);
    let body = Box::pin(CoroutineBody::new(object.clone(), settings.clone()));
    let face = object.as_ptr() as usize;
    let spawn = Spawn { daemon, own: false, label: Label::default(), face };
    let spawned = add(body, spawn).map_err(|error| error::raise(py, &error))?;
    *inner.task.borrow_mut() = Some(spawned.clone());
    spawned.announce();
    Ok(object)
}

/// The Python object of a task of the kernel's.
pub(crate) fn object_of(task: &TaskRef) -> Option<Object> {
    // SAFETY: the face of a task that has not ended is the object that `spawn` has made for it,
    // and the task's body holds a reference to it.
    Some(task.face()).filter(|&face| face != 0).map(|face| unsafe { Object::borrowed(face as _) })
}

/// The running task's object.
pub(crate) fn current() -> Option<Object> {
    // SAFETY: as in `object_of`: the running task has not ended.
    curio::embed::current_face()
        .filter(|&face| face != 0)
        .map(|face| unsafe { Object::borrowed(face as _) })
}

/// Id and name of the running task.
pub(crate) fn current_identity(py: Python<'_>) -> Option<(u64, Py<PyAny>)> {
    let task = current()?;
    // SAFETY: it is a task, and alive while `task` is.
    let inner = unsafe { inner(task.as_ptr().cast()) };
    Some((inner.id(), inner.name(py).ok()?))
}

impl Inner {
    /// Coroutine and context of a task that has not ended, borrowed from the object.
    pub(crate) fn running(&self) -> (*mut ffi::PyObject, *mut ffi::PyObject) {
        let pointer = |object: &RefCell<Option<Object>>| {
            object.borrow().as_ref().map_or(ptr::null_mut(), Object::as_ptr)
        };
        (pointer(&self.coroutine), pointer(&self.context))
    }

    pub(crate) fn set_result(&self, result: Object) {
        *self.result.borrow_mut() = Some(result);
    }

    pub(crate) fn set_exception(&self, exception: Object) {
        *self.exception.borrow_mut() = Some(exception);
    }

    pub(crate) fn set_plainly_cancelled(&self) {
        self.plainly_cancelled.set(true);
    }

    /// The exception that has ended it.
    fn exception(&self, py: Python<'_>) -> Option<Object> {
        if self.plainly_cancelled.get()
            && let Some(cancellation) = self.task().ok()?.info().cancellation()
        {
            self.plainly_cancelled.set(false);
            let exception = error::cancelled(py, cancellation).ok()?.into_value(py);
            self.set_exception(exception.into_bound(py).into_any().into());
        }
        self.exception.borrow().clone()
    }

    /// The body is gone: a coroutine that has not ended is closed, and what it does then is
    /// nobody's business any more.
    pub(crate) fn abandon(&self, py: Python<'_>) {
        drop(self.context.take());
        drop(self.limits.take());
        drop(self.parked.take());
        let ended = self.result.borrow().is_some()
            || self.exception.borrow().is_some()
            || self.plainly_cancelled.get();
        if !ended && let Some(coroutine) = self.coroutine.borrow().clone() {
            let pending = PyErr::take(py);
            let _ = coroutine.bind(py).call_method0("close");
            if let Some(pending) = pending {
                pending.restore(py);
            }
        }
    }

    fn id(&self) -> u64 {
        self.task.borrow().as_ref().map_or(0, TaskRef::id)
    }

    pub(crate) fn name(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let coroutine = self.coroutine.borrow().clone();
        coroutine.map_or_else(|| "?".into(), |coro| coroutine::name(&coro.bind(py))).into_py_any(py)
    }

    /// Whether it has ended with a cancellation that somebody has asked for at the monitor.
    fn ended_by_monitor(&self, py: Python<'_>, exception: &Object) -> bool {
        let cancelled = |task: &TaskRef| {
            task.info().cancellation().is_some_and(|cancellation| cancellation.by_monitor)
        };
        self.task.borrow().as_ref().is_some_and(cancelled)
            && error::is_cancellation(&exception.bind(py))
    }

    /// Who has asked for the task to be cancelled.
    pub(crate) fn origin(&self, py: Python<'_>) -> PyResult<Option<Py<Origin>>> {
        let info = self.task()?.info().clone();
        info.cancellation().map(|cancellation| error::origin(py, cancellation)).transpose()
    }

    /// How it has ended, to a group.
    pub(crate) fn ended(&self, py: Python<'_>) -> Ended {
        match self.ended_with(py) {
            Some(Ok(result)) if result.bind(py).is_none() => Ended::Nothing,
            Some(Ok(_)) => Ended::Value,
            Some(Err(cause)) if self.ended_by_monitor(py, &cause) => Ended::Nothing,
            Some(Err(_)) | None => Ended::Failed,
        }
    }

    pub(crate) fn limits(&self) -> &RefCell<Vec<TimeoutRegion>> {
        &self.limits
    }

    pub(crate) fn parked(&self) -> &RefCell<Option<Fifo>> {
        &self.parked
    }

    /// Notes that its end was seen.
    pub(crate) fn set_joined(&self) {
        self.joined.set(true);
    }

    pub(crate) fn group(&self) -> Option<Object> {
        self.taskgroup.borrow().clone()
    }

    /// Notes the group that it belongs to; gives the former one, to be dropped.
    pub(crate) fn set_group(&self, group: Option<Object>) -> Option<Object> {
        self.taskgroup.replace(group)
    }

    pub(crate) fn task(&self) -> PyResult<TaskRef> {
        let task = self.task.borrow().clone();
        task.ok_or_else(|| PyRuntimeError::new_err("the task was never taken in by a kernel"))
    }

    /// Whether it has the processor, which a task that has entered a trap has not.
    pub(crate) fn is_running(&self) -> bool {
        let task = self.task.borrow();
        task.as_ref().is_some_and(|task| task.state() == TaskState::Running)
    }

    fn terminated(&self) -> bool {
        self.task.borrow().as_ref().is_none_or(|task| task.terminated())
    }

    /// `None` if it has not ended.
    pub(crate) fn ended_with(&self, py: Python<'_>) -> Option<Result<Object, Object>> {
        // Both are known a little before the end: whoever reports a crash wants to see it.
        if let Some(exception) = self.exception(py) {
            return Some(Err(exception));
        }
        self.result.borrow().clone().map(Ok)
    }
}

// What the coroutine functions of the class do.

fn this<'a>(call: &Call<'a>) -> PyResult<&'a Inner> {
    let object = call.ptr(0);
    if !is_task(object) {
        return Err(PyTypeError::new_err("a method of Task was called on something else"));
    }
    // SAFETY: it is a task, and the caller keeps its arguments alive during the call.
    Ok(unsafe { inner(object.cast()) })
}

fn kept(keep: &Keep) -> &Inner {
    // SAFETY: the operations here are made with a task as their object, which the op keeps.
    unsafe { inner(keep.as_ptr().cast()) }
}

fn not_ended(py: Python<'_>) -> Raised {
    let _ = py;
    PyRuntimeError::new_err("the task was dropped by its kernel before it had ended").into()
}

pub(crate) fn join(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let wait: Wait<JoinTrap> = this(call)?.task()?.wait();
    op::new(
        call.function,
        Some(call.object(0)),
        Mapped::new(wait, |py, keep, ()| {
            let task = kept(keep);
            task.joined.set(true);
            group::leave(py, task);
            match task.ended_with(py) {
                Some(Ok(result)) => Ok(result),
                // What is cancelled from outside of the program is no error inside of it.
                Some(Err(cause)) if task.ended_by_monitor(py, &cause) => Ok(Object::none()),
                Some(Err(cause)) => Err(task_error(py, task, &cause)?.into()),
                None => Err(not_ended(py)),
            }
        }),
    )
}

fn task_error(py: Python<'_>, task: &Inner, cause: &Object) -> PyResult<PyErr> {
    let name = task.name(py)?;
    let cause = PyErr::from_value(cause.bind(py).clone());
    let kind = cause.get_type(py).name()?.to_string_lossy().into_owned();
    let message = format!("task {} ({}) ended with {kind}", task.id(), text_of(name.bind(py)));
    let error = PyErr::from_type(classes(py).task_error.bind(py).clone(), message);
    error.set_cause(py, Some(cause));
    Ok(error)
}

pub(crate) fn wait(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    let wait = this(call)?.task()?.wait();
    op::new(call.function, Some(call.object(0)), Mapped::new(wait, |_, _, ()| Ok(Object::none())))
}

/// What `exc=` asks for: an exception class, an instance, or nothing special.
fn exception(py: Python<'_>, call: &Call<'_>, index: usize) -> PyResult<Option<Py<PyAny>>> {
    let exc = call.get(py, index);
    if exc.is_none() || exc.is(classes(py).task_cancelled.bind(py)) {
        return Ok(None);
    }
    let base = py.get_type::<pyo3::exceptions::PyBaseException>();
    let is_class = exc
        .cast::<pyo3::types::PyType>()
        .is_ok_and(|class| class.is_subclass(&base).unwrap_or(false));
    if !is_class && !exc.is_instance(&base)? {
        let message = format!("exc must be an exception or its class, not {}", repr_of(&exc)?);
        return Err(PyTypeError::new_err(message));
    }
    Ok(Some(exc.unbind()))
}

pub(crate) fn cancel(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let task = this(call)?.task()?;
    let blocking = call.get(py, 2).is_truthy()?;
    let origin = Origin::here(py, current_identity(py), exception(py, call, 1)?);
    let keep = Some(call.object(0));
    let cancellation = origin.into_cancellation(py)?;
    let answer = |asked: bool| -> Outcome {
        // SAFETY: the two singletons are always alive.
        Ok(unsafe { Object::borrowed(if asked { ffi::Py_True() } else { ffi::Py_False() }) })
    };
    if blocking {
        let cancel = task.cancel_with(cancellation);
        let done = move |_: Python<'_>, keep: &Keep, asked| {
            kept(keep).joined.set(true);
            answer(asked)
        };
        op::new(call.function, keep, Mapped::new(cancel, done))
    } else {
        let request = move |_: Python<'_>, _: &Keep| answer(task.request(&Arc::new(cancellation)));
        op::new(call.function, keep, Instant::new(request))
    }
}

pub(crate) fn interrupt(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let task = this(call)?.task()?;
    let class = py.import("curio.errors")?.getattr("TaskInterrupted")?;
    let origin = Origin::here(py, current_identity(py), Some(class.unbind()));
    let cancellation = Arc::new(origin.into_cancellation(py)?);
    let interrupt = move |py: Python<'_>, _: &Keep| -> Outcome {
        let done = task.interrupt_with(&cancellation);
        Ok(pyo3::types::PyBool::new(py, done).to_owned().into_any().into())
    };
    op::new(call.function, Some(call.object(0)), Instant::new(interrupt))
}

pub(crate) fn cancel_children(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let task = this(call)?.task()?;
    let origin = Origin::here(py, current_identity(py), exception(py, call, 1)?);
    let cancel = task.cancel_children_with(origin.into_cancellation(py)?);
    op::new(call.function, Some(call.object(0)), Mapped::new(cancel, |_, _, ()| Ok(Object::none())))
}

// Attributes.

type Get = fn(Python<'_>, &Inner) -> PyResult<Py<PyAny>>;

fn object<'py>(py: Python<'py>, value: impl IntoPyObject<'py>) -> PyResult<Py<PyAny>> {
    value.into_py_any(py)
}

fn children(py: Python<'_>, task: &Inner) -> PyResult<Py<PyAny>> {
    let children = PySet::empty(py)?;
    if !task.terminated() {
        for child in task.task()?.children() {
            if let Some(child) = object_of(&child) {
                children.add(child.bind(py))?;
            }
        }
    }
    Ok(children.into_any().unbind())
}

fn result(py: Python<'_>, task: &Inner) -> PyResult<Py<PyAny>> {
    task.joined.set(true);
    match task.ended_with(py) {
        None => Err(PyRuntimeError::new_err("the task has not ended, so it has no result")),
        Some(Ok(result)) => Ok(result.bind(py).clone().unbind()),
        Some(Err(exception)) => Err(PyErr::from_value(exception.bind(py).clone())),
    }
}

fn exception_of(py: Python<'_>, task: &Inner) -> PyResult<Py<PyAny>> {
    match task.ended_with(py) {
        None => Err(PyRuntimeError::new_err("the task has not ended, so it has no exception")),
        Some(Ok(_)) => Ok(py.None()),
        Some(Err(exception)) => Ok(exception.bind(py).clone().unbind()),
    }
}

fn exc_info(py: Python<'_>, task: &Inner) -> PyResult<Py<PyAny>> {
    match task.exception(py) {
        None => Ok(py.None()),
        Some(exception) => {
            let exception = exception.bind(py);
            let traceback = exception.getattr("__traceback__")?;
            object(py, (exception.get_type(), exception, traceback))
        }
    }
}

const ATTRIBUTES: &[(&std::ffi::CStr, Get, &std::ffi::CStr)] = &[
    (c"id", |py, task| object(py, task.id()), c"Number of the task: 1, 2, 3 ... in its process."),
    (
        c"state",
        |py, task| object(py, task.task()?.state().name()),
        c"What it is doing, or blocked in: RUNNING, READY, TIME_SLEEP, TASK_JOIN ...",
    ),
    (
        c"cycles",
        |py, task| object(py, task.task()?.cycles()),
        c"How many times it has been resumed.",
    ),
    (
        c"coro",
        |py, task| {
            let coroutine = task.coroutine.borrow();
            Ok(coroutine.as_ref().map_or_else(|| py.None(), |coro| coro.bind(py).clone().unbind()))
        },
        c"The coroutine that it runs.",
    ),
    (c"name", |py, task| task.name(py), c"Name of its coroutine."),
    (c"daemon", |py, task| object(py, task.task()?.info().daemon()), c"Whether it is a daemon."),
    (
        c"parentid",
        |py, task| object(py, task.task()?.info().parent()),
        c"Number of the task that has spawned it, or None.",
    ),
    (
        c"children",
        children,
        c"Set of the tasks it has spawned that have not ended, but for daemons.",
    ),
    (c"terminated", |py, task| object(py, task.terminated()), c"Whether it has ended."),
    (
        c"cancelled",
        |py, task| object(py, task.task()?.info().cancellation().is_some()),
        c"Whether somebody has cancelled it before its end.",
    ),
    (
        c"cancel_origin",
        |py, task| object(py, task.origin(py)?),
        c"Who has cancelled it, from where and why; None if nobody has.",
    ),
    (
        c"cancel_pending",
        |py, task| object(py, task.task()?.cancel_state().0),
        c"Whether a cancellation is waiting for its next blocking operation.",
    ),
    (
        c"allow_cancel",
        |py, task| object(py, task.task()?.cancel_state().1),
        c"Whether cancellations may arrive: False inside of disable_cancellation.",
    ),
    (
        c"timeout",
        |py, task| object(py, task.task()?.info().timeout().map(seconds)),
        c"Nearest deadline of its timeouts, on the kernel's clock, or None.",
    ),
    (
        c"sleep",
        |py, task| object(py, task.task()?.info().sleep().map(seconds)),
        c"When its sleep ends, on the kernel's clock, or None.",
    ),
    (c"result", result, c"Its result, or its exception, raised. RuntimeError before its end."),
    (c"exception", exception_of, c"Its exception, or None. RuntimeError before its end."),
    (c"exc_info", exc_info, c"Its exception as sys.exc_info gives it, or None."),
    (c"joined", |py, task| object(py, task.joined.get()), c"Whether its end was waited for."),
    (
        c"taskgroup",
        |py, task| {
            let group = task.taskgroup.borrow();
            Ok(group.as_ref().map_or_else(|| py.None(), |group| group.bind(py).clone().unbind()))
        },
        c"Group that it belongs to, or None.",
    ),
];

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn get(task: *mut ffi::PyObject, which: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: getters are called with a live task, attached; `which` is an index, made below.
    let (py, inner) = unsafe { (Python::assume_attached(), inner(task.cast())) };
    let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        (ATTRIBUTES[which as usize].1)(py, inner)
    }));
    match got {
        Ok(Ok(value)) => value.into_ptr(),
        Ok(Err(error)) => {
            error.restore(py);
            ptr::null_mut()
        }
        Err(panic) => {
            let Raised = panicked(&*panic);
            ptr::null_mut()
        }
    }
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn repr(task: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the slot is called with a live task, attached.
    let (py, inner) = unsafe { (Python::assume_attached(), inner(task.cast())) };
    let text = || -> PyResult<String> {
        let coroutine = inner.coroutine.borrow().clone().unwrap_or_else(Object::none);
        let coroutine = repr_of(&coroutine.bind(py))?;
        // SAFETY: a live object has a type.
        let class = unsafe { Bound::from_borrowed_ptr(py, ffi::Py_TYPE(task).cast()) };
        let class: String = class.getattr("__name__")?.extract()?;
        let state = inner.task()?.state();
        Ok(format!("{class}(id={}, {coroutine}, state='{state}')", inner.id()))
    };
    match text().and_then(|text| object(py, text)) {
        Ok(text) => text.into_ptr(),
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    }
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn refuse_new(
    _class: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let _: Raised = PyTypeError::new_err("tasks are made by curio.spawn() and Kernel.run()").into();
    ptr::null_mut()
}

impl Inner {
    fn objects(&self) -> [&RefCell<Option<Object>>; 5] {
        [&self.coroutine, &self.context, &self.result, &self.exception, &self.taskgroup]
    }
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn traverse(
    task: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector calls it with a live task, which may be half-made: the memory is
    // zeroed then, and `inner` is written before anything else can run.
    unsafe {
        for object in inner(task.cast()).objects() {
            // A cell that is borrowed is being changed; the collector does not run then.
            let Ok(object) = object.try_borrow() else { continue };
            if let Some(object) = &*object {
                let stop = visit(object.as_ptr(), arg);
                if stop != 0 {
                    return stop;
                }
            }
        }
        visit(ffi::Py_TYPE(task).cast(), arg)
    }
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn clear(task: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector calls it with a task that nobody can reach any more.
    for object in unsafe { inner(task.cast()) }.objects() {
        drop(object.take());
    }
    0
}

unsafe extern "C" fn dealloc(task: *mut ffi::PyObject) {
    // SAFETY: called when the last reference has gone, attached: `inner` is dropped once, then the
    // memory is given back as the class of the instance wants it.
    unsafe {
        ffi::PyObject_GC_UnTrack(task.cast());
        let class = ffi::Py_TYPE(task);
        ptr::drop_in_place(ptr::addr_of_mut!((*task.cast::<TaskObject>()).inner));
        let free = (*class).tp_free.expect("every class can free its instances");
        free(task.cast());
        ffi::Py_DECREF(class.cast());
    }
}

/// Makes the native base class.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    let mut getters: Vec<ffi::PyGetSetDef> = ATTRIBUTES
        .iter()
        .enumerate()
        .map(|(index, (name, _, doc))| ffi::PyGetSetDef {
            name: name.as_ptr(),
            get: Some(get),
            set: None,
            doc: doc.as_ptr(),
            closure: index as *mut c_void,
        })
        .collect();
    // SAFETY: the sentinel at the end of a table of getters is all zero.
    getters.push(unsafe { std::mem::zeroed() });
    let mut slots = [
        slot(ffi::Py_tp_new, refuse_new as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear as *mut c_void),
        slot(ffi::Py_tp_repr, repr as *mut c_void),
        slot(ffi::Py_tp_getset, Vec::leak(getters).as_mut_ptr().cast()),
        slot(0, ptr::null_mut()),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC;
    // SAFETY: the tables in the slots are as CPython wants them, and live for ever.
    let class = unsafe {
        make_type(py, c"curio._curio.TaskBase", size_of::<TaskObject>(), 0, flags, &mut slots)
    }?;
    BASE.store(class.cast(), Relaxed);
    // SAFETY: a live object, of which the module takes a reference of its own.
    module.add("TaskBase", unsafe { Bound::from_borrowed_ptr(py, class) })
}

/// Whether `class` can be instantiated as a task.
pub(crate) fn check_class(class: &Bound<'_, PyAny>) -> PyResult<()> {
    let base = BASE.load(Relaxed);
    // SAFETY: `class` is checked to be a class first; the base class is alive.
    let fits = class.cast::<pyo3::types::PyType>().is_ok()
        && unsafe { ffi::PyType_IsSubtype(class.as_ptr().cast(), base) } != 0;
    if fits {
        return Ok(());
    }
    Err(PyTypeError::new_err(format!(
        "taskcls must be a subclass of Task, not {}",
        repr_of(class)?
    )))
}

/// The class of tasks, unless a kernel has its own.
pub(crate) fn default_class() -> *mut ffi::PyTypeObject {
    CLASS.load(Relaxed)
}

/// Says of which class tasks are made.
#[pyfunction]
pub(crate) fn set_task_class(class: Bound<'_, PyAny>) -> PyResult<()> {
    check_class(&class)?;
    // The module keeps the reference for ever.
    CLASS.store(class.into_ptr().cast(), Relaxed);
    Ok(())
}

/// `coroutine::name`, for the report of a crash.
pub(crate) fn name_of(py: Python<'_>, task: &Object) -> String {
    // SAFETY: callers have a task.
    let inner = unsafe { inner(task.as_ptr().cast()) };
    match &*inner.coroutine.borrow() {
        Some(coroutine) => coroutine::name(&coroutine.bind(py)),
        None => "?".into(),
    }
}
