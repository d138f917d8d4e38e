//! UDP over loopback: what arrives, what waits, what a cancellation leaves behind.
//!
//! The tests run one after the other, because they count the descriptors of the process.

mod common;

use std::io::ErrorKind;
use std::net::UdpSocket as StdSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::Duration;

use curio::net::UdpSocket;
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

fn socket() -> Result<UdpSocket> {
    UdpSocket::bind("127.0.0.1:0")
}

async fn until(task: &curio::TaskRef, state: TaskState) -> Result<()> {
    while task.state() != state {
        sleep(Duration::ZERO).await?;
    }
    Ok(())
}

#[test]
fn datagrams_keep_their_bounds_and_say_whose_they_are() {
    run(async {
        let (one, other) = (socket()?, socket()?);
        let to = other.local_addr()?;
        for message in [&b"Hello"[..], b"", b"World!"] {
            assert_eq!(one.send_to(message, to).await?, message.len());
        }
        let mut buffer = [0; 100];
        let from = one.local_addr()?;
        assert_eq!(other.recv_from(&mut buffer).await?, (5, from));
        assert_eq!(&buffer[..5], b"Hello");
        assert_eq!(other.recv_from(&mut buffer).await?, (0, from));
        assert_eq!(other.peek_from(&mut buffer[..3]).await?, (3, from));
        // What did not fit is lost, but not of what was only looked at.
        assert_eq!(other.recv(&mut buffer[..4]).await?, 4);
        assert_eq!(&buffer[..4], b"Worl");
        let nothing = timeout_after(SOON, other.recv(&mut buffer)).await;
        assert!(nothing.unwrap_err().is_timeout());
        Ok(())
    });
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    run(async {
        let (one, other, stranger) = (socket()?, socket()?, socket()?);
        assert_eq!(one.peer_addr().unwrap_err().as_io().unwrap().kind(), ErrorKind::NotConnected);
        one.connect(other.local_addr()?)?;
        other.connect(one.local_addr()?)?;
        assert_eq!(one.peer_addr()?, other.local_addr()?);
        stranger.send_to(b"psst", other.local_addr()?).await?;
        assert_eq!(one.send(b"Hello").await?, 5);
        let mut buffer = [0; 100];
        assert_eq!(other.recv(&mut buffer).await?, 5);
        assert_eq!(&buffer[..5], b"Hello");
        let nothing = timeout_after(SOON, other.recv(&mut buffer)).await;
        assert!(nothing.unwrap_err().is_timeout());
        Ok(())
    });
}

#[test]
fn a_peer_that_is_not_there_is_an_error_of_a_later_call() {
    run(async {
        let gone = StdSocket::bind("127.0.0.1:0")?.local_addr()?;
        let one = socket()?;
        one.connect(gone)?;
        one.send(b"Hello").await?;
        let error = one.recv(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::ConnectionRefused);
        // It was said; the socket is as good as before.
        let nothing = timeout_after(SOON, one.recv(&mut [0; 10])).await;
        assert!(nothing.unwrap_err().is_timeout());
        Ok(())
    });
}

#[test]
fn errors_of_the_system() {
    run(async {
        let one = socket()?;
        let error = UdpSocket::bind(one.local_addr()?).err().unwrap();
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::AddrInUse);
        assert!(UdpSocket::bind(&[one.local_addr()?, "127.0.0.1:0".parse().unwrap()][..]).is_ok());
        let error = one.send(b"to whom?").await.unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
        let error = one.send_to(&[0; 70_000], one.local_addr()?).await.unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
        let broadcast = "255.255.255.255:9".parse().unwrap();
        let error = one.send_to(b"all", broadcast).await.unwrap_err();
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::PermissionDenied);
        one.set_broadcast(true)?;
        Ok(())
    });
}

#[test]
fn a_cancelled_receiver_has_taken_nothing() {
    run(async {
        let (one, other) = (Rc::new(socket()?), socket()?);
        let to = one.local_addr()?;
        let receive = || {
            let one = one.clone();
            spawn(async move {
                let mut buffer = [0; 10];
                let count = one.recv(&mut buffer).await?;
                Ok(buffer[..count].to_vec())
            })
        };
        let receiver = receive();
        until(&receiver, TaskState::ReadWait).await?;
        assert!(one.recv_from(&mut [0; 10]).await.unwrap_err().is_busy());
        receiver.cancel().await?;
        other.send_to(b"one", to).await?;
        assert_eq!(receive().join().await?, b"one");

        // It has arrived, and the kernel knows, before the cancellation: a result.
        let receiver = receive();
        until(&receiver, TaskState::ReadWait).await?;
        other.send_to(b"two", to).await?;
        until(&receiver, TaskState::Ready).await?;
        receiver.cancel().await?;
        assert_eq!(receiver.join().await?, b"two");

        // It arrives after the cancellation: left for the next.
        let receiver = receive();
        until(&receiver, TaskState::ReadWait).await?;
        receiver.request_cancel();
        other.send_to(b"three", to).await?;
        receiver.wait().await?;
        assert!(receiver.join().await.unwrap_err().task_cause().unwrap().is_cancelled());
        assert_eq!(receive().join().await?, b"three");
        Ok(())
    });
}

#[test]
fn a_descriptors_number_may_come_back_at_once() {
    run(async {
        let sender = socket()?;
        let (mut last, mut reused) = (-1, 0);
        for round in 0..100u8 {
            let one = socket()?;
            let number = one.as_fd().as_raw_fd();
            reused += usize::from(number == last);
            last = number;
            let to = one.local_addr()?;
            let receiver = spawn(async move {
                let mut buffer = [0; 10];
                one.recv(&mut buffer).await?;
                Ok(buffer[0])
            });
            until(&receiver, TaskState::ReadWait).await?;
            if round % 2 == 0 {
                sender.send_to(&[round], to).await?;
                assert_eq!(receiver.join().await?, round);
            } else {
                // Its event is on the way when it is closed.
                receiver.request_cancel();
                sender.send_to(&[round], to).await?;
                receiver.wait().await?;
            }
        }
        assert!(reused > 50, "{reused}: not what this test is about");
        Ok(())
    });
}

#[test]
fn who_always_has_something_starves_nobody() {
    run(async {
        let (one, other) = (socket()?, socket()?);
        let to = other.local_addr()?;
        let pump = spawn(async move {
            loop {
                one.send_to(b"and on", to).await?;
            }
            #[allow(unreachable_code)]
            Ok(())
        });
        for _ in 0..10 {
            sleep(Duration::from_millis(1)).await?;
            other.recv(&mut [0; 10]).await?;
        }
        pump.cancel().await?;
        Ok(())
    });
}
