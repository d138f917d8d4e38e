"""The simulated network: programs on it are what they are elsewhere, time and faults are drawn.

What it does with delays, resets and cuts is tested in Rust (`crates/curio/tests/network.rs`); here
it is what Python sees: addresses, the socket module, servers, streams, TLS, errors.
"""

import ssl

import curio
import pytest
import trustme
from curio import socket, testing


def run(main, *args, **conditions):
    network = testing.Network(1, **conditions)
    return testing.run(main, network, *args, seed=1, network=network)


async def echo(client, address):
    async with client.as_stream() as stream:
        async for line in stream:
            await stream.write(b"You said: " + line)


async def say(sock, line):
    async with sock.as_stream() as stream:
        await stream.write(line)
        return await stream.readline()


def test_server_and_clients():
    async def main(network):
        server = curio.create_server("server", 80, echo)
        assert server.address == (network.host("server"), 80)
        serving = await curio.spawn(server.serve_forever)
        for _ in range(3):
            sock = await curio.open_connection("server", 80)
            assert sock.getpeername() == server.address
            assert sock.getsockname()[0] == "127.0.0.1"
            assert sock.family == socket.AF_INET
            assert await say(sock, b"Hello\n") == b"You said: Hello\n"
        await server.stop(seconds=1)
        await serving.join()

    run(main)


def test_delays_are_exact():
    async def main(network):
        async def greet(client, address):
            await client.sendall(b"x")

        await curio.spawn(curio.tcp_server, "", 80, greet, daemon=True)
        await curio.sleep(1)
        start = await curio.clock()
        async with await curio.open_connection("localhost", 80) as sock:
            assert await sock.recv(1) == b"x"
        return await curio.clock() - start

    # There and back; the greeting is on its way since the first second.
    assert run(main, delay=(1, 1)) == pytest.approx(2, abs=0.01)


def test_the_socket_module():
    async def main(network):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(("", 25000))
        listener.listen(5)
        assert listener.getsockname() == ("0.0.0.0", 25000)

        async def serve():
            client, address = await listener.accept()
            assert address == ("127.0.0.1", 6000)
            async with client:
                await client.sendall(await client.recv(100))

        serving = await curio.spawn(serve)
        sock = socket.socket()
        assert (sock.family, sock.getsockname()) == (socket.AF_INET, ("0.0.0.0", 0))
        sock.bind(("", 6000))
        await sock.connect(("somewhere", 25000))
        async with sock, listener:
            await sock.sendall(b"Hello")
            assert await sock.recv(100) == b"Hello"
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            async with sock.dup() as other:
                assert other.getpeername() == sock.getpeername()
            assert await sock.recv(100) == b""
        await serving.join()

    run(main)


def test_source_addresses_and_ipv6():
    async def main(network):
        addresses = []

        async def note(client, address):
            addresses.append(address)

        server = curio.create_server("::1", 80, note, family=socket.AF_INET6)
        assert server.address == ("::1", 80, 0, 0)
        async with curio.TaskGroup(wait=None) as group:
            await group.spawn(server.serve_forever)
            source = ("::2", 7000)
            async with await curio.open_connection("::1", 80, source_addr=source) as sock:
                assert sock.family == socket.AF_INET6
                assert sock.getsockname() == ("::2", 7000, 0, 0)
                assert await sock.recv(1) == b""
        assert addresses == [("::2", 7000, 0, 0)]

    run(main)


def test_names():
    async def main(network):
        [found] = await socket.getaddrinfo("www.example.com", 80, type=socket.SOCK_STREAM)
        assert found[4] == (network.host("www.example.com"), 80)
        assert await socket.gethostbyname("www.example.com") == network.host("www.example.com")
        assert network.host("") == network.host("localhost") == "127.0.0.1"
        assert network.host("192.168.1.1") == "192.168.1.1"
        assert network.host("a") != network.host("b")

    run(main)


def test_nobody_listens():
    async def main(network):
        with pytest.raises(ConnectionRefusedError):
            await curio.open_connection("server", 80)
        listener = curio.tcp_server_socket("server", 80)
        with pytest.raises(OSError, match="Address already in use"):
            curio.tcp_server_socket("server", 80)
        await listener.close()
        async with socket.create_server(("server", 80)) as listener:
            network.cut("server")
            with pytest.raises(TimeoutError):
                await curio.open_connection("server", 80)
            network.heal()
            async with await curio.open_connection("server", 80) as sock:
                client, _ = await listener.accept()
                async with client:
                    network.reset_all()
                    for end in (sock, client):
                        with pytest.raises(ConnectionResetError):
                            await end.recv(1)

    run(main)


def test_resets():
    async def main(network):
        one, other = network.pair()
        async with one, other:
            await one.sendall(b"Hello")
            with pytest.raises(ConnectionResetError):
                while await other.recv(10):
                    pass
            with pytest.raises(OSError):
                await one.sendall(b"Hello")

    run(main, resets=1.0)


def test_a_sender_waits():
    async def main(network):
        one, other = network.pair()
        async with one, other:
            sending = await curio.spawn(one.sendall, bytes(1_000_000))
            await curio.sleep(100)
            assert sending.state == "WRITE_WAIT"
            received = 0
            while received < 1_000_000:
                received += len(await other.recv(65_536))
            await sending.join()

    run(main, buffer=1000)


def test_datagrams():
    async def main(network, count=100):
        one, other = network.datagrams()
        got = []
        async with one, other:
            for number in range(count):
                await one.send(bytes([number]))
                async with curio.ignore_after(0.001):
                    while True:
                        got.append((await other.recv(10))[0])
            async with curio.ignore_after(1):
                while True:
                    got.append((await other.recv(10))[0])
        return got

    got = run(main)
    assert sorted(got) == list(range(100)) != got
    assert 20 < len(run(main, loss=0.5)) < 80
    assert sorted(run(main, duplicates=1)) == sorted([*range(100)] * 2)


def test_tls():
    authority = trustme.CA()
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server").configure_cert(here)

    async def main(network):
        await curio.spawn(curio.run_server, "server", 443, echo, here, daemon=True)
        await curio.sleep(1)
        context = curio.ssl.create_default_context()
        authority.configure_trust(context)
        sock = await curio.open_connection("server", 443, ssl=context)
        assert await say(sock, bytes(50_000) + b"\n") == b"You said: " + bytes(50_000) + b"\n"

    run(main)


def test_unix_sockets_are_the_machines(tmp_path):
    async def main(network):
        path = str(tmp_path / "socket")
        await curio.spawn(curio.unix_server, path, echo, daemon=True)
        await curio.sleep(1)
        sock = await curio.open_unix_connection(path)
        assert await say(sock, b"Hello\n") == b"You said: Hello\n"
        network.cut("localhost")
        one, other = socket.socketpair()
        async with one, other:
            await one.sendall(b"x" * 2000)
            assert await other.recv(2000) == b"x" * 2000

    run(main)


@pytest.mark.parametrize(
    "conditions, text",
    [
        ({"loss": 1.5}, "loss is a share from 0.0 to 1.0, not 1.5"),
        ({"resets": -1}, "resets is a share from 0.0 to 1.0, not -1"),
        ({"duplicates": 2}, "duplicates is a share from 0.0 to 1.0, not 2"),
        ({"delay": (2, 1)}, r"delay is the least and the most in seconds, not \(2, 1\)"),
        ({"delay": (1,)}, r"delay is the least and the most in seconds, not \(1,\)"),
        ({"buffer": 0}, "buffer is a positive number of bytes, not 0"),
    ],
)
def test_bad_conditions(conditions, text):
    with pytest.raises(ValueError, match=text):
        testing.Network(**conditions)
    network = testing.Network()
    with pytest.raises(ValueError, match=text):
        network.set(**conditions)


def test_unknown_conditions():
    with pytest.raises(TypeError, match="speed"):
        testing.Network(speed=1)
    with pytest.raises(TypeError, match="speed"):
        testing.Network().set(speed=1)
    with pytest.raises(TypeError):
        testing.VirtualKernel(network="fast")


def test_conditions_change_one_by_one():
    async def main(network):
        network.set(resets=1.0)
        network.set(loss=0.5)  # and the resets stay
        one, other = network.pair()
        async with one, other:
            await one.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                while await other.recv(1):
                    pass

    run(main)
