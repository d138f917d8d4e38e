//! What the benchmark programs share: the command line, the clocks, the report
//! and a listening socket. Everything measured is in the programs themselves, in
//! loops of the same shape for every runtime.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::time::{ClockId, clock_gettime};

pub mod tls;

/// Longer than any benchmark runs: the deadline of what must not happen.
pub const FAR: Duration = Duration::from_secs(1_000);

/// The words of the command line: a command and its numbers.
#[derive(Debug)]
pub struct Command {
    /// The sub-command.
    pub name: String,
    numbers: Vec<usize>,
}

impl Command {
    /// Reads the command line of a benchmark program; a mistake ends the program.
    #[must_use]
    pub fn from_args() -> Self {
        let mut words = std::env::args().skip(1);
        let name = words.next().unwrap_or_default();
        let numbers = words
            .map(|word| word.parse().unwrap_or_else(|_| fail(&format!("{word}: not a number"))))
            .collect();
        Self { name, numbers }
    }

    /// The number at `place`, or its default.
    #[must_use]
    pub fn number(&self, place: usize, default: usize) -> usize {
        self.numbers.get(place).copied().unwrap_or(default)
    }

    /// Ends the program: there is no such sub-command.
    pub fn unknown(&self) -> ! {
        fail(&format!(
            "unknown command {:?}; there are: echo [BUFFER], lines [BUFFER], tls [BUFFER], \
             udp [BUFFER], switch [TASKS] [COUNT], \
             spawn_join [N], spawn_many [N], timeout [N], cancel [N], sleepers [N], \
             queue_pingpong [N], queue_bounded [SIZE] [N], lock_free [N], \
             lock_contended [TASKS] [N], event_wake [TASKS] [N]",
            self.name
        ))
    }
}

/// Ends the program with a message.
pub fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(2)
}

/// When the last of so many tasks has run. They are tasks of one thread: it need not be
/// atomic, but it is for tokio, whose tasks may move.
#[derive(Debug)]
pub struct Last {
    left: AtomicUsize,
    when: OnceLock<Instant>,
}

impl Last {
    /// The last of `count`.
    #[must_use]
    pub fn of(count: usize) -> Self {
        Self { left: AtomicUsize::new(count), when: OnceLock::new() }
    }

    /// One of them has run.
    pub fn arrived(&self) {
        let left = self.left.load(Relaxed) - 1;
        self.left.store(left, Relaxed);
        if left == 0 {
            self.when.get_or_init(Instant::now);
        }
    }

    /// When it was.
    ///
    /// # Panics
    ///
    /// Some are left.
    #[must_use]
    pub fn when(&self) -> Instant {
        *self.when.get().expect("all have run")
    }
}

/// Prints the one line a micro benchmark prints: nanoseconds for each of `count`.
#[expect(clippy::cast_precision_loss, reason = "a benchmark's count is small")]
pub fn report(elapsed: Duration, count: usize) {
    println!("{{\"ns\": {:.2}}}", elapsed.as_nanos() as f64 / count as f64);
}

/// The processor time this process has used: what timers cost, without the waiting.
#[must_use]
pub fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// The short deadline of sleeper `i`: spread over ten milliseconds, out of order.
#[must_use]
pub fn stagger(i: usize) -> Duration {
    Duration::from_micros((i * 7_919 % 10_007) as u64)
}

/// A listening, non-blocking socket on a port of the system's choice, told on
/// standard output as `PORT n`. The sockets it accepts inherit `TCP_NODELAY`.
///
/// # Errors
///
/// Whatever the system says.
pub fn listen() -> io::Result<TcpListener> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::listen(&socket, 4_096)?;
    let listener = TcpListener::from(socket);
    tell_port(listener.local_addr()?.port())?;
    Ok(listener)
}

/// A non-blocking socket for datagrams, told in the same way. It has room for as many as the
/// load generator has in flight.
///
/// # Errors
///
/// Whatever the system says.
pub fn datagrams() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    sockopt::set_socket_recv_buffer_size(&socket, 1 << 20)?;
    tell_port(socket.local_addr()?.port())?;
    Ok(socket)
}

/// Prints the line that the driver waits for.
///
/// # Errors
///
/// Whatever the system says.
pub fn tell_port(port: u16) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "PORT {port}")?;
    out.flush()
}
