//! What the tests that count the descriptors of the process share.

use std::sync::{Mutex, MutexGuard, PoisonError};

static ALONE: Mutex<()> = Mutex::new(());

/// Keeps the other tests that count from running while the guard lives.
#[allow(dead_code, reason = "not each file that counts has tests that do so side by side")]
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The open descriptors of the process, but those under `/proc`: the C library reads files there of
/// its own accord, at any time.
pub(crate) fn descriptors() -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = all.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| !target.starts_with("/proc")).count()
}
