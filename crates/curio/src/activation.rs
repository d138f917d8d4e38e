//! Activations: being told of what happens to tasks.
//!
//! An activation observes a kernel from inside, in its thread: it is called when a task is
//! created, given the processor, suspended, and when it has ended. No borrow of the
//! kernel's is held meanwhile, so it may look at anything. It cannot change what the
//! kernel does; a panic in it is reported, and that is all. A kernel without activations pays
//! a test of a length for each resumption.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::kernel::{Core, End};
use crate::task::TaskRef;

/// What can be observed. Each method does nothing unless it is written.
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// struct Count(Rc<Cell<u32>>);
///
/// impl curio::Activation for Count {
///     fn created(&self, _task: &curio::TaskRef) {
///         self.0.set(self.0.get() + 1);
///     }
/// }
///
/// # fn main() -> curio::Result<()> {
/// let count = Rc::new(Cell::new(0));
/// let mut kernel = curio::Kernel::builder().activation(Count(count.clone())).build()?;
/// kernel.run(async { curio::spawn(async { Ok(()) }).join().await })?;
/// assert_eq!(count.get(), 2);
/// # Ok(())
/// # }
/// ```
pub trait Activation {
    /// A task was made. It has not run.
    fn created(&self, task: &TaskRef) {
        let _ = task;
    }

    /// A task is about to be resumed.
    fn running(&self, task: &TaskRef) {
        let _ = task;
    }

    /// A task has given the processor back: its [`state`](TaskRef::state) says why.
    fn suspended(&self, task: &TaskRef) {
        let _ = task;
    }

    /// A task has ended, after it was suspended for the last time.
    fn terminated(&self, task: &TaskRef) {
        let _ = task;
    }
}

impl Core {
    /// Tells the activations something.
    pub(crate) fn tell(&self, what: impl Fn(&dyn Activation)) {
        let all = (0..).map_while(|number| self.activation(number));
        for activation in all {
            if catch_unwind(AssertUnwindSafe(|| what(&*activation))).is_err() {
                log::error!(target: "curio::kernel", "an activation has panicked");
            }
        }
    }

    pub(crate) fn tell_suspended(&self, task: &TaskRef, end: Option<End>) {
        self.tell(|activation| activation.suspended(task));
        if end.is_some() {
            self.tell(|activation| activation.terminated(task));
        }
    }
}
