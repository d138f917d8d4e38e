"""One task that counts down, a second between numbers.

Shows:  a task is a coroutine; `await` is where it may stop; `curio.run` runs it.
Start:  python examples/hello.py [COUNT]
"""

import sys

import curio


async def countdown(n: int) -> None:
    while n > 0:
        print("T-minus", n)
        await curio.sleep(1)
        n -= 1
    print("Lift-off!")


if __name__ == "__main__":
    curio.run(countdown(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
