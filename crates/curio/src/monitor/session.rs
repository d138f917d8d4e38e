//! A session: a client that gives commands, line by line, and reads the answers.
//!
//! What a client sends is bytes of any kind, from anybody who could connect; it is never more
//! than one line that is kept of them.

use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;
use socket2::Socket;

use super::commands::{self, Next, Subject};
use super::quiet;

/// What ends every answer.
const PROMPT: &str = "curio > ";

/// The longest line, in bytes.
const LONGEST: usize = 4096;

/// How long a client may take to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client may take to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves a client until it leaves, or is gone.
pub(super) fn serve(stream: &Socket, subject: &Subject<'_>) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut out = BufWriter::with_capacity(1 << 16, Client(stream));
    let ended = talk(&mut Lines::new(Client(stream)), subject, &mut out);
    // What is left in the buffer is nothing that anybody reads.
    let _ = out.into_parts();
    ended?;
    part(stream)
}

fn talk(
    lines: &mut Lines<Client<'_>>,
    subject: &Subject<'_>,
    out: &mut BufWriter<Client<'_>>,
) -> io::Result<()> {
    writeln!(out, "\nCurio Monitor: {} tasks running", subject.view.count())?;
    writeln!(out, "Type help for commands")?;
    let mut next = Next::Go;
    loop {
        out.write_all(PROMPT.as_bytes())?;
        out.flush()?;
        if let Next::Cancel(task) = next {
            subject.cancel(task);
        }
        next = match lines.next()? {
            Line::Text(line) if is_http(&line) => return Ok(()),
            Line::Text(line) => {
                let _answering = quiet::answering();
                commands::run(subject, &line, out)?
            }
            Line::TooLong => {
                writeln!(out, "Bad command. Line too long")?;
                Next::Go
            }
            Line::End => Next::Leave,
        };
        if let Next::Leave = next {
            writeln!(out, "Leaving monitor")?;
            return out.flush();
        }
    }
}

/// A page in a browser can make it send anything to a port of this machine, after a line that
/// looks like this.
fn is_http(line: &str) -> bool {
    line.ends_with(" HTTP/1.1") || line.ends_with(" HTTP/1.0")
}

/// Closes the connection so that the client has read the last words: a connection that is closed
/// before it is read to its end is reset.
fn part(stream: &Socket) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(FAREWELL))?;
    let (start, mut rest) = (Instant::now(), [0; 4096]);
    while start.elapsed() < FAREWELL && Client(stream).read(&mut rest)? > 0 {}
    Ok(())
}

/// A client's end of the connection.
struct Client<'a>(&'a Socket);

impl Read for Client<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.0;
        socket.read(buffer)
    }
}

impl Write for Client<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let start = Instant::now();
        // A client that has gone is an error, not a signal that may end the program.
        let count = rustix::net::send(self.0, data, SendFlags::NOSIGNAL)?;
        // One that has taken a part before it fell asleep is not given the same time again. The
        // system may have waited a tick less than it was told.
        if count < data.len() && start.elapsed() >= PATIENCE / 2 {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lines that a client sends.
struct Lines<R> {
    input: R,
    /// What has come, and is not a line yet.
    rest: Vec<u8>,
    /// In a line that was too long.
    dropping: bool,
    ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Text(String),
    TooLong,
    End,
}

impl<R: Read> Lines<R> {
    fn new(input: R) -> Self {
        Lines { input, rest: Vec::new(), dropping: false, ended: false }
    }

    fn next(&mut self) -> io::Result<Line> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).take(end).collect();
                if !std::mem::take(&mut self.dropping) {
                    return Ok(Line::of(&line));
                }
            } else if self.dropping {
                self.rest.clear();
            } else if self.rest.len() > LONGEST {
                self.dropping = true;
                return Ok(Line::TooLong);
            }
            if self.ended {
                let rest = std::mem::take(&mut self.rest);
                return Ok(if rest.is_empty() { Line::End } else { Line::of(&rest) });
            }
            if !self.rest.contains(&b'\n') {
                self.read()?;
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match self.input.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(count) => self.rest.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Line {
    fn of(bytes: &[u8]) -> Line {
        if bytes.len() > LONGEST {
            return Line::TooLong;
        }
        Line::Text(String::from_utf8_lossy(bytes).trim_end_matches('\r').into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<Line> {
        let mut lines = Lines::new(input);
        let next = || lines.next().unwrap();
        std::iter::repeat_with(next).take_while(|line| *line != Line::End).collect()
    }

    fn text(text: &str) -> Line {
        Line::Text(text.into())
    }

    #[test]
    fn lines_end_as_anybody_ends_them() {
        assert_eq!(
            lines(b"ps\nwhere 3\r\n\n  help  \nq"),
            [text("ps"), text("where 3"), text(""), text("  help  "), text("q")]
        );
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\xff\xfe\0\n"), [text("\u{fffd}\u{fffd}\0")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_to_its_end() {
        for length in [LONGEST, LONGEST + 1, 5 * LONGEST, 100_000] {
            let long = "x".repeat(length);
            let expected = if length > LONGEST { Line::TooLong } else { text(&long) };
            assert_eq!(
                lines(format!("ps\n{long}\nhelp\n").as_bytes()),
                [text("ps"), expected, text("help")]
            );
        }
        assert_eq!(lines("x".repeat(LONGEST + 1).as_bytes()), [Line::TooLong]);
    }

    #[test]
    fn a_browser_is_known_by_its_first_line() {
        assert!(is_http("POST / HTTP/1.1"));
        assert!(!is_http("ps"));
    }
}
