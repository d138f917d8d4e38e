"""Requests below the operations, and lines of tasks (S48 to S63, L90, L91)."""

import errno
import os
import signal
import socket
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import curio
import curio.kernel
import pytest
from curio import sched, testing, traps

run = testing.run


def test_names():
    """S48 to S63: what programs import from `curio.kernel` and `curio.traps`."""
    named = """_read_wait _write_wait _future_wait _sleep _spawn _cancel_task _join_task
        _wait_on_queue _reschedule_tasks _sigwatch _sigunwatch _sigwait _get_kernel _get_current
        _set_timeout _unset_timeout _scheduler_wait _scheduler_wake _clock _io_release
        _io_waiting""".split()
    assert sorted(named) == sorted(traps.__all__)
    for name in named:
        assert getattr(curio.kernel, name) is getattr(traps, name)


# Descriptors.


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("as_number", [False, True])
def test_read_wait(pair, as_number):
    ours, theirs = pair

    async def main():
        async def write():
            await curio.sleep(1)
            theirs.send(b"!")

        writer = await curio.spawn(write)
        await traps._read_wait(ours.fileno() if as_number else ours)
        assert ours.recv(10) == b"!"
        await writer.join()
        theirs.close()
        await traps._read_wait(ours)
        assert ours.recv(10) == b""

    run(main)


def test_write_wait(pair):
    ours, theirs = pair
    ours.setblocking(False)

    async def main():
        await traps._write_wait(ours)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(100_000))
        waiter = await curio.spawn(traps._write_wait(ours))
        await curio.sleep(1)
        assert waiter.state == "WRITE_WAIT"
        while not waiter.terminated:
            theirs.recv(1_000_000)
            await curio.sleep(1)
        ours.send(b"!")

    run(main)


def test_one_task_a_direction(pair):
    ours, _ = pair

    async def main():
        waiter = await curio.spawn(traps._read_wait(ours))
        assert await traps._io_waiting(ours) == (waiter, None)
        with pytest.raises(curio.ReadResourceBusy):
            await traps._read_wait(ours)
        await waiter.cancel()
        assert await traps._io_waiting(ours) == (None, None)
        assert await curio.ignore_after(1, traps._read_wait(ours)) is None
        assert await traps._io_waiting(ours) == (None, None)

    run(main)


def test_io_release(pair):
    ours, _ = pair

    async def main():
        waiter = await curio.spawn(traps._read_wait(ours))
        await traps._io_release(ours)
        await waiter.wait()
        assert isinstance(waiter.exception, OSError) and waiter.exception.errno == errno.EBADF
        ours.close()

    with testing.VirtualKernel() as kernel:
        kernel.run(main, log_errors=False)


@pytest.mark.parametrize("what, exception", [("no", TypeError), (-1, ValueError), (9999, OSError)])
def test_no_descriptor(what, exception):
    with pytest.raises(exception):
        run(traps._read_wait, what)


def test_a_pipe():
    async def main():
        reading, writing = os.pipe()
        try:
            os.write(writing, b"!")
            await traps._read_wait(reading)
            assert os.read(reading, 10) == b"!"
        finally:
            os.close(reading)
            os.close(writing)

    run(main)


# Time.


def test_sleep_and_clock():
    async def main():
        before = await traps._clock()
        assert await traps._sleep(10) == before + 10 == await curio.clock()

    run(main)


def test_timeouts_by_hand():
    async def main():
        now = await curio.clock()
        assert await traps._set_timeout(now + 5) is None
        assert await traps._set_timeout(now + 3) == now + 5
        try:
            await curio.sleep(1000)
        except curio.TaskTimeout:
            pass
        finally:
            await traps._unset_timeout(now + 5)
        assert await curio.clock() == now + 3
        with pytest.raises(curio.TaskTimeout):
            await curio.sleep(1000)
        await traps._unset_timeout(None)
        await curio.sleep(1000)
        with pytest.raises(RuntimeError, match="without a _set_timeout"):
            await traps._unset_timeout(None)

    run(main)


def test_timeouts_interrupted():
    async def program():
        previous = await traps._set_timeout(await curio.clock() + 5)
        try:
            await curio.sleep(3)
            async with curio.ignore_after(1):
                await curio.sleep(2)
        finally:
            await traps._unset_timeout(previous)

    testing.interrupt_everywhere(program)


# Tasks.


def test_tasks():
    async def child():
        await curio.sleep(1)
        return "done"

    async def main():
        assert await traps._get_current() is await curio.current_task()
        assert await traps._get_kernel() is kernel
        task = await traps._spawn(child())
        assert task.state == "TIME_SLEEP"
        assert await traps._join_task(task) is None and task.result == "done"
        assert await traps._cancel_task(task) is False
        task = await traps._spawn(child())
        assert await traps._cancel_task(task, exc=KeyError, val="why")
        assert not task.terminated
        await task.wait()
        assert isinstance(task.exception, KeyError) and task.exception.args == ("why",)
        daemon = await traps._spawn(curio.sleep(1000), daemon=True)
        assert daemon not in (await curio.current_task()).children
        with pytest.raises(TypeError, match="needs a coroutine, not a function"):
            await traps._spawn(child)

    with testing.VirtualKernel() as kernel:
        kernel.run(main, log_errors=False)


# Futures. They come from elsewhere: no virtual clock.


def test_future_wait():
    async def main():
        with ThreadPoolExecutor() as executor:
            future = executor.submit(sum, [1, 2, 3])
            await traps._future_wait(future)
            assert future.result() == 6
            future = executor.submit(divmod, 1, 0)
            await traps._future_wait(future)
            assert isinstance(future.exception(), ZeroDivisionError)

    curio.run(main)


def test_future_wait_with_an_event():
    future = Future()

    class Starter:
        def set(self):
            future.set_result(42)

    async def main():
        await traps._future_wait(future, Starter())
        assert future.result() == 42

    curio.run(main)


def test_future_that_is_given_up():
    async def main():
        future = Future()
        assert await curio.ignore_after(0.01, traps._future_wait(future)) is None
        assert future.cancelled()
        with pytest.raises(TypeError, match="needs a concurrent.futures.Future, not 42"):
            await traps._future_wait(42)

    curio.run(main)


# Signals.


def test_signals():
    async def main():
        signals = curio.SignalSet(signal.SIGUSR1)
        await traps._sigwatch(signals)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert await traps._sigwait(signals) == signal.SIGUSR1
        await traps._sigunwatch(signals)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL

    curio.run(main)


# Lines of tasks.


def test_a_deque_of_tasks():
    async def main():
        queue, log = deque(), []

        async def wait(name):
            try:
                log.append((name, await traps._wait_on_queue(queue, "SULK")))
            except KeyError as error:
                log.append((name, repr(error)))

        tasks = [await curio.spawn(wait(name)) for name in "abcd"]
        assert list(queue) == tasks and {task.state for task in tasks} == {"SULK"}
        await tasks[1].cancel()
        assert len(queue) == 3
        await traps._reschedule_tasks(queue, 2, value="value")
        await traps._reschedule_tasks(queue, exc=KeyError("oh"))
        for task in tasks:
            await task.wait()
        assert sorted(log) == [("a", "value"), ("c", "value"), ("d", "KeyError('oh')")]
        assert not traps._handed

    run(main)


@pytest.mark.parametrize("kind", [sched.SchedFIFO, sched.SchedBarrier])
def test_suspend_and_wake(kind):
    async def main():
        line, log = kind(), []

        async def wait(name):
            await line.suspend("SULK")
            log.append(name)

        tasks = [await curio.spawn(wait(name)) for name in "abcd"]
        assert len(line) == 4 == line.statistics().waiting and "4 waiting" in repr(line)
        assert tasks[0].state == "SULK"
        await tasks[0].cancel()
        assert await curio.ignore_after(1, line.suspend) is None
        assert len(line) == 3
        await line.wake()
        await curio.sleep(0)
        assert log == (["b"] if kind is sched.SchedFIFO else ["b", "c", "d"])
        await line.wake(100)
        for task in tasks[1:]:
            await task.join()
        assert log == ["b", "c", "d"] and len(line) == 0
        await line.wake()

    run(main)


class Stack(sched.SchedBase):
    def __init__(self):
        self.tasks = []

    def __len__(self):
        return len(self.tasks)

    def _kernel_suspend(self, task):
        self.tasks.append(task)
        return lambda: self.tasks.remove(task)

    def _kernel_wake(self, ntasks):
        return [self.tasks.pop() for _ in range(min(ntasks, len(self)))]


def test_an_order_of_ones_own():
    async def main():
        stack, log = Stack(), []

        async def wait(name):
            await stack.suspend()
            log.append(name)

        tasks = [await curio.spawn(wait(name)) for name in "abc"]
        assert tasks[0].state == "SUSPEND"
        await tasks[1].cancel()
        for _ in range(2):
            await stack.wake()
            await curio.sleep(0)
        assert log == ["c", "a"]

    run(main)


@pytest.mark.parametrize("kind", [sched.SchedFIFO, Stack])
def test_a_lock_of_ones_own_interrupted(kind):
    """Who was woken goes on, so that a turn is never lost."""

    class Turn:
        def __init__(self):
            self.taken = False
            self.line = kind()

        async def __aenter__(self):
            if self.taken:
                await self.line.suspend("TURN")
            self.taken = True

        async def __aexit__(self, *exception):
            if len(self.line):
                await self.line.wake()  # the turn goes on
            else:
                self.taken = False

    async def program():
        turn = Turn()

        async def work():
            async with turn:
                await curio.sleep(1)

        tasks = [await curio.spawn(work) for _ in range(3)]
        try:
            for task in tasks:
                await task.join()
        finally:
            async with curio.disable_cancellation():
                for task in tasks:
                    await task.cancel()
            assert not turn.taken and not len(turn.line)

    testing.interrupt_everywhere(program)


class Broken(sched.SchedBase):
    pass


def test_a_line_that_is_unfinished():
    async def main():
        broken = Broken()
        for method, name in [(broken.suspend, "_kernel_suspend"), (broken.wake, "_kernel_wake")]:
            with pytest.raises(NotImplementedError, match=f"Broken has no {name}"):
                await method()
        with pytest.raises(NotImplementedError, match="Broken has no __len__"):
            len(broken)

    run(main)


@pytest.mark.parametrize("what", [42, None, object()])
def test_no_line(what):
    async def main():
        with pytest.raises((TypeError, AttributeError)):
            await traps._scheduler_wait(what, "STATE")
        with pytest.raises((TypeError, AttributeError)):
            await traps._scheduler_wake(what)

    run(main)
