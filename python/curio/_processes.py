"""Worker processes: a pool of them for the whole program.

Loaded when there is work for them: `multiprocessing` is slow to import.

*Facts.* A process is started by `multiprocessing` ("spawn"): a fresh interpreter, which imports the
program's main module so that its functions can be found. That takes a tenth of a second, of which
the program itself spends a few milliseconds. A function that computes can be ended only with
its process.

*What we do.* Workers are kept, and used by whoever comes, in whatever kernel. The kernel's thread
sends a call through the worker's socket, and waits there for the answer, by operations like any
other's. Threads do what would block: one starts a worker and waits until it can be used, one sees
a worker off. A call that is not answered for whatever reason ends its worker, so no answer is ever
left for the next call.

*What must stay true.* A worker is idle, or has one call, or is on its way in or out. Each that is
not on its way out has a place of `MAX_WORKER_PROCESSES`. A call leaves the pool by `leave`,
whatever has become of it. While a process is started, the program does not fork and does not end:
a forked child would have ends of a worker's connections that nobody knows of.
"""

import atexit
import itertools
import multiprocessing
import os
import pickle
import select
import signal
import socket
import threading
from collections import deque
from contextlib import suppress
from multiprocessing import resource_tracker

from . import _curio, workers
from ._threads import Completion, refuse_coroutine_function
from ._worker import LARGE, Incoming, Inherited, pack, serve
from .errors import CurioError
from .io import Socket
from .task import check_cancellation
from .thread import name_of
from .workers import RemoteTraceback, WorkerError

#: How long, in seconds, a worker that is asked to end may take.
GRACE = 1.0

_spawn = multiprocessing.get_context("spawn")


async def run(callable, args, kwargs):
    refuse_coroutine_function(callable, "process")
    # What is about to be cancelled does not begin.
    await check_cancellation()
    try:
        message = pack((callable, args, kwargs))
    except Exception as error:
        what = f"a call of {_name(callable)} cannot be pickled, and so not be sent to a process"
        raise pickle.PicklingError(f"{what}: {type(error).__name__}: {error}") from error
    call = _Call()
    try:
        if not pool.enter(call):
            await call.turn.wait()
        if call.error is not None:
            raise call.error
        incoming = await call.worker.ask(message, name_of(callable))
        if incoming is None:
            raise WorkerError(f"{call.worker} {await call.worker.fate()}, in {_name(callable)}")
    finally:
        pool.leave(call)
        call = None
    return _unwrap(callable, incoming)


def _unwrap(callable, incoming):
    try:
        result, error, text = incoming.unpack()
    except Exception as error:
        what = f"the result of {_name(callable)} cannot be unpickled"
        raise WorkerError(f"{what}: {type(error).__name__}: {error}") from error
    if error is None:
        return result
    if isinstance(error, bytes):
        try:
            error = pickle.loads(error)
        except Exception as problem:
            what = "the exception cannot be unpickled"
            error = f"{what}: {type(problem).__name__}: {problem}"
    if isinstance(error, str):
        error = WorkerError(f"{_name(callable)}: {error}")
    try:
        raise error from RemoteTraceback(text)
    finally:
        del error  # which has this frame in its traceback


def _name(callable):
    name = getattr(callable, "__qualname__", None)
    return f"{name}()" if isinstance(name, str) else repr(callable)


class _Call:
    """A call, from when it comes to the pool until it leaves it."""

    __slots__ = ("error", "turn", "worker")

    def __init__(self):
        self.turn = self.worker = self.error = None


class _Pool:
    """The workers, and the calls that wait for one, first come, first served."""

    def __init__(self):
        self._limit = 1
        self._reset()

    def _reset(self):
        # A call may be left while this is held, by a collector that finds a forgotten kernel.
        self._lock = threading.RLock()
        self._idle = []
        self._waiting = deque()
        self._places = 0  # of workers that are idle, at work, or starting
        self._starting = 0
        self._all = set()  # down to those on their way out
        self._numbers = itertools.count(1)
        self._closed = False
        self.launching = threading.RLock()

    def enter(self, call):
        """Give the call a worker, or an error: now (True) or when its `turn` says so."""
        self._limit = limit()
        with self._lock:
            if self._closed:
                raise CurioError("no worker process is started while the interpreter ends")
            self._waiting.append(call)
            self._settle()
            if call.worker is not None or call.error is not None:
                return True
            call.turn = Completion()
            return False

    def leave(self, call):
        with self._lock:
            worker, call.worker = call.worker, None
            if worker is None:
                if call in self._waiting:
                    self._waiting.remove(call)
            elif worker.forgotten:
                return  # The copy of a call that is the parent's.
            elif worker.busy:
                self._places -= 1
                worker.end()
            else:
                self._idle.append(worker)
            self._settle()

    def _settle(self):
        """Give idle workers to those who wait; start some, or end some, as the limit wants it."""
        try:
            places = limit()
        except ValueError:
            places = self._limit  # The next call will complain.
        while self._waiting and self._idle and self._places - len(self._idle) < places:
            worker = self._idle.pop()
            if worker.usable():
                self._serve(worker, None)
            else:
                self._places -= 1
                worker.end()
        while self._idle and self._places > places:
            self._places -= 1
            self._idle.pop(0).retire()
        while self._starting < len(self._waiting) and self._places < places:
            self._places += 1
            self._starting += 1
            try:
                threading.Thread(target=self._start, name="curio-starter", daemon=True).start()
            except BaseException as error:
                self._has_started(None, error)

    def _serve(self, worker, error):
        call = self._waiting.popleft()
        call.worker, call.error = worker, error
        if call.turn is not None:
            call.turn.give(None)

    def _start(self):
        """In a thread."""
        worker = error = None
        try:
            with self.launching:
                if self._closed:
                    return
                worker = Worker(f"curio-worker-{next(self._numbers)}", self._all)
            worker.greet()
        except BaseException as exception:
            if worker is not None:
                worker.end()
            worker, error = None, exception
        with self._lock:
            self._has_started(worker, error)
            self._settle()
        del error  # which has this frame in its traceback

    def _has_started(self, worker, error):
        self._starting -= 1
        if worker is not None:
            self._idle.append(worker)
            return
        self._places -= 1
        if self._waiting:
            self._serve(None, error)

    def close(self):
        """The interpreter is about to end: so are the workers."""
        launched = self.launching.acquire(timeout=GRACE)
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            left = set(self._all)
        if launched:
            self.launching.release()
        for worker in idle:
            worker.sock.close()
        for worker in left.difference(idle):
            worker.send_signal(signal.SIGTERM)
        _wait_for(left, GRACE)
        for worker in left:
            worker.send_signal(signal.SIGKILL)
        _wait_for(left, GRACE)

    def forget(self):
        """In a forked child: these workers are the parent's."""
        workers = list(self._all)
        self._reset()
        for worker in workers:
            worker.forget()


def limit():
    """MAX_WORKER_PROCESSES, if it can be one."""
    given = workers.MAX_WORKER_PROCESSES
    if not isinstance(given, int) or given < 1:
        raise ValueError(f"MAX_WORKER_PROCESSES must be an int of at least 1, not {given!r}")
    return given


def _wait_for(workers, seconds):
    """Wait until they have ended, or it has taken too long."""
    import time

    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.wait(max(0.0, deadline - time.monotonic()))


class Worker:
    """A worker process, as the program sees it."""

    def __init__(self, name, register):
        self.busy = False  # An answer is due, or might be half read.
        self.forgotten = False
        self._register = register
        self._status = None
        self.sock, theirs = socket.socketpair()
        for end in self.sock, theirs:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        try:
            lifeline, self._lifeline = os.pipe()
        except BaseException:
            self.sock.close()
            theirs.close()
            raise
        self.pid = None
        try:
            inherited = Inherited(theirs.fileno()), Inherited(lifeline)
            process = _spawn.Process(target=serve, args=inherited, name=name, daemon=False)
            self._popen = _launch(process)
            self.pid = self._popen.pid
            self._pidfd = os.pidfd_open(self.pid)
        except BaseException:
            self.sock.close()
            os.close(self._lifeline)
            if self.pid is not None:
                os.kill(self.pid, signal.SIGKILL)
                with suppress(ChildProcessError):  # if children are ignored
                    os.waitpid(self.pid, 0)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self._reaping = threading.Lock()
        self._said = select.poll()
        self._said.register(self.sock, select.POLLIN)
        register.add(self)
        self._seen = _curio.Seen(f"process {self.pid}")

    def __str__(self):
        return f"worker process {self.pid}"

    def greet(self):
        """Wait, in a thread, until it can be used."""
        if not self.sock.recv(1):
            self.wait(GRACE)
            raise WorkerError(
                f"{self} {self._how()} before it could begin. A worker imports the main module of "
                "the program, which must run nothing but under `if __name__ == '__main__':`"
            )
        self.sock.setblocking(False)

    def usable(self):
        """Whether it is there, and silent, as is right for one without work."""
        return not self._said.poll(0)

    async def ask(self, message, name):
        """Send a message, a call of `name`; give the answer, or None if it has ended instead.

        Cancellation: there is an answer to come, so it cannot be used any more.
        """
        self.busy = True
        seen = self._seen
        seen.begin(name)
        sock, outside = Socket(self.sock), _curio.Outside()
        try:
            for piece in message:
                await sock.sendall(piece)
            first = await sock.recv(LARGE)
            if not first:
                return None
            incoming = Incoming(first)
            for room in incoming.rooms():
                while room:
                    count = await sock.recv_into(room)
                    if not count:
                        return None
                    room = room[count:]
        except ConnectionError:
            return None
        finally:
            sock._detach()
            seen.end()
            del outside  # which an error would keep, with this frame
        self.busy = False
        return incoming

    async def fate(self):
        """What has become of it, now that it does not talk any more."""
        ended = Completion()
        threading.Thread(
            target=lambda: ended.give(self.wait(GRACE)), name="curio-reaper", daemon=True
        ).start()
        await ended.wait()
        return self._how()

    def _how(self):
        if self._status is None:
            return "has closed its connection"
        if not self._status:
            return "has ended"
        code, status = self._status
        if code == os.CLD_EXITED:
            return f"has ended with status {status}"
        try:
            return f"was killed by {signal.Signals(status).name}"
        except ValueError:
            return f"was killed by signal {status}"

    def end(self):
        """End it whatever it does, and do not wait for that."""
        self.sock.close()
        self.send_signal(signal.SIGTERM)
        self._see_off()

    def retire(self):
        """Let it end by itself, for it has nothing to do."""
        self.sock.close()
        self._see_off()

    def _see_off(self):
        if self._status is None:
            try:
                threading.Thread(target=self._last, name="curio-reaper", daemon=True).start()
            except RuntimeError:
                self.send_signal(signal.SIGKILL)  # Without a thread, it is reaped in the end.

    def _last(self):
        if not self.wait(GRACE):
            self.send_signal(signal.SIGKILL)
            self.wait(None)

    def send_signal(self, signo):
        if self._status is None:
            try:
                signal.pidfd_send_signal(self._pidfd, signo)
            except ProcessLookupError:
                pass

    def wait(self, seconds):
        """Wait until it has ended, and tell the system to forget it; whether it has ended."""
        gone = select.poll()  # Each has its own: several threads may wait.
        gone.register(self._pidfd, select.POLLIN)
        gone.poll(None if seconds is None else seconds * 1000)
        with self._reaping:
            if self._status is None:
                try:
                    ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
                except ChildProcessError:
                    self._status = ()  # Somebody else has asked for its status.
                else:
                    if ended is None:
                        return False
                    self._status = ended.si_code, ended.si_status
                os.close(self._lifeline)
                self._popen = self._seen = None
                self._register.discard(self)
        return True

    def forget(self):
        """In a forked child: let go of it."""
        self.forgotten = True
        self._status = ()
        self.sock.close()
        os.close(self._lifeline)

    def __del__(self, close=os.close):
        # Not before: a thread may be about to ask it.
        try:
            close(self._pidfd)
        except (AttributeError, OSError):
            pass


def _launch(process):
    # As `start` does it, but without a word to multiprocessing: it would wait for the workers at
    # the end of the program, and of any child that it forks, for whom they are strangers.
    resource_tracker.ensure_running()  # It undoes what comes next.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return process._Popen(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


pool = _Pool()
atexit.register(pool.close)
os.register_at_fork(
    before=lambda: pool.launching.acquire(),
    after_in_parent=lambda: pool.launching.release(),
    after_in_child=pool.forget,
)
