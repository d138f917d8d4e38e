//! Reliable concurrent I/O: tasks, timeouts, and cancellation that works.
//!
//! A program is made of *tasks*, futures that a small *kernel* runs one at a time.
//! A task reaches the kernel only through *traps*, the places where it can block.
//! Every blocked task can be seen, timed out and cancelled; the cancellation
//! arrives as an error at the trap, and the task may await further things to clean
//! up before it ends.
//!
//! ```
//! use std::time::Duration;
//!
//! fn main() -> curio::Result<()> {
//!     curio::run(async {
//!         let kid = curio::spawn(async {
//!             let played = curio::sleep(Duration::from_secs(1000)).await;
//!             if played.as_ref().is_err_and(|error| error.is_cancelled()) {
//!                 println!("Fine. Saving my work.");
//!             }
//!             played.map(drop)
//!         });
//!         let patience = Duration::from_millis(10);
//!         match curio::timeout_after(patience, kid.join()).await {
//!             Err(error) if error.is_timeout() => {
//!                 println!("I warned you!");
//!                 kid.cancel().await?; // returns when the kid has ended
//!             }
//!             other => other?,
//!         }
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # The tour
//!
//! - [`run`], [`Kernel`]: running a program.
//! - [`spawn`], [`Task`], [`TaskRef`], [`current_task`]: tasks.
//! - [`sleep`], [`timeout_after`], [`ignore_after`], [`disable_cancellation`]: time.
//! - [`net`][]: sockets.
//! - [`Error`]: one error type, with predicates.
//! - [`testing`]: a virtual clock and a drawn run order.
//!
//! # Cancellation, in full
//!
//! 1. It is delivered only at a trap that blocks, at most once a request, as an `Err`.
//! 2. An operation that had completed already gives its result, and the cancellation
//!    waits for the next trap that blocks. Nothing that was handed over is lost.
//! 3. The task may handle the error and await further things. Whoever has cancelled it
//!    waits until it has really ended.
//! 4. A timeout is the same, with the clock as the canceller (see [`timeout_after`]).
//! 5. A future that is not Curio's knows nothing of this. If a task is cancelled while it
//!    waits in one, the innermost thing of Curio's around it (a [`timeout_after`], or
//!    the task itself) drops it and ends with the error.
//! 6. Dropping an unfinished future of ours, as `select!`-like combinators do, is
//!    safe: it leaves whatever line it stood in.

#![deny(missing_docs)]

pub mod net;
pub mod testing;

mod error;
mod kernel;
mod task;
mod time;
mod traps;

pub use error::{Cancellation, Error, Result};
pub use kernel::{Builder, Clock, Event, Kernel, Label, Poller, Stopper, TaskInfo, TaskState};
pub use task::{Task, TaskBuilder, TaskRef, current_task, get_all_tasks, spawn};
pub use time::{
    Sleep, check_cancellation, clock, disable_cancellation, ignore_after, sleep, timeout_after,
};

use std::future::Future;

/// Runs `future` as the main task of a new kernel, then shuts the kernel down: tasks
/// that are left are cancelled. Gives the result of `future`.
///
/// # Errors
/// The error that ended `future`. Misuse: a kernel runs in this thread already.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// assert_eq!(curio::run(async { Ok(42) })?, 42);
/// # Ok(())
/// # }
/// ```
pub fn run<T: 'static>(future: impl Future<Output = Result<T>> + 'static) -> Result<T> {
    let mut kernel = Kernel::new()?;
    let result = kernel.run_ended(future);
    kernel.shutdown()?;
    result
}

/// For language bindings: the kernel's parts below the typed surface.
#[doc(hidden)]
pub mod embed {
    pub use crate::error::{ErrorKind, TaskFailure, Timeout};
    pub use crate::kernel::{
        Body, Direction, End, Epoll, Exit, Label, ReadyTrap, Source, Spawn, TaskKey, Until,
        context, current_face, in_foreign_future, is_running, nested, set_own_cancel,
        spawn_body as spawn, take_pending, with_shields,
    };
    pub use crate::time::{TimeoutRegion, Verdict};
    pub use crate::traps::{JoinTrap, SleepTrap, Wait, YieldNow};
}

/// The examples of the two READMEs are run as this crate's.
#[cfg(doctest)]
mod readmes {
    #[doc = include_str!("../../../README.md")]
    struct Project;

    #[doc = include_str!("../README.md")]
    struct Crate;
}
