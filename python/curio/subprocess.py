"""Child processes: the standard library's `subprocess`, with `await` in front of what can block.

A child is started by the standard library. Its pipes are streams, and its end is waited for by a
descriptor of the process, without a thread. Whoever is cancelled in `run` or `check_output` has the
child killed; with `Popen`, the child goes on::

    from curio import subprocess

    async def main():
        out = await subprocess.check_output(['echo', 'Hello'])
        print(out.decode(), end='')

    curio.run(main)
"""

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "Popen",
    "SubprocessError",
    "TextStream",
    "TimeoutExpired",
    "call",
    "check_call",
    "check_output",
    "run",
]

import codecs
import os
import signal
import subprocess
import sys
import threading
from io import IncrementalNewlineDecoder, StringIO
from subprocess import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    SubprocessError,
    TimeoutExpired,
)

from ._curio import Outside, operation
from ._plain import each, enter, leave
from .errors import CancelledError, TaskTimeout
from .io import FileStream, StreamBase
from .task import TaskGroup, disable_cancellation
from .thread import Completion
from .time import timeout_after


@operation
async def _child_ended(pidfd):
    """Wait until the process that a pidfd is of has ended."""


class Popen:
    """Popen(args, **kwargs): a child process, started with the standard library's arguments.

    Starting it does not block for longer than the system takes to find the program. `stdin`,
    `stdout` and `stderr` are streams if they are pipes, else None::

        from curio import subprocess

        async def main():
            p = subprocess.Popen(['seq', '3'], stdout=subprocess.PIPE)
            async for line in p.stdout:
                print('Got:', line)
            print(await p.wait())

        curio.run(main)

    With `text=True`, `encoding` or `errors` they are streams of text. `universal_newlines` raises
    RuntimeError. A stream may be given as another child's `stdin`, `stdout` or `stderr`: it is
    that child's from then on, and is to be closed here. `pid`, `returncode`, `args`, and whatever
    else the standard library's object has, are there.

    A child whose Popen is dropped runs on, and is not left behind as a zombie. Raises what
    the standard library does: FileNotFoundError or PermissionError for what cannot be started.
    """

    def __init__(
        self, args, *, text=None, encoding=None, errors=None, universal_newlines=None, **kwargs
    ):
        self._popen = None
        if universal_newlines:
            raise RuntimeError("universal_newlines is not supported: say text=True or encoding=")
        stream = FileStream
        if text or encoding is not None or errors is not None:
            codecs.lookup(encoding or "ascii")  # What is wrong is known before there is a child.
            codecs.lookup_error(errors or "strict")

            def stream(pipe):
                return TextStream(FileStream(pipe), encoding, errors)

        for name in "stdin", "stdout", "stderr":
            _hand_over(kwargs.get(name))
        kwargs["bufsize"] = 0  # The streams have buffers.
        self._popen = popen = _start(args, kwargs)
        self.stdin = popen.stdin and stream(popen.stdin)
        self.stdout = popen.stdout and stream(popen.stdout)
        self.stderr = popen.stderr and stream(popen.stderr)
        # Until `communicate` has come to its end:
        self._input = None
        self._read = {}

    def __getattr__(self, name):
        if name == "_popen":
            raise AttributeError(name)  # such as a copy is asked for
        return getattr(self._popen, name)

    def __repr__(self):
        state = "running" if self.returncode is None else f"ended with {self.returncode}"
        return f"<curio.Popen {self.pid}, {state}: {self.args!r}>"

    def __del__(self, is_finalizing=sys.is_finalizing):
        popen = self._popen
        # A thread that is started while the interpreter ends would never come to life.
        if popen is not None and not is_finalizing() and popen.poll() is None:
            threading.Thread(target=popen.wait, name="curio-reaper", daemon=True).start()

    @property
    def returncode(self):
        """The status: None while it runs, negative for the signal that has ended it."""
        return self._popen.returncode

    async def wait(self, timeout=None):
        """Wait until the child has ended; return its status.

        Raises TimeoutExpired if it has not after `timeout` seconds. A child that writes to a pipe
        which nobody reads may never end; see `communicate`.

        Cancellation: the child goes on.
        """
        if timeout is None:
            return await self._wait()
        try:
            return await timeout_after(timeout, self._wait)
        except TaskTimeout:
            raise TimeoutExpired(self.args, timeout) from None

    async def _wait(self):
        while (status := self._popen.poll()) is None:
            # Not yet asked for its status, it has its number.
            try:
                pidfd = os.pidfd_open(self.pid)
            except (AttributeError, OSError):
                await _ended_by_thread(self.pid)
                continue
            try:
                await _child_ended(pidfd)
            finally:
                os.close(pidfd)
        return status

    async def communicate(self, input=None, timeout=None):
        """Write `input` to the child and end its standard input; read all that it writes, and
        wait until it has ended. Returns `(stdout, stderr)`, None for what is not piped.

        A child need not read all of its input. Raises ValueError if there is input for a
        child whose standard input is not piped, and TimeoutExpired after `timeout` seconds.

        Cancellation, and a timeout: the child goes on. The exception has what was read so far, as
        `stdout` and `stderr`, and another call takes up where this one was; it must give no input.
        """
        if input and self.stdin is None:
            raise ValueError("there is input, and the child's stdin is not a pipe")
        if input and self._input is not None:
            raise ValueError("the child has been given its input already")
        if self._input is None:
            if isinstance(self.stdin, TextStream):
                input = self.stdin._encode(input or "")
            self._input = memoryview(input or b"").cast("B")
        try:
            if timeout is None:
                await self._communicate()
            else:
                await self._communicate_within(timeout)
        except CancelledError as error:
            error.stdout, error.stderr = self._output()
            raise
        return self._output()

    async def _communicate_within(self, timeout):
        try:
            await timeout_after(timeout, self._communicate)
        except TaskTimeout:
            out, err = self._output()
            raise TimeoutExpired(self.args, timeout, output=out, stderr=err) from None

    async def _communicate(self):
        _outside = Outside()  # What the child says comes from elsewhere, on any clock.
        work = [(self._collect, stream) for stream in (self.stdout, self.stderr) if stream]
        if self.stdin is not None:
            work.append((self._feed, self.stdin))
        if len(work) > 1:
            # The first that fails ends it.
            async with TaskGroup(wait=object) as group:
                for function, stream in work:
                    await group.spawn(_failure, function, stream)
            if failure := group.completed and group.completed.result:
                raise failure
        else:
            for function, stream in work:
                await function(stream)
        await self._wait()

    async def _feed(self, stream):
        if stream.closed:
            return
        stream = _binary(stream)
        try:
            while self._input:
                try:
                    await stream.write(self._input)
                except CancelledError as error:
                    self._input = self._input[error.bytes_written :]
                    raise
                self._input = self._input[:0]
            await stream.flush()
        except (BrokenPipeError, ConnectionResetError):
            self._input = self._input[:0]
        await _shut(stream)

    async def _collect(self, stream):
        if stream.closed:
            return
        kept = self._read.setdefault(stream, [])
        stream = _binary(stream)
        while piece := await stream.read():
            kept.append(piece)
        await _shut(stream)

    def _output(self):
        return tuple(
            stream and _decoded(stream, b"".join(self._read.get(stream, ())))
            for stream in (self.stdout, self.stderr)
        )

    async def _end(self):
        """Kill it, and wait for that; a cancellation waits, too."""
        self._popen.kill()
        async with disable_cancellation():
            for stream in self.stdin, self.stdout, self.stderr:
                if stream is not None:
                    await _shut(stream)
            await self._wait()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        """Close the pipes, and wait until the child has ended."""
        try:
            for stream in self.stdout, self.stderr:
                if stream is not None:
                    await stream.close()
            if self.stdin is not None:
                try:
                    await self.stdin.close()
                except BrokenPipeError:
                    pass
        finally:
            await self._wait()

    def __enter__(self):
        return enter(self, "a curio Popen")

    def __exit__(self, *exception):
        return leave(self, "a curio Popen", exception)


def _start(args, kwargs):
    """Start a child. If Ctrl-C comes meanwhile, it is ended again: nobody would know of it."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return subprocess.Popen(args, **kwargs)
    came, popen = [], None
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        popen = subprocess.Popen(args, **kwargs)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            if popen is not None:
                with popen:
                    popen.kill()
            raise KeyboardInterrupt
    return popen


async def run(
    args,
    *,
    stdin=None,
    input=None,
    stdout=None,
    stderr=None,
    capture_output=False,
    shell=False,
    timeout=None,
    check=False,
    **kwargs,
):
    """Run a program to its end; return a `CompletedProcess`, with what it has written to pipes.

    `input` is written to its standard input. `capture_output` makes `stdout` and `stderr` pipes.
    The rest is what `Popen` takes. Raises CalledProcessError for a status other than 0 if
    `check` is true; TimeoutExpired after `timeout` seconds, with what was read.

    Cancellation, and a timeout: the child is killed, and has ended when the exception is
    raised, which has what was read as `stdout` and `stderr`.
    """
    if input is not None:
        if stdin is not None:
            raise ValueError("there is input, and stdin: choose one of them")
        stdin = PIPE
    if capture_output:
        if stdout is not None or stderr is not None:
            raise ValueError("capture_output makes stdout and stderr pipes: choose one of them")
        stdout = stderr = PIPE
    process = Popen(args, stdin=stdin, stdout=stdout, stderr=stderr, shell=shell, **kwargs)
    try:
        out, err = await process.communicate(input, timeout)
    except GeneratorExit:
        process.kill()  # There is no kernel to wait with.
        raise
    except BaseException:
        await process._end()
        raise
    completed = CompletedProcess(process.args, process.returncode, out, err)
    if check:
        completed.check_returncode()
    return completed


async def check_output(
    args, *, stdin=None, stderr=None, shell=False, input=None, timeout=None, **kwargs
):
    """Run a program to its end; return what it has written to standard output.

    Arguments, exceptions and cancellation are those of `run`; a status other than 0 raises
    CalledProcessError, whose `output` is what was written.
    """
    for name in "stdout", "check":
        if name in kwargs:
            raise ValueError(f"check_output has its own {name}")
    completed = await run(
        args,
        stdin=stdin,
        input=input,
        stdout=PIPE,
        stderr=stderr,
        shell=shell,
        timeout=timeout,
        check=True,
        **kwargs,
    )
    return completed.stdout


async def call(args, *, timeout=None, **kwargs):
    """Run a program to its end; return its status. The rest is as for `run`."""
    return (await run(args, timeout=timeout, **kwargs)).returncode


async def check_call(args, *, timeout=None, **kwargs):
    """Run a program to its end; CalledProcessError if its status is not 0; else return 0."""
    return (await run(args, timeout=timeout, check=True, **kwargs)).returncode


class TextStream:
    """TextStream(stream, encoding=None, errors=None): text over a stream of bytes.

    What the child says is decoded, and its line ends become newlines. `encoding` is the
    locale's unless it is given, and `errors` 'strict'::

        from curio import subprocess

        async def main():
            p = subprocess.Popen(['printf', 'one\\r\\ntwo'], stdout=subprocess.PIPE, text=True)
            print([line async for line in p.stdout])
            await p.wait()

        curio.run(main)
    """

    def __init__(self, stream, encoding=None, errors=None):
        if encoding is None:
            import locale

            encoding = locale.getpreferredencoding(False)
        self.encoding, self.errors = encoding, errors or "strict"
        self.buffer = stream
        self._decoder = self._new_decoder()
        self._encoder = codecs.getincrementalencoder(encoding)(self.errors)
        self._text = ""  # received, decoded and not read

    def _new_decoder(self):
        decoder = codecs.getincrementaldecoder(self.encoding)(self.errors)
        return IncrementalNewlineDecoder(decoder, translate=True)

    def _encode(self, text):
        if not isinstance(text, str):
            raise TypeError(f"text is wanted, not {type(text).__name__!r}")
        return self._encoder.encode(text)

    def __repr__(self):
        return f"<curio.TextStream {self.buffer!r}, {self.encoding}>"

    @property
    def closed(self):
        """Whether the stream is closed."""
        return self.buffer.closed

    def fileno(self):
        """The number of the descriptor."""
        return self.buffer.fileno()

    async def _more(self):
        """Receive some more; False at the end."""
        piece = await self.buffer.read()
        self._text += self._decoder.decode(piece, final=not piece)
        return bool(piece)

    def _take(self, count):
        text, self._text = self._text[:count], self._text[count:]
        return text

    async def read(self, maxchars=-1):
        """Read what there is, at most `maxchars` characters, -1 for no limit; '' is the end.

        Cancellation: nothing is lost.
        """
        while not self._text and maxchars:
            if not await self._more():
                break
        return self._take(len(self._text) if maxchars < 0 else maxchars)

    async def readall(self):
        """Read everything until the end.

        Cancellation: nothing is lost; what has come is there for the next call.
        """
        while await self._more():
            pass
        return self._take(len(self._text))

    async def readline(self):
        """Read a line, with its newline; the last one may have none. '' is the end.

        Raises ValueError if the line is longer than the stream of bytes below, `buffer`, may have
        lines; it can still be read otherwise.

        Cancellation: nothing is lost; what has come is there for the next call.
        """
        searched = 0
        while (end := self._text.find("\n", searched)) < 0:
            searched = len(self._text)
            if searched > self.buffer.limit:
                limit = self.buffer.limit
                raise ValueError(f"the line has no end within the stream's limit, {limit}")
            if not await self._more():
                return self._take(len(self._text))
        return self._take(end + 1)

    async def readlines(self):
        """Read all lines until the end; return them in a list.

        Cancellation: nothing is lost; what has come is there for the next call.
        """
        return list(StringIO(await self.readall(), newline="\n"))

    async def write(self, text):
        """Write all of `text`; return its length.

        Cancellation: part may be written; how much, the exception says as `bytes_written`.
        """
        await self.buffer.write(self._encode(text))
        return len(text)

    async def writelines(self, lines):
        """Write texts, one after the other.

        Cancellation: part may be written; how much, the exception says as `bytes_written`.
        """
        await self.buffer.writelines([self._encode(line) for line in lines])

    async def flush(self):
        """Wait until all that was written has been handed to the system.

        Cancellation: nothing is lost; it will be sent.
        """
        await self.buffer.flush()

    async def close(self):
        """Flush, and close. Twice is fine.

        Cancellation: it is closed, and what was not sent is lost.
        """
        await self.buffer.close()

    def __aiter__(self):
        return self

    async def __anext__(self):
        if line := await self.readline():
            return line
        raise StopAsyncIteration

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        await self.close()

    def __enter__(self):
        return enter(self, "a curio stream")

    def __exit__(self, *exception):
        return leave(self, "a curio stream", exception)

    def __iter__(self):
        return each(self, "the lines of a curio stream")


async def _failure(function, stream):
    """What it raises, as a result: a task that crashes would be reported besides."""
    try:
        await function(stream)
    except CancelledError:
        raise
    except Exception as error:
        return error


def _binary(stream):
    return stream.buffer if isinstance(stream, TextStream) else stream


def _decoded(stream, data):
    """What was read of a stream, as its user wants it. Part of a character may be missing."""
    if isinstance(stream, TextStream):
        decoder = stream._new_decoder()
        return decoder.decode(data, final=stream.closed)
    return data


async def _shut(stream):
    """Close a stream; what was not sent is dropped."""
    stream = _binary(stream)
    if not stream.closed:
        await stream._close()


def _hand_over(stream):
    """Make a stream of ours one that a child can have."""
    if isinstance(stream, TextStream):
        if stream._text:
            raise OSError("the stream has received text that nobody has read")
        stream = stream.buffer
    if isinstance(stream, StreamBase):
        if stream._unread:
            raise OSError(f"the stream has {stream._unread} bytes in its buffer: read them first")
        stream._try_flush()
        os.set_blocking(stream.fileno(), True)


async def _ended_by_thread(pid):
    """Where there is no pidfd. Its status is left to who will ask for it."""
    ended = Completion()

    def wait():
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass  # somebody else has asked
        ended.give(None)

    threading.Thread(target=wait, name="curio-child", daemon=True).start()
    await ended.wait()
