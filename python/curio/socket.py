"""The standard library's `socket`, with what can block replaced.

`from curio.socket import *` gives its constants, exceptions and helpers; `socket` makes sockets
whose blocking methods are awaited. Functions that look names up are awaited, too: that happens in
threads kept for it, and numeric addresses need none.
"""

import socket as _socket

from . import _curio
from .io import Socket
from .network import _connect
from .workers import _look_up

__all__ = list(_socket.__all__)

globals().update({name: getattr(_socket, name) for name in __all__ if name != "socket"})


def socket(family=-1, type=-1, proto=-1, fileno=None):
    """A new socket for tasks; the arguments are those of the standard library's."""
    if fileno is None and _curio.network() is not None and _is_tcp(family, type):
        from ._simulated import unconnected

        return unconnected(_socket.AF_INET if family == -1 else family)
    return Socket(_socket.socket(family, type, proto, fileno))


def _is_tcp(family, type):
    streams = type in (-1, _socket.SOCK_STREAM)
    return streams and family in (-1, _socket.AF_INET, _socket.AF_INET6)


def socketpair(family=None, type=_socket.SOCK_STREAM, proto=0):
    """Two sockets for tasks, connected with each other."""
    one, other = _socket.socketpair(family, type, proto)
    return Socket(one), Socket(other)


def fromfd(fd, family, type, proto=0):
    """A socket for tasks over a duplicate of a descriptor."""
    return Socket(_socket.fromfd(fd, family, type, proto))


def create_server(
    address, *, family=_socket.AF_INET, backlog=None, reuse_port=False, dualstack_ipv6=False
):
    """A listening TCP socket for tasks. `curio.create_server` makes a whole server."""
    if (network := _curio.network()) is not None:
        from ._simulated import listening

        return listening(network, *address[:2])
    return Socket(
        _socket.create_server(
            address,
            family=family,
            backlog=backlog,
            reuse_port=reuse_port,
            dualstack_ipv6=dualstack_ipv6,
        )
    )


async def create_connection(address, timeout=None, source_address=None):
    """Connect to a `(host, port)`; return the Socket. See `curio.open_connection`.

    Raises OSError if there is no connection; TimeoutError after `timeout` seconds.

    Cancellation: the socket is closed.
    """
    from .errors import TaskTimeout
    from .time import timeout_after

    connecting = _connect(address, source_address)
    if timeout is None:
        return await connecting
    try:
        return await timeout_after(timeout, connecting)
    except TaskTimeout:
        host, port = address
        raise TimeoutError(f"no connection to {host!r}, port {port}, in {timeout} s") from None


def _is_number(host):
    """Whether looking up `host` asks nobody."""
    if host is None:
        return True
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str):
        return True  # What it is instead, the standard library says.
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host.partition("%")[0])
            return True
        except (OSError, ValueError):
            pass
    return False


def _simulated(host):
    """A host's address, if tasks are on a simulated network."""
    if isinstance(host, str) and (network := _curio.network()) is not None:
        return network._host(host)
    return host


async def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    """The addresses of a host and a port, as the standard library gives them.

    Cancellation: the look-up goes on in its thread, and its result is dropped.
    """
    host = _simulated(host)
    numeric_port = port is None or isinstance(port, int) or str(port).isdigit()
    if numeric_port and _is_number(host):
        return _socket.getaddrinfo(host, port, family, type, proto, flags)
    return await _look_up(_socket.getaddrinfo, host, port, family, type, proto, flags)


async def getfqdn(name=""):
    """The full name of a host, '' for this one. Cancellation: as `getaddrinfo`."""
    return await _look_up(_socket.getfqdn, name)


async def gethostbyname(hostname):
    """The IPv4 address of a host. Cancellation: as `getaddrinfo`."""
    hostname = _simulated(hostname)
    if hostname == "" or _is_number(hostname):
        return _socket.gethostbyname(hostname)
    return await _look_up(_socket.gethostbyname, hostname)


async def gethostbyname_ex(hostname):
    """Name, aliases and IPv4 addresses of a host. Cancellation: as `getaddrinfo`."""
    return await _look_up(_socket.gethostbyname_ex, hostname)


async def gethostname():
    """The name of this host."""
    return _socket.gethostname()


async def gethostbyaddr(ip_address):
    """Name, aliases and addresses of the host with an address. Cancellation: as `getaddrinfo`."""
    return await _look_up(_socket.gethostbyaddr, ip_address)


async def getnameinfo(sockaddr, flags):
    """Host and port of an address, as names unless `flags` say otherwise. Cancellation: as
    `getaddrinfo`.
    """
    numbers = _socket.NI_NUMERICHOST | _socket.NI_NUMERICSERV
    if flags & numbers == numbers:
        return _socket.getnameinfo(sockaddr, flags)
    return await _look_up(_socket.getnameinfo, sockaddr, flags)


async def send_fds(sock, buffers, fds, flags=0, address=None):
    """Send data and a list of descriptors over a Unix socket; return the count of bytes.

    Cancellation: nothing was sent.
    """
    import array

    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))
    return await sock.sendmsg(buffers, [rights], flags, address)


async def recv_fds(sock, bufsize, maxfds, flags=0):
    """Receive data and descriptors; return `(data, fds, flags, address)`.

    Cancellation: nothing is lost.
    """
    import array

    fds = array.array("i")
    room = _socket.CMSG_LEN(maxfds * fds.itemsize)
    data, ancillary, flags, address = await sock.recvmsg(bufsize, room, flags)
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds), flags, address
