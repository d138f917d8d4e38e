"""An HTTP/1.1 client: fetches all its URLs at once, and says how large they are.

Shows:  a task for each URL, joined in their order; a limit on the time of each. The library
        h11 knows HTTP and does no I/O: the sockets are curio's.
Start:  pip install h11
        python examples/http_client.py [--limit SECONDS] URL ...      for example, with
            python examples/http_server.py                            at work elsewhere:
            python examples/http_client.py http://127.0.0.1:8080/one http://127.0.0.1:8080/two
"""

import argparse
import sys
import urllib.parse
from typing import Any

import curio
import h11
from curio.io import Socket


async def receive(sock: Socket, protocol: h11.Connection) -> Any:
    """The next event of the protocol, as soon as enough has come for one."""
    while (event := protocol.next_event()) is h11.NEED_DATA:
        protocol.receive_data(await sock.recv(65536))
    return event


class BadURL(Exception):
    pass


def parse(url: str) -> tuple[str, int, h11.Request]:
    """The host and port of a URL, and the request to make there."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise BadURL(error) from None
    if parts.scheme != "http" or not host:
        raise BadURL("not an address that begins with http://")
    request = h11.Request(
        method="GET",
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers=[("Host", parts.netloc.rpartition("@")[2]), ("Connection", "close")],
    )
    return host, port, request


async def get(url: str) -> tuple[h11.Response, bytes]:
    """Fetch a URL; return the response's head and its body."""
    host, port, request = parse(url)
    protocol = h11.Connection(h11.CLIENT)
    async with await curio.open_connection(host, port) as sock:
        await sock.sendall(protocol.send(request) + protocol.send(h11.EndOfMessage()))
        response = await receive(sock, protocol)
        while type(response) is h11.InformationalResponse:
            response = await receive(sock, protocol)
        body = bytearray()
        while type(event := await receive(sock, protocol)) is h11.Data:
            body += event.data
    return response, bytes(body)


async def describe(url: str, limit: float) -> tuple[bool, str]:
    """Fetch a URL; return whether that went well, and what to say about it."""
    try:
        response, body = await curio.timeout_after(limit, get(url))
    except curio.TaskTimeout:
        return False, f"{url}: no answer in {limit:g} seconds"
    except (BadURL, OSError, UnicodeError, h11.ProtocolError) as error:
        return False, f"{url}: {error}"
    reason = response.reason.decode("latin-1")
    return True, f"{url}: {response.status_code} {reason}, {len(body)} bytes"


async def main(urls: list[str], limit: float) -> int:
    tasks = [await curio.spawn(describe(url, limit)) for url in urls]
    failures = 0
    for task in tasks:
        fine, text = await task.join()
        failures += not fine
        print(text)
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fetches URLs, all at once.")
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("--limit", type=float, default=30, help="seconds for each (30)")
    options = parser.parse_args()
    sys.exit(curio.run(main, options.urls, options.limit))
