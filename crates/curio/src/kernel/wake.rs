//! The wake door: the one way into a kernel from another thread.
//!
//! A foreign future (a channel, a thread's result) is given a [`Waker`]; any
//! thread may call it at any time, also when the task or the kernel is gone. All
//! a wake does is push the task's key to the door's queue and, if the kernel is
//! asleep, ring its bell. What the key means is looked up by the kernel's own
//! thread, so a stale key is harmless.
//!
//! The lost wake-up is prevented by one rule: the kernel may only fall asleep by
//! [`Door::fall_asleep`], which refuses while the queue is not empty, under the
//! lock that every push takes.

use std::sync::Arc;
use std::task::{RawWaker, RawWakerVTable, Wake, Waker};

#[cfg(all(loom, test))]
use loom::sync::{
    Mutex,
    atomic::{
        AtomicBool,
        Ordering::{Relaxed, SeqCst},
    },
};
#[cfg(not(all(loom, test)))]
use std::sync::{
    Mutex,
    atomic::{
        AtomicBool,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::task::TaskKey;
use super::wait::WaitKey;

/// What other threads have to say.
#[derive(Clone, Copy)]
pub(crate) enum News {
    /// A task is to be resumed.
    Woken(TaskKey),
    /// The wait with that number is to be fired.
    Fired(WaitKey, u64),
}

/// The task, in tests of which tasks are woken.
#[cfg(test)]
fn task(news: News) -> Option<TaskKey> {
    if let News::Woken(task) = news { Some(task) } else { None }
}

/// Something for the kernel's thread to do.
pub(crate) type Job = Box<dyn FnOnce(&std::rc::Rc<super::Core>) + Send>;

/// See the module.
pub(crate) struct Door {
    inside: Mutex<Inside>,
    /// `stop` was asked for; looked at after each step, so it stands outside the lock.
    stop: AtomicBool,
}

#[derive(Default)]
struct Inside {
    /// Tasks to resume, oldest wake first.
    woken: Vec<TaskKey>,
    /// Waits to fire, with their numbers, oldest first.
    fired: Vec<(WaitKey, u64)>,
    /// What the kernel's thread is to do for another, oldest first.
    jobs: Vec<Job>,
    /// The kernel's thread is in its poll, or on its way there. Set by the kernel,
    /// cleared by whoever rings.
    asleep: bool,
    /// Ends the kernel's sleep; `None` once it has been shut down.
    ring: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Door {
    pub(crate) fn new(ring: Arc<dyn Fn() + Send + Sync>) -> Self {
        let inside = Inside { ring: Some(ring), ..Inside::default() };
        Door { inside: Mutex::new(inside), stop: AtomicBool::new(false) }
    }

    fn inside<R>(&self, f: impl FnOnce(&mut Inside) -> R) -> R {
        // Nothing in here can panic, so the lock is never poisoned in earnest.
        f(&mut self.inside.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn enter(&self, change: impl FnOnce(&mut Inside)) {
        let ring = self.inside(|inside| {
            change(inside);
            if std::mem::take(&mut inside.asleep) { inside.ring.clone() } else { None }
        });
        if let Some(ring) = ring {
            ring();
        }
    }

    /// Lets the bell go: the kernel will not sleep again. What is asked from now on is dropped.
    pub(crate) fn close(&self) {
        drop(self.inside(|inside| (inside.ring.take(), std::mem::take(&mut inside.jobs))));
    }

    /// Asks for `task` to be resumed. Any thread.
    pub(crate) fn wake(&self, task: TaskKey) {
        self.enter(|inside| {
            if inside.ring.is_some() {
                inside.woken.push(task);
            }
        });
    }

    /// Asks for the wait with that number to be fired, if it is there still. Any thread.
    pub(crate) fn fire(&self, wait: WaitKey, number: u64) {
        self.enter(|inside| inside.fired.push((wait, number)));
    }

    /// Asks the kernel to leave its loop. Any thread.
    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
        self.ring();
    }

    /// Asks the kernel's thread to do something between two resumptions. Any thread.
    pub(crate) fn ask(&self, job: Job) {
        let mut job = Some(job);
        self.enter(|inside| {
            if inside.ring.is_some() {
                inside.jobs.extend(job.take());
            }
        });
        // Nobody will do what a closed door is asked for. It is dropped outside of the lock.
        drop(job);
    }

    /// Makes the kernel look again. Any thread.
    pub(crate) fn ring(&self) {
        self.enter(|_| {});
    }

    /// Takes the request to stop, if there is one. Kernel's thread.
    pub(crate) fn take_stop(&self) -> bool {
        self.stop.load(Relaxed) && self.stop.swap(false, SeqCst)
    }

    /// Gives out what was woken and fired, and what is to be done, oldest first. Kernel's thread.
    pub(crate) fn take(&self, mut news: impl FnMut(News)) -> Vec<Job> {
        self.inside(|inside| {
            inside.asleep = false;
            inside.woken.drain(..).for_each(|task| news(News::Woken(task)));
            inside.fired.drain(..).for_each(|(wait, number)| news(News::Fired(wait, number)));
            std::mem::take(&mut inside.jobs)
        })
    }

    /// Announces that the kernel will sleep; `false` if there is something to do first.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.inside(|inside| {
            let idle = inside.woken.is_empty() && inside.fired.is_empty();
            let idle = idle && inside.jobs.is_empty();
            inside.asleep = idle && !self.stop.load(SeqCst);
            inside.asleep
        })
    }
}

/// A waker that owns its way to the door: what clones of a task's waker are.
struct OwnedWaker {
    door: Arc<Door>,
    task: TaskKey,
}

impl Wake for OwnedWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        wake(&self.door, self.task);
    }
}

fn wake(door: &Arc<Door>, task: TaskKey) {
    // On the kernel's own thread the task goes straight to the ready queue.
    if !super::wake_here(door, task) {
        door.wake(task);
    }
}

/// The waker of one resumption, on the stack: most futures of ours never clone it.
pub(crate) struct StackWaker<'a> {
    door: &'a Arc<Door>,
    task: TaskKey,
}

static STACK: RawWakerVTable = RawWakerVTable::new(stack_clone, stack_wake, stack_wake, stack_drop);

impl<'a> StackWaker<'a> {
    pub(crate) fn new(door: &'a Arc<Door>, task: TaskKey) -> Self {
        StackWaker { door, task }
    }

    /// Runs `f` with a waker for the task.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&Waker) -> R) -> R {
        let data: *const Self = self;
        // SAFETY: `RawWaker` wants `data` to be what the functions of the vtable expect, which
        // is a pointer to a live `StackWaker`, and the functions to be callable from any thread.
        // - It points to `self`, which is borrowed until this function returns. `f` only gets a
        //   reference to the waker, which therefore cannot outlive it; a clone is an
        //   `OwnedWaker` that does not refer to `self`.
        // - `StackWaker` is never changed and is `Sync` (an `Arc<Door>` and plain numbers), so a
        //   thread that `f` lends the reference to may use it too.
        // - `stack_drop` does nothing, so dropping the waker at the end is fine.
        let waker = unsafe { Waker::from_raw(RawWaker::new(data.cast(), &STACK)) };
        f(&waker)
    }
}

/// Whether `waker` is the running task's own, not one that a combinator made.
pub(crate) fn is_own(waker: &Waker) -> bool {
    std::ptr::eq(waker.vtable(), &STACK)
}

/// # Safety
/// `data` comes from a waker that [`StackWaker::with`] has made and that is still borrowed.
unsafe fn stack<'a>(data: *const ()) -> &'a StackWaker<'a> {
    // SAFETY: the caller's promise: `data` points to a `StackWaker` that outlives the call, and
    // none of our callers keeps the reference.
    unsafe { &*data.cast::<StackWaker<'a>>() }
}

unsafe fn stack_clone(data: *const ()) -> RawWaker {
    // SAFETY: called through the vtable, on a waker that is borrowed for the call.
    let here = unsafe { stack(data) };
    let owned = Arc::new(OwnedWaker { door: here.door.clone(), task: here.task });
    // The raw parts of a safe waker: `std` made them fit for any thread.
    let waker = std::mem::ManuallyDrop::new(Waker::from(owned));
    RawWaker::new(waker.data(), waker.vtable())
}

unsafe fn stack_wake(data: *const ()) {
    // SAFETY: as in `stack_clone`.
    let here = unsafe { stack(data) };
    wake(here.door, here.task);
}

unsafe fn stack_drop(_data: *const ()) {}

#[cfg(all(test, not(loom)))]
#[allow(clippy::waker_clone_wake, reason = "the clones are what is tested")]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const TASK: TaskKey = TaskKey { index: 3, serial: 7 };

    /// A door, and how often its bell was rung.
    fn door() -> (Arc<Door>, Arc<AtomicUsize>) {
        let rung = Arc::new(AtomicUsize::new(0));
        let bell = rung.clone();
        let ring = move || {
            bell.fetch_add(1, SeqCst);
        };
        (Arc::new(Door::new(Arc::new(ring))), rung)
    }

    fn woken(door: &Door) -> Vec<TaskKey> {
        let mut woken = Vec::new();
        drop(door.take(|news| woken.extend(task(news))));
        woken
    }

    #[test]
    fn the_bell_is_rung_once_and_only_for_a_sleeper() {
        let (door, rung) = door();
        door.wake(TASK);
        assert_eq!(rung.load(SeqCst), 0);
        assert!(!door.fall_asleep());
        assert_eq!(woken(&door), [TASK]);
        assert!(door.fall_asleep());
        door.wake(TASK);
        door.wake(TASK);
        assert_eq!(rung.load(SeqCst), 1);
        assert_eq!(woken(&door), [TASK, TASK]);
    }

    #[test]
    fn a_stop_is_seen_once_and_keeps_from_sleep() {
        let (door, rung) = door();
        assert!(door.fall_asleep());
        door.stop();
        assert_eq!(rung.load(SeqCst), 1);
        assert!(!door.fall_asleep());
        assert!(door.take_stop());
        assert!(!door.take_stop());
        assert!(door.fall_asleep());
    }

    #[test]
    fn a_closed_door_drops_what_it_is_asked_for_in_silence() {
        let (door, rung) = door();
        assert!(door.fall_asleep());
        door.close();
        door.wake(TASK);
        door.stop();
        assert_eq!(rung.load(SeqCst), 0);
        // The bell itself is gone.
        assert_eq!(Arc::strong_count(&rung), 1);
        // Nothing piles up.
        assert_eq!(woken(&door), []);
        let kept = rung.clone();
        door.ask(Box::new(move |_| drop(kept)));
        assert_eq!(Arc::strong_count(&rung), 1);
    }

    #[test]
    fn a_stack_waker_wakes_by_reference_and_through_its_clones() {
        let (door, _) = door();
        let clone = StackWaker::new(&door, TASK).with(|waker| {
            assert!(is_own(waker));
            waker.wake_by_ref();
            assert_eq!(woken(&door), [TASK]);
            let clone = waker.clone();
            assert!(!is_own(&clone));
            clone.clone().wake();
            assert_eq!(woken(&door), [TASK]);
            clone
        });
        // Clones outlive it, and go to other threads.
        std::thread::spawn(move || {
            clone.wake_by_ref();
            clone.wake();
        })
        .join()
        .unwrap();
        assert_eq!(woken(&door), [TASK, TASK]);
        assert_eq!(Arc::strong_count(&door), 1);
    }

    #[test]
    fn a_borrowed_stack_waker_may_be_used_by_another_thread() {
        let (door, _) = door();
        StackWaker::new(&door, TASK).with(|waker| {
            std::thread::scope(|scope| {
                scope.spawn(|| waker.wake_by_ref());
                scope.spawn(|| waker.clone().wake());
            });
        });
        assert_eq!(woken(&door), [TASK, TASK]);
    }

    #[test]
    fn clones_keep_the_door() {
        let (door, _) = door();
        let clone = StackWaker::new(&door, TASK).with(Waker::clone);
        drop(door);
        clone.wake();
    }
}

/// The door under every interleaving of its threads: `RUSTFLAGS="--cfg loom" cargo test -p curio
/// --lib loom`. A lost wake-up shows as a deadlock.
#[cfg(all(loom, test))]
mod loom_tests {
    use super::*;
    use loom::sync::Condvar;

    const ONE: TaskKey = TaskKey { index: 0, serial: 1 };
    const TWO: TaskKey = TaskKey { index: 1, serial: 2 };

    /// What the poller's event descriptor is to the kernel.
    #[derive(Default)]
    struct Bell {
        rung: Mutex<bool>,
        heard: Condvar,
    }

    impl Bell {
        fn ring(&self) {
            *self.rung.lock().unwrap() = true;
            self.heard.notify_one();
        }

        fn sleep(&self) {
            let mut rung = self.rung.lock().unwrap();
            while !*rung {
                rung = self.heard.wait(rung).unwrap();
            }
            *rung = false;
        }
    }

    fn door() -> (Arc<Door>, Arc<Bell>) {
        let bell = Arc::new(Bell::default());
        let ring = bell.clone();
        (Arc::new(Door::new(Arc::new(move || ring.ring()))), bell)
    }

    /// The kernel's loop, as far as the door goes, until `done` says so of what was woken.
    fn run(door: &Door, bell: &Bell, done: impl Fn(&[TaskKey]) -> bool) -> Vec<TaskKey> {
        let mut woken = Vec::new();
        loop {
            if door.take_stop() || done(&woken) {
                return woken;
            }
            if door.fall_asleep() {
                bell.sleep();
            }
            drop(door.take(|news| woken.extend(task(news))));
        }
    }

    #[test]
    fn no_wake_is_lost() {
        loom::model(|| {
            let (door, bell) = door();
            let there = door.clone();
            let thread = loom::thread::spawn(move || there.wake(ONE));
            assert_eq!(run(&door, &bell, |woken| !woken.is_empty()), [ONE]);
            thread.join().unwrap();
        });
    }

    #[test]
    fn no_wake_of_two_threads_is_lost() {
        loom::model(|| {
            let (door, bell) = door();
            let threads = [ONE, TWO].map(|task| {
                let there = door.clone();
                loom::thread::spawn(move || there.wake(task))
            });
            let woken = run(&door, &bell, |woken| woken.len() == 2);
            assert!(woken == [ONE, TWO] || woken == [TWO, ONE]);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn no_stop_is_lost() {
        loom::model(|| {
            let (door, bell) = door();
            let there = door.clone();
            let thread = loom::thread::spawn(move || {
                there.wake(ONE);
                there.stop();
            });
            let woken = run(&door, &bell, |_| false);
            assert!(woken.is_empty() || woken == [ONE]);
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_wake_may_meet_the_end_of_the_kernel() {
        loom::model(|| {
            let (door, _bell) = door();
            let there = door.clone();
            let thread = loom::thread::spawn(move || there.wake(ONE));
            door.fall_asleep();
            door.close();
            thread.join().unwrap();
        });
    }
}
