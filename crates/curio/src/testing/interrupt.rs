//! Interrupting a program in each place where it can be interrupted.
//!
//! The first run notes where tasks are suspended, and where they go on. Each further run repeats the
//! first up to one of these *points*, and cancels the task that is there, or lets a limit around
//! it expire. A [`Probe`] observes one run; [`Exploration`] says which runs there are to be; both
//! know nothing of a program's language. [`Interrupter`] is the rest, for Rust.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use crate::activation::Activation;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{Kernel, Stopper, TaskState};
use crate::sync::Watch;
use crate::task::{TaskRef, name_of, panic_text};
use crate::time::limited;

/// A program that has not ended after so many times the resumptions of its first run, and some, is
/// given up.
const PATIENCE: u64 = 100;
const PATIENCE_AT_LEAST: u64 = 100_000;

/// Runs a program once for each place where it can be interrupted, and interrupts it there.
///
/// A program that may be cancelled at any moment is right only if it is right for each of those
/// moments; this tries them all. It runs on a virtual clock, so that it takes no time, and each run
/// is the same up to the interruption. Every task of the program is interrupted in its turn, at
/// each operation where it has blocked:
///
/// - cancelled, while it is blocked; and cancelled when the operation has just succeeded, so that
///   the cancellation arrives at the next one;
/// - timed out, in both moments, by each of the limits that it is inside of, and by one
///   around the whole program.
///
/// `program` is called for each run, and is to make all it needs afresh. What it returns, or what
/// is seen by code inside a [`disable_cancellation`](crate::disable_cancellation), which
/// is not interrupted, tells whether it is right: a panic in it (an assertion) is a failure. So is
/// - an error that is not the interruption, or a task's that has ended by it;
/// - a task that can never go on, or a program that does not end;
/// - a lock that somebody has left locked.
///
/// # Errors
/// The first failure, with the place of the interruption.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use curio::{sleep, spawn, sync::Semaphore, testing};
///
/// # fn main() -> Result<(), testing::Failure> {
/// let report = testing::interrupt_everywhere(|| async {
///     let places = Semaphore::new(1);
///     let guest = spawn({
///         let places = places.clone();
///         async move {
///             let _place = places.acquire().await?; // comes back however this ends
///             sleep(Duration::from_secs(3600)).await
///         }
///     });
///     let ended = guest.join().await;
///     guest.cancel().await?;
///     assert_eq!(places.value(), 1);
///     ended.map(drop)
/// })?;
/// assert!(report.runs > 5);
/// # Ok(())
/// # }
/// ```
pub fn interrupt_everywhere<T: 'static, F>(program: impl FnMut() -> F) -> Result<Report, Failure>
where
    F: Future<Output = Result<T>> + 'static,
{
    Interrupter::new().run(program, |_| ())
}

/// [`interrupt_everywhere`], with choices.
#[derive(Clone, Debug, Default)]
#[must_use = "an interrupter does nothing until `run`"]
pub struct Interrupter {
    seed: Option<u64>,
    any_error: bool,
}

impl Interrupter {
    /// Tasks run first come, first served; errors that are no interruptions are failures.
    pub fn new() -> Self {
        Interrupter::default()
    }

    /// Draws the next task to run by chance, the same for the same seed.
    pub fn run_order_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The program may end with any error: whoever calls [`run`](Self::run) judges it.
    pub fn any_error(mut self) -> Self {
        self.any_error = true;
        self
    }

    /// Runs `program` as [`interrupt_everywhere`] does, and calls `check` after each run, when all
    /// its tasks have ended. A panic in it (an assertion) is a failure.
    ///
    /// # Errors
    /// The first failure.
    pub fn run<T: 'static, F>(
        &self,
        mut program: impl FnMut() -> F,
        mut check: impl FnMut(&Run<T>),
    ) -> Result<Report, Failure>
    where
        F: Future<Output = Result<T>> + 'static,
    {
        let mut exploration = Exploration::default();
        while let Some(probe) = exploration.next_run() {
            let run = self.run_once(&probe, &mut program);
            let judged = run.and_then(|run| {
                exploration.note(&probe)?;
                let interruption = probe.interruption();
                let run = Run { interruption, result: run };
                self.judge(&run)?;
                catch_unwind(AssertUnwindSafe(|| check(&run)))
                    .map_err(|panic| format!("the check has panicked: {}", panic_text(&*panic)))
            });
            judged.map_err(|what| Failure::new(&probe, &what))?;
        }
        Ok(exploration.report())
    }

    fn run_once<T: 'static, F>(
        &self,
        probe: &Rc<Probe>,
        program: &mut impl FnMut() -> F,
    ) -> Result<Result<T>, String>
    where
        F: Future<Output = Result<T>> + 'static,
    {
        let watch = Watch::start();
        let mut builder = Kernel::builder().activation(probe.clone());
        if let Some(seed) = self.seed {
            builder = builder.run_order_seed(seed);
        }
        let mut kernel = super::build(builder, None);
        probe.watch(&kernel);
        let future = catch_unwind(AssertUnwindSafe(program))
            .map_err(|panic| format!("the program has panicked: {}", panic_text(&*panic)))?;
        let outcome = Rc::new(RefCell::new(None));
        let limited_by_us = probe.limits_program();
        let main = {
            let outcome = outcome.clone();
            async move {
                let result = if limited_by_us { limited_whole(future).await } else { future.await };
                *outcome.borrow_mut() = Some(result);
                Ok(())
            }
        };
        let run = kernel.run_as(name_of::<F>(), main);
        if let Err(error) = &run
            && error.is_panic()
        {
            return Ok(Err(error.clone()));
        }
        probe.ended(&kernel, run.err().map(|error| error.to_string()).as_deref())?;
        kernel.shutdown().map_err(|error| format!("the shutdown fails: {error}"))?;
        kernel.leftovers()?;
        drop(kernel);
        watch.end()?;
        let outcome = outcome.take();
        outcome.ok_or_else(|| "the program was dropped before it had ended".to_owned())
    }

    fn judge<T>(&self, run: &Run<T>) -> Result<(), String> {
        let Err(error) = &run.result else { return Ok(()) };
        if error.is_panic() || !(self.any_error || run.interruption.is_some()) {
            return Err(format!("the program fails: {error}"));
        }
        if self.any_error || is_interruption(error) {
            return Ok(());
        }
        Err(format!("the program ends with something else than the interruption: {error}"))
    }
}

/// The program inside of a limit that never expires by itself.
async fn limited_whole<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let (result, expired) = limited(None, future).await?;
    match expired {
        Some(expired) => Err(Error::new(ErrorKind::Timeout(expired))),
        None => result,
    }
}

/// Whether an error is an interruption, or that of a task which has ended by one.
fn is_interruption(error: &Error) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.task_cause());
    causes.any(|error| error.is_cancellation() || error.is_uncaught_timeout())
}

/// How one run of a program has ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Run<T> {
    /// Where it was interrupted; `None` for the first run, which is not.
    pub interruption: Option<Interruption>,
    /// What the program has ended with.
    pub result: Result<T>,
}

/// How many runs there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Places where the program can be interrupted.
    pub points: usize,
    /// Runs of the program, the first one included.
    pub runs: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} points, {} runs", self.points, self.runs)
    }
}

/// What is wrong with a program, and where it was interrupted.
#[derive(Clone)]
pub struct Failure {
    text: String,
}

impl Failure {
    fn new(probe: &Probe, what: &str) -> Failure {
        let text = match probe.interruption() {
            Some(interruption) => format!("{interruption}: {what}"),
            None => format!("without any interruption: {what}"),
        };
        Failure { text }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// Where, and how, a program was interrupted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Interruption {
    /// The number of the point, from 1.
    pub point: usize,
    /// How many points the program has.
    pub points: usize,
    /// Which of the task's limits has expired, 1 for the innermost one; `None`: it was cancelled.
    pub limit: Option<usize>,
    /// The operation had just succeeded; else the task was blocked in it.
    pub after: bool,
    /// The name of the task.
    pub task: String,
    /// What the task was blocked in; `None` if it was to run for the first time.
    pub state: Option<TaskState>,
    /// File and line of the await.
    pub place: Option<String>,
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limit {
            Some(limit) => write!(f, "timed out (limit {limit} from inside)")?,
            None => f.write_str("cancelled")?,
        }
        write!(f, " at point {} of {}, when task '{}' ", self.point, self.points, self.task)?;
        match self.state {
            None => f.write_str("was to start")?,
            Some(state) if self.after => write!(f, "went on after {state}")?,
            Some(state) => write!(f, "was blocked in {state}")?,
        }
        self.place.as_ref().map_or(Ok(()), |place| write!(f, " at {place}"))
    }
}

/// A place where a program can be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    /// The task, numbered as they were created.
    task: usize,
    state: Option<TaskState>,
    after: bool,
    /// How many limits the task is inside of.
    limits: usize,
}

/// What is to be done where.
#[derive(Clone, Copy, Debug)]
struct Aim {
    point: usize,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Cancelled,
    /// Which limit, from 0 for the innermost one.
    TimedOut(usize),
    /// By a limit around the whole program.
    AllTimedOut,
}

/// Which runs of a program there are to be.
#[doc(hidden)]
#[derive(Default)]
pub struct Exploration {
    describe: Option<Describe>,
    points: Option<Rc<Vec<Point>>>,
    resumptions: u64,
    next: usize,
    aims: Vec<Aim>,
}

/// Says a task's name, and file and line of where it is.
type Describe = Rc<dyn Fn(&TaskRef) -> (String, Option<String>)>;

impl Exploration {
    /// For tasks of another language.
    pub fn describing(describe: impl Fn(&TaskRef) -> (String, Option<String>) + 'static) -> Self {
        Exploration { describe: Some(Rc::new(describe)), ..Exploration::default() }
    }

    /// What is to observe the next run; `None` if there were all.
    pub fn next_run(&mut self) -> Option<Rc<Probe>> {
        let aim = match &self.points {
            None => None,
            Some(_) => Some(*self.aims.get(self.next)?),
        };
        let most = match self.points {
            None => u64::MAX,
            Some(_) => self.resumptions * PATIENCE + PATIENCE_AT_LEAST,
        };
        let (describe, expected) = (self.describe.clone(), self.points.clone().unwrap_or_default());
        let left = Cell::new(most);
        Some(Rc::new(Probe { describe, aim, expected, left, ..Probe::default() }))
    }

    /// Learns from a run that has ended.
    ///
    /// # Errors
    /// The run was another than the first.
    pub fn note(&mut self, probe: &Probe) -> Result<(), String> {
        if self.points.is_some() {
            self.next += 1;
            return match probe.hit.borrow().as_ref() {
                Some(_) => Ok(()),
                None => {
                    Err("the program does not run in the same way each time: it must depend on \
                     nothing but itself"
                        .into())
                }
            };
        }
        let points = probe.points.take();
        for (number, point) in points.iter().enumerate() {
            let limits = (0..point.limits).map(How::TimedOut);
            let all = (point.task == 0 && point.state.is_some()).then_some(How::AllTimedOut);
            let hows = std::iter::once(How::Cancelled).chain(limits).chain(all);
            self.aims.extend(hows.map(|how| Aim { point: number, how }));
        }
        self.points = Some(Rc::new(points));
        self.resumptions = probe.resumptions.get();
        Ok(())
    }

    /// The figures so far.
    pub fn report(&self) -> Report {
        let points = self.points.as_ref().map_or(0, |points| points.len());
        Report { points, runs: self.next + usize::from(self.points.is_some()) }
    }
}

/// Observes a run, and interrupts it at the point that it aims at.
#[doc(hidden)]
#[derive(Default)]
pub struct Probe {
    describe: Option<Describe>,
    aim: Option<Aim>,
    /// The points of the first run.
    expected: Rc<Vec<Point>>,
    points: RefCell<Vec<Point>>,
    count: Cell<usize>,
    /// By id: a task's number, and what it was blocked in.
    tasks: RefCell<HashMap<u64, (usize, Option<TaskState>)>>,
    hit: RefCell<Option<Interruption>>,
    resumptions: Cell<u64>,
    /// So many resumptions until it is given up.
    left: Cell<u64>,
    stopper: RefCell<Option<Stopper>>,
}

impl Probe {
    /// Says which kernel it is that it observes.
    pub fn watch(&self, kernel: &Kernel) {
        *self.stopper.borrow_mut() = Some(kernel.stopper());
    }

    /// The run is over: what comes now is no part of the program.
    ///
    /// # Errors
    /// It goes on and on; it has come to an `end` before its tasks had.
    pub fn ended(&self, kernel: &Kernel, end: Option<&str>) -> Result<(), String> {
        self.stopper.take();
        let why = match end {
            _ if self.left.get() == 0 => {
                "it has been resumed a hundred times as often as without an interruption"
            }
            Some(end) => end,
            None => return Ok(()),
        };
        let mut text = format!("the program does not end: {why}");
        for task in kernel.tasks() {
            let (name, place) = self.describe(&task);
            text += &format!("\n  task {} ({name}): {}", task.id(), task.state());
            if let Some(place) = place {
                text += &format!(" at {place}");
            }
        }
        Err(text)
    }

    fn describe(&self, task: &TaskRef) -> (String, Option<String>) {
        if let Some(describe) = &self.describe {
            return describe(task);
        }
        let site = task.info().site();
        (task.name().to_owned(), site.map(|site| format!("{}:{}", site.file(), site.line())))
    }

    /// The program is to run inside of a limit of our own, the first of all, which has no deadline.
    pub fn limits_program(&self) -> bool {
        matches!(self.aim, Some(Aim { how: How::AllTimedOut, .. }))
    }

    /// What it has done.
    pub fn interruption(&self) -> Option<Interruption> {
        self.hit.borrow().clone()
    }

    fn reach(&self, task: &TaskRef, after: bool) {
        if self.stopper.borrow().is_none() || self.hit.borrow().is_some() {
            return;
        }
        let Some((number, state)) = self.tasks.borrow().get(&task.id()).copied() else { return };
        let Some(limits) = task.open_limits() else { return };
        let point = Point { task: number, state, after, limits };
        let count = self.count.replace(self.count.get() + 1);
        let Some(aim) = self.aim else {
            self.points.borrow_mut().push(point);
            return;
        };
        // Another point than in the first run, and all that follow, are none to aim at.
        if count != aim.point || self.expected[count] != point {
            return;
        }
        let (task_name, place) = self.describe(task);
        *self.hit.borrow_mut() = Some(Interruption {
            point: count + 1,
            points: self.expected.len(),
            limit: match aim.how {
                How::Cancelled => None,
                How::TimedOut(limit) => Some(limit + 1),
                How::AllTimedOut => Some(limits + 1),
            },
            after,
            task: task_name,
            state,
            place,
        });
        match aim.how {
            How::Cancelled => _ = task.request_cancel(),
            How::TimedOut(limit) => task.expire_limit(Some(limit)),
            How::AllTimedOut => task.expire_limit(None),
        }
    }
}

impl Activation for Rc<Probe> {
    fn created(&self, task: &TaskRef) {
        // The kernel's own are no part of the program.
        if task.info().own() {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let number = tasks.len();
        tasks.insert(task.id(), (number, None));
    }

    fn running(&self, task: &TaskRef) {
        self.resumptions.set(self.resumptions.get() + 1);
        self.reach(task, true);
        self.left.set(self.left.get().saturating_sub(1));
        if self.left.get() == 0
            && let Some(stopper) = &*self.stopper.borrow()
        {
            stopper.stop();
        }
    }

    fn suspended(&self, task: &TaskRef) {
        if task.terminated() {
            return;
        }
        if let Some((_, state)) = self.tasks.borrow_mut().get_mut(&task.id()) {
            *state = Some(task.state());
        }
        self.reach(task, false);
    }
}
