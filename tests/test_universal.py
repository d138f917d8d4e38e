"""Universal primitives: every item comes exactly once, wherever it goes and whoever gives up.

Goal: the contract of UniversalQueue, UniversalEvent, UniversalResult, SignalQueue and
SignalEvent, for tasks, threads and asyncio. Method: who waits is brought to where he waits for
certain, as the figures of the primitive tell; then something comes, or he is cancelled, or both in
either order. Then many of all kinds at once, who give up at random: items are counted.
"""

import asyncio
import gc
import os
import random
import select
import signal
import threading
import time
import weakref
from collections import Counter

import curio
import pytest
from curio import _curio

HANG = 30


class Oops(Exception):
    pass


def waits(condition):
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        time.sleep(0.001)


async def until(condition):
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        await curio.sleep(0.001)


async def until_there(condition):
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, "this does not happen any more"
        await asyncio.sleep(0.001)


def waiting(primitive, count):
    return lambda: primitive.statistics().waiting == count


class InThread(threading.Thread):
    """A call in a thread; `result()` joins, and gives or raises what came out."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.call = function, args
        self.value = self.error = None
        self.start()

    def run(self):
        function, args = self.call
        try:
            self.value = function(*args)
        except BaseException as error:
            self.error = error

    def result(self):
        self.join(HANG)
        assert not self.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error
        return self.value


# How something is done, by each kind of caller: a function that runs `method(*args)` to its end.


def in_thread(method, *args):
    return method(*args)


def in_task(method, *args):
    async def main():
        return await method(*args)

    return curio.run(curio.timeout_after, HANG, main)


def in_asyncio(method, *args):
    async def main():
        return await asyncio.wait_for(method(*args), HANG)

    return asyncio.run(main())


WAYS = [in_thread, in_task, in_asyncio]


# Queues.


@pytest.mark.parametrize("put", WAYS)
@pytest.mark.parametrize("get", WAYS)
@pytest.mark.parametrize("first", ["getter", "putter"])
def test_an_item_goes_from_anywhere_to_anywhere(put, get, first):
    queue = curio.UniversalQueue()
    if first == "putter":
        InThread(put, queue.put, 42).result()
        assert queue.qsize() == 1
        assert InThread(get, queue.get).result() == 42
    else:
        getter = InThread(get, queue.get)
        waits(waiting(queue, 1))
        assert InThread(put, queue.put, 42).result() is None
        assert getter.result() == 42
    assert queue.empty() and not queue.full()
    assert queue.statistics()[1:4] == (0, 0, 1)


@pytest.mark.parametrize("put", WAYS)
@pytest.mark.parametrize("get", WAYS)
def test_a_full_queue_holds_the_putter_up(put, get):
    queue = curio.UniversalQueue(maxsize=1)
    queue.put(1)
    assert queue.full() and queue.maxsize == 1
    putter = InThread(put, queue.put, 2)
    waits(waiting(queue, 1))
    assert InThread(get, queue.get).result() == 1
    putter.result()
    assert InThread(get, queue.get).result() == 2


@pytest.mark.parametrize("join", WAYS)
@pytest.mark.parametrize("done", WAYS)
def test_join_waits_for_the_last_task_done(join, done):
    queue = curio.UniversalQueue()
    InThread(join, queue.join).result()
    queue.put(1)
    queue.put(2)
    joiner = InThread(join, queue.join)
    waits(waiting(queue, 1))
    assert InThread(done, queue.task_done).result() is None
    assert queue.statistics().waiting == 1
    InThread(done, queue.task_done).result()
    assert joiner.result() is None
    with pytest.raises(ValueError, match="more often"):
        InThread(done, queue.task_done).result()


def test_all_kinds_stand_in_one_line():
    queue = curio.UniversalQueue()
    getters = []
    for place in range(9):
        getters.append(InThread(WAYS[place % 3], queue.get))
        waits(waiting(queue, place + 1))
    for item, getter in enumerate(getters):
        queue.put(item)
        assert getter.result() == item


def test_bad_arguments():
    with pytest.raises(ValueError, match="-1"):
        curio.UniversalQueue(-1)
    with pytest.raises(ValueError, match="withfd"):
        curio.UniversalQueue().fileno()
    with pytest.raises(TypeError, match="item"):
        curio.UniversalQueue().put()


def test_a_forgotten_await_warns():
    queue = curio.UniversalQueue()

    async def main():
        queue.get()

    with pytest.warns(RuntimeWarning, match=r"UniversalQueue\.get' was never awaited"):
        curio.run(main)
    with pytest.warns(RuntimeWarning, match="was never awaited"):
        asyncio.run(main())
    assert queue.statistics().waiting == 0


def test_repr_and_statistics():
    queue = curio.UniversalQueue(3)
    queue.put("x")
    assert repr(queue) == f"<curio.UniversalQueue {queue._id} [1 of 3 items]>"
    event = curio.UniversalEvent()
    assert "unset" in repr(event)
    result = curio.UniversalResult()
    assert repr(result) == "<curio.UniversalResult [unset]>"
    result.set_value(1)
    assert repr(result) == "<curio.UniversalResult [value: 1]>"


# Giving up.


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("when", ["before", "while", "after"])
@pytest.mark.parametrize("what", ["get", "put", "join", "wait"])
def test_a_task_gives_up(what, when, how):
    queue, event = curio.UniversalQueue(1), curio.UniversalEvent()
    if what in ("put", "join"):
        queue.put("first")
    primitive = event if what == "wait" else queue
    method = getattr(primitive, what)
    outcome = []

    def arrive():
        """What the task waits for, from another thread."""
        if what == "get":
            queue.put("item")
        elif what == "put":
            assert queue.get() == "first"
        elif what == "join":
            queue.task_done()
        else:
            event.set()

    async def waiter():
        try:
            outcome.append(await (method("second") if what == "put" else method()))
            await curio.sleep(HANG)
        except curio.CancelledError:
            outcome.append("given up")
            raise

    async def main():
        if when == "before":
            arrive_thread = InThread(arrive)
            arrive_thread.result()
        limit = 0.02 if how == "timeout" else HANG

        async def limited():
            await curio.ignore_after(limit, waiter)

        task = await curio.spawn(limited)
        if when == "before":
            await until(lambda: outcome)
        else:
            await until(lambda: primitive.statistics().waiting == 1 or outcome)
        if when == "while":
            # It comes while the task gives up: either may be first.
            thread = InThread(arrive)
            if how == "cancel":
                await task.cancel()
            else:
                await task.join()
            thread.result()
        elif how == "cancel":
            await task.cancel()
        else:
            await task.join()
        await task.wait()
        if when == "after":
            InThread(arrive).result()
        assert outcome[-1] == "given up"
        got = len(outcome) == 2
        if when == "before":
            assert got
        if when == "after":
            assert not got
        assert primitive.statistics().waiting == 0
        # Nothing is lost, and nothing comes twice.
        if what == "get":
            assert queue.qsize() == (not got)
            if not got:
                assert await queue.get() == "item"
        elif what == "put":
            assert queue.qsize() == got
            if got:
                assert await queue.get() == "second"
        elif what == "join":
            await queue.join()
        else:
            await event.wait()

    curio.run(curio.timeout_after, HANG, main)


def test_what_was_promised_to_a_cancelled_task_goes_to_the_next():
    queue = curio.UniversalQueue()

    async def main():
        tasks = [await curio.spawn(queue.get()) for _ in range(3)]
        await until(waiting(queue, 3))
        # The kernel does not run meanwhile: the promise is not seen before the cancellation.
        InThread(queue.put, "item").result()
        await tasks[0].cancel()
        assert await tasks[1].join() == "item"
        await tasks[2].cancel()
        assert queue.statistics().waiting == 0

    curio.run(curio.timeout_after, HANG, main)


@pytest.mark.parametrize("when", ["before", "while", "after"])
def test_a_task_of_asyncio_gives_up(when):
    queue = curio.UniversalQueue()

    async def main():
        task = asyncio.ensure_future(queue.get())
        await until_there(waiting(queue, 1))
        other = asyncio.ensure_future(queue.get())
        await until_there(waiting(queue, 2))
        if when == "before":
            task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if when == "after":
            queue._put_now("first")
            assert await task == "first"
        queue._put_now("item")
        task.cancel()
        if when != "after":
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await asyncio.wait_for(other, HANG) == "item"
        assert queue.statistics().waiting == 0

    asyncio.run(main())


def test_a_loop_that_is_closed_keeps_no_item():
    queue = curio.UniversalQueue()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(None)

    async def main():
        return await queue.get()

    task = loop.create_task(main())
    loop.run_until_complete(asyncio.sleep(0))
    assert queue.statistics().waiting == 1
    loop.close()
    other = InThread(queue.get)
    waits(waiting(queue, 2))
    queue.put("item")
    assert other.result() == "item"
    task.get_coro().close()
    task._log_destroy_pending = False
    del task


def test_a_kernel_that_ends_keeps_no_item():
    for way in ("shutdown", "drop"):
        queue = curio.UniversalQueue()
        kernel = curio.Kernel()

        async def main(queue=queue):
            await curio.spawn(queue.get(), daemon=True)
            await until(waiting(queue, 1))

        kernel.run(main)
        thread = InThread(queue.get)
        waits(waiting(queue, 2))
        InThread(queue.put, "item").result()  # promised to a task that does not run
        if way == "shutdown":
            kernel.shutdown()
        del kernel
        gc.collect()
        assert thread.result() == "item"


def test_the_threads_of_a_queue_outlive_its_kernels():
    there, back = curio.UniversalQueue(), curio.UniversalQueue()

    def echo():
        while (item := there.get()) is not None:
            back.put(item)

    thread = InThread(echo)

    async def main():
        for n in range(50):
            await there.put(n)
            assert await back.get() == n

    for _ in range(3):
        curio.run(main)
        asyncio.run(main())
    there.put(None)
    thread.result()


SIGINT_PROGRAM = """
import os, signal, threading, time
import curio

primitive = {primitive}

def interrupt():
    while not primitive.statistics().waiting:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    {call}
except KeyboardInterrupt:
    print('interrupted', primitive.statistics().waiting)
"""


@pytest.mark.parametrize(
    "primitive, call",
    [
        ("curio.UniversalQueue()", "primitive.get()"),
        ("curio.UniversalQueue(1)", "primitive.put(1), primitive.put(2)"),
        ("curio.UniversalQueue()", "primitive.put(1), primitive.join()"),
        ("curio.UniversalEvent()", "primitive.wait()"),
    ],
)
def test_ctrl_c_ends_the_main_threads_wait(primitive, call, program):
    running = program(SIGINT_PROGRAM.format(primitive=primitive, call=call))
    running.succeed()
    assert running.output == "interrupted 0\n"


def test_handlers_run_while_the_main_thread_waits():
    """A handler that raises nothing, and puts the item that is waited for."""
    queue = curio.UniversalQueue()
    read, write = os.pipe()
    os.set_blocking(write, False)
    former_fd = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    former = signal.signal(signal.SIGUSR1, lambda *_: queue.put("from the handler"))

    def kill():
        waits(waiting(queue, 1))
        os.kill(os.getpid(), signal.SIGUSR1)

    try:
        thread = InThread(kill)
        assert queue.get() == "from the handler"
        thread.result()
        # Who has set a wake-up descriptor before hears of it as well, and has it still.
        assert select.select([read], [], [], HANG)[0] == [read]
        assert os.read(read, 10) == bytes([signal.SIGUSR1])
        assert signal.set_wakeup_fd(write, warn_on_full_buffer=False) == write
    finally:
        signal.signal(signal.SIGUSR1, former)
        signal.set_wakeup_fd(former_fd)
        os.close(read)
        os.close(write)


def test_a_blocked_daemon_thread_does_not_hold_up_the_end(program):
    running = program("""
import atexit, threading, time
import curio

queues = [curio.UniversalQueue() for _ in range(4)]
event = curio.UniversalEvent()
threads = [threading.Thread(target=queue.get, daemon=True) for queue in queues]
threads.append(threading.Thread(target=event.wait, daemon=True))
for thread in threads:
    thread.start()
while sum(p.statistics().waiting for p in [*queues, event]) < 5:
    time.sleep(0.001)
atexit.register(queues[0].put, 'late')

class Late:
    def __del__(self):
        queues[1].put('later')
        event.set()

late = Late()
print('end')
""")
    running.succeed()
    assert running.output == "end\n"


def test_descriptors_stay_where_they_are():
    def count():
        return len(os.listdir("/proc/self/fd"))

    queue = curio.UniversalQueue()
    thread = InThread(lambda: [queue.get() for _ in range(20)])
    for _ in range(20):
        queue.put(1)
    thread.result()
    InThread(lambda: (time.sleep(0.01), queue.put(1)))
    assert queue.get() == 1  # what the main thread waits with is made once
    before = count()
    for _ in range(50):
        with_descriptor = curio.UniversalQueue(withfd=True)
        with_descriptor.put(1)
        assert with_descriptor.get() == 1
        thread = InThread(lambda: (time.sleep(0), queue.put(1)))
        queue.get()
        thread.result()
    del with_descriptor
    gc.collect()
    assert count() == before


def test_withfd_says_when_items_are_there():
    queue = curio.UniversalQueue(withfd=True)

    def readable():
        return bool(select.select([queue], [], [], 0)[0])

    assert not readable()
    queue.put(1)
    queue.put(2)
    assert readable()
    queue.get()
    assert readable()
    queue.get()
    assert not readable()

    async def main():
        await queue.put(3)
        assert readable()
        assert await queue.get() == 3
        assert not readable()

    curio.run(main)
    asyncio.run(main())
    # A loop of one's own, fed by a task.

    async def feed():
        for n in range(100):
            await queue.put(n)
            if n % 10 == 0:
                await curio.sleep(0.001)

    thread = InThread(curio.run, feed)
    got = []
    while len(got) < 100:
        assert select.select([queue], [], [], HANG)[0]
        got.append(queue.get())
    thread.result()
    assert got == list(range(100))


def test_items_are_seen_by_the_collector():
    class Holder:
        pass

    holder = Holder()
    holder.queue = curio.UniversalQueue()
    holder.queue.put(holder)
    seen = weakref.ref(holder)
    del holder
    gc.collect()
    assert seen() is None


def test_a_forgotten_put_is_collected():
    class Holder:
        pass

    async def main():
        holder = Holder()
        holder.op = curio.UniversalQueue().put(holder)
        return weakref.ref(holder)

    with pytest.warns(RuntimeWarning, match="never awaited"):
        seen = curio.run(main)
        gc.collect()
    assert seen() is None


@pytest.mark.parametrize("maxsize", [0, 1, 10])
def test_each_item_comes_exactly_once(maxsize):
    """Threads, tasks of kernels and tasks of asyncio put and get; many of them give up."""
    each, putters = 1000, 3
    queue = curio.UniversalQueue(maxsize)
    got = Counter()  # its updates are one at a time, by the interpreter's lock
    lock = threading.Lock()
    total = each * putters
    given_up = [0]

    def note(item):
        with lock:
            got[item] += 1

    def done():
        return len(got) >= total

    def put_in_thread():
        for n in range(each):
            queue.put(("thread", n))

    def get_in_thread():
        while (item := queue.get()) is not None:
            note(item)

    async def put_in_task(chance):
        n = 0
        while n < each:
            try:
                await curio.timeout_after(chance.random() / 1000, queue.put, ("task", n))
            except curio.TaskTimeout:
                given_up[0] += 1
                continue
            n += 1

    async def get_in_task():
        while True:
            note(await queue.get())

    def kernel(seed, putting):
        chance = random.Random(seed)

        async def main():
            putter = await curio.spawn(put_in_task, chance) if putting else None
            while not done():
                tasks = [await curio.spawn(get_in_task) for _ in range(5)]
                await curio.sleep(chance.random() / 1000)
                for task in tasks:
                    await task.cancel()
                    given_up[0] += 1
            if putter:
                await putter.join()

        curio.run(curio.timeout_after, HANG, main)

    async def put_there(chance):
        for n in range(each):
            await queue.put(("asyncio", n))

    async def get_there():
        while True:
            note(await queue.get())

    def loop(seed):
        chance = random.Random(seed)

        async def main():
            putter = asyncio.ensure_future(put_there(chance))
            while not done():
                tasks = [asyncio.ensure_future(get_there()) for _ in range(5)]
                await asyncio.sleep(chance.random() / 1000)
                for task in tasks:
                    task.cancel()
                    given_up[0] += 1
                await asyncio.gather(*tasks, return_exceptions=True)
            await putter

        asyncio.run(asyncio.wait_for(main(), HANG))

    getter = InThread(get_in_thread)
    workers = [
        InThread(put_in_thread),
        InThread(kernel, 1, True),
        InThread(kernel, 2, False),
        InThread(loop, 3),
    ]
    for worker in workers:
        worker.result()
    queue.put(None)
    getter.result()
    assert sorted(got) == sorted((w, n) for w in ("thread", "task", "asyncio") for n in range(each))
    assert set(got.values()) == {1}
    assert given_up[0] > 10
    assert queue.statistics().waiting == 0 and queue.empty()


# Events and results.


@pytest.mark.parametrize("wait", WAYS)
@pytest.mark.parametrize("set", WAYS)
def test_an_event_is_set_from_anywhere(wait, set):
    event = curio.UniversalEvent()
    waiters = [InThread(wait, event.wait) for _ in range(3)]
    waits(waiting(event, 3))
    assert InThread(set, event.set).result() is None
    assert [waiter.result() for waiter in waiters] == [True] * 3
    assert event.is_set()
    InThread(set, event.set).result()
    assert InThread(wait, event.wait).result() is True
    event.clear()
    assert not event.is_set()


@pytest.mark.parametrize("unwrap", WAYS)
@pytest.mark.parametrize("set", WAYS)
def test_a_result_is_set_from_anywhere(unwrap, set):
    for way in ("value", "exception"):
        result = curio.UniversalResult()
        waiter = InThread(unwrap, result.unwrap)
        waits(waiting(result._event, 1))
        if way == "value":
            InThread(set, result.set_value, 42).result()
            assert result.is_set()
            assert waiter.result() == InThread(unwrap, result.unwrap).result() == 42
        else:
            InThread(set, result.set_exception, Oops("!")).result()
            for outcome in (waiter.result, InThread(unwrap, result.unwrap).result):
                with pytest.raises(Oops):
                    outcome()
    with pytest.raises(TypeError, match="42"):
        result.set_exception(42)


def test_the_kind_of_caller():
    async def main():
        return _curio.caller()

    assert _curio.caller() == "thread"
    assert curio.run(main) == "task"
    assert asyncio.run(main()) == "asyncio"


def test_asyncio_is_not_imported_for_threads(program):
    running = program("""
import sys
import curio
queue = curio.UniversalQueue()
queue.put(1)
print(queue.get(), 'asyncio' in sys.modules)
""")
    running.succeed()
    assert running.output == "1 False\n"


def test_the_monitor_says_what_is_waited_for():
    queue, event, result = curio.UniversalQueue(5), curio.UniversalEvent(), curio.UniversalResult()

    async def main():
        kernel_says = kernel._ask_monitor
        tasks = [await curio.spawn(what) for what in (queue.get(), event.wait(), result.unwrap())]
        await until(lambda: all(p.statistics().waiting for p in (queue, event, result._event)))
        texts = [kernel_says(f"why {task.id}") for task in tasks]
        states = [task.state for task in tasks]
        for task in tasks:
            await task.cancel()
        return texts, states

    with curio.Kernel() as kernel:
        texts, states = kernel.run(main)
    assert states == ["QUEUE_GET", "EVENT_WAIT", "EVENT_WAIT"]
    assert f"an item of UniversalQueue {queue._id} (0 of 5 items)" in texts[0]
    assert f"UniversalEvent {event._id} to be set" in texts[1]
    assert f"UniversalResult {result._event._id} to be set" in texts[2]


# Signals.


def test_a_signal_queue_has_the_signals_of_its_block():
    before = signal.getsignal(signal.SIGUSR1)
    signals = curio.SignalQueue(signal.SIGUSR1, signal.SIGUSR2)

    async def main():
        async with signals:
            getter = await curio.spawn(signals.get())
            await until(waiting(signals, 1))
            os.kill(os.getpid(), signal.SIGUSR1)
            assert await getter.join() == signal.SIGUSR1
            os.kill(os.getpid(), signal.SIGUSR2)
            assert isinstance(await signals.get(), signal.Signals)
            with pytest.raises(RuntimeError, match="in use"):
                signals.__enter__()

    curio.run(curio.timeout_after, HANG, main)
    assert signal.getsignal(signal.SIGUSR1) == before
    with signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.get() == signal.SIGUSR1
        getter = InThread(in_asyncio, signals.get)
        waits(waiting(signals, 1))
        os.kill(os.getpid(), signal.SIGUSR2)
        waits(lambda: not signals.statistics().waiting)
        assert getter.result() == signal.SIGUSR2
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_signal_queue_is_the_main_threads():
    with pytest.raises(ValueError, match="main thread"):
        InThread(curio.SignalQueue(signal.SIGUSR1).__enter__).result()
    with pytest.raises((ValueError, OSError)), curio.SignalQueue(signal.SIGUSR1, signal.SIGKILL):
        pass
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_signal_event_is_set_by_a_signal():
    former = signal.getsignal(signal.SIGUSR1)
    try:
        event = curio.SignalEvent(signal.SIGUSR1)

        async def main():
            task = await curio.spawn(event.wait())
            await until(waiting(event, 1))
            os.kill(os.getpid(), signal.SIGUSR1)
            return await task.join()

        assert curio.run(curio.timeout_after, HANG, main) is True
        assert event.is_set()
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_async_threads_wait_as_tasks():
    thread = pytest.importorskip("curio.thread")
    queue = curio.UniversalQueue()

    def work():
        return queue.get()

    async def main():
        worker = await thread.spawn_thread(work)
        await until(waiting(queue, 1))
        await queue.put(5)
        assert await worker.join() == 5
        worker = await thread.spawn_thread(work)
        await until(waiting(queue, 1))
        await worker.cancel()
        assert queue.statistics().waiting == 0

    curio.run(curio.timeout_after, HANG, main)


def test_a_forked_child_has_a_queue_of_its_own(program):
    running = program("""
import os, threading, time
import curio

mine = curio.UniversalQueue()
other = threading.Thread(target=lambda: (time.sleep(0.01), mine.put(1)))
other.start()
print(mine.get())  # the main thread's own things exist now
other.join()
if not (child := os.fork()):
    queue = curio.UniversalQueue()
    threading.Thread(target=lambda: (time.sleep(0.01), queue.put(2))).start()
    os._exit(queue.get())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    running.succeed()
    assert running.output == "1\n2\n"
