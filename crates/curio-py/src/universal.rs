//! `UniversalQueue`, `UniversalEvent`: the native bases of what tasks, threads and asyncio share.
//!
//! A method is one function for all callers, and finds out who calls: in a thread where a kernel
//! runs, a task, which gets an op; where a loop of asyncio's runs, a task of that one, which gets
//! a coroutine; else the thread itself, which is blocked.
//!
//! *Blocking.* The interpreter's lock is given up while the thread is parked, and there alone: no
//! lock of the queue's is ever held by a thread that is not attached, so a fork finds
//! none held. The main thread waits for signals as well, by the wake-up descriptor, as the poller
//! does: Ctrl-C ends its wait, and it leaves the line.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::process;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use curio::sync::Kind;
use curio::universal::{Event, Finished, Get, Put, Queue, Set, Side, Standing};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::error::raise;
use crate::function::Call;
use crate::kernel;
use crate::object::{Attached, Object, Outcome, Raised, take_error};
use crate::op::{self, Instant, Keep, Mapped, Operation, Plain};
use crate::poller::SignalBell;
use crate::queue::traverse;
use crate::sync::{Figures, figures, this, truth, value_error};

/// An item. It is dropped by attached threads alone: by whoever uses the queue, from Python.
type Item = Attached<Object>;

// Who calls.

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Task,
    Asyncio,
    Thread,
}

impl Caller {
    fn find(py: Python<'_>) -> PyResult<Caller> {
        if curio::embed::is_running() {
            return Ok(Caller::Task);
        }
        static RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let find = match RUNNING_LOOP.get(py) {
            Some(find) => find.bind(py).clone(),
            // Who has not imported asyncio has no loop.
            None => match loaded(py, intern!(py, "asyncio"))? {
                None => return Ok(Caller::Thread),
                // While it is being imported, it may not have it yet.
                Some(asyncio) => match asyncio.getattr_opt(intern!(py, "_get_running_loop"))? {
                    None => return Ok(Caller::Thread),
                    Some(find) => RUNNING_LOOP.get_or_init(py, || find.unbind()).bind(py).clone(),
                },
            },
        };
        Ok(if find.call0()?.is_none() { Caller::Thread } else { Caller::Asyncio })
    }
}

/// "task", "asyncio" or "thread": in what kind of code this is called.
#[pyfunction]
pub(crate) fn caller(py: Python<'_>) -> PyResult<&'static str> {
    Ok(match Caller::find(py)? {
        Caller::Task => "task",
        Caller::Asyncio => "asyncio",
        Caller::Thread => "thread",
    })
}

/// A module, if it is loaded. At the interpreter's end there may be no table of them any more.
fn loaded<'py>(
    py: Python<'py>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    // SAFETY: attached; what comes back is null or borrowed, and alive while nothing else runs.
    let modules =
        unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PySys_GetObject(c"modules".as_ptr())) };
    match modules.and_then(|modules| modules.cast_into::<PyDict>().ok()) {
        Some(modules) => Ok(modules.get_item(name)?.filter(|module| !module.is_none())),
        None => Ok(None),
    }
}

/// What the caller of an operation gets that may have to wait.
///
/// `task` makes the op; `standing` waits elsewhere. In a thread that has a task in a kernel
/// for its name (`curio.spawn_thread`), that task waits.
fn wait<S>(
    py: Python<'_>,
    call: &Call<'_>,
    task: impl FnOnce() -> Outcome,
    standing: impl FnOnce() -> Standing<S>,
) -> Outcome
where
    S: Side + 'static,
    S::Got: Finish,
    Line: From<Standing<S>>,
{
    match Caller::find(py)? {
        Caller::Task => task(),
        Caller::Asyncio => {
            let standing = StandingBase(Attached::new(RefCell::new(standing().into())));
            let glue = py.import(intern!(py, "curio._universal"))?;
            let standing = Bound::new(py, standing)?;
            Ok(glue.call_method1(intern!(py, "in_asyncio"), (standing,))?.into())
        }
        Caller::Thread => {
            let mut standing = standing();
            if let Poll::Ready(got) = standing.poll(&mut Context::from_waker(Waker::noop())) {
                return got.finish(py);
            }
            if let Some(module) = loaded(py, intern!(py, "curio.thread"))?
                && module.call_method0(intern!(py, "is_async_thread"))?.is_truthy()?
            {
                drop(standing);
                return in_async_thread(py, call, &module);
            }
            block(py, &mut standing)?.finish(py)
        }
    }
}

/// Has the operation awaited by the task of an async thread.
fn in_async_thread(py: Python<'_>, call: &Call<'_>, module: &Bound<'_, PyAny>) -> Outcome {
    let glue = py.import(intern!(py, "curio._universal"))?;
    // SAFETY: the function is alive, for it is being called.
    let function = unsafe { Object::borrowed(call.function.cast()) };
    let arguments = (0..call.count()).map(|place| call.get(py, place));
    let arguments = PyTuple::new(py, arguments)?;
    let coroutine = glue.call_method1(intern!(py, "in_kernel"), (function.bind(py), arguments))?;
    Ok(module.call_method1(intern!(py, "AWAIT"), (coroutine,))?.into())
}

/// What the caller of an operation gets that does its work at once.
fn at_once(
    py: Python<'_>,
    call: &Call<'_>,
    work: impl FnOnce(Python<'_>) -> Outcome + Unpin,
) -> Outcome {
    match Caller::find(py)? {
        Caller::Task => {
            let work = move |py: Python<'_>, _: &Keep| work(py);
            op::new(call.function, Some(call.object(0)), Instant::new(work))
        }
        Caller::Thread => work(py),
        Caller::Asyncio => {
            let done = work(py)?;
            let glue = py.import(intern!(py, "curio._universal"))?;
            Ok(glue.call_method1(intern!(py, "done"), (done.bind(py),))?.into())
        }
    }
}

/// What a wait has given, as Python sees it.
trait Finish {
    fn finish(self, py: Python<'_>) -> Outcome;
}

impl Finish for curio::Result<Item> {
    fn finish(self, py: Python<'_>) -> Outcome {
        self.map(Attached::into_inner).map_err(|error| raise(py, &error))
    }
}

impl Finish for curio::Result<()> {
    fn finish(self, py: Python<'_>) -> Outcome {
        self.map(|()| Object::none()).map_err(|error| raise(py, &error))
    }
}

impl Finish for bool {
    fn finish(self, _py: Python<'_>) -> Outcome {
        Ok(truth(self))
    }
}

impl Finish for () {
    fn finish(self, _py: Python<'_>) -> Outcome {
        Ok(Object::none())
    }
}

// Threads.

/// Blocks the thread until it has its turn.
fn block<S: Side>(py: Python<'_>, standing: &mut Standing<S>) -> Outcome<S::Got> {
    let mut here = Here::find(py)?;
    let waker = here.waker();
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(got) = standing.poll(&mut cx) {
            return Ok(got);
        }
        here.park(py)?;
    }
}

/// The thread that is to be parked.
enum Here {
    Main(Rc<MainThread>),
    Other(Waker),
}

thread_local! {
    /// What the main thread waits with; made anew by a forked child.
    static MAIN: RefCell<Option<Rc<MainThread>>> = const { RefCell::new(None) };
    /// The process in which this was found not to be the main thread.
    static NOT_MAIN: Cell<u32> = const { Cell::new(0) };
    static PARKED: Waker = Waker::from(Arc::new(Parked(thread::current())));
}

struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Here {
    fn find(py: Python<'_>) -> PyResult<Here> {
        let process = process::id();
        if NOT_MAIN.get() != process {
            let former = MAIN.with_borrow(Clone::clone).filter(|main| main.process == process);
            let main = match former {
                Some(main) => main,
                None => Rc::new(MainThread::new(process)?),
            };
            // Only the main thread may.
            if main.bell.listen(py).is_some() {
                MAIN.set(Some(main.clone()));
                return Ok(Here::Main(main));
            }
            NOT_MAIN.set(process);
        }
        Ok(Here::Other(PARKED.with(Waker::clone)))
    }

    fn waker(&self) -> Waker {
        match self {
            Here::Main(main) => Waker::from(main.event.clone()),
            Here::Other(waker) => waker.clone(),
        }
    }

    /// Waits to be woken, or for no reason. What a signal's handler raises ends it.
    fn park(&mut self, py: Python<'_>) -> PyResult<()> {
        match self {
            Here::Main(main) => main.park(py),
            Here::Other(_) => {
                py.detach(thread::park);
                Ok(())
            }
        }
    }
}

struct MainThread {
    process: u32,
    bell: SignalBell,
    signals: OwnedFd,
    event: Arc<Rung>,
}

/// Can be read when the main thread is to look.
struct Rung(OwnedFd);

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        // Full: it can be read.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl MainThread {
    fn new(process: u32) -> PyResult<MainThread> {
        let (bell, signals) = SignalBell::new()?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let event = Arc::new(Rung(event.map_err(io::Error::from)?));
        Ok(MainThread { process, bell, signals, event })
    }

    fn park(&self, py: Python<'_>) -> PyResult<()> {
        let listening = self.bell.listen(py);
        // Those that came before there was somebody to listen.
        py.check_signals()?;
        let waited = py.detach(|| {
            let look = |fd| PollFd::new(fd, PollFlags::IN);
            poll(&mut [look(&self.event.0), look(&self.signals)], None)
        });
        if let Err(error) = waited
            && error != rustix::io::Errno::INTR
        {
            return Err(io::Error::from(error).into());
        }
        let _ = rustix::io::read(&self.event.0, &mut [0; 8]);
        if let Some(listening) = listening {
            listening.pass_on(&self.signals);
        }
        py.check_signals()
    }
}

// asyncio.

/// Somebody in line, in a loop of asyncio's.
#[pyclass(frozen, module = "curio", name = "StandingBase")]
pub(crate) struct StandingBase(Attached<RefCell<Line>>);

enum Line {
    Get(Standing<Get<Item>>),
    Put(Standing<Put<Item>>),
    Finished(Standing<Finished<Item>>),
    Set(Standing<Set>),
}

impl From<Standing<Get<Item>>> for Line {
    fn from(standing: Standing<Get<Item>>) -> Line {
        Line::Get(standing)
    }
}

impl From<Standing<Put<Item>>> for Line {
    fn from(standing: Standing<Put<Item>>) -> Line {
        Line::Put(standing)
    }
}

impl From<Standing<Finished<Item>>> for Line {
    fn from(standing: Standing<Finished<Item>>) -> Line {
        Line::Finished(standing)
    }
}

impl From<Standing<Set>> for Line {
    fn from(standing: Standing<Set>) -> Line {
        Line::Set(standing)
    }
}

/// Calls a function of Python's.
struct Called(Py<PyAny>);

impl Wake for Called {
    fn wake(self: Arc<Self>) {
        // Whoever gives a turn is attached: he is in a method of the queue's, or runs a kernel.
        Python::attach(|py| {
            if let Err(error) = self.0.call0(py) {
                kernel::raise_in_run(py, error, Some(self.0.bind(py)));
            }
        });
    }
}

#[pymethods]
impl StandingBase {
    /// The result, in a tuple; or None, and `wake()` will be called when there is one. Any thread
    /// may call it.
    fn poll(&self, py: Python<'_>, wake: Py<PyAny>) -> PyResult<Option<(Py<PyAny>,)>> {
        let waker = Waker::from(Arc::new(Called(wake)));
        let mut cx = Context::from_waker(&waker);
        let polled = {
            let Ok(mut line) = self.0.try_borrow_mut() else { return Err(in_use()) };
            match &mut *line {
                Line::Get(standing) => standing.poll(&mut cx).map(|got| got.finish(py)),
                Line::Put(standing) => standing.poll(&mut cx).map(|got| got.finish(py)),
                Line::Finished(standing) => standing.poll(&mut cx).map(|got| got.finish(py)),
                Line::Set(standing) => standing.poll(&mut cx).map(|got| got.finish(py)),
            }
        };
        match polled {
            Poll::Pending => Ok(None),
            Poll::Ready(Ok(result)) => Ok(Some((result.bind(py).unbind(),))),
            Poll::Ready(Err(Raised)) => Err(take_error(py, Raised)),
        }
    }

    /// Leave the line; what was given meanwhile goes to the next.
    fn leave(&self) -> PyResult<()> {
        let Ok(mut line) = self.0.try_borrow_mut() else { return Err(in_use()) };
        match &mut *line {
            Line::Get(standing) => standing.leave(),
            Line::Put(standing) => standing.leave(),
            Line::Finished(standing) => standing.leave(),
            Line::Set(standing) => standing.leave(),
        }
        Ok(())
    }
}

fn in_use() -> PyErr {
    PyRuntimeError::new_err("this is being used already")
}

// Queues.

#[pyclass(subclass, frozen, module = "curio", name = "UniversalQueueBase")]
pub(crate) struct UniversalQueueBase {
    queue: Queue<Item>,
    with_descriptor: bool,
}

#[pymethods]
impl UniversalQueueBase {
    #[new]
    fn new(maxsize: isize, withfd: bool) -> PyResult<Self> {
        let Ok(capacity) = usize::try_from(maxsize) else {
            let message = format!("maxsize is a number of items, 0 for no limit, not {maxsize}");
            return Err(PyValueError::new_err(message));
        };
        let queue = Queue::bounded(capacity);
        if withfd {
            queue.with_descriptor(|_| ()).map_err(|error| {
                error.as_io().map_or_else(
                    || PyRuntimeError::new_err(error.to_string()),
                    |failure| {
                        io::Error::from_raw_os_error(failure.raw_os_error().unwrap_or(0)).into()
                    },
                )
            })?;
        }
        Ok(UniversalQueueBase { queue, with_descriptor: withfd })
    }

    /// Whether no item is in it.
    fn empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether it takes no more items for now.
    fn full(&self) -> bool {
        self.queue.is_full()
    }

    /// How many items are in it.
    fn qsize(&self) -> usize {
        self.queue.len()
    }

    /// How many items are in it.
    fn size(&self) -> usize {
        self.queue.len()
    }

    /// The most items it takes at a time; 0 for no limit.
    #[getter]
    fn maxsize(&self) -> usize {
        self.queue.capacity()
    }

    /// A descriptor that can be read while there are items that nobody has been promised. Wait
    /// for it; never read it. ValueError unless the queue was made with `withfd=True`.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        if !self.with_descriptor {
            let message = "the queue has no descriptor: it was made without withfd=True";
            return Err(PyValueError::new_err(message));
        }
        let number = self.queue.with_descriptor(|fd| fd.as_raw_fd());
        number.map_err(|error| take_error(py, raise(py, &error)))
    }

    /// Put an item at once, whoever calls; for signal handlers.
    fn _put_now(&self, item: Bound<'_, PyAny>) {
        // There is room: such queues have no limit.
        let _ = self.queue.put_nowait(Attached::new(item.into()));
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.queue.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.queue.resource())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.queue.visit(|item| traverse(item, &visit))
    }

    fn __clear__(&self) {
        drop(self.queue.clear());
    }
}

/// `UniversalQueue.get()`
pub(crate) fn get(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let queue = &this::<UniversalQueueBase>(call, py)?.queue;
    let task = || {
        let get = queue.clone().get_raw();
        let unpack = |_: Python<'_>, _: &Keep, item: Item| Ok(item.into_inner());
        op::new(call.function, Some(call.object(0)), Mapped::new(get, unpack))
    };
    wait(py, call, task, || queue.standing_get())
}

/// `UniversalQueue.put(item)`
pub(crate) fn put(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let queue = &this::<UniversalQueueBase>(call, py)?.queue;
    let task = || {
        let queue = queue.clone();
        let put = Late::new(move |item| {
            let put = queue.put_raw(Attached::new(item));
            async move { put.await.map_err(|unsent| unsent.error) }
        });
        op::new_with(call.function, Some(call.object(0)), Some(call.object(1)), put)
    };
    wait(py, call, task, || queue.standing_put(Attached::new(call.object(1))))
}

/// `UniversalQueue.join()`
pub(crate) fn join(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let queue = &this::<UniversalQueueBase>(call, py)?.queue;
    let task = || {
        let join = queue.join();
        op::new(call.function, None, Plain(Mapped::new(join, |_, _, ()| Ok(Object::none()))))
    };
    wait(py, call, task, || queue.standing_join())
}

/// `UniversalQueue.task_done()`
pub(crate) fn task_done(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let queue = this::<UniversalQueueBase>(call, py)?.queue.clone();
    at_once(py, call, move |_| {
        queue.task_done().map_err(|error| value_error(&error))?;
        Ok(Object::none())
    })
}

/// An operation whose future is made of the op's second object when it is first polled: till then
/// the collector sees the object.
struct Late<M, F> {
    make: Option<M>,
    future: Option<F>,
}

impl<M, F> Late<M, F>
where
    M: FnOnce(Object) -> F,
    F: Future<Output = curio::Result<()>>,
{
    fn new(make: M) -> Self {
        Late { make: Some(make), future: None }
    }
}

impl<M, F> Operation for Late<M, F>
where
    M: FnOnce(Object) -> F,
    F: Future<Output = curio::Result<()>>,
{
    const KEEPS: bool = true;

    fn poll(
        self: Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        cx: &mut Context<'_>,
    ) -> Poll<Outcome> {
        // SAFETY: `future` is pinned with `self`, set once and never moved; `make` is not pinned,
        // and may be taken out.
        let future = unsafe {
            let this = self.get_unchecked_mut();
            if let Some(make) = this.make.take() {
                let object = keep.take_second().expect("the op is made with it");
                this.future = Some(make(object));
            }
            Pin::new_unchecked(this.future.as_mut().expect("it was made at the first poll"))
        };
        future.poll(cx).map(|done| done.finish(py))
    }
}

// Events.

#[pyclass(subclass, frozen, module = "curio", name = "UniversalEventBase")]
pub(crate) struct UniversalEventBase(Event);

#[pymethods]
impl UniversalEventBase {
    #[new]
    #[pyo3(signature = (*, _of_result=false), text_signature = "()")]
    fn new(_of_result: bool) -> Self {
        let kind = if _of_result { Kind::UniversalResult } else { Kind::UniversalEvent };
        UniversalEventBase(Event::of_kind(kind))
    }

    /// Whether it is set.
    fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Make it not set. Who was woken goes on all the same.
    fn clear(&self) {
        self.0.clear();
    }

    /// Set it at once, whoever calls.
    fn _set_now(&self) {
        self.0.set();
    }

    #[getter]
    fn _id(&self) -> u64 {
        self.0.resource().id()
    }

    fn _figures(&self) -> Figures {
        figures(self.0.resource())
    }
}

/// `UniversalEvent.wait()`
pub(crate) fn event_wait(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let event = &this::<UniversalEventBase>(call, py)?.0;
    let task = || {
        let set = event.wait();
        op::new(call.function, None, Plain(Mapped::new(set, |_, _, ()| Ok(truth(true)))))
    };
    wait(py, call, task, || event.standing())
}

/// `UniversalEvent.set()`
pub(crate) fn event_set(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let event = this::<UniversalEventBase>(call, py)?.0.clone();
    at_once(py, call, move |_| {
        event.set();
        Ok(Object::none())
    })
}
