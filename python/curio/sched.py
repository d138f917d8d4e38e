"""What primitives of one's own are made of: lines of suspended tasks.

A primitive decides when a task has to wait, and when who goes on. The waiting itself is done here:
the task is seen by the monitor, can be cancelled and timed out, and leaves the line then::

    class Turnstile:
        def __init__(self):
            self._coins = 0
            self._waiting = curio.sched.SchedFIFO()

        async def insert(self):
            if len(self._waiting):
                await self._waiting.wake()
            else:
                self._coins += 1

        async def enter(self):
            if self._coins:
                self._coins -= 1
            else:
                await self._waiting.suspend('TURNSTILE')

    async def main():
        turnstile = Turnstile()
        visitor = await curio.spawn(turnstile.enter)
        await curio.sleep(0)
        print(visitor.state)
        await turnstile.insert()
        await visitor.join()

    curio.run(main)
"""

__all__ = ["SchedBarrier", "SchedBase", "SchedFIFO"]

from . import _curio
from .sync import Statistics
from .traps import _scheduler_wait, _scheduler_wake


class SchedBase:
    """Base of lines of tasks in an order of one's own.

    A subclass writes two methods, which neither await nor wake, and `__len__`::

        class Stack(curio.sched.SchedBase):
            def __init__(self):
                self._tasks = []

            def __len__(self):
                return len(self._tasks)

            def _kernel_suspend(self, task):
                self._tasks.append(task)
                return lambda: self._tasks.remove(task)

            def _kernel_wake(self, ntasks):
                return [self._tasks.pop() for _ in range(min(ntasks, len(self)))]

        async def main():
            stack = Stack()
            tasks = [await curio.spawn(stack.suspend()) for _ in range(3)]
            await stack.wake()
            await tasks[-1].join()
            print(len(stack))

        curio.run(main)
    """

    __slots__ = ()

    def __len__(self):
        """How many tasks are suspended here."""
        raise NotImplementedError(f"{type(self).__name__} has no __len__()")

    async def suspend(self, reason="SUSPEND"):
        """Suspend the calling task until it is woken. `reason` is the state that `ps` shows.

        Cancellation: the task leaves the line. If it was woken before it has seen the cancellation,
        it goes on, and the cancellation comes at the next blocking operation.
        """
        await _scheduler_wait(self, reason)

    async def wake(self, n=1):
        """Wake `n` tasks, or as many as there are. They run when their turn comes.

        Cancellation: it is no cancellation point.
        """
        await _scheduler_wake(self, n)

    def _kernel_suspend(self, task):
        """Take a task in; return a function that takes it out again, should it be cancelled."""
        raise NotImplementedError(f"{type(self).__name__} has no _kernel_suspend()")

    def _kernel_wake(self, ntasks):
        """Take up to `ntasks` tasks out, and return them: they are woken."""
        raise NotImplementedError(f"{type(self).__name__} has no _kernel_wake()")


class _Native(SchedBase, _curio.SchedLine):
    __slots__ = ()

    __len__ = _curio.SchedLine.__len__

    def statistics(self):
        """Its figures at this moment; only `waiting` means something."""
        return Statistics(self._figures())

    def __repr__(self):
        return f"<curio.sched.{type(self).__name__} {self._id} [{len(self)} waiting]>"


class SchedFIFO(_Native):
    """A line of tasks: `wake` wakes those that came first."""

    __slots__ = ("__weakref__",)

    def __new__(cls):
        return super().__new__(cls, False)


class SchedBarrier(_Native):
    """Tasks that are woken together: `wake` wakes all of them, whatever its argument says."""

    __slots__ = ("__weakref__",)

    def __new__(cls):
        return super().__new__(cls, True)
