"""Sockets and servers: data arrives, all of it, whoever waits, and descriptors go back.

Goal: the contract of `curio.socket`, `curio.io.Socket` and `run_server`. Method: two ends of a
real connection in one kernel, or one end of the standard library's in a thread where the
other side must be plain. Readiness is what goes wrong in such code (an event that is
missed, or believed for too long), so the ends are read and written in many rhythms.
"""

import array
import errno
import gc
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


@pytest.fixture
def runs(kernel):
    """Runs a coroutine function; then all descriptors that it has opened are closed again."""

    def run(function, *args, **options):
        gc.collect()
        kernel.run(curio.sleep, 0.0)
        before = descriptors()
        result = kernel.run(function, *args, **options)
        gc.collect()
        assert descriptors() == before
        return result

    return run


def descriptors():
    return len(os.listdir("/proc/self/fd"))


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
