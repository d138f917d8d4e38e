"""Synchronization: events, locks, semaphores, conditions, results.

Goal: each primitive does what its documentation says, in the order that the contract wants.
Method: traces of events compared as a whole, counts of cycles compared exactly. What becomes
of a wait that is interrupted is in test_sync_laws.py, for all of them at once.
"""

import gc
import inspect
import os
import pydoc
import re
import sys
import threading
import traceback
import warnings
import weakref

import curio
import pytest

HERE = __file__


class Oops(Exception):
    pass


async def turns(count=4):
    """Lets all ready tasks run, a few times."""
    for _ in range(count):
        await curio.sleep(0)


def line(text):
    """Number of the only line of this file that has `text` as its comment."""
    with open(HERE) as source:
        found = [n for n, line in enumerate(source, 1) if line.rstrip().endswith(f"# {text}")]
    assert len(found) == 1
    return found[0]


def cycles_of(kernel, operation):
    """How many cycles it costs to await `operation()`."""

    async def main():
        me = await curio.current_task()
        before = me.cycles
        await operation()
        return me.cycles - before

    return kernel.run(main)


# Where tasks take turns: how it is made with one turn to be had.
LOCKS = {
    "Lock": curio.Lock,
    "RLock": curio.RLock,
    "Semaphore": curio.Semaphore,
    "BoundedSemaphore": curio.BoundedSemaphore,
    "Condition": curio.Condition,
    "Condition of a Lock": lambda: curio.Condition(curio.Lock()),
    "Condition of an RLock": lambda: curio.Condition(curio.RLock()),
}
CONDITIONS = {name: make for name, make in LOCKS.items() if name.startswith("Condition")}

every_lock = pytest.mark.parametrize("make", LOCKS.values(), ids=LOCKS)
every_condition = pytest.mark.parametrize("make", CONDITIONS.values(), ids=CONDITIONS)

KINDS = [
    curio.Event,
    curio.Lock,
    curio.RLock,
    curio.Semaphore,
    curio.BoundedSemaphore,
    curio.Condition,
    curio.Result,
]

# --- events ---------------------------------------------------------------------------------


def test_event_is_waited_for(kernel):
    """T17: the wait ends when the event is set, and gives True."""
    events = []
    event = curio.Event()

    async def child():
        events.append("waits")
        events.append(await event.wait())

    async def main():
        task = await curio.spawn(child())
        assert task.state == "EVENT_WAIT"
        events.append("sets")
        assert await event.set() is None
        events.append("has set")
        await task.join()

    kernel.run(main)
    assert events == ["waits", "sets", True, "has set"]


def test_event_that_is_set_is_not_waited_for(kernel):
    """T17: at once, without a cycle, any number of times."""
    event = curio.Event()
    kernel.run(event.set)

    async def waits():
        for _ in range(1000):
            assert await event.wait() is True

    assert cycles_of(kernel, waits) == 0


def test_set_lets_all_who_waited_run_first(kernel):
    """T18, D2: all that wait, in their order; the setter comes behind them, in one cycle."""
    events = []
    event = curio.Event()

    async def child(number):
        await event.wait()
        events.append(number)
        await curio.sleep(0)
        events.append(number + 10)

    async def main():
        me = await curio.current_task()
        for number in range(3):
            await curio.spawn(child(number))
        before = me.cycles
        await event.set()
        events.append("set")
        assert me.cycles - before == 1

    kernel.run(main)
    assert events == [0, 1, 2, "set", 10, 11, 12]


def test_set_switches_always(kernel):
    """D2: also if nobody waits, and if it is set already."""
    event = curio.Event()
    events = []

    async def other():
        for n in range(3):
            events.append(f"other {n}")
            await curio.sleep(0)

    async def main():
        await curio.spawn(other)
        for n in range(3):
            await event.set()
            events.append(f"set {n}")

    kernel.run(main)
    assert events == ["other 0", "set 0", "other 1", "set 1", "other 2", "set 2"]
    assert cycles_of(kernel, event.set) == 1


def test_clear(kernel):
    """S19: the next wait blocks; who was woken goes on all the same; clearing twice is fine."""
    event = curio.Event()
    events = []

    async def child(name):
        await event.wait()
        events.append((name, event.is_set()))

    async def clears():
        await event.wait()
        event.clear()

    async def main():
        assert event.is_set() is False
        assert event.clear() is None
        await curio.spawn(clears)
        await curio.spawn(child, "woken")
        await turns()
        await event.set()
        assert events == [("woken", False)] and not event.is_set()
        late = await curio.spawn(child("late"))
        await turns()
        assert late.state == "EVENT_WAIT"
        await event.set()
        event.clear()
        event.clear()
        await late.join()

    kernel.run(main)
    assert events == [("woken", False), ("late", True)]


def test_event_is_not_waited_for_after_a_clear_in_between(kernel):
    """T17: set and cleared by one task, without a switch in between that counts: who waited is
    woken once, and waits anew if it wants more."""
    event = curio.Event()
    count = 0

    async def child():
        nonlocal count
        while True:
            await event.wait()
            count += 1
            event.clear()

    async def main():
        task = await curio.spawn(child())
        for _ in range(3):
            await event.set()
        await task.cancel()

    kernel.run(main)
    assert count == 3


def test_event_is_set_by_who_is_being_cancelled(kernel):
    """1.14: `set` is no cancellation point."""
    event = curio.Event()
    events = []

    async def setter():
        await event.set()
        events.append("after set")
        await curio.sleep(0)
        events.append("not reached")

    async def main():
        task = await curio.spawn(setter)
        await task.cancel()
        assert event.is_set()
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0):
                await event.set()
                events.append("after set")
                await curio.sleep(0)

    kernel.run(main)
    assert events == ["after set", "after set"]


def test_events_of_the_tutorial_take_a_set_and_a_wait(kernel):
    """T18, section 0: parent and child as in the tutorial, by their cycles."""
    event = curio.Event()

    async def kid():
        for _ in range(2):
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.001, event.wait())
        await curio.timeout_after(1000, event.wait())
        await curio.sleep(1000)

    async def main():
        me = await curio.current_task()
        task = await curio.spawn(kid())
        while task.cycles < 3:
            await curio.sleep(0.001)
        before = me.cycles
        await event.set()
        counts = me.cycles - before, task.cycles
        await task.cancel()
        return counts

    # The kid: begun, two timeouts, the event.
    assert kernel.run(main) == (1, 4)


# --- what locks have in common ----------------------------------------------------------------


@every_lock
def test_acquire_and_release(kernel, make):
    """S20, T20, T21: True and None; at once if it is free, without a cycle; `locked` tells."""
    lock = make()

    async def main():
        for _ in range(100):
            assert lock.locked() is False
            assert await lock.acquire() is True
            assert lock.locked() is True
            assert await lock.release() is None
        async with lock as held:
            assert held is lock and lock.locked()
        assert not lock.locked()

    assert cycles_of(kernel, main) == 0


@every_lock
def test_release_hands_over_to_the_first_in_line(kernel, make):
    """T19, D2: it stays locked, for the first; the releaser goes on; the waiter needs a cycle."""
    lock = make()
    events = []

    async def child(number):
        me = await curio.current_task()
        before = me.cycles
        async with lock:
            events.append((number, me.cycles - before))

    async def main():
        await lock.acquire()
        tasks = [await curio.spawn(child, number) for number in range(3)]
        await turns()
        before = (await curio.current_task()).cycles
        await lock.release()
        events.append("released")
        assert lock.locked()
        assert (await curio.current_task()).cycles == before
        assert [task.state for task in tasks[1:]] == [tasks[1].state] * 2
        for task in tasks:
            await task.join()
        assert not lock.locked()

    kernel.run(main)
    assert events == ["released", (0, 1), (1, 1), (2, 1)]


@every_lock
def test_no_newcomer_overtakes(kernel, make):
    """T19: who releases and wants it again, stands behind those that wait."""
    lock = make()
    events = []

    async def child():
        for _ in range(3):
            async with lock:
                events.append("child")

    async def main():
        task = await curio.spawn(child)
        await lock.acquire()
        await turns()
        for _ in range(3):
            events.append("main")
            await lock.release()
            await lock.acquire()
        await lock.release()
        await task.join()

    kernel.run(main)
    assert events == ["main", "child"] * 3


@every_lock
def test_block_releases_however_it_is_left(kernel, make):
    """T19, 1.14: by its end, an error, a return, a cancellation, a timeout."""
    lock = make()

    async def returns():
        async with lock:
            return "value"

    async def sleeps():
        async with lock:
            await curio.sleep(1000)

    async def main():
        with pytest.raises(Oops):
            async with lock:
                raise Oops
        assert not lock.locked()
        assert await returns() == "value" and not lock.locked()
        task = await curio.spawn(sleeps())
        assert lock.locked()
        await task.cancel()
        assert not lock.locked()
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.001, sleeps())
        assert not lock.locked()
        assert await curio.ignore_after(0.001, sleeps) is None
        assert not lock.locked()

    kernel.run(main)


@every_lock
def test_many_wait_in_order(kernel, make):
    """1.4: first come, first served, a thousand of them; those who give up are left out."""
    lock = make()
    order = []

    async def child(number):
        async with lock:
            order.append(number)
            if number % 7 == 0:
                await curio.sleep(0)

    async def main():
        async with lock:
            tasks = [await curio.spawn(child, number) for number in range(1000)]
            await turns()
            for task in tasks[::3]:
                await task.cancel()
        for task in tasks:
            await task.wait()

    kernel.run(main)
    assert order == [number for number in range(1000) if number % 3]
    assert not lock.locked()


@every_lock
def test_it_excludes(kernel, make):
    """T19: one at a time, whatever is awaited inside."""
    lock = make()
    inside = 0

    async def child(number):
        nonlocal inside
        for step in range(5):
            async with lock:
                inside += 1
                assert inside == 1
                await curio.sleep(0 if (number + step) % 2 else 0.0001)
                inside -= 1

    async def main():
        tasks = [await curio.spawn(child, number) for number in range(5)]
        for task in tasks:
            await task.join()

    kernel.run(main)
    assert inside == 0 and not lock.locked()


@every_lock
def test_release_is_no_cancellation_point(kernel, make):
    """1.14: it has done its work; the cancellation comes at the next wait."""
    lock = make()
    events = []

    async def child():
        await lock.acquire()
        await lock.release()
        events.append("released")
        async with lock:
            events.append("block")
        await curio.sleep(0)
        events.append("not reached")

    async def main():
        task = await curio.spawn(child)
        await task.cancel()
        assert type(task.exception) is curio.TaskCancelled
        async with curio.ignore_after(0):
            await child()
        assert not lock.locked()

    kernel.run(main)
    assert events == ["released", "block"] * 2


@every_lock
def test_plain_with_is_refused(kernel, make):
    """D14, L58: AsyncOnlyError, which is a RuntimeError, and nothing is taken."""
    lock = make()

    async def main():
        with pytest.raises(curio.AsyncOnlyError, match="async with"):
            with lock:
                pass
        with pytest.raises(RuntimeError, match=f"{type(lock).__name__} is entered"):
            lock.__enter__()
        with pytest.raises(curio.AsyncOnlyError):
            lock.__exit__(None, None, None)
        assert not lock.locked()

    kernel.run(main)
    with pytest.raises(curio.AsyncOnlyError):
        with lock:
            pass


# --- locks ------------------------------------------------------------------------------------


def test_states_of_those_who_wait(kernel):
    """Section 0: the names that `ps` shows."""

    async def enters(lock):
        async with lock:
            pass

    async def waits(condition):
        async with condition:
            await condition.wait()

    async def main():
        lock, rlock, condition = curio.Lock(), curio.RLock(), curio.Condition()
        semaphores = curio.Semaphore(0), curio.BoundedSemaphore(0)
        await lock.acquire()
        await rlock.acquire()
        states = {
            "EVENT_WAIT": [curio.Event().wait(), curio.Result().unwrap()],
            "LOCK_ACQUIRE": [lock.acquire(), rlock.acquire(), enters(lock), enters(rlock)],
            "SEMA_ACQUIRE": [semaphore.acquire() for semaphore in semaphores],
            "COND_WAIT": [waits(condition)],
        }
        for state, operations in states.items():
            for operation in operations:
                task = await curio.spawn(operation)
                assert task.state == state
                await task.cancel()
        # A condition's lock is a lock, before and after the wait itself.
        await condition.acquire()
        before = await curio.spawn(condition.acquire())
        await condition.release()
        await before.join()
        await condition.release()
        after = await curio.spawn(waits(condition))
        await condition.acquire()
        await condition.notify()
        await turns()
        assert (before.state, after.state) == ("TERMINATED", "LOCK_ACQUIRE")
        await condition.release()
        await after.join()

    kernel.run(main)


def test_lock_belongs_to_nobody(kernel):
    """S20: another task may release it."""
    lock = curio.Lock()

    async def main():
        await lock.acquire()
        task = await curio.spawn(lock.release())
        await task.join()
        assert not lock.locked()

    kernel.run(main)


def test_lock_is_not_taken_twice(kernel):
    """S20: a task that has it waits for itself, and can be timed out of it."""
    lock = curio.Lock()

    async def main():
        async with lock:
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.002, lock.acquire())
            assert lock.locked()
        assert not lock.locked()

    kernel.run(main)


def test_release_of_a_lock_that_nobody_holds(kernel):
    """S20: an error of both kinds, which says who has done it, and to what."""
    lock = curio.Lock()

    async def main():
        me = await curio.current_task()
        for kind in (RuntimeError, AssertionError):
            with pytest.raises(kind) as caught:
                await lock.release()
            text = str(caught.value)
            assert f"task {me.id} (" in text and "main) has released a lock" in text
            assert re.search(r"Lock \d+ is held by nobody", text)
        assert await lock.acquire() is True
        await lock.release()
        with pytest.raises(RuntimeError):
            await lock.release()
        assert not lock.locked()

    kernel.run(main)


def test_rlock_is_taken_again_by_its_owner(kernel):
    """L50: and must be released as often; in between nobody else has it."""
    lock = curio.RLock()
    events = []

    async def child():
        async with lock:
            events.append("child")

    async def main():
        for _ in range(3):
            assert await lock.acquire() is True
        async with lock as held:
            assert held is lock
        task = await curio.spawn(child())
        for n in range(3):
            events.append(n)
            assert lock.locked() and task.state == "LOCK_ACQUIRE"
            await lock.release()
        assert lock.locked()
        await task.join()
        assert not lock.locked()

    kernel.run(main)
    assert events == [0, 1, 2, "child"]


def test_rlock_that_was_handed_over_is_not_anybodys_yet(kernel):
    """L50: from the release to the new owner's first step, neither the former owner has it nor
    somebody else; the former owner stands in line like all."""
    lock = curio.RLock()
    events = []

    async def child():
        async with lock:
            events.append("child")
            async with lock:
                await curio.sleep(0)
                events.append("child again")

    async def main():
        me = await curio.current_task()
        await lock.acquire()
        task = await curio.spawn(child())
        await lock.release()
        assert lock.statistics().owner == task.id != me.id
        with pytest.raises(RuntimeError, match=f"is held by task {task.id} "):
            await lock.release()
        async with lock:
            events.append("main")

    kernel.run(main)
    assert events == ["child", "child again", "main"]


def test_release_of_an_rlock_by_another_task(kernel):
    """L50: an error that says who has tried, who holds it, and where that task is."""
    lock = curio.RLock()

    async def holder():
        async with lock:
            await curio.sleep(1000)  # where the holder is

    async def main():
        me = await curio.current_task()
        with pytest.raises(RuntimeError, match="nobody"):
            await lock.release()
        task = await curio.spawn(holder())
        for kind in (RuntimeError, AssertionError):
            with pytest.raises(kind) as caught:
                await lock.release()
        text = str(caught.value)
        assert text.startswith(f"task {me.id} (") and re.search(r"RLock \d+ is held by", text)
        assert f"task {task.id} (" in text and "holder" in text
        assert f"{HERE}:{line('where the holder is')}" in text
        assert lock.statistics().owner == task.id
        await task.cancel()
        assert not lock.locked()

    kernel.run(main)


def test_rlock_after_an_error_deep_inside(kernel):
    """L50: each level releases once."""
    lock = curio.RLock()

    async def nested(depth):
        async with lock:
            if depth == 0:
                raise Oops
            await nested(depth - 1)

    async def main():
        with pytest.raises(Oops):
            await nested(50)
        assert not lock.locked()
        with pytest.raises(RuntimeError):
            await lock.release()

    kernel.run(main)


# --- semaphores -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [curio.Semaphore, curio.BoundedSemaphore])
def test_semaphore_counts(kernel, kind):
    """T20, L51: `value` permits; `locked` when there are none; None for all the others."""
    semaphore = kind(3)

    async def main():
        for left in (2, 1, 0):
            assert not semaphore.locked()
            assert await semaphore.acquire() is True
            assert semaphore.value == left
        assert semaphore.locked()
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.001, semaphore.acquire)
        for left in (1, 2, 3):
            assert await semaphore.release() is None
            assert semaphore.value == left

    kernel.run(main)


def test_semaphore_starts_with_one_permit():
    """T20: by default; 0 is a number, too."""
    for kind in (curio.Semaphore, curio.BoundedSemaphore):
        assert kind().value == 1 and not kind().locked()
        assert kind(0).value == 0 and kind(value=0).locked()
        assert kind(value=7).value == 7
        with pytest.raises(AttributeError):
            kind().value = 5


def test_permits_go_to_those_in_line(kernel):
    """T20: one for each release, oldest first; `value` stays 0 while somebody waits."""
    semaphore = curio.Semaphore(0)
    order = []

    async def child(number):
        await semaphore.acquire()
        order.append(number)

    async def main():
        tasks = [await curio.spawn(child(number)) for number in range(5)]
        await semaphore.release()
        await semaphore.release()
        assert semaphore.value == 0 and order == []
        late = await curio.spawn(child(5))
        await turns()
        assert order == [0, 1]
        for _ in range(4):
            await semaphore.release()
        assert semaphore.value == 0
        await late.join()
        await semaphore.release()
        assert semaphore.value == 1
        for task in tasks:
            await task.join()

    kernel.run(main)
    assert order == [0, 1, 2, 3, 4, 5]


def test_semaphore_lets_in_as_many_as_it_says(kernel):
    """T20."""
    semaphore = curio.Semaphore(3)
    inside, most = 0, 0

    async def child():
        nonlocal inside, most
        async with semaphore:
            inside += 1
            most = max(most, inside)
            await curio.sleep(0)
            inside -= 1

    async def main():
        for task in [await curio.spawn(child) for _ in range(20)]:
            await task.join()

    kernel.run(main)
    assert (inside, most, semaphore.value) == (0, 3, 3)


def test_semaphore_may_grow(kernel):
    """T20: without a bound a release too many is one permit more."""
    semaphore = curio.Semaphore(1)

    async def main():
        for _ in range(1000):
            await semaphore.release()
        assert semaphore.value == 1001

    kernel.run(main)


def test_bounded_semaphore_does_not_grow(kernel):
    """S21: ValueError, which names it and its bound; nothing has changed."""
    semaphore = curio.BoundedSemaphore(2)

    async def main():
        assert semaphore.bound == 2
        for _ in range(2):
            with pytest.raises(ValueError, match=r"all of its 2 permits"):
                await semaphore.release()
            assert semaphore.value == 2
        await semaphore.acquire()
        await semaphore.release()
        with pytest.raises(ValueError):
            await semaphore.release()
        with pytest.raises(ValueError):
            await curio.BoundedSemaphore(0).release()
        with pytest.raises(AttributeError):
            semaphore.bound = 3

    kernel.run(main)


def test_bounded_semaphore_counts_what_is_handed_over(kernel):
    """S21: a permit on its way to a task is not there to be given back a second time."""
    semaphore = curio.BoundedSemaphore(1)

    async def main():
        await semaphore.acquire()
        task = await curio.spawn(semaphore.acquire())
        await semaphore.release()
        assert semaphore.value == 0
        await task.join()
        await semaphore.release()
        with pytest.raises(ValueError):
            await semaphore.release()
        assert semaphore.value == 1

    kernel.run(main)


def test_bounded_semaphore_is_a_semaphore():
    """S21."""
    assert issubclass(curio.BoundedSemaphore, curio.Semaphore)
    assert not hasattr(curio.Semaphore(), "bound")


# --- conditions -------------------------------------------------------------------------------


@every_condition
def test_condition_is_waited_for(kernel, make):
    """S22, S24, D2: the lock is free meanwhile, and held again afterwards; the notifier goes
    on; those that wait are served in order."""
    condition = make()
    events = []

    async def child(number):
        async with condition:
            assert await condition.wait() is True
            assert condition.locked()
            events.append(number)

    async def main():
        me = await curio.current_task()
        tasks = [await curio.spawn(child(number)) for number in range(4)]
        assert {task.state for task in tasks} == {"COND_WAIT"}
        assert not condition.locked()
        before = me.cycles
        async with condition:
            assert await condition.notify() is None
            events.append("notified")
            await turns()
            # It is woken, but the lock is ours.
            assert [task.state for task in tasks] == ["LOCK_ACQUIRE"] + ["COND_WAIT"] * 3
        assert me.cycles - before == 4
        await tasks[0].join()
        async with condition:
            await condition.notify(2)
        await tasks[2].join()
        async with condition:
            assert await condition.notify_all() is None
        await tasks[3].join()

    kernel.run(main)
    assert events == ["notified", 0, 1, 2, 3]
    assert not condition.locked()


@every_condition
def test_notify_counts(kernel, make):
    """S24: fewer waiters than asked for, or none, is fine; 0 wakes nobody; a notification is
    not kept for later."""
    condition = make()
    woken = []

    async def child(number):
        async with condition:
            await condition.wait()
            woken.append(number)

    async def notify(*args, **keywords):
        async with condition:
            await condition.notify(*args, **keywords)
        await turns(12)

    async def main():
        await notify()
        await notify(5)
        async with condition:
            await condition.notify_all()
        tasks = [await curio.spawn(child, number) for number in range(6)]
        await turns()
        assert woken == []
        await notify(0)
        assert woken == []
        await notify(n=2)
        assert woken == [0, 1]
        await notify(3)
        assert woken == [0, 1, 2, 3, 4]
        await notify(sys.maxsize)
        assert woken == [0, 1, 2, 3, 4, 5]
        for task in tasks:
            await task.join()

    kernel.run(main)


@every_condition
def test_notify_switches_not(kernel, make):
    """D2, section 0: no cycle for the notifier, one for who waits, if the lock is free by then."""
    condition = make()

    async def child():
        me = await curio.current_task()
        async with condition:
            before = me.cycles
            await condition.wait()
            return me.cycles - before

    async def notifies():
        async with condition:
            await condition.notify()
            await condition.notify_all()

    async def main():
        task = await curio.spawn(child())
        me = await curio.current_task()
        before = me.cycles
        await notifies()
        assert me.cycles == before
        return await task.join()

    assert kernel.run(main) == 1


@every_condition
def test_condition_without_its_lock(kernel, make):
    """S22, S24: RuntimeError that says what was called and who should hold what; nothing
    happens."""
    condition = make()

    async def waits():
        async with condition:
            await condition.wait()

    async def main():
        me = await curio.current_task()
        task = await curio.spawn(waits())
        for name, args in (("wait", ()), ("notify", (1,)), ("notify_all", ())):
            for error in (RuntimeError, AssertionError):
                with pytest.raises(error) as caught:
                    await getattr(condition, name)(*args)
            text = str(caught.value)
            assert text.startswith(f"task {me.id} (")
            assert f"Condition.{name}() without its lock" in text
            assert re.search(r"R?Lock \d+ is held by nobody", text)
        with pytest.raises(RuntimeError, match="without its lock"):
            await condition.wait_for(lambda: False)
        with pytest.raises(RuntimeError, match="has released a lock"):
            await condition.release()
        assert task.state == "COND_WAIT" and not condition.locked()
        await task.cancel()

    kernel.run(main)


def test_condition_whose_rlock_another_task_holds(kernel):
    """S22, L50: an RLock knows its owner, and the message names it."""
    lock = curio.RLock()
    condition = curio.Condition(lock)

    async def holds():
        async with lock:
            await curio.sleep(1000)

    async def main():
        task = await curio.spawn(holds())
        for operation in (condition.wait, condition.notify, condition.notify_all):
            with pytest.raises(RuntimeError, match=rf"is held by task {task.id} \(.*holds"):
                await operation()
        await task.cancel()

    kernel.run(main)


def test_condition_gives_an_rlock_up_altogether(kernel):
    """S22: however often it was taken; afterwards it is taken as often as before."""
    lock = curio.RLock()
    condition = curio.Condition(lock)
    events = []

    async def child():
        async with lock, condition, lock:
            events.append("waits")
            await condition.wait()
            events.append("woken")
        assert not lock.locked()

    async def main():
        task = await curio.spawn(child())
        assert not lock.locked()
        async with condition:
            async with lock:
                await condition.notify()
            events.append("notified")
        await task.join()

    kernel.run(main)
    assert events == ["waits", "notified", "woken"]


@pytest.mark.parametrize("interrupt", ["cancel", "timeout"])
def test_condition_takes_an_rlock_as_often_again_when_interrupted(kernel, interrupt):
    """S22: also if the wait raises."""
    lock = curio.RLock()
    condition = curio.Condition(lock)
    seconds = 0.002 if interrupt == "timeout" else 1000

    async def child():
        async with lock, condition, lock:
            try:
                await curio.timeout_after(seconds, condition.wait())
            except curio.CancelledError:
                for _ in range(2):
                    await lock.release()
                assert lock.locked()
                for _ in range(2):
                    await lock.acquire()
                raise

    async def main():
        task = await curio.spawn(child())
        if interrupt == "cancel":
            await task.cancel()
        await task.wait()
        assert isinstance(task.exception, curio.CancelledError)
        assert not lock.locked()

    kernel.run(main)


def test_conditions_share_a_lock(kernel):
    """T21: the classic queue of two conditions and one lock."""
    lock = curio.Lock()
    not_empty, not_full = curio.Condition(lock), curio.Condition(lock)
    items, got = [], []

    async def consumer():
        for _ in range(20):
            async with not_empty:
                await not_empty.wait_for(lambda: items)
                got.append(items.pop(0))
                await not_full.notify()

    async def producer():
        for number in range(20):
            async with not_full:
                await not_full.wait_for(lambda: len(items) < 3)
                items.append(number)
                await not_empty.notify()

    async def main():
        tasks = [await curio.spawn(consumer), await curio.spawn(producer)]
        for task in tasks:
            await task.join()

    kernel.run(main)
    assert got == list(range(20)) and not lock.locked()


@every_condition
def test_wait_for(kernel, make):
    """S23: the predicate is called with the lock held, until its value is true, which is given."""
    condition = make()
    calls = []
    values = [0, "", None, [], "value"]

    def predicate():
        assert condition.locked()
        calls.append(values[0])
        return values.pop(0)

    async def child():
        async with condition:
            return await condition.wait_for(predicate)

    async def main():
        task = await curio.spawn(child())
        for _ in range(4):
            assert task.state == "COND_WAIT"
            async with condition:
                await condition.notify()
            await turns()
        assert await task.join() == "value"
        # True from the beginning: nothing is waited for, nothing released.
        values.append(42)
        async with condition:
            assert await condition.wait_for(predicate) == 42

    kernel.run(main)
    assert calls == [0, "", None, [], "value", 42]


@every_condition
@pytest.mark.parametrize("when", ["at once", "later"])
def test_wait_for_with_a_predicate_that_fails(kernel, make, when):
    """S23: its error comes out, and the lock is held, as often as before."""
    condition = make()
    values = [] if when == "at once" else [False, False]

    def predicate():
        if values:
            return values.pop()
        raise Oops

    async def child():
        async with condition:
            with pytest.raises(Oops):
                await condition.wait_for(predicate)
            assert condition.locked()
            await condition.notify()
        with pytest.raises(RuntimeError):
            await condition.release()
        return "fine"

    async def main():
        task = await curio.spawn(child())
        while not task.terminated:
            async with condition:
                await condition.notify_all()
            await turns()
        assert await task.join() == "fine"
        assert not condition.locked()

    kernel.run(main)


def test_wait_for_wants_something_to_call(kernel):
    """S23."""
    condition = curio.Condition()

    async def main():
        async with condition:
            for wrong in (5, None, "text"):
                with pytest.raises(TypeError, match="callable"):
                    await condition.wait_for(wrong)
            assert condition.locked()

    kernel.run(main)


@every_condition
def test_notification_of_who_is_cancelled_goes_to_another(kernel, make):
    """1.14: cancelled first, notified then: the next in line has it."""
    condition = make()
    events = []

    async def child(number):
        try:
            async with condition:
                await condition.wait()
                events.append(number)
        except curio.TaskCancelled:
            events.append(f"{number} cancelled")

    async def main():
        tasks = [await curio.spawn(child(number)) for number in range(3)]
        async with condition:
            await tasks[0].cancel(blocking=False)
            await condition.notify()
        await turns(8)
        assert events == ["0 cancelled", 1]
        # Notified first, cancelled then: it is its own.
        async with condition:
            await condition.notify()
            await tasks[2].cancel(blocking=False)
        await tasks[2].wait()

    kernel.run(main)
    assert events == ["0 cancelled", 1, 2]
    assert not condition.locked()


@every_condition
def test_who_was_notified_waits_for_the_lock_whatever_comes(kernel, make):
    """S22: the exception comes after the lock is back, however long that takes."""
    condition = make()
    events = []

    async def child(seconds):
        async with condition:
            try:
                await curio.timeout_after(seconds, condition.wait())
                events.append("notified")
            except curio.CancelledError as error:
                assert condition.locked()
                events.append(type(error))

    async def main():
        timed, cancelled = [await curio.spawn(child(s)) for s in (0.02, 1000)]
        async with condition:
            await curio.sleep(0.04)
            await cancelled.cancel(blocking=False)
            await turns()
            assert (timed.state, cancelled.state) == ("LOCK_ACQUIRE", "LOCK_ACQUIRE")
            assert events == []
        await timed.join()
        await cancelled.wait()

    kernel.run(main)
    assert events == [curio.TaskTimeout, curio.TaskCancelled]
    assert not condition.locked()


def test_lock_of_a_condition(kernel):
    """T21: what it is given is the same lock; None is a new one; anything else a TypeError."""

    async def main():
        for lock in (curio.Lock(), curio.RLock()):
            condition = curio.Condition(lock)
            async with lock:
                assert condition.locked()
                await condition.notify()
            async with condition:
                assert lock.locked()
            assert not lock.locked() and not condition.locked()

    kernel.run(main)
    assert not curio.Condition(None).locked()
    assert not curio.Condition(lock=curio.Lock()).locked()
    for wrong in (5, "lock", object(), threading.Lock(), curio.Semaphore(), curio.Condition()):
        with pytest.raises(TypeError, match="a condition needs a Lock or an RLock, not"):
            curio.Condition(wrong)


# --- results ----------------------------------------------------------------------------------


def test_result_has_a_value(kernel):
    """L52, D2: who waits gets it first; it stays; `unwrap` costs nothing any more."""
    result, value = curio.Result(), object()
    events = []

    async def child(number):
        assert await result.unwrap() is value
        events.append(number)

    async def main():
        for number in range(3):
            task = await curio.spawn(child(number))
            assert task.state == "EVENT_WAIT"
        assert result.is_set() is False
        assert await result.set_value(value) is None
        events.append("set")
        assert result.is_set() is True

    async def unwraps():
        for _ in range(10):
            assert await result.unwrap() is value

    kernel.run(main)
    assert events == [0, 1, 2, "set"]
    assert cycles_of(kernel, unwraps) == 0


@pytest.mark.parametrize("value", [None, False, 0, (), Oops("an exception as a value")])
def test_result_may_be_anything(kernel, value):
    """L52."""
    result = curio.Result()

    async def main():
        await result.set_value(value)
        assert await result.unwrap() is value

    kernel.run(main)


@pytest.mark.parametrize("form", ["instance", "class", "cancellation"])
def test_result_has_an_exception(kernel, form):
    """L52: an instance is raised as it is, a class is called."""
    result = curio.Result()
    exception = {
        "instance": Oops("mine"),
        "class": Oops,
        "cancellation": curio.CancelledError("mine"),
    }[form]

    async def child():
        await result.unwrap()

    async def main():
        task = await curio.spawn(child())
        assert await result.set_exception(exception) is None
        assert result.is_set()
        kind = exception if isinstance(exception, type) else type(exception)
        for _ in range(2):
            with pytest.raises(kind) as caught:
                await result.unwrap()
            if form != "class":
                assert caught.value is exception
        await task.wait()
        assert type(task.exception) is kind

    kernel.run(main, log_errors=False)


def test_result_wants_an_exception(kernel):
    """L52: TypeError, at the await; nothing is set."""
    result = curio.Result()

    async def main():
        for wrong in (5, None, "text", int, Oops("x").args):
            with pytest.raises(TypeError, match="a result's exception must be an exception, not"):
                await result.set_exception(wrong)
            assert not result.is_set()

    kernel.run(main)


def test_result_may_be_set_again(kernel):
    """L52: the last one counts."""
    result = curio.Result()

    async def main():
        await result.set_value(1)
        await result.set_value(2)
        assert await result.unwrap() == 2
        await result.set_exception(Oops)
        with pytest.raises(Oops):
            await result.unwrap()
        await result.set_value(3)
        assert await result.unwrap() == 3

    kernel.run(main)


def test_setting_a_result_is_no_cancellation_point(kernel):
    """L52, 1.14."""
    first, second = curio.Result(), curio.Result()

    async def setter():
        await first.set_value(1)
        await second.set_exception(Oops)
        await curio.sleep(0)

    async def main():
        task = await curio.spawn(setter)
        await task.cancel()
        assert type(task.exception) is curio.TaskCancelled
        assert first.is_set() and second.is_set()

    kernel.run(main)


def test_exception_of_a_result_does_not_grow(kernel):
    """Once, each `unwrap` added to the exception's traceback, and so kept the frames, with all
    they refer to, of everybody who had asked before."""
    result = curio.Result()

    class Thing:
        pass

    async def asks(thing):
        with pytest.raises(Oops):
            await result.unwrap()
        return weakref.ref(thing)

    async def main():
        error = Oops()
        await result.set_exception(error)
        gone = [await asks(Thing()) for _ in range(20)]
        gc.collect()
        # The traceback of the last one may be there.
        assert [ref() for ref in gone[:-1]] == [None] * 19
        assert len(traceback.extract_tb(error.__traceback__)) < 10

    kernel.run(main)


# --- outside of a kernel, and in several ------------------------------------------------------

module_event = curio.Event()
module_lock = curio.Lock()
module_rlock = curio.RLock()
module_semaphore = curio.Semaphore(2)
module_condition = curio.Condition()
module_result = curio.Result()


async def uses_all_of_the_module(number):
    """Uses each of them in such a way that tasks wait for it, and leaves it as it was."""
    seen = []

    async def child():
        await module_event.wait()
        async with module_lock, module_rlock, module_rlock, module_semaphore:
            seen.append("locks")
        async with module_condition:
            await module_condition.wait()
        seen.append(await module_result.unwrap())

    async with module_lock, module_rlock, module_semaphore:
        await module_semaphore.acquire()
        task = await curio.spawn(child())
        await module_event.set()
    await module_semaphore.release()
    while task.state != "COND_WAIT":
        await curio.sleep(0)
    async with module_condition:
        await module_condition.notify()
    await turns()
    await module_result.set_value(number)
    await task.join()
    module_event.clear()
    return seen


def test_primitives_of_a_module_serve_one_kernel_after_the_other():
    """T16: made before any kernel; used by several, and in another thread."""
    assert curio.run(uses_all_of_the_module, 1) == ["locks", 1]
    with curio.Kernel() as first, curio.Kernel() as second:
        for kernel in (first, second, first):
            assert kernel.run(uses_all_of_the_module, 2)[0] == "locks"
    results = []
    thread = threading.Thread(
        target=lambda: results.append(curio.run(uses_all_of_the_module, 3)[0])
    )
    thread.start()
    thread.join()
    assert results == ["locks"]


def test_primitive_for_which_tasks_of_another_kernel_wait(kernel):
    """1.4: one kernel at a time; the second gets an error, the first is not disturbed. What the
    second gives, the tasks of the first have."""
    event, lock, result = curio.Event(), curio.Lock(), curio.Result()
    semaphore, condition = curio.Semaphore(0), curio.Condition()

    async def enters():
        async with lock:
            return True

    async def waits():
        async with condition:
            return await condition.wait()

    operations = (event.wait, enters, semaphore.acquire, waits, result.unwrap)

    async def main():
        await lock.acquire()
        tasks = [await curio.spawn(operation, daemon=True) for operation in operations]
        await turns()
        return tasks

    async def other():
        for operation in operations:
            with pytest.raises(curio.CurioError, match="tasks of another kernel are waiting for"):
                await operation()
        assert not condition.locked()
        await event.set()
        await lock.release()
        await semaphore.release()
        await result.set_value(True)
        async with condition:
            await condition.notify()

    async def goes_on():
        return [await task.join() for task in tasks]

    tasks = kernel.run(main)
    curio.run(other)
    assert kernel.run(goes_on) == [True] * 5
    assert not lock.locked()


@pytest.mark.parametrize("shut", [True, False])
def test_kernel_that_ends_while_tasks_wait(shut):
    """T16: shut down or dropped, it takes its tasks out of every line; the primitives are good
    for the next."""
    event, lock, semaphore, condition = (
        curio.Event(),
        curio.Lock(),
        curio.Semaphore(0),
        curio.Condition(),
    )

    async def enters():
        async with lock:
            await curio.sleep(1000)

    async def waits():
        async with condition:
            await condition.wait()

    async def main():
        for operation in (event.wait, semaphore.acquire, enters, enters, waits, waits):
            await curio.spawn(operation, daemon=True)
        await turns()
        assert [x.statistics().waiting for x in (event, lock, semaphore, condition)] == [1, 1, 1, 2]

    async def again():
        # A shutdown has run the tasks' clean-up; in a dropped kernel it cannot be awaited.
        assert lock.locked() is not shut
        if lock.locked():
            await lock.release()
        async with lock, condition:
            await condition.notify_all()
        await semaphore.release()
        assert semaphore.value == 1
        task = await curio.spawn(event.wait())
        await event.set()
        await task.join()

    kernel = curio.Kernel()
    kernel.run(main)
    if shut:
        kernel.shutdown()
    del kernel
    gc.collect()
    assert [x.statistics().waiting for x in (event, lock, semaphore, condition)] == [0, 0, 0, 0]
    curio.run(again)


def operations():
    """Each operation, by its name, on fresh primitives."""
    event, lock, rlock, semaphore, condition, result = (
        curio.Event(),
        curio.Lock(),
        curio.RLock(),
        curio.Semaphore(),
        curio.Condition(),
        curio.Result(),
    )
    return {
        "Event.wait": event.wait,
        "Event.set": event.set,
        "Lock.acquire": lock.acquire,
        "Lock.release": lock.release,
        "Lock.__aenter__": lock.__aenter__,
        "Lock.__aexit__": lambda: lock.__aexit__(None, None, None),
        "RLock.acquire": rlock.acquire,
        "RLock.release": rlock.release,
        "RLock.__aenter__": rlock.__aenter__,
        "RLock.__aexit__": lambda: rlock.__aexit__(None, None, None),
        "Semaphore.acquire": semaphore.acquire,
        "Semaphore.release": semaphore.release,
        "Semaphore.__aenter__": semaphore.__aenter__,
        "Semaphore.__aexit__": lambda: semaphore.__aexit__(None, None, None),
        "Condition.acquire": condition.acquire,
        "Condition.release": condition.release,
        "Condition.__aenter__": condition.__aenter__,
        "Condition.__aexit__": lambda: condition.__aexit__(None, None, None),
        "Condition.wait": condition.wait,
        "Condition.wait_for": lambda: condition.wait_for(lambda: False),
        "Condition.notify": condition.notify,
        "Condition.notify_all": condition.notify_all,
        "Result.set_value": lambda: result.set_value(1),
        "Result.set_exception": lambda: result.set_exception(Oops),
        "Result.unwrap": result.unwrap,
    }


every_operation = pytest.mark.parametrize("name", operations())


@every_operation
def test_outside_of_a_kernel(name):
    """T16: made outside, but awaited inside: RuntimeError at the await, of whatever kind."""
    with pytest.raises(RuntimeError, match=r"outside of a|held by nobody"):
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
    if operation.__name__ != "<lambda>":
        assert (warning.filename, warning.lineno) == (HERE, line("forgotten"))


@every_operation
def test_coroutine_functions(name):
    """T73: for inspect, too; with a signature and documentation."""
    kind, method = name.split(".")
    function = getattr(getattr(curio, kind), method)
    assert inspect.iscoroutinefunction(function)
    assert inspect.iscoroutinefunction(getattr(getattr(curio, kind)(), method))
    assert function.__qualname__ == name and function.__name__ == method
    assert next(iter(inspect.signature(function).parameters)) == "self"
    assert inspect.getdoc(function)
    assert os.path.basename(inspect.getsourcefile(function)) == "sync.py"


def test_plain_functions():
    """S19, S20: what cannot block is not async."""
    for method in (
        curio.Event.is_set,
        curio.Event.clear,
        curio.Lock.locked,
        curio.RLock.locked,
        curio.Semaphore.locked,
        curio.Condition.locked,
        curio.Result.is_set,
        curio.Lock.statistics,
    ):
        assert not inspect.iscoroutinefunction(method)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_help(kind):
    """T73: what a reader needs is there: what it is, each method, what a cancellation does."""
    text = pydoc.render_doc(kind, renderer=pydoc.plaintext)
    assert inspect.getdoc(kind).splitlines()[0] in text
    for name, member in vars(kind).items():
        if inspect.iscoroutinefunction(member):
            assert f"async {name}(self" in text or f"async def {name}(self" in text, name
            if not name.startswith("_"):
                assert "Cancellation:" in inspect.getdoc(member), name


def test_signatures():
    """T73: as documented."""
    assert str(inspect.signature(curio.Condition.notify)) == "(self, n=1)"
    assert str(inspect.signature(curio.Condition.wait_for)) == "(self, predicate)"
    assert str(inspect.signature(curio.Result.set_value)) == "(self, value)"
    assert str(inspect.signature(curio.Result.set_exception)) == "(self, exception)"
    for kind in (curio.Semaphore, curio.BoundedSemaphore):
        assert str(inspect.signature(kind)) == "(value=1)"
    assert str(inspect.signature(curio.Condition)) == "(lock=None)"
    for kind in (curio.Event, curio.Lock, curio.RLock, curio.Result):
        assert str(inspect.signature(kind)) == "()"


# --- wrong arguments --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [curio.Semaphore, curio.BoundedSemaphore])
def test_semaphore_of_a_wrong_number(kind):
    """T20: ValueError, TypeError, OverflowError."""
    with pytest.raises(ValueError, match="0 or more permits, not -1"):
        kind(-1)
    for wrong in (None, "2", 1.0, [], object()):
        with pytest.raises(TypeError):
            kind(wrong)
    for wrong in (10**30, -(10**30)):
        with pytest.raises((OverflowError, ValueError)):
            kind(wrong)
    with pytest.raises(TypeError):
        kind(1, 2)


def test_semaphore_of_the_largest_number(kernel):
    """T20: it does not run over."""
    semaphore = curio.Semaphore(sys.maxsize)

    async def main():
        for _ in range(3):
            await semaphore.release()
        assert semaphore.value >= sys.maxsize
        for _ in range(3):
            await semaphore.acquire()
        return semaphore.value

    assert kernel.run(main) == sys.maxsize


def test_notify_of_a_wrong_number(kernel):
    """S24: at the call, not at the await; nobody is woken."""
    condition = curio.Condition()

    async def waits():
        async with condition:
            await condition.wait()

    async def main():
        task = await curio.spawn(waits())
        async with condition:
            with pytest.raises(ValueError, match="0 or more tasks, not -1"):
                await condition.notify(-1)
            for wrong in (None, "1", 1.0):
                with pytest.raises(TypeError):
                    await condition.notify(wrong)
            with pytest.raises(TypeError):
                await condition.notify(1, 2)
        await turns()
        assert task.state == "COND_WAIT"
        await task.cancel()

    kernel.run(main)


def test_methods_of_one_kind_do_not_fit_another():
    """T73: TypeError, no crash."""
    for function, wrong in (
        (curio.Event.wait, curio.Lock()),
        (curio.Event.set, object()),
        (curio.Lock.acquire, curio.RLock()),
        (curio.RLock.release, curio.Lock()),
        (curio.Semaphore.acquire, 5),
        (curio.Condition.wait, curio.Lock()),
    ):
        with pytest.raises(TypeError, match="was called on something else"):
            function(wrong)
        with pytest.raises(TypeError, match="missing"):
            function()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nothing_else_can_be_put_into_a_primitive(kind):
    """A misspelled attribute or argument is an error."""
    with pytest.raises(AttributeError):
        kind().misspelled = 5
    with pytest.raises(TypeError):
        kind(1, 2, 3)
    with pytest.raises(TypeError):
        kind(misspelled=5)


# --- what they tell ---------------------------------------------------------------------------


def test_repr(kernel):
    """What it is, its number, how it stands, and how many wait, if any do."""
    event, lock, rlock = curio.Event(), curio.Lock(), curio.RLock()
    semaphore, bounded = curio.Semaphore(2), curio.BoundedSemaphore(1)
    own, given = curio.Condition(), curio.Condition(rlock)
    result, failed = curio.Result(), curio.Result()

    def shown(thing):
        text = re.fullmatch(r"<curio\.(\w+)(?: \d+)? \[(.*)\]>", repr(thing))
        assert text and text[1] == type(thing).__name__, repr(thing)
        return text[2]

    async def enters(lock):
        async with lock:
            pass

    async def waits(condition):
        async with condition:
            await condition.wait()

    async def main():
        me = await curio.current_task()
        everything = (event, lock, rlock, semaphore, bounded, own, given, result)
        assert [shown(thing) for thing in everything] == [
            "unset",
            "unlocked",
            "unlocked",
            "value: 2",
            "value: 1",
            "unlocked",
            "unlocked",
            "unset",
        ]
        tasks = [await curio.spawn(event.wait()) for _ in range(2)]
        async with lock, rlock, rlock, bounded:
            for thing in (lock, rlock, bounded):
                tasks.append(await curio.spawn(enters(thing)))
            assert shown(event) == "unset, 2 waiting"
            assert shown(lock) == shown(rlock) == f"locked by task {me.id}, 1 waiting"
            assert shown(bounded) == "value: 0, 1 waiting"
            assert shown(given).startswith("locked")
        await curio.sleep(0.001)
        tasks += [await curio.spawn(waits(own)) for _ in range(3)]
        assert shown(own) == "unlocked, 3 waiting"
        await event.set()
        assert shown(event) == "set"
        await result.set_value([1])
        await failed.set_exception(Oops("text"))
        assert shown(result) == "value: [1]"
        assert shown(failed) == "exception: Oops('text')"
        async with own:
            await own.notify_all()
        for task in tasks:
            await task.join()

    kernel.run(main)


def test_repr_of_a_lock_that_was_handed_over(kernel):
    """It names the new owner at once."""
    lock = curio.Lock()

    async def main():
        await lock.acquire()
        task = await curio.spawn(lock.acquire())
        await lock.release()
        assert f"[locked by task {task.id}]" in repr(lock)
        await task.join()
        await lock.release()
        assert "[unlocked]" in repr(lock)

    kernel.run(main)


def test_numbers_tell_primitives_apart():
    """No two have the same."""
    numbers = {repr(kind()) for kind in KINDS if kind is not curio.Result for _ in range(10)}
    assert len(numbers) == 10 * (len(KINDS) - 1)


def test_name_of_a_class_of_ones_own():
    """A subclass has its own name in the repr, its attributes, and works."""

    class Door(curio.Lock):
        def __init__(self):
            self.opened = 0

        async def release(self):
            self.opened += 1
            await super().release()

    door = Door()

    async def main():
        await door.acquire()
        await door.release()

    curio.run(main)
    assert door.opened == 1
    assert repr(door).startswith("<curio.Door ") or ".Door " in repr(door)


def test_statistics(kernel):
    """Figures of a moment, as a tuple with names: owner, waiting, level, highest, capacity."""
    event, lock, semaphore = curio.Event(), curio.Lock(), curio.Semaphore(2)
    bounded, condition = curio.BoundedSemaphore(3), curio.Condition()

    async def waits():
        async with condition:
            await condition.wait()

    async def main():
        me = await curio.current_task()
        assert event.statistics() == (None, 0, 0, 0, 0)
        assert lock.statistics() == (None, 0, 0, 0, 0)
        assert semaphore.statistics() == (None, 0, 2, 2, 0)
        assert bounded.statistics() == (None, 0, 3, 3, 3)
        assert condition.statistics() == (None, 0, 0, 0, 0)
        await lock.acquire()
        tasks = [await curio.spawn(lock.acquire()), await curio.spawn(event.wait())]
        assert lock.statistics()[:2] == (me.id, 1)
        assert event.statistics().waiting == 1
        await lock.release()
        assert lock.statistics()[:2] == (tasks[0].id, 0)
        for _ in range(3):
            await semaphore.release()
        for _ in range(4):
            await semaphore.acquire()
        assert semaphore.statistics() == (None, 0, 1, 5, 0)
        await event.set()
        assert event.statistics() == (None, 0, 1, 1, 0)
        event.clear()
        assert event.statistics() == (None, 0, 0, 1, 0)
        waiter = await curio.spawn(waits())
        assert condition.statistics().waiting == 1
        await waiter.cancel()
        assert condition.statistics().waiting == 0
        await tasks[0].join()
        await lock.release()
        assert lock.statistics() == (None, 0, 0, 0, 0)
        figures = semaphore.statistics()
        assert figures.owner is None
        assert (figures.waiting, figures.level, figures.highest, figures.capacity) == (0, 1, 5, 0)
        assert repr(figures) == "Statistics(owner=None, waiting=0, level=1, highest=5, capacity=0)"
        assert not hasattr(curio.Result, "statistics")

    kernel.run(main)


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_last_reference(kernel, kind):
    """A primitive goes with its last reference, one that is waited for with its last waiter."""

    async def main():
        thing = kind()
        gone = weakref.ref(thing)
        del thing
        assert gone() is None

    kernel.run(main)


def test_waiter_holds_what_it_waits_for(kernel):
    """The wait is enough to keep it; the end of the wait lets it go."""

    async def waits(box):
        await box.pop().wait()

    async def enters(box):
        async with box.pop():
            pass

    async def main():
        event, lock = curio.Event(), curio.Lock()
        await lock.acquire()
        gone = weakref.ref(event), weakref.ref(lock)
        tasks = [await curio.spawn(waits([event])), await curio.spawn(enters([lock]))]
        del event, lock
        gc.collect()
        for task in tasks:
            assert task.state in ("EVENT_WAIT", "LOCK_ACQUIRE")
            await task.cancel()
        del task, tasks
        gc.collect()
        assert [ref() for ref in gone] == [None, None]

    kernel.run(main)


def test_result_in_a_cycle_is_collected(kernel):
    """A result that is its own value, or whose value knows a task that waits for it."""

    class Thing:
        pass

    async def waits(result):
        return await result.unwrap()

    async def main():
        result, thing = curio.Result(), Thing()
        gone = weakref.ref(thing)
        task = await curio.spawn(waits(result))
        thing.knows = (result, task)
        await result.set_value(thing)
        await task.join()
        del result, thing, task
        gc.collect()
        assert gone() is None

    kernel.run(main)


def test_lock_in_a_cycle_of_operations_is_collected():
    """Operations that were never awaited, and that the thing they work on refers to."""

    class Owner:
        def __init__(self, lock):
            self.lock = lock
            self.operations = [lock.acquire(), lock.__aenter__()]
            for operation in self.operations:
                operation.close()

    class Held(curio.Lock):
        pass

    lock = Held()
    lock.owner = Owner(lock)
    gone = weakref.ref(lock)
    del lock
    gc.collect()
    assert gone() is None


def test_operation_in_a_cycle_with_its_lock_is_collected():
    """`async with` gives the lock back, so its operation refers to it."""

    class Held(curio.Lock):
        pass

    lock = Held()
    lock.operation = lock.__aenter__()
    gone = weakref.ref(lock)
    with pytest.warns(RuntimeWarning, match="Lock.__aenter__"):
        del lock
        gc.collect()
    assert gone() is None


def test_loops_do_not_grow(kernel):
    """What an operation needs, it gives back: blocks of memory before and after are as many."""
    event, lock, rlock = curio.Event(), curio.Lock(), curio.RLock()
    semaphore, condition = curio.Semaphore(1), curio.Condition()

    async def partner():
        while True:
            async with lock, rlock, rlock, semaphore:
                await curio.sleep(0)
            async with condition:
                await condition.wait()
            await event.wait()

    async def loop(count):
        for _ in range(count):
            async with lock, rlock, semaphore:
                await curio.sleep(0)
            async with condition:
                await condition.notify()
            await event.set()
            event.clear()
            async with curio.ignore_after(0):
                await event.wait()
            result = curio.Result()
            await result.set_value(None)
            await result.unwrap()
            curio.Semaphore(2), curio.Condition(rlock)

    async def main():
        await curio.spawn(partner, daemon=True)
        await loop(200)
        readings = []
        for _ in range(4):
            gc.collect()
            readings.append(sys.getallocatedblocks())
            await loop(200)
        return readings

    readings = kernel.run(main)
    assert readings[-1] - readings[0] < 100, readings
