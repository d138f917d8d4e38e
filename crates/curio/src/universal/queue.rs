//! Queues between threads.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::line::{Line, Shared, Side, Standing, Who, turn};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::TaskState;
use crate::queue::Unsent;
use crate::sync::{ALL, Kind, Resource, Statistics};
use crate::traps::at;

/// Items in the order in which they were put, from anywhere to anywhere.
///
/// Clones are the same queue; it needs no kernel, and any number of kernels may use it at a time.
/// All who wait are served in the order in which they came; one that need not wait,
/// because there is enough, may be ahead of one that was told and has not come yet.
///
/// # Examples
///
/// ```
/// use curio::universal::Queue;
///
/// # fn main() -> curio::Result<()> {
/// let queue = Queue::bounded(2);
/// let thread = std::thread::spawn({
///     let queue = queue.clone();
///     move || {
///         for item in 0..10 {
///             queue.put_blocking(item, None).unwrap();
///         }
///     }
/// });
/// let sum = curio::run(async move {
///     let mut sum = 0;
///     for _ in 0..10 {
///         sum += queue.get().await?;
///     }
///     Ok(sum)
/// })?;
/// assert_eq!(sum, 45);
/// # thread.join().unwrap();
/// # Ok(())
/// # }
/// ```
pub struct Queue<T: Send + 'static>(Arc<Shared<Inside<T>>>);

/// What is under the lock.
pub struct Inside<T> {
    items: VecDeque<T>,
    /// A turn for each item that nobody has been promised.
    getters: Line,
    /// A turn for each free place that nobody has been promised.
    putters: Line,
    /// Open while nothing is unfinished.
    joiners: Line,
    capacity: usize,
    unfinished: usize,
    /// Nobody will get any more: items that are put come back.
    unwanted: bool,
    descriptor: Option<Descriptor>,
}

/// What can be read while there are items that nobody has been promised.
struct Descriptor {
    event: OwnedFd,
    readable: bool,
}

impl<T: Send + 'static> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

impl<T: Send + 'static> Queue<T> {
    /// A queue that takes any number of items.
    pub fn unbounded() -> Self {
        Queue::bounded(0)
    }

    /// A queue that takes `capacity` items at a time; 0 for any number.
    pub fn bounded(capacity: usize) -> Self {
        let resource = Resource::new(Kind::UniversalQueue, capacity);
        let places = if capacity == 0 { ALL } else { capacity };
        let inside = Inside {
            items: VecDeque::new(),
            getters: Line::new(0, &resource),
            putters: Line::new(places, &resource),
            joiners: Line::gate(true, &resource),
            capacity,
            unfinished: 0,
            unwanted: false,
            descriptor: None,
        };
        Queue(Shared::new(inside, resource))
    }

    /// Waits for room, and puts an item.
    ///
    /// # Errors
    /// The item comes back with the error.
    ///
    /// # Cancellation
    /// The item was not put, and comes back.
    #[track_caller]
    pub fn put(
        &self,
        item: T,
    ) -> impl Future<Output = std::result::Result<(), Unsent<T>>> + use<T> {
        at(Location::caller(), self.put_raw(item))
    }

    /// For bindings, which know better than we which line awaits it.
    #[doc(hidden)]
    pub fn put_raw(
        &self,
        item: T,
    ) -> impl Future<Output = std::result::Result<(), Unsent<T>>> + use<T> {
        let mut put = Put::new(self, item);
        async move {
            match turn(&mut put).await {
                Ok(done) => put.result(done),
                Err(error) => Err(put.unsent(error)),
            }
        }
    }

    /// The same in a thread without a kernel, which it blocks, for so long at most.
    ///
    /// # Errors
    /// The item comes back with the error. Misuse: a kernel runs in this thread. An I/O error of
    /// the kind `TimedOut`: there was no room in that time.
    pub fn put_blocking(
        &self,
        item: T,
        timeout: impl Into<Option<Duration>>,
    ) -> std::result::Result<(), Unsent<T>> {
        let timeout = timeout.into();
        let mut put = Put::new(self, item);
        let done = Standing::new(&mut put).block(timeout);
        match done {
            Ok(Some(done)) => put.result(done),
            Ok(None) => Err(put.unsent(self.timed_out("no room in", timeout))),
            Err(error) => Err(put.unsent(error)),
        }
    }

    /// Puts an item if there is room for it.
    ///
    /// # Errors
    /// Misuse: the queue is full. The item comes back.
    pub fn put_nowait(&self, item: T) -> std::result::Result<(), Unsent<T>> {
        let mut put = Put::new(self, item);
        match super::line::try_turn(&mut put) {
            Some(done) => put.result(done),
            None => Err(put.unsent(Error::misuse(format!("{} is full", self.resource())))),
        }
    }

    /// Waits for an item.
    ///
    /// # Cancellation
    /// No item is lost.
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<T>> + use<T> {
        at(Location::caller(), self.clone().get_raw())
    }

    /// For bindings, which know better than we which line awaits it.
    #[doc(hidden)]
    pub async fn get_raw(self) -> Result<T> {
        turn(&mut Get(self.0)).await?
    }

    /// The same in a thread without a kernel, which it blocks, for so long at most.
    ///
    /// # Errors
    /// Misuse: a kernel runs in this thread. An I/O error of the kind `TimedOut`: there was no
    /// item in that time.
    pub fn get_blocking(&self, timeout: impl Into<Option<Duration>>) -> Result<T> {
        let timeout = timeout.into();
        match Standing::new(Get(self.0.clone())).block(timeout)? {
            Some(got) => got,
            None => Err(self.timed_out("nothing in", timeout)),
        }
    }

    /// An item if there is one that nobody has been promised.
    pub fn get_nowait(&self) -> Option<T> {
        super::line::try_turn(&mut Get(self.0.clone()))?.ok()
    }

    /// The same with the error of a queue that is closed.
    pub(super) fn try_get(&self) -> Result<Option<T>> {
        super::line::try_turn(&mut Get(self.0.clone())).transpose()
    }

    /// Waits until each item that was put has been reported by [`task_done`](Self::task_done).
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[track_caller]
    pub fn join(&self) -> impl Future<Output = Result<()>> + use<T> {
        let mut finished = Finished(self.0.clone());
        at(Location::caller(), async move { turn(&mut finished).await })
    }

    /// The same in a thread without a kernel, which it blocks, for so long at most.
    ///
    /// # Errors
    /// Misuse: a kernel runs in this thread. An I/O error of the kind `TimedOut`: some were not
    /// done in that time.
    pub fn join_blocking(&self, timeout: impl Into<Option<Duration>>) -> Result<()> {
        let timeout = timeout.into();
        match Standing::new(Finished(self.0.clone())).block(timeout)? {
            Some(()) => Ok(()),
            None => Err(self.timed_out("unfinished items of", timeout)),
        }
    }

    /// Says that the work on one item is done.
    ///
    /// # Errors
    /// Misuse: more items were reported than put.
    pub fn task_done(&self) -> Result<()> {
        let mut inside = self.0.lock();
        inside.unfinished = inside.unfinished.checked_sub(1).ok_or_else(|| {
            Error::misuse(format!(
                "task_done() was called more often than items were put into {}",
                self.resource()
            ))
        })?;
        if inside.unfinished == 0 {
            let waiting = inside.joiners.open();
            drop(inside);
            waiting.into_iter().for_each(Who::tell);
        }
        Ok(())
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
        let Statistics { level, capacity, .. } = self.0.resource.statistics();
        capacity != 0 && level >= capacity
    }

    /// How many items it takes at a time; 0 for any number.
    pub fn capacity(&self) -> usize {
        self.0.resource.statistics().capacity
    }

    /// How many items were put that were not reported as done.
    pub fn unfinished(&self) -> usize {
        self.0.lock().unfinished
    }

    /// A descriptor that can be read while there are items that nobody has been promised, for who
    /// waits in `select` or the like and then uses [`get_nowait`](Self::get_nowait). It is only to
    /// be looked at: the queue reads it and writes to it.
    ///
    /// # Errors
    /// The system's, when it gives none.
    pub fn with_descriptor<R>(&self, look: impl FnOnce(BorrowedFd<'_>) -> R) -> Result<R> {
        use rustix::event::{EventfdFlags, eventfd};
        let mut inside = self.0.lock();
        if inside.descriptor.is_none() {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            inside.descriptor = Some(Descriptor { event, readable: false });
            inside.show();
        }
        let descriptor = inside.descriptor.as_ref().expect("it was made just now");
        Ok(look(descriptor.event.as_fd()))
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
    pub fn standing_get(&self) -> Standing<Get<T>> {
        Standing::new(Get(self.0.clone()))
    }

    /// See `standing_get`.
    #[doc(hidden)]
    pub fn standing_put(&self, item: T) -> Standing<Put<T>> {
        Standing::new(Put::new(self, item))
    }

    /// See `standing_get`.
    #[doc(hidden)]
    pub fn standing_join(&self) -> Standing<Finished<T>> {
        Standing::new(Finished(self.0.clone()))
    }

    /// Shows the items to a binding's collector, unless the queue is being used.
    #[doc(hidden)]
    pub fn visit<E>(
        &self,
        visit: impl FnMut(&T) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.0.try_lock().map_or(Ok(()), |inside| inside.items.iter().try_for_each(visit))
    }

    /// Takes out all items; who waits for one goes on waiting.
    #[doc(hidden)]
    pub fn clear(&self) -> VecDeque<T> {
        let mut all = VecDeque::new();
        while let Some(item) = self.get_nowait() {
            all.push_back(item);
        }
        all
    }

    /// No more items will be put: who waits for one learns it when there are none left.
    pub(super) fn end(&self) {
        let waiting = self.0.lock().getters.open();
        waiting.into_iter().for_each(Who::tell);
    }

    /// Nobody will get any more.
    pub(super) fn refuse(&self) {
        let mut inside = self.0.lock();
        inside.unwanted = true;
        let waiting = inside.putters.open();
        let items = std::mem::take(&mut inside.items);
        self.0.resource.set_level(0);
        drop(inside);
        waiting.into_iter().for_each(Who::tell);
        drop(items); // foreign code
    }

    fn timed_out(&self, what: &str, timeout: Option<Duration>) -> Error {
        let timeout = timeout.unwrap_or_default();
        let message = format!("{what} {} within {timeout:?}", self.resource());
        std::io::Error::new(std::io::ErrorKind::TimedOut, message).into()
    }
}

impl<T> Inside<T> {
    /// Makes the descriptor say what is so.
    fn show(&mut self) {
        let Some(descriptor) = &mut self.descriptor else { return };
        let readable = self.getters.free() > 0;
        if readable != descriptor.readable {
            descriptor.readable = readable;
            // Neither can fail: the count is 0 or 1, and it is our own.
            let _ = if readable {
                rustix::io::write(&descriptor.event, &1_u64.to_ne_bytes())
            } else {
                rustix::io::read(&descriptor.event, &mut [0; 8])
            };
        }
    }
}

fn closed(resource: &Resource, end: &str) -> Error {
    Error::new(ErrorKind::Closed(format!("{resource} is closed: nobody {end} any more")))
}

/// Getting an item.
pub struct Get<T: Send + 'static>(Arc<Shared<Inside<T>>>);

impl<T: Send + 'static> Side for Get<T> {
    type Inside = Inside<T>;
    type Got = Result<T>;
    const NAMES: (&'static str, TaskState) = ("UniversalQueue.get", TaskState::QueueGet);

    fn shared(&self) -> &Arc<Shared<Inside<T>>> {
        &self.0
    }

    fn line(inside: &mut Inside<T>) -> &mut Line {
        &mut inside.getters
    }

    fn exchange(&mut self, inside: &mut Inside<T>) -> (Result<T>, Option<Who>) {
        let Some(item) = inside.items.pop_front() else {
            // There are turns without items in a closed queue alone.
            return (Err(closed(&self.0.resource, "can put")), None);
        };
        self.0.resource.set_level(inside.items.len());
        let next = if inside.capacity != 0 { inside.putters.give() } else { None };
        (Ok(item), next)
    }

    fn changed(inside: &mut Inside<T>) {
        inside.show();
    }
}

/// Putting an item.
pub struct Put<T: Send + 'static> {
    shared: Arc<Shared<Inside<T>>>,
    /// `None` once it was put.
    item: Option<T>,
}

impl<T: Send + 'static> Put<T> {
    fn new(queue: &Queue<T>, item: T) -> Self {
        Put { shared: queue.0.clone(), item: Some(item) }
    }

    fn result(self, done: Result<()>) -> std::result::Result<(), Unsent<T>> {
        done.map_err(|error| self.unsent(error))
    }

    fn unsent(self, error: Error) -> Unsent<T> {
        Unsent { error, item: self.item.expect("what was not put is still there") }
    }
}

// The item is moved, and not referred to.
impl<T: Send + 'static> Unpin for Put<T> {}

impl<T: Send + 'static> Side for Put<T> {
    type Inside = Inside<T>;
    type Got = Result<()>;
    const NAMES: (&'static str, TaskState) = ("UniversalQueue.put", TaskState::QueuePut);

    fn shared(&self) -> &Arc<Shared<Inside<T>>> {
        &self.shared
    }

    fn line(inside: &mut Inside<T>) -> &mut Line {
        &mut inside.putters
    }

    fn exchange(&mut self, inside: &mut Inside<T>) -> (Result<()>, Option<Who>) {
        if inside.unwanted {
            return (Err(closed(&self.shared.resource, "can get")), None);
        }
        inside.items.push_back(self.item.take().expect("an item is put once"));
        self.shared.resource.set_level(inside.items.len());
        inside.unfinished += 1;
        if inside.unfinished == 1 {
            inside.joiners.close();
        }
        (Ok(()), inside.getters.give())
    }

    fn changed(inside: &mut Inside<T>) {
        inside.show();
    }
}

/// Waiting until all items are done.
pub struct Finished<T: Send + 'static>(Arc<Shared<Inside<T>>>);

impl<T: Send + 'static> Side for Finished<T> {
    type Inside = Inside<T>;
    type Got = ();
    const NAMES: (&'static str, TaskState) = ("UniversalQueue.join", TaskState::QueueJoin);

    fn shared(&self) -> &Arc<Shared<Inside<T>>> {
        &self.0
    }

    fn line(inside: &mut Inside<T>) -> &mut Line {
        &mut inside.joiners
    }

    fn exchange(&mut self, _inside: &mut Inside<T>) -> ((), Option<Who>) {
        ((), None)
    }
}

impl<T: Send + 'static> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Statistics { waiting, level, capacity, .. } = self.statistics();
        let mut out = f.debug_struct("Queue");
        out.field("len", &level).field("capacity", &capacity).field("waiting", &waiting).finish()
    }
}
