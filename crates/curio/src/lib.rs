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
//! - [`TaskGroup`]: tasks that end together.
//! - [`sleep`], [`timeout_after`], [`ignore_after`], [`disable_cancellation`]: time.
//! - [`net`][]: sockets, [servers](net::serve), other people's descriptors, TLS; [`Stream`]: lines and
//!   blocks over them.
//! - [`sched`]: what primitives of one's own are made of.
//! - [`run_in_thread`]: what blocks, and what takes long.
//! - [`process`]: child processes.
//! - [`universal`]: queues, channels and events between kernels, threads and other executors.
//! - [`monitor`]: looking into a program while it runs, or hangs.
//! - [`Error`]: one error type, with predicates.
//! - [`testing`]: a virtual clock, a drawn run order, a simulated network, interruptions everywhere.
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

pub mod debug;
pub mod monitor;
pub mod net;
pub mod process;
pub mod sched;
pub mod signal;
pub mod sync;
pub mod testing;
pub mod universal;

mod activation;
mod error;
mod group;
mod kernel;
mod queue;
mod stream;
mod task;
mod time;
mod traps;
mod worker;

pub use activation::Activation;
pub use error::{Cancellation, Error, Result};
pub use group::{TaskGroup, WaitFor};
pub use kernel::{
    Builder, Clock, Event, Kernel, Label, Poller, StateName, Stopper, Target, TaskInfo, TaskState,
};
pub use queue::{LifoQueue, PriorityQueue, Queue, RawQueue, Unsent};
pub use signal::SignalSet;
pub use stream::{LINE_LIMIT, Stream, Transport};
pub use task::{Task, TaskBuilder, TaskRef, current_task, get_all_tasks, spawn};
pub use time::{
    Sleep, check_cancellation, clock, disable_cancellation, ignore_after, ignore_at, sleep,
    sleep_until, timeout_after, timeout_at,
};
pub use worker::{is_abandoned, run_in_thread};

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
#[track_caller]
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
    pub use crate::group::{Ended, Group, Member, Until as GroupUntil};
    pub use crate::kernel::{
        Body, Direction, End, Epoll, Exit, Label, Locator, ReadyTrap, Source, Spawn, TaskKey,
        Until, context, current_face, in_foreign_future, is_running, nested, set_own_cancel,
        spawn_body as spawn, take_pending, with_shields,
    };
    pub use crate::monitor::{Address, Frame, Inspector, Seen, Stack};
    pub use crate::net::{Acceptor, ConnectOptions, Lent, connect_any};
    pub use crate::process::ended;
    pub use crate::queue::{Container, Fifo, Lifo, RawQueue, Unsent};
    pub use crate::signal::{Handlers, Pipe};
    pub use crate::stream::{Input, Link, Reader};
    pub use crate::sync::{Held, RawLock, TurnTrap};
    pub use crate::time::{TimeoutRegion, Verdict};
    pub use crate::traps::{JoinTrap, SleepTrap, Wait, YieldNow};
    pub use crate::worker::{Completer, Completion, Outside, Pool, completion, name_thread};
}

/// The examples of the two READMEs and of the guides are run as this crate's.
#[cfg(doctest)]
mod readmes {
    #[doc = include_str!("../../../README.md")]
    struct Project;

    #[doc = include_str!("../README.md")]
    struct Crate;

    #[doc = include_str!("../../../docs/cancelling.md")]
    struct Cancelling;

    #[doc = include_str!("../../../docs/groups.md")]
    struct Groups;

    #[doc = include_str!("../../../docs/primitives.md")]
    struct Primitives;

    #[doc = include_str!("../../../docs/subprocesses.md")]
    struct Subprocesses;

    #[doc = include_str!("../../../docs/testing.md")]
    struct Testing;

    #[doc = include_str!("../../../docs/tutorial.md")]
    struct Tutorial;

    #[doc = include_str!("../../../docs/universal.md")]
    struct Universal;

    #[doc = include_str!("../../../docs/workers.md")]
    struct Workers;
}
