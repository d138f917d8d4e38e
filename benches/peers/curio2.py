"""The loops on Curio: the new package, or Curio 1.6 when run as `curio16.py`.

Both run this same program: a task is spawned, joined and cancelled in the same words.
"""

from __future__ import annotations

import curio
import curio.socket
from common import FAR, clock, cpu_clock, listener, main, per, resident, stagger, version


async def nothing() -> None:
    pass


async def switch(tasks: int = 1_000, count: int = 1_000_000) -> dict[str, float]:
    rounds = count // tasks
    stop = 0

    async def worker() -> None:
        nonlocal stop
        for _ in range(rounds):
            await curio.sleep(0)
        stop = clock()

    # The task of a coroutine function waits for its turn: none starts before all are there.
    handles = [await curio.spawn(worker) for _ in range(tasks)]
    start = clock()
    for handle in handles:
        await handle.join()
    return per(stop - start, rounds * tasks)


async def spawn_join(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        task = await curio.spawn(nothing())
        await task.join()
    return per(clock() - start, count)


async def spawn_many(count: int = 200_000) -> dict[str, float]:
    start = clock()
    handles = [await curio.spawn(nothing) for _ in range(count)]
    for handle in handles:
        await handle.join()
    return per(clock() - start, count)


async def timeout(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        await curio.timeout_after(FAR, nothing())
    return per(clock() - start, count)


async def timeout_block(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        async with curio.timeout_after(FAR):
            pass
    return per(clock() - start, count)


async def cancel(count: int = 50_000) -> dict[str, float]:
    handles = [await curio.spawn(curio.sleep(FAR)) for _ in range(count)]
    await curio.sleep(0)
    me = await curio.current_task()
    start = clock()
    if hasattr(me, "cancel_children"):
        # Asks all, then waits for all, as the others' loops do.
        await me.cancel_children()
    else:
        for handle in handles:
            await handle.cancel()
    return per(clock() - start, count)


async def sleepers(count: int = 100_000) -> dict[str, float]:
    start = cpu_clock()
    handles = [await curio.spawn(curio.sleep(stagger(i))) for i in range(count)]
    for handle in handles:
        await handle.join()
    return per(cpu_clock() - start, count)


async def memory(count: int = 100_000) -> dict[str, float]:
    handles = []
    before = resident()
    for _ in range(count):
        handles.append(await curio.spawn(curio.sleep(FAR)))
    await curio.sleep(0)
    return {"bytes": (resident() - before) / len(handles)}


async def serve_with(handler) -> None:
    """Serves every connection in a task of its own."""
    sock = listener(curio.socket.socket)
    while True:
        client, _ = await sock.accept()
        await curio.spawn(handler(client), daemon=True)


async def echo_sock(buffer: int = 65_536) -> None:
    async def serve(client) -> None:
        async with client:
            while data := await client.recv(buffer):
                await client.sendall(data)

    await serve_with(serve)


async def readline(buffer: int = 65_536) -> None:
    async def serve(client) -> None:
        async with client.as_stream() as stream:
            while line := await stream.readline():
                await stream.write(line)

    await serve_with(serve)


async def tell_version() -> dict[str, str]:
    return version("curio")


def program() -> None:
    workloads = (switch, spawn_join, spawn_many, timeout, timeout_block, cancel, sleepers)
    servers = (echo_sock, readline)
    others = {"memory": memory, "version": tell_version}
    main({work.__name__: work for work in workloads + servers} | others, curio.run)


if __name__ == "__main__":
    program()
