"""The kernel: how it is made, run, stopped and shut down, and what comes out of it.

Goal: the contract of `Kernel` and `curio.run`. Method: small programs against the public
interface; what concerns a whole process (signals, exit, what is printed at its end) runs
in a process of its own.
"""

import functools
import gc
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
import weakref

import curio
import pytest
from curio.io import Socket
from programs import descriptors

HERE = __file__
PACKAGE = os.path.dirname(curio.__file__)


async def returns(value):
    await curio.sleep(0)
    return value


async def stopping(kernel):
    """Lets the others run, then leaves them where they are."""
    await curio.sleep(0)
    kernel.stop()


async def fails(error):
    await curio.sleep(0)
    raise error


# --- making and running ----------------------------------------------------------------


def test_plain_kernel_is_enough():
    """T1: `Kernel()` needs no argument and no shutdown."""
    assert curio.Kernel().run(returns(42)) == 42


def test_run_gives_the_result(kernel):
    """T3, L3: a coroutine object, a function with arguments, a partial."""
    assert kernel.run(returns(1)) == 1
    assert kernel.run(returns, 2) == 2
    assert kernel.run(functools.partial(returns, 3)) == 3
    assert kernel.run(functools.partial(returns, value=4)) == 4


def test_curio_run_gives_the_result():
    """L1: the same for `curio.run`."""
    assert curio.run(returns(1)) == 1
    assert curio.run(returns, 2) == 2
    assert curio.run(functools.partial(returns, 3)) == 3


def test_kernel_runs_many_times(kernel):
    """T3: a kernel is not used up by a run."""
    assert [kernel.run(returns, n) for n in range(50)] == list(range(50))


def test_kernel_run_waits_for_all_but_daemons(kernel):
    """T3, D3: `Kernel.run` goes on until no task is left that is not a daemon."""
    ended = []

    async def child(name, seconds):
        await curio.sleep(seconds)
        ended.append(name)

    async def main():
        await curio.spawn(child("kid", 0.02))
        await curio.spawn(child("daemon", 1000), daemon=True)
        ended.append("main")
        return "result"

    assert kernel.run(main) == "result"
    assert ended == ["main", "kid"]


def test_curio_run_cancels_what_is_left():
    """L1, D3: `curio.run` ends with its main task; leftovers are cancelled and clean up."""
    ended = []

    async def child():
        try:
            await curio.sleep(1000)
        except curio.CancelledError as error:
            await curio.sleep(0.01)
            ended.append(type(error))
            raise

    async def main():
        for daemon in (False, True):
            await curio.spawn(child(), daemon=daemon)
        return "result"

    assert curio.run(main) == "result"
    assert ended == [curio.TaskCancelled] * 2


def test_run_without_coroutine_runs_what_was_queued(kernel):
    """S5, S6: `add_task` queues; `run()` runs until no task is left."""
    tasks = [kernel.add_task(returns(1)), kernel.add_task(lambda: returns(2))]
    assert [task.state for task in tasks] == ["READY", "READY"]
    assert [task.cycles for task in tasks] == [0, 0]
    assert kernel.run() is None
    assert [task.result for task in tasks] == [1, 2]


def test_run_without_anything_is_one_pass(kernel):
    """S6: without queued tasks it does not wait; daemons make one step."""
    steps = []

    async def daemon():
        while True:
            steps.append(len(steps))
            await curio.sleep(0)

    task = kernel.add_task(daemon, daemon=True)
    assert task.daemon
    assert kernel.run() is None
    kernel.run()
    assert steps == [0, 1]
    assert not task.terminated


def test_daemons_survive_between_runs(kernel):
    """S10: a daemon goes on with the next run."""
    ticks = []

    async def daemon():
        while True:
            await curio.sleep(0.001)
            ticks.append(1)

    async def main(wanted):
        while len(ticks) < wanted:
            await curio.sleep(0.001)

    task = kernel.add_task(daemon, daemon=True)
    kernel.run(main, 3)
    assert not task.terminated
    kernel.run(main, len(ticks) + 3)
    kernel.shutdown()
    assert task.terminated and task.cancelled


def test_add_task_while_running_is_refused(kernel):
    """S5: a task has `spawn` for that."""

    async def main():
        with pytest.raises(RuntimeError, match="spawn"):
            kernel.add_task(returns)
        return "goes on"

    assert kernel.run(main) == "goes on"


@pytest.mark.parametrize("name", ["SelectSelector", "PollSelector", "EpollSelector"])
def test_selector_of_the_users(name):
    """S2: an instance from the standard library's `selectors` does the polling."""
    asked = []

    class Watched(getattr(selectors, name)):
        def select(self, timeout=None):
            asked.append(timeout)
            return super().select(timeout)

    async def echo(sock):
        while data := await sock.recv(1000):
            await sock.sendall(data)
        await sock.close()

    async def main():
        left, right = map(Socket, socket.socketpair())
        server = await curio.spawn(echo(right))
        for size in (1, 1000, 300_000):
            sender = await curio.spawn(left.sendall(b"x" * size))
            received = 0
            while received < size:
                received += len(await left.recv(10_000))
            await sender.join()
        await curio.sleep(0.01)
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.01, left.recv(1))
        await left.close()
        await server.join()
        return "done"

    with Watched() as selector:
        assert curio.run(main, selector=selector) == "done"
    assert any(timeout is None or timeout > 0 for timeout in asked)


def test_reader_and_writer_of_one_descriptor_under_a_selector():
    """S2: an event in one direction does not lose who waits in the other."""
    size = 1_000_000

    async def main():
        left, right = map(Socket, socket.socketpair())
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        writer = await curio.spawn(left.sendall(b"x" * size))
        reader = await curio.spawn(left.recv(10))
        assert (writer.state, reader.state) == ("WRITE_WAIT", "READ_WAIT")
        await right.sendall(b"hi")
        assert await reader.join() == b"hi"
        received = 0
        async with curio.timeout_after(20):
            while received < size:
                received += len(await right.recv(100_000))
            await writer.join()
        await left.close()
        await right.close()
        return received

    with selectors.SelectSelector() as selector:
        assert curio.run(main, selector=selector) == size


def test_selector_serves_one_kernel_after_another():
    """S2: a kernel that has ended leaves nothing in the selector."""
    with selectors.EpollSelector() as selector:
        for _ in range(3):
            assert curio.run(returns, 1, selector=selector) == 1
            assert len(selector.get_map()) == 0


def test_several_kernels_in_several_threads():
    """T1: each thread may run a kernel of its own."""
    results = []

    async def main(number):
        total = 0
        for n in range(20):
            await curio.sleep(0.001)
            total += n
        return number, total

    threads = [
        threading.Thread(target=lambda n=n: results.append(curio.run(main, n))) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(n, 190) for n in range(4)]


def test_kernel_moves_to_another_thread():
    """T1: a kernel that is not running may be run by another thread, its tasks with it."""
    results = []

    async def daemon():
        while True:
            await curio.sleep(0.001)
            results.append(threading.get_ident())

    async def main():
        here = len(results)
        while len(results) == here:
            await curio.sleep(0.001)
        return threading.get_ident()

    kernel = curio.Kernel()
    kernel.add_task(daemon, daemon=True)
    first = kernel.run(main)
    other = []
    thread = threading.Thread(target=lambda: other.append(kernel.run(main)))
    thread.start()
    thread.join()
    assert first != other[0]
    assert {first, other[0]} <= set(results)
    kernel.shutdown()


# --- misuse ----------------------------------------------------------------------------


def test_kernel_in_use_by_another_thread_is_refused(kernel):
    """T1: run, add_task and shutdown from elsewhere say that the kernel is running."""
    errors = []
    done = threading.Event()

    def meddle():
        for call in (lambda: kernel.run(returns, 1), kernel.run, kernel.shutdown):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))
        try:
            kernel.add_task(returns)
        except RuntimeError as error:
            errors.append(str(error))
        done.set()

    async def main():
        threading.Thread(target=meddle).start()
        while not done.is_set():
            await curio.sleep(0.001)
        return "undisturbed"

    assert kernel.run(main) == "undisturbed"
    assert len(errors) == 4
    assert all("running" in error for error in errors)


@pytest.mark.parametrize("how", ["run", "Kernel.run", "own kernel"])
def test_second_kernel_in_a_thread_is_refused(kernel, how):
    """1.1: a second run of any kernel in a thread where one is running: RuntimeError."""
    inner = {
        "run": lambda: curio.run(returns, 1),
        "Kernel.run": lambda: curio.Kernel().run(returns, 1),
        "own kernel": lambda: kernel.run(returns, 1),
    }[how]

    async def main():
        with pytest.raises(RuntimeError, match="running"):
            inner()
        await curio.sleep(0)
        return "goes on"

    assert kernel.run(main) == "goes on"


# --- exceptions ------------------------------------------------------------------------


class Oops(Exception):
    pass


def frames(error):
    return [(frame.filename, frame.name) for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.parametrize("run", [curio.run, lambda coro: curio.Kernel().run(coro)])
def test_exception_of_main_comes_out_of_run_as_itself(run, log):
    """D4, S3: raised, not wrapped, and not logged."""
    error = Oops("text")
    with pytest.raises(Oops) as caught:
        run(fails(error))
    assert caught.value is error
    assert not log


async def deep(kind):
    async def innermost():
        await curio.sleep(0)
        raise Oops("from the depth")

    if kind == "plain":
        await innermost()
    elif kind == "timeout_after":
        await curio.timeout_after(10, innermost())
    elif kind == "timeout block":
        async with curio.timeout_after(10):
            await innermost()
    elif kind == "nested":
        await curio.ignore_after(10, curio.timeout_after(10, innermost()))
    elif kind == "shield":
        await curio.disable_cancellation(innermost())
    elif kind == "shield block":
        async with curio.disable_cancellation():
            await innermost()


@pytest.mark.parametrize(
    "kind", ["plain", "timeout_after", "timeout block", "nested", "shield", "shield block"]
)
def test_traceback_shows_the_users_frames_and_no_others(kind):
    """D4: from `run` to the line that has raised, and nothing of the package in between."""

    async def main():
        await deep(kind)

    with pytest.raises(Oops) as caught:
        curio.run(main)
    found = frames(caught.value)
    assert [name for _, name in found[1:]] == ["main", "deep", "innermost"]
    assert {filename for filename, _ in found} == {HERE}


def test_traceback_of_what_an_operation_raises():
    """D4: it ends at the line that awaits the operation."""

    async def main():
        await curio.timeout_after(0.001, curio.sleep, 1000)

    with pytest.raises(curio.TaskTimeout) as caught:
        curio.run(main)
    assert [name for _, name in frames(caught.value)][1:] == ["main"]
    assert not any(name.startswith(PACKAGE) for name, _ in frames(caught.value))


def test_traceback_of_a_joined_task():
    """T7: the cause of a TaskError has the frames of the task that has failed."""

    async def bad():
        await curio.sleep(0)
        raise Oops("joined")

    async def main():
        await (await curio.spawn(bad())).join()

    kernel = curio.Kernel()
    with pytest.raises(curio.TaskError) as caught:
        kernel.run(main, log_errors=False)
    assert [name for _, name in frames(caught.value)][1:] == ["main"]
    assert frames(caught.value.__cause__) == [(HERE, "bad")]


def test_main_fails_and_the_others_stay(kernel):
    """D4: the exception is raised at once; the others go on with the next run."""
    ended = []

    async def child():
        await curio.sleep(0.02)
        ended.append("child")

    async def main():
        await curio.spawn(child())
        raise Oops

    with pytest.raises(Oops):
        kernel.run(main)
    assert ended == []
    kernel.run()
    assert ended == ["child"]


def test_cancelled_main_gives_none(kernel):
    """D4: main ended by `Task.cancel`: `run` goes on for the others and returns None."""
    ended = []

    async def killer(task):
        assert await task.cancel() is True
        await curio.sleep(0.01)
        ended.append("killer")

    async def main():
        await curio.spawn(killer, await curio.current_task())
        await curio.sleep(1000)

    assert kernel.run(main) is None
    assert ended == ["killer"]


def test_timeout_that_main_does_not_catch_is_raised():
    """D4: nobody has cancelled it, so it is an exception like any other."""
    with pytest.raises(curio.TaskTimeout):
        curio.run(curio.timeout_after(0.001, curio.sleep, 1000))


def test_crash_is_logged_once(log, kernel):
    """S3: logger curio.kernel, level ERROR, the text, and the traceback."""

    async def crashing():
        await curio.sleep(0)
        raise Oops("bad day")

    async def main():
        task = await curio.spawn(crashing())
        with pytest.raises(curio.TaskError):
            await task.join()
        with pytest.raises(curio.TaskError):
            await task.join()

    kernel.run(main)
    assert len(log) == 1
    record = log.records[0]
    assert (record.name, record.levelname) == ("curio.kernel", "ERROR")
    assert record.getMessage() == f"Curio: Task Crash: {crashing.__qualname__}"
    assert "Traceback (most recent call last)" in log.texts[0]
    assert f'File "{HERE}"' in log.texts[0] and "in crashing" in log.texts[0]
    assert "Oops: bad day" in log.texts[0]


def test_log_errors_can_be_switched_off(log, kernel):
    """S3: `log_errors=False` is silent, for that run."""

    async def main():
        await (await curio.spawn(fails(Oops()))).wait()

    kernel.run(main, log_errors=False)
    assert not log
    kernel.run(main)
    assert len(log) == 1


def test_cancellation_is_never_logged(log, kernel):
    """S3, T14: a cancelled task ends without a word."""

    async def main():
        for exc in (curio.TaskCancelled, curio.CancelledError("because"), Oops("asked"), Oops):
            task = await curio.spawn(curio.sleep(1000))
            assert await task.cancel(exc=exc) is True
        lonely = await curio.spawn(curio.timeout_after(0.001, curio.sleep, 1000))
        await lonely.wait()

    kernel.run(main)
    assert log.texts == []


def test_crash_handler(kernel, log):
    """S9: called with the task after each crash; None ends that."""
    seen = []

    async def main():
        await (await curio.spawn(fails(Oops("seen")))).wait()

    kernel.set_crash_handler(lambda task: seen.append((type(task), str(task.exception))))
    kernel.run(main)
    assert seen == [(curio.Task, "seen")]
    kernel.set_crash_handler(None)
    kernel.run(main)
    assert len(seen) == 1
    assert len(log) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit(3), GeneratorExit])
@pytest.mark.parametrize("where", ["main", "child", "daemon"])
def test_fatal_errors_leave_run_at_once(kernel, log, error, where):
    """D4: non-`Exception` errors raised in any task; the kernel can be run again."""
    ended = []

    async def bystander():
        await curio.sleep(0.01)
        ended.append("bystander")

    async def main():
        await curio.spawn(bystander())
        if where == "main":
            await fails(error)
        await curio.spawn(fails(error), daemon=where == "daemon")
        await curio.sleep(0.01)
        ended.append("main")

    with pytest.raises(error if isinstance(error, type) else type(error)) as caught:
        kernel.run(main)
    assert ended == []
    assert caught.traceback[-1].name == "fails"
    kernel.run()
    assert ended == ["bystander"] + ["main"] * (where != "main")
    assert not log


# --- stop ------------------------------------------------------------------------------


def test_stop_from_a_task(kernel):
    """S7: `run` returns after the current task yields; the others go on with the next."""
    steps = []

    async def other():
        for n in range(3):
            steps.append(n)
            await curio.sleep(0)

    async def main():
        await curio.sleep(0)
        kernel.stop()
        steps.append("stopped")
        await curio.sleep(0)
        steps.append("main")
        return "result"

    task = kernel.add_task(other)
    assert kernel.run(main) is None
    assert steps[-1] == "stopped"
    assert not task.terminated
    kernel.run()
    assert "main" in steps and task.terminated


def test_stop_from_another_thread_wakes_a_sleeping_kernel(kernel):
    """S7: nothing else would end this sleep."""
    asleep = threading.Event()

    async def main():
        asleep.set()
        await curio.sleep(1000)

    def stop():
        asleep.wait()
        time.sleep(0.02)
        kernel.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    start = time.monotonic()
    assert kernel.run(main) is None
    assert time.monotonic() - start < 30
    thread.join()


@pytest.mark.parametrize("selector", [selectors.SelectSelector, selectors.EpollSelector])
def test_stop_wakes_a_kernel_asleep_in_the_users_selector(selector):
    """S7, S2: the same with a selector of the user's."""
    with selector() as chosen, curio.Kernel(selector=chosen) as kernel:
        timer = threading.Timer(0.02, kernel.stop)
        timer.start()
        assert kernel.run(curio.sleep, 1000) is None
        timer.join()


# --- shutdown --------------------------------------------------------------------------


def test_shutdown_cancels_newest_first_daemons_too(kernel):
    """S4: and waits for each before it turns to the next."""
    events = []

    async def task(number):
        try:
            await curio.sleep(1000)
        except curio.TaskCancelled as error:
            events.append(f"{number} cancelled")
            assert "shutting down" in str(error)
            await curio.sleep(0.002)
            events.append(f"{number} ended")
            raise

    tasks = [kernel.add_task(task(n), daemon=n % 2 == 0) for n in range(4)]
    kernel.run(stopping, kernel)
    assert [task.state for task in tasks] == ["TIME_SLEEP"] * 4
    kernel.shutdown()
    assert events == [f"{n} {what}" for n in (3, 2, 1, 0) for what in ("cancelled", "ended")]
    assert all(task.terminated and task.cancelled for task in tasks)


def test_shutdown_finds_what_is_spawned_meanwhile(kernel):
    """S4: every remaining task, also one that another has spawned while it ended."""
    ended = []

    async def late():
        try:
            await curio.sleep(1000)
        finally:
            ended.append("late")

    async def early():
        try:
            await curio.sleep(1000)
        finally:
            await curio.spawn(late())
            ended.append("early")

    kernel.add_task(early, daemon=True)
    kernel.run()
    kernel.shutdown()
    assert ended == ["early", "late"]


def test_shutdown_twice_has_no_effect(kernel):
    """S4."""
    kernel.run(returns, 1)
    kernel.shutdown()
    kernel.shutdown()


def test_shutdown_from_a_task_is_refused(kernel):
    """S4: calling it while running."""

    async def main():
        with pytest.raises(RuntimeError, match="running"):
            kernel.shutdown()
        return "goes on"

    assert kernel.run(main) == "goes on"


def test_nothing_runs_after_shutdown(kernel):
    """S4: run and add_task say why."""
    kernel.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        kernel.run(returns, 1)
    with pytest.raises(RuntimeError, match="shut down"):
        kernel.run()
    with pytest.raises(RuntimeError, match="shut down"):
        kernel.add_task(lambda: returns(1))


def test_run_with_shutdown(kernel):
    """S4: `run(shutdown=True)` after the run, if any; also when main fails."""
    ended = []

    async def daemon():
        try:
            await curio.sleep(1000)
        finally:
            ended.append("daemon")

    async def main():
        await curio.spawn(daemon(), daemon=True)
        return 5

    assert kernel.run(main, shutdown=True) == 5
    assert ended == ["daemon"]
    kernel.run(shutdown=True)

    other = curio.Kernel()
    other.add_task(daemon, daemon=True)
    with pytest.raises(Oops):
        other.run(fails, Oops(), shutdown=True)
    assert len(ended) == 2


def test_with_block_shuts_down():
    """S8: also on an exception."""
    for error in (None, Oops):
        ended = []

        async def daemon(ended=ended):
            try:
                await curio.sleep(1000)
            finally:
                ended.append("daemon")

        try:
            with curio.Kernel() as kernel:
                kernel.add_task(daemon, daemon=True)
                kernel.run(returns, 1)
                if error:
                    raise error
        except Oops:
            pass
        assert ended == ["daemon"]
        with pytest.raises(RuntimeError):
            kernel.run()


@pytest.mark.parametrize("when", ["before", "during"])
def test_stop_does_not_cut_a_shutdown_short(when):
    """S4, S7: a request to stop, left over or new, leaves no task behind."""

    async def task(kernel):
        try:
            await curio.sleep(1000)
        finally:
            if when == "during":
                kernel.stop()
            await curio.sleep(0)
            await curio.sleep(0.001)

    kernel = curio.Kernel()
    tasks = [kernel.add_task(task(kernel)) for _ in range(3)]
    if when == "before":
        kernel.stop()
    kernel.shutdown()
    assert all(task.terminated for task in tasks)


def test_shutdown_closes_the_descriptors():
    """S4: the kernel's own, at shutdown, not when the object goes."""
    gc.collect()
    before = descriptors()
    kernel = curio.Kernel()
    kernel.run(curio.sleep, 0.001)
    assert descriptors() > before
    kernel.shutdown()
    assert descriptors() == before


def test_signal_handling_is_put_back():
    """S4: the wake-up descriptor after a run and after a shutdown is what it was before."""
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        former = signal.set_wakeup_fd(left.fileno())
        try:
            curio.run(returns, 1)
            kernel = curio.Kernel()
            kernel.run(returns, 1)
            kernel.shutdown()
            now = signal.set_wakeup_fd(former)
            assert now == left.fileno()
        finally:
            signal.set_wakeup_fd(former)


def test_handlers_of_signals_run_while_the_kernel_sleeps():
    """1.6: a signal wakes the kernel; the sleep itself goes on to its end."""
    times = []
    former = signal.signal(signal.SIGALRM, lambda *_: times.append(time.monotonic()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        start = time.monotonic()
        curio.run(curio.sleep, 0.05)
        end = time.monotonic()
    finally:
        signal.signal(signal.SIGALRM, former)
    assert start + 0.01 <= times[0] < start + 0.05 <= end


def test_exception_of_a_signal_handler_comes_out_of_run():
    """D4: as KeyboardInterrupt does, from a kernel that sleeps."""

    def handler(*_):
        raise Oops("signal")

    former = signal.signal(signal.SIGALRM, handler)
    try:
        with curio.Kernel() as kernel:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(Oops, match="signal"):
                kernel.run(curio.sleep, 1000)
    finally:
        signal.signal(signal.SIGALRM, former)


# --- a kernel that is not shut down -----------------------------------------------------


def test_dropped_kernel_gives_everything_back():
    """D9: descriptors, tasks and what they hold, at once."""

    class Thing:
        pass

    async def task(thing):
        await curio.sleep(1000)

    gc.collect()
    before = descriptors()
    thing = Thing()
    gone = weakref.ref(thing)
    kernel = curio.Kernel()
    kernel.add_task(task(thing))
    kernel.add_task(task(thing), daemon=True)
    kernel.stop()
    kernel.run()
    del thing, kernel
    gc.collect()
    assert gone() is None
    assert descriptors() == before


def test_kernel_in_a_cycle_lives_until_its_shutdown():
    """D9: collecting it would finalize coroutines in any order, and each would complain."""

    class Thing:
        pass

    def build():
        kernel, thing = curio.Kernel(), Thing()

        async def task():
            await curio.sleep(1000)
            return kernel, thing

        kernel.add_task(task, daemon=True)
        kernel.run()
        return kernel, weakref.ref(thing)

    kernel, thing = build()
    gc.collect()
    assert thing() is not None
    kernel.shutdown()
    del kernel
    gc.collect()
    assert thing() is None


LEFT_BEHIND = """
import gc, socket, sys
import curio
from curio.io import Socket

async def cleaning():
    try:
        await curio.sleep(1000)
    finally:
        await curio.sleep(1)

async def stubborn():
    while True:
        try:
            await curio.sleep(1000)
        except BaseException:
            pass
        if sys is None:
            return

async def with_sockets():
    left, right = map(Socket, socket.socketpair())
    async with left, right:
        async with curio.timeout_after(1000):
            await left.recv(10)

async def joining(task):
    try:
        await task.join()
    finally:
        await task.cancel()

async def shielded():
    async with curio.disable_cancellation():
        await curio.disable_cancellation(cleaning())

async def limited():
    await curio.timeout_after(1000, curio.ignore_after(1000, cleaning()))

async def never():
    await curio.sleep(0)

async def main():
    for coro in (cleaning(), with_sockets(), shielded(), limited()):
        await curio.spawn(coro, daemon=True)
    other = await curio.spawn(cleaning)
    await curio.spawn(joining(other))
    await curio.sleep(0.01)
    kernel.stop()
    await curio.spawn(never)
    await curio.sleep(1000)

kernel = curio.Kernel()
kernel.run(main)
kernel.add_task(never)
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "del kernel; gc.collect()",
        "box = [kernel]; box.append(box); del kernel, box; gc.collect()",
        "raise SystemExit(0)",
        "global_task = kernel.add_task(cleaning)",
        "import builtins; builtins.kept = kernel",
    ],
    ids=["exit", "drop", "cycle", "SystemExit", "task kept", "builtins"],
)
def test_nothing_is_printed_for_what_is_left_behind(program, end):
    """D9: dropped at once, by the collector, or with the interpreter: not a word."""
    running = program(LEFT_BEHIND + end + "\n")
    running.succeed()
    assert running.output == ""


@pytest.mark.parametrize("end", ["", "del kernel; gc.collect()"], ids=["exit", "drop"])
def test_nothing_is_printed_for_async_generators_left_behind(program, end):
    """D9: one that would await something while it is closed."""
    running = program(
        f"""
import gc
import curio
async def numbers():
    try:
        while True:
            await curio.sleep(0)
            yield 1
    finally:
        await curio.sleep(1)
async def generating():
    async for _ in numbers():
        await curio.sleep(1000)
async def main():
    await curio.spawn(generating(), daemon=True)
    await curio.sleep(0.01)
kernel = curio.Kernel()
kernel.run(main)
{end}
"""
    )
    running.succeed()
    assert running.output == ""


def test_dropped_kernel_closes_its_coroutines():
    """D9: `finally` parts without awaits still run; what awaits there fails, unseen."""
    ended = []

    async def plain():
        try:
            await curio.sleep(1000)
        finally:
            ended.append("plain")

    async def awaiting():
        try:
            await curio.sleep(1000)
        finally:
            ended.append("before")
            await curio.sleep(0.001)
            ended.append("after")

    kernel = curio.Kernel()
    for task in (plain, awaiting):
        kernel.add_task(task, daemon=True)
    kernel.run()
    del kernel
    gc.collect()
    assert sorted(ended) == ["before", "plain"]


def test_kernel_dropped_inside_of_another_leaves_that_in_peace():
    """D9: what the dropped tasks await while they are closed is not this kernel's."""

    async def awaiting():
        try:
            await curio.sleep(1000)
        finally:
            await curio.sleep(1000)

    async def main(holder):
        holder.clear()
        gc.collect()
        before = await curio.clock()
        assert await curio.sleep(0.01) >= before + 0.01
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.01, curio.sleep, 1000)
        return "undisturbed"

    other = curio.Kernel()
    other.add_task(awaiting, daemon=True)
    other.run()
    holder = [other]
    del other
    assert curio.run(main, holder) == "undisturbed"


# --- Ctrl-C ----------------------------------------------------------------------------

ASLEEP = """
import curio
async def child():
    try:
        await curio.sleep(1000)
    finally:
        print("cleaned up", flush=True)
async def main():
    await curio.spawn(child())
    await curio.spawn(child(), daemon=True)
    print("ready", flush=True)
    await curio.sleep(1000)
"""

BUSY = """
import curio
async def main():
    print("ready", flush=True)
    while True:
        pass
"""

YIELDING = """
import curio
async def main():
    print("ready", flush=True)
    while True:
        await curio.sleep(0)
"""


@pytest.mark.parametrize("text", [ASLEEP, BUSY, YIELDING], ids=["asleep", "busy", "yielding"])
@pytest.mark.parametrize("run", ["curio.run(main)", "curio.Kernel().run(main)"])
def test_ctrl_c(program, text, run):
    """D4: it ends the program like any Python program, wherever the kernel is."""
    running = program(text + run + "\n")
    running.wait_for("ready")
    running.interrupt()
    assert running.errors.count("Traceback") == 1
    if text is ASLEEP and run == "curio.run(main)":
        assert running.lines.count("cleaned up") == 2


def test_ctrl_c_in_a_task_shows_where_it_was(program):
    """D4: the traceback leads from `run` to the line that was running."""
    running = program(BUSY + "curio.run(main)\n")
    running.wait_for("ready")
    running.interrupt()
    assert "in main" in running.errors
    assert os.path.join("curio", "") not in running.errors


def test_ctrl_c_can_be_caught(program):
    """D4: around `run`, as an ordinary KeyboardInterrupt; the kernel can go on."""
    running = program(
        ASLEEP
        + """
kernel = curio.Kernel()
try:
    kernel.run(main)
except KeyboardInterrupt:
    print("caught", flush=True)
async def stopping():
    kernel.stop()
    return "again"
print(kernel.run(stopping))
kernel.shutdown()
print("shut down")
"""
    )
    running.wait_for("ready")
    running.process.send_signal(signal.SIGINT)
    running.succeed()
    assert running.lines == ["ready", "caught", "again", "cleaned up", "cleaned up", "shut down"]


SLOW_CLEANUP = """
import curio
async def child():
    try:
        await curio.sleep(1000)
    finally:
        print("cleaning", flush=True)
        await curio.sleep(1000)
async def main():
    await curio.spawn(child())
    print("ready", flush=True)
    await curio.sleep(1000 if WAIT else 0)
"""


def test_ctrl_c_during_shutdown(program):
    """D4, S4: a clean-up that takes too long can be left, too."""
    running = program("WAIT = False\n" + SLOW_CLEANUP + "curio.run(main)\n")
    running.wait_for("cleaning")
    running.interrupt()


def test_ctrl_c_twice(program):
    """D4, S4: the first cancels the tasks, the second leaves their clean-up."""
    running = program("WAIT = True\n" + SLOW_CLEANUP + "curio.run(main)\n")
    running.wait_for("ready")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("cleaning")
    running.interrupt()


def test_ctrl_c_is_seen_in_a_selector_of_the_users(program):
    """D4, S2."""
    running = program(
        ASLEEP + "import selectors\ncurio.run(main, selector=selectors.SelectSelector())\n"
    )
    running.wait_for("ready")
    running.interrupt()


def test_ctrl_c_of_a_kernel_in_another_thread_is_the_main_threads(program):
    """D4: signals are the main thread's business; a kernel elsewhere runs on."""
    running = program(
        """
import threading, time
import curio
async def main():
    while not done:
        await curio.sleep(0.001)
    print("ended", flush=True)
done = []
thread = threading.Thread(target=curio.run, args=(main,))
thread.start()
try:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
except KeyboardInterrupt:
    print("caught", flush=True)
done.append(1)
thread.join()
"""
    )
    running.wait_for("ready")
    running.process.send_signal(signal.SIGINT)
    running.succeed()
    assert running.lines == ["ready", "caught", "ended"]


@pytest.mark.parametrize("code", [0, 3, None])
def test_system_exit_in_a_task_ends_the_program_with_its_status(program, code):
    """D4: from a child, past a sleeping main task."""
    running = program(
        f"""
import sys
import curio
async def child():
    await curio.sleep(0)
    sys.exit({code})
async def main():
    await curio.spawn(child())
    await curio.sleep(1000)
curio.run(main)
"""
    )
    assert running.wait() == (code or 0)
    assert (running.output, running.errors) == ("", "")


# --- not starving ----------------------------------------------------------------------


def test_busy_tasks_starve_neither_timers_nor_sockets(kernel):
    """Section 0: tasks that keep waking each other do not keep the kernel from looking."""

    async def busy():
        while True:
            await curio.sleep(0)

    async def main():
        for _ in range(3):
            await curio.spawn(busy(), daemon=True)
        await curio.sleep(0.01)
        left, right = map(Socket, socket.socketpair())
        async with left, right:
            reader = await curio.spawn(left.recv(10))
            await right.send(b"data")
            assert await reader.join() == b"data"
        return "served"

    assert kernel.run(main) == "served"


def test_other_threads_run_while_the_kernel_sleeps():
    """1.10: the interpreter's lock is given up while the kernel polls."""
    counted = []

    def count():
        for n in range(1000):
            counted.append(n)
        done.set()

    done = threading.Event()

    async def main():
        thread = threading.Thread(target=count)
        thread.start()
        switch = sys.getswitchinterval()
        sys.setswitchinterval(100)
        try:
            while not done.is_set():
                await curio.sleep(0.005)
        finally:
            sys.setswitchinterval(switch)
        thread.join()

    curio.run(main)
    assert len(counted) == 1000
