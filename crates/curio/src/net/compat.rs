//! Our streams for code that is written for `futures_io`.
//!
//! Each direction keeps the wait in which its last poll was pending, so that both may be polled by
//! one task in turn, or by two. A cancellation is an [`io::Error`] with the [`Error`](crate::Error)
//! inside, which comes out again when it is made an `Error`.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_io::{AsyncRead, AsyncWrite};

use crate::kernel::{self, Direction, ReadyTrap, Source};
use crate::stream::Transport;
use crate::traps::{Wait, YieldNow};

/// A connection as `futures_io`'s `AsyncRead` and `AsyncWrite`; see
/// [`Transport::compat`].
///
/// Closing it, as `AsyncWrite` has it, announces the end to the peer; reading goes on.
///
/// # Errors
/// A cancellation comes as an I/O error, of the kind `TimedOut` for a timeout and `Other` else;
/// `?` in a function of ours, or [`Error::from`](crate::Error), gives the
/// [`Error`](crate::Error) back.
///
/// # Cancellation
/// A read or write that fails has transferred nothing.
///
/// # Examples
///
/// ```
/// use curio::Transport;
/// use curio::net::UnixStream;
/// use futures::{AsyncReadExt, AsyncWriteExt};
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let (one, other) = UnixStream::pair()?;
///     let (mut one, mut other) = (one.compat(), other.compat());
///     one.write_all(b"Hello").await?;
///     one.close().await?;
///     let mut text = String::new();
///     other.read_to_string(&mut text).await?;
///     assert_eq!(text, "Hello");
///     Ok(())
/// })
/// # }
/// ```
pub struct Compat<T> {
    // Before the stream, whose source they stand in.
    read: Option<Pause>,
    write: Option<Pause>,
    stream: T,
}

enum Pause {
    Ready(Wait<ReadyTrap>),
    /// The task has had its turn.
    Turn(YieldNow),
}

impl<T: Transport> Compat<T> {
    pub(crate) fn new(stream: T) -> Self {
        Compat { read: None, write: None, stream }
    }

    /// The stream.
    pub fn get_ref(&self) -> &T {
        &self.stream
    }

    /// The stream; nothing is kept back.
    pub fn into_inner(self) -> T {
        self.stream
    }

    fn poll_write_with<R>(
        &mut self,
        cx: &mut Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        poll(&mut self.write, &self.stream, Direction::Write, cx, operation)
    }
}

/// [`Source::run`], by hand.
fn poll<T: Transport, R>(
    pause: &mut Option<Pause>,
    stream: &T,
    direction: Direction,
    cx: &mut Context<'_>,
    mut operation: impl FnMut(&T) -> io::Result<R>,
) -> Poll<io::Result<R>> {
    let source: &Source = stream.source();
    loop {
        if let Some(begun) = pause {
            let ended = match begun {
                Pause::Ready(wait) => Pin::new(wait).poll(cx),
                Pause::Turn(turn) => Pin::new(turn).poll(cx),
            };
            let ended = ready!(ended);
            *pause = None;
            ended?;
        }
        if !source.ready(direction) {
            *pause = Some(Pause::Ready(source.wait(direction)));
        } else if kernel::exhausted() {
            *pause = Some(Pause::Turn(YieldNow::new()));
        } else {
            match operation(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => source.clear(direction),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl<T: Transport + Unpin> AsyncRead for Compat<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let read = |stream: &T| {
            let count = stream.try_read(buffer)?;
            if (1..buffer.len()).contains(&count) && stream.short_read_drains() {
                stream.source().drained();
            }
            Ok(count)
        };
        poll(&mut this.read, &this.stream, Direction::Read, cx, read)
    }
}

impl<T: Transport + Unpin> AsyncWrite for Compat<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |stream| stream.try_write(data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_write_with(cx, T::try_flush)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_write_with(cx, T::try_shutdown)
    }
}

impl<T> fmt::Debug for Compat<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compat").finish_non_exhaustive()
    }
}
