//! Sleeping with the interpreter's lock given up, and waking for its signals.
//!
//! Facts. A signal handler of CPython's runs in C, notes the signal, and writes a byte to
//! the wake-up descriptor; the Python handler runs when the main thread next
//! executes bytecode or calls `PyErr_CheckSignals`. A signal that comes just before the
//! system call of a poll would be slept through, but for that byte.
//!
//! Choice. While a kernel runs in the main thread, the wake-up descriptor is ours: one end
//! of a socket pair, the other in the poller. After a wait that it has ended, handlers are
//! run; what they raise (KeyboardInterrupt) ends the wait, and `run`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use curio::embed::Epoll;
use curio::testing::{Network, on_virtual_time};
use curio::{Builder, Event, Poller};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::object::Object;

/// What a signal's handler has raised inside of the poller.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Rc<Cell<Option<PyErr>>>);

impl Interrupt {
    pub(crate) fn take(&self) -> Option<PyErr> {
        self.0.take()
    }

    /// Runs the handlers of signals that have come.
    fn check(&self, py: Python<'_>) -> io::Result<()> {
        match py.check_signals() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.raised(error)),
        }
    }

    fn raised(&self, error: PyErr) -> io::Error {
        self.0.set(Some(error));
        io::Error::other("a Python exception has ended the wait")
    }
}

/// Gives the kernel its poller: ours, or one over a selector of the user's.
pub(crate) fn attach(
    py: Python<'_>,
    builder: Builder,
    selector: Option<&Bound<'_, PyAny>>,
    virtual_time: bool,
    network: Option<Network>,
    interrupt: &Interrupt,
) -> PyResult<(Builder, SignalBell)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let bell = SignalBell { write: theirs };
    let builder = match selector {
        None => {
            let epoll = AttachedEpoll::new(OwnedFd::from(ours), interrupt.clone())?;
            if virtual_time {
                on_virtual_time(builder, Some(epoll), network)
            } else {
                builder.poller(epoll)
            }
        }
        Some(selector) => {
            builder.poller(SelectorPoller::new(py, selector, ours, interrupt.clone())?)
        }
    };
    Ok((builder, bell))
}

/// Where CPython rings when a signal has come.
pub(crate) struct SignalBell {
    write: UnixStream,
}

impl SignalBell {
    /// A bell, and what can be read when it was rung.
    pub(crate) fn new() -> io::Result<(SignalBell, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok((SignalBell { write: theirs }, OwnedFd::from(ours)))
    }

    /// Takes the wake-up descriptor until the result is dropped; `None` if this is not the main
    /// thread, whose business signals are.
    pub(crate) fn listen<'py>(&self, py: Python<'py>) -> Option<Listening<'py>> {
        let set = |fd: RawFd| -> PyResult<RawFd> {
            let quiet = PyDict::new(py);
            quiet.set_item("warn_on_full_buffer", false)?;
            py.import("_signal")?.call_method("set_wakeup_fd", (fd,), Some(&quiet))?.extract()
        };
        let former = set(self.write.as_raw_fd()).ok()?;
        Some(Listening { py, former })
    }
}

/// Gives the wake-up descriptor back.
pub(crate) struct Listening<'py> {
    py: Python<'py>,
    former: RawFd,
}

impl Listening<'_> {
    /// Reads what has come, and rings for whoever has listened before.
    pub(crate) fn pass_on(&self, signals: &OwnedFd) {
        let mut bytes = [0; 64];
        while let Ok(count @ 1..) = rustix::io::read(signals, &mut bytes) {
            if self.former >= 0 {
                // SAFETY: it is called while the wake-up descriptor is ours; who has set the former
                // one keeps it open until he has set another, or none.
                let former = unsafe { BorrowedFd::borrow_raw(self.former) };
                let _ = rustix::io::write(former, &bytes[..count]);
            }
        }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let signal = self.py.import("_signal");
        let _ = signal.and_then(|signal| signal.call_method1("set_wakeup_fd", (self.former,)));
    }
}

/// Reads what the wake-up descriptor was given; says whether there was something.
fn drain(signals: BorrowedFd<'_>) -> bool {
    let mut any = false;
    while let Ok(count) = rustix::io::read(signals, &mut [0u8; 64])
        && count > 0
    {
        any = true;
    }
    any
}

/// The token of the signals' bell.
const SIGNALS: u64 = u64::MAX - 1;

/// Epoll for a thread that holds the interpreter's lock.
struct AttachedEpoll {
    epoll: Epoll,
    signals: OwnedFd,
    interrupt: Interrupt,
}

impl AttachedEpoll {
    fn new(signals: OwnedFd, interrupt: Interrupt) -> PyResult<Self> {
        let epoll = Epoll::new()?;
        epoll.add_level(signals.as_fd(), SIGNALS)?;
        Ok(AttachedEpoll { epoll, signals, interrupt })
    }
}

impl Poller for AttachedEpoll {
    fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.epoll.add(fd, token)
    }

    fn remove(&self, fd: RawFd, token: u64) {
        self.epoll.remove(fd, token);
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let start = events.len();
        self.epoll.wait(events, Some(Duration::ZERO))?;
        let mut interrupted = false;
        if events.len() == start && timeout != Some(Duration::ZERO) {
            // SAFETY: the kernel is run by methods of `Kernel`, in attached threads.
            let py = unsafe { Python::assume_attached() };
            let epoll = &self.epoll;
            let waited = py.detach(|| epoll.wait(events, timeout));
            match waited {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => interrupted = true,
                waited => waited?,
            }
        }
        let seen = events.len();
        events.retain(|event| event.token != SIGNALS);
        if (events.len() < seen && drain(self.signals.as_fd())) || interrupted {
            // SAFETY: as above; `detach` has re-attached.
            self.interrupt.check(unsafe { Python::assume_attached() })?;
        }
        Ok(())
    }

    fn notifier(&self) -> Arc<dyn Fn() + Send + Sync> {
        self.epoll.notifier()
    }
}

/// A poller over an instance of the standard library's `selectors`.
///
/// Selectors report levels. So a descriptor is registered with it only while a task waits,
/// and for what it waits for; what was reported is taken out again.
///
/// A selector's methods are Python code, in which anything may happen. They are called in
/// `wait` alone: the other methods note down what is to change.
struct SelectorPoller {
    selector: Object,
    signals: UnixStream,
    bell: (UnixStream, Arc<UnixStream>),
    changes: RefCell<Changes>,
    interrupt: Interrupt,
}

#[derive(Default)]
struct Changes {
    /// Descriptors that tasks wait for.
    wanted: HashMap<RawFd, Interest>,
    /// What the selector was told.
    registered: HashMap<RawFd, Interest>,
    /// Descriptors that are closed, or about to be.
    gone: Vec<RawFd>,
}

/// A token, and a mask of `READ` and `WRITE`.
type Interest = (u64, u32);

const READ: u32 = 1;
const WRITE: u32 = 2;

impl SelectorPoller {
    fn new(
        py: Python<'_>,
        selector: &Bound<'_, PyAny>,
        signals: UnixStream,
        interrupt: Interrupt,
    ) -> PyResult<Self> {
        let (listen, ring) = UnixStream::pair()?;
        listen.set_nonblocking(true)?;
        ring.set_nonblocking(true)?;
        selector.call_method1("register", (listen.as_raw_fd(), READ, py.None()))?;
        selector.call_method1("register", (signals.as_raw_fd(), READ, py.None()))?;
        Ok(SelectorPoller {
            selector: selector.clone().into(),
            signals,
            bell: (listen, Arc::new(ring)),
            changes: RefCell::default(),
            interrupt,
        })
    }

    fn call<R>(&self, call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<R>) -> io::Result<R> {
        // SAFETY: the kernel is run, and shut down, by attached threads.
        let py = unsafe { Python::assume_attached() };
        call(&self.selector.bind(py)).map_err(|error| self.interrupt.raised(error))
    }

    fn unregister(&self, fd: RawFd) {
        // It may be closed by now, which some selectors mind.
        if self.call(|selector| selector.call_method1("unregister", (fd,)).map(drop)).is_err() {
            drop(self.interrupt.take());
        }
    }

    /// Tells the selector what has changed since the last wait.
    fn update(&self) -> io::Result<()> {
        let gone = std::mem::take(&mut self.changes.borrow_mut().gone);
        for fd in gone {
            if self.changes.borrow_mut().registered.remove(&fd).is_some() {
                self.unregister(fd);
            }
        }
        let changed: Vec<(RawFd, Interest)> = {
            let changes = self.changes.borrow();
            let wanted = changes.wanted.iter();
            let changed =
                wanted.filter(|(fd, interest)| changes.registered.get(fd) != Some(interest));
            changed.map(|(&fd, &interest)| (fd, interest)).collect()
        };
        for (fd, (token, mask)) in changed {
            let known = self.changes.borrow_mut().registered.insert(fd, (token, mask)).is_some();
            let method = if known { "modify" } else { "register" };
            self.call(|selector| selector.call_method1(method, (fd, mask, token)).map(drop))?;
        }
        Ok(())
    }

    /// Takes out what was reported.
    fn disarm(&self, fd: RawFd, reported: u32) {
        let left = {
            let mut changes = self.changes.borrow_mut();
            let Some((_, mask)) = changes.wanted.get_mut(&fd) else { return };
            *mask &= !reported;
            *mask
        };
        if left == 0 {
            let mut changes = self.changes.borrow_mut();
            changes.wanted.remove(&fd);
            changes.registered.remove(&fd);
            drop(changes);
            self.unregister(fd);
        }
    }
}

impl Poller for SelectorPoller {
    fn add(&self, _fd: BorrowedFd<'_>, _token: u64) -> io::Result<()> {
        Ok(())
    }

    fn arm(&self, fd: BorrowedFd<'_>, token: u64, read: bool, write: bool) -> io::Result<()> {
        let mask = if read { READ } else { 0 } | if write { WRITE } else { 0 };
        self.changes.borrow_mut().wanted.insert(fd.as_raw_fd(), (token, mask));
        Ok(())
    }

    fn remove(&self, fd: RawFd, _token: u64) {
        let mut changes = self.changes.borrow_mut();
        changes.wanted.remove(&fd);
        changes.gone.push(fd);
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        self.update()?;
        let timeout = timeout.map(|timeout| timeout.as_secs_f64());
        let mut reported = Vec::new();
        self.call(|selector| {
            for ready in selector.call_method1("select", (timeout,))?.try_iter()? {
                let (key, mask): (Bound<'_, PyAny>, u32) = ready?.extract()?;
                let fd: RawFd = key.getattr("fd")?.extract()?;
                reported.push((fd, mask, key.getattr("data")?.extract::<Option<u64>>()?));
            }
            Ok(())
        })?;
        for (fd, mask, token) in reported {
            let Some(token) = token else { continue };
            self.disarm(fd, mask);
            events.push(Event {
                token,
                readable: mask & READ != 0,
                writable: mask & WRITE != 0,
                hangup: false,
            });
        }
        drain(self.bell.0.as_fd());
        drain(self.signals.as_fd());
        // SAFETY: as in `call`.
        self.interrupt.check(unsafe { Python::assume_attached() })
    }

    fn notifier(&self) -> Arc<dyn Fn() + Send + Sync> {
        let ring = self.bell.1.clone();
        Arc::new(move || {
            // A full buffer fails with EAGAIN: then the bell is ringing already.
            let _ = rustix::io::write(&*ring, &[1]);
        })
    }
}

impl Drop for SelectorPoller {
    fn drop(&mut self) {
        // The selector is the user's: it is given back as it came.
        let registered: Vec<RawFd> = self.changes.borrow().registered.keys().copied().collect();
        let own = [self.bell.0.as_raw_fd(), self.signals.as_raw_fd()];
        for fd in registered.into_iter().chain(own) {
            self.unregister(fd);
        }
    }
}
