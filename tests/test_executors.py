"""Executors of others': what they give comes back, and giving up is passed on to them.

Goal: the contract of `run_in_executor`, with executors of the standard library, of `loky`, and with
one whose futures the test completes itself. Method: calls stop at gates that the test opens.
"""

import concurrent.futures
import os
import signal
import sys
import threading
import time
import types
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import crunch
import curio
import pytest

run = curio.run_in_executor


class ByHand:
    """An executor whose futures the test completes."""

    def __init__(self):
        self.futures = []

    def submit(self, callable, /, *args, **kwargs):
        self.call = callable, args, kwargs
        self.futures.append(Future())
        return self.futures[-1]


def processes():
    import multiprocessing

    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def loky():
    loky = pytest.importorskip("loky", reason="loky is not installed")
    return loky.get_reusable_executor(max_workers=1, timeout=60)


@pytest.fixture(params=[ThreadPoolExecutor, processes, loky], ids=["threads", "processes", "loky"])
def executor(request, monkeypatch):
    # Workers import the main module, which here is pytest.
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    executor = request.param()
    yield executor
    executor.shutdown(wait=True)


async def until(condition):
    """Waits while other tasks run; not for ever, lest one failure end all tests."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        await curio.sleep(0.001)


# --- results -------------------------------------------------------------------------------


def test_result(kernel, executor):
    """S28: arguments by place and by name, and other tasks run meanwhile."""
    turns = []

    async def other():
        while True:
            turns.append(1)
            await curio.sleep(0.001)

    async def main():
        await curio.spawn(other, daemon=True)
        assert await run(executor, crunch.echo, 1, key=2) == ((1,), {"key": 2})
        names = {"exc": 1, "callable": 2, "args": 3}
        assert await run(executor, crunch.echo, **names) == ((), names)
        await run(executor, time.sleep, 0.02)
        assert len(turns) > 2
        for n in range(50):
            assert await run(executor, crunch.add, n, 1) == n + 1

    kernel.run(main)


def test_exception(kernel, executor):
    async def main():
        with pytest.raises(crunch.Oops, match="there") as caught:
            await run(executor, crunch.fail, crunch.Oops, "there")
        assert type(caught.value) is crunch.Oops
        assert await run(executor, int) == 0

    kernel.run(main)


def test_exception_has_its_lines(kernel):
    def work():
        raise crunch.Oops

    async def main():
        with ThreadPoolExecutor(1) as executor, pytest.raises(crunch.Oops) as caught:
            await run(executor, work)
        assert [entry.name for entry in caught.traceback][-1] == "work"

    kernel.run(main)


def test_many_at_once(kernel, executor):
    async def main():
        tasks = [await curio.spawn(run, executor, crunch.add, n, 1) for n in range(100)]
        assert [await task.join() for task in tasks] == list(range(1, 101))

    kernel.run(main)


def test_nothing_happens_before_it_is_awaited():
    executor = ByHand()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        call = run(executor, int)
        del call
    assert executor.futures == []


def test_a_future_that_has_ended_already(kernel):
    class Now(ByHand):
        def submit(self, *call):
            future = super().submit(*call)
            future.set_result("at once")
            return future

    assert kernel.run(run, Now(), int) == "at once"


# --- bad input -------------------------------------------------------------------------------


def test_shut_down(kernel, executor):
    executor.shutdown()

    async def main():
        with pytest.raises(RuntimeError, match="shutdown|shut down"):
            await run(executor, int)

    kernel.run(main)


def test_shut_down_while_it_waits(kernel):
    """What has begun is finished, what has not is cancelled by the executor."""
    begun, gate = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert gate.wait(50)
        return "done"

    async def main():
        executor = ThreadPoolExecutor(1)
        first = await curio.spawn(run, executor, work)
        await until(begun.is_set)
        second = await curio.spawn(run, executor, int)
        await curio.sleep(0)
        executor.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(curio.TaskError) as caught:
            await second.join()
        assert type(caught.value.__cause__) is concurrent.futures.CancelledError
        gate.set()
        assert await first.join() == "done"

    kernel.run(main)


def test_broken_pool(kernel):
    """BrokenExecutor, for the call at work, and for all that come later."""

    async def main():
        with processes() as executor:
            with pytest.raises(BrokenExecutor):
                await run(executor, os._exit, 1)
            with pytest.raises(BrokenExecutor):
                await run(executor, int)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        kernel.run(main)


@pytest.mark.parametrize("executor", [None, 5, "threads"])
def test_no_executor(kernel, executor):
    async def main():
        with pytest.raises(AttributeError, match="submit"):
            await run(executor, int)

    kernel.run(main)


def test_wrong_arguments(kernel):
    async def main():
        with pytest.raises(TypeError):
            await run()
        with pytest.raises(TypeError):
            await run(ByHand())
        with ThreadPoolExecutor(1) as executor, pytest.raises(TypeError, match="not callable"):
            await run(executor, 5)

    kernel.run(main)


# --- cancellation --------------------------------------------------------------------------


def test_cancelled_at_work(kernel):
    """The task goes on at once; the work is not disturbed, and its result dropped."""
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work():
        begun.set()
        assert gate.wait(50)
        ended.set()
        return "old"

    async def main():
        with ThreadPoolExecutor(1) as executor:
            task = await curio.spawn(run, executor, work)
            await until(begun.is_set)
            await task.cancel()
            assert not ended.is_set()
            gate.set()
            assert await run(executor, crunch.give, "new") == "new"
            assert ended.is_set()

    kernel.run(main)


def test_cancelled_before_its_work_begins(kernel):
    """The future is cancelled: the executor never begins."""
    begun, gate, calls = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        assert gate.wait(50)

    async def main():
        with ThreadPoolExecutor(1) as executor:
            first = await curio.spawn(run, executor, work)
            await until(begun.is_set)
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.01, run, executor, calls.append, 1)
            gate.set()
            await first.join()
            await run(executor, int)
        assert calls == []

    kernel.run(main)


def test_cancelled_and_completed_at_the_same_time(kernel):
    """Whichever comes first: the future is done, and the task is not left waiting."""

    async def main():
        for _ in range(100):
            executor = ByHand()
            task = await curio.spawn(run, executor, int)
            await curio.sleep(0)
            [future] = executor.futures
            future.set_running_or_notify_cancel()
            thread = threading.Thread(target=future.set_result, args=[1])
            thread.start()
            await task.cancel()
            thread.join()
            assert task.terminated and future.result() == 1

    kernel.run(main)


def test_cancelled_by_somebody_else(kernel):
    """An ordinary exception: it is not the task that was cancelled."""
    executor = ByHand()

    async def main():
        task = await curio.spawn(run, executor, int)
        await curio.sleep(0)
        executor.futures[0].cancel()
        with pytest.raises(curio.TaskError) as caught:
            await task.join()
        assert type(caught.value.__cause__) is concurrent.futures.CancelledError
        assert isinstance(caught.value.__cause__, Exception) and not task.cancelled

    kernel.run(main)


def test_completed_after_its_kernel_has_ended():
    """Nobody is there to be told, and nothing is said."""
    executor = ByHand()

    async def main():
        await curio.spawn(run, executor, int, daemon=True)
        await curio.sleep(0)

    curio.run(main)
    [future] = executor.futures
    assert future.cancelled()

    executor = ByHand()
    kernel = curio.Kernel()
    kernel.run(main)
    executor.futures[0].set_running_or_notify_cancel()
    kernel.run(shutdown=True)
    executor.futures[0].set_result("too late")


def test_state_while_waiting(kernel):
    executor = ByHand()

    async def main():
        task = await curio.spawn(run, executor, int)
        await until(lambda: task.state == "FUTURE_WAIT")
        executor.futures[0].set_exception(crunch.Oops())
        with pytest.raises(curio.TaskError):
            await task.join()

    kernel.run(main)


def test_two_kernels_share_an_executor():
    results = []

    with ThreadPoolExecutor(2) as executor:

        async def main():
            for n in range(200):
                results.append(await run(executor, crunch.give, n) == n)

        threads = [threading.Thread(target=curio.run, args=(main,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [True] * 400


def test_a_worker_of_the_executor_is_killed(kernel, monkeypatch):
    """While others wait in the same pool: each has an error, none hangs."""
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))

    async def main():
        with processes() as executor:
            pid = await run(executor, os.getpid)
            tasks = [await curio.spawn(run, executor, time.sleep, 100) for _ in range(3)]
            os.kill(pid, signal.SIGKILL)
            for task in tasks:
                with pytest.raises(curio.TaskError) as caught:
                    await task.join()
                assert isinstance(caught.value.__cause__, BrokenExecutor)

    kernel.run(main)
