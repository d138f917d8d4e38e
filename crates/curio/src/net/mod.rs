//! Sockets.
//!
//! The names and meanings are those of the standard library's `net`; what can
//! block is `async`. An operation that can succeed at once does not suspend the
//! task; one that has to wait is a trap: the task can be seen, timed out and
//! cancelled there, and no byte and no connection is lost by it.

mod tcp;

pub use tcp::{TcpListener, TcpStream};
