"""Files: read and written in threads, a method at a time, wherever a task is cancelled."""

import os
import threading

import curio
import pytest
from curio.file import AsyncFile


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("one\ntwo\nthree")
    return path


def run(main):
    return curio.run(main)


def test_read_and_write(path):
    """L67: the methods of a file, awaited."""

    async def main():
        async with curio.aopen(path) as file:
            assert await file.readline() == "one\n"
            assert await file.tell() == 4
            assert await file.read(3) == "two"
            assert await file.readlines() == ["\n", "three"]
            assert await file.seek(0) == 0
            assert [line async for line in file] == ["one\n", "two\n", "three"]
            assert file.name == str(path)
            assert file.encoding.lower() == "utf-8"
        assert file.closed
        async with curio.aopen(path, "wb") as file:
            assert await file.write(b"abc") == 3
            await file.writelines([b"d", b"e"])
            await file.flush()
            assert path.read_bytes() == b"abcde"
            await file.truncate(2)
        assert path.read_bytes() == b"ab"
        async with curio.aopen(path, "rb") as file:
            room = bytearray(10)
            assert await file.readinto(room) == 2
            assert room[:2] == b"ab"
            await file.seek(0)
            assert await file.read1(1) == b"a"
            assert await file.readinto1(room) == 1
        async with curio.aopen(path, "rb", buffering=0) as file:
            assert await file.readall() == b"ab"

    run(main)


def test_not_opened(path):
    """L67: RuntimeError before it is entered; what is opened is closed."""

    async def main():
        file = curio.aopen(path)
        with pytest.raises(RuntimeError, match="async with"):
            await file.read()
        with pytest.raises(RuntimeError, match="async with"):
            _ = file.name
        async with file:
            await file.close()
            await file.close()
        with pytest.raises(ValueError, match="closed"):
            await file.read()
        with pytest.raises(FileNotFoundError):
            async with curio.aopen(path.with_name("none")):
                pass

    run(main)


def test_plain_use(path):
    """L67: SyncIOError."""
    file = curio.aopen(path)
    with pytest.raises(curio.SyncIOError, match="async with"), file:
        pass
    with pytest.raises(curio.SyncIOError, match="async for"):
        list(file)


def test_blocking(path):
    async def main():
        async with curio.aopen(path) as file:
            with file.blocking() as raw:
                assert raw.read() == "one\ntwo\nthree"

    run(main)


def test_in_a_thread(path):
    """Another thread than the kernel's does the work; tasks run meanwhile."""

    class Slow:
        def __init__(self):
            self.begun, self.go = threading.Event(), threading.Event()

        def read(self):
            self.thread = threading.get_ident()
            self.begun.set()
            self.go.wait(30)
            return "text"

        def close(self):
            pass

    async def main():
        slow = Slow()
        async with AsyncFile(slow) as file:
            task = await curio.spawn(file.read())
            while not slow.begun.is_set():
                await curio.sleep(0.001)
            slow.go.set()
            assert await task.join() == "text"
            assert slow.thread != threading.get_ident()

    run(main)


def test_cancelled(path):
    """A write that nobody waits for any more is done before the next one."""
    gate, begun = threading.Event(), threading.Event()
    done = []

    class File:
        def write(self, text):
            if text == "first":
                begun.set()
                gate.wait(30)
            done.append(text)

        def close(self):
            done.append("closed")

    async def main():
        async with AsyncFile(File()) as file:
            task = await curio.spawn(file.write("first"))
            while not begun.is_set():
                await curio.sleep(0.001)
            await task.cancel()
            second = await curio.spawn(file.write("second"))
            await curio.sleep(0.02)
            assert done == []
            gate.set()
            await second.join()
        assert done == ["first", "second", "closed"]

    run(main)


def test_an_open_that_is_cancelled_closes_what_it_opens():
    gate, begun, closed = threading.Event(), threading.Event(), threading.Event()

    class File:
        def close(self):
            closed.set()

    def opener():
        begun.set()
        gate.wait(30)
        return File()

    async def main():
        async def use():
            async with AsyncFile(opener):
                pass

        task = await curio.spawn(use())
        while not begun.is_set():
            await curio.sleep(0.001)
        await task.cancel()
        gate.set()

    run(main)
    assert closed.wait(30)


def test_a_close_that_is_cancelled_before_it_has_a_thread_closes_the_file():
    gate, closed = threading.Event(), threading.Event()

    class File:
        def close(self):
            closed.set()

    async def main():
        async with curio.TaskGroup() as others:
            for _ in range(curio.workers.MAX_WORKER_THREADS):
                await others.spawn(curio.run_in_thread, gate.wait, 30)
            task = await curio.spawn(AsyncFile(File()).close)
            await task.cancel()
            gate.set()

    run(main)
    assert closed.wait(30)


def test_descriptors(path):
    async def main():
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            async with curio.aopen(path) as file:
                await file.read()
        assert len(os.listdir("/proc/self/fd")) == before

    curio.run(curio.run_in_thread, int)
    run(main)


def test_anext():
    """L68: with a sentinel and without."""

    async def numbers():
        yield 1

    async def main():
        iterator = numbers()
        assert await curio.anext(iterator) == 1
        assert await curio.anext(iterator, "end") == "end"
        with pytest.raises(StopAsyncIteration):
            await curio.anext(iterator)
        with pytest.raises(AttributeError):
            await curio.anext(1)

    run(main)
