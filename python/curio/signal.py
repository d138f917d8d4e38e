"""Signals: waiting for them as for anything else."""

__all__ = ["SignalEvent", "SignalQueue", "SignalSet", "enable_signals", "ignore_signals"]

from . import _curio
from ._curio import operation
from ._plain import enter, leave
from .queue import UniversalQueue
from .sync import UniversalEvent, _Primitive


class SignalSet(_Primitive, _curio.SignalSetBase):
    """SignalSet(*signos)

    Unix signals that are waited for together. `await SignalSet(signal.SIGHUP).wait()` waits for
    one. Inside of `async with`, signals are kept in the order in which they come, and
    `wait` takes them one at a time. Afterwards the former handlers are back. Several sets may
    watch one signal: each gets it. Only in the main thread::

        import os
        import signal

        async def main():
            async with curio.SignalSet(signal.SIGUSR1, signal.SIGHUP) as signals:
                os.kill(os.getpid(), signal.SIGHUP)
                print(await signals.wait())

        curio.run(main)
    """

    __slots__ = ("__weakref__",)

    @operation
    async def wait(self):
        """Wait for one signal of the set, and return its number, a `signal.Signals`.

        Outside of a block, the signals are watched only as long as this waits. Raises
        ValueError outside of the main thread, or for a signal that cannot be caught.

        Cancellation: in a block, signals stay; alone, the former handlers are back.
        """

    @operation
    async def __aenter__(self):
        """Watch the signals; return the set. AssertionError if the block is entered already."""

    @operation
    async def __aexit__(self, exc_type, exc, traceback):
        """Put the former handlers back, unless another set watches."""

    def __enter__(self):
        return enter(self, "a SignalSet")

    def __exit__(self, *exception):
        return leave(self, "a SignalSet", exception)

    def ignore(self):
        """Ignore the signals inside of a `with` block; then the former handlers are back."""
        return _Ignore(self)

    def __repr__(self):
        return self._describe(", ".join(map(str, self._signals)))


class _Enable:
    """Watches signals in a block; see `enable_signals`."""

    def __init__(self, signos):
        self._set = SignalSet(*signos)

    async def __aenter__(self):
        return await self._set.__aenter__()

    async def __aexit__(self, *exception):
        await self._set.__aexit__(*exception)

    def __enter__(self):
        return enter(self, "enable_signals()")

    def __exit__(self, *exception):
        return leave(self, "enable_signals()", exception)


def enable_signals(signos):
    """Watch signals in an `async with` block: they do not end the program there.

    Sets of them that are waited for inside find their handlers in place. The block's object is a
    SignalSet, which keeps the signals that come.
    """
    return _Enable(signos)


def ignore_signals(signos):
    """Ignore signals in a `with` block; then the former handlers are back."""
    return SignalSet(*signos).ignore()


class _Ignore:
    def __init__(self, signals):
        self._signals = signals
        self._former = []

    def __enter__(self):
        import signal

        _handle(self._signals._signals, signal.SIG_IGN, self._former)
        return self._signals

    def __exit__(self, *exception):
        _put_back(self._former)


class SignalQueue(UniversalQueue):
    """SignalQueue(*signos)

    A UniversalQueue of signals. Inside of `with`, or `async with`, each signal that comes is put
    into it, as a `signal.Signals`; afterwards the former handlers are back. Only the main thread
    can enter it; whoever can use a UniversalQueue can get from it::

        import os
        import signal

        async def main():
            async with curio.SignalQueue(signal.SIGUSR1) as signals:
                os.kill(os.getpid(), signal.SIGUSR1)
                print(await signals.get())

        curio.run(main)
    """

    __slots__ = ("_former", "_signals")

    def __new__(cls, *signos):
        self = super().__new__(cls)
        self._signals, self._former = signos, []
        return self

    def __enter__(self):
        import signal

        if self._former:
            raise RuntimeError("this SignalQueue is in use already")

        def handle(signo, frame):
            self._put_now(signal.Signals(signo))

        _handle(self._signals, handle, self._former)
        return self

    def __exit__(self, *exception):
        _put_back(self._former)

    async def __aenter__(self):
        """Watch the signals; return the queue."""
        return self.__enter__()

    async def __aexit__(self, *exception):
        """Put the former handlers back."""
        self.__exit__()


class SignalEvent(UniversalEvent):
    """SignalEvent(*signos)

    A UniversalEvent that is set when one of the signals comes. It watches them as long as the
    program runs, or until others do. It can be made in the main thread only::

        import os
        import signal

        goodbye = curio.SignalEvent(signal.SIGUSR1, signal.SIGUSR2)

        async def main():
            os.kill(os.getpid(), signal.SIGUSR1)
            await goodbye.wait()
            print('Goodbye')

        curio.run(main)
    """

    __slots__ = ()

    def __new__(cls, *signos):
        self = super().__new__(cls)
        _handle(signos, lambda signo, frame: self._set_now(), [])
        return self


def _handle(signos, handler, former):
    """Have a function called when signals come; note the former handlers, or change nothing."""
    import signal

    try:
        for signo in signos:
            former.append((signo, signal.signal(signo, handler)))
    except BaseException:
        _put_back(former)
        raise


def _put_back(former):
    import signal

    while former:
        signo, handler = former.pop()
        # None: it was not installed from Python, and cannot be put back.
        signal.signal(signo, signal.SIG_DFL if handler is None else handler)
