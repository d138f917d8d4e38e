//! The server: who listens for a kernel, and the sessions that he has let in.
//!
//! A thread accepts, and starts one more for each client; they all sleep in the system until a
//! client says something. To [stop](Server::stop) them, their sockets are shut down, which ends
//! every sleep of theirs; so it does not matter to whom a client is slow.
//!
//! One sleep cannot be ended: that of a session which asks the language binding, and waits for its
//! interpreter. The thread that stops us may be the one that has it. So nobody waits for such
//! a session; it ends when the binding has answered, and finds that its client is gone.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::SendFlags;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use socket2::Socket;

use super::commands::Subject;
use super::heart::{self, Heart};
use super::place::{self, Place};
use super::{Address, Inspector, Monitor, Stack, session};
use crate::error::Cancellation;
use crate::kernel::{Core, Label, Spawn, TaskKey, View};

/// How many sessions there may be at once.
const MOST_SESSIONS: usize = 32;

/// How long to wait when the system has nothing left to accept a client with.
const PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Server {
    view: View,
    inspector: Option<Arc<dyn Inspector>>,
    heart: Arc<Heart>,
    /// Its thread's; gone with it.
    listener: Weak<Socket>,
    path: Option<PathBuf>,
    tcp_address: Option<SocketAddr>,
    /// The process that has the threads.
    process: u32,
    inside: Mutex<Inside>,
    /// A session has ended, or does something else, or all is to stop.
    changed: Condvar,
}

#[derive(Default)]
struct Inside {
    stopped: bool,
    place: Option<Place>,
    listening: Option<JoinHandle<()>>,
    /// How many sessions there have been.
    count: u64,
    sessions: HashMap<u64, Session>,
    /// The threads of sessions that are over.
    ended: Vec<JoinHandle<()>>,
}

struct Session {
    stream: Arc<Socket>,
    thread: Option<JoinHandle<()>>,
    /// It waits for the binding, and is not to be waited for.
    away: bool,
}

/// Starts a monitor for a kernel, with its task.
pub(crate) fn start(
    core: &Rc<Core>,
    address: Address,
    inspector: Option<Arc<dyn Inspector>>,
) -> io::Result<Monitor> {
    let (listener, place, tcp_address) = match address {
        Address::Unix => {
            let (listener, place) = place::listen()?;
            (Socket::from(listener), Some(place), None)
        }
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
            })?;
            let address = listener.local_addr()?;
            (Socket::from(listener), None, Some(address))
        }
    };
    let (listener, heart) = (Arc::new(listener), Arc::new(Heart::default()));
    let server = Arc::new(Server {
        view: core.view(),
        inspector,
        heart: heart.clone(),
        listener: Arc::downgrade(&listener),
        path: place.as_ref().map(|place| place.path().into()),
        tcp_address,
        process: process::id(),
        inside: Mutex::new(Inside { place, ..Inside::default() }),
        changed: Condvar::new(),
    });
    let thread = {
        let server = server.clone();
        named("curio-monitor".into(), move || server.listen(&listener))?
    };
    server.inside().listening = Some(thread);
    let label = Label { name: heart::NAME.into(), site: None };
    core.spawn(
        Box::pin(heart::monitor_task(heart)),
        Spawn { daemon: true, own: true, label, face: 0 },
    );
    Ok(Monitor(server))
}

fn named(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(run)
}

impl Server {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        // Nothing that is done under it can panic, so it is never poisoned in earnest.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp_address
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.inside().stopped
    }

    /// Ends it, and waits for its threads. Does nothing in a forked child, where there are none,
    /// and where a lock that one of them had would be taken for ever.
    pub(super) fn stop(&self) {
        if self.process != process::id() {
            return;
        }
        self.heart.stop();
        let mut inside = self.inside();
        if std::mem::replace(&mut inside.stopped, true) {
            return;
        }
        for session in inside.sessions.values() {
            let _ = session.stream.shutdown(Shutdown::Both);
        }
        // This ends the wait for a client, and no other one comes, not even to a child's copy.
        if let Some(listener) = self.listener.upgrade() {
            let _ = listener.shutdown(Shutdown::Both);
        }
        inside.place = None;
        self.changed.notify_all();
        let here = |inside: &mut Inside| inside.sessions.values().any(|session| !session.away);
        let waited = self.changed.wait_while(inside, here);
        let mut inside = waited.unwrap_or_else(PoisonError::into_inner);
        let (ended, listening) = (std::mem::take(&mut inside.ended), inside.listening.take());
        drop(inside);
        if self.inspector.is_some() {
            return; // what an interpreter's thread does at its end, may want the interpreter
        }
        for thread in ended.into_iter().chain(listening) {
            let _ = thread.join();
        }
    }

    fn listen(self: &Arc<Self>, listener: &Socket) {
        loop {
            let accepted = listener.accept();
            if self.inside().stopped {
                return;
            }
            match accepted {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if passes(&error) => {}
                Err(_) => self.pause(),
            }
        }
    }

    /// Waits a little for descriptors, or memory, to be free again.
    fn pause(&self) {
        let running = |inside: &mut Inside| !inside.stopped;
        let _ = self.changed.wait_timeout_while(self.inside(), PAUSE, running);
    }

    fn admit(self: &Arc<Self>, stream: Socket) {
        if self.path.is_some() && !is_ours(&stream) {
            return refuse(&stream, "Not allowed\n");
        }
        // Whoever has vanished from a network without a word is not to keep his place.
        let _ = stream.set_keepalive(true);
        let stream = Arc::new(stream);
        let mut inside = self.inside();
        let inside = &mut *inside;
        inside.ended.clear(); // threads that are over, or will be in a moment, by themselves
        if inside.stopped {
            return;
        }
        if inside.sessions.len() >= MOST_SESSIONS {
            return refuse(&stream, "Too many sessions\n");
        }
        inside.count += 1;
        let number = inside.count;
        let (server, client) = (self.clone(), stream.clone());
        let thread = named(format!("curio-monitor-{number}"), move || {
            let visit = Visit { server: &server, number };
            visit.run(&client);
        });
        // The thread ends by taking the lock that is held here, and finds itself.
        match thread {
            Ok(thread) => {
                let session = Session { stream, thread: Some(thread), away: false };
                inside.sessions.insert(number, session);
            }
            Err(_) => refuse(&stream, "Too many sessions\n"),
        }
    }
}

/// Whether the next call of `accept` may succeed all the same.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted)
}

/// Whether it is the user's own process that has connected, or the administrator's.
fn is_ours(stream: &Socket) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid == geteuid() || peer.uid.is_root())
}

/// Tells a client why it cannot stay, if it listens.
fn refuse(stream: &Socket, why: &str) {
    let _ = rustix::net::send(stream, why.as_bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// A session, in its own thread. However it ends, the server is told.
struct Visit<'a> {
    server: &'a Server,
    number: u64,
}

impl Visit<'_> {
    fn run(&self, stream: &Socket) {
        let inspector = self.server.inspector.is_some().then_some(self as &dyn Inspector);
        let (view, heart) = (&self.server.view, &*self.server.heart);
        // Why a client is gone is its own business.
        let _ = session::serve(stream, &Subject { view, inspector, heart });
    }

    /// Asks the binding, which may take its time; or not, if nobody waits for the answer.
    fn ask<R: Default>(&self, question: impl FnOnce(&dyn Inspector) -> R) -> R {
        let Some(inspector) = &self.server.inspector else { return R::default() };
        let Some(_away) = Away::new(self) else { return R::default() };
        question(&**inspector)
    }

    /// `false`: all is to end.
    fn set_away(&self, away: bool) -> bool {
        let mut inside = self.server.inside();
        if let Some(session) = inside.sessions.get_mut(&self.number) {
            session.away = away;
        }
        self.server.changed.notify_all();
        !inside.stopped
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut inside = self.server.inside();
        let session = inside.sessions.remove(&self.number);
        inside.ended.extend(session.and_then(|session| session.thread));
        self.server.changed.notify_all();
    }
}

/// While it lives, the session waits for the binding.
struct Away<'a>(&'a Visit<'a>);

impl<'a> Away<'a> {
    fn new(visit: &'a Visit<'a>) -> Option<Self> {
        let away = Away(visit);
        visit.set_away(true).then_some(away)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.set_away(false);
    }
}

/// The binding's, by way of [`Visit::ask`].
impl Inspector for Visit<'_> {
    fn names(&self, tasks: &[TaskKey]) -> Vec<Option<String>> {
        self.ask(|inspector| inspector.names(tasks))
    }

    fn stack(&self, task: TaskKey) -> Option<Stack> {
        self.ask(|inspector| inspector.stack(task))
    }

    fn describe(&self, cancellation: &Cancellation) -> Option<String> {
        self.ask(|inspector| inspector.describe(cancellation))
    }
}
