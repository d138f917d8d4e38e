//! Conditions.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;

use super::line::{ALL, Line, Rule};
use super::lock::{Guard, RLock, RawLock};
use super::resource::{Kind, Resource, Statistics};
use crate::error::Result;
use crate::kernel::{self, TaskState};
use crate::time::disable_cancellation;
use crate::traps::{at, outside};

/// A way to wait, with a lock released, until another task says that something has changed.
///
/// Clones are the same condition. It may be made before a kernel runs.
///
/// # Examples
///
/// ```
/// use curio::sync::{Condition, Lock};
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let (ready, changed) = (Lock::new(false), Condition::new());
///     let waiter = curio::spawn({
///         let (ready, changed) = (ready.clone(), changed.clone());
///         async move {
///             let mut guard = ready.acquire().await?;
///             changed.wait_for(&mut guard, |ready| *ready).await
///         }
///     });
///     curio::sleep(std::time::Duration::ZERO).await?; // it waits now
///     *ready.acquire().await? = true;
///     changed.notify(1);
///     waiter.join().await
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Condition(Rc<Line>);

impl Condition {
    /// A condition that nobody waits for.
    #[allow(clippy::new_without_default, reason = "as the other primitives are made")]
    pub fn new() -> Self {
        let resource = Resource::new(Kind::Condition, 0);
        let line = ("Condition.wait", TaskState::CondWait);
        Condition(Line::new(line.0, line.1, Rule::Notices, 0, resource))
    }

    /// Releases the lock, waits to be notified, and takes the lock again.
    ///
    /// # Cancellation
    /// The lock is taken again first, so the guard is good whatever comes; a notification goes
    /// to another task. If the future is dropped, the lock is not held any more, and the
    /// guard panics when it is used.
    #[track_caller]
    pub fn wait<'a, T>(
        &'a self,
        guard: &'a mut Guard<'_, T>,
    ) -> impl Future<Output = Result<()>> + 'a
    where
        T: 'a,
    {
        at(Location::caller(), async move {
            if kernel::current().is_none() {
                return Err(outside("Condition.wait"));
            }
            let lock = guard.lock().raw().clone();
            guard.close();
            let waited = self.wait_raw(&Held::Lock(lock)).await?;
            guard.reopen();
            waited
        })
    }

    /// Waits until `predicate` is true of the value; does not wait if it is.
    ///
    /// # Cancellation
    /// As that of [`wait`](Self::wait).
    #[track_caller]
    pub fn wait_for<'a, T>(
        &'a self,
        guard: &'a mut Guard<'_, T>,
        mut predicate: impl FnMut(&mut T) -> bool + 'a,
    ) -> impl Future<Output = Result<()>> + 'a
    where
        T: 'a,
    {
        at(Location::caller(), async move {
            while !predicate(guard) {
                self.wait(guard).await?;
            }
            Ok(())
        })
    }

    /// The same for locks without a value. The lock must be held. The outer result fails if the
    /// lock could not be taken again.
    #[doc(hidden)]
    pub async fn wait_raw(&self, lock: &Held) -> Result<Result<()>> {
        let depth = lock.release_all();
        let waited = self.0.wait().await;
        let notice = waited.is_ok().then(|| Notice(&self.0));
        disable_cancellation(lock.acquire_again(depth)).await?;
        std::mem::forget(notice); // its task has it now
        Ok(waited)
    }

    /// Wakes the `count` tasks that have waited longest. If fewer wait, that is fine.
    pub fn notify(&self, count: usize) {
        self.0.give(count);
    }

    /// Wakes every task that waits.
    pub fn notify_all(&self) {
        self.0.give(ALL);
    }

    /// Its figures.
    pub fn statistics(&self) -> Statistics {
        self.0.resource().statistics()
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        self.0.resource()
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").field("waiting", &self.statistics().waiting).finish()
    }
}

/// A notification that its task does not know of yet. If it never does, another one has it.
struct Notice<'a>(&'a Line);

impl Drop for Notice<'_> {
    fn drop(&mut self) {
        self.0.give(1);
    }
}

/// The lock of a condition: of either kind.
#[doc(hidden)]
#[derive(Clone)]
pub enum Held {
    Lock(RawLock),
    RLock(RLock),
}

impl Held {
    fn release_all(&self) -> usize {
        match self {
            Held::Lock(lock) => usize::from(lock.release()),
            Held::RLock(lock) => lock.release_all(),
        }
    }

    async fn acquire_again(&self, depth: usize) -> Result<()> {
        match self {
            Held::Lock(lock) => lock.acquire().await,
            Held::RLock(lock) => lock.acquire_again(depth).await,
        }
    }
}
