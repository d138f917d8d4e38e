//! The loops on our crate.

use std::hint::black_box;
use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use curio::net::{TcpListener, TcpStream};
use curio::{Result, sleep, spawn, timeout_after};
use curio_benches::{Command, FAR, cpu_time, report, stagger};

fn main() -> Result<()> {
    let command = Command::from_args();
    curio::run(async move {
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
    })
}

async fn nothing() -> Result<()> {
    Ok(())
}

async fn switch(tasks: usize, count: usize) -> Result<()> {
    let rounds = (count / tasks).max(1);
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            spawn(async move {
                for _ in 0..rounds {
                    sleep(Duration::ZERO).await?;
                }
                Ok(())
            })
        })
        .collect();
    let start = Instant::now();
    for handle in handles {
        handle.join().await?;
    }
    report(start.elapsed(), rounds * tasks);
    Ok(())
}

async fn spawn_join(count: usize) -> Result<()> {
    let start = Instant::now();
    for _ in 0..count {
        spawn(nothing()).join().await?;
    }
    report(start.elapsed(), count);
    Ok(())
}

async fn spawn_many(count: usize) -> Result<()> {
    let start = Instant::now();
    let handles: Vec<_> = (0..count).map(|_| spawn(nothing())).collect();
    for handle in handles {
        handle.join().await?;
    }
    report(start.elapsed(), count);
    Ok(())
}

async fn immediate_timeout(count: usize) -> Result<()> {
    let start = Instant::now();
    for i in 0..count {
        let inner = async { Ok(black_box(i)) };
        black_box(timeout_after(FAR, inner).await)?;
    }
    report(start.elapsed(), count);
    Ok(())
}

async fn cancel(count: usize) -> Result<()> {
    let handles: Vec<_> = (0..count).map(|_| spawn(sleep(FAR))).collect();
    // Each reaches its sleep.
    sleep(Duration::ZERO).await?;
    let start = Instant::now();
    for handle in &handles {
        handle.request_cancel();
    }
    for handle in handles {
        let error = handle.join().await.expect_err("a cancelled task");
        assert!(error.task_cause().is_some_and(curio::Error::is_cancelled));
    }
    report(start.elapsed(), count);
    Ok(())
}

async fn sleepers(count: usize) -> Result<()> {
    let start = cpu_time();
    let handles: Vec<_> = (0..count).map(|i| spawn(sleep(stagger(i)))).collect();
    for handle in handles {
        handle.join().await?;
    }
    report(cpu_time() - start, count);
    Ok(())
}

async fn echo(buffer: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("PORT {}", listener.local_addr()?.port());
    stdout().flush()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        spawn(serve(stream, buffer));
    }
}

async fn serve(stream: TcpStream, buffer: usize) -> Result<()> {
    let mut buffer = vec![0; buffer];
    while let Ok(size @ 1..) = stream.recv(&mut buffer).await {
        if stream.send_all(&buffer[..size]).await.is_err() {
            break;
        }
    }
    Ok(())
}
