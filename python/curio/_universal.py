"""What universal primitives need in loops of asyncio's and in async threads; loaded there."""

import asyncio


async def in_asyncio(standing):
    """Wait in line as a task of the running loop."""
    loop = asyncio.get_running_loop()
    told = loop.create_future()

    def tell():
        if not told.done():
            told.set_result(None)

    def wake():
        try:
            loop.call_soon_threadsafe(tell)
        except RuntimeError:
            # The loop is closed: nobody comes for it any more.
            standing.leave()

    try:
        while (result := standing.poll(wake)) is None:
            await told
            told = loop.create_future()
    except BaseException:
        standing.leave()
        raise
    return result[0]


async def done(result):
    """What was done at once, for who awaits it all the same."""
    return result


async def in_kernel(method, arguments):
    """Await, as a task, what a thread in its name has called."""
    return await method(*arguments)
