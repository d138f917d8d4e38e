//! One task that counts down, a second between numbers.
//!
//! Shows:  a program is a future; `await` is where it may stop; `curio::run` runs it.
//! Start:  `cargo run --example hello [COUNT]`

use std::time::Duration;

async fn countdown(count: u32) -> curio::Result<()> {
    for n in (1..=count).rev() {
        println!("T-minus {n}");
        curio::sleep(Duration::from_secs(1)).await?;
    }
    println!("Lift-off!");
    Ok(())
}

fn main() -> curio::Result<()> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok());
    curio::run(countdown(count.unwrap_or(5)))
}
