//! Deadlines: which wait or timeout is due next.
//!
//! Most timers never fire: a timeout is set around an operation, the operation
//! ends, the timeout is dropped. So dropping must be as cheap as setting, and
//! must leave nothing behind. The table is a four-ary heap whose entries know
//! their handle and whose handles know their entry. A later deadline than its
//! parent's stays where it was appended, and the entry appended last is removed
//! by a pop: setting and dropping a timeout touches the end of one vector.
//!
//! Entries with equal deadlines fire in the order in which they were set, those that
//! limit something after those that end something: what is done at the deadline is done.
//! Times are nanoseconds of the kernel's clock, never rounded.

use slab::Slab;

/// A timer in the table; given up by [`Timers::remove`] or when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(u32);

#[derive(Clone, Copy)]
struct Entry {
    deadline: u64,
    /// Order among equal deadlines: first come, first served; limits have the top bit set.
    sequence: u64,
    timer: u32,
}

impl Entry {
    fn before(&self, other: &Entry) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

struct Timer<T> {
    /// Where the timer's entry stands in the heap.
    position: usize,
    payload: T,
}

/// The table of timers; `T` says what to do when one is due.
pub(crate) struct Timers<T> {
    heap: Vec<Entry>,
    timers: Slab<Timer<T>>,
    sequence: u64,
}

const ARITY: usize = 4;

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Timers { heap: Vec::new(), timers: Slab::new(), sequence: 0 }
    }

    pub(crate) fn insert(&mut self, deadline: u64, payload: T) -> TimerKey {
        self.insert_in_order(deadline, 0, payload)
    }

    /// Inserts what is to fire after everything else with its deadline.
    pub(crate) fn insert_limit(&mut self, deadline: u64, payload: T) -> TimerKey {
        self.insert_in_order(deadline, 1 << 63, payload)
    }

    fn insert_in_order(&mut self, deadline: u64, order: u64, payload: T) -> TimerKey {
        let position = self.heap.len();
        let timer = self.timers.insert(Timer { position, payload }) as u32;
        self.sequence += 1;
        self.heap.push(Entry { deadline, sequence: self.sequence | order, timer });
        self.sift_up(position);
        TimerKey(timer)
    }

    pub(crate) fn remove(&mut self, key: TimerKey) -> T {
        let timer = self.timers.remove(key.0 as usize);
        self.remove_entry(timer.position);
        timer.payload
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// Takes the first timer out of the table if it is due at `now`.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<T> {
        let first = self.heap.first()?;
        if first.deadline > now {
            return None;
        }
        Some(self.remove(TimerKey(first.timer)))
    }

    fn remove_entry(&mut self, position: usize) {
        self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.moved(position);
            if !self.sift_up(position) {
                self.sift_down(position);
            }
        }
    }

    /// Tells the timer whose entry now stands at `position`.
    fn moved(&mut self, position: usize) {
        let timer = self.heap[position].timer as usize;
        self.timers[timer].position = position;
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.moved(a);
        self.moved(b);
    }

    fn sift_up(&mut self, mut position: usize) -> bool {
        let start = position;
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if !self.heap[position].before(&self.heap[parent]) {
                break;
            }
            self.swap(position, parent);
            position = parent;
        }
        position != start
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let children =
                position * ARITY + 1..(position * ARITY + 1 + ARITY).min(self.heap.len());
            let Some(least) =
                children.reduce(|a, b| if self.heap[b].before(&self.heap[a]) { b } else { a })
            else {
                return;
            };
            if !self.heap[least].before(&self.heap[position]) {
                return;
            }
            self.swap(position, least);
            position = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_deadlines_fire_in_order_of_setting() {
        let mut timers = Timers::new();
        for name in 0..20 {
            timers.insert(7, name);
        }
        let fired: Vec<_> = std::iter::from_fn(|| timers.pop_due(7)).collect();
        assert_eq!(fired, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_fires_early() {
        let mut timers = Timers::new();
        timers.insert(10, ());
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(10), Some(()));
    }

    proptest! {
        /// Against a sorted list: inserts and removals in any order, then everything is popped.
        #[test]
        fn behaves_as_a_sorted_list(steps in prop::collection::vec((0u64..50, any::<bool>(), any::<prop::sample::Index>()), 0..300)) {
            let mut timers = Timers::new();
            let mut model: Vec<(u64, usize, TimerKey)> = Vec::new();
            for (sequence, (deadline, remove, which)) in steps.into_iter().enumerate() {
                if remove && !model.is_empty() {
                    let (_, payload, key) = model.remove(which.index(model.len()));
                    prop_assert_eq!(timers.remove(key), payload);
                } else {
                    let key = timers.insert(deadline, sequence);
                    model.push((deadline, sequence, key));
                }
                prop_assert_eq!(timers.next_deadline(), model.iter().map(|m| m.0).min());
            }
            model.sort_by_key(|&(deadline, sequence, _)| (deadline, sequence));
            for (_, payload, _) in model {
                prop_assert_eq!(timers.pop_due(u64::MAX), Some(payload));
            }
            prop_assert_eq!(timers.pop_due(u64::MAX), None);
        }
    }
}
