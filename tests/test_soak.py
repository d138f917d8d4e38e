"""`make soak` for some seconds: it loses nothing, and its checks are made.

Goal: what only happens when everything happens at once. Method: the program itself, smaller.
"""

import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).with_name("soak.py")


def test_everything_at_once():
    ended = subprocess.run(
        [sys.executable, SOAK, "5", "200"], capture_output=True, text=True, timeout=200
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    done, _, *checks = ended.stdout.splitlines()
    assert len(checks) == 6 and all(check.startswith("ok ") for check in checks)
    for work in "TLS lines", "async threads", "calls in processes", "programs", "cancellations":
        assert work in done
