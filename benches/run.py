"""Runs every workload on every runtime, in interleaved rounds, and says who is ahead.

    python benches/run.py                      everything (long)
    python benches/run.py --quick              a smoke test: one short round of each
    python benches/run.py --only switch,echo   the workloads whose names start so

Medians and ratios are printed, all rounds are stored in `results/`. What cannot run is named
with its reason. See README.md for how to read the ratios. Linux only: epoll is the limit that
the servers are measured against.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import re
import resource
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
RESULTS = HERE / "results"
BINARIES = HERE / "target" / "release"
VENV = HERE / ".venv"
REQUIREMENTS = ("uvloop", "rloop", "trio", "gevent", "curio==1.6")

LIMIT = "epoll_echo"
WATCHED = "with-monitor"


class Failed(Exception):
    """A runtime cannot run this; the text says why."""


# ---------------------------------------------------------------------------------------
# What is compared


@dataclass(frozen=True)
class Runtime:
    """A runtime: the program with its loops, its servers, and its smallest program."""

    name: str
    face: str  # "python", "rust", "limit", or "monitor": ours with the monitor and without
    program: tuple[str, ...]
    servers: tuple[str, ...] = ()
    startup: str = ""
    ours: bool = False

    @property
    def interpreted(self) -> bool:
        return self.face in ("python", "monitor")


_MAIN = "async def main(): pass\n"
_LOOP = "loop = {0}.new_event_loop()\nloop.run_until_complete(main())\nloop.close()"
_ASYNCIO_SERVERS = (
    *("echo_protocol", "echo_buffered", "echo_sock", "echo_stream", "lines"),
    *("tls_protocol", "tls_stream", "udp_protocol", "udp_sock"),
)
_SOCK_SERVERS = ("echo_sock", "lines", "tls_sock", "udp_sock")
_CURIO = "import curio\n" + _MAIN + "curio.run(main)"

RUNTIMES = (
    Runtime(LIMIT, "limit", (LIMIT,), ("echo", "udp")),
    Runtime("tokio", "rust", ("tokio_bench",), ("echo", "lines", "tls", "udp")),
    Runtime("smol", "rust", ("smol_bench",), ("echo", "lines", "udp")),
    Runtime("curio-rust", "rust", ("curio_bench",), ("echo", "lines", "tls", "udp"), ours=True),
    Runtime(
        "asyncio",
        "python",
        ("on_asyncio.py",),
        _ASYNCIO_SERVERS,
        "import asyncio\n" + _MAIN + "asyncio.run(main())",
    ),
    Runtime(
        "uvloop",
        "python",
        ("on_asyncio.py", "--loop", "uvloop"),
        _ASYNCIO_SERVERS,
        "import uvloop\n" + _MAIN + _LOOP.format("uvloop"),
    ),
    Runtime(
        "rloop",
        "python",
        ("on_asyncio.py", "--loop", "rloop"),
        _ASYNCIO_SERVERS,
        "import rloop\n" + _MAIN + _LOOP.format("rloop"),
    ),
    Runtime(
        "trio",
        "python",
        ("on_trio.py",),
        ("echo_stream", "lines", "tls_stream", "udp_sock"),
        "import trio\n" + _MAIN + "trio.run(main)",
    ),
    Runtime(
        "gevent",
        "python",
        ("on_gevent.py",),
        _SOCK_SERVERS,
        "import gevent\ngevent.spawn(int).get()",
    ),
    Runtime("curio16", "python", ("-O", "curio16.py"), _SOCK_SERVERS, _CURIO),
    Runtime("curio", "python", ("curio2.py",), _SOCK_SERVERS, _CURIO, ours=True),
    Runtime("without-monitor", "monitor", ("curio2.py",), ("echo_sock",)),
    Runtime(WATCHED, "monitor", ("curio2.py", "--monitor"), ("echo_sock",), ours=True),
)


@dataclass(frozen=True)
class Reach:
    """A target: `value` times as good as `against`, or `value` itself without one.

    `against` is "best" (the best peer of the face) or the name of a runtime.
    """

    value: float
    against: str | None = "best"

    def __str__(self) -> str:
        if self.against is None:
            return f"at most {self.value:g}"
        rival = "the best peer" if self.against == "best" else self.against
        return f"{self.value:g}x {rival}"


@dataclass(frozen=True)
class Load:
    """What the load generator does to a server; `value` is the word for what it measures.

    `columns` are other things that it measures, with their headings.
    """

    mode: str
    size: int
    connections: int
    more: tuple[str, ...] = ()
    value: str = "rate"
    columns: tuple[tuple[str, str], ...] = (
        ("cpu", "cpu µs"),
        ("p50", "p50 µs"),
        ("p99", "p99 µs"),
    )


@dataclass(frozen=True)
class Workload:
    """Something to measure: the words for the programs of each face, and the targets.

    The last word is the count; `--quick` divides it. With `load`, the words name the kind of
    server instead; that of the limit is among them where it is one.
    """

    name: str
    title: str
    unit: str
    words: dict[str, tuple[str | int, ...]]
    reach: dict[str, Reach] = field(default_factory=dict)
    load: Load | None = None

    @property
    def more_is_better(self) -> bool:
        return self.load is not None and self.load.value == "rate"


def micro(name: str, title: str, python: tuple, rust: tuple | None, times: float | None):
    words = {"python": python} | ({"rust": rust} if rust else {})
    reach = {"rust": Reach(1, "tokio")} if rust else {}
    if times is not None:
        reach["python"] = Reach(times)
    return Workload(name, title, "ns", words, reach)


def server(
    name: str,
    title: str,
    load: Load,
    kind: str = "echo",
    python: Reach | None = None,
    rust: Reach | None = Reach(1, "tokio"),
    limit: str = "echo",
    unit: str = "requests/s",
):
    words: dict[str, tuple[str | int, ...]] = {"python": (kind,), "rust": (kind,)}
    if limit:
        words["limit"] = (limit,)
    reach = {face: reach for face, reach in (("python", python), ("rust", rust)) if reach}
    return Workload(name, title, unit, words, reach, load)


def echo(name: str, title: str, size: int, connections: int, share: float | None):
    reach = None if share is None else Reach(share, LIMIT)
    return server(name, title, Load("echo", size, connections), python=reach)


def lines(name: str, title: str, size: int, connections: int, share: float | None):
    reach = None if share is None else Reach(share, LIMIT)
    return server(name, title, Load("echo", size, connections), "lines", reach)


def monitor(of: Workload):
    """What the monitor costs in a workload of the Python face: ours against itself."""
    title = f"{of.title}, with the monitor and without"
    words = {"monitor": of.words["python"]}
    if "limit" in of.words:
        words["limit"] = of.words["limit"]
    return Workload(f"monitor-{of.name}", title, of.unit, words, load=of.load)


_FAIR = (("p50", "p50 µs"), ("flood", "flood MB/s"), ("late", "late µs"))

# The last number of each Python micro loop is what it has to reach, in times the best peer;
# that of an echo workload the share of the bare epoll server. None: no target is stated.
WORKLOADS = (
    micro(
        "switch-1",
        "a switch, 1 task",
        ("switch", 1, 200_000),
        ("switch", 1, 3_000_000),
        4,
    ),
    micro(
        "switch-1000",
        "a switch, 1 000 tasks",
        ("switch", 1_000, 1_000_000),
        ("switch", 1_000, 10_000_000),
        4,
    ),
    micro(
        "switch-100000",
        "a switch, 100 000 tasks",
        ("switch", 100_000, 1_000_000),
        ("switch", 100_000, 5_000_000),
        4,
    ),
    micro(
        "spawn-join",
        "spawn a task and join it",
        ("spawn_join", 100_000),
        ("spawn_join", 1_000_000),
        4,
    ),
    micro(
        "spawn-many",
        "spawn many tasks, then join all",
        ("spawn_many", 200_000),
        ("spawn_many", 1_000_000),
        4,
    ),
    micro(
        "spawn-group",
        "a task of a group of 100",
        ("spawn_group", 100, 100_000),
        None,
        4,
    ),
    micro(
        "timeout",
        "a timeout around a call that does not wait",
        ("timeout", 100_000),
        ("timeout", 5_000_000),
        5,
    ),
    micro(
        "timeout-block",
        "a timeout around a block that does not wait",
        ("timeout_block", 100_000),
        None,
        5,
    ),
    micro(
        "cancel",
        "cancel one of 50 000 sleepers",
        ("cancel", 50_000),
        ("cancel", 50_000),
        3,
    ),
    micro(
        "sleepers",
        "a task that sleeps for a moment, processor time",
        ("sleepers", 100_000),
        ("sleepers", 300_000),
        None,
    ),
    micro(
        "queue-pingpong",
        "a message between two tasks, each waits for the other",
        ("queue_pingpong", 200_000),
        ("queue_pingpong", 2_000_000),
        4,
    ),
    micro(
        "queue-bounded",
        "an item through a queue of 100 places",
        ("queue_bounded", 100, 200_000),
        ("queue_bounded", 100, 5_000_000),
        1.3,
    ),
    micro(
        "lock-free",
        "acquire and release a lock that is free",
        ("lock_free", 500_000),
        ("lock_free", 20_000_000),
        2,
    ),
    micro(
        "lock-contended",
        "acquire a lock that 10 tasks want, and switch with it",
        ("lock_contended", 10, 100_000),
        ("lock_contended", 10, 2_000_000),
        4,
    ),
    micro(
        "event-wake",
        "an event wakes one of 10 000 tasks",
        ("event_wake", 10_000, 200_000),
        ("event_wake", 10_000, 2_000_000),
        3,
    ),
    micro("thread", "a call in a thread, and back", ("thread", 20_000), None, 2),
    micro("process", "a call in a process, and back", ("process", 0, 10_000), None, 1),
    micro("process-1m", "the same with 1 MiB", ("process", 1 << 20, 500), None, 1),
    micro("process-100m", "the same with 100 MiB", ("process", 100 << 20, 10), None, 1),
    micro("subprocess", "/bin/true started, and its end awaited", ("subprocess", 500), None, 1),
    micro("universal-in", "an item from a thread to a task", ("universal_in", 200_000), None, 1),
    micro("universal-out", "an item from a task to a thread", ("universal_out", 200_000), None, 1),
    micro(
        "universal-pingpong",
        "an item from a task to a thread and back",
        ("universal_pingpong", 20_000),
        None,
        1,
    ),
    Workload(
        "memory",
        "memory of a sleeping task",
        "bytes",
        {"python": ("memory", 100_000)},
        {"python": Reach(900, None)},
    ),
    Workload(
        "start",
        "import and a trivial run, over bare Python",
        "ms",
        {"python": ("start",)},
        {"python": Reach(15, None)},
    ),
    echo("echo-1", "echo of 1 KiB, 1 connection", 1_024, 1, None),
    echo("echo-100", "echo of 1 KiB, 100 connections", 1_024, 100, 0.95),
    echo("echo-1000", "echo of 1 KiB, 1 000 connections", 1_024, 1_000, 0.95),
    echo("echo-large", "echo of 100 KiB, 100 connections", 102_400, 100, None),
    lines("lines-1", "echo of a line of 1 KiB, 1 connection", 1_024, 1, None),
    lines("lines-100", "echo of a line of 1 KiB, 100 connections", 1_024, 100, 0.90),
    lines("lines-1000", "echo of a line of 1 KiB, 1 000 connections", 1_024, 1_000, None),
    lines("lines-large", "echo of a line of 100 KiB, 100 connections", 102_400, 100, 0.85),
    server(
        "tls-100",
        "echo of 1 KiB over TLS, 100 connections",
        Load("echo", 1_024, 100, ("--tls", "yes")),
        "tls",
        Reach(1),
        limit="",
    ),
    server(
        "churn",
        "connect, echo of 64 bytes, close; 50 at a time",
        Load("churn", 64, 50),
        python=Reach(1, "uvloop"),
        unit="connections/s",
    ),
    server(
        "udp",
        "echo of a datagram of 1 KiB, 100 sockets",
        Load("udp", 1_024, 100),
        "udp",
        limit="udp",
    ),
    server(
        "idle",
        "memory of a connection that waits for a line, 10 000 of them",
        Load("idle", 64, 10_000, value="bytes", columns=()),
        "lines",
        unit="bytes",
    ),
    server(
        "fair",
        "a request each 10 ms on 100 connections, beside one that floods",
        Load("fair", 64, 100, value="p99", columns=_FAIR),
        rust=None,
        limit="",
        unit="p99 µs",
    ),
)
WORKLOADS += tuple(
    monitor(workload)
    for workload in WORKLOADS
    if workload.name in ("switch-1", "switch-1000", "echo-100")
)


# ---------------------------------------------------------------------------------------
# Processes: none outlives the driver


CORES = sorted(os.sched_getaffinity(0))
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _child_setup(core: int | None) -> Callable[[], None]:
    def setup() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if core is not None and len(CORES) > 1:
            os.sched_setaffinity(0, {CORES[core]})

    return setup


@contextmanager
def child(command: list[str], core: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that is gone when the block is left; its last words explain a failure."""
    drop = ("PYTHON", "CURIO") if command[0].startswith(str(VENV)) else ("CURIO",)
    env = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=HERE,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=_child_setup(core),
        )
        try:
            yield process
        except Failed as error:
            process.kill()
            process.wait()
            errors.seek(0)
            last = [line.strip() for line in errors if line.strip()][-1:]
            raise Failed(": ".join([str(error), *last])) from None
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def output(command: list[str], core: int | None = None, patience: float = 120) -> str:
    """What a process prints; a process that fails or takes too long is a failure."""
    with child(command, core) as process:
        try:
            text, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {patience:g} s") from None
        if process.returncode:
            raise Failed(f"exit status {process.returncode}")
        return text


def last_json(text: str) -> dict[str, Any]:
    try:
        return json.loads(text.splitlines()[-1])
    except (IndexError, ValueError):
        raise Failed(f"printed no result: {text[-80:]!r}") from None


def wait_for_port(server: subprocess.Popen[str], patience: float = 15) -> int:
    assert server.stdout is not None
    ready, _, _ = select.select([server.stdout], [], [], patience)
    words = server.stdout.readline().split() if ready else []
    if len(words) != 2 or words[0] != "PORT":
        raise Failed("the server does not listen")
    return int(words[1])


def processor_time(pid: int) -> float:
    """Seconds on a processor, of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


# ---------------------------------------------------------------------------------------
# The peers and the programs


def peers_python(wanted: str | None) -> str:
    """An interpreter that Curio 1.6 runs on (3.10 or 3.11), if one is found."""
    candidates = [wanted] if wanted else ["python3.11"]
    if not wanted:
        if pyenv := shutil.which("pyenv"):
            root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
            candidates += sorted(map(str, Path(root, "versions").glob("3.11.*/bin/python")))
        candidates += [sys.executable]
    for candidate in candidates:
        try:
            if subprocess.run([candidate, "-c", "pass"], capture_output=True).returncode == 0:
                return candidate
        except OSError:
            continue
    sys.exit(f"no interpreter for the peers: {', '.join(candidates)}")


def make_peers(wanted: str | None) -> None:
    """The peers' virtual environment, made once; a package that does not install is named."""
    done = VENV / ".complete"
    if done.exists():
        return
    say("making the peers' environment")
    subprocess.run([peers_python(wanted), "-m", "venv", "--clear", str(VENV)], check=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    failed = []
    # Curio 1.6 is old: it wants a setuptools to be built with.
    for package in ("setuptools", "wheel", *REQUIREMENTS):
        say(f"  {package}")
        if subprocess.run([*pip, "install", package]).returncode:
            failed.append(package)
    if failed:
        say(f"not installed: {', '.join(failed)}")
    else:
        done.touch()


def build() -> None:
    """The Rust programs; without them there is nothing to measure servers with."""
    say("building the Rust programs")
    command = ["cargo", "build", "--release", "--bins", "--quiet"]
    if nice := shutil.which("nice"):
        command.insert(0, nice)
    if subprocess.run(command, cwd=HERE).returncode:
        sys.exit("the Rust programs do not build")


def command_of(runtime: Runtime, options: argparse.Namespace) -> list[str]:
    """The start of every command line of a runtime."""
    if not runtime.interpreted:
        return [str(BINARIES / runtime.program[0])]
    ours = runtime.ours or runtime.face == "monitor"
    python = options.python if ours else str(VENV / "bin" / "python")
    words = (str(PEERS / word) if word.endswith(".py") else word for word in runtime.program)
    return [python, *words]


def make_certificate() -> None:
    """What the TLS servers show; a new one each time."""
    output([str(BINARIES / "load"), "certificate"])


def probe(runtime: Runtime, options: argparse.Namespace) -> str:
    """The version of a runtime; a failure if it cannot run."""
    command = command_of(runtime, options)
    if not shutil.which(command[0]):
        what = "interpreter" if runtime.interpreted else "program"
        raise Failed(f"there is no {what} {os.path.relpath(command[0])}")
    if runtime.face == "limit":
        return "one thread, edge-triggered"
    if runtime.face == "rust":
        lock = (HERE / "Cargo.lock").read_text()
        package = "curio" if runtime.ours else runtime.name
        found = re.search(rf'name = "{package}"\nversion = "(.+)"', lock)
        return found[1] if found else "unknown"
    told = last_json(output([*command, "version"]))
    if runtime.ours and told["version"].startswith(("0.", "1.")):
        raise Failed(f"that interpreter has the old package, Curio {told['version']}")
    return f"{told['version']} (Python {told['python']})"


# ---------------------------------------------------------------------------------------
# Measuring


@dataclass(frozen=True)
class Entry:
    """A row of a table: a runtime, and one of its servers where it has several."""

    label: str
    runtime: Runtime
    words: tuple[str | int, ...]


def entries(workload: Workload, runtimes: list[Runtime]) -> list[Entry]:
    """The rows that a workload has on these runtimes."""
    rows = []
    for runtime in runtimes:
        if workload.load is None:
            if words := workload.words.get(runtime.face):
                rows.append(Entry(runtime.name, runtime, words))
            continue
        kind = str(workload.words.get(runtime.face, ("",))[0])
        for server in runtime.servers:
            if kind and server.startswith(kind):
                variant = server.removeprefix(kind).removeprefix("_")
                label = f"{runtime.name} {variant}".strip()
                rows.append(Entry(label, runtime, (server,)))
    return rows


Sample = dict[str, float]


def measure(workload: Workload, entry: Entry, options: argparse.Namespace) -> Sample:
    """One round of one row; `value` is what the table shows."""
    if workload.load is not None:
        return measure_server(workload, entry, options)
    if workload.name == "start":
        return measure_start(entry, options)
    *words, count = entry.words
    if options.quick:
        # Not below one round of as many tasks as there are.
        count = max(int(count) // 20, *(word for word in words if isinstance(word, int)), 1)
    line = last_json(output([*command_of(entry.runtime, options), *map(str, [*words, count])]))
    return {"value": line[workload.unit]}


def measure_start(entry: Entry, options: argparse.Namespace) -> Sample:
    """Milliseconds of a whole process, less those of one that does nothing."""
    python = command_of(entry.runtime, options)[: 2 if entry.runtime.program[0] == "-O" else 1]

    def milliseconds(program: str) -> float:
        start = time.perf_counter()
        output([*python, "-c", program])
        return (time.perf_counter() - start) * 1e3

    bare, whole = [], []
    milliseconds(entry.runtime.startup)  # its byte code is written now
    for _ in range(1 if options.quick else 5):
        bare.append(milliseconds("pass"))
        whole.append(milliseconds(entry.runtime.startup))
    return {"value": min(whole) - min(bare), "bare": min(bare)}


def measure_server(workload: Workload, entry: Entry, options: argparse.Namespace) -> Sample:
    """What the load generator measures, with the server on one core and the load on another."""
    load = workload.load
    assert load is not None
    # What waits should not keep more than its runtime's users ask for.
    buffer = 8_192 if load.mode == "idle" else 65_536 if load.size <= 65_536 else 131_072
    connections = load.connections
    if options.quick and load.mode == "idle":
        connections //= 10
    seconds, warmup = (0.2, 0.05) if options.quick else (options.seconds, 0.5)
    generator = [str(BINARIES / "load"), load.mode, *load.more, "--connections", str(connections)]
    generator += ["--size", str(load.size), "--seconds", str(seconds), "--warmup", str(warmup)]
    command = [*command_of(entry.runtime, options), *map(str, entry.words), str(buffer)]
    with child(command, core=0) as server:
        port = wait_for_port(server)
        before = processor_time(server.pid)
        generator += ["--addr", f"127.0.0.1:{port}", "--pid", str(server.pid)]
        line = last_json(output(generator, core=1, patience=60))
        if server.poll() is not None:
            raise Failed("the server ended")
        used = processor_time(server.pid) - before
        if line["errors"] or not line["requests"]:
            raise Failed(f"{line['errors']} connections failed, {line['requests']} requests done")
    line["cpu"] = used / line.get("total", line["requests"]) * 1e6
    return {"value": line[load.value]} | {key: line[key] for key, _ in load.columns}


@dataclass
class Outcome:
    """All rounds of a workload, and who failed in it."""

    workload: Workload
    rows: dict[str, Entry]
    rounds: dict[str, list[Sample]]
    failed: dict[str, str]

    def median(self, label: str, key: str = "value") -> float:
        return statistics.median(sample[key] for sample in self.rounds[label])

    def measured(self, face: str, ours: bool | None = None) -> list[str]:
        """The rows of a face, the best first; only ours or only the peers' if asked."""
        labels = [
            label
            for label, entry in self.rows.items()
            if entry.runtime.face == face
            and self.rounds.get(label)
            and ours in (None, entry.runtime.ours)
        ]
        return sorted(labels, key=self.median, reverse=self.workload.more_is_better)

    def times(self, label: str, value: float) -> float:
        """How many times as good as `value` a row is."""
        median = self.median(label)
        if self.workload.more_is_better:
            return median / value
        return value / max(median, 1e-9)

    def of_target(self, face: str, label: str) -> float | None:
        """The part of its target that a row reaches: 1 and above is reached."""
        reach = self.workload.reach.get(face)
        if reach is None:
            return None
        if reach.against is None:
            return self.times(label, reach.value)
        if reach.against == "best":
            rival = self.measured(face, ours=False)[:1]
        else:
            # The best of its rows: asyncio's kin have several.
            rival = [
                row
                for each in ("limit", face)
                for row in self.measured(each)
                if self.rows[row].runtime.name == reach.against
            ][:1]
        return self.times(label, self.median(rival[0])) / reach.value if rival else None


def run_workload(
    workload: Workload, runtimes: list[Runtime], options: argparse.Namespace
) -> Outcome:
    """The rounds of a workload: each has every row once, each starts with another one."""
    rows = {entry.label: entry for entry in entries(workload, runtimes)}
    outcome = Outcome(workload, rows, {}, {})
    rounds = options.rounds or (3 if workload.load is not None else 5)
    if options.quick:
        rounds = 1
    labels = list(rows)
    for number in range(rounds):
        say(f"{workload.name}: round {number + 1} of {rounds}")
        shift = number % max(len(labels), 1)
        for label in labels[shift:] + labels[:shift]:
            if label in outcome.failed:
                continue
            try:
                sample = measure(workload, rows[label], options)
            except Failed as error:
                # Half of the rounds are no measure: the row is left out as a whole.
                outcome.failed[label] = str(error)
                outcome.rounds.pop(label, None)
            else:
                outcome.rounds.setdefault(label, []).append(sample)
    return outcome


# ---------------------------------------------------------------------------------------
# Telling


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def number(value: float) -> str:
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def table(outcome: Outcome) -> str:
    """A workload's table: each face under the limit, the best rows first."""
    workload = outcome.workload
    rival = "without" if "monitor" in workload.words else "best peer"
    header = ["", workload.unit, "min..max", rival, "target"]
    if workload.load is not None:
        header += [LIMIT, *(heading for _, heading in workload.load.columns)]
    lines = [header]
    limit = outcome.measured("limit")
    for face in ("limit", "rust", "python", "monitor"):
        best = outcome.measured(face, ours=False)[:1]
        for label in outcome.measured(face):
            values = [sample["value"] for sample in outcome.rounds[label]]
            against = outcome.times(label, outcome.median(best[0])) if best else None
            row = [
                label + (" *" if outcome.rows[label].runtime.ours else ""),
                number(outcome.median(label)),
                f"{number(min(values))}..{number(max(values))}",
                ratio(None if face == "limit" else against),
                ratio(outcome.of_target(face, label)),
            ]
            if workload.load is not None:
                of_limit = outcome.times(label, outcome.median(limit[0])) if limit else None
                row.append(ratio(of_limit))
                row += [number(outcome.median(label, key)) for key, _ in workload.load.columns]
            lines.append(row)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [f"\n{workload.name}: {workload.title}"]
    for row in lines:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        text.append("  " + "  ".join(cells).rstrip())
    text += [f"  left out: {label}: {reason}" for label, reason in outcome.failed.items()]
    return "\n".join(text)


def verdicts(
    outcome: Outcome, faces: tuple[str, ...], missing: dict[str, str]
) -> list[dict[str, Any]]:
    """For each face: are we ahead of the target, or behind it?"""
    found = []
    for face in faces:
        if face not in outcome.workload.words:
            continue
        reach = outcome.workload.reach.get(face)
        rival = "ours without it" if face == "monitor" else "the best peer"
        target = f"target {reach}" if reach else f"no target; {rival}"
        verdict: dict[str, Any] = {"face": face, "target": target, "part": None}
        ours = outcome.measured(face, ours=True)[:1]
        peers = outcome.measured(face, ours=False)[:1]
        part = None
        if ours and reach:
            part = outcome.of_target(face, ours[0])
        elif ours and peers:
            part = outcome.times(ours[0], outcome.median(peers[0]))
        if not ours:
            names = [runtime.name for runtime in RUNTIMES if runtime.ours and runtime.face == face]
            reason = missing.get(names[0]) or next(
                (why for label, why in outcome.failed.items() if label.split()[0] == names[0]),
                "no such workload",
            )
            verdict["word"] = f"not measured: {reason}"
        elif part is None:
            verdict["word"] = "nothing to compare with"
        else:
            verdict["part"] = round(part, 3)
            verdict["word"] = "ahead" if part >= 1 else "behind"
            # The part that each round alone would have reached.
            samples = [sample["value"] for sample in outcome.rounds[ours[0]]]
            parts = [part * outcome.median(ours[0]) / value for value in samples]
            if outcome.workload.more_is_better:
                parts = [part * value / outcome.median(ours[0]) for value in samples]
            if min(parts) < 1 <= max(parts):
                verdict["word"] += ", within the spread"
        found.append(verdict)
    return found


def verdict_line(verdict: dict[str, Any]) -> str:
    part = "" if verdict["part"] is None else f", {verdict['part']:.2f} of it"
    return f"{verdict['face']}: {verdict['word']} ({verdict['target']}{part})"


def machine() -> dict[str, Any]:
    def first(path: str, pattern: str) -> str:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
        return found[1].strip() if found else "unknown"

    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": first("/proc/cpuinfo", r"^model name\s*:(.*)$"),
        "cores": len(CORES),
        "memory": first("/proc/meminfo", r"^MemTotal:(.*)$"),
        "load": os.getloadavg(),
    }


def as_json(outcome: Outcome, verdict: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "title": outcome.workload.title,
        "unit": outcome.workload.unit,
        "medians": {label: outcome.median(label) for label in outcome.rounds},
        "rounds": outcome.rounds,
        "failed": outcome.failed,
        "verdicts": verdict,
    }


# ---------------------------------------------------------------------------------------
# The command line


def chosen_by(start: str) -> set[str]:
    """The workload of that name, or all whose names start so."""
    names = {workload.name for workload in WORKLOADS}
    return {start} if start in names else {name for name in names if name.startswith(start)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog="workloads: " + ", ".join(workload.name for workload in WORKLOADS),
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round of each: a smoke test")
    add("--only", metavar="NAMES", default="", help="workloads whose names start so, by comma")
    add("--peers", metavar="NAMES", default="", help="only these peers, by comma")
    add("--rust", action="store_true", help="only the Rust face")
    add("--python-face", action="store_true", help="only the Python face, and the monitor")
    add("--rounds", type=int, metavar="N", help="default: 5, and 3 for servers")
    add("--seconds", type=float, default=2.0, help="of load on a server, in a round")
    add("--python", metavar="PATH", help="the interpreter with the new package")
    add("--peers-python", metavar="PATH", help="what the peers' environment is made with")
    options = parser.parse_args()
    options.python = os.path.abspath(options.python or HERE.parent / ".venv" / "bin" / "python")
    options.only = tuple(filter(None, options.only.split(",")))
    options.peers = tuple(filter(None, options.peers.split(",")))
    both = options.rust == options.python_face
    options.faces = tuple(
        face
        for face, wanted in (
            ("rust", options.rust),
            ("python", options.python_face),
            ("monitor", options.python_face),
        )
        if wanted or both
    )
    names = {runtime.name for runtime in RUNTIMES}
    if unknown := set(options.peers) - names:
        parser.error(f"no such peers: {', '.join(sorted(unknown))}")
    chosen = [chosen_by(start) for start in options.only]
    for start, names in zip(options.only, chosen, strict=True):
        if not names:
            parser.error(f"no workload starts with {start!r}")
    options.only = set().union(*chosen)
    return options


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 65_536), hard), hard))

    workloads = [
        workload
        for workload in WORKLOADS
        if (not options.only or workload.name in options.only)
        and set(workload.words) & set(options.faces)
    ]
    if any(w.load is not None for w in workloads) or "rust" in options.faces:
        build()
        make_certificate()
    if "python" in options.faces:
        make_peers(options.peers_python)

    started = time.monotonic()
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    runtimes = []
    for runtime in RUNTIMES:
        peer = runtime.face in options.faces and (
            runtime.ours
            or runtime.face == "monitor"
            or not options.peers
            or runtime.name in options.peers
        )
        if not peer and runtime.face != "limit":
            continue
        try:
            versions[runtime.name] = probe(runtime, options)
            runtimes.append(runtime)
        except Failed as error:
            missing[runtime.name] = str(error)
            say(f"left out: {runtime.name}: {error}")

    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions,
        "missing": missing,
        "quick": options.quick,
        "workloads": {},
    }
    summary = []
    try:
        for workload in workloads:
            if "monitor" in workload.words and WATCHED in missing:
                summary.append(f"  {workload.name:19}  left out: {missing[WATCHED]}")
                continue
            outcome = run_workload(workload, runtimes, options)
            verdict = verdicts(outcome, options.faces, missing)
            report["workloads"][workload.name] = as_json(outcome, verdict)
            print(table(outcome))
            for each in verdict:
                print("  " + verdict_line(each), flush=True)
                summary.append(f"  {workload.name:19}  {verdict_line(each)}")
    finally:
        # What was measured before an interruption is worth keeping.
        if report["workloads"]:
            RESULTS.mkdir(exist_ok=True)
            stamp = re.sub(r"[-:]", "", report["date"][:19]).replace("T", "-")
            path = RESULTS / ("quick.json" if options.quick else f"{stamp}.json")
            path.write_text(json.dumps(report, indent=1) + "\n")
            print(f"\nstored in {os.path.relpath(path)}")
    print("\nSummary\n" + "\n".join(summary))
    for name, reason in missing.items():
        print(f"  left out: {name}: {reason}")
    say(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
