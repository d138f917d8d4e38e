"""Where a task is: the chain of coroutines that it is in."""

import os
import sys

from ._curio import await_frames

_PACKAGE = os.path.dirname(__file__) + os.sep


def _current_frames(task):
    # A running task has its frames on a thread's stack: coroutine frames know no further.
    found = await_frames(task.coro)
    if thread := getattr(task, "_thread", None):
        # What the thread awaits is called by it.
        return thread.frames() + found
    if not found:
        return []
    for top in sys._current_frames().values():
        stack = []
        while top is not None:
            stack.append(top)
            if top is found[0]:
                return stack[::-1]
            top = top.f_back
    return found


def _user_frames(task):
    return [f for f in _current_frames(task) if not f.f_code.co_filename.startswith(_PACKAGE)]


def where(task):
    """File name and line number of the innermost line of the user's code."""
    found = _user_frames(task)
    return (found[-1].f_code.co_filename, found[-1].f_lineno) if found else (None, None)


def lines(task):
    """The lines of the user's code that it is in, outermost first.

    Each is a file's name, a line's number, a function's name, and the line or None.
    """
    import linecache

    found = []
    for frame in _user_frames(task):
        code, lineno = frame.f_code, frame.f_lineno
        linecache.checkcache(code.co_filename)
        line = linecache.getline(code.co_filename, lineno, frame.f_globals).strip()
        found.append((code.co_filename, lineno or 0, code.co_name, line or None))
    return found


def format(task):
    """The stack as a text; the package's own frames are left out."""
    found = lines(task)
    if not found:
        return f"No stack for {task!r}"
    text = [f"Stack for {task!r} (most recent call last):\n"]
    for filename, lineno, function, line in found:
        text.append(f'  File "{filename}", line {lineno}, in {function}\n')
        if line:
            text.append(f"    {line}\n")
    return "".join(text)
