//! Waiting for descriptors: the kernel's one place to sleep.
//!
//! Facts. Linux reports readiness through epoll. In edge-triggered mode it
//! reports a descriptor once when it becomes ready and again only after new
//! bytes, room or a hang-up; so a program that remembers "ready until a short
//! read or EAGAIN" needs no further call to epoll while data flows. A hang-up
//! that came together with the last bytes makes no second edge, but the event
//! carries `EPOLLRDHUP`, so it can be remembered too.
//!
//! Meaning for us. A connection is registered once, for both directions, when a
//! task first has to wait on it. An echo then costs two system calls, `recv` and
//! `send`, and its share of one `epoll_wait`.
//!
//! Choice. Epoll through `rustix`, without `unsafe`. The `polling` crate was the
//! first plan; it hides `EPOLLRDHUP`, without which a short read could not clear
//! the cache, and re-arms a timerfd with two further system calls at each wait.
//!
//! Timeouts are nanoseconds. `epoll_wait` knows milliseconds only: a sleep would end up to one
//! too late, and sleeps that differ by less would end together. `epoll_pwait2` is not to be had
//! on older systems and in some sandboxes; so a wait with an odd timeout is a `ppoll` of the epoll
//! descriptor itself, and then a look. The second call is made when the kernel was asleep anyway.
//!
//! Trade-off. Linux only for now; another system is another implementation of
//! [`Poller`]. A poller without edges (a Python selector) is armed at each wait
//! and disarmed when it reports: [`Poller::arm`] is told the interest each time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::clock::Clock;
use crate::testing::Network;

/// What a poller saw happen to one registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token under which the descriptor was registered.
    pub token: u64,
    /// A read would not block now.
    pub readable: bool,
    /// A write would not block now.
    pub writable: bool,
    /// The peer will send no more, or the descriptor has failed: reads stay ready for good.
    pub hangup: bool,
}

/// Where a kernel waits for descriptors.
///
/// Called by the kernel's thread only, but for [`Poller::notifier`]'s result. All but
/// [`Poller::wait`] are called in the middle of changes, and must not run foreign code.
pub trait Poller {
    /// Starts watching `fd`, in both directions where edges are reported.
    fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()>;

    /// Says what a task is about to wait for on a watched descriptor.
    ///
    /// A poller that reports edges needs no such hint.
    fn arm(&self, fd: BorrowedFd<'_>, token: u64, read: bool, write: bool) -> io::Result<()> {
        let _ = (fd, token, read, write);
        Ok(())
    }

    /// Stops watching. The descriptor may be closed already.
    fn remove(&self, fd: RawFd, token: u64);

    /// Waits until something happens or `timeout` has passed, and appends the events.
    ///
    /// `None` waits without limit. Returning early, with no event, is fine.
    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()>;

    /// As [`Poller::wait`] without limit, while other threads are at work for a task.
    fn wait_outside(&self, events: &mut Vec<Event>) -> io::Result<()> {
        self.wait(events, None)
    }

    /// Ends a [`Poller::wait`] from another thread.
    fn notifier(&self) -> Arc<dyn Fn() + Send + Sync>;

    /// The simulated network that sockets are to be on.
    #[doc(hidden)]
    fn network(&self) -> Option<Network> {
        None
    }
}

/// The token of the poller's own bell.
const BELL: u64 = u64::MAX;

/// Linux's epoll.
pub struct Epoll {
    epoll: OwnedFd,
    bell: Arc<OwnedFd>,
}

impl Epoll {
    /// Opens an epoll instance and the descriptor that can wake it.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = Arc::new(rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )?);
        epoll::add(&epoll, &*bell, epoll::EventData::new_u64(BELL), epoll::EventFlags::IN)?;
        Ok(Epoll { epoll, bell })
    }

    /// Watches a descriptor level-triggered, as a bell: waits end when it is
    /// readable, and it is reported under `token` until it has been drained.
    pub fn add_level(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        Ok(())
    }

    fn silence(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
    }
}

impl Poller for Epoll {
    fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        use epoll::EventFlags as F;
        let flags = F::IN | F::OUT | F::RDHUP | F::ET;
        let data = epoll::EventData::new_u64(token);
        match epoll::add(&self.epoll, fd, data, flags) {
            // The same open file is still watched under a former owner's token.
            Err(rustix::io::Errno::EXIST) => epoll::modify(&self.epoll, fd, data, flags)?,
            other => other?,
        }
        Ok(())
    }

    fn remove(&self, fd: RawFd, _token: u64) {
        if fd < 0 {
            return;
        }
        // SAFETY: `BorrowedFd` wants an open descriptor for the time of the call. A number that
        // was closed meanwhile makes the system call fail with EBADF, which is no news here: the
        // number is only handed to `epoll_ctl`, which reads nothing and closes nothing, and it
        // is not -1.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let _ = epoll::delete(&self.epoll, fd);
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        use epoll::EventFlags as F;
        let mut timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs().min(i64::MAX as u64) as i64,
            tv_nsec: t.subsec_nanos().into(),
        });
        if let Some(odd) = timeout.filter(|t| t.tv_nsec % 1_000_000 != 0) {
            poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&odd))?;
            timeout = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let mut buffer = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 1024];
        let (seen, _) = epoll::wait(&self.epoll, &mut buffer, timeout.as_ref())?;
        for event in seen {
            let (flags, token) = (event.flags, event.data.u64());
            if token == BELL {
                self.silence();
                continue;
            }
            let hangup = flags.intersects(F::RDHUP | F::HUP | F::ERR);
            events.push(Event {
                token,
                readable: hangup || flags.contains(F::IN),
                writable: flags.intersects(F::OUT | F::HUP | F::ERR),
                hangup,
            });
        }
        Ok(())
    }

    fn notifier(&self) -> Arc<dyn Fn() + Send + Sync> {
        let bell = self.bell.clone();
        Arc::new(move || {
            // A full counter fails with EAGAIN: then the bell is ringing already.
            let _ = rustix::io::write(&bell, &1u64.to_ne_bytes());
        })
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// The virtual poller: waiting moves the virtual clock instead. Descriptors are another poller's;
/// they are looked at, and nothing is waited for, because what a program sends to itself is there
/// at once.
pub(crate) struct VirtualPoller<P> {
    pub(crate) clock: super::clock::VirtualClock,
    /// `None`: there can be no descriptors.
    pub(crate) descriptors: Option<P>,
    /// What is under way between the program's sockets.
    pub(crate) network: Option<Network>,
}

impl<P: Poller> Poller for VirtualPoller<P> {
    fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        match &self.descriptors {
            Some(poller) => poller.add(fd, token),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a virtual kernel has no descriptors here",
            )),
        }
    }

    fn arm(&self, fd: BorrowedFd<'_>, token: u64, read: bool, write: bool) -> io::Result<()> {
        self.descriptors.as_ref().map_or(Ok(()), |poller| poller.arm(fd, token, read, write))
    }

    fn remove(&self, fd: RawFd, token: u64) {
        if let Some(poller) = &self.descriptors {
            poller.remove(fd, token);
        }
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<()> {
        let until = timeout.map(|timeout| self.clock.now() + timeout.as_nanos() as u64);
        loop {
            let arrival = self.look(events)?;
            // Someone is ready. Time passes a little all the same, or a task that is always
            // ready would stop it, and no timer would ever fire.
            if !events.is_empty() || timeout == Some(Duration::ZERO) {
                self.clock.advance(1_000);
                return Ok(());
            }
            match (arrival, until) {
                (Some(arrival), _) if until.is_none_or(|until| arrival < until) => {
                    self.clock.advance(arrival.saturating_sub(self.clock.now()));
                }
                (_, Some(until)) => {
                    self.clock.advance(until - self.clock.now());
                    return Ok(());
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::Deadlock,
                        "deadlock: every task waits, and nothing is left that could wake one",
                    ));
                }
            }
        }
    }

    /// Other threads work in real time, so this waits for them really, at a standing clock, unless
    /// something is under way on the network.
    fn wait_outside(&self, events: &mut Vec<Event>) -> io::Result<()> {
        match &self.descriptors {
            Some(poller) if self.look(events)?.is_none() && events.is_empty() => {
                poller.wait(events, None)
            }
            _ => self.wait(events, None),
        }
    }

    fn notifier(&self) -> Arc<dyn Fn() + Send + Sync> {
        self.descriptors.as_ref().map_or_else(|| Arc::new(|| {}) as _, P::notifier)
    }

    fn network(&self) -> Option<Network> {
        self.network.clone()
    }
}

impl<P: Poller> VirtualPoller<P> {
    /// What is there now; gives the time when the network brings more.
    fn look(&self, events: &mut Vec<Event>) -> io::Result<Option<u64>> {
        if let Some(network) = &self.network {
            network.pump(self.clock.now());
        }
        if let Some(poller) = &self.descriptors {
            poller.wait(events, Some(Duration::ZERO))?;
        }
        Ok(self.network.as_ref().and_then(Network::next_arrival))
    }
}
