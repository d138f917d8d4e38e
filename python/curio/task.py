"""Tasks: making them, waiting for them, cancelling them."""

__all__ = [
    "ContextTask",
    "Task",
    "TaskGroup",
    "check_cancellation",
    "current_task",
    "disable_cancellation",
    "enable_cancellation",
    "gather",
    "get_all_tasks",
    "set_cancellation",
    "spawn",
]

from . import _curio, _stack
from ._curio import get_all_tasks, operation
from ._plain import each, enter, leave
from .errors import TaskCancelled
from .sync import _Primitive


class Task(_curio.TaskBase):
    """A coroutine that a kernel runs, and the way to its result.

    Tasks are made by `spawn` and `Kernel.run`. Their attributes may be read at any time,
    from any thread.
    """

    __slots__ = ("__weakref__",)
    __class_getitem__ = classmethod(type(list[int]))

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

    @operation
    async def interrupt(self):
        """End what the task is blocked in, or its next such operation, with TaskInterrupted.

        The task is not asked to end, and its timeouts stay: it may handle the exception and go on,
        and can be cancelled or interrupted again. Return False if it has ended, or is about to be
        interrupted anyway. Does not block.
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


class TaskGroup(_Primitive, _curio.TaskGroupBase):
    """TaskGroup(tasks=(), *, wait=all)

    Tasks that end together. Leaving the block waits for them, and when it is left none of them
    runs any more, whatever has happened::

        async def square(n):
            await curio.sleep(0.01)
            return n * n

        async def main():
            async with curio.TaskGroup() as group:
                for n in range(3):
                    await group.spawn(square, n)
            print(group.results)

        curio.run(main)

    `wait` says which end is waited for: `all` tasks (or until one fails), `any` of them, an
    `object`, which is the first result that is not None (or until one fails), or None: nobody's.
    The others are cancelled then. A task has failed if it has ended with an exception, a
    cancellation too. `completed` is the first task that has ended as `wait` says (with `all`, the
    first of all); its end is `result` and `exception`.

    An exception in the block cancels the tasks, waits for them, and goes on. The exceptions of
    tasks are reported as those of all tasks are, and are in `exceptions`; none is raised here.

    `tasks` are taken in. Raises ValueError if `wait` is something else, AssertionError if a task
    belongs to another group.
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, tasks=(), *, wait=all):
        self = super().__new__(cls, wait)
        self._start_with(tasks)
        return self

    @operation
    async def spawn(self, corofunc, *args, daemon=False):
        """Make a new task in the group and return it, as `curio.spawn` does.

        The group does not wait for a daemon and knows nothing of its result; at the end it is
        cancelled like the others. Raises RuntimeError if the group was joined, TypeError if
        `corofunc` is no coroutine.

        Cancellation: it is no cancellation point.
        """

    async def spawn_thread(self, func, *args, daemon=False):
        """Run `func(*args)` in an async thread that belongs to the group; return its task.

        The task's result is the thread's. Raises RuntimeError if the group was joined, TypeError
        if `func` is a coroutine function: `spawn` is for that.

        Cancellation: it is no cancellation point.
        """
        from .thread import spawn_thread

        self._ensure_open()
        thread = await spawn_thread(func, *args, daemon=daemon)
        await self.add_task(thread)
        return thread

    @operation
    async def add_task(self, task):
        """Take a task in that runs already, or has ended.

        Raises RuntimeError if it belongs to a group, or this one was joined.

        Cancellation: it is no cancellation point.
        """

    @operation
    async def next_done(self):
        """Wait for the next task that ends, take it out of the group and return it.

        None if no task is left. Daemons do not count.

        Cancellation: no task is taken out, and none is cancelled.
        """

    async def next_result(self):
        """Wait for the next task that ends, take it out, and return its result.

        Raises its exception, as it is; RuntimeError if no task is left.

        Cancellation: no result is lost, and no task is cancelled.
        """
        task = await self.next_done()
        if task is None:
            raise RuntimeError("no task is left in the group")
        return task.result

    @operation
    async def join(self):
        """Wait as `wait` says; cancel the tasks that are left, and wait until they have ended.

        Exceptions of tasks are not raised. Afterwards the group takes no more tasks. Raises
        CurioError if a task of the group joins it.

        Cancellation: all tasks are cancelled, and waited for; then it is raised. What comes
        while tasks are being ended waits for the next blocking operation.
        """

    @operation
    async def cancel_remaining(self):
        """Cancel the tasks that have not ended, all at once, wait until they have, and take them
        out of the group.

        Raises CurioError if a task of the group asks for it.

        Cancellation: the requests stand; only the waiting is given up.
        """

    async def __aenter__(self):
        """Return the group."""
        return self

    @operation
    async def __aexit__(self, exc_type, exc, traceback):
        """Join the group; after an exception, cancel its tasks and wait until they have ended."""

    def __aiter__(self):
        """Take the tasks out of the group as they end."""
        return self

    async def __anext__(self):
        """The next task that ends."""
        task = await self.next_done()
        if task is None:
            raise StopAsyncIteration
        return task

    def _check_joined(self):
        if not self._joined:
            raise RuntimeError("the task group has not been joined, so there are no results")

    @property
    def result(self):
        """Result of `completed`, or its exception, raised.

        RuntimeError before the group was joined, and if there is no such task.
        """
        self._check_joined()
        if self.completed is None:
            raise RuntimeError("no task has ended the waiting, so there is no result")
        return self.completed.result

    @property
    def exception(self):
        """Exception of `completed`, or None. RuntimeError before the group was joined."""
        self._check_joined()
        return None if self.completed is None else self.completed.exception

    @property
    def results(self):
        """Results of the tasks in the group, by id. The first exception of any is raised.

        Tasks that were taken out or joined by themselves are not among them, nor are daemons.
        RuntimeError before the group was joined.
        """
        self._check_joined()
        return [task.result for task in self.tasks]

    @property
    def exceptions(self):
        """Exception of each task in the group, or None, by id. RuntimeError before the join."""
        self._check_joined()
        return [task.exception for task in self.tasks]

    def __enter__(self):
        return enter(self, "a TaskGroup")

    def __exit__(self, *exception):
        return leave(self, "a TaskGroup", exception)

    def __iter__(self):
        return each(self, "the tasks of a TaskGroup")

    def __repr__(self):
        state = "joined" if self._joined else f"{self.statistics().level} running"
        return self._describe(state)


async def gather(tasks, *, return_exceptions=False):
    """Wait for all tasks, and return their results in the order of `tasks`.

    If one fails, the others are cancelled and waited for, and TaskError is raised with its
    exception as the `__cause__`. With `return_exceptions=True`, all are waited for, and an
    exception takes its result's place. Raises AssertionError if a task belongs to a group::

        async def main():
            tasks = [await curio.spawn(curio.sleep, n / 100) for n in range(3)]
            print(len(await curio.gather(tasks)))

        curio.run(main)

    Cancellation: all tasks are cancelled, and waited for.
    """
    tasks = list(tasks)
    group = TaskGroup(dict.fromkeys(tasks))
    async with group:
        if return_exceptions:
            async for _ in group:
                pass
    if return_exceptions:
        return [task.result if task.exception is None else task.exception for task in tasks]
    failed = group._failed
    if failed is not None:
        await failed.join()
    return [task.result for task in tasks]


async def _call(corofunc, args, kwargs):
    """Calls a function as a coroutine does, which makes a difference to some; see `curio.meta`."""
    return corofunc(*args, **kwargs)


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
def enable_cancellation(corofunc=None, *args):
    """Let cancellations and timeouts in again, inside of `disable_cancellation`.

    For a coroutine, whose result is the result, or a block. A cancellation that ends it is
    pending again behind it, and the result is None. Raises RuntimeError outside of
    `disable_cancellation`::

        async def main():
            async with curio.ignore_after(0.01):
                async with curio.disable_cancellation():
                    await curio.enable_cancellation(curio.sleep, 1000)
                    print('cut short, but not lost')
                await curio.sleep(1000)

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
