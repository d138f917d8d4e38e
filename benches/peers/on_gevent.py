"""The loops on gevent: greenlets in place of coroutines."""

from __future__ import annotations

import gevent
from common import FAR, clock, cpu_clock, listener, main, per, resident, stagger, version
from gevent.event import Event


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


def readline(buffer: int = 65_536) -> None:
    from gevent import socket
    from gevent.server import StreamServer

    def serve(client, address) -> None:
        for line in client.makefile("rb"):
            client.sendall(line)

    StreamServer(listener(socket.socket), serve).serve_forever()


def tell_version() -> dict[str, str]:
    return version("gevent")


def run(function, *numbers: int) -> object:
    return gevent.spawn(function, *numbers).get()


if __name__ == "__main__":
    workloads = (switch, spawn_join, spawn_many, timeout, timeout_block, cancel, sleepers)
    servers = (echo_sock, readline)
    others = {"memory": memory, "version": tell_version}
    main({work.__name__: work for work in workloads + servers} | others, run)
