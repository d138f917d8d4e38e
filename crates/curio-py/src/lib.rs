//! The Python face: translation between CPython and the crate, and no scheduling of its own.
//!
//! - [`op`]: the object that Python awaits, with a future of the crate's inside.
//! - [`function`]: functions that look like Python's and make ops.
//! - [`coroutine`]: Python coroutines as bodies of tasks.
//! - [`task`], [`kernel`], [`time`], [`sync`], [`queue`], [`socket`]: the classes and operations of the package.
//! - [`universal`]: what threads and asyncio may use as well.
//! - [`stream`], [`transport`]: streams, and what bytes go through.
//! - [`poller`]: sleeping without the interpreter's lock.
//! - [`testing`]: virtual time, and interruptions.
//! - [`error`], [`object`], [`frames`]: exceptions, references, lines of code.

use pyo3::exceptions::PyLookupError;
use pyo3::prelude::*;

mod activation;
mod coroutine;
mod error;
mod frames;
mod function;
mod group;
mod inspector;
mod kernel;
mod monitor;
mod object;
mod op;
mod poller;
mod queue;
mod signal;
mod socket;
mod stream;
mod sync;
mod task;
mod testing;
mod time;
mod transport;
mod traps;
mod universal;
mod worker;

use curio::embed::Direction::{Read, Write};
use function::Implementation;

/// What `operation` finds by name.
const OPERATIONS: &[(&str, Implementation)] = &[
    ("Completion.wait", worker::wait),
    ("Condition.notify", sync::condition_notify),
    ("Condition.notify_all", sync::condition_notify_all),
    ("Condition.wait", sync::condition_wait),
    ("Event.set", sync::event_set),
    ("Event.wait", sync::event_wait),
    ("Lock.__aenter__", sync::lock_enter),
    ("Lock.__aexit__", sync::lock_release),
    ("Lock.acquire", sync::lock_acquire),
    ("Lock.release", sync::lock_release),
    ("Queue.get", queue::get),
    ("Queue.join", queue::join),
    ("Queue.put", queue::put),
    ("Queue.task_done", queue::task_done),
    ("RLock.__aenter__", sync::rlock_enter),
    ("RLock.__aexit__", sync::rlock_release),
    ("RLock.acquire", sync::rlock_acquire),
    ("RLock.release", sync::rlock_release),
    ("Semaphore.__aenter__", sync::semaphore_enter),
    ("Semaphore.__aexit__", sync::semaphore_release),
    ("Semaphore.acquire", sync::semaphore_acquire),
    ("Semaphore.release", sync::semaphore_release),
    ("SignalSet.__aenter__", signal::enter),
    ("SignalSet.__aexit__", signal::exit),
    ("SignalSet.wait", signal::wait),
    ("Socket._accept_always", socket::accept_always),
    ("Socket._converse", socket::converse),
    ("Socket._flush", socket::flush),
    ("Socket._wait", socket::wait),
    ("Socket.accept", socket::accept),
    ("Socket.do_handshake", |py, call| socket::method(py, call, "do_handshake", Read)),
    ("Socket.recv", socket::recv),
    ("Socket.recv_into", |py, call| socket::method(py, call, "recv_into", Read)),
    ("Socket.recvfrom", socket::recvfrom),
    ("Socket.recvfrom_into", |py, call| socket::method(py, call, "recvfrom_into", Read)),
    ("Socket.recvmsg", |py, call| socket::method(py, call, "recvmsg", Read)),
    ("Socket.recvmsg_into", |py, call| socket::method(py, call, "recvmsg_into", Read)),
    ("Socket.send", socket::send),
    ("Socket.sendall", socket::sendall),
    ("Socket.sendmsg", |py, call| socket::method_varargs(py, call, "sendmsg", Write)),
    ("Socket.sendto", socket::sendto),
    ("StreamBase.__anext__", stream::next_line),
    ("StreamBase.flush", stream::flush),
    ("StreamBase.read", stream::read),
    ("StreamBase.read_exactly", stream::read_exactly),
    ("StreamBase.readall", stream::readall),
    ("StreamBase.readinto", stream::readinto),
    ("StreamBase.readline", stream::readline),
    ("StreamBase.readlines", stream::readlines),
    ("StreamBase.write", stream::write),
    ("StreamBase.writelines", stream::writelines),
    ("Task.cancel", task::cancel),
    ("Task.cancel_children", task::cancel_children),
    ("Task.interrupt", task::interrupt),
    ("Task.join", task::join),
    ("Task.wait", task::wait),
    ("TaskGroup.__aexit__", group::exit),
    ("TaskGroup.add_task", group::add_task),
    ("TaskGroup.cancel_remaining", group::cancel_remaining),
    ("TaskGroup.join", group::join),
    ("TaskGroup.next_done", group::next_done),
    ("TaskGroup.spawn", group::spawn),
    ("UniversalEvent.set", universal::event_set),
    ("UniversalEvent.wait", universal::event_wait),
    ("UniversalQueue.get", universal::get),
    ("UniversalQueue.join", universal::join),
    ("UniversalQueue.put", universal::put),
    ("UniversalQueue.task_done", universal::task_done),
    ("_child_ended", traps::child_ended),
    ("_get_kernel", traps::get_kernel),
    ("_io_release", traps::io_release),
    ("_io_waiting", traps::io_waiting),
    ("_read_wait", |py, call| traps::io_wait(py, call, Read)),
    ("_scheduler_wait", traps::scheduler_wait),
    ("_scheduler_wake", traps::scheduler_wake),
    ("_set_timeout", traps::set_timeout),
    ("_spawn_as", kernel::spawn_as),
    ("_unset_timeout", traps::unset_timeout),
    ("_write_wait", |py, call| traps::io_wait(py, call, Write)),
    ("check_cancellation", time::check_cancellation),
    ("clock", time::clock),
    ("connect_any", worker::connect),
    ("current_task", kernel::current_task),
    ("disable_cancellation", time::disable_cancellation),
    ("enable_cancellation", time::enable_cancellation),
    ("ignore_after", time::ignore_after),
    ("ignore_at", time::ignore_at),
    ("set_cancellation", time::set_cancellation),
    ("sleep", time::sleep),
    ("spawn", kernel::spawn),
    ("timeout_after", time::timeout_after),
    ("timeout_at", time::timeout_at),
    ("wake_at", time::wake_at),
];

/// operation(stub)
///
/// Give a function that is declared in Python its native implementation, found by its
/// qualified name. The declaration's body is never run; its signature and docs stay.
#[pyfunction]
fn operation(stub: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    let name: String = stub.getattr("__qualname__")?.extract()?;
    let Some((_, implementation)) = OPERATIONS.iter().find(|(known, _)| *known == name) else {
        return Err(PyLookupError::new_err(format!("there is no native operation {name:?}")));
    };
    function::new(stub, *implementation)
}

#[pymodule(gil_used = true)]
fn _curio(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    error::init(py)?;
    op::init(py)?;
    function::init(py)?;
    task::init(py, module)?;
    socket::init(py, module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<kernel::KernelBase>()?;
    module.add_class::<error::Origin>()?;
    module.add_class::<sync::EventBase>()?;
    module.add_class::<sync::LockBase>()?;
    module.add_class::<sync::RLockBase>()?;
    module.add_class::<sync::SemaphoreBase>()?;
    module.add_class::<sync::ConditionBase>()?;
    module.add_class::<queue::QueueBase>()?;
    module.add_class::<signal::SignalSetBase>()?;
    module.add_class::<stream::StreamBase>()?;
    module.add_class::<worker::CompletionBase>()?;
    module.add_class::<group::TaskGroupBase>()?;
    module.add_class::<testing::Testing>()?;
    module.add_class::<testing::NetworkBase>()?;
    module.add_function(wrap_pyfunction!(testing::look_at_timers, module)?)?;
    module.add_function(wrap_pyfunction!(testing::network, module)?)?;
    module.add_function(wrap_pyfunction!(testing::simulated_address, module)?)?;
    module.add_class::<universal::UniversalQueueBase>()?;
    module.add_class::<universal::UniversalEventBase>()?;
    module.add_class::<universal::StandingBase>()?;
    module.add_function(wrap_pyfunction!(universal::caller, module)?)?;
    module.add_class::<time::TimeoutBlock>()?;
    module.add_class::<time::ShieldBlock>()?;
    module.add_class::<time::OpenBlock>()?;
    module.add_class::<traps::SchedLine>()?;
    module.add_function(wrap_pyfunction!(operation, module)?)?;
    module.add_function(wrap_pyfunction!(task::set_task_class, module)?)?;
    module.add_function(wrap_pyfunction!(frames::await_frames, module)?)?;
    module.add_function(wrap_pyfunction!(sync::spawn_locker, module)?)?;
    module.add_function(wrap_pyfunction!(kernel::run, module)?)?;
    module.add_function(wrap_pyfunction!(traps::instantiate, module)?)?;
    module.add_function(wrap_pyfunction!(traps::is_running, module)?)?;
    module.add_function(wrap_pyfunction!(worker::name_thread, module)?)?;
    module.add_class::<worker::Outside>()?;
    module.add_class::<worker::Seen>()?;
    module.add_function(wrap_pyfunction!(kernel::get_all_tasks, module)?)?;
    Ok(())
}
