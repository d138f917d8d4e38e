//! Who works outside of the kernels' threads: threads of pools, and a binding's processes.
//!
//! A worker says what it begins and that it has ended, whether anybody looks or not: two short
//! turns under a lock of its own. So it can be listed while no kernel and no interpreter runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the monitor sees of a worker, for as long as this lives.
pub struct Seen {
    number: u64,
    entry: Arc<Entry>,
}

struct Entry {
    name: String,
    /// A forked child has none of its parent's workers.
    process: u32,
    work: Mutex<Option<(String, Instant)>>,
}

/// A worker as it is at a moment: its name, and what it has been doing for how long.
pub(super) type Glimpse = (String, Option<(String, Duration)>);

#[derive(Default)]
struct All {
    last: u64,
    entries: BTreeMap<u64, Arc<Entry>>,
}

static ALL: Mutex<Option<All>> = Mutex::new(None);

/// Nothing under these locks can panic, so they are never poisoned in earnest.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seen {
    /// A worker that has nothing to do yet.
    pub fn new(name: impl Into<String>) -> Seen {
        let entry =
            Entry { name: name.into(), process: std::process::id(), work: Mutex::default() };
        let entry = Arc::new(entry);
        let mut all = lock(&ALL);
        let all = all.get_or_insert_default();
        all.last += 1;
        all.entries.insert(all.last, entry.clone());
        Seen { number: all.last, entry }
    }

    /// It begins with `work`.
    pub fn begin(&self, work: impl Into<String>) {
        *lock(&self.entry.work) = Some((work.into(), Instant::now()));
    }

    /// It has nothing to do any more.
    pub fn end(&self) {
        *lock(&self.entry.work) = None;
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if let Some(all) = &mut *lock(&ALL) {
            all.entries.remove(&self.number);
        }
    }
}

/// All there are in this process, the oldest first.
pub(super) fn all() -> Vec<Glimpse> {
    let process = std::process::id();
    let entries: Vec<_> = match &*lock(&ALL) {
        Some(all) => all.entries.values().cloned().collect(),
        None => Vec::new(),
    };
    let ours = entries.iter().filter(|entry| entry.process == process);
    ours.map(|entry| {
        let work = lock(&entry.work).clone();
        (entry.name.clone(), work.map(|(what, since)| (what, since.elapsed())))
    })
    .collect()
}
