"""Curio: reliable concurrent I/O.

Programs are tasks, written with async and await, that a small kernel runs one at a
time. Every blocked task can be seen, timed out and cancelled, and may clean up with
further awaits before it ends::

    import curio

    async def countdown(n):
        while n > 0:
            print('T-minus', n)
            await curio.sleep(1)
            n -= 1

    curio.run(countdown, 10)
"""

from . import _curio
from ._curio import run
from .errors import (
    AsyncOnlyError,
    CancelledError,
    CurioError,
    KernelExit,
    ReadResourceBusy,
    ResourceBusy,
    SyncIOError,
    TaskCancelled,
    TaskError,
    TaskExit,
    TaskGroupError,
    TaskInterrupted,
    TaskTimeout,
    TimeoutCancellationError,
    UncaughtTimeoutError,
    WriteResourceBusy,
)
from .kernel import Kernel
from .network import (
    Server,
    create_server,
    create_unix_server,
    open_connection,
    open_unix_connection,
    run_server,
    run_unix_server,
    tcp_server,
    tcp_server_socket,
    unix_server,
    unix_server_socket,
)
from .queue import LifoQueue, PriorityQueue, Queue, UniversalQueue
from .signal import SignalEvent, SignalQueue, SignalSet, enable_signals, ignore_signals
from .sync import (
    BoundedSemaphore,
    Condition,
    Event,
    Lock,
    Result,
    RLock,
    Semaphore,
    UniversalEvent,
    UniversalResult,
)
from .task import (
    Task,
    TaskGroup,
    check_cancellation,
    current_task,
    disable_cancellation,
    enable_cancellation,
    gather,
    get_all_tasks,
    set_cancellation,
    spawn,
)
from .thread import AWAIT, async_thread, spawn_thread
from .time import (
    clock,
    ignore_after,
    ignore_at,
    schedule,
    sleep,
    stop_after,
    timeout_after,
    timeout_at,
    wake_at,
)
from .workers import (
    block_in_thread,
    run_blocking,
    run_cpu_bound,
    run_in_executor,
    run_in_process,
    run_in_thread,
)

__version__ = _curio.__version__


class _Later(type(_curio)):  # type: ignore[misc]  # `types` would have to be imported
    """A submodule that is loaded when something of it is wanted.

    A module's `__getattr__` would do, but with one, every access to the package's attributes
    is slow.
    """

    def __getattr__(self, name):
        module = __import__(self.__name__, fromlist=["*"])  # takes our place in the package
        return getattr(module, name)

    def __setattr__(self, name, value):
        setattr(__import__(self.__name__, fromlist=["*"]), name, value)

    def __delattr__(self, name):
        delattr(__import__(self.__name__, fromlist=["*"]), name)

    def __dir__(self):
        return dir(__import__(self.__name__, fromlist=["*"]))

    @property
    def __dict__(self):
        return vars(__import__(self.__name__, fromlist=["*"]))  # as pytest's monkeypatch has it


def aopen(*args, **kwargs):
    """aopen(file, mode='r', ...): a file that is read and written in threads; see `curio.file`."""
    return file.aopen(*args, **kwargs)


async def anext(iterator, *sentinel):
    """anext(iterator[, sentinel]): the next item of an asynchronous iterator.

    At its end, `sentinel`, or StopAsyncIteration without one. Cancellation: what the iterator
    makes of it.
    """
    return await file.anext(iterator, *sentinel)


channel = _Later("curio.channel")
debug = _Later("curio.debug")
file = _Later("curio.file")
io = _Later("curio.io")
meta = _Later("curio.meta")
monitor = _Later("curio.monitor")
sched = _Later("curio.sched")
socket = _Later("curio.socket")
ssl = _Later("curio.ssl")
subprocess = _Later("curio.subprocess")
testing = _Later("curio.testing")


__all__ = [
    "AWAIT",
    "AsyncOnlyError",
    "BoundedSemaphore",
    "CancelledError",
    "Condition",
    "CurioError",
    "Event",
    "Kernel",
    "KernelExit",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "RLock",
    "ReadResourceBusy",
    "ResourceBusy",
    "Result",
    "Semaphore",
    "Server",
    "SignalEvent",
    "SignalQueue",
    "SignalSet",
    "SyncIOError",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskExit",
    "TaskGroup",
    "TaskGroupError",
    "TaskInterrupted",
    "TaskTimeout",
    "TimeoutCancellationError",
    "UncaughtTimeoutError",
    "UniversalEvent",
    "UniversalQueue",
    "UniversalResult",
    "WriteResourceBusy",
    "anext",
    "aopen",
    "async_thread",
    "block_in_thread",
    "check_cancellation",
    "clock",
    "create_server",
    "create_unix_server",
    "current_task",
    "disable_cancellation",
    "enable_cancellation",
    "enable_signals",
    "gather",
    "get_all_tasks",
    "ignore_after",
    "ignore_at",
    "ignore_signals",
    "open_connection",
    "open_unix_connection",
    "run",
    "run_blocking",
    "run_cpu_bound",
    "run_in_executor",
    "run_in_process",
    "run_in_thread",
    "run_server",
    "run_unix_server",
    "schedule",
    "set_cancellation",
    "sleep",
    "spawn",
    "spawn_thread",
    "stop_after",
    "tcp_server",
    "tcp_server_socket",
    "timeout_after",
    "timeout_at",
    "unix_server",
    "unix_server_socket",
    "wake_at",
]
