//! The echo server again, with a function that does what every server does.
//!
//! Shows:  `serve`: it accepts, gives each client a task of its own, reports what went wrong with
//!         one, and goes on when descriptors run out; a client that is silent for a minute is
//!         sent home.
//! Start:  `cargo run --example echo_server [ADDRESS]`    then, elsewhere:  `nc localhost 25000`
//!         Ctrl-C ends the server.

use std::net::SocketAddr;
use std::time::Duration;

use curio::net::{TcpListener, TcpStream, serve};
use curio::{Result, timeout_after};

const PATIENCE: Duration = Duration::from_secs(60);

async fn echo_client(client: TcpStream, address: SocketAddr) -> Result<()> {
    println!("Connection from {address}");
    let mut buffer = vec![0; 65_536];
    loop {
        let count = match timeout_after(PATIENCE, client.recv(&mut buffer)).await {
            Err(error) if error.is_timeout() => {
                println!("{address} is silent: good bye");
                return Ok(());
            }
            received => received?,
        };
        if count == 0 {
            break;
        }
        client.send_all(&buffer[..count]).await?;
    }
    println!("Connection closed");
    Ok(())
}

fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:25000".into());
    let listener = TcpListener::bind(address)?;
    println!("Listening at {}", listener.local_addr()?);
    curio::run(async { serve(listener, echo_client).join().await })
}
