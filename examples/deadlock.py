"""A deadlock to look at: two tasks, one of them written in Rust, take two locks in two orders.

Shows:  locks, and the monitor, which finds the deadlock from another terminal: `deadlock`.
Start:  python examples/deadlock.py; then, elsewhere, python -m curio.monitor
"""

import curio
from curio.debug import locker

pen, paper = curio.Lock(), curio.Lock()


async def writer() -> None:
    async with paper:
        await curio.sleep(0.01)
        async with pen:
            print("written")


async def main() -> None:
    locker(pen, paper)
    task = await curio.spawn(writer)
    await task.join()


if __name__ == "__main__":
    curio.run(main, with_monitor=True)
