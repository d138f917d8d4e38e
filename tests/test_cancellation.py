"""What a cancellation, or a timeout, leaves behind; and how it can be held back.

Goal: one contract for every operation. Method: each operation is described once, as a way
to block in it, to let it succeed, and to check that nothing was lost; the products of
these with when and how the interrupt comes are then tested all.
"""

import itertools
import socket
import time

import curio
import pytest
from curio.io import Socket


class Oops(Exception):
    pass


async def forever():
    await curio.sleep(1000)


async def turns(count=4):
    """Lets all ready tasks run, a few times."""
    for _ in range(count):
        await curio.sleep(0)


# --- the operations -----------------------------------------------------------------------


class Operation:
    """One operation: `block` is awaited by the task under test, `let` makes it succeed."""

    state = None

    async def prepare(self):
        pass

    async def block(self):
        raise NotImplementedError

    async def let(self):
        raise NotImplementedError

    def succeeded(self, result):
        """Whether `result` is what the operation gives when it has succeeded."""
        return True

    async def check(self):
        """After it was given up: nothing was lost, and it can be done again."""

    async def clean_up(self):
        pass


class Joined(Operation):
    state = "TASK_JOIN"

    async def prepare(self):
        self.go = False
        self.other = await curio.spawn(self.waits_for_go())

    async def waits_for_go(self):
        while not self.go:
            await curio.sleep(0.0005)
        return "result"

    async def let(self):
        self.go = True
        await self.other.wait()

    async def check(self):
        assert not self.other.cancelled
        self.go = True
        assert await self.other.join() == "result"

    async def clean_up(self):
        self.go = True
        await self.other.cancel()


class Join(Joined):
    async def block(self):
        return await self.other.join()

    def succeeded(self, result):
        return result == "result"


class Wait(Joined):
    async def block(self):
        return await self.other.wait()


class Cancel(Joined):
    """The request stands; only the waiting is given up."""

    async def waits_for_go(self):
        try:
            await curio.sleep(1000)
        except curio.TaskCancelled:
            while not self.go:
                await curio.sleep(0.0005)
            raise

    async def block(self):
        return await self.other.cancel()

    def succeeded(self, result):
        return result is True

    async def check(self):
        assert self.other.cancelled and not self.other.terminated
        self.go = True
        await self.other.wait()
        assert type(self.other.exception) is curio.TaskCancelled


class CancelChildren(Cancel):
    async def prepare(self):
        self.go = False
        self.other = await curio.spawn(self.parent())
        await curio.sleep(0.001)
        self.parent, self.other = self.other, self.child

    async def parent(self):
        self.child = await curio.spawn(self.waits_for_go())
        await curio.sleep(1000)

    async def block(self):
        return await self.parent.cancel_children()

    def succeeded(self, result):
        return result is None

    async def clean_up(self):
        self.go = True
        await self.parent.cancel()
        await self.other.wait()


class Pair(Operation):
    async def prepare(self):
        self.left, self.right = map(Socket, socket.socketpair())

    async def clean_up(self):
        await self.left.close()
        await self.right.close()


class Recv(Pair):
    state = "READ_WAIT"

    async def block(self):
        return await self.left.recv(100)

    async def let(self):
        await self.right.send(b"data")

    def succeeded(self, result):
        return result == b"data"

    async def check(self):
        await self.right.send(b"later")
        assert await self.left.recv(100) == b"later"


class SendAll(Pair):
    state = "WRITE_WAIT"
    data = bytes(range(256)) * 4000

    async def prepare(self):
        await super().prepare()
        self.left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        self.received = b""

    async def block(self):
        try:
            return await self.left.sendall(self.data)
        except BaseException as error:
            self.count = error.bytes_sent
            raise

    async def let(self):
        while len(self.received) < len(self.data):
            self.received += await self.right.recv(100_000)
        assert self.received == self.data

    def succeeded(self, result):
        return result is None

    async def check(self):
        assert 0 <= self.count < len(self.data)
        await self.left.close()
        while data := await self.right.recv(100_000):
            self.received += data
        assert self.received == self.data[: self.count]


class Accept(Operation):
    state = "READ_WAIT"

    async def prepare(self):
        self.sock = Socket(socket.socket())
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(5)
        self.peers = []

    async def block(self):
        client, address = await self.sock.accept()
        await client.close()
        return address

    async def let(self):
        self.peers.append(socket.create_connection(self.sock.getsockname()))

    def succeeded(self, result):
        return result == self.peers[0].getsockname()

    async def check(self):
        await self.let()
        assert self.succeeded(await self.block())

    async def clean_up(self):
        await self.sock.close()
        for peer in self.peers:
            peer.close()


class Connect(Operation):
    """A listener whose queue is full answers late; the attempt then goes on."""

    state = "WRITE_WAIT"

    async def prepare(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.address = self.listener.getsockname()
        self.others = []
        for _ in range(3):
            other = socket.socket()
            other.setblocking(False)
            other.connect_ex(self.address)
            self.others.append(other)
        self.sock = Socket(socket.socket())

    async def block(self):
        return await self.sock.connect(self.address)

    async def check(self):
        await self.sock.close()

    async def clean_up(self):
        await self.sock.close()
        for other in (self.listener, *self.others):
            other.close()


class Sleep(Operation):
    state = "TIME_SLEEP"
    seconds = 1000

    async def block(self):
        return await curio.sleep(self.seconds)


BLOCKING = [Sleep, Join, Wait, Cancel, CancelChildren, Recv, Accept, SendAll, Connect]
# Those that this process can let succeed at a moment of its choice.
FIRED = [Join, Wait, Cancel, CancelChildren, Recv, Accept]


def names(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.__name__)


interrupts = pytest.mark.parametrize("interrupt", ["cancel", "exc", "timeout", "outer timeout"])


class Victim:
    """A task in an operation, and the ways to interrupt it there."""

    def __init__(self, operation, interrupt, body=None, seconds=0.01):
        self.operation = operation
        self.interrupt = interrupt
        self.body = body or operation.block
        self.seconds = seconds
        self.events = []

    async def run(self):
        try:
            if self.interrupt == "timeout":
                await curio.timeout_after(self.seconds, self.work())
            elif self.interrupt == "outer timeout":
                async with curio.timeout_after(self.seconds):
                    await curio.timeout_after(1000, self.work())
            else:
                await self.work()
        except curio.CancelledError as error:
            self.events.append(type(error))
        except Oops as error:
            self.events.append(type(error))

    async def work(self):
        self.events.append(await self.body())

    @property
    def expected(self):
        return {
            "cancel": curio.TaskCancelled,
            "exc": Oops,
            "timeout": curio.TaskTimeout,
            "outer timeout": curio.TaskTimeout,
        }[self.interrupt]

    async def strike(self):
        """Interrupts the task, and waits for it."""
        if self.interrupt == "cancel":
            await self.task.cancel()
        elif self.interrupt == "exc":
            await self.task.cancel(exc=Oops)
        await self.task.wait()


@interrupts
@names(BLOCKING)
def test_interrupted_while_blocked(kernel, kind, interrupt):
    """1.14: the operation raises, nothing is lost, and it can be done again."""

    async def main():
        operation = kind()
        await operation.prepare()
        victim = Victim(operation, interrupt)
        victim.task = await curio.spawn(victim.run())
        assert victim.task.state == operation.state
        await victim.strike()
        assert victim.events == [victim.expected]
        await operation.check()
        await operation.clean_up()

    kernel.run(main)


@interrupts
@names(BLOCKING)
def test_interrupted_before_it_blocks(kernel, kind, interrupt):
    """T8, rule 7: what is pending strikes as soon as the operation would block."""

    async def main():
        operation = kind()
        await operation.prepare()
        victim = Victim(operation, interrupt, seconds=0)
        # A task that has not run yet.
        victim.task = await curio.spawn(victim.run)
        await victim.strike()
        assert victim.events == [victim.expected]
        await operation.check()
        await operation.clean_up()

    kernel.run(main)


@interrupts
@names(FIRED)
def test_interrupted_after_it_has_succeeded(kernel, kind, interrupt):
    """1.14: fired, but not resumed yet: the task gets the result, and is interrupted at its
    next wait."""

    async def main():
        operation = kind()
        await operation.prepare()

        async def body():
            victim.events.append(operation.succeeded(await operation.block()))
            await curio.sleep(1000)

        victim = Victim(operation, interrupt, body, seconds=0.02)
        victim.task = await curio.spawn(victim.run())
        assert victim.task.state == operation.state
        if kind in (Recv, Accept):
            await operation.let()
        else:
            operation.go = True
        # Nobody looks at the clock or the sockets while this computes: all comes at once.
        end = time.monotonic() + 0.03
        while time.monotonic() < end:
            pass
        if interrupt in ("cancel", "exc"):
            # Somebody who runs before the victim does: it is ready then.
            while victim.task.state != "READY" and not victim.task.terminated:
                await curio.sleep(0)
        await victim.strike()
        assert victim.events in ([True, victim.expected], [victim.expected])
        if kind in (Recv, Accept) and victim.events == [victim.expected]:
            assert operation.succeeded(await operation.block())
        await operation.clean_up()

    kernel.run(main)


@pytest.mark.parametrize("kind", [Join, Wait], ids=lambda kind: kind.__name__)
def test_ready_joiner_gets_the_result_then_the_cancellation(kernel, kind):
    """1.14: the same, with a canceller that is certain to come in between."""

    async def main():
        operation = kind()
        await operation.prepare()
        events = []

        async def victim():
            events.append(operation.succeeded(await operation.block()))
            try:
                await curio.sleep(1000)
            except curio.TaskCancelled:
                events.append("cancelled")
                raise

        async def killer(box):
            # First in line: resumed before the victim, which is ready by then.
            await operation.other.wait()
            assert box[0].state == "READY" and box[0].cycles == 1
            await box[0].cancel()

        box = []
        by = await curio.spawn(killer(box))
        box.append(await curio.spawn(victim()))
        operation.go = True
        await by.join()
        return events

    assert kernel.run(main) == [True, "cancelled"]


def test_ready_receiver_gets_the_data_then_the_cancellation(kernel):
    """1.14: two events of one look at the sockets; the first to run cancels the second."""

    async def main():
        pairs = [tuple(map(Socket, socket.socketpair())) for _ in range(2)]
        events = []

        async def victim():
            events.append(await pairs[1][0].recv(10))
            try:
                await curio.sleep(1000)
            except curio.TaskCancelled:
                events.append("cancelled")
                raise

        async def killer(box):
            await pairs[0][0].recv(10)
            events.append(box[0].state)
            await box[0].cancel()

        box = []
        by = await curio.spawn(killer(box))
        box.append(await curio.spawn(victim()))
        await pairs[0][1].send(b"kill")
        await pairs[1][1].send(b"data")
        await by.join()
        for left, right in pairs:
            await left.close()
            await right.close()
        return events

    assert kernel.run(main) == ["READY", b"data", "cancelled"]


@interrupts
@names([Join, Wait, Cancel, CancelChildren, Recv, Accept, SendAll])
def test_shielded_operation_goes_on(kernel, kind, interrupt):
    """L45: it succeeds; the interrupt comes at the first wait after the shield."""

    async def main():
        operation = kind()
        await operation.prepare()

        async def body():
            async with curio.disable_cancellation():
                victim.events.append(operation.succeeded(await operation.block()))
            victim.events.append("unshielded")
            await curio.sleep(1000)

        victim = Victim(operation, interrupt, body, seconds=0.005)
        victim.task = await curio.spawn(victim.run())
        if interrupt in ("cancel", "exc"):
            await victim.task.cancel(
                exc=Oops if interrupt == "exc" else curio.TaskCancelled, blocking=False
            )
            assert victim.task.cancel_pending and not victim.task.allow_cancel
        await curio.sleep(0.01)
        assert victim.events == [] and victim.task.state == operation.state
        await operation.let() if kind is not Cancel else setattr(operation, "go", True)
        await victim.task.wait()
        # What came too late for the inner region is the outer one's.
        assert victim.events == [True, "unshielded", victim.expected]
        await operation.clean_up()

    kernel.run(main)


@pytest.mark.parametrize("form", ["block", "coroutine", "function"])
def test_shield_in_each_form(kernel, form):
    """L45: a call with an object, a call with a function and its arguments, a block."""
    steps = []

    async def work(name):
        for n in range(3):
            await curio.sleep(0.001)
            steps.append(n)
        return name

    async def victim():
        if form == "block":
            async with curio.disable_cancellation():
                steps.append(await work("result"))
        elif form == "coroutine":
            steps.append(await curio.disable_cancellation(work("result")))
        else:
            steps.append(await curio.disable_cancellation(work, "result"))
        await curio.sleep(1000)

    async def main():
        task = await curio.spawn(victim())
        await task.cancel()
        assert type(task.exception) is curio.TaskCancelled

    kernel.run(main)
    assert steps == [0, 1, 2, "result"]


def test_shields_nest(kernel):
    """L45: only the outermost lets go."""
    steps = []

    async def victim():
        me = await curio.current_task()
        async with curio.disable_cancellation():
            async with curio.disable_cancellation():
                await curio.sleep(0.002)
            steps.append(me.allow_cancel)
            await curio.sleep(0.002)
            await curio.disable_cancellation(curio.sleep, 0.002)
            await curio.sleep(0.002)
            steps.append(me.allow_cancel)
        steps.append(me.allow_cancel)
        await curio.sleep(0)
        steps.append("not reached")

    async def main():
        await (await curio.spawn(victim())).cancel()

    kernel.run(main)
    assert steps == [False, False, True]


def test_timeout_inside_of_a_shield(kernel, log):
    """L45, rule 8: held back inside; dropped when its region ends before the shield does."""

    async def main():
        async with curio.disable_cancellation():
            async with curio.timeout_after(0.002):
                await curio.sleep(0.01)
        await curio.sleep(0.001)
        async with curio.disable_cancellation():
            assert await curio.timeout_after(0.002, curio.sleep, 0.01) > 0
        await curio.sleep(0)
        return "undisturbed"

    assert kernel.run(main) == "undisturbed"


def test_timeout_around_a_shield(kernel):
    """L45: comes at the first wait behind it."""
    steps = []

    async def main():
        async with curio.ignore_after(0.002) as limit:
            async with curio.disable_cancellation():
                await curio.sleep(0.01)
                steps.append("shielded")
            await curio.sleep(0)
            steps.append("not reached")
        return limit.expired

    assert kernel.run(main) is True
    assert steps == ["shielded"]


def test_shield_of_a_coroutine_that_fails(kernel):
    """L45: an error passes through, and what was held back is still to come."""
    steps = []

    async def failing():
        await curio.sleep(0.002)
        raise Oops

    async def victim():
        with pytest.raises(Oops):
            await curio.disable_cancellation(failing())
        with pytest.raises(Oops):
            async with curio.disable_cancellation():
                raise Oops
        steps.append("errors")
        await curio.sleep(0)
        steps.append("not reached")

    async def main():
        await (await curio.spawn(victim())).cancel()

    kernel.run(main)
    assert steps == ["errors"]


def test_cancellation_raised_by_hand_stays_pending(kernel):
    """L45: inside of a shield that is inside of another, until both are left."""
    steps = []

    async def raising():
        raise curio.CancelledError("by hand")

    async def main():
        try:
            async with curio.disable_cancellation():
                async with curio.disable_cancellation():
                    await raising()
                await curio.sleep(0.001)
                steps.append("block")
            await curio.sleep(0)
        except curio.CancelledError as error:
            steps.append(str(error))
        try:
            async with curio.disable_cancellation():
                await curio.disable_cancellation(raising())
                await curio.sleep(0.001)
                steps.append("coroutine")
            await curio.sleep(0)
        except curio.CancelledError as error:
            steps.append(str(error))

    kernel.run(main)
    assert steps == ["block", "by hand", "coroutine", "by hand"]


def test_shield_is_an_async_matter(kernel):
    """D14, L45: a plain `with` is refused, and so is a block without a kernel."""

    async def main():
        with pytest.raises(curio.AsyncOnlyError, match="async with"):
            with curio.disable_cancellation():
                pass

    kernel.run(main)
    with pytest.raises(RuntimeError, match="kernel"):
        curio.disable_cancellation().__aenter__().send(None)


# --- check_cancellation and set_cancellation --------------------------------------------


def test_check_cancellation_without_one(kernel):
    """L46: None."""

    async def main():
        assert await curio.check_cancellation() is None
        assert await curio.check_cancellation(curio.TaskTimeout) is None
        async with curio.disable_cancellation():
            assert await curio.check_cancellation() is None

    kernel.run(main)


def test_check_cancellation_raises_what_is_pending(kernel):
    """L46: a cancellation point that does not wait, for a task that computes long."""
    steps = []

    async def victim():
        steps.append("runs")
        await curio.check_cancellation()
        steps.append("not reached")

    async def main():
        task = await curio.spawn(victim)
        assert await task.cancel()
        assert type(task.exception) is curio.TaskCancelled
        with pytest.raises(curio.TaskTimeout):
            async with curio.timeout_after(0):
                await curio.check_cancellation()

    kernel.run(main)
    assert steps == ["runs"]


def test_check_cancellation_under_a_shield(kernel):
    """L46: returned, and still pending; with a matching type it is not pending any more."""

    async def victim(box):
        me = await curio.current_task()
        async with curio.disable_cancellation():
            await curio.sleep(0.005)
            first = await curio.check_cancellation()
            assert type(first) is curio.TaskCancelled and me.cancel_pending
            assert type(await curio.check_cancellation()) is curio.TaskCancelled
            assert await curio.check_cancellation(curio.TaskTimeout) is None
            assert me.cancel_pending
            taken = await curio.check_cancellation(curio.TaskCancelled)
            assert type(taken) is curio.TaskCancelled and not me.cancel_pending
            assert await curio.check_cancellation() is None
        await curio.sleep(0)
        return "goes on"

    async def main():
        task = await curio.spawn(victim([]))
        await task.cancel()
        return await task.join()

    assert kernel.run(main) == "goes on"


def test_asking_for_a_timeout_does_not_take_it_out_of_its_region(kernel, log):
    """L46, rule 8: once, a timeout that was only looked at hit the code behind its region."""

    async def main():
        async with curio.disable_cancellation():
            async with curio.timeout_after(0.002):
                await curio.sleep(0.01)
                assert isinstance(await curio.check_cancellation(), curio.TaskTimeout)
        await curio.sleep(0.001)
        return "undisturbed"

    assert kernel.run(main) == "undisturbed"


def test_set_cancellation(kernel):
    """L47: sets the pending one, gives the former; it comes at the next wait."""
    first, second = curio.CancelledError("first"), curio.TaskCancelled("second")

    async def main():
        assert await curio.set_cancellation(first) is None
        assert await curio.set_cancellation(second) is first
        assert (await curio.current_task()).cancel_pending
        with pytest.raises(curio.TaskCancelled) as caught:
            await curio.sleep(0)
        assert caught.value is second
        await curio.set_cancellation(first)
        assert await curio.set_cancellation(None) is first
        await curio.sleep(0)
        async with curio.disable_cancellation():
            await curio.set_cancellation(first)
            await curio.sleep(0.001)
        with pytest.raises(curio.CancelledError) as caught:
            await curio.sleep(0.001)
        assert caught.value is first
        return "goes on"

    assert kernel.run(main) == "goes on"


def test_set_cancellation_wants_an_exception(kernel):
    """L47."""

    async def main():
        for wrong in (5, "text", curio.CancelledError):
            with pytest.raises(TypeError, match="exc"):
                await curio.set_cancellation(wrong)
        await curio.sleep(0)

    kernel.run(main)


def test_end_of_a_cancellation_that_nobody_saw(kernel):
    """T8: an exception's end may run code of the user's, which may ask the kernel. Once,
    that found the kernel in the middle of a change."""
    seen = []

    class Curious(curio.CancelledError):
        def __del__(self):
            seen.append(len(curio.get_all_tasks()))

    async def leaves_it_pending():
        await curio.set_cancellation(Curious())

    async def replaces_it():
        await curio.set_cancellation(Curious())
        await curio.set_cancellation(None)

    async def main():
        for child in (leaves_it_pending, replaces_it):
            await (await curio.spawn(child())).join()
        task = await curio.spawn(curio.sleep(0))
        await task.cancel(exc=Curious())
        del task
        await curio.sleep(0)

    kernel.run(main)
    assert len(seen) == 3 and set(seen) <= {1, 2}


# --- products of timeouts, shields and cancellations ---------------------------------------

LAYERS = ["timeout", "ignore", "shield", "try"]


@pytest.mark.parametrize("layers", list(itertools.product(LAYERS, repeat=3)), ids="-".join)
def test_cancellation_through_three_layers(kernel, layers):
    """L45, rule 10: whatever is around the sleep, a cancelled task ends, by TaskCancelled, once
    it may, and what is around sees it pass by."""
    passed = []

    async def layer(kinds):
        if not kinds:
            await curio.sleep(0.02)
            await curio.sleep(0)
            return
        kind, rest = kinds[0], kinds[1:]
        try:
            if kind == "timeout":
                await curio.timeout_after(1000, layer(rest))
            elif kind == "ignore":
                async with curio.ignore_after(1000):
                    await layer(rest)
            elif kind == "shield":
                await curio.disable_cancellation(layer(rest))
            else:
                await layer(rest)
        except curio.CancelledError as error:
            passed.append(type(error))
            raise

    async def victim():
        await layer(layers)
        await curio.sleep(1000)

    async def main():
        task = await curio.spawn(victim())
        assert await task.cancel() is True
        assert type(task.exception) is curio.TaskCancelled

    kernel.run(main)
    inside = 0 if "shield" in layers else len(layers)
    assert passed == [curio.TaskCancelled] * inside


def test_cancelled_siblings_that_join_each_other(kernel, log):
    """T8, T9: the joiner is cancelled where it is blocked, though what it waits for ends before
    it is resumed. It is no crash."""

    async def main():
        me = await curio.current_task()
        first = await curio.spawn(forever())
        second = await curio.spawn(first.join())
        third = await curio.spawn(second.wait())
        await me.cancel_children()
        return [type(task.exception) for task in (first, second, third)]

    assert kernel.run(main) == [curio.TaskCancelled] * 3
    assert log.texts == []


def test_cancel_of_many(kernel):
    """T8, T9: a thousand, blocked in this and that, with a timeout each."""

    async def child(n):
        async with curio.timeout_after(1000 + n):
            if n % 3 == 0:
                await curio.sleep(1000)
            elif n % 3 == 1:
                await first.join()
            else:
                await curio.disable_cancellation(curio.sleep, 0.005)
                await curio.sleep(1000)

    async def main():
        nonlocal first
        me = await curio.current_task()
        first = await curio.spawn(forever(), daemon=True)
        tasks = [await curio.spawn(child(n)) for n in range(1000)]
        await me.cancel_children()
        assert all(type(task.exception) is curio.TaskCancelled for task in tasks)
        assert me.children == set()

    first = None
    kernel.run(main)
