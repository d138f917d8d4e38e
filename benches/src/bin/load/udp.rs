//! Every socket keeps one datagram in flight. Each has a number, and one that is not
//! answered in time is sent again.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};

use crate::measure::{Measure, TICK};
use crate::{Options, line};

/// After so long a datagram is lost.
const LOST: Duration = Duration::from_millis(200);

struct Socket {
    socket: UdpSocket,
    number: u64,
    started: Instant,
    sent: Instant,
}

impl Socket {
    fn send(&mut self, datagram: &mut [u8]) -> io::Result<()> {
        datagram[..8].copy_from_slice(&self.number.to_le_bytes());
        self.sent = Instant::now();
        self.socket.send(datagram).map(drop)
    }
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let mut datagram = line(options.size.max(8));
    let mut buffer = vec![0; datagram.len() + 1];
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut sockets = Vec::with_capacity(options.connections);
    for place in 0..options.connections {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(options.addr)?;
        socket.set_nonblocking(true)?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&poll, &socket, EventData::new_u64(place as u64), flags)?;
        let now = Instant::now();
        sockets.push(Socket { socket, number: 0, started: now, sent: now });
    }

    let (mut errors, mut lost, mut served) = (0_u64, 0_u64, 0);
    let mut events = Vec::with_capacity(1_024);
    let mut measure = Measure::new(options);
    let mut looked = Instant::now();
    for socket in &mut sockets {
        socket.started = Instant::now();
        socket.send(&mut datagram)?;
    }
    while !measure.is_over(served >= sockets.len()) {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&TICK))?;
        for event in &events {
            let place = usize::try_from(event.data.u64()).expect("a place in a vector");
            let socket = &mut sockets[place];
            let size = match socket.socket.recv(&mut buffer) {
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            if buffer.get(..8) != Some(&socket.number.to_le_bytes()) {
                // The late answer to one that was sent twice.
                continue;
            }
            if buffer[8..size] != datagram[8..] {
                errors += 1;
            }
            served += usize::from(socket.number == 0);
            measure.add(socket.started.elapsed());
            socket.number += 1;
            socket.started = Instant::now();
            socket.send(&mut datagram)?;
        }
        if looked.elapsed() >= LOST {
            looked = Instant::now();
            for socket in sockets.iter_mut().filter(|socket| socket.sent.elapsed() >= LOST) {
                lost += 1;
                socket.send(&mut datagram)?;
            }
        }
    }
    errors += sockets.iter().filter(|socket| socket.number == 0).count() as u64;
    measure.report(errors, &format!(", \"lost\": {lost}"));
    Ok(())
}
