"""Work in worker processes: results come back, whatever goes wrong is told, nothing is left behind.

Goal: the contract of `run_in_process` (`run_cpu_bound`) and of its pool. Method: the functions of
`crunch.py` begin and end at files that the test makes or waits for, so each state is reached for
certain: not begun, at work, ended, killed. What a terminal, a fork or the interpreter's end does
is tried on programs of their own.
"""

import array
import asyncio
import contextvars
import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import types
import warnings
import weakref
from pickle import PicklingError

import crunch
import curio
import pytest
from curio import _processes, testing, workers
from curio._processes import pool
from curio.workers import RemoteTraceback, WorkerError

run = curio.run_in_process


async def until(condition):
    """Waits while other tasks run; not for ever, lest one failure end all tests."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        await curio.sleep(0.001)


def waits(condition):
    """Waits while they do not."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        time.sleep(0.001)


def settled():
    """Nobody is at work, on the way in or out, and nothing is lost of the count."""
    return (
        pool._places == len(pool._idle) == len(pool._all)
        and not pool._starting
        and not pool._waiting
    )


def children():
    """Processes that are ours, the dead among them: number and state."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == os.getpid():
                found[int(name)] = state
    return found


def runs(pid):
    """Whether there is such a process, and not its remains only."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def counts():
    return threading.active_count(), len(os.listdir("/proc/self/fd")), sorted(children())


def dismiss():
    """Ends the workers there are."""
    with pool._lock:
        idle, pool._idle = pool._idle, []
        pool._places -= len(idle)
    for worker in idle:
        worker.retire()
    waits(settled)


@pytest.fixture(autouse=True, scope="module")
def small_main_module():
    """A worker imports the main module, which here is pytest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        yield
        dismiss()


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    gc.collect()
    waits(settled)
    assert "Z" not in children().values()


@pytest.fixture
def limit(monkeypatch):
    def limit(count):
        monkeypatch.setattr(workers, "MAX_WORKER_PROCESSES", count)

    return limit


@pytest.fixture
def file(tmp_path):
    """The paths of files that are not there yet."""
    names = iter(range(1000))
    return lambda: str(tmp_path / f"file{next(names)}")


def read_pid(path):
    with open(path) as file:
        return int(file.read())


# --- results -------------------------------------------------------------------------------


def test_names():
    """T25, S27, S29."""
    assert curio.run_cpu_bound is curio.run_in_process is workers.run_in_process
    assert workers.MAX_WORKER_PROCESSES == os.cpu_count()


def test_result(kernel):
    """T25: arguments by place and by name; in another process, which is used again."""

    async def main():
        assert await run(crunch.echo, 1, "two", key=[3]) == ((1, "two"), {"key": [3]})
        # Names that the pool might use itself.
        names = {"callable": 1, "args": 2, "kwargs": 3, "self": 4, "message": 5}
        assert await run(crunch.echo, **names) == ((), names)
        pid = await run(os.getpid)
        assert pid != os.getpid()
        assert await run(os.getpid) == pid
        assert await run(int) == 0 and await run("a-b".split, "-") == ["a", "b"]

    kernel.run(main)


def test_other_tasks_run_meanwhile(kernel, file):
    """T25: the kernel stays responsive. The worker waits for what another task does later."""
    go, turns = file(), []

    async def other():
        for _ in range(100):
            turns.append(1)
            await curio.sleep(0)
        crunch.mark(go)

    async def main():
        await curio.spawn(other())
        assert await run(crunch.wait_for, go, "done") == "done"
        assert len(turns) == 100

    kernel.run(main)


def test_several_at_once(kernel, file, limit):
    limit(3)
    begun, go = [file() for _ in range(3)], file()

    async def main():
        tasks = [
            await curio.spawn(run, crunch.begin_and_wait, path, go, n)
            for n, path in enumerate(begun)
        ]
        await until(lambda: all(map(os.path.exists, begun)))
        assert len({read_pid(path) for path in begun}) == 3
        crunch.mark(go)
        assert [await task.join() for task in tasks] == [0, 1, 2]

    kernel.run(main)


def test_nothing_happens_before_it_is_awaited(file):
    """1.7: a coroutine, which warns if it is forgotten."""
    path = file()
    with pytest.warns(RuntimeWarning, match="never awaited"):
        call = run(crunch.mark, path)
        del call
    assert not os.path.exists(path)


@pytest.mark.parametrize("size", [0, 1, 65519, 65520, 65536, 65537, 1 << 20, 30_000_001])
def test_sizes(kernel, size):
    """Messages that just fit into a piece, and that do not; there and back."""

    async def main():
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        args, kwargs = await run(crunch.echo, data, bytearray(data), key=memoryview(data).tobytes())
        assert args == (data, data) and kwargs == {"key": data}
        assert type(args[1]) is bytearray
        assert await run(crunch.length, crunch.text(size)) == size

    kernel.run(main)


def test_buffers(kernel):
    """An array is sent from where it is, and what arrives can be written to."""
    import pickle

    async def main():
        numbers = array.array("q", range(100_000))
        given = [pickle.PickleBuffer(numbers), pickle.PickleBuffer(b"small"), numbers]
        large, small, copy = (await run(crunch.echo, *given))[0]
        assert bytes(large) == numbers.tobytes() and bytes(small) == b"small" and copy == numbers
        large[:3] = b"abc"

    kernel.run(main)


def test_huge_result(kernel):
    async def main():
        result = await run(crunch.text, 1 << 28)
        assert len(result) == 1 << 28 and result[:1] == result[-1:] == b"x"

    kernel.run(main)


def test_a_result_that_is_an_exception(kernel):
    async def main():
        result = await run(crunch.give, crunch.Oops("just looking"))
        assert type(result) is crunch.Oops and result.args == ("just looking",)
        assert await run(crunch.give) is None

    kernel.run(main)


def test_context_variables_are_not_sent(kernel):
    variable = contextvars.ContextVar("variable")

    async def main():
        variable.set(1)
        await run(int)
        assert variable.get() == 1

    kernel.run(main)


def test_state_while_waiting(kernel, file):
    go = file()

    async def main():
        await run(int)
        task = await curio.spawn(run, crunch.wait_for, go, 1)
        await until(lambda: task.state == "READ_WAIT")
        crunch.mark(go)
        assert await task.join() == 1

    kernel.run(main)


# --- errors --------------------------------------------------------------------------------


def test_exception(kernel):
    """T25: with its type, its arguments and attributes; the cause shows the worker's lines."""

    async def main():
        await run(crunch.fail, crunch.Oops, "in the worker", 2)

    with pytest.raises(crunch.Oops) as caught:
        kernel.run(main)
    error = caught.value
    assert error.args == ("in the worker", 2)
    assert type(error.__cause__) is RemoteTraceback
    text = str(error.__cause__)
    assert "crunch.py" in text and "raise kind(*args)" in text and "Oops: ('in the" in text
    assert "_worker.py" not in text
    # It is shown by what shows exceptions.
    import traceback

    assert "raise kind(*args)" in "".join(traceback.format_exception(error))


def test_exception_with_cause_and_attributes(kernel):
    async def main():
        with pytest.raises(crunch.Oops) as caught:
            await run(crunch.fail_because)
        assert "KeyError: 'the reason'" in str(caught.value.__cause__)
        with pytest.raises(crunch.Oops) as caught:
            await run(crunch.fail_with_attribute)
        assert caught.value.code == 42
        with pytest.raises(FileNotFoundError) as caught:
            await run(crunch.fail_with_file)
        assert caught.value.filename == "/no/such/file"

    kernel.run(main)


def test_exception_that_pickle_cannot_make_again(kernel):
    """It takes other arguments than it hands on."""

    async def main():
        with pytest.raises(crunch.NeedsTwo, match="^1 and 2$") as caught:
            await run(crunch.fail, crunch.NeedsTwo, 1, 2)
        assert (caught.value.one, caught.value.two) == (1, 2)
        assert "NeedsTwo: 1 and 2" in str(caught.value.__cause__)

    kernel.run(main)


@pytest.mark.parametrize(
    "function, said",
    [
        (crunch.lambda_, r"lambda_\(\): the result cannot be pickled: .*lambda"),
        (threading.Lock, "the result cannot be pickled: .*lock"),
        (crunch.fail, r"fail\(\): the exception cannot be pickled: .*Unpicklable: with a lock"),
    ],
)
def test_what_cannot_be_sent_back(kernel, function, said):
    args = [crunch.Unpicklable] if function is crunch.fail else []

    async def main():
        pid = await run(os.getpid)
        with pytest.raises(WorkerError, match=said) as caught:
            await run(function, *args)
        assert caught.value.__cause__ is not None
        # The worker is as good as before.
        assert await run(os.getpid) == pid

    kernel.run(main)


def test_what_cannot_be_unpickled_here(kernel):
    """The traceback of an exception that cannot be made again here is shown all the same."""

    async def main():
        pid = await run(os.getpid)
        with pytest.raises(WorkerError, match=r"costly\(\).* cannot be unpickled: Oops: here"):
            await run(crunch.costly, "here")
        said = r"fail\(\): the exception cannot be unpickled: ValueError: unpickled elsewhere"
        with pytest.raises(WorkerError, match=said) as caught:
            await run(crunch.fail, crunch.OnlyThere)
        assert "raise kind(*args)" in str(caught.value.__cause__)
        with pytest.raises(WorkerError, match="ModuleNotFoundError: No module named") as caught:
            await run(crunch.make_module_and_fail)
        assert "nowhere.Lost: far away" in str(caught.value.__cause__)
        assert await run(os.getpid) == pid

    kernel.run(main)


def test_what_cannot_be_sent_there(kernel):
    """Bad input is found before there is a worker, or by it, and costs none."""

    async def main():
        pid = await run(os.getpid)
        with pytest.raises(PicklingError, match="call of .*<lambda>.* cannot be pickled, .*lambda"):
            await run(lambda: None)
        with pytest.raises(PicklingError, match=r"call of give\(\) .*pickle.*lock") as caught:
            await run(crunch.give, threading.Lock())
        assert type(caught.value.__cause__) is TypeError
        with pytest.raises(PicklingError, match="generator"):
            await run(sum, (n for n in range(3)))
        with pytest.raises(WorkerError, match="cannot unpickle the call: .*Oops: there") as caught:
            await run(crunch.give, crunch.Costly("there"))
        assert "_explode" in str(caught.value.__cause__)
        assert await run(os.getpid) == pid

    kernel.run(main)


def test_not_callable(kernel):
    async def main():
        with pytest.raises(TypeError, match="'int' object is not callable"):
            await run(5)
        with pytest.raises(TypeError):
            await run(crunch.add, 1)
        with pytest.raises(TypeError):
            await run()

    kernel.run(main)


def test_coroutine_function(kernel):
    """A coroutine made in a worker would be awaited by nobody."""

    async def main():
        with pytest.raises(TypeError, match="process runs an ordinary function: .* is async"):
            await run(crunch.coroutine_function)

    kernel.run(main)


@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, SystemExit, GeneratorExit, curio.TaskCancelled]
)
def test_exception_that_is_no_error(kernel, kind):
    """Raised where it is awaited; it does not end the worker."""

    async def main():
        pid = await run(os.getpid)
        with pytest.raises(kind, match="from the worker"):
            await run(crunch.fail, kind, "from the worker")
        assert await run(os.getpid) == pid

    kernel.run(main)


def test_stop_iteration(kernel):
    async def main():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await run(crunch.fail, StopIteration, 1)
        assert await run(int) == 0

    kernel.run(main)


def test_recursion_error(kernel):
    async def main():
        with pytest.raises(RecursionError):
            await run(crunch.fib, float("inf"))
        deep = []
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(PicklingError, match="RecursionError"):
            await run(crunch.give, deep)
        while deep:
            deep = deep[0]
        assert await run(int) == 0

    kernel.run(main)


def test_an_error_is_no_cycle(kernel):
    """The exception, and what its lines refer to, goes when its handler is left."""

    async def main():
        gc.disable()
        try:
            try:
                await run(crunch.fail, crunch.Oops)
            except crunch.Oops as error:
                gone = weakref.ref(error)
            assert gone() is None
        finally:
            gc.enable()

    kernel.run(main)


# --- workers that die ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "function, argument, said",
    [
        (crunch.kill, signal.SIGKILL, r"was killed by SIGKILL, in kill\(\)"),
        (crunch.kill, signal.SIGTERM, "was killed by SIGTERM"),
        (crunch.kill, signal.SIGRTMIN + 3, f"was killed by signal {signal.SIGRTMIN + 3}"),
        (crunch.exit_at_once, 0, "has ended with status 0"),
        (crunch.exit_at_once, 3, r"has ended with status 3, in exit_at_once\(\)"),
    ],
)
def test_death(kernel, function, argument, said):
    async def main():
        pid = await run(os.getpid)
        with pytest.raises(WorkerError, match=f"worker process {pid} {said}"):
            await run(function, argument)
        assert await run(os.getpid) != pid

    kernel.run(main)


def test_death_while_there_is_nothing_to_do(kernel):
    """An idle worker that has died is found dead before it is given work."""

    async def main():
        for _ in range(3):
            pid = await run(os.getpid)
            os.kill(pid, signal.SIGKILL)
            waits(lambda pid=pid: not runs(pid))
            assert await run(os.getpid) != pid

    kernel.run(main)


def test_death_while_it_is_sent_much(kernel):
    """It dies before it has read all, and with part of the answer written."""

    async def main():
        for much in crunch.text(50_000_000), None:
            pid = await run(os.getpid)
            call = (crunch.length, much) if much else (crunch.text, 200_000_000)
            task = await curio.spawn(run, *call)
            if much:
                await until(lambda task=task: task.state == "WRITE_WAIT")
            else:
                await until(lambda task=task: task.state == "READ_WAIT")
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(curio.TaskError) as caught:
                await task.join()
            assert "was killed by SIGKILL" in str(caught.value.__cause__)
            assert await run(os.getpid) != pid

    with warnings.catch_warnings():
        kernel.run(main)


def test_death_with_a_child_that_lives(kernel, file):
    """A process that the function has forked does not keep the death from being seen."""
    path = file()

    async def main():
        with pytest.raises(WorkerError, match="SIGKILL"):
            await run(crunch.fork_and_stay, path)
        os.kill(read_pid(path), signal.SIGKILL)

    kernel.run(main)


def test_a_function_that_forks_answers_once(kernel):
    async def main():
        for _ in range(5):
            assert await run(crunch.fork_and_return) > 0
            assert await run(crunch.give, "next") == "next"

    kernel.run(main)


def test_deaths_at_random_under_load(kernel, limit):
    """A call whose worker is killed says so; the others have their results, none another's."""
    limit(4)
    random_ = random.Random(7)
    outcomes = {"result": 0, "death": 0}
    killed = set()

    async def calls(first):
        for n in range(first, first + 40):
            size = random_.choice([1, 1000, 300_000])
            try:
                (number, data), _ = await run(crunch.echo, n, crunch.text(size))
            except WorkerError as error:
                assert "was killed by SIGKILL" in str(error)
                outcomes["death"] += 1
            else:
                assert number == n and len(data) == size
                outcomes["result"] += 1

    async def killer():
        while True:
            await curio.sleep(random_.uniform(0, 0.03))
            with pool._lock:
                pids = sorted(worker.pid for worker in pool._all)
            if pids:
                pid = random_.choice(pids)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                else:
                    killed.add(pid)

    async def main():
        kills = await curio.spawn(killer)
        tasks = [await curio.spawn(calls, 1000 * n) for n in range(8)]
        for task in tasks:
            await task.join()
        await kills.cancel()
        # The last of them may not have died yet, and would take the next call with it.
        for pid in killed:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass  # waited for by the pool
        assert await run(crunch.add, 1, 2) == 3

    kernel.run(main)
    assert sum(outcomes.values()) == 8 * 40 and outcomes["result"] > 0


# --- cancellation --------------------------------------------------------------------------


@pytest.mark.parametrize("function", [crunch.leave, crunch.leave_stubbornly, crunch.spin])
def test_cancelled_at_work(kernel, file, function):
    """1.7, D12: the task goes on at once, the worker ends, and the next call has its own result."""
    path = file()

    async def main():
        task = await curio.spawn(run, function, path)
        await until(lambda: os.path.exists(path))
        await task.cancel()
        assert await run(crunch.give, "new") == "new"
        await until(lambda: not runs(read_pid(path)))

    kernel.run(main)


def test_timed_out_at_work(kernel, file):
    """The list of mistakes, 8: a later call never has the result of the one that was given up."""
    begun, go = file(), file()

    async def main():
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.001, run, crunch.begin_and_wait, begun, go, "old")
        crunch.mark(go)
        assert [await run(crunch.give, n) for n in range(5)] == list(range(5))

    kernel.run(main)


def test_cancelled_before_it_begins(kernel, file):
    """Nothing is done, no worker is lost."""
    path = file()

    async def main():
        pid = await run(os.getpid)
        await (await curio.spawn(curio.sleep, 0)).join()
        task = await curio.current_task()
        await curio.set_cancellation(curio.TaskCancelled("now"))
        with pytest.raises(curio.TaskCancelled):
            await run(crunch.mark, path)
        assert task is not None
        assert not os.path.exists(path)
        assert await run(os.getpid) == pid

    kernel.run(main)


def test_cancelled_while_it_waits_for_its_turn(kernel, file, limit):
    """Nobody's worker is ended for it."""
    limit(1)
    begun, go, never = file(), file(), file()

    async def main():
        first = await curio.spawn(run, crunch.begin_and_wait, begun, go, "first")
        await until(lambda: os.path.exists(begun))
        second = await curio.spawn(run, crunch.mark, never)
        third = await curio.spawn(run, crunch.give, "third")
        await until(lambda: len(pool._waiting) == 2)
        await second.cancel()
        assert len(pool._waiting) == 1
        crunch.mark(go)
        assert await first.join() == "first"
        assert await third.join() == "third"
        assert await run(os.getpid) == read_pid(begun)
        assert not os.path.exists(never)

    kernel.run(main)


def test_cancelled_while_its_worker_starts(kernel):
    """The worker is there for the next one."""
    dismiss()

    async def main():
        task = await curio.spawn(run, crunch.give, 1)
        await until(lambda: pool._starting)
        await task.cancel()
        await until(lambda: pool._idle)
        worker = pool._idle[0]
        assert await run(os.getpid) == worker.pid

    kernel.run(main)


def test_cancelled_when_its_turn_has_come(kernel, file, limit):
    """The worker that it was given, and has not taken, goes to the next one."""
    limit(1)
    begun, go = file(), file()

    async def main():
        first = await curio.spawn(run, crunch.begin_and_wait, begun, go, "first")
        await until(lambda: os.path.exists(begun))
        second = await curio.spawn(run, crunch.give, "second")
        third = await curio.spawn(run, crunch.give, "third")
        await until(lambda: len(pool._waiting) == 2)
        call = pool._waiting[0]
        crunch.mark(go)
        assert await first.join() == "first"
        assert call.worker is not None
        await second.cancel()
        assert await third.join() == "third"
        assert await run(os.getpid) == read_pid(begun)

    kernel.run(main)


def test_cancelled_when_the_answer_has_come(kernel, file):
    """What was done is delivered, and the cancellation waits; or it is not, and the worker goes."""
    begun, done = file(), file()
    got = []

    async def work():
        got.append(await run(crunch.mark, begun))
        await curio.sleep(0)

    async def main():
        task = await curio.spawn(work)
        await until(lambda: os.path.exists(begun))
        time.sleep(0.05)  # The answer is here, and the kernel has not seen it.
        await task.cancel()
        assert await run(crunch.give, done) == done

    kernel.run(main)


def test_a_worker_whose_answer_nobody_wants_ends_in_silence(kernel, file, monkeypatch):
    """Its program has closed the connection, and the signal has not come yet."""
    monkeypatch.setattr(_processes.Worker, "end", _processes.Worker.retire)
    begun, go = file(), file()

    async def main():
        task = await curio.spawn(run, crunch.begin_and_wait, begun, go, "old")
        await until(lambda: os.path.exists(begun))
        before = set(children())
        await task.cancel()
        crunch.mark(go)
        await until(lambda: set(children()) < before)

    kernel.run(main)


def test_cancelled_in_the_middle_of_much(kernel):
    """With half of the call sent, and with half of the answer here."""

    async def main():
        for n in range(3):
            for call in (crunch.length, crunch.text(100_000_000)), (crunch.text, 100_000_000):
                task = await curio.spawn(run, *call)
                await until(
                    lambda task=task, call=call: (
                        task.state == ("READ_WAIT" if call[0] is crunch.text else "WRITE_WAIT")
                    )
                )
                await task.cancel()
                assert await run(crunch.give, n) == n

    kernel.run(main)


def test_cancelled_at_any_time(kernel, limit):
    """Calls given up after times at random: the others' results are theirs, no worker is lost."""
    limit(2)
    random_ = random.Random(11)
    given_up = done = 0

    async def call(n):
        nonlocal given_up, done
        patience = random_.choice([0, 0.0002, 0.0005, 0.001, 0.003, 0.1, 0.2, 10])
        result = await curio.ignore_after(patience, run, crunch.give, n)
        assert result in (n, None)
        given_up += result is None
        done += result is not None

    async def main():
        for start in range(1, 200, 5):
            tasks = [await curio.spawn(call, n) for n in range(start, start + 5)]
            for task in tasks:
                await task.join()
            assert await run(crunch.give, -1) == -1
        assert pool._places <= 2

    kernel.run(main)
    assert given_up and done


@pytest.mark.parametrize("by", ["cancel", "timeout"])
def test_given_up_a_little_later_each_time(kernel, by):
    """With a worker that is there: from before it is asked to after it has answered."""
    delivered = []

    async def call():
        result = await run(crunch.give, "mine")
        delivered.append(result)

    async def main():
        for microseconds in range(0, 200, 10):
            assert await run(crunch.give, "before") == "before"
            if by == "timeout":
                await curio.ignore_after(microseconds / 1e6, call)
            else:
                task = await curio.spawn(call)
                end = time.perf_counter() + microseconds / 1e6
                while time.perf_counter() < end:
                    await curio.sleep(0)
                await task.cancel()
            assert await run(crunch.give, "after") == "after"

    kernel.run(main)
    assert set(delivered) <= {"mine"}


def test_a_kernel_that_is_dropped_at_work(file):
    """Its call is over, and so is its worker."""
    path = file()

    async def main():
        await curio.spawn(run, crunch.leave, path, daemon=True)
        await until(lambda: os.path.exists(path))

    kernel = curio.Kernel()
    kernel.run(main)
    assert runs(read_pid(path))
    del kernel
    gc.collect()
    waits(lambda: not runs(read_pid(path)))


def test_cancelled_with_a_worker_of_its_own(kernel, file):
    """What a worker has started so goes with it."""
    path = file()

    async def main():
        task = await curio.spawn(run, crunch.call_a_process, path)
        await until(lambda: os.path.exists(path))
        await task.cancel()
        await until(lambda: not runs(read_pid(path)))

    kernel.run(main)


# --- limits --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None])
def test_bad_limit(kernel, limit, bad):
    """A clear error, for this call; those that follow are served when it is mended."""

    async def main():
        with pytest.raises(ValueError, match="MAX_WORKER_PROCESSES must be an int .* not "):
            limit(bad)
            await run(int)
        limit(1)
        assert await run(int) == 0

    kernel.run(main)


def test_limit(kernel, limit, file):
    """S29: further calls wait their turn, in order; a new limit counts from the next call on."""
    limit(2)
    order = []

    async def call(n, begun, go):
        assert await run(crunch.begin_and_wait, begun, go, n) == n
        order.append(n)

    async def main():
        calls = [(n, file(), file()) for n in range(5)]
        tasks = [await curio.spawn(call, *arguments) for arguments in calls]
        await until(lambda: all(os.path.exists(begun) for _, begun, _ in calls[:2]))
        assert pool._places == 2 and len(pool._waiting) == 3
        for (_, _, go), following in zip(calls[:3], calls[2:], strict=True):
            crunch.mark(go)
            await until(lambda following=following: os.path.exists(following[1]))
        for _, _, go in calls[3:]:
            crunch.mark(go)
        for task in tasks:
            await task.join()
        assert order[:3] == [0, 1, 2]
        assert pool._places == 2
        limit(1)
        assert await run(int) == 0
        assert pool._places == 1
        limit(3)
        await run(int)
        assert pool._places == 1  # None is started that nobody needs.

    kernel.run(main)


# --- nothing is left behind ----------------------------------------------------------------


def test_many_calls_leave_nothing(kernel, limit):
    """10 000 round trips: threads, descriptors and processes are what they were."""
    limit(1)

    async def calls(count):
        for n in range(count):
            assert await run(crunch.add, n, 1) == n + 1

    kernel.run(calls, 10)
    threads, *rest = counts()
    kernel.run(calls, 10_000)
    threads_now, *rest_now = counts()
    assert rest_now == rest and threads_now <= threads  # those of earlier tests may end


def test_workers_that_die_leave_nothing(kernel, limit, file):
    limit(2)

    async def main():
        for _ in range(20):
            with pytest.raises(WorkerError):
                await run(crunch.exit_at_once, 1)
            path = file()
            task = await curio.spawn(run, crunch.leave, path)
            await until(lambda path=path: os.path.exists(path))
            await task.cancel()

    async def warm_up():
        await run(int)

    def own():
        dismiss()
        waits(lambda: threading.active_count() == 1)
        return counts()

    kernel.run(warm_up)
    before = own()
    kernel.run(main)
    assert own() == before


def test_no_process_can_be_started(kernel, monkeypatch):
    """The call has the error; descriptors are given back; the next one is served."""
    dismiss()
    before = counts()[1]

    def launch(process):
        raise OSError(11, "no more of them")

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(_processes, "_launch", launch)
            for _ in range(3):
                with pytest.raises(OSError, match="no more of them"):
                    await run(int)
        await until(lambda: not pool._starting)
        assert counts()[1] == before + kernel_descriptors
        assert await run(int) == 0

    kernel.run(curio.sleep(0))
    kernel_descriptors = counts()[1] - before
    kernel.run(main)


def test_no_descriptor_is_left(kernel, monkeypatch):
    """A worker that was started, and cannot be watched, is ended."""
    dismiss()
    pids = []

    def pidfd_open(pid):
        pids.append(pid)
        raise OSError(24, "Too many open files")

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", pidfd_open)
            with pytest.raises(OSError, match="Too many open files"):
                await run(int)
        assert len(pids) == 1 and pids[0] not in children()
        assert await run(int) == 0

    kernel.run(main)


def test_no_thread_can_be_started(kernel, monkeypatch):
    dismiss()

    def start(thread):
        raise RuntimeError("can't start new thread")

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await run(int)
        assert await run(int) == 0

    kernel.run(main)


# --- what a worker has of the program --------------------------------------------------------


def test_descriptors(kernel):
    """Nothing of the kernel's: standard streams, the socket, the lifeline, multiprocessing's."""
    dismiss()
    pipe = os.pipe()
    for end in pipe:
        os.set_inheritable(end, True)

    async def main():
        listener = curio.tcp_server_socket("127.0.0.1", 0)
        mine = set(crunch.descriptors().values())
        theirs = await run(crunch.descriptors)
        await listener.close()
        shared = {name for fd, name in theirs.items() if fd > 2 and name in mine}
        # One is the end of the lifeline, and multiprocessing has a pipe to its tracker, and one
        # by which a child can wait for its parent.
        assert len([name for name in theirs.values() if name.startswith("socket:")]) == 1
        assert os.readlink(f"/proc/self/fd/{pipe[0]}") not in shared
        assert not any("eventpoll" in name or "eventfd" in name for name in theirs.values())
        assert len(shared) <= 3, (shared, theirs)

    try:
        kernel.run(main)
    finally:
        for end in pipe:
            os.close(end)


def test_signals(kernel):
    """Neither handlers, nor what is blocked, nor the wake-up descriptor."""
    dismiss()
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    async def main():
        async with curio.SignalSet(signal.SIGHUP):
            handlers, blocked, wakeup = await run(crunch.signals)
        assert wakeup == -1 and blocked == []
        assert "ours" not in handlers.values()
        assert handlers[signal.SIGHUP] == handlers[signal.SIGUSR1] == signal.SIG_DFL
        assert handlers[signal.SIGTERM] == signal.SIG_DFL
        assert handlers[signal.SIGINT] == signal.SIG_IGN

    try:
        kernel.run(main)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
        signal.signal(signal.SIGUSR1, before)


def test_a_thread_of_ours_keeps_its_signals(kernel):
    """To start a worker changes nothing in the program."""
    dismiss()

    async def main():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        await run(int)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

    kernel.run(main)


def test_multiprocessing_knows_nothing_of_them(kernel):
    """It would wait for them at the program's end."""

    async def main():
        await run(int)
        assert multiprocessing.active_children() == []

    kernel.run(main)


# --- kernels -------------------------------------------------------------------------------


def test_two_kernels_share_the_pool(limit):
    """In two threads, with one worker for both."""
    limit(1)
    results, pids = {}, set()

    async def calls(first):
        results[first] = [(await run(crunch.add, first, n)) for n in range(200)]
        pids.add(await run(os.getpid))

    threads = [threading.Thread(target=curio.run, args=(calls, n)) for n in (1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for first, got in results.items():
        assert got == list(range(first, first + 200))
    assert len(results) == 2 and len(pids) == 1


def test_on_virtual_time(file):
    """A virtual kernel waits for a worker really, and its clock does not pass meanwhile."""
    begun, go = file(), file()

    async def main():
        start = await curio.clock()
        assert await run(crunch.add, 1, 2) == 3
        assert await run(crunch.length, crunch.text(1_000_000)) == 1_000_000
        assert await curio.clock() - start < 1
        await curio.sleep(86400)
        task = await curio.spawn(run, crunch.begin_and_wait, begun, go, 4)
        while not os.path.exists(begun):
            await curio.sleep(0)
        crunch.mark(go)
        assert await task.join() == 4

    testing.run(main)


def test_from_asyncio_in_another_thread(kernel):
    """The pool is the program's; a kernel in a thread of asyncio's may use it, too."""

    async def ask():
        return await run(crunch.add, 2, 3)

    async def main():
        return await asyncio.to_thread(curio.run, ask)

    assert asyncio.run(main()) == 5


# --- programs ------------------------------------------------------------------------------

WORK = """
import os, signal, sys, threading, time
import curio

def pid():
    return os.getpid()

def long(path):
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    sum(range(10**13))

def busy(path):
    while not os.path.exists(path):
        time.sleep(0.01)
"""


def ended(path):
    waits(lambda: not runs(read_pid(path)))


def test_functions_of_the_main_module(program):
    """T25."""
    running = program(
        WORK
        + """
class Thing:
    def __init__(self, n):
        self.n = n
    def double(self):
        return Thing(self.n * 2)

async def main():
    assert await curio.run_cpu_bound(pid) != os.getpid()
    print((await curio.run_cpu_bound(Thing(21).double)).n)

if __name__ == "__main__":
    curio.run(main)
"""
    )
    running.succeed()
    assert running.lines == ["42"]


def test_a_main_module_without_its_guard(program):
    """The error says what to do; nothing hangs, nothing multiplies."""
    running = program(
        WORK
        + """
async def main():
    await curio.run_cpu_bound(pid)

curio.run(main)
"""
    )
    assert running.wait() == 1
    assert "WorkerError: worker process" in running.errors
    assert "under `if __name__ == '__main__':`" in running.errors


def test_a_program_from_the_command_line(tmp_path):
    """There is no file: functions of modules can be called; of its own, the error says it."""
    import subprocess

    text = (
        WORK
        + """
async def main():
    print(await curio.run_cpu_bound(max, 1, 2))
    try:
        await curio.run_cpu_bound(pid)
    except curio.workers.WorkerError as error:
        print(error)

curio.run(main)
"""
    )
    said = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("2\npid(): the worker process cannot unpickle the call: Attrib")


@pytest.mark.parametrize(
    "ending",
    ["return", "raise ValueError('the end')", "sys.exit(5)", "os._exit(6)", "os.abort()"],
)
def test_the_end_with_work_under_way(program, ending):
    """Quick, clean, and no process is left, the tracker of multiprocessing's neither."""
    running = program(
        WORK
        + f"""
async def main():
    await curio.spawn(curio.run_cpu_bound, long, "begun", daemon=True)
    await curio.run_cpu_bound(busy, "begun")
    await curio.spawn(curio.run_cpu_bound, long, "next", daemon=True)
    await curio.sleep(0.01)
    {ending}

if __name__ == "__main__":
    curio.workers.MAX_WORKER_PROCESSES = 3
    kernel = curio.Kernel()
    kernel.run(main)
"""
    )
    start = time.monotonic()
    status = running.wait(40)
    assert time.monotonic() - start < 30
    expected = {"return": 0, "sys.exit(5)": 5, "os._exit(6)": 6, "os.abort()": -signal.SIGABRT}
    assert status == expected.get(ending, 1)
    if ending.startswith("raise"):
        assert running.errors.endswith("ValueError: the end\n")
    elif ending != "os.abort()":
        assert running.errors == ""
    ended(os.path.join(os.path.dirname(running.process.args[1]), "begun"))


def test_the_end_while_workers_start(program):
    """At any moment of their starting."""
    delays = [0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08]
    started = [
        program(
            WORK
            + f"""
async def main():
    for _ in range(2):
        await curio.spawn(curio.run_cpu_bound, pid, daemon=True)
    await curio.sleep({delay})

if __name__ == "__main__":
    curio.run(main)
"""
        )
        for delay in delays
    ]
    for running in started:
        running.succeed()
        assert running.lines == []


def test_what_a_worker_prints(program):
    """It shares the program's output; what it has not written yet, it writes at its end."""
    running = program(
        WORK
        + """
if __name__ == "__main__":
    print(curio.run(curio.run_in_process, print, "from the worker", ""))
"""
    )
    running.succeed()
    assert sorted(running.lines) == ["None", "from the worker "]


def test_a_program_that_ignores_its_children(program):
    """Their statuses are lost; that they have died is not."""
    running = program(
        WORK
        + """
async def main():
    for _ in range(3):
        try:
            await curio.run_in_process(os._exit, 3)
        except curio.workers.WorkerError as error:
            print(str(error).partition(" has ")[2])
    await curio.timeout_after(30, curio.run_in_process, pid)

if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    curio.run(main)
"""
    )
    running.succeed()
    assert running.lines == ["ended, in _exit()"] * 3


def test_a_call_at_the_interpreters_end(program):
    running = program(
        WORK
        + """
import atexit

async def main():
    return await curio.run_cpu_bound(pid)

def at_exit():
    try:
        curio.run(main)
    except curio.CurioError as error:
        print(error)

if __name__ == "__main__":
    atexit.register(at_exit)
    import curio._processes
    atexit.register(at_exit)
    atexit.unregister(curio._processes.pool.close)
    atexit.register(at_exit)
    curio._processes.pool.close()
"""
    )
    running.succeed()
    assert set(running.lines) == {"no worker process is started while the interpreter ends"}


def test_the_program_is_killed(program, tmp_path):
    """The system ends the workers, although one of them looks at nothing."""
    running = program(
        WORK
        + """
async def main():
    await curio.spawn(curio.run_cpu_bound, long, "one")
    await curio.run_cpu_bound(long, "two")

if __name__ == "__main__":
    curio.workers.MAX_WORKER_PROCESSES = 2
    curio.run(main)
"""
    )
    paths = [str(tmp_path / name) for name in ("one", "two")]
    waits(lambda: all(map(os.path.exists, paths)))
    running.process.kill()
    running.wait()
    for path in paths:
        ended(path)


def test_ctrl_c_at_the_terminal(tmp_path):
    """It goes to the program and its workers alike; they leave it to the program."""
    import pty

    (tmp_path / "program.py").write_text(
        WORK
        + """
def idle(path):
    with open("one" if path == "two" else "two", "w"):
        pass
    busy(path)
    return os.getpid()

def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False  # It had the call, which was cancelled.

async def main():
    # Both are at work until the other is; then one of them has nothing to do.
    other = await curio.spawn(curio.run_cpu_bound, idle, "one")
    workers = [await curio.run_cpu_bound(idle, "two"), await other.join()]
    try:
        await curio.run_cpu_bound(long, "begun")
    finally:
        print("still there" if any(map(runs, workers)) else "gone")

if __name__ == "__main__":
    curio.workers.MAX_WORKER_PROCESSES = 2
    try:
        curio.run(main)
    except KeyboardInterrupt:
        print("interrupted")
"""
    )
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "program.py"])
    waits((tmp_path / "begun").exists)
    time.sleep(0.05)
    os.write(terminal, b"\x03")
    said = b""
    try:
        while data := os.read(terminal, 1000):
            said += data
    except OSError:
        pass  # how a terminal ends
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0, said
    assert said.replace(b"^C", b"").split() == b"still there interrupted".split(), said.decode()
    ended(tmp_path / "begun")


def test_ctrl_c_while_workers_start(program):
    """The signal comes to the whole group, at any moment: nothing of a worker's is printed."""
    import subprocess

    text = (
        WORK
        + """
# An exec() that Ctrl-C ends makes the interpreter end by the signal, whoever catches it: the
# modules that build classes in one are imported before.
import curio._processes, multiprocessing.popen_spawn_posix, multiprocessing.resource_tracker

async def main():
    print("begin", flush=True)
    await curio.run_cpu_bound(busy, "/never")

if __name__ == "__main__":
    try:
        curio.run(main)
    except KeyboardInterrupt:
        print("interrupted")
"""
    )
    path = program(text).process.args[1]
    for delay in (0, 0.01, 0.03, 0.06, 0.1, 0.2):
        running = subprocess.Popen(
            [sys.executable, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert running.stdout.readline() == "begin\n"
        time.sleep(delay)
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=30)
        assert (out, err, running.returncode) == ("interrupted\n", "", 0)


def test_fork(program):
    """A forked child has workers of its own; the others, whatever they do, are the parent's."""
    running = program(
        WORK
        + """
async def child():
    return await curio.run_cpu_bound(pid)

async def main():
    first = await curio.run_cpu_bound(pid)
    task = await curio.spawn(curio.run_cpu_bound, busy, "go")
    # One that is cancelled is on its way out when the fork comes.
    leaving = await curio.spawn(curio.run_cpu_bound, long, "begun")
    while not os.path.exists("begun"):
        await curio.sleep(0.001)
    await leaving.cancel()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", ""])
    os.wait()
    child_pid = os.fork()
    if child_pid == 0:
        status = 1
        try:
            mine = []
            thread = threading.Thread(target=lambda: mine.append(curio.run(child)))
            thread.start()
            thread.join()
            from curio._processes import pool
            assert mine and mine[0] != first
            assert pool._places == 1, pool._places
            status = 0
        finally:
            if status:
                import traceback
                traceback.print_exc()
            pool.close()
            os._exit(status)
    _, status = os.waitpid(child_pid, 0)
    print("child", status)
    open("go", "w").close()
    await task.join()
    for _ in range(3):
        await curio.run_cpu_bound(pid)
    print("parent")

if __name__ == "__main__":
    import warnings
    warnings.simplefilter("ignore")
    curio.workers.MAX_WORKER_PROCESSES = 3
    curio.run(main)
"""
    )
    running.succeed()
    assert running.lines == ["child 0", "parent"]


def test_a_forked_child_does_not_hide_a_death(program):
    """It has let go of what the parent uses to see one."""
    running = program(
        WORK
        + """
def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    await curio.run_cpu_bound(pid)
    child = os.fork()
    if child == 0:
        time.sleep(100)
        os._exit(0)
    try:
        await curio.timeout_after(30, curio.run_cpu_bound(die))
    except curio.workers.WorkerError as error:
        print(str(error).split("process")[0])
    os.kill(child, signal.SIGKILL)

if __name__ == "__main__":
    curio.run(main)
"""
    )
    running.succeed()
    assert running.lines == ["worker "]


def test_a_forked_child_ends_while_its_copy_of_a_call_is_under_way(program):
    """What was the parent's call is nobody's in the child: neither count nor worker suffers."""
    running = program(
        WORK
        + """
import gc

async def main(kernel):
    task = await curio.spawn(curio.run_cpu_bound, busy, "go")
    while task.state != "READ_WAIT":
        await curio.sleep(0.001)
    child = os.fork()
    if child == 0:
        return "child"
    _, status = os.waitpid(child, 0)
    print("child", status)
    open("go", "w").close()
    await task.join()
    print("parent")

if __name__ == "__main__":
    import warnings
    warnings.simplefilter("ignore")
    kernel = curio.Kernel()
    if curio.Kernel.run(kernel, main, kernel) == "child" or True:
        pass
    from curio._processes import pool
    assert pool._places == len(pool._idle) >= 0, pool._places
""".replace('return "child"', "raise SystemExit(0)")
    )
    running.succeed()
    assert running.lines == ["child 0", "parent"]
