//! The line buffer: bytes arrive in pieces of any size, and are read in any way, by a reader who
//! loses patience whenever they are not there. What is read is what was sent.

use std::collections::VecDeque;
use std::time::Duration;

use curio::net::UnixStream;
use curio::{Result, Stream, ignore_after, testing};

const PATIENCE: Duration = Duration::from_micros(1);

/// `script`: what is sent and read, by pairs of bytes.
pub(crate) fn run(script: &[u8]) {
    let script = script.to_vec();
    testing::virtual_kernel().run(follow(script)).unwrap();
}

async fn follow(script: Vec<u8>) -> Result<()> {
    let (writer, reader) = UnixStream::pair()?;
    let reader = Stream::new(reader);
    let mut there = VecDeque::new();
    for (turn, step) in script.chunks_exact(2).enumerate() {
        let size = usize::from(step[1]);
        match step[0] % 8 {
            // More pieces than reads; some of them large, some all of newlines.
            0..=3 => {
                let size = if step[0] >= 240 { size * 100 } else { size % 32 };
                let seldom = usize::from(step[0] / 8);
                let byte = |at: usize| match (at + turn).is_multiple_of(seldom + 1) {
                    true => b'\n',
                    false => at as u8,
                };
                let data: Vec<u8> = (0..size).map(byte).collect();
                let sent = ignore_after(PATIENCE, writer.send(&data)).await?.unwrap_or(0);
                there.extend(&data[..sent]);
            }
            4 => {
                let line = ignore_after(PATIENCE, reader.read_line()).await?;
                let end = there.iter().position(|&byte| byte == b'\n');
                let expected = end.map(|end| take(&mut there, end + 1));
                assert_eq!(line.map(|line| line.expect("it is not the end")), expected, "a line");
            }
            5 => {
                let mut room = vec![0; size * 10];
                let whole = ignore_after(PATIENCE, reader.read_exact(&mut room)).await?;
                assert_eq!(whole.is_some(), size * 10 <= there.len(), "all that was asked for");
                if whole.is_some() {
                    assert_eq!(room, take(&mut there, size * 10), "so many bytes");
                }
            }
            _ => {
                let mut room = vec![0; 1 + size];
                let count = ignore_after(PATIENCE, reader.read(&mut room)).await?;
                assert_eq!(count.is_some(), !there.is_empty(), "some bytes, if there are any");
                if let Some(count) = count {
                    assert!(count > 0, "it is not the end");
                    assert_eq!(room[..count], take(&mut there, count), "some bytes");
                }
            }
        }
    }
    drop(writer);
    assert_eq!(reader.read_to_end().await?, Vec::from(there), "the rest");
    assert_eq!(reader.read_line().await?, None);
    Ok(())
}

fn take(there: &mut VecDeque<u8>, count: usize) -> Vec<u8> {
    there.drain(..count).collect()
}
