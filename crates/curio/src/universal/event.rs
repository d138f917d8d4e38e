//! Events between threads.

use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::line::{Line, Shared, Side, Standing, Who, turn};
use crate::error::Result;
use crate::kernel::TaskState;
use crate::sync::{Kind, Resource, Statistics};
use crate::traps::at;

/// Something that happens once, until it is cleared: tasks and threads wait for it.
///
/// Clones are the same event.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// let start = curio::universal::Event::new();
/// let thread = std::thread::spawn({
///     let start = start.clone();
///     move || start.wait_blocking(None)
/// });
/// curio::run(async move {
///     start.set();
///     start.wait().await
/// })?;
/// assert!(thread.join().unwrap()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Event(Arc<Shared<Line>>);

impl Event {
    /// An event that is not set.
    #[allow(clippy::new_without_default, reason = "as the other primitives are made")]
    pub fn new() -> Self {
        Event::of_kind(Kind::UniversalEvent)
    }

    /// For things that are events to those who wait.
    #[doc(hidden)]
    pub fn of_kind(kind: Kind) -> Self {
        let resource = Resource::new(kind, 0);
        Event(Shared::new(Line::gate(false, &resource), resource))
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.lock().free() != 0
    }

    /// Sets it: all who wait go on. Any thread.
    pub fn set(&self) {
        let mut line = self.0.lock();
        self.0.resource.set_level(1);
        let waiting = line.open();
        drop(line);
        waiting.into_iter().for_each(Who::tell);
    }

    /// Makes it not set. Who was told goes on all the same.
    pub fn clear(&self) {
        let mut line = self.0.lock();
        self.0.resource.set_level(0);
        line.close();
    }

    /// Waits until it is set; does not block if it is.
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[track_caller]
    pub fn wait(&self) -> impl Future<Output = Result<()>> + use<> {
        let mut set = Set(self.0.clone());
        at(Location::caller(), async move { turn(&mut set).await.map(drop) })
    }

    /// The same in a thread without a kernel, which it blocks, for so long at most. Says whether
    /// the event was set in that time.
    ///
    /// # Errors
    /// Misuse: a kernel runs in this thread.
    pub fn wait_blocking(&self, timeout: impl Into<Option<Duration>>) -> Result<bool> {
        Ok(self.standing().block(timeout.into())? == Some(true))
    }

    /// Its figures.
    pub fn statistics(&self) -> Statistics {
        self.0.resource.statistics()
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        &self.0.resource
    }

    /// For bindings, whose tasks have wakers of their own.
    #[doc(hidden)]
    pub fn standing(&self) -> Standing<Set> {
        Standing::new(Set(self.0.clone()))
    }
}

/// Waiting for an event.
pub struct Set(Arc<Shared<Line>>);

impl Side for Set {
    type Inside = Line;
    type Got = bool;
    const NAMES: (&'static str, TaskState) = ("UniversalEvent.wait", TaskState::EventWait);

    fn shared(&self) -> &Arc<Shared<Line>> {
        &self.0
    }

    fn line(line: &mut Line) -> &mut Line {
        line
    }

    fn exchange(&mut self, _line: &mut Line) -> (bool, Option<Who>) {
        (true, None)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (set, waiting) = (self.is_set(), self.statistics().waiting);
        f.debug_struct("UniversalEvent").field("set", &set).field("waiting", &waiting).finish()
    }
}
