//! Tasks: spawning them, waiting for their end, cancelling them.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use crate::error::{Cancellation, Error, ErrorKind, Result, TaskFailure};
use crate::kernel::{
    self, Core, End, Label, Spawn, State, TaskInfo, TaskKey, TaskState, all_tasks,
};
use crate::traps::{JoinTrap, Wait, at, outside};

/// Starts a new task that runs `future`.
///
/// The task runs when its turn comes; the caller goes on first. It is a child of
/// the task that spawned it. Dropping the handle leaves the task running.
///
/// # Panics
/// Outside of a kernel there is nobody to run the task: use
/// [`Kernel::add_task`](crate::Kernel::add_task) there.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let task = curio::spawn(async { Ok(6 * 7) });
///     assert_eq!(task.join().await?, 42);
///     Ok(())
/// })
/// # }
/// ```
#[track_caller]
pub fn spawn<T: 'static>(future: impl Future<Output = Result<T>> + 'static) -> Task<T> {
    TaskBuilder::new().spawn(future)
}

/// Starts a task with a name, or as a daemon.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let task = curio::TaskBuilder::new().name("answer").spawn(async { Ok(42) });
///     assert_eq!(task.name(), "answer");
///     task.wait().await
/// })
/// # }
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until `spawn`"]
pub struct TaskBuilder {
    label: Label,
    daemon: bool,
}

impl TaskBuilder {
    /// An ordinary task, named after the type of its future.
    pub fn new() -> Self {
        TaskBuilder::default()
    }

    /// What the monitor and the errors call it.
    pub fn name(mut self, name: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        self.label.name = name.into();
        self
    }

    /// [`Kernel::run`](crate::Kernel::run) does not wait for a daemon, and a daemon is nobody's
    /// active child. It lives until it ends, is cancelled, or the kernel shuts down.
    pub fn daemon(mut self) -> Self {
        self.daemon = true;
        self
    }

    /// Starts the task; see [`spawn`].
    ///
    /// # Panics
    /// As [`spawn`] does.
    #[track_caller]
    pub fn spawn<T: 'static>(self, future: impl Future<Output = Result<T>> + 'static) -> Task<T> {
        let Some(core) = kernel::current() else {
            panic!("curio::spawn outside of a Curio kernel: use Kernel::add_task there");
        };
        let mut label = self.label;
        label.site = Some(Location::caller());
        Task::spawn(&core, future, label, self.daemon, false)
    }
}

/// A task, and the way to its result.
///
/// Everything that is not about the result is in [`TaskRef`], to which this dereferences.
pub struct Task<T> {
    task: TaskRef,
    outcome: Rc<RefCell<Outcome<T>>>,
}

enum Outcome<T> {
    Running,
    Ended(Result<T>),
    /// A `join` has taken the value away.
    Taken,
}

impl<T: 'static> Task<T> {
    pub(crate) fn spawn<F: Future<Output = Result<T>> + 'static>(
        core: &Rc<Core>,
        future: F,
        mut label: Label,
        daemon: bool,
        main: bool,
    ) -> Task<T> {
        if label.name.is_empty() {
            label.name = name_of::<F>().into();
        }
        let outcome = Rc::new(RefCell::new(Outcome::Running));
        let body = Box::pin(body(future, outcome.clone(), main));
        let task = core.spawn(body, Spawn { daemon, own: false, label, face: 0 });
        task.announce();
        Task { task, outcome }
    }
}

/// What a task is called that runs such a future: an `async` block's type has the name of the
/// function that it stands in.
pub(crate) fn name_of<F>() -> &'static str {
    let mut name = std::any::type_name::<F>();
    while let Some(around) = name.strip_suffix("::{{closure}}") {
        name = around;
    }
    name
}

/// What the kernel polls: the user's future, and what is to be done with its end.
async fn body<T>(
    future: impl Future<Output = Result<T>>,
    outcome: Rc<RefCell<Outcome<T>>>,
    main: bool,
) -> End {
    let result = unwinding(future).await;
    let end = match &result {
        Ok(_) => End::Returned,
        Err(error) if error.is_cancelled() => End::Cancelled,
        // The main task's error is returned from `run`: no need to report it twice.
        Err(error) if !main && !error.is_cancellation() => {
            report_crash(error);
            End::Failed
        }
        Err(_) => End::Failed,
    };
    *outcome.borrow_mut() = Outcome::Ended(result);
    end
}

/// Runs `future`; a panic in it is its error, and so is a cancellation that finds it in
/// something foreign, which is dropped then.
async fn unwinding<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match polled {
            Ok(Poll::Pending) => interrupt_foreign(State::in_foreign_future),
            Ok(Poll::Ready(result)) => Poll::Ready(result),
            Err(panic) => Poll::Ready(Err(Error::new(ErrorKind::Panic(panic_text(&*panic))))),
        }
    })
    .await
}

/// A pending interrupt that no trap can take, because the task would block in a future that
/// knows nothing of Curio, is taken by whatever contains that future.
pub(crate) fn interrupt_foreign<T>(foreign: impl FnOnce(&State) -> bool) -> Poll<Result<T>> {
    let interrupt = kernel::with_current(|core| {
        core.with_state(
            |state| {
                if foreign(state) { state.take_interrupt(|| core.now()) } else { None }
            },
        )
    });
    match interrupt.flatten() {
        Some(interrupt) => Poll::Ready(Err(interrupt)),
        None => Poll::Pending,
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "with a value that is not a text".into())
}

fn report_crash(error: &Error) {
    let task = current_task();
    match task {
        Ok(task) => log::error!(target: "curio::kernel", "Curio: Task Crash: {task}: {error}"),
        Err(_) => log::error!(target: "curio::kernel", "Curio: Task Crash: {error}"),
    }
}

impl<T> Task<T> {
    /// Waits until the task has ended, and gives its result.
    ///
    /// The value is handed out once; later joins fail. To wait without the value
    /// there is [`wait`](TaskRef::wait).
    ///
    /// # Errors
    /// [`is_task_error`](Error::is_task_error) if the task has failed, was cancelled or has
    /// panicked; the cause is its [`task_cause`](Error::task_cause). Misuse if the task
    /// joins itself, or the value is gone.
    ///
    /// # Cancellation
    /// The other task runs on; only the waiting is given up.
    #[track_caller]
    pub fn join(&self) -> impl Future<Output = Result<T>> + use<'_, T> {
        let end = self.task.wait();
        async move {
            end.await?;
            self.take_result()
        }
    }

    /// What a join gives at the end.
    pub(crate) fn take_result(&self) -> Result<T> {
        self.take_outcome().map_err(|cause| {
            if cause.is_misuse() {
                return cause;
            }
            let (id, name) = (self.id(), self.name().into());
            Error::new(ErrorKind::Task(TaskFailure { id, name, cause }))
        })
    }

    /// Looks at how it has ended, if that is there.
    pub(crate) fn with_outcome<R>(&self, look: impl FnOnce(Option<&Result<T>>) -> R) -> R {
        match &*self.outcome.borrow() {
            Outcome::Ended(result) => look(Some(result)),
            Outcome::Running | Outcome::Taken => look(None),
        }
    }

    pub(crate) fn take_outcome(&self) -> Result<T> {
        let mut outcome = self.outcome.borrow_mut();
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Ended(Err(error)) => {
                *outcome = Outcome::Ended(Err(error.clone()));
                Err(error)
            }
            Outcome::Ended(Ok(value)) => Ok(value),
            Outcome::Running => {
                *outcome = Outcome::Running;
                Err(Error::misuse(format!("{} was dropped before it had ended", self.task)))
            }
            Outcome::Taken => {
                Err(Error::misuse(format!("an earlier join has taken the result of {}", self.task)))
            }
        }
    }
}

impl<T> Deref for Task<T> {
    type Target = TaskRef;

    fn deref(&self) -> &TaskRef {
        &self.task
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.task.fmt(f)
    }
}

/// A task of any kind: what it is doing, and what can be done to it.
#[derive(Clone)]
pub struct TaskRef {
    core: Rc<Core>,
    key: TaskKey,
    info: Arc<TaskInfo>,
}

impl TaskRef {
    pub(crate) fn new(core: Rc<Core>, key: TaskKey, info: Arc<TaskInfo>) -> Self {
        TaskRef { core, key, info }
    }

    /// Tells the activations that it was made. A binding does it when its own part is ready.
    #[doc(hidden)]
    pub fn announce(&self) {
        self.core.tell(|activation| activation.created(self));
    }

    pub(crate) fn core(&self) -> &Rc<Core> {
        &self.core
    }

    #[doc(hidden)]
    pub fn key(&self) -> TaskKey {
        self.key
    }

    /// What any thread may know of it, at any time.
    pub fn info(&self) -> &Arc<TaskInfo> {
        &self.info
    }

    /// 1, 2, 3 … in the order of creation in the process.
    pub fn id(&self) -> u64 {
        self.info.id()
    }

    /// Its name: what [`TaskBuilder::name`] was given, else the type of its future.
    pub fn name(&self) -> &str {
        &self.info.label().name
    }

    /// What it is doing, or blocked in.
    pub fn state(&self) -> TaskState {
        self.info.state()
    }

    /// How many times it was given the processor.
    pub fn cycles(&self) -> u64 {
        self.info.cycles()
    }

    /// Whether it has ended.
    pub fn terminated(&self) -> bool {
        self.info.terminated()
    }

    /// The tasks it has spawned that have not ended, daemons left out, oldest first.
    pub fn children(&self) -> Vec<TaskRef> {
        let state = self.core.state();
        let children = state.children(self.key).into_iter();
        children
            .filter_map(|key| {
                let info = state.task(key)?.info.clone();
                Some(TaskRef::new(self.core.clone(), key, info))
            })
            .collect()
    }

    /// Waits until the task has ended, however it does.
    ///
    /// # Errors
    /// Misuse if the task waits for itself.
    ///
    /// # Cancellation
    /// The other task runs on; only the waiting is given up.
    #[track_caller]
    pub fn wait(&self) -> Wait<JoinTrap> {
        Wait::new(JoinTrap::new(self.core.clone(), self.key, self.id()))
    }

    /// Asks the task to end, and waits until it has.
    ///
    /// The task sees an error, [`is_cancelled`](Error::is_cancelled), at the trap where
    /// it is blocked, or at its next one; its timeouts are dropped. It may await
    /// further things to clean up, and may even go on. The request is made once: a
    /// second `cancel` only waits. Gives `false` if the task had ended already.
    ///
    /// # Errors
    /// Misuse if the task cancels itself, since it cannot wait for its own end.
    ///
    /// # Cancellation
    /// The request stands; only the waiting is given up.
    #[track_caller]
    pub fn cancel(&self) -> impl Future<Output = Result<bool>> + use<> {
        self.cancel_with(here(Location::caller()))
    }

    /// As [`cancel`](Self::cancel), with a reason for the error's text.
    #[track_caller]
    pub fn cancel_because(&self, reason: &str) -> impl Future<Output = Result<bool>> + use<> {
        let reason = Some(reason.into());
        self.cancel_with(Cancellation { reason, ..here(Location::caller()) })
    }

    /// Asks the task to end, and does not wait.
    #[track_caller]
    pub fn request_cancel(&self) -> bool {
        self.request(&Arc::new(here(Location::caller())))
    }

    /// Ends the operation that the task is blocked in, or its next one, with an error that
    /// [`is_cancelled`](Error::is_cancelled), and does not wait. The task is not asked to end, and its
    /// limits stay: it may go on, and can be cancelled or interrupted again. Gives `false` if it has
    /// ended, or is about to be interrupted anyway.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> curio::Result<()> {
    /// curio::run(async {
    ///     let sleeper = curio::spawn(async {
    ///         let woken = curio::sleep(Duration::from_secs(1000)).await;
    ///         assert!(woken.unwrap_err().is_cancelled());
    ///         curio::sleep(Duration::from_millis(1)).await // and goes on
    ///     });
    ///     curio::sleep(Duration::ZERO).await?;
    ///     assert!(sleeper.interrupt());
    ///     sleeper.join().await.map(drop)
    /// })
    /// # }
    /// ```
    #[track_caller]
    pub fn interrupt(&self) -> bool {
        self.interrupt_with(&Arc::new(here(Location::caller())))
    }

    #[doc(hidden)]
    pub fn interrupt_with(&self, cancellation: &Arc<Cancellation>) -> bool {
        self.core.with_state(|state| state.interrupt(self.key, cancellation))
    }

    #[doc(hidden)]
    pub fn request(&self, cancellation: &Arc<Cancellation>) -> bool {
        let alive = !self.terminated();
        let now = self.core.last_reading();
        self.core.with_state(|state| state.cancel(self.key, cancellation, now));
        alive
    }

    #[doc(hidden)]
    pub fn cancel_with(
        &self,
        cancellation: Cancellation,
    ) -> impl Future<Output = Result<bool>> + use<> {
        let task = self.clone();
        let site = cancellation.site.unwrap_or(Location::caller());
        at(site, async move {
            if kernel::with_current(|core| core.state().is_current(task.key)) == Some(true) {
                return Err(Error::misuse(
                    "a task cannot cancel itself and wait for its own end; return, or ask \
                     without waiting",
                ));
            }
            if !task.request(&Arc::new(cancellation)) {
                return Ok(false);
            }
            task.wait().await?;
            Ok(true)
        })
    }

    /// Cancels every active child, all of them at once, and waits until they have ended.
    ///
    /// # Cancellation
    /// The requests stand; only the waiting is given up.
    #[track_caller]
    pub fn cancel_children(&self) -> impl Future<Output = Result<()>> + use<> {
        self.cancel_children_with(here(Location::caller()))
    }

    #[doc(hidden)]
    pub fn cancel_children_with(
        &self,
        cancellation: Cancellation,
    ) -> impl Future<Output = Result<()>> + use<> {
        let children = self.children();
        let site = cancellation.site.unwrap_or(Location::caller());
        at(site, async move {
            let cancellation = Arc::new(cancellation);
            for child in &children {
                child.request(&cancellation);
            }
            for child in &children {
                child.wait().await?;
            }
            Ok(())
        })
    }

    /// How many limits there are around what it does; `None` if it cannot be interrupted now.
    pub(crate) fn open_limits(&self) -> Option<usize> {
        Some(self.core.state().limits(self.key)?.len())
    }

    /// Lets one of them expire now, 0 is the innermost; `None` is the kernel's first one.
    pub(crate) fn expire_limit(&self, number: Option<usize>) {
        let now = self.core.now();
        self.core.with_state(|state| {
            let limit = match number {
                None => state.first_timeout(),
                Some(number) => state.limits(self.key).and_then(|all| all.get(number).copied()),
            };
            if let Some(limit) = limit {
                state.expire_now(limit, now);
            }
        });
    }

    #[doc(hidden)]
    pub fn face(&self) -> usize {
        self.core.state().task(self.key).map_or(0, |task| task.face())
    }

    /// Whether a cancellation is waiting for it, and whether it lets cancellations in.
    #[doc(hidden)]
    pub fn cancel_state(&self) -> (bool, bool) {
        self.core.state().cancel_state(self.key)
    }
}

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} ({})", self.id(), self.name())
    }
}

impl fmt::Debug for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task(id={}, {}, state='{}')", self.id(), self.name(), self.state())
    }
}

/// A cancellation by the running task.
pub(crate) fn here(site: &'static Location<'static>) -> Cancellation {
    let by = current_task().ok();
    // Not the task itself: tasks that cancel each other would keep each other alive.
    Cancellation {
        by: by.as_ref().map(TaskRef::id),
        by_name: by.map(|by| by.info.label().name.clone()).unwrap_or_default(),
        site: Some(site),
        ..Cancellation::default()
    }
}

/// The task that is running.
///
/// # Errors
/// Misuse outside of a task.
pub fn current_task() -> Result<TaskRef> {
    kernel::with_current(|core| {
        let state = core.state();
        let task = state.task(state.current_key()?)?;
        Some(TaskRef::new(core.clone(), task.key(), task.info.clone()))
    })
    .flatten()
    .ok_or_else(|| outside("current_task"))
}

/// The tasks of the running kernel that have not ended, by id.
///
/// # Errors
/// Misuse outside of a kernel.
pub fn get_all_tasks() -> Result<Vec<TaskRef>> {
    kernel::with_current(all_tasks).ok_or_else(|| {
        Error::misuse(
            "get_all_tasks was called outside of a Curio kernel; Kernel::tasks lists them",
        )
    })
}
