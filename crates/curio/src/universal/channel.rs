//! Channels: queues with two ends.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::queue::Queue;
use crate::error::Result;
use crate::queue::Unsent;

/// Makes both ends of a channel that takes `capacity` items at a time; 0 for any number.
///
/// # Examples
///
/// ```
/// use curio::universal::channel;
///
/// # fn main() -> curio::Result<()> {
/// let (sender, receiver) = channel(10);
/// let thread = std::thread::spawn(move || {
///     let mut words = Vec::new();
///     while let Ok(word) = receiver.recv_blocking(None) {
///         words.push(word);
///     }
///     words // the sender is gone
/// });
/// curio::run(async move {
///     sender.send("Hello").await?;
///     sender.send("world").await?;
///     Ok(())
/// })?;
/// assert_eq!(thread.join().unwrap(), ["Hello", "world"]);
/// # Ok(())
/// # }
/// ```
pub fn channel<T: Send + 'static>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Queue::bounded(capacity);
    (Sender(Arc::new(PutEnd(queue.clone()))), Receiver(Arc::new(GetEnd(queue))))
}

/// Makes both ends of a channel that takes any number of items.
pub fn unbounded_channel<T: Send + 'static>() -> (Sender<T>, Receiver<T>) {
    channel(0)
}

/// The end of a [channel] where items go in. Any number may have it, by clones; when the last is
/// dropped, those who receive get what is left, and then an error.
pub struct Sender<T: Send + 'static>(Arc<PutEnd<T>>);

/// The end of a [channel] where items come out, each once. Any number may have it, by clones; when the
/// last is dropped, what is left is dropped as well, and what is sent comes back.
pub struct Receiver<T: Send + 'static>(Arc<GetEnd<T>>);

struct PutEnd<T: Send + 'static>(Queue<T>);
struct GetEnd<T: Send + 'static>(Queue<T>);

impl<T: Send + 'static> Drop for PutEnd<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T: Send + 'static> Drop for GetEnd<T> {
    fn drop(&mut self) {
        self.0.refuse();
    }
}

impl<T: Send + 'static> Sender<T> {
    /// Waits for room, and sends an item.
    ///
    /// # Errors
    /// [`is_closed`](crate::Error::is_closed): all receivers are gone. The item comes back.
    ///
    /// # Cancellation
    /// The item was not sent, and comes back.
    #[track_caller]
    pub fn send(
        &self,
        item: T,
    ) -> impl Future<Output = std::result::Result<(), Unsent<T>>> + use<T> {
        let (end, put) = (self.clone(), self.0.0.put(item));
        async move {
            let sent = put.await;
            drop(end); // what is being sent is still to come
            sent
        }
    }

    /// The same in a thread without a kernel, which it blocks, for so long at most.
    ///
    /// # Errors
    /// Those of `send` and of [`Queue::put_blocking`].
    pub fn send_blocking(
        &self,
        item: T,
        timeout: impl Into<Option<Duration>>,
    ) -> std::result::Result<(), Unsent<T>> {
        self.0.0.put_blocking(item, timeout)
    }

    /// Sends an item if there is room for it.
    ///
    /// # Errors
    /// That of `send`. Misuse: the channel is full. The item comes back.
    pub fn try_send(&self, item: T) -> std::result::Result<(), Unsent<T>> {
        self.0.0.put_nowait(item)
    }

    /// The queue inside, for its figures.
    pub fn queue(&self) -> &Queue<T> {
        &self.0.0
    }
}

impl<T: Send + 'static> Receiver<T> {
    /// Waits for an item.
    ///
    /// # Errors
    /// [`is_closed`](crate::Error::is_closed): nothing is left, and all senders are gone.
    ///
    /// # Cancellation
    /// No item is lost.
    #[track_caller]
    pub fn recv(&self) -> impl Future<Output = Result<T>> + use<T> {
        let (end, get) = (self.clone(), self.0.0.get());
        async move {
            let received = get.await;
            drop(end); // what is being received is still wanted
            received
        }
    }

    /// The same in a thread without a kernel, which it blocks, for so long at most.
    ///
    /// # Errors
    /// Those of `recv` and of [`Queue::get_blocking`].
    pub fn recv_blocking(&self, timeout: impl Into<Option<Duration>>) -> Result<T> {
        self.0.0.get_blocking(timeout)
    }

    /// An item if there is one that nobody has been promised.
    ///
    /// # Errors
    /// That of `recv`.
    pub fn try_recv(&self) -> Result<Option<T>> {
        self.0.0.try_get()
    }

    /// The queue inside, for its figures.
    pub fn queue(&self) -> &Queue<T> {
        &self.0.0
    }
}

impl<T: Send + 'static> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T: Send + 'static> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver(self.0.clone())
    }
}

impl<T: Send + 'static> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(self.queue()).finish()
    }
}

impl<T: Send + 'static> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(self.queue()).finish()
    }
}
