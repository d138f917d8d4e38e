//! An echo server made of plain sockets: one task accepts, one task serves each client.
//!
//! Shows:  `curio::net`, the standard module with `await` behind what can block.
//! Start:  `cargo run --example echo [ADDRESS]`        then, elsewhere:  `nc localhost 25000`
//!         ADDRESS is such as 127.0.0.1:25000, the default; port 0 lets the system choose.
//!         Ctrl-C ends the server.

use std::net::SocketAddr;

use curio::Result;
use curio::net::{TcpListener, TcpStream};

async fn echo_client(client: TcpStream, address: SocketAddr) -> Result<()> {
    println!("Connection from {address}");
    let mut buffer = vec![0; 65_536];
    loop {
        let count = client.recv(&mut buffer).await?;
        if count == 0 {
            break;
        }
        client.send_all(&buffer[..count]).await?;
    }
    println!("Connection closed");
    Ok(())
}

async fn echo_server(address: String) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("Listening at {}", listener.local_addr()?);
    loop {
        let (client, address) = listener.accept().await?;
        curio::spawn(echo_client(client, address));
    }
}

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:25000".into());
    curio::run(echo_server(address))
}
