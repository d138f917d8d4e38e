//! Every primitive, with all that can come between a task and its turn, in every order.
//!
//! Two or three tasks stand in line. The main task gives turns, tries to take one itself, cancels,
//! lets timeouts expire, drops futures: each case is one order of these, and says after which of
//! them the tasks in line have run and after which they have not yet. A model of a line, written
//! from the rules, says what each task sees and how the primitive looks in between. In the end
//! everybody has left, and nothing was lost or made twice.
//!
//! Time stands still unless the main task moves it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use curio::sync::{Condition, Guard, Lock, Permit, RLock, Semaphore, Statistics};
use curio::testing::look_at_timers;
use curio::{
    Clock, Error, Kernel, LifoQueue, Poller, PriorityQueue, Queue, Result, Task, TaskRef,
    disable_cancellation, sleep, spawn, timeout_after,
};
use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::{Either, LocalBoxFuture, select};
use futures::stream::FuturesUnordered;

const UNIT: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_secs(1_000_000);

// The cases.

/// What the tasks stand in line for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trap {
    Event,
    Lock,
    RLock,
    Semaphore,
    Bounded,
    Condition,
    Get,
    GetNewest,
    GetLeast,
    Put,
    Join,
}

/// What the main task does; the numbers are of tasks in line.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// Releases, puts, gets, sets, notifies, reports as done: whatever one of those in line needs.
    Give,
    /// Wants a turn itself, without waiting; closes the gate of an event or of a join.
    Try,
    /// Releases the lock of the condition.
    Unlock,
    Cancel(usize),
    Expire(usize),
    /// Makes the task drop the future of its operation.
    Drop(usize),
}

#[derive(Clone, Debug)]
struct Case {
    trap: Trap,
    tasks: usize,
    acts: Vec<Act>,
    /// Bit by bit: whether the tasks run after an act.
    gaps: u32,
    /// The operations are inside of shields.
    shielded: bool,
    /// The operations are polled by a combinator, with its own wakers.
    combined: bool,
}

/// All orders of `acts`, each once.
fn orders(acts: &[Act]) -> Vec<Vec<Act>> {
    if acts.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (place, &act) in acts.iter().enumerate() {
        if acts[..place].contains(&act) {
            continue;
        }
        let rest: Vec<Act> = [&acts[..place], &acts[place + 1..]].concat();
        all.extend(orders(&rest).into_iter().map(|order| [&[act], &order[..]].concat()));
    }
    all
}

fn cases(trap: Trap, tasks: usize, acts: &[Act]) -> impl Iterator<Item = Case> {
    let gaps = 1 << (acts.len() - 1);
    orders(acts).into_iter().flat_map(move |acts| {
        (0..gaps * 4).map(move |choice| {
            let (shielded, combined, gaps) = (choice & 1 != 0, choice & 2 != 0, choice >> 2);
            Case { trap, tasks, acts: acts.clone(), gaps, shielded, combined }
        })
    })
}

impl Case {
    /// A task's limit: its turn among those that expire.
    fn limit(&self, task: usize) -> Duration {
        let mut expiring = self.acts.iter().filter(|act| matches!(act, Act::Expire(_)));
        let place = expiring.position(|&act| act == Act::Expire(task));
        place.map_or(NEVER, |place| UNIT * (place as u32 + 1))
    }

    fn has(&self, act: Act) -> bool {
        self.acts.contains(&act)
    }
}

// The stage.

/// A clock that is moved by hand.
#[derive(Clone, Default)]
struct Hand(Rc<Cell<u64>>);

impl Clock for Hand {
    fn now(&self) -> u64 {
        self.0.get()
    }
}

/// A poller that does not sleep: that somebody is always ready is part of the tests.
struct Awake;

impl Poller for Awake {
    fn add(&self, _fd: BorrowedFd<'_>, _token: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _fd: i32, _token: u64) {}

    fn wait(&self, _events: &mut Vec<curio::Event>, timeout: Option<Duration>) -> io::Result<()> {
        match timeout {
            Some(Duration::ZERO) => Ok(()),
            _ => Err(io::Error::other("nobody is ready")),
        }
    }

    fn notifier(&self) -> Arc<dyn Fn() + Send + Sync> {
        Arc::new(|| {})
    }
}

enum Thing {
    Event(curio::sync::Event),
    Lock(Lock<()>),
    RLock(RLock),
    Semaphore(Semaphore),
    Condition(Condition, Lock<()>),
    Get(Queue<u32>),
    GetNewest(LifoQueue<u32>),
    GetLeast(PriorityQueue<u32>),
    Put(Queue<u32>),
    Join(Queue<u32>),
}

/// What a task has when its operation has succeeded.
#[allow(dead_code, reason = "kept for their drops")]
enum Got<'a> {
    Nothing,
    Lock(Guard<'a, ()>),
    RLock(Taken<'a>),
    Permit(Permit<'a>),
    Item(u32),
}

struct Taken<'a>(&'a RLock);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let released = self.0.release();
        assert!(released.is_ok() || std::thread::panicking(), "{released:?}");
    }
}

/// An item of the main task's own.
const MAINS: u32 = 100;

impl Thing {
    fn new(trap: Trap) -> Thing {
        match trap {
            Trap::Event => Thing::Event(curio::sync::Event::new()),
            Trap::Lock => Thing::Lock(Lock::new(())),
            Trap::RLock => Thing::RLock(RLock::new()),
            Trap::Semaphore => Thing::Semaphore(Semaphore::new(0)),
            Trap::Bounded => Thing::Semaphore(Semaphore::bounded(2)),
            Trap::Condition => Thing::Condition(Condition::new(), Lock::new(())),
            Trap::Get => Thing::Get(Queue::unbounded()),
            Trap::GetNewest => Thing::GetNewest(LifoQueue::unbounded()),
            Trap::GetLeast => Thing::GetLeast(PriorityQueue::unbounded()),
            Trap::Put => {
                let queue = Queue::bounded(2);
                (0..2).for_each(|item| queue.put_nowait(MAINS + item).unwrap());
                Thing::Put(queue)
            }
            Trap::Join => {
                let queue = Queue::unbounded();
                queue.put_nowait(MAINS).unwrap();
                Thing::Join(queue)
            }
        }
    }

    /// The operation of the tasks.
    async fn take(&self, task: usize) -> Result<Got<'_>> {
        match self {
            Thing::Event(event) => event.wait().await.map(|()| Got::Nothing),
            Thing::Lock(lock) => lock.acquire().await.map(Got::Lock),
            Thing::RLock(lock) => lock.acquire().await.map(|()| Got::RLock(Taken(lock))),
            Thing::Semaphore(semaphore) => semaphore.acquire().await.map(Got::Permit),
            Thing::Condition(condition, lock) => {
                let mut guard = lock.acquire().await?;
                let waited = condition.wait(&mut guard).await;
                assert!(lock.is_locked(), "it is taken again in any case");
                *guard = ();
                waited.map(|()| Got::Nothing)
            }
            Thing::Get(queue) => queue.get().await.map(Got::Item),
            Thing::GetNewest(queue) => queue.get().await.map(Got::Item),
            Thing::GetLeast(queue) => queue.get().await.map(Got::Item),
            Thing::Put(queue) => match queue.put(task as u32).await {
                Ok(()) => Ok(Got::Nothing),
                Err(unsent) => {
                    assert_eq!(unsent.item, task as u32, "it comes back");
                    Err(unsent.error)
                }
            },
            Thing::Join(queue) => queue.join().await.map(|()| Got::Nothing),
        }
    }

    /// How it looks from outside.
    fn look(&self) -> Look {
        let of = |statistics: Statistics, free| Look {
            waiting: statistics.waiting,
            owner: statistics.owner,
            free,
            locking: 0,
        };
        match self {
            Thing::Event(event) => of(event.statistics(), usize::from(event.is_set())),
            Thing::Lock(lock) => of(lock.statistics(), usize::from(!lock.is_locked())),
            Thing::RLock(lock) => of(lock.statistics(), usize::from(!lock.is_locked())),
            Thing::Semaphore(semaphore) => of(semaphore.statistics(), semaphore.value()),
            Thing::Condition(condition, lock) => {
                let locking = lock.statistics().waiting;
                Look { locking, ..of(condition.statistics(), usize::from(!lock.is_locked())) }
            }
            Thing::Get(queue) | Thing::Put(queue) => of(queue.statistics(), queue.len()),
            Thing::GetNewest(queue) => of(queue.statistics(), queue.len()),
            Thing::GetLeast(queue) => of(queue.statistics(), queue.len()),
            Thing::Join(queue) => of(queue.statistics(), usize::from(queue.unfinished() == 0)),
        }
    }

    /// What is still in it, in the order in which it comes out.
    fn rest(&self) -> Vec<u32> {
        let out = |next: &dyn Fn() -> Option<u32>| std::iter::from_fn(next).collect();
        match self {
            Thing::Get(queue) | Thing::Put(queue) => out(&|| queue.get_nowait().unwrap()),
            Thing::GetNewest(queue) => out(&|| queue.get_nowait().unwrap()),
            Thing::GetLeast(queue) => out(&|| queue.get_nowait().unwrap()),
            _ => Vec::new(),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Look {
    waiting: usize,
    /// The id of the task that has it.
    owner: Option<u64>,
    /// Permits or items; 1 for what is open or not locked.
    free: usize,
    /// How many wait for the lock of a condition.
    locking: usize,
}

/// What the main task has in its hands.
struct Hands<'a> {
    thing: &'a Thing,
    held: Vec<Got<'a>>,
    /// The lock of the condition.
    lock: Option<Guard<'a, ()>>,
    /// What it has put and got.
    put: Vec<u32>,
    got: Vec<u32>,
    given: usize,
}

impl<'a> Hands<'a> {
    async fn new(thing: &'a Thing) -> Result<Hands<'a>> {
        let mut held = Vec::new();
        match thing {
            Thing::Lock(lock) => held.push(Got::Lock(lock.acquire().await?)),
            Thing::RLock(lock) => {
                lock.acquire().await?;
                held.push(Got::RLock(Taken(lock)));
            }
            Thing::Semaphore(semaphore) => {
                held.extend(std::iter::from_fn(|| semaphore.acquire_nowait()).map(Got::Permit));
            }
            _ => {}
        }
        let put = if let Thing::Put(_) = thing { vec![MAINS, MAINS + 1] } else { Vec::new() };
        Ok(Hands { thing, held, lock: None, put, got: Vec::new(), given: 0 })
    }

    /// Puts in an order that tells the three kinds of queues apart.
    fn next_item(&mut self) -> u32 {
        let item = MAINS + [5, 7, 3, 8, 2, 9, 1][self.put.len()];
        self.put.push(item);
        item
    }

    fn give(&mut self) {
        self.given += 1;
        match self.thing {
            Thing::Event(event) => event.set_nowait(),
            Thing::Lock(_) | Thing::RLock(_) => drop(self.held.pop()),
            Thing::Semaphore(semaphore) if semaphore.bound().is_none() => {
                semaphore.release().unwrap();
            }
            Thing::Semaphore(_) => drop(self.held.pop()),
            Thing::Condition(condition, _) => condition.notify(1),
            Thing::Get(queue) => queue.put_nowait(self.next_item()).unwrap(),
            Thing::GetNewest(queue) => queue.put_nowait(self.next_item()).unwrap(),
            Thing::GetLeast(queue) => queue.put_nowait(self.next_item()).unwrap(),
            Thing::Put(queue) => self.got.extend(queue.get_nowait().unwrap()),
            Thing::Join(queue) => {
                if queue.unfinished() == 0 {
                    queue.put_nowait(MAINS).unwrap();
                }
                while queue.unfinished() > 0 {
                    queue.task_done().unwrap();
                }
            }
        }
    }

    /// Whether there was something to have.
    fn try_to_take(&mut self) -> bool {
        let held = self.held.len() + self.got.len() + self.put.len();
        match self.thing {
            Thing::Event(event) => event.clear(),
            Thing::Lock(lock) => self.held.extend(lock.acquire_nowait().map(Got::Lock)),
            Thing::RLock(_) | Thing::Condition(..) => {}
            Thing::Semaphore(semaphore) => {
                self.held.extend(semaphore.acquire_nowait().map(Got::Permit));
            }
            Thing::Get(queue) => self.got.extend(queue.get_nowait().unwrap()),
            Thing::GetNewest(queue) => self.got.extend(queue.get_nowait().unwrap()),
            Thing::GetLeast(queue) => self.got.extend(queue.get_nowait().unwrap()),
            Thing::Put(queue) => {
                let item = self.next_item();
                if let Err(unsent) = queue.put_nowait(item) {
                    assert!(unsent.error.is_misuse() && unsent.item == item);
                    self.put.pop();
                }
            }
            Thing::Join(queue) => queue.put_nowait(MAINS).unwrap(),
        }
        held != self.held.len() + self.got.len() + self.put.len()
    }
}

struct Scene {
    case: Case,
    thing: Thing,
    clock: Hand,
    /// What each task has seen, step by step.
    seen: RefCell<Vec<Vec<String>>>,
    /// What each task has got, if it was an item, or put.
    items: RefCell<Vec<u32>>,
    /// Ends what the tasks do last.
    over: RefCell<Option<TaskRef>>,
}

impl Scene {
    fn note(&self, task: usize, what: &str, result: &str) {
        self.seen.borrow_mut()[task].push(format!("{what}: {result}"));
    }

    /// The operation, inside of what the case wants around it. `None`: dropped.
    async fn operation(
        &self,
        task: usize,
        dropper: Option<oneshot::Receiver<()>>,
    ) -> Option<Result<Got<'_>>> {
        let shielded = self.case.shielded;
        let mut operation: LocalBoxFuture<'_, _> = Box::pin(async move {
            let operation = self.thing.take(task);
            if shielded { disable_cancellation(operation).await } else { operation.await }
        });
        if self.case.combined {
            let mut set = FuturesUnordered::from_iter([operation]);
            operation = Box::pin(async move { set.next().await.expect("one future") });
        }
        let Some(dropper) = dropper else { return Some(operation.await) };
        match select(dropper, operation).await {
            Either::Left(_) => None,
            Either::Right((result, _)) => Some(result),
        }
    }

    async fn subject(
        self: Rc<Self>,
        task: usize,
        dropper: Option<oneshot::Receiver<()>>,
    ) -> Result<()> {
        let inside = async {
            let result = self.operation(task, dropper).await;
            let text = match &result {
                None => "dropped".into(),
                Some(Ok(Got::Item(item))) => {
                    self.items.borrow_mut().push(*item);
                    which(&self.case, *item)
                }
                Some(Ok(_)) => {
                    self.items.borrow_mut().push(task as u32);
                    "ok".into()
                }
                Some(Err(error)) => kind(error),
            };
            self.note(task, "operation", &text);
            let next = sleep(Duration::ZERO).await;
            self.note(task, "next", &next.map_or_else(|error| kind(&error), |_| "ok".into()));
            Ok(result)
        };
        let got = timeout_after(self.case.limit(task), inside).await?;
        let over = self.over.borrow().clone().expect("set before the tasks are spawned");
        let rest = over.wait().await;
        self.note(task, "rest", &rest.map_or_else(|error| kind(&error), |()| "ok".into()));
        drop(got);
        Ok(())
    }
}

/// Whoever is polled by a combinator may run before its turn, and get an item that others wait for.
fn which(case: &Case, item: u32) -> String {
    if case.combined { "ok, some item".into() } else { format!("ok {item}") }
}

fn kind(error: &Error) -> String {
    match error {
        error if error.is_cancelled() => "cancelled".into(),
        error if error.is_timeout() => "timeout".into(),
        error => panic!("{error:?}"),
    }
}

/// Lets the others run until nobody is ready.
async fn settle() -> Result<()> {
    for _ in 0..16 {
        sleep(Duration::ZERO).await?;
    }
    Ok(())
}

/// Moves the clock, and lets the kernel see it before anybody else runs.
fn pass(clock: &Hand) {
    clock.0.set(clock.0.get() + UNIT.as_nanos() as u64);
    look_at_timers();
}

async fn play(scene: Rc<Scene>) -> Result<()> {
    let (case, thing) = (&scene.case, &scene.thing);
    let gate = spawn(async { sleep(NEVER).await.map(drop) });
    *scene.over.borrow_mut() = Some(gate.clone());
    let mut hands = Hands::new(thing).await?;
    let (mut subjects, mut droppers) = (Vec::new(), Vec::new());
    for task in 0..case.tasks {
        let (sender, receiver) = oneshot::channel();
        let dropper = case.has(Act::Drop(task)).then_some(receiver);
        droppers.push(Some(sender));
        subjects.push(spawn(scene.clone().subject(task, dropper)));
    }
    settle().await?;
    if let (Thing::Condition(_, lock), true) = (thing, case.has(Act::Unlock)) {
        hands.lock = lock.acquire_nowait();
    }

    let mut model = Model::new(case, curio::current_task()?.id(), &subjects);
    assert_eq!(thing.look(), model.look(), "{case:?}: at first");
    for (number, &act) in case.acts.iter().enumerate() {
        match act {
            Act::Give => hands.give(),
            Act::Try => assert_eq!(hands.try_to_take(), model.would_take(), "{case:?}: {number}"),
            Act::Unlock => hands.lock = None,
            Act::Cancel(task) => drop(subjects[task].request_cancel()),
            Act::Expire(_) => pass(&scene.clock),
            Act::Drop(task) => drop(droppers[task].take()),
        }
        model.act(act);
        assert_eq!(thing.look(), model.look(), "{case:?}: after act {number}");
        if case.gaps & 1 << number != 0 {
            settle().await?;
            model.settle();
            assert_eq!(thing.look(), model.look(), "{case:?}: settled after act {number}");
        }
    }
    settle().await?;
    model.settle();
    assert_eq!(thing.look(), model.look(), "{case:?}: at last");
    assert_eq!(*scene.seen.borrow(), model.seen(), "{case:?}");
    gate.cancel().await?;
    finale(&scene, hands, &subjects).await
}

/// Everybody gets what he waits for, and goes; then all is there, once.
async fn finale(scene: &Scene, mut hands: Hands<'_>, subjects: &[Task<()>]) -> Result<()> {
    let (case, thing) = (&scene.case, &scene.thing);
    hands.lock = None;
    for _ in 0..10 {
        settle().await?;
        if subjects.iter().all(|task| task.terminated()) {
            break;
        }
        if hands.held.is_empty() || matches!(thing, Thing::Lock(_) | Thing::RLock(_)) {
            hands.give();
        } else {
            hands.held.pop();
        }
    }
    assert!(subjects.iter().all(|task| task.terminated()), "{case:?}: somebody still waits");
    hands.held.clear();
    let look = thing.look();
    assert_eq!((look.waiting, look.owner, look.locking), (0, None, 0), "{case:?}: {look:?}");
    match thing {
        Thing::Lock(_) | Thing::RLock(_) | Thing::Condition(..) => assert_eq!(look.free, 1),
        Thing::Semaphore(semaphore) => {
            assert_eq!(look.free, semaphore.bound().unwrap_or(hands.given), "{case:?}: permits");
        }
        Thing::Get(_) | Thing::GetNewest(_) | Thing::GetLeast(_) | Thing::Put(_) => {
            let (mut put, mut out) = (hands.put, [hands.got, thing.rest()].concat());
            let theirs = scene.items.take();
            if let Thing::Put(_) = thing {
                put.extend(theirs);
            } else {
                out.extend(theirs);
            }
            put.sort_unstable();
            out.sort_unstable();
            assert_eq!(put, out, "{case:?}: items");
        }
        Thing::Event(_) | Thing::Join(_) => {}
    }
    Ok(())
}

fn check(case: Case) {
    let text = format!("{case:?}");
    let clock = Hand::default();
    let scene = Rc::new(Scene {
        thing: Thing::new(case.trap),
        clock: clock.clone(),
        seen: RefCell::new(vec![Vec::new(); case.tasks]),
        items: RefCell::default(),
        over: RefCell::default(),
        case,
    });
    let mut kernel = Kernel::builder().clock(clock).poller(Awake).build().unwrap();
    if let Err(error) = kernel.run(play(scene.clone())) {
        panic!("{text}: {error}");
    }
    assert!(kernel.tasks().is_empty(), "{text}");
    drop(kernel);
    drop(scene.over.take());
    assert_eq!(Rc::strong_count(&scene), 1, "{text}: no future is left");
}

// The model.

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    InLine,
    /// Takes the lock of the condition again.
    Locking,
    Next,
    Yielded,
    Rest,
    Resting,
    Over,
}

struct Player {
    id: u64,
    phase: Phase,
    scheduled: bool,
    /// An interrupt makes it look.
    open: bool,
    /// When it was given what it waits for.
    fired: Option<u32>,
    /// When it was asked to end, unless it was told already.
    cancelled: Option<u32>,
    asked: bool,
    expired: Option<u32>,
    dropped: bool,
    /// How its wait for the condition has ended.
    outcome: String,
    holds: bool,
    seen: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Kept,
    Notices,
    Gate,
}

struct Line {
    rule: Rule,
    waiting: VecDeque<usize>,
    free: usize,
    owner: Option<u64>,
}

struct Model {
    case: Case,
    main: u64,
    line: Line,
    /// That of the condition.
    lock: Line,
    /// Items inside, oldest first.
    items: Vec<u32>,
    put: usize,
    main_holds: usize,
    players: Vec<Player>,
    ready: VecDeque<usize>,
    time: u32,
}

impl Model {
    fn new(case: &Case, main: u64, subjects: &[Task<()>]) -> Model {
        let trap = case.trap;
        let rule = match trap {
            Trap::Event | Trap::Join => Rule::Gate,
            Trap::Condition => Rule::Notices,
            _ => Rule::Kept,
        };
        let owner = matches!(trap, Trap::Lock | Trap::RLock).then_some(main);
        let main_holds = match trap {
            Trap::Lock | Trap::RLock => 1,
            Trap::Bounded => 2,
            _ => 0,
        };
        let waiting = (0..case.tasks).collect();
        let unlocked = usize::from(!case.has(Act::Unlock));
        let player = |task: &Task<()>| Player {
            id: task.id(),
            phase: Phase::InLine,
            scheduled: false,
            open: !case.shielded,
            fired: None,
            cancelled: None,
            asked: false,
            expired: None,
            dropped: false,
            outcome: String::new(),
            holds: false,
            seen: Vec::new(),
        };
        let put = if trap == Trap::Put { 2 } else { 0 };
        Model {
            case: case.clone(),
            main,
            line: Line { rule, waiting, free: 0, owner },
            lock: Line { rule: Rule::Kept, waiting: VecDeque::new(), free: unlocked, owner: None },
            items: (MAINS..).take(put).collect(),
            put,
            main_holds,
            players: subjects.iter().map(player).collect(),
            ready: VecDeque::new(),
            time: 0,
        }
    }

    fn look(&self) -> Look {
        let queue =
            matches!(self.case.trap, Trap::Get | Trap::GetNewest | Trap::GetLeast | Trap::Put);
        let free = match self.case.trap {
            _ if queue => self.items.len(),
            Trap::Condition => self.lock.free,
            _ => self.line.free,
        };
        let (waiting, locking) = (self.line.waiting.len(), self.lock.waiting.len());
        Look { waiting, owner: self.line.owner, free, locking }
    }

    fn seen(&self) -> Vec<Vec<String>> {
        self.players.iter().map(|player| player.seen.clone()).collect()
    }

    fn owned(&self) -> bool {
        matches!(self.case.trap, Trap::Lock | Trap::RLock)
    }

    /// Whether somebody who does not wait would get something.
    fn would_take(&self) -> bool {
        !matches!(self.case.trap, Trap::RLock) && self.line.rule == Rule::Kept && self.line.free > 0
    }

    fn act(&mut self, act: Act) {
        self.time += 1;
        match act {
            Act::Give => self.give_as_main(),
            Act::Try if self.line.rule == Rule::Gate => self.line.free = 0,
            Act::Try => {
                if self.would_take() {
                    self.take_as_main();
                }
            }
            Act::Unlock => self.give_lock(),
            Act::Cancel(task) => {
                let (time, player) = (self.time, &mut self.players[task]);
                if player.phase == Phase::Over || std::mem::replace(&mut player.asked, true) {
                    return;
                }
                player.cancelled = Some(time);
                player.expired = None;
                self.prod(task);
            }
            Act::Expire(task) => {
                let (time, player) = (self.time, &mut self.players[task]);
                let inside = !matches!(player.phase, Phase::Rest | Phase::Resting | Phase::Over);
                // A cancellation drops the timeouts.
                if inside && !player.asked {
                    player.expired = Some(time);
                    self.prod(task);
                }
            }
            Act::Drop(task) => {
                let player = &mut self.players[task];
                if matches!(player.phase, Phase::InLine | Phase::Locking) {
                    player.dropped = true;
                    self.schedule(task);
                }
            }
        }
    }

    fn give_as_main(&mut self) {
        match self.case.trap {
            Trap::Event | Trap::Join => {
                while self.pop().is_some() {}
                self.line.free = 1;
                return;
            }
            Trap::Lock | Trap::RLock | Trap::Bounded if self.main_holds == 0 => return,
            Trap::Lock | Trap::RLock | Trap::Bounded => self.main_holds -= 1,
            Trap::Get | Trap::GetNewest | Trap::GetLeast => self.push_as_main(),
            Trap::Put => drop(self.items.remove(0)),
            Trap::Semaphore | Trap::Condition => {}
        }
        self.give();
    }

    fn push_as_main(&mut self) {
        self.items.push(MAINS + [5, 7, 3, 8, 2, 9, 1][self.put]);
        self.put += 1;
    }

    fn take_as_main(&mut self) {
        self.line.free -= 1;
        match self.case.trap {
            Trap::Put => self.push_as_main(),
            Trap::Get | Trap::GetNewest | Trap::GetLeast => drop(self.take_out()),
            _ => self.main_holds += 1,
        }
        if self.owned() {
            self.line.owner = Some(self.main);
        }
    }

    fn take_out(&mut self) -> u32 {
        let place = match self.case.trap {
            Trap::GetNewest => self.items.len() - 1,
            Trap::GetLeast => {
                let least = self.items.iter().min().unwrap();
                self.items.iter().position(|item| item == least).unwrap()
            }
            _ => 0,
        };
        self.items.remove(place)
    }

    /// Gives a turn to the first in line, or to nobody.
    fn give(&mut self) {
        if self.pop().is_none() && self.line.rule == Rule::Kept {
            self.line.free += 1;
            self.line.owner = None;
        }
    }

    fn pop(&mut self) -> Option<usize> {
        let task = self.line.waiting.pop_front()?;
        if self.owned() {
            self.line.owner = Some(self.players[task].id);
        }
        self.fire(task);
        Some(task)
    }

    fn give_lock(&mut self) {
        match self.lock.waiting.pop_front() {
            Some(task) => self.fire(task),
            None => self.lock.free = 1,
        }
    }

    fn fire(&mut self, task: usize) {
        self.players[task].fired = Some(self.time);
        self.schedule(task);
    }

    fn prod(&mut self, task: usize) {
        if self.players[task].open {
            self.schedule(task);
        }
    }

    fn schedule(&mut self, task: usize) {
        if !std::mem::replace(&mut self.players[task].scheduled, true) {
            self.ready.push_back(task);
        }
    }

    /// Runs those who are ready until nobody is.
    fn settle(&mut self) {
        while let Some(task) = self.ready.pop_front() {
            self.time += 1;
            let player = &mut self.players[task];
            player.scheduled = false;
            player.open = false;
            while self.step(task) {}
        }
    }

    /// One step of a task; `false` when it blocks.
    fn step(&mut self, task: usize) -> bool {
        match self.players[task].phase {
            Phase::InLine => self.step_in_line(task),
            Phase::Locking => self.step_locking(task),
            Phase::Next => match self.told(task) {
                Some(told) => self.note(task, "next", told, Phase::Rest),
                None => {
                    self.players[task].phase = Phase::Yielded;
                    self.schedule(task);
                    false
                }
            },
            Phase::Yielded => self.note(task, "next", "ok", Phase::Rest),
            Phase::Rest | Phase::Resting => {
                let player = &mut self.players[task];
                player.phase = Phase::Resting;
                player.open = true;
                player.expired = None;
                let Some(told) = self.told(task) else { return false };
                self.note(task, "rest", told, Phase::Over);
                if std::mem::take(&mut self.players[task].holds) {
                    self.give();
                }
                false
            }
            Phase::Over => false,
        }
    }

    fn note(&mut self, task: usize, what: &str, how: &str, next: Phase) -> bool {
        let player = &mut self.players[task];
        player.seen.push(format!("{what}: {how}"));
        player.phase = next;
        true
    }

    /// The interrupt that the task would be told of, and since when.
    fn pending(&self, task: usize) -> Option<(u32, &'static str)> {
        let player = &self.players[task];
        let cancelled = player.cancelled.map(|since| (since, "cancelled"));
        cancelled.or(player.expired.map(|since| (since, "timeout")))
    }

    /// Tells the task of it.
    fn told(&mut self, task: usize) -> Option<&'static str> {
        let (_, told) = self.pending(task)?;
        let player = &mut self.players[task];
        if told == "cancelled" {
            player.cancelled = None;
        } else {
            player.expired = None;
        }
        Some(told)
    }

    fn step_in_line(&mut self, task: usize) -> bool {
        let player = &self.players[task];
        let fired = player.fired;
        if player.dropped {
            self.leave(task);
            return self.note(task, "operation", "dropped", Phase::Next);
        }
        let pending = self.pending(task).filter(|_| !self.case.shielded);
        match (fired, pending) {
            (None, None) => {
                self.players[task].open = !self.case.shielded;
                false
            }
            // What came first counts.
            (Some(fired), Some((since, _))) if fired < since => self.got(task),
            (_, Some(_)) => {
                let told = self.told(task).unwrap();
                self.leave(task);
                self.ended(task, told.into())
            }
            (Some(_), None) => self.got(task),
        }
    }

    /// Leaves the line; passes on what was given in vain.
    fn leave(&mut self, task: usize) {
        if self.players[task].fired.take().is_none() {
            self.line.waiting.retain(|&waiting| waiting != task);
        } else if self.line.rule != Rule::Gate {
            self.give();
        }
    }

    fn got(&mut self, task: usize) -> bool {
        self.players[task].fired = None;
        let how = match self.case.trap {
            Trap::Get | Trap::GetNewest | Trap::GetLeast => {
                let item = self.take_out();
                which(&self.case, item)
            }
            Trap::Put => {
                self.items.push(task as u32);
                "ok".into()
            }
            Trap::Lock | Trap::RLock | Trap::Semaphore | Trap::Bounded => {
                self.players[task].holds = true;
                "ok".into()
            }
            Trap::Event | Trap::Join | Trap::Condition => "ok".into(),
        };
        self.ended(task, how)
    }

    /// The wait has ended; in a condition the lock is taken again before anything is seen.
    fn ended(&mut self, task: usize, how: String) -> bool {
        if self.case.trap != Trap::Condition {
            return self.note(task, "operation", &how, Phase::Next);
        }
        self.players[task].outcome = how;
        self.players[task].phase = Phase::Locking;
        if self.lock.free == 1 {
            self.lock.free = 0;
            return self.locked(task);
        }
        self.lock.waiting.push_back(task);
        false
    }

    fn step_locking(&mut self, task: usize) -> bool {
        let player = &mut self.players[task];
        let fired = player.fired.take().is_some();
        if player.dropped {
            if fired {
                self.give_lock();
            } else {
                self.lock.waiting.retain(|&waiting| waiting != task);
            }
            if self.players[task].outcome == "ok" {
                // It was notified, and nobody will ever know: another one is.
                self.give();
            }
            return self.note(task, "operation", "dropped", Phase::Next);
        }
        fired && self.locked(task)
    }

    /// Has the lock again, and releases it at once.
    fn locked(&mut self, task: usize) -> bool {
        self.give_lock();
        let how = self.players[task].outcome.clone();
        self.note(task, "operation", &how, Phase::Next)
    }
}

// The products.

/// Everything that is to be tried with one trap.
fn check_all(trap: Trap) {
    use Act::{Cancel, Drop, Expire, Give, Try};
    let mut count = 0;
    let mut all = |tasks, acts: &[Act]| {
        for case in cases(trap, tasks, acts) {
            check(case);
            count += 1;
        }
    };
    for first in 0..2 {
        for second in 0..2 {
            all(2, &[Give, Give, Cancel(first), Expire(second)]);
            all(2, &[Give, Try, Cancel(first), Drop(second)]);
            all(2, &[Give, Try, Expire(first), Drop(second)]);
        }
        all(2, &[Give, Give, Try, Cancel(first), Expire(first)]);
    }
    all(3, &[Give, Give, Cancel(0), Cancel(1)]);
    all(3, &[Give, Give, Expire(1), Expire(0)]);
    all(3, &[Give, Give, Cancel(1), Drop(0)]);
    assert!(count > 1000, "{count}");
}

#[test]
fn event_wait_in_all_orders() {
    check_all(Trap::Event);
}

#[test]
fn lock_acquire_in_all_orders() {
    check_all(Trap::Lock);
}

#[test]
fn rlock_acquire_in_all_orders() {
    check_all(Trap::RLock);
}

#[test]
fn semaphore_acquire_in_all_orders() {
    check_all(Trap::Semaphore);
}

#[test]
fn bounded_semaphore_acquire_in_all_orders() {
    check_all(Trap::Bounded);
}

#[test]
fn condition_wait_in_all_orders() {
    check_all(Trap::Condition);
}

#[test]
fn condition_wait_with_the_lock_taken_meanwhile_in_all_orders() {
    use Act::{Cancel, Drop, Expire, Give, Unlock};
    for first in 0..2 {
        for second in 0..2 {
            for acts in [
                [Give, Give, Unlock, Cancel(first), Expire(second)],
                [Give, Unlock, Cancel(first), Drop(second), Expire(1 - second)],
            ] {
                cases(Trap::Condition, 2, &acts).for_each(check);
            }
        }
    }
}

#[test]
fn queue_get_in_all_orders() {
    check_all(Trap::Get);
}

#[test]
fn lifo_queue_get_in_all_orders() {
    check_all(Trap::GetNewest);
}

#[test]
fn priority_queue_get_in_all_orders() {
    check_all(Trap::GetLeast);
}

#[test]
fn queue_put_in_all_orders() {
    check_all(Trap::Put);
}

#[test]
fn queue_join_in_all_orders() {
    check_all(Trap::Join);
}
