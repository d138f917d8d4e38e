"""The monitor of a program in Python: what it answers, when, and what is left of it.

Goal: whoever looks into a program is told what is so, whatever the program does meanwhile, and
the program does not notice. Method: sessions over the real socket, with a kernel of this process
that has run and stands still, or with a program in a process of its own; each test has a
runtime directory that nobody else sees.
"""

import collections.abc
import contextlib
import gc
import io
import json
import logging
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import types

import crunch
import curio
import curio.monitor
import pytest
from monitored import LIMIT, Place, Session, eventually
from programs import Program, free_port, vanish

TABLE = """\
Task   State        Cycles     Timeout Task
------ ------------ ---------- ------- --------------------------------------------------
"""
UNKNOWN = "Unknown command. Type help.\n"


@pytest.fixture
def place():
    with Place() as place:
        yield place


@pytest.fixture
def kernel(place):
    """A kernel with the monitor on. A test runs it, and looks at it when it has."""
    with curio.Kernel(with_monitor=True) as kernel:
        yield kernel


@pytest.fixture
def session(kernel, place):
    return place.join(*place.sockets.iterdir())


def tasks(session):
    return {row["name"]: row["id"] for row in map(json.loads, session.lines("ps -j"))}


async def forever():
    await curio.sleep(1000)


async def leave_behind(*bodies):
    """Daemons, which are there when the main task has ended; each has run up to its first wait."""
    return [await curio.spawn(body, daemon=True) for body in bodies]


def lines_of(text, *marks):
    """The numbers of the lines that end with these marks."""
    lines = text.splitlines()
    return [next(n for n, line in enumerate(lines, 1) if line.endswith(mark)) for mark in marks]


# --- commands -----------------------------------------------------------------------------


def test_greeting(kernel, session):
    assert session.greeting == "\nCurio Monitor: 1 tasks running\nType help for commands\n"


def test_ps(kernel, session):
    async def napper():
        await curio.timeout_after(700, forever())

    async def main():
        await leave_behind(forever(), napper())

    kernel.run(main)
    said = session.ask("ps")
    assert said.startswith(TABLE)
    rows = said.removeprefix(TABLE).splitlines()
    ids = tasks(session)
    forever_id, napper_id = ids["forever"], ids["test_ps.<locals>.napper"]
    assert re.fullmatch(r"\d+ +TIME_SLEEP +1 +0\.0\d{4} Monitor.monitor_task", rows[0])
    assert re.fullmatch(f"{forever_id:<6} TIME_SLEEP   1          999\\.\\d{{3}} forever", rows[1])
    # The nearest of its two deadlines.
    assert re.fullmatch(
        f"{napper_id:<6} TIME_SLEEP   1          699\\.\\d{{3}} test_ps.<locals>.napper", rows[2]
    )
    assert len(rows) == 3


def test_workers(kernel, session, tmp_path):
    """Threads and processes, and their work, also while no kernel runs and when nobody waits."""
    gate, go = threading.Event(), str(tmp_path / "go")

    def wait_at_the_gate():
        assert gate.wait(50)

    def work():
        lines = session.lines("workers")
        assert lines[0] == "Worker               Seconds    Work"
        rows = [re.fullmatch(r"(.+)[- ]\d+ +(\S+) +(.*)", row) for row in lines[2:]]
        return [(row[1], row[2] == "None", row[3]) for row in rows]

    thread = "curio-worker", False, "test_workers.<locals>.wait_at_the_gate"
    process = "process", False, "wait_for"

    async def main():
        given_up = await curio.spawn(curio.run_in_thread, wait_at_the_gate)
        await leave_behind(curio.run_in_process(crunch.wait_for, go, 1))
        while not {thread, process} <= set(work()):
            await curio.sleep(0.001)
        await given_up.cancel()

    async def until_it_is_idle():
        while ("process", True, "idle") not in work():
            await curio.sleep(0.001)

    kernel.run(main)
    assert thread in work() and process in work()
    gate.set()
    eventually(lambda: thread not in work())
    with open(go, "w"):
        kernel.run(until_it_is_idle)
    assert session.ask("workers 1").startswith("Bad command. workers does not know what to do")


def test_help(session):
    said = session.lines("help")
    assert said[0] == "Commands:"
    commands = [line.split(" : ")[0].strip() for line in said[1:]]
    for command in (
        *("ps", "where taskid", "cancel taskid", "signal signame", "quit"),
        *("why taskid", "tree", "parents taskid", "deadlock", "cancelled", "workers"),
    ):
        assert command in commands


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("p", "ps"),
        ("  ps  ", "ps"),
        ("pa 7777", "parents 7777"),
        ("w 7777", "where 7777"),
        ("whe 7777", "where 7777"),
        ("why 7777", "why 7777"),
        ("h", "help"),
        ("hel", "help"),
        ("t", "tree"),
        ("d", "deadlock"),
        ("dead", "deadlock"),
        ("cancelle", "cancelled"),
    ],
)
def test_prefixes(session, typed, meant):
    assert session.ask(typed) == session.ask(meant) != UNKNOWN


@pytest.mark.parametrize(
    "typed",
    [
        *("c 1", "canc 1", "s SIGTERM", "signa SIGTERM", "e", "exi"),  # these do something
        *("x", "PS", "psx", "?", "ps;", "cancelledx", "\0", "ü", "'", "--help"),
    ],
)
def test_unknown_commands(session, typed):
    assert session.ask(typed) == UNKNOWN
    assert session.ask("ps").startswith(TABLE)


def test_an_empty_line_is_no_command(session):
    assert session.ask("") == session.ask("   \t ") == session.ask("\r") == ""


@pytest.mark.parametrize(
    "typed",
    [
        *("where", "where x", "where 1 2", "where -1", "where 1.5", "where -x 1"),
        *("why", "why x", "why 1 2", "why -j", "why -j 1 2"),
        *("parents", "parents x", "parents 1 2", "cancel", "cancel x", "cancel 1 2"),
        *("signal", "signal SIGHUP SIGHUP", "ps 1", "ps -x", "tree 1", "deadlock 1"),
        *("cancelled 1", "where 99999999999999999999999999"),
    ],
)
def test_bad_arguments(session, typed):
    said = session.ask(typed)
    assert re.fullmatch(r"Bad command\. .+\n", said)
    assert typed.split()[0] in said or typed.split()[1] in said
    assert session.ask("ps").startswith(TABLE)


def test_ids_of_no_task(session):
    for command in "where", "why", "parents", "where -j", "why -j":
        assert session.ask(f"{command} 7777") == "No task 7777\n"
        assert session.ask(f"{command} 0") == "No task 0\n"
    assert session.ask("cancel 7777") == ""


def test_a_task_that_has_ended_is_no_task(kernel, session):
    async def main():
        task = await curio.spawn(curio.sleep(0))
        await task.join()
        return task.id

    ended = kernel.run(main)
    for command in "where", "why", "parents":
        assert session.ask(f"{command} {ended}") == f"No task {ended}\n"
    assert session.ask(f"cancel {ended}") == ""


@pytest.mark.parametrize("typed", ["quit", "q", "qu", "exit"])
def test_quit(session, typed):
    session.send(typed + "\n")
    assert session.rest() == "Leaving monitor\n"


def test_end_of_input(session):
    session.socket.shutdown(socket.SHUT_WR)
    assert session.rest() == "Leaving monitor\n"


def test_last_line_needs_no_end(session):
    session.send("ps")
    session.socket.shutdown(socket.SHUT_WR)
    said = session.rest()
    assert said.startswith(TABLE) and said.endswith("\ncurio > Leaving monitor\n")


def test_where(kernel, session):
    async def inner():
        async def innermost():
            await curio.sleep(1000)  # innermost

        await innermost()  # inner

    async def outer():
        await curio.timeout_after(100, inner())  # outer

    async def main():
        task, *_ = await leave_behind(outer())
        return task

    task = kernel.run(main)
    with open(__file__) as file:
        numbers = lines_of(file.read(), "# outer", "# inner", "# innermost")
    assert session.ask(f"where {task.id}") == (
        f"Stack for {task!r} (most recent call last):\n"
        f'  File "{__file__}", line {numbers[0]}, in outer\n'
        "    await curio.timeout_after(100, inner())  # outer\n"
        f'  File "{__file__}", line {numbers[1]}, in inner\n'
        "    await innermost()  # inner\n"
        f'  File "{__file__}", line {numbers[2]}, in innermost\n'
        "    await curio.sleep(1000)  # innermost\n"
        "\n"
    )
    assert re.fullmatch(
        rf"Task\(id={task.id}, <coroutine object .*outer at 0x[0-9a-f]+>, state='TIME_SLEEP'\)",
        repr(task),
    )


class Awaitable:
    def __await__(self):
        return (yield from curio.sleep(1000).__await__())


@types.coroutine
def old_style():
    return (yield from Awaitable().__await__())


async def generator():
    await old_style()
    yield 1


async def through_an_async_with():
    @contextlib.asynccontextmanager
    async def block():
        await old_style()
        yield

    async with block():
        pass


async def through_an_async_for():
    async for _ in generator():
        pass


async def through_an_awaitable():
    await Awaitable()


@pytest.mark.parametrize(
    ("body", "functions"),
    [
        (through_an_awaitable, ["through_an_awaitable", "__await__"]),
        (old_style, ["old_style", "__await__"]),
        (through_an_async_for, ["through_an_async_for", "generator", "old_style", "__await__"]),
        (
            through_an_async_with,
            ["through_an_async_with", "__aenter__", "block", "old_style", "__await__"],
        ),
    ],
)
def test_where_a_task_is_that_uses_other_things_than_coroutines(kernel, session, body, functions):
    async def main():
        task, *_ = await leave_behind(body())
        return task.id

    stack = session.lines(f"where {kernel.run(main)}")
    assert [line.split(", in ")[1] for line in stack if line.startswith("  File")] == functions


def test_where_a_task_that_has_not_run(kernel, session):
    async def late():
        await curio.sleep(1)

    task = kernel.add_task(late(), daemon=True)
    said = session.ask(f"where {task.id}")
    assert said.splitlines()[0] in (
        f"No stack for {task!r}",
        f"Stack for {task!r} (most recent call last):",
    )
    assert " late" in said
    assert session.ask(f"why {task.id}").startswith(f"Task {task.id} (")


def test_where_the_packages_own_tasks_are(kernel, session):
    kernel.run(curio.sleep, 0)
    said = session.lines("where " + str(tasks(session)["Monitor.monitor_task"]))
    assert said[0].startswith("Stack for Task(id=") and "Monitor.monitor_task" in said[0]


def test_where_the_source_is_not_a_file(kernel, session):
    namespace = {"curio": curio}
    exec(
        compile("async def body():\n    await curio.sleep(1000)\n", "<odd\nname>", "exec"),
        namespace,
    )

    async def main():
        task, *_ = await leave_behind(namespace["body"]())
        return task.id

    said = session.lines(f"where {kernel.run(main)}")
    assert said[1:] == ['  File "<odd\\nname>", line 2, in body', ""]


def test_names_that_are_odd(kernel, session):
    # A name must not break a line, nor reach a terminal as it is.
    class Named(curio.Task):
        pass

    async def body():
        await curio.sleep(1000)

    names = ["two\nlines", "\x1b[2J", "", "a b", "ünïcödé", "x" * 10_000, "\ud800"]

    async def main():
        for name in names:
            coro = body()
            try:
                coro.__qualname__ = name
                await curio.spawn(coro, daemon=True)
            except UnicodeEncodeError:
                coro.close()

    kernel.run(main)
    said = session.ask("ps").removeprefix(TABLE)
    assert len(said.splitlines()) >= len(names)
    assert "\x1b" not in said
    assert "two\\nlines" in said and "ünïcödé" in said and "x" * 10_000 in said
    for row in session.lines("ps -j"):
        json.loads(row)
    session.ask("tree")


def test_names_of_objects_that_are_like_coroutines(kernel, session):
    class Likely(collections.abc.Coroutine):
        def __init__(self):
            self._coro = forever()
            self.send, self.throw, self.close = (
                self._coro.send,
                self._coro.throw,
                self._coro.close,
            )

        def send(self, value):
            raise NotImplementedError

        throw = close = send

        def __await__(self):
            return self._coro.__await__()

    async def main():
        task, *_ = await leave_behind(Likely())
        return task

    task = kernel.run(main)
    assert task.name == Likely.__qualname__
    assert session.lines("ps")[-1].endswith(f" {Likely.__qualname__}")


@pytest.mark.parametrize("shown", ["it raises", 5, "two\nlines\x1b[2J"])
def test_where_a_task_is_that_has_no_repr(place, shown):
    class Odd(curio.Task):
        def __repr__(self):
            if shown == "it raises":
                raise LookupError("no words")
            return shown

    async def main():
        task, *_ = await leave_behind(forever())
        return task.id

    with curio.Kernel(with_monitor=True, taskcls=Odd) as kernel:
        number = kernel.run(main)
        said = place.join(*place.sockets.iterdir()).lines(f"where {number}")
        assert said[0].startswith("Stack for ") and "\x1b" not in said[0]
        assert said[-3].endswith(", in forever") and said[-2] == "    await curio.sleep(1000)"


def test_cancel(kernel, session):
    ended = []

    async def kid():
        try:
            await curio.sleep(1000)
        finally:
            ended.append("kid")

    async def main():
        task = await curio.spawn(kid, daemon=True)
        asked = threading.Event()
        thread = threading.Thread(target=lambda: ask(task.id, asked))
        thread.start()
        result = await task.join()
        thread.join()
        return task, result

    def ask(id, asked):
        answers.append(session.ask(f"cancel {id}"))

    answers = []
    task, result = kernel.run(main)
    assert answers == [f"Cancelling task {task.id}\n"]
    assert (ended, result, task.cancelled) == (["kid"], None, True)
    assert isinstance(task.exception, curio.TaskCancelled)
    assert "monitor" in str(task.cancel_origin)


def test_cancel_while_the_kernel_stands_still(kernel, session):
    async def main():
        return (await leave_behind(forever()))[0]

    task = kernel.run(main)
    assert session.ask(f"cancel {task.id}") == f"Cancelling task {task.id}\n"
    assert session.ask(f"cancel {task.id}") == f"Cancelling task {task.id}\n"
    kernel.run(curio.sleep(0.01))
    assert task.cancelled


def test_cancel_of_the_main_task(kernel, session):
    async def main():
        this = await curio.current_task()
        thread = threading.Thread(target=session.ask, args=(f"cancel {this.id}",))
        thread.start()
        try:
            await curio.sleep(1000)
        finally:
            thread.join()

    assert kernel.run(main) is None


def test_cancel_of_the_kernels_own_tasks(place):
    # A slip of the finger would take the program's signals away, or the monitor's pulse.
    program = place.program("""
import signal
import curio

async def main():
    async with curio.SignalSet(signal.SIGUSR1) as signals:
        for n in range(3):
            await signals.wait()
            print("signal", n, flush=True)

curio.run(main, with_monitor=True)
""")
    session = place.session(program)
    # Before, the signal would end the program.
    eventually(lambda: "SIGNAL_WAIT" in session.ask("ps"))
    numbers = tasks(session)
    for n in range(3):
        session.send("signal SIGUSR1\n")
        program.wait_for(f"signal {n}", timeout=5)
        if n < 2:
            session.answer()
            for name in "Kernel._kernel_task", "Monitor.monitor_task":
                said = session.ask(f"cancel {numbers[name]}")
                assert said == f"Bad command. task {numbers[name]} ({name}) is the kernel's own\n"
    program.succeed()


def test_cancel_of_a_task_that_does_not_listen(kernel, session):
    async def shielded():
        async with curio.disable_cancellation():
            await end.wait()
        await curio.sleep(1000)

    async def main():
        return (await leave_behind(shielded()))[0]

    end = curio.Event()
    task = kernel.run(main)
    assert session.ask(f"cancel {task.id}") == f"Cancelling task {task.id}\n"
    kernel.run(curio.sleep, 0.001)
    name = f"Task {task.id} ({task.name})"
    said = session.ask("cancelled")
    assert said.startswith(f"{name} was cancelled from the monitor, ")
    assert "it is waiting for Event " in said
    assert "  It was cancelled from the monitor, 0.0" in session.ask(f"why {task.id}")
    kernel.run(end.set)
    kernel.run(curio.sleep, 0.001)
    assert task.cancelled and session.ask("cancelled") == "No cancelled tasks\n"


def test_parents_and_tree(kernel, session):
    async def child(depth):
        if depth:
            await curio.spawn(child, depth - 1, daemon=True)
        await curio.sleep(1000)

    async def main():
        first = await curio.spawn(child, 2, daemon=True)
        await curio.sleep(0.01)
        return first, await curio.spawn(child(0), daemon=True)

    first, second = kernel.run(main)
    name = child.__qualname__
    ids = [first.id, first.id + 1, first.id + 2]
    parents = [f"{id:<6}   TIME_SLEEP {name}" for id in ids]
    assert session.lines(f"parents {ids[2]}") == parents[::-1]
    assert session.lines(f"parents {ids[1]}") == parents[1::-1]
    assert session.lines(f"parents {second.id}") == [f"{second.id:<6}   TIME_SLEEP {name}"]
    tree = session.lines("tree")
    assert tree[0].endswith("TIME_SLEEP   Monitor.monitor_task")
    assert tree[1:] == [
        f"{ids[0]:<6} TIME_SLEEP   {name}",
        f"{ids[1]:<6} TIME_SLEEP     {name}",
        f"{ids[2]:<6} TIME_SLEEP       {name}",
        f"{second.id:<6} TIME_SLEEP   {name}",
    ]


def test_json(kernel, session):
    async def quote(text='"\\\n\x1b'):
        await curio.timeout_after(50, curio.Event().wait())

    async def main():
        return [task.id for task in await leave_behind(forever(), quote())]

    sleeper, waiter = kernel.run(main)
    rows = [json.loads(line) for line in session.lines("ps -j")]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    by_id = {row["id"]: row for row in rows}
    row = by_id[sleeper]
    assert 990 < row.pop("timeout") < 1000
    assert row == {
        "id": sleeper,
        "name": "forever",
        "state": "TIME_SLEEP",
        "cycles": 1,
        "parent": by_id[waiter]["parent"],
        "daemon": True,
        "waiting_for": {"kind": "time"},
    }
    row = by_id[waiter]
    assert 40 < row["timeout"] < 50
    assert (row["state"], row["waiting_for"]["kind"]) == ("EVENT_WAIT", "event")
    stacks = [json.loads(line) for line in session.lines("where -j")]
    assert [stack["id"] for stack in stacks] == [row["id"] for row in rows]
    (one,) = [json.loads(line) for line in session.lines(f"where -j {sleeper}")]
    assert one == stacks[[stack["id"] for stack in stacks].index(sleeper)]
    (frame,) = one["frames"]
    assert (frame["file"], frame["function"]) == (__file__, "forever")
    assert frame["source"] == "await curio.sleep(1000)"
    assert [json.loads(line) for line in session.lines(f"where {sleeper} -j")] == [one]
    (why,) = [json.loads(line) for line in session.lines(f"why -j {waiter}")]
    assert (why["chain"], why["deadlock"]) == ([], None)


# --- signals ------------------------------------------------------------------------------


def test_signal(kernel, session):
    async def main():
        async with curio.SignalSet(signal.SIGUSR1, signal.SIGHUP) as signals:
            result = []
            for name in "SIGUSR1", "HUP", "USR1":
                # It comes before the answer.
                assert session.ask(f"signal {name}") == ""
                result.append(await signals.wait())
            return result

    assert kernel.run(main) == [signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR1]


def test_unknown_signals(session):
    for name in "SIGFOO", "FOO", "1", "sighup", "SIG", "SIG\x1b", "SIG_IGN":
        said = session.ask(f"signal {name}")
        assert said.startswith("Unknown signal ") and said.count("\n") == 1
        assert "\x1b" not in said


def test_signal_that_ends_the_program(place):
    program = place.program("import curio; curio.run(curio.sleep, 1000, with_monitor=True)")
    session = place.session(program)
    session.send("signal SIGTERM\n")
    assert program.wait() == -signal.SIGTERM
    assert program.errors == ""


# --- why ----------------------------------------------------------------------------------

WAITS = """
import os, signal, socket
import curio

lock, rlock, semaphore = curio.Lock(), curio.RLock(), curio.BoundedSemaphore(3)
queue, full, event = curio.Queue(), curio.Queue(2), curio.Event()
condition, result = curio.Condition(), curio.Result()
deadline = 500

async def holder():
    async with lock:
        await curio.sleep(1000)

async def first():
    await lock.acquire()

async def second():
    await lock.acquire()

async def again():
    async with rlock, rlock:
        await curio.sleep(1000)

async def outside():
    await curio.timeout_after(deadline, rlock.acquire())

async def seated():
    for _ in range(3):
        await semaphore.acquire()
    await curio.sleep(1000)

async def standing():
    await semaphore.acquire()

async def getter():
    await queue.get()

async def second_getter():
    await queue.get()

async def putter():
    for n in range(3):
        await full.put(n)

async def finisher():
    await full.join()

async def listener():
    await event.wait()

async def other_listener():
    await event.wait()

async def conditional():
    async with condition:
        await condition.wait()

async def expecting():
    await result.unwrap()

async def joiner():
    await tasks["listener"].join()

async def joiner_of_a_joiner():
    await tasks["joiner"].wait()

async def signalled():
    async with curio.SignalSet(signal.SIGUSR1, signal.SIGUSR2) as signals:
        await signals.wait()

async def hung_up():
    await curio.SignalSet(signal.SIGHUP).wait()

async def sleeper():
    await curio.sleep(1000)

async def acceptor():
    await listening.accept()

async def reader():
    await client.recv(100)

async def writer():
    await client.sendall(bytes(50_000_000))

async def pair():
    await one.recv(100)

async def stubborn():
    try:
        await curio.sleep(1000)
    except curio.CancelledError:
        await event.wait()

async def canceller():
    await tasks["stubborn"].cancel()  # cancels

async def short():
    try:
        await curio.timeout_after(0.01, event.wait())
    except curio.TaskTimeout:
        await curio.sleep(1000)

async def late():
    await curio.sleep(1000)

def new_socket(sock):
    return curio.io.Socket(sock)

server = socket.create_server(("127.0.0.1", 0))
listening = new_socket(server)
plain = socket.create_connection(server.getsockname())
server.setblocking(True)
accepted, _ = server.accept()
server.setblocking(False)
client = new_socket(plain)
one, other = map(new_socket, socket.socketpair())

tasks = {}

async def main():
    for body in (
        holder, first, second, again, outside, seated, standing, getter, second_getter, putter,
        finisher, listener, other_listener, conditional, expecting, joiner, joiner_of_a_joiner,
        signalled, hung_up, sleeper, acceptor, reader, writer, pair, stubborn, canceller, short,
    ):
        tasks[body.__name__] = await curio.spawn(body, daemon=True)
        await curio.sleep(0)
    await curio.sleep(0.05)
    print(server.getsockname()[1], plain.getsockname()[1], flush=True)
    await curio.sleep(1000)

curio.run(main, with_monitor=True)
"""

# What is said of each, without the tasks' numbers.
WORDS = {
    "main": "main is sleeping for another T s",
    "holder": "holder is sleeping for another T s",
    "first": "first is waiting for Lock N, held by holder; it is the first in line\n"
    "  holder holds it, and is sleeping for another T s",
    "second": "second is waiting for Lock N, held by holder; before it in line: first\n"
    "  holder holds it, and is sleeping for another T s",
    "outside": "outside is waiting for RLock N, held by again; it is the first in line; "
    "its timeout comes in T s\n  again holds it, and is sleeping for another T s",
    "standing": "standing is waiting for a permit of Semaphore N (0 of 3 permits left); "
    "it is the first in line",
    "getter": "getter is waiting for an item of Queue N (0 items); it is the first in line",
    "second_getter": "second_getter is waiting for an item of Queue N (0 items); "
    "before it in line: getter",
    "putter": "putter is waiting for room in Queue N (2 of 2 items); it is the first in line; "
    "waiting for all items to be done: finisher",
    "finisher": "finisher is waiting for all items of Queue N to be done (2 of 2 items); "
    "waiting for room: putter",
    "listener": "listener is waiting for Event N to be set; 3 tasks in all wait for that",
    "other_listener": "other_listener is waiting for Event N to be set; "
    "3 tasks in all wait for that",
    "conditional": "conditional is waiting for a notification of Condition N; "
    "it is the first in line",
    "expecting": "expecting is waiting for Result N to be set",
    "joiner": "joiner is waiting for the end of listener\n"
    "  listener is waiting for Event N to be set",
    "joiner_of_a_joiner": "joiner_of_a_joiner is waiting for the end of joiner\n"
    "  joiner is waiting for the end of listener\n"
    "  listener is waiting for Event N to be set",
    "signalled": "signalled is waiting for a signal of SignalSet N; it is the first in line",
    "hung_up": "hung_up is waiting for a signal of SignalSet N; it is the first in line",
    "sleeper": "sleeper is sleeping for another T s",
    "acceptor": "acceptor is waiting for descriptor N to be readable "
    "(TCP socket listening at SERVER)",
    "reader": "reader is waiting for descriptor N to be readable "
    "(TCP socket CLIENT connected to SERVER)",
    "writer": "writer is waiting for descriptor N to be writable "
    "(TCP socket CLIENT connected to SERVER)",
    "pair": "pair is waiting for descriptor N to be readable (Unix socket)",
    "stubborn": "stubborn is waiting for Event N to be set; 3 tasks in all wait for that\n"
    "  It was cancelled by canceller at FILE:LINE, T s ago",
    "canceller": "canceller is waiting for the end of stubborn\n"
    "  stubborn is waiting for Event N to be set",
    "short": "short is sleeping for another T s",
}

STATES = {
    "first": ("LOCK_ACQUIRE", "lock"),
    "outside": ("LOCK_ACQUIRE", "rlock"),
    "standing": ("SEMA_ACQUIRE", "semaphore"),
    "getter": ("QUEUE_GET", "queue"),
    "putter": ("QUEUE_PUT", "queue"),
    "finisher": ("QUEUE_JOIN", "queue"),
    "listener": ("EVENT_WAIT", "event"),
    "conditional": ("COND_WAIT", "condition"),
    "expecting": ("EVENT_WAIT", "result"),
    "joiner": ("TASK_JOIN", "task"),
    "signalled": ("SIGNAL_WAIT", "signalset"),
    "sleeper": ("TIME_SLEEP", "time"),
    "acceptor": ("READ_WAIT", "descriptor"),
    "reader": ("READ_WAIT", "descriptor"),
    "writer": ("WRITE_WAIT", "descriptor"),
    "canceller": ("TASK_JOIN", "task"),
}


class Waits:
    """One program in which tasks wait for everything there is."""

    def __init__(self, place):
        program = place.program(WAITS)
        program.wait_for("\n")
        server, client = program.output.split()
        self.addresses = {f"127.0.0.1:{server}": "SERVER", f"127.0.0.1:{client}": "CLIENT"}
        self.session = place.session(program)
        self.ids = tasks(self.session)

    def plain(self, said):
        """An answer without what is different in each run."""

        def name(found):
            assert self.ids[found[2]] == int(found[1]), said
            return found[2]

        said = re.sub(r"[Tt]ask (\d+) \(([\w.]+)\)", name, said)
        for address, word in self.addresses.items():
            said = said.replace(address, word)
        said = re.sub(r"\d+\.\d{3} s", "T s", said)
        (line,) = lines_of(WAITS, "# cancels")
        said = re.sub(rf"/\S+\.py:{line}\b", "FILE:LINE", said)
        return re.sub(r"\b([A-Z]\w+|descriptor) \d+", r"\1 N", said)


@pytest.fixture(scope="module")
def waits():
    with Place() as place:
        yield Waits(place)


@pytest.mark.parametrize("name", WORDS)
def test_why(waits, name):
    said = waits.session.ask(f"why {waits.ids[name]}")
    assert waits.plain(said) == WORDS[name] + "\n"


@pytest.mark.parametrize("name", STATES)
def test_why_as_json(waits, name):
    (line,) = waits.session.lines(f"why -j {waits.ids[name]}")
    row = json.loads(line)
    assert (row["state"], row["waiting_for"]["kind"]) == STATES[name]
    assert (row["id"], row["name"], row["daemon"]) == (waits.ids[name], name, True)
    assert row["deadlock"] is None
    if STATES[name][1] == "descriptor":
        server = {address for address, word in waits.addresses.items() if word == "SERVER"}
        is_acceptor = name == "acceptor"
        assert row["waiting_for"]["listening"] is is_acceptor
        assert {row["waiting_for"]["local" if is_acceptor else "peer"]} == server


def test_why_as_json_of_a_chain(waits):
    (line,) = waits.session.lines(f"why -j {waits.ids['joiner_of_a_joiner']}")
    chain = json.loads(line)["chain"]
    assert [row["name"] for row in chain] == ["joiner", "listener"]
    assert [row["id"] for row in chain] == [waits.ids["joiner"], waits.ids["listener"]]


def test_why_of_a_lock_as_json(waits):
    (line,) = waits.session.lines(f"why -j {waits.ids['second']}")
    found = json.loads(line)["waiting_for"]
    assert (found["owner"], found["waiting"]) == (waits.ids["holder"], 2)


def test_why_of_unnamed_sockets_as_json(waits):
    (line,) = waits.session.lines(f"why -j {waits.ids['pair']}")
    found = json.loads(line)["waiting_for"]
    assert (found["socket"], found["local"], found["peer"]) == ("Unix", None, None)


def test_states(waits):
    rows = {row["name"]: row for row in map(json.loads, waits.session.lines("ps -j"))}
    shown = {line.split()[-1]: line.split()[1] for line in waits.session.lines("ps")[2:]}
    for name, (state, _) in STATES.items():
        assert rows[name]["state"] == shown[name] == state
    assert shown["Kernel._kernel_task"] == "READ_WAIT"
    assert shown["Monitor.monitor_task"] == "TIME_SLEEP"


def test_who_was_cancelled(waits):
    said = waits.plain(waits.session.ask("cancelled"))
    assert said == (
        "stubborn was cancelled by canceller at FILE:LINE, T s ago; "
        "it is waiting for Event N to be set\n"
    )


def test_nobody_was_cancelled(session):
    assert session.ask("cancelled") == "No cancelled tasks\n"


def test_cancelled_by_the_monitor_and_by_a_shutdown(place):
    program = place.program("""
import curio

async def slow():
    try:
        await curio.sleep(1000)
    finally:
        await curio.sleep(0.5)

async def main():
    await curio.spawn(slow, daemon=True)
    task = await curio.spawn(slow, daemon=True)
    await task.join()

curio.run(main, with_monitor=True)
""")
    session = place.session(program)
    eventually(lambda: len(session.lines("ps")) == 6)
    number = max(json.loads(line)["id"] for line in session.lines("ps -j"))
    session.ask(f"cancel {number}")
    for who in " from the monitor", ": the kernel is shutting down":
        pattern = rf"Task \d+ \(slow\) was cancelled{who}, \d\.\d{{3}} s ago; it is sleeping .*\n"
        eventually(lambda pattern=pattern: re.fullmatch(pattern, session.ask("cancelled")), pattern)
    program.succeed()


# --- deadlocks ----------------------------------------------------------------------------


def test_no_deadlock(kernel, session):
    async def main():
        lock = curio.Lock()
        await lock.acquire()

        async def waits():
            await lock.acquire()

        await leave_behind(forever(), waits(), waits())

    assert session.ask("deadlock") == "No deadlock\n"
    kernel.run(main)
    assert session.ask("deadlock") == "No deadlock\n"


@pytest.fixture
def entangled(kernel):
    """Runs bodies up to where nobody can go on; the tasks that they are."""

    def run(*bodies):
        # All take what they have, and then all want what they have not.
        start = curio.Event()

        async def main():
            for body in bodies:
                found.append(await curio.spawn(body(start, found), daemon=True))
            await start.set()
            return found

        found = []
        return kernel.run(main)

    return run


def takes(one, two):
    async def taker(start, tasks):
        async with one:
            await start.wait()
            async with two:
                return "done"

    return taker


def joins(place):
    async def joiner(start, tasks):
        await start.wait()
        await tasks[place].join()

    return joiner


TAKER, JOINER = takes.__name__ + ".<locals>.taker", joins.__name__ + ".<locals>.joiner"


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_deadlock_of_locks(entangled, session, count):
    locks = [curio.Lock() for _ in range(count)]
    found = entangled(*(takes(locks[n], locks[(n + 1) % count]) for n in range(count)))
    ids = [task.id for task in found]
    waits = ", which waits for ".join(
        f"Lock N, held by task {id} ({TAKER})" for id in (*ids[1:], ids[0])
    )
    said = session.ask("deadlock")
    assert re.sub(r"Lock \d+", "Lock N", said) == (
        f"Deadlock: task {ids[0]} ({TAKER}) waits for {waits}\n"
    )
    for id in ids:
        assert session.lines(f"why {id}")[-1].strip() == said.strip()
        (line,) = session.lines(f"why -j {id}")
        assert json.loads(line)["deadlock"] == ids


def test_deadlock_of_joins(entangled, session):
    one, two = (f"task {task.id} ({JOINER})" for task in entangled(joins(1), joins(0)))
    assert session.ask("deadlock") == (
        f"Deadlock: {one} waits for the end of {two}, which waits for the end of {one}\n"
    )


def test_deadlock_through_a_lock_and_a_join_with_somebody_outside(entangled, session):
    lock = curio.RLock()

    async def has_it(start, tasks):
        async with lock:
            await start.wait()
            await tasks[1].join()

    async def wants_it(start, tasks):
        await start.wait()
        await curio.timeout_after(300, lock.acquire())

    first, second, outside = entangled(has_it, wants_it, joins(0))
    (line,) = session.lines("deadlock")
    assert line.startswith(f"Deadlock: task {first.id} (")
    assert re.search(
        rf"; the timeout of task {second.id} comes in (299\.\d{{3}}|300\.000) s$", line
    )
    why = session.lines(f"why {outside.id}")
    assert why[0] == (
        f"Task {outside.id} ({JOINER}) is waiting for the end of task {first.id} ({first.name})"
    )
    assert why[-1].startswith(f"  Deadlock: task {first.id} (")


def test_two_deadlocks(entangled, session):
    found = entangled(joins(1), joins(0), joins(3), joins(2))
    said = session.lines("deadlock")
    assert [line.split()[2] for line in said] == [str(found[0].id), str(found[2].id)]


def test_deadlock_is_over_when_a_task_is_cancelled(entangled, session, kernel):
    one, two = curio.Lock(), curio.Lock()
    first, second = entangled(takes(one, two), takes(two, one))
    assert session.ask("deadlock").startswith("Deadlock: ")
    session.ask(f"cancel {second.id}")
    assert kernel.run(first.join) == "done"
    assert kernel.run(second.join) is None
    assert session.ask("deadlock") == "No deadlock\n"


def test_semaphores_are_no_deadlock(entangled, session):
    # Anybody may release a semaphore: who waits for one waits for no task.
    one, two = curio.Semaphore(1), curio.Semaphore(1)
    first, _ = entangled(takes(one, two), takes(two, one))
    assert session.ask("deadlock") == "No deadlock\n"
    assert "waiting for a permit of Semaphore" in session.ask(f"why {first.id}")


# --- ways to switch it on -----------------------------------------------------------------


def monitor_threads():
    """Their names; Linux lets a joined thread stand in the list a moment longer."""
    with os.scandir("/proc/self/task") as threads:
        names = []
        for thread in threads:
            with contextlib.suppress(OSError), open(f"{thread.path}/comm") as file:
                names.append(file.read().strip())
    return [name for name in names if name.startswith("curio-monitor")]


def test_no_monitor(place):
    before = set(os.listdir("/proc/self/fd"))
    with curio.Kernel(with_monitor=False) as kernel:
        assert kernel.run(curio.sleep(0)) is not None
        eventually(lambda: monitor_threads() == [])
        assert place.names() == [] and not place.sockets.exists()
        listening = [fd for fd in set(os.listdir("/proc/self/fd")) - before if is_listening(fd)]
        assert listening == []


def is_listening(fd):
    try:
        duplicate = os.dup(int(fd))
    except OSError:
        return False
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return False
    with sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_with_monitor(place):
    with curio.Kernel(with_monitor=True):
        (name,) = place.names()
        assert re.fullmatch(rf"{os.getpid()}-\d+\.sock", name)
        assert stat.S_IMODE(place.sockets.stat().st_mode) == 0o700
        assert stat.S_IMODE((place.sockets / name).stat().st_mode) == 0o600
        with Session(place.sockets / name) as session:
            assert session.ask("ps").startswith(TABLE)
    assert place.names() == []
    eventually(lambda: monitor_threads() == [])


def test_run_with_monitor(place):
    async def main():
        with Session(*place.sockets.iterdir()) as session:
            return session.ask("ps")

    said = curio.run(main, with_monitor=True)
    assert re.search(r"RUNNING +1 +None +test_run_with_monitor.<locals>.main\n", said)
    assert place.names() == []


@pytest.mark.parametrize("value", ["1", "0", "", "no", "a:b", "x:99999", ":", "é"])
def test_environment(place, monkeypatch, value):
    monkeypatch.setenv("CURIOMONITOR", value)
    for options in {}, {"with_monitor": False}, {"with_monitor": None}, {"with_monitor": True}:
        with curio.Kernel(**options):
            assert len(place.names()) == 1

    async def main():
        return place.names()

    assert len(curio.run(main)) == 1
    assert place.names() == []


def test_environment_with_a_port(place, monkeypatch):
    for host in "127.0.0.1", "localhost", "[::1]":
        port = free_port()
        monkeypatch.setenv("CURIOMONITOR", f"{host}:{port}")
        with curio.Kernel():
            assert place.names() == []
            try:
                peer = socket.create_connection((host.strip("[]"), port))
            except OSError:
                assert host == "[::1]"  # a machine without IPv6
                continue
            with peer:
                assert peer.recv(100).startswith(b"\nCurio Monitor: 1 tasks")


def test_port(place):
    port = free_port()
    with curio.Kernel(with_monitor=("127.0.0.1", port)):
        assert place.names() == []
        with Session(("127.0.0.1", port)) as session:
            assert session.ask("ps").startswith(TABLE)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))

    async def main():
        with Session(("127.0.0.1", port)) as session:
            return session.ask("ps")

    assert "RUNNING" in curio.run(main, with_monitor=("localhost", port))


@pytest.mark.parametrize(
    "wrong",
    [
        *(0, 1, 48802, 1.5, "yes", "127.0.0.1:80", b"", [], {}, (), object(), len),
        *(("127.0.0.1",), ("127.0.0.1", "80"), ("127.0.0.1", 70000), ("127.0.0.1", -1)),
        *((1, 2), (None, 80), ("127.0.0.1", 80, 0), ["127.0.0.1", 80]),
    ],
    ids=repr,
)
def test_wrong_values(place, wrong):
    with pytest.raises(TypeError, match=r"with_monitor is True, False or a tuple \(host, port\)"):
        curio.Kernel(with_monitor=wrong)

    async def main():
        raise AssertionError("it has run")

    with pytest.raises(TypeError, match="with_monitor"):
        curio.run(main, with_monitor=wrong)
    assert place.names() == []


@contextlib.contextmanager
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield ("127.0.0.1", taken.getsockname()[1])


def check_that_it_is_logged(log, with_monitor, reason):
    async def main():
        return 42

    assert curio.run(main, with_monitor=with_monitor) == 42
    (record,) = log.records
    assert (record.name, record.levelno) == ("curio.monitor", logging.WARNING)
    assert reason in record.getMessage()
    eventually(lambda: monitor_threads() == [])


def test_port_that_is_taken(place, log):
    with taken_port() as address:
        check_that_it_is_logged(log, address, "Address already in use")


def test_host_that_is_not_known(place, log):
    # No part of a name may be so long: nobody is asked.
    host = "x" * 64 + ".invalid"
    check_that_it_is_logged(log, (host, 4880), host)


def test_host_in_the_environment_that_is_not_known(place, log, monkeypatch):
    host = "x" * 64 + ".invalid"
    monkeypatch.setenv("CURIOMONITOR", f"{host}:4880")
    check_that_it_is_logged(log, False, host)


def test_port_in_the_environment_that_is_taken(place, log, monkeypatch):
    with taken_port() as (host, port):
        monkeypatch.setenv("CURIOMONITOR", f"{host}:{port}")
        check_that_it_is_logged(log, False, "Address already in use")


def test_directory_that_is_not_safe(place, log):
    place.sockets.mkdir(mode=0o755)
    check_that_it_is_logged(log, True, str(place.sockets))


def test_directory_that_cannot_be_made(place, log, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent/directory")
    check_that_it_is_logged(log, True, "/nonexistent/directory")


def test_directory_with_too_long_a_name(place, log, monkeypatch):
    long = place.directory / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    check_that_it_is_logged(log, True, "XDG_RUNTIME_DIR")


def test_failure_is_printed_where_nobody_has_configured_logging(place):
    with taken_port() as address:
        program = place.program(
            f"import curio\ncurio.run(curio.sleep, 0, with_monitor={address})\nprint('done')"
        )
        assert program.wait() == 0
    assert program.output == "done\n"
    assert program.errors.count("\n") == 1 and str(address[1]) in program.errors


def test_temporary_directory(place, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(place.directory))
    with curio.Kernel(with_monitor=True):
        assert len(list((place.directory / f"curio-{os.getuid()}").iterdir())) == 1


def test_kernels_of_one_process_have_a_monitor_each(place):
    with curio.Kernel(with_monitor=True) as one, curio.Kernel(with_monitor=True):
        first, second = place.names()
        one.shutdown()
        assert len(place.names()) == 1
    assert place.names() == []


def test_kernel_that_is_dropped_takes_its_monitor_along(place):
    kernel = curio.Kernel(with_monitor=True)
    kernel.run(leave_behind())
    session = place.join(*place.sockets.iterdir())
    del kernel
    gc.collect()
    assert session.rest() == ""
    assert place.names() == []
    eventually(lambda: monitor_threads() == [])


def test_monitor_by_hand(place):
    async def main():
        monitor = curio.monitor.Monitor(kernel)
        assert (monitor.address, place.names()) == (None, [])
        eventually(lambda: monitor_threads() == [])
        await monitor.start()
        address = monitor.address
        assert [os.path.basename(address)] == place.names()
        await monitor.start()
        assert monitor.address == address and len(place.names()) == 1
        with Session(address) as session:
            assert "Monitor.monitor_task" in session.ask("ps")
            monitor.close()
            assert session.rest() == ""
        assert (monitor.address, place.names()) == (None, [])
        monitor.close()
        await monitor.start()
        assert monitor.address not in (None, address)
        with Session(monitor.address) as session:
            assert "Monitor.monitor_task" in session.ask("ps")
        monitor.close()

    with curio.Kernel() as kernel:
        kernel.run(main)
        # The tasks of closed monitors end by themselves.
        kernel.run(curio.sleep(0.15))
        assert place.names() == [] and len(json_rows(kernel)) == 0


def json_rows(kernel):
    out = io.StringIO()
    curio.monitor.Monitor(kernel).ps(out=out)
    return out.getvalue().removeprefix(TABLE).splitlines()


def test_monitor_by_hand_on_a_port(place):
    async def main():
        monitor = curio.monitor.Monitor(kernel, "127.0.0.1", 0)
        await monitor.start()
        host, port = monitor.address
        assert host == "127.0.0.1" and port > 0
        with Session((host, port)) as session:
            answer = session.ask("ps")
        monitor.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port))
        return answer

    with curio.Kernel() as kernel:
        assert "RUNNING" in kernel.run(main)
        assert place.names() == []


def test_monitor_by_hand_that_cannot_listen(place, log):
    async def main(address):
        monitor = curio.monitor.Monitor(kernel, *address)
        with pytest.raises(OSError, match="Address already in use"):
            await monitor.start()
        assert monitor.address is None
        monitor.close()
        for host, port in (("127.0.0.1", "x"), (5, 80), ("127.0.0.1", 70000)):
            with pytest.raises(TypeError):
                await curio.monitor.Monitor(kernel, host, port).start()

    with taken_port() as address, curio.Kernel() as kernel:
        kernel.run(main, address)
    assert not log


def test_monitor_by_hand_besides_the_kernels_own(kernel, session, place):
    async def main():
        monitor = curio.monitor.Monitor(kernel)
        await monitor.start()
        with Session(monitor.address) as other:
            assert tasks(other) == tasks(session)
        monitor.close()

    kernel.run(main)
    assert session.ask("ps").startswith(TABLE)


def test_monitor_by_hand_is_left_open(place):
    with curio.Kernel() as kernel:
        monitor = curio.monitor.Monitor(kernel)
        kernel.run(monitor.start)
        assert len(place.names()) == 1
    assert place.names() == []
    monitor.close()


def test_default_port():
    monitor = curio.monitor.Monitor(None, "127.0.0.1")
    assert (monitor.host, monitor.port) == ("127.0.0.1", 48802)


def test_ps_and_where_of_a_monitor(place, capfd):
    async def main():
        return (await leave_behind(forever()))[0]

    with curio.Kernel() as kernel, curio.Kernel() as other:
        task = kernel.run(main)
        monitor = curio.monitor.Monitor(kernel)
        monitor.ps()
        said = capfd.readouterr().out
        assert said.startswith(TABLE) and said.endswith(" forever\n")
        out = io.StringIO()
        monitor.ps(out=out)
        assert out.getvalue()[:120] == said[:120]
        monitor.ps(other, out=(out := io.StringIO()))
        assert out.getvalue() == TABLE
        monitor.where(task.id)
        assert capfd.readouterr().out == task.traceback() + "\n"
        monitor.where(task.id, other)
        assert capfd.readouterr().out == f"No task {task.id}\n"
        monitor.where(str(task.id), out=(out := io.StringIO()))
        assert out.getvalue() == task.traceback() + "\n"
        with pytest.raises(ValueError):
            monitor.where("x")


# --- while the program does other things --------------------------------------------------

BUSY = """
import sys, time
import curio

async def idle():
    await curio.sleep(1000)

def spin():
    while True:
        pass  # spins

def rest():
    time.sleep(1000)  # rests

async def hog():
    globals()[sys.argv[1]]()  # calls

async def main():
    await curio.spawn(idle)
    await curio.spawn(hog())

curio.Kernel(with_monitor=True).run(main)
"""


@pytest.fixture(params=["spin", "rest"], scope="module")
def busy(request):
    """A program whose kernel has been busy for a while, and what the task is doing."""
    with Place() as place:
        program = place.program(BUSY, request.param)
        session = place.session(program)
        eventually(lambda: "RUNNING" in session.ask("ps"))
        time.sleep(1.2)
        yield session, request.param


def test_busy_kernel(busy):
    session, doing = busy
    ids = tasks(session)
    table = session.lines("ps")
    states = {line.split()[-1]: line.split()[1] for line in table[2:-1]}
    assert states["hog"] == "RUNNING" and states["idle"] == "TIME_SLEEP"
    assert re.fullmatch(
        rf"The kernel has not been in its loop for \d+\.\d s: task {ids['hog']} \(hog\) is running",
        table[-1],
    )
    assert session.ask(f"why {ids['hog']}") == f"Task {ids['hog']} (hog) is running\n"
    assert session.ask("deadlock") == "No deadlock\n"
    assert session.ask(f"cancel {ids['hog']}") == f"Cancelling task {ids['hog']}\n"
    assert session.ask(f"cancel {ids['idle']}") == f"Cancelling task {ids['idle']}\n"
    assert session.ask("ps").startswith(TABLE)


def test_where_a_busy_task_is(busy):
    session, doing = busy
    hog = tasks(session)["hog"]
    mark = {"spin": "# spins", "rest": "# rests"}[doing]
    calls, line = lines_of(BUSY, "# calls", mark)
    lines = session.lines(f"where {hog}")
    places = [re.search(r"line (\d+), in (.*)", line).groups() for line in lines[1:-1:2]]
    assert places[-2:] in (
        [(str(calls), "hog"), (str(line), doing)],
        [(str(calls), "hog"), (str(line - 1), doing)],  # the head of the loop
    )


def test_where_a_task_is_in_a_blocking_call(place):
    program = place.program("""
import socket
import curio

async def main():
    sock, other = socket.socketpair()
    sock.settimeout(0.0005)
    print("ready", flush=True)
    for _ in range(1000):
        try:
            sock.recv(1)  # blocks
        except TimeoutError:
            pass

curio.run(main, with_monitor=True)
""")
    session = place.session(program)
    program.wait_for("ready")
    runs = True
    with pytest.raises(ConnectionError):
        while True:
            for command in "where 2", "where -j", "why 2":
                seen = "main" in session.ask(command)
                assert runs or not seen  # who has ended does not come back
                runs = seen
    program.succeed()


def test_between_runs(kernel, session):
    async def main():
        await leave_behind(forever())

    assert session.ask("ps").count("\n") == 3
    kernel.run(main)
    before = session.lines("ps")
    time.sleep(0.02)
    after = session.lines("ps")
    # Time goes by for the sleeper, and nothing else happens.
    assert before[3] > after[3] and len(before) == len(after) == 4
    kernel.run(curio.sleep(0.01))
    assert len(session.lines("ps")) == 4


def test_a_kernel_that_stood_still_is_not_called_busy(kernel, session):
    async def main():
        return session.ask("ps")

    time.sleep(1.1)
    assert "has not been in its loop" not in kernel.run(main)


# --- the end of a program -----------------------------------------------------------------

ENDINGS = {
    "runs out": ("await curio.sleep(0)", 0, ""),
    "os._exit": ("import os; os._exit(3)", 3, ""),
    "sys.exit": ("import sys; sys.exit(4)", 4, ""),
    "an exception": ("raise ValueError('of ours')", 1, "ValueError: of ours"),
    "a task that goes on": ("await curio.spawn(curio.sleep, 1000, daemon=True)", 0, ""),
    "killed": ("import os; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
}

WAITS_FOR_A_SIGNAL = """
import signal
import curio

async def main():
    await curio.spawn(curio.sleep, 1000, daemon=True)
    await curio.SignalSet(signal.SIGUSR1).wait()
    {ending}

kernel = curio.Kernel(with_monitor=True)
kernel.run(main)
"""


class Asker:
    """Asks all the time, until the program has ended."""

    def __init__(self, session):
        self._session = session
        self.answers = 0
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self):
        commands = ["ps", "where -j", "tree", "deadlock", "ps -j"]
        try:
            while True:
                self._session.ask(commands[self.answers % len(commands)])
                self.answers += 1
        except (ConnectionError, BrokenPipeError):
            pass

    def close(self):
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("client", ["nobody", "idle", "asking"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_end_of_a_program(place, ending, client):
    how, status, error = ENDINGS[ending]
    program = place.program(WAITS_FOR_A_SIGNAL.format(ending=how))
    session = place.session(program)
    waits = eventually(lambda: "SIGNAL_WAIT" in session.ask("ps"))
    assert waits
    if client == "nobody":
        session.socket.close()
    asker = Asker(session) if client == "asking" else None
    if asker:
        eventually(lambda: asker.answers > 3)
    program.process.send_signal(signal.SIGUSR1)
    before = time.monotonic()
    assert program.wait() == status, program.report()
    assert time.monotonic() - before < 2
    if asker:
        asker.close()
    elif client == "idle":
        assert session.rest() == ""
    if error:
        assert program.errors.startswith("Traceback") and program.errors.endswith(error + "\n")
    else:
        assert program.errors == ""
    assert program.output == ""
    if status not in (-9, 3):
        assert place.names() == []


@pytest.mark.parametrize("client", ["idle", "asking"])
@pytest.mark.parametrize("doing", ["await curio.sleep(1000)", "while True: pass"])
def test_interrupt(place, client, doing):
    program = place.program(f"""
import curio

async def main():
    print("started", flush=True)
    {doing}

kernel = curio.Kernel(with_monitor=True)
kernel.run(main)
""")
    program.wait_for("started")
    session = place.session(program)
    asker = Asker(session) if client == "asking" else None
    if asker:
        eventually(lambda: asker.answers > 3)
    program.interrupt()
    if asker:
        asker.close()
    assert program.errors.count("Traceback") == 1
    assert place.names() == []


def test_socket_of_a_killed_program_is_removed_by_the_next(place):
    text = "import curio; curio.run(curio.sleep, 1000, with_monitor=True)"
    first = place.program(text)
    place.session(first)
    first.process.kill()
    first.wait()
    (stale,) = place.names()
    second = place.program(text)
    place.session(second)
    (name,) = place.names()
    assert name.startswith(f"{second.process.pid}-") and name != stale


def test_socket_of_a_living_program_is_left_alone(place):
    text = "import curio; curio.run(curio.sleep, 1000, with_monitor=True)"
    programs = [place.program(text) for _ in range(3)]
    for program in programs:
        assert place.session(program).ask("ps").startswith(TABLE)
    assert len(place.names()) == 3


@pytest.mark.parametrize(
    ("ending", "running"),
    [
        ("os._exit(0)", True),
        ("os._exit(0)", False),
        ("sys.exit(0)", True),
        ("sys.exit(0)", False),
        ("kernel.shutdown(); sys.exit(0)", False),
    ],
)
def test_fork(place, ending, running):
    fork = f"""
    child = os.fork()
    if child == 0:
        {ending}
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    program = place.program(f"""
import os, sys
import curio

def fork():
{fork}

async def main():
    await curio.spawn(curio.sleep, 1000, daemon=True)
    if {running}:
        fork()
        print("forked", flush=True)
    await curio.sleep(0.01)

kernel = curio.Kernel(with_monitor=True)
kernel.run(main)
if not {running}:
    fork()
    print("forked", flush=True)
kernel.run(curio.sleep, 1000)
""")
    idle = place.session(program)
    program.wait_for("forked")
    assert len(place.names()) == 1
    assert place.session(program).ask("ps").startswith(TABLE)
    assert idle.ask("ps").startswith(TABLE)
    program.interrupt()
    assert place.names() == []


def test_forked_child_with_a_monitor_of_its_own(place):
    program = place.program("""
import os, sys
import curio

kernel = curio.Kernel(with_monitor=True)
kernel.run(curio.sleep, 0)
child = os.fork()
own = curio.Kernel(with_monitor=True) if child == 0 else kernel
if child:
    print(child, flush=True)
own.run(curio.sleep, 1000)
""")
    program.wait_for("\n")
    child = int(program.output)
    try:
        for pid in program.process.pid, child:
            path = eventually(lambda pid=pid: list(place.sockets.glob(f"{pid}-*.sock")))
            with Session(*path) as session:
                assert "sleep" in session.ask("ps")
                session.send("signal SIGINT\n")
                eventually(lambda path=path: not path[0].exists())
    finally:
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
    assert program.wait() == -signal.SIGINT
    assert program.errors.count("KeyboardInterrupt") == 2


FORKS = """
import os, sys, time, warnings
import curio
import curio.monitor

# From 3.12 on, CPython warns of a fork in a process with threads, as the monitor's are.
warnings.simplefilter("ignore", DeprecationWarning)

def fork():
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            {child}
        end = time.monotonic() + 2
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(pid, 9)
                sys.exit("the child hangs")
            time.sleep(0.001)

async def main():
    for _ in range(100):
        await curio.spawn(curio.sleep, 1000, daemon=True)
    print("ready", flush=True)
    time.sleep(0.1)
    if {running}:
        fork()

kernel = curio.Kernel(with_monitor=True)
kernel.run(main)
if not {running}:
    fork()
"""


@pytest.mark.parametrize(
    ("child", "running"),
    [
        ("sys.exit(0)", True),
        ("sys.exit(0)", False),
        ("os._exit(0)", False),
        ("curio.run(curio.sleep, 0); os._exit(0)", False),
        ("curio.monitor.dump(kernel, os.devnull); os._exit(0)", False),
    ],
)
def test_fork_under_a_client_that_asks(place, child, running):
    # The child has the locks that sessions of the parent's held at that moment, and nobody in
    # it gives them back.
    program = place.program(FORKS.format(child=child, running=running))
    askers = [Asker(place.session(program)) for _ in range(2)]
    program.succeed()
    for asker in askers:
        asker.close()
    assert place.names() == []


def test_programs_that_come_and_go_under_a_client_that_asks(place):
    # What a session reads of a task, a name or a stack, may be gone the next moment, and
    # then the interpreter.
    text = """
import curio

async def short(n):
    await curio.sleep(0.001 * (n % 7))

async def main():
    for _ in range(4):
        tasks = [await curio.spawn(short, n) for n in range(50)]
        for task in tasks:
            await task.join()

kernel = curio.Kernel(with_monitor=True)
kernel.run(main)
"""
    stop = threading.Event()
    answers = 0

    def ask():
        nonlocal answers
        while not stop.is_set():
            for path in place.sockets.glob("*.sock"):
                try:
                    with Session(path) as session:
                        while True:
                            for command in "ps", "where -j", "deadlock":
                                session.ask(command)
                                answers += 1
                except OSError:
                    pass
            time.sleep(0.001)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        path = place.write(text)
        for _ in range(20):
            with Program(path) as program:
                program.succeed()
                assert program.output == ""
    finally:
        stop.set()
        for thread in threads:
            thread.join(LIMIT)
    assert answers > 20
    assert place.names() == []


# --- crowds, and bad company --------------------------------------------------------------


def test_many_tasks(place):
    count = 100_000
    program = place.program(f"""
import signal, time
import curio

async def sleeper():
    await curio.sleep(1000)

longest = 0

async def ticker():
    global longest
    while True:
        before = time.monotonic()
        await curio.sleep(0.001)
        longest = max(longest, time.monotonic() - before)

async def main():
    global longest
    for _ in range({count}):
        await curio.spawn(sleeper, daemon=True)
    await curio.sleep(0)
    await curio.spawn(ticker, daemon=True)
    async with curio.SignalSet(signal.SIGUSR1) as signals:
        print("ready", flush=True)
        longest = 0
        await signals.wait()
    print(longest, flush=True)
    import os; os._exit(0)

curio.run(main, with_monitor=True)
""")
    session = place.session(program)
    program.wait_for("ready")
    before = time.monotonic()
    rows = session.lines("ps")[2:]
    assert time.monotonic() - before < 5
    ids = [int(row.split(None, 1)[0]) for row in rows]
    assert ids == sorted(set(ids))
    assert sum(row.endswith(" sleeper") for row in rows) == count
    before = time.monotonic()
    assert len(session.lines("tree")) == len(rows)
    assert session.ask("deadlock") == "No deadlock\n"
    assert session.ask(f"why {ids[-1]}").startswith("Task ")
    assert time.monotonic() - before < 5
    program.process.send_signal(signal.SIGUSR1)
    program.succeed()
    assert float(program.lines[-1]) < 1.0


def test_every_command_for_a_crowd(place):
    program = place.program("""
import curio

lock = curio.Lock()

async def waits():
    async with lock:
        await curio.sleep(1000)

async def main():
    for _ in range(5000):
        await curio.spawn(waits, daemon=True)
    print("ready", flush=True)
    await curio.sleep(1000)

curio.run(main, with_monitor=True)
""")
    program.wait_for("ready")
    session = place.session(program)
    stacks = [json.loads(line) for line in session.lines("where -j")]
    assert len(stacks) == 5002
    assert all(stack["frames"] for stack in stacks)
    last = max(stack["id"] for stack in stacks)
    (first, _) = session.lines(f"why {last}")
    # Not all 4998 of them.
    assert first.count("(waits)") < 20 and " more" in first


def test_sessions_at_once(place):
    program = place.program("""
import curio

async def main():
    print("ready", flush=True)
    while True:
        task = await curio.spawn(curio.sleep, 0.001)
        await task.join()

curio.run(main, with_monitor=True)
""")
    program.wait_for("ready")
    sessions = [place.session(program) for _ in range(10)]
    failures = []

    def ask(session):
        try:
            for _ in range(30):
                for command in "ps", "where -j", "tree", "deadlock", "cancelled":
                    assert session.ask(command)
            session.send("quit\n")
            assert session.rest() == "Leaving monitor\n"
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=ask, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert failures == []
    program.interrupt()


def test_more_sessions_than_there_may_be(place):
    program = place.program("import curio; curio.run(curio.sleep, 1000, with_monitor=True)")
    sessions = [place.session(program)]
    with pytest.raises(ConnectionError, match="Too many sessions"):
        for _ in range(1000):
            sessions.append(place.session(program))
    assert len(sessions) >= 10
    assert all(session.ask("ps").startswith(TABLE) for session in sessions)
    # Who leaves makes room.
    sessions.pop().socket.close()

    def joined():
        try:
            return place.session(program)
        except ConnectionError:
            return None

    assert eventually(joined).ask("ps").startswith(TABLE)
    program.interrupt()


def test_garbage(session, place):
    session.send(bytes(range(256)).replace(b"\n", b"") * 3 + b"\n")
    assert session.answer() == UNKNOWN
    session.send("ps\n" + "\n" * 3 + "nonsense\n")
    said = "".join(session.answer() for _ in range(1))
    while "Unknown" not in said:
        said += session.answer()
    assert said.startswith(TABLE) and said.endswith(UNKNOWN)


def test_long_lines(session):
    for length in 4000, 5000, 1_000_000:
        said = session.ask("x" * length)
        assert said == (UNKNOWN if length <= 4096 else "Bad command. Line too long\n")
    assert session.ask("ps" + " " * 4000).startswith(TABLE)


def test_web_browser_is_hung_up_on(session):
    session.send("POST / HTTP/1.1\r\nHost: localhost\r\n\r\nsignal SIGKILL\r\n")
    assert session.rest() == ""


def test_clients_that_vanish(place):
    with curio.Kernel() as kernel:
        monitor = curio.monitor.Monitor(kernel, "127.0.0.1", 0)
        kernel.run(monitor.start)
        for said in b"", b"ps", b"ps\n" * 1000, b"where -j\n":
            peer = socket.create_connection(monitor.address)
            peer.sendall(said)
            vanish(peer)
        with Session(monitor.address) as session:
            assert session.ask("ps").startswith(TABLE)
        eventually(lambda: len(monitor_threads()) <= 1, "the end of their threads")
        monitor.close()


def test_client_that_never_reads(place):
    program = place.program("""
import curio

async def main():
    for _ in range(2000):
        await curio.spawn(curio.sleep, 1000, daemon=True)
    print("ready", flush=True)
    await curio.sleep(1000)

curio.run(main, with_monitor=True)
""")
    program.wait_for("ready")
    deaf = place.session(program)
    deaf.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while True:
            deaf.send("ps\n" * 1000)
    session = place.session(program)
    before = time.monotonic()
    assert session.ask("ps").count("\n") == 2004
    assert time.monotonic() - before < 2
    before = time.monotonic()
    program.interrupt()
    assert time.monotonic() - before < 5
    assert place.names() == []


def test_connection_that_says_nothing(place):
    with curio.Kernel(with_monitor=True):
        (path,) = place.sockets.iterdir()
        silent = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for sock in silent:
            sock.connect(str(path))
        with Session(path) as session:
            assert session.ask("ps").startswith(TABLE)
        before = time.monotonic()
    assert time.monotonic() - before < 1
    for sock in silent:
        sock.close()


def test_other_users_are_not_served(place):
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with curio.Kernel(with_monitor=True):
        (path,) = place.sockets.iterdir()
        # As if the directory's and the socket's modes were no protection.
        place.directory.chmod(0o755)
        place.sockets.chmod(0o755)
        path.chmod(0o666)
        text = (
            "import os, socket, sys\nos.setgid(12345); os.setuid(12345)\n"
            "sock = socket.socket(socket.AF_UNIX); sock.connect(sys.argv[1])\n"
            "sys.stdout.write(sock.makefile().read())\n"
        )
        other = subprocess.run(
            [sys.executable, "-S", "-c", text, str(path)], capture_output=True, timeout=LIMIT
        )
        if other.returncode != 0:
            pytest.skip(f"this root cannot be another user: {other.stderr.decode()}")
        assert other.stdout == b"Not allowed\n"


def test_sessions_that_come_and_go_leave_nothing(kernel, place):
    def figures():
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    (path,) = place.sockets.iterdir()

    def visit():
        with Session(path) as session:
            session.ask("where -j")

    visit()
    eventually(lambda: len(monitor_threads()) == 1)
    before = figures()
    for _ in range(200):
        visit()
    eventually(lambda: figures() == before, "the end of sessions")


def test_kernel_in_another_thread(place):
    def work():
        curio.run(main, with_monitor=True)

    async def main():
        await started.set()
        await curio.sleep(1000)

    started = curio.Event()
    thread = threading.Thread(target=work)
    thread.start()
    (path,) = eventually(lambda: list(place.sockets.glob("*.sock")) if started.is_set() else None)
    with Session(path) as session:
        number = tasks(session)[main.__qualname__]
        assert ", in main\n" in session.ask(f"where {number}")
        session.ask(f"cancel {number}")
        thread.join(LIMIT)
        assert session.rest() == ""
    assert place.names() == []


def test_runtime_directory_that_is_removed(place):
    with curio.Kernel(with_monitor=True) as kernel:
        (path,) = place.sockets.iterdir()
        with Session(path) as session:
            shutil.rmtree(place.sockets)
            assert session.ask("ps").startswith(TABLE)
        kernel.run(curio.sleep, 0.001)
    # The next one makes it again.
    with curio.Kernel(with_monitor=True):
        assert len(place.names()) == 1


# --- the client ---------------------------------------------------------------------------


def test_client(place):
    text = "import curio; curio.run(curio.sleep, 1000, with_monitor=True)"
    program, other = place.program(text), place.program(text)
    place.session(program)
    place.session(other)
    terminal = place.terminal("-m", "curio.monitor")
    said = terminal.ends(1)
    for listed in program, other:
        assert re.search(rf"^{listed.process.pid} +2 ", said, re.M), said
    terminal = place.terminal("-m", "curio.monitor", program.process.pid, TERM="xterm")
    terminal.expect("curio > ")
    terminal.type("whe\t\t\t")
    terminal.expect("where ")
    terminal.type("2\r")
    terminal.expect(", state='TIME_SLEEP')")
    terminal.expect("curio > ")
    terminal.type("watch ps 0.1\r")
    terminal.expect("Every 0.1 s: ps")
    terminal.expect("Monitor.monitor_task")
    terminal.type("q")
    terminal.expect("curio > ")
    terminal.type("signal SIGKILL\r")
    assert terminal.ends().endswith("The program has ended.\n")
    assert program.wait() == -signal.SIGKILL
    # The only one that is left, and what the other one has left behind is removed.
    terminal = place.terminal("-m", "curio.monitor")
    terminal.expect("curio > ")
    terminal.type("exit\r")
    assert terminal.ends().endswith("Leaving monitor\n")
    assert [name.partition("-")[0] for name in place.names()] == [str(other.process.pid)]


def test_client_on_a_port(place):
    port = free_port()
    program = place.program(
        f"import curio; curio.run(curio.sleep, 1000, with_monitor=('127.0.0.1', {port}))"
    )
    program.connect(port).close()
    terminal = place.terminal("-m", "curio.monitor", "-H", "localhost", "-p", port)
    terminal.expect("Curio Monitor: 2 tasks running")
    terminal.expect("curio > ")
    terminal.type("cancel 2\r")
    terminal.expect("Cancelling task 2\n")
    assert terminal.ends().endswith("The program has ended.\n")
    program.succeed()


# --- without a monitor: dump --------------------------------------------------------------


def check_picture(text, *names):
    assert text.startswith(TABLE)
    for name in names:
        assert re.search(rf"^\d+ .* {re.escape(name)}$", text, re.M), text
        assert re.search(rf"^(No stack|Stack) for Task\(.*\b{re.escape(name)}\b", text, re.M), text
        assert re.search(rf"^Task \d+ \({re.escape(name)}\) is ", text, re.M), text
    assert "No deadlock\n" in text
    assert text.endswith("No cancelled tasks\n")


def test_dump(place, capfd):
    async def main():
        await leave_behind(forever())
        curio.monitor.dump(kernel, inside)
        curio.monitor.dump(kernel)

    inside = io.StringIO()
    with curio.Kernel() as kernel:
        kernel.run(main)
        check_picture(inside.getvalue(), "forever", "test_dump.<locals>.main")
        out, err = capfd.readouterr()
        assert out == ""
        check_picture(err, "forever", "test_dump.<locals>.main")
        curio.monitor.dump(kernel, outside := io.StringIO())
        check_picture(outside.getvalue(), "forever")
        assert ".main" not in outside.getvalue()
        path = place.directory / "dumped"
        path.write_text("before\n")
        curio.monitor.dump(kernel, path)
        curio.monitor.dump(kernel, str(path))
        before, first, second = path.read_text().split("Task   State")
        assert before == "before\n" and first.count("\n") == second.count("\n")
        with open(place.directory / "another", "w") as file:
            curio.monitor.dump(kernel, file)
            assert (place.directory / "another").read_text().startswith(TABLE)
        kernel.shutdown()
        curio.monitor.dump(kernel, out := io.StringIO())
        check_picture(out.getvalue())


def test_dump_from_another_thread_while_the_kernel_is_busy(place):
    async def main():
        thread = threading.Thread(target=curio.monitor.dump, args=(kernel, out))
        thread.start()
        while thread.is_alive():
            pass
        thread.join()

    out = io.StringIO()
    with curio.Kernel() as kernel:
        kernel.run(main)
    check_picture(out.getvalue(), main.__qualname__)
    assert "is running\n" in out.getvalue()


def test_dump_of_a_deadlock_and_of_a_slow_end(kernel, entangled):
    async def slow():
        try:
            await curio.sleep(1000)
        except curio.CancelledError:
            await end.wait()

    async def main():
        task = await curio.spawn(slow(), daemon=True)
        await task.cancel(blocking=False)
        await curio.sleep(0.01)

    end = curio.Event()
    first, _ = entangled(joins(1), joins(0))
    kernel.run(main)
    curio.monitor.dump(kernel, out := io.StringIO())
    text = out.getvalue()
    assert f"Deadlock: task {first.id} (" in text
    assert re.search(r"^Task \d+ \(.*slow\) was cancelled by task \d+ \(.*main\)", text, re.M)
    kernel.run(end.set)


def test_dump_of_what_is_no_kernel():
    for wrong in None, 1, "kernel":
        with pytest.raises((TypeError, AttributeError)):
            curio.monitor.dump(wrong)


def test_dump_on_signal(place):
    program = place.program("""
import os, signal, sys, time
import curio
import curio.monitor

def handler(signo, frame):
    print("former", flush=True)

async def main():
    if sys.argv[1:] == ["busy"]:
        while not done():
            pass
    while not done():
        await curio.sleep(0.01)

def done():
    return os.path.exists("done") or time.monotonic() > end

end = time.monotonic() + 30
signal.signal(signal.SIGUSR1, handler)
kernel = curio.Kernel()
assert curio.monitor.dump_on_signal(signal.SIGUSR1, kernel, sys.stdout) is handler
assert curio.monitor.dump_on_signal(signal.SIGUSR2, kernel) is signal.SIG_DFL
print("ready", flush=True)
kernel.run(main)
""")
    program.wait_for("ready")
    eventually(lambda: program.process.send_signal(signal.SIGUSR1) or "main" in program.output)
    program.wait_for("No cancelled tasks")
    program.process.send_signal(signal.SIGUSR2)
    eventually(lambda: "No cancelled tasks" in program.errors)
    check_picture(program.errors, "main")
    program.process.kill()


def test_dump_on_signal_while_a_task_computes_and_while_the_kernel_sleeps(place):
    for body in "while True: pass", "await curio.sleep(1000)", "time.sleep(1000)":
        program = place.program(f"""
import signal, sys, time
import curio
import curio.monitor

async def main():
    print("ready", flush=True)
    {body}

kernel = curio.Kernel()
curio.monitor.dump_on_signal(signal.SIGUSR1, kernel)
kernel.run(main)
""")
        program.wait_for("ready")
        program.process.send_signal(signal.SIGUSR1)
        eventually(lambda program=program: "No cancelled tasks" in program.errors)
        check_picture(program.errors, "main")
        program.process.kill()


def test_dump_on_signal_elsewhere():
    def elsewhere():
        try:
            curio.monitor.dump_on_signal(signal.SIGUSR1, None)
        except ValueError as error:
            errors.append(error)

    errors = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(errors) == 1


# --- tasks of Rust's ----------------------------------------------------------------------


def test_tasks_of_rusts(kernel, session):
    one, two = curio.Lock(), curio.Lock()

    async def takes():
        async with two:
            curio.debug.locker(one, two)
            await curio.sleep(0.05)
            async with one:
                pass

    async def main():
        task = await curio.spawn(takes)
        await curio.sleep(0.1)
        other = tasks(session)["locker"]
        check_the_two(session, task, other)
        session.ask(f"cancel {other}")
        await task.join()

    kernel.run(main)
    assert session.ask("deadlock") == "No deadlock\n"
    assert "locker" not in session.ask("ps")


def check_the_two(session, task, other):
    one, two = f"task {task.id} ({task.name})", f"task {other} (locker)"
    assert re.sub(r"Lock \d+", "Lock N", session.ask("deadlock")) == (
        f"Deadlock: {one} waits for Lock N, held by {two}, which waits for Lock N, held by {one}\n"
    )
    assert session.ask(f"where {other}").startswith(
        f"Stack for Task(id={other}, locker, state='LOCK_ACQUIRE') (most recent call last):\n"
        '  File "crates/curio-py/src/sync.rs", line '
    )
    said = session.ask(f"why {task.id}")
    assert re.search(r"held by task \d+ \(locker\), taken at crates/curio-py/src/sync.rs:\d+", said)
    for line in session.lines("where -j"):
        json.loads(line)
