//! Streams: lines and blocks however the bytes arrive, and writes that are gathered.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use curio::net::{TcpListener, TcpStream};
use curio::{Result, Stream, sleep, spawn, timeout_after};
use proptest::prelude::*;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A stream, and its peer: a blocking socket of the standard library.
async fn with_peer() -> Result<(Stream<TcpStream>, StdStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let peer = StdStream::connect(listener.local_addr()?)?;
    peer.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (stream, _) = listener.accept().await?;
    Ok((Stream::new(stream), peer))
}

/// What the peer has received by now.
fn received(peer: &mut StdStream) -> Vec<u8> {
    peer.set_nonblocking(true).unwrap();
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match peer.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    peer.set_nonblocking(false).unwrap();
    all
}

#[test]
fn lines_end_where_they_end() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        peer.write_all(b"one\n\ntwo\nthe rest")?;
        drop(peer);
        let mut lines = Vec::new();
        while let Some(line) = stream.read_line().await? {
            lines.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(lines, ["one\n", "\n", "two\n", "the rest"]);
        assert_eq!(stream.read_line().await?, None);
        stream.close().await
    })
}

#[test]
fn a_line_longer_than_a_chunk() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        let mut line = vec![b'x'; 300_000];
        line.push(b'\n');
        let sent = line.clone();
        let sender = std::thread::spawn(move || {
            for _ in 0..3 {
                peer.write_all(&sent).unwrap();
            }
            peer
        });
        for _ in 0..3 {
            assert!(stream.read_line().await? == Some(line.clone()));
        }
        drop(sender.join().unwrap());
        assert_eq!(stream.read_line().await?, None);
        Ok(())
    })
}

#[test]
fn a_line_beyond_the_limit_stays_readable() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        stream.set_line_limit(10);
        peer.write_all(b"0123456789\nshort\n01234567890123\n")?;
        sleep(ms(5)).await?;
        let error = stream.read_line().await.unwrap_err();
        assert!(error.is_too_long());
        assert!(error.to_string().contains("11 bytes") && error.to_string().contains("10"));
        let mut start = [0; 11];
        stream.read_exact(&mut start).await?;
        assert_eq!(&start, b"0123456789\n");
        assert_eq!(stream.read_line().await?.as_deref(), Some(&b"short\n"[..]));
        // Nor does it go on collecting what never ends.
        let error = stream.read_line().await.unwrap_err();
        assert!(error.is_too_long(), "{error}");
        Ok(())
    })
}

#[test]
fn blocks_and_the_end() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        peer.write_all(b"abcdefgh")?;
        let mut block = [0; 5];
        stream.read_exact(&mut block).await?;
        assert_eq!(&block, b"abcde");
        let mut small = [0; 2];
        assert_eq!(stream.read(&mut small).await?, 2);
        assert_eq!(&small, b"fg");
        assert_eq!(stream.read(&mut []).await?, 0);
        drop(peer);
        let error = stream.read_exact(&mut block).await.unwrap_err();
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("1 of 5"), "{error}");
        // What had come is still there.
        assert_eq!(stream.read_to_end().await?, b"h");
        assert_eq!(stream.read(&mut small).await?, 0);
        Ok(())
    })
}

#[test]
fn what_was_read_before_a_timeout_is_kept() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        peer.write_all(b"half a ")?;
        let timed = timeout_after(ms(10), stream.read_line()).await;
        assert!(timed.unwrap_err().is_timeout());
        let mut block = [0; 100];
        assert!(timeout_after(ms(1), stream.read_exact(&mut block)).await.is_err());
        assert!(timeout_after(ms(1), stream.read_to_end()).await.is_err());
        peer.write_all(b"line\n")?;
        assert_eq!(stream.read_line().await?.as_deref(), Some(&b"half a line\n"[..]));
        Ok(())
    })
}

#[test]
fn small_writes_are_one_segment_at_the_end_of_the_turn() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        for _ in 0..10 {
            stream.write(b"0123456789").await?;
        }
        assert_eq!(received(&mut peer), b"");
        sleep(Duration::ZERO).await?;
        let mut buffer = [0; 1000];
        assert_eq!(peer.read(&mut buffer)?, 100);
        // Nor does a turn's end matter to who asks.
        stream.write(b"now").await?;
        stream.flush().await?;
        assert_eq!(peer.read(&mut buffer)?, 3);
        // A task that ends leaves nothing behind.
        let stream = Rc::new(stream);
        let writer = stream.clone();
        spawn(async move { writer.write(b"last words").await }).join().await?;
        assert_eq!(peer.read(&mut buffer)?, 10);
        // A dropped stream, too.
        stream.write(b"good bye").await?;
        drop(stream);
        sleep(Duration::ZERO).await?;
        assert_eq!(peer.read(&mut buffer)?, 8);
        assert_eq!(peer.read(&mut buffer)?, 0);
        Ok(())
    })
}

#[test]
fn a_peer_that_does_not_read_holds_the_writer_up_and_loses_nothing() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        rustix::net::sockopt::set_socket_send_buffer_size(stream.get_ref(), 4096)?;
        let stream = Rc::new(stream);
        let written = Rc::new(Cell::new(0));
        let writer = spawn({
            let (stream, written) = (stream.clone(), written.clone());
            async move {
                let mut number = 0u32;
                while written.get() < 8_000_000 {
                    let block: Vec<u8> =
                        (0..2500).flat_map(|i| (number + i).to_be_bytes()).collect();
                    number += 2500;
                    stream.write(&block).await?;
                    written.set(written.get() + block.len());
                }
                stream.flush().await
            }
        });
        sleep(ms(20)).await?;
        assert!(written.get() < 8_000_000, "the peer has read nothing yet");
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 8_000_000];
            peer.read_exact(&mut all).unwrap();
            all
        });
        writer.join().await?;
        // The rest is on its way: it needs no task.
        while !reader.is_finished() {
            sleep(ms(1)).await?;
        }
        let all = reader.join().unwrap();
        let numbers = all.chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap()));
        assert!(numbers.enumerate().all(|(i, number)| number as usize == i));
        Ok(())
    })
}

#[test]
fn what_is_gathered_goes_on_its_way_when_there_is_room_again() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        // Fill the system's buffers.
        let mut filled = 0;
        while let Ok(count) =
            rustix::net::send(stream.get_ref(), &[b'x'; 4096], rustix::net::SendFlags::DONTWAIT)
        {
            filled += count;
        }
        stream.write(b"and this").await?;
        sleep(Duration::ZERO).await?;
        // Now no task waits to write. The next write would.
        let late = timeout_after(ms(1), stream.write(b"!")).await;
        let error = late.unwrap_err();
        assert!(error.is_timeout());
        assert_eq!(error.bytes_done(), Some(0));
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; filled + 8];
            peer.read_exact(&mut all).unwrap();
            all
        });
        while !reader.is_finished() {
            sleep(ms(1)).await?;
        }
        assert!(reader.join().unwrap().ends_with(b"xxand this"));
        Ok(())
    })
}

#[test]
fn a_failure_that_nobody_waited_for_is_told_once() -> Result<()> {
    curio::run(async {
        let (stream, peer) = with_peer().await?;
        drop(peer);
        sleep(ms(5)).await?;
        stream.write(b"into the void").await?;
        sleep(ms(5)).await?;
        stream.write(b"again").await?;
        sleep(ms(5)).await?;
        let error = stream.write(b"and again").await.unwrap_err();
        let kind = error.as_io().unwrap().kind();
        assert!(matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
        assert_eq!(error.bytes_done(), Some(0));
        Ok(())
    })
}

#[test]
fn one_task_reads_while_another_writes() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        let stream = Rc::new(stream);
        let reader = spawn({
            let stream = stream.clone();
            async move { stream.read_line().await }
        });
        sleep(Duration::ZERO).await?;
        stream.write(b"question\n").await?;
        stream.flush().await?;
        let second = stream.read_line().await.unwrap_err();
        assert!(second.is_busy(), "{second}");
        let mut buffer = [0; 9];
        peer.read_exact(&mut buffer)?;
        peer.write_all(b"answer\n")?;
        assert_eq!(reader.join().await?.as_deref(), Some(&b"answer\n"[..]));
        Ok(())
    })
}

#[test]
fn many_lines_that_are_there_do_not_starve_others() -> Result<()> {
    curio::run(async {
        let (stream, mut peer) = with_peer().await?;
        peer.write_all(&b"\n".repeat(20_000))?;
        drop(peer);
        sleep(ms(5)).await?;
        let turns = Rc::new(Cell::new(0));
        let other = spawn({
            let turns = turns.clone();
            async move {
                loop {
                    turns.set(turns.get() + 1);
                    sleep(Duration::ZERO).await?;
                }
                #[allow(unreachable_code)]
                Result::<()>::Ok(())
            }
        });
        while stream.read_line().await?.is_some() {}
        assert!(turns.get() > 100, "{} turns during 20 000 lines", turns.get());
        other.cancel().await?;
        Ok(())
    })
}

/// One step of a reader.
#[derive(Clone, Debug)]
enum Step {
    Line,
    Some(usize),
    Exactly(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Line),
        1 => (0usize..40).prop_map(Step::Some),
        1 => (0usize..40).prop_map(Step::Exactly),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever pieces the bytes come in, and however they are taken, none is lost or doubled.
    #[test]
    fn every_byte_is_read_once(
        pieces in prop::collection::vec(prop::collection::vec(prop_oneof![3 => Just(b'a'), 1 => Just(b'\n')], 0..50), 0..20),
        steps in steps(),
    ) {
        let sent = pieces.concat();
        let read = curio::run(async move {
            let (stream, mut peer) = with_peer().await?;
            let sender = spawn(async move {
                for piece in pieces {
                    peer.write_all(&piece)?;
                    sleep(Duration::ZERO).await?;
                }
                Ok(())
            });
            let mut read = Vec::new();
            for step in steps {
                match step {
                    Step::Line => {
                        let line = stream.read_line().await?.unwrap_or_default();
                        let end = line.iter().position(|&byte| byte == b'\n');
                        assert!(end.is_none_or(|end| end + 1 == line.len()));
                        read.extend(line);
                    }
                    Step::Some(most) => {
                        let mut buffer = vec![0; most];
                        let count = stream.read(&mut buffer).await?;
                        read.extend(&buffer[..count]);
                    }
                    Step::Exactly(count) => {
                        let mut buffer = vec![0; count];
                        match stream.read_exact(&mut buffer).await {
                            Ok(()) => read.extend(&buffer),
                            Err(error) => assert!(error.as_io().is_some(), "{error}"),
                        }
                    }
                }
            }
            sender.join().await?;
            read.extend(stream.read_to_end().await?);
            Ok(read)
        });
        prop_assert_eq!(read.unwrap(), sent);
    }
}
