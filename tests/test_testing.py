"""`curio.testing`: virtual time, drawn orders, interruptions everywhere."""

import time

import curio
import pytest
from curio import testing

DAY = 86_400


# Virtual time.


def test_a_day_is_over_at_once():
    async def main():
        before = await curio.clock()
        return await curio.sleep(DAY) - before

    start = time.monotonic()
    assert testing.run(main) == DAY
    with testing.VirtualKernel() as kernel:
        assert kernel.run(main) == DAY
    assert time.monotonic() - start < DAY


def test_arguments_and_exceptions_pass():
    async def add(one, other):
        return one + other

    assert testing.run(add, 1, 2) == 3
    with pytest.raises(TypeError, match="unsupported operand"):
        testing.run(add, 1, "2")


def test_waiting_for_nothing_is_said():
    with pytest.raises(OSError, match="deadlock: every task waits"):
        testing.run(curio.Event().wait)


def test_threads_are_waited_for_really():
    """It took this for a deadlock: nothing in the kernel could wake the task."""

    def work():
        time.sleep(0.01)
        curio.AWAIT(curio.sleep, DAY)
        return 8

    async def main():
        called = await curio.run_in_thread(lambda: time.sleep(0.01) or 7)
        thread = await curio.spawn_thread(work)
        return called, await thread.join()

    assert testing.run(main) == (7, 8)


def test_a_seed_draws_the_order():
    def order(seed):
        names = []

        async def note(name):
            for _ in range(3):
                names.append(name)
                await curio.sleep(0)

        async def main():
            tasks = [await curio.spawn(note, name) for name in "abcd"]
            for task in tasks:
                await task.join()

        testing.run(main, seed=seed)
        return "".join(names)

    assert order(None) == "abcdabcdabcd"
    assert order(1) == order(1)
    assert len({order(seed) for seed in range(20)}) > 10


@pytest.mark.parametrize("seed", ["1", 1.5, -1])
def test_a_seed_is_a_number(seed):
    with pytest.raises((TypeError, OverflowError)):
        testing.VirtualKernel(seed)


def test_sockets_on_virtual_time():
    async def main():
        listener = curio.tcp_server_socket("127.0.0.1", 0)

        async def serve():
            async with listener:
                client, _ = await listener.accept()
                async with client:
                    word = await client.recv(100)
                    await curio.sleep(DAY)
                    await client.sendall(word.upper())

        server = await curio.spawn(serve)
        client = await curio.open_connection(*listener.getsockname())
        async with client:
            await client.sendall(b"hello")
            assert await curio.ignore_after(DAY / 2, client.recv, 100) is None
            assert await client.recv(100) == b"HELLO"
        await server.join()

    testing.run(main)


def test_options_and_subclasses():
    class Note(curio.kernel.Activation):
        created_tasks = 0

        def created(self, task):
            Note.created_tasks += 1

    class MyTask(curio.Task):
        pass

    async def main():
        return type(await curio.current_task())

    with testing.VirtualKernel(activations=[Note], taskcls=MyTask) as kernel:
        assert kernel.run(main) is MyTask
    assert Note.created_tasks == 1


# Interruptions.


def failure(program, *args, **options):
    with pytest.raises(AssertionError) as caught:
        testing.interrupt_everywhere(program, *args, **options)
    return str(caught.value)


def test_each_moment_has_its_turn():
    runs = []

    async def program(seconds):
        await curio.sleep(seconds)
        await curio.timeout_after(seconds * 9, curio.sleep, seconds)
        return "done"

    report = testing.interrupt_everywhere(program, 1, check=runs.append)
    assert report == (5, 1 + 1 + 2 * 2 + 2 * 3)
    assert len(runs) == report.runs
    assert runs[0] == (None, "done", None)
    assert runs[1].where.startswith("cancelled at point 1 of 5, when task ")
    assert runs[1].where.endswith("was to start")
    assert "program' was blocked in TIME_SLEEP at " in runs[2].where and __file__ in runs[2].where
    assert [type(run.exception).__name__ for run in runs[1:4]] == [
        "TaskCancelled",
        "TaskCancelled",
        "TaskTimeout",
    ]
    assert "went on after TIME_SLEEP" in runs[4].where
    # Nothing was left to be interrupted.
    assert runs[-1].result == "done"


def test_a_shield_is_left_alone():
    async def program():
        async with curio.disable_cancellation():
            for _ in range(10):
                await curio.sleep(1)

    assert testing.interrupt_everywhere(program) == (1, 2)


def test_clean_up_counts():
    cleaned = []

    async def program():
        try:
            await curio.sleep(1)
        finally:
            await curio.sleep(1)
            cleaned.append(True)

    # In the clean-up it is interrupted as well, and that is no failure by itself.
    report = testing.interrupt_everywhere(program)
    assert 0 < len(cleaned) < report.runs


def test_the_first_run_must_succeed():
    async def program():
        raise ValueError("no luck")

    assert failure(program) == "without any interruption: ValueError: no luck"


def test_an_item_that_is_lost_is_found():
    async def program():
        source, target = curio.Queue(), curio.Queue(1)
        await source.put("gold")
        try:
            item = await source.get()
            await curio.sleep(1)
            await target.put(item)
        finally:
            assert source.qsize() + target.qsize() == 1, "the gold is lost"

    text = failure(program)
    assert text.startswith("cancelled at point 1 of 3") and "the gold is lost" in text


def test_a_lock_that_stays_locked_is_found():
    async def program():
        lock = curio.Lock()
        await lock.acquire()
        await curio.sleep(1)
        await lock.release()

    assert "Lock" in failure(program) and "is left locked by task" in failure(program)


def test_a_task_that_waits_for_ever_is_found():
    async def program():
        event = curio.Event()
        waiter = await curio.spawn(event.wait)
        await curio.sleep(1)
        await event.set()
        await waiter.join()

    text = failure(program)
    assert "the program does not end: deadlock" in text and "(Event.wait): EVENT_WAIT" in text


def test_a_program_that_will_not_be_cancelled_is_found():
    async def program():
        async def work():
            await curio.sleep(1)
            done.append(True)

        done = []
        await curio.spawn(work)
        while not done:
            try:
                await curio.sleep(1)
            except curio.CancelledError:
                pass

    assert "it has been resumed a hundred times as often" in failure(program)


def test_a_socket_that_stays_open_is_found():
    kept = []

    async def program():
        ours, theirs = curio.socket.socketpair()
        kept.append((ours, theirs))
        await curio.ignore_after(1, ours.recv, 10)
        await ours.close()
        await theirs.close()

    assert "1 descriptors are left in the kernel" in failure(program)
    for ours, theirs in kept:
        ours._socket.close()
        theirs._socket.close()


def test_other_errors():
    async def program():
        try:
            await curio.sleep(1)
        except curio.CancelledError:
            raise ValueError("my own word for it") from None

    assert failure(program).endswith("ValueError: my own word for it")
    testing.interrupt_everywhere(program, any_error=True)


def test_a_check_that_fails_is_a_failure_with_its_place():
    def check(run):
        assert run.where is None or "start" in run.where, "not there"

    text = failure(curio.sleep, 1, check=check)
    assert text.startswith("cancelled at point 2 of 3") and ": not there" in text
    with pytest.raises(TypeError, match="check is a function or None, not 1"):
        testing.interrupt_everywhere(curio.sleep, 1, check=1)


def test_a_program_that_is_another_each_time_is_found():
    naps = [5, 2]

    async def program():
        for _ in range(naps.pop(0) if naps else 2):
            await curio.sleep(1)

    assert "does not run in the same way each time" in failure(program)


def test_a_joined_task_that_was_interrupted_is_no_failure():
    async def program():
        task = await curio.spawn(curio.sleep, 1)
        await task.join()

    testing.interrupt_everywhere(program)


# Curio's own operations, in programs that must hold whatever comes.


async def end_all(tasks):
    async with curio.disable_cancellation():
        for task in tasks:
            await task.cancel()


async def locks():
    lock, count = curio.Lock(), []

    async def work():
        for _ in range(2):
            async with lock:
                before = len(count)
                await curio.sleep(1)
                count.append(True)
                assert len(count) == before + 1

    tasks = [await curio.spawn(work) for _ in range(3)]
    try:
        for task in tasks:
            await task.join()
    finally:
        await end_all(tasks)
        assert not lock.locked()


async def rlocks():
    lock = curio.RLock()

    async def work():
        async with lock:
            await curio.sleep(1)
            async with lock:
                await curio.sleep(1)

    tasks = [await curio.spawn(work) for _ in range(2)]
    try:
        for task in tasks:
            await task.join()
    finally:
        await end_all(tasks)
        assert not lock.locked()


async def semaphores():
    places = curio.Semaphore(2)

    async def work(seconds):
        async with curio.ignore_after(2):
            async with places:
                await curio.sleep(seconds)

    tasks = [await curio.spawn(work, seconds) for seconds in range(1, 4)]
    try:
        for task in tasks:
            await task.join()
    finally:
        await end_all(tasks)
        assert places.value == 2


async def conditions():
    items, more = [], curio.Condition()

    async def consume():
        for _ in range(3):
            async with more:
                await more.wait_for(lambda: items)
                items.pop()

    task = await curio.spawn(consume)
    try:
        for item in range(3):
            await curio.sleep(1)
            async with more:
                items.append(item)
                await more.notify()
        await task.join()
    finally:
        await end_all([task])
        assert not more.locked()


async def events():
    event = curio.Event()
    tasks = [await curio.spawn(event.wait) for _ in range(2)]
    try:
        await curio.sleep(1)
        await event.set()
        for task in tasks:
            await task.join()
    finally:
        await end_all(tasks)


async def queues(kind=curio.Queue):
    queue, put, got = kind(1), [], []

    async def produce():
        for item in range(3):
            await queue.put(item)
            put.append(item)

    async def consume():
        for _ in range(3):
            got.append(await queue.get())
            await queue.task_done()

    tasks = [await curio.spawn(produce), await curio.spawn(consume)]
    try:
        async with curio.ignore_after(10):
            for task in tasks:
                await task.join()
            await queue.join()
    finally:
        await end_all(tasks)
        assert len(put) == len(got) + queue.qsize()


async def priority_queues():
    await queues(curio.PriorityQueue)


async def lifo_queues():
    await queues(curio.LifoQueue)


async def tasks_of_tasks():
    async def child(depth):
        if depth:
            task = await curio.spawn(child, depth - 1)
            try:
                await task.join()
            finally:
                await end_all([task])
        else:
            await curio.sleep(1)

    await child(3)


async def limits():
    async with curio.ignore_after(5):
        async with curio.ignore_after(3) as inner:
            await curio.sleep(4)
        assert inner.expired
        async with curio.disable_cancellation():
            await curio.sleep(1)
    try:
        await curio.timeout_after(1, curio.sleep, 2)
    except curio.TaskTimeout:
        await curio.sleep(1)


async def sockets():
    ours, theirs = curio.socket.socketpair()

    async def echo():
        async with theirs:
            while data := await theirs.recv(1000):
                await theirs.sendall(data)

    task = await curio.spawn(echo)
    try:
        async with ours:
            sent = b"x" * 300_000

            async def send():
                await ours.sendall(sent)
                await ours.shutdown(curio.socket.SHUT_WR)

            sender = await curio.spawn(send)
            got = bytearray()
            try:
                async with curio.ignore_after(10):
                    while data := await ours.recv(100_000):
                        got += data
            finally:
                await end_all([sender])
            assert sent.startswith(got)
    except ConnectionResetError:
        pass  # the echo was interrupted, and hung up
    finally:
        await end_all([task])


async def streams():
    ours, theirs = curio.socket.socketpair()

    async def echo():
        async with theirs.as_stream() as stream:
            async for line in stream:
                await stream.write(line.upper())

    task = await curio.spawn(echo)
    try:
        async with ours.as_stream() as stream:
            async with curio.ignore_after(10):
                for _ in range(3):
                    await stream.write(b"hello\n")
                    assert await stream.readline() in (b"HELLO\n", b"")
    except OSError:
        pass  # the echo was interrupted, and hung up
    finally:
        await end_all([task])


async def servers():
    async def echo(client, address):
        while data := await client.recv(1000):
            await client.sendall(data)

    server = curio.create_server("127.0.0.1", 0, echo)
    task = await curio.spawn(server.serve_forever)
    try:
        client = await curio.open_connection(*server.address)
        async with client, curio.ignore_after(10):
            await client.sendall(b"hello")
            assert await client.recv(1000) in (b"hello", b"")
    except OSError:
        pass  # the server was interrupted
    finally:
        await end_all([task])
        async with curio.disable_cancellation():
            await server.cancel()


PROGRAMS = [
    locks,
    rlocks,
    semaphores,
    conditions,
    events,
    queues,
    priority_queues,
    lifo_queues,
    tasks_of_tasks,
    limits,
    sockets,
    streams,
    servers,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_interrupted_everywhere(program):
    for seed in [None, *range(5)]:
        report = testing.interrupt_everywhere(program, seed=seed)
        assert report.runs > report.points > 1
