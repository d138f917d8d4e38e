"""Work outside of the kernel's thread."""

__all__ = [
    "MAX_WORKER_PROCESSES",
    "MAX_WORKER_THREADS",
    "RemoteTraceback",
    "WorkerError",
    "block_in_thread",
    "is_abandoned",
    "run_blocking",
    "run_cpu_bound",
    "run_in_executor",
    "run_in_process",
    "run_in_thread",
]

import os

from .errors import CurioError

#: How many calls may be at work in threads at a time; more wait for their turn.
MAX_WORKER_THREADS = 64

#: How many worker processes there may be at a time; further calls wait for their turn.
MAX_WORKER_PROCESSES = os.cpu_count() or 1


async def run_in_thread(callable, *args, call_on_cancel=None, **kwargs):
    """Run `callable(*args, **kwargs)` in a thread, and return its result or raise its exception.

    Other tasks run meanwhile. It sees the context variables of the task. At most
    `MAX_WORKER_THREADS` calls are at work at a time; more wait for their turn, in order::

        data = await curio.run_in_thread(path.read_bytes)

    Cancellation: the task goes on at once. A call that has begun runs on to its end, in a thread
    that nobody waits for, and its result is dropped; or, with `call_on_cancel`, given to that in
    the thread, as a `concurrent.futures.Future`. Its place is free at once.
    """
    from ._threads import workers_pool

    return await workers_pool.run(callable, args, kwargs, call_on_cancel)


run_blocking = run_in_thread


async def block_in_thread(callable, *args, call_on_cancel=None, **kwargs):
    """As `run_in_thread`, for calls that wait for something: one at a time for each callable.

    However many tasks wait in the same function, one thread does, and the other calls wait for
    their turn, in order. Methods are told apart by their objects and names::

        import queue

        async def main():
            items = queue.Queue()
            tasks = [await curio.spawn(curio.block_in_thread, items.get) for _ in range(100)]
            for n in range(100):
                items.put(n)
            print(sum([await task.join() for task in tasks]))

        curio.run(main)

    Cancellation: as that of `run_in_thread`. A thread that waits on keeps the others waiting until
    its call is over, so that it takes nothing from them unseen.
    """
    from ._threads import blocking_calls

    return await blocking_calls.run(callable, args, kwargs, call_on_cancel)


def is_abandoned():
    """Whether the call of `run_in_thread` that this thread is in was cancelled.

    Then nobody waits for its result. Long work may ask now and then, and give up. False in
    threads that are in no such call.
    """
    import sys

    threads = sys.modules.get("curio._threads")
    return threads is not None and threads.is_abandoned()


async def run_in_process(callable, /, *args, **kwargs):
    """Run `callable(*args, **kwargs)` in a worker process; return or raise what it does.

    Other tasks run meanwhile, whatever it computes. The function, its arguments and its result are
    pickled: a function is sent by its name, and so must be one of a module, or of the program
    itself, which is imported by the worker and therefore starts under
    `if __name__ == '__main__'` only. Context variables are not sent. The cause of an exception is
    a `RemoteTraceback`, which shows the worker's lines::

        def fib(n):
            return 1 if n <= 2 else fib(n - 1) + fib(n - 2)

        async def main():
            print(await curio.run_in_process(fib, 30))

    Workers are kept for the calls to come. There are at most `MAX_WORKER_PROCESSES`, the number
    of processors unless it is changed; more calls wait for their turn, in order.

    Raises `pickle.PicklingError` if the function or an argument cannot be pickled, `WorkerError` if
    there is no result because the worker has died, or because what it would have sent cannot be
    pickled.

    Cancellation: the task goes on at once. The worker is terminated, by SIGTERM and, if that
    does not help, SIGKILL; another one takes its place when it is needed.
    """
    from ._processes import run

    return await run(callable, args, kwargs)


run_cpu_bound = run_in_process


async def run_in_executor(exc, callable, /, *args, **kwargs):
    """Run `callable(*args, **kwargs)` in an executor; return its result or raise its exception.

    `exc` is an executor as `concurrent.futures` has them, or like them: it has
    `submit(callable, ...)`, which gives a future. Other tasks run meanwhile.

    Raises what the executor does: RuntimeError if it was shut down, BrokenExecutor if it has no
    workers any more, `concurrent.futures.CancelledError` (an ordinary exception) if somebody
    cancels the future.

    Cancellation: the task goes on at once. The future is cancelled, too: if its work has begun,
    that runs on to its end, and its result is dropped.
    """
    from ._executors import wait_for_future

    return await wait_for_future(exc.submit(callable, *args, **kwargs))


class WorkerError(CurioError):
    """A worker process has given no result: it has died, or its result cannot be sent.

    Its cause, if there is one, is a `RemoteTraceback`.
    """


class RemoteTraceback(Exception):
    """The traceback of an exception in a worker process, as text: the exception's cause."""

    def __str__(self):
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


async def _look_up(function, *args):
    from ._threads import lookup_pool

    return await lookup_pool.run(function, args, {})
