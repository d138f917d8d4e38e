"""Datagrams: each one whole, or cut where it was asked for, once, with its sender.

Goal: `recvfrom`, `sendto` and their kin on UDP and Unix sockets. Method: two sockets in one
kernel, and the same rhythms as for streams. What is different from a stream: an empty
datagram is one like others, a short one says nothing of what comes next, and nothing is
gathered or cut in pieces.
"""

import errno
import socket as plain

import curio
import pytest
from curio import socket
from curio.io import Socket


@pytest.fixture(params=["udp", "udp6", "unix"])
def ends(request, tmp_path):
    """Makes two sockets that have addresses and are not connected."""
    if request.param == "udp6" and not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    made = []

    def make():
        for n in range(2):
            if request.param == "unix":
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                sock.bind(str(tmp_path / str(n)))
            elif request.param == "udp6":
                sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                sock.bind(("::1", 0))
            else:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sock.bind(("127.0.0.1", 0))
            made.append(sock)
        return made

    yield make
    for sock in made:
        sock._socket.close()


def has_ipv6():
    try:
        with plain.socket(plain.AF_INET6, plain.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


async def until_blocked(task):
    async with curio.timeout_after(20):
        while task.state not in ("READ_WAIT", "WRITE_WAIT"):
            await curio.sleep(0)


async def outcome(operation):
    """What it has come to: its result, or the exception by which it was given up."""
    try:
        return await operation
    except curio.CancelledError as error:
        return error


def test_echo(kernel, ends):
    """S34: recvfrom and sendto; the address is the sender's."""

    async def echoes(sock, count):
        for _ in range(count):
            data, address = await sock.recvfrom(1000)
            assert await sock.sendto(data.upper(), address) == len(data)

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(20):
            task = await curio.spawn(echoes(there, 20))
            for n in range(20):
                text = b"datagram %d" % n
                assert await here.sendto(text, there.getsockname()) == len(text)
                data, address = await here.recvfrom(1000)
                assert data == text.upper()
                assert address == there.getsockname()
            await task.join()

    kernel.run(main)


def test_sendto_in_both_forms(kernel, ends):
    """S34: sendto(data, address) and sendto(data, flags, address), any bytes-like object."""

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(20):
            address = there.getsockname()
            assert await here.sendto(b"one", address) == 3
            assert await here.sendto(bytearray(b"three"), 0, address) == 5
            assert await here.sendto(memoryview(b"x two x")[2:5], socket.MSG_DONTWAIT, address) == 3
            assert [await there.recv(10) for _ in range(3)] == [b"one", b"three", b"two"]
            for wrong in ((), (0, address, 1), (address, 0)):
                with pytest.raises(TypeError):
                    await here.sendto(b"data", *wrong)
            with pytest.raises(TypeError):
                await here.sendto("text", address)

    kernel.run(main)


def test_receiving_into_memory(kernel, ends):
    """S34: recvfrom_into and recv_into; the rest of the memory is left alone."""

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(20):
            for nbytes, count in ((0, 8), (5, 5), (100, 8)):
                room = bytearray(b"." * 100)
                task = await curio.spawn(there.recvfrom_into(room, nbytes))
                await until_blocked(task)
                await here.sendto(b"datagram", there.getsockname())
                assert await task.join() == (count, here.getsockname())
                assert room == b"datagram"[:count] + b"." * (100 - count)
            room = bytearray(3)
            await here.sendto(b"datagram", there.getsockname())
            assert await there.recv_into(room) == 3 and room == b"dat"

    kernel.run(main)


def test_messages(kernel, ends):
    """S34: sendmsg gathers, recvmsg and recvmsg_into say whether it was cut."""

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(20):
            address = there.getsockname()
            assert await here.sendmsg([b"data", b"", b"gram"], [], 0, address) == 8
            assert await there.recvmsg(100) == (b"datagram", [], 0, here.getsockname())
            task = await curio.spawn(there.recvmsg(4))
            await until_blocked(task)
            assert await here.sendmsg([b"datagram"], [], 0, address) == 8
            data, ancillary, flags, sender = await task.join()
            assert (data, ancillary, sender) == (b"data", [], here.getsockname())
            assert flags & socket.MSG_TRUNC
            rooms = [bytearray(3), bytearray(7)]
            await here.sendmsg([b"datagram"], [], 0, address)
            count, ancillary, flags, sender = await there.recvmsg_into(rooms)
            assert (count, flags, sender) == (8, 0, here.getsockname())
            assert rooms == [bytearray(b"dat"), bytearray(b"agram\0\0")]

    kernel.run(main)


@pytest.mark.parametrize("size", [0, 1, 3, 7])
def test_truncation(kernel, ends, size):
    """S34: what does not fit is gone; the next one is whole."""

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(20):
            for _ in range(3):
                await here.sendto(b"datagram", there.getsockname())
                await here.sendto(b"another", there.getsockname())
                assert await there.recvfrom(size) == (b"datagram"[:size], here.getsockname())
                assert await there.recvfrom(100) == (b"another", here.getsockname())

    kernel.run(main)


def test_empty_datagrams_are_not_the_end(kernel, ends):
    """S34: each is received, with its sender; after them there may be more."""

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(20):
            address = there.getsockname()
            task = await curio.spawn(there.recvfrom(100))
            await until_blocked(task)
            for text in (b"", b"", b"text", b""):
                assert await here.sendto(text, address) == len(text)
            assert await task.join() == (b"", here.getsockname())
            assert await there.recv(100) == b""
            assert await there.recvfrom(100) == (b"text", here.getsockname())
            room = bytearray(5)
            assert await there.recvfrom_into(room) == (0, here.getsockname())
            # And then there is nothing: it waits.
            task = await curio.spawn(there.recv(100))
            await until_blocked(task)
            await here.sendto(b"late", address)
            assert await task.join() == b"late"

    kernel.run(main)


def test_connected(kernel, ends):
    """S34: connect, then send and recv; nobody else is heard."""

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(20):
            await here.connect(there.getsockname())
            assert await there.connect_ex(here.getsockname()) == 0
            assert here.getpeername() == there.getsockname()
            task = await curio.spawn(there.recv(100))
            await until_blocked(task)
            for text in (b"one", b"", b"three"):
                assert await here.send(text) == len(text)
            await here.sendall(b"all")
            assert await task.join() == b"one"
            assert [await there.recv(100) for _ in range(3)] == [b"", b"three", b"all"]

    kernel.run(main)


def test_largest_datagram_and_one_byte_more(kernel):
    """S34: sent whole, or EMSGSIZE; not in pieces."""

    async def main():
        with plain.socket(type=plain.SOCK_DGRAM) as raw:
            raw.bind(("127.0.0.1", 0))
            async with Socket(raw) as there, socket.socket(type=socket.SOCK_DGRAM) as here:
                data = bytes(range(250)) * 262 + b"1234567"
                assert len(data) == 65507
                assert await here.sendto(data, there.getsockname()) == len(data)
                assert await there.recv(100_000) == data
                for send in (here.sendto(data + b"8", there.getsockname()),):
                    with pytest.raises(OSError) as caught:
                        await send
                    assert caught.value.errno == errno.EMSGSIZE
                await here.connect(there.getsockname())
                with pytest.raises(OSError) as caught:
                    await here.sendall(data + b"8")
                assert caught.value.errno == errno.EMSGSIZE and caught.value.bytes_sent == 0

    kernel.run(main)


RECEIVE = {
    "recv": lambda sock: sock.recv(100),
    "recvfrom": lambda sock: sock.recvfrom(100),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(100)),
    "recvmsg": lambda sock: sock.recvmsg(100),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(100)]),
    "recv_into": lambda sock: sock.recv_into(bytearray(100)),
}


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("name", RECEIVE)
def test_given_up_loses_nothing(kernel, ends, name, how):
    """1.14: before one comes, in the turn in which it comes, and later."""

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(30):
            given_up = 0
            for n in range(8):
                text = b"." * (n + 1)
                receiving = RECEIVE[name](there)
                if how == "timeout":
                    receiving = curio.timeout_after(0.0005 * (n % 4), receiving)
                task = await curio.spawn(outcome(receiving))
                for _ in range(n // 2):
                    await curio.sleep(0)
                await here.sendto(text, there.getsockname())
                for _ in range(n % 3):
                    await curio.sleep(0)
                if how == "cancel":
                    await task.cancel()
                result = await task.join()
                if isinstance(result, curio.CancelledError):
                    given_up += 1
                    result = await there.recvfrom(100)
                got = result[0] if isinstance(result, tuple) else result
                assert got in (text, len(text))
                # Nothing else is there.
                with pytest.raises(BlockingIOError):
                    there._socket.recv(100)
            assert given_up > 0 or how == "timeout"

    kernel.run(main)


def test_sending_when_there_is_no_room(kernel, tmp_path):
    """S34, 1.14: it waits; given up, it was not sent; then the rest comes in order."""

    async def main():
        with plain.socket(plain.AF_UNIX, plain.SOCK_DGRAM) as raw:
            raw.bind(str(tmp_path / "there"))
            here = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            async with Socket(raw) as there, here, curio.timeout_after(20):
                address, count = there.getsockname(), 0
                while True:
                    task = await curio.spawn(outcome(here.sendto(b"%d" % count, address)))
                    if task.state == "WRITE_WAIT":
                        break
                    assert await task.join() == len(b"%d" % count)
                    count += 1
                await task.cancel()
                assert isinstance(await task.join(), curio.TaskCancelled)
                with pytest.raises(curio.TaskTimeout):
                    await curio.timeout_after(0.002, here.sendto(b"timeout", address))
                task = await curio.spawn(here.sendto(b"patient", address))
                await until_blocked(task)
                for n in range(count):
                    assert await there.recv(100) == b"%d" % n
                assert await task.join() == len(b"patient")
                assert await there.recv(100) == b"patient"
                assert count > 0

    kernel.run(main)


def test_nobody_there(kernel, tmp_path):
    """S34: the system's errors."""

    async def main():
        async with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            with pytest.raises(FileNotFoundError):
                await sock.sendto(b"x", str(tmp_path / "nobody"))
            with pytest.raises(OSError) as caught:
                await sock.send(b"x")
            assert caught.value.errno == errno.ENOTCONN
        async with socket.socket(type=socket.SOCK_DGRAM) as sock:
            with plain.socket(type=plain.SOCK_DGRAM) as trial:
                trial.bind(("127.0.0.1", 0))
                free = trial.getsockname()
            await sock.connect(free)
            await sock.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                await curio.timeout_after(20, sock.recv(100))

    kernel.run(main)


def test_one_sends_while_another_receives(kernel, ends):
    """1.8: two tasks, one socket; two receivers: ReadResourceBusy."""

    async def receives(sock):
        return [await sock.recv(100) for _ in range(50)]

    async def main():
        here, there = ends()
        async with here, there, curio.timeout_after(20):
            tasks = [await curio.spawn(receives(sock)) for sock in (here, there)]
            await until_blocked(tasks[0])
            for receive in RECEIVE.values():
                with pytest.raises(curio.ReadResourceBusy, match=f"task {tasks[0].id}"):
                    await receive(here)
            for n in range(50):
                await here.sendto(b"%d" % n, there.getsockname())
                await there.sendto(b"-%d" % n, here.getsockname())
                if n % 5 == 0:
                    await curio.sleep(0.0002)
            assert await tasks[0].join() == [b"-%d" % n for n in range(50)]
            assert await tasks[1].join() == [b"%d" % n for n in range(50)]

    kernel.run(main)


def test_pair_of_unix_datagrams(kernel):
    """S30: socketpair with a type; datagrams keep their bounds."""

    async def main():
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        async with left, right, curio.timeout_after(20):
            for text in (b"one", b"", b"three"):
                await left.send(text)
            assert [await right.recv(100) for _ in range(3)] == [b"one", b"", b"three"]

    kernel.run(main)


def test_packets_in_order_have_an_end(kernel):
    """S34: SOCK_SEQPACKET: bounds are kept, and after the last there is b''."""

    async def main():
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        async with right, curio.timeout_after(20):
            async with left:
                await left.send(b"one")
                await left.send(b"three")
                assert await right.recv(2) == b"on"
            assert await right.recv(100) == b"three"
            assert await right.recv(100) == b""

    kernel.run(main)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_connect_by_name(kernel, host):
    """S34: a name is looked up, for datagrams, too."""

    async def main():
        async with (
            socket.socket(type=socket.SOCK_DGRAM) as here,
            socket.socket(type=socket.SOCK_DGRAM) as there,
        ):
            there.bind(("127.0.0.1", 0))
            await here.connect((host, there.getsockname()[1]))
            await here.send(b"hello")
            assert await curio.timeout_after(20, there.recv(100)) == b"hello"

    kernel.run(main)


@pytest.mark.parametrize(
    "arguments",
    [
        (("127.0.0.1", 70_000),),
        (("127.0.0.1", -1),),
        (("127.0.0.1", "80"),),
        (("127.0.0.1",),),
        (("127.0.0.1", 80, 0),),
        (["127.0.0.1", 80],),
        ("127.0.0.1:80",),
        (None,),
        ((None, 80),),
        ("flags", ("127.0.0.1", 80)),
        (0, 0, ("127.0.0.1", 80)),
        (),
    ],
    ids=repr,
)
def test_an_address_that_is_none(kernel, arguments):
    """S34: what is wrong with an address is said in the standard library's words."""

    async def main():
        async with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            with pytest.raises(Exception) as ours:
                await sock.sendto(b"data", *arguments)
            with pytest.raises(Exception) as theirs:
                sock._socket.sendto(b"data", *arguments)
            assert (ours.type, str(ours.value)) == (theirs.type, str(theirs.value))

    kernel.run(main)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1", ""])
def test_an_address_by_name(kernel, host):
    """S34: what is not in figures is looked up by the standard library."""

    async def main():
        async with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
            there.bind(("0.0.0.0", 0))
            async with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
                if not host:
                    here.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                port = there.getsockname()[1]
                assert await here.sendto(b"data", (host, port)) == 4
                data, sender = await there.recvfrom(100)
                assert data == b"data"
                assert sender == (sender[0], here.getsockname()[1])

    kernel.run(main)


@pytest.mark.parametrize("size", [10, 65_536, 100_000])
def test_flags_are_the_system_s(kernel, ends, size):
    """S34: a datagram that was looked at is still there."""

    async def main():
        here, there = ends()
        assert await there.sendto(b"data", here.getsockname()) == 4
        for flags in (socket.MSG_PEEK, 0):
            data, address = await here.recvfrom(size, flags)
            assert (data, address) == (b"data", there.getsockname())
        with pytest.raises(BlockingIOError):
            here._socket.recvfrom(size)

    kernel.run(main)
