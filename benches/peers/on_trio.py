"""The loops on trio.

A nursery is trio's only way to start a task and to wait for it, so a spawn with its join is a
nursery of its own; many sleepers are cancelled by the scope of their nursery.
"""

from __future__ import annotations

import trio
import trio.testing
from common import FAR, clock, cpu_clock, listener, main, per, resident, stagger, version


async def nothing() -> None:
    pass


async def switch(tasks: int = 1_000, count: int = 1_000_000) -> dict[str, float]:
    rounds = count // tasks
    gate = trio.Event()
    stop = 0

    async def worker() -> None:
        nonlocal stop
        await gate.wait()
        for _ in range(rounds):
            await trio.sleep(0)
        stop = clock()

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(worker)
        await trio.testing.wait_all_tasks_blocked()
        start = clock()
        gate.set()
    return per(stop - start, rounds * tasks)


async def spawn_join(count: int = 100_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nothing)
    return per(clock() - start, count)


async def spawn_many(count: int = 200_000) -> dict[str, float]:
    start = clock()
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(nothing)
    return per(clock() - start, count)


async def timeout(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        with trio.fail_after(FAR):
            await nothing()
    return per(clock() - start, count)


async def timeout_block(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        with trio.fail_after(FAR):
            pass
    return per(clock() - start, count)


async def cancel(count: int = 50_000) -> dict[str, float]:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(trio.sleep, FAR)
        await trio.testing.wait_all_tasks_blocked()
        start = clock()
        nursery.cancel_scope.cancel()
    return per(clock() - start, count)


async def sleepers(count: int = 100_000) -> dict[str, float]:
    start = cpu_clock()
    async with trio.open_nursery() as nursery:
        for i in range(count):
            nursery.start_soon(trio.sleep, stagger(i))
    return per(cpu_clock() - start, count)


async def memory(count: int = 100_000) -> dict[str, float]:
    async with trio.open_nursery() as nursery:
        before = resident()
        for _ in range(count):
            nursery.start_soon(trio.sleep, FAR)
        await trio.testing.wait_all_tasks_blocked()
        result = {"bytes": (resident() - before) / count}
        nursery.cancel_scope.cancel()
    return result


async def echo_stream(buffer: int = 65_536) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some(buffer):
                await stream.send_all(data)

    sock = listener()
    sock.setblocking(False)
    await trio.serve_listeners(serve, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])


async def tell_version() -> dict[str, str]:
    return version("trio")


if __name__ == "__main__":
    workloads = (switch, spawn_join, spawn_many, timeout, timeout_block, cancel, sleepers)
    others = {"memory": memory, "echo_stream": echo_stream, "version": tell_version}
    main({work.__name__: work for work in workloads} | others, trio.run)
