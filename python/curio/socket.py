"""The standard library's `socket`, with what can block replaced.

`from curio.socket import *` gives its constants, exceptions and helpers; `socket` makes sockets
whose blocking methods are awaited. Functions that look names up or connect are not here
yet, rather than here and blocking.
"""

import socket as _socket

from .io import Socket

_BLOCKING = {
    "create_connection",
    "create_server",
    "fromfd",
    "getaddrinfo",
    "getfqdn",
    "gethostbyaddr",
    "gethostbyname",
    "gethostbyname_ex",
    "gethostname",
    "getnameinfo",
    "recv_fds",
    "send_fds",
    "socketpair",
}

__all__ = [name for name in _socket.__all__ if name not in _BLOCKING]

globals().update({name: getattr(_socket, name) for name in __all__ if name != "socket"})


def socket(family=-1, type=-1, proto=-1, fileno=None):
    """A new socket for tasks; the arguments are those of the standard library's."""
    return Socket(_socket.socket(family, type, proto, fileno))
