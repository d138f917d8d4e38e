"""What curio does, to be watched on a terminal in about fifteen seconds.

Shows:  first the story of a parent and a kid: spawn, join, timeout, cancellation with
        clean-up. Then an echo server at work: each connection is a task here, each
        client a task in a second process (this file again, with --client).
Start:  make demo             this, then the same in Rust
        python examples/demo.py [--seconds N] [--clients N] [--rust PROGRAM]

PROGRAM is the Rust example of the same name, built; the environment variable
CURIO_RUST_DEMO names it too.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import curio
from curio import socket
from curio.io import Socket

MESSAGE = b"x" * 1024
TTY = sys.stdout.isatty()
COLOUR = TTY and "NO_COLOR" not in os.environ


def paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if COLOUR else text


def title(text: str) -> None:
    print("\n" + paint("1", text))


# --- the story --------------------------------------------------------------------------


class Story:
    """Prints who says what, and when it was said."""

    colours = {"parent": "36", "kid": "33"}

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, who: str, text: str) -> None:
        seconds = time.monotonic() - self.start
        print(f"  {seconds:4.1f} s  {paint(self.colours[who], f'{who:6}')}  {text}", flush=True)


async def kid(say: Story) -> None:
    say("kid", "Building a space ship. This takes 1000 seconds.")
    try:
        await curio.sleep(1000)
    except curio.CancelledError:
        say("kid", "Cancelled? Fine, saving my work ...")
        await curio.sleep(0.7)
        say("kid", "... saved.")
        raise


async def countdown(say: Story, n: int) -> None:
    while n > 0:
        say("parent", f"{n} ...")
        await curio.sleep(0.4)
        n -= 1


async def parent() -> None:
    say = Story()
    kid_task = await curio.spawn(kid(say))
    await curio.sleep(0.8)
    say("parent", "Let's go in")
    count_task = await curio.spawn(countdown(say, 3))
    await count_task.join()
    say("parent", "We're leaving! You have one second.")
    try:
        await curio.timeout_after(1, kid_task.join())
    except curio.TaskTimeout:
        say("parent", "I warned you: cancel.")
        await kid_task.cancel()
    say("parent", "Everybody is here. Off we go.")


# --- the echo server --------------------------------------------------------------------


class Server:
    """Echoes whatever comes, and counts."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0

    async def accept(self, sock: Socket) -> None:
        while True:
            client, _ = await sock.accept()
            await curio.spawn(self.echo(client))

    async def echo(self, client: Socket) -> None:
        self.connections += 1
        async with client:
            try:
                while data := await client.recv(65536):
                    await client.sendall(data)
                    self.requests += 1
            except ConnectionError:
                pass  # a client that was killed: not our story
        self.connections -= 1


def show(server: Server, rate: float) -> None:
    line = f"  {server.connections:4} connections   {rate:9,.0f} requests/s"
    if TTY:
        print("\r" + line, end="", flush=True)
    else:
        print(line, flush=True)


async def serve(clients: int, seconds: float) -> tuple[int, str]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    port = sock.getsockname()[1]
    server = Server()
    async with sock:
        accepting = await curio.spawn(server.accept(sock))
        command = [sys.executable, os.path.abspath(__file__), "--client", str(port)]
        command += ["--clients", str(clients), "--seconds", str(seconds)]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            await watch(server, driver)
        finally:
            # Only an interrupted demo finds it alive.
            driver.kill()
            report, _ = driver.communicate()
        await accepting.cancel()
    return driver.returncode, report


async def watch(server: Server, driver: subprocess.Popen[str]) -> None:
    """Shows the rate twice a second until the clients' process has ended."""
    then, seen = time.monotonic(), 0
    while driver.poll() is None:
        await curio.sleep(0.1)
        now = time.monotonic()
        if now - then >= 0.5 and server.requests:
            show(server, (server.requests - seen) / (now - then))
            then, seen = now, server.requests
    if TTY:
        print("\r\x1b[K", end="")


# --- the clients (a process of their own) -------------------------------------------------


async def client(port: int, deadline: float) -> int:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    done = 0
    async with sock:
        await sock.connect(("127.0.0.1", port))
        while time.monotonic() < deadline:
            await request(sock)
            done += 1
    return done


async def request(sock: Socket) -> None:
    try:
        await sock.sendall(MESSAGE)
        missing = len(MESSAGE)
        while missing:
            data = await sock.recv(missing)
            if not data:
                raise ConnectionError
            missing -= len(data)
    except ConnectionError:
        sys.exit("demo: the server hung up")


async def drive(port: int, clients: int, seconds: float) -> dict[str, float]:
    start = time.monotonic()
    tasks = [await curio.spawn(client(port, start + seconds)) for _ in range(clients)]
    requests = sum([await task.join() for task in tasks])
    return {"requests": requests, "seconds": time.monotonic() - start}


# --- all of it ----------------------------------------------------------------------------


def demo(arguments: argparse.Namespace) -> None:
    title("Python: two tasks, a timeout, a cancellation")
    curio.run(parent())

    title(f"Python: an echo server and {arguments.clients} clients, 1 KiB a request")
    status, report = curio.run(serve(arguments.clients, arguments.seconds))
    if status != 0:
        sys.exit(f"demo: the clients failed (status {status})")
    result = json.loads(report)
    rate = result["requests"] / result["seconds"]
    print(f"  {result['requests']:,} requests in {result['seconds']:.1f} s: ", end="")
    print(paint("1;32", f"{rate:,.0f} requests/s"), flush=True)

    if arguments.rust:
        title("Rust: the same")
        sys.stdout.flush()
        sys.exit(subprocess.call([arguments.rust]))
    print("\nThe same in Rust: `make demo`, or `cargo run --release --example demo`")


def main() -> None:
    parser = argparse.ArgumentParser(description="What curio does, on a terminal.")
    parser.add_argument("--clients", type=int, default=100, help="client tasks (100)")
    parser.add_argument("--seconds", type=float, default=3, help="how long they work (3)")
    parser.add_argument("--rust", default=os.environ.get("CURIO_RUST_DEMO"), metavar="PROGRAM")
    parser.add_argument("--client", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        if arguments.client:
            work = drive(arguments.client, arguments.clients, arguments.seconds)
            print(json.dumps(curio.run(work)))
        else:
            demo(arguments)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
