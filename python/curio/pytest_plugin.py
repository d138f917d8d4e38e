"""A plugin for pytest, which finds it by itself: async tests on a virtual kernel.

A test that is marked with `curio` runs as the main task of a `curio.testing.VirtualKernel`, so
that it never sleeps; the next task to run is drawn by a seed::

    @pytest.mark.curio
    async def test_patience(curio_network):
        with pytest.raises(TimeoutError):
            curio_network.cut('server')
            await curio.open_connection('server', 80)

Other tests are left alone, and so are other plugins' marks. The marker's arguments: `seeds=n` runs
the test n times, each with a seed of its own; `real=True` runs it on an ordinary kernel. The seed
is another one in each session, and a failed test's report names it: `--curio-seed=n` repeats the
run. `-p no:curio` switches the plugin off.
"""

import inspect
import random

import pytest

__all__ = ["curio_kernel", "curio_network", "curio_seed"]


def pytest_addoption(parser):
    group = parser.getgroup("curio")
    group.addoption(
        "--curio-seed",
        type=int,
        metavar="N",
        help="what the run order and the network of curio's tests are drawn from",
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers",
        "curio(seeds=1, real=False): run an async test on a virtual kernel of curio's, so many "
        "times with different seeds; or on a real one.",
    )
    if config.option.curio_seed is None:
        config.option.curio_seed = random.SystemRandom().randrange(1_000_000_000)
    elif config.option.curio_seed < 0:
        raise pytest.UsageError("--curio-seed is a number, 0 or more")


@pytest.fixture
def curio_seed(request):
    """The test's seed, a number."""
    return getattr(request, "param", request.config.option.curio_seed)


@pytest.fixture
def curio_network(curio_seed):
    """A `curio.testing.Network` with the test's seed. The test's kernel is on it."""
    from .testing import Network

    return Network(curio_seed)


@pytest.fixture
def curio_kernel(request, curio_seed):
    """A `curio.testing.VirtualKernel` with the test's seed; shut down after the test.

    It has the `curio_network`, if the test has that. With the marker's `real=True`, an ordinary
    `curio.Kernel`.
    """
    marker = request.node.get_closest_marker("curio")
    if marker is not None and marker.kwargs.get("real"):
        if "curio_network" in request.fixturenames:
            raise pytest.UsageError("a test on a real kernel has no curio_network")
        from .kernel import Kernel

        kernel = Kernel()
    else:
        from .testing import VirtualKernel

        network = None
        if "curio_network" in request.fixturenames:
            network = request.getfixturevalue("curio_network")
        kernel = VirtualKernel(curio_seed, network=network)
    with kernel:
        yield kernel


def _marker(collector, function):
    own = getattr(function, "pytestmark", [])
    marks = [*own, *collector.iter_markers("curio")]
    return next((mark for mark in marks if mark.name == "curio"), None)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector, name, obj):
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(obj):
        if _marker(collector, obj) is not None:
            pytest.mark.usefixtures("curio_kernel")(obj)


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("curio")
    if marker is None:
        return
    unknown = set(marker.kwargs) - {"seeds", "real"}
    seeds = marker.kwargs.get("seeds", 1)
    if marker.args or unknown or not isinstance(seeds, int) or seeds < 1:
        given = [*map(repr, marker.args), *(f"{k}={v!r}" for k, v in marker.kwargs.items())]
        given = ", ".join(given)
        raise pytest.UsageError(f"mark.curio takes seeds=n and real=True, not {given}")
    if seeds > 1 and "curio_seed" in metafunc.fixturenames:
        first = metafunc.config.option.curio_seed
        metafunc.parametrize("curio_seed", range(first, first + seeds), indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    test = pyfuncitem.obj
    marker = pyfuncitem.get_closest_marker("curio")
    if marker is None or not inspect.iscoroutinefunction(test):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}

    async def main():
        await test(**arguments)

    main.__qualname__ = test.__qualname__
    pyfuncitem.funcargs["curio_kernel"].run(main)
    return True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    seed = getattr(item, "funcargs", {}).get("curio_seed")
    if report.failed and seed is not None:
        report.sections.append(("curio", f"to repeat this: --curio-seed={seed}"))
