//! Accepting connections, whatever there is too little of.
//!
//! An [`Acceptor`] keeps a descriptor in reserve. When none is left, it gives that up to accept who
//! waits, and closes the connection: the client is told at once. Then it pauses, and goes on.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::kernel::{Direction, Source};
use crate::time::{clock, sleep};

/// Accepts connections, and goes on if one cannot be had.
///
/// For language bindings; programs have [`serve`](super::serve()).
pub struct Acceptor {
    /// What is given up to accept somebody only to close the connection.
    reserve: RefCell<Option<OwnedFd>>,
    /// When something was lacking last, by the kernel's clock.
    short: Cell<Option<Duration>>,
    /// Somebody has been accepted since.
    relieved: Cell<bool>,
}

impl Default for Acceptor {
    fn default() -> Self {
        Acceptor::new()
    }
}

impl Acceptor {
    /// How long it waits when something is lacking.
    const PAUSE: Duration = Duration::from_millis(100);

    /// Shortages with less than this between them are one.
    const EPISODE: Duration = Duration::from_secs(1);

    /// So many are sent away before others have their turn.
    const MOST: usize = 64;

    /// Takes its descriptor, if there is one left.
    pub fn new() -> Acceptor {
        Acceptor {
            reserve: RefCell::new(reserve()),
            short: Cell::new(None),
            relieved: Cell::new(true),
        }
    }

    /// Waits for a connection. `accept` gives one, or `WouldBlock`; dropping what it gives closes
    /// the connection.
    ///
    /// Lack of descriptors or of memory, and what is the matter with one connection, are no
    /// errors of this; `report` is told of the former, once.
    ///
    /// # Errors
    /// The other errors of `accept`.
    ///
    /// # Cancellation
    /// No connection is lost, but those that are sent away when there is no descriptor left.
    pub async fn accept<T>(
        &self,
        source: &Source,
        mut accept: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
        mut report: impl FnMut(&Error),
    ) -> Result<T> {
        loop {
            if self.reserve.borrow().is_none() {
                self.reserve.replace(reserve());
            }
            let error = match source.run(Direction::Read, &mut accept).await {
                Ok(connection) => {
                    self.relieved.set(true);
                    return Ok(connection);
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::MFILE | Errno::NFILE) => {
                    self.note(&error, &mut report)?;
                    self.send_away(source, &mut accept);
                    sleep(Acceptor::PAUSE).await?;
                }
                Some(Errno::NOBUFS | Errno::NOMEM) => {
                    self.note(&error, &mut report)?;
                    sleep(Acceptor::PAUSE).await?;
                }
                // Linux gives errors of the network that a new connection has already.
                Some(
                    Errno::CONNABORTED
                    | Errno::PROTO
                    | Errno::NOPROTOOPT
                    | Errno::NETDOWN
                    | Errno::NETUNREACH
                    | Errno::HOSTDOWN
                    | Errno::HOSTUNREACH
                    | Errno::NONET,
                ) => {}
                _ => return Err(error),
            }
        }
    }

    /// Says once what is lacking.
    fn note(&self, error: &Error, report: &mut impl FnMut(&Error)) -> Result<()> {
        let now = clock()?;
        let last = self.short.replace(Some(now));
        let long_ago = last.is_none_or(|last| now.saturating_sub(last) > Acceptor::EPISODE);
        if self.relieved.take() && long_ago {
            report(error);
        }
        Ok(())
    }

    /// Accepts and closes the connections of those who wait.
    fn send_away<T>(
        &self,
        source: &Source,
        accept: &mut impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) {
        if self.reserve.take().is_none() {
            return;
        }
        for _ in 0..Acceptor::MOST {
            let Ok(fd) = source.fd() else { break };
            match accept(fd) {
                Ok(connection) => drop(connection),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => break,
            }
        }
        self.reserve.replace(reserve());
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("reserve", &self.reserve.borrow().is_some())
            .finish_non_exhaustive()
    }
}

fn reserve() -> Option<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC).ok()
}
