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
    ReadResourceBusy,
    ResourceBusy,
    SyncIOError,
    TaskCancelled,
    TaskError,
    TaskTimeout,
    TimeoutCancellationError,
    UncaughtTimeoutError,
    WriteResourceBusy,
)
from .kernel import Kernel
from .network import run_server
from .task import (
    Task,
    check_cancellation,
    current_task,
    disable_cancellation,
    get_all_tasks,
    set_cancellation,
    spawn,
)
from .time import clock, ignore_after, sleep, stop_after, timeout_after

__version__ = _curio.__version__


class _Later(type(_curio)):  # type: ignore[misc]  # `types` would have to be imported
    """A submodule that is loaded when something of it is wanted.

    A module's `__getattr__` would do, but with one, every access to the package's attributes
    is slow.
    """

    def __getattr__(self, name):
        module = __import__(self.__name__, fromlist=["*"])  # takes our place in the package
        return getattr(module, name)

    def __dir__(self):
        return dir(__import__(self.__name__, fromlist=["*"]))


io = _Later("curio.io")
network = _Later("curio.network")
socket = _Later("curio.socket")


__all__ = [
    "AsyncOnlyError",
    "CancelledError",
    "CurioError",
    "Kernel",
    "ReadResourceBusy",
    "ResourceBusy",
    "SyncIOError",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskTimeout",
    "TimeoutCancellationError",
    "UncaughtTimeoutError",
    "WriteResourceBusy",
    "check_cancellation",
    "clock",
    "current_task",
    "disable_cancellation",
    "get_all_tasks",
    "ignore_after",
    "run",
    "run_server",
    "set_cancellation",
    "sleep",
    "spawn",
    "stop_after",
    "timeout_after",
]
