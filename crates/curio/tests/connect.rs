//! Looking names up, and connecting to the first address that answers.
//!
//! An address that does not answer is a listening socket of ours whose backlog is full. The tests
//! run one after the other, because they count the descriptors of the process.

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::AsFd;
use std::time::Duration;

use curio::embed::connect_any;
use curio::net::{ConnectOptions, TcpListener, TcpStream, lookup};
use curio::{Error, Result, Task, TaskState, ignore_after, sleep, spawn, timeout_after};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use common::{alone, descriptors};

const HANG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(5);

/// Runs a program; all descriptors are closed after it, but those of look-ups that nobody waits for
/// any more, which is why it may take a moment.
fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    let _alone = alone();
    let before = descriptors();
    let result = curio::run(timeout_after(HANG, program)).unwrap();
    for _ in 0..1000 {
        if descriptors() == before {
            return result;
        }
        std::thread::sleep(SOON);
    }
    panic!("{} descriptors instead of {before}", descriptors());
}

fn at(host: &str, port: u16) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), port)
}

fn listen_at(host: &str) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(at(host, 0))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// An address at which nobody listens.
fn refusing(host: &str) -> SocketAddr {
    StdListener::bind(at(host, 0)).unwrap().local_addr().unwrap()
}

fn has_ipv6() -> bool {
    StdListener::bind("[::1]:0").is_ok()
}

/// Listens, and lets nobody in.
struct BlackHole {
    address: SocketAddr,
    all: Vec<Socket>,
}

impl BlackHole {
    fn new(host: &str) -> BlackHole {
        let domain = Domain::for_address(at(host, 0));
        let listener = Socket::new(domain, Type::STREAM, None).unwrap();
        listener.bind(&at(host, 0).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut all = vec![listener];
        for _ in 0..20 {
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            let mut asked = [PollFd::new(&socket, PollFlags::OUT)];
            let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let answered = poll(&mut asked, Some(&patience)).unwrap() > 0;
            all.push(socket);
            if !answered {
                return BlackHole { address: address.as_socket().unwrap(), all };
            }
        }
        panic!("the backlog is never full");
    }

    /// Lets everybody in from now on.
    fn open(&self) {
        self.all[0].listen(100).unwrap();
    }
}

async fn blocked<T>(task: &Task<T>) -> Result<()> {
    while !task.info().state().is_blocked() {
        sleep(Duration::ZERO).await?;
    }
    Ok(())
}

/// A task that connects; gives the address it has connected to.
fn connecting(addresses: &[SocketAddr], options: ConnectOptions) -> Task<SocketAddr> {
    let addresses = addresses.to_vec();
    spawn(async move {
        let (source, socket) = connect_any(addresses, options).await?;
        source.close();
        assert!(socket.nonblocking()?);
        Ok(socket.peer_addr()?.as_socket().unwrap())
    })
}

async fn failure(addresses: &[SocketAddr]) -> Error {
    connect_any(addresses.to_vec(), ConnectOptions::new()).await.map(drop).unwrap_err()
}

/// An attempt has all the time there is.
fn patient() -> ConnectOptions {
    ConnectOptions::new().delay(HANG)
}

// Look-ups.

#[test]
fn a_numeric_address_is_its_own_answer() {
    run(async {
        // Without waiting: nothing can time out.
        let answer = timeout_after(Duration::ZERO, lookup("127.0.0.1", 80)).await?;
        assert_eq!(answer, [at("127.0.0.1", 80)]);
        let answer = timeout_after(Duration::ZERO, lookup("::1", 0)).await?;
        assert_eq!(answer, [at("::1", 0)]);
        Ok(())
    });
}

#[test]
fn localhost_is_here() {
    run(async {
        let answer = lookup("localhost", 1234).await?;
        assert!(!answer.is_empty());
        for address in answer {
            assert!(address.ip().is_loopback());
            assert_eq!(address.port(), 1234);
        }
        Ok(())
    });
}

#[test]
fn an_unknown_host_is_named() {
    run(async {
        for host in ["no-such-host.invalid", "", "a\0b"] {
            let error = lookup(host, 80).await.map(drop).unwrap_err();
            assert!(error.as_io().is_some());
            assert!(error.to_string().contains(&format!("{host:?}")), "{error}");
        }
        let error = TcpStream::open("no-such-host.invalid", 80).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("\"no-such-host.invalid\""), "{error}");
        Ok(())
    });
}

#[test]
fn a_look_up_can_be_cancelled() {
    run(async {
        let hosts = (0..30).map(|number| format!("no-such-host-{number}.invalid"));
        let kids: Vec<_> = hosts.map(|host| spawn(async move { lookup(&host, 1).await })).collect();
        sleep(Duration::ZERO).await?;
        for kid in kids {
            kid.cancel().await?;
        }
        assert!(ignore_after(Duration::ZERO, lookup("x.invalid", 1)).await?.is_none());
        // None of them holds up the next.
        assert!(!lookup("localhost", 1).await?.is_empty());
        Ok(())
    });
}

#[test]
fn tasks_run_during_a_look_up() {
    run(async {
        let kid = spawn(async { lookup("localhost", 1).await });
        while !kid.info().terminated() {
            assert_ne!(kid.info().state(), TaskState::ReadWait);
            sleep(Duration::ZERO).await?;
        }
        kid.join().await.map(drop)
    });
}

// Connecting.

#[test]
fn one_address_that_answers() {
    run(async {
        let (listener, address) = listen_at("127.0.0.1")?;
        let stream = TcpStream::connect(address).await?;
        let (accepted, peer) = listener.accept().await?;
        assert_eq!(stream.local_addr()?, peer);
        stream.send_all(b"hello").await?;
        let mut answer = [0; 5];
        accepted.recv_exact(&mut answer).await?;
        assert_eq!(&answer, b"hello");
        Ok(())
    });
}

#[test]
fn the_source_that_comes_with_the_socket_can_be_waited_for() {
    run(async {
        use curio::embed::Direction;
        let (listener, address) = listen_at("127.0.0.1")?;
        let (source, socket) = connect_any(vec![address], ConnectOptions::new()).await?;
        let (accepted, _) = listener.accept().await?;
        let mut buffer = [0; 10];
        let sender = spawn(async move {
            sleep(SOON).await?;
            accepted.send_all(b"hello").await?;
            Ok(accepted)
        });
        let receive = |_: std::os::fd::BorrowedFd<'_>| {
            let flags = rustix::net::RecvFlags::empty();
            Ok(rustix::net::recv(socket.as_fd(), &mut buffer, flags)?.0)
        };
        assert_eq!(source.run(Direction::Read, receive).await?, 5);
        source.close();
        sender.join().await.map(drop)
    });
}

#[test]
fn a_host_s_name_is_looked_up() {
    run(async {
        let (_listener, address) = listen_at("127.0.0.1")?;
        for host in ["localhost", "127.0.0.1"] {
            let stream = TcpStream::open(host, address.port()).await?;
            assert_eq!(stream.peer_addr()?, address);
        }
        Ok(())
    });
}

#[test]
fn no_address_at_all() {
    run(async {
        let error = failure(&[]).await;
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::InvalidInput);
        assert_eq!(error.raw_os_error(), None);
        let error = TcpStream::connect(&[][..]).await.map(drop).unwrap_err();
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::InvalidInput);
        Ok(())
    });
}

#[test]
fn a_refusal_names_the_address() {
    run(async {
        let address = refusing("127.0.0.1");
        let error = failure(&[address]).await;
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(error.raw_os_error(), Some(Errno::CONNREFUSED.raw_os_error()));
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        Ok(())
    });
}

#[test]
fn all_failures_are_told_in_their_order() {
    run(async {
        // The second cannot even be tried: a broadcast address.
        let addresses = [refusing("127.0.0.1"), at("255.255.255.255", 9), refusing("127.0.0.2")];
        let error = failure(&addresses).await;
        assert_eq!(error.raw_os_error(), Some(Errno::CONNREFUSED.raw_os_error()));
        let text = error.to_string();
        let places = addresses.map(|address| text.find(&address.to_string()).unwrap());
        assert!(places.is_sorted(), "{text}");

        let error = failure(&[addresses[1], addresses[0]]).await;
        assert_ne!(error.raw_os_error(), Some(Errno::CONNREFUSED.raw_os_error()));
        assert!(error.raw_os_error().is_some());
        Ok(())
    });
}

#[test]
fn after_a_refusal_the_next_is_tried_at_once() {
    run(async {
        let (_listener, address) = listen_at("127.0.0.1")?;
        let addresses = [refusing("127.0.0.1"), refusing("127.0.0.2"), address];
        assert_eq!(connecting(&addresses, patient()).join().await?, address);
        Ok(())
    });
}

#[test]
fn an_address_that_does_not_answer_is_passed_over() {
    run(async {
        let hole = BlackHole::new("127.0.0.2");
        let (_listener, address) = listen_at("127.0.0.1")?;
        let options = ConnectOptions::new();
        assert_eq!(connecting(&[hole.address, address], options.clone()).join().await?, address);
        let addresses = [hole.address, refusing("127.0.0.1"), hole.address, address];
        assert_eq!(connecting(&addresses, options.delay(SOON)).join().await?, address);
        // One that is refused later than the next was tried ends neither.
        let all = [hole.address, at("127.0.0.3", hole.address.port())];
        let kid = connecting(&all, ConnectOptions::new().delay(Duration::ZERO));
        assert!(ignore_after(20 * SOON, kid.join()).await?.is_none());
        kid.cancel().await.map(drop)
    });
}

#[test]
fn the_first_attempt_may_still_win() {
    run(async {
        let holes = [BlackHole::new("127.0.0.2"), BlackHole::new("127.0.0.3")];
        let addresses = [holes[0].address, holes[1].address];
        let kid = connecting(&addresses, ConnectOptions::new().delay(SOON));
        sleep(4 * SOON).await?;
        assert!(!kid.info().terminated());
        holes[0].open(); // it is asked again after a second or so
        assert_eq!(kid.join().await?, addresses[0]);
        Ok(())
    });
}

#[test]
fn both_families() {
    if !has_ipv6() {
        return;
    }
    run(async {
        let (_v4, v4) = listen_at("127.0.0.1")?;
        let (_v6, v6) = listen_at("::1")?;
        assert_eq!(connecting(&[v6, v4], patient()).join().await?, v6);
        assert_eq!(connecting(&[v4, v6], patient()).join().await?, v4);
        // The other family comes before a second address of the first one.
        let hole = BlackHole::new("::1");
        let kid = connecting(&[hole.address, v6, v4], ConnectOptions::new().delay(SOON));
        assert_eq!(kid.join().await?, v4);
        assert_eq!(connecting(&[refusing("::1"), v4], patient()).join().await?, v4);
        Ok(())
    });
}

#[test]
fn the_source_address() {
    run(async {
        let (listener, address) = listen_at("127.0.0.1")?;
        let options = ConnectOptions::new().source(at("127.0.0.5", 0));
        let stream = TcpStream::open_with("127.0.0.1", address.port(), options.clone()).await?;
        assert_eq!(stream.local_addr()?.ip(), "127.0.0.5".parse::<IpAddr>().unwrap());
        assert_eq!(listener.accept().await?.1, stream.local_addr()?);

        // A port of ours, for one attempt after the other and for several together.
        let port = refusing("127.0.0.5").port();
        let hole = BlackHole::new("127.0.0.2");
        let addresses = [refusing("127.0.0.3"), hole.address, address];
        let ours = ConnectOptions::new().source(at("127.0.0.5", port)).delay(SOON);
        connecting(&addresses, ours).join().await?;
        while listener.accept().await?.1 != at("127.0.0.5", port) {}

        // The other family is not tried.
        let error = connect_any(vec![at("::1", 1)], options.clone()).await.map(drop).unwrap_err();
        assert_eq!(error.as_io().unwrap().kind(), ErrorKind::InvalidInput);
        let both = [at("::1", address.port()), address];
        assert_eq!(connecting(&both, options).join().await?, address);

        // One that is not ours.
        let foreign = ConnectOptions::new().source(at("192.0.2.1", 0));
        let error = connect_any(vec![address], foreign).await.map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ADDRNOTAVAIL.raw_os_error()));
        Ok(())
    });
}

#[test]
fn a_cancellation_closes_all_attempts() {
    run(async {
        let holes = ["127.0.0.2", "127.0.0.3", "127.0.0.4"].map(BlackHole::new);
        let addresses: Vec<_> = holes.iter().map(|hole| hole.address).collect();
        let before = descriptors();
        for delay in [HANG, Duration::from_millis(1), Duration::ZERO] {
            let kid = connecting(&addresses, ConnectOptions::new().delay(delay));
            blocked(&kid).await?;
            let attempts = if delay == HANG { 1 } else { 3 };
            while descriptors() < before + attempts {
                sleep(Duration::ZERO).await?;
            }
            assert!(kid.cancel().await?);
            assert_eq!(descriptors(), before);
            assert!(kid.join().await.map(drop).unwrap_err().task_cause().unwrap().is_cancelled());

            let options = ConnectOptions::new().delay(delay);
            let late = timeout_after(4 * SOON, connect_any(addresses.clone(), options)).await;
            assert!(late.map(drop).unwrap_err().is_timeout());
            assert_eq!(descriptors(), before);
        }
        // The future is dropped in the middle.
        let lost = connect_any(addresses.clone(), ConnectOptions::new().delay(SOON));
        let won = futures::future::select(Box::pin(lost), Box::pin(sleep(4 * SOON))).await;
        drop(won);
        assert_eq!(descriptors(), before);
        Ok(())
    });
}

#[test]
fn a_cancellation_before_the_first_attempt() {
    run(async {
        let (listener, address) = listen_at("127.0.0.1")?;
        let before = descriptors();
        assert!(ignore_after(Duration::ZERO, TcpStream::connect(address)).await?.is_none());
        assert_eq!(descriptors(), before);
        drop(listener);
        Ok(())
    });
}

#[test]
fn what_was_connected_before_the_cancellation_is_connected() {
    run(async {
        let hole = BlackHole::new("127.0.0.2");
        let (_listener, address) = listen_at("127.0.0.1")?;
        // The attempt that is not answered stands before the other, and the clock behind it.
        let addresses = [hole.address, address, refusing("127.0.0.1")];
        for _ in 0..20 {
            let kid = connecting(&addresses, ConnectOptions::new().delay(SOON));
            // Two attempts are under way; the kernel looks, and sees that one was answered.
            loop {
                sleep(Duration::ZERO).await?;
                if kid.info().terminated() {
                    break;
                }
                let cycles = kid.info().cycles();
                if cycles >= 2 && kid.info().state() == TaskState::Ready {
                    kid.cancel().await?;
                    break;
                }
            }
            assert_eq!(kid.join().await?, address);
        }
        Ok(())
    });
}

#[test]
fn several_tasks_at_once() {
    run(async {
        let hole = BlackHole::new("127.0.0.2");
        let (_listener, address) = listen_at("127.0.0.1")?;
        let addresses = [refusing("127.0.0.3"), hole.address, address];
        let options = ConnectOptions::new().delay(SOON);
        let kids: Vec<_> = (0..50).map(|_| connecting(&addresses, options.clone())).collect();
        for kid in kids {
            assert_eq!(kid.join().await?, address);
        }
        Ok(())
    });
}

#[test]
fn combinators_connect_several_times() {
    run(async {
        let hole = BlackHole::new("127.0.0.2");
        let (_listener, address) = listen_at("127.0.0.1")?;
        let addresses = vec![hole.address, address];
        let options = ConnectOptions::new().delay(SOON);
        let limit = Duration::from_secs(30);
        let all =
            (0..5).map(|_| timeout_after(limit, connect_any(addresses.clone(), options.clone())));
        for (source, socket) in futures::future::try_join_all(all).await? {
            source.close();
            assert_eq!(socket.peer_addr()?.as_socket(), Some(address));
        }
        Ok(())
    });
}

#[test]
fn two_kernels() {
    run(async {
        let (_listener, address) = listen_at("127.0.0.1")?;
        let threads: Vec<_> = (0..2)
            .map(|_| {
                std::thread::spawn(move || {
                    curio::run(async move {
                        for _ in 0..20 {
                            TcpStream::open("localhost", address.port()).await?;
                        }
                        Ok(())
                    })
                })
            })
            .collect();
        for thread in threads {
            curio::run_in_thread(move || thread.join().unwrap()).await??;
        }
        drop(StdStream::connect(address)?);
        Ok(())
    });
}
