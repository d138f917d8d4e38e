"""Wrong calls: each gives an error that names what was asked and what was found.

Goal: no wrong argument, at no place, may crash, hang, or be taken for something else.
Method: each case is run in a kernel that must then go on to serve a sleep, a join, a timeout
and a socket as if nothing had happened.
"""

import errno
import functools
import math
import re
import selectors
import socket
import struct

import curio
import pytest
from curio.io import Socket


class Oops(Exception):
    pass


async def forever():
    await curio.sleep(1000)


async def returns(value):
    await curio.sleep(0)
    return value


def no_coroutine():
    return 5


async def still_serves():
    """The kernel does what it always does."""
    await curio.sleep(0.001)
    task = await curio.spawn(returns(42))
    assert await task.join() == 42
    with pytest.raises(curio.TaskTimeout):
        await curio.timeout_after(0.001, forever())
    task = await curio.spawn(forever())
    assert await task.cancel()
    left, right = map(Socket, socket.socketpair())
    async with left, right:
        reader = await curio.spawn(left.recv(10))
        await right.sendall(b"data")
        assert await reader.join() == b"data"


@pytest.fixture
def runs(kernel):
    """Runs a coroutine function; afterwards the kernel must be as good as before."""

    def run(function, *args):
        async def main():
            result = await function(*args)
            await still_serves()
            me = await curio.current_task()
            assert (me.timeout, me.cancel_pending, me.allow_cancel) == (None, False, True)
            return result

        return kernel.run(main, log_errors=False)

    return run


# --- no coroutine ---------------------------------------------------------------------------

NO_COROUTINES = [
    (5, "5 of type 'int'"),
    ("text", "'text' of type 'str'"),
    (3.5, "3.5 of type 'float'"),
    ([], "[] of type 'list'"),
    (no_coroutine, "no_coroutine returned 5 of type 'int'"),
    (functools.partial(no_coroutine), "5 of type 'int'"),
    (lambda: None, "returned None of type 'NoneType'"),
    (lambda: (n for n in "abc"), "of type 'generator'"),
    (object, "of type 'object'"),
]

wrong = pytest.mark.parametrize("thing, said", NO_COROUTINES, ids=[s for _, s in NO_COROUTINES])


@wrong
def test_spawn_of_no_coroutine(runs, thing, said):
    """T5: TypeError that shows the thing."""

    async def main():
        with pytest.raises(TypeError) as caught:
            await curio.spawn(thing)
        assert "spawn() needs a coroutine" in str(caught.value)
        assert said in str(caught.value)
        assert len(curio.get_all_tasks()) == 1

    runs(main)


@wrong
@pytest.mark.parametrize("limit", [curio.timeout_after, curio.ignore_after])
def test_limit_of_no_coroutine(runs, limit, thing, said):
    """T12: TypeError, at the call."""

    async def main():
        with pytest.raises(TypeError) as caught:
            await limit(1, thing)
        assert f"{limit.__name__}() needs a coroutine" in str(caught.value)
        assert said in str(caught.value)

    runs(main)


@wrong
def test_shield_of_no_coroutine(runs, thing, said):
    """L45."""

    async def main():
        with pytest.raises(TypeError) as caught:
            await curio.disable_cancellation(thing)
        assert said in str(caught.value)

    runs(main)


@wrong
@pytest.mark.parametrize("how", ["curio.run", "run", "add_task"])
def test_run_of_no_coroutine(runs, kernel, how, thing, said):
    """L3, S5: TypeError; the kernel is as good as before."""
    call = curio.run if how == "curio.run" else getattr(kernel, how)
    with pytest.raises(TypeError) as caught:
        call(thing)
    assert "needs a coroutine" in str(caught.value) and said in str(caught.value)
    runs(returns, 1)


def test_curio_run_wants_something():
    """L1."""
    with pytest.raises(TypeError):
        curio.run()
    with pytest.raises(TypeError, match="None"):
        curio.run(None)


@pytest.mark.parametrize("how", ["run", "spawn", "timeout_after", "disable_cancellation"])
def test_object_and_arguments(runs, kernel, how):
    """L3, L4: arguments go with a function; the coroutine is left to its owner."""
    coro = returns(1)

    async def main():
        with pytest.raises(TypeError, match="arguments go with a coroutine function"):
            if how == "spawn":
                await curio.spawn(coro, 1)
            elif how == "timeout_after":
                await curio.timeout_after(1, coro, 1)
            else:
                await curio.disable_cancellation(coro, 1)
        return await coro

    if how == "run":
        with pytest.raises(TypeError, match="arguments go with a coroutine function"):
            kernel.run(coro, 1)
        assert runs(lambda: coro) == 1
    else:
        assert runs(main) == 1


# --- a coroutine that is used already -----------------------------------------------------


def test_run_of_a_finished_coroutine(runs, kernel):
    """L3: RuntimeError."""
    coro = returns(1)
    assert kernel.run(coro) == 1
    for run in (kernel.run, curio.run):
        with pytest.raises(RuntimeError, match="already awaited|has ended"):
            run(coro)
    runs(returns, 1)


def test_spawn_of_a_finished_coroutine(runs):
    """T5: an error of spawn's, or of the task's."""

    async def main():
        coro = returns(1)
        assert await coro == 1
        with pytest.raises((RuntimeError, curio.TaskError)) as caught:
            await (await curio.spawn(coro)).join()
        error = caught.value.__cause__ or caught.value
        assert type(error) is RuntimeError
        assert re.search("already awaited|has ended", str(error))

    runs(main)


def test_spawn_of_a_coroutine_that_runs(runs):
    """T5: another task's, or one's own; the first is not disturbed."""

    async def main():
        coro = returns(42)
        first = await curio.spawn(coro)
        with pytest.raises((RuntimeError, curio.TaskError)):
            await (await curio.spawn(coro)).join()
        with pytest.raises((RuntimeError, curio.TaskError)):
            me = await curio.current_task()
            await (await curio.spawn(me.coro)).join()
        return await first.join()

    assert runs(main) == 42


def test_same_coroutine_queued_twice(kernel):
    """S5: the second task fails, and says why; the first gets its result."""
    coro = returns(42)
    first = kernel.add_task(coro)
    try:
        second = kernel.add_task(coro)
    except RuntimeError:
        second = None
    kernel.run(log_errors=False)
    assert first.result == 42
    if second is not None:
        assert type(second.exception) is RuntimeError
        assert repr(coro) in str(second.exception)


def test_coroutine_that_is_limited_is_not_a_task_as_well(runs):
    """T12: it runs in one place only."""

    async def main():
        coro = returns(42)
        limited = curio.timeout_after(10, coro)
        task = await curio.spawn(limited)
        with pytest.raises((RuntimeError, curio.TaskError)):
            await (await curio.spawn(coro)).join()
        return await task.join()

    assert runs(main) == 42


def test_closed_coroutine(runs):
    """T5."""

    async def main():
        coro = returns(1)
        coro.close()
        with pytest.raises((RuntimeError, curio.TaskError)):
            await (await curio.spawn(coro)).join()
        op = curio.sleep(0)
        op.close()
        with pytest.raises((RuntimeError, curio.TaskError)):
            await (await curio.spawn(op)).join()

    runs(main)


# --- times ----------------------------------------------------------------------------------


class Strange:
    def __float__(self):
        raise Oops("no number")


NO_TIMES = [
    (math.nan, ValueError, "nan"),
    ("10", TypeError, "'10'"),
    (b"10", TypeError, "b'10'"),
    ([1], TypeError, "[1]"),
    (object(), TypeError, "object"),
]


@pytest.mark.parametrize("seconds, error, said", NO_TIMES, ids=[str(t[2]) for t in NO_TIMES])
def test_times_that_are_none(runs, seconds, error, said):
    """T11, T12: what was given is named; coroutines are left to their owner."""

    async def main():
        for call in (curio.sleep, curio.timeout_after, curio.ignore_after):
            with pytest.raises(error) as caught:
                await call(seconds)
            assert said in str(caught.value) and f"{call.__name__}()" in str(caught.value)
        coro = returns(1)
        with pytest.raises(error):
            await curio.timeout_after(seconds, coro)
        assert await coro == 1

    runs(main)


def test_none_is_no_time_to_sleep(runs):
    """T11: for a limit it is no limit, for a sleep it is an error."""

    async def main():
        with pytest.raises(TypeError, match="None"):
            await curio.sleep(None)
        async with curio.timeout_after(None):
            await curio.sleep(0)

    runs(main)


def test_number_whose_conversion_fails(runs):
    """T11: some exception, and the cause is not hidden from the user."""

    async def main():
        with pytest.raises((Oops, TypeError)):
            await curio.sleep(Strange())

    runs(main)


@pytest.mark.parametrize("seconds", [math.inf, 1e300, 1e18, 10**30, 2**63, 2**64 / 1e9])
def test_huge_times_are_for_ever(runs, seconds):
    """T11, T12: no overflow anywhere."""

    async def main():
        task = await curio.spawn(curio.sleep(seconds))
        await curio.sleep(0.002)
        assert task.state == "TIME_SLEEP"
        assert task.sleep > await curio.clock()
        await task.cancel()
        assert await curio.timeout_after(seconds, returns(1)) == 1
        async with curio.timeout_after(seconds), curio.ignore_after(seconds):
            await curio.sleep(0)

    runs(main)


def test_integer_beyond_all_floats(runs):
    """T11: for ever, or an OverflowError; not a complaint that it is no number."""

    async def main():
        try:
            task = await curio.spawn(curio.sleep(10**400))
        except OverflowError:
            return
        assert task.state == "TIME_SLEEP"
        await task.cancel()

    runs(main)


@pytest.mark.parametrize("seconds", [-1, -1e300, -math.inf, -(10**30), 5e-324, 1e-12])
def test_tiny_and_negative_times(runs, seconds):
    """T11: at once."""

    async def main():
        await curio.sleep(seconds)
        async with curio.ignore_after(seconds):
            await curio.sleep(1000)

    runs(main)


# --- tasks ------------------------------------------------------------------------------------


def test_joining_oneself(runs):
    """T7: would wait for ever; an error instead."""

    async def main():
        me = await curio.current_task()
        for wait in (me.join, me.wait):
            with pytest.raises(curio.CurioError, match="own end"):
                await wait()

    runs(main)


def test_cancelling_oneself(runs):
    """T8: CurioError with blocking; a request without, for the next wait."""

    async def suicidal():
        me = await curio.current_task()
        assert await me.cancel(blocking=False) is True
        await curio.sleep(1000)

    async def main():
        me = await curio.current_task()
        with pytest.raises(curio.CurioError, match="cancel itself"):
            await me.cancel()
        assert not me.cancelled and not me.cancel_pending
        task = await curio.spawn(suicidal())
        await task.wait()
        assert type(task.exception) is curio.TaskCancelled

    runs(main)


@pytest.mark.parametrize("exc", [5, "text", int, object(), [Oops]])
def test_exc_that_is_no_exception(runs, exc):
    """S11: TypeError with the thing in it; the task is not touched."""

    async def main():
        task = await curio.spawn(forever())
        with pytest.raises(TypeError) as caught:
            await task.cancel(exc=exc)
        assert repr(exc) in str(caught.value)
        with pytest.raises(TypeError):
            await task.cancel_children(exc=exc)
        assert not task.cancelled
        await task.cancel()

    runs(main)


def test_exc_that_cannot_be_made(runs):
    """S11: a class that wants more than its name: the task ends with that error."""

    class Demanding(Exception):
        def __init__(self, first, second):
            super().__init__(first, second)

    async def main():
        task = await curio.spawn(forever())
        assert await task.cancel(exc=Demanding) is True
        assert type(task.exception) is TypeError

    runs(main)


def test_task_of_another_kernel(runs):
    """T7: an error that says so, or the plain result if it has ended; never a hang."""
    with curio.Kernel() as other:
        ended = other.add_task(returns(1))
        other.run()
        alive = other.add_task(forever, daemon=True)

        async def main():
            assert await ended.join() == 1
            assert await ended.cancel() is False
            with pytest.raises((curio.CurioError, RuntimeError)) as caught:
                await curio.timeout_after(5, alive.join())
            assert "dropped" not in str(caught.value)

        runs(main)
        assert not alive.terminated


def test_attributes_cannot_be_set(runs):
    """T15."""

    async def main():
        me = await curio.current_task()
        for name in ("id", "state", "cycles", "result", "children", "unheard_of"):
            with pytest.raises(AttributeError):
                setattr(me, name, 1)

    runs(main)


# --- kernels ------------------------------------------------------------------------------------


def test_unknown_keywords(kernel):
    """T3: TypeError with the keyword; the coroutine is left to its owner."""
    coro = returns(1)
    with pytest.raises(TypeError, match="timeout"):
        kernel.run(coro, timeout=1)
    with pytest.raises(TypeError, match="demon"):
        kernel.add_task(coro, demon=True)
    with pytest.raises(TypeError, match="monitor"):
        curio.Kernel(monitor=True)
    with pytest.raises(TypeError, match="retries"):
        curio.run(coro, retries=1)
    assert kernel.run(coro) == 1


@pytest.mark.parametrize("selector", [5, "epoll", selectors.SelectSelector])
def test_selector_that_is_none(selector):
    """S2: an error when the kernel is made."""
    with pytest.raises((TypeError, AttributeError)):
        curio.Kernel(selector=selector)
    with pytest.raises((TypeError, AttributeError)):
        curio.run(forever, selector=selector)


def test_selector_that_breaks(kernel):
    """S2: its exception comes out of run."""

    class Broken(selectors.SelectSelector):
        def select(self, timeout=None):
            raise Oops("broken selector")

    with Broken() as selector:
        with pytest.raises(Oops, match="broken selector"):
            curio.run(forever, selector=selector)


def test_crash_handler_that_crashes(kernel):
    """S9: it is reported, and the kernel goes on."""
    import sys

    reported = []

    async def crashing():
        raise Oops

    async def main():
        await (await curio.spawn(crashing())).wait()
        await still_serves()
        return "goes on"

    kernel.set_crash_handler(lambda task: 1 / 0)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: reported.append(args.exc_type)
    try:
        assert kernel.run(main, log_errors=False) == "goes on"
    finally:
        sys.unraisablehook = hook
    assert reported == [ZeroDivisionError]


# --- sockets ----------------------------------------------------------------------


def test_port_in_use(runs):
    """T30, T45: OSError with the errno, from bind and from run_server."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def main():
            sock = Socket(socket.socket())
            async with sock:
                with pytest.raises(OSError) as caught:
                    sock.bind(("127.0.0.1", port))
                assert caught.value.errno == errno.EADDRINUSE
            with pytest.raises(OSError) as caught:
                await curio.run_server("127.0.0.1", port, returns, reuse_address=False)
            assert caught.value.errno == errno.EADDRINUSE

        runs(main)


@pytest.mark.parametrize(
    "address, error",
    [
        ("text", TypeError),
        (None, TypeError),
        (("127.0.0.1",), TypeError),
        (("127.0.0.1", "http"), TypeError),
        (("127.0.0.1", 70000), OverflowError),
        (("127.0.0.1", -1), OverflowError),
        (("256.256.256.256", 80), OSError),
    ],
)
def test_bad_address(runs, address, error):
    """T30, S34: from connect, connect_ex, bind; and the socket is still good."""

    async def main():
        async with Socket(socket.socket()) as sock:
            for call in (sock.connect, sock.connect_ex):
                with pytest.raises(error):
                    await call(address)
            with pytest.raises(error):
                sock.bind(address)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                listener.listen()
                await sock.connect(listener.getsockname())
        with pytest.raises((error, TypeError)):
            await curio.run_server(*(address if isinstance(address, tuple) else (5, 5)), returns)

    runs(main)


def test_connection_refused(runs):
    """S34: OSError with the errno from connect, the number from connect_ex."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = nobody.getsockname()

        async def main():
            async with Socket(socket.socket()) as sock:
                with pytest.raises(ConnectionRefusedError) as caught:
                    await sock.connect(address)
                assert caught.value.errno == errno.ECONNREFUSED
            async with Socket(socket.socket()) as sock:
                assert await sock.connect_ex(address) == errno.ECONNREFUSED

        runs(main)


def test_unix_socket_whose_queue_is_full(runs, tmp_path):
    """S34: an error, or a wait; once it was taken for a connection."""
    path = str(tmp_path / "socket")

    async def main():
        others = []
        for _ in range(3):
            sock = Socket(socket.socket(socket.AF_UNIX))
            others.append(sock)
            try:
                async with curio.timeout_after(0.02):
                    await sock.connect(path)
            except (OSError, curio.TaskTimeout):
                continue
            assert sock.getpeername() == path
        for sock in others:
            await sock.close()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        runs(main)


def test_peer_resets_in_the_middle_of_sendall(runs):
    """T35: an OSError with `bytes_sent`."""

    async def main():
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        sock = Socket(socket.socket())
        await sock.connect(listener.getsockname())
        peer, _ = listener.accept()
        sender = await curio.spawn(sock.sendall(b"x" * 50_000_000))
        assert sender.state == "WRITE_WAIT"
        peer.recv(1000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        with pytest.raises(curio.TaskError) as caught:
            await sender.join()
        error = caught.value.__cause__
        assert isinstance(error, (ConnectionResetError, BrokenPipeError))
        assert 1000 <= error.bytes_sent < 50_000_000
        await sock.close()
        listener.close()

    runs(main)


@pytest.mark.parametrize(
    "name, args",
    [
        ("recv", (10,)),
        ("send", (b"x",)),
        ("sendall", (b"x",)),
        ("accept", ()),
        ("connect", (("127.0.0.1", 1),)),
    ],
)
def test_closed_socket(runs, name, args):
    """S34: OSError EBADF, as from the standard library."""

    async def main():
        sock = Socket(socket.socket())
        await sock.close()
        await sock.close()
        with pytest.raises(OSError) as caught:
            await getattr(sock, name)(*args)
        assert caught.value.errno == errno.EBADF
        assert await sock.connect_ex(("127.0.0.1", 1)) == errno.EBADF
        assert sock.fileno() == -1

    runs(main)


def test_closed_socket_is_not_wrapped(runs):
    """S33: OSError, like all that is done with it."""
    closed = socket.socket()
    closed.close()
    with pytest.raises((OSError, ValueError, OverflowError)):
        Socket(closed)


@pytest.mark.parametrize("thing", [5, None, "socket", object()])
def test_wrapping_what_is_no_socket(thing):
    """S33."""
    with pytest.raises((TypeError, AttributeError)):
        Socket(thing)


@pytest.mark.parametrize(
    "name, args, error, said",
    [
        ("recv", (-1,), ValueError, "-1"),
        ("recv", ("10",), TypeError, "str"),
        ("recv", (1.5,), TypeError, "float"),
        ("recv", (None,), TypeError, "None"),
        ("recv", (2**70,), OverflowError, "int"),
        ("recv", (10, "flags"), TypeError, "str"),
        ("recv", (10, 2**70), OverflowError, "int"),
        ("send", ("text",), TypeError, "bytes-like"),
        ("sendall", ("text",), TypeError, "bytes-like"),
        ("sendall", (None,), TypeError, "bytes-like"),
        ("sendall", (memoryview(b"abcd")[::2],), BufferError, "contiguous"),
    ],
)
def test_bad_arguments_of_sockets(runs, name, args, error, said):
    """T34, T35: what was wrong is said."""

    async def main():
        left, right = map(Socket, socket.socketpair())
        async with left, right:
            with pytest.raises(error) as caught:
                await getattr(left, name)(*args)
            assert said in str(caught.value)
            await right.send(b"good")
            assert await left.recv(10) == b"good"

    runs(main)


def test_buffer_that_is_too_large(runs):
    """T34: MemoryError, not the end of the process."""

    async def main():
        left, right = map(Socket, socket.socketpair())
        async with left, right:
            with pytest.raises(MemoryError):
                await left.recv(2**62)

    runs(main)


def test_operation_that_the_socket_cannot_do(runs):
    """T33: the system's errors come as they are."""

    async def main():
        left, right = map(Socket, socket.socketpair())
        async with left, right:
            with pytest.raises(OSError):
                await left.accept()
        async with Socket(socket.socket()) as sock:
            with pytest.raises(OSError) as caught:
                await sock.recv(10)
            assert caught.value.errno == errno.ENOTCONN
            with pytest.raises(OSError):
                await sock.sendall(b"x")

    runs(main)


def test_descriptor_closed_behind_the_sockets_back(runs):
    """1.8: the system's error, not another file's data."""

    async def main():
        left, right = socket.socketpair()
        sock = Socket(left)
        left.close()
        with pytest.raises(OSError):
            await sock.recv(10)
        await sock.close()
        right.close()

    runs(main)


@pytest.mark.parametrize("argument", [5, "ssl", object()])
def test_run_server_with_what_it_cannot_use(runs, argument):
    """T46: an error at once, nothing is left open."""

    async def main():
        with pytest.raises((NotImplementedError, ValueError)):
            await curio.run_server("127.0.0.1", 0, returns, ssl=argument)

    runs(main)
