"""An HTTP/2 server: what is sent to it, it sends back while it is still coming.

Shows:  many requests at once in one connection, each in a task of its own. The library h2
        knows HTTP/2 and does no I/O. A task that may not send more, because its client has not
        taken enough yet, waits for an event; a request that the client gives up is a task
        that is cancelled.
Start:  pip install h2
        python examples/http2_server.py [PORT] [--cert FILE --key FILE] [--idle SECONDS]
        then, elsewhere:
            curl -i --http2-prior-knowledge http://127.0.0.1:8080/hello
            curl -T FILE -o COPY --http2-prior-knowledge http://127.0.0.1:8080/
        With a certificate and its key the server talks TLS, as browsers want it:
            openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost \\
                -keyout key.pem -out cert.pem
            curl -i -k https://127.0.0.1:8080/hello
        Port 0 lets the system choose; Ctrl-C ends the server.
"""

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable

import curio
import h2.config
import h2.connection
import h2.events
import h2.exceptions
from curio import socket, ssl
from curio.io import Socket

LINGER = 2  # seconds

Address = tuple[str, int]


class Stream:
    """A request and its response. The pieces of its body arrive in a queue, None at the end."""

    def __init__(self, number: int, headers: dict[bytes, bytes]) -> None:
        self.number = number
        self.headers = headers
        self.pieces = curio.Queue[h2.events.DataReceived | None]()
        self.unread = 0  # bytes that the client counts as sent, and we have not dealt with
        self.task: curio.Task[None]


class Connection:
    """HTTP/2 with one client.

    One task receives and gives the events to the streams' tasks, one task sends, and each
    stream has a task that answers it.
    """

    def __init__(self, sock: Socket, idle: float) -> None:
        self.sock = sock
        self.idle = idle
        self.protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.streams: dict[int, Stream] = {}
        self.something_to_send = curio.Event()
        self.sent = curio.Event()  # set when the next lot has been sent
        self.window_opened = curio.Event()

    # --- the task of the connection, which receives ---

    async def run(self) -> None:
        self.protocol.initiate_connection()
        sender = await curio.spawn(self.send_all)
        try:
            await self.something_to_send.set()
            await self.receive_all()
            # What is wrong, if anything is, h2 has got ready to be sent.
            await curio.ignore_after(LINGER, self.flush)
        finally:
            for stream in list(self.streams.values()):
                await stream.task.cancel()
            await sender.cancel()

    async def receive_all(self) -> None:
        """Hand out what the client sends, until it has no more to say."""
        try:
            while data := await curio.timeout_after(self.idle, self.sock.recv, 65536):
                for event in self.protocol.receive_data(data):
                    if isinstance(event, h2.events.ConnectionTerminated):
                        return
                    await self.handle(event)
                # Acknowledgements, for example.
                await self.something_to_send.set()
        except h2.exceptions.ProtocolError:
            pass
        except curio.TaskTimeout:
            self.protocol.close_connection()

    async def handle(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0))
        if isinstance(event, h2.events.RequestReceived):
            stream = Stream(event.stream_id, dict(event.headers))
            self.streams[stream.number] = stream
            stream.task = await curio.spawn(self.answer, stream)
        elif isinstance(event, h2.events.DataReceived):
            if stream:
                stream.unread += event.flow_controlled_length
                await stream.pieces.put(event)
            else:  # It has been answered already.
                self.protocol.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
        elif isinstance(event, h2.events.StreamEnded) and stream:
            await stream.pieces.put(None)
        elif isinstance(event, h2.events.StreamReset) and stream:
            await stream.task.cancel()
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            await self.window_opened.set()

    # --- the task that sends ---

    async def send_all(self) -> None:
        """Send what h2 has for the client.

        Nobody else does: a stream's task may be cancelled at any time, and half a frame would
        be the end of all streams.
        """
        try:
            while True:
                await self.something_to_send.wait()
                self.something_to_send.clear()
                sent, self.sent = self.sent, curio.Event()
                await self.sock.sendall(self.protocol.data_to_send())
                await sent.set()
        except ConnectionError:
            pass  # The task that receives is told so, too.

    async def flush(self) -> None:
        """Wait until everything up to now has been sent."""
        sent = self.sent
        await self.something_to_send.set()
        await sent.wait()

    # --- the tasks of the streams ---

    async def answer(self, stream: Stream) -> None:
        try:
            await respond(self, stream)
        except h2.exceptions.ProtocolError:
            pass  # The client gave it up, and before we could be cancelled we went on with it.
        finally:
            # Other streams share the connection's window.
            self.protocol.acknowledge_received_data(stream.unread, stream.number)
            del self.streams[stream.number]
            await self.something_to_send.set()

    async def receive_body(self, stream: Stream) -> AsyncIterator[bytes]:
        """The pieces of a request's body.

        The client is allowed to send more when a piece has been dealt with, not when it has
        come: so at most a window full waits here.
        """
        while piece := await stream.pieces.get():
            yield piece.data
            stream.unread -= piece.flow_controlled_length
            self.protocol.acknowledge_received_data(piece.flow_controlled_length, stream.number)
            await self.something_to_send.set()

    def send_headers(self, stream: Stream, status: int, *headers: tuple[str, str | bytes]) -> None:
        self.protocol.send_headers(stream.number, [(":status", str(status)), *headers])

    async def send_body(self, stream: Stream, data: bytes) -> None:
        """Send part of a response's body, as fast as the client takes it."""
        rest = memoryview(data)
        while rest:
            window = self.protocol.local_flow_control_window(stream.number)
            if window <= 0:
                self.window_opened.clear()
                await self.window_opened.wait()
                continue
            size = min(window, self.protocol.max_outbound_frame_size)
            self.protocol.send_data(stream.number, bytes(rest[:size]))
            rest = rest[size:]
            # One frame, and it is the other streams' turn.
            await self.flush()

    async def send_end(self, stream: Stream) -> None:
        self.protocol.end_stream(stream.number)
        await self.flush()


async def respond(connection: Connection, stream: Stream) -> None:
    """Answer a request."""
    method, path = stream.headers[b":method"], stream.headers.get(b":path", b"")
    if method in (b"GET", b"HEAD"):
        text = b"You asked for " + path + b"\n"
        length = ("content-length", str(len(text)))
        connection.send_headers(stream, 200, ("content-type", "text/plain"), length)
        if method == b"GET":
            await connection.send_body(stream, text)
    elif method in (b"POST", b"PUT"):
        content_type = stream.headers.get(b"content-type", b"application/octet-stream")
        connection.send_headers(stream, 200, ("content-type", content_type))
        async for data in connection.receive_body(stream):
            await connection.send_body(stream, data)
    else:
        connection.send_headers(stream, 501)
    await connection.send_end(stream)
    print(method.decode("latin-1"), path.decode("latin-1"))


async def serve_client(sock: Socket, address: Address, idle: float) -> None:
    # Without, a small frame would wait until the client has confirmed the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await Connection(sock, idle).run()
    except ConnectionError:
        pass  # The client has gone.


async def serve(
    host: str,
    port: int,
    client_task: Callable[[Socket, Address], Awaitable[None]],
    tls: ssl.SSLContext | None,
) -> None:
    server = curio.create_server(host, port, client_task, ssl=tls)
    print("Serving at {}://{}:{}".format("https" if tls else "http", *server.address))
    await server.serve_forever()


def make_tls(certificate: str, key: str) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.load_cert_chain(certificate, key)
    tls.set_alpn_protocols(["h2"])
    return tls


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An HTTP/2 server that echoes.")
    parser.add_argument("port", nargs="?", type=int, default=8080)
    parser.add_argument("--cert", help="the server's certificate, for TLS")
    parser.add_argument("--key", help="the certificate's private key")
    parser.add_argument("--idle", type=float, default=60, help="seconds to wait for a client (60)")
    options = parser.parse_args()

    async def serve_one(sock: Socket, address: Address) -> None:
        await serve_client(sock, address, options.idle)

    try:
        tls = make_tls(options.cert, options.key) if options.cert else None
        curio.run(serve, "127.0.0.1", options.port, serve_one, tls)
    except KeyboardInterrupt:
        print("Server ended")
