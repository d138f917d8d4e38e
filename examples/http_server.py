"""An HTTP/1.1 server: what is sent to it, it sends back.

Shows:  a protocol on curio's sockets. The library h11 knows HTTP and does no I/O: it turns
        bytes into events and events into bytes. So the bytes are all that is left to do here,
        in plain straight code: a task for each client, and a limit on each wait for one.
Start:  pip install h11
        python examples/http_server.py [PORT] [--idle SECONDS]      then, elsewhere:
            curl -i http://127.0.0.1:8080/hello http://127.0.0.1:8080/again
            curl -I http://127.0.0.1:8080/hello
            curl -d 'some text' http://127.0.0.1:8080/
            curl -T FILE -H 'Transfer-Encoding: chunked' -o COPY http://127.0.0.1:8080/
            echo nonsense | nc 127.0.0.1 8080
        Port 0 lets the system choose; Ctrl-C ends the server.
"""

import argparse
import email.utils
import http
from collections.abc import Awaitable, Callable
from typing import Any

import curio
import h11
from curio import socket
from curio.io import Socket

LARGEST_BODY = 16 * 2**20
LINGER = 2  # seconds

Address = tuple[str, int]


class Refused(Exception):
    """A request is answered with an error, and the connection is closed."""

    def __init__(self, status: int) -> None:
        self.status = status


class Connection:
    """HTTP with one client: events of h11's over a socket."""

    def __init__(self, sock: Socket, idle: float) -> None:
        self.sock = sock
        self.idle = idle
        self.protocol = h11.Connection(h11.SERVER)
        self.method: bytes | None = None  # of the request at hand

    async def receive(self) -> Any:
        """The next event, as soon as enough has come for one."""
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            if self.protocol.they_are_waiting_for_100_continue:
                await self.send(h11.InformationalResponse(status_code=100, headers=[]))
            data = await curio.timeout_after(self.idle, self.sock.recv, 65536)
            self.protocol.receive_data(data)
        return event

    async def send(self, *events: h11.Event) -> None:
        data = b"".join([self.protocol.send(event) or b"" for event in events])
        await curio.timeout_after(self.idle, self.sock.sendall, data)

    async def receive_request(self) -> h11.Request | None:
        """The head of a request, or None if the client has no more of them."""
        self.method = None
        request: h11.Request | h11.ConnectionClosed = await self.receive()
        if isinstance(request, h11.ConnectionClosed):
            return None
        self.method = request.method
        return request

    async def receive_body(self, request: h11.Request) -> bytes:
        # Whoever asks by "Expect: 100-continue" is refused before it sends anything.
        if int(dict(request.headers).get(b"content-length", 0)) > LARGEST_BODY:
            raise Refused(413)
        body = bytearray()
        while type(event := await self.receive()) is h11.Data:
            body += event.data
            if len(body) > LARGEST_BODY:
                raise Refused(413)
        return bytes(body)

    async def answer(
        self, status: int, content_type: bytes, content: bytes, *more: tuple[bytes, bytes]
    ) -> None:
        headers = [
            (b"Date", email.utils.formatdate(usegmt=True).encode()),
            (b"Content-Type", content_type),
            (b"Content-Length", b"%d" % len(content)),
            *more,
        ]
        reason = http.HTTPStatus(status).phrase
        events: list[h11.Event] = [h11.Response(status_code=status, reason=reason, headers=headers)]
        if self.method != b"HEAD":
            events.append(h11.Data(data=content))
        await self.send(*events, h11.EndOfMessage())

    async def refuse(self, status: int) -> None:
        """Say what is wrong, unless half an answer has been sent, and hang up."""
        if self.protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            text = http.HTTPStatus(status).phrase + "\n"
            await self.answer(status, b"text/plain", text.encode(), (b"Connection", b"close"))
        # A socket that is closed with input unread resets the connection, and the client may
        # never see the answer. So let it finish, but not for long.
        await self.sock.shutdown(socket.SHUT_WR)
        async with curio.ignore_after(LINGER):
            while await self.sock.recv(65536):
                pass


async def answer_requests(connection: Connection) -> None:
    """Answer one request after the other, until one side wants no more."""
    while request := await connection.receive_request():
        if request.method in (b"GET", b"HEAD"):
            await connection.receive_body(request)
            content_type, content = b"text/plain", b"You asked for " + request.target + b"\n"
        elif request.method in (b"POST", b"PUT"):
            content = await connection.receive_body(request)
            content_type = dict(request.headers).get(b"content-type", b"application/octet-stream")
        else:
            raise Refused(501)
        await connection.answer(200, content_type, content)
        print(f"{request.method.decode()} {request.target.decode()}: {len(content)} bytes")
        if connection.protocol.our_state is not h11.DONE:
            return  # "Connection: close", or HTTP/1.0
        connection.protocol.start_next_cycle()


async def serve_client(sock: Socket, address: Address, idle: float) -> None:
    connection = Connection(sock, idle)
    try:
        try:
            await answer_requests(connection)
        except Refused as refused:
            await connection.refuse(refused.status)
        except h11.RemoteProtocolError as error:
            await connection.refuse(error.error_status_hint)
        except curio.TaskTimeout:
            await connection.refuse(408)
    except (OSError, curio.TaskTimeout):
        pass  # The client has gone, or takes nothing: nobody is left to be told.


async def serve(
    host: str, port: int, client_task: Callable[[Socket, Address], Awaitable[None]]
) -> None:
    server = curio.create_server(host, port, client_task)
    print("Serving at http://{}:{}".format(*server.address))
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An HTTP/1.1 server that echoes.")
    parser.add_argument("port", nargs="?", type=int, default=8080)
    parser.add_argument("--idle", type=float, default=30, help="seconds to wait for a client (30)")
    options = parser.parse_args()

    async def serve_one(sock: Socket, address: Address) -> None:
        await serve_client(sock, address, options.idle)

    try:
        curio.run(serve, "127.0.0.1", options.port, serve_one)
    except KeyboardInterrupt:
        print("Server ended")
