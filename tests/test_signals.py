"""Signals: sets that watch them, and the process's handlers.

Goal: no signal is lost or doubled while a set watches it, and afterwards everything in the
process is as it was: handlers, wake-up descriptor, open files. Method: signals that the
process sends itself, from the same thread or another, and real timers; after each test the
handlers must be those from before it. What becomes of a wait that is interrupted is, for all
operations at once, in test_sync_laws.py.
"""

import gc
import inspect
import os
import pydoc
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from signal import SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1, SIGUSR2

import curio
import pytest

HERE = __file__

WATCHED = [SIGHUP, SIGUSR1, SIGUSR2, SIGTERM, SIGINT, SIGALRM, SIGCHLD]


class Oops(Exception):
    pass


def send(*signals):
    """Sends them to this process, which handles each before it goes on."""
    for number in signals:
        os.kill(os.getpid(), number)


def handlers():
    return {number: signal.getsignal(number) for number in WATCHED}


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def line(text):
    """Number of the only line of this file that has `text` as its comment."""
    with open(HERE) as source:
        found = [n for n, line in enumerate(source, 1) if line.rstrip().endswith(f"# {text}")]
    assert len(found) == 1
    return found[0]


async def turns(count=4):
    for _ in range(count):
        await curio.sleep(0)


async def came(signals):
    """All that has come so far to a set that is entered."""
    # The kernel's own task has to read them first.
    for _ in range(3):
        await curio.sleep(0.001)
    return [await curio.timeout_after(5, signals.wait) for _ in range(signals.statistics().level)]


@pytest.fixture(autouse=True)
def as_before():
    """A test run in the background ignores SIGINT; here it is what a program has."""
    run = signal.signal(SIGINT, signal.default_int_handler)
    before = handlers()
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    yield
    after = handlers()
    for number in WATCHED:
        signal.signal(number, before[number])
    assert after == before
    now = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    assert now == wakeup
    signal.signal(SIGINT, run)


class Noted:
    """A handler that notes what it was called with."""

    def __init__(self, *numbers):
        self.came = []
        self.numbers = numbers

    def __call__(self, number, frame):
        self.came.append(number)

    def __enter__(self):
        self.former = [signal.signal(number, self) for number in self.numbers]
        return self

    def __exit__(self, *exception):
        for number, former in zip(self.numbers, self.former, strict=True):
            assert signal.getsignal(number) is self
            signal.signal(number, former)


def later(action, seconds=0.05):
    """Does it from another thread, in a while."""

    def waits():
        time.sleep(seconds)
        times.append(time.monotonic())
        action()

    times = []
    thread = threading.Thread(target=waits)
    thread.times = times
    thread.start()
    return thread


# --- blocks -----------------------------------------------------------------------------------


def test_block_keeps_signals_in_their_order(kernel):
    """T24: those that come inside, oldest first, one at a time; as `signal.Signals`."""

    async def main():
        signals = curio.SignalSet(SIGUSR1, SIGHUP, SIGUSR2)
        async with signals as entered:
            assert entered is signals
            send(SIGUSR2, SIGUSR1, SIGUSR1, SIGHUP)
            numbers = [await signals.wait() for _ in range(4)]
            assert {type(number) for number in numbers} == {signal.Signals}
            send(SIGHUP)
            assert await signals.wait() is SIGHUP
            return numbers

    assert kernel.run(main) == [SIGUSR2, SIGUSR1, SIGUSR1, SIGHUP]


def test_signals_of_a_block_are_not_there_in_the_next(kernel):
    """T24: what was not taken is gone with the block."""

    async def main():
        signals = curio.SignalSet(SIGUSR1, SIGUSR2)
        async with signals:
            send(SIGUSR1, SIGUSR1)
            await signals.wait()
        assert signals.statistics().level == 0
        async with signals:
            send(SIGUSR2)
            assert await came(signals) == [SIGUSR2]
        assert signals.statistics().level == 0

    with Noted(SIGUSR1, SIGUSR2) as noted:
        kernel.run(main)
    assert noted.came == []


@pytest.mark.parametrize("how", ["same", "other", "alone", "while another watches"])
def test_signal_is_for_who_watched_when_it_came(kernel, how):
    """T23, T24: signals from before are not seen, even if the kernel had no time to look at them
    then. Once, who came next got them."""

    async def main():
        first, second = curio.SignalSet(SIGUSR1), curio.SignalSet(SIGUSR1)
        async with first:
            send(SIGUSR1)
            if how == "while another watches":
                async with second:
                    assert await came(second) == []
                assert await came(first) == [SIGUSR1]
        if how == "same":
            async with first:
                return await came(first)
        elif how == "alone":
            number = await curio.ignore_after(0.01, second.wait)
            return [] if number is None else [number]
        async with second:
            return await came(second)

    assert kernel.run(main) == []


def test_handlers_are_back_after_a_block(kernel):
    """T24: at once after it, the same objects; a signal then does what it did."""

    async def main(noted):
        send(SIGUSR1)
        async with curio.SignalSet(SIGUSR1, SIGUSR2):
            assert signal.getsignal(SIGUSR1) is not noted
            assert signal.getsignal(SIGHUP) == signal.SIG_DFL
            send(SIGUSR1)
        assert signal.getsignal(SIGUSR1) is noted is signal.getsignal(SIGUSR2)
        send(SIGUSR2)

    with Noted(SIGUSR1, SIGUSR2) as noted:
        kernel.run(main, noted)
    assert noted.came == [SIGUSR1, SIGUSR2]


@pytest.mark.parametrize("former", [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
def test_handlers_of_each_kind_are_put_back(kernel, former):
    """T24."""

    async def main():
        async with curio.SignalSet(SIGUSR1):
            assert signal.getsignal(SIGUSR1) not in (former, None)
            send(SIGUSR1)
        assert signal.getsignal(SIGUSR1) == former
        assert await curio.ignore_after(0.001, curio.SignalSet(SIGUSR1).wait) is None
        assert signal.getsignal(SIGUSR1) == former

    before = signal.signal(SIGUSR1, former)
    try:
        kernel.run(main)
    finally:
        signal.signal(SIGUSR1, before)


@pytest.mark.parametrize("end", ["error", "cancel", "timeout", "return", "exit"])
def test_handlers_are_back_however_a_block_ends(kernel, end):
    """T24."""

    async def block():
        async with curio.SignalSet(SIGUSR1) as signals:
            if end == "error":
                raise Oops
            elif end == "exit":
                raise SystemExit(5)
            elif end != "return":
                await signals.wait()
            return "value"

    async def main(noted):
        if end == "timeout":
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.002, block())
        elif end == "cancel":
            task = await curio.spawn(block())
            await turns()
            assert task.state == "SIGNAL_WAIT" and signal.getsignal(SIGUSR1) is not noted
            await task.cancel()
        elif end == "return":
            assert await block() == "value"
        elif end == "exit":
            with pytest.raises(SystemExit):
                await block()
        else:
            with pytest.raises(Oops):
                await block()
        assert signal.getsignal(SIGUSR1) is noted

    with Noted(SIGUSR1) as noted:
        kernel.run(main, noted)


def test_entry_and_exit_switch(kernel):
    """D2, section 0: each lets the others run first, and costs a cycle; a wait that finds its
    signal costs none."""
    events = []

    async def other():
        for n in range(4):
            events.append(n)
            await curio.sleep(0)

    async def main():
        me = await curio.current_task()
        signals = curio.SignalSet(SIGUSR1)
        await curio.spawn(other)
        counts = [me.cycles]
        async with signals:
            events.append("inside")
            counts.append(me.cycles)
        events.append("outside")
        counts.append(me.cycles)
        async with signals:
            send(SIGUSR1, SIGUSR1)
            await signals.wait()
            counts.append(me.cycles)
            await signals.wait()
            counts.append(me.cycles)
        return [count - counts[0] for count in counts]

    # The last two: entry, and the first wait, for which the kernel has to look.
    assert kernel.run(main) == [0, 1, 2, 4, 4]
    assert events == [0, "inside", 1, "outside", 2, 3]


def test_entry_and_exit_are_no_cancellation_points(kernel):
    """1.14: they have done their work; the cancellation comes at the wait inside, or after."""
    events = []

    async def child():
        async with curio.SignalSet(SIGUSR1):
            events.append("inside")
        events.append("outside")
        await curio.sleep(0)
        events.append("not reached")

    async def main():
        task = await curio.spawn(child)
        await task.cancel()
        async with curio.ignore_after(0):
            await child()

    kernel.run(main)
    assert events == ["inside", "outside"] * 2


def test_set_is_entered_once_at_a_time(kernel):
    """T24: AssertionError, in whatever task; the block that is entered is not disturbed."""

    async def enters(signals):
        async with signals:
            raise Oops

    async def main():
        signals = curio.SignalSet(SIGUSR1)
        for _ in range(2):
            async with signals:
                with pytest.raises(AssertionError, match="entered already"):
                    await enters(signals)
                task = await curio.spawn(enters(signals))
                await task.wait()
                assert type(task.exception) is AssertionError
                send(SIGUSR1)
                assert await signals.wait() is SIGUSR1
        # Who comes late while the first is still on its way in.
        tasks = [await curio.spawn(stays, signals) for _ in range(2)]
        await turns()
        assert [task.state for task in tasks] == ["SIGNAL_WAIT", "TERMINATED"]
        assert type(tasks[1].exception) is AssertionError
        await tasks[0].cancel()

    async def stays(signals):
        async with signals:
            await signals.wait()

    kernel.run(main, log_errors=False)


def test_several_sets_watch_one_signal(kernel):
    """T24: each gets it; the handler is back when the last has left, in whatever order."""

    async def main(noted):
        first = curio.SignalSet(SIGUSR1)
        second = curio.SignalSet(SIGUSR2, SIGUSR1)
        third = curio.SignalSet(SIGUSR2)
        await first.__aenter__()
        await second.__aenter__()
        send(SIGUSR1)
        async with third:
            send(SIGUSR2, SIGUSR1)
            assert await came(third) == [SIGUSR2]
        assert await came(first) == [SIGUSR1, SIGUSR1]
        assert await came(second) == [SIGUSR1, SIGUSR2, SIGUSR1]
        await first.__aexit__(None, None, None)
        assert signal.getsignal(SIGUSR1) is not noted
        send(SIGUSR1)
        assert await came(second) == [SIGUSR1]
        assert noted.came == []
        await second.__aexit__(None, None, None)
        assert signal.getsignal(SIGUSR1) is noted is signal.getsignal(SIGUSR2)
        send(SIGUSR1)

    with Noted(SIGUSR1, SIGUSR2) as noted:
        kernel.run(main, noted)
    assert noted.came == [SIGUSR1]


def test_tasks_that_wait_in_one_set_take_turns(kernel):
    """T24: each signal goes to one of them, first come, first served."""
    got = []

    async def child(name, signals):
        got.append((name, await signals.wait()))

    async def main():
        async with curio.SignalSet(SIGUSR1, SIGUSR2) as signals:
            tasks = [await curio.spawn(child(name, signals)) for name in "abc"]
            await tasks[1].cancel()
            send(SIGUSR1, SIGUSR2, SIGUSR1)
            await tasks[0].join()
            await tasks[2].join()
            assert await came(signals) == [SIGUSR1]

    kernel.run(main)
    assert got == [("a", SIGUSR1), ("c", SIGUSR2)]


def test_who_waits_when_the_block_is_left(kernel):
    """T24: goes on to wait alone; the handlers are back after that."""

    async def main(noted):
        signals = curio.SignalSet(SIGUSR1)
        async with signals:
            task = await curio.spawn(signals.wait())
            assert task.state == "SIGNAL_WAIT"
        assert signal.getsignal(SIGUSR1) is not noted
        send(SIGUSR1)
        assert await task.join() is SIGUSR1
        assert signal.getsignal(SIGUSR1) is noted

    with Noted(SIGUSR1) as noted:
        kernel.run(main, noted)
    assert noted.came == []


def test_signal_that_is_named_twice_comes_once(kernel):
    """T24: a set is a set. Once, each mention of a signal brought it once more."""

    async def main():
        async with curio.SignalSet(SIGUSR1, SIGUSR2, SIGUSR1) as signals:
            send(SIGUSR1)
            return await came(signals)

    assert kernel.run(main) == [SIGUSR1]


def test_set_without_signals(kernel):
    """T22: a wait that is never fired, but can be given up."""

    async def main():
        signals = curio.SignalSet()
        assert await curio.ignore_after(0.001, signals.wait) is None
        async with signals:
            task = await curio.spawn(signals.wait())
            assert task.state == "SIGNAL_WAIT"
            await task.cancel()

    kernel.run(main)


@pytest.mark.parametrize("count", [100, 3000])
def test_thousands_of_signals_in_a_row(kernel, count):
    """T24: all are kept, in order. Once, what came after the 278th was gone, if the kernel had
    no time to look."""

    async def main():
        async with curio.SignalSet(SIGUSR1, SIGUSR2) as signals:
            sent = [SIGUSR2 if number % 3 else SIGUSR1 for number in range(count)]
            send(*sent)
            return [await curio.timeout_after(10, signals.wait) for _ in sent] == sent

    assert kernel.run(main) is True


def test_thousands_of_signals_while_somebody_takes_them(kernel):
    """T24: with a task that waits for each, and one that computes."""
    got = []

    async def takes(signals):
        while True:
            got.append(await signals.wait())

    async def main():
        async with curio.SignalSet(SIGUSR1) as signals:
            task = await curio.spawn(takes(signals))
            for number in range(2000):
                send(SIGUSR1)
                if number % 50 == 0:
                    await curio.sleep(0)
            while len(got) < 2000:
                await curio.timeout_after(10, curio.sleep, 0.001)
            await task.cancel()

    kernel.run(main)
    assert len(got) == 2000


def test_signal_without_a_name(kernel):
    """T23: one of the system's real-time signals, of which few have names, is a plain number. Once,
    it came as a ValueError, and was lost."""
    number = signal.SIGRTMIN + 5

    async def main():
        async with curio.SignalSet(number, signal.SIGRTMIN, signal.SIGRTMAX) as signals:
            send(number, signal.SIGRTMIN, signal.SIGRTMAX)
            return [await signals.wait() for _ in range(3)]

    assert kernel.run(main) == [number, signal.SIGRTMIN, signal.SIGRTMAX]


# --- alone ------------------------------------------------------------------------------------


def test_wait_alone(kernel):
    """T23: watches, waits for one signal, stops watching; others that are in the set count
    as well, those before and after do not."""

    async def main(noted):
        send(SIGUSR1)
        task = await curio.spawn(curio.SignalSet(SIGUSR1, SIGUSR2).wait())
        await turns()
        assert task.state == "SIGNAL_WAIT"
        assert signal.getsignal(SIGUSR1) is not noted
        send(SIGUSR2)
        assert await task.join() is SIGUSR2
        assert signal.getsignal(SIGUSR1) is noted is signal.getsignal(SIGUSR2)
        send(SIGUSR1)

    with Noted(SIGUSR1, SIGUSR2) as noted:
        kernel.run(main, noted)
    assert noted.came == [SIGUSR1, SIGUSR1]


def test_cycles_of_a_wait_alone(kernel):
    """D2, section 0: entry, the wait itself, exit; as the tutorial counts the parent's."""

    async def main():
        me = await curio.current_task()
        before = me.cycles
        later(lambda: send(SIGUSR1), 0.01)
        await curio.SignalSet(SIGUSR1).wait()
        return me.cycles - before

    assert kernel.run(main) == 3


def test_second_signal_of_a_burst_is_not_for_a_wait_alone(kernel):
    """T23: both have come before it wakes; it takes the first, and the next wait begins anew."""

    async def main():
        signals = curio.SignalSet(SIGUSR1, SIGUSR2)
        task = await curio.spawn(signals.wait())
        await turns()
        send(SIGUSR1, SIGUSR2)
        assert await task.join() is SIGUSR1
        assert await curio.ignore_after(0.01, signals.wait) is None

    kernel.run(main)


def test_several_wait_alone(kernel):
    """T23: tasks with a set each all get it; of one set, one after the other."""

    async def main(noted):
        own = [await curio.spawn(curio.SignalSet(SIGUSR1).wait()) for _ in range(3)]
        await turns()
        send(SIGUSR1)
        for task in own:
            assert await task.join() is SIGUSR1
        shared = curio.SignalSet(SIGUSR1)
        tasks = [await curio.spawn(shared.wait()) for _ in range(3)]
        await turns()
        for task in tasks:
            assert signal.getsignal(SIGUSR1) is not noted
            send(SIGUSR1)
            assert await task.join() is SIGUSR1
        assert signal.getsignal(SIGUSR1) is noted

    with Noted(SIGUSR1) as noted:
        kernel.run(main, noted)
    assert noted.came == []


@pytest.mark.parametrize("interrupt", ["cancel", "timeout", "ignore", "close"])
def test_handlers_are_back_after_a_wait_that_was_given_up(kernel, interrupt):
    """1.14."""

    async def main(noted):
        signals = curio.SignalSet(SIGUSR1)
        if interrupt == "cancel":
            task = await curio.spawn(signals.wait())
            await turns()
            assert signal.getsignal(SIGUSR1) is not noted
            await task.cancel()
        elif interrupt == "timeout":
            with pytest.raises(curio.TaskTimeout):
                await curio.timeout_after(0.002, signals.wait())
        elif interrupt == "ignore":
            assert await curio.ignore_after(0.002, signals.wait()) is None
        else:
            op = signals.wait()
            op.send(None)
            assert signal.getsignal(SIGUSR1) is not noted
            op.close()
        assert signal.getsignal(SIGUSR1) is noted
        send(SIGUSR1)
        await turns()

    with Noted(SIGUSR1) as noted:
        kernel.run(main, noted)
    assert noted.came == [SIGUSR1]


# --- waking -----------------------------------------------------------------------------------


def test_signal_wakes_a_kernel_that_sleeps(kernel):
    """1.6: from another thread, to the process; within half a second, on a busy machine."""

    async def main():
        async with curio.SignalSet(SIGUSR1) as signals:
            thread = later(lambda: send(SIGUSR1))
            await curio.timeout_after(50, signals.wait)
            woken = time.monotonic()
            thread.join()
            return woken - thread.times[0]

    assert kernel.run(main) < 0.5


def test_signal_from_another_process(kernel):
    """1.6: and the child's end is a signal, too."""

    async def main():
        async with curio.SignalSet(SIGUSR1, SIGCHLD) as signals:
            child = subprocess.Popen(["/bin/sh", "-c", f"kill -USR1 {os.getpid()}; exit 3"])
            numbers = [await curio.timeout_after(50, signals.wait) for _ in range(2)]
            return numbers, child.wait()

    assert kernel.run(main) == ([SIGUSR1, SIGCHLD], 3)


def test_forked_child_has_the_handlers_from_before(program):
    """1.6: a signal for a child is nothing to its parent. Once, a child had the parent's handler
    and pipe: a server that terminated a worker thought that it was to end itself."""
    running = program(
        """
import curio, os, signal, time

reading, writing = os.pipe()

def worker():
    os.write(writing, b"x")
    time.sleep(5)
    os._exit(7)

async def main():
    async with curio.SignalSet(signal.SIGTERM) as signals:
        pid = os.fork()
        if pid == 0:
            worker()
        os.read(reading, 1)
        os.kill(pid, signal.SIGTERM)
        print("ended by", os.waitpid(pid, 0)[1])
        print(await curio.ignore_after(0.1, signals.wait))
        os.kill(os.getpid(), signal.SIGTERM)
        print(int(await signals.wait()))

curio.run(main)
"""
    )
    running.succeed()
    assert running.lines == ["ended by 15", "None", "15"]


def test_signal_of_a_timer(kernel):
    """1.6: the system's own; nobody else is there to wake the kernel."""

    async def main():
        async with curio.SignalSet(SIGALRM) as signals:
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
            for _ in range(3):
                assert await curio.timeout_after(50, signals.wait) is SIGALRM
            signal.setitimer(signal.ITIMER_REAL, 0)

    kernel.run(main)


@pytest.mark.parametrize("selector", ["default", "select", "poll"])
def test_each_selector_is_woken(selector):
    """S2, 1.6: also one of the user's."""
    import selectors

    kinds = {"select": selectors.SelectSelector, "poll": selectors.PollSelector}

    async def main():
        thread = later(lambda: send(SIGUSR1))
        try:
            return await curio.timeout_after(50, curio.SignalSet(SIGUSR1).wait)
        finally:
            thread.join()

    if selector == "default":
        assert curio.run(main) is SIGUSR1
    else:
        with kinds[selector]() as chosen:
            assert curio.run(main, selector=chosen) is SIGUSR1
            assert len(chosen.get_map()) == 0


def test_signal_while_a_task_computes(kernel):
    """T24: it is there when the task waits, or another one does."""

    def computes():
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            pass

    async def main():
        async with curio.SignalSet(SIGUSR1, SIGUSR2) as signals:
            other = await curio.spawn(signals.wait())
            thread = later(lambda: send(SIGUSR1, SIGUSR2), 0.01)
            computes()
            thread.join()
            assert other.state == "SIGNAL_WAIT"
            return await curio.timeout_after(10, signals.wait), await other.join()

    assert kernel.run(main) == (SIGUSR2, SIGUSR1)


def test_signal_while_no_kernel_runs():
    """T24: between two runs of a kernel whose task is in a block: it is kept."""

    async def watches():
        async with curio.SignalSet(SIGUSR1) as signals:
            got.append(await signals.wait())

    got = []
    with curio.Kernel() as kernel:
        kernel.add_task(watches, daemon=True)
        kernel.run(turns)
        send(SIGUSR1)
        assert got == []
        kernel.run(curio.sleep, 0.01)
        assert got == [SIGUSR1]


def test_signals_while_many_tasks_are_ready(kernel):
    """1.6: tasks that keep each other busy do not keep signals out."""
    got = []

    async def spins():
        while len(got) < 20:
            await curio.sleep(0)

    async def main():
        async with curio.SignalSet(SIGUSR1) as signals:
            for _ in range(50):
                await curio.spawn(spins)
            for _ in range(20):
                send(SIGUSR1)
                got.append(await curio.timeout_after(20, signals.wait))

    kernel.run(main)
    assert got == [SIGUSR1] * 20


# --- Ctrl-C -----------------------------------------------------------------------------------


def test_ctrl_c_is_a_keyboard_interrupt_while_sets_are_active():
    """1.6: SIGINT is nobody's business here; `run` is left, the handlers are back."""

    async def main():
        async with curio.SignalSet(SIGUSR1, SIGTERM) as signals:
            thread = later(lambda: send(SIGINT))
            try:
                await signals.wait()
            finally:
                thread.join()

    with Noted(SIGUSR1):
        with pytest.raises(KeyboardInterrupt):
            curio.run(main)


def test_ctrl_c_while_a_task_computes():
    """1.6: raised in the task, as in any program."""
    seen = []

    async def main():
        async with curio.SignalSet(SIGUSR1):
            try:
                send(SIGINT)
                time.sleep(1)
            except KeyboardInterrupt:
                seen.append("in the task")
                raise

    with Noted(SIGUSR1), pytest.raises(KeyboardInterrupt):
        curio.run(main)
    assert seen == ["in the task"]


def test_ctrl_c_as_a_signal_of_a_set(kernel):
    """T24: SIGINT in a set is no KeyboardInterrupt; afterwards it is again."""

    async def main():
        async with curio.SignalSet(SIGINT) as signals:
            thread = later(lambda: send(SIGINT))
            assert await signals.wait() is SIGINT
            thread.join()
            send(SIGINT)
        thread = later(lambda: send(SIGINT))
        try:
            await curio.sleep(50)
        finally:
            thread.join()

    with pytest.raises(KeyboardInterrupt):
        kernel.run(main)
    assert signal.getsignal(SIGINT) is signal.default_int_handler


def test_orderly_end_by_sigterm(program):
    """T24: what a daemon does with it, as a program of its own."""
    running = program(
        """
import curio, signal

async def server():
    try:
        await curio.sleep(1000)
    except curio.CancelledError:
        print("cleaned up")
        raise

async def main():
    async with curio.SignalSet(signal.SIGTERM, signal.SIGINT) as signals:
        task = await curio.spawn(server)
        print("ready")
        print((await signals.wait()).name)
        await task.cancel()

curio.run(main)
"""
    )
    running.wait_for("ready")
    running.process.send_signal(SIGTERM)
    running.succeed()
    assert running.lines == ["ready", "SIGTERM", "cleaned up"]


def test_default_action_after_a_wait_alone(program):
    """T23: signals that come after are not for it; the default action applies."""
    running = program(
        """
import curio, signal, time

async def main():
    task = await curio.spawn(curio.SignalSet(signal.SIGHUP).wait())
    while task.state != "SIGNAL_WAIT":
        await curio.sleep(0)
    print("ready")
    print((await task.join()).name)
    time.sleep(50)

curio.run(main)
"""
    )
    running.wait_for("ready")
    running.process.send_signal(SIGHUP)
    running.wait_for("SIGHUP")
    running.process.send_signal(SIGHUP)
    assert running.wait() == -SIGHUP
    assert running.errors == ""


# --- ignore -----------------------------------------------------------------------------------


def test_ignore(kernel):
    """S26: a plain `with`; inside, the signals do nothing, after it what they did."""

    async def main(noted):
        signals = curio.SignalSet(SIGUSR1, SIGUSR2)
        with signals.ignore() as ignored:
            assert ignored is signals
            assert signal.getsignal(SIGUSR1) == signal.getsignal(SIGUSR2) == signal.SIG_IGN
            send(SIGUSR1, SIGUSR2)
            await curio.sleep(0.001)
        assert signal.getsignal(SIGUSR1) is noted is signal.getsignal(SIGUSR2)
        with pytest.raises(Oops), signals.ignore():
            raise Oops
        assert signal.getsignal(SIGUSR1) is noted
        send(SIGUSR1)

    with Noted(SIGUSR1, SIGUSR2) as noted:
        kernel.run(main, noted)
    assert noted.came == [SIGUSR1]


def test_ignore_without_a_kernel():
    """S26: needs none; nests; may be used again."""
    signals = curio.SignalSet(SIGUSR1)
    ignoring = signals.ignore()
    for _ in range(2):
        with ignoring, signals.ignore():
            assert signal.getsignal(SIGUSR1) == signal.SIG_IGN
            send(SIGUSR1)
        assert signal.getsignal(SIGUSR1) == signal.SIG_DFL


def test_ignore_inside_of_a_block_and_around_one(kernel):
    """S26, T24: the inner one counts; each puts back what it found."""

    async def main(noted):
        async with curio.SignalSet(SIGUSR1) as signals:
            send(SIGUSR1)
            with signals.ignore():
                send(SIGUSR1, SIGUSR1)
            send(SIGUSR1)
            assert await came(signals) == [SIGUSR1, SIGUSR1]
        assert signal.getsignal(SIGUSR1) is noted
        with signals.ignore():
            async with signals:
                send(SIGUSR1)
                assert await signals.wait() is SIGUSR1
            assert signal.getsignal(SIGUSR1) == signal.SIG_IGN
            send(SIGUSR1)

    with Noted(SIGUSR1) as noted:
        kernel.run(main, noted)
    assert noted.came == []


@pytest.mark.parametrize("impossible", [SIGKILL, SIGSTOP, 0, -1, 1000])
def test_ignore_of_what_cannot_be_ignored(impossible):
    """S26: the system's error; those before it are as they were."""
    with Noted(SIGUSR1) as noted:
        with pytest.raises((OSError, ValueError)):
            with curio.SignalSet(SIGUSR1, impossible).ignore():
                raise Oops("not reached")
        assert signal.getsignal(SIGUSR1) is noted


# --- wrong arguments --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [SIGKILL, SIGSTOP])
@pytest.mark.parametrize("how", ["wait", "block"])
def test_signals_that_cannot_be_caught(kernel, number, how):
    """T22: ValueError that names it; the others of the set are as they were; the kernel goes on."""

    async def main(noted):
        signals = curio.SignalSet(SIGUSR1, number, SIGUSR2)
        for _ in range(2):
            with pytest.raises(ValueError, match=f"{signal.Signals(number).name} cannot be caught"):
                await (signals.wait() if how == "wait" else signals.__aenter__())
            assert signal.getsignal(SIGUSR1) is noted
        good = curio.SignalSet(SIGUSR1)
        async with good:
            send(SIGUSR1)
            assert await good.wait() is SIGUSR1

    with Noted(SIGUSR1) as noted:
        kernel.run(main, noted)


@pytest.mark.parametrize("number", [0, -1, 65, 1000, 2**31 - 1])
def test_numbers_that_are_no_signals(kernel, number):
    """T22: ValueError; the others of the set are as they were."""

    async def main(noted):
        signals = curio.SignalSet(SIGUSR1, number)
        for operation in (signals.wait, signals.__aenter__):
            with pytest.raises(ValueError, match="out of range"):
                await operation()
            assert signal.getsignal(SIGUSR1) is noted

    with Noted(SIGUSR1) as noted:
        kernel.run(main, noted)


def test_what_is_no_number():
    """T22: TypeError, at once."""
    for wrong in (None, "SIGHUP", 1.0, [SIGHUP], {SIGHUP}):
        with pytest.raises(TypeError):
            curio.SignalSet(wrong)
        with pytest.raises(TypeError):
            curio.SignalSet(SIGUSR1, wrong)
    with pytest.raises((OverflowError, ValueError)):
        curio.SignalSet(10**30)
    with pytest.raises(TypeError):
        curio.SignalSet(signos=[SIGHUP])
    with pytest.raises(AttributeError):
        curio.SignalSet(SIGHUP).misspelled = 1
    with pytest.raises(TypeError, match="was called on something else"):
        curio.SignalSet.wait(curio.Lock())


def test_plain_with_is_refused():
    """D14: as with everything that is entered by `async with`."""
    with pytest.raises(curio.AsyncOnlyError, match="async with"):
        with curio.SignalSet(SIGUSR1):
            pass


def test_block_that_was_not_entered(kernel):
    """T24: leaving it does no harm."""

    async def main():
        signals = curio.SignalSet(SIGUSR1)
        await signals.__aexit__(None, None, None)
        async with signals:
            send(SIGUSR1)
            assert await signals.wait() is SIGUSR1

    kernel.run(main)


# --- threads and kernels ----------------------------------------------------------------------


def in_thread(function):
    """Runs it in another thread; gives what it has returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), name="the other one")
    thread.start()
    thread.join()
    return results[0]


def test_kernel_in_another_thread():
    """T22: ValueError that says which thread it is; nothing is left, and the kernel goes on."""

    async def main():
        before = len(curio.get_all_tasks())
        signals = curio.SignalSet(SIGUSR1)
        for operation in (signals.wait, signals.__aenter__):
            with pytest.raises(ValueError, match="main thread only.*'the other one'"):
                await operation()
        with pytest.raises(ValueError, match="main thread"):
            with signals.ignore():
                pass
        assert len(curio.get_all_tasks()) == before
        await curio.sleep(0.001)
        return "goes on"

    before = descriptors()
    assert in_thread(lambda: curio.run(main)) == "goes on"
    assert descriptors() == before
    # The set is good for the main thread all the same.
    assert signal.getsignal(SIGUSR1) == signal.SIG_DFL


def test_signals_of_the_main_thread_while_another_runs_a_kernel(kernel):
    """T22: the other one is not disturbed."""

    async def works():
        for _ in range(100):
            await curio.sleep(0.0005)
        send(SIGUSR1)
        return "worked"

    async def main():
        async with curio.SignalSet(SIGUSR1) as signals:
            results = []
            thread = threading.Thread(target=lambda: results.append(curio.run(works)))
            thread.start()
            assert await curio.timeout_after(50, signals.wait) is SIGUSR1
            thread.join()
            return results

    assert kernel.run(main) == ["worked"]


module_set = curio.SignalSet(SIGUSR1, SIGUSR2)


async def uses_the_set_of_the_module():
    async with module_set:
        send(SIGUSR2, SIGUSR1)
        return await came(module_set)


def test_set_of_a_module_serves_one_kernel_after_the_other():
    """T22: made before any kernel."""
    for _ in range(3):
        assert curio.run(uses_the_set_of_the_module) == [SIGUSR2, SIGUSR1]
    with curio.Kernel() as first, curio.Kernel() as second:
        for kernel in (first, second, first):
            assert kernel.run(uses_the_set_of_the_module) == [SIGUSR2, SIGUSR1]


async def in_a_block():
    async with module_set:
        await curio.sleep(1000)


async def alone():
    await module_set.wait()


async def both():
    async with module_set:
        await module_set.wait()


@pytest.mark.parametrize("shut", [True, False], ids=["shut down", "dropped"])
@pytest.mark.parametrize("task", [in_a_block, alone, both])
def test_set_that_is_active_when_its_kernel_ends(task, shut):
    """T24, S4: the handlers are back, and the set is good for the next kernel. Once, a set that
    was entered when its kernel was dropped stayed so for ever, and swallowed its signals."""
    with Noted(SIGUSR1, SIGUSR2) as noted:
        before = descriptors()
        for _ in range(3):
            kernel = curio.Kernel()
            kernel.add_task(task, daemon=True)
            kernel.run(turns)
            assert signal.getsignal(SIGUSR1) is not noted
            if shut:
                kernel.shutdown()
            del kernel
            gc.collect()
            assert signal.getsignal(SIGUSR1) is noted is signal.getsignal(SIGUSR2)
            assert curio.run(uses_the_set_of_the_module) == [SIGUSR2, SIGUSR1]
        assert descriptors() == before
        assert noted.came == []


def test_kernel_that_goes_in_another_thread():
    """1.6: as by the collector, which runs in any thread, without a say in signals. The next signal
    finds that nobody watches; the former handler has it, and is back. Once, it was swallowed."""

    def drop():
        kernels.clear()
        gc.collect()

    for further in ("signal", "block"):
        with Noted(SIGUSR1, SIGUSR2) as noted:
            kernels = [curio.Kernel()]
            kernels[0].add_task(in_a_block, daemon=True)
            kernels[0].run(turns)
            in_thread(drop)
            if further == "signal":
                send(SIGUSR1, SIGUSR2)
            else:
                assert curio.run(uses_the_set_of_the_module) == [SIGUSR2, SIGUSR1]
                send(SIGUSR1, SIGUSR2)
            assert noted.came == [SIGUSR1, SIGUSR2]


@pytest.mark.parametrize("form", ["by hand", "generator"])
def test_shutdown_puts_the_handlers_back_whatever_a_set_thinks(form):
    """S4: of a set that nobody leaves any more: entered by hand, or by an asynchronous generator
    that somebody keeps. Once, its handlers stayed, and swallowed the signals."""
    signals = curio.SignalSet(SIGUSR1)
    kept = []

    async def generates():
        async with signals:
            yield 1
            yield 2

    async def main():
        if form == "by hand":
            await signals.__aenter__()
        else:
            kept.append(generates())
            assert await kept[0].__anext__() == 1

    with Noted(SIGUSR1) as noted:
        kernel = curio.Kernel()
        kernel.run(main)
        assert signal.getsignal(SIGUSR1) is not noted
        kernel.shutdown()
        assert signal.getsignal(SIGUSR1) is noted
        send(SIGUSR1)
        assert noted.came == [SIGUSR1]
        kept.clear()


def test_set_of_another_kernel_cannot_be_waited_for(kernel):
    """T24: its signals go to the kernel where it is entered, so a wait elsewhere is an error, not
    a wait for ever."""
    kernel.add_task(in_a_block, daemon=True)
    kernel.run(turns)

    async def waits():
        send(SIGUSR1)
        with pytest.raises((curio.CurioError, RuntimeError)):
            await curio.ignore_after(0.1, module_set.wait)
            pytest.fail("it would wait for ever")

    curio.run(waits)


def test_kernels_with_a_set_each():
    """T24: both get the signal; the handler is back when the last has gone."""

    async def watches(signals, got):
        async with signals:
            while True:
                got.append(await signals.wait())

    with Noted(SIGUSR1) as noted:
        kernels = [curio.Kernel() for _ in range(2)]
        boxes = [[], []]
        for kernel, box in zip(kernels, boxes, strict=True):
            kernel.add_task(watches(curio.SignalSet(SIGUSR1), box), daemon=True)
            kernel.run(turns)
        send(SIGUSR1)
        for kernel in kernels:
            kernel.run(curio.sleep, 0.01)
        assert boxes == [[SIGUSR1], [SIGUSR1]]
        kernels.pop(0).shutdown()
        assert signal.getsignal(SIGUSR1) is not noted
        send(SIGUSR1)
        kernels[0].run(curio.sleep, 0.01)
        assert boxes == [[SIGUSR1], [SIGUSR1, SIGUSR1]]
        kernels.pop(0).shutdown()
        assert signal.getsignal(SIGUSR1) is noted
    assert noted.came == []


def test_wakeup_descriptor_is_put_back():
    """1.6: whatever was set, after each run and each shutdown."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        for _ in range(3):
            assert curio.run(uses_the_set_of_the_module) == [SIGUSR2, SIGUSR1]
            with curio.Kernel() as kernel:
                kernel.run(uses_the_set_of_the_module)
                assert signal.set_wakeup_fd(writing, warn_on_full_buffer=False) == writing
            with pytest.raises(Oops):
                curio.run(fails_inside)
    finally:
        now = signal.set_wakeup_fd(former)
        os.close(reading)
        os.close(writing)
    assert now == writing


async def fails_inside():
    async with curio.SignalSet(SIGUSR1):
        raise Oops


def test_no_descriptor_is_left_behind():
    """1.6: by kernels with sets, whether shut down or dropped."""
    before = descriptors()
    for number in range(20):
        kernel = curio.Kernel()
        kernel.run(uses_the_set_of_the_module)
        kernel.add_task(in_a_block, daemon=True)
        kernel.run(turns)
        if number % 2:
            kernel.shutdown()
        del kernel
    assert descriptors() == before


def test_helper_task_is_made_on_first_need(program):
    """Section 0, D6: it takes the next id then, once in a kernel, and is nobody's child."""
    running = program(
        """
import curio, os, signal
async def child(): await curio.sleep(0)
async def main():
    me = await curio.current_task()
    first = await curio.spawn(child)
    for _ in range(2):
        async with curio.SignalSet(signal.SIGUSR1):
            pass
    second = await curio.spawn(child)
    print(me.id, first.id, second.id, sorted(task.id for task in me.children))
    print([task.id for task in curio.get_all_tasks()])
curio.run(main)
"""
    )
    running.succeed()
    assert running.lines == ["1 2 4 [4]", "[1, 4]"]


def test_kernel_does_not_wait_for_its_helper():
    """T3: `run` returns though the helper would read for ever."""
    with curio.Kernel() as kernel:
        for _ in range(3):
            assert kernel.run(uses_the_set_of_the_module) == [SIGUSR2, SIGUSR1]


# --- as Python sees it ------------------------------------------------------------------------


def operations():
    signals = curio.SignalSet(SIGUSR1)
    return {
        "SignalSet.wait": signals.wait,
        "SignalSet.__aenter__": signals.__aenter__,
        "SignalSet.__aexit__": lambda: signals.__aexit__(None, None, None),
    }


every_operation = pytest.mark.parametrize("name", operations())


@every_operation
def test_outside_of_a_kernel(name):
    """T22: RuntimeError at the await; nothing is watched."""
    with pytest.raises(RuntimeError, match="outside of a"):
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
    assert str(warning.message) == f"coroutine '{name}' was never awaited"
    if "exit" not in name:
        assert (warning.filename, warning.lineno) == (HERE, line("forgotten"))


@every_operation
def test_coroutine_functions(name):
    """T73: for inspect, too; with documentation."""
    function = getattr(curio.SignalSet, name.split(".")[1])
    assert inspect.iscoroutinefunction(function)
    assert function.__qualname__ == name
    assert inspect.getdoc(function)
    assert os.path.basename(inspect.getsourcefile(function)) == "signal.py"
    assert not inspect.iscoroutinefunction(curio.SignalSet.ignore)
    assert "Cancellation:" in inspect.getdoc(curio.SignalSet.wait)


def test_help():
    """T73."""
    text = pydoc.render_doc(curio.SignalSet, renderer=pydoc.plaintext)
    assert "SignalSet(*signos)" in text
    assert str(inspect.signature(curio.SignalSet)) == "(*signos)"
    for method in ("wait", "__aenter__", "__aexit__"):
        assert f"async {method}(self" in text or f"async def {method}(self" in text


def test_repr_and_statistics(kernel):
    """The signals, and how many wait; the level is what has come and was not taken."""

    async def main():
        signals = curio.SignalSet(SIGUSR1, SIGUSR2)
        text = repr(signals)
        assert re.match(r"<curio\.SignalSet \d+ \[", text), text
        assert str(int(SIGUSR1)) in text or "SIGUSR1" in text
        assert signals.statistics() == (None, 0, 0, 0, 0)
        async with signals:
            tasks = [await curio.spawn(signals.wait()) for _ in range(2)]
            assert signals.statistics().waiting == 2
            assert repr(signals).endswith(", 2 waiting]>")
            for task in tasks:
                await task.cancel()
            send(SIGUSR1, SIGUSR1)
            await curio.sleep(0.01)
            assert signals.statistics()[1:4] == (0, 2, 2)
            await signals.wait()
            assert signals.statistics()[1:4] == (0, 1, 2)

    kernel.run(main)


# --- memory -----------------------------------------------------------------------------------


def test_last_reference(kernel):
    """A set goes with its last reference; entered, with its block."""

    async def main():
        signals = curio.SignalSet(SIGUSR1)
        gone = weakref.ref(signals)
        async with signals:
            del signals
            gc.collect()
            assert gone() is not None
        await turns()
        assert gone() is None

    kernel.run(main)


def test_operation_in_a_cycle_with_its_set_is_collected():
    """`async with` gives the set back, so its operation refers to it."""

    class Held(curio.SignalSet):
        pass

    signals = Held(SIGUSR1)
    signals.operation = signals.__aenter__()
    gone = weakref.ref(signals)
    with pytest.warns(RuntimeWarning, match="SignalSet.__aenter__"):
        del signals
        gc.collect()
    assert gone() is None


def test_handler_that_was_there_is_let_go(kernel):
    """T24: a former handler is kept as long as it is to be put back, and no longer."""

    async def main():
        handler = Noted()
        gone = weakref.ref(handler)
        former = signal.signal(SIGUSR1, handler)
        del handler
        async with curio.SignalSet(SIGUSR1):
            gc.collect()
            assert gone() is not None
        signal.signal(SIGUSR1, former)
        gc.collect()
        assert gone() is None

    kernel.run(main)


def test_loops_do_not_grow(kernel):
    """What an operation needs, it gives back: blocks of memory before and after are as many."""
    signals = curio.SignalSet(SIGUSR1)

    async def loop(count):
        for _ in range(count):
            async with signals, curio.SignalSet(SIGUSR1, SIGUSR2) as others:
                send(SIGUSR1)
                await signals.wait()
                async with curio.ignore_after(0):
                    await signals.wait()
                await others.wait()
            async with curio.ignore_after(0):
                await signals.wait()
            with signals.ignore():
                send(SIGUSR1)

    async def main():
        await loop(50)
        readings = []
        for _ in range(4):
            gc.collect()
            readings.append(sys.getallocatedblocks())
            await loop(50)
        return readings

    readings = kernel.run(main)
    assert readings[-1] - readings[0] < 100, readings
