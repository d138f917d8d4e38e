"""TLS: the standard library's `ssl`, awaited; who is not who he says, and who says nothing.

Goal: the contract of `curio.ssl`, and of `ssl=` in servers and connections. Method: certificates of
an authority made for the test; two ends of a connection in one kernel, or one of them the standard
library's in a thread, for the two must understand each other. Reads and writes are cancelled
where they are in the middle, and nothing may be lost.
"""

import datetime
import errno
import hashlib
import inspect
import itertools
import os
import shutil
import socket as plain
import ssl as plain_ssl
import subprocess
import threading
import time
import tracemalloc

import curio
import pytest
from curio import socket, ssl
from curio.io import Socket, SocketStream
from programs import descriptors

trustme = pytest.importorskip("trustme")

HOST = "localhost"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.issue_cert(HOST, "127.0.0.1")


class Contexts:
    """Contexts of ours and of the standard library's, for both sides."""

    def __init__(self, authority, certificate):
        self.authority, self.certificate = authority, certificate

    def server(self, module=ssl, certificate=None, alpn=None):
        context = module.create_default_context(module.Purpose.CLIENT_AUTH)
        (certificate or self.certificate).configure_cert(context)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    def client(self, module=ssl, trusted=True, alpn=None):
        context = module.create_default_context()
        if trusted:
            self.authority.configure_trust(context)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


@pytest.fixture
def contexts(authority, certificate):
    return Contexts(authority, certificate)


async def until(condition):
    """Waits while other tasks run; not for ever, lest one failure end all tests."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        await curio.sleep(0.001)


def soon(awaitable):
    """What hangs fails."""
    return curio.timeout_after(15, awaitable)


def message(size):
    return bytes(itertools.islice(itertools.cycle(range(251)), size))


async def receive(sock, count):
    received = bytearray()
    while len(received) < count:
        data = await soon(sock.recv(count - len(received)))
        assert data, f"the connection has ended after {len(received)} bytes"
        received += data
    return bytes(received)


async def receive_all(sock):
    pieces = []
    while data := await soon(sock.recv(100_000)):
        pieces.append(data)
    return b"".join(pieces)


async def echo(sock, address):
    while data := await sock.recv(10_000):
        await sock.sendall(data)


async def answers(sock, text=b"still there"):
    await sock.sendall(text)
    return await receive(sock, len(text)) == text


async def raw_pair(kind="unix"):
    """Two plain sockets of curio's, connected."""
    if kind == "unix":
        return socket.socketpair()
    with plain.create_server(("127.0.0.1", 0)) as listening:
        left = await curio.open_connection(*listening.getsockname())
        right, _ = listening.accept()
        return left, Socket(right)


async def together(*awaitables):
    tasks = [await curio.spawn(awaitable) for awaitable in awaitables]
    return [await soon(task.join()) for task in tasks]


async def pair(contexts, kind="unix", **options):
    """Two ends, `(client, server)`, that have agreed."""
    left, right = await raw_pair(kind)
    client = contexts.client().wrap_socket(left, server_hostname=HOST, **options)
    server = contexts.server().wrap_socket(right, server_side=True, **options)
    await together(client.do_handshake(), server.do_handshake())
    return client, server


class Served:
    """A TLS server in a task of its own."""

    def __init__(self, context, client_task=echo, make=curio.create_server):
        self.server = make("127.0.0.1", 0, client_task, ssl=context)
        self.address = self.server.address

    async def __aenter__(self):
        self.task = await curio.spawn(self.server.serve_forever())
        return self

    async def __aexit__(self, *exception):
        await self.task.cancel()
        await self.task.cancel_children()

    def connect(self, **options):
        return curio.open_connection(*self.address, **options)


# --- the module --------------------------------------------------------------------------------


def test_names():
    """T49, T51: all names of the standard library's; constants, classes, errors are the same."""
    for name, value in vars(plain_ssl).items():
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if name in ("AF_INET", "SOCK_STREAM", "SOL_SOCKET", "SO_TYPE", "namedtuple", "socket"):
            continue  # imported there for itself
        assert hasattr(ssl, name), name
    for name in ("Purpose", "SSLError", "SSLWantReadError", "CERT_NONE", "TLSVersion", "OP_ALL"):
        assert getattr(ssl, name) is getattr(plain_ssl, name)
    for name in ("SSLContext", "create_default_context", "get_server_certificate"):
        assert getattr(ssl, name) is not getattr(plain_ssl, name)
    assert inspect.iscoroutinefunction(ssl.get_server_certificate)
    namespace = {}
    exec("from curio.ssl import *", namespace)
    assert namespace["SSLContext"] is ssl.SSLContext
    assert namespace["PROTOCOL_TLS_CLIENT"] is plain_ssl.PROTOCOL_TLS_CLIENT


def test_signatures():
    """T50, T53: the arguments of the standard library."""

    def parameters(function):
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    for name in ("create_default_context", "SSLContext.wrap_socket"):
        ours, theirs = ssl, plain_ssl
        for part in name.split("."):
            ours, theirs = getattr(ours, part), getattr(theirs, part)
        assert parameters(ours) == parameters(theirs)


@pytest.mark.parametrize("purpose", [ssl.Purpose.SERVER_AUTH, ssl.Purpose.CLIENT_AUTH])
def test_default_context(purpose):
    """T50: as safe as the standard library's, and one of its contexts."""
    ours, theirs = ssl.create_default_context(purpose), plain_ssl.create_default_context(purpose)
    assert isinstance(ours, plain_ssl.SSLContext) and type(ours) is ssl.SSLContext
    for name in ("check_hostname", "verify_mode", "options", "protocol", "minimum_version"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.get_ciphers() == theirs.get_ciphers()


def test_attributes_of_contexts():
    """T50: read and set as the standard library's."""
    for context in (ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.options |= ssl.OP_NO_TICKET
        assert context.verify_mode is ssl.CERT_NONE and not context.check_hostname
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.options & ssl.OP_NO_TICKET
        with pytest.raises((ValueError, TypeError)):
            context.verify_mode = "nonsense"
        with pytest.raises(AttributeError):
            context.no_such_thing  # noqa: B018
    assert ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).protocol == ssl.PROTOCOL_TLS_SERVER


def test_arguments_of_default_context(authority, tmp_path):
    """T50, T52: authorities, and a certificate from files."""
    path = str(tmp_path / "authority.pem")
    authority.cert_pem.write_to_path(path)
    for options in ({"cafile": path}, {"cadata": authority.cert_pem.bytes().decode()}):
        found = ssl.create_default_context(**options).get_ca_certs()
        assert len(found) == 1
    with pytest.raises(FileNotFoundError):
        ssl.create_default_context(cafile=str(tmp_path / "none"))
    certificate = authority.issue_cert(HOST)
    certificate.private_key_pem.write_to_path(str(tmp_path / "key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certfile=str(tmp_path / "certificate"), keyfile=str(tmp_path / "key"))
    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(certfile=path, keyfile=str(tmp_path / "key"))


# --- wrapping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("awaited", ["both", "client", "server", "none"])
@pytest.mark.parametrize("ours", [True, False])
def test_wrap_socket(runs, contexts, kind, awaited, ours):
    """T53, D11: awaiting does the handshake and gives the socket; else the first operation."""

    async def main():
        left, right = await raw_pair(kind)
        if not ours:
            left, right = plain.socket(fileno=left.detach()), plain.socket(fileno=right.detach())
        client = contexts.client().wrap_socket(left, server_hostname=HOST)
        server = contexts.server().wrap_socket(right, server_side=True)
        assert isinstance(client, Socket) and isinstance(server, Socket)
        assert client.version() is None

        async def agree(sock, name):
            if awaited in ("both", name):
                assert await sock is sock
                assert sock.version()

        async with client, server:

            async def serve():
                await agree(server, "server")
                await echo(server, None)

            async def ask():
                await agree(client, "client")
                assert await answers(client, b"hello")
                assert client.version() == server.version() == "TLSv1.3"
                await client.close()

            await together(serve(), ask())

    runs(main)


def test_awaiting_twice(runs, contexts):
    """D11: once is enough."""

    async def main():
        client, server = await pair(contexts)
        async with client, server:
            assert await client is client
            await client.do_handshake()
            assert await server is server
            await client.sendall(b"data")
            assert await soon(server.recv(10)) == b"data"

    runs(main)


def test_no_handshake_on_connect(runs, contexts):
    """T53: do_handshake_on_connect=False: awaiting does nothing, do_handshake does it."""

    async def main():
        left, right = await raw_pair()
        client = contexts.client().wrap_socket(
            left, do_handshake_on_connect=False, server_hostname=HOST
        )
        server = contexts.server().wrap_socket(
            right, server_side=True, do_handshake_on_connect=False
        )
        async with client, server:
            assert await soon(client) is client
            assert client.version() is None
            await together(client.do_handshake(), server.do_handshake())
            assert client.version()

    async def soon(awaitable):
        async with curio.timeout_after(15):
            return await awaitable

    runs(main)


def test_wrapped_before_it_is_connected(runs, contexts):
    """T53: awaiting does nothing then; connect does the handshake."""

    async def main():
        async with Served(contexts.server()) as served:
            for awaited in (False, True):
                sock = contexts.client().wrap_socket(socket.socket(), server_hostname=HOST)
                if awaited:
                    assert await sock is sock
                async with sock:
                    await sock.connect(served.address)
                    assert sock.version()
                    assert await answers(sock)
            async with contexts.client().wrap_socket(
                socket.socket(), server_hostname=HOST, do_handshake_on_connect=False
            ) as sock:
                assert await sock.connect_ex(served.address) == 0
                assert sock.version() is None
                assert await answers(sock) and sock.version()

    runs(main)


def test_connect_refused(runs, contexts):
    """T53, S34: an OSError with its number."""

    async def main():
        with plain.create_server(("127.0.0.1", 0)) as trial:
            address = trial.getsockname()
        async with contexts.client().wrap_socket(socket.socket(), server_hostname=HOST) as sock:
            with pytest.raises(ConnectionRefusedError) as caught:
                await sock.connect(address)
            assert caught.value.errno == errno.ECONNREFUSED

    runs(main)


@pytest.mark.parametrize("on_connect", [True, False])
def test_listening_socket(runs, contexts, on_connect):
    """T53: accept gives sockets with TLS, and waits for nobody's handshake."""

    async def main():
        listening = contexts.server().wrap_socket(
            curio.tcp_server_socket("127.0.0.1", 0),
            server_side=True,
            do_handshake_on_connect=on_connect,
        )
        async with listening:
            with plain.create_connection(listening.getsockname()):  # says nothing
                silent, _ = await soon(listening.accept())
                connecting = await curio.spawn(
                    curio.open_connection(
                        *listening.getsockname(), ssl=contexts.client(), server_hostname=HOST
                    )
                )
                client, address = await soon(listening.accept())
                assert isinstance(client, Socket)
                serving = await curio.spawn(echo(client, address))
                sock = await soon(connecting.join())
                assert sock.getsockname() == address
                assert await answers(sock)
                await sock.close()
                await soon(serving.join())
                await client.close()
                await silent.close()

    runs(main)


def test_wrap_socket_of_the_module(runs, contexts, tmp_path):
    """T53, L82: with a context made for it alone; nothing is checked unless that is asked for."""
    key, chain, trust = (str(tmp_path / name) for name in ("key", "chain", "trust"))
    contexts.certificate.private_key_pem.write_to_path(key)
    contexts.certificate.cert_chain_pems[0].write_to_path(chain)
    contexts.authority.cert_pem.write_to_path(trust)

    async def main():
        for options in ({}, {"ca_certs": trust, "cert_reqs": ssl.CERT_REQUIRED}):
            left, right = await raw_pair()
            client = ssl.wrap_socket(left, **options)
            server = ssl.wrap_socket(right, keyfile=key, certfile=chain, server_side=True)
            async with client, server:
                await together(client.do_handshake(), server.do_handshake())
                await client.sendall(b"data")
                assert await soon(server.recv(10)) == b"data"
        left, right = await raw_pair()
        async with left, right:
            with pytest.raises(ValueError, match="certfile"):
                ssl.wrap_socket(left, server_side=True)
            await right.send(b"plain")
            assert await left.recv(10) == b"plain"

    runs(main)


def test_standard_librarys_socket_in_ours(runs, contexts):
    """S33, T46 (any context): an ssl.SSLSocket inside of curio.io.Socket."""

    async def main():
        left, right = (plain.socket(fileno=sock.detach()) for sock in await raw_pair("tcp"))
        options = {"do_handshake_on_connect": False}
        client = contexts.client(plain_ssl).wrap_socket(left, server_hostname=HOST, **options)
        server = contexts.server(plain_ssl).wrap_socket(right, server_side=True, **options)
        client, server = Socket(client), Socket(server)
        async with client, server:
            await together(client.do_handshake(), server.do_handshake())
            assert client.version() == "TLSv1.3"  # passed through
            data = message(300_000)
            _, received = await together(client.sendall(data), receive(server, len(data)))
            assert received == data
            waiting = await curio.spawn(client.recv(100))
            await server.sendall(b"woken")
            assert await soon(waiting.join()) == b"woken"

    runs(main)


# --- servers and connections -------------------------------------------------------------------


@pytest.mark.parametrize("make", [curio.run_server, curio.tcp_server, "sock"])
@pytest.mark.parametrize("module", [ssl, plain_ssl])
def test_servers(runs, contexts, make, module):
    """T46, L74, L76: `ssl=` takes contexts of ours and the standard library's."""
    seen = []

    async def client(sock, address):
        seen.append((sock.version(), address))
        await echo(sock, address)

    async def main():
        with plain.create_server(("127.0.0.1", 0)) as trial:
            address = trial.getsockname()
        context = contexts.server(module)
        if make == "sock":
            sock = curio.tcp_server_socket(*address)
            task = await curio.spawn(curio.run_server(sock, client, context))
        else:
            task = await curio.spawn(make(*address, client, ssl=context))
        for client_module in (ssl, plain_ssl):
            async with await curio.open_connection(
                *address, ssl=contexts.client(client_module), server_hostname=HOST
            ) as sock:
                assert isinstance(sock, Socket) and await answers(sock)
                assert seen.pop() == ("TLSv1.3", sock.getsockname())
                (child,) = task.children
                assert child.name == client.__qualname__
            await until(lambda: not task.children)
        await task.cancel()

    runs(main)


def test_unix_server(runs, contexts, tmp_path):
    """S39, S42: TLS over a path."""

    async def main():
        path = str(tmp_path / "socket")
        server = curio.create_unix_server(path, echo, ssl=contexts.server(alpn=["x"]))
        task = await curio.spawn(server.serve_forever())
        async with await curio.open_unix_connection(
            path, ssl=contexts.client(), server_hostname=HOST, alpn_protocols=["x"]
        ) as sock:
            assert await answers(sock)
            assert sock.selected_alpn_protocol() == "x"
        async with await curio.open_unix_connection(path, ssl=True) as sock:
            assert await answers(sock)
        await server.stop()
        await task.join()

    runs(main)


def test_true_encrypts_and_proves_nothing(runs, contexts):
    """T48: ssl=True: any certificate, unless server_hostname is given."""

    async def main():
        async with Served(contexts.server()) as served:
            async with await served.connect(ssl=True) as sock:
                assert sock.version() and await answers(sock)
            with pytest.raises(ssl.SSLCertVerificationError):
                await served.connect(ssl=True, server_hostname=HOST)

    runs(main)


def test_name_of_the_server(runs, contexts):
    """T48: with a context that checks names, the host is the name unless another is given."""

    async def main():
        async with Served(contexts.server()) as served:
            port = served.address[1]
            for host, options in [
                ("localhost", {}),
                ("127.0.0.1", {}),
                ("127.0.0.1", {"server_hostname": "localhost"}),
            ]:
                async with await curio.open_connection(
                    host, port, ssl=contexts.client(), **options
                ) as sock:
                    assert await answers(sock)
                    assert sock.server_hostname == options.get("server_hostname", host)

    runs(main)


def failing(contexts, why):
    """Options of a server and of a client that will not agree."""
    authority, server, client = contexts.authority, {}, {"server_hostname": HOST}
    context = contexts.client()
    if why == "wrong name":
        client["server_hostname"] = "example.org"
    elif why == "untrusted":
        context = contexts.client(trusted=False)
    elif why == "expired":
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(days=1)
        server["certificate"] = authority.issue_cert(
            HOST, not_before=now - 3 * day, not_after=now - day
        )
    elif why == "no common version":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    server = contexts.server(**server)
    if why == "no common version":
        server.minimum_version = ssl.TLSVersion.TLSv1_3
    if why == "no client certificate":
        server.verify_mode = ssl.CERT_REQUIRED
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # told in the handshake
    return server, {"ssl": context, **client}


@pytest.mark.parametrize(
    "why", ["wrong name", "untrusted", "expired", "no common version", "no client certificate"]
)
def test_no_agreement(runs, contexts, log, why):
    """T48, T45: an SSLError for the client, whose socket is closed; the server says so, goes on."""
    served_clients = []

    async def client(sock, address):
        served_clients.append(address)

    async def main():
        context, options = failing(contexts, why)
        async with Served(context, client) as served:
            kind = ssl.SSLError
            if why in ("wrong name", "untrusted", "expired"):
                kind = ssl.SSLCertVerificationError
            for count in (1, 2):
                before = descriptors()
                with pytest.raises(kind) as caught:
                    await soon(served.connect(**options))
                assert isinstance(caught.value, OSError)
                await until(lambda count=count: len(log) == count and not served.task.children)
                assert descriptors() == before
            if why == "wrong name":
                assert "example.org" in str(caught.value)
            assert not served.task.terminated and served.server.clients == set()

    runs(main)
    assert {(record.name, record.levelname) for record in log.records} == {
        ("curio.network", "WARNING")
    }
    assert served_clients == []


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\0" * 100, b"\x16"]
)
def test_not_tls(runs, contexts, log, first):
    """T45: a client that talks something else gets nothing, and the server goes on; one warning."""

    async def main():
        async with Served(contexts.server()) as served:
            async with await served.connect() as sock:
                await sock.sendall(first)
                await sock.shutdown(plain.SHUT_WR)
                try:
                    await receive_all(sock)
                except ConnectionResetError:
                    pass
                await until(lambda: not served.task.children)
                (record,) = log.records
                assert record.name == "curio.network"
                assert str(sock.getsockname()[1]) in record.getMessage()
            async with await served.connect(ssl=contexts.client(), server_hostname=HOST) as sock:
                assert await answers(sock)

    runs(main)
    assert len(log) == 1


def test_server_is_not_tls(runs):
    """T48: an SSLError for the client, and its socket is closed."""

    async def talks(sock, address):
        await sock.sendall(b"220 welcome\r\n")
        await sock.recv(1000)

    async def main():
        async with Served(None, talks) as served:
            with pytest.raises(ssl.SSLError):
                await soon(served.connect(ssl=True))
            await until(lambda: not served.task.children)

        async def hangs_up(sock, address):
            await sock.recv(1)

        async with Served(None, hangs_up) as served:
            with pytest.raises(OSError):
                await soon(served.connect(ssl=True))

    runs(main)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_server_that_never_answers(runs, contexts, how):
    """T48, 1.14: who waits for the handshake is given up, and the socket closed."""

    async def main():
        with plain.create_server(("127.0.0.1", 0)) as silent:
            before = descriptors()
            connecting = curio.open_connection(
                *silent.getsockname(), ssl=contexts.client(), server_hostname=HOST
            )
            if how == "cancel":
                task = await curio.spawn(connecting)
                peer, _ = silent.accept()
                await until(lambda: task.state == "READ_WAIT")
                await task.cancel()
                assert task.cancelled
            else:
                with pytest.raises(curio.TaskTimeout):
                    await curio.timeout_after(0.02, connecting)
                peer, _ = silent.accept()
            assert descriptors() == before + 1
            peer.settimeout(15)
            while peer.recv(10_000):  # its first words, then the end
                pass
            peer.close()

    runs(main)


@pytest.mark.parametrize("how", ["cancel", "limit"])
def test_client_that_never_says_anything(runs, contexts, log, how, monkeypatch):
    """T46: it holds nobody up; it is cancelled, or its time is over, and the socket is closed."""
    import sys

    limit = 0.02 if how == "limit" else 1000.0
    monkeypatch.setattr(sys.modules["curio.network"], "HANDSHAKE_LIMIT", limit)

    async def main():
        async with Served(contexts.server()) as served:
            silent = await served.connect()
            if how == "cancel":
                await until(lambda: len(served.task.children) == 1)
                context = contexts.client()
                async with await served.connect(ssl=context, server_hostname=HOST) as sock:
                    assert await answers(sock)
                await served.task.cancel_children()
            assert await receive_all(silent) == b""
            await silent.close()
            assert not served.task.terminated

    runs(main)
    if how == "limit":
        (record,) = log.records
        assert record.name == "curio.network" and "too long" in record.getMessage()
    else:
        assert not log


def test_stop_while_a_client_shakes_hands(runs, contexts):
    """Server.stop: such a client counts as well."""

    async def main():
        async with Served(contexts.server()) as served:
            silent = await served.connect()
            await until(lambda: served.server.clients)
            await soon(served.server.stop(0.001))
            assert await receive_all(silent) == b""
            await silent.close()

    runs(main)


def test_context_that_cannot_serve(runs, contexts, log):
    """T45: a context for clients; each connection fails, is told of, and the server goes on."""

    async def main():
        async with Served(contexts.client()) as served:
            async with await served.connect() as sock:
                assert await receive_all(sock) == b""
            assert not served.task.terminated

    runs(main)
    assert len(log) == 1


@pytest.mark.parametrize("side", ["argument", "context"])
def test_alpn(runs, contexts, side):
    """L79: the first of the server's that the client offers; None if there is none."""

    async def main():
        async with Served(contexts.server(alpn=["h2", "http/1.1"])) as served:
            for offered, expected in [
                (["http/1.1", "h2"], "h2"),
                (["http/1.1"], "http/1.1"),
            ]:
                options = {"ssl": contexts.client(), "alpn_protocols": offered}
                if side == "context":
                    options = {"ssl": contexts.client(alpn=offered)}
                async with await served.connect(server_hostname=HOST, **options) as sock:
                    assert sock.selected_alpn_protocol() == expected
            options = {"ssl": True, "alpn_protocols": ["h2"]}
            async with await served.connect(**options) as sock:
                assert sock.selected_alpn_protocol() == "h2"
        async with Served(contexts.server()) as served:
            async with await served.connect(ssl=True, alpn_protocols=["h2"]) as sock:
                assert sock.selected_alpn_protocol() is None

    runs(main)


def test_what_is_known_of_the_connection(runs, contexts):
    """T53: the methods of the standard library's SSLSocket."""

    async def main():
        client, server = await pair(contexts, "tcp")
        async with client, server:
            names = client.getpeercert()["subjectAltName"]
            assert names == (("DNS", HOST), ("IP Address", "127.0.0.1"))
            assert client.getpeercert(True) == client.getpeercert(binary_form=True)
            assert server.getpeercert() is None
            assert client.version() == server.version() == "TLSv1.3"
            assert client.cipher() == server.cipher() and client.cipher()[1] == "TLSv1.3"
            assert client.selected_alpn_protocol() is None
            assert client.compression() is None
            assert client.pending() == 0
            assert (client.server_hostname, client.server_side) == (HOST, False)
            assert (server.server_hostname, server.server_side) == (None, True)
            assert isinstance(client.context, ssl.SSLContext)
            assert client.session_reused is False
            assert server.shared_ciphers()
            assert isinstance(client.get_channel_binding("tls-unique"), bytes)
            assert client.getpeername() == server.getsockname()
            assert client.family == plain.AF_INET and client.fileno() > 0

    runs(main)


def test_get_server_certificate(runs, contexts, tmp_path):
    """S43: as PEM; verified with ca_certs."""
    trust = str(tmp_path / "trust")
    contexts.authority.cert_pem.write_to_path(trust)
    expected = contexts.certificate.cert_chain_pems[0].bytes().decode()

    async def main():
        async with Served(contexts.server()) as served:
            for options in ({}, {"ca_certs": trust}):
                found = await ssl.get_server_certificate(served.address, **options)
                assert ssl.PEM_cert_to_DER_cert(found) == ssl.PEM_cert_to_DER_cert(expected)
        other = trustme.CA().issue_cert(HOST)
        async with Served(contexts.server(certificate=other)) as served:
            with pytest.raises(ssl.SSLCertVerificationError):
                await ssl.get_server_certificate(served.address, ca_certs=trust)

    runs(main)


# --- data --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 1_000_000])
def test_message_of_size(runs, contexts, kind, size):
    """T34, T35 over TLS: it arrives as it was sent, and b'' after the end."""

    async def main():
        client, server = await pair(contexts, kind)
        data = message(size)

        async def sends():
            async with client:
                await client.sendall(data)

        async with server:
            _, received = await together(sends(), receive_all(server))
            assert received == data
            assert await soon(server.recv(10)) == b""

    runs(main)


@pytest.mark.parametrize("small", [False, True])
def test_both_ways_at_once(runs, contexts, small):
    """1.8: two tasks at each end; in small buffers, too."""

    async def main():
        left, right = await raw_pair("tcp")
        if small:
            for sock in (left, right):
                sock.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, 4096)
                sock.setsockopt(plain.SOL_SOCKET, plain.SO_RCVBUF, 4096)
        client = contexts.client().wrap_socket(left, server_hostname=HOST)
        server = contexts.server().wrap_socket(right, server_side=True)
        await together(client.do_handshake(), server.do_handshake())
        data = message(40_000 if small else 5_000_000)
        async with client, server:
            _, _, there, back = await together(
                client.sendall(data),
                server.sendall(data[::-1]),
                receive(server, len(data)),
                receive(client, len(data)),
            )
            assert there == data and back == data[::-1]

    runs(main)


def test_one_byte_at_a_time(runs, contexts):
    """T34: what was decrypted and not asked for is there for the next call, without waiting."""

    async def main():
        client, server = await pair(contexts)
        data = message(3000)
        async with client, server:
            for byte in data[:100]:
                await client.sendall(bytes([byte]))
            assert await receive(server, 100) == data[:100]
            await client.sendall(data)
            received = b""
            while len(received) < len(data):
                received += await soon(server.recv(1))
            assert received == data

    runs(main)


def test_large_room_for_small_reads_fragments_no_memory(runs, contexts):
    """Blocks of 64 KiB, cut down to a line each and kept for a while, made servers grow."""

    async def exchanges(reader, writer):
        for _ in range(10):
            await writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            await writer._socket.sendall(b"hello")
            assert await reader.read(5) == b"hello"

    async def main():
        client, server = await pair(contexts)
        async with client, server:
            reader, writer = client.as_stream(), server.as_stream()
            await exchanges(reader, writer)
            tracemalloc.start()
            try:
                await exchanges(reader, writer)
                held, most = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert most - held < 32 * 1024

    runs(main)


def test_recv_into(runs, contexts):
    """S34: as the standard library's."""

    async def main():
        client, server = await pair(contexts)
        async with client, server:
            await client.sendall(b"0123456789")
            room = bytearray(20)
            assert await server.recv_into(room, 4) == 4 and room[:5] == b"0123\0"
            assert (
                await server.recv_into(memoryview(room)[4:]) == 6 and room[:11] == b"0123456789\0"
            )
            assert await client.send(b"x" * 10) == 10

    runs(main)


def test_what_tls_cannot_do(runs, contexts):
    """T53: as the standard library, ValueError for messages, NotImplementedError for dup."""

    async def main():
        client, server = await pair(contexts)
        async with client, server:
            for name, *arguments in [
                ("recvfrom", 10),
                ("recvfrom_into", bytearray(10)),
                ("recvmsg", 10),
                ("recvmsg_into", [bytearray(10)]),
                ("sendto", b"data", ("127.0.0.1", 1)),
                ("sendmsg", [b"data"]),
            ]:
                with pytest.raises((ValueError, NotImplementedError)):
                    await getattr(client, name)(*arguments)
            with pytest.raises(NotImplementedError):
                client.dup()
            with pytest.raises(ValueError):
                await client.recv(10, plain.MSG_PEEK)
            with pytest.raises(ValueError):
                await client.sendall(b"data", plain.MSG_OOB)
            with pytest.raises(curio.ReadResourceBusy):
                task = await curio.spawn(client.recv(10))
                try:
                    await client.recv(10)
                finally:
                    await task.cancel()

    runs(main)


def test_reads_cancelled_in_the_middle(runs, contexts):
    """1.14: nothing is lost, wherever in a record the ciphertext had ended."""

    async def main():
        left, middle = await raw_pair()
        other, right = await raw_pair()
        client = contexts.client().wrap_socket(left, server_hostname=HOST)
        server = contexts.server().wrap_socket(right, server_side=True)

        async def relays(source, target, most):
            while data := await source.recv(most):
                await target.sendall(data)
                if most < 1000:
                    await curio.sleep(0.0002)

        tasks = [
            await curio.spawn(relays(middle, other, 300)),
            await curio.spawn(relays(other, middle, 10_000)),
        ]
        await together(client.do_handshake(), server.do_handshake())
        data = message(20_000)
        sending = await curio.spawn(client.sendall(data))
        received, given_up = b"", 0
        while len(received) < len(data):
            try:
                received += await curio.timeout_after(0.001, server.recv(7000))
            except curio.TaskTimeout:
                given_up += 1
        assert received == data and given_up > 3
        await soon(sending.join())
        for task in tasks:
            await task.cancel()
        for sock in (client, server, middle, other):
            await sock.close()

    runs(main)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_writes_cancelled_in_the_middle(runs, contexts, how, kind):
    """T35, 1.14: bytes_sent is true, and what is written next comes in order behind it."""

    async def main():
        client, server = await pair(contexts, kind)
        sent, data = b"", message(10_000_000)

        async def sends():
            nonlocal sent
            try:
                await client.sendall(data)
            except curio.CancelledError as error:
                assert 0 < error.bytes_sent < len(data)
                sent += data[: error.bytes_sent]
                raise

        received = hashlib.sha256()
        count = 0

        async def receives(least):
            nonlocal count
            while count < least:
                piece = await soon(server.recv(100_000))
                assert piece
                received.update(piece)
                count += len(piece)

        for turn in range(5):
            if how == "cancel":
                task = await curio.spawn(sends())
                await until(lambda task=task: task.state == "WRITE_WAIT")
                await task.cancel()
            else:
                with pytest.raises(curio.TaskTimeout):
                    await curio.timeout_after(0.02, sends())
            text = b"in between %d" % turn
            sending = await curio.spawn(client.sendall(text))
            sent += text
            await receives(len(sent))
            await soon(sending.join())
        await client.close()
        assert await soon(server.recv(10)) == b""
        await server.close()
        assert count == len(sent) and received.digest() == hashlib.sha256(sent).digest()

    runs(main)


def test_send_cancelled(runs, contexts):
    """S34: nothing was sent; and the connection stays good."""

    async def main():
        client, server = await pair(contexts)
        sent = 0
        for _ in range(3):
            try:
                while True:
                    sent += await curio.timeout_after(0.01, client.send(b"x" * 5000))
            except curio.TaskTimeout:
                pass
            received = 0
            while received < sent:
                received += len(await soon(server.recv(min(65536, sent - received))))
            sent = 0
        await client.sendall(b"in order")
        assert await receive(server, 8) == b"in order"
        await client.close()
        await server.close()

    runs(main)


# --- streams -----------------------------------------------------------------------------------


def test_streams(runs, contexts):
    """T37, S36, L70 over TLS: lines, blocks, everything."""

    async def serve(sock, address):
        reader, writer = sock.make_streams()
        assert isinstance(reader, SocketStream)
        async for line in reader:
            await writer.write(line.upper())

    async def main():
        async with Served(contexts.server(), serve) as served:
            sock = await served.connect(ssl=contexts.client(), server_hostname=HOST)
            async with sock.as_stream() as stream:
                assert await stream.write(b"hello\n") == 6
                await stream.flush()
                assert await soon(stream.readline()) == b"HELLO\n"
                await stream.writelines([b"one\n", b"two\n" * 50_000, b"three\n"])
                assert await soon(stream.read_exactly(4)) == b"ONE\n"
                assert await soon(stream.read_exactly(200_000)) == b"TWO\n" * 50_000
                assert await soon(stream.readline()) == b"THREE\n"
            assert sock.fileno() == -1
            await until(lambda: not served.task.children)

    runs(main)


def test_small_writes_are_sent_when_the_task_waits(runs, contexts):
    """T40: gathered writes go without a flush, and at the end of the task."""

    async def serve(sock, address):
        stream = sock.as_stream()
        await stream.write(b"one ")
        await stream.write(b"two ")
        assert await stream.readline() == b"go\n"
        await stream.write(b"three")

    async def main():
        async with Served(contexts.server(), serve) as served:
            async with await served.connect(ssl=True) as sock:
                assert await receive(sock, 8) == b"one two "
                await sock.sendall(b"go\n")
                assert await receive_all(sock) == b"three"

    runs(main)


@pytest.mark.parametrize("operation", ["readline", "readall", "read_exactly"])
def test_stream_reads_cancelled(runs, contexts, operation):
    """1.14: nothing is lost; readall and read_exactly tell what they had."""

    async def main():
        client, server = await pair(contexts)
        stream = server.as_stream()
        await client.sendall(b"first part, ")
        reads = {"readline": stream.readline, "readall": stream.readall}
        read = reads.get(operation, lambda: stream.read_exactly(30))
        with pytest.raises(curio.TaskTimeout) as caught:
            await curio.timeout_after(0.02, read())
        await client.sendall(b"second part\n")
        if operation == "readline":
            assert await soon(stream.readline()) == b"first part, second part\n"
        else:
            assert caught.value.bytes_read == b"first part, "
            assert await soon(stream.readline()) == b"second part\n"
        await client.close()
        await stream.close()

    runs(main)


# --- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_close_is_told(runs, contexts, version):
    """1.9: close says so to the peer, who can tell it from an end by accident."""

    async def main():
        left, right = await raw_pair("tcp")
        raw = plain.socket(fileno=right.detach())
        raw.setblocking(True)
        context = contexts.client()
        context.maximum_version = ssl.TLSVersion[version]
        client = context.wrap_socket(left, server_hostname=HOST)

        def serve():
            # Without suppress_ragged_eofs an end without a word raises.
            with contexts.server(plain_ssl).wrap_socket(
                raw, server_side=True, suppress_ragged_eofs=False
            ) as sock:
                assert sock.recv(100) == b"data"
                return sock.recv(100)

        serving = await curio.spawn(curio.run_in_thread(serve))
        async with client:
            await client.sendall(b"data")
        assert await soon(serving.join()) == b""

    runs(main)


@pytest.mark.parametrize("suppress", [True, False, None])
def test_end_without_a_word(runs, contexts, suppress):
    """1.9: as in the standard library: b'', or SSLEOFError if suppress_ragged_eofs is false."""

    async def main():
        left, right = await raw_pair()
        options = {} if suppress is None else {"suppress_ragged_eofs": suppress}
        client = contexts.client().wrap_socket(left, server_hostname=HOST)
        server = contexts.server().wrap_socket(right, server_side=True, **options)
        await together(client.do_handshake(), server.do_handshake())
        await client.sendall(b"data")
        # No good-bye: the system's socket alone is shut down.
        with plain.socket(fileno=os.dup(client.fileno())) as raw:
            raw.shutdown(plain.SHUT_RDWR)
        assert await receive(server, 4) == b"data"
        if suppress is False:
            with pytest.raises(ssl.SSLEOFError):
                await soon(server.recv(10))
        else:
            assert await soon(server.recv(10)) == b""
        await server.close()
        await client.close()

    runs(main)


def test_broken_connection(runs, contexts):
    """T34, T35: a reset is an OSError, whether one reads or writes."""

    async def main():
        left, middle = await raw_pair()
        other, right = await raw_pair("tcp")
        client = contexts.client().wrap_socket(left, server_hostname=HOST)
        server = contexts.server().wrap_socket(right, server_side=True)

        async def relays(source, target):
            while data := await source.recv(10_000):
                await target.sendall(data)

        tasks = [await curio.spawn(relays(*ends)) for ends in ((middle, other), (other, middle))]
        await together(client.do_handshake(), server.do_handshake())
        for task in tasks:
            await task.cancel()
        reading = await curio.spawn(server.recv(10))
        other.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await other.close()
        with pytest.raises(curio.TaskError) as caught:
            await soon(reading.join())
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(OSError):
            for _ in range(5):
                await soon(server.sendall(b"x" * 100_000))
        await middle.close()
        await client.close()
        await server.close()

    runs(main)


def test_garbage_in_the_middle(runs, contexts):
    """1.9: what is no TLS is an SSLError, and the end is not taken for a good one."""

    async def main():
        client, server = await pair(contexts)
        os.write(client.fileno(), b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with pytest.raises(ssl.SSLError):
            await soon(server.recv(10))
        await client.close()
        await server.close()

    runs(main)


def test_close_while_another_task_reads(runs, contexts):
    """S34: it gets an OSError; so does who uses it later."""

    async def main():
        client, server = await pair(contexts)
        reading = await curio.spawn(client.recv(10))
        await client.close()
        with pytest.raises(curio.TaskError) as caught:
            await soon(reading.join())
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(OSError):
            await client.recv(10)
        with pytest.raises(OSError):
            await client.sendall(b"data")
        await client.close()
        assert await soon(server.recv(10)) == b""
        await server.close()

    runs(main)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("at_once", [False, True])
def test_unwrap(runs, contexts, kind, at_once):
    """1.9: back to a plain connection; nothing that came in plain is lost."""

    async def main():
        client, server = await pair(contexts, kind)

        async def unwraps():
            unwrapped = await server.unwrap()
            if at_once:
                await unwrapped.sendall(b"plain, at once")
            return unwrapped

        await client.sendall(b"secret")
        assert await receive(server, 6) == b"secret"
        unwrapping = await curio.spawn(unwraps())
        left = await soon(client.unwrap())
        right = await soon(unwrapping.join())
        assert type(left) is type(right) is Socket
        if at_once:
            assert await receive(left, 14) == b"plain, at once"
        await left.sendall(b"plain")
        assert await receive(right, 5) == b"plain"
        await right.sendall(b"back")
        assert await receive(left, 4) == b"back"
        await left.close()
        assert await soon(right.recv(10)) == b""
        await right.close()

    runs(main)


def test_tls_begins_later(runs, contexts):
    """1.9, 4: STARTTLS: a connection that was used in plain, by streams as well."""

    async def serve(sock, address):
        stream = sock.as_stream()
        await stream.write(b"220 ready\n")
        assert await stream.readline() == b"STARTTLS\n"
        await stream.write(b"220 go ahead\n")
        await stream.flush()
        async with await contexts.server().wrap_socket(sock, server_side=True) as secret:
            await echo(secret, address)

    async def main():
        async with Served(None, serve) as served:
            sock = await served.connect()
            reader, writer = sock.make_streams()
            assert await soon(reader.readline()) == b"220 ready\n"
            await writer.write(b"STARTTLS\n")
            assert await soon(reader.readline()) == b"220 go ahead\n"
            async with await contexts.client().wrap_socket(sock, server_hostname=HOST) as secret:
                assert await answers(secret, message(100_000))

    runs(main)


def test_tls_begins_again(runs, contexts):
    """1.9: after unwrap, on the same connection."""

    async def main():
        client, server = await pair(contexts)
        for turn in range(3):
            await client.sendall(b"turn %d" % turn)
            assert await receive(server, 6) == b"turn %d" % turn
            left, right = await together(client.unwrap(), server.unwrap())
            client = contexts.client().wrap_socket(left, server_hostname=HOST)
            server = contexts.server().wrap_socket(right, server_side=True)
            await together(client.do_handshake(), server.do_handshake())
        await client.close()
        await server.close()

    runs(main)


def test_unsent_data_when_tls_begins(runs, contexts):
    """T53: ValueError instead of mixing it with TLS; the socket is as it was."""

    async def main():
        left, right = await raw_pair()
        _, writer = left.make_streams()
        await writer.write(b"unsent")
        with pytest.raises(ValueError, match="flush"):
            contexts.client().wrap_socket(left, server_hostname=HOST)
        assert await receive(right, 6) == b"unsent"
        await left.close()
        await right.close()

    runs(main)


# --- blocking code -----------------------------------------------------------------------------


def test_blocking(runs, contexts):
    """T38: an object with a blocking socket's methods, which may be used in a thread."""

    async def main():
        client, server = await pair(contexts, "tcp")
        serving = await curio.spawn(echo(server, None))

        def works(raw):
            data = message(300_000)
            sender = threading.Thread(target=raw.sendall, args=(data[:50_000],))
            sender.start()
            sender.join()
            received = b""
            while len(received) < 50_000:
                received += raw.recv(10_000)
            assert received == data[:50_000]
            assert raw.send(b"hello") == 5
            room = bytearray(10)
            assert raw.recv_into(room) == 5 and room[:5] == b"hello"
            assert raw.version() == "TLSv1.3"
            assert raw.getpeername() == server.getsockname()
            return "done"

        with client.blocking() as raw:
            assert raw.gettimeout() is None
            assert await soon(curio.run_in_thread(works, raw)) == "done"
        assert not client._socket.getblocking()
        assert await answers(client)
        with pytest.raises(KeyError):
            with client.blocking():
                raise KeyError
        assert not client._socket.getblocking()
        assert await answers(client)
        await client.close()
        await soon(serving.join())
        await server.close()

    runs(main)


def test_blocking_leaves_nothing_behind(runs, contexts):
    """T38: what blocking code has received and not asked for is there for tasks afterwards."""

    async def main():
        client, server = await pair(contexts)
        await server.sendall(b"first second")
        with client.blocking() as raw:
            assert raw.recv(6) == b"first "
        assert await receive(client, 6) == b"second"
        await server.close()
        with client.blocking() as raw:
            assert raw.recv(10) == b""
        assert await soon(client.recv(10)) == b""
        await client.close()

    runs(main)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("size", [10, 500_000])
def test_client_of_the_standard_librarys(runs, contexts, version, size):
    """T46: blocking, in a thread, against our server; it ends in good order."""
    data = message(size)

    def client(address):
        context = contexts.client(plain_ssl)
        context.maximum_version = plain_ssl.TLSVersion[version]
        with (
            plain.create_connection(address) as raw,
            context.wrap_socket(raw, server_hostname=HOST, suppress_ragged_eofs=False) as sock,
        ):
            # Before Python 3.13 no two threads may use an SSLSocket at once.
            received = b""
            for start in range(0, len(data), 10_000):
                sock.sendall(data[start : start + 10_000])
                while len(received) < min(start + 10_000, len(data)):
                    received += sock.recv(100_000)
            sock.unwrap().close()
            return received

    async def main():
        async with Served(contexts.server()) as served:
            tasks = [
                await curio.spawn(curio.run_in_thread(client, served.address)) for _ in range(3)
            ]
            for task in tasks:
                assert await soon(task.join()) == data
            await until(lambda: not served.task.children)

    runs(main)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_server_of_the_standard_librarys(runs, contexts, version):
    """T48: blocking, in a thread, and we are its client."""
    data = message(500_000)

    async def main():
        with plain.create_server(("127.0.0.1", 0)) as listening:

            def serve():
                context = contexts.server(plain_ssl)
                context.maximum_version = plain_ssl.TLSVersion[version]
                raw, _ = listening.accept()
                with context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=False) as sock:
                    received = b""
                    while piece := sock.recv(100_000):
                        received += piece
                        sock.sendall(piece)
                    return received

            serving = await curio.spawn(curio.run_in_thread(serve))
            async with await curio.open_connection(
                *listening.getsockname(), ssl=contexts.client(), server_hostname=HOST
            ) as sock:
                assert sock.version() == version.replace("_", ".")
                sending = await curio.spawn(sock.sendall(data))
                assert await receive(sock, len(data)) == data
                await soon(sending.join())
            assert await soon(serving.join()) == data

    runs(main)


SERVER = """
import curio
from curio import ssl

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("chain.pem", "key.pem")

async def client(sock, address):
    stream = sock.as_stream()
    request = await stream.readline()
    while (await stream.readline()).strip():
        pass
    body = b"x" * 200000 + b"the end\\n"
    head = b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n"
    await stream.write(head % len(body) + body)

async def main():
    server = curio.create_server("127.0.0.1", 0, client, ssl=context)
    print("port", server.address[1], flush=True)
    await server.serve_forever()

curio.run(main)
"""


@pytest.fixture
def server_program(program, contexts, tmp_path):
    contexts.certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    contexts.certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "chain.pem"))
    contexts.authority.cert_pem.write_to_path(str(tmp_path / "trust.pem"))
    process = program(SERVER)
    process.wait_for("port ")
    yield process, int(process.output.split()[1])
    process.interrupt()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_curl(server_program, tmp_path):
    """T46: with the certificate checked, and without."""
    _, port = server_program
    for options in (["-k"], ["--cacert", str(tmp_path / "trust.pem")], ["-k", "--tls-max", "1.2"]):
        answer = subprocess.run(
            ["curl", "-sS", "--noproxy", "*", *options, f"https://localhost:{port}/"],
            capture_output=True,
            timeout=50,
        )
        assert answer.stderr == b"" and answer.returncode == 0
        assert answer.stdout == b"x" * 200_000 + b"the end\n"


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl")
def test_openssl(server_program, tmp_path):
    """T46: `s_client` verifies the certificate and gets all of the answer."""
    _, port = server_program
    answer = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost"]
        + ["-CAfile", str(tmp_path / "trust.pem"), "-verify_return_error", "-ign_eof"],
        input=b"GET / HTTP/1.1\r\n\r\n",
        capture_output=True,
        timeout=50,
    )
    assert answer.returncode == 0, answer.stderr
    assert b"Verify return code: 0 (ok)" in answer.stdout
    assert answer.stdout.count(b"x" * 200_000 + b"the end\n") == 1


# --- many --------------------------------------------------------------------------------------


def test_many_connections(runs, contexts):
    """T46: at once, each with its own words."""

    async def talks(served, context, n):
        async with await served.connect(ssl=context, server_hostname=HOST) as sock:
            for turn in range(3):
                assert await answers(sock, b"%d.%d " % (n, turn) * 3000)

    async def main():
        context = contexts.client()
        async with Served(contexts.server()) as served:
            await together(*(talks(served, context, n) for n in range(50)))
            await until(lambda: not served.task.children)

    runs(main)


def test_sessions_are_resumed(runs, contexts):
    """4: with the session of an earlier connection."""

    async def main():
        context = contexts.client()
        async with Served(contexts.server()) as served:
            async with await served.connect(ssl=context, server_hostname=HOST) as sock:
                assert await answers(sock)  # The tickets have come with it.
                session = sock.session
                assert session is not None
            raw = await served.connect()
            async with await context.wrap_socket(
                raw, server_hostname=HOST, session=session
            ) as sock:
                assert await answers(sock) and sock.session_reused

    runs(main)
