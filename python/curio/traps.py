"""The requests that everything else is made of.

For people who build primitives of their own, out of what Curio's are made of: waiting for
a descriptor, for a future, for another task, in a line of tasks. Each is one request to the kernel.
What blocks is a cancellation point; what does not says so. `docs/primitives.md` has an example.
"""

__all__ = [
    "_cancel_task",
    "_clock",
    "_future_wait",
    "_get_current",
    "_get_kernel",
    "_io_release",
    "_io_waiting",
    "_join_task",
    "_read_wait",
    "_reschedule_tasks",
    "_scheduler_wait",
    "_scheduler_wake",
    "_set_timeout",
    "_sigunwatch",
    "_sigwait",
    "_sigwatch",
    "_sleep",
    "_spawn",
    "_unset_timeout",
    "_wait_on_queue",
    "_write_wait",
]

from ._curio import operation
from .errors import CancelledError, TaskCancelled
from .task import current_task, spawn
from .time import clock, sleep

# Descriptors.


@operation
async def _read_wait(fileobj):
    """Wait until a read from a descriptor would not block: there is data, the end, or an error.

    `fileobj`: an object with `fileno()`, or the number itself. It may be of any kind and in any
    mode, and it is not changed. Raises ReadResourceBusy if another task waits to read from it,
    TypeError or ValueError if it is no descriptor, OSError if it is not open::

        import os

        async def main():
            reading, writing = os.pipe()
            os.write(writing, b'!')
            await curio.traps._read_wait(reading)
            print(os.read(reading, 100))

        curio.run(main)

    Cancellation: nothing is read, and nothing is watched any more.
    """


@operation
async def _write_wait(fileobj):
    """Wait until a write to a descriptor would not block: there is room, or an error.

    As `_read_wait`, with WriteResourceBusy.

    Cancellation: nothing is watched any more.
    """


@operation
async def _io_release(fileobj):
    """Send the tasks away that wait in `_read_wait` and `_write_wait` for a descriptor.

    They get OSError (EBADF), as if it was closed; to be called before that. Does not block.
    """


@operation
async def _io_waiting(fileobj):
    """The tasks that wait for a descriptor, as (reader, writer); None for none. Does not block."""


# Time.


async def _sleep(seconds):
    """Sleep for at least that many seconds; return the clock's value, as `curio.sleep` does.

    Cancellation: nothing is lost.
    """
    return await sleep(seconds)


async def _clock():
    """The kernel's clock: seconds, monotonic. Does not block."""
    return await clock()


@operation
async def _set_timeout(clock):
    """Limit what the task does from now on, until `clock`; return the former deadline, or None.

    `clock` is a moment of the kernel's clock, in seconds; None sets no limit. The limit is in force
    until `_unset_timeout`, and nests as `timeout_after` does: when it has passed, TaskTimeout is
    raised at the operation where the task is blocked. Does not block::

        async def main():
            previous = await curio.traps._set_timeout(await curio.clock() + 0.01)
            try:
                await curio.sleep(1000)
            except curio.TaskTimeout:
                print('Too slow')
            finally:
                await curio.traps._unset_timeout(previous)

        curio.run(main)
    """


@operation
async def _unset_timeout(previous):
    """End the limit that the task's last `_set_timeout` has set; the one before is in force again.

    `previous` is what that has returned. Raises RuntimeError without one. Does not block.
    """


# Tasks.


async def _spawn(coro, daemon=False):
    """Make a task of a coroutine and return it; it has run up to its first blocking operation.

    Raises TypeError if `coro` is no coroutine.

    Cancellation: it is no cancellation point.
    """
    if callable(coro):
        raise TypeError(f"_spawn() needs a coroutine, not a function: {coro!r}")
    return await spawn(coro, daemon=daemon)


async def _cancel_task(task, exc=TaskCancelled, val=None):
    """Ask a task to end, and do not wait; return False if it had ended.

    `exc` is raised in it, an exception or a class, which is called with `val` if that is given.
    Does not block.
    """
    if val is not None and isinstance(exc, type):
        exc = exc(val)
    return await task.cancel(exc=exc, blocking=False)


async def _join_task(task):
    """Wait until a task has ended, however it does.

    Cancellation: the other task runs on; only the waiting is given up.
    """
    await task.wait()


async def _get_current():
    """The task that is running. Does not block."""
    return await current_task()


@operation
async def _get_kernel():
    """The kernel that runs the task. Does not block."""


# What comes from elsewhere.


async def _future_wait(future, event=None):
    """Wait until a `concurrent.futures.Future` is done, however it is. Its result is not looked at.

    `event`: its `set()` is called when the future is being waited for, to start who works for it.
    Raises TypeError if `future` is none::

        from concurrent.futures import ThreadPoolExecutor

        async def main():
            with ThreadPoolExecutor() as executor:
                future = executor.submit(sum, [1, 2, 3])
                await curio.traps._future_wait(future)
                print(future.result())

        curio.run(main)

    Cancellation: the future is cancelled, which has no effect on work that has begun.
    """
    if not callable(getattr(future, "add_done_callback", None)):
        raise TypeError(f"_future_wait() needs a concurrent.futures.Future, not {future!r}")
    from ._threads import Completion

    completion = Completion()
    future.add_done_callback(completion.give)
    if event is not None:
        event.set()
    try:
        await completion.wait()
    except CancelledError:
        future.cancel()
        raise


async def _sigwatch(sigset):
    """Watch the signals of a SignalSet from now on. AssertionError if they are watched by it.

    Lets other tasks run; it is no cancellation point.
    """
    await sigset.__aenter__()


async def _sigunwatch(sigset):
    """Watch the signals of a SignalSet no more: the former handlers are back.

    Lets other tasks run; it is no cancellation point.
    """
    await sigset.__aexit__(None, None, None)


async def _sigwait(sigset):
    """Wait for a signal of a SignalSet, and return its number.

    Cancellation: signals of a set that is watched stay.
    """
    return await sigset.wait()


# Lines of tasks.


@operation
async def _scheduler_wait(sched, state):
    """Suspend the task in `sched` until it is woken there; `state` is what `ps` shows.

    `sched` is one of `curio.sched`, or an object with the methods of `SchedBase`.

    Cancellation: the task leaves `sched`. If it was woken before it has seen the cancellation, it
    goes on, and the cancellation comes at the next blocking operation.
    """


@operation
async def _scheduler_wake(sched, n=1):
    """Wake `n` tasks of `sched`. They run when their turn comes. Does not block."""


class _Deque:
    """Tasks that wait in a `collections.deque`, as a scheduler."""

    def __init__(self, queue):
        self._queue = queue

    def _kernel_suspend(self, task):
        self._queue.append(task)
        return lambda: self._queue.remove(task)

    def _kernel_wake(self, n):
        return [self._queue.popleft() for _ in range(min(n, len(self._queue)))]


# What tasks that were woken in a deque are given: a value, and an exception or None.
_handed: dict = {}


async def _wait_on_queue(queue, state):
    """Suspend the task in a `collections.deque` until `_reschedule_tasks`; return the value.

    `state` is what `ps` shows. Raises the exception that it is given there.

    Cancellation: the task leaves the deque.
    """
    task = await current_task()
    await _scheduler_wait(_Deque(queue), state)
    value, exc = _handed.pop(task)
    if exc is not None:
        raise exc
    return value


async def _reschedule_tasks(queue, n=1, value=None, exc=None):
    """Wake the first `n` tasks of a deque; each is given `value`, or raises `exc`.

    Does not block.
    """
    for task in list(queue)[:n]:
        _handed[task] = value, exc
    await _scheduler_wake(_Deque(queue), n)
