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
