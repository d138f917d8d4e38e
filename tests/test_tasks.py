"""Tasks: spawning, joining and cancelling them, and what they tell about themselves.

Goal: the contract of `Task` and `spawn`. Method: traces of events compared as a whole, since
the schedule itself is part of the contract, and counts of cycles compared exactly.
"""

import contextvars
import gc
import inspect
import os
import re
import threading
import traceback
import weakref

import curio
import pytest
from curio.task import ContextTask

HERE = __file__


class Oops(Exception):
    pass


async def returns(value):
    await curio.sleep(0)
    return value


async def fails(error):
    await curio.sleep(0)
    raise error


async def sleeper():
    await curio.sleep(1000)


def line(text):
    """Number of the only line of this file that has `text` as its comment."""
    with open(HERE) as source:
        found = [n for n, line in enumerate(source, 1) if line.rstrip().endswith(f"# {text}")]
    assert len(found) == 1
    return found[0]


# --- spawn -----------------------------------------------------------------------------


def test_spawn_of_an_object_lets_it_run_first(kernel):
    """T5, D1: the child has run up to its first wait when spawn returns."""
    events = []

    async def child():
        events.append("child starts")
        await curio.sleep(0)
        events.append("child ends")

    async def main():
        task = await curio.spawn(child())
        events.append("spawned")
        assert (task.state, task.cycles) == ("READY", 1)
        await task.join()
        events.append("joined")

    kernel.run(main)
    assert events == ["child starts", "spawned", "child ends", "joined"]


def test_spawn_of_a_function_goes_on_first(kernel):
    """L4, D1: the child waits for its turn."""
    events = []

    async def child(name, *, end="ends"):
        events.append(f"{name} starts")
        await curio.sleep(0)
        events.append(f"{name} {end}")

    async def main():
        task = await curio.spawn(child, "child")
        events.append("spawned")
        assert (task.state, task.cycles) == ("READY", 0)
        await task.join()
        events.append("joined")

    kernel.run(main)
    assert events == ["spawned", "child starts", "child ends", "joined"]


def test_spawned_object_goes_behind_who_is_ready(kernel):
    """T5, D1: the new task goes to the end of the ready queue, the caller behind it."""
    events = []

    async def child(name):
        events.append(name)
        await curio.sleep(0)
        events.append(name + " again")

    async def main():
        await curio.spawn(child, "first")
        await curio.spawn(child, "second")
        await curio.spawn(child("third"))
        events.append("main")
        await curio.sleep(0)

    kernel.run(main)
    assert events[:4] == ["first", "second", "third", "main"]


def test_spawn_makes_no_task_of_what_is_no_coroutine(kernel):
    """T5: TypeError, at the await, and nobody is left behind."""

    async def main():
        for wrong in (5, None, "text", [], lambda: 5):
            with pytest.raises(TypeError, match="spawn"):
                await curio.spawn(wrong)
        return len(curio.get_all_tasks())

    assert kernel.run(main) == 1


def test_spawn_gives_arguments_and_keywords():
    """L4: arguments go to the function; `daemon` is spawn's own."""

    async def child(*args):
        return args, (await curio.current_task()).daemon

    async def main():
        plain = await curio.spawn(child, 1, 2)
        daemon = await curio.spawn(child, daemon=True)
        return await plain.join(), await daemon.join()

    assert curio.run(main) == (((1, 2), False), ((), True))


def test_error_of_the_function_is_raised_by_spawn(kernel):
    """L4: a function that cannot make its coroutine makes no task."""

    def broken():
        raise Oops("no coroutine")

    async def main():
        with pytest.raises(Oops):
            await curio.spawn(broken)
        with pytest.raises(TypeError, match="positional"):
            await curio.spawn(returns, 1, 2, 3)
        assert len(curio.get_all_tasks()) == 1

    kernel.run(main)


def test_spawn_is_no_cancellation_point(kernel):
    """T5, 1.14: a task that was made is returned; the cancellation comes at the next wait."""
    made = []

    async def maker():
        made.append(await curio.spawn(sleeper()))
        made.append("after")
        await curio.sleep(1000)

    async def main():
        task = await curio.spawn(maker)
        assert await task.cancel() is True
        assert made[1:] == ["after"]
        assert task.cancelled
        assert await made[0].cancel()

    kernel.run(main)


def test_timeout_does_not_strike_spawn(kernel):
    """T5, 1.14: not even one that has expired already."""

    async def main():
        tasks = []
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0):
                tasks.append(await curio.spawn(returns(7)))
                await curio.sleep(0)
        return await tasks[0].join()

    assert kernel.run(main) == 7


# --- cycles ----------------------------------------------------------------------------


def test_cycles_of_the_tutorial(kernel):
    """Section 0, D6: parent 5, kid 1; then parent 5, kid 6, at the places where `ps` looks."""
    counts = []

    async def kid():
        await curio.sleep(1000)

    async def parent():
        me = await curio.current_task()
        kid_task = await curio.spawn(kid())
        for _ in range(3):
            await curio.sleep(0)
        counts.append((me.cycles, kid_task.cycles))
        await kid_task.cancel()

    kernel.run(parent)
    assert counts == [(5, 1)]


def test_instant_operations_cost_no_cycle(kernel):
    """Section 0: the task, the clock, timeouts, a join of who has ended, a cancel that comes
    too late, setting and checking a cancellation."""

    async def instant():
        await curio.current_task()
        await curio.clock()
        async with curio.timeout_after(10):
            pass
        await curio.timeout_after(10, curio.clock())
        await curio.ignore_after(None, curio.clock)
        async with curio.disable_cancellation():
            await curio.check_cancellation()
        await curio.set_cancellation(None)

    async def main():
        me = await curio.current_task()
        ended = await curio.spawn(returns(1))
        await ended.join()
        before = me.cycles
        await instant()
        assert await ended.join() == 1
        await ended.wait()
        assert await ended.cancel() is False
        await me.cancel_children()
        await curio.spawn(returns, 1)
        return me.cycles - before

    assert kernel.run(main) == 0


def test_each_wait_costs_one_cycle(kernel):
    """Section 0: sleep(0), a sleep, a join that waits, a spawn of an object."""

    async def main():
        me = await curio.current_task()
        counts = [me.cycles]
        await curio.sleep(0)
        counts.append(me.cycles)
        await curio.sleep(0.001)
        counts.append(me.cycles)
        task = await curio.spawn(returns(1))
        counts.append(me.cycles)
        await task.join()
        counts.append(me.cycles)
        task = await curio.spawn(sleeper)
        await task.cancel()
        counts.append(me.cycles)
        return counts, task.cycles

    # The cancelled one was resumed to begin, and once more for the exception.
    assert kernel.run(main) == ([1, 2, 3, 4, 5, 6], 1)


# --- ids, repr, attributes -------------------------------------------------------------


def test_ids_count_up_in_order_of_creation(program):
    """Section 0: 1, 2, 3 ... in the process; none is spent on hidden tasks."""
    running = program(
        """
import curio
async def child(): await curio.sleep(0)
async def main():
    me = await curio.current_task()
    tasks = [await curio.spawn(child()), await curio.spawn(child)]
    print(me.id, *[task.id for task in tasks])
curio.run(main)
kernel = curio.Kernel()
print(kernel.add_task(child).id)
kernel.run(main)
"""
    )
    running.succeed()
    assert running.lines == ["1 2 3", "4", "5 6 7"]


def test_repr_has_exactly_this_shape(kernel):
    """T6, D7: `Task(id=2, <coroutine object parent at 0x...>, state='TASK_JOIN')`."""

    async def main():
        task = await curio.spawn(sleeper())
        texts = [repr(task), repr(await curio.current_task())]
        assert repr(task.coro) in repr(task)
        await task.cancel()
        return [*texts, repr(task), task.id]

    sleeping, running, ended, number = kernel.run(main)
    coro = r"<coroutine object [\w.<>]+ at 0x[0-9a-f]+>"
    assert re.fullmatch(rf"Task\(id={number}, {coro}, state='TIME_SLEEP'\)", sleeping)
    assert re.fullmatch(rf"Task\(id=\d+, {coro}, state='RUNNING'\)", running)
    assert re.fullmatch(rf"Task\(id={number}, {coro}, state='TERMINATED'\)", ended)
    assert "<coroutine object sleeper at" in sleeping


def test_str_tells_the_place(kernel):
    """L12, D7: repr + ` at file:line`, as long as there is a place."""

    async def child():
        await curio.sleep(1000)  # here it sleeps

    async def main():
        task = await curio.spawn(child())
        text, representation = str(task), repr(task)
        await task.cancel()
        return text, representation, str(task), repr(task)

    text, representation, ended, ended_representation = kernel.run(main)
    assert text == f"{representation} at {HERE}:{line('here it sleeps')}"
    assert ended == ended_representation


def test_states(kernel):
    """Section 0: the names of what a task is doing, D13 after its end."""

    async def joins(task, how):
        await getattr(task, how)()

    async def main():
        me = await curio.current_task()
        assert me.state == "RUNNING"
        fresh = await curio.spawn(returns, 1)
        assert fresh.state == "READY"
        sleeping = await curio.spawn(sleeper())
        assert sleeping.state == "TIME_SLEEP"
        for how in ("join", "wait"):
            task = await curio.spawn(joins(sleeping, how))
            assert task.state == "TASK_JOIN"
            await task.cancel()
        await sleeping.cancel()
        failed = await curio.spawn(fails(Oops()))
        await failed.wait()
        await fresh.join()
        states = {task.state for task in (fresh, sleeping, failed, task)}
        assert states == {"TERMINATED"}

    kernel.run(main, log_errors=False)


def test_attributes_of_a_task(kernel):
    """T15, S13, L8: what can be read of a living task."""

    async def child():
        await curio.timeout_after(500, curio.sleep(1000))

    async def main():
        me = await curio.current_task()
        clock = await curio.clock()
        coro = child()
        task = await curio.spawn(coro)
        assert task.coro is coro
        assert task.name == coro.__qualname__
        assert (task.daemon, task.terminated, task.cancelled) == (False, False, False)
        assert (task.parentid, me.parentid) == (me.id, None)
        assert (task.taskgroup, task.joined, task.exc_info) == (None, False, None)
        assert (task.allow_cancel, task.cancel_pending) == (True, False)
        assert clock + 499 < task.timeout < clock + 560
        assert clock + 999 < task.sleep < clock + 1060
        assert (me.timeout, me.sleep) == (None, None)
        await task.cancel()
        assert (task.timeout, task.sleep) == (None, None)
        assert (task.terminated, task.cancelled, task.joined) == (True, True, True)

    kernel.run(main)


def test_nearest_deadline_is_shown(kernel):
    """S13: of several timeouts the one that comes first; the outer one is back after."""

    async def main():
        me = await curio.current_task()
        shown = []
        async with curio.timeout_after(500):
            shown.append(me.timeout)
            async with curio.timeout_after(1000):
                shown.append(me.timeout)
            async with curio.timeout_after(100):
                shown.append(me.timeout)
            async with curio.timeout_after(None):
                shown.append(me.timeout)
            shown.append(me.timeout)
        return [*shown, me.timeout]

    outer, longer, shorter, none, again, after = kernel.run(main)
    assert outer == longer == none == again > shorter
    assert after is None


def test_result_and_exception(kernel):
    """L6, L7, S12: RuntimeError before the end; the task's own exception after it."""
    error = Oops("mine")

    async def main():
        good = await curio.spawn(returns, 5)
        bad = await curio.spawn(fails, error)
        for task in (good, bad):
            for name in ("result", "exception"):
                with pytest.raises(RuntimeError, match="not ended"):
                    getattr(task, name)
        await good.wait()
        await bad.wait()
        assert (good.result, good.exception, good.exc_info) == (5, None, None)
        assert bad.exception is error
        for _ in range(2):
            with pytest.raises(Oops) as caught:
                bad.result  # noqa: B018
            assert caught.value is error
        kind, value, trace = bad.exc_info
        assert (kind, value) == (Oops, error)
        assert traceback.extract_tb(trace)[-1].name == "fails"

    kernel.run(main, log_errors=False)


def test_exception_of_a_cancelled_task(kernel):
    """L7, L8: the cancellation is its exception."""

    async def main():
        task = await curio.spawn(sleeper())
        await task.cancel()
        assert type(task.exception) is curio.TaskCancelled
        assert task.exc_info[0] is curio.TaskCancelled
        with pytest.raises(curio.TaskCancelled):
            task.result  # noqa: B018

    kernel.run(main)


def test_where_and_traceback(kernel):
    """L9, L10: the user's frames, outermost first, the package's own left out."""

    async def inner():
        await curio.timeout_after(1000, curio.sleep(1000))  # innermost

    async def child():
        async with curio.timeout_after(1000):
            await curio.ignore_after(1000, inner())  # outermost

    async def main():
        task = await curio.spawn(child())
        assert task.where() == (HERE, line("innermost"))
        text = task.traceback()
        await task.cancel()
        assert task.where() == (None, None)
        return text, repr(task.coro), task.traceback()

    text, coro, ended = kernel.run(main)
    lines = text.splitlines()
    assert lines[0].startswith("Stack for Task(id=") and coro in lines[0]
    assert lines[0].endswith("(most recent call last):")
    assert [entry.strip() for entry in lines[1::2]] == [
        f'File "{HERE}", line {line("outermost")}, in child',
        f'File "{HERE}", line {line("innermost")}, in inner',
    ]
    assert lines[2].startswith("    await curio.ignore_after(1000, inner())")
    assert ended.startswith("No stack for Task(id=")


def test_where_of_oneself(kernel):
    """L10: a running task is found on the thread's stack, in a plain function, too."""

    def plain(task):
        return task.where()  # a plain function

    async def main():
        return plain(await curio.current_task())

    assert kernel.run(main) == (HERE, line("a plain function"))


def test_task_is_seen_from_another_thread(kernel):
    """T15: attributes may be read at any time, while the kernel sleeps, works or is gone."""
    done = threading.Event()
    seen = set()
    problems = []

    def watch(tasks):
        try:
            while not done.is_set():
                for task in tasks:
                    seen.add(task.state)
                    assert task.cycles >= 0 and task.id > 0
                    for name in ("timeout", "sleep", "terminated", "cancelled", "children"):
                        getattr(task, name)
                    repr(task), str(task), task.where(), task.traceback()
        except BaseException as error:
            problems.append(error)
            raise

    async def worker():
        for _ in range(30):
            await curio.timeout_after(10, curio.sleep(0.0005))
            child = await curio.spawn(returns(1))
            await child.join()

    async def main():
        tasks = [await curio.spawn(worker()) for _ in range(4)]
        thread = threading.Thread(target=watch, args=(tasks,))
        thread.start()
        for task in tasks:
            await task.join()
        done.set()
        thread.join()

    kernel.run(main)
    assert not problems
    assert "TIME_SLEEP" in seen


def test_task_can_be_compared_hashed_and_weakly_referred_to(kernel):
    """T6: tasks are keys and members; a finished one that nobody holds is gone."""

    async def main():
        first, second = await curio.spawn(returns(1)), await curio.spawn(returns(2))
        assert {first: 1, second: 2}[second] == 2
        assert first != second and first == first
        gone = weakref.ref(first)
        await first.join()
        await second.join()
        del first
        await curio.sleep(0)
        gc.collect()
        return gone()

    assert kernel.run(main) is None


def test_tasks_are_not_made_by_users():
    """T6."""
    with pytest.raises(TypeError, match="spawn"):
        curio.Task()
    with pytest.raises(TypeError, match="spawn"):
        curio.Task(sleeper)


def test_class_of_tasks_can_be_chosen():
    """L2: `taskcls`, a subclass of Task; its name is in the repr."""

    class MyTask(curio.Task):
        def shout(self):
            return f"{self.id}!"

    async def main():
        task = await curio.spawn(returns(1))
        await task.join()
        return type(task), task.shout() == f"{task.id}!", repr(task)[:7]

    assert curio.run(main, taskcls=MyTask) == (MyTask, True, "MyTask(")
    with curio.Kernel(taskcls=MyTask) as kernel:
        assert kernel.run(main)[0] is MyTask
    with pytest.raises(TypeError, match="Task"):
        curio.Kernel(taskcls=int)


def test_get_all_tasks(kernel):
    """M20: the tasks that live, by id; outside of a kernel an error."""

    async def main():
        me = await curio.current_task()
        tasks = [await curio.spawn(sleeper()) for _ in range(3)]
        daemon = await curio.spawn(sleeper(), daemon=True)
        ended = await curio.spawn(returns(1))
        await ended.join()
        assert curio.get_all_tasks() == [me, *tasks, daemon]
        for task in (*tasks, daemon):
            await task.cancel()
        assert curio.get_all_tasks() == [me]

    kernel.run(main)
    with pytest.raises(RuntimeError, match="kernel"):
        curio.get_all_tasks()


def test_current_task(kernel):
    """S14: the calling task, always the same object."""

    async def child():
        return await curio.current_task()

    async def main():
        me = await curio.current_task()
        assert me is await curio.current_task()
        assert me is await curio.timeout_after(1, child())
        task = await curio.spawn(child())
        assert await task.join() is task is not me

    kernel.run(main)


# --- families --------------------------------------------------------------------------


def test_children_are_the_active_ones_of_this_task(kernel):
    """T10: no daemons, no grandchildren, nobody who has ended."""

    async def has_a_child():
        await curio.spawn(sleeper())
        await curio.sleep(1000)

    async def main():
        me = await curio.current_task()
        assert me.children == set()
        first = await curio.spawn(sleeper())
        second = await curio.spawn(has_a_child())
        await curio.spawn(sleeper(), daemon=True)
        assert me.children == {first, second}
        assert len(second.children) == 1 and not second.children & {first, second}
        await first.cancel()
        assert me.children == {second}
        (grandchild,) = second.children
        await second.cancel()
        assert (me.children, second.children) == (set(), set())
        assert not grandchild.terminated
        assert grandchild.parentid == second.id
        await grandchild.cancel()

    kernel.run(main)


def test_children_belong_to_who_awaits_spawn(kernel):
    """T10: `spawn` was awaited inside of the task, through whatever it has awaited."""

    async def helper():
        return await curio.spawn(sleeper())

    async def main():
        me = await curio.current_task()
        tasks = {
            await helper(),
            await curio.timeout_after(10, helper()),
            await curio.timeout_after(10, curio.spawn, sleeper),
        }
        assert me.children == tasks
        await me.cancel_children()

    kernel.run(main)


def test_cancel_children_asks_all_before_it_waits(kernel):
    """T9, D8: one slow clean-up holds nobody else's cancellation up."""
    events = []

    async def child(name, seconds):
        try:
            await curio.sleep(1000)
        except curio.CancelledError:
            events.append(f"{name} cancelled")
            await curio.sleep(seconds)
            events.append(f"{name} ended")
            raise

    async def main():
        me = await curio.current_task()
        await curio.spawn(child("slow", 0.03))
        await curio.spawn(child("fast", 0.001))
        daemon = await curio.spawn(sleeper(), daemon=True)
        await me.cancel_children()
        events.append("done")
        assert me.children == set() and not daemon.terminated
        await me.cancel_children()

    kernel.run(main)
    assert events == ["slow cancelled", "fast cancelled", "fast ended", "slow ended", "done"]


def test_cancel_children_leaves_the_task_and_the_grandchildren(kernel):
    """T9: grandchildren are a matter of the children."""

    async def child(grandchildren):
        grandchildren.append(await curio.spawn(sleeper()))
        try:
            await curio.sleep(1000)
        finally:
            if len(grandchildren) == 2:
                await (await curio.current_task()).cancel_children()

    async def parent(grandchildren):
        await curio.spawn(child(grandchildren))
        await curio.spawn(child(grandchildren))
        await curio.sleep(1000)

    async def main():
        grandchildren = []
        task = await curio.spawn(parent(grandchildren))
        await curio.sleep(0.001)
        await task.cancel_children(exc=Oops)
        assert not task.terminated and task.children == set()
        assert [grandchild.terminated for grandchild in grandchildren] == [True, True]
        await task.cancel()

    kernel.run(main)


def test_exc_of_cancel_children(kernel):
    """T9, S11."""
    seen = []

    async def child():
        try:
            await curio.sleep(1000)
        except Oops as error:
            seen.append(str(error))

    async def main():
        me = await curio.current_task()
        for exc in (Oops, Oops("instance")):
            await curio.spawn(child())
            await curio.spawn(child())
            await me.cancel_children(exc=exc)

    kernel.run(main)
    assert seen == ["Oops", "Oops", "instance", "instance"]


# --- join ------------------------------------------------------------------------------


def test_join_gives_the_result_any_number_of_times(kernel):
    """T7: to several tasks, and long after the end."""

    async def joins(task):
        return await task.join()

    async def main():
        result = object()
        task = await curio.spawn(returns, result)
        joiners = [await curio.spawn(joins(task)) for _ in range(3)]
        assert [await joiner.join() for joiner in joiners] == [result] * 3
        await curio.sleep(0.01)
        assert await task.join() is result
        assert task.joined

    kernel.run(main)


@pytest.mark.parametrize("early", [True, False])
def test_join_of_a_task_that_failed(kernel, log, early):
    """T7: TaskError with that exception as the cause; joined before or after the end."""
    error = Oops("the cause")

    async def main():
        task = await curio.spawn(fails, error)
        if not early:
            await task.wait()
        for _ in range(2):
            with pytest.raises(curio.TaskError, match="Oops") as caught:
                await task.join()
            assert caught.value.__cause__ is error
        assert isinstance(caught.value, curio.CurioError)

    kernel.run(main)
    assert len(log) == 1


@pytest.mark.parametrize("early", [True, False])
def test_join_of_a_cancelled_task(kernel, early):
    """T7, D23: TaskError with the cancellation as the cause, for all who join."""

    async def joins(task):
        with pytest.raises(curio.TaskError) as caught:
            await task.join()
        return type(caught.value.__cause__)

    async def main():
        task = await curio.spawn(sleeper())
        joiner = await curio.spawn(joins(task)) if early else None
        await task.cancel()
        joiner = joiner or await curio.spawn(joins(task))
        assert await joiner.join() is curio.TaskCancelled

    kernel.run(main)


def test_giving_up_a_join_leaves_the_task_alone(kernel):
    """T7, 1.14: cancelled or timed out, only the waiting is given up."""

    async def joins(task):
        await task.join()

    async def main():
        task = await curio.spawn(sleeper())
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.005, task.join())
        joiner = await curio.spawn(joins(task))
        await joiner.cancel()
        assert not task.terminated and not task.cancelled
        await task.cancel()

    kernel.run(main)


def test_wait_has_neither_result_nor_error(kernel):
    """L5."""

    async def main():
        for task in (
            await curio.spawn(returns(1)),
            await curio.spawn(fails(Oops())),
            await curio.spawn(curio.timeout_after(0.001, curio.sleep, 1000)),
        ):
            assert await task.wait() is None
            assert task.terminated

    kernel.run(main, log_errors=False)


def test_joiners_are_served_in_order(kernel):
    """T7, 1.4: all wake-ups are first come, first served."""
    order = []

    async def joins(number, task):
        await task.join()
        order.append(number)

    async def main():
        task = await curio.spawn(curio.sleep(0.005))
        joiners = [await curio.spawn(joins, n, task) for n in range(5)]
        await curio.sleep(0)
        await joiners.pop(2).cancel()
        for joiner in joiners:
            await joiner.join()

    kernel.run(main)
    assert order == [0, 1, 3, 4]


# --- cancel ----------------------------------------------------------------------------


def test_cancel_waits_until_the_task_has_ended(kernel):
    """T8: the task cleans up with further awaits; nothing cuts these short."""
    events = []

    async def child():
        try:
            await curio.sleep(1000)
        except curio.CancelledError:
            for n in range(3):
                await curio.sleep(0.002)
                events.append(n)
            raise

    async def main():
        task = await curio.spawn(child())
        assert await task.cancel() is True
        events.append("cancelled")
        assert task.terminated and task.cancelled

    kernel.run(main)
    assert events == [0, 1, 2, "cancelled"]


def test_cancelled_task_may_return_normally(kernel):
    """T8, T14: it is not forced further, and its result is its result."""

    async def child():
        try:
            await curio.sleep(1000)
        except curio.CancelledError:
            await curio.sleep(0.001)
            await curio.sleep(0.001)
        return "survived"

    async def main():
        task = await curio.spawn(child())
        assert await task.cancel() is True
        assert task.cancelled
        return await task.join()

    assert kernel.run(main) == "survived"


def test_cancel_of_an_ended_task(kernel):
    """T8: False, at once; nothing about the task changes."""

    async def main():
        for task in (await curio.spawn(returns(1)), await curio.spawn(fails(Oops()))):
            await task.wait()
            assert await task.cancel() is False
            assert await task.cancel(blocking=False) is False
            assert not task.cancelled

    kernel.run(main, log_errors=False)


def test_cancel_is_delivered_once(kernel):
    """T8, D22: a second cancel only waits, also after a first that was given up."""
    seen = []

    async def child():
        for seconds in (1000, 0.02):
            try:
                await curio.sleep(seconds)
            except curio.CancelledError as error:
                seen.append(error)
        return "ended"

    async def cancels(task):
        return await task.cancel()

    async def main():
        task = await curio.spawn(child())
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.005, task.cancel())
        other = await curio.spawn(cancels(task))
        assert await task.cancel() is True
        assert await other.join() is True
        return await task.join()

    assert kernel.run(main) == "ended"
    assert len(seen) == 1


def test_cancel_without_blocking(kernel):
    """L11: only the request; `cancelled` and `cancel_pending` tell."""

    async def child():
        try:
            await curio.sleep(1000)
        finally:
            await curio.sleep(0.001)

    async def main():
        task = await curio.spawn(child())
        assert await task.cancel(blocking=False) is True
        assert task.cancelled and not task.terminated and task.cancel_pending
        await task.wait()
        assert task.terminated and not task.cancel_pending

    kernel.run(main)


def test_ready_task_gets_the_cancellation_at_its_next_wait(kernel):
    """T8: what it was just given is not lost."""
    got = []

    async def child(other):
        got.append(await other.join())
        try:
            await curio.sleep(1000)
        except curio.CancelledError:
            got.append("cancelled")
            raise

    async def killer(other, box):
        await other.wait()
        assert box[0].state == "READY"
        await box[0].cancel()

    async def main():
        other, box = await curio.spawn(curio.sleep(0.005)), []
        by = await curio.spawn(killer(other, box))
        box.append(await curio.spawn(child(other)))
        await by.join()

    kernel.run(main)
    assert type(got[0]) is float and got[1:] == ["cancelled"]


def test_ready_task_that_waits_no_more_ends_normally(kernel):
    """T8: nothing blocks any more, so nothing is cancelled."""

    async def main():
        task = await curio.spawn(returns, 5)
        await curio.sleep(0)
        assert task.state == "READY"
        assert await task.cancel() is True
        return await task.join()

    assert kernel.run(main) == 5


def test_task_that_never_ran_runs_up_to_its_first_wait(kernel):
    """T8: so that it can clean up what it has been given."""
    events = []

    async def child():
        events.append("started")
        try:
            await curio.sleep(0)
            events.append("not reached")
        finally:
            events.append("cleaned up")

    async def main():
        task = await curio.spawn(child)
        await task.cancel()
        assert task.cycles == 1

    kernel.run(main)
    assert events == ["started", "cleaned up"]


def test_error_of_a_dying_task_is_logged(kernel, log):
    """T8: not raised by cancel; whoever joins gets it."""

    async def child():
        try:
            await curio.sleep(1000)
        finally:
            raise Oops("while dying")

    async def main():
        task = await curio.spawn(child())
        assert await task.cancel() is True
        with pytest.raises(curio.TaskError) as caught:
            await task.join()
        assert type(caught.value.__cause__) is Oops

    kernel.run(main)
    assert len(log) == 1 and "while dying" in log.texts[0]


@pytest.mark.parametrize(
    "exc, seen",
    [
        (curio.TaskCancelled, (curio.TaskCancelled, "TaskCancelled")),
        (curio.CancelledError, (curio.CancelledError, "CancelledError")),
        (Oops, (Oops, "Oops")),
        (Oops("an instance"), (Oops, "an instance")),
        (KeyError("key"), (KeyError, "key")),
    ],
)
def test_exc_of_cancel(kernel, exc, seen):
    """S11: a class, made with its name as the argument, or an instance, raised as it is."""
    caught = []

    async def child():
        try:
            await curio.sleep(1000)
        except BaseException as error:
            caught.append(error)

    async def main():
        task = await curio.spawn(child())
        await task.cancel(exc=exc)

    kernel.run(main)
    (error,) = caught
    assert (type(error), error.args[0]) == seen
    if not isinstance(exc, type):
        assert error is exc


def test_cancelling_drops_the_timeouts(kernel):
    """T8, rule 10: clean-up code is not cut short by them."""
    events = []

    async def child():
        async with curio.timeout_after(0.02):
            try:
                await curio.sleep(1000)
            except curio.TaskCancelled:
                await curio.sleep(0.04)
                events.append("cleaned up")
                raise

    async def main():
        task = await curio.spawn(child())
        await task.cancel()
        assert type(task.exception) is curio.TaskCancelled

    kernel.run(main)
    assert events == ["cleaned up"]


def test_canceller_that_is_cancelled(kernel):
    """1.14: the request stands; only the waiting is given up."""

    async def child():
        try:
            await curio.sleep(1000)
        finally:
            await curio.sleep(0.01)

    async def cancels(task):
        await task.cancel()

    async def main():
        task = await curio.spawn(child())
        canceller = await curio.spawn(cancels(task))
        await canceller.cancel()
        assert canceller.cancelled and not task.terminated and task.cancelled
        await task.wait()
        assert type(task.exception) is curio.TaskCancelled

    kernel.run(main)


def test_two_tasks_may_cancel_each_other(kernel):
    """T8: each ends by the other's request, and neither waits for ever."""

    async def cancels(box):
        await go.wait()
        await box[0].cancel()

    async def main():
        box = []
        first = await curio.spawn(cancels(box))
        second = await curio.spawn(cancels([first]))
        box.append(second)
        await go.set()
        async with curio.timeout_after(10):
            await first.wait()
            await second.wait()
        return first.cancelled, second.cancelled

    go = curio.Event()
    assert kernel.run(main) == (True, True)


# --- who has cancelled -----------------------------------------------------------------


def test_origin_of_a_cancellation(kernel):
    """T8: the exception's text and the task tell who has asked, and from which line."""

    async def killer(task):
        await task.cancel()  # the killer's line

    async def main():
        task = await curio.spawn(sleeper())
        assert task.cancel_origin is None
        by = await curio.spawn(killer(task))
        await by.join()
        return task, by

    task, by = kernel.run(main)
    origin = task.cancel_origin
    assert (origin.task_id, origin.task_name) == (by.id, killer.__qualname__)
    assert (origin.filename, origin.lineno) == (HERE, line("the killer's line"))
    assert (origin.deadline, origin.reason) == (None, None)
    place = f"cancelled by task {by.id} ({killer.__qualname__}) at {HERE}:{origin.lineno}"
    assert str(origin) == place
    assert str(task.exception) == f"TaskCancelled: {place}"
    assert task.exception.origin is origin
    assert task.exception.args == ("TaskCancelled",)


def test_origin_of_cancel_children_and_of_shutdown(kernel):
    """T9, S4."""

    async def main():
        me = await curio.current_task()
        task = await curio.spawn(sleeper())
        await me.cancel_children()  # the parent's line
        left = await curio.spawn(sleeper(), daemon=True)
        return task, left

    task, left = kernel.run(main)
    parents_line = line("the parent's line")
    assert str(task.exception).endswith(f"{HERE}:{parents_line}")
    kernel.shutdown()
    assert left.cancel_origin.reason == "the kernel is shutting down"
    assert "the kernel is shutting down" in str(left.exception)
    assert left.cancel_origin.task_id is None


def test_origin_of_a_timeout_is_its_deadline(kernel):
    """T13: and the task itself counts as not cancelled."""

    async def main():
        before = await curio.clock()
        with pytest.raises(curio.TaskTimeout) as caught:
            await curio.timeout_after(0.005, curio.sleep(1000))
        me = await curio.current_task()
        assert not me.cancelled and me.cancel_origin is None
        return before, caught.value

    before, error = kernel.run(main)
    assert before + 0.005 <= error.origin.deadline <= error.args[0]
    assert f"deadline {error.origin.deadline:.6f} has passed" in str(error)


def test_origin_does_not_hide_what_a_user_has_asked_with(kernel):
    """S11: an instance that is no cancellation of ours is left as it is."""
    error = Oops("plain")

    async def main():
        task = await curio.spawn(sleeper())
        await task.cancel(exc=error)
        assert task.exception is error and str(error) == "plain"
        assert task.cancel_origin.filename == HERE

    kernel.run(main)


# --- context variables ------------------------------------------------------------------

number = contextvars.ContextVar("number", default=0)


def test_each_task_has_its_own_copy_of_the_context(kernel):
    """L23: taken from the creator when the task is made."""
    seen = []

    async def child(value):
        seen.append(number.get())
        number.set(value)
        await curio.sleep(0)
        await curio.timeout_after(1, nested(value))
        seen.append(number.get())

    async def nested(value):
        assert number.get() == value
        number.set(value + 1)

    async def main():
        number.set(10)
        first = await curio.spawn(child(20))
        number.set(11)
        second = await curio.spawn(child(30))
        await first.join()
        await second.join()
        return number.get()

    number.set(5)
    assert kernel.run(main) == 11
    assert number.get() == 5
    # What a coroutine changes that runs in the calling task is changed there.
    assert seen == [10, 21, 11, 31]


def test_context_task_is_another_name():
    """L23: `taskcls=ContextTask` still does what it did."""

    async def child():
        number.set(1)

    async def main():
        number.set(7)
        await (await curio.spawn(child())).join()
        return number.get()

    assert curio.run(main, taskcls=ContextTask) == 7


def test_context_of_the_caller_of_run():
    """L23: the main task begins with the caller's values, in a context of its own."""

    async def main():
        value = number.get()
        number.set(99)
        return value

    context = contextvars.copy_context()
    context.run(number.set, 3)
    assert context.run(curio.run, main) == 3
    assert context[number] == 3


# --- classes ----------------------------------------------------------------------------


def test_hierarchy_of_the_exceptions():
    """2.7, T14, S15, S16, D21, L100-L107."""
    tree = {
        curio.CancelledError: BaseException,
        curio.TaskCancelled: curio.CancelledError,
        curio.TaskTimeout: curio.CancelledError,
        curio.TimeoutCancellationError: curio.CancelledError,
        curio.CurioError: Exception,
        curio.TaskError: curio.CurioError,
        curio.UncaughtTimeoutError: curio.CurioError,
        curio.SyncIOError: curio.CurioError,
        curio.AsyncOnlyError: curio.CurioError,
        curio.ResourceBusy: curio.CurioError,
        curio.ReadResourceBusy: curio.ResourceBusy,
        curio.WriteResourceBusy: curio.ResourceBusy,
    }
    assert {kind: kind.__bases__[0] for kind in tree} == tree
    assert issubclass(curio.AsyncOnlyError, RuntimeError)
    assert not issubclass(curio.CancelledError, Exception)


def test_methods_of_task_are_coroutine_functions():
    """T73."""
    for name in ("join", "wait", "cancel", "cancel_children"):
        assert inspect.iscoroutinefunction(getattr(curio.Task, name)), name
    assert os.path.basename(inspect.getsourcefile(curio.Task.join)) == "task.py"
