//! The load generator: every connection keeps one request in flight and waits for
//! its echo. One thread on edge-triggered epoll: one read and one write a request.
//!
//! `load --addr 127.0.0.1:PORT --connections N --size BYTES --seconds S [--warmup S]`
//!
//! A request is one line: it ends with the only newline in it. The first echo of
//! each connection is compared byte by byte, the later ones by length. Prints one
//! JSON line: requests, seconds, rate, errors, p50 and p99 of the latency in µs, and
//! total: all requests, those of the warm-up too.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use curio_benches::fail;
use rustix::buffer::spare_capacity;
use rustix::event::{
    Timespec,
    epoll::{self, EventData, EventFlags},
};

const USAGE: &str =
    "load --addr 127.0.0.1:PORT --connections N --size BYTES --seconds S [--warmup S]";

/// How long the first echoes may take before the measuring starts without them.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the end is looked for while nothing arrives.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

struct Options {
    addr: SocketAddr,
    connections: usize,
    size: usize,
    seconds: f64,
    warmup: f64,
}

impl Options {
    fn from_args() -> Option<Self> {
        let mut options = Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            connections: 1,
            size: 1_024,
            seconds: 1.0,
            warmup: 0.0,
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words.next()?;
            match name.as_str() {
                "--addr" => options.addr = value.parse().ok()?,
                "--connections" => options.connections = value.parse().ok()?,
                "--size" => options.size = value.parse().ok()?,
                "--seconds" => options.seconds = value.parse().ok()?,
                "--warmup" => options.warmup = value.parse().ok()?,
                _ => return None,
            }
        }
        let sane = options.addr.ip().is_loopback()
            && options.addr.port() > 0
            && options.connections > 0
            && options.size > 0
            && (0.0..=3_600.0).contains(&options.seconds)
            && (0.0..=3_600.0).contains(&options.warmup);
        sane.then_some(options)
    }
}

/// One connection: how far its request and the echo of it have come.
struct Connection {
    stream: TcpStream,
    sent: usize,
    received: usize,
    started: Instant,
    verified: bool,
}

impl Connection {
    fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, sent: 0, received: 0, started: Instant::now(), verified: false })
    }

    /// Sends what is left of the request, as far as the system takes it.
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        while self.sent < request.len() {
            match self.stream.write(&request[self.sent..]) {
                Ok(size) => self.sent += size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what has arrived; true when the echo is complete. The buffer is larger
    /// than an echo, so that one read empties the socket.
    fn receive(&mut self, request: &[u8], buffer: &mut [u8]) -> io::Result<bool> {
        let size = match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let end = self.received + size;
        if end > self.sent || (!self.verified && buffer[..size] != request[self.received..end]) {
            return Err(ErrorKind::InvalidData.into());
        }
        self.received = end;
        Ok(end == request.len())
    }

    /// One event: how long the echo took that is complete now; the next request is on
    /// its way.
    fn step(&mut self, request: &[u8], buffer: &mut [u8]) -> io::Result<Option<Duration>> {
        if self.sent < request.len() {
            self.send(request)?;
        }
        if !self.receive(request, buffer)? {
            return Ok(None);
        }
        let now = Instant::now();
        let latency = now - self.started;
        self.started = now;
        self.sent = 0;
        self.received = 0;
        self.send(request)?;
        Ok(Some(latency))
    }
}

/// Latencies counted by the microsecond; the last place takes all longer ones.
struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    fn new() -> Self {
        Self { counts: vec![0; 1 << 20], total: 0 }
    }

    fn add(&mut self, latency: Duration) {
        let micros = usize::try_from(latency.as_micros()).unwrap_or(usize::MAX);
        let last = self.counts.len() - 1;
        self.counts[micros.min(last)] += 1;
        self.total += 1;
    }

    /// The latency that `percent` of the requests did not exceed.
    fn percentile(&self, percent: u64) -> usize {
        let wanted = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        self.counts
            .iter()
            .position(|count| {
                seen += count;
                seen >= wanted
            })
            .unwrap_or(0)
    }
}

/// A line of letters with the newline at its end.
fn line(size: usize) -> Vec<u8> {
    let mut line: Vec<u8> = (b'a'..=b'z').cycle().take(size).collect();
    line[size - 1] = b'\n';
    line
}

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|| fail(USAGE));
    let request = line(options.size);
    let mut buffer = vec![0; options.size + 1];
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(options.connections);
    for place in 0..options.connections {
        let connection = Connection::open(options.addr)?;
        epoll::add(
            &poll,
            &connection.stream,
            EventData::new_u64(place as u64),
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        )?;
        connections.push(Some(connection));
    }

    let mut open = connections.len();
    let mut errors = 0_u64;
    let mut total = 0_u64;
    let mut served = 0;
    let mut histogram = Histogram::new();
    let mut events = Vec::with_capacity(1_024);
    let mut start = Instant::now() + Duration::from_secs_f64(options.warmup);
    let mut warm = false;
    let length = Duration::from_secs_f64(options.seconds);
    for connection in connections.iter_mut().flatten() {
        connection.started = Instant::now();
        connection.send(&request)?;
    }
    while open > 0 {
        let now = Instant::now();
        // Measured is from when every connection is served, not how fast that comes.
        if !warm && now >= start && (served >= open || now - start >= PATIENCE) {
            (warm, start) = (true, now);
        }
        if warm && now - start >= length {
            break;
        }
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&TICK))?;
        for event in &events {
            let place = usize::try_from(event.data.u64()).expect("a place in a vector");
            let Some(connection) = &mut connections[place] else {
                continue;
            };
            match connection.step(&request, &mut buffer) {
                Ok(Some(latency)) => {
                    total += 1;
                    served += usize::from(!std::mem::replace(&mut connection.verified, true));
                    if warm {
                        histogram.add(latency);
                    }
                }
                Ok(None) => {}
                Err(_) => {
                    errors += 1;
                    open -= 1;
                    served -= usize::from(connection.verified);
                    connections[place] = None;
                }
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a count of a few seconds")]
    let rate = histogram.total as f64 / seconds;
    // A connection without one whole echo has been served nothing: an error too.
    errors += connections.iter().flatten().filter(|connection| !connection.verified).count() as u64;
    println!(
        "{{\"requests\": {}, \"seconds\": {seconds:.4}, \"rate\": {rate:.1}, \"errors\": {errors}, \
         \"p50\": {}, \"p99\": {}, \"total\": {total}}}",
        histogram.total,
        histogram.percentile(50),
        histogram.percentile(99),
    );
    Ok(())
}
