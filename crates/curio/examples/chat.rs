//! A chat: everybody's lines go to everybody.
//!
//! Shows:  `serve`; a stream read by one task and written to by another; a queue between them,
//!         so that who reads slowly holds up nobody; a stop that sends everybody home.
//! Start:  `cargo run --example chat [ADDRESS]`       then, elsewhere, twice:  `nc localhost 25000`
//!         ADDRESS is such as 127.0.0.1:25000, the default. Ctrl-C ends the server.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use curio::net::{TcpListener, TcpStream, serve};
use curio::signal::{SIGINT, SIGTERM};
use curio::{Queue, Result, SignalSet, Stream, spawn};

/// How many lines may wait for somebody before he misses some.
const WAITING: usize = 1000;

type Lines = Rc<Queue<Rc<[u8]>>>;

#[derive(Default)]
struct Room {
    people: RefCell<BTreeMap<SocketAddr, Lines>>,
}

impl Room {
    fn tell(&self, line: impl Into<Rc<[u8]>>) {
        let line = line.into();
        for lines in self.people.borrow().values() {
            let _ = lines.put_nowait(line.clone());
        }
    }
}

async fn chat(room: Rc<Room>, client: TcpStream, address: SocketAddr) -> Result<()> {
    let stream = Rc::new(Stream::new(client));
    let lines: Lines = Rc::new(Queue::bounded(WAITING));
    room.people.borrow_mut().insert(address, lines.clone());
    room.tell(format!("* {address} is here\n").into_bytes());
    let writer = spawn({
        let stream = stream.clone();
        async move {
            loop {
                stream.write(&lines.get().await?).await?;
            }
            #[allow(unreachable_code)]
            Ok(())
        }
    });
    let said = listen(&room, &stream, address).await;
    // However it has ended.
    room.people.borrow_mut().remove(&address);
    room.tell(format!("* {address} is gone\n").into_bytes());
    writer.cancel().await?;
    said
}

async fn listen(room: &Room, stream: &Stream<TcpStream>, address: SocketAddr) -> Result<()> {
    while let Some(line) = stream.read_line().await? {
        room.tell([format!("{address}: ").as_bytes(), &line].concat());
    }
    Ok(())
}

async fn run(address: String) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("Listening at {}; Ctrl-C ends it", listener.local_addr()?);
    let room = Rc::new(Room::default());
    let server = serve(listener, {
        let room = room.clone();
        move |client, address| chat(room.clone(), client, address)
    });
    SignalSet::new([SIGINT, SIGTERM]).wait().await?;
    room.tell(*b"* That was it: good night\n");
    server.stop(Some(Duration::from_secs(1))).await
}

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:25000".into());
    curio::run(run(address))
}
