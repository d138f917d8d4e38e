//! `Kernel` and `run`: starting a kernel from Python, and ending it.
//!
//! Both are native down to the task, so that a traceback that leaves `run` shows the
//! user's frames and nothing of ours in between.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::rc::Rc;

use curio::Kernel;
use curio::embed::{self, Exit, Until};
use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::coroutine::instantiate;
use crate::error::{self, classes};
use crate::function::Call;
use crate::object::{Object, Outcome, take_error};
use crate::op::{self, Instant, Keep, Operation};
use crate::poller::{self, Interrupt, SignalBell};
use crate::task;

/// What a kernel's tasks need to know of their kernel.
pub(crate) struct Settings {
    /// The task that `run` was given: its exception is raised, not reported.
    pub(crate) main: Cell<*mut ffi::PyObject>,
    /// What must leave `run` at once.
    pub(crate) fatal: Cell<Option<PyErr>>,
    log_errors: Cell<bool>,
    crash_handler: RefCell<Option<Object>>,
    /// The class of the tasks; null for the default.
    task_class: Cell<*mut ffi::PyTypeObject>,
}

thread_local! {
    /// The settings of the kernel that runs in this thread.
    static RUNNING: RefCell<Option<Rc<Settings>>> = const { RefCell::new(None) };
}

impl Settings {
    fn new() -> Settings {
        Settings {
            main: Cell::new(ptr::null_mut()),
            fatal: Cell::new(None),
            log_errors: Cell::new(true),
            crash_handler: RefCell::new(None),
            task_class: Cell::new(ptr::null_mut()),
        }
    }

    pub(crate) fn task_class(&self) -> *mut ffi::PyTypeObject {
        let class = self.task_class.get();
        if class.is_null() { task::default_class() } else { class }
    }

    /// Says once, where its user looks, that a task has crashed.
    pub(crate) fn report(&self, py: Python<'_>, task: &Object, error: &PyErr) {
        let reported = || -> PyResult<()> {
            if self.log_errors.get() {
                let logger = py.import("logging")?.call_method1("getLogger", ("curio.kernel",))?;
                let message = ("Curio: Task Crash: %s", task::name_of(py, task));
                let info = PyDict::new(py);
                info.set_item("exc_info", error.value(py))?;
                logger.call_method("error", message, Some(&info))?;
            }
            let handler = self.crash_handler.borrow().clone();
            if let Some(handler) = handler {
                handler.bind(py).call1((task.bind(py),))?;
            }
            Ok(())
        };
        if let Err(error) = reported() {
            error.write_unraisable(py, Some(&task.bind(py)));
        }
    }
}

/// The settings of the kernel that runs in this thread.
fn running(py: Python<'_>) -> PyResult<Rc<Settings>> {
    let _ = py;
    let settings = RUNNING.with(|running| running.borrow().clone());
    settings.ok_or_else(|| PyRuntimeError::new_err("no Curio kernel is running in this thread"))
}

/// A kernel, as a Python object holds it.
struct Held {
    kernel: Kernel,
    settings: Rc<Settings>,
    interrupt: Interrupt,
    /// `None` once the kernel has been shut down.
    signals: RefCell<Option<Rc<SignalBell>>>,
}

// SAFETY: a kernel is not made for several threads; here the interpreter's lock keeps them apart.
// - Every access to a `Held`, and to what its tasks share with it (`Rc`s, cells), is made by
//   attached threads: methods of `KernelBase`, slots of ops and tasks, their deallocation.
// - The lock is given up in the middle of an access at one place only, in the poller's wait. The
//   kernel holds no borrow there (`Core::look`), and `&self` of the poller is `Sync`.
// - A second thread that runs the kernel meanwhile is refused: it is marked as running.
// - Free-threaded interpreters are not supported; the module says so.
unsafe impl Send for Held {}
// SAFETY: as above.
unsafe impl Sync for Held {}

/// The kernel: it runs tasks. Its Python class, `Kernel`, adds nothing that schedules.
///
/// It does not show its tasks to the garbage collector, on purpose: the collector finalizes
/// the coroutines of a cycle in any order, and each that was left in the middle of its work
/// would complain. A kernel that is dropped closes them first, quietly. The price is that a
/// kernel whose own unfinished task refers to it lives until it is shut down.
#[pyclass(subclass, frozen, module = "curio", name = "KernelBase")]
pub(crate) struct KernelBase {
    held: Held,
}

/// Arguments that wait for their part of the package.
fn not_yet(argument: &str, given: bool) -> PyResult<()> {
    if given {
        let message = format!("{argument} is not supported by this version of curio");
        return Err(PyNotImplementedError::new_err(message));
    }
    Ok(())
}

fn given(argument: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    argument.map_or(Ok(false), |argument| argument.is_truthy())
}

impl KernelBase {
    fn make(
        py: Python<'_>,
        selector: Option<&Bound<'_, PyAny>>,
        task_class: Option<&Bound<'_, PyType>>,
    ) -> PyResult<KernelBase> {
        let interrupt = Interrupt::default();
        let settings = Rc::new(Settings::new());
        if let Some(class) = task_class {
            task::check_class(class.as_any())?;
            // Kept alive for ever: a kernel that outlives its class would be worse.
            settings.task_class.set(class.clone().into_ptr().cast());
        }
        let (builder, signals) = poller::attach(py, Kernel::builder(), selector, &interrupt)?;
        let kernel = builder.build().map_err(|error| runtime_error(py, &error))?;
        let signals = RefCell::new(Some(Rc::new(signals)));
        Ok(KernelBase { held: Held { kernel, settings, interrupt, signals } })
    }

    fn add(&self, py: Python<'_>, coroutine: Object, daemon: bool) -> PyResult<Object> {
        let held = &self.held;
        let added = task::spawn(py, &held.settings, coroutine, daemon, |body, spawn| {
            held.kernel.add_body(body, spawn)
        });
        added.map_err(|raised| misuse_is_runtime_error(py, take_error(py, raised)))
    }

    /// Runs tasks with Python's world around them: signals, and the settings at hand.
    fn enter(&self, py: Python<'_>, until: Until) -> PyResult<Exit> {
        let held = &self.held;
        let exit = self.around(py, || held.kernel.run_until(until))?;
        exit.map_err(|error| runtime_error(py, &error))
    }

    fn around<R>(&self, py: Python<'_>, run: impl FnOnce() -> R) -> PyResult<R> {
        let bell = self.held.signals.borrow().clone();
        let _signals = bell.as_ref().map(|bell| bell.listen(py));
        let hooks = GeneratorHooks::set(py)?;
        let former = RUNNING.with(|running| running.replace(Some(self.held.settings.clone())));
        let result = run();
        RUNNING.with(|running| running.replace(former));
        hooks.put_back(py)?;
        Ok(result)
    }

    /// The result of the main task, after its `run` has come to `exit`.
    fn outcome(&self, py: Python<'_>, exit: Exit, main: Option<&Object>) -> PyResult<Py<PyAny>> {
        self.checked(exit)?;
        let Some(main) = main else { return Ok(py.None()) };
        // SAFETY: it is a task's object, and alive.
        let main = unsafe { task::inner(main.as_ptr().cast()) };
        match main.ended_with(py) {
            // It was stopped; the task goes on with the next run.
            None => Ok(py.None()),
            Some(Ok(result)) => Ok(result.bind(py).clone().unbind()),
            Some(Err(exception)) => {
                let exception = exception.bind(py);
                let is_cancellation =
                    exception.is_instance(classes(py).cancelled_error.bind(py))?;
                if is_cancellation && main.origin(py)?.is_some() {
                    return Ok(py.None());
                }
                Err(PyErr::from_value(exception.clone()))
            }
        }
    }

    fn checked(&self, exit: Exit) -> PyResult<()> {
        match exit {
            Exit::Done | Exit::MainFailed | Exit::Stopped => Ok(()),
            Exit::Fatal(_) => Err(self.held.settings.fatal.take().unwrap_or_else(|| {
                PyRuntimeError::new_err("a task has ended with something that cannot be raised")
            })),
            Exit::Poller(error) => Err(self.held.interrupt.take().unwrap_or_else(|| error.into())),
        }
    }

    /// Before a coroutine is made, or taken in, that could not be run.
    fn ensure_free(&self, py: Python<'_>) -> PyResult<()> {
        if self.held.kernel.is_running() {
            return Err(PyRuntimeError::new_err("the kernel is running already"));
        }
        ensure_alone(py)
    }

    fn run_main(&self, py: Python<'_>, coroutine: Object, leave: bool) -> PyResult<Py<PyAny>> {
        let main = self.add(py, coroutine, false)?;
        // SAFETY: it is a task's object, and alive.
        let key = unsafe { task::inner(main.as_ptr().cast()) }.task()?.key();
        self.held.settings.main.set(main.as_ptr());
        let until = if leave { Until::Ended(key) } else { Until::AllDone(Some(key)) };
        let exit = self.enter(py, until);
        self.held.settings.main.set(ptr::null_mut());
        self.outcome(py, exit?, Some(&main))
    }

    fn run_rest(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let until = match self.held.kernel.awaited() {
            0 => Until::OnePass,
            _ => Until::AllDone(None),
        };
        let exit = self.enter(py, until)?;
        self.outcome(py, exit, None)
    }

    fn shut_down(&self, py: Python<'_>) -> PyResult<()> {
        let held = &self.held;
        if held.kernel.is_running() {
            let message = "the kernel is running: it cannot be shut down from a task";
            return Err(PyRuntimeError::new_err(message));
        }
        let exit = self.around(py, || held.kernel.shut_down())?;
        match exit.map_err(|error| runtime_error(py, &error))? {
            None => {
                held.signals.take();
                Ok(())
            }
            Some(exit) => self.checked(exit),
        }
    }
}

/// While a kernel runs, an async generator that is dropped in the middle is closed by a task of its
/// own, where its clean-up may await.
struct GeneratorHooks<'py>(Bound<'py, PyAny>);

impl<'py> GeneratorHooks<'py> {
    fn set(py: Python<'py>) -> PyResult<Self> {
        let sys = py.import("sys")?;
        let former = sys.call_method0("get_asyncgen_hooks")?;
        sys.call_method1("set_asyncgen_hooks", (py.None(), wrap_pyfunction!(close_later, py)?))?;
        Ok(GeneratorHooks(former))
    }

    fn put_back(self, py: Python<'py>) -> PyResult<()> {
        let former = self.0.cast::<PyTuple>()?;
        py.import("sys")?.call_method1("set_asyncgen_hooks", former).map(drop)
    }
}

#[pyfunction]
fn close_later(py: Python<'_>, generator: &Bound<'_, PyAny>) -> PyResult<()> {
    let Ok(settings) = running(py) else {
        // The kernel is gone: what it cannot await, the clean-up does without.
        if let Ok(closing) = generator.call_method0("aclose") {
            let _ = closing.call_method1("send", (py.None(),));
        }
        return Ok(());
    };
    let closing = py.import("curio.task")?.getattr("_close")?.call1((generator,))?;
    let spawned = task::spawn(py, &settings, closing.into(), true, embed::spawn);
    spawned.map(drop).map_err(|raised| take_error(py, raised))
}

/// A thread runs one kernel at a time.
fn ensure_alone(py: Python<'_>) -> PyResult<()> {
    if embed::is_running() {
        return Err(runtime_error(py, &embed::nested()));
    }
    Ok(())
}

fn runtime_error(py: Python<'_>, error: &curio::Error) -> PyErr {
    let error = error::to_python(py, error).unwrap_or_else(|failure| failure);
    misuse_is_runtime_error(py, error)
}

/// What is a `CurioError` when a task does it is a `RuntimeError` of the program around.
fn misuse_is_runtime_error(py: Python<'_>, error: PyErr) -> PyErr {
    if error.get_type(py).is(classes(py).curio_error.bind(py)) {
        return PyRuntimeError::new_err(error.value(py).to_string());
    }
    error
}

#[pymethods]
impl KernelBase {
    #[new]
    #[pyo3(signature = (selector=None, debug=None, activations=None, taskcls=None, max_select_timeout=None, *, with_monitor=None))]
    fn new(
        py: Python<'_>,
        selector: Option<&Bound<'_, PyAny>>,
        debug: Option<&Bound<'_, PyAny>>,
        activations: Option<&Bound<'_, PyAny>>,
        taskcls: Option<&Bound<'_, PyType>>,
        max_select_timeout: Option<f64>,
        with_monitor: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let _ = max_select_timeout;
        not_yet("Kernel(debug=...)", given(debug)?)?;
        not_yet("Kernel(activations=...)", given(activations)?)?;
        not_yet("Kernel(with_monitor=...)", given(with_monitor)?)?;
        KernelBase::make(py, selector, taskcls)
    }

    /// run(corofunc=None, *args, pdb=False, log_errors=True, shutdown=False)
    ///
    /// Run a coroutine as a task and return its result.
    ///
    /// `corofunc` is a coroutine, or a coroutine function that is called with `args`. The
    /// kernel keeps going until no task is left but daemons. Without a coroutine, it runs
    /// the tasks that `add_task` has queued or an earlier run has left; if there are
    /// none, it makes one pass without waiting.
    ///
    /// The exception that ends the main task is raised at once, as it is; other tasks stay
    /// and go on with the next run. If the main task is cancelled, the result is None.
    /// KeyboardInterrupt, SystemExit and the like leave `run` from whatever task.
    ///
    /// `log_errors`: report other tasks that crash, on the logger `curio.kernel`.
    /// `shutdown`: shut the kernel down afterwards, see `shutdown`.
    ///
    /// Raises TypeError if `corofunc` is no coroutine, RuntimeError if a kernel is running in
    /// this thread, or the kernel is running elsewhere or has been shut down.
    #[pyo3(signature = (corofunc=None, *args, pdb=false, log_errors=true, shutdown=false))]
    #[pyo3(
        text_signature = "($self, corofunc=None, *args, pdb=False, log_errors=True, shutdown=False)"
    )]
    fn run(
        &self,
        py: Python<'_>,
        corofunc: Option<&Bound<'_, PyAny>>,
        args: &Bound<'_, PyTuple>,
        pdb: bool,
        log_errors: bool,
        shutdown: bool,
    ) -> PyResult<Py<PyAny>> {
        not_yet("Kernel.run(pdb=True)", pdb)?;
        self.ensure_free(py)?;
        self.held.settings.log_errors.set(log_errors);
        let result = match corofunc {
            Some(corofunc) => instantiate(py, "run", corofunc, args)
                .map_err(|raised| take_error(py, raised))
                .and_then(|coroutine| self.run_main(py, coroutine, false)),
            None if shutdown && self.held.kernel.awaited() == 0 => Ok(py.None()),
            None => self.run_rest(py),
        };
        if shutdown {
            self.shut_down(py)?;
        }
        result
    }

    /// Cancel every task that is left, newest first, daemons too, and wait for each to end.
    ///
    /// Afterwards the kernel cannot run any more. A second call does nothing. Raises
    /// RuntimeError when called from one of the kernel's tasks.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self.shut_down(py)
    }

    /// Make `run` return after the current task yields. Tasks stay, and go on with the next run.
    ///
    /// May be called from a task, and from any thread.
    fn stop(&self) {
        self.held.kernel.stopper().stop();
    }

    /// add_task(coro, daemon=False)
    ///
    /// Queue a task for the next `run` and return it. `coro` is a coroutine, or a coroutine
    /// function without parameters. Raises RuntimeError while the kernel is running (a
    /// task has `spawn` for this) and after its shutdown.
    #[pyo3(signature = (coro, daemon=false))]
    fn add_task(
        &self,
        py: Python<'_>,
        coro: &Bound<'_, PyAny>,
        daemon: bool,
    ) -> PyResult<Py<PyAny>> {
        if self.held.kernel.is_running() {
            let message = "the kernel is running: a task adds another with spawn()";
            return Err(PyRuntimeError::new_err(message));
        }
        let coroutine = instantiate(py, "add_task", coro, &PyTuple::empty(py))
            .map_err(|raised| take_error(py, raised))?;
        Ok(self.add(py, coroutine, daemon)?.bind(py).clone().unbind())
    }

    /// Call `callback(task)` after each crash of a task; None ends that.
    fn set_crash_handler(&self, callback: &Bound<'_, PyAny>) {
        let handler = (!callback.is_none()).then(|| Object::from(callback.clone()));
        drop(self.held.settings.crash_handler.replace(handler));
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.shut_down(py)
    }
}

impl Drop for KernelBase {
    fn drop(&mut self) {
        // Tasks that were never ended are closed quietly, while the interpreter is still here.
        self.held.kernel.abandon();
    }
}

/// run(corofunc, *args, with_monitor=False, selector=None, debug=None, activations=None, taskcls=Task, max_select_timeout=None)
///
/// Run a coroutine in a new kernel, shut the kernel down, and return the result.
///
/// `corofunc` is a coroutine, or a coroutine function that is called with `args`. Tasks that
/// are left when it ends are cancelled. Its exception is raised as it is. Raises TypeError
/// if `corofunc` is no coroutine, and RuntimeError inside of a running kernel.
///
///     async def main(name):
///         await curio.sleep(0.01)
///         return f'Hello, {name}'
///
///     print(curio.run(main, 'world'))
#[pyfunction]
#[pyo3(signature = (corofunc, *args, with_monitor=None, selector=None, debug=None, activations=None, taskcls=None, max_select_timeout=None))]
#[pyo3(
    text_signature = "(corofunc, *args, with_monitor=False, selector=None, debug=None, activations=None, taskcls=None, max_select_timeout=None)"
)]
#[allow(clippy::too_many_arguments, reason = "the signature that programs rely on")]
pub(crate) fn run(
    py: Python<'_>,
    corofunc: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    with_monitor: Option<&Bound<'_, PyAny>>,
    selector: Option<&Bound<'_, PyAny>>,
    debug: Option<&Bound<'_, PyAny>>,
    activations: Option<&Bound<'_, PyAny>>,
    taskcls: Option<&Bound<'_, PyType>>,
    max_select_timeout: Option<f64>,
) -> PyResult<Py<PyAny>> {
    let _ = max_select_timeout;
    not_yet("run(with_monitor=...)", given(with_monitor)?)?;
    not_yet("run(debug=...)", given(debug)?)?;
    not_yet("run(activations=...)", given(activations)?)?;
    ensure_alone(py)?;
    let kernel = KernelBase::make(py, selector, taskcls)?;
    let result = instantiate(py, "run", corofunc, args)
        .map_err(|raised| take_error(py, raised))
        .and_then(|coroutine| kernel.run_main(py, coroutine, true));
    // A second Ctrl-C, say, says more than what it came after.
    kernel.shut_down(py)?;
    result
}

// What tasks ask of their kernel.

/// `spawn(corofunc, *args, daemon=False)`: the coroutine is made, and the task, when the op is
/// awaited. A coroutine object has run its first cycle when the op returns; a coroutine
/// function's task waits for its turn.
pub(crate) fn spawn(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let (corofunc, args, daemon) = (call.get(py, 0), call.get(py, 1), call.get(py, 2));
    let daemon = daemon.is_truthy()?;
    let given = PyTuple::new(py, [corofunc, args])?;
    op::new(call.function, Some(given.into_any().into()), SpawnOp::Spawn { daemon })
}

enum SpawnOp {
    Spawn { daemon: bool },
    LetRun(embed::YieldNow),
}

impl Operation for SpawnOp {
    const KEEPS: bool = true;

    fn poll(
        self: std::pin::Pin<&mut Self>,
        py: Python<'_>,
        keep: &Keep,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Outcome> {
        use std::task::Poll;
        let this = self.get_mut();
        if let SpawnOp::Spawn { daemon } = *this {
            match spawn_now(py, keep, daemon) {
                Ok(true) => *this = SpawnOp::LetRun(embed::YieldNow::uncancellable()),
                // SAFETY: `keep` is the new task.
                Ok(false) => return Poll::Ready(Ok(unsafe { Object::borrowed(keep.as_ptr()) })),
                Err(raised) => return Poll::Ready(Err(raised)),
            }
        }
        let SpawnOp::LetRun(yielding) = this else { unreachable!("it has spawned above") };
        match Future::poll(std::pin::Pin::new(yielding), cx) {
            Poll::Pending => Poll::Pending,
            // SAFETY: `keep` is the new task.
            Poll::Ready(Ok(())) => Poll::Ready(Ok(unsafe { Object::borrowed(keep.as_ptr()) })),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error::raise(py, &error))),
        }
    }
}

/// Spawns what `keep` holds, and keeps the task instead; says whether it is to run first.
fn spawn_now(py: Python<'_>, keep: &Keep, daemon: bool) -> Outcome<bool> {
    // SAFETY: `spawn` has made the op with a tuple of the target and its arguments.
    let given = unsafe { Bound::from_borrowed_ptr(py, keep.as_ptr()) };
    let given = given.cast::<PyTuple>().map_err(PyErr::from)?;
    let (target, args) = (given.get_item(0)?, given.get_item(1)?);
    let args = args.cast::<PyTuple>().map_err(PyErr::from)?;
    let coroutine = instantiate(py, "spawn", &target, args)?;
    let is_object = coroutine.as_ptr() == target.as_ptr();
    let task = task::spawn(py, &running(py)?, coroutine, daemon, embed::spawn)?;
    keep.set(task);
    Ok(is_object)
}

pub(crate) fn current_task(_py: Python<'_>, call: &Call<'_>) -> Outcome {
    op::new(
        call.function,
        None,
        Instant::new(|_: Python<'_>, _: &Keep| {
            task::current().ok_or_else(|| PyRuntimeError::new_err("no task is running").into())
        }),
    )
}

/// The tasks of the running kernel that have not ended, by id.
#[pyfunction]
pub(crate) fn get_all_tasks(py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
    let tasks = curio::get_all_tasks().map_err(|error| runtime_error(py, &error))?;
    let objects = tasks.iter().filter_map(task::object_of);
    Ok(objects.map(|task| task.bind(py).clone().unbind()).collect())
}
