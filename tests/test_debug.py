"""Activations and debuggers: being told of what tasks do; and where a task is.

Goal: an activation hears of everything, in order, and nothing it does harms the kernel; the
debuggers report what they are asked for, once, and no more. Method: whole traces of small
programs, and the log.
"""

import gc
import logging
import re
import signal
import socket
import sys
import threading
import time
import weakref

import curio
import curio.monitor
import pytest
from curio import debug
from curio.debug import logcrash, longblock, schedtrace, traptrace
from curio.kernel import Activation
from monitored import Place, eventually


class Trace(Activation):
    """Notes all that it is told."""

    def __init__(self):
        self.events = []
        self.tasks = []
        self.kernels = []

    def activate(self, kernel):
        self.kernels.append(kernel)

    def created(self, task):
        self.tasks.append(task)
        self.events.append(("created", task.name, task.state, task.cycles))

    def running(self, task):
        self.events.append(("running", task.name, task.state, task.cycles))

    def suspended(self, task, trap):
        assert isinstance(trap, tuple) and isinstance(trap[0], str)
        self.events.append(("suspended", task.name, trap[0], task.state))

    def terminated(self, task):
        assert task.terminated
        self.events.append(("terminated", task.name, task.state, task.cycles))

    def of(self, name):
        return [event for event in self.events if event[1] == name]


async def nap():
    await curio.sleep(0.001)


async def crash():
    raise ValueError("boom")


# --- activations --------------------------------------------------------------------------


def test_whole_trace():
    event = curio.Event()

    async def kid():
        await event.wait()

    async def main():
        task = await curio.spawn(kid)
        await curio.sleep(0.001)
        await event.set()
        await task.join()

    kid.__qualname__, main.__qualname__ = "kid", "main"
    trace = Trace()
    curio.run(main, activations=[trace])
    assert trace.events == [
        ("created", "main", "READY", 0),
        ("running", "main", "RUNNING", 1),
        ("created", "kid", "READY", 0),
        ("suspended", "main", "trap_sleep", "TIME_SLEEP"),
        ("running", "kid", "RUNNING", 1),
        ("suspended", "kid", "trap_sched_wait", "EVENT_WAIT"),
        ("running", "main", "RUNNING", 2),
        ("suspended", "main", "trap_sleep", "READY"),
        ("running", "kid", "RUNNING", 2),
        ("suspended", "kid", "trap_exit", "TERMINATED"),
        ("terminated", "kid", "TERMINATED", 2),
        ("running", "main", "RUNNING", 3),
        ("suspended", "main", "trap_exit", "TERMINATED"),
        ("terminated", "main", "TERMINATED", 3),
    ]
    assert [task.name for task in trace.tasks] == ["main", "kid"]


@pytest.mark.parametrize(
    ("wait", "trap", "state"),
    [
        ("curio.sleep(0)", "trap_sleep", "READY"),
        ("curio.sleep(1000)", "trap_sleep", "TIME_SLEEP"),
        ("event.wait()", "trap_sched_wait", "EVENT_WAIT"),
        ("lock.acquire()", "trap_sched_wait", "LOCK_ACQUIRE"),
        ("rlock.acquire()", "trap_sched_wait", "LOCK_ACQUIRE"),
        ("semaphore.acquire()", "trap_sched_wait", "SEMA_ACQUIRE"),
        ("queue.get()", "trap_sched_wait", "QUEUE_GET"),
        ("full.put(1)", "trap_sched_wait", "QUEUE_PUT"),
        ("full.join()", "trap_sched_wait", "QUEUE_JOIN"),
        ("sleeper.join()", "trap_sched_wait", "TASK_JOIN"),
        ("sleeper.wait()", "trap_sched_wait", "TASK_JOIN"),
        ("waits(condition)", "trap_sched_wait", "COND_WAIT"),
        ("sock.recv(1)", "trap_io", "READ_WAIT"),
        ("sock.sendall(bytes(10_000_000))", "trap_io", "WRITE_WAIT"),
        ("curio.timeout_after(100, sock.recv(1))", "trap_io", "READ_WAIT"),
        (f"curio.SignalSet({signal.SIGUSR1:d}).wait()", "trap_sched_wait", "SIGNAL_WAIT"),
    ],
)
def test_traps(wait, trap, state):
    async def notified(condition):
        async with condition:
            await condition.wait()

    async def main():
        waits = notified
        lock, rlock, semaphore = curio.Lock(), curio.RLock(), curio.Semaphore(0)
        event, queue, full, condition = (
            curio.Event(),
            curio.Queue(),
            curio.Queue(1),
            curio.Condition(),
        )
        await lock.acquire()
        await rlock.acquire()
        await full.put(0)
        sleeper = await curio.spawn(curio.sleep(1000), daemon=True)
        one, other = socket.socketpair()
        with one, other:
            sock = curio.io.Socket(one)
            names = {**globals(), **locals()}

            async def body():
                await eval(wait, names)

            task = await curio.spawn(body, daemon=True)
            await curio.sleep(0.01)
            await task.cancel()

    trace = Trace()
    curio.run(main, activations=[trace])
    body = trace.of("test_traps.<locals>.main.<locals>.body")
    stops = [event[2:] for event in body if event[0] == "suspended"]
    # A signal set has to wait until the kernel listens to signals at all.
    assert (trap, state) in stops[:2]
    assert stops[-1] == ("trap_exit", "TERMINATED")


def test_trap_tells_more():
    class Traps(Activation):
        def suspended(self, task, trap):
            traps.append((task.name, trap))

    async def body():
        one, other = socket.socketpair()
        with one, other:
            numbers.append(one.fileno())
            await curio.ignore_after(0.001, curio.io.Socket(one).recv(1))
        task = await curio.spawn(nap)
        numbers.append(task.id)
        await task.join()
        before = await curio.clock()
        await curio.sleep(0.01)
        numbers.append(before)

    traps, numbers = [], []
    curio.run(body, activations=[Traps])
    mine = [trap for name, trap in traps if name.endswith("body")]
    (fd, id, before) = numbers
    assert [trap[0] for trap in mine] == ["trap_io", "trap_sched_wait", "trap_sleep", "trap_exit"]
    assert mine[0][1] == fd and mine[1][1] == id
    assert before + 0.009 < mine[2][1] < before + 1
    assert mine[3] == ("trap_exit",)


def test_every_way_to_end():
    async def returns():
        return 42

    async def main():
        for body in returns, crash, nap:
            task = await curio.spawn(body)
            if body is nap:
                await task.cancel()
            await task.wait()
        await curio.spawn(curio.sleep(1000), daemon=True)

    class Ends(Activation):
        def terminated(self, task):
            name = task.name.rpartition(".")[2]
            ends[name] = (task.terminated, task.exception, task.cancelled)

    ends = {}
    with curio.Kernel(activations=[Ends]) as kernel:
        kernel.run(main, log_errors=False)
        assert "sleep" not in ends
    assert ends["returns"] == (True, None, False)
    assert isinstance(ends["crash"][1], ValueError)
    assert isinstance(ends["nap"][1], curio.TaskCancelled) and ends["nap"][2]
    assert isinstance(ends["sleep"][1], curio.TaskCancelled)
    assert ends["main"] == (True, None, False)


def test_order_of_several():
    class Named(Activation):
        def __init__(self, name):
            self.name = name

        def activate(self, kernel):
            told.append((self.name, "activate"))

        def created(self, task):
            told.append((self.name, "created"))

        def suspended(self, task, trap):
            told.append((self.name, "suspended"))

        def terminated(self, task):
            told.append((self.name, "terminated"))

    class FromClass(Named):
        def __init__(self):
            super().__init__("class")

    told = []
    curio.run(curio.sleep, 0.001, activations=[Named("one"), FromClass, Named("two")])
    moments = ["activate", "created", "suspended", "suspended", "terminated"]
    assert told == [(name, moment) for moment in moments for name in ("one", "class", "two")]


def test_activate():
    async def main():
        pass

    trace = Trace()
    kernel = curio.Kernel(activations=[trace])
    assert trace.kernels == []
    kernel.add_task(main())
    kernel.run()
    assert trace.kernels == [kernel]
    kernel.run(main)
    kernel.shutdown()
    assert trace.kernels == [kernel]
    trace = Trace()
    curio.run(main, activations=[trace])
    assert isinstance(trace.kernels[0], curio.Kernel)


def test_activation_with_the_monitor():
    # The package's own tasks are not the user's, and have no object of Python's.
    trace = Trace()
    with Place():
        with curio.Kernel(activations=[trace], with_monitor=True) as kernel:
            kernel.run(curio.sleep, 0.15)
    assert {name for _, name, *_ in trace.events} == {"sleep"}


def test_what_is_no_subclass_is_an_activation_too():
    class Duck:
        def running(self, task):
            names.append(task.name)

    names = []
    curio.run(nap, activations=[Duck(), Duck])
    assert names == ["nap"] * 4


def test_an_instance_may_have_methods_of_its_own():
    activation = Activation()
    names = []
    activation.running = lambda task: names.append(task.name)
    curio.run(nap, activations=[activation])
    assert names == ["nap"] * 2


@pytest.mark.parametrize("activations", [None, [], (), iter([]), {}])
def test_no_activations(activations):
    assert curio.run(nap, activations=activations) is None


@pytest.mark.parametrize("activations", [5, Activation, Activation()])
def test_what_is_no_list(activations):
    with pytest.raises(TypeError):
        curio.Kernel(activations=activations)


def test_a_class_that_cannot_be_made():
    class Fails(Activation):
        def __init__(self):
            raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        curio.Kernel(activations=[Fails])


def test_activate_that_fails():
    class Fails(Activation):
        def activate(self, kernel):
            raise LookupError("not today")

    async def main():
        raise AssertionError("it has run")

    with pytest.raises(LookupError, match="not today"):
        curio.run(main, activations=[Fails])


@pytest.fixture
def unraisable(monkeypatch):
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: found.append(args.exc_value))
    return found


@pytest.mark.parametrize("method", ["created", "running", "suspended", "terminated"])
@pytest.mark.parametrize("error", [ValueError, curio.TaskCancelled])
def test_exceptions_in_callbacks(unraisable, method, error):
    def fails(self, task, *trap):
        raise error("of the activation")

    async def main():
        task = await curio.spawn(nap)
        await task.join()
        return "done"

    trace = Trace()
    fails_too = type("Fails", (Activation,), {method: fails})
    assert curio.run(main, activations=[fails_too, trace]) == "done"
    # The others are told all the same.
    calls = [event for event in trace.events if event[0] == method]
    assert len(unraisable) == len(calls) >= 2
    assert all(type(exception) is error for exception in unraisable)


@pytest.mark.parametrize("method", ["created", "running", "suspended", "terminated"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_callbacks_that_end_the_run(unraisable, method, error):
    """As if a task had raised it. Ctrl-C may come while a callback runs."""

    def fails(self, task, *trap):
        if not raised:
            raised.append(task)
            raise error("of the activation")

    async def main():
        await curio.spawn(nap)
        try:
            await curio.sleep(1000)
        finally:
            await curio.sleep(0)
            cleaned.append(True)

    raised, cleaned = [], []
    fails_once = type("Fails", (Activation,), {method: fails})
    with pytest.raises(error, match="of the activation"):
        curio.run(main, activations=[fails_once])
    assert (len(raised), len(unraisable)) == (1, 0)
    assert cleaned == [True]


@pytest.mark.parametrize("methods", [("terminated",), ("created", "suspended", "terminated")])
def test_the_end_of_a_task_that_has_just_made_others(methods):
    """It is told of, although other tasks were told of in the same turn."""

    async def main():
        await curio.spawn(nap)
        await curio.spawn(nap)
        return await curio.current_task()

    ended = []
    namespace = dict.fromkeys(methods, lambda self, task, *trap: None)
    namespace["terminated"] = lambda self, task: ended.append(task)
    main_task = curio.run(main, activations=[type("Ends", (Activation,), namespace)])
    assert len(ended) == 3 and ended[0] is main_task


def test_a_callback_that_interrupts_the_shutdown(unraisable):
    class Fails(Activation):
        def terminated(self, task):
            ended.append(task)
            if task is tasks[1]:
                raise KeyboardInterrupt

    async def main():
        tasks.extend([await curio.spawn(nap), await curio.spawn(nap)])

    tasks, ended = [None], []
    with pytest.raises(KeyboardInterrupt):
        curio.run(main, activations=[Fails])
    # It is raised when everything has ended.
    assert (ended[1:], unraisable) == ([tasks[2], tasks[1]], [])


def test_wrong_number_of_arguments(unraisable):
    class Wrong(Activation):
        def suspended(self, task):
            pass

    assert curio.run(nap, activations=[Wrong]) is None
    assert len(unraisable) == 2 and all(type(e) is TypeError for e in unraisable)


def test_callbacks_may_look_at_anything():
    class Looks(Activation):
        def look(self, task, *trap):
            repr(task), str(task), task.traceback(), task.where(), task.children, task.cancelled
            if trap:
                curio.get_all_tasks()
            curio.monitor.Monitor(self.kernel).ps(out=self)
            curio.monitor.dump(self.kernel, self)

        def activate(self, kernel):
            self.kernel = kernel

        def write(self, text):
            texts.append(text)

        def flush(self):
            pass

        created = running = suspended = terminated = look

    async def main():
        task = await curio.spawn(nap)
        await curio.spawn(nap())
        await task.join()

    texts = []
    with curio.Kernel(activations=[Looks]) as kernel:
        kernel.run(main)
    assert len(texts) > 20 and any("nap" in text for text in texts)


def test_callbacks_cannot_run_the_kernel(unraisable):
    class Runs(Activation):
        def activate(self, kernel):
            self.kernel = kernel

        def running(self, task):
            self.kernel.run(curio.sleep, 0)

        def suspended(self, task, trap):
            curio.run(curio.sleep, 0)

        def terminated(self, task):
            self.kernel.shutdown()

    with curio.Kernel(activations=[Runs]) as kernel:
        kernel.run(nap)
    assert [type(exception) for exception in unraisable] == [RuntimeError] * 5


class Keeps(Trace):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def terminated(self, task):
        super().terminated(task)
        if self.what != "kernel":
            self.kernels.clear()
        if self.what != "task":
            self.tasks.clear()


# A kernel that something of its own refers to lives until it is shut down.
@pytest.mark.parametrize(
    ("what", "shut_down"),
    [("nothing", True), ("nothing", False), ("task", True), ("task", False), ("kernel", True)],
)
def test_activations_go_with_their_kernel(what, shut_down):
    def use():
        activation = Keeps(what)
        kernel = curio.Kernel(activations=[activation], debug=[schedtrace, logcrash])
        kernel.run(nap)
        if shut_down:
            kernel.shutdown()
        return weakref.ref(activation), weakref.ref(kernel)

    references = use()
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_tasks_are_not_kept():
    async def main():
        task = await curio.spawn(nap)
        reference = weakref.ref(task)
        await task.join()
        del task
        gc.collect()
        return reference()

    class Looks(Activation):
        def running(self, task):
            pass

        suspended = None

        def terminated(self, task):
            pass

    activation = Looks()
    del Looks.suspended
    assert curio.run(main, activations=[activation]) is None
    assert curio.run(main, debug=[schedtrace, traptrace, longblock, logcrash]) is None


def test_a_shared_activation():
    trace = Trace()
    for _ in range(2):
        curio.run(nap, activations=[trace])
    assert len(trace.kernels) == 2
    assert [event[0] for event in trace.events].count("terminated") == 2


# --- debuggers ----------------------------------------------------------------------------


def messages(log, name="curio.debug"):
    return [record.getMessage() for record in log.records if record.name == name]


def without_ids(found):
    return [re.sub(r"task \d+", "task N", message) for message in found]


def test_schedtrace(log):
    curio.run(nap, debug=schedtrace)
    assert without_ids(messages(log)) == [
        "CREATE: task N (nap)",
        "RUN: task N (nap), cycle 1",
        "SUSPEND: task N (nap), TIME_SLEEP",
        "RUN: task N (nap), cycle 2",
        "SUSPEND: task N (nap), TERMINATED",
        "TERMINATED: task N (nap)",
    ]
    assert {record.levelno for record in log.records} == {logging.INFO}


def test_traptrace(log):
    async def main():
        task = await curio.spawn(nap)
        await task.join()

    curio.run(main, debug=traptrace)
    joins, sleeps = without_ids(messages(log))
    assert re.fullmatch(r"TRAP: task N \(.*main\), \('trap_sched_wait', \d+, 'TASK_JOIN'\)", joins)
    assert re.fullmatch(r"TRAP: task N \(nap\), \('trap_sleep', \d+\.\d+\)", sleeps)


@pytest.mark.parametrize(
    "given",
    [
        schedtrace,
        schedtrace(),
        [schedtrace],
        (schedtrace(),),
        [schedtrace, schedtrace(level=logging.DEBUG - 1)],
    ],
)
def test_one_or_a_list(log, given):
    curio.run(nap, debug=given)
    assert len(messages(log)) == 6


@pytest.mark.parametrize("given", [None, False, [], ()])
def test_none(log, given):
    curio.run(nap, debug=given)
    assert not log


def test_true(log):
    async def main():
        await curio.spawn(crash)
        time.sleep(0.12)

    curio.run(main, debug=True)
    levels = {record.levelno for record in log.records}
    said = messages(log)
    assert levels == {logging.ERROR, logging.WARNING}
    assert any("is keeping the processor" in message for message in said)
    assert any("has kept the processor" in message for message in said)
    assert sum("Task Crash" in message for message in said) == 1
    assert len(said) == len(log) == 3


def test_unknown_options():
    for debugger in schedtrace, traptrace, logcrash, longblock:
        with pytest.raises(TypeError):
            debugger(colour="red")
        with pytest.raises(TypeError):
            debugger("positional")


@pytest.mark.parametrize("filter", ["nap", {"nap"}, ["nap", "x"], ("nap",), frozenset(["nap"])])
def test_filter(log, filter):
    async def main():
        for _ in range(2):
            task = await curio.spawn(nap)
            await task.join()

    curio.run(main, debug=[schedtrace(filter=filter), traptrace(filter=filter)])
    said = messages(log)
    assert len(said) == 2 * (6 + 1)
    assert all("(nap)" in message for message in said)


def test_filter_that_fits_nobody(log):
    curio.run(nap, debug=[schedtrace(filter=()), traptrace(filter="na")])
    assert not log


def test_levels_and_logs(log):
    other = logging.getLogger("curio.of_our_own")
    curio.run(
        nap,
        debug=[schedtrace(level=logging.CRITICAL), traptrace(log=other, level=logging.WARNING)],
    )
    assert len(messages(log)) == 6 and len(messages(log, other.name)) == 1
    assert [r.levelno for r in log.records if r.name == other.name] == [logging.WARNING]
    assert {r.levelno for r in log.records if r.name != other.name} == {logging.CRITICAL}


def test_switched_off_by_the_level_of_the_log(log):
    debug.log.setLevel(logging.ERROR)
    try:
        curio.run(nap, debug=[schedtrace, traptrace])
    finally:
        debug.log.setLevel(logging.NOTSET)
    assert not log


def test_logcrash_stands_in_for_the_kernels_report(log):
    async def main():
        await curio.spawn(crash)
        await nap()

    curio.run(main, debug=logcrash)
    (record,) = log.records
    assert (record.name, record.levelno) == ("curio.debug", logging.ERROR)
    assert re.fullmatch(r"Curio: Task Crash: task \d+ \(crash\)", record.getMessage())
    assert record.exc_info[0] is ValueError
    assert "in crash" in log.texts[0] and "ValueError: boom" in log.texts[0]
    assert "curio/" not in log.texts[0].replace(__file__, "")


def test_logcrash_reports_the_main_task(log):
    with pytest.raises(ValueError, match="boom"):
        curio.run(crash, debug=logcrash)
    assert [record.name for record in log.records] == ["curio.debug"]


def test_logcrash_with_a_filter_leaves_the_others_to_the_kernel(log):
    async def other():
        raise KeyError("other")

    async def main():
        await curio.spawn(crash)
        await curio.spawn(other)
        await nap()

    curio.run(main, debug=logcrash(filter="crash"))
    reported = [(record.name, record.exc_info[0]) for record in log.records]
    # Each is reported, and once.
    assert sorted(reported, key=str) == [("curio.debug", ValueError), ("curio.kernel", KeyError)]


def test_logcrash_says_nothing_of_cancellations(log):
    async def slow():
        await curio.timeout_after(0.001, curio.sleep, 1000)

    async def main():
        task = await curio.spawn(nap)
        await task.cancel()
        await curio.spawn(curio.sleep, 1000, daemon=True)
        task = await curio.spawn(slow)
        await task.wait()

    curio.run(main, debug=logcrash)
    assert not log


def test_logcrash_where_the_kernel_is_told_to_be_silent(log):
    async def main():
        await curio.spawn(crash)
        await nap()

    with curio.Kernel(debug=logcrash) as kernel:
        kernel.run(main, log_errors=False)
    assert len(log) == 1


# --- longblock ----------------------------------------------------------------------------


def test_longblock(log):
    async def hog():
        await curio.sleep(0)
        seen.append(len(log))
        time.sleep(0.3)  # hogs
        seen.append(len(log))

    seen = []
    curio.run(hog, debug=longblock(max_time=0.1))
    # The first report comes while it goes on, the other afterwards.
    assert seen == [0, 1]
    first, second = log.records
    assert first.threadName == "curio-longblock"
    assert {record.levelno for record in log.records} == {logging.WARNING}
    message = first.getMessage()
    found = re.match(
        r"task \d+ \(.*hog\) is keeping the processor, for (0\.\d{3}) s now:\n"
        r"Stack for Task\(.*\) \(most recent call last\):\n",
        message,
    )
    assert 0.1 <= float(found[1]) < 0.25
    assert message.rstrip().endswith("time.sleep(0.3)  # hogs")
    found = re.fullmatch(
        r"task \d+ \(.*hog\) has kept the processor for (\d\.\d{3}) s", second.getMessage()
    )
    assert 0.3 <= float(found[1]) < 1


def test_longblock_shows_the_line_of_a_loop(log):
    def spins():
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            pass

    async def hog():
        spins()

    curio.run(hog, debug=longblock)
    message = log.records[0].getMessage()
    assert "in hog\n    spins()\n" in message and "in spins\n" in message


def test_longblock_is_quiet_about_those_who_wait(log):
    async def main():
        for _ in range(5):
            await curio.sleep(0.03)

    curio.run(main, debug=longblock(max_time=0.02))
    assert not log


def test_longblock_reports_each_turn(log):
    async def hog():
        for _ in range(3):
            time.sleep(0.06)
            await curio.sleep(0)

    curio.run(hog, debug=longblock(max_time=0.02))
    said = messages(log)
    assert [("is keeping" in message) for message in said] == [True, False] * 3


def test_longblock_with_a_filter(log):
    async def hog():
        time.sleep(0.06)

    curio.run(hog, debug=longblock(max_time=0.02, filter="nap"))
    assert not log
    curio.run(hog, debug=longblock(max_time=0.02, filter=hog.__qualname__))
    assert len(log) == 2


def longblock_threads():
    return {thread for thread in threading.enumerate() if thread.name == "curio-longblock"}


@pytest.mark.parametrize("seconds", [0, 0.05])
def test_longblocks_thread_ends_with_its_kernel(log, seconds):
    async def hog():
        time.sleep(seconds)

    before = longblock_threads()
    curio.run(hog, debug=longblock(max_time=0.01))
    assert len(log) == (2 if seconds else 0)
    gc.collect()
    eventually(lambda: longblock_threads() <= before, within=1)


def test_longblocks_thread_begins_with_the_first_run():
    before = longblock_threads()
    kernel = curio.Kernel(debug=longblock(max_time=0.01))
    assert longblock_threads() <= before
    kernel.run(nap)
    kernel.run(nap)
    assert len(longblock_threads() - before) == 1
    del kernel
    eventually(lambda: longblock_threads() <= before, within=1)


def test_longblock_of_two_kernels_one_after_the_other(log):
    async def hog():
        time.sleep(0.06)

    debugger = longblock(max_time=0.02)
    for _ in range(2):
        curio.run(hog, debug=debugger)
    assert len(log) == 4


def test_program_with_all_debuggers_ends_in_silence(program):
    path = program("""
import curio

async def main():
    await curio.spawn(curio.sleep, 1000, daemon=True)
    await curio.sleep(0.01)

kernel = curio.Kernel(debug=True)
kernel.run(main)
""")
    path.succeed()
    assert path.output == ""


# --- where a task is ----------------------------------------------------------------------


def here():
    return sys._getframe(1).f_lineno


async def inner():
    await curio.sleep(1000)


async def outer():
    await inner()


def first_line(function):
    return function.__code__.co_firstlineno


def run_in_daemon(body, look):
    async def main():
        task = await curio.spawn(body(), daemon=True)
        await curio.sleep(0)
        return look(task)

    return curio.run(main)


def test_blocked_task():
    def look(task):
        return repr(task), str(task), task.where(), task.traceback()

    shown, text, place, stack = run_in_daemon(outer, look)
    line = first_line(inner) + 1
    assert re.fullmatch(
        r"Task\(id=\d+, <coroutine object outer at 0x[0-9a-f]+>, state='TIME_SLEEP'\)", shown
    )
    assert place == (__file__, line)
    assert text == f"{shown} at {__file__}:{line}"
    assert stack == (
        f"Stack for {shown} (most recent call last):\n"
        f'  File "{__file__}", line {first_line(outer) + 1}, in outer\n'
        "    await inner()\n"
        f'  File "{__file__}", line {line}, in inner\n'
        "    await curio.sleep(1000)\n"
    )


def test_running_task():
    def looks(task):
        return task.where(), task.traceback(), str(task), here()

    async def main():
        task = await curio.current_task()
        return looks(task)

    place, stack, text, line = curio.run(main)
    assert place == (__file__, line)
    assert re.search(r"state='RUNNING'\) at .*:\d+$", text)
    functions = re.findall(r", in (\w+)\n", stack)
    assert functions == ["main", "looks"]


def test_running_task_from_another_thread():
    def spins():
        while not done:
            pass

    async def main():
        tasks.append(await curio.current_task())
        spins()

    def look():
        eventually(lambda: tasks)
        eventually(lambda: "in spins" in tasks[0].traceback())
        found.append((tasks[0].where(), tasks[0].state))
        done.append(True)

    tasks, found, done = [], [], []
    thread = threading.Thread(target=look)
    thread.start()
    curio.run(main)
    thread.join()
    ((place, state),) = found
    assert place[0] == __file__ and state == "RUNNING"
    assert first_line(spins) < place[1] <= first_line(spins) + 2


@pytest.mark.parametrize("body", [nap, crash])
def test_terminated_task(body):
    async def main():
        task = await curio.spawn(body)
        await task.wait()
        return task

    with curio.Kernel() as kernel:
        task = kernel.run(main, log_errors=False)
    assert task.where() == (None, None)
    assert task.traceback().rstrip() == f"No stack for {task!r}"
    assert str(task) == repr(task)
    assert "TERMINATED" in repr(task)


def test_task_that_has_not_run():
    with curio.Kernel() as kernel:
        task = kernel.add_task(outer(), daemon=True)
        assert task.where() in [(__file__, first_line(outer)), (None, None)]
        assert task.traceback().startswith(("Stack for Task(", "No stack for Task("))


def test_task_of_an_operation():
    # `spawn(curio.sleep, 1000)`: there is no line of the user's in it.
    async def main():
        task = await curio.spawn(curio.sleep, 1000, daemon=True)
        await curio.sleep(0)
        return task.where(), task.traceback(), str(task) == repr(task), repr(task)

    place, stack, same, shown = curio.run(main)
    assert (place, same) == ((None, None), True)
    assert stack.rstrip() == f"No stack for {shown}"


def test_tasks_while_the_kernel_stands_still():
    with curio.Kernel() as kernel:

        async def main():
            return await curio.spawn(outer(), daemon=True)

        task = kernel.run(main)
        assert task.where() == (__file__, first_line(inner) + 1)
        assert "in inner\n" in task.traceback()


def test_source_that_has_changed(tmp_path):
    # What is shown is what is in the file now, as in any traceback; a missing file is no harm.
    path = tmp_path / "changing.py"
    text = "async def body(sleep):\n    await sleep(1000)\n"
    path.write_text(text)
    namespace = {}
    exec(compile(text, str(path), "exec"), namespace)

    def look(task):
        stacks = [task.traceback()]
        path.write_text("#\n" + "longer than before: 1\n" * 5)
        stacks.append(task.traceback())
        path.unlink()
        stacks.append(task.traceback())
        return stacks

    before, changed, missing = run_in_daemon(lambda: namespace["body"](curio.sleep), look)
    assert before.endswith("\n    await sleep(1000)\n")
    assert changed.endswith("\n    longer than before: 1\n")
    assert missing.endswith(", line 2, in body\n")


def test_many_frames():
    async def deep(n):
        if n:
            await deep(n - 1)
        else:
            await curio.sleep(1000)

    stack = run_in_daemon(lambda: deep(500), lambda task: task.traceback())
    assert stack.count(", in deep\n") == 501


BLOCKING = """
import socket, sys, threading, time
import curio, curio.monitor
from curio.debug import longblock

class Nowhere:
    def write(self, text):
        pass

    flush = lambda self: None

def look(task):
    while not ended:
        {look}

async def main():
    task = await curio.current_task()
    thread = threading.Thread(target=look, args=(task,))
    thread.start()
    sock, other = socket.socketpair()
    sock.settimeout(0.0005)
    for _ in range(600):
        try:
            sock.recv(1)
        except TimeoutError:
            pass
    ended.append(True)
    thread.join()

ended = []
kernel = curio.Kernel()
kernel.run(main)
"""


@pytest.mark.parametrize(
    "look",
    [
        "task.where()",
        "task.traceback()",
        "str(task)",
        "curio.monitor.dump(kernel, Nowhere())",
    ],
)
def test_looking_at_a_task_in_a_blocking_call(program, look):
    # What a coroutine awaits can be asked of one that is suspended alone: CPython 3.11 takes
    # the counter beside a call for an instruction, now and then, and a pointer for an object.
    program(BLOCKING.format(look=look)).succeed()


def test_stacks_from_other_threads_while_tasks_run(program):
    # A coroutine may go on, or end, between two looks at it.
    program("""
import contextlib, sys, threading, time
import curio

sys.setswitchinterval(1e-5)

@contextlib.asynccontextmanager
async def block(n):
    await curio.sleep(0)
    yield n

async def numbers():
    for n in range(3):
        await curio.sleep(0)
        yield n

async def deeper(n):
    if n:
        await deeper(n - 1)
    await curio.sleep(0)

async def busy(n):
    while not ended:
        async with block(n):
            async for n in numbers():
                await deeper(3)
        await curio.timeout_after(1, deeper(2))

async def main():
    tasks.extend([await curio.spawn(busy, n) for n in range(10)])
    await curio.sleep(1)
    ended.append(True)
    for task in tasks:
        await task.join()

def look():
    while not ended:
        for task in list(tasks):
            task.traceback(), str(task), task.where(), task.children, task.cycles
            looked.append(1)

tasks, looked, ended = [], [], []
threads = [threading.Thread(target=look) for _ in range(2)]
for thread in threads:
    thread.start()
try:
    curio.run(main)
finally:
    ended.append(True)
    for thread in threads:
        thread.join()
assert len(looked) > 10
""").succeed()
