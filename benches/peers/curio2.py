"""The loops on Curio: the new package, or Curio 1.6 when run as `curio16.py`.

Both run this same program: a task is spawned, joined and cancelled in the same words.
With `--monitor` first, the kernel is watched by the monitor.
"""

from __future__ import annotations

import sys
import threading

import curio
import curio.socket
from common import (
    FAR,
    certified,
    clock,
    cpu_clock,
    datagrams,
    listener,
    main,
    per,
    resident,
    stagger,
    version,
)

MONITOR = sys.argv[1:2] == ["--monitor"]
if MONITOR:
    del sys.argv[1]


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


async def spawn_group(size: int = 100, count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count // size):
        async with curio.TaskGroup() as group:
            for _ in range(size):
                await group.spawn(nothing)
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


async def queue_pingpong(count: int = 200_000) -> dict[str, float]:
    there = curio.Queue()
    back = curio.Queue()

    async def other() -> None:
        for _ in range(count // 2):
            await back.put(await there.get())

    handle = await curio.spawn(other)
    start = clock()
    for i in range(count // 2):
        await there.put(i)
        await back.get()
    elapsed = clock() - start
    await handle.join()
    return per(elapsed, count // 2 * 2)


async def queue_bounded(size: int = 100, count: int = 200_000) -> dict[str, float]:
    queue = curio.Queue(size)

    async def produce() -> None:
        for i in range(count):
            await queue.put(i)

    handle = await curio.spawn(produce)
    start = clock()
    for _ in range(count):
        await queue.get()
    elapsed = clock() - start
    await handle.join()
    return per(elapsed, count)


async def lock_free(count: int = 500_000) -> dict[str, float]:
    lock = curio.Lock()
    start = clock()
    for _ in range(count):
        async with lock:
            pass
    return per(clock() - start, count)


async def lock_contended(tasks: int = 10, count: int = 100_000) -> dict[str, float]:
    rounds = count // tasks
    lock = curio.Lock()
    stop = 0

    async def worker() -> None:
        nonlocal stop
        for _ in range(rounds):
            async with lock:
                await curio.sleep(0)
        stop = clock()

    handles = [await curio.spawn(worker) for _ in range(tasks)]
    start = clock()
    for handle in handles:
        await handle.join()
    return per(stop - start, rounds * tasks)


async def event_wake(tasks: int = 10_000, count: int = 200_000) -> dict[str, float]:
    async def once() -> int:
        event = curio.Event()
        woken = stop = 0

        async def waiter() -> None:
            nonlocal woken, stop
            await event.wait()
            woken += 1
            if woken == tasks:
                stop = clock()

        handles = [await curio.spawn(waiter) for _ in range(tasks)]
        await curio.sleep(0)
        start = clock()
        await event.set()
        for handle in handles:
            await handle.join()
        return stop - start

    rounds = count // tasks
    return per(sum([await once() for _ in range(rounds)]), rounds * tasks)


async def thread(count: int = 20_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        await curio.run_in_thread(int)
    return per(clock() - start, count)


async def process(size: int = 0, count: int = 10_000) -> dict[str, float]:
    argument = bytes(size)
    await curio.run_in_process(len, argument)
    start = clock()
    for _ in range(count):
        await curio.run_in_process(len, argument)
    return per(clock() - start, count)


async def subprocess(count: int = 500) -> dict[str, float]:
    from curio.subprocess import run

    start = clock()
    for _ in range(count):
        await run(["/bin/true"])
    return per(clock() - start, count)


async def universal_in(count: int = 200_000) -> dict[str, float]:
    queue = curio.UniversalQueue()

    def produce() -> None:
        for n in range(count):
            queue.put(n)

    start = clock()
    threading.Thread(target=produce).start()
    for _ in range(count):
        await queue.get()
    return per(clock() - start, count)


async def universal_out(count: int = 200_000) -> dict[str, float]:
    queue = curio.UniversalQueue()
    done = curio.UniversalEvent()

    def consume() -> None:
        for _ in range(count):
            queue.get()
        done.set()

    start = clock()
    threading.Thread(target=consume).start()
    for n in range(count):
        await queue.put(n)
    await done.wait()
    return per(clock() - start, count)


async def universal_pingpong(count: int = 20_000) -> dict[str, float]:
    there, back = curio.UniversalQueue(), curio.UniversalQueue()

    def serve() -> None:
        for _ in range(count):
            back.put(there.get())

    start = clock()
    threading.Thread(target=serve).start()
    for n in range(count):
        await there.put(n)
        await back.get()
    return per(clock() - start, count)


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


async def lines(buffer: int = 65_536) -> None:
    async def serve(client) -> None:
        async with client:
            if hasattr(client, "make_streams"):
                reader, writer = client.make_streams()
            else:
                reader = writer = client.as_stream()
            async for line in reader:
                await writer.write(line)

    await serve_with(serve)


async def tls_sock(buffer: int = 65_536) -> None:
    import curio.network
    import curio.ssl

    async def serve(client, address) -> None:
        while data := await client.recv(buffer):
            await client.sendall(data)

    context = certified(curio.ssl.create_default_context(curio.ssl.Purpose.CLIENT_AUTH))
    sock = listener(curio.socket.socket)
    await curio.network.run_server(sock, serve, ssl=context)


async def udp_sock(buffer: int = 65_536) -> None:
    sock = datagrams(curio.socket.socket)
    while True:
        data, address = await sock.recvfrom(buffer)
        await sock.sendto(data, address)


async def tell_version() -> dict[str, str]:
    return version("curio")


def run(function, *numbers: int) -> object:
    if MONITOR:
        return curio.run(function, *numbers, with_monitor=True)
    return curio.run(function, *numbers)


def program() -> None:
    workloads = (
        switch,
        spawn_join,
        spawn_many,
        spawn_group,
        timeout,
        timeout_block,
        cancel,
        sleepers,
    )
    sync = (queue_pingpong, queue_bounded, lock_free, lock_contended, event_wake, thread, process)
    sync += (subprocess, universal_in, universal_out, universal_pingpong)
    servers = (echo_sock, lines, tls_sock, udp_sock)
    others = {"memory": memory, "version": tell_version}
    main({work.__name__: work for work in workloads + sync + servers} | others, run)


if __name__ == "__main__":
    program()
