//! From a host's name to its addresses.
//!
//! The system's own look-up (`getaddrinfo`) knows all that the machine's configuration says: the
//! hosts file, the name servers, whatever else there is. It blocks, for half a minute if a name
//! server is silent, and cannot be interrupted; so it runs in threads, which are a pool of their
//! own lest silent name servers take all the threads there are for work.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::Location;
use std::sync::LazyLock;

use crate::error::Result;
use crate::testing::network;
use crate::traps::at;
use crate::worker::Pool;

/// The addresses of `host`, a name or an address, in the order in which to try them, each with
/// `port`. A numeric address is its own answer, at once.
///
/// The system answers, from its hosts file, its name servers and so on. At most 8 look-ups of the
/// process are under way; more wait for their turn.
///
/// # Errors
/// An I/O error whose text names the host: it is unknown, it has no address, nobody answers.
///
/// # Cancellation
/// The task is cancelled at once. The system's look-up goes on until it ends by itself, without
/// anybody waiting for it.
///
/// # Examples
///
/// ```
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let addresses = curio::net::lookup("127.0.0.1", 80).await?;
///     assert_eq!(addresses, ["127.0.0.1:80".parse().unwrap()]);
///     Ok(())
/// })
/// # }
/// ```
#[track_caller]
pub fn lookup(host: &str, port: u16) -> impl Future<Output = Result<Vec<SocketAddr>>> + use<> {
    static LOOKUPS: LazyLock<Pool> = LazyLock::new(|| Pool::new(8, "curio-lookup"));
    let host = host.to_owned();
    at(Location::caller(), async move {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        if let Some(network) = network() {
            return Ok(vec![SocketAddr::new(network.host(&host), port)]);
        }
        let addresses = LOOKUPS.run(move || {
            let failed = |cause: io::Error, host| {
                io::Error::new(cause.kind(), LookupFailure { host, cause })
            };
            match (&*host, port).to_socket_addrs().map(Vec::from_iter) {
                Ok(addresses) if addresses.is_empty() => {
                    Err(failed(io::Error::new(io::ErrorKind::NotFound, "it has no address"), host))
                }
                Ok(addresses) => Ok(addresses),
                Err(cause) => Err(failed(cause, host)),
            }
        });
        Ok(addresses.await??)
    })
}

/// Why a host's addresses are not known.
#[derive(Debug)]
struct LookupFailure {
    host: String,
    cause: io::Error,
}

impl fmt::Display for LookupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the address of {:?} cannot be found: {}", self.host, self.cause)
    }
}

impl std::error::Error for LookupFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
