"""`curio.meta`, and names that programs of earlier versions use (L92, M1 to M20)."""

import asyncio
import functools
import inspect
import signal
import sys
import types

import curio
import pytest
from curio import meta, testing

run = testing.run


# Where code runs.


def test_curio_running():
    assert not meta.curio_running()

    async def main():
        return meta.curio_running()

    assert run(main)
    assert not asyncio.run(main())
    assert not meta.curio_running()


def test_sniffio_knows_us():
    sniffio = pytest.importorskip("sniffio", reason="sniffio is not installed")
    with pytest.raises(sniffio.AsyncLibraryNotFoundError):
        sniffio.current_async_library()

    async def main():
        return sniffio.current_async_library()

    assert run(main) == "curio"


# What code is.


class Methods:
    async def method(self):
        return self

    @classmethod
    async def of_class(cls):
        return cls

    @staticmethod
    async def static():
        pass

    async def __call__(self):
        return self

    def plain(self):
        return self


async def corofunc(one=1, *, two=2):
    return one + two


def plain(one=1, *, two=2):
    return one + two


@pytest.mark.parametrize(
    "function",
    [
        corofunc,
        functools.partial(corofunc, 1),
        functools.partial(functools.partial(corofunc), 1),
        Methods().method,
        Methods.of_class,
        Methods.static,
        Methods(),
        curio.sleep,
        curio.Task.join,
    ],
    ids=repr,
)
def test_is_a_coroutine_function(function):
    assert meta.iscoroutinefunction(function)


@pytest.mark.parametrize(
    "function", [plain, functools.partial(plain), Methods().plain, Methods, print, 42], ids=repr
)
def test_is_no_coroutine_function(function):
    assert not meta.iscoroutinefunction(function)


def test_instantiate():
    for coroutine in (
        meta.instantiate_coroutine(corofunc, 3, two=4),
        meta.instantiate_coroutine(corofunc(3, two=4)),
    ):
        assert inspect.iscoroutine(coroutine) and run(lambda c=coroutine: c) == 7
    with pytest.raises(TypeError):
        meta.instantiate_coroutine(plain)
    coroutine = corofunc()
    with pytest.raises(TypeError):
        meta.instantiate_coroutine(coroutine, 1)
    coroutine.close()


def from_what():
    return meta.from_coroutine()


def test_from_coroutine():
    async def main():
        return [from_what()] + [from_what() for _ in range(2)]

    async def generator():
        yield from_what()

    async def iterate():
        return [what async for what in generator()]

    def in_between():
        return from_what()

    async def nested():
        return in_between()

    assert not from_what()
    assert run(main) == [True] * 3
    assert run(iterate) == [True]
    assert not run(nested)
    assert not meta.from_coroutine(1000)


# Twins.


def greet(name):
    return f"sync {name}"


@meta.awaitable(greet)
async def greet(name):
    await curio.sleep(1)
    return f"async {name}"


def test_awaitable():
    async def main():
        return await greet("task")

    assert greet("world") == "sync world"
    assert run(main) == "async task"
    assert meta.iscoroutinefunction(greet)


def test_twins_take_the_same_arguments():
    def one(a, b):
        pass

    async def two(a, c):
        pass

    with pytest.raises(TypeError, match=r"two\(a, c\) and .*one\(a, b\) have to take the same"):
        meta.awaitable(one)(two)


def test_asyncioable():
    @meta.asyncioable(greet)
    async def greet3(name):
        await asyncio.sleep(0)
        return f"asyncio {name}"

    async def main():
        return await greet3("x")

    assert greet3("x") == "sync x"
    assert run(main) == "async x"
    assert asyncio.run(main()) == "asyncio x"
    with pytest.raises(TypeError, match="needs a function made by awaitable"):
        meta.asyncioable(plain)


# Generators.


def test_finalize():
    log = []

    async def numbers():
        try:
            for n in range(10):
                yield n
        finally:
            await curio.sleep(1)
            log.append("closed")

    async def main():
        async with meta.finalize(numbers()) as ns:
            async for n in ns:
                if n == 3:
                    break
        log.append("after")

    run(main)
    assert log == ["closed", "after"]
    with pytest.raises(TypeError, match="needs an asynchronous generator"):
        meta.finalize([1])
    with pytest.raises(curio.AsyncOnlyError):
        with meta.finalize(numbers()):
            pass


# Decorators.


@meta.blocking
def add_blocking(a, b=0):
    return a + b


@meta.sync_only
def only_sync():
    return "fine"


def test_blocking():
    async def main():
        return await add_blocking(1, b=2)

    assert add_blocking(1, b=2) == 3
    assert curio.run(main) == 3
    with pytest.raises(TypeError, match="coroutine function, and blocks nobody"):
        meta.blocking(corofunc)


def test_sync_only():
    async def main():
        return only_sync()

    assert only_sync() == "fine"
    with pytest.raises(curio.SyncIOError, match="only_sync"):
        run(main)


# Earlier names.


def test_absolute_times():
    async def main():
        now = await curio.clock()
        assert await curio.wake_at(now + 5) == now + 5
        assert await curio.wake_at(now) == now + 5
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_at(now + 7, curio.sleep, 1000)
        assert await curio.clock() == now + 7
        async with curio.ignore_at(now + 9) as limit:
            await curio.sleep(1000)
        assert limit.expired and await curio.clock() == now + 9
        assert await curio.ignore_at(now, curio.sleep, 1000, timeout_result="late") == "late"
        await curio.schedule()

    run(main)


def test_enable_cancellation():
    async def main():
        async with curio.ignore_after(1) as limit:
            async with curio.disable_cancellation():
                await curio.sleep(2)
                async with curio.enable_cancellation():
                    await curio.sleep(1000)
                    raise AssertionError("was not cut short")
                assert await curio.enable_cancellation(curio.sleep, 1000) is None
                await curio.sleep(1)
            await curio.sleep(1000)
        assert limit.expired and await curio.clock() - start == 3

    async def outside():
        with pytest.raises(RuntimeError, match="disable_cancellation"):
            async with curio.enable_cancellation():
                pass

    async def with_start():
        nonlocal start
        start = await curio.clock()
        await main()

    start = 0
    run(with_start)
    run(outside)


def test_signals():
    async def main():
        async with curio.enable_signals([signal.SIGUSR1]) as signals:
            signal.raise_signal(signal.SIGUSR1)
            assert await signals.wait() == signal.SIGUSR1
        with curio.ignore_signals([signal.SIGUSR1]):
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
            signal.raise_signal(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL

    curio.run(main)


def test_task_exit():
    async def deeper():
        raise curio.TaskExit

    async def main():
        task = await curio.spawn(deeper)
        await task.wait()
        assert isinstance(task.exception, curio.TaskExit)

    run(main)


def test_kernel_exit():
    async def deeper():
        raise curio.KernelExit(3)

    async def main():
        await curio.spawn(deeper)
        await curio.sleep(1000)

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 3 and issubclass(curio.KernelExit, SystemExit)


def test_interrupt():
    log = []

    async def work():
        for _ in range(2):
            try:
                await curio.sleep(1000)
            except curio.TaskInterrupted as error:
                log.append(error)
        return "went on"

    async def main():
        task = await curio.spawn(work)
        for _ in range(2):
            await curio.sleep(1)
            await task.interrupt()
        assert await task.join() == "went on"
        assert len(log) == 2

    run(main)


def test_other_names():
    assert curio.BoundedSemaphore(3).bound == 3
    assert issubclass(curio.TaskGroupError, curio.CurioError)
    assert issubclass(curio.TaskInterrupted, curio.CancelledError)

    async def main():
        task = await curio.spawn(curio.sleep, 1)
        assert task in curio.get_all_tasks()
        await task.join()

    run(main)


def test_importing_curio_stays_cheap():
    """Nothing of what these need is imported before they are used."""
    import subprocess

    names = "inspect asyncio threading subprocess multiprocessing concurrent pickle".split()
    code = f"import sys, curio; print([name for name in {names} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert isinstance(meta, types.ModuleType)
    assert shown.returncode != 0 or shown.stdout.strip() == "[]", shown
