"""Datagrams: a server that sends back what it gets, and a client that asks again.

Shows:  `recvfrom` and `sendto`, and what to do about datagrams that get lost: a timeout.
Start:  python examples/udp_echo.py
"""

import curio
from curio.io import Socket
from curio.socket import AF_INET, SOCK_DGRAM, socket


async def echo(sock: Socket) -> None:
    dropped = False
    while True:
        data, address = await sock.recvfrom(2000)
        if not dropped:
            print("Server: lost", data)
            dropped = True
            continue
        await sock.sendto(data, address)


async def ask(sock: Socket, address: tuple[str, int], question: bytes) -> bytes:
    for attempt in range(1, 6):
        await sock.sendto(question, address)
        try:
            answer, _ = await curio.timeout_after(0.2, sock.recvfrom(2000))
        except curio.TaskTimeout:
            print("Client: no answer to attempt", attempt)
        else:
            return answer
    raise TimeoutError("the server does not answer")


async def main() -> None:
    server, client = socket(AF_INET, SOCK_DGRAM), socket(AF_INET, SOCK_DGRAM)
    async with server, client:
        server.bind(("127.0.0.1", 0))
        serving = await curio.spawn(echo(server))
        print("Client: got", await ask(client, server.getsockname(), b"Hello"))
        await serving.cancel()


if __name__ == "__main__":
    curio.run(main)
