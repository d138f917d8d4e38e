from collections.abc import Collection
from logging import Logger
from typing import Any

from .kernel import Activation, Kernel
from .sync import Lock
from .task import Task

__all__ = ["locker", "logcrash", "longblock", "schedtrace", "traptrace"]

log: Logger

class DebugBase(Activation):
    level: int
    log: Logger
    filter: Collection[str] | None
    def __init__(
        self,
        *,
        level: int | None = None,
        log: Logger = ...,
        filter: str | Collection[str] | None = None,
    ) -> None: ...
    def check_filter(self, task: Task[Any]) -> bool: ...

class schedtrace(DebugBase): ...
class traptrace(DebugBase): ...
class logcrash(DebugBase): ...

class longblock(DebugBase):
    max_time: float
    def __init__(
        self,
        *,
        max_time: float = 0.05,
        level: int | None = None,
        log: Logger = ...,
        filter: str | Collection[str] | None = None,
    ) -> None: ...
    def activate(self, kernel: Kernel) -> None: ...

def locker(first: Lock, second: Lock) -> None: ...
