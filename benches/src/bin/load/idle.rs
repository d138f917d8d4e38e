//! Connections that are served once and then wait: what each adds to the server's memory.

use std::fs::read_to_string;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use crate::connection::CONNECTING;
use crate::{Options, line};

/// So many come first, and are not counted: what every server needs once is there then.
const FIRST: usize = 100;

/// After so long the server waits.
const SETTLED: Duration = Duration::from_millis(300);

#[expect(clippy::cast_precision_loss, reason = "the memory of one process")]
pub(crate) fn run(options: &Options) -> io::Result<()> {
    let request = line(options.size);
    let first = serve(options.addr, &request, FIRST)?;
    sleep(SETTLED);
    let before = resident(options.pid)?;
    let counted = serve(options.addr, &request, options.connections)?;
    sleep(SETTLED);
    let growth = resident(options.pid)? as f64 - before as f64;
    let bytes = growth / counted.len() as f64;
    println!("{{\"bytes\": {bytes:.1}, \"requests\": {}, \"errors\": 0}}", counted.len());
    drop(first);
    Ok(())
}

/// So many connections; each has had an echo when the next one comes.
fn serve(addr: SocketAddr, request: &[u8], count: usize) -> io::Result<Vec<TcpStream>> {
    let mut echo = vec![0; request.len()];
    (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect_timeout(&addr, CONNECTING)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(CONNECTING))?;
            stream.write_all(request)?;
            stream.read_exact(&mut echo)?;
            if echo != request {
                return Err(ErrorKind::InvalidData.into());
            }
            Ok(stream)
        })
        .collect()
}

/// Bytes of a process in memory, counted page by page.
fn resident(pid: u32) -> io::Result<u64> {
    let text = read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let kilobytes: u64 = kilobytes.ok_or(ErrorKind::InvalidData)?;
    Ok(kilobytes * 1_024)
}
