"""Plain `with` and `for` over Curio's objects: they work in async threads, and nowhere else."""

from _thread import get_ident

from ._curio import is_running
from .errors import AsyncOnlyError

#: The async threads that are at work, by their idents; see `curio.thread`.
at_work: dict = {}


def enter(thing, what, error=AsyncOnlyError):
    """`with thing:`; `what` it is, for the error elsewhere."""
    thread = here(f"{what} is entered with 'async with'", error)
    return thread.wait_for(_call(thing.__aenter__))


def leave(thing, what, exception, error=AsyncOnlyError):
    """The end of `with thing:`."""
    thread = here(f"{what} is entered with 'async with'", error)
    return thread.wait_for(_call(thing.__aexit__, *exception))


def each(thing, what, error=AsyncOnlyError):
    """An iterator for `for item in thing:`."""
    thread = here(f"{what} are read with 'async for'", error)
    return _each(thread, thing)


def _each(thread, thing):
    items = thing.__aiter__()
    while True:
        try:
            item = thread.wait_for(_call(items.__anext__))
        except StopAsyncIteration:
            return
        yield item


async def _call(method, *args):
    """In the task: the method itself may want a kernel around it."""
    return await method(*args)


def here(message, error=AsyncOnlyError):
    """The async thread that this is."""
    thread = at_work.get(get_ident())
    # A kernel of its own that it runs has tasks, which await.
    if thread is None or is_running():
        raise error(message)
    return thread
