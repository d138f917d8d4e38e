"""Queues: items from task to task, in three orders.

Goal: no item is lost or doubled, whoever waits is served in order, and a comparison of the
user's, in a PriorityQueue, can do no harm. Method: traces compared as a whole, cycles exactly.
What becomes of a wait that is interrupted is in test_sync_laws.py, for all operations at once.
"""

import gc
import heapq
import inspect
import itertools
import os
import pydoc
import random
import re
import sys
import threading
import time
import warnings
import weakref

import curio
import pytest

HERE = __file__


class Oops(Exception):
    pass


class Item:
    """Can be compared, weakly referred to, and part of a cycle."""

    def __init__(self, key):
        self.key = key

    def __lt__(self, other):
        return self.key < other.key

    def __repr__(self):
        return f"Item({self.key!r})"


async def turns(count=4):
    for _ in range(count):
        await curio.sleep(0)


def line(text):
    """Number of the only line of this file that has `text` as its comment."""
    with open(HERE) as source:
        found = [n for n, line in enumerate(source, 1) if line.rstrip().endswith(f"# {text}")]
    assert len(found) == 1
    return found[0]


async def drained(queue):
    """All that is in it."""
    return [await queue.get() for _ in range(queue.qsize())]


KINDS = [curio.Queue, curio.PriorityQueue, curio.LifoQueue]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)

# --- items ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, order",
    [
        (curio.Queue, [3, 1, 2, 1]),
        (curio.PriorityQueue, [1, 1, 2, 3]),
        (curio.LifoQueue, [1, 2, 1, 3]),
    ],
)
def test_order_of_items(kernel, kind, order):
    """T61, L56, L57: oldest, smallest, newest first."""
    queue = kind()

    async def main():
        for item in (3, 1, 2, 1):
            assert await queue.put(item) is None
        return await drained(queue)

    assert kernel.run(main) == order


@every_kind
def test_items_are_the_objects_themselves(kernel, kind):
    """T61: whatever they are; equal ones are not confused."""
    queue = kind()
    items = [Item(1), Item(1), Item(1)]

    async def main():
        for item in items:
            await queue.put(item)
        got = await drained(queue)
        assert sorted(map(id, got)) == sorted(map(id, items))
        if kind is not curio.PriorityQueue:
            for item in (None, queue, curio.sleep, Oops, ...):
                await queue.put(item)
                assert await queue.get() is item

    kernel.run(main)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 100])
def test_priorities_are_those_of_a_heap(kernel, size):
    """L56: as `heapq` has them, with puts and gets mixed."""
    numbers = random.Random(size)
    queue, heap = curio.PriorityQueue(), []

    async def main():
        for _ in range(20 * size):
            if heap and numbers.random() < 0.45:
                assert await queue.get() == heapq.heappop(heap)
            else:
                item = numbers.randrange(size)
                await queue.put(item)
                heapq.heappush(heap, item)
            assert queue.qsize() == len(heap)
        assert await drained(queue) == sorted(heap)

    kernel.run(main)


def test_priorities_in_each_order_of_put(kernel):
    """L56: all orders of six."""

    async def main():
        queue = curio.PriorityQueue()
        for order in itertools.permutations(range(6)):
            for item in order:
                await queue.put(item)
            assert await drained(queue) == [0, 1, 2, 3, 4, 5]

    kernel.run(main)


@every_kind
def test_sizes(kernel, kind):
    """S25: `empty`, `full`, `qsize`, `size`, `maxsize`; without a limit never full."""
    queue, endless = kind(2), kind()

    def figures(queue):
        assert queue.qsize() == queue.size()
        return queue.qsize(), queue.empty(), queue.full()

    async def main():
        assert figures(queue) == (0, True, False)
        await queue.put(1)
        assert figures(queue) == (1, False, False)
        await queue.put(2)
        assert figures(queue) == (2, False, True)
        await queue.get()
        assert figures(queue) == (1, False, False)
        for number in range(1000):
            await endless.put(number)
        assert figures(endless) == (1000, False, False)

    kernel.run(main)
    assert (queue.maxsize, endless.maxsize) == (2, 0)
    assert kind(maxsize=5).maxsize == 5
    with pytest.raises(AttributeError):
        queue.maxsize = 3


# --- waiting ----------------------------------------------------------------------------------


@every_kind
def test_get_waits_for_an_item(kernel, kind):
    """T63, D2: state and cycles; the putter goes on."""
    queue = kind()
    events = []

    async def child():
        me = await curio.current_task()
        before = me.cycles
        events.append(await queue.get())
        events.append(me.cycles - before)

    async def main():
        me = await curio.current_task()
        task = await curio.spawn(child())
        assert task.state == "QUEUE_GET"
        before = me.cycles
        await queue.put("item")
        assert me.cycles == before
        events.append("put")
        await task.join()

    kernel.run(main)
    assert events == ["put", "item", 1]


@every_kind
def test_put_waits_for_room(kernel, kind):
    """T62, D2: state and cycles; the getter goes on."""
    queue = kind(1)
    events = []

    async def child():
        me = await curio.current_task()
        before = me.cycles
        assert await queue.put(2) is None
        events.append(me.cycles - before)

    async def main():
        me = await curio.current_task()
        await queue.put(1)
        task = await curio.spawn(child())
        assert task.state == "QUEUE_PUT" and queue.full()
        before = me.cycles
        events.append(await queue.get())
        assert me.cycles == before
        events.append("got")
        await task.join()
        events.append(await queue.get())

    kernel.run(main)
    assert events == [1, "got", 1, 2]


@every_kind
def test_what_need_not_wait_costs_nothing(kernel, kind):
    """Section 0: no cycle for a put, a get, a task_done and a join that find what they want."""
    queue = kind(3)

    async def main():
        me = await curio.current_task()
        before = me.cycles
        for _ in range(5):
            await queue.put(1)
            await queue.get()
            await queue.task_done()
            await queue.join()
        return me.cycles - before

    assert kernel.run(main) == 0


def test_busy_queue_lets_others_run(kernel):
    """A task that always finds an item, or room, does not keep the processor for itself."""
    queue = curio.Queue()
    events = []

    async def other():
        events.append(queue.qsize())

    async def main():
        await curio.spawn(other)
        for number in range(1000):
            await queue.put(number)
        await curio.spawn(other)
        for _ in range(1000):
            await queue.get()

    kernel.run(main)
    assert len(events) == 2 and 0 < events[0] < 1000 and 0 < events[1] < 1000


@every_kind
def test_getters_are_served_in_order(kernel, kind):
    """T63: first come, first served; those who give up are left out."""
    queue = kind()
    order = []

    async def child(number):
        order.append((number, await queue.get()))

    async def main():
        tasks = [await curio.spawn(child, number) for number in range(6)]
        await turns()
        for number in (0, 3):
            await tasks[number].cancel()
        for item in "abcd":
            await queue.put(item)
            await turns()
        for task in tasks:
            await task.wait()

    kernel.run(main)
    assert order == [(1, "a"), (2, "b"), (4, "c"), (5, "d")]


@every_kind
def test_putters_are_served_in_order(kernel, kind):
    """T62: and their items are in by that order, not before."""
    queue = kind(1)
    order = []

    async def child(number):
        await queue.put(number)
        order.append(number)

    async def main():
        await queue.put("first") if kind is not curio.PriorityQueue else await queue.put(-1)
        tasks = [await curio.spawn(child, number) for number in range(6)]
        await turns()
        for number in (0, 3):
            await tasks[number].cancel()
        got = []
        for _ in range(5):
            got.append(await queue.get())
            await turns()
        for task in tasks:
            await task.wait()
        return got[1:]

    assert kernel.run(main) == order == [1, 2, 4, 5]


@every_kind
def test_no_newcomer_takes_what_was_promised(kernel, kind):
    """T63: an item that a waiting getter was given is not for who comes later, though it is
    still inside; the same with a place."""
    queue = kind(1)
    events = []

    async def gets(name):
        events.append((name, await queue.get()))

    async def puts(item):
        await queue.put(item)
        events.append(("put", item))

    async def main():
        task = await curio.spawn(gets("waiting"))
        await queue.put(1)
        assert queue.qsize() == 1
        late = await curio.spawn(gets, "late")
        await curio.spawn(puts, 2)
        await task.join()
        await late.join()
        await queue.put(3)
        waiting = await curio.spawn(puts(4))
        assert await queue.get() == 3
        late = await curio.spawn(puts, 5)
        await waiting.join()
        assert late.state == "QUEUE_PUT"
        assert await queue.get() == 4
        await late.join()
        return await queue.get()

    assert kernel.run(main) == 5
    assert events == [("waiting", 1), ("put", 2), ("late", 2), ("put", 4), ("put", 5)]


def test_newcomer_with_a_turn_of_its_own_may_run_first(kernel):
    """A turn is handed over, not an item: with enough for both, who runs first has the first."""

    async def main():
        queue = curio.Queue()
        task = await curio.spawn(queue.get())
        await queue.put("a")
        await queue.put("b")
        got = [await queue.get(), await task.join()]
        queue = curio.Queue(2)
        await queue.put(1)
        await queue.put(2)
        task = await curio.spawn(queue.put(3))
        taken = [await queue.get(), await queue.get()]
        await queue.put(4)
        await task.join()
        return got, taken + await drained(queue)

    assert kernel.run(main) == (["a", "b"], [1, 2, 4, 3])


def test_getter_takes_the_best_item_there_is_when_it_runs(kernel):
    """L56: a turn is handed over, not an item: what comes in between counts."""
    queue = curio.PriorityQueue()

    async def main():
        task = await curio.spawn(queue.get())
        for item in (3, 1, 2):
            await queue.put(item)
        return await task.join(), await drained(queue)

    assert kernel.run(main) == (1, [2, 3])


@every_kind
def test_producers_and_consumers(kernel, kind):
    """T61: several of each over a small queue: every item once, and those of one producer in
    their order if the queue keeps it."""
    queue = kind(3)
    got = []

    async def producer(name):
        for number in range(100):
            await queue.put((number, name))
            if number % 10 == name:
                await curio.sleep(0)

    async def consumer():
        while True:
            got.append(await queue.get())
            await queue.task_done()
            if len(got) % 7 == 0:
                await curio.sleep(0)

    async def main():
        consumers = [await curio.spawn(consumer) for _ in range(3)]
        producers = [await curio.spawn(producer, name) for name in range(4)]
        for task in producers:
            await task.join()
        await queue.join()
        for task in consumers:
            await task.cancel()

    kernel.run(main)
    assert sorted(got) == sorted(itertools.product(range(100), range(4)))
    if kind is curio.Queue:
        for name in range(4):
            assert [number for number, by in got if by == name] == list(range(100))


# --- join and task_done -----------------------------------------------------------------------


@every_kind
def test_join_waits_for_all_items_to_be_done(kernel, kind):
    """T64, T65, D2: not for the queue to be empty; all who join are woken, in order."""
    queue = kind()
    events = []

    async def joins(name):
        assert await queue.join() is None
        events.append(name)

    async def main():
        await joins("empty")
        for item in range(3):
            await queue.put(item)
        tasks = [await curio.spawn(joins(name)) for name in ("first", "second")]
        assert {task.state for task in tasks} == {"QUEUE_JOIN"}
        for number in range(3):
            await queue.get()
            await turns()
            assert events == ["empty"]
            assert await queue.task_done() is None
            events.append(number) if number == 2 else None
        for task in tasks:
            await task.join()
        await joins("done")

    kernel.run(main)
    assert events == ["empty", 2, "first", "second", "done"]


def test_join_counts_items_anew(kernel):
    """T64: after everything was done, a new item is something to wait for."""
    queue = curio.Queue()

    async def main():
        for _ in range(3):
            await queue.put(1)
            task = await curio.spawn(queue.join())
            await queue.get()
            assert task.state == "QUEUE_JOIN"
            await queue.task_done()
            # What has come since is not what it has waited for.
            await queue.put(2)
            await task.join()
            await queue.get()
            await queue.task_done()

    kernel.run(main)


def test_task_done_may_come_before_get(kernel):
    """T65: it is only counted."""
    queue = curio.Queue()

    async def main():
        await queue.put(1)
        await queue.task_done()
        await queue.join()
        assert await queue.get() == 1

    kernel.run(main)


@every_kind
def test_task_done_too_often(kernel, kind):
    """T65: ValueError that names the queue; nothing has changed."""
    queue = kind()

    async def main():
        with pytest.raises(ValueError, match=r"task_done\(\) was called more often than items"):
            await queue.task_done()
        await queue.put(1)
        await queue.get()
        await queue.task_done()
        for _ in range(3):
            with pytest.raises(ValueError, match=r"Queue \d+$"):
                await queue.task_done()
        await queue.join()
        await queue.put(2)
        task = await curio.spawn(queue.join())
        assert task.state == "QUEUE_JOIN"
        await queue.task_done()
        await task.join()

    kernel.run(main)


def test_task_done_is_no_cancellation_point(kernel):
    """1.14; and neither is a put or a get that need not wait."""
    queue = curio.Queue()
    events = []

    async def child():
        await queue.put(1)
        await queue.put(2)
        events.append(await queue.get())
        await queue.task_done()
        events.append("done")
        await curio.sleep(0)
        events.append("not reached")

    async def main():
        task = await curio.spawn(child)
        await task.cancel()
        async with curio.ignore_after(0):
            await child()
        return queue.qsize()

    assert kernel.run(main) == 2
    assert events == [1, "done", 2, "done"]


def test_put_that_was_not_counts_for_nothing(kernel):
    """1.14: cancelled while it waited for room, its item is no work to be waited for."""
    queue = curio.Queue(1)

    async def main():
        await queue.put(1)
        task = await curio.spawn(queue.put(2))
        await task.cancel()
        assert await queue.get() == 1 and queue.empty()
        await queue.task_done()
        await queue.join()

    kernel.run(main)


# --- comparisons ------------------------------------------------------------------------------


class Tricky(Item):
    """An item whose comparisons do what `trick` does, while there is one."""

    trick = None

    def __lt__(self, other):
        for item in (self, other):
            if isinstance(item, Tricky) and item.trick is not None:
                return item.trick(self, other)
        return super().__lt__(other)


class Undecided:
    """What a comparison gives that cannot be asked whether it is true."""

    def __bool__(self):
        raise Oops("undecided")


def fails(a, b):
    raise Oops("cannot be compared")


def interrupts(a, b):
    raise KeyboardInterrupt


def cancels(a, b):
    raise curio.TaskCancelled("by a comparison")


def undecided(a, b):
    return Undecided()


TRICKS = {
    "fails": (fails, Oops),
    "interrupts": (interrupts, KeyboardInterrupt),
    "cancels": (cancels, curio.TaskCancelled),
    "undecided": (undecided, Oops),
}
every_trick = pytest.mark.parametrize("trick, error", TRICKS.values(), ids=TRICKS)


@every_trick
def test_put_whose_comparison_fails(kernel, trick, error):
    """L56: the exception comes out as it is; the item is not in, nor counted; the place is
    free."""
    queue = curio.PriorityQueue(4)

    async def main():
        for key in (2, 1, 3):
            await queue.put(Item(key))
        bad = Tricky(0)
        bad.trick = trick
        for _ in range(3):
            with pytest.raises(error):
                await queue.put(bad)
            assert (queue.qsize(), queue.full()) == (3, False)
        await queue.put(Item(0))
        keys = [item.key for item in await drained(queue)]
        for _ in range(4):
            await queue.task_done()
        await queue.join()
        return keys

    assert kernel.run(main) == [0, 1, 2, 3]


@every_trick
def test_get_whose_comparison_fails(kernel, trick, error):
    """L56: nothing is lost or out of order; the next get has it."""
    for length in range(2, 8):
        for place in range(length):
            keys = kernel.run(gets_with_a_bad_item, trick, error, length, place)
            assert keys == list(range(length))


async def gets_with_a_bad_item(trick, error, length, place):
    queue = curio.PriorityQueue(length)
    items = [Tricky(key) for key in range(length)]
    for item in items:
        await queue.put(item)
    items[place].trick = trick
    keys = []
    try:
        keys.append((await queue.get()).key)
    except error:
        assert queue.qsize() == length and queue.full()
    items[place].trick = None
    return keys + [item.key for item in await drained(queue)]


@pytest.mark.parametrize("seed", range(5))
def test_comparisons_that_fail_now_and_then(kernel, seed):
    """L56: after each failure the queue is what it was, a heap with all its items."""
    numbers = random.Random(seed)
    queue, heap = curio.PriorityQueue(), []

    def sometimes(a, b):
        if numbers.random() < 0.1:
            raise Oops
        return a.key < b.key

    async def main():
        failures = 0
        for _ in range(500):
            try:
                if heap and numbers.random() < 0.48:
                    assert (await queue.get()).key == heap[0]
                    heapq.heappop(heap)
                else:
                    item = Tricky(numbers.randrange(100))
                    item.trick = sometimes
                    await queue.put(item)
                    heapq.heappush(heap, item.key)
            except Oops:
                failures += 1
            assert queue.qsize() == len(heap)
        assert failures > 50
        numbers.random = lambda: 1
        assert [item.key for item in await drained(queue)] == sorted(heap)

    kernel.run(main)


def test_items_that_cannot_be_compared(kernel):
    """L56: the TypeError of Python's own; one item alone needs no comparison."""
    queue = curio.PriorityQueue()

    async def main():
        await queue.put(object())
        with pytest.raises(TypeError, match="'<' not supported between instances of 'str'"):
            await queue.put("text")
        assert type(await queue.get()) is object

    kernel.run(main)


def test_put_that_fails_lets_the_next_in(kernel):
    """L56: the place that a failed put was given goes to who waits behind it."""
    queue = curio.PriorityQueue(2)
    events = []

    async def puts(item):
        try:
            await queue.put(item)
            events.append(item.key)
        except Oops:
            events.append("failed")

    async def main():
        await queue.put(Item(1))
        await queue.put(Item(2))
        bad = Tricky(0)
        bad.trick = fails
        await curio.spawn(puts(bad))
        await curio.spawn(puts(Item(3)))
        await queue.get()
        await turns()
        assert events == ["failed", 3]
        assert [item.key for item in await drained(queue)] == [2, 3]

    kernel.run(main)


def test_get_that_fails_lets_the_next_try(kernel):
    """L56: the item stays, so a getter that waits behind it is served."""
    queue = curio.PriorityQueue()
    events = []

    async def gets(name):
        try:
            events.append((name, (await queue.get()).key))
        except Oops:
            events.append((name, "failed"))
            bad.trick = None

    async def main():
        for name in ("first", "second"):
            await curio.spawn(gets(name))
        for item in (Tricky(0), Tricky(1), bad):
            await queue.put(item)
        bad.trick = fails
        await turns()
        return [item.key for item in await drained(queue)]

    bad = Tricky(2)
    # Two of three were promised. One get fails; what it was promised is there for the others.
    assert kernel.run(main) == [1, 2]
    assert events == [("first", "failed"), ("second", 0)]


@pytest.mark.parametrize("operation", ["put", "get"])
def test_comparison_that_uses_the_queue(kernel, operation):
    """L56: the queue can be looked at; what would change its items is refused, by an error in the
    comparison; nothing is confused."""
    queue = curio.PriorityQueue(5)
    seen = []

    def meddles(a, b):
        seen.append((queue.qsize(), queue.empty(), queue.full()))
        repr(queue), queue.statistics()
        for start in (lambda: queue.put(Item(9)), queue.get, queue.join):
            op = start()
            try:
                op.send(None)
            except curio.CurioError as error:
                assert "used by a comparison of its own items" in str(error)
                seen.append("refused")
            op.close()
        gc.collect()
        return a.key < b.key

    async def main():
        tricky = Tricky(2)
        for item in (Tricky(3), Tricky(1), tricky):
            await queue.put(item)
        if operation == "put":
            tricky = Tricky(0)
            tricky.trick = meddles
            await queue.put(tricky)
            assert seen[0] == (3, False, False)
        else:
            tricky.trick = meddles
            assert (await queue.get()).key == 1
            assert seen[0] == (3, False, False)
        tricky.trick = None
        assert "refused" in seen
        return [item.key for item in await drained(queue)]

    assert kernel.run(main) == ([0, 1, 2, 3] if operation == "put" else [2, 3])
    assert queue.empty() and not queue.full()


def test_comparison_that_puts_into_another_queue(kernel):
    """L56: other queues are as always, also ones that compare the same item."""
    outer, inner = curio.PriorityQueue(), curio.PriorityQueue()
    depth = 0

    def passes_on(a, b):
        nonlocal depth
        if depth < 3:
            depth += 1
            queue = inner if depth == 1 else curio.PriorityQueue()
            for item in (a, b):
                with pytest.raises(StopIteration):
                    queue.put(item).send(None)
            depth -= 1
        return a.key < b.key

    async def main():
        items = [Tricky(key) for key in (2, 1)]
        for item in items:
            item.trick = passes_on
            await outer.put(item)
        for item in items:
            item.trick = None
        assert [item.key for item in await drained(outer)] == [1, 2]
        assert [item.key for item in await drained(inner)] == [1, 2]

    kernel.run(main)


def test_comparison_that_drops_the_last_references(kernel):
    """L56: to the queue, to the task, to everything: what is being compared stays alive."""
    box = {}

    def forgets(a, b):
        box.clear()
        gc.collect()
        return a.key < b.key

    async def puts():
        await box["queue"].put(box["item"])

    async def gets():
        return (await box["queue"].get()).key

    async def main():
        for operation in (puts, gets):
            queue = box["queue"] = curio.PriorityQueue()
            for key in (4, 2, 3):
                await queue.put(Tricky(key))
            item = box["item"] = Tricky(1)
            item.trick = forgets
            if operation is gets:
                # The least, and the others are compared.
                await queue.put(Tricky(1))
                item.key, item.trick = 5, None
                await queue.put(item)
                item.trick = forgets
            gone = weakref.ref(item), weakref.ref(queue)
            del item, queue
            task = await curio.spawn(operation)
            assert await task.join() == (1 if operation is gets else None)
            assert box == {}
            del task
            gc.collect()
            assert [ref() for ref in gone] == [None, None]

    kernel.run(main)


def test_comparison_that_cancels_the_task_that_compares(kernel):
    """L56, 1.14: the put has done its work; the cancellation comes at the next wait."""
    queue = curio.PriorityQueue()
    events = []

    def cancels_itself(a, b):
        with pytest.raises(StopIteration):
            box[0].cancel(blocking=False).send(None)
        return a.key < b.key

    async def child():
        await queue.put(tricky)
        events.append("put")
        await curio.sleep(0)
        events.append("not reached")

    async def main():
        await queue.put(Item(2))
        box.append(await curio.spawn(child))
        await box[0].wait()
        assert type(box[0].exception) is curio.TaskCancelled
        tricky.trick = None
        return [item.key for item in await drained(queue)]

    box, tricky = [], Tricky(1)
    tricky.trick = cancels_itself
    assert kernel.run(main) == [1, 2]
    assert events == ["put"]


def test_comparison_while_another_thread_looks(kernel):
    """L56: a comparison that sleeps lets other threads at the queue, and the collector."""
    queue = curio.PriorityQueue()
    done = threading.Event()
    sizes = set()

    def slow(a, b):
        time.sleep(0.002)
        return a.key < b.key

    def looks():
        while not done.is_set():
            sizes.add(queue.qsize())
            repr(queue), queue.statistics(), queue.full()
            gc.collect()

    async def main():
        for key in (3, 1, 2):
            item = Tricky(key)
            item.trick = slow
            await queue.put(item)
        keys = [(await queue.get()).key for _ in range(3)]
        done.set()
        return keys

    thread = threading.Thread(target=looks)
    thread.start()
    assert kernel.run(main) == [1, 2, 3]
    thread.join()
    assert sizes <= {0, 1, 2, 3}


# --- outside of a kernel, and in several ------------------------------------------------------

module_queue = curio.Queue(2)


async def uses_the_queue_of_the_module(count):
    async def producer():
        for number in range(count):
            await module_queue.put(number)
        await module_queue.join()

    task = await curio.spawn(producer())
    got = []
    for _ in range(count):
        got.append(await module_queue.get())
        await module_queue.task_done()
    await task.join()
    return got


def test_queue_of_a_module_serves_one_kernel_after_the_other():
    """T61: made before any kernel; used by several, and in another thread."""
    expected = list(range(10))
    assert curio.run(uses_the_queue_of_the_module, 10) == expected
    with curio.Kernel() as first, curio.Kernel() as second:
        for kernel in (first, second, first):
            assert kernel.run(uses_the_queue_of_the_module, 10) == expected
    results = []
    thread = threading.Thread(
        target=lambda: results.append(curio.run(uses_the_queue_of_the_module, 10))
    )
    thread.start()
    thread.join()
    assert results == [expected]


@every_kind
def test_items_outlive_a_kernel(kind):
    """T61: what one has put, the next one gets; so is what remains to be done."""
    queue = kind(2)

    async def puts():
        await queue.put(1)
        await queue.put(2)
        await curio.spawn(queue.put(3), daemon=True)
        await curio.spawn(queue.join(), daemon=True)

    async def gets():
        assert queue.statistics().waiting == 0
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0, queue.join)
        got = sorted(await drained(queue))
        await queue.task_done()
        await queue.task_done()
        await queue.join()
        return got

    curio.run(puts)
    assert curio.run(gets) == [1, 2]


def test_queue_for_which_tasks_of_another_kernel_wait(kernel):
    """1.4: one kernel at a time; the second gets an error, and no item is lost by that."""
    queue = curio.Queue(1)

    async def main():
        return await curio.spawn(queue.get(), daemon=True)

    async def other():
        with pytest.raises(curio.CurioError, match=r"another kernel are waiting for Queue \d+"):
            await queue.get()

    async def goes_on():
        await queue.put(5)
        return await task.join()

    task = kernel.run(main)
    curio.run(other)
    assert kernel.run(goes_on) == 5
    assert queue.empty()


def operations():
    queue = curio.Queue()
    return {
        "Queue.put": lambda: queue.put(1),
        "Queue.get": queue.get,
        "Queue.join": queue.join,
        "Queue.task_done": queue.task_done,
    }


every_operation = pytest.mark.parametrize("name", operations())


@every_operation
def test_outside_of_a_kernel(name):
    """T61: RuntimeError at the await."""
    with pytest.raises(RuntimeError, match="outside of a Curio kernel"):
        operations()[name]().send(None)


@every_operation
def test_forgotten_await(name):
    """T73: the function's name, with the caller's file and line."""
    operation = operations()[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        operation()  # forgotten
        gc.collect()
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert str(warning.message) == f"coroutine '{name}' was never awaited"
    if name != "Queue.put":
        assert (warning.filename, warning.lineno) == (HERE, line("forgotten"))


@every_operation
@every_kind
def test_coroutine_functions(kind, name):
    """T73: for inspect, too; with a signature and documentation."""
    method = name.split(".")[1]
    function = getattr(kind, method)
    assert inspect.iscoroutinefunction(function)
    assert inspect.iscoroutinefunction(getattr(kind(), method))
    assert function.__qualname__ == name
    assert str(inspect.signature(function)) == ("(self, item)" if method == "put" else "(self)")
    assert "Cancellation:" in inspect.getdoc(function)
    assert os.path.basename(inspect.getsourcefile(function)) == "queue.py"


@every_kind
def test_plain_functions(kind):
    """S25: what cannot block is not async."""
    for method in ("empty", "full", "qsize", "size", "statistics"):
        assert not inspect.iscoroutinefunction(getattr(kind, method))


@every_kind
def test_help(kind):
    """T73."""
    text = pydoc.render_doc(kind, renderer=pydoc.plaintext)
    assert f"{kind.__name__}(maxsize=0)" in text
    for method in ("put", "get", "join", "task_done"):
        assert f"async {method}(self" in text or f"async def {method}(self" in text
    assert str(inspect.signature(kind)) == "(maxsize=0)"


@every_kind
def test_queue_of_a_wrong_size(kind):
    """T61: ValueError, TypeError, OverflowError."""
    with pytest.raises(ValueError, match="0 for no limit, not -1"):
        kind(-1)
    for wrong in (None, "2", 1.0, [1]):
        with pytest.raises(TypeError):
            kind(wrong)
    with pytest.raises((OverflowError, ValueError)):
        kind(10**30)
    with pytest.raises(TypeError):
        kind(1, 2)
    with pytest.raises(TypeError):
        kind(misspelled=1)
    assert kind(sys.maxsize).maxsize == sys.maxsize


def test_wrong_calls():
    """T73: TypeError, no crash."""
    queue = curio.Queue()
    for call in (
        queue.put,
        lambda: queue.put(1, 2),
        lambda: queue.get(1),
        lambda: queue.put(object=1),
        curio.Queue.get,
        lambda: curio.Queue.get(curio.Lock()),
        lambda: curio.PriorityQueue.put(5, 1),
    ):
        with pytest.raises(TypeError):
            call()
    queue.put(item=1).close()
    with pytest.raises(AttributeError):
        queue.misspelled = 1
    with pytest.raises(TypeError):
        iter(queue)


# --- what they tell ---------------------------------------------------------------------------


@every_kind
def test_repr_and_statistics(kernel, kind):
    """What it is, its number, how full it is, and how many wait, if any do."""
    queue, endless = kind(2), kind()

    async def main():
        assert re.fullmatch(rf"<curio\.{kind.__name__} \d+ \[0 items\]>", repr(endless))
        assert endless.statistics() == (None, 0, 0, 0, 0)
        assert queue.statistics() == (None, 0, 0, 0, 2)
        for item in (1, 2):
            await queue.put(item)
        putter = await curio.spawn(queue.put(3))
        assert repr(queue).endswith(" [2 of 2 items, 1 waiting]>")
        assert queue.statistics() == (None, 1, 2, 2, 2)
        await putter.cancel()
        await drained(queue)
        tasks = [await curio.spawn(op) for op in (queue.get(), queue.get(), queue.join())]
        assert repr(queue).endswith(" [0 of 2 items, 3 waiting]>")
        assert queue.statistics() == (None, 3, 0, 2, 2)
        for task in tasks:
            await task.cancel()
        assert queue.statistics().waiting == 0

    kernel.run(main)


# --- memory -----------------------------------------------------------------------------------


@every_kind
def test_item_is_let_go(kernel, kind):
    """T61: a queue keeps no item that was got; a queue that goes lets its items go."""

    async def main():
        queue = kind()
        for _ in range(3):
            item = Item(1)
            gone = weakref.ref(item)
            await queue.put(item)
            del item
            assert gone() is not None
            item = await queue.get()
            del item
            assert gone() is None
        item = Item(1)
        count = sys.getrefcount(item)
        for _ in range(10):
            await queue.put(item)
        assert sys.getrefcount(item) == count + 10
        await queue.get()
        assert sys.getrefcount(item) == count + 9
        del queue
        assert sys.getrefcount(item) == count

    kernel.run(main)


@every_kind
@pytest.mark.parametrize("how", ["closed", "dropped", "cancelled", "timed out", "kernel dropped"])
def test_item_of_a_put_that_does_not_happen_is_let_go(kind, how):
    """T62: wherever its put ends."""
    queue, item = kind(1), Item(1)
    gone = weakref.ref(item)
    kernel = curio.Kernel()

    async def fills():
        await queue.put(Item(0))

    async def main():
        nonlocal item
        if how == "cancelled":
            task = await curio.spawn(queue.put(item))
            item = None
            await task.cancel()
        elif how == "timed out":
            async with curio.ignore_after(0.001):
                await queue.put(item)
            item = None
        else:
            await curio.spawn(queue.put(item), daemon=True)
            item = None

    kernel.run(fills)
    if how == "closed":
        queue.put(item).close()
        item = None
    elif how == "dropped":
        with pytest.warns(RuntimeWarning, match="Queue.put"):
            queue.put(item)
        item = None
    else:
        kernel.run(main)
    del kernel
    gc.collect()
    assert gone() is None
    assert queue.qsize() == 1


class Box(list):
    """A list that can be weakly referred to."""

    def __lt__(self, other):
        return id(self) < id(other)


@every_kind
def test_queue_in_itself_is_collected(kernel, kind):
    """Its own item, by way of others; and in each other."""

    async def main():
        first, second = kind(), kind()
        for queue, other in ((first, second), (second, first)):
            box = Box([queue])
            gone.append(weakref.ref(box))
            await queue.put(box)
            await queue.put(Box([other]))
        gone.extend((weakref.ref(first), weakref.ref(second)))

    gone = []
    kernel.run(main)
    gc.collect()
    assert [ref() for ref in gone] == [None] * 4


@every_kind
def test_queue_that_is_collected_lets_items_finish(kernel, kind):
    """What the items' ends do may look at the kernel, and at other queues."""
    seen = []

    class Last(Box):
        def __del__(self):
            seen.append(len(curio.get_all_tasks()))

    async def main():
        queue = kind()
        for _ in range(3):
            await queue.put(Last([queue]))
        del queue
        gc.collect()
        queue = kind()
        await queue.put(Last())
        del queue
        assert seen == [1] * 4

    kernel.run(main)


@every_kind
@pytest.mark.parametrize("stage", ["never awaited", "waiting", "done"])
def test_put_in_a_cycle_is_collected(kernel, kind, stage):
    """An operation whose item knows the operation. Once, the collector did not see the item
    of a put, and such a cycle stayed for ever."""

    async def main():
        queue, box = kind(1), Box()
        gone = weakref.ref(box)
        op = queue.put(box)
        box.append(op)
        if stage == "waiting":
            await queue.put(Box())
            op.send(None)
        elif stage == "done":
            await op
            await queue.get()
        del queue, box, op
        gc.collect()
        # What an operation has left with the kernel, its end has taken away again.
        await curio.sleep(0)
        return gone()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert kernel.run(main) is None


@every_kind
@pytest.mark.parametrize("method", ["get", "join", "task_done"])
def test_operation_in_a_cycle_with_its_queue_is_collected(kind, method):
    """An item that knows an operation of the queue that it is in."""

    async def main():
        queue, box = kind(), Box()
        gone.append(weakref.ref(box))
        box.append(getattr(queue, method)())
        await queue.put(box)

    gone = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        curio.run(main)
        gc.collect()
    assert gone[0]() is None


@every_kind
def test_task_that_waits_in_a_queue_that_it_knows(kind):
    """queue → item → task → coroutine → queue, with the task blocked in a get of it: gone with
    its kernel."""

    async def waits(queue):
        await queue.get()
        await queue.get()

    async def main():
        queue = kind()
        task = await curio.spawn(waits(queue), daemon=True)
        box = Box([task])
        gone.extend((weakref.ref(box), weakref.ref(queue)))
        await queue.put(box)
        await turns()
        await queue.put(Box([task]))
        await queue.put(Box([task]))

    gone = []
    kernel = curio.Kernel()
    kernel.run(main)
    del kernel
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


@every_kind
def test_loops_do_not_grow(kernel, kind):
    """What an operation needs, it gives back: blocks of memory before and after are as many."""
    queue = kind(3)

    async def consumer():
        while True:
            await queue.get()
            await queue.task_done()

    async def loop(count):
        for number in range(count):
            for _ in range(5):
                await queue.put(number)
            await queue.join()
            async with curio.ignore_after(0):
                await queue.put(1)
                await queue.put(2)
                await queue.put(3)
                await queue.put(4)
                await queue.join()
            await queue.join()

    async def main():
        await curio.spawn(consumer, daemon=True)
        await loop(200)
        readings = []
        for _ in range(4):
            gc.collect()
            readings.append(sys.getallocatedblocks())
            await loop(200)
        return readings

    readings = kernel.run(main)
    assert readings[-1] - readings[0] < 100, readings
