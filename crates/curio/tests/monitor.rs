//! The monitor: what it answers, to whom, when, and what is left of it.
//!
//! A program runs in a thread of its own, on the machine's clock; the tests are its clients, over
//! the real socket. What belongs to a whole process (its first id, its environment, the signals
//! it is sent, what is there when it is over) is tried in another one: this program once more,
//! in one of the roles of [`helper`].

mod common;

use std::env;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use curio::embed::{Address, Frame, Inspector, Stack, TaskKey};
use curio::net::TcpListener;
use curio::sync::{Condition, Event, Lock, RLock, Semaphore};
use curio::{
    Cancellation, Kernel, Queue, Result, SignalSet, Stopper, Task, TaskBuilder,
    disable_cancellation, get_all_tasks, monitor, sleep, spawn, timeout_after,
};
use serde_json::{Value, json};

use common::descriptors;

const LONG: Duration = Duration::from_secs(1000);

const PROMPT: &str = "curio > ";

const HEADER: &str = "\
Task   State        Cycles     Timeout Task
------ ------------ ---------- ------- --------------------------------------------------
";

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Waits for what another thread does.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{what} has not happened");
        thread::sleep(ms(2));
    }
}

// Places.

/// A directory below cargo's for tests.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// The same, empty.
fn fresh(name: &str) -> PathBuf {
    fs::remove_dir_all(directory(name)).unwrap();
    directory(name)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where the monitors of this process listen, other than in a helper.
static HOME: LazyLock<PathBuf> = LazyLock::new(|| {
    let home = directory("monitor");
    // SAFETY: no other thread may read the environment meanwhile, but through the standard library,
    // which takes a lock. There are other threads, tests and kernels; but all that is in them
    // reads it through the standard library: nothing there looks up the names of hosts or time
    // zones, which the C library does.
    unsafe { env::set_var("XDG_RUNTIME_DIR", &home) };
    home
});

// Programs.

/// A program with the monitor on, in a thread of its own; it ends with this.
struct Program {
    path: PathBuf,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Program {
    /// Runs `setup` as the main task, which sleeps when that is done.
    fn start<F>(setup: impl FnOnce() -> F + Send + 'static) -> Program
    where
        F: Future<Output = Result<()>> + 'static,
    {
        LazyLock::force(&HOME);
        Program::with(None, setup)
    }

    fn with<F>(
        inspector: Option<Arc<dyn Inspector>>,
        setup: impl FnOnce() -> F + Send + 'static,
    ) -> Program
    where
        F: Future<Output = Result<()>> + 'static,
    {
        LazyLock::force(&HOME);
        let (tell, told) = channel();
        let thread = thread::spawn(move || {
            let mut kernel = Kernel::new().unwrap();
            let monitor = kernel.start_monitor(Address::Unix, inspector).unwrap();
            let found = (monitor.path().unwrap().to_owned(), kernel.stopper());
            // Its end is the test's: by the stopper, or by a cancellation.
            let _ = kernel.run(async move {
                tell.send(found).unwrap();
                setup().await?;
                sleep(LONG).await.map(drop)
            });
            // It is dropped: some of its tasks never end by themselves.
        });
        let (path, stopper) = told.recv().unwrap();
        Program { path, stopper, thread: Some(thread) }
    }

    fn session(&self) -> Session {
        Session::new(&self.path)
    }

    /// Waits for the end of a program that ends by itself.
    fn end(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.stopper.stop();
        let ended = thread.join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

/// A task that sleeps, or does something else for ever.
#[track_caller]
fn task(name: &str, body: impl Future<Output = Result<()>> + 'static) -> Task<()> {
    TaskBuilder::new().name(name.to_owned()).spawn(body)
}

// Clients.

/// A client, with what the monitor has said that was not read yet.
struct Session<S = UnixStream> {
    stream: S,
    greeting: String,
}

/// A line of `ps`.
#[derive(Debug, PartialEq)]
struct Row {
    id: u64,
    state: String,
    cycles: u64,
    timeout: String,
    name: String,
}

impl Session {
    fn new(path: &Path) -> Session {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Session::greeted(stream)
    }
}

impl<S: Read + Write> Session<S> {
    fn greeted(stream: S) -> Session<S> {
        let mut session = Session { stream, greeting: String::new() };
        session.greeting = session.answer();
        session
    }

    fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).unwrap();
    }

    /// What is said until the next prompt.
    #[track_caller]
    fn answer(&mut self) -> String {
        let mut said = Vec::new();
        let mut some = [0; 65_536];
        loop {
            let count = self.stream.read(&mut some).unwrap();
            assert_ne!(count, 0, "the monitor is gone; it said {:?}", String::from_utf8(said));
            said.extend_from_slice(&some[..count]);
            if let Some(answer) = said.strip_suffix(PROMPT.as_bytes())
                && (answer.is_empty() || answer.ends_with(b"\n"))
            {
                return String::from_utf8(answer.into()).unwrap();
            }
        }
    }

    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\n"));
        self.answer()
    }

    /// What is said until the end of the stream.
    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).unwrap();
        rest
    }

    #[track_caller]
    fn rows(&mut self) -> Vec<Row> {
        let table = self.ask("ps");
        let lines = table.strip_prefix(HEADER).expect("a header").lines();
        // On a slow machine, a task may be found busy.
        lines.filter(|line| !line.starts_with("The kernel ")).map(Row::of).collect()
    }

    #[track_caller]
    fn row(&mut self, name: &str) -> Option<Row> {
        self.rows().into_iter().find(|row| row.name == name)
    }

    /// Waits until a task is in that state; gives its id.
    #[track_caller]
    fn find(&mut self, name: &str, state: &str) -> u64 {
        eventually(&format!("{name} in {state}"), || {
            self.row(name).filter(|row| row.state == state).map(|row| row.id)
        })
    }

    #[track_caller]
    fn objects(&mut self, command: &str) -> Vec<Value> {
        self.ask(command).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Row {
    /// Takes the columns where they are to be.
    #[track_caller]
    fn of(line: &str) -> Row {
        for gap in [6, 19, 30, 38] {
            assert_eq!(&line[gap..=gap], " ", "{line:?}");
        }
        Row {
            id: line[..6].trim_end().parse().unwrap(),
            state: line[7..19].trim_end().into(),
            cycles: line[20..30].trim_end().parse().unwrap(),
            timeout: line[31..38].trim_end().into(),
            name: line[39..].into(),
        }
    }
}

// Talking.

#[test]
fn a_client_is_greeted_and_leaves_when_it_says_so() {
    let program = Program::start(|| async { Ok(()) });
    let session = program.session();
    // The main task and the monitor's.
    assert_eq!(session.greeting, "\nCurio Monitor: 2 tasks running\nType help for commands\n");
    for word in ["quit", "exit", "q", "qui", " quit ", "quit now"] {
        let mut session = program.session();
        session.send(format!("{word}\n"));
        assert_eq!(session.rest(), "Leaving monitor\n", "{word}");
    }
    // The end of the input does it, after what has come before it.
    for (input, said) in [
        ("", "Leaving monitor\n"),
        ("where 0\n", "No task 0\ncurio > Leaving monitor\n"),
        ("where 0", "No task 0\ncurio > Leaving monitor\n"),
        ("\n\n", "curio > curio > Leaving monitor\n"),
    ] {
        let mut session = program.session();
        session.send(input);
        session.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(session.rest(), said, "{input:?}");
    }
    // Nothing comes after it, whatever was sent.
    let mut session = program.session();
    session.send("help\nquit\nps\nhelp\n");
    let rest = session.rest();
    assert!(rest.ends_with("\ncurio > Leaving monitor\n"), "{rest:?}");
}

#[test]
fn commands_are_known_by_their_beginnings() {
    let program = Program::start(|| async { Ok(()) });
    let mut session = program.session();
    for word in ["p", "ps", "  ps  ", "ps\r"] {
        assert!(session.ask(word).starts_with(HEADER), "{word:?}");
    }
    for word in ["w 0", "wh 0", "where 0", "\twhere\t0", "why 0", "pa 0", "parents 0"] {
        assert_eq!(session.ask(word), "No task 0\n", "{word:?}");
    }
    for word in ["h", "he", "help"] {
        assert!(session.ask(word).starts_with("Commands:\n"), "{word}");
    }
    assert_eq!(session.ask("d"), "No deadlock\n");
    assert_eq!(session.ask("cancelle"), "No cancelled tasks\n");
    // What does something is not to be done by half a word.
    let words = ["c 0", "cance 0", "sig HUP", "s", "e", "exi", "psx", "foo", "PS", "0", "\u{fffd}"];
    for word in words {
        assert_eq!(session.ask(word), "Unknown command. Type help.\n", "{word}");
    }
    assert_eq!(session.ask(""), "");
    assert_eq!(session.ask("   "), "");
}

#[test]
fn what_is_wrong_with_a_command_is_said() {
    let program = Program::start(|| async { Ok(()) });
    let mut session = program.session();
    for (command, message) in [
        ("where", "where takes the id of a task"),
        ("where 1 2", "where takes the id of a task"),
        ("where main", "main is not the id of a task"),
        ("where -1", "where does not know -1"),
        ("where 99999999999999999999", "99999999999999999999 is not the id of a task"),
        ("why", "why takes the id of a task"),
        ("why -j", "why takes the id of a task"),
        ("why -x 1", "why does not know -x"),
        ("cancel", "cancel takes the id of a task"),
        ("cancel x", "x is not the id of a task"),
        ("cancel 1 2", "cancel takes the id of a task"),
        ("parents", "parents takes the id of a task"),
        ("signal", "signal takes the name of a signal"),
        ("signal SIGHUP 1", "signal takes the name of a signal"),
        ("ps 3", "ps does not know what to do with 3"),
        ("ps -x", "ps does not know -x"),
        ("tree 3", "tree does not know what to do with 3"),
        ("deadlock 3", "deadlock does not know what to do with 3"),
        ("cancelled 3", "cancelled does not know what to do with 3"),
        ("where \x1b[2J", "\\u{1b}[2J is not the id of a task"),
    ] {
        assert_eq!(session.ask(command), format!("Bad command. {message}\n"), "{command:?}");
    }
    assert_eq!(session.ask("signal FOO"), "Unknown signal FOO\n");
    assert_eq!(session.ask("signal SIGRTMIN"), "Unknown signal SIGRTMIN\n");
    assert_eq!(session.ask("cancel 0"), "");
}

#[test]
fn help_lists_the_commands() {
    let program = Program::start(|| async { Ok(()) });
    let help = program.session().ask("help");
    for command in
        ["ps", "where taskid", "cancel taskid", "signal signame", "quit", "workers", "tree"]
    {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}");
    }
}

#[test]
fn workers_are_listed_with_their_work() {
    let (open, gate) = channel::<()>();
    let program =
        Program::start(|| async { curio::run_in_thread(move || gate.recv().unwrap()).await });
    let mut session = program.session();
    let mut row = |end: &str| {
        eventually("work", || {
            let said = session.ask("workers");
            assert!(said.starts_with("Worker               Seconds    Work\n"), "{said}");
            said.lines().find(|line| line.ends_with(end)).map(str::to_owned)
        })
    };
    let at_work = row(" workers_are_listed_with_their_work");
    open.send(()).unwrap();
    let name = at_work.split(' ').next().unwrap();
    let idle = row(" idle");
    assert!(
        idle.starts_with("curio-worker-") && name.starts_with("curio-worker-"),
        "{name} {idle}"
    );
    assert!(session.ask("workers 1").starts_with("Bad command. workers does not know"));
}

#[test]
fn bytes_of_any_kind_are_survived() {
    let program = Program::start(|| async { Ok(()) });
    let mut session = program.session();
    session.send(b"\xff\xfe\0ps\n");
    assert_eq!(session.answer(), "Unknown command. Type help.\n");
    for length in [4097, 100_000, 3_000_000] {
        session.send("x".repeat(length));
        // Said at once, not at the end of a line that may never end.
        assert_eq!(session.answer(), "Bad command. Line too long\n");
        session.send("ps\nwhere 0\n");
        assert_eq!(session.answer(), "No task 0\n");
    }
    // Drawn by chance, the same each time. Each line has an answer, and be it an empty one.
    let mut random = 42_u64;
    let mut bytes = Vec::new();
    for _ in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // No command of ours, which could be a long answer, and lines that are short enough.
        bytes.push(b'~' | (random >> 33) as u8);
    }
    let mut sender = session.stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        for line in bytes.chunks(1000) {
            sender.write_all(line).unwrap();
            sender.write_all(b"\n").unwrap();
        }
        sender.write_all(b"q\n").unwrap();
    });
    let rest = session.rest();
    sending.join().unwrap();
    assert_eq!(rest.matches("Unknown command. Type help.\ncurio > ").count(), 20);
    assert!(rest.ends_with("Leaving monitor\n"));
}

// Looking.

#[test]
fn ps_shows_each_task_in_its_columns() {
    let program = Program::start(|| async {
        let kid = task("kid", async { sleep(LONG).await.map(drop) });
        let limit = Duration::from_secs(50);
        task("parent", async move { timeout_after(limit, kid.wait()).await });
        let kid = task("soon", async { sleep(ms(200_000)).await.map(drop) });
        task("joiner", async move { kid.wait().await });
        task("ever", async { sleep(Duration::MAX).await.map(drop) });
        task("two\nlines", async { sleep(LONG).await.map(drop) });
        Ok(())
    });
    let mut session = program.session();
    let kid = session.find("kid", "TIME_SLEEP");
    let rows = session.rows();
    assert!(rows.is_sorted_by_key(|row| row.id));
    let row = |name: &str| rows.iter().find(|row| row.name == name).unwrap();
    let timeout = |name| row(name).timeout.as_str();
    assert_eq!(row("kid").cycles, 1);
    assert!(timeout("kid").len() == 7 && timeout("kid").starts_with("999."));
    assert_eq!(row("parent").state, "TASK_JOIN");
    assert!(timeout("parent").len() == 7 && timeout("parent").starts_with("49."));
    assert!(timeout("soon").len() == 7 && timeout("soon").starts_with("199."));
    assert_eq!(timeout("joiner"), "None");
    assert!(timeout("ever").len() == 7 && timeout("ever").parse::<u64>().is_ok());
    assert_eq!(row("two\\nlines").state, "TIME_SLEEP");

    let of_monitor = row("Monitor.monitor_task");
    assert_eq!(of_monitor.state, "TIME_SLEEP");
    assert!(of_monitor.timeout.starts_with("0.0"), "{of_monitor:?}");
    assert!(of_monitor.id < kid);
    // In rounds of a tenth of a second.
    let start = Instant::now();
    thread::sleep(ms(450));
    let cycles = session.row("Monitor.monitor_task").unwrap().cycles - of_monitor.cycles;
    let most = start.elapsed().as_millis() as u64 / 100 + 1;
    assert!((1..=most).contains(&cycles), "{cycles}");
}

#[test]
fn where_shows_where_a_task_was_spawned_and_where_it_waits() {
    const LINE: u32 = line!() + 3;
    let program = Program::start(|| async {
        task("kid", async {
            // This is the line that both are: spawn's is that of `task`, which is above.
            sleep(LONG).await.map(drop)
        });
        TaskBuilder::new().name("lazy").spawn(async { sleep(LONG).await.map(drop) });
        Ok(())
    });
    let mut session = program.session();
    let (kid, lazy) = (session.find("kid", "TIME_SLEEP"), session.find("lazy", "TIME_SLEEP"));
    let (file, first, second, third) = (file!(), LINE - 1, LINE + 1, LINE + 3);
    assert_eq!(
        session.ask(&format!("where {kid}")),
        format!(
            "\
Stack for Task(id={kid}, kid, state='TIME_SLEEP') (most recent call last):
  File \"{file}\", line {first}, in spawn
    task(\"kid\", async {{
  File \"{file}\", line {second}, in kid
    sleep(LONG).await.map(drop)

"
        )
    );
    let source = "TaskBuilder::new().name(\"lazy\").spawn(async { sleep(LONG).await.map(drop) });";
    assert_eq!(
        session.ask(&format!("where {lazy}")),
        format!(
            "\
Stack for Task(id={lazy}, lazy, state='TIME_SLEEP') (most recent call last):
  File \"{file}\", line {third}, in spawn
    {source}
  File \"{file}\", line {third}, in lazy
    {source}

"
        )
    );
    let object = session.objects(&format!("where -j {lazy}")).remove(0);
    let frame = |function: &str| json!({"file": file, "line": third, "function": function, "source": source});
    assert_eq!(
        object,
        json!({
            "id": lazy,
            "name": "lazy",
            "state": "TIME_SLEEP",
            "repr": format!("Task(id={lazy}, lazy, state='TIME_SLEEP')"),
            "frames": [frame("spawn"), frame("lazy")],
        })
    );
    let all = session.objects("where -j");
    assert_eq!(all.len(), session.rows().len());
    assert!(all.contains(&object));
    assert_eq!(session.ask("where 4000000000"), "No task 4000000000\n");
}

#[test]
fn parents_and_the_tree_show_who_has_spawned_whom() {
    let program = Program::start(|| async {
        task("root", async {
            let kid = task("kid", async {
                task("grandkid", async { sleep(LONG).await.map(drop) });
                sleep(LONG).await.map(drop)
            });
            task("orphan's parent", async {
                task("orphan", async { sleep(LONG).await.map(drop) });
                Ok(())
            });
            kid.wait().await
        });
        Ok(())
    });
    let mut session = program.session();
    let orphan = session.find("orphan", "TIME_SLEEP");
    let (root, kid) = (session.find("root", "TASK_JOIN"), session.find("kid", "TIME_SLEEP"));
    let grandkid = session.find("grandkid", "TIME_SLEEP");
    let main = session.rows()[1].id;
    let chain = session.ask(&format!("parents {grandkid}"));
    let lines: Vec<_> = chain.lines().collect();
    assert_eq!(
        lines[..3],
        [
            format!("{grandkid:<6}   TIME_SLEEP grandkid"),
            format!("{kid:<6}   TIME_SLEEP kid"),
            format!("{root:<6}    TASK_JOIN root"),
        ]
    );
    assert!(lines[3].starts_with(&format!("{main:<6}   TIME_SLEEP ")));
    assert_eq!(lines.len(), 4);
    assert_eq!(
        session.ask(&format!("parents {orphan}")),
        format!("{orphan:<6}   TIME_SLEEP orphan\n")
    );

    let tree = session.ask("tree");
    let lines: Vec<_> = tree.lines().collect();
    assert_eq!(lines.len(), session.rows().len());
    assert!(lines[0].ends_with("TIME_SLEEP   Monitor.monitor_task"));
    assert_eq!(
        lines[2..],
        [
            format!("{root:<6} TASK_JOIN      root"),
            format!("{kid:<6} TIME_SLEEP       kid"),
            format!("{grandkid:<6} TIME_SLEEP         grandkid"),
            format!("{orphan:<6} TIME_SLEEP   orphan"),
        ]
    );
}

#[test]
fn json_says_the_same_for_programs() {
    let program = Program::start(|| async {
        let lock = Lock::new(());
        let held = lock.clone();
        task("holder", async move {
            let _guard = held.acquire().await?;
            sleep(LONG).await.map(drop)
        });
        task("waiter", async move { lock.acquire().await.map(drop) });
        let listener = TcpListener::bind("127.0.0.1:0")?;
        TaskBuilder::new()
            .name("server")
            .daemon()
            .spawn(async move { listener.accept().await.map(drop) });
        Ok(())
    });
    let mut session = program.session();
    let waiter = session.find("waiter", "LOCK_ACQUIRE");
    let holder = session.find("holder", "TIME_SLEEP");
    let server = session.find("server", "READ_WAIT");
    let objects = session.objects("ps -j");
    assert_eq!(objects.len(), session.rows().len());
    let find = |id: u64| objects.iter().find(|object| object["id"] == id).unwrap().clone();
    let lock = find(waiter)["waiting_for"]["id"].clone();
    let main = find(holder)["parent"].clone();
    assert!(main.is_u64());
    let waits = json!({
        "id": waiter, "name": "waiter", "state": "LOCK_ACQUIRE", "cycles": 1, "timeout": null,
        "parent": main, "daemon": false,
        "waiting_for": {
            "kind": "lock", "id": lock, "owner": holder, "waiting": 1, "level": 0, "capacity": 0,
        },
    });
    assert_eq!(find(waiter), waits);
    let timeout = find(holder)["timeout"].as_f64().unwrap();
    assert!(timeout > 900.0 && timeout <= 1000.0);
    assert_eq!(find(holder)["waiting_for"], json!({ "kind": "time" }));
    assert_eq!(find(server)["daemon"], true);
    assert_eq!(find(server)["waiting_for"]["kind"], "descriptor");
    assert_eq!(find(server)["waiting_for"]["direction"], "read");

    let why = session.objects(&format!("why -j {waiter}")).remove(0);
    assert_eq!(why["waiting_for"], waits["waiting_for"]);
    assert_eq!(why["chain"].as_array().unwrap().len(), 1);
    assert_eq!(why["chain"][0]["id"], holder);
    assert_eq!(why["deadlock"], Value::Null);
    let why = session.objects(&format!("why -j {server}")).remove(0);
    assert_eq!(why["waiting_for"]["socket"], "TCP");
    assert_eq!(why["waiting_for"]["listening"], true);
    assert!(why["waiting_for"]["local"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(session.ask("why -j 4000000000"), "No task 4000000000\n");
}

// Why.

/// The answer to `why`, with `#` for the numbers of primitives, tasks and descriptors.
#[track_caller]
fn why(session: &mut Session, name: &str, state: &str) -> String {
    let id = session.find(name, state);
    let answer = session.ask(&format!("why {id}"));
    let mut text = String::new();
    let mut rest = answer.trim_end();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        text.push_str(&rest[..start]);
        let number = &rest[start..];
        let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
        text.push_str(match &number[..end] {
            line if text.ends_with(".rs:") => line,
            moment if moment.contains('.') => "#.#",
            _ => "#",
        });
        rest = &number[end..];
    }
    text + rest
}

#[test]
fn why_names_what_a_lock_is_waited_for() {
    const LINE: u32 = line!() + 5;
    let program = Program::start(|| async {
        let lock = Lock::new(());
        let held = lock.clone();
        task("holder", async move {
            let _guard = held.acquire().await?;
            sleep(LONG).await.map(drop)
        });
        for name in ["first", "second", "third"] {
            let lock = lock.clone();
            task(name, async move { lock.acquire().await.map(drop) });
            sleep(Duration::ZERO).await?;
        }
        let lock = RLock::new();
        lock.acquire().await?;
        task("again", async move { timeout_after(LONG, lock.acquire()).await });
        Ok(())
    });
    let mut session = program.session();
    let mut why = |name| why(&mut session, name, "LOCK_ACQUIRE");
    let taken = |line: u32| format!("taken at crates/curio/tests/monitor.rs:{line}");
    let chain = "\n  task # (holder) holds it, and is sleeping for another #.# s";
    let first = why("first");
    assert!(
        first.starts_with(
            "Task # (first) is waiting for Lock #, held by task # (holder), taken at "
        )
    );
    assert!(first.ends_with(&format!("; it is the first in line{chain}")), "{first}");
    assert!(first.contains(&taken(LINE)), "{first}");
    let second = why("second");
    assert!(second.contains("; before it in line: task # (first)\n"), "{second}");
    let third = why("third");
    assert!(third.contains("; before it in line: task # (first), task # (second)\n"), "{third}");
    let again = why("again");
    assert!(again.contains("is waiting for RLock #, held by task # ("), "{again}");
    assert!(again.contains("; its timeout comes in #.# s\n"), "{again}");
}

#[test]
fn why_names_everything_else_that_is_waited_for() {
    let program = Program::start(|| async {
        let event = Event::new();
        for name in ["event", "event too"] {
            let event = event.clone();
            task(name, async move { event.wait().await });
        }
        let permits = Semaphore::bounded(2);
        task("permit", async move {
            let _both = (permits.acquire().await?, permits.acquire().await?);
            permits.acquire().await.map(drop)
        });
        let (lock, condition) = (Lock::new(()), Condition::new());
        task("condition", async move { condition.wait(&mut lock.acquire().await?).await });
        let (full, empty) = (Queue::bounded(2), Queue::<u32>::unbounded());
        full.put(1).await?;
        full.put(2).await?;
        for name in ["put", "put too"] {
            let full = full.clone();
            task(name, async move { Ok(full.put(3).await?) });
        }
        let all = full.clone();
        task("done", async move { all.join().await });
        task("get", async move { empty.get().await.map(drop) });
        task("signal", async { SignalSet::new([curio::signal::SIGUSR2]).wait().await.map(drop) });
        task("foreign", async {
            std::future::pending::<()>().await;
            Ok(())
        });
        let kid = task("sleeper", async { sleep(LONG).await.map(drop) });
        task("joiner", async move { kid.wait().await });
        Ok(())
    });
    let mut session = program.session();
    for (name, state, words) in [
        ("event", "EVENT_WAIT", "Event # to be set; # tasks in all wait for that"),
        (
            "permit",
            "SEMA_ACQUIRE",
            "a permit of Semaphore # (# of # permits left); it is the first in line",
        ),
        ("condition", "COND_WAIT", "a notification of Condition #; it is the first in line"),
        (
            "put too",
            "QUEUE_PUT",
            "room in Queue # (# of # items); before it in line: task # (put); \
             waiting for all items to be done: task # (done)",
        ),
        (
            "done",
            "QUEUE_JOIN",
            "all items of Queue # to be done (# of # items); \
             waiting for room: task # (put), task # (put too)",
        ),
        ("get", "QUEUE_GET", "an item of Queue # (# items); it is the first in line"),
        ("foreign", "FUTURE_WAIT", "something that is not Curio's (a foreign future)"),
        (
            "joiner",
            "TASK_JOIN",
            "the end of task # (sleeper)\n  task # (sleeper) is sleeping for another #.# s",
        ),
    ] {
        let said = why(&mut session, name, state);
        assert_eq!(said, format!("Task # ({name}) is waiting for {words}"));
    }
    let said = why(&mut session, "signal", "SIGNAL_WAIT");
    assert!(said.starts_with("Task # (signal) is waiting for a signal"), "{said}");
    let said = why(&mut session, "sleeper", "TIME_SLEEP");
    assert_eq!(said, "Task # (sleeper) is sleeping for another #.# s");
    assert_eq!(session.ask("deadlock"), "No deadlock\n");
}

#[test]
fn why_names_what_a_descriptor_is() {
    let program = Program::start(|| async {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        task("accept", async move {
            let (stream, _) = listener.accept().await?;
            task("keep", async move {
                sleep(LONG).await?;
                drop(stream);
                Ok(())
            });
            listener.accept().await.map(drop)
        });
        task("send", async move {
            let stream = curio::net::TcpStream::connect(address).await?;
            let send = async move { stream.send_all(&vec![0; 100_000_000]).await };
            task("flood", send).join().await
        });
        Ok(())
    });
    let mut session = program.session();
    // Only then are the waits for the second connection and for room the last ones.
    session.find("keep", "TIME_SLEEP");
    let said = session.find("accept", "READ_WAIT");
    let said = session.ask(&format!("why {said}"));
    assert!(said.contains(" to be readable (TCP socket listening at 127.0.0.1:"), "{said}");
    // Nobody reads what it sends.
    let id = session.find("flood", "WRITE_WAIT");
    let said = session.ask(&format!("why {id}"));
    assert!(said.contains(" to be writable (TCP socket 127.0.0.1:"), "{said}");
    assert!(said.contains(" connected to 127.0.0.1:"), "{said}");
}

#[test]
fn an_owner_that_has_ended_is_called_so() {
    let program = Program::start(|| async {
        let lock = RLock::new();
        let forgotten = lock.clone();
        task("careless", async move { forgotten.acquire().await }).join().await?;
        task("heir", async move { lock.acquire().await });
        Ok(())
    });
    let mut session = program.session();
    let said = why(&mut session, "heir", "LOCK_ACQUIRE");
    assert_eq!(
        said,
        "Task # (heir) is waiting for RLock #, held by task #, which has ended or is another \
         kernel's; it is the first in line"
    );
    assert_eq!(session.ask("deadlock"), "No deadlock\n");
}

#[test]
fn a_deadlock_of_locks_is_named() {
    let program = Program::start(|| async {
        let (one, two) = (RLock::new(), RLock::new());
        for (name, first, second) in [("a", one.clone(), two.clone()), ("b", two, one)] {
            task(name, async move {
                first.acquire().await?;
                sleep(ms(20)).await?;
                second.acquire().await
            });
        }
        Ok(())
    });
    let mut session = program.session();
    let (a, b) = (session.find("a", "LOCK_ACQUIRE"), session.find("b", "LOCK_ACQUIRE"));
    let line = session.ask("deadlock");
    let mut locks = line.split("RLock ").skip(1).map(|rest| rest.split(',').next().unwrap());
    let (two, one) = (locks.next().unwrap(), locks.next().unwrap());
    assert_eq!(
        line,
        format!(
            "Deadlock: task {a} (a) waits for RLock {two}, held by task {b} (b), which waits for \
             RLock {one}, held by task {a} (a)\n"
        )
    );
    let why = session.ask(&format!("why {b}"));
    assert!(why.ends_with(&format!("  {line}")), "{why}");
    let object = session.objects(&format!("why -j {b}")).remove(0);
    assert_eq!(object["deadlock"], json!([a, b]));
    // It can be ended from here.
    assert_eq!(session.ask(&format!("cancel {b}")), format!("Cancelling task {b}\n"));
    eventually("the end of the deadlock", || {
        (session.ask("deadlock") == "No deadlock\n").then_some(())
    });
}

#[test]
fn deadlocks_of_tasks_that_join_are_named_each() {
    let program = Program::start(|| async {
        let by_name = |name: &'static str| {
            let tasks = get_all_tasks().unwrap();
            tasks.into_iter().find(|task| task.name() == name).unwrap()
        };
        for (name, other) in
            [("a", "b"), ("b", "c"), ("c", "a"), ("x", "y"), ("y", "x"), ("z", "x")]
        {
            task(name, async move {
                sleep(ms(1)).await?;
                let wait = by_name(other).wait();
                if name == "y" { timeout_after(LONG, wait).await } else { wait.await }
            });
        }
        let own = Lock::new(());
        task("own", async move {
            let _held = own.acquire().await?;
            own.acquire().await.map(drop)
        });
        Ok(())
    });
    let mut session = program.session();
    let mut id = |name, state| session.find(name, state);
    let [a, b, c, x, y, z] = ["a", "b", "c", "x", "y", "z"].map(|name| id(name, "TASK_JOIN"));
    let own = id("own", "LOCK_ACQUIRE");
    let said = session.ask("deadlock");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(
        lines[0],
        format!(
            "Deadlock: task {a} (a) waits for the end of task {b} (b), which waits for the end of \
             task {c} (c), which waits for the end of task {a} (a)"
        )
    );
    let second = format!(
        "Deadlock: task {x} (x) waits for the end of task {y} (y), which waits for the end of \
         task {x} (x); the timeout of task {y} comes in "
    );
    assert!(lines[1].starts_with(&second), "{}", lines[1]);
    assert!(lines[2].starts_with(&format!("Deadlock: task {own} (own) waits for Lock ")));
    assert!(lines[2].ends_with(&format!(", held by task {own} (own)")));
    assert_eq!(lines.len(), 3);
    // Who is not in a circle may wait for one.
    let why = session.ask(&format!("why {z}"));
    assert!(why.contains(&second), "{why}");
}

#[test]
fn who_was_cancelled_and_has_not_ended_is_listed() {
    let program = Program::start(|| async {
        let stubborn = task("stubborn", async {
            let _ = sleep(LONG).await;
            disable_cancellation(sleep(LONG)).await.map(drop)
        });
        sleep(ms(1)).await?;
        task("canceller", async move { stubborn.cancel_because("bedtime").await.map(drop) });
        task("deaf", async { disable_cancellation(sleep(LONG)).await.map(drop) });
        Ok(())
    });
    let mut session = program.session();
    let deaf = session.find("deaf", "TIME_SLEEP");
    let canceller = session.find("canceller", "TASK_JOIN");
    session.ask(&format!("cancel {deaf}"));
    let said = eventually("both", || {
        Some(session.ask("cancelled")).filter(|said| said.lines().count() == 2)
    });
    let mut lines = said.lines();
    let first = lines.next().unwrap();
    assert!(
        first.contains(&format!(" was cancelled by task {canceller} (canceller) at ")),
        "{first}"
    );
    assert!(first.contains("monitor.rs:") && first.contains(": bedtime, 0."), "{first}");
    assert!(first.contains(" s ago; it is sleeping for another "), "{first}");
    let second = lines.next().unwrap();
    let whom = format!("Task {deaf} (deaf) was cancelled from the monitor, 0.");
    assert!(second.starts_with(&whom), "{second}");
    let why = session.ask(&format!("why {deaf}"));
    assert!(why.contains("\n  It was cancelled from the monitor, "), "{why}");
}

// Doing.

#[test]
fn the_answer_to_cancel_comes_before_the_program_ends() {
    for _ in 0..20 {
        let program = Program::start(|| async {
            let kid = task("kid", async {
                let slept = sleep(LONG).await;
                let error = slept.as_ref().unwrap_err();
                assert!(error.is_cancelled() && error.cancellation().unwrap().by_monitor);
                slept.map(drop)
            });
            let parent = task("parent", async move { kid.wait().await });
            task("ender", async move {
                parent.wait().await?;
                for task in get_all_tasks()? {
                    task.request_cancel();
                }
                Ok(())
            });
            Ok(())
        });
        let mut session = program.session();
        let kid = session.find("kid", "TIME_SLEEP");
        session.send(format!("cancel {kid}\n"));
        assert_eq!(session.rest(), format!("Cancelling task {kid}\n{PROMPT}"));
        program.end();
    }
}

#[test]
fn what_takes_long_to_end_does_not_hold_up_the_session() {
    let go = Arc::new(AtomicBool::new(false));
    let spinning = go.clone();
    let program = Program::start(move || async move {
        task("clean-up", async {
            let slept = sleep(LONG).await;
            disable_cancellation(sleep(LONG)).await?;
            slept.map(drop)
        });
        sleep(ms(1)).await?;
        task("spinner", async move {
            spin_until(&spinning);
            Ok(())
        });
        Ok(())
    });
    let mut session = program.session();
    let spinning = Spinning(go);
    session.find("spinner", "RUNNING");
    let id = session.find("clean-up", "TIME_SLEEP");
    assert_eq!(session.ask(&format!("cancel {id}")), format!("Cancelling task {id}\n"));
    assert_eq!(session.row("clean-up").unwrap().cycles, 1); // the kernel is busy
    drop(spinning);
    eventually("the clean-up", || session.row("clean-up").filter(|row| row.cycles == 2));
    assert_eq!(session.ask(&format!("cancel {id}")), format!("Cancelling task {id}\n"));
}

#[test]
fn signals_are_sent_to_the_process() {
    for (name, number) in [("SIGUSR1", 10), ("TERM", 15), ("SIGKILL", 9)] {
        let mut program = Helper::start("serve", |command| {
            command.env("XDG_RUNTIME_DIR", directory("monitor-signals"));
        });
        let mut session = Session::new(Path::new(&program.said("listening")));
        session.send(format!("signal {name}\n"));
        let status = program.child.wait().unwrap();
        assert_eq!(status.signal(), Some(number), "{status}");
    }
}

// Busy programs, and many clients.

/// Keeps the kernel busy.
fn spin_until(stop: &AtomicBool) {
    while !stop.load(SeqCst) {
        std::hint::spin_loop();
    }
}

/// A program that does not let go of the processor until the test says so.
fn busy() -> (Program, Spinning) {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let program = Program::start(move || async move {
        task("overdue", async { sleep(ms(1)).await.map(drop) });
        task("sleeper", async { sleep(LONG).await.map(drop) });
        sleep(Duration::ZERO).await?;
        task("spinner", async move {
            spin_until(&seen);
            Ok(())
        });
        Ok(())
    });
    (program, Spinning(stop))
}

/// Must end before the program does.
struct Spinning(Arc<AtomicBool>);

impl Drop for Spinning {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_busy_kernel_is_looked_into_and_named() {
    let (program, spinning) = busy();
    let mut session = program.session();
    let spinner = session.find("spinner", "RUNNING");
    thread::sleep(ms(5));
    assert_eq!(session.row("overdue").unwrap().timeout, "0.00000");
    assert!(session.ask(&format!("where {spinner}")).contains(", in spawn\n"));
    assert_eq!(
        session.ask(&format!("why {spinner}")),
        format!("Task {spinner} (spinner) is running\n")
    );
    assert!(session.ask("tree").contains("spinner"));
    assert_eq!(session.ask("deadlock"), "No deadlock\n");
    let complaint = eventually("a complaint", || {
        let said = session.ask("ps");
        said.lines().last().filter(|line| line.starts_with("The ")).map(str::to_owned)
    });
    let rest = complaint.strip_prefix("The kernel has not been in its loop for ").unwrap();
    let (seconds, rest) = rest.split_once(" s: ").unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 1.0);
    assert_eq!(rest, format!("task {spinner} (spinner) is running"));
    // A new client is let in, too.
    assert!(program.session().ask("ps").contains("spinner"));
    drop(spinning);
    eventually("the end of the complaint", || {
        (!session.ask("ps").contains("The kernel")).then_some(())
    });
}

#[test]
fn a_kernel_between_two_runs_is_looked_into() {
    LazyLock::force(&HOME);
    let mut kernel = Kernel::builder().monitor(true).build().unwrap();
    let kid = kernel.run(async {
        let kid = TaskBuilder::new().name("kid").daemon().spawn(async { sleep(LONG).await });
        sleep(ms(1)).await?;
        Ok(kid)
    });
    let kid = kid.unwrap();
    let mut session = Session::new(kernel.monitor().unwrap().path().unwrap());
    thread::sleep(ms(1100));
    // Nobody is running, so nobody is to blame.
    assert_eq!(session.rows().len(), 2);
    let id = session.find("kid", "TIME_SLEEP");
    assert_eq!(session.ask(&format!("cancel {id}")), format!("Cancelling task {id}\n"));
    assert!(!kid.terminated());
    let cancelled = kernel.run(async move { Ok(kid.join().await.unwrap_err()) }).unwrap();
    assert!(cancelled.task_cause().unwrap().cancellation().unwrap().by_monitor);
    assert!(session.row("kid").is_none());
    kernel.shutdown().unwrap();
    assert_eq!(session.rest(), "");
}

#[test]
fn ten_sessions_at_once_are_answered() {
    let program = Program::start(|| async {
        task("kid", async { sleep(LONG).await.map(drop) });
        loop {
            sleep(ms(1)).await?;
        }
    });
    let kid = program.session().find("kid", "TIME_SLEEP");
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut session = program.session();
                for _ in 0..50 {
                    assert_eq!(session.row("kid").unwrap().id, kid);
                    assert!(session.ask(&format!("where {kid}")).starts_with("Stack for "));
                    assert!(session.ask(&format!("why {kid}")).contains("sleeping"));
                }
            });
        }
    });
}

#[test]
fn there_is_an_end_to_the_number_of_sessions() {
    let program = Program::start(|| async { Ok(()) });
    let mut sessions: Vec<_> = (0..32).map(|_| program.session()).collect();
    for _ in 0..3 {
        let mut refused = String::new();
        UnixStream::connect(&program.path).unwrap().read_to_string(&mut refused).unwrap();
        assert_eq!(refused, "Too many sessions\n");
    }
    assert_eq!(sessions[31].ask("where 0"), "No task 0\n");
    sessions.truncate(20);
    eventually("a free place", || {
        let mut stream = UnixStream::connect(&program.path).unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        (first[0] == b'\n').then_some(())
    });
}

#[test]
fn a_client_that_never_reads_is_given_up() {
    let program = Program::start(|| async {
        for number in 0..3000 {
            task(&format!("{number:0100}"), async { sleep(LONG).await.map(drop) });
        }
        Ok(())
    });
    let mut deaf = UnixStream::connect(&program.path).unwrap();
    deaf.write_all(&b"ps\n".repeat(100)).unwrap();
    let start = Instant::now();
    let mut session = program.session();
    // Others are served meanwhile.
    eventually("3000 tasks", || (session.rows().len() > 3000).then_some(()));
    // The monitor's end is closed when its patience is over: nobody takes what is sent.
    deaf.set_write_timeout(Some(ms(100))).unwrap();
    let error = loop {
        match deaf.write_all(b"ps\n") {
            Err(error) if error.kind() != ErrorKind::WouldBlock => break error,
            _ => thread::sleep(ms(100)),
        }
        assert!(start.elapsed() < Duration::from_secs(60));
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert!((8..18).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[test]
fn clients_that_go_in_the_middle_of_something_leave_nothing_behind() {
    let program = Program::start(|| async {
        for number in 0..1000 {
            task(&format!("{number:0100}"), async { sleep(LONG).await.map(drop) });
        }
        Ok(())
    });
    for _ in 0..50 {
        // Not a word; half a word; and many words, whose answers nobody waits for.
        for said in ["", "wh", "ps\nps\nps\nps\nps\nps\nps\nps\n"] {
            let mut stream = UnixStream::connect(&program.path).unwrap();
            // It may have been refused, and be closed already.
            let _ = stream.write_all(said.as_bytes());
        }
    }
    eventually("all places free again", || {
        let sessions: Vec<_> =
            (0..32).map(|_| UnixStream::connect(&program.path).unwrap()).collect();
        let greeted = |mut stream: &UnixStream| {
            let mut first = [0; 1];
            stream.read_exact(&mut first).is_ok() && first[0] == b'\n'
        };
        sessions.iter().all(greeted).then_some(())
    });
    // Half-closed ones, idle ones, and ones that read nothing: the end does not wait for them.
    let mut idle: Vec<_> = (0..8).filter_map(|_| UnixStream::connect(&program.path).ok()).collect();
    for stream in &mut idle[..4] {
        let _ = stream.write_all(&b"ps\n".repeat(100));
    }
    thread::sleep(ms(50));
    let start = Instant::now();
    drop(program);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_program_that_changes_all_the_time_is_looked_into() {
    let program = Program::start(|| async {
        let (locks, queue) = ([RLock::new(), RLock::new(), RLock::new()], Queue::bounded(1));
        let mut round = 0;
        loop {
            round += 1;
            let kid = task("kid", async { sleep(ms(1)).await.map(drop) });
            let (one, two) = (locks[round % 3].clone(), locks[(round + 1) % 3].clone());
            let queue = queue.clone();
            let busy = task("busy", async move {
                let worked = timeout_after(ms(2), async {
                    one.acquire().await?;
                    two.acquire().await?;
                    queue.put(1).await?;
                    queue.get().await
                });
                let worked = worked.await;
                for lock in [one, two] {
                    if lock.is_ours() {
                        lock.release()?;
                    }
                }
                worked
                    .map(drop)
                    .or_else(|error| if error.is_timeout() { Ok(()) } else { Err(error) })
            });
            task("joiner", async move { kid.wait().await });
            if round % 3 == 0 {
                busy.request_cancel();
            }
            if round % 8 == 0 {
                sleep(ms(1)).await?;
            }
        }
    });
    let end = Instant::now() + Duration::from_secs(2);
    let answers = AtomicU64::new(0);
    thread::scope(|scope| {
        for command in ["ps", "where", "why", "tree", "deadlock", "cancelled", "json", "parents"] {
            let (program, answers) = (&program, &answers);
            scope.spawn(move || {
                let mut session = program.session();
                while Instant::now() < end {
                    let rows = session.rows();
                    let some = rows[rows.len() / 2].id;
                    let said = match command {
                        "where" | "why" | "parents" => session.ask(&format!("{command} {some}")),
                        "json" => {
                            for command in ["ps -j", "where -j"] {
                                assert!(session.objects(command).len() > 1);
                            }
                            session.ask(&format!("why -j {some}"))
                        }
                        command => session.ask(command),
                    };
                    assert!(!said.starts_with("Bad") && !said.starts_with("Unknown"), "{said}");
                    answers.fetch_add(1, SeqCst);
                }
            });
        }
    });
    println!("{} answers", answers.load(SeqCst));
}

#[test]
fn a_hundred_thousand_tasks_are_listed_while_the_kernel_goes_on() {
    const TASKS: usize = 100_000;
    let longest = Arc::new(AtomicU64::new(0));
    let gap = longest.clone();
    let program = Program::start(move || async move {
        let event = Event::new();
        for _ in 0..TASKS {
            let event = event.clone();
            task("kid", async move { event.wait().await });
        }
        task("last", async { sleep(LONG).await.map(drop) });
        task("ticker", async move {
            let mut last = Instant::now();
            loop {
                sleep(Duration::ZERO).await?;
                let now = Instant::now();
                gap.fetch_max((now - last).as_micros() as u64, SeqCst);
                last = now;
            }
        });
        Ok(())
    });
    let mut session = program.session();
    session.find("last", "TIME_SLEEP");
    let mut measure = |what: &str, ask: &mut dyn FnMut(&mut Session) -> usize| {
        longest.store(0, SeqCst);
        let start = Instant::now();
        let lines = ask(&mut session);
        let (took, gap) = (start.elapsed(), longest.load(SeqCst));
        println!("{what}: {lines} lines in {took:?}; longest gap of the kernel {gap} µs");
        assert!(lines >= TASKS);
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(gap < 2_000_000, "{gap}");
    };
    measure("nothing", &mut |_| {
        thread::sleep(ms(100));
        TASKS
    });
    for _ in 0..3 {
        measure("ps", &mut |session| session.ask("ps").lines().count());
    }
    measure("ps -j", &mut |session| session.ask("ps -j").lines().count());
    measure("tree", &mut |session| session.ask("tree").lines().count());
    measure("where -j", &mut |session| session.ask("where -j").lines().count());
    for command in ["deadlock", "cancelled"] {
        let start = Instant::now();
        session.ask(command);
        println!("{command}: {:?}", start.elapsed());
    }
    let kid = session.rows()[TASKS / 2].id;
    let start = Instant::now();
    let said = session.ask(&format!("why {kid}"));
    println!("why: {:?}", start.elapsed());
    assert!(said.ends_with(" to be set; 100000 tasks in all wait for that\n"), "{said}");
}

// Bindings.

/// A binding that knows all tasks, takes its time if it is to, and counts what it is asked.
#[derive(Default)]
struct Binding {
    portions: Mutex<Vec<usize>>,
    frames: Vec<Frame>,
    slow: AtomicBool,
    asked: Mutex<Option<Sender<()>>>,
}

impl Inspector for Binding {
    fn names(&self, tasks: &[TaskKey]) -> Vec<Option<String>> {
        self.portions.lock().unwrap().push(tasks.len());
        if self.slow.load(SeqCst) {
            if let Some(asked) = &*self.asked.lock().unwrap() {
                let _ = asked.send(());
            }
            while self.slow.load(SeqCst) {
                thread::sleep(ms(1));
            }
        }
        (0..tasks.len()).map(|place| (place != 0).then(|| format!("coroutine {place}"))).collect()
    }

    fn stack(&self, _task: TaskKey) -> Option<Stack> {
        Some(Stack { repr: "Task(a coroutine)".into(), frames: self.frames.clone() })
    }

    fn describe(&self, _cancellation: &Cancellation) -> Option<String> {
        Some("cancelled by the parents".into())
    }
}

#[test]
fn a_binding_says_what_it_knows() {
    let frame = |line, function: &str, source: Option<&str>| Frame {
        file: "hello.py".into(),
        line,
        function: function.into(),
        source: source.map(Into::into),
    };
    let binding = Arc::new(Binding {
        frames: vec![frame(23, "parent", Some("  await kid.join()")), frame(86, "join", None)],
        ..Binding::default()
    });
    let program = Program::with(Some(binding.clone()), || async {
        let deaf = task("deaf", async { disable_cancellation(sleep(LONG)).await.map(drop) });
        sleep(ms(1)).await?;
        deaf.request_cancel();
        for _ in 0..3000 {
            spawn(async { sleep(LONG).await.map(drop) });
        }
        Ok(())
    });
    let mut session = program.session();
    eventually("3000 tasks", || (session.rows().len() == 3003).then_some(()));
    binding.portions.lock().unwrap().clear();
    let rows = session.rows();
    assert_eq!(*binding.portions.lock().unwrap(), [1024, 1024, 955]);
    // Where the binding knows nothing, the kernel does.
    assert_eq!(
        (rows[0].name.as_str(), rows[1].name.as_str()),
        ("Monitor.monitor_task", "coroutine 1")
    );
    assert_eq!(
        session.ask(&format!("where {}", rows[3].id)),
        "\
Stack for Task(a coroutine) (most recent call last):
  File \"hello.py\", line 23, in parent
    await kid.join()
  File \"hello.py\", line 86, in join

"
    );
    assert!(session.ask("cancelled").contains(" was cancelled by the parents, "));

    let program = Program::with(Some(Arc::new(Binding::default())), || async { Ok(()) });
    let mut session = program.session();
    let id = session.rows()[1].id;
    assert_eq!(session.ask(&format!("where {id}")), "No stack for Task(a coroutine)\n");
}

/// The interpreter that a binding waits for may belong to the thread that ends the kernel.
#[test]
fn the_end_of_a_kernel_does_not_wait_for_a_binding() {
    let binding = Arc::new(Binding::default());
    let program = Program::with(Some(binding.clone()), || async { Ok(()) });
    let (mut idle, mut session) = (program.session(), program.session());
    let (tell, told) = channel();
    *binding.asked.lock().unwrap() = Some(tell);
    binding.slow.store(true, SeqCst);
    session.send("ps\n");
    told.recv().unwrap();
    let start = Instant::now();
    drop(program);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(idle.stream.read(&mut [0; 1]).unwrap(), 0);
    binding.slow.store(false, SeqCst);
    // Its thread ends by itself, and lets go of the binding.
    eventually("the end of the session", || (Arc::strong_count(&binding) == 1).then_some(()));
}

// Where it listens.

#[test]
fn a_port_is_opened_on_request() {
    let (tell, told) = channel();
    let program = thread::spawn(move || {
        let at = (Ipv4Addr::LOCALHOST, 0).into();
        let mut kernel = Kernel::builder().monitor_at(at).build().unwrap();
        let monitor = kernel.monitor().unwrap();
        assert_eq!(monitor.path(), None);
        let found = (monitor.tcp_address().unwrap(), kernel.stopper());
        let _ = kernel.run(async move {
            tell.send(found).unwrap();
            sleep(LONG).await.map(drop)
        });
        kernel.shutdown().unwrap();
        assert!(monitor.is_stopped());
    });
    let (address, stopper) = told.recv().unwrap();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    };
    let mut session = Session::greeted(connect());
    assert_eq!(session.rows().len(), 2);
    session.send("quit\nps\nps\n");
    assert_eq!(session.rest(), "Leaving monitor\n");
    // A page in a browser cannot make it do anything.
    let mut session = Session::greeted(connect());
    session.send("POST / HTTP/1.1\r\nHost: localhost\r\n\r\nsignal SIGKILL\r\n");
    let mut rest = Vec::new();
    let _ = session.stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    let session = Session::greeted(connect());
    stopper.stop();
    program.join().unwrap();
    assert_eq!(session.rest(), "");
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn each_kernel_has_its_own_socket() {
    let name = |program: &Program| {
        let name = program.path.file_name().unwrap().to_str().unwrap();
        let (process, number) = name.strip_suffix(".sock").unwrap().split_once('-').unwrap();
        assert_eq!(process, process::id().to_string());
        number.parse::<u64>().unwrap()
    };
    let one = Program::start(|| async {
        task("one", async { sleep(LONG).await.map(drop) });
        Ok(())
    });
    let two = Program::start(|| async {
        task("two", async { sleep(LONG).await.map(drop) });
        Ok(())
    });
    assert_ne!(name(&one), name(&two));
    assert_eq!(one.path.parent(), Some(&*HOME.join("curio")));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&one.path), mode(&HOME.join("curio"))), (0o600, 0o700));
    let (mut first, mut second) = (one.session(), two.session());
    first.find("one", "TIME_SLEEP");
    second.find("two", "TIME_SLEEP");
    assert!(first.row("two").is_none() && second.row("one").is_none());
    drop(one);
    assert_eq!(first.rest(), "");
    assert!(second.row("two").is_some());
}

#[test]
fn a_monitor_can_be_stopped_and_another_started() {
    LazyLock::force(&HOME);
    let kernel = Kernel::new().unwrap();
    assert!(kernel.monitor().is_none());
    let first = kernel.start_monitor(Address::Unix, None).unwrap();
    let session = Session::new(first.path().unwrap());
    first.stop();
    first.stop();
    assert!(first.is_stopped());
    assert_eq!(session.rest(), "");
    assert!(!first.path().unwrap().exists());
    let at = (Ipv4Addr::LOCALHOST, 0).into();
    assert!(kernel.monitor().is_none());
    let second = kernel.start_monitor(Address::Tcp(at), None).unwrap();
    let address = second.tcp_address().unwrap();
    second.stop();
    // The port is free again, though the old monitor is still held.
    let third = kernel.start_monitor(Address::Tcp(address), None).unwrap();
    assert_eq!(third.tcp_address(), Some(address));
    assert!(kernel.start_monitor(Address::Tcp(address), None).is_err());
    drop(kernel);
    assert!(third.is_stopped());
}

#[test]
fn a_report_says_everything_at_once() {
    let mut kernel = curio::testing::virtual_kernel();
    let ended = kernel.run(async {
        let (one, two) = (RLock::new(), RLock::new());
        for (name, first, second) in [("a", one.clone(), two.clone()), ("b", two, one)] {
            task(name, async move {
                first.acquire().await?;
                sleep(ms(1)).await?;
                second.acquire().await
            });
        }
        let deaf = task("deaf", async { disable_cancellation(std::future::pending()).await });
        sleep(ms(1)).await?;
        deaf.request_cancel();
        std::future::pending::<()>().await;
        Ok(())
    });
    assert!(ended.unwrap_err().to_string().contains("deadlock"));
    let report = monitor::dump(&kernel);
    assert!(report.starts_with(HEADER), "{report}");
    for part in [
        " FUTURE_WAIT  1          None    deaf\n",
        ", a, state='LOCK_ACQUIRE') (most recent call last):\n",
        " (a) is waiting for RLock ",
        "\nDeadlock: task ",
        " (deaf) was cancelled by task ",
        ", 0.000 s ago; it is waiting for something that is not Curio's (a foreign future)\n",
    ] {
        assert!(report.contains(part), "{part:?} in {report}");
    }
    let mut out = Vec::new();
    kernel.dump(&mut out).unwrap();
    assert_eq!(out, report.as_bytes());
    let said = kernel.ask_monitor("deadlock", None);
    assert!(report.contains(&said), "{said}");
    assert_eq!(kernel.ask_monitor("nonsense", None), "Unknown command. Type help.\n");
}

// Other processes.

/// What this program is when it is started as another process.
const ROLE: &str = "CURIO_TEST_ROLE";

/// Nothing, unless it was started by another test.
#[test]
fn helper() {
    match env::var(ROLE).as_deref() {
        Err(_) => {}
        Ok("serve") => serve(),
        Ok("connect") => connect(),
        Ok("leftovers") => leftovers(),
        Ok("same number") => same_number(),
        Ok(role) => panic!("no such role: {role}"),
    }
}

/// A helper that runs.
struct Helper {
    child: Child,
    lines: Box<dyn Iterator<Item = io::Result<String>>>,
}

impl Helper {
    fn start(role: &str, setup: impl FnOnce(&mut Command)) -> Helper {
        let program = env::current_exe().unwrap();
        Helper::run(&program, role, setup)
    }

    fn run(program: &Path, role: &str, setup: impl FnOnce(&mut Command)) -> Helper {
        let mut command = Command::new(program);
        command.args(["--exact", "helper", "--nocapture"]).env(ROLE, role);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        setup(&mut command);
        let mut child = command.spawn().unwrap();
        let lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
        Helper { child, lines: Box::new(lines) }
    }

    /// Waits until it says something of that kind; gives what follows.
    #[track_caller]
    fn said(&mut self, kind: &str) -> String {
        let wanted = format!("{kind}: ");
        for line in &mut self.lines {
            let line = line.unwrap();
            // The test harness does not end its own line before.
            if let Some((_, rest)) = line.split_once(&wanted) {
                return rest.into();
            }
        }
        panic!("the helper has ended, and has not said anything {kind}");
    }

    /// Lets it end by itself.
    #[track_caller]
    fn end(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the other process something.
fn say(kind: &str, what: impl std::fmt::Display) {
    println!("{kind}: {what}");
}

/// Reports what is logged.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say("logged", format_args!("{} {} {}", record.level(), record.target(), record.args()));
    }

    fn flush(&self) {}
}

/// Runs a program with the monitor until nobody talks to it any more.
fn serve() {
    log::set_logger(&Logger).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let mut kernel = Kernel::builder().monitor(true).build().unwrap();
    let path = kernel.monitor().and_then(|monitor| Some(monitor.path()?.display().to_string()));
    let stopper = kernel.stopper();
    let slept = kernel.run(async {
        say("listening", path.unwrap_or("nowhere".into()));
        thread::spawn(move || {
            let _ = io::stdin().read_to_end(&mut Vec::new());
            stopper.stop();
        });
        sleep(LONG).await.map(drop)
    });
    assert!(slept.unwrap_err().is_misuse());
    kernel.shutdown().unwrap();
}

/// Tries to become a client of somebody else's.
fn connect() {
    match UnixStream::connect(env::var("CURIO_TEST_PATH").unwrap()) {
        Err(error) => say("connected", format_args!("{:?}", error.kind())),
        Ok(mut stream) => {
            let mut first = [0; 100];
            let count = stream.read(&mut first).unwrap_or(0);
            say("connected", String::from_utf8_lossy(&first[..count]).trim());
        }
    }
}

#[test]
fn the_monitors_task_is_the_first() {
    let mut program = Helper::start("serve", |command| {
        command.env("XDG_RUNTIME_DIR", fresh("monitor-first"));
    });
    let path = program.said("listening");
    assert!(path.ends_with(&format!("/curio/{}-1.sock", program.child.id())), "{path}");
    let mut session = Session::new(Path::new(&path));
    let rows = session.rows();
    assert_eq!((rows[0].id, rows[0].name.as_str()), (1, "Monitor.monitor_task"));
    assert_eq!(rows[1].id, 2);
    program.end();
    assert_eq!(session.rest(), "");
    assert!(!Path::new(&path).exists());
}

#[test]
fn nothing_is_left_at_the_end() {
    let mut program = Helper::start("leftovers", |command| {
        command.env("XDG_RUNTIME_DIR", fresh("monitor-leftovers"));
    });
    program.end();
}

fn leftovers() {
    let threads = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.flat_map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
        names.filter(|name| name.starts_with("curio-monitor")).count()
    };
    let before = descriptors();
    for shut_down in [true, false, true, false] {
        let mut kernel = Kernel::builder().monitor(true).build().unwrap();
        let path = kernel.monitor().unwrap().path().unwrap().to_owned();
        let sessions: Vec<_> = (0..5).map(|_| Session::new(&path)).collect();
        let half_open = UnixStream::connect(&path).unwrap();
        half_open.shutdown(Shutdown::Write).unwrap();
        kernel.run(async { sleep(ms(1)).await.map(drop) }).unwrap();
        assert!(threads() >= 6);
        if shut_down {
            kernel.shutdown().unwrap();
            assert!(!path.exists());
        }
        drop(kernel);
        // All at once: whoever waits for the kernel's end need not wait for its monitor's.
        // (Linux lets a joined thread stand in the list a moment longer.)
        eventually("the end of its threads", || (threads() == 0).then_some(()));
        assert!(!path.exists());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
        for session in sessions {
            assert_eq!(session.rest(), "");
        }
        drop(half_open);
        assert_eq!(descriptors(), before);
    }
}

#[test]
fn the_directory_among_temporary_files_is_the_second_choice() {
    let place = fresh("monitor-temporary");
    let mut program = Helper::start("serve", |command| {
        command.env("XDG_RUNTIME_DIR", "").env("TMPDIR", &place);
    });
    let user = rustix::process::geteuid().as_raw();
    let path = place.join(format!("curio-{user}/{}-1.sock", program.child.id()));
    assert_eq!(program.said("listening"), path.display().to_string());
    program.end();
}

/// Starts a program where it cannot listen; gives the reason that it has logged.
#[track_caller]
fn refused(place: &Path, setup: impl FnOnce(&mut Command)) -> String {
    let mut program = Helper::start("serve", |command| {
        command.env("XDG_RUNTIME_DIR", place);
        setup(command);
    });
    let logged = program.said("logged");
    assert_eq!(program.said("listening"), "nowhere");
    program.end(); // it has run all the same
    let what =
        "WARN curio.monitor the monitor cannot be reached, and the program runs without it: ";
    logged.strip_prefix(what).expect(&logged).into()
}

#[test]
fn a_directory_that_is_not_safe_is_refused() {
    let place = fresh("monitor-unsafe");
    let curio = place.join("curio");
    let user = rustix::process::geteuid().as_raw();
    let unsafe_ = |what: &str| {
        let path = curio.display();
        format!(
            "{path} is not safe to use: it must be a directory with mode 0700 of user {user}; \
             it is {what}"
        )
    };
    let refused = || refused(&place, |_| {});

    fs::write(&curio, "").unwrap();
    fs::set_permissions(&curio, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(refused(), unsafe_(&format!("a file with mode 0600 of user {user}")));
    fs::remove_file(&curio).unwrap();

    // Where another's link leads to may be ours, and yet be nothing that we have chosen.
    fs::create_dir(place.join("elsewhere")).unwrap();
    fs::set_permissions(place.join("elsewhere"), Permissions::from_mode(0o700)).unwrap();
    symlink(place.join("elsewhere"), &curio).unwrap();
    assert_eq!(refused(), unsafe_(&format!("a link with mode 0777 of user {user}")));
    fs::remove_file(&curio).unwrap();

    fs::create_dir(&curio).unwrap();
    for mode in [0o755, 0o701, 0o770] {
        fs::set_permissions(&curio, Permissions::from_mode(mode)).unwrap();
        assert_eq!(refused(), unsafe_(&format!("a directory with mode {mode:04o} of user {user}")));
    }
    fs::set_permissions(&curio, Permissions::from_mode(0o700)).unwrap();
    if is_root() {
        chown(&curio, Some(65_534), None).unwrap();
        assert_eq!(refused(), unsafe_("a directory with mode 0700 of user 65534"));
    } else {
        println!("skipped: another's directory, which only root can make");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_said() {
    let place = fresh("monitor-unmade");
    let said = refused(&place.join("missing"), |_| {});
    let path = place.join("missing/curio");
    assert!(said.starts_with(&format!("cannot make the directory {}: ", path.display())), "{said}");

    let long = place.join("x".repeat(80)).join("y".repeat(20));
    fs::create_dir_all(&long).unwrap();
    let said = refused(&long, |_| {});
    assert!(said.starts_with("the path of the socket would be too long, "), "{said}");
    assert!(said.contains(&long.display().to_string()), "{said}");
}

#[test]
fn a_directory_that_is_not_writable_is_said() {
    let Some(others) = Others::new("a directory that root cannot write to") else { return };
    let place = others.place.join("read-only");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o555)).unwrap();
    let mut program = others.start("serve", |command| {
        command.env("XDG_RUNTIME_DIR", &place);
    });
    let logged = program.said("logged");
    assert!(logged.contains("cannot make the directory "), "{logged}");
    assert!(logged.contains("Permission denied"), "{logged}");
    program.end();
}

#[test]
fn other_users_are_kept_out() {
    let Some(others) = Others::new("another user") else { return };
    let place = others.place.join("run");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o755)).unwrap();
    let mut program = Helper::start("serve", |command| {
        command.env("XDG_RUNTIME_DIR", &place);
    });
    let path = program.said("listening");
    let connect = || {
        others
            .start("connect", |command| {
                command.env("CURIO_TEST_PATH", &path);
            })
            .said("connected")
    };
    assert_eq!(connect(), "PermissionDenied");
    // Were it not for the directory, and were it not for the socket's mode.
    fs::set_permissions(place.join("curio"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(connect(), "PermissionDenied");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert_eq!(connect(), "Not allowed");
    assert_eq!(Session::new(Path::new(&path)).rows().len(), 2);
    program.end();

    // Root may look into everybody's programs.
    let theirs = others.place.join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(NOBODY), None).unwrap();
    let mut program = others.start("serve", |command| {
        command.env("XDG_RUNTIME_DIR", &theirs);
    });
    assert_eq!(Session::new(Path::new(&program.said("listening"))).rows().len(), 2);
    program.end();
}

const NOBODY: u32 = 65_534;

/// What another user can start: a copy of this program, where he can read it.
struct Others {
    place: PathBuf,
}

impl Others {
    fn new(what: &str) -> Option<Others> {
        if !is_root() {
            println!("skipped: {what}, for which one must be root");
            return None;
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("curio-test-{}-{}", process::id(), COUNT.fetch_add(1, SeqCst));
        let place = Path::new("/tmp").join(name);
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o755)).unwrap();
        let program = place.join("program");
        // Not by ourselves: a file that is open for writing in a process that another test has just
        // started cannot be run.
        let copied = Command::new("cp").arg(env::current_exe().unwrap()).arg(&program).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        Some(Others { place })
    }

    fn start(&self, role: &str, setup: impl FnOnce(&mut Command)) -> Helper {
        Helper::run(&self.place.join("program"), role, |command| {
            command.uid(NOBODY).gid(NOBODY).current_dir("/");
            setup(command);
        })
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.place);
    }
}

#[test]
fn what_dead_processes_have_left_is_cleared_away() {
    let place = fresh("monitor-stale");
    let run = || {
        Helper::start("serve", |command| {
            command.env("XDG_RUNTIME_DIR", &place);
        })
    };
    let mut killed = run();
    let left = PathBuf::from(killed.said("listening"));
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    let curio = left.parent().unwrap();
    // Of processes that live, ours being one, and of none; and what has another name.
    let own = curio.join(format!("{}-77.sock", process::id()));
    drop(UnixListener::bind(&own).unwrap());
    let strange = curio.join("strange.sock");
    fs::write(&strange, "").unwrap();
    // Its process has no number here, as if it were in another container, but listens.
    let dead = left.file_name().unwrap().to_str().unwrap().replace("-1.sock", "-2.sock");
    let alive = curio.join(dead);
    let _listener = UnixListener::bind(&alive).unwrap();
    assert!(left.exists());

    let mut program = run();
    program.said("listening");
    assert!(!left.exists());
    assert!(own.exists() && strange.exists() && alive.exists());
    program.end();
}

#[test]
fn a_name_that_is_taken_is_freed_or_left() {
    let mut program = Helper::start("same number", |command| {
        command.env("XDG_RUNTIME_DIR", fresh("monitor-number"));
    });
    program.end();
}

fn same_number() {
    let curio = PathBuf::from(env::var_os("XDG_RUNTIME_DIR").unwrap()).join("curio");
    fs::create_dir(&curio).unwrap();
    fs::set_permissions(&curio, Permissions::from_mode(0o700)).unwrap();
    let path = |number: u32| curio.join(format!("{}-{number}.sock", process::id()));
    let build = || Kernel::builder().monitor(true).build().unwrap();
    // Left by a process that had our number, and is dead.
    drop(UnixListener::bind(path(1)).unwrap());
    // Of one that lives in another container.
    let listener = UnixListener::bind(path(2)).unwrap();
    let (first, third) = (build(), build());
    assert_eq!(first.monitor().unwrap().path(), Some(&*path(1)));
    assert_eq!(third.monitor().unwrap().path(), Some(&*path(3)));
    // Taken away from us by such a one: it is not ours to remove.
    fs::remove_file(path(1)).unwrap();
    let usurper = UnixListener::bind(path(1)).unwrap();
    drop((first, third));
    assert!(path(1).exists() && path(2).exists() && !path(3).exists());
    drop((listener, usurper));
}
