"""Task groups and `gather`: tasks that end together (L13 to L22, M11)."""

import gc
import itertools
import weakref

import curio
import pytest
from curio import testing


class Oops(Exception):
    pass


async def nap(seconds, result=None):
    await curio.sleep(seconds)
    return result


async def fail(seconds):
    await curio.sleep(seconds)
    raise Oops(seconds)


run = testing.run


def quietly(corofunc, *args):
    """For programs whose tasks crash."""
    with testing.VirtualKernel() as kernel:
        return kernel.run(corofunc, *args, log_errors=False)


# Making one.


def test_all_are_waited_for():
    async def main():
        before = await curio.clock()
        async with curio.TaskGroup() as group:
            tasks = [await group.spawn(nap, n, n) for n in (3, 1, 2)]
        assert await curio.clock() - before == 3
        assert group.results == [3, 1, 2]
        assert group.exceptions == [None] * 3
        assert group.tasks == tasks
        # The first that has ended.
        assert group.completed is tasks[1] and group.result == 1 and group.exception is None

    run(main)


def test_tasks_that_run_already():
    async def main():
        tasks = [await curio.spawn(nap, n, n) for n in (2, 1)]
        await curio.sleep(1.5)
        async with curio.TaskGroup(tasks) as group:
            pass
        assert group.results == [2, 1]
        # Nothing is left to be said of them by a join.
        assert await tasks[0].join() == 2

    run(main)


@pytest.mark.parametrize("wait", ["all", 1, any.__class__, list])
def test_wait_is_one_of_four(wait):
    with pytest.raises(ValueError, match="wait is one of all, any, object"):
        curio.TaskGroup(wait=wait)


def test_what_is_no_task():
    with pytest.raises(TypeError, match="a task group takes tasks, not 42"):
        curio.TaskGroup([42])

    async def main():
        group = curio.TaskGroup()
        with pytest.raises(TypeError, match="a task group takes tasks, not 42"):
            await group.add_task(42)
        with pytest.raises(TypeError):
            await group.spawn(42)
        with pytest.raises(TypeError):
            await group.spawn(len, "not async")

    run(main)


def test_a_task_of_another_group():
    async def main():
        async with curio.TaskGroup() as group:
            task = await group.spawn(nap, 1)
            with pytest.raises(AssertionError, match="belongs to a task group already"):
                curio.TaskGroup([task])
            async with curio.TaskGroup() as other:
                with pytest.raises(RuntimeError, match="belongs to a task group already"):
                    await other.add_task(task)

    run(main)


def test_after_the_join_it_takes_no_more():
    async def main():
        async with curio.TaskGroup() as group:
            pass
        with pytest.raises(RuntimeError, match="joined"):
            await group.spawn(nap, 1)
        task = await curio.spawn(nap, 1)
        with pytest.raises(RuntimeError, match="joined"):
            await group.add_task(task)
        await task.join()

    run(main)


def test_it_may_be_joined_again():
    async def main():
        async with curio.TaskGroup() as group:
            await group.spawn(nap, 1, "one")
            await group.join()
            with pytest.raises(RuntimeError, match="joined"):
                await group.spawn(nap, 1)
        assert await group.join() is None
        assert group.results == ["one"] and group.result == "one"

    run(main)


def test_before_the_join_there_are_no_results():
    group = curio.TaskGroup()
    for name in ("result", "exception", "results", "exceptions"):
        with pytest.raises(RuntimeError, match="has not been joined"):
            getattr(group, name)
    assert group.completed is None and group.tasks == []


def test_it_is_no_block_of_threads():
    group = curio.TaskGroup()
    with pytest.raises(curio.AsyncOnlyError, match="async with"):
        with group:
            pass
    with pytest.raises(curio.AsyncOnlyError, match="async for"):
        iter(group)


def test_repr():
    async def main():
        async with curio.TaskGroup() as group:
            await group.spawn(nap, 1)
            await group.spawn(nap, 1)
            assert "2 running" in repr(group)
        assert "joined" in repr(group)

    run(main)


# What ends the waiting.


def outcomes(wait, *tasks):
    """Runs tasks, each a time and 'value', 'none' or 'fails'; gives how the group has ended."""

    async def work(seconds, how):
        await curio.sleep(seconds)
        if how == "fails":
            raise Oops(seconds)
        return seconds if how == "value" else None

    async def main():
        before = await curio.clock()
        async with curio.TaskGroup(wait=wait) as group:
            made = [await group.spawn(work, *task) for task in tasks]
        took = await curio.clock() - before
        assert all(task.terminated for task in made)
        completed = None if group.completed is None else made.index(group.completed)
        kinds = [None if e is None else type(e).__name__ for e in group.exceptions]
        return took, completed, kinds

    return quietly(main)


@pytest.mark.parametrize("order", list(itertools.permutations(["value", "none", "fails"])))
@pytest.mark.parametrize("wait", [all, any, object, None])
def test_each_policy_in_each_order(wait, order):
    tasks = [(seconds, how) for seconds, how in zip((1, 2, 3), order, strict=True)]
    took, completed, kinds = outcomes(wait, *tasks)
    ends = {
        all: order.index("fails"),
        any: 0,
        object: min(order.index("fails"), order.index("value")),
        None: None,
    }
    last = ends[wait]
    assert completed == (0 if wait is all else last)
    assert took == (0 if last is None else last + 1)
    for number, (kind, how) in enumerate(zip(kinds, order, strict=True)):
        if last is None or number > last:
            assert kind == "TaskCancelled"
        else:
            assert kind == ("Oops" if how == "fails" else None)


def test_no_result_at_all():
    took, completed, kinds = outcomes(object, (1, "none"), (2, "none"))
    assert took == 2 and kinds == [None, None]
    assert completed is None or completed == 1


def test_results_raise_the_first_exception():
    async def main():
        async with curio.TaskGroup() as group:
            await group.spawn(nap, 1000)
            await group.spawn(fail, 1)
        assert isinstance(group.exception, Oops)
        with pytest.raises(Oops):
            _ = group.result
        with pytest.raises(curio.TaskCancelled):
            _ = group.results

    quietly(main)


def test_a_cancelled_task_has_failed():
    async def main():
        async with curio.TaskGroup() as group:
            task = await group.spawn(nap, 1000)
            other = await group.spawn(nap, 1000)
            await task.cancel()
        assert group.completed is task and isinstance(group.exception, curio.TaskCancelled)
        assert isinstance(other.exception, curio.TaskCancelled)

    run(main)


def test_daemons():
    async def main():
        async with curio.TaskGroup() as group:
            daemon = await group.spawn(nap, 1000, daemon=True)
            await group.spawn(nap, 1, "done")
        assert daemon.terminated and await curio.clock() < 1000
        assert group.results == ["done"] and daemon not in group.tasks

    run(main)


def test_a_daemon_that_fails_ends_nothing():
    async def main():
        async with curio.TaskGroup() as group:
            await group.spawn(fail, 1, daemon=True)
            task = await group.spawn(nap, 2, "done")
        assert group.completed is task and group.results == ["done"]

    quietly(main)


# Ends, one by one.


def test_in_the_order_of_their_ends():
    async def main():
        async with curio.TaskGroup() as group:
            for n in (3, 1, 2):
                await group.spawn(nap, n, n)
            assert [task.result async for task in group] == [1, 2, 3]
            assert await group.next_done() is None
            assert group.tasks == []
            with pytest.raises(RuntimeError, match="no task is left"):
                await group.next_result()
            # More may come.
            await group.spawn(nap, 1, "again")
            assert await group.next_result() == "again"
        assert group.results == [] and group.completed is None
        with pytest.raises(RuntimeError, match="no task has ended the waiting"):
            _ = group.result

    run(main)


def test_a_result_that_is_an_exception():
    async def main():
        async with curio.TaskGroup() as group:
            await group.spawn(fail, 1)
            await group.spawn(nap, 2, "fine")
            with pytest.raises(Oops):
                await group.next_result()
            assert await group.next_result() == "fine"

    quietly(main)


def test_a_task_that_is_joined_leaves():
    async def main():
        async with curio.TaskGroup() as group:
            first = await group.spawn(nap, 1, 1)
            await group.spawn(nap, 2, 2)
            assert await first.join() == 1
            assert first not in group.tasks
        assert group.results == [2]

    run(main)


def test_two_that_wait_for_ends():
    async def main():
        async with curio.TaskGroup() as group:

            async def next_end():
                task = await group.next_done()
                return task and task.result

            for n in (1, 2):
                await group.spawn(nap, n, n)
            waiters = [await curio.spawn(next_end) for _ in range(3)]
            ends = [await waiter.join() for waiter in waiters]
        assert ends == [1, 2, None]

    run(main)


def test_cancel_remaining():
    async def main():
        async with curio.TaskGroup() as group:
            done = await group.spawn(nap, 1, "done")
            late = await group.spawn(nap, 1000)
            await curio.sleep(2)
            await group.cancel_remaining()
            assert late.terminated and group.tasks == [done]
            await group.spawn(nap, 1, "more")
        assert group.results == ["done", "more"]

    run(main)


# Exceptions in the block, and cancellation.


@pytest.mark.parametrize("exception", [Oops, KeyError, curio.TaskCancelled])
def test_an_exception_in_the_block(exception):
    async def main():
        with pytest.raises(exception):
            async with curio.TaskGroup() as group:
                task = await group.spawn(nap, 1000)
                raise exception("in the block")
        assert isinstance(task.exception, curio.TaskCancelled)

    run(main)


def test_clean_up_is_waited_for():
    cleaned = []

    async def careful():
        try:
            await curio.sleep(1000)
        finally:
            await curio.sleep(5)
            cleaned.append(True)

    async def main():
        async with curio.TaskGroup(wait=any) as group:
            await group.spawn(careful)
            await group.spawn(nap, 1)
        assert cleaned == [True]

    run(main)


def test_a_join_that_is_cancelled_cancels_all():
    async def program(group):
        async with group:
            for _ in range(3):
                await group.spawn(nap, 1000)

    async def main():
        group = curio.TaskGroup()
        task = await curio.spawn(program, group)
        await curio.sleep(1)
        tasks = group.tasks
        await task.cancel()
        assert isinstance(task.exception, curio.TaskCancelled)
        assert [type(task.exception) for task in tasks] == [curio.TaskCancelled] * 3

    run(main)


def test_a_join_that_is_timed_out():
    async def main():
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(1):
                async with curio.TaskGroup() as group:
                    task = await group.spawn(nap, 1000)
        assert task.terminated

    run(main)


def test_a_member_cannot_join_its_group():
    async def main():
        async with curio.TaskGroup() as group:

            async def member():
                for method in (group.join, group.cancel_remaining):
                    with pytest.raises(curio.CurioError):
                        await method()

            await (await group.spawn(member)).wait()

    run(main)


def test_a_group_does_not_keep_itself_alive():
    async def main():
        group = curio.TaskGroup()
        group_ref = weakref.ref(group)
        await group.spawn(nap, 1)
        await group.join()
        del group
        gc.collect()
        assert group_ref() is None

    run(main)


async def interrupted():
    """Whatever comes: when the block is left, no task runs."""
    live = set()

    async def work(seconds):
        live.add(seconds)
        try:
            await curio.sleep(seconds)
            await curio.sleep(seconds)
        finally:
            live.discard(seconds)

    try:
        async with curio.TaskGroup() as group:
            for n in range(1, 4):
                await group.spawn(work, n)
            async with curio.ignore_after(1.5):
                async for _ in group:
                    pass
    finally:
        assert not live, "a task has outlived its group"


@pytest.mark.parametrize("seed", [None, *range(5)])
def test_whatever_is_interrupted_no_task_outlives_its_group(seed):
    report = testing.interrupt_everywhere(interrupted, seed=seed)
    assert report.points > 10


@pytest.mark.parametrize("wait", [all, any, object, None])
def test_the_policies_interrupted(wait):
    async def program():
        live = set()

        async def work(seconds):
            live.add(seconds)
            try:
                await curio.sleep(seconds)
                return seconds
            finally:
                async with curio.disable_cancellation():
                    await curio.sleep(1)
                live.discard(seconds)

        try:
            async with curio.TaskGroup(wait=wait) as group:
                for n in range(1, 4):
                    await group.spawn(work, n)
        finally:
            assert not live

    testing.interrupt_everywhere(program)


# A join that is given up, after 2 s, whichever end it waits for and whatever has ended before.


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("first", ["value", "none", "fails", None])
@pytest.mark.parametrize("wait", [all, any, object, None])
def test_a_join_given_up_by_each_policy(wait, first, how):
    async def main():
        group, cleaned, log = curio.TaskGroup(wait=wait), [], []

        async def work(seconds, result):
            try:
                await curio.sleep(seconds)
            except curio.CancelledError:
                await curio.sleep(3)
                cleaned.append(seconds)
                raise
            if result == "fails":
                raise Oops
            return seconds if result == "value" else None

        async def join():
            try:
                if how == "timeout":
                    await curio.timeout_after(2, group.join)
                else:
                    await group.join()
                log.append("joined")
            except curio.CancelledError as error:
                log.append(type(error))

        tasks = [await group.spawn(work, seconds, "value") for seconds in (100, 200)]
        if first is not None:
            tasks.append(await group.spawn(work, 1, first))
        joining = await curio.spawn(join())
        if how == "cancel":
            await curio.sleep(2)
            await joining.cancel()
        else:
            await joining.wait()
        assert all(task.terminated for task in tasks)
        return await curio.clock() - start, sorted(cleaned), log

    with testing.VirtualKernel() as kernel:
        start = kernel.run(curio.clock)
        took, cleaned, log = kernel.run(main, log_errors=False)

    ends = {all: ["fails"], any: ["value", "none", "fails"], object: ["value", "fails"]}
    if wait is None:
        decided, rest = 0, [100, 200] if first is None else [1, 100, 200]
    else:
        decided, rest = (1 if first in ends[wait] else None), [100, 200]
    # Once it is decided, what comes waits until the others have cleaned up, and a timeout's
    # block is over then.
    given_up = curio.TaskTimeout if how == "timeout" else curio.TaskCancelled
    assert log == ["joined" if decided is not None else given_up]
    assert took == (2 if decided is None else decided) + 3
    assert cleaned == rest


# What others see.


def test_the_monitor_sees_who_joins_a_group(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with curio.Kernel(with_monitor=True) as kernel:
        ask = kernel._ask_monitor

        async def main():
            async with curio.TaskGroup() as group:
                kid = await group.spawn(curio.sleep, 1000)
                joining = await curio.spawn(group.join())
                [row] = [row for row in ask("ps").splitlines() if row.startswith(f"{joining.id} ")]
                assert "TASK_JOIN" in row and "TaskGroup.join" in row
                said.append(ask(f"why {joining.id}"))
                said.append(ask("tree"))
                await kid.cancel()
                await joining.wait()

        said = []
        kernel.run(main)
    why, tree = said
    assert "waiting for the end of a task of TaskGroup" in why and "(1 task left)" in why
    assert "TaskGroup.join" in tree and "sleep" in tree


# gather


def test_gather():
    async def main():
        tasks = [await curio.spawn(nap, n, n) for n in (3, 1, 2)]
        assert await curio.gather(tasks) == [3, 1, 2]
        assert await curio.gather([]) == []
        again = [await curio.spawn(nap, 1, 1)] * 2
        assert await curio.gather(again) == [1, 1]

    run(main)


def test_gather_and_a_failure():
    async def main():
        tasks = [await curio.spawn(fail, 1), await curio.spawn(nap, 1000)]
        with pytest.raises(curio.TaskError) as caught:
            await curio.gather(tasks)
        assert isinstance(caught.value.__cause__, Oops)
        assert isinstance(tasks[1].exception, curio.TaskCancelled)

    quietly(main)


def test_gather_and_exceptions_as_results():
    async def main():
        tasks = [await curio.spawn(fail, 1), await curio.spawn(nap, 2, "fine")]
        oops, fine = await curio.gather(tasks, return_exceptions=True)
        assert isinstance(oops, Oops) and fine == "fine"

    quietly(main)


def test_gather_that_is_cancelled():
    async def main():
        tasks = [await curio.spawn(nap, 1000) for _ in range(2)]
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(1, curio.gather, tasks)
        assert all(task.terminated for task in tasks)

    run(main)
