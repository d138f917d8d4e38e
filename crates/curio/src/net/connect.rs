//! Connecting to a host that has several addresses.
//!
//! *Facts.* A host often has addresses of both families, and one of them does not work from here: its
//! packets vanish, and the system says so only after minutes.
//!
//! *Choice.* RFC 8305, "Happy Eyeballs": the addresses are tried in turn, the families
//! alternating, each a quarter of a second after the one before, or at once when one has failed; the
//! first that answers wins, and the others are closed. All attempts are waits of the one task that
//! connects.
//!
//! *What has happened counts in the order in which it did.* An attempt that was answered before the
//! task was cancelled is the result, whichever place it has among the attempts; so those that were
//! fired are looked at first, and only then can a wait take the interrupt.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::registered::Registered;
use crate::error::Result;
use crate::kernel::{Direction, ReadyTrap, Source};
use crate::testing;
use crate::time::{Sleep, sleep};
use crate::traps::{Wait, at};

/// How to connect; see [`TcpStream::open_with`](super::TcpStream::open_with).
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    source: Option<SocketAddr>,
    delay: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions::new()
    }
}

impl ConnectOptions {
    /// From any address of ours, and as RFC 8305 says.
    pub fn new() -> Self {
        ConnectOptions { source: None, delay: Duration::from_millis(250) }
    }

    /// The address to connect from; port 0 lets the system choose one. Only addresses of its family
    /// are tried then.
    #[must_use]
    pub fn source(mut self, source: SocketAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// How long an attempt has for itself before the next address is tried as well. Default: 250 ms.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// Connects a TCP socket to the first of `addresses` that answers.
///
/// Gives the socket, which does not block, and its source, to be closed, or dropped, before it.
///
/// # Errors
/// An I/O error that tells of each address that was tried;
/// [`Error::raw_os_error`](crate::Error::raw_os_error) is that of the first one.
///
/// # Cancellation
/// All attempts are given up and their sockets closed.
#[track_caller]
pub fn connect_any(
    addresses: Vec<SocketAddr>,
    options: ConnectOptions,
) -> impl Future<Output = Result<(Source, Socket)>> {
    at(
        Location::caller(),
        async move { Ok(connect_registered(addresses, options).await?.into_parts()) },
    )
}

pub(super) async fn connect_registered(
    addresses: Vec<SocketAddr>,
    options: ConnectOptions,
) -> Result<Registered> {
    let mut addresses = interleaved(addresses);
    let given = !addresses.is_empty();
    if let Some(source) = options.source {
        addresses.retain(|address| address.is_ipv4() == source.is_ipv4());
    }
    if addresses.is_empty() {
        let message = if given {
            "no address to connect to has the family of the source address"
        } else {
            "no address to connect to"
        };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message).into());
    }
    if let Some(network) = testing::network() {
        return connect_on(&network, addresses, options).await;
    }
    let mut race = Race {
        left: addresses.into_iter().enumerate(),
        attempts: Vec::new(),
        pause: None,
        failures: Vec::new(),
        options,
    };
    poll_fn(|cx| race.poll(cx)).await
}

/// On a simulated network, which has no silent addresses but where it is cut: one after the other.
async fn connect_on(
    network: &testing::Network,
    addresses: Vec<SocketAddr>,
    options: ConnectOptions,
) -> Result<Registered> {
    let mut failures = Vec::new();
    for address in addresses {
        match network.connect(address, options.source).await? {
            Ok(socket) => return Ok(Registered::new(socket)?),
            Err(error) => failures.push((address, error)),
        }
    }
    Err(failure(failures).into())
}

/// Each address once, the families alternating, beginning with that of the first.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for address in addresses {
        let family = if address.is_ipv4() == first_is_v4 { &mut one } else { &mut other };
        if !family.contains(&address) {
            family.push(address);
        }
    }
    let mut all = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    loop {
        let before = all.len();
        all.extend(one.next());
        all.extend(other.next());
        if all.len() == before {
            return all;
        }
    }
}

/// The attempts to connect, and what is left to try.
struct Race {
    left: std::iter::Enumerate<std::vec::IntoIter<SocketAddr>>,
    attempts: Vec<Attempt>,
    /// When the next one is due, while some are left.
    pause: Option<Sleep>,
    failures: Vec<(usize, SocketAddr, io::Error)>,
    options: ConnectOptions,
}

/// One attempt. The wait leaves the source before the socket is closed, because fields are dropped
/// in the order of their declaration.
struct Attempt {
    wait: Wait<ReadyTrap>,
    connection: Registered,
    place: usize,
    address: SocketAddr,
}

impl Race {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Registered>> {
        loop {
            // What has happened before an interrupt comes first.
            while let Some(index) = self.attempts.iter().position(|attempt| attempt.wait.fired()) {
                match self.ask(index, cx) {
                    Poll::Ready(Some(result)) => return Poll::Ready(result),
                    Poll::Ready(None) => {}
                    Poll::Pending => break,
                }
            }
            if let Some(pause) = &mut self.pause {
                match pin!(pause).poll(cx) {
                    Poll::Ready(Ok(_)) => self.pause = None,
                    Poll::Ready(Err(interrupt)) => return Poll::Ready(Err(interrupt)),
                    Poll::Pending => {}
                }
            }
            if self.pause.is_none()
                && let Some((place, address)) = self.left.next()
            {
                match self.start(place, address) {
                    Ok(Some(connection)) => return Poll::Ready(Ok(connection)),
                    Ok(None) => {
                        if self.left.len() > 0 {
                            self.pause = Some(sleep(self.options.delay));
                        }
                    }
                    Err(error) => self.failures.push((place, address, error)),
                }
                continue;
            }
            if self.attempts.is_empty() {
                return Poll::Ready(Err(self.failure().into()));
            }
            let mut index = 0;
            let mut ended = false;
            while index < self.attempts.len() {
                match self.ask(index, cx) {
                    Poll::Ready(Some(result)) => return Poll::Ready(result),
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => index += 1,
                }
            }
            if !ended {
                return Poll::Pending;
            }
        }
    }

    /// Begins an attempt. Some end at once.
    fn start(&mut self, place: usize, address: SocketAddr) -> io::Result<Option<Registered>> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(source) = self.options.source {
            if source.port() != 0 {
                // Several attempts have it, one after the other or together.
                socket.set_reuse_address(true)?;
            }
            socket.bind(&source.into())?;
        }
        let connection = Registered::new(socket)?;
        match connection.socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {
                connection.source().clear(Direction::Write);
                let wait = connection.source().wait(Direction::Write);
                self.attempts.push(Attempt { wait, connection, place, address });
                Ok(None)
            }
            connected => connected.map(|()| Some(connection)),
        }
    }

    /// How an attempt has ended; `None` if it has failed, which is noted, and the next is due.
    fn ask(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<Option<Result<Registered>>> {
        match Pin::new(&mut self.attempts[index].wait).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) => {}
        }
        let Attempt { connection, place, address, .. } = self.attempts.remove(index);
        match connection.socket.take_error() {
            Ok(None) => Poll::Ready(Some(Ok(connection))),
            Ok(Some(error)) | Err(error) => {
                self.failures.push((place, address, error));
                self.pause = None;
                Poll::Ready(None)
            }
        }
    }

    /// All have failed.
    fn failure(&mut self) -> io::Error {
        let mut failures = std::mem::take(&mut self.failures);
        failures.sort_unstable_by_key(|failure| failure.0);
        let failures: Vec<_> =
            failures.into_iter().map(|(_, address, error)| (address, error)).collect();
        failure(failures)
    }
}

fn failure(failures: Vec<(SocketAddr, io::Error)>) -> io::Error {
    let kind = failures.first().map_or(io::ErrorKind::Other, |failure| failure.1.kind());
    io::Error::new(kind, ConnectFailure(failures))
}

/// Why no address could be connected to, in the order in which they were tried.
#[derive(Debug)]
struct ConnectFailure(Vec<(SocketAddr, io::Error)>);

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(address, error)] = &*self.0 {
            return write!(f, "cannot connect to {address}: {error}");
        }
        write!(f, "cannot connect to any of {} addresses", self.0.len())?;
        for (number, (address, error)) in self.0.iter().enumerate() {
            write!(f, "{} {address}: {error}", if number == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.first().map(|(_, error)| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn families_alternate_in_their_own_orders() {
        let given =
            addresses(&["[::1]:1", "[::2]:1", "[::1]:1", "[::3]:1", "1.1.1.1:1", "1.1.1.2:1"]);
        let expected = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "[::3]:1"]);
        assert_eq!(interleaved(given), expected);
        let given = addresses(&["1.1.1.1:1", "1.1.1.2:1", "1.1.1.1:2", "[::1]:1"]);
        let expected = addresses(&["1.1.1.1:1", "[::1]:1", "1.1.1.2:1", "1.1.1.1:2"]);
        assert_eq!(interleaved(given), expected);
        assert_eq!(interleaved(Vec::new()), []);
    }
}
