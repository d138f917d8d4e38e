"""For tests: a clock that jumps, an order that is drawn, interruptions everywhere.

On a virtual kernel no test sleeps. Time stands still while a task can run, and jumps to the
next deadline when all of them wait; when all wait and there is no deadline, `run` raises an
OSError and says so instead of hanging. Sockets and pipes work if both ends are the program's
own: what is written at one end can be read at the other in the same moment. Calls in threads and
in worker processes are waited for really, when no task can run and there is no deadline; the clock
stands still meanwhile. Other things that come from elsewhere are not waited for; with them, use
an ordinary kernel.
"""

__all__ = ["Interruption", "Network", "Report", "VirtualKernel", "interrupt_everywhere", "run"]

from typing import NamedTuple

from ._curio import NetworkBase, Testing
from .errors import CancelledError, TaskError, TaskTimeout, UncaughtTimeoutError
from .kernel import Kernel
from .time import timeout_after


class VirtualKernel(Kernel):
    """VirtualKernel(seed=None, *, network=None, debug=None, activations=None, taskcls=None)

    A kernel on a virtual clock.

    With a `seed`, a number, the next task to run is drawn by chance: the same program with the
    same seed runs in the same order. With a `network`, a `Network`, its TCP sockets are on that
    instead of the machine's. The other arguments are those of `Kernel`::

        async def main():
            before = await curio.clock()
            return await curio.sleep(86_400) - before

        with curio.testing.VirtualKernel() as kernel:
            assert kernel.run(main) == 86_400  # at once
    """

    __slots__ = ()

    def __new__(
        cls,
        seed=None,
        *,
        network=None,
        debug=None,
        activations=None,
        taskcls=None,
        _testing=None,
    ):
        return super().__new__(
            cls,
            debug=debug,
            activations=activations,
            taskcls=taskcls,
            _testing=_testing or Testing(seed, network),
        )


def run(corofunc, *args, seed=None, network=None):
    """Run a program on a virtual kernel of its own, and return its result.

    As `curio.run`; see `VirtualKernel`::

        async def main(seconds):
            await curio.sleep(seconds)

        curio.testing.run(main, 86_400)
    """
    with VirtualKernel(seed, network=network) as kernel:
        return kernel.run(corofunc, *args)


class Network(NetworkBase):
    """Network(seed=0, *, delay=(0.0, 0.01), loss=0.0, duplicates=0.0, resets=0.0, buffer=65536)

    A simulated network, for the programs of virtual kernels.

    In a kernel that has it, TCP sockets, servers, connections and look-ups of names are on
    this network instead of the machine's: there is nobody else on it, every host's name has an
    address, and every port is free. Bytes take their time, come in pieces of any length, and
    wait where the network is cut. Unless a connection is reset, all of them arrive, in order.
    All is drawn by `seed`, and time is virtual, so the same program with the same seed runs in
    the same way. Unix sockets, pipes, and UDP sockets but those of `datagrams`, are the machine's.

    `delay`: the least and the most that a piece may take, in seconds. `loss`, `duplicates`:
    shares of datagrams, from 0.0 to 1.0, that get lost, or arrive twice. `resets`: the share of
    pieces with which their connection ends: both sides get ConnectionResetError, and what is on
    its way is lost. `buffer`: how many bytes may be under way in one direction of
    a connection made from now on; the sockets hold some kilobytes more::

        async def greet(client, address):
            await client.sendall(b'Hello')

        async def main():
            await curio.spawn(curio.tcp_server, 'server', 80, greet, daemon=True)
            await curio.sleep(1)
            sock = await curio.open_connection('server', 80)
            async with sock:
                print(await sock.as_stream().read(5))

        network = curio.testing.Network(1, delay=(0.1, 0.5))
        curio.testing.run(main, network=network)
    """

    __slots__ = ("_conditions",)

    def __new__(cls, seed=0, **conditions):
        return super().__new__(cls, seed)

    def __init__(
        self,
        seed=0,
        *,
        delay=(0.0, 0.01),
        loss=0.0,
        duplicates=0.0,
        resets=0.0,
        buffer=65536,
    ):
        self._conditions = {}
        self.set(delay=delay, loss=loss, duplicates=duplicates, resets=resets, buffer=buffer)

    def set(self, **conditions):
        """Change some of `delay`, `loss`, `duplicates`, `resets` and `buffer`.

        Raises ValueError for what is no time or no share, TypeError for an unknown name.
        """
        known = {**self._conditions, **conditions}
        delay = known.get("delay")
        if len(delay) != 2 or not 0 <= delay[0] <= delay[1]:
            raise ValueError(f"delay is the least and the most in seconds, not {delay!r}")
        for name in ("loss", "duplicates", "resets"):
            if not 0 <= known[name] <= 1:
                raise ValueError(f"{name} is a share from 0.0 to 1.0, not {known[name]!r}")
        if known["buffer"] < 1:
            raise ValueError(f"buffer is a positive number of bytes, not {known['buffer']!r}")
        self._set(**known)
        self._conditions = known

    def host(self, name):
        """The address of a host, as text: the same whenever it is asked for."""
        return self._host(name)

    def cut(self, host, other=None):
        """Cut the network between two hosts, or a host and all others.

        What is under way there waits until `heal`; who connects gets no answer, and
        TimeoutError after two minutes. A client's host is 'localhost' unless it connects with
        another `source_addr`.
        """
        self._cut(host, other)

    def heal(self):
        """End all cuts."""
        self._heal()

    def reset_all(self):
        """Reset every connection."""
        self._reset_all()

    def pair(self):
        """Two Sockets that are connected with each other over the network."""
        from ._simulated import connected

        one, other = self._pair(False)
        return connected(one), connected(other)

    def datagrams(self):
        """Two Sockets for datagrams, connected with each other: `send` and `recv` work.

        What is sent may be lost, doubled and overtaken, as the conditions say; what finds the
        receiver's queue of ten full is lost, too.
        """
        import socket

        from .io import Socket

        one, other = self._pair(True)
        return Socket(socket.socket(fileno=one)), Socket(socket.socket(fileno=other))


class Report(NamedTuple):
    """How many runs there were."""

    points: int
    """Places where the program can be interrupted."""

    runs: int
    """Runs of the program, the first one included."""


class Interruption(NamedTuple):
    """How one run of a program has ended."""

    where: "str | None"
    """How and where it was interrupted, in words; None for the first run, which is not."""

    result: object
    """What the program has returned."""

    exception: "BaseException | None"
    """What it has raised instead."""


def interrupt_everywhere(corofunc, *args, check=None, any_error=False, seed=None):
    """Run a program once for each place where it can be interrupted, and interrupt it there.

    A program that may be cancelled at any moment is right only if it is right for each of those
    moments; this tries them all. It runs on a virtual clock, so that it takes no time, and each
    run is the same up to the interruption. Every task of the program is interrupted in its turn,
    at each operation where it has blocked:

    - cancelled, while it is blocked; and cancelled when the operation has just succeeded, so
      that the cancellation arrives at the next one;
    - timed out, in both moments, by each of the limits that it is inside of, and by one around
      the whole program.

    `corofunc` is called with `args` for each run, and is to make all it needs afresh. What it
    asserts tells whether it is right; code inside `async with curio.disable_cancellation()` is
    not interrupted. `check` is called after each run, when all tasks have ended, with an
    `Interruption`. `seed` is that of `VirtualKernel`. Return a `Report`.

    AssertionError, with the place of the interruption, says what is wrong:

    - the program, or `check`, raises something that is not the interruption, nor that of
      a task which was interrupted (`any_error`: but for AssertionError, `check` judges that);
    - a task can never go on, or the program does not end;
    - a lock is left locked, or a socket is left open::

        async def transfer(source, target):
            item = await source.get()
            await curio.sleep(1)  # it is heavy; and if this is interrupted?
            await target.put(item)

        async def program():
            source, target = curio.Queue(), curio.Queue()
            await source.put('gold')
            try:
                await transfer(source, target)
            finally:
                assert source.qsize() + target.qsize() == 1, 'the gold is lost'

        try:
            curio.testing.interrupt_everywhere(program)
        except AssertionError as error:
            print(error)
    """
    if check is not None and not callable(check):
        raise TypeError(f"check is a function or None, not {check!r}")
    testing = Testing(seed)
    while testing.next_run():
        try:
            run = _run_once(testing, corofunc, args)
            _judge(run, any_error)
            if check is not None:
                check(run)
        except Exception as error:
            where = testing.interruption or "without any interruption"
            raise AssertionError(f"{where}: {_what(error)}") from error
    return Report(*testing.report())


def _what(error):
    return str(error) if type(error) is AssertionError else f"{type(error).__name__}: {error}"


def _run_once(testing, corofunc, args):
    ends = []
    limited = testing.limits_program

    async def program():
        try:
            result = await (timeout_after(None, corofunc, *args) if limited else corofunc(*args))
            ends.append((result, None))
        except (Exception, CancelledError) as error:
            ends.append((None, error))

    program.__qualname__ = getattr(corofunc, "__qualname__", program.__qualname__)
    kernel = VirtualKernel(_testing=testing)
    try:
        kernel.run(program, log_errors=False)
        end = None
    except OSError as error:
        end = str(error)
    testing.ended(kernel, end)  # if it fails, tasks are left that cannot be ended
    kernel.shutdown()
    testing.finish(kernel)
    return Interruption(testing.interruption, *ends[0])


def _judge(run, any_error):
    error = run.exception
    if error is None:
        return
    if isinstance(error, AssertionError):
        raise error
    if any_error:
        return
    if run.where is None or not _is_interruption(error):
        raise error


def _is_interruption(error):
    while isinstance(error, TaskError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, (CancelledError, TaskTimeout, UncaughtTimeoutError))
