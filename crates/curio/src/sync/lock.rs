//! Locks.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;

use super::line::{Line, Rule, TurnTrap};
use super::resource::{Kind, Resource, Statistics};
use crate::error::Result;
use crate::kernel::{self, TaskState};
use crate::traps::{Wait, at};

/// A value that one task at a time may use.
///
/// Tasks get it in the order in which they have asked: whoever releases it hands it to the
/// first in line. Clones are the same lock. It may be made before a kernel runs.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let savings = curio::sync::Lock::new(100);
///     {
///         let mut savings = savings.acquire().await?;
///         *savings -= 30;
///     } // released here
///     assert_eq!(*savings.acquire().await?, 70);
///     Ok(())
/// })
/// # }
/// ```
pub struct Lock<T>(Rc<LockInside<T>>);

struct LockInside<T> {
    raw: RawLock,
    value: RefCell<T>,
}

impl<T> Clone for Lock<T> {
    fn clone(&self) -> Self {
        Lock(self.0.clone())
    }
}

impl<T> Lock<T> {
    /// A lock around `value`, free.
    pub fn new(value: T) -> Self {
        Lock(Rc::new(LockInside { raw: RawLock::new(), value: RefCell::new(value) }))
    }

    /// Waits until the lock is free, and takes it. It is released when the guard is dropped.
    ///
    /// # Cancellation
    /// The lock is not taken.
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Result<Guard<'_, T>>> {
        let turn = self.0.raw.acquire();
        async move {
            turn.await?;
            Ok(self.guard())
        }
    }

    /// Takes the lock if it is free.
    #[track_caller]
    pub fn acquire_nowait(&self) -> Option<Guard<'_, T>> {
        self.0.raw.acquire_nowait().then(|| self.guard())
    }

    fn guard(&self) -> Guard<'_, T> {
        Guard { lock: self, value: Some(self.0.value.borrow_mut()) }
    }

    /// Whether some task has it.
    pub fn is_locked(&self) -> bool {
        self.0.raw.is_locked()
    }

    /// Its figures.
    pub fn statistics(&self) -> Statistics {
        self.0.raw.resource().statistics()
    }

    pub(super) fn raw(&self) -> &RawLock {
        &self.0.raw
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statistics { owner, waiting, .. } = self.statistics();
        f.debug_struct("Lock").field("owner", &owner).field("waiting", &waiting).finish()
    }
}

/// A lock that is held, and the way to its value.
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
    /// `None` while a condition is waited for, and nobody can look.
    value: Option<RefMut<'a, T>>,
}

impl<T> Guard<'_, T> {
    pub(super) fn lock(&self) -> &Lock<T> {
        self.lock
    }

    /// Lets others at the value, before the lock is released in the guard's life.
    pub(super) fn close(&mut self) {
        self.value = None;
    }

    /// The lock has been taken again.
    pub(super) fn reopen(&mut self) {
        self.value = Some(self.lock.0.value.borrow_mut());
    }
}

const OPEN: &str = "the value is away only while `Condition::wait` has the guard";

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect(OPEN)
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect(OPEN)
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // Without the value, the lock is not held: a wait for a condition was dropped.
        if self.value.take().is_some() {
            self.lock.0.raw.release();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.value).finish()
    }
}

/// A lock without a value: what the others are made of, and Python's `Lock`.
#[doc(hidden)]
#[derive(Clone)]
pub struct RawLock(Rc<Line>);

impl RawLock {
    #[allow(clippy::new_without_default, reason = "as the other primitives are made")]
    pub fn new() -> Self {
        RawLock::of_kind(Kind::Lock)
    }

    fn of_kind(kind: Kind) -> Self {
        let resource = Resource::new(kind, 0);
        let operation = if kind == Kind::RLock { "RLock.acquire" } else { "Lock.acquire" };
        RawLock(Line::new(operation, TaskState::LockAcquire, Rule::Ownership, 1, resource))
    }

    #[track_caller]
    pub fn acquire(&self) -> Wait<TurnTrap> {
        self.0.wait()
    }

    #[track_caller]
    pub fn acquire_nowait(&self) -> bool {
        let site = Location::caller();
        self.0.take(|| (current_id(), site))
    }

    /// Hands it to the first in line. `false`: it was not held.
    pub fn release(&self) -> bool {
        let held = self.is_locked();
        if held {
            self.0.give(1);
        }
        held
    }

    pub fn is_locked(&self) -> bool {
        self.0.free() == 0
    }

    pub fn resource(&self) -> &Arc<Resource> {
        self.0.resource()
    }
}

/// The id of the running task; 0 if none runs.
fn current_id() -> u64 {
    kernel::with_current(|core| core.state().current_id()).unwrap_or(0)
}

/// A lock that its owner may take again. It must be released as often.
///
/// Clones are the same lock. It may be made before a kernel runs.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let lock = curio::sync::RLock::new();
///     lock.acquire().await?;
///     lock.acquire().await?; // we have it already
///     lock.release()?;
///     assert!(lock.is_locked());
///     lock.release()?;
///     assert!(!lock.is_locked());
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct RLock {
    raw: RawLock,
    depth: Rc<Cell<usize>>,
}

impl RLock {
    /// A free lock.
    #[allow(clippy::new_without_default, reason = "as the other primitives are made")]
    pub fn new() -> Self {
        RLock { raw: RawLock::of_kind(Kind::RLock), depth: Rc::default() }
    }

    /// Waits until the lock is free or the running task's own, and takes it.
    ///
    /// A task that waits for it in two futures at once (`join!`) waits for itself.
    ///
    /// # Cancellation
    /// The lock is not taken.
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Result<()>> + use<> {
        let this = self.clone();
        at(Location::caller(), async move {
            if !this.is_ours() {
                this.raw.acquire().await?;
            }
            this.depth.set(this.depth.get() + 1);
            Ok(())
        })
    }

    /// Releases it once; the last time hands it to the first in line.
    ///
    /// # Errors
    /// Misuse: the running task does not hold it. The text says who does, and where it has
    /// taken it.
    pub fn release(&self) -> Result<()> {
        if !self.is_ours() {
            return Err(super::not_held(self.resource(), current_id()));
        }
        self.depth.set(self.depth.get() - 1);
        if self.depth.get() == 0 {
            self.raw.release();
        }
        Ok(())
    }

    /// Releases it altogether; gives how often it was taken.
    pub(super) fn release_all(&self) -> usize {
        let depth = self.depth.replace(0);
        self.raw.release();
        depth
    }

    /// Takes it as often as before.
    pub(super) async fn acquire_again(&self, depth: usize) -> Result<()> {
        self.raw.acquire().await?;
        self.depth.set(depth);
        Ok(())
    }

    /// Whether the running task has it.
    pub fn is_ours(&self) -> bool {
        // Whom it was handed to, and who has not run since, is the owner as well.
        let current = current_id();
        current != 0 && self.resource().owner() == Some(current) && self.depth.get() > 0
    }

    /// Whether some task has it.
    pub fn is_locked(&self) -> bool {
        self.raw.is_locked()
    }

    /// Its figures.
    pub fn statistics(&self) -> Statistics {
        self.resource().statistics()
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        self.raw.resource()
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statistics { owner, waiting, .. } = self.statistics();
        f.debug_struct("RLock").field("owner", &owner).field("waiting", &waiting).finish()
    }
}
