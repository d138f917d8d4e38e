"""Timeouts: the eleven rules of their nesting, each in both forms.

Goal: the contract of `timeout_after`, `ignore_after` and `sleep`. Method: `limited` and
`ignoring` run the same body as a coroutine and as a block, so that each rule is checked in
every combination of forms. Times are short; what must not happen is given time to happen,
what must happen soon is never asserted to take less than some seconds.
"""

import itertools
import math

import curio
import pytest


class Oops(Exception):
    pass


async def as_coroutine(seconds, body):
    return await curio.timeout_after(seconds, body())


async def as_function(seconds, body):
    return await curio.timeout_after(seconds, body)


async def as_block(seconds, body):
    async with curio.timeout_after(seconds):
        return await body()


FORMS = [as_coroutine, as_function, as_block]
PAIRS = [
    pytest.param(outer, inner, id=f"{outer.__name__[3:]}-{inner.__name__[3:]}")
    for outer, inner in itertools.product(FORMS, FORMS)
]

one_form = pytest.mark.parametrize("limited", FORMS, ids=lambda form: form.__name__[3:])
two_forms = pytest.mark.parametrize("outer, inner", PAIRS)


async def forever():
    await curio.sleep(1000)


async def value():
    await curio.sleep(0)
    return 42


async def block_for(seconds):
    """Computes, as far as the kernel can see: no operation of Curio's."""
    end = await curio.clock() + seconds
    while await curio.clock() < end:
        pass


# --- sleep and the clock ----------------------------------------------------------------


def test_sleep_never_ends_early(kernel):
    """T11, L40: at least that time; the result is the clock."""

    async def main():
        for seconds in (0.0001, 0.001, 0.01, 0.0333):
            before = await curio.clock()
            woken = await curio.sleep(seconds)
            after = await curio.clock()
            assert before + seconds <= woken <= after

    kernel.run(main)


@pytest.mark.parametrize("seconds", [0, -1, -1e300, -math.inf, 0.0, False])
def test_sleep_of_nothing_lets_others_go_first(kernel, seconds):
    """T11: 0 or negative goes to the end of the ready queue, and gives the clock as well."""
    events = []

    async def child():
        events.append("child")

    async def main():
        await curio.spawn(child)
        before = await curio.clock()
        assert await curio.sleep(seconds) >= before - 1
        events.append("main")

    kernel.run(main)
    assert events == ["child", "main"]


def test_timers_fire_in_order_of_their_deadlines(kernel):
    """Section 0: whatever the order in which they were set."""
    order = []

    async def child(seconds):
        await curio.sleep(seconds)
        order.append(seconds)

    async def main():
        for n in (7, 1, 4, 0, 9, 3, 8, 2, 6, 5):
            await curio.spawn(child(0.01 + n / 1000))

    kernel.run(main)
    assert order == sorted(order) and len(order) == 10


def test_deadlines_are_not_rounded(kernel):
    """Section 0: the nagging kid: five times a fifth of a sleep, begun later, come later."""
    nags = []

    async def kid(event):
        for _ in range(5):
            try:
                await curio.timeout_after(0.02, event.join())
            except curio.TaskTimeout:
                nags.append("Wha!?!")

    async def main():
        never = await curio.spawn(forever())
        task = await curio.spawn(kid(never))
        await curio.sleep(0.1)
        await task.cancel()
        await never.cancel()

    kernel.run(main)
    assert len(nags) <= 4


def test_clock_is_monotonic_and_instant(kernel):
    """L41."""

    async def main():
        times = [await curio.clock() for _ in range(1000)]
        assert times == sorted(times)
        assert times[-1] > times[0]
        return (await curio.current_task()).cycles

    assert kernel.run(main) == 1


# --- one timeout -------------------------------------------------------------------------


@one_form
def test_result_is_passed_on(kernel, limited):
    """T12."""
    assert kernel.run(limited, 10, value) == 42


@one_form
def test_exception_is_passed_on(kernel, limited):
    """T12: as it is."""
    error = Oops()

    async def body():
        await curio.sleep(0)
        raise error

    with pytest.raises(Oops) as caught:
        kernel.run(limited, 10, body)
    assert caught.value is error


@one_form
def test_expired(kernel, limited):
    """T12, T13, rule 11: TaskTimeout, not before the time; its argument is the clock."""

    async def main():
        before = await curio.clock()
        with pytest.raises(curio.TaskTimeout) as caught:
            await limited(0.01, forever)
        after = await curio.clock()
        (clock,) = caught.value.args
        assert before + 0.01 <= clock <= after
        assert type(caught.value) is curio.TaskTimeout

    kernel.run(main)


@one_form
def test_timeout_is_raised_where_the_task_is_blocked(kernel, limited):
    """T12: so the coroutine can clean up, with further awaits, and is not cut short again."""
    events = []

    async def body():
        try:
            await curio.sleep(1000)
        except curio.TaskTimeout:
            await curio.sleep(0.02)
            events.append("cleaned up")
            raise

    with pytest.raises(curio.TaskTimeout):
        kernel.run(limited, 0.005, body)
    assert events == ["cleaned up"]


@one_form
def test_timeout_may_be_handled_inside(kernel, limited):
    """T14: what catches it and goes on is not forced further."""

    async def body():
        try:
            await curio.sleep(1000)
        except curio.TaskTimeout:
            await curio.sleep(0.001)
            return "handled"

    assert kernel.run(limited, 0.005, body) == "handled"


@one_form
def test_nothing_is_left_of_a_timeout(kernel, limited):
    """T12: neither of one that has expired nor of one that has not."""

    async def main():
        assert await limited(0.01, value) == 42
        with pytest.raises(curio.TaskTimeout):
            await limited(0.001, forever)
        await curio.sleep(0.03)
        assert (await curio.current_task()).timeout is None

    kernel.run(main)


def test_coroutine_runs_in_the_calling_task(kernel):
    """1.2: no task is made for it."""

    async def main():
        me = await curio.current_task()
        assert await curio.timeout_after(10, curio.current_task()) is me
        assert await curio.ignore_after(10, curio.current_task) is me
        assert me.children == set()

    kernel.run(main)


def test_arguments_of_a_function(kernel):
    """L42, L44."""

    async def function(*args):
        return args

    async def main():
        assert await curio.timeout_after(10, function, 1, 2) == (1, 2)
        assert await curio.ignore_after(10, function, 1, 2, timeout_result=3) == (1, 2)

    kernel.run(main)


def test_operations_can_be_limited_directly(kernel):
    """T12: what a native operation gives is a coroutine like any other."""

    async def main():
        task = await curio.spawn(forever())
        for limited in (curio.sleep(1000), task.join(), task.wait()):
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.001, limited)
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.001, curio.timeout_after(10, curio.sleep(1000)))
        with pytest.raises(curio.TaskTimeout):
            await curio.timeout_after(0.001, task.join)
        await task.cancel()

    kernel.run(main)


def test_block_gives_an_object(kernel):
    """L43: `expired` and `result`, for timeout_after too."""

    async def main():
        async with curio.timeout_after(10) as good:
            await curio.sleep(0)
            assert good.expired is False
        assert (good.expired, good.result) == (False, True)
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0.001) as late:
                await forever()
        assert (late.expired, late.result) == (True, None)
        with pytest.raises(Oops):
            async with curio.timeout_after(10) as failed:
                raise Oops
        assert failed.expired is False

    kernel.run(main)


def test_plain_with_is_refused(kernel):
    """D14: an AsyncOnlyError, which is a RuntimeError, too."""

    async def main():
        for block in (curio.timeout_after(1), curio.ignore_after(1)):
            with pytest.raises(curio.AsyncOnlyError, match="async with"):
                with block:
                    pass

    kernel.run(main)


def test_block_cannot_be_entered_twice_at_a_time(kernel):
    """S17: but one after the other."""

    async def main():
        block = curio.timeout_after(0.005)
        async with block:
            with pytest.raises(RuntimeError, match="entered"):
                async with block:
                    pass
        with pytest.raises(curio.TaskTimeout):
            async with block:
                await forever()

    kernel.run(main)


# --- ignore_after ------------------------------------------------------------------------


@pytest.mark.parametrize("function", [curio.ignore_after, curio.stop_after])
def test_ignore_after(kernel, function):
    """L44, S18: the timeout is swallowed; `timeout_result` says so."""

    async def main():
        assert await function(0.001, forever()) is None
        assert await function(0.001, forever) is None
        assert await function(0.001, curio.sleep, 1000, timeout_result="late") == "late"
        assert await function(0.001, forever(), timeout_result="late") == "late"
        assert await function(10, value()) == 42
        assert await function(10, value, timeout_result="late") == 42

    kernel.run(main)


def test_ignore_after_as_a_block(kernel):
    """L43, L44: the block is left at the operation; `expired` and `result` tell."""
    events = []

    async def main():
        async with curio.ignore_after(0.001) as late:
            await forever()
            events.append("not reached")
        assert (late.expired, late.result) == (True, None)
        async with curio.ignore_after(0.001, timeout_result="late") as late:
            await forever()
        assert (late.expired, late.result) == (True, "late")
        async with curio.ignore_after(10, timeout_result="late") as good:
            await curio.sleep(0)
        assert (good.expired, good.result) == (False, True)

    kernel.run(main)
    assert events == []


def test_ignore_after_lets_other_exceptions_through(kernel):
    """L44: errors, and the timeout of one further out."""

    async def failing():
        raise Oops

    async def main():
        with pytest.raises(Oops):
            await curio.ignore_after(10, failing())
        with pytest.raises(Oops):
            async with curio.ignore_after(10) as limit:
                raise Oops
        assert limit.expired is False
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0.005):
                async with curio.ignore_after(10) as limit:
                    await forever()
        assert limit.expired is False

    kernel.run(main)


def test_outer_ignores(kernel):
    """L44, rule 2: a coroutine inside of two limits, the outer of which expires first."""

    async def main():
        async with curio.ignore_after(0.005) as outer:
            with pytest.raises(curio.TimeoutCancellationError):
                await curio.ignore_after(10, forever())
            raise curio.TimeoutCancellationError("by hand, and nobody's")
        return outer.expired

    with pytest.raises(curio.TimeoutCancellationError):
        kernel.run(main)

    async def plain():
        inner = curio.ignore_after(10, forever(), timeout_result="inner")
        return await curio.ignore_after(0.005, inner, timeout_result="outer")

    assert kernel.run(plain) == "outer"


# --- the eleven rules ---------------------------------------------------------------------


@two_forms
def test_rule_1_inner_expires_first(kernel, outer, inner):
    """Rule 1: TaskTimeout at the inner one; the outer one is not touched."""

    async def body():
        with pytest.raises(curio.TaskTimeout):
            await inner(0.005, forever)
        return "handled"

    assert kernel.run(outer, 10, body) == "handled"


@two_forms
def test_rule_2_outer_expires_first(kernel, outer, inner):
    """Rule 2: the inside sees TimeoutCancellationError, the outer one gives TaskTimeout."""
    seen = []

    async def innermost():
        try:
            await curio.sleep(1000)
        except curio.CancelledError as error:
            seen.append(type(error))
            raise

    async def body():
        try:
            await inner(10, innermost)
        except curio.TaskTimeout:
            seen.append("caught by the inner handler")
        except curio.CancelledError as error:
            seen.append(type(error))
            raise

    with pytest.raises(curio.TaskTimeout) as caught:
        kernel.run(outer, 0.005, body)
    assert seen == [curio.TimeoutCancellationError] * 2
    assert type(caught.value) is curio.TaskTimeout
    assert type(caught.value.args[0]) is float


@two_forms
def test_rule_3_both_together_count_as_the_outer(kernel, outer, inner):
    """Rule 3: both have passed when the task is interrupted."""
    seen = []

    async def innermost():
        await block_for(0.01)
        try:
            await curio.sleep(1000)
        except curio.CancelledError as error:
            seen.append(type(error))
            raise

    async def body():
        await inner(0.002, innermost)

    with pytest.raises(curio.TaskTimeout):
        kernel.run(outer, 0.001, body)
    assert seen == [curio.TimeoutCancellationError]


@two_forms
def test_rule_3_the_same_the_other_way_round(kernel, outer, inner):
    """Rule 3: also when the inner deadline came first."""
    seen = []

    async def innermost():
        await block_for(0.01)
        await curio.sleep(1000)

    async def body():
        try:
            await inner(0.001, innermost)
        except curio.CancelledError as error:
            seen.append(type(error))
            raise

    with pytest.raises(curio.TaskTimeout):
        kernel.run(outer, 0.002, body)
    assert seen == [curio.TimeoutCancellationError]


@two_forms
def test_rule_4_uncaught_inner_timeout(kernel, outer, inner):
    """Rule 4: on its way to an outer one that has not expired it becomes an ordinary error."""

    async def body():
        await inner(0.001, forever)

    with pytest.raises(curio.UncaughtTimeoutError) as caught:
        kernel.run(outer, 10, body)
    assert isinstance(caught.value, curio.CurioError)
    assert isinstance(caught.value, Exception)
    assert type(caught.value.__cause__) is curio.TaskTimeout


@pytest.mark.parametrize("kind", ["coroutine", "block"])
def test_rule_4_reaches_an_ignoring_one_too(kernel, kind):
    """Rule 4: ignore_after swallows its own timeout, not another's."""

    async def main():
        if kind == "coroutine":
            await curio.ignore_after(10, curio.timeout_after(0.001, forever))
        else:
            async with curio.ignore_after(10):
                await curio.timeout_after(0.001, forever)

    with pytest.raises(curio.UncaughtTimeoutError):
        kernel.run(main)


def test_rule_4_three_levels(kernel):
    """Rule 4: turned once; an `except Exception` between the two stops it."""

    async def main():
        async with curio.timeout_after(20):
            try:
                async with curio.timeout_after(10):
                    async with curio.timeout_after(0.001):
                        await forever()
            except Exception as error:
                return type(error)

    assert kernel.run(main) is curio.UncaughtTimeoutError


@two_forms
def test_rule_5_longer_inner_does_not_extend_the_outer(kernel, outer, inner):
    """Rule 5."""

    async def body():
        with pytest.raises(curio.TimeoutCancellationError):
            await inner(1000, forever)
        return "late, but it ends"

    assert kernel.run(outer, 0.005, body) == "late, but it ends"


@two_forms
def test_rule_6_none_sets_no_limit(kernel, outer, inner):
    """Rule 6: the outer one stays in force; inside it is another's."""
    seen = []

    async def innermost():
        try:
            await forever()
        except curio.CancelledError as error:
            seen.append(type(error))
            raise

    async def body():
        await inner(None, innermost)

    with pytest.raises(curio.TaskTimeout):
        kernel.run(outer, 0.005, body)
    assert seen == [curio.TimeoutCancellationError]


@one_form
def test_rule_6_none_alone(kernel, limited):
    """Rule 6: no limit at all."""

    async def body():
        await curio.sleep(0.01)
        return (await curio.current_task()).timeout

    assert kernel.run(limited, None, body) is None


@two_forms
def test_rule_6_none_outside(kernel, outer, inner):
    """Rule 6: the inner one works as if the outer one were not there."""

    async def body():
        with pytest.raises(curio.TaskTimeout):
            await inner(0.001, forever)
        return "handled"

    assert kernel.run(outer, None, body) == "handled"


@pytest.mark.parametrize("seconds", [0, -1, -0.0, -math.inf])
@one_form
def test_rule_7_zero_fires_at_the_first_wait(kernel, limited, seconds):
    """Rule 7: what does not block finishes normally."""
    steps = []

    async def blocking():
        steps.append(await curio.current_task())
        steps.append(await curio.clock())
        steps.append(await curio.spawn(value))
        await curio.sleep(0)
        steps.append("not reached")

    async def instant():
        await curio.clock()
        return "fine"

    async def main():
        with pytest.raises(curio.TaskTimeout):
            await limited(seconds, blocking)
        assert await limited(seconds, instant) == "fine"
        await curio.sleep(0)

    kernel.run(main)
    assert len(steps) == 3


next_waits = pytest.mark.parametrize("next_wait", [0, 1000])


@next_waits
@one_form
def test_rule_8_late_timeout_comes_at_the_next_wait_inside(kernel, limited, next_wait):
    """Rule 8: a task that was running when the time was over."""
    steps = []

    async def body():
        await block_for(0.005)
        steps.append("computed")
        await curio.sleep(next_wait)
        steps.append("not reached")

    async def main():
        with pytest.raises(curio.TaskTimeout):
            await limited(0.001, body)
        await curio.sleep(0)

    kernel.run(main)
    assert steps == ["computed"]


@one_form
def test_rule_8_outside_it_is_dropped_with_a_warning(kernel, log, limited):
    """Rule 8: once the region is left nothing strikes; the log tells that it overran."""

    async def body():
        await block_for(0.06)
        return "finished"

    async def main():
        assert await limited(0.001, body) == "finished"
        await curio.sleep(0)
        await curio.sleep(0.005)
        return repr(await curio.current_task())

    task = kernel.run(main)
    assert len(log) == 1
    assert log.records[0].levelname == "WARNING"
    assert task[: task.index(",")] in log.texts[0]


def test_rule_8_no_warning_for_little(kernel, log):
    """Rule 8: a task that had to wait for its turn, on a busy machine, has done nothing wrong."""

    async def main():
        deadline = await curio.clock() + 0.001
        await curio.timeout_at(deadline, block_for, 0.005)
        return await curio.clock() - deadline

    overrun = kernel.run(main)
    assert len(log) == 0 or overrun > 0.05


def test_rule_8_no_warning_in_time(kernel, log):
    """Rule 8: the usual case is silent, and so is one that was interrupted."""

    async def main():
        async with curio.timeout_after(10):
            await curio.sleep(0)
        async with curio.ignore_after(0.001):
            await forever()
        assert await curio.timeout_after(10, value()) == 42

    kernel.run(main)
    assert log.texts == []


@next_waits
def test_rule_8_ready_task(kernel, next_wait):
    """Rule 8: what it was waiting for had come; the timeout waits for the next operation."""
    got = []

    async def other():
        await block_for(0.01)
        return "result"

    async def main():
        task = await curio.spawn(other)
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0.005):
                got.append(await task.join())
                await curio.sleep(next_wait)
        got.append("timed out")

    kernel.run(main)
    assert got == ["result", "timed out"]


@two_forms
def test_rule_9_outer_deadline_is_back(kernel, outer, inner):
    """Rule 9: it strikes after the inner region, too."""
    steps = []

    async def body():
        with pytest.raises(curio.TaskTimeout):
            await inner(0.001, forever)
        steps.append("inner")
        await curio.sleep(1000)

    with pytest.raises(curio.TaskTimeout):
        kernel.run(outer, 0.02, body)
    assert steps == ["inner"]


@next_waits
@two_forms
def test_rule_9_outer_deadline_that_passed_meanwhile(kernel, outer, inner, next_wait):
    """Rule 9: at the next wait after the inner region."""
    steps = []

    async def innermost():
        await block_for(0.01)

    async def body():
        await inner(10, innermost)
        steps.append("inner finished")
        await curio.sleep(next_wait)
        steps.append("not reached")

    with pytest.raises(curio.TaskTimeout):
        kernel.run(outer, 0.001, body)
    assert steps == ["inner finished"]


@two_forms
def test_rule_10_cancelling_clears_all_timeouts(kernel, outer, inner):
    """Rule 10: clean-up is not cut short, by none of them."""
    steps = []

    async def body():
        await inner(0.02, innermost)

    async def innermost():
        try:
            await curio.sleep(1000)
        except curio.TaskCancelled:
            await curio.sleep(0.03)
            steps.append("cleaned up")
            raise

    async def main():
        task = await curio.spawn(outer(0.01, body))
        await task.cancel()
        return type(task.exception)

    assert kernel.run(main) is curio.TaskCancelled
    assert steps == ["cleaned up"]


def test_rule_10_new_timeouts_in_the_cleanup_count(kernel):
    """Rule 10: only those are cleared that were there."""
    steps = []

    async def child():
        async with curio.timeout_after(0.01):
            try:
                await curio.sleep(1000)
            finally:
                async with curio.ignore_after(0.005) as limit:
                    await curio.sleep(1000)
                steps.append(limit.expired)

    async def main():
        task = await curio.spawn(child())
        await task.cancel()

    kernel.run(main)
    assert steps == [True]


@two_forms
def test_rule_11_argument_is_the_clock(kernel, outer, inner):
    """Rule 11: of the inner sight and of the outer."""
    seen = []

    async def innermost():
        try:
            await curio.sleep(1000)
        except curio.CancelledError as error:
            seen.append(error.args[0])
            raise

    async def main():
        before = await curio.clock()
        with pytest.raises(curio.TaskTimeout) as caught:
            await outer(0.005, lambda: inner(10, innermost))
        seen.append(caught.value.args[0])
        return before, await curio.clock()

    before, after = kernel.run(main)
    assert before + 0.005 <= seen[0] <= seen[1] <= after


# --- deeper -------------------------------------------------------------------------------


@pytest.mark.parametrize("expires", range(4))
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__[3:])
def test_one_of_four_expires(kernel, form, expires):
    """Rules 1, 2: it comes out of the one that has expired, as another's of those inside."""
    seen = {}

    async def level(n):
        if n == 4:
            await forever()
        try:
            await form(0.005 if n == expires else 10 + n, lambda: level(n + 1))
        except curio.CancelledError as error:
            seen[n] = type(error)
            if n > expires:
                raise
        if n < expires:
            await curio.sleep(0)

    kernel.run(level, 0)
    inside = {n: curio.TimeoutCancellationError for n in range(expires + 1, 4)}
    assert seen == {**inside, expires: curio.TaskTimeout}


def test_many_timeouts_one_after_the_other(kernel):
    """T12: a thousand regions leave nothing behind that strikes later."""

    async def main():
        for n in range(1000):
            async with curio.timeout_after(0.02 + n * 1e-5):
                await curio.sleep(0)
        await curio.sleep(0.04)

    kernel.run(main)


def test_deep_nesting(kernel):
    """T12: to any depth."""

    async def nest(depth):
        if depth == 0:
            await forever()
        if depth % 2:
            await curio.timeout_after(1000 + depth, nest(depth - 1))
        else:
            async with curio.timeout_after(1000 + depth):
                await nest(depth - 1)

    with pytest.raises(curio.TaskTimeout):
        kernel.run(curio.timeout_after, 0.01, nest, 100)


def test_tasks_have_timeouts_of_their_own(kernel):
    """T12: a child does not inherit a limit."""

    async def child():
        await curio.sleep(0.02)
        return (await curio.current_task()).timeout

    async def main():
        async with curio.ignore_after(0.005):
            task = await curio.spawn(child())
            await curio.sleep(1000)
        return await task.join()

    assert kernel.run(main) is None


def test_timeouts_may_be_left_out_of_order(kernel):
    """S17: an async generator that leaves the outer of two regions first, while the inner
    one goes on. Once, the kernel's table of regions broke here."""

    async def numbers():
        async with curio.timeout_after(0.01):
            yield 1
        yield 2

    async def main():
        generator = numbers()
        assert await generator.__anext__() == 1
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0.02):
                assert await generator.__anext__() == 2
                await curio.sleep(0)
                await curio.sleep(1000)
        await curio.sleep(0.02)
        await generator.aclose()
        assert (await curio.current_task()).timeout is None
        return "fine"

    assert kernel.run(main) == "fine"


def test_region_of_a_generator_that_is_never_left(kernel):
    """S17: dropped in the middle, or kept beyond the task that has entered it."""

    async def numbers(limit):
        async with curio.timeout_after(limit):
            yield 1
            yield 2

    kept = []

    async def keeper():
        generator = numbers(0.005)
        kept.append(generator)
        await generator.__anext__()

    async def main():
        task = await curio.spawn(keeper())
        await task.join()
        other = await curio.spawn(curio.sleep, 0.03)
        await curio.sleep(0.02)
        await other.join()
        return "undisturbed"

    assert kernel.run(main) == "undisturbed"
    kept.clear()


# --- by hand ------------------------------------------------------------------------------


def test_timeouts_raised_by_hand(kernel):
    """Rule 4: a TaskTimeout that a program raises itself was not that of the region around."""

    async def main():
        with pytest.raises(curio.UncaughtTimeoutError):
            async with curio.timeout_after(10):
                raise curio.TaskTimeout(1.0)
        with pytest.raises(curio.TaskTimeout):
            raise curio.TaskTimeout(1.0)
        with pytest.raises(curio.TaskCancelled):
            async with curio.timeout_after(10):
                raise curio.TaskCancelled("by hand")

    kernel.run(main)


def test_expired_region_gives_up_a_plain_error_raised_instead(kernel):
    """T12: what the coroutine makes of it comes out."""

    async def body():
        try:
            await forever()
        except curio.TaskTimeout as error:
            raise Oops from error

    for limited in FORMS:
        with pytest.raises(Oops) as caught:
            kernel.run(limited, 0.001, body)
        assert type(caught.value.__cause__) is curio.TaskTimeout
