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
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::wait::{FOREIGN, Region, WaitQueue};
use crate::error::Cancellation;

/// Where a task stands, as the monitor shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
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
    /// Waiting for something that is not Curio's own: a foreign future.
    FutureWait,
    /// Ended.
    Terminated,
}

impl TaskState {
    const ALL: [TaskState; 9] = [
        TaskState::Initial,
        TaskState::Ready,
        TaskState::Running,
        TaskState::TimeSleep,
        TaskState::TaskJoin,
        TaskState::ReadWait,
        TaskState::WriteWait,
        TaskState::FutureWait,
        TaskState::Terminated,
    ];

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
            TaskState::FutureWait => "FUTURE_WAIT",
            TaskState::Terminated => "TERMINATED",
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
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
    label: Label,
    state: AtomicU8,
    cycles: AtomicU64,
    /// When the running sleep ends; 0 for none.
    sleep: AtomicU64,
    /// The nearest deadline of the timeouts in force; 0 for none.
    timeout: AtomicU64,
    cancellation: OnceLock<Arc<Cancellation>>,
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
    pub(super) fn new(parent: Option<u64>, daemon: bool, label: Label) -> Self {
        TaskInfo {
            id: NEXT_ID.fetch_add(1, Relaxed),
            parent,
            daemon,
            label,
            state: AtomicU8::new(TaskState::Initial as u8),
            cycles: AtomicU64::new(0),
            sleep: AtomicU64::new(0),
            timeout: AtomicU64::new(0),
            cancellation: OnceLock::new(),
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

    /// Name and spawn site.
    pub fn label(&self) -> &Label {
        &self.label
    }

    /// What it is doing, or blocked in.
    pub fn state(&self) -> TaskState {
        TaskState::ALL[self.state.load(Relaxed) as usize]
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

    /// Whether it has ended.
    pub fn terminated(&self) -> bool {
        self.state() == TaskState::Terminated
    }

    /// Who has cancelled it, where and why, once somebody has.
    pub fn cancellation(&self) -> Option<&Cancellation> {
        self.cancellation.get().map(|cancellation| &**cancellation)
    }

    pub(super) fn set_state(&self, state: TaskState) {
        self.state.store(state as u8, Relaxed);
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

    pub(super) fn set_cancellation(&self, cancellation: &Arc<Cancellation>) {
        let _ = self.cancellation.set(cancellation.clone());
    }
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

/// A cancellation that a task has made pending itself.
pub(crate) struct OwnCancel {
    pub(crate) cancellation: Arc<Cancellation>,
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
    /// When it was last made to look at an interrupt, since it last blocked; 0 for not.
    pub(super) prodded: u64,
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
