//! Waiting for descriptors that are not ours.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::panic::Location;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::kernel::{self, Direction, Source};
use crate::task::{TaskRef, current_task};
use crate::traps::{YieldNow, at};

/// Waits until a read from `fd` would not block: there is something, the end, or an error. For
/// descriptors of other libraries, or of one's own, of any kind and in any mode.
///
/// It says so once: by the time somebody reads, another may have taken what there was. What is
/// always ready for the system, such as a regular file, is so here. A descriptor may also be one of
/// Curio's sockets that tasks wait on: they are not disturbed.
///
/// # Errors
/// The system's: the descriptor is closed; none is left, since one is used while the task waits.
///
/// # Cancellation
/// Nothing is lost, and nothing is watched any more.
///
/// # Examples
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let (mut one, mut other) = UnixStream::pair()?; // the standard library's
///     let writer = curio::spawn(async move { Ok(one.write_all(b"!")?) });
///     curio::net::wait_readable(&other).await?;
///     other.read_exact(&mut [0])?; // does not block
///     writer.join().await
/// })
/// # }
/// ```
#[track_caller]
pub fn wait_readable<F: AsFd>(fd: F) -> impl Future<Output = Result<()>> + use<F> {
    at(Location::caller(), wait(fd, Direction::Read))
}

/// Waits until a write to `fd` would not block, as [`wait_readable`] does for reads: there is room,
/// or an error.
///
/// # Errors
/// Those of [`wait_readable`].
///
/// # Cancellation
/// Nothing is lost, and nothing is watched any more.
#[track_caller]
pub fn wait_writable<F: AsFd>(fd: F) -> impl Future<Output = Result<()>> + use<F> {
    at(Location::caller(), wait(fd, Direction::Write))
}

/// Waits for descriptors by their numbers: one task at a time for each direction of a number, which
/// others can look at and send away.
#[doc(hidden)]
pub struct Lent;

type Waiting = HashMap<(RawFd, bool), (TaskRef, Source)>;

thread_local! {
    /// The tasks of this thread's kernels that wait here. Keyed by number, and whether to write.
    static WAITING: RefCell<Waiting> = RefCell::default();
}

impl Lent {
    /// As [`wait_readable`] and [`wait_writable`].
    ///
    /// # Errors
    /// Busy, if another task waits for that, here or in an operation of a socket with this number.
    pub async fn wait<F: AsFd>(fd: F, direction: Direction) -> Result<()> {
        let number = fd.as_fd().as_raw_fd();
        let place = (number, direction == Direction::Write);
        let task = current_task()?;
        let (reader, writer) = Lent::waiting(number);
        let other = if direction == Direction::Read { reader } else { writer };
        if let Some(other) = other {
            let other = match other.name() {
                "" => format!("task {}", other.id()),
                _ => other.to_string(),
            };
            return Err(kernel::busy(direction, number, &other));
        }
        if is_ready(&fd, direction)? {
            return yield_if_exhausted().await;
        }
        let watched = Watched::new(fd.as_fd().try_clone_to_owned()?);
        WAITING.with_borrow_mut(|waiting| waiting.insert(place, (task, watched.source.clone())));
        let _listed = Listed(place);
        watched.wait(direction).await?;
        // Fails if it was sent away.
        watched.source.fd().map(drop).map_err(Error::from)
    }

    /// The tasks that wait to read and to write, here or in operations of a socket with this number.
    pub fn waiting(fd: RawFd) -> (Option<TaskRef>, Option<TaskRef>) {
        let listed = |write| {
            let here = |waiting: &Waiting| waiting.get(&(fd, write)).map(|(task, _)| task.clone());
            WAITING.with_borrow(here).filter(|task| task.core().is_here())
        };
        let (reader, writer) = kernel::waiting_on(fd);
        (listed(false).or(reader), listed(true).or(writer))
    }

    /// Ends the waits for that number, with the error of a descriptor that is closed.
    pub fn release(fd: RawFd) {
        for write in [false, true] {
            let source = |waiting: &Waiting| waiting.get(&(fd, write)).map(|found| found.1.clone());
            if let Some(source) = WAITING.with_borrow(source) {
                source.close();
            }
        }
    }
}

/// A task is in [`WAITING`] while this lives.
struct Listed((RawFd, bool));

impl Drop for Listed {
    fn drop(&mut self) {
        let former = WAITING.try_with(|waiting| waiting.borrow_mut().remove(&self.0));
        drop(former);
    }
}

async fn wait(fd: impl AsFd, direction: Direction) -> Result<()> {
    if is_ready(&fd, direction)? {
        return yield_if_exhausted().await;
    }
    // A number of our own: epoll and the table of descriptors know registrations by number, and
    // this one may be registered already, or be so before this wait is over.
    Watched::new(fd.as_fd().try_clone_to_owned()?).wait(direction).await
}

async fn yield_if_exhausted() -> Result<()> {
    if kernel::exhausted() { YieldNow::new().await } else { Ok(()) }
}

/// Asks the system.
fn is_ready(fd: &impl AsFd, direction: Direction) -> Result<bool> {
    let flags = match direction {
        Direction::Read => PollFlags::IN,
        Direction::Write => PollFlags::OUT,
    };
    let mut asked = [PollFd::new(fd, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = poll(&mut asked, Some(&now))? > 0;
    if ready && asked[0].revents().contains(PollFlags::NVAL) {
        return Err(Errno::BADF.into());
    }
    Ok(ready)
}

/// Whether epoll does not watch such a descriptor, because it is always ready.
fn refused(error: &Error) -> bool {
    error.as_io().and_then(io::Error::raw_os_error) == Some(Errno::PERM.raw_os_error())
}

struct Watched {
    source: Source,
    _fd: OwnedFd,
}

impl Watched {
    fn new(fd: OwnedFd) -> Watched {
        Watched { source: Source::new(fd.as_raw_fd()), _fd: fd }
    }

    async fn wait(&self, direction: Direction) -> Result<()> {
        self.source.clear(direction);
        match self.source.wait(direction).await {
            Err(error) if refused(&error) => Ok(()),
            waited => waited,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Before the descriptor is closed.
        self.source.close();
    }
}
