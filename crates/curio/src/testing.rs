//! Kernels for tests: a clock that jumps, an order that is drawn.
//!
//! On a virtual kernel no test sleeps. Time stands still while a task can run,
//! and jumps to the next deadline when all of them wait; when all wait and there is
//! no deadline, [`Kernel::run`](crate::Kernel::run) fails and says so instead of hanging. There
//! are no descriptors on it.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//!
//! # fn main() -> curio::Result<()> {
//! let mut kernel = curio::testing::virtual_kernel();
//! let slept = kernel.run(async {
//!     let start = curio::clock()?;
//!     Ok(curio::sleep(Duration::from_secs(86_400)).await? - start)
//! })?;
//! assert_eq!(slept, Duration::from_secs(86_400)); // at once
//! # Ok(())
//! # }
//! ```

use crate::kernel::{Builder, Kernel, VirtualClock, VirtualPoller};

/// A kernel on a virtual clock, running tasks first come, first served.
pub fn virtual_kernel() -> Kernel {
    build(Kernel::builder())
}

/// A kernel on a virtual clock that draws the next task by chance: the same
/// program with the same seed runs in the same order.
pub fn seeded_kernel(seed: u64) -> Kernel {
    build(Kernel::builder().run_order_seed(seed))
}

fn build(builder: Builder) -> Kernel {
    let clock = VirtualClock::default();
    let poller = VirtualPoller { clock: clock.clone() };
    builder
        .clock(clock)
        .poller(poller)
        .build()
        .expect("a virtual kernel asks the system for nothing")
}
