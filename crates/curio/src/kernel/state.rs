//! The kernel's tables, and every change they can undergo.
//!
//! Nothing in here runs foreign code: a change that wakes a foreign waker puts it
//! on a list, and a change that ends a task hands its body back, and the caller
//! sees to them after the borrow of the tables has ended.

use std::collections::VecDeque;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;

use super::poller::Event;
use super::published::Published;
use super::source::{Flush, Sources};
use super::task::{
    Blocked, Body, Cancel, End, Label, OwnCancel, Target, TaskCell, TaskInfo, TaskKey, TaskState,
};
use super::timers::Timers;
use super::wait::{Region, TimeoutCell, TimeoutKey, Wait, WaitKey, WaitQueue, Waits};
use super::wake::News;
use crate::error::{Cancellation, Error, ErrorKind, Timeout};
use crate::group::Ends;
use crate::sync::Line;

/// What a timer is for.
pub(crate) enum Expiry {
    Wait(WaitKey),
    Timeout(TimeoutKey),
}

/// How a new task is to be.
#[derive(Default)]
pub struct Spawn {
    /// `run` ends without waiting for it, and it is no active child of its creator.
    pub daemon: bool,
    /// One of the kernel's own: no task has created it.
    #[doc(hidden)]
    pub own: bool,
    /// Name and spawn site.
    pub label: Label,
    /// An opaque word of the language binding; 0 for none.
    #[doc(hidden)]
    pub face: usize,
}

/// See the module.
#[doc(hidden)]
pub struct State {
    pub(crate) tasks: Slab<TaskCell>,
    pub(crate) waits: Waits,
    pub(crate) timers: Timers<Expiry>,
    pub(crate) sources: Sources,
    timeouts: Slab<TimeoutCell>,
    timeout_serial: u64,
    /// Tasks to run, by index.
    ready: VecDeque<u32>,
    /// Order of running, when it is drawn by chance (tests).
    seed: Option<u64>,
    /// Foreign wakers to call when the borrow has ended.
    pub(super) wake_later: Vec<Waker>,
    /// Foreign wakers to drop then.
    pub(super) drop_later: Vec<Waker>,
    /// What is to be sent when the running task's turn ends, or has room to be sent.
    pub(super) unsent: Vec<Rc<dyn Flush>>,
    /// The task on the processor.
    pub(super) current: Option<TaskKey>,
    /// What is around the operation that the running task is in.
    pub(crate) region: Region,
    /// How often a task has suspended itself in a trap; and that, when the running one began.
    pub(crate) traps: u32,
    traps_before: u32,
    /// Counts what happens to blocked tasks, so that of two things the first can be told.
    sequence: u64,
    /// Counts the waits.
    blockings: u64,
    /// Where other threads look for the tasks, once somebody wants to.
    pub(super) published: Option<Arc<Published>>,
    /// Tasks that `run` waits for.
    pub(super) awaited: usize,
    /// How many waits only another thread can end: with some there is no deadlock.
    pub(crate) outside: usize,
    /// The buffer of the poller's events, kept for its memory.
    pub(super) events: Vec<Event>,
}

impl State {
    pub(super) fn new(seed: Option<u64>) -> Self {
        State {
            tasks: Slab::new(),
            waits: Waits::default(),
            timers: Timers::new(),
            sources: Sources::default(),
            timeouts: Slab::new(),
            timeout_serial: 0,
            ready: VecDeque::new(),
            seed,
            wake_later: Vec::new(),
            drop_later: Vec::new(),
            current: None,
            region: Region::default(),
            traps: 0,
            traps_before: 0,
            sequence: 0,
            blockings: 0,
            published: None,
            awaited: 0,
            outside: 0,
            events: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// Starts the list of tasks for other threads, unless there is one.
    pub(super) fn publish(&mut self) -> Arc<Published> {
        let published = self.published.get_or_insert_with(|| {
            let published = Published::default();
            for (_, task) in &self.tasks {
                published.insert(task.key, task.info.clone());
            }
            for wait in self.waits.iter() {
                wait.line.iter().for_each(|line| line.resource().register());
            }
            Arc::new(published)
        });
        published.clone()
    }

    // Tasks.

    pub(crate) fn task(&self, key: TaskKey) -> Option<&TaskCell> {
        self.tasks.get(key.index as usize).filter(|task| task.key == key)
    }

    pub(crate) fn task_mut(&mut self, key: TaskKey) -> Option<&mut TaskCell> {
        self.tasks.get_mut(key.index as usize).filter(|task| task.key == key)
    }

    /// The running task. Only while a task is polled, which every trap's caller has made sure of.
    pub(crate) fn current(&mut self) -> Option<&mut TaskCell> {
        self.current.and_then(|key| self.task_mut(key))
    }

    pub(super) fn spawn(&mut self, body: Body, spawn: Spawn) -> (TaskKey, Arc<TaskInfo>) {
        let Spawn { daemon, own, label, face } = spawn;
        let parent = self.current.filter(|_| !own);
        let parent_id = parent.and_then(|parent| self.task(parent)).map(|task| task.info.id());
        let info = Arc::new(TaskInfo::new(parent_id, daemon, own, label));
        let entry = self.tasks.vacant_entry();
        let key = TaskKey { index: entry.key() as u32, serial: info.id() as u32 };
        entry.insert(TaskCell {
            key,
            body: Some(body),
            info: info.clone(),
            face,
            scheduled: false,
            open: false,
            cancelled: 0,
            foreign: WaitQueue::default(),
            region: Region::default(),
            cancel: Cancel::None,
            own_cancel: None,
            void_before: 0,
            joiners: WaitQueue::default(),
            group: None,
            parent: None,
            first_child: None,
            siblings: (None, None),
        });
        if let Some(published) = &self.published {
            published.insert(key, info.clone());
        }
        if !daemon {
            self.awaited += 1;
            if let Some(parent) = parent {
                self.adopt(parent, key);
            }
        }
        self.schedule(key.index);
        (key, info)
    }

    fn adopt(&mut self, parent: TaskKey, child: TaskKey) {
        let Some(cell) = self.task_mut(parent) else { return };
        let next = cell.first_child.replace(child.index);
        if let Some(next) = next {
            self.tasks[next as usize].siblings.0 = Some(child.index);
        }
        let cell = &mut self.tasks[child.index as usize];
        cell.parent = Some(parent);
        cell.siblings = (None, next);
    }

    fn leave_family(&mut self, child: u32) {
        let cell = &mut self.tasks[child as usize];
        let (before, after) = std::mem::take(&mut cell.siblings);
        let parent = cell.parent.take();
        if let Some(after) = after {
            self.tasks[after as usize].siblings.0 = before;
        }
        match (before, parent) {
            (Some(before), _) => self.tasks[before as usize].siblings.1 = after,
            (None, Some(parent)) => {
                if let Some(parent) = self.task_mut(parent) {
                    parent.first_child = after;
                }
            }
            (None, None) => {}
        }
    }

    /// The active children of a task, oldest first.
    pub(crate) fn children(&self, parent: TaskKey) -> Vec<TaskKey> {
        let mut children = Vec::new();
        let mut next = self.task(parent).and_then(|task| task.first_child);
        while let Some(index) = next {
            let child = &self.tasks[index as usize];
            children.push(child.key);
            next = child.siblings.1;
        }
        children.reverse();
        children
    }

    // Scheduling.

    /// Puts a task at the end of the ready queue, unless it is there.
    pub(crate) fn schedule(&mut self, index: u32) {
        let Some(task) = self.tasks.get_mut(index as usize) else { return };
        if !task.scheduled {
            task.scheduled = true;
            task.info.set_state(TaskState::Ready);
            self.ready.push_back(index);
        }
    }

    pub(super) fn wake(&mut self, key: TaskKey) {
        if self.task(key).is_some() {
            self.schedule(key.index);
        }
    }

    /// Takes in what another thread has to say.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Woken(task) => self.wake(task),
            News::Fired(wait, number) => self.fire_numbered(wait, number),
        }
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Gives the processor to the next ready task, or to one drawn by the seed.
    pub(super) fn begin(&mut self) -> Option<(TaskKey, Body)> {
        if let Some(seed) = &mut self.seed
            && self.ready.len() > 1
        {
            let drawn = splitmix(seed) % self.ready.len() as u64;
            self.ready.swap(0, drawn as usize);
        }
        let index = self.ready.pop_front()?;
        let task = &mut self.tasks[index as usize];
        task.scheduled = false;
        task.open = false;
        task.info.set_state(TaskState::Running);
        task.info.count_cycle();
        self.region = task.region;
        self.traps_before = self.traps;
        self.current = Some(task.key);
        let body = task.body.take().expect("a scheduled task is not being polled");
        Some((task.key, body))
    }

    /// Takes the processor back from a task that has not ended.
    pub(super) fn suspend(&mut self, key: TaskKey, body: Body) {
        self.current = None;
        let region = self.region;
        let foreign = self.traps == self.traps_before;
        let task = self.task_mut(key).expect("the running task stays in the table");
        task.body = Some(body);
        task.region = region;
        task.open |= foreign;
        if !task.scheduled && task.info.state() == TaskState::Running {
            task.info.set_state(TaskState::FutureWait);
        }
    }

    /// Ends the running task: wakes who joins it, frees its place.
    ///
    /// What may hold objects of foreign code is the caller's to drop.
    #[must_use = "its drop may run foreign code, so it must not happen here"]
    pub(super) fn finish(&mut self, key: TaskKey) -> Remains {
        self.current = None;
        while let Some(joiner) = {
            let task = &mut self.tasks[key.index as usize];
            task.joiners.pop(&mut self.waits)
        } {
            self.fire(joiner);
        }
        let task = &mut self.tasks[key.index as usize];
        let (group, info) = (task.group.take(), task.info.clone());
        if let Some(group) = &group {
            group.ended(self, &info);
        }
        while let Some(wait) = self.tasks[key.index as usize].foreign.pop(&mut self.waits) {
            self.waits.get_mut(wait).foreign = false;
        }
        while let Some(child) = self.tasks[key.index as usize].first_child {
            self.leave_family(child);
        }
        self.leave_family(key.index);
        let task = &mut self.tasks[key.index as usize];
        let body = task.body.take();
        let cancels = (std::mem::take(&mut task.cancel), task.own_cancel.take());
        if task.scheduled {
            self.ready.retain(|&index| index != key.index);
        }
        if !task.info.daemon() {
            self.awaited -= 1;
        }
        if let Some(published) = &self.published {
            published.remove(key);
        }
        task.info.set_sleep(None);
        task.info.set_timeout(None);
        task.info.set_state(TaskState::Terminated);
        let info = self.tasks.remove(key.index as usize).info;
        Remains { _body: body, _cancels: cancels, _group: group, _info: info }
    }

    /// The task whose end, or whose lock, a blocked task waits for, and so on to the last of them
    /// that is not asked to end.
    pub(super) fn waits_for(&self, key: TaskKey) -> Option<TaskKey> {
        let mut task = self.task(key)?;
        // Each step comes to another task, or has been everywhere.
        for _ in 0..self.tasks.len() {
            if !matches!(task.info.state(), TaskState::LockAcquire | TaskState::TaskJoin) {
                return None;
            }
            let wait = self.waits.iter().find(|wait| wait.task == task.key.index)?;
            let id = match (&wait.line, wait.blocked.target) {
                (Some(line), _) => line.resource().owner()?,
                (None, Target::Task(id)) => id,
                _ => return None,
            };
            task = self.tasks.iter().map(|(_, task)| task).find(|task| task.info.id() == id)?;
            if let Cancel::None = task.cancel {
                return Some(task.key);
            }
        }
        None
    }

    /// Takes a task out of the running for good: its body is to be dropped.
    pub(super) fn take_body(&mut self, key: TaskKey) -> Option<Remains> {
        self.task_mut(key)?.body.as_ref()?;
        Some(self.finish(key))
    }

    // Waits.

    /// Notes that the running task waits, and shows it.
    pub(crate) fn block(&mut self, wait: WaitKey) {
        self.trapped();
        let Wait { blocked, number, region, .. } = *self.waits.get(wait);
        if let Some(task) = self.current() {
            task.open |= region.shields == 0;
            if !task.scheduled {
                task.info.set_blocked(&blocked, number);
            }
        }
    }

    /// What was waited for has happened: the task, or its combinator, is to look.
    /// The wait must have left its timer or queue.
    pub(crate) fn fire(&mut self, key: WaitKey) {
        let wait = self.waits.get_mut(key);
        self.sequence += 1;
        wait.fired = self.sequence;
        let task = wait.task;
        match wait.waker.take() {
            Some(waker) => {
                self.unlist(key);
                self.wake_later.push(waker);
            }
            None => self.schedule(task),
        }
    }

    /// As `fire`, for who knows the wait by its number: it may have ended, or have been fired.
    pub(crate) fn fire_numbered(&mut self, key: WaitKey, number: u64) {
        if self.waits.find(key).is_some_and(|wait| wait.number == number && wait.fired == 0) {
            self.fire(key);
        }
    }

    /// Makes the task look, without anything having happened to its waits; those that a
    /// combinator polls are woken as well, unless they are outside of `timeout`.
    fn prod(&mut self, task: u32, timeout: Option<TimeoutKey>) {
        let Some(cell) = self.tasks.get(task as usize) else { return };
        let mut wake_later = std::mem::take(&mut self.wake_later);
        let told = cell.foreign.iter(&self.waits).filter(|wait| {
            wait.region.shields == 0
                && timeout.is_none_or(|timeout| self.encloses(timeout, wait.region))
        });
        wake_later.extend(told.filter_map(|wait| wait.waker.clone()));
        let open = cell.open && cell.body.is_some();
        self.wake_later = wake_later;
        if open {
            self.schedule(task);
        }
    }

    fn encloses(&self, timeout: TimeoutKey, region: Region) -> bool {
        let outer = |key: &TimeoutKey| self.timeouts.get(key.0 as usize)?.outer;
        std::iter::successors(region.timeout, outer).any(|key| key == timeout)
    }

    /// Puts a wait whose waker is not the task's own into the task's queue of those.
    fn list(&mut self, key: WaitKey) {
        let wait = self.waits.get_mut(key);
        if let Some(task) = self.tasks.get_mut(wait.task as usize) {
            wait.foreign = true;
            task.foreign.push(&mut self.waits, key);
        }
    }

    fn unlist(&mut self, key: WaitKey) {
        let wait = self.waits.get_mut(key);
        if std::mem::take(&mut wait.foreign) {
            let task = wait.task as usize;
            self.tasks[task].foreign.remove(&mut self.waits, key);
        }
    }

    /// Fires what is due first, if that is not after `now`. A kernel with nothing else to do
    /// that wakes up late has what is woken run before the next deadline is met: as if it had
    /// been in time.
    pub(super) fn expire_first(&mut self, now: u64) {
        if let Some(deadline) = self.timers.next_deadline() {
            self.expire(deadline.min(now));
        }
    }

    /// Fires what is due at `now`.
    pub(crate) fn expire(&mut self, now: u64) {
        while let Some(expiry) = self.timers.pop_due(now) {
            match expiry {
                Expiry::Wait(wait) => self.fire(wait),
                Expiry::Timeout(timeout) => self.expire_timeout(timeout),
            }
        }
    }

    // Timeouts.

    /// Enters a region that ends at `deadline`. `now` tells whether it has passed already.
    pub(crate) fn enter_timeout(&mut self, deadline: Option<u64>, now: u64) -> TimeoutKey {
        self.timeout_serial += 1;
        let task = self.current.map_or(u32::MAX, |key| key.index);
        let outer = self.region.timeout;
        self.hold(outer);
        let around = outer.and_then(|outer| self.timeouts[outer.0 as usize].nearest);
        let nearest = match (deadline, around) {
            (Some(deadline), Some(around)) => Some(deadline.min(around)),
            (deadline, around) => deadline.or(around),
        };
        let expired = deadline.filter(|&deadline| deadline <= now).map(|_| self.sequence);
        let key = TimeoutKey(self.timeouts.vacant_key() as u32);
        let timer = deadline
            .filter(|_| expired.is_none())
            .map(|deadline| self.timers.insert_limit(deadline, Expiry::Timeout(key)));
        self.timeouts.insert(TimeoutCell {
            serial: self.timeout_serial,
            task,
            outer,
            deadline,
            nearest,
            timer,
            expired,
            delivered: false,
            left: false,
            inner: 0,
            waker: None,
        });
        self.set_region_timeout(Some(key));
        key
    }

    /// Makes `timeout` the innermost one of the running task.
    fn set_region_timeout(&mut self, timeout: Option<TimeoutKey>) {
        self.region.timeout = timeout;
        let nearest = timeout.and_then(|timeout| self.timeouts[timeout.0 as usize].nearest);
        if let Some(task) = self.current() {
            task.info.set_timeout(nearest);
        }
    }

    /// Leaves a region: the timeout around it is in force again. An inner region that was not
    /// left before, because its code is suspended elsewhere, stays as it is.
    pub(crate) fn exit_timeout(&mut self, key: TimeoutKey) -> TimeoutEnd {
        let cell = &self.timeouts[key.0 as usize];
        let (serial, deadline, delivered) = (cell.serial, cell.deadline, cell.delivered);
        let voided = self.voided(cell);
        let mut around = self.region.timeout;
        if around == Some(key) {
            around = cell.outer;
            while let Some(outer) = around.map(|outer| &self.timeouts[outer.0 as usize])
                && outer.left
            {
                around = outer.outer;
            }
        }
        self.drop_timeout(key);
        self.set_region_timeout(around);
        let pending = self.current().and_then(|task| {
            let own = task.own_cancel.take_if(|own| own.timeout == Some(serial))?;
            Some(own.cancellation)
        });
        TimeoutEnd { serial, deadline, delivered, voided, pending }
    }

    /// The deadline of a timeout that is in force.
    pub(crate) fn timeout_deadline(&self, key: TimeoutKey) -> Option<u64> {
        self.timeouts[key.0 as usize].deadline
    }

    /// Ends a timeout, also of a region that was not left: its future was dropped.
    pub(crate) fn drop_timeout(&mut self, key: TimeoutKey) {
        let cell = &mut self.timeouts[key.0 as usize];
        cell.left = true;
        cell.expired = None;
        self.drop_later.extend(cell.waker.take());
        if let Some(timer) = cell.timer.take() {
            self.timers.remove(timer);
        }
        self.release(Some(key));
    }

    /// One more region has `timeout` around it.
    fn hold(&mut self, timeout: Option<TimeoutKey>) {
        if let Some(timeout) = timeout {
            self.timeouts[timeout.0 as usize].inner += 1;
        }
    }

    /// Frees `timeout` if it was left, and is around no other; then those that this frees.
    fn release(&mut self, mut timeout: Option<TimeoutKey>) {
        while let Some(key) = timeout
            && let cell = &self.timeouts[key.0 as usize]
            && cell.left
            && cell.inner == 0
        {
            timeout = self.timeouts.remove(key.0 as usize).outer;
            if let Some(outer) = timeout {
                self.timeouts[outer.0 as usize].inner -= 1;
            }
        }
    }

    fn voided(&self, timeout: &TimeoutCell) -> bool {
        let task = self.tasks.get(timeout.task as usize);
        task.is_some_and(|task| timeout.serial < task.void_before)
    }

    fn expire_timeout(&mut self, key: TimeoutKey) {
        self.sequence += 1;
        let cell = &mut self.timeouts[key.0 as usize];
        cell.timer = None;
        cell.expired = Some(self.sequence);
        let task = cell.task;
        self.wake_later.extend(cell.waker.clone());
        self.prod(task, Some(key));
    }

    /// Expires the timeouts from `innermost` on whose deadlines have passed since the kernel has
    /// looked at the timers, first the first. What else is due is left to the kernel: in the middle
    /// of a turn it would put tasks before those that this one is about to wake, or this one itself.
    fn expire_around(&mut self, innermost: TimeoutKey, now: u64) {
        while let Some(key) = self.first_due_around(innermost, now) {
            let timer = self.timeouts[key.0 as usize].timer.take().expect("it is due");
            self.timers.remove(timer);
            self.expire_timeout(key);
        }
    }

    fn first_due_around(&self, innermost: TimeoutKey, now: u64) -> Option<TimeoutKey> {
        let cell = |key: TimeoutKey| &self.timeouts[key.0 as usize];
        std::iter::successors(Some(innermost), |&key| cell(key).outer)
            .filter(|&key| {
                cell(key).timer.is_some() && cell(key).deadline.is_some_and(|at| at <= now)
            })
            .min_by_key(|&key| (cell(key).deadline, cell(key).serial))
    }

    /// The limits around what a task does, innermost first; `None` if a shield is among them.
    pub(crate) fn limits(&self, key: TaskKey) -> Option<Vec<TimeoutKey>> {
        let region = match self.waits.iter().filter(|wait| wait.task == key.index).last() {
            Some(wait) => wait.region,
            None if self.current == Some(key) => self.region,
            None => self.task(key)?.region,
        };
        let outer = |key: &TimeoutKey| self.timeouts[key.0 as usize].outer;
        let limits = std::iter::successors(region.timeout, outer).filter(|key| {
            let cell = &self.timeouts[key.0 as usize];
            !cell.left && cell.deadline.is_some()
        });
        (region.shields == 0).then(|| limits.collect())
    }

    /// The first timeout that was ever entered, if it was not left.
    pub(crate) fn first_timeout(&self) -> Option<TimeoutKey> {
        let mut timeouts = self.timeouts.iter();
        let first = timeouts.find(|(_, cell)| cell.serial == 1 && !cell.left);
        first.map(|(index, _)| TimeoutKey(index as u32))
    }

    /// Moves a timeout's deadline to now.
    pub(crate) fn expire_now(&mut self, key: TimeoutKey, now: u64) {
        let cell = &mut self.timeouts[key.0 as usize];
        cell.deadline = Some(now);
        if let Some(timer) = cell.timer.take() {
            self.timers.remove(timer);
        }
        self.expire_timeout(key);
    }

    /// How many things there are that go with tasks, for tests: waits, limits, descriptors.
    pub(crate) fn leftovers(&self) -> [(&'static str, usize); 4] {
        [
            ("tasks", self.tasks.len()),
            ("waits", self.waits.iter().count()),
            ("limits on time", self.timeouts.len()),
            ("descriptors", self.sources.len()),
        ]
    }

    /// Enters a region again that was left in between, perhaps by another way than before:
    /// `former` was around it then. Gives what is around it now.
    pub(crate) fn enter_again(
        &mut self,
        timeout: Option<TimeoutKey>,
        mut inside: Region,
        former: Region,
    ) -> Region {
        let outside = self.region;
        if let Some(timeout) = timeout {
            self.timeouts[timeout.0 as usize].task = self.current.map_or(u32::MAX, |key| key.index);
        }
        if outside != former {
            inside.shields = outside.shields + inside.shields.saturating_sub(former.shields);
            if let Some(timeout) = timeout {
                self.hold(outside.timeout);
                let cell = &mut self.timeouts[timeout.0 as usize];
                let former = std::mem::replace(&mut cell.outer, outside.timeout);
                if let Some(former) = former {
                    self.timeouts[former.0 as usize].inner -= 1;
                    self.release(Some(former));
                }
            } else if inside.timeout == former.timeout {
                inside.timeout = outside.timeout;
            }
        }
        self.region = inside;
        outside
    }

    /// Notes who is to be woken when a timeout expires: not its task, if a combinator
    /// has polled its region.
    pub(crate) fn show_waker(&mut self, timeout: TimeoutKey, waker: Option<Waker>) {
        let former = std::mem::replace(&mut self.timeouts[timeout.0 as usize].waker, waker);
        self.drop_later.extend(former);
    }

    // Cancellation.

    /// Asks for a task to be cancelled; says whether this was the first request.
    pub(crate) fn cancel(
        &mut self,
        key: TaskKey,
        cancellation: &Arc<Cancellation>,
        now: u64,
    ) -> bool {
        let void_before = self.timeout_serial + 1;
        self.sequence += 1;
        let sequence = self.sequence;
        let Some(task) = self.task_mut(key) else { return false };
        if !matches!(task.cancel, Cancel::None) {
            return false;
        }
        task.cancel = Cancel::Pending(cancellation.clone());
        task.info.set_cancellation(cancellation, now);
        task.info.set_timeout(None);
        task.void_before = void_before;
        task.cancelled = sequence;
        // A task that is ready or running finds it at its next trap.
        self.prod(key.index, None);
        true
    }

    /// Ends what a task is blocked in, or its next trap, without asking it to end itself; says whether
    /// it was not about to be interrupted anyway.
    pub(crate) fn interrupt(&mut self, key: TaskKey, cancellation: &Arc<Cancellation>) -> bool {
        self.sequence += 1;
        let since = self.sequence;
        let Some(task) = self.task_mut(key) else { return false };
        if task.own_cancel.is_some() || matches!(task.cancel, Cancel::Pending(_)) {
            return false;
        }
        let cancellation = cancellation.clone();
        task.own_cancel = Some(OwnCancel { cancellation, since, timeout: None });
        self.prod(key.index, None);
        true
    }

    /// Takes what the running task is to be interrupted by, in the region it is in now.
    pub(crate) fn take_interrupt(&mut self, clock: impl Fn() -> u64) -> Option<Error> {
        if self.region.shields > 0 {
            return None;
        }
        let timeout = self.region.timeout;
        let void_before = self.timeout_serial + 1;
        let task = self.current()?;
        if let Some(own) = task.own_cancel.take() {
            return Some(Error::new(ErrorKind::Cancelled(own.cancellation)));
        }
        if let Cancel::Pending(_) = task.cancel
            && let Cancel::Pending(cancellation) =
                std::mem::replace(&mut task.cancel, Cancel::Delivered)
        {
            // Those too that were entered since the request: none is to cut the clean-up short.
            task.void_before = void_before;
            task.info.set_timeout(None);
            return Some(Error::new(ErrorKind::Cancelled(cancellation)));
        }
        let timeout = timeout?;
        let nearest = self.timeouts[timeout.0 as usize].nearest;
        if let Some(deadline) = nearest {
            let now = clock();
            if deadline <= now {
                self.expire_around(timeout, now);
            }
        }
        self.take_timeout(timeout).map(|(owner, own)| {
            let cell = &self.timeouts[owner.0 as usize];
            let deadline = cell.deadline.unwrap_or(0);
            let clock = clock();
            Error::new(ErrorKind::Timeout(Timeout {
                owner: cell.serial,
                own,
                escaped: false,
                deadline,
                clock,
            }))
        })
    }

    /// The outermost expired timeout from `innermost` on counts; those inside it are
    /// given up with it.
    fn take_timeout(&mut self, innermost: TimeoutKey) -> Option<(TimeoutKey, bool)> {
        let (owner, _) = self.expired_timeout(innermost)?;
        let mut next = Some(innermost);
        while let Some(key) = next {
            let cell = &mut self.timeouts[key.0 as usize];
            cell.expired = None;
            if key == owner {
                cell.delivered = true;
                break;
            }
            next = cell.outer;
        }
        Some((owner, owner == innermost))
    }

    /// The timeout from `innermost` on that counts, and when it has expired.
    fn expired_timeout(&self, innermost: TimeoutKey) -> Option<(TimeoutKey, u64)> {
        let mut owner = None;
        let mut next = Some(innermost);
        while let Some(key) = next {
            let cell = &self.timeouts[key.0 as usize];
            if let Some(expired) = cell.expired.filter(|_| !self.voided(cell)) {
                owner = Some((key, expired));
            }
            next = cell.outer;
        }
        owner
    }

    /// When the interrupt came that the running task would be given now.
    fn interrupted(&self) -> Option<u64> {
        if self.region.shields > 0 {
            return None;
        }
        let task = self.task(self.current?)?;
        if let Some(own) = &task.own_cancel {
            return Some(own.since);
        }
        if let Cancel::Pending(_) = task.cancel {
            return Some(task.cancelled);
        }
        Some(self.expired_timeout(self.region.timeout?)?.1)
    }

    /// Takes the pending cancellation whatever shields there are.
    pub(crate) fn take_pending(&mut self, clock: impl Fn() -> u64) -> Option<Error> {
        let shields = std::mem::take(&mut self.region.shields);
        let pending = self.take_interrupt(clock);
        self.region.shields = shields;
        pending
    }

    /// Sets the cancellation that the running task's next blocking trap is to end with.
    /// Gives the former one, which the caller is to drop: it may hold objects of foreign code.
    pub(crate) fn set_own_cancel(&mut self, cancel: Option<OwnCancel>) -> Option<OwnCancel> {
        match self.current() {
            Some(task) => std::mem::replace(&mut task.own_cancel, cancel),
            None => cancel,
        }
    }

    /// Whether a cancellation is waiting for a task, and whether it may arrive.
    pub(crate) fn cancel_state(&self, key: TaskKey) -> (bool, bool) {
        let Some(task) = self.task(key) else { return (false, true) };
        let region = if self.current == Some(key) { self.region } else { task.region };
        let pending = task.own_cancel.is_some() || matches!(task.cancel, Cancel::Pending(_));
        (pending, region.shields == 0)
    }
}

/// What is left of a task that has ended, to be dropped where foreign code may run.
pub(crate) struct Remains {
    /// `None` if it was being polled.
    _body: Option<Body>,
    _cancels: (Cancel, Option<OwnCancel>),
    _group: Option<Rc<Ends>>,
    _info: Arc<TaskInfo>,
}

/// How a region ended.
pub(crate) struct TimeoutEnd {
    pub(crate) serial: u64,
    pub(crate) deadline: Option<u64>,
    /// It has interrupted a trap inside.
    pub(crate) delivered: bool,
    /// A cancellation has dropped it.
    pub(crate) voided: bool,
    /// It was seen and put back by the task, and is of no use any more. Dropping it may run
    /// foreign code, which is why it is here.
    #[allow(dead_code, reason = "held until it may be dropped")]
    pub(crate) pending: Option<Arc<Cancellation>>,
}

/// The next number of a sequence that a seed determines.
pub(crate) fn splitmix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl End {
    /// Whether `run` must look at it: the main task's failure, or a fatal end.
    pub(super) fn is_error(self) -> bool {
        matches!(self, End::Failed | End::Fatal)
    }
}

/// What the traps ask for.
impl State {
    pub(crate) fn insert_wait(&mut self, blocked: Blocked, waker: Option<Waker>) -> WaitKey {
        let task = self.current.map_or(u32::MAX, |key| key.index);
        let foreign = waker.is_some();
        self.blockings += 1;
        let wait = self.waits.insert(task, blocked, self.blockings, self.region, waker);
        if foreign {
            self.list(wait);
        }
        wait
    }

    pub(crate) fn remove_wait(&mut self, wait: WaitKey) {
        self.unlist(wait);
        let wait = self.waits.remove(wait);
        // Dropping a waker is foreign code: not here.
        self.drop_later.extend(wait.waker);
    }

    pub(crate) fn fired(&self, wait: WaitKey) -> bool {
        self.waits.get(wait).fired != 0
    }

    /// Whether a wait of the running task was fired before the interrupt came that the task would
    /// be given now: then its result comes first, else the interrupt does.
    pub(crate) fn fired_first(&self, wait: WaitKey) -> bool {
        let fired = self.waits.get(wait).fired;
        fired != 0 && self.interrupted().is_none_or(|interrupted| fired < interrupted)
    }

    /// The trap was polled again: perhaps by another task, or through another combinator.
    pub(crate) fn renew_wait(&mut self, key: WaitKey, waker: Option<Waker>) {
        let task = self.current.map_or(u32::MAX, |key| key.index);
        let region = self.region;
        let foreign = waker.is_some();
        self.unlist(key);
        let wait = self.waits.get_mut(key);
        wait.task = task;
        wait.region = region;
        let former = std::mem::replace(&mut wait.waker, waker);
        self.drop_later.extend(former);
        if foreign {
            self.list(key);
        }
    }

    /// Notes which line a wait stands in, so that other threads can find the primitive.
    pub(crate) fn note_line(&mut self, wait: WaitKey, line: &Rc<Line>) {
        if self.published.is_some() {
            line.resource().register();
        }
        self.waits.get_mut(wait).line = Some(line.clone());
    }

    /// The line of Rust that a wait was made in.
    pub(crate) fn site_of(&self, wait: WaitKey) -> Option<&'static Location<'static>> {
        self.waits.get(wait).blocked.site
    }

    /// By which another thread may have a wait fired: no other wait of the kernel has it.
    pub(crate) fn number_of(&self, wait: WaitKey) -> u64 {
        self.waits.get(wait).number
    }

    /// Calls a foreign waker when the tables may be left.
    pub(crate) fn wake_soon(&mut self, waker: Waker) {
        self.wake_later.push(waker);
    }

    /// The id of the task that a wait belongs to; 0 if it has none.
    pub(crate) fn waiter(&self, wait: WaitKey) -> u64 {
        let task = self.tasks.get(self.waits.get(wait).task as usize);
        task.map_or(0, |task| task.info.id())
    }

    /// The task that a wait belongs to.
    pub(super) fn waiting_task(&self, wait: WaitKey) -> Option<TaskKey> {
        self.tasks.get(self.waits.get(wait).task as usize).map(|task| task.key)
    }

    /// The id of the running task; 0 if none runs.
    pub(crate) fn current_id(&self) -> u64 {
        let current = self.current.and_then(|key| self.task(key));
        current.map_or(0, |task| task.info.id())
    }

    pub(crate) fn current_key(&self) -> Option<TaskKey> {
        self.current
    }

    pub(crate) fn schedule_current(&mut self) {
        if let Some(current) = self.current {
            self.schedule(current.index);
        }
    }

    pub(crate) fn is_current(&self, key: TaskKey) -> bool {
        self.current == Some(key)
    }

    pub(crate) fn show_sleep(&mut self, wait: WaitKey, deadline: Option<u64>) {
        let task = self.waits.get(wait).task;
        if let Some(task) = self.tasks.get(task as usize) {
            task.info.set_sleep(deadline);
        }
    }

    /// Gets in line for the end of `target`, which has not ended.
    pub(crate) fn join(&mut self, target: TaskKey, wait: WaitKey) {
        self.tasks[target.index as usize].joiners.push(&mut self.waits, wait);
    }

    /// Says which group is told of the end of a task; false if one is already.
    pub(crate) fn set_group(&mut self, key: TaskKey, group: &Rc<Ends>) -> bool {
        let Some(task) = self.task_mut(key) else { return false };
        let free = task.group.is_none();
        if free {
            task.group = Some(group.clone());
        }
        free
    }

    pub(crate) fn unjoin(&mut self, target: TaskKey, wait: WaitKey) {
        if let Some(task) =
            self.tasks.get_mut(target.index as usize).filter(|task| task.key == target)
        {
            task.joiners.remove(&mut self.waits, wait);
        }
    }

    /// A waiting task, for an error's text.
    pub(super) fn describe(&self, wait: WaitKey) -> String {
        match self.tasks.get(self.waits.get(wait).task as usize) {
            Some(task) => {
                let (id, name) = (task.info.id(), &task.info.label().name);
                if name.is_empty() { format!("task {id}") } else { format!("task {id} ({name})") }
            }
            None => "another task".into(),
        }
    }

    /// Notes that the running task suspends itself in a way that the kernel knows of.
    pub(crate) fn trapped(&mut self) {
        self.traps = self.traps.wrapping_add(1);
    }

    /// Whether the running task would block in something that is not a trap.
    pub(crate) fn in_foreign_future(&self) -> bool {
        self.foreign_since(self.traps_before, None)
    }

    /// Whether the running task, since it has met `traps` traps, has met no other, and a
    /// combinator inside of `timeout` has none in its keeping either: else the interrupt is theirs.
    pub(crate) fn foreign_since(&self, traps: u32, timeout: Option<TimeoutKey>) -> bool {
        let Some(task) = self.current.and_then(|key| self.task(key)) else { return false };
        let mut kept = task.foreign.iter(&self.waits);
        self.traps == traps
            && !kept.any(|wait| timeout.is_none_or(|timeout| self.encloses(timeout, wait.region)))
    }
}
