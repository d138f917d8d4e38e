//! Moments in which no session is in the middle of an answer.
//!
//! A process that forks has, in the child, the forking thread alone; a lock that another one holds
//! at that moment stays held in the child for ever. A session takes locks while it answers: the
//! kernel's list of tasks, the table of primitives, a binding's interpreter. So whoever forks
//! asks for quiet first.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// Held for reading by sessions that answer.
static ANSWERING: RwLock<()> = RwLock::new(());

/// How long to wait: a client that does not read may hold up its answer.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn answering() -> RwLockReadGuard<'static, ()> {
    ANSWERING.read().unwrap_or_else(PoisonError::into_inner)
}

/// While this lives, no session answers.
#[doc(hidden)]
#[must_use = "sessions answer again when it is dropped"]
pub struct Quiet {
    _guard: RwLockWriteGuard<'static, ()>,
}

/// Waits until no session is in the middle of an answer, and keeps them from the next. `None` if
/// that takes too long.
#[doc(hidden)]
pub fn quiet() -> Option<Quiet> {
    let start = Instant::now();
    loop {
        match ANSWERING.try_write() {
            Ok(guard) => return Some(Quiet { _guard: guard }),
            Err(TryLockError::Poisoned(guard)) => {
                return Some(Quiet { _guard: guard.into_inner() });
            }
            Err(TryLockError::WouldBlock) if start.elapsed() > PATIENCE => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_micros(100)),
        }
    }
}
