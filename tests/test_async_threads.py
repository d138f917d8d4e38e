"""Async threads, and calls that wait in threads (L58, L62, L64 to L66, M10, D14)."""

import contextvars
import functools
import gc
import os
import queue
import socket
import threading
import time
import weakref

import curio
import pytest
from curio.thread import AsyncThread, is_async_thread
from curio.workers import block_in_thread, is_abandoned


class Oops(Exception):
    pass


def threads():
    """Our threads that are alive."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("curio-async")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    while threads():  # the watch ends a hang
        time.sleep(0.001)


def in_thread(function, *args):
    """Runs a function in an async thread, and gives its result."""

    async def main():
        thread = await curio.spawn_thread(function, *args)
        return await thread.join()

    return curio.run(main)


# What they can.


def test_results_and_exceptions():
    assert in_thread(divmod, 7, 3) == (2, 1)

    async def main():
        thread = await curio.spawn_thread(divmod, 1, 0)
        with pytest.raises(curio.TaskError) as caught:
            await thread.join()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert isinstance(thread.exception, ZeroDivisionError)

    with curio.Kernel() as kernel:
        kernel.run(main, log_errors=False)


def test_it_is_a_task():
    async def main():
        thread = await curio.spawn_thread(curio.AWAIT, curio.sleep(1000))
        assert isinstance(thread, AsyncThread) and isinstance(thread, curio.Task)
        assert thread in (await curio.current_task()).children
        while thread.state != "TIME_SLEEP":
            await curio.sleep(0)
        assert thread.cancelled is False and thread.terminated is False
        await thread.cancel()
        assert thread.cancelled and thread.terminated
        assert isinstance(thread.exception, curio.TaskCancelled)

    curio.run(main)


def test_awaiting():
    async def add(one, other=0):
        await curio.sleep(0)
        return one + other

    class Awaitable:
        def __await__(self):
            yield from add(1, 1).__await__()
            return "awaited"

    def work():
        assert curio.AWAIT(add, 1, other=2) == 3
        assert curio.AWAIT(add(1, 2)) == 3
        assert curio.AWAIT(Awaitable()) == "awaited"
        # What cannot be awaited passes through.
        assert curio.AWAIT(len, "four") == 4
        assert curio.AWAIT(42) == 42
        with pytest.raises(TypeError, match="takes arguments for a function"):
            curio.AWAIT(42, 43)
        with pytest.raises(Oops):
            curio.AWAIT(fail)
        return "done"

    async def fail():
        raise Oops

    assert in_thread(work) == "done"


def test_where_it_works():
    assert not is_async_thread()
    with pytest.raises(curio.AsyncOnlyError, match="works in async threads"):
        curio.AWAIT(curio.sleep, 1)
    coroutine = curio.sleep(1)
    with pytest.raises(RuntimeError):
        curio.AWAIT(coroutine)  # and it does not complain that nobody has awaited it

    async def main():
        assert not is_async_thread()
        with pytest.raises(curio.AsyncOnlyError):
            curio.AWAIT(curio.sleep, 1)
        assert not await curio.run_in_thread(is_async_thread)
        return await (await curio.spawn_thread(is_async_thread)).join()

    assert curio.run(main)


def test_a_kernel_in_an_async_thread():
    """Its tasks await; they are no code of the thread's."""

    async def inner():
        assert not is_async_thread()
        with pytest.raises(curio.AsyncOnlyError):
            curio.AWAIT(curio.sleep, 1)
        return 42

    def work():
        return curio.run(inner), is_async_thread()

    assert in_thread(work) == (42, True)


@pytest.mark.parametrize("what", [42, None, curio.sleep, lambda: 0])
def test_what_cannot_run(what):
    async def main():
        if what in (42, None, curio.sleep):
            with pytest.raises(TypeError, match="spawn_thread"):
                await curio.spawn_thread(what)
        else:
            assert await (await curio.spawn_thread(what)).join() == 0

    curio.run(main)


def test_names():
    async def main():
        def work():
            with open(f"/proc/self/task/{threading.get_native_id()}/comm") as comm:
                return threading.current_thread().name, comm.read().strip()

        thread = await curio.spawn_thread(work)
        name, system = await thread.join()
        assert name.endswith("work") and system == "work"
        assert thread.name.endswith("work")

    curio.run(main)


def test_where_it_is():
    async def main():
        thread = await curio.spawn_thread(curio.AWAIT, curio.sleep(1000))
        while thread.state != "TIME_SLEEP":
            await curio.sleep(0)

        def work():
            curio.AWAIT(curio.sleep, 1000)  # here

        thread2 = await curio.spawn_thread(work)
        while thread2.state != "TIME_SLEEP":
            await curio.sleep(0)
        filename, lineno = thread2.where()
        assert filename == __file__
        with open(filename) as source:
            assert source.readlines()[lineno - 1].endswith("# here\n")
        assert "in work" in thread2.traceback()
        for each in (thread, thread2):
            await each.cancel()

    curio.run(main)


def test_context_variables():
    variable = contextvars.ContextVar("variable", default="none")

    async def change(value):
        before = variable.get()
        variable.set(value)
        return before

    def work():
        assert variable.get() == "outside"
        variable.set("thread")
        assert curio.AWAIT(change, "awaited") == "thread"
        assert variable.get() == "awaited"

    async def main():
        variable.set("outside")
        await (await curio.spawn_thread(work)).join()
        assert variable.get() == "outside"

    curio.run(main)


# Plain blocks.


def test_plain_blocks():
    lock, condition, places = curio.Lock(), curio.Condition(), curio.Semaphore(1)

    def work():
        with lock, condition, places:
            assert lock.locked() and condition.locked() and places.value == 0
        with curio.ignore_after(0.001) as limit:
            curio.AWAIT(curio.sleep, 1000)
        assert limit.expired
        with pytest.raises(curio.TaskTimeout):
            with curio.timeout_after(0.001):
                curio.AWAIT(curio.sleep, 1000)
        with curio.disable_cancellation():
            curio.AWAIT(curio.sleep, 0)
        with curio.TaskGroup() as group:
            for n in range(3):
                curio.AWAIT(group.spawn, double, n)
        assert group.results == [0, 2, 4]
        with curio.TaskGroup() as group:
            curio.AWAIT(group.spawn, double, 1)
            assert [task.result for task in group] == [2]
        return not lock.locked()

    async def double(n):
        return 2 * n

    assert in_thread(work)


def test_plain_sockets_and_streams():
    def work():
        ours, theirs = curio.socket.socketpair()
        with ours, theirs.as_stream() as stream:
            curio.AWAIT(ours.sendall, b"one\ntwo\n")
            curio.AWAIT(ours.shutdown, socket.SHUT_WR)
            return list(stream)

    assert in_thread(work) == [b"one\n", b"two\n"]


def test_plain_files(tmp_path):
    path = tmp_path / "file"
    path.write_text("one\ntwo\n")

    def work():
        with curio.aopen(path) as file:
            return list(file)

    assert in_thread(work) == ["one\n", "two\n"]


@pytest.mark.parametrize(
    "make",
    [curio.Lock, curio.TaskGroup, lambda: curio.timeout_after(1), curio.disable_cancellation],
)
def test_elsewhere_plain_blocks_are_errors(make):
    with pytest.raises(curio.AsyncOnlyError, match="entered with 'async with'") as caught:
        with make():
            pass
    assert isinstance(caught.value, RuntimeError)


# Cancellation.


def cancelled(work, *args):
    """Starts an async thread, cancels it when it is blocked, and gives it."""

    async def main():
        thread = await curio.spawn_thread(work, *args)
        while thread.state not in ("TIME_SLEEP", "EVENT_WAIT"):
            await curio.sleep(0.001)
        await thread.cancel()
        return thread

    return curio.run(main)


def test_a_cancellation_arrives_at_the_await():
    log = []

    def work():
        try:
            curio.AWAIT(curio.sleep, 1000)
        except curio.TaskCancelled:
            curio.AWAIT(curio.sleep, 0.001)
            log.append("cleaned")
            raise

    assert cancelled(work).cancelled and log == ["cleaned"]


def test_it_may_go_on():
    def work():
        try:
            curio.AWAIT(curio.sleep, 1000)
        except curio.TaskCancelled:
            return "went on"

    assert cancelled(work).result == "went on"


def test_a_thread_that_does_not_await_is_waited_for():
    begun, go_on = threading.Event(), threading.Event()

    def work():
        begun.set()
        go_on.wait()
        curio.AWAIT(curio.sleep, 1000)

    async def main():
        thread = await curio.spawn_thread(work)
        await curio.run_in_thread(begun.wait)
        canceller = await curio.spawn(thread.cancel)
        await curio.sleep(0.01)
        assert not canceller.terminated
        go_on.set()
        await canceller.join()
        assert thread.cancelled

    curio.run(main)


def test_timeouts_around():
    def work():
        with pytest.raises(curio.TimeoutCancellationError):
            with curio.timeout_after(1000):
                curio.AWAIT(outer)

    async def outer():
        async with curio.timeout_after(0.001):
            await curio.timeout_after(1000, inner)

    async def inner():
        raise curio.TimeoutCancellationError  # as from further out

    in_thread(work)


def test_a_kernel_that_ends_leaves_no_thread_waiting():
    blocked, go_on, log = threading.Event(), threading.Event(), []

    def waits():
        try:
            curio.AWAIT(curio.sleep, 1000)
        except BaseException as error:
            log.append(type(error).__name__)

    def asks_later():
        blocked.set()
        go_on.wait()
        try:
            curio.AWAIT(curio.sleep, 1000)
        except BaseException as error:
            log.append(type(error).__name__)

    async def main():
        await curio.spawn_thread(waits, daemon=True)
        await curio.spawn_thread(asks_later, daemon=True)
        await curio.run_in_thread(blocked.wait)
        await curio.sleep(0.01)

    kernel = curio.Kernel()
    kernel.run(main)
    del kernel  # and so its tasks
    gc.collect()
    go_on.set()
    while threads():
        time.sleep(0.001)
    assert len(log) == 2 and set(log) <= {"CurioError", "TaskCancelled"}


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt])
def test_exceptions_that_end_programs(exception):
    def work():
        raise exception("now")

    with pytest.raises(exception, match="now"):
        in_thread(work)


def test_nothing_is_kept():
    class Thing:
        pass

    things = []

    def work(thing):
        things.append(weakref.ref(thing))
        curio.AWAIT(curio.sleep, 0)

    in_thread(work, Thing())
    while threads():
        time.sleep(0.001)
    gc.collect()
    assert things[0]() is None


def test_many():
    async def main():
        queue = curio.Queue()

        def work(n):
            for _ in range(10):
                curio.AWAIT(queue.put, n)

        async with curio.TaskGroup() as group:
            for n in range(20):
                await group.spawn_thread(work, n)
        assert queue.qsize() == 200

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        curio.run(main)
    assert len(os.listdir("/proc/self/fd")) == before


# In groups, and by the decorator.


def test_in_a_group():
    async def main():
        async with curio.TaskGroup() as group:
            thread = await group.spawn_thread(divmod, 7, 3)
            assert thread in group.tasks
        assert group.results == [(2, 1)]
        with pytest.raises(RuntimeError, match="joined"):
            await group.spawn_thread(divmod, 7, 3)
        with pytest.raises(TypeError, match="ordinary function"):
            await curio.TaskGroup().spawn_thread(curio.sleep, 1)

    curio.run(main)


@curio.async_thread
def double(n):
    """Twice as much."""
    if is_async_thread():
        curio.AWAIT(curio.sleep, 0.001)
        return n, n
    return 2 * n


def test_async_thread():
    async def main():
        return await double(21)

    assert double(21) == 42 and double.__doc__ == "Twice as much."
    assert curio.run(main) == (21, 21)


# Calls that wait.


def test_one_thread_for_many_that_wait():
    async def main():
        items = queue.Queue()
        tasks = [await curio.spawn(block_in_thread, items.get) for _ in range(50)]
        await curio.sleep(0.01)
        at_work = [t for t in threading.enumerate() if t.name.startswith("curio-worker")]
        for n in range(50):
            items.put(n)
        assert sorted([await task.join() for task in tasks]) == list(range(50))
        return len(at_work)

    before = [t for t in threading.enumerate() if t.name.startswith("curio-worker")]
    assert curio.run(main) <= max(len(before), 1)


def test_other_objects_do_not_wait():
    async def main():
        one, other = queue.Queue(), queue.Queue()
        waits = await curio.spawn(block_in_thread, one.get)
        other.put("other")
        assert await block_in_thread(other.get) == "other"
        one.put("one")
        assert await waits.join() == "one"

    curio.run(main)


def test_a_wait_that_is_given_up_keeps_its_turn():
    async def main():
        items, late = queue.Queue(), []
        on_cancel = lambda future: late.append(future.result())  # noqa: E731
        for _ in range(3):
            given_up = block_in_thread(items.get, call_on_cancel=on_cancel)
            assert await curio.ignore_after(0.01, given_up) is None
        waits = await curio.spawn(block_in_thread, items.get)
        items.put("late")
        items.put("next")
        assert await waits.join() == "next"
        while not late:
            await curio.sleep(0.001)
        assert late == ["late"]

    curio.run(main)


def test_is_abandoned():
    log = []

    def work():
        while not is_abandoned():
            time.sleep(0.001)
        log.append("given up")

    async def main():
        assert await curio.run_in_thread(is_abandoned) is False
        assert await curio.ignore_after(0.01, curio.run_in_thread, work) is None
        while not log:
            await curio.sleep(0.001)

    curio.run(main)
    assert not is_abandoned()


@pytest.mark.parametrize("run", [curio.run_in_thread, block_in_thread])
def test_a_coroutine_function_is_no_work_for_a_thread(run):
    async def work():
        raise AssertionError("nobody awaits this")

    async def main():
        for wrong in [work, functools.partial(work)]:
            with pytest.raises(TypeError, match="work is async"):
                await run(wrong)
        assert await run(int, "5") == 5

    curio.run(main)


def test_a_waiting_thread_is_called_what_it_calls():
    def wait_for_news():
        with open(f"/proc/self/task/{threading.get_native_id()}/comm") as name:
            return name.read().strip()

    async def main():
        assert await block_in_thread(wait_for_news) == "wait_for_news"

    curio.run(main)
