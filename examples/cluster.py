"""A computation spread over a cluster of Dask's, while a task of ours keeps counting.

Shows:  run_in_executor with somebody else's executor, and what becomes of the work when the task
        that waits for it gives up.
Start:  pip install distributed
        python examples/cluster.py              a cluster on this machine, while it lasts
        python examples/cluster.py ADDRESS      one that is there: tcp://scheduler:8786
"""

import logging
import sys
from concurrent.futures import Executor
from typing import Any

import curio


def fib(n: int) -> int:
    return 1 if n <= 2 else fib(n - 1) + fib(n - 2)


def connect(address: str | None) -> Any:
    from distributed import Client

    if address is not None:
        return Client(address)
    options: dict[str, Any] = {"dashboard_address": None, "silence_logs": logging.CRITICAL}
    return Client(n_workers=2, threads_per_worker=1, **options)


async def count() -> None:
    seconds = 0
    while True:
        await curio.sleep(1)
        seconds += 1
        print(f"{seconds} s, and still here")


async def main(address: str | None = None) -> None:
    # To connect and to close is to wait, and Dask's calls wait in their thread.
    client = await curio.run_in_thread(connect, address)
    try:
        await compute(client.get_executor(pure=False))
    finally:
        await curio.run_in_thread(client.close)
        if address is None:
            await curio.run_in_thread(client.cluster.close)


async def compute(executor: Executor) -> None:
    counter = await curio.spawn(count, daemon=True)
    tasks = [await curio.spawn(curio.run_in_executor, executor, fib, n) for n in range(20, 28)]
    for n, task in enumerate(tasks, 20):
        print(f"fib({n}) = {await task.join()}")

    # This one would take hours. Its future is cancelled: Dask forgets it, and would never begin it
    # if it stood in line. It has begun, so it keeps its worker busy until the cluster is closed.
    if await curio.ignore_after(0.5, curio.run_in_executor, executor, fib, 70) is None:
        print("fib(70) was given up")
    await counter.cancel()


if __name__ == "__main__":
    curio.run(main(*sys.argv[1:]))
