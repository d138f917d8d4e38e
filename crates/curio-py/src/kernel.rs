//! `Kernel` and `run`: starting a kernel from Python, and ending it.
//!
//! Both are native down to the task, so that a traceback that leaves `run` shows the
//! user's frames and nothing of ours in between.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::ToSocketAddrs;
use std::ptr;
use std::rc::Rc;

use curio::embed::{self, Address, Exit, Until};
use curio::{Kernel, Stopper};
use pyo3::exceptions::{PyException, PyOSError, PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyTuple, PyType};

use crate::activation::PythonActivations;
use crate::coroutine::instantiate;
use crate::error::{self, classes, is_cancellation};
use crate::function::Call;
use crate::group;
use crate::monitor;
use crate::object::{Object, Outcome, repr_of, take_error, text_of};
use crate::op::{self, Instant, Keep, Operation};
use crate::poller::{self, Interrupt, SignalBell};
use crate::signal::PythonHandlers;
use crate::task;
use crate::testing::Testing;

/// What a kernel's tasks need to know of their kernel.
pub(crate) struct Settings {
    /// The task that `run` was given: its exception is raised, not reported.
    pub(crate) main: Cell<*mut ffi::PyObject>,
    /// The kernel's object, once it has been started: borrowed, for it runs the tasks.
    object: Cell<*mut ffi::PyObject>,
    /// What must leave `run` at once.
    pub(crate) fatal: Cell<Option<PyErr>>,
    /// Stops the kernel, once there is one.
    stopper: OnceCell<Stopper>,
    log_errors: Cell<bool>,
    /// Open a debugger where a task has crashed.
    pub(crate) pdb: Cell<bool>,
    /// Activations that report crashes: functions that say of which tasks.
    crash_reporters: RefCell<Vec<Object>>,
    /// Activations that were not told yet that the kernel is going to run.
    to_activate: RefCell<Vec<Object>>,
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
            object: Cell::new(ptr::null_mut()),
            fatal: Cell::new(None),
            stopper: OnceCell::new(),
            log_errors: Cell::new(true),
            pdb: Cell::new(false),
            crash_reporters: RefCell::default(),
            to_activate: RefCell::default(),
            crash_handler: RefCell::new(None),
            task_class: Cell::new(ptr::null_mut()),
        }
    }

    /// Makes these the settings of this thread's kernel, for as long as `f` runs.
    fn at_hand<R>(self: &Rc<Self>, f: impl FnOnce() -> R) -> R {
        let former = RUNNING.with(|running| running.replace(Some(self.clone())));
        let result = f();
        RUNNING.with(|running| running.replace(former));
        result
    }

    pub(crate) fn task_class(&self) -> *mut ffi::PyTypeObject {
        let class = self.task_class.get();
        if class.is_null() { task::default_class() } else { class }
    }

    /// Says once, where its user looks, that a task has crashed; whether it was to be logged.
    pub(crate) fn report(&self, py: Python<'_>, task: &Object, error: &PyErr) -> bool {
        let reporters = self.crash_reporters.borrow().clone();
        let log = self.log_errors.get()
            && !reporters.iter().any(|reports| {
                let reports = reports.bind(py).call1((task.bind(py),));
                let reports = reports.and_then(|reports| reports.is_truthy());
                settle(py, reports).unwrap_or(false)
            });
        let reported = || -> PyResult<()> {
            if log {
                let logger = logger(py)?;
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
            raise_in_run(py, error, Some(&task.bind(py)));
        }
        log
    }
}

/// Where crashes are logged. It is asked for once: the lock that `getLogger` takes stays locked when
/// Ctrl-C comes at the wrong moment.
fn logger(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let find = || -> PyResult<Py<PyAny>> {
        Ok(py.import("logging")?.call_method1("getLogger", ("curio.kernel",))?.unbind())
    };
    Ok(LOGGER.get_or_try_init(py, find)?.bind(py))
}

/// Deals with an exception where there is no caller to raise it to. Ctrl-C, which comes wherever
/// Python looks for signals, and the like end the `run` of this thread; others are shown.
pub(crate) fn raise_in_run(py: Python<'_>, error: PyErr, at: Option<&Bound<'_, PyAny>>) {
    let settings = RUNNING.with(|running| running.borrow().clone());
    match settings.as_ref().and_then(|settings| Some((settings, settings.stopper.get()?))) {
        Some((settings, stopper)) if leaves_run(&error, py) => {
            settings.fatal.set(Some(error));
            stopper.stop();
        }
        _ => error.write_unraisable(py, at),
    }
}

/// What there is, if nothing was raised. Only exceptions that are of no interest are dropped.
pub(crate) fn settle<T>(py: Python<'_>, result: PyResult<T>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            if leaves_run(&error, py) {
                raise_in_run(py, error, None);
            }
            None
        }
    }
}

fn leaves_run(error: &PyErr, py: Python<'_>) -> bool {
    !error.is_instance_of::<PyException>(py) && !is_cancellation(error.value(py).as_any())
}

/// Opens the debugger on a crashed task's frames, in this thread, on the terminal. Nothing else of
/// the kernel runs until its user leaves it.
pub(crate) fn debug(py: Python<'_>, task: &Object, error: &PyErr, reported: bool) {
    let debugged = || -> PyResult<()> {
        let module = py.import("curio.debug")?;
        module.call_method1("_post_mortem", (task.bind(py), error.value(py), reported)).map(drop)
    };
    if let Err(error) = debugged() {
        raise_in_run(py, error, Some(&task.bind(py)));
    }
}

/// The settings of the kernel that runs in this thread.
fn running(py: Python<'_>) -> PyResult<Rc<Settings>> {
    let _ = py;
    let settings = RUNNING.with(|running| running.borrow().clone());
    settings.ok_or_else(|| PyRuntimeError::new_err("no Curio kernel is running in this thread"))
}

/// The kernel that runs in this thread, as an object.
pub(crate) fn object(py: Python<'_>) -> PyResult<Object> {
    let object = running(py)?.object.get();
    if object.is_null() {
        return Err(PyRuntimeError::new_err("the kernel is being dropped"));
    }
    // SAFETY: it runs in this thread, so a method of it is being called: it is alive.
    Ok(unsafe { Object::borrowed(object) })
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

/// What `with_monitor` asks for; None: what the environment does.
fn monitor_address(with_monitor: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Address>> {
    let Some(wanted) = with_monitor.filter(|wanted| !wanted.is_none()) else {
        return environment_address();
    };
    if let Ok(wanted) = wanted.cast::<PyBool>() {
        return if wanted.is_true() { Ok(Some(Address::Unix)) } else { environment_address() };
    }
    let Ok((host, port)) = wanted.extract::<(String, u16)>() else {
        let message = format!(
            "with_monitor is True, False or a tuple (host, port), not {}",
            repr_of(wanted)?
        );
        return Err(PyTypeError::new_err(message));
    };
    tcp_address(&host, port).map(Some)
}

fn tcp_address(host: &str, port: u16) -> PyResult<Address> {
    let found = (host, port).to_socket_addrs().ok().and_then(|mut found| found.next());
    let unknown = || PyOSError::new_err(format!("the monitor's host {host:?} is not known"));
    found.map(Address::Tcp).ok_or_else(unknown)
}

/// `CURIOMONITOR`: host:port, or anything else for the user's own socket.
fn environment_address() -> PyResult<Option<Address>> {
    let Some(value) = std::env::var_os("CURIOMONITOR") else { return Ok(None) };
    let port = value.to_str().and_then(|value| value.rsplit_once(':'));
    match port.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        Some((host, port)) => tcp_address(host.trim_matches(['[', ']']), port).map(Some),
        None => Ok(Some(Address::Unix)),
    }
}

/// Says that there is no monitor, and why.
fn report_no_monitor(py: Python<'_>, why: &str) -> PyResult<()> {
    let logger = py.import("logging")?.call_method1("getLogger", ("curio.monitor",))?;
    let message = "The monitor cannot be reached, and the program runs without it: %s";
    logger.call_method1("warning", (message, why)).map(drop)
}

/// What `activations` and `debug` ask for, as objects.
fn activations<'py>(
    py: Python<'py>,
    activations: Option<&Bound<'py, PyAny>>,
    debug: Option<&Bound<'py, PyAny>>,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let mut all = Vec::new();
    for activation in activations
        .filter(|given| !given.is_none())
        .into_iter()
        .flat_map(|given| given.try_iter().map_or_else(|error| vec![Err(error)], Iterator::collect))
    {
        let activation = activation?;
        let is_class = activation.is_instance_of::<PyType>();
        all.push(if is_class { activation.call0()? } else { activation });
    }
    if let Some(debug) = debug
        && debug.is_truthy()?
    {
        let debuggers = py.import("curio.debug")?.call_method1("_create", (debug,))?;
        for debugger in debuggers.try_iter()? {
            all.push(debugger?);
        }
    }
    Ok(all)
}

/// How a kernel of Python's is to be.
#[derive(Default)]
struct Options<'a, 'py> {
    selector: Option<&'a Bound<'py, PyAny>>,
    debug: Option<&'a Bound<'py, PyAny>>,
    activations: Option<&'a Bound<'py, PyAny>>,
    task_class: Option<&'a Bound<'py, PyType>>,
    with_monitor: Option<&'a Bound<'py, PyAny>>,
    testing: Option<&'a Testing>,
}

impl KernelBase {
    fn make(py: Python<'_>, options: &Options<'_, '_>) -> PyResult<KernelBase> {
        let monitor = match monitor_address(options.with_monitor) {
            Err(error) if error.is_instance_of::<PyOSError>(py) => {
                report_no_monitor(py, &text_of(error.value(py)))?;
                None
            }
            monitor => monitor?,
        };
        let activations = activations(py, options.activations, options.debug)?;
        let interrupt = Interrupt::default();
        let settings = Rc::new(Settings::new());
        if let Some(class) = options.task_class {
            task::check_class(class.as_any())?;
            // Kept alive for ever: a kernel that outlives its class would be worse.
            settings.task_class.set(class.clone().into_ptr().cast());
        }
        let builder = Kernel::builder();
        let virtual_time = options.testing.is_some();
        let network = options.testing.and_then(Testing::network);
        let (mut builder, signals) =
            poller::attach(py, builder, options.selector, virtual_time, network, &interrupt)?;
        if let Some(testing) = options.testing {
            builder = testing.attach(builder);
        }
        for activation in &activations {
            if let Ok(reports) = activation.getattr("_reports_crash") {
                settings.crash_reporters.borrow_mut().push(reports.into());
            }
            settings.to_activate.borrow_mut().push(activation.clone().into());
        }
        if !activations.is_empty() {
            builder = builder.activation(PythonActivations::new(&activations)?);
        }
        let kernel = builder.build().map_err(|error| runtime_error(py, &error))?;
        let _ = settings.stopper.set(kernel.stopper());
        kernel.set_signal_handlers(Rc::new(PythonHandlers));
        if let Some(testing) = options.testing {
            testing.watch(&kernel);
        }
        let signals = RefCell::new(Some(Rc::new(signals)));
        let kernel = KernelBase { held: Held { kernel, settings, interrupt, signals } };
        if let Some(address) = monitor {
            kernel.watch(py, address)?;
        }
        Ok(kernel)
    }

    /// The kernel itself.
    pub(crate) fn inside(&self) -> &Kernel {
        &self.held.kernel
    }

    /// Starts the monitor. A kernel runs without one, if it must.
    fn watch(&self, py: Python<'_>, address: Address) -> PyResult<()> {
        if let Err(error) = monitor::start(py, &self.held.kernel, address) {
            report_no_monitor(py, &error.to_string())?;
        }
        Ok(())
    }

    /// Tells the activations, once, that the kernel is going to run.
    fn activate(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().held.settings.object.set(slf.as_ptr());
        let activations = slf.get().held.settings.to_activate.take();
        for activation in activations {
            let activation = activation.bind(slf.py());
            if let Ok(activate) = activation.getattr("activate") {
                activate.call1((slf,))?;
            }
        }
        Ok(())
    }

    fn add(&self, py: Python<'_>, coroutine: Object, daemon: bool) -> PyResult<Object> {
        let held = &self.held;
        // Activations are told of it, and may raise what leaves the run that follows.
        let added = held.settings.at_hand(|| {
            task::spawn(py, &held.settings, coroutine, daemon, |body, spawn| {
                held.kernel.add_body(body, spawn)
            })
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
        let result = self.held.settings.at_hand(run);
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
                let is_exit = exception.is_instance(classes(py).task_exit.bind(py))?;
                if is_exit || (is_cancellation && main.origin(py)?.is_some()) {
                    return Ok(py.None());
                }
                Err(PyErr::from_value(exception.clone()))
            }
        }
    }

    fn checked(&self, exit: Exit) -> PyResult<()> {
        if let Some(error) = self.held.settings.fatal.take() {
            return Err(error);
        }
        match exit {
            Exit::Done | Exit::MainFailed | Exit::Stopped => Ok(()),
            Exit::Fatal(_) => {
                let message = "a task has ended with something that cannot be raised";
                Err(PyRuntimeError::new_err(message))
            }
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
        let until = match (leave, self.held.settings.pdb.get()) {
            (true, _) => Until::Ended(key),
            (false, false) => Until::AllDone(Some(key)),
            // Whoever has looked at the main task's crash goes on with the others.
            (false, true) => Until::AllDone(None),
        };
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
                held.settings.crash_reporters.take();
                self.checked(Exit::Done)
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
        return PyRuntimeError::new_err(text_of(error.value(py)));
    }
    error
}

#[pymethods]
impl KernelBase {
    #[new]
    #[pyo3(signature = (selector=None, debug=None, activations=None, taskcls=None, max_select_timeout=None, *, with_monitor=None, _testing=None))]
    #[allow(clippy::too_many_arguments, reason = "they are Python's keywords")]
    fn new(
        py: Python<'_>,
        selector: Option<&Bound<'_, PyAny>>,
        debug: Option<&Bound<'_, PyAny>>,
        activations: Option<&Bound<'_, PyAny>>,
        taskcls: Option<&Bound<'_, PyType>>,
        max_select_timeout: Option<f64>,
        with_monitor: Option<&Bound<'_, PyAny>>,
        _testing: Option<&Bound<'_, Testing>>,
    ) -> PyResult<Self> {
        let _ = max_select_timeout;
        let task_class = taskcls;
        let testing = _testing.map(|testing| testing.get());
        let options = Options { selector, debug, activations, task_class, with_monitor, testing };
        KernelBase::make(py, &options)
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
    /// `pdb`: open the debugger where a task crashes, on the terminal; the kernel stands still until
    /// it is left with `q`, and then goes on with the other tasks, also if it was the main one.
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
        slf: &Bound<'_, Self>,
        corofunc: Option<&Bound<'_, PyAny>>,
        args: &Bound<'_, PyTuple>,
        pdb: bool,
        log_errors: bool,
        shutdown: bool,
    ) -> PyResult<Py<PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        this.ensure_free(py)?;
        Self::activate(slf)?;
        this.held.settings.log_errors.set(log_errors);
        this.held.settings.pdb.set(pdb);
        let result = match corofunc {
            Some(corofunc) => instantiate(py, "run", corofunc, args)
                .map_err(|raised| take_error(py, raised))
                .and_then(|coroutine| this.run_main(py, coroutine, false)),
            None if shutdown && this.held.kernel.awaited() == 0 => Ok(py.None()),
            None => this.run_rest(py),
        };
        if shutdown {
            this.shut_down(py)?;
        }
        result
    }

    /// Cancel every task that is left, newest first, daemons too, and wait for each to end.
    ///
    /// Afterwards the kernel cannot run any more. A second call does nothing. Raises
    /// RuntimeError when called from one of the kernel's tasks.
    fn shutdown(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.get().held.settings.object.set(slf.as_ptr());
        slf.get().shut_down(slf.py())
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

    /// Starts a monitor: at True, or (host, port).
    fn _start_monitor(
        &self,
        py: Python<'_>,
        address: &Bound<'_, PyAny>,
    ) -> PyResult<monitor::RunningMonitor> {
        let address = monitor_address(Some(address))?.unwrap_or(Address::Unix);
        let started = monitor::start(py, &self.held.kernel, address);
        let refused = |error: std::io::Error| PyOSError::new_err(error.to_string());
        started.map(monitor::RunningMonitor::new).map_err(refused)
    }

    /// What the monitor answers to a command.
    fn _ask_monitor(&self, py: Python<'_>, command: &str) -> String {
        monitor::ask(py, &self.held.kernel, command)
    }

    /// All that the monitor could tell.
    fn _dump(&self, py: Python<'_>) -> String {
        monitor::dump(py, &self.held.kernel)
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(slf: &Bound<'_, Self>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        Self::shutdown(slf)
    }
}

impl Drop for KernelBase {
    fn drop(&mut self) {
        // Tasks that were never ended are closed quietly, while the interpreter is still here.
        self.held.settings.object.set(ptr::null_mut());
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
    ensure_alone(py)?;
    // Of the class that activations know.
    let class = py.import("curio.kernel")?.getattr("Kernel")?;
    let given = PyDict::new(py);
    given.set_item("selector", selector)?;
    given.set_item("debug", debug)?;
    given.set_item("activations", activations)?;
    given.set_item("taskcls", taskcls)?;
    given.set_item("with_monitor", with_monitor)?;
    let kernel = class.call((), Some(&given))?.cast_into::<KernelBase>().map_err(PyErr::from)?;
    KernelBase::activate(&kernel)?;
    let result = instantiate(py, "run", corofunc, args)
        .map_err(|raised| take_error(py, raised))
        .and_then(|coroutine| kernel.get().run_main(py, coroutine, true));
    // A second Ctrl-C, say, says more than what it came after.
    kernel.get().shut_down(py)?;
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

/// As `spawn`, for `TaskGroup.spawn(corofunc, *args, daemon=False)`.
pub(crate) fn spawn_into(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let (group, corofunc, args) = (call.object(0), call.get(py, 1), call.get(py, 2));
    let daemon = call.get(py, 3).is_truthy()?;
    let given = PyTuple::new(py, [corofunc, args])?;
    let spawn = SpawnOp::Spawn { daemon };
    op::new_with(call.function, Some(given.into_any().into()), Some(group), spawn)
}

/// `_spawn_as(task_class, corofunc, *args, daemon=False)`
pub(crate) fn spawn_as(py: Python<'_>, call: &Call<'_>) -> Outcome {
    let (class, corofunc) = (call.get(py, 0), call.get(py, 1));
    task::check_class(&class)?;
    let (args, daemon) = (call.get(py, 2), call.get(py, 3).is_truthy()?);
    let given = PyTuple::new(py, [corofunc, args, class])?;
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
    let group = keep.take_second();
    if let Some(group) = &group {
        group::ensure_open(py, group)?;
    }
    let coroutine = instantiate(py, "spawn", &target, args)?;
    let is_object = coroutine.as_ptr() == target.as_ptr();
    let settings = running(py)?;
    // The tuple, and so the class, lives until the task does. Asking for an item that is not there
    // would make an exception, which costs a third of a spawn.
    let class = match given.len() {
        3 => given.get_item(2)?.as_ptr().cast(),
        _ => settings.task_class(),
    };
    let task = task::spawn_as(py, class, &settings, coroutine, daemon, embed::spawn)?;
    if let Some(group) = &group {
        group::add(py, group, &task)?;
    }
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
