"""What Curio raises.

Two families are kept apart. What cancels a task derives from `CancelledError`, which
is no `Exception`: code that handles errors lets it through. Everything else is an
ordinary exception below `CurioError`.
"""

__all__ = [
    "AsyncOnlyError",
    "CancelledError",
    "CurioError",
    "KernelExit",
    "ReadResourceBusy",
    "ResourceBusy",
    "SyncIOError",
    "TaskCancelled",
    "TaskError",
    "TaskExit",
    "TaskGroupError",
    "TaskInterrupted",
    "TaskTimeout",
    "TimeoutCancellationError",
    "UncaughtTimeoutError",
    "WriteResourceBusy",
]


class CancelledError(BaseException):
    """Base of everything that cancels: a task, a timeout of one's own, an outer one.

    It is raised at the operation where the task is blocked, or at its next one. The
    task may handle it, await further things to clean up, and end or go on.

    `origin` tells who has asked, where and why; None if that is not known.
    """

    origin = None

    # What the kernel knows of the timeout: it tells whose it is.
    _timeout = None

    def __str__(self):
        text = super().__str__()
        return text if self.origin is None else f"{text}: {self.origin}"


class TaskCancelled(CancelledError):
    """The task was cancelled by `Task.cancel`, or by the kernel's shutdown."""


class TaskTimeout(CancelledError):
    """The time of a `timeout_after` is over. Its argument is the clock's value."""


class TimeoutCancellationError(CancelledError):
    """A timeout further out has expired, and this operation is given up because of it.

    Its argument is the clock's value. The region that has expired raises `TaskTimeout`.
    """


class TaskInterrupted(CancelledError):
    """The task was interrupted by `Task.interrupt`, and may go on."""


class TaskExit(CancelledError):
    """Raise it to end the task from anywhere in it, quietly."""


class KernelExit(SystemExit):
    """Raise it in a task to leave the kernel's `run` at once, and the program if nobody handles it.

    Its argument is the program's exit status.
    """


class CurioError(Exception):
    """Base of Curio's errors that do not cancel."""


class TaskError(CurioError):
    """A joined task did not return; its own exception is the `__cause__`."""


class TaskGroupError(CurioError):
    """What a task group raised before 1.0. Nothing raises it now: see `TaskGroup.exceptions`."""


class UncaughtTimeoutError(CurioError):
    """A `TaskTimeout` has left its own region and reached an outer one, which has not expired.

    Handle it between the two.
    """


class SyncIOError(CurioError):
    """An asynchronous file or stream was used as a synchronous one."""


class AsyncOnlyError(CurioError, RuntimeError):
    """Something that must be awaited was used without, outside of an async thread."""


class ResourceBusy(CurioError):
    """Another task is using the descriptor in the same direction."""


class ReadResourceBusy(ResourceBusy):
    """Another task is already reading from the descriptor."""


class WriteResourceBusy(ResourceBusy):
    """Another task is already writing to the descriptor."""


class NotHeldError(RuntimeError, AssertionError):
    """A lock was released, or used by its condition, that the task does not hold."""
