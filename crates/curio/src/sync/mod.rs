//! Synchronization: events, locks, semaphores, conditions.
//!
//! They work as those of threads do, with `await`. All of them serve tasks in the order in
//! which they came, and hand over directly: what is released goes to the first in line, and
//! no newcomer overtakes. A task that is cancelled or timed out while it waits leaves no
//! trace; what it was being handed goes to the next.
//!
//! A primitive belongs to no kernel, and may be made before there is one; but the tasks that
//! wait for it at one time are of one kernel. Waking another task does not switch to
//! it, except for [`Event::set`].
//!
//! All of them are made of [lines](line).

mod condition;
mod event;
mod line;
mod lock;
mod resource;
mod semaphore;

pub use condition::{Condition, Held};
pub use event::Event;
pub use line::TurnTrap;
pub(crate) use line::{ALL, Line, Rule};
pub use lock::{Guard, Lock, RLock, RawLock};
#[doc(hidden)]
pub use resource::Watch;
pub use resource::{Kind, Resource, Statistics};
pub use semaphore::{Permit, Semaphore};

use crate::error::Error;

/// The error of a task that releases what it does not hold.
fn not_held(resource: &Resource, task: u64) -> Error {
    let whose = match (resource.owner(), resource.held_at()) {
        (None, _) => "nobody holds it".into(),
        (Some(owner), None) => format!("task {owner} holds it"),
        (Some(owner), Some(at)) => {
            format!("task {owner} holds it, since {}:{}", at.file(), at.line())
        }
    };
    let who = if task == 0 { "code outside of a task".into() } else { format!("task {task}") };
    Error::misuse(format!("{who} has released {resource}, which it does not hold: {whose}"))
}
