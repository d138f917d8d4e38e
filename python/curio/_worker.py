"""A worker process: the calls it gets, what it answers, and the messages both sides send.

A message is a pickle, and the large buffers that the pickle refers to but has no copy of, such as
an array's. It is sent as the sizes, the pickle, the buffers. What is large is sent from where it is
and received where it stays, and what is small goes with one call of the system.

A worker reads a message, does what it says, writes the answer, and so on, until there is nobody to
read from. It has nothing of the kernel's; all it shares with the program is a socket, and a
pipe by which it learns of the program's end. There it must not depend on the interpreter, which may
be in a long computation: the system itself kills the worker, as soon as nobody can write to
the pipe any more.
"""

import fcntl
import os
import pickle
import select
import signal
import socket
import struct
from contextlib import suppress

#: Bytes that are read at a time, and from how many on something is not copied.
LARGE = 64 * 1024

#: Up to how many bytes the memory of a pickle that was read is kept for the next one: the system
#: takes longer to give memory than it takes to fill it.
_KEPT = 4 * 1024 * 1024

_SIZES = struct.Struct("<QI")

_spares: list[bytearray] = []  # one at most, or a few if threads meet here


class _Pieces(list):
    """A file for a pickler to write to."""

    def write(self, piece):
        # What is not bytes may change, or is the pickler's.
        self.append(piece if piece.__class__ is bytes else bytes(piece))


def pack(value):
    """`value` as a message: a list of buffers to be sent one after the other."""
    buffers = []

    def keep(buffer):
        try:
            raw = buffer.raw()
        except BufferError:
            return True  # It is not in one piece: the pickle has it.
        if raw.nbytes < LARGE:
            return True
        buffers.append(raw)

    pieces = _Pieces()
    pickle.Pickler(pieces, 5, buffer_callback=keep).dump(value)
    sizes = _SIZES.pack(sum(map(len, pieces)), len(buffers))
    lengths = struct.pack(f"<{len(buffers)}Q", *(raw.nbytes for raw in buffers))

    message, small = [], [sizes, lengths]
    for piece in pieces:
        if len(piece) < LARGE:
            small.append(piece)
        else:
            message += b"".join(small), piece
            small = []
    message.append(b"".join(small))
    return message + buffers


class Incoming:
    """A message that is being received, whose first bytes have come.

    `rooms()` gives the memory that the rest belongs in, piece by piece, each to be filled
    before the next one is asked for.
    """

    def __init__(self, first):
        self._first = memoryview(first)
        self._pickle, self._buffers = None, []

    def rooms(self):
        sizes = yield from self._fill(_SIZES.size)
        size, count = _SIZES.unpack(sizes)
        lengths = ()
        if count:
            lengths = struct.unpack(f"<{count}Q", (yield from self._fill(8 * count)))
        self._pickle = yield from self._fill(size, _spare)
        for length in lengths:
            self._buffers.append((yield from self._fill(length)))

    def _fill(self, size, make=bytearray):
        if size <= len(self._first):
            room, self._first = self._first[:size], self._first[size:]
            return room
        room, there = make(size), len(self._first)
        room[:there] = self._first
        self._first = self._first[there:]
        yield memoryview(room)[there:]
        return room

    def unpack(self):
        """What was packed; once."""
        read, self._pickle = self._pickle, None
        value = pickle.loads(read, buffers=self._buffers)
        # Nothing of it is referred to by what was made of it.
        if len(read.obj) <= _KEPT and type(read.obj) is bytearray and not _spares:
            _spares.append(read.obj)
        return value


def _spare(size):
    """Memory for a pickle."""
    try:
        room = _spares.pop()
    except IndexError:
        room = b""
    return memoryview(room if len(room) >= size else bytearray(size))[:size]


# --- in the worker ---------------------------------------------------------------------------


class Inherited:
    """A descriptor, on its way to a process that is being started."""

    def __init__(self, fd):
        self._fd = fd

    def __reduce__(self):
        from multiprocessing.reduction import DupFd

        return _inherited, (DupFd(self._fd),)


def _inherited(fd):
    return fd.detach()


def serve(fd, lifeline):
    """A worker's life."""
    # Ctrl-C at the terminal is meant for the program. It was blocked until now, lest it come
    # while the worker was starting. What the program ignores, a worker would ignore, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _die_with_the_program(lifeline)

    sock = socket.socket(fileno=fd)
    sock.setblocking(True)
    sock.set_inheritable(False)
    worker = os.getpid()
    os.register_at_fork(after_in_child=lambda: _let_go(sock, lifeline))

    with suppress(ConnectionError):  # The program does not want the answer any more.
        sock.send(b"!")
        while incoming := _receive(sock):
            answer = _answer(incoming)
            incoming = None
            if os.getpid() != worker:
                os._exit(0)  # The function has forked, and has come back twice.
            for piece in answer:
                sock.sendall(piece)
            answer = piece = None


def _die_with_the_program(lifeline):
    os.set_inheritable(lifeline, False)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, 0)
    if poll.poll(0):
        os._exit(1)  # It ended before.


_F_SETSIG = 10  # which `fcntl` does not have


def _let_go(sock, lifeline):
    # A process that the function forks must not keep the program from seeing the worker's end.
    sock.close()
    os.close(lifeline)


def _receive(sock):
    """The next message; None at the end."""
    first = sock.recv(LARGE)
    if not first:
        return None
    incoming = Incoming(first)
    for room in incoming.rooms():
        while room:
            count = sock.recv_into(room)
            if not count:
                return None
            room = room[count:]
    return incoming


def _answer(incoming):
    """Do what a message says; give the answer, as a message.

    It is a tuple: the result; the exception, pickled by itself lest the rest is lost with it, or
    in words what went wrong; the traceback as text.
    """
    try:
        callable, args, kwargs = incoming.unpack()
    except BaseException as error:
        return _pack_problem("the worker process cannot unpickle the call", error)
    del incoming
    try:
        result = callable(*args, **kwargs)
    except BaseException as error:
        del callable, args, kwargs
        return _pack_error(error)
    try:
        return pack((result, None, None))
    except BaseException as error:
        return _pack_problem("the result cannot be pickled", error)


def _pack_problem(what, error):
    text = _traceback(error)
    return pack((None, f"{what}: {text.splitlines()[-1]}", text))


def _pack_error(error):
    text = _traceback(error)
    # An exception whose class takes other arguments than it hands on can be pickled, and not
    # unpickled: so both are tried here. It comes to life again without a call of its class then.
    for form in (error, _Remade(error)):
        try:
            pickled = pickle.dumps(form, 5)
            if type(pickle.loads(pickled)) is type(error):
                return pack((None, pickled, text))
        except BaseException:
            pass
    return _pack_problem("the exception cannot be pickled", error)


class _Remade:
    """An exception that is pickled as its class, its arguments and its attributes."""

    def __init__(self, error):
        self._error = error

    def __reduce__(self):
        error = self._error
        return _remake, (type(error), error.args, error.__dict__)


def _remake(kind, args, attributes):
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def _traceback(error):
    import traceback

    # The first line of it is ours.
    own = error.__traceback__
    return "".join(traceback.format_exception(type(error), error, own and own.tb_next))
