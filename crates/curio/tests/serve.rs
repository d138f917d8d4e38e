//! Servers: whom they serve, how they end, and what does not end them.
//!
//! The tests run one after the other, because they count the descriptors of the process, and one of
//! them takes all there are.

mod common;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use curio::embed::{Acceptor, Source};
use curio::net::{Server, TcpListener, TcpStream, UnixListener, UnixStream, serve};
use curio::{Result, TaskState, sleep, spawn, timeout_after};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use common::{alone, descriptors};

const HANG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(5);

/// Runs a program; all descriptors are closed after it.
fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    let _alone = alone();
    take_log();
    let before = descriptors();
    let result = curio::run(timeout_after(HANG, program)).unwrap();
    assert_eq!(descriptors(), before);
    result
}

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOG.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// What was logged since it was asked last.
fn take_log() -> Vec<String> {
    let _ = log::set_logger(&Logger);
    log::set_max_level(log::LevelFilter::Warn);
    std::mem::take(&mut *LOG.lock().unwrap())
}

async fn until(condition: impl Fn() -> bool) -> Result<()> {
    while !condition() {
        sleep(Duration::from_millis(1)).await?;
    }
    Ok(())
}

async fn echo(client: TcpStream, _address: SocketAddr) -> Result<()> {
    let mut buffer = [0; 1000];
    loop {
        match client.recv(&mut buffer).await? {
            0 => return Ok(()),
            count => client.send_all(&buffer[..count]).await?,
        }
    }
}

async fn ask(client: &TcpStream) -> Result<()> {
    client.send_all(b"Hello").await?;
    let mut answer = [0; 5];
    client.recv_exact(&mut answer).await?;
    assert_eq!(&answer, b"Hello");
    Ok(())
}

fn echo_server() -> Result<(Server, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    Ok((serve(listener, echo), address))
}

async fn refused(address: SocketAddr) -> bool {
    let connected = TcpStream::connect(address).await;
    connected.is_err_and(|error| error.as_io().unwrap().kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn each_client_has_a_task_of_its_own() {
    run(async {
        let (server, address) = echo_server()?;
        let clients: Vec<_> = (0..50)
            .map(|_| {
                spawn(async move {
                    let client = TcpStream::connect(address).await?;
                    for _ in 0..10 {
                        ask(&client).await?;
                    }
                    Ok(client)
                })
            })
            .collect();
        let mut connections = Vec::new();
        for client in clients {
            connections.push(client.join().await?);
        }
        assert_eq!(server.clients().len(), 50);
        let first = connections[0].local_addr()?;
        assert!(server.clients().iter().any(|client| client.name() == format!("client {first}")));
        drop(connections);
        until(|| server.clients().is_empty()).await?;
        assert_eq!(server.state(), TaskState::ReadWait);
        server.stop(None).await?;
        assert!(refused(address).await);
        server.join().await?;
        assert!(!server.cancel().await?);
        assert!(take_log().is_empty());
        Ok(())
    });
}

#[test]
fn unix_listeners_are_served_by_the_same() {
    let path = std::env::temp_dir().join(format!("curio-serve-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    run({
        let path = path.clone();
        async move {
            let listener = UnixListener::bind(&path)?;
            let server =
                serve(
                    listener,
                    |client: UnixStream, _| async move { client.send_all(b"Hello").await },
                );
            let client = UnixStream::connect(&path).await?;
            client.recv_exact(&mut [0; 5]).await?;
            assert_eq!(client.recv(&mut [0; 1]).await?, 0);
            server.cancel().await?;
            Ok(())
        }
    });
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_handler_that_fails_or_panics_is_reported_once_and_ends_nothing_else() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let count = Cell::new(0);
        let server = serve(listener, move |client, address| {
            count.set(count.get() + 1);
            let number = count.get();
            assert!(number != 2, "on purpose, before there is a future");
            async move {
                match number {
                    1 => panic!("on purpose"),
                    3 => Err(curio::Error::other("no luck")),
                    _ => echo(client, address).await,
                }
            }
        });
        for text in ["panicked: on purpose", "before there is a future", "no luck"] {
            let client = TcpStream::connect(address).await?;
            assert_eq!(client.recv(&mut [0; 1]).await?, 0);
            until(|| server.clients().is_empty()).await?;
            let log = take_log();
            assert_eq!(log.len(), 1, "{log:?}");
            let whose = format!("(client {})", client.local_addr()?);
            assert!(log[0].contains(text) && log[0].contains(&whose), "{log:?}");
        }
        ask(&TcpStream::connect(address).await?).await?;
        server.cancel().await?;
        assert!(take_log().is_empty());
        Ok(())
    });
}

#[test]
fn a_stop_lets_clients_finish() {
    run(async {
        for patience in [None, Some(HANG)] {
            let (server, address) = echo_server()?;
            let server = Rc::new(server);
            let client = TcpStream::connect(address).await?;
            ask(&client).await?;
            let stopping = spawn({
                let server = server.clone();
                async move { server.stop(patience).await }
            });
            until(|| server.terminated()).await?;
            assert!(refused(address).await);
            ask(&client).await?;
            assert!(!stopping.terminated());
            drop(client);
            stopping.join().await?;
            assert!(server.clients().is_empty());
            server.join().await?;
        }
        Ok(())
    });
}

/// What happens to the clients of a server, in order.
#[derive(Clone, Default)]
struct Story(Rc<RefCell<Vec<&'static str>>>);

impl Story {
    /// A server whose clients wait until they are cancelled, and take their time then.
    async fn server(&self, count: usize) -> Result<(Rc<Server>, Vec<TcpStream>)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let story = self.0.clone();
        let server = serve(listener, move |client: TcpStream, _| {
            let story = story.clone();
            async move {
                let error = client.recv(&mut [0; 1]).await.unwrap_err();
                assert!(error.is_cancelled());
                story.borrow_mut().push("cancelled");
                sleep(SOON).await?;
                story.borrow_mut().push("ended");
                Err(error)
            }
        });
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(TcpStream::connect(address).await?);
        }
        until(|| server.clients().len() == count).await?;
        until(|| server.clients().iter().all(|client| client.state() == TaskState::ReadWait))
            .await?;
        Ok((Rc::new(server), clients))
    }

    /// All were cancelled at once, and all have ended.
    fn check(&self) {
        assert_eq!(
            *self.0.borrow(),
            ["cancelled", "cancelled", "cancelled", "ended", "ended", "ended"]
        );
        assert!(take_log().is_empty());
    }
}

#[test]
fn who_has_not_finished_in_time_is_cancelled() {
    run(async {
        for patience in [Duration::ZERO, SOON] {
            let story = Story::default();
            let (server, _clients) = story.server(3).await?;
            server.stop(Some(patience)).await?;
            story.check();
            server.join().await?;
        }
        Ok(())
    });
}

#[test]
fn a_cancellation_is_one_of_all_clients() {
    run(async {
        let story = Story::default();
        let (server, _clients) = story.server(3).await?;
        assert!(server.cancel().await?);
        story.check();
        assert!(server.join().await.unwrap_err().task_cause().unwrap().is_cancelled());

        // By the task alone, as a parent's `cancel_children` does it.
        let story = Story::default();
        let (server, _clients) = story.server(3).await?;
        curio::TaskRef::cancel(&server).await?;
        story.check();

        // In the middle of a stop.
        let story = Story::default();
        let (server, _clients) = story.server(3).await?;
        let stopping = spawn({
            let server = server.clone();
            async move { server.stop(None).await }
        });
        until(|| server.terminated()).await?;
        server.cancel().await?;
        story.check();
        stopping.join().await
    });
}

#[test]
fn a_stop_that_is_given_up_leaves_the_clients_alone() {
    run(async {
        let story = Story::default();
        let (server, _clients) = story.server(3).await?;
        let limited = timeout_after(SOON, server.stop(None)).await;
        assert!(limited.unwrap_err().is_timeout());
        assert!(server.terminated());
        assert_eq!(server.clients().len(), 3);
        assert!(story.0.borrow().is_empty());
        server.stop(Some(Duration::ZERO)).await?;
        story.check();
        Ok(())
    });
}

#[test]
fn a_client_cannot_wait_for_its_own_end() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let itself = Rc::new(RefCell::new(None::<Rc<Server>>));
        let seen = Rc::new(Cell::new(false));
        let server = serve(listener, {
            let (itself, seen) = (itself.clone(), seen.clone());
            move |_client, _| {
                let (itself, seen) = (itself.clone(), seen.clone());
                async move {
                    let server = itself.borrow().clone().unwrap();
                    assert!(server.stop(None).await.unwrap_err().is_misuse());
                    seen.set(true);
                    Ok(())
                }
            }
        });
        let server = Rc::new(server);
        *itself.borrow_mut() = Some(server.clone());
        let _client = TcpStream::connect(address).await?;
        server.wait().await?;
        until(|| seen.get()).await?;
        itself.take();
        Ok(())
    });
}

#[test]
fn the_kernels_shutdown_ends_a_server_and_its_clients() {
    run(async {
        let story = Story::default();
        let (server, clients) = story.server(3).await?;
        drop(server);
        drop(story);
        // They are closed after the clients' tasks have been cancelled.
        curio::TaskBuilder::new().daemon().spawn(async move {
            let cancelled = sleep(HANG).await;
            drop(clients);
            cancelled.map(drop)
        });
        Ok(())
    });
}

/// Has no descriptor left while it lives.
struct Exhausted(Rlimit);

impl Exhausted {
    fn new() -> Exhausted {
        let former = getrlimit(Resource::Nofile);
        // The lowest number that is free: all below are taken.
        let free = File::open("/dev/null").unwrap().as_raw_fd() as u64;
        setrlimit(Resource::Nofile, Rlimit { current: Some(free), ..former }).unwrap();
        assert!(File::open("/dev/null").is_err());
        Exhausted(former)
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

#[test]
fn without_descriptors_clients_are_sent_away_and_the_server_goes_on() {
    run(async {
        let (server, address) = echo_server()?;
        until(|| server.state() == TaskState::ReadWait).await?;
        let served = TcpStream::connect(address).await?;
        ask(&served).await?;
        let mut sockets = Vec::new();
        for _ in 0..6 {
            sockets.push(Socket::new(Domain::IPV4, Type::STREAM, None)?);
        }
        let mut last = sockets.split_off(5);
        let exhausted = Exhausted::new();
        for (round, socket) in sockets.iter_mut().enumerate() {
            socket.connect(&address.into())?;
            socket.set_nonblocking(true)?;
            if round % 2 == 1 {
                continue; // two at once
            }
            loop {
                match socket.read(&mut [0; 1]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        sleep(Duration::from_millis(1)).await?;
                    }
                    Ok(0) => break,
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                    other => panic!("{other:?}"),
                }
            }
            // Who is there already is served all the same.
            ask(&served).await?;
        }
        let log = take_log();
        assert_eq!(log.len(), 1, "{log:?}");
        assert!(log[0].contains("no connection can be accepted"), "{log:?}");
        drop(exhausted);
        let late = last.pop().unwrap();
        late.connect(&address.into())?;
        late.set_nonblocking(true)?;
        assert_eq!(late.send(b"!")?, 1);
        curio::net::wait_readable(&late).await?;
        server.cancel().await?;
        assert!(take_log().is_empty());
        Ok(())
    });
}

#[test]
fn a_server_that_pauses_can_be_stopped() {
    run(async {
        let (server, address) = echo_server()?;
        until(|| server.state() == TaskState::ReadWait).await?;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let exhausted = Exhausted::new();
        socket.connect(&address.into())?;
        until(|| server.state() == TaskState::TimeSleep).await?;
        server.stop(None).await?;
        drop(exhausted);
        assert!(refused(address).await);
        Ok(())
    });
}

#[test]
fn what_is_wrong_with_one_connection_is_no_error_of_an_accept() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let source = Source::new(listener.as_fd().as_raw_fd());
        let acceptor = Acceptor::new();
        let script = RefCell::new(vec![
            Ok(1),
            Err(Errno::CONNABORTED),
            Err(Errno::NOBUFS),
            Err(Errno::NOMEM),
            Err(Errno::HOSTUNREACH),
            Err(Errno::INTR),
        ]);
        let next = |_: std::os::fd::BorrowedFd<'_>| -> io::Result<i32> {
            Ok(script.borrow_mut().pop().unwrap()?)
        };
        let mut reports = 0;
        assert_eq!(acceptor.accept(&source, next, |_| reports += 1).await?, 1);
        assert_eq!(reports, 1);
        // Others are.
        script.borrow_mut().push(Err(Errno::INVAL));
        let error = acceptor.accept(&source, next, |_| {}).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::INVAL.raw_os_error()));
        // So is a cancellation, in the pause, after somebody was sent away, and before it.
        script.borrow_mut().extend([Err(Errno::AGAIN), Ok(2), Err(Errno::MFILE)]);
        let limited = timeout_after(Duration::ZERO, acceptor.accept(&source, next, |_| {})).await;
        assert!(limited.unwrap_err().is_timeout());
        assert!(script.borrow().is_empty());
        script.borrow_mut().extend([Ok(3), Err(Errno::AGAIN)]);
        let limited = timeout_after(SOON, acceptor.accept(&source, next, |_| {})).await;
        assert!(limited.unwrap_err().is_timeout());
        source.close();
        drop(listener);
        Ok(())
    });
}
