"""`python3 -m curio`: Python at a terminal, where `await` works.

A kernel runs in the main thread, so tasks go on while one types, and the monitor can look in. Lines
are read in an async thread, and each statement is a task of its own. Ctrl-C cancels the statement
that runs; tasks that it has spawned stay. Once more, and what its clean-up waits for is
interrupted, too. At the prompt it drops what was typed.
"""

import ast
import code
import inspect
import sys
import types

import curio


class _Console(code.InteractiveConsole):
    """What reads statements, in its thread, and has the kernel run them."""

    def __init__(self, names):
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._running = None  # the statement's task
        self._cancelled = False  # whether Ctrl-C has come to it
        self._stale = None  # what stood at the prompt when Ctrl-C came
        self._left = None  # SystemExit

    # --- in the console's thread ---

    def talk(self):
        """Reads statements to the end of the input; the exception that was to end it, if any."""
        try:
            self.interact(_banner(), "")
        except SystemExit as exit:
            return exit
        return None

    def raw_input(self, prompt=""):
        line = super().raw_input(prompt)
        stale, self._stale = self._stale, None
        if stale is None:
            return line
        # readline knows nothing of the Ctrl-C, and so still had what was typed before it.
        self.resetbuffer()
        return line[len(stale) :] if line.startswith(stale) else line

    def runcode(self, code):
        try:
            error = curio.AWAIT(self._run(code))
        except KeyboardInterrupt as interrupt:
            error = interrupt  # it came between the statement and us
        if isinstance(error, SystemExit):
            raise error
        if self._cancelled and isinstance(error, curio.TaskCancelled):
            self.write("\nKeyboardInterrupt\n")
        elif error is not None:
            try:
                raise error
            except BaseException:
                self.showtraceback()

    # --- in the kernel's thread ---

    async def _run(self, code):
        """Runs a statement; the exception that has ended it, or None."""
        function = types.FunctionType(code, self.locals)
        self._cancelled = False
        self._running = task = await curio.spawn(_statement, function)
        try:
            await task.wait()
        finally:
            self._running = None
        return task.exception or task.result

    async def interrupted(self):
        """Ctrl-C has come."""
        task = self._running
        if task is None:
            self._stale = _typed()
            self.write("\nKeyboardInterrupt\n" + str(getattr(sys, "ps1", ">>> ")))
        elif self._cancelled:
            await task.interrupt()
        else:
            self._cancelled = True
            await task.cancel(blocking=False)


async def _statement(function):
    try:
        result = function()
        if inspect.iscoroutine(result):
            await result
    except curio.TaskCancelled:
        raise
    except BaseException as error:
        # Its traceback begins with us.
        return error.with_traceback(error.__traceback__.tb_next)


def _typed():
    readline = sys.modules.get("readline")
    return "" if readline is None else readline.get_line_buffer()


def _banner():
    return (
        f"Curio {curio.__version__} on Python {sys.version.split()[0]}: await works here.\n"
        "ps() lists the tasks, where(ID) shows where one is; python3 -m curio.monitor looks in."
    )


async def _main(kernel, console):
    # A daemon, since `Kernel.run` is to return when it has ended, whoever else is there.
    thread = await curio.spawn_thread(console.talk, daemon=True)
    await thread.wait()
    kernel.stop()
    console._left = thread.result


def _edit_lines(names):
    try:
        import readline
        import rlcompleter
    except ImportError:
        return
    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")


def _terminal():
    """A function that makes the terminal what it is now."""
    try:
        import termios

        before = termios.tcgetattr(0)
    except (ImportError, OSError):
        return lambda: None
    except termios.error:
        return lambda: None  # no terminal
    return lambda: termios.tcsetattr(0, termios.TCSADRAIN, before)


def main():
    """Talks to the user until the end of the input, or `exit()`."""
    kernel = curio.Kernel(with_monitor=True)
    monitor = curio.monitor.Monitor(kernel)
    names = {"__name__": "__main__", "__doc__": None, "__builtins__": __builtins__}
    names.update(curio=curio, ps=monitor.ps, where=monitor.where)
    console = _Console(names)
    _edit_lines(names)
    restore = _terminal()
    todo = _main(kernel, console)
    while todo is not None:
        try:
            todo = kernel.run(todo)
        except KeyboardInterrupt:
            todo = console.interrupted()
        except BaseException:
            # A task has ended the program. The console's thread still waits for a line, and
            # a shutdown would wait for it.
            restore()
            raise
    kernel.shutdown()
    if console._left is not None:
        raise console._left


if __name__ == "__main__":
    main()
