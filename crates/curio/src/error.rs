//! What can go wrong, in three families that are kept apart.
//!
//! - *Cancellation*: somebody, or the clock, wants the task to end what it is
//!   doing. [`Error::is_cancellation`] and its finer predicates tell.
//! - *Operating errors*: the system, a peer, the other task.
//! - *Misuse*: the program asked for something that cannot be, such as a task
//!   that joins itself.
//!
//! All travel as one small, cheap [`Error`], so that `?` composes.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

/// The result of everything in Curio that can fail or be cancelled.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not do what was asked. Cloning is cheap.
///
/// # Examples
///
/// A task that is cancelled sees it as an error at the operation where it waits,
/// and may clean up, with further awaits, before it passes the error on:
///
/// ```
/// use std::time::Duration;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let kid = curio::spawn(async {
///         let played = curio::sleep(Duration::from_secs(1000)).await;
///         if let Err(error) = &played {
///             assert!(error.is_cancelled());
///             curio::sleep(Duration::from_millis(1)).await?; // saving its work
///         }
///         played.map(drop)
///     });
///     curio::sleep(Duration::ZERO).await?;
///     assert!(kid.cancel().await?);
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Error {
    kind: Arc<ErrorKind>,
    progress: Option<usize>,
}

/// What an [`Error`] is; for language bindings, which translate each kind.
#[doc(hidden)]
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    Cancelled(Arc<Cancellation>),
    Timeout(Timeout),
    UncaughtTimeout,
    Task(TaskFailure),
    Panic(String),
    Io(io::Error),
    ReadBusy(String),
    WriteBusy(String),
    TooLong(String),
    Closed(String),
    Misuse(String),
    Outside(String),
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// Who cancelled a task, from where and why.
#[derive(Clone, Default)]
pub struct Cancellation {
    /// The id of the task that asked for it; `None` for the kernel's shutdown and for
    /// programs outside the kernel.
    pub by: Option<u64>,
    /// That task's name.
    pub by_name: Cow<'static, str>,
    /// Where it asked.
    pub site: Option<&'static Location<'static>>,
    /// The reason it gave.
    pub reason: Option<Arc<str>>,
    /// Somebody at the monitor has asked.
    pub by_monitor: bool,
    /// What a language binding wants to find again when the cancellation arrives.
    #[doc(hidden)]
    pub payload: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Display for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cancelled")?;
        if let Some(id) = self.by {
            write!(f, " by task {id} ({})", self.by_name)?;
        }
        if self.by_monitor {
            f.write_str(" from the monitor")?;
        }
        if let Some(site) = self.site {
            write!(f, " at {}:{}", site.file(), site.line())?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A timeout that has expired, on its way to the region it limits.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Timeout {
    /// Which timeout: unique in its kernel.
    pub owner: u64,
    /// It is the innermost one around the operation, or has come out of its own region.
    pub own: bool,
    /// It has come out of the region it limits: a `TaskTimeout` for who is outside.
    pub escaped: bool,
    /// When it was due, by the kernel's clock.
    pub deadline: u64,
    /// When it was delivered.
    pub clock: u64,
}

/// A task that was joined had not returned.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct TaskFailure {
    pub id: u64,
    pub name: Arc<str>,
    pub cause: Error,
}

impl Error {
    #[doc(hidden)]
    pub fn new(kind: ErrorKind) -> Self {
        Error { kind: Arc::new(kind), progress: None }
    }

    /// Wraps an error of the program's own, so that a task can end with it.
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::new(ErrorKind::Other(error.into()))
    }

    pub(crate) fn misuse(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Misuse(message.into()))
    }

    pub(crate) fn with_progress(mut self, done: impl Into<Option<usize>>) -> Self {
        self.progress = done.into();
        self
    }

    #[doc(hidden)]
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Any kind of cancellation: by a task, or by a timeout, one's own or an outer one.
    pub fn is_cancellation(&self) -> bool {
        matches!(*self.kind, ErrorKind::Cancelled(_) | ErrorKind::Timeout(_))
    }

    /// [`TaskRef::cancel`](crate::TaskRef::cancel), or the kernel's shutdown.
    pub fn is_cancelled(&self) -> bool {
        matches!(*self.kind, ErrorKind::Cancelled(_))
    }

    /// A timeout that was set right around the failed operation has expired.
    pub fn is_timeout(&self) -> bool {
        matches!(*self.kind, ErrorKind::Timeout(t) if t.own)
    }

    /// A timeout further out has expired: this operation is given up because of it.
    pub fn is_timeout_cancellation(&self) -> bool {
        matches!(*self.kind, ErrorKind::Timeout(t) if !t.own)
    }

    /// The timeout of an inner region that nobody has handled came to an outer
    /// one which has not expired itself.
    pub fn is_uncaught_timeout(&self) -> bool {
        matches!(*self.kind, ErrorKind::UncaughtTimeout)
    }

    /// A joined task has failed, was cancelled or panicked; its own error is the
    /// [`source`](std::error::Error::source).
    pub fn is_task_error(&self) -> bool {
        matches!(*self.kind, ErrorKind::Task(_))
    }

    /// A task's code has panicked.
    pub fn is_panic(&self) -> bool {
        matches!(*self.kind, ErrorKind::Panic(_))
    }

    /// Another task is already reading from, or writing to, the descriptor.
    pub fn is_busy(&self) -> bool {
        matches!(*self.kind, ErrorKind::ReadBusy(_) | ErrorKind::WriteBusy(_))
    }

    /// A line is longer than the stream's limit.
    pub fn is_too_long(&self) -> bool {
        matches!(*self.kind, ErrorKind::TooLong(_))
    }

    /// Nobody is left at the other end of a [channel](crate::universal::channel).
    pub fn is_closed(&self) -> bool {
        matches!(*self.kind, ErrorKind::Closed(_))
    }

    /// What was asked for cannot be: the program is wrong.
    pub fn is_misuse(&self) -> bool {
        matches!(*self.kind, ErrorKind::Misuse(_) | ErrorKind::Outside(_))
    }

    /// The system's error, if it is one.
    pub fn as_io(&self) -> Option<&io::Error> {
        match &*self.kind {
            ErrorKind::Io(error) => Some(error),
            _ => None,
        }
    }

    /// The system's number of the error, also if it came with more words, as that of a failed
    /// [`TcpStream::open`](crate::net::TcpStream::open) does: the first address's, then.
    pub fn raw_os_error(&self) -> Option<i32> {
        let mut error: &(dyn std::error::Error + 'static) = self.as_io()?;
        loop {
            let io = error.downcast_ref::<io::Error>();
            if let Some(number) = io.and_then(io::Error::raw_os_error) {
                return Some(number);
            }
            error = error.source()?;
        }
    }

    /// The cancellation, if it is one: who asked for it, where and why.
    pub fn cancellation(&self) -> Option<&Cancellation> {
        match &*self.kind {
            ErrorKind::Cancelled(cancellation) => Some(cancellation),
            _ => None,
        }
    }

    /// The error with which a joined task ended, for an [`is_task_error`](Self::is_task_error).
    pub fn task_cause(&self) -> Option<&Error> {
        match &*self.kind {
            ErrorKind::Task(failure) => Some(&failure.cause),
            _ => None,
        }
    }

    /// How many bytes were transferred before the operation was given up, for
    /// operations that do their work in parts.
    pub fn bytes_done(&self) -> Option<usize> {
        self.progress
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.kind {
            ErrorKind::Cancelled(cancellation) => write!(f, "{cancellation}"),
            ErrorKind::Timeout(timeout) => {
                let late = Duration::from_nanos(timeout.clock.saturating_sub(timeout.deadline));
                let whose = if timeout.own { "timeout" } else { "timeout of an outer region" };
                write!(f, "{whose} expired ({late:?} after its deadline)")
            }
            ErrorKind::UncaughtTimeout => f.write_str(
                "a timeout of an inner region was not handled there, and the timeout around it has not expired",
            ),
            ErrorKind::Task(failure) => {
                write!(f, "task {} ({}) did not return: {}", failure.id, failure.name, failure.cause)
            }
            ErrorKind::Panic(message) => write!(f, "panicked: {message}"),
            ErrorKind::Io(error) => error.fmt(f),
            ErrorKind::Other(error) => error.fmt(f),
            ErrorKind::ReadBusy(message)
            | ErrorKind::WriteBusy(message)
            | ErrorKind::TooLong(message)
            | ErrorKind::Closed(message)
            | ErrorKind::Misuse(message)
            | ErrorKind::Outside(message) => f.write_str(message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_tuple("Error");
        out.field(&self.kind);
        if let Some(done) = self.progress {
            out.field(&format_args!("{done} bytes done"));
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.kind {
            ErrorKind::Task(failure) => Some(&failure.cause),
            ErrorKind::Io(error) => Some(error),
            ErrorKind::Other(error) => Some(&**error),
            _ => None,
        }
    }
}

/// An I/O error; or the [`Error`] that was made one, as it was.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(|error| Error::new(ErrorKind::Io(error)))
    }
}

/// For code that knows I/O errors only. The error is inside, and comes out again when it is made
/// one of ours; a cancellation is not of the kind `Interrupted`, after which such code tries again.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &*error.kind {
            ErrorKind::Io(system) => match system.raw_os_error() {
                Some(number) if error.progress.is_none() => {
                    return io::Error::from_raw_os_error(number);
                }
                _ => system.kind(),
            },
            ErrorKind::Timeout(_) | ErrorKind::UncaughtTimeout => io::ErrorKind::TimedOut,
            ErrorKind::ReadBusy(_) | ErrorKind::WriteBusy(_) => io::ErrorKind::ResourceBusy,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}
