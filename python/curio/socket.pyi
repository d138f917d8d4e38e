import socket as _socket
from collections.abc import Iterable
from typing import Any

from typing_extensions import Buffer

from .io import Socket

# What is not here is the standard library's.
def __getattr__(name: str) -> Any: ...
def socket(
    family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
) -> Socket: ...
def socketpair(
    family: int | None = None, type: int = ..., proto: int = 0
) -> tuple[Socket, Socket]: ...
def fromfd(fd: int, family: int, type: int, proto: int = 0) -> Socket: ...
def create_server(
    address: Any,
    *,
    family: int = ...,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,
) -> Socket: ...
async def create_connection(
    address: tuple[str, int | str],
    timeout: float | None = None,
    source_address: tuple[str, int] | None = None,
) -> Socket: ...
async def getaddrinfo(
    host: str | bytes | None,
    port: int | str | bytes | None,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[tuple[_socket.AddressFamily, _socket.SocketKind, int, str, Any]]: ...
async def getfqdn(name: str = "") -> str: ...
async def gethostbyname(hostname: str) -> str: ...
async def gethostbyname_ex(
    hostname: str,
) -> tuple[str, list[str], list[str]]: ...
async def gethostname() -> str: ...
async def gethostbyaddr(
    ip_address: str,
) -> tuple[str, list[str], list[str]]: ...
async def getnameinfo(sockaddr: Any, flags: int) -> tuple[str, str]: ...
async def send_fds(
    sock: Socket,
    buffers: Iterable[Buffer],
    fds: Iterable[int],
    flags: int = 0,
    address: Any = None,
) -> int: ...
async def recv_fds(
    sock: Socket, bufsize: int, maxfds: int, flags: int = 0
) -> tuple[bytes, list[int], int, Any]: ...
