"""Time: the clock, sleeping, and limits on time."""

__all__ = [
    "clock",
    "ignore_after",
    "ignore_at",
    "schedule",
    "sleep",
    "stop_after",
    "timeout_after",
    "timeout_at",
    "wake_at",
]

from ._curio import operation


@operation
async def clock():
    """The kernel's clock: seconds, monotonic. Does not block."""


@operation
async def sleep(seconds):
    """Sleep for at least that many seconds; return the clock's value.

    0 or less lets the other ready tasks run first. Raises TypeError or ValueError if `seconds`
    is no number.

    Cancellation: nothing is lost.
    """


@operation
def timeout_after(seconds, corofunc=None, *args):
    """Limit the time of a coroutine, or of a block.

    `corofunc` is a coroutine, or a coroutine function that is called with `args`; it runs in
    the calling task, and its result is the result. After `seconds`, TaskTimeout is raised
    at the operation where it is blocked, so that it can clean up, and comes out of
    timeout_after. None sets no limit; 0 or less expires at the first operation that blocks.

    Limits nest: an outer one that expires first is seen inside as
    TimeoutCancellationError. A TaskTimeout that leaves its own region and reaches an
    outer one that has not expired becomes UncaughtTimeoutError::

        async def main():
            try:
                await curio.timeout_after(0.01, curio.sleep, 1000)
            except curio.TaskTimeout:
                print('Too slow')

            async with curio.timeout_after(1):
                await curio.sleep(0.01)

        curio.run(main)
    """


@operation
def ignore_after(seconds, corofunc=None, *args, timeout_result=None):
    """Limit the time of a coroutine, or of a block, without an exception.

    As `timeout_after`, but when the time is over the result is `timeout_result`. The block's
    object has it as `result` (True if the block has finished), and `expired`::

        async def main():
            async with curio.ignore_after(0.01) as limit:
                await curio.sleep(1000)
            print(limit.expired)

        curio.run(main)
    """


stop_after = ignore_after


@operation
def timeout_at(clock, corofunc=None, *args):
    """As `timeout_after`, with a limit that ends when the kernel's clock is at `clock`."""


@operation
def ignore_at(clock, corofunc=None, *args, timeout_result=None):
    """As `ignore_after`, with a limit that ends when the kernel's clock is at `clock`."""


@operation
async def wake_at(clock):
    """Sleep until the kernel's clock has reached `clock`, in seconds; return its value.

    If it has, other ready tasks run first.

    Cancellation: nothing is lost.
    """


async def schedule():
    """Let the other ready tasks run: `sleep(0)`.

    Cancellation: nothing is lost.
    """
    await sleep(0)
