"""A WebSocket server: each message goes back to where it came from.

Shows:  messages made of frames made of bytes: the library wsproto knows the protocol and does
        no I/O, `WebSocket` feeds it from a socket, and the echo is left with three lines. A
        client that says nothing is asked whether it is still there.
Start:  pip install wsproto
        python examples/websocket_echo.py [PORT] [--idle SECONDS]
        then, in the console of a browser:
            s = new WebSocket("ws://127.0.0.1:8080"); s.onmessage = m => console.log(m.data)
            s.send("hello")
        or, for the beginning of a conversation, elsewhere:
            curl -i -N -m 1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' \\
                -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==' \\
                http://127.0.0.1:8080/
        Port 0 lets the system choose; Ctrl-C ends the server.
"""

import argparse
from collections.abc import Awaitable, Callable

import curio
import wsproto
import wsproto.events
import wsproto.utilities
from curio import socket
from curio.io import Socket
from wsproto.frame_protocol import CloseReason

LARGEST_MESSAGE = 16 * 2**20

Address = tuple[str, int]


class HungUp(Exception):
    """The client has gone without a word, or says nothing and does not answer."""


class WebSocket:
    """A conversation in messages, str or bytes, with one client."""

    def __init__(self, sock: Socket, idle: float) -> None:
        self.sock = sock
        self.idle = idle
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self.events = self.protocol.events()

    async def receive_event(self) -> wsproto.events.Event:
        """The next event, as soon as enough has come for one."""
        asked = False
        while (event := next(self.events, None)) is None:
            try:
                data = await curio.timeout_after(self.idle, self.sock.recv, 65536)
            except curio.TaskTimeout:
                if asked or self.protocol.connection is None:
                    raise HungUp from None
                asked = True
                await self.send_event(wsproto.events.Ping())
                continue
            if not data:
                raise HungUp
            self.protocol.receive_data(data)
            self.events = self.protocol.events()
        return event

    async def send_event(self, event: wsproto.events.Event) -> None:
        data = self.protocol.send(event)
        try:
            await curio.timeout_after(self.idle, self.sock.sendall, data)
        except curio.TaskTimeout:
            raise HungUp from None

    async def accept(self) -> bool:
        """Agree to talk; return whether it was for a WebSocket that the client came."""
        try:
            await self.receive_event()
        except wsproto.utilities.RemoteProtocolError as error:
            if error.event_hint is not None:
                await self.send_event(error.event_hint)
            return False
        except UnicodeError:  # The name of the host is none.
            await self.send_event(wsproto.events.RejectConnection())
            return False
        await self.send_event(wsproto.events.AcceptConnection())
        return True

    async def receive(self) -> str | bytes | None:
        """The next message, put together from its fragments; None when the client closes."""
        fragments, size = [], 0
        while True:
            event = await self.receive_event()
            if isinstance(event, wsproto.events.Message):
                fragments.append(event.data)
                size += len(event.data)
                if size > LARGEST_MESSAGE:
                    await self.close(CloseReason.MESSAGE_TOO_BIG)
                    return None
                if event.message_finished:
                    whole: str | bytes = event.data[:0].join(fragments)
                    return whole
            elif isinstance(event, wsproto.events.Ping):
                await self.send_event(event.response())
            elif isinstance(event, wsproto.events.CloseConnection):
                # Or it has broken the rules; then this tells it which.
                await self.send_event(event.response())
                return None

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            await self.send_event(wsproto.events.TextMessage(message))
        else:
            await self.send_event(wsproto.events.BytesMessage(message))

    async def close(self, code: int = CloseReason.NORMAL_CLOSURE) -> None:
        await self.send_event(wsproto.events.CloseConnection(code))


async def echo(websocket: WebSocket) -> None:
    while (message := await websocket.receive()) is not None:
        await websocket.send(message)


async def serve_client(sock: Socket, address: Address, idle: float) -> None:
    # Without, a small message would wait until the client has confirmed the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    websocket = WebSocket(sock, idle)
    try:
        if await websocket.accept():
            print("Connection from", address)
            await echo(websocket)
            print("Connection closed")
        await hang_up(sock)
    except (OSError, HungUp):
        print("Connection lost")


async def hang_up(sock: Socket) -> None:
    """End a connection so that the client reads the last words.

    A socket that is closed with input unread resets the connection, and what was on its way to
    the client may be lost.
    """
    await sock.shutdown(socket.SHUT_WR)
    async with curio.ignore_after(2):
        while await sock.recv(65536):
            pass


async def serve(
    host: str, port: int, client_task: Callable[[Socket, Address], Awaitable[None]]
) -> None:
    server = curio.create_server(host, port, client_task)
    print("Serving at ws://{}:{}".format(*server.address))
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A WebSocket server that echoes.")
    parser.add_argument("port", nargs="?", type=int, default=8080)
    parser.add_argument("--idle", type=float, default=30, help="seconds to wait for a client (30)")
    options = parser.parse_args()

    async def serve_one(sock: Socket, address: Address) -> None:
        await serve_client(sock, address, options.idle)

    try:
        curio.run(serve, "127.0.0.1", options.port, serve_one)
    except KeyboardInterrupt:
        print("Server ended")
