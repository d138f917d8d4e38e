"""Every public operation that can block, interrupted in every place where it does.

Each program here uses a few operations, and states what must hold whatever has happened: what
was put in is still there or has come out, what was taken is free. `interrupt_everywhere` runs it
once for each place, cancelled and timed out there. Beyond what that finds (a task that can never go
on, a lock that stays locked, a socket left open) descriptors, threads and children are counted.

The last test looks for operations that no program uses. `python tests/test_interrupt_everything.py`
prints a table of the programs, their places and their runs.
"""

import concurrent.futures
import functools
import gc
import importlib
import inspect
import logging
import os
import pkgutil
import signal
import socket as plain
import tempfile
import threading
import time

import curio
import pytest
from curio import channel, network, socket, ssl, subprocess, testing
from curio.meta import finalize
from curio.queue import LifoQueue, PriorityQueue, Queue
from curio.thread import AWAIT

trustme = pytest.importorskip("trustme")

PROGRAMS = {}
KEY = b"open sesame"


def uses(*operations, **variants):
    """Marks a program, and says which operations it is about."""

    def mark(function):
        PROGRAMS[function.__name__] = function
        function.uses = operations
        function.variants = variants.get("variants", [()])
        return function

    return mark


async def together(*functions):
    """Runs them as tasks, to their ends; if one fails, the others are cancelled."""
    async with curio.TaskGroup() as group:
        for function in functions:
            await group.spawn(function)


# --- Time.


@uses("sleep", "wake_at", "clock", "schedule")
async def sleeping():
    before = await curio.clock()
    await curio.sleep(1)
    await curio.wake_at(before + 2)
    assert await curio.clock() - before == 2
    await curio.schedule()


@uses("timeout_after", "timeout_at", "ignore_after", "ignore_at", "stop_after")
async def limits():
    begun = await curio.clock()
    for limit in curio.timeout_after, curio.timeout_at:
        with pytest.raises(curio.TaskTimeout):
            await limit(0.5, curio.sleep, 1000)
    async with curio.ignore_after(0.5) as inner:
        await curio.sleep(1000)
    assert inner.expired
    assert await curio.ignore_at(0.5, curio.sleep, 1000) is None
    async with curio.timeout_after(1000), curio.stop_after(0.5):
        await curio.sleep(1000)
    assert await curio.clock() - begun <= 1.5


# --- Tasks.


async def ends(result=None):
    await curio.sleep(1)
    return result


@uses("spawn", "Task.join", "Task.wait", "current_task", "gather")
async def tasks():
    tasks = [await curio.spawn(ends, number) for number in range(3)]
    try:
        await tasks[0].wait()
        assert await tasks[1].join() == 1
        assert await curio.gather(tasks) == [0, 1, 2]
    finally:
        for task in tasks:
            await task.cancel()
        assert all(task.terminated for task in tasks)
        assert not (await curio.current_task()).terminated


@uses("Task.cancel", "Task.cancel_children", "Task.interrupt")
async def cancelling():
    async def stubborn():
        try:
            await curio.sleep(1000)
        finally:
            async with curio.disable_cancellation():
                await curio.sleep(1)

    async def parent():
        await curio.spawn(stubborn)
        await curio.spawn(stubborn)
        try:
            await curio.sleep(1000)
        except curio.TaskInterrupted:
            pass
        finally:
            async with curio.disable_cancellation():
                me = await curio.current_task()
                await me.cancel_children()
                assert not me.children

    task = await curio.spawn(parent)
    try:
        await curio.sleep(1)
        await task.interrupt()
        await curio.sleep(0)
    finally:
        await task.cancel()
        assert task.terminated


@uses("check_cancellation", "set_cancellation", "disable_cancellation", "enable_cancellation")
async def shields():
    done = []
    try:
        async with curio.disable_cancellation():
            done.append("begun")
            await curio.sleep(1)
            asked = await curio.check_cancellation()
            done.append("ended")
            if asked is None:
                await curio.set_cancellation(None)
            async with curio.enable_cancellation():
                await curio.sleep(1)
        await curio.sleep(1)
    finally:
        assert done == ["begun", "ended"]


@uses(
    "TaskGroup.spawn",
    "TaskGroup.join",
    "TaskGroup.next_done",
    "TaskGroup.next_result",
    "TaskGroup.cancel_remaining",
    "TaskGroup.add_task",
    "TaskGroup.__aenter__",
    "TaskGroup.__aexit__",
    "TaskGroup.__anext__",
    "TaskGroup.spawn_thread",
)
async def groups():
    group = curio.TaskGroup()
    try:
        async with group:
            tasks = [await group.spawn(ends, number) for number in range(5)]
            tasks.append(await curio.spawn(ends, 5))
            await group.add_task(tasks[-1])
            assert await group.next_done() in tasks
            assert await group.next_result() in range(6)
            async for _ in group:
                break
            await group.cancel_remaining()
            await group.spawn_thread(ends_in_a_thread, 1)
        other = curio.TaskGroup(wait=any)
        await other.spawn(ends)
        await other.join()
    finally:
        assert all(task.terminated for task in group.tasks)


def ends_in_a_thread(result):
    AWAIT(curio.sleep, 1)
    return result


# --- Primitives.


@uses("Event.wait", "Event.set")
async def events():
    event, passed = curio.Event(), []

    async def passes():
        await event.wait()
        passed.append(event.is_set())

    await together(passes, passes, event.set)
    assert passed in ([], [True], [True, True])


LOCKS = [(curio.Lock,), (curio.RLock,), (curio.Semaphore,), (curio.BoundedSemaphore,)]


@uses(
    *(
        f"{lock.__name__}.{method}"
        for (lock,) in LOCKS
        for method in ("acquire", "release", "__aenter__", "__aexit__")
    ),
    variants=LOCKS,
)
async def locks(kind):
    lock, inside = kind(), 0

    async def enters():
        nonlocal inside
        async with lock:
            inside += 1
            assert inside == 1
            try:
                await curio.sleep(1)
            finally:
                inside -= 1
        await lock.acquire()
        try:
            await curio.sleep(1)
        finally:
            await lock.release()

    await together(enters, enters, enters)
    assert not lock.locked()
    await curio.timeout_after(1, lock.acquire)
    await lock.release()


@uses(
    "Condition.acquire",
    "Condition.release",
    "Condition.wait",
    "Condition.wait_for",
    "Condition.notify",
    "Condition.notify_all",
    "Condition.__aenter__",
    "Condition.__aexit__",
)
async def conditions():
    condition, items = curio.Condition(), []

    async def takes():
        async with condition:
            await condition.wait_for(lambda: items)
            items.pop()
            await condition.notify()

    async def waits():
        async with condition:
            while not items:
                await condition.wait()
            items.pop()

    async def gives():
        await condition.acquire()
        try:
            items.extend("abc")
            await curio.sleep(1)
            await condition.notify_all()
        finally:
            await condition.release()

    await together(takes, takes, waits, gives)
    assert not condition.locked()


@uses("Result.unwrap", "Result.set_value", "Result.set_exception")
async def results():
    good, bad, seen = curio.Result(), curio.Result(), []

    async def waits():
        seen.append(await good.unwrap())
        with pytest.raises(LookupError):
            await bad.unwrap()

    async def sets():
        await good.set_value(7)
        await curio.sleep(1)
        await bad.set_exception(LookupError())

    await together(waits, sets)
    assert seen in ([], [7])


QUEUES = [(Queue,), (PriorityQueue,), (LifoQueue,)]


@uses(
    *(
        f"{queue.__name__}.{method}"
        for (queue,) in QUEUES
        for method in ("get", "put", "join", "task_done")
    ),
    variants=QUEUES,
)
async def queues(kind):
    queue, put, got = kind(maxsize=1), [], []

    async def puts():
        for number in range(4):
            await queue.put(number)
            put.append(number)
        await queue.join()

    async def gets():
        while len(got) < 4:
            got.append(await queue.get())
            await queue.task_done()

    await together(puts, gets)
    left = [await queue.get() for _ in range(queue.qsize())]
    assert sorted(got + left) == put


# Those that anybody may use are used by tasks here: what a thread does comes at no certain moment.


@uses("UniversalQueue.get", "UniversalQueue.put", "UniversalQueue.join", "UniversalQueue.task_done")
async def universal_queues():
    await queues(curio.UniversalQueue)


@uses("UniversalEvent.wait", "UniversalEvent.set")
async def universal_events():
    event, passed = curio.UniversalEvent(), []

    async def passes():
        await event.wait()
        passed.append(event.is_set())

    await together(passes, passes, event.set)
    assert passed in ([], [True], [True, True])


@uses("UniversalResult.unwrap", "UniversalResult.set_value", "UniversalResult.set_exception")
async def universal_results():
    good, bad, seen = curio.UniversalResult(), curio.UniversalResult(), []

    async def waits():
        seen.append(await good.unwrap())
        with pytest.raises(LookupError):
            await bad.unwrap()

    async def sets():
        await good.set_value(7)
        await curio.sleep(1)
        await bad.set_exception(LookupError())

    await together(waits, sets)
    assert seen in ([], [7])


@uses("SignalSet.wait", "SignalSet.__aenter__", "SignalSet.__aexit__")
async def signals():
    former = signal.getsignal(signal.SIGUSR1)
    try:
        async with curio.SignalSet(signal.SIGUSR1) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert await signals.wait() == signal.SIGUSR1
    finally:
        assert signal.getsignal(signal.SIGUSR1) is former


@uses("SignalQueue.__aenter__", "SignalQueue.__aexit__")
async def signal_queues():
    former = signal.getsignal(signal.SIGUSR1)
    try:
        async with curio.SignalQueue(signal.SIGUSR1) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert await signals.get() == signal.SIGUSR1
    finally:
        assert signal.getsignal(signal.SIGUSR1) is former


@uses("SchedFIFO.suspend", "SchedFIFO.wake", "SchedBarrier.suspend", "SchedBarrier.wake")
async def lines():
    line, barrier = curio.sched.SchedFIFO(), curio.sched.SchedBarrier()

    async def stands():
        await line.suspend("LINE")
        await barrier.suspend("BARRIER")

    async def lets_go():
        for _ in range(3):
            await curio.sleep(1)
            await line.wake()
        await curio.sleep(1)
        await barrier.wake()

    await together(stands, stands, stands, lets_go)
    assert len(line) == len(barrier) == 0


# --- Sockets.


@uses(
    "Socket.recv",
    "Socket.recv_into",
    "Socket.recvmsg",
    "Socket.recvmsg_into",
    "Socket.send",
    "Socket.sendall",
    "Socket.sendmsg",
    "Socket.shutdown",
    "Socket.close",
    "Socket.__aenter__",
    "Socket.__aexit__",
)
async def pairs():
    one, other = socket.socketpair()
    sent, received = bytearray(), bytearray()

    async def sends():
        async with one:
            await one.sendall(b"abcd")
            sent.extend(b"abcd")
            await curio.sleep(1)
            sent.extend(b"efgh"[: await one.send(b"efgh")])
            await curio.sleep(1)
            await one.sendmsg([b"ij", b"kl"])
            sent.extend(b"ijkl")
            await one.shutdown(plain.SHUT_WR)

    async def receives():
        async with other:
            received.extend(await other.recv(2))
            room = bytearray(2)
            received.extend(room[: await other.recv_into(room)])
            received.extend((await other.recvmsg(4))[0])
            count = (await other.recvmsg_into([room]))[0]
            received.extend(room[:count])
            while data := await other.recv(100):
                received.extend(data)
            await other.close()

    await together(sends, receives)
    assert b"abcdefghijkl".startswith(received) and len(received) <= len(sent)


@uses("Socket.recvfrom", "Socket.recvfrom_into", "Socket.sendto")
async def datagrams():
    here, there = (socket.socket(plain.AF_INET, plain.SOCK_DGRAM) for _ in range(2))
    for sock in here, there:
        sock.bind(("127.0.0.1", 0))
    got = []

    async def receives():
        got.append((await there.recvfrom(10))[0])
        room = bytearray(10)
        count, _ = await there.recvfrom_into(room)
        got.append(bytes(room[:count]))

    async def sends():
        for data in b"one", b"two":
            await here.sendto(data, there.getsockname())
            await curio.sleep(1)

    async with here, there:
        await together(receives, sends)
    assert got in ([], [b"one"], [b"one", b"two"])


@uses("Socket.accept", "Socket.connect", "Socket.connect_ex")
async def connections():
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()

    async def accepts():
        async with listening:
            for _ in range(2):
                client, _ = await listening.accept()
                async with client:
                    await client.sendall(b"x")

    async def connects():
        async with socket.socket() as sock:
            await sock.connect(listening.getsockname())
            assert await sock.recv(1) == b"x"
        async with socket.socket() as sock:
            assert await sock.connect_ex(listening.getsockname()) == 0
            assert await sock.recv(1) == b"x"

    await together(accepts, connects)


@uses(
    "socket.create_connection",
    "socket.getaddrinfo",
    "socket.getfqdn",
    "socket.gethostbyaddr",
    "socket.gethostbyname",
    "socket.gethostbyname_ex",
    "socket.gethostname",
    "socket.getnameinfo",
)
async def names():
    async with plain_listener() as listening:
        address = listening.getsockname()
        async with await socket.create_connection(address):
            pass
    assert await socket.getaddrinfo("127.0.0.1", 80)
    assert await socket.gethostbyname("localhost")
    assert await socket.gethostbyname_ex("localhost")
    assert await socket.gethostbyaddr("127.0.0.1")
    assert await socket.getfqdn("localhost")
    assert await socket.gethostname()
    assert await socket.getnameinfo(("127.0.0.1", 80), plain.NI_NUMERICHOST)


def plain_listener():
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    return listening


@uses("socket.send_fds", "socket.recv_fds")
async def descriptors():
    one, other = socket.socketpair(plain.AF_UNIX)
    async with one, other:
        await socket.send_fds(one, [b"x"], [0])
        # Who is interrupted before the result arrives still has the message in the socket.
        _, fds, _, _ = await socket.recv_fds(other, 10, 1)
        for fd in fds:
            os.close(fd)


STREAM = (
    "read",
    "read_exactly",
    "readall",
    "readinto",
    "readline",
    "readlines",
    "write",
    "writelines",
    "flush",
    "close",
    "__aenter__",
    "__aexit__",
    "__anext__",
)


def socket_streams():
    one, other = socket.socketpair()
    return one.as_stream(), other.as_stream()


def pipe_streams():
    reading, writing = os.pipe()
    return (
        curio.io.FileStream(os.fdopen(writing, "wb", 0)),
        curio.io.FileStream(os.fdopen(reading, "rb", 0)),
    )


def text_streams():
    return tuple(subprocess.TextStream(stream, "utf-8") for stream in pipe_streams())


@uses(
    *(f"{kind}.{method}" for kind in ("SocketStream", "FileStream") for method in STREAM),
    variants=[(socket_streams,), (pipe_streams,)],
)
async def streams(make):
    text = b"1\n22\n333\n4444\n55555\n666666\n7777777\n"
    for rest in "readall", "readlines":
        writer, reader = make()
        got = bytearray()

        async def writes(writer=writer):
            async with writer:
                await writer.write(text[:9])
                await curio.sleep(1)
                await writer.writelines([text[9:20], text[20:]])
                await writer.flush()
                await writer.close()

        async def reads(reader=reader, rest=rest, got=got):
            async with reader:
                got.extend(await reader.read(1))
                got.extend(await reader.read_exactly(1))
                got.extend(await reader.readline())
                async for line in reader:
                    got.extend(line)
                    break
                room = bytearray(3)
                got.extend(room[: await reader.readinto(room)])
                got.extend(b"".join(await getattr(reader, rest)()) if rest == "readlines" else b"")
                got.extend(await reader.readall())

        await together(writes, reads)
        assert text.startswith(got)


@uses(
    "TextStream.read",
    "TextStream.readall",
    "TextStream.readline",
    "TextStream.readlines",
    "TextStream.write",
    "TextStream.writelines",
    "TextStream.flush",
    "TextStream.close",
    "TextStream.__aenter__",
    "TextStream.__aexit__",
    "TextStream.__anext__",
)
async def texts():
    text = "ä\nöö\nüüü\nßßßß\n"
    for rest in "readall", "readlines":
        writer, reader = text_streams()
        got = []

        async def writes(writer=writer):
            async with writer:
                await writer.write(text[:4])
                await curio.sleep(1)
                await writer.writelines([text[4:6], text[6:]])
                await writer.flush()
                await writer.close()

        async def reads(reader=reader, rest=rest, got=got):
            async with reader:
                got.append(await reader.read(1))
                got.append(await reader.readline())
                async for line in reader:
                    got.append(line)
                    break
                got.extend(await reader.readlines() if rest == "readlines" else [])
                got.append(await reader.readall())

        await together(writes, reads)
        assert text.startswith("".join(got))


# --- Servers.


async def greet(client, address):
    async with client:
        await client.sendall(b"hello")


async def say_hello(connect):
    async with await connect() as sock:
        assert await sock.recv(5) == b"hello"


@uses("open_connection", "Server.serve_forever", "Server.stop", "Server.cancel")
async def servers():
    server = network.create_server("127.0.0.1", 0, greet)
    address = server.address
    other = network.create_server("127.0.0.1", 0, greet)

    async def visits():
        await say_hello(lambda: curio.open_connection(*address))
        await server.stop(seconds=1)
        await other.cancel()

    await together(server.serve_forever, other.serve_forever, visits)


@uses("tcp_server", "run_server")
async def server_functions():
    listening = plain_listener()
    address = listening.getsockname()
    running = await curio.spawn(network.run_server, listening, greet)
    other = await curio.spawn(curio.tcp_server, "127.0.0.1", 0, greet)
    try:
        await say_hello(lambda: curio.open_connection(*address))
    finally:
        async with curio.disable_cancellation():
            await running.cancel()
            await other.cancel()
            await listening.close()


@uses("unix_server", "run_unix_server", "open_unix_connection")
async def unix_servers():
    for server in network.unix_server, network.run_unix_server:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "socket")

            async def visits(path=path):
                await curio.sleep(1)
                await say_hello(lambda: curio.open_unix_connection(path))

            # The visit ends it, and so does a server that was interrupted.
            async with curio.TaskGroup(wait=any) as group:
                await group.spawn(server, path, greet)
                await group.spawn(visits)


@functools.cache
def contexts():
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@uses("Socket.do_handshake", "ssl.get_server_certificate")
async def encrypted():
    theirs, ours = contexts()
    server = network.create_server("127.0.0.1", 0, greet, ssl=theirs)
    address = server.address

    async def visits():
        sock = socket.socket()
        async with sock:
            await sock.connect(address)
            secure = ours.wrap_socket(
                sock, server_hostname="127.0.0.1", do_handshake_on_connect=False
            )
            async with secure:
                await secure.do_handshake()
                assert await secure.recv(5) == b"hello"
        assert "CERTIFICATE" in await ssl.get_server_certificate(address)

    async with curio.TaskGroup(wait=any) as group:
        await group.spawn(server.serve_forever)
        await group.spawn(visits)


# --- Messages.


@uses(
    "Connection.recv",
    "Connection.recv_bytes",
    "Connection.recv_bytes_into",
    "Connection.send",
    "Connection.send_bytes",
    "Connection.authenticate_client",
    "Connection.authenticate_server",
    "Connection.close",
    "Connection.__aenter__",
    "Connection.__aexit__",
)
async def messages():
    got = []
    streams = [sock.as_stream() for sock in socket.socketpair()]
    ends = [channel.Connection(stream, stream) for stream in streams]

    async def sends():
        async with ends[0] as there:
            await there.authenticate_server(KEY)
            await there.send({"number": 1})
            await there.send_bytes(b"two")
            await there.send_bytes(b"three")
            await there.close()

    async def receives():
        async with ends[1] as here:
            await here.authenticate_client(KEY)
            got.append(await here.recv())
            got.append(await here.recv_bytes())
            room = bytearray(10)
            got.append(bytes(room[: await here.recv_bytes_into(room)]))

    async with ends[0], ends[1]:
        await together(sends, receives)
    assert got == [{"number": 1}, b"two", b"three"][: len(got)]


@uses(
    "Channel.accept",
    "Channel.connect",
    "Channel.close",
    "Channel.__aenter__",
    "Channel.__aexit__",
)
async def channels():
    async with channel.Channel(("127.0.0.1", 0)) as meeting:
        meeting.bind()

        async def accepts():
            async with await meeting.accept(authkey=KEY) as connection:
                await connection.send("hello")

        async def connects():
            other = channel.Channel(meeting.address)
            async with await other.connect(authkey=KEY) as connection:
                assert await connection.recv() == "hello"
            await other.close()

        await together(accepts, connects)


@uses("Client", "Listener.accept", "Listener.close", "Listener.__aenter__", "Listener.__aexit__")
async def listeners():
    async with channel.Listener(("127.0.0.1", 0), authkey=KEY) as listener:

        async def accepts():
            async with await listener.accept() as connection:
                await connection.send("hello")

        async def connects():
            async with await channel.Client(listener.address, authkey=KEY) as connection:
                assert await connection.recv() == "hello"

        await together(accepts, connects)
        await listener.close()


# --- Outside of the kernel.


@uses("run_in_thread", "block_in_thread", "run_in_executor")
async def calls_in_threads():
    assert await curio.run_in_thread(int, "1") == 1
    assert await curio.block_in_thread(int, "2") == 2
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert await curio.run_in_executor(executor, int, "3") == 3


@uses(
    "spawn_thread",
    "AsyncThread.join",
    "AsyncThread.wait",
    "AsyncThread.cancel",
    "AsyncThread.interrupt",
)
async def async_threads():
    def sleeps():
        try:
            AWAIT(curio.sleep, 1000)
        except curio.TaskInterrupted:
            return "interrupted"

    # One after the other: what two threads do comes in any order.
    thread = await curio.spawn_thread(ends_in_a_thread, 5)
    try:
        assert await thread.join() == 5
        thread = await curio.spawn_thread(sleeps)
        await curio.sleep(1)
        await thread.interrupt()
        await thread.wait()
    finally:
        await thread.cancel()


FILE = (
    "read",
    "read1",
    "readall",
    "readinto",
    "readinto1",
    "readline",
    "readlines",
    "seek",
    "tell",
    "truncate",
    "write",
    "writelines",
    "flush",
    "close",
    "__aenter__",
    "__aexit__",
    "__anext__",
)


@uses(*(f"AsyncFile.{method}" for method in FILE))
async def files():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "file")
        async with curio.aopen(path, "w+b") as file:
            await file.write(b"one\ntwo\n")
            await file.writelines([b"three\n", b"four\n"])
            await file.flush()
            assert await file.tell() == 19
            await file.truncate(14)
            await file.seek(0)
            assert await file.readline() == b"one\n"
            room = bytearray(2)
            await file.readinto(room)
            await file.readinto1(room)
            assert room == b"o\n"
            async for line in file:
                assert line == b"three\n"
            await file.seek(0)
            assert len(await file.read1(4) + await file.read(4)) == 8
            assert await file.readlines() == [b"three\n"]
            await file.close()
        async with curio.aopen(path, "rb", buffering=0) as file:
            assert await file.readall() == b"one\ntwo\nthree\n"


# --- The rest.


@uses("anext", "finalize.__aenter__", "finalize.__aexit__")
async def generators():
    closed = []

    async def numbers():
        try:
            for number in range(10):
                await curio.sleep(1)
                yield number
        finally:
            async with curio.disable_cancellation():
                await curio.sleep(0)
            closed.append(True)

    begun = False
    try:
        async with finalize(numbers()) as generator:
            assert await curio.anext(generator) == 0
            begun = True
            assert await generator.__anext__() == 1
    finally:
        assert closed or not begun


# --- The harness.


def cases():
    for name, program in PROGRAMS.items():
        for variant in program.variants:
            names = [name, *(part.__name__ for part in variant)]
            yield pytest.param(program, variant, id="-".join(names))


def outside():
    """What the interpreter has outside of kernels: descriptors, threads that are none of the
    pools', children that have ended and that nobody has asked."""
    gc.collect()
    threads = [
        thread.name for thread in threading.enumerate() if not thread.name.startswith("curio-")
    ]
    return len(os.listdir("/proc/self/fd")), len(threads), zombies()


def zombies():
    path = f"/proc/self/task/{os.getpid()}/children"
    if not os.path.exists(path):
        return 0  # The kernel was built without it.
    with open(path) as file:
        children = file.read().split()
    found = 0
    for child in children:
        try:
            with open(f"/proc/{child}/stat") as file:
                found += file.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            pass  # It has gone meanwhile.
    return found


def interrupt(program, variant):
    """Runs it everywhere interrupted; nothing may be left behind outside of its kernels."""
    testing.run(program, *variant)  # which starts pools, and loads modules
    before = outside()
    report = testing.interrupt_everywhere(program, *variant)
    deadline = time.monotonic() + 20
    # Cancelled calls run on for a moment, and workers are seen off.
    while (after := outside()) > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert after <= before, f"{after} descriptors, threads and zombies; there were {before}"
    return report


@pytest.mark.parametrize("function, variant", list(cases()))
def test_interrupted(function, variant):
    report = interrupt(function, variant)
    assert report.points > 0


PROCESSES = (
    "run_in_process",
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
    "Popen.communicate",
    "Popen.wait",
    "Popen.__aenter__",
    "Popen.__aexit__",
)

#: Operations that no program here uses, and why.
ELSEWHERE = {
    **dict.fromkeys(PROCESSES, "what other processes do comes at no certain moment"),
    "SchedBase.suspend": "the base class of the two lines here",
    "SchedBase.wake": "the base class of the two lines here",
    "AsyncThread.cancel_children": "as that of Task, whose method it is",
    "Monitor.start": "a method of 1.6's that does nothing here",
    **{f"StreamBase.{method}": "the base class of two streams" for method in STREAM},
}


def operations():
    """The public operations; test_traps.py interrupts the traps."""
    found = set()
    for module in pkgutil.iter_modules(curio.__path__):
        if module.name.startswith("_") or module.name in ("traps", "testing"):
            continue
        module = importlib.import_module(f"curio.{module.name}")
        for name in module.__all__:
            value = getattr(module, name)
            home = getattr(value, "__module__", None) or ""
            if name.startswith("_") or not home.startswith("curio"):
                continue
            if inspect.iscoroutinefunction(value):
                home = home.removeprefix("curio.")
                prefix = f"{home}." if home in ("socket", "ssl", "subprocess") else ""
                found.add(prefix + value.__name__)
            elif inspect.isclass(value):
                for base in value.__mro__:
                    if base.__module__.startswith("curio"):
                        found |= {
                            f"{value.__name__}.{method}"
                            for method, function in vars(base).items()
                            if inspect.iscoroutinefunction(function)
                            and (method[0] != "_" or method in ("__aenter__", "__aexit__"))
                            or method == "__anext__"
                        }
    return found


def test_no_operation_is_forgotten():
    used = {operation for program in PROGRAMS.values() for operation in program.uses}
    missing = operations() - used - set(ELSEWHERE)
    assert not missing, f"in no program: {sorted(missing)}"
    assert not set(ELSEWHERE) & used


def test_programs_use_what_they_say():
    for program in PROGRAMS.values():
        text = inspect.getsource(program)
        for operation in program.uses:
            name = operation.rpartition(".")[2]
            word = {
                "__aenter__": "async with",
                "__aexit__": "async with",
                "__anext__": "async for",
            }.get(name, name)
            body = text.partition("async def")[2]
            # Some hand their work to another program's function.
            assert word in body or "await queues(" in body, f"{program.__name__}: {operation}"


def table():
    logging.disable()  # Servers complain of clients that were interrupted.
    points = runs = 0
    print(f"{'program':<40} {'operations':>10} {'places':>8} {'runs':>8}")
    for case in cases():
        program, variant = case.values
        report = interrupt(program, variant)
        points, runs = points + report.points, runs + report.runs
        print(f"{case.id:<40} {len(program.uses):>10} {report.points:>8} {report.runs:>8}")
    count = len({operation for program in PROGRAMS.values() for operation in program.uses})
    print(f"{'together':<40} {count:>10} {points:>8} {runs:>8}")


if __name__ == "__main__":
    table()
