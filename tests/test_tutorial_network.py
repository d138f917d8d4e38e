"""The tutorial's programs from "A Stream-Based Echo Server" to "Blocking I/O", unchanged.

They insist on their ports, 25000 and 10000, and on www.python.org; so the servers come one after
the other, and the clients are told that the world's servers are ours.
"""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from programs import Program, echoed, hang_up, wait_until_free

PROGRAMS = Path(__file__).parent / "tutorial"
PORT = 25000


def server_of(name):
    wait_until_free(PORT)
    return Program(PROGRAMS / f"{name}.py")


@pytest.mark.parametrize("name", ["echo_streams", "echo_lines", "blocking", "blocking_thread"])
def test_echo_server(name):
    with server_of(name) as server:
        peers = [server.connect(PORT) for _ in range(5)]
        for number, peer in enumerate(peers):
            assert echoed(peer, b"Hello\n") == b"Hello\n"
            peer.sendall(f"{number}\n".encode() * 1000)
        for number, peer in enumerate(peers):
            assert hang_up(peer) == f"{number}\n".encode() * 1000
        server.wait_for("Connection closed\n", count=5)
        server.interrupt()
        assert sum("Connection from ('127.0.0.1', " in line for line in server.lines) == 5
        assert server.lines.count("Connection closed") == 5


def test_managed_echo_server():
    """SIGHUP drops all clients at once, each told, and the next server starts."""
    with server_of("managed_echo") as server:
        descriptors = set()
        for restart in range(1, 4):
            server.wait_for("Starting the server\n", count=restart)
            peers = [server.connect(PORT) for _ in range(200)]
            for peer in peers:
                assert echoed(peer, b"Hello\n") == b"Hello\n"
            descriptors.add(len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())))
            server.process.send_signal(signal.SIGHUP)
            for peer in peers:
                with peer, peer.makefile("rb") as words:
                    assert words.read() == b"Server going down\n"
            server.wait_for("Server shutting down\n", count=restart)
        server.wait_for("Starting the server\n", count=4)
        assert len(descriptors) == 1
        server.interrupt()
        assert server.lines.count("Connection closed") == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A directory with the files that the server asks for, valid for the names used here."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    place = tmp_path_factory.mktemp("certificate")
    names = "subjectAltName=DNS:localhost,DNS:www.python.org"
    words = "req -x509 -newkey rsa:2048 -nodes -keyout privkey_rsa -out certificate.crt -days 2"
    subprocess.run(
        ["openssl", *words.split(), "-subj", "/CN=localhost", "-addext", names],
        cwd=place,
        check=True,
        capture_output=True,
    )
    return place


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl to be the browser")
def test_ssl_server(certificate):
    wait_until_free(10000)
    with Program(PROGRAMS / "ssl_server.py", cwd=certificate) as server:
        server.connect(10000).close()  # who says nothing is no matter
        answer = subprocess.run(
            ["curl", "-sS", "--cacert", "certificate.crt", "https://localhost:10000/"],
            cwd=certificate,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert answer.stderr == ""
        assert "If you're seeing this, it probably worked. Yay!" in answer.stdout
        server.wait_for("b'GET / HTTP/1.1'\n")
        server.interrupt()


# Every name is ours, and so is every port.
ELSEWHERE = """
import runpy, socket, sys
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, port, *rest, **more: real("127.0.0.1", {port}, *rest, **more)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("program", ["connection", "connection_ssl"])
def test_connection(certificate, program, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        requests = []

        def serve():
            client, _ = listening.accept()
            if program == "connection_ssl":
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(
                    certificate / "certificate.crt", certificate / "privkey_rsa"
                )
                client = context.wrap_socket(client, server_side=True)
            with client:
                requests.append(client.recv(1000))
                client.sendall(b"HTTP/1.1 200 OK\r\nServer: Ours\r\n\r\n" + b"x" * 100_000)

        thread = threading.Thread(target=serve)
        thread.start()
        script = tmp_path / "elsewhere.py"
        script.write_text(ELSEWHERE.format(port=listening.getsockname()[1]))
        environment = {**os.environ, "SSL_CERT_FILE": str(certificate / "certificate.crt")}
        with Program(script, PROGRAMS / f"{program}.py", environment=environment) as client:
            client.succeed()
            assert requests == [b"GET / HTTP/1.0\r\nHost: www.python.org\r\n\r\n"]
            assert re.match(r"HTTP/1\.1 200 OK\s+Server: Ours\s+x{100000}\s*$", client.output)
        thread.join()
