"""Where a task is: the chain of coroutines that it is in."""

import os
import sys

_PACKAGE = os.path.dirname(__file__) + os.sep


def frames(coro):
    """The frames of a suspended coroutine, outermost first."""
    while coro is not None:
        for prefix in ("cr", "gi", "ag"):
            if hasattr(coro, prefix + "_frame"):
                break
        else:
            return
        frame = getattr(coro, prefix + "_frame")
        if frame is not None:
            yield frame
        coro = getattr(coro, "gi_yieldfrom" if prefix == "gi" else prefix + "_await", None)


def _current_frames(task):
    # A running task has its frames on a thread's stack: coroutine frames know no further.
    found = list(frames(task.coro))
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


def format(task):
    """The stack as a text; the package's own frames are left out."""
    import linecache

    lines = []
    for frame in _user_frames(task):
        code, lineno = frame.f_code, frame.f_lineno
        linecache.checkcache(code.co_filename)
        line = linecache.getline(code.co_filename, lineno, frame.f_globals).strip()
        lines.append(f'  File "{code.co_filename}", line {lineno}, in {code.co_name}\n')
        if line:
            lines.append(f"    {line}\n")
    if not lines:
        return f"No stack for {task!r}"
    return f"Stack for {task!r} (most recent call last):\n" + "".join(lines)
