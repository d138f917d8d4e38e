"""A chat by lines: what one says, everybody else hears.

Shows:  a task for each client, streams, and a queue for each listener, so that a slow one
        holds up nobody.
Start:  python examples/chat.py [PORT]        then, in several terminals:  nc localhost PORT
        Port 0 is any that is free. Ctrl-C ends the server.
"""

import sys

import curio
from curio.io import Socket, SocketStream

WAITING = 100  # lines that a listener may be behind before it is dropped


Lines = curio.Queue[bytes]


class Room:
    def __init__(self) -> None:
        self.listeners: dict[str, tuple[Lines, curio.Task[None]]] = {}

    async def say(self, speaker: str, text: str) -> None:
        for name, (lines, task) in list(self.listeners.items()):
            if name == speaker:
                continue
            if lines.full():
                await task.cancel(blocking=False)
            else:
                await lines.put(f"{speaker}: {text}\n".encode())

    async def client(self, sock: Socket, address: tuple[str, int]) -> None:
        name = f"{address[0]}:{address[1]}"
        stream = sock.as_stream()
        lines = Lines(WAITING)
        self.listeners[name] = lines, await curio.current_task()
        try:
            await self.say(name, "has come")
            # Whichever of the two ends, the other is cancelled.
            async with curio.TaskGroup(wait=any) as both:
                await both.spawn(self.hear, lines, stream)
                await both.spawn(self.speak, name, stream)
        finally:
            del self.listeners[name]
            await self.say(name, "has left")

    async def speak(self, name: str, stream: SocketStream) -> None:
        try:
            async for line in stream:
                await self.say(name, line.decode(errors="replace").rstrip())
        except ConnectionError:
            pass

    async def hear(self, lines: Lines, stream: SocketStream) -> None:
        try:
            while True:
                await stream.write(await lines.get())
        except OSError:
            pass  # The listener has gone; whoever reads from it sees that, too.


async def main(port: int) -> None:
    server = curio.create_server("127.0.0.1", port, Room().client)
    print("Chatting at", server.address, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        curio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 25000)
    except KeyboardInterrupt:
        print("Server ended")
