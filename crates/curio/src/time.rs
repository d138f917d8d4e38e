//! Time: sleeping, limits on time, and shields against both.
//!
//! A timeout is a cancellation with the clock as the canceller. It limits a
//! *region*: the future it was given. Regions nest, and an outer deadline that is
//! nearer than an inner one stays in force inside.
//!
//! - The innermost trap inside is interrupted; [`Error::is_timeout`] if the expired
//!   timeout is the innermost one, [`Error::is_timeout_cancellation`] if it is
//!   further out. The error passes through the inner regions unchanged and comes
//!   out of the region that has expired as its timeout.
//! - Both together: the outer one counts.
//! - A timeout that came out of its own region, and that nobody has handled on its
//!   way to an outer region which has not expired, is a mistake of the program:
//!   [`Error::is_uncaught_timeout`].
//! - Code that does not block finishes normally, even if its time is over.

use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result, Timeout};
use crate::kernel::{self, Core, Region, TimeoutEnd, TimeoutKey};
use crate::task::interrupt_foreign;
use crate::traps::{SleepTrap, Wait, YieldNow, at, outside};

/// Sleeps for at least `duration`; zero lets the other ready tasks run first.
/// Gives the clock's value on waking (see [`clock`]).
///
/// # Cancellation
/// Nothing is lost.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let start = curio::clock()?;
///     let woken = curio::sleep(Duration::from_millis(2)).await?;
///     assert!(woken >= start + Duration::from_millis(2));
///     Ok(())
/// })
/// # }
/// ```
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Sleep(if nanoseconds == 0 {
        Sleeping::Yield(YieldNow::new())
    } else {
        Sleeping::Timer(Wait::new(SleepTrap::new(nanoseconds)))
    })
}

/// Sleeps until the [`clock`] has reached `deadline`; if it has, lets other ready tasks run first.
/// Gives the clock's value on waking.
///
/// # Errors
/// Misuse outside of a kernel.
///
/// # Cancellation
/// Nothing is lost.
#[track_caller]
pub fn sleep_until(deadline: Duration) -> impl Future<Output = Result<Duration>> {
    at(Location::caller(), async move { sleep(left(deadline, "sleep_until")?).await })
}

/// The future of [`sleep`].
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep(Sleeping);

enum Sleeping {
    Yield(YieldNow),
    Timer(Wait<SleepTrap>),
}

impl Future for Sleep {
    type Output = Result<Duration>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Duration>> {
        let polled = match &mut self.get_mut().0 {
            Sleeping::Yield(sleep) => pin!(sleep).poll(cx),
            Sleeping::Timer(sleep) => pin!(sleep).poll(cx),
        };
        polled.map(|slept| slept.and_then(|()| last_clock()))
    }
}

/// The kernel's clock: the time since some moment in the past. It never goes back.
///
/// # Errors
/// Misuse outside of a kernel.
pub fn clock() -> Result<Duration> {
    kernel::with_current(|core| Duration::from_nanos(core.now())).ok_or_else(|| outside("clock"))
}

/// The clock's last reading: when the kernel has woken the running task, or later.
fn last_clock() -> Result<Duration> {
    kernel::with_current(|core| Duration::from_nanos(core.last_reading()))
        .ok_or_else(|| outside("clock"))
}

/// Runs `future` for at most `limit`.
///
/// When the time is over, the trap in which `future` is blocked fails, so that
/// `future` can clean up; what comes out of here then is an error with
/// [`is_timeout`](Error::is_timeout). A result that `future` has all the same is its result.
/// Zero expires at the first trap that blocks.
///
/// # Cancellation
/// As that of `future`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let nap = curio::sleep(Duration::from_secs(1000));
///     let error = curio::timeout_after(Duration::from_millis(1), nap).await.unwrap_err();
///     assert!(error.is_timeout());
///     Ok(())
/// })
/// # }
/// ```
pub async fn timeout_after<T>(
    limit: Duration,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    let (result, expired) = limited(Some(limit), future).await?;
    let Some(expired) = expired else { return result };
    let done = result.err().and_then(|error| error.bytes_done());
    Err(Error::new(ErrorKind::Timeout(expired)).with_progress(done))
}

/// As [`timeout_after`], with a limit that ends at `deadline` of the [`clock`].
///
/// # Cancellation
/// As that of `future`.
pub async fn timeout_at<T>(
    deadline: Duration,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    timeout_after(left(deadline, "timeout_at")?, future).await
}

/// As [`ignore_after`], with a limit that ends at `deadline` of the [`clock`].
///
/// # Cancellation
/// As that of `future`.
pub async fn ignore_at<T>(
    deadline: Duration,
    future: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    ignore_after(left(deadline, "ignore_at")?, future).await
}

/// The time until `deadline`, from which on the clock is read once more: it is never early.
fn left(deadline: Duration, operation: &str) -> Result<Duration> {
    let now = kernel::with_current(|core| core.now()).ok_or_else(|| outside(operation))?;
    Ok(deadline.saturating_sub(Duration::from_nanos(now)))
}

/// As [`timeout_after`], but an expired limit gives `None` instead of an error.
///
/// # Cancellation
/// As that of `future`.
pub async fn ignore_after<T>(
    limit: Duration,
    future: impl Future<Output = Result<T>>,
) -> Result<Option<T>> {
    let (result, expired) = limited(Some(limit), future).await?;
    if expired.is_some() { Ok(None) } else { result.map(Some) }
}

pub(crate) async fn limited<T>(
    limit: Option<Duration>,
    future: impl Future<Output = Result<T>>,
) -> Result<(Result<T>, Option<Timeout>)> {
    let mut region = TimeoutRegion::enter(limit)?;
    let mut future = pin!(future);
    let result = poll_fn(|cx| region.poll(cx, future.as_mut())).await;
    let Err(error) = &result else {
        region.leave();
        return Ok((result, None));
    };
    let ErrorKind::Timeout(timeout) = *error.kind() else {
        region.leave();
        return Ok((result, None));
    };
    match region.leave().judge(timeout) {
        Verdict::Own(timeout) => Ok((result, Some(timeout))),
        Verdict::Passing => Ok((result, None)),
        Verdict::Uncaught => Err(Error::new(ErrorKind::UncaughtTimeout)),
    }
}

/// What a timeout means for the region that it comes out of.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// The region's own limit has expired: this is what its outside is to see.
    Own(Timeout),
    /// An outer region's: it passes through.
    Passing,
    /// An inner region's, which nobody has handled.
    Uncaught,
}

impl TimeoutEnd {
    pub(crate) fn judge(&self, timeout: Timeout) -> Verdict {
        let own = Timeout { own: true, escaped: true, ..timeout };
        if timeout.owner == self.serial {
            return Verdict::Own(own);
        }
        if !timeout.escaped {
            return Verdict::Passing;
        }
        let passed = self.deadline.is_some_and(|deadline| deadline <= timeout.clock);
        if self.delivered || (passed && !self.voided) {
            Verdict::Own(own)
        } else {
            Verdict::Uncaught
        }
    }
}

/// A region with a limit: between [`enter`](Self::enter) and [`leave`](Self::leave).
///
/// It is used in two ways. A future is limited by polling it through
/// [`poll`](Self::poll), which makes the region the innermost one during each poll
/// and no longer; so two limited futures may be polled by one task in turn. A block
/// of a task's code (Python's `async with`) is limited by staying in the region
/// until it is left: `enter` has made it the innermost one already.
#[doc(hidden)]
pub struct TimeoutRegion {
    core: Rc<Core>,
    key: Option<TimeoutKey>,
    swapped: Swapped,
}

impl TimeoutRegion {
    /// Enters a region that ends after `limit`; `None` sets no limit of its own.
    pub fn enter(limit: Option<Duration>) -> Result<Self> {
        Self::enter_until(|now| {
            let limit = limit?;
            let nanoseconds = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
            Some(now.saturating_add(nanoseconds))
        })
    }

    /// Enters a region that ends at what `deadline` makes of the clock.
    pub fn enter_until(deadline: impl FnOnce(u64) -> Option<u64>) -> Result<Self> {
        let core = kernel::current().ok_or_else(|| outside("timeout_after"))?;
        let now = core.now();
        let (key, outside) = core.with_state(|state| {
            let outside = state.region;
            (state.enter_timeout(deadline(now), now), outside)
        });
        let swapped = Swapped { timeout: Some(key), outside, inside: None };
        Ok(TimeoutRegion { core, key: Some(key), swapped })
    }

    /// Polls a future inside of the region, and is outside again after it.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        future: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> Poll<Result<T>> {
        self.swapped.poll(&self.core, cx, future)
    }

    /// Runs `work` inside of the region.
    pub fn inside<R>(&mut self, work: impl FnOnce() -> R) -> R {
        self.swapped.inside(&self.core, work)
    }

    pub(crate) fn leave(&mut self) -> TimeoutEnd {
        let key = self.key.take().expect("a region is left once");
        self.core.with_state(|state| state.exit_timeout(key))
    }

    /// Leaves the region; says what `timeout`, the error that comes out of it, means.
    pub fn leave_with(&mut self, timeout: Option<Timeout>) -> Option<Verdict> {
        self.key?;
        let end = self.leave();
        timeout.map(|timeout| end.judge(timeout))
    }

    /// How long ago the deadline of the region, which is still entered, has passed.
    pub fn overrun(&self) -> Option<Duration> {
        let deadline = self.core.state().timeout_deadline(self.key?)?;
        self.core.now().checked_sub(deadline).map(Duration::from_nanos)
    }
}

impl Drop for TimeoutRegion {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.core.with_state(|state| state.drop_timeout(key));
        }
    }
}

/// The two sides of a region that is entered at each poll.
struct Swapped {
    /// `None`: it is a shield.
    timeout: Option<TimeoutKey>,
    outside: Region,
    /// `None`: the region was entered just now, and is in force.
    inside: Option<Region>,
}

impl Swapped {
    fn poll<T>(
        &mut self,
        core: &Rc<Core>,
        cx: &mut Context<'_>,
        future: Pin<&mut impl Future<Output = Result<T>>>,
    ) -> Poll<Result<T>> {
        let timeout = self.timeout;
        self.inside(core, || {
            let traps = core.state().traps;
            if let ready @ Poll::Ready(_) = future.poll(cx) {
                return ready;
            }
            let waker = cx.waker();
            let foreign = (!kernel::is_own(waker)).then(|| waker.clone());
            core.with_state(|state| match timeout {
                Some(timeout) => state.show_waker(timeout, foreign),
                // Nothing inside of a shield is dropped from outside of it.
                None => state.trapped(),
            });
            interrupt_foreign(|state| state.foreign_since(traps, timeout))
        })
    }

    fn inside<R>(&mut self, core: &Rc<Core>, work: impl FnOnce() -> R) -> R {
        if let Some(inside) = self.inside {
            self.outside = core.enter_again(self.timeout, inside, self.outside);
        }
        // Also when `work` panics and somebody further out goes on.
        let _left = Left { core, swapped: self };
        work()
    }
}

struct Left<'a> {
    core: &'a Core,
    swapped: &'a mut Swapped,
}

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.swapped.inside = Some(self.core.swap_region(self.swapped.outside));
    }
}

/// Runs `future` with cancellations and timeouts held back.
///
/// They stay pending and arrive at the first blocking trap after the shield. Shields nest.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let limit = Duration::from_millis(1);
///     let result: curio::Result<()> = curio::timeout_after(limit, async {
///         curio::disable_cancellation(async {
///             curio::sleep(Duration::from_millis(5)).await // is not cut short
///         })
///         .await?;
///         curio::sleep(Duration::from_secs(1000)).await?; // ends at once
///         Ok(())
///     })
///     .await;
///     assert!(result.unwrap_err().is_timeout());
///     Ok(())
/// })
/// # }
/// ```
pub async fn disable_cancellation<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let core = kernel::current().ok_or_else(|| outside("disable_cancellation"))?;
    let outside = core.add_shield();
    let mut swapped = Swapped { timeout: None, outside, inside: None };
    let mut future = pin!(future);
    poll_fn(|cx| swapped.poll(&core, cx, future.as_mut())).await
}

/// Fails if a cancellation or an expired timeout is waiting for the calling task and may
/// arrive here: a blocking point that does not block.
///
/// # Errors
/// The cancellation. Misuse outside of a kernel.
pub fn check_cancellation() -> Result<()> {
    kernel::with_current(|core| core.with_state(|state| state.take_interrupt(|| core.now())))
        .ok_or_else(|| outside("check_cancellation"))?
        .map_or(Ok(()), Err)
}
