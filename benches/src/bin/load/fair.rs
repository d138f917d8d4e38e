//! One connection that floods, so that the server finds its socket readable whenever it looks,
//! and many polite ones that ask every 10 ms. Measured are the polite ones.
//!
//! A request counts from when it was due, not from when an overdue answer let it go;
//! what is unanswered at the end counts with the time it has waited.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{
    Timespec,
    epoll::{self, EventData, EventFlags},
};

use crate::connection::{CONNECTING, Connection};
use crate::measure::{Histogram, Measure};
use crate::{Options, line};

/// How often each polite one asks.
const PERIOD: Duration = Duration::from_millis(10);

/// How much of the flood is sent, and of its echo read, before the polite ones are looked at.
const CHUNK: usize = 65_536;

/// The place of the connection that floods.
const FLOOD: u64 = u64::MAX;

/// As short as the distance of two requests, so that none is late.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000 };

struct Polite {
    connection: Connection,
    waiting: bool,
    due: Instant,
}

impl Polite {
    /// Asks, if it is time to and the last request is answered; whether it did.
    fn ask(&mut self, request: &[u8], now: Instant) -> io::Result<bool> {
        let asks = !self.waiting && self.due <= now;
        if asks {
            self.connection.start(request, self.due)?;
            self.due += PERIOD;
            self.waiting = true;
        }
        Ok(asks)
    }
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let request = line(options.size);
    let mut buffer = vec![0; options.size.max(CHUNK) + 1];
    let flood = line(CHUNK);
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(options.connections);
    for place in 0..options.connections {
        let connection = Connection::open(options.addr, None)?;
        connection.register(&poll, place)?;
        connections.push(connection);
    }
    let count = u32::try_from(options.connections).expect("not so many connections");
    let start = Instant::now();
    let turn = |number: u32| start + PERIOD * (number / count) + PERIOD * (number % count) / count;
    let mut polite: Vec<Polite> = (0..)
        .zip(connections)
        .map(|(place, connection)| Polite { connection, waiting: false, due: turn(place) })
        .collect();

    let mut greedy = None;
    let (mut served, mut echoed) = (0, 0);
    let mut next = 0;
    let mut late = Histogram::new();
    let mut events = Vec::with_capacity(1_024);
    let mut measure = Measure::new(options);
    while !measure.is_over(greedy.is_some()) {
        // The polite ones first: what is late here must not be the server's fault.
        let now = Instant::now();
        while turn(next) <= now {
            if polite[(next % count) as usize].ask(&request, now)? && measure.is_warm() {
                late.add(now - turn(next));
            }
            next += 1;
        }
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&TICK))?;
        let mut flooding = false;
        for event in &events {
            let place = event.data.u64();
            if place == FLOOD {
                flooding = true;
                continue;
            }
            let place = usize::try_from(place).expect("a place in a vector");
            let Polite { connection, waiting, .. } = &mut polite[place];
            if !*waiting {
                continue;
            }
            if let Some((latency, first)) = connection.step(&request, &mut buffer)? {
                served += usize::from(first);
                measure.add(latency);
                *waiting = false;
                polite[place].ask(&request, Instant::now())?;
            }
        }
        if let Some(stream) = greedy.as_mut().filter(|_| flooding) {
            let size = pour(stream, &flood, &mut buffer)?;
            echoed += if measure.is_warm() { size } else { 0 };
        } else if greedy.is_none() && served == polite.len() {
            // It comes when all the others are there.
            let stream = TcpStream::connect_timeout(&options.addr, CONNECTING)?;
            stream.set_nonblocking(true)?;
            let flags = EventFlags::IN | EventFlags::OUT;
            epoll::add(&poll, &stream, EventData::new_u64(FLOOD), flags)?;
            greedy = Some(stream);
        }
    }
    for each in &mut polite {
        let waited = each.connection.started().elapsed();
        if each.waiting && waited > PERIOD {
            measure.add(waited);
        }
        while each.due.elapsed() > PERIOD {
            measure.add(each.due.elapsed());
            each.due += PERIOD;
        }
    }
    let errors = (polite.len() - served) as u64;
    let megabytes = measure.rate(echoed) / 1e6;
    measure
        .report(errors, &format!(", \"flood\": {megabytes:.1}, \"late\": {}", late.percentile(99)));
    Ok(())
}

/// One write of the flood and one read of its echo, as far as they go; how much came back.
fn pour(stream: &mut TcpStream, flood: &[u8], buffer: &mut [u8]) -> io::Result<u64> {
    match stream.write(flood) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
        _ => {}
    }
    match stream.read(buffer) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(size) => Ok(size as u64),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error),
    }
}
