//! Streams of bytes: lines, blocks, and writes that are gathered.
//!
//! A [`Transport`] moves bytes and never waits. Over it, a [`Link`] gathers what is to be sent,
//! and an [`Input`] keeps what was received and nobody has taken yet. [`Stream`] is both, for one
//! owner; a language binding puts several readers and writers over one link.
//!
//! A write that fits is copied, and sent when the task's turn ends: when it next waits, yields or
//! ends. Several small writes are one call of the system then, and one segment on the wire. If the
//! system has no room, the rest goes as soon as it has; writes wait until it has gone.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::panic::Location;
use std::rc::Rc;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::{self, Direction, Flush, Source};
use crate::traps::{YieldNow, at, outside};

/// Something that bytes go through, without waiting.
pub trait Transport {
    /// What tells when to try again.
    #[doc(hidden)]
    fn source(&self) -> &Source;

    /// Reads what there is, at most the buffer's length. 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing yet; the system's.
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Takes some of `data`, at least a byte.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room; the system's.
    fn try_write(&self, data: &[u8]) -> io::Result<usize>;

    /// Sends what the transport itself has kept of earlier writes.
    ///
    /// # Errors
    /// `WouldBlock` if some is left; the system's.
    fn try_flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// Announces to the peer that nothing more will be written, if the transport has a way to;
    /// again is no error. Reading goes on.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room for it; the system's.
    fn try_shutdown(&self) -> io::Result<()> {
        Ok(())
    }

    /// Whether closing the transport announces that, too.
    fn closing_announces(&self) -> bool {
        true
    }

    /// The same connection for code that is written for `futures_io`.
    #[cfg(feature = "futures-io")]
    fn compat(self) -> crate::net::Compat<Self>
    where
        Self: Sized,
    {
        crate::net::Compat::new(self)
    }

    /// Whether a read of less than the buffer's length has taken all there was.
    fn short_read_drains(&self) -> bool {
        false
    }
}

/// More than this is not gathered: the writer waits until it has gone.
const GATHERED: usize = 64 * 1024;

/// From this length on, copying costs more than a call of the system.
const LARGE: usize = 16 * 1024;

/// A transport, and what is on its way to it.
pub struct Link<T> {
    transport: T,
    output: RefCell<Output>,
    /// It will be flushed when the task's turn ends.
    queued: Cell<bool>,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    /// So much has been sent.
    start: usize,
    /// What went wrong when nobody was waiting.
    failure: Option<io::Error>,
}

impl<T: Transport + 'static> Link<T> {
    /// Nothing is on its way yet.
    pub fn new(transport: T) -> Rc<Self> {
        Rc::new(Link { transport, output: RefCell::default(), queued: Cell::new(false) })
    }

    /// What the bytes go through.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    fn source(&self) -> &Source {
        self.transport.source()
    }

    /// How many bytes were written and not sent yet.
    pub fn unsent(&self) -> usize {
        let output = self.output.borrow();
        output.bytes.len() - output.start
    }

    /// Nothing is to be sent before what comes now, and nothing has failed.
    pub fn is_clear(&self) -> bool {
        let output = self.output.borrow();
        output.bytes.is_empty() && output.failure.is_none()
    }

    /// Drops what was not sent, and what nobody was told of.
    pub fn discard(&self) {
        drop(self.output.take());
        self.source().set_flush(None);
    }

    /// Writes all of `data`; also says how much of it the link has taken.
    ///
    /// # Cancellation
    /// What it has taken will be sent.
    pub async fn write(self: &Rc<Self>, data: &[u8]) -> (usize, Result<()>) {
        match self.gather(data).await {
            Ok(true) => (data.len(), Ok(())),
            Ok(false) => self.send_all(data).await,
            Err(error) => (0, Err(error)),
        }
    }

    /// Keeps `data` until the task's turn ends, if that is soon and it is not much.
    async fn gather(self: &Rc<Self>, data: &[u8]) -> Result<bool> {
        self.source().fd()?;
        self.source().alone(Direction::Write)?;
        if let Some(failure) = self.output.borrow_mut().failure.take() {
            return Err(failure.into());
        }
        if data.len() >= LARGE
            || self.unsent() + data.len() > GATHERED
            || !self.source().ready(Direction::Write)
        {
            return Ok(false);
        }
        if kernel::exhausted() {
            YieldNow::new().await?;
        }
        self.output.borrow_mut().bytes.extend_from_slice(data);
        if !self.queued.get() {
            let queued = kernel::with_current(|core| core.flush_later(self.clone()));
            queued.ok_or_else(|| outside("write"))?;
            self.queued.set(true);
        }
        Ok(true)
    }

    /// Sends all of `data`, after what was written before; says how much was sent.
    pub async fn send_all(self: &Rc<Self>, data: &[u8]) -> (usize, Result<()>) {
        let mut sent = 0;
        while sent < data.len() {
            match self.send(&data[sent..]).await {
                Ok(count) => sent += count,
                Err(error) => return (sent, Err(error)),
            }
        }
        // What the transport has kept is sent, too.
        (sent, self.flush().await)
    }

    /// Sends some of `data`, after what was written before.
    pub async fn send(self: &Rc<Self>, data: &[u8]) -> Result<usize> {
        if !self.is_clear() {
            self.flush().await?;
        }
        self.source().run(Direction::Write, |_| self.transport.try_write(data)).await
    }

    /// Waits until all that was written has been sent.
    ///
    /// # Errors
    /// What went wrong with it, also if that was when nobody waited.
    pub async fn flush(self: &Rc<Self>) -> Result<()> {
        loop {
            if self.try_flush()? {
                return Ok(());
            }
            self.source().wait_alone(Direction::Write).await?;
        }
    }

    /// Sends what can be sent now; whether that was all.
    pub fn try_flush(self: &Rc<Self>) -> io::Result<bool> {
        // Taken out, so that no borrow is held while the transport works.
        let mut output = self.output.take();
        if let Some(failure) = output.failure.take() {
            *self.output.borrow_mut() = output;
            return Err(failure);
        }
        let sent = loop {
            let rest = &output.bytes[output.start..];
            let tried = if rest.is_empty() {
                break self.transport.try_flush();
            } else {
                self.transport.try_write(rest)
            };
            match tried {
                Ok(count) => output.start += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        match sent {
            Ok(()) => {
                self.source().set_flush(None);
                output.bytes.clear();
                output.start = 0;
                if output.bytes.capacity() <= GATHERED {
                    SPARE.with(|spare| spare.replace(output.bytes));
                }
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.source().clear(Direction::Write);
                output.bytes.drain(..output.start);
                output.start = 0;
                // The transport may have called somebody who has written.
                output.bytes.append(&mut self.output.borrow_mut().bytes);
                *self.output.borrow_mut() = output;
                let later: Rc<dyn Flush> = self.clone();
                self.source().set_flush(Some(Rc::downgrade(&later)));
                Ok(false)
            }
            // Nothing more can be sent: what is left goes with the error.
            Err(error) => {
                self.source().set_flush(None);
                Err(error)
            }
        }
    }
}

impl<T: Transport + 'static> Flush for Link<T> {
    fn flush(self: Rc<Self>) {
        self.queued.set(false);
        if let Err(error) = self.try_flush() {
            self.output.borrow_mut().failure = Some(error);
        }
    }
}

thread_local! {
    /// A buffer for what is to be sent: a link has one only while it has something.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };

    /// A buffer to receive in: an input has one only while it has something.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How much is read at once, at least.
const CHUNK: usize = 64 * 1024;

/// What was received and not taken yet.
#[derive(Default)]
pub struct Input {
    /// All initialised; what counts is between `start` and `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// No end of a line before this.
    searched: usize,
}

impl Input {
    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes the first `count` bytes away.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        self.searched = self.start;
        if self.start == self.end {
            (self.start, self.end, self.searched) = (0, 0, 0);
            give_back(std::mem::take(&mut self.buffer));
        } else {
            self.settle();
        }
    }

    /// Puts bytes behind those that are there.
    pub fn append(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// The length of the first line, its end included.
    fn line(&mut self) -> Option<usize> {
        let found = memchr::memchr(b'\n', &self.buffer[self.searched..self.end]);
        match found {
            Some(place) => Some(self.searched + place + 1 - self.start),
            None => {
                self.searched = self.end;
                None
            }
        }
    }

    /// Room for `wanted` bytes, and at least a chunk, behind those that are there.
    fn room(&mut self, wanted: usize) -> &mut [u8] {
        let (length, wanted) = (self.end - self.start, wanted.max(CHUNK));
        if self.buffer.len() - self.end < wanted.min(CHUNK) {
            let mut larger = SCRATCH.take();
            if larger.len() < length + wanted {
                // Doubled, so that a long block is not copied at each read.
                let size = (length + wanted).max(self.buffer.len().saturating_mul(2));
                larger = vec![0; size];
            }
            larger[..length].copy_from_slice(&self.buffer[self.start..self.end]);
            self.searched -= self.start;
            (self.start, self.end) = (0, length);
            self.buffer = larger;
        }
        &mut self.buffer[self.end..]
    }

    /// Says that `count` bytes have been put into the room.
    fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// Keeps no more memory than a stream that waits needs.
    fn settle(&mut self) {
        let length = self.end - self.start;
        if length == 0 {
            self.consume(0);
        } else if self.buffer.len() >= CHUNK && length < self.buffer.len() / 4 {
            let kept = self.bytes().to_vec();
            self.searched -= self.start;
            (self.start, self.end) = (0, length);
            give_back(std::mem::replace(&mut self.buffer, kept));
        }
    }
}

fn give_back(buffer: Vec<u8>) {
    const MOST: usize = 1024 * 1024;
    if buffer.len() >= CHUNK && buffer.len() <= MOST {
        SCRATCH.set(buffer);
    }
}

/// The reading end of a link.
pub struct Reader<T> {
    link: Rc<Link<T>>,
    input: RefCell<Input>,
}

impl<T: Transport + 'static> Reader<T> {
    /// Nothing has been read yet.
    pub fn new(link: Rc<Link<T>>) -> Self {
        Reader { link, input: RefCell::default() }
    }

    /// What it reads from.
    pub fn link(&self) -> &Rc<Link<T>> {
        &self.link
    }

    /// What was received and not taken yet. Not to be borrowed across an await.
    pub fn input(&self) -> &RefCell<Input> {
        &self.input
    }

    /// Waits for more bytes; 0 is the end.
    async fn fill(&self, wanted: usize) -> Result<usize> {
        let transport = &self.link.transport;
        if !transport.source().ready(Direction::Read) {
            self.input.borrow_mut().settle();
        }
        let read = |_: BorrowedFd<'_>| {
            // Taken out, so that no borrow is held while the transport works.
            let mut input = self.input.take();
            let room = input.room(wanted);
            let most = room.len();
            let read = transport.try_read(room);
            if let Ok(count) = read {
                input.filled(count);
                if (1..most).contains(&count) && transport.short_read_drains() {
                    transport.source().drained();
                }
            } else {
                input.settle();
            }
            *self.input.borrow_mut() = input;
            read
        };
        self.link.source().run(Direction::Read, read).await
    }

    /// Lets others go first now and then, also if everything is there.
    async fn turn(&self) -> Result<()> {
        self.link.source().fd()?;
        self.link.source().alone(Direction::Read)?;
        if kernel::exhausted() { YieldNow::new().await } else { Ok(()) }
    }

    /// Hands `take` what is there, at most `most` bytes; waits if nothing is. Empty is the end.
    ///
    /// `take` runs under a borrow: it must not call foreign code.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn some<R>(&self, most: usize, take: impl FnOnce(&[u8]) -> R) -> Result<R> {
        if most > 0 && self.input.borrow().bytes().is_empty() {
            self.fill(most.min(16 * CHUNK)).await?;
        } else {
            self.turn().await?;
        }
        let mut input = self.input.borrow_mut();
        let count = most.min(input.bytes().len());
        let taken = take(&input.bytes()[..count]);
        input.consume(count);
        Ok(taken)
    }

    /// Hands `take` the next line, with its end; the last one may have none. Empty is the end.
    ///
    /// `take` runs under a borrow: it must not call foreign code.
    ///
    /// # Errors
    /// [`is_too_long`](Error::is_too_long) beyond `limit` bytes; they stay where they are.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn line<R>(&self, limit: usize, take: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let mut ended = false;
        if !self.input.borrow().bytes().is_empty() {
            self.turn().await?;
        }
        loop {
            {
                let mut input = self.input.borrow_mut();
                let length = input.bytes().len();
                let line = input.line().or(ended.then_some(length));
                if line.unwrap_or(length) > limit {
                    let what = if line.is_some() { "has" } else { "has no end within" };
                    let count = line.unwrap_or(length);
                    let message = format!(
                        "the line {what} {count} bytes, and the stream's limit for lines is {limit}"
                    );
                    return Err(Error::new(ErrorKind::TooLong(message)));
                }
                if let Some(count) = line {
                    let taken = take(&input.bytes()[..count]);
                    input.consume(count);
                    return Ok(taken);
                }
            }
            ended = self.fill(0).await? == 0;
        }
    }

    /// Hands `take` exactly `count` bytes.
    ///
    /// `take` runs under a borrow: it must not call foreign code.
    ///
    /// # Errors
    /// `UnexpectedEof` if the stream ends before.
    ///
    /// # Cancellation
    /// What was received stays in the stream.
    pub async fn exactly<R>(&self, count: usize, take: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.turn().await?;
        loop {
            let there = {
                let mut input = self.input.borrow_mut();
                if input.bytes().len() >= count {
                    let taken = take(&input.bytes()[..count]);
                    input.consume(count);
                    return Ok(taken);
                }
                input.bytes().len()
            };
            if self.fill((count - there).min(16 * CHUNK)).await? == 0 {
                let message = format!("the stream ended after {there} of {count} bytes");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message).into());
            }
        }
    }

    /// Hands `take` everything up to the end of the stream.
    ///
    /// `take` runs under a borrow: it must not call foreign code.
    ///
    /// # Cancellation
    /// What was received stays in the stream.
    pub async fn rest<R>(&self, take: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.until_end().await?;
        Ok(self.take_all(take))
    }

    /// Waits until everything up to the end of the stream is there.
    pub(crate) async fn until_end(&self) -> Result<()> {
        self.turn().await?;
        while self.fill(4 * CHUNK).await? > 0 {}
        Ok(())
    }

    /// Hands `take` what is there. It runs under a borrow: it must not call foreign code.
    pub(crate) fn take_all<R>(&self, take: impl FnOnce(&[u8]) -> R) -> R {
        let mut input = self.input.borrow_mut();
        let taken = take(input.bytes());
        let count = input.bytes().len();
        input.consume(count);
        taken
    }
}

/// How long a line may be, unless [`Stream::set_line_limit`] says otherwise.
pub const LINE_LIMIT: usize = 1024 * 1024;

/// A connection that is read by lines or blocks, and whose small writes are gathered.
///
/// Reading keeps what came after the line or block for the next call; a stream that waits with
/// nothing kept holds no buffer. One task may read while another writes, so all methods take
/// `&self`.
///
/// # Examples
///
/// ```
/// use curio::Stream;
/// use curio::net::{TcpListener, TcpStream};
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let address = listener.local_addr()?;
///     let server = curio::spawn(async move {
///         let (client, _address) = listener.accept().await?;
///         let stream = Stream::new(client);
///         while let Some(line) = stream.read_line().await? {
///             stream.write(b"You said: ").await?;
///             stream.write(&line).await?; // both in one segment
///         }
///         stream.close().await
///     });
///
///     let stream = Stream::new(TcpStream::connect(address).await?);
///     stream.write(b"Hello\nWorld\n").await?;
///     assert_eq!(stream.read_line().await?.as_deref(), Some(&b"You said: Hello\n"[..]));
///     assert_eq!(stream.read_line().await?.as_deref(), Some(&b"You said: World\n"[..]));
///     stream.close().await?;
///     server.join().await
/// })
/// # }
/// ```
pub struct Stream<T> {
    reader: Reader<T>,
    limit: Cell<usize>,
}

impl<T: Transport + 'static> Stream<T> {
    /// A stream over `transport`.
    pub fn new(transport: T) -> Self {
        Stream { reader: Reader::new(Link::new(transport)), limit: Cell::new(LINE_LIMIT) }
    }

    fn link(&self) -> &Rc<Link<T>> {
        self.reader.link()
    }

    pub(crate) fn reader(&self) -> &Reader<T> {
        &self.reader
    }

    /// What it was made over.
    pub fn get_ref(&self) -> &T {
        self.link().transport()
    }

    /// How long a line may be, in bytes, from now on; [`LINE_LIMIT`] at first.
    pub fn set_line_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Reads what there is, at most the buffer's length, and waits if there is nothing. 0 is the
    /// end of the stream.
    ///
    /// # Errors
    /// The system's; [`is_busy`](Error::is_busy) if another task is reading.
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[track_caller]
    pub fn read<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<usize>> + use<'a, T> {
        at(Location::caller(), async move {
            let most = buffer.len();
            let copy = |bytes: &[u8]| {
                buffer[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            };
            self.reader.some(most, copy).await
        })
    }

    /// Reads the next line, with its `\n`; the last piece may have none. `None` is the end of the
    /// stream.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`is_too_long`](Error::is_too_long) if the line is longer than the
    /// stream's limit: its bytes can still be read otherwise.
    ///
    /// # Cancellation
    /// Nothing is lost.
    #[track_caller]
    pub fn read_line(&self) -> impl Future<Output = Result<Option<Vec<u8>>>> + '_ {
        at(Location::caller(), async {
            let line = self.reader.line(self.limit.get(), <[u8]>::to_vec).await?;
            Ok((!line.is_empty()).then_some(line))
        })
    }

    /// Fills the whole buffer.
    ///
    /// # Errors
    /// As [`read`](Self::read); `UnexpectedEof` if the stream ends first.
    ///
    /// # Cancellation
    /// Nothing is lost: what has come stays in the stream.
    #[track_caller]
    pub fn read_exact<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> impl Future<Output = Result<()>> + use<'a, T> {
        at(Location::caller(), async move {
            let count = buffer.len();
            self.reader.exactly(count, |bytes| buffer.copy_from_slice(bytes)).await
        })
    }

    /// Reads everything up to the end of the stream.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Cancellation
    /// Nothing is lost: what has come stays in the stream.
    #[track_caller]
    pub fn read_to_end(&self) -> impl Future<Output = Result<Vec<u8>>> + '_ {
        at(Location::caller(), self.reader.rest(<[u8]>::to_vec))
    }

    /// Writes all of `data`. What is small is sent together with what the task writes next, when
    /// its turn ends.
    ///
    /// # Errors
    /// The system's, also of earlier writes; [`is_busy`](Error::is_busy) if another task waits to
    /// write.
    ///
    /// # Cancellation
    /// Part may have been taken, and will be sent; how much, [`Error::bytes_done`] says.
    #[track_caller]
    pub fn write<'a>(&'a self, data: &'a [u8]) -> impl Future<Output = Result<()>> + use<'a, T> {
        at(Location::caller(), async move {
            let (done, result) = self.link().write(data).await;
            result.map_err(|error| error.with_progress(done))
        })
    }

    /// Waits until all that was written has been given to the system.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    ///
    /// # Cancellation
    /// Nothing is lost: it will be sent.
    #[track_caller]
    pub fn flush(&self) -> impl Future<Output = Result<()>> + '_ {
        at(Location::caller(), self.link().flush())
    }

    /// Flushes, and announces the end to the peer. Reading goes on; writing does not.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    ///
    /// # Cancellation
    /// What was written will be sent; the end may not be announced.
    #[track_caller]
    pub fn shutdown(&self) -> impl Future<Output = Result<()>> + '_ {
        at(Location::caller(), async {
            self.link().flush().await?;
            let transport = self.get_ref();
            transport.source().run(Direction::Write, |_| transport.try_shutdown()).await
        })
    }

    /// Flushes, announces the end, and closes. (A stream that is dropped sends what the system takes
    /// at once.)
    ///
    /// # Errors
    /// As [`flush`](Self::flush); it is closed all the same.
    ///
    /// # Cancellation
    /// It is closed; what was not sent is lost.
    #[track_caller]
    pub fn close(self) -> impl Future<Output = Result<()>> {
        at(Location::caller(), async move {
            self.link().flush().await?;
            if self.get_ref().closing_announces() { Ok(()) } else { self.shutdown().await }
        })
    }
}
