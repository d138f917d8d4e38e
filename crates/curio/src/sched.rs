//! What primitives of one's own are made of: lines of suspended tasks.
//!
//! A primitive decides two things: when a task has to wait, and who goes on when. The waiting
//! itself, with all that belongs to it (a place in the line, the monitor's view, cancellation,
//! timeouts), is done by a [`Fifo`] or a [`Barrier`].
//!
//! Tasks that were woken count as served. If a task was to be interrupted before, but has not run
//! since, it goes on all the same, and the interrupt arrives at its next trap; so a primitive
//! that hands something over as it wakes a task never loses it. A task that was interrupted first,
//! and has run, is not in line any more.
//!
//! Waking does not switch: the tasks run when their turn comes.
//!
//! # Examples
//!
//! A turnstile, which lets through as many tasks as there are coins:
//!
//! ```
//! use std::cell::Cell;
//! use std::rc::Rc;
//!
//! use curio::sched::Fifo;
//! use curio::{Result, TaskState};
//!
//! struct Turnstile {
//!     coins: Cell<usize>,
//!     waiting: Fifo,
//! }
//!
//! impl Turnstile {
//!     fn insert(&self) {
//!         // From hand to hand: whoever waits has it, and no newcomer can snatch it.
//!         if self.waiting.wake(1) == 0 {
//!             self.coins.set(self.coins.get() + 1);
//!         }
//!     }
//!
//!     async fn pass(&self) -> Result<()> {
//!         match self.coins.get() {
//!             0 => self.waiting.suspend(TaskState::named("TURNSTILE")).await,
//!             coins => Ok(self.coins.set(coins - 1)),
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! curio::run(async {
//!     let turnstile = Rc::new(Turnstile { coins: Cell::new(0), waiting: Fifo::new() });
//!     let visitor = curio::spawn({
//!         let turnstile = turnstile.clone();
//!         async move { turnstile.pass().await }
//!     });
//!     curio::sleep(std::time::Duration::ZERO).await?;
//!     assert_eq!(visitor.state().name(), "TURNSTILE");
//!     turnstile.insert();
//!     visitor.join().await
//! })
//! # }
//! ```

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use crate::kernel::TaskState;
use crate::sync::{ALL, Kind, Line, Resource, Rule, TurnTrap};
use crate::traps::Wait;

/// A line of suspended tasks, of which some are woken: those that came first.
///
/// Clones are the same line. Its tasks are of one kernel at a time.
#[derive(Clone)]
pub struct Fifo(Rc<Line>);

/// Tasks that are woken together.
///
/// Clones are the same barrier. Its tasks are of one kernel at a time.
#[derive(Clone)]
pub struct Barrier(Rc<Line>);

fn line() -> Rc<Line> {
    let resource = Resource::new(Kind::Sched, 0);
    Line::new("suspend", TaskState::FutureWait, Rule::Summons, 0, resource)
}

impl Fifo {
    /// A line in which nobody stands.
    #[allow(clippy::new_without_default, reason = "as the primitives are made")]
    pub fn new() -> Self {
        Fifo(line())
    }

    /// Suspends the task until it is woken. `reason` is the state that the monitor shows.
    ///
    /// # Errors
    /// Misuse outside of a kernel, or if tasks of another one stand in line.
    ///
    /// # Cancellation
    /// The task is not in line any more.
    #[track_caller]
    pub fn suspend(&self, reason: TaskState) -> Wait<TurnTrap> {
        self.0.wait_as(reason)
    }

    /// Wakes the first `n` tasks in line, or as many as there are; gives how many.
    pub fn wake(&self, n: usize) -> usize {
        let woken = n.min(self.len());
        self.0.give(woken);
        woken
    }

    /// How many tasks stand in line.
    pub fn len(&self) -> usize {
        self.0.resource().statistics().waiting
    }

    /// Whether nobody stands in line.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        self.0.resource()
    }
}

impl Barrier {
    /// A barrier at which nobody waits.
    #[allow(clippy::new_without_default, reason = "as the primitives are made")]
    pub fn new() -> Self {
        Barrier(line())
    }

    /// Suspends the task until it is woken with all the others.
    ///
    /// # Errors
    /// As those of [`Fifo::suspend`].
    ///
    /// # Cancellation
    /// The task does not wait here any more.
    #[track_caller]
    pub fn suspend(&self, reason: TaskState) -> Wait<TurnTrap> {
        self.0.wait_as(reason)
    }

    /// Wakes all tasks that wait; gives how many.
    pub fn wake(&self) -> usize {
        let woken = self.len();
        self.0.give(ALL);
        woken
    }

    /// How many tasks wait.
    pub fn len(&self) -> usize {
        self.0.resource().statistics().waiting
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        self.0.resource()
    }
}

impl fmt::Debug for Fifo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fifo").field("waiting", &self.len()).finish()
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").field("waiting", &self.len()).finish()
    }
}
