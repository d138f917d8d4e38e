"""The monitor: looking into a program while it runs, or hangs.

A kernel that was made with `with_monitor=True`, or with CURIOMONITOR in the environment,
lets its user in from another terminal::

    python3 -m curio.monitor

which lists tasks (`ps`), shows where they are (`where`), what they wait for and who has it
(`why`, `deadlock`), which threads and processes work for them (`workers`), and cancels them
(`cancel`). `help` lists the commands.

`dump` writes the whole picture without a monitor, and `dump_on_signal` lets a signal do it.
"""

__all__ = ["Monitor", "dump", "dump_on_signal"]

import sys


class Monitor:
    """A monitor for `kernel`, for programs that do not want it from the start.

    It listens on a TCP port, which everybody who can reach it may use; without a host, on
    a socket of the user's own. Nothing is started before `start`::

        async def main():
            monitor = curio.monitor.Monitor(kernel)
            await monitor.start()
            await curio.sleep(0.01)
            monitor.close()

        kernel = curio.Kernel()
        kernel.run(main)
    """

    def __init__(self, kernel, host=None, port=48802):
        self.kernel = kernel
        self.host = host
        self.port = port
        self._running = None

    async def start(self):
        """Start listening. Raises OSError if that fails; does nothing if it listens already.

        Cancellation: it is no cancellation point.
        """
        if self._running is None:
            address = True if self.host is None else (self.host, self.port)
            self._running = self.kernel._start_monitor(address)

    def close(self):
        """End all sessions, and listen no more. A second call does nothing."""
        running, self._running = self._running, None
        if running is not None:
            running.stop()

    @property
    def address(self):
        """Where it listens: a path, or a tuple (host, port); None if it does not."""
        return None if self._running is None else self._running.address

    def ps(self, kernel=None, out=None):
        """Write the list of tasks to `out`, standard output by default."""
        _write(out, (kernel or self.kernel)._ask_monitor("ps"))

    def where(self, taskid, kernel=None, out=None):
        """Write where a task is to `out`, standard output by default."""
        _write(out, (kernel or self.kernel)._ask_monitor(f"where {int(taskid)}"))


def dump(kernel, file=None):
    """Write the whole picture of a kernel: its tasks, where each is and why, and deadlocks.

    `file`: an open text file, or a path to append to; standard error by default. May be
    called from any thread, with or without a monitor, while the kernel runs or not::

        import sys

        async def main():
            curio.monitor.dump(kernel, sys.stdout)

        kernel = curio.Kernel()
        kernel.run(main)
    """
    _write(file, kernel._dump(), sys.stderr)


def dump_on_signal(signo, kernel, file=None):
    """Do a `dump` whenever the process gets the signal `signo`; return the former handler.

    Python's signal handlers run in the main thread, when it next executes Python code.
    Raises ValueError outside of the main thread.
    """
    import signal

    return signal.signal(signo, lambda *_: dump(kernel, file))


def _write(file, text, default=None):
    if file is None:
        file = sys.stdout if default is None else default
    if hasattr(file, "write"):
        file.write(text)
        file.flush()
    else:
        with open(file, "a", encoding="utf-8") as opened:
            opened.write(text)


if __name__ == "__main__":
    from curio._monitor_client import main

    sys.exit(main(sys.argv[1:]))
