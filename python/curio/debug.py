"""Debuggers: activations that report what tasks do.

They are given to a kernel by its `debug` argument: one, a list, or True for `logcrash` and
`longblock`. Each takes `level`, the level it logs with; `log`, the logger (`curio.debug`);
and `filter`, names of tasks: no others are reported::

    import logging
    from curio.debug import longblock, schedtrace

    logging.basicConfig(level=logging.INFO)

    async def main():
        await curio.sleep(0.01)

    curio.run(main, debug=[schedtrace, longblock(max_time=0.1)])
"""

__all__ = ["locker", "logcrash", "longblock", "schedtrace", "traptrace"]

import logging
import threading
import time
import weakref

from .errors import CancelledError
from .kernel import Activation

log = logging.getLogger("curio.debug")


class DebugBase(Activation):
    """What the debuggers have in common."""

    _level = logging.INFO

    def __init__(self, *, level=None, log=log, filter=None):
        if isinstance(filter, str):
            filter = {filter}
        self.level = self._level if level is None else level
        self.log = log
        self.filter = filter

    def check_filter(self, task):
        """Whether `task` is to be reported."""
        return self.filter is None or task.name in self.filter

    def _report(self, task, message, *args, **options):
        if self.check_filter(task):
            self.log.log(self.level, message, *args, **options)


class schedtrace(DebugBase):
    """Reports each turn that a task is given, and why it gave it back."""

    def created(self, task):
        self._report(task, "CREATE: task %d (%s)", task.id, task.name)

    def running(self, task):
        self._report(task, "RUN: task %d (%s), cycle %d", task.id, task.name, task.cycles)

    def suspended(self, task, trap):
        self._report(task, "SUSPEND: task %d (%s), %s", task.id, task.name, task.state)

    def terminated(self, task):
        self._report(task, "TERMINATED: task %d (%s)", task.id, task.name)


class traptrace(DebugBase):
    """Reports what each task asks the kernel for."""

    def suspended(self, task, trap):
        if trap[0] != "trap_exit":
            self._report(task, "TRAP: task %d (%s), %r", task.id, task.name, trap)


class logcrash(DebugBase):
    """Reports tasks that crash, the main one too, with their tracebacks.

    It stands in for the kernel's own report.
    """

    _level = logging.ERROR

    def _reports_crash(self, task):
        return self.check_filter(task)

    def terminated(self, task):
        exception = task.exception
        if exception is not None and not isinstance(exception, CancelledError):
            self._report(
                task, "Curio: Task Crash: task %d (%s)", task.id, task.name, exc_info=exception
            )


class longblock(DebugBase):
    """Reports a task that keeps the processor for more than `max_time` seconds.

    It does so while the task has it, with the line that it is in, as far as the
    interpreter's lock allows, and says afterwards how long it was.
    """

    _level = logging.WARNING

    def __init__(self, *, max_time=0.05, **options):
        super().__init__(**options)
        self.max_time = max_time
        # The task that has the processor, since when, and in which cycle; one tuple, so that the
        # watching thread sees it whole.
        self._turn = None
        self._reported = None
        self._thread = None

    def activate(self, kernel):
        if self._thread is None:
            self._thread = threading.Thread(
                target=_watch, args=(weakref.ref(self),), name="curio-longblock", daemon=True
            )
            self._thread.start()

    def running(self, task):
        self._turn = (task, time.monotonic(), task.cycles)

    def suspended(self, task, trap):
        turn, self._turn = self._turn, None
        if turn is None:
            return
        taken = time.monotonic() - turn[1]
        if taken > self.max_time:
            self._report(
                task, "task %d (%s) has kept the processor for %.3f s", task.id, task.name, taken
            )

    def _look(self):
        turn = self._turn
        if turn is None:
            return
        task, since, cycles = turn
        if (task.id, cycles) == self._reported:
            return
        taken = time.monotonic() - since
        if taken > self.max_time:
            stack = task.traceback()
            if self._turn is turn and task.cycles == cycles:
                self._reported = (task.id, cycles)
                message = "task %d (%s) is keeping the processor, for %.3f s now:\n%s"
                self._report(task, message, task.id, task.name, taken, stack)


def _watch(longblock):
    # Ends with the debugger, which ends with its kernel.
    while (debugger := longblock()) is not None:
        debugger._look()
        pause = debugger.max_time / 2
        del debugger
        time.sleep(pause)


def locker(first, second):
    """Spawn a task, written in Rust, that takes the `first` lock, and a moment later the `second`.

    It releases them again. For trying out what the monitor says of two tasks that take two
    locks in different orders.
    """
    from ._curio import spawn_locker

    spawn_locker(first, second)


def _create(debug):
    """The debuggers that a kernel's `debug` argument asks for."""
    if debug is None or debug is False:
        return []
    if debug is True:
        debug = [logcrash, longblock]
    elif not isinstance(debug, (list, tuple)):
        debug = [debug]
    return [debugger() if isinstance(debugger, type) else debugger for debugger in debug]


def _post_mortem(task, exception, reported):
    """Look at a crashed task's frames until the user leaves the debugger."""
    import bdb
    import pdb
    import traceback

    if not reported:
        text = "".join(traceback.format_exception_only(exception)).rstrip()
        print(f"Task {task.id} ({task.name}) has crashed: {text}")
    found = exception.__traceback__
    while found is None and exception is not None:
        # The frames are with what it was made of, if they are anywhere.
        exception = exception.__cause__ or exception.__context__
        found = exception and exception.__traceback__
    if found is None:
        return
    try:
        pdb.post_mortem(found)
    except (bdb.BdbQuit, pdb.Restart):
        pass
