from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

from typing_extensions import TypeVarTuple, Unpack

from ._curio import TimeoutBlock

__all__ = [
    "clock",
    "ignore_after",
    "ignore_at",
    "schedule",
    "sleep",
    "stop_after",
    "timeout_after",
    "timeout_at",
    "wake_at",
]

_T = TypeVar("_T")
_R = TypeVar("_R")
_Ts = TypeVarTuple("_Ts")

async def clock() -> float: ...
async def sleep(seconds: float) -> float: ...
async def wake_at(clock: float) -> float: ...
async def schedule() -> None: ...
@overload
def timeout_after(seconds: float | None) -> TimeoutBlock: ...
@overload
def timeout_after(seconds: float | None, corofunc: Awaitable[_T]) -> Awaitable[_T]: ...
@overload
def timeout_after(
    seconds: float | None,
    corofunc: Callable[[Unpack[_Ts]], Awaitable[_T]],
    *args: Unpack[_Ts],
) -> Awaitable[_T]: ...
@overload
def timeout_at(clock: float | None) -> TimeoutBlock: ...
@overload
def timeout_at(clock: float | None, corofunc: Awaitable[_T]) -> Awaitable[_T]: ...
@overload
def timeout_at(
    clock: float | None,
    corofunc: Callable[[Unpack[_Ts]], Awaitable[_T]],
    *args: Unpack[_Ts],
) -> Awaitable[_T]: ...
@overload
def ignore_after(seconds: float | None, *, timeout_result: object = None) -> TimeoutBlock: ...
@overload
def ignore_after(seconds: float | None, corofunc: Awaitable[_T]) -> Awaitable[_T | None]: ...
@overload
def ignore_after(
    seconds: float | None,
    corofunc: Callable[[Unpack[_Ts]], Awaitable[_T]],
    *args: Unpack[_Ts],
) -> Awaitable[_T | None]: ...
@overload
def ignore_after(
    seconds: float | None, corofunc: Awaitable[_T], *, timeout_result: _R
) -> Awaitable[_T | _R]: ...
@overload
def ignore_after(
    seconds: float | None,
    corofunc: Callable[[Unpack[_Ts]], Awaitable[_T]],
    *args: Unpack[_Ts],
    timeout_result: _R,
) -> Awaitable[_T | _R]: ...
@overload
def ignore_at(clock: float | None, *, timeout_result: object = None) -> TimeoutBlock: ...
@overload
def ignore_at(clock: float | None, corofunc: Awaitable[_T]) -> Awaitable[_T | None]: ...
@overload
def ignore_at(
    clock: float | None,
    corofunc: Callable[[Unpack[_Ts]], Awaitable[_T]],
    *args: Unpack[_Ts],
) -> Awaitable[_T | None]: ...
@overload
def ignore_at(
    clock: float | None, corofunc: Awaitable[_T], *, timeout_result: _R
) -> Awaitable[_T | _R]: ...
@overload
def ignore_at(
    clock: float | None,
    corofunc: Callable[[Unpack[_Ts]], Awaitable[_T]],
    *args: Unpack[_Ts],
    timeout_result: _R,
) -> Awaitable[_T | _R]: ...

stop_after = ignore_after
