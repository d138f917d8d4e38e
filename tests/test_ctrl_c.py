"""Ctrl-C, wherever it comes, ends `run` with KeyboardInterrupt: nothing takes it for its own."""

import contextlib
import logging
import random
import signal
import sys

import curio
import pytest


class Watching:
    """As the user's activations are: Python code that runs between the tasks."""

    def running(self, task):
        repr(task)

    def suspended(self, task, trap):
        str(trap)


async def crash(number):
    raise ValueError(f"as asked {number}")


async def busy():
    """Spends its time in the places that describe tasks: reports, origins, messages."""
    lock = curio.Lock()
    while True:
        task = await curio.spawn(curio.sleep, 1000)
        repr(task)
        await task.cancel()
        str(task.exception)
        async with curio.ignore_after(0):
            await curio.sleep(1000)
        async with curio.TaskGroup(wait=any) as group:
            await group.spawn(curio.sleep, 0)
            await group.spawn(curio.sleep, 1000)
        failed = await curio.spawn(crash, 1)
        with contextlib.suppress(curio.TaskError):
            await failed.join()
        with contextlib.suppress(RuntimeError):
            await lock.release()


@pytest.mark.parametrize("activations", [[], [Watching]], ids=["alone", "with activations"])
def test_is_lost_nowhere(activations, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.object))
    logger = logging.getLogger("curio.kernel")
    monkeypatch.setattr(logger, "disabled", True)
    # What stops a run that has lost the signal is the same signal, a second later.
    lost = 0

    def interrupt(_number, _frame):
        nonlocal comes
        comes += 1
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        for seed in range(400):
            comes = 0
            delay = random.Random(seed).uniform(0.0005, 0.004)
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, delay, 1.0)
                curio.run(busy, activations=[kind() for kind in activations])
            signal.setitimer(signal.ITIMER_REAL, 0)
            lost += comes != 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert (lost, unraisable) == (0, [])
