//! Child processes: their streams, their ends, and nobody left behind.
//!
//! *Facts.* A process that has ended stays in the system's table, as a zombie, until its parent asks
//! for its status, once. Its number may belong to another process afterwards.
//!
//! *What we do.* A child is waited for by a descriptor of it (a pidfd), which can be read from its end
//! on: no thread, no polling, no signal. Where the system gives none, a thread waits. Each [`Child`]
//! has one owner, who alone asks for the status; what is dropped while it runs is seen off by a
//! thread, so that no zombie stays.

use std::ffi::OsStr;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::Location;
use std::path::Path;
use std::pin::{Pin, pin};
use std::process::{self, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::task::Poll;
use std::thread;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::error::{Error, Result};
use crate::kernel::{Direction, Source};
use crate::net::wait_readable;
use crate::stream::{Stream, Transport};
use crate::time::disable_cancellation;
use crate::traps::at;
use crate::worker::{Outside, Pool};

/// A program to be started, with its arguments and surroundings: [`std::process::Command`], whose
/// children can be awaited.
///
/// # Examples
///
/// ```
/// use curio::process::Command;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let output = Command::new("echo").arg("Hello").output().await?;
///     assert!(output.status.success());
///     assert_eq!(output.stdout, b"Hello\n");
///     Ok(())
/// })
/// # }
/// ```
///
/// Lines, as they are written:
///
/// ```
/// use curio::process::Command;
/// use std::process::Stdio;
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let mut child = Command::new("seq").arg("3").stdout(Stdio::piped()).spawn()?;
///     let lines = child.stdout.take().expect("it is piped");
///     while let Some(line) = lines.read_line().await? {
///         println!("Got: {}", String::from_utf8_lossy(&line).trim_end());
///     }
///     assert!(child.wait().await?.success());
///     Ok(())
/// })
/// # }
/// ```
pub struct Command {
    command: process::Command,
    /// Whether standard input, output and error were chosen.
    chosen: [bool; 3],
    input: Vec<u8>,
    kill_on_drop: bool,
}

impl Command {
    /// A command that starts `program`, looked up in `PATH` unless it has a slash.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        process::Command::new(program).into()
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<A: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = A>) -> &mut Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// The directory that the child starts in.
    pub fn current_dir(&mut self, directory: impl AsRef<Path>) -> &mut Self {
        self.command.current_dir(directory);
        self
    }

    /// Standard input: inherited, unless it is chosen here.
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.command.stdin(stdin);
        self.chosen[0] = true;
        self
    }

    /// Standard output: inherited, unless it is chosen here.
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.command.stdout(stdout);
        self.chosen[1] = true;
        self
    }

    /// Standard error: inherited, unless it is chosen here.
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Self {
        self.command.stderr(stderr);
        self.chosen[2] = true;
        self
    }

    /// What [`output`](Self::output) writes to the child's standard input; nothing at first.
    pub fn input(&mut self, input: impl Into<Vec<u8>>) -> &mut Self {
        self.input = input.into();
        self
    }

    /// Whether a [`Child`] that is dropped is killed, if it still runs. It is left alone at first.
    pub fn kill_on_drop(&mut self, kill: bool) -> &mut Self {
        self.kill_on_drop = kill;
        self
    }

    /// The standard library's command, for what it has besides.
    pub fn as_std_mut(&mut self) -> &mut process::Command {
        &mut self.command
    }

    /// Starts the program.
    ///
    /// Blocks the thread until the system has found it, a millisecond or so.
    ///
    /// # Errors
    /// An I/O error that names the program: there is none, it may not be executed, its directory does
    /// not exist; the system has no descriptor or process left.
    pub fn spawn(&mut self) -> Result<Child> {
        let mut child = self.command.spawn().map_err(|cause| self.failure(&cause))?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // Without its streams, it does not go on.
        let process = Process::new(child, true);
        let mut child = Child {
            stdin: stdin.map(stream).transpose()?,
            stdout: stdout.map(stream).transpose()?,
            stderr: stderr.map(stream).transpose()?,
            input: Rest::default(),
            process,
        };
        child.process.kill_on_drop = self.kill_on_drop;
        Ok(child)
    }

    /// Runs the program to its end, and gives its status and all that it has written to standard
    /// output and standard error, unless they were chosen to go elsewhere. Standard input is what
    /// [`input`](Self::input) has said, unless it was chosen.
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn); the pipes'.
    ///
    /// # Cancellation
    /// The child is killed, and has ended when the error is returned. What it has written is lost.
    #[track_caller]
    pub fn output(&mut self) -> impl Future<Output = Result<Output>> + use<> {
        let input = std::mem::take(&mut self.input);
        if !self.chosen[0] {
            let empty = input.is_empty();
            self.command.stdin(if empty { Stdio::null() } else { Stdio::piped() });
        }
        if !self.chosen[1] {
            self.command.stdout(Stdio::piped());
        }
        if !self.chosen[2] {
            self.command.stderr(Stdio::piped());
        }
        let spawned = self.spawn();
        at(Location::caller(), async move {
            let mut child = spawned?;
            child.process.kill_on_drop = true;
            let done = child.communicate(input).await;
            child.process.unless_killed(done).await
        })
    }

    /// Runs the program to its end, and gives its status. Its standard streams are this program's,
    /// unless they were chosen.
    ///
    /// # Errors
    /// Those of [`spawn`](Self::spawn).
    ///
    /// # Cancellation
    /// The child is killed, and has ended when the error is returned.
    #[track_caller]
    pub fn status(&mut self) -> impl Future<Output = Result<ExitStatus>> + use<> {
        let spawned = self.spawn();
        at(Location::caller(), async move {
            let mut child = spawned?;
            child.process.kill_on_drop = true;
            let done = child.wait().await;
            child.process.unless_killed(done).await
        })
    }

    fn failure(&self, cause: &io::Error) -> Error {
        let program = Path::new(self.command.get_program()).display();
        let place = self.command.get_current_dir().filter(|directory| !directory.is_dir());
        let message = match place {
            Some(place) => format!("cannot start '{program}' in '{}': {cause}", place.display()),
            None => format!("cannot start '{program}': {cause}"),
        };
        io::Error::new(cause.kind(), message).into()
    }
}

fn stream(end: impl Into<OwnedFd>) -> Result<Stream<Pipe>> {
    Ok(Stream::new(Pipe::new(end)?))
}

impl From<process::Command> for Command {
    /// Standard streams that were chosen before are not known to have been, and are chosen anew by
    /// [`output`](Command::output).
    fn from(command: process::Command) -> Self {
        Command { command, chosen: [false; 3], input: Vec::new(), kill_on_drop: false }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command.fmt(f)
    }
}

/// A child process.
///
/// One that is dropped runs on, unless its command says otherwise; when it ends, it is not left
/// behind as a zombie.
pub struct Child {
    /// What the child reads from, if it is piped. The child sees the end when this is dropped.
    pub stdin: Option<Stream<Pipe>>,
    /// What the child writes to, if it is piped.
    pub stdout: Option<Stream<Pipe>>,
    /// What the child writes its errors to, if it is piped.
    pub stderr: Option<Stream<Pipe>>,
    input: Rest,
    process: Process,
}

impl Child {
    /// The process's number, also after its end, when it may be another's.
    pub fn id(&self) -> u32 {
        self.process.child().id()
    }

    /// Its status, if it has ended.
    ///
    /// # Errors
    /// The system's: somebody else has asked for the status of all children.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Waits until it has ended. Its standard input ends first, if it is piped.
    ///
    /// A child that writes to a pipe which nobody reads may not end; [`communicate`](Self::communicate)
    /// reads.
    ///
    /// # Errors
    /// The system's: somebody else has asked for the status of all children.
    ///
    /// # Cancellation
    /// The child runs on, and can be waited for again.
    #[track_caller]
    pub fn wait(&mut self) -> impl Future<Output = Result<ExitStatus>> + '_ {
        at(Location::caller(), async {
            if let Some(stdin) = &self.stdin {
                quiet(stdin.flush().await)?;
            }
            self.stdin = None;
            self.process.wait().await
        })
    }

    /// Writes `input` to its standard input, and ends that; reads all that it writes to standard
    /// output and standard error; waits until it has ended. What is not piped is left out.
    ///
    /// A child that closes its standard input early need not read all of it.
    ///
    /// # Errors
    /// The pipes', and those of [`wait`](Self::wait).
    ///
    /// # Cancellation
    /// The child runs on, and nothing is lost: another call takes up where this one was, and writes
    /// its own input after what is left.
    #[track_caller]
    pub fn communicate(
        &mut self,
        input: impl Into<Vec<u8>>,
    ) -> impl Future<Output = Result<Output>> + '_ {
        self.input.add(input.into());
        at(Location::caller(), async {
            let Child { stdin, stdout, stderr, input, process } = self;
            let (stdout, stderr) = (stdout.as_ref(), stderr.as_ref());
            all(feed(stdin, input), until_end(stdout), until_end(stderr)).await?;
            let status = process.wait().await?;
            Ok(Output { status, stdout: take_all(stdout), stderr: take_all(stderr) })
        })
    }

    /// Sends it a signal, by its number (see [`signal`](crate::signal)). Nothing happens if it has
    /// ended.
    ///
    /// # Errors
    /// The system's: it may not be sent to that child. Misuse: there is no such signal.
    pub fn send_signal(&mut self, signal: i32) -> Result<()> {
        let named = Signal::from_named_raw(signal)
            .ok_or_else(|| Error::misuse(format!("there is no signal {signal}")))?;
        Ok(self.process.send_signal(named)?)
    }

    /// Asks it to end, by SIGTERM.
    ///
    /// # Errors
    /// Those of [`send_signal`](Self::send_signal).
    pub fn terminate(&mut self) -> Result<()> {
        Ok(self.process.send_signal(Signal::TERM)?)
    }

    /// Ends it, by SIGKILL; [`wait`](Self::wait) tells when it has ended.
    ///
    /// # Errors
    /// Those of [`send_signal`](Self::send_signal).
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.process.send_signal(Signal::KILL)?)
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Process { status, .. } = &self.process;
        f.debug_struct("Child").field("id", &self.id()).field("status", status).finish()
    }
}

/// The process itself.
struct Process {
    /// `None` from its drop on.
    child: Option<process::Child>,
    pidfd: Option<OwnedFd>,
    status: Option<ExitStatus>,
    kill_on_drop: bool,
}

impl Process {
    fn new(child: process::Child, kill_on_drop: bool) -> Self {
        // It has not been waited for, so the number is its own. Without a descriptor, whatever the
        // reason, a thread waits.
        let pidfd = pid(&child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Process { child: Some(child), pidfd, status: None, kill_on_drop }
    }

    fn child(&self) -> &process::Child {
        self.child.as_ref().expect("it is taken at the drop alone")
    }

    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.as_mut().map_or(Ok(None), process::Child::try_wait)?;
        }
        Ok(self.status)
    }

    async fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            match &self.pidfd {
                Some(pidfd) => ended(pidfd).await?,
                None => wait_in_thread(pid(self.child())).await?,
            }
        }
    }

    fn send_signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        let sent = match (&self.pidfd, pid(self.child())) {
            (Some(pidfd), _) => pidfd_send_signal(pidfd, signal),
            // It has not been asked for its status, so the number is still its own.
            (None, Some(pid)) => rustix::process::kill_process(pid, signal),
            (None, None) => Ok(()),
        };
        match sent {
            Err(Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Kills the child if something has gone wrong, and waits for its end.
    async fn unless_killed<T>(&mut self, done: Result<T>) -> Result<T> {
        if done.is_err() {
            self.send_signal(Signal::KILL)?;
            disable_cancellation(self.wait()).await?;
        }
        done
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.kill_on_drop {
            let _ = self.send_signal(Signal::KILL); // It has ended, or is not ours to kill.
        }
        if let Some(mut child) = self.child.take() {
            let see_off = thread::Builder::new().name("curio-reaper".into());
            // Without a thread, it is a zombie from its end to that of the program.
            drop(see_off.spawn(move || drop(child.wait())));
        }
    }
}

fn pid(child: &process::Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Waits until the process of a pidfd has ended. For bindings, which start processes by themselves.
///
/// # Errors
/// Those of [`wait_readable`].
#[doc(hidden)]
pub async fn ended(pidfd: impl AsFd) -> Result<()> {
    let _outside = Outside::new();
    wait_readable(pidfd).await
}

/// The same by a thread, which leaves the status to who will ask for it.
async fn wait_in_thread(pid: Option<Pid>) -> Result<()> {
    static WAITERS: LazyLock<Pool> = LazyLock::new(|| Pool::new(usize::MAX, "curio-child"));
    let Some(pid) = pid else { return Ok(()) };
    let waited = WAITERS
        .run(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options))
        })
        .await?;
    Ok(waited.map(drop)?)
}

/// Writes and then ends standard input.
async fn feed(stdin: &mut Option<Stream<Pipe>>, rest: &mut Rest) -> Result<()> {
    if let Some(stream) = stdin {
        quiet(stream.flush().await)?;
        let pipe = stream.get_ref();
        // By single writes, so that it is known how much was written whatever ends the waiting.
        while let data @ [_, ..] = rest.bytes() {
            match pipe.source().run(Direction::Write, |_| pipe.try_write(data)).await {
                Ok(count) => rest.start += count,
                Err(error) if is_broken_pipe(&error) => break,
                Err(error) => return Err(error),
            }
        }
    }
    *rest = Rest::default();
    *stdin = None;
    Ok(())
}

/// What `communicate` has still to write.
#[derive(Default)]
struct Rest {
    all: Vec<u8>,
    /// So much is written.
    start: usize,
}

impl Rest {
    fn bytes(&self) -> &[u8] {
        &self.all[self.start..]
    }

    fn add(&mut self, mut more: Vec<u8>) {
        if self.bytes().is_empty() {
            *self = Rest { all: more, start: 0 };
        } else {
            self.all.append(&mut more);
        }
    }
}

/// A child need not read all that it is given.
fn quiet(written: Result<()>) -> Result<()> {
    written.or_else(|error| if is_broken_pipe(&error) { Ok(()) } else { Err(error) })
}

fn is_broken_pipe(error: &Error) -> bool {
    error.as_io().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn until_end(stream: Option<&Stream<Pipe>>) -> Result<()> {
    match stream {
        Some(stream) => stream.reader().until_end().await,
        None => Ok(()),
    }
}

fn take_all(stream: Option<&Stream<Pipe>>) -> Vec<u8> {
    stream.map(|stream| stream.reader().take_all(<[u8]>::to_vec)).unwrap_or_default()
}

/// Waits for all three, or for the first error.
async fn all(
    one: impl Future<Output = Result<()>>,
    another: impl Future<Output = Result<()>>,
    last: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (mut one, mut another, mut last) = (pin!(one), pin!(another), pin!(last));
    let mut done = [false; 3];
    poll_fn(|cx| {
        let futures: [Pin<&mut dyn Future<Output = Result<()>>>; 3] =
            [one.as_mut(), another.as_mut(), last.as_mut()];
        for (future, done) in futures.into_iter().zip(&mut done) {
            if !*done && let Poll::Ready(result) = future.poll(cx) {
                result?;
                *done = true;
            }
        }
        if done.contains(&false) { Poll::Pending } else { Poll::Ready(Ok(())) }
    })
    .await
}

/// One end of a pipe. A [`Stream`] over it reads or writes, as the end does.
pub struct Pipe {
    source: Source,
    fd: OwnedFd,
}

impl Pipe {
    /// Takes over one end of a pipe, a FIFO or the like, and puts it into non-blocking mode.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Examples
    ///
    /// ```
    /// use curio::Stream;
    /// use curio::process::Pipe;
    ///
    /// # fn main() -> curio::Result<()> {
    /// curio::run(async {
    ///     let (reader, writer) = std::io::pipe()?;
    ///     let (reader, writer) = (Stream::new(Pipe::new(reader)?), Stream::new(Pipe::new(writer)?));
    ///     writer.write(b"Hello\n").await?;
    ///     assert_eq!(reader.read_line().await?.as_deref(), Some(&b"Hello\n"[..]));
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn new(end: impl Into<OwnedFd>) -> Result<Self> {
        let fd = end.into();
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Pipe { source: Source::new(fd.as_raw_fd()), fd })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Before the descriptor is closed.
        self.source.close();
    }
}

impl Transport for Pipe {
    fn source(&self) -> &Source {
        &self.source
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buffer)?)
    }

    fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.fd, data)?)
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pipe").field(&self.fd.as_raw_fd()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_pidfd_a_thread_waits() {
        crate::run(async {
            for code in [0, 3] {
                let script = format!("exit {code}");
                let mut child = Command::new("sh").args(["-c", &script]).spawn()?;
                child.process.pidfd = None;
                assert_eq!(child.wait().await?.code(), Some(code));
            }
            let mut child = Command::new("sleep").arg("1000").spawn()?;
            child.process.pidfd = None;
            let soon = std::time::Duration::from_millis(1);
            assert!(crate::ignore_after(soon, child.wait()).await?.is_none());
            child.kill()?;
            assert_eq!(child.wait().await?.code(), None);
            Ok(())
        })
        .unwrap();
    }
}
