"""A parent waits for a kid, loses patience and cancels it; the kid saves its work first.

Shows:  spawn, join, a timeout around somebody else's join (it gives up the waiting and
        leaves the kid alone), and cancellation that waits until the clean-up is done.
Start:  python examples/family.py [SECONDS FOR EACH STEP]
"""

import sys

import curio


async def kid(step: float) -> None:
    print("Kid:    building a space ship")
    try:
        await curio.sleep(1000 * step)
    except curio.CancelledError:
        # Cleaning up may await like any other code: nothing disturbs it, and `cancel`
        # returns only after it has ended.
        print("Kid:    fine, saving my work ...")
        await curio.sleep(step)
        print("Kid:    ... saved")
        raise


async def countdown(n: int, step: float) -> None:
    while n > 0:
        print("Parent:", n)
        await curio.sleep(step)
        n -= 1


async def parent(step: float) -> None:
    kid_task = await curio.spawn(kid(step))
    await curio.sleep(step)

    print("Parent: let's go")
    count_task = await curio.spawn(countdown(3, step))
    await count_task.join()

    print("Parent: we're leaving!")
    try:
        await curio.timeout_after(2 * step, kid_task.join())
    except curio.TaskTimeout:
        print("Parent: I warned you!")
        await kid_task.cancel()
    print("Parent: leaving")


if __name__ == "__main__":
    curio.run(parent(float(sys.argv[1]) if len(sys.argv) > 1 else 1))
