//! The monitor's answers for programs: a JSON object for each task.

use serde_json::{Map, Value, json};

use super::descriptor::Descriptor;
use super::look::{Look, Moment, Task};
use super::{Stack, deadlock, stack};
use crate::kernel::{Target, TaskState};

/// What `ps` shows of a task, and what it waits for.
pub(super) fn row(look: &Look<'_>, task: &Task, name: &str) -> Map<String, Value> {
    let info = &task.info;
    let moment = task.moment();
    fields(json!({
        "id": info.id(),
        "name": name,
        "state": moment.state.name(),
        "cycles": info.cycles(),
        "timeout": look.deadline(info),
        "parent": info.parent(),
        "daemon": info.daemon(),
        "waiting_for": waiting_for(moment),
    }))
}

/// A task and its stack.
pub(super) fn stack(look: &Look<'_>, task: &Task) -> Value {
    let Stack { repr, frames } = stack::of(look, task);
    let frame = |frame: &super::Frame| {
        json!({
            "file": frame.file,
            "line": frame.line,
            "function": frame.function,
            "source": frame.source,
        })
    };
    let frames: Vec<_> = frames.iter().map(frame).collect();
    json!({
        "id": task.info.id(),
        "name": look.name(task),
        "state": task.info.state().name(),
        "repr": repr,
        "frames": frames,
    })
}

/// A task, what it waits for in detail, and the tasks that it has to wait for.
pub(super) fn why(look: &Look<'_>, task: &Task) -> Value {
    let mut object = row(look, task, &look.name(task));
    let moment = task.moment();
    if let Target::Descriptor(fd) = moment.target
        && let Some(waiting_for) = object.get_mut("waiting_for").and_then(Value::as_object_mut)
    {
        waiting_for.append(&mut descriptor(fd));
    }
    let mut seen = vec![task.info.id()];
    let (mut chain, mut cycle, mut next) = (Vec::new(), None, moment.task());
    while let Some(id) = next {
        if seen.contains(&id) {
            cycle = deadlock::from(look, id).map(|cycle| cycle.ids().collect::<Vec<_>>());
            break;
        }
        let Some(task) = look.find(id).filter(|_| seen.len() <= super::words::LONGEST_CHAIN) else {
            break;
        };
        seen.push(id);
        chain.push(row(look, task, &look.name(task)));
        next = task.moment().task();
    }
    object.insert("chain".into(), json!(chain));
    object.insert("deadlock".into(), json!(cycle));
    Value::Object(object)
}

/// `null` unless the task is blocked.
fn waiting_for(moment: Moment) -> Value {
    if !moment.state.is_blocked() {
        return Value::Null;
    }
    match moment.target {
        Target::Task(id) => json!({ "kind": "task", "id": id }),
        Target::Descriptor(fd) => json!({
            "kind": "descriptor",
            "fd": fd,
            "direction": if moment.state == TaskState::WriteWait { "write" } else { "read" },
        }),
        Target::Resource(id) => resource(id, moment),
        Target::Nothing if moment.state == TaskState::TimeSleep => json!({ "kind": "time" }),
        Target::Nothing if moment.state == TaskState::SignalWait => json!({ "kind": "signal" }),
        Target::Nothing => json!({ "kind": "foreign" }),
    }
}

fn resource(id: u64, moment: Moment) -> Value {
    let Some(resource) = moment.resource() else { return json!({ "kind": "gone", "id": id }) };
    let figures = resource.statistics();
    json!({
        "kind": resource.kind().to_string().to_lowercase(),
        "id": id,
        "owner": figures.owner,
        "waiting": figures.waiting,
        "level": figures.level,
        "capacity": figures.capacity,
    })
}

fn descriptor(fd: i32) -> Map<String, Value> {
    fields(match Descriptor::of(fd) {
        Descriptor::Closed => json!({ "what": "closed" }),
        Descriptor::Other(what) => json!({ "what": what }),
        Descriptor::Socket { kind, listening, local, peer } => json!({
            "what": "socket",
            "socket": kind,
            "listening": listening,
            "local": local,
            "peer": peer,
        }),
    })
}

fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => unreachable!("a literal in braces is an object"),
    }
}
