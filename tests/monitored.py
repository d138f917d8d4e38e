"""Programs whose monitor is on, and who looks into them: sessions, and users at a terminal.

For the tests of the monitor and of the debuggers as a user has them.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pytest
from programs import Program

LIMIT = 30.0

PROMPT = "curio > "

CTRL_C, CTRL_D = "\3", "\4"

# A session's leader that opens a terminal is controlled by it: Ctrl-C becomes a signal.
AT_TERMINAL = ["sh", "-c", ': <"$(tty)"; exec "$@"', "sh"]

# What a terminal is told about colours and modes is no text.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def eventually(condition, what="it", within=LIMIT):
    """Wait until `condition()` is true, and return what it is."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} does not happen"
        time.sleep(0.005)
    return found


class Session:
    """A conversation with a program's monitor, as any client could have it."""

    def __init__(self, address):
        tcp = isinstance(address, tuple)
        self.socket = socket.socket(socket.AF_INET if tcp else socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        try:
            self.socket.connect(address if tcp else str(address))
            self.greeting = self.answer()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def ask(self, command):
        """What is answered, up to the next prompt."""
        self.send(command + "\n")
        return self.answer()

    def lines(self, command):
        return self.ask(command).splitlines()

    def send(self, text):
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def answer(self):
        said = b""
        while not said.endswith(PROMPT.encode()):
            data = self.socket.recv(1 << 20)
            if not data:
                raise ConnectionError(f"the monitor hung up after {said!r}")
            said += data
        return said.decode().removesuffix(PROMPT)

    def rest(self):
        """All that comes until the monitor hangs up."""
        said = b""
        try:
            while data := self.socket.recv(1 << 16):
                said += data
        except ConnectionResetError:
            pass
        return said.decode()


class Terminal:
    """A program on a pseudo-terminal, and the user in front of it."""

    def __init__(self, *arguments, **environment):
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("4H", 50, 120, 0, 0))
        self._said = b""
        self._seen = 0
        ours = {
            "TERM": "dumb",
            "NO_COLOR": "1",
            "INPUTRC": os.devnull,
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        # What a test run in the background ignores, its children would ignore, too.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [*AT_TERMINAL, sys.executable, *map(str, arguments)],
                stdin=self._slave,
                stdout=self._slave,
                stderr=self._slave,
                env={**os.environ, **ours, **environment},
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def output(self):
        """All that has been seen so far, without escape sequences."""
        return ESCAPES.sub("", self._said.decode(errors="replace").replace("\r\n", "\n"))

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
        """Wait until this has been written, after what was expected before; what came before it."""
        deadline = time.monotonic() + within
        while (found := self.output.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.output[self._seen :]!r}"
            if not self._read():
                assert self.process.poll() is None or self._read(), (
                    f"ended before {text!r}: {self.output!r}"
                )
        start, self._seen = self._seen, found + len(text)
        return self.output[start:found]

    def ends(self, status=0):
        """Wait for the end; what was written since what was expected last."""
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end: {self.output!r}"
            self._read()
        while self._read(0):
            pass
        assert self.process.returncode == status, self.output
        return self.output[self._seen :]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _read(self, wait=0.05):
        if not select.select([self._master], [], [], wait)[0]:
            return False
        self._said += os.read(self._master, 65536)
        return True


class Place:
    """A runtime directory for the programs of one test, so that no other one sees them."""

    def __init__(self):
        # A socket's path has little room, and the directory for temporary files a long name.
        self.directory = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
        self.sockets = self.directory / "curio"
        self._environment = pytest.MonkeyPatch()
        self._environment.setenv("XDG_RUNTIME_DIR", str(self.directory))
        self._environment.setenv("XDG_STATE_HOME", str(self.directory / "state"))
        self._environment.delenv("CURIOMONITOR", raising=False)
        self._open = []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for thing in reversed(self._open):
            thing.close()
        self._environment.undo()
        shutil.rmtree(self.directory)

    def names(self):
        """What is in the directory for sockets."""
        return sorted(path.name for path in self.sockets.glob("*"))

    def write(self, text, name="program.py"):
        path = self.directory / name
        path.write_text(text)
        return path

    def program(self, text, *arguments):
        """Starts the text of a program."""
        program = Program(self.write(text, f"program{len(self._open)}.py"), *arguments)
        return self.closed_later(program)

    def session(self, program, number=None):
        """A session with a program that may still be starting."""

        def connected():
            paths = self.sockets.glob(f"{program.process.pid}-{number or '*'}.sock")
            for path in sorted(paths):
                try:
                    return Session(path)
                except (ConnectionRefusedError, FileNotFoundError):
                    pass
            assert program.process.poll() is None, f"ended\n{program.report()}"

        session = eventually(connected, "a session")
        self.closed_later(session.socket)
        return session

    def join(self, address):
        session = Session(address)
        self.closed_later(session.socket)
        return session

    def terminal(self, *arguments, **environment):
        return self.closed_later(Terminal(*arguments, **environment))

    def closed_later(self, thing):
        self._open.append(thing)
        return thing
