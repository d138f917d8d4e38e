//! What time it is, for one kernel.
//!
//! Times are nanoseconds since an arbitrary start, the same for every kernel of
//! the process; a wall clock that is set back changes nothing.

use std::cell::Cell;
use std::rc::Rc;

/// A clock that a kernel can run on.
///
/// The kernel ships two: the machine's monotonic clock, and a virtual one for
/// tests, which moves only when every task sleeps (see [`crate::testing`]).
pub trait Clock {
    /// Nanoseconds since the clock's start. Never goes back.
    fn now(&self) -> u64;
}

/// The machine's monotonic clock.
pub(crate) struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now(&self) -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}

/// A clock that stands still until its poller moves it.
#[derive(Clone, Default)]
pub(crate) struct VirtualClock {
    now: Rc<Cell<u64>>,
}

impl VirtualClock {
    pub(crate) fn advance(&self, nanoseconds: u64) {
        self.now.set(self.now.get().saturating_add(nanoseconds));
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> u64 {
        self.now.get()
    }
}
