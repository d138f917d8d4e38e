"""The plugin for pytest: which tests it runs, on what, and what it says of those that fail.

Each test is a run of pytest's, in a process of its own, which finds the plugin by its entry point.
"""

import re

import pytest

pytest_plugins = ["pytester"]

# Hypothesis is most of what a start of pytest takes.
QUICK = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]


@pytest.fixture
def run(pytester, capfd):
    """Runs a test file; what pytester prints is only to be seen if the test fails."""

    def run(text, *options):
        pytester.makepyfile("import curio, pytest\n\n" + text)
        result = pytester.runpytest_subprocess(*QUICK, *options)
        run.text = capfd.readouterr().out
        return result

    return run


def test_marked_tests_run_on_virtual_time(run):
    result = run("""
@pytest.mark.curio
async def test_a_day():
    before = await curio.clock()
    assert await curio.sleep(86_400) - before == 86_400

class TestAll:
    pytestmark = pytest.mark.curio

    @pytest.mark.parametrize("seconds", [1, 2])
    async def test_sleep(self, seconds, curio_kernel):
        assert isinstance(curio_kernel, curio.testing.VirtualKernel)
        await curio.sleep(seconds)

    def test_plain(self):
        pass

def test_by_hand(curio_kernel):
    assert curio_kernel.run(curio.sleep, 10) == 10
""")
    result.assert_outcomes(passed=5)


def test_what_is_left_is_cancelled(run):
    result = run("""
ended = []

@pytest.mark.curio
async def test_leaves_a_daemon():
    async def child():
        try:
            await curio.sleep(1000)
        finally:
            ended.append(True)

    await curio.spawn(child, daemon=True)

def test_it_has_ended():
    assert ended
""")
    result.assert_outcomes(passed=2)


def test_the_network_is_the_tests(run):
    result = run("""
@pytest.mark.curio
async def test_echo(curio_network):
    async def hello(client, address):
        await client.sendall(b"hello")

    await curio.spawn(curio.tcp_server, "server", 80, hello, daemon=True)
    await curio.sleep(0)
    sock = await curio.open_connection("server", 80)
    async with sock.as_stream() as stream:
        assert await stream.readall() == b"hello"
    curio_network.cut("server")
    with pytest.raises(TimeoutError):
        await curio.open_connection("server", 80)
""")
    result.assert_outcomes(passed=1)


FAILS = """
@pytest.mark.curio
async def test_fails(curio_seed):
    assert curio_seed == -1
"""


def test_a_failure_tells_its_seed(run):
    result = run(FAILS, "--curio-seed=4711")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*to repeat this: --curio-seed=4711*"])


def test_the_seed_is_another_one_each_time(run):
    def seed():
        run(FAILS)
        return re.search(r"--curio-seed=(\d+)", run.text)[1]

    assert seed() != seed()


def test_a_seed_draws_the_order(run):
    orders = set()
    for seed in (1, 1, 2, 3):
        run(
            """
@pytest.mark.curio
async def test_order(capsys):
    order = []

    async def child(number):
        await curio.sleep(1)
        order.append(number)

    async with curio.TaskGroup() as group:
        for number in range(9):
            await group.spawn(child, number)
    raise Exception(order)
""",
            f"--curio-seed={seed}",
        )
        [line] = [line for line in run.text.splitlines() if line.startswith("E   ")]
        orders.add((seed, line))
    assert len(orders) == 3
    assert len({order for _seed, order in orders}) > 1


def test_many_seeds(run):
    result = run(
        """
@pytest.mark.curio(seeds=10)
async def test_seven(curio_seed, curio_network):
    assert curio_seed != 107
""",
        "--curio-seed=100",
    )
    result.assert_outcomes(passed=9, failed=1)
    result.stdout.fnmatch_lines(["*--curio-seed=107*"])


def test_a_real_kernel(run):
    result = run("""
@pytest.mark.curio(real=True)
async def test_real(curio_kernel):
    assert type(curio_kernel) is curio.Kernel
    await curio.sleep(0.001)

@pytest.mark.curio(real=True)
async def test_no_network(curio_network):
    pass
""")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*a test on a real kernel has no curio_network*"])


def test_a_deadlock_is_a_failure(run):
    result = run("""
@pytest.mark.curio
async def test_hangs():
    await curio.Event().wait()
""")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*deadlock: every task waits*"])


@pytest.mark.parametrize("given", ["1", "seed=1, seeds=0"])
def test_other_arguments_are_errors(run, given):
    result = run(f"""
@pytest.mark.curio({given})
async def test_it():
    pass
""")
    assert result.ret != 0
    assert f"mark.curio takes seeds=n and real=True, not {given}" in run.text


def test_unmarked_tests_are_left_alone(run):
    result = run(
        """
async def test_async():
    await curio.sleep(0)

def test_plain():
    pass
""",
        "-W",
        "ignore",
    )
    assert result.parseoutcomes().get("passed") == 1
    assert "async def functions are not natively supported" in run.text


def test_it_can_be_switched_off(run):
    result = run("def test(): pass", "-p", "no:curio", "--strict-markers")
    result.assert_outcomes(passed=1)
    run("def test(): pass", "-p", "no:curio", "--markers")
    assert "mark.curio" not in run.text
    run("def test(): pass", "--markers")
    assert "mark.curio" in run.text
