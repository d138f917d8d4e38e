//! Signals: waiting for them as for anything else.
//!
//! Facts. A signal handler runs in the middle of anything, in any thread, and may do next to
//! nothing; it may write to a descriptor.
//!
//! Meaning. So a handler writes the signal's number into a pipe of the kernel's, and a task of
//! the kernel's own, `Kernel._kernel_task`, reads the pipe and hands each signal to the sets
//! that watch it. The pipe wakes a kernel that is asleep in its poll like any other
//! descriptor, and keeps the signals in order.
//!
//! Choice. Who installs handlers is behind a trait, [`Handlers`]: in Rust programs
//! `signal-hook`, whose handlers live with those of other libraries; in Python programs
//! the interpreter, which owns the process's handlers.
//!
//! Trade-off. `signal-hook` never takes its handler out of the system again. While nobody watches
//! a signal, the handler does what the system would have done without it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook::SigId;
pub use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGKILL, SIGPIPE, SIGPROF, SIGQUIT, SIGSTOP,
    SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH,
};

use crate::error::{Error, Result};
use crate::kernel::{self, Core, Direction, End, Label, Source, Spawn, TaskInfo, TaskState};
use crate::sync::{Kind, Line, Resource, Rule, Statistics};
use crate::traps::{YieldNow, at, outside};

/// Signals that are waited for together.
///
/// Clones are the same set. Several sets may watch one signal: each gets it.
///
/// # Examples
///
/// ```
/// use curio::signal::{SIGHUP, SIGUSR1, SignalSet};
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let signals = SignalSet::new([SIGHUP, SIGUSR1]);
///     let watching = signals.watch().await?;
///     // From here on they are kept, one by one. Let us send one to ourselves.
///     let own = rustix::process::getpid();
///     rustix::process::kill_process(own, rustix::process::Signal::HUP).unwrap();
///     assert_eq!(watching.wait().await?, SIGHUP);
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct SignalSet(Rc<Set>);

struct Set {
    signals: Vec<i32>,
    /// A turn for each signal that has come and that nobody has been promised.
    line: Rc<Line>,
    came: RefCell<VecDeque<i32>>,
    entered: Cell<bool>,
    /// A block, and tasks that wait: while there are any, the signals are watched.
    users: Cell<usize>,
    /// Where they are watched.
    service: RefCell<Option<Rc<Signals>>>,
}

impl SignalSet {
    /// A set of signals, by their numbers. Nothing is watched yet.
    pub fn new(signals: impl IntoIterator<Item = i32>) -> Self {
        let resource = Resource::new(Kind::SignalSet, 0);
        let line = ("SignalSet.wait", TaskState::SignalWait);
        let mut all = Vec::new();
        for signal in signals {
            if !all.contains(&signal) {
                all.push(signal);
            }
        }
        SignalSet(Rc::new(Set {
            signals: all,
            line: Line::new(line.0, line.1, Rule::Kept, 0, resource),
            came: RefCell::default(),
            entered: Cell::new(false),
            users: Cell::new(0),
            service: RefCell::default(),
        }))
    }

    /// Keeps the signals from now on, in the order in which they come, until the result is
    /// dropped. Lets other ready tasks run first.
    ///
    /// # Errors
    /// Misuse: the set is being watched already, or one of the signals cannot be caught.
    ///
    /// # Cancellation
    /// It is no cancellation point.
    pub fn watch(&self) -> impl Future<Output = Result<Watching>> + use<> {
        let set = self.clone();
        async move {
            if set.0.entered.get() {
                return Err(Error::misuse("the SignalSet is being watched already"));
            }
            let using = Using::new(&set.0)?;
            set.0.entered.set(true);
            let watching = Watching { using };
            YieldNow::uncancellable().await?;
            Ok(watching)
        }
    }

    /// Waits for one signal and gives its number. Without [`watch`](Self::watch) around it, the
    /// signals are watched as long as it waits, and no longer.
    ///
    /// # Errors
    /// Misuse: one of the signals cannot be caught.
    ///
    /// # Cancellation
    /// No signal is lost that is being watched by a block.
    #[track_caller]
    pub fn wait(&self) -> impl Future<Output = Result<i32>> + use<> {
        let set = self.0.clone();
        at(Location::caller(), async move {
            let alone = set.users.get() == 0;
            let using = Using::new(&set)?;
            if alone {
                YieldNow::uncancellable().await?;
            }
            let signal = using.next().await;
            drop(using);
            if alone && signal.is_ok() {
                YieldNow::uncancellable().await?;
            }
            signal
        })
    }

    /// The signals' numbers.
    pub fn signals(&self) -> &[i32] {
        &self.0.signals
    }

    /// Its figures: the level is the number of signals that wait to be taken.
    pub fn statistics(&self) -> Statistics {
        self.resource().statistics()
    }

    #[doc(hidden)]
    pub fn is_entered(&self) -> bool {
        self.0.entered.get()
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        self.0.line.resource()
    }
}

impl fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignalSet").field(&self.0.signals).finish()
    }
}

/// Signals are kept while this lives; see [`SignalSet::watch`].
#[must_use = "the signals are watched as long as this lives"]
pub struct Watching {
    using: Using,
}

impl Watching {
    /// Waits for one signal and gives its number, oldest first.
    ///
    /// # Cancellation
    /// No signal is lost.
    #[track_caller]
    pub fn wait(&self) -> impl Future<Output = Result<i32>> + '_ {
        at(Location::caller(), self.using.next())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if self.using.is_good() {
            self.using.set.entered.set(false);
        }
    }
}

/// A reason to watch the signals of a set, until the kernel's end.
struct Using {
    set: Rc<Set>,
    service: Rc<Signals>,
}

impl Using {
    fn new(set: &Rc<Set>) -> Result<Self> {
        let core = kernel::current().ok_or_else(|| outside("SignalSet"))?;
        let service = Signals::of(&core)?;
        let watched = set.service.borrow().clone();
        match watched {
            None => {
                service.add(set)?;
                *set.service.borrow_mut() = Some(service.clone());
            }
            Some(watched) if Rc::ptr_eq(&watched, &service) => {}
            Some(_) => return Err(Error::misuse("another kernel is watching the SignalSet")),
        }
        set.users.set(set.users.get() + 1);
        Ok(Using { set: set.clone(), service })
    }

    /// Whether the kernel that watches has not ended since.
    fn is_good(&self) -> bool {
        let service = self.set.service.borrow();
        service.as_ref().is_some_and(|service| Rc::ptr_eq(service, &self.service))
    }

    async fn next(&self) -> Result<i32> {
        self.set.line.wait().await?;
        let mut came = self.set.came.borrow_mut();
        let signal = came.pop_front().expect("whoever has a turn finds a signal");
        self.set.line.resource().set_level(came.len());
        Ok(signal)
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        if self.is_good() {
            self.set.users.set(self.set.users.get() - 1);
            if self.set.users.get() == 0 {
                self.service.remove(&self.set);
                self.set.forget();
            }
        }
    }
}

impl Set {
    /// It is not watched any more.
    fn forget(&self) {
        drop(self.service.take());
        self.users.set(0);
        self.entered.set(false);
        self.came.borrow_mut().clear();
        self.line.set_free(0);
        self.line.resource().set_level(0);
    }

    fn deliver(&self, signal: i32) {
        let mut came = self.came.borrow_mut();
        came.push_back(signal);
        self.line.resource().set_level(came.len());
        drop(came);
        self.line.give(1);
    }
}

/// Who has the process's signal handlers.
#[doc(hidden)]
pub trait Handlers {
    /// From now on, `pipe` is told of each signal with this number. Called once for each
    /// number and pipe.
    fn watch(&self, signal: i32, pipe: &Arc<Pipe>) -> Result<()>;

    /// The end of `watch`. The former handler is back if nobody else watches.
    fn unwatch(&self, signal: i32, pipe: &Arc<Pipe>);
}

/// The way of signals into a kernel. A handler may write to it.
#[doc(hidden)]
pub struct Pipe {
    /// Kept open as long as anybody writes, who would be sent a signal otherwise.
    read: OwnedFd,
    write: OwnedFd,
    /// The process whose kernel reads: a forked child's signals are not its own.
    process: u32,
}

impl Pipe {
    fn new() -> Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe { read, write, process: std::process::id() })
    }

    /// Tells the kernel. Does two system calls, and is fit for signal handlers. A pipe that is full,
    /// with 64 KiB of them, loses the signal, as the system does with one that is pending already.
    pub fn tell(&self, signal: i32) {
        if self.process != std::process::id() {
            return;
        }
        let _ = rustix::io::write(&self.write, &[signal as u8]);
    }
}

/// A kernel's part in signals: made when the first is watched.
pub(crate) struct Signals {
    handlers: Rc<dyn Handlers>,
    pipe: Arc<Pipe>,
    /// The reading end. Closed before the pipe is, see `Drop`.
    source: Source,
    watchers: RefCell<HashMap<i32, Vec<Weak<Set>>>>,
    /// The task that reads the pipe.
    reader: RefCell<Option<Arc<TaskInfo>>>,
}

impl Signals {
    fn of(core: &Rc<Core>) -> Result<Rc<Signals>> {
        let service = match core.signals() {
            Some(service) => service,
            None => {
                let pipe = Arc::new(Pipe::new()?);
                let service = Rc::new(Signals {
                    handlers: core.signal_handlers().unwrap_or_else(|| Rc::new(SignalHook)),
                    source: Source::new(pipe.read.as_raw_fd()),
                    pipe,
                    watchers: RefCell::default(),
                    reader: RefCell::default(),
                });
                core.set_signals(service.clone());
                service
            }
        };
        service.ensure_reader(core);
        Ok(service)
    }

    fn ensure_reader(self: &Rc<Self>, core: &Rc<Core>) {
        let alive = self.reader.borrow().as_ref().is_some_and(|task| !task.terminated());
        if !alive {
            let label = Label { name: "Kernel._kernel_task".into(), site: None };
            let spawn = Spawn { daemon: true, own: true, label, ..Spawn::default() };
            let task = core.spawn(Box::pin(read(Rc::downgrade(self))), spawn);
            task.announce();
            *self.reader.borrow_mut() = Some(task.info().clone());
        }
    }

    /// Hands out what is in the pipe: it is for those who watched when it came.
    fn drain(&self) {
        let mut buffer = [0u8; 64];
        while let Ok(count) = rustix::io::read(&self.pipe.read, &mut buffer)
            && count > 0
        {
            buffer[..count].iter().for_each(|&signal| self.deliver(i32::from(signal)));
        }
    }

    fn add(self: &Rc<Self>, set: &Rc<Set>) -> Result<()> {
        self.drain();
        for (done, &signal) in set.signals.iter().enumerate() {
            if let Err(error) = self.add_one(signal, set) {
                for &signal in &set.signals[..done] {
                    self.remove_one(signal, set);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn add_one(&self, signal: i32, set: &Rc<Set>) -> Result<()> {
        let first = !self.watchers.borrow().contains_key(&signal);
        if first {
            self.handlers.watch(signal, &self.pipe)?;
        }
        self.watchers.borrow_mut().entry(signal).or_default().push(Rc::downgrade(set));
        Ok(())
    }

    fn remove(&self, set: &Rc<Set>) {
        self.drain();
        for &signal in &set.signals {
            self.remove_one(signal, set);
        }
    }

    fn remove_one(&self, signal: i32, set: &Rc<Set>) {
        let mut watchers = self.watchers.borrow_mut();
        let Some(sets) = watchers.get_mut(&signal) else { return };
        if let Some(place) = sets.iter().position(|other| other.as_ptr() == Rc::as_ptr(set)) {
            sets.remove(place);
        }
        if sets.is_empty() {
            watchers.remove(&signal);
            drop(watchers);
            self.handlers.unwatch(signal, &self.pipe);
        }
    }

    fn deliver(&self, signal: i32) {
        let sets: Vec<_> = {
            let watchers = self.watchers.borrow();
            watchers.get(&signal).into_iter().flatten().filter_map(Weak::upgrade).collect()
        };
        for set in sets {
            set.deliver(signal);
        }
    }

    /// The kernel's end: nothing is watched any more, whoever has entered a set and not left it.
    pub(crate) fn close(&self) {
        self.source.close();
        for (signal, sets) in self.watchers.take() {
            self.handlers.unwatch(signal, &self.pipe);
            sets.iter().filter_map(Weak::upgrade).for_each(|set| set.forget());
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.close();
    }
}

/// The kernel's own task: hands out what comes through the pipe.
async fn read(service: Weak<Signals>) -> End {
    let Some(source) = service.upgrade().map(|service| service.source.clone()) else {
        return End::Returned;
    };
    loop {
        let mut buffer = [0u8; 64];
        let receive = |fd: BorrowedFd<'_>| Ok(rustix::io::read(fd, &mut buffer)?);
        let received = source.run(Direction::Read, receive).await;
        let Some(service) = service.upgrade() else { return End::Returned };
        match received {
            Ok(0) => return End::Returned,
            Ok(count) => {
                for &signal in &buffer[..count] {
                    service.deliver(i32::from(signal));
                }
            }
            Err(error) if error.is_cancellation() => return End::Cancelled,
            Err(error) => {
                log::error!(target: "curio::kernel", "signals cannot be read any more: {error}");
                return End::Failed;
            }
        }
    }
}

/// Handlers of Rust programs.
struct SignalHook;

/// What is registered with `signal-hook`.
static REGISTERED: Mutex<Option<Registered>> = Mutex::new(None);

#[derive(Default)]
struct Registered {
    /// The actions that write to pipes, by signal and by the pipe's address.
    actions: HashMap<(i32, usize), SigId>,
    /// How many watch a signal; and the flag that makes the handler do as if there were none.
    watched: HashMap<i32, (Arc<AtomicUsize>, Arc<AtomicBool>)>,
}

fn registered<R>(f: impl FnOnce(&mut Registered) -> R) -> R {
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    f(registered.get_or_insert_default())
}

impl Handlers for SignalHook {
    fn watch(&self, signal: i32, pipe: &Arc<Pipe>) -> Result<()> {
        if signal_hook::consts::FORBIDDEN.contains(&signal) {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("it");
            let message = format!("signal {signal}: {name} cannot be caught");
            return Err(Error::misuse(message));
        }
        registered(|registered| {
            let (count, unwatched) = match registered.watched.get(&signal) {
                Some(watched) => watched.clone(),
                None => {
                    let unwatched = Arc::new(AtomicBool::new(true));
                    signal_hook::flag::register_conditional_default(signal, unwatched.clone())?;
                    let watched = (Arc::new(AtomicUsize::new(0)), unwatched);
                    registered.watched.insert(signal, watched.clone());
                    watched
                }
            };
            let there = pipe.clone();
            // SAFETY: the action must be fit for a signal handler: it does two system calls, and
            // neither allocates nor locks nor panics. What it refers to, it owns.
            let action =
                unsafe { signal_hook::low_level::register(signal, move || there.tell(signal)) }?;
            registered.actions.insert((signal, Arc::as_ptr(pipe).addr()), action);
            count.fetch_add(1, SeqCst);
            unwatched.store(false, SeqCst);
            Ok(())
        })
    }

    fn unwatch(&self, signal: i32, pipe: &Arc<Pipe>) {
        registered(|registered| {
            if let Some(action) = registered.actions.remove(&(signal, Arc::as_ptr(pipe).addr())) {
                signal_hook::low_level::unregister(action);
                let (count, unwatched) = &registered.watched[&signal];
                if count.fetch_sub(1, SeqCst) == 1 {
                    unwatched.store(true, SeqCst);
                }
            }
        });
    }
}
