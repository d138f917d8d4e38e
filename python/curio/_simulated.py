"""Sockets of a simulated network. See `curio.testing.Network`.

A socket here is one of a connected pair of Unix sockets; the network has the other. To the program
it is a TCP socket: it tells the addresses that the network has given to it. Those are in the
names of the Unix sockets.
"""

import os
import socket as _socket

from . import _curio
from .io import Socket


def connected(fd):
    """The socket over a descriptor that `connect_any` has given."""
    return SimulatedSocket(_socket.socket(fileno=fd))


def listening(network, host, port):
    """A socket that listens at an address, whose host may be a name."""
    host = network._host(host) if host else "0.0.0.0"
    return SimulatedSocket(_socket.socket(fileno=network._listen(host, port)))


def unconnected(family):
    """What `socket.socket` is on a simulated network."""
    sock = SimulatedSocket(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM))
    sock._family = family
    return sock


class SimulatedSocket(Socket):
    """A TCP socket on a simulated network."""

    __slots__ = ("_family",)

    def _accepted(self, accepted):
        client, name = accepted
        _curio.network()._welcome(client.fileno())
        return SimulatedSocket(client), _address(name)

    @property
    def family(self):
        """As that of a TCP socket: AF_INET or AF_INET6."""
        known = getattr(self, "_family", None)
        if known is not None:
            return known
        address = self.getsockname()
        return _socket.AF_INET6 if len(address) == 4 else _socket.AF_INET

    def getsockname(self):
        """The address of this end."""
        return _address(self._socket.getsockname())

    def getpeername(self):
        """The address of the peer."""
        return _address(self._socket.getpeername())

    def setsockopt(self, level, *args):
        """Set an option. Those of TCP have no effect."""
        if level == _socket.SOL_SOCKET:
            self._socket.setsockopt(level, *args)

    def getsockopt(self, level, *args):
        """An option's value; 0 for those of TCP."""
        return self._socket.getsockopt(level, *args) if level == _socket.SOL_SOCKET else 0

    def bind(self, address):
        """Listen at an address, or have it to connect from."""
        network = _network()
        host, port = address[:2]
        self._become(network._listen(network._host(host) if host else "0.0.0.0", port))

    def listen(self, backlog=100):
        """Let clients connect; `bind` has done so."""
        self._socket.listen(backlog)

    async def connect_ex(self, address):
        """As `connect`, but return the error's number, 0 for none."""
        from .network import connect_any

        source = self.getsockname() if self._socket.getsockname() else None
        host, port = address[:2]
        try:
            fd = await connect_any([(_network()._host(host), port)], source)
        except OSError as error:
            return error.errno
        self._become(fd)
        return 0

    def _become(self, fd):
        # Nobody has waited for it yet, so the kernel does not know the descriptor.
        os.dup2(fd, self.fileno(), inheritable=False)
        os.close(fd)
        self._socket.setblocking(False)

    def dup(self):
        """A second socket for the same connection, with a descriptor of its own."""
        return SimulatedSocket(self._socket.dup())


def _network():
    network = _curio.network()
    if network is None:
        raise RuntimeError("a socket of a simulated network is used outside of its kernel")
    return network


def _address(name):
    if not name:
        return ("0.0.0.0", 0)
    host, port = _curio.simulated_address(name)
    return (host, port, 0, 0) if ":" in host else (host, port)
