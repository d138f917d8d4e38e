//! The load generator: one thread on edge-triggered epoll.
//!
//! `load MODE --addr 127.0.0.1:PORT [--connections N] [--size BYTES] [--seconds S] [--warmup S]`
//!
//! - `echo`: every connection keeps one request in flight and waits for its echo; with `--tls yes`
//!   over TLS.
//! - `churn`: connect, one echo, close, over and over, `--connections` at a time.
//! - `udp`: as `echo`, with datagrams.
//! - `idle --pid SERVER`: connections that are served once and then wait; what each adds
//!   to the memory of the server.
//! - `fair`: a connection that floods, and `--connections` that ask every 10 ms.
//! - `certificate`, alone: makes the certificate that the TLS servers show.
//!
//! A request is one line: it ends with the only newline in it. The first echo of
//! each connection is compared byte by byte, the later ones by length. Prints one
//! JSON line: requests, seconds, rate, errors, p50 and p99 of the latency in µs, and
//! total: all requests, those of the warm-up too. `fair` adds the flood's megabytes a second
//! and how late it was itself (p99, µs), `udp` the datagrams that were lost; `idle` prints bytes.

mod churn;
mod connection;
mod echo;
mod fair;
mod idle;
mod measure;
mod udp;

use std::io;
use std::net::SocketAddr;

use curio_benches::{fail, tls};

const USAGE: &str = "load echo|churn|udp|idle|fair --addr 127.0.0.1:PORT [--connections N] \
                     [--size BYTES] [--seconds S] [--warmup S] [--tls yes] [--pid SERVER]\n\
                     load certificate";

struct Options {
    mode: String,
    addr: SocketAddr,
    connections: usize,
    size: usize,
    seconds: f64,
    warmup: f64,
    tls: bool,
    pid: u32,
}

impl Options {
    fn from_args() -> Option<Self> {
        let mut words = std::env::args().skip(1);
        let mut options = Self {
            mode: words.next()?,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            connections: 1,
            size: 1_024,
            seconds: 1.0,
            warmup: 0.0,
            tls: false,
            pid: 0,
        };
        while let Some(name) = words.next() {
            let value = words.next()?;
            match name.as_str() {
                "--addr" => options.addr = value.parse().ok()?,
                "--connections" => options.connections = value.parse().ok()?,
                "--size" => options.size = value.parse().ok()?,
                "--seconds" => options.seconds = value.parse().ok()?,
                "--warmup" => options.warmup = value.parse().ok()?,
                "--tls" => options.tls = value == "yes",
                "--pid" => options.pid = value.parse().ok()?,
                _ => return None,
            }
        }
        let sane = options.addr.ip().is_loopback()
            && options.addr.port() > 0
            && options.connections > 0
            && options.size > 0
            && (0.0..=3_600.0).contains(&options.seconds)
            && (0.0..=3_600.0).contains(&options.warmup);
        (sane || options.mode == "certificate").then_some(options)
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
    match options.mode.as_str() {
        "echo" => echo::run(&options),
        "churn" => churn::run(&options),
        "udp" => udp::run(&options),
        "idle" => idle::run(&options),
        "fair" => fair::run(&options),
        "certificate" => tls::make_certificate(),
        _ => fail(USAGE),
    }
}
