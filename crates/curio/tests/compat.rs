//! Our streams as `futures_io`'s: readers and writers of one task and of two, cancellation, errors.
//!
//! The tests run one after the other, because they count the descriptors of the process.

mod common;

use std::io::{self, ErrorKind};
use std::time::Duration;

use curio::net::{Compat, TcpListener, TcpStream, UnixStream};
use curio::{Error, Result, TaskState, Transport, sleep, spawn, timeout_after};
use futures::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

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

fn pair() -> Result<(Compat<UnixStream>, Compat<UnixStream>)> {
    let (one, other) = UnixStream::pair()?;
    Ok((one.compat(), other.compat()))
}

#[test]
fn lines_over_tcp_by_somebody_elses_reader() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let server = spawn(async move {
            let (client, _) = listener.accept().await?;
            let (reader, mut writer) = client.compat().split();
            let mut reader = BufReader::new(reader);
            let mut line = String::new();
            while reader.read_line(&mut line).await? > 0 {
                writer.write_all(line.as_bytes()).await?;
                line.clear();
            }
            writer.close().await?;
            Ok(())
        });
        let mut client = TcpStream::connect(address).await?.compat();
        client.write_all(b"Hello\nWorld").await?;
        client.flush().await?;
        client.close().await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        assert_eq!(answer, "Hello\nWorld");
        server.join().await
    });
}

const SIZE: usize = 3_000_000;

fn data() -> Vec<u8> {
    (0..SIZE).map(|place| (place % 251) as u8).collect()
}

#[test]
fn one_task_moves_both_directions_at_once() {
    run(async {
        let (one, other) = pair()?;
        let end = |stream: Compat<UnixStream>| async move {
            let (mut reader, mut writer) = stream.split();
            let (sent, mut received) = (data(), vec![0; SIZE]);
            let (read, written) =
                futures::join!(reader.read_exact(&mut received), writer.write_all(&sent));
            written?;
            read?;
            assert!(received == sent);
            Ok(())
        };
        let (one, other) = (spawn(end(one)), spawn(end(other)));
        one.join().await?;
        other.join().await
    });
}

#[test]
fn two_tasks_have_a_half_each() {
    run(async {
        let (one, other) = pair()?;
        let (mut other_reader, mut other_writer) = other.split();
        let echo = spawn(async move {
            futures::io::copy(&mut other_reader, &mut other_writer).await?;
            other_writer.close().await?;
            Ok(())
        });
        let (mut reader, mut writer) = one.split();
        let sender = spawn(async move {
            writer.write_all(&data()).await?;
            writer.close().await?;
            Ok(())
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await?;
        assert!(received == data());
        sender.join().await?;
        echo.join().await
    });
}

#[test]
fn a_cancellation_passes_through_code_that_knows_io_errors_only() {
    async fn foreign(stream: &mut Compat<UnixStream>) -> io::Result<u8> {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok(byte[0])
    }
    run(async {
        let (mut one, mut other) = pair()?;
        // A timeout of one's own, of an outer region, a cancellation.
        let limited = timeout_after(SOON, async { Ok(foreign(&mut one).await?) }).await;
        assert!(limited.unwrap_err().is_timeout());
        let outer = timeout_after(SOON, async {
            let limited = timeout_after(HANG, async { Ok(foreign(&mut one).await?) }).await;
            assert!(limited.as_ref().unwrap_err().is_timeout_cancellation());
            limited
        });
        assert!(outer.await.unwrap_err().is_timeout());
        let reader = spawn(async move {
            let error = foreign(&mut one).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Other);
            assert!(error.get_ref().unwrap().is::<Error>());
            // What it did not read is still there.
            let byte = foreign(&mut one).await?;
            assert_eq!(byte, b'!');
            Err::<(), _>(error.into())
        });
        until(&reader, TaskState::ReadWait).await?;
        reader.request_cancel();
        sleep(Duration::ZERO).await?;
        other.write_all(b"!").await?;
        reader.wait().await?;
        assert!(reader.join().await.unwrap_err().task_cause().unwrap().is_cancelled());
        Ok(())
    });
}

#[test]
fn what_was_ready_before_the_cancellation_is_read() {
    run(async {
        let (mut one, mut other) = pair()?;
        let reader = spawn(async move {
            let mut byte = [0];
            one.read_exact(&mut byte).await?;
            Ok(byte[0])
        });
        until(&reader, TaskState::ReadWait).await?;
        other.write_all(b"!").await?;
        until(&reader, TaskState::Ready).await?;
        reader.cancel().await?;
        assert_eq!(reader.join().await?, b'!');
        Ok(())
    });
}

#[test]
fn a_poll_that_is_not_finished_may_be_taken_up_by_another_task() {
    run(async {
        let (mut one, mut other) = pair()?;
        let first = spawn(async move {
            let mut byte = [0];
            let polled = futures::poll!(one.read(&mut byte));
            assert!(polled.is_pending());
            Ok(one)
        });
        let mut one = first.join().await?;
        let second = spawn(async move {
            let mut byte = [0];
            one.read_exact(&mut byte).await?;
            Ok(byte[0])
        });
        sleep(SOON).await?;
        other.write_all(b"!").await?;
        assert_eq!(second.join().await?, b'!');
        Ok(())
    });
}

#[test]
fn errors_of_the_system_keep_their_numbers() {
    run(async {
        let (mut one, other) = pair()?;
        drop(other);
        let error = one.write_all(b"!").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        let error = Error::from(error);
        assert!(error.raw_os_error().is_some());
        let error = io::Error::from(error);
        assert!(error.raw_os_error().is_some());
        let error = io::Error::from(Error::other("mine"));
        assert!(error.to_string().contains("mine"));
        assert!(one.get_ref().peer_addr().is_ok() || one.into_inner().local_addr().is_ok());
        Ok(())
    });
}

#[test]
fn who_never_waits_starves_nobody() {
    run(async {
        let (mut one, mut other) = pair()?;
        let pump = spawn(async move {
            let mut buffer = [0; 100];
            loop {
                one.write_all(&[0; 100]).await?;
                other.read_exact(&mut buffer).await?;
            }
            #[allow(unreachable_code)]
            Ok(())
        });
        for _ in 0..10 {
            sleep(Duration::from_millis(1)).await?;
        }
        pump.cancel().await?;
        Ok(())
    });
}
