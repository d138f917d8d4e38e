//! Task groups: tasks that end together.
//!
//! A task that belongs to a group tells the group of its end ([`Ends`], which the kernel calls
//! when it takes the task out of its table). The group keeps the ends in their order until
//! somebody looks at them, so there is one wait for any number of tasks, and each end costs the
//! same however many tasks there are.
//!
//! Whoever joins a group goes through the ends until the group's [`WaitFor`] is satisfied, or a
//! task has failed, or the waiting is interrupted. Then the group takes no more tasks, those that
//! are left are asked to end, all at once, and are waited for *under a shield*: when `join` is
//! over, no task of the group runs, whatever comes in between. What comes meanwhile arrives at
//! the caller's next trap.
//!
//! [`Group`] knows nothing of results: what a member is, and whether its end is a failure, it asks
//! [`Member`]. [`TaskGroup`] is the group of tasks written in Rust.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;

use crate::error::{Cancellation, Error, Result};
use crate::kernel::{self, State, TaskInfo, TaskState};
use crate::sync::{ALL, Kind, Line, Resource, Rule};
use crate::task::{Task, TaskBuilder, TaskRef, here};
use crate::time::disable_cancellation;
use crate::traps::{YieldNow, at};

/// Which end of its tasks [`TaskGroup::join`] waits for. The rest is cancelled then.
#[derive(Clone, Copy, Debug)]
pub enum WaitFor<T> {
    /// Until all tasks have ended, or one has failed.
    All,
    /// Until any task has ended, in whatever way.
    Any,
    /// Until a task has ended with a value of which this is true, or one has failed.
    First(fn(&T) -> bool),
    /// For none: all that are still at it are cancelled.
    Nobody,
}

/// Tasks that belong together: they are waited for together, and none outlives the group's end.
///
/// The group ends by [`join`](Self::join), or with the block of [`scope`](Self::scope). A task
/// that fails or is cancelled ends it for all. A group that is dropped without that asks its tasks
/// to end, but nobody waits for them; so prefer `scope`.
///
/// # Examples
///
/// ```
/// use curio::{TaskGroup, WaitFor};
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let group = TaskGroup::new(WaitFor::All);
///     for n in 1..=3 {
///         group.spawn(async move { Ok(n * n) })?;
///     }
///     assert_eq!(group.join().await?, [1, 4, 9]);
///     Ok(())
/// })
/// # }
/// ```
pub struct TaskGroup<T: 'static> {
    group: Group<Typed<T>>,
    wait: WaitFor<T>,
}

struct Typed<T> {
    task: Task<T>,
    /// Whether its value is what the group waits for.
    wanted: Option<fn(&T) -> bool>,
}

impl<T: 'static> Member for Typed<T> {
    fn task(&self) -> &TaskRef {
        &self.task
    }

    fn ended(&self) -> Ended {
        self.task.with_outcome(|outcome| match outcome {
            Some(Ok(value)) if self.wanted.is_none_or(|wanted| wanted(value)) => Ended::Value,
            Some(Ok(_)) => Ended::Nothing,
            Some(Err(_)) | None => Ended::Failed,
        })
    }
}

impl<T: 'static> TaskGroup<T> {
    /// A group without tasks.
    pub fn new(wait: WaitFor<T>) -> Self {
        TaskGroup { group: Group::new(), wait }
    }

    /// Runs `body` with a new group, and joins the group when it is over: a block that no task of
    /// the group outlives. Gives what `body` gives.
    ///
    /// # Errors
    /// That of `body`: the tasks are cancelled then, and waited for, before it is passed on. Else
    /// those of [`join`](Self::join).
    ///
    /// # Cancellation
    /// The tasks are cancelled, and waited for; then the cancellation is passed on.
    ///
    /// # Examples
    ///
    /// ```
    /// use curio::{TaskGroup, WaitFor};
    ///
    /// # fn main() -> curio::Result<()> {
    /// curio::run(async {
    ///     let fastest = TaskGroup::scope(WaitFor::All, async |group| {
    ///         group.spawn(async { Ok("hare") })?;
    ///         group.spawn(async { Ok("tortoise") })?;
    ///         group.next_result().await
    ///     })
    ///     .await?;
    ///     assert_eq!(fastest, Some("hare"));
    ///     Ok(())
    /// })
    /// # }
    /// ```
    #[track_caller]
    pub fn scope<R>(
        wait: WaitFor<T>,
        body: impl AsyncFnOnce(&TaskGroup<T>) -> Result<R>,
    ) -> impl Future<Output = Result<R>> {
        let site = Location::caller();
        async move {
            let group = TaskGroup::new(wait);
            match body(&group).await {
                Ok(value) => {
                    at(site, group.join()).await?;
                    Ok(value)
                }
                Err(error) => {
                    at(site, group.group.end(|| here(site))).await?;
                    Err(error)
                }
            }
        }
    }

    /// Starts a task of the group that runs `future`, as [`spawn`](crate::spawn) does.
    ///
    /// # Errors
    /// Misuse if the group has been joined: nobody would wait for the task. `future` is dropped.
    ///
    /// # Panics
    /// As [`spawn`](crate::spawn) does.
    #[track_caller]
    pub fn spawn(&self, future: impl Future<Output = Result<T>> + 'static) -> Result<TaskRef> {
        self.spawn_with(TaskBuilder::new(), future)
    }

    /// As [`spawn`](Self::spawn), with a name, or as a daemon: the group does not wait for it,
    /// knows nothing of its result, and cancels it when the group ends.
    ///
    /// # Errors
    /// As those of [`spawn`](Self::spawn).
    ///
    /// # Panics
    /// As [`spawn`](crate::spawn) does.
    #[track_caller]
    pub fn spawn_with(
        &self,
        builder: TaskBuilder,
        future: impl Future<Output = Result<T>> + 'static,
    ) -> Result<TaskRef> {
        self.group.ensure_open()?;
        self.add(builder.spawn(future))
    }

    /// Takes a task in that runs already, or has ended.
    ///
    /// # Errors
    /// Misuse if the group has been joined, or has tasks of another kernel. The task is left alone.
    pub fn add(&self, task: Task<T>) -> Result<TaskRef> {
        let reference = (*task).clone();
        let wanted = match self.wait {
            WaitFor::First(wanted) => Some(wanted),
            _ => None,
        };
        self.group.add(Typed { task, wanted })?;
        Ok(reference)
    }

    /// The tasks of the group, in the order of their creation: those that nobody has taken out.
    pub fn tasks(&self) -> Vec<TaskRef> {
        self.group.map(|member| member.task().clone())
    }

    /// Waits for the next task that ends, and takes it out of the group; `None` if no task is
    /// left, daemons aside.
    ///
    /// # Errors
    /// Misuse in another kernel than that of the tasks.
    ///
    /// # Cancellation
    /// No task is taken out, and none is cancelled.
    #[track_caller]
    pub fn next_done(&self) -> impl Future<Output = Result<Option<Task<T>>>> + use<'_, T> {
        at(Location::caller(), async {
            let next = self.group.next().await?;
            Ok(next.map(|member| member.task))
        })
    }

    /// As [`next_done`](Self::next_done), but gives the task's value.
    ///
    /// # Errors
    /// [`is_task_error`](Error::is_task_error) if the task has failed; the others run on.
    /// Besides, those of [`next_done`](Self::next_done).
    ///
    /// # Cancellation
    /// No value is lost, and no task is cancelled.
    #[track_caller]
    pub fn next_result(&self) -> impl Future<Output = Result<Option<T>>> + use<'_, T> {
        at(Location::caller(), async {
            match self.group.next().await? {
                Some(member) => member.task.take_result().map(Some),
                None => Ok(None),
            }
        })
    }

    /// Waits as the group's [`WaitFor`] says, then cancels the tasks that are left, daemons too,
    /// and waits until they have ended. Gives the values that were waited for: of all tasks, in
    /// the order of their creation; of the one that came first; or none.
    ///
    /// Afterwards the group takes no more tasks. A second call finds no values.
    ///
    /// # Errors
    /// [`is_task_error`](Error::is_task_error) if the waiting was ended by a task that has failed,
    /// was cancelled or has panicked. Misuse if a task of the group joins it.
    ///
    /// # Cancellation
    /// All tasks are cancelled, and waited for; then the cancellation is passed on. Values are lost.
    #[track_caller]
    pub fn join(&self) -> impl Future<Output = Result<Vec<T>>> + use<'_, T> {
        let site = Location::caller();
        at(site, async move {
            let until = match self.wait {
                WaitFor::All => Until::All,
                WaitFor::Any => Until::Any,
                WaitFor::First(_) => Until::Value,
                WaitFor::Nobody => Until::Nobody,
            };
            let first = self.group.completed();
            self.group.join(until, || here(site)).await?;
            if first.is_some() {
                return Ok(Vec::new());
            }
            self.values()
        })
    }

    /// What a join gives.
    fn values(&self) -> Result<Vec<T>> {
        if let Some(failed) = self.group.failure() {
            return Err(failed.task.take_result().err().unwrap_or_else(|| {
                Error::misuse(format!("{} was counted as failed, but has a value", *failed.task))
            }));
        }
        match self.wait {
            WaitFor::All => {
                self.group.take_all().into_iter().map(|member| member.task.take_result()).collect()
            }
            WaitFor::Any | WaitFor::First(_) => {
                let first = self.group.completed().and_then(|id| self.group.take(id));
                first.into_iter().map(|member| member.task.take_result()).collect()
            }
            WaitFor::Nobody => Ok(Vec::new()),
        }
    }

    /// Cancels all tasks that have not ended, at once, waits until they have, and takes them out
    /// of the group. It takes more tasks afterwards.
    ///
    /// # Errors
    /// Misuse if a task of the group asks for it, which would wait for its own end.
    ///
    /// # Cancellation
    /// The requests stand; only the waiting is given up.
    #[track_caller]
    pub fn cancel_remaining(&self) -> impl Future<Output = Result<()>> + use<'_, T> {
        let site = Location::caller();
        at(site, async move { self.group.cancel_remaining(|| here(site)).await.map(drop) })
    }
}

impl<T> Drop for TaskGroup<T> {
    fn drop(&mut self) {
        let site = Location::caller();
        drop(self.group.ask(|| here(site)));
    }
}

impl<T> fmt::Debug for TaskGroup<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.group.fmt(f)
    }
}

// What bindings use as well.

/// Which end of its tasks a group waits for.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    All,
    Any,
    Value,
    Nobody,
}

/// How a task has ended, to its group.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an error, or cancelled.
    Failed,
    /// With what [`Until::Value`] waits for.
    Value,
    /// Without.
    Nothing,
}

/// What a group keeps of a task.
#[doc(hidden)]
pub trait Member {
    fn task(&self) -> &TaskRef;

    /// How it has ended. Only asked then.
    fn ended(&self) -> Ended;
}

/// A group of tasks of any kind. Clones are the same group.
#[doc(hidden)]
pub struct Group<M>(Rc<Inside<M>>);

struct Inside<M> {
    ends: Rc<Ends>,
    /// By task id.
    members: RefCell<BTreeMap<u64, M>>,
    /// The task that has satisfied the first `join`.
    completed: Cell<Option<u64>>,
    /// The task whose failure has ended it.
    failed: Cell<Option<u64>>,
    /// It takes no more tasks.
    closed: Cell<bool>,
    /// A `join` is over.
    joined: Cell<bool>,
}

/// What a task tells of its end. A daemon tells nobody.
pub(crate) struct Ends {
    line: Rc<Line>,
    /// Tasks that have ended, in that order, until somebody looks at them; perhaps some that
    /// have left the group since.
    done: RefCell<VecDeque<u64>>,
    /// How many have not ended.
    running: Cell<usize>,
}

impl Ends {
    /// Is told by the kernel that a member has ended.
    pub(crate) fn ended(&self, state: &mut State, task: &TaskInfo) {
        if !task.daemon() {
            self.line.give_in(state, self.note(task.id()));
        }
    }

    /// Notes an end; gives how many are to be woken: whoever waits for a next one that will
    /// not come has to know.
    fn note(&self, task: u64) -> usize {
        self.done.borrow_mut().push_back(task);
        self.count(-1);
        if self.running.get() == 0 { ALL } else { 1 }
    }

    fn count(&self, change: isize) {
        let running = self.running.get().wrapping_add_signed(change);
        self.running.set(running);
        self.line.resource().set_level(running);
    }
}

impl<M> Clone for Group<M> {
    fn clone(&self) -> Self {
        Group(self.0.clone())
    }
}

impl<M> Group<M> {
    #[allow(clippy::new_without_default, reason = "as the primitives are made")]
    pub fn new() -> Self {
        let resource = Resource::new(Kind::TaskGroup, 0);
        let line =
            Line::new("TaskGroup.next_done", TaskState::TaskJoin, Rule::Notices, 0, resource);
        let ends = Rc::new(Ends { line, done: RefCell::default(), running: Cell::new(0) });
        Group(Rc::new(Inside {
            ends,
            members: RefCell::default(),
            completed: Cell::new(None),
            failed: Cell::new(None),
            closed: Cell::new(false),
            joined: Cell::new(false),
        }))
    }

    /// The task that has ended the first join.
    pub fn completed(&self) -> Option<u64> {
        self.0.completed.get()
    }

    /// The task whose failure has ended the first join.
    pub fn failed(&self) -> Option<u64> {
        self.0.failed.get()
    }

    /// Whether a join is over.
    pub fn is_joined(&self) -> bool {
        self.0.joined.get()
    }

    /// Calls `f` with each member, in the order of their ids.
    pub fn map<R>(&self, f: impl FnMut(&M) -> R) -> Vec<R> {
        self.0.members.borrow().values().map(f).collect()
    }

    /// As `map` for one. `None` if it does not belong to the group (any more).
    pub fn with<R>(&self, id: u64, f: impl FnOnce(&M) -> R) -> Option<R> {
        self.0.members.borrow().get(&id).map(f)
    }

    /// The members, for a collector, which may come at any time.
    pub fn members(&self) -> &RefCell<BTreeMap<u64, M>> {
        &self.0.members
    }

    #[doc(hidden)]
    pub fn resource(&self) -> &Arc<Resource> {
        self.0.ends.line.resource()
    }

    /// Takes a task out of the group that has ended.
    pub fn take(&self, id: u64) -> Option<M> {
        self.0.members.borrow_mut().remove(&id)
    }

    fn take_all(&self) -> Vec<M> {
        self.0.members.take().into_values().collect()
    }

    fn failure(&self) -> Option<M> {
        self.failed().and_then(|id| self.take(id))
    }

    /// Whether more tasks can be added.
    pub fn ensure_open(&self) -> Result<()> {
        if self.0.closed.get() {
            let group = self.resource();
            return Err(Error::misuse(format!("{group} has been joined: it takes no more tasks")));
        }
        Ok(())
    }
}

impl<M: Member> Group<M> {
    /// Takes a task in.
    ///
    /// # Errors
    /// Misuse: the group is closed, has tasks of another kernel, or the task has a group.
    pub fn add(&self, member: M) -> Result<()> {
        self.ensure_open()?;
        let task = member.task().clone();
        let stranger = |member: &M| !Rc::ptr_eq(member.task().core(), task.core());
        if self.0.members.borrow().values().next().is_some_and(stranger) {
            return Err(Error::misuse(format!(
                "{task} is another kernel's than those of {}",
                self.resource()
            )));
        }
        let ends = &self.0.ends;
        if task.terminated() {
            self.0.members.borrow_mut().insert(task.id(), member);
            if !task.info().daemon() {
                ends.count(1);
                ends.line.give(ends.note(task.id()));
            }
            return Ok(());
        }
        let added = task.core().with_state(|state| state.set_group(task.key(), ends));
        if !added {
            return Err(Error::misuse(format!("{task} belongs to a group already")));
        }
        if !task.info().daemon() {
            ends.count(1);
        }
        self.0.members.borrow_mut().insert(task.id(), member);
        Ok(())
    }

    /// Waits for the next end, and takes the task out.
    pub async fn next(&self) -> Result<Option<M>> {
        let next = self.next_id().await?;
        Ok(next.and_then(|id| self.take(id)))
    }

    /// Waits for the next end of a task that belongs to the group.
    async fn next_id(&self) -> Result<Option<u64>> {
        if kernel::exhausted() {
            YieldNow::new().await?;
        }
        let ends = &self.0.ends;
        loop {
            let next = ends.done.borrow_mut().pop_front();
            match next {
                Some(id) if self.0.members.borrow().contains_key(&id) => return Ok(Some(id)),
                Some(_) => {}
                None if ends.running.get() == 0 => return Ok(None),
                None => {
                    self.ensure_here()?;
                    ends.line.wait().await?;
                }
            }
        }
    }

    /// The line serves the kernel whose tasks tell of their ends.
    fn ensure_here(&self) -> Result<()> {
        let members = self.0.members.borrow();
        let elsewhere = |member: &M| kernel::current().is_some() && !member.task().core().is_here();
        if members.values().next().is_some_and(elsewhere) {
            let group = self.resource();
            return Err(Error::misuse(format!("the tasks of {group} are another kernel's")));
        }
        Ok(())
    }

    fn ensure_outside(&self, operation: &str) -> Result<()> {
        let current = crate::task::current_task().ok();
        match current.filter(|task| self.0.members.borrow().contains_key(&task.id())) {
            Some(task) => Err(Error::misuse(format!(
                "{task} cannot {operation} {}, which it belongs to: it would wait for its own end",
                self.resource()
            ))),
            None => Ok(()),
        }
    }

    /// Waits until `until` is satisfied, then ends the group.
    pub async fn join(&self, until: Until, cancel: impl FnOnce() -> Cancellation) -> Result<()> {
        self.ensure_outside("join")?;
        let waited = self.satisfied(until).await;
        self.end(cancel).await?;
        waited
    }

    async fn satisfied(&self, until: Until) -> Result<()> {
        if until == Until::Nobody {
            return Ok(());
        }
        while let Some(id) = self.next_id().await? {
            // Out of the table meanwhile: it may ask foreign code.
            let Some(member) = self.take(id) else { continue };
            let ended = member.ended();
            self.0.members.borrow_mut().insert(id, member);
            let satisfied = match until {
                Until::All => ended == Ended::Failed,
                Until::Any => true,
                Until::Value => ended != Ended::Nothing,
                Until::Nobody => unreachable!("looked at above"),
            };
            if self.0.closed.get() {
                continue; // by another task's join, which has seen enough
            }
            if self.0.completed.get().is_none() && (satisfied || until == Until::All) {
                self.0.completed.set(Some(id));
            }
            if ended == Ended::Failed && satisfied {
                self.0.failed.set(Some(id));
            }
            if satisfied {
                break;
            }
        }
        Ok(())
    }

    /// Closes the group, cancels who is left, and waits until nobody is.
    ///
    /// What would interrupt that waits for the caller's next trap. Gives those who were left.
    pub async fn end(&self, cancel: impl FnOnce() -> Cancellation) -> Result<Vec<TaskRef>> {
        self.0.closed.set(true);
        let left = self.ask(cancel);
        if !left.is_empty() {
            disable_cancellation(wait_for(&left)).await?;
        }
        let daemons = self.map(|member| member.task().clone());
        for daemon in daemons.iter().filter(|task| task.info().daemon()) {
            drop(self.take(daemon.id())); // foreign code, so the borrow is over
        }
        self.0.joined.set(true);
        Ok(left)
    }

    /// As `end`, and takes out who was cancelled.
    pub async fn abort(&self, cancel: impl FnOnce() -> Cancellation) -> Result<Vec<M>> {
        let left = self.end(cancel).await?;
        Ok(left.into_iter().filter_map(|task| self.take(task.id())).collect())
    }

    /// Cancels who is left, waits, and takes them out.
    pub async fn cancel_remaining(&self, cancel: impl FnOnce() -> Cancellation) -> Result<Vec<M>> {
        self.ensure_outside("cancel")?;
        let left = self.ask(cancel);
        wait_for(&left).await?;
        Ok(left.into_iter().filter_map(|task| self.take(task.id())).collect())
    }

    /// Asks all that have not ended to end; gives them.
    fn ask(&self, cancel: impl FnOnce() -> Cancellation) -> Vec<TaskRef> {
        let mut left = self.map(|member| member.task().clone());
        left.retain(|task| !task.terminated());
        if left.is_empty() {
            return left;
        }
        let cancellation = Arc::new(cancel());
        for task in &left {
            task.request(&cancellation);
        }
        left
    }
}

impl<M> fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGroup")
            .field("tasks", &self.0.members.borrow().len())
            .field("running", &self.0.ends.running.get())
            .field("joined", &self.0.joined.get())
            .finish()
    }
}

async fn wait_for(tasks: &[TaskRef]) -> Result<()> {
    for task in tasks {
        task.wait().await?;
    }
    Ok(())
}
