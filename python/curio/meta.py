"""What code is, and where it runs: functions that serve tasks and other code alike."""

__all__ = [
    "asyncioable",
    "awaitable",
    "blocking",
    "cpubound",
    "curio_running",
    "finalize",
    "from_coroutine",
    "instantiate_coroutine",
    "iscoroutinefunction",
    "sync_only",
]

import sys
from functools import partial, wraps

from . import _curio
from ._plain import enter, leave
from .errors import SyncIOError

# CO_COROUTINE, CO_ITERABLE_COROUTINE, CO_ASYNC_GENERATOR. Importing `inspect` for them would be a
# good part of what a program's start costs.
_ASYNC = 0x80 | 0x100 | 0x200


def curio_running():
    """Whether a kernel of Curio's runs in this thread: whether this is code of a task's.

    Libraries that serve several kinds of programs, such as sniffio, ask this.
    """
    return _curio.is_running()


def iscoroutinefunction(func):
    """Whether calling `func` gives a coroutine: also a `partial` of such a function, a method of an
    object, or what is decorated by `awaitable`."""
    import inspect

    while isinstance(func, partial):
        func = func.func
    if inspect.iscoroutinefunction(func) or getattr(func, "_awaitable", False):
        return True
    if isinstance(func, type) or not callable(func):
        return False
    return inspect.iscoroutinefunction(type(func).__call__)


def instantiate_coroutine(corofunc, *args, **kwargs):
    """The coroutine that `corofunc(*args, **kwargs)` gives, or that `corofunc` is already.

    Raises TypeError if that is no coroutine, or if there are arguments for one that is made.
    """
    return _curio.instantiate(corofunc, args, kwargs)


def from_coroutine(level=2):
    """Whether a coroutine makes the call: the function that is `level` calls up.

    1 is the function that asks, 2 its caller.
    """
    try:
        frame = sys._getframe(level)
    except ValueError:
        return False
    while frame is not None and frame.f_code.co_name in _INLINE:
        # A comprehension is part of what it stands in.
        if frame.f_code.co_flags & _ASYNC:
            return True
        frame = frame.f_back
    return frame is not None and bool(frame.f_code.co_flags & _ASYNC)


_INLINE = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


def _same_signature(syncfunc, func):
    import inspect

    ours, theirs = inspect.signature(syncfunc), inspect.signature(func)
    if list(ours.parameters.values()) != list(theirs.parameters.values()):
        raise TypeError(
            f"{func.__qualname__}{theirs} and {syncfunc.__qualname__}{ours} have to take the same "
            "arguments"
        )


def awaitable(syncfunc):
    """Give a synchronous function an asynchronous twin, which coroutines get when they call it.

    The arguments of both have to be the same, or TypeError is raised::

        def greet(name):
            return f'Hello, {name}'

        @curio.meta.awaitable(greet)
        async def greet(name):
            await curio.sleep(0.01)
            return f'Hello, {name}, from a task'

        async def main():
            print(await greet('world'))

        print(greet('world'))
        curio.run(main)
    """

    def decorate(asyncfunc):
        _same_signature(syncfunc, asyncfunc)

        @wraps(asyncfunc)
        def call(*args, **kwargs):
            if from_coroutine():
                return asyncfunc(*args, **kwargs)
            return syncfunc(*args, **kwargs)

        call._sync, call._async = syncfunc, asyncfunc
        call._awaitable = True
        return call

    return decorate


def asyncioable(awaitablefunc):
    """Give a function that `awaitable` has made another twin, for tasks of asyncio.

    Coroutines get it where asyncio runs and Curio does not. Raises TypeError if the function is
    not `awaitable`, or the arguments are not the same.
    """
    if not getattr(awaitablefunc, "_awaitable", False):
        raise TypeError(
            f"asyncioable() needs a function made by awaitable(), not {awaitablefunc!r}"
        )
    syncfunc, curiofunc = awaitablefunc._sync, awaitablefunc._async

    def decorate(asyncfunc):
        _same_signature(syncfunc, asyncfunc)

        @wraps(asyncfunc)
        def call(*args, **kwargs):
            if not from_coroutine():
                return syncfunc(*args, **kwargs)
            if curio_running() or not _asyncio_running():
                return curiofunc(*args, **kwargs)
            return asyncfunc(*args, **kwargs)

        call._sync, call._async = syncfunc, curiofunc
        call._awaitable = True
        return call

    return decorate


def _asyncio_running():
    asyncio = sys.modules.get("asyncio")  # what runs was imported
    return asyncio is not None and asyncio._get_running_loop() is not None


class finalize:
    """finalize(aobj)

    Close an asynchronous generator at the end of a block, whatever is left of it, where its
    clean-up can await::

        async def numbers():
            try:
                for n in range(1000):
                    yield n
            finally:
                await curio.sleep(0)
                print('closed')

        async def main():
            async with curio.meta.finalize(numbers()) as ns:
                async for n in ns:
                    if n == 3:
                        break

        curio.run(main)
    """

    __slots__ = ("_aobj",)

    def __init__(self, aobj):
        if not hasattr(aobj, "aclose"):
            raise TypeError(f"finalize() needs an asynchronous generator, not {aobj!r}")
        self._aobj = aobj

    async def __aenter__(self):
        """Return the generator."""
        return self._aobj

    async def __aexit__(self, *exception):
        """Close the generator."""
        await self._aobj.aclose()

    def __enter__(self):
        return enter(self, "finalize()")

    def __exit__(self, *exception):
        return leave(self, "finalize()", exception)


def _elsewhere(func, run):
    if iscoroutinefunction(func):
        raise TypeError(f"{func!r} is a coroutine function, and blocks nobody")

    @wraps(func)
    def call(*args, **kwargs):
        if from_coroutine():
            return run(func, args, kwargs)
        return func(*args, **kwargs)

    call._awaitable = True
    return call


def blocking(func):
    """Let coroutines await a function that blocks: it runs in a thread then.

    Called by other code it is what it was. See `curio.run_in_thread` for cancellation. Raises
    TypeError for a coroutine function.
    """

    async def run(func, args, kwargs):
        from .workers import run_in_thread

        return await run_in_thread(partial(func, *args, **kwargs))

    return _elsewhere(func, run)


def cpubound(func):
    """Let coroutines await a function that computes: it runs in a process then.

    Called by other code it is what it was. The function is found by its name there, so it has to be
    at the top level of a module. See `curio.run_in_process` for cancellation. Raises TypeError
    for a coroutine function.
    """

    async def run(func, args, kwargs):
        from .workers import run_in_process

        call = partial(_call_original, func.__module__, func.__qualname__)
        return await run_in_process(call, args, kwargs)

    return _elsewhere(func, run)


def _call_original(module, name, args, kwargs):
    """In a worker process: what `cpubound` has decorated."""
    import importlib

    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found.__wrapped__(*args, **kwargs)


def sync_only(func):
    """Keep coroutines from calling a function: SyncIOError is raised there."""

    @wraps(func)
    def call(*args, **kwargs):
        if from_coroutine():
            raise SyncIOError(f"{func.__qualname__}() is not for coroutines: it would block them")
        return func(*args, **kwargs)

    return call
