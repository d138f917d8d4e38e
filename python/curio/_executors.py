"""Futures of `concurrent.futures`, and of whatever works like it, as something to wait for."""

from ._threads import Completion
from .errors import CancelledError


async def wait_for_future(future):
    """Wait for a `concurrent.futures.Future`; return its result or raise its exception.

    `future` has `add_done_callback`, `result` and `cancel`, and is completed in any thread.

    Cancellation: the future is cancelled, which leaves it alone if its work has begun.
    """
    completion = Completion()
    future.add_done_callback(lambda future: completion.give(None))
    try:
        await completion.wait()
    except CancelledError:
        future.cancel()
        raise
    try:
        return future.result()
    finally:
        del future  # whose exception has this frame in its traceback
