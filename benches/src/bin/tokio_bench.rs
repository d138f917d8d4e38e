//! The loops on tokio's current-thread runtime.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use curio_benches::{Command, FAR, Last, cpu_time, datagrams, listen, report, stagger, tls};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::{channel, unbounded_channel};
use tokio::sync::{Mutex, Notify};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

fn main() {
    let command = Command::from_args();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match command.name.as_str() {
            "echo" => echo(command.number(0, 65_536)).await,
            "lines" => lines(command.number(0, 65_536)).await,
            "tls" => tls_echo(command.number(0, 65_536)).await,
            "udp" => udp_echo(command.number(0, 65_536)).await,
            "switch" => switch(command.number(0, 1_000), command.number(1, 10_000_000)).await,
            "spawn_join" => spawn_join(command.number(0, 1_000_000)).await,
            "spawn_many" => spawn_many(command.number(0, 1_000_000)).await,
            "timeout" => immediate_timeout(command.number(0, 5_000_000)).await,
            "cancel" => cancel(command.number(0, 50_000)).await,
            "sleepers" => sleepers(command.number(0, 100_000)).await,
            "queue_pingpong" => queue_pingpong(command.number(0, 2_000_000)).await,
            "queue_bounded" => {
                queue_bounded(command.number(0, 100), command.number(1, 5_000_000)).await;
            }
            "lock_free" => lock_free(command.number(0, 20_000_000)).await,
            "lock_contended" => {
                lock_contended(command.number(0, 10), command.number(1, 2_000_000)).await;
            }
            "event_wake" => {
                event_wake(command.number(0, 10_000), command.number(1, 2_000_000)).await;
            }
            _ => command.unknown(),
        }
    });
}

async fn nothing() {}

async fn switch(tasks: usize, count: usize) {
    let rounds = (count / tasks).max(1);
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            tokio::spawn(async move {
                for _ in 0..rounds {
                    yield_now().await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    for handle in handles {
        handle.await.expect("a finished task");
    }
    report(start.elapsed(), rounds * tasks);
}

async fn spawn_join(count: usize) {
    // In a task: the future of `block_on` is woken in another, slower way.
    let parent = tokio::spawn(async move {
        let start = Instant::now();
        for _ in 0..count {
            tokio::spawn(nothing()).await.expect("a finished task");
        }
        report(start.elapsed(), count);
    });
    parent.await.expect("a finished task");
}

async fn spawn_many(count: usize) {
    let start = Instant::now();
    let handles: Vec<_> = (0..count).map(|_| tokio::spawn(nothing())).collect();
    for handle in handles {
        handle.await.expect("a finished task");
    }
    report(start.elapsed(), count);
}

async fn immediate_timeout(count: usize) {
    let start = Instant::now();
    for i in 0..count {
        let inner = async { black_box(i) };
        black_box(timeout(FAR, inner).await).expect("no timeout");
    }
    report(start.elapsed(), count);
}

async fn cancel(count: usize) {
    let handles: Vec<_> = (0..count).map(|_| tokio::spawn(sleep(FAR))).collect();
    settle(count).await;
    let start = Instant::now();
    for handle in &handles {
        handle.abort();
    }
    for handle in handles {
        assert!(handle.await.is_err_and(|error| error.is_cancelled()));
    }
    report(start.elapsed(), count);
}

async fn sleepers(count: usize) {
    let start = cpu_time();
    let handles: Vec<_> = (0..count).map(|i| tokio::spawn(sleep(stagger(i)))).collect();
    for handle in handles {
        handle.await.expect("a finished task");
    }
    report(cpu_time() - start, count);
}

async fn queue_pingpong(count: usize) {
    let (to_there, mut there) = unbounded_channel();
    let (to_back, mut back) = unbounded_channel();
    let rounds = count / 2;
    // Neither is the future of `block_on`, which is woken in another, slower way.
    let other = tokio::spawn(async move {
        for _ in 0..rounds {
            let item: usize = there.recv().await.expect("a message");
            to_back.send(item).expect("a receiver");
        }
    });
    let one = tokio::spawn(async move {
        let start = Instant::now();
        for i in 0..rounds {
            to_there.send(i).expect("a receiver");
            black_box(back.recv().await);
        }
        start.elapsed()
    });
    report(one.await.expect("a finished task"), rounds * 2);
    other.await.expect("a finished task");
}

async fn queue_bounded(size: usize, count: usize) {
    let (sender, mut receiver) = channel(size);
    let producer = tokio::spawn(async move {
        for i in 0..count {
            sender.send(i).await.expect("a receiver");
        }
    });
    let consumer = tokio::spawn(async move {
        let start = Instant::now();
        for _ in 0..count {
            black_box(receiver.recv().await);
        }
        start.elapsed()
    });
    report(consumer.await.expect("a finished task"), count);
    producer.await.expect("a finished task");
}

async fn lock_free(count: usize) {
    let task = tokio::spawn(async move {
        let lock = Mutex::new(0_usize);
        let start = Instant::now();
        for _ in 0..count {
            *lock.lock().await += 1;
        }
        start.elapsed()
    });
    report(task.await.expect("a finished task"), count);
}

async fn lock_contended(tasks: usize, count: usize) {
    let rounds = (count / tasks).max(1);
    let lock = Arc::new(Mutex::new(0_usize));
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            let lock = Arc::clone(&lock);
            tokio::spawn(async move {
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
        handle.await.expect("a finished task");
    }
    report(start.elapsed(), rounds * tasks);
}

async fn event_wake(tasks: usize, count: usize) {
    let rounds = (count / tasks).max(1);
    let mut elapsed = Duration::ZERO;
    for _ in 0..rounds {
        let event = Arc::new(Notify::new());
        let last = Arc::new(Last::of(tasks));
        let handles: Vec<_> = (0..tasks)
            .map(|_| {
                let (event, last) = (Arc::clone(&event), Arc::clone(&last));
                tokio::spawn(async move {
                    event.notified().await;
                    last.arrived();
                })
            })
            .collect();
        settle(tasks).await;
        let start = Instant::now();
        event.notify_waiters();
        for handle in handles {
            handle.await.expect("a finished task");
        }
        elapsed += last.when() - start;
    }
    report(elapsed, rounds * tasks);
}

/// Lets every task that was just spawned reach its sleep.
async fn settle(count: usize) {
    for _ in 0..count / 16 + 2 {
        yield_now().await;
    }
}

fn listener() -> TcpListener {
    TcpListener::from_std(listen().expect("a listener")).expect("a listener")
}

async fn echo(buffer: usize) {
    let listener = listener();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(serve(stream, buffer));
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, buffer: usize) {
    let mut buffer = vec![0; buffer];
    while let Ok(size @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..size]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
}

async fn lines(buffer: usize) {
    let listener = listener();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(serve_lines(stream, buffer));
    }
}

async fn serve_lines(stream: TcpStream, buffer: usize) {
    let mut stream = BufReader::with_capacity(buffer, stream);
    let mut line = Vec::new();
    while let Ok(1..) = stream.read_until(b'\n', &mut line).await {
        if stream.write_all(&line).await.is_err() {
            break;
        }
        line.clear();
    }
}

async fn tls_echo(buffer: usize) {
    let acceptor = TlsAcceptor::from(tls::server().expect("a certificate"));
    let listener = listener();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let handshake = acceptor.accept(stream);
        tokio::spawn(async move {
            if let Ok(stream) = handshake.await {
                serve(stream, buffer).await;
            }
        });
    }
}

async fn udp_echo(buffer: usize) {
    let socket = UdpSocket::from_std(datagrams().expect("a socket")).expect("a socket");
    let mut buffer = vec![0; buffer];
    // In a task: the future of `block_on` is woken in another, slower way.
    let task = tokio::spawn(async move {
        loop {
            let (size, from) = socket.recv_from(&mut buffer).await.expect("a datagram");
            socket.send_to(&buffer[..size], from).await.expect("room for a datagram");
        }
    });
    task.await.expect("a task that does not end");
}
