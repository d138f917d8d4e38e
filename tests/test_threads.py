"""Work in threads: results come back, places are limited, who is cancelled goes on at once.

Goal: the contract of `run_in_thread` (`run_blocking`) and of its pool. Method: the functions in
the threads stop at gates that the test opens, so each state is reached for certain: not begun,
at work, ended and not yet seen by the kernel, dropped. The pool's numbers are read only where
nothing else can tell.
"""

import contextvars
import gc
import os
import signal
import threading
import time
import traceback
import warnings
import weakref
from concurrent.futures import Future

import curio
import pytest
from curio import _threads, workers
from curio._threads import workers_pool


class Oops(Exception):
    pass


class Gate:
    """A function that begins, and ends when it is told to."""

    def __init__(self, result=None):
        self.result = result
        self.begun, self.open, self.ended = (threading.Event() for _ in range(3))
        self.calls = 0

    def __call__(self):
        self.calls += 1
        self.begun.set()
        assert self.open.wait(50)
        self.ended.set()
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result

    async def has_begun(self):
        await until(self.begun.is_set)


async def until(condition):
    """Waits while other tasks run; not for ever, lest one failure end all tests."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        await curio.sleep(0.001)


def waits(condition):
    """Waits while they do not."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        time.sleep(0.001)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("curio-worker")]


def free(pool=workers_pool):
    """Nobody is at work, and nothing is lost of the count."""
    return pool._places == pool._idle == len(threads()) and not pool._waiting


async def use_all():
    """A call for each idle thread."""
    gates = [Gate() for _ in range(workers_pool._idle)]
    tasks = [await curio.spawn(curio.run_in_thread(gate)) for gate in gates]
    for gate in gates:
        await gate.has_begun()
    for gate in gates:
        gate.open.set()
    for task in tasks:
        await task.join()


@pytest.fixture(autouse=True)
def no_threads(monkeypatch):
    """Each test begins without threads, leaves none at work, and the count is right then."""
    monkeypatch.setattr(_threads, "_IDLE", 0.0)
    # Those that wait already have been told a longer time: a call each lets them end.
    while workers_pool._idle:
        curio.run(use_all)
        waits(lambda: not threads())
    waits(lambda: not threads())
    monkeypatch.setattr(_threads, "_IDLE", 10.0)
    yield
    waits(free)


@pytest.fixture
def limit(monkeypatch):
    def limit(count):
        monkeypatch.setattr(workers, "MAX_WORKER_THREADS", count)

    return limit


# --- results -------------------------------------------------------------------------------


def test_names():
    """T26, S27, S29."""
    assert curio.run_blocking is curio.run_in_thread is workers.run_in_thread
    assert workers.MAX_WORKER_THREADS == 64


def test_result(kernel):
    """T26: arguments by place and by name; in another thread; other tasks run meanwhile."""

    def work(*args, **kwargs):
        return args, kwargs, threading.get_ident()

    gate, turns = Gate("done"), []

    async def other():
        while not gate.ended.is_set():
            turns.append(1)
            if len(turns) == 10:
                gate.open.set()
            await curio.sleep(0)

    async def main():
        args, kwargs, thread = await curio.run_in_thread(work, 1, 2, key=3)
        assert (args, kwargs) == ((1, 2), {"key": 3})
        assert thread != threading.get_ident()
        # Names that the pool might use itself.
        names = {"args": 1, "work": 2, "on_cancel": 3, "context": 4, "self": 5}
        assert (await curio.run_in_thread(work, **names))[1] == names
        await curio.spawn(other())
        assert await curio.run_blocking(gate) == "done"
        assert len(turns) >= 10

    kernel.run(main)


def test_result_may_be_an_exception_or_none(kernel):
    async def main():
        error = Oops()
        assert await curio.run_in_thread(lambda: error) is error
        assert await curio.run_in_thread(lambda: None) is None

    kernel.run(main)


def test_nothing_happens_before_it_is_awaited(kernel):
    """1.7: a coroutine, which warns if it is forgotten."""
    calls = []
    with pytest.warns(RuntimeWarning, match="never awaited"):
        call = curio.run_in_thread(calls.append, 1)
        time.sleep(0.01)
        del call
    assert calls == []


def test_exception(kernel):
    """T26: the exception itself, with the lines in the thread and those that awaited it."""
    error = Oops("in the thread")

    def work():
        raise error

    async def main():
        await curio.run_in_thread(work)

    with pytest.raises(Oops) as caught:
        kernel.run(main)
    assert caught.value is error
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "work" and "main" in names
    assert error.__cause__ is None and error.__context__ is None


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exception_that_is_no_error(kernel, kind):
    """T26: raised where it is awaited, it does not end the thread silently."""

    def work():
        raise kind("from the thread")

    async def main():
        with pytest.raises(kind, match="from the thread"):
            await curio.run_in_thread(work)
        return await curio.run_in_thread(int)

    assert kernel.run(main) == 0


def test_exception_that_looks_like_a_cancellation(kernel):
    """T26: a function may raise what it likes; the place is freed once."""

    def work():
        raise curio.TaskCancelled("no, just pretending")

    told = []

    async def main():
        for _ in range(5):
            with pytest.raises(curio.CancelledError, match="pretending"):
                await curio.run_in_thread(work, call_on_cancel=told.append)
        assert await curio.run_in_thread(int) == 0
        assert told == []  # It was delivered.

    kernel.run(main)
    waits(lambda: workers_pool._idle)
    assert workers_pool._places == len(threads())


def test_not_callable(kernel):
    async def main():
        with pytest.raises(TypeError):
            await curio.run_in_thread(5)
        with pytest.raises(TypeError):
            await curio.run_in_thread(int, 1, 2, 3)
        with pytest.raises(TypeError):
            await curio.run_in_thread()

    kernel.run(main)


def test_context_variables(kernel):
    """T26: the thread sees the task's; what it sets is its own."""
    variable = contextvars.ContextVar("variable", default="nobody's")

    def work():
        before = variable.get()
        variable.set("the thread's")
        return before

    async def main():
        assert await curio.run_in_thread(work) == "nobody's"
        variable.set("the task's")
        assert await curio.run_in_thread(work) == "the task's"
        assert variable.get() == "the task's"

        async def other():
            variable.set("the other's")
            return await curio.run_in_thread(work)

        task = await curio.spawn(other())
        assert await task.join() == "the other's"

    kernel.run(main)


def test_state_while_waiting(kernel):
    """Section 0: FUTURE_WAIT."""
    gate = Gate()

    async def main():
        task = await curio.spawn(curio.run_in_thread(gate))
        await gate.has_begun()
        assert task.state == "FUTURE_WAIT"
        gate.open.set()
        await task.join()

    kernel.run(main)


def test_nothing_is_kept(kernel):
    """An idle thread refers neither to the result nor to the arguments of its last call."""

    class Thing:
        pass

    references = []

    async def main():
        for function in (lambda thing: thing, lambda thing: None):
            thing = Thing()
            references.append(weakref.ref(thing))
            given = await curio.run_in_thread(function, thing, call_on_cancel=thing.__class__)
            assert given in (thing, None)
            del thing, given
        await until(lambda: workers_pool._idle)

    gc.disable()
    try:
        kernel.run(main)
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_nothing_is_kept_of_an_error(kernel):
    """Nor after an exception, when its holder drops it: no cycle waits for the collector."""

    class Thing:
        pass

    references = []

    def work(thing):
        raise Oops

    async def call():
        thing = Thing()
        references.append(weakref.ref(thing))
        try:
            await curio.run_in_thread(work, thing)
        except Oops:
            pass

    async def main():
        await call()
        await until(lambda: workers_pool._idle)

    gc.collect()
    gc.disable()
    try:
        kernel.run(main)
        assert [reference() for reference in references] == [None]
    finally:
        gc.enable()


# --- the limit -------------------------------------------------------------------------------


def test_limit_and_order(kernel, limit):
    """S29: so many at work, the others wait, first come first served."""
    limit(3)
    gates, started = [Gate(n) for n in range(10)], []

    def work(gate):
        started.append(gate.result)
        return gate()

    async def main():
        tasks = [await curio.spawn(curio.run_in_thread(work, gate)) for gate in gates]
        for n, gate in enumerate(gates):
            await until(lambda n=n: len(started) >= min(n + 3, 10))
            await curio.sleep(0.002)
            assert started == list(range(min(n + 3, 10)))
            gate.open.set()
            assert await tasks[n].join() == n
        assert len(threads()) == 3

    kernel.run(main)


def test_limit_of_one_is_a_line(kernel, limit):
    limit(1)
    order = []

    async def main():
        tasks = [await curio.spawn(curio.run_in_thread(order.append, n)) for n in range(50)]
        for task in tasks:
            await task.join()

    kernel.run(main)
    assert order == list(range(50))
    assert len(threads()) == 1


def test_default_limit(kernel):
    """S29: 64 at a time."""
    gates = [Gate() for _ in range(70)]

    async def main():
        tasks = [await curio.spawn(curio.run_in_thread(gate)) for gate in gates]
        await until(lambda: sum(gate.begun.is_set() for gate in gates) >= 64)
        await curio.sleep(0.01)
        assert [gate.begun.is_set() for gate in gates] == [True] * 64 + [False] * 6
        for gate in gates:
            gate.open.set()
        for task in tasks:
            await task.join()

    kernel.run(main)


def test_threads_are_used_again(kernel):
    """One after the other needs one thread, a thousand times."""
    seen = set()

    async def main():
        for _ in range(1000):
            seen.add(await curio.run_in_thread(threading.current_thread))

    kernel.run(main)
    # The result may arrive a moment before the thread says that it is free.
    assert len(seen) < 20
    assert len(threads()) == len(seen)


def test_thousand_calls_at_once(kernel):
    async def main():
        tasks = [await curio.spawn(curio.run_in_thread(divmod, n, 7)) for n in range(1000)]
        assert [await task.join() for task in tasks] == [divmod(n, 7) for n in range(1000)]
        assert len(threads()) <= 64

    kernel.run(main)


def test_idle_threads_end(kernel, monkeypatch):
    """A thread without work is kept for a while; then a new one is started."""
    monkeypatch.setattr(_threads, "_IDLE", 0.02)

    async def main():
        gates = [Gate() for _ in range(5)]
        for _ in range(2):
            tasks = [await curio.spawn(curio.run_in_thread(gate)) for gate in gates]
            for gate in gates:
                gate.open.set()
            for task in tasks:
                await task.join()
            await until(lambda: not threads())
            assert workers_pool._places == workers_pool._idle == 0

    kernel.run(main)


def test_work_given_while_threads_end(kernel, monkeypatch):
    """A thread that gives up waiting just when it is promised a call takes it all the same."""
    monkeypatch.setattr(_threads, "_IDLE", 0.0005)

    async def main():
        for n in range(300):
            assert await curio.run_in_thread(divmod, n, 7) == divmod(n, 7)
            await curio.sleep(0.0004 + (n % 10) / 40_000)

    kernel.run(main)


def test_thread_that_cannot_be_started(kernel, monkeypatch):
    """The error is the caller's, and its place is free."""

    class NoThread:
        def __init__(self, **options):
            pass

        def start(self):
            raise RuntimeError("can't start new thread")

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", NoThread)
            for _ in range(3):
                with pytest.raises(RuntimeError, match="can't start"):
                    await curio.run_in_thread(int)
        assert workers_pool._places == 0
        assert await curio.run_in_thread(int) == 0

    kernel.run(main)


# --- cancellation ----------------------------------------------------------------------------


def test_cancelled_before_it_has_begun(kernel, limit):
    """S29: out of the line, never called; those behind it keep their order."""
    limit(1)
    gate, order = Gate(), []

    async def main():
        first = await curio.spawn(curio.run_in_thread(gate))
        rest = [await curio.spawn(curio.run_in_thread(order.append, n)) for n in range(4)]
        await gate.has_begun()
        await rest[0].cancel()
        await rest[2].cancel()
        assert rest[0].cancelled and rest[2].cancelled
        assert not first.terminated
        gate.open.set()
        await first.join()
        await rest[1].join()
        await rest[3].join()
        assert order == [1, 3]

    kernel.run(main)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_cancelled_while_at_work(kernel, how):
    """1.7: the task goes on at once; the work runs to its end, and its result is dropped."""
    gate = Gate("abandoned")

    async def call():
        return await curio.run_in_thread(gate)

    async def main():
        if how == "cancel":
            task = await curio.spawn(call())
            await gate.has_begun()
            await task.cancel()
            assert task.cancelled
        else:
            while not gate.begun.is_set():  # The time may be over before the thread has begun.
                with pytest.raises(curio.TaskTimeout):
                    await curio.timeout_after(0.005, call())
        assert not gate.ended.is_set()
        # In no case does a later call receive what was abandoned.
        assert await curio.run_in_thread(lambda: "mine") == "mine"
        calls = gate.calls
        gate.open.set()
        await until(gate.ended.is_set)
        assert [await curio.run_in_thread(divmod, n, 1) for n in range(20)] == [
            (n, 0) for n in range(20)
        ]
        assert gate.calls == calls

    kernel.run(main)


def test_error_of_abandoned_work_is_dropped(kernel, log):
    """1.7: not printed either."""
    gate = Gate(Oops("nobody wants me"))

    async def main():
        task = await curio.spawn(curio.run_in_thread(gate))
        await gate.has_begun()
        await task.cancel()
        gate.open.set()
        await until(lambda: not threads())

    kernel.run(main)
    assert not log


def test_cancelled_after_its_end(kernel):
    """Invariant 5: what has arrived is delivered; the cancellation waits for the next wait."""
    gates = [Gate("result") for _ in range(2)]
    got = []

    async def call(gate):
        got.append(await curio.run_in_thread(gate))
        await curio.sleep(1000)

    async def main():
        task = await curio.spawn(call(gates[0]))
        await gates[0].has_begun()
        gates[0].open.set()
        await until(lambda: got)
        await task.cancel()
        assert got == ["result"] and task.cancelled

    kernel.run(main)


@pytest.mark.parametrize("give", ["result", "error"])
def test_cancelled_between_its_end_and_the_kernels_notice(kernel, limit, give):
    """1.7: the place is free once, not twice; what was not delivered goes to call_on_cancel."""
    limit(1)
    got, told = [], []
    made = {"result": "result", "error": Oops("result")}[give]

    async def call(gate):
        try:
            got.append(await curio.run_in_thread(gate, call_on_cancel=told.append))
        except Oops as error:
            got.append(error)

    async def main():
        for _ in range(3):
            gate = Gate(made)
            task = await curio.spawn(call(gate))
            await gate.has_begun()
            gate.open.set()
            waits(lambda: workers_pool._idle)  # The kernel knows nothing of it.
            await task.cancel()
        # Either it was delivered, or it was given to call_on_cancel: it is not lost.
        await until(lambda: len(got) + len(told) == 3)
        for future in told:
            assert future.exception() is made if give == "error" else future.result() is made
        # And the limit holds.
        gates = [Gate() for _ in range(3)]
        tasks = [await curio.spawn(curio.run_in_thread(gate)) for gate in gates]
        await gates[0].has_begun()
        await curio.sleep(0.02)
        assert [gate.begun.is_set() for gate in gates] == [True, False, False]
        for gate in gates:
            gate.open.set()
        for task in tasks:
            await task.join()

    kernel.run(main)


def test_cancellations_at_every_moment(kernel, limit):
    """1.7: whatever the moment, each result has one receiver, and the count of places is right."""
    limit(4)
    told, got, cancelled = [], [], []

    async def call(n):
        work = (lambda: n) if n % 3 else (lambda: time.sleep(0.0002) or n)
        try:
            got.append(await curio.run_in_thread(work, call_on_cancel=told.append))
        except curio.CancelledError:
            cancelled.append(n)
            raise

    async def main():
        for n in range(600):
            task = await curio.spawn(call(n))
            deadline = time.perf_counter() + (n % 40) / 100_000
            while time.perf_counter() < deadline:
                if n % 2:
                    await curio.sleep(0)
            await task.cancel()
        await until(free)
        assert sorted(got + cancelled) == list(range(600))
        results = [future.result() for future in told]
        assert len(set(results)) == len(results) and set(results) <= set(cancelled)
        assert len(threads()) <= 4

    kernel.run(main)


def test_nothing_is_left_of_ten_thousand_calls(kernel, limit):
    """Done, cancelled, timed out: threads and descriptors are as many as before."""
    limit(8)

    async def calls(count):
        for n in range(count):
            how = n % 4
            if how == 0:
                assert await curio.ignore_after(0, curio.run_in_thread, abs, -n) in (None, n)
            elif how == 1:
                task = await curio.spawn(curio.run_in_thread, abs, -n)
                await curio.sleep(0)
                await task.cancel()
            else:
                assert await curio.run_in_thread(abs, -n) == n

    async def main():
        await calls(100)
        await until(free)
        descriptors = len(os.listdir("/proc/self/fd"))
        tasks = [await curio.spawn(calls, 2500) for _ in range(4)]
        for task in tasks:
            await task.join()
        await until(free)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert len(threads()) <= 8

    kernel.run(main)


def test_place_is_free_at_once(kernel, limit):
    """1.7: the limit counts calls that somebody waits for."""
    limit(2)
    zombies = [Gate() for _ in range(5)]

    async def main():
        for gate in zombies:
            task = await curio.spawn(curio.run_in_thread(gate))
            await gate.has_begun()
            await task.cancel()
        assert await curio.run_in_thread(lambda: "free") == "free"
        # No more than two, all the same, and when the zombies end as well.
        gates = [Gate() for _ in range(4)]
        tasks = [await curio.spawn(curio.run_in_thread(gate)) for gate in gates]
        for gate in gates[:2]:
            await gate.has_begun()
        for gate in zombies:
            gate.open.set()
        await until(lambda: len(threads()) == 2)
        assert [gate.begun.is_set() for gate in gates] == [True, True, False, False]
        for gate in gates:
            gate.open.set()
        for task in tasks:
            await task.join()

    kernel.run(main)


def test_who_waits_takes_the_place_of_who_is_cancelled(kernel, limit):
    limit(1)
    first, second = Gate(), Gate("second")

    async def main():
        cancelled = await curio.spawn(curio.run_in_thread(first))
        waiting = await curio.spawn(curio.run_in_thread(second))
        await first.has_begun()
        await curio.sleep(0.005)
        assert not second.begun.is_set()
        await cancelled.cancel()
        await second.has_begun()
        assert not first.ended.is_set()
        second.open.set()
        assert await waiting.join() == "second"
        first.open.set()

    kernel.run(main)


@pytest.mark.parametrize("made", ["result", Oops("failed")])
def test_call_on_cancel(kernel, made):
    """L60: in the thread, when the work is done, with a Future of what has come of it."""
    gate, told = Gate(made), []

    async def main():
        def on_cancel(future):
            told.append((future, threading.current_thread()))

        task = await curio.spawn(curio.run_in_thread(gate, call_on_cancel=on_cancel))
        await gate.has_begun()
        (thread,) = threads()
        await task.cancel()
        await curio.sleep(0.005)
        assert told == []
        gate.open.set()
        await until(lambda: told)
        ((future, where),) = told
        assert type(future) is Future and future.done() and where is thread
        if isinstance(made, Oops):
            assert future.exception() is made
        else:
            assert future.result() == made and future.exception() is None

    kernel.run(main)


def test_call_on_cancel_only_then(kernel, limit):
    """L60: not after a result or an error, nor for a call that never began."""
    limit(1)
    told, gate = [], Gate()

    async def main():
        assert await curio.run_in_thread(int, call_on_cancel=told.append) == 0
        with pytest.raises(ValueError):
            await curio.run_in_thread(int, "x", call_on_cancel=told.append)
        first = await curio.spawn(curio.run_in_thread(gate))
        second = await curio.spawn(curio.run_in_thread(int, call_on_cancel=told.append))
        await second.cancel()
        gate.open.set()
        await first.join()
        await curio.run_in_thread(int)
        assert told == []

    kernel.run(main)


def test_call_on_cancel_that_fails_is_logged(kernel, log):
    """L60: nobody else could tell."""
    gate = Gate()

    async def main():
        def on_cancel(future):
            raise Oops("in call_on_cancel")

        task = await curio.spawn(curio.run_in_thread(gate, call_on_cancel=on_cancel))
        await gate.has_begun()
        await task.cancel()
        gate.open.set()
        await until(lambda: not threads())

    kernel.run(main)
    (record,) = log.records
    assert record.name == "curio.workers" and "in call_on_cancel" in log.texts[0]


def test_shielded(kernel):
    """Invariant 6: inside a shield it is waited for."""
    gate, got = Gate("kept"), []

    async def call():
        async with curio.disable_cancellation():
            got.append(await curio.run_in_thread(gate))
        await curio.sleep(1000)

    async def main():
        task = await curio.spawn(call())
        await gate.has_begun()
        await task.cancel(blocking=False)
        await curio.sleep(0.005)
        assert not task.terminated
        gate.open.set()
        await task.wait()
        assert got == ["kept"] and task.cancelled

    kernel.run(main)


def test_kernel_ends_before_the_work():
    """1.7: shutdown does not wait for threads; what comes later finds nobody, and no matter."""
    gate = Gate("too late")
    with curio.Kernel() as kernel:

        async def main():
            await curio.spawn(curio.run_in_thread(gate), daemon=True)
            await gate.has_begun()

        kernel.run(main)
    assert not gate.ended.is_set()
    gate.open.set()
    waits(lambda: not threads())
    assert curio.run(curio.run_in_thread, lambda: "new kernel") == "new kernel"


def test_kernel_is_dropped_before_the_work():
    """The same without a shutdown: its tasks are closed."""
    gate = Gate("too late")
    kernel = curio.Kernel()

    async def main():
        await curio.spawn(curio.run_in_thread(gate), daemon=True)
        await gate.has_begun()

    kernel.run(main)
    del kernel
    gc.collect()
    gate.open.set()
    waits(free)


# --- kernels, processes ----------------------------------------------------------------------


def test_two_kernels_in_two_threads():
    """One pool for both; each gets its own results."""
    results, errors = {}, []

    def runs(name):
        async def call(n):
            return await curio.run_in_thread(lambda: (name, n))

        async def main():
            got = []
            for start in range(0, 200, 20):
                tasks = [await curio.spawn(call(start + n)) for n in range(20)]
                got += [await task.join() for task in tasks]
            results[name] = got

        try:
            curio.run(main)
        except BaseException as error:
            errors.append(error)

    both = [threading.Thread(target=runs, args=(name,)) for name in "ab"]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert errors == []
    assert results == {name: [(name, n) for n in range(200)] for name in "ab"}


def test_a_kernel_in_the_thread(kernel):
    """Blocking code may run a kernel of its own."""

    async def inner():
        return await curio.run_in_thread(lambda: "innermost")

    async def main():
        return await curio.run_in_thread(curio.run, inner)

    assert kernel.run(main) == "innermost"


def test_fork(kernel):
    """The child has none of its parent's threads, and begins with an empty pool."""
    gate = Gate()

    async def main():
        task = await curio.spawn(curio.run_in_thread(gate))
        await gate.has_begun()
        assert await curio.run_in_thread(int) == 0
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads
            child = os.fork()
        if not child:
            status = 1
            try:
                signal.alarm(30)
                if threads() == [] and workers_pool._places == 0:

                    def in_child():
                        answers = curio.run(curio.run_in_thread, lambda: b"from the child")
                        os.write(write, answers)

                    # This thread is inside a kernel: another may not run in it.
                    thread = threading.Thread(target=in_child)
                    thread.start()
                    thread.join()
                    status = 0
            finally:
                os._exit(status)
        os.close(write)
        gate.open.set()
        await task.join()
        with open(read, "rb") as answer:
            assert await curio.run_in_thread(answer.read) == b"from the child"
        assert os.waitpid(child, 0)[1] == 0

    kernel.run(main)


ZOMBIE = """
import curio, threading, time

begun = threading.Event()

def work():
    begun.set()
    time.sleep({sleeps})

async def main():
    task = await curio.spawn(curio.run_in_thread(work{on_cancel}))
    while not begun.is_set():
        await curio.sleep(0.001)
    {then}

curio.run(main)
print("end")
"""


@pytest.mark.parametrize("then", ["await task.cancel()", "await curio.sleep(0)"])
@pytest.mark.parametrize("on_cancel", ["", ", call_on_cancel=print"])
def test_exit_does_not_wait_for_zombies(program, then, on_cancel):
    """1.7: the interpreter ends while a thread is at work, and says nothing about it."""
    process = program(ZOMBIE.format(sleeps=1000, then=then, on_cancel=on_cancel))
    process.succeed()
    assert process.lines == ["end"]


def test_exit_with_threads_that_end_just_then(program):
    """1.7: what comes back while the interpreter ends is no matter either."""
    texts = [
        ZOMBIE.format(sleeps=sleeps / 1000, then="await task.cancel()", on_cancel="")
        for sleeps in range(0, 40, 5)
    ]
    for process in [program(text) for text in texts]:
        process.succeed()
        assert process.lines == ["end"]


def test_ctrl_c_while_a_thread_works(program):
    """1.7: it is the kernel's to answer."""
    process = program("""
import curio, time

async def main():
    task = await curio.spawn(curio.run_in_thread(time.sleep, 1000))
    print("waiting", flush=True)
    await task.join()

curio.run(main)
""")
    process.wait_for("waiting")
    process.interrupt()
