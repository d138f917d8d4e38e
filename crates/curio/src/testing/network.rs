//! A network that has delays, cuts and faults, for programs on a virtual kernel.
//!
//! *How it works.* Each end of a connection is a true socket, one of a connected pair, whose other socket
//! is the network's. So a program's own side is what it always is: poller, source, socket, stream.
//! What it sends is taken out of the pair by [`Network::pump`], cut into pieces, given times of
//! arrival, and put into the other pair when its time has come. The virtual poller pumps before it
//! looks at the descriptors, and moves the clock to the next arrival when nothing is ready.
//! Everything is drawn from one seed.
//!
//! *Facts.* Unix sockets hand bytes over in the call itself, so a run is the same each time; TCP over the
//! loopback device may be late. A Unix socket gets `ECONNRESET` if its peer is closed with something
//! unread, and the end of the stream if not. Both ends of a pair can be bound to abstract names;
//! a name is free again when its socket is closed.
//!
//! *What they mean for us.* The first byte of each end is a mark, sent when the end is made; the network
//! always leaves the last byte of what it has taken unread. So it can reset a connection, and takes that
//! byte before an orderly end. Addresses are in the sockets' names: the system keeps the
//! table of who listens where.
//!
//! A socket tells of room when a quarter of its buffer is in use, and a message counts whole
//! until its last byte has been taken. So an unread byte of a long message would leave its sender
//! without room for ever; [`some_of`] cuts what is sent into short ones.
//!
//! *Price.* A full buffer is that of Unix sockets: some kilobytes more than was asked for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use slab::Slab;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::error::Result;
use crate::kernel::{Epoll, Event, Kernel, Poller, with_current};
use crate::net::{TcpStream, UdpSocket};
use crate::time::sleep;

/// What an end sends before anything else; the network takes it away.
const MARK: &[u8] = b"!";

/// All names of sockets begin so.
const PREFIX: &[u8] = b"curio-net/";

/// The first of the ports that the network chooses.
const EPHEMERAL: u16 = 49_152;

/// A connection that nobody answers is given up after this time, as Linux does.
const ANSWER_LIMIT: Duration = Duration::from_secs(127);

/// No piece has more bytes.
const LONGEST: usize = 4096;

/// The program's sockets take so many bytes in one call at most.
const LONGEST_WRITE: usize = 1024;

/// And have buffers of this size at least, in which a message of that length is less than a quarter.
const LEAST_BUFFER: usize = 8192;

/// How many networks there are in the process.
static NETWORKS: AtomicUsize = AtomicUsize::new(0);

/// How many datagrams may be on their way in one direction.
const DATAGRAMS: usize = 1000;

/// A simulated network, for the programs of virtual kernels.
///
/// In a kernel made with [`kernel`](Network::kernel), [`TcpListener`](crate::net::TcpListener),
/// [`TcpStream`], [`lookup`](crate::net::lookup) and all that is made of them are on this network
/// instead of the machine's: there is nobody else on it, every address is ours, and so is every port.
/// Bytes take their time, come in pieces of any length, and wait where the network is cut. Unless it
/// [resets](Network::set_resets) a connection, all of them arrive, in order.
///
/// All is drawn by the seed, and time is virtual: the same program with the same seed runs in the
/// same way. Unix sockets and pipes are not on the network.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use curio::net::{TcpListener, TcpStream};
/// use curio::testing::Network;
///
/// # fn main() -> curio::Result<()> {
/// let network = Network::seeded(1);
/// network.set_delay(Duration::from_secs(1)..=Duration::from_secs(1));
/// network.kernel().run(async {
///     let listener = TcpListener::bind("10.0.0.1:80")?;
///     let server = curio::spawn(async move {
///         let (client, _address) = listener.accept().await?;
///         client.send_all(b"Hello").await
///     });
///     let stream = TcpStream::connect("10.0.0.1:80").await?;
///     stream.recv_exact(&mut [0; 5]).await?;
///     // There and back for the connection. The greeting left when the first second was over.
///     assert_eq!(curio::clock()?.as_secs(), 2);
///     server.join().await
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Network(Rc<Inside>);

struct Inside {
    /// Its own among those of the machine.
    name: String,
    seed: u64,
    random: Cell<u64>,
    conditions: RefCell<Conditions>,
    /// Nothing passes between these hosts; `None` is any.
    cuts: RefCell<Vec<(IpAddr, Option<IpAddr>)>>,
    hosts: RefCell<Vec<String>>,
    next_port: Cell<u16>,
    next_name: Cell<u64>,
    links: RefCell<Slab<Link>>,
    /// Says what comes from the program.
    arrivals: Epoll,
    events: RefCell<Vec<Event>>,
}

struct Conditions {
    delay: RangeInclusive<Duration>,
    loss: f64,
    duplicates: f64,
    resets: f64,
    buffer: usize,
}

/// A connection, or two sockets for datagrams.
struct Link {
    ends: [End; 2],
    /// `flows[0]` goes from `ends[0]` to `ends[1]`.
    flows: [Flow; 2],
    datagrams: bool,
}

/// The network's side of one end.
struct End {
    /// `None`: it has been closed, and the program's side with it.
    socket: Option<Socket>,
    address: SocketAddr,
    /// The mark has not come yet.
    fresh: bool,
    /// There may be something to take.
    news: bool,
    /// The program will send no more.
    hangup: bool,
}

/// What is on its way in one direction.
#[derive(Default)]
struct Flow {
    pieces: VecDeque<Piece>,
    bytes: usize,
    /// When the last piece arrives: bytes do not overtake each other.
    latest: u64,
    /// The end, or a reset, is on its way: nothing more will be.
    closed: bool,
    /// The end has arrived.
    ended: bool,
    /// The receiver has no room; it is asked again at the next pump.
    blocked: bool,
}

struct Piece {
    due: u64,
    what: What,
}

enum What {
    Bytes(Vec<u8>),
    End,
    Reset,
}

impl Network {
    /// A network whose delays, cuts and faults are drawn by `seed`.
    ///
    /// To begin with, each piece takes up to ten milliseconds, nothing is lost and nothing reset.
    ///
    /// # Panics
    /// The system has no descriptor left.
    pub fn seeded(seed: u64) -> Network {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Relaxed);
        NETWORKS.fetch_add(1, Relaxed);
        Network(Rc::new(Inside {
            name: format!("{}.{number}", std::process::id()),
            seed,
            // Not the sequence that the order of tasks is drawn from.
            random: Cell::new(seed ^ 0x006e_6574_776f_726b),
            conditions: RefCell::new(Conditions {
                delay: Duration::ZERO..=Duration::from_millis(10),
                loss: 0.0,
                duplicates: 0.0,
                resets: 0.0,
                buffer: 65_536,
            }),
            cuts: RefCell::default(),
            hosts: RefCell::default(),
            next_port: Cell::new(EPHEMERAL),
            next_name: Cell::new(0),
            links: RefCell::default(),
            arrivals: Epoll::new().expect("there is a descriptor left"),
            events: RefCell::default(),
        }))
    }

    /// A kernel on a virtual clock that has this network, and draws the next task to run by the
    /// network's seed.
    pub fn kernel(&self) -> Kernel {
        super::build(Kernel::builder().run_order_seed(self.0.seed), Some(self.clone()))
    }

    /// How long a piece may take. Bytes of one connection do not overtake each other; datagrams do.
    pub fn set_delay(&self, delay: RangeInclusive<Duration>) {
        self.0.conditions.borrow_mut().delay = delay;
    }

    /// The share of datagrams that get lost, from 0.0 to 1.0.
    pub fn set_loss(&self, share: f64) {
        self.0.conditions.borrow_mut().loss = share;
    }

    /// The share of datagrams that arrive twice.
    pub fn set_duplicates(&self, share: f64) {
        self.0.conditions.borrow_mut().duplicates = share;
    }

    /// The share of pieces with which their connection ends: both sides see a reset, in Rust
    /// an error of kind `ConnectionReset`, and what is on its way is lost.
    pub fn set_resets(&self, share: f64) {
        self.0.conditions.borrow_mut().resets = share;
    }

    /// How many bytes may be on their way in one direction of a connection made from now on. Who
    /// sends more has to wait. What the sockets themselves hold comes on top, some 16 KiB, or
    /// more if this is more.
    pub fn set_buffer(&self, bytes: usize) {
        self.0.conditions.borrow_mut().buffer = bytes.max(1);
    }

    /// The address of a host, the same whenever it is asked for: that of a number, `127.0.0.1` for
    /// "localhost" and "", and one of `10.0.0.0/8` for any other name.
    pub fn host(&self, name: &str) -> IpAddr {
        if let Ok(address) = name.parse() {
            return address;
        }
        if matches!(name, "" | "localhost") {
            return Ipv4Addr::LOCALHOST.into();
        }
        let mut hosts = self.0.hosts.borrow_mut();
        let place = hosts.iter().position(|host| host == name).unwrap_or_else(|| {
            hosts.push(name.to_owned());
            hosts.len() - 1
        });
        let [_, a, b, c] = (place as u32 + 1).to_be_bytes();
        Ipv4Addr::new(10, a, b, c).into()
    }

    /// Cuts the network between two hosts, or one and all others (`None`). What is under way there
    /// waits until the cut [heals](Network::heal); who connects gets no answer.
    ///
    /// A client's host is `localhost`, unless it connects from another (`ConnectOptions::source`).
    pub fn cut(&self, one: IpAddr, other: Option<IpAddr>) {
        self.0.cuts.borrow_mut().push((one, other));
    }

    /// Ends all cuts.
    pub fn heal(&self) {
        self.0.cuts.borrow_mut().clear();
    }

    /// Resets every connection at once.
    pub fn reset_all(&self) {
        let mut links = self.0.links.borrow_mut();
        for (_, link) in links.iter_mut().filter(|(_, link)| !link.datagrams) {
            link.reset();
        }
    }

    /// Two ends of a connection.
    ///
    /// # Errors
    /// The system's, such as having no descriptor left.
    pub fn pair(&self) -> Result<(TcpStream, TcpStream)> {
        let (one, other) = self.raw_pair(false)?;
        Ok((TcpStream::of(one)?, TcpStream::of(other)?))
    }

    /// Two sockets for datagrams that are connected with each other: `send` and `recv` work. What
    /// is sent may be [lost](Network::set_loss), [doubled](Network::set_duplicates), and overtaken;
    /// what finds the receiver's queue of ten full is lost as well.
    ///
    /// # Errors
    /// The system's, such as having no descriptor left.
    pub fn datagrams(&self) -> Result<(UdpSocket, UdpSocket)> {
        let (one, other) = self.raw_pair(true)?;
        Ok((UdpSocket::of(one)?, UdpSocket::of(other)?))
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.port())
    }

    fn port(&self) -> u16 {
        let port = self.0.next_port.get();
        self.0.next_port.set(port.checked_add(1).unwrap_or(EPHEMERAL));
        port
    }

    fn draw(&self, below: u64) -> u64 {
        let mut random = self.0.random.get();
        let drawn = crate::kernel::splitmix(&mut random);
        self.0.random.set(random);
        drawn % below.max(1)
    }

    fn chance(&self, share: f64) -> bool {
        share > 0.0 && (self.draw(1 << 32) as f64) < share * (1u64 << 32) as f64
    }

    fn draw_delay(&self) -> Duration {
        let conditions = self.0.conditions.borrow();
        let (low, high) = (*conditions.delay.start(), *conditions.delay.end());
        let span = high.saturating_sub(low).as_nanos() as u64;
        drop(conditions);
        low + Duration::from_nanos(self.draw(span.saturating_add(1)))
    }

    /// How far one piece may be behind the one before it, in nanoseconds: at most a quarter of the
    /// difference that delays can have.
    fn gap(&self) -> u64 {
        let conditions = self.0.conditions.borrow();
        let span = conditions.delay.end().saturating_sub(*conditions.delay.start());
        drop(conditions);
        self.draw(span.as_nanos() as u64 / 4)
    }

    fn is_cut(&self, one: IpAddr, other: IpAddr) -> bool {
        self.0.cuts.borrow().iter().any(|cut| match *cut {
            (host, None) => host == one || host == other,
            (host, Some(peer)) => (host, peer) == (one, other) || (host, peer) == (other, one),
        })
    }

    /// The name of who listens at an address.
    fn listener_name(&self, address: SocketAddr) -> io::Result<SockAddr> {
        let name = format!("\0curio-net/{}/{address}", self.0.name);
        SockAddr::unix(std::ffi::OsStr::new(&name))
    }

    /// A name that says an address, for one socket of several.
    fn name(&self, address: SocketAddr) -> io::Result<SockAddr> {
        let number = self.0.next_name.get();
        self.0.next_name.set(number + 1);
        let name = format!("\0curio-net/{}/{address}/{number}", self.0.name);
        SockAddr::unix(std::ffi::OsStr::new(&name))
    }

    /// An end at `address` that is connected to `peer`: the program's socket, and ours.
    fn end(&self, address: SocketAddr, peer: SocketAddr, kind: Type) -> io::Result<(Socket, End)> {
        let (program, ours) = Socket::pair(Domain::UNIX, kind, None)?;
        program.bind(&self.name(address)?)?;
        ours.bind(&self.name(peer)?)?;
        Ok((program, End::new(ours, address)?))
    }

    /// Makes a stream's socket ready for the program.
    fn mark(&self, socket: impl AsFd) -> io::Result<()> {
        let buffer = self.0.conditions.borrow().buffer.max(LEAST_BUFFER);
        rustix::net::sockopt::set_socket_send_buffer_size(socket.as_fd(), buffer)?;
        send(socket.as_fd(), MARK, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    fn link(&self, one: End, other: End, datagrams: bool) -> io::Result<()> {
        let mut links = self.0.links.borrow_mut();
        let entry = links.vacant_entry();
        for (side, end) in [&one, &other].into_iter().enumerate() {
            let socket = end.socket.as_ref().expect("it is new");
            if !datagrams {
                socket.set_send_buffer_size(self.0.conditions.borrow().buffer)?;
            }
            self.0.arrivals.add(socket.as_fd(), (2 * entry.key() + side) as u64)?;
        }
        entry.insert(Link { ends: [one, other], flows: Default::default(), datagrams });
        Ok(())
    }

    // What the sockets ask for.

    /// A listening socket.
    pub(crate) fn listen(&self, mut address: SocketAddr) -> io::Result<Socket> {
        let chosen = address.port() == 0;
        loop {
            if chosen {
                address.set_port(self.port());
            }
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            match socket.bind(&self.listener_name(address)?) {
                Err(error) if chosen && error.kind() == ErrorKind::AddrInUse => continue,
                bound => bound?,
            }
            socket.listen(1024)?;
            return Ok(socket);
        }
    }

    /// Connects to `address`, which takes as long as a connection takes to be made.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<io::Result<Socket>> {
        let here = |address: SocketAddr| match address {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let mut source = source.unwrap_or_else(|| SocketAddr::new(here(address), 0));
        if source.ip().is_unspecified() {
            source.set_ip(here(source));
        }
        if source.port() == 0 {
            source.set_port(self.port());
        }
        let mut pause = Duration::from_secs(1);
        let mut waited = Duration::ZERO;
        loop {
            sleep(self.draw_delay()).await?;
            if !self.is_cut(source.ip(), address.ip()) {
                match self.dial(source, address) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {} // a full backlog
                    connected => {
                        sleep(self.draw_delay()).await?; // the answer's way back
                        return Ok(connected);
                    }
                }
            }
            if waited >= ANSWER_LIMIT {
                return Ok(Err(Errno::TIMEDOUT.into()));
            }
            sleep(pause).await?;
            waited += pause;
            pause *= 2;
        }
    }

    fn dial(&self, source: SocketAddr, address: SocketAddr) -> io::Result<Socket> {
        let far = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        far.set_nonblocking(true)?;
        far.bind(&self.name(source)?)?;
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let at_any = SocketAddr::new(any, address.port());
        match far.connect(&self.listener_name(address)?) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                far.connect(&self.listener_name(at_any)?)?;
            }
            connected => connected?,
        }
        let (program, end) = self.end(source, address, Type::STREAM)?;
        self.mark(&program)?;
        self.link(end, End::new(far, address)?, false)?;
        Ok(program)
    }

    // What the poller asks for.

    /// Takes what the program has sent, and delivers what has arrived by `now`.
    pub(crate) fn pump(&self, now: u64) {
        let mut links = self.0.links.borrow_mut();
        let mut events = self.0.events.borrow_mut();
        // An error would be that of a descriptor which is ours and valid.
        let _ = self.0.arrivals.wait(&mut events, Some(Duration::ZERO));
        for event in events.drain(..) {
            let Some(link) = links.get_mut(event.token as usize / 2) else { continue };
            let end = &mut link.ends[event.token as usize % 2];
            end.news |= event.readable;
            end.hangup |= event.hangup;
        }
        let mut over = Vec::new();
        for (key, link) in links.iter_mut() {
            let cut = self.is_cut(link.ends[0].address.ip(), link.ends[1].address.ip());
            let mut moved = true;
            while moved {
                moved = false;
                for side in 0..2 {
                    moved |= link.ends[side].news && link.take(self, side, now);
                    moved |= !cut && link.deliver(side, now);
                }
            }
            if link.over() {
                over.push(key);
            }
        }
        for key in over {
            links.remove(key).close();
        }
    }

    /// When the next piece arrives, if time is all it needs.
    pub(crate) fn next_arrival(&self) -> Option<u64> {
        let links = self.0.links.borrow();
        let open = links
            .iter()
            .filter(|(_, link)| !self.is_cut(link.ends[0].address.ip(), link.ends[1].address.ip()));
        let flows = open.flat_map(|(_, link)| link.flows.iter().filter(|flow| !flow.blocked));
        flows.filter_map(|flow| Some(flow.pieces.front()?.due)).min()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        NETWORKS.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("seed", &self.0.seed)
            .field("links", &self.0.links.borrow().len())
            .finish_non_exhaustive()
    }
}

impl End {
    fn new(socket: Socket, address: SocketAddr) -> io::Result<End> {
        socket.set_nonblocking(true)?;
        Ok(End { socket: Some(socket), address, fresh: true, news: true, hangup: false })
    }

    /// Takes at most `room` bytes, and leaves one of those it has taken.
    fn take(&mut self, room: usize) -> io::Result<Vec<u8>> {
        let Some(socket) = &self.socket else { return Ok(Vec::new()) };
        let there = rustix::io::ioctl_fionread(socket.as_fd())? as usize;
        if there > 0 {
            self.fresh = false;
        }
        let new = there.saturating_sub(1);
        let taken = new.min(room);
        self.news = taken < new;
        if taken == 0 {
            return Ok(Vec::new());
        }
        let mut buffer = vec![0; taken + 1];
        recv(socket.as_fd(), &mut buffer[..], RecvFlags::PEEK)?;
        recv(socket.as_fd(), &mut vec![0; taken][..], RecvFlags::empty())?;
        buffer.remove(0);
        Ok(buffer)
    }

    /// Closes it in good order.
    fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = recv(socket.as_fd(), &mut [0; 2], RecvFlags::empty());
        }
    }
}

impl Link {
    /// Takes what the program has sent at one side; tells if that was anything.
    fn take(&mut self, network: &Network, side: usize, now: u64) -> bool {
        if self.datagrams {
            return self.take_datagrams(network, side, now);
        }
        let (end, flow) = (&mut self.ends[side], &mut self.flows[side]);
        let (buffer, resets) = {
            let conditions = network.0.conditions.borrow();
            (conditions.buffer, conditions.resets)
        };
        let mut data = end.take(buffer.saturating_sub(flow.bytes)).unwrap_or_default();
        let taken = !data.is_empty();
        while !data.is_empty() && !flow.closed {
            let most = data.len().min(LONGEST);
            let length =
                if network.draw(2) == 0 { most } else { 1 + network.draw(most as u64) as usize };
            let rest = data.split_off(length);
            let due = flow.due(network, now);
            flow.bytes += data.len();
            flow.pieces.push_back(Piece { due, what: What::Bytes(data) });
            if network.chance(resets) {
                flow.push_last(due, What::Reset);
            }
            data = rest;
        }
        if !end.hangup || end.news || flow.closed {
            return taken;
        }
        // The program has closed, or ended its direction; or it has closed with something unread.
        let error = end.socket.as_ref().and_then(|socket| socket.take_error().ok().flatten());
        let due = flow.due(network, now);
        flow.push_last(due, if error.is_some() { What::Reset } else { What::End });
        true
    }

    fn take_datagrams(&mut self, network: &Network, side: usize, now: u64) -> bool {
        let (end, flow) = (&mut self.ends[side], &mut self.flows[side]);
        let (loss, duplicates) = {
            let conditions = network.0.conditions.borrow();
            (conditions.loss, conditions.duplicates)
        };
        let Some(socket) = &end.socket else { return false };
        let mut taken = false;
        let mut buffer = vec![0; 65_536];
        end.news = false;
        while let Ok((count, _)) = recv(socket.as_fd(), &mut buffer[..], RecvFlags::empty()) {
            taken = true;
            if network.chance(loss) {
                continue;
            }
            for _ in 0..1 + usize::from(network.chance(duplicates)) {
                let due = now + network.draw_delay().as_nanos() as u64;
                let place = flow.pieces.partition_point(|piece| piece.due <= due);
                if flow.pieces.len() < DATAGRAMS {
                    let what = What::Bytes(buffer[..count].to_vec());
                    flow.pieces.insert(place, Piece { due, what });
                }
            }
        }
        taken
    }

    /// Delivers what has arrived from one side, at the other; tells if that was anything.
    fn deliver(&mut self, from: usize, now: u64) -> bool {
        self.flows[from].blocked = false;
        let mut moved = false;
        while let Some(piece) = self.flows[from].pieces.front_mut()
            && piece.due <= now
        {
            let end = &mut self.ends[1 - from];
            let Some(socket) = &end.socket else {
                self.flows[from].clear();
                return moved;
            };
            match &mut piece.what {
                What::Bytes(data) => {
                    let sent = send(socket.as_fd(), data, SendFlags::NOSIGNAL);
                    let count = match sent {
                        Ok(count) => count,
                        Err(Errno::AGAIN) if !self.datagrams => {
                            self.flows[from].blocked = true;
                            return moved;
                        }
                        Err(_) if self.datagrams => data.len(), // it is lost
                        Err(_) => {
                            // The program has closed it: that is an error of the sender's.
                            self.flows[from].clear();
                            self.flows[from].ended = true;
                            self.answer_with_reset(from, now);
                            return true;
                        }
                    };
                    data.drain(..count);
                    moved = true;
                    self.flows[from].bytes = self.flows[from].bytes.saturating_sub(count);
                    if !self.flows[from].finish_piece() {
                        continue;
                    }
                    // There is room for more.
                    self.ends[from].news |= !self.datagrams;
                }
                What::End => {
                    let _ = socket.shutdown(Shutdown::Write);
                    self.flows[from].pieces.pop_front();
                    self.flows[from].ended = true;
                    moved = true;
                }
                // Nothing can be reset before it has been accepted.
                What::Reset if end.fresh && !end.hangup => {
                    self.flows[from].blocked = true;
                    return moved;
                }
                What::Reset => {
                    self.reset();
                    return true;
                }
            }
        }
        moved
    }

    /// The program has closed one end, so the other, from which bytes came, is reset.
    fn answer_with_reset(&mut self, from: usize, now: u64) {
        let back = &mut self.flows[1 - from];
        let due = now.max(back.latest);
        back.push_last(due, What::Reset);
    }

    /// Both ends see it.
    fn reset(&mut self) {
        for side in 0..2 {
            // Closed with the byte that was left.
            self.ends[side].socket = None;
            self.flows[side].clear();
        }
    }

    fn over(&self) -> bool {
        if self.datagrams {
            return false;
        }
        let closed = self.ends.iter().all(|end| end.socket.is_none());
        closed || self.flows.iter().all(|flow| flow.ended && flow.pieces.is_empty())
    }

    fn close(mut self) {
        self.ends.iter_mut().for_each(End::close);
    }
}

impl Flow {
    fn due(&mut self, network: &Network, now: u64) -> u64 {
        let arrival = now + network.draw_delay().as_nanos() as u64;
        // Otherwise all would soon arrive together with the slowest.
        let behind = if network.draw(2) == 0 { self.latest } else { self.latest + network.gap() };
        self.latest = arrival.max(behind);
        self.latest
    }

    fn push_last(&mut self, due: u64, what: What) {
        self.pieces.push_back(Piece { due, what });
        self.closed = true;
    }

    /// Whether the first piece has gone whole; then it is taken away.
    fn finish_piece(&mut self) -> bool {
        let whole = matches!(self.pieces.front(), Some(Piece { what: What::Bytes(data), .. })
            if data.is_empty());
        if whole {
            self.pieces.pop_front();
        }
        whole
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
        self.closed = true;
    }
}

/// As much of `data` as a socket of a network takes in one call. Of other sockets', all.
#[doc(hidden)]
pub fn some_of<'a>(socket: BorrowedFd<'_>, data: &'a [u8]) -> &'a [u8] {
    if NETWORKS.load(Relaxed) == 0 || data.len() < 2 {
        return data;
    }
    let Some(network) = network() else { return data };
    let socket = SockRef::from(&socket);
    let ours = socket.local_addr().is_ok_and(|address| address_of(&address).is_some());
    if !ours || socket.r#type().is_ok_and(|kind| kind != Type::STREAM) {
        return data;
    }
    let most = data.len().min(LONGEST_WRITE);
    let short = network.draw(2) == 0;
    &data[..if short { 1 + network.draw(most as u64) as usize } else { most }]
}

/// The network of the kernel that runs in this thread.
#[doc(hidden)]
pub fn network() -> Option<Network> {
    with_current(|core| core.network()).flatten()
}

/// The address that a socket of a network has in its name.
pub(crate) fn address_of(name: &SockAddr) -> Option<SocketAddr> {
    parse_name(name.as_abstract_namespace()?)
}

/// The same, of an abstract name without the zero that it begins with.
#[doc(hidden)]
pub fn parse_name(name: &[u8]) -> Option<SocketAddr> {
    let rest = std::str::from_utf8(name.strip_prefix(PREFIX)?).ok()?;
    rest.split('/').nth(1)?.parse().ok()
}

/// For bindings, whose sockets are descriptors.
#[doc(hidden)]
impl Network {
    pub fn raw_pair(&self, datagrams: bool) -> io::Result<(Socket, Socket)> {
        let kind = if datagrams { Type::DGRAM } else { Type::STREAM };
        let addresses = [self.local(), self.local()];
        let (one, end) = self.end(addresses[0], addresses[1], kind)?;
        let (other, far_end) = self.end(addresses[1], addresses[0], kind)?;
        if !datagrams {
            self.mark(&one)?;
            self.mark(&other)?;
        }
        self.link(end, far_end, datagrams)?;
        Ok((one, other))
    }

    pub fn raw_listen(&self, address: SocketAddr) -> io::Result<Socket> {
        self.listen(address)
    }

    /// What is to be done first with a connection that has been accepted.
    pub fn welcome(&self, accepted: impl AsFd) {
        // If the client has gone, there is nobody to see the mark.
        let _ = self.mark(accepted);
    }
}
