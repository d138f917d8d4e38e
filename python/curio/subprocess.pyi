from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from os import PathLike
from subprocess import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    SubprocessError,
    TimeoutExpired,
)
from typing import Any

from typing_extensions import Self

from .io import StreamBase

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "CompletedProcess",
    "Popen",
    "SubprocessError",
    "TextStream",
    "TimeoutExpired",
    "call",
    "check_call",
    "check_output",
    "run",
]

_Part = str | bytes | PathLike[str] | PathLike[bytes]
_Args = _Part | Sequence[_Part]

class Popen:
    # Streams of bytes, or TextStreams, where there are pipes; else None.
    stdin: Any
    stdout: Any
    stderr: Any
    args: _Args
    pid: int
    def __init__(
        self,
        args: _Args,
        *,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        universal_newlines: bool | None = None,
        **kwargs: Any,
    ) -> None: ...
    def __getattr__(self, name: str) -> Any: ...
    def __del__(self, is_finalizing: Any = ...) -> None: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self, timeout: float | None = None) -> int: ...
    async def communicate(
        self, input: Any = None, timeout: float | None = None
    ) -> tuple[Any, Any]: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exception: object) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...

async def run(
    args: _Args,
    *,
    stdin: Any = None,
    input: Any = None,
    stdout: Any = None,
    stderr: Any = None,
    capture_output: bool = False,
    shell: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **kwargs: Any,
) -> CompletedProcess[Any]: ...
async def check_output(
    args: _Args,
    *,
    stdin: Any = None,
    stderr: Any = None,
    shell: bool = False,
    input: Any = None,
    timeout: float | None = None,
    **kwargs: Any,
) -> Any: ...
async def call(args: _Args, *, timeout: float | None = None, **kwargs: Any) -> int: ...
async def check_call(args: _Args, *, timeout: float | None = None, **kwargs: Any) -> int: ...

class TextStream:
    buffer: StreamBase
    def __init__(
        self, stream: StreamBase, encoding: str | None = None, errors: str | None = None
    ) -> None: ...
    @property
    def closed(self) -> bool: ...
    def fileno(self) -> int: ...
    async def read(self, maxchars: int = -1) -> str: ...
    async def readall(self) -> str: ...
    async def readline(self) -> str: ...
    async def readlines(self) -> list[str]: ...
    async def write(self, text: str) -> int: ...
    async def writelines(self, lines: Iterable[str]) -> None: ...
    async def flush(self) -> None: ...
    async def close(self) -> None: ...
    def __aiter__(self) -> AsyncIterator[str]: ...
    async def __anext__(self) -> str: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *exception: object) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...
    def __iter__(self) -> Iterator[str]: ...
