"""A program for Curio 1.6, with much of its vocabulary: a warehouse with clerks, a counter for
customers, an accountant who computes, and a manager who closes in the evening."""

import sys
import threading

import curio
from curio import network, socket, subprocess
from curio.meta import curio_running, iscoroutinefunction
from curio.thread import AWAIT, spawn_thread


class Warehouse:
    def __init__(self):
        self.orders = curio.PriorityQueue()
        self.shipped = curio.UniversalQueue()
        self.gate = curio.Semaphore(2)
        self.books = curio.Lock()
        self.stock = {"nail": 100, "board": 20}
        self.news = curio.Condition(curio.Lock())
        self.open = curio.Event()
        self.closing = curio.Result()

    async def clerk(self):
        await self.open.wait()
        while True:
            _, item, count = await self.orders.get()
            async with self.gate:
                async with self.books:
                    self.stock[item] -= count
                await curio.sleep(0.001)
            async with self.news:
                await self.news.notify_all()
            await self.shipped.put((item, count))
            await self.orders.task_done()

    async def until_few(self, item, few):
        async with self.news:
            while self.stock[item] > few:
                await self.news.wait()
        return item

    async def customer(self, client, address):
        async with client:
            stream = client.as_stream()
            async for line in stream:
                item, count = line.decode().split()
                await self.orders.put((int(count), item, int(count)))
                await stream.write(b"thank you\n")


def interest(years):
    return round(100 * 1.05**years)


def drive(warehouse, trips, log):
    # A thread: what is shipped comes through a queue for everybody.
    for _ in range(trips):
        log.append(warehouse.shipped.get())


async def buy(address, item, count):
    sock = await curio.open_connection(*address)
    async with sock:
        await sock.sendall(f"{item} {count}\n".encode())
        return await sock.recv(100)


async def ticks(number):
    for n in range(number):
        await curio.sleep(0.001)
        yield n


async def sleeper(log):
    try:
        await curio.sleep(1000)
    except curio.CancelledError as error:
        log.append(type(error).__name__)
        await curio.sleep(0)
        raise


def telephone():
    with curio.timeout_after(5):
        AWAIT(curio.sleep, 0.001)
    return "called back"


async def main(name):
    print(name, curio_running(), iscoroutinefunction(main))
    warehouse, log = Warehouse(), []

    lorry = threading.Thread(target=drive, args=(warehouse, 3, log))
    lorry.start()
    clerks = curio.TaskGroup(wait=None)
    for _ in range(3):
        await clerks.spawn(warehouse.clerk)
    few = await curio.spawn(warehouse.until_few, "board", 15)

    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(5)
    address = sock.getsockname()
    counter = await curio.spawn(network.run_server, sock, warehouse.customer, daemon=True)
    async with curio.TaskGroup() as buyers:
        for item, count in [("nail", 10), ("board", 5), ("nail", 1)]:
            await buyers.spawn(buy, address, item, count)
    print(buyers.results)
    await warehouse.open.set()
    await warehouse.orders.join()
    print(warehouse.stock, await few.join())
    await curio.run_in_thread(lorry.join)
    print(sorted(log))
    await clerks.cancel_remaining()
    await counter.cancel()

    print(await curio.run_in_process(interest, 10))
    print((await subprocess.run([sys.executable, "-c", "print(6 * 7)"], stdout=-1)).stdout)
    thread = await spawn_thread(telephone)
    print(await thread.join())

    ended = []
    task = await curio.spawn(sleeper, ended)
    await curio.sleep(0)
    await task.cancel()
    print(task.cancelled, task.terminated, ended)
    try:
        await task.join()
    except curio.TaskError as error:
        print(type(error.__cause__).__name__)

    try:
        await curio.timeout_after(0.01, curio.sleep, 1000)
    except curio.TaskTimeout:
        print("too late")
    async with curio.ignore_after(0.01) as limit:
        await curio.sleep(1000)
    print(limit.result, await curio.ignore_after(0.01, curio.sleep, 1000))

    async with curio.TaskGroup(wait=any) as race:
        await race.spawn(curio.sleep, 1000)
        winner = await race.spawn(warehouse.closing.unwrap)
        await warehouse.closing.set_value("closed")
    print(race.completed is winner, race.result)

    async with curio.disable_cancellation():
        print(await curio.check_cancellation())
    async with curio.meta.finalize(ticks(5)) as numbers:
        print([n async for n in numbers])
    async with curio.aopen(__file__) as file:
        print((await file.readline())[:30])
    return "good night"


if __name__ == "__main__":
    print(curio.run(main, "Warehouse"))
