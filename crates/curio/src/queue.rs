//! Queues: items from task to task.
//!
//! A queue is two [lines](crate::sync) around a container: one with a turn for each item,
//! in which getters wait, and one with a turn for each free place, in which putters do. A
//! task that has its turn does its part with the container, and gives a turn in the other
//! line. Whoever is cancelled while it waits gives its turn back, so no item and no
//! place is ever lost. A third line is a gate: it is open while every item that was put has
//! been reported as done.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernel::{self, TaskState};
use crate::sync::{ALL, Kind, Line, Resource, Rule, Statistics, TurnTrap};
use crate::traps::{Wait, YieldNow, at};

/// Items in the order in which they were put.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let queue = curio::Queue::bounded(2);
///     let consumer = curio::spawn({
///         let queue = queue.clone();
///         async move {
///             loop {
///                 let item: u32 = queue.get().await?;
///                 println!("Consumer got {item}");
///                 queue.task_done()?;
///             }
///             # #[allow(unreachable_code)]
///             # curio::Result::<()>::Ok(())
///         }
///     });
///     for item in 0..10 {
///         queue.put(item).await?;
///     }
///     queue.join().await?; // every item is done
///     consumer.cancel().await?;
///     Ok(())
/// })
/// # }
/// ```
pub type Queue<T> = RawQueue<Fifo<T>>;

/// The smallest item first.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let queue = curio::PriorityQueue::unbounded();
///     queue.put((2, "two")).await?;
///     queue.put((1, "one")).await?;
///     assert_eq!(queue.get().await?, (1, "one"));
///     Ok(())
/// })
/// # }
/// ```
pub type PriorityQueue<T> = RawQueue<Priority<T>>;

/// The newest item first.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let queue = curio::LifoQueue::unbounded();
///     queue.put(1).await?;
///     queue.put(2).await?;
///     assert_eq!(queue.get().await?, 2);
///     Ok(())
/// })
/// # }
/// ```
pub type LifoQueue<T> = RawQueue<Lifo<T>>;

/// Where a queue keeps its items, and in which order it gives them.
#[doc(hidden)]
pub trait Container: Default {
    type Item;

    /// Takes an item in. If it fails, it has not.
    fn push(&mut self, item: Self::Item) -> std::result::Result<(), Unsent<Self::Item>>;

    /// Gives an item; there is one. If it fails, it still has it.
    fn pop(&mut self) -> Result<Self::Item>;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The container of a [`Queue`].
#[doc(hidden)]
pub struct Fifo<T>(pub VecDeque<T>);

/// The container of a [`LifoQueue`].
#[doc(hidden)]
pub struct Lifo<T>(pub Vec<T>);

/// The container of a [`PriorityQueue`].
#[doc(hidden)]
pub struct Priority<T>(BinaryHeap<Reverse<T>>);

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Fifo(VecDeque::new())
    }
}

impl<T> Default for Lifo<T> {
    fn default() -> Self {
        Lifo(Vec::new())
    }
}

impl<T: Ord> Default for Priority<T> {
    fn default() -> Self {
        Priority(BinaryHeap::new())
    }
}

const THERE: &str = "whoever has a getter's turn finds an item";

impl<T> Container for Fifo<T> {
    type Item = T;

    fn push(&mut self, item: T) -> std::result::Result<(), Unsent<T>> {
        self.0.push_back(item);
        Ok(())
    }

    fn pop(&mut self) -> Result<T> {
        Ok(self.0.pop_front().expect(THERE))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl<T> Container for Lifo<T> {
    type Item = T;

    fn push(&mut self, item: T) -> std::result::Result<(), Unsent<T>> {
        self.0.push(item);
        Ok(())
    }

    fn pop(&mut self) -> Result<T> {
        Ok(self.0.pop().expect(THERE))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

impl<T: Ord> Container for Priority<T> {
    type Item = T;

    fn push(&mut self, item: T) -> std::result::Result<(), Unsent<T>> {
        self.0.push(Reverse(item));
        Ok(())
    }

    fn pop(&mut self) -> Result<T> {
        Ok(self.0.pop().expect(THERE).0)
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// An item that was not put, with the reason: it is not lost.
///
/// As an error it is the reason, so `?` works where the item is of no interest.
pub struct Unsent<T> {
    /// Why not.
    pub error: Error,
    /// What was to be put.
    pub item: T,
}

impl<T> From<Unsent<T>> for Error {
    fn from(unsent: Unsent<T>) -> Error {
        unsent.error
    }
}

impl<T> fmt::Debug for Unsent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Unsent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> std::error::Error for Unsent<T> {}

/// A queue of any order: see [`Queue`], [`PriorityQueue`] and [`LifoQueue`].
///
/// Clones are the same queue. It may be made before a kernel runs. Tasks
/// that wait are served in the order in which they came; one that need not wait, because there is
/// enough, may be ahead of one that was woken and has not run yet.
pub struct RawQueue<C: Container>(Rc<Inside<C>>);

struct Inside<C> {
    /// A turn for each item that nobody has been promised.
    items: Rc<Line>,
    /// A turn for each free place that nobody has been promised.
    places: Rc<Line>,
    /// Open while nothing is unfinished.
    finished: Rc<Line>,
    unfinished: Cell<usize>,
    capacity: usize,
    container: RefCell<C>,
    resource: Arc<Resource>,
}

impl<C: Container> Clone for RawQueue<C> {
    fn clone(&self) -> Self {
        RawQueue(self.0.clone())
    }
}

impl<C: Container> RawQueue<C> {
    /// A queue that takes any number of items.
    pub fn unbounded() -> Self {
        RawQueue::bounded(0)
    }

    /// A queue that takes `capacity` items at a time; 0 for any number.
    pub fn bounded(capacity: usize) -> Self {
        let resource = Resource::new(Kind::Queue, capacity);
        let line = |operation, state, rule, free| {
            Line::new(operation, state, rule, free, resource.clone())
        };
        let places = if capacity == 0 { ALL } else { capacity };
        RawQueue(Rc::new(Inside {
            items: line("Queue.get", TaskState::QueueGet, Rule::Kept, 0),
            places: line("Queue.put", TaskState::QueuePut, Rule::Kept, places),
            finished: line("Queue.join", TaskState::QueueJoin, Rule::Gate, ALL),
            unfinished: Cell::new(0),
            capacity,
            container: RefCell::default(),
            resource,
        }))
    }

    /// Puts an item, when there is room for it.
    ///
    /// # Errors
    /// The item comes back with the error.
    ///
    /// # Cancellation
    /// The item was not put, and comes back.
    #[track_caller]
    pub fn put(
        &self,
        item: C::Item,
    ) -> impl Future<Output = std::result::Result<(), Unsent<C::Item>>> + use<C> {
        let this = self.clone();
        at(Location::caller(), async move {
            if let Err(error) = this.clone().place().await {
                return Err(Unsent { error, item });
            }
            this.add(item)
        })
    }

    /// Waits for a place, in which [`add`](Self::add) is to put an item at once.
    #[doc(hidden)]
    pub async fn place(self) -> Result<()> {
        take_turn().await?;
        if self.0.capacity != 0 {
            self.0.places.wait().await?;
        }
        Ok(())
    }

    /// Puts an item if there is room for it.
    ///
    /// # Errors
    /// Misuse: the queue is full. The item comes back.
    pub fn put_nowait(&self, item: C::Item) -> std::result::Result<(), Unsent<C::Item>> {
        if !self.0.places.take(|| unreachable!("nobody owns a place")) {
            let error = Error::misuse(format!("{} is full", self.resource()));
            return Err(Unsent { error, item });
        }
        self.add(item)
    }

    /// Puts an item in the place that was taken for it.
    #[doc(hidden)]
    pub fn add(&self, item: C::Item) -> std::result::Result<(), Unsent<C::Item>> {
        let inside = &*self.0;
        let length = {
            let Ok(mut container) = inside.container.try_borrow_mut() else {
                inside.leave_place();
                return Err(Unsent { error: self.busy(), item });
            };
            if let Err(unsent) = container.push(item) {
                drop(container);
                inside.leave_place();
                return Err(unsent);
            }
            container.len()
        };
        inside.resource.set_level(length);
        inside.unfinished.set(inside.unfinished.get() + 1);
        inside.finished.set_free(0);
        inside.items.give(1);
        Ok(())
    }

    /// Waits for an item.
    ///
    /// # Cancellation
    /// No item is lost.
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<C::Item>> + use<C> {
        at(Location::caller(), self.clone().get_raw())
    }

    /// For bindings, which know better than we which line awaits it.
    #[doc(hidden)]
    pub async fn get_raw(self) -> Result<C::Item> {
        take_turn().await?;
        self.0.items.wait().await?;
        self.remove()
    }

    /// An item if there is one that nobody has been promised.
    ///
    /// # Errors
    /// What the container says.
    pub fn get_nowait(&self) -> Result<Option<C::Item>> {
        if !self.0.items.take(|| unreachable!("nobody owns an item")) {
            return Ok(None);
        }
        self.remove().map(Some)
    }

    /// Takes the item that the caller has a turn for.
    fn remove(&self) -> Result<C::Item> {
        let inside = &*self.0;
        let popped = match inside.container.try_borrow_mut() {
            Ok(mut container) => container.pop().map(|item| (item, container.len())),
            Err(_) => Err(self.busy()),
        };
        match popped {
            Ok((item, length)) => {
                inside.resource.set_level(length);
                inside.leave_place();
                Ok(item)
            }
            Err(error) => {
                inside.items.give(1);
                Err(error)
            }
        }
    }

    /// An item is being compared with others, and the comparison wants the queue.
    fn busy(&self) -> Error {
        Error::misuse(format!("{} was used by a comparison of its own items", self.resource()))
    }

    /// Waits until each item that was put has been reported by [`task_done`](Self::task_done).
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[track_caller]
    pub fn join(&self) -> Wait<TurnTrap> {
        self.0.finished.wait()
    }

    /// Says that the work on one item is done.
    ///
    /// # Errors
    /// Misuse: more items were reported than put.
    pub fn task_done(&self) -> Result<()> {
        match self.0.unfinished.get() {
            0 => Err(Error::misuse(format!(
                "task_done() was called more often than items were put into {}",
                self.resource()
            ))),
            1 => {
                self.0.unfinished.set(0);
                self.0.finished.give(ALL);
                Ok(())
            }
            unfinished => {
                self.0.unfinished.set(unfinished - 1);
                Ok(())
            }
        }
    }

    /// How many items are in it.
    pub fn len(&self) -> usize {
        self.0.resource.statistics().level
    }

    /// Whether no item is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it takes no more items for now.
    pub fn is_full(&self) -> bool {
        self.0.capacity != 0 && self.len() >= self.0.capacity
    }

    /// How many items it takes at a time; 0 for any number.
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// How many items were put that were not reported as done.
    pub fn unfinished(&self) -> usize {
        self.0.unfinished.get()
    }

    /// Its figures.
    pub fn statistics(&self) -> Statistics {
        self.0.resource.statistics()
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        &self.0.resource
    }

    /// For bindings, whose collectors want to see the items.
    #[doc(hidden)]
    pub fn container(&self) -> &RefCell<C> {
        &self.0.container
    }
}

impl<C> Inside<C> {
    fn leave_place(&self) {
        if self.capacity != 0 {
            self.places.give(1);
        }
    }
}

impl<C: Container> fmt::Debug for RawQueue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statistics { waiting, level, capacity, .. } = self.statistics();
        let mut out = f.debug_struct("Queue");
        out.field("len", &level).field("capacity", &capacity).field("waiting", &waiting).finish()
    }
}

/// A task that never has to wait, because there is always an item or a place, lets others run
/// now and then.
async fn take_turn() -> Result<()> {
    if kernel::exhausted() {
        YieldNow::new().await?;
    }
    Ok(())
}
