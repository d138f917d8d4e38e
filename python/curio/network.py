"""Servers and connections."""

__all__ = [
    "Server",
    "create_server",
    "create_unix_server",
    "open_connection",
    "open_unix_connection",
    "run_server",
    "run_unix_server",
    "tcp_server",
    "tcp_server_socket",
    "unix_server",
    "unix_server_socket",
]

# The C module alone: its Python face would be the half of what `import curio` costs.
from _socket import AF_INET

from ._curio import network as simulated
from ._curio import operation
from .errors import CancelledError, TaskTimeout
from .sync import Event
from .task import current_task, spawn
from .time import timeout_after

#: How long, in seconds, a server gives a client to agree on TLS.
HANDSHAKE_LIMIT = 60.0


# --- connections ---


async def open_connection(
    host, port, *, ssl=None, source_addr=None, server_hostname=None, alpn_protocols=None
):
    """Connect to a TCP port; return the Socket.

    All addresses of `host` are tried, of both families in turn: the next one a quarter of a
    second after the last, or as soon as that fails; the first that answers is taken.
    `source_addr` is the `(host, port)` to connect from.

    `ssl`: True, or a context, for TLS, agreed upon on return. With `server_hostname`, the
    server's certificate must be valid for that name; with a context that checks names, `host`
    is it unless another is given. True without `server_hostname` is encrypted, but proves
    nothing about who answers. `alpn_protocols` lists the protocols to offer;
    a context that is handed in offers them from then on.

    Raises OSError if there is no connection, which tells of each address what was wrong;
    ValueError for `server_hostname` without `ssl`.

    Cancellation: the socket is closed.
    """
    context = _client_context(ssl, host, server_hostname, alpn_protocols)
    from .socket import create_connection

    sock = await create_connection((host, port), source_address=source_addr)
    return await _secure(sock, context, server_hostname, host)


async def open_unix_connection(path, *, ssl=None, server_hostname=None, alpn_protocols=None):
    """Connect to a Unix socket; return the Socket. `ssl` and the rest: as `open_connection`.

    Cancellation: the socket is closed.
    """
    context = _client_context(ssl, None, server_hostname, alpn_protocols)
    import socket as _socket

    from .io import Socket

    sock = Socket(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM))
    try:
        await sock.connect(path)
    except BaseException:
        sock._close()
        raise
    return await _secure(sock, context, server_hostname, None)


@operation
async def connect_any(addresses, source):
    """Connect to the first of several addresses that answers; return the descriptor."""


async def _connect(address, source_address):
    """A Socket that is connected to a host and a port."""
    import socket as _socket

    from .io import Socket
    from .socket import getaddrinfo

    host, port = address
    kind = _socket.SOCK_STREAM
    found = [info[4] for info in await getaddrinfo(host, port, type=kind)]
    source = None
    if source_address is not None:
        families = {_family(address) for address in found}
        name, number = source_address
        sources = [info[4] for info in await getaddrinfo(name or None, number, type=kind)]
        fitting = [source for source in sources if _family(source) in families] or sources
        source = fitting[0]
    fd = await connect_any(found, source)
    if simulated() is not None:
        from ._simulated import connected

        return connected(fd)
    sock = _socket.socket(fileno=fd)
    sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    return Socket(sock)


def _family(address):
    return 6 if ":" in address[0] else 4


def _client_context(ssl, host, server_hostname, alpn_protocols):
    """The context that a client is to use; None for no TLS."""
    if not ssl:
        if server_hostname is not None:
            raise ValueError("server_hostname is for TLS: it needs ssl=True or a context")
        if alpn_protocols is not None:
            raise ValueError("alpn_protocols is for TLS: it needs ssl=True or a context")
        return None
    if ssl is True:
        from .ssl import CERT_NONE, create_default_context

        ssl = create_default_context()
        if server_hostname is None:
            ssl.check_hostname = False
            ssl.verify_mode = CERT_NONE
    _check_context(ssl)
    if alpn_protocols is not None:
        ssl.set_alpn_protocols(alpn_protocols)
    return ssl


def _check_context(context):
    if not hasattr(context, "wrap_socket"):
        raise ValueError(f"ssl is a context, as curio.ssl makes them, not {context!r}")


def _check(client_task, ssl):
    if ssl is not None:
        _check_context(ssl)
    if not callable(client_task):
        raise TypeError(f"client_task is an async function, not {client_task!r}")


async def _secure(sock, context, server_hostname, host):
    if context is None:
        return sock
    from .ssl import secured

    if server_hostname is None and getattr(context, "check_hostname", False):
        server_hostname = host
    try:
        sock = secured(context, sock, server_side=False, server_hostname=server_hostname)
        await sock.do_handshake()
    except BaseException:
        sock._close()
        raise
    return sock


# --- servers ---


def tcp_server_socket(
    host, port, family=AF_INET, backlog=100, reuse_address=True, reuse_port=False
):
    """A listening Socket at a TCP address. `host`: '' or None for all interfaces; port 0 for any
    that is free, which `getsockname` tells then.

    Raises OSError if the address cannot be listened at.
    """
    if (network := simulated()) is not None:
        from ._simulated import listening

        return listening(network, host, port)
    import socket as _socket

    from .io import Socket

    listener = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        if reuse_address:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        # What streams gather needs no gathering by the system. Accepted sockets inherit it.
        listener.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        if reuse_port:
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        listener.bind((host or "", port))
        listener.listen(backlog)
        return Socket(listener)
    except BaseException:
        listener.close()
        raise


def unix_server_socket(path, backlog=100):
    """A listening Socket at a path, which must not exist; nobody removes it afterwards.

    Raises OSError if the path cannot be listened at.
    """
    import socket as _socket

    from .io import Socket

    listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        listening.bind(path)
        listening.listen(backlog)
        return Socket(listening)
    except BaseException:
        listening.close()
        raise


class Server:
    """A listening socket and what is to be done with its clients.

    `create_server` makes one. For each connection, `client_task(sock, addr)` runs in a task of
    its own, a child of the one that runs `serve_forever`. The client's socket is closed when
    its task ends, however it does. A task that crashes does not end the server::

        server = curio.create_server('', 0, client_task)
        print('Listening at', server.address)
        await server.serve_forever()
    """

    def __init__(self, sock, client_task, ssl=None):
        _check(client_task, ssl)
        self._sock = sock
        self._client_task = client_task
        self._ssl = ssl
        self._clients = {}  # a set in the order of arrival: what is done to them can be repeated
        self._ended = None
        self._stopping = False

    def __repr__(self):
        state = "closed" if self._sock.fileno() < 0 else f"at {self.address}"
        return f"<curio.Server {state}, {len(self._clients)} clients>"

    @property
    def sock(self):
        """The listening socket."""
        return self._sock

    @property
    def address(self):
        """Where it listens, as the socket tells it; port 0 is a true one here."""
        return self._sock.getsockname()

    @property
    def clients(self):
        """The tasks of the clients that are connected, in a new set."""
        return set(self._clients)

    async def serve_forever(self):
        """Accept connections until `cancel`, `stop` or a cancellation.

        Connections that fail before they are accepted are passed over. When the process has no
        descriptor left, that is logged once, waiting clients are turned away, and it goes on.

        Cancellation: the listening socket is closed; clients go on.
        """
        if self._ended is not None:
            raise RuntimeError("the server is serving already")
        if self._stopping:
            return
        self._ended = Event()
        function = getattr(self._client_task, "func", self._client_task)  # a partial's
        name = getattr(function, "__qualname__", None)
        try:
            while True:
                client, address = await self._sock._accept_always(self._report)
                serving = self._serve(client, address)
                # In a list of tasks, it is the user's.
                serving.__qualname__ = name or serving.__qualname__
                try:
                    await spawn(serving)
                except BaseException:
                    serving.close()  # Ctrl-C came first
                    raise
                del client, serving
        except OSError:
            if not self._stopping:
                raise
        finally:
            self._stopping = True
            self._sock._close()
            ended, self._ended = self._ended, None
            await ended.set()

    def _report(self, errno):
        import logging
        import os

        logging.getLogger("curio.network").error(
            "%r cannot accept: %s. Clients are turned away until it can.", self, os.strerror(errno)
        )

    async def _serve(self, client, address):
        task = await current_task()
        self._clients[task] = None
        try:
            if self._ssl is not None:
                client = await self._handshake(client, address)
                if client is None:
                    return
            async with client:
                await self._client_task(client, address)
        finally:
            self._clients.pop(task, None)

    async def _handshake(self, client, address):
        from .ssl import secured

        try:
            client = secured(self._ssl, client, server_side=True)
            await timeout_after(HANDSHAKE_LIMIT, client.do_handshake)
            return client
        except (OSError, TaskTimeout) as error:
            import logging

            client._close()
            why = "takes too long" if isinstance(error, TaskTimeout) else f"fails: {error}"
            logging.getLogger("curio.network").warning("TLS handshake with %s %s", address, why)
        except BaseException:
            client._close()
            raise

    async def cancel(self):
        """Stop accepting: `serve_forever` returns. Clients go on. Returns when it has ended."""
        self._stopping = True
        ended = self._ended
        self._sock._close()
        if ended is not None:
            await ended.wait()

    async def stop(self, seconds=None):
        """Stop accepting, and let clients finish, at most that long; None is without limit.

        Who is left then is cancelled, all at once. Returns when the last one has ended.

        Cancellation: it has stopped accepting; clients go on.
        """
        await self.cancel()
        try:
            await timeout_after(seconds, self._wait_for_clients)
        except TaskTimeout:
            await self._cancel_clients()

    async def _wait_for_clients(self):
        # One of them may be who asks: it ends by itself.
        while others := await self._other_clients():
            await others[0].wait()
            self._clients.pop(others[0], None)

    async def _other_clients(self):
        asking = await current_task()
        return [client for client in self._clients if client is not asking]

    async def _cancel_clients(self):
        clients = await self._other_clients()
        for client in clients:
            await client.cancel(blocking=False)
        for client in clients:
            await client.wait()


def create_server(
    host,
    port,
    client_task,
    *,
    family=AF_INET,
    backlog=100,
    ssl=None,
    reuse_address=True,
    reuse_port=False,
):
    """A Server at a TCP address, listening already. The arguments are those of `run_server`.

    Raises OSError if the address cannot be listened at.
    """
    _check(client_task, ssl)
    sock = tcp_server_socket(host, port, family, backlog, reuse_address, reuse_port)
    return Server(sock, client_task, ssl)


def create_unix_server(path, client_task, *, backlog=100, ssl=None):
    """A Server at a Unix socket's path, listening already.

    Raises OSError if the path cannot be listened at.
    """
    _check(client_task, ssl)
    return Server(unix_server_socket(path, backlog), client_task, ssl)


async def run_server(host, port=None, client_task=None, ssl=None, **options):
    """run_server(host, port, client_task, *, family=AF_INET, backlog=100, ssl=None,
    reuse_address=True)
    run_server(sock, client_task, ssl=None)

    Accept connections at an address, or from a listening socket, and run
    `client_task(sock, addr)` for each, in a new task.

    `host`: '' or None for all interfaces. `ssl`: a context, for TLS: a client's task begins
    with the handshake. A client's socket is closed when its task ends, however it does. The
    tasks are children of the task that called run_server. A task that crashes does not end
    the server. Never returns by itself.

    Raises OSError if the address cannot be listened at.

    Cancellation: the listening socket is closed; clients go on, but those of a socket that was
    handed in are cancelled.
    """
    if host is None or isinstance(host, str):
        await create_server(host, port, client_task, ssl=ssl, **options).serve_forever()
        return
    # With a socket, the client's task is the second argument.
    if options:
        raise TypeError(f"run_server() with a socket takes no {', '.join(options)}")
    if client_task is not None and ssl is None:
        ssl = client_task
    await _serve_and_cancel(Server(_ours(host), port, ssl))


def _ours(sock):
    from .io import Socket

    if isinstance(sock, Socket):
        return sock
    if not hasattr(sock, "setblocking"):
        raise TypeError(f"host is a name, None, or a listening socket, not {sock!r}")
    return Socket(sock)


async def run_unix_server(path, client_task, *, backlog=100, ssl=None):
    """As `run_server`, at a Unix socket's path, which nobody removes afterwards."""
    await create_unix_server(path, client_task, backlog=backlog, ssl=ssl).serve_forever()


async def tcp_server(
    host,
    port,
    client_task,
    *,
    family=AF_INET,
    backlog=100,
    ssl=None,
    reuse_address=True,
    reuse_port=False,
):
    """As `run_server`, but its clients are cancelled with it.

    Cancellation: the listening socket is closed, and the clients are cancelled, all at once.
    """
    server = create_server(
        host,
        port,
        client_task,
        family=family,
        backlog=backlog,
        ssl=ssl,
        reuse_address=reuse_address,
        reuse_port=reuse_port,
    )
    await _serve_and_cancel(server)


async def unix_server(path, client_task, *, backlog=100, ssl=None):
    """As `tcp_server`, at a Unix socket's path, which nobody removes afterwards."""
    await _serve_and_cancel(create_unix_server(path, client_task, backlog=backlog, ssl=ssl))


async def _serve_and_cancel(server):
    try:
        await server.serve_forever()
    except CancelledError:
        await server._cancel_clients()
        raise
