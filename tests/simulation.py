"""Whole programs, drawn by a seed, on a simulated network: nothing is lost in any of them.

    python tests/simulation.py 4711        one program, told in words
    python tests/simulation.py 0 100000    many; failures are told, and it goes on

A seed determines a program (tasks that use everything at once: groups, limits, shields, locks,
queues, events, connections and datagrams; that cancel each other and clean up), the order in
which the kernel runs it, and what the network does to it. A model knows who holds what, which
items and bytes are where, and who must have ended. The program ends by itself: whatever waits
without a limit may be cancelled, and in the end it is. `crates/curio/tests/simulation.rs` does
the same in Rust.
"""

import logging
import random
import sys
import zlib

import curio
from curio import testing

MOST_TASKS = 30
MOST_DEPTH = 4
PERMITS = 2

# Order of locks and the like: who has one of them may wait for later ones only.
RLOCK, SEMAPHORE, CONDITION = 2, 3, 4

# Less than the virtual clock has; more than sums of floats are wrong by.
TICK = 1e-9

FAULTS = (ConnectionError, TimeoutError, EOFError)


class Broken(Exception):
    """A law is broken."""


class Life:
    """One task."""

    def __init__(self, number, member):
        self.number = number
        self.member = member  # of a group, which may ask for its end as well
        self.task = None
        self.asked = False
        self.told = 0
        self.over = False


class Shop:
    """A queue, and its items."""

    def __init__(self, queue):
        self.queue = queue
        self.coming = set()
        self.put = []
        self.got = []


class Flow:
    """One direction of a connection."""

    def __init__(self, number):
        self.number = number
        self.sent = self.received = 0
        self.finished = self.ended = False

    def bytes(self, start, count):
        return bytes((at * 31 ^ at >> 8 ^ self.number) & 255 for at in range(start, start + count))


class Place:
    """Where in its code a task is."""

    def __init__(self, life, rank=0, bounded=False, shielded=False, depth=0, limits=()):
        self.life = life
        self.rank = rank  # the first of the locks that it may still wait for
        self.bounded = bounded  # it must not wait for what may not come
        self.shielded = shielded
        self.depth = depth
        self.limits = limits

    def inside(self, **changes):
        return Place(**{**vars(self), "depth": self.depth + 1, **changes})

    @property
    def free(self):
        """Whether it may wait for what another task does."""
        return not self.bounded and self.rank == 0


class World:
    """All that a program has, and what is known of it."""

    def __init__(self, seed, loud=False):
        self.seed = seed
        self.random = random.Random(seed)
        self.loud = loud
        self.faulty = seed % 4 == 0
        self.trace = 0
        self.broken = []
        self.figures = dict.fromkeys(("cancelled", "timed out", "items", "bytes", "faults"), 0)
        self.lives = []
        self.clock = 0.0
        conditions = {"loss": 0.2, "duplicates": 0.2}
        if self.faulty:
            conditions["resets"] = 0.05
        if seed % 3 == 0:
            conditions["buffer"] = 1 + self.draw(5000)
        self.network = testing.Network(seed, **conditions)
        self.locks = [curio.Lock(), curio.Lock()]
        self.holders = [None, None]
        self.rlock, self.rlock_holder = curio.RLock(), None
        self.condition = curio.Condition(self.locks[1])
        self.semaphore, self.permits = curio.BoundedSemaphore(PERMITS), 0
        self.events = [curio.Event(), curio.Event()]
        queues = (
            curio.Queue(),
            curio.Queue(1 + seed % 3),
            curio.LifoQueue(2),
            curio.PriorityQueue(4),
            curio.UniversalQueue(2),
        )
        self.shops = [Shop(queue) for queue in queues]
        self.flows = 0

    def draw(self, below):
        return int(self.random.random() * below)

    def time(self):
        """Coarse, so that deadlines often coincide."""
        return self.draw(12) / 1000

    def law(self, holds, text, *about):
        if not holds:
            self.broken.append(f"{text}: {about}")

    def count(self, figure, by=1):
        self.figures[figure] += by

    async def note(self, who, what, value=0):
        """Note that something has happened."""
        self.clock = await curio.clock()
        line = f"{self.clock:.9f} {who} {what} {value}"
        if self.loud:
            print(line)
        self.trace = zlib.crc32(line.encode(), self.trace)

    # Tasks.

    def new_life(self, member=False):
        if len(self.lives) >= MOST_TASKS:
            return None
        life = Life(len(self.lives), member)
        self.lives.append(life)
        return life

    async def spawn_life(self):
        life = self.new_life()
        if life is not None:
            # Its task runs before `spawn` returns.
            life.task = await curio.spawn(self.body, life)

    async def body(self, life):
        life.task = await curio.current_task()
        try:
            await self.steps(Place(life))
            await self.note(life.number, "ends")
            return self.draw(3)
        finally:
            life.over = True

    async def steps(self, place):
        """Some random steps; an exception ends them, unless it is a timeout that is swallowed."""
        for _ in range(1 + self.draw(5)):
            try:
                await self.step(place)
            except curio.TaskTimeout:
                if self.draw(2):
                    await self.step(place)
                if self.draw(2):
                    raise
            except curio.CancelledError:
                # Nobody cancels it again: from now on it must come to an end by itself.
                if self.draw(2):
                    try:
                        await self.step(place.inside(bounded=True))
                    except (curio.CurioError, curio.TaskTimeout):
                        pass
                raise

    async def step(self, place):
        try:
            await self.choose(place)(place)
        except (curio.CancelledError, curio.TaskTimeout) as error:
            if not hasattr(error, "_seen"):
                error._seen = True
                await self.told(place, error)
            raise

    def choose(self, place):
        drawn = self.draw(30)
        if drawn < 3:
            return self.nap
        if drawn < 6:
            return self.spawn
        if drawn < 7:
            return self.request_cancel
        if drawn < 8:
            return self.cancel
        if drawn < 9:
            return self.join
        if place.depth >= MOST_DEPTH:
            return self.nap
        kinds = (
            self.limited, self.limited, self.limited, self.shielded, self.locked, self.locked,
            self.rlocked, self.with_permit, self.conditionally, self.event, self.put, self.put,
            self.get, self.get, self.wait_done, self.group, self.group, self.talk, self.pipe,
            self.pipe, self.datagrams,
        )  # fmt: skip
        return kinds[drawn - 9]

    async def told(self, place, error):
        """Check an interruption, and note it in the model."""
        life, now = place.life, await curio.clock()
        self.law(not place.shielded, "a shield holds", life.number, error)
        if isinstance(error, curio.TaskCancelled):
            await self.note(life.number, "is cancelled")
            self.count("cancelled")
            life.told += 1
            self.law(life.asked or life.member, "no cancellation without a request", life.number)
            self.law(life.told == 1, "a request arrives once", life.number)
        else:
            own = isinstance(error, curio.TaskTimeout)
            await self.note(life.number, "is timed out", own)
            self.count("timed out")
            past = [deadline for deadline in place.limits if deadline < now + TICK]
            self.law(past, "a limit has expired", life.number, now, place.limits)

    async def nap(self, place):
        seconds = self.time() if self.draw(4) else 0
        start = await curio.clock()
        woken = await curio.sleep(seconds)
        await self.note(place.life.number, "has slept", seconds)
        self.law(woken - start > seconds - TICK, "no sleep is short", place.life.number, seconds)

    async def spawn(self, place):
        if not place.bounded:
            await self.spawn_life()

    def other(self, place):
        life = self.lives[self.draw(len(self.lives))]
        return life if life is not place.life and life.task is not None else None

    async def request_cancel(self, place):
        if life := self.other(place):
            life.asked = True
            await life.task.cancel(blocking=False)

    async def cancel(self, place):
        life = self.other(place)
        if place.free and life:
            life.asked = True
            await life.task.cancel()
            await self.note(place.life.number, "has cancelled", life.number)
            self.law(life.over and life.task.terminated, "who was cancelled has ended", life.number)

    async def join(self, place):
        life = self.other(place)
        if place.free and life:
            await life.task.wait()
            await self.note(place.life.number, "has joined", life.number)
            self.law(life.over and life.task.terminated, "who was joined has ended", life.number)

    # Limits and shields.

    async def limited(self, place):
        limit = self.time()
        deadline = await curio.clock() + limit
        inner = place.inside(limits=(*place.limits, deadline))
        kind = self.draw(4)
        if kind == 0:
            done = object()

            async def inside():
                await self.steps(inner)
                return done

            if await curio.ignore_after(limit, inside) is not done:
                await self.note(place.life.number, "ignores")
                self.law(
                    self.clock > deadline - TICK, "nothing is ignored early", place.life.number
                )
        elif kind == 1:
            async with curio.ignore_after(limit) as block:
                await self.steps(inner)
            if block.expired:
                now = await curio.clock()
                self.law(now > deadline - TICK, "no block is left early", inner.limits)
        else:
            try:
                if kind == 2:
                    await curio.timeout_after(limit, self.steps, inner)
                else:
                    async with curio.timeout_after(limit):
                        await self.steps(inner)
            except curio.TaskTimeout as error:
                now = await curio.clock()
                self.law(now > deadline - TICK, "no timeout is early", place.life.number, now)
                error._seen = True
                raise

    async def shielded(self, place):
        async with curio.disable_cancellation():
            await self.steps(place.inside(bounded=True, shielded=True))

    # Primitives.

    async def locked(self, place):
        which, me = self.draw(2), place.life.number
        if place.rank > which:
            return
        async with self.locks[which]:
            await self.note(me, "locks", which)
            self.law(self.holders[which] is None, "a lock has one holder", me, self.holders)
            self.holders[which] = me
            try:
                await self.steps(place.inside(rank=which + 1))
            finally:
                self.law(self.holders[which] == me, "a lock is kept", me, self.holders)
                self.holders[which] = None

    async def rlocked(self, place):
        if place.rank > RLOCK:
            return
        me = place.life.number
        async with self.rlock:
            self.law(self.rlock_holder is None, "an RLock has one holder", me)
            self.rlock_holder = me
            try:
                async with self.rlock:
                    await self.steps(place.inside(rank=RLOCK + 1))
            finally:
                self.law(self.rlock_holder == me, "an RLock is kept", me)
                self.rlock_holder = None

    async def with_permit(self, place):
        if place.rank > SEMAPHORE:
            return
        async with self.semaphore:
            self.permits += 1
            await self.note(place.life.number, "has a permit", self.permits)
            self.law(self.permits <= PERMITS, "no more permits than there are", self.permits)
            try:
                await self.steps(place.inside(rank=SEMAPHORE + 1))
            finally:
                self.permits -= 1

    async def conditionally(self, place):
        """The condition is of the second lock."""
        if place.rank > 1:
            return
        me = place.life.number
        async with self.condition:
            self.law(self.holders[1] is None, "a condition's lock has one holder", me)
            if place.bounded or not self.draw(3):
                await self.condition.notify(1 + self.draw(3))
                return
            try:
                await self.condition.wait()
            finally:
                self.law(self.holders[1] is None, "the lock is back after the wait", me)
                self.law(self.condition.locked(), "the lock is locked after the wait", me)
            self.holders[1] = me
            try:
                await self.nap(place.inside(rank=CONDITION))
            finally:
                self.holders[1] = None

    async def event(self, place):
        event = self.events[self.draw(2)]
        drawn = self.draw(4)
        if drawn == 0:
            event.clear()
        elif drawn == 1 or place.bounded:
            await event.set()
        else:
            await event.wait()
            await self.note(place.life.number, "has seen the event")

    # Queues.

    async def put(self, place):
        if place.bounded:
            return
        shop = self.shops[self.draw(len(self.shops))]
        item = (self.draw(256), self.figures["items"])  # of a priority queue, not the oldest
        self.count("items")
        shop.coming.add(item)
        try:
            await shop.queue.put(item)
            shop.put.append(item)
        except BaseException:
            self.law(item not in shop.got, "what was not put is not got", item)
            raise
        finally:
            shop.coming.discard(item)
        await self.note(place.life.number, "has put", item)

    async def get(self, place):
        if place.bounded:
            return
        shop = self.shops[self.draw(len(self.shops))]
        item = await shop.queue.get()
        self.law(item in shop.put or item in shop.coming, "what is got was put", item)
        self.law(item not in shop.got, "an item is got once", item)
        shop.got.append(item)
        try:
            await self.note(place.life.number, "has got", item)
            await self.nap(place)
        finally:
            await shop.queue.task_done()

    async def wait_done(self, place):
        if place.free:
            await self.shops[self.draw(len(self.shops))].queue.join()
            await self.note(place.life.number, "has seen all done")

    # Groups.

    async def group(self, place):
        if not place.free:
            return
        members = []
        inner = place.inside()
        try:
            async with curio.TaskGroup(wait=(all, all, any, object, None)[self.draw(5)]) as group:
                for _ in range(1 + self.draw(3)):
                    if (life := self.new_life(member=True)) is None:
                        break
                    members.append(life)
                    life.task = await group.spawn(self.body, life)
                if self.draw(2):
                    await self.steps(inner)
                if not self.draw(3):
                    await group.next_done()
                if not self.draw(6):
                    await group.cancel_remaining()
        finally:
            for life in members:
                # Who was never resumed has no code that could be over.
                ended = life.task is None or life.task.terminated
                self.law(ended, "no task outlives its group", life.number)
        await self.note(place.life.number, "has joined a group", len(members))

    # The network.

    async def failed(self, place, error):
        """A connection that has failed is over; whether that may be is checked."""
        await self.note(place.life.number, "sees a fault")
        self.count("faults")
        self.law(self.faulty, "no fault without a cause", place.life.number, repr(error))

    async def talk(self, place):
        """Send lines to the server, which echoes them."""
        if not place.free:
            return
        try:
            sock = await curio.open_connection("server", 80)
            async with sock.as_stream() as stream:
                await self.note(place.life.number, "is connected")
                for number in range(1 + self.draw(4)):
                    if not await self.say(place, stream, number):
                        return
        except FAULTS as error:
            await self.failed(place, error)

    async def say(self, place, stream, number):
        length = 20_000 if not self.draw(8) else self.draw(200)
        line = bytes(97 + (at + number) % 26 for at in range(length)) + b" %d\n" % number
        rest = line
        while rest:
            # An interruption takes nothing away: the rest can follow.
            try:
                await curio.timeout_after(0.001, stream.write, rest)
                rest = b""
            except curio.TaskTimeout as error:
                rest = rest[getattr(error, "bytes_written", 0) :]
        echo = None
        while echo is None:
            # The line comes, whole, however often it is given up.
            echo = await curio.ignore_after(0.002, stream.readline)
        if not echo:
            self.law(self.faulty, "the server answers", number)
            return False
        self.law(echo == line, "the echo is what was said", len(echo), len(line))
        self.count("bytes", len(line))
        return True

    async def echo(self, client, address):
        try:
            async with client.as_stream() as stream:
                async for line in stream:
                    await stream.write(line)
        except FAULTS:
            pass  # who is cancelled closes, whatever is on its way to him

    async def pipe(self, place):
        """Two tasks of a group, and a connection between them."""
        if not place.free:
            return
        self.flows += 1
        flow = Flow(self.flows)
        one, other = self.network.pair()
        try:
            async with one, other, curio.TaskGroup() as group:
                await group.spawn(self.send_all, flow, one)
                await group.spawn(self.receive_all, flow, other)
                if not self.draw(3):
                    await self.steps(place.inside())
        except curio.TaskError as error:
            fault = isinstance(error.__cause__, FAULTS)
            self.law(fault and self.faulty, "no fault without a cause", repr(error.__cause__))
            self.count("faults")
        else:
            if not self.faulty:
                self.law(flow.finished and flow.ended, "all arrives", flow.received)
        finally:
            await self.note(place.life.number, "has piped", flow.received)
            whole = not flow.ended or flow.received == flow.sent
            self.law(whole, "an orderly end comes after all", flow.sent, flow.received)

    async def send_all(self, flow, sock):
        for _ in range(1 + self.draw(4)):
            most = 5_000 if self.draw(4) == 0 else 500
            data = flow.bytes(flow.sent, 1 + self.draw(most))
            count = len(data)
            try:
                await curio.timeout_after(self.time() + 1e-6, sock.sendall, data)
            except curio.TaskTimeout as error:
                count = error.bytes_sent
            except BaseException as error:
                count = getattr(error, "bytes_sent", 0)
                raise
            finally:
                flow.sent += count
            await self.note(-flow.number, "has sent", count)
            await curio.sleep(self.time() / 4)
        flow.finished = True
        import socket

        await sock.shutdown(socket.SHUT_WR)

    async def receive_all(self, flow, sock):
        most = 1 + self.draw(10_000)
        while True:
            data = await curio.ignore_after(0.001, sock.recv, most)
            if data is None:
                continue
            right = data == flow.bytes(flow.received, len(data))
            self.law(right, "bytes arrive in order, once", flow.number, flow.received, len(data))
            flow.received += len(data)
            self.count("bytes", len(data))
            await self.note(-flow.number, "has received", len(data))
            if not data:
                flow.ended = True
                return
            if not self.draw(4):
                await curio.sleep(self.time() / 4)

    async def datagrams(self, place):
        """Datagrams get lost, but none is changed."""
        if place.shielded:
            return  # no limit would end it
        one, other = self.network.datagrams()
        async with one, other:
            number = self.draw(256)
            for length in range(self.draw(4)):
                sent = await one.send(bytes([number]) * length)
                self.law(sent == length, "a datagram is sent whole", sent, length)
            async with curio.ignore_after(0.015):
                while True:
                    data = await other.recv(300)
                    right = len(data) < 4 and set(data) <= {number}
                    self.law(right, "a datagram arrives as it was", data)
                    await self.note(place.life.number, "has a datagram", len(data))

    # The whole.

    async def program(self):
        server = curio.create_server("server", 80, self.echo)
        serving = await curio.spawn(server.serve_forever)
        for _ in range(2 + self.draw(4)):
            await self.spawn_life()
        for _ in range(4):
            await curio.sleep(8 * self.time())
            drawn = self.draw(6)
            if drawn == 0:
                self.network.cut("server")
            elif drawn == 1 and self.faulty:
                self.network.reset_all()
            else:
                self.network.heal()
        self.network.heal()
        # Everybody at once: who waits for another must not wait for his turn.
        patience = 100
        for life in self.lives:  # it may grow
            while not life.over and life.task is not None and not life.task.terminated:
                await self.end_all()
                async with curio.ignore_after(0.05):
                    await life.task.wait()
                patience -= 1
                if patience < 0:
                    raise Broken(f"{life.number} does not end: {life.task}")
        await server.stop(seconds=0)
        await serving.join()
        for shop in self.shops:
            await self.check_shop(shop)
        self.law(not any(lock.locked() for lock in self.locks), "locks are free in the end")
        self.law(not self.rlock.locked(), "the RLock is free in the end")
        self.law(self.semaphore.value == PERMITS, "permits are back", self.semaphore.value)

    async def end_all(self):
        for life in self.lives:
            if not life.over and life.task is not None:
                life.asked = True
                await life.task.cancel(blocking=False)

    async def check_shop(self, shop):
        """Each item is got or still there; all of them can be done."""
        rest = []
        while not shop.queue.empty():
            rest.append(await shop.queue.get())
            await shop.queue.task_done()
        items = sorted(shop.got + rest)
        self.law(items == sorted(shop.put), "each item once, and none is lost", items, shop.put)
        if isinstance(shop.queue, curio.PriorityQueue):
            self.law(rest == sorted(rest), "the lowest first", rest)
        await shop.queue.join()


def run(seed, loud=False):
    """Run the program of a seed; return a hash of what has happened, and figures.

    Raises Broken, or what went wrong.
    """
    world = World(seed, loud)
    with testing.VirtualKernel(seed, network=world.network) as kernel:
        try:
            kernel.run(world.program, log_errors=False)
        except Exception as error:
            world.law(False, "the program comes to its end", error)
        kernel.shutdown()
        for life in world.lives:
            ended = life.task is None or life.task.terminated
            world.law(ended, "all have ended", life.number)
    if world.broken:
        raise Broken(f"{len(world.broken)} laws, first of all: {world.broken[0]}")
    return world.trace, world.figures


def check(seed, twice=False):
    """Run the program of a seed, perhaps twice: a seed determines everything."""
    first = run(seed)
    if twice and run(seed) != first:
        raise Broken("two runs that differ")
    return first


def main(arguments):
    logging.getLogger("curio").setLevel(logging.CRITICAL)
    numbers = [int(argument) for argument in arguments]
    if len(numbers) == 1:
        print(run(numbers[0], loud=True))
        check(numbers[0], twice=True)
        return 0
    failures = 0
    for seed in range(*numbers):
        try:
            check(seed, twice=seed % 16 == 0)
        except Exception as error:
            failures += 1
            print(f"failure: python seed {seed} breaks {type(error).__name__}: {error}", flush=True)
    print(f"schedules: python {len(range(*numbers))} failures: {failures}")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
