//! What crosses threads: queues, channels and events for tasks of any kernel, plain threads, and
//! tasks of other executors.
//!
//! The primitives of [`sync`](crate::sync) and [`Queue`](crate::Queue) belong to one kernel at a time, and need no
//! lock. Those here may be used from everywhere at once. All who wait, whatever they are, stand in
//! one line, and are served in the order in which they came. Nobody polls, and there is no thread
//! in between: a task is woken through its kernel's door, a thread is unparked.
//!
//! - [`Queue`]: as the one for tasks, with `task_done` and `join`.
//! - [`channel`], [`unbounded_channel`]: a queue with two ends, which is closed when nobody has the other
//!   one any more.
//! - [`Event`]: something that happens once, until it is cleared.
//!
//! Where an operation is awaited, it is a trap if a kernel runs in the thread, with all that goes
//! with it: timeouts, cancellation, the monitor. Else it is a future like any other. In a thread without
//! a kernel, `…_blocking` blocks.
//!
//! # Cancellation
//! Nothing is lost. A task that is cancelled, a future that is dropped and a thread whose time is
//! over leave the line; what they had been given meanwhile goes to the next.

mod channel;
mod event;
mod line;
mod queue;

pub use channel::{Receiver, Sender, channel, unbounded_channel};
pub use event::Event;
pub use queue::Queue;

#[doc(hidden)]
pub use event::Set;
#[doc(hidden)]
pub use line::{Side, Standing};
#[doc(hidden)]
pub use queue::{Finished, Get, Put};
