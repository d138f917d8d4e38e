"""Everything at once, for ten minutes: `make soak`, or `python tests/soak.py SECONDS CONNECTIONS`.

One kernel serves thousands of connections of another process, lines and TLS, while its tasks
pass items through queues, call threads and worker processes, and run programs; and all the time
one of its tasks is cancelled or timed out at random. Prints what was done, memory and descriptors,
and fails if a task crashes, an item, a byte or a line is lost, or descriptors or memory are
not given back.
"""

import asyncio
import gc
import hashlib
import json
import logging
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections import Counter

import curio
import trustme
from curio import network, ssl, subprocess
from curio.thread import AWAIT

#: How many of each kind are at work.
CREW = 8

#: A client waits so long for its line before it counts as lost.
LOST = 60


class Log(logging.Handler):
    """What the kernel complains of: here, nothing."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.texts = []

    def emit(self, record):
        self.texts.append(self.format(record))


class World:
    """What all work with, and what they have done."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.done = Counter()
        self.errors = []
        self.victims = []
        self.ending = False
        self.queues = [
            curio.Queue(maxsize=5),
            curio.PriorityQueue(),
            curio.UniversalQueue(maxsize=5),
        ]
        # Items that only one side has seen: in the end there is none.
        self.halves = [set() for _ in self.queues]
        self.lock = curio.Lock()
        self.inside = 0
        self.numbers = iter(range(1, sys.maxsize))
        authority = trustme.CA()
        self.theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self.theirs)
        self.ours = ssl.create_default_context()
        authority.configure_trust(self.ours)
        self.address = self.secure_address = None

    def see(self, which, item):
        """A side has put it, or got it."""
        self.halves[which] ^= {item}

    def soon(self, most=0.05):
        """A time in seconds, mostly short."""
        return self.random.expovariate(2 / most)


# --- The work: each of these does one piece of it, and may be cancelled anywhere.


async def put_items(world):
    which = world.random.randrange(len(world.queues))
    for _ in range(20):
        item = next(world.numbers)
        # Who is interrupted has put nothing.
        async with curio.ignore_after(world.soon()):
            await world.queues[which].put(item)
            world.see(which, item)
        await curio.sleep(world.soon(0.005))


async def get_items(world):
    which = world.random.randrange(len(world.queues))
    for _ in range(20):
        async with curio.ignore_after(world.soon()):
            item = await world.queues[which].get()
            world.see(which, item)
            world.done["items"] += 1
            async with curio.disable_cancellation():
                await world.queues[which].task_done()


async def put_from_thread(world):
    def puts():
        for _ in range(10):
            item = next(world.numbers)
            try:
                AWAIT(world.queues[2].put, item)
            except curio.CancelledError:
                return
            world.see(2, item)

    thread = await curio.spawn_thread(puts)
    try:
        await thread.join()
    finally:
        await thread.cancel()
    world.done["async threads"] += 1


async def take_lock(world):
    async with world.lock:
        assert world.inside == 0, "two are inside of a lock"
        world.inside += 1
        try:
            await curio.sleep(world.soon(0.002))
        finally:
            world.inside -= 1
    world.done["locks"] += 1


async def talk_in_secret(world):
    sock = await curio.open_connection(*world.secure_address, ssl=world.ours)
    async with sock:
        stream = sock.as_stream()
        for number in range(10):
            line = b"%d " % number * world.random.randrange(1, 2000) + b"\n"
            writing = await curio.spawn(stream.write, line)
            answer = None
            try:
                while answer is None:
                    # However often it is given up, the line comes whole.
                    answer = await curio.ignore_after(world.soon(), stream.readline())
            finally:
                await writing.cancel()
            assert answer == line, f"{len(line)} bytes were said, {len(answer)} came back"
            world.done["TLS lines"] += 1


async def call_thread(world):
    async with curio.ignore_after(world.soon(0.02)):
        number = next(world.numbers)
        assert await curio.run_in_thread(abs, -number) == number
        await curio.run_in_thread(time.sleep, 0.001)
        world.done["calls in threads"] += 1
    await curio.sleep(world.soon())


async def call_process(world):
    # Who gives up ends the worker; that must not happen all the time.
    limit = 0.01 if world.random.random() < 0.02 else None
    async with curio.ignore_after(limit):
        number = next(world.numbers)
        assert await curio.run_in_process(pow, 7, number, 1009) == pow(7, number, 1009)
        world.done["calls in processes"] += 1
    await curio.sleep(world.soon(0.5))


async def run_program(world):
    data = os.urandom(world.random.randrange(200_000))
    limit = 0.001 if world.random.random() < 0.1 else None
    async with curio.ignore_after(limit):
        ended = await subprocess.run(["cat"], input=data, stdout=subprocess.PIPE)
        assert ended.returncode == 0 and ended.stdout == data, "a program's output is lost"
        world.done["programs"] += 1
    await curio.sleep(world.soon(0.5))


async def write_file(world):
    data = os.urandom(10_000)
    path = os.path.join(world.directory, str(next(world.numbers)))
    async with curio.aopen(path, "w+b") as file:
        await file.write(data)
        await file.seek(0)
        assert await file.read() == data, "what was written is not read"
        world.done["files"] += 1
    os.unlink(path)
    await curio.sleep(world.soon(0.2))


async def gather_some(world):
    async def part(number):
        await curio.sleep(world.soon())
        return number

    async with curio.TaskGroup() as group:
        tasks = [await group.spawn(part, number) for number in range(10)]
    assert [task.result for task in tasks] == list(range(10))
    world.done["groups"] += 1


WORK = [
    put_items,
    get_items,
    put_from_thread,
    take_lock,
    talk_in_secret,
    call_thread,
    call_process,
    run_program,
    write_file,
    gather_some,
]


# --- Who keeps it going, and who disturbs it.


async def keep(world, work):
    """Have this done over and over; who was cancelled is followed by another."""
    while not world.ending:
        task = await curio.spawn(work, world)
        world.victims.append(task)
        await task.wait()
        world.victims.remove(task)
        if task.cancelled:
            world.done["cancellations"] += 1
        elif task.exception is not None:
            world.errors.append(f"{work.__name__}: {task.exception!r}")


async def disturb(world):
    while True:
        await curio.sleep(world.soon(0.02))
        if world.victims:
            await world.random.choice(world.victims).cancel(blocking=False)


async def echo(client, _address):
    try:
        async with client:
            stream = client.as_stream()
            async for line in stream:
                await stream.write(line)
    except (ConnectionError, ssl.SSLError):
        pass  # The client has gone in the middle of it.


async def drain(world):
    """Nobody puts any more."""
    for which, queue in enumerate(world.queues):
        while queue.qsize():
            world.see(which, await queue.get())
            await queue.task_done()
        async with curio.timeout_after(10):
            await queue.join()
        if halves := world.halves[which]:
            world.errors.append(f"{len(halves)} items were lost, or came twice, or from nowhere")


def resident():
    """MiB of memory in use, after a collection."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def warm_up():
    """Fill the pools: what they hold, they keep."""
    async with curio.TaskGroup() as group:
        for _ in range(curio.workers.MAX_WORKER_PROCESSES):
            await group.spawn(curio.run_in_process, time.sleep, 0.2)
        await group.spawn(curio.run_in_thread, int)


async def soak(world, seconds, connections):
    await warm_up()
    figures = {"descriptors": [descriptors()]}
    lines = network.create_server("127.0.0.1", 0, echo, backlog=4096)
    secrets = network.create_server("127.0.0.1", 0, echo, ssl=world.theirs)
    world.address, world.secure_address = lines.address, secrets.address
    servers = [await curio.spawn(server.serve_forever) for server in (lines, secrets)]
    arguments = [str(lines.address[1]), str(seconds), str(connections)]
    clients = subprocess.Popen(
        [sys.executable, __file__, "--clients", *arguments], stdout=subprocess.PIPE
    )
    crew = [await curio.spawn(keep, world, work) for work in WORK for _ in range(CREW)]
    disturbing = await curio.spawn(disturb, world)
    # The first fifth fills caches and the allocator's arenas.
    await curio.sleep(seconds / 5)
    figures["memory"] = [resident()]
    world.most = 0
    said = await curio.spawn(clients.communicate)
    for _ in range(16):
        await curio.sleep(seconds / 20)
        figures["memory"].append(resident())
        world.most = max(world.most, len(servers[0].children))
    async with curio.timeout_after(LOST + 60):
        out, _ = await said.join()
    world.ending = True
    async with curio.timeout_after(60):
        for task in crew:
            await task.join()
    await disturbing.cancel()
    for server in servers:
        await server.cancel()
    await drain(world)
    figures["clients"] = json.loads(out)
    return figures


# --- The other side, on the standard library.


async def client(port, until, done, gate):
    turn = 0
    while time.monotonic() < until:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            # One connection in a hundred is left in the middle of a line.
            while time.monotonic() < until:
                await asyncio.sleep(random.uniform(0, 8))
                turn += 1
                line = b"%d %d\n" % (turn, id(reader)) * 5
                writer.write(line)
                if random.random() < 0.01:
                    writer.transport.abort()
                    done["left"] += 1
                    break
                answer = await asyncio.wait_for(reader.readexactly(len(line)), LOST)
                if answer != line:
                    done["changed"] += 1
                done["lines"] += 1
        except Exception as error:
            done["lost"] += 1
            print(repr(error), file=sys.stderr)
        finally:
            writer.close()


async def all_clients(port, seconds, connections):
    done, gate = Counter(lines=0, left=0, lost=0, changed=0), asyncio.Semaphore(200)
    until = time.monotonic() + seconds
    await asyncio.gather(*(client(port, until, done, gate) for _ in range(connections)))
    print(json.dumps(done))


# --- The whole.


def check(condition, text):
    print(("ok   " if condition else "FAIL ") + text, flush=True)
    return condition


def main(seconds=600, connections=10_000):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, connections + 1000), hard), hard))
    log = Log()
    logging.getLogger("curio").addHandler(log)
    threading.excepthook = lambda args: world.errors.append(f"in a thread: {args.exc_value!r}")
    sys.unraisablehook = lambda args: world.errors.append(f"unraisable: {args.exc_value!r}")
    seed = int(hashlib.sha256(os.urandom(8)).hexdigest()[:8], 16)
    world = World(seed)
    with tempfile.TemporaryDirectory() as directory:
        world.directory = directory
        figures = curio.run(soak, world, seconds, connections)
    print(", ".join(f"{count} {what}" for what, count in sorted(world.done.items())))
    memory = [round(size) for size in figures["memory"]]
    print(f"     MiB of memory, from the first fifth to the end: {memory}")
    clients = figures["clients"]
    left = descriptors()
    begun = figures["descriptors"][0]
    good = [
        check(not world.errors, f"errors: {len(world.errors)} {world.errors[:3]}"),
        check(not log.texts, f"tasks that crashed: {len(log.texts)} {log.texts[:1]}"),
        check(
            clients["lost"] == clients["changed"] == 0,
            f"{world.most} connections at once; {clients['lines']} lines came back, "
            f"{clients['lost'] + clients['changed']} did not; {clients['left']} left in the middle",
        ),
        check(world.most > 0.9 * connections, "nearly all of them were connected"),
        check(max(memory[-4:]) < 1.2 * max(memory[:4]) + 10, "memory does not grow"),
        check(left <= begun, f"{left} descriptors in the end, {begun} in the beginning"),
    ]
    return not all(good)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--clients"]:
        asyncio.run(all_clients(*map(int, sys.argv[2:])))
    else:
        sys.exit(main(*map(int, sys.argv[1:])))
