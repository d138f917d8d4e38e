"""Messages between programs: each whole and once, from friends alone.

Goal: `Connection` over streams of all kinds, `Channel`, `Listener` and `Client`, and that programs
of `multiprocessing.connection` are understood. Method: both ends in one kernel, over socket pairs
whose buffers are too small for what is sent, so that each side can be stopped half way; the
standard library's ends in threads; hostile clients as plain sockets.
"""

import array
import contextlib
import logging
import multiprocessing
import os
import pickle
import random
import socket as plain
import struct
import threading
from multiprocessing import connection as theirs

import curio
import pytest
from curio import channel as channel_module
from curio.channel import AuthenticationError, Channel, Client, Connection, Listener
from curio.socket import socketpair

KEY = b"peekaboo"
LARGE = bytes(random.Random(1).randbytes(3_000_000))


@contextlib.asynccontextmanager
async def pair():
    left, right = socketpair()
    for sock in left, right:
        sock.setsockopt(plain.SOL_SOCKET, plain.SO_SNDBUF, 1)
    left, right = left.as_stream(), right.as_stream()
    async with Connection(left, left) as one, Connection(right, right) as other:
        yield one, other


def over(sock):
    stream = sock.as_stream()
    return Connection(stream, stream)


async def until(task, state):
    async with curio.timeout_after(20):
        while task.state != state:
            await curio.sleep(0)


class Oops(Exception):
    pass


def unpickled():
    raise Oops("not to be unpickled")


class Trap:
    def __reduce__(self):
        return unpickled, ()


# --- messages -----------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"", b"x", b"x" * 16383, b"x" * 16384, LARGE])
def test_bytes_come_as_they_were_sent(message):
    async def main():
        async with pair() as (one, other):
            task = await curio.spawn(one.send_bytes, message)
            assert await other.recv_bytes() == message
            await task.join()

    curio.run(main)


def test_messages_keep_their_bounds():
    async def main():
        async with pair() as (one, other):
            sizes = [0, 1, 5, 0, 20_000, 3]
            task = await curio.spawn(send_all, one, [b"x" * size for size in sizes])
            assert [len(await other.recv_bytes()) for _ in sizes] == sizes
            await task.join()

    async def send_all(connection, messages):
        for message in messages:
            await connection.send_bytes(message)

    curio.run(main)


def test_objects_are_pickled():
    async def main():
        async with pair() as (one, other):
            sent = [{"a": [1, 2.5, None]}, ValueError("of theirs"), ("x",) * 3]
            for value in sent:
                await one.send(value)
            for value in sent:
                assert repr(await other.recv()) == repr(value)

    curio.run(main)


def test_what_cannot_be_pickled_is_not_sent():
    async def main():
        async with pair() as (one, other):
            with pytest.raises((pickle.PicklingError, AttributeError)):
                await one.send(lambda: None)
            await one.send("next")
            assert await other.recv() == "next"

    curio.run(main)


def test_what_cannot_be_unpickled_is_gone_and_the_next_one_comes():
    async def main():
        async with pair() as (one, other):
            await one.send(Trap())
            await one.send("next")
            with pytest.raises(Oops):
                await other.recv()
            assert await other.recv() == "next"

    curio.run(main)


@pytest.mark.parametrize(
    "args, expected",
    [((), b"012345"), ((2,), b"2345"), ((2, 3), b"234"), ((6,), b""), ((0, 0), b"")],
)
def test_a_part_of_a_buffer_is_sent(args, expected):
    async def main():
        async with pair() as (one, other):
            await one.send_bytes(bytearray(b"012345"), *args)
            assert await other.recv_bytes() == expected

    curio.run(main)


def test_any_buffer_is_bytes():
    numbers = array.array("i", range(5))
    grid = memoryview(bytes(range(24))).cast("B", [4, 6])

    async def main():
        async with pair() as (one, other):
            for buffer in numbers, grid, memoryview(numbers)[::2]:
                await one.send_bytes(buffer)
                assert await other.recv_bytes() == bytes(memoryview(buffer))

    curio.run(main)


@pytest.mark.parametrize("args", [(-1,), (7,), (0, 7), (3, 4), (0, -1)])
def test_a_part_that_is_not_there(args):
    async def main():
        async with pair() as (one, other):
            with pytest.raises(ValueError, match="buffer of 6 bytes"):
                await one.send_bytes(b"012345", *args)
            await one.send_bytes(b"next")
            assert await other.recv_bytes() == b"next"

    curio.run(main)


def test_a_long_message_can_still_be_received():
    async def main():
        async with pair() as (one, other):
            await one.send_bytes(b"123456")
            with pytest.raises(OSError, match="6 bytes has come, where 5 may"):
                await other.recv_bytes(5)
            with pytest.raises(OSError, match="where 0 may"):
                await other.recv_bytes(maxlength=0)
            assert await other.recv_bytes(maxlength=6) == b"123456"

    curio.run(main)


def test_a_message_into_a_buffer():
    async def main():
        async with pair() as (one, other):
            room = bytearray(b"..........")
            await one.send_bytes(b"abc")
            assert await other.recv_bytes_into(room, 2) == 3
            assert room == b"..abc....."
            await one.send_bytes(b"123456")
            with pytest.raises(OSError, match="where 4 may"):
                await other.recv_bytes_into(room, 6)
            with pytest.raises(TypeError, match="writable buffer"):
                await other.recv_bytes_into(b"123456")
            with pytest.raises(ValueError, match="offset 11"):
                await other.recv_bytes_into(room, 11)
            assert await other.recv_bytes_into(room) == 6
            assert room == b"123456...."

    curio.run(main)


def test_the_end():
    async def main():
        async with pair() as (one, other):
            await one.send("last")
            await one.close()
            assert await other.recv() == "last"
            for _ in range(2):
                with pytest.raises(EOFError):
                    await other.recv()
            await one.close()

    curio.run(main)


@pytest.mark.parametrize("sent", [b"\0", b"\0\0\0\5", b"\0\0\0\5abcd", b"\xff\xff\xff\xff\0\0"])
def test_the_end_inside_of_a_message(sent):
    async def main():
        left, right = socketpair()
        async with left, over(right) as connection:
            await left.sendall(sent)
            await left.shutdown(plain.SHUT_WR)
            with pytest.raises(EOFError):
                await connection.recv_bytes()

    curio.run(main)


@pytest.mark.parametrize("sent", [b"\xff\xff\xff\xfe", b"\x80\0\0\0"])
def test_what_is_no_message(sent):
    async def main():
        left, right = socketpair()
        async with left, over(right) as connection:
            await left.sendall(sent)
            with pytest.raises(OSError, match="no message: it would have -"):
                await connection.recv_bytes()

    curio.run(main)


def test_a_message_that_would_not_fit_anywhere():
    async def main():
        left, right = socketpair()
        async with left, over(right) as connection:
            await left.sendall(struct.pack("!iQ", -1, 1 << 62))
            with pytest.raises(OSError, match=f"{1 << 62} bytes has come, where 100 may"):
                await connection.recv_bytes(100)
            # Memory is taken for what has come, not for what was announced.
            assert await curio.ignore_after(0.01, connection.recv_bytes) is None

    curio.run(main)


def test_sizes_of_both_forms(monkeypatch):
    """A message of 2 GiB has a longer size; here it is one of 10 bytes."""
    monkeypatch.setattr(channel_module, "_SIZE_LIMIT", 9)

    async def main():
        async with pair() as (one, other):
            for size in 9, 10, 11:
                await one.send_bytes(b"x" * size)
            for size in 9, 10, 11:
                assert len(await other.recv_bytes()) == size

    curio.run(main)


# --- cancellation -------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [[1], [3, 1], [4], [4, 1], [4, 2, 2, 1], [8]])
def test_a_cancelled_recv_loses_nothing(steps):
    """Bytes come in steps, and after each the receiver is cancelled where it waits."""
    wire = struct.pack("!i", 5) + b"hello" + struct.pack("!i", 2) + b"!!"

    async def main():
        left, right = socketpair()
        async with left, over(right) as connection:
            sent = 0
            for step in steps:
                task = await curio.spawn(connection.recv_bytes)
                await until(task, "READ_WAIT")
                await left.sendall(wire[sent : sent + step])
                sent += step
                await curio.sleep(0)
                await until(task, "READ_WAIT")
                await task.cancel()
            await left.sendall(wire[sent:])
            assert await connection.recv_bytes() == b"hello"
            assert await connection.recv_bytes() == b"!!"

    curio.run(main)


def test_a_recv_that_times_out_in_a_long_size_loses_nothing():
    async def main():
        left, right = socketpair()
        async with left, over(right) as connection:
            await left.sendall(struct.pack("!i", -1))
            assert await curio.ignore_after(0, connection.recv_bytes) is None
            assert await curio.ignore_after(0.01, connection.recv_bytes) is None
            await left.sendall(struct.pack("!Q", 3) + b"ab")
            assert await curio.ignore_after(0.01, connection.recv_bytes) is None
            await left.sendall(b"c")
            assert await connection.recv_bytes() == b"abc"

    curio.run(main)


def test_the_rest_of_a_cancelled_send_goes_before_the_next_message():
    async def main():
        async with pair() as (one, other):
            sender = await curio.spawn(one.send_bytes, LARGE)
            await until(sender, "WRITE_WAIT")
            await sender.cancel()
            # Cancelled again, while it sends the rest.
            sender = await curio.spawn(one.send_bytes, b"never")
            await until(sender, "WRITE_WAIT")
            await sender.cancel()
            sender = await curio.spawn(one.send_bytes, b"next")
            assert await other.recv_bytes() == LARGE
            assert await other.recv_bytes() == b"next"
            await sender.join()

    curio.run(main)


def test_close_sends_the_rest_of_a_cancelled_send():
    async def main():
        async with pair() as (one, other):
            sender = await curio.spawn(one.send_bytes, LARGE)
            await until(sender, "WRITE_WAIT")
            await sender.cancel()
            closing = await curio.spawn(one.close)
            assert await other.recv_bytes() == LARGE
            with pytest.raises(EOFError):
                await other.recv_bytes()
            await closing.join()

    curio.run(main)


def test_messages_survive_whatever_is_cancelled():
    """A thousand messages, while both sides are timed out at random."""
    draw = random.Random(7)
    messages = [bytes([n % 251]) * draw.choice([0, 1, 100, 20_000, 70_000]) for n in range(1000)]

    async def send_all(connection):
        for message in messages:
            while True:
                limit = draw.choice([0.0001, 0.001, 1000])
                try:
                    await curio.timeout_after(limit, connection.send_bytes, message)
                except curio.TaskTimeout as error:
                    if not error.bytes_written:
                        continue
                break
        await connection.close()

    async def main():
        async with pair() as (one, other):
            task = await curio.spawn(send_all, one)
            received = []
            while len(received) < len(messages):
                limit = draw.choice([0.0001, 0.001, 1000])
                async with curio.ignore_after(limit):
                    received.append(await other.recv_bytes())
            await task.join()
            assert [len(m) for m in received] == [len(m) for m in messages]
            assert received == messages

    curio.run(main)


def test_a_second_receiver_is_told_and_takes_nothing():
    async def main():
        async with pair() as (one, other):
            first = await curio.spawn(other.recv)
            await until(first, "READ_WAIT")
            with pytest.raises(curio.ReadResourceBusy):
                await other.recv()
            await one.send("for the first")
            assert await first.join() == "for the first"

    curio.run(main)


# --- keys ---------------------------------------------------------------------------------


def test_both_prove_that_they_know_the_key():
    async def main():
        async with pair() as (one, other):
            task = await curio.spawn(one.authenticate_server, KEY)
            await other.authenticate_client(KEY)
            await task.join()
            await one.send("Hello")
            assert await other.recv() == "Hello"

    curio.run(main)


def test_a_wrong_key_is_refused_on_both_sides(log):
    async def main():
        async with pair() as (one, other):
            task = await curio.spawn(one.authenticate_server, KEY)
            with pytest.raises(AuthenticationError, match="refused the key") as refused:
                await other.authenticate_client(b"wrong key")
            with pytest.raises(curio.TaskError) as unknown:
                await task.join()
            assert isinstance(unknown.value.__cause__, AuthenticationError)
            for text in str(refused.value), str(unknown.value.__cause__), repr(one), repr(other):
                assert "peekaboo" not in text and "wrong key" not in text

    curio.run(main)


@pytest.mark.parametrize("key, error", [("text", TypeError), (b"", ValueError), (5, TypeError)])
def test_keys_that_are_none(key, error, tmp_path):
    async def main():
        address = str(tmp_path / "s")
        for attempt in (
            lambda: Client(address, plain.AF_UNIX, authkey=key),
            lambda: Channel(address, plain.AF_UNIX).connect(authkey=key),
            lambda: Channel(address, plain.AF_UNIX).accept(authkey=key),
        ):
            with pytest.raises(error, match="authkey") as raised:
                await attempt()
            assert "text" not in str(raised.value)
        with pytest.raises(error):
            Listener(address, plain.AF_UNIX, authkey=key)
        assert not os.path.exists(address)

    curio.run(main)


def test_the_key_is_not_to_be_seen():
    async def main():
        async with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
            assert KEY.decode() not in repr(listener)
        assert repr(listener) == "<curio.Listener closed>"
        assert KEY not in pickle.dumps(Channel(("127.0.0.1", 0)))

    curio.run(main)


@pytest.mark.parametrize("sent", [b"", b"\0\0\0\5hello", b"GET / HTTP/1.0\r\n\r\n", b"\0\1\0\0"])
def test_an_unfriendly_client_gets_an_error_and_the_next_one_is_served(sent):
    async def main():
        async with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
            with plain.create_connection(listener.address) as client:
                client.sendall(sent)
                client.shutdown(plain.SHUT_WR)
                with pytest.raises(AuthenticationError):
                    await listener.accept()
            task = await curio.spawn(listener.accept)
            async with await Client(listener.address, authkey=KEY) as connection:
                async with await task.join() as other:
                    await other.send("Hello")
                assert await connection.recv() == "Hello"

    curio.run(main)


def test_a_silent_client_has_a_second(monkeypatch):
    monkeypatch.setattr(channel_module, "AUTHENTICATION_LIMIT", 0.02)

    async def main():
        async with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
            with plain.create_connection(listener.address):
                with pytest.raises(AuthenticationError, match=r"no answer .* within 0\.02 s"):
                    await listener.accept()
        async with Channel(("127.0.0.1", 0)) as channel:
            channel.bind()
            with plain.create_connection(channel.address):
                task = await curio.spawn(channel.accept(authkey=KEY))
                async with await channel.connect(authkey=KEY) as connection:
                    async with await task.join() as other:
                        await connection.send(1)
                        assert await other.recv() == 1

    curio.run(main)


def test_a_silent_server_has_ten_seconds(monkeypatch):
    monkeypatch.setattr(channel_module, "CONNECT_LIMIT", 0.02)

    async def main():
        with plain.create_server(("127.0.0.1", 0)) as listening:
            address = listening.getsockname()
            with pytest.raises(TimeoutError, match=r"no answer from .* within 0\.02 s"):
                await Channel(address).connect(authkey=KEY)
            with pytest.raises(TimeoutError, match=r"no answer from .* within 0\.02 s"):
                await Client(address, authkey=KEY)

    curio.run(main)


# --- channels -----------------------------------------------------------------------------


@pytest.fixture(params=["inet", "inet6", "unix"])
def place(request, tmp_path):
    if request.param == "unix":
        return str(tmp_path / "channel"), plain.AF_UNIX
    if request.param == "inet":
        return ("127.0.0.1", 0), plain.AF_INET
    try:
        with plain.socket(plain.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on this machine")
    return ("::1", 0), plain.AF_INET6


@pytest.mark.parametrize("key", [None, KEY])
def test_a_channel(place, key):
    async def main():
        async with Channel(*place) as channel:
            assert "bound" not in repr(channel)
            channel.bind()
            channel.bind()
            assert "bound" in repr(channel)
            accepting = await curio.spawn(channel.accept(authkey=key))
            async with await channel.connect(authkey=key) as one, await accepting.join() as other:
                await one.send("ping")
                assert await other.recv() == "ping"
                await other.send("pong")
                assert await one.recv() == "pong"

    curio.run(main)


def test_connect_waits_for_somebody_who_accepts(place):
    if place[1] != plain.AF_UNIX:
        with plain.socket(place[1]) as sock:
            sock.setsockopt(plain.SOL_SOCKET, plain.SO_REUSEADDR, 1)
            sock.bind(place[0])
            place = sock.getsockname(), place[1]

    async def main():
        connecting = await curio.spawn(Channel(*place).connect)
        await until(connecting, "TIME_SLEEP")
        async with Channel(*place) as channel:
            async with await channel.accept() as one, await connecting.join() as other:
                await one.send(1)
                assert await other.recv() == 1

    curio.run(main)


def test_connect_can_be_given_up():
    async def main():
        with plain.socket() as sock:
            sock.bind(("127.0.0.1", 0))  # and does not listen
            channel = Channel(sock.getsockname())
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.05, channel.connect)

    curio.run(main)


def test_connect_says_when_the_key_is_wrong():
    async def main():
        async with Channel(("127.0.0.1", 0)) as channel:
            channel.bind()
            accepting = await curio.spawn(channel.accept(authkey=KEY))
            with pytest.raises(AuthenticationError, match="refused the key"):
                await channel.connect(authkey=b"wrong")
            async with await channel.connect(authkey=KEY):
                await (await accepting.join()).close()

    curio.run(main)


def test_an_address_that_is_none():
    async def main():
        for wrong in [("127.0.0.1", "http"), "text", ("127.0.0.1", 70000)]:
            with pytest.raises((OSError, TypeError, OverflowError)):
                await Channel(wrong).connect()
            with pytest.raises((OSError, TypeError, OverflowError)):
                await Channel(wrong).accept()

    curio.run(main)


def test_clients_are_chosen_by_their_addresses():
    asked = []

    def check(address):
        asked.append(address)
        return len(asked) > 1

    async def main():
        async with Channel(("127.0.0.1", 0), check_address=check) as channel:
            channel.bind()
            first = plain.create_connection(channel.address)
            accepting = await curio.spawn(channel.accept)
            second = await channel.connect()
            async with second, await accepting.join() as other:
                await other.send(1)
                assert await second.recv() == 1
            assert asked[0] == first.getsockname()
            assert first.recv(1) == b""
            first.close()

    curio.run(main)


def test_a_check_that_fails_closes_the_connection():
    def check(address):
        raise Oops

    async def main():
        async with Channel(("127.0.0.1", 0), check_address=check) as channel:
            channel.bind()
            with plain.create_connection(channel.address) as client:
                with pytest.raises(Oops):
                    await channel.accept()
                assert client.recv(1) == b""

    curio.run(main)


def test_a_channel_can_be_sent_to_others():
    async def main():
        async with Channel(("127.0.0.1", 0)) as channel:
            channel.bind()
            copy = pickle.loads(pickle.dumps(channel))
            assert (copy.address, copy.family) == (channel.address, channel.family)
            accepting = await curio.spawn(channel.accept)
            async with await copy.connect(), await accepting.join():
                pass

    curio.run(main)


def test_a_cancelled_accept_closes_the_connection_it_makes():
    async def main():
        async with Channel(("127.0.0.1", 0)) as channel:
            channel.bind()
            with plain.create_connection(channel.address) as client:
                accepting = await curio.spawn(channel.accept(authkey=KEY))
                client.settimeout(20)
                header = await curio.run_in_thread(client.recv, 4)
                await until(accepting, "READ_WAIT")
                await accepting.cancel()
                assert len(header) == 4
                while client.recv(100):
                    pass

    curio.run(main)


def test_two_streams_in_place_of_an_address():
    async def main():
        left, right = socketpair()
        streams = left.make_streams()
        async with left, Channel(*streams) as one, over(right) as other:
            assert type(one) is Connection
            await one.send(1)
            assert await other.recv() == 1

    curio.run(main)


def test_what_is_no_stream():
    with pytest.raises(TypeError, match="two streams, not 'text'"):
        Connection("text", None)
    with pytest.raises(TypeError, match=r"connection of multiprocessing's is wanted, not 5"):
        Connection.from_Connection(5)


def test_plain_with_is_for_async_threads():
    async def main():
        def thread():
            with Channel(("127.0.0.1", 0)) as channel:
                channel.bind()
                return channel.address[1]

        channel = Channel(("127.0.0.1", 0))
        with pytest.raises(curio.AsyncOnlyError):
            with channel:
                pass
        task = await curio.spawn_thread(thread)
        assert await task.join() > 0

    curio.run(main)


# --- multiprocessing's own ends -----------------------------------------------------------


@pytest.mark.parametrize("duplex", [True, False])
def test_pipes_of_multiprocessing(duplex):
    async def main():
        left, right = multiprocessing.Pipe(duplex)
        async with (
            Connection.from_Connection(left) as one,
            Connection.from_Connection(right) as other,
        ):
            assert left.closed and right.closed
            task = await curio.spawn(other.send, LARGE)
            assert await one.recv() == LARGE
            await task.join()
            if duplex:
                await one.send(2)
                assert await other.recv() == 2
            else:
                with pytest.raises(OSError, match="for receiving alone"):
                    await one.send(2)
                with pytest.raises(OSError, match="for sending alone"):
                    await other.recv()

    curio.run(main)


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("key", [None, KEY])
def test_a_client_of_multiprocessing(key):
    def client(address):
        with theirs.Client(address, authkey=key) as connection:
            connection.send(connection.recv() + 1)

    async def main():
        async with Listener(("127.0.0.1", 0), authkey=key) as listener:
            thread = in_thread(client, listener.address)
            async with await listener.accept() as connection:
                await connection.send(41)
                assert await connection.recv() == 42
            thread.join()

    curio.run(main)


@pytest.mark.parametrize("key", [None, KEY])
def test_a_listener_of_multiprocessing(key):
    def serve(listener):
        with listener.accept() as connection:
            connection.send(connection.recv() + 1)

    async def main():
        with theirs.Listener(("127.0.0.1", 0), authkey=key) as listener:
            thread = in_thread(serve, listener)
            async with await Client(listener.address, authkey=key) as connection:
                await connection.send(41)
                assert await connection.recv() == 42
            thread.join()

    curio.run(main)


# --- the whole ----------------------------------------------------------------------------


def test_nothing_is_left():
    def count():
        return len(os.listdir("/proc/self/fd"))

    async def round_trip():
        async with Channel(("127.0.0.1", 0)) as channel:
            channel.bind()
            accepting = await curio.spawn(channel.accept(authkey=KEY))
            async with await channel.connect(authkey=KEY) as one, await accepting.join() as other:
                await one.send(1)
                assert await other.recv() == 1

    async def main():
        await round_trip()
        before = count()
        for _ in range(50):
            await round_trip()
        assert count() == before

    curio.run(main)


def test_nothing_is_logged(caplog):
    caplog.set_level(logging.DEBUG)

    async def main():
        async with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
            accepting = await curio.spawn(listener.accept)
            with pytest.raises(AuthenticationError):
                await Client(listener.address, authkey=b"wrong")
            with pytest.raises(curio.TaskError):
                await accepting.join()

    curio.run(main)
    assert "peekaboo" not in caplog.text and "wrong" not in caplog.text
