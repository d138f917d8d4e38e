"""The loops on asyncio; with `--loop uvloop` or `--loop rloop` first, on that event loop.

Four echo servers, because asyncio has as many faces: `echo_protocol` and `echo_buffered`
(callbacks, the latter with a buffer of their own: mostly the fastest), `echo_sock` (socket
calls) and `echo_stream` (what most programs are written with). `lines` is the stream server
a line at a time. TLS has the first and the last of these faces, datagrams the first and the
third.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from queue import SimpleQueue

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


async def spawn_group(size: int = 100, count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count // size):
        async with asyncio.TaskGroup() as group:
            for _ in range(size):
                group.create_task(nothing())
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


async def queue_pingpong(count: int = 200_000) -> dict[str, float]:
    there: asyncio.Queue[int] = asyncio.Queue()
    back: asyncio.Queue[int] = asyncio.Queue()

    async def other() -> None:
        for _ in range(count // 2):
            await back.put(await there.get())

    handle = asyncio.create_task(other())
    start = clock()
    for i in range(count // 2):
        await there.put(i)
        await back.get()
    elapsed = clock() - start
    await handle
    return per(elapsed, count // 2 * 2)


async def queue_bounded(size: int = 100, count: int = 200_000) -> dict[str, float]:
    queue: asyncio.Queue[int] = asyncio.Queue(size)

    async def produce() -> None:
        for i in range(count):
            await queue.put(i)

    handle = asyncio.create_task(produce())
    start = clock()
    for _ in range(count):
        await queue.get()
    elapsed = clock() - start
    await handle
    return per(elapsed, count)


async def lock_free(count: int = 500_000) -> dict[str, float]:
    lock = asyncio.Lock()
    start = clock()
    for _ in range(count):
        async with lock:
            pass
    return per(clock() - start, count)


async def lock_contended(tasks: int = 10, count: int = 100_000) -> dict[str, float]:
    rounds = count // tasks
    lock = asyncio.Lock()
    stop = 0

    async def worker() -> None:
        nonlocal stop
        for _ in range(rounds):
            async with lock:
                await asyncio.sleep(0)
        stop = clock()

    handles = [asyncio.create_task(worker()) for _ in range(tasks)]
    start = clock()
    for handle in handles:
        await handle
    return per(stop - start, rounds * tasks)


async def event_wake(tasks: int = 10_000, count: int = 200_000) -> dict[str, float]:
    async def once() -> int:
        event = asyncio.Event()
        woken = stop = 0

        async def waiter() -> None:
            nonlocal woken, stop
            await event.wait()
            woken += 1
            if woken == tasks:
                stop = clock()

        handles = [asyncio.create_task(waiter()) for _ in range(tasks)]
        await asyncio.sleep(0)
        start = clock()
        event.set()
        for handle in handles:
            await handle
        return stop - start

    rounds = count // tasks
    return per(sum([await once() for _ in range(rounds)]), rounds * tasks)


async def thread(count: int = 20_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        await asyncio.to_thread(int)
    return per(clock() - start, count)


async def process(size: int = 0, count: int = 10_000) -> dict[str, float]:
    argument, loop = bytes(size), asyncio.get_running_loop()
    with ProcessPoolExecutor(1) as pool:
        await loop.run_in_executor(pool, len, argument)
        start = clock()
        for _ in range(count):
            await loop.run_in_executor(pool, len, argument)
        return per(clock() - start, count)


async def subprocess(count: int = 500) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        process = await asyncio.create_subprocess_exec("/bin/true")
        await process.wait()
    return per(clock() - start, count)


async def universal_in(count: int = 200_000) -> dict[str, float]:
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[int]()

    def produce() -> None:
        for n in range(count):
            loop.call_soon_threadsafe(queue.put_nowait, n)

    start = clock()
    threading.Thread(target=produce).start()
    for _ in range(count):
        await queue.get()
    return per(clock() - start, count)


async def universal_out(count: int = 200_000) -> dict[str, float]:
    loop, there, done = asyncio.get_running_loop(), SimpleQueue[int](), asyncio.Event()

    def consume() -> None:
        for _ in range(count):
            there.get()
        loop.call_soon_threadsafe(done.set)

    start = clock()
    threading.Thread(target=consume).start()
    for n in range(count):
        there.put(n)
    await done.wait()
    return per(clock() - start, count)


async def universal_pingpong(count: int = 20_000) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    there, back = SimpleQueue[int](), asyncio.Queue[int]()

    def serve() -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(back.put_nowait, there.get())

    start = clock()
    threading.Thread(target=serve).start()
    for n in range(count):
        there.put(n)
        await back.get()
    return per(clock() - start, count)


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


def stream_server(buffer: int):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(buffer):
            writer.write(data)
            await writer.drain()
        writer.close()

    return serve


async def echo_stream(buffer: int = 65_536) -> None:
    await forever(asyncio.start_server(stream_server(buffer), sock=listener(), limit=buffer))


async def lines(buffer: int = 65_536) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
            await writer.drain()
        writer.close()

    await forever(asyncio.start_server(serve, sock=listener(), limit=buffer))


async def tls_protocol(buffer: int = 65_536) -> None:
    import ssl

    context = certified(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    loop = asyncio.get_running_loop()
    await forever(loop.create_server(Echo, sock=listener(), ssl=context))


async def tls_stream(buffer: int = 65_536) -> None:
    import ssl

    context = certified(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    serve = stream_server(buffer)
    await forever(asyncio.start_server(serve, sock=listener(), limit=buffer, ssl=context))


class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport) -> None:
        self.send = transport.sendto

    def datagram_received(self, data: bytes, addr) -> None:
        self.send(data, addr)


async def udp_protocol(buffer: int = 65_536) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(EchoDatagrams, sock=datagrams())
    await loop.create_future()
    transport.close()


async def udp_sock(buffer: int = 65_536) -> None:
    loop = asyncio.get_running_loop()
    sock = datagrams()
    sock.setblocking(False)
    while True:
        data, address = await loop.sock_recvfrom(sock, buffer)
        await loop.sock_sendto(sock, data, address)


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
    servers = (echo_protocol, echo_buffered, echo_sock, echo_stream, lines)
    servers += (tls_protocol, tls_stream, udp_protocol, udp_sock)
    others = {"memory": memory, "version": tell_version}
    main({work.__name__: work for work in workloads + sync + servers} | others, run)
