"""`run(..., pdb=True)`: a debugger where a task has crashed, and then the kernel goes on.

Goal: the user can look at a crash, and whatever is typed or happens at the debugger's prompt, the
other tasks carry on afterwards. Method: programs on a pseudo-terminal, with a user who types.
"""

import re
import signal
import subprocess
import sys
import time

import curio
import pytest
from monitored import CTRL_C, CTRL_D, LIMIT, Place, Session, eventually

PDB = "(Pdb) "

CRASH = """
import curio

def inner(value):
    items = [value, value + 1]
    raise ValueError("boom")

async def kid():
    x = 42
    inner(x)

async def ticker():
    for n in range(3):
        await curio.sleep(0.02)
        print("tick", n, flush=True)
    return "ticked"

async def main():
    task = await curio.spawn(ticker)
    await curio.spawn(kid)
    print(await task.join())
    return "done"

kernel = curio.Kernel()
print(kernel.run(main(), pdb=True))
"""


@pytest.fixture
def place():
    with Place() as place:
        yield place


@pytest.fixture
def run(place):
    """Starts a program on a terminal."""

    def start(text, *arguments, **environment):
        return place.terminal(place.write(text), *arguments, **environment)

    return start


def tell(terminal, command):
    """What the debugger says to a command, up to its next prompt."""
    terminal.type(command + "\r")
    return terminal.expect(PDB).partition(command + "\n")[2]


def leave(terminal, how="q"):
    """Leaves the debugger; nothing that is typed is left unread."""
    terminal.type(how + "\r")


def test_look_and_go_on(run):
    terminal = run(CRASH)
    said = terminal.expect(PDB)
    assert said.count("ValueError: boom\n") == 1 and "Curio: Task Crash: kid\n" in said
    assert said.endswith('(6)inner()\n-> raise ValueError("boom")\n')
    assert tell(terminal, "p items") == "[42, 43]\n"
    assert "NameError" in tell(terminal, "p x")
    assert "(10)kid()\n-> inner(x)\n" in tell(terminal, "up")
    assert tell(terminal, "p x") == "42\n"
    assert "Oldest frame" in tell(terminal, "up")
    assert "NameError" in tell(terminal, "p value")
    assert "inner" in tell(terminal, "down")
    assert "items = [value, value + 1]" in tell(terminal, "l")
    # The kernel stands still as long as one looks.
    time.sleep(0.1)
    assert "tick" not in terminal.output
    leave(terminal)
    assert terminal.ends().endswith("q\ntick 0\ntick 1\ntick 2\nticked\ndone\n")
    assert terminal.output.count(PDB) == 9


@pytest.mark.parametrize("how", ["q", "quit", "exit", "c", "continue", CTRL_D])
def test_ways_to_leave(run, how):
    terminal = run(CRASH)
    terminal.expect(PDB)
    terminal.type(how if how == CTRL_D else how + "\r")
    assert terminal.ends().endswith("tick 0\ntick 1\ntick 2\nticked\ndone\n")
    assert "Bdb" not in terminal.output


@pytest.mark.parametrize(
    "command", ["n", "s", "r", "unt", "j 5", "run", "restart", "b 4", "nonsense"]
)
def test_commands_that_make_no_sense_after_the_end(run, command):
    terminal = run(CRASH)
    terminal.expect(PDB)
    terminal.type(command + "\r")
    # Some go on as `c` does, others complain and stay.
    while True:
        if terminal.process.poll() is not None or "done\n" in terminal.output:
            break
        try:
            terminal.expect(PDB, within=0.3)
            leave(terminal)
        except AssertionError:
            pass
    said = terminal.ends()
    assert terminal.output.rstrip().endswith("done"), said
    assert "Bdb" not in said and "Traceback" not in said


def test_ctrl_c_at_the_prompt(run):
    terminal = run(CRASH)
    terminal.expect(PDB)
    terminal.type(CTRL_C)
    terminal.expect("--KeyboardInterrupt--")
    terminal.expect(PDB)
    assert tell(terminal, "p items") == "[42, 43]\n"
    leave(terminal)
    assert terminal.ends().endswith("ticked\ndone\n")


def test_ctrl_c_while_an_expression_is_evaluated(run):
    terminal = run(CRASH)
    terminal.expect(PDB)
    terminal.type("import time; print('now'); time.sleep(100)\r")
    terminal.expect("now\n")
    terminal.type(CTRL_C)
    terminal.expect("KeyboardInterrupt")
    terminal.expect(PDB)
    leave(terminal)
    assert terminal.ends().endswith("ticked\ndone\n")


def test_ctrl_c_after_the_prompt_ends_the_program(run):
    terminal = run("""
import curio

async def kid():
    raise ValueError("boom")

async def main():
    await curio.spawn(kid)
    await curio.sleep(0.01)
    print("goes on", flush=True)
    await curio.sleep(1000)

kernel = curio.Kernel()
kernel.run(main(), pdb=True)
""")
    terminal.expect(PDB)
    leave(terminal)
    terminal.expect("goes on")
    terminal.type(CTRL_C)
    said = terminal.ends(-signal.SIGINT)
    assert said.rstrip().endswith("KeyboardInterrupt") and PDB not in said


def test_whatever_is_evaluated(run):
    terminal = run(CRASH)
    terminal.expect(PDB)
    for command in (
        "raise SystemExit(3)",
        "raise KeyboardInterrupt",
        "import bdb; raise bdb.BdbQuit",
        "import curio; raise curio.CancelledError",
        "1 / 0",
    ):
        tell(terminal, "!" + command)
    leave(terminal)
    assert terminal.ends().endswith("ticked\ndone\n")


def test_curio_itself_at_the_prompt(run):
    # The kernel is in the middle of something: it refuses, or answers, and goes on after it.
    terminal = run(CRASH)
    terminal.expect(PDB)
    assert "RuntimeError" in tell(terminal, "curio.run(curio.sleep, 0)")
    assert "RuntimeError" in tell(terminal, "kernel.run(curio.sleep, 0)")
    assert "RuntimeError" in tell(terminal, "kernel.shutdown()")
    assert "ticker" in tell(terminal, "p curio.get_all_tasks()")
    said = tell(terminal, "import curio.monitor, sys; curio.monitor.dump(kernel, sys.stdout)")
    assert "Task   State" in said and " ticker" in said
    leave(terminal)
    assert terminal.ends().endswith("ticked\ndone\n")


SEVERAL = """
import curio

async def kid(n):
    await curio.sleep(0.01 * n)
    number = n
    raise ValueError(f"boom {n}")

async def main():
    for n in range(3):
        await curio.spawn(kid, n)
    await curio.sleep(0.1)
    return "done"

kernel = curio.Kernel()
print(kernel.run(main(), pdb=True))
"""


def test_several_crashes(run):
    terminal = run(SEVERAL)
    for n in range(3):
        assert f"ValueError: boom {n}\n" in terminal.expect(PDB)
        assert tell(terminal, "p number") == f"{n}\n"
        leave(terminal)
    assert terminal.ends().endswith("done\n")


def test_several_crashes_and_no_input(run):
    terminal = run(SEVERAL)
    for _ in range(3):
        terminal.expect(PDB)
        terminal.type(CTRL_D)
    assert terminal.ends().endswith("done\n")


MAIN = """
import curio

async def ticker():
    for n in range(3):
        await curio.sleep(0.01)
        print("tick", n, flush=True)

async def main():
    await curio.spawn(ticker)
    await curio.spawn(curio.sleep, 1000, daemon=True)
    local = "mine"
    raise KeyError("of main")

kernel = curio.Kernel()
try:
    kernel.run(main(), pdb=True)
finally:
    print("run is left", flush=True)
"""


def test_crash_of_the_main_task(run):
    terminal = run(MAIN)
    # Somebody has to say what it is that has happened.
    assert "KeyError('of main')" in terminal.expect(PDB) or "KeyError: 'of main'" in terminal.output
    assert tell(terminal, "p local") == "'mine'\n"
    leave(terminal)
    said = terminal.ends(1)
    order = [
        said.index(text) for text in ("tick 0", "tick 1", "tick 2", "run is left", "Traceback")
    ]
    assert order == sorted(order)
    assert said.count("KeyError: 'of main'") == 1
    assert "curio.Kernel" not in said and "curio/" not in said


def test_crash_of_the_main_task_that_joined_one(run):
    terminal = run("""
import curio

async def kid():
    of_kid = 1
    raise ValueError("boom")

async def main():
    of_main = 2
    task = await curio.spawn(kid)
    await task.join()

kernel = curio.Kernel()
kernel.run(main(), pdb=True)
""")
    assert "ValueError" in terminal.expect(PDB)
    assert tell(terminal, "p of_kid") == "1\n"
    leave(terminal)
    assert "TaskError" in terminal.expect(PDB)
    assert tell(terminal, "p of_main") == "2\n"
    leave(terminal)
    assert "TaskError: task 2 (kid) ended with ValueError\n" in terminal.ends(1)


def test_error_that_is_handled_opens_nothing(run):
    terminal = run("""
import curio

async def kid():
    raise ValueError("boom")

async def main():
    try:
        await kid()
    except ValueError:
        print("handled")

curio.Kernel().run(main(), pdb=True)
""")
    assert terminal.ends() == "handled\n"


def test_cancellation_opens_nothing(run):
    terminal = run("""
import curio

async def kid():
    await curio.sleep(1000)

async def cleans_up():
    try:
        await curio.sleep(1000)
    finally:
        await curio.sleep(0.01)

async def slow():
    await curio.timeout_after(0.01, curio.sleep, 1000)

async def main():
    for body in kid, cleans_up:
        task = await curio.spawn(body())
        print(await task.cancel())
    task = await curio.spawn(kid)
    print(await task.cancel())    # before it has run
    try:
        await slow()
    except curio.TaskTimeout:
        print("timeout")
    await curio.ignore_after(0.01, curio.sleep, 1000)
    await curio.spawn(cleans_up, daemon=True)

curio.Kernel().run(main(), pdb=True, shutdown=True)
""")
    assert terminal.ends() == "True\nTrue\nTrue\ntimeout\n"


@pytest.mark.parametrize(
    ("error", "status"), [("SystemExit(3)", 3), ("KeyboardInterrupt", -signal.SIGINT)]
)
def test_exit_opens_nothing(run, error, status):
    terminal = run(f"""
import curio

async def kid():
    raise {error}

async def main():
    await curio.spawn(kid)
    await curio.sleep(1000)

curio.Kernel().run(main(), pdb=True)
""")
    assert PDB not in terminal.ends(status)


def test_without_a_log(run):
    terminal = run("""
import curio

async def kid():
    number = 7
    raise ValueError("boom")

async def main():
    await curio.spawn(kid)
    await curio.sleep(0.01)

curio.Kernel().run(main(), pdb=True, log_errors=False)
""")
    said = terminal.expect(PDB)
    assert "Task Crash" not in said
    # A prompt out of nothing would be a riddle.
    assert "ValueError('boom')" in said or "ValueError: boom" in said
    assert tell(terminal, "p number") == "7\n"
    leave(terminal)
    assert terminal.ends() == "q\n"


def test_only_in_the_run_that_asks_for_it(run):
    terminal = run("""
import curio

async def kid(n):
    raise ValueError(f"boom {n}")

async def main(n):
    await curio.spawn(kid, n)
    await curio.sleep(0.01)

kernel = curio.Kernel()
kernel.run(main(1))
kernel.run(main(2), pdb=True)
kernel.run(main(3), pdb=False)
kernel.run(main(4))
print("done")
""")
    assert "boom 2" in terminal.expect(PDB)
    leave(terminal)
    said = terminal.ends()
    assert PDB not in said and "boom 3" in said and "boom 4" in said and said.endswith("done\n")


def test_daemons_and_tasks_from_before(run):
    terminal = run("""
import curio

async def kid(n):
    await curio.sleep(0.01)
    number = n
    raise ValueError(f"boom {n}")

kernel = curio.Kernel()
kernel.add_task(kid(1))
kernel.add_task(kid(2), daemon=True)
kernel.run(curio.sleep(0.1), pdb=True)
print("done")
""")
    for n in 1, 2:
        terminal.expect(PDB)
        assert tell(terminal, "p number") == f"{n}\n"
        leave(terminal)
    assert terminal.ends().endswith("done\n")


def test_crash_while_the_kernel_is_shut_down(run):
    terminal = run("""
import curio

async def kid():
    try:
        await curio.sleep(1000)
    finally:
        number = 7
        raise ValueError("boom")

async def main():
    await curio.spawn(kid(), daemon=True)

curio.Kernel().run(main(), pdb=True, shutdown=True)
print("done")
""")
    assert "ValueError: boom" in terminal.expect(PDB)
    assert tell(terminal, "p number") == "7\n"
    leave(terminal)
    assert terminal.ends().endswith("done\n")


def test_exceptions_of_all_kinds(run):
    terminal = run("""
import bdb
import curio

class Strange(Exception):
    def __repr__(self):
        raise RuntimeError("no words")
    __str__ = __repr__

async def kid(error):
    raise error

async def main():
    group = ExceptionGroup("two", [ValueError(1), TypeError(2)]) if "ExceptionGroup" in dir(
        __builtins__) else ValueError()
    for error in Strange(), bdb.BdbQuit(), group, curio.CurioError("x"), StopIteration(1):
        await curio.spawn(kid, error)
        await curio.sleep(0.01)
    return "done"

print(curio.Kernel().run(main(), pdb=True))
""")
    for _ in range(5):
        terminal.expect(PDB)
        assert re.search(r"kid\(\)|Strange|-> raise", tell(terminal, "w"))
        leave(terminal)
    said = terminal.ends()
    assert said.endswith("done\n")
    assert "Exception ignored" not in terminal.output


def test_breakpoint_in_a_task(run):
    # That has nothing to do with pdb=True; quitting it is the task's crash.
    terminal = run("""
import curio

async def kid():
    local = 5
    breakpoint()
    await curio.sleep(0)
    return local

async def main():
    task = await curio.spawn(kid)
    return await task.join()

print(curio.Kernel().run(main()))
""")
    terminal.expect(PDB)
    tell(terminal, "n")
    assert tell(terminal, "p local") == "5\n"
    leave(terminal, "c")
    assert terminal.ends().endswith("5\n")


def test_frames_are_the_users(run):
    terminal = run("""
import contextlib
import curio

@contextlib.asynccontextmanager
async def block():
    yield

async def numbers():
    yield 1
    in_the_generator = "here"
    raise ValueError("boom")

async def kid():
    async with block():
        await curio.timeout_after(10, reads())

async def reads():
    of_reads = 1
    async for _ in numbers():
        await curio.sleep(0.01)

async def main():
    await curio.spawn(kid)
    await curio.sleep(0.1)

curio.Kernel().run(main(), pdb=True)
""")
    terminal.expect(PDB)
    assert tell(terminal, "p in_the_generator") == "'here'\n"
    frames = re.findall(r"\.py\(\d+\)(\w+)\(", tell(terminal, "w"))
    assert frames == ["kid", "reads", "numbers"]
    tell(terminal, "up")
    assert tell(terminal, "p of_reads") == "1\n"
    leave(terminal)
    terminal.ends()


def test_monitor_answers_meanwhile(run, place):
    terminal = run(CRASH.replace("curio.Kernel()", "curio.Kernel(with_monitor=True)"))
    terminal.expect(PDB)
    (path,) = eventually(lambda: list(place.sockets.iterdir()))
    with Session(path) as session:
        rows = session.lines("ps")[2:]
        states = {row.split()[-1]: row.split()[1] for row in rows}
        assert states.pop("Monitor.monitor_task") in ("TIME_SLEEP", "READY")
        assert states.pop("ticker") == "TIME_SLEEP"
        assert states.pop("main") == "TASK_JOIN"
        assert set(states) <= {"kid"}
        for row in rows:
            if not row.endswith(" kid"):
                number = row.split()[0]
                assert session.ask(f"where {number}").startswith("Stack for Task(")
                assert session.ask(f"why {number}").startswith(f"Task {number} (")
        assert session.ask("deadlock") == "No deadlock\n"
        ticker = next(row.split()[0] for row in rows if row.endswith(" ticker"))
        assert session.ask(f"cancel {ticker}") == f"Cancelling task {ticker}\n"
        assert "tick" not in terminal.output.partition(PDB)[2]
        leave(terminal)
        assert session.rest() == ""
    assert terminal.ends().endswith("None\ndone\n")
    assert place.names() == []


def test_time_in_the_debugger_counts(run):
    # Whoever waits for a time that has come meanwhile is served when the kernel goes on.
    terminal = run("""
import curio

async def kid():
    raise ValueError("boom")

async def waits():
    try:
        await curio.timeout_after(0.1, curio.sleep(1000))
    except curio.TaskTimeout:
        print("timeout")

async def main():
    task = await curio.spawn(waits)
    await curio.spawn(kid)
    await task.join()

curio.Kernel().run(main(), pdb=True)
""")
    terminal.expect(PDB)
    time.sleep(0.2)
    leave(terminal)
    assert terminal.ends() == "q\ntimeout\n"


@pytest.mark.parametrize("streams", ["empty", "closed"])
def test_nobody_at_the_terminal(place, streams):
    # As in a test run or a service: the debugger finds the end of the input, and that is all.
    path = place.write(CRASH)
    redirection = {"empty": "</dev/null", "closed": "<&-"}[streams]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, str(path)],
        capture_output=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done
    assert done.stdout.decode().endswith("tick 0\ntick 1\ntick 2\nticked\ndone\n")
    assert done.stderr.decode().count("ValueError: boom\n") == 1


def test_commands_from_a_pipe(place):
    done = subprocess.run(
        [sys.executable, str(place.write(SEVERAL))],
        input=b"p number\nq\nup\np number + 10\nq\np number\n",
        capture_output=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done
    said = done.stdout.decode()
    assert re.findall(r"\(Pdb\) (\d+)\n", said) == ["0", "11", "2"]
    assert said.endswith("done\n")


def test_run_has_no_such_argument():
    async def main():
        raise AssertionError("it has run")

    with pytest.raises(TypeError, match="pdb"):
        curio.run(main, pdb=True)


def test_nothing_is_left_of_what_was_looked_at(run):
    terminal = run("""
import gc, weakref
import curio

class Local:
    pass

seen = []

async def kid():
    local = Local()
    seen.append(weakref.ref(local))
    raise ValueError("boom")

async def main():
    await curio.spawn(kid)
    await curio.sleep(0.01)

kernel = curio.Kernel()
kernel.run(main(), pdb=True)
import sys
sys.last_value = sys.last_traceback = sys.last_type = None
gc.collect()
print(seen[0]() is None)
""")
    terminal.expect(PDB)
    tell(terminal, "p local")
    leave(terminal)
    assert terminal.ends() == "q\nTrue\n"
