//! Laws of the primitives and queues that hold in every program, checked in thousands of random
//! ones.
//!
//! A seed determines a program (tasks that take locks and permits, wait for events and
//! conditions, put, get, join and report as done, inside of timeouts, shields and combinators, and
//! that cancel each other), the order in which the kernel runs it, and how it ends: by itself, by a
//! shutdown, or dropped where it stands; some programs are shared by two kernels that run in turn.
//! A model knows who is inside of what, and which items are where. The laws are checked at
//! every step, whenever all tasks wait, and in the end. A broken one is reported with its seed, and
//!
//! ```text
//! CURIO_SEED=4711 cargo test -p curio --test sync_laws
//! ```
//!
//! runs that one program again. The same programs are drawn by proptest too, which makes what
//! it finds as small as it can.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, Location};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use curio::sync::{Condition, Event, Guard, Lock, RLock, Semaphore, Statistics};
use curio::{
    Clock, Error, Kernel, LifoQueue, Poller, PriorityQueue, Queue, Result, TaskRef, Unsent,
    current_task, disable_cancellation, ignore_after, sleep, timeout_after,
};
use futures::future::{Either, FutureExt, LocalBoxFuture, select};
use futures::stream::{FuturesUnordered, StreamExt};
use proptest::prelude::*;

const PROGRAMS: u64 = 15_000;
const MOST_DEPTH: usize = 3;
const ALL: usize = usize::MAX;

// What the tasks share.

/// Where the choices of a program come from.
enum Choices {
    Seed(u64),
    /// When it is used up, all choices are 0: the shorter, the tamer.
    Tape(Vec<u16>, usize),
}

struct World {
    choices: RefCell<Choices>,
    lives: RefCell<Vec<Rc<Life>>>,
    broken: RefCell<Vec<String>>,
    /// Counts what happens.
    time: Cell<u64>,
    /// More than one kernel runs the tasks.
    shared: bool,
    /// The kernels cancel tasks themselves.
    ending: Cell<bool>,
    /// A kernel was dropped: whoever had the `RLock` then could not release it.
    dropped: Cell<bool>,
    locks: [Locked; 2],
    condition: Condition,
    /// Notifications given to somebody, and waits that have ended with one.
    notified: Cell<u64>,
    woken: Cell<u64>,
    rlock: RLock,
    /// Which task has it, and how often.
    rlocked: Cell<(Option<usize>, usize)>,
    seats: [Seats; 2],
    events: [Happening; 2],
    shelves: [Shelf; 3],
    /// What has become of each item.
    items: RefCell<Vec<Fate>>,
    tally: Tally,
}

/// How often something worth mentioning has happened.
#[derive(Default)]
struct Tally {
    cancelled: Cell<u64>,
    timed_out: Cell<u64>,
    got: Cell<u64>,
    returned: Cell<u64>,
    refused: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// A lock; its value counts the turns.
struct Locked {
    lock: Lock<u64>,
    /// The turn that has it.
    inside: Cell<Option<u64>>,
    turns: Cell<u64>,
    tickets: Cell<u64>,
    /// The last ticket that was let in.
    served: Cell<u64>,
}

struct Seats {
    semaphore: Semaphore,
    permits: usize,
    taken: Cell<usize>,
}

struct Happening {
    event: Event,
    /// When it was set the last time; while it is set, that is now.
    set: Cell<u64>,
}

/// A queue, and what should be in it.
struct Shelf {
    queue: Box<dyn AnyQueue>,
    order: Order,
    inside: RefCell<Vec<u64>>,
    unfinished: Cell<usize>,
    /// When everything was done the last time.
    done: Cell<u64>,
    getting: Cell<usize>,
    putting: Cell<usize>,
    joining: Cell<usize>,
}

#[derive(Clone, Copy)]
enum Order {
    Oldest,
    Newest,
    Least,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// In the hands of the task that has made it.
    Made,
    Inside,
    Got,
    /// It came back: it was not put.
    Returned,
    /// With the future that was to put it.
    Dropped,
}

/// The three queues behind one face.
trait AnyQueue {
    fn put(&self, item: u64) -> LocalBoxFuture<'static, Result<(), Unsent<u64>>>;
    fn get(&self) -> LocalBoxFuture<'static, Result<u64>>;
    fn join(&self) -> LocalBoxFuture<'static, Result<()>>;
    fn put_nowait(&self, item: u64) -> Result<(), Unsent<u64>>;
    fn get_nowait(&self) -> Result<Option<u64>>;
    fn task_done(&self) -> Result<()>;
    fn figures(&self) -> (Statistics, usize);
}

macro_rules! any_queue {
    ($($queue:ty)*) => {$(
        impl AnyQueue for $queue {
            fn put(&self, item: u64) -> LocalBoxFuture<'static, Result<(), Unsent<u64>>> {
                Box::pin(self.put(item))
            }
            fn get(&self) -> LocalBoxFuture<'static, Result<u64>> {
                Box::pin(self.get())
            }
            fn join(&self) -> LocalBoxFuture<'static, Result<()>> {
                Box::pin(self.join())
            }
            fn put_nowait(&self, item: u64) -> Result<(), Unsent<u64>> {
                self.put_nowait(item)
            }
            fn get_nowait(&self) -> Result<Option<u64>> {
                self.get_nowait()
            }
            fn task_done(&self) -> Result<()> {
                self.task_done()
            }
            fn figures(&self) -> (Statistics, usize) {
                (self.statistics(), self.unfinished())
            }
        }
    )*};
}

any_queue! { Queue<u64> LifoQueue<u64> PriorityQueue<u64> }

impl Shelf {
    fn new(queue: impl AnyQueue + 'static, order: Order) -> Shelf {
        Shelf {
            queue: Box::new(queue),
            order,
            inside: RefCell::default(),
            unfinished: Cell::default(),
            done: Cell::default(),
            getting: Cell::default(),
            putting: Cell::default(),
            joining: Cell::default(),
        }
    }

    /// The item that comes next.
    fn take_out(&self) -> Option<u64> {
        let mut inside = self.inside.borrow_mut();
        match self.order {
            Order::Newest => inside.pop(),
            Order::Oldest => (!inside.is_empty()).then(|| inside.remove(0)),
            Order::Least => {
                let least = *inside.iter().min()?;
                inside.retain(|&item| item != least);
                Some(least)
            }
        }
    }
}

/// Counts a task as being in an operation, until it has ended or was dropped.
struct In<'a>(&'a Cell<usize>);

impl<'a> In<'a> {
    fn one(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        In(count)
    }
}

impl Drop for In<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl World {
    fn new(choices: Choices, shared: bool) -> World {
        let locked = || Locked {
            lock: Lock::new(0),
            inside: Cell::default(),
            turns: Cell::default(),
            tickets: Cell::default(),
            served: Cell::default(),
        };
        let seats =
            |semaphore: Semaphore, permits| Seats { semaphore, permits, taken: Cell::default() };
        let happening = || Happening { event: Event::new(), set: Cell::default() };
        World {
            choices: RefCell::new(choices),
            lives: RefCell::default(),
            broken: RefCell::default(),
            time: Cell::new(1),
            shared,
            ending: Cell::default(),
            dropped: Cell::default(),
            locks: [locked(), locked()],
            condition: Condition::new(),
            notified: Cell::default(),
            woken: Cell::default(),
            rlock: RLock::new(),
            rlocked: Cell::default(),
            seats: [seats(Semaphore::new(2), 2), seats(Semaphore::bounded(1), 1)],
            events: [happening(), happening()],
            shelves: [
                Shelf::new(Queue::bounded(1), Order::Oldest),
                Shelf::new(LifoQueue::bounded(2), Order::Newest),
                Shelf::new(PriorityQueue::unbounded(), Order::Least),
            ],
            items: RefCell::default(),
            tally: Tally::default(),
        }
    }

    fn draw(&self, below: usize) -> usize {
        match &mut *self.choices.borrow_mut() {
            Choices::Seed(seed) => {
                *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((mixed ^ (mixed >> 31)) % below as u64) as usize
            }
            Choices::Tape(tape, read) => {
                *read += 1;
                tape.get(*read - 1).map_or(0, |&choice| usize::from(choice) % below)
            }
        }
    }

    fn one<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.draw(of.len())]
    }

    /// Coarse, so that deadlines often coincide.
    fn span(&self) -> Duration {
        Duration::from_millis(self.draw(8) as u64)
    }

    fn tick(&self) -> u64 {
        self.time.set(self.time.get() + 1);
        self.time.get()
    }

    #[track_caller]
    fn law(&self, holds: bool, text: &str, about: impl Debug) {
        if !holds {
            let line = Location::caller().line();
            self.broken.borrow_mut().push(format!("{text}: {about:?} (seen in line {line})"));
        }
    }
}

// The laws of all times.

impl World {
    /// What must be true whenever a task runs.
    fn look_around(&self) {
        for locked in &self.locks {
            let (free, figures) = (!locked.lock.is_locked(), locked.lock.statistics());
            self.law(!free || figures.waiting == 0, "nobody waits for a free lock", figures);
            self.law(!free || locked.inside.get().is_none(), "who is inside has it", figures);
        }
        let (free, figures) = (!self.rlock.is_locked(), self.rlock.statistics());
        self.law(!free || figures.waiting == 0, "nobody waits for a free RLock", figures);
        for seats in &self.seats {
            let (value, figures) = (seats.semaphore.value(), seats.semaphore.statistics());
            self.law(value == 0 || figures.waiting == 0, "nobody waits for a permit", figures);
            self.law(value + seats.taken.get() <= seats.permits, "no permit is made", figures);
            self.law(figures.level == value, "the level is the value", figures);
        }
        for happening in &self.events {
            let (set, figures) = (happening.event.is_set(), happening.event.statistics());
            self.law(!set || figures.waiting == 0, "nobody waits for what has happened", figures);
        }
        for shelf in &self.shelves {
            let ((figures, unfinished), length) =
                (shelf.queue.figures(), shelf.inside.borrow().len());
            self.law(figures.level == length, "the items are there", (figures, length));
            self.law(unfinished == shelf.unfinished.get(), "puts less dones", unfinished);
            let room = figures.capacity == 0 || figures.level <= figures.capacity;
            self.law(room, "no queue is fuller than full", figures);
        }
        self.law(self.woken.get() <= self.notified.get(), "no notification is made", ());
    }

    /// What must be true when no task can run.
    fn at_rest(&self) {
        self.look_around();
        for locked in &self.locks {
            let (held, inside) = (locked.lock.is_locked(), locked.inside.get());
            self.law(held == inside.is_some(), "somebody has a held lock", (held, inside));
        }
        let held = (self.rlock.is_locked(), self.rlocked.get());
        self.law(held.0 == held.1.0.is_some(), "somebody has a held RLock", held);
        for seats in &self.seats {
            let all = (seats.semaphore.value(), seats.taken.get());
            self.law(all.0 + all.1 == seats.permits, "no permit is lost", all);
        }
        for shelf in &self.shelves {
            let (figures, unfinished) = shelf.queue.figures();
            let [getting, putting, joining] =
                [&shelf.getting, &shelf.putting, &shelf.joining].map(Cell::get);
            let about = (figures, getting, putting, joining, unfinished);
            let counted = figures.waiting == getting + putting + joining;
            self.law(counted, "who is in an operation waits", about);
            self.law(getting == 0 || figures.level == 0, "nobody waits for an item", about);
            let full = figures.level == figures.capacity;
            self.law(putting == 0 || full, "nobody waits for a free place", about);
            self.law(joining == 0 || unfinished > 0, "nobody waits for what is done", about);
        }
    }

    /// What must be true when all is over.
    fn at_the_end(&self) {
        self.look_around();
        for life in &*self.lives.borrow() {
            self.law(life.over.get() && life.task().terminated(), "all have ended", life.number);
        }
        for locked in &self.locks {
            let value = locked.lock.acquire_nowait().map(|guard| *guard);
            self.law(value == Some(locked.turns.get()), "the lock is free", value);
        }
        let stuck = self.dropped.get() || !self.rlock.is_locked();
        self.law(stuck, "the RLock is free", &self.rlock);
        for seats in &self.seats {
            let all = (seats.semaphore.value(), seats.taken.get());
            self.law(all == (seats.permits, 0), "all permits are back", all);
        }
        let waiting = [
            self.condition.statistics().waiting,
            self.events[0].event.statistics().waiting,
            self.events[1].event.statistics().waiting,
        ];
        self.law(waiting == [0; 3], "nobody is left in line", waiting);
        for shelf in &self.shelves {
            let waiting = shelf.queue.figures().0.waiting;
            self.law(waiting == 0, "nobody is left at a queue", waiting);
            while self.get_nowait(shelf) {}
            let left = shelf.inside.borrow();
            self.law(left.is_empty(), "what is inside can be had", &left);
        }
        let lost = |fate: &&Fate| matches!(fate, Fate::Made | Fate::Inside);
        self.law(!self.items.borrow().iter().any(|fate| lost(&fate)), "no item is lost", ());
    }
}

// What does not wait.

impl World {
    fn make_item(&self) -> u64 {
        let mut items = self.items.borrow_mut();
        items.push(Fate::Made);
        items.len() as u64 - 1
    }

    fn settle(&self, item: u64, from: Fate, to: Fate) {
        let former = std::mem::replace(&mut self.items.borrow_mut()[item as usize], to);
        self.law(former == from, "an item goes one way", (item, former, to));
    }

    fn was_put(&self, shelf: &Shelf, item: u64) {
        self.settle(item, Fate::Made, Fate::Inside);
        shelf.inside.borrow_mut().push(item);
        if shelf.unfinished.get() == 0 {
            shelf.done.set(self.tick());
        }
        shelf.unfinished.set(shelf.unfinished.get() + 1);
    }

    fn was_got(&self, shelf: &Shelf, item: u64) {
        count(&self.tally.got);
        let expected = shelf.take_out();
        self.law(expected == Some(item), "items come in order", (item, expected));
        self.settle(item, Fate::Inside, Fate::Got);
    }

    fn was_returned(&self, unsent: &Unsent<u64>, item: u64) {
        count(&self.tally.returned);
        self.law(unsent.item == item, "the item comes back", unsent.item);
        self.settle(item, Fate::Made, Fate::Returned);
    }

    fn put_nowait(&self, shelf: &Shelf) -> bool {
        let item = self.make_item();
        let put = shelf.queue.put_nowait(item);
        match &put {
            Ok(()) => self.was_put(shelf, item),
            Err(unsent) => self.was_returned(unsent, item),
        }
        put.is_ok()
    }

    fn get_nowait(&self, shelf: &Shelf) -> bool {
        let got = shelf.queue.get_nowait().expect("only comparisons can fail");
        got.inspect(|&item| self.was_got(shelf, item)).is_some()
    }

    fn report_done(&self, shelf: &Shelf) {
        let (unfinished, reported) = (shelf.unfinished.get(), shelf.queue.task_done());
        self.law(reported.is_ok() == (unfinished > 0), "no more dones than puts", &reported);
        shelf.unfinished.set(unfinished.saturating_sub(1));
        if unfinished == 1 {
            shelf.done.set(self.tick());
        }
    }

    fn notify(&self, many: usize) {
        let there = self.condition.statistics().waiting;
        self.notified.set(self.notified.get() + many.min(there) as u64);
        if many == ALL {
            self.condition.notify_all();
        } else {
            self.condition.notify(many);
        }
        let left = self.condition.statistics().waiting;
        self.law(left == there - many.min(there), "a notification is taken at once", left);
    }

    fn set(&self, happening: &Happening) {
        happening.event.set_nowait();
        happening.set.set(self.tick());
    }

    fn clear(&self, happening: &Happening) {
        if happening.event.is_set() {
            happening.set.set(self.tick());
        }
        happening.event.clear();
        self.law(!happening.event.is_set(), "what is cleared is not set", ());
    }

    /// Lets everybody go who waits for what a task has to do: so every program ends.
    fn flood(&self) {
        self.events.iter().for_each(|happening| self.set(happening));
        self.notify(ALL);
        for shelf in &self.shelves {
            for _ in 0..shelf.getting.get() {
                self.put_nowait(shelf);
            }
            for _ in 0..shelf.putting.get() {
                self.get_nowait(shelf);
            }
            while shelf.joining.get() > 0 && shelf.unfinished.get() > 0 {
                self.report_done(shelf);
            }
        }
    }
}

// The tasks.

struct Life {
    number: usize,
    /// Which kernel runs it.
    kernel: usize,
    task: RefCell<Option<TaskRef>>,
    asked: Cell<bool>,
    told: Cell<bool>,
    over: Cell<bool>,
}

impl Life {
    fn task(&self) -> TaskRef {
        self.task.borrow().clone().expect("set before the task runs")
    }
}

/// Where in its code a task is.
#[derive(Clone)]
struct Place {
    world: Rc<World>,
    life: Rc<Life>,
    shields: usize,
    depth: usize,
    /// The highest of the things that it holds: only higher ones are taken, so nobody waits in a
    /// circle.
    level: usize,
    /// Several futures of the task run at once.
    combined: bool,
}

/// A task's code is over when this is dropped.
struct Body(Rc<Life>);

impl Drop for Body {
    fn drop(&mut self) {
        self.0.over.set(true);
    }
}

fn add_life(world: &Rc<World>, kernel: &Kernel, of: usize) {
    let number = world.lives.borrow().len();
    let life = Rc::new(Life {
        number,
        kernel: of,
        task: RefCell::default(),
        asked: Cell::default(),
        told: Cell::default(),
        over: Cell::default(),
    });
    world.lives.borrow_mut().push(life.clone());
    let place = Place {
        world: world.clone(),
        life: life.clone(),
        shields: 0,
        depth: 0,
        level: 0,
        combined: false,
    };
    let body = Body(life.clone());
    let task = kernel.add_task(async move {
        let world = place.world.clone();
        let ended = AssertUnwindSafe(steps(place)).catch_unwind().await;
        world.law(ended.is_ok(), "no panic", body.0.number);
        ended.unwrap_or(Ok(()))
    });
    *life.task.borrow_mut() = Some(task.expect("it has not been shut down").clone());
}

/// Some random steps; an error ends them, unless it is swallowed.
fn steps(place: Place) -> LocalBoxFuture<'static, Result<()>> {
    Box::pin(async move {
        for _ in 0..1 + place.world.draw(8) {
            place.world.look_around();
            let ended = step(&place).await;
            place.world.look_around();
            if ended.is_err() && place.world.draw(3) > 0 {
                return ended;
            }
        }
        Ok(())
    })
}

async fn step(place: &Place) -> Result<()> {
    let world = &*place.world;
    match world.draw(24) {
        0 | 1 => nap(place).await,
        2..=4 => in_a_lock(place).await,
        5 => in_an_rlock(place).await,
        6 | 7 => in_a_seat(place).await,
        8 | 9 => happening(place).await,
        10 | 11 => wait_for_a_notification(place).await,
        12 => {
            world.notify(*world.one(&[1, 0, 2, ALL]));
            Ok(())
        }
        13 | 14 => get(place).await,
        15 | 16 => put(place).await,
        17 => join(place).await,
        18 => {
            shortly(world, world.one(&world.shelves));
            Ok(())
        }
        19 => cancel(place).await,
        _ if place.depth >= MOST_DEPTH => nap(place).await,
        20 | 21 => limited(place).await,
        22 => {
            disable_cancellation(steps(Place { shields: place.shields + 1, ..deeper(place) })).await
        }
        _ => combined(place).await,
    }
}

fn deeper(place: &Place) -> Place {
    Place { depth: place.depth + 1, ..place.clone() }
}

/// As `told`, for what the tasks of one kernel at a time may wait for.
#[track_caller]
fn told_at<T>(place: &Place, result: Result<T>, figures: impl FnOnce() -> Statistics) -> Result<T> {
    if result.as_ref().is_err_and(Error::is_misuse) {
        let figures = figures();
        place.world.law(figures.waiting > 0, "only who stands in line keeps others out", figures);
    }
    told(place, result)
}

/// Checks an error that a trap has given, and notes it in the model.
#[track_caller]
fn told<T>(place: &Place, result: Result<T>) -> Result<T> {
    let Err(error) = &result else { return result };
    let (world, life) = (&place.world, &place.life);
    let about = (life.number, error);
    if error.is_cancellation() {
        world.law(place.shields == 0, "a shield holds", about);
        count(if error.is_cancelled() { &world.tally.cancelled } else { &world.tally.timed_out });
    }
    if error.is_cancelled() {
        let asked = life.asked.get() || world.ending.get();
        world.law(asked, "no cancellation without a request", about);
        world.law(!life.told.replace(true), "a request arrives once", about);
    }
    let refused = error.is_misuse() && world.shared;
    if refused {
        count(&world.tally.refused);
    }
    world.law(refused || error.is_cancellation(), "no other errors", about);
    result
}

async fn nap(place: &Place) -> Result<()> {
    told(place, sleep(place.world.span()).await).map(drop)
}

/// What a task does that has something: perhaps nothing, or more steps.
async fn busy(place: &Place, level: usize) -> Result<()> {
    if place.depth < MOST_DEPTH && place.world.draw(2) == 0 {
        let level = level.max(place.level);
        return steps(Place { level, ..deeper(place) }).await;
    }
    nap(place).await
}

/// A turn inside of a lock.
struct Turn<'a> {
    locked: &'a Locked,
    number: u64,
}

impl<'a> Turn<'a> {
    #[track_caller]
    fn begin(world: &World, locked: &'a Locked, guard: &mut Guard<'_, u64>) -> Self {
        let number = locked.turns.get() + 1;
        let former = locked.inside.replace(Some(number));
        world.law(former.is_none(), "one at a time", (former, number));
        world.law(**guard + 1 == number, "the value is what the last one has left", **guard);
        locked.turns.set(number);
        **guard = number;
        Turn { locked, number }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.locked.inside.get() == Some(self.number) {
            self.locked.inside.set(None);
        }
    }
}

async fn acquire<'a>(place: &Place, locked: &'a Locked) -> Result<Option<Guard<'a, u64>>> {
    let world = &place.world;
    let free = !locked.lock.is_locked();
    if world.draw(4) == 0 {
        let guard = locked.lock.acquire_nowait();
        world.law(guard.is_some() == free, "a free lock can be had", &locked.lock);
        return Ok(guard);
    }
    locked.tickets.set(locked.tickets.get() + 1);
    let ticket = locked.tickets.get();
    let guard = told_at(place, locked.lock.acquire().await, || locked.lock.statistics());
    world.law(!free || guard.is_ok(), "what does not block is not interrupted", &locked.lock);
    let guard = guard?;
    let served = locked.served.replace(ticket);
    world.law(served < ticket, "first come, first served", (served, ticket));
    world.law(
        locked.lock.statistics().owner == Some(current_task()?.id()),
        "the owner is known",
        &locked.lock,
    );
    Ok(Some(guard))
}

async fn in_a_lock(place: &Place) -> Result<()> {
    let world = &place.world;
    let which = world.draw(2);
    if place.level > which {
        return nap(place).await;
    }
    let locked = &world.locks[which];
    let Some(mut guard) = acquire(place, locked).await? else { return Ok(()) };
    let _turn = Turn::begin(world, locked, &mut guard);
    busy(place, which + 1).await
}

async fn in_an_rlock(place: &Place) -> Result<()> {
    let world = &place.world;
    let number = place.life.number;
    let (owner, depth) = world.rlocked.get();
    let ours = owner == Some(number);
    if place.combined || (place.level > 2 && !ours) {
        return nap(place).await;
    }
    world.law(world.rlock.is_ours() == ours, "one knows what one has", (number, owner));
    let free = ours || !world.rlock.is_locked();
    let acquired = told_at(place, world.rlock.acquire().await, || world.rlock.statistics());
    world.law(!free || acquired.is_ok(), "what does not block is not interrupted", number);
    acquired?;
    let (owner, depth) = if ours { (owner, depth) } else { world.rlocked.get() };
    world.law(ours || (owner, depth) == (None, 0), "one at a time", (number, owner));
    world.rlocked.set((Some(number), depth + 1));
    let _again = Again(world.clone());
    busy(place, 3).await
}

/// An `RLock` that was taken once more.
struct Again(Rc<World>);

impl Drop for Again {
    fn drop(&mut self) {
        let (owner, depth) = self.0.rlocked.get();
        self.0.rlocked.set((owner.filter(|_| depth > 1), depth - 1));
        let released = self.0.rlock.release();
        // A kernel that is dropped drops its tasks' code outside of the tasks.
        let stuck = self.0.dropped.get();
        self.0.law(stuck || released.is_ok(), "the owner may release", released);
    }
}

async fn in_a_seat(place: &Place) -> Result<()> {
    let world = &place.world;
    let which = world.draw(2);
    if place.level > 3 + which {
        return nap(place).await;
    }
    let seats = &world.seats[which];
    let free = seats.semaphore.value() > 0;
    let permit = if world.draw(4) == 0 {
        let permit = seats.semaphore.acquire_nowait();
        world.law(permit.is_some() == free, "a free permit can be had", &seats.semaphore);
        let Some(permit) = permit else { return Ok(()) };
        permit
    } else {
        let permit =
            told_at(place, seats.semaphore.acquire().await, || seats.semaphore.statistics());
        world.law(!free || permit.is_ok(), "what does not block is not interrupted", &permit);
        permit?
    };
    let _taken = In::one(&seats.taken);
    world.law(seats.taken.get() <= seats.permits, "no more inside than seats", ());
    let ended = busy(place, 4 + which).await;
    if world.draw(4) > 0 {
        return ended;
    }
    // By hand.
    permit.forget();
    let released = seats.semaphore.release();
    world.law(released.is_ok(), "what was acquired can be released", &released);
    ended
}

async fn happening(place: &Place) -> Result<()> {
    let world = &place.world;
    let happening = world.one(&world.events);
    match world.draw(6) {
        0 => world.set(happening),
        1 => world.clear(happening),
        2 => {
            happening.set.set(world.tick());
            let set = happening.event.set().await;
            world.law(set.is_ok(), "to set is no cancellation point", &set);
        }
        _ => {
            let (set, since) = (happening.event.is_set(), world.tick());
            let waited =
                told_at(place, happening.event.wait().await, || happening.event.statistics());
            world.law(!set || waited.is_ok(), "what does not block is not interrupted", &waited);
            waited?;
            let seen = set || happening.event.is_set() || happening.set.get() > since;
            world.law(seen, "who waits for an event has seen it", (since, happening.set.get()));
        }
    }
    Ok(())
}

async fn wait_for_a_notification(place: &Place) -> Result<()> {
    let world = &place.world;
    let locked = &world.locks[1];
    // A lock that cannot be taken again because another kernel's tasks wait for it is lost.
    if place.level > 1 || world.shared {
        return nap(place).await;
    }
    let Some(mut guard) = acquire(place, locked).await? else { return Ok(()) };
    drop(Turn::begin(world, locked, &mut guard));
    for _ in 0..1 + world.draw(2) {
        let waited = told(place, world.condition.wait(&mut guard).await);
        let _turn = Turn::begin(world, locked, &mut guard);
        if waited.is_ok() {
            count(&world.woken);
        }
        world.law(locked.lock.is_locked(), "the lock is taken again", &locked.lock);
        waited?;
        busy(place, 2).await?;
    }
    Ok(())
}

async fn get(place: &Place) -> Result<()> {
    let world = &place.world;
    let shelf = world.one(&world.shelves);
    let item = {
        let _getting = In::one(&shelf.getting);
        told_at(place, shelf.queue.get().await, || shelf.queue.figures().0)?
    };
    world.was_got(shelf, item);
    if world.draw(2) == 0 {
        nap(place).await?;
    }
    if shelf.unfinished.get() > 0 {
        world.report_done(shelf);
    }
    Ok(())
}

/// An item on its way into a queue.
struct Carried<'a>(&'a World, u64);

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        let fate = self.0.items.borrow()[self.1 as usize];
        if fate == Fate::Made {
            self.0.settle(self.1, Fate::Made, Fate::Dropped);
        }
    }
}

async fn put(place: &Place) -> Result<()> {
    let world = &place.world;
    let shelf = world.one(&world.shelves);
    let item = world.make_item();
    let _carried = Carried(world, item);
    let put = {
        let _putting = In::one(&shelf.putting);
        shelf.queue.put(item).await
    };
    match put {
        Ok(()) => world.was_put(shelf, item),
        Err(unsent) => {
            world.was_returned(&unsent, item);
            told_at(place, Err(unsent.error), || shelf.queue.figures().0)?;
        }
    }
    Ok(())
}

async fn join(place: &Place) -> Result<()> {
    let world = &place.world;
    let shelf = world.one(&world.shelves);
    let (done, since) = (shelf.unfinished.get() == 0, world.tick());
    let _joining = In::one(&shelf.joining);
    let joined = told_at(place, shelf.queue.join().await, || shelf.queue.figures().0);
    world.law(!done || joined.is_ok(), "what does not block is not interrupted", &joined);
    joined?;
    let seen = done || shelf.unfinished.get() == 0 || shelf.done.get() > since;
    world.law(seen, "who joins a queue has seen its end", (since, shelf.done.get()));
    Ok(())
}

/// What can be done to a queue without waiting.
fn shortly(world: &World, shelf: &Shelf) {
    match world.draw(3) {
        0 => _ = world.put_nowait(shelf),
        1 => _ = world.get_nowait(shelf),
        _ => world.report_done(shelf),
    }
}

async fn cancel(place: &Place) -> Result<()> {
    let world = &place.world;
    let lives = world.lives.borrow().clone();
    let other = world.one(&lives);
    other.asked.set(other.asked.get() || !other.over.get());
    // Who holds something, or is older, might be waited for in turn.
    let may_wait = place.level == 0
        && place.shields == 0
        && other.number > place.life.number
        && other.kernel == place.life.kernel;
    if may_wait && world.draw(2) == 0 {
        return told(place, other.task().cancel().await).map(drop);
    }
    other.task().request_cancel();
    Ok(())
}

async fn limited(place: &Place) -> Result<()> {
    let (limit, inside) = (place.world.span(), steps(deeper(place)));
    if place.world.draw(2) == 0 {
        return ignore_after(limit, inside).await.map(drop);
    }
    timeout_after(limit, inside).await
}

/// Several futures in one task.
async fn combined(place: &Place) -> Result<()> {
    let part = || steps(Place { combined: true, ..deeper(place) });
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

// The kernels.

/// A clock that moves when all tasks wait.
#[derive(Clone, Default)]
struct Tide(Rc<Cell<u64>>);

impl Clock for Tide {
    fn now(&self) -> u64 {
        self.0.get()
    }
}

struct Rest {
    clock: Tide,
    world: Rc<World>,
}

impl Poller for Rest {
    fn add(&self, _fd: BorrowedFd<'_>, _token: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _fd: i32, _token: u64) {}

    fn wait(&self, _events: &mut Vec<curio::Event>, timeout: Option<Duration>) -> io::Result<()> {
        let Some(timeout) = timeout else { return Err(io::Error::other("nobody can go on")) };
        // With two kernels, tasks of the other one may be on their way.
        if !timeout.is_zero() && !self.world.shared {
            self.world.at_rest();
        }
        let passed = timeout.max(Duration::from_micros(1)).as_nanos() as u64;
        self.clock.0.set(self.clock.0.get() + passed);
        Ok(())
    }

    fn notifier(&self) -> Arc<dyn Fn() + Send + Sync> {
        Arc::new(|| {})
    }
}

fn kernel(world: &Rc<World>, order: Option<u64>) -> Kernel {
    let clock = Tide::default();
    let builder = Kernel::builder().clock(clock.clone());
    let builder = builder.poller(Rest { clock, world: world.clone() });
    let builder = if let Some(seed) = order { builder.run_order_seed(seed) } else { builder };
    let kernel = builder.build().unwrap();
    let world = world.clone();
    let flood = async move {
        loop {
            sleep(Duration::from_millis(30)).await?;
            world.flood();
        }
        #[allow(unreachable_code, reason = "gives the type")]
        Ok(())
    };
    drop(kernel.add_task(flood).unwrap());
    kernel
}

/// Lets a kernel run for a while.
fn run_slice(world: &World, kernel: &mut Kernel) {
    const OVER: &str = "the slice is over";
    let time = Duration::from_millis(1 + world.draw(25) as u64);
    let slice = async move {
        sleep(time).await?;
        Err::<(), _>(Error::other(OVER))
    };
    let ended = kernel.run(slice).unwrap_err();
    world.law(ended.to_string() == OVER, "a kernel goes on", ended);
}

fn run_program(choices: Choices, order: u64, replay: &str) -> Tally {
    // Some programs have two kernels, some run first come, first served.
    let shared = order % 8 == 3;
    let world = Rc::new(World::new(choices, shared));
    let seeds = [order, order ^ 0xffff].map(|seed| (!order.is_multiple_of(4)).then_some(seed));
    let mut kernels: Vec<Kernel> =
        seeds.iter().take(1 + usize::from(shared)).map(|&seed| kernel(&world, seed)).collect();
    for number in 0..2 + world.draw(7) {
        let of = number % kernels.len();
        add_life(&world, &kernels[of], of);
    }
    // How it ends: 0 and 1 mean by itself. A shutdown that needs another kernel to run is none.
    let end = if shared { world.draw(2) * 3 } else { world.draw(4) };
    let slices = if end < 2 { 2000 } else { 1 + world.draw(6) };
    for slice in 0..slices {
        let which = slice % kernels.len();
        run_slice(&world, &mut kernels[which]);
        if world.lives.borrow().iter().all(|life| life.over.get()) {
            break;
        }
        let left = || world.lives.borrow().iter().map(|life| life.task()).collect::<Vec<_>>();
        world.law(slice < 1999, "every task ends", left());
    }
    world.ending.set(true);
    for mut kernel in kernels {
        if end == 3 {
            world.dropped.set(true);
        } else {
            let shutdown = kernel.shutdown();
            world.law(shutdown.is_ok(), "shutdown comes to an end", &shutdown);
            world.law(kernel.tasks().is_empty(), "nobody is left", kernel.tasks());
        }
        drop(kernel);
    }
    world.at_the_end();
    world.lives.take();
    world.law(Rc::strong_count(&world) == 1, "no future is left", Rc::strong_count(&world));
    let world = Rc::try_unwrap(world).unwrap_or_else(|world| panic!("{:?}", world.broken));
    let broken = world.broken.take();
    assert!(
        broken.is_empty(),
        "{} laws are broken, first of all:\n  {}\n{replay}",
        broken.len(),
        broken[..broken.len().min(5)].join("\n  "),
    );
    world.tally
}

fn run_seed(seed: u64) -> Tally {
    let replay =
        format!("seed {seed}; replay: CURIO_SEED={seed} cargo test -p curio --test sync_laws");
    run_program(Choices::Seed(seed), seed, &replay)
}

#[test]
fn random_programs_keep_the_laws() {
    if let Ok(seed) = std::env::var("CURIO_SEED") {
        run_seed(seed.parse().expect("CURIO_SEED is a number"));
        return;
    }
    let mut sums = [0; 5];
    for seed in 0..PROGRAMS {
        let Tally { cancelled, timed_out, got, returned, refused } = run_seed(seed);
        for (sum, count) in sums.iter_mut().zip([cancelled, timed_out, got, returned, refused]) {
            *sum += count.get();
        }
    }
    // The programs are not too tame.
    let [cancelled, timed_out, got, returned, refused] = sums;
    assert!(cancelled > PROGRAMS && timed_out > PROGRAMS && got > PROGRAMS, "{sums:?}");
    assert!(returned > PROGRAMS / 10 && refused > 10, "{sums:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// As above, with programs that can be made smaller.
    #[test]
    fn drawn_programs_keep_the_laws(
        tape in prop::collection::vec(any::<u16>(), 0..400),
        order in any::<u64>(),
    ) {
        run_program(Choices::Tape(tape, 0), order, "");
    }
}
