//! UDP: an echo and its client.
//!
//! Shows:  datagrams, whose bounds are kept and which may be lost: so the client asks again.
//! Start:  `cargo run --example udp`                       both, in one program
//!         `cargo run --example udp server [ADDRESS]`      then, elsewhere:
//!         `cargo run --example udp client ADDRESS`        or  `nc -u localhost 25000`
//!         ADDRESS is such as 127.0.0.1:25000, the default of the server; Ctrl-C ends it.

use std::net::SocketAddr;
use std::time::Duration;

use curio::net::UdpSocket;
use curio::{Error, Result, ignore_after, spawn};

const PATIENCE: Duration = Duration::from_millis(500);

async fn echo(socket: UdpSocket) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let (count, address) = socket.recv_from(&mut buffer).await?;
        println!("{count} bytes from {address}");
        socket.send_to(&buffer[..count], address).await?;
    }
}

async fn client(server: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(server)?;
    let mut buffer = [0; 100];
    for message in ["Hello", "World"] {
        let mut tries = 0;
        let count = loop {
            socket.send(message.as_bytes()).await?;
            match ignore_after(PATIENCE, socket.recv(&mut buffer)).await? {
                Some(count) => break count,
                None if tries == 3 => return Err(Error::other(format!("{server} is silent"))),
                None => tries += 1,
            }
        };
        println!("Answer: {}", String::from_utf8_lossy(&buffer[..count]));
    }
    Ok(())
}

async fn both() -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    let server = spawn(echo(socket));
    client(address).await?;
    server.cancel().await?;
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (role, address) = (arguments.next(), arguments.next());
    let address = address.as_deref().unwrap_or("127.0.0.1:25000");
    let address: SocketAddr = address.parse().map_err(Error::other)?;
    match role.as_deref() {
        Some("server") => {
            let socket = UdpSocket::bind(address)?;
            println!("Listening at {}", socket.local_addr()?);
            curio::run(echo(socket))
        }
        Some("client") => curio::run(client(address)),
        _ => curio::run(both()),
    }
}
