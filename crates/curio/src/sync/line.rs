//! The line: tasks that wait their turn, and what they are given.
//!
//! Every primitive is made of lines. A line has a number of *turns* that are free. A task
//! takes one at once, or stands in line until somebody *gives* one: first come, first
//! served, directly from hand to hand. So there are free turns only while nobody waits,
//! and no newcomer overtakes.
//!
//! A turn is what the primitive makes of it: a lock is a line with one turn, a semaphore one
//! with several, a queue has a line with a turn for each item and one with a turn for each
//! free place.
//!
//! A task that was given a turn and is interrupted all the same, because the
//! interrupt came first, gives the turn back, and the next in line has it. So does a future
//! that is dropped. A turn is never lost.
//!
//! A line belongs to no kernel; while tasks stand in it, they are of one kernel.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;

use super::resource::Resource;
use crate::error::{Error, Result};
use crate::kernel::{Core, State, Target, TaskState, WaitKey, WaitQueue};
use crate::traps::{Trap, Wait, site};

/// As many turns as anybody wants.
pub(crate) const ALL: usize = usize::MAX;

/// What becomes of a turn that nobody waits for, or that was given in vain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It is kept for the next; the primitive notes what there is to note.
    Kept,
    /// As `Kept`, and how many are free is the primitive's level.
    Permits,
    /// As `Kept`, and whoever has the turn is noted as the owner.
    Ownership,
    /// It is passed on, or is gone if nobody waits: notifications.
    Notices,
    /// It is nothing that could be passed on: a moment that all have waited for.
    Gate,
    /// It is for this task alone, which takes it even if an interrupt had come before. It is gone
    /// if nobody waits.
    Summons,
}

/// See the module.
pub(crate) struct Line {
    /// The operation and the state of a task in line.
    operation: &'static str,
    state: TaskState,
    rule: Rule,
    free: Cell<usize>,
    inside: RefCell<Inside>,
    resource: Arc<Resource>,
}

#[derive(Default)]
struct Inside {
    queue: WaitQueue,
    /// The kernel of the tasks in line; `None` while there are none.
    home: Option<Rc<Core>>,
}

impl Line {
    pub(crate) fn new(
        operation: &'static str,
        state: TaskState,
        rule: Rule,
        free: usize,
        resource: Arc<Resource>,
    ) -> Rc<Line> {
        let inside = RefCell::default();
        Rc::new(Line { operation, state, rule, free: Cell::new(free), inside, resource })
    }

    pub(crate) fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    /// How many turns can be had at once.
    pub(crate) fn free(&self) -> usize {
        self.free.get()
    }

    /// Sets the number of free turns, while nobody waits or it is none.
    pub(crate) fn set_free(&self, free: usize) {
        self.free.set(free);
    }

    /// Waits for a turn.
    #[track_caller]
    pub(crate) fn wait(self: &Rc<Self>) -> Wait<TurnTrap> {
        self.wait_as(self.state)
    }

    /// As `wait`, shown as another state than the line's.
    #[track_caller]
    pub(crate) fn wait_as(self: &Rc<Self>, state: TaskState) -> Wait<TurnTrap> {
        Wait::new(TurnTrap { line: self.clone(), state, site: Location::caller() })
    }

    /// Takes a turn if one is free. `taker` is the task, and the line that acquires.
    pub(crate) fn take(&self, taker: impl FnOnce() -> (u64, &'static Location<'static>)) -> bool {
        match self.free.get() {
            0 => false,
            ALL => true,
            free => {
                self.free.set(free - 1);
                match self.rule {
                    Rule::Ownership => {
                        let (task, site) = taker();
                        self.resource.set_owner(task, Some(site));
                    }
                    Rule::Permits => self.resource.set_level(free - 1),
                    Rule::Kept | Rule::Notices | Rule::Gate | Rule::Summons => {}
                }
                true
            }
        }
    }

    /// Gives turns: to those in line, oldest first, and the rest to whoever comes.
    pub(crate) fn give(&self, turns: usize) {
        match self.home() {
            None => self.keep(turns),
            Some(home) => self.give_at(&home, turns),
        }
    }

    fn home(&self) -> Option<Rc<Core>> {
        self.inside.borrow().home.clone()
    }

    /// Gives turns to tasks of a kernel whose tables nobody is changing.
    fn give_at(&self, home: &Rc<Core>, turns: usize) {
        home.with_state(|state| self.give_in(state, turns));
        if !home.is_here() {
            // A binding may have another thread here, which the kernel sleeps through.
            home.ring();
        }
    }

    /// Passes a turn on that a task of `core` was given in vain.
    fn give_back(&self, core: &Rc<Core>, state: &mut State) {
        match self.home() {
            None => self.keep(1),
            Some(home) if Rc::ptr_eq(&home, core) => self.give_in(state, 1),
            // The tasks of another kernel have come since.
            Some(home) => self.give_at(&home, 1),
        }
    }

    /// Gives turns while the tables of the kernel of those in line are at hand.
    pub(crate) fn give_in(&self, state: &mut State, mut turns: usize) {
        while turns > 0
            && let Some(wait) = self.pop(state)
        {
            if self.rule == Rule::Ownership {
                let site = state.site_of(wait);
                self.resource.set_owner(state.waiter(wait), site);
            }
            state.fire(wait);
            if turns != ALL {
                turns -= 1;
            }
        }
        self.keep(turns);
    }

    /// What becomes of turns that nobody waits for.
    fn keep(&self, turns: usize) {
        if turns == 0 || matches!(self.rule, Rule::Notices | Rule::Summons) {
            return;
        }
        let free = self.free.get().saturating_add(turns);
        self.free.set(free);
        match self.rule {
            Rule::Ownership => self.resource.set_owner(0, None),
            Rule::Permits => self.resource.set_level(free),
            Rule::Kept | Rule::Notices | Rule::Gate | Rule::Summons => {}
        }
    }

    fn pop(&self, state: &mut State) -> Option<WaitKey> {
        let mut inside = self.inside.borrow_mut();
        let wait = inside.queue.pop(&mut state.waits)?;
        self.left(&mut inside);
        Some(wait)
    }

    fn push(&self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()> {
        let mut inside = self.inside.borrow_mut();
        match &inside.home {
            Some(home) if !Rc::ptr_eq(home, core) => {
                return Err(Error::misuse(format!(
                    "tasks of another kernel are waiting for {}; a primitive serves one kernel at \
                     a time",
                    self.resource
                )));
            }
            Some(_) => {}
            None => inside.home = Some(core.clone()),
        }
        inside.queue.push(&mut state.waits, wait);
        self.resource.count_waiting(1);
        Ok(())
    }

    fn remove(&self, state: &mut State, wait: WaitKey) {
        let mut inside = self.inside.borrow_mut();
        inside.queue.remove(&mut state.waits, wait);
        self.left(&mut inside);
    }

    fn left(&self, inside: &mut Inside) {
        self.resource.count_waiting(-1);
        if inside.queue.is_empty() {
            // Never the last reference: whoever has stood in line holds another.
            inside.home = None;
        }
    }
}

/// The trap of a task that stands in a line.
#[doc(hidden)]
pub struct TurnTrap {
    line: Rc<Line>,
    state: TaskState,
    /// The line of Rust that waits.
    site: &'static Location<'static>,
}

impl Trap for TurnTrap {
    fn name(&self) -> &'static str {
        self.line.operation
    }

    fn state(&self) -> TaskState {
        self.state
    }

    fn keeps(&self) -> bool {
        self.line.rule == Rule::Summons
    }

    fn target(&self) -> Target {
        Target::Resource(self.line.resource.id())
    }

    fn done(&mut self, _core: &Rc<Core>, state: &State) -> bool {
        self.line.take(|| (state.current_id(), site(self.site)))
    }

    fn arm(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()> {
        self.line.push(core, state, wait)?;
        state.note_line(wait, &self.line);
        Ok(())
    }

    fn disarm(&mut self, state: &mut State, wait: WaitKey) {
        self.line.remove(state, wait);
    }

    fn ended(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey, used: bool) {
        match self.line.rule {
            Rule::Gate => {}
            _ if !used && state.fired(wait) => self.line.give_back(core, state),
            // The future may have come to another task since it was put in line.
            Rule::Ownership if used => {
                let site = state.site_of(wait);
                self.line.resource.set_owner(state.current_id(), site);
            }
            _ => {}
        }
    }
}
