"""The loops on asyncio; with `--loop uvloop` or `--loop rloop` first, on that event loop.

Four echo servers, because asyncio has as many faces: `echo_protocol` and `echo_buffered`
(callbacks, the latter with a buffer of their own: mostly the fastest), `echo_sock` (socket
calls) and `echo_stream` (what most programs are written with). `readline` is the stream server
a line at a time.
"""

from __future__ import annotations

import asyncio
import sys

from common import FAR, clock, cpu_clock, listener, main, per, resident, stagger, version

LOOP = "asyncio"
if sys.argv[1:2] == ["--loop"]:
    LOOP = sys.argv[2]
    del sys.argv[1:3]


async def nothing() -> None:
    pass


async def switch(tasks: int = 1_000, count: int = 1_000_000) -> dict[str, float]:
    rounds = count // tasks
    gate = asyncio.Event()
    stop = 0

    async def worker() -> None:
        nonlocal stop
        await gate.wait()
        for _ in range(rounds):
            await asyncio.sleep(0)
        stop = clock()

    handles = [asyncio.create_task(worker()) for _ in range(tasks)]
    await asyncio.sleep(0)
    start = clock()
    gate.set()
    for handle in handles:
        await handle
    return per(stop - start, rounds * tasks)


async def spawn_join(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        await asyncio.create_task(nothing())
    return per(clock() - start, count)


async def spawn_many(count: int = 200_000) -> dict[str, float]:
    start = clock()
    handles = [asyncio.create_task(nothing()) for _ in range(count)]
    for handle in handles:
        await handle
    return per(clock() - start, count)


async def timeout(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        await asyncio.wait_for(nothing(), FAR)
    return per(clock() - start, count)


async def timeout_block(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        async with asyncio.timeout(FAR):
            pass
    return per(clock() - start, count)


async def cancel(count: int = 50_000) -> dict[str, float]:
    handles = [asyncio.create_task(asyncio.sleep(FAR)) for _ in range(count)]
    await asyncio.sleep(0)
    start = clock()
    for handle in handles:
        handle.cancel()
    for handle in handles:
        try:
            await handle
        except asyncio.CancelledError:
            pass
    return per(clock() - start, count)


async def sleepers(count: int = 100_000) -> dict[str, float]:
    start = cpu_clock()
    handles = [asyncio.create_task(asyncio.sleep(stagger(i))) for i in range(count)]
    for handle in handles:
        await handle
    return per(cpu_clock() - start, count)


async def memory(count: int = 100_000) -> dict[str, float]:
    handles: list[asyncio.Task[None]] = []
    before = resident()
    for _ in range(count):
        handles.append(asyncio.create_task(asyncio.sleep(FAR)))
    await asyncio.sleep(0)
    return {"bytes": (resident() - before) / len(handles)}


async def forever(starting) -> None:
    """Keeps a server; rloop's closes its listener when `serve_forever` starts it again."""
    server = await starting
    await asyncio.get_running_loop().create_future()
    server.close()


class Echo(asyncio.Protocol):
    def connection_made(self, transport) -> None:
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def echo_protocol(buffer: int = 65_536) -> None:
    await forever(asyncio.get_running_loop().create_server(Echo, sock=listener()))


class BufferedEcho(asyncio.BufferedProtocol):
    size = 65_536

    def connection_made(self, transport) -> None:
        self.write = transport.write
        self.view = memoryview(bytearray(self.size))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.view

    def buffer_updated(self, nbytes: int) -> None:
        self.write(bytes(self.view[:nbytes]))


async def echo_buffered(buffer: int = 65_536) -> None:
    BufferedEcho.size = buffer
    await forever(asyncio.get_running_loop().create_server(BufferedEcho, sock=listener()))


async def echo_sock(buffer: int = 65_536) -> None:
    loop = asyncio.get_running_loop()
    sock = listener()
    sock.setblocking(False)
    clients = set()

    async def serve(client) -> None:
        with client:
            while data := await loop.sock_recv(client, buffer):
                await loop.sock_sendall(client, data)

    while True:
        client, _ = await loop.sock_accept(sock)
        client.setblocking(False)
        task = asyncio.create_task(serve(client))
        clients.add(task)
        task.add_done_callback(clients.discard)


async def echo_stream(buffer: int = 65_536) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(buffer):
            writer.write(data)
            await writer.drain()
        writer.close()

    await forever(asyncio.start_server(serve, sock=listener(), limit=buffer))


async def readline(buffer: int = 65_536) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    await forever(asyncio.start_server(serve, sock=listener(), limit=buffer))


async def tell_version() -> dict[str, str]:
    return version(None if LOOP == "asyncio" else LOOP)


def run(function, *numbers: int) -> object:
    if LOOP == "asyncio":
        return asyncio.run(function(*numbers))
    loop = __import__(LOOP).new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(function(*numbers))
    finally:
        loop.close()


if __name__ == "__main__":
    workloads = (switch, spawn_join, spawn_many, timeout, timeout_block, cancel, sleepers)
    servers = (echo_protocol, echo_buffered, echo_sock, echo_stream, readline)
    others = {"memory": memory, "version": tell_version}
    main({work.__name__: work for work in workloads + servers} | others, run)
