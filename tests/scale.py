"""Large numbers: a million sleeping tasks, and ten thousand connections at once.

Prints the figures, and fails if a task or a connection is lost, or if descriptors are left
open. `make scale` runs it; smaller numbers can be given: `scale.py 100000 1000`.
"""

import asyncio
import gc
import os
import resource
import subprocess
import sys
import time

import curio
from curio.socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, socket


def resident():
    """Bytes of memory in use."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors():
    """How many descriptors are open."""
    return len(os.listdir("/proc/self/fd"))


def check(condition, text):
    """Print what was seen; end if it is not as it should be."""
    print(("ok   " if condition else "FAIL ") + text, flush=True)
    if not condition:
        sys.exit(1)


async def sleeper():
    """A task as users write them: a coroutine that waits."""
    await curio.sleep(100_000)


async def many_tasks(count):
    """Create, list and cancel sleeping tasks."""
    gc.collect()
    before, start = resident(), time.perf_counter()
    tasks = [await curio.spawn(sleeper) for _ in range(count)]
    await curio.sleep(0)
    created = time.perf_counter() - start
    each = (resident() - before) / count
    check(
        all(task.state == "TIME_SLEEP" for task in tasks),
        f"{count} sleeping tasks, {created / count * 1e6:.2f} µs and {each:.0f} bytes each",
    )

    start = time.perf_counter()
    listed = len(curio.get_all_tasks())
    seconds = time.perf_counter() - start
    check(listed == count + 1, f"{listed} tasks listed in {seconds:.2f} s")

    start = time.perf_counter()
    await (await curio.current_task()).cancel_children()
    seconds = time.perf_counter() - start
    ended = all(task.terminated and task.cancelled for task in tasks)
    check(ended, f"all cancelled in {seconds:.2f} s, {seconds / count * 1e6:.2f} µs each")
    check(len(curio.get_all_tasks()) == 1, "none is left")


async def echo(client):
    """What comes goes back."""
    while data := await client.recv(1000):
        await client.sendall(data)


async def echo_lines(client):
    """The same, line by line."""
    stream = client.as_stream()
    async for line in stream:
        await stream.write(line)


async def serve(listening, talk, served):
    """Serve, with a task for each connection."""

    async def serve_client(client):
        async with client:
            await talk(client)
        served.append(1)

    async with listening:
        while True:
            client, _ = await listening.accept()
            await curio.spawn(serve_client(client))


async def many_connections(count, talk):
    """Keep `count` connections open at once, each with several echoes; then let them go."""
    before = descriptors()
    listening = socket(AF_INET, SOCK_STREAM)
    listening.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(4096)
    port, served = listening.getsockname()[1], []
    server = await curio.spawn(serve, listening, talk, served)
    with subprocess.Popen(
        [sys.executable, __file__, "--clients", str(port), str(count)],
        stdout=subprocess.PIPE,
        text=True,
    ) as clients:
        most = 0
        while clients.poll() is None:
            most = max(most, len(server.children))
            await curio.sleep(0.05)
        said = clients.stdout.read().strip()
    check(clients.returncode == 0, f"clients: {said}")
    while server.children:
        await curio.sleep(0.01)
    check(
        len(served) == count and most == count,
        f"{talk.__name__}: {most} at once, {len(served)} served",
    )
    await server.cancel()
    check(descriptors() == before, f"{descriptors()} descriptors open, as before")


async def clients(port, count):
    """The other side, on the standard library: all connect, then all echo, then all leave."""
    gate = asyncio.Semaphore(200)

    async def connect():
        async with gate:
            return await asyncio.open_connection("127.0.0.1", port)

    streams = await asyncio.gather(*(connect() for _ in range(count)))

    async def talk(reader, writer, number):
        for turn in range(5):
            message = b"%d %d\n" % (number, turn)
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
        return 5

    turns = await asyncio.gather(*(talk(*pair, n) for n, pair in enumerate(streams)))
    await asyncio.sleep(0.2)
    for _, writer in streams:
        writer.close()
    print(f"{len(streams)} connections, {sum(turns)} echoes, no error")


def main(tasks=1_000_000, connections=10_000):
    """Both parts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 100
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if hard < wanted:
        connections = hard - 100
        print(f"only {hard} descriptors are allowed here: {connections} connections")
    curio.run(many_tasks, tasks)
    gc.collect()
    for talk in echo, echo_lines:
        sizes = []
        for _ in range(3):
            curio.run(many_connections, connections, talk)
            gc.collect()
            sizes.append(resident())
        # The first time fills the allocator's arenas; after that they are used again.
        grown = (sizes[-1] - sizes[0]) / connections
        check(grown < 100, f"{talk.__name__}: {grown:.0f} bytes more a connection after 3 times")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--clients"]:
        asyncio.run(clients(int(sys.argv[2]), int(sys.argv[3])))
    else:
        main(*map(int, sys.argv[1:]))
