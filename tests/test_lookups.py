"""Look-ups of names: the standard library's results, in threads, given up at once.

Goal: the seven functions of `curio.socket` that ask for names and addresses. Method: results are
compared with the standard library's for what every machine knows (localhost, numbers); for the rest
its functions are replaced by ones that wait until the test lets them go.
"""

import inspect
import socket as plain
import sys
import threading
import time

import curio
import pytest
from curio import socket, workers

NAMES = [
    "getaddrinfo",
    "getfqdn",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "gethostname",
    "getnameinfo",
]


async def until(condition):
    """Waits while other tasks run; not for ever, lest one failure end all tests."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        await curio.sleep(0.001)


@pytest.fixture
def same(kernel):
    """Calls a function of both modules: the results, or the exceptions, are the same."""

    def outcome(call):
        try:
            return call()
        except Exception as error:
            return type(error), error.args

    def same(name, *args, **kwargs):
        async def ours():
            return await getattr(socket, name)(*args, **kwargs)

        expected = outcome(lambda: getattr(plain, name)(*args, **kwargs))
        assert outcome(lambda: kernel.run(ours)) == expected
        return expected

    return same


@pytest.fixture
def silent(monkeypatch):
    """A name server that does not answer: `silent(name)` puts it below a function."""
    opened = threading.Event()

    class Silent:
        def __init__(self, name):
            self.calls, self.ended, self.threads = [], [], []
            monkeypatch.setattr(plain, name, self)

        def __call__(self, *args):
            self.calls.append(args)
            self.threads.append(threading.current_thread())
            assert opened.wait(50)
            self.ended.append(args)
            return "too late"

        answer = staticmethod(opened.set)

    yield Silent
    opened.set()


# --- results -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    """S32: those of the standard library, where it tells; all are async functions."""
    function = getattr(socket, name)
    assert inspect.iscoroutinefunction(function)
    assert name in socket.__all__
    for argument in ("name", "host", "hostname", "ip_address", "sockaddr"):
        if argument in inspect.signature(function).parameters:
            break
    else:
        assert not inspect.signature(function).parameters
    try:
        expected = inspect.signature(getattr(plain, name))
    except ValueError:
        return
    ours = [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
    assert ours == [(p.name, p.default) for p in expected.parameters.values()]


@pytest.mark.parametrize(
    "args",
    [
        ("127.0.0.1", 80),
        ("127.0.0.1", "80"),
        ("127.0.0.1", None),
        ("127.0.0.1", "http"),
        ("127.0.0.1", b"80"),
        (b"127.0.0.1", 80),
        ("::1", 80),
        ("::1%lo", 80),
        ("127.1", 80),
        (None, 80),
        ("", 80),
        ("localhost", 80),
        ("localhost", "http"),
        ("localhost", 80, socket.AF_INET, socket.SOCK_STREAM),
        ("127.0.0.1", 80, socket.AF_INET6),
        ("nobody.invalid", 80),
        ("127.0.0.1", "no such service"),
        ("127.0.0.1", 80, 12345),
        ("a" * 100, 80),
        pytest.param(("\u00e4" * 100, 80), id="long"),
        ("with\0zero", 80),
        (5, 80),
        ("127.0.0.1", []),
        ("127.0.0.1", -1),
        ("127.0.0.1", 1 << 70),
    ],
    ids=repr,
)
def test_getaddrinfo(same, args):
    """S32: results and errors, whichever way they are found."""
    assert same("getaddrinfo", *args)


def test_getaddrinfo_by_names(same):
    """S32: all arguments have the standard library's names."""
    found = same(
        "getaddrinfo",
        host="127.0.0.1",
        port=80,
        family=socket.AF_INET,
        type=socket.SOCK_STREAM,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_CANONNAME,
    )
    assert found == [(socket.AF_INET, socket.SOCK_STREAM, 6, "127.0.0.1", ("127.0.0.1", 80))]
    assert same("getaddrinfo", None, 80, flags=socket.AI_PASSIVE)
    same("getaddrinfo", "localhost", 80, flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize("name", ["gethostbyname", "gethostbyname_ex"])
@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "::1", "", "nobody.invalid", "\u00e4" * 100, None, 5],
    ids=repr,
)
def test_gethostbyname(same, name, host):
    assert same(name, host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "nobody.invalid"])
def test_gethostbyaddr(same, host):
    assert same("gethostbyaddr", host)


@pytest.mark.parametrize("args", [(), ("",), ("0.0.0.0",), ("localhost",), ("nobody.invalid",)])
def test_getfqdn(same, args):
    assert same("getfqdn", *args)


def test_gethostname(same):
    assert same("gethostname")


@pytest.mark.parametrize(
    "flags",
    [
        0,
        socket.NI_NUMERICHOST,
        socket.NI_NUMERICSERV,
        socket.NI_NUMERICHOST | socket.NI_NUMERICSERV,
        socket.NI_NUMERICHOST | socket.NI_NUMERICSERV | socket.NI_DGRAM,
        socket.NI_NAMEREQD,
    ],
)
@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("::1", 80, 0, 0), ("::1", 443)])
def test_getnameinfo(same, address, flags):
    assert same("getnameinfo", address, flags)


def test_getnameinfo_of_nonsense(same):
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    for flags in (0, numeric):
        same("getnameinfo", ("nobody.invalid", 80), flags)
        same("getnameinfo", "127.0.0.1", flags)


def test_gaierror_passes(kernel):
    """S32, T29: the standard library's exception, which is an OSError, with its number."""

    async def main():
        with pytest.raises(socket.gaierror) as caught:
            await socket.getaddrinfo("nobody.invalid", 80)
        # Without a network it is EAI_AGAIN.
        assert caught.value.errno in (socket.EAI_NONAME, socket.EAI_AGAIN)
        assert type(caught.value) is plain.gaierror and isinstance(caught.value, OSError)

    kernel.run(main)


# --- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", b"127.0.0.1", None])
def test_numbers_need_no_thread(kernel, monkeypatch, host):
    """S32: nor do they wait."""
    threads = []
    real = plain.getaddrinfo

    def watched(*args):
        threads.append(threading.current_thread())
        return real(*args)

    async def main():
        task = await curio.current_task()
        cycles = task.cycles
        assert await socket.getaddrinfo(host, 80)
        assert await socket.getaddrinfo(host, "80")
        assert task.cycles == cycles

    monkeypatch.setattr(plain, "getaddrinfo", watched)
    kernel.run(main)
    assert threads == [threading.main_thread()] * 2


def test_an_empty_name_is_no_number(kernel, monkeypatch):
    """S32: the C library looks for it in files, and perhaps on the network."""
    threads = []

    def watched(*args):
        threads.append(threading.current_thread())
        return []

    async def main():
        assert await socket.getaddrinfo("", 80) == []

    monkeypatch.setattr(plain, "getaddrinfo", watched)
    kernel.run(main)
    assert threads and threading.main_thread() not in threads


def test_other_numbers_need_no_thread(kernel, monkeypatch):
    """S32: gethostbyname and getnameinfo likewise; gethostname asks nobody."""

    async def refuses(*args):
        raise AssertionError("a thread is asked")

    async def main():
        assert await socket.gethostbyname("127.0.0.1") == "127.0.0.1"
        assert await socket.gethostbyname("") == "0.0.0.0"
        numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
        assert await socket.getnameinfo(("127.0.0.1", 80), numeric) == ("127.0.0.1", "80")
        assert await socket.gethostname() == plain.gethostname()
        with pytest.raises(AssertionError, match="a thread"):
            await socket.gethostbyname("localhost")

    assert socket.AF_INET  # It is loaded now.
    monkeypatch.setattr(sys.modules["curio.socket"], "_look_up", refuses)
    kernel.run(main)


CALLS = {
    "getaddrinfo": ("a.name", 80),
    "getfqdn": ("a.name",),
    "gethostbyname": ("a.name",),
    "gethostbyname_ex": ("a.name",),
    "gethostbyaddr": ("a.name",),
    "getnameinfo": (("127.0.0.1", 80), 0),
}


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("name", CALLS)
def test_cancelled(kernel, silent, name, how):
    """S32, 1.14: the task goes on at once, the thread runs on, and its result is dropped."""
    server = silent(name)

    async def main():
        function = getattr(socket, name)
        if how == "cancel":
            task = await curio.spawn(function(*CALLS[name]))
            await until(lambda: server.calls)
            assert task.state == "FUTURE_WAIT"
            await task.cancel()
            assert task.cancelled
        else:
            while not server.calls:  # The time may be over before the thread has begun.
                with pytest.raises(curio.TaskTimeout):
                    await curio.timeout_after(0.005, function(*CALLS[name]))
        assert not server.ended
        count = len(server.calls)
        server.answer()
        await until(lambda: len(server.ended) == count)
        assert await function(*CALLS[name]) == "too late"
        assert len(server.calls) == count + 1

    kernel.run(main)
    assert all(thread is not threading.main_thread() for thread in server.threads)


def test_tasks_run_meanwhile(kernel, silent):
    server = silent("getaddrinfo")

    async def main():
        tasks = [await curio.spawn(socket.getaddrinfo("a.name", n)) for n in range(3)]
        await until(lambda: len(server.calls) == 3)
        for _ in range(10):
            await curio.sleep(0.0005)
        assert not any(task.terminated for task in tasks)
        # Numbers are found while nothing else is.
        assert await socket.gethostbyname("127.0.0.1") == "127.0.0.1"
        server.answer()
        assert [await task.join() for task in tasks] == ["too late"] * 3

    kernel.run(main)


def test_a_full_pool_of_workers_does_not_delay_look_ups(kernel, monkeypatch):
    """S32: they have threads of their own."""
    monkeypatch.setattr(workers, "MAX_WORKER_THREADS", 2)
    gate = threading.Event()

    async def main():
        tasks = [await curio.spawn(curio.run_in_thread(gate.wait, 50)) for _ in range(4)]
        found = await curio.timeout_after(40, socket.getaddrinfo("localhost", 80))
        assert found == plain.getaddrinfo("localhost", 80)
        assert not any(task.terminated for task in tasks)
        gate.set()
        for task in tasks:
            assert await task.join()

    kernel.run(main)


def test_silent_look_ups_do_not_delay_workers(kernel, silent):
    """S32: nor the other way round."""
    server = silent("gethostbyname")

    async def main():
        tasks = [await curio.spawn(socket.gethostbyname("a.name")) for _ in range(100)]
        assert await curio.timeout_after(40, curio.run_in_thread(int)) == 0
        server.answer()
        for task in tasks:
            await task.join()

    kernel.run(main)
    assert len(server.ended) == 100


def test_look_ups_that_are_given_up_do_not_delay_others(kernel, silent):
    """1.14: zombies take no places."""
    server = silent("gethostbyname")

    async def main():
        for _ in range(30):
            task = await curio.spawn(socket.gethostbyname("a.name"))
            await task.cancel()
        found = await curio.timeout_after(40, socket.getaddrinfo("localhost", 80))
        assert found == plain.getaddrinfo("localhost", 80)
        assert not server.ended
        server.answer()

    kernel.run(main)


# --- connecting --------------------------------------------------------------------------------


def test_connecting_looks_names_up_in_a_thread(kernel, silent):
    """S31, T47, S34: a cancelled look-up ends the attempt to connect, and leaves no socket."""
    server = silent("getaddrinfo")

    async def connect():
        async with socket.socket() as sock:
            await sock.connect(("a.name", 80))

    async def main():
        attempts = [
            lambda: curio.open_connection("a.name", 80),
            lambda: curio.open_connection("a.name", 80, ssl=True),
            lambda: socket.create_connection(("a.name", 80)),
            connect,
        ]
        for count, attempt in enumerate(attempts, 1):
            task = await curio.spawn(attempt())
            await until(lambda count=count: len(server.calls) == count)
            await task.cancel()
            assert task.cancelled
        with pytest.raises(TimeoutError):
            await socket.create_connection(("a.name", 80), timeout=0.005)

    kernel.run(main)
    assert all(args[0] == "a.name" for args in server.calls)
