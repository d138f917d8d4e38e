//! Kernels for tests: a clock that jumps, an order that is drawn, interruptions everywhere.
//!
//! On a virtual kernel no test sleeps. Time stands still while a task can run,
//! and jumps to the next deadline when all of them wait; when all wait and there is
//! no deadline, [`Kernel::run`](crate::Kernel::run) fails and says so instead of hanging.
//!
//! Sockets and pipes work if both ends are the program's own: what is written at one end can be
//! read at the other in the same moment. What comes from elsewhere (another process, a thread) is not
//! waited for; with it, use an ordinary kernel.
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

mod interrupt;
mod network;

use crate::kernel::{self, Builder, Epoll, Kernel, Poller, VirtualClock, VirtualPoller};

#[doc(hidden)]
pub use crate::sync::Watch;
#[doc(hidden)]
pub use interrupt::{Exploration, Probe};
pub use interrupt::{Failure, Interrupter, Interruption, Report, Run, interrupt_everywhere};
pub use network::Network;
pub(crate) use network::address_of;
#[doc(hidden)]
pub use network::{network, parse_name, some_of};

/// A kernel on a virtual clock, running tasks first come, first served.
pub fn virtual_kernel() -> Kernel {
    build(Kernel::builder(), None)
}

/// A kernel on a virtual clock that draws the next task by chance: the same
/// program with the same seed runs in the same order.
pub fn seeded_kernel(seed: u64) -> Kernel {
    build(Kernel::builder().run_order_seed(seed), None)
}

fn build(builder: Builder, network: Option<Network>) -> Kernel {
    // Miri knows nothing of epoll.
    let descriptors = if cfg!(miri) { None } else { Epoll::new().ok() };
    on_virtual_time(builder, descriptors, network).build().expect("all of its parts are given")
}

/// Has the kernel that runs here fire what is due, which it does otherwise between two turns.
#[doc(hidden)]
pub fn look_at_timers() {
    kernel::with_current(|core| core.with_state(|state| state.expire(core.now())));
}

/// The kernel is to run on a virtual clock, and find what happens to descriptors through `poller`.
#[doc(hidden)]
pub fn on_virtual_time(
    builder: Builder,
    poller: Option<impl Poller + 'static>,
    network: Option<Network>,
) -> Builder {
    let clock = VirtualClock::default();
    let poller = VirtualPoller { clock: clock.clone(), descriptors: poller, network };
    builder.clock(clock).poller(poller)
}
