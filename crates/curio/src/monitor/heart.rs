//! The heartbeat: how other threads know that a kernel's loop is alive.
//!
//! A daemon task in the kernel notes the time ten times a second. If the last note is old, and
//! one and the same task is running all the while, that task does not let go of the processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::look::Look;
use crate::kernel::{Clock, End, MonotonicClock, TaskState};

/// The name of the monitor's task.
pub(super) const NAME: &str = "Monitor.monitor_task";

const ROUND: Duration = Duration::from_millis(100);

/// How late a beat may be.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a task that is to be called busy is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Default)]
pub(super) struct Heart {
    /// The machine's time at the last beat; 0 while there is no task that beats.
    beat: AtomicU64,
    stopped: AtomicBool,
}

impl Heart {
    /// The task is to end when it wakes next.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// A task that keeps the kernel from its loop, in a sentence.
    pub(super) fn complaint(&self, look: &Look<'_>) -> Option<String> {
        let beat = self.late()?;
        let running = || look.tasks().iter().find(|task| task.info.state() == TaskState::Running);
        let task = running()?;
        let cycles = task.info.cycles();
        // A kernel that starts to run again after a while has an old beat, too.
        thread::sleep(GLANCE);
        if self.late()? != beat
            || task.info.state() != TaskState::Running
            || task.info.cycles() != cycles
        {
            return None;
        }
        let silence = Duration::from_nanos(MonotonicClock.now().saturating_sub(beat));
        Some(format!(
            "The kernel has not been in its loop for {:.1} s: {} is running",
            silence.as_secs_f64(),
            look.who(task)
        ))
    }

    /// The last beat, if it was too long ago.
    fn late(&self) -> Option<u64> {
        let beat = self.beat.load(Relaxed);
        let silence = Duration::from_nanos(MonotonicClock.now().saturating_sub(beat));
        (beat != 0 && silence > PATIENCE).then_some(beat)
    }
}

/// The body of the monitor's task.
pub(super) async fn monitor_task(heart: Arc<Heart>) -> End {
    let beating = Beating(heart);
    while !beating.0.stopped.load(Relaxed) {
        beating.0.beat.store(MonotonicClock.now(), Relaxed);
        if let Err(error) = crate::sleep(ROUND).await {
            return if error.is_cancelled() { End::Cancelled } else { End::Failed };
        }
    }
    End::Returned
}

/// However the task ends, nobody is to wait for its next beat.
struct Beating(Arc<Heart>);

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.beat.store(0, Relaxed);
    }
}
