"""Sockets as tasks use them."""

__all__ = ["Socket"]

import errno
import os
import socket as _socket

from ._curio import SocketBase, operation
from .errors import AsyncOnlyError


def _pass_through(name):
    doc = getattr(_socket.socket, name).__doc__
    return property(lambda self: getattr(self._socket, name), doc=doc)


class Socket(SocketBase):
    """A socket whose blocking methods are awaited.

    `Socket(sock)` wraps a socket of the standard library, or an object that is like one,
    and makes it non-blocking. Methods that cannot block (`bind`, `listen`, `setsockopt` ...)
    and attributes are those of the wrapped socket.
    """

    __slots__ = ("__weakref__",)

    def __new__(cls, sock):
        # With __getattr__ in the class, every look-up of a method is slow. What a plain socket
        # has is listed instead.
        if cls is Socket and sock.__class__ is not _socket.socket:
            cls = _SocketLike
        return super().__new__(cls)

    def __init__(self, sock):
        sock.setblocking(False)
        self._attach(sock, sock.fileno(), sock.type == _socket.SOCK_STREAM)

    def __repr__(self):
        return f"<curio.Socket {self._socket!r}>"

    def _accepted(self, accepted):
        client, address = accepted
        return Socket(client), address

    @operation
    async def accept(self):
        """Wait for a connection; return its socket and the peer's address.

        Cancellation: no connection is lost.
        """

    @operation
    async def recv(self, maxsize, flags=0):
        """Receive what there is, at most `maxsize` bytes; b'' at the end of the stream.

        Raises ReadResourceBusy if another task is receiving.

        Cancellation: nothing is lost.
        """

    @operation
    async def send(self, data, flags=0):
        """Send what the system takes of `data`, a bytes-like object; return the count.

        Raises WriteResourceBusy if another task is sending.

        Cancellation: nothing was sent.
        """

    @operation
    async def sendall(self, data, flags=0):
        """Send all of `data`, a bytes-like object.

        Raises WriteResourceBusy if another task is sending.

        Cancellation: part may have been sent. The exception, like any other that comes
        from here, says how much as `bytes_sent`.
        """

    @operation
    async def _wait(self, write):
        """Wait until the socket, which has just refused, can be read, or written."""

    async def connect(self, address):
        """Connect to `address`. A host name in it is looked up, which may block.

        Raises OSError, with its errno, if there is no connection.

        Cancellation: the attempt may go on; close the socket.
        """
        error = await self.connect_ex(address)
        if error:
            raise OSError(error, os.strerror(error))

    async def connect_ex(self, address):
        """As `connect`, but return the error's number, 0 for none."""
        error = self._socket.connect_ex(address)
        if error == errno.EINPROGRESS:
            await self._wait(True)
            error = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        return error

    async def shutdown(self, how):
        """End one direction (SHUT_RD, SHUT_WR) or both: the peer sees the end of the stream."""
        self._socket.shutdown(how)

    async def close(self):
        """Close the socket. A task that is waiting on it gets an OSError. Twice is fine."""
        self._close()

    def _close(self):
        self._detach()
        self._socket.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        self._close()

    def __enter__(self):
        raise AsyncOnlyError("a curio socket is entered with 'async with'")

    def __exit__(self, *exception):
        raise AsyncOnlyError("a curio socket is entered with 'async with'")

    def dup(self):
        """A second socket for the same connection, with a descriptor of its own."""
        return Socket(self._socket.dup())

    def detach(self):
        """Give the descriptor away: close the object without it, and return its number."""
        self._detach()
        return self._socket.detach()

    # What cannot block is the wrapped socket's.
    bind = _pass_through("bind")
    family = _pass_through("family")
    fileno = _pass_through("fileno")
    get_inheritable = _pass_through("get_inheritable")
    getpeername = _pass_through("getpeername")
    getsockname = _pass_through("getsockname")
    getsockopt = _pass_through("getsockopt")
    listen = _pass_through("listen")
    proto = _pass_through("proto")
    set_inheritable = _pass_through("set_inheritable")
    setsockopt = _pass_through("setsockopt")
    type = _pass_through("type")

    def settimeout(self, seconds):
        """Not supported: raises RuntimeError; `curio.timeout_after` limits any operation."""
        raise RuntimeError("a curio socket has no timeout of its own: use curio.timeout_after()")

    def gettimeout(self):
        """None: it has no timeout of its own."""
        return None


class _SocketLike(Socket):
    """Over something that is like a socket, and may have more attributes."""

    __slots__ = ()

    def __getattr__(self, name):
        return getattr(self._socket, name)


_SocketLike.__name__ = _SocketLike.__qualname__ = "Socket"
