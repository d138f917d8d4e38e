//! The kernel: it runs tasks, and knows nothing of what they do.
//!
//! Three ideas, and what follows from each.
//!
//! *Isolation.* A task reaches the kernel by a trap and in no other way; the
//! kernel reaches a task by polling its body. Neither holds a borrow of the
//! tables while the other's code runs, so a task may do what it likes, to other
//! tasks too, whenever it has the processor.
//!
//! *One thread.* A kernel belongs to the thread that runs it. What other threads
//! may do is push a task's key through the [wake door](wake) and ring the bell.
//! Several kernels may run in several threads.
//!
//! *Nobody starves.* The ready queue is first come, first served. While tasks are
//! ready, the kernel looks at descriptors, timers and the door every 250 µs (an
//! empty look costs more than a switch, so not after each), or every 256
//! resumptions, whichever is first. A task whose I/O never blocks is made to
//! yield after [`BUDGET`] operations.
//!
//! *As if in time.* A kernel that had nothing else to do and wakes up late, because
//! the machine was busy, meets the deadlines that have passed one by one: what the
//! first of them wakes runs before the next one fires.
//!
//! ```text
//!            ┌────────────── ready queue ◀──────────────┐
//!            ▼                                          │ fire, prod
//!   step: poll the body ──▶ traps: Wait ──▶ timers · wait queues · sources
//!            │                                          ▲
//!            └─ ended: finish                look: poller, clock, door
//! ```

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

mod clock;
mod poller;
mod published;
mod source;
mod state;
mod task;
mod timers;
mod wait;
mod wake;

pub use clock::Clock;
pub(crate) use clock::{MonotonicClock, VirtualClock};
pub(crate) use poller::VirtualPoller;
pub use poller::{Epoll, Event, Poller};
pub use source::{Direction, ReadyTrap, Source};
pub(crate) use source::{Flush, busy, waiting_on};
pub use state::Spawn;
pub use task::{Body, End, Label, StateName, Target, TaskInfo, TaskKey, TaskState};

use published::Published;
pub(crate) use state::{Expiry, TimeoutEnd};
pub(crate) use state::{State, splitmix};
pub(crate) use task::Blocked;
use task::OwnCancel;
pub(crate) use timers::TimerKey;
pub(crate) use wait::{Region, TimeoutKey};
pub(crate) use wait::{WaitKey, WaitQueue};
pub(crate) use wake::{Door, Job, is_own};

use crate::activation::Activation;
use crate::error::{Cancellation, Error, Result};
use crate::monitor::{self, Inspector, Monitor};
use crate::signal::{Handlers, Signals};
use crate::task::{Task, TaskRef};
use wake::StackWaker;

/// How many operations that did not block a task may do before it must yield.
const BUDGET: u32 = 64;

/// Nanoseconds after which a turn ends before its next operation, whatever is left of the budget:
/// large operations take long.
const TURN: u64 = 100_000;

/// The clock is read after this many operations of a turn: most turns have fewer.
const OPERATIONS_A_READING: u32 = 4;

/// How long ready tasks may keep the kernel from looking at the world.
const LOOK_AFTER: u64 = 250_000;

/// The same in resumptions, for clocks that stand still.
const LOOK_AFTER_STEPS: u32 = 256;

/// How many resumptions share one reading of the clock.
const STEPS_A_READING: u32 = 8;

thread_local! {
    /// The kernel that runs in this thread.
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// What the traps and the handles of tasks hold on to.
#[doc(hidden)]
pub struct Core {
    state: RefCell<State>,
    clock: Box<dyn Clock>,
    /// `None` once the kernel has been shut down: its descriptors are closed then.
    poller: RefCell<Option<Box<dyn Poller>>>,
    door: Arc<Door>,
    /// Operations that the running task may still do without blocking.
    budget: Cell<u32>,
    /// When the running task's turn had its first operations behind it.
    turn_began: Cell<u64>,
    /// A turn was too long: others may have been kept waiting.
    overrun: Cell<bool>,
    last_look: Cell<u64>,
    last_reading: Cell<u64>,
    /// Who is told of what happens to tasks, until the kernel's end.
    activations: RefCell<Vec<Rc<dyn Activation>>>,
    /// Signals that its tasks watch, once they do; and whose handlers they come from.
    signals: RefCell<Option<Rc<Signals>>>,
    signal_handlers: RefCell<Option<Rc<dyn Handlers>>>,
    shut: Cell<bool>,
    running: Cell<bool>,
}

/// A kernel, as other threads see it.
#[derive(Clone)]
pub(crate) struct View {
    published: Arc<Published>,
    door: Arc<Door>,
}

impl View {
    /// The tasks that have not ended, by id.
    pub(crate) fn tasks(&self) -> Vec<(TaskKey, Arc<TaskInfo>)> {
        self.published.list()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.published.count()
    }

    /// Asks for a task to be cancelled, and does not wait.
    pub(crate) fn cancel(&self, task: TaskKey, cancellation: Cancellation) {
        self.door.ask(Box::new(move |core| {
            let now = core.last_reading();
            core.with_state(|state| state.cancel(task, &Arc::new(cancellation), now));
        }));
    }
}

/// Why the kernel has left its loop.
#[derive(Debug)]
pub enum Exit {
    /// What it was run for is done.
    Done,
    /// The task it was run for has failed.
    MainFailed,
    /// Somebody has asked it to stop.
    Stopped,
    /// This task has ended with something that must leave the kernel at once.
    Fatal(TaskKey),
    /// The poller has failed.
    Poller(io::Error),
}

/// What the kernel is run for.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// Until this task has ended and no other is left that is not a daemon.
    AllDone(Option<TaskKey>),
    /// Until this task has ended.
    Ended(TaskKey),
    /// Until this task has ended, or the tasks that were ready, or were woken, have had their turns.
    Turn(TaskKey),
    /// What is ready now, and what the poller has at hand.
    OnePass,
}

/// The running kernel, for a moment.
pub(crate) fn with_current<R>(f: impl FnOnce(&Rc<Core>) -> R) -> Option<R> {
    // During the thread's end there is no kernel either.
    CURRENT.try_with(|current| current.borrow().as_ref().map(f)).ok().flatten()
}

/// The running kernel.
pub(crate) fn current() -> Option<Rc<Core>> {
    with_current(Rc::clone)
}

/// Whether the running task has used up its turn; counts one operation.
pub(crate) fn exhausted() -> bool {
    with_current(|core| {
        let left = core.budget.get();
        core.budget.set(left.saturating_sub(1));
        left == 0 || (left % OPERATIONS_A_READING == 0 && left < BUDGET && core.overruns(left))
    })
    .unwrap_or(false)
}

/// Schedules a task if its kernel runs in this thread and is not in the middle of a change.
fn wake_here(door: &Arc<Door>, task: TaskKey) -> bool {
    with_current(|core| {
        if !Arc::ptr_eq(&core.door, door) {
            return false;
        }
        let state = core.state.try_borrow_mut();
        state.map(|mut state| state.wake(task)).is_ok()
    })
    .unwrap_or(false)
}

/// Fires the wait with that number, if its kernel runs in this thread and is not in the middle of
/// a change.
pub(crate) fn fire_here(door: &Arc<Door>, wait: WaitKey, number: u64) -> bool {
    match current() {
        Some(core) if Arc::ptr_eq(&core.door, door) && core.state.try_borrow_mut().is_ok() => {
            core.with_state(|state| state.fire_numbered(wait, number));
            true
        }
        _ => false,
    }
}

impl Core {
    fn new(
        clock: Box<dyn Clock>,
        poller: Box<dyn Poller>,
        seed: Option<u64>,
        activations: Vec<Rc<dyn Activation>>,
    ) -> Rc<Core> {
        Rc::new(Core {
            state: RefCell::new(State::new(seed)),
            door: Arc::new(Door::new(poller.notifier())),
            clock,
            poller: RefCell::new(Some(poller)),
            budget: Cell::new(BUDGET),
            turn_began: Cell::new(0),
            overrun: Cell::new(false),
            last_look: Cell::new(0),
            last_reading: Cell::new(0),
            activations: RefCell::new(activations),
            signals: RefCell::new(None),
            signal_handlers: RefCell::new(None),
            shut: Cell::new(false),
            running: Cell::new(false),
        })
    }

    pub(crate) fn now(&self) -> u64 {
        let now = self.clock.now();
        self.last_reading.set(now);
        now
    }

    /// The clock when it was last read: never later than now, and never before an earlier
    /// reading. Costs nothing.
    pub(crate) fn last_reading(&self) -> u64 {
        self.last_reading.get()
    }

    /// Whether it runs in this thread.
    pub(crate) fn is_here(self: &Rc<Self>) -> bool {
        with_current(|current| Rc::ptr_eq(current, self)) == Some(true)
    }

    /// The activation with that number.
    pub(crate) fn activation(&self, number: usize) -> Option<Rc<dyn Activation>> {
        self.activations.borrow().get(number).cloned()
    }

    pub(crate) fn signals(&self) -> Option<Rc<Signals>> {
        self.signals.borrow().clone()
    }

    pub(crate) fn set_signals(&self, signals: Rc<Signals>) {
        *self.signals.borrow_mut() = Some(signals);
    }

    pub(crate) fn signal_handlers(&self) -> Option<Rc<dyn Handlers>> {
        self.signal_handlers.borrow().clone()
    }

    /// The way in from other threads.
    pub(crate) fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// Ends its sleep, if another thread has it asleep.
    pub(crate) fn ring(&self) {
        self.door.ring();
    }

    /// Shows its tasks to other threads from now on.
    pub(crate) fn view(&self) -> View {
        View { published: self.with_state(State::publish), door: self.door.clone() }
    }

    /// Changes the tables; then does what may run foreign code.
    pub(crate) fn with_state<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.borrow_mut();
        let result = change(&mut state);
        if state.wake_later.is_empty() && state.drop_later.is_empty() {
            return result;
        }
        let wake = std::mem::take(&mut state.wake_later);
        let drop_later = std::mem::take(&mut state.drop_later);
        drop(state);
        wake.into_iter().for_each(std::task::Waker::wake);
        drop(drop_later);
        result
    }

    /// Uses the poller. It may be waited in meanwhile, by the kernel's thread.
    fn with_poller<R>(&self, f: impl FnOnce(&dyn Poller) -> io::Result<R>) -> io::Result<R> {
        match &*self.poller.borrow() {
            Some(poller) => f(&**poller),
            None => Err(io::Error::other("the kernel has been shut down")),
        }
    }

    /// The simulated network that its sockets are on.
    pub(crate) fn network(&self) -> Option<crate::testing::Network> {
        self.poller.borrow().as_ref()?.network()
    }

    /// Stops watching a descriptor.
    fn unwatch(&self, fd: std::os::fd::RawFd, token: u64) {
        // Without a poller, nothing is watched.
        let _ = self.with_poller(|poller| {
            poller.remove(fd, token);
            Ok(())
        });
    }

    /// Ends the kernel for good.
    fn close(&self) {
        self.shut.set(true);
        if let Some(signals) = self.signals.take() {
            signals.close();
        }
        drop(self.activations.take());
        self.door.close();
        drop(self.poller.take());
    }

    /// Reads the tables.
    pub(crate) fn state(&self) -> std::cell::Ref<'_, State> {
        self.state.borrow()
    }

    /// Puts the running task into another region; gives the one it was in.
    pub(crate) fn swap_region(&self, region: Region) -> Region {
        std::mem::replace(&mut self.state.borrow_mut().region, region)
    }

    /// See [`State::enter_again`].
    pub(crate) fn enter_again(
        &self,
        timeout: Option<TimeoutKey>,
        inside: Region,
        former: Region,
    ) -> Region {
        self.state.borrow_mut().enter_again(timeout, inside, former)
    }

    /// Puts a shield around the running task; gives the region it was in.
    pub(crate) fn add_shield(&self) -> Region {
        let mut state = self.state.borrow_mut();
        let outside = state.region;
        state.region.shields += 1;
        outside
    }

    /// Adds a task; it runs when its turn comes.
    pub(crate) fn spawn(self: &Rc<Self>, body: Body, spawn: Spawn) -> TaskRef {
        let (key, info) = self.with_state(|state| state.spawn(body, spawn));
        TaskRef::new(self.clone(), key, info)
    }

    /// Has `flush` called when the running task's turn ends.
    pub(crate) fn flush_later(&self, flush: Rc<dyn Flush>) {
        self.state.borrow_mut().unsent.push(flush);
    }

    /// Sends what has been written meanwhile. What the flushing itself writes waits.
    fn flush(&self) {
        if self.state.borrow().unsent.is_empty() {
            return;
        }
        let mut unsent = std::mem::take(&mut self.state.borrow_mut().unsent);
        for flush in unsent.drain(..) {
            flush.flush();
        }
        let mut state = self.state.borrow_mut();
        if state.unsent.is_empty() {
            state.unsent = unsent; // for its memory
        }
    }

    /// Runs tasks until `until`.
    pub(crate) fn run(self: &Rc<Self>, until: Until) -> Result<Exit> {
        let _running = Running::enter(self)?;
        if let Until::OnePass = until {
            return Ok(self.one_pass());
        }
        loop {
            let ran = self.state.borrow().ready() > 0;
            if let Some(exit) = self.run_ready(until) {
                return Ok(exit);
            }
            if self.reached(until) {
                return Ok(Exit::Done);
            }
            if let Until::Turn(_) = until
                && ran
            {
                return Ok(Exit::Done);
            }
            if let Err(error) = self.look(true) {
                return Ok(Exit::Poller(error));
            }
        }
    }

    fn reached(&self, until: Until) -> bool {
        let state = self.state.borrow();
        match until {
            Until::AllDone(_) => state.awaited == 0,
            Until::Ended(task) | Until::Turn(task) => state.task(task).is_none(),
            Until::OnePass => true,
        }
    }

    fn one_pass(self: &Rc<Self>) -> Exit {
        if let Err(error) = self.look(false) {
            return Exit::Poller(error);
        }
        self.with_state(|state| state.expire(self.last_look.get()));
        let ready = self.state.borrow().ready();
        for _ in 0..ready {
            if let Some((key, End::Fatal)) = self.step() {
                return Exit::Fatal(key);
            }
        }
        Exit::Done
    }

    /// Whether the running turn takes too long; called with what is left of its budget.
    fn overruns(&self, left: u32) -> bool {
        let now = self.now();
        if left == BUDGET - OPERATIONS_A_READING {
            self.turn_began.set(now);
            return false;
        }
        let overrun = now.saturating_sub(self.turn_began.get()) > TURN;
        if overrun {
            self.overrun.set(true);
        }
        overrun
    }

    /// Runs tasks while there are ready ones.
    fn run_ready(self: &Rc<Self>, until: Until) -> Option<Exit> {
        let main = match until {
            Until::AllDone(main) => main,
            Until::Ended(main) | Until::Turn(main) => Some(main),
            Until::OnePass => None,
        };
        let mut steps = 0;
        while self.state.borrow().ready() > 0 {
            if let Some((key, end)) = self.step() {
                if end == End::Fatal {
                    return Some(Exit::Fatal(key));
                }
                if main == Some(key) && end.is_error() {
                    return Some(Exit::MainFailed);
                }
                // Not left to the end of the ready queue: somebody may be in it for ever.
                if self.reached(until) {
                    self.door.take_stop(); // which this does as well
                    return Some(Exit::Done);
                }
            }
            if self.door.take_stop() {
                return Some(Exit::Stopped);
            }
            steps += 1;
            if self.overrun.take()
                || steps % STEPS_A_READING == 0
                    && (steps >= LOOK_AFTER_STEPS
                        || self.now() - self.last_look.get() >= LOOK_AFTER)
            {
                steps = 0;
                if let Err(error) = self.look(false) {
                    return Some(Exit::Poller(error));
                }
            }
        }
        self.door.take_stop().then_some(Exit::Stopped)
    }

    /// Resumes the next ready task; tells if it has ended.
    fn step(self: &Rc<Self>) -> Option<(TaskKey, End)> {
        let (key, mut body) = self.state.borrow_mut().begin()?;
        self.budget.set(BUDGET);
        let watched = self.watched(key);
        if let Some(task) = &watched {
            self.tell(|activation| activation.running(task));
        }
        let polled = StackWaker::new(&self.door, key).with(|waker| {
            let mut cx = Context::from_waker(waker);
            // Bodies catch what user code throws; this is for what even they have missed, so
            // that the kernel outlives it.
            catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(&mut cx)))
        });
        let ended = match polled {
            Ok(Poll::Pending) => {
                self.with_state(|state| state.suspend(key, body));
                None
            }
            ended => {
                let end = if let Ok(Poll::Ready(end)) = ended { end } else { End::Failed };
                drop(self.with_state(|state| state.finish(key)));
                drop(body);
                Some((key, end))
            }
        };
        self.flush();
        if let Some(task) = &watched {
            self.tell_suspended(task, ended.map(|(_, end)| end));
        }
        ended
    }

    /// A task that activations are to be told of.
    fn watched(self: &Rc<Self>, key: TaskKey) -> Option<TaskRef> {
        if self.activations.borrow().is_empty() {
            return None;
        }
        let info = self.state.borrow().task(key)?.info.clone();
        Some(TaskRef::new(self.clone(), key, info))
    }

    /// Looks at descriptors, timers and the door; sleeps if it may and nothing is ready.
    fn look(self: &Rc<Self>, may_sleep: bool) -> io::Result<()> {
        let (deadline, now) = match self.state.borrow().timers.next_deadline() {
            Some(deadline) if may_sleep => (Some(deadline), self.now()),
            _ => (None, 0),
        };
        if deadline.is_some_and(|deadline| deadline <= now)
            && now - self.last_look.get() < LOOK_AFTER
        {
            // The next of those that were due together.
            self.with_state(|state| state.expire_first(now));
            return Ok(());
        }
        let timeout = if may_sleep && self.door.fall_asleep() {
            deadline.map(|deadline| Duration::from_nanos(deadline.saturating_sub(now)))
        } else {
            Some(Duration::ZERO)
        };
        let mut events = std::mem::take(&mut self.state.borrow_mut().events);
        let outside = timeout.is_none() && self.state.borrow().outside > 0;
        let waited = self.with_poller(|poller| match outside {
            true => poller.wait_outside(&mut events),
            false => poller.wait(&mut events, timeout),
        });
        let now = self.now();
        self.last_look.set(now);
        let jobs = self.with_state(|state| {
            for event in events.drain(..) {
                state.apply(event);
            }
            state.events = events;
            let jobs = self.door.take(|news| state.hear(news));
            match state.ready() == 0 {
                true => state.expire_first(now),
                false => state.expire(now),
            }
            jobs
        });
        for job in jobs {
            job(self);
        }
        self.flush();
        match waited {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            waited => waited,
        }
    }

    /// Takes every task's body out of the table, newest first.
    fn abandon(&self) {
        loop {
            let newest = {
                let mut state = self.state.borrow_mut();
                let mut keys: Vec<_> =
                    state.tasks.iter().map(|(_, task)| (task.info.id(), task.key())).collect();
                keys.sort_unstable_by_key(|key| std::cmp::Reverse(key.0));
                keys.iter().filter_map(|key| state.take_body(key.1)).collect::<Vec<_>>()
            };
            if newest.is_empty() {
                return;
            }
            // A body's own clean-up is foreign code, and may even spawn.
            for body in newest {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(body)));
            }
        }
    }
}

/// Says, while it lives, that a kernel runs in this thread.
struct Running<'a>(&'a Core);

impl<'a> Running<'a> {
    fn enter(core: &'a Rc<Core>) -> Result<Self> {
        if core.shut.get() {
            return Err(Error::misuse("the kernel has been shut down; make a new one"));
        }
        if core.running.get() {
            return Err(Error::misuse("the kernel is running already"));
        }
        CURRENT.with(|current| {
            let mut current = current.borrow_mut();
            if current.is_some() {
                return Err(nested());
            }
            *current = Some(core.clone());
            Ok(())
        })?;
        core.running.set(true);
        Ok(Running(core))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        CURRENT.with(|current| current.borrow_mut().take());
    }
}

/// Runs tasks.
///
/// [`run`](crate::run) makes one, runs a program in it and shuts it down, which is
/// what most programs want. A kernel of one's own can be run several times, and
/// keeps its unfinished tasks in between.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> curio::Result<()> {
/// let mut kernel = curio::Kernel::new()?;
/// let answer = kernel.run(async {
///     curio::sleep(Duration::from_millis(1)).await?;
///     Ok(42)
/// })?;
/// assert_eq!(answer, 42);
/// kernel.shutdown()
/// # }
/// ```
pub struct Kernel {
    core: Rc<Core>,
    /// Those that were started for it, in that order; they end with it.
    monitors: RefCell<Vec<Monitor>>,
}

/// How a kernel is to be; see [`Kernel::builder`].
#[derive(Default)]
pub struct Builder {
    clock: Option<Box<dyn Clock>>,
    poller: Option<Box<dyn Poller>>,
    seed: Option<u64>,
    activations: Vec<Rc<dyn Activation>>,
    monitor: Option<monitor::Address>,
}

impl Builder {
    /// The clock to run on. Default: the machine's monotonic clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Some(Box::new(clock));
        self
    }

    /// The poller to sleep in. Default: the system's.
    #[must_use]
    pub fn poller(mut self, poller: impl Poller + 'static) -> Self {
        self.poller = Some(Box::new(poller));
        self
    }

    /// Draws the next task to run by chance, the same for the same seed, instead of
    /// first come, first served. For tests.
    #[must_use]
    pub fn run_order_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Tells `activation` of what happens to tasks.
    #[must_use]
    pub fn activation(mut self, activation: impl Activation + 'static) -> Self {
        self.activations.push(Rc::new(activation));
        self
    }

    /// Lets the user look into the kernel from another terminal, with `python3 -m
    /// curio.monitor` or any program that talks to a Unix socket: what each task does, what it
    /// waits for, and why it does not get on.
    ///
    /// The socket is one that only this user can open; see [`Monitor::path`]. If there can be
    /// none, that is logged, and the kernel runs all the same. The kernel's first task is then
    /// `Monitor.monitor_task`, a daemon. The monitor tells times by the machine's clock.
    #[must_use]
    pub fn monitor(mut self, monitor: bool) -> Self {
        self.monitor = monitor.then_some(monitor::Address::Unix);
        self
    }

    /// The same at a TCP port, for whoever can reach it: nobody is asked who he is, and he can
    /// cancel tasks and send the process signals. Port 0 is any that is free; see
    /// [`Monitor::tcp_address`].
    #[must_use]
    pub fn monitor_at(mut self, address: SocketAddr) -> Self {
        self.monitor = Some(monitor::Address::Tcp(address));
        self
    }

    /// Makes the kernel.
    ///
    /// # Errors
    /// The system's, when it gives no descriptor to sleep in.
    pub fn build(self) -> Result<Kernel> {
        let clock = self.clock.unwrap_or_else(|| Box::new(MonotonicClock));
        let poller = match self.poller {
            Some(poller) => poller,
            None => Box::new(Epoll::new()?),
        };
        let core = Core::new(clock, poller, self.seed, self.activations);
        let kernel = Kernel { core, monitors: RefCell::default() };
        if let Some(address) = self.monitor
            && let Err(error) = kernel.start_monitor(address, None)
        {
            log::warn!(
                target: "curio.monitor",
                "the monitor cannot be reached, and the program runs without it: {error}"
            );
        }
        Ok(kernel)
    }
}

/// Stops a kernel from another thread, or from one of its tasks.
#[derive(Clone)]
pub struct Stopper(Arc<Door>);

impl Stopper {
    /// Makes [`Kernel::run`] return after the current task yields. The tasks stay, and
    /// go on with the next `run`.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Kernel {
    /// A kernel on the machine's clock and the system's poller.
    ///
    /// # Errors
    /// The system's, when it gives no descriptor to sleep in.
    pub fn new() -> Result<Kernel> {
        Kernel::builder().build()
    }

    /// A kernel with other parts, for tests and bindings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs `future` as a task, and keeps going until no task is left but daemons.
    /// Gives the result of `future`.
    ///
    /// # Errors
    /// The error that ended `future`, at once: other tasks stay as they are, and go
    /// on with the next `run`. Misuse: a kernel runs in this thread already, or this
    /// one has been shut down.
    #[track_caller]
    pub fn run<T: 'static>(
        &mut self,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Result<T> {
        let main = self.add_task(future)?;
        self.run_main(&main, Until::AllDone(Some(main.key())))
    }

    /// Runs `future` and returns when it has ended, whatever else is left.
    #[track_caller]
    pub(crate) fn run_ended<T: 'static>(
        &mut self,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Result<T> {
        let main = self.add_task(future)?;
        self.run_main(&main, Until::Ended(main.key()))
    }

    /// As [`run`](Self::run), in a task of this name.
    pub(crate) fn run_as<T: 'static>(
        &mut self,
        name: &'static str,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Result<T> {
        let label = Label { name: name.into(), site: None };
        let main = Task::spawn(&self.core, future, label, false, true);
        self.run_main(&main, Until::AllDone(Some(main.key())))
    }

    fn run_main<T>(&mut self, main: &Task<T>, until: Until) -> Result<T> {
        match self.core.run(until)? {
            Exit::Poller(error) => Err(error.into()),
            Exit::Stopped if !main.info().terminated() => {
                Err(Error::misuse("the kernel was stopped before its main task had ended"))
            }
            _ => main.take_outcome(),
        }
    }

    /// Adds a task that will run with the next [`run`](Self::run).
    ///
    /// # Errors
    /// Misuse: the kernel has been shut down.
    #[track_caller]
    pub fn add_task<T: 'static>(
        &self,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Result<Task<T>> {
        if self.core.shut.get() {
            return Err(Error::misuse("the kernel has been shut down; make a new one"));
        }
        let label = Label { name: "".into(), site: Some(Location::caller()) };
        Ok(Task::spawn(&self.core, future, label, false, true))
    }

    /// Cancels every task that is left, newest first, daemons too, and waits for each
    /// to end. A second call does nothing.
    ///
    /// # Errors
    /// The poller's. The kernel then is not shut down, and may be asked again.
    pub fn shutdown(&mut self) -> Result<()> {
        match self.shut_down()? {
            None => Ok(()),
            Some(Exit::Poller(error)) => Err(error.into()),
            Some(_) => Err(Error::misuse("the kernel was stopped during its shutdown")),
        }
    }

    /// What can stop this kernel from elsewhere.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.core.door.clone())
    }

    /// The tasks that have not ended, by id.
    pub fn tasks(&self) -> Vec<TaskRef> {
        all_tasks(&self.core)
    }

    /// Its monitor, if it has one.
    pub fn monitor(&self) -> Option<Monitor> {
        self.monitors.borrow().iter().find(|monitor| !monitor.is_stopped()).cloned()
    }

    /// Writes what [`monitor::dump`] gives.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn dump(&self, out: &mut impl io::Write) -> io::Result<()> {
        self.dump_with(None, out)
    }
}

/// For bindings, which have their own notion of a task's result.
#[doc(hidden)]
impl Kernel {
    pub fn add_body(&self, body: Body, spawn: Spawn) -> Result<TaskRef> {
        if self.core.shut.get() {
            return Err(Error::misuse("the kernel has been shut down; make a new one"));
        }
        Ok(self.core.spawn(body, spawn))
    }

    /// Sees that nothing is left in its tables, after all tasks have ended.
    ///
    /// # Errors
    /// What is left.
    pub fn leftovers(&self) -> Result<(), String> {
        let left = self.core.state().leftovers();
        match left.iter().find(|(_, count)| *count > 0) {
            Some((what, count)) => Err(format!("{count} {what} are left in the kernel")),
            None => Ok(()),
        }
    }

    /// Finds its tasks' words.
    pub fn locator(&self) -> Locator {
        Locator(Rc::downgrade(&self.core))
    }

    /// Whose signal handlers its tasks are to use, instead of `signal-hook`.
    pub fn set_signal_handlers(&self, handlers: Rc<dyn Handlers>) {
        *self.core.signal_handlers.borrow_mut() = Some(handlers);
    }

    pub fn run_until(&self, until: Until) -> Result<Exit> {
        self.core.run(until)
    }

    /// `Some` is what came between.
    pub fn shut_down(&self) -> Result<Option<Exit>> {
        if self.core.shut.get() {
            return Ok(None);
        }
        if self.core.running.get() {
            return Err(Error::misuse("the kernel is running: it cannot be shut down from a task"));
        }
        let reason = Arc::new(Cancellation {
            reason: Some("the kernel is shutting down".into()),
            ..Cancellation::default()
        });
        // What a task spawns while it ends is found in the next round.
        loop {
            let tasks = all_tasks(&self.core);
            if tasks.is_empty() {
                break;
            }
            for newest in tasks.into_iter().rev() {
                if newest.terminated() {
                    continue; // during another's end
                }
                let mut ending = newest.key();
                loop {
                    self.core.with_state(|state| {
                        state.cancel(ending, &reason, self.core.last_reading())
                    });
                    match self.core.run(Until::Turn(newest.key()))? {
                        // Stopping is over when everything has stopped.
                        Exit::Stopped => {}
                        Exit::Done | Exit::MainFailed if newest.terminated() => break,
                        // Its clean-up may need what an older task holds.
                        Exit::Done | Exit::MainFailed => {
                            let state = self.core.state();
                            ending = state.waits_for(newest.key()).unwrap_or(newest.key());
                        }
                        exit => return Ok(Some(exit)),
                    }
                }
            }
        }
        self.core.close();
        self.stop_monitors();
        Ok(None)
    }

    pub fn is_running(&self) -> bool {
        self.core.running.get()
    }

    pub fn is_shut(&self) -> bool {
        self.core.shut.get()
    }

    /// How many tasks `run` would wait for.
    pub fn awaited(&self) -> usize {
        self.core.state.borrow().awaited
    }

    /// Drops every task where it stands.
    pub fn abandon(&self) {
        self.core.shut.set(true);
        self.core.abandon();
        self.core.close();
        self.stop_monitors();
    }

    /// Starts a monitor; there may be several. It ends with the kernel, or when it is stopped.
    pub fn start_monitor(
        &self,
        address: monitor::Address,
        inspector: Option<Arc<dyn Inspector>>,
    ) -> io::Result<Monitor> {
        if self.core.shut.get() {
            return Err(io::Error::other("the kernel has been shut down"));
        }
        let monitor = monitor::start(&self.core, address, inspector)?;
        let mut monitors = self.monitors.borrow_mut();
        monitors.retain(|monitor| !monitor.is_stopped());
        monitors.push(monitor.clone());
        Ok(monitor)
    }

    /// As [`dump`](Self::dump), with what the binding knows.
    pub fn dump_with(
        &self,
        inspector: Option<&dyn Inspector>,
        out: &mut dyn io::Write,
    ) -> io::Result<()> {
        monitor::report(&self.core.view(), inspector, self.core.now(), out)
    }

    /// What a monitor would answer to a line.
    pub fn ask_monitor(&self, line: &str, inspector: Option<&dyn Inspector>) -> String {
        let mut out = Vec::new();
        let asked = monitor::ask(&self.core.view(), inspector, line, &mut out);
        asked.expect("a vector takes everything");
        String::from_utf8_lossy(&out).into_owned()
    }

    fn stop_monitors(&self) {
        self.monitors.take().iter().for_each(Monitor::stop);
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.abandon();
    }
}

pub(crate) fn all_tasks(core: &Rc<Core>) -> Vec<TaskRef> {
    let state = core.state.borrow();
    let tasks = state.tasks.iter();
    let mut tasks: Vec<_> =
        tasks.map(|(_, task)| TaskRef::new(core.clone(), task.key(), task.info.clone())).collect();
    tasks.sort_unstable_by_key(|task| task.info().id());
    tasks
}

/// For bindings, whose operations are polled without the task's [`Context`] at hand: runs
/// `f` with the running task's, unless no kernel runs.
pub fn context<R>(f: impl FnOnce(&mut Context<'_>) -> R) -> Option<R> {
    let core = current()?;
    let task = core.state().current_key()?;
    let waker = StackWaker::new(&core.door, task);
    Some(waker.with(|waker| f(&mut Context::from_waker(waker))))
}

/// The binding's word of the running task.
pub fn current_face() -> Option<usize> {
    with_current(|core| {
        let state = core.state();
        Some(state.task(state.current_key()?)?.face())
    })
    .flatten()
}

/// Finds the binding's words of a kernel's tasks, without keeping the kernel. Only to be used
/// where the kernel's own thread cannot be in the middle of a change.
pub struct Locator(std::rc::Weak<Core>);

impl Locator {
    /// The word of a task that has not ended.
    pub fn face(&self, task: TaskKey) -> Option<usize> {
        let core = self.0.upgrade()?;
        let state = core.state.try_borrow().ok()?;
        Some(state.task(task)?.face())
    }
}

/// Whether a kernel runs in this thread.
pub fn is_running() -> bool {
    with_current(|_| ()).is_some()
}

/// Whether the running task is about to yield without being blocked in a trap.
pub fn in_foreign_future() -> bool {
    with_current(|core| core.with_state(|state| state.in_foreign_future())).unwrap_or(false)
}

/// Takes the running task's pending cancellation, shields or not.
pub fn take_pending() -> Option<Error> {
    with_current(|core| core.with_state(|state| state.take_pending(|| core.now()))).flatten()
}

/// Makes a cancellation pending in the running task.
/// `timeout` is the one that it stands for, if it does.
pub fn set_own_cancel(cancellation: Option<Arc<Cancellation>>, timeout: Option<u64>) {
    let cancel = cancellation.map(|cancellation| OwnCancel { cancellation, since: 0, timeout });
    drop(with_current(|core| core.with_state(|state| state.set_own_cancel(cancel))));
}

/// Changes the number of shields around the running task; gives the new one.
pub fn with_shields(change: impl FnOnce(u32) -> u32) -> u32 {
    with_current(|core| {
        let mut state = core.state.borrow_mut();
        state.region.shields = change(state.region.shields);
        state.region.shields
    })
    .unwrap_or(0)
}

/// Adds a task to the running kernel, as a child of the running task.
pub fn spawn_body(body: Body, spawn: Spawn) -> Result<TaskRef> {
    with_current(|core| core.spawn(body, spawn)).ok_or_else(|| crate::traps::outside("spawn"))
}

/// The error of running a kernel inside of another.
pub fn nested() -> Error {
    Error::misuse(
        "a Curio kernel is already running in this thread; a task cannot run another kernel, \
         it can only await",
    )
}
