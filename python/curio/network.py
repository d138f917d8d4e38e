"""Servers."""

__all__ = ["run_server"]

# The C module alone: its Python face would be the half of what `import curio` costs.
from _socket import AF_INET

from .task import spawn


async def run_server(
    host, port, client_task, *, family=AF_INET, backlog=100, ssl=None, reuse_address=True
):
    """Accept connections at an address, and run `client_task(sock, addr)` for each, in a new task.

    `host`: '' or None for all interfaces. The socket is closed when its task ends,
    however it does. The tasks are children of the task that called run_server. A task
    that crashes does not end the server. Never returns by itself.

    Raises OSError if the address cannot be listened at.

    Cancellation: the listening socket is closed; clients go on.
    """
    if ssl is not None:
        raise NotImplementedError("run_server(ssl=...) is not supported by this version of curio")
    import socket as _socket

    from .io import Socket

    listening = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        if reuse_address:
            listening.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listening.bind((host or "", port))
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    async with Socket(listening) as server:
        while True:
            client, address = await server.accept()
            serving = _serve(client_task, client, address)
            # In a list of tasks, it is the user's.
            serving.__qualname__ = getattr(client_task, "__qualname__", serving.__qualname__)
            await spawn(serving)
            del client, serving


async def _serve(client_task, client, address):
    async with client:
        await client_task(client, address)
