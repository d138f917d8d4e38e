"""Tasks: making them, waiting for them, cancelling them."""

__all__ = [
    "ContextTask",
    "Task",
    "check_cancellation",
    "current_task",
    "disable_cancellation",
    "get_all_tasks",
    "set_cancellation",
    "spawn",
]

from . import _curio, _stack
from ._curio import get_all_tasks, operation
from .errors import TaskCancelled


class Task(_curio.TaskBase):
    """A coroutine that a kernel runs, and the way to its result.

    Tasks are made by `spawn` and `Kernel.run`. Their attributes may be read at any time,
    from any thread.
    """

    __slots__ = ("__weakref__",)

    def __str__(self):
        filename, lineno = self.where()
        return repr(self) if filename is None else f"{self!r} at {filename}:{lineno}"

    @operation
    async def join(self):
        """Wait until the task has ended and return its result.

        Raises TaskError, with the task's own exception as the `__cause__`, if it has failed
        or was cancelled; CurioError if the task joins itself. It may be joined any number of
        times.

        Cancellation: the other task runs on; only the waiting is given up.
        """

    @operation
    async def wait(self):
        """Wait until the task has ended, however it does.

        Raises CurioError if the task waits for itself.

        Cancellation: the other task runs on; only the waiting is given up.
        """

    @operation
    async def cancel(self, *, exc=TaskCancelled, blocking=True):
        """Ask the task to end and wait until it has. Return False if it had ended already.

        The task sees TaskCancelled at the operation where it is blocked, or at its next
        one; its timeouts are dropped. It may handle it, and await further things to
        clean up. It is asked once: a second cancel only waits.

        `exc`: an exception, or its class, to raise in the task instead. `blocking=False`: do
        not wait. Raises CurioError if the task waits for its own end.

        Cancellation: the request stands; only the waiting is given up.
        """

    @operation
    async def cancel_children(self, *, exc=TaskCancelled):
        """Cancel the task's active children, all at once, and wait until they have ended.

        The task itself is not touched. `exc` is as in `cancel`.

        Cancellation: the requests stand; only the waiting is given up.
        """

    def where(self):
        """File name and line number of the user's code that it is in, or (None, None)."""
        return _stack.where(self)

    def traceback(self):
        """Where it is, call by call, as a text like that of a traceback."""
        return _stack.format(self)


# Every task has its own copy of its creator's context variables.
ContextTask = Task

_curio.set_task_class(Task)


async def _close(generator):
    """What becomes of an async generator that is dropped in the middle."""
    await generator.aclose()


@operation
async def spawn(corofunc, *args, daemon=False):
    """Make a new task and return it.

    `corofunc` is a coroutine, or a coroutine function that is called with `args`. The task of
    a coroutine has run up to its first blocking operation when spawn returns; that of
    a coroutine function runs when its turn comes. `daemon=True`: `run` does not wait for
    the task, and it is nobody's active child.

    Raises TypeError if `corofunc` is no coroutine.

    Cancellation: spawn is no cancellation point; the task that was made is returned::

        async def child(n):
            await curio.sleep(0.01)
            return n * n

        async def main():
            task = await curio.spawn(child, 7)
            print(await task.join())

        curio.run(main)
    """


@operation
async def current_task():
    """The task that is running. Does not block."""


@operation
def disable_cancellation(corofunc=None, *args):
    """Hold cancellations and timeouts back, for a coroutine or a block.

    They stay pending and come at the first blocking operation after it. It nests::

        async def main():
            async with curio.disable_cancellation():
                await curio.sleep(0.01)     # is not cut short
            await curio.disable_cancellation(curio.sleep, 0.01)

        curio.run(main)
    """


@operation
async def check_cancellation(exc_type=None):
    """Raise the pending cancellation, if it may arrive here; else return it, or None.

    Inside of `disable_cancellation` it is returned, and stays pending. With `exc_type`, only
    a cancellation of that type counts, and one that is returned is not pending any more.
    """


@operation
async def set_cancellation(exc):
    """Make `exc` the pending cancellation, None for none; return the former one.

    It is raised at the next blocking operation.
    """
