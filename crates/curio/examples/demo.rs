//! What Curio does, to be watched on a terminal in about ten seconds.
//!
//! Shows:  first the story of a parent and a kid: spawn, join, timeout, cancellation with
//!         clean-up. Then an echo server at work: each connection is a task here, each
//!         client a task of a second kernel in a second thread.
//! Start:  `cargo run --release --example demo`

use std::cell::Cell;
use std::io::{IsTerminal, Write, stdout};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use curio::net::{TcpListener, TcpStream};
use curio::{Error, Result, sleep, spawn, timeout_after};
use futures::channel::oneshot;

const CLIENTS: usize = 100;
const TIME: Duration = Duration::from_secs(3);
const MESSAGE: usize = 1024;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn paint(code: &str, text: &str) -> String {
    if stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.into()
    }
}

fn title(text: &str) {
    println!("\n{}", paint("1", text));
}

// The story.

/// Prints who says what, and when it was said.
#[derive(Clone, Copy)]
struct Story(Instant);

impl Story {
    fn says(self, who: &str, text: &str) {
        let seconds = self.0.elapsed().as_secs_f64();
        let colour = if who == "kid" { "33" } else { "36" };
        println!("  {seconds:4.1} s  {}  {text}", paint(colour, &format!("{who:6}")));
    }
}

async fn kid(story: Story) -> Result<()> {
    story.says("kid", "Building a space ship. This takes 1000 seconds.");
    let built = sleep(Duration::from_secs(1000)).await;
    if built.as_ref().is_err_and(Error::is_cancelled) {
        story.says("kid", "Cancelled? Fine, saving my work ...");
        sleep(ms(700)).await?;
        story.says("kid", "... saved.");
    }
    built.map(drop)
}

async fn countdown(story: Story, count: u32) -> Result<()> {
    for n in (1..=count).rev() {
        story.says("parent", &format!("{n} ..."));
        sleep(ms(400)).await?;
    }
    Ok(())
}

async fn parent() -> Result<()> {
    let story = Story(Instant::now());
    let kid = spawn(kid(story));
    sleep(ms(800)).await?;
    story.says("parent", "Let's go in");
    spawn(countdown(story, 3)).join().await?;
    story.says("parent", "We're leaving! You have one second.");
    match timeout_after(ms(1000), kid.join()).await {
        Err(error) if error.is_timeout() => {
            story.says("parent", "I warned you: cancel.");
            kid.cancel().await?;
        }
        other => other?,
    }
    story.says("parent", "Everybody is here. Off we go.");
    Ok(())
}

// The echo server.

#[derive(Default)]
struct Server {
    connections: Cell<usize>,
    requests: Cell<u64>,
}

async fn accept(server: Rc<Server>, listener: TcpListener) -> Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        spawn(echo(server.clone(), client));
    }
}

async fn echo(server: Rc<Server>, client: TcpStream) -> Result<()> {
    server.connections.set(server.connections.get() + 1);
    let mut buffer = vec![0; 65_536];
    loop {
        let count = client.recv(&mut buffer).await?;
        if count == 0 {
            break;
        }
        client.send_all(&buffer[..count]).await?;
        server.requests.set(server.requests.get() + 1);
    }
    server.connections.set(server.connections.get() - 1);
    Ok(())
}

/// Serves until the clients' thread has ended; gives how many requests it has made.
async fn serve() -> Result<(u64, Duration)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = Rc::new(Server::default());
    let accepting = spawn(accept(server.clone(), listener));

    let (done, mut clients) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let start = Instant::now();
        let result = curio::run(drive(address)).map(|requests| (requests, start.elapsed()));
        let _ = done.send(());
        result
    });
    let (mut then, mut seen) = (Instant::now(), 0);
    // A future that is not Curio's can be limited like any other.
    let half_a_second = ms(500);
    while timeout_after(half_a_second, async { Ok((&mut clients).await) }).await.is_err() {
        let (now, requests) = (Instant::now(), server.requests.get());
        show(&server, (requests - seen) as f64 / (now - then).as_secs_f64());
        (then, seen) = (now, requests);
    }
    if stdout().is_terminal() {
        print!("\r\x1b[K");
    }
    accepting.cancel().await?;
    thread.join().expect("the clients' thread does not panic")
}

fn show(server: &Server, rate: f64) {
    let line = format!(
        "  {:4} connections   {} requests/s",
        server.connections.get(),
        grouped(rate as u64)
    );
    if stdout().is_terminal() {
        print!("\r{line}");
        let _ = stdout().flush();
    } else {
        println!("{line}");
    }
}

/// A number with commas, for people.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

// The clients.

async fn drive(address: SocketAddr) -> Result<u64> {
    let deadline = Instant::now() + TIME;
    let clients: Vec<_> = (0..CLIENTS).map(|_| spawn(client(address, deadline))).collect();
    let mut requests = 0;
    for client in &clients {
        requests += client.join().await?;
    }
    Ok(requests)
}

async fn client(address: SocketAddr, deadline: Instant) -> Result<u64> {
    let stream = TcpStream::connect(address).await?;
    let (message, mut answer) = ([b'x'; MESSAGE], [0; MESSAGE]);
    let mut requests = 0;
    while Instant::now() < deadline {
        stream.send_all(&message).await?;
        stream.recv_exact(&mut answer).await?;
        requests += 1;
    }
    Ok(requests)
}

fn main() -> Result<()> {
    title("Two tasks, a timeout, a cancellation");
    curio::run(parent())?;

    title(&format!("An echo server and {CLIENTS} clients in a second thread, 1 KiB a request"));
    let (requests, took) = curio::run(serve())?;
    let seconds = took.as_secs_f64();
    let rate = grouped((requests as f64 / seconds) as u64);
    print!("  {} requests in {seconds:.1} s: ", grouped(requests));
    println!("{}", paint("1;32", &format!("{rate} requests/s")));
    Ok(())
}
