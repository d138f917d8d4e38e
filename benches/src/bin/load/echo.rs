//! Every connection keeps one request in flight: one read and one write a request.

use std::io;
use std::time::Instant;

use curio_benches::tls;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::connection::Connection;
use crate::measure::{Measure, TICK};
use crate::{Options, line};

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let request = line(options.size);
    let mut buffer = vec![0; options.size + 1];
    let tls = options.tls.then(tls::client).transpose()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(options.connections);
    for place in 0..options.connections {
        let connection = Connection::open(options.addr, tls.as_ref())?;
        connection.register(&poll, place)?;
        connections.push(Some(connection));
    }

    let mut open = connections.len();
    let mut errors = 0_u64;
    let mut served = 0;
    let mut events = Vec::with_capacity(1_024);
    let mut measure = Measure::new(options);
    for connection in connections.iter_mut().flatten() {
        connection.start(&request, Instant::now())?;
    }
    while open > 0 && !measure.is_over(served >= open) {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&TICK))?;
        for event in &events {
            let place = usize::try_from(event.data.u64()).expect("a place in a vector");
            let Some(connection) = &mut connections[place] else {
                continue;
            };
            let step = connection.step(&request, &mut buffer).and_then(|answer| {
                if answer.is_some() {
                    connection.start(&request, Instant::now())?;
                }
                Ok(answer)
            });
            match step {
                Ok(Some((latency, first))) => {
                    served += usize::from(first);
                    measure.add(latency);
                }
                Ok(None) => {}
                Err(_) => {
                    errors += 1;
                    open -= 1;
                    served -= usize::from(connection.is_verified());
                    connections[place] = None;
                }
            }
        }
    }
    // A connection without one whole echo has been served nothing: an error too.
    errors += connections.iter().flatten().filter(|each| !each.is_verified()).count() as u64;
    measure.report(errors, "");
    Ok(())
}
