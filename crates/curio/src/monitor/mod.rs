//! The monitor: looking into a program while it runs, or hangs.
//!
//! A kernel that was built with [`Builder::monitor`](crate::Builder::monitor) can be asked, from
//! another terminal, for its tasks (`ps`, `tree`), where each of them is (`where`), what it waits
//! for and who has that (`why`, `deadlock`), which threads work for them (`workers`), and to cancel
//! one (`cancel`). `python3 -m curio.monitor` finds the program; anything that can talk to a Unix
//! socket will do, `help` says the rest. [`dump`] tells the same of a kernel that is not running.
//!
//! # How it works
//!
//! ```text
//!   kernel's thread                        the monitor's threads
//!
//!   tasks ──▶ TaskInfo, Resource ────────▶ look ──▶ words, JSON ──▶ session ──▶ client
//!   monitor_task ──▶ heart ──────────────▶   ▲                         │
//!   wake door ◀── cancel ────────────────────┼─────────────────────────┘
//!                                            └── Inspector: what a language binding knows
//! ```
//!
//! A *server* listens for one kernel, in a *place* where only its user can come, and gives each
//! client a thread for its *session*, which reads commands and answers them. It answers from
//! what the kernel publishes: a list of its tasks, and of each what any thread may read. So it
//! answers while the kernel is busy, hung or between two runs. One task in the kernel,
//! `Monitor.monitor_task`, is the *heart*beat that tells a loop that is alive.
//!
//! What must stay true:
//!
//! 1. It observes. Two commands do more, and only when asked: `cancel`, by the wake door, and
//!    `signal`, by the system.
//! 2. What it sees changes while it looks. Each value is whole, two together need not fit. So
//!    nothing is taken for granted, every walk has an end, and what would be a false alarm if it
//!    were read askew (a deadlock, a busy kernel) is looked at twice.
//! 3. No thread of the monitor's holds a lock while it waits for a client or a binding. And none
//!    of them logs: a logger may want an interpreter's lock, which the kernel's thread may be
//!    holding while it waits for their end.
//! 4. When a kernel is shut down or dropped, its monitor's clients see the end of the stream, and
//!    nothing is left of it. In a forked child, the monitor is the parent's, and is left alone.
//!
//! It is not for measuring, and not a remote control: on the Unix socket the system says who
//! may come; on a TCP port, which is there on request alone, nobody asks.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

mod commands;
mod deadlock;
mod descriptor;
mod heart;
mod json;
mod look;
mod place;
mod quiet;
mod server;
mod session;
mod signals;
mod stack;
mod words;
mod workers;

use crate::error::Cancellation;
use crate::kernel::{Kernel, TaskKey};

#[doc(hidden)]
pub use quiet::{Quiet, quiet};
#[doc(hidden)]
pub use workers::Seen;

pub(crate) use commands::{ask, report};
pub(crate) use server::start;

/// What a language binding knows of its tasks, for the monitor.
///
/// Called by threads of the monitor's at any time, also while the kernel is busy or asleep, and
/// perhaps for a moment after the monitor was stopped, which does not wait for a binding. The
/// last reference may be dropped by such a thread too.
#[doc(hidden)]
pub trait Inspector: Send + Sync {
    /// The name of each of these tasks; `None` for those that are not the binding's, or are gone.
    fn names(&self, tasks: &[TaskKey]) -> Vec<Option<String>>;

    /// Where a task is; `None` if it is not the binding's, or is gone.
    fn stack(&self, task: TaskKey) -> Option<Stack>;

    /// A cancellation in words, if the binding has made it.
    fn describe(&self, cancellation: &Cancellation) -> Option<String>;
}

/// Where a task of a language binding is.
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// The task, as the language shows it.
    pub repr: String,
    /// Its calls, outermost first.
    pub frames: Vec<Frame>,
}

/// One line of a [`Stack`].
#[doc(hidden)]
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The file, as the language names it.
    pub file: String,
    /// The line's number, from 1.
    pub line: u32,
    /// The function.
    pub function: String,
    /// The line itself, if it could be had.
    pub source: Option<String>,
}

/// Where a monitor is to listen.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// On a Unix socket in the user's own directory.
    Unix,
    /// On a TCP port, for whoever can reach it.
    Tcp(SocketAddr),
}

/// A monitor that listens; see [`Builder::monitor`](crate::Builder::monitor).
///
/// It belongs to its kernel, with which it ends. Clones are the same monitor.
#[derive(Clone)]
pub struct Monitor(Arc<server::Server>);

impl Monitor {
    /// Its socket, if that is one of the file system's.
    pub fn path(&self) -> Option<&Path> {
        self.0.path()
    }

    /// Its address, if it listens on a TCP port.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.0.tcp_address()
    }

    /// Ends all sessions, and listens no more. A second call does nothing.
    pub fn stop(&self) {
        self.0.stop();
    }

    /// Whether it was stopped, or its kernel has ended.
    pub fn is_stopped(&self) -> bool {
        self.0.is_stopped()
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Monitor");
        out.field("path", &self.path()).field("tcp_address", &self.tcp_address()).finish()
    }
}

/// All that the monitor would tell about a kernel that is not running now: its tasks, where each
/// is and why, deadlocks, and who was cancelled and has not ended.
///
/// For a program whose kernel has returned from a run with tasks left.
///
/// # Examples
///
/// ```
/// use curio::testing::virtual_kernel;
///
/// let mut kernel = virtual_kernel();
/// // It waits for what nobody sends: a virtual kernel says so instead of hanging.
/// let queue = curio::Queue::<u32>::unbounded();
/// assert!(kernel.run(async move { queue.get().await }).is_err());
///
/// let report = curio::monitor::dump(&kernel);
/// assert!(report.contains("QUEUE_GET"));
/// assert!(report.contains("is waiting for an item of Queue"));
/// assert!(report.contains("No deadlock"));
/// ```
pub fn dump(kernel: &Kernel) -> String {
    let mut out = Vec::new();
    kernel.dump(&mut out).expect("a vector takes everything");
    String::from_utf8_lossy(&out).into_owned()
}
