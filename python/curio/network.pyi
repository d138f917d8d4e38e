from collections.abc import Awaitable, Callable, Iterable
from os import PathLike
from ssl import SSLContext as _StandardContext
from typing import Any, Literal, overload

from .io import Socket
from .ssl import SSLContext, TLSSocket

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

_Context = SSLContext | _StandardContext
_ClientTask = Callable[[Socket, Any], Awaitable[object]]
_Path = str | bytes | PathLike[str]

@overload
async def open_connection(
    host: str,
    port: int | str,
    *,
    ssl: None = None,
    source_addr: tuple[str, int] | None = None,
    server_hostname: str | None = None,
    alpn_protocols: Iterable[str] | None = None,
) -> Socket: ...
@overload
async def open_connection(
    host: str,
    port: int | str,
    *,
    ssl: Literal[True] | _Context,
    source_addr: tuple[str, int] | None = None,
    server_hostname: str | None = None,
    alpn_protocols: Iterable[str] | None = None,
) -> TLSSocket: ...
@overload
async def open_unix_connection(
    path: _Path,
    *,
    ssl: None = None,
    server_hostname: str | None = None,
    alpn_protocols: Iterable[str] | None = None,
) -> Socket: ...
@overload
async def open_unix_connection(
    path: _Path,
    *,
    ssl: Literal[True] | _Context,
    server_hostname: str | None = None,
    alpn_protocols: Iterable[str] | None = None,
) -> TLSSocket: ...
def tcp_server_socket(
    host: str | None,
    port: int,
    family: int = ...,
    backlog: int = 100,
    reuse_address: bool = True,
    reuse_port: bool = False,
) -> Socket: ...
def unix_server_socket(path: _Path, backlog: int = 100) -> Socket: ...

class Server:
    def __init__(
        self, sock: Socket, client_task: _ClientTask, ssl: _Context | None = None
    ) -> None: ...
    @property
    def sock(self) -> Socket: ...
    @property
    def address(self) -> Any: ...
    @property
    def clients(self) -> Any: ...
    async def serve_forever(self) -> None: ...
    async def cancel(self) -> None: ...
    async def stop(self, seconds: float | None = None) -> None: ...

def create_server(
    host: str | None,
    port: int,
    client_task: _ClientTask,
    *,
    family: int = ...,
    backlog: int = 100,
    ssl: _Context | None = None,
    reuse_address: bool = True,
    reuse_port: bool = False,
) -> Server: ...
def create_unix_server(
    path: _Path, client_task: _ClientTask, *, backlog: int = 100, ssl: _Context | None = None
) -> Server: ...
async def run_server(
    host: str | Socket | None,
    port: Any = None,
    client_task: _ClientTask | None = None,
    ssl: _Context | None = None,
    **options: Any,
) -> None: ...
async def run_unix_server(
    path: _Path | Socket,
    client_task: _ClientTask,
    *,
    backlog: int = 100,
    ssl: _Context | None = None,
) -> None: ...
async def tcp_server(
    host: str | None,
    port: int,
    client_task: _ClientTask,
    *,
    family: int = ...,
    backlog: int = 100,
    ssl: _Context | None = None,
    reuse_address: bool = True,
    reuse_port: bool = False,
) -> None: ...
async def unix_server(
    path: _Path, client_task: _ClientTask, *, backlog: int = 100, ssl: _Context | None = None
) -> None: ...
async def _connect(address: tuple[str, int], source_address: Any) -> Socket: ...
