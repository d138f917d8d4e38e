"""The tutorial's programs that compute, and block, outside of the kernel.

The files are the programs of "Number Crunching and Blocking Operations" as a reader has them, with
the parent that waits for a signal. They run unchanged and at their real speed, together, and take
some 30 seconds: the countdown, and the ten seconds that the kid has to leave.
"""

import itertools
import os
import re
import signal
import time
from pathlib import Path

import pytest
from monitored import PROMPT, Place
from programs import Program

PROGRAMS = Path(__file__).parent / "tutorial"

BUILDING = "Building the Millenium Falcon in Minecraft"
COUNTDOWN = [f"T-minus {n}" for n in range(10, 0, -1)]


class Reader:
    def __init__(self, place, name):
        self.place = place
        self.program = place.closed_later(Program(PROGRAMS / f"{name}.py"))
        self.directory = str(place.directory)

    def ask(self, command):
        """What the monitor says, in a terminal of its own."""
        terminal = self.place.terminal("-m", "curio.monitor", XDG_RUNTIME_DIR=self.directory)
        terminal.expect(PROMPT)
        terminal.type(command + "\r")
        terminal.expect(command + "\n")
        said = terminal.expect(PROMPT)
        terminal.type("exit\r")
        return said


@pytest.fixture(scope="module")
def readers():
    with Place() as one:
        hogs = Reader(one, "hogs")
        with Place() as two:
            crunches = Reader(two, "crunches")
            with Place() as three:
                yield {"hogs": hogs, "crunches": crunches, "rests": Reader(three, "rests")}


def workers(program):
    """The processes that it has started, but for the tracker of multiprocessing's."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            with open(f"/proc/{name}/cmdline") as file:
                command = file.read()
        except OSError:
            continue
        if parent == program.process.pid and "spawn_main" in command:
            found.append(int(name))
    return found


def watch_countdown(program):
    """When each line of the countdown came, in seconds."""
    times = []
    for line in COUNTDOWN:
        while line not in program.lines:
            assert program.process.poll() is None, program.report()
            time.sleep(0.005)
        times.append(time.monotonic())
    return times


def test_a_kid_that_hogs(readers):
    """Nobody else runs: no signal set sees the signal. Ctrl-C is Python's, and ends it."""
    program = readers["hogs"].program
    program.wait_for(BUILDING)
    time.sleep(0.5)
    assert program.lines[1:] == ["Can I play?", "Yes, go play", BUILDING]
    program.process.send_signal(signal.SIGINT)
    assert program.wait(10) != 0


def test_the_kernel_stays_responsive(readers, record_testsuite_property):
    """The monitor answers, the signal comes, and the countdown keeps its pace meanwhile."""
    reader = readers["crunches"]
    program = reader.program
    program.wait_for(BUILDING)
    deadline = time.monotonic() + 30
    while not workers(program):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    said = reader.ask("ps")
    assert re.search(r"READ_WAIT|FUTURE_WAIT", said) and "kid" in said and "parent" in said
    assert program.lines[1:] == ["Can I play?", "Yes, go play", BUILDING]

    program.process.send_signal(signal.SIGHUP)
    readers["rests"].program.wait_for(BUILDING)
    readers["rests"].program.process.send_signal(signal.SIGHUP)
    times = watch_countdown(program)
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    record_testsuite_property("lateness", max(steps) - 1)
    # Generous: a kernel that waits for the computation takes minutes.
    assert max(steps) < 10
    said = reader.ask("ps")
    assert "kid" in said


def test_the_kid_is_cancelled_as_it_computes(readers):
    """And nothing goes on without it."""
    program = readers["crunches"].program
    program.wait_for("We're leaving!")
    found = workers(program)
    assert found
    program.succeed()
    assert program.lines == [
        f"Parent PID {program.process.pid}",
        "Can I play?",
        "Yes, go play",
        BUILDING,
        "Let's go",
        *COUNTDOWN,
        "We're leaving!",
        "I warned you!",
        "Fine. Saving my work.",
        "Leaving!",
    ]
    for pid in found:
        assert not os.path.exists(f"/proc/{pid}")


def test_the_kid_is_cancelled_as_it_rests(readers):
    """The thread that sleeps for seconds does not keep the program from ending."""
    program = readers["rests"].program
    program.succeed()
    assert program.lines[-4:] == [
        "We're leaving!",
        "I warned you!",
        "Fine. Saving my work.",
        "Leaving!",
    ]
