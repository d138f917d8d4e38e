//! Events.

use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use super::line::{ALL, Line, Rule, TurnTrap};
use super::resource::{Kind, Resource, Statistics};
use crate::error::Result;
use crate::kernel::{self, TaskState};
use crate::traps::{Wait, YieldNow, outside};

/// Something that happens once, until it is cleared: tasks wait for it.
///
/// Clones are the same event. It may be made before a kernel runs.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let start = curio::sync::Event::new();
///     let kid = curio::spawn({
///         let start = start.clone();
///         async move {
///             start.wait().await?;
///             Ok("playing")
///         }
///     });
///     start.set().await?;
///     assert_eq!(kid.join().await?, "playing");
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Event(Rc<Line>);

impl Event {
    /// An event that is not set.
    #[allow(clippy::new_without_default, reason = "as the other primitives are made")]
    pub fn new() -> Self {
        Event::of_kind(Kind::Event)
    }

    /// For things that are events to those who wait.
    #[doc(hidden)]
    pub fn of_kind(kind: Kind) -> Self {
        let resource = Resource::new(kind, 0);
        Event(Line::new("Event.wait", TaskState::EventWait, Rule::Gate, 0, resource))
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.free() != 0
    }

    /// Makes it not set. Tasks that were woken go on all the same.
    pub fn clear(&self) {
        self.0.set_free(0);
        self.0.resource().set_level(0);
    }

    /// Waits until it is set; does not block if it is.
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[track_caller]
    pub fn wait(&self) -> Wait<TurnTrap> {
        self.0.wait()
    }

    /// Sets it, and lets those that waited run first.
    ///
    /// # Errors
    /// Misuse outside of a kernel.
    ///
    /// # Cancellation
    /// It is no cancellation point.
    pub fn set(&self) -> impl Future<Output = Result<()>> + use<> {
        let event = self.clone();
        async move {
            if kernel::current().is_none() {
                return Err(outside("Event.set"));
            }
            event.set_nowait();
            YieldNow::uncancellable().await
        }
    }

    /// Sets it; those that waited run when their turn comes.
    pub fn set_nowait(&self) {
        self.0.resource().set_level(1);
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

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (set, waiting) = (self.is_set(), self.statistics().waiting);
        f.debug_struct("Event").field("set", &set).field("waiting", &waiting).finish()
    }
}
