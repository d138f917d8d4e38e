//! What the tests that count the descriptors of the process share.

use std::fs;
use std::path::PathBuf;
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
    let all = fs::read_dir("/proc/self/fd").unwrap();
    let targets = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    targets.filter(|target| !target.starts_with("/proc")).count()
}

/// A folder for sockets, which goes with the test.
#[allow(dead_code, reason = "few files have tests with Unix sockets")]
pub(crate) struct Folder(pub(crate) PathBuf);

#[allow(dead_code, reason = "few files have tests with Unix sockets")]
impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("curio-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
