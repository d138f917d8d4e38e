//! Every kind of trap, interrupted in every way at every moment.
//!
//! A subject task blocks in a trap inside of two timeouts; the main task interrupts
//! it, and lets the operation succeed, in the order that the case asks for. What the
//! subject saw is compared with what the rules say: an operation that has succeeded
//! keeps its result, and the interrupt comes at the next trap that blocks; otherwise
//! it comes at once, unless there is a shield, and the operation can be done again
//! with nothing lost. Each test is one trap, with all 24 cases.
//!
//! The clock moves only when the main task says so; the sockets are real.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use curio::net::{TcpListener, TcpStream};
use curio::{
    Clock, Error, Kernel, Result, Task, TaskRef, TaskState, disable_cancellation, sleep, spawn,
    timeout_after,
};
use futures::channel::oneshot;

/// The unit of time: so long that no real sleep can be mistaken for it.
const UNIT: u64 = 10_000_000_000;
const NEVER: Duration = Duration::from_nanos(UNIT * 1_000_000);
const YIELD: Duration = Duration::ZERO;

const fn units(count: u64) -> Duration {
    Duration::from_nanos(UNIT * count)
}

/// A clock that is moved by hand.
#[derive(Clone, Default)]
struct Hand(Rc<Cell<u64>>);

impl Hand {
    fn jump(&self, by: Duration) {
        self.0.set(self.0.get() + by.as_nanos() as u64);
    }
}

impl Clock for Hand {
    fn now(&self) -> u64 {
        self.0.get()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trap {
    Sleep,
    Yield,
    Join,
    CancelWait,
    Accept,
    Recv,
    Send,
    Foreign,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Interrupt {
    Cancelled,
    OwnTimeout,
    OuterTimeout,
    CancelledAndTimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    BeforeItBlocks,
    WhileItIsBlocked,
    FiredButNotRun,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    trap: Trap,
    interrupt: Interrupt,
    when: When,
    shielded: bool,
}

fn cases(trap: Trap) -> Vec<Case> {
    use Interrupt::{Cancelled, CancelledAndTimedOut, OuterTimeout, OwnTimeout};
    use When::{BeforeItBlocks, FiredButNotRun, WhileItIsBlocked};
    let mut cases = Vec::new();
    for interrupt in [Cancelled, OwnTimeout, OuterTimeout, CancelledAndTimedOut] {
        for when in [BeforeItBlocks, WhileItIsBlocked, FiredButNotRun] {
            for shielded in [false, true] {
                cases.push(Case { trap, interrupt, when, shielded });
            }
        }
    }
    cases
}

impl Case {
    fn own_limit(&self) -> Duration {
        match self.interrupt {
            Interrupt::OwnTimeout | Interrupt::CancelledAndTimedOut => self.limit(),
            Interrupt::OuterTimeout | Interrupt::Cancelled => NEVER,
        }
    }

    fn outer_limit(&self) -> Duration {
        if self.interrupt == Interrupt::OuterTimeout { self.limit() } else { NEVER }
    }

    /// A sleep that is to be over before its timeout is the shorter one of both.
    fn limit(&self) -> Duration {
        units(if self.when == When::FiredButNotRun { 2 } else { 1 })
    }

    fn nap(&self) -> Duration {
        units(if self.when == When::FiredButNotRun { 1 } else { 4 })
    }

    /// What the subject is to see.
    fn expected(&self) -> Vec<String> {
        let told = match self.interrupt {
            // A cancellation drops the timeouts.
            Interrupt::Cancelled | Interrupt::CancelledAndTimedOut => "cancelled",
            Interrupt::OwnTimeout => "timeout",
            Interrupt::OuterTimeout => "timeout_cancellation",
        };
        let succeeds = match self.when {
            When::BeforeItBlocks => self.shielded,
            // It is ready again as soon as it has yielded.
            When::WhileItIsBlocked => self.shielded || self.trap == Trap::Yield,
            When::FiredButNotRun => true,
        };
        if succeeds {
            vec![
                "operation: ok".into(),
                format!("next: {told}"),
                "next: ok".into(),
                "region: ok".into(),
            ]
        } else if self.trap == Trap::Foreign {
            // It knows nothing of interrupts: the region around it drops it.
            vec![format!("region: {told}")]
        } else {
            let mut seen = vec![format!("operation: {told}")];
            seen.extend(["next: ok", "next: ok", "again: ok", "region: ok"].map(String::from));
            seen
        }
    }
}

fn kind<T>(result: &Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) if error.is_cancelled() => "cancelled",
        Err(error) if error.is_timeout() => "timeout",
        Err(error) if error.is_timeout_cancellation() => "timeout_cancellation",
        Err(error) => panic!("{error:?}"),
    }
}

/// What the subject operates on, and what makes the operation succeed.
struct Scene {
    case: Case,
    clock: Hand,
    target: Option<Task<()>>,
    /// Ends the target.
    gate: Option<TaskRef>,
    listener: Option<TcpListener>,
    address: Option<SocketAddr>,
    stream: Option<TcpStream>,
    peer: RefCell<Option<std::net::TcpStream>>,
    receiver: RefCell<Option<oneshot::Receiver<()>>>,
    sender: RefCell<Option<oneshot::Sender<()>>>,
}

impl Scene {
    async fn new(case: Case, clock: Hand) -> Result<Scene> {
        let mut scene = Scene {
            case,
            clock,
            target: None,
            gate: None,
            listener: None,
            address: None,
            stream: None,
            peer: RefCell::default(),
            receiver: RefCell::default(),
            sender: RefCell::default(),
        };
        match case.trap {
            Trap::Sleep | Trap::Yield => {}
            Trap::Join | Trap::CancelWait => {
                let gate = gate();
                let passed = gate.clone();
                scene.gate = Some(gate);
                scene.target = Some(spawn(async move {
                    // Ends when the gate opens, whoever cancels it: that is its clean-up.
                    if passed.wait().await.is_err() {
                        passed.wait().await?;
                    }
                    Ok(())
                }));
            }
            Trap::Accept => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                scene.address = Some(listener.local_addr()?);
                scene.listener = Some(listener);
            }
            Trap::Recv | Trap::Send => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let peer = std::net::TcpStream::connect(listener.local_addr()?)?;
                let (stream, _) = listener.accept().await?;
                if case.trap == Trap::Send {
                    fill(&stream).await?;
                }
                scene.stream = Some(stream);
                scene.peer = RefCell::new(Some(peer));
            }
            Trap::Foreign => {
                let (sender, receiver) = oneshot::channel();
                scene.sender = RefCell::new(Some(sender));
                scene.receiver = RefCell::new(Some(receiver));
            }
        }
        Ok(scene)
    }

    async fn operation(&self) -> Result<()> {
        match self.case.trap {
            Trap::Sleep => sleep(self.case.nap()).await.map(drop),
            Trap::Yield => sleep(YIELD).await.map(drop),
            Trap::Join => self.target.as_ref().unwrap().join().await,
            Trap::CancelWait => self.target.as_ref().unwrap().cancel().await.map(drop),
            Trap::Accept => self.listener.as_ref().unwrap().accept().await.map(drop),
            Trap::Recv => {
                let mut buffer = [0; 10];
                let count = self.stream.as_ref().unwrap().recv(&mut buffer).await?;
                assert_eq!(&buffer[..count], b"hello");
                Ok(())
            }
            Trap::Send => self.stream.as_ref().unwrap().send(b"hello").await.map(drop),
            Trap::Foreign => {
                let receiver = self.receiver.take().unwrap();
                receiver.await.map_err(Error::other)
            }
        }
    }

    /// Makes the operation succeed.
    fn fire(&self) {
        match self.case.trap {
            Trap::Sleep => self.clock.jump(self.case.nap()),
            Trap::Yield => {}
            Trap::Join | Trap::CancelWait => drop(self.gate.as_ref().unwrap().request_cancel()),
            Trap::Accept => {
                let peer = std::net::TcpStream::connect(self.address.unwrap()).unwrap();
                *self.peer.borrow_mut() = Some(peer);
            }
            Trap::Recv => self.peer.borrow_mut().as_mut().unwrap().write_all(b"hello").unwrap(),
            Trap::Send => drain(self.peer.borrow_mut().as_mut().unwrap()),
            Trap::Foreign => drop(self.sender.take().unwrap().send(())),
        }
    }

    fn interrupt(&self, subject: &TaskRef) {
        let interrupt = self.case.interrupt;
        if interrupt != Interrupt::Cancelled {
            self.clock.jump(self.case.limit());
        }
        if matches!(interrupt, Interrupt::Cancelled | Interrupt::CancelledAndTimedOut) {
            assert!(subject.request_cancel());
        }
    }

    fn blocked(&self) -> TaskState {
        match self.case.trap {
            Trap::Sleep => TaskState::TimeSleep,
            Trap::Yield => TaskState::Ready,
            Trap::Join | Trap::CancelWait => TaskState::TaskJoin,
            Trap::Accept | Trap::Recv => TaskState::ReadWait,
            Trap::Send => TaskState::WriteWait,
            Trap::Foreign => TaskState::FutureWait,
        }
    }
}

/// A task that ends when it is cancelled: to wait for it is to stand before a gate.
fn gate() -> TaskRef {
    spawn(async { sleep(NEVER).await.map(drop) }).clone()
}

/// Sends until nothing more goes in.
async fn fill(stream: &TcpStream) -> Result<()> {
    let block = [0; 1 << 16];
    loop {
        let sent = timeout_after(Duration::ZERO, stream.send(&block)).await;
        if sent.as_ref().is_err_and(Error::is_timeout) {
            return Ok(());
        }
        sent?;
    }
}

/// Receives until nothing more comes.
fn drain(peer: &mut std::net::TcpStream) {
    peer.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while peer.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

/// Lets other tasks run until `happened`, without moving the clock.
async fn until(happened: impl Fn() -> bool) -> Result<()> {
    for _ in 0..100_000 {
        if happened() {
            return Ok(());
        }
        sleep(YIELD).await?;
    }
    panic!("it does not happen");
}

/// Yields until the kernel has looked at the clock and at the descriptors for sure.
async fn look() -> Result<()> {
    for _ in 0..300 {
        sleep(YIELD).await?;
    }
    Ok(())
}

async fn check(case: Case, clock: Hand) -> Result<()> {
    let scene = Rc::new(Scene::new(case, clock.clone()).await?);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let started = Rc::new(Cell::new(false));
    let gate = gate();

    let inside = {
        let (scene, seen) = (scene.clone(), seen.clone());
        let (started, gate) = (started.clone(), gate.clone());
        async move {
            if case.when == When::BeforeItBlocks {
                disable_cancellation(gate.wait()).await?;
            }
            started.set(true);
            let result = if case.shielded {
                disable_cancellation(scene.operation()).await
            } else {
                scene.operation().await
            };
            seen.borrow_mut().push(format!("operation: {}", kind(&result)));
            for _ in 0..2 {
                let next = sleep(units(1)).await;
                seen.borrow_mut().push(format!("next: {}", kind(&next)));
            }
            if result.is_err() {
                let again = scene.operation().await;
                seen.borrow_mut().push(format!("again: {}", kind(&again)));
            }
            Ok(())
        }
    };
    let subject = {
        let seen = seen.clone();
        spawn(timeout_after(case.outer_limit(), async move {
            let region = timeout_after(case.own_limit(), inside).await;
            seen.borrow_mut().push(format!("region: {}", kind(&region)));
            if region.as_ref().is_err_and(Error::is_timeout) { Ok(()) } else { region }
        }))
    };

    let mut fired = false;
    match case.when {
        When::BeforeItBlocks => {
            until(|| subject.state() == TaskState::TaskJoin).await?;
            scene.interrupt(&subject);
            look().await?;
            assert!(!started.get());
            gate.request_cancel();
        }
        When::WhileItIsBlocked => {
            until(|| started.get() && subject.state() == scene.blocked()).await?;
            scene.interrupt(&subject);
        }
        When::FiredButNotRun => {
            until(|| started.get() && subject.state() == scene.blocked()).await?;
            scene.fire();
            fired = true;
            until(|| subject.state() == TaskState::Ready).await?;
            scene.interrupt(&subject);
        }
    }
    look().await?;
    if !fired {
        scene.fire();
    }
    // From here on time just passes.
    while !subject.terminated() {
        clock.jump(units(1));
        look().await?;
    }
    assert_eq!(*seen.borrow(), case.expected(), "{case:?}");
    if case.trap == Trap::CancelWait {
        // Given up or not, the request stands.
        assert!(scene.target.as_ref().unwrap().info().cancellation().is_some(), "{case:?}");
    }
    if let Some(peer) = &mut *scene.peer.borrow_mut() {
        drain(peer);
    }
    gate.cancel().await?;
    Ok(())
}

fn check_all(trap: Trap) {
    for case in cases(trap) {
        let clock = Hand::default();
        let mut kernel = Kernel::builder().clock(clock.clone()).build().unwrap();
        if let Err(error) = kernel.run(check(case, clock)) {
            panic!("{case:?}: {error}");
        }
        assert!(kernel.tasks().is_empty(), "{case:?}");
        kernel.shutdown().unwrap();
    }
}

#[test]
fn sleep_in_all_cases() {
    check_all(Trap::Sleep);
}

#[test]
fn sleep_zero_in_all_cases() {
    check_all(Trap::Yield);
}

#[test]
fn join_in_all_cases() {
    check_all(Trap::Join);
}

#[test]
fn cancel_in_all_cases() {
    check_all(Trap::CancelWait);
}

#[test]
fn accept_in_all_cases() {
    check_all(Trap::Accept);
}

#[test]
fn recv_in_all_cases() {
    check_all(Trap::Recv);
}

#[test]
fn send_in_all_cases() {
    check_all(Trap::Send);
}

#[test]
fn a_foreign_future_in_all_cases() {
    check_all(Trap::Foreign);
}

/// Both have happened when the task runs again: of an interrupt and a result the one that
/// came first counts, and the other one is not lost. (The result first: `FiredButNotRun`.)
#[test]
fn an_interrupt_that_came_before_the_result_counts() {
    let clock = Hand::default();
    let program = {
        let clock = clock.clone();
        async move {
            let sleeper = spawn(timeout_after(units(1), async {
                let slept = sleep(units(2)).await;
                assert_eq!(kind(&slept), "timeout");
                Ok(())
            }));
            until(|| sleeper.state() == TaskState::TimeSleep).await?;
            clock.jump(units(3)); // the kernel sees both at once
            sleeper.join().await?;

            // A task that cancels who waits for it, and ends in the same turn.
            let joiner: Rc<Cell<Option<TaskRef>>> = Rc::default();
            let target = Rc::new(spawn({
                let joiner = joiner.clone();
                async move {
                    sleep(YIELD).await?;
                    assert!(joiner.take().unwrap().request_cancel());
                    Ok(7)
                }
            }));
            let joining = spawn({
                let target = target.clone();
                async move {
                    let joined = target.join().await;
                    assert_eq!(kind(&joined), "cancelled");
                    target.join().await // its value is still there
                }
            });
            joiner.set(Some(joining.clone()));
            assert_eq!(joining.join().await?, 7);
            Ok(())
        }
    };
    let mut kernel = Kernel::builder().clock(clock).build().unwrap();
    kernel.run(program).unwrap();
}

#[test]
fn a_connect_that_has_succeeded_keeps_its_result() {
    let program = async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let task = spawn(async move {
            let stream = TcpStream::connect(address).await;
            assert!(stream.is_ok(), "the connection was there already");
            let next = sleep(NEVER).await;
            assert_eq!(kind(&next), "cancelled");
            stream?.send_all(b"hello").await // and it is whole
        });
        // It has asked for the connection, and the system has made it; the kernel looks,
        // and then this task is the first to know.
        until(|| task.state() == TaskState::WriteWait).await?;
        until(|| task.state() == TaskState::Ready).await?;
        task.cancel().await?;
        let (peer, _) = listener.accept().await?;
        let mut buffer = [0; 5];
        peer.recv_exact(&mut buffer).await?;
        assert_eq!(&buffer, b"hello");
        task.join().await
    };
    let mut kernel = Kernel::builder().clock(Hand::default()).build().unwrap();
    kernel.run(program).unwrap();
}

#[test]
fn a_connect_with_a_cancellation_pending_is_given_up() {
    let program = async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let task = spawn(async move { TcpStream::connect(address).await });
        task.cancel().await?;
        let error = task.join().await.err().unwrap();
        assert!(error.task_cause().unwrap().is_cancelled());
        Ok(())
    };
    curio::run(program).unwrap();
}
