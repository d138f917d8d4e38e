//! Debuggers: [activations](crate::Activation) that report what tasks do, through the `log`
//! crate, under the target `curio.debug`.
//!
//! # Examples
//!
//! ```
//! use curio::debug::{LongBlock, SchedTrace};
//!
//! # fn main() -> curio::Result<()> {
//! let mut kernel = curio::Kernel::builder()
//!     .activation(SchedTrace)
//!     .activation(LongBlock::new(std::time::Duration::from_millis(50))?)
//!     .build()?;
//! kernel.run(async { curio::sleep(std::time::Duration::from_millis(1)).await })?;
//! # Ok(())
//! # }
//! ```

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::activation::Activation;
use crate::error::Result;
use crate::kernel::TaskInfo;
use crate::task::TaskRef;

/// Reports each turn that a task is given, and why it gave it back, at the level `info`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedTrace;

impl Activation for SchedTrace {
    fn created(&self, task: &TaskRef) {
        log::info!(target: "curio.debug", "CREATE: {task}");
    }

    fn running(&self, task: &TaskRef) {
        log::info!(target: "curio.debug", "RUN: {task}, cycle {}", task.cycles());
    }

    fn suspended(&self, task: &TaskRef) {
        log::info!(target: "curio.debug", "SUSPEND: {task}, {}", task.state());
    }

    fn terminated(&self, task: &TaskRef) {
        log::info!(target: "curio.debug", "TERMINATED: {task}");
    }
}

/// Reports what each task waits for, and the line that awaits it, at the level `info`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrapTrace;

impl Activation for TrapTrace {
    fn suspended(&self, task: &TaskRef) {
        if task.state().is_blocked() {
            let (state, target) = (task.state(), task.info().target());
            match task.info().site() {
                Some(site) => {
                    log::info!(target: "curio.debug", "TRAP: {task}, {state}, {target:?} at {site}");
                }
                None => log::info!(target: "curio.debug", "TRAP: {task}, {state}, {target:?}"),
            }
        }
    }
}

/// Reports a task that keeps the processor too long, while it does, at the level `warn`.
///
/// A thread watches. Where a task of Rust's is while it runs, nobody can tell; the report
/// has the line that it awaited last, and the one that has spawned it.
#[derive(Debug)]
pub struct LongBlock {
    turn: Arc<Mutex<Option<Turn>>>,
    limit: Duration,
    /// Hangs up when the debugger is dropped: the thread ends.
    _end: Sender<()>,
}

#[derive(Debug)]
struct Turn {
    task: Arc<TaskInfo>,
    since: Instant,
    reported: bool,
}

impl LongBlock {
    /// Reports what keeps the processor for more than `limit`.
    ///
    /// # Errors
    /// The system's, when it gives no thread.
    pub fn new(limit: Duration) -> Result<Self> {
        let turn = Arc::new(Mutex::new(None));
        let (end, ended) = channel();
        let watched = turn.clone();
        let watch = move || {
            while ended.recv_timeout(limit / 2) == Err(RecvTimeoutError::Timeout) {
                look(&watched, limit);
            }
        };
        thread::Builder::new().name("curio-longblock".into()).spawn(watch)?;
        Ok(LongBlock { turn, limit, _end: end })
    }
}

fn look(turn: &Mutex<Option<Turn>>, limit: Duration) {
    let mut turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(turn) = turn.as_mut().filter(|turn| !turn.reported) else { return };
    if turn.since.elapsed() > limit {
        turn.reported = true;
        let (task, taken) = (&turn.task, turn.since.elapsed());
        let place = match (task.site(), task.label().site) {
            (Some(site), _) => format!("after {site}"),
            (None, Some(site)) => format!("spawned at {site}"),
            (None, None) => "of the kernel's own".into(),
        };
        let (id, name) = (task.id(), &task.label().name);
        log::warn!(
            target: "curio.debug",
            "task {id} ({name}), {place}, is keeping the processor, for {taken:?} now"
        );
    }
}

impl Activation for LongBlock {
    fn running(&self, task: &TaskRef) {
        let turn = Turn { task: task.info().clone(), since: Instant::now(), reported: false };
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(turn);
    }

    fn suspended(&self, task: &TaskRef) {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(taken) = turn.map(|turn| turn.since.elapsed()) else { return };
        if taken > self.limit {
            log::warn!(target: "curio.debug", "{task} has kept the processor for {taken:?}");
        }
    }
}
