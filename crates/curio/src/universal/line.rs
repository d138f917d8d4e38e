//! The line that anybody may stand in: tasks of any kernel, threads, tasks of other executors.
//!
//! It is the [line](crate::sync) of the other primitives, under a lock. A *turn* is free, or it is
//! *given* to the first in line, who is told; he comes and exchanges it for what it stands
//! for. So nothing is ever on its way. Whoever goes without having come for his turn, because he
//! was cancelled or his time is over, passes it on.
//!
//! *How a task is told.* Its wait is fired: at once if its kernel runs in this very thread, else
//! through the kernel's door, by the wait's key and number. Such a key may be stale; its number
//! says so. Whether a turn was given is told by the line alone, under its lock: the firing only makes
//! the task look. So a task that is interrupted between the two passes the turn on.
//!
//! *Nobody is told under the lock*, nor while a kernel's tables are borrowed: wakers are foreign
//! code. What gives a turn hands out [`Who`] is to be told.

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::error::{Error, Result};
use crate::kernel::{self, Core, Door, State, Target, TaskState, WaitKey};
use crate::sync::{ALL, Resource};
use crate::traps::{Trap, Wait, YieldNow};

/// Somebody who waits, and how he is told.
#[must_use = "whoever was given a turn must be told"]
pub struct Who(Name);

enum Name {
    /// A task, by its wait.
    Task(Arc<Door>, WaitKey, u64),
    /// A thread, or a task of another executor.
    Other(Waker),
}

impl Who {
    /// Tells him. No lock of ours is held, and no kernel's tables are borrowed by this thread.
    pub(crate) fn tell(self) {
        match self.0 {
            Name::Task(door, wait, number) => {
                if !kernel::fire_here(&door, wait, number) {
                    door.fire(wait, number);
                }
            }
            Name::Other(waker) => waker.wake(),
        }
    }

    /// The same while the tables of `core` are changed.
    fn tell_in(self, core: &Rc<Core>, state: &mut State) {
        match self.0 {
            Name::Task(door, wait, number) if Arc::ptr_eq(&door, core.door()) => {
                state.fire_numbered(wait, number);
            }
            Name::Task(door, wait, number) => door.fire(wait, number),
            Name::Other(waker) => state.wake_soon(waker),
        }
    }
}

/// See the module. Lives under the lock of what it is a line for.
pub struct Line {
    /// Turns that can be had at once: none while somebody waits. [`ALL`]: it is open.
    free: usize,
    /// A turn is nothing that could be passed on: a moment that all have waited for.
    gate: bool,
    spots: Slab<Spot>,
    /// The ends of the line of those who wait.
    ends: (Option<usize>, Option<usize>),
    /// Where it is counted how many wait.
    resource: Arc<Resource>,
}

/// Where somebody stands.
struct Spot {
    /// `None` once he was given his turn.
    who: Option<Who>,
    /// Who stands before and after him, while he waits.
    neighbours: (Option<usize>, Option<usize>),
}

impl Line {
    pub(super) fn new(free: usize, resource: &Arc<Resource>) -> Line {
        let resource = resource.clone();
        Line { free, gate: false, spots: Slab::new(), ends: (None, None), resource }
    }

    pub(super) fn gate(open: bool, resource: &Arc<Resource>) -> Line {
        Line { gate: true, ..Line::new(if open { ALL } else { 0 }, resource) }
    }

    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// Takes a turn, if one is free.
    fn take(&mut self) -> bool {
        match self.free {
            0 => return false,
            ALL => {}
            _ => self.free -= 1,
        }
        true
    }

    /// Gives a turn to the first in line; to whoever comes, if there is none.
    pub(super) fn give(&mut self) -> Option<Who> {
        match self.ends.0 {
            Some(first) => {
                self.unlink(first);
                self.spots[first].who.take()
            }
            None => {
                self.free = self.free.saturating_add(1);
                None
            }
        }
    }

    /// Gives a turn to everybody, and to all who come.
    pub(super) fn open(&mut self) -> Vec<Who> {
        let waiting = std::iter::from_fn(|| {
            self.ends.0?;
            self.give()
        });
        let all = waiting.collect();
        self.free = ALL;
        all
    }

    /// Closes what is open. Turns that were given stay so.
    pub(super) fn close(&mut self) {
        self.free = 0;
    }

    /// A spot for who took a free turn: he looks at it, and need not be told.
    fn stand_given(&mut self) -> usize {
        self.spots.insert(Spot { who: None, neighbours: (None, None) })
    }

    fn stand(&mut self, who: Who) -> usize {
        self.resource.count_waiting(1);
        let last = self.ends.1;
        let spot = self.spots.insert(Spot { who: Some(who), neighbours: (last, None) });
        match last {
            Some(last) => self.spots[last].neighbours.1 = Some(spot),
            None => self.ends.0 = Some(spot),
        }
        self.ends.1 = Some(spot);
        spot
    }

    fn unlink(&mut self, spot: usize) {
        self.resource.count_waiting(-1);
        let (before, after) = std::mem::take(&mut self.spots[spot].neighbours);
        match before {
            Some(before) => self.spots[before].neighbours.1 = after,
            None => self.ends.0 = after,
        }
        match after {
            Some(after) => self.spots[after].neighbours.0 = before,
            None => self.ends.1 = before,
        }
    }

    fn is_given(&self, spot: usize) -> bool {
        self.spots[spot].who.is_none()
    }

    /// Ends a stay in line; what comes back was not told anything.
    fn leave(&mut self, spot: usize) -> Option<Who> {
        if !self.is_given(spot) {
            self.unlink(spot);
        }
        self.spots.remove(spot).who
    }
}

/// What several threads share, and what the monitor may know of it.
pub struct Shared<I> {
    inside: Mutex<I>,
    pub(super) resource: Arc<Resource>,
}

impl<I> Shared<I> {
    pub(super) fn new(inside: I, resource: Arc<Resource>) -> Arc<Shared<I>> {
        Arc::new(Shared { inside: Mutex::new(inside), resource })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, I> {
        // Nothing in here can panic, so the lock is never poisoned in earnest.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For who must not wait for the lock.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, I>> {
        self.inside.try_lock().ok()
    }
}

/// One way to use a primitive: a line, and what a turn in it is exchanged for.
#[doc(hidden)]
pub trait Side: Unpin {
    type Inside;
    type Got;
    /// The operation, and the state of a task in line.
    const NAMES: (&'static str, TaskState);

    fn shared(&self) -> &Arc<Shared<Self::Inside>>;

    fn line(inside: &mut Self::Inside) -> &mut Line;

    /// Exchanges a turn; this may give another one its turn, in another line.
    fn exchange(&mut self, inside: &mut Self::Inside) -> (Self::Got, Option<Who>);

    /// Is told when turns have been taken or given, under the lock.
    fn changed(inside: &mut Self::Inside) {
        let _ = inside;
    }
}

/// What a turn was exchanged for, and who is to be told of it.
type Exchanged<S> = (<S as Side>::Got, Option<Who>);

/// Takes a turn and exchanges it, if one is free.
fn take<S: Side>(side: &mut S) -> Option<Exchanged<S>> {
    let shared = side.shared().clone();
    let mut inside = shared.lock();
    if !S::line(&mut inside).take() {
        return None;
    }
    let exchanged = side.exchange(&mut inside);
    S::changed(&mut inside);
    Some(exchanged)
}

/// Takes a turn and exchanges it, if one is free.
pub(super) fn try_turn<S: Side>(side: &mut S) -> Option<S::Got> {
    take(side).map(hand_over)
}

/// Gets in line; says whether a turn was free after all, and is given.
fn stand<S: Side>(side: &S, who: Who) -> (usize, bool) {
    let mut inside = side.shared().lock();
    let line = S::line(&mut inside);
    let given = line.take();
    let spot = if given { line.stand_given() } else { line.stand(who) };
    S::changed(&mut inside);
    (spot, given)
}

/// Exchanges a turn that was given.
fn collect<S: Side>(side: &mut S, spot: usize) -> Exchanged<S> {
    let shared = side.shared().clone();
    let mut inside = shared.lock();
    let told = S::line(&mut inside).leave(spot);
    debug_assert!(told.is_none(), "a turn is exchanged once it was given");
    let exchanged = side.exchange(&mut inside);
    S::changed(&mut inside);
    exchanged
}

/// Goes away, and passes the turn on that was given meanwhile: to the first. The second was the
/// one who stood here, if he was not told.
fn leave<S: Side>(side: &S, spot: usize) -> (Option<Who>, Option<Who>) {
    let mut inside = side.shared().lock();
    let line = S::line(&mut inside);
    let given = line.is_given(spot);
    let gone = line.leave(spot);
    let next = if given && !line.gate { line.give() } else { None };
    S::changed(&mut inside);
    (next, gone)
}

/// A side that is lent, to look into it afterwards.
impl<S: Side> Side for &mut S {
    type Inside = S::Inside;
    type Got = S::Got;
    const NAMES: (&'static str, TaskState) = S::NAMES;

    fn shared(&self) -> &Arc<Shared<S::Inside>> {
        (**self).shared()
    }

    fn line(inside: &mut S::Inside) -> &mut Line {
        S::line(inside)
    }

    fn exchange(&mut self, inside: &mut S::Inside) -> (S::Got, Option<Who>) {
        (**self).exchange(inside)
    }

    fn changed(inside: &mut S::Inside) {
        S::changed(inside);
    }
}

/// Takes a turn, and waits for it if need be: as a task of the running kernel, or, without one, as
/// what the waker stands for.
///
/// A task that never has to wait lets others run now and then.
pub(super) async fn turn<S: Side>(side: &mut S) -> Result<S::Got> {
    if !kernel::is_running() {
        let mut standing = Standing::new(side);
        return Ok(std::future::poll_fn(|cx| standing.poll(cx)).await);
    }
    if kernel::exhausted() {
        YieldNow::new().await?;
    }
    let mut wait = Wait::new(SideTrap { side, spot: None, exchanged: None });
    (&mut wait).await?;
    let exchanged = wait.trap_mut().exchanged.take();
    Ok(hand_over(exchanged.expect("a turn is exchanged when the wait for it is over")))
}

/// The trap of a task that stands in a line.
struct SideTrap<S: Side> {
    side: S,
    spot: Option<usize>,
    exchanged: Option<Exchanged<S>>,
}

// Nothing in it is referred to.
impl<S: Side> Unpin for SideTrap<S> {}

impl<S: Side> Trap for SideTrap<S> {
    fn name(&self) -> &'static str {
        S::NAMES.0
    }

    fn state(&self) -> TaskState {
        S::NAMES.1
    }

    fn target(&self) -> Target {
        Target::Resource(self.side.shared().resource.id())
    }

    fn done(&mut self, _core: &Rc<Core>, _state: &State) -> bool {
        self.exchanged = take(&mut self.side);
        self.exchanged.is_some()
    }

    fn arm(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()> {
        self.side.shared().resource.register();
        let who = Who(Name::Task(core.door().clone(), wait, state.number_of(wait)));
        let (spot, given) = stand(&self.side, who);
        self.spot = Some(spot);
        if given {
            // A turn has become free since `done`.
            state.fire(wait);
        }
        Ok(())
    }

    fn disarm(&mut self, _state: &mut State, _wait: WaitKey) {}

    fn ended(&mut self, core: &Rc<Core>, state: &mut State, _wait: WaitKey, used: bool) {
        let Some(spot) = self.spot.take() else { return };
        if used {
            self.exchanged = Some(collect(&mut self.side, spot));
        } else if let (Some(next), _gone) = leave(&self.side, spot) {
            next.tell_in(core, state);
        }
    }
}

/// Somebody in line who is no task of a kernel of this thread. Dropping it leaves the line.
pub struct Standing<S: Side> {
    side: S,
    spot: Option<usize>,
}

impl<S: Side> Standing<S> {
    pub(super) fn new(side: S) -> Self {
        Standing { side, spot: None }
    }

    /// Exchanges the turn, once there is one; till then, the waker will be woken. Not to be called
    /// again after it was ready.
    #[doc(hidden)]
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<S::Got> {
        let side = &mut self.side;
        let spot = match self.spot {
            Some(spot) => {
                let shared = side.shared().clone();
                let mut inside = shared.lock();
                let who = &mut S::line(&mut inside).spots[spot].who;
                if let Some(Who(Name::Other(waker))) = who {
                    if !waker.will_wake(cx.waker()) {
                        let former = std::mem::replace(waker, cx.waker().clone());
                        drop(inside);
                        drop(former); // foreign code
                    }
                    return Poll::Pending;
                }
                spot
            }
            None => {
                if let Some(exchanged) = take(side) {
                    return Poll::Ready(hand_over(exchanged));
                }
                let (spot, given) = stand(side, Who(Name::Other(cx.waker().clone())));
                self.spot = Some(spot);
                if !given {
                    return Poll::Pending;
                }
                spot
            }
        };
        self.spot = None;
        Poll::Ready(hand_over(collect(side, spot)))
    }

    /// Whether a turn was given that nobody has come for.
    #[doc(hidden)]
    pub fn is_given(&self) -> bool {
        let shared = self.side.shared();
        self.spot.is_some_and(|spot| S::line(&mut shared.lock()).is_given(spot))
    }

    /// Leaves the line, if it stands there still.
    #[doc(hidden)]
    pub fn leave(&mut self) {
        if let Some(spot) = self.spot.take()
            && let (Some(next), _gone) = leave(&self.side, spot)
        {
            next.tell();
        }
    }

    /// Waits in this thread, for so long at most; `None` when the time is over.
    pub(super) fn block(&mut self, timeout: Option<Duration>) -> Result<Option<S::Got>> {
        if kernel::is_running() {
            let name = S::NAMES.0;
            return Err(Error::misuse(format!(
                "{name} would block the thread of a running kernel: await it"
            )));
        }
        // What is too far away to be told is never reached.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let waker = PARKED.try_with(Waker::clone).unwrap_or_else(|_| parked());
        let mut cx = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(got) = self.poll(&mut cx) {
                return Ok(Some(got));
            }
            match deadline {
                None => thread::park(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    thread::park_timeout(left);
                }
            }
        }
    }
}

impl<S: Side> Drop for Standing<S> {
    fn drop(&mut self) {
        self.leave();
    }
}

fn hand_over<G>((got, who): (G, Option<Who>)) -> G {
    if let Some(who) = who {
        who.tell();
    }
    got
}

thread_local! {
    /// Wakes this thread.
    static PARKED: Waker = parked();
}

fn parked() -> Waker {
    Waker::from(Arc::new(Parked(thread::current())))
}

struct Parked(Thread);

impl std::task::Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}
