"""Programs run as their users run them: in a process of their own.

For the tests of whole programs (examples, tutorial, documents). A program writes into
files, not pipes, so that many can run at once, none of them waits for a reader, and a
test can look at what has come so far.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# How long anything may take on a busy machine before it counts as hanging. Nothing
# waits that long unless the test fails.
PATIENCE = 60.0


def descriptors():
    """How many are open in this process."""
    return len(os.listdir("/proc/self/fd"))


class Program:
    """A Python program, running from the moment it is made."""

    def __init__(
        self,
        *arguments: str | Path,
        cwd: str | Path | None = None,
        environment: dict[str, str] | None = None,
    ):
        self._out = tempfile.TemporaryFile()
        self._err = tempfile.TemporaryFile()
        environment = dict(
            environment or os.environ, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1"
        )
        # A test run in the background ignores SIGINT, and what is ignored stays so in
        # the child: Ctrl-C would do nothing there. A handler becomes the default again.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._err,
                env=environment,
                cwd=cwd,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the program if it still runs."""
        self.process.kill()
        self.process.wait()
        self._out.close()
        self._err.close()

    @property
    def output(self) -> str:
        return _content(self._out)

    @property
    def errors(self) -> str:
        return _content(self._err)

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    def wait(self, timeout: float = PATIENCE) -> int:
        """Waits for the end; the exit status, negative for a signal."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout} s\n{self.report()}") from None

    def wait_for(self, text: str, count: int = 1, timeout: float = PATIENCE) -> None:
        """Waits until `text` has been printed, `count` times, with the end of its line.

        Not before: a signal may come between a text and its line's end, which `print` writes
        one after the other.
        """
        deadline = time.monotonic() + timeout
        while self.output[: self.output.rfind("\n") + 1].count(text) < count:
            assert self.process.poll() is None, f"ended before {text!r}\n{self.report()}"
            assert time.monotonic() < deadline, f"no {text!r}\n{self.report()}"
            time.sleep(0.01)

    def connect(self, port: int) -> socket.socket:
        """A connection to this program, which may still be starting."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            except ConnectionRefusedError:
                assert self.process.poll() is None, f"ended without listening\n{self.report()}"
                assert time.monotonic() < deadline, f"does not listen\n{self.report()}"
                time.sleep(0.02)

    def succeed(self) -> None:
        """Waits for the end, which must be a good one without complaints."""
        status = self.wait()
        assert (status, self.errors) == (0, ""), self.report()

    def press_ctrl_c(self) -> None:
        """Press Ctrl-C when the program waits, or has been computing for a second.

        Python raises KeyboardInterrupt between any two steps: after the call of a coroutine
        function too, where the coroutine is then said to have never been awaited.
        """
        deadline = time.monotonic() + 1
        stat = Path(f"/proc/{self.process.pid}/stat")
        while time.monotonic() < deadline:
            if stat.read_text().rpartition(")")[2].split()[0] == "S":
                break
            time.sleep(0.001)
        self.process.send_signal(signal.SIGINT)

    def interrupt(self) -> None:
        """Ctrl-C: the program must end by KeyboardInterrupt, and soon."""
        self.press_ctrl_c()
        status = self.wait(10)
        # An uncaught KeyboardInterrupt makes Python end itself by the signal.
        assert status == -signal.SIGINT, self.report()
        assert self.errors.rstrip().endswith("KeyboardInterrupt"), self.report()

    def report(self) -> str:
        status = self.process.poll()
        return f"status: {status}\noutput:\n{self.output}\nerrors:\n{self.errors}"


def _content(file) -> str:
    # pread: the child writes through the same open file, whose position is not ours.
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode()


# --- peers: plain sockets, as any client would use them -----------------------------------


def echoed(peer: socket.socket, message: bytes) -> bytes:
    """Sends `message`; what comes back, as much as was sent unless the server hangs up."""
    peer.sendall(message)
    answer = b""
    while len(answer) < len(message):
        data = peer.recv(len(message) - len(answer))
        if not data:
            break
        answer += data
    return answer


def vanish(peer: socket.socket) -> None:
    """Ends a connection as a crashed machine does: a reset, no orderly close."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


def hang_up(peer: socket.socket) -> bytes:
    """Closes our half and waits for the server to close its own; what came until then."""
    with peer:
        peer.shutdown(socket.SHUT_WR)
        rest = b""
        while data := peer.recv(65536):
            rest += data
        return rest


def wait_until_free(port: int) -> None:
    """Waits for a port that a program insists on; another test run may have it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("", port))
                return
            except OSError as error:
                assert time.monotonic() < deadline, f"port {port} is taken: {error}"
        time.sleep(0.2)


def free_port() -> int:
    """A port nobody has at the moment."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]
