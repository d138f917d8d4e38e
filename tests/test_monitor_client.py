"""The monitor's client finds a program, is a terminal to it, and leaves no mess.

Goal: what a user sees and types, on pipes and at a terminal, and that whatever the server, the
user or the system does, the client says so in a line at most and the terminal is as it was.
Method: the client in a process of its own, on pipes or on a pseudo-terminal; a small server
in a thread speaks the monitor's protocol and keeps a record of what it was asked. How a real
program answers is not the matter here.
"""

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import free_port, vanish

LIMIT = 30.0

CLIENT = "import sys; from curio._monitor_client import main; sys.exit(main(sys.argv[1:]))"
# A session's leader that opens a terminal is controlled by it: Ctrl-C becomes a signal.
AT_TERMINAL = "import os; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
WITHOUT_READLINE = "import sys; sys.modules['readline'] = None; "

GREETING = "\nCurio Monitor: 3 tasks running\nType help for commands\n"
PROMPT = "curio > "
LEAVING = "Leaving monitor\n"
TABLE = (
    "Task   State        Cycles     Timeout Sleep   Task\n"
    "------ ------------ ---------- ------- ------- --------------------\n"
    "1      RUNNING      3          None    None    main\n"
    "41     READ_WAIT    7          None    None    reader\n"
    "42     READY        7          None    None    writer READY\n"
)
TASKS = "".join(
    f'{{"id": {number}, "name": "task", "state": "READ_WAIT"}}\n' for number in (1, 41, 123)
)
UNKNOWN = "Unknown command. Type help.\n"
NEVER = None

# What the environment of the tests must not decide.
IGNORED = ("NO_COLOR", "TMPDIR", "COLUMNS", "LINES", "PYTHONUNBUFFERED")

ENTER, TAB, CTRL_C, CTRL_D, UP = "\r", "\t", "\3", "\4", "\x1b[A"
SCREEN, NO_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
CURSOR, NO_CURSOR = "\x1b[?25h", "\x1b[?25l"


def eventually(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


@contextmanager
def heard_interrupts():
    """What a test run in the background ignores, its children would ignore, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Monitor:
    """A server that answers as the monitor does. An answer that is NEVER does not come.

    With `crashes`, it only greets, and in the end its connections are not closed but reset.
    """

    def __init__(self, path=None, tasks=3, crashes=False, **answers):
        self._crashes = crashes
        self.answers = {"ps": TABLE, "ps -j": TASKS, **answers}
        self.greeting = GREETING.replace("3 tasks", f"{tasks} tasks") + PROMPT
        self.sessions = []  # what each connection has asked for
        self._peers = []
        self._ended = threading.Event()
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(path))
            self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def commands(self):
        """All that was asked, by whichever connection."""
        return [command for session in self.sessions for command in session]

    @property
    def connections(self):
        return len(self.sessions)

    def say(self, text):
        """Something that nobody has asked for, to the first connection."""
        self._peers[0].sendall(text.encode())

    def end(self):
        """End as the program does: nobody listens any more, and all connections close."""
        self._ended.set()
        for sock in self._listener, *self._peers:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        for sock in self._listener, *self._peers:
            sock.close()

    def _accept(self):
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            if self._ended.is_set():
                peer.close()
                return
            self.sessions.append([])
            if self._crashes:
                thread = threading.Thread(target=self._crash, args=(peer,))
            else:
                self._peers.append(peer)
                thread = threading.Thread(target=self._serve, args=(peer, self.sessions[-1]))
            self._threads.append(thread)
            thread.start()

    def _crash(self, peer):
        peer.sendall(as_bytes(self.greeting))
        self._ended.wait(LIMIT)
        vanish(peer)

    def _serve(self, peer, session):
        try:
            if self.greeting is NEVER:
                self._ended.wait(LIMIT)
                return
            peer.sendall(as_bytes(self.greeting))
            with peer.makefile("r", encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    command = line.strip()
                    session.append(command)
                    if command in ("quit", "exit"):
                        break
                    answer = self.answers.get(command, UNKNOWN)
                    if answer is NEVER:
                        self._ended.wait(LIMIT)
                        return
                    peer.sendall(as_bytes(answer) + PROMPT.encode())
            peer.sendall(LEAVING.encode())
            peer.shutdown(socket.SHUT_RDWR)
        except (OSError, ValueError):  # the client, or `end`, has closed the connection
            pass


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


class Terminal:
    """The client on a pseudo-terminal, and the user in front of it."""

    def __init__(self, program, arguments, environment, rows=24, columns=80):
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self._before = termios.tcgetattr(self._slave)
        self._said = b""
        self._seen = 0
        with heard_interrupts():
            self.process = subprocess.Popen(
                [sys.executable, "-c", AT_TERMINAL + program, *map(str, arguments)],
                stdin=self._slave,
                stdout=self._slave,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )

    @property
    def output(self):
        return self._said.decode(errors="replace")

    def type(self, text):
        if text == CTRL_C:
            self._settle()
        os.write(self._master, text.encode())

    def _settle(self):
        # The interpreter hears of a signal only with the next key, if it comes after it has looked
        # for one and before it waits for a key. No user is that quick.
        def seen():
            status = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return status[0], status[11:13]

        before, deadline = None, time.monotonic() + LIMIT
        while (now := seen()) != before or now[0] not in "SZ":
            assert time.monotonic() < deadline, "never comes to rest"
            before = now
            time.sleep(0.05)

    def expect(self, text, within=LIMIT):
        """Wait until the client has written this, after what was expected before."""
        deadline = time.monotonic() + within
        wanted = text.replace("\n", "\r\n").encode()
        while (found := self._said.find(wanted, self._seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self._said[self._seen :]!r}"
            if not self._read():
                assert self.process.poll() is None or self._read(), (
                    f"ended before {text!r}: {self._said!r}, {self.process.stderr.read()!r}"
                )
        self._seen = found + len(wanted)

    def at_prompt(self):
        """Wait for the prompt. What is typed before the line editor is ready looks odd."""
        self.expect(PROMPT)

    def ends(self, status=0):
        """Wait for the end, which leaves nothing on standard error, and the terminal as it was."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end: {self._said!r}"
            self._read()
        while self._read(0):
            pass
        assert self.process.stderr.read().decode() == ""
        assert self.process.returncode == status, self._said
        assert termios.tcgetattr(self._slave) == self._before
        assert self._said.count(SCREEN.encode()) == self._said.count(NO_SCREEN.encode())
        assert self._said.rfind(NO_CURSOR.encode()) <= self._said.rfind(CURSOR.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        os.close(self._master)
        os.close(self._slave)

    def _read(self, wait=0.05):
        if not select.select([self._master], [], [], wait)[0]:
            return False
        self._said += os.read(self._master, 65536)
        return True


class Place:
    """A user's directories, the monitors in them, and clients."""

    def __init__(self, path):
        self.path = path
        self.sockets = path / "r" / "curio"
        self.history = path / "state" / "curio" / "monitor_history"
        self.sockets.parent.mkdir()
        self.sockets.mkdir(mode=0o700)
        self.environment = {
            name: value for name, value in os.environ.items() if name not in IGNORED
        }
        self.environment |= {
            "HOME": str(path),
            "XDG_RUNTIME_DIR": str(self.sockets.parent),
            "XDG_STATE_HOME": str(path / "state"),
            "INPUTRC": os.devnull,
            "TERM": "xterm",
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._open = []

    def socket(self, pid=None, k=1):
        return self.sockets / f"{pid or os.getpid()}-{k}.sock"

    def monitor(self, pid=None, k=1, **options):
        """A monitor that listens where the one of this process would."""
        return self._closed_later(Monitor(self.socket(pid, k), **options), Monitor.end)

    def tcp_monitor(self, **options):
        return self._closed_later(Monitor(**options), Monitor.end)

    def dead_socket(self, pid):
        """What a killed program leaves."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(self.socket(pid)))

    def terminal(self, *arguments, program=CLIENT, rows=24, columns=80, **environment):
        environment = {**self.environment, **environment}
        terminal = Terminal(program, arguments, environment, rows, columns)
        return self._closed_later(terminal, Terminal.close)

    def run(self, *arguments, input=b""):
        """The client on pipes until it ends: its status, output and errors."""
        client = subprocess.run(
            [sys.executable, "-c", CLIENT, *map(str, arguments)],
            input=input,
            capture_output=True,
            env=self.environment,
            timeout=LIMIT,
        )
        return client.returncode, client.stdout.decode(errors="replace"), client.stderr.decode()

    def start(self, *arguments, **options):
        """The client on pipes, which the test keeps open."""
        streams = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with heard_interrupts():
            client = subprocess.Popen(
                [sys.executable, "-c", CLIENT, *map(str, arguments)],
                env=self.environment,
                **{**streams, **options},
            )

        def end(client):
            client.kill()
            client.wait()
            for stream in client.stdin, client.stdout, client.stderr:
                if stream is not None:
                    stream.close()

        return self._closed_later(client, end)

    def close(self):
        for thing, close in reversed(self._open):
            close(thing)

    def _closed_later(self, thing, close):
        self._open.append((thing, close))
        return thing


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


def conversation(*answers):
    """What a client on pipes prints if it asks for these."""
    return GREETING + "".join(PROMPT + answer for answer in (*answers, LEAVING))


def refusal(result):
    """The one line that a client has said about why it did not start."""
    status, out, err = result
    assert (status, out) == (1, "")
    assert err.startswith("curio.monitor: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err


def gone():
    """The pid of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


# --- which program ------------------------------------------------------------------------


def test_nothing_to_join(place):
    message = refusal(place.run())
    assert "with_monitor=True" in message and "CURIOMONITOR" in message
    assert str(place.sockets) in message and "found: nothing" in message


@pytest.mark.parametrize("missing", ["r/curio", "r"])
def test_nothing_to_join_and_no_directory(place, missing):
    place.sockets.rmdir()
    if missing == "r":
        place.sockets.parent.rmdir()
    assert "CURIOMONITOR" in refusal(place.run())
    assert not place.sockets.exists()


def test_the_only_program_is_joined(place):
    monitor = place.monitor()
    (place.sockets / "something.else").touch()
    (place.sockets / "x-1.sock").touch()
    assert place.run() == (0, conversation(), "")
    assert monitor.commands == ["quit"]


def test_without_a_runtime_directory_sockets_are_below_the_temporary_one(place):
    for runtime in None, "":
        if runtime is None:
            del place.environment["XDG_RUNTIME_DIR"]
        else:
            place.environment["XDG_RUNTIME_DIR"] = runtime
        place.environment["TMPDIR"] = str(place.path)
        place.sockets = place.path / f"curio-{os.getuid()}"
        place.sockets.mkdir(mode=0o700, exist_ok=True)
        monitor = place.monitor()
        assert place.run() == (0, conversation(), "")
        monitor.end()
        place.socket().unlink()
        place.environment["TMPDIR"] = ""
        assert f" /tmp/curio-{os.getuid()} " in refusal(place.run("99999"))


def test_several_programs_are_listed(place):
    me, parent = os.getpid(), os.getppid()
    place.monitor(me, 1, tasks=3)
    place.monitor(me, 2, tasks=14)
    place.monitor(parent, 1, tasks=1)
    status, out, err = place.run()
    assert (status, err) == (1, "")
    table, advice = out.split("\n\n")
    rows = [line.split(None, 2) for line in table.splitlines()]
    assert rows[0] == ["PID", "TASKS", "COMMAND"]
    assert [row[:2] for row in rows[1:]] == sorted(
        [[str(parent), "1"], [f"{me}-1", "3"], [f"{me}-2", "14"]],
        key=lambda row: int(row[0].partition("-")[0]),
    )
    with open("/proc/self/cmdline") as file:
        mine = " ".join(file.read().replace("\0", " ").split())
    assert [row[2] for row in rows[1:] if row[0] == f"{me}-1"] == [mine]
    assert "python3 -m curio.monitor PID" in advice


def test_list_fits_the_terminal(place):
    place.monitor(os.getpid(), tasks=3)
    place.monitor(os.getppid(), tasks=1)
    terminal = place.terminal(columns=23, NO_COLOR="1")
    terminal.ends(1)
    table = terminal.output.split("\r\n\r\n")[0].split("\r\n")
    assert [len(line) for line in table[1:]] == [23, 23]


def test_list_does_not_wait_for_programs_that_stand_still(place):
    place.monitor(os.getpid(), tasks=3)
    for k in range(1, 11):
        place.monitor(os.getppid(), k).greeting = NEVER
    before = time.monotonic()
    status, out, err = place.run()
    assert time.monotonic() - before < 8
    assert (status, err) == (1, "")
    counts = [line.split()[1] for line in out.split("\n\n")[0].splitlines()[1:]]
    assert sorted(counts) == ["3"] + ["?"] * 10


def test_program_by_its_pid(place):
    place.monitor(os.getpid())
    other = place.monitor(os.getppid())
    assert place.run(os.getppid()) == (0, conversation(), "")
    assert other.commands == ["quit"]


def test_one_of_the_kernels_of_a_process(place):
    place.monitor(k=1)
    other = place.monitor(k=12)
    status, out, err = place.run(os.getpid())
    assert (status, err) == (1, "")
    assert f"{os.getpid()}-12 " in out
    assert place.run(f"{os.getpid()}-12") == (0, conversation(), "")
    assert other.sessions == [[], ["quit"]]
    message = refusal(place.run(f"{os.getpid()}-3"))
    assert f"kernel 3 of process {os.getpid()}" in message
    assert f"{os.getpid()}-1, {os.getpid()}-12" in message


def test_socket_of_a_dead_program_is_removed(place):
    pid = gone()
    place.dead_socket(pid)
    place.dead_socket(10**10)  # no process can have this number
    monitor = place.monitor()
    assert place.run() == (0, conversation(), "")
    assert os.listdir(place.sockets) == [place.socket().name]
    place.dead_socket(pid)
    monitor.end()
    place.socket().unlink()
    assert "found: nothing" in refusal(place.run())
    assert os.listdir(place.sockets) == []


def test_socket_of_a_living_program_that_refuses_stays(place):
    place.dead_socket(os.getpid())
    for arguments in [], [f"{os.getpid()}-1"]:
        message = refusal(place.run(*arguments))
        assert f"{os.getpid()}-1 (Connection refused)" in message
    assert place.socket().exists()


def test_sockets_that_others_can_reach_are_refused(place):
    monitor = place.monitor()
    for mode in 0o755, 0o770, 0o701:
        place.sockets.chmod(mode)
        message = refusal(place.run())
        assert str(place.sockets) in message and f"mode {mode:04o}" in message
        assert message.count(f"user {os.getuid()}") == 2
    assert monitor.connections == 0


def test_directory_of_another_user_is_refused(place):
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    monitor = place.monitor()
    try:
        os.chown(place.sockets, 12345, -1)
    except OSError as error:
        pytest.skip(f"this root cannot give a directory away: {error}")
    message = refusal(place.run(os.getpid()))
    assert str(place.sockets) in message
    assert "user 12345" in message and f"user {os.getuid()}," in message
    assert monitor.connections == 0


def test_what_is_no_directory_is_refused(place):
    real = place.sockets.rename(place.path / "real")
    place.sockets.symlink_to(real)
    assert "a link with mode" in refusal(place.run())
    place.sockets.unlink()
    place.sockets.touch(0o700)
    assert "a file with mode" in refusal(place.run())


def test_port(place):
    monitor = place.tcp_monitor()
    place.monitor()
    for arguments in ["-p", monitor.port], ["-H", "localhost", "-p", monitor.port], [monitor.port]:
        assert place.run(*arguments, input=b"ps\n") == (0, conversation(TABLE), "")
    assert monitor.commands == ["ps", "quit"] * 3


def test_number_is_a_process_before_it_is_a_port(place):
    by_port = place.tcp_monitor()
    by_pid = place.monitor(by_port.port)
    assert place.run(by_port.port) == (0, conversation(), "")
    assert (by_port.connections, by_pid.commands) == (0, ["quit"])


def test_number_that_is_neither(place):
    place.monitor(os.getppid())
    port = free_port()
    message = refusal(place.run(port))
    assert f"process {port}" in message and f"port {port} of 127.0.0.1" in message
    assert f"found: {os.getppid()}-1" in message and "Connection refused" in message
    for number in 0, 65536, 10**10:
        message = refusal(place.run(number))
        assert f"process {number}" in message and "port" not in message


def test_port_where_nobody_listens(place):
    port = free_port()
    message = refusal(place.run("-p", port))
    assert f"port {port} of 127.0.0.1: Connection refused" in message
    host = "x" * 64 + ".invalid"  # no part of a name may be so long, and no look-up is made
    assert f"port {port} of {host}: " in refusal(place.run("-H", host, "-p", port))


@pytest.mark.parametrize(
    "arguments",
    ["abc", "12-", "-1", "1-2-3", "-p x", "-p 0", "-p 65536", "-H localhost", "12 -p 3", "1 2"],
)
def test_bad_arguments(place, arguments):
    status, out, err = place.run(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("usage: python3 -m curio.monitor") and "Traceback" not in err


def test_help_in_a_narrow_window(place):
    place.environment["COLUMNS"] = "12"
    status, out, err = place.run("--help")
    assert (status, err) == (0, "")
    assert out.startswith("usage: python3 -m curio.monitor [-h] [PID | PID-K | PORT] [-H host]")


# --- pipes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("input", "commands"),
    [
        (b"", ["quit"]),
        (b"ps\n", ["ps", "quit"]),
        (b"ps\nnonsense\nps -j", ["ps", "nonsense", "ps -j", "quit"]),
        (b"ps\nquit\n", ["ps", "quit"]),
        (b"exit", ["exit"]),
        (b"\nps\n", ["", "ps", "quit"]),
        (b"quit\nps\n", ["quit"]),
    ],
)
def test_piped_commands(place, input, commands):
    monitor = place.monitor()
    answers = {**monitor.answers, "": ""}
    said = conversation(*(answers.get(c, UNKNOWN) for c in commands if c not in ("quit", "exit")))
    monitor.answers[""] = ""
    assert place.run(input=input) == (0, said, "")
    assert monitor.commands == commands


def test_input_from_a_file(place):
    monitor = place.monitor()
    for content, commands in ("ps\n", ["ps", "quit"]), ("", ["quit"]):
        path = place.path / "commands"
        path.write_text(content)
        with open(path) as file:
            client = place.start(stdin=file)
        assert client.wait(LIMIT) == 0
        assert monitor.sessions[-1] == commands


def test_more_in_both_directions_than_fits_a_socket(place):
    # A client that sends all before it reads waits for ever, as does the server for it.
    monitor = place.monitor(fill="answer " * 1000 + "\n")
    status, out, err = place.run(input=(b"fill" + b" " * 196 + b"\n") * 3000)
    assert (status, err) == (0, "")
    assert out == conversation(*[monitor.answers["fill"]] * 3000)


def test_answers_are_printed_as_they_come(place):
    place.monitor()
    client = place.start()
    assert read_until(client.stdout, PROMPT) == GREETING + PROMPT
    client.stdin.write(b"ps\n")
    client.stdin.flush()
    assert read_until(client.stdout, PROMPT) == TABLE + PROMPT
    client.stdin.close()
    assert read_until(client.stdout, LEAVING) == LEAVING
    assert (client.wait(LIMIT), client.stderr.read()) == (0, b"")


def read_until(pipe, text):
    said = b""
    while not said.endswith(text.encode()):
        assert select.select([pipe], [], [], LIMIT)[0], f"no {text!r} after {said!r}"
        data = os.read(pipe.fileno(), 65536)
        assert data, f"no {text!r} after {said!r}"
        said += data
    return said.decode()


@pytest.mark.parametrize("crashes", [False, True])
def test_program_ends_while_the_input_is_open(place, crashes):
    monitor = place.tcp_monitor(crashes=crashes)
    client = place.start(monitor.port)
    read_until(client.stdout, PROMPT)
    monitor.end()
    assert client.wait(LIMIT) == 0
    assert (client.stdout.read(), client.stderr.read()) == (b"", b"")


def test_nobody_reads_the_output(place):
    place.monitor()
    client = place.start()
    read_until(client.stdout, PROMPT)
    client.stdout.close()
    client.stdin.write(b"ps\n")
    client.stdin.flush()
    assert (client.wait(LIMIT), client.stderr.read()) == (1, b"")


def test_nobody_reads_the_list(place):
    place.monitor(k=1)
    place.monitor(k=2)
    reader, writer = os.pipe()
    os.close(reader)
    client = place.start(stdout=writer)
    os.close(writer)
    assert (client.wait(LIMIT), client.stderr.read()) == (1, b"")


def test_output_has_no_room(place):
    place.monitor()
    with open("/dev/full", "w") as full:
        client = place.start(stdout=full)
    assert client.wait(LIMIT) == 1
    assert client.stderr.read() == b"curio.monitor: No space left on device\n"


def test_interrupt_on_pipes(place):
    place.monitor()
    client = place.start()
    read_until(client.stdout, PROMPT)
    client.send_signal(signal.SIGINT)
    assert (client.wait(LIMIT), client.stderr.read()) == (128 + signal.SIGINT, b"")


def test_descriptors_that_are_closed_at_the_start_are_not_the_connection(place):
    place.monitor()
    command = [sys.executable, "-c", CLIENT]
    for redirection, said in ("<&-", conversation()), ("<&- >&- 2>&-", ""):
        client = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
            capture_output=True,
            env=place.environment,
            timeout=LIMIT,
        )
        assert (client.returncode, client.stdout.decode(), client.stderr) == (0, said, b"")


def test_garbage_on_pipes_is_passed_on(place):
    garbage = bytes(range(256)) * 10 + b"\n"
    place.monitor(ps=garbage)
    client = place.start()
    out, err = client.communicate(b"ps\n", LIMIT)
    greeting, said, leaving = out.partition(garbage)
    assert (said, err, client.returncode) == (garbage, b"", 0)
    assert (greeting.decode(), leaving.decode()) == (GREETING + PROMPT, PROMPT + LEAVING)


def test_no_colours_on_pipes(place):
    place.monitor()
    place.monitor(k=2)
    _, listed, _ = place.run()
    _, said, _ = place.run(f"{os.getpid()}-1", input=b"ps\nnonsense\n")
    assert "\x1b" not in listed + said


# --- at a terminal ------------------------------------------------------------------------


def test_session(place):
    monitor = place.monitor()
    terminal = place.terminal(NO_COLOR="1")
    terminal.expect(GREETING)
    for command, answer in ("ps", TABLE), ("", ""), ("  nonsense ", UNKNOWN):
        terminal.at_prompt()
        terminal.type(command + ENTER)
        terminal.expect("\n")
        terminal.expect(answer)
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.expect("\n" + LEAVING)
    terminal.ends()
    assert monitor.commands == ["ps", "nonsense", "quit"]
    assert "ended" not in terminal.output


@pytest.mark.parametrize("word", ["quit", "exit"])
def test_leaving_by_a_word(place, word):
    monitor = place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type(word + ENTER)
    terminal.expect(LEAVING)
    terminal.ends()
    assert monitor.commands == [word]
    assert "ended" not in terminal.output


def test_leaving_a_program_that_stands_still(place):
    monitor = place.monitor(hang=NEVER)
    terminal = place.terminal()
    terminal.at_prompt()
    monitor.greeting = NEVER
    terminal.type("hang" + ENTER)
    eventually(lambda: monitor.commands == ["hang"])
    terminal.type(CTRL_C)
    terminal.at_prompt()
    terminal.type("quit" + ENTER)
    terminal.ends()
    assert "ended" not in terminal.output


def test_line_is_edited(place):
    monitor = place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("xs\x01\x04p" + ENTER)  # to the begin, delete, insert
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert monitor.commands == ["ps", "quit"]


def test_lines_are_pasted(place):
    # The line editor makes one line of them. It is two questions, and has two answers.
    monitor = place.monitor(ps="table\n")
    terminal = place.terminal(NO_COLOR="1")
    terminal.at_prompt()
    terminal.type("\x1b[200~nonsense\nps\x1b[201~" + ENTER)
    terminal.expect(UNKNOWN + "table\n")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert monitor.commands == ["nonsense", "ps", "quit"]


def test_interrupt_at_the_prompt_drops_the_line(place):
    monitor = place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    for _ in range(2):
        terminal.type("cancel 4")
        terminal.expect("cancel 4")
        terminal.type(CTRL_C)
        terminal.expect("\n")
        terminal.at_prompt()
    terminal.type("ps" + ENTER)
    terminal.at_prompt()
    terminal.type("exit" + ENTER)
    terminal.ends()
    assert monitor.sessions == [["ps", "exit"]]


def test_interrupt_of_an_answer_that_does_not_come(place):
    monitor = place.monitor(hang=NEVER)
    terminal = place.terminal(NO_COLOR="1")
    terminal.at_prompt()
    for number in range(1, 3):
        terminal.type("hang" + ENTER)
        eventually(lambda number=number: monitor.commands == ["hang"] * number)
        terminal.type(CTRL_C)
        terminal.at_prompt()
    terminal.type("ps" + ENTER)
    terminal.expect("\n" + TABLE)  # and not a second greeting
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert monitor.sessions == [["hang"], ["hang"], ["ps", "quit"]]


def test_interrupt_of_an_answer_that_does_not_end(place):
    monitor = place.monitor(flood=b"flood\n" * 10_000_000)
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("flood" + ENTER)
    terminal.expect("flood\n" * 100)
    terminal.type(CTRL_C)
    terminal.at_prompt()
    terminal.type("nonsense" + ENTER)
    terminal.expect("Unknown command")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert monitor.sessions == [["flood"], ["nonsense", "quit"]]


def test_interrupt_when_the_program_is_gone(place):
    monitor = place.monitor(hang=NEVER)
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("hang" + ENTER)
    eventually(lambda: monitor.commands == ["hang"])
    place.socket().unlink()
    terminal.type(CTRL_C)
    terminal.expect("The program has ended.\n")
    terminal.ends()


def test_interrupt_of_a_greeting_that_does_not_come(place):
    monitor = place.monitor()
    monitor.greeting = NEVER
    terminal = place.terminal()
    eventually(lambda: monitor.connections == 1)
    terminal.type(CTRL_C)
    terminal.ends(128 + signal.SIGINT)


PROGRAMS = pytest.mark.parametrize(
    "program", [CLIENT, WITHOUT_READLINE + CLIENT], ids=["readline", "plain"]
)


@PROGRAMS
@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("typed", ["", "cancel 4"])
def test_program_ends_while_the_user_is_at_the_prompt(place, program, crashes, typed):
    monitor = place.tcp_monitor(crashes=crashes)
    terminal = place.terminal(monitor.port, program=program)
    terminal.at_prompt()
    terminal.type(typed)
    terminal.expect(typed)
    monitor.end()
    terminal.expect("\nThe program has ended.\n", within=10)
    terminal.ends()
    assert monitor.commands == []


def test_last_words_of_a_program(place):
    monitor = place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    monitor.say("I go now\nand do not come back")
    monitor.end()
    terminal.expect("I go now\nand do not come back")
    terminal.expect("The program has ended.\n")
    terminal.ends()


def test_program_ends_during_an_answer(place):
    monitor = place.monitor(hang=NEVER)
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("hang" + ENTER)
    eventually(lambda: monitor.commands == ["hang"])
    monitor.end()
    terminal.expect("The program has ended.\n")
    terminal.ends()


def test_program_ends_before_it_greets(place):
    monitor = place.monitor()
    monitor.greeting = NEVER
    terminal = place.terminal()
    eventually(lambda: monitor.connections == 1)
    monitor.end()
    terminal.expect("The program has ended.\n")
    terminal.ends()


def test_program_ends_again_and_again(place):
    # The signal that interrupts the input must be lost neither just before nor just after
    # the wait begins.
    for delay in range(8):
        monitor = place.tcp_monitor()
        terminal = place.terminal(monitor.port)
        terminal.at_prompt()
        terminal.type("ps" + ENTER)
        eventually(lambda monitor=monitor: monitor.commands == ["ps"])
        time.sleep(delay / 2000)
        monitor.end()
        terminal.expect("The program has ended.\n", within=10)
        terminal.ends()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("typed", ["", "watch ps" + ENTER])
def test_terminal_is_restored_after_a_deadly_signal(place, number, typed):
    place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type(typed)
    if typed:
        terminal.expect("READ_WAIT")
    terminal.process.send_signal(number)
    terminal.ends(128 + number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_two_signals_at_once(place, number):
    """The second finds the exception of the first on its way; the first decides."""
    place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    time.sleep(0.1)  # until it waits
    for one in signal.SIGSTOP, number, signal.SIGURG, signal.SIGCONT:
        terminal.process.send_signal(one)
    terminal.ends(128 + number)


def test_terminal_goes_away(place):
    monitor = place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.process.send_signal(signal.SIGSTOP)
    os.close(terminal._master)
    terminal._master = os.open(os.devnull, os.O_RDONLY)
    terminal.process.send_signal(signal.SIGCONT)
    assert terminal.process.wait(LIMIT) in (0, 1, 128 + signal.SIGHUP)
    assert terminal.process.stderr.read() == b""
    assert monitor.connections == 1


def test_without_readline(place):
    monitor = place.monitor()
    terminal = place.terminal(program=WITHOUT_READLINE + CLIENT, NO_COLOR="1")
    terminal.at_prompt()
    terminal.type("ps" + ENTER)
    terminal.expect(TABLE)
    terminal.at_prompt()
    terminal.type("no")
    terminal.type(CTRL_C)
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.expect(LEAVING)
    terminal.ends()
    assert monitor.sessions == [["ps", "quit"]]
    assert not place.history.exists()


def test_help_tells_of_the_clients_own_command(place):
    place.monitor(help="Commands:\n         ps               : Show task table\n")
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("help" + ENTER)
    terminal.expect("Show task table\n         watch [command")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()


# --- colours and garbage ------------------------------------------------------------------

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def test_colours_change_nothing_but_the_colour(place):
    place.monitor()
    terminal = place.terminal()
    for command in "ps", "nonsense", "ps -j":
        terminal.at_prompt()
        terminal.type(command + ENTER)
        terminal.expect("\n")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    said = terminal.output
    assert "\x1b[1mCurio Monitor: 3 tasks running\x1b[0m\r\n" in said
    assert "\r\n\x1b[1mTask   State" in said
    assert "1      \x1b[32mRUNNING\x1b[0m      3" in said
    assert "42     \x1b[32mREADY\x1b[0m        7          None    None    writer READY\r\n" in said
    assert "\x1b[31mUnknown command. Type help.\x1b[0m\r\n" in said
    without = COLOURS.sub("", said).replace("\r\n", "\n")
    for text in GREETING, TABLE, UNKNOWN, TASKS, LEAVING:
        assert text in without


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}])
def test_no_colours(place, environment):
    place.monitor()
    terminal = place.terminal(**environment)
    for command in "ps", "nonsense":
        terminal.at_prompt()
        terminal.type(command + ENTER)
        terminal.expect("\n")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert not COLOURS.search(terminal.output)


def test_garbage_is_shown_harmless(place):
    place.monitor(
        ps=b"\xff\xfe \x1b[2J\x1b]0;title\x07 \x00\x9b \xc2\x9b end\n",
        long=b"x" * 200_000 + b"\n",
        half=b"no prompt\xe2\x82\n",
    )
    terminal = place.terminal(NO_COLOR="1")
    for command in "ps", "long", "half":
        terminal.at_prompt()
        terminal.type(command + ENTER)
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert "\ufffd\ufffd \\x1b[2J\\x1b]0;title\\x07 \\x00\ufffd \\x9b end\r\n" in terminal.output
    assert "x" * 200_000 + "\r\n" in terminal.output
    assert "no prompt\ufffd" in terminal.output
    assert "\x1b[2J" not in terminal.output


def test_garbage_instead_of_a_monitor(place):
    monitor = place.tcp_monitor()
    monitor.greeting = bytes(range(256)) * 1000
    terminal = place.terminal(monitor.port)
    terminal.expect("\\x00\\x01")
    monitor.end()
    terminal.expect("The program has ended.\n")
    terminal.ends()


# --- Tab and history ----------------------------------------------------------------------


def test_completion(place):
    monitor = place.monitor()
    terminal = place.terminal()
    for typed, whole, questions in [
        ("whe" + TAB, "where ", 0),
        ("dea" + TAB, "deadlock ", 0),
        ("where 4" + TAB, "where 41 ", 1),
        ("cancel 12" + TAB, "cancel 123 ", 1),
        ("par" + TAB + "12" + TAB, "parents 123 ", 1),
        ("watch whe" + TAB + "12" + TAB + "60", "watch where 123 60", 1),
        ("signal SIGUSR" + TAB + "1", "signal SIGUSR1", 0),
        ("why 9" + TAB + "9", "why 99", 1),
        ("ps 4" + TAB + "2", "ps 42", 0),
        ("where 41 12" + TAB + "x", "where 41 12x", 0),
    ]:
        terminal.at_prompt()
        before = monitor.connections
        terminal.type(typed)
        terminal.expect(whole)
        assert monitor.connections == before + questions
        terminal.type(ENTER)
        if whole.startswith("watch "):
            whole = "where 123"
            terminal.expect(f"Every 60 s: {whole}")
            terminal.type("q")
        eventually(lambda whole=whole: monitor.sessions[0][-1:] == [whole.strip()])
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert "ps -j" not in monitor.sessions[0]
    assert all(session == ["ps -j"] for session in monitor.sessions[1:])


def test_completion_lists_what_there_is(place):
    place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("where " + TAB + TAB)
    terminal.expect("1     123   41")
    terminal.at_prompt()
    terminal.type(CTRL_C)
    terminal.at_prompt()
    terminal.type("watch " + TAB + TAB)
    terminal.expect("cancel")
    terminal.expect("tree")
    terminal.at_prompt()
    terminal.type(CTRL_C)
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()


@pytest.mark.parametrize("answer", [NEVER, b"\xff no JSON\n{}\n[]\n7\n"])
def test_completion_without_an_answer(place, answer):
    monitor = place.monitor(**{"ps -j": answer})
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("where 4" + TAB)
    eventually(lambda: monitor.sessions[1:] == [["ps -j"]])
    terminal.type("2" + ENTER)
    eventually(lambda: monitor.sessions[0] == ["where 42"])
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()


def test_program_ends_during_a_completion(place):
    # An exception in the completer would be lost, and the user sit at a dead prompt.
    monitor = place.monitor(**{"ps -j": NEVER})
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("where 4" + TAB)
    eventually(lambda: monitor.sessions[1:] == [["ps -j"]])
    monitor.end()
    terminal.expect("The program has ended.\n", within=10)
    terminal.ends()


def test_history(place):
    monitor = place.monitor()
    place.history.parent.mkdir(parents=True)
    place.history.write_text("".join(f"old {number}\n" for number in range(1500)))
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("where 42" + ENTER)
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    lines = place.history.read_text().splitlines()
    assert lines == [f"old {number}" for number in range(501, 1500)] + ["where 42"]
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type(UP + ENTER)
    eventually(lambda: monitor.sessions[1] == ["where 42"])
    terminal.at_prompt()
    terminal.type(UP + UP + ENTER)
    eventually(lambda: monitor.sessions[1] == ["where 42", "old 1499"])
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()


def test_history_is_kept_when_the_program_ends(place):
    monitor = place.monitor()
    terminal = place.terminal(XDG_STATE_HOME="")
    terminal.at_prompt()
    terminal.type("ps" + ENTER)
    terminal.at_prompt()
    monitor.end()
    terminal.ends()
    path = place.path / ".local" / "state" / "curio" / "monitor_history"
    assert path.read_text() == "ps\n"


def test_no_history_is_no_problem(place):
    place.monitor()
    (place.path / "file").write_bytes(b"\xff\x00")
    for state in "/dev/null", str(place.path / "file"):
        terminal = place.terminal(XDG_STATE_HOME=state)
        terminal.at_prompt()
        terminal.type("ps" + ENTER)
        terminal.at_prompt()
        terminal.type(CTRL_D)
        terminal.ends()


# --- watch --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["q", CTRL_C])
@PROGRAMS
def test_watch(place, program, key):
    monitor = place.monitor()
    terminal = place.terminal(program=program)
    terminal.at_prompt()
    terminal.type("watch ps 0.1" + ENTER)
    terminal.expect(SCREEN)
    for _ in range(3):
        terminal.expect("Every 0.1 s: ps (q ends it)")
        terminal.expect("writer READY")
    monitor.answers["ps"] = "changed\n"
    terminal.expect("changed")
    terminal.type(key)
    terminal.expect(NO_SCREEN)
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert set(monitor.commands) == {"ps", "quit"}


@pytest.mark.parametrize(
    ("typed", "command", "seconds"),
    [
        ("watch", "ps", "1"),
        ("watch 3", "ps", "3"),
        ("watch tree", "tree", "1"),
        ("watch ps -j 60", "ps -j", "60"),
        ("watch where 3", "where 3", "1"),
        ("watch where 3 2.5", "where 3", "2.5"),
        ("watch where -j 3", "where -j 3", "1"),
        ("watch ps 0", "ps", "0.1"),
        ("watch ps inf", "ps", "86400"),
        ("watch ps nan", "ps nan", "1"),
    ],
)
def test_what_is_watched_and_how_often(place, typed, command, seconds):
    monitor = place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type(typed + ENTER)
    terminal.expect(f"Every {seconds} s: {command} (q ends it)")
    terminal.type("q")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert monitor.commands[0] == command


def test_watch_is_cut_to_the_window(place):
    lines = [
        "short",
        "plain text " * 5,
        "\u8868" * 30,
        "tab\t" * 9,
        "\x1b[2J" * 9,
        "more",
        "hidden",
    ]
    place.monitor(tree="".join(line + "\n" for line in lines))
    terminal = place.terminal(rows=7, columns=20)
    terminal.at_prompt()
    terminal.type("watch tree" + ENTER)
    terminal.expect("more")
    terminal.type("q")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    page = re.search(r"\x1b\[H(.*?)\x1b\[(H|\?25h)", terminal.output, re.DOTALL)[1]
    # Nothing is erased behind the end of a line: the cursor may still be on the last column.
    assert all(line.startswith(("\x1b[K", "\x1b[J")) for line in page.split("\r\n"))
    lines = [line[len("\x1b[K") :] for line in page.split("\r\n")]
    assert [COLOURS.sub("", line) for line in lines] == [
        "Every 1 s: tree (q e",
        "short",
        "plain text plain tex",
        "\u8868" * 10,
        "tab     tab     tab ",
        "\\x1b[2J\\x1b[2J\\x1b[2J"[:20],
        "more",
    ]


def test_watch_follows_the_window(place):
    place.monitor(tree="x" * 100 + "\n")
    terminal = place.terminal(columns=40)
    terminal.at_prompt()
    terminal.type("watch tree 0.1" + ENTER)
    terminal.expect("\x1b[J" + "x" * 40 + "\x1b[H")
    fcntl.ioctl(terminal._slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 50, 0, 0))
    terminal.expect("\x1b[J" + "x" * 50 + "\x1b[H")
    terminal.type("q")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()


def test_watch_of_an_answer_that_does_not_come(place):
    monitor = place.monitor(hang=NEVER)
    for key in "q", CTRL_C:
        terminal = place.terminal()
        terminal.at_prompt()
        terminal.type("watch hang" + ENTER)
        terminal.expect(SCREEN)
        eventually(lambda: monitor.sessions[-1] == ["hang"])
        terminal.type("x" + key)
        terminal.expect(NO_SCREEN)
        terminal.at_prompt()
        terminal.type("nonsense" + ENTER)
        terminal.expect("Unknown command")
        terminal.at_prompt()
        terminal.type(CTRL_D)
        terminal.ends()


@pytest.mark.parametrize("seconds", ["", " 60"])
def test_program_ends_while_it_is_watched(place, seconds):
    monitor = place.monitor()
    terminal = place.terminal()
    terminal.at_prompt()
    terminal.type("watch ps" + seconds + ENTER)
    terminal.expect("READ_WAIT")
    monitor.end()
    terminal.expect(NO_SCREEN)
    terminal.expect("The program has ended.\n")
    terminal.ends()


def test_watch_on_a_terminal_that_can_only_print(place):
    place.monitor()
    terminal = place.terminal(TERM="dumb")
    terminal.at_prompt()
    terminal.type("watch ps 0.1" + ENTER)
    for _ in range(3):
        terminal.expect("Every 0.1 s: ps (q ends it)\n" + TABLE)
    terminal.type("q")
    terminal.at_prompt()
    terminal.type(CTRL_D)
    terminal.ends()
    assert "\x1b" not in terminal.output
