//! Semaphores.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use super::line::{ALL, Line, Rule, TurnTrap};
use super::resource::{Kind, Resource, Statistics};
use crate::error::{Error, Result};
use crate::kernel::TaskState;
use crate::traps::Wait;

/// The most permits that any semaphore can have.
const MOST: usize = ALL - 1;

/// A number of permits, which tasks take and give back.
///
/// Tasks get them in the order in which they have asked. Clones are the same semaphore. It may
/// be made before a kernel runs.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let seats = curio::sync::Semaphore::new(2);
///     let mine = seats.acquire().await?;
///     let yours = seats.acquire().await?;
///     assert!(seats.acquire_nowait().is_none());
///     drop(mine); // given back
///     assert_eq!(seats.value(), 1);
///     drop(yours);
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Semaphore {
    line: Rc<Line>,
    bound: usize,
}

impl Semaphore {
    /// A semaphore with that many permits.
    pub fn new(permits: usize) -> Self {
        Semaphore::make(permits, MOST)
    }

    /// A semaphore that never has more permits than it starts with.
    pub fn bounded(permits: usize) -> Self {
        Semaphore::make(permits, permits)
    }

    fn make(permits: usize, bound: usize) -> Self {
        let (permits, bound) = (permits.min(MOST), bound.min(MOST));
        let resource = Resource::new(Kind::Semaphore, if bound == MOST { 0 } else { bound });
        resource.set_level(permits);
        let line = ("Semaphore.acquire", TaskState::SemaAcquire);
        Semaphore { line: Line::new(line.0, line.1, Rule::Permits, permits, resource), bound }
    }

    /// Waits for a permit, which is given back when the result is dropped.
    ///
    /// # Cancellation
    /// No permit is taken.
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Result<Permit<'_>>> {
        let turn = self.acquire_raw();
        async move {
            turn.await?;
            Ok(self.permit())
        }
    }

    /// Takes a permit if there is one.
    pub fn acquire_nowait(&self) -> Option<Permit<'_>> {
        self.line.take(|| unreachable!("nobody owns permits")).then(|| self.permit())
    }

    fn permit(&self) -> Permit<'_> {
        Permit { semaphore: self }
    }

    /// As [`acquire`](Self::acquire); the permit is given back by [`release`](Self::release).
    #[doc(hidden)]
    #[track_caller]
    pub fn acquire_raw(&self) -> Wait<TurnTrap> {
        self.line.wait()
    }

    /// Adds a permit: the first in line has it.
    ///
    /// # Errors
    /// Misuse: a bounded semaphore has all its permits.
    pub fn release(&self) -> Result<()> {
        if self.value() >= self.bound {
            return Err(Error::misuse(format!(
                "{} was released more often than acquired: it has all of its {} permits",
                self.resource(),
                self.bound
            )));
        }
        self.line.give(1);
        Ok(())
    }

    /// How many permits can be had at once.
    pub fn value(&self) -> usize {
        self.line.free()
    }

    /// How many permits a bounded semaphore has at most.
    pub fn bound(&self) -> Option<usize> {
        Some(self.bound).filter(|&bound| bound != MOST)
    }

    /// Its figures.
    pub fn statistics(&self) -> Statistics {
        self.resource().statistics()
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        self.line.resource()
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, waiting) = (self.value(), self.statistics().waiting);
        f.debug_struct("Semaphore").field("value", &value).field("waiting", &waiting).finish()
    }
}

/// A permit of a [`Semaphore`], given back when it is dropped.
#[must_use = "a permit is given back when it is dropped"]
#[derive(Debug)]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
}

impl Permit<'_> {
    /// Keeps it: the semaphore has a permit less, until a [`release`](Semaphore::release).
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // Fails only if somebody has released what he had not acquired; that is full, then.
        let _ = self.semaphore.release();
    }
}
