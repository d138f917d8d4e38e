"""An echo server and its client with TLS.

Shows:  contexts of the standard library, a handshake in the client's task, a certificate that
        is checked.
Start:  openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 \\
            -subj /CN=localhost -addext subjectAltName=DNS:localhost
        python examples/tls_echo.py cert.pem key.pem
"""

import sys

import curio
from curio import ssl
from curio.io import Socket


async def echo(client: Socket, address: tuple[str, int]) -> None:
    async for line in client.as_stream():
        await client.sendall(line)


async def main(certificate: str, key: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = curio.create_server("127.0.0.1", 0, echo, ssl=context)
    serving = await curio.spawn(server.serve_forever())

    # The certificate is its own authority.
    trust = ssl.create_default_context(cafile=certificate)
    sock = await curio.open_connection(*server.address, ssl=trust, server_hostname="localhost")
    async with sock:
        print("Talking", sock.version())
        await sock.sendall(b"Hello\n")
        print("Echo:", await sock.recv(100))

    await server.stop(seconds=1)
    await serving.join()


if __name__ == "__main__":
    curio.run(main(*sys.argv[1:3]))
