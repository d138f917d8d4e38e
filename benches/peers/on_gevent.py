"""The loops on gevent: greenlets in place of coroutines."""

from __future__ import annotations

import gevent
from common import (
    FAR,
    certified,
    clock,
    cpu_clock,
    datagrams,
    listener,
    main,
    per,
    resident,
    stagger,
    version,
)
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.pool import Group
from gevent.queue import Queue


def nothing() -> None:
    pass


def switch(tasks: int = 1_000, count: int = 1_000_000) -> dict[str, float]:
    rounds = count // tasks
    gate = Event()
    stop = 0

    def worker() -> None:
        nonlocal stop
        gate.wait()
        for _ in range(rounds):
            gevent.sleep(0)
        stop = clock()

    handles = [gevent.spawn(worker) for _ in range(tasks)]
    gevent.sleep(0)
    start = clock()
    gate.set()
    for handle in handles:
        handle.join()
    return per(stop - start, rounds * tasks)


def spawn_join(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        gevent.spawn(nothing).join()
    return per(clock() - start, count)


def spawn_many(count: int = 200_000) -> dict[str, float]:
    start = clock()
    handles = [gevent.spawn(nothing) for _ in range(count)]
    for handle in handles:
        handle.join()
    return per(clock() - start, count)


def spawn_group(size: int = 100, count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count // size):
        group = Group()
        for _ in range(size):
            group.spawn(nothing)
        group.join()
    return per(clock() - start, count)


def timeout(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        gevent.with_timeout(FAR, nothing)
    return per(clock() - start, count)


def timeout_block(count: int = 200_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        with gevent.Timeout(FAR):
            pass
    return per(clock() - start, count)


def cancel(count: int = 50_000) -> dict[str, float]:
    handles = [gevent.spawn(gevent.sleep, FAR) for _ in range(count)]
    gevent.sleep(0)
    start = clock()
    gevent.killall(handles)
    return per(clock() - start, count)


def sleepers(count: int = 100_000) -> dict[str, float]:
    start = cpu_clock()
    handles = [gevent.spawn(gevent.sleep, stagger(i)) for i in range(count)]
    for handle in handles:
        handle.join()
    return per(cpu_clock() - start, count)


def queue_pingpong(count: int = 200_000) -> dict[str, float]:
    there = Queue()
    back = Queue()

    def other() -> None:
        for _ in range(count // 2):
            back.put(there.get())

    handle = gevent.spawn(other)
    start = clock()
    for i in range(count // 2):
        there.put(i)
        back.get()
    elapsed = clock() - start
    handle.join()
    return per(elapsed, count // 2 * 2)


def queue_bounded(size: int = 100, count: int = 200_000) -> dict[str, float]:
    queue = Queue(size)

    def produce() -> None:
        for i in range(count):
            queue.put(i)

    handle = gevent.spawn(produce)
    start = clock()
    for _ in range(count):
        queue.get()
    elapsed = clock() - start
    handle.join()
    return per(elapsed, count)


def lock_free(count: int = 500_000) -> dict[str, float]:
    lock = BoundedSemaphore(1)
    start = clock()
    for _ in range(count):
        with lock:
            pass
    return per(clock() - start, count)


def lock_contended(tasks: int = 10, count: int = 100_000) -> dict[str, float]:
    rounds = count // tasks
    lock = BoundedSemaphore(1)
    stop = 0

    def worker() -> None:
        nonlocal stop
        for _ in range(rounds):
            with lock:
                gevent.sleep(0)
        stop = clock()

    handles = [gevent.spawn(worker) for _ in range(tasks)]
    start = clock()
    for handle in handles:
        handle.join()
    return per(stop - start, rounds * tasks)


def event_wake(tasks: int = 10_000, count: int = 200_000) -> dict[str, float]:
    def once() -> int:
        event = Event()
        woken = stop = 0

        def waiter() -> None:
            nonlocal woken, stop
            event.wait()
            woken += 1
            if woken == tasks:
                stop = clock()

        handles = [gevent.spawn(waiter) for _ in range(tasks)]
        gevent.sleep(0)
        start = clock()
        event.set()
        for handle in handles:
            handle.join()
        return stop - start

    rounds = count // tasks
    return per(sum([once() for _ in range(rounds)]), rounds * tasks)


def thread(count: int = 20_000) -> dict[str, float]:
    start = clock()
    for _ in range(count):
        gevent.get_hub().threadpool.apply(int)
    return per(clock() - start, count)


def subprocess(count: int = 500) -> dict[str, float]:
    from gevent.subprocess import call

    start = clock()
    for _ in range(count):
        call(["/bin/true"])
    return per(clock() - start, count)


def memory(count: int = 100_000) -> dict[str, float]:
    handles = []
    before = resident()
    for _ in range(count):
        handles.append(gevent.spawn(gevent.sleep, FAR))
    gevent.sleep(0)
    return {"bytes": (resident() - before) / len(handles)}


def echo_sock(buffer: int = 65_536) -> None:
    from gevent import socket
    from gevent.server import StreamServer

    def serve(client, address) -> None:
        while data := client.recv(buffer):
            client.sendall(data)

    StreamServer(listener(socket.socket), serve).serve_forever()


def lines(buffer: int = 65_536) -> None:
    from gevent import socket
    from gevent.server import StreamServer

    def serve(client, address) -> None:
        for line in client.makefile("rb"):
            client.sendall(line)

    StreamServer(listener(socket.socket), serve).serve_forever()


def tls_sock(buffer: int = 65_536) -> None:
    from gevent import socket, ssl
    from gevent.server import StreamServer

    def serve(client, address) -> None:
        while data := client.recv(buffer):
            client.sendall(data)

    # `create_default_context` is the standard library's here too, and so is what it makes.
    context = certified(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    StreamServer(listener(socket.socket), serve, ssl_context=context).serve_forever()


def udp_sock(buffer: int = 65_536) -> None:
    from gevent import socket

    sock = datagrams(socket.socket)
    while True:
        data, address = sock.recvfrom(buffer)
        sock.sendto(data, address)


def tell_version() -> dict[str, str]:
    return version("gevent")


def run(function, *numbers: int) -> object:
    return gevent.spawn(function, *numbers).get()


if __name__ == "__main__":
    workloads = (
        switch,
        spawn_join,
        spawn_many,
        spawn_group,
        timeout,
        timeout_block,
        cancel,
        sleepers,
    )
    sync = (
        queue_pingpong,
        queue_bounded,
        lock_free,
        lock_contended,
        event_wake,
        thread,
        subprocess,
    )
    servers = (echo_sock, lines, tls_sock, udp_sock)
    others = {"memory": memory, "version": tell_version}
    main({work.__name__: work for work in workloads + sync + servers} | others, run)
