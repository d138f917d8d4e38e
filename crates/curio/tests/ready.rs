//! Waiting for descriptors that are not ours, or are ours and waited on already.
//!
//! The tests run one after the other, because they count the descriptors of the process.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::time::Duration;

use curio::net::{TcpListener, TcpStream, wait_readable, wait_writable};
use curio::{Result, TaskState, sleep, spawn, timeout_after};

use common::{alone, descriptors};

const HANG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(5);

/// Runs a program; all descriptors are closed after it.
fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    let _alone = alone();
    let before = descriptors();
    let result = curio::run(timeout_after(HANG, program)).unwrap();
    assert_eq!(descriptors(), before);
    result
}

async fn until(task: &curio::TaskRef, state: TaskState) -> Result<()> {
    while task.state() != state {
        sleep(Duration::ZERO).await?;
    }
    Ok(())
}

async fn with_peer() -> Result<(Rc<TcpStream>, StdStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let peer = StdStream::connect(listener.local_addr()?)?;
    Ok((Rc::new(listener.accept().await?.0), peer))
}

#[test]
fn what_is_ready_is_so_at_once_and_what_is_not_is_waited_for() {
    run(async {
        let (one, mut other) = StdUnixStream::pair()?;
        let one = Rc::new(one);
        wait_writable(&one).await?;
        for round in 0..10 {
            let waiting = spawn(wait_readable(one.clone()));
            until(&waiting, TaskState::ReadWait).await?;
            other.write_all(b"!")?;
            waiting.join().await?;
            // It stays so until somebody reads.
            wait_readable(&one).await?;
            assert_eq!((&*one).read(&mut [0; 10])?, 1, "{round}");
        }
        one.set_nonblocking(true)?;
        while (&*one).write(&[0; 10_000]).is_ok() {}
        let waiting = spawn(wait_writable(one.clone()));
        until(&waiting, TaskState::WriteWait).await?;
        // All of it: a little room is not enough for the system to say so.
        other.set_nonblocking(true)?;
        while other.read(&mut [0; 10_000]).is_ok() {}
        waiting.join().await?;
        // The end counts, too.
        let waiting = spawn(wait_readable(one.clone()));
        until(&waiting, TaskState::ReadWait).await?;
        drop(other);
        waiting.join().await
    });
}

#[test]
fn what_epoll_does_not_watch_is_always_ready() {
    run(async {
        let file = File::open(std::env::current_exe()?)?;
        wait_readable(&file).await?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        wait_readable(&null).await?;
        wait_writable(&null).await
    });
}

#[test]
fn a_wait_that_is_given_up_leaves_nothing_behind() {
    run(async {
        let (one, mut other) = StdUnixStream::pair()?;
        let before = descriptors();
        for _ in 0..3 {
            let limited = timeout_after(SOON, wait_readable(&one)).await;
            assert!(limited.unwrap_err().is_timeout());
            assert_eq!(descriptors(), before);
        }
        let shared = Rc::new(one);
        let waiting = spawn(wait_readable(shared.clone()));
        until(&waiting, TaskState::ReadWait).await?;
        waiting.request_cancel();
        other.write_all(b"!")?;
        waiting.wait().await?;
        assert!(waiting.join().await.unwrap_err().task_cause().unwrap().is_cancelled());

        // It became ready before the cancellation came.
        (&*shared).read_exact(&mut [0])?;
        let waiting = spawn(wait_readable(shared));
        until(&waiting, TaskState::ReadWait).await?;
        other.write_all(b"!")?;
        until(&waiting, TaskState::Ready).await?;
        waiting.cancel().await?;
        waiting.join().await?;
        assert_eq!(descriptors(), before - 1);
        Ok(())
    });
}

/// Epoll and the table of descriptors know registrations by number: a second one of the same number
/// took the first one's place, and nobody woke the task that waited there.
#[test]
fn a_socket_of_ours_keeps_its_registration() {
    run(async {
        let (stream, mut peer) = with_peer().await?;
        let read = || {
            let stream = stream.clone();
            spawn(async move { stream.recv(&mut [0; 10]).await })
        };
        for other_first in [false, true, false] {
            // In both orders; ours is registered before in the later rounds.
            let (reader, waiting);
            if other_first {
                waiting = spawn(wait_readable(stream.clone()));
                until(&waiting, TaskState::ReadWait).await?;
                reader = read();
                until(&reader, TaskState::ReadWait).await?;
            } else {
                reader = read();
                until(&reader, TaskState::ReadWait).await?;
                waiting = spawn(wait_readable(stream.clone()));
                until(&waiting, TaskState::ReadWait).await?;
            }
            peer.write_all(b"!")?;
            waiting.join().await?;
            assert_eq!(reader.join().await?, 1);
            // One that is given up does no harm either.
            let reader = read();
            until(&reader, TaskState::ReadWait).await?;
            let limited = timeout_after(SOON, wait_readable(&*stream)).await;
            assert!(limited.unwrap_err().is_timeout());
            peer.write_all(b"!")?;
            assert_eq!(reader.join().await?, 1);
        }
        Ok(())
    });
}

#[test]
fn several_may_wait_for_the_same() {
    run(async {
        let (one, mut other) = StdUnixStream::pair()?;
        let one = Rc::new(one);
        let waiting: Vec<_> = (0..5).map(|_| spawn(wait_readable(one.clone()))).collect();
        for task in &waiting {
            until(task, TaskState::ReadWait).await?;
        }
        other.write_all(b"!")?;
        for task in waiting {
            task.join().await?;
        }
        Ok(())
    });
}

#[test]
fn a_listener_of_the_standard_library_can_be_waited_for() {
    run(async {
        let listener = StdListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let client = spawn(TcpStream::connect(address));
        wait_readable(listener.as_fd()).await?;
        let (mut served, _) = listener.accept()?;
        let client = client.join().await?;
        served.write_all(b"Hello")?;
        client.recv_exact(&mut [0; 5]).await
    });
}

#[test]
fn who_always_finds_it_ready_starves_nobody() {
    run(async {
        let (one, _other) = StdUnixStream::pair()?;
        let busy = spawn(async move {
            loop {
                wait_writable(&one).await?;
            }
            #[allow(unreachable_code)]
            Ok(())
        });
        for _ in 0..10 {
            sleep(Duration::from_millis(1)).await?;
        }
        busy.cancel().await?;
        Ok(())
    });
}
