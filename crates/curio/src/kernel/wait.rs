//! Waits: what blocked tasks wait for, and in which order they are served.
//!
//! A *wait* is one trap of one task that has not ended. It lives in one table of
//! the kernel, and whatever it waits for refers to it there: a timer, a
//! descriptor's direction, a [`WaitQueue`]. It ends in one of two ways. It is
//! *fired* by what it waited for, and the task finds it fired when it next runs;
//! or the trap gives it up (cancelled, or its future dropped) and takes it out of
//! wherever it stands. So nothing ever refers to a wait that is gone.

use std::rc::Rc;
use std::task::Waker;

use slab::Slab;

use super::task::Blocked;
use crate::sync::Line;

/// A wait's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub struct WaitKey(pub(super) u32);

/// The timeouts and shields around an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Region {
    /// The innermost timeout; the outer ones follow by their `outer` links.
    pub(super) timeout: Option<TimeoutKey>,
    /// How many shields it is inside of; while there is one, no cancellation arrives.
    pub(super) shields: u32,
}

/// A timeout's place in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeoutKey(pub(super) u32);

/// One wait.
pub(crate) struct Wait {
    /// The task that waits: its index in the task table.
    pub(super) task: u32,
    /// What the task shows while it waits.
    pub(super) blocked: Blocked,
    /// Counts the waits of a kernel: who came first has the smaller one.
    pub(super) number: u64,
    /// What is around the operation: decides which cancellations may reach it.
    pub(super) region: Region,
    /// When what was waited for has happened, as the kernel counts; 0 for not yet.
    pub(super) fired: u64,
    /// Its neighbours in the line it stands in, and among its task's [`FOREIGN`] waits.
    links: [Links; 2],
    /// Whom to wake instead of the task, when a combinator polls the trap.
    pub(super) waker: Option<Waker>,
    /// It stands in the task's queue of such waits.
    pub(super) foreign: bool,
    /// The line that it stands in.
    pub(super) line: Option<Rc<Line>>,
}

#[derive(Default)]
struct Links {
    before: Option<WaitKey>,
    after: Option<WaitKey>,
}

/// The links of the line for what is waited for.
const LINE: usize = 0;
/// The links of a task's waits that have wakers of their own.
pub(crate) const FOREIGN: usize = 1;

/// The table of waits.
#[derive(Default)]
pub(crate) struct Waits(Slab<Wait>);

impl Waits {
    pub(super) fn insert(
        &mut self,
        task: u32,
        blocked: Blocked,
        number: u64,
        region: Region,
        waker: Option<Waker>,
    ) -> WaitKey {
        let links = Default::default();
        let wait = Wait {
            task,
            blocked,
            number,
            region,
            fired: 0,
            links,
            waker,
            foreign: false,
            line: None,
        };
        WaitKey(self.0.insert(wait) as u32)
    }

    pub(super) fn remove(&mut self, key: WaitKey) -> Wait {
        self.0.remove(key.0 as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Wait> {
        self.0.iter().map(|(_, wait)| wait)
    }

    /// The wait in that place, if there is one, whichever it is.
    pub(super) fn find(&self, key: WaitKey) -> Option<&Wait> {
        self.0.get(key.0 as usize)
    }

    pub(super) fn get(&self, key: WaitKey) -> &Wait {
        &self.0[key.0 as usize]
    }

    pub(super) fn get_mut(&mut self, key: WaitKey) -> &mut Wait {
        &mut self.0[key.0 as usize]
    }
}

/// Waits in the order in which they came, first served first.
///
/// A doubly linked list through the table, so that a wait that is given up
/// leaves at once, wherever it stands, and an empty queue costs two words.
#[derive(Default)]
pub(crate) struct WaitQueue<const WHICH: usize = LINE> {
    first: Option<WaitKey>,
    last: Option<WaitKey>,
}

impl<const WHICH: usize> WaitQueue<WHICH> {
    pub(crate) fn push(&mut self, waits: &mut Waits, key: WaitKey) {
        waits.get_mut(key).links[WHICH].before = self.last;
        match self.last.replace(key) {
            Some(last) => waits.get_mut(last).links[WHICH].after = Some(key),
            None => self.first = Some(key),
        }
    }

    pub(crate) fn pop(&mut self, waits: &mut Waits) -> Option<WaitKey> {
        let key = self.first?;
        self.remove(waits, key);
        Some(key)
    }

    /// Takes `key`, which must stand in this queue, out of it.
    pub(crate) fn remove(&mut self, waits: &mut Waits, key: WaitKey) {
        let Links { before, after } = std::mem::take(&mut waits.get_mut(key).links[WHICH]);
        match before {
            Some(before) => waits.get_mut(before).links[WHICH].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => waits.get_mut(after).links[WHICH].before = before,
            None => self.last = before,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn iter<'a>(&'a self, waits: &'a Waits) -> impl Iterator<Item = &'a Wait> {
        let first = self.first.map(|key| waits.get(key));
        std::iter::successors(first, |wait| wait.links[WHICH].after.map(|key| waits.get(key)))
    }
}

/// A timeout that is in force.
pub(crate) struct TimeoutCell {
    /// Unique in the kernel, growing.
    pub(super) serial: u64,
    pub(super) task: u32,
    /// The timeout around this one.
    pub(super) outer: Option<TimeoutKey>,
    /// `None`: it sets no limit of its own.
    pub(super) deadline: Option<u64>,
    /// The nearest deadline of this one and those around it, for the monitor.
    pub(super) nearest: Option<u64>,
    /// `None` when it has no deadline, or has expired.
    pub(super) timer: Option<super::timers::TimerKey>,
    /// When its deadline has passed, as the kernel counts, if no trap has been told yet.
    pub(super) expired: Option<u64>,
    /// A trap inside was told.
    pub(super) delivered: bool,
    /// Its region was left; it stays while it is around others.
    pub(super) left: bool,
    /// How many timeouts it is right around of.
    pub(super) inner: u32,
    /// Whom to wake when it expires, when a combinator polls its region.
    pub(super) waker: Option<Waker>,
}

#[cfg(test)]
mod tests {
    use super::super::task::{Target, TaskState};
    use super::*;
    use proptest::prelude::*;

    const BLOCKED: Blocked =
        Blocked { state: TaskState::TimeSleep, target: Target::Nothing, site: None };

    fn contents(queue: &mut WaitQueue, waits: &mut Waits) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(waits).map(|key| waits.get(key).task)).collect()
    }

    proptest! {
        /// Pushes, pops and removals from any place, against a `Vec`.
        #[test]
        fn a_wait_queue_is_a_list(steps in prop::collection::vec((0u8..3, any::<prop::sample::Index>()), 0..200)) {
            let (mut waits, mut queue) = (Waits::default(), WaitQueue::<LINE>::default());
            let mut model: Vec<(u32, WaitKey)> = Vec::new();
            for (number, (step, which)) in (0u32..).zip(steps) {
                match step {
                    0 => {
                        let key = waits.insert(number, BLOCKED, 0, Region::default(), None);
                        queue.push(&mut waits, key);
                        model.push((number, key));
                    }
                    1 => {
                        let popped = queue.pop(&mut waits);
                        let expected = if model.is_empty() { None } else { Some(model.remove(0).1) };
                        prop_assert_eq!(popped, expected);
                    }
                    _ if model.is_empty() => {}
                    _ => {
                        let (_, key) = model.remove(which.index(model.len()));
                        queue.remove(&mut waits, key);
                        waits.remove(key);
                    }
                }
            }
            let left: Vec<u32> = model.iter().map(|m| m.0).collect();
            prop_assert_eq!(contents(&mut queue, &mut waits), left);
        }
    }
}
