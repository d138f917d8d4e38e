//! Servers: a task for each connection, and an end that is orderly.
//!
//! *Facts.* A server that is out of descriptors cannot accept, and the connection that it cannot
//! accept stays in the backlog: the listener stays readable, and the client hangs. A connection
//! may be gone before it is accepted, and `accept` says so then.
//!
//! *Choice.* See [`Acceptor`]. What is wrong with one connection is no reason to stop.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::panic::Location;
use std::rc::Rc;
use std::time::Duration;

use super::accept::Acceptor;
use super::{TcpListener, TcpStream, UnixListener, UnixStream};
use crate::error::Result;
use crate::kernel::Source;
use crate::task::{Task, TaskBuilder, TaskRef};
use crate::time::ignore_after;
use crate::traps::at;

/// Something that accepts connections: what [`serve`] is given.
pub trait Listener: 'static {
    /// A connection.
    type Connection: 'static;
    /// Whom it is to.
    type Address: 'static;

    #[doc(hidden)]
    fn source(&self) -> &Source;

    #[doc(hidden)]
    fn try_accept(&self) -> io::Result<(Self::Connection, Self::Address)>;

    /// What a connection's task is called.
    #[doc(hidden)]
    fn describe(&self, address: &Self::Address) -> String;
}

impl Listener for TcpListener {
    type Connection = TcpStream;
    type Address = SocketAddr;

    fn source(&self) -> &Source {
        TcpListener::source(self)
    }

    fn try_accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::try_accept(self)
    }

    fn describe(&self, address: &SocketAddr) -> String {
        format!("client {address}")
    }
}

impl Listener for UnixListener {
    type Connection = UnixStream;
    type Address = UnixAddr;

    fn source(&self) -> &Source {
        UnixListener::source(self)
    }

    fn try_accept(&self) -> io::Result<(UnixStream, UnixAddr)> {
        UnixListener::try_accept(self)
    }

    fn describe(&self, address: &UnixAddr) -> String {
        match address.as_pathname() {
            Some(path) => format!("client {}", path.display()),
            None => "client".into(),
        }
    }
}

/// Starts a server: a task that accepts connections, and runs `handler` for each in a task of its
/// own.
///
/// A handler that fails or panics is reported, as every task is, and the others and the server go
/// on. A connection is closed when its handler drops it. Being out of descriptors or of memory does
/// not stop the server: it is logged once, who tries to connect is sent away at once, and the
/// server tries again after 0.1 s.
///
/// # Panics
/// Outside of a kernel, as [`spawn`](crate::spawn) does.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use curio::net::{TcpListener, TcpStream, serve};
///
/// # fn main() -> curio::Result<()> {
/// curio::run(async {
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let address = listener.local_addr()?;
///     let server = serve(listener, |client: TcpStream, _address| async move {
///         client.send_all(b"Hello").await
///     });
///
///     let client = TcpStream::connect(address).await?;
///     client.recv_exact(&mut [0; 5]).await?;
///     server.stop(Some(Duration::from_secs(10))).await
/// })
/// # }
/// ```
#[track_caller]
pub fn serve<L, H, F>(listener: L, handler: H) -> Server
where
    L: Listener,
    H: Fn(L::Connection, L::Address) -> F + 'static,
    F: Future<Output = Result<()>> + 'static,
{
    let clients = Rc::new(Clients::default());
    let accepting = accept_all(listener, Rc::new(handler), clients.clone());
    Server { task: TaskBuilder::new().name("server").spawn(accepting), clients }
}

/// A server that [`serve`] has started.
///
/// Dropping it leaves the server running. To end it there are
///
/// - [`stop`](Self::stop), which lets clients finish;
/// - [`cancel`](Self::cancel), which does not.
///
/// If the server's task is cancelled otherwise, as by the kernel's shutdown, its clients are, too,
/// all at once, and it waits for them. An error of the listener that is not a matter of one connection ends the server
/// in that way, too, and is what [`join`](Task::join) gives.
pub struct Server {
    task: Task<()>,
    clients: Rc<Clients>,
}

#[derive(Default)]
struct Clients {
    /// By the order in which they came.
    tasks: RefCell<BTreeMap<u64, TaskRef>>,
    came: Cell<u64>,
    /// They go on when the server's task is cancelled.
    spared: Cell<bool>,
}

impl Server {
    /// The tasks of the connections that are being served, the oldest first.
    pub fn clients(&self) -> Vec<TaskRef> {
        self.clients.all()
    }

    /// Stops accepting, and waits until the clients have finished. Who has not after `patience` is
    /// cancelled, all of them at once, and waited for; `None`: there is no limit.
    ///
    /// Connections that the system has accepted and the server has not are closed.
    ///
    /// # Errors
    /// Misuse: a client of the server waits for its own end.
    ///
    /// # Cancellation
    /// It has stopped accepting, or is about to; the clients go on. `stop` may be called again.
    #[track_caller]
    pub fn stop(&self, patience: Option<Duration>) -> impl Future<Output = Result<()>> + '_ {
        at(Location::caller(), async move {
            let (cancelled, _) = self.task.cancel_state();
            if !cancelled {
                self.clients.spared.set(true);
                self.task.request_cancel();
            }
            let finished = match patience {
                Some(patience) => ignore_after(patience, self.finished()).await?,
                None => Some(self.finished().await?),
            };
            if finished.is_none() {
                self.clients.cancel();
                self.finished().await?;
            }
            Ok(())
        })
    }

    /// Stops accepting, cancels the clients, all of them at once, and waits until they have ended;
    /// also when [`stop`](Self::stop) is waiting for them. Gives `false` if all had ended already.
    ///
    /// # Errors
    /// Misuse: a client of the server waits for its own end.
    ///
    /// # Cancellation
    /// The requests stand; only the waiting is given up.
    #[track_caller]
    pub fn cancel(&self) -> impl Future<Output = Result<bool>> + '_ {
        at(Location::caller(), async {
            let runs = !self.task.terminated() || !self.clients.tasks.borrow().is_empty();
            self.task.request_cancel();
            self.clients.cancel();
            self.task.wait().await?;
            // Somebody may have come in between.
            self.clients.cancel();
            self.clients.finished().await?;
            Ok(runs)
        })
    }

    async fn finished(&self) -> Result<()> {
        self.task.wait().await?;
        self.clients.finished().await
    }
}

/// The task that accepts: [`wait`](TaskRef::wait), [`join`](Task::join) and so on.
impl std::ops::Deref for Server {
    type Target = Task<()>;

    fn deref(&self) -> &Task<()> {
        &self.task
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("task", &self.task)
            .field("clients", &self.clients.tasks.borrow().len())
            .finish()
    }
}

impl Clients {
    fn all(&self) -> Vec<TaskRef> {
        self.tasks.borrow().values().cloned().collect()
    }

    fn cancel(&self) {
        for client in self.all() {
            client.request_cancel();
        }
    }

    async fn finished(&self) -> Result<()> {
        loop {
            let client = self.tasks.borrow().values().next().cloned();
            match client {
                Some(client) => client.wait().await?,
                None => return Ok(()),
            }
        }
    }
}

/// A client's place among the clients.
struct Place {
    clients: Rc<Clients>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let gone = self.clients.tasks.borrow_mut().remove(&self.number);
        drop(gone);
    }
}

async fn accept_all<L, H, F>(listener: L, handler: Rc<H>, clients: Rc<Clients>) -> Result<()>
where
    L: Listener,
    H: Fn(L::Connection, L::Address) -> F + 'static,
    F: Future<Output = Result<()>> + 'static,
{
    let error = accept_until(&listener, &handler, &clients).await;
    drop(listener);
    if clients.spared.get() && error.is_cancelled() {
        return Ok(());
    }
    clients.cancel();
    clients.finished().await?;
    Err(error)
}

/// Serves who comes; says why nobody does any more.
async fn accept_until<L, H, F>(listener: &L, handler: &Rc<H>, clients: &Rc<Clients>) -> crate::Error
where
    L: Listener,
    H: Fn(L::Connection, L::Address) -> F + 'static,
    F: Future<Output = Result<()>> + 'static,
{
    let acceptor = Acceptor::new();
    let report = |error: &crate::Error| {
        log::error!(
            target: "curio::net",
            "Curio: no connection can be accepted for now, and clients are sent away: {error}"
        );
    };
    loop {
        let accepted = acceptor.accept(listener.source(), |_| listener.try_accept(), report).await;
        let (connection, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return error,
        };
        let number = clients.came.get();
        clients.came.set(number + 1);
        let place = Place { clients: clients.clone(), number };
        let name = listener.describe(&address);
        let handler = handler.clone();
        // It is called in there, so that its panic is the client's.
        let client = TaskBuilder::new().name(name).spawn(async move {
            let _place = place;
            handler(connection, address).await
        });
        clients.tasks.borrow_mut().insert(number, (*client).clone());
    }
}
