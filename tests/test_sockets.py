"""Sockets and servers: data arrives, all of it, whoever waits, and descriptors go back.

Goal: the contract of `curio.socket`, `curio.io.Socket` and `run_server`. Method: two ends of a
real connection in one kernel, or one end of the standard library's in a thread where the
other side must be plain. Readiness is what goes wrong in such code (an event that is
missed, or believed for too long), so the ends are read and written in many rhythms.
"""

import array
import errno
import gc
import inspect
import itertools
import os
import socket as plain
import struct
import threading
import traceback

import curio
import pytest
from curio import socket
from curio.io import Socket


class Oops(Exception):
    pass


def pair():
    return tuple(map(Socket, plain.socketpair()))


async def tcp_pair():
    """Two ends of a TCP connection."""
    async with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        left = socket.socket()
        connecting = await curio.spawn(left.connect(listener.getsockname()))
        right, address = await listener.accept()
        await connecting.join()
        assert address == left.getsockname()
        return left, right


async def receive_all(sock, size=65536):
    pieces = []
    while data := await sock.recv(size):
        pieces.append(data)
    return b"".join(pieces)


async def receive(sock, count):
    received = b""
    while len(received) < count:
        data = await sock.recv(count - len(received))
        assert data, "the connection has ended early"
        received += data
    return received


def message(size):
    return bytes(itertools.islice(itertools.cycle(range(251)), size))


# --- the module ----------------------------------------------------------------------------


def test_module_has_the_standard_librarys_names():
    """T27, T29: constants, exceptions, helpers; `socket` makes curio sockets."""
    for name in ("AF_INET", "SOCK_STREAM", "SOL_SOCKET", "SO_REUSEADDR", "timeout", "error"):
        assert getattr(socket, name) is getattr(plain, name)
        assert name in socket.__all__
    assert socket.inet_aton is plain.inet_aton
    namespace = {}
    exec("from curio.socket import *", namespace)
    assert namespace["AF_INET"] is plain.AF_INET
    assert namespace["socket"] is socket.socket


def test_nothing_in_the_module_blocks_silently():
    """1.8: what might wait is either there to be awaited, or not there."""
    for name in ("create_connection", "getaddrinfo", "gethostbyname", "socketpair", "fromfd"):
        assert getattr(socket, name, None) is not getattr(plain, name)


def test_socket_is_made_like_the_standard_librarys(runs):
    """T28: family, type, proto, fileno, by place and by name."""

    async def main():
        async with socket.socket() as sock:
            assert isinstance(sock, Socket)
            assert (sock.family, sock.type) == (plain.AF_INET, plain.SOCK_STREAM)
        async with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            assert (sock.family, sock.type) == (plain.AF_UNIX, plain.SOCK_DGRAM)
        raw = plain.socket()
        async with socket.socket(fileno=raw.detach()) as sock:
            assert sock.getsockname() == ("0.0.0.0", 0)
        with pytest.raises(OSError):
            socket.socket(12345)

    runs(main)


def test_wrapping(runs):
    """S33: any socket; made non-blocking; attributes pass through; `_socket` is the raw one."""

    async def main():
        raw, other = plain.socketpair()
        assert raw.getblocking()
        async with Socket(raw) as sock, Socket(other):
            assert sock._socket is raw and not raw.getblocking()
            assert sock.fileno() == raw.fileno()
            assert (sock.family, sock.proto) == (raw.family, raw.proto)
            assert repr(sock) == f"<curio.Socket {raw!r}>"
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
            with pytest.raises(AttributeError, match="no_such_thing"):
                sock.no_such_thing  # noqa: B018
        assert "[closed]" in repr(sock)

    runs(main)


def test_settings_are_not_async(runs):
    """T30-T32: setsockopt, bind and listen are plain calls."""

    async def main():
        async with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            assert sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1) is None
            assert sock.bind(("127.0.0.1", 0)) is None
            assert sock.listen(5) is None
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1

    runs(main)


def test_timeouts_of_sockets(runs):
    """S35: settimeout says what to use instead; gettimeout is None."""

    async def main():
        left, right = pair()
        async with left, right:
            for seconds in (None, 0, 1.5):
                with pytest.raises(RuntimeError, match="timeout_after"):
                    left.settimeout(seconds)
            assert left.gettimeout() is None

    runs(main)


def test_plain_with_is_refused(runs):
    """T36, D14: AsyncOnlyError, which is a RuntimeError; the socket stays open."""

    async def main():
        left, right = pair()
        async with left, right:
            with pytest.raises(curio.AsyncOnlyError, match="async with"):
                with left:
                    pass
            await right.send(b"open")
            assert await left.recv(10) == b"open"

    runs(main)


def test_async_with_closes(runs):
    """T36: also on an exception, and on a cancellation."""

    async def reads(sock):
        async with sock:
            await sock.recv(1)

    async def main():
        left, right = pair()
        with pytest.raises(Oops):
            async with left as same:
                assert same is left
                raise Oops
        assert left.fileno() == -1
        task = await curio.spawn(reads(right))
        await task.join()
        assert right.fileno() == -1

        left, right = pair()
        task = await curio.spawn(reads(right))
        await task.cancel()
        assert right.fileno() == -1
        await left.close()

    runs(main)


# --- connecting -----------------------------------------------------------------------------


def test_connect_and_accept(runs):
    """T33, S34: over TCP, with the addresses of both."""

    async def main():
        left, right = await tcp_pair()
        async with left, right:
            assert type(right) is Socket
            assert left.getpeername() == right.getsockname()
            await left.sendall(b"ping")
            assert await right.recv(100) == b"ping"

    runs(main)


def test_connect_ex(runs):
    """S34: 0 when it has succeeded."""

    async def main():
        async with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            async with socket.socket() as sock:
                assert await sock.connect_ex(listener.getsockname()) == 0
                client, _ = await listener.accept()
                await client.close()
                assert await sock.connect_ex(listener.getsockname()) in (0, errno.EISCONN)

    runs(main)


def test_unix_sockets(runs, tmp_path):
    """S34: connect and accept by path."""

    async def main():
        path = str(tmp_path / "socket")
        async with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            async with socket.socket(socket.AF_UNIX) as sock:
                await sock.connect(path)
                client, _ = await listener.accept()
                async with client:
                    await sock.send(b"data")
                    assert await client.recv(10) == b"data"

    runs(main)


def test_accept_keeps_what_came_meanwhile(runs):
    """T33: connections that came while nobody waited are there, in order."""

    async def main():
        async with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(10)
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.002, listener.accept())
            peers = [plain.create_connection(listener.getsockname()) for _ in range(5)]
            for peer in peers:
                client, address = await listener.accept()
                assert address == peer.getsockname()
                await client.close()
                peer.close()

    runs(main)


# --- data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 65535, 65536, 65537, 300_000])
@pytest.mark.parametrize("make", [pair, tcp_pair])
def test_message_of_size(runs, size, make):
    """T34, T35: arrives as it was sent; b'' after the end."""

    async def main():
        made = make()
        left, right = made if isinstance(made, tuple) else await made
        data = message(size)

        async def sends():
            async with left:
                assert await left.sendall(data) is None

        task = await curio.spawn(sends())
        async with right:
            assert await receive_all(right) == data
            assert await right.recv(10) == b""
        await task.join()

    runs(main)


def test_ten_megabytes_each_way_at_once(runs):
    """T34, T35, 1.8: one task reads while another writes the same socket."""
    there, back = message(10_000_000), message(10_000_000)[::-1]

    async def main():
        left, right = await tcp_pair()
        async with left, right:
            senders = [
                await curio.spawn(left.sendall(there)),
                await curio.spawn(right.sendall(back)),
            ]
            readers = [
                await curio.spawn(receive(right, len(there))),
                await curio.spawn(receive(left, len(back))),
            ]
            assert await readers[0].join() == there
            assert await readers[1].join() == back
            for task in senders:
                await task.join()

    runs(main)


@pytest.mark.parametrize("size", [1, 7, 1000, 65536, 65537, 1_000_000])
def test_reading_in_pieces(runs, size):
    """T34: at most as much as was asked for, never less than what is there for nothing."""
    data = message(100_000)

    async def main():
        left, right = pair()

        async def sends():
            async with left:
                for start in range(0, len(data), 30_000):
                    await left.sendall(data[start : start + 30_000])
                    await curio.sleep(0.001)

        task = await curio.spawn(sends())
        async with right:
            received = b""
            while piece := await right.recv(size):
                assert len(piece) <= size
                received += piece
        assert received == data
        await task.join()

    if size == 1:
        data = data[:3000]
    runs(main)


@pytest.mark.parametrize(
    "data",
    [
        bytearray(b"0123456789"),
        memoryview(b"0123456789"),
        memoryview(bytearray(b"xx0123456789xx"))[2:12],
        array.array("H", struct.unpack("=5H", b"0123456789")),
        memoryview(array.array("i", [0x33323130]))[:],
    ],
    ids=["bytearray", "memoryview", "slice", "array", "view of an array"],
)
def test_buffers_of_all_kinds(runs, data):
    """T35: any buffer object; counted in bytes."""
    expected = memoryview(data).tobytes()

    async def main():
        left, right = pair()
        async with left, right:
            await left.sendall(data)
            assert await receive(right, len(expected)) == expected
            assert await left.send(data) == len(expected)
            assert await receive(right, len(expected)) == expected

    runs(main)


def test_buffer_is_held_while_it_is_sent_and_no_longer(runs):
    """T35: a bytearray cannot be resized under the system's hands; afterwards it can."""

    async def main():
        left, right = pair()
        async with left, right:
            data = bytearray(message(3_000_000))
            task = await curio.spawn(left.sendall(data))
            assert task.state == "WRITE_WAIT"
            with pytest.raises(BufferError):
                data.append(0)
            assert await receive(right, len(data)) == data
            await task.join()
            data.append(0)
            task = await curio.spawn(left.sendall(data))
            await task.cancel()
            data.clear()

    runs(main)


def test_send_takes_what_it_can(runs):
    """S34: the count; the rest is the caller's."""

    async def main():
        left, right = pair()
        async with left, right:
            data = message(3_000_000)
            count = await left.send(data)
            assert 0 < count < len(data)
            assert await receive(right, count) == data[:count]
            assert await left.send(b"") == 0
            await left.sendall(b"")
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.002, right.recv(1))

    runs(main)


def test_peeking_loses_no_readiness(runs):
    """T34: MSG_PEEK leaves the data; the next recv must not wait for more."""

    async def main():
        left, right = pair()
        async with left, right, curio.timeout_after(20):
            for _ in range(3):
                reader = await curio.spawn(right.recv(100, socket.MSG_PEEK))
                await left.send(b"hello")
                assert await reader.join() == b"hello"
                assert await right.recv(3, socket.MSG_PEEK) == b"hel"
                assert await right.recv(100, socket.MSG_PEEK) == b"hello"
                assert await right.recv(100) == b"hello"

    runs(main)


def test_flags_are_handed_to_the_system(runs):
    """T34, T35: urgent data, on a TCP connection."""

    async def main():
        left, right = await tcp_pair()
        async with left, right, curio.timeout_after(20):
            await left.send(b"!", socket.MSG_OOB)
            while True:
                try:
                    assert await right.recv(1, socket.MSG_OOB) == b"!"
                    break
                except OSError as error:
                    assert error.errno == errno.EINVAL  # it has not come yet
                    await curio.sleep(0.001)
            await left.send(b"normal")
            assert await receive(right, 6) == b"normal"

    runs(main)


def test_recv_of_nothing(runs):
    """T34: recv(0) is b'' at once, with data there and without."""

    async def main():
        left, right = pair()
        async with left, right, curio.timeout_after(20):
            assert await right.recv(0) == b""
            await left.send(b"data")
            assert await right.recv(0) == b""
            assert await right.recv(10) == b"data"
            assert await right.recv(0) == b""

    runs(main)


def test_half_close(runs):
    """T34, L71: the end in one direction leaves the other."""

    async def main():
        left, right = await tcp_pair()
        async with left, right:
            await left.sendall(b"last words")
            await left.shutdown(socket.SHUT_WR)
            assert await receive_all(right) == b"last words"
            for n in range(3):
                await right.sendall(b"%d" % n)
                assert await left.recv(10) == b"%d" % n
            await right.close()
            assert await left.recv(10) == b""

    runs(main)


@pytest.mark.parametrize("first_wait", [True, False])
@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
@pytest.mark.parametrize("make", [pair, tcp_pair])
def test_data_and_end_together(runs, make, size, first_wait):
    """T34: a short read may be the last, with the end right behind it and no event to come."""

    async def main():
        made = make()
        left, right = made if isinstance(made, tuple) else await made
        async with curio.timeout_after(20):
            if first_wait:
                reader = await curio.spawn(receive_all(right, size))
                assert reader.state == "READ_WAIT"
            left._socket.send(b"data")
            await left.close()
            if not first_wait:
                reader = await curio.spawn(receive_all(right, size))
            assert await reader.join() == b"data"
            assert await right.recv(size) == b""
        await right.close()

    runs(main)


@pytest.mark.parametrize("rhythm", list(itertools.product([0, 0.001], repeat=3)))
def test_rhythms_of_writing(runs, rhythm):
    """T34: data, data, end, with and without time between them."""

    async def main():
        left, right = pair()
        reader = await curio.spawn(receive_all(right, 100))
        for pause in rhythm:
            left._socket.send(b"data")
            if pause:
                await curio.sleep(pause)
        await left.close()
        assert await curio.timeout_after(20, reader.join()) == b"data" * 3
        await right.close()

    runs(main)


def test_datagrams(runs):
    """T28: each recv one datagram; a short one says nothing about the next."""

    async def main():
        left, right = map(Socket, plain.socketpair(plain.AF_UNIX, plain.SOCK_DGRAM))
        async with left, right, curio.timeout_after(20):
            for _ in range(3):
                reader = await curio.spawn(right.recv(100))
                for text in (b"one", b"", b"three"):
                    await left.send(text)
                assert await reader.join() == b"one"
                assert await right.recv(100) == b""
                assert await right.recv(2) == b"th"

    runs(main)


def test_udp(runs):
    """T28, S34: a connected pair of UDP sockets."""

    async def main():
        async with (
            socket.socket(type=socket.SOCK_DGRAM) as left,
            socket.socket(type=socket.SOCK_DGRAM) as right,
        ):
            for sock in (left, right):
                sock.bind(("127.0.0.1", 0))
            await left.connect(right.getsockname())
            await right.connect(left.getsockname())
            reader = await curio.spawn(right.recv(100))
            await left.send(b"datagram")
            assert await reader.join() == b"datagram"

    runs(main)


# --- several tasks and one socket ---------------------------------------------------------


def test_two_readers(runs):
    """1.8: the second gets ReadResourceBusy that says who is there; the first gets the data."""

    async def main():
        left, right = pair()
        async with left, right:
            reader = await curio.spawn(left.recv(10))
            with pytest.raises(curio.ReadResourceBusy) as caught:
                await left.recv(10)
            assert f"task {reader.id}" in str(caught.value)
            assert f"descriptor {left.fileno()}" in str(caught.value)
            with pytest.raises(curio.ReadResourceBusy):
                await left.accept()
            await right.send(b"data")
            assert await reader.join() == b"data"
            await right.send(b"again")
            assert await left.recv(10) == b"again"

    runs(main)


def test_two_writers(runs):
    """1.8: WriteResourceBusy; `bytes_sent` says that nothing was sent."""

    async def main():
        left, right = pair()
        async with left, right:
            data = message(2_000_000)
            writer = await curio.spawn(left.sendall(data))
            with pytest.raises(curio.WriteResourceBusy) as caught:
                await left.sendall(b"intruder")
            assert caught.value.bytes_sent == 0
            assert f"task {writer.id}" in str(caught.value)
            assert await receive(right, len(data)) == data
            await writer.join()

    runs(main)


def test_reader_and_writer(runs):
    """1.8: one reads, one writes, and each is woken by its own event only."""

    async def main():
        left, right = pair()
        async with left, right:
            reader = await curio.spawn(left.recv(10))
            data = message(2_000_000)
            writer = await curio.spawn(left.sendall(data))
            assert (reader.state, writer.state) == ("READ_WAIT", "WRITE_WAIT")
            assert await receive(right, len(data)) == data
            await writer.join()
            assert reader.state == "READ_WAIT"
            await right.send(b"data")
            assert await reader.join() == b"data"

    runs(main)


def test_two_wrappers_of_one_descriptor(runs):
    """1.8: a reader and a writer may come through different objects."""

    async def main():
        left, right = pair()
        other = Socket(plain.socket(fileno=os.dup(left.fileno())))
        async with left, right, other:
            reader = await curio.spawn(left.recv(10))
            data = message(1_000_000)
            writer = await curio.spawn(other.sendall(data))
            assert await receive(right, len(data)) == data
            await writer.join()
            await right.send(b"data")
            assert await reader.join() == b"data"

    runs(main)


@pytest.mark.parametrize("what", ["recv", "sendall", "accept"])
def test_close_while_another_task_waits(runs, what):
    """S34: the waiting task gets an OSError, EBADF."""

    async def main():
        left, right = pair()
        if what == "accept":
            await left.close()
            left = socket.socket()
            left.bind(("127.0.0.1", 0))
            left.listen()
            waiting = left.accept()
        elif what == "recv":
            waiting = left.recv(10)
        else:
            waiting = left.sendall(message(3_000_000))
        task = await curio.spawn(waiting)
        assert task.state in ("READ_WAIT", "WRITE_WAIT")
        await left.close()
        with pytest.raises(curio.TaskError) as caught:
            await curio.timeout_after(20, task.join())
        error = caught.value.__cause__
        assert isinstance(error, OSError) and error.errno == errno.EBADF
        if what == "sendall":
            assert 0 < error.bytes_sent < 3_000_000
        await right.close()

    runs(main, log_errors=False)


def test_descriptors_are_reused(runs):
    """1.8: a registration does not outlive its file; the number's next owner is another."""

    async def main():
        numbers = set()
        for n in range(50):
            left, right = pair()
            numbers.add(left.fileno())
            async with left, right:
                task = await curio.spawn(left.recv(10))
                if n % 3 == 0:
                    await right.send(b"%d" % n)
                    assert await task.join() == b"%d" % n
                elif n % 3 == 1:
                    await task.cancel()
                else:
                    await left.close()
                    await task.wait()
        assert len(numbers) < 10

    runs(main, log_errors=False)


def test_descriptor_is_reused_while_another_waits_on_it(runs):
    """1.8: closed and made anew between two looks at the sockets."""

    async def main():
        first, second = pair()
        waiting = await curio.spawn(first.recv(10))
        number = first.fileno()
        await first.close()
        third, fourth = pair()
        assert number in (third.fileno(), fourth.fileno())
        reader = await curio.spawn(third.recv(10))
        await fourth.send(b"a message")
        assert await curio.timeout_after(20, reader.join()) == b"a message"
        assert waiting.terminated
        for sock in (second, third, fourth):
            await sock.close()

    runs(main, log_errors=False)


def test_socket_without_close_gives_its_descriptor_back(runs):
    """1.8: dropped, after it was waited on."""

    async def main():
        left, right = pair()
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.001, left.recv(1))
        left._socket.close()
        del left
        gc.collect()
        await right.close()
        left, right = pair()
        async with left, right:
            reader = await curio.spawn(left.recv(10))
            await right.send(b"new")
            assert await reader.join() == b"new"

    runs(main)


def test_socket_moves_to_another_kernel():
    """1.8: waited on in one kernel, then in another, while the first still exists."""
    left, right = pair()

    async def waits():
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.002, left.recv(1))

    async def reads():
        reader = await curio.spawn(left.recv(10))
        await right.send(b"data")
        return await reader.join()

    async def closes():
        await left.close()
        await right.close()

    with curio.Kernel() as first, curio.Kernel() as second:
        for kernel in (first, second, first):
            kernel.run(waits)
            assert kernel.run(reads) == b"data"
        second.run(closes)


# --- every method ---------------------------------------------------------------------------


async def when_blocked(task):
    """Until the task waits for a descriptor."""
    async with curio.timeout_after(20):
        while task.state not in ("READ_WAIT", "WRITE_WAIT"):
            await curio.sleep(0)


RECEIVING = {
    "recv": lambda sock: sock.recv(100),
    "recv_into": lambda sock: sock.recv_into(bytearray(100)),
    "recvfrom": lambda sock: sock.recvfrom(100),
    "recvfrom_into": lambda sock: sock.recvfrom_into(bytearray(100)),
    "recvmsg": lambda sock: sock.recvmsg(100),
    "recvmsg_into": lambda sock: sock.recvmsg_into([bytearray(100)]),
}
SENDING = {
    "send": lambda sock, data: sock.send(data),
    "sendall": lambda sock, data: sock.sendall(data),
    "sendmsg": lambda sock, data: sock.sendmsg([data]),
}


def test_recv_into(runs):
    """S34: at most the buffer's length, or nbytes; the rest of it is left alone."""

    async def main():
        left, right = pair()
        async with left, right:
            room = bytearray(b"........")
            task = await curio.spawn(right.recv_into(room))
            await when_blocked(task)
            await left.send(b"hello")
            assert await task.join() == 5 and room == b"hello..."
            await left.send(b"0123456789")
            assert await right.recv_into(room, 3) == 3 and room == b"012lo..."
            assert await right.recv_into(room, nbytes=0, flags=socket.MSG_PEEK) == 7
            assert await right.recv_into(memoryview(room)[6:]) == 2
            assert room == b"34567834"
            numbers = array.array("H", [0, 0])
            assert await right.recv_into(numbers) == 4 and numbers.tobytes() == b"5678"
            for wrong in (b"0000", "text", 5):
                with pytest.raises((TypeError, BufferError)):
                    await right.recv_into(wrong)
            with pytest.raises(ValueError):
                await right.recv_into(room, -1)
            await left.close()
            assert await right.recv_into(room) == 1 and room[:1] == b"9"
            assert await right.recv_into(room) == 0

    runs(main)


def test_messages_with_ancillary_data(runs):
    """S34: sendmsg and recvmsg carry descriptors; recvmsg_into fills several buffers."""

    async def main():
        left, right = pair()
        async with left, right:
            task = await curio.spawn(right.recvmsg(100, socket.CMSG_SPACE(4)))
            await when_blocked(task)
            fd, other = os.pipe()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            assert await left.sendmsg([b"one ", bytearray(b"and "), b"two"], rights) == 11
            data, ancillary, flags, _ = await task.join()
            ((level, kind, content),) = ancillary
            assert (data, level, kind) == (b"one and two", socket.SOL_SOCKET, socket.SCM_RIGHTS)
            received = struct.unpack("i", content)[0]
            os.write(other, b"through the pipe")
            assert os.read(received, 100) == b"through the pipe"
            for number in (fd, other, received):
                os.close(number)
            assert await left.sendmsg([b"012", b"34567"]) == 8
            rooms = [bytearray(3), bytearray(10)]
            assert (await right.recvmsg_into(rooms))[0] == 8
            assert rooms == [b"012", b"34567\0\0\0\0\0"]

    runs(main)


def test_send_fds_and_recv_fds(runs):
    """T27: a descriptor arrives as a descriptor."""

    async def main():
        left, right = pair()
        async with left, right:
            task = await curio.spawn(socket.recv_fds(right, 100, 5))
            await when_blocked(task)
            mine, theirs = plain.socketpair()
            assert await socket.send_fds(left, [b"with ", b"two"], [theirs.fileno(), 0]) == 8
            theirs.close()
            data, fds, flags, _ = await task.join()
            assert data == b"with two" and len(fds) == 2
            os.close(fds[1])
            async with socket.socket(fileno=fds[0]) as sock, Socket(mine) as peer:
                await peer.send(b"it works")
                assert await sock.recv(100) == b"it works"
            await left.send(b"none")
            assert (await socket.recv_fds(right, 100, 5))[:2] == (b"none", [])

    runs(main)


@pytest.mark.parametrize("name", RECEIVING)
def test_receiving_that_is_given_up_loses_nothing(runs, name):
    """1.14: before data comes, in the turn in which it comes, and later."""

    async def receives(sock, got):
        try:
            got.append(await RECEIVING[name](sock))
        except curio.TaskCancelled:
            pass

    async def main():
        left, right = pair()
        async with left, right:
            given_up = 0
            for n in range(8):
                got = []
                task = await curio.spawn(receives(right, got))
                await when_blocked(task)
                await left.send(b"data")
                for _ in range(n // 2):
                    await curio.sleep(0)
                if n == 7:
                    await curio.sleep(0.001)
                await task.cancel()
                if not got:
                    given_up += 1
                    got.append(await curio.timeout_after(20, right.recv(100)))
                result = got[0][0] if isinstance(got[0], tuple) else got[0]
                assert result in (b"data", 4)
            assert 0 < given_up < 8
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.001, right.recv(1))

    runs(main)


@pytest.mark.parametrize("name", SENDING)
def test_sending_that_is_given_up_is_counted(runs, name):
    """1.14: there is no room: nothing is sent, or as much as `bytes_sent` says."""

    async def main():
        left, right = pair()
        async with left, right:
            before = 0
            with pytest.raises(BlockingIOError):
                while True:
                    before += left._socket.send(b"x" * 1000)
            for how in ("cancel", "timeout"):
                sending = SENDING[name](left, b"y" * 1000)
                if how == "timeout":
                    with pytest.raises(curio.TaskTimeout) as caught:
                        await curio.timeout_after(0.002, sending)
                    assert name != "sendall" or caught.value.bytes_sent == 0
                else:
                    task = await curio.spawn(sending)
                    assert task.state == "WRITE_WAIT"
                    await task.cancel()
            task = await curio.spawn(SENDING[name](left, b"z" * 1000))
            assert await receive(right, before) == b"x" * before
            assert await task.join() in (1000, None)
            assert await receive(right, 1000) == b"z" * 1000

    runs(main)


@pytest.mark.parametrize("second", RECEIVING)
@pytest.mark.parametrize("first", RECEIVING)
def test_second_reader_by_any_method(runs, first, second):
    """1.8: ReadResourceBusy, which says whom to blame; the first gets its data."""

    async def main():
        left, right = pair()
        async with left, right:
            task = await curio.spawn(RECEIVING[first](right))
            await when_blocked(task)
            with pytest.raises(curio.ReadResourceBusy, match=f"task {task.id}"):
                await RECEIVING[second](right)
            await left.send(b"data")
            result = await task.join()
            assert (result[0] if isinstance(result, tuple) else result) in (b"data", 4)

    runs(main)


@pytest.mark.parametrize("second", SENDING)
@pytest.mark.parametrize("first", SENDING)
def test_second_writer_by_any_method(runs, first, second):
    """1.8: WriteResourceBusy, likewise."""

    async def main():
        left, right = pair()
        async with left, right:
            before = 0
            with pytest.raises(BlockingIOError):
                while True:
                    before += left._socket.send(b"x" * 1000)
            task = await curio.spawn(SENDING[first](left, b"first"))
            await when_blocked(task)
            with pytest.raises(curio.WriteResourceBusy, match=f"task {task.id}"):
                await SENDING[second](left, b"second")
            await receive(right, before)
            assert await task.join() in (5, None)
            assert await right.recv(100) == b"first"

    runs(main)


@pytest.mark.parametrize("name", RECEIVING)
def test_close_while_another_task_receives(runs, name):
    """S34: by any method: OSError, EBADF, at once."""

    async def main():
        left, right = pair()
        async with right:
            task = await curio.spawn(RECEIVING[name](left))
            await when_blocked(task)
            await left.close()
            with pytest.raises(curio.TaskError) as caught:
                await curio.timeout_after(20, task.join())
            error = caught.value.__cause__
            assert isinstance(error, OSError) and error.errno == errno.EBADF

    runs(main, log_errors=False)


@pytest.mark.parametrize(
    "use",
    [
        *RECEIVING.values(),
        *(lambda sock, send=send: send(sock, b"x") for send in SENDING.values()),
        lambda sock: sock.sendto(b"x", ("127.0.0.1", 1)),
        lambda sock: sock.accept(),
        lambda sock: sock.connect(("127.0.0.1", 1)),
        lambda sock: sock.shutdown(socket.SHUT_RDWR),
    ],
)
def test_closed_socket(runs, use):
    """S34: OSError, EBADF, whatever one wants of it; but closing it again is fine."""

    async def main():
        sock = socket.socket()
        await sock.close()
        with pytest.raises(OSError) as caught:
            await use(sock)
        assert caught.value.errno == errno.EBADF
        await sock.close()
        assert sock.fileno() == -1

    runs(main)


@pytest.mark.parametrize("wrong", ["text", 5, None, ["list"]], ids=str)
@pytest.mark.parametrize("name", SENDING)
def test_bytes_are_wanted(runs, name, wrong):
    """T35, S34: TypeError for what is no buffer, and nothing is sent."""

    async def main():
        left, right = pair()
        async with left, right:
            with pytest.raises(TypeError):
                await SENDING[name](left, wrong)
            await left.send(b"right")
            assert await right.recv(100) == b"right"

    runs(main)


@pytest.mark.parametrize("wrong", [-1, "5", None, 1.5], ids=str)
def test_size_is_wanted(runs, wrong):
    """T34, S34: TypeError or ValueError, and nothing is taken away."""

    async def main():
        left, right = pair()
        async with left, right:
            await left.send(b"data")
            for receive in (right.recv, right.recvfrom, right.recvmsg):
                with pytest.raises((TypeError, ValueError)):
                    await receive(wrong)
            assert await right.recv(100) == b"data"

    runs(main)


def test_peer_that_has_gone(runs):
    """S34: the system's errors: BrokenPipeError when sending, ConnectionResetError from a reset."""

    async def main():
        left, right = pair()
        async with left:
            await right.close()
            for send in SENDING.values():
                with pytest.raises(BrokenPipeError):
                    await send(left, b"x")
        left, right = await tcp_pair()
        async with left:
            task = await curio.spawn(left.recv(10))
            await when_blocked(task)
            right.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await right.close()
            with pytest.raises(curio.TaskError) as caught:
                await curio.timeout_after(20, task.join())
            assert isinstance(caught.value.__cause__, ConnectionResetError)

    runs(main, log_errors=False)


def test_connect_to_nobody(runs, tmp_path):
    """S34: connect raises what connect_ex returns."""

    async def main():
        with plain.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            nobody = trial.getsockname()
        for _ in range(2):
            async with socket.socket() as sock:
                assert await sock.connect_ex(nobody) == errno.ECONNREFUSED
            async with socket.socket() as sock:
                with pytest.raises(ConnectionRefusedError) as caught:
                    await sock.connect(nobody)
                assert caught.value.errno == errno.ECONNREFUSED
        async with socket.socket(socket.AF_UNIX) as sock:
            assert await sock.connect_ex(str(tmp_path / "nobody")) == errno.ENOENT
            with pytest.raises(FileNotFoundError):
                await sock.connect(str(tmp_path / "nobody"))
        async with socket.socket() as sock:
            with pytest.raises((TypeError, ValueError, OSError)):
                await sock.connect("127.0.0.1")

    runs(main)


def test_shutdown(runs):
    """L71: a coroutine function; each direction, and a wrong one."""

    async def main():
        left, right = pair()
        async with left, right:
            reader = await curio.spawn(right.recv(10))
            await when_blocked(reader)
            assert await left.shutdown(socket.SHUT_WR) is None
            assert await reader.join() == b""
            await right.send(b"still")
            assert await left.recv(10) == b"still"
            reader = await curio.spawn(left.recv(10))
            await when_blocked(reader)
            await left.shutdown(socket.SHUT_RD)
            assert await curio.timeout_after(20, reader.join()) == b""
            with pytest.raises(OSError):
                await left.shutdown(77)

    runs(main)


def test_socketpair_and_fromfd(runs):
    """S30: plain calls that give curio sockets."""

    async def main():
        left, right = socket.socketpair()
        assert type(left) is type(right) is Socket
        assert not left._socket.getblocking() and not right._socket.getblocking()
        copy = socket.fromfd(left.fileno(), left.family, left.type)
        assert type(copy) is Socket and copy.fileno() != left.fileno()
        await left.close()
        async with copy, right:
            await copy.send(b"by the copy")
            assert await right.recv(100) == b"by the copy"
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM, 0)
        async with one, other:
            assert one.type == socket.SOCK_DGRAM

    runs(main)


def test_dup_and_detach(runs):
    """S33: dup is a Socket of its own; detach gives the descriptor away."""

    async def main():
        left, right = pair()
        copy = left.dup()
        assert type(copy) is Socket and copy.fileno() != left.fileno()
        reader = await curio.spawn(copy.recv(10))
        await when_blocked(reader)
        await left.close()
        await right.send(b"data")
        assert await curio.timeout_after(20, reader.join()) == b"data"
        number = copy.fileno()
        assert copy.detach() == number and copy.fileno() == -1
        async with socket.socket(fileno=number) as again:
            await again.send(b"more")
            assert await right.recv(10) == b"more"
        await copy.close()
        await right.close()

    runs(main)


def test_blocking(runs):
    """T38: the plain socket in blocking mode inside, and not after, also on an error."""

    async def main():
        left, right = pair()
        async with left, right, curio.timeout_after(20):
            with left.blocking() as raw:
                assert raw is left._socket and raw.gettimeout() is None
                task = await curio.spawn(curio.run_in_thread(raw.recv, 100))
                await curio.sleep(0.002)
                assert not task.terminated
                await right.send(b"for the thread")
                assert await task.join() == b"for the thread"
            assert raw.gettimeout() == 0
            with pytest.raises(Oops):
                with left.blocking():
                    raise Oops
            assert left._socket.gettimeout() == 0
            task = await curio.spawn(left.recv(100))
            await when_blocked(task)
            await right.send(b"for the task")
            assert await task.join() == b"for the task"
            with left.blocking() as raw:
                await curio.run_in_thread(raw.sendall, b"sent")
                await left.close()
            assert await right.recv(100) == b"sent"

    runs(main)


def test_attributes_are_those_of_the_wrapped_socket(runs):
    """S33: methods that cannot block, and attributes."""

    async def main():
        async with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0) as sock:
            raw = sock._socket
            sock.bind(("127.0.0.1", 0))
            assert sock.getsockname() == raw.getsockname()
            sock.set_inheritable(True)
            assert sock.get_inheritable() is raw.get_inheritable() is True
            for name in ("family", "type", "proto"):
                assert getattr(sock, name) == getattr(raw, name)
            with pytest.raises(OSError):
                sock.getpeername()
            with pytest.raises(AttributeError):
                sock.type = 5

    runs(main)


def test_nothing_of_a_plain_socket_is_missing():
    """S33: each public name of the standard library's socket has its counterpart, and the ones
    that might block are awaited."""
    blocking = """accept connect connect_ex recv recv_into recvfrom recvfrom_into recvmsg
        recvmsg_into send sendall sendmsg sendto shutdown close""".split()
    missing = [name for name in dir(plain.socket) if name[0] != "_" and not hasattr(Socket, name)]
    # These have no counterpart; who looks for them, learns so by an AttributeError.
    assert set(missing) <= {
        "getblocking",
        "setblocking",
        "timeout",
        "sendfile",
        "sendmsg_afalg",
        "ioctl",
        "share",
    }
    for name in [*blocking, "do_handshake"]:
        assert inspect.iscoroutinefunction(getattr(Socket, name)), name
    for name in ("bind", "listen", "setsockopt", "settimeout", "dup", "fileno"):
        assert not inspect.iscoroutinefunction(getattr(Socket, name)), name


def test_every_name_of_the_standard_librarys_module():
    """T27, S30-S32: all are there; those that block are coroutine functions with its arguments."""
    assert set(plain.__all__) <= set(socket.__all__)
    for name in plain.__all__:
        assert hasattr(socket, name), name
    awaited = """create_connection getaddrinfo getfqdn gethostbyname gethostbyname_ex gethostname
        gethostbyaddr getnameinfo send_fds recv_fds""".split()
    for name in awaited:
        assert inspect.iscoroutinefunction(getattr(socket, name)), name
    for name in ("socket", "socketpair", "fromfd", "create_server", "inet_aton", "htons"):
        assert not inspect.iscoroutinefunction(getattr(socket, name)), name
    for name in ("getaddrinfo", "getfqdn"):
        theirs = inspect.signature(getattr(plain, name))
        assert list(inspect.signature(getattr(socket, name)).parameters) == list(theirs.parameters)


# --- objects that are like sockets ------------------------------------------------------------


class Like:
    """Has the methods of a socket, written by hand; the bytes are upside down on the way."""

    colour = "green"

    def __init__(self, sock, most=1000):
        self.sock, self.most, self.calls = sock, most, 0

    def fileno(self):
        return self.sock.fileno()

    def setblocking(self, flag):
        self.sock.setblocking(flag)

    def recv(self, size):
        self.calls += 1
        return bytes(255 - byte for byte in self.sock.recv(size))

    def send(self, data):
        self.calls += 1
        return self.sock.send(bytes(255 - byte for byte in data[: self.most]))

    def close(self):
        self.sock.close()


def test_object_like_a_socket(runs):
    """S33: whatever has recv, send, fileno and setblocking; its other attributes pass through."""

    async def main():
        one, other = plain.socketpair()
        async with Socket(Like(one)) as left, Socket(Like(other)) as right:
            assert not one.getblocking()
            assert left.colour == "green" and left.calls == 0
            with pytest.raises(AttributeError):
                left.no_such_thing  # noqa: B018
            assert repr(left).startswith("<curio.Socket ")
            reader = await curio.spawn(right.recv(100))
            await when_blocked(reader)
            assert await left.send(b"hello") == 5
            assert await reader.join() == b"hello"
            data = message(300_000)
            task = await curio.spawn(left.sendall(data))
            assert await receive(right, len(data)) == data
            await task.join()
            # And the bytes were its own.
            await left.send(b"\0")
            assert other.recv(1) == b"\xff"
        assert one.fileno() == other.fileno() == -1

    runs(main)


def test_streams_over_an_object_like_a_socket(runs):
    """S33, T37: they read and write through its methods."""

    async def main():
        one, other = plain.socketpair()
        async with Socket(Like(one)).as_stream() as left, Socket(Like(other)).as_stream() as right:
            data = message(200_000)
            task = await curio.spawn(left.write(data + b"\nline\n"))
            assert await right.read_exactly(len(data)) == data
            assert await right.readline() == b"\n"
            assert await right.readline() == b"line\n"
            assert await task.join() == len(data) + 6
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.001, right.readline())
            await left.write(b"more\n")
            assert await right.readline() == b"more\n"

    runs(main)


@pytest.mark.parametrize("what", [b"too many bytes", bytearray(b"x"), "text", None, 5], ids=str)
def test_object_whose_recv_is_wrong(runs, what):
    """S33: what it gives is not believed; the user is told, and it is no fault of curio's."""

    class Wrong(Like):
        def recv(self, size):
            return what

    async def main():
        one, other = plain.socketpair()
        async with Socket(Wrong(one)) as sock, Socket(other):
            with pytest.raises((TypeError, ValueError, OSError)):
                await sock.recv(3)
            with pytest.raises((TypeError, ValueError, OSError)):
                await sock.recv(3)

    runs(main)


def test_object_whose_send_exaggerates(runs):
    """S33: no more than all of it has been sent; nothing breaks."""

    class Wrong(Like):
        def send(self, data):
            return super().send(data) + 1000

    async def main():
        one, other = plain.socketpair()
        async with Socket(Wrong(one)) as sock, Socket(Like(other)) as peer:
            assert await sock.send(b"abc") == 3
            await sock.sendall(b"def")
            stream = sock.makefile("wb")
            assert await stream.write(b"ghi") == 3
            await stream.flush()
            assert await receive(peer, 9) == b"abcdefghi"

    runs(main)


@pytest.mark.parametrize("what", [-1, "text", None], ids=str)
def test_object_whose_send_is_wrong(runs, what):
    """S33: a count that cannot be."""

    class Wrong(Like):
        def send(self, data):
            return what

    async def main():
        one, other = plain.socketpair()
        errors = (TypeError, ValueError, OSError, OverflowError)
        with one, other:
            sock = Socket(Wrong(one))
            with pytest.raises(errors):
                await sock.sendall(b"data")
            stream = sock.makefile("wb")
            for size in (5, 20_000):
                with pytest.raises(errors):
                    await stream.write(b"x" * size)
                    await stream.flush()
            await sock.close()

    runs(main)


def test_object_that_raises(runs):
    """S33: its own exceptions come through, with their own class, and it can be used again."""

    class Moody(Like):
        mood = Oops("not today")

        def recv(self, size):
            if self.mood:
                raise self.mood
            return super().recv(size)

        def send(self, data):
            if self.mood:
                raise self.mood
            return super().send(data)

    async def main():
        one, other = plain.socketpair()
        async with Socket(Moody(one)) as sock, Socket(Like(other)) as peer:
            for use in (sock.recv(1), sock.send(b"x"), sock.sendall(b"x")):
                with pytest.raises(Oops, match="not today"):
                    await use
            sock._socket.mood = OSError(errno.EPIPE, "its own words")
            with pytest.raises(BrokenPipeError, match="its own words"):
                await sock.send(b"x")
            sock._socket.mood = None
            await peer.send(b"hello")
            assert await sock.recv(10) == b"hello"

    runs(main)


def test_subclass_of_a_socket(runs):
    """S33: its own recv and send are called."""

    class Counting(plain.socket):
        count = 0

        def recv(self, *args):
            self.count += 1
            return super().recv(*args)

    async def main():
        one, other = plain.socketpair()
        raw = Counting(fileno=one.detach())
        async with Socket(raw) as sock, Socket(other) as peer:
            reader = await curio.spawn(sock.recv(10))
            await when_blocked(reader)
            await peer.send(b"hello")
            assert await reader.join() == b"hello"
            assert sock.count == raw.count == 2
            assert sock.getpeername() == raw.getpeername()

    runs(main)


@pytest.mark.parametrize("wrong", ["text", 5, None, object()], ids=["text", "5", "None", "object"])
def test_wrapping_what_is_no_socket(runs, wrong):
    """S33: an error at once."""

    async def main():
        with pytest.raises((TypeError, AttributeError)):
            Socket(wrong)
        left, right = plain.socketpair()
        left.close()
        right.close()
        with pytest.raises((OSError, OverflowError)):
            Socket(left)

    runs(main)


# --- fairness -------------------------------------------------------------------------------


def test_connection_that_is_always_ready_starves_nobody(runs):
    """Section 0: neither a sleeper nor another connection."""

    async def floods(sock):
        while True:
            await sock.sendall(b"x" * 10)

    async def drains(sock):
        while True:
            await sock.recv(10)

    async def main():
        busy, quiet = pair(), pair()
        tasks = [await curio.spawn(floods(busy[0])), await curio.spawn(drains(busy[1]))]
        async with curio.timeout_after(30):
            for _ in range(5):
                await curio.sleep(0.002)
                await quiet[0].send(b"ping")
                assert await quiet[1].recv(10) == b"ping"
        for task in tasks:
            await task.cancel()
        for sock in (*busy, *quiet):
            await sock.close()

    runs(main)


def test_reader_that_never_waits_yields(runs):
    """Section 0: there is always data, so no recv blocks; the others run all the same."""

    async def main():
        left, right = pair()
        data = message(150_000)
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
        await left.sendall(data)
        turns = []

        async def other():
            while True:
                turns.append(1)
                await curio.sleep(0)

        task = await curio.spawn(other())
        for _ in range(10_000):
            await right.recv(10)
        assert len(turns) > 10
        await task.cancel()
        await left.close()
        await right.close()

    runs(main)


def test_timeout_of_a_task_whose_io_never_blocks(runs):
    """Rule 8: it is seen, because such a task is made to yield now and then."""

    async def floods(left, right):
        while True:
            await left.send(b"x")
            await right.recv(10)

    async def main():
        left, right = pair()
        async with left, right:
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.01, floods(left, right))

    runs(main)


# --- servers ---------------------------------------------------------------------------------


class Server:
    """A run_server in a task of its own, and its port."""

    def __init__(self, client_task, **options):
        self.client_task, self.options = client_task, options

    async def __aenter__(self):
        with plain.socket() as trial:
            trial.setsockopt(plain.SOL_SOCKET, plain.SO_REUSEADDR, 1)
            trial.bind(("127.0.0.1", 0))
            self.address = trial.getsockname()
        host, port = self.address
        serving = curio.run_server(host, port, self.client_task, **self.options)
        self.task = await curio.spawn(serving)
        assert self.task.state == "READ_WAIT", self.task.exception
        return self

    async def __aexit__(self, *exception):
        await self.task.cancel()
        await self.task.cancel_children()

    async def connect(self):
        sock = socket.socket()
        try:
            await sock.connect(self.address)
        except BaseException:
            await sock.close()
            raise
        return sock


async def echo(sock, address):
    while data := await sock.recv(10_000):
        await sock.sendall(data)


def test_server(runs):
    """T45: a task for each connection, with its socket and the peer's address."""
    seen = []

    async def client(sock, address):
        seen.append((type(sock), address))
        await echo(sock, address)

    async def main():
        async with Server(client) as server:
            clients = [await server.connect() for _ in range(3)]
            for n, sock in enumerate(clients):
                await sock.sendall(b"hello %d" % n)
            for n, sock in enumerate(clients):
                assert await sock.recv(100) == b"hello %d" % n
            assert seen == [(Socket, sock.getsockname()) for sock in clients]
            for sock in clients:
                await sock.close()

    runs(main)


def test_clients_are_children_of_the_caller(runs):
    """T45: no task in between, so that cancel_children reaches them; named as the user's."""
    ended = []

    async def client(sock, address):
        try:
            await sock.recv(10)
        finally:
            ended.append(address)

    async def main():
        async with Server(client) as server:
            clients = [await server.connect() for _ in range(3)]
            while len(server.task.children) < 3:
                await curio.sleep(0.001)
            for child in server.task.children:
                assert child.parentid == server.task.id
                assert child.name == client.__qualname__
            await server.task.cancel_children()
            assert len(ended) == 3 and not server.task.terminated
            for sock in clients:
                assert await sock.recv(10) == b""
                await sock.close()

    runs(main)


@pytest.mark.parametrize("how", ["return", "crash", "cancel"])
def test_socket_is_closed_when_its_task_ends(runs, log, how):
    """T45: however it ends; and the server goes on."""

    async def client(sock, address):
        if await sock.recv(1) == b"c":
            raise Oops("client crashed")
        if how == "cancel":
            await (await curio.current_task()).cancel(blocking=False)
            await curio.sleep(1000)

    async def main():
        async with Server(client) as server:
            for _ in range(3):
                async with await server.connect() as sock:
                    await sock.sendall(b"c" if how == "crash" else b"x")
                    assert await curio.timeout_after(20, sock.recv(10)) == b""
            assert not server.task.terminated

    runs(main)
    assert len(log) == (3 if how == "crash" else 0)
    assert all("Task Crash" in text and "client crashed" in text for text in log.texts)


def test_client_task_that_cannot_be_made(runs, log):
    """T45: a crash of one client's, too."""

    async def wants_three(sock, address, more):
        pass

    async def main():
        async with Server(wants_three) as server:
            async with await server.connect() as sock:
                assert await curio.timeout_after(20, sock.recv(10)) == b""
            assert not server.task.terminated

    runs(main)
    assert len(log) == 1 and "more" in log.texts[0]


def test_cancelled_server(runs):
    """T45, 1.14: the listening socket is closed, clients go on."""

    async def main():
        async with Server(echo) as server:
            sock = await server.connect()
            await sock.sendall(b"before")
            assert await sock.recv(100) == b"before"
            await server.task.cancel()
            await sock.sendall(b"after")
            assert await sock.recv(100) == b"after"
            with pytest.raises(ConnectionRefusedError):
                await server.connect()
            # The address is free again, clients or not.
            async with Server(echo) as other:
                assert not other.task.terminated
            await sock.close()
            await curio.sleep(0.01)

    runs(main)


def test_reset_of_a_client_does_not_end_the_server(runs, log):
    """T45: in the middle of a connection, and before it was accepted."""

    async def main():
        async with Server(echo) as server:
            for wait in (True, False):
                raw = plain.create_connection(server.address)
                if wait:
                    await curio.sleep(0.005)
                raw.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, struct.pack("ii", 1, 0))
                raw.close()
            async with await server.connect() as sock:
                await sock.sendall(b"still there")
                assert await curio.timeout_after(20, sock.recv(100)) == b"still there"
            assert not server.task.terminated

    runs(main)


@pytest.mark.parametrize("host", ["", None])
def test_all_interfaces(runs, host):
    """T45: '' and None."""

    async def main():
        with plain.socket() as trial:
            trial.bind(("", 0))
            port = trial.getsockname()[1]
        task = await curio.spawn(curio.run_server(host, port, echo))
        async with socket.socket() as sock:
            await sock.connect(("127.0.0.1", port))
            await sock.sendall(b"hi")
            assert await sock.recv(10) == b"hi"
        await task.cancel()
        await task.cancel_children()

    runs(main)


def test_some_hundred_connections(runs):
    """T45: at once; afterwards all descriptors are back."""
    count = 300

    async def talks(server, n):
        sock = await server.connect()
        async with sock:
            for turn in range(3):
                text = b"%d.%d " % (n, turn) * 100
                await sock.sendall(text)
                assert await receive(sock, len(text)) == text

    async def main():
        async with Server(echo, backlog=count) as server:
            tasks = [await curio.spawn(talks(server, n)) for n in range(count)]
            for task in tasks:
                await task.join()
            while server.task.children:
                await curio.sleep(0.001)

    runs(main)


def test_server_for_plain_clients(runs):
    """T45: threads with sockets of the standard library, that read slowly."""
    size, got = 500_000, []

    def client(address, n):
        with plain.create_connection(address) as sock:
            text = message(size + n)
            sender = threading.Thread(target=sock.sendall, args=(text,))
            sender.start()
            received = b""
            while len(received) < len(text):
                received += sock.recv(5000)
            sender.join()
            got.append(received == text)

    async def main():
        async with Server(echo) as server:
            threads = [threading.Thread(target=client, args=(server.address, n)) for n in range(4)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                await curio.sleep(0.002)
            while server.task.children:
                await curio.sleep(0.001)

    runs(main)
    assert got == [True] * 4


def test_crash_of_a_handler_is_reported_from_the_users_code_on(kernel, log):
    """T45, S3: the server's own frames are not what its user looks for."""

    async def handler(client, address):
        raise ValueError("in the handler")

    async def main():
        with plain.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = await curio.spawn(curio.run_server("127.0.0.1", port, handler))
        client = Socket(plain.socket())
        async with client:
            await client.connect(("127.0.0.1", port))
            assert await client.recv(1) == b""
        await server.cancel()

    kernel.run(main)
    (record,) = log.records
    frames = traceback.extract_tb(record.exc_info[2])
    assert [frame.name for frame in frames] == ["handler"]
