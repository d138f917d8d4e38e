//! The limit: an echo server that is nothing but epoll, one thread, edge-triggered.
//! No runtime can do with fewer system calls: one read and one write a message.
//!
//! `epoll_echo echo [BUFFER]`, as the other servers, or `epoll_echo udp [BUFFER]`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use curio_benches::{Command, datagrams, listen};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;

const LISTENER: u64 = u64::MAX;

/// A connection and the part of a message that the system would not take yet.
struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
}

fn main() -> io::Result<()> {
    let command = Command::from_args();
    match command.name.as_str() {
        "echo" => serve(command.number(0, 65_536)),
        "udp" => serve_datagrams(command.number(0, 65_536)),
        _ => command.unknown(),
    }
}

fn serve(buffer: usize) -> io::Result<()> {
    let listener = listen()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut buffer = vec![0; buffer];
    let mut events = Vec::with_capacity(1_024);
    loop {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), None)?;
        for event in &events {
            let place = event.data.u64();
            if place == LISTENER {
                accept(&listener, &poll, &mut connections, &mut free)?;
                continue;
            }
            let place = usize::try_from(place).expect("a place in a vector");
            if let Some(connection) = &mut connections[place]
                && !connection.step(&mut buffer).unwrap_or(false)
            {
                connections[place] = None;
                free.push(place);
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &OwnedFd,
    connections: &mut Vec<Option<Connection>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        let place = free.pop().unwrap_or(connections.len());
        if place == connections.len() {
            connections.push(None);
        }
        epoll::add(
            poll,
            &stream,
            EventData::new_u64(place as u64),
            EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET,
        )?;
        connections[place] = Some(Connection { stream, unsent: Vec::new() });
    }
}

impl Connection {
    /// Does all there is to do now; false when the peer is gone.
    fn step(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            if !self.unsent.is_empty() {
                let sent = send(&mut self.stream, &self.unsent)?;
                self.unsent.drain(..sent);
                if !self.unsent.is_empty() {
                    return Ok(true);
                }
            }
            let size = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(size) => size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let sent = send(&mut self.stream, &buffer[..size])?;
            self.unsent.extend_from_slice(&buffer[sent..size]);
            // A short read has emptied the socket: the next bytes are a new edge.
            if size < buffer.len() && self.unsent.is_empty() {
                return Ok(true);
            }
        }
    }
}

/// Sends until the system takes no more; how much it took.
fn send(stream: &mut TcpStream, data: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < data.len() {
        match stream.write(&data[sent..]) {
            Ok(size) => sent += size,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// One socket, emptied whenever there is something in it.
fn serve_datagrams(buffer: usize) -> io::Result<()> {
    let socket = datagrams()?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &socket, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
    let mut buffer = vec![0; buffer];
    let mut events = Vec::with_capacity(1);
    loop {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), None)?;
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((size, from)) => socket.send_to(&buffer[..size], from)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
        }
    }
}
