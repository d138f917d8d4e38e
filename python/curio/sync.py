"""Synchronization: events, locks, semaphores, conditions, results.

They work as those of `threading` do, with `await`. Tasks are served in the order in which
they came, and what is released goes directly to the first in line. A task that is
cancelled or timed out while it waits leaves no trace; what it was being handed goes to
the next. All of them may be made before a kernel runs, at module level.
"""

__all__ = [
    "BoundedSemaphore",
    "Condition",
    "Event",
    "Lock",
    "RLock",
    "Result",
    "Semaphore",
    "Statistics",
    "UniversalEvent",
    "UniversalResult",
]

from . import _curio
from ._curio import operation
from ._plain import enter, leave


class Statistics(tuple):
    """Figures of a primitive at one moment, as a tuple with names.

    `owner`: the number of the task that holds it, or None. `waiting`: how many tasks wait for
    it. `level`: items in a queue, permits that are left, 1 for an event that is set.
    `highest`: the highest level so far. `capacity`: the most items a queue takes, or permits a
    bounded semaphore has, 0 for no limit.
    """

    # By hand: collections.namedtuple would be a tenth of what `import curio` costs.
    __slots__ = ()
    _fields = ("owner", "waiting", "level", "highest", "capacity")
    owner = property(lambda self: self[0])
    waiting = property(lambda self: self[1])
    level = property(lambda self: self[2])
    highest = property(lambda self: self[3])
    capacity = property(lambda self: self[4])

    def __repr__(self):
        fields = zip(self._fields, self, strict=True)
        return f"Statistics({', '.join(f'{name}={value!r}' for name, value in fields)})"


class _Primitive:
    __slots__ = ()

    def statistics(self):
        """Its figures at this moment: owner, waiting, level, highest, capacity."""
        return Statistics(self._figures())

    def _describe(self, what):
        waiting = self.statistics().waiting
        suffix = f", {waiting} waiting" if waiting else ""
        return f"<curio.{type(self).__name__} {self._id} [{what}{suffix}]>"


class _ContextManager(_Primitive):
    __slots__ = ()

    def __enter__(self):
        return enter(self, f"a {type(self).__name__}")

    def __exit__(self, *exception):
        return leave(self, f"a {type(self).__name__}", exception)

    def __repr__(self):
        if not self.locked():
            return self._describe("unlocked")
        owner = self.statistics().owner
        return self._describe("locked" if owner is None else f"locked by task {owner}")


class Event(_Primitive, _curio.EventBase):
    """Something that happens once, until it is cleared: tasks wait for it.

    ::

        start = curio.Event()

        async def kid():
            await start.wait()
            print('playing')

        async def main():
            task = await curio.spawn(kid)
            await start.set()
            await task.join()

        curio.run(main)
    """

    __slots__ = ("__weakref__",)

    @operation
    async def wait(self):
        """Wait until the event is set; return True. Does not block if it is.

        Cancellation: nothing is lost.
        """

    @operation
    async def set(self):
        """Set the event. All tasks that wait for it run before this returns.

        Cancellation: it is no cancellation point.
        """

    def __repr__(self):
        return self._describe("set" if self.is_set() else "unset")


class Lock(_ContextManager, _curio.LockBase):
    """A lock: one task at a time has it.

    `async with lock:` holds it for a block. Nobody is kept from releasing what another task
    has acquired; see `RLock` for that::

        lock = curio.Lock()
        savings = 0

        async def save(amount):
            global savings
            async with lock:
                before = savings
                await curio.sleep(0.01)
                savings = before + amount

        async def main():
            task = await curio.spawn(save, 1)
            await save(2)
            await task.join()
            print(savings)

        curio.run(main)
    """

    __slots__ = ("__weakref__",)

    @operation
    async def acquire(self):
        """Wait until the lock is free, and take it; return True.

        Cancellation: the lock is not taken.
        """

    @operation
    async def release(self):
        """Release the lock: the first task in line has it.

        Raises RuntimeError, which is an AssertionError as well, if nobody holds it.

        Cancellation: it is no cancellation point.
        """

    @operation
    async def __aenter__(self):
        """Wait until the lock is free, and take it; return the lock."""

    @operation
    async def __aexit__(self, exc_type, exc, traceback):
        """Release the lock."""


class RLock(_ContextManager, _curio.RLockBase):
    """A lock that its owner may take again, and must release as often.

    ::

        lock = curio.RLock()

        async def main():
            async with lock:
                async with lock:
                    print(lock.locked())
            print(lock.locked())

        curio.run(main)
    """

    __slots__ = ("__weakref__",)

    @operation
    async def acquire(self):
        """Wait until the lock is free, or the task's own, and take it; return True.

        Cancellation: the lock is not taken.
        """

    @operation
    async def release(self):
        """Release the lock once; the last time, the first task in line has it.

        Raises RuntimeError if the task does not hold it, and says who does.

        Cancellation: it is no cancellation point.
        """

    @operation
    async def __aenter__(self):
        """Wait until the lock is free, or the task's own, and take it; return the lock."""

    @operation
    async def __aexit__(self, exc_type, exc, traceback):
        """Release the lock once."""


class Semaphore(_ContextManager, _curio.SemaphoreBase):
    """A number of permits, which tasks take and give back.

    `value` is the number to start with, and then the number that can be had at once::

        seats = curio.Semaphore(2)

        async def visit(n):
            async with seats:
                await curio.sleep(0.01)
                print(n, 'has left')

        async def main():
            visits = [await curio.spawn(visit, n) for n in range(4)]
            for visit_task in visits:
                await visit_task.join()

        curio.run(main)
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, value=1):
        return super().__new__(cls, value, False)

    @operation
    async def acquire(self):
        """Wait for a permit, and take it; return True.

        Cancellation: no permit is taken.
        """

    @operation
    async def release(self):
        """Give a permit back: the first task in line has it.

        Raises ValueError if a BoundedSemaphore has all its permits.

        Cancellation: it is no cancellation point.
        """

    @operation
    async def __aenter__(self):
        """Wait for a permit, and take it; return the semaphore."""

    @operation
    async def __aexit__(self, exc_type, exc, traceback):
        """Give the permit back."""

    def __repr__(self):
        return self._describe(f"value: {self.value}")


class BoundedSemaphore(Semaphore):
    """A semaphore that never has more permits than it starts with.

    A `release` too many raises ValueError. `bound` is the number of permits.
    """

    __slots__ = ()

    def __new__(cls, value=1):
        return _curio.SemaphoreBase.__new__(cls, value, True)

    bound = property(lambda self: self._bound, doc="Number of permits that it starts with.")


class Condition(_ContextManager, _curio.ConditionBase):
    """A way to wait, with a lock released, until another task says that something has changed.

    `lock` is a Lock or an RLock; a new Lock if there is none. `async with` holds it for a block::

        items, changed = [], curio.Condition()

        async def consumer():
            async with changed:
                await changed.wait_for(lambda: items)
                print('got', items.pop())

        async def main():
            task = await curio.spawn(consumer)
            async with changed:
                items.append(42)
                await changed.notify()
            await task.join()

        curio.run(main)
    """

    __slots__ = ("__weakref__", "_lock")

    def __new__(cls, lock=None):
        if lock is None:
            lock = Lock()
        self = super().__new__(cls, lock)
        self._lock = lock
        return self

    def locked(self):
        """Whether some task holds the lock."""
        return self._lock.locked()

    async def acquire(self):
        """Wait until the lock is free, and take it; return True.

        Cancellation: the lock is not taken.
        """
        return await self._lock.acquire()

    async def release(self):
        """Release the lock.

        Raises RuntimeError if it is not held.

        Cancellation: it is no cancellation point.
        """
        await self._lock.release()

    async def __aenter__(self):
        """Wait until the lock is free, and take it; return the condition."""
        await self._lock.acquire()
        return self

    async def __aexit__(self, *exception):
        """Release the lock."""
        await self._lock.release()

    @operation
    async def wait(self):
        """Release the lock, wait to be notified, take the lock again; return True.

        Raises RuntimeError if the lock is not held.

        Cancellation: the lock is taken again before the exception comes; a notification goes
        to another task.
        """

    async def wait_for(self, predicate):
        """Wait until `predicate()` is true, and return its value.

        It is called with the lock held. If it raises, the lock is held still.

        Cancellation: as for `wait`.
        """
        while not (value := predicate()):
            await self.wait()
        return value

    @operation
    async def notify(self, n=1):
        """Wake the `n` tasks that have waited longest. If fewer wait, that is fine.

        Raises RuntimeError if the lock is not held.

        Cancellation: it is no cancellation point.
        """

    @operation
    async def notify_all(self):
        """Wake every task that waits.

        Raises RuntimeError if the lock is not held.

        Cancellation: it is no cancellation point.
        """


class Result:
    """A value, or an exception, that one task sets and others wait for.

    ::

        async def main():
            result = curio.Result()

            async def work():
                await result.set_value(42)

            await curio.spawn(work)
            print(await result.unwrap())

        curio.run(main)
    """

    __slots__ = ("_event", "_exception", "_traceback", "_value", "__weakref__")
    __class_getitem__ = classmethod(type(list[int]))

    def __init__(self):
        self._event = Event(_of_result=True)
        self._value = self._exception = self._traceback = None

    def is_set(self):
        """Whether there is a value or an exception."""
        return self._event.is_set()

    async def set_value(self, value):
        """Set the value; the tasks that wait get it.

        Cancellation: it is no cancellation point.
        """
        self._value, self._exception = value, None
        await self._event.set()

    async def set_exception(self, exception):
        """Set an exception, or an exception's class; the tasks that wait raise it.

        Raises TypeError if it is neither.

        Cancellation: it is no cancellation point.
        """
        if isinstance(exception, type) and issubclass(exception, BaseException):
            exception = exception()
        if not isinstance(exception, BaseException):
            raise TypeError(f"a result's exception must be an exception, not {exception!r}")
        self._exception, self._traceback = exception, exception.__traceback__
        await self._event.set()

    async def unwrap(self):
        """Wait for the value and return it, or raise the exception.

        Cancellation: nothing is lost.
        """
        await self._event.wait()
        if self._exception is not None:
            # Raising adds to the traceback, and would keep the locals of all who have unwrapped.
            raise self._exception.with_traceback(self._traceback)
        return self._value

    def __repr__(self):
        if not self.is_set():
            state = "unset"
        elif self._exception is not None:
            state = f"exception: {self._exception!r}"
        else:
            state = f"value: {self._value!r}"
        return f"<curio.{type(self).__name__} [{state}]>"


class UniversalEvent(_Primitive, _curio.UniversalEventBase):
    """An event for tasks of any kernel, for threads, and for asyncio.

    In a task, and in a coroutine of asyncio's, `wait` and `set` are awaited. In a thread without
    a kernel or a running loop they are called, and `wait` blocks the thread. All who wait
    stand in one line::

        import threading

        ready = curio.UniversalEvent()

        def thread():
            ready.wait()
            print('go')

        async def main():
            await ready.set()

        worker = threading.Thread(target=thread)
        worker.start()
        curio.run(main)
        worker.join()

    A forked child has a copy of it, of no use for talking to its parent.
    """

    __slots__ = ("__weakref__",)

    @operation
    def wait(self):
        """Wait until the event is set; return True. Does not block if it is.

        Cancellation, and whatever else ends the waiting: nothing is lost.
        """

    @operation
    def set(self):
        """Set the event: all who wait go on. To set it again is fine.

        Cancellation: it is no cancellation point.
        """

    def __repr__(self):
        return self._describe("set" if self.is_set() else "unset")


class UniversalResult:
    """A value, or an exception, that one sets and others wait for, wherever they are.

    Tasks and coroutines of asyncio's await its methods, threads call them; see `UniversalEvent`::

        import threading

        result = curio.UniversalResult()

        async def main():
            print(await result.unwrap())

        threading.Thread(target=result.set_value, args=[42]).start()
        curio.run(main)
    """

    __slots__ = ("_event", "_exception", "_traceback", "_value", "__weakref__")
    __class_getitem__ = classmethod(type(list[int]))

    def __init__(self):
        self._event = UniversalEvent(_of_result=True)
        self._value = self._exception = self._traceback = None

    def is_set(self):
        """Whether there is a value or an exception."""
        return self._event.is_set()

    def set_value(self, value):
        """Set the value; all who wait get it.

        Cancellation: it is no cancellation point.
        """
        self._value, self._exception, self._traceback = value, None, None
        return self._event.set()

    def set_exception(self, exception):
        """Set an exception, or an exception's class; all who wait raise it.

        Raises TypeError if it is neither.

        Cancellation: it is no cancellation point.
        """
        if isinstance(exception, type) and issubclass(exception, BaseException):
            exception = exception()
        if not isinstance(exception, BaseException):
            raise TypeError(f"a result's exception must be an exception, not {exception!r}")
        self._exception, self._traceback = exception, exception.__traceback__
        return self._event.set()

    def unwrap(self):
        """Wait for the value and return it, or raise the exception.

        Cancellation, and whatever else ends the waiting: nothing is lost.
        """
        if _curio.caller() != "thread":
            return self._unwrap()
        self._event.wait()
        return self._outcome()

    async def _unwrap(self):
        await self._event.wait()
        return self._outcome()

    def _outcome(self):
        if self._exception is not None:
            # Raising adds to the traceback, and would keep the locals of all who have unwrapped.
            raise self._exception.with_traceback(self._traceback)
        return self._value

    __repr__ = Result.__repr__
