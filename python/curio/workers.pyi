from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar, overload

from typing_extensions import ParamSpec, TypeVarTuple, Unpack

from .errors import CurioError

__all__ = [
    "MAX_WORKER_PROCESSES",
    "MAX_WORKER_THREADS",
    "RemoteTraceback",
    "WorkerError",
    "block_in_thread",
    "is_abandoned",
    "run_blocking",
    "run_cpu_bound",
    "run_in_executor",
    "run_in_process",
    "run_in_thread",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

MAX_WORKER_THREADS: int
MAX_WORKER_PROCESSES: int

async def run_in_thread(
    callable: Callable[..., _T],
    *args: Any,
    call_on_cancel: Callable[[Any], object] | None = None,
    **kwargs: Any,
) -> _T: ...

run_blocking = run_in_thread

async def block_in_thread(
    callable: Callable[..., _T],
    *args: Any,
    call_on_cancel: Callable[[Any], object] | None = None,
    **kwargs: Any,
) -> _T: ...
def is_abandoned() -> bool: ...
@overload
async def run_in_process(callable: Callable[[Unpack[_Ts]], _T], /, *args: Unpack[_Ts]) -> _T: ...
@overload
async def run_in_process(
    callable: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
) -> _T: ...

run_cpu_bound = run_in_process

@overload
async def run_in_executor(
    exc: Executor, callable: Callable[[Unpack[_Ts]], _T], /, *args: Unpack[_Ts]
) -> _T: ...
@overload
async def run_in_executor(
    exc: Executor, callable: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
) -> _T: ...

class WorkerError(CurioError): ...
class RemoteTraceback(Exception): ...

async def _look_up(function: Callable[..., _T], *args: Any) -> _T: ...
