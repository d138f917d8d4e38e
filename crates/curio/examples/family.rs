//! A parent waits for a kid, loses patience and cancels it; the kid saves its work first.
//!
//! Shows:  spawn, join, a timeout around somebody else's join (it gives up the waiting and
//!         leaves the kid alone), and cancellation that waits until the clean-up is done.
//! Start:  `cargo run --example family [SECONDS FOR EACH STEP]`

use std::time::Duration;

use curio::{Result, sleep, spawn, timeout_after};

async fn kid(step: Duration) -> Result<()> {
    println!("Kid:    building a space ship");
    let built = sleep(1000 * step).await;
    if built.as_ref().is_err_and(|error| error.is_cancelled()) {
        // Cleaning up may await like any other code: nothing disturbs it, and `cancel`
        // returns only after it has ended.
        println!("Kid:    fine, saving my work ...");
        sleep(step).await?;
        println!("Kid:    ... saved");
    }
    built.map(drop)
}

async fn countdown(count: u32, step: Duration) -> Result<()> {
    for n in (1..=count).rev() {
        println!("Parent: {n}");
        sleep(step).await?;
    }
    Ok(())
}

async fn parent(step: Duration) -> Result<()> {
    let kid = spawn(kid(step));
    sleep(step).await?;

    println!("Parent: let's go");
    let count = spawn(countdown(3, step));
    count.join().await?;

    println!("Parent: we're leaving!");
    match timeout_after(2 * step, kid.join()).await {
        Err(error) if error.is_timeout() => {
            println!("Parent: I warned you!");
            kid.cancel().await?;
        }
        other => other?,
    }
    println!("Parent: leaving");
    Ok(())
}

fn main() -> Result<()> {
    let step = std::env::args().nth(1).and_then(|step| step.parse().ok());
    curio::run(parent(Duration::from_secs_f64(step.unwrap_or(1.0))))
}
