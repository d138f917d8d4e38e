//! Laws that hold in every program, checked in thousands of random ones.
//!
//! A seed determines a program (tasks that sleep, spawn, join, cancel each other, limit
//! and shield themselves, clean up, wait in combinators and foreign futures) and the
//! order in which the kernel runs it, on the virtual clock. Each step compares what it
//! sees with a model of the rules. A broken law is reported with its seed, and
//!
//! ```text
//! CURIO_SEED=4711 cargo test -p curio --test laws
//! ```
//!
//! runs that one program again.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

use curio::testing::seeded_kernel;
use curio::{
    Error, Result, Task, TaskBuilder, TaskRef, check_cancellation, clock, current_task,
    disable_cancellation, ignore_after, sleep, timeout_after,
};
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};
use futures::stream::{FuturesUnordered, StreamExt};

const PROGRAMS: u64 = 20_000;
const MOST_TASKS: usize = 40;
const MOST_DEPTH: usize = 4;

/// What a task knows of itself and the others: the model.
#[derive(Default)]
struct World {
    random: Cell<u64>,
    tasks: RefCell<Vec<Rc<Life>>>,
    broken: RefCell<Vec<String>>,
    deliveries: Cell<u64>,
    timeouts: Cell<u64>,
    /// The kernel itself cancels tasks now, also those that are spawned meanwhile.
    shutdown: Cell<bool>,
}

/// One task.
struct Life {
    number: usize,
    handle: RefCell<Option<Rc<Task<u64>>>>,
    parent: Option<usize>,
    daemon: bool,
    /// Somebody has asked for its end while it lived.
    asked: Cell<bool>,
    /// How often it was told.
    told: Cell<u32>,
    /// Its code has ended or was dropped.
    over: Cell<bool>,
    /// What its code has ended with, if it has reached its end.
    outcome: RefCell<Option<Result<u64>>>,
    /// All limits that it has ever entered.
    limits: RefCell<Vec<Rc<Limit>>>,
}

/// A region with a limit, in the model.
struct Limit {
    deadline: Duration,
    /// A cancellation has dropped it.
    void: Cell<bool>,
    /// It has interrupted somebody, or was given up with an outer one that has.
    spent: Cell<bool>,
}

/// Where in its code a task is.
#[derive(Clone)]
struct Place {
    world: Rc<World>,
    life: Rc<Life>,
    /// Innermost last.
    limits: Vec<Rc<Limit>>,
    shields: usize,
    depth: usize,
    /// For each limit: a foreign future inside was dropped before its end.
    dropped: Vec<Rc<Cell<bool>>>,
}

impl World {
    fn draw(&self, below: u64) -> u64 {
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    /// Coarse, so that deadlines often coincide.
    fn time(&self) -> Duration {
        Duration::from_millis(self.draw(12))
    }

    fn law(&self, holds: bool, text: &str, about: impl Debug) {
        if !holds {
            self.broken.borrow_mut().push(format!("{text}: {about:?}"));
        }
    }

    fn life(&self, number: usize) -> Rc<Life> {
        self.tasks.borrow()[number].clone()
    }
}

impl Life {
    fn task(&self) -> Rc<Task<u64>> {
        self.handle.borrow().clone().expect("set before the task runs")
    }

    /// Asked, and not told yet.
    fn pending(&self) -> bool {
        self.asked.get() && self.told.get() == 0
    }

    fn note_request(&self) {
        if !self.over.get() && !self.asked.replace(true) {
            self.void_limits();
        }
    }

    fn void_limits(&self) {
        self.limits.borrow().iter().for_each(|limit| limit.void.set(true));
    }
}

fn now() -> Duration {
    clock().expect("in a kernel")
}

/// A task's code is over when this is dropped.
struct Body(Rc<Life>);

impl Drop for Body {
    fn drop(&mut self) {
        self.0.over.set(true);
    }
}

/// A foreign future has been dropped unless it was let off.
struct Foreign {
    dropped: Vec<Rc<Cell<bool>>>,
    ended: bool,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if !self.ended {
            self.dropped.iter().for_each(|dropped| dropped.set(true));
        }
    }
}

fn spawn_life(world: &Rc<World>, parent: Option<&Rc<Life>>) -> Option<Rc<Life>> {
    let number = world.tasks.borrow().len();
    if number >= MOST_TASKS {
        return None;
    }
    let daemon = parent.is_some() && world.draw(8) == 0;
    let life = Rc::new(Life {
        number,
        handle: RefCell::default(),
        parent: parent.map(|parent| parent.number),
        daemon,
        asked: Cell::default(),
        told: Cell::default(),
        over: Cell::default(),
        outcome: RefCell::default(),
        limits: RefCell::default(),
    });
    world.tasks.borrow_mut().push(life.clone());
    let builder = TaskBuilder::new().name(format!("t{number}"));
    let builder = if daemon { builder.daemon() } else { builder };
    let task = builder.spawn(body(world.clone(), life.clone()));
    *life.handle.borrow_mut() = Some(Rc::new(task));
    Some(life)
}

async fn body(world: Rc<World>, life: Rc<Life>) -> Result<u64> {
    let _body = Body(life.clone());
    let place = Place {
        world: world.clone(),
        life: life.clone(),
        limits: Vec::new(),
        shields: 0,
        depth: 0,
        dropped: Vec::new(),
    };
    let result = steps(place).await;
    let outcome = match result {
        Err(error) if world.draw(3) > 0 => Err(error),
        _ => Ok(world.draw(1000)),
    };
    *life.outcome.borrow_mut() = Some(outcome.clone());
    outcome
}

/// Some random steps; an error ends them, unless it is swallowed.
fn steps(place: Place) -> LocalBoxFuture<'static, Result<()>> {
    Box::pin(async move {
        let world = place.world.clone();
        for _ in 0..1 + world.draw(5) {
            let Err(error) = step(&place).await else { continue };
            // Clean up; be interrupted again in it, perhaps.
            for _ in 0..world.draw(3) {
                if nap(&place).await.is_err() {
                    break;
                }
            }
            if world.draw(4) > 0 {
                return Err(error);
            }
        }
        Ok(())
    })
}

async fn step(place: &Place) -> Result<()> {
    let (world, life) = (&place.world, &place.life);
    look_around(place);
    match world.draw(22) {
        0..=4 => nap(place).await,
        5..=7 => {
            spawn_life(world, Some(life));
            Ok(())
        }
        8 | 9 => join(place).await,
        10 => wait(place).await,
        11 | 12 => cancel(place).await,
        13 => {
            request_cancel(place);
            Ok(())
        }
        14 => cancel_children(place).await,
        15 => {
            let pending = life.pending() && place.shields == 0;
            let checked = told(place, check_cancellation());
            world.law(!pending || checked.is_err(), "a check finds what is pending", life.number);
            checked
        }
        _ if place.depth >= MOST_DEPTH => nap(place).await,
        16 | 17 => limited(place, false).await,
        18 => limited(place, true).await,
        19 => {
            let inside =
                Place { shields: place.shields + 1, depth: place.depth + 1, ..place.clone() };
            disable_cancellation(steps(inside)).await
        }
        20 => combined(place).await,
        _ => foreign(place).await,
    }
}

/// Checks an error that a trap has given, and notes it in the model.
fn told<T>(place: &Place, result: Result<T>) -> Result<T> {
    let Err(error) = &result else { return result };
    let (world, life) = (&place.world, &place.life);
    let (number, now) = (life.number, now());
    if error.is_cancellation() {
        world.law(place.shields == 0, "a shield holds", (number, error));
    }
    if error.is_cancelled() {
        expect_request(place);
        world.law(life.told.get() == 0, "a request arrives once", (number, error));
        deliver(place);
    }
    let expired = |limit: &Rc<Limit>| limit.deadline <= now && !limit.void.get();
    if error.is_timeout() {
        let own = place.limits.last();
        world.law(own.is_some_and(expired), "one's own timeout has expired", (number, now));
    }
    if error.is_timeout_cancellation() {
        let outer = place.limits.split_last().is_some_and(|(_, outer)| outer.iter().any(expired));
        world.law(outer, "an outer timeout has expired", (number, now));
    }
    if error.is_timeout() || error.is_timeout_cancellation() {
        spend(place);
    }
    let known = error.is_cancellation() || error.is_task_error() || error.is_misuse();
    world.law(known, "no other errors", (number, error));
    result
}

fn expect_request(place: &Place) {
    if place.world.shutdown.get() {
        place.life.note_request();
    }
    let asked = place.life.asked.get();
    place.world.law(asked, "no cancellation without a request", place.life.number);
}

fn deliver(place: &Place) {
    place.life.told.set(place.life.told.get() + 1);
    place.life.void_limits();
    place.world.deliveries.set(place.world.deliveries.get() + 1);
}

fn spend(place: &Place) {
    let now = now();
    place
        .limits
        .iter()
        .filter(|limit| limit.deadline <= now)
        .for_each(|limit| limit.spent.set(true));
    place.world.timeouts.set(place.world.timeouts.get() + 1);
}

async fn nap(place: &Place) -> Result<()> {
    let (world, number) = (&place.world, place.life.number);
    let (start, time) = (now(), world.time());
    let open = place.shields == 0;
    let pending = open && place.life.pending();
    let live = |limit: &&Rc<Limit>| open && !limit.void.get() && !limit.spent.get();
    let late = place.limits.iter().filter(live).any(|limit| limit.deadline <= start);
    let slept = told(place, sleep(time).await);
    match &slept {
        Err(error) => {
            world.law(!pending || error.is_cancelled(), "a cancellation comes first", number);
        }
        Ok(woken) => {
            world.law(!pending, "a pending cancellation arrives at the next trap", number);
            world.law(!late, "an expired timeout arrives at the next trap", number);
            world.law(*woken >= start + time, "no sleep is short", (number, start, time, woken));
            for limit in place.limits.iter().filter(live) {
                let in_time = start + time <= limit.deadline;
                world.law(in_time, "no sleep is longer than its limit", (number, start, time));
            }
        }
    }
    slept.map(drop)
}

/// Another task, of those that this one may wait for: the younger ones. So nobody waits in a
/// circle.
fn younger(place: &Place) -> Option<Rc<Life>> {
    let (first, count) = (place.life.number + 1, place.world.tasks.borrow().len());
    let choice = (count - first).try_into().ok().filter(|&choice: &u64| choice > 0)?;
    Some(place.world.life(first + place.world.draw(choice) as usize))
}

async fn join(place: &Place) -> Result<()> {
    let Some(other) = younger(place) else { return Ok(()) };
    let (world, about) = (&place.world, (place.life.number, other.number));
    let had_ended = other.task().terminated();
    let joined = told(place, other.task().join().await);
    match joined {
        Ok(value) => {
            let outcome = other.outcome.borrow().as_ref().and_then(|o| o.as_ref().ok()).copied();
            world.law(outcome == Some(value), "a join gives the result", (about, value, outcome));
        }
        Err(error) if error.is_cancellation() => {
            world.law(!had_ended, "what does not block is not interrupted", about);
            return Err(error);
        }
        Err(error) if error.is_task_error() => {
            let cause = error.task_cause().expect("a cause");
            let same = match &*other.outcome.borrow() {
                Some(Err(own)) => own.to_string() == cause.to_string(),
                Some(Ok(_)) => false,
                // Dropped in a foreign future.
                None => cause.is_cancelled(),
            };
            world.law(same, "a join gives the error", (about, cause));
        }
        Err(error) => {
            world.law(
                other.task().terminated() && error.is_misuse(),
                "a value is joined once",
                error,
            );
        }
    }
    world.law(other.task().terminated(), "a join ends after its task", about);
    Ok(())
}

async fn wait(place: &Place) -> Result<()> {
    let Some(other) = younger(place) else { return Ok(()) };
    let about = (place.life.number, other.number);
    let had_ended = other.task().terminated();
    let waited = told(place, other.task().wait().await);
    place.world.law(!had_ended || waited.is_ok(), "what does not block is not interrupted", about);
    waited?;
    place.world.law(other.task().terminated(), "a wait ends after its task", about);
    Ok(())
}

async fn cancel(place: &Place) -> Result<()> {
    let Some(other) = younger(place) else { return Ok(()) };
    let about = (place.life.number, other.number);
    let had_ended = other.task().terminated();
    other.note_request();
    let cancelled = told(place, other.task().cancel().await);
    place.world.law(
        !had_ended || cancelled.is_ok(),
        "what does not block is not interrupted",
        about,
    );
    place.world.law(
        cancelled? != had_ended,
        "`cancel` knows if there was something to cancel",
        about,
    );
    place.world.law(other.task().terminated(), "the canceller waits for the end", about);
    Ok(())
}

/// Does not wait, so it may ask anybody, itself too.
fn request_cancel(place: &Place) {
    let count = place.world.tasks.borrow().len() as u64;
    let other = place.world.life(place.world.draw(count) as usize);
    let had_ended = other.task().terminated();
    other.note_request();
    let asked = other.task().request_cancel();
    place.world.law(asked != had_ended, "a request knows if there is a task", other.number);
}

async fn cancel_children(place: &Place) -> Result<()> {
    let me = current_task()?;
    let children = children_of(place);
    for child in &children {
        child.note_request();
    }
    told(place, me.cancel_children().await)?;
    for child in &children {
        let ended = child.task().terminated();
        place.world.law(
            ended,
            "`cancel_children` waits for all",
            (place.life.number, child.number),
        );
    }
    Ok(())
}

async fn limited(place: &Place, ignore: bool) -> Result<()> {
    let (world, life) = (&place.world, &place.life);
    let time = world.time();
    let deadline = now() + time;
    let limit = Rc::new(Limit { deadline, void: Cell::default(), spent: Cell::default() });
    life.limits.borrow_mut().push(limit.clone());
    let mut inside = place.clone();
    inside.limits.push(limit);
    inside.depth += 1;
    let dropped = Rc::new(Cell::new(false));
    inside.dropped.push(dropped.clone());
    let result = if ignore {
        ignore_after(time, steps(inside.clone())).await.map(|ended| ended.is_none())
    } else {
        timeout_after(time, steps(inside.clone())).await.map(|()| false)
    };
    let about = (life.number, deadline, now(), &result);
    if matches!(result, Ok(true)) || result.as_ref().is_err_and(Error::is_timeout) {
        world.law(deadline <= now(), "no timeout is early", about);
    }
    // A foreign future inside does not see the interrupt: it was taken here.
    #[allow(clippy::collapsible_match, reason = "a guard would let it fall to the next arm")]
    match &result {
        Err(error) if error.is_cancelled() => {
            if life.told.get() == 0 {
                world.law(dropped.get(), "only foreign futures are dropped", life.number);
                expect_request(place);
                deliver(place);
            }
        }
        Ok(true) | Err(_) if dropped.get() => spend(&inside),
        _ => {}
    }
    result.map(drop)
}

/// Several futures in one task.
async fn combined(place: &Place) -> Result<()> {
    let part = || {
        let mut part = place.clone();
        part.depth += 1;
        steps(part)
    };
    match place.world.draw(3) {
        0 => {
            let (first, second) = futures::join!(part(), part());
            first.and(second)
        }
        // The loser is dropped wherever it stands.
        1 => match select(part(), part()).await {
            Either::Left((result, _)) | Either::Right((result, _)) => result,
        },
        _ => {
            let mut parts: FuturesUnordered<_> = (0..3).map(|_| part()).collect();
            let mut result = Ok(());
            while let Some(ended) = parts.next().await {
                result = result.and(ended);
            }
            result
        }
    }
}

/// Waits for a message that some other task sends after a while.
async fn foreign(place: &Place) -> Result<()> {
    let (send, receive) = oneshot::channel();
    let time = place.world.time();
    let sender = async move {
        let _ = disable_cancellation(sleep(time)).await;
        let _ = send.send(7);
        Ok(())
    };
    // Not in the model: nobody else knows it, and it ends by itself.
    TaskBuilder::new().name("sender").daemon().spawn(sender);
    let mut guard = Foreign { dropped: place.dropped.clone(), ended: false };
    let received = receive.await;
    guard.ended = true;
    place.world.law(received == Ok(7), "a message arrives", received);
    Ok(())
}

fn children_of(place: &Place) -> Vec<Rc<Life>> {
    let tasks = place.world.tasks.borrow();
    let mine = tasks.iter().filter(|life| life.parent == Some(place.life.number) && !life.daemon);
    mine.filter(|life| !life.over.get()).cloned().collect()
}

/// What a task can see of itself and of the others at any time.
fn look_around(place: &Place) {
    let world = &place.world;
    let me = current_task().expect("in a task");
    world.law(me.id() == place.life.task().id(), "one is oneself", &me);
    let children: Vec<u64> = me.children().iter().map(|child| child.id()).collect();
    let model: Vec<u64> = children_of(place).iter().map(|life| life.task().id()).collect();
    world.law(children == model, "the children are those that live", (&children, &model));
    for life in &*world.tasks.borrow() {
        let ended = life.task().terminated();
        world.law(ended == life.over.get(), "ended is TERMINATED", life.task());
        let named = life.task().info().cancellation().is_some();
        let asked = life.asked.get();
        world.law(
            named == asked || world.shutdown.get(),
            "a cancelled task knows by whom",
            life.task(),
        );
    }
    let all = curio::get_all_tasks().expect("in a kernel");
    world.law(!all.iter().any(|task| task.terminated()), "no ended task is in the table", &all);
}

/// Runs the program of a seed; gives how often something was interrupted.
fn run_program(seed: u64) -> (u64, u64) {
    let world = Rc::new(World { random: Cell::new(seed), ..World::default() });
    let mut kernel = seeded_kernel(seed);
    let program = {
        let world = world.clone();
        async move {
            spawn_life(&world, None);
            Ok(())
        }
    };
    // The first task of the model is a child of this one, which is not in the model.
    let result = kernel.run(program);
    world.law(result.is_ok(), "no deadlock", &result);
    for life in &*world.tasks.borrow() {
        world.law(life.daemon || life.over.get(), "`run` waits for all but daemons", life.number);
    }
    world.shutdown.set(true);
    let shutdown = kernel.shutdown();
    world.law(shutdown.is_ok(), "shutdown comes to an end", &shutdown);
    let left: Vec<TaskRef> = kernel.tasks();
    world.law(left.is_empty(), "nothing is left", &left);
    for life in &*world.tasks.borrow() {
        world.law(life.over.get() && life.task().terminated(), "all have ended", life.number);
        let panicked = matches!(&*life.outcome.borrow(), Some(Err(error)) if error.is_panic());
        world.law(!panicked, "no panic", &life.outcome);
    }
    drop(kernel);
    world.tasks.borrow_mut().clear();
    world.law(Rc::strong_count(&world) == 1, "no future is left", Rc::strong_count(&world));
    let broken = world.broken.take();
    assert!(
        broken.is_empty(),
        "seed {seed} breaks {} laws, first of all:\n  {}\n\
         replay: CURIO_SEED={seed} cargo test -p curio --test laws",
        broken.len(),
        broken[..broken.len().min(5)].join("\n  "),
    );
    (world.deliveries.get(), world.timeouts.get())
}

#[test]
fn random_programs_keep_the_laws() {
    if let Ok(seed) = std::env::var("CURIO_SEED") {
        run_program(seed.parse().expect("CURIO_SEED is a number"));
        return;
    }
    let (mut deliveries, mut timeouts) = (0, 0);
    for seed in 0..PROGRAMS {
        let (delivered, timed_out) = run_program(seed);
        deliveries += delivered;
        timeouts += timed_out;
    }
    // The programs are not too tame.
    assert!(deliveries > PROGRAMS && timeouts > PROGRAMS, "{deliveries} and {timeouts}");
}
