//! The echo server again, with a function that does what every server does.
//!
//! Shows:  a server as a value: `serve` accepts, gives each client a task of its own, and
//!         says what went wrong with one; a client that is silent for a minute is sent home.
//! Start:  `cargo run --example echo_server [ADDRESS]`    then, elsewhere:  `nc localhost 25000`
//!         Ctrl-C ends the server.

use std::net::SocketAddr;
use std::time::Duration;

use curio::net::{TcpListener, TcpStream};
use curio::{Result, TaskBuilder, timeout_after};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `handler` for each client, in a task that is named after the client's address.
async fn serve<F: Future<Output = Result<()>> + 'static>(
    listener: TcpListener,
    handler: impl Fn(TcpStream, SocketAddr) -> F,
) -> Result<()> {
    loop {
        let (client, address) = listener.accept().await?;
        let handled = handler(client, address);
        TaskBuilder::new().name(format!("client {address}")).spawn(async move {
            match handled.await {
                Err(error) if error.is_timeout() => println!("{address} is silent: good bye"),
                // The kernel's shutdown is not the client's fault.
                Err(error) if !error.is_cancelled() => println!("{address}: {error}"),
                other => return other,
            }
            Ok(())
        });
    }
}

async fn echo_client(client: TcpStream, address: SocketAddr) -> Result<()> {
    println!("Connection from {address}");
    let mut buffer = vec![0; 65_536];
    loop {
        let count = timeout_after(PATIENCE, client.recv(&mut buffer)).await?;
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
    curio::run(serve(listener, echo_client))
}
