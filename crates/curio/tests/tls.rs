//! TLS: agreeing, not agreeing, ends of all kinds, and both directions at once.
//!
//! Each test has a certificate of its own. The tests run one after the other, because they count the
//! descriptors of the process.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use curio::net::tls::rustls::pki_types::PrivatePkcs8KeyDer;
use curio::net::tls::rustls::{
    self, CertificateError, ClientConfig, ProtocolVersion, RootCertStore, ServerConfig,
};
use curio::net::tls::{self, TlsStream};
use curio::net::{TcpListener, TcpStream, UnixStream};
use curio::{Error, Result, Stream, TaskState, sleep, spawn, timeout_after};

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

/// A server's certificate, and clients that know it.
struct Configs {
    server: ServerConfig,
    client: ClientConfig,
}

impl Configs {
    fn new() -> Configs {
        Configs::with(rustls::ALL_VERSIONS)
    }

    fn with(versions: &[&'static rustls::SupportedProtocolVersion]) -> Configs {
        let names = ["localhost".into(), "127.0.0.1".into()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = ServerConfig::builder_with_protocol_versions(versions)
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key.into())
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let client = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(roots)
            .with_no_client_auth();
        Configs { server, client }
    }
}

type Ends<T> = (TlsStream<T>, TlsStream<T>);

/// The client's end, and the server's.
async fn agree<T: curio::Transport + 'static>(
    configs: Configs,
    (one, other): (T, T),
) -> Result<Ends<T>> {
    let server = spawn(tls::accept(other, Arc::new(configs.server)));
    let client = tls::connect(one, "localhost", Arc::new(configs.client)).await?;
    Ok((client, server.join().await?))
}

async fn tcp_pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?).await?;
    Ok((one, listener.accept().await?.0))
}

async fn streams() -> Result<(Stream<TlsStream<TcpStream>>, Stream<TlsStream<TcpStream>>)> {
    let (client, server) = agree(Configs::new(), tcp_pair().await?).await?;
    Ok((Stream::new(client), Stream::new(server)))
}

fn rustls_error(error: &Error) -> Option<&rustls::Error> {
    error.as_io()?.get_ref()?.downcast_ref()
}

fn kind(error: &Error) -> ErrorKind {
    error.as_io().unwrap_or_else(|| panic!("{error}")).kind()
}

#[test]
fn an_echo_of_lines_in_each_version() {
    for (version, name) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        run(async move {
            let (client, server) = agree(Configs::with(&[version]), tcp_pair().await?).await?;
            assert_eq!(client.protocol_version(), Some(name));
            let server = spawn(async move {
                let stream = Stream::new(server);
                while let Some(line) = stream.read_line().await? {
                    stream.write(&line).await?;
                }
                stream.close().await
            });
            let stream = Stream::new(client);
            for line in [&b"Hello\n"[..], b"\n", &[b'x'; 40_000], b"\nWorld"] {
                stream.write(line).await?;
            }
            assert_eq!(stream.read_line().await?.unwrap(), b"Hello\n");
            assert_eq!(stream.read_line().await?.unwrap(), b"\n");
            assert_eq!(stream.read_line().await?.unwrap().len(), 40_001);
            stream.shutdown().await?;
            assert_eq!(stream.read_line().await?.unwrap(), b"World");
            assert_eq!(stream.read_line().await?, None);
            assert_eq!(stream.read_line().await?, None);
            server.join().await
        });
    }
}

#[test]
fn what_the_two_have_agreed_on_can_be_asked() {
    run(async {
        let mut configs = Configs::new();
        configs.server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        configs.client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (client, server) = agree(configs, UnixStream::pair()?).await?;
        for end in [&client, &server] {
            assert_eq!(end.alpn_protocol().unwrap(), b"http/1.1");
        }
        assert_eq!(client.peer_certificates().unwrap().len(), 1);
        assert_eq!(server.peer_certificates(), None);
        assert_eq!(server.server_name().as_deref(), Some("localhost"));
        assert_eq!(client.server_name(), None);
        let (client, _server) = agree(Configs::new(), UnixStream::pair()?).await?;
        assert_eq!(client.alpn_protocol(), None);
        Ok(())
    });
}

#[test]
fn a_certificate_that_is_not_right_is_an_error_at_both_ends() {
    run(async {
        // Of another name; unknown.
        for (name, client) in [("example.org", None), ("localhost", Some(Configs::new().client))] {
            let configs = Configs::new();
            let (one, other) = tcp_pair().await?;
            let server = spawn(async move {
                let error = tls::accept(other, Arc::new(configs.server)).await.err().unwrap();
                Ok(error)
            });
            let unknown = client.is_some();
            let client = Arc::new(client.unwrap_or(configs.client));
            let error = tls::connect(one, name, client).await.err().unwrap();
            assert_eq!(kind(&error), ErrorKind::InvalidData);
            let rustls::Error::InvalidCertificate(why) = rustls_error(&error).unwrap() else {
                panic!("{error}")
            };
            match why {
                // One of the same name is known, and has not signed it.
                CertificateError::BadSignature => assert!(unknown),
                CertificateError::NotValidForNameContext { .. } => assert!(!unknown),
                other => panic!("{other:?}"),
            }
            // The server is told why, by an alert.
            let error = server.join().await?;
            assert!(matches!(rustls_error(&error), Some(rustls::Error::AlertReceived(_))));
        }
        let (one, _other) = UnixStream::pair()?;
        let error = tls::connect(one, "no name", Arc::new(Configs::new().client)).await;
        assert_eq!(kind(&error.err().unwrap()), ErrorKind::InvalidInput);
        // An address has a certificate as well.
        let configs = Configs::new();
        let (one, other) = tcp_pair().await?;
        let server = spawn(tls::accept(other, Arc::new(configs.server)));
        tls::connect(one, "127.0.0.1", Arc::new(configs.client)).await?;
        server.join().await?;
        Ok(())
    });
}

#[test]
fn garbage_and_silence_instead_of_a_handshake() {
    run(async {
        let listener = StdListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let client = Arc::new(Configs::new().client);
        for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
            let connecting = spawn({
                let client = client.clone();
                async move {
                    let stream = TcpStream::connect(address).await?;
                    tls::connect(stream, "localhost", client).await.map(drop)
                }
            });
            curio::net::wait_readable(&listener).await?;
            let (mut peer, _) = listener.accept()?;
            peer.write_all(garbage)?;
            peer.shutdown(std::net::Shutdown::Write)?;
            let error = connecting.join().await.unwrap_err();
            let expected =
                if garbage.is_empty() { ErrorKind::UnexpectedEof } else { ErrorKind::InvalidData };
            assert_eq!(kind(error.task_cause().unwrap()), expected);
        }
        // Silence: given up by the clock, or by a task. The connection is closed.
        for cancelled in [false, true] {
            let connecting = spawn({
                let client = client.clone();
                let limit = if cancelled { HANG } else { SOON };
                timeout_after(limit, async move {
                    let stream = TcpStream::connect(address).await?;
                    tls::connect(stream, "localhost", client).await.map(drop)
                })
            });
            curio::net::wait_readable(&listener).await?;
            let (mut peer, _) = listener.accept()?;
            if cancelled {
                until(&connecting, TaskState::ReadWait).await?;
                connecting.cancel().await?;
            }
            let error = connecting.join().await.unwrap_err();
            let cause = error.task_cause().unwrap();
            assert_eq!(cause.is_cancelled(), cancelled);
            assert_eq!(cause.is_timeout(), !cancelled);
            peer.read_to_end(&mut Vec::new())?;
        }
        // The same as a server.
        let (stream, mut peer) = with_peer().await?;
        let server = Arc::new(Configs::new().server);
        let limited = timeout_after(SOON, tls::accept(stream, server.clone())).await;
        assert!(limited.err().unwrap().is_timeout());
        assert_eq!(peer.read(&mut [0; 1])?, 0);
        let (stream, mut peer) = with_peer().await?;
        peer.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let error = tls::accept(stream, server).await.err().unwrap();
        assert_eq!(kind(&error), ErrorKind::InvalidData);
        // An alert, and then the end and no reset.
        let mut alert = Vec::new();
        peer.read_to_end(&mut alert)?;
        assert_eq!(alert[0], 21);
        Ok(())
    });
}

async fn with_peer() -> Result<(TcpStream, StdStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let peer = StdStream::connect(listener.local_addr()?)?;
    Ok((listener.accept().await?.0, peer))
}

/// Moves bytes from one connection to another, as `how` says.
async fn carry(from: Rc<TcpStream>, to: Rc<TcpStream>, piece: usize) -> Result<()> {
    let mut buffer = vec![0; piece];
    loop {
        let count = from.recv(&mut buffer).await?;
        if count == 0 {
            return to.shutdown(std::net::Shutdown::Write);
        }
        to.set_nodelay(true)?;
        to.send_all(&buffer[..count]).await?;
        sleep(Duration::ZERO).await?;
    }
}

/// Two connections, with a carrier in the middle who takes his time.
async fn slow_pair(piece: usize) -> Result<(TcpStream, TcpStream)> {
    let (one, near) = tcp_pair().await?;
    let (other, far) = tcp_pair().await?;
    let (near, far) = (Rc::new(near), Rc::new(far));
    spawn(carry(near.clone(), far.clone(), piece));
    spawn(carry(far, near, piece));
    Ok((one, other))
}

#[test]
fn one_byte_at_a_time() {
    run(async {
        let (client, server) = agree(Configs::new(), slow_pair(1).await?).await?;
        let (client, server) = (Stream::new(client), Stream::new(server));
        client.write(b"Hello\nWorld\n").await?;
        client.flush().await?;
        assert_eq!(server.read_line().await?.unwrap(), b"Hello\n");
        let mut byte = [0];
        for expected in b"World\n" {
            server.read_exact(&mut byte).await?;
            assert_eq!(byte[0], *expected);
        }
        server.write(b"Bye").await?;
        server.close().await?;
        assert_eq!(client.read_to_end().await?, b"Bye");
        Ok(())
    });
}

#[test]
fn large_data_both_ways_at_once() {
    const SIZE: usize = 5_000_000;
    run(async {
        let (client, server) = streams().await?;
        let mut tasks = Vec::new();
        for (number, end) in [(1, Rc::new(client)), (2, Rc::new(server))] {
            let data = move |number: usize| -> Vec<u8> {
                (0..SIZE).map(|place| (place * number % 251) as u8).collect()
            };
            tasks.push(spawn({
                let end = end.clone();
                async move {
                    for piece in data(number).chunks(70_001) {
                        end.write(piece).await?;
                    }
                    end.shutdown().await
                }
            }));
            tasks.push(spawn(async move {
                let received = end.read_to_end().await?;
                assert!(received == data(3 - number));
                Ok(())
            }));
        }
        for task in tasks {
            task.join().await?;
        }
        Ok(())
    });
}

#[test]
fn half_a_connection_can_be_closed() {
    run(async {
        let (client, server) = streams().await?;
        client.write(b"a question").await?;
        client.shutdown().await?;
        client.shutdown().await?;
        let error = client.write(&[0; 100_000]).await.unwrap_err();
        assert_eq!(kind(&error), ErrorKind::BrokenPipe);
        assert_eq!(server.read_to_end().await?, b"a question");
        server.write(b"an answer").await?;
        server.shutdown().await?;
        assert_eq!(client.read_to_end().await?, b"an answer");
        Ok(())
    });
}

#[test]
fn an_end_that_was_not_announced_is_an_error() {
    run(async {
        let (one, near) = tcp_pair().await?;
        let (other, far) = tcp_pair().await?;
        let (near, far) = (Rc::new(near), Rc::new(far));
        let there = spawn(carry(near.clone(), far.clone(), 1000));
        let back = spawn(carry(far.clone(), near.clone(), 1000));
        let (client, server) = agree(Configs::new(), (one, other)).await?;
        let (client, server) = (Stream::new(client), Stream::new(server));
        client.write(b"some").await?;
        client.flush().await?;
        let mut some = [0; 4];
        server.read_exact(&mut some).await?;
        // Somebody in the middle ends it.
        there.cancel().await?;
        far.shutdown(std::net::Shutdown::Write)?;
        for _ in 0..2 {
            let error = server.read(&mut some).await.unwrap_err();
            assert_eq!(kind(&error), ErrorKind::UnexpectedEof);
        }
        back.cancel().await?;
        Ok(())
    });
}

#[test]
fn dropping_announces_the_end() {
    run(async {
        let (client, server) = streams().await?;
        server.write(b"Bye").await?;
        server.flush().await?;
        drop(server);
        assert_eq!(client.read_to_end().await?, b"Bye");
        Ok(())
    });
}

/// The peer has no room for the announcement when the last bytes have just fitted in.
#[test]
fn closing_announces_the_end_as_soon_as_there_is_room() {
    run(async {
        let (client, server) = streams().await?;
        let closer = spawn(async move {
            server.write(&vec![7; 10_000_000]).await?;
            server.close().await
        });
        until(&closer, TaskState::WriteWait).await?;
        assert_eq!(client.read_to_end().await?.len(), 10_000_000);
        closer.join().await
    });
}

#[test]
fn what_was_changed_on_its_way_is_refused_after_what_was_not() {
    run(async {
        let (one, near) = tcp_pair().await?;
        let (client, server) = agree(Configs::new(), (one, near)).await?;
        let (client, server) = (Stream::new(client), Stream::new(server));
        client.write(b"some").await?;
        client.flush().await?;
        client.get_ref().get_ref().send_all(&[23, 3, 3, 0, 20]).await?;
        client.get_ref().get_ref().send_all(&[0; 20]).await?;
        let mut some = [0; 4];
        server.read_exact(&mut some).await?;
        for _ in 0..2 {
            let error = server.read(&mut some).await.unwrap_err();
            assert!(matches!(rustls_error(&error), Some(rustls::Error::DecryptError)), "{error}");
        }
        let error = client.read(&mut some).await.unwrap_err();
        assert!(matches!(rustls_error(&error), Some(rustls::Error::AlertReceived(_))), "{error}");
        Ok(())
    });
}

#[test]
fn a_writer_that_is_cancelled_leaves_a_connection_that_works() {
    run(async {
        let (client, server) = streams().await?;
        let client = Rc::new(client);
        let writer = spawn({
            let client = client.clone();
            async move { client.write(&vec![7; 20_000_000]).await }
        });
        until(&writer, TaskState::WriteWait).await?;
        assert!(client.write(&[0; 100_000]).await.unwrap_err().is_busy());
        writer.cancel().await?;
        let error = writer.join().await.unwrap_err();
        let taken = error.task_cause().unwrap().bytes_done().unwrap();
        assert!(taken > 0 && taken < 20_000_000);
        // What was taken arrives, whole, and what is written now after it.
        let rest = spawn({
            let client = client.clone();
            async move {
                client.write(b"the end").await?;
                client.shutdown().await
            }
        });
        let received = server.read_to_end().await?;
        assert_eq!(received.len(), taken + 7);
        assert!(received.ends_with(b"\x07the end"));
        rest.join().await
    });
}

#[test]
fn a_reader_that_is_cancelled_has_lost_nothing() {
    run(async {
        let (client, server) = streams().await?;
        let server = Rc::new(server);
        for round in 0..50u32 {
            let reader = spawn({
                let server = server.clone();
                async move { server.read_exact(&mut [0; 8]).await }
            });
            if round % 2 == 0 {
                until(&reader, TaskState::ReadWait).await?;
            }
            client.write(&round.to_be_bytes()).await?;
            client.flush().await?;
            reader.cancel().await?;
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).await?;
            assert_eq!(u32::from_be_bytes(bytes), round);
        }
        Ok(())
    });
}

/// A short read drains the socket; said later, when something was left to decrypt and more had come
/// meanwhile, it made the reader wait for what was there.
#[test]
fn what_comes_while_something_is_left_is_not_missed() {
    run(async {
        let (client, server) = agree(Configs::new(), tcp_pair().await?).await?;
        let client = Stream::new(client);
        let read = |count: usize| {
            let server = &server;
            async move {
                use curio::Transport;
                let mut buffer = vec![0; count];
                let source = server.source();
                let count = source
                    .run(curio::embed::Direction::Read, |_| server.try_read(&mut buffer))
                    .await?;
                buffer.truncate(count);
                Ok::<_, Error>(buffer)
            }
        };
        for round in 0..5 {
            client.write(b"first").await?;
            client.flush().await?;
            assert_eq!(read(2).await?, b"fi");
            client.write(b"second").await?;
            client.flush().await?;
            // The kernel is told of it while "rst" is left.
            sleep(SOON).await?;
            assert_eq!(read(3).await?, b"rst", "{round}");
            assert_eq!(read(100).await?, b"second");
        }
        Ok(())
    });
}
