"""Whole programs, the examples and the tutorial's, interrupted in every place.

What they print is as long as it may be, and nothing hangs, is left locked or left open, wherever
they are cancelled or timed out. A server gets a client, and is cancelled when that has had its
answers.
"""

import contextlib
import io
import runpy
import socket
from pathlib import Path

import curio
import pytest
from curio import testing

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples"
TUTORIAL = TESTS / "tutorial"


def alone(path, name, *arguments, gives_up=()):
    """A program that ends by itself; loaded anew for each run, as its objects are its own.

    When somebody else in it has been interrupted, it may raise `gives_up`.
    """

    async def program():
        try:
            await runpy.run_path(str(path))[name](*arguments)
        except gives_up:
            pass
        finally:
            # Who was to let them go may have been cancelled.
            async with curio.disable_cancellation():
                await (await curio.current_task()).cancel_children()

    return program


def served(path, name, visit, *arguments):
    """A server that listens where it is told, and its client."""

    async def program():
        functions = runpy.run_path(str(path))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = free.getsockname()
        place = {"address": address, "port": address[1]}
        given = [place.get(argument, argument) for argument in arguments]
        async with curio.TaskGroup(wait=any) as group:
            await group.spawn(functions[name], *given)
            await group.spawn(visit, address)

    return program


async def connected(address):
    while True:
        try:
            return await curio.open_connection(*address)
        except ConnectionRefusedError:
            await curio.sleep(1)  # The server has not begun.


async def hears_an_echo(address):
    async with await connected(address) as sock:
        for text in b"Hello", b"again":
            await sock.sendall(text)
            assert await sock.recv(100) == text


async def chats(address):
    heard = []

    async def hear(stream):
        # Those whose tasks in the server were interrupted hear the end, or nothing.
        with contextlib.suppress(ConnectionError):
            line = await curio.ignore_after(60, stream.readline)
            heard.extend(line.decode().split()[-1:] if line else [])

    async with await connected(address) as one, one.as_stream() as first:
        async with await connected(address) as other, other.as_stream() as second:
            await hear(first)
            with contextlib.suppress(ConnectionError):
                await second.write(b"Hello\n")
            await hear(first)
        await hear(first)
    assert heard == [word for word in ("come", "Hello", "left") if word in heard]


PROGRAMS = {
    "hello": alone(EXAMPLES / "hello.py", "countdown", 3),
    "family": alone(EXAMPLES / "family.py", "parent", 1),
    "udp_echo": alone(EXAMPLES / "udp_echo.py", "main", gives_up=TimeoutError),
    "echo": served(EXAMPLES / "echo.py", "echo_server", hears_an_echo, "address"),
    "chat": served(EXAMPLES / "chat.py", "main", chats, "port"),
    "tutorial-countdown": alone(TUTORIAL / "countdown.py", "countdown", 3),
    "tutorial-hangs": alone(TUTORIAL / "hangs.py", "parent"),
    "tutorial-warned": alone(TUTORIAL / "warned.py", "parent"),
    "tutorial-saves-work": alone(TUTORIAL / "saves_work.py", "parent"),
    "tutorial-event": alone(TUTORIAL / "event.py", "parent"),
    "tutorial-nags": alone(TUTORIAL / "nags.py", "parent"),
    "tutorial-prodcons": alone(TUTORIAL / "prodcons.py", "main"),
    "tutorial-echo": served(TUTORIAL / "echo_sockets.py", "echo_server", hears_an_echo, "address"),
}


def interrupt(program):
    with contextlib.redirect_stdout(io.StringIO()):
        return testing.interrupt_everywhere(program)


@pytest.mark.parametrize("name", PROGRAMS)
def test_interrupted(name):
    assert interrupt(PROGRAMS[name]).points > 0


def main():
    for name, program in PROGRAMS.items():
        report = interrupt(program)
        print(f"{name:<40} {'':>10} {report.points:>8} {report.runs:>8}")


if __name__ == "__main__":
    main()
