//! Work outside of the kernel's thread.
//!
//! *Facts.* Some calls block and cannot be waited for by descriptor: name look-ups, files,
//! libraries, long computations. A thread that is in such a call cannot be made to leave it.
//!
//! *Meaning.* So the call goes to a thread of a [`Pool`], and the task waits for a
//! [`Completion`], which is a trap like any other. A task that is cancelled leaves at once; the
//! thread runs on by itself, and what it gives in the end is dropped. Its place in the pool is
//! free from then on: a limit on threads must not become a limit on cancelled calls.
//!
//! *How a value gets in.* The other thread stores it under a mutex, and asks the kernel's door to
//! fire the wait. The wait's key stands beside the value, is put there and taken away by the
//! kernel's thread, and is read by what the door has been asked for, which runs there too: while the
//! key can be found, its wait is armed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CString;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{self, Core, Door, Job, State, TaskState, WaitKey};
use crate::monitor::Seen;
use crate::task::panic_text;
use crate::time::check_cancellation;
use crate::traps::{Trap, Wait, at, outside};

/// Runs `work` in a thread of its own and gives its result, while other tasks run.
///
/// The threads are kept for some seconds when they have nothing to do. At most 64 calls of the
/// process are at work; more wait for their turn, first come, first served. A program that ends does
/// not wait for them.
///
/// # Errors
/// [`is_panic`](Error::is_panic) if `work` panics; the system's, when it gives no thread. Misuse
/// outside of a kernel.
///
/// # Cancellation
/// The task is cancelled at once. If `work` has begun, it runs on to its end, and its result is
/// dropped there; if not, it never begins.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let sum = curio::run_in_thread(|| (1..=1_000_000_u64).sum::<u64>()).await?;
///     assert_eq!(sum, 500_000_500_000);
///     Ok(())
/// })
/// # }
/// ```
#[track_caller]
pub fn run_in_thread<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
    work: F,
) -> impl Future<Output = Result<T>> + use<T, F> {
    static WORKERS: LazyLock<Pool> = LazyLock::new(|| Pool::new(64, "curio-worker"));
    WORKERS.run(work)
}

/// Whether the call that this thread is in was cancelled, so that nobody waits for its result.
///
/// Long work in [`run_in_thread`] may ask now and then, and give up. `false` in threads that are in
/// no such call.
///
/// # Examples
///
/// ```
/// # use std::sync::mpsc;
/// # use std::time::Duration;
/// # fn main() -> curio::Result<()> {
/// let (gave_up, has_given_up) = mpsc::channel();
/// curio::run(async {
///     let search = curio::run_in_thread(move || {
///         while !curio::is_abandoned() {
///             std::thread::yield_now(); // a piece of the work
///         }
///         let _ = gave_up.send(());
///     });
///     assert!(curio::ignore_after(Duration::from_millis(10), search).await?.is_none());
///     Ok(())
/// })?;
/// has_given_up.recv().unwrap();
/// # Ok(())
/// # }
/// ```
pub fn is_abandoned() -> bool {
    CURRENT.with_borrow(|current| {
        current.as_ref().is_some_and(|(threads, ticket)| !threads.calls().running.contains(ticket))
    })
}

thread_local! {
    /// What the monitor sees of this thread, if it belongs to a pool.
    static SEEN: RefCell<Option<Rc<Seen>>> = const { RefCell::new(None) };

    /// The call that this thread is in.
    static CURRENT: RefCell<Option<(Arc<Threads>, u64)>> = const { RefCell::new(None) };
}

// Completions.

/// A value that comes from another thread, or from anywhere, once.
pub struct Completion<T: Send + 'static>(Arc<Shared<T>>);

/// What gives a [`Completion`] its value. Dropping it says that there will be none.
#[must_use = "dropping it says that no value will come"]
pub struct Completer<T: Send + 'static>(Option<Arc<Shared<T>>>);

struct Shared<T>(Mutex<Inside<T>>);

struct Inside<T> {
    value: Value<T>,
    /// Nobody will ask any more.
    unwanted: bool,
    /// The wait to fire, and its kernel. Changed by that kernel's thread alone, while it is armed.
    waiter: Option<(Arc<Door>, WaitKey)>,
}

enum Value<T> {
    Expected,
    Given(T),
    /// It was taken out.
    Taken,
    /// The giver has ended without one.
    Lost,
}

/// Makes both ends of a completion.
pub fn completion<T: Send + 'static>() -> (Completer<T>, Completion<T>) {
    let inside = Inside { value: Value::Expected, unwanted: false, waiter: None };
    let shared = Arc::new(Shared(Mutex::new(inside)));
    (Completer(Some(shared.clone())), Completion(shared))
}

impl<T> Shared<T> {
    fn inside(&self) -> MutexGuard<'_, Inside<T>> {
        // Nothing in here can panic, so the lock is never poisoned in earnest.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fires the wait, if one is armed in this kernel.
    fn fire(&self, core: &Rc<Core>) {
        let mut inside = self.inside();
        let here = inside.waiter.take_if(|(door, _)| Arc::ptr_eq(door, core.door()));
        drop(inside);
        if let Some((_, wait)) = here {
            core.with_state(|state| {
                state.outside -= 1;
                state.fire(wait);
            });
        }
    }
}

/// Says that something has come, to the kernel whose task waits for it.
struct Bell(Option<(Arc<Door>, Job)>);

impl Bell {
    fn ring(self) {
        if let Some((door, job)) = self.0 {
            door.ask(job);
        }
    }
}

impl<T: Send + 'static> Completer<T> {
    /// Gives the value. Any thread.
    ///
    /// # Errors
    /// The value, if nobody waits for it any more.
    pub fn give(self, value: T) -> Result<(), T> {
        self.store(value).map(Bell::ring)
    }

    /// Whether somebody may still ask for the value.
    pub fn is_wanted(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| !shared.inside().unwanted)
    }

    /// As `give`, but the waiting task is not told yet.
    fn store(mut self, value: T) -> Result<Bell, T> {
        let shared = self.0.take().expect("it is taken out here and at its drop only");
        put(&shared, Value::Given(value)).map_err(|value| match value {
            Value::Given(value) => value,
            _ => unreachable!("what was put comes back"),
        })
    }
}

fn put<T: Send + 'static>(shared: &Arc<Shared<T>>, value: Value<T>) -> Result<Bell, Value<T>> {
    let mut inside = shared.inside();
    if inside.unwanted {
        return Err(value);
    }
    inside.value = value; // which was `Expected`, and drops nothing
    let door = inside.waiter.as_ref().map(|(door, _)| door.clone());
    drop(inside);
    Ok(door.map_or(Bell(None), |door| bell(shared, door)))
}

fn bell<T: Send + 'static>(shared: &Arc<Shared<T>>, door: Arc<Door>) -> Bell {
    // The value is not kept by a kernel that has nobody waiting for it.
    let shared = Arc::downgrade(shared);
    let fire = move |core: &Rc<Core>| {
        if let Some(shared) = shared.upgrade() {
            shared.fire(core);
        }
    };
    Bell(Some((door, Box::new(fire))))
}

impl<T: Send + 'static> Drop for Completer<T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take()
            && let Ok(bell) = put(&shared, Value::Lost)
        {
            bell.ring();
        }
    }
}

impl<T: Send + 'static> Completion<T> {
    /// Waits for the value, once. Blocks even if it has come.
    ///
    /// # Errors
    /// The other end was dropped. Misuse: the value was taken before.
    ///
    /// # Cancellation
    /// Nothing is lost: it may be asked again.
    #[track_caller]
    pub fn wait(&mut self) -> impl Future<Output = Result<T>> + '_ {
        at(Location::caller(), async move {
            Wait::new(CompletionTrap(self.0.clone())).await?;
            self.take().expect("a completion is fired when there is something to take")
        })
    }

    /// The value, if it has come, or will not.
    pub fn take(&mut self) -> Option<Result<T>> {
        let mut inside = self.0.inside();
        match &inside.value {
            Value::Expected => None,
            Value::Given(_) => match std::mem::replace(&mut inside.value, Value::Taken) {
                Value::Given(value) => Some(Ok(value)),
                _ => unreachable!("it was looked at under the same lock"),
            },
            Value::Taken => Some(Err(Error::misuse("the value was taken before"))),
            Value::Lost => Some(Err(Error::other(
                "no value will come: what was to give it has ended without one",
            ))),
        }
    }
}

impl<T: Send + 'static> Drop for Completion<T> {
    fn drop(&mut self) {
        let mut inside = self.0.inside();
        inside.unwanted = true;
        let value = std::mem::replace(&mut inside.value, Value::Taken);
        drop(inside);
        drop(value); // foreign code
    }
}

impl<T: Send + 'static> fmt::Debug for Completion<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> fmt::Debug for Completer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completer").field("wanted", &self.is_wanted()).finish()
    }
}

/// The trap of a task that waits for a completion: it has one at a time.
struct CompletionTrap<T>(Arc<Shared<T>>);

impl<T: Send + 'static> Trap for CompletionTrap<T> {
    fn name(&self) -> &'static str {
        "a completion"
    }

    fn state(&self) -> TaskState {
        TaskState::FutureWait
    }

    fn arm(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()> {
        let mut inside = self.0.inside();
        inside.waiter = Some((core.door().clone(), wait));
        state.outside += 1;
        let has_come = !matches!(inside.value, Value::Expected);
        drop(inside);
        if has_come {
            // It blocks all the same: how quick a thread was must not decide whether its task can be
            // cancelled here, and whether others run meanwhile.
            bell(&self.0, core.door().clone()).ring();
        }
        Ok(())
    }

    fn disarm(&mut self, state: &mut State, _wait: WaitKey) {
        if self.0.inside().waiter.take().is_some() {
            state.outside -= 1;
        }
    }
}

// Pools.

/// How long a thread stays that has nothing to do.
const KEEP: Duration = Duration::from_secs(10);

/// Threads that come and go with the work there is for them.
pub struct Pool(Arc<Threads>);

struct Threads {
    limit: usize,
    name: &'static str,
    keep: Duration,
    calls: Mutex<Calls>,
    /// Something was handed out, or the pool is gone.
    news: Condvar,
}

/// One call: told to start, or why it cannot, it leaves its result and says who is to be told.
type Work = Box<dyn FnOnce(Result<()>) -> Option<Bell> + Send>;

/// Where the calls are. Each goes from `line` to `handed` to `running`, and leaves from anywhere when
/// it is cancelled; those in `handed` and `running` have a place each, of `limit`.
#[derive(Default)]
struct Calls {
    /// Calls that wait for a place, by their tickets, which grow.
    line: BTreeMap<u64, Work>,
    /// Calls that have a place and that the next free thread takes; never more than are free.
    handed: VecDeque<(u64, Work)>,
    /// Calls that threads are in and somebody waits for.
    running: BTreeSet<u64>,
    /// Threads that will look at `handed` before they do anything else.
    free: usize,
    tickets: u64,
    /// How many threads there have been.
    threads: u64,
    /// The process that the threads are in: a forked child has none of them.
    process: u32,
    /// The pool is gone; calls that it had are still seen to.
    closed: bool,
}

impl Pool {
    /// A pool that runs at most `limit` calls at a time, in threads called `name` and a number.
    pub fn new(limit: usize, name: &'static str) -> Pool {
        Pool::with_keep(limit, name, KEEP)
    }

    fn with_keep(limit: usize, name: &'static str, keep: Duration) -> Pool {
        assert!(limit > 0, "a pool without threads would never do anything");
        let (calls, news) = (Mutex::default(), Condvar::new());
        Pool(Arc::new(Threads { limit, name, keep, calls, news }))
    }

    /// As [`run_in_thread`], in this pool.
    #[track_caller]
    pub fn run<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T>> + use<T, F> {
        let threads = self.0.clone();
        at(Location::caller(), async move {
            if kernel::current().is_none() {
                return Err(outside("run_in_thread"));
            }
            // What is about to be cancelled does not begin.
            check_cancellation()?;
            let (completer, mut completion) = completion();
            let call = Call::new(threads, move |start| {
                let result = start.and_then(|()| {
                    let name = std::any::type_name::<F>();
                    name_thread(name);
                    SEEN.with_borrow(|seen| seen.as_ref().map(|seen| seen.begin(short(name))));
                    catch_unwind(AssertUnwindSafe(work))
                        .map_err(|panic| Error::new(ErrorKind::Panic(panic_text(&*panic))))
                });
                completer.store(result).ok()
            });
            let result = completion.wait().await;
            drop(call);
            result?
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.calls().closed = true;
        self.0.news.notify_all();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.0.calls();
        f.debug_struct("Pool")
            .field("name", &self.0.name)
            .field("limit", &self.0.limit)
            .field("running", &calls.running.len())
            .field("waiting", &(calls.line.len() + calls.handed.len()))
            .finish_non_exhaustive()
    }
}

/// A call that somebody waits for, while this lives.
struct Call {
    threads: Arc<Threads>,
    ticket: u64,
}

impl Call {
    fn new(
        threads: Arc<Threads>,
        work: impl FnOnce(Result<()>) -> Option<Bell> + Send + 'static,
    ) -> Call {
        let ticket = threads.change(|calls| {
            calls.tickets += 1;
            calls.line.insert(calls.tickets, Box::new(work));
            calls.tickets
        });
        Call { threads, ticket }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let ticket = self.ticket;
        let never_begun = self.threads.change(|calls| {
            if calls.running.remove(&ticket) {
                return None;
            }
            let handed = calls.handed.iter().position(|call| call.0 == ticket);
            let handed = handed.and_then(|place| calls.handed.remove(place));
            handed.map(|call| call.1).or_else(|| calls.line.remove(&ticket))
        });
        drop(never_begun); // foreign code
    }
}

impl Threads {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        // Nothing in here can panic, so the lock is never poisoned in earnest.
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if calls.process != process {
            let Calls { tickets, threads, closed, .. } = *calls;
            let child = Calls { tickets, threads, closed, process, ..Calls::default() };
            // What a forked child finds is the parent's to do, and to drop.
            std::mem::forget(std::mem::replace(&mut *calls, child));
        }
        calls
    }

    /// Changes where the calls are; then gives the places that are free to the first in line.
    fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut Calls) -> R) -> R {
        let mut failed = Vec::new();
        let mut calls = self.calls();
        let result = change(&mut calls);
        while calls.handed.len() + calls.running.len() < self.limit
            && let Some((ticket, work)) = calls.line.pop_first()
        {
            if calls.free == calls.handed.len()
                && let Err(error) = self.start_thread(&mut calls)
            {
                failed.push((work, error));
                continue;
            }
            calls.handed.push_back((ticket, work));
            self.news.notify_one();
        }
        drop(calls);
        for (work, error) in failed {
            let message = format!("no thread can be started: {error}");
            let error = io::Error::new(error.kind(), message);
            if let Some(bell) = work(Err(error.into())) {
                bell.ring();
            }
        }
        result
    }

    fn start_thread(self: &Arc<Self>, calls: &mut Calls) -> io::Result<()> {
        let threads = self.clone();
        let name = format!("{}-{}", self.name, calls.threads + 1);
        thread::Builder::new().name(name).spawn(move || threads.serve())?;
        calls.threads += 1;
        calls.free += 1;
        Ok(())
    }

    /// A thread's life.
    fn serve(self: Arc<Self>) {
        let seen = Rc::new(Seen::new(thread::current().name().unwrap_or(self.name)));
        SEEN.set(Some(seen.clone()));
        while let Some((ticket, work)) = self.next() {
            CURRENT.set(Some((self.clone(), ticket)));
            // Calls catch what user code throws; this is for the drop of what was thrown.
            let bell = catch_unwind(AssertUnwindSafe(|| work(Ok(()))));
            CURRENT.set(None);
            seen.end();
            // Free again before a waiting task is told, which may have the next call at once.
            self.change(|calls| {
                calls.running.remove(&ticket);
                calls.free += 1;
            });
            match bell {
                Ok(bell) => drop(bell.map(Bell::ring)),
                Err(panic) => std::mem::forget(panic),
            }
        }
    }

    /// Waits for a call; `None` if there was none for long enough.
    fn next(&self) -> Option<(u64, Work)> {
        let start = Instant::now();
        let mut calls = self.calls();
        loop {
            if let Some((ticket, work)) = calls.handed.pop_front() {
                calls.free -= 1;
                calls.running.insert(ticket);
                return Some((ticket, work));
            }
            let left = self.keep.saturating_sub(start.elapsed());
            if left.is_zero() || calls.closed {
                calls.free -= 1;
                return None;
            }
            let waited = self.news.wait_timeout(calls, left);
            calls = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// While it lives, the kernel in which it was made waits for what comes from other processes.
///
/// A virtual kernel takes the wait for a descriptor for a deadlock, if no task and no timer is left
/// that could end it: with one of these, it waits really, at a standing clock.
#[doc(hidden)]
pub struct Outside(Arc<Door>);

impl Outside {
    /// None outside of a kernel.
    #[allow(clippy::new_without_default)] // which would have to be one
    pub fn new() -> Option<Outside> {
        let core = kernel::current()?;
        core.with_state(|state| state.outside += 1);
        Some(Outside(core.door().clone()))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let leave = |core: &Rc<Core>| core.with_state(|state| state.outside -= 1);
        // A collector may find it in whatever thread.
        match kernel::current().filter(|core| Arc::ptr_eq(core.door(), &self.0)) {
            Some(core) => leave(&core),
            None => self.0.ask(Box::new(leave)),
        }
    }
}

/// Says to the system, and so to `ps -T`, what this thread does: the last part of `name`.
///
/// The system keeps 15 bytes of it.
#[doc(hidden)]
pub fn name_thread(name: &str) {
    let name = short(name);
    let mut end = name.len().min(15);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    if let Ok(name) = CString::new(&name[..end]) {
        // A thread without a name is no reason to fail.
        let _ = rustix::thread::set_name(&name);
    }
}

/// The last part of a name, in Rust's or in Python's way, that says something.
fn short(name: &str) -> &str {
    let name = name.rsplit("::").find(|part| !part.starts_with('{')).unwrap_or(name);
    name.rsplit("<locals>.").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets others run until `condition` holds.
    async fn until(condition: impl Fn() -> bool) -> Result<()> {
        while !condition() {
            crate::sleep(Duration::from_millis(1)).await?;
        }
        Ok(())
    }

    #[test]
    fn threads_that_have_nothing_to_do_go() {
        let pool = Pool::with_keep(2, "short", Duration::from_millis(1));
        crate::run(async move {
            for number in 0..3 {
                assert_eq!(pool.run(move || number).await?, number);
                until(|| pool.0.calls().free == 0).await?;
            }
            assert_eq!(pool.0.calls().threads, 3);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn the_threads_of_a_dropped_pool_go() {
        let pool = Pool::with_keep(2, "dropped", Duration::from_secs(1_000_000));
        let threads = Arc::downgrade(&pool.0);
        crate::run(async move {
            pool.run(|| ()).await?;
            drop(pool);
            until(|| threads.strong_count() == 0).await
        })
        .unwrap();
    }

    #[test]
    fn a_forked_child_has_a_pool_without_threads() {
        let pool = Pool::new(1, "forked");
        crate::run(async move {
            pool.run(|| ()).await?;
            // What a child finds: another process's threads, one of them in a call.
            {
                let mut calls = pool.0.calls();
                calls.process = 0;
                calls.running.insert(1);
            }
            assert_eq!(pool.run(|| 2).await?, 2);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_wait_that_comes_too_late_for_its_value_is_fired() {
        // As if the value had come between `done` and `arm`.
        struct Late(CompletionTrap<i32>, Option<Completer<i32>>);
        impl Trap for Late {
            fn name(&self) -> &'static str {
                "late"
            }
            fn state(&self) -> TaskState {
                self.0.state()
            }
            fn arm(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()> {
                self.1.take().map(|completer| completer.give(4));
                self.0.arm(core, state, wait)
            }
            fn disarm(&mut self, state: &mut State, wait: WaitKey) {
                self.0.disarm(state, wait);
            }
        }
        crate::run(async {
            let (completer, mut completion) = completion();
            let trap = CompletionTrap(completion.0.clone());
            Wait::new(Late(trap, Some(completer))).await?;
            assert_eq!(completion.take().unwrap()?, 4);
            Ok(())
        })
        .unwrap();
    }
}
