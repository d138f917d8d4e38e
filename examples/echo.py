"""An echo server made of plain sockets: one task accepts, one task serves each client.

Shows:  `curio.socket`, the standard module with `await` in front of what can block.
Start:  python examples/echo.py [PORT]        then, elsewhere:  nc localhost PORT
        Port 0 lets the system choose; Ctrl-C ends the server.
"""

import sys

import curio
from curio import socket
from curio.io import Socket

Address = tuple[str, int]


async def echo_client(client: Socket, address: Address) -> None:
    print("Connection from", address)
    async with client:
        while data := await client.recv(65536):
            await client.sendall(data)
    print("Connection closed")


async def echo_server(address: Address) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.listen(100)
    print("Listening at", sock.getsockname())
    async with sock:
        while True:
            client, address = await sock.accept()
            await curio.spawn(echo_client(client, address))


if __name__ == "__main__":
    try:
        curio.run(echo_server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 25000)))
    except KeyboardInterrupt:
        print("Server ended")
