"""Sockets and streams, as tasks use them."""

__all__ = ["FileStream", "Socket", "SocketStream", "Stream", "StreamBase"]

import errno
import io as _io
import os
import socket as _socket
from contextlib import contextmanager

from . import _curio
from ._curio import SocketBase, operation
from ._plain import each, enter, leave
from .time import ignore_after


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
        if sock.__class__ is not _socket.socket:
            kind = "methods"
        elif sock.type == _socket.SOCK_STREAM:
            kind = "stream"
        elif sock.family == _socket.AF_INET and sock.type == _socket.SOCK_DGRAM:
            kind = "udp"
        else:
            kind = "datagrams"
        self._attach(sock, sock.fileno(), kind, ())

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
    async def _accept_always(self, report):
        """As `accept`, for a server, whom no client and no shortage of descriptors ends."""

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
    async def recv_into(self, buffer, nbytes=0, flags=0):
        """Receive into a writable buffer, at most `nbytes` (0: its length); return the count.

        Cancellation: nothing is lost.
        """

    @operation
    async def recvfrom(self, bufsize, flags=0):
        """Receive a datagram, at most `bufsize` bytes of it; return it with the sender's address.

        Cancellation: nothing is lost.
        """

    @operation
    async def recvfrom_into(self, buffer, nbytes=0, flags=0):
        """As `recvfrom`, into a writable buffer; return the count and the sender's address.

        Cancellation: nothing is lost.
        """

    @operation
    async def recvmsg(self, bufsize, ancbufsize=0, flags=0):
        """Receive data and ancillary data; return `(data, ancdata, flags, address)`.

        Cancellation: nothing is lost.
        """

    @operation
    async def recvmsg_into(self, buffers, ancbufsize=0, flags=0):
        """As `recvmsg`, into writable buffers; return `(count, ancdata, flags, address)`.

        Cancellation: nothing is lost.
        """

    @operation
    async def sendto(self, data, *flags_and_address):
        """sendto(data, [flags,] address): send a datagram; return the count.

        Cancellation: nothing was sent.
        """

    @operation
    async def sendmsg(self, buffers, *ancdata_flags_address):
        """sendmsg(buffers[, ancdata[, flags[, address]]]): send data and ancillary data.

        Returns the count. Cancellation: nothing was sent.
        """

    @operation
    async def do_handshake(self):
        """Agree with the peer on how to talk, for a socket that has TLS."""

    @operation
    async def _converse(self, method):
        """Do the TLS object's `method`, which takes messages both ways."""

    @operation
    async def _flush(self):
        """Wait until what streams over the socket have written has been sent."""

    @operation
    async def _wait(self, write):
        """Wait until the socket, which has just refused, can be read, or written."""

    async def connect(self, address):
        """Connect to `address`. A host name in it is looked up first, without blocking.

        Raises OSError, with its errno, if there is no connection.

        Cancellation: the attempt may go on; close the socket.
        """
        error = await self.connect_ex(address)
        if error:
            raise OSError(error, os.strerror(error))

    async def connect_ex(self, address):
        """As `connect`, but return the error's number, 0 for none."""
        if self.family in (_socket.AF_INET, _socket.AF_INET6):
            address = await _resolved(self.family, self.type, address)
        error = self._socket.connect_ex(address)
        if error == errno.EINPROGRESS:
            await self._wait(True)
            error = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        return error

    async def shutdown(self, how):
        """End one direction (SHUT_RD, SHUT_WR) or both: the peer sees the end of the stream.

        What streams over the socket have written is sent before.
        """
        if self._unsent and how != _socket.SHUT_RD:
            await self._flush()
        self._socket.shutdown(how)

    async def close(self):
        """Close the socket. A task that is waiting on it gets an OSError. Twice is fine.

        What streams over the socket have written is sent before, for as long as the peer takes
        it.

        Cancellation: it is closed.
        """
        try:
            if self._unsent:
                await ignore_after(LINGER, self._flush)
        except OSError:
            pass  # The peer has gone: nobody is left to take it.
        finally:
            self._close()

    def _close(self):
        self._detach()
        self._socket.close()

    # --- streams ---

    def as_stream(self):
        """A SocketStream over the socket, for both directions; closing it closes the socket."""
        return SocketStream(self)

    def make_streams(self, buffering=0):
        """Two streams over the socket, `(reader, writer)`.

        They are the socket's: it is closed by itself, and they end with it. `buffering` is
        accepted for the sake of the standard library's `makefile`.
        """
        return _SharedStream(self), _SharedStream(self)

    def makefile(self, mode="r", buffering=0, *, encoding=None, errors=None, newline=None):
        """A stream over the socket. Only binary modes, such as 'rb', else RuntimeError."""
        if "b" not in mode or not set(mode) <= set("rwb"):
            raise RuntimeError(
                f"makefile() makes binary streams: 'rb', 'wb' or 'rwb', not {mode!r}"
            )
        if encoding is not None or errors is not None or newline is not None:
            raise RuntimeError(
                "makefile() makes binary streams, which have no encoding and newlines"
            )
        return _SharedStream(self)

    @contextmanager
    def blocking(self):
        """The wrapped socket, in blocking mode: for code that knows nothing of tasks.

        On leaving, it is non-blocking again. What it does inside stops all tasks, unless it is
        done in a thread::

            with sock.blocking() as raw:
                await curio.run_blocking(raw.sendall, data)
        """
        sock = self._socket
        sock.setblocking(True)
        try:
            self._flush_now()
            yield sock
        finally:
            if sock.fileno() >= 0:
                sock.setblocking(False)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        if self._unsent:
            await self.close()
        else:
            self._close()

    def __enter__(self):
        return enter(self, "a curio socket")

    def __exit__(self, *exception):
        return leave(self, "a curio socket", exception)

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


# How long, in seconds, a socket that is closed tries to send what was written.
LINGER = 5.0


async def _resolved(family, type, address):
    """`address` with its host as a number, so that the system need not look it up."""
    from .socket import _is_number, getaddrinfo

    if not isinstance(address, tuple) or len(address) < 2:
        return address
    host, port, *rest = address
    if not isinstance(host, str) or not host or _is_number(host) or not isinstance(port, int):
        return address
    found = await getaddrinfo(host, port, family, type)
    return (found[0][4][0], port, *rest) if rest else found[0][4]


class _SocketLike(Socket):
    """Over something that is like a socket, and may have more attributes."""

    __slots__ = ()

    async def do_handshake(self):
        """Agree with the peer on how to talk, for a socket that has TLS."""
        import ssl

        while True:
            try:
                return self._socket.do_handshake()
            except ssl.SSLWantReadError:
                await self._wait(False)
            except ssl.SSLWantWriteError:
                await self._wait(True)

    def __getattr__(self, name):
        return getattr(self._socket, name)


_SocketLike.__name__ = _SocketLike.__qualname__ = "Socket"


class StreamBase(_curio.StreamBase):
    """Bytes that come and go: read by lines or blocks; small writes are gathered.

    What was received and not asked for yet is kept for the next call. A task may read while
    another writes; a second reader gets ReadResourceBusy, a second writer WriteResourceBusy.

    `limit` is how long a line may be; `closed` says whether the stream is closed.
    """

    __slots__ = ("__weakref__",)

    @operation
    async def read(self, maxbytes=-1):
        """Read what there is, at most `maxbytes`; wait if there is nothing. b'' is the end.

        -1 is no limit: what is there now, not what will come until the end (see `readall`).

        Cancellation: nothing is lost.
        """

    @operation
    async def readline(self):
        """Read a line, with its newline; the last one may have none. b'' is the end.

        Raises ValueError if the line is longer than the stream's `limit`; it can still be read
        otherwise.

        Cancellation: nothing is lost; what has come is there for the next call.
        """

    @operation
    async def readlines(self):
        """Read all lines until the end of the stream; return them in a list.

        Cancellation: the exception has the lines that were read, as `lines_read`.
        """

    @operation
    async def readall(self):
        """Read everything until the end of the stream.

        Cancellation: the exception has what was read, as `bytes_read`.
        """

    @operation
    async def read_exactly(self, n):
        """Read exactly `n` bytes.

        Raises EOFError if the stream ends before; it has what was read, as `bytes_read`.

        Cancellation: the exception has what was read, as `bytes_read`.
        """

    @operation
    async def readinto(self, buffer):
        """Read into a writable buffer what there is; return the count. 0 is the end.

        Cancellation: nothing is lost.
        """

    @operation
    async def write(self, data):
        """Write all of `data`, a bytes-like object; return its length.

        What is small is sent together with what the task writes next, when it waits for
        something, or ends; see `flush`.

        Cancellation: part may be written; how much, the exception says as `bytes_written`.
        """

    @operation
    async def writelines(self, lines):
        """Write bytes-like objects, one after the other.

        Cancellation: the exception says how many bytes were written, as `bytes_written`.
        """

    @operation
    async def flush(self):
        """Wait until all that was written has been handed to the system.

        Cancellation: nothing is lost; it will be sent.
        """

    @operation
    async def __anext__(self):
        """The next line."""

    def __aiter__(self):
        return self

    async def close(self):
        """Flush, and close. Twice is fine.

        Raises OSError if what was written cannot be sent; it is closed all the same.

        Cancellation: it is closed, and what was not sent is lost.
        """
        if self.closed:
            return
        try:
            if self._pending:
                await self.flush()
        finally:
            await self._close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        await self.close()

    def __enter__(self):
        return enter(self, "a curio stream")

    def __exit__(self, *exception):
        return leave(self, "a curio stream", exception)

    def __iter__(self):
        return each(self, "the lines of a curio stream")

    @contextmanager
    def blocking(self):
        """The file below the stream, in blocking mode: for code that knows nothing of tasks.

        Raises OSError if the stream has received bytes that nobody has read: they would be lost
        to it.
        """
        if self._unread:
            raise OSError(f"the stream has {self._unread} bytes in its buffer: read them first")
        fd = self.fileno()
        os.set_blocking(fd, True)
        try:
            self._try_flush()
            with self._raw() as raw:
                yield raw
        finally:
            if not self.closed:
                os.set_blocking(fd, False)


class FileStream(StreamBase):
    """A stream over a binary file object that has a descriptor, such as a pipe's.

    Its descriptor is made non-blocking, also for those who share it, as a terminal's is shared
    with the shell, until the stream is closed. Regular files never wait: use `curio.aopen` for
    them, if the disk may be slow.
    """

    __slots__ = ("_file", "_fd", "_was_blocking")

    def __init__(self, fileobj):
        if isinstance(fileobj, _io.TextIOBase):
            raise NotBinaryError(f"a stream is made over a binary file, not {fileobj!r}")
        self._file = fileobj
        self._fd = fd = fileobj.fileno()
        self._was_blocking = os.get_blocking(fd)
        os.set_blocking(fd, False)
        self._attach_file(fd)
        self._take_over()

    def _take_over(self):
        # What the file object keeps in its own buffer.
        file = self._file
        if isinstance(file, (_io.BufferedWriter, _io.BufferedRandom)):
            file.flush()
        if isinstance(file, (_io.BufferedReader, _io.BufferedRandom)):
            if file.seekable():
                os.lseek(self._fd, file.tell(), os.SEEK_SET)
            elif there := len(file.peek(1) or b""):
                self._feed(file.read(there))

    def __repr__(self):
        return f"<curio.FileStream {self._file!r}>"

    def fileno(self):
        """The number of the descriptor."""
        return self._fd if not self.closed else self._file.fileno()

    async def _close(self):
        self._detach(True)
        if self._was_blocking and not self._file.closed:
            os.set_blocking(self._fd, True)
        self._file.close()

    @contextmanager
    def _raw(self):
        try:
            yield self._file
        finally:
            if not self._file.closed:
                os.set_blocking(self._fd, False)
                self._take_over()


Stream = FileStream


class NotBinaryError(AssertionError, TypeError):
    """A text file was given where bytes are read and written."""


class SocketStream(StreamBase):
    """A stream over a socket, ours or the standard library's; closing it closes the socket."""

    __slots__ = ("_socket",)

    def __init__(self, sock):
        if not isinstance(sock, Socket):
            sock = Socket(sock)
        self._socket = sock
        self._attach_socket(sock)

    def __repr__(self):
        return f"<curio.SocketStream {self._socket!r}>"

    def fileno(self):
        """The number of the socket's descriptor."""
        return self._socket.fileno()

    async def _close(self):
        self._detach(False)
        self._socket._close()

    @contextmanager
    def _raw(self):
        with self._socket._socket.makefile("rwb", buffering=0) as raw:
            yield raw


class _SharedStream(SocketStream):
    """One of several over a socket, which is closed by itself."""

    __slots__ = ()

    async def _close(self):
        self._detach(False)


_SharedStream.__name__ = _SharedStream.__qualname__ = "SocketStream"
