//! Whole programs, drawn by a seed, on a simulated network: nothing is lost in any of them.
//!
//! A seed determines a program (tasks that use everything at once: groups, limits, shields, locks,
//! queues, events, connections and datagrams; that cancel each other and clean up), the order in
//! which the kernel runs it, and what the network does to it. A model knows who holds what, which
//! items and bytes are where, and who must have ended. The program ends by itself: whatever
//! waits without a limit may be cancelled, and in the end it is. The laws of single primitives are
//! `laws.rs` and `sync_laws.rs`; this is about all of them together.
//!
//! A broken law is reported with its seed, and
//!
//! ```text
//! make simulate SEED=4711
//! ```
//!
//! runs that program again. `CURIO_SEEDS=from..to` runs many, and goes on after a failure.

use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use curio::net::{TcpListener, TcpStream, UdpSocket, serve};
use curio::sync::{Condition, Event, Guard, Lock, RLock, Semaphore};
use curio::testing::Network;
use curio::{
    Error, LifoQueue, PriorityQueue, Queue, Result, Stream, TaskBuilder, TaskGroup, TaskRef,
    WaitFor, check_cancellation, clock, disable_cancellation, ignore_after, sleep, timeout_after,
    universal,
};
use futures::future::{Either, LocalBoxFuture, select};

const PROGRAMS: u64 = 3_000;
const MOST_TASKS: usize = 30;
const MOST_DEPTH: usize = 4;
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);
const YIELD: Duration = Duration::ZERO;

/// All that a program has, and what is known of it.
struct World {
    random: Cell<u64>,
    network: Network,
    /// The network resets connections.
    faulty: bool,
    /// A hash of all that has happened.
    trace: Cell<u64>,
    /// In words, if they are asked for.
    told: bool,
    lives: RefCell<Vec<Rc<Life>>>,
    broken: RefCell<Vec<String>>,
    figures: Figures,
    locks: Vec<Lock<Option<usize>>>,
    rlock: RLock,
    rlock_holder: Cell<Option<usize>>,
    condition: Condition,
    semaphore: Semaphore,
    inside: Cell<usize>,
    events: Vec<Event>,
    queues: Vec<Shop>,
    flows: RefCell<Vec<Rc<Flow>>>,
}

/// What has happened, to see that programs are not too tame.
#[derive(Default)]
struct Figures {
    cancelled: Cell<u64>,
    timed_out: Cell<u64>,
    items: Cell<u64>,
    bytes: Cell<u64>,
    resets: Cell<u64>,
}

fn count(figure: &Cell<u64>, by: u64) {
    figure.set(figure.get() + by);
}

/// Order of locks and the like: who has one of them may wait for later ones only.
const RLOCK: usize = 2;
const SEMAPHORE: usize = 3;
const CONDITION: usize = 4;
const PERMITS: usize = 2;

/// One task.
struct Life {
    number: usize,
    task: RefCell<Option<TaskRef>>,
    /// Somebody has asked for its end.
    asked: Cell<bool>,
    /// It belongs to a group, which may ask as well.
    member: bool,
    told: Cell<u32>,
    over: Cell<bool>,
}

impl Life {
    fn task(&self) -> TaskRef {
        self.task.borrow().clone().expect("set before the task runs")
    }
}

/// Ends a life, however its code ends.
struct Body(Rc<Life>);

impl Drop for Body {
    fn drop(&mut self) {
        self.0.over.set(true);
    }
}

/// A queue of any kind, and its items.
struct Shop {
    queue: AnyQueue,
    put: RefCell<Vec<u64>>,
    got: RefCell<Vec<u64>>,
    /// Being put: it may be got before the putter knows.
    coming: RefCell<Vec<u64>>,
    done: Cell<usize>,
}

enum AnyQueue {
    Fifo(Queue<u64>),
    Lifo(LifoQueue<u64>),
    Priority(PriorityQueue<u64>),
    Universal(universal::Queue<u64>),
}

/// One direction of a connection.
struct Flow {
    number: u64,
    sent: Cell<u64>,
    received: Cell<u64>,
    /// The sender has ended in good order, with all of it sent.
    finished: Cell<bool>,
    /// The receiver has seen the end.
    ended: Cell<bool>,
}

impl Flow {
    fn byte(&self, offset: u64) -> u8 {
        (offset.wrapping_mul(31) ^ (offset >> 8) ^ self.number) as u8
    }

    fn next(&self, count: u64) -> Vec<u8> {
        (self.sent.get()..self.sent.get() + count).map(|offset| self.byte(offset)).collect()
    }
}

/// Where in its code a task is.
#[derive(Clone)]
struct Place {
    world: Rc<World>,
    life: Rc<Life>,
    /// The first of the locks that it may still wait for.
    rank: usize,
    /// It cannot be interrupted here, or not any more, and so must not wait for what may not come.
    bounded: bool,
    shielded: bool,
    depth: usize,
    /// The innermost last.
    limits: Vec<Rc<Limit>>,
}

impl World {
    fn new(seed: u64) -> Rc<World> {
        let network = Network::seeded(seed);
        let queue = |queue| Shop {
            queue,
            put: RefCell::default(),
            got: RefCell::default(),
            coming: RefCell::default(),
            done: Cell::default(),
        };
        let world = World {
            random: Cell::new(seed),
            faulty: seed.is_multiple_of(4),
            told: std::env::var_os("CURIO_SEED").is_some(),
            trace: Cell::new(0xcbf2_9ce4_8422_2325),
            lives: RefCell::default(),
            broken: RefCell::default(),
            figures: Figures::default(),
            locks: vec![Lock::new(None), Lock::new(None)],
            rlock: RLock::new(),
            rlock_holder: Cell::default(),
            condition: Condition::new(),
            semaphore: Semaphore::bounded(PERMITS),
            inside: Cell::default(),
            events: vec![Event::new(), Event::new()],
            queues: vec![
                queue(AnyQueue::Fifo(Queue::unbounded())),
                queue(AnyQueue::Fifo(Queue::bounded(1 + seed as usize % 3))),
                queue(AnyQueue::Lifo(LifoQueue::bounded(2))),
                queue(AnyQueue::Priority(PriorityQueue::bounded(4))),
                queue(AnyQueue::Universal(universal::Queue::bounded(2))),
            ],
            flows: RefCell::default(),
            network,
        };
        if world.faulty {
            world.network.set_resets(0.05);
        }
        if seed.is_multiple_of(3) {
            world.network.set_buffer(1 + world.draw(5000) as usize);
        }
        world.network.set_loss(0.2);
        world.network.set_duplicates(0.2);
        Rc::new(world)
    }

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
        self.lives.borrow()[number].clone()
    }
}

/// A limit that the task is inside of.
struct Limit {
    deadline: Duration,
    /// A cancellation has dropped it, or it has interrupted somebody: it will not (again).
    over: Cell<bool>,
    /// It may have interrupted somebody.
    unsure: Cell<bool>,
}

impl Limit {
    /// Whether it may interrupt.
    fn has_expired(&self, now: Duration) -> bool {
        self.deadline <= now && !self.over.get()
    }

    /// Whether it must.
    fn interrupts(&self, now: Duration) -> bool {
        self.has_expired(now) && !self.unsure.get()
    }
}

impl Place {
    /// Notes that something has happened.
    fn note(&self, what: &str, value: u64) {
        note(&self.world, self.life.number as u64, what, value);
    }

    /// In a further block.
    fn inside(&self) -> Place {
        Place { depth: self.depth + 1, ..self.clone() }
    }

    /// With something in hand for which others wait.
    fn holding(&self, rank: usize) -> Place {
        Place { rank: rank + 1, ..self.inside() }
    }

    fn expired(&self) -> impl Iterator<Item = &Rc<Limit>> {
        self.limits.iter().filter(|limit| limit.has_expired(now()))
    }

    /// Whether it may wait for what another task does.
    fn free(&self) -> bool {
        !self.bounded && self.rank == 0
    }
}

fn note(world: &World, who: u64, what: &str, value: u64) {
    let time = now();
    if world.told {
        eprintln!("{time:>12?} {who:>3} {what} {value}");
    }
    let mut trace = world.trace.get();
    let words = [time.as_nanos() as u64, who, value];
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).chain(what.bytes());
    for byte in bytes {
        trace = (trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    world.trace.set(trace);
}

fn now() -> Duration {
    clock().expect("in a kernel")
}

// Tasks.

fn new_life(world: &Rc<World>, member: bool) -> Option<Rc<Life>> {
    let number = world.lives.borrow().len();
    if number >= MOST_TASKS {
        return None;
    }
    let life = Rc::new(Life {
        number,
        task: RefCell::default(),
        asked: Cell::default(),
        member,
        told: Cell::default(),
        over: Cell::default(),
    });
    world.lives.borrow_mut().push(life.clone());
    Some(life)
}

fn spawn_life(world: &Rc<World>) {
    let Some(life) = new_life(world, false) else { return };
    let task = TaskBuilder::new().name(format!("t{}", life.number));
    let task = task.spawn(body(world.clone(), life.clone()));
    *life.task.borrow_mut() = Some((*task).clone());
}

async fn body(world: Rc<World>, life: Rc<Life>) -> Result<u64> {
    let _body = Body(life.clone());
    let place = Place {
        world: world.clone(),
        life: life.clone(),
        rank: 0,
        bounded: false,
        shielded: false,
        depth: 0,
        limits: Vec::new(),
    };
    let result = steps(place.clone()).await;
    place.note("ends", u64::from(result.is_ok()));
    result.map(|()| world.draw(3))
}

/// Some random steps; an error ends them, unless it is a timeout that is swallowed.
fn steps(place: Place) -> LocalBoxFuture<'static, Result<()>> {
    Box::pin(async move {
        let world = place.world.clone();
        for _ in 0..1 + world.draw(5) {
            let Err(error) = step(&place).await else { continue };
            // Nobody cancels it again: from now on it must come to an end by itself.
            let told = place.life.told.get() > 0;
            let cleaning = Place { bounded: place.bounded || told, ..place.clone() };
            if world.draw(2) == 0
                && let Err(another) = step(&cleaning).await
                && another.is_cancelled()
            {
                return Err(another);
            }
            if told || !error.is_timeout() || world.draw(2) == 0 {
                return Err(error);
            }
        }
        Ok(())
    })
}

/// Checks an error that an operation has given, and notes it in the model.
fn told<T>(place: &Place, result: Result<T>) -> Result<T> {
    let Err(error) = &result else { return result };
    let (world, life) = (&place.world, &place.life);
    let (number, now) = (life.number, now());
    world.law(!place.shielded || !error.is_cancellation(), "a shield holds", (number, error));
    if error.is_cancelled() {
        place.note("is cancelled", 0);
        count(&world.figures.cancelled, 1);
        life.told.set(life.told.get() + 1);
        place.limits.iter().for_each(|limit| limit.over.set(true));
        world.law(life.asked.get() || life.member, "no cancellation without a request", number);
        world.law(life.told.get() == 1, "a request arrives once", number);
    }
    if error.is_timeout() || error.is_timeout_cancellation() {
        place.note("is timed out", u64::from(error.is_timeout()));
        count(&world.figures.timed_out, 1);
        let own = place.limits.last().is_some_and(|limit| limit.has_expired(now));
        let any = place.limits.iter().any(|limit| limit.has_expired(now));
        world.law(own || !error.is_timeout(), "one's own limit has expired", (number, now));
        world.law(any, "a limit has expired", (number, now));
        place.expired().for_each(|limit| limit.over.set(true));
    }
    result
}

/// What the join of a group has come to. Errors of the body have been told already.
fn joined(place: &Place, result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_cancelled() && place.life.told.get() == 0 => told(place, Err(error)),
        Err(error) if error.is_task_error() => Ok(()),
        Err(error) if error.is_timeout() || error.is_timeout_cancellation() => {
            // Of the body, or of the join: then a limit has interrupted it.
            place.expired().for_each(|limit| limit.unsure.set(true));
            Err(error)
        }
        other => other,
    }
}

async fn step(place: &Place) -> Result<()> {
    let world = &place.world;
    match world.draw(30) {
        0..=2 => nap(place, world.time()).await,
        3 => nap(place, YIELD).await,
        4..=6 if !place.bounded => {
            spawn_life(world);
            Ok(())
        }
        7 => told(place, check_cancellation()),
        8 => request_cancel(place),
        9 => cancel(place).await,
        10 => join(place).await,
        _ if place.depth >= MOST_DEPTH => nap(place, world.time()).await,
        11 | 12 => limited(place).await,
        13 => shielded(place).await,
        14 | 15 => locked(place, world.draw(2) as usize).await,
        16 => rlocked(place).await,
        17 => with_permit(place).await,
        18 => conditionally(place).await,
        19 => event(place).await,
        20 | 21 => put(place).await,
        22 | 23 => get(place).await,
        24 => wait_done(place).await,
        25 | 26 => group(place).await,
        27 => talk(place).await,
        28 => pipe(place).await,
        _ => datagrams(place).await,
    }
}

async fn nap(place: &Place, time: Duration) -> Result<()> {
    let start = now();
    let woken = told(place, sleep(time).await)?;
    place.note("has slept", time.as_millis() as u64);
    place.world.law(woken >= start + time, "no sleep is short", (place.life.number, time));
    // A request drops limits before it arrives.
    if !place.shielded && !place.life.asked.get() && !place.life.member {
        let late = place.limits.iter().any(|limit| limit.interrupts(start + time));
        let exact = place.limits.iter().any(|limit| limit.deadline == start + time);
        place.world.law(!late || exact, "no sleep outlasts a limit", (place.life.number, time));
    }
    Ok(())
}

fn some_life(place: &Place) -> Rc<Life> {
    let number = place.world.draw(place.world.lives.borrow().len() as u64);
    place.world.life(number as usize)
}

fn request_cancel(place: &Place) -> Result<()> {
    let life = some_life(place);
    if life.number != place.life.number {
        life.asked.set(true);
        life.task().request_cancel();
    }
    Ok(())
}

async fn cancel(place: &Place) -> Result<()> {
    let life = some_life(place);
    if !place.free() || life.number == place.life.number {
        return Ok(());
    }
    life.asked.set(true);
    told(place, life.task().cancel().await)?;
    place.note("has cancelled", life.number as u64);
    place.world.law(life.over.get(), "who was cancelled has ended", life.number);
    place.world.law(life.task().terminated(), "ended is terminated", life.number);
    Ok(())
}

async fn join(place: &Place) -> Result<()> {
    let life = some_life(place);
    if !place.free() || life.number == place.life.number {
        return Ok(());
    }
    told(place, life.task().wait().await)?;
    place.note("has joined", life.number as u64);
    place.world.law(life.over.get(), "who was joined has ended", life.number);
    Ok(())
}

// Limits and shields.

async fn limited(place: &Place) -> Result<()> {
    let limit = place.world.time();
    let deadline = now() + limit;
    let mut inner = place.inside();
    inner.limits.push(Rc::new(Limit { deadline, over: Cell::default(), unsure: Cell::default() }));
    let result = match place.world.draw(3) {
        0 => ignore_after(limit, steps(inner)).await.map(|done| {
            done.unwrap_or_else(|| {
                place.world.law(
                    now() >= deadline,
                    "nothing is ignored too early",
                    place.life.number,
                );
                place.note("ignores", 0);
            });
        }),
        _ => timeout_after(limit, steps(inner)).await,
    };
    if let Err(error) = &result
        && error.is_timeout()
    {
        place.world.law(now() >= deadline, "no timeout is early", (place.life.number, now()));
    }
    result
}

async fn shielded(place: &Place) -> Result<()> {
    let inner = Place { bounded: true, shielded: true, ..place.inside() };
    disable_cancellation(steps(inner)).await
}

// Primitives.

async fn locked(place: &Place, which: usize) -> Result<()> {
    if place.rank > which {
        return nap(place, YIELD).await;
    }
    let (world, me) = (&place.world, place.life.number);
    let mut guard = told(place, world.locks[which].acquire().await)?;
    place.note("locks", which as u64);
    world.law(guard.is_none(), "a lock has one holder", (me, *guard));
    *guard = Some(me);
    let result = steps(place.holding(which)).await;
    world.law(*guard == Some(me), "a lock is kept", (me, *guard));
    *guard = None;
    result
}

async fn rlocked(place: &Place) -> Result<()> {
    if place.rank > RLOCK {
        return nap(place, YIELD).await;
    }
    let (world, me) = (&place.world, place.life.number);
    told(place, world.rlock.acquire().await)?;
    world.law(world.rlock_holder.get().is_none(), "an RLock has one holder", me);
    world.rlock_holder.set(Some(me));
    let again = told(place, world.rlock.acquire().await);
    world.law(again.is_ok(), "who has it can have it again", &again);
    let result = steps(place.holding(RLOCK)).await;
    world.law(world.rlock.is_ours(), "it is ours", me);
    world.rlock.release()?;
    world.law(world.rlock_holder.replace(None) == Some(me), "an RLock is kept", me);
    world.rlock.release()?;
    result
}

async fn with_permit(place: &Place) -> Result<()> {
    if place.rank > SEMAPHORE {
        return nap(place, YIELD).await;
    }
    let world = &place.world;
    let permit = told(place, world.semaphore.acquire().await)?;
    place.note("has a permit", world.inside.get() as u64);
    world.inside.set(world.inside.get() + 1);
    world.law(world.inside.get() <= PERMITS, "no more permits than there are", world.inside.get());
    let result = steps(place.holding(SEMAPHORE)).await;
    world.inside.set(world.inside.get() - 1);
    drop(permit);
    result
}

/// The condition is of the second lock.
async fn conditionally(place: &Place) -> Result<()> {
    let world = &place.world;
    if place.bounded || place.rank > 1 || world.draw(3) == 0 {
        world.condition.notify(1 + world.draw(3) as usize);
        return Ok(());
    }
    let me = place.life.number;
    let mut guard = told(place, world.locks[1].acquire().await)?;
    world.law(guard.is_none(), "a condition's lock has one holder", (me, *guard));
    let waited = {
        let waited = world.condition.wait(&mut guard).await;
        let taken: &mut Guard<'_, _> = &mut guard;
        world.law(taken.is_none(), "the lock is back after the wait", (me, **taken));
        **taken = Some(me);
        let expired: Vec<_> = place.expired().cloned().collect();
        let waited = told(place, waited);
        // Which of them had expired before it waited for the lock, nobody knows.
        if !waited.as_ref().is_err_and(Error::is_cancelled) {
            for limit in expired {
                limit.over.set(false);
                limit.unsure.set(true);
            }
        }
        waited
    };
    place.note("has waited", u64::from(waited.is_ok()));
    let cleaning = Place { bounded: place.bounded || waited.is_err(), ..place.holding(CONDITION) };
    let result = nap(&cleaning, YIELD).await;
    *guard = None;
    // A cancellation comes once.
    result.and(waited)
}

async fn event(place: &Place) -> Result<()> {
    let event = &place.world.events[place.world.draw(2) as usize];
    match place.world.draw(4) {
        0 => {
            event.clear();
            Ok(())
        }
        1 => told(place, event.set().await),
        _ if place.bounded => {
            event.set_nowait();
            Ok(())
        }
        _ => {
            told(place, event.wait().await)?;
            place.note("has seen the event", 0);
            Ok(())
        }
    }
}

impl AnyQueue {
    async fn put(&self, item: u64) -> Result<()> {
        let put = match self {
            AnyQueue::Fifo(queue) => queue.put(item).await,
            AnyQueue::Lifo(queue) => queue.put(item).await,
            AnyQueue::Priority(queue) => queue.put(item).await,
            AnyQueue::Universal(queue) => queue.put(item).await,
        };
        put.map_err(|unsent| {
            assert_eq!(unsent.item, item, "the item comes back");
            unsent.error
        })
    }

    async fn get(&self) -> Result<u64> {
        match self {
            AnyQueue::Fifo(queue) => queue.get().await,
            AnyQueue::Lifo(queue) => queue.get().await,
            AnyQueue::Priority(queue) => queue.get().await,
            AnyQueue::Universal(queue) => queue.get().await,
        }
    }

    fn get_nowait(&self) -> Option<u64> {
        match self {
            AnyQueue::Fifo(queue) => queue.get_nowait().expect("nobody is inside"),
            AnyQueue::Lifo(queue) => queue.get_nowait().expect("nobody is inside"),
            AnyQueue::Priority(queue) => queue.get_nowait().expect("nobody is inside"),
            AnyQueue::Universal(queue) => queue.get_nowait(),
        }
    }

    fn task_done(&self) -> Result<()> {
        match self {
            AnyQueue::Fifo(queue) => queue.task_done(),
            AnyQueue::Lifo(queue) => queue.task_done(),
            AnyQueue::Priority(queue) => queue.task_done(),
            AnyQueue::Universal(queue) => queue.task_done(),
        }
    }

    async fn join(&self) -> Result<()> {
        match self {
            AnyQueue::Fifo(queue) => queue.join().await.map(drop),
            AnyQueue::Lifo(queue) => queue.join().await.map(drop),
            AnyQueue::Priority(queue) => queue.join().await.map(drop),
            AnyQueue::Universal(queue) => queue.join().await,
        }
    }
}

fn shop(place: &Place) -> &Shop {
    &place.world.queues[place.world.draw(place.world.queues.len() as u64) as usize]
}

async fn put(place: &Place) -> Result<()> {
    let shop = shop(place);
    if place.bounded {
        return Ok(());
    }
    let item = place.world.figures.items.get() << 8 | place.world.draw(256);
    // Of the priority queue, the lowest is not the oldest.
    let item = item.rotate_right(8);
    count(&place.world.figures.items, 1);
    shop.coming.borrow_mut().push(item);
    let put = told(place, shop.queue.put(item).await);
    shop.coming.borrow_mut().retain(|coming| *coming != item);
    match &put {
        Ok(()) => shop.put.borrow_mut().push(item),
        Err(_) => {
            let got = shop.got.borrow().contains(&item);
            place.world.law(!got, "what was not put is not got", item);
        }
    }
    place.note("has put", item);
    put
}

async fn get(place: &Place) -> Result<()> {
    let shop = shop(place);
    if place.bounded {
        return Ok(());
    }
    let got = if place.world.draw(4) == 0 {
        // The loser is dropped wherever it stands.
        let time = sleep(place.world.time());
        match select(Box::pin(shop.queue.get()), time).await {
            Either::Left((got, _)) => told(place, got)?,
            Either::Right((slept, _)) => return told(place, slept).map(drop),
        }
    } else {
        told(place, shop.queue.get().await)?
    };
    place.note("has got", got);
    let known = shop.put.borrow().contains(&got) || shop.coming.borrow().contains(&got);
    place.world.law(known, "what is got was put", got);
    place.world.law(!shop.got.borrow().contains(&got), "an item is got once", got);
    shop.got.borrow_mut().push(got);
    let worked = nap(place, place.world.time() / 2).await;
    let done = shop.queue.task_done();
    place.world.law(done.is_ok(), "what was got can be done", &done);
    shop.done.set(shop.done.get() + 1);
    worked
}

async fn wait_done(place: &Place) -> Result<()> {
    let shop = shop(place);
    if !place.free() {
        return Ok(());
    }
    told(place, shop.queue.join().await)?;
    place.note("has seen all done", shop.done.get() as u64);
    Ok(())
}

// Groups.

async fn group(place: &Place) -> Result<()> {
    if !place.free() {
        return Ok(());
    }
    let world = place.world.clone();
    let wait = match world.draw(5) {
        0 | 1 => WaitFor::All,
        2 => WaitFor::Any,
        3 => WaitFor::First(|value: &u64| *value == 1),
        _ => WaitFor::Nobody,
    };
    let members = Rc::new(RefCell::new(Vec::new()));
    let inner = place.inside();
    let result = TaskGroup::scope(wait, async |group: &TaskGroup<u64>| {
        for _ in 0..1 + world.draw(3) {
            let Some(life) = new_life(&world, true) else { break };
            *life.task.borrow_mut() = Some(group.spawn(body(world.clone(), life.clone()))?);
            members.borrow_mut().push(life);
        }
        if world.draw(2) == 0 {
            steps(inner.clone()).await?;
        }
        if world.draw(3) == 0 {
            told(&inner, group.next_done().await)?;
        }
        if world.draw(6) == 0 {
            told(&inner, group.cancel_remaining().await)?;
        }
        Ok(())
    })
    .await;
    for life in &*members.borrow() {
        world.law(life.over.get(), "no task outlives its group", life.number);
        world.law(life.task().terminated(), "a member has ended", life.number);
    }
    place.note("has joined a group", u64::from(result.is_ok()));
    joined(place, result)
}

// The network.

/// Whether an error is one that the network's faults make.
fn is_fault(error: &Error) -> bool {
    use std::io::ErrorKind as K;
    error.as_io().is_some_and(|error| {
        matches!(
            error.kind(),
            K::ConnectionReset | K::BrokenPipe | K::ConnectionRefused | K::TimedOut
        )
    })
}

/// A connection that has failed is over; whether that may be is checked.
fn failed(place: &Place, error: Error, allowed: bool) -> Result<()> {
    if !is_fault(&error) {
        return told(place, Err(error));
    }
    place.note("sees a fault", 0);
    count(&place.world.figures.resets, 1);
    place.world.law(allowed, "no fault without a cause", (place.life.number, &error));
    Ok(())
}

/// Sends lines to the server, which echoes them.
async fn talk(place: &Place) -> Result<()> {
    if !place.free() {
        return Ok(());
    }
    match talk_to_server(place).await {
        Ok(()) => Ok(()),
        Err(error) => failed(place, error, place.world.faulty),
    }
}

async fn talk_to_server(place: &Place) -> Result<()> {
    let world = &place.world;
    let stream = Stream::new(TcpStream::connect(SERVER).await?);
    place.note("is connected", 0);
    for number in 0..1 + world.draw(4) {
        let length = if world.draw(8) == 0 { 20_000 } else { world.draw(200) };
        let line: Vec<u8> = (0..length).map(|at| b'a' + ((at + number) % 26) as u8).collect();
        let line = [line, format!(" {number}\n").into_bytes()].concat();
        let mut written = 0;
        while written < line.len() {
            // An interruption takes nothing away: the rest can follow.
            let writing = stream.write(&line[written..]);
            match timeout_after(Duration::from_millis(1), writing).await {
                Ok(()) => written = line.len(),
                Err(error) if error.is_timeout() => written += error.bytes_done().unwrap_or(0),
                Err(error) => return Err(error),
            }
        }
        let echo = loop {
            // The line comes, whole, however often it is given up.
            match ignore_after(Duration::from_millis(2), stream.read_line()).await? {
                Some(echo) => break echo,
                None => place.note("has no patience", number),
            }
        };
        world.law(echo.is_some() || world.faulty, "the server answers", number);
        let Some(echo) = echo else { return Ok(()) };
        world.law(echo == line, "the echo is what was said", (echo.len(), line.len()));
        count(&world.figures.bytes, line.len() as u64);
    }
    if world.draw(2) == 0 {
        stream.close().await?;
    }
    Ok(())
}

async fn echo(client: TcpStream) -> Result<()> {
    let stream = Stream::new(client);
    while let Some(line) = stream.read_line().await? {
        stream.write(&line).await?;
    }
    stream.close().await
}

/// Two tasks of a group, and a connection between them.
async fn pipe(place: &Place) -> Result<()> {
    if !place.free() {
        return Ok(());
    }
    let world = place.world.clone();
    let flow = Rc::new(Flow {
        number: world.flows.borrow().len() as u64,
        sent: Cell::default(),
        received: Cell::default(),
        finished: Cell::default(),
        ended: Cell::default(),
    });
    world.flows.borrow_mut().push(flow.clone());
    let (one, other) = world.network.pair()?;
    let inner = place.inside();
    let result = TaskGroup::scope(WaitFor::All, async |group: &TaskGroup<u64>| {
        let parts = [
            Box::pin(send_all(world.clone(), flow.clone(), one)) as LocalBoxFuture<'static, _>,
            Box::pin(receive_all(world.clone(), flow.clone(), other)),
        ];
        for part in parts {
            group.spawn(part)?;
        }
        if world.draw(3) == 0 { steps(inner.clone()).await } else { Ok(()) }
    })
    .await;
    place.note("has piped", flow.received.get());
    let whole = !flow.ended.get() || flow.received.get() == flow.sent.get();
    world.law(
        whole,
        "an orderly end comes after everything",
        (flow.sent.get(), flow.received.get()),
    );
    match &result {
        Ok(()) if !world.faulty => {
            world.law(flow.finished.get() && flow.ended.get(), "all arrives", flow.received.get());
        }
        Err(error) if error.is_task_error() => {
            let cause = error.task_cause();
            let fault = cause.is_some_and(is_fault);
            world.law(fault && world.faulty, "no fault without a cause", cause);
        }
        _ => {}
    }
    joined(place, result)
}

async fn send_all(world: Rc<World>, flow: Rc<Flow>, socket: TcpStream) -> Result<u64> {
    let rounds = 1 + world.draw(4);
    for _ in 0..rounds {
        let most = if world.draw(4) == 0 { 50_000 } else { 500 };
        let data = flow.next(1 + world.draw(most));
        let sending = socket.send_all(&data);
        let sent = timeout_after(world.time() + Duration::from_micros(1), sending).await;
        let count = match &sent {
            Ok(()) => data.len(),
            Err(error) => error.bytes_done().unwrap_or(0),
        };
        flow.sent.set(flow.sent.get() + count as u64);
        note(&world, flow.number, "sent", count as u64);
        match sent {
            Err(error) if !error.is_timeout() => return Err(error),
            _ => sleep(world.time() / 4).await?,
        };
    }
    flow.finished.set(true);
    if world.draw(2) == 0 {
        socket.shutdown(Shutdown::Write)?;
    }
    Ok(0)
}

async fn receive_all(world: Rc<World>, flow: Rc<Flow>, socket: TcpStream) -> Result<u64> {
    let mut buffer = vec![0; 1 + world.draw(10_000) as usize];
    loop {
        let receiving = socket.recv(&mut buffer);
        let Some(count) = ignore_after(Duration::from_millis(1), receiving).await? else {
            continue;
        };
        let start = flow.received.get();
        let right = (start..).zip(&buffer[..count]).all(|(at, byte)| flow.byte(at) == *byte);
        world.law(right, "bytes arrive in order, once", (flow.number, start, count));
        flow.received.set(start + count as u64);
        note(&world, flow.number, "received", count as u64);
        self::count(&world.figures.bytes, count as u64);
        if count == 0 {
            flow.ended.set(true);
            return Ok(0);
        }
        if world.draw(4) == 0 {
            sleep(world.time() / 4).await?;
        }
    }
}

/// Datagrams get lost, but none is changed.
async fn datagrams(place: &Place) -> Result<()> {
    // Inside of a shield no limit would end it.
    if place.shielded {
        return Ok(());
    }
    let (one, other) = place.world.network.datagrams()?;
    let number = place.world.draw(256) as u8;
    let mut buffer = [0; 300];
    for length in 0..place.world.draw(4) {
        let sent = told(place, one.send(&[number; 200][..length as usize]).await)?;
        place.world.law(sent == length as usize, "a datagram is sent whole", (sent, length));
    }
    let mut receiving = async |socket: &UdpSocket| loop {
        let count = socket.recv(&mut buffer).await?;
        let right = count < 4 && buffer[..count].iter().all(|byte| *byte == number);
        place.world.law(right, "a datagram arrives as it was", count);
        place.note("has a datagram", count as u64);
    };
    let limit = Duration::from_millis(15);
    let received: Result<Option<()>> = ignore_after(limit, receiving(&other)).await;
    received.map(drop).or_else(|error| told(place, Err(error)))
}

// The whole.

async fn program(world: Rc<World>) -> Result<()> {
    let listener = TcpListener::bind(SERVER)?;
    let server = serve(listener, |client, _address| echo(client));
    for _ in 0..2 + world.draw(4) {
        spawn_life(&world);
    }
    for _ in 0..4 {
        sleep(8 * world.time()).await?;
        match world.draw(6) {
            0 => world.network.cut(SERVER.ip(), None),
            1 if world.faulty => world.network.reset_all(),
            _ => world.network.heal(),
        }
    }
    world.network.heal();
    // Everybody at once: who waits for another must not wait for his turn.
    let mut checked = 0;
    loop {
        let lives: Vec<_> = world.lives.borrow().iter().skip(checked).cloned().collect();
        if lives.is_empty() {
            break;
        }
        for life in world.lives.borrow().iter().filter(|life| !life.over.get()) {
            life.asked.set(true);
            life.task().request_cancel();
        }
        for life in &lives {
            // Somebody new may be what it waits for.
            let mut patience = 100;
            while ignore_after(Duration::from_millis(50), life.task().wait()).await?.is_none() {
                patience -= 1;
                if patience == 0 {
                    let tasks: Vec<_> =
                        curio::get_all_tasks()?.iter().map(|task| format!("{task:?}")).collect();
                    return Err(Error::other(format!("{} does not end: {tasks:#?}", life.number)));
                }
                for life in world.lives.borrow().iter().filter(|life| !life.over.get()) {
                    life.asked.set(true);
                    life.task().request_cancel();
                }
            }
        }
        checked += lives.len();
    }
    server.cancel().await?;
    for shop in &world.queues {
        check_shop(&world, shop).await?;
    }
    Ok(())
}

/// Each item is got or still there; all of them can be done.
async fn check_shop(world: &World, shop: &Shop) -> Result<()> {
    let mut items = shop.got.borrow().clone();
    let mut rest = Vec::new();
    while let Some(item) = shop.queue.get_nowait() {
        rest.push(item);
        shop.queue.task_done()?;
    }
    match shop.queue {
        AnyQueue::Priority(_) => world.law(rest.is_sorted(), "the lowest first", &rest),
        AnyQueue::Fifo(_) | AnyQueue::Universal(_) => {
            // What is left came in this order, behind what was got.
            let put = shop.put.borrow();
            let left: Vec<_> = put.iter().filter(|item| !items.contains(item)).copied().collect();
            let same = left.len() == rest.len() && left.iter().all(|item| rest.contains(item));
            world.law(same, "what was not got is there", (&left, &rest));
        }
        AnyQueue::Lifo(_) => {}
    }
    items.extend(rest);
    items.sort_unstable();
    let mut put = shop.put.borrow().clone();
    put.sort_unstable();
    world.law(items == put, "each item once, and none is lost", (items.len(), put.len()));
    shop.queue.join().await
}

/// What a program came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outcome {
    trace: u64,
    cancelled: u64,
    timed_out: u64,
    items: u64,
    bytes: u64,
    resets: u64,
}

/// Runs the program of a seed. The error tells which laws it breaks.
fn run_program(seed: u64) -> std::result::Result<Outcome, String> {
    let world = World::new(seed);
    let mut kernel = world.network.kernel();
    let result = kernel.run(program(world.clone()));
    if let Err(error) = &result {
        let tasks: Vec<_> = kernel.tasks().iter().map(TaskRef::to_string).collect();
        world.law(false, "the program comes to its end", (error, tasks));
        drop(kernel);
    } else {
        let shutdown = kernel.shutdown();
        world.law(shutdown.is_ok(), "shutdown comes to an end", &shutdown);
        let left = kernel.leftovers();
        world.law(left.is_ok(), "nothing is left in the kernel", &left);
        drop(kernel);
        for lock in &world.locks {
            world.law(!lock.is_locked(), "locks are free in the end", lock);
        }
        world.law(!world.rlock.is_locked(), "the RLock is free in the end", &world.rlock);
        let value = world.semaphore.value();
        world.law(value == PERMITS, "permits are back", value);
        for life in &*world.lives.borrow() {
            world.law(life.over.get(), "all have ended", life.number);
        }
    }
    world.lives.borrow_mut().clear();
    world.law(Rc::strong_count(&world) == 1, "no future is left", Rc::strong_count(&world));
    let broken = world.broken.take();
    if let Some(first) = broken.first() {
        return Err(format!("{} laws, first of all: {first}", broken.len()));
    }
    let figures = &world.figures;
    Ok(Outcome {
        trace: world.trace.get(),
        cancelled: figures.cancelled.get(),
        timed_out: figures.timed_out.get(),
        items: figures.items.get(),
        bytes: figures.bytes.get(),
        resets: figures.resets.get(),
    })
}

/// The same, and once more where `twice` says so: a seed determines everything.
fn check(seed: u64, twice: bool) -> std::result::Result<Outcome, String> {
    let run = || {
        let run = catch_unwind(AssertUnwindSafe(|| run_program(seed)));
        run.unwrap_or_else(|_| Err("a panic".into()))
    };
    let first = run()?;
    if twice {
        let second = run()?;
        if first != second {
            return Err(format!("two runs that differ: {first:?} and {second:?}"));
        }
    }
    Ok(first)
}

fn replay(seed: u64) -> String {
    format!("replay: make simulate SEED={seed}")
}

/// `CURIO_SEEDS`: counts them, and tells of each failure on standard output.
fn run_many(seeds: &str) {
    let (from, to) = seeds.split_once("..").expect("CURIO_SEEDS is from..to");
    let (from, to): (u64, u64) = (from.parse().unwrap(), to.parse().unwrap());
    let mut failures = 0;
    for seed in from..to {
        if let Err(what) = check(seed, seed.is_multiple_of(16)) {
            failures += 1;
            println!("failure: rust seed {seed} breaks {what}");
        }
    }
    println!("schedules: rust {} failures: {failures}", to - from);
    assert_eq!(failures, 0);
}

#[test]
fn random_programs_lose_nothing() {
    if let Ok(seed) = std::env::var("CURIO_SEED") {
        let seed = seed.parse().expect("CURIO_SEED is a number");
        match check(seed, true) {
            Ok(outcome) => println!("{outcome:?}"),
            Err(what) => panic!("seed {seed} breaks {what}\n{}", replay(seed)),
        }
        return;
    }
    if let Ok(seeds) = std::env::var("CURIO_SEEDS") {
        run_many(&seeds);
        return;
    }
    let (mut cancelled, mut timed_out, mut items, mut bytes, mut resets) = (0, 0, 0, 0, 0);
    for seed in 0..PROGRAMS {
        let outcome = check(seed, seed.is_multiple_of(16))
            .unwrap_or_else(|what| panic!("seed {seed} breaks {what}\n{}", replay(seed)));
        cancelled += outcome.cancelled;
        timed_out += outcome.timed_out;
        items += outcome.items;
        bytes += outcome.bytes;
        resets += outcome.resets;
    }
    // The programs are not too tame.
    let rare = cancelled.min(timed_out).min(items).min(bytes / 1000).min(20 * resets);
    assert!(rare > PROGRAMS, "{cancelled} {timed_out} {items} {bytes} {resets}");
}
