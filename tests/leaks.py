"""Loops over every operation and watches memory and descriptors. Not a test of pytest's.

    python tests/leaks.py [COUNT]       COUNT: how many operations for each loop (1000000)

Each loop is run to warm up, then in rounds; after each round the memory that the process
holds is read. What a round needs, it gives back, so memory stays where it is. Memory that
grows from round to round is a leak; a step that happens once (an arena, a table) is not.
So a loop has leaked if each of its last rounds has added to what the one before had, and
all together more than a few bytes an operation. Ends with status 1 if one has.
"""

import ctypes
import gc
import os
import signal
import socket
import sys
import time
import warnings
import weakref

import curio
from curio.io import Socket

ROUNDS = 6
# What an honest loop may add in all its rounds, by the noise of allocators.
SLACK = 512 * 1024
# And what of each operation may stay, in bytes. The smallest object has 16.
EACH = 2.0

try:
    _trim = ctypes.CDLL(None).malloc_trim
except AttributeError:  # another C library

    def _trim(_):
        pass


class Oops(Exception):
    pass


def memory():
    """Bytes that the process holds, its unused memory given back."""
    gc.collect()
    _trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def nothing():
    pass


async def forever():
    await curio.sleep(1000)


# --- loops ------------------------------------------------------------------------------
#
# Each is a coroutine function, or a function, that does `count` times what its name says.
# `weight`: how many of the usual operations one of its own costs.


async def switches(count):
    for _ in range(count):
        await curio.sleep(0)


async def tasks_of_functions(count):
    for _ in range(count):
        task = await curio.spawn(nothing)
        await task.join()


async def tasks_of_coroutines(count):
    for _ in range(count):
        task = await curio.spawn(nothing())
        await task.join()


async def tasks_at_once(count):
    for _ in range(max(count // 1000, 1)):
        tasks = [await curio.spawn(nothing) for _ in range(1000)]
        for task in tasks:
            await task.wait()


async def tasks_that_fail(count):
    async def fails():
        raise Oops

    for _ in range(count):
        task = await curio.spawn(fails())
        try:
            await task.join()
        except curio.TaskError:
            pass


async def tasks_cancelled(count):
    for _ in range(count):
        task = await curio.spawn(forever())
        await task.cancel()


async def tasks_cancelled_with_an_exception(count):
    for _ in range(count):
        task = await curio.spawn(forever())
        await task.cancel(exc=Oops("asked"), blocking=False)
        await task.wait()


async def children_cancelled(count):
    me = await curio.current_task()
    for _ in range(max(count // 100, 1)):
        for _ in range(100):
            await curio.spawn(forever())
        await me.cancel_children()


async def timeouts_in_time(count):
    for _ in range(count):
        await curio.timeout_after(1000, curio.sleep(0))
        async with curio.ignore_after(1000):
            pass


async def timeouts_expired(count):
    for _ in range(count):
        try:
            await curio.timeout_after(0, curio.sleep(1000))
        except curio.TaskTimeout:
            pass
        async with curio.ignore_after(0), curio.timeout_after(1000):
            await curio.sleep(1000)


async def timeouts_uncaught(count):
    for _ in range(count):
        try:
            async with curio.timeout_after(1000):
                await curio.timeout_after(0, curio.sleep, 1000)
        except curio.UncaughtTimeoutError:
            pass


async def shields(count):
    for _ in range(count):
        async with curio.disable_cancellation():
            await curio.disable_cancellation(curio.sleep(0))


async def cancellations_set(count):
    for _ in range(count):
        await curio.set_cancellation(curio.CancelledError("first"))
        await curio.set_cancellation(None)
        async with curio.disable_cancellation():
            await curio.set_cancellation(curio.CancelledError("second"))
            await curio.check_cancellation()
            await curio.check_cancellation(curio.CancelledError)


async def ops_dropped(count):
    task = await curio.current_task()
    for _ in range(count):
        curio.sleep(0)
        curio.spawn(nothing)
        task.join()
        curio.timeout_after(1, curio.sleep, 1).close()


async def ops_dropped_in_the_middle(count):
    other = await curio.spawn(forever())
    for _ in range(count):
        curio.sleep(1000).send(None)
        other.join().send(None)
        curio.timeout_after(1000, forever()).send(None)
    await curio.sleep(0)
    await other.cancel()


async def ops_thrown_into(count):
    for _ in range(count):
        for op in (curio.sleep(1000), curio.timeout_after(1000, forever())):
            op.send(None)
            try:
                op.throw(Oops())
            except Oops:
                pass


async def ops_that_fail(count):
    for _ in range(count):
        for wrong in (lambda: curio.sleep("x"), lambda: curio.spawn(5)):
            try:
                await wrong()
            except TypeError:
                pass


async def foreign_awaitables(count):
    class Yields:
        def __await__(self):
            yield "garbage"

    for _ in range(count):
        try:
            await Yields()
        except RuntimeError:
            pass


async def cycles_through_ops(count):
    """op → task → coroutine → op, and op → coroutine → frame → op: for the collector."""

    async def holds(box):
        box.append(await curio.current_task())

    async def frame(box):
        await curio.sleep(0)
        return box

    for n in range(count):
        box = []
        task = await curio.spawn(holds(box))
        box.append(task.join())
        box.append(box)
        await box[-2]
        box = []
        limited = curio.timeout_after(1000, frame(box))
        box.append(limited)
        limited.send(None)
        box = []
        box.append(curio.spawn(frame, box))
        box[0].close()
        del box, limited, task
        if n % 1000 == 0:
            gc.collect()
            await curio.sleep(0)


async def socket_pairs(count):
    for _ in range(count):
        left, right = map(Socket, socket.socketpair())
        reader = await curio.spawn(left.recv(10))
        await right.send(b"data")
        await reader.join()
        await left.close()
        await right.close()


async def socket_data(count):
    left, right = map(Socket, socket.socketpair())
    data = b"x" * 100_000
    for n in range(count):
        await left.sendall(data[: 100 + n % 10])
        await right.recv(200)
        if n % 100 == 0:
            sender = await curio.spawn(left.sendall(data))
            received = 0
            while received < len(data):
                received += len(await right.recv(70_000))
            await sender.join()
    await left.close()
    await right.close()


async def socket_waits_given_up(count):
    left, right = map(Socket, socket.socketpair())
    for _ in range(count):
        async with curio.ignore_after(0):
            await left.recv(1)
        reader = await curio.spawn(left.recv(1))
        await reader.cancel()
    await left.close()
    await right.close()


async def sockets_closed_under_a_reader(count):
    for _ in range(count):
        left, right = map(Socket, socket.socketpair())
        reader = await curio.spawn(left.recv(1))
        await left.close()
        await reader.wait()
        await right.close()


async def events_set(count):
    event, answer = curio.Event(), curio.Event()

    async def answers():
        while True:
            await event.wait()
            event.clear()
            await answer.set()

    await curio.spawn(answers, daemon=True)
    for _ in range(count):
        await event.set()
        await answer.wait()
        answer.clear()


async def locks_taken_in_turns(count):
    locks = [curio.Lock(), curio.RLock(), curio.Semaphore(1), curio.BoundedSemaphore(1)]

    async def takes(count):
        for n in range(count):
            async with locks[n % 4]:
                await curio.sleep(0)

    tasks = [await curio.spawn(takes, count // 3) for _ in range(3)]
    for task in tasks:
        await task.join()


async def rlocks_taken_again(count):
    lock = curio.RLock()
    for _ in range(count):
        async with lock, lock:
            await lock.acquire()
            await lock.release()


async def locks_given_up(count):
    locks = [curio.Lock(), curio.RLock(), curio.Semaphore(1), curio.Condition()]

    async def holds():
        for lock in locks:
            await lock.acquire()
        await forever()

    await curio.spawn(holds(), daemon=True)
    for n in range(count):
        async with curio.ignore_after(0):
            await locks[n % 4].acquire()
        task = await curio.spawn(locks[n % 4].acquire())
        await task.cancel()


async def locks_released_in_vain(count):
    """What a task is handed that has been cancelled already, goes on to the next."""
    lock = curio.Lock()
    for _ in range(count):
        await lock.acquire()
        first = await curio.spawn(lock.acquire())
        second = await curio.spawn(lock.acquire())
        await first.cancel(blocking=False)
        await lock.release()
        await second.join()
        await lock.release()


async def locks_not_held(count):
    lock, condition = curio.RLock(), curio.Condition()
    for _ in range(count):
        for wrong in (lock.release, condition.wait, condition.notify):
            try:
                await wrong()
            except RuntimeError:
                pass


async def conditions_notified(count):
    condition = curio.Condition(curio.RLock())
    items = []

    async def consumer():
        while True:
            async with condition:
                await condition.wait_for(lambda: items)
                items.pop()

    for _ in range(3):
        await curio.spawn(consumer, daemon=True)
    for n in range(count):
        async with condition:
            items.append(n)
            await condition.notify(1 + n % 2)
        await curio.sleep(0)


async def conditions_given_up(count):
    condition = curio.Condition()

    async def waits():
        async with condition:
            await condition.wait()

    for n in range(count):
        task = await curio.spawn(waits())
        if n % 2:
            async with condition:
                await task.cancel(blocking=False)
                await condition.notify()
        await task.cancel()
        async with curio.ignore_after(0):
            await waits()


async def results_unwrapped(count):
    failed = curio.Result()
    await failed.set_exception(Oops("one for all"))
    for _ in range(count):
        result = curio.Result()
        task = await curio.spawn(result.unwrap())
        await result.set_value("value")
        await task.join()
        try:
            await failed.unwrap()
        except Oops:
            pass


async def primitives_made(count):
    for _ in range(count):
        lock = curio.RLock()
        curio.Event(), curio.Semaphore(2), curio.Condition(lock), curio.Condition()
        curio.Queue(2), curio.PriorityQueue(), curio.SignalSet(signal.SIGUSR1)
        repr(lock), lock.statistics()


async def items_through_queues(count):
    queues = [curio.Queue(2), curio.PriorityQueue(2), curio.LifoQueue()]

    async def consumer(queue):
        while True:
            await queue.get()
            await queue.task_done()

    for queue in queues:
        await curio.spawn(consumer, queue, daemon=True)
    for n in range(count):
        await queues[n % 3].put((n, "item"))
        if n % 10 == 0:
            for queue in queues:
                await queue.join()


async def queues_given_up(count):
    full, empty = curio.Queue(1), curio.LifoQueue()
    await full.put("item")
    for _ in range(count):
        for operation in (lambda: full.put([1]), full.join, empty.get):
            async with curio.ignore_after(0):
                await operation()
            task = await curio.spawn(operation())
            await task.cancel()


async def comparisons_that_fail(count):
    queue = curio.PriorityQueue(3)
    await queue.put(1)
    for _ in range(count):
        try:
            await queue.put("text")
        except TypeError:
            pass


async def cycles_through_queues(count):
    """queue → item → task → coroutine → queue, and put → item → put: for the collector."""

    class Box(list):
        pass

    async def gets(queue):
        await queue.get()
        return queue

    for n in range(count):
        queue = curio.Queue(2)
        task = await curio.spawn(gets(queue))
        box = Box([queue, task])
        await queue.put(box)
        await queue.put(box)
        await task.join()
        box.append(queue.put(box))
        box.append(queue.get())
        full = curio.Queue(1)
        await full.put(box)
        box.append(full.put(box))
        box[-1].send(None)
        del queue, task, box, full
        if n % 1000 == 0:
            gc.collect()
            await curio.sleep(0)


async def signals_taken(count):
    signals = curio.SignalSet(signal.SIGUSR1, signal.SIGUSR2)
    async with signals:
        for _ in range(count):
            os.kill(os.getpid(), signal.SIGUSR1)
            await signals.wait()


async def sets_entered_and_given_up(count):
    signals = curio.SignalSet(signal.SIGUSR1)
    for _ in range(count):
        async with signals, curio.SignalSet(signal.SIGUSR1, signal.SIGUSR2) as others:
            async with curio.ignore_after(0):
                await others.wait()
        async with curio.ignore_after(0):
            await signals.wait()
        task = await curio.spawn(signals.wait())
        await curio.sleep(0)
        await task.cancel()
        with signals.ignore():
            pass


def kernels(count):
    for _ in range(count):
        curio.run(nothing)


def kernels_dropped(count):
    """With blocked tasks, daemons, and tasks that never ran."""

    async def cleaning():
        try:
            await curio.timeout_after(1000, forever())
        finally:
            await curio.sleep(1)

    async def reads():
        left, right = map(Socket, socket.socketpair())
        with left._socket, right._socket:
            await left.recv(1)

    async def joins(task):
        await task.join()

    for _ in range(count):
        kernel = curio.Kernel()
        tasks = [kernel.add_task(task, daemon=True) for task in (cleaning, reads, forever)]
        kernel.add_task(joins(tasks[0]), daemon=True)
        kernel.run()
        kernel.add_task(forever)
        del kernel, tasks


def kernels_dropped_while_tasks_wait(count):
    """For primitives that outlive them, and such that do not."""
    lock, event, queue = curio.Lock(), curio.Event(), curio.Queue(1)
    condition, signals = curio.Condition(), curio.SignalSet(signal.SIGUSR1)

    async def enters():
        async with lock:
            await queue.put([queue])
            await queue.put([queue])

    async def waits():
        async with condition:
            await condition.wait()

    async def watches():
        async with signals:
            await signals.wait()

    async def own():
        own = curio.Queue()
        await own.put([own, await curio.current_task()])
        await own.join()

    for n in range(count):
        kernel = curio.Kernel()
        for task in (enters, enters, waits, waits, event.wait, watches, own):
            kernel.add_task(task, daemon=True)
        kernel.run(curio.sleep, 0)
        if n % 2:
            kernel.shutdown()
        else:
            del kernel
            gc.collect()
        if lock.locked():
            curio.run(lock.release)
        while not queue.empty():
            curio.run(queue.get)


def kernels_shut_down(count):
    """With a task that knows its kernel, which lives until then."""

    async def knows(kernel):
        await curio.sleep(1000)
        return kernel

    for n in range(count):
        kernel = curio.Kernel()
        kernel.add_task(knows(kernel), daemon=True)
        kernel.run()
        kernel.shutdown()
        del kernel
        if n % 100 == 0:
            gc.collect()


def fatal_exits(count):
    async def leaves():
        await curio.spawn(forever())
        raise KeyboardInterrupt

    kernel = curio.Kernel()
    for _ in range(count):
        try:
            kernel.run(leaves)
        except KeyboardInterrupt:
            pass
    kernel.shutdown()


async def calls_in_threads(count):
    for _ in range(count):
        await curio.run_in_thread(int)


async def calls_in_processes(count):
    for n in range(count):
        await curio.run_in_process(len, bytes(n * 7 % 1000))


async def calls_in_processes_that_fail(count):
    for _ in range(count):
        try:
            await curio.run_in_process(int, "x")
        except ValueError:
            pass


LOOPS = {
    switches: 1,
    tasks_of_functions: 1,
    tasks_of_coroutines: 1,
    tasks_at_once: 1,
    tasks_that_fail: 5,
    tasks_cancelled: 3,
    calls_in_threads: 50,
    calls_in_processes: 100,
    calls_in_processes_that_fail: 200,
    tasks_cancelled_with_an_exception: 3,
    children_cancelled: 3,
    timeouts_in_time: 2,
    timeouts_expired: 5,
    timeouts_uncaught: 5,
    shields: 2,
    cancellations_set: 5,
    ops_dropped: 10,
    ops_dropped_in_the_middle: 5,
    ops_thrown_into: 10,
    ops_that_fail: 10,
    foreign_awaitables: 5,
    cycles_through_ops: 20,
    events_set: 5,
    locks_taken_in_turns: 2,
    rlocks_taken_again: 2,
    locks_given_up: 5,
    locks_released_in_vain: 10,
    locks_not_held: 20,
    conditions_notified: 5,
    conditions_given_up: 10,
    results_unwrapped: 10,
    primitives_made: 10,
    items_through_queues: 2,
    queues_given_up: 20,
    comparisons_that_fail: 5,
    cycles_through_queues: 20,
    signals_taken: 10,
    sets_entered_and_given_up: 50,
    socket_pairs: 20,
    socket_data: 5,
    socket_waits_given_up: 5,
    sockets_closed_under_a_reader: 20,
    kernels: 100,
    kernels_dropped: 500,
    kernels_dropped_while_tasks_wait: 1000,
    kernels_shut_down: 200,
    fatal_exits: 10,
}


def run(loop, count):
    if loop.__code__.co_flags & 0x80:  # a coroutine function
        with curio.Kernel() as kernel:
            kernel.run(loop, count, log_errors=False)
    else:
        loop(count)


def measure(loop, count):
    """Runs a loop; says whether it has leaked."""
    count = max(count // ROUNDS, 10)
    start = time.monotonic()
    run(loop, max(count // 2, 10))
    gc.collect()
    before = descriptors()
    readings = [memory()]
    for _ in range(ROUNDS):
        run(loop, count)
        readings.append(memory())
    # The first rounds may still fill what is kept for later.
    settled = readings[ROUNDS // 3 :]
    growth = settled[-1] - settled[0]
    each = growth / (count * (len(settled) - 1))
    steady = all(later > earlier for earlier, later in zip(settled, settled[1:], strict=False))
    left_open = descriptors() - before
    leaks = (steady and growth > SLACK and each > EACH) or left_open != 0
    print(
        f"{loop.__name__:36} {count * ROUNDS:9,} {readings[0] / 2**20:8.1f} "
        f"{readings[-1] / 2**20:8.1f} {each:9.2f} {left_open:5} "
        f"{time.monotonic() - start:7.1f} {'LEAKS' if leaks else ''}",
        flush=True,
    )
    return leaks


def collected():
    """What can be checked without figures: the last reference to a task's things goes."""

    class Thing:
        pass

    async def main():
        thing = Thing()
        gone = weakref.ref(thing)
        task = await curio.spawn(holds(thing))
        del thing
        await task.cancel()
        del task
        gc.collect()
        return gone() is None

    async def holds(thing):
        await curio.sleep(1000)

    return curio.run(main)


def main():
    count = int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 1_000_000
    warnings.simplefilter("ignore", RuntimeWarning)
    title = ("loop", "count", "MiB", "after", "B/op", "fds", "seconds")
    print("{:36} {:>9} {:>8} {:>8} {:>9} {:>5} {:>7}".format(*title))
    leaking = [loop.__name__ for loop, weight in LOOPS.items() if measure(loop, count // weight)]
    if not collected():
        leaking.append("a cancelled task keeps what it held")
    print("Leaks: " + ", ".join(leaking) if leaking else "Nothing leaks.")
    return 1 if leaking else 0


if __name__ == "__main__":
    sys.exit(main())
