//! Every operation that can block, interrupted in every place where it does.
//!
//! Each program here uses a few operations, and states what must hold whatever has happened: what
//! was put in is still there or has come out, what was taken is free. Each is run once for each
//! place, cancelled and timed out there, in several orders of running; the descriptors are counted.
//! `make interrupt` prints a table of the programs, their places and their runs.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use curio::net::tls::rustls::pki_types::PrivatePkcs8KeyDer;
use curio::net::tls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use curio::net::{
    TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream, lookup, serve, tls,
    wait_readable, wait_writable,
};
use curio::sync::{Condition, Event, Lock, RLock, Semaphore};
use curio::testing::{Interrupter, Report};
use curio::{
    Error, LifoQueue, PriorityQueue, Queue, Result, SignalSet, Stream, TaskGroup, TaskState,
    WaitFor, check_cancellation, clock, disable_cancellation, ignore_after, ignore_at,
    run_in_thread, sched, sleep, sleep_until, spawn, timeout_after, timeout_at, universal,
};
use futures::future::LocalBoxFuture;

use common::{Folder, alone, descriptors};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1000);
const ORDERS: u64 = 5;

type Program = fn() -> LocalBoxFuture<'static, Result<()>>;

/// The programs, with the number of operations that each is about.
macro_rules! programs {
    ($($name:ident: $($operation:literal)*;)*) => {
        const PROGRAMS: &[(&str, &[&str], Program)] = &[$(
            (stringify!($name), &[$($operation),*], || Box::pin($name())),
        )*];
    };
}

programs! {
    sleeping: "sleep" "sleep_until";
    limits: "timeout_after" "timeout_at" "ignore_after" "ignore_at";
    shields: "disable_cancellation" "check_cancellation";
    tasks: "Task::join" "TaskRef::wait" "TaskRef::cancel" "TaskRef::cancel_children";
    groups: "TaskGroup::scope" "TaskGroup::next_done" "TaskGroup::next_result" "TaskGroup::join"
        "TaskGroup::cancel_remaining";
    events: "Event::wait" "Event::set";
    locks: "Lock::acquire";
    reentrant_locks: "RLock::acquire";
    semaphores: "Semaphore::acquire";
    conditions: "Condition::wait" "Condition::wait_for";
    queues: "Queue::put" "Queue::get" "Queue::join";
    lifo_queues: "LifoQueue::put" "LifoQueue::get" "LifoQueue::join";
    priority_queues: "PriorityQueue::put" "PriorityQueue::get" "PriorityQueue::join";
    universal_queues: "universal::Queue::put" "universal::Queue::get" "universal::Queue::join";
    universal_channels: "universal::Sender::send" "universal::Receiver::recv";
    universal_events: "universal::Event::wait";
    lines: "sched::Fifo::suspend" "sched::Barrier::suspend";
    signals: "SignalSet::watch" "SignalSet::wait" "Watching::wait";
    tcp: "TcpListener::accept" "TcpStream::connect" "TcpStream::open" "TcpStream::recv"
        "TcpStream::recv_exact" "TcpStream::send" "TcpStream::send_all" "lookup";
    unix: "UnixListener::accept" "UnixStream::connect" "UnixStream::recv" "UnixStream::recv_exact"
        "UnixStream::send" "UnixStream::send_all";
    datagrams: "UdpSocket::recv" "UdpSocket::recv_from" "UdpSocket::peek_from" "UdpSocket::send"
        "UdpSocket::send_to";
    unix_datagrams: "UnixDatagram::recv" "UnixDatagram::recv_from" "UnixDatagram::send"
        "UnixDatagram::send_to";
    readiness: "wait_readable" "wait_writable";
    streams: "Stream::read" "Stream::read_line" "Stream::read_exact" "Stream::read_to_end"
        "Stream::write" "Stream::flush" "Stream::shutdown" "Stream::close";
    servers: "Server::stop" "Server::cancel";
    secrets: "tls::accept" "tls::connect";
    threads: "run_in_thread";
}

/// Runs the parts as tasks, to their ends; if one fails, the others are cancelled.
async fn together(parts: Vec<LocalBoxFuture<'static, Result<()>>>) -> Result<()> {
    TaskGroup::scope(WaitFor::All, async |group: &TaskGroup<()>| {
        for part in parts {
            group.spawn(part)?;
        }
        Ok(())
    })
    .await
}

macro_rules! together {
    ($($part:expr),* $(,)?) => {
        together(vec![$(Box::pin($part) as LocalBoxFuture<'static, _>),*]).await
    };
}

// Time.

async fn sleeping() -> Result<()> {
    let before = clock()?;
    sleep(SECOND).await?;
    sleep_until(before + SECOND * 2).await?;
    assert_eq!(clock()?, before + SECOND * 2);
    Ok(())
}

async fn limits() -> Result<()> {
    let ended = timeout_after(SECOND, sleep(LONG)).await;
    assert!(ended.as_ref().is_err_and(|error| error.is_timeout() || error.is_cancellation()));
    let ended = ended.and(timeout_at(clock()? + SECOND, sleep(LONG)).await);
    assert!(ignore_after(SECOND, sleep(LONG)).await?.is_none());
    assert!(ignore_at(clock()? + SECOND, sleep(LONG)).await?.is_none());
    match ended {
        Err(error) if error.is_cancelled() => Err(error),
        _ => Ok(()),
    }
}

async fn shields() -> Result<()> {
    let done = Cell::new(0);
    let shielded = disable_cancellation(async {
        done.set(1);
        sleep(SECOND).await?;
        done.set(2);
        Ok(())
    })
    .await;
    assert_eq!(done.get(), 2);
    shielded?;
    check_cancellation()?;
    sleep(SECOND).await.map(drop)
}

// Tasks.

async fn ends<T>(result: T) -> Result<T> {
    sleep(SECOND).await?;
    Ok(result)
}

async fn tasks() -> Result<()> {
    let parent = spawn(async {
        drop(spawn(sleep(LONG)));
        let child = spawn(sleep(LONG));
        let ended = child.join().await.map(drop);
        let me = curio::current_task()?;
        disable_cancellation(me.cancel_children()).await?;
        assert!(me.children().is_empty());
        ended
    });
    let other = spawn(ends(5));
    let result: Result<()> = async {
        other.wait().await?;
        assert_eq!(other.join().await?, 5);
        Ok(())
    }
    .await;
    disable_cancellation(async {
        parent.cancel().await?;
        other.cancel().await
    })
    .await?;
    assert!(parent.terminated() && other.terminated());
    // Who was interrupted is another task.
    match result {
        Err(error) if error.is_cancellation() || error.is_timeout() => Err(error),
        _ => Ok(()),
    }
}

async fn groups() -> Result<()> {
    let members = RefCell::new(Vec::new());
    let result = TaskGroup::scope(WaitFor::All, async |group: &TaskGroup<u32>| {
        for number in 0..4 {
            members.borrow_mut().push(group.spawn(ends(number))?);
        }
        group.next_done().await?;
        group.next_result().await?;
        group.cancel_remaining().await
    })
    .await;
    assert!(members.borrow().iter().all(|task| task.terminated()));
    result?;
    let joined = TaskGroup::scope(WaitFor::Any, async |group: &TaskGroup<u32>| {
        group.spawn(ends(1))?;
        group.join().await
    });
    joined.await.map(drop)
}

// Primitives.

async fn events() -> Result<()> {
    let (event, passed) = (Event::new(), Rc::new(Cell::new(0)));
    let passes = || {
        let (event, passed) = (event.clone(), passed.clone());
        async move {
            event.wait().await?;
            assert!(event.is_set());
            passed.set(passed.get() + 1);
            Ok(())
        }
    };
    let sets = {
        let event = event.clone();
        async move { event.set().await }
    };
    together!(passes(), passes(), sets)?;
    assert_eq!(passed.get(), 2);
    Ok(())
}

async fn locks() -> Result<()> {
    let lock = Lock::new(false);
    let enters = || {
        let lock = lock.clone();
        async move {
            for _ in 0..2 {
                let mut inside = lock.acquire().await?;
                assert!(!std::mem::replace(&mut inside, true));
                let slept = sleep(SECOND).await;
                *inside = false;
                slept?;
            }
            Ok(())
        }
    };
    let ended = together!(enters(), enters(), enters());
    assert!(!lock.is_locked());
    ended
}

async fn reentrant_locks() -> Result<()> {
    let lock = RLock::new();
    let enters = || {
        let lock = lock.clone();
        async move {
            lock.acquire().await?;
            let again = lock.acquire().await;
            let slept = sleep(SECOND).await;
            if again.is_ok() {
                lock.release()?;
            }
            lock.release()?;
            again.and(slept.map(drop))
        }
    };
    let ended = together!(enters(), enters());
    assert!(!lock.is_locked());
    ended
}

async fn semaphores() -> Result<()> {
    let places = Semaphore::new(2);
    let enters = || {
        let places = places.clone();
        async move {
            let _place = places.acquire().await?;
            sleep(SECOND).await.map(drop)
        }
    };
    let ended = together!(enters(), enters(), enters(), enters());
    assert_eq!(places.value(), 2);
    ended
}

async fn conditions() -> Result<()> {
    let (items, more) = (Lock::new(Vec::new()), Condition::new());
    let waits_for = {
        let (items, more) = (items.clone(), more.clone());
        async move {
            let mut items = items.acquire().await?;
            more.wait_for(&mut items, |items| !items.is_empty()).await?;
            assert!(items.pop().is_some());
            more.notify(1);
            Ok(())
        }
    };
    let waits = {
        let (items, more) = (items.clone(), more.clone());
        async move {
            let mut items = items.acquire().await?;
            while items.is_empty() {
                more.wait(&mut items).await?;
            }
            items.pop();
            more.notify(1);
            Ok(())
        }
    };
    let gives = {
        let items = items.clone();
        async move {
            for item in 0..2 {
                sleep(SECOND).await?;
                items.acquire().await?.push(item);
                more.notify(1);
            }
            Ok(())
        }
    };
    let ended = together!(waits_for, waits, gives);
    assert!(!items.is_locked());
    ended
}

/// Items go from one task to another; those that were put are got, or are still there.
macro_rules! passes_items {
    ($queue:expr) => {{
        let (queue, put, got) = ($queue, Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let puts = {
            let (queue, put) = (queue.clone(), put.clone());
            async move {
                for item in 0..4 {
                    queue.put(item).await?;
                    put.set(put.get() + 1);
                }
                queue.join().await.map(drop)
            }
        };
        let gets = {
            let (queue, got) = (queue.clone(), got.clone());
            async move {
                for _ in 0..4 {
                    queue.get().await?;
                    got.set(got.get() + 1);
                    queue.task_done()?;
                }
                Ok(())
            }
        };
        let ended = together!(puts, gets);
        assert_eq!(put.get(), got.get() + queue.len());
        ended
    }};
}

async fn queues() -> Result<()> {
    passes_items!(Queue::bounded(1))
}

async fn lifo_queues() -> Result<()> {
    passes_items!(LifoQueue::bounded(1))
}

async fn priority_queues() -> Result<()> {
    passes_items!(PriorityQueue::bounded(1))
}

async fn universal_queues() -> Result<()> {
    passes_items!(universal::Queue::bounded(1))
}

async fn universal_channels() -> Result<()> {
    let (sender, receiver) = universal::channel(1);
    let (sent, received) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let sends = {
        let sent = sent.clone();
        async move {
            for item in 0..4 {
                sender.send(item).await?;
                sent.set(sent.get() + 1);
            }
            Ok(())
        }
    };
    let receives = {
        let (receiver, received) = (receiver.clone(), received.clone());
        async move {
            for item in 0..4 {
                assert_eq!(receiver.recv().await?, item);
                received.set(received.get() + 1);
            }
            Ok(())
        }
    };
    let ended = together!(sends, receives);
    assert_eq!(sent.get(), received.get() + receiver.queue().len());
    ended
}

async fn universal_events() -> Result<()> {
    let event = universal::Event::new();
    let (waits, sets) = (event.clone(), event);
    together!(async move { waits.wait().await }, async move {
        sleep(SECOND).await?;
        sets.set();
        Ok(())
    })
}

async fn lines() -> Result<()> {
    let (line, barrier) = (Rc::new(sched::Fifo::new()), Rc::new(sched::Barrier::new()));
    let stands = || {
        let (line, barrier) = (line.clone(), barrier.clone());
        async move {
            line.suspend(TaskState::named("LINE")).await?;
            barrier.suspend(TaskState::named("BARRIER")).await.map(drop)
        }
    };
    let lets_go = {
        let (line, barrier) = (line.clone(), barrier.clone());
        async move {
            for _ in 0..2 {
                sleep(SECOND).await?;
                line.wake(1);
            }
            sleep(SECOND).await?;
            barrier.wake();
            Ok(())
        }
    };
    let ended = together!(stands(), stands(), lets_go);
    assert!(line.is_empty() && barrier.is_empty());
    ended
}

async fn signals() -> Result<()> {
    // This thread: another would get it in its own time, perhaps when nobody watches any more.
    let tell = || signal_hook::low_level::raise(SIGNAL).unwrap();
    let signals = SignalSet::new([SIGNAL]);
    let watching = signals.watch().await?;
    tell();
    assert_eq!(watching.wait().await?, SIGNAL);
    tell();
    signals.wait().await.map(drop)
}

const SIGNAL: i32 = signal_hook::consts::SIGUSR1;

// Sockets.

async fn tcp() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    assert!(!lookup("127.0.0.1", 80).await?.is_empty());
    let accepts = async move {
        for _ in 0..2 {
            let (client, _) = listener.accept().await?;
            client.send_all(b"hello").await?;
            client.send(b"!").await?;
        }
        Ok(())
    };
    let connects = async move {
        for turn in 0..2 {
            let socket = match turn {
                0 => TcpStream::connect(address).await?,
                _ => TcpStream::open("127.0.0.1", address.port()).await?,
            };
            let mut data = [0; 5];
            socket.recv_exact(&mut data).await?;
            assert_eq!(&data, b"hello");
            assert_eq!(socket.recv(&mut data).await?, 1);
        }
        Ok(())
    };
    together!(accepts, connects)
}

async fn unix() -> Result<()> {
    let folder = Folder::new("interrupted");
    let path = folder.0.join("socket");
    let listener = UnixListener::bind(&path)?;
    let accepts = async move {
        let (client, _) = listener.accept().await?;
        client.send_all(b"hello").await?;
        client.send(b"!").await.map(drop)
    };
    let connects = async move {
        let socket = UnixStream::connect(path).await?;
        let mut data = [0; 5];
        socket.recv_exact(&mut data).await?;
        assert_eq!(&data, b"hello");
        assert_eq!(socket.recv(&mut data).await?, 1);
        Ok(())
    };
    together!(accepts, connects)
}

async fn datagrams() -> Result<()> {
    let (here, there) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    let address = there.local_addr()?;
    let sends = async move {
        here.send_to(b"one", address).await?;
        here.connect(address)?;
        sleep(SECOND).await?;
        here.send(b"two").await.map(drop)
    };
    let receives = async move {
        let mut data = [0; 10];
        assert_eq!(there.peek_from(&mut data).await?.0, 3);
        assert_eq!(there.recv_from(&mut data).await?.0, 3);
        assert_eq!(&data[..3], b"one");
        assert_eq!(there.recv(&mut data).await?, 3);
        assert_eq!(&data[..3], b"two");
        Ok(())
    };
    together!(sends, receives)
}

async fn unix_datagrams() -> Result<()> {
    let folder = Folder::new("interrupted");
    let path = folder.0.join("socket");
    let (here, there) = (UnixDatagram::unbound()?, UnixDatagram::bind(&path)?);
    let sends = async move {
        here.send_to(b"one", &path).await?;
        here.connect(&path)?;
        sleep(SECOND).await?;
        here.send(b"two").await.map(drop)
    };
    let receives = async move {
        let mut data = [0; 10];
        assert_eq!(there.recv_from(&mut data).await?.0, 3);
        assert_eq!(&data[..3], b"one");
        assert_eq!(there.recv(&mut data).await?, 3);
        assert_eq!(&data[..3], b"two");
        Ok(())
    };
    together!(sends, receives)
}

async fn readiness() -> Result<()> {
    let (one, other) = std::os::unix::net::UnixStream::pair()?;
    wait_writable(&one).await?;
    let writes = async move {
        sleep(SECOND).await?;
        std::io::Write::write_all(&mut &one, b"x")?;
        sleep(SECOND).await.map(drop)
    };
    together!(writes, async move { wait_readable(&other).await })
}

const TEXT: &[u8] = b"1\n22\n333\n4444\n55555\n";

async fn streams() -> Result<()> {
    let (one, other) = UnixStream::pair()?;
    let got = Rc::new(RefCell::new(Vec::new()));
    let writes = async move {
        let stream = Stream::new(one);
        stream.write(&TEXT[..7]).await?;
        stream.flush().await?;
        sleep(SECOND).await?;
        stream.write(&TEXT[7..]).await?;
        stream.shutdown().await?;
        stream.close().await
    };
    let reads = {
        let got = got.clone();
        async move {
            let (stream, mut data) = (Stream::new(other), [0; 3]);
            let count = stream.read(&mut data[..1]).await?;
            got.borrow_mut().extend_from_slice(&data[..count]);
            let line = stream.read_line().await?;
            got.borrow_mut().extend(line.unwrap_or_default());
            stream.read_exact(&mut data).await?;
            got.borrow_mut().extend_from_slice(&data);
            let rest = stream.read_to_end().await?;
            got.borrow_mut().extend(rest);
            Ok(())
        }
    };
    let ended = together!(writes, reads);
    assert!(TEXT.starts_with(&got.borrow()));
    assert!(ended.is_err() || TEXT.len() == got.borrow().len());
    ended
}

async fn greet(client: TcpStream) -> Result<()> {
    match client.send_all(b"hello").await {
        // Its client was interrupted, and has gone.
        Err(error) if error.as_io().is_some() => Ok(()),
        sent => sent,
    }
}

async fn servers() -> Result<()> {
    let mut ended = Ok(());
    for stop in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let server = serve(listener, |client, _| greet(client));
        let visit = async {
            let socket = TcpStream::connect(address).await?;
            let mut data = [0; 5];
            socket.recv_exact(&mut data).await?;
            assert_eq!(&data, b"hello");
            if stop { server.stop(Some(SECOND)).await } else { server.cancel().await.map(drop) }
        };
        ended = visit.await;
        disable_cancellation(server.cancel()).await?;
        assert!(server.clients().is_empty());
        if ended.is_err() {
            break;
        }
    }
    ended
}

fn certified() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

async fn secrets() -> Result<()> {
    let (theirs, ours) = certified();
    let (one, other) = UnixStream::pair()?;
    let serves = async move {
        let stream = Stream::new(tls::accept(other, theirs).await?);
        stream.write(b"hello\n").await?;
        stream.close().await
    };
    let asks = async move {
        let stream = Stream::new(tls::connect(one, "localhost", ours).await?);
        assert_eq!(stream.read_line().await?.as_deref(), Some(&b"hello\n"[..]));
        Ok(())
    };
    together!(serves, asks)
}

// Outside of the kernel.

async fn threads() -> Result<()> {
    assert_eq!(run_in_thread(|| 2 + 2).await?, 4);
    sleep(SECOND).await?;
    run_in_thread(|| ()).await
}

// The harness.

/// Whether a program that was interrupted may end so: a peer of who was interrupted sees its end.
fn is_consequence(error: &Error) -> bool {
    let cause = std::iter::successors(Some(error), |error| error.task_cause()).last();
    cause.is_some_and(|error| {
        error.is_cancellation()
            || error.is_timeout()
            || error.is_uncaught_timeout()
            || error.as_io().is_some()
    })
}

/// A thread may hold a kernel's descriptor a moment longer than the kernel.
fn closed(before: usize, name: &str) {
    for _ in 0..10_000 {
        if descriptors() == before {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{name}: {} descriptors, there were {before}", descriptors());
}

fn interrupt(name: &str, program: Program) -> Report {
    let before = descriptors();
    let mut total: Option<Report> = None;
    for order in 0..ORDERS {
        let interrupter = Interrupter::new().run_order_seed(order).any_error();
        let report = interrupter.run(program, |run| {
            let Err(error) = &run.result else { return };
            assert!(run.interruption.is_some() && is_consequence(error), "{error}");
        });
        let report = report.unwrap_or_else(|failure| panic!("{name}, order {order}: {failure}"));
        closed(before, name);
        match &mut total {
            None => total = Some(report),
            Some(total) => {
                total.points += report.points;
                total.runs += report.runs;
            }
        }
    }
    total.expect("there are orders")
}

#[test]
fn every_operation_in_every_place() {
    let _alone = alone();
    let before = descriptors();
    // The first of all starts threads, and what else stays.
    Interrupter::new().run(|| Box::pin(threads()), |_| ()).unwrap();
    closed(before, "at first");
    let (mut operations, mut points, mut runs) = (0, 0, 0);
    println!("{:<40} {:>10} {:>8} {:>8}", "program", "operations", "places", "runs");
    let mut row = |name: &str, about: usize, report: Report| {
        println!("{name:<40} {about:>10} {:>8} {:>8}", report.points, report.runs);
        operations += about;
        points += report.points;
        runs += report.runs;
    };
    for (name, about, program) in PROGRAMS {
        let report = interrupt(name, *program);
        assert!(report.points > 0, "{name} blocks nowhere");
        row(name, about.len(), report);
    }
    println!("{:<40} {operations:>10} {points:>8} {runs:>8}", "together");
}
