"""What type checkers know of programs: `make stubs` checks this file, strictly; nothing runs it."""

import curio
from curio import Queue, Task
from curio.io import Socket
from typing_extensions import assert_type


async def square(n: int) -> int:
    await curio.sleep(0.01)
    return n * n


async def echo(client: Socket, address: object) -> None:
    async with client.as_stream() as stream:
        async for line in stream:
            await stream.write(line)


async def consume(queue: Queue[int]) -> None:
    while True:
        item = await queue.get()
        assert_type(item, int)
        await queue.task_done()


async def primitives() -> None:
    event, lock, rlock, slots = curio.Event(), curio.Lock(), curio.RLock(), curio.Semaphore(2)
    async with lock, rlock, slots:
        await event.set()
    condition = curio.Condition(lock)
    async with condition:
        assert_type(await condition.wait_for(event.is_set), bool)
    result: curio.Result[int] = curio.Result()
    assert_type(await result.unwrap(), int)
    both = curio.UniversalQueue[str]()
    await both.put("x")
    print(await both.get())
    flag = curio.UniversalEvent()
    await flag.wait()
    async with curio.SignalSet(2) as signals:
        assert_type(await signals.wait(), int)


def area(width: int, height: int) -> int:
    return width * height


async def elsewhere() -> None:
    working = await curio.spawn(curio.run_in_process, area, 2, 3)
    await working.cancel()
    assert_type(await curio.run_in_process(len, "abc"), int)
    assert_type(await curio.run_in_process(int, "ff", base=16), int)
    assert_type(await curio.timeout_after(1, curio.run_in_thread, len, "abc"), int)
    process = await curio.run_in_thread(len, "abc", call_on_cancel=print)
    assert_type(process, int)


async def main() -> str:
    task = await curio.spawn(square, 7)
    assert_type(task, Task[int])
    assert_type(await task.join(), int)
    other: Task[int] = await curio.spawn(square(3))
    assert_type(await curio.timeout_after(1, square, 2), int)
    assert_type(await curio.timeout_after(1, task.join()), int)
    assert_type(await curio.ignore_after(1, square, 2), "int | None")
    async with curio.timeout_after(1):
        await curio.sleep(0)
    async with curio.ignore_after(0.1) as limit:
        await curio.sleep(1)
    assert_type(limit.expired, bool)
    async with curio.TaskGroup() as group:
        for n in range(3):
            await group.spawn(square, n)
    lock = curio.Lock()
    async with lock:
        pass
    assert_type(await curio.run_in_thread(int, "5"), int)
    sock = await curio.open_connection("localhost", 80)
    async with sock:
        assert_type(await sock.recv(100), bytes)
    await curio.tcp_server("", 25000, echo)
    await curio.spawn(curio.tcp_server, "", 2500, echo)
    await curio.spawn(consume, Queue[int]())
    await curio.spawn(square, "x")  # type: ignore[arg-type]
    assert_type(await curio.gather([task, other]), list[int])
    async with curio.SignalQueue(1) as signals:
        assert_type(signals, curio.SignalQueue)
    return "done"


assert_type(curio.run(main), str)
with curio.Kernel() as kernel:
    assert_type(kernel.run(square, 2), int)
