"""The loops on trio.

A nursery is trio's only way to start a task and to wait for it, so a spawn with its join is a
nursery of its own; many sleepers are cancelled by the scope of their nursery.
"""

from __future__ import annotations

import math
import threading
from queue import SimpleQueue

import trio
import trio.testing
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


async def spawn_group(size: int = 100, count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count // size):
        async with trio.open_nursery() as nursery:
            for _ in range(size):
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


async def queue_pingpong(count: int = 200_000) -> dict[str, float]:
    to_there, there = trio.open_memory_channel[int](math.inf)
    to_back, back = trio.open_memory_channel[int](math.inf)

    async def other() -> None:
        for _ in range(count // 2):
            await to_back.send(await there.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        start = clock()
        for i in range(count // 2):
            await to_there.send(i)
            await back.receive()
        elapsed = clock() - start
    return per(elapsed, count // 2 * 2)


async def queue_bounded(size: int = 100, count: int = 200_000) -> dict[str, float]:
    sender, receiver = trio.open_memory_channel[int](size)

    async def produce() -> None:
        for i in range(count):
            await sender.send(i)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        start = clock()
        for _ in range(count):
            await receiver.receive()
        elapsed = clock() - start
    return per(elapsed, count)


async def lock_free(count: int = 500_000) -> dict[str, float]:
    lock = trio.Lock()
    start = clock()
    for _ in range(count):
        async with lock:
            pass
    return per(clock() - start, count)


async def lock_contended(tasks: int = 10, count: int = 100_000) -> dict[str, float]:
    rounds = count // tasks
    lock = trio.Lock()
    stop = 0

    async def worker() -> None:
        nonlocal stop
        for _ in range(rounds):
            async with lock:
                await trio.sleep(0)
        stop = clock()

    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(worker)
        start = clock()
    return per(stop - start, rounds * tasks)


async def event_wake(tasks: int = 10_000, count: int = 200_000) -> dict[str, float]:
    async def once() -> int:
        event = trio.Event()
        woken = stop = 0

        async def waiter() -> None:
            nonlocal woken, stop
            await event.wait()
            woken += 1
            if woken == tasks:
                stop = clock()

        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(waiter)
            await trio.testing.wait_all_tasks_blocked()
            start = clock()
            event.set()
        return stop - start

    rounds = count // tasks
    return per(sum([await once() for _ in range(rounds)]), rounds * tasks)


async def thread(count: int = 20_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        await trio.to_thread.run_sync(int)
    return per(clock() - start, count)


async def subprocess(count: int = 500) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        await trio.run_process(["/bin/true"])
    return per(clock() - start, count)


async def universal_in(count: int = 200_000) -> dict[str, float]:
    token = trio.lowlevel.current_trio_token()
    sender, receiver = trio.open_memory_channel[int](math.inf)

    def produce() -> None:
        for n in range(count):
            token.run_sync_soon(sender.send_nowait, n)

    start = clock()
    threading.Thread(target=produce).start()
    for _ in range(count):
        await receiver.receive()
    return per(clock() - start, count)


async def universal_pingpong(count: int = 20_000) -> dict[str, float]:
    token, there = trio.lowlevel.current_trio_token(), SimpleQueue[int]()
    back, receiver = trio.open_memory_channel[int](math.inf)

    def serve() -> None:
        for _ in range(count):
            token.run_sync_soon(back.send_nowait, there.get())

    start = clock()
    threading.Thread(target=serve).start()
    for n in range(count):
        there.put(n)
        await receiver.receive()
    return per(clock() - start, count)


async def memory(count: int = 100_000) -> dict[str, float]:
    async with trio.open_nursery() as nursery:
        before = resident()
        for _ in range(count):
            nursery.start_soon(trio.sleep, FAR)
        await trio.testing.wait_all_tasks_blocked()
        result = {"bytes": (resident() - before) / count}
        nursery.cancel_scope.cancel()
    return result


def stream_listener() -> trio.SocketListener:
    sock = listener()
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def stream_server(buffer: int):
    async def serve(stream: trio.abc.Stream) -> None:
        async with stream:
            while data := await stream.receive_some(buffer):
                await stream.send_all(data)

    return serve


async def echo_stream(buffer: int = 65_536) -> None:
    await trio.serve_listeners(stream_server(buffer), [stream_listener()])


async def lines(buffer: int = 65_536) -> None:
    # trio has no lines: this is how its users find them.
    async def serve(stream: trio.SocketStream) -> None:
        kept = bytearray()
        async with stream:
            while True:
                looked = 0
                while (end := kept.find(b"\n", looked) + 1) == 0:
                    looked = len(kept)
                    data = await stream.receive_some(buffer)
                    if not data:
                        return
                    kept += data
                line = bytes(kept[:end])
                del kept[:end]
                await stream.send_all(line)

    await trio.serve_listeners(serve, [stream_listener()])


async def tls_stream(buffer: int = 65_536) -> None:
    import ssl

    context = certified(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    tls = trio.SSLListener(stream_listener(), context, https_compatible=True)
    await trio.serve_listeners(stream_server(buffer), [tls])


async def udp_sock(buffer: int = 65_536) -> None:
    sock = datagrams()
    sock.setblocking(False)
    udp = trio.socket.from_stdlib_socket(sock)
    while True:
        data, address = await udp.recvfrom(buffer)
        await udp.sendto(data, address)


async def tell_version() -> dict[str, str]:
    return version("trio")


if __name__ == "__main__":
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
    sync = (queue_pingpong, queue_bounded, lock_free, lock_contended, event_wake, thread)
    sync += (subprocess, universal_in, universal_pingpong)
    servers = (echo_stream, lines, tls_stream, udp_sock)
    others = {"memory": memory, "version": tell_version}
    main({work.__name__: work for work in workloads + sync + servers} | others, trio.run)
