//! What the kernel knows of a task.
//!
//! ```text
//!   spawn ──(1)──▶ READY ──(2)──▶ RUNNING ──(5)──▶ TERMINATED
//!                    ▲               │
//!                   (4)             (3)
//!                    └── blocked ◀───┘        blocked: TIME_SLEEP, TASK_JOIN, READ_WAIT …
//!
//!   1 State::spawn       2 Core::step      3 a trap returned pending: State::block
//!   4 State::schedule    5 State::finish
//! ```
//!
//! The body of a task is a future, whatever language it was written in; the
//! kernel polls it and asks for nothing but how it ended. A task keeps two
//! faces: [`TaskInfo`], which any thread may read at any time, and the
//! [`TaskCell`] in the kernel's table, which is gone when the task has ended.

use std::borrow::Cow;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::wait::{FOREIGN, Region, WaitQueue};
use crate::error::Cancellation;
use crate::group::Ends;

/// Where a task stands, as the monitor shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TaskState {
    /// Created, not run yet.
    Initial,
    /// In the ready queue.
    Ready,
    /// On the processor.
    Running,
    /// In [`sleep`](crate::sleep), with a positive time.
    TimeSleep,
    /// Waiting for another task's end.
    TaskJoin,
    /// Waiting until a descriptor can be read.
    ReadWait,
    /// Waiting until a descriptor can be written.
    WriteWait,
    /// In [`Event::wait`](crate::sync::Event::wait).
    EventWait,
    /// Waiting for a lock.
    LockAcquire,
    /// Waiting for a semaphore.
    SemaAcquire,
    /// In [`Condition::wait`](crate::sync::Condition::wait).
    CondWait,
    /// Waiting for an item of a queue.
    QueueGet,
    /// Waiting for room in a queue.
    QueuePut,
    /// Waiting until all of a queue's items are done.
    QueueJoin,
    /// Waiting for a signal.
    SignalWait,
    /// Waiting for something that is not Curio's own: a foreign future, a thread's result.
    FutureWait,
    /// Ended.
    Terminated,
    /// Blocked in a primitive that a program has made itself, under a name of its own; see
    /// [`TaskState::named`].
    Named(StateName),
}

/// The name of a state that a program has made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateName(u8);

/// The names that programs have made up, by their numbers. They stay for ever, so there are few.
static NAMES: RwLock<Vec<&'static str>> = RwLock::new(Vec::new());

impl TaskState {
    const ALL: [TaskState; 17] = [
        TaskState::Initial,
        TaskState::Ready,
        TaskState::Running,
        TaskState::TimeSleep,
        TaskState::TaskJoin,
        TaskState::ReadWait,
        TaskState::WriteWait,
        TaskState::EventWait,
        TaskState::LockAcquire,
        TaskState::SemaAcquire,
        TaskState::CondWait,
        TaskState::QueueGet,
        TaskState::QueuePut,
        TaskState::QueueJoin,
        TaskState::SignalWait,
        TaskState::FutureWait,
        TaskState::Terminated,
    ];

    /// A state for a primitive of one's own (see [`sched`](crate::sched)), with the name that the
    /// monitor shows. The name of a state that blocked tasks have gives that one.
    ///
    /// There can be some two hundred different names in a process; those that come later are all
    /// shown as `SUSPENDED`.
    ///
    /// # Examples
    ///
    /// ```
    /// use curio::TaskState;
    ///
    /// assert_eq!(TaskState::named("GATE_WAIT").name(), "GATE_WAIT");
    /// assert_eq!(TaskState::named("TIME_SLEEP"), TaskState::TimeSleep);
    /// ```
    pub fn named(name: &str) -> TaskState {
        let known = TaskState::ALL.iter().find(|state| state.is_blocked() && state.name() == name);
        known.copied().unwrap_or_else(|| TaskState::Named(StateName::of(name)))
    }

    /// As one byte, which is written and read whole.
    pub(crate) fn pack(self) -> u8 {
        match self {
            TaskState::Initial => 0,
            TaskState::Ready => 1,
            TaskState::Running => 2,
            TaskState::TimeSleep => 3,
            TaskState::TaskJoin => 4,
            TaskState::ReadWait => 5,
            TaskState::WriteWait => 6,
            TaskState::EventWait => 7,
            TaskState::LockAcquire => 8,
            TaskState::SemaAcquire => 9,
            TaskState::CondWait => 10,
            TaskState::QueueGet => 11,
            TaskState::QueuePut => 12,
            TaskState::QueueJoin => 13,
            TaskState::SignalWait => 14,
            TaskState::FutureWait => 15,
            TaskState::Terminated => 16,
            TaskState::Named(name) => TaskState::ALL.len() as u8 + name.0,
        }
    }

    fn unpack(byte: u8) -> TaskState {
        let known = TaskState::ALL.get(usize::from(byte)).copied();
        known.unwrap_or_else(|| TaskState::Named(StateName(byte - TaskState::ALL.len() as u8)))
    }

    /// The name in `ps`: `TIME_SLEEP`, `TASK_JOIN`, …
    pub fn name(self) -> &'static str {
        match self {
            TaskState::Initial => "INITIAL",
            TaskState::Ready => "READY",
            TaskState::Running => "RUNNING",
            TaskState::TimeSleep => "TIME_SLEEP",
            TaskState::TaskJoin => "TASK_JOIN",
            TaskState::ReadWait => "READ_WAIT",
            TaskState::WriteWait => "WRITE_WAIT",
            TaskState::EventWait => "EVENT_WAIT",
            TaskState::LockAcquire => "LOCK_ACQUIRE",
            TaskState::SemaAcquire => "SEMA_ACQUIRE",
            TaskState::CondWait => "COND_WAIT",
            TaskState::QueueGet => "QUEUE_GET",
            TaskState::QueuePut => "QUEUE_PUT",
            TaskState::QueueJoin => "QUEUE_JOIN",
            TaskState::SignalWait => "SIGNAL_WAIT",
            TaskState::FutureWait => "FUTURE_WAIT",
            TaskState::Terminated => "TERMINATED",
            TaskState::Named(name) => name.text(),
        }
    }

    /// Whether a task in this state is blocked in a trap.
    pub fn is_blocked(self) -> bool {
        use TaskState::{Initial, Ready, Running, Terminated};
        !matches!(self, Initial | Ready | Running | Terminated)
    }
}

impl StateName {
    /// How many names there are room for; the last one is for all the others.
    const ROOM: usize = u8::MAX as usize - TaskState::ALL.len();

    fn of(name: &str) -> StateName {
        // Nothing in here can panic, so the lock is never poisoned in earnest.
        let mut names = NAMES.write().unwrap_or_else(PoisonError::into_inner);
        let known = names.iter().position(|known| *known == name);
        let place = known.unwrap_or_else(|| {
            if names.len() < Self::ROOM {
                names.push(Box::leak(name.to_owned().into_boxed_str()));
                names.len() - 1
            } else {
                Self::ROOM
            }
        });
        StateName(place as u8)
    }

    fn text(self) -> &'static str {
        let names = NAMES.read().unwrap_or_else(PoisonError::into_inner);
        names.get(usize::from(self.0)).copied().unwrap_or("SUSPENDED")
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What a blocked task waits for, as any thread may know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// Nothing that has a name: time, or something foreign.
    Nothing,
    /// The end of the task with this id.
    Task(u64),
    /// A descriptor.
    Descriptor(i32),
    /// The primitive with this id; see [`sync::Resource`](crate::sync::Resource).
    Resource(u64),
}

impl Target {
    /// As one word, which is written and read whole.
    fn pack(self) -> u64 {
        match self {
            Target::Nothing => 0,
            Target::Task(id) => id << 2 | 1,
            Target::Descriptor(fd) => u64::from(fd.cast_unsigned()) << 2 | 2,
            Target::Resource(id) => id << 2 | 3,
        }
    }

    fn unpack(word: u64) -> Target {
        let value = word >> 2;
        match word & 3 {
            1 => Target::Task(value),
            2 => Target::Descriptor((value as u32).cast_signed()),
            3 => Target::Resource(value),
            _ => Target::Nothing,
        }
    }
}

/// How a task's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a result.
    Returned,
    /// With the cancellation it was given.
    Cancelled,
    /// With an error or a panic.
    Failed,
    /// With something that must leave the kernel at once (Python's `KeyboardInterrupt`).
    Fatal,
}

/// A task's code: a future that says how it ended.
pub type Body = Pin<Box<dyn Future<Output = End>>>;

/// A task's place in the kernel's table; stale once the task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskKey {
    pub(crate) index: u32,
    /// The low half of the task's id, which tells a later tenant of the same place.
    pub(crate) serial: u32,
}

/// The part of a task that any thread may read, also after the task's end.
///
/// Written by the kernel's thread only, with relaxed stores: readers get each
/// value whole, and need no order between them.
#[derive(Debug)]
pub struct TaskInfo {
    id: u64,
    parent: Option<u64>,
    daemon: bool,
    own: bool,
    label: Label,
    state: AtomicU8,
    cycles: AtomicU64,
    /// When the running sleep ends; 0 for none.
    sleep: AtomicU64,
    /// The nearest deadline of the timeouts in force; 0 for none.
    timeout: AtomicU64,
    /// What it has blocked in last: a packed [`Target`].
    target: AtomicU64,
    /// Counts the waits of all tasks of a kernel: who waits longer has the smaller number.
    blocked: AtomicU64,
    /// The line of Rust that awaits what it has blocked in last.
    site: AtomicPtr<Location<'static>>,
    cancellation: OnceLock<Arc<Cancellation>>,
    /// When that was asked for, in nanoseconds of the kernel's clock.
    cancelled_at: AtomicU64,
}

/// What a task is called, and where it was spawned.
#[derive(Clone, Debug, Default)]
pub struct Label {
    /// The name that `ps` shows.
    pub name: Cow<'static, str>,
    /// The line that spawned it, for tasks written in Rust.
    pub site: Option<&'static Location<'static>>,
}

/// Ids count through all kernels of a process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl TaskInfo {
    pub(super) fn new(parent: Option<u64>, daemon: bool, own: bool, label: Label) -> Self {
        TaskInfo {
            id: NEXT_ID.fetch_add(1, Relaxed),
            parent,
            daemon,
            own,
            label,
            state: AtomicU8::new(TaskState::Initial.pack()),
            cycles: AtomicU64::new(0),
            sleep: AtomicU64::new(0),
            timeout: AtomicU64::new(0),
            target: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            site: AtomicPtr::new(std::ptr::null_mut()),
            cancellation: OnceLock::new(),
            cancelled_at: AtomicU64::new(0),
        }
    }

    /// 1, 2, 3 … in the order of creation in the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The id of the task that spawned it; `None` for tasks from outside.
    pub fn parent(&self) -> Option<u64> {
        self.parent
    }

    /// Whether `run` ends without waiting for it.
    pub fn daemon(&self) -> bool {
        self.daemon
    }

    /// Whether it is one of the kernel's own, which no program has spawned.
    pub fn own(&self) -> bool {
        self.own
    }

    /// Name and spawn site.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// What it is doing, or blocked in.
    pub fn state(&self) -> TaskState {
        TaskState::unpack(self.state.load(Relaxed))
    }

    /// How many times it was given the processor.
    pub fn cycles(&self) -> u64 {
        self.cycles.load(Relaxed)
    }

    /// When its sleep ends, in nanoseconds of the kernel's clock.
    pub fn sleep(&self) -> Option<u64> {
        Some(self.sleep.load(Relaxed)).filter(|&deadline| deadline != 0)
    }

    /// The nearest deadline of its timeouts, in nanoseconds of the kernel's clock.
    pub fn timeout(&self) -> Option<u64> {
        Some(self.timeout.load(Relaxed)).filter(|&deadline| deadline != 0)
    }

    /// What it waits for, while its [`state`](Self::state) says that it is blocked.
    pub fn target(&self) -> Target {
        Target::unpack(self.target.load(Relaxed))
    }

    /// A number that grows with each wait in its kernel: of two tasks in one line, the one
    /// with the smaller number came first.
    pub fn blocked(&self) -> u64 {
        self.blocked.load(Relaxed)
    }

    /// The line that awaits what it has blocked in last, for tasks written in Rust.
    pub fn site(&self) -> Option<&'static Location<'static>> {
        // SAFETY: what is stored is null or a `&'static Location`; nothing else is written.
        unsafe { self.site.load(Relaxed).as_ref() }
    }

    /// Whether it has ended.
    pub fn terminated(&self) -> bool {
        self.state() == TaskState::Terminated
    }

    /// Who has cancelled it, where and why, once somebody has.
    pub fn cancellation(&self) -> Option<&Cancellation> {
        self.cancellation.get().map(|cancellation| &**cancellation)
    }

    pub(super) fn set_state(&self, state: TaskState) {
        self.state.store(state.pack(), Relaxed);
    }

    pub(super) fn count_cycle(&self) {
        // One writer: a load and a store do, and cost less than an atomic addition.
        self.cycles.store(self.cycles.load(Relaxed) + 1, Relaxed);
    }

    pub(crate) fn set_sleep(&self, deadline: Option<u64>) {
        self.sleep.store(deadline.unwrap_or(0), Relaxed);
    }

    pub(super) fn set_timeout(&self, deadline: Option<u64>) {
        self.timeout.store(deadline.unwrap_or(0), Relaxed);
    }

    /// When its cancellation was asked for, in nanoseconds of the kernel's clock.
    pub fn cancelled_at(&self) -> Option<u64> {
        self.cancellation().map(|_| self.cancelled_at.load(Relaxed))
    }

    pub(super) fn set_cancellation(&self, cancellation: &Arc<Cancellation>, now: u64) {
        self.cancelled_at.store(now, Relaxed);
        let _ = self.cancellation.set(cancellation.clone());
    }

    pub(super) fn set_blocked(&self, blocked: &Blocked, number: u64) {
        self.target.store(blocked.target.pack(), Relaxed);
        self.blocked.store(number, Relaxed);
        let site = blocked.site.map_or(std::ptr::null(), std::ptr::from_ref);
        self.site.store(site.cast_mut(), Relaxed);
        self.set_state(blocked.state);
    }
}

/// What a task shows while it is blocked in a trap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocked {
    pub(crate) state: TaskState,
    pub(crate) target: Target,
    /// The line that awaits it, if it is one of Rust.
    pub(crate) site: Option<&'static Location<'static>>,
}

/// A cancellation on its way to a task.
#[derive(Default)]
pub(crate) enum Cancel {
    /// Nobody has asked.
    #[default]
    None,
    /// Asked for; to be delivered at the next blocking trap that may see it.
    Pending(Arc<Cancellation>),
    /// The task has seen it; further requests only wait.
    Delivered,
}

/// A cancellation that a task has made pending itself, or an interruption that does not ask it to
/// end.
pub(crate) struct OwnCancel {
    pub(crate) cancellation: Arc<Cancellation>,
    /// When it came, as the kernel counts; 0: before all that was waited for.
    pub(crate) since: u64,
    /// The timeout that it was, if it was one: void when that one's region is left.
    pub(crate) timeout: Option<u64>,
}

/// The part of a task that only the kernel touches.
pub(crate) struct TaskCell {
    pub(super) key: TaskKey,
    /// `None` while it is being polled.
    pub(super) body: Option<Body>,
    pub(crate) info: Arc<TaskInfo>,
    /// An opaque word of the language binding that made the task, 0 for none.
    pub(super) face: usize,
    /// In the ready queue, once.
    pub(super) scheduled: bool,
    /// An interrupt might end what it blocked in when it last ran: not all of it was shielded.
    pub(super) open: bool,
    /// When its cancellation was asked for, as the kernel counts.
    pub(super) cancelled: u64,
    /// Its waits that a combinator polls: to be told of interrupts through their wakers.
    pub(super) foreign: WaitQueue<FOREIGN>,
    /// The timeouts and shields it is inside of while it is not running.
    pub(super) region: Region,
    /// The request of `cancel`, delivered once in the life of the task.
    pub(super) cancel: Cancel,
    /// A cancellation that the task itself has made pending.
    pub(super) own_cancel: Option<OwnCancel>,
    /// Timeouts with a smaller serial were dropped by a cancellation.
    pub(super) void_before: u64,
    /// Who waits for its end.
    pub(crate) joiners: WaitQueue,
    /// The group that is told of its end.
    pub(super) group: Option<Rc<Ends>>,
    pub(super) parent: Option<TaskKey>,
    /// Its active children, linked through `siblings`.
    pub(super) first_child: Option<u32>,
    pub(super) siblings: (Option<u32>, Option<u32>),
}

impl TaskCell {
    pub(crate) fn key(&self) -> TaskKey {
        self.key
    }

    pub(crate) fn face(&self) -> usize {
        self.face
    }
}
