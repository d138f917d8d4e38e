//! What tasks do and wait for, in words.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write;

use super::deadlock;
use super::descriptor::Descriptor;
use super::look::{Look, Moment, Task};
use crate::kernel::{Target, TaskState};
use crate::sync::{Kind, Resource};

/// How many tasks are named where any number could be.
const NAMED: usize = 8;

/// How far a chain of waiting tasks is followed.
pub(super) const LONGEST_CHAIN: usize = 100;

/// A text that cannot break a line, nor move a terminal's cursor.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let escape =
        |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(escape).collect::<String>().into()
}

/// A sentence's first letter.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Why a task is where it is: what it waits for, and what that waits for, and so on.
pub(super) fn why(look: &Look<'_>, task: &Task) -> Vec<String> {
    let mut lines = vec![first_line(look, task)];
    lines.extend(cancellation(look, task).map(|words| format!("  It was {words}")));
    let mut seen = HashSet::from([task.info.id()]);
    let mut moment = task.moment();
    while let Some(next) = moment.task() {
        if !seen.insert(next) {
            lines
                .extend(deadlock::from(look, next).map(|cycle| format!("  {}", cycle.words(look))));
            break;
        }
        if seen.len() > LONGEST_CHAIN {
            lines.push("  and so on".into());
            break;
        }
        let Some(task) = look.find(next) else { break };
        let holds = if moment.state == TaskState::LockAcquire { "holds it, and " } else { "" };
        moment = task.moment();
        lines.push(format!("  {} {holds}{}", look.who(task), doing(look, task, moment)));
    }
    lines
}

/// The first line of [`why`].
pub(super) fn first_line(look: &Look<'_>, task: &Task) -> String {
    let moment = task.moment();
    let mut line = sentence(&look.who(task));
    let _ = write!(line, " {}", doing(look, task, moment));
    if moment.state.is_blocked() {
        line.push_str(&details(look, task, moment));
        if let Some(deadline) = task.info.timeout() {
            let _ = write!(line, "; its timeout comes in {:.3} s", look.until(deadline));
        }
    }
    line
}

/// What a task does, as the rest of a sentence about it.
pub(super) fn doing(look: &Look<'_>, task: &Task, moment: Moment) -> String {
    match moment.state {
        TaskState::Initial => "has not run yet".into(),
        TaskState::Ready => "is ready, and waits for its turn to run".into(),
        TaskState::Running => "is running".into(),
        TaskState::Terminated => "has ended".into(),
        TaskState::TimeSleep => match task.info.sleep() {
            Some(deadline) => format!("is sleeping for another {:.3} s", look.until(deadline)),
            None => "is sleeping".into(),
        },
        _ => format!("is waiting for {}", awaited(look, moment)),
    }
}

/// What a blocked task waits for, as what follows `waits for`.
pub(super) fn awaited(look: &Look<'_>, moment: Moment) -> String {
    match moment.target {
        Target::Task(id) => format!("the end of {}", by_id(look, id)),
        Target::Descriptor(fd) if moment.state == TaskState::WriteWait => {
            format!("descriptor {fd} to be writable")
        }
        Target::Descriptor(fd) => format!("descriptor {fd} to be readable"),
        Target::Resource(id) => match moment.resource() {
            Some(resource) => turn(look, &resource, moment.state),
            None => format!("a primitive ({id}) that is no more"),
        },
        Target::Nothing if moment.state == TaskState::TimeSleep => "its time".into(),
        Target::Nothing if moment.state == TaskState::SignalWait => "a signal".into(),
        Target::Nothing => "something that is not Curio's (a foreign future)".into(),
    }
}

/// What a primitive gives to those who wait for it.
fn turn(look: &Look<'_>, resource: &Resource, state: TaskState) -> String {
    match resource.kind() {
        Kind::Lock | Kind::RLock => match resource.owner() {
            Some(owner) => format!("{resource}, held by {}", by_id(look, owner)),
            None => format!("{resource}, which no task holds"),
        },
        Kind::Semaphore => format!("a permit of {resource}"),
        Kind::Condition => format!("a notification of {resource}"),
        Kind::SignalSet => format!("a signal of {resource}"),
        Kind::Queue | Kind::UniversalQueue => match state {
            TaskState::QueuePut => format!("room in {resource}"),
            TaskState::QueueJoin => format!("all items of {resource} to be done"),
            _ => format!("an item of {resource}"),
        },
        Kind::Event | Kind::Result | Kind::UniversalEvent | Kind::UniversalResult => {
            format!("{resource} to be set")
        }
        Kind::TaskGroup => format!("the end of a task of {resource}"),
        Kind::Sched => format!("{resource} to wake it ({state})"),
    }
}

/// A task that another one waits for.
fn by_id(look: &Look<'_>, id: u64) -> String {
    match look.find(id) {
        Some(task) => look.who(task),
        None => format!("task {id}, which has ended or is another kernel's"),
    }
}

/// What else can be said of a blocked task.
fn details(look: &Look<'_>, task: &Task, moment: Moment) -> String {
    match moment.target {
        Target::Descriptor(fd) => format!(" ({})", plain(&Descriptor::of(fd).to_string())),
        Target::Resource(_) => match moment.resource() {
            Some(resource) => {
                figures(look, &resource) + &company(look, task, &resource, moment.state)
            }
            None => String::new(),
        },
        Target::Task(_) | Target::Nothing => String::new(),
    }
}

/// What a primitive has to give, or where it was taken.
fn figures(look: &Look<'_>, resource: &Resource) -> String {
    let figures = resource.statistics();
    let limit = match figures.capacity {
        0 => String::new(),
        capacity => format!(" of {capacity}"),
    };
    match resource.kind() {
        Kind::Lock | Kind::RLock => taken(look, resource).unwrap_or_default(),
        Kind::Semaphore => format!(" ({}{limit} permits left)", figures.level),
        Kind::Queue | Kind::UniversalQueue => format!(" ({}{limit} items)", figures.level),
        Kind::TaskGroup => format!(" ({} left)", tasks(figures.level)),
        Kind::Event | Kind::Condition | Kind::SignalSet | Kind::Result | Kind::Sched => {
            String::new()
        }
        Kind::UniversalEvent | Kind::UniversalResult => String::new(),
    }
}

fn taken(look: &Look<'_>, lock: &Resource) -> Option<String> {
    let (owner, site) = (look.find(lock.owner()?)?, lock.held_at()?);
    // Of another language, it would be a line of the binding's.
    (!look.is_bound(owner)).then(|| format!(", taken at {}:{}", site.file(), site.line()))
}

/// Who else waits for the same primitive.
fn company(look: &Look<'_>, task: &Task, resource: &Resource, state: TaskState) -> String {
    use TaskState::{EventWait, QueueGet, QueueJoin, QueuePut};
    let line = look.line(resource.id(), state);
    let place = line.iter().position(|(_, place)| look.tasks()[*place].info.id() == task.info.id());
    let mut text = match (state, place) {
        // All of these are served at once.
        (EventWait | QueueJoin, _) => match line.len() {
            0 | 1 => String::new(),
            count => format!("; {} in all wait for that", tasks(count)),
        },
        // The others one by one.
        (_, Some(0)) => "; it is the first in line".into(),
        (_, Some(place)) => format!("; before it in line: {}", list(look, &line[..place])),
        (_, None) => String::new(),
    };
    for (other, what) in
        [(QueueGet, "an item"), (QueuePut, "room"), (QueueJoin, "all items to be done")]
    {
        let line = look.line(resource.id(), other);
        if other != state && !line.is_empty() {
            let _ = write!(text, "; waiting for {what}: {}", list(look, line));
        }
    }
    text
}

fn tasks(count: usize) -> String {
    if count == 1 { "1 task".into() } else { format!("{count} tasks") }
}

/// The first few of them, and how many more there are.
fn list(look: &Look<'_>, line: &[(u64, usize)]) -> String {
    let named = line.iter().take(NAMED).map(|(_, place)| look.who(&look.tasks()[*place]));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if line.len() > NAMED {
        let _ = write!(text, " and {} more", line.len() - NAMED);
    }
    text
}

/// Who wants a task to end, and since when.
pub(super) fn cancellation(look: &Look<'_>, task: &Task) -> Option<String> {
    let cancellation = task.info.cancellation()?;
    let binding = look.inspector().and_then(|inspector| inspector.describe(cancellation));
    let words = binding.unwrap_or_else(|| cancellation.to_string());
    let ago = look.since(task.info.cancelled_at().unwrap_or(look.now()));
    Some(format!("{}, {ago:.3} s ago", plain(&words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_in_their_line() {
        assert_eq!(plain("kid"), "kid");
        assert_eq!(plain("münze"), "münze");
        assert_eq!(plain("a\nb\x1b[2Jc"), "a\\nb\\u{1b}[2Jc");
    }
}
