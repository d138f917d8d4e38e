"""The tutorial's programs, unchanged and at their real speed, print what it says.

The files in tests/tutorial are the programs of "Getting Started", "Tasks", "Task
Synchronization", "Signals" (without the monitor's sessions), "A Simple Echo Server" and
"Intertask Communication" as a reader types them in. Those that only wait are started together
and take as long as the longest, some 30 seconds. The echo servers insist on port 25000, so
they come one after the other.
"""

import signal
import time
from pathlib import Path

import pytest
from programs import Program, echoed, hang_up, vanish, wait_until_free

PROGRAMS = Path(__file__).parent / "tutorial"
PORT = 25000

BUILDING = "Building the Millenium Falcon in Minecraft"
COUNTDOWN = [f"T-minus {n}" for n in range(10, 0, -1)]
UNTIL_WE_LEAVE = [BUILDING, "Let's go", *COUNTDOWN, "We're leaving!"]
NAGGING = ["Can I play?", "Wha!?!"] * 4 + ["Can I play?", "Yes, go play", BUILDING]
AND_HOME = ["Let's go", *COUNTDOWN, "We're leaving!", "I warned you!", "Fine. Saving my work."]

WAITING = ["countdown", "hangs", "warned", "saves_work", "event", "nags", "signals", "prodcons"]


@pytest.fixture(scope="module")
def running():
    programs = {name: Program(PROGRAMS / f"{name}.py") for name in WAITING}
    yield programs
    for program in programs.values():
        program.close()


# The first, for it needs us before it can go on.
def test_the_kid_plays_until_a_signal(running):
    program = running["signals"]
    program.wait_for(BUILDING)
    time.sleep(1)
    assert program.process.poll() is None, program.report()
    expected = [f"Parent PID {program.process.pid}", *NAGGING]
    assert program.lines == expected
    program.process.send_signal(signal.SIGHUP)
    program.succeed()
    assert program.lines == [*expected, *AND_HOME, "Leaving!"]


def test_countdown(running):
    running["countdown"].succeed()
    assert running["countdown"].lines == COUNTDOWN


def test_a_join_that_hangs_ends_by_ctrl_c(running):
    program = running["hangs"]
    program.wait_for("We're leaving!")
    time.sleep(1)
    assert program.process.poll() is None, program.report()
    program.interrupt()
    assert program.lines == UNTIL_WE_LEAVE


def test_timeout_and_cancel(running):
    running["warned"].succeed()
    assert running["warned"].lines == [*UNTIL_WE_LEAVE, "I warned you!", "Leaving!"]


def test_the_cancelled_kid_saves_its_work(running):
    running["saves_work"].succeed()
    assert running["saves_work"].lines == [
        *UNTIL_WE_LEAVE,
        "I warned you!",
        "Fine. Saving my work.",
        "Leaving!",
    ]


def test_the_kid_waits_for_permission(running):
    running["event"].succeed()
    assert running["event"].lines == [
        "Can I play?",
        "Yes, go play",
        BUILDING,
        *AND_HOME,
        "Leaving!",
    ]


def test_the_kid_nags(running):
    """Exactly four times: the parent's five seconds end before the kid's fifth."""
    running["nags"].succeed()
    assert running["nags"].lines == [*NAGGING, *AND_HOME, "Leaving!"]


def test_producer_and_consumer(running):
    running["prodcons"].succeed()
    words = [f"Consumer got {number}" for number in range(10)]
    assert running["prodcons"].lines == [*words, "Producer done"]


@pytest.fixture(params=["echo_sockets", "echo_run_server"])
def server(request):
    wait_until_free(PORT)
    with Program(PROGRAMS / f"{request.param}.py") as program:
        yield program


def test_echo_server(server):
    first = server.connect(PORT)
    assert echoed(first, b"Hello\n") == b"Hello\n"
    assert echoed(first, b"Is anyone there?\n") == b"Is anyone there?\n"

    # Several at once, each with its own words, more of them than one recv(1000) takes.
    peers = [server.connect(PORT) for _ in range(5)]
    for round_ in range(3):
        for number, peer in enumerate(peers):
            peer.sendall(f"{number}.{round_} ".encode() * 1000)
    for number, peer in enumerate(peers):
        expected = b"".join(f"{number}.{round_} ".encode() * 1000 for round_ in range(3))
        assert hang_up(peer) == expected

    # One dies while it waits, another while the server has things to send to it: no
    # matter for anybody else.
    vanish(server.connect(PORT))
    reader = server.connect(PORT)
    reader.setblocking(False)
    flood(reader)
    vanish(reader)
    assert echoed(first, b"Still there\n") == b"Still there\n"
    newcomer = server.connect(PORT)
    assert echoed(newcomer, b"Me too\n") == b"Me too\n"
    assert hang_up(newcomer) == b""
    server.wait_for("Connection closed\n", count=6)

    # The server can be left in the middle of a connection, which then ends.
    server.interrupt()
    assert hang_up_after_end(first) == b""
    check_words(server, connections=9, closed=6)


def flood(peer):
    """Sends until the server, whose echoes nobody reads, takes no more."""
    quiet = 0
    while quiet < 20:
        try:
            peer.send(b"x" * 65536)
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)


def hang_up_after_end(peer):
    """What a peer still gets from a server that is gone: the end, or a reset."""
    with peer:
        try:
            return peer.recv(1000)
        except ConnectionResetError:
            return b""


def check_words(server, connections, closed):
    words = server.lines
    if words[0].startswith("Server"):
        assert words.pop(0) == "Server listening at ('', 25000)"
    assert all(word.startswith("Connection ") for word in words), server.report()
    opened = [word for word in words if word.startswith("Connection from ('127.0.0.1', ")]
    assert len(opened) == connections, server.report()
    # Those whose peer hung up in order say so; those that vanished need not.
    ended = words.count("Connection closed")
    assert closed <= ended <= closed + 2, server.report()
