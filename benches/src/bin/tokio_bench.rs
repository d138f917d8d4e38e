//! The loops on tokio's current-thread runtime.

use std::hint::black_box;
use std::time::Instant;

use curio_benches::{Command, FAR, cpu_time, listen, report, stagger};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

fn main() {
    let command = Command::from_args();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match command.name.as_str() {
            "echo" => echo(command.number(0, 65_536)).await,
            "switch" => switch(command.number(0, 1_000), command.number(1, 10_000_000)).await,
            "spawn_join" => spawn_join(command.number(0, 1_000_000)).await,
            "spawn_many" => spawn_many(command.number(0, 1_000_000)).await,
            "timeout" => immediate_timeout(command.number(0, 5_000_000)).await,
            "cancel" => cancel(command.number(0, 50_000)).await,
            "sleepers" => sleepers(command.number(0, 100_000)).await,
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
    let start = Instant::now();
    for _ in 0..count {
        tokio::spawn(nothing()).await.expect("a finished task");
    }
    report(start.elapsed(), count);
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

/// Lets every task that was just spawned reach its sleep.
async fn settle(count: usize) {
    for _ in 0..count / 16 + 2 {
        yield_now().await;
    }
}

async fn echo(buffer: usize) {
    let listener = TcpListener::from_std(listen().expect("a listener")).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(serve(stream, buffer));
    }
}

async fn serve(mut stream: TcpStream, buffer: usize) {
    let mut buffer = vec![0; buffer];
    while let Ok(size @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..size]).await.is_err() {
            break;
        }
    }
}
