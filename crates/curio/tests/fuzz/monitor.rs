//! The monitor's protocol: a client sends any bytes. It gets answers until it leaves, it can do
//! no more than cancel tasks, and the next client is served as ever.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use curio::{Kernel, Result, sleep, spawn};

const LONG: Duration = Duration::from_secs(1_000_000);
const PATIENCE: Duration = Duration::from_secs(30);

/// `said`: all that the client says.
pub(crate) fn run(said: &[u8]) {
    // What it may do to the process is not what is looked for.
    let text = String::from_utf8_lossy(said);
    if text.lines().any(|line| line.split_whitespace().next().is_some_and(is_signal)) {
        return;
    }
    let answer = talk(said);
    assert!(answer.starts_with("\nCurio Monitor: "), "{answer:?}");
    let answer = talk(b"ps\nexit\n");
    assert!(answer.contains("TIME_SLEEP"), "the next client gets {answer:?}");
    assert!(answer.ends_with("Leaving monitor\n"), "the next client gets {answer:?}");
}

fn is_signal(word: &str) -> bool {
    "signal".starts_with(word)
}

fn talk(said: &[u8]) -> String {
    let mut connection = TcpStream::connect(monitor()).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may have left before it has heard everything.
    let _ = connection.write_all(said).and_then(|()| connection.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match connection.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("after {:?}: {error}", String::from_utf8_lossy(&answer)),
    }
    String::from_utf8(answer).expect("all it says is text")
}

/// That of a program that does not end.
fn monitor() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let (tell, told) = channel();
        thread::spawn(move || {
            let at = (Ipv4Addr::LOCALHOST, 0).into();
            let mut kernel = Kernel::builder().monitor_at(at).build().unwrap();
            tell.send(kernel.monitor().unwrap().tcp_address().unwrap()).unwrap();
            loop {
                let _ = kernel.run(rest());
            }
        });
        told.recv().unwrap()
    })
}

/// Something to look at, and to cancel.
async fn rest() -> Result<()> {
    let child = spawn(async { sleep(LONG).await });
    while sleep(LONG).await.is_ok() {}
    child.cancel().await.map(drop)
}
