"""The tutorial's programs of "Subprocesses", unchanged.

`ping` and `netstat` are scripts of the test's own: machines lack the one, and the network.
"""

import os
import signal
from pathlib import Path

import pytest
from programs import Program

PROGRAMS = Path(__file__).parent / "tutorial"


@pytest.fixture
def path(tmp_path):
    """An environment whose first programs are those in `tmp_path`."""
    environment = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}")

    def script(name, text):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
        return environment

    return script


def test_ping(path, tmp_path):
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)
    ping = f"""
echo PING "$@"
echo 64 bytes: icmp_seq=1
read line < {go_on}
echo 64 bytes: icmp_seq=2
"""
    with Program(PROGRAMS / "ping.py", environment=path("ping", ping)) as program:
        # Each line is there before the next is written.
        program.wait_for("icmp_seq=1")
        assert program.lines == ["Got: PING www.python.org", "Got: 64 bytes: icmp_seq=1"]
        go_on.write_text("\n")
        program.succeed()
        assert program.lines[2:] == ["Got: 64 bytes: icmp_seq=2"]


def test_ping_ends_by_ctrl_c(path):
    environment = path("ping", "echo $$; exec sleep 1000")
    with Program(PROGRAMS / "ping.py", environment=environment) as program:
        program.wait_for("Got: ")
        program.interrupt()
        os.kill(int(program.lines[0].split()[1]), signal.SIGINT)  # as the terminal does


@pytest.mark.parametrize("status", [0, 1])
def test_netstat(path, tmp_path, status):
    environment = path("netstat", f"echo netstat $1; exit {status}")
    # The tutorial shows the function alone.
    caller = tmp_path / "caller.py"
    caller.write_text(f"""
import curio, runpy
program = runpy.run_path({str(PROGRAMS / "netstat.py")!r})
curio.run(program["main"])
""")
    with Program(caller, environment=environment) as program:
        program.succeed()
        failed = "It failed! Command '['netstat', '-a']' returned non-zero exit status 1."
        assert program.lines == ([failed] if status else [])
