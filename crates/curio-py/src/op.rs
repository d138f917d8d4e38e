//! The op: what Python awaits.
//!
//! One object type with the future of an operation stored inline behind its header.
//! Awaiting it polls the future; what the future waits for, it has registered with
//! the kernel by then, so the op yields `None` through the chain of coroutines to the
//! task's body, and is resumed when there is something to see.
//!
//! ```text
//!   created ──await──▶ started ──poll──▶ running ──▶ done
//!      │                  ▲                 │
//!      │ dropped: warns   └──── pending ────┘
//! ```
//!
//! CPython calls `am_send` up to 3.11, and `tp_iternext` from 3.12 on, where a result is
//! a StopIteration; `None` needs none.
//!
//! There are two types with the same layout. Operations that refer to an object
//! take part in garbage collection, for an op can be part of a cycle (op, task,
//! coroutine, op); the others, such as a sleep, save themselves the cost. The object
//! is in the header, as `keep`; the future itself holds no reference that could
//! close a cycle.

use std::cell::Cell;
use std::future::Future;
use std::mem::{align_of, offset_of, size_of};
use std::os::raw::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::raise;
use crate::function::FunctionObject;
use crate::object::{Object, Outcome, Raised, panicked, repr_of};

/// An operation that a task can await.
pub(crate) trait Operation {
    /// Whether the op refers to an object, and so takes part in garbage collection.
    const KEEPS: bool;

    /// Whether `keep` is a coroutine that the operation runs: then a stack walks on into
    /// it, and what is thrown in goes to it.
    const DELEGATES: bool = false;

    /// Whether it makes sense only in a task.
    const NEEDS_KERNEL: bool = true;

    /// Makes progress; `keep` is null if there is none.
    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome>;
}

/// The object of an op, and what is to be thrown into it.
pub(crate) struct Keep {
    object: Cell<*mut ffi::PyObject>,
    /// What the operation hands over at its end; null for most.
    second: Cell<*mut ffi::PyObject>,
    thrown: Cell<*mut ffi::PyObject>,
}

impl Keep {
    /// The object. Only for operations that were made with one.
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.object.get()
    }

    /// Replaces the object.
    pub(crate) fn set(&self, object: Object) {
        let former = self.object.replace(object.into_ptr());
        // SAFETY: the former one was ours, or null; it is out of the op already, so what its end
        // runs cannot see it there.
        unsafe { ffi::Py_XDECREF(former) }
    }

    /// The second object, if there is one still.
    pub(crate) fn take_second(&self) -> Option<Object> {
        let second = self.second.replace(ptr::null_mut());
        // SAFETY: a non-null `second` is a reference of ours, handed over.
        unsafe { Object::owned(second).ok() }
    }

    /// Sets the second object.
    pub(crate) fn set_second(&self, object: Object) {
        let former = self.second.replace(object.into_ptr());
        // SAFETY: as in `set`.
        unsafe { ffi::Py_XDECREF(former) }
    }

    /// What was thrown into the op since the last poll.
    pub(crate) fn take_thrown(&self) -> Option<Object> {
        let thrown = self.thrown.replace(ptr::null_mut());
        // SAFETY: a non-null `thrown` is a reference of ours, handed over.
        unsafe { Object::owned(thrown).ok() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// Nobody has awaited it.
    Created,
    /// Awaited, and pending or about to be polled.
    Started,
    /// In its poll.
    Running,
    /// The future is gone.
    Done,
}

/// What an op can do, for one type of future.
struct VTable {
    // # Safety: both want a live op that was made with this table, and whose future is there.
    poll: unsafe fn(*mut OpObject, Python<'_>) -> Poll<Outcome>,
    drop: unsafe fn(*mut OpObject),
    keeps: bool,
    delegates: bool,
}

/// The header; the future follows at [`future_offset`].
#[repr(C)]
struct OpObject {
    base: ffi::PyVarObject,
    vtable: &'static VTable,
    /// The function that made it: gives the op its name. Null for what has none.
    function: *mut FunctionObject,
    keep: Keep,
    stage: Cell<Stage>,
}

static PLAIN: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static COLLECTED: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());

const fn future_offset<F>() -> usize {
    // Python aligns objects to 16, and to no more.
    assert!(align_of::<F>() <= 16);
    size_of::<OpObject>().next_multiple_of(align_of::<F>())
}

struct For<F>(std::marker::PhantomData<F>);

impl<F: Operation> For<F> {
    const VTABLE: VTable =
        VTable { poll: Self::poll, drop: Self::drop, keeps: F::KEEPS, delegates: F::DELEGATES };

    /// # Safety
    /// `op` is live, and was made for an `F`.
    unsafe fn future(op: *mut OpObject) -> *mut F {
        // SAFETY: the op was allocated with room for an `F` at this offset.
        unsafe { op.cast::<u8>().add(const { future_offset::<F>() }).cast() }
    }

    unsafe fn poll(op: *mut OpObject, py: Python<'_>) -> Poll<Outcome> {
        // SAFETY: called for ops made with this vtable, whose future is there: it is not `Done`.
        // A Python object never moves, so the future is pinned, and nobody else refers to it:
        // the stage is `Running`.
        let (future, keep) = unsafe { (Pin::new_unchecked(&mut *Self::future(op)), &(*op).keep) };
        if !F::NEEDS_KERNEL {
            return future.poll(py, keep, &mut Context::from_waker(Waker::noop()));
        }
        curio::embed::context(|cx| future.poll(py, keep, cx)).unwrap_or_else(|| {
            if is_being_closed(py) {
                return Poll::Ready(Err(pyo3::exceptions::PyGeneratorExit::new_err(()).into()));
            }
            // SAFETY: the op holds a reference to its function.
            let name = unsafe { name(py, op) };
            let message = format!(
                "'{name}' was awaited outside of a Curio kernel; it must run in a task, under \
                 curio.run() or Kernel.run()"
            );
            Poll::Ready(Err(pyo3::exceptions::PyRuntimeError::new_err(message).into()))
        })
    }

    unsafe fn drop(op: *mut OpObject) {
        // SAFETY: called once, when the op becomes `Done`.
        unsafe { ptr::drop_in_place(Self::future(op)) }
    }
}

/// Whether the awaiting coroutine is being closed, because it was dropped: it is handling
/// GeneratorExit then. Its clean-up cannot be awaited any more; going on with the closing is
/// what is left, and no news.
fn is_being_closed(py: Python<'_>) -> bool {
    let handled = py.import("sys").and_then(|sys| sys.call_method0("exc_info"));
    handled
        .and_then(|handled| handled.get_item(1))
        .is_ok_and(|exception| exception.is_instance_of::<pyo3::exceptions::PyGeneratorExit>())
}

/// Makes an op of `function` that runs `future`; `keep` is the object it works on.
pub(crate) fn new<F: Operation>(
    function: *mut FunctionObject,
    keep: Option<Object>,
    future: F,
) -> Outcome {
    new_with(function, keep, None, future)
}

/// As [`new`], with a second object.
pub(crate) fn new_with<F: Operation>(
    function: *mut FunctionObject,
    keep: Option<Object>,
    second: Option<Object>,
    future: F,
) -> Outcome {
    let size = const { (future_offset::<F>() - size_of::<OpObject>() + size_of::<F>()) as isize };
    // SAFETY: the types were made by `init` before any function could call this. The allocators
    // give room for the header and `size` bytes of an item size of 1, or null with the error set.
    let op = unsafe {
        if F::KEEPS {
            ffi::PyObject_GC_NewVar::<OpObject>(COLLECTED.load(Relaxed), size)
        } else {
            ffi::PyObject_NewVar::<OpObject>(PLAIN.load(Relaxed), size)
        }
    };
    if op.is_null() {
        return Err(Raised);
    }
    let object = keep.map_or(ptr::null_mut(), Object::into_ptr);
    // SAFETY: the memory behind the base is uninitialised and ours: each field, and the future,
    // is written once. The function is alive, for it is being called.
    unsafe {
        ptr::addr_of_mut!((*op).vtable).write(&For::<F>::VTABLE);
        ffi::Py_XINCREF(function.cast());
        ptr::addr_of_mut!((*op).function).write(function);
        let second = Cell::new(second.map_or(ptr::null_mut(), Object::into_ptr));
        let thrown = Cell::new(ptr::null_mut());
        ptr::addr_of_mut!((*op).keep).write(Keep { object: Cell::new(object), second, thrown });
        ptr::addr_of_mut!((*op).stage).write(Cell::new(Stage::Created));
        For::<F>::future(op).write(future);
        if F::KEEPS {
            ffi::PyObject_GC_Track(op.cast());
        }
        Object::owned(op.cast())
    }
}

/// An operation made of a future of the crate and what turns its result into an object.
pub(crate) struct Mapped<F, M> {
    future: F,
    map: Option<M>,
}

impl<F, M> Mapped<F, M> {
    pub(crate) fn new<T>(future: F, map: M) -> Self
    where
        F: Future<Output = curio::Result<T>>,
        M: FnOnce(Python<'_>, &Keep, T) -> Outcome,
    {
        Mapped { future, map: Some(map) }
    }
}

impl<T, F, M> Operation for Mapped<F, M>
where
    F: Future<Output = curio::Result<T>>,
    M: FnOnce(Python<'_>, &Keep, T) -> Outcome,
{
    const KEEPS: bool = true;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        // SAFETY: `future` is pinned with `self` and never moved; `map` is not pinned, and may
        // be taken out.
        let (future, map) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.future), &mut this.map)
        };
        match future.poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(value)) => {
                let map = map.take().expect("an op is polled to its end once");
                Poll::Ready(map(py, keep, value))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(raise(py, &error))),
        }
    }
}

/// An operation without an object.
pub(crate) struct Plain<O>(pub(crate) O);

impl<O: Operation> Operation for Plain<O> {
    const KEEPS: bool = false;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        // SAFETY: the only field is pinned with the whole.
        unsafe { self.map_unchecked_mut(|plain| &mut plain.0) }.poll(py, keep, cx)
    }
}

/// An operation that does its work when it is first polled.
pub(crate) struct Instant<W>(Option<W>);

impl<W: FnOnce(Python<'_>, &Keep) -> Outcome> Instant<W> {
    pub(crate) fn new(work: W) -> Self {
        Instant(Some(work))
    }
}

impl<W: FnOnce(Python<'_>, &Keep) -> Outcome + Unpin> Operation for Instant<W> {
    const KEEPS: bool = true;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        _cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        let work = self.get_mut().0.take().expect("an op is polled to its end once");
        Poll::Ready(work(py, keep))
    }
}

/// An exception class and a message, set.
fn error(kind: *mut ffi::PyObject, message: &str) -> Raised {
    let message = std::ffi::CString::new(message).unwrap_or_default();
    // SAFETY: `kind` is an exception class of the interpreter; called in slots, attached.
    unsafe { ffi::PyErr_SetString(kind, message.as_ptr()) };
    Raised
}

/// The op's name, for messages.
unsafe fn name(py: Python<'_>, op: *const OpObject) -> String {
    // SAFETY: the caller has a live op, which holds a reference to its function, if any.
    unsafe { (*op).function.as_ref() }.map_or_else(|| "operation".into(), |f| f.name(py))
}

/// The op's qualified name.
unsafe fn qualname(py: Python<'_>, op: *const OpObject) -> String {
    // SAFETY: as in `name`.
    unsafe { (*op).function.as_ref() }.map_or_else(|| "operation".into(), |f| f.qualname(py))
}

/// Polls a live op; a panic becomes an exception.
unsafe fn resume(op: *mut OpObject) -> Poll<Outcome> {
    // SAFETY: slots are called in attached threads.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: a live op's header, of which only `Cell`s change.
    let header = unsafe { &*op };
    match header.stage.get() {
        Stage::Created | Stage::Started => {}
        Stage::Running => {
            // SAFETY: a live op.
            let name = unsafe { name(py, op) };
            let message = format!("'{name}' is being awaited already");
            // SAFETY: the class is static.
            return Poll::Ready(Err(error(unsafe { ffi::PyExc_RuntimeError }, &message)));
        }
        Stage::Done => {
            // SAFETY: a live op.
            let name = unsafe { name(py, op) };
            let message = format!("cannot reuse already awaited '{name}'");
            // SAFETY: the class is static.
            return Poll::Ready(Err(error(unsafe { ffi::PyExc_RuntimeError }, &message)));
        }
    }
    header.stage.set(Stage::Running);
    // SAFETY: the future is there, and nobody else polls it: the stage says so.
    let polled = catch_unwind(AssertUnwindSafe(|| unsafe { (header.vtable.poll)(op, py) }));
    let polled = polled.unwrap_or_else(|panic| Poll::Ready(Err(panicked(&*panic))));
    if polled.is_pending() {
        header.stage.set(Stage::Started);
    } else {
        // SAFETY: the future has ended, and is dropped once.
        unsafe { finish(op) };
    }
    polled
}

/// Drops the future.
unsafe fn finish(op: *mut OpObject) {
    // SAFETY: a live op whose future is there.
    unsafe {
        (*op).stage.set(Stage::Done);
        ((*op).vtable.drop)(op);
    }
}

unsafe extern "C" fn am_send(
    op: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    let op = op.cast::<OpObject>();
    // SAFETY: the interpreter calls the slot with a live op of ours and a place for the result.
    unsafe {
        *result = ptr::null_mut();
        if value != ffi::Py_None() && (*op).stage.get() == Stage::Created {
            let message = "can't send non-None value to a just-started coroutine";
            error(ffi::PyExc_TypeError, message);
            return ffi::PySendResult::PYGEN_ERROR;
        }
        match resume(op) {
            Poll::Pending => {
                *result = Object::none().into_ptr();
                ffi::PySendResult::PYGEN_NEXT
            }
            Poll::Ready(Ok(value)) => {
                *result = value.into_ptr();
                ffi::PySendResult::PYGEN_RETURN
            }
            Poll::Ready(Err(Raised)) => ffi::PySendResult::PYGEN_ERROR,
        }
    }
}

/// What a generator-like method gives: a yielded object, or null with StopIteration or the
/// error set.
///
/// # Safety
/// The thread is attached.
unsafe fn as_iterator(polled: Poll<Outcome>, none_is_bare: bool) -> *mut ffi::PyObject {
    match polled {
        Poll::Pending => Object::none().into_ptr(),
        Poll::Ready(Err(Raised)) => ptr::null_mut(),
        Poll::Ready(Ok(value)) => {
            // SAFETY: attached, and the value is alive.
            unsafe {
                if !(none_is_bare && value.as_ptr() == ffi::Py_None()) {
                    stop_iteration(&value);
                }
            }
            ptr::null_mut()
        }
    }
}

/// Sets `StopIteration(value)`. An instance is made by hand, for `PyErr_SetObject` would take
/// a tuple for the arguments and an exception for the instance.
///
/// # Safety
/// The thread is attached.
#[cfg(not(Py_3_12))]
unsafe fn stop_iteration(value: &Object) {
    // SAFETY: the class is static, the value alive; both calls want that and an attached thread.
    unsafe {
        let stop = ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, value.as_ptr());
        if !stop.is_null() {
            ffi::PyErr_SetObject(ffi::PyExc_StopIteration, stop);
            ffi::Py_DECREF(stop);
        }
    }
}

/// The `StopIteration` that is used again whenever nobody else has it.
///
/// From 3.12 on, `await` gets each of our results in one, and making it would be most of its
/// cost. Null, or a reference of ours to an instance.
#[cfg(Py_3_12)]
static KEPT: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

/// Sets `StopIteration(value)`.
///
/// # Safety
/// The thread is attached.
#[cfg(Py_3_12)]
unsafe fn stop_iteration(value: &Object) {
    // SAFETY: attached, so nobody else is at `KEPT`, whose reference is ours. The kept exception
    // is a `StopIteration` by its making; its value is null or a reference that it owns, and may
    // be replaced while nobody else can see it.
    unsafe {
        let mut kept = KEPT.load(Relaxed);
        if kept.is_null() || ffi::Py_REFCNT(kept) != 1 {
            let fresh = ffi::PyObject_CallNoArgs(ffi::PyExc_StopIteration);
            if fresh.is_null() {
                return;
            }
            KEPT.store(fresh, Relaxed);
            ffi::Py_XDECREF(kept);
            kept = fresh;
        }
        let place = ptr::addr_of_mut!((*kept.cast::<ffi::PyStopIterationObject>()).value);
        let former = place.replace(value.clone().into_ptr());
        ffi::Py_INCREF(kept);
        ffi::PyErr_SetRaisedException(kept);
        ffi::Py_XDECREF(former);
    }
}

/// Lets the last result go, once nobody looks for it any more: an await drops its op when it
/// has the op's result.
///
/// # Safety
/// The thread is attached.
#[cfg(Py_3_12)]
unsafe fn forget_result() {
    // SAFETY: as above.
    unsafe {
        let kept = KEPT.load(Relaxed);
        if !kept.is_null() && ffi::Py_REFCNT(kept) == 1 {
            let place = ptr::addr_of_mut!((*kept.cast::<ffi::PyStopIterationObject>()).value);
            ffi::Py_XDECREF(place.replace(ptr::null_mut()));
        }
    }
}

#[cfg(not(Py_3_12))]
unsafe fn forget_result() {}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn iternext(op: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the slot is called with a live op.
    unsafe { as_iterator(resume(op.cast()), true) }
}

unsafe extern "C" fn am_await(op: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let header = op.cast::<OpObject>();
    // SAFETY: the slot is called with a live op, in an attached thread.
    unsafe {
        if (*header).stage.get() != Stage::Created {
            let name = name(Python::assume_attached(), header);
            let message = match (*header).stage.get() {
                Stage::Done => format!("cannot reuse already awaited '{name}'"),
                _ => format!("'{name}' is being awaited already"),
            };
            error(ffi::PyExc_RuntimeError, &message);
            return ptr::null_mut();
        }
        (*header).stage.set(Stage::Started);
        ffi::Py_INCREF(op);
        op
    }
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn send(op: *mut ffi::PyObject, value: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let mut result = ptr::null_mut();
    // SAFETY: a method is called with a live op and a live argument.
    unsafe {
        match am_send(op, value, &mut result) {
            ffi::PySendResult::PYGEN_NEXT => result,
            ffi::PySendResult::PYGEN_RETURN => {
                as_iterator(Poll::Ready(Object::owned(result)), false)
            }
            ffi::PySendResult::PYGEN_ERROR => ptr::null_mut(),
        }
    }
}

/// `throw(value)` or `throw(type[, value[, traceback]])`.
///
/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn throw(op: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: slots are called in attached threads.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: a live tuple.
    let args = unsafe { Bound::from_borrowed_ptr(py, args) };
    let exception = match thrown_exception(&args) {
        Ok(exception) => exception,
        Err(error) => {
            error.restore(py);
            return ptr::null_mut();
        }
    };
    // SAFETY: a live op.
    unsafe { throw_into(op.cast(), Object::from(exception)) }
}

fn thrown_exception<'py>(args: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = args.py();
    let first = args.get_item(0).map_err(|_| {
        pyo3::exceptions::PyTypeError::new_err("throw() needs the exception to throw")
    })?;
    let value = args.get_item(1).ok().filter(|value| !value.is_none());
    let class = py.get_type::<pyo3::exceptions::PyBaseException>();
    let exception = match value {
        Some(value) if value.is_instance(class.as_any())? => value,
        Some(value) => first.call1((value,))?,
        None if first.is_instance(class.as_any())? => first,
        None => first.call0()?,
    };
    if !exception.is_instance(class.as_any())? {
        let message =
            format!("exceptions must derive from BaseException, not {}", repr_of(&exception)?);
        return Err(pyo3::exceptions::PyTypeError::new_err(message));
    }
    if let Ok(traceback) = args.get_item(2)
        && !traceback.is_none()
    {
        exception.setattr("__traceback__", traceback)?;
    }
    Ok(exception)
}

/// # Safety
/// `op` is live, and the thread attached.
unsafe fn throw_into(op: *mut OpObject, exception: Object) -> *mut ffi::PyObject {
    // SAFETY: the caller has a live op; attached.
    unsafe {
        let header = &*op;
        if header.vtable.delegates && header.stage.get() == Stage::Started {
            header.keep.thrown.set(exception.into_ptr());
            return as_iterator(resume(op), false);
        }
        match header.stage.get() {
            Stage::Running => {
                error(ffi::PyExc_ValueError, "coroutine already executing");
                return ptr::null_mut();
            }
            Stage::Created | Stage::Started => {
                // A coroutine that it was to run will not be run: nothing is forgotten.
                let closed = close(op.cast(), ptr::null_mut());
                if closed.is_null() {
                    return closed;
                }
                ffi::Py_DECREF(closed);
            }
            Stage::Done => {}
        }
        let kind = ffi::Py_TYPE(exception.as_ptr()).cast();
        ffi::PyErr_SetObject(kind, exception.as_ptr());
        ptr::null_mut()
    }
}

/// Gives the op up: a coroutine that it runs gets the chance to clean up.
///
/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn close(op: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let op = op.cast::<OpObject>();
    // SAFETY: a method is called with a live op, attached.
    unsafe {
        let header = &*op;
        match header.stage.get() {
            Stage::Done => {}
            Stage::Running => {
                error(ffi::PyExc_ValueError, "coroutine already executing");
                return ptr::null_mut();
            }
            Stage::Created | Stage::Started => {
                let inner = header.keep.as_ptr();
                let closed = if header.vtable.delegates && !inner.is_null() {
                    let py = Python::assume_attached();
                    Bound::from_borrowed_ptr(py, inner).call_method0("close").map(drop)
                } else {
                    Ok(())
                };
                if header.stage.get() != Stage::Done {
                    finish(op);
                }
                if let Err(error) = closed {
                    error.restore(Python::assume_attached());
                    return ptr::null_mut();
                }
            }
        }
        Object::none().into_ptr()
    }
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn repr(op: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the slot is called with a live op, attached.
    unsafe {
        let py = Python::assume_attached();
        let name = qualname(py, op.cast());
        let text = format!("<coroutine object {name} at {op:p}>");
        text.into_pyobject(py).map_or(ptr::null_mut(), |text| text.into_any().into_ptr())
    }
}

unsafe extern "C" fn get_name(op: *mut ffi::PyObject, which: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a getter is called with a live op, attached.
    unsafe {
        let py = Python::assume_attached();
        let name = if which.is_null() { name(py, op.cast()) } else { qualname(py, op.cast()) };
        name.into_pyobject(py).map_or(ptr::null_mut(), |name| name.into_any().into_ptr())
    }
}

unsafe extern "C" fn get_none(_: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    Object::none().into_ptr()
}

/// What a walk through the stack finds next: the coroutine that the op runs.
///
/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn get_await(op: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a getter is called with a live op; `keep` is alive as long as the op.
    unsafe {
        let header = &*op.cast::<OpObject>();
        let keep = header.keep.as_ptr();
        if header.vtable.delegates && !keep.is_null() && header.stage.get() != Stage::Done {
            return Object::borrowed(keep).into_ptr();
        }
        Object::none().into_ptr()
    }
}

unsafe extern "C" fn get_running(op: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a getter is called with a live op; the singletons are always alive.
    unsafe {
        let running = (*op.cast::<OpObject>()).stage.get() == Stage::Running;
        Object::borrowed(if running { ffi::Py_True() } else { ffi::Py_False() }).into_ptr()
    }
}

unsafe extern "C" fn traverse(
    op: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector calls it with a live op; the pointers are null or alive, and a heap
    // type is to be visited by its instances.
    unsafe {
        let header = &*op.cast::<OpObject>();
        let Keep { object, second, thrown } = &header.keep;
        for object in [object.get(), second.get(), thrown.get(), ffi::Py_TYPE(op).cast()] {
            if !object.is_null() {
                let stop = visit(object, arg);
                if stop != 0 {
                    return stop;
                }
            }
        }
    }
    0
}

/// # Safety
/// Called by the interpreter alone, attached, with what its slot or table promises.
unsafe extern "C" fn clear(op: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector calls it with an op that nobody can reach any more. The future goes
    // with the object it works on.
    unsafe {
        let header = &*op.cast::<OpObject>();
        if matches!(header.stage.get(), Stage::Created | Stage::Started) {
            finish(op.cast());
        }
        ffi::Py_XDECREF(header.keep.object.replace(ptr::null_mut()));
        ffi::Py_XDECREF(header.keep.second.replace(ptr::null_mut()));
    }
    0
}

unsafe extern "C" fn dealloc(op: *mut ffi::PyObject) {
    // SAFETY: called when the last reference has gone, attached. Each field is given up once,
    // and then the memory, by the allocator's counterpart.
    unsafe {
        let header = &*op.cast::<OpObject>();
        let keeps = header.vtable.keeps;
        if keeps {
            ffi::PyObject_GC_UnTrack(op.cast());
        }
        if header.stage.get() == Stage::Created && !interrupted() {
            warn_never_awaited(header);
        }
        if header.stage.get() != Stage::Done {
            let dropped = catch_unwind(AssertUnwindSafe(|| finish(op.cast())));
            debug_assert!(dropped.is_ok(), "the drop of an operation has panicked");
        }
        ffi::Py_XDECREF(header.keep.object.replace(ptr::null_mut()));
        ffi::Py_XDECREF(header.keep.second.replace(ptr::null_mut()));
        ffi::Py_XDECREF(header.keep.thrown.replace(ptr::null_mut()));
        ffi::Py_XDECREF(header.function.cast());
        forget_result();
        let class = ffi::Py_TYPE(op);
        if keeps {
            ffi::PyObject_GC_Del(op.cast());
        } else {
            ffi::PyObject_Free(op.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

/// Whether Ctrl-C is on its way up: it may have come between a call and its await, and nobody
/// has forgotten anything then.
///
/// # Safety
/// The thread is attached.
unsafe fn interrupted() -> bool {
    // SAFETY: attached; the class is static, and there is an exception to match.
    unsafe {
        !ffi::PyErr_Occurred().is_null()
            && ffi::PyErr_ExceptionMatches(ffi::PyExc_KeyboardInterrupt) != 0
    }
}

/// As for a native coroutine: at the line that has dropped it.
///
/// # Safety
/// Called from `dealloc`: the thread is attached, the function alive.
unsafe fn warn_never_awaited(header: &OpObject) {
    // SAFETY: called from `dealloc`: attached, and the function is alive.
    unsafe {
        let py = Python::assume_attached();
        let pending = PyErr::take(py);
        let name = qualname(py, header);
        let message = format!("coroutine '{name}' was never awaited");
        let message = std::ffi::CString::new(message).unwrap_or_default();
        if ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, message.as_ptr(), 1) < 0 {
            ffi::PyErr_WriteUnraisable(header.function.cast());
        }
        if let Some(pending) = pending {
            pending.restore(py);
        }
    }
}

const fn method(
    name: &'static std::ffi::CStr,
    function: ffi::PyCFunction,
    flags: c_int,
    doc: &'static std::ffi::CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: flags,
        ml_doc: doc.as_ptr(),
    }
}

const fn getter(
    name: &'static std::ffi::CStr,
    get: ffi::getter,
    doc: &'static std::ffi::CStr,
    closure: *mut c_void,
) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set: None, doc: doc.as_ptr(), closure }
}

/// Makes the two types.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    let methods = Box::leak(Box::new([
        method(c"send", send, ffi::METH_O, c"Resume the operation; value must be None."),
        method(c"throw", throw, ffi::METH_VARARGS, c"Raise an exception where it waits."),
        method(c"close", close, ffi::METH_NOARGS, c"Give the operation up."),
        ffi::PyMethodDef::zeroed(),
    ]));
    // Any pointer that is not null tells `get_name` which of the two is meant.
    let qualified = ptr::NonNull::<c_void>::dangling().as_ptr();
    let getters = Box::leak(Box::new([
        getter(c"__name__", get_name, c"name of the operation", ptr::null_mut()),
        getter(c"__qualname__", get_name, c"qualified name of the operation", qualified),
        getter(c"cr_await", get_await, c"coroutine that it runs, or None", ptr::null_mut()),
        getter(c"cr_frame", get_none, c"None: it has no Python frame", ptr::null_mut()),
        getter(c"cr_code", get_none, c"None: it has no Python code", ptr::null_mut()),
        getter(c"cr_origin", get_none, c"None", ptr::null_mut()),
        getter(c"cr_running", get_running, c"whether it is being resumed", ptr::null_mut()),
        // SAFETY: the sentinel at the end of a table of getters is all zero.
        unsafe { std::mem::zeroed() },
    ]));
    for (collected, place) in [(false, &PLAIN), (true, &COLLECTED)] {
        let mut slots = vec![
            slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
            slot(ffi::Py_tp_repr, repr as *mut c_void),
            slot(ffi::Py_tp_iter, ffi::PyObject_SelfIter as *mut c_void),
            slot(ffi::Py_tp_iternext, iternext as *mut c_void),
            slot(ffi::Py_am_await, am_await as *mut c_void),
            slot(ffi::Py_am_send, am_send as *mut c_void),
            slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
            slot(ffi::Py_tp_getset, getters.as_mut_ptr().cast()),
            slot(ffi::Py_tp_doc, c"An operation of Curio, to be awaited.".as_ptr() as *mut c_void),
        ];
        let mut flags = ffi::Py_TPFLAGS_DEFAULT
            | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION
            | ffi::Py_TPFLAGS_IMMUTABLETYPE;
        if collected {
            slots.push(slot(ffi::Py_tp_traverse, traverse as *mut c_void));
            slots.push(slot(ffi::Py_tp_clear, clear as *mut c_void));
            flags |= ffi::Py_TPFLAGS_HAVE_GC;
        }
        slots.push(slot(0, ptr::null_mut()));
        // SAFETY: the tables in the slots are as CPython wants them, and live for ever.
        let class = unsafe {
            make_type(py, c"curio._curio.op", size_of::<OpObject>(), 1, flags, &mut slots)
        }?;
        place.store(class.cast(), Relaxed);
    }
    Ok(())
}

/// Makes a heap type, which is kept for ever.
///
/// # Safety
/// `slots` ends with a zero slot; its functions and tables fit the instances, which have
/// `size` bytes, and outlive the type.
pub(crate) unsafe fn make_type(
    py: Python<'_>,
    name: &'static std::ffi::CStr,
    size: usize,
    itemsize: c_int,
    flags: std::os::raw::c_ulong,
    slots: &mut [ffi::PyType_Slot],
) -> PyResult<*mut ffi::PyObject> {
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: size as c_int,
        itemsize,
        flags: flags as std::os::raw::c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the caller's promise; the name is static, and the rest is copied.
    let class = unsafe { ffi::PyType_FromSpec(&mut spec) };
    if class.is_null() { Err(PyErr::fetch(py)) } else { Ok(class) }
}

pub(crate) fn slot(slot: c_int, function: *mut c_void) -> ffi::PyType_Slot {
    ffi::PyType_Slot { slot, pfunc: function }
}

/// Whether `object` is an op.
pub(crate) fn is_op(object: *mut ffi::PyObject) -> bool {
    // SAFETY: a live object has a type.
    let class = unsafe { ffi::Py_TYPE(object) };
    class == PLAIN.load(Relaxed) || class == COLLECTED.load(Relaxed)
}

/// Whether `object`, an op, has been started.
pub(crate) fn is_started(object: *mut ffi::PyObject) -> bool {
    // SAFETY: the caller has checked `is_op`.
    unsafe { (*object.cast::<OpObject>()).stage.get() != Stage::Created }
}

// `PyVarObject` must come first: the interpreter casts between the two.
const _: () = assert!(offset_of!(OpObject, base) == 0);
