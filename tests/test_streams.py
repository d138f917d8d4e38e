"""Streams: every byte that is sent is read, once, in order, whoever is interrupted meanwhile.

Goal: the contract of `FileStream` and `SocketStream`. Method: the other end is a plain
descriptor, or a stream in the same kernel, that gives and takes bytes in many rhythms. Each
operation is given up before, while and after its data comes; then all bytes are counted: those
of results, those that an exception has, and those that are read afterwards.
"""

import array
import errno
import gc
import io
import os
import pty
import socket as plain
import struct
import threading
import tty

import curio
import pytest
from curio import socket
from curio.io import FileStream, Socket, SocketStream, Stream, StreamBase
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import descriptors


class Oops(Exception):
    pass


def message(size):
    """Bytes of which no two parts are alike, with a newline now and then."""
    return b"".join(b"%d\n" % n for n in range(size // 4 + 1))[:size]


def pair():
    return tuple(map(Socket, plain.socketpair()))


def tcp():
    """Two ends of a TCP connection, of the standard library's."""
    with plain.create_server(("127.0.0.1", 0)) as listener:
        left = plain.create_connection(listener.getsockname())
        right, _ = listener.accept()
        return left, right


async def turns(count=4):
    """Lets all ready tasks run, a few times."""
    for _ in range(count):
        await curio.sleep(0)


async def settle():
    """Lets what was sent arrive, and those who wait for it run."""
    for _ in range(2):
        await curio.sleep(0.001)


async def until_blocked(task):
    """Until the task waits for a descriptor; or has lost patience before."""
    async with curio.timeout_after(20):
        while task.state not in ("READ_WAIT", "WRITE_WAIT", "TERMINATED"):
            await curio.sleep(0)


async def outcome(operation):
    """What it has come to: its result, or the exception by which it was given up."""
    try:
        return await operation
    except curio.CancelledError as error:
        return error


async def fill(stream, piece=b"x" * 5000):
    """Writes until the system takes no more, and the stream keeps the rest of a piece.

    Returns how much the stream has accepted.
    """
    count = 0

    async def writes():
        nonlocal count
        while True:
            await stream.write(piece)
            count += len(piece)
            # A piece at a time goes to the system: of many it may take all, but not the next.
            await curio.sleep(0)

    task = await curio.spawn(outcome(writes()))
    await until_blocked(task)
    await task.cancel()
    assert (await task.join()).bytes_written == 0
    return count


# --- what a stream is made of ---------------------------------------------------------------

SOURCES = ["as_stream", "make_streams", "makefile", "stdlib", "tcp", "pipe", "buffered"]


class Source:
    """A stream that is read, and the descriptor at the other end."""

    def __init__(self, kind, there=b""):
        self.closes = []
        if kind in ("pipe", "buffered"):
            fd, self.fd = os.pipe()
            file = os.fdopen(fd, "rb", 0 if kind == "pipe" else -1)
            os.write(self.fd, there)
            if there and kind == "buffered":
                assert file.peek(1) == there  # All of it is in the file's own buffer now.
            self.stream = FileStream(file)
        else:
            left, right = tcp() if kind == "tcp" else plain.socketpair()
            self.fd = right.detach()
            os.write(self.fd, there)
            if kind == "stdlib":
                self.stream = SocketStream(left)
            elif kind in ("as_stream", "tcp"):
                self.stream = Socket(left).as_stream()
            else:
                sock = Socket(left)
                self.closes = [sock]
                self.stream = sock.make_streams()[0]
                if kind == "makefile":
                    self.stream = sock.makefile("rb")

    def feed(self, data):
        while data:
            data = data[os.write(self.fd, data) :]

    def end(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        self.end()
        await self.stream.close()
        for sock in self.closes:
            await sock.close()


@pytest.mark.parametrize("kind", SOURCES)
def test_reading(runs, kind):
    """T39, T41, T42, S38: each method, on each kind of stream, one after the other."""

    async def main():
        async with Source(kind, b"one\ntwo\nthree") as source, curio.timeout_after(20):
            stream = source.stream
            assert isinstance(stream, StreamBase)
            assert await stream.readline() == b"one\n"
            assert await stream.read(2) == b"tw"
            assert await stream.read() == b"o\nthree"
            source.feed(b"0123456789\nabc\ndef\n\nrest")
            assert await stream.read_exactly(4) == b"0123"
            room = bytearray(4)
            assert await stream.readinto(room) == 4 and room == b"4567"
            assert await stream.__anext__() == b"89\n"
            assert await stream.read(0) == b""
            source.feed(b"\nlast")
            source.end()
            assert await stream.readline() == b"abc\n"
            assert await stream.readlines() == [b"def\n", b"\n", b"rest\n", b"last"]
            # The end is the end for every method, for ever.
            for _ in range(2):
                assert await stream.read() == b""
                assert await stream.read(5) == b""
                assert await stream.readline() == b""
                assert await stream.readlines() == []
                assert await stream.readall() == b""
                assert await stream.readinto(room) == 0
                assert await stream.read_exactly(0) == b""
                assert [line async for line in stream] == []

    runs(main)


def test_names(runs):
    """S37, L72, L73: Stream is FileStream; as_stream makes a SocketStream."""
    assert Stream is FileStream
    assert issubclass(FileStream, StreamBase) and issubclass(SocketStream, StreamBase)

    async def main():
        left, right = pair()
        async with left.as_stream() as stream, right:
            assert type(stream) is SocketStream
            assert stream.fileno() == left.fileno()
            assert repr(stream) == f"<curio.SocketStream {left!r}>"
            reader, writer = right.make_streams()
            assert isinstance(reader, SocketStream) and isinstance(writer, SocketStream)
            assert reader is not writer
        assert left.fileno() == -1
        fd, other = os.pipe()
        os.close(other)
        file = os.fdopen(fd, "rb")
        async with Stream(file) as stream:
            assert stream.fileno() == fd
            assert repr(stream) == f"<curio.FileStream {file!r}>"
            assert not stream.closed
        assert stream.closed and file.closed

    runs(main)


def test_streams_of_a_pair(runs):
    """T37: (reader, writer); closing them leaves the socket open."""

    async def main():
        left, right = pair()
        async with left, right:
            for buffering in ((), (0,), (1000,)):
                reader, writer = left.make_streams(*buffering)
                await right.send(b"ping\n")
                assert await reader.readline() == b"ping\n"
                await writer.write(b"pong\n")
                assert await right.recv(100) == b"pong\n"
                await reader.close()
                await writer.write(b"last\n")
                await writer.close()
                assert reader.closed and writer.closed
                assert await right.recv(100) == b"last\n"
            assert left.fileno() > 0

    runs(main)


@pytest.mark.parametrize("mode", ["rb", "wb", "rwb", "br", "b"])
def test_makefile(runs, mode):
    """S36: binary modes."""

    async def main():
        left, right = pair()
        async with left, right:
            async with left.makefile(mode, 0) as stream:
                await stream.write(b"ping\n")
                assert await right.recv(10) == b"ping\n"
                await right.send(b"pong\n")
                assert await stream.readline() == b"pong\n"
            await left.send(b"still open")
            assert await right.recv(100) == b"still open"

    runs(main)


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ((), {}),
        (("r",), {}),
        (("w",), {}),
        (("rt",), {}),
        (("ab",), {}),
        (("rb",), {"encoding": "utf-8"}),
        (("rb",), {"errors": "strict"}),
        (("rb",), {"newline": "\n"}),
    ],
    ids=str,
)
def test_makefile_of_text(runs, args, options):
    """S36: RuntimeError for everything else."""

    async def main():
        left, right = pair()
        async with left, right:
            with pytest.raises(RuntimeError, match="binary"):
                left.makefile(*args, **options)

    runs(main)


def test_text_file(runs, tmp_path):
    """S37: AssertionError; the file is as it was."""

    async def main():
        with open(tmp_path / "file", "w+") as file:
            with pytest.raises(AssertionError, match="binary"):
                Stream(file)
            with pytest.raises(AssertionError):
                FileStream(io.TextIOWrapper(io.BytesIO()))
            file.write("still")
        assert (tmp_path / "file").read_text() == "still"

    runs(main)


def test_what_is_no_file(runs):
    """S37: no descriptor, no stream; nor without a socket."""

    async def main():
        with pytest.raises(OSError):
            FileStream(io.BytesIO(b"abc"))
        with pytest.raises((TypeError, AttributeError)):
            FileStream("name")
        with pytest.raises((TypeError, AttributeError)):
            SocketStream("name")
        left, right = pair()
        await left.close()
        await right.close()
        with pytest.raises(OSError) as caught:
            left.as_stream()
        assert caught.value.errno == errno.EBADF

    runs(main)


def test_descriptor_becomes_non_blocking(runs):
    """S37: FileStream sees to that itself, and undoes it; SocketStream for a plain socket, too."""

    async def main():
        fd, other = os.pipe()
        assert os.get_blocking(fd)
        shared = os.dup(fd)  # as a terminal is shared with the shell
        async with FileStream(os.fdopen(fd, "rb")):
            assert not os.get_blocking(fd) and not os.get_blocking(shared)
        assert os.get_blocking(shared)
        os.close(shared)
        os.close(other)
        left, right = plain.socketpair()
        async with SocketStream(left) as stream:
            assert not left.getblocking()
            right.send(b"line\n")
            assert await stream.readline() == b"line\n"
        assert left.fileno() == -1
        right.close()

    runs(main)


def test_attributes_cannot_be_mistyped(runs):
    """S37: a stream has no attributes but its own."""

    async def main():
        async with Source("as_stream") as source:
            with pytest.raises(AttributeError):
                source.stream.limits = 5

    runs(main)


# --- reading: how much -----------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), (-1,), (1000,), (-7,)])
@pytest.mark.parametrize("kind", ["as_stream", "pipe"])
def test_read_gives_what_is_there(runs, kind, args):
    """T39: waits for something, not for the end or for more."""

    async def main():
        async with Source(kind) as source, curio.timeout_after(20):
            for text in (b"some", b"more\nof", b"it\n"):
                reader = await curio.spawn(source.stream.read(*args))
                await until_blocked(reader)
                source.feed(text)
                assert await reader.join() == text
            reader = await curio.spawn(source.stream.read(*args))
            await until_blocked(reader)
            source.end()
            assert await reader.join() == b""

    runs(main)


def test_read_by_name(runs):
    """T39: maxbytes."""

    async def main():
        async with Source("as_stream", b"abc") as source:
            assert await source.stream.read(maxbytes=2) == b"ab"

    runs(main)


def test_read_of_nothing_does_not_wait(runs):
    """T39: with data and without, before the end and at it."""

    async def main():
        async with Source("as_stream") as source, curio.timeout_after(20):
            assert await source.stream.read(0) == b""
            assert await source.stream.readinto(bytearray()) == 0
            assert await source.stream.read_exactly(0) == b""
            source.feed(b"x")
            assert await source.stream.read(0) == b""
            assert await source.stream.read(1) == b"x"

    runs(main)


@pytest.mark.parametrize("there", [0, 1, 9])
def test_read_exactly_at_the_end(runs, there):
    """S38: EOFError, which has what there was, and nothing is left."""

    async def main():
        async with Source("as_stream", b"0123456789"[:there]) as source:
            source.end()
            with pytest.raises(EOFError, match=f"{there} of 10") as caught:
                await source.stream.read_exactly(10)
            assert caught.value.bytes_read == b"0123456789"[:there]
            assert await source.stream.readall() == b""

    runs(main)


def test_read_exactly_waits_for_all(runs):
    """S38: however it comes; a megabyte, too."""

    async def main():
        data = message(1_000_000)
        left, right = pair()
        async with left.as_stream() as stream, right:
            task = await curio.spawn(right.sendall(data))
            assert await stream.read_exactly(10) == data[:10]
            assert await stream.read_exactly(999_000) == data[10:999_010]
            assert await stream.read_exactly(990) == data[999_010:]
            await task.join()

    runs(main)


@pytest.mark.parametrize("wrong", [-1, "5", None, 1.5])
def test_read_exactly_of_no_number(runs, wrong):
    """S38: an error, and nothing is taken away."""

    async def main():
        async with Source("as_stream", b"abc") as source:
            with pytest.raises((ValueError, TypeError)):
                await source.stream.read_exactly(wrong)
            assert await source.stream.read() == b"abc"

    runs(main)


@pytest.mark.parametrize("code", ["b", "H", "d"])
def test_readinto_buffers_of_all_kinds(runs, code):
    """L72: writable memory of any kind; its length is in bytes. Read-only: an error."""

    async def main():
        async with Source("as_stream", b"0123456789abcdefghij") as source:
            room = array.array(code, [0, 0])
            count = 2 * room.itemsize
            assert await source.stream.readinto(room) == min(count, 20)
            assert room.tobytes() == b"0123456789abcdefghij"[:count]
            view = memoryview(bytearray(10))[3:5]
            rest = await source.stream.readinto(view)
            assert rest == 2 and bytes(view) == b"0123456789abcdefghij"[count : count + 2]
            for wrong in (b"0000", "0000", 4, memoryview(b"0000")):
                with pytest.raises((TypeError, BufferError)):
                    await source.stream.readinto(wrong)
            # What it holds while it waits, it gives back.
            await source.stream.read()
            room = bytearray(10)
            task = await curio.spawn(source.stream.readinto(room))
            with pytest.raises(BufferError):
                room.append(0)
            await task.cancel()
            del task
            room.append(0)

    runs(main)


# --- reading: lines ---------------------------------------------------------------------------

KIB = 1024


@pytest.mark.parametrize("size", [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, 300 * KIB])
@pytest.mark.parametrize("make", [plain.socketpair, tcp])
def test_lines_of_size(runs, make, size):
    """T41, T42: lines of all lengths, by both ways, with short ones between them."""

    async def main():
        left, right = map(Socket, make())
        line = b"x" * size + b"\n"
        lines = [line, b"short\n", line, b"\n", line, b"no end"]

        async def sends():
            async with right:
                await right.sendall(b"".join(lines))

        async with left.as_stream() as stream, curio.timeout_after(30):
            task = await curio.spawn(sends())
            assert await stream.readline() == line
            assert await stream.readline() == b"short\n"
            assert [line async for line in stream] == lines[2:]
            await task.join()

    runs(main)


@pytest.mark.parametrize("kind", SOURCES)
def test_one_byte_at_a_time(runs, kind):
    """T41: the slowest peer there is."""
    text = b"a line\n\nand another\nwithout an end"

    async def main():
        async with Source(kind) as source, curio.timeout_after(20):

            async def sends():
                for n in range(len(text)):
                    source.feed(text[n : n + 1])
                    await turns(1 if n % 3 else 5)
                source.end()

            task = await curio.spawn(sends())
            assert [line async for line in source.stream] == text.splitlines(keepends=True)
            await task.join()

    runs(main)


def test_reading_one_byte_at_a_time(runs):
    """T39: the slowest reader."""
    text = message(5000)

    async def main():
        async with Source("as_stream", text) as source:
            source.end()
            got = []
            while byte := await source.stream.read(1):
                got.append(byte)
            assert b"".join(got) == text and len(got) == len(text)

    runs(main)


def test_a_stream_that_has_much_lets_others_run(runs):
    """Section 0: lines that are in the buffer cost no waiting, but are no reason to starve."""

    async def main():
        seen = []

        async def other():
            while True:
                seen.append(1)
                await curio.sleep(0)

        async with Source("as_stream", b"\n" * 50_000) as source:
            task = await curio.spawn(other())
            for _ in range(50_000):
                assert await source.stream.readline() == b"\n"
            assert len(seen) > 50
            await task.cancel()

    runs(main)


def test_limit(runs):
    """T41: a longer line is a ValueError, each time; its bytes can be read otherwise."""

    async def main():
        async with Source("as_stream") as source, curio.timeout_after(20):
            stream = source.stream
            assert stream.limit == 1024 * 1024
            stream.limit = 10
            assert stream.limit == 10
            source.feed(b"123456789\n")
            assert await stream.readline() == b"123456789\n"
            source.feed(b"1234567890\nnext\n")
            for read in (stream.readline, stream.__anext__, stream.readline):
                with pytest.raises(ValueError, match="limit"):
                    await read()
            with pytest.raises(ValueError) as caught:
                await stream.readlines()
            assert caught.value.lines_read == []
            assert await stream.read_exactly(11) == b"1234567890\n"
            assert await stream.readline() == b"next\n"
            # Without an end: it must not wait for one.
            source.feed(b"12345678901")
            with pytest.raises(ValueError, match="limit"):
                await stream.readline()
            stream.limit = 12
            source.feed(b"\n")
            assert await stream.readline() == b"12345678901\n"
            # At the end of the stream.
            source.feed(b"1\n2\n1234567890123")
            source.end()
            with pytest.raises(ValueError, match="limit") as caught:
                await stream.readlines()
            assert caught.value.lines_read == [b"1\n", b"2\n"]
            assert await stream.readall() == b"1234567890123"

    runs(main)


@pytest.mark.parametrize("wrong", [0, -1, "5", None, 1.5])
def test_limit_of_no_number(runs, wrong):
    """T41: refused, and the old one holds."""

    async def main():
        async with Source("as_stream") as source:
            with pytest.raises((ValueError, TypeError)):
                source.stream.limit = wrong
            assert source.stream.limit == 1024 * 1024

    runs(main)


def test_a_peer_that_never_ends_its_line(runs):
    """T41: it is refused at the limit; what was sent is not all taken in."""

    async def main():
        left, right = pair()
        async with left.as_stream() as stream, right:
            sender = await curio.spawn(outcome(right.sendall(b"x" * 30_000_000)))
            with pytest.raises(ValueError, match="limit"):
                await curio.timeout_after(20, stream.readline())
            assert not sender.terminated
            await sender.cancel()
            assert (await sender.join()).bytes_sent < 4_000_000

    runs(main)


# --- reading that is given up -----------------------------------------------------------------


class Reading:
    """A way to read, with what does not satisfy it, what does, and how its bytes are counted."""

    part = b""
    whole = b"something\n"
    ends = False
    # What the exception has after `part`.
    kept = None

    def __init__(self, stream):
        self.stream = stream

    async def read(self):
        return await self.stream.read()

    def taken(self, result):
        if isinstance(result, curio.CancelledError):
            for name in ("bytes_read", "lines_read"):
                assert not hasattr(result, name)
            return b""
        return result


class ReadSome(Reading):
    async def read(self):
        return await self.stream.read(4)


class ReadInto(Reading):
    async def read(self):
        self.room = bytearray(5)
        return await self.stream.readinto(self.room)

    def taken(self, result):
        result = super().taken(result)
        return bytes(self.room[:result]) if isinstance(result, int) else result


class ReadLine(Reading):
    part = b"the beginning"
    whole = b"the beginning and the end\nand more"

    async def read(self):
        return await self.stream.readline()


class Next(ReadLine):
    async def read(self):
        return await self.stream.__anext__()


class ReadExactly(Reading):
    part = b"the\nbeginning"
    whole = b"the\nbeginning and more"
    kept = ("bytes_read", b"the\nbeginning")

    async def read(self):
        return await self.stream.read_exactly(20)

    def taken(self, result):
        if isinstance(result, curio.CancelledError):
            return result.bytes_read
        return result


class ReadAll(ReadExactly):
    whole = b"the\nbeginning and the end"
    ends = True

    async def read(self):
        return await self.stream.readall()


class ReadLines(Reading):
    part = b"one\ntwo\nthr"
    whole = b"one\ntwo\nthree\nfour"
    ends = True
    kept = ("lines_read", [b"one\n", b"two\n"])

    async def read(self):
        return await self.stream.readlines()

    def taken(self, result):
        return b"".join(result.lines_read if isinstance(result, curio.CancelledError) else result)


READINGS = [Reading, ReadSome, ReadInto, ReadLine, Next, ReadExactly, ReadAll, ReadLines]


async def check_rest(source, reading, result, sent, ended=False):
    """What was taken and what can be read afterwards is what was sent."""
    if not ended:
        source.feed(b"\nafterwards\n")
        sent += b"\nafterwards\n"
        source.end()
    taken = reading.taken(result)
    rest = await curio.timeout_after(20, source.stream.readall())
    assert taken + rest == sent
    return taken


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("kind", ["as_stream", "tcp", "pipe", "buffered"])
@pytest.mark.parametrize("way", READINGS)
def test_given_up_before_all_has_come(runs, way, kind, how):
    """1.14: with nothing there, and with part of it. The exception says what it has taken."""

    async def gives_up(there, late, seconds=0.006):
        async with Source(kind, there) as source:
            reading = way(source.stream)
            if how == "cancel":
                task = await curio.spawn(outcome(reading.read()))
            else:
                task = await curio.spawn(outcome(curio.timeout_after(seconds, reading.read())))
            await turns(1)
            source.feed(late)
            await settle()
            in_time = not task.terminated
            if how == "cancel":
                assert task.state == "READ_WAIT"
                await task.cancel()
            result = await task.join()
            assert type(result) is (curio.TaskCancelled if how == "cancel" else curio.TaskTimeout)
            if way.kept and in_time:
                name, kept = way.kept
                assert getattr(result, name) == (kept if there or late else type(kept)())
            await check_rest(source, reading, result, there + late)
        if not in_time:  # The machine has been busy: the data came too late.
            assert seconds < 10
            await gives_up(there, late, seconds * 5)

    async def main():
        await gives_up(b"", b"")
        if way.part:
            half = len(way.part) // 2
            await gives_up(way.part, b"")
            await gives_up(b"", way.part)
            await gives_up(way.part[:half], way.part[half:])

    runs(main)


@pytest.mark.parametrize("kind", ["as_stream", "tcp", "pipe"])
@pytest.mark.parametrize("way", READINGS)
def test_given_up_as_all_has_come(runs, way, kind):
    """1.14: cancelled in the turn in which its bytes come, and some turns later."""

    async def main():
        given_up = 0
        for count in range(5):
            for part in {b"", way.part}:
                async with Source(kind, part) as source:
                    reading = way(source.stream)
                    task = await curio.spawn(outcome(reading.read()))
                    await until_blocked(task)
                    source.feed(way.whole[len(part) :])
                    if way.ends:
                        source.end()
                    await turns(count)
                    if count == 4:
                        await settle()
                    await task.cancel()
                    result = await task.join()
                    given_up += isinstance(result, curio.CancelledError)
                    if count == 4:
                        assert not isinstance(result, curio.CancelledError)
                    await check_rest(source, reading, result, way.whole, ended=way.ends)
        assert given_up > 0

    runs(main)


@pytest.mark.parametrize("way", READINGS)
def test_timeout_as_all_comes(runs, way):
    """1.14: it expires just before, when, or just after its bytes come."""

    async def main():
        for late in range(-4, 5):
            async with Source("as_stream") as source:
                reading = way(source.stream)

                async def sends(source=source, late=late):
                    await curio.sleep(0.003 + late * 0.0001)
                    source.feed(way.whole)
                    if way.ends:
                        source.end()

                sender = await curio.spawn(sends())
                result = await outcome(curio.timeout_after(0.003, reading.read()))
                await sender.join()
                await check_rest(source, reading, result, way.whole, ended=way.ends)

    runs(main)


@pytest.mark.parametrize("way", [way for way in READINGS if not way.ends])
def test_what_need_not_wait_is_not_given_up(runs, way):
    """Rule 5: all is there, so a timeout that has expired and a cancellation come later."""

    async def reads(source, reading):
        # The cancellation is pending when it starts to read.
        await curio.set_cancellation(curio.TaskCancelled("pending"))
        result = await outcome(reading.read())
        assert isinstance(await curio.set_cancellation(None), curio.TaskCancelled)
        return result

    async def main():
        for timeout in (True, False):
            async with Source("as_stream", way.whole) as source:
                reading = way(source.stream)
                if timeout:
                    result = await outcome(curio.timeout_after(0, reading.read()))
                else:
                    result = await (await curio.spawn(reads(source, reading))).join()
                assert not isinstance(result, curio.CancelledError)
                await check_rest(source, reading, result, way.whole)

    runs(main)


@pytest.mark.parametrize("kind", ["as_stream", "pipe"])
def test_many_timeouts_in_a_row(runs, kind):
    """1.14: a reader that loses patience all the time reads the same in the end."""
    text = message(20_000)

    async def main():
        async with Source(kind) as source:

            async def sends():
                for n in range(0, len(text), 100):
                    source.feed(text[n : n + 100])
                    await curio.sleep(0.0002)
                source.end()

            task = await curio.spawn(sends())
            got, given_up = b"", 0
            for n in range(1_000_000):
                way = READINGS[n % len(READINGS)]
                reading = way(source.stream)
                result = await outcome(curio.timeout_after(0.0001 * (n % 4), reading.read()))
                given_up += isinstance(result, curio.CancelledError)
                got += reading.taken(result) if not isinstance(result, list) else b"".join(result)
                if task.terminated:
                    break
            got += await source.stream.readall()
            assert got == text and given_up > 10
            await task.join()

    runs(main)


TEXTS = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([b"\n", b"\n\n", b"line\n", b"x" * 5000, b"y" * 5000 + b"\n"]),
    ),
    max_size=15,
)
PAUSES = st.sampled_from([None, 0, 0, 0.0003])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["read", "readline", "read_exactly", "readinto", "anext", "readlines"]),
        st.sampled_from([0, 1, 2, 3, 10, 1000, 6000]),
        st.sampled_from([None, None, None, 0, 0.0002]),
    ),
    max_size=30,
)


@settings(max_examples=120, deadline=None)
@given(TEXTS, PAUSES, STEPS, st.sampled_from(["as_stream", "pipe"]))
def test_any_mixture_of_readings_gives_what_was_sent(pieces, pause, steps, kind):
    """T39, T41, 1.14: whatever pieces it comes in, and whoever is interrupted."""

    async def sends(source):
        for piece in pieces:
            source.feed(piece)
            if pause is not None:
                await curio.sleep(pause)
        source.end()

    async def reads(stream, name, count):
        if name == "readinto":
            room = bytearray(count)
            got = bytes(room[: await stream.readinto(room)])
        elif name == "readlines":
            return b"".join(await stream.readlines())
        elif name == "anext":
            got = b"".join([line async for line in take_one(stream)])
        elif name == "readline":
            got = await stream.readline()
            assert got.count(b"\n") <= 1 and b"\n" not in got[:-1]
        else:
            got = await getattr(stream, name)(count)
            assert len(got) <= count if name == "read" else len(got) == count
        return got

    async def take_one(stream):
        async for line in stream:
            yield line
            break

    async def main():
        got = []
        async with Source(kind) as source:
            sender = await curio.spawn(sends(source))
            for name, count, limit in steps:
                try:
                    if limit is None:
                        got.append(await reads(source.stream, name, count))
                    else:
                        reading = reads(source.stream, name, count)
                        got.append(await curio.timeout_after(limit, reading))
                except (EOFError, curio.TaskTimeout) as error:
                    got.append(getattr(error, "bytes_read", b""))
                    got.extend(getattr(error, "lines_read", []))
            got.append(await source.stream.readall())
            await sender.join()
        assert b"".join(got) == b"".join(pieces)

    curio.run(main)


# --- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"01234567",
        bytearray(b"01234567"),
        memoryview(b"x01234567x")[1:9],
        array.array("H", struct.unpack("=4H", b"01234567")),
        array.array("d", [0.0] * 5000),
    ],
    ids=["nothing", "bytes", "bytearray", "memoryview", "array", "large array"],
)
def test_write(runs, data):
    """T40: any bytes-like object; the count is of bytes, and is all of it."""
    expected = memoryview(data).tobytes()

    async def main():
        async with Source("as_stream") as source:
            assert await source.stream.write(data) == len(expected)
            await source.stream.flush()
            got = b""
            while len(got) < len(expected):
                got += os.read(source.fd, 100_000)
            assert got == expected

    runs(main)


@pytest.mark.parametrize("wrong", ["text", 5, None, [b"bytes"]], ids=str)
def test_write_of_no_bytes(runs, wrong):
    """T40: TypeError, and nothing is sent."""

    async def main():
        async with Source("as_stream") as source:
            with pytest.raises(TypeError):
                await source.stream.write(wrong)
            with pytest.raises(TypeError):
                await source.stream.writelines([b"first", wrong])
            await source.stream.write(b"right")
            await source.stream.flush()
            assert os.read(source.fd, 100) == b"right"

    runs(main)


def test_what_was_written_can_change(runs):
    """T40: a bytearray is the caller's again once write has returned, though it is sent later."""

    async def main():
        async with Source("as_stream") as source:
            data = bytearray(b"before")
            await source.stream.write(data)
            data[:] = b"after, and longer"
            await source.stream.flush()
            assert os.read(source.fd, 100) == b"before"

    runs(main)


def packets():
    """A stream whose peer sees each call of the system, and the peer."""
    left, right = plain.socketpair(plain.AF_UNIX, plain.SOCK_SEQPACKET)
    right.setblocking(False)
    return SocketStream(left), right


def test_small_writes_are_one_piece(runs):
    """T40: those of one turn go together at its end, whatever the turn ends with."""

    async def ends(stream):
        await stream.write(b"at ")
        await stream.writelines([b"the ", b"", b"end"])

    async def main():
        stream, peer = packets()
        async with stream:
            for wait in (
                lambda: curio.sleep(0),
                lambda: curio.sleep(0.001),
                lambda: curio.timeout_after(1, curio.sleep(0)),
                stream.flush,
            ):
                assert await stream.write(b"one ") == 4
                assert await stream.write(b"and ") == 4
                await stream.writelines([b"two ", b"and three"])
                with pytest.raises(BlockingIOError):
                    peer.recv(100)
                await wait()
                assert peer.recv(100) == b"one and two and three"
            await (await curio.spawn(ends(stream))).join()
            assert peer.recv(100) == b"at the end"
            await stream.write(b"before ")
            await stream.write(b"closing")
        assert peer.recv(100) == b"before closing"
        assert peer.recv(100) == b""
        peer.close()

    runs(main)


def test_each_turn_is_a_piece_of_its_own(runs):
    """T40: nothing is held back longer than the turn."""

    async def main():
        stream, peer = packets()
        async with stream:
            for n in range(5):
                await stream.write(b"%d" % n)
                await curio.sleep(0)
            assert [peer.recv(100) for _ in range(5)] == [b"%d" % n for n in range(5)]
        peer.close()

    runs(main)


def test_writer_that_crashes_or_is_cancelled_has_written(runs):
    """T40: what write has returned for is sent, however the task ends."""

    async def crashes(stream):
        await stream.write(b"crashed")
        raise Oops

    async def waits(stream):
        await stream.write(b"cancelled")
        await curio.sleep(1000)

    async def main():
        stream, peer = packets()
        async with stream:
            task = await curio.spawn(crashes(stream))
            await task.wait()
            assert peer.recv(100) == b"crashed"
            task = await curio.spawn(waits, stream)
            await turns()
            await task.cancel()
            assert peer.recv(100) == b"cancelled"
        peer.close()

    runs(main, log_errors=False)


def test_peer_receives_one_piece_over_tcp(runs):
    """T40: a header and a body, to a thread that waits for whatever comes first."""
    got = []

    def receives(sock):
        with sock:
            while data := sock.recv(10_000):
                got.append(data)

    async def main():
        left, right = tcp()
        left.setsockopt(plain.IPPROTO_TCP, plain.TCP_NODELAY, 1)
        thread = threading.Thread(target=receives, args=(right,))
        thread.start()
        async with SocketStream(left) as stream:
            for n in range(5):
                await curio.sleep(0.005)
                await stream.write(b"header %d\r\n" % n)
                await stream.write(b"\r\n")
                await stream.write(b"body" * 1000)
                while len(got) <= n:
                    await curio.sleep(0.001)
        thread.join()

    runs(main)
    assert got == [b"header %d\r\n\r\n" % n + b"body" * 1000 for n in range(5)]


@pytest.mark.parametrize("sizes", [[10, 100_000, 10], [100_000, 10], [30_000] * 8, [10] * 20_000])
@pytest.mark.parametrize("kind", ["socket", "tcp", "pipe"])
def test_order_of_large_and_small_writes(runs, kind, sizes):
    """T40: it comes as it was written."""

    async def main():
        reader, writer = ends_of(kind)
        data, place = message(sum(sizes)), 0

        async def writes():
            nonlocal place
            async with writer:
                for size in sizes:
                    assert await writer.write(data[place : place + size]) == size
                    place += size

        task = await curio.spawn(writes)
        async with reader:
            assert await reader.readall() == data
        await task.join()

    runs(main)


def ends_of(kind):
    """Two streams: what is written to the second can be read from the first."""
    if kind == "pipe":
        fds = os.pipe()
        return FileStream(os.fdopen(fds[0], "rb")), FileStream(os.fdopen(fds[1], "wb"))
    if kind == "tcp":
        left, right = tcp()
        right.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, 64 * KIB)
        left.setsockopt(plain.SOL_SOCKET, plain.SO_RCVBUF, 64 * KIB)
    else:
        left, right = plain.socketpair()
    return SocketStream(left), SocketStream(right)


def test_socket_and_streams_write_in_order(runs):
    """T37: what streams over a socket have written goes before what the socket sends."""

    async def main():
        left, right = pair()
        async with left, right:
            _, one = left.make_streams()
            other = left.makefile("wb")
            await one.write(b"1 ")
            await other.write(b"2 ")
            await left.send(b"3 ")
            await one.write(b"4 ")
            await left.sendall(b"5 ")
            await other.write(b"6 ")
            await left.sendmsg([b"7 "])
            await one.write(b"8 ")
            await left.shutdown(socket.SHUT_WR)
            got = b""
            while data := await right.recv(100):
                got += data
            assert got == b"1 2 3 4 5 6 7 8 "

    runs(main)


def test_writelines(runs):
    """S38: any iterable, None is the result."""

    async def main():
        async with Source("as_stream") as source:
            assert await source.stream.writelines(b"%d\n" % n for n in range(3)) is None
            assert await source.stream.writelines([]) is None
            assert await source.stream.writelines((bytearray(b"3\n"), memoryview(b"4\n"))) is None
            await source.stream.flush()
            assert os.read(source.fd, 100) == b"0\n1\n2\n3\n4\n"
            with pytest.raises(TypeError):
                await source.stream.writelines(5)

    runs(main)


def test_flush_waits_until_all_has_gone(runs):
    """S38: and writing has no more in hand then."""

    async def main():
        left, right = pair()
        async with left.as_stream() as stream, right:
            data = b"x" * await fill(stream)
            task = await curio.spawn(stream.flush())
            await until_blocked(task)
            assert task.state == "WRITE_WAIT"
            got = b""
            while len(got) < len(data):
                assert (piece := await right.recv(100_000))
                got += piece
            await curio.timeout_after(20, task.join())
            assert got == data

    runs(main)


def test_written_and_forgotten(runs):
    """T40: what the system had no room for goes as soon as it has, though nobody waits."""

    async def main():
        left, right = pair()
        async with left.as_stream() as stream, right:
            count = await fill(stream)
            got = 0
            async with curio.timeout_after(20):
                while got < count:
                    got += len(await right.recv(100_000))
            assert got == count

    runs(main)


# --- writing that is given up -----------------------------------------------------------------


async def count_to_the_end(reader):
    return await curio.timeout_after(20, reader.readall())


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("read", [0, 1, 50_000], ids=lambda read: f"{read} read")
@pytest.mark.parametrize("kind", ["socket", "tcp", "pipe"])
@pytest.mark.parametrize("method", ["write", "writelines"])
def test_write_is_given_up_in_the_middle(runs, method, kind, read, how):
    """1.14: the peer gets as many bytes as the exception says, and no more."""
    # More than what any of them keeps on the way.
    data = message(1_000_000)
    argument = data
    if method == "writelines":
        argument = [data[n : n + 9_999] for n in range(0, len(data), 9_999)]

    async def main():
        reader, writer = ends_of(kind)
        async with reader:
            writing = getattr(writer, method)(argument)
            if how == "timeout":
                writing = curio.timeout_after(0.02, writing)
            task = await curio.spawn(outcome(writing))
            got = b""
            await until_blocked(task)
            if read:
                got = await reader.read_exactly(read)
                await settle()
            if how == "cancel":
                await task.cancel()
            error = await task.join()
            assert isinstance(error, curio.CancelledError)
            closing = await curio.spawn(writer.close())
            got += await count_to_the_end(reader)
            await closing.join()
            assert 0 < len(got) == error.bytes_written < len(data)
            assert got == data[: len(got)]

    runs(main)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("size", [5, 20_000, 200_000])
@pytest.mark.parametrize("method", ["write", "writelines", "flush"])
def test_write_is_given_up_before_it_has_begun(runs, method, size, how):
    """1.14: nothing fits, so none of it comes, but all of what was written before."""

    async def main():
        reader, writer = ends_of("socket")
        async with reader:
            before = await fill(writer)
            args = {"write": [b"y" * size], "writelines": [[b"y" * size, b"y"]], "flush": []}
            writing = getattr(writer, method)(*args[method])
            if how == "timeout":
                writing = curio.timeout_after(0.002, writing)
            task = await curio.spawn(outcome(writing))
            await until_blocked(task)
            if how == "cancel":
                await task.cancel()
            error = await task.join()
            assert isinstance(error, curio.CancelledError)
            if method != "flush":
                assert error.bytes_written == 0
            closing = await curio.spawn(writer.close())
            assert await count_to_the_end(reader) == b"x" * before
            await closing.join()

    runs(main)


@pytest.mark.parametrize("kind", ["socket", "tcp", "pipe"])
def test_slow_reader_and_impatient_writer(runs, kind):
    """1.14: given up dozens of times in the middle, and taken up where it was: nothing is lost
    and nothing comes twice."""
    data = message(1_500_000)

    async def main():
        reader, writer = ends_of(kind)
        if kind == "socket":
            writer._socket.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, 4096)
            reader._socket.setsockopt(plain.SOL_SOCKET, plain.SO_RCVBUF, 4096)
        given_up = 0

        async def reads():
            got = []
            while piece := await reader.read(9000):
                got.append(piece)
                if len(got) % 4 == 0:
                    await curio.sleep(0.0002)
            return b"".join(got)

        async with reader, curio.timeout_after(30):
            task = await curio.spawn(reads())
            place, n = 0, 0
            while place < len(data):
                n += 1
                # Small and large, by all three ways.
                piece = data[place : place + [700_000, 50, 20_000, 3][n % 4]]
                if n % 3 == 0:
                    writing = writer.writelines([piece[:7], piece[7:]])
                else:
                    writing = writer.write(piece)
                result = await outcome(curio.timeout_after(0.0003 * (n % 5), writing))
                if isinstance(result, curio.CancelledError):
                    given_up += 1
                    place += result.bytes_written
                else:
                    place += len(piece)
                if n % 7 == 0:
                    await outcome(curio.timeout_after(0.0002, writer.flush()))
            await writer.close()
            assert await task.join() == data
        assert given_up > 5

    runs(main)


def test_write_is_given_up_as_there_is_room(runs):
    """1.14: cancelled in the turn in which the peer reads, and some turns later."""
    data = message(400_000)

    async def main():
        for count in range(5):
            reader, writer = ends_of("socket")
            async with reader:
                task = await curio.spawn(outcome(writer.write(data)))
                await until_blocked(task)
                got = await reader.read(150_000)
                await turns(count)
                await task.cancel()
                result = await task.join()
                written = result if isinstance(result, int) else result.bytes_written
                closing = await curio.spawn(writer.close())
                got += await count_to_the_end(reader)
                await closing.join()
                assert got == data[:written]

    runs(main)


# --- two tasks --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["socket", "tcp"])
def test_full_duplex(runs, kind):
    """1.8: one task reads while another writes, both ways at once, through one stream a side."""
    there, back = message(1_000_000), message(1_000_000)[::-1]

    async def writes(stream, data):
        for n in range(0, len(data), 33_333):
            await stream.write(data[n : n + 33_333])
        await stream.flush()

    async def main():
        left, right = ends_of(kind)
        async with left, right, curio.timeout_after(30):
            tasks = [
                await curio.spawn(writes(left, there)),
                await curio.spawn(writes(right, back)),
                await curio.spawn(left.read_exactly(len(back))),
                await curio.spawn(right.read_exactly(len(there))),
            ]
            assert await tasks[2].join() == back
            assert await tasks[3].join() == there
            for task in tasks[:2]:
                await task.join()

    runs(main)


READS = {
    "read": (),
    "readline": (),
    "read_exactly": (15,),
    "readall": (),
    "readlines": (),
    "readinto": (bytearray(100),),
    "__anext__": (),
}


@pytest.mark.parametrize("second", READS)
@pytest.mark.parametrize("first", READS)
def test_second_reader(runs, first, second):
    """1.8: ReadResourceBusy, for every pair of methods; the first gets what it has waited for."""

    async def main():
        async with Source("as_stream") as source:
            reader = await curio.spawn(getattr(source.stream, first)(*READS[first]))
            await until_blocked(reader)
            with pytest.raises(curio.ReadResourceBusy, match=f"task {reader.id}"):
                await getattr(source.stream, second)(*READS[second])
            source.feed(b"0123456789abcd\n")
            if first in ("readall", "readlines"):
                source.end()
            result = await curio.timeout_after(20, reader.join())
            assert result in (15, b"0123456789abcd\n", [b"0123456789abcd\n"])

    runs(main)


@pytest.mark.parametrize("second", READS)
@pytest.mark.parametrize("first", ["readline", "read_exactly", "readall", "readlines", "__anext__"])
def test_second_reader_takes_nothing_from_the_first(runs, first, second):
    """1.8: part of what the first one waits for has come already. It is the first one's."""

    async def main():
        async with Source("as_stream") as source:
            reader = await curio.spawn(getattr(source.stream, first)(*READS[first]))
            await until_blocked(reader)
            source.feed(b"0123456789")
            await settle()
            assert reader.state == "READ_WAIT"
            with pytest.raises(curio.ReadResourceBusy):
                await getattr(source.stream, second)(*READS[second])
            source.feed(b"abcd\n")
            if first in ("readall", "readlines"):
                source.end()
            result = await curio.timeout_after(20, reader.join())
            assert result in (b"0123456789abcd\n", [b"0123456789abcd\n"])

    runs(main)


def test_second_reader_by_another_object(runs):
    """1.8: two streams, or a stream and its socket, are one descriptor."""

    async def main():
        left, right = pair()
        async with left, right:
            one, other = left.make_streams()
            reader = await curio.spawn(one.readline())
            await until_blocked(reader)
            with pytest.raises(curio.ReadResourceBusy):
                await other.readline()
            with pytest.raises(curio.ReadResourceBusy):
                await left.recv(10)
            await right.send(b"line\n")
            assert await reader.join() == b"line\n"

    runs(main)


@pytest.mark.parametrize("size", [5, 100_000])
def test_second_writer(runs, size):
    """1.8: WriteResourceBusy, small or large; nothing of it gets into the middle of the first's."""

    async def main():
        reader, writer = ends_of("socket")
        data = message(1_000_000)
        async with reader:
            first = await curio.spawn(writer.write(data))
            await until_blocked(first)
            for second in (
                writer.write(b"!" * size),
                writer.writelines([b"!" * size]),
                writer._socket.sendall(b"!" * size),
            ):
                with pytest.raises(curio.WriteResourceBusy, match=f"task {first.id}"):
                    await second
            assert await reader.read_exactly(len(data)) == data
            assert await first.join() == len(data)
            await writer.close()
            assert await reader.readall() == b""

    runs(main)


@pytest.mark.parametrize("through", ["stream", "socket"])
def test_second_writer_at_any_moment(runs, through):
    """1.8: nor does it when the first has just been woken and has not run yet."""
    data = b"x" * 1_000_000

    async def main():
        left, right = pair()
        left.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, 4096)
        stream = left.as_stream()
        write = stream.write if through == "stream" else left.sendall
        refused = 0

        async def intrudes():
            nonlocal refused
            while not first.terminated:
                try:
                    await write(b"!")
                except curio.WriteResourceBusy:
                    refused += 1
                await curio.sleep(0)

        async with right.as_stream() as peer:
            first = await curio.spawn(write(data))
            reading = await curio.spawn(peer.readall())
            intruder = await curio.spawn(intrudes())
            await first.join()
            await intruder.join()
            await stream.close()
            got = await reading.join()
        assert refused > 0
        assert got.rstrip(b"!") == data

    runs(main)


# --- the end ----------------------------------------------------------------------------------

METHODS = {
    "read": (),
    "readline": (),
    "readlines": (),
    "readall": (),
    "read_exactly": (1,),
    "readinto": (bytearray(1),),
    "__anext__": (),
    "write": (b"x",),
    "writelines": ([b"x"],),
    "flush": (),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_close(runs, kind):
    """T43: twice is fine; nothing can be done afterwards."""

    async def main():
        async with Source(kind, b"unread") as source:
            assert await source.stream.close() is None
            assert source.stream.closed
            assert await source.stream.close() is None
            for name, args in METHODS.items():
                with pytest.raises((ValueError, OSError)):
                    await getattr(source.stream, name)(*args)
            with pytest.raises((ValueError, OSError)):
                with source.stream.blocking():
                    pass
            with pytest.raises((ValueError, OSError)):
                async with source.stream as stream:
                    await stream.read(1)
            repr(source.stream)

    runs(main)


@pytest.mark.parametrize("kind", ["socket", "tcp", "pipe"])
def test_close_flushes(runs, kind):
    """T43: small and large; the peer reads it all, slowly, and then the end."""

    async def main():
        for full in (False, True):
            reader, writer = ends_of(kind)
            async with reader:
                count = await fill(writer) if full else await writer.write(b"x" * 100)
                task = await curio.spawn(writer.close())
                assert await curio.timeout_after(20, reader.readall()) == b"x" * count
                await task.join()

    runs(main)


def test_socket_that_is_closed_ends_its_streams(runs):
    """T37: they are of no use afterwards; what they have written is sent before."""

    async def main():
        left, right = pair()
        async with right:
            reader, writer = left.make_streams()
            await writer.write(b"last")
            await left.close()
            assert await right.recv(10) == b"last"
            assert await right.recv(10) == b""
            for operation in (reader.read(), writer.write(b"x"), reader.readline()):
                with pytest.raises(OSError) as caught:
                    await operation
                assert caught.value.errno == errno.EBADF
            await reader.close()
            await writer.close()

    runs(main)


@pytest.mark.parametrize("name", ["read", "readline", "read_exactly", "readall", "readlines"])
def test_close_while_another_task_reads(runs, name):
    """T43: that one gets an OSError at once; what it had is in it."""
    args = {"read_exactly": (1000,)}.get(name, ())

    async def main():
        left, right = pair()
        async with right:
            stream = left.as_stream()
            task = await curio.spawn(getattr(stream, name)(*args))
            await until_blocked(task)
            if name != "read":
                await right.send(b"part")
                await settle()
            await stream.close()
            with pytest.raises(curio.TaskError) as caught:
                await curio.timeout_after(20, task.join())
            error = caught.value.__cause__
            assert isinstance(error, OSError) and error.errno == errno.EBADF
            if name in ("read_exactly", "readall"):
                assert error.bytes_read == b"part"

    runs(main, log_errors=False)


def test_close_while_another_task_writes(runs):
    """T43: it is told how much it has written."""

    async def main():
        left, right = pair()
        async with right.as_stream() as peer:
            stream = left.as_stream()
            task = await curio.spawn(stream.write(message(2_000_000)))
            await until_blocked(task)
            await stream.close()
            with pytest.raises(curio.TaskError) as caught:
                await curio.timeout_after(20, task.join())
            error = caught.value.__cause__
            assert isinstance(error, OSError) and error.errno == errno.EBADF
            assert await peer.readall() == message(2_000_000)[: error.bytes_written]

    runs(main, log_errors=False)


def test_close_that_is_cancelled_closes(runs):
    """T43: a peer that takes nothing cannot keep it open."""

    async def main():
        for how in ("cancel", "timeout"):
            left, right = pair()
            async with right:
                stream = left.as_stream()
                await fill(stream)
                if how == "cancel":
                    task = await curio.spawn(stream.close())
                    await until_blocked(task)
                    await curio.timeout_after(3, task.cancel())
                else:
                    task = await curio.spawn(outcome(curio.timeout_after(0.002, stream.close())))
                    assert isinstance(await curio.timeout_after(3, task.join()), curio.TaskTimeout)
                assert stream.closed and left.fileno() == -1

    runs(main)


def test_async_with(runs):
    """S38: closes, whatever happens inside."""

    async def reads(stream):
        async with stream:
            await stream.read()

    async def main():
        left, right = pair()
        with pytest.raises(Oops):
            async with left.as_stream() as stream:
                await stream.write(b"written")
                raise Oops
        assert stream.closed and left.fileno() == -1
        assert await right.recv(100) == b"written"
        stream = right.as_stream()
        task = await curio.spawn(reads(stream))
        await task.cancel()
        assert stream.closed and right.fileno() == -1

    runs(main)


@pytest.mark.parametrize("kind", ["as_stream", "pipe"])
def test_plain_with_and_for(runs, kind):
    """D14: AsyncOnlyError; the stream stays open."""

    async def main():
        async with Source(kind, b"line\n") as source:
            with pytest.raises(curio.AsyncOnlyError, match="async with"):
                with source.stream:
                    pass
            with pytest.raises(curio.AsyncOnlyError, match="async for"):
                for _ in source.stream:
                    pass
            assert await source.stream.readline() == b"line\n"

    runs(main)


@pytest.mark.parametrize("kind", ["socket", "tcp", "pipe"])
def test_peer_that_goes_while_much_is_written(runs, kind):
    """T40: an OSError, with the count of what the system took."""

    async def main():
        reader, writer = ends_of(kind)
        size = 2_000_000
        task = await curio.spawn(writer.write(b"x" * size))
        await until_blocked(task)
        await reader.close()
        with pytest.raises(curio.TaskError) as caught:
            await curio.timeout_after(20, task.join())
        error = caught.value.__cause__
        assert isinstance(error, BrokenPipeError | ConnectionResetError)
        assert 0 < error.bytes_written < size
        await outcome(writer.close())

    runs(main, log_errors=False)


@pytest.mark.parametrize("wait", [0, 1], ids=["at once", "a turn later"])
@pytest.mark.parametrize("then", ["write", "flush", "close"])
@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_error_of_what_was_written_is_reported_later(runs, kind, then, wait):
    """T40, T43: nobody waited when it happened; the next operation that writes tells."""

    async def main():
        reader, writer = ends_of(kind)
        await reader.close()
        assert await writer.write(b"in vain") == 7
        await turns(wait)
        args = (b"x" * 20_000,) if then == "write" else ()
        with pytest.raises(BrokenPipeError):
            await getattr(writer, then)(*args)
        await writer.close()
        assert writer.closed

    runs(main)


def reset(sock):
    sock.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("name", ["read", "readline", "read_exactly", "readall", "readlines"])
def test_reset_while_a_task_reads(runs, name):
    """T39, T41, S38: ConnectionResetError, with what had come."""
    args = {"read_exactly": (1000,)}.get(name, ())

    async def main():
        left, right = tcp()
        async with SocketStream(left) as stream:
            task = await curio.spawn(getattr(stream, name)(*args))
            await until_blocked(task)
            if name != "read":
                right.send(b"line\npart"[5 * (name == "readline") :])
                await settle()
            reset(right)
            with pytest.raises(curio.TaskError) as caught:
                await curio.timeout_after(20, task.join())
            error = caught.value.__cause__
            assert isinstance(error, ConnectionResetError)
            if name in ("read_exactly", "readall"):
                assert error.bytes_read == b"line\npart"
            elif name == "readlines":
                assert error.lines_read == [b"line\n"]
            else:
                # What had come before is still there.
                rest = b"part" if name == "readline" else b""
                assert await stream.read(4 if rest else -1) == rest

    runs(main, log_errors=False)


def test_half_close(runs):
    """L71: our end says it is finished, and still reads the answer."""

    async def main():
        left, right = (Socket(sock) for sock in tcp())
        async with left, right, curio.timeout_after(20):
            reader, writer = left.make_streams()
            await writer.write(b"question")
            await left.shutdown(socket.SHUT_WR)
            peer = right.as_stream()
            assert await peer.readall() == b"question"
            await peer.write(b"answer\n")
            await peer.close()
            assert await reader.readlines() == [b"answer\n"]
            with pytest.raises(BrokenPipeError):
                await writer.write(b"more")
                await writer.flush()

    runs(main)


# --- in blocking mode -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOURCES)
def test_blocking(runs, kind):
    """T44: the descriptor is blocking inside, and not before and after; also on an error."""

    async def main():
        async with Source(kind) as source, curio.timeout_after(20):
            fd = source.stream.fileno()
            assert not os.get_blocking(fd)
            with source.stream.blocking() as file:
                assert os.get_blocking(fd)
                assert file.fileno() == fd
            assert not os.get_blocking(fd)
            with pytest.raises(Oops):
                with source.stream.blocking():
                    raise Oops
            assert not os.get_blocking(fd)
            source.feed(b"line\n")
            assert await source.stream.readline() == b"line\n"

    runs(main)


@pytest.mark.parametrize("kind", ["as_stream", "make_streams", "pipe", "buffered"])
def test_blocking_read_in_a_thread(runs, kind):
    """T44: code that knows nothing of tasks waits in it, and the tasks go on."""

    async def main():
        async with Source(kind) as source, curio.timeout_after(20):
            with source.stream.blocking() as file:
                task = await curio.spawn(curio.run_in_thread(file.read, 3))
                await settle()
                assert not task.terminated
                source.feed(b"abc")
                assert await task.join() == b"abc"
            source.feed(b"def")
            assert await source.stream.read() == b"def"

    runs(main)


@pytest.mark.parametrize("kind", SOURCES)
def test_blocking_with_unread_data(runs, kind):
    """T44: OSError; nothing is changed, and it can be read."""

    async def main():
        async with Source(kind, b"one\ntwo\n") as source:
            assert await source.stream.readline() == b"one\n"
            with pytest.raises(OSError, match="4 bytes"):
                with source.stream.blocking():
                    raise Oops
            assert not os.get_blocking(source.stream.fileno())
            assert await source.stream.readline() == b"two\n"
            with source.stream.blocking():
                pass

    runs(main)


@pytest.mark.parametrize("which", ["stream", "socket"])
def test_blocking_sends_what_was_written_before(runs, which):
    """T38, T44: a header by the stream and a body by old code come in this order."""

    async def main():
        left, right = pair()
        async with left, right:
            stream = left.makefile("wb")
            await stream.write(b"header ")
            with (stream if which == "stream" else left).blocking() as raw:
                (raw.write if which == "stream" else raw.sendall)(b"body ")
            await stream.write(b"end")
            await stream.flush()
            assert await right.recv(100) == b"header body end"

    runs(main)


def test_blocking_code_that_reads_ahead(runs):
    """T44: what a buffered file has read inside and not given is there afterwards."""

    async def main():
        async with Source("buffered", b"") as source:
            with source.stream.blocking() as file:
                source.feed(b"one\ntwo\n")
                assert file.readline() == b"one\n"
            assert await curio.timeout_after(5, source.stream.readline()) == b"two\n"

    runs(main)


def test_blocking_code_that_does_not_flush(runs):
    """T44: what a buffered file was given inside comes before what the stream writes then."""

    async def main():
        fd, other = os.pipe()
        async with FileStream(os.fdopen(other, "wb")) as writer:
            await writer.write(b"one ")
            with writer.blocking() as file:
                file.write(b"two ")
            await writer.write(b"three")
        with os.fdopen(fd, "rb") as reader:
            assert reader.read() == b"one two three"

    runs(main)


# --- files ------------------------------------------------------------------------------------


def test_regular_file(runs, tmp_path):
    """S37: it never waits."""
    path = tmp_path / "file"
    lines = [b"%d\n" % n for n in range(50_000)]

    async def main():
        async with FileStream(open(path, "wb")) as stream:
            await stream.writelines(lines[:-1])
            assert await stream.write(b"x" * 100_000) == 100_000
        assert path.read_bytes() == b"".join(lines[:-1]) + b"x" * 100_000
        path.write_bytes(b"".join(lines))
        async with FileStream(open(path, "rb")) as stream:
            assert await stream.readline() == b"0\n"
            assert await stream.read_exactly(4) == b"1\n2\n"
            assert [line async for line in stream] == lines[3:]
            assert await stream.read() == b""
        async with FileStream(open(path, "ab", 0)) as stream:
            await stream.write(b"appended")
        assert path.read_bytes() == b"".join(lines) + b"appended"

    runs(main)


def test_file_that_was_read_before(runs, tmp_path):
    """S37: it goes on after what was read, though the file has read ahead."""
    path = tmp_path / "file"
    lines = [b"line %d\n" % n for n in range(5000)]
    path.write_bytes(b"".join(lines))

    async def main():
        for buffering in (-1, 0, 100):
            file = open(path, "rb", buffering)
            assert [file.readline() for _ in range(3)] == lines[:3]
            async with FileStream(file) as stream:
                assert await stream.readlines() == lines[3:]

    runs(main)


def test_file_that_was_written_before(runs, tmp_path):
    """S37: what is in the file's own buffer comes first."""
    path = tmp_path / "file"

    async def main():
        file = open(path, "wb")
        file.write(b"before, ")
        async with FileStream(file) as stream:
            await stream.write(b"after")
        assert path.read_bytes() == b"before, after"

    runs(main)


@pytest.mark.parametrize("buffering", [-1, 0])
def test_file_that_is_read_and_written(runs, tmp_path, buffering):
    """S37: at its position, as the file would."""
    path = tmp_path / "file"

    async def main():
        path.write_bytes(b"0123456789")
        async with FileStream(open(path, "r+b", buffering)) as stream:
            await stream.write(b"abc")
        assert path.read_bytes() == b"abc3456789"
        async with FileStream(open(path, "w+b", buffering)) as stream:
            await stream.write(b"new")
        assert path.read_bytes() == b"new"

    runs(main)


def test_terminal(runs):
    """S37: a pty, both ways, with a task on each end; one reads while it is written."""

    async def main():
        master, slave = pty.openpty()
        tty.setraw(slave)
        async with (
            FileStream(os.fdopen(master, "r+b", 0)) as ours,
            FileStream(os.fdopen(slave, "r+b", 0)) as theirs,
            curio.timeout_after(20),
        ):

            async def echoes():
                async for line in theirs:
                    await theirs.write(line.upper())
                    if line == b"end\n":
                        return

            task = await curio.spawn(echoes())
            for text in (b"hello\n", b"x" * 3000 + b"\n", b"end\n"):
                reader = await curio.spawn(ours.readline())
                await until_blocked(reader)
                await ours.write(text)
                assert await reader.join() == text.upper()
            await task.join()
            data = message(100_000)
            task = await curio.spawn(ours.write(data))
            assert await theirs.read_exactly(len(data)) == data
            await task.join()
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.002, theirs.read())

    runs(main)


def test_end_of_a_terminal(runs):
    """S37: the other end has gone: the system's error, not a wait."""

    async def main():
        master, slave = pty.openpty()
        tty.setraw(slave)
        async with FileStream(os.fdopen(master, "rb", 0)) as ours:
            os.write(slave, b"last\n")
            assert await ours.readline() == b"last\n"
            reader = await curio.spawn(ours.readline())
            await until_blocked(reader)
            os.close(slave)
            with pytest.raises(curio.TaskError) as caught:
                await curio.timeout_after(20, reader.join())
            assert caught.value.__cause__.errno == errno.EIO

    runs(main, log_errors=False)


def test_pipe_that_is_shut_by_its_reader(runs):
    """S37: BrokenPipeError, no signal."""

    async def main():
        fd, other = os.pipe()
        os.close(fd)
        stream = FileStream(os.fdopen(other, "wb", 0))
        with pytest.raises(BrokenPipeError):
            await stream.write(b"x" * 20_000)
        await stream.close()

    runs(main)


def test_dev_null(runs):
    """S37: a device."""

    async def main():
        async with FileStream(open("/dev/null", "r+b", 0)) as stream:
            assert await stream.write(b"x" * 200_000) == 200_000
            assert await stream.readall() == b""

    runs(main)


# --- servers, memory, leaks -------------------------------------------------------------------


def client_makes_streams(how):
    async def client(sock, address):
        if how == "makefile":
            reader, writer = sock.makefile("rb"), sock.makefile("wb")
        elif how == "as_stream":
            reader = writer = sock.as_stream()
        else:
            reader, writer = sock.make_streams()
        async for line in reader:
            if line == b"bye\n":
                break
            await writer.write(line)
        await writer.write(b"good-bye\n")

    return client


@pytest.mark.parametrize("how", ["make_streams", "makefile", "as_stream"])
def test_server_closes_whose_streams_were_not_closed(runs, how):
    """T45: when the client's task ends, not later; and what was written last is sent."""

    async def main():
        listener = Socket(plain.create_server(("127.0.0.1", 0)))
        address = listener.getsockname()
        serving = await curio.spawn(curio.run_server(listener, client_makes_streams(how)))
        for last in (b"bye\n", b""):
            async with await curio.open_connection(*address) as sock, curio.timeout_after(20):
                stream = sock.makefile("rwb")
                await stream.write(b"hello\n" + last)
                if not last:
                    await sock.shutdown(socket.SHUT_WR)
                assert await stream.readlines() == [b"hello\n", b"good-bye\n"]
        await serving.cancel()

    runs(main)


def test_server_sends_much_before_it_closes(runs):
    """T45: more than the system takes at once, to a client that reads late."""
    data = message(60_000)

    async def client(sock, address):
        sock.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, 4096)
        _, writer = sock.make_streams()
        for n in range(0, len(data), 1000):
            await writer.write(data[n : n + 1000])

    async def main():
        listener = Socket(plain.create_server(("127.0.0.1", 0)))
        serving = await curio.spawn(curio.run_server(listener, client))
        raw = plain.socket()
        raw.setsockopt(plain.SOL_SOCKET, plain.SO_RCVBUF, 4096)
        raw.connect(listener.getsockname())
        await curio.sleep(0.01)
        async with SocketStream(raw) as stream:
            assert await curio.timeout_after(20, stream.readall()) == data
        await serving.cancel()

    runs(main)


def test_a_thousand_connections_leave_nothing(kernel):
    """T45, 1.8: no descriptor, and no cycle for the collector to find."""

    async def round_of(address, count):
        for n in range(count):
            sock = await curio.open_connection(*address)
            stream = sock.as_stream()
            await stream.write(b"hello\n")
            assert await stream.readline() == b"hello\n"
            if n % 3 == 0:
                await stream.write(b"bye\n")
                assert await stream.readall() == b"good-bye\n"
            await stream.close()
            del sock, stream

    async def quiet(task):
        while task.children:
            await curio.sleep(0.001)
        await turns()

    async def main():
        listener = Socket(plain.create_server(("127.0.0.1", 0)))
        address = listener.getsockname()
        serving = await curio.spawn(
            curio.run_server(listener, client_makes_streams("make_streams"))
        )
        await round_of(address, 10)
        await quiet(serving)
        gc.collect()
        before, objects = descriptors(), len(gc.get_objects())
        gc.disable()
        try:
            for _ in range(4):
                await round_of(address, 250)
                await quiet(serving)
                assert descriptors() == before
            found = gc.collect()
        finally:
            gc.enable()
        assert found < 100 and gc.garbage == []
        assert len(gc.get_objects()) < objects + 200
        await serving.cancel()

    kernel.run(main)


def test_idle_streams_hold_no_buffer(program):
    """Invariant of `read`: after much has come, a thousand streams that wait, some of them with
    part of a line, need nowhere near a buffer each."""
    running = program("""
import gc, os, resource, socket
import curio
from curio.io import SocketStream

COUNT = 1000
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

def memory():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def reads(stream):
    while line := await stream.readline():
        pass

async def main():
    pairs = [socket.socketpair() for _ in range(COUNT)]
    streams = [SocketStream(left) for left, _ in pairs]
    tasks = [await curio.spawn(reads(stream)) for stream in streams]
    await curio.sleep(0.01)
    before = memory()
    burst = (b"x" * 999 + b"\\n") * 100
    for _ in range(2):
        for n, (_, right) in enumerate(pairs):
            right.send(burst + b"part" * (n % 2))
            if n % 50 == 0:
                await curio.sleep(0)
        await curio.sleep(0.05)
    for stream in streams:
        await stream.write(b"y" * 10_000)
        await curio.sleep(0)
    await curio.sleep(0.05)
    print(memory() - before)
    assert all(task.state == "READ_WAIT" for task in tasks)
    for task in tasks:
        await task.cancel()

curio.run(main)
""")
    running.succeed()
    assert int(running.output) < 48 * 1024 * 1024


def test_streams_with_a_little_unread_hold_little(program):
    """The same for streams that have a short line left, and whose tasks do something else."""
    running = program("""
import gc, os, resource, socket
import curio
from curio.io import SocketStream

COUNT = 1000
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)

def memory():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def main():
    pairs = [socket.socketpair() for _ in range(COUNT)]
    streams = [SocketStream(left) for left, _ in pairs]
    before = memory()
    for stream, (_, right) in zip(streams, pairs):
        right.send(b"x" * 100_000 + b"\\nnext\\n")
        assert len(await stream.readline()) == 100_001
    print(memory() - before)
    for stream in streams:
        assert await stream.readline() == b"next\\n"

curio.run(main)
""")
    running.succeed()
    assert int(running.output) < 48 * 1024 * 1024
