//! TCP over loopback: what an operation gives, what it leaves behind, who waits for whom.
//!
//! Real sockets on a real kernel; peers are the standard library's sockets where a test
//! must decide what is on the wire at a given moment. The tests run one after the other,
//! because they count the descriptors of the process.
//!
//! Closing a socket while another task waits on it has no test: the waiting borrows it,
//! so such a program does not compile.

mod common;

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::Duration;

use curio::net::{TcpListener, TcpStream};
use curio::{Error, Kernel, Result, TaskBuilder, TaskState, sleep, spawn, timeout_after};

use common::{alone, descriptors};

const YIELD: Duration = Duration::ZERO;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Runs a program; all descriptors are closed after it.
fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    let _alone = alone();
    let before = descriptors();
    let result = curio::run(program).unwrap();
    assert_eq!(descriptors(), before);
    result
}

fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Two ends of a connection, the second one a blocking socket of the standard library.
async fn with_peer() -> Result<(TcpStream, StdStream)> {
    let (listener, address) = listen()?;
    let peer = StdStream::connect(address)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, peer))
}

async fn pair() -> Result<(TcpStream, TcpStream)> {
    let (listener, address) = listen()?;
    let one = TcpStream::connect(address).await?;
    let (other, _) = listener.accept().await?;
    Ok((one, other))
}

async fn echo(stream: TcpStream) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.recv(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.send_all(&buffer[..count]).await?;
    }
}

async fn echo_server(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        spawn(echo(stream));
    }
}

/// Waits until a task is in a state, by letting others run.
async fn until(task: &curio::TaskRef, state: TaskState) -> Result<()> {
    while task.state() != state {
        sleep(YIELD).await?;
    }
    Ok(())
}

#[test]
fn an_echo() {
    run(async {
        let (listener, address) = listen()?;
        let server = spawn(echo_server(listener));
        let client = TcpStream::connect(address).await?;
        client.set_nodelay(true)?;
        assert_eq!(client.peer_addr()?, address);
        for message in [&b"Hello"[..], b"", b"World"] {
            client.send_all(message).await?;
            let mut answer = vec![0; message.len()];
            client.recv_exact(&mut answer).await?;
            assert_eq!(answer, message);
        }
        client.shutdown(Shutdown::Write)?;
        assert_eq!(client.recv(&mut [0; 10]).await?, 0);
        assert_eq!(client.recv(&mut [0; 10]).await?, 0, "the end stays the end");
        server.cancel().await?;
        Ok(())
    });
}

#[test]
fn two_hundred_connections_at_once() {
    run(async {
        let (listener, address) = listen()?;
        let server = spawn(echo_server(listener));
        let clients: Vec<_> = (0..200u32)
            .map(|number| {
                spawn(async move {
                    let stream = TcpStream::connect(address).await?;
                    for round in 0..10u32 {
                        let message = (number * 1000 + round).to_be_bytes();
                        stream.send_all(&message).await?;
                        let mut answer = [0; 4];
                        stream.recv_exact(&mut answer).await?;
                        assert_eq!(answer, message);
                    }
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client.join().await?;
        }
        server.cancel().await?;
        Ok(())
    });
}

#[test]
fn a_large_transfer_arrives_whole() {
    const SIZE: usize = 5_000_000;
    run(async {
        let (one, other) = pair().await?;
        let data: Vec<u8> = (0..SIZE).map(|place| (place % 251) as u8).collect();
        let sent = data.clone();
        let sender = spawn(async move { one.send_all(&sent).await });
        let mut received = vec![0; SIZE];
        other.recv_exact(&mut received).await?;
        assert!(received == data);
        sender.join().await?;
        assert_eq!(other.recv(&mut [0; 1]).await?, 0);
        Ok(())
    });
}

#[test]
fn one_task_reads_while_another_writes() {
    run(async {
        let (one, other) = pair().await?;
        let server = spawn(echo(other));
        let one = Rc::new(one);
        let writer = spawn({
            let one = one.clone();
            async move {
                for _ in 0..100 {
                    one.send_all(&[7; 10_000]).await?;
                }
                one.shutdown(Shutdown::Write)
            }
        });
        let (mut total, mut buffer) = (0, vec![0; 3000]);
        loop {
            match one.recv(&mut buffer).await? {
                0 => break,
                count => total += count,
            }
        }
        assert_eq!(total, 1_000_000);
        writer.join().await?;
        server.join().await
    });
}

#[test]
fn a_reset_in_the_middle_of_send_all_says_how_much_was_sent() {
    run(async {
        let (stream, peer) = with_peer().await?;
        let sender = spawn(async move { stream.send_all(&vec![1; 100_000_000]).await });
        until(&sender, TaskState::WriteWait).await?;
        // Unread data makes it a reset.
        drop(peer);
        let error = sender.join().await.unwrap_err();
        let cause = error.task_cause().unwrap();
        let kind = cause.as_io().unwrap().kind();
        assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&kind), "{kind:?}");
        let done = cause.bytes_done().unwrap();
        assert!(done > 0 && done < 100_000_000, "{done}");
        Ok(())
    });
}

#[test]
fn a_reset_reaches_a_reader() {
    run(async {
        let (stream, peer) = with_peer().await?;
        stream.send_all(b"never read").await?;
        let reader = spawn(async move { stream.recv(&mut [0; 10]).await });
        until(&reader, TaskState::ReadWait).await?;
        drop(peer);
        let error = reader.join().await.unwrap_err();
        let kind = error.task_cause().unwrap().as_io().unwrap().kind();
        assert_eq!(kind, ErrorKind::ConnectionReset);
        Ok(())
    });
}

#[test]
fn a_second_reader_is_told_who_is_reading() {
    run(async {
        let (stream, mut peer) = with_peer().await?;
        let stream = Rc::new(stream);
        let reader = TaskBuilder::new().name("first").spawn({
            let stream = stream.clone();
            async move { stream.recv(&mut [0; 10]).await }
        });
        until(&reader, TaskState::ReadWait).await?;
        let error = stream.recv(&mut [0; 10]).await.unwrap_err();
        assert!(error.is_busy());
        let whose = format!("task {} (first) is already waiting to read", reader.id());
        assert!(error.to_string().starts_with(&whose), "{error}");
        // The first one is not disturbed, and writing is another matter.
        stream.send_all(b"fine").await?;
        peer.write_all(b"hello").unwrap();
        assert_eq!(reader.join().await?, 5);
        // Nobody is in the way any more, also not after a reader that gave up.
        assert!(timeout_after(ms(1), stream.recv(&mut [0; 1])).await.unwrap_err().is_timeout());
        peer.write_all(b"!").unwrap();
        assert_eq!(stream.recv(&mut [0; 10]).await?, 1);
        Ok(())
    });
}

#[test]
fn a_second_writer_and_a_second_accepter_are_told_as_well() {
    run(async {
        let (stream, peer) = with_peer().await?;
        let stream = Rc::new(stream);
        let writer = TaskBuilder::new().name("first").spawn({
            let stream = stream.clone();
            async move { stream.send_all(&vec![0; 100_000_000]).await }
        });
        until(&writer, TaskState::WriteWait).await?;
        let error = stream.send(b"me too").await.unwrap_err();
        assert!(error.is_busy());
        assert!(error.to_string().contains("(first) is already waiting to write"), "{error}");
        writer.cancel().await?;
        let error = writer.join().await.unwrap_err();
        assert!(error.task_cause().unwrap().bytes_done().unwrap() > 0);
        drop(peer);

        let (listener, address) = listen()?;
        let listener = Rc::new(listener);
        let accepter = spawn({
            let listener = listener.clone();
            async move { listener.accept().await.map(drop) }
        });
        until(&accepter, TaskState::ReadWait).await?;
        assert!(listener.accept().await.err().unwrap().is_busy());
        let _client = TcpStream::connect(address).await?;
        accepter.join().await
    });
}

#[test]
fn a_port_in_use_is_an_error_and_a_port_that_was_is_not() {
    run(async {
        let (listener, address) = listen()?;
        let error = TcpListener::bind(address).err().unwrap();
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::AddrInUse);
        // A connection that lingers does not keep the port.
        let client = TcpStream::connect(address).await?;
        let (served, _) = listener.accept().await?;
        drop((served, listener));
        TcpListener::bind(address)?;
        drop(client);
        Ok(())
    });
}

#[test]
fn a_refused_connection_is_an_error_and_the_next_address_is_tried() {
    run(async {
        let refusing = StdListener::bind("127.0.0.1:0")?.local_addr()?;
        let error = TcpStream::connect(refusing).await.err().unwrap();
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::ConnectionRefused);
        let (_listener, address) = listen()?;
        let stream = TcpStream::connect(&[refusing, address][..]).await?;
        assert_eq!(stream.peer_addr()?, address);
        Ok(())
    });
}

#[test]
fn a_descriptors_number_may_come_back_at_once() {
    run(async {
        let (listener, address) = listen()?;
        let (mut last, mut reused) = (-1, 0);
        for _ in 0..100 {
            let peer = StdStream::connect(address)?;
            let (stream, _) = listener.accept().await?;
            let number = stream.as_fd().as_raw_fd();
            reused += usize::from(number == last);
            last = number;
            // Registered, with somebody waiting, when it is closed.
            let reader = spawn(async move { stream.recv(&mut [0; 10]).await });
            until(&reader, TaskState::ReadWait).await?;
            // Its events may be on their way.
            (&peer).write_all(b"too late").unwrap();
            reader.cancel().await?;

            let mut next_peer = StdStream::connect(address)?;
            let (next, _) = listener.accept().await?;
            let reader = spawn(async move {
                let mut buffer = [0; 10];
                let count = next.recv(&mut buffer).await?;
                Ok(buffer[..count].to_vec())
            });
            until(&reader, TaskState::ReadWait).await?;
            next_peer.write_all(b"for you").unwrap();
            assert_eq!(reader.join().await?, b"for you");
        }
        assert!(reused > 50, "{reused}: not what this test is about");
        Ok(())
    });
}

#[test]
fn half_a_connection_can_be_closed() {
    run(async {
        let (one, other) = pair().await?;
        let server = spawn(async move {
            let mut request = Vec::new();
            let mut buffer = [0; 10];
            loop {
                match other.recv(&mut buffer).await? {
                    0 => break,
                    count => request.extend_from_slice(&buffer[..count]),
                }
            }
            other.send_all(b"you said: ").await?;
            other.send_all(&request).await
        });
        one.send_all(b"something long enough for several reads").await?;
        one.shutdown(Shutdown::Write)?;
        let mut answer = [0; 49];
        one.recv_exact(&mut answer).await?;
        assert_eq!(&answer, b"you said: something long enough for several reads");
        server.join().await
    });
}

/// A short read says that nothing is left; but not if the end of the stream is, for which
/// there may be no further event.
#[test]
fn data_and_the_end_that_come_together_are_both_seen() {
    for registered in [false, true] {
        for sizes in [[3, 100], [100, 100], [3, 7], [10, 1]] {
            run(async move {
                let (stream, mut peer) = with_peer().await?;
                if registered {
                    // The kernel has seen it before, and it is not ready.
                    let glance = timeout_after(ms(1), stream.recv(&mut [0; 1])).await;
                    assert!(glance.unwrap_err().is_timeout());
                }
                let reader = spawn(async move {
                    let mut seen = Vec::new();
                    for size in sizes.into_iter().chain(std::iter::repeat(50)) {
                        let mut buffer = vec![0; size];
                        match stream.recv(&mut buffer).await? {
                            0 => break,
                            count => seen.extend_from_slice(&buffer[..count]),
                        }
                    }
                    Ok(seen)
                });
                if registered {
                    until(&reader, TaskState::ReadWait).await?;
                }
                peer.write_all(b"0123456789").unwrap();
                drop(peer);
                assert_eq!(reader.join().await?, b"0123456789");
                Ok(())
            });
        }
    }
}

#[test]
fn data_that_comes_after_a_short_read_is_seen() {
    run(async {
        let (stream, mut peer) = with_peer().await?;
        let mut buffer = [0; 100];
        for round in 0..50u8 {
            peer.write_all(&[round; 10]).unwrap();
            assert_eq!(stream.recv(&mut buffer).await?, 10);
            // Sometimes the kernel looks in between, sometimes not.
            if round % 3 == 0 {
                sleep(ms(1)).await?;
            }
        }
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.recv(&mut buffer).await?, 0);
        Ok(())
    });
}

#[test]
fn a_given_up_recv_exact_says_how_much_it_has() {
    run(async {
        let (stream, mut peer) = with_peer().await?;
        peer.write_all(b"abc").unwrap();
        let mut buffer = [0; 5];
        let error = timeout_after(ms(5), stream.recv_exact(&mut buffer)).await.unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(error.bytes_done(), Some(3));
        assert_eq!(&buffer[..3], b"abc");
        let reader = spawn(async move {
            let mut buffer = [0; 5];
            stream.recv_exact(&mut buffer).await
        });
        peer.write_all(b"de").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let error = reader.join().await.unwrap_err();
        let cause = error.task_cause().unwrap();
        assert_eq!(cause.as_io().unwrap().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(cause.bytes_done(), Some(2));
        assert_eq!(cause.to_string(), "the stream ended after 2 of 5 bytes");
        Ok(())
    });
}

#[test]
fn who_never_has_to_wait_starves_nobody() {
    run(async {
        // The pump's writer and reader always find the stream ready, nearly.
        let (one, other) = pair().await?;
        let stop = Rc::new(Cell::new(false));
        let pumped = Rc::new(Cell::new(0u64));
        let writer = spawn({
            let stop = stop.clone();
            async move {
                let block = [0; 100];
                while !stop.get() {
                    one.send_all(&block).await?;
                }
                Ok(())
            }
        });
        let reader = spawn({
            let pumped = pumped.clone();
            async move {
                let mut buffer = [0; 100];
                loop {
                    match other.recv(&mut buffer).await? {
                        0 => return Ok(()),
                        count => pumped.set(pumped.get() + count as u64),
                    }
                }
            }
        });
        // Beside it, a sleeper and another connection get on.
        let sleeper = spawn(async {
            for _ in 0..20 {
                sleep(ms(1)).await?;
            }
            Ok(())
        });
        let (client, served) = pair().await?;
        let server = spawn(echo(served));
        for _ in 0..200 {
            client.send_all(b"ping").await?;
            client.recv_exact(&mut [0; 4]).await?;
        }
        drop(client);
        server.join().await?;
        sleeper.join().await?;
        assert!(pumped.get() > 0);
        stop.set(true);
        writer.join().await?;
        reader.join().await
    });
}

#[test]
fn a_listener_that_always_has_somebody_starves_nobody() {
    run(async {
        let (listener, address) = listen()?;
        let clients: Vec<_> = (0..500).map(|_| StdStream::connect(address).unwrap()).collect();
        let accepted = Rc::new(Cell::new(0));
        let accepter = spawn({
            let accepted = accepted.clone();
            async move {
                for _ in 0..500 {
                    listener.accept().await?;
                    accepted.set(accepted.get() + 1);
                }
                Ok(())
            }
        });
        sleep(YIELD).await?;
        sleep(YIELD).await?;
        assert!((1..500).contains(&accepted.get()), "{}", accepted.get());
        accepter.join().await?;
        drop(clients);
        Ok(())
    });
}

#[test]
fn a_socket_goes_from_one_kernel_to_the_next() {
    let _alone = alone();
    let before = descriptors();
    let mut first = Kernel::new().unwrap();
    let (stream, mut peer) = first
        .run(async {
            let (stream, peer) = with_peer().await?;
            // Registered with this kernel.
            let glance = timeout_after(ms(1), stream.recv(&mut [0; 1])).await;
            assert!(glance.unwrap_err().is_timeout());
            Ok((stream, peer))
        })
        .unwrap();
    first.shutdown().unwrap();
    drop(first);
    let stream = curio::run(async move {
        let reader = spawn(async move {
            let mut buffer = [0; 10];
            assert_eq!(stream.recv(&mut buffer).await?, 5);
            Ok(stream)
        });
        until(&reader, TaskState::ReadWait).await?;
        peer.write_all(b"hello").unwrap();
        reader.join().await
    })
    .unwrap();
    // Closed where there is no kernel at all.
    drop(stream);
    assert_eq!(descriptors(), before);
}

#[test]
fn a_dropped_kernel_closes_its_tasks_sockets() {
    let _alone = alone();
    let before = descriptors();
    let mut kernel = Kernel::new().unwrap();
    let mut peer = kernel
        .run(async {
            let (stream, peer) = with_peer().await?;
            let reader = TaskBuilder::new().daemon().spawn(echo(stream));
            until(&reader, TaskState::ReadWait).await?;
            Ok(peer)
        })
        .unwrap();
    drop(kernel);
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    drop(peer);
    assert_eq!(descriptors(), before);
}

#[test]
fn a_virtual_kernel_has_descriptors_and_no_time() {
    let _alone = alone();
    let start = std::time::Instant::now();
    let day = Duration::from_secs(86_400);
    curio::testing::virtual_kernel()
        .run(async move {
            let (listener, address) = listen()?;
            let server = spawn(async move {
                let (client, _) = listener.accept().await?;
                let mut word = [0; 5];
                client.recv_exact(&mut word).await?;
                sleep(day).await?;
                client.send_all(&word).await
            });
            let client = TcpStream::connect(address).await?;
            sleep(day).await?;
            client.send_all(b"hello").await?;
            let mut word = [0; 5];
            let early = timeout_after(day / 2, client.recv_exact(&mut word)).await;
            assert!(early.unwrap_err().is_timeout());
            client.recv_exact(&mut word).await?;
            assert_eq!(&word, b"hello");
            server.join().await
        })
        .unwrap();
    assert!(start.elapsed() < day);
    // A peer that says nothing is no reason to hang.
    let error = curio::testing::virtual_kernel()
        .run(async {
            let (listener, _) = listen()?;
            listener.accept().await.map(drop)
        })
        .unwrap_err();
    assert_eq!(error.as_io().unwrap().kind(), ErrorKind::Deadlock);
}

#[test]
fn sockets_outside_of_a_kernel_are_misuse() {
    let _alone = alone();
    let (listener, _) = listen().unwrap();
    let mut accept = std::pin::pin!(listener.accept());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = accept.as_mut().poll(&mut cx) else {
        panic!("nobody has connected")
    };
    assert!(Error::is_misuse(&error), "{error}");
}
