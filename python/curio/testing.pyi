from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from typing_extensions import Self, TypeVarTuple, Unpack

from ._curio import NetworkBase, Testing
from .io import Socket
from .kernel import Kernel
from .task import Task

__all__ = ["Interruption", "Network", "Report", "VirtualKernel", "interrupt_everywhere", "run"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

class VirtualKernel(Kernel):
    def __new__(
        cls,
        seed: int | None = None,
        *,
        network: Network | None = None,
        debug: Any = None,
        activations: Any = None,
        taskcls: type[Task[Any]] | None = None,
        _testing: Testing | None = None,
    ) -> Self: ...

def run(
    corofunc: Callable[[Unpack[_Ts]], Awaitable[_T]],
    *args: Unpack[_Ts],
    seed: int | None = None,
    network: Network | None = None,
) -> _T: ...

class Network(NetworkBase):
    def __new__(cls, seed: int = 0, **conditions: Any) -> Self: ...
    def __init__(
        self,
        seed: int = 0,
        *,
        delay: tuple[float, float] = (0.0, 0.01),
        loss: float = 0.0,
        duplicates: float = 0.0,
        resets: float = 0.0,
        buffer: int = 65536,
    ) -> None: ...
    def set(self, **conditions: Any) -> None: ...
    def host(self, name: str) -> str: ...
    def cut(self, host: str, other: str | None = None) -> None: ...
    def heal(self) -> None: ...
    def reset_all(self) -> None: ...
    def pair(self) -> tuple[Socket, Socket]: ...
    def datagrams(self) -> tuple[Socket, Socket]: ...

class Report(NamedTuple):
    points: int
    runs: int

class Interruption(NamedTuple):
    where: str | None
    result: object
    exception: BaseException | None

def interrupt_everywhere(
    corofunc: Callable[[Unpack[_Ts]], Awaitable[object]],
    *args: Unpack[_Ts],
    check: Callable[[Interruption], object] | None = None,
    any_error: bool = False,
    seed: int | None = None,
) -> Report: ...
