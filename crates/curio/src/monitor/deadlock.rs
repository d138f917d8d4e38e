//! Deadlocks: tasks that wait for each other in a circle.
//!
//! A task that joins waits for one task; one that acquires a lock, for the owner. So at most one
//! arrow leaves each task, and a circle is found by following the arrows until one comes back.
//!
//! A task that waits for several things at once, through a combinator, shows the last of them.
//!
//! What is read here changes meanwhile, and a circle may be made of arrows that were never there
//! at the same time. So each is looked at once more. A task that is still in the same blocking has
//! not run in between; if that is true of all of them, all the arrows were there at one moment,
//! and nobody in the circle can do anything about it. What could end it is a timeout of one of
//! them, which is named, or a cancellation.

use std::collections::HashMap;

use super::look::{Look, Moment};
use super::words;

/// Tasks each of which waits for the next, and the last one for the first.
pub(super) struct Cycle(Vec<(u64, Moment)>);

/// All circles.
pub(super) fn all(look: &Look<'_>) -> Vec<Cycle> {
    // By task: the walk that has come by first.
    let mut seen: HashMap<u64, u64> = HashMap::new();
    let mut cycles = Vec::new();
    for start in look.tasks() {
        let walk = start.info.id();
        let mut id = walk;
        while !seen.contains_key(&id) {
            seen.insert(id, walk);
            match next(look, id) {
                Some((_, next)) => id = next,
                None => break,
            }
            if seen.get(&id) == Some(&walk) {
                cycles.extend(from(look, id));
            }
        }
    }
    cycles.sort_by_key(|cycle| cycle.0[0].0);
    cycles
}

/// The circle that a task is in, if it is in one.
pub(super) fn from(look: &Look<'_>, start: u64) -> Option<Cycle> {
    let mut tasks = Vec::new();
    let mut id = start;
    loop {
        let (moment, next) = next(look, id)?;
        tasks.push((id, moment));
        id = next;
        if id == start {
            break;
        }
        // The arrows have changed, and lead into another circle.
        if tasks.len() > look.tasks().len() {
            return None;
        }
    }
    if !tasks.iter().all(|(id, moment)| still(look, *id, *moment)) {
        return None;
    }
    let first = (0..tasks.len()).min_by_key(|place| tasks[*place].0)?;
    tasks.rotate_left(first);
    Some(Cycle(tasks))
}

/// What a task does, and which task it waits for.
fn next(look: &Look<'_>, id: u64) -> Option<(Moment, u64)> {
    let moment = look.find(id)?.moment();
    Some((moment, moment.task()?))
}

fn still(look: &Look<'_>, id: u64, moment: Moment) -> bool {
    next(look, id).is_some_and(|(now, _)| now == moment)
}

impl Cycle {
    pub(super) fn ids(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|(id, _)| *id)
    }

    pub(super) fn words(&self, look: &Look<'_>) -> String {
        let waits: Vec<_> =
            self.0.iter().map(|(_, moment)| words::awaited(look, *moment)).collect();
        let first = look.find(self.0[0].0).map_or_else(String::new, |task| look.who(task));
        let mut line = format!("Deadlock: {first} waits for {}", waits.join(", which waits for "));
        for id in self.ids() {
            if let Some(task) = look.find(id)
                && let Some(deadline) = task.info.timeout()
            {
                line +=
                    &format!("; the timeout of task {id} comes in {:.3} s", look.until(deadline));
            }
        }
        line
    }
}
