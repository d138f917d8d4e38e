"""Operations as Python sees them: coroutines that can be looked at, driven and forgotten.

Goal: what is native must not be told from `async def` by the tools that programs and people
use: `inspect`, `help`, the warning about a forgotten `await`, the protocol of coroutines.
Method: each public coroutine function is visited; ops are also driven by hand, and awaited
where they must not be. Foreign awaitables must fail at the line that awaits them.
"""

import asyncio
import collections.abc
import gc
import inspect
import pydoc
import socket
import sys
import types
import warnings

import curio
import curio.task
import pytest
from curio.io import Socket

FUNCTIONS = [
    curio.anext,
    curio.block_in_thread,
    curio.check_cancellation,
    curio.clock,
    curio.current_task,
    curio.gather,
    curio.open_connection,
    curio.open_unix_connection,
    curio.run_in_executor,
    curio.run_in_process,
    curio.run_in_thread,
    curio.run_server,
    curio.run_unix_server,
    curio.schedule,
    curio.set_cancellation,
    curio.sleep,
    curio.spawn,
    curio.spawn_thread,
    curio.tcp_server,
    curio.unix_server,
    curio.wake_at,
    curio.Task.cancel,
    curio.Task.cancel_children,
    curio.Task.interrupt,
    curio.Task.join,
    curio.Task.wait,
    Socket.accept,
    Socket.close,
    Socket.connect,
    Socket.connect_ex,
    Socket.do_handshake,
    Socket.recv,
    Socket.recv_into,
    Socket.recvfrom,
    Socket.recvfrom_into,
    Socket.recvmsg,
    Socket.recvmsg_into,
    Socket.send,
    Socket.sendall,
    Socket.sendmsg,
    Socket.sendto,
    Socket.shutdown,
]
# Those that are a coroutine or a block, as their arguments want it.
DUAL = [
    curio.disable_cancellation,
    curio.enable_cancellation,
    curio.ignore_after,
    curio.ignore_at,
    curio.stop_after,
    curio.timeout_after,
    curio.timeout_at,
]

every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__qualname__)
every_one = pytest.mark.parametrize("function", FUNCTIONS + DUAL, ids=lambda f: f.__qualname__)


class Oops(Exception):
    pass


async def forever():
    await curio.sleep(1000)


def made(name):
    """A fresh coroutine of an operation that needs no task or socket."""
    return {
        "sleep": lambda: curio.sleep(0),
        "clock": curio.clock,
        "spawn": lambda: curio.spawn(forever),
        "current_task": curio.current_task,
        "check_cancellation": curio.check_cancellation,
        "set_cancellation": lambda: curio.set_cancellation(None),
    }[name]()


simple = pytest.mark.parametrize(
    "name",
    ["sleep", "clock", "spawn", "current_task", "check_cancellation", "set_cancellation"],
)


# --- what they look like ------------------------------------------------------------------


def test_all_public_coroutine_functions_are_visited():
    """T73: nobody is forgotten here who is new there."""
    public = {getattr(curio, name) for name in curio.__all__}
    public |= set(vars(curio.Task).values()) | set(vars(Socket).values())
    found = {
        value.__qualname__
        for value in public
        if inspect.iscoroutinefunction(value) and not value.__name__.startswith("_")
    }
    assert found == {function.__qualname__ for function in FUNCTIONS}


@every_function
def test_is_a_coroutine_function(function):
    """T73: for `inspect`, and so for all who ask it."""
    assert inspect.iscoroutinefunction(function)
    assert callable(function)


@every_one
def test_has_signature_and_help(function):
    """T73: as it was declared; `help` shows it and the text."""
    signature = inspect.signature(function)
    assert all(not name.startswith("_") for name in signature.parameters)
    text = pydoc.plain(pydoc.render_doc(function))
    assert function.__name__ in text
    assert function.__doc__ and function.__doc__.splitlines()[0] in text
    assert function.__module__.startswith("curio")
    assert inspect.getsource(function)


def test_signatures():
    """T5, T8, L44: the parameters that programs name."""
    assert str(inspect.signature(curio.spawn)) == "(corofunc, *args, daemon=False)"
    assert list(inspect.signature(curio.Task.cancel).parameters) == ["self", "exc", "blocking"]
    ignoring = inspect.signature(curio.ignore_after).parameters
    assert list(ignoring) == ["seconds", "corofunc", "args", "timeout_result"]
    assert str(inspect.signature(Socket.recv)) == "(self, maxsize, flags=0)"
    assert str(inspect.signature(curio.sleep)) == "(seconds)"


def test_arguments_by_name(kernel):
    """T5: as with any Python function."""

    async def main():
        await curio.sleep(seconds=0)
        task = await curio.spawn(corofunc=forever, daemon=True)
        assert task.daemon
        assert await curio.timeout_after(seconds=10, corofunc=curio.clock()) > 0
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(seconds=0.001):
                await forever()
        assert await curio.ignore_after(seconds=0, corofunc=forever, timeout_result=1) == 1
        await curio.set_cancellation(exc=None)
        assert await curio.check_cancellation(exc_type=None) is None
        assert await task.cancel(exc=Oops, blocking=True)

    kernel.run(main)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: curio.sleep(), "sleep() missing 1 required positional argument: 'seconds'"),
        (lambda: curio.sleep(1, 2), "sleep() takes 1 positional argument but 2 were given"),
        (lambda: curio.sleep(now=1), "sleep() got an unexpected keyword argument 'now'"),
        (lambda: curio.sleep(1, seconds=2), "sleep() got multiple values for argument 'seconds'"),
        (lambda: curio.spawn(), "spawn() missing 1 required positional argument: 'corofunc'"),
        (lambda: curio.spawn(forever, demon=1), "spawn() got an unexpected keyword argument"),
        (lambda: curio.clock(1), "clock() takes 0 positional arguments but 1 was given"),
        (lambda: curio.Task.join(), "join() missing 1 required positional argument: 'self'"),
    ],
)
def test_calls_that_do_not_fit(call, message):
    """T73: the errors are those of a Python function."""
    with pytest.raises(TypeError) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["join", "wait", "cancel", "cancel_children"])
def test_method_on_something_else(name):
    """T6: an error, not a crash."""
    for wrong in (5, None, object(), Socket):
        with pytest.raises(TypeError):
            getattr(curio.Task, name)(wrong)
    with pytest.raises(TypeError):
        Socket.recv(5, 10)


@simple
def test_is_a_coroutine(name):
    """T73: for `collections.abc` and `inspect`; with name, repr and the usual attributes."""
    op = made(name)
    assert isinstance(op, collections.abc.Coroutine)
    assert isinstance(op, collections.abc.Awaitable)
    assert inspect.isawaitable(op)
    assert (op.__name__, op.__qualname__) == (name, name)
    assert repr(op).startswith(f"<coroutine object {name} at 0x")
    assert op.cr_await is None and op.cr_running is False
    op.close()


def test_cr_await_leads_into_the_coroutine(kernel):
    """T73, T69: a walk through the stack passes timeouts and shields."""

    async def inner(other):
        await other.wait()

    async def main():
        other = await curio.spawn(forever())
        coro = inner(other)
        op = curio.timeout_after(1000, coro)
        assert op.cr_await is coro
        task = await curio.spawn(curio.disable_cancellation(curio.ignore_after(1000, op)))
        found, chain = task.coro, []
        while found is not None:
            chain.append(found.__name__)
            found = found.cr_await
        await other.cancel()
        await task.join()
        return chain

    chain = kernel.run(main)
    assert chain == ["disable_cancellation", "ignore_after", "timeout_after", "inner", "wait"]


# --- forgotten ----------------------------------------------------------------------------

FORGOTTEN = """import socket
import curio
from curio.io import Socket

async def child():
    await curio.sleep(0)

async def main():
    task = await curio.spawn(child())
    left, right = map(Socket, socket.socketpair())
    {statement}
    await task.join()
    await left.close()
    await right.close()
    print("goes on")

curio.run(main)
"""


@pytest.mark.parametrize(
    "statement, name",
    [
        ("curio.sleep(1)", "sleep"),
        ("curio.clock()", "clock"),
        ("curio.current_task()", "current_task"),
        ("curio.spawn(child)", "spawn"),
        ("task.join()", "Task.join"),
        ("task.wait()", "Task.wait"),
        ("task.cancel()", "Task.cancel"),
        ("task.cancel(blocking=False)", "Task.cancel"),
        ("task.cancel_children()", "Task.cancel_children"),
        ("curio.check_cancellation()", "check_cancellation"),
        ("curio.set_cancellation(None)", "set_cancellation"),
        ("curio.timeout_after(1, child)", "timeout_after"),
        ("curio.ignore_after(1, child)", "ignore_after"),
        ("curio.disable_cancellation(child)", "disable_cancellation"),
        ("left.recv(1)", "Socket.recv"),
        ("left.send(b'x')", "Socket.send"),
        ("left.sendall(b'x')", "Socket.sendall"),
        ("left.accept()", "Socket.accept"),
        ("left.close()", "Socket.close"),
        ("left.shutdown(2)", "Socket.shutdown"),
        ("left.connect(('127.0.0.1', 1))", "Socket.connect"),
        ("curio.run_server('', 0, child)", "run_server"),
    ],
)
def test_forgotten_await(program, statement, name):
    """T73: file and line of the caller, and the name; and the program goes on."""
    running = program(FORGOTTEN.format(statement=statement))
    assert running.wait() == 0
    assert running.lines == ["goes on"], running.report()
    where = f"program0.py:11: RuntimeWarning: coroutine '{name}' was never awaited\n"
    assert where in running.errors
    shown = [line for line in running.errors.splitlines() if "never awaited" in line]
    # A coroutine that was made for it may have something to say, too.
    assert len([line for line in shown if f"'{name}'" in line]) == 1


def test_forgotten_await_of_the_tutorial(program):
    """T73: exactly the tutorial's line."""
    running = program(
        "import curio\n\n\nasync def countdown(n):\n    while n > 0:\n"
        "        print('T-minus', n)\n\n        curio.sleep(1)\n        n -= 1\n\n\n"
        "curio.run(countdown(3))\n"
    )
    assert running.wait() == 0
    assert running.lines == ["T-minus 3", "T-minus 2", "T-minus 1"]
    first = running.errors.splitlines()[0]
    assert first.endswith("program0.py:8: RuntimeWarning: coroutine 'sleep' was never awaited")
    assert running.errors.count("was never awaited") == 1


def test_warning_as_an_error_does_no_harm(program):
    """T73: with `-W error` it is reported, and nothing else happens."""
    running = program(
        "import warnings\nwarnings.simplefilter('error')\nimport curio\n\n"
        "async def main():\n    curio.sleep(1)\n    await curio.sleep(0)\n    print('fine')\n\n"
        "curio.run(main)\n"
    )
    assert running.wait() == 0
    assert running.lines == ["fine"]
    assert "coroutine 'sleep' was never awaited" in running.errors


@simple
def test_no_warning_once_it_was_closed_or_started(name):
    """T73: as with any coroutine."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op = made(name)
        op.close()
        op.close()
        del op
        op = made(name)
        with pytest.raises(Oops):
            op.throw(Oops)
        del op
        gc.collect()


def test_forgotten_in_a_cycle():
    """T73: the collector finds it, and warns."""
    box = []
    box.append(curio.spawn(box))
    with pytest.warns(RuntimeWarning, match="'spawn' was never awaited"):
        del box
        gc.collect()


# --- awaited wrongly ------------------------------------------------------------------------


@simple
def test_awaited_twice(kernel, name):
    """As with any coroutine: RuntimeError, and the kernel goes on."""

    async def main():
        op = made(name)
        result = await op
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"already awaited '{name}'"):
                await op
        if isinstance(result, curio.Task) and name == "spawn":
            await result.cancel()
        await curio.sleep(0)
        return "goes on"

    assert kernel.run(main) == "goes on"


def test_awaited_by_two_tasks(kernel):
    """The second gets an error; the first is not disturbed."""

    async def awaits(op):
        return await op

    async def main():
        for make in (
            lambda task: curio.sleep(0.005),
            lambda task: curio.timeout_after(10, curio.sleep(0.005)),
            lambda task: task.join(),
        ):
            op = make(await curio.spawn(curio.sleep(0.005)))
            first = await curio.spawn(awaits(op))
            second = await curio.spawn(awaits(op))
            with pytest.raises(curio.TaskError) as caught:
                await second.join()
            assert type(caught.value.__cause__) is RuntimeError
            assert "being awaited already" in str(caught.value.__cause__)
            assert await first.join() > 0

    kernel.run(main, log_errors=False)


def test_coroutine_given_to_two_limits(kernel):
    """Two operations that run the same one."""

    async def main():
        op = curio.sleep(0.005)
        first = await curio.spawn(curio.timeout_after(10, op))
        second = await curio.spawn(awaits_limited(op))
        with pytest.raises(curio.TaskError) as caught:
            await second.join()
        assert type(caught.value.__cause__) is RuntimeError
        assert await first.join() > 0

    async def awaits_limited(op):
        await curio.timeout_after(10, op)

    kernel.run(main, log_errors=False)


@pytest.mark.parametrize("name", ["sleep", "spawn", "clock", "current_task"])
def test_outside_of_a_kernel(name):
    """RuntimeError that says what to do."""
    with pytest.raises(RuntimeError, match=r"kernel"):
        made(name).send(None)


def test_limits_outside_of_a_kernel():
    """The coroutine inside is not run."""
    coro = forever()
    op = curio.timeout_after(1, coro)
    with pytest.raises(RuntimeError, match="outside of a Curio kernel"):
        op.send(None)
    assert inspect.getcoroutinestate(coro) in (inspect.CORO_CREATED, inspect.CORO_CLOSED)
    coro.close()
    with pytest.raises(RuntimeError, match="outside of a Curio kernel"):
        curio.timeout_after(1).__aenter__().send(None)


def test_in_asyncio():
    """Another library's loop is no kernel: an error at the await, and the loop goes on."""

    async def main():
        with pytest.raises(RuntimeError, match="outside of a Curio kernel"):
            await curio.sleep(0)
        await asyncio.sleep(0)
        return "goes on"

    assert asyncio.run(main()) == "goes on"


# --- driven by hand -------------------------------------------------------------------------


def test_protocol_of_coroutines(kernel):
    """send, throw and close, as PEP 492 has them."""

    async def main():
        op = curio.clock()
        with pytest.raises(StopIteration) as caught:
            op.send(None)
        assert type(caught.value.value) is float
        with pytest.raises(RuntimeError, match="already awaited"):
            op.send(None)

        op = curio.current_task()
        iterator = op.__await__()
        with pytest.raises(StopIteration) as caught:
            next(iterator)
        assert isinstance(caught.value.value, curio.Task)

        op = curio.sleep(1000)
        error = Oops()
        with pytest.raises(Oops) as caught:
            op.throw(error)
        assert caught.value is error
        op.close()
        with pytest.raises(RuntimeError, match="already awaited"):
            op.send(None)
        with pytest.raises(TypeError):
            curio.sleep(0).throw()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        kernel.run(main)


def test_operation_given_up_in_the_middle(kernel):
    """An op that is dropped, closed or thrown into while it waits leaves nothing behind."""

    async def main():
        left, right = map(Socket, socket.socketpair())
        task = await curio.spawn(forever())
        for make in (
            lambda: curio.sleep(1000),
            lambda: curio.timeout_after(1000, forever()),
            lambda: curio.disable_cancellation(forever()),
            lambda: left.recv(10),
            task.join,
            task.wait,
        ):
            for how in ("drop", "close", "throw"):
                op = make()
                assert op.__await__().__next__() is None
                if how == "close":
                    op.close()
                elif how == "throw":
                    with pytest.raises(Oops):
                        op.throw(Oops())
                del op
                await curio.sleep(0)
                await curio.sleep(0.0005)
        await right.send(b"data")
        assert await left.recv(10) == b"data"
        await left.close()
        await right.close()
        await task.cancel()
        assert (await curio.current_task()).timeout is None
        return "goes on"

    assert kernel.run(main) == "goes on"


def test_throw_reaches_the_coroutine_that_is_limited(kernel):
    """What is thrown into timeout_after comes where its coroutine waits."""
    seen = []

    async def inner():
        try:
            await curio.sleep(1000)
        except Oops as error:
            seen.append(error)
            return "handled"

    async def main():
        op = curio.timeout_after(1000, inner())
        op.send(None)
        error = Oops()
        with pytest.raises(StopIteration) as caught:
            op.throw(error)
        assert caught.value.value == "handled"
        assert seen == [error]

        op = curio.timeout_after(1000, inner())
        with pytest.raises(Oops):
            op.throw(error)
        await curio.sleep(0)

    kernel.run(main)


def test_throw_before_the_start():
    """A fresh coroutine raises what is thrown in, kernel or not."""
    for make in (
        lambda: curio.sleep(0),
        lambda: curio.timeout_after(1, forever()),
        lambda: curio.disable_cancellation(forever),
    ):
        op = make()
        with pytest.raises(Oops):
            op.throw(Oops())
        op.close()


def test_close_runs_the_clean_up_of_the_coroutine_inside(kernel):
    """As `close` of the coroutine itself would."""
    events = []

    async def inner():
        try:
            await curio.sleep(1000)
        finally:
            events.append("cleaned up")

    async def main():
        op = curio.timeout_after(1000, curio.ignore_after(1000, inner()))
        op.send(None)
        op.close()
        await curio.sleep(0)

    kernel.run(main)
    assert events == ["cleaned up"]


def test_results_that_look_like_something_else(kernel):
    """A tuple, an exception, a StopIteration as a result: delivered as it is."""

    async def gives(value):
        await curio.sleep(0)
        return value

    async def main():
        for value in ((1, 2), (), Oops("value"), StopIteration(5), None, True, Oops):
            task = await curio.spawn(gives, value)
            assert await task.join() is value
            assert await task.join() is value
            assert await curio.timeout_after(1, gives(value)) is value
            assert await curio.ignore_after(1, gives, value) is value
            assert await curio.disable_cancellation(gives(value)) is value

    kernel.run(main)


# --- foreign awaitables ----------------------------------------------------------------------


class Yields:
    """As a library with another idea of a kernel does."""

    def __init__(self, *values):
        self.values = values

    def __await__(self):
        yield from self.values


@types.coroutine
def generator_that_yields(value):
    yield value


class Slots:
    __slots__ = ()

    def __repr__(self):
        return "<a strange thing>"


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: Yields("garbage"), "'garbage'"),
        (lambda: Yields(Slots()), "<a strange thing>"),
        (lambda: Yields(None), "None"),
        (lambda: generator_that_yields(("_trap", 5)), "('_trap', 5)"),
        (lambda: asyncio.sleep(0), "None"),
    ],
    ids=["garbage", "object", "None", "generator", "asyncio.sleep"],
)
@pytest.mark.parametrize("inside", ["task", "timeout_after", "block", "shield"])
def test_foreign_awaitable(kernel, make, named, inside):
    """The error names the thing, is raised at the await, and the kernel lives on."""

    async def awaits():
        try:
            await make()
        except RuntimeError as error:
            return str(error)

    async def main():
        if inside == "task":
            said = await (await curio.spawn(awaits())).join()
        elif inside == "timeout_after":
            said = await curio.timeout_after(10, awaits())
        elif inside == "block":
            async with curio.timeout_after(10):
                said = await awaits()
        else:
            said = await curio.disable_cancellation(awaits())
        await curio.sleep(0.001)
        return said

    said = kernel.run(main)
    assert "not Curio's" in said and named in said


def test_future_of_asyncio(kernel):
    """The same; the future is not touched."""
    loop = asyncio.new_event_loop()
    future = loop.create_future()

    async def main():
        with pytest.raises(RuntimeError, match="<Future pending"):
            await future
        await curio.sleep(0)
        with pytest.raises(RuntimeError, match="event loop"):
            await asyncio.sleep(0.01)
        await curio.sleep(0)
        return "goes on"

    try:
        assert kernel.run(main) == "goes on"
        assert not future.done()
    finally:
        loop.close()


def test_foreign_awaitable_that_insists(kernel):
    """One that yields again and again gets the error each time."""

    async def main():
        errors = 0
        for _ in range(3):
            try:
                await Yields(1, 2, 3)
            except RuntimeError:
                errors += 1
        return errors

    assert kernel.run(main) == 3


def test_foreign_awaitable_that_nobody_catches(kernel, log):
    """It ends its own task, and no other."""

    async def main():
        task = await curio.spawn(generator_that_yields("garbage"))
        with pytest.raises(curio.TaskError, match="RuntimeError"):
            await task.join()
        return "goes on"

    assert kernel.run(main) == "goes on"
    assert len(log) == 1 and "'garbage'" in log.texts[0]
    with pytest.raises(RuntimeError, match="'garbage'"):
        kernel.run(generator_that_yields("garbage"))


def test_coroutines_of_other_kinds(kernel):
    """Generators that `types.coroutine` has marked, and classes of one's own, can be tasks."""

    @types.coroutine
    def generator():
        yield from curio.sleep(0).__await__()
        return "generator"

    class Own(collections.abc.Coroutine):
        def __init__(self):
            self.coro = body()

        def send(self, value):
            return self.coro.send(value)

        def throw(self, *args):
            return self.coro.throw(*args)

        def close(self):
            self.coro.close()

        def __await__(self):
            return self.coro.__await__()

    async def body():
        await curio.sleep(0.001)
        try:
            await curio.sleep(1000 if cancelled else 0)
        finally:
            seen.append("ended")
        return "own"

    async def main():
        nonlocal cancelled
        results = [await (await curio.spawn(make())).join() for make in (generator, Own)]
        assert await curio.timeout_after(10, Own()) == "own"
        cancelled = True
        task = await curio.spawn(Own())
        await curio.sleep(0.01)
        assert await task.cancel()
        assert type(task.exception) is curio.TaskCancelled
        return results

    cancelled, seen = False, []
    assert kernel.run(main) == ["generator", "own"]
    assert seen == ["ended"] * 3


def test_awaitables_made_of_operations(kernel):
    """A class's `__await__` hands an operation's on, or delegates to it."""

    class HandsOn:
        def __await__(self):
            return curio.sleep(0.001).__await__()

    class Delegates:
        def __await__(self):
            first = yield from curio.sleep(0.001).__await__()
            second = yield from curio.timeout_after(10, curio.sleep(0)).__await__()
            return second - first

    async def main():
        assert await HandsOn() > 0
        assert await Delegates() >= 0
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0):
                await Delegates()

    kernel.run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="ExceptionGroup is newer")
def test_exception_groups_pass_through(kernel):
    """T12: whatever is raised is passed on."""

    async def fails():
        await curio.sleep(0)
        raise ExceptionGroup("several", [Oops(), ValueError()])  # noqa: F821

    with pytest.raises(ExceptionGroup, match="several"):  # noqa: F821
        kernel.run(curio.timeout_after, 10, fails)


def test_interrupted_between_call_and_await():
    """T73: Ctrl-C has come before the await could; that is no forgotten await."""

    def interrupt():
        raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt):
            [curio.sleep(1), interrupt()]
