"""Messages between programs: whole ones, bytes or objects, to other processes and machines.

A `Connection` sends and receives messages over streams. A `Channel` is an address where one
program accepts connections, and others connect; `Listener` and `Client` are the same for those who
know them from `multiprocessing.connection`. Either side may be a program of that module's: what
goes over the wire is the same, the authentication included.

`send` and `recv` pickle. Whoever may send a pickle may do anything in the program that reads it:
connect to, and accept, none but friends. An `authkey` makes sure that both sides know the same
secret; it is never sent, but neither is anything encrypted.
"""

__all__ = ["AuthenticationError", "Channel", "Client", "Connection", "Listener"]

import hmac
import os
import pickle
import socket as _socket
import stat
import struct

from ._plain import enter, leave
from .errors import CancelledError, CurioError, TaskTimeout
from .io import FileStream, Socket, StreamBase
from .time import sleep, timeout_after

#: How long, in seconds, a client may take to prove that it knows the key.
AUTHENTICATION_LIMIT = 1.0

#: How long a client waits for the same of a program that may have other clients to look at first.
CONNECT_LIMIT = 10.0

#: How long `Channel.connect` waits before it tries again, in seconds: at first, and at most.
RETRY_INTERVAL = 0.05, 1.0

# What is said when keys are compared.
CHALLENGE = b"#CHALLENGE#"
WELCOME = b"#WELCOME#"
FAILURE = b"#FAILURE#"
CHALLENGE_SIZE = 20
ANSWER_LIMIT = 256

# A message is preceded by its size; by -1 and its size if that is too large for the former.
_SIZE = struct.Struct("!i")
_LARGE_SIZE = struct.Struct("!Q")
_SIZE_LIMIT = 0x7FFFFFFF
_SEPARATE = 16 * 1024  # From how many bytes on a message is not copied to be sent.


class AuthenticationError(CurioError):
    """The other side does not know the key, or does not believe that we do."""


class Connection:
    """Connection(reader, writer)

    Messages over a pair of streams, which may be one and the same. A task may receive
    while another sends; a second receiver gets ReadResourceBusy, a second sender
    WriteResourceBusy, if the first has to wait::

        from curio.channel import Connection
        from curio.socket import socketpair

        async def main():
            left, right = (Connection(s, s) for s in [a.as_stream() for a in socketpair()])
            async with left, right:
                await left.send({'answer': 42})
                print(await right.recv())

        curio.run(main)
    """

    __slots__ = ("__weakref__", "_reader", "_received", "_rest", "_size", "_writer")

    def __init__(self, reader, writer):
        for stream in reader, writer:
            if stream is not None and not isinstance(stream, StreamBase):
                raise TypeError(f"a Connection is made over two streams, not {stream!r}")
        self._reader, self._writer = reader, writer
        self._received = []  # of what is being received
        self._size = None  # of the message that is being received
        self._rest = b""  # of a message of which part is sent

    def __repr__(self):
        streams = [self._reader] if self._reader is self._writer else [self._reader, self._writer]
        return f"<curio.Connection {', '.join(map(repr, streams))}>"

    @classmethod
    def from_Connection(cls, conn):
        """A Connection in place of one of `multiprocessing`'s, such as an end of a `Pipe`.

        `conn` is closed; what it was connected to is not.
        """
        try:
            fd, readable, writable = os.dup(conn.fileno()), conn.readable, conn.writable
        except AttributeError:
            raise TypeError(f"a connection of multiprocessing's is wanted, not {conn!r}") from None
        conn.close()
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            return cls._over(Socket(_socket.socket(fileno=fd)))
        if readable:
            return cls(FileStream(open(fd, "rb", buffering=0)), None)
        assert writable
        return cls(None, FileStream(open(fd, "wb", buffering=0)))

    @classmethod
    def _over(cls, sock):
        stream = sock.as_stream()
        return cls(stream, stream)

    async def send(self, obj):
        """Send an object, pickled.

        Raises what pickling raises, and then nothing is sent; OSError if the other side is gone.

        Cancellation: the message was not sent; or part of it was, as the exception's
        `bytes_written` says if it is not 0, and the rest goes before the next message, or when
        the connection is closed.
        """
        await self.send_bytes(pickle.dumps(obj, pickle.HIGHEST_PROTOCOL))

    async def recv(self):
        """Receive an object, and unpickle it.

        Raises EOFError if the other side has closed, OSError if the connection has broken, and what
        unpickling raises, after which the next message can be received.

        Cancellation: nothing is lost; what has come of a message is there for the next call.
        """
        return pickle.loads(await self.recv_bytes())

    async def send_bytes(self, buf, offset=0, size=None):
        """Send a message of bytes: `size` of `buf` from `offset` on, or all from there.

        Raises ValueError if `buf` has not that many bytes, OSError if the other side is gone.

        Cancellation: as that of `send`.
        """
        message = _slice(buf, offset, size)
        size = len(message)
        if size <= _SIZE_LIMIT:
            header = _SIZE.pack(size)
        else:
            header = _SIZE.pack(-1) + _LARGE_SIZE.pack(size)
        await self._send_rest()
        if size < _SEPARATE:
            await self._write([header + message])
        else:
            await self._write([header, message])

    async def _send_rest(self):
        if self._writer is None:
            raise OSError(f"{self!r} is for receiving alone")
        if self._rest:
            rest, self._rest = self._rest, b""
            await self._write([rest], begun=True)

    async def _write(self, pieces, begun=False):
        try:
            await self._writer.writelines(pieces)
        except CancelledError as error:
            written = getattr(error, "bytes_written", 0)
            if written or begun:
                self._rest = b"".join(pieces)[written:]
            error.bytes_written = 0 if begun else written
            raise

    async def recv_bytes(self, maxlength=None):
        """Receive a message of bytes.

        Raises EOFError if the other side has closed; OSError if the connection has broken, or if
        the message is longer than `maxlength`, which can still be received otherwise.

        Cancellation: nothing is lost; what has come of a message is there for the next call.
        """
        size = await self._recv_size()
        if maxlength is not None and size > maxlength:
            raise OSError(f"a message of {size} bytes has come, where {maxlength} may")
        message = await self._read(size)
        self._size = None
        return message

    async def recv_bytes_into(self, buf, offset=0):
        """Receive a message of bytes into a writable buffer, from `offset` on; return its size.

        Raises OSError if there is no room for it; it can still be received otherwise. The rest,
        and cancellation: as those of `recv_bytes`.
        """
        room = _slice(buf, offset, None)
        if room.readonly:
            raise TypeError(f"a writable buffer is wanted, not {type(buf).__name__!r}")
        message = await self.recv_bytes(len(room))
        room[: len(message)] = message
        return len(message)

    async def _recv_size(self):
        if self._size is None:
            if self._reader is None:
                raise OSError(f"{self!r} is for sending alone")
            # -1 is noted, should the wait for what follows be cancelled.
            (self._size,) = _SIZE.unpack(await self._read(_SIZE.size))
        if self._size == -1:
            (size,) = _LARGE_SIZE.unpack(await self._read(_LARGE_SIZE.size))
            self._size = size
        if self._size < 0:
            raise OSError(f"what has come is no message: it would have {self._size} bytes")
        return self._size

    async def _read(self, size):
        received = self._received
        missing = size - sum(map(len, received))
        try:
            received.append(await self._reader.read_exactly(missing))
        except (CancelledError, EOFError) as error:
            received.append(getattr(error, "bytes_read", b""))
            raise
        self._received = []
        return received[0] if len(received) == 1 else b"".join(received)

    async def authenticate_server(self, authkey):
        """Have the other side prove that it knows the key, and prove it in turn.

        Raises AuthenticationError if one of them does not know it.

        Cancellation: the connection is of no use any more.
        """
        _check_key(authkey)
        await self._challenge(authkey)
        await self._answer(authkey)

    async def authenticate_client(self, authkey):
        """Prove that this side knows the key, and have the other prove it in turn.

        Raises AuthenticationError if one of them does not know it.

        Cancellation: the connection is of no use any more.
        """
        _check_key(authkey)
        await self._answer(authkey)
        await self._challenge(authkey)

    async def _challenge(self, authkey):
        challenge = os.urandom(CHALLENGE_SIZE)
        await self.send_bytes(CHALLENGE + challenge)
        answer = await self.recv_bytes(ANSWER_LIMIT)
        if not hmac.compare_digest(answer, hmac.digest(authkey, challenge, "md5")):
            await self.send_bytes(FAILURE)
            raise AuthenticationError("the other side does not know the key")
        await self.send_bytes(WELCOME)

    async def _answer(self, authkey):
        challenge = await self.recv_bytes(ANSWER_LIMIT)
        if not challenge.startswith(CHALLENGE):
            raise AuthenticationError("the other side does not ask for a key as it should")
        await self.send_bytes(hmac.digest(authkey, challenge[len(CHALLENGE) :], "md5"))
        if await self.recv_bytes(ANSWER_LIMIT) != WELCOME:
            raise AuthenticationError("the other side has refused the key")

    async def close(self):
        """Send what is left of a message, and close both streams. Twice is fine.

        Cancellation: they are closed, and what was not sent is lost.
        """
        try:
            if self._rest and not self._writer.closed:
                await self._send_rest()
        finally:
            try:
                if self._writer is not None:
                    await self._writer.close()
            finally:
                if self._reader is not None and self._reader is not self._writer:
                    await self._reader.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        await self.close()

    def __enter__(self):
        return enter(self, "a curio connection")

    def __exit__(self, *exception):
        return leave(self, "a curio connection", exception)


def _slice(buf, offset, size):
    """A part of a buffer, as bytes."""
    view = memoryview(buf)
    if view.ndim != 1 or view.itemsize != 1 or not view.contiguous:
        view = view.cast("B") if view.c_contiguous else memoryview(bytes(view))
    length = len(view)
    if not 0 <= offset <= length:
        raise ValueError(f"offset {offset} is outside of a buffer of {length} bytes")
    if size is None:
        size = length - offset
    if not 0 <= size <= length - offset:
        raise ValueError(f"a buffer of {length} bytes has not {size} from {offset} on")
    return view[offset : offset + size]


def _check_key(authkey):
    # What is wrong with it is told, it itself is not.
    if not isinstance(authkey, bytes):
        raise TypeError(f"authkey is bytes, not {type(authkey).__name__!r}")
    if not authkey:
        raise ValueError("authkey must not be empty; None is for no authentication")


async def _welcome(connection, authkey):
    """Let a client in that knows the key; else close the connection."""
    if authkey is not None:
        try:
            authentication = connection.authenticate_server
            await timeout_after(AUTHENTICATION_LIMIT, authentication, authkey)
        except BaseException:
            await connection.close()
            raise
    return connection


async def _introduce(connection, authkey, address):
    """Be let in; else close the connection."""
    if authkey is not None:
        try:
            await timeout_after(CONNECT_LIMIT, connection.authenticate_client, authkey)
        except TaskTimeout:
            await connection.close()
            raise TimeoutError(f"no answer from {address!r} within {CONNECT_LIMIT:g} s") from None
        except BaseException:
            await connection.close()
            raise
    return connection


class Channel:
    """Channel(address, family=AF_INET, check_address=None)

    A place where programs meet: one accepts connections at the address, others connect to it. It
    can be pickled, and sent to another process, which then can connect. With port 0, the system
    picks one when the channel is bound, and `address` tells which.

    `check_address(address)`, if given, says of each client whether it may connect::

        from curio.channel import Channel

        async def client(channel):
            async with await channel.connect(authkey=b'peekaboo') as connection:
                await connection.send('Hello')

        async def main():
            async with Channel(('localhost', 0)) as channel:
                channel.bind()
                task = await curio.spawn(client, channel)
                async with await channel.accept(authkey=b'peekaboo') as connection:
                    print(await connection.recv())
                await task.join()

        curio.run(main)

    With two streams in place of the address and the family, it is a `Connection`.
    """

    def __new__(cls, address, family=_socket.AF_INET, check_address=None):
        if isinstance(address, StreamBase):
            return Connection(address, family)
        self = super().__new__(cls)
        self.address, self.family, self.check_address = address, family, check_address
        self._sock = None
        return self

    from_Connection = Connection.from_Connection

    def __repr__(self):
        state = ", bound" if self._sock is not None else ""
        return f"<curio.Channel at {self.address!r}{state}>"

    def __reduce__(self):
        return Channel, (self.address, self.family, self.check_address)

    def bind(self):
        """Listen at the address, unless it is done already; `address` is the true one then.

        Raises OSError if it cannot be listened at.
        """
        if self._sock is None:
            self._sock = _listen(self.address, self.family, 100)
            self.address = self._sock.getsockname()

    async def accept(self, *, authkey=None):
        """Wait for a program to connect; return the Connection. Binds the channel if need be.

        Clients that do not prove within a second that they know the key, if there is one, are
        turned away, as are those that `check_address` will not have.

        Cancellation: a connection that is being made is closed.
        """
        if authkey is not None:
            _check_key(authkey)
        self.bind()
        while True:
            sock, address = await self._sock.accept()
            if self.check_address is not None and not self._may_come(sock, address):
                continue
            try:
                return await _welcome(Connection._over(sock), authkey)
            except (AuthenticationError, EOFError, OSError, TaskTimeout):
                pass

    def _may_come(self, sock, address):
        allowed = False
        try:
            allowed = self.check_address(address)
        finally:
            if not allowed:
                sock._close()
        return allowed

    async def connect(self, *, authkey=None):
        """Connect to the program that accepts at the address; return the Connection.

        As long as there is none, this tries again, at least once a second; a timeout ends it.

        Raises AuthenticationError if one side does not know the key, TimeoutError if the
        other does not answer within ten seconds, and OSError if the address is none.

        Cancellation: a connection that is being made is closed.
        """
        if authkey is not None:
            _check_key(authkey)
        interval, longest = RETRY_INTERVAL
        while True:
            try:
                connection = await _connect(self.address, self.family)
            except (ConnectionError, FileNotFoundError, TimeoutError):
                await sleep(interval)
                interval = min(2 * interval, longest)
            else:
                return await _introduce(connection, authkey, self.address)

    async def close(self):
        """Stop listening; connections go on. The channel can be bound again."""
        sock, self._sock = self._sock, None
        if sock is not None:
            await sock.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        await self.close()

    def __enter__(self):
        return enter(self, "a curio channel")

    def __exit__(self, *exception):
        return leave(self, "a curio channel", exception)


class Listener:
    """Listener(address, family=AF_INET, backlog=100, authkey=None)

    A listening socket, which accepts connections for messages. With `authkey`, clients must
    know it::

        from curio.channel import Client, Listener

        async def serve(listener):
            async with await listener.accept() as connection:
                await connection.send('Hello')

        async def main():
            async with Listener(('localhost', 0), authkey=b'peekaboo') as listener:
                task = await curio.spawn(serve, listener)
                async with await Client(listener.address, authkey=b'peekaboo') as connection:
                    print(await connection.recv())
                await task.join()

        curio.run(main)

    Raises OSError if the address cannot be listened at.
    """

    def __init__(self, address, family=_socket.AF_INET, backlog=100, authkey=None):
        if authkey is not None:
            _check_key(authkey)
        self._sock = _listen(address, family, backlog)
        self._authkey = authkey

    def __repr__(self):
        state = "closed" if self._sock.fileno() < 0 else f"at {self.address!r}"
        return f"<curio.Listener {state}>"

    @property
    def address(self):
        """Where it listens; port 0 is a true one here."""
        return self._sock.getsockname()

    async def accept(self):
        """Wait for a program to connect; return the Connection.

        Raises AuthenticationError if the client does not prove within a second that it knows
        the key; its connection is closed, and the next one may be accepted.

        Cancellation: a connection that is being made is closed.
        """
        sock, _ = await self._sock.accept()
        try:
            return await _welcome(Connection._over(sock), self._authkey)
        except (EOFError, OSError) as error:
            raise AuthenticationError(f"the client has gone: {error}") from error
        except TaskTimeout:
            message = f"no answer from the client within {AUTHENTICATION_LIMIT:g} s"
            raise AuthenticationError(message) from None

    async def close(self):
        """Stop listening; connections go on."""
        await self._sock.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        await self.close()

    def __enter__(self):
        return enter(self, "a curio listener")

    def __exit__(self, *exception):
        return leave(self, "a curio listener", exception)


async def Client(address, family=_socket.AF_INET, authkey=None):
    """Connect to a Listener, or a Channel, at an address; return the Connection.

    Raises OSError if there is nobody, AuthenticationError if one side does not know the key,
    TimeoutError if the other does not answer within ten seconds.

    Cancellation: a connection that is being made is closed.
    """
    if authkey is not None:
        _check_key(authkey)
    return await _introduce(await _connect(address, family), authkey, address)


def _listen(address, family, backlog):
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        if family in (_socket.AF_INET, _socket.AF_INET6):
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)  # also for the accepted
        sock.bind(address)
        sock.listen(backlog)
        return Socket(sock)
    except BaseException:
        sock.close()
        raise


async def _connect(address, family):
    sock = Socket(_socket.socket(family, _socket.SOCK_STREAM))
    try:
        if family in (_socket.AF_INET, _socket.AF_INET6):
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        await sock.connect(address)
    except BaseException:
        sock._close()
        raise
    return Connection._over(sock)
