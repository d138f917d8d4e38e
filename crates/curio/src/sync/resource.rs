//! What any thread may know of a primitive: who has it, how many wait, how full it is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Which primitive it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// [`Event`](super::Event).
    Event,
    /// [`Lock`](super::Lock).
    Lock,
    /// [`RLock`](super::RLock).
    RLock,
    /// [`Semaphore`](super::Semaphore).
    Semaphore,
    /// [`Condition`](super::Condition).
    Condition,
    /// [`Queue`](crate::Queue) of any order.
    Queue,
    /// [`SignalSet`](crate::SignalSet).
    SignalSet,
    /// A result that is set once: Python's `curio.Result`.
    Result,
    /// [`universal::Queue`](crate::universal::Queue), or a channel.
    UniversalQueue,
    /// [`universal::Event`](crate::universal::Event).
    UniversalEvent,
    /// A result that any thread may set: Python's `curio.UniversalResult`.
    UniversalResult,
    /// [`TaskGroup`](crate::TaskGroup).
    TaskGroup,
    /// One of [`sched`](crate::sched): part of a primitive that a program has made itself.
    Sched,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The part of a primitive that any thread may read.
///
/// Written by the kernel's thread only, or under the lock of what crosses threads, with relaxed
/// stores, as a [`TaskInfo`](crate::TaskInfo) is.
#[derive(Debug)]
pub struct Resource {
    id: u64,
    kind: Kind,
    capacity: usize,
    owner: AtomicU64,
    /// The line of Rust that has acquired it.
    held_at: AtomicPtr<Location<'static>>,
    level: AtomicUsize,
    highest: AtomicUsize,
    waiting: AtomicUsize,
    /// Other threads find it by its id.
    registered: AtomicBool,
}

/// Figures of a primitive, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// The id of the task that holds it, for locks.
    pub owner: Option<u64>,
    /// How many tasks wait for it.
    pub waiting: usize,
    /// Items in a queue, permits that a semaphore has left, 1 for an event that is set, tasks of a
    /// group that have not ended.
    pub level: usize,
    /// The highest level so far.
    pub highest: usize,
    /// The most items that a queue takes, or permits that a bounded semaphore has; 0 for no limit.
    pub capacity: usize,
}

/// Primitives that tasks of a published kernel have waited for.
static REGISTERED: Mutex<BTreeMap<u64, Weak<Resource>>> = Mutex::new(BTreeMap::new());

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn registered() -> MutexGuard<'static, BTreeMap<u64, Weak<Resource>>> {
    // Nothing in here can panic, so the lock is never poisoned in earnest.
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The primitives made in this thread, while somebody watches.
    static WATCHED: RefCell<Option<Vec<Arc<Resource>>>> = const { RefCell::new(None) };
}

/// Sees, for tests, which primitives are made in this thread, and that none is left locked.
#[doc(hidden)]
pub struct Watch(());

impl Watch {
    pub fn start() -> Watch {
        WATCHED.set(Some(Vec::new()));
        Watch(())
    }

    /// The tasks have ended.
    ///
    /// # Errors
    /// A lock that one of them has left locked.
    pub fn end(&self) -> Result<(), String> {
        let watched = WATCHED.replace(Some(Vec::new())).unwrap_or_default();
        let Some(held) = watched.iter().find(|resource| resource.owner().is_some()) else {
            return Ok(());
        };
        let owner = held.owner().unwrap_or_default();
        let mut text = format!("{held} is left locked by task {owner}");
        if let Some(site) = held.held_at() {
            text += &format!(", which has acquired it at {}:{}", site.file(), site.line());
        }
        Err(text)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.set(None);
    }
}

impl Resource {
    pub(crate) fn new(kind: Kind, capacity: usize) -> Arc<Resource> {
        let resource = Arc::new(Resource {
            id: NEXT_ID.fetch_add(1, Relaxed),
            kind,
            capacity,
            owner: AtomicU64::new(0),
            held_at: AtomicPtr::new(std::ptr::null_mut()),
            level: AtomicUsize::new(0),
            highest: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            registered: AtomicBool::new(false),
        });
        WATCHED.with_borrow_mut(|watched| {
            if let Some(watched) = watched {
                watched.push(resource.clone());
            }
        });
        resource
    }

    /// 1, 2, 3 … in the order of creation in the process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Which primitive it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its figures.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            owner: self.owner(),
            waiting: self.waiting.load(Relaxed),
            level: self.level.load(Relaxed),
            highest: self.highest.load(Relaxed),
            capacity: self.capacity,
        }
    }

    /// The id of the task that holds it.
    pub fn owner(&self) -> Option<u64> {
        Some(self.owner.load(Relaxed)).filter(|&owner| owner != 0)
    }

    /// The line that has acquired it, for a holder written in Rust.
    pub fn held_at(&self) -> Option<&'static Location<'static>> {
        // SAFETY: what is stored is null or a `&'static Location`; nothing else is written.
        unsafe { self.held_at.load(Relaxed).as_ref() }
    }

    /// The primitive with this id, if tasks that other threads may look at have waited for it.
    pub(crate) fn find(id: u64) -> Option<Arc<Resource>> {
        registered().get(&id)?.upgrade()
    }

    /// Lets other threads find it.
    pub(crate) fn register(self: &Arc<Self>) {
        if !self.registered.swap(true, Relaxed) {
            registered().insert(self.id, Arc::downgrade(self));
        }
    }

    pub(crate) fn set_owner(&self, task: u64, at: Option<&'static Location<'static>>) {
        self.owner.store(task, Relaxed);
        self.held_at.store(at.map_or(std::ptr::null(), std::ptr::from_ref).cast_mut(), Relaxed);
    }

    pub(crate) fn set_level(&self, level: usize) {
        self.level.store(level, Relaxed);
        if level > self.highest.load(Relaxed) {
            self.highest.store(level, Relaxed);
        }
    }

    pub(crate) fn count_waiting(&self, change: isize) {
        // One writer: a load and a store do.
        let waiting = self.waiting.load(Relaxed).wrapping_add_signed(change);
        self.waiting.store(waiting, Relaxed);
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}

impl Drop for Resource {
    fn drop(&mut self) {
        if *self.registered.get_mut() {
            registered().remove(&self.id);
        }
    }
}
