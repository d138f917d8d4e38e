//! Traps: the only places where a task can block.
//!
//! A [`Trap`] says what is waited for: how to get in line for it, how to leave the
//! line, and which state the monitor shows meanwhile. A [`Wait`] is the future
//! over any trap, and holds the cancellation contract for all of them in one
//! place:
//!
//! 1. a trap that is about to block is interrupted instead, if something is pending;
//! 2. a trap that was fired before the interrupt came returns its result, and the
//!    interrupt waits for the next trap: nothing that was handed over is lost;
//! 3. otherwise a pending interrupt takes it out of the line and is its error.
//!
//! The poller's events, the timers and other tasks *fire* waits; they never fail.
//!
//! An end, a moment, a readiness stays what it is if the interrupt had come before. A trap
//! that is *handed* something when it is fired (a lock, an item) takes it back in
//! [`Trap::ended`], which tells whether the result was used, and passes it on.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{self, Blocked, Core, State, Target, TaskKey, TaskState, WaitKey};

/// Something that a task can block in.
#[doc(hidden)]
pub trait Trap {
    /// The operation, for the error of awaiting it outside of a kernel.
    fn name(&self) -> &'static str;

    /// What the task's state is while it waits.
    fn state(&self) -> TaskState;

    /// What is waited for, for the monitor.
    fn target(&self) -> Target {
        Target::Nothing
    }

    /// What would be waited for is there already: the trap does not block, and so is no
    /// cancellation point.
    fn done(&mut self, core: &Rc<Core>, state: &State) -> bool {
        let _ = (core, state);
        false
    }

    /// Gets in line: somebody will fire `wait`. An error means that it is not in line.
    fn arm(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()>;

    /// Leaves the line without having been fired.
    fn disarm(&mut self, state: &mut State, wait: WaitKey);

    /// What has fired it cannot be given to anybody else: it is used even if an interrupt had come
    /// before, which waits for the next trap then.
    fn keeps(&self) -> bool {
        false
    }

    /// Is told that the wait is over, fired or given up; it is still in the table. Unless `used`,
    /// its task does not learn that it was fired: an interrupt came first, or nobody asks.
    fn ended(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey, used: bool) {
        let _ = (core, state, wait, used);
    }
}

/// The future of a task that blocks in a trap.
#[doc(hidden)]
#[must_use = "a trap does nothing unless it is awaited"]
pub struct Wait<T: Trap> {
    trap: T,
    /// The line of Rust that has made it.
    site: &'static Location<'static>,
    armed: Option<(Rc<Core>, WaitKey)>,
}

/// A wait that may be looked into when it is over.
impl<T: Trap> Wait<T> {
    /// The trap, with what it keeps for whoever has waited.
    pub(crate) fn trap_mut(&mut self) -> &mut T {
        &mut self.trap
    }
}

impl<T: Trap> Wait<T> {
    #[track_caller]
    pub(crate) fn new(trap: T) -> Self {
        Wait { trap, site: Location::caller(), armed: None }
    }

    /// Whether it was fired: when polled next, it is ready.
    pub(crate) fn fired(&self) -> bool {
        self.armed.as_ref().is_some_and(|(core, wait)| core.state().fired(*wait))
    }

    fn arm(&mut self, cx: &Context<'_>) -> Poll<Result<()>> {
        let waker = cx.waker();
        let foreign = (!kernel::is_own(waker)).then(|| waker.clone());
        let Some(core) = kernel::current() else {
            return Poll::Ready(Err(outside(self.trap.name())));
        };
        let armed = core.with_state(|state| {
            if self.trap.done(&core, state) {
                return Ok(None);
            }
            if let Some(interrupt) = state.take_interrupt(|| core.now()) {
                return Err(interrupt);
            }
            let (task_state, target) = (self.trap.state(), self.trap.target());
            let site = Some(site(self.site));
            let wait = state.insert_wait(Blocked { state: task_state, target, site }, foreign);
            if let Err(error) = self.trap.arm(&core, state, wait) {
                state.remove_wait(wait);
                return Err(error);
            }
            state.block(wait);
            Ok(Some(wait))
        });
        match armed {
            Ok(Some(wait)) => {
                self.armed = Some((core, wait));
                Poll::Pending
            }
            Ok(None) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<T: Trap + Unpin> Future for Wait<T> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let Some((core, wait)) = &this.armed else { return this.arm(cx) };
        let wait = *wait;
        let waker = cx.waker();
        let foreign = (!kernel::is_own(waker)).then(|| waker.clone());
        let result = core.with_state(|state| {
            let kept = this.trap.keeps() && state.fired(wait);
            let result = if kept || state.fired_first(wait) {
                Ok(())
            } else if let Some(interrupt) = state.take_interrupt(|| core.now()) {
                if !state.fired(wait) {
                    this.trap.disarm(state, wait);
                }
                Err(interrupt)
            } else if state.fired(wait) {
                Ok(())
            } else {
                state.renew_wait(wait, foreign);
                state.block(wait);
                return Poll::Pending;
            };
            this.trap.ended(core, state, wait, result.is_ok());
            state.remove_wait(wait);
            Poll::Ready(result)
        });
        if result.is_ready() {
            this.armed = None;
        }
        result
    }
}

impl<T: Trap> Drop for Wait<T> {
    fn drop(&mut self) {
        if let Some((core, wait)) = self.armed.take() {
            core.with_state(|state| {
                if !state.fired(wait) {
                    self.trap.disarm(state, wait);
                }
                self.trap.ended(&core, state, wait, false);
                state.remove_wait(wait);
            });
        }
    }
}

/// Runs an operation that is made of several traps; the monitor shows `site` for all of them.
pub(crate) async fn at<T>(
    site: &'static Location<'static>,
    operation: impl Future<Output = T>,
) -> T {
    let mut operation = pin!(operation);
    poll_fn(|cx| {
        let _here = SITE.get().is_none().then(|| Here::new(site));
        operation.as_mut().poll(cx)
    })
    .await
}

thread_local! {
    /// The line that awaits the operation which is being polled, if it is made of several traps.
    static SITE: Cell<Option<&'static Location<'static>>> = const { Cell::new(None) };
}

/// Says, while it lives, which line awaits what is being polled.
struct Here;

impl Here {
    fn new(site: &'static Location<'static>) -> Here {
        SITE.set(Some(site));
        Here
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        SITE.set(None);
    }
}

/// The line that awaits the operation which is being polled; `own` if it is a single trap.
pub(crate) fn site(own: &'static Location<'static>) -> &'static Location<'static> {
    SITE.get().unwrap_or(own)
}

/// The error of a trap that is awaited where no kernel runs.
pub(crate) fn outside(operation: &str) -> Error {
    Error::new(ErrorKind::Outside(format!(
        "{operation} was awaited outside of a Curio kernel; it must run in a task, under \
         curio.run() or Kernel.run()"
    )))
}

/// Goes to the end of the ready queue.
#[must_use = "a trap does nothing unless it is awaited"]
#[doc(hidden)]
pub struct YieldNow {
    yielded: bool,
    cancellable: bool,
}

impl YieldNow {
    /// A blocking trap like any other.
    #[allow(clippy::new_without_default, reason = "a verb, not a value")]
    pub fn new() -> Self {
        YieldNow { yielded: false, cancellable: true }
    }

    /// For operations that have done their work, and only let others go first.
    pub fn uncancellable() -> Self {
        YieldNow { yielded: false, cancellable: false }
    }
}

impl Future for YieldNow {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        if this.yielded {
            return Poll::Ready(Ok(()));
        }
        let own = kernel::is_own(cx.waker());
        let yielded = kernel::with_current(|core| {
            core.with_state(|state| {
                if this.cancellable
                    && let Some(interrupt) = state.take_interrupt(|| core.now())
                {
                    return Err(interrupt);
                }
                state.trapped();
                if own {
                    state.schedule_current();
                }
                Ok(())
            })
        });
        match yielded {
            None => Poll::Ready(Err(outside("sleep"))),
            Some(Err(interrupt)) => Poll::Ready(Err(interrupt)),
            Some(Ok(())) => {
                this.yielded = true;
                if !own {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

/// The trap of a task that sleeps.
#[doc(hidden)]
pub struct SleepTrap {
    nanoseconds: u64,
    timer: Option<kernel::TimerKey>,
}

impl SleepTrap {
    pub(crate) fn new(nanoseconds: u64) -> Self {
        SleepTrap { nanoseconds, timer: None }
    }
}

impl Trap for SleepTrap {
    fn name(&self) -> &'static str {
        "sleep"
    }

    fn state(&self) -> TaskState {
        TaskState::TimeSleep
    }

    fn arm(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()> {
        let deadline = core.now().saturating_add(self.nanoseconds);
        self.timer = Some(state.timers.insert(deadline, kernel::Expiry::Wait(wait)));
        state.show_sleep(wait, Some(deadline));
        Ok(())
    }

    fn disarm(&mut self, state: &mut State, _wait: WaitKey) {
        if let Some(timer) = self.timer.take() {
            state.timers.remove(timer);
        }
    }

    fn ended(&mut self, _core: &Rc<Core>, state: &mut State, wait: WaitKey, _used: bool) {
        state.show_sleep(wait, None);
    }
}

/// The trap of a task that waits for another's end.
#[doc(hidden)]
pub struct JoinTrap {
    kernel: Rc<Core>,
    target: TaskKey,
    id: u64,
}

impl JoinTrap {
    pub(crate) fn new(kernel: Rc<Core>, target: TaskKey, id: u64) -> Self {
        JoinTrap { kernel, target, id }
    }
}

impl Trap for JoinTrap {
    fn name(&self) -> &'static str {
        "join"
    }

    fn state(&self) -> TaskState {
        TaskState::TaskJoin
    }

    fn target(&self) -> Target {
        Target::Task(self.id)
    }

    fn done(&mut self, core: &Rc<Core>, state: &State) -> bool {
        if Rc::ptr_eq(core, &self.kernel) {
            state.task(self.target).is_none()
        } else {
            self.kernel.state().task(self.target).is_none()
        }
    }

    fn arm(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()> {
        if !Rc::ptr_eq(core, &self.kernel) {
            return Err(Error::misuse("a task of another kernel cannot be waited for"));
        }
        if state.is_current(self.target) {
            return Err(Error::misuse("a task cannot wait for its own end"));
        }
        state.join(self.target, wait);
        Ok(())
    }

    fn disarm(&mut self, state: &mut State, wait: WaitKey) {
        state.unjoin(self.target, wait);
    }
}
