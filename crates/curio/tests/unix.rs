//! Unix sockets: paths and their errors, connections, datagrams and their queues.
//!
//! The tests run one after the other, because they count the descriptors of the process.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use curio::net::{UnixDatagram, UnixListener, UnixStream};
use curio::{Error, Result, Stream, TaskState, sleep, spawn, timeout_after};
use socket2::{Domain, SockAddr, Socket, Type};

use common::{Folder, alone, descriptors};

const HANG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(5);

/// Runs a program in a folder; all descriptors are closed after it.
fn run<T: 'static, F: Future<Output = Result<T>> + 'static>(
    program: impl FnOnce(PathBuf) -> F,
) -> T {
    let _alone = alone();
    let folder = Folder::new("unix");
    let before = descriptors();
    let result = curio::run(timeout_after(HANG, program(folder.0.clone()))).unwrap();
    assert_eq!(descriptors(), before);
    result
}

async fn until(task: &curio::TaskRef, state: TaskState) -> Result<()> {
    while task.state() != state {
        sleep(Duration::ZERO).await?;
    }
    Ok(())
}

fn check(error: &Error, kind: ErrorKind, path: &Path, text: &str) {
    assert_eq!(error.as_io().unwrap().kind(), kind, "{error}");
    let message = error.to_string();
    assert!(message.contains(&format!("{path:?}")), "{message}");
    assert!(message.contains(text), "{message}");
}

#[test]
fn an_echo_and_the_path_stays() {
    run(|folder| async move {
        let path = folder.join("socket");
        let listener = UnixListener::bind(&path)?;
        assert_eq!(listener.local_addr()?.as_pathname(), Some(&*path));
        let server = spawn(async move {
            let (stream, address) = listener.accept().await?;
            assert!(address.is_unnamed());
            let mut buffer = [0; 10];
            loop {
                match stream.recv(&mut buffer).await? {
                    0 => return Ok(()),
                    count => stream.send_all(&buffer[..count]).await?,
                }
            }
        });
        let client = UnixStream::connect(&path).await?;
        assert_eq!(client.peer_addr()?.as_pathname(), Some(&*path));
        assert!(client.local_addr()?.is_unnamed());
        client.send_all(b"something longer than a buffer").await?;
        client.shutdown(Shutdown::Write)?;
        let mut answer = [0; 30];
        client.recv_exact(&mut answer).await?;
        assert_eq!(&answer, b"something longer than a buffer");
        assert_eq!(client.recv(&mut [0; 1]).await?, 0);
        server.join().await?;
        assert!(path.exists());
        check(&UnixListener::bind(&path).err().unwrap(), ErrorKind::AddrInUse, &path, "remove it");
        let error = UnixStream::connect(&path).await.err().unwrap();
        check(&error, ErrorKind::ConnectionRefused, &path, "nobody is there");
        fs::remove_file(&path)?;
        UnixListener::bind(&path)?;
        Ok(())
    });
}

#[test]
fn what_is_wrong_with_a_path_is_said() {
    run(|folder| async move {
        let file = folder.join("file");
        fs::write(&file, "")?;
        check(&UnixListener::bind(&file).err().unwrap(), ErrorKind::AddrInUse, &file, "no socket");
        let error = UnixStream::connect(&file).await.err().unwrap();
        check(&error, ErrorKind::ConnectionRefused, &file, "it is no socket");
        assert!(error.raw_os_error().is_some());

        let missing = folder.join("missing");
        let error = UnixStream::connect(&missing).await.err().unwrap();
        check(&error, ErrorKind::NotFound, &missing, "connect to");
        let nowhere = missing.join("socket");
        check(&UnixDatagram::bind(&nowhere).err().unwrap(), ErrorKind::NotFound, &nowhere, "bind");

        let long = folder.join("long".repeat(30));
        let error = UnixListener::bind(&long).err().unwrap();
        check(&error, ErrorKind::InvalidInput, &long, "too long");
        let error = UnixStream::connect(&long).await.err().unwrap();
        check(&error, ErrorKind::InvalidInput, &long, "too long");
        let fits = folder.join("x".repeat(106 - folder.as_os_str().len()));
        assert_eq!(fits.as_os_str().len(), 107);
        UnixListener::bind(&fits)?;

        let datagrams = folder.join("datagrams");
        let receiver = UnixDatagram::bind(&datagrams)?;
        let error = UnixStream::connect(&datagrams).await.err().unwrap();
        assert!(error.to_string().contains("another type"), "{error}");
        drop(receiver);
        for odd in ["", "a\0b"] {
            let error = UnixDatagram::bind(odd).err().unwrap();
            check(&error, ErrorKind::InvalidInput, Path::new(odd), "the path");
        }
        Ok(())
    });
}

#[test]
fn a_pair_under_a_stream() {
    run(|_| async {
        let (one, other) = UnixStream::pair()?;
        let (one, other) = (Stream::new(one), Stream::new(other));
        one.write(b"Hello\nWorld").await?;
        one.shutdown().await?;
        assert_eq!(other.read_line().await?.unwrap(), b"Hello\n");
        assert_eq!(other.read_line().await?.unwrap(), b"World");
        assert_eq!(other.read_line().await?, None);
        // Half of it is still open.
        other.write(b"Bye").await?;
        other.close().await?;
        assert_eq!(one.read_to_end().await?, b"Bye");
        Ok(())
    });
}

#[test]
fn busy_and_cancelled_readers_and_writers() {
    run(|_| async {
        let (one, other) = UnixStream::pair()?;
        let (one, other) = (Rc::new(one), Rc::new(other));
        let reader = spawn({
            let one = one.clone();
            async move { one.recv(&mut [0; 10]).await }
        });
        until(&reader, TaskState::ReadWait).await?;
        assert!(one.recv(&mut [0; 10]).await.unwrap_err().is_busy());
        reader.cancel().await?;
        let writer = spawn({
            let other = other.clone();
            async move { other.send_all(&vec![7; 10_000_000]).await }
        });
        until(&writer, TaskState::WriteWait).await?;
        assert!(other.send(b"!").await.unwrap_err().is_busy());
        writer.cancel().await?;
        let error = writer.join().await.unwrap_err();
        let sent = error.task_cause().unwrap().bytes_done().unwrap();
        // Just what was sent arrives.
        let mut received = 0;
        drop(other);
        let mut buffer = vec![0; 100_000];
        loop {
            match one.recv(&mut buffer).await? {
                0 => break,
                count => received += count,
            }
        }
        assert_eq!(received, sent);
        Ok(())
    });
}

#[test]
fn a_full_backlog_is_waited_for_and_can_be_given_up() {
    run(|folder| async move {
        let path = folder.join("socket");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        listener.bind(&SockAddr::unix(&path)?)?;
        listener.listen(0)?;
        let _first = UnixStream::connect(&path).await?;
        let limited = timeout_after(SOON, UnixStream::connect(&path)).await;
        assert!(limited.err().unwrap().is_timeout());
        let second = spawn(UnixStream::connect(path));
        until(&second, TaskState::TimeSleep).await?;
        let _served = listener.accept()?;
        second.join().await?;
        Ok(())
    });
}

#[test]
fn datagrams_have_bounds_and_addresses() {
    run(|folder| async move {
        let (here, there) = (folder.join("here"), folder.join("there"));
        let (one, other) = (UnixDatagram::bind(&here)?, UnixDatagram::bind(&there)?);
        assert_eq!(one.local_addr()?.as_pathname(), Some(&*here));
        one.send_to(b"Hello", &there).await?;
        one.send_to(b"", &there).await?;
        let mut buffer = [0; 100];
        let (count, address) = other.recv_from(&mut buffer).await?;
        assert_eq!((count, address.as_pathname()), (5, Some(&*here)));
        assert_eq!(other.recv(&mut buffer).await?, 0);
        let nameless = UnixDatagram::unbound()?;
        nameless.connect(&there)?;
        assert_eq!(nameless.peer_addr()?.as_pathname(), Some(&*there));
        nameless.send(b"guess who").await?;
        let (count, address) = other.recv_from(&mut buffer[..5]).await?;
        assert_eq!((count, address.is_unnamed()), (5, true));
        let (one, two) = UnixDatagram::pair()?;
        one.send(b"pair").await?;
        assert_eq!(two.recv(&mut buffer).await?, 4);
        drop(two);
        assert!(one.send(b"nobody").await.is_err());
        drop(other);
        let error = nameless.send_to(b"gone", &there).await.unwrap_err();
        check(&error, ErrorKind::ConnectionRefused, &there, "nobody is there");
        Ok(())
    });
}

/// The system never tells a sender that the queue of a receiver which is not its peer has room,
/// unless it was filled by that sender.
#[test]
fn a_full_queue_is_waited_for_whoever_has_filled_it() {
    run(|folder| async move {
        let path = folder.join("socket");
        let receiver = UnixDatagram::bind(&path)?;
        for own in [true, false] {
            let sender = Rc::new(UnixDatagram::unbound()?);
            let filler = if own { sender.clone() } else { Rc::new(UnixDatagram::unbound()?) };
            let mut filled = 0;
            while timeout_after(SOON, filler.send_to(&[1], &path)).await.is_ok() {
                filled += 1;
            }
            let waiting = spawn({
                let (sender, path) = (sender.clone(), path.clone());
                async move { sender.send_to(&[2], path).await }
            });
            until(&waiting, TaskState::WriteWait).await?;
            let cancelled = spawn({
                let (sender, path) = (sender.clone(), path.clone());
                async move { sender.send_to(&[3], path).await }
            });
            until(&cancelled, TaskState::WriteWait).await?;
            cancelled.cancel().await?;
            let mut byte = [0];
            for _ in 0..filled {
                receiver.recv(&mut byte).await?;
                assert_eq!(byte, [1]);
            }
            waiting.join().await?;
            receiver.recv(&mut byte).await?;
            assert_eq!(byte, [2], "what was given up was not sent");
        }
        // A sender's own room is the limit, too.
        let sender = UnixDatagram::unbound()?;
        let large = vec![9; 60_000];
        let mut sent = 0;
        while timeout_after(SOON, sender.send_to(&large, &path)).await.is_ok() {
            sent += 1;
        }
        assert!(sent > 0);
        let waiting = spawn(async move { sender.send_to(&large, path).await });
        until(&waiting, TaskState::WriteWait).await?;
        for _ in 0..sent {
            receiver.recv(&mut [0; 1]).await?;
        }
        waiting.join().await?;
        Ok(())
    });
}

#[test]
fn a_connected_sender_waits_for_its_peers_queue() {
    run(|_| async {
        let (one, other) = UnixDatagram::pair()?;
        let sender = spawn(async move {
            for round in 0..1000u16 {
                one.send(&round.to_be_bytes()).await?;
            }
            Ok(())
        });
        until(&sender, TaskState::WriteWait).await?;
        for round in 0..1000u16 {
            let mut buffer = [0; 2];
            other.recv(&mut buffer).await?;
            assert_eq!(u16::from_be_bytes(buffer), round);
        }
        sender.join().await
    });
}

#[test]
fn a_cancelled_accept_loses_no_connection() {
    run(|folder| async move {
        let path = folder.join("socket");
        let listener = Rc::new(UnixListener::bind(&path)?);
        let accept = || {
            let listener = listener.clone();
            spawn(async move { Ok(listener.accept().await?.0) })
        };
        let accepter = accept();
        until(&accepter, TaskState::ReadWait).await?;
        assert!(listener.accept().await.err().unwrap().is_busy());
        accepter.request_cancel();
        let client = UnixStream::connect(&path).await?;
        accepter.wait().await?;
        assert!(accepter.join().await.err().unwrap().task_cause().unwrap().is_cancelled());
        let served = accept().join().await?;
        served.send_all(b"!").await?;
        assert_eq!(client.recv(&mut [0; 1]).await?, 1);
        Ok(())
    });
}

#[test]
fn a_descriptors_number_may_come_back_at_once() {
    run(|_| async {
        let (mut last, mut reused) = (-1, 0);
        for _ in 0..100 {
            let (one, other) = UnixStream::pair()?;
            let number = one.as_fd().as_raw_fd();
            reused += usize::from(number == last);
            last = number;
            let reader = spawn(async move { one.recv(&mut [0; 10]).await });
            until(&reader, TaskState::ReadWait).await?;
            other.send_all(b"late").await?;
            reader.cancel().await?;
        }
        assert!(reused > 50, "{reused}: not what this test is about");
        Ok(())
    });
}
