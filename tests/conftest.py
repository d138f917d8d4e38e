"""What every test here gets: a kernel, the kernel's log, and a limit on its time.

A test that hangs is worth no more than one that fails, and says less. So each has a watch
over it that needs no help from the code under test: after `PATIENCE` seconds the stacks of
all threads are printed and the process ends. A test also fails if it prints something
that it has not read by `capfd` or `capsys`, for a library prints nothing by itself.
"""

import faulthandler
import gc
import logging
import os
import signal
import sys
import warnings

import curio
import pytest
from programs import Program, descriptors

PATIENCE = 60

# The tutorial's programs run at their real speed, one after the other.
SLOW = dict.fromkeys(
    (
        "test_tutorial.py",
        "test_tutorial_workers.py",
        "test_examples.py",
        "test_docs.py",
        "test_soak.py",
    ),
    300,
)

_terminal = None


def pytest_configure():
    # While tests run, pytest has a file in place of descriptor 2; a stack belongs on the terminal.
    global _terminal
    _terminal = os.fdopen(os.dup(2), "w")
    # A shell has its background jobs ignore Ctrl-C, and so would the children of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure():
    _terminal.close()


@pytest.fixture(autouse=True)
def watch(request):
    patience = SLOW.get(request.path.name, PATIENCE)
    if "program" in request.fixturenames:
        patience *= 2  # such a test has a limit of its own, and more to say when it is over
    faulthandler.dump_traceback_later(patience, exit=True, file=_terminal)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def silence(capfd):
    yield
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = capfd.readouterr()
    assert (out, err) == ("", ""), "something was printed"


@pytest.fixture
def program(tmp_path):
    """Runs the text of a program in a process of its own: `program(text)` is a `Program`."""
    programs = []

    def start(text):
        path = tmp_path / f"program{len(programs)}.py"
        path.write_text(text)
        programs.append(Program(path, cwd=tmp_path))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


@pytest.fixture
def kernel():
    with curio.Kernel() as kernel:
        yield kernel


@pytest.fixture(scope="module")
def quick_collections():
    """The collector looks at what tests make, not at all modules each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def runs(kernel, quick_collections):
    """Runs a coroutine function; then all descriptors that it has opened are closed again."""

    def run(function, *args, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a test has left that has failed
            gc.collect()
        kernel.run(curio.sleep, 0.0)
        before = descriptors()
        result = kernel.run(function, *args, **options)
        gc.collect()
        assert descriptors() == before
        return result

    return run


class Log(logging.Handler):
    """What was logged: records, and their texts with the traceback, as a program has them."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.texts = []

    def emit(self, record):
        self.records.append(record)
        self.texts.append(self.format(record))

    def __len__(self):
        return len(self.records)

    def __bool__(self):
        return bool(self.records)


@pytest.fixture
def log():
    """All that is logged below `curio`; it goes nowhere else."""
    logger = logging.getLogger("curio")
    handler = Log()
    handler.setLevel(logging.DEBUG)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.propagate = propagate
