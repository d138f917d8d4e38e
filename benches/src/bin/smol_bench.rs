//! The loops on smol: its local executor, on one thread with its reactor.

use std::hint::black_box;
use std::net::{TcpStream, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use curio_benches::{Command, FAR, Last, cpu_time, datagrams, listen, report, stagger};
use event_listener::Event;
use smol::channel::{bounded, unbounded};
use smol::future::{or, yield_now};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::lock::Mutex;
use smol::{Async, LocalExecutor, Timer};

fn main() {
    let command = Command::from_args();
    // Leaked, so that a task can spawn others.
    let ex: &'static LocalExecutor<'static> = Box::leak(Box::new(LocalExecutor::new()));
    smol::block_on(ex.run(async {
        match command.name.as_str() {
            "echo" => echo(ex, command.number(0, 65_536)).await,
            "lines" => lines(ex, command.number(0, 65_536)).await,
            "udp" => udp_echo(command.number(0, 65_536)).await,
            "switch" => switch(ex, command.number(0, 1_000), command.number(1, 10_000_000)).await,
            "spawn_join" => spawn_join(ex, command.number(0, 1_000_000)).await,
            "spawn_many" => spawn_many(ex, command.number(0, 1_000_000)).await,
            "timeout" => immediate_timeout(command.number(0, 5_000_000)).await,
            "cancel" => cancel(ex, command.number(0, 50_000)).await,
            "sleepers" => sleepers(ex, command.number(0, 100_000)).await,
            "queue_pingpong" => queue_pingpong(ex, command.number(0, 2_000_000)).await,
            "queue_bounded" => {
                queue_bounded(ex, command.number(0, 100), command.number(1, 5_000_000)).await;
            }
            "lock_free" => lock_free(ex, command.number(0, 20_000_000)).await,
            "lock_contended" => {
                lock_contended(ex, command.number(0, 10), command.number(1, 2_000_000)).await;
            }
            "event_wake" => {
                event_wake(ex, command.number(0, 10_000), command.number(1, 2_000_000)).await;
            }
            _ => command.unknown(),
        }
    }));
}

async fn nothing() {}

async fn switch(ex: &LocalExecutor<'_>, tasks: usize, count: usize) {
    let rounds = (count / tasks).max(1);
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            ex.spawn(async move {
                for _ in 0..rounds {
                    yield_now().await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    for handle in handles {
        handle.await;
    }
    report(start.elapsed(), rounds * tasks);
}

async fn spawn_join(ex: &'static LocalExecutor<'static>, count: usize) {
    // In a task: the future of `block_on` is woken in another, slower way.
    let parent = ex.spawn(async move {
        let start = Instant::now();
        for _ in 0..count {
            ex.spawn(nothing()).await;
        }
        report(start.elapsed(), count);
    });
    parent.await;
}

async fn spawn_many(ex: &LocalExecutor<'_>, count: usize) {
    let start = Instant::now();
    let handles: Vec<_> = (0..count).map(|_| ex.spawn(nothing())).collect();
    for handle in handles {
        handle.await;
    }
    report(start.elapsed(), count);
}

async fn immediate_timeout(count: usize) {
    let start = Instant::now();
    for i in 0..count {
        let inner = async { Some(black_box(i)) };
        let timer = Timer::after(FAR);
        let late = async {
            timer.await;
            None
        };
        black_box(or(inner, late).await).expect("no timeout");
    }
    report(start.elapsed(), count);
}

async fn cancel(ex: &LocalExecutor<'_>, count: usize) {
    let handles: Vec<_> = (0..count).map(|_| ex.spawn(sleep(FAR))).collect();
    settle(count).await;
    let start = Instant::now();
    for handle in handles {
        assert!(handle.cancel().await.is_none());
    }
    report(start.elapsed(), count);
}

async fn sleepers(ex: &LocalExecutor<'_>, count: usize) {
    let start = cpu_time();
    let handles: Vec<_> = (0..count).map(|i| ex.spawn(sleep(stagger(i)))).collect();
    for handle in handles {
        handle.await;
    }
    report(cpu_time() - start, count);
}

async fn queue_pingpong(ex: &LocalExecutor<'_>, count: usize) {
    let (to_there, there) = unbounded();
    let (to_back, back) = unbounded();
    let rounds = count / 2;
    // Neither is the future of `block_on`, which is woken in another, slower way.
    let other = ex.spawn(async move {
        for _ in 0..rounds {
            let item: usize = there.recv().await.expect("a message");
            to_back.send(item).await.expect("a receiver");
        }
    });
    let one = ex.spawn(async move {
        let start = Instant::now();
        for i in 0..rounds {
            to_there.send(i).await.expect("a receiver");
            black_box(back.recv().await).expect("a message");
        }
        start.elapsed()
    });
    report(one.await, rounds * 2);
    other.await;
}

async fn queue_bounded(ex: &LocalExecutor<'_>, size: usize, count: usize) {
    let (sender, receiver) = bounded(size);
    let producer = ex.spawn(async move {
        for i in 0..count {
            sender.send(i).await.expect("a receiver");
        }
    });
    let consumer = ex.spawn(async move {
        let start = Instant::now();
        for _ in 0..count {
            black_box(receiver.recv().await).expect("an item");
        }
        start.elapsed()
    });
    report(consumer.await, count);
    producer.await;
}

async fn lock_free(ex: &LocalExecutor<'_>, count: usize) {
    let task = ex.spawn(async move {
        let lock = Mutex::new(0_usize);
        let start = Instant::now();
        for _ in 0..count {
            *lock.lock().await += 1;
        }
        start.elapsed()
    });
    report(task.await, count);
}

async fn lock_contended(ex: &LocalExecutor<'_>, tasks: usize, count: usize) {
    let rounds = (count / tasks).max(1);
    let lock = Rc::new(Mutex::new(0_usize));
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            let lock = Rc::clone(&lock);
            ex.spawn(async move {
                for _ in 0..rounds {
                    let mut guard = lock.lock().await;
                    *guard += 1;
                    yield_now().await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    for handle in handles {
        handle.await;
    }
    report(start.elapsed(), rounds * tasks);
}

async fn event_wake(ex: &LocalExecutor<'_>, tasks: usize, count: usize) {
    let rounds = (count / tasks).max(1);
    let mut elapsed = Duration::ZERO;
    for _ in 0..rounds {
        let event = Rc::new(Event::new());
        let last = Rc::new(Last::of(tasks));
        let handles: Vec<_> = (0..tasks)
            .map(|_| {
                let (event, last) = (Rc::clone(&event), Rc::clone(&last));
                ex.spawn(async move {
                    event.listen().await;
                    last.arrived();
                })
            })
            .collect();
        settle(tasks).await;
        let start = Instant::now();
        event.notify(usize::MAX);
        for handle in handles {
            handle.await;
        }
        elapsed += last.when() - start;
    }
    report(elapsed, rounds * tasks);
}

async fn sleep(delay: Duration) {
    Timer::after(delay).await;
}

/// Lets every task that was just spawned reach its sleep.
async fn settle(count: usize) {
    for _ in 0..count / 16 + 2 {
        yield_now().await;
    }
}

async fn echo(ex: &LocalExecutor<'_>, buffer: usize) {
    let listener = Async::new(listen().expect("a listener")).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        ex.spawn(serve(stream, buffer)).detach();
    }
}

async fn serve(mut stream: Async<TcpStream>, buffer: usize) {
    let mut buffer = vec![0; buffer];
    while let Ok(size @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..size]).await.is_err() {
            break;
        }
    }
}

async fn lines(ex: &LocalExecutor<'_>, buffer: usize) {
    let listener = Async::new(listen().expect("a listener")).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        ex.spawn(serve_lines(stream, buffer)).detach();
    }
}

async fn serve_lines(stream: Async<TcpStream>, buffer: usize) {
    let mut stream = BufReader::with_capacity(buffer, stream);
    let mut line = Vec::new();
    while let Ok(1..) = stream.read_until(b'\n', &mut line).await {
        if stream.get_mut().write_all(&line).await.is_err() {
            break;
        }
        line.clear();
    }
}

async fn udp_echo(buffer: usize) {
    let socket: Async<UdpSocket> = Async::new(datagrams().expect("a socket")).expect("a socket");
    let mut buffer = vec![0; buffer];
    loop {
        let (size, from) = socket.recv_from(&mut buffer).await.expect("a datagram");
        socket.send_to(&buffer[..size], from).await.expect("room for a datagram");
    }
}
