"""The prompt of `python -m curio`, as its user sees it: on a pseudo-terminal.

Statements may await, tasks go on while nobody types, and Ctrl-C ends what runs and not the session.
"""

import os
import subprocess
import sys

import pytest
from monitored import CTRL_C, CTRL_D, Terminal

PROMPT = ">>> "
MORE = "... "


class Repl(Terminal):
    def __init__(self, **environment):
        super().__init__("-m", "curio", **environment)
        self.expect(PROMPT)

    def enter(self, line):
        """Types a line, and waits until it is seen."""
        self.type(line + "\n")
        self.expect(line + "\n")

    def answer(self, line):
        """What a statement prints."""
        self.enter(line)
        return self.expect(PROMPT)


@pytest.fixture
def repl(tmp_path):
    repl = Repl(XDG_RUNTIME_DIR=str(tmp_path))
    yield repl
    repl.close()


def test_values_are_shown_and_kept(repl):
    assert repl.answer("40 + 2") == "42\n"
    assert repl.answer("_ + 1") == "43\n"
    assert repl.answer("x = 7") == ""
    assert repl.answer("x") == "7\n"
    assert repl.answer("__name__") == "'__main__'\n"


def test_await_works(repl):
    assert repl.answer("type(await curio.sleep(0.01))") == "<class 'float'>\n"
    assert "TaskTimeout" in repl.answer("await curio.timeout_after(0.01, curio.sleep, 1000)")


def test_a_statement_of_several_lines(repl):
    repl.enter("async with curio.TaskGroup() as group:")
    repl.expect(MORE)
    repl.enter("    for n in range(3): _ = await group.spawn(curio.sleep, 0)")
    repl.expect(MORE)
    assert repl.answer("") == ""
    assert repl.answer("len(group.results)") == "3\n"


def test_tasks_go_on_while_nobody_types(repl):
    repl.answer("import os; seen, tell = os.pipe()")
    repl.enter("async def later():")
    repl.expect(MORE)
    repl.enter("    await curio.sleep(0.2); print('by itself')")
    repl.expect(MORE)
    repl.answer("")
    assert "later" in repl.answer("await curio.spawn(later)")
    repl.expect("by itself\n")  # without a further key
    assert repl.answer("1") == "1\n"


def test_errors_are_shown_without_our_frames(repl):
    shown = repl.answer("1 / 0")
    assert "ZeroDivisionError" in shown and "__main__.py" not in shown
    assert "SyntaxError" in repl.answer("1 +* 2")
    assert "TaskCancelled" in repl.answer("raise curio.TaskCancelled")
    assert repl.answer("1") == "1\n"


def test_ctrl_c_cancels_the_statement(repl):
    repl.enter("try: print('sleeps'); await curio.sleep(1000)")
    repl.expect(MORE)
    repl.enter("except curio.CancelledError: print('cleans up'); _ = await curio.sleep(0); raise")
    repl.expect(MORE)
    repl.enter("")
    repl.expect("sleeps\n")
    repl.type(CTRL_C)
    repl.expect("cleans up\n")
    assert repl.expect(PROMPT) == "\nKeyboardInterrupt\n"
    assert repl.answer("1") == "1\n"


def test_ctrl_c_ends_a_computation(repl):
    repl.enter("for _ in [print('computes')]:")
    repl.expect(MORE)
    repl.enter("    while True: pass")
    repl.expect(MORE)
    repl.enter("")
    repl.expect("computes\n")
    # Not `type`: it would wait until the program rests.
    os.kill(repl.process.pid, 2)
    assert repl.expect(PROMPT).endswith("KeyboardInterrupt\n")
    assert repl.answer("1") == "1\n"


def test_tasks_survive_ctrl_c(repl):
    repl.answer("task = await curio.spawn(curio.sleep, 1000)")
    repl.enter("print('joins'); await task.join()")
    repl.expect("joins\n")
    repl.type(CTRL_C)
    repl.expect("KeyboardInterrupt\n" + PROMPT)
    assert repl.answer("task.state") == "'TIME_SLEEP'\n"
    assert repl.answer("await task.cancel()") == "True\n"


def test_a_second_ctrl_c_interrupts_the_clean_up(repl):
    repl.enter("try: print('sleeps'); await curio.sleep(1000)")
    repl.expect(MORE)
    repl.enter("finally: print('cleans up'); await curio.sleep(1000)")
    repl.expect(MORE)
    repl.enter("")
    repl.expect("sleeps\n")
    repl.type(CTRL_C)
    repl.expect("cleans up\n")
    repl.type(CTRL_C)
    assert "TaskInterrupted" in repl.expect(PROMPT)
    assert repl.answer("1") == "1\n"


def test_ctrl_c_at_the_prompt_drops_the_line(repl):
    repl.type("what = is this")
    repl.expect("what = is this")
    repl.type(CTRL_C)
    repl.expect("KeyboardInterrupt\n" + PROMPT)
    assert repl.answer("1") == "1\n"
    repl.enter("def half():")
    repl.expect(MORE)
    repl.type(CTRL_C)
    repl.expect("KeyboardInterrupt\n" + PROMPT)
    assert repl.answer("2") == "2\n"


def test_ps_and_where(repl):
    repl.enter("async def waits():")
    repl.expect(MORE)
    repl.enter("    await curio.sleep(1000)")
    repl.expect(MORE)
    repl.answer("")
    repl.answer("task = await curio.spawn(waits)")
    listed = repl.answer("ps()")
    assert "TIME_SLEEP" in listed and "waits" in listed
    assert "in waits" in repl.answer("where(task.id)")


def test_the_monitor_looks_in(repl, tmp_path):
    repl.answer("task = await curio.spawn(curio.sleep, 1000)")
    client = subprocess.run(
        [sys.executable, "-m", "curio.monitor", str(repl.process.pid)],
        input="ps\nquit\n",
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (client.returncode, client.stderr) == (0, "")
    assert "TIME_SLEEP" in client.stdout and "sleep" in client.stdout


def test_signals_reach_tasks(repl):
    repl.answer("import os, signal")
    repl.answer("waiting = await curio.spawn(curio.SignalSet(signal.SIGUSR1).wait())")
    repl.answer("os.kill(os.getpid(), signal.SIGUSR1)")
    assert "SIGUSR1" in repl.answer("await waiting.join()")


def test_the_end_of_the_input(repl):
    repl.answer("await curio.spawn(curio.sleep, 1000)")
    repl.type(CTRL_D)
    assert repl.ends().strip() == ""


def test_exit(repl):
    repl.answer("await curio.spawn(curio.sleep, 1000)")
    repl.enter("exit(3)")
    assert repl.ends(status=3).strip() == ""


def test_from_a_pipe():
    done = subprocess.run(
        [sys.executable, "-m", "curio"],
        input="await curio.sleep(0)\nprint('done')\n",
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0
    assert "done\n" in done.stdout
