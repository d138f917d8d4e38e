"""The monitor's client: a terminal to a running program, for `python3 -m curio.monitor`.

A program with the monitor on listens on a Unix socket, one for each kernel, in a directory
that only its user can enter; the file's name says whose it is. The client finds the socket,
joins, and passes lines: commands one way, answers the other. What makes sense of a command is
the server; an answer ends with the prompt, at the start of a line, and that is all that the
client knows of it.

`_copy` serves pipes and changes nothing. `Session` serves a terminal, where three things can
happen at any time: the user types, the user presses Ctrl-C, the program ends. A thread looks
for the last one, because the main thread is inside `input()`, and sends a signal whose
handler raises there: so the line editor puts the terminal back as it was.

What must stay true: nothing here ends in a traceback or leaves the terminal changed; what is
printed is what the server said, but for colours, and, on a terminal, control characters.
"""

import errno
import os
import select
import signal
import socket
import stat
import sys
import time
from contextlib import contextmanager, suppress

_PROMPT = b"curio > "
_TITLE = "Curio Monitor:"
_LEAVE = ("quit", "exit")
_TAKE_ID = ("where", "why", "cancel", "parents")
_COMMANDS = (
    *_TAKE_ID,
    *_LEAVE,
    "ps",
    "signal",
    "tree",
    "deadlock",
    "cancelled",
    "workers",
    "help",
    "watch",
)
_HELP = "         watch [command [seconds]] : Repeat a command, ps every second; q ends it\n"

# How long a server may take for what the user has not asked for, or need not wait for.
_PATIENCE = 1.0
_HISTORY = 1000
# More than this without a newline is no line. It is shown in parts, so that it ends somewhere.
_LONG = 65536


class MonitorError(Exception):
    """There is no way to a monitor; the text says why."""


class _Closed(Exception):
    """The server has closed the connection."""


def main(argv=None):
    """Run the client with these arguments, else with those of the process; the exit status."""
    _mend_streams()
    gone = {errno.EPIPE}
    if sys.stdin.isatty() or sys.stdout.isatty():
        gone.add(errno.EIO)  # as what is left of a terminal answers
    try:
        try:
            return _run(_arguments(argv))
        finally:
            sys.stdout.flush()  # here, where it can still fail in silence
    except MonitorError as error:
        return _complain(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        # Standard output is gone: the connection's errors do not come this far. What is left
        # in the buffer must not be tried again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1 if error.errno in gone else _complain(_reason(error))


def _mend_streams():
    # A descriptor that is closed at the start would be given to the connection, which would
    # then be taken for standard input or output.
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), mode))
    for stream in sys.stdin, sys.stdout:
        stream.reconfigure(errors="replace")  # whatever the locale is, text is no error


def _arguments(argv):
    import argparse

    def target(text):
        pid, dash, k = text.partition("-")
        if not _is_number(pid) or (dash and not _is_number(k)):
            raise argparse.ArgumentTypeError(f"{text!r} is no PID, PID-K or port")
        return int(pid), int(k) if dash else None

    def port(text):
        if not _is_number(text) or not 0 < int(text) < 65536:
            raise argparse.ArgumentTypeError(f"{text!r} is no port (1 to 65535)")
        return int(text)

    parser = argparse.ArgumentParser(
        prog="python3 -m curio.monitor",
        usage="%(prog)s [-h] [PID | PID-K | PORT] [-H host] [-p port]",
        description="Look into a running Curio program: one that was started with "
        "Kernel(with_monitor=True), or with CURIOMONITOR in its environment.",
    )
    parser.add_argument(
        "target",
        nargs="?",
        type=target,
        metavar="PID, PID-K, PORT",
        help="the process, and which of its kernels, or a port of this machine; "
        "not needed if there is only one program to join",
    )
    parser.add_argument("-H", dest="host", metavar="host", help="the host of the port given by -p")
    parser.add_argument(
        "-p", dest="port", metavar="port", type=port, help="the TCP port to connect to"
    )
    options = parser.parse_args(argv)
    if options.host is not None and options.port is None:
        parser.error("-H needs -p")
    if options.target is not None and options.port is not None:
        parser.error("give either a PID, PID-K or PORT, or -p")
    return options


def _run(options):
    if options.port is not None:
        connection = _connect(options.host or "127.0.0.1", options.port)
    else:
        connection = _choose(options.target)
    if connection is None:
        return 1
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            Session(connection).run()
        else:
            _copy(connection)
    finally:
        connection.close()
    return 0


def _complain(what):
    with suppress(OSError):
        print(f"curio.monitor: {what}", file=sys.stderr, flush=True)
    return 1


# --- which program ------------------------------------------------------------------------


def directory():
    """The path of the directory with the monitors' sockets; it need not exist.

    Raises MonitorError if it is there and somebody else could have put a socket into it.
    """
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        path = os.path.join(runtime, "curio")
    else:
        path = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"curio-{os.getuid()}")
    try:
        # Not what a link leads to: another user can link to a directory of ours.
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path
    except OSError as error:
        raise MonitorError(f"cannot look at {path}: {_reason(error)}") from None
    kind, mode = stat.S_IFMT(status.st_mode), status.st_mode & 0o777
    if (kind, mode, status.st_uid) != (stat.S_IFDIR, 0o700, os.getuid()):
        what = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link"}.get(kind, "a file")
        raise MonitorError(
            f"{path} is not safe to use: it must be a directory with mode 0700 of user "
            f"{os.getuid()}, who you are; it is {what} with mode {mode:04o} of user "
            f"{status.st_uid}"
        )
    return path


def sockets():
    """The monitors' sockets as (pid, k, path), sorted; k counts the kernels of a process.

    Raises MonitorError as `directory` does.
    """
    folder = directory()
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise MonitorError(f"cannot read {folder}: {_reason(error)}") from None
    found = []
    for name in names:
        stem, extension = os.path.splitext(name)
        pid, _, k = stem.partition("-")
        if extension == ".sock" and _is_number(pid) and _is_number(k):
            found.append((int(pid), int(k), os.path.join(folder, name)))
    return sorted(found)


def _choose(target):
    """The connection that a target, (pid or port, k) or None, stands for.

    If there are several, they are listed, and there is no connection.
    """
    pid, k = target or (None, None)
    everyone = sockets()
    wanted = [s for s in everyone if pid in (None, s[0]) and k in (None, s[1])]
    live, refused = _knock(wanted)
    if len(live) > 1:
        _list(live)
        return None
    if live:
        live[0][2].deadline = None
        return live[0][2]

    found = refused or [f"{pid}-{k}" for pid, k, path in everyone if os.path.exists(path)]
    there = f"{directory()} (found: {', '.join(found) or 'nothing'})"
    if pid is None:
        raise MonitorError(
            f"no program with a monitor in {there}; "
            "a program needs Kernel(with_monitor=True), or CURIOMONITOR in its environment"
        )
    if k is not None:
        raise MonitorError(f"no monitor of kernel {k} of process {pid} in {there}")
    if not 0 < pid < 65536:
        raise MonitorError(f"no monitor of process {pid} in {there}")
    try:
        return Connection(("127.0.0.1", pid))
    except OSError as error:
        raise MonitorError(
            f"no monitor of process {pid} in {there}, "
            f"and none at port {pid} of 127.0.0.1 ({_reason(error)})"
        ) from None


def _knock(entries):
    """Connect to each: those that answer as (pid, k, connection), and texts on the others."""
    live, refused = [], []
    deadline = time.monotonic() + _PATIENCE
    for pid, k, path in entries:
        try:
            live.append((pid, k, Connection(path, deadline)))
        except FileNotFoundError:
            pass  # its program has just ended
        except OSError as error:
            if isinstance(error, ConnectionRefusedError) and not _runs(pid):
                with suppress(OSError):
                    os.unlink(path)
            else:
                refused.append(f"{pid}-{k} ({_reason(error)})")
    return live, refused


def _runs(pid):
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it is another user's
    return True


def _list(live):
    pids = [pid for pid, _, _ in live]
    rows = [("PID", "TASKS", "COMMAND")]
    for pid, k, connection in live:
        label = f"{pid}-{k}" if pids.count(pid) > 1 else f"{pid}"
        rows.append((label, _tasks(connection), _command_line(pid)))
        connection.close()
    room = _window()[0] if sys.stdout.isatty() else sys.maxsize
    first = max(len(row[0]) for row in rows)
    for number, (label, tasks, command) in enumerate(rows):
        line = _cut(f"{label:<{first}}  {tasks:>5}  {command}", room)
        print(_paint(line, _BOLD) if number == 0 else line)
    print("\nThere are several to join. Choose one: python3 -m curio.monitor PID")


def _tasks(connection):
    """How many tasks the greeting tells of; `?` if it does not come in time."""
    with suppress(_Closed, TimeoutError):
        for line in connection.answer():
            if line.startswith(_TITLE):
                return line[len(_TITLE) :].split(None, 1)[0]
    return "?"


def _command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().replace(b"\0", b" ").decode("utf-8", "replace").split()
    except OSError:
        return "?"
    return _printable(" ".join(words))


# --- the connection -----------------------------------------------------------------------


def _connect(host, port):
    try:
        return Connection((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: what cannot be a host's name
        raise MonitorError(f"no connection to port {port} of {host}: {_reason(error)}") from None


class Connection:
    """A connection to the monitor at a path, or (host, port): questions and answers.

    First comes the greeting, which is an answer to no question. While `answering` is true,
    an answer has not been read to its end. After `deadline`, if there is one, everything
    raises TimeoutError. `ended` is what the session has heard of the server's end.
    """

    def __init__(self, target, deadline=None):
        self.target = target
        self.deadline = deadline
        self.answering = True
        self.closed = False
        self.ended = False
        self._data = bytearray()
        self._line_begins = True
        if isinstance(target, tuple):
            self.socket = socket.create_connection(target, self._left())
            return
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(self._left())
            self.socket.connect(target)
        except BaseException:
            self.socket.close()
            raise

    def ask(self, command, wait=None):
        """Send a command; yield the lines of the answer as they come. `wait`: see `answer`."""
        if self.answering:
            for _ in self.answer(wait):
                pass  # a greeting that nobody wanted
        self.answering = True
        try:
            self.socket.settimeout(self._left())
            self.socket.sendall(command.encode("utf-8", "replace") + b"\n")
        except OSError as error:
            # If the server has closed, there may still be something of its to read.
            self._raise_if_late(error)
        yield from self.answer(wait)

    def answer(self, wait=None):
        """Yield what the server says until its prompt, line by line, newlines included.

        `wait` is called before each wait for data, with the socket. Raises _Closed if the
        server closes; what it has said before that has been yielded.
        """
        while True:
            if self._line_begins and self._data.startswith(_PROMPT):
                del self._data[: len(_PROMPT)]
                self.answering = False
                return
            end = self._data.find(b"\n") + 1
            if not end and len(self._data) < _LONG:
                if wait is not None:
                    wait(self.socket)
                data = self.receive()
                self._data += data
                if data:
                    continue
            line = bytes(self._data[: end or len(self._data)])
            if not line:
                raise _Closed
            del self._data[: len(line)]
            self._line_begins = line.endswith(b"\n")
            yield line.decode("utf-8", "replace")

    def receive(self):
        """Some bytes; none if the server has closed, in whichever way."""
        try:
            self.socket.settimeout(self._left())
            return self.socket.recv(65536)
        except OSError as error:
            self._raise_if_late(error)
            return b""

    def close(self):
        """Close the connection; the server sees it at once. Twice is fine."""
        self.closed = True
        # A thread that polls the socket keeps it open and must be told.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _raise_if_late(self, error):
        # Without a deadline, it is the network that has given up.
        if self.deadline is not None and isinstance(error, TimeoutError):
            raise error

    def _left(self):
        if self.deadline is None:
            return None
        return max(0.001, self.deadline - time.monotonic())


def _copy(connection):
    """Pass standard input to the server, and what it says to standard output, unchanged."""
    server, source = connection.socket, sys.stdin.fileno()
    output = sys.stdout.buffer
    reading = True
    pending = tail = b""
    while True:
        # No more is read before all has been sent, and sending waits for nothing: a server
        # that reads no commands because nobody reads its answers would wait for ever.
        sources = [server, source] if reading and not pending else [server]
        ready, writable, _ = select.select(sources, [server] if pending else [], [])
        if server in ready:
            data = connection.receive()
            if not data:
                return
            output.write(data)
            output.flush()
        if writable:
            try:
                pending = pending[server.send(pending, socket.MSG_DONTWAIT) :]
            except OSError:
                # It takes no more, but may have more to say.
                reading, pending = False, b""
        elif source in ready:
            pending = _read(source)
            tail = (tail + pending)[-100:]
            if not pending:
                reading, pending = False, _ending(tail)


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def _ending(tail):
    """What must follow the last bytes of the input so that the server ends, too."""
    newline = b"\n" if tail and not tail.endswith(b"\n") else b""
    last = tail.rstrip(b"\n").rpartition(b"\n")[2].decode("utf-8", "replace")
    return newline + (b"" if last.strip() in _LEAVE else b"quit\n")


# --- at a terminal ------------------------------------------------------------------------


class Session:
    """A user at a terminal, and a connection."""

    def __init__(self, connection):
        self._connection = connection
        self._leaving = False
        self._ending = 0  # the deadly signal that has come
        self._edits = False

    def run(self):
        """Until the user leaves or the program ends."""
        # SIGURG, because where there is no handler, or not yet, it does nothing.
        signal.signal(signal.SIGURG, self._interrupt_input)
        self._look_out()
        self._expect_deadly_signals()
        with _line_editing(self._complete) as self._edits:
            try:
                self._show(self._connection.answer())
                while True:
                    self._turn()
            except _Closed:
                # There may be last words that came while nobody listened.
                with suppress(_Closed, TimeoutError):
                    self._show(self._connection.answer())
                if not self._leaving:
                    print("The program has ended.")
            finally:
                self._connection.close()

    def _turn(self):
        if self._ending:
            # `input` runs handlers of further signals, and then forgets what ours has raised.
            sys.exit(128 + self._ending)
        try:
            # Lines that are pasted arrive as one.
            for line in self._line().splitlines():
                self._obey(line.strip())
        except KeyboardInterrupt:
            print()
            self._give_up_answer()

    def _obey(self, line):
        word, *words = line.split() or [""]
        if word in _LEAVE:
            self._leave(line)
        elif word == "watch":
            self._watch(words)
        elif word:
            self._show(self._connection.ask(line), line)
            if word == "help":
                print(_HELP, end="")

    def _line(self):
        prompt = _PROMPT.decode()
        try:
            if not self._edits:  # then `input` would write its prompt to standard error
                print(prompt, end="", flush=True)
            return input(prompt if self._edits else "")
        except EOFError:
            print()
            return "quit"
        except _Closed:
            print()
            raise
        except SystemError as error:
            # Of signals that come at once, `input` may have the second handled while what the
            # first has raised is on its way, which Python takes for a fault of the handler.
            raise error.__cause__ from None

    def _leave(self, line):
        self._leaving = True
        self._connection.deadline = time.monotonic() + _PATIENCE
        with suppress(TimeoutError):
            self._show(self._connection.ask(line))
        raise _Closed

    def _show(self, lines, command=""):
        first = True
        for line in lines:
            self._leaving = self._leaving or line == "Leaving monitor\n"
            sys.stdout.write(_coloured(_printable(line), command, first))
            sys.stdout.flush()
            first = first and not line.strip()

    def _give_up_answer(self):
        """After a Ctrl-C. An answer that may never end is left to an old connection."""
        old = self._connection
        if not old.answering:
            return
        old.close()
        try:
            self._connection = Connection(old.target, time.monotonic() + _PATIENCE)
        except (ConnectionRefusedError, FileNotFoundError):
            raise _Closed from None
        except OSError as error:
            raise MonitorError(f"cannot connect again: {_reason(error)}") from None
        self._connection.deadline = None
        self._look_out()

    # A deadly signal, or the end of the program, while the main thread is in `input`. One signal
    # may come when it is about to wait, and be seen too late: so it is woken until it has seen it.

    def _expect_deadly_signals(self):
        import socket
        import threading

        deadly = set()
        for number in signal.SIGTERM, signal.SIGHUP:
            if signal.getsignal(number) == signal.SIG_DFL:
                # To end by an exception leaves the terminal in order.
                signal.signal(number, self._end)
                deadly.add(number)
        noted, self._noting = socket.socketpair()
        self._noting.setblocking(False)
        signal.set_wakeup_fd(self._noting.fileno(), warn_on_full_buffer=False)
        arguments = noted, deadly, threading.get_ident()
        threading.Thread(target=self._hasten_end, args=arguments, daemon=True).start()

    def _hasten_end(self, noted, deadly, main_thread):
        while deadly.isdisjoint(noted.recv(64)):
            pass
        while not self._ending:
            signal.pthread_kill(main_thread, signal.SIGURG)
            time.sleep(0.05)

    def _end(self, number, frame):
        self._ending = number
        sys.exit(128 + number)

    def _look_out(self):
        import threading

        arguments = self._connection, threading.get_ident()
        threading.Thread(target=self._wait_for_end, args=arguments, daemon=True).start()

    @staticmethod
    def _wait_for_end(connection, main_thread):
        poll = select.poll()
        try:
            poll.register(connection.socket, select.POLLRDHUP)
        except ValueError:  # closed already
            return
        poll.poll()
        connection.ended = True
        while not connection.closed:
            signal.pthread_kill(main_thread, signal.SIGURG)
            time.sleep(0.05)

    def _interrupt_input(self, number, frame):
        # Only there: elsewhere the main thread finds out by itself, and in the completer,
        # which the line editor calls, an exception would be lost.
        inside = frame is not None and frame.f_code is Session._line.__code__
        if inside and self._connection.ended and not self._ending:
            raise _Closed

    # Tab.

    def _complete(self, text, state):
        import readline

        if state == 0:
            words = readline.get_line_buffer()[: readline.get_begidx()].split()
            self._matches = [
                word + " " for word in self._candidates(words) if word.startswith(text)
            ]
        return self._matches[state] if state < len(self._matches) else None

    def _candidates(self, words):
        """What may follow these words."""
        if words[:1] == ["watch"]:
            del words[0]
        if not words:
            return sorted(_COMMANDS)
        if len(words) > 1:
            return []
        if words[0] in _TAKE_ID:
            return self._ids()
        if words[0] == "signal":
            return [number.name for number in signal.Signals]
        return []

    def _ids(self):
        """The tasks' ids, by a connection of its own: the session is not to notice."""
        import json

        ids = []
        try:
            connection = Connection(self._connection.target, time.monotonic() + _PATIENCE)
        except OSError:
            return ids
        try:
            for line in connection.ask("ps -j"):
                with suppress(ValueError, KeyError, TypeError):
                    ids.append(str(int(json.loads(line)["id"])))
        except (_Closed, TimeoutError):
            pass
        finally:
            connection.close()
        return ids

    # Watch.

    def _watch(self, words):
        command, seconds = _watched(words)
        with _screen() as show:
            try:
                while True:
                    lines = list(self._connection.ask(command, _wait_or_stop))
                    show(f"Every {seconds:g} s: {command} (q ends it)", lines, command)
                    _wait_or_stop(self._connection.socket, seconds)
            except KeyboardInterrupt:
                self._give_up_answer()


@contextmanager
def _line_editing(complete):
    """Line editing in `input`, with history and Tab; gives whether there is any."""
    try:
        import readline
    except ImportError:
        yield False
        return
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = os.path.join(state, "curio", "monitor_history")
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_HISTORY)
    readline.set_completer(complete)
    readline.set_completer_delims(" \t")
    if "libedit" in (readline.__doc__ or ""):  # another library, under the same name
        readline.parse_and_bind("bind ^I rl_complete")
    else:
        readline.parse_and_bind("tab: complete")
        # The bell would be a character on standard error.
        readline.parse_and_bind("set bell-style none")
    try:
        yield True
    finally:
        with suppress(OSError):
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            readline.write_history_file(path)


def _watched(words):
    """The command and the seconds in the words after `watch`."""
    if not words or _is_number(words[0]):
        words = ["ps", *words]
    seconds = 1.0
    # The 3 of `where 3` is a task.
    own = 2 if words[0] in (*_TAKE_ID, "signal") else 1
    if sum(not word.startswith("-") for word in words) > own:
        with suppress(ValueError):
            number = float(words[-1])
            if number >= 0:  # and not nan
                seconds = min(max(number, 0.1), 86400.0)
                words = words[:-1]
    return " ".join(words), seconds


def _wait_or_stop(server, seconds=None):
    """Wait for the server; or for the time, or any key. Raises KeyboardInterrupt at `q`."""
    keyboard = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([server, keyboard], [], [], seconds)
        if keyboard in ready:
            keys = _read(keyboard)
            if not keys or any(key in b"qQ\3\4" for key in keys):
                raise KeyboardInterrupt
        if server in ready or seconds is not None:
            return


@contextmanager
def _screen():
    """A screen of its own, for one page after the other, and keys as they are pressed."""
    import termios

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    mode = termios.tcgetattr(keyboard)
    # ISIG: Ctrl-C becomes a key like any other, and Ctrl-Z cannot leave a shell with this.
    mode[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    capable = _capable()
    try:
        termios.tcsetattr(keyboard, termios.TCSANOW, mode)
        if capable:
            sys.stdout.write("\x1b[?1049h\x1b[?25l")
            sys.stdout.flush()
        yield _show_page if capable else _print_page
    finally:
        with suppress(termios.error):
            termios.tcsetattr(keyboard, termios.TCSANOW, before)
        if capable:
            sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _show_page(header, lines, command):
    columns, rows = _window()
    page = [_paint(_cut(header, columns), _BOLD)]
    for number, line in enumerate(lines[: rows - 1]):
        page.append(_coloured(_cut(_printable(line), columns), command, number == 0))
    # Over the old page, line by line and in one go: a screen that is cleared first flickers.
    # What was there is erased before a line is written: after it, with a line as wide as the
    # window, the cursor is still on the last column, which would go, too.
    *above, last = page
    sys.stdout.write("\x1b[H" + "".join(f"\x1b[K{line}\n" for line in above) + "\x1b[J" + last)
    sys.stdout.flush()


def _print_page(header, lines, command):
    sys.stdout.write("".join([header, "\n", *map(_printable, lines), "\n"]))
    sys.stdout.flush()


# --- text ---------------------------------------------------------------------------------

_BOLD, _RED, _GREEN = "1", "31", "32"

# A task's name must not move the cursor, nor do worse.
_CONTROL = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\t\n"}


def _printable(text):
    return text.translate(_CONTROL)


def _coloured(line, command, first):
    """A line of an answer, with colours where they help; `first`: of the answer's lines."""
    import re

    if line.startswith(_TITLE):
        return _paint(line, _BOLD)
    if first and re.match(r"(?i)(bad|unknown) |no such |no task \d|error\b", line):
        return _paint(line, _RED)
    if command == "ps":
        if first:
            return _paint(line, _BOLD)
        match = re.match(r"\s*\d+\s+(RUNNING|READY)\b", line)
        if match:
            return line[: match.start(1)] + _paint(match[1], _GREEN) + line[match.end(1) :]
    return line


def _paint(text, colour):
    if not text.strip() or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    if not _capable():
        return text
    body = text.rstrip("\n")
    return f"\x1b[{colour}m{body}\x1b[0m{text[len(body) :]}"


def _capable():
    """Whether the terminal understands more than text."""
    return os.environ.get("TERM", "dumb") not in ("", "dumb")


def _window():
    """The terminal's columns and rows."""
    with suppress(OSError):
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        if columns and rows:
            return columns, rows
    return 80, 24


def _cut(text, columns):
    """As much of a line as has room in so many columns."""
    text = text.rstrip("\n").expandtabs()
    if text.isascii():
        return text[:columns]
    import unicodedata

    for index, character in enumerate(text):
        wide = unicodedata.east_asian_width(character) in "WF"
        columns -= 0 if unicodedata.combining(character) else 2 if wide else 1
        if columns < 0:
            return text[:index]
    return text


def _is_number(text):
    return text.isascii() and text.isdigit() and len(text) < 20


def _reason(error):
    return getattr(error, "strerror", None) or str(error)
