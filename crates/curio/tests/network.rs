//! The simulated network: programs on it are what they are elsewhere, time and faults are drawn.
//!
//! The programs use the public sockets alone; what the network has done to them is seen by the virtual
//! clock and in what arrives.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown};
use std::time::Duration;

use curio::net::{ConnectOptions, TcpListener, TcpStream, lookup, serve};
use curio::testing::Network;
use curio::{Error, Result, Stream, clock, ignore_after, sleep, spawn, timeout_after};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

const SECOND: Duration = Duration::from_secs(1);

/// A network where each piece takes a second.
fn slow() -> Network {
    let network = Network::seeded(1);
    network.set_delay(SECOND..=SECOND);
    network
}

fn run<T: 'static>(network: &Network, program: impl Future<Output = Result<T>> + 'static) -> T {
    let mut kernel = network.kernel();
    let result = kernel.run(program).unwrap();
    kernel.shutdown().unwrap();
    result
}

fn kind(error: Error) -> ErrorKind {
    io::Error::from(error).kind()
}

/// The seconds of the virtual clock; what it moves while tasks are ready is less than a second.
fn seconds() -> u64 {
    clock().unwrap().as_secs()
}

#[test]
fn a_server_and_its_clients_are_what_they_are_elsewhere() {
    run(&Network::seeded(1), async {
        let listener = TcpListener::bind("10.0.0.1:80")?;
        assert_eq!(listener.local_addr()?, "10.0.0.1:80".parse().unwrap());
        let server = serve(listener, |client: TcpStream, _address| async move {
            client.set_nodelay(true)?;
            let stream = Stream::new(client);
            while let Some(line) = stream.read_line().await? {
                stream.write(b"You said: ").await?;
                stream.write(&line).await?;
            }
            Ok(())
        });
        for _ in 0..3 {
            let client = TcpStream::connect("10.0.0.1:80").await?;
            assert_eq!(client.peer_addr()?, "10.0.0.1:80".parse().unwrap());
            assert_eq!(client.local_addr()?.ip(), Ipv4Addr::LOCALHOST);
            let stream = Stream::new(client);
            stream.write(b"Hello\n").await?;
            assert_eq!(stream.read_line().await?.unwrap(), b"You said: Hello\n");
        }
        server.stop(Some(SECOND)).await
    });
}

#[test]
fn bytes_take_their_time() {
    let network = slow();
    run(&network.clone(), async move {
        let (one, other) = network.pair()?;
        one.send_all(b"Hello").await?;
        other.recv_exact(&mut [0; 5]).await?;
        assert_eq!(seconds(), 1);
        other.send_all(b"Hello").await?;
        drop(other);
        one.recv_exact(&mut [0; 5]).await?;
        assert_eq!(seconds(), 2);
        assert_eq!(one.recv(&mut [0; 5]).await?, 0);
        Ok(())
    });
}

#[test]
fn bytes_come_in_pieces_and_whole() {
    let network = Network::seeded(3);
    let sent: Vec<u8> = (0..100_000u32).map(|number| number as u8).collect();
    let (reads, received) = run(&network.clone(), {
        let sent = sent.clone();
        async move {
            let (one, other) = network.pair()?;
            let sender = spawn(async move {
                one.send_all(&sent).await?;
                one.shutdown(Shutdown::Write)?;
                assert_eq!(one.recv(&mut [0; 10]).await?, 0);
                Ok(())
            });
            let (mut reads, mut received, mut buffer) = (0, Vec::new(), vec![0; 65_536]);
            loop {
                match other.recv(&mut buffer).await? {
                    0 => break,
                    count => received.extend_from_slice(&buffer[..count]),
                }
                reads += 1;
            }
            drop(other);
            sender.join().await?;
            Ok((reads, received))
        }
    });
    assert!(received == sent);
    assert!(reads > 5, "{reads}");
}

#[test]
fn who_sends_more_than_is_under_way_waits() {
    let network = slow();
    network.set_buffer(1000);
    run(&network.clone(), async move {
        let (one, _other) = network.pair()?;
        let sent = ignore_after(100 * SECOND, one.send_all(&[0; 1_000_000])).await?;
        assert!(sent.is_none());
        Ok(())
    });
}

#[test]
fn nobody_listens() {
    run(&slow(), async {
        let error = TcpStream::connect("10.0.0.1:80").await.err().unwrap();
        assert_eq!(kind(error), ErrorKind::ConnectionRefused);
        assert_eq!(seconds(), 2); // there and back
        drop(TcpListener::bind("10.0.0.1:80")?);
        let listener = TcpListener::bind("10.0.0.1:80")?; // again
        let error = TcpListener::bind("10.0.0.1:80").err().unwrap();
        assert_eq!(kind(error), ErrorKind::AddrInUse);
        let other = TcpListener::bind("10.0.0.1:0")?;
        assert_ne!(other.local_addr()?, listener.local_addr()?);
        let everywhere = TcpListener::bind("0.0.0.0:81")?;
        TcpStream::connect("10.0.0.7:81").await?;
        everywhere.accept().await?;
        Ok(())
    });
}

#[test]
fn names_are_the_networks() {
    let network = Network::seeded(1);
    run(&network.clone(), async move {
        let address = lookup("www.example.com", 80).await?;
        assert_eq!(address, [(network.host("www.example.com"), 80).into()]);
        assert_ne!(network.host("another"), network.host("www.example.com"));
        assert_eq!(network.host("localhost"), Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind((network.host("server"), 80))?;
        let client = TcpStream::open("server", 80).await?;
        let (_served, address) = listener.accept().await?;
        assert_eq!(address, client.local_addr()?);
        Ok(())
    });
}

#[test]
fn resets_are_seen_by_both_sides() {
    let network = Network::seeded(1);
    run(&network.clone(), async move {
        let listener = TcpListener::bind("10.0.0.1:80")?;
        let client = TcpStream::connect("10.0.0.1:80").await?;
        let (served, _address) = listener.accept().await?;
        sleep(SECOND).await?;
        network.reset_all();
        for stream in [client, served] {
            let error = stream.recv(&mut [0; 10]).await.err().unwrap();
            assert_eq!(kind(error), ErrorKind::ConnectionReset);
            assert!(stream.send(b"x").await.is_err());
        }
        Ok(())
    });
}

#[test]
fn every_piece_resets() {
    let network = Network::seeded(1);
    network.set_resets(1.0);
    run(&network.clone(), async move {
        let (one, other) = network.pair()?;
        one.send_all(b"Hello").await?;
        let mut buffer = [0; 10];
        let mut count = 0;
        let error = loop {
            match other.recv(&mut buffer).await {
                Ok(more) => count += more,
                Err(error) => break error,
            }
        };
        assert_eq!(kind(error), ErrorKind::ConnectionReset);
        assert!((1..=5).contains(&count));
        Ok(())
    });
}

#[test]
fn a_closed_peer_resets_who_sends() {
    let network = Network::seeded(1);
    run(&network.clone(), async move {
        let (one, other) = network.pair()?;
        other.send_all(b"Good bye").await?;
        drop(other);
        sleep(SECOND).await?;
        one.send_all(b"What?").await?; // nobody can know yet
        sleep(SECOND).await?;
        assert!(one.send(b"What?").await.is_err());
        one.recv_exact(&mut [0; 8]).await // it had come before
    });
}

#[test]
fn what_is_cut_waits() {
    let network = slow();
    run(&network.clone(), async move {
        let (host, client) = (network.host("server"), network.host("client"));
        let listener = TcpListener::bind((host, 80))?;
        let here = ConnectOptions::new().source((client, 0).into());
        let stream = TcpStream::open_with("server", 80, here).await?;
        let (served, address) = listener.accept().await?;
        assert_eq!(address.ip(), client);
        network.cut(network.host("another"), Some(host)); // is none of their business
        stream.send_all(b"One").await?;
        served.recv_exact(&mut [0; 3]).await?;
        network.cut(client, None);
        stream.send_all(b"Two").await?;
        let result = timeout_after(100 * SECOND, served.recv_exact(&mut [0; 3])).await;
        assert!(result.err().unwrap().is_timeout());
        network.heal();
        served.recv_exact(&mut [0; 3]).await?;
        Ok(())
    });
}

#[test]
fn who_connects_over_a_cut_gives_up() {
    let network = Network::seeded(1);
    run(&network.clone(), async move {
        let _listener = TcpListener::bind("10.0.0.1:80")?;
        network.cut("10.0.0.1".parse().unwrap(), None);
        let error = TcpStream::connect("10.0.0.1:80").await.err().unwrap();
        assert_eq!(kind(error), ErrorKind::TimedOut);
        assert_eq!(seconds(), 127);
        let connecting = spawn(TcpStream::connect("10.0.0.1:80"));
        sleep(SECOND).await?;
        network.heal();
        connecting.join().await?;
        Ok(())
    });
}

#[test]
fn datagrams_get_lost_doubled_and_overtaken() {
    let count = |network: &Network| {
        let inside = network.clone();
        run(network, async move {
            let (one, other) = inside.datagrams()?;
            let receiver = spawn(async move {
                let (mut got, mut buffer) = (Vec::new(), [0; 100]);
                while let Some(count) = ignore_after(SECOND, other.recv(&mut buffer)).await? {
                    assert_eq!(count, 1);
                    got.push(buffer[0]);
                }
                Ok(got)
            });
            for number in 0..100 {
                one.send(&[number]).await?;
                sleep(ms(5)).await?;
            }
            receiver.join().await
        })
    };
    let network = Network::seeded(1);
    let got = count(&network);
    assert!(!got.is_sorted());
    let mut sorted = got.clone();
    sorted.sort();
    assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    network.set_loss(0.5);
    assert!((20..80).contains(&count(&network).len()));
    network.set_loss(1.0);
    assert!(count(&network).is_empty());
    network.set_loss(0.0);
    network.set_duplicates(1.0);
    assert_eq!(count(&network).len(), 200);
}

#[test]
fn a_seed_draws_it_all() {
    let trace = |seed| {
        let network = Network::seeded(seed);
        run(&network.clone(), async move {
            let (one, other) = network.pair()?;
            let sender = spawn(async move { one.send_all(&[7; 5000]).await });
            let (mut trace, mut buffer) = (Vec::new(), [0; 1000]);
            loop {
                let count = other.recv(&mut buffer).await?;
                trace.push((clock()?, count));
                if count == 0 {
                    break;
                }
            }
            sender.join().await?;
            Ok(trace)
        })
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}
