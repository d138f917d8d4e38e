//! One look at a kernel: its tasks, as they were at a moment, and who waits for what.
//!
//! The list of tasks is taken once for each command. What is in it goes on: a task's state may be
//! another at the next reading, and the task may be gone.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering::SeqCst, fence};

use super::stack::Sources;
use super::{Inspector, words};
use crate::kernel::{Target, TaskInfo, TaskKey, TaskState, View};
use crate::sync::Resource;

/// How many tasks a binding is asked for at once: it may have to hold up its program meanwhile.
pub(super) const PORTION: usize = 1024;

/// By primitive and state: those who wait, by their turns and places among the tasks.
type Lines = HashMap<(u64, u8), Vec<(u64, usize)>>;

/// One of the tasks.
pub(super) struct Task {
    pub(super) key: TaskKey,
    pub(super) info: Arc<TaskInfo>,
}

/// What a task does at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) state: TaskState,
    pub(super) target: Target,
    /// Who came earlier into the line for the same thing has a smaller one.
    pub(super) turn: u64,
}

/// See the module.
pub(super) struct Look<'a> {
    inspector: Option<&'a dyn Inspector>,
    /// The kernel's clock, at the beginning.
    now: u64,
    /// By id.
    tasks: Vec<Task>,
    /// Made when it is first asked for.
    lines: OnceCell<Lines>,
    sources: RefCell<Sources>,
}

impl Task {
    pub(super) fn moment(&self) -> Moment {
        let read = || Moment {
            state: self.info.state(),
            target: self.info.target(),
            turn: self.info.blocked(),
        };
        let mut moment = read();
        // The parts fit if they are found the same twice. A task that is never found so goes on
        // all the time, and any of its moments is as good as another.
        for _ in 0..8 {
            fence(SeqCst);
            let again = read();
            if again == moment {
                break;
            }
            moment = again;
        }
        moment
    }
}

impl Moment {
    /// The primitive that is waited for.
    pub(super) fn resource(&self) -> Option<Arc<Resource>> {
        match self.target {
            Target::Resource(id) if self.state.is_blocked() => Resource::find(id),
            _ => None,
        }
    }

    /// The task whose end, or whose release, is waited for.
    pub(super) fn task(&self) -> Option<u64> {
        match self.target {
            Target::Task(id) if self.state == TaskState::TaskJoin => Some(id),
            Target::Resource(_) if self.state == TaskState::LockAcquire => self.resource()?.owner(),
            _ => None,
        }
    }
}

impl<'a> Look<'a> {
    pub(super) fn new(view: &View, inspector: Option<&'a dyn Inspector>, now: u64) -> Self {
        let tasks = view.tasks().into_iter().map(|(key, info)| Task { key, info }).collect();
        Look { inspector, now, tasks, lines: OnceCell::new(), sources: RefCell::default() }
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    pub(super) fn inspector(&self) -> Option<&'a dyn Inspector> {
        self.inspector
    }

    /// A source file's line.
    pub(super) fn source(&self, file: &str, line: u32) -> Option<String> {
        self.sources.borrow_mut().line(file, line)
    }

    pub(super) fn find(&self, id: u64) -> Option<&Task> {
        let place = self.tasks.binary_search_by_key(&id, |task| task.info.id()).ok()?;
        let task = &self.tasks[place];
        (!task.info.terminated()).then_some(task)
    }

    /// The names of a few tasks.
    pub(super) fn names<'t>(&self, tasks: &'t [Task]) -> Vec<Cow<'t, str>> {
        let keys: Vec<_> = tasks.iter().map(|task| task.key).collect();
        let mut names = self.inspector.map(|inspector| inspector.names(&keys)).unwrap_or_default();
        names.resize(tasks.len(), None);
        let label = |task: &'t Task| words::plain(&task.info.label().name);
        tasks
            .iter()
            .zip(names)
            .map(|(task, name)| match name {
                Some(name) => words::plain(&name).into_owned().into(),
                None => label(task),
            })
            .collect()
    }

    pub(super) fn name<'t>(&self, task: &'t Task) -> Cow<'t, str> {
        self.names(std::slice::from_ref(task)).swap_remove(0)
    }

    /// Whether a task is a language binding's.
    pub(super) fn is_bound(&self, task: &Task) -> bool {
        let names = self.inspector.map(|inspector| inspector.names(&[task.key]));
        names.is_some_and(|names| matches!(names[..], [Some(_)]))
    }

    /// A task, as sentences call it.
    pub(super) fn who(&self, task: &Task) -> String {
        let (id, name) = (task.info.id(), self.name(task));
        if name.is_empty() { format!("task {id}") } else { format!("task {id} ({name})") }
    }

    /// Those who wait for a primitive in that state, first come first.
    pub(super) fn line(&self, resource: u64, state: TaskState) -> &[(u64, usize)] {
        let lines = self.lines.get_or_init(|| self.all_lines());
        lines.get(&(resource, state.pack())).map_or(&[], Vec::as_slice)
    }

    fn all_lines(&self) -> Lines {
        let mut lines = Lines::new();
        for (place, task) in self.tasks.iter().enumerate() {
            let Moment { state, target, turn } = task.moment();
            if let Target::Resource(resource) = target
                && state.is_blocked()
            {
                lines.entry((resource, state.pack())).or_default().push((turn, place));
            }
        }
        lines.values_mut().for_each(|line| line.sort_unstable());
        lines
    }

    /// Seconds until the nearest of a task's own deadlines.
    pub(super) fn deadline(&self, info: &TaskInfo) -> Option<f64> {
        let deadlines = info.sleep().into_iter().chain(info.timeout());
        deadlines.min().map(|deadline| self.until(deadline))
    }

    /// Seconds until that time of the kernel's clock; 0 if it has passed.
    pub(super) fn until(&self, time: u64) -> f64 {
        seconds(time.saturating_sub(self.now))
    }

    /// Seconds since that time of the kernel's clock.
    pub(super) fn since(&self, time: u64) -> f64 {
        seconds(self.now.saturating_sub(time))
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
