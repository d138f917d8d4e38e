"""What the tests of worker processes have done there: a module that a worker can import quickly."""

import os
import signal
import sys
import threading
import time


class Oops(Exception):
    pass


class NeedsTwo(Exception):
    """Hands on one argument and takes two: it can be pickled, and not be unpickled."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.one, self.two = one, two


class Unpicklable(Exception):
    def __init__(self):
        super().__init__("with a lock")
        self.lock = threading.Lock()


class OnlyThere(Exception):
    """Can be unpickled in the process that has made it."""

    def __reduce__(self):
        return _only_here, (os.getpid(),)


def _only_here(pid):
    if os.getpid() != pid:
        raise ValueError("unpickled elsewhere")
    return OnlyThere("but here")


class Costly:
    """Something whose unpickling fails, in the worker or on the way back."""

    def __init__(self, message):
        self.message = message

    def __reduce__(self):
        return _explode, (self.message,)


def _explode(message):
    raise Oops(message)


def echo(*args, **kwargs):
    return args, kwargs


def give(value=None):
    return value


def add(a, b):
    return a + b


def pid():
    return os.getpid()


def fib(n):
    return 1 if n <= 2 else fib(n - 1) + fib(n - 2)


def fail(kind, *args):
    raise kind(*args)


def fail_because():
    try:
        raise KeyError("the reason")
    except KeyError as error:
        raise Oops("failed") from error


def fail_with_attribute():
    error = Oops("look")
    error.code = 42
    raise error


def fail_with_file():
    open("/no/such/file")


def lambda_():
    return lambda: None


def costly(message):
    return Costly(message)


def text(size):
    return b"x" * size


def length(data):
    return len(data)


def leave(path):
    """Says that it has begun, and goes on for ever."""
    mark(path)
    while True:
        time.sleep(100)


def leave_stubbornly(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    leave(path)


def spin(path):
    """As `leave`, in one call of the interpreter's that looks at no signal."""
    mark(path)
    sum(range(10**13))


def mark(path):
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)


def wait_for(path, value):
    """Waits until there is such a file."""
    while not os.path.exists(path):
        time.sleep(0.001)
    return value


def begin_and_wait(begun, go, value):
    mark(begun)
    return wait_for(go, value)


def kill(signo):
    os.kill(os.getpid(), signo)
    time.sleep(100)


def exit_at_once(status):
    os._exit(status)


def fork_and_return():
    """Comes back twice; gives the child's number, in the parent."""
    return os.fork()


def fork_and_stay(path):
    """Leaves a child behind that holds whatever it has inherited, and dies."""
    child = os.fork()
    if child == 0:
        mark(path)
        time.sleep(100)
        os._exit(0)
    wait_for(path, None)
    os.kill(os.getpid(), signal.SIGKILL)


def descriptors():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # that of the listing
    return found


def signals():
    """What has a handler of Python's, is ignored, is blocked; and the wake-up descriptor."""
    handlers = {}
    for signo in sorted(signal.valid_signals()):
        handler = signal.getsignal(signo)
        handlers[int(signo)] = handler if handler is None or isinstance(handler, int) else "ours"
    blocked = sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    return handlers, blocked, signal.set_wakeup_fd(-1)


def modules():
    return sorted(sys.modules)


def open_file_limit():
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


def make_module_and_fail():
    """Raises an exception of a module that nobody else has."""
    import types

    module = types.ModuleType("nowhere")
    exec("class Lost(Exception):\n    pass", module.__dict__)
    sys.modules["nowhere"] = module
    raise module.Lost("far away")


def call_a_process(path):
    """Has a worker of its own, which goes on for ever."""
    import curio

    curio.run(curio.run_in_process, leave, path)


async def coroutine_function():
    pass
