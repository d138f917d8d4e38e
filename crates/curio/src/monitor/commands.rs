//! The commands, and what they answer.

use std::collections::HashMap;
use std::io::{self, Write};

use rustix::process::{getpid, kill_process};

use super::heart::Heart;
use super::look::{Look, PORTION, Task};
use super::words::plain;
use super::{Inspector, deadlock, json, signals, stack, words, workers};
use crate::error::Cancellation;
use crate::kernel::{Clock, MonotonicClock, TaskKey, View};

/// What a session asks.
pub(super) struct Subject<'a> {
    pub(super) view: &'a View,
    pub(super) inspector: Option<&'a dyn Inspector>,
    pub(super) heart: &'a Heart,
}

/// What is to be done after the answer.
pub(super) enum Next {
    /// Read the next command.
    Go,
    /// Cancel this task, when the answer and the next prompt are on their way: the program may end
    /// with it.
    Cancel(TaskKey),
    /// End the session.
    Leave,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// The command was not right.
    Bad(String),
    /// The client is gone.
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

type Answer = Result<Next, Failure>;

struct Command {
    name: &'static str,
    /// It is not to be called by a part of its name: it does something.
    whole: bool,
    run: fn(&Subject<'_>, &[&str], &mut dyn Write) -> Answer,
}

/// Where a prefix fits several, the first one is meant.
const COMMANDS: [Command; 13] = [
    Command { name: "ps", whole: false, run: ps },
    Command { name: "where", whole: false, run: where_ },
    Command { name: "cancel", whole: true, run: cancel },
    Command { name: "signal", whole: true, run: signal },
    Command { name: "help", whole: false, run: help },
    Command { name: "quit", whole: false, run: quit },
    Command { name: "exit", whole: true, run: quit },
    Command { name: "parents", whole: false, run: parents },
    Command { name: "why", whole: false, run: why },
    Command { name: "tree", whole: false, run: tree },
    Command { name: "deadlock", whole: false, run: deadlocks },
    Command { name: "cancelled", whole: false, run: cancelled },
    Command { name: "workers", whole: false, run: at_work },
];

const HELP: [(&str, &str); 12] = [
    ("ps", "List the tasks"),
    ("where taskid", "Show where a task is"),
    ("why taskid", "Show what a task waits for, and what that waits for"),
    ("cancel taskid", "Cancel a task"),
    ("signal signame", "Send the program a signal"),
    ("tree", "List the tasks by who has spawned them"),
    ("parents taskid", "List a task, its parent, and so on"),
    ("deadlock", "Find tasks that wait for each other"),
    ("cancelled", "List tasks that were cancelled and have not ended"),
    ("workers", "List threads and processes that work for tasks"),
    ("ps -j, where -j, why -j", "The same, a JSON object a line"),
    ("quit", "Leave the monitor"),
];

/// Carries out a line, which has at least one word.
pub(super) fn run(subject: &Subject<'_>, line: &str, out: &mut dyn Write) -> io::Result<Next> {
    let parts: Vec<_> = line.split_whitespace().collect();
    let Some((name, arguments)) = parts.split_first() else { return Ok(Next::Go) };
    let Some(command) = command(name) else {
        writeln!(out, "Unknown command. Type help.")?;
        return Ok(Next::Go);
    };
    match (command.run)(subject, arguments, out) {
        Ok(next) => Ok(next),
        Err(Failure::Io(error)) => Err(error),
        Err(Failure::Bad(message)) => {
            writeln!(out, "Bad command. {message}")?;
            Ok(Next::Go)
        }
    }
}

fn command(name: &str) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .find(|command| command.name == name)
        .or_else(|| COMMANDS.iter().find(|command| command.name.starts_with(name)))
        .filter(|command| !command.whole || command.name == name)
}

impl<'a> Subject<'a> {
    fn look(&self) -> Look<'a> {
        Look::new(self.view, self.inspector, MonotonicClock.now())
    }

    pub(super) fn cancel(&self, task: TaskKey) {
        let by_monitor = Cancellation { by_monitor: true, ..Cancellation::default() };
        self.view.cancel(task, by_monitor);
    }
}

fn ps(subject: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    let (json, rest) = options("ps", arguments)?;
    none("ps", &rest)?;
    let look = subject.look();
    if json {
        for_all(&look, |task, name| {
            writeln!(out, "{}", serde_json::Value::Object(json::row(&look, task, name)))
        })?;
    } else {
        table(&look, out)?;
        if let Some(complaint) = subject.heart.complaint(&look) {
            writeln!(out, "{complaint}")?;
        }
    }
    Ok(Next::Go)
}

fn table(look: &Look<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Task   State        Cycles     Timeout Task")?;
    writeln!(out, "------ ------------ ---------- ------- {}", "-".repeat(50))?;
    for_all(look, |task, name| {
        let info = &task.info;
        let timeout = look.deadline(info).map(|seconds| format!("{seconds:.6}"));
        // As much of the number as the column holds.
        let timeout = timeout.as_deref().map_or("None", |seconds| &seconds[..7]);
        let (id, state, cycles) = (info.id(), info.state(), info.cycles());
        writeln!(out, "{id:<6} {state:<12} {cycles:<10} {timeout:<7} {name}")
    })
}

/// Does something for each task with its name, the names being asked for in portions.
fn for_all(look: &Look<'_>, mut each: impl FnMut(&Task, &str) -> io::Result<()>) -> io::Result<()> {
    for portion in look.tasks().chunks(PORTION) {
        for (task, name) in portion.iter().zip(look.names(portion)) {
            if !task.info.terminated() {
                each(task, &name)?;
            }
        }
    }
    Ok(())
}

fn where_(subject: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    let (json, rest) = options("where", arguments)?;
    let look = subject.look();
    let everything = json && rest.is_empty();
    if everything {
        for_all(&look, |task, _| writeln!(out, "{}", json::stack(&look, task)))?;
    } else if let Some(task) = the_task(&look, "where", &rest, out)? {
        if json {
            writeln!(out, "{}", json::stack(&look, task))?;
        } else {
            let stack = stack::of(&look, task);
            if task.info.terminated() {
                writeln!(out, "No task {}", task.info.id())?;
            } else {
                stack::write(out, &stack)?;
            }
        }
    }
    Ok(Next::Go)
}

fn at_work(_: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    none("workers", arguments)?;
    writeln!(out, "Worker               Seconds    Work")?;
    writeln!(out, "-------------------- ---------- {}", "-".repeat(50))?;
    for (name, work) in workers::all() {
        match work {
            Some((what, since)) => {
                let (seconds, what) = (since.as_secs_f64(), plain(&what));
                writeln!(out, "{name:<20} {seconds:<10.3} {what}")?;
            }
            None => writeln!(out, "{name:<20} None       idle")?,
        }
    }
    Ok(Next::Go)
}

fn why(subject: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    let (json, rest) = options("why", arguments)?;
    let look = subject.look();
    if let Some(task) = the_task(&look, "why", &rest, out)? {
        if json {
            writeln!(out, "{}", json::why(&look, task))?;
        } else {
            for line in words::why(&look, task) {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(Next::Go)
}

fn cancel(subject: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    let id = id("cancel", arguments)?;
    let look = subject.look();
    let Some(task) = look.find(id) else { return Ok(Next::Go) };
    if task.info.own() {
        // A slip of the finger would take the program's signals away.
        return Err(Failure::Bad(format!("{} is the kernel's own", look.who(task))));
    }
    writeln!(out, "Cancelling task {id}")?;
    Ok(Next::Cancel(task.key))
}

fn signal(_: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    let [name] = arguments else {
        return Err(Failure::Bad("signal takes the name of a signal".into()));
    };
    match signals::by_name(name) {
        Some(signal) => kill_process(getpid(), signal).map_err(io::Error::from)?,
        None => writeln!(out, "Unknown signal {}", plain(name))?,
    }
    Ok(Next::Go)
}

fn parents(subject: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    let look = subject.look();
    let mut task = the_task(&look, "parents", arguments, out)?;
    // A parent is always older: this ends.
    while let Some(one) = task {
        let (id, state, name) = (one.info.id(), one.info.state(), look.name(one));
        writeln!(out, "{id:<6} {state:>12} {name}")?;
        task = one.info.parent().and_then(|parent| look.find(parent));
    }
    Ok(Next::Go)
}

/// How deep the tree is drawn as one.
const DEEPEST: usize = 30;

fn tree(subject: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    none("tree", arguments)?;
    let look = subject.look();
    let places: HashMap<_, _> =
        look.tasks().iter().enumerate().map(|(place, task)| (task.info.id(), place)).collect();
    let mut children: HashMap<Option<u64>, Vec<usize>> = HashMap::new();
    for (place, task) in look.tasks().iter().enumerate().rev() {
        // Whose parent has ended stands with those that have none.
        let parent = task.info.parent().filter(|parent| places.contains_key(parent));
        children.entry(parent).or_default().push(place);
    }
    let names = || look.tasks().chunks(PORTION).flat_map(|portion| look.names(portion));
    let names: Vec<_> = names().collect();
    let mut next: Vec<_> = children.remove(&None).unwrap_or_default();
    let mut depths = vec![0; next.len()];
    while let (Some(place), Some(depth)) = (next.pop(), depths.pop()) {
        let (info, name) = (&look.tasks()[place].info, &names[place]);
        let (id, state, indent) = (info.id(), info.state(), 2 * depth.min(DEEPEST));
        writeln!(out, "{id:<6} {state:<12} {:indent$}{name}", "")?;
        let children = children.remove(&Some(id)).unwrap_or_default();
        depths.resize(depths.len() + children.len(), depth + 1);
        next.extend(children);
    }
    Ok(Next::Go)
}

fn deadlocks(subject: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    none("deadlock", arguments)?;
    write_deadlocks(&subject.look(), out)?;
    Ok(Next::Go)
}

fn write_deadlocks(look: &Look<'_>, out: &mut dyn Write) -> io::Result<()> {
    let cycles = deadlock::all(look);
    if cycles.is_empty() {
        return writeln!(out, "No deadlock");
    }
    cycles.iter().try_for_each(|cycle| writeln!(out, "{}", cycle.words(look)))
}

fn cancelled(subject: &Subject<'_>, arguments: &[&str], out: &mut dyn Write) -> Answer {
    none("cancelled", arguments)?;
    write_cancelled(&subject.look(), out)?;
    Ok(Next::Go)
}

fn write_cancelled(look: &Look<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut nobody = true;
    for task in look.tasks() {
        let Some(cancellation) = words::cancellation(look, task) else { continue };
        let moment = task.moment();
        if !task.info.terminated() {
            nobody = false;
            let who = words::sentence(&look.who(task));
            let doing = words::doing(look, task, moment);
            writeln!(out, "{who} was {cancellation}; it {doing}")?;
        }
    }
    if nobody { writeln!(out, "No cancelled tasks") } else { Ok(()) }
}

fn help(_: &Subject<'_>, _: &[&str], out: &mut dyn Write) -> Answer {
    writeln!(out, "Commands:")?;
    for (usage, what) in HELP {
        writeln!(out, "         {usage:<25} : {what}")?;
    }
    Ok(Next::Go)
}

fn quit(_: &Subject<'_>, _: &[&str], _: &mut dyn Write) -> Answer {
    Ok(Next::Leave)
}

/// All that there is to say.
pub(crate) fn report(
    view: &View,
    inspector: Option<&dyn Inspector>,
    now: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    let look = Look::new(view, inspector, now);
    table(&look, out)?;
    writeln!(out)?;
    for task in look.tasks() {
        stack::write(out, &stack::of(&look, task))?;
    }
    for task in look.tasks() {
        writeln!(out, "{}", words::first_line(&look, task))?;
    }
    write_deadlocks(&look, out)?;
    write_cancelled(&look, out)
}

/// What a session would answer.
pub(crate) fn ask(
    view: &View,
    inspector: Option<&dyn Inspector>,
    line: &str,
    out: &mut dyn Write,
) -> io::Result<()> {
    let subject = Subject { view, inspector, heart: &Heart::default() };
    if let Next::Cancel(task) = run(&subject, line, out)? {
        subject.cancel(task);
    }
    Ok(())
}

/// Whether `-j` is among the arguments, and the others.
fn options<'a>(name: &str, arguments: &[&'a str]) -> Result<(bool, Vec<&'a str>), Failure> {
    let rest: Vec<_> = arguments.iter().copied().filter(|argument| *argument != "-j").collect();
    match rest.iter().find(|argument| argument.starts_with('-')) {
        Some(option) => Err(Failure::Bad(format!("{name} does not know {}", plain(option)))),
        None => Ok((rest.len() < arguments.len(), rest)),
    }
}

fn none(name: &str, arguments: &[&str]) -> Result<(), Failure> {
    match arguments {
        [] => Ok(()),
        [argument, ..] => {
            Err(Failure::Bad(format!("{name} does not know what to do with {}", plain(argument))))
        }
    }
}

fn id(name: &str, arguments: &[&str]) -> Result<u64, Failure> {
    let [id] = arguments else {
        return Err(Failure::Bad(format!("{name} takes the id of a task")));
    };
    id.parse().map_err(|_| Failure::Bad(format!("{} is not the id of a task", plain(id))))
}

/// The task whose id is the argument; says so if there is none.
fn the_task<'l>(
    look: &'l Look<'_>,
    name: &str,
    arguments: &[&str],
    out: &mut dyn Write,
) -> Result<Option<&'l Task>, Failure> {
    let id = id(name, arguments)?;
    let task = look.find(id);
    if task.is_none() {
        writeln!(out, "No task {id}")?;
    }
    Ok(task)
}
