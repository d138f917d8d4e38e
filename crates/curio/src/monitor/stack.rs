//! Where a task is: its calls, or what is known of a task of Rust, which keeps no record of them.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::panic::Location;
use std::path::Path;

use super::look::{Look, Task};
use super::words::plain;
use super::{Frame, Stack};

/// A longer file is not searched for a line.
const LARGEST: u64 = 4 << 20;

/// The lines of source files that were read for one answer.
#[derive(Default)]
pub(super) struct Sources(HashMap<String, Vec<String>>);

/// The stack of a task.
pub(super) fn of(look: &Look<'_>, task: &Task) -> Stack {
    if let Some(stack) = look.inspector().and_then(|inspector| inspector.stack(task.key)) {
        return stack;
    }
    let (info, name) = (&task.info, look.name(task));
    let repr = format!("Task(id={}, {name}, state='{}')", info.id(), info.state());
    let spawned = info.label().site.map(|site| frame(look, site, "spawn"));
    let awaits = info.site().map(|site| frame(look, site, &name));
    Stack { repr, frames: spawned.into_iter().chain(awaits).collect() }
}

/// Shows it as an interpreter would.
pub(super) fn write(out: &mut dyn Write, stack: &Stack) -> io::Result<()> {
    if stack.frames.is_empty() {
        return writeln!(out, "No stack for {}", plain(&stack.repr));
    }
    writeln!(out, "Stack for {} (most recent call last):", plain(&stack.repr))?;
    for Frame { file, line, function, source } in &stack.frames {
        writeln!(out, "  File \"{}\", line {line}, in {}", plain(file), plain(function))?;
        if let Some(source) = source {
            writeln!(out, "    {}", plain(source.trim()))?;
        }
    }
    writeln!(out)
}

fn frame(look: &Look<'_>, site: &Location<'_>, function: &str) -> Frame {
    Frame {
        file: site.file().into(),
        line: site.line(),
        function: function.into(),
        source: look.source(site.file(), site.line()),
    }
}

impl Sources {
    pub(super) fn line(&mut self, file: &str, line: u32) -> Option<String> {
        if !self.0.contains_key(file) {
            let text = read(Path::new(file)).unwrap_or_default();
            self.0.insert(file.into(), text.lines().map(|line| line.trim().into()).collect());
        }
        let line = self.0[file].get(line.checked_sub(1)? as usize)?;
        (!line.is_empty()).then(|| line.clone())
    }
}

/// The text of a file, by the name that the compiler was given: it may be relative to a directory
/// above the one that the program was started in.
fn read(file: &Path) -> Option<String> {
    let here = std::env::current_dir().ok()?;
    let path = here.ancestors().map(|above| above.join(file)).find(|path| path.exists())?;
    // A pipe, or a device, would be waited for.
    let metadata = fs::metadata(&path).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    Some(String::from_utf8_lossy(&fs::read(&path).ok()?).into_owned())
}
