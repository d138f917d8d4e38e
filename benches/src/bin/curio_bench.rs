//! The loops on our crate.

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use curio::net::{TcpListener, TcpStream, UdpSocket};
use curio::sync::{Event, Lock};
use curio::{Queue, Result, Stream, sleep, spawn, timeout_after};
use curio_benches::{Command, FAR, Last, cpu_time, report, stagger, tell_port, tls};
use rustix::net::sockopt;

fn main() -> Result<()> {
    let command = Command::from_args();
    curio::run(async move {
        match command.name.as_str() {
            "echo" => echo(command.number(0, 65_536)).await,
            "lines" => lines().await,
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
                queue_bounded(command.number(0, 100), command.number(1, 5_000_000)).await
            }
            "lock_free" => lock_free(command.number(0, 20_000_000)).await,
            "lock_contended" => {
                lock_contended(command.number(0, 10), command.number(1, 2_000_000)).await
            }
            "event_wake" => {
                event_wake(command.number(0, 10_000), command.number(1, 2_000_000)).await
            }
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

async fn queue_pingpong(count: usize) -> Result<()> {
    let there = Queue::unbounded();
    let back = Queue::unbounded();
    let rounds = count / 2;
    let other = {
        let (there, back) = (there.clone(), back.clone());
        spawn(async move {
            for _ in 0..rounds {
                let item: usize = there.get().await?;
                back.put(item).await?;
            }
            Ok(())
        })
    };
    let one = spawn(async move {
        let start = Instant::now();
        for i in 0..rounds {
            there.put(i).await?;
            black_box(back.get().await?);
        }
        Ok(start.elapsed())
    });
    report(one.join().await?, rounds * 2);
    other.join().await
}

async fn queue_bounded(size: usize, count: usize) -> Result<()> {
    let queue = Queue::bounded(size);
    let producer = {
        let queue = queue.clone();
        spawn(async move {
            for i in 0..count {
                queue.put(i).await?;
            }
            Ok(())
        })
    };
    let consumer = spawn(async move {
        let start = Instant::now();
        for _ in 0..count {
            black_box(queue.get().await?);
        }
        Ok(start.elapsed())
    });
    report(consumer.join().await?, count);
    producer.join().await
}

async fn lock_free(count: usize) -> Result<()> {
    let task = spawn(async move {
        let lock = Lock::new(0_usize);
        let start = Instant::now();
        for _ in 0..count {
            *lock.acquire().await? += 1;
        }
        Ok(start.elapsed())
    });
    report(task.join().await?, count);
    Ok(())
}

async fn lock_contended(tasks: usize, count: usize) -> Result<()> {
    let rounds = (count / tasks).max(1);
    let lock = Lock::new(0_usize);
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            let lock = lock.clone();
            spawn(async move {
                for _ in 0..rounds {
                    let mut guard = lock.acquire().await?;
                    *guard += 1;
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

async fn event_wake(tasks: usize, count: usize) -> Result<()> {
    let rounds = (count / tasks).max(1);
    let mut elapsed = Duration::ZERO;
    for _ in 0..rounds {
        let event = Event::new();
        let last = Rc::new(Last::of(tasks));
        let handles: Vec<_> = (0..tasks)
            .map(|_| {
                let (event, last) = (event.clone(), Rc::clone(&last));
                spawn(async move {
                    event.wait().await?;
                    last.arrived();
                    Ok(())
                })
            })
            .collect();
        // Each reaches its wait.
        sleep(Duration::ZERO).await?;
        let start = Instant::now();
        event.set().await?;
        for handle in handles {
            handle.join().await?;
        }
        elapsed += last.when() - start;
    }
    report(elapsed, rounds * tasks);
    Ok(())
}

async fn echo(buffer: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    tell_port(listener.local_addr()?.port())?;
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

async fn lines() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    tell_port(listener.local_addr()?.port())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        spawn(serve_lines(Stream::new(stream)));
    }
}

async fn serve_lines(stream: Stream<TcpStream>) -> Result<()> {
    while let Some(line) = stream.read_line().await? {
        stream.write(&line).await?;
    }
    Ok(())
}

async fn tls_echo(buffer: usize) -> Result<()> {
    let config = tls::server().expect("a certificate");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    tell_port(listener.local_addr()?.port())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let handshake = curio::net::tls::accept(stream, config.clone());
        spawn(async move {
            let stream = Stream::new(handshake.await?);
            let mut buffer = vec![0; buffer];
            while let Ok(size @ 1..) = stream.read(&mut buffer).await {
                stream.write(&buffer[..size]).await?;
            }
            Ok(())
        });
    }
}

async fn udp_echo(buffer: usize) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    sockopt::set_socket_recv_buffer_size(&socket, 1 << 20)?;
    tell_port(socket.local_addr()?.port())?;
    let mut buffer = vec![0; buffer];
    loop {
        let (size, from) = socket.recv_from(&mut buffer).await?;
        socket.send_to(&buffer[..size], from).await?;
    }
}
