//! Child processes: what they say, how they end, and that nothing of them stays.
//!
//! The children are the system's small programs and scripts for `sh`. Nothing is timed: a child that
//! is to be waited for reads from a pipe until the test ends that.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use curio::process::{Child, Command};
use curio::signal::{SIGKILL, SIGTERM, SIGUSR1};
use curio::testing::{interrupt_everywhere, virtual_kernel};
use curio::{Error, Result, Task, TaskState, clock, ignore_after, sleep, spawn, timeout_after};

mod common;

const HANG: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(5);

fn run<T: 'static>(program: impl Future<Output = Result<T>> + 'static) -> T {
    let _alone = common::alone(); // one of them counts descriptors
    curio::run(timeout_after(HANG, program)).unwrap()
}

async fn until(condition: impl Fn() -> bool) -> Result<()> {
    while !condition() {
        sleep(Duration::from_millis(1)).await?;
    }
    Ok(())
}

async fn blocked<T>(task: &Task<T>, state: TaskState) -> Result<()> {
    until(|| task.info().state() == state).await
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// A child that ends when its standard input does.
fn patient() -> Result<Child> {
    sh("read line; exit 3").stdin(Stdio::piped()).spawn()
}

/// Whether the system has an entry for the process, be it as a zombie.
fn is_there(id: u32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

/// Children are listed by the thread that has started them.
fn own_thread() -> String {
    let path = std::fs::read_link("/proc/thread-self").unwrap();
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn kind<T>(result: Result<T>) -> io::ErrorKind {
    result.err().expect("it fails").as_io().expect("it is an I/O error").kind()
}

#[test]
fn output_is_all_that_was_written() {
    run(async {
        let output = sh("echo out; echo err >&2; exit 7").output().await?;
        assert_eq!(output.status.code(), Some(7));
        assert_eq!(output.stdout, b"out\n");
        assert_eq!(output.stderr, b"err\n");
        Ok(())
    });
}

#[test]
fn input_goes_through_and_has_an_end() {
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    run(async move {
        let output = Command::new("cat").input(large.clone()).output().await?;
        assert!(output.stdout == large && output.status.success());
        // Without input, there is nothing to read.
        assert_eq!(Command::new("cat").output().await?.stdout, b"");
        Ok(())
    });
}

#[test]
fn a_child_need_not_read_its_input() {
    run(async {
        let output = sh("exec <&-; echo done").input(vec![b'x'; 1_000_000]).output().await?;
        assert_eq!(output.stdout, b"done\n");
        let mut child = sh("exit 0").stdin(Stdio::piped()).spawn()?;
        child.stdin.as_ref().unwrap().write(b"never read").await?;
        assert!(child.wait().await?.success());
        Ok(())
    });
}

#[test]
fn streams_that_were_chosen_are_left_as_they_are() {
    run(async {
        let output = sh("cat; echo lost >&2").stdin(Stdio::null()).stderr(Stdio::null()).output();
        let output = output.await?;
        assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
        Ok(())
    });
}

#[test]
fn lines_come_as_they_are_written() {
    run(async {
        let mut child = sh("while read n; do echo got $n; done")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        for n in 0..100 {
            input.write(format!("{n}\n").as_bytes()).await?;
            assert_eq!(output.read_line().await?.unwrap(), format!("got {n}\n").as_bytes());
        }
        drop(input);
        assert_eq!(output.read_line().await?, None);
        assert!(child.wait().await?.success());
        Ok(())
    });
}

#[test]
fn a_status_is_asked_for_once_and_told_forever() {
    run(async {
        let mut child = patient()?;
        assert_eq!(child.try_wait()?, None);
        assert_eq!(child.wait().await?.code(), Some(3));
        assert!(!is_there(child.id()));
        assert_eq!(child.try_wait()?.unwrap().code(), Some(3));
        assert_eq!(child.wait().await?.code(), Some(3));
        Ok(())
    });
}

#[test]
fn signals_end_a_child() {
    run(async {
        let mut child = sh("trap 'exit 9' USR1; echo ready; read line; read line")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        child.stdout.as_ref().unwrap().read_line().await?;
        child.send_signal(SIGUSR1)?;
        child.stdin.as_ref().unwrap().write(b"\n").await?;
        assert_eq!(child.wait().await?.code(), Some(9));

        for (signal, end) in
            [(SIGTERM, Child::terminate as fn(&mut Child) -> Result<()>), (SIGKILL, Child::kill)]
        {
            let mut child = Command::new("sleep").arg("1000").spawn()?;
            end(&mut child)?;
            assert_eq!(child.wait().await?.signal(), Some(signal));
            end(&mut child)?; // it has ended: nothing happens
            assert!(child.send_signal(12345).is_err_and(|error| error.is_misuse()));
        }
        Ok(())
    });
}

#[test]
fn errors_name_the_program() {
    run(async {
        let error = Command::new("no-such-program").spawn().err().unwrap();
        assert!(
            error.to_string().contains("cannot start 'no-such-program': No such file"),
            "{error}"
        );
        let missing = Command::new("true").current_dir("/no/such/place").spawn();
        let error = missing.err().unwrap();
        assert!(error.to_string().contains("in '/no/such/place'"), "{error}");
        let error = Command::new("/etc/passwd").output().await.err().unwrap();
        assert!(error.to_string().contains("'/etc/passwd'"), "{error}");
        assert_eq!(kind::<()>(Err(error)), io::ErrorKind::PermissionDenied);
        assert_eq!(kind(Command::new("").status().await), io::ErrorKind::NotFound);
        Ok(())
    });
}

// --- cancellation ---

#[test]
fn a_cancelled_wait_leaves_the_child_alone() {
    run(async {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
        let kept = child.stdin.take();
        assert!(ignore_after(SOON, child.wait()).await?.is_none());
        assert_eq!(child.try_wait()?, None);
        drop(kept);
        assert!(child.wait().await?.success());
        Ok(())
    });
}

#[test]
fn a_cancelled_output_has_killed_the_child_when_it_returns() {
    run(async {
        let (reader, writer) = io::pipe()?;
        let task = spawn(async {
            // It ignores what is polite, and says who it is before.
            sh("trap '' TERM; echo $$ >&2; while :; do sleep 1000; done")
                .stderr(writer)
                .output()
                .await
        });
        let stream = curio::Stream::new(curio::process::Pipe::new(reader)?);
        let line = stream.read_line().await?.unwrap();
        let id: u32 = String::from_utf8(line).unwrap().trim().parse().unwrap();
        assert!(is_there(id));
        blocked(&task, TaskState::ReadWait).await?;
        task.cancel().await?;
        assert!(!is_there(id));
        Ok(())
    });
}

#[test]
fn a_timeout_of_status_kills() {
    run(async {
        let started = ignore_after(SOON, Command::new("sleep").arg("1000").status()).await?;
        assert!(started.is_none());
        Ok(())
    });
}

#[test]
fn a_cancelled_communicate_goes_on_where_it_was() {
    let large: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    run(async move {
        // The child stops in the middle, until the pipe of its own ends.
        let mut child = sh("head -c 1000000; sleep 0.2; cat; echo end >&2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut tries = 1;
        let mut output = ignore_after(SOON, child.communicate(large.clone())).await?;
        while output.is_none() {
            tries += 1;
            output = ignore_after(SOON, child.communicate([])).await?;
        }
        let output = output.unwrap();
        assert!(output.stdout == large, "{} of {}", output.stdout.len(), large.len());
        assert_eq!(output.stderr, b"end\n");
        assert!(tries > 1);
        Ok(())
    });
}

#[test]
fn an_interrupt_anywhere_leaves_no_child() {
    let _alone = common::alone();
    let report = interrupt_everywhere(|| async {
        let status = Command::new("sleep").arg("0.02").status().await?;
        assert!(status.success());
        Ok(())
    });
    assert!(report.unwrap().points > 1);
    let children = std::fs::read_to_string(format!("/proc/self/task/{}/children", own_thread()));
    assert_eq!(children.unwrap(), "");
}

// --- nothing stays ---

#[test]
fn a_dropped_child_runs_on_and_is_no_zombie() {
    run(async {
        let mut child = patient()?;
        let (id, input) = (child.id(), child.stdin.take());
        drop(child);
        assert!(is_there(id));
        drop(input);
        until(|| !is_there(id)).await
    });
}

#[test]
fn kill_on_drop_kills() {
    run(async {
        let child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn()?;
        let id = child.id();
        drop(child);
        until(|| !is_there(id)).await
    });
}

#[test]
fn an_output_that_is_dropped_halfway_kills() {
    run(async {
        let mut output = Box::pin(Command::new("sleep").arg("1000").output());
        assert!(futures::poll!(&mut output).is_pending());
        drop(output);
        Ok(())
    });
}

#[test]
fn many_at_once() {
    run(async {
        let tasks: Vec<_> = (0..100)
            .map(|n| spawn(async move { sh(&format!("echo {n}; exit {n}")).output().await }))
            .collect();
        for (n, task) in tasks.into_iter().enumerate() {
            let output = task.join().await?;
            assert_eq!(output.status.code(), Some(n as i32));
            assert_eq!(output.stdout, format!("{n}\n").as_bytes());
        }
        Ok(())
    });
}

#[test]
fn descriptors_are_given_back() {
    run(async {
        sh("exit 0").output().await?;
        let before = common::descriptors();
        for _ in 0..20 {
            sh("echo out; echo err >&2").input("in").output().await?;
            ignore_after(Duration::ZERO, Command::new("sleep").arg("1000").output()).await?;
            assert!(Command::new("no-such-program").spawn().is_err());
        }
        assert_eq!(common::descriptors(), before);
        Ok(())
    });
}

#[test]
fn no_time_passes_on_a_virtual_clock_while_a_child_is_waited_for() {
    let _alone = common::alone();
    let mut kernel = virtual_kernel();
    let waited = kernel.run(async {
        let start = clock()?;
        let status = sh("sleep 0.05; exit 4").spawn()?.wait().await?;
        assert_eq!(clock()?, start);
        Ok(status)
    });
    assert_eq!(waited.unwrap().code(), Some(4));
}

#[test]
fn who_takes_all_statuses_is_noticed() {
    run(async {
        let mut child = patient()?;
        drop(child.stdin.take());
        let id = i32::try_from(child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
        let error: Error = child.wait().await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(10), "ECHILD: {error}");
        Ok(())
    });
}
