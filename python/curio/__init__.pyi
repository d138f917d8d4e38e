from typing import Any

from . import channel as channel
from . import debug as debug
from . import file as file
from . import io as io
from . import meta as meta
from . import monitor as monitor
from . import sched as sched
from . import socket as socket
from . import ssl as ssl
from . import subprocess as subprocess
from . import testing as testing
from .errors import AsyncOnlyError as AsyncOnlyError
from .errors import CancelledError as CancelledError
from .errors import CurioError as CurioError
from .errors import KernelExit as KernelExit
from .errors import ReadResourceBusy as ReadResourceBusy
from .errors import ResourceBusy as ResourceBusy
from .errors import SyncIOError as SyncIOError
from .errors import TaskCancelled as TaskCancelled
from .errors import TaskError as TaskError
from .errors import TaskExit as TaskExit
from .errors import TaskGroupError as TaskGroupError
from .errors import TaskInterrupted as TaskInterrupted
from .errors import TaskTimeout as TaskTimeout
from .errors import TimeoutCancellationError as TimeoutCancellationError
from .errors import UncaughtTimeoutError as UncaughtTimeoutError
from .errors import WriteResourceBusy as WriteResourceBusy
from .kernel import Kernel as Kernel
from .kernel import run as run
from .network import Server as Server
from .network import create_server as create_server
from .network import create_unix_server as create_unix_server
from .network import open_connection as open_connection
from .network import open_unix_connection as open_unix_connection
from .network import run_server as run_server
from .network import run_unix_server as run_unix_server
from .network import tcp_server as tcp_server
from .network import tcp_server_socket as tcp_server_socket
from .network import unix_server as unix_server
from .network import unix_server_socket as unix_server_socket
from .queue import LifoQueue as LifoQueue
from .queue import PriorityQueue as PriorityQueue
from .queue import Queue as Queue
from .queue import UniversalQueue as UniversalQueue
from .signal import SignalEvent as SignalEvent
from .signal import SignalQueue as SignalQueue
from .signal import SignalSet as SignalSet
from .signal import enable_signals as enable_signals
from .signal import ignore_signals as ignore_signals
from .sync import BoundedSemaphore as BoundedSemaphore
from .sync import Condition as Condition
from .sync import Event as Event
from .sync import Lock as Lock
from .sync import Result as Result
from .sync import RLock as RLock
from .sync import Semaphore as Semaphore
from .sync import UniversalEvent as UniversalEvent
from .sync import UniversalResult as UniversalResult
from .task import Task as Task
from .task import TaskGroup as TaskGroup
from .task import check_cancellation as check_cancellation
from .task import current_task as current_task
from .task import disable_cancellation as disable_cancellation
from .task import enable_cancellation as enable_cancellation
from .task import gather as gather
from .task import get_all_tasks as get_all_tasks
from .task import set_cancellation as set_cancellation
from .task import spawn as spawn
from .thread import AWAIT as AWAIT
from .thread import async_thread as async_thread
from .thread import spawn_thread as spawn_thread
from .time import clock as clock
from .time import ignore_after as ignore_after
from .time import ignore_at as ignore_at
from .time import schedule as schedule
from .time import sleep as sleep
from .time import stop_after as stop_after
from .time import timeout_after as timeout_after
from .time import timeout_at as timeout_at
from .time import wake_at as wake_at
from .workers import block_in_thread as block_in_thread
from .workers import run_blocking as run_blocking
from .workers import run_cpu_bound as run_cpu_bound
from .workers import run_in_executor as run_in_executor
from .workers import run_in_process as run_in_process
from .workers import run_in_thread as run_in_thread

__all__ = [
    "AWAIT",
    "AsyncOnlyError",
    "BoundedSemaphore",
    "CancelledError",
    "Condition",
    "CurioError",
    "Event",
    "Kernel",
    "KernelExit",
    "LifoQueue",
    "Lock",
    "PriorityQueue",
    "Queue",
    "RLock",
    "ReadResourceBusy",
    "ResourceBusy",
    "Result",
    "Semaphore",
    "Server",
    "SignalEvent",
    "SignalQueue",
    "SignalSet",
    "SyncIOError",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskExit",
    "TaskGroup",
    "TaskGroupError",
    "TaskInterrupted",
    "TaskTimeout",
    "TimeoutCancellationError",
    "UncaughtTimeoutError",
    "UniversalEvent",
    "UniversalQueue",
    "UniversalResult",
    "WriteResourceBusy",
    "anext",
    "aopen",
    "async_thread",
    "block_in_thread",
    "check_cancellation",
    "clock",
    "create_server",
    "create_unix_server",
    "current_task",
    "disable_cancellation",
    "enable_cancellation",
    "enable_signals",
    "gather",
    "get_all_tasks",
    "ignore_after",
    "ignore_at",
    "ignore_signals",
    "open_connection",
    "open_unix_connection",
    "run",
    "run_blocking",
    "run_cpu_bound",
    "run_in_executor",
    "run_in_process",
    "run_in_thread",
    "run_server",
    "run_unix_server",
    "schedule",
    "set_cancellation",
    "sleep",
    "spawn",
    "spawn_thread",
    "stop_after",
    "tcp_server",
    "tcp_server_socket",
    "timeout_after",
    "timeout_at",
    "unix_server",
    "unix_server_socket",
    "wake_at",
]

__version__: str

def aopen(*args: Any, **kwargs: Any) -> Any: ...
async def anext(iterator: Any, *sentinel: Any) -> Any: ...
