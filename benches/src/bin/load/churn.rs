//! Connect, send a request, wait for its echo, close: so many at a time, over and over.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with,
};

use crate::measure::{Measure, TICK};
use crate::{Options, line};

/// A closed connection keeps its address and port for a minute. So they come from many
/// addresses (all of 127.0.0.0/8 is this machine), and from a port that nobody has to search.
struct Sources(u32);

impl Sources {
    const ADDRESSES: u32 = 250;
    const PORTS: u32 = 50_000;

    /// They begin somewhere else each time, not where the last run's are still kept.
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(now.subsec_nanos())
    }

    fn bind(&mut self, socket: &OwnedFd) -> io::Result<()> {
        loop {
            self.0 = self.0.wrapping_add(1);
            let address = u32::from(Ipv4Addr::LOCALHOST) + 1 + self.0 % Self::ADDRESSES;
            let port = 10_000 + self.0 / Self::ADDRESSES % Self::PORTS;
            let port = port.try_into().expect("a port");
            match bind(socket, &SocketAddrV4::new(address.into(), port)) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                other => return Ok(other?),
            }
        }
    }
}

struct Visit {
    stream: TcpStream,
    received: usize,
    started: Instant,
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let request = line(options.size);
    let mut buffer = vec![0; options.size + 1];
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut sources = Sources::new();
    let mut visits = Vec::with_capacity(options.connections);
    for place in 0..options.connections {
        visits.push(visit(options, &request, &poll, place, &mut sources)?);
    }

    let mut errors = 0_u64;
    let mut served = false;
    let mut events = Vec::with_capacity(1_024);
    let mut measure = Measure::new(options);
    while !measure.is_over(served) {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&TICK))?;
        for event in &events {
            let place = usize::try_from(event.data.u64()).expect("a place in a vector");
            match visits[place].receive(&request, &mut buffer) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => errors += 1,
            }
            let next = visit(options, &request, &poll, place, &mut sources)?;
            let last = std::mem::replace(&mut visits[place], next);
            let started = last.started;
            drop(last);
            measure.add(started.elapsed());
            served = true;
        }
    }
    measure.report(errors, "");
    Ok(())
}

/// Connects and sends the request: on this machine neither waits.
fn visit(
    options: &Options,
    request: &[u8],
    poll: &OwnedFd,
    place: usize,
    sources: &mut Sources,
) -> io::Result<Visit> {
    let started = Instant::now();
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sources.bind(&socket)?;
    connect(&socket, &options.addr)?;
    if send(&socket, request, SendFlags::NOSIGNAL)? < request.len() {
        return Err(ErrorKind::WriteZero.into());
    }
    epoll::add(poll, &socket, EventData::new_u64(place as u64), EventFlags::IN)?;
    Ok(Visit { stream: socket.into(), received: 0, started })
}

impl Visit {
    /// Takes what has arrived; true when the echo is complete.
    fn receive(&mut self, request: &[u8], buffer: &mut [u8]) -> io::Result<bool> {
        let (size, _) = match recv(&self.stream, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let end = self.received + size;
        if size == 0 || request.get(self.received..end) != Some(&buffer[..size]) {
            return Err(ErrorKind::InvalidData.into());
        }
        self.received = end;
        Ok(end == request.len())
    }
}
