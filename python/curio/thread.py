"""Async threads: ordinary code in a thread of its own, that may await as a task does.

An async thread is a task and a thread. The thread runs an ordinary function; what the function
passes to `AWAIT` the task awaits for it, in the kernel, while the thread waits for the result.
So the two are never at work at the same time, and whatever holds for a task holds for the
function: it has a task's locks, timeouts and children, and a cancellation arrives at its
`AWAIT`.
"""

__all__ = ["AWAIT", "AsyncThread", "async_thread", "is_async_thread", "spawn_thread"]

import sys
from _contextvars import copy_context
from _thread import allocate_lock, get_ident

from . import _curio
from ._curio import is_running, operation
from ._plain import at_work, here
from .errors import AsyncOnlyError, CancelledError, CurioError
from .task import Task, current_task, disable_cancellation


class Completion(_curio.CompletionBase):
    """What another thread will give."""

    __slots__ = ()

    @operation
    async def wait(self):
        """Wait for the result, once. Cancellation: it is dropped when it comes."""


class _Thread:
    """What the thread and its task know of each other.

    The thread gives each request, with the completion of the next one, to the completion that
    the task waits for; the last one is the end. It waits for the reply at a lock.
    """

    __slots__ = (
        "_arrived",
        "_closed",
        "_context",
        "_first",
        "_next",
        "_reply",
        "_work",
        "ident",
        "name",
    )

    def __init__(self, function, args, kwargs):
        self.name, self.ident = name_of(function), None
        self._work, self._context = (function, args, kwargs), copy_context()
        self._first = self._next = Completion()
        self._arrived = allocate_lock()
        self._arrived.acquire()
        self._reply, self._closed = None, False

    def start(self):
        from threading import Thread

        # A thread that nobody joins: the interpreter's end does not wait for it.
        Thread(target=self._run, name=f"curio-async: {self.name}", daemon=True).start()

    # In the thread.

    def _run(self):
        self.ident = get_ident()
        _curio.name_thread(self.name)
        at_work[self.ident] = self
        result = error = None
        try:
            (function, args, kwargs), self._work = self._work, None
            result = self._context.run(function, *args, **kwargs)
        except BaseException as exception:
            error = exception
        finally:
            at_work.pop(self.ident, None)
            function = args = kwargs = None
        self._next.give((None, (result, error), None))
        self._context = result = error = None

    def wait_for(self, awaitable):
        """Have the task await something."""
        if self._closed:
            self._refuse(awaitable)
        request, self._next = self._next, Completion()
        request.give((awaitable, copy_context(), self._next))
        self._arrived.acquire()
        if self._reply is None:
            self._refuse(awaitable)
        (result, error, context), self._reply = self._reply, None
        _adopt(context)
        if error is None:
            return result
        try:
            raise error
        finally:
            awaitable = error = None  # which has this frame in its traceback

    def _refuse(self, awaitable):
        close(awaitable)
        raise CurioError("the kernel of this async thread has ended; nothing can be awaited here")

    def frames(self):
        """Where the thread is, outermost first, from the function that it runs."""
        frame = sys._current_frames().get(self.ident)
        if at_work.get(self.ident) is not self:
            return []
        found = []
        while frame is not None and frame.f_code is not _Thread._run.__code__:
            found.append(frame)
            frame = frame.f_back
        return found[::-1]

    # In the kernel.

    async def serve(self, lease):
        """The task's body: awaits what the thread asks for, until that ends."""
        request, self._first = self._first, None
        try:
            while True:
                # What cancels meanwhile waits for the thread's next request.
                given = await disable_cancellation(request.wait())
                awaitable, context, request = given
                if request is None:
                    break
                _adopt(context)
                self._reply = await _outcome(awaitable)
                given = awaitable = context = None
                self._arrived.release()
        finally:
            self.close()
        (result, error), given, context = context, None, None
        if error is None:
            return result
        try:
            raise error
        finally:
            error = None

    def close(self):
        """The task is gone: nothing will be awaited any more."""
        self._closed = True
        if self._arrived.locked():
            self._arrived.release()


async def _outcome(awaitable):
    try:
        return await awaitable, None, copy_context()
    except GeneratorExit:
        raise  # The kernel drops the task.
    except BaseException as error:
        return None, error, copy_context()


class _Lease:
    """Says so when the task is dropped before its body has begun."""

    __slots__ = ("_thread",)

    def __init__(self, thread):
        self._thread = thread

    def __del__(self):
        self._thread.close()


def _adopt(context):
    """Take over the values of context variables: one context cannot be in two threads."""
    missing = context
    for variable, value in context.items():
        if variable.get(missing) is not value:
            variable.set(value)


class AsyncThread(Task):
    """A task whose work an ordinary function does, in a thread. `spawn_thread` makes it.

    It is joined, cancelled, and seen as any task is: see `Task`. What cancels it is raised in the
    thread at the `AWAIT` where it is, or at its next one that blocks. A thread that does not await
    cannot be stopped: `cancel` waits for its end.
    """

    __slots__ = ("_thread",)


@operation
async def _spawn_as(task_class, corofunc, *args, daemon=False):
    """`spawn`, with the class of the task."""


async def spawn_thread(func, *args, daemon=False):
    """Run `func(*args)` in an async thread, and return its task, an `AsyncThread`.

    `func` is an ordinary function, which may block and compute as it likes, and may have the kernel
    await something for it by `AWAIT`, or by plain `with` and `for` over Curio's objects::

        def work(queue):
            for n in range(3):
                curio.AWAIT(queue.put, n)
            return 'done'

        async def main():
            queue = curio.Queue()
            thread = await curio.spawn_thread(work, queue)
            print([await queue.get() for n in range(3)])
            print(await thread.join())

        curio.run(main)

    It sees the context variables of the caller. `daemon=True`: `run` does not wait for it. Raises
    TypeError if `func` cannot be called, or is a coroutine function; RuntimeError if the system
    has no thread.

    Cancellation: spawn_thread is no cancellation point; the thread that was made is returned.
    """
    return await _spawn(func, args, {}, daemon)


async def _spawn(function, args, kwargs, daemon=False):
    if not callable(function):
        raise TypeError(f"spawn_thread() needs a function, not {function!r}")
    if is_coroutine_function(function):
        message = f"spawn_thread() needs an ordinary function: {name_of(function)} is async"
        raise TypeError(f"{message}; a task for it is made by spawn()")
    await current_task()
    thread = _Thread(function, args, kwargs)
    thread.start()
    task = await _spawn_as(AsyncThread, thread.serve, _Lease(thread), daemon=daemon)
    task._thread = thread
    task.coro.__qualname__ = thread.name
    return task


def AWAIT(coro, *args, **kwargs):
    """Have the kernel await something, from an async thread; return the result.

    `coro` is a coroutine or another awaitable; or a function, which is called with the arguments
    in the thread, and whose result is awaited if it can be. Anything else is returned as it is.
    What is awaited runs as a part of the thread's task: its timeouts and cancellations arrive
    here, and locks that it takes are the thread's.

    Raises AsyncOnlyError in what is no async thread, CurioError if the thread's kernel has ended.

    Cancellation: as that of what is awaited.
    """
    try:
        thread = here("AWAIT works in async threads, which spawn_thread makes; tasks await")
    except AsyncOnlyError:
        close(coro)
        raise
    if callable(coro):
        coro = coro(*args, **kwargs)
    elif args or kwargs:
        raise TypeError(f"AWAIT() takes arguments for a function, and {coro!r} is none")
    return thread.wait_for(coro) if _can_be_awaited(coro) else coro


def is_async_thread():
    """Whether this is the code of an async thread, which may use `AWAIT`."""
    return get_ident() in at_work and not is_running()


def async_thread(func):
    """A decorator: called by async code, the function runs in an async thread.

    The call is awaited there; a cancellation cancels the thread, and waits for its end. Other code
    calls the function as ever::

        @curio.async_thread
        def double(n):
            curio.AWAIT(curio.sleep, 0.01)
            return 2 * n

        async def main():
            print(await double(21))

        curio.run(main)
    """
    import functools

    @functools.wraps(func)
    def call(*args, **kwargs):
        if sys._getframe(1).f_code.co_flags & _ASYNC_CODE:
            return _through_a_thread(func, args, kwargs)
        return func(*args, **kwargs)

    return call


async def _through_a_thread(function, args, kwargs):
    thread = await _spawn(function, args, kwargs)
    try:
        await thread.wait()
    except CancelledError:
        await thread.cancel()
        raise
    return thread.result


# What things are.

_COROUTINE, _ITERABLE_COROUTINE, _ASYNC_GENERATOR = 0x80, 0x100, 0x200
_ASYNC_CODE = _COROUTINE | _ITERABLE_COROUTINE | _ASYNC_GENERATOR


def _can_be_awaited(thing):
    if hasattr(type(thing), "__await__"):
        return True
    code = getattr(thing, "gi_code", None)
    return code is not None and bool(code.co_flags & _ITERABLE_COROUTINE)


def _innermost(function):
    while (inner := getattr(function, "func", None)) and callable(inner):
        function = inner  # of a functools.partial
    return function


def is_coroutine_function(function):
    function = _innermost(function)
    for candidate in (function, type(function).__call__ if callable(function) else None):
        code = getattr(candidate, "__code__", None)
        if code is not None:
            return bool(getattr(code, "co_flags", 0) & _COROUTINE)
    return False


def name_of(function):
    """What a function is called, for those who look into the program."""
    function = _innermost(function)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return name if isinstance(name, str) else type(function).__name__


def close(awaitable):
    """What nobody will await is not to complain about it."""
    if _can_be_awaited(awaitable) and hasattr(awaitable, "close"):
        awaitable.close()


def _forget_parent():
    # In a forked child there are no threads of its parent's, and no kernel is at work for them.
    at_work.clear()


def _register():
    import os

    os.register_at_fork(after_in_child=_forget_parent)


_register()
