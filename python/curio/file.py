"""Files, read and written in threads: a slow disk stops no task."""

__all__ = ["AsyncFile", "anext", "aopen"]

import io as _io
from _thread import allocate_lock
from contextlib import contextmanager

from ._plain import each, enter, leave
from .errors import CancelledError, CurioError, SyncIOError
from .workers import run_in_thread


def aopen(*args, **kwargs):
    """aopen(file, mode='r', ...): a file, opened when it is entered.

    The arguments are those of the built-in `open`::

        async with curio.aopen(path) as file:
            async for line in file:
                print(line, end='')
    """
    return AsyncFile(_io.open, args, kwargs)


class _NotOpenError(CurioError, RuntimeError):
    """A file was used before it was entered with `async with`."""


def _in_thread(name, doc):
    async def method(self, *args):
        return await self._run(getattr(self._opened(), name), *args)

    method.__name__, method.__qualname__, method.__doc__ = name, f"AsyncFile.{name}", doc
    return method


class AsyncFile:
    """A file whose methods are awaited, and run in a thread. `aopen` makes one.

    One method runs at a time: others wait for it. What a method reads is what the built-in file
    gives; attributes that cannot block are the file's.

    Cancellation: the task goes on at once; what was begun is done all the same, and a later
    method waits for it. So what a cancelled `read` has read is lost, and the file's position
    has moved.
    """

    def __init__(self, opener, args=(), kwargs=None):
        if callable(opener):
            self._open, self._file = (opener, args, kwargs or {}), None
        else:
            self._open, self._file = None, opener
        self._lock = allocate_lock()

    def __repr__(self):
        return f"<curio.AsyncFile {self._file!r}>"

    def _opened(self):
        if self._file is None:
            raise _NotOpenError("a file is opened with 'async with', and used inside of it")
        return self._file

    async def _run(self, function, *args):
        def alone():
            with self._lock:
                return function(*args)

        return await run_in_thread(alone)

    async def __aenter__(self):
        if self._file is None:
            function, args, kwargs = self._open
            # An open that nobody waits for any more closes what it has opened.
            self._file = await run_in_thread(
                lambda: function(*args, **kwargs), call_on_cancel=_close_result
            )
        return self

    async def __aexit__(self, *exception):
        await self.close()

    def __enter__(self):
        return enter(self, "a file of curio's", SyncIOError)

    def __exit__(self, *exception):
        return leave(self, "a file of curio's", exception, SyncIOError)

    def __iter__(self):
        return each(self, "the lines of a file of curio's", SyncIOError)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    read = _in_thread("read", "Read as many characters or bytes as asked for, or all.")
    read1 = _in_thread("read1", "Read some bytes, with one call of the system at most.")
    readline = _in_thread("readline", "Read a line.")
    readlines = _in_thread("readlines", "Read the lines that are left.")
    readinto = _in_thread("readinto", "Read into a writable buffer; return the count.")
    readinto1 = _in_thread("readinto1", "The same, with one call of the system at most.")
    readall = _in_thread("readall", "Read all that is left, from a raw file.")
    write = _in_thread("write", "Write; return the count.")
    writelines = _in_thread("writelines", "Write one after the other.")
    truncate = _in_thread("truncate", "Change the length.")
    seek = _in_thread("seek", "Change the position; return the new one.")
    tell = _in_thread("tell", "The position.")
    flush = _in_thread("flush", "Hand what was written to the system.")

    async def close(self):
        """Close the file, in a thread. Twice is fine.

        Cancellation: it will be closed.
        """
        if self._file is None:
            return
        begun = False

        def close():
            nonlocal begun
            begun = True
            with self._lock:
                self._file.close()

        try:
            await run_in_thread(close)
        except CancelledError:
            if not begun:
                import threading

                threading.Thread(target=close, name="curio-close", daemon=True).start()
            raise

    @contextmanager
    def blocking(self):
        """The file itself, for code that knows nothing of tasks."""
        yield self._opened()

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._opened(), name)


def _close_result(future):
    if future.exception() is None:
        future.result().close()


_NO_SENTINEL = object()


async def anext(iterator, sentinel=_NO_SENTINEL):
    """The next item of an asynchronous iterator; at its end `sentinel`, if one is given.

    Raises StopAsyncIteration at the end otherwise.
    """
    try:
        return await iterator.__anext__()
    except StopAsyncIteration:
        if sentinel is _NO_SENTINEL:
            raise
        return sentinel
