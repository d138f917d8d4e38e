"""Threads for work outside of the kernel's thread.

Loaded when there is some: `threading` is a good part of what importing costs.
"""

import os
import queue
import threading
from collections import deque
from contextvars import copy_context
from functools import partial

from . import workers
from ._curio import Seen, name_thread
from .errors import CancelledError
from .sync import Semaphore
from .task import spawn
from .thread import Completion, is_coroutine_function, name_of

#: How long, in seconds, a thread without work is kept.
_IDLE = 10.0


_current = threading.local()


def is_abandoned():
    call = getattr(_current, "call", None)
    return call is not None and call.abandoned


class _Call:
    """A call, on its way through a pool."""

    __slots__ = ("abandoned", "completion", "ended", "name", "on_cancel", "outcome", "work")

    def __init__(self, name, work, on_cancel):
        self.name, self.work, self.on_cancel = name, work, on_cancel
        self.completion = Completion()
        # Of the two, what comes first under the pool's lock counts.
        self.abandoned = self.ended = False
        self.outcome = None

    def run(self, lock):
        """In the thread."""
        result = error = None
        _current.call = self
        try:
            result = self.work()
        except BaseException as exception:
            error = exception
        _current.call = None
        with lock:
            self.ended = True
            abandoned = self.abandoned
            if self.on_cancel is not None:
                self.outcome = result, error
        if not abandoned:
            self.completion.give((result, error))
        elif self.on_cancel is not None:
            self.tell()
        # A thread that waits for more keeps nothing of this; nor is the error part of a cycle.
        self.work = self.completion = result = error = None

    def tell(self):
        """Hand the outcome to who wants it although the task does not."""
        from concurrent.futures import Future

        future = Future()
        (result, error), self.outcome = self.outcome, None
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
        try:
            self.on_cancel(future)
        except BaseException:
            import logging

            logging.getLogger("curio.workers").exception("call_on_cancel has failed")


class _Pool:
    """Threads that are started as they are needed, up to a limit. Calls are served in order.

    A thread whose call was abandoned runs on to the end of it, and ends then; its place is free
    at once.
    """

    def __init__(self, limit, name):
        self._limit, self._name = limit, name
        self._reset()

    def _reset(self):
        self._lock = threading.Lock()
        self._places = 0  # threads whose calls somebody waits for, or that are idle
        self._idle = 0  # threads that wait for a call, and have been promised none
        self._promised = queue.SimpleQueue()
        self._waiting = deque()
        self._started = 0

    async def run(self, callable, args, kwargs, on_cancel=None):
        refuse_coroutine_function(callable)
        context = copy_context()
        work = partial(context.run, callable, *args, **kwargs)
        call = _Call(name_of(callable), work, on_cancel)
        completion = call.completion
        self._submit(call)
        try:
            result, error = await completion.wait()
        except CancelledError:
            self._abandon(call)
            raise
        if error is None:
            return result
        try:
            raise error
        finally:
            error = None  # which has this frame in its traceback

    def _submit(self, call):
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._promised.put(call)
            elif self._places < self._limit():
                self._places += 1
                self._start(call)
            else:
                self._waiting.append(call)

    def _start(self, call):
        self._started += 1
        # A thread that nobody joins: the interpreter's end does not wait for it.
        name = f"{self._name}-{self._started}"
        try:
            # In a list, for a thread keeps its arguments.
            threading.Thread(target=self._serve, args=([call],), name=name, daemon=True).start()
        except BaseException:
            self._places -= 1
            raise

    def _serve(self, calls):
        call = calls.pop()
        seen = Seen(threading.current_thread().name)
        while call is not None:
            if not call.abandoned:
                name_thread(call.name)
                seen.begin(call.name)
                call.run(self._lock)
                seen.end()
            abandoned, call = call.abandoned, None
            call = self._next(abandoned)

    def _next(self, abandoned):
        with self._lock:
            if abandoned:
                return None  # Its place was given up.
            if self._waiting:
                return self._waiting.popleft()
            self._idle += 1
        try:
            return self._promised.get(timeout=_IDLE)
        except queue.Empty:
            with self._lock:
                if self._idle:
                    self._idle -= 1
                    self._places -= 1
                    return None
            return self._promised.get()  # promised just now

    def _abandon(self, call):
        with self._lock:
            if call.ended:
                # Its thread has gone on, with its place.
                tell = call.outcome is not None
            else:
                tell = False
                self._give_up(call)
        if tell:
            self._submit(_Call(call.name, call.tell, None))

    def _give_up(self, call):
        call.abandoned = True
        if call in self._waiting:
            self._waiting.remove(call)
        elif self._waiting:
            self._start(self._waiting.popleft())
        else:
            self._places -= 1


class _Turn:
    """Whose turn it is to call something that is called by one thread at a time."""

    def __init__(self):
        self.wanted, self.free = 0, Semaphore(1)


def refuse_coroutine_function(function, where="thread"):
    """A coroutine made there would be awaited by nobody."""
    if is_coroutine_function(function):
        message = f"a {where} runs an ordinary function: {name_of(function)} is async"
        raise TypeError(f"{message}; await it, or give it to spawn()")


class _OneByOne(threading.local):
    """Calls of the same callable, one at a time in each kernel."""

    def __init__(self):
        self._turns = {}

    async def run(self, callable, args, kwargs, on_cancel):
        refuse_coroutine_function(callable)
        owner = getattr(callable, "__self__", None)
        key = id(callable) if owner is None else (id(owner), callable.__name__)
        turn = self._turns.setdefault(key, _Turn())
        turn.wanted += 1
        begun, done = [], Completion()

        def work():
            begun.append(True)
            try:
                return callable(*args, **kwargs)
            finally:
                done.give(None)

        work.__qualname__ = name_of(callable)  # what the thread is called
        try:
            await turn.free.acquire()
            try:
                return await workers_pool.run(work, (), {}, on_cancel)
            except CancelledError:
                if not begun:
                    raise
                # The turn is over when the call is.
                turn.wanted += 1
                await spawn(self._wait, key, turn, done, daemon=True)
                turn = None
                raise
            finally:
                if turn is not None:
                    await turn.free.release()
        finally:
            self._leave(key)

    async def _wait(self, key, turn, done):
        await done.wait()
        await turn.free.release()
        self._leave(key)

    def _leave(self, key):
        turn = self._turns[key]
        turn.wanted -= 1
        if not turn.wanted:
            del self._turns[key]


workers_pool = _Pool(lambda: workers.MAX_WORKER_THREADS, "curio-worker")

blocking_calls = _OneByOne()

# Look-ups have their own, so that no other work can hold them up.
lookup_pool = _Pool(lambda: 8, "curio-lookup")

os.register_at_fork(after_in_child=lambda: (workers_pool._reset(), lookup_pool._reset()))
