//! Descriptors, and what is known of their readiness.
//!
//! A [`Source`] remembers for each direction whether the next call could succeed.
//! It starts ready (nothing is known: try), is cleared by the caller when a call
//! would have blocked, and is set by the poller's events. An operation on a ready
//! source therefore asks the system, not the kernel.
//!
//! A source is registered with the kernel in which a task first waits on it, and
//! with no more than one at a time. The registration never outlives the source,
//! and never the descriptor, provided that [`Source::close`] (or the drop of the
//! source) precedes the closing of the descriptor. Should somebody close the
//! descriptor behind its back all the same, its number may come back as another
//! source's: the table of descriptors then belongs to the newcomer, and the old
//! registration's end does not touch it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::{Rc, Weak};

use slab::Slab;

use super::Core;
use super::poller::Event;
use super::state::State;
use super::task::{Target, TaskState};
use super::wait::WaitKey;
use crate::error::{Error, ErrorKind, Result};
use crate::task::TaskRef;
use crate::traps::{Trap, Wait, YieldNow};

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards us: `recv`, `accept`.
    Read,
    /// Away from us: `send`, `connect`.
    Write,
}

#[derive(Default)]
struct Side {
    /// A call might succeed; only the poller knows better once this is false.
    ready: Cell<bool>,
    /// The task that waits, at most one.
    wait: Cell<Option<WaitKey>>,
    /// An operation is suspended in the middle: until it has gone on, nobody else's may begin.
    claimed: Cell<bool>,
}

/// An operation that is suspended in the middle.
struct Claim<'a>(&'a Side);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.claimed.set(false);
    }
}

impl Side {
    fn claim(&self) -> Claim<'_> {
        self.claimed.set(true);
        Claim(self)
    }
}

/// A non-blocking descriptor and its readiness. Clones are the same source.
#[derive(Clone)]
pub struct Source(Rc<Inner>);

struct Inner {
    /// Negative once closed.
    fd: Cell<RawFd>,
    read: Side,
    write: Side,
    /// The peer has hung up: reads succeed at once from now on, whatever a short read says.
    hangup: Cell<bool>,
    /// Who has something to send as soon as there is room.
    flush: RefCell<Option<Weak<dyn Flush>>>,
    registered: RefCell<Option<(Rc<Core>, u64)>>,
}

/// Something that is written, and not sent yet.
pub(crate) trait Flush {
    /// Sends what can be sent now. Errors are for who writes next.
    fn flush(self: Rc<Self>);
}

/// The kernel's table of registrations.
#[derive(Default)]
pub(crate) struct Sources {
    table: Slab<(u32, Weak<Inner>)>,
    generation: u32,
    /// Who has registered a descriptor last.
    owners: HashMap<RawFd, u64>,
}

impl Source {
    /// A source for `fd`, which the caller keeps open until [`Source::close`], and
    /// which is in non-blocking mode.
    pub fn new(fd: RawFd) -> Self {
        let side = || Side { ready: Cell::new(true), ..Side::default() };
        Source(Rc::new(Inner {
            fd: Cell::new(fd),
            read: side(),
            write: side(),
            hangup: Cell::new(false),
            flush: RefCell::new(None),
            registered: RefCell::new(None),
        }))
    }

    fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Read => &self.0.read,
            Direction::Write => &self.0.write,
        }
    }

    /// The descriptor's number, or the error that it is closed.
    pub fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        let fd = self.0.fd.get();
        if fd < 0 {
            return Err(rustix::io::Errno::BADF.into());
        }
        // SAFETY: `borrow_raw` wants an open descriptor that is not -1. It is not negative, and
        // whoever made the source keeps it open until `close`, which sets it to -1; the borrow
        // is of the source.
        Ok(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Says that a call in `direction` would have blocked.
    pub fn clear(&self, direction: Direction) {
        self.side(direction).ready.set(false);
    }

    /// Says that a call in `direction` might succeed, for a reason that no poller knows.
    pub fn try_again(&self, direction: Direction) {
        self.side(direction).ready.set(true);
    }

    /// Says that a read took everything that was there, as a short read from a
    /// stream does: the next read has to wait, unless the peer has hung up.
    pub fn drained(&self) {
        if !self.0.hangup.get() {
            self.0.read.ready.set(false);
        }
    }

    /// Ends the registration; tasks that wait on the source get an error. To be
    /// called before the descriptor is closed.
    pub fn close(&self) {
        let waits = [self.0.read.wait.take(), self.0.write.wait.take()];
        if let Some(core) = self.0.unregister() {
            core.with_state(|state| {
                for wait in waits.into_iter().flatten() {
                    state.fire(wait);
                }
            });
        }
        self.0.fd.set(-1);
    }

    /// Fails if another task's operation in `direction` is under way.
    pub fn alone(&self, direction: Direction) -> Result<()> {
        let side = self.side(direction);
        if !side.claimed.get() {
            return Ok(());
        }
        let other = side
            .wait
            .get()
            .and_then(|wait| super::with_current(|core| core.state().describe(wait)));
        Err(self.busy(direction, other.as_deref().unwrap_or("another task")))
    }

    fn busy(&self, direction: Direction, other: &str) -> Error {
        busy(direction, self.0.fd.get(), other)
    }

    /// Waits until a call in `direction` might succeed; meanwhile, nobody else's may begin.
    pub async fn wait_alone(&self, direction: Direction) -> Result<()> {
        self.alone(direction)?;
        let _claim = self.side(direction).claim();
        self.wait(direction).await
    }

    /// Calls `operation` until it does something else than fail with `WouldBlock`,
    /// waiting in between until the descriptor is ready.
    ///
    /// A task whose operations never block is made to yield now and then, before
    /// an operation, so that it cannot starve the others.
    ///
    /// # Cancellation
    /// `operation` either has done its work, and then its result is returned, or
    /// was not called again: nothing is lost.
    pub async fn run<T>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Result<T> {
        self.alone(direction)?;
        let side = self.side(direction);
        loop {
            if side.ready.get() {
                if crate::kernel::exhausted() {
                    let _claim = side.claim();
                    YieldNow::new().await?;
                }
                match operation(self.fd()?) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.clear(direction);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return Ok(result?),
                }
            } else {
                let _claim = side.claim();
                self.wait(direction).await?;
            }
        }
    }

    /// Waits until a call in `direction` might succeed.
    pub fn wait(&self, direction: Direction) -> Wait<ReadyTrap> {
        Wait::new(ReadyTrap { source: self.clone(), direction })
    }

    /// Whether a call in `direction` might succeed without waiting.
    pub fn ready(&self, direction: Direction) -> bool {
        self.side(direction).ready.get()
    }

    /// Says who is to be told once, when a write might succeed again; `None`: nobody any more.
    pub(crate) fn set_flush(&self, flush: Option<Weak<dyn Flush>>) {
        let watch = flush.is_some();
        let former = self.0.flush.replace(flush);
        if watch {
            let watched =
                super::with_current(|core| core.with_state(|state| self.watch(core, state)));
            // Who writes next, or flushes, waits and is told of the error.
            drop(watched);
        }
        drop(former);
    }

    fn watch(&self, core: &Rc<Core>, state: &mut State) -> Result<()> {
        let token = self.register(core, state)?;
        let fd = self.fd()?;
        let read = self.0.read.wait.get().is_some();
        Ok(core.with_poller(|poller| poller.arm(fd, token, read, true))?)
    }

    fn register(&self, core: &Rc<Core>, state: &mut State) -> Result<u64> {
        if let Some((registered, token)) = &*self.0.registered.borrow()
            && Rc::ptr_eq(registered, core)
        {
            return Ok(*token);
        }
        // Of another kernel, which has stopped using it: its events are of no use here.
        self.0.unregister();
        let fd = self.fd()?;
        let token = state.sources.insert(&self.0);
        if let Err(error) = core.with_poller(|poller| poller.add(fd, token)) {
            state.sources.forget(self.0.fd.get(), token);
            return Err(error.into());
        }
        *self.0.registered.borrow_mut() = Some((core.clone(), token));
        Ok(token)
    }
}

impl Inner {
    /// Ends the registration, if there is one; gives the kernel that had it.
    fn unregister(&self) -> Option<Rc<Core>> {
        let (core, token) = self.registered.take()?;
        let fd = self.fd.get();
        core.with_state(|state| {
            if state.sources.forget(fd, token) {
                core.unwatch(fd, token);
            }
        });
        Some(core)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.unregister();
    }
}

impl Sources {
    /// How many descriptors are registered.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    fn insert(&mut self, source: &Rc<Inner>) -> u64 {
        self.generation = self.generation.wrapping_add(1) & (u32::MAX >> 1);
        let index = self.table.insert((self.generation, Rc::downgrade(source)));
        let token = (u64::from(self.generation) << 32) | index as u64;
        self.owners.insert(source.fd.get(), token);
        token
    }

    /// Takes a registration out; says whether the descriptor's number was still its own.
    fn forget(&mut self, fd: RawFd, token: u64) -> bool {
        self.table.try_remove(token as u32 as usize);
        let own = self.owners.get(&fd) == Some(&token);
        if own {
            self.owners.remove(&fd);
        }
        own
    }

    fn get(&self, token: u64) -> Option<Rc<Inner>> {
        let (generation, source) = self.table.get(token as u32 as usize)?;
        if u64::from(*generation) != token >> 32 {
            return None;
        }
        source.upgrade()
    }
}

impl State {
    /// Notes what the poller saw, and fires who waits for it.
    pub(super) fn apply(&mut self, event: Event) {
        let Some(source) = self.sources.get(event.token) else { return };
        if event.hangup {
            source.hangup.set(true);
        }
        for (happened, side) in [(event.readable, &source.read), (event.writable, &source.write)] {
            if happened {
                side.ready.set(true);
                if let Some(wait) = side.wait.take() {
                    self.fire(wait);
                }
            }
        }
        if event.writable
            && let Some(flush) = source.flush.take()
        {
            self.unsent.extend(flush.upgrade());
        }
    }
}

/// The error of a task that wants to wait where `other` waits.
pub(crate) fn busy(direction: Direction, fd: RawFd, other: &str) -> Error {
    Error::new(match direction {
        Direction::Read => {
            ErrorKind::ReadBusy(format!("{other} is already waiting to read from descriptor {fd}"))
        }
        Direction::Write => {
            ErrorKind::WriteBusy(format!("{other} is already waiting to write to descriptor {fd}"))
        }
    })
}

/// The tasks of the running kernel that wait to read from and to write to a source of that number.
pub(crate) fn waiting_on(fd: RawFd) -> (Option<TaskRef>, Option<TaskRef>) {
    super::with_current(|core| {
        let state = core.state();
        let source = state.sources.owners.get(&fd).and_then(|&token| state.sources.get(token));
        let task = |side: &Side| {
            let key = state.waiting_task(side.wait.get()?)?;
            let info = state.task(key)?.info.clone();
            Some(TaskRef::new(core.clone(), key, info))
        };
        source.map(|source| (task(&source.read), task(&source.write)))
    })
    .flatten()
    .unwrap_or_default()
}

/// The trap of a task that waits for a descriptor.
pub struct ReadyTrap {
    source: Source,
    direction: Direction,
}

impl Trap for ReadyTrap {
    fn name(&self) -> &'static str {
        "an I/O operation"
    }

    fn state(&self) -> TaskState {
        match self.direction {
            Direction::Read => TaskState::ReadWait,
            Direction::Write => TaskState::WriteWait,
        }
    }

    fn target(&self) -> Target {
        Target::Descriptor(self.source.0.fd.get())
    }

    fn arm(&mut self, core: &Rc<Core>, state: &mut State, wait: WaitKey) -> Result<()> {
        let side = self.source.side(self.direction);
        if let Some(other) = side.wait.get() {
            return Err(self.source.busy(self.direction, &state.describe(other)));
        }
        let token = self.source.register(core, state)?;
        side.wait.set(Some(wait));
        let waiting = |side: &Side| side.wait.get().is_some();
        let (read, write) = (waiting(&self.source.0.read), waiting(&self.source.0.write));
        let write = write || self.source.0.flush.borrow().is_some();
        let fd = self.source.fd()?;
        if let Err(error) = core.with_poller(|poller| poller.arm(fd, token, read, write)) {
            side.wait.set(None);
            return Err(error.into());
        }
        Ok(())
    }

    fn disarm(&mut self, _state: &mut State, _wait: WaitKey) {
        self.source.side(self.direction).wait.set(None);
    }
}
