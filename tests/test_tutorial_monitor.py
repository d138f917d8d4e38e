"""The tutorial's sessions with the monitor, as its reader has them.

Two programs run unchanged and at their real speed: `monitored.py`, the end of "Tasks", and
`signals_monitored.py`, from "Signals". They start together; the tests are in the order in
which they come to the point where the tutorial looks at them, and take 26 seconds in all. The
reader sits at a second terminal, a pseudo-terminal here, with `python3 -m curio.monitor`.
"""

import re
from pathlib import Path

import pytest
from monitored import PROMPT, Place
from programs import Program

PROGRAMS = Path(__file__).parent / "tutorial"

TABLE = [
    "Task   State        Cycles     Timeout Task",
    "------ ------------ ---------- ------- --------------------------------------------------",
]
COUNTDOWN = [f"T-minus {n}" for n in range(10, 0, -1)]
GREETING = "\nCurio Monitor: {} tasks running\nType help for commands\n"
GOODBYE = "The program has ended.\n"


class Reader:
    """A program of the tutorial, and the reader who looks into it."""

    def __init__(self, place, name):
        self.place = place
        self.program = place.closed_later(Program(PROGRAMS / f"{name}.py"))
        self.directory = str(place.directory)
        self.terminal = None

    def join(self):
        """Enters the monitor in a second terminal window; what is shown before the prompt."""
        self.terminal = self.place.terminal("-m", "curio.monitor", XDG_RUNTIME_DIR=self.directory)
        return self.terminal.expect(PROMPT)

    def type(self, command):
        """What the monitor shows between the command and the next prompt."""
        self.terminal.type(command + "\r")
        self.terminal.expect(command + "\n")
        return self.terminal.expect(PROMPT)


@pytest.fixture(scope="module")
def readers():
    # One after the other: each sets the environment for the program that it starts.
    with Place() as one:
        hello = Reader(one, "monitored")
        with Place() as two:
            yield {"hello": hello, "signals": Reader(two, "signals_monitored")}


@pytest.fixture
def hello(readers):
    return readers["hello"]


@pytest.fixture
def signals(readers):
    return readers["signals"]


def check_ps(said, rows):
    lines = [line.rstrip() for line in said.splitlines()]
    assert lines[:2] == TABLE
    assert len(lines) == 2 + len(rows), said
    for line, row in zip(lines[2:], rows, strict=True):
        assert re.fullmatch(row, line), (line, row)


def test_the_kid_plays_until_a_signal(signals):
    signals.program.wait_for("Building the Millenium Falcon")
    assert signals.join() == GREETING.format(4)
    check_ps(
        signals.type("ps"),
        [
            r"1      TIME_SLEEP   [4-7]\d         0\.0\d{4} Monitor\.monitor_task",
            r"2      SIGNAL_WAIT  5          None    parent",
            r"3      TIME_SLEEP   6          99\d\.\d{3} kid",
            r"4      READ_WAIT    1          None    Kernel\._kernel_task",
        ],
    )
    said = signals.type("why 2")
    assert re.match(r"Task 2 \(parent\) is waiting for a signal of SignalSet \d+", said)
    assert signals.type("signal SIGHUP") == ""
    signals.program.wait_for("Let's go")


def test_the_parent_counts_down(hello):
    hello.program.wait_for("T-minus 10")
    assert hello.join() == GREETING.format(4)
    check_ps(
        hello.type("ps"),
        [
            r"1      TIME_SLEEP   \d+ +0\.0\d{4} Monitor\.monitor_task",
            r"2      TASK_JOIN +\d +None    parent",
            r"3      TIME_SLEEP   1          99\d\.\d{3} kid",
            r"\d      TIME_SLEEP +\d+ +0\.\d{5} countdown",
        ],
    )
    assert hello.type("nonsense") == "Unknown command. Type help.\n"


def test_where_and_cancel(hello):
    hello.program.wait_for("We're leaving!")
    rows = [
        r"1      TIME_SLEEP   1[4-7]\d        0\.0\d{4} Monitor\.monitor_task",
        r"2      TASK_JOIN    5          None    parent",
        r"3      TIME_SLEEP   1          98[3-5]\.\d{3} kid",
    ]
    first = hello.type("ps")
    check_ps(first, rows)
    second = hello.type("p")
    check_ps(second, rows)
    assert first != second
    path, address = re.escape(str(PROGRAMS / "monitored.py")), r"0x[0-9a-f]+"
    assert re.fullmatch(
        rf"Stack for Task\(id=2, <coroutine object parent at {address}>, state='TASK_JOIN'\)"
        r" \(most recent call last\):\n"
        rf'  File "{path}", line 23, in parent\n'
        r"    await kid_task\.join\(\)\n"
        r"\n",
        hello.type("where 2"),
    )
    assert re.fullmatch(
        rf"Stack for Task\(id=3, <coroutine object kid at {address}>, state='TIME_SLEEP'\)"
        r" \(most recent call last\):\n"
        rf'  File "{path}", line 12, in kid\n'
        r"    await curio\.sleep\(1000\)\n"
        r"\n",
        hello.type("where 3"),
    )
    assert hello.type("cancel 3") == "Cancelling task 3\n"
    hello.program.succeed()
    assert hello.program.lines == [
        "Building the Millenium Falcon in Minecraft",
        "Let's go",
        *COUNTDOWN,
        "We're leaving!",
        "Leaving",
    ]
    assert hello.terminal.ends().endswith(GOODBYE)
    assert hello.place.names() == []


def test_the_kid_is_cancelled_in_the_end(signals):
    signals.program.succeed()
    assert signals.program.lines == [
        f"Parent PID {signals.program.process.pid}",
        *["Can I play?", "Wha!?!"] * 4,
        "Can I play?",
        "Yes, go play",
        "Building the Millenium Falcon in Minecraft",
        "Let's go",
        *COUNTDOWN,
        "We're leaving!",
        "I warned you!",
        "Fine. Saving my work.",
        "Leaving!",
    ]
    assert signals.terminal.ends().endswith(GOODBYE)
    assert signals.place.names() == []
