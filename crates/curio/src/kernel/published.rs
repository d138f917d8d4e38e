//! The tasks of a kernel, as other threads see them.
//!
//! A kernel that somebody may look into from another thread keeps a second list of its
//! tasks, beside its tables: who holds the lock of this one reads [`TaskInfo`]s, which
//! change under the reader's eyes but never break. A kernel that nobody looks into has
//! no such list, and pays a test of a pointer for each spawn.

use std::sync::{Arc, Mutex, PoisonError};

use super::task::{TaskInfo, TaskKey};

/// See the module.
#[derive(Default)]
pub(crate) struct Published {
    /// By the tasks' places in the kernel's table.
    tasks: Mutex<Vec<Option<Arc<TaskInfo>>>>,
}

/// How many tasks are copied under one hold of the lock: the kernel may be waiting for it.
const PORTION: usize = 1024;

impl Published {
    fn tasks<R>(&self, f: impl FnOnce(&mut Vec<Option<Arc<TaskInfo>>>) -> R) -> R {
        // Nothing in here can panic, so the lock is never poisoned in earnest.
        f(&mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn insert(&self, key: TaskKey, info: Arc<TaskInfo>) {
        let index = key.index as usize;
        self.tasks(|tasks| {
            if index >= tasks.len() {
                tasks.resize(index + 1, None);
            }
            tasks[index] = Some(info);
        });
    }

    pub(super) fn remove(&self, key: TaskKey) {
        // Dropped after the lock is free.
        let _info = self.tasks(|tasks| tasks.get_mut(key.index as usize)?.take());
    }

    /// The tasks that have not ended, by id. Any thread.
    pub(crate) fn list(&self) -> Vec<(TaskKey, Arc<TaskInfo>)> {
        let mut list = Vec::new();
        let mut start = 0;
        loop {
            let more = self.tasks(|tasks| {
                let portion = tasks.iter().enumerate().skip(start).take(PORTION);
                list.extend(portion.filter_map(|(index, info)| {
                    let info = info.clone()?;
                    let key = TaskKey { index: index as u32, serial: info.id() as u32 };
                    Some((key, info))
                }));
                start += PORTION;
                start < tasks.len()
            });
            if !more {
                break;
            }
        }
        list.sort_unstable_by_key(|(_, info)| info.id());
        // One that has ended, and whose place was taken again, between two portions is not there
        // twice: ids are unique, and a place is visited once.
        list
    }

    /// How many tasks there are. Any thread.
    pub(crate) fn count(&self) -> usize {
        self.tasks(|tasks| tasks.iter().flatten().count())
    }
}
