"""Whole programs, drawn by a seed, on a simulated network: nothing is lost in any of them.

The programs, and the laws that they are held to, are in `simulation.py`; `make simulate` runs
more of them.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import simulation

PROGRAMS = 600

PROGRAM = Path(simulation.__file__)


@pytest.mark.usefixtures("log")
def test_random_programs_lose_nothing():
    figures = Counter()
    for seed in range(PROGRAMS):
        try:
            figures.update(simulation.check(seed, twice=seed % 16 == 0)[1])
        except Exception as error:
            raise AssertionError(f"{error}\nreplay: make simulate SEED={seed}") from error
    # The programs are not too tame.
    enough = {"cancelled": 4, "timed out": 2, "items": 2, "bytes": 1000, "faults": 0.05}
    for figure, share in enough.items():
        assert figures[figure] > share * PROGRAMS, figures


def test_a_seed_is_the_same_program_in_another_process():
    command = [sys.executable, PROGRAM, "58"]
    # What depends on addresses or on hashes would differ.
    told = {subprocess.check_output(command, env={"PYTHONHASHSEED": seed}) for seed in "123"}
    assert len(told) == 1
    assert told.pop().count(b"\n") > 50


@pytest.mark.usefixtures("log")
def test_what_is_lost_is_seen(monkeypatch):
    # The laws would be worth nothing if they held for whatever there is.
    class Lossy(simulation.curio.Queue):
        async def get(self):
            item = await super().get()
            await simulation.curio.sleep(0.001)  # whoever is interrupted here loses the item
            return item

    monkeypatch.setattr(simulation.curio, "Queue", Lossy)
    with pytest.raises(simulation.Broken, match="each item once"):
        for seed in range(100):
            simulation.check(seed)
