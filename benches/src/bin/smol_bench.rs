//! The loops on smol: its local executor, on one thread with its reactor.

use std::hint::black_box;
use std::net::TcpStream;
use std::time::Instant;

use curio_benches::{Command, FAR, cpu_time, listen, report, stagger};
use smol::future::{or, yield_now};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, LocalExecutor, Timer};

fn main() {
    let command = Command::from_args();
    let executor = LocalExecutor::new();
    let ex = &executor;
    smol::block_on(executor.run(async {
        match command.name.as_str() {
            "echo" => echo(ex, command.number(0, 65_536)).await,
            "switch" => switch(ex, command.number(0, 1_000), command.number(1, 10_000_000)).await,
            "spawn_join" => spawn_join(ex, command.number(0, 1_000_000)).await,
            "spawn_many" => spawn_many(ex, command.number(0, 1_000_000)).await,
            "timeout" => immediate_timeout(command.number(0, 5_000_000)).await,
            "cancel" => cancel(ex, command.number(0, 50_000)).await,
            "sleepers" => sleepers(ex, command.number(0, 100_000)).await,
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

async fn spawn_join(ex: &LocalExecutor<'_>, count: usize) {
    let start = Instant::now();
    for _ in 0..count {
        ex.spawn(nothing()).await;
    }
    report(start.elapsed(), count);
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

async fn sleep(delay: std::time::Duration) {
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
