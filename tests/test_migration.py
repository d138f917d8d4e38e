"""Programs for Curio 1.6 run unchanged.

Those of the tutorial's day are the tutorial's: the files test_tutorial*.py run them.
"""

from pathlib import Path

from programs import Program

PROGRAMS = Path(__file__).parent / "migration"


def test_warehouse(tmp_path):
    """It prints what it has printed under 1.6."""
    with Program(PROGRAMS / "warehouse.py", cwd=tmp_path) as program:
        program.succeed()
        assert program.output == (PROGRAMS / "warehouse.txt").read_text()
        assert program.errors == ""
