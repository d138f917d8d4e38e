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

import importlib

from . import _curio
from ._curio import run
from .errors import *
from .errors import __all__ as _errors
from .kernel import Kernel
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

# What needs more of the standard library is loaded when it is first used.
_LATER = {"run_server": "network"}

__all__ = [
    "Kernel",
    "Task",
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
    *_errors,
]


def __getattr__(name):
    if name in _LATER:
        value = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    elif name in ("io", "network", "socket"):
        return importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_LATER, "io", "network", "socket"})
