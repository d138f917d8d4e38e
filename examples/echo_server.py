"""The echo server again, with `run_server` doing what every server does.

Shows:  `run_server` binds, listens, accepts, gives each client a task of its own and
        closes the client's socket when that task ends, however it ends.
Start:  python examples/echo_server.py [PORT]        then, elsewhere:  nc localhost PORT
        Ctrl-C ends the server.
"""

import sys

import curio
from curio.io import Socket


async def echo_client(client: Socket, address: tuple[str, int]) -> None:
    print("Connection from", address)
    while data := await client.recv(65536):
        await client.sendall(data)
    print("Connection closed")


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 25000
    try:
        curio.run(curio.run_server("127.0.0.1", port, echo_client))
    except KeyboardInterrupt:
        print("Server ended")
