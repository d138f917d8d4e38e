//! Sockets.
//!
//! The names and meanings are those of the standard library's `net`; what can
//! block is `async`. An operation that can succeed at once does not suspend the
//! task; one that has to wait is a trap: the task can be seen, timed out and
//! cancelled there, and no byte and no connection is lost by it.
//!
//! - [`TcpListener`], [`TcpStream`], [`UdpSocket`], [`lookup`]: the Internet.
//! - [`UnixListener`], [`UnixStream`], [`UnixDatagram`]: one machine.
//! - [`serve`]: a server, with a task for each connection.
//! - [`wait_readable`], [`wait_writable`]: descriptors that are not ours.
//! - `tls`, with the cargo feature of this name: TLS over any of the streams.
//! - `Compat`, with the cargo feature `futures-io`: streams for code that is written for that.

mod accept;
#[cfg(feature = "futures-io")]
mod compat;
mod connect;
mod lookup;
mod ready;
mod registered;
mod serve;
mod tcp;
#[cfg(feature = "tls")]
pub mod tls;
mod udp;
mod unix;

#[doc(hidden)]
pub use accept::Acceptor;
#[cfg(feature = "futures-io")]
pub use compat::Compat;
pub use connect::ConnectOptions;
#[doc(hidden)]
pub use connect::connect_any;
pub use lookup::lookup;
#[doc(hidden)]
pub use ready::Lent;
pub use ready::{wait_readable, wait_writable};
pub use serve::{Listener, Server, serve};
pub use tcp::{TcpListener, TcpStream};
pub use udp::UdpSocket;
pub use unix::{UnixDatagram, UnixListener, UnixStream};
