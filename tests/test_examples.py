"""Every example runs as its header says, and prints what it is there to show."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from programs import PATIENCE, ROOT, Program, echoed, free_port, hang_up, vanish

EXAMPLES = ROOT / "examples"


def test_each_example_is_tested_and_says_how_to_start_it():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    here = {"deadlock.py", "demo.py", "echo.py", "echo_server.py", "family.py", "hello.py"}
    # These are in test_protocols.py.
    protocols = {"http_server.py", "http_client.py", "http2_server.py", "websocket_echo.py"}
    assert names == here | protocols | {"chat.py", "cluster.py", "tls_echo.py", "udp_echo.py"}
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
        program.press_ctrl_c()
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


def test_deadlock(tmp_path):
    environment = {**os.environ, "XDG_RUNTIME_DIR": tempfile.mkdtemp(dir="/tmp")}
    with Program(EXAMPLES / "deadlock.py", environment=environment) as program:
        command = [sys.executable, "-m", "curio.monitor"]
        deadline = time.monotonic() + PATIENCE
        while "Deadlock" not in (said := ask(command, "deadlock\n", environment)):
            assert time.monotonic() < deadline, program.report()
        assert (
            "Deadlock: task 3 (locker) waits for Lock 2, held by task 4 (writer), "
            "which waits for Lock 1, held by task 3 (locker)\n"
        ) in said
        ask(command, "cancel 4\n", environment)
        program.succeed()
    shutil.rmtree(environment["XDG_RUNTIME_DIR"])


def ask(command, line, environment):
    asked = subprocess.run(command, input=line, capture_output=True, text=True, env=environment)
    return asked.stdout


def test_chat():
    with Program(EXAMPLES / "chat.py", "0") as program:
        program.wait_for("Chatting at ('127.0.0.1', ")
        port = int(re.search(r"(\d+)\)", program.output)[1])
        with program.connect(port) as one, one.makefile("rb") as heard:
            with program.connect(port) as other:
                name = "{}:{}".format(*other.getsockname()).encode()
                assert heard.readline() == name + b": has come\n"
                other.sendall(b"Hello\nHow are you?\n")
                assert heard.readline() == name + b": Hello\n"
                assert heard.readline() == name + b": How are you?\n"
                one.sendall(b"Fine\n")
                assert other.recv(100).endswith(b": Fine\n")
            assert heard.readline() == name + b": has left\n"
            vanish(program.connect(port))
            assert heard.readline().endswith(b": has come\n")
            assert heard.readline().endswith(b": has left\n")
        program.press_ctrl_c()
        program.succeed()


def test_udp_echo():
    with Program(EXAMPLES / "udp_echo.py") as program:
        program.succeed()
        assert program.lines == [
            "Server: lost b'Hello'",
            "Client: no answer to attempt 1",
            "Client: got b'Hello'",
        ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_echo(tmp_path):
    # As its header says.
    text = (EXAMPLES / "tls_echo.py").read_text()
    command = re.search(r"openssl .*?localhost$", text, re.S | re.M)[0].replace("\\", "")
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    with Program(EXAMPLES / "tls_echo.py", "cert.pem", "key.pem", cwd=tmp_path) as program:
        program.succeed()
        assert program.lines == ["Talking TLSv1.3", "Echo: b'Hello\\n'"]


def test_cluster():
    pytest.importorskip("distributed", reason="distributed (Dask) is not installed")
    with Program(EXAMPLES / "cluster.py") as program:
        program.succeed()
        results = [line for line in program.lines if line.startswith("fib")]
        assert results[0] == "fib(20) = 6765" and results[7] == "fib(27) = 196418"
        assert results[8:] == ["fib(70) was given up"]
