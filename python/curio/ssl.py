"""The standard library's `ssl`, whose contexts make sockets for tasks.

Names and arguments are those of the standard library. A context's `wrap_socket` gives a socket
of Curio's; awaiting it does the handshake.
"""

import ssl as _ssl
from contextlib import contextmanager
from types import ModuleType

from .io import Socket

# The module has no list of its names: they are those without an underscore that are no modules, and
# not what it has imported for itself.
__all__ = [
    name
    for name, value in vars(_ssl).items()
    if not name.startswith("_")
    and not isinstance(value, ModuleType)
    and name not in {"AF_INET", "SOCK_STREAM", "SOL_SOCKET", "SO_TYPE", "namedtuple", "socket"}
]

globals().update({name: getattr(_ssl, name) for name in __all__})


class SSLContext(_ssl.SSLContext):
    """How to talk TLS: certificates, keys, protocols. `wrap_socket` gives a Socket of Curio's."""

    def wrap_socket(
        self,
        sock,
        server_side=False,
        do_handshake_on_connect=True,
        suppress_ragged_eofs=True,
        server_hostname=None,
        session=None,
    ):
        """A socket that talks TLS over `sock`, ours or the standard library's, which it takes over.

        Awaiting the result does the handshake, if the socket is connected and
        `do_handshake_on_connect` is true, and gives the socket. Without, the first operation does
        it.
        """
        return TLSSocket(
            self,
            sock,
            server_side,
            do_handshake_on_connect,
            server_hostname,
            session,
            suppress_ragged_eofs,
        )


def create_default_context(
    purpose=_ssl.Purpose.SERVER_AUTH, *, cafile=None, capath=None, cadata=None
):
    """A context with safe settings, for a client (SERVER_AUTH) or a server (CLIENT_AUTH)."""
    context = _ssl.create_default_context(purpose, cafile=cafile, capath=capath, cadata=cadata)
    context.__class__ = SSLContext
    return context


def wrap_socket(
    sock,
    keyfile=None,
    certfile=None,
    server_side=False,
    cert_reqs=_ssl.CERT_NONE,
    ssl_version=_ssl.PROTOCOL_TLS,
    ca_certs=None,
    do_handshake_on_connect=True,
    suppress_ragged_eofs=True,
    ciphers=None,
):
    """A socket that talks TLS over `sock`, with a context made for it alone.

    Nothing is checked unless `cert_reqs` and `ca_certs` say so. Await it for the handshake.
    """
    if server_side and not certfile:
        raise ValueError("certfile must be specified for server-side operations")
    if ssl_version == _ssl.PROTOCOL_TLS:
        ssl_version = _ssl.PROTOCOL_TLS_SERVER if server_side else _ssl.PROTOCOL_TLS_CLIENT
    context = SSLContext(ssl_version)
    context.check_hostname = False
    context.verify_mode = cert_reqs
    if ca_certs:
        context.load_verify_locations(ca_certs)
    if certfile:
        context.load_cert_chain(certfile, keyfile)
    if ciphers:
        context.set_ciphers(ciphers)
    return context.wrap_socket(sock, server_side, do_handshake_on_connect)


async def get_server_certificate(addr, ssl_version=_ssl.PROTOCOL_TLS_CLIENT, ca_certs=None):
    """The certificate of the server at `addr`, as PEM text. With `ca_certs`, it is verified.

    Cancellation: the connection is closed.
    """
    from .network import open_connection

    host, port = addr
    context = SSLContext(ssl_version)
    context.check_hostname = False
    context.verify_mode = _ssl.CERT_REQUIRED if ca_certs else _ssl.CERT_NONE
    if ca_certs:
        context.load_verify_locations(ca_certs)
    # Told the name: a server may have several certificates.
    sock = await open_connection(host, port, ssl=context, server_hostname=host)
    async with sock:
        return _ssl.DER_cert_to_PEM_cert(sock.getpeercert(True))


def secured(context, sock, *, server_side, server_hostname=None):
    """A socket that talks TLS over `sock`, by any context that can wrap one."""
    if isinstance(context, _ssl.SSLContext):
        return TLSSocket(context, sock, server_side, True, server_hostname)
    raw = sock._socket
    sock._detach()
    options = {} if server_side else {"server_hostname": server_hostname}
    return Socket(
        context.wrap_socket(raw, server_side=server_side, do_handshake_on_connect=False, **options)
    )


def _of_tls(name):
    doc = getattr(_ssl.SSLObject, name).__doc__
    return property(lambda self: getattr(self._tls, name), doc=doc)


def _not_with_tls(name):
    async def refuse(self, *args, **kwargs):
        raise ValueError(f"{name}() is not allowed with TLS, which is a stream of bytes")

    refuse.__name__ = name
    refuse.__qualname__ = f"Socket.{name}"
    refuse.__doc__ = "Not possible: TLS is a stream of bytes."
    return refuse


class TLSSocket(Socket):
    """A socket that talks TLS. It is made by `SSLContext.wrap_socket`.

    One task may read while another writes. Awaiting the socket does the handshake.
    """

    __slots__ = ("_context", "_incoming", "_on_connect", "_outgoing", "_server_side", "_tls")

    def __new__(cls, context, sock, *args, **kwargs):
        return super().__new__(cls, sock)

    def __init__(
        self,
        context,
        sock,
        server_side=False,
        do_handshake_on_connect=True,
        server_hostname=None,
        session=None,
        suppress_ragged_eofs=True,
    ):
        raw = sock._socket if isinstance(sock, Socket) else sock
        self._context, self._server_side = context, server_side
        self._on_connect = do_handshake_on_connect
        self._incoming, self._outgoing = _ssl.MemoryBIO(), _ssl.MemoryBIO()
        self._tls = _ssl.SSLContext.wrap_bio(
            context, self._incoming, self._outgoing, server_side, server_hostname, session
        )
        if isinstance(sock, Socket):
            if sock._unsent:
                raise ValueError("streams have written to the socket: flush them before TLS begins")
            sock._detach()
        raw.setblocking(False)
        # The object below does the same with fewer steps.
        tls = getattr(self._tls, "_sslobj", self._tls)
        self._attach(
            raw, raw.fileno(), "tls", (tls, self._incoming, self._outgoing, suppress_ragged_eofs)
        )

    def __await__(self):
        return self._when_awaited().__await__()

    async def _when_awaited(self):
        if self._on_connect:
            try:
                self._socket.getpeername()
            except OSError:
                return self  # Not connected: `connect` does it.
            await self.do_handshake()
        return self

    async def do_handshake(self):
        """Agree with the peer on how to talk, and check who it is. Once is enough.

        Raises ssl.SSLError, an OSError, if there is no agreement.

        Cancellation: close the socket.
        """
        await self._converse("do_handshake")

    async def unwrap(self):
        """End TLS in good order, and return a plain Socket over the same connection.

        Cancellation: close the socket.
        """
        await self._converse("shutdown")
        raw = self._socket
        self._detach()
        return Socket(raw)

    async def connect_ex(self, address):
        """As `connect`, but return the error's number, 0 for none."""
        error = await super().connect_ex(address)
        if not error and self._on_connect:
            await self.do_handshake()
        return error

    def _accepted(self, accepted):
        client, address = accepted
        context, on_connect = self._context, self._on_connect
        return TLSSocket(context, client, True, on_connect), address

    async def recv_into(self, buffer, nbytes=0, flags=0):
        """Receive into a writable buffer, at most `nbytes` (0: its length); return the count.

        Cancellation: nothing is lost.
        """
        view = memoryview(buffer).cast("B")
        data = await self.recv(min(nbytes, len(view)) if nbytes else len(view), flags)
        view[: len(data)] = data
        return len(data)

    recvfrom = _not_with_tls("recvfrom")
    recvfrom_into = _not_with_tls("recvfrom_into")
    recvmsg = _not_with_tls("recvmsg")
    recvmsg_into = _not_with_tls("recvmsg_into")
    sendto = _not_with_tls("sendto")
    sendmsg = _not_with_tls("sendmsg")

    def dup(self):
        """Not possible: one connection is one conversation. Raises NotImplementedError."""
        raise NotImplementedError("a socket with TLS cannot be duplicated")

    @contextmanager
    def blocking(self):
        """An object with the methods of a blocking socket, for code that knows nothing of tasks."""
        with super().blocking() as raw:
            try:
                yield _BlockingTLS(self, raw)
            finally:
                self._look_again()

    @property
    def context(self):
        """The context that it was made with."""
        return self._context

    cipher = _of_tls("cipher")
    compression = _of_tls("compression")
    get_channel_binding = _of_tls("get_channel_binding")
    getpeercert = _of_tls("getpeercert")
    pending = _of_tls("pending")
    selected_alpn_protocol = _of_tls("selected_alpn_protocol")
    server_hostname = _of_tls("server_hostname")
    server_side = _of_tls("server_side")
    session = _of_tls("session")
    session_reused = _of_tls("session_reused")
    shared_ciphers = _of_tls("shared_ciphers")
    version = _of_tls("version")


class _BlockingTLS:
    """A TLS connection as blocking code uses it."""

    def __init__(self, sock, raw):
        self._sock, self._raw = sock, raw

    def _do(self, method, *args):
        sock = self._sock
        while True:
            try:
                result = method(*args)
            except _ssl.SSLWantReadError:
                self._send()
                if data := self._raw.recv(65536):
                    sock._incoming.write(data)
                else:
                    sock._incoming.write_eof()
            else:
                self._send()
                return result

    def _send(self):
        if data := self._sock._outgoing.read():
            self._raw.sendall(data)

    def do_handshake(self):
        self._do(self._sock._tls.do_handshake)

    def recv(self, bufsize, flags=0):
        try:
            return self._do(self._sock._tls.read, bufsize)
        except (_ssl.SSLZeroReturnError, _ssl.SSLEOFError):
            return b""

    read = recv

    def recv_into(self, buffer, nbytes=0, flags=0):
        view = memoryview(buffer).cast("B")
        data = self.recv(min(nbytes, len(view)) if nbytes else len(view))
        view[: len(data)] = data
        return len(data)

    def send(self, data, flags=0):
        return self._do(self._sock._tls.write, data)

    write = send

    def sendall(self, data, flags=0):
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[self.send(rest) :]

    def __getattr__(self, name):
        return getattr(self._sock._tls if hasattr(self._sock._tls, name) else self._raw, name)
