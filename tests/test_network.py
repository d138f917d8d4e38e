"""Servers and connections: who is served, who is told, what is closed.

Goal: `run_server` and its kin, `Server`, `open_connection` and its kin. Method: servers listen at
ports that the system chooses, in the kernel of their clients; every test ends with as many
descriptors as it began with. Order and completeness are asserted, times never.
"""

import errno
import inspect
import os
import resource
import socket as plain
import struct
import time

import curio
import pytest
from curio import network, socket
from curio.io import Socket
from programs import descriptors


class Oops(Exception):
    pass


async def until(condition):
    """Waits while other tasks run; not for ever, lest one failure end all tests."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        await curio.sleep(0.001)


def soon(awaitable):
    """What hangs fails."""
    return curio.timeout_after(15, awaitable)


async def echo(sock, address):
    while data := await sock.recv(10_000):
        await sock.sendall(data)


async def answers(sock, text=b"still there"):
    await sock.sendall(text)
    return await soon(sock.recv(100)) == text


def listening(address=("127.0.0.1", 0)):
    """A listening socket of the standard library's."""
    sock = plain.socket()
    sock.bind(address)
    sock.listen(200)
    return sock


def reset(sock):
    """Breaks a connection off."""
    sock.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Served:
    """A server in a task of its own; `kind` is how it is run.

    What is common to all kinds is tested with all of them.
    """

    def __init__(self, kind, client_task, path=None, wrap=None, **options):
        self.kind, self.client_task, self.options = kind, client_task, options
        self.wrap = wrap or (lambda serving: serving)
        self.path = path and str(path)

    async def __aenter__(self):
        kind, task = self.kind, self.client_task
        if kind == "run_server(sock)":
            sock = listening()
            self.address = sock.getsockname()
            serving = curio.run_server(sock, task, **self.options)
        elif kind in ("run_server", "tcp_server"):
            with listening() as trial:
                self.address = trial.getsockname()
            serving = getattr(curio, kind)(*self.address, task, **self.options)
        elif kind in ("run_unix_server", "unix_server"):
            self.address = self.path
            serving = getattr(curio, kind)(self.path, task, **self.options)
        else:
            if kind == "create_server":
                self.server = curio.create_server("127.0.0.1", 0, task, **self.options)
            else:
                self.server = curio.create_unix_server(self.path, task, **self.options)
            self.address = self.server.address
            serving = self.server.serve_forever()
        self.task = await curio.spawn(self.wrap(serving))
        assert not self.task.terminated, self.task.exception
        return self

    async def __aexit__(self, *exception):
        await self.task.cancel()
        await self.task.cancel_children()

    async def connect(self):
        if isinstance(self.address, str):
            return await curio.open_unix_connection(self.address)
        return await curio.open_connection(*self.address)


KINDS = [
    "run_server",
    "run_server(sock)",
    "tcp_server",
    "create_server",
    "run_unix_server",
    "unix_server",
    "create_unix_server",
]
ENDING = ["tcp_server", "unix_server", "run_server(sock)"]  # with their clients
STAYING = [kind for kind in KINDS if kind not in ENDING]


@pytest.fixture
def serving(tmp_path):
    """`serving(kind, client_task)`: a Served; its paths are new."""
    count = iter(range(1000))

    def make(kind, client_task, **options):
        return Served(kind, client_task, tmp_path / f"{next(count)}", **options)

    return make


# --- what all servers do -----------------------------------------------------------------------


def test_signatures():
    """T45, S40, S42, L74, L75, L77, L78."""

    def names(function):
        return list(inspect.signature(function).parameters)

    common = ["host", "port", "client_task", "family", "backlog", "ssl", "reuse_address"]
    assert names(curio.create_server) == names(curio.tcp_server) == [*common, "reuse_port"]
    unix = ["path", "client_task", "backlog", "ssl"]
    for function in (curio.create_unix_server, curio.run_unix_server, curio.unix_server):
        assert names(function) == unix
        parameters = inspect.signature(function).parameters
        assert (parameters["backlog"].default, parameters["ssl"].default) == (100, None)
    assert names(curio.tcp_server_socket) == [
        "host",
        "port",
        "family",
        "backlog",
        "reuse_address",
        "reuse_port",
    ]
    assert names(curio.unix_server_socket) == ["path", "backlog"]
    assert names(curio.open_connection) == [
        "host",
        "port",
        "ssl",
        "source_addr",
        "server_hostname",
        "alpn_protocols",
    ]
    assert curio.network.run_server is curio.run_server


@pytest.mark.parametrize("kind", KINDS)
def test_clients_are_served(runs, serving, kind):
    """T45: each in a task of its own, with its socket and address."""
    seen = []

    async def client(sock, address):
        seen.append((sock, address))
        await echo(sock, address)

    async def main():
        async with serving(kind, client) as served:
            socks = [await served.connect() for _ in range(3)]
            for n, sock in enumerate(socks):
                assert type(sock) is Socket
                assert await answers(sock, b"hello %d" % n)
            assert all(type(sock) is Socket for sock, _ in seen)
            assert [address for _, address in seen] == [sock.getsockname() for sock in socks]
            assert served.task.state == "READ_WAIT"
            for sock in socks:
                await sock.close()
            await until(lambda: not served.task.children)

    runs(main)


@pytest.mark.parametrize("kind", KINDS)
def test_clients_are_children_of_who_serves(runs, serving, kind):
    """T45, D16: no task in between; named as the user's; cancel_children reaches them all."""
    ended = []

    async def client(sock, address):
        try:
            await sock.recv(10)
        finally:
            ended.append(sock)

    async def main():
        async with serving(kind, client) as served:
            socks = [await served.connect() for _ in range(3)]
            await until(lambda: len(served.task.children) == 3)
            for child in served.task.children:
                assert child.parentid == served.task.id and child.name == client.__qualname__
            await served.task.cancel_children()
            assert len(ended) == 3 and not served.task.terminated
            for sock in socks:
                assert await soon(sock.recv(10)) == b""
                await sock.close()
            async with await served.connect():  # It goes on.
                await until(lambda: len(served.task.children) == 1)

    runs(main)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("how", ["return", "crash", "cancel", "exit"])
@pytest.mark.parametrize("kind", KINDS)
def test_socket_is_closed_when_its_task_ends(runs, serving, log, kind, how, streams):
    """T45: however it ends, also if streams were made from it and never closed."""
    kept = []

    async def client(sock, address):
        if streams:
            reader, writer = sock.make_streams()
            kept.extend([sock, reader, writer, sock.as_stream()])
            await writer.write(b"bye")
        else:
            kept.append(sock)
            await sock.sendall(b"bye")
        if how == "crash":
            raise Oops("client crashed")
        if how == "exit":
            raise curio.TaskCancelled("by itself")
        if how == "cancel":
            await (await curio.current_task()).cancel(blocking=False)
            await curio.sleep(1000)

    async def main():
        async with serving(kind, client) as served:
            for _ in range(2):
                async with await served.connect() as sock:
                    received = b""
                    while data := await soon(sock.recv(10)):
                        received += data
                    assert received == b"bye"
            assert not served.task.terminated
            await until(lambda: not served.task.children)
            assert kept[0].fileno() == -1

    runs(main)
    # A crash is logged, once a crash.
    assert [record.name for record in log.records] == ["curio.kernel"] * (2 * (how == "crash"))
    assert all("client crashed" in text for text in log.texts)


@pytest.mark.parametrize("kind", STAYING)
def test_cancelled_server_leaves_its_clients(runs, serving, kind):
    """T45, S41, 1.14: the listening socket is closed, clients go on."""

    async def main():
        async with serving(kind, echo) as served:
            async with await served.connect() as sock:
                assert await answers(sock, b"before")
                await served.task.cancel()
                assert served.task.cancelled
                assert await answers(sock, b"after")
                with pytest.raises(ConnectionRefusedError):
                    await served.connect()
            await until(lambda: not served.task.children)

    runs(main)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("kind", ENDING)
def test_server_that_takes_its_clients_along(runs, serving, kind, how):
    """L74, L75, L76, D16: they are cancelled with it, and have ended when it has."""
    ended = []

    async def client(sock, address):
        try:
            await echo(sock, address)
        except curio.CancelledError:
            await sock.sendall(b"bye")
            await curio.sleep(0.001)
            ended.append(address)
            raise

    async def connects(served, socks):
        for _ in range(5):
            socks.append(await served.connect())
            await socks[-1].sendall(b"x")
            if await soon(socks[-1].recv(10)) != b"x":
                return False
        return not served.task.terminated

    async def attempt(seconds):
        ended.clear()
        limit = None if seconds is None else lambda serving: curio.timeout_after(seconds, serving)
        async with serving(kind, client, wrap=limit) as served:
            socks = []
            try:
                connected = await connects(served, socks)
            except OSError:
                connected = False  # The time was over before.
            if seconds is None:
                await served.task.cancel()
                assert served.task.cancelled
            else:
                await soon(served.task.wait())
                assert isinstance(served.task.exception, curio.TaskTimeout)
            count = len(ended)
            for sock in socks:
                if connected:
                    assert await soon(sock.recv(10)) == b"bye"
                    assert await soon(sock.recv(10)) == b""
                await sock.close()
        return connected and count == 5

    async def main():
        if how == "cancel":
            assert await attempt(None)
        else:
            # A busy machine may need a longer time until all are connected.
            assert await attempt(0.05) or await attempt(0.5) or await attempt(5)

    runs(main)


@pytest.mark.parametrize("kind", ENDING)
def test_slow_client_holds_nobody_up(runs, serving, kind):
    """D16: all are cancelled at once; one that cleans up for long is waited for, no other one."""
    gate, told = curio.Event(), []

    async def client(sock, address):
        first = not told
        told.append("come")
        try:
            await sock.recv(10)
        finally:
            told.append("slow" if first else "quick")
            if first:
                await gate.wait()

    async def main():
        async with serving(kind, client) as served:
            socks = [await served.connect() for _ in range(5)]
            await until(lambda: told == ["come"] * 5)
            stopping = await curio.spawn(served.task.cancel())
            for sock in socks[1:]:
                assert await soon(sock.recv(10)) == b""
            assert sorted(told[5:]) == ["quick"] * 4 + ["slow"]
            assert not stopping.terminated and not served.task.terminated
            await gate.set()
            await soon(stopping.join())
            for sock in socks:
                await sock.close()

    runs(main)


@pytest.mark.parametrize("kind", KINDS)
def test_reset_in_the_backlog(runs, serving, log, kind):
    """T45: connections that have ended before they were accepted are no matter."""
    received = []

    async def client(sock, address):
        try:
            received.append(await sock.recv(100))
        except OSError as error:
            received.append(error.errno)

    async def main():
        async with serving(kind, client, **({} if "sock" in kind else {"backlog": 50})) as served:
            family = plain.AF_UNIX if isinstance(served.address, str) else plain.AF_INET
            for n in range(20):  # The server does not run meanwhile.
                sock = plain.socket(family)
                sock.connect(served.address)
                if n % 2:
                    reset(sock)
                else:
                    sock.close()
            await until(lambda: len(received) == 20)
            async with await served.connect() as sock:
                await sock.sendall(b"still there")
                await until(lambda: b"still there" in received)
            assert not served.task.terminated

    runs(main)
    assert not log


@pytest.mark.parametrize("kind", KINDS)
def test_hundred_connections_opened_and_closed_at_once(runs, serving, kind):
    """T45: all are served, and nothing is left."""
    ended = []

    async def client(sock, address):
        await echo(sock, address)
        ended.append(address)

    async def main():
        async with serving(kind, client) as served:
            tasks = [await curio.spawn(served.connect()) for _ in range(100)]
            for task in tasks:
                await (await task.join()).close()
            await until(lambda: len(ended) == 100)
            await until(lambda: not served.task.children)
            if "create" in kind:
                assert served.server.clients == set()

    runs(main)


@pytest.mark.parametrize("kind", KINDS)
def test_client_task_that_cannot_be_made(runs, serving, log, kind):
    """T45: a crash of that client's."""

    async def wants_three(sock, address, more):
        pass

    async def main():
        async with serving(kind, wants_three) as served:
            async with await served.connect() as sock:
                assert await soon(sock.recv(10)) == b""
            assert not served.task.terminated

    runs(main)
    assert len(log) == 1 and "more" in log.texts[0]


async def made(kind, path, client_task, **options):
    """Makes a server that is not to come into being."""
    arguments = (str(path),) if "unix" in kind else ("127.0.0.1", 0)
    serving = getattr(curio, kind)(*arguments, client_task, **options)
    if inspect.isawaitable(serving):
        await soon(serving)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [5, "certificate.pem", True, object(), ()], ids=repr)
def test_ssl_that_is_no_context(runs, kind, garbage):
    """T46: ValueError, and nothing listens."""

    async def main():
        with pytest.raises(ValueError, match="context"):
            if kind == "run_server(sock)":
                with listening() as sock:
                    await soon(curio.run_server(sock, echo, garbage))
            else:
                await made(kind, "/never/made", echo, ssl=garbage)

    runs(main)


@pytest.mark.parametrize("kind", KINDS)
def test_client_task_that_is_none(runs, tmp_path, kind):
    """T45, S40: TypeError, and nothing listens."""

    async def main():
        with pytest.raises(TypeError):
            if kind == "run_server(sock)":
                with listening() as sock:
                    await soon(curio.run_server(sock))
            else:
                await made(kind, tmp_path / "path", None)

    runs(main)


# --- addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", None, "127.0.0.1", "localhost"])
@pytest.mark.parametrize("make", [curio.create_server, curio.run_server, curio.tcp_server])
def test_hosts(runs, host, make):
    """T45: '' and None are all interfaces; a name is looked up."""

    async def main():
        if make is curio.create_server:
            server = make(host, 0, echo)
            address = server.address
            serving = server.serve_forever()
        else:
            with listening() as trial:
                address = trial.getsockname()
            serving = make(host, address[1], echo)
        task = await curio.spawn(serving)
        async with await curio.open_connection("127.0.0.1", address[1]) as sock:
            assert await answers(sock)
        await task.cancel()
        await task.cancel_children()

    runs(main)


def test_arguments_by_place_and_by_name(runs):
    """T45, D16: host, port, client_task; the rest by name only."""
    with pytest.raises(TypeError):
        curio.create_server("127.0.0.1", 0, echo, plain.AF_INET)
    with pytest.raises(TypeError):
        curio.run_server("127.0.0.1", 0, echo, None, plain.AF_INET)

    async def main():
        server = curio.create_server(
            host="127.0.0.1",
            port=0,
            client_task=echo,
            family=plain.AF_INET,
            backlog=5,
            ssl=None,
            reuse_address=False,
            reuse_port=False,
        )
        assert server.sock.getsockopt(plain.SOL_SOCKET, plain.SO_REUSEADDR) == 0
        port = server.address[1]
        await server.cancel()
        task = await curio.spawn(
            curio.run_server(
                host="127.0.0.1",
                port=port,
                client_task=echo,
                family=plain.AF_INET,
                backlog=5,
                ssl=None,
                reuse_address=True,
            )
        )
        async with await curio.open_connection("127.0.0.1", port) as sock:
            assert await answers(sock)
        await task.cancel()
        await task.cancel_children()
        with listening() as sock, pytest.raises(TypeError, match="backlog"):
            await curio.run_server(sock, echo, backlog=5)
        for nonsense in (5, b"127.0.0.1", object()):
            with pytest.raises(TypeError):
                await curio.run_server(nonsense, echo)

    runs(main)


def test_six(runs):
    """T45: family=AF_INET6."""

    async def main():
        try:
            server = curio.create_server("::1", 0, echo, family=plain.AF_INET6)
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
        task = await curio.spawn(server.serve_forever())
        async with await curio.open_connection("::1", server.address[1]) as sock:
            assert sock.family == plain.AF_INET6
            assert await answers(sock)
        await server.stop()
        await task.join()

    runs(main)


def test_port_is_known_and_reused(runs):
    """S40, T45: port 0 is told; an address is free again at once; taken, it is an OSError."""

    async def main():
        server = curio.create_server("127.0.0.1", 0, echo)
        host, port = server.address
        assert host == "127.0.0.1" and port != 0
        assert server.sock.getsockname() == server.address and type(server.sock) is Socket
        assert f"{port}" in repr(server)
        for make in (curio.create_server, curio.tcp_server_socket):
            arguments = (echo,) if make is curio.create_server else ()
            with pytest.raises(OSError) as caught:
                make(host, port, *arguments)
            assert caught.value.errno == errno.EADDRINUSE
        for make in (curio.run_server, curio.tcp_server):
            with pytest.raises(OSError) as caught:
                await make(host, port, echo)
            assert caught.value.errno == errno.EADDRINUSE
        task = await curio.spawn(server.serve_forever())
        sock = await curio.open_connection(host, port)
        assert await answers(sock)
        await task.cancel_children()  # The server closes first: its side is in TIME_WAIT.
        await server.cancel()
        await soon(task.join())
        assert "closed" in repr(server)
        again = curio.create_server(host, port, echo)
        assert again.address == (host, port)
        await again.cancel()
        await sock.close()

    runs(main)


def test_reuse_port(runs):
    """L74, L77: two servers at one port."""

    async def main():
        one = curio.create_server("127.0.0.1", 0, echo, reuse_port=True)
        other = curio.create_server(*one.address, echo, reuse_port=True)
        assert one.address == other.address
        async with curio.tcp_server_socket(*one.address, reuse_port=True) as sock:
            assert sock.getsockname() == one.address
        await one.cancel()
        await other.cancel()

    runs(main)


def test_listening_sockets(runs, tmp_path):
    """L77, L78: not async; sockets that listen."""

    async def main():
        for sock in (
            curio.tcp_server_socket("127.0.0.1", 0, plain.AF_INET, 5, True, False),
            curio.unix_server_socket(str(tmp_path / "socket"), 5),
        ):
            assert type(sock) is Socket
            assert sock.getsockopt(plain.SOL_SOCKET, plain.SO_ACCEPTCONN) == 1
            async with sock, socket.socket(sock.family) as client:
                connecting = await curio.spawn(client.connect(sock.getsockname()))
                peer, _ = await sock.accept()
                await connecting.join()
                await peer.close()

    runs(main)


@pytest.mark.parametrize("ours", [False, True])
def test_run_server_with_a_socket(runs, ours):
    """L76: a curio socket, or one of the standard library's; closed at the end."""

    async def main():
        sock = listening()
        address = sock.getsockname()
        given = Socket(sock) if ours else sock
        task = await curio.spawn(curio.run_server(given, client_task))
        async with await curio.open_connection(*address) as client:
            assert await answers(client)
            await task.cancel()
            assert sock.fileno() == -1
            assert await soon(client.recv(10)) == b""

    async def client_task(sock, address):
        await echo(sock, address)

    runs(main)


# --- Unix sockets ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run_unix_server", "unix_server", "create_unix_server"])
def test_path(runs, tmp_path, kind):
    """S42: it must be new, and stays."""

    async def main():
        path = str(tmp_path / "socket")
        async with Served(kind, echo, path) as served:
            async with await served.connect() as sock:
                assert await answers(sock)
        assert os.path.exists(path)
        with pytest.raises(OSError) as caught:
            await made(kind, path, echo)
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(ConnectionRefusedError) as caught:
            await curio.open_unix_connection(path)
        assert caught.value.errno == errno.ECONNREFUSED
        os.unlink(path)
        with pytest.raises(FileNotFoundError):
            await curio.open_unix_connection(path)
        too_long = tmp_path / ("x" * 200)
        with pytest.raises(OSError, match="too long"):
            await made(kind, too_long, echo)
        with pytest.raises(OSError, match="too long"):
            await curio.open_unix_connection(str(too_long))
        with pytest.raises(OSError):
            curio.unix_server_socket(str(tmp_path / "no such directory" / "socket"))

    runs(main)


# --- Server ------------------------------------------------------------------------------------


async def started(client_task, **options):
    server = curio.create_server("127.0.0.1", 0, client_task, **options)
    task = await curio.spawn(server.serve_forever())
    return server, task


@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_cancel(runs, when):
    """S41: it ends a running serve_forever, which returns; one that comes later returns at once."""

    async def main():
        server = curio.create_server("127.0.0.1", 0, echo)
        address = server.address
        if when == "before":
            await server.cancel()
            assert await soon(server.serve_forever()) is None
        else:
            task = await curio.spawn(server.serve_forever())
            async with await curio.open_connection(*address) as sock:
                assert await answers(sock)
                await soon(server.cancel())
                assert await soon(task.join()) is None
                assert await answers(sock)
            if when == "after":
                await soon(server.cancel())
                assert await soon(server.serve_forever()) is None
        with pytest.raises(ConnectionRefusedError):
            await curio.open_connection(*address)
        assert server.sock.fileno() == -1

    runs(main)


def test_served_twice(runs):
    """S41: RuntimeError for the second, and the first goes on."""

    async def main():
        server, task = await started(echo)
        with pytest.raises(RuntimeError, match="already"):
            await soon(server.serve_forever())
        async with await curio.open_connection(*server.address) as sock:
            assert await answers(sock)
        await server.stop()
        assert await soon(task.join()) is None

    runs(main)


def test_cancel_by_several(runs):
    """S41: all of them return."""

    async def main():
        server, task = await started(echo)
        tasks = [await curio.spawn(server.cancel()) for _ in range(3)]
        for canceller in tasks:
            await soon(canceller.join())
        await soon(task.join())

    runs(main)


def test_clients(runs):
    """Server.clients: the tasks of those that are connected; the set is the caller's."""

    async def quick(sock, address):
        pass

    async def main():
        server, task = await started(echo)
        assert server.clients == set()
        socks = [await curio.open_connection(*server.address) for _ in range(3)]
        await until(lambda: len(server.clients) == 3)
        assert server.clients == set(task.children)
        server.clients.clear()
        assert len(server.clients) == 3 and "3 clients" in repr(server)
        for sock in socks:
            await sock.close()
        await until(lambda: not server.clients)
        await server.stop()
        # Those that never wait, too.
        server, task = await started(quick)
        for _ in range(3):
            async with await curio.open_connection(*server.address) as sock:
                assert await sock.recv(1) == b""
        await until(lambda: not server.clients)
        await soon(server.stop())

    runs(main)


def test_clients_without_the_server(runs):
    """Server.clients: without those that were cancelled before they began, or crashed."""

    async def main():
        server, task = await started(echo)
        for _ in range(20):
            connecting = await curio.spawn(curio.open_connection(*server.address))
            while not task.children and not connecting.terminated:
                await curio.sleep(0)
            await task.cancel_children()
            await (await connecting.join()).close()
        await task.cancel_children()
        await until(lambda: not task.children)
        assert server.clients == set()
        await soon(server.stop())

    runs(main)


@pytest.mark.parametrize("seconds", [None, 50])
def test_stop_lets_clients_finish(runs, seconds):
    """Server.stop: no new ones; returns when the last has ended."""
    ended = []

    async def client(sock, address):
        await echo(sock, address)
        await curio.sleep(0.002)
        ended.append(address)

    async def main():
        server, task = await started(client)
        address = server.address
        socks = [await curio.open_connection(*address) for _ in range(3)]
        for sock in socks:
            assert await answers(sock)
        stopping = await curio.spawn(server.stop(seconds))
        await soon(task.join())
        with pytest.raises(ConnectionRefusedError):
            await curio.open_connection(*address)
        for n, sock in enumerate(socks):
            assert not stopping.terminated and len(server.clients) == 3 - n
            assert await answers(sock)
            await sock.close()
            await until(lambda n=n: len(ended) == n + 1)
        assert await soon(stopping.join()) is None
        assert server.clients == set()

    runs(main)


@pytest.mark.parametrize("seconds", [0.01, 0])
def test_stop_has_a_deadline(runs, seconds):
    """Server.stop: who is left is cancelled, all at once; one may take long to clean up."""
    gate, told = curio.Event(), []

    async def client(sock, address):
        first = not told
        told.append("come")
        try:
            await echo(sock, address)
        except curio.CancelledError:
            told.append("cancelled")
            if first:
                await gate.wait()
            raise

    async def main():
        server, task = await started(client)
        socks = [await curio.open_connection(*server.address) for _ in range(4)]
        for sock in socks:
            assert await answers(sock)
        await socks[3].close()
        await until(lambda: len(server.clients) == 3)
        stopping = await curio.spawn(server.stop(seconds))
        for sock in socks[1:3]:
            assert await soon(sock.recv(10)) == b""
        await until(lambda: told[4:] == ["cancelled"] * 3)
        assert not stopping.terminated
        await gate.set()
        assert await soon(stopping.join()) is None
        assert server.clients == set() and task.terminated
        for sock in socks[:3]:
            await sock.close()

    runs(main)


def test_stop_while_nobody_serves(runs):
    """Server.stop: closes the socket; twice is fine."""

    async def main():
        server = curio.create_server("127.0.0.1", 0, echo)
        await soon(server.stop())
        await soon(server.stop(1))
        assert server.sock.fileno() == -1
        assert await soon(server.serve_forever()) is None

    runs(main)


def test_stop_after_the_server_was_cancelled(runs):
    """Server.stop: its clients are known still."""

    async def main():
        server, task = await started(echo)
        sock = await curio.open_connection(*server.address)
        assert await answers(sock)
        await task.cancel()
        assert await answers(sock)
        await soon(server.stop(0))
        assert await soon(sock.recv(10)) == b""
        await sock.close()

    runs(main)


def test_stop_that_is_cancelled(runs):
    """Server.stop: it has stopped accepting; clients go on, and can be stopped again."""

    async def main():
        server, task = await started(echo)
        sock = await curio.open_connection(*server.address)
        assert await answers(sock)
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.005, server.stop())
        await soon(task.join())
        assert await answers(sock)
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.005, server.stop(50))
        assert await answers(sock) and len(server.clients) == 1
        await soon(server.stop(0.001))
        assert await soon(sock.recv(10)) == b""
        await sock.close()

    runs(main)


def test_server_can_be_made_outside_of_a_kernel():
    """S40: create_server is a plain call."""
    server = curio.create_server("127.0.0.1", 0, echo)
    address = server.address

    async def main():
        task = await curio.spawn(server.serve_forever())
        async with await curio.open_connection(*address) as sock:
            assert await answers(sock)
        await server.stop()
        await task.join()

    curio.run(main)


def test_no_descriptors_left(program):
    """T45: that is logged once, who waits is turned away, and the server goes on afterwards."""
    process = program("""
import curio, logging, resource, socket
from curio.io import Socket

records = []
handler = logging.Handler()
handler.emit = records.append
logging.getLogger("curio").addHandler(handler)

async def echo(sock, address):
    while data := await sock.recv(100):
        await sock.sendall(data)

async def answer(sock):
    try:
        await sock.sendall(b"hello")
        return await curio.timeout_after(20, sock.recv(100))
    except ConnectionError:
        return b""

async def main():
    server = curio.create_server("127.0.0.1", 0, echo)
    task = await curio.spawn(server.serve_forever())
    clients = [await curio.open_connection(*server.address)]
    assert await answer(clients[0]) == b"hello"
    waiting = [Socket(socket.socket()) for _ in range(10)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    trial = socket.socket()
    lowest = trial.fileno()
    trial.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 3, limits[1]))
    for sock in waiting:
        await sock.connect(server.address)
    answers = [await answer(sock) for sock in waiting]
    print(answers.count(b"hello"), answers.count(b""), [record.name for record in records])
    assert await answer(clients[0]) == b"hello"
    assert not task.terminated
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    async with await curio.open_connection(*server.address) as sock:
        print((await answer(sock)).decode())
    for sock in waiting + clients:
        await sock.close()
    await server.stop()
    await task.join()

curio.run(main)
""")
    process.succeed()
    assert process.lines[1] == "hello"
    served, turned_away, names = process.lines[0].split(" ", 2)
    assert int(served) + int(turned_away) == 10 and 0 < int(served) < 10
    assert names == "['curio.network']"


def test_settings_of_the_module_hold():
    """What is set in `curio.network` is what its functions see, whoever has loaded it."""
    import sys

    before = network.HANDSHAKE_LIMIT
    curio.network.HANDSHAKE_LIMIT = 5.0
    try:
        assert sys.modules["curio.network"].HANDSHAKE_LIMIT == 5.0
    finally:
        curio.network.HANDSHAKE_LIMIT = before


@pytest.mark.parametrize("kind", ["run_server", "tcp_server"])
def test_managed_echo_server(runs, kind):
    """T45: a crowd is told and dropped at once, three times in a row; nothing is left."""
    crowd = 1000
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < 3 * crowd:
        crowd = limit // 3

    async def client(sock, address):
        try:
            async for line in sock.as_stream():
                await sock.sendall(line)
        except curio.CancelledError:
            await sock.sendall(b"Server going down")
            raise

    async def main():
        counts = set()
        address = None
        for _ in range(3):
            if address is None:
                with listening() as trial:
                    address = trial.getsockname()
            run = getattr(curio, kind)
            task = await curio.spawn(run(*address, client, backlog=crowd))
            assert not task.terminated, task.exception
            socks = [await curio.open_connection(*address) for _ in range(crowd)]
            for sock in socks:
                await sock.sendall(b"hello\n")
            for sock in socks:
                assert await soon(sock.recv(100)) == b"hello\n"
            assert len(task.children) == crowd
            counts.add(descriptors())
            if kind == "run_server":
                await task.cancel_children()
                assert not task.terminated and not task.children
            await task.cancel()
            for sock in socks:
                assert await soon(sock.recv(100)) == b"Server going down"
                assert await soon(sock.recv(100)) == b""
                await sock.close()
        assert len(counts) == 1

    runs(main)


# --- connections -------------------------------------------------------------------------------


def test_open_connection(runs):
    """T47: a Socket; the port may be a text, the host a name."""

    async def main():
        server, task = await started(echo)
        port = server.address[1]
        for host, number in [
            ("127.0.0.1", port),
            ("127.0.0.1", str(port)),
            ("localhost", port),
            ("localhost", str(port)),
        ]:
            async with await curio.open_connection(host, number) as sock:
                assert type(sock) is Socket and sock.getpeername() == server.address
                assert not sock._socket.getblocking()
                assert await answers(sock)
        async with await curio.open_connection(host="127.0.0.1", port=port) as sock:
            assert await answers(sock)
        async with await socket.create_connection(server.address) as sock:
            assert type(sock) is Socket and await answers(sock)
        await server.stop()
        await task.join()

    runs(main)


def test_open_connection_refused(runs):
    """T47, S31: the error's class, its number, and the address."""

    async def main():
        with listening() as trial:
            address = host, port = trial.getsockname()
        for connecting in (curio.open_connection(*address), socket.create_connection(address)):
            with pytest.raises(ConnectionRefusedError) as caught:
                await connecting
            assert caught.value.errno == errno.ECONNREFUSED
            assert f"{host}:{port}" in str(caught.value)

    runs(main)


def addresses(*found):
    """A name with these addresses."""

    async def getaddrinfo(host, port, *args, **kwargs):
        if host != "several.names":
            return plain.getaddrinfo(host, port, *args, **kwargs)
        return [(plain.AF_INET, plain.SOCK_STREAM, 6, "", address) for address in found]

    return getaddrinfo


@pytest.fixture
def several(monkeypatch):
    def several(*found):
        import sys

        assert socket.AF_INET  # It is loaded.
        monkeypatch.setattr(sys.modules["curio.socket"], "getaddrinfo", addresses(*found))

    return several


def test_all_addresses_are_told(runs, several):
    """T47: what was wrong with each; the number is the first one's."""

    async def main():
        with listening() as one, listening() as two:
            found = [one.getsockname(), two.getsockname()]
        several(*found)
        for connecting in (
            curio.open_connection("several.names", 1),
            socket.create_connection(("several.names", 1)),
        ):
            with pytest.raises(ConnectionRefusedError) as caught:
                await connecting
            assert caught.value.errno == errno.ECONNREFUSED
            for host, port in found:
                assert f"{host}:{port}" in str(caught.value)

    runs(main)


def test_all_addresses_are_tried(runs, several):
    """T47, S31: until one answers."""

    async def main():
        server, task = await started(echo)
        with listening() as one, listening() as two:
            found = [one.getsockname(), two.getsockname()]
        several(*found, server.address)
        async with await curio.open_connection("several.names", 1) as sock:
            assert await answers(sock)
        async with await socket.create_connection(("several.names", 1)) as sock:
            assert await answers(sock)
        await server.stop()
        await task.join()

    runs(main)


class Deaf:
    """An address that neither answers nor refuses: its backlog is full."""

    def __enter__(self):
        self.sock = plain.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(0)
        self.address = self.sock.getsockname()
        self.fillers = []
        for _ in range(4):
            filler = plain.socket()
            filler.setblocking(False)
            filler.connect_ex(self.address)
            self.fillers.append(filler)
        return self

    def __exit__(self, *exception):
        for sock in (self.sock, *self.fillers):
            sock.close()


def test_a_deaf_address_does_not_hold_the_next_one_up(runs, several):
    """T47: it is tried while the first has not failed yet."""

    async def main():
        server, task = await started(echo)
        with Deaf() as deaf:
            several(deaf.address, server.address)
            async with await soon(curio.open_connection("several.names", 1)) as sock:
                assert sock.getpeername() == server.address
                assert await answers(sock)
        await server.stop()
        await task.join()

    runs(main)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_given_up(runs, how, several):
    """T48, S31, 1.14: the socket is closed, each of them if there are several."""

    async def main():
        with Deaf() as deaf, Deaf() as other:
            several(deaf.address, other.address)
            for connect in (
                lambda: curio.open_connection(*deaf.address),
                lambda: curio.open_connection("several.names", 1),
                lambda: curio.open_connection(*deaf.address, ssl=True),
                lambda: socket.create_connection(deaf.address),
                lambda: socket.create_connection(deaf.address, timeout=1000),
            ):
                before = descriptors()
                if how == "cancel":
                    task = await curio.spawn(connect())
                    await until(lambda before=before: descriptors() == before + 1)
                    await task.cancel()
                    assert task.cancelled
                else:
                    with pytest.raises(curio.TaskTimeout):
                        await curio.timeout_after(0.005, connect())
                assert descriptors() == before

    runs(main)


def test_unix_connection_given_up(runs, tmp_path):
    """S39, 1.14: the socket is closed."""

    async def main():
        path = str(tmp_path / "socket")
        with plain.socket(plain.AF_UNIX) as sock:
            sock.bind(path)
            sock.listen(0)
            with plain.socket(plain.AF_UNIX) as filler:
                filler.connect(path)
                before = descriptors()
                # Linux does not let one wait without blocking: EAGAIN, or a wait that ends.
                with pytest.raises((curio.TaskTimeout, BlockingIOError)):
                    await curio.timeout_after(0.02, curio.open_unix_connection(path))
                assert descriptors() == before

    runs(main)


def test_timeout_of_create_connection(runs):
    """S31: TimeoutError, which is an OSError; none if it is connected in time."""

    async def main():
        with Deaf() as deaf:
            with pytest.raises(TimeoutError) as caught:
                await socket.create_connection(deaf.address, timeout=0.005)
            assert isinstance(caught.value, OSError)
            assert str(deaf.address[1]) in str(caught.value)
            # A timeout further out is not this one's.
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(
                    0.005, socket.create_connection(deaf.address, timeout=1000)
                )
            async with curio.ignore_after(0.005) as outer:
                await socket.create_connection(deaf.address, timeout=None)
            assert outer.expired
        server, task = await started(echo)
        async with await socket.create_connection(server.address, 10) as sock:
            assert await answers(sock)
        await server.stop()

    runs(main)


def test_unknown_host(runs):
    """T47, T29: the standard library's exception."""

    async def main():
        for connecting in (
            curio.open_connection("nobody.invalid", 80),
            curio.open_connection("nobody.invalid", 80, ssl=True),
            socket.create_connection(("nobody.invalid", 80)),
        ):
            with pytest.raises(plain.gaierror):
                await connecting

    runs(main)


def test_source_address(runs):
    """T47, S31: where the connection comes from; one that is not ours is an OSError."""
    seen = []

    async def client(sock, address):
        seen.append(address)

    async def main():
        server, task = await started(client)
        with listening() as trial:
            port = trial.getsockname()[1]
        for source in (("127.0.0.1", port), ("127.0.0.2", 0), ("localhost", 0), ("", 0)):
            async with await curio.open_connection(*server.address, source_addr=source) as sock:
                assert await soon(sock.recv(10)) == b""
                assert seen.pop() == sock.getsockname()
                if source[0].startswith("127"):
                    assert sock.getsockname()[0] == source[0]
                if source[1]:
                    assert sock.getsockname()[1] == source[1]
        async with await socket.create_connection(server.address, None, ("127.0.0.3", 0)) as sock:
            assert sock.getsockname()[0] == "127.0.0.3"
        with pytest.raises(OSError) as caught:
            await curio.open_connection(*server.address, source_addr=("192.0.2.1", 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(OSError, match="family"):
            await curio.open_connection(*server.address, source_addr=("::1", 0))
        await server.stop()

    runs(main)


def test_arguments_for_tls_without_tls(runs, tmp_path):
    """T48, S39: ValueError, before anything else."""

    async def main():
        for options in (
            {"server_hostname": "localhost"},
            {"alpn_protocols": ["h2"]},
            {"ssl": False, "server_hostname": "localhost"},
        ):
            with pytest.raises(ValueError, match="ssl"):
                await curio.open_connection("nobody.invalid", 80, **options)
            with pytest.raises(ValueError, match="ssl"):
                await curio.open_unix_connection(str(tmp_path / "none"), **options)
        for garbage in (5, "pem", object()):
            with pytest.raises(ValueError, match="context"):
                await curio.open_connection("nobody.invalid", 80, ssl=garbage)

    runs(main)


def test_nonsense(runs):
    """T47: an exception, and nothing is left."""

    async def main():
        for arguments in [
            ("127.0.0.1", "no such service"),
            ("127.0.0.1", []),
            (5, 80),
            ("127.0.0.1", 80, "source"),
            ("256.256.256.256", 80),
        ]:
            with pytest.raises((OSError, TypeError, ValueError)):
                await curio.open_connection(*arguments)
        for source in ("localhost", (1,), ("127.0.0.1",), 5, ("127.0.0.1", "http", 5)):
            with pytest.raises((OSError, TypeError, ValueError)):
                await curio.open_connection("127.0.0.1", 1, source_addr=source)

    runs(main)


def test_unix_connections(runs, tmp_path):
    """S39: to a path, which may be a Path or bytes; in the abstract name space, too."""

    async def main():
        for path in (str(tmp_path / "a"), os.fsencode(tmp_path / "b"), f"\0curio-{os.getpid()}"):
            server = curio.create_unix_server(path, echo)
            task = await curio.spawn(server.serve_forever())
            async with await curio.open_unix_connection(path) as sock:
                assert type(sock) is Socket
                assert await answers(sock)
            await server.stop()
            await task.join()

    runs(main)


def test_connecting_to_oneself_many_times(runs):
    """T47: hundreds of attempts in a row, some refused, leave nothing."""

    async def main():
        server, task = await started(echo)
        with listening() as trial:
            nobody = trial.getsockname()
        before = descriptors()
        for n in range(300):
            if n % 3 == 0:
                with pytest.raises(ConnectionRefusedError):
                    await curio.open_connection(*nobody)
            else:
                async with await curio.open_connection(*server.address) as sock:
                    assert await answers(sock)
        await until(lambda: descriptors() <= before)
        await server.stop()

    runs(main)
