//! A program with something to see for the monitor: who sleeps, who waits for whom, and two
//! tasks that have locked each other out.
//!
//! Shows:  a kernel with the monitor on. Look at it from another terminal with `python3 -m
//!         curio.monitor`, or with anything that talks to a Unix socket, and try `ps`, `tree`,
//!         `where 3`, `why 2` and `deadlock`. Once you `cancel` the kid, the program ends.
//! Start:  `cargo run --example monitored`

use std::time::Duration;

use curio::net::TcpListener;
use curio::sync::Lock;
use curio::{Kernel, Queue, Result, TaskBuilder, sleep};

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

async fn kid() -> Result<()> {
    println!("Kid:    building a space ship");
    let built = sleep(Duration::from_secs(1000)).await;
    if built.as_ref().is_err_and(|error| error.is_cancelled()) {
        println!("Kid:    fine, saving my work");
    }
    built.map(drop)
}

/// Takes two locks, one after the other.
async fn greedy(first: Lock<()>, second: Lock<()>) -> Result<()> {
    let _first = first.acquire().await?;
    sleep(ms(100)).await?;
    let _second = second.acquire().await?;
    Ok(())
}

async fn consumer(queue: Queue<u32>) -> Result<()> {
    loop {
        queue.get().await?;
    }
}

async fn server() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    loop {
        listener.accept().await?;
    }
}

/// What runs beside the main task, and is not waited for.
fn background(name: &'static str, task: impl Future<Output = Result<()>> + 'static) {
    TaskBuilder::new().name(name).daemon().spawn(task);
}

async fn parent() -> Result<()> {
    let kid = TaskBuilder::new().name("kid").spawn(kid());
    let (bread, butter) = (Lock::new(()), Lock::new(()));
    background("bread first", greedy(bread.clone(), butter.clone()));
    background("butter first", greedy(butter, bread));
    background("consumer", consumer(Queue::unbounded()));
    background("server", server());
    kid.wait().await?;
    println!("Parent: leaving");
    Ok(())
}

fn main() -> Result<()> {
    let mut kernel = Kernel::builder().monitor(true).build()?;
    match kernel.monitor().and_then(|monitor| monitor.path().map(ToOwned::to_owned)) {
        Some(path) => println!("The monitor listens at {}", path.display()),
        None => println!("The monitor could not be started"),
    }
    kernel.run(async { TaskBuilder::new().name("parent").spawn(parent()).join().await })?;
    kernel.shutdown()
}
