"""Queues: items from task to task."""

__all__ = ["LifoQueue", "PriorityQueue", "Queue", "UniversalQueue"]

from . import _curio
from ._curio import operation
from .sync import _Primitive


class Queue(_Primitive, _curio.QueueBase):
    """Queue(maxsize=0)

    Items in the order in which they were put. `maxsize` is the most it takes at a time, 0 for
    no limit. Tasks that wait are served in the order in which they came; one that need not wait,
    because there is enough, may be ahead of one that was woken and has not run yet::

        async def consumer(queue):
            while True:
                item = await queue.get()
                print('Consumer got', item)
                await queue.task_done()

        async def main():
            queue = curio.Queue()
            task = await curio.spawn(consumer, queue)
            for n in range(3):
                await queue.put(n)
            await queue.join()
            await task.cancel()

        curio.run(main)
    """

    __slots__ = ("__weakref__",)
    __class_getitem__ = classmethod(type(list[int]))
    _order = "oldest"

    def __new__(cls, maxsize=0):
        return super().__new__(cls, maxsize, cls._order)

    @operation
    async def put(self, item):
        """Put an item; wait for room if the queue is full.

        Cancellation: the item was not put.
        """

    @operation
    async def get(self):
        """Wait for an item, and return it.

        Cancellation: no item is lost.
        """

    @operation
    async def join(self):
        """Wait until each item that was put has had its `task_done`.

        Cancellation: nothing is lost.
        """

    @operation
    async def task_done(self):
        """Say that the work on one item is done.

        Raises ValueError if there are more calls than items.

        Cancellation: it is no cancellation point.
        """

    def __repr__(self):
        limit = f" of {self.maxsize}" if self.maxsize else ""
        return self._describe(f"{self.qsize()}{limit} items")


class PriorityQueue(Queue):
    """PriorityQueue(maxsize=0)

    The smallest item first; otherwise as `Queue`. Items are compared with `<`. If that raises,
    `put` or `get` raises it, and nothing has changed.
    """

    __slots__ = ()
    _order = "smallest"


class LifoQueue(Queue):
    """LifoQueue(maxsize=0)

    The newest item first; otherwise as `Queue`.
    """

    __slots__ = ()
    _order = "newest"


class UniversalQueue(_Primitive, _curio.UniversalQueueBase):
    """UniversalQueue(maxsize=0, withfd=False)

    A queue between tasks of any kernel, threads, and asyncio. `maxsize` is the most it takes at
    a time, 0 for no limit.

    In a task, and in a coroutine of asyncio's, its operations are awaited: `await queue.get()`.
    In a thread without a kernel or a running loop they are called, and block the thread:
    `queue.get()`. All who wait are served in the order in which they came. Whoever stops waiting
    (a cancelled task, Ctrl-C in the main thread) leaves the line, and an item that was meant for
    him goes to the next::

        import threading

        def thread(queue):
            for n in range(3):
                queue.put(n)

        async def main():
            queue = curio.UniversalQueue()
            threading.Thread(target=thread, args=[queue]).start()
            for _ in range(3):
                print(await queue.get())

        curio.run(main)

    With `withfd`, `fileno()` is a descriptor for `select` and the like. A forked child has a copy
    of the queue with the parent's waiters in line: it should make a queue of its own.
    """

    __slots__ = ("__weakref__",)
    __class_getitem__ = classmethod(type(list[int]))

    def __new__(cls, maxsize=0, withfd=False):
        return super().__new__(cls, maxsize, withfd)

    @operation
    def put(self, item):
        """Put an item; wait for room if the queue is full.

        Cancellation: the item was not put.
        """

    @operation
    def get(self):
        """Wait for an item, and return it.

        Cancellation, and whatever else ends the waiting: no item is lost.
        """

    @operation
    def join(self):
        """Wait until each item that was put has had its `task_done`.

        Cancellation: nothing is lost.
        """

    @operation
    def task_done(self):
        """Say that the work on one item is done.

        Raises ValueError if there are more calls than items.

        Cancellation: it is no cancellation point.
        """

    def __repr__(self):
        limit = f" of {self.maxsize}" if self.maxsize else ""
        return self._describe(f"{self.qsize()}{limit} items")
