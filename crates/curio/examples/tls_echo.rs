//! An echo of lines over TLS, with a certificate made on the spot.
//!
//! Shows:  `net::tls` under a `Stream`: the handshake in the client's task and under a limit; a client
//!         that knows the server's certificate, and one that does not.
//! Start:  `cargo run --example tls_echo --features tls [ADDRESS]`
//!         With an ADDRESS, such as 127.0.0.1:25000, it serves until Ctrl-C; then, elsewhere:
//!         `openssl s_client -connect localhost:25000`

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use curio::net::tls::rustls::pki_types::PrivatePkcs8KeyDer;
use curio::net::tls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use curio::net::{TcpListener, TcpStream, serve, tls};
use curio::{Result, Stream, timeout_after};

const PATIENCE: Duration = Duration::from_secs(10);

async fn echo(client: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
    let stream = Stream::new(timeout_after(PATIENCE, tls::accept(client, config)).await?);
    while let Some(line) = stream.read_line().await? {
        stream.write(&line).await?;
    }
    stream.close().await
}

async fn client(address: SocketAddr, roots: RootCertStore) -> Result<()> {
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let stream = Stream::new(tls::connect(stream, "localhost", Arc::new(config)).await?);
    stream.write(b"Hello, in private\n").await?;
    let line = stream.read_line().await?.unwrap_or_default();
    print!("Answer: {}", String::from_utf8_lossy(&line));
    stream.close().await
}

fn main() -> Result<(), Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())?;
    let config = Arc::new(config);
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;

    let given = std::env::args().nth(1);
    let listener = TcpListener::bind(given.as_deref().unwrap_or("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    println!("Listening at {address}");
    curio::run(async move {
        let server = serve(listener, move |client, _address| echo(client, config.clone()));
        if given.is_some() {
            return server.join().await;
        }
        client(address, roots).await?;
        if let Err(error) = client(address, RootCertStore::empty()).await {
            println!("A client that does not know the certificate: {error}");
        }
        server.stop(Some(PATIENCE)).await
    })?;
    Ok(())
}
