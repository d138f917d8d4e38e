import ssl as _ssl
from collections.abc import Generator
from contextlib import AbstractContextManager
from ssl import Purpose as Purpose
from typing import Any

from typing_extensions import Self

from .io import Socket

# What is not here is the standard library's.
def __getattr__(name: str) -> Any: ...

class SSLContext(_ssl.SSLContext):
    def wrap_socket(  # type: ignore[override]
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | None = None,
        session: _ssl.SSLSession | None = None,
    ) -> TLSSocket: ...

def create_default_context(
    purpose: Purpose = ...,
    *,
    cafile: Any = None,
    capath: Any = None,
    cadata: str | bytes | None = None,
) -> SSLContext: ...
def wrap_socket(
    sock: Any,
    keyfile: str | None = None,
    certfile: str | None = None,
    server_side: bool = False,
    cert_reqs: int = ...,
    ssl_version: int = ...,
    ca_certs: str | None = None,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    ciphers: str | None = None,
) -> TLSSocket: ...
async def get_server_certificate(
    addr: tuple[str, int], ssl_version: int = ..., ca_certs: str | None = None
) -> str: ...
def secured(
    context: _ssl.SSLContext,
    sock: Socket,
    *,
    server_side: bool,
    server_hostname: str | None = None,
) -> TLSSocket: ...

class TLSSocket(Socket):
    def __new__(cls, context: _ssl.SSLContext, sock: Any, *args: Any, **kwargs: Any) -> Self: ...
    def __init__(
        self,
        context: _ssl.SSLContext,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        server_hostname: str | None = None,
        session: _ssl.SSLSession | None = None,
        suppress_ragged_eofs: bool = True,
    ) -> None: ...
    def __await__(self) -> Generator[Any, Any, Self]: ...
    async def unwrap(self) -> Socket: ...
    def blocking(self) -> AbstractContextManager[Any]: ...
    @property
    def context(self) -> _ssl.SSLContext: ...
    def cipher(self) -> tuple[str, str, int] | None: ...
    def compression(self) -> str | None: ...
    def get_channel_binding(self, cb_type: str = ...) -> bytes | None: ...
    def getpeercert(self, binary_form: bool = False) -> Any: ...
    def pending(self) -> int: ...
    def selected_alpn_protocol(self) -> str | None: ...
    @property
    def server_hostname(self) -> str | None: ...
    @property
    def server_side(self) -> bool: ...
    @property
    def session(self) -> _ssl.SSLSession | None: ...
    @property
    def session_reused(self) -> bool | None: ...
    def shared_ciphers(self) -> list[tuple[str, str, int]] | None: ...
    def version(self) -> str | None: ...
