"""What the peers' programs share: the command line, the measures and a listening socket.

A program is a table of workloads, each a function of a few numbers that gives what it
measured: `{"ns": 412.0}`. Everything that is timed is in the program itself, in loops of
the same shape for every runtime. The sizes come from the driver (`run.py`), the defaults
are for trying a program by hand:

    python peers/on_asyncio.py switch 1000 100000
"""

from __future__ import annotations

import gc
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

clock = time.perf_counter_ns
cpu_clock = time.process_time_ns

# What the TLS servers show; the load generator makes it.
_TLS = Path(__file__).resolve().parent.parent / "target" / "tls"
CERTIFICATE = (str(_TLS / "cert.pem"), str(_TLS / "key.pem"))

FAR = 1_000.0  # seconds: longer than any benchmark runs


def per(elapsed: int, count: int) -> dict[str, float]:
    """Nanoseconds for each of `count`."""
    return {"ns": round(elapsed / count, 2)}


def stagger(i: int) -> float:
    """The short deadline of sleeper `i`: spread over ten milliseconds, out of order."""
    return (i * 7_919 % 10_007) / 1_000_000


def resident() -> int:
    """Bytes of this process in memory, without its garbage."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def listener(factory: Callable[..., socket.socket] = socket.socket) -> socket.socket:
    """A listening socket on a port of the system's choice, told as `PORT n`.

    The sockets that it accepts inherit `TCP_NODELAY`.
    """
    sock = factory(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(4096)
    print("PORT", sock.getsockname()[1], flush=True)
    return sock


def datagrams(factory: Callable[..., socket.socket] = socket.socket) -> socket.socket:
    """A socket for datagrams, told in the same way, with room for those that the load sends."""
    sock = factory(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind(("127.0.0.1", 0))
    print("PORT", sock.getsockname()[1], flush=True)
    return sock


def certified(context: Any) -> Any:
    """A TLS server's context, of the standard library or like it, with the certificate in it."""
    context.load_cert_chain(*CERTIFICATE)
    return context


def version(package: str | None = None) -> dict[str, str]:
    """The version of the runtime and of its Python."""
    from importlib.metadata import version as installed

    python = platform.python_version()
    return {"version": installed(package) if package else python, "python": python}


def main(workloads: dict[str, Callable[..., object]], run: Callable[..., object]) -> None:
    """Does what the command line says and prints what it measured as one JSON line.

    `run(function, *numbers)` is how the runtime runs a workload. The process ends without
    tidying up: after the report there is nothing left to measure, and 100 000 sleepers.
    """
    name, *words = sys.argv[1:] or [""]
    if name not in workloads:
        sys.exit(f"no workload {name!r}; there are: {', '.join(workloads)}")
    result = run(workloads[name], *(int(word) for word in words))
    if result is not None:
        print(json.dumps(result), flush=True)
        os._exit(0)
