"""The native part of the package; users import from the modules around it."""

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar, final, overload

from typing_extensions import disjoint_base

__all__ = [
    "CancelOrigin",
    "KernelBase",
    "ShieldBlock",
    "SocketBase",
    "TaskBase",
    "TimeoutBlock",
    "__version__",
    "get_all_tasks",
    "operation",
    "run",
    "set_task_class",
]

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_C = TypeVar("_C", bound=type)

__version__: str

def operation(stub: _F) -> _F: ...
def set_task_class(class_: _C) -> None: ...
def get_all_tasks() -> list[Any]: ...
@overload
def run(
    corofunc: Callable[..., Coroutine[Any, Any, _T]],
    *args: Any,
    with_monitor: object = False,
    selector: Any = None,
    debug: object = None,
    activations: object = None,
    taskcls: type | None = ...,
    max_select_timeout: float | None = None,
) -> _T: ...
@overload
def run(
    corofunc: Coroutine[Any, Any, _T],
    *,
    with_monitor: object = False,
    selector: Any = None,
    debug: object = None,
    activations: object = None,
    taskcls: type | None = ...,
    max_select_timeout: float | None = None,
) -> _T: ...

@disjoint_base
class KernelBase:
    def __new__(
        cls,
        selector: Any = None,
        debug: object = None,
        activations: object = None,
        taskcls: type | None = None,
        max_select_timeout: float | None = None,
        *,
        with_monitor: object = None,
    ) -> KernelBase: ...
    def run(
        self,
        corofunc: Callable[..., Coroutine[Any, Any, Any]] | Coroutine[Any, Any, Any] | None = None,
        *args: Any,
        pdb: bool = False,
        log_errors: bool = True,
        shutdown: bool = False,
    ) -> Any: ...
    def shutdown(self) -> None: ...
    def stop(self) -> None: ...
    def add_task(
        self,
        coro: Callable[[], Coroutine[Any, Any, Any]] | Coroutine[Any, Any, Any],
        daemon: bool = False,
    ) -> Any: ...
    def set_crash_handler(self, callback: Callable[[Any], object] | None) -> None: ...
    def __enter__(self: _T) -> _T: ...
    def __exit__(self, *_exception: object) -> None: ...

@disjoint_base
class TaskBase:
    @property
    def id(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def cycles(self) -> int: ...
    @property
    def coro(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def daemon(self) -> bool: ...
    @property
    def parentid(self) -> int | None: ...
    @property
    def children(self) -> set[Any]: ...
    @property
    def terminated(self) -> bool: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def cancel_origin(self) -> CancelOrigin | None: ...
    @property
    def cancel_pending(self) -> bool: ...
    @property
    def allow_cancel(self) -> bool: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def sleep(self) -> float | None: ...
    @property
    def result(self) -> Any: ...
    @property
    def exception(self) -> BaseException | None: ...
    @property
    def exc_info(
        self,
    ) -> tuple[type[BaseException], BaseException, TracebackType | None] | None: ...
    @property
    def joined(self) -> bool: ...
    @property
    def taskgroup(self) -> Any: ...

@disjoint_base
class SocketBase:
    @property
    def _socket(self) -> Any: ...
    def _attach(self, socket: Any, fileno: int, stream: bool, /) -> None: ...
    def _detach(self) -> None: ...

@final
class CancelOrigin:
    @property
    def task_id(self) -> int | None: ...
    @property
    def task_name(self) -> str | None: ...
    @property
    def filename(self) -> str | None: ...
    @property
    def lineno(self) -> int | None: ...
    @property
    def deadline(self) -> float | None: ...
    @property
    def reason(self) -> str | None: ...

@final
class TimeoutBlock:
    @property
    def expired(self) -> bool: ...
    @property
    def result(self) -> Any: ...
    async def __aenter__(self) -> TimeoutBlock: ...
    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        exception: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool: ...
    def __enter__(self) -> NoReturn: ...
    def __exit__(self, *_exception: object) -> NoReturn: ...

@final
class ShieldBlock:
    async def __aenter__(self) -> ShieldBlock: ...
    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        exception: BaseException | None,
        _traceback: TracebackType | None,
    ) -> Literal[True, False]: ...
    def __enter__(self) -> NoReturn: ...
    def __exit__(self, *_exception: object) -> NoReturn: ...
