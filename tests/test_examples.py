"""Every example runs as its header says, and prints what it is there to show."""

import os
import re
import signal

import pytest
from programs import ROOT, Program, echoed, free_port, hang_up, vanish

EXAMPLES = ROOT / "examples"


def test_each_example_is_tested_and_says_how_to_start_it():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {"demo.py", "echo.py", "echo_server.py", "family.py", "hello.py"}
    for name in names:
        text = (EXAMPLES / name).read_text()
        assert text.startswith('"""'), name
        assert "\nShows:" in text, name
        assert f"python examples/{name}" in text, name


def test_hello():
    with Program(EXAMPLES / "hello.py", "2") as program:
        program.succeed()
        assert program.lines == ["T-minus 2", "T-minus 1", "Lift-off!"]


def test_family():
    with Program(EXAMPLES / "family.py", "0.1") as program:
        program.succeed()
        assert program.lines == [
            "Kid:    building a space ship",
            "Parent: let's go",
            "Parent: 3",
            "Parent: 2",
            "Parent: 1",
            "Parent: we're leaving!",
            "Parent: I warned you!",
            "Kid:    fine, saving my work ...",
            "Kid:    ... saved",
            "Parent: leaving",
        ]


@pytest.mark.parametrize("name", ["echo.py", "echo_server.py"])
def test_echo(name):
    port = 0 if name == "echo.py" else free_port()
    with Program(EXAMPLES / name, str(port)) as program:
        if port == 0:
            program.wait_for("Listening at ('127.0.0.1', ")
            program.wait_for("\n")
            port = int(re.search(r"(\d+)\)", program.output)[1])
        peers = [program.connect(port) for _ in range(3)]
        for number, peer in enumerate(peers):
            message = f"peer {number} ".encode() * 10_000
            assert echoed(peer, message) == message
        vanish(peers.pop())
        assert echoed(peers[0], b"still there") == b"still there"
        for peer in peers:
            assert hang_up(peer) == b""
        program.wait_for("Connection closed\n")
        program.process.send_signal(signal.SIGINT)
        assert program.wait(10) == 0, program.report()
        assert program.lines[-1] == "Server ended"


def test_demo(tmp_path):
    # A stand-in for the Rust demo: what matters here is that it is started, last.
    rust = tmp_path / "demo"
    rust.write_text("#!/bin/sh\necho the Rust demo\n")
    rust.chmod(0o755)
    arguments = ["--seconds", "1", "--clients", "20", "--rust", str(rust)]
    with Program(EXAMPLES / "demo.py", *arguments) as program:
        program.succeed()
        said = program.output
    assert "... saved." in said
    assert said.index("I warned you") < said.index("... saved.") < said.index("Off we go")
    total = re.search(r"([\d,]+) requests in 1\.\d s: ([\d,]+) requests/s", said)
    assert total and int(total[1].replace(",", "")) > 0, said
    assert said.endswith("the Rust demo\n")
    assert "\x1b" not in said, "colours where there is no terminal"


def test_demo_without_rust_says_how_to_get_it(monkeypatch):
    monkeypatch.delenv("CURIO_RUST_DEMO", raising=False)
    with Program(EXAMPLES / "demo.py", "--seconds", "0.2", "--clients", "1") as program:
        program.succeed()
        assert "make demo" in program.lines[-1]


def test_demo_ends_by_ctrl_c_with_its_clients():
    with Program(EXAMPLES / "demo.py", "--seconds", "50", "--clients", "10") as program:
        program.wait_for("connections")
        # As a terminal does, to the whole group; here to the demo alone, which is harder.
        os.kill(program.process.pid, signal.SIGINT)
        assert program.wait(10) == 130, program.report()
        assert "Traceback" not in program.errors, program.report()
