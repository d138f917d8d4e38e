"""Protocols of other people's on curio's sockets: HTTP/1.1, HTTP/2, WebSocket.

Goal: the servers and the client in `examples/` do what their protocols ask of them, with
friends and with strangers. Method: each runs in a process of its own; curl talks to it, and so
do clients made here of a blocking socket and h11, h2 or wsproto, which can do what curl does
not: stop in the middle, be slow, break the rules. No test knows how long anything takes.
"""

import re
import shutil
import socket
import subprocess
import time

import pytest
from programs import PATIENCE, ROOT, Program, hang_up, vanish

h11 = pytest.importorskip("h11")
h2_connection = pytest.importorskip("h2.connection")
h2_events = pytest.importorskip("h2.events")
wsproto = pytest.importorskip("wsproto")
ws_events = pytest.importorskip("wsproto.events")

EXAMPLES = ROOT / "examples"
SERVERS = ["http_server.py", "http2_server.py", "websocket_echo.py"]
CROWD = 20


class Server(Program):
    def __init__(self, name, *arguments):
        super().__init__(EXAMPLES / name, "0", *arguments)
        self.wait_for("Serving at ")
        self.url = re.search(r"Serving at (\S+)", self.output)[1]
        self.port = int(self.url.rpartition(":")[2])

    def dial(self):
        return self.connect(self.port)

    def stop(self):
        self.press_ctrl_c()
        assert self.wait() == 0, self.report()
        assert self.lines[-1] == "Server ended", self.report()
        assert self.errors == "", self.report()


def running(name):
    """A fixture: the server, started once for all tests, and stopped by Ctrl-C."""

    @pytest.fixture(scope="module", name=name.removesuffix(".py"))
    def server():
        with Server(name) as server:
            yield server
            server.stop()

    return server


http_server, http2_server, websocket_echo = map(running, SERVERS)


def message(size):
    return (b"The quick brown fox jumps over the lazy dog. " * (size // 45 + 1))[:size]


def until_closed(sock):
    """What comes until the server closes the connection, which must be in good order."""
    with sock:
        received = b""
        while data := sock.recv(65536):
            received += data
        return received


# --- curl --------------------------------------------------------------------------------


def curl(*arguments):
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    command = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", str(int(PATIENCE))]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl2(*arguments):
    if b"HTTP2" not in curl("-V"):
        pytest.skip("curl was built without HTTP/2")
    return curl("--http2-prior-knowledge", *arguments)


# --- HTTP/1.1 ----------------------------------------------------------------------------


class HTTP:
    """A client of HTTP/1.1."""

    def __init__(self, server):
        self.sock = server.dial()
        self.protocol = h11.Connection(h11.CLIENT)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.sock.close()

    def send(self, *events):
        self.sock.sendall(b"".join([self.protocol.send(event) for event in events]))

    def begin(self, method, target="/", **headers):
        headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.send(h11.Request(method=method, target=target, headers=[("Host", "x"), *headers]))

    def receive(self):
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            self.protocol.receive_data(self.sock.recv(65536))
        return event

    def response(self):
        """The status and the body of the response."""
        response, body = self.receive(), b""
        assert type(response) is h11.Response, response
        while type(event := self.receive()) is h11.Data:
            body += event.data
        if self.protocol.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self.protocol.start_next_cycle()
        return response.status_code, body

    def get(self, target="/"):
        self.begin("GET", target)
        self.send(h11.EndOfMessage())
        return self.response()

    def post(self, body):
        self.begin("POST", content_length=str(len(body)))
        self.send(h11.Data(data=body), h11.EndOfMessage())
        return self.response()


def test_http_keeps_a_connection_for_many_requests(http_server):
    with HTTP(http_server) as client:
        assert client.get("/one") == (200, b"You asked for /one\n")
        assert client.post(b"two") == (200, b"two")
        assert client.post(b"") == (200, b"")
        client.begin("HEAD", "/three")
        client.send(h11.EndOfMessage())
        response = client.receive()
        assert dict(response.headers)[b"content-length"] == b"21"
        assert type(client.receive()) is h11.EndOfMessage
        client.protocol.start_next_cycle()
        large = message(1_000_000)
        assert client.post(large) == (200, large)


def test_http_closes_a_connection_when_asked(http_server):
    for request in (
        b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /last HTTP/1.0\r\n\r\n",
    ):
        sock = http_server.dial()
        sock.sendall(request)
        answer = until_closed(sock)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nYou asked for /last\n")


def test_http_requests_in_one_piece_and_in_many(http_server):
    requests = b"".join(
        b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nno %d" % n for n in range(4)
    )
    for size in (len(requests), 1):
        sock = http_server.dial()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(requests), size):
            sock.sendall(requests[start : start + size])
        answers = hang_up(sock)
        assert answers.count(b"HTTP/1.1 200 OK\r\n") == 4
        assert re.findall(rb"\r\n\r\n(no \d)", answers) == [b"no %d" % n for n in range(4)]


def test_http_chunked_upload(http_server):
    with HTTP(http_server) as client:
        for _ in range(2):
            client.begin("POST", transfer_encoding="chunked")
            for size in (1, 10, 100_000):
                client.send(h11.Data(data=message(size)))
            client.send(h11.EndOfMessage())
            assert client.response() == (200, message(1) + message(10) + message(100_000))


def test_http_expect_continue(http_server):
    with HTTP(http_server) as client:
        client.begin("POST", content_length="4", expect="100-continue")
        assert client.receive().status_code == 100
        client.send(h11.Data(data=b"body"), h11.EndOfMessage())
        assert client.response() == (200, b"body")
        client.begin("POST", content_length="1000000000", expect="100-continue")
        assert client.response()[0] == 413


@pytest.mark.parametrize(
    "status, request_",
    [
        (400, b"nonsense\r\n\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        (431, b"GET /" + b"x" * 200_000),
        (501, b"DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
)
def test_http_refuses(http_server, status, request_):
    """An answer, complete, and the end of the connection."""
    sock = http_server.dial()
    sock.sendall(request_)
    answer = until_closed(sock)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert re.search(rb"\r\nConnection: close\r\n", answer)
    assert answer.count(b"HTTP/1.1") == 1
    with HTTP(http_server) as client:
        assert client.get()[0] == 200


def test_http_client_goes_in_the_middle(http_server):
    for begun in (
        b"",
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
    ):
        for leave in (hang_up, vanish):
            sock = http_server.dial()
            sock.sendall(begun)
            leave(sock)
    # It waits for no answer, which resets the connection under the server.
    sock = http_server.dial()
    sock.sendall(b"nonsense\r\n\r\n")
    sock.close()
    with HTTP(http_server) as client:
        assert client.post(b"still there") == (200, b"still there")


def test_http_crowd(http_server):
    clients = [HTTP(http_server) for _ in range(CROWD)]
    for client in clients:
        client.begin("POST", transfer_encoding="chunked")
    for part in range(3):
        for n, client in enumerate(clients):
            client.send(h11.Data(data=b"%d of %d. " % (part, n)))
    for client in clients:
        client.send(h11.EndOfMessage())
    for n, client in reversed(list(enumerate(clients))):
        with client:
            assert client.response()[1] == b"0 of %d. 1 of %d. 2 of %d. " % (n, n, n)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"PUT / HTTP/1.1\r\nHost: x\r\n"])
def test_http_client_that_says_nothing(begun):
    with Server("http_server.py", "--idle", "0.1") as server:
        sock = server.dial()
        sock.sendall(begun)
        assert until_closed(sock).startswith(b"HTTP/1.1 408 ")
        server.stop()


def test_http_with_curl(http_server, tmp_path):
    url = http_server.url
    assert curl(f"{url}/one", f"{url}/two", "-w", "%{num_connects}\n") == (
        b"You asked for /one\n1\nYou asked for /two\n0\n"
    )
    assert b"content-length: 16\r\n" in curl("-I", url).lower()
    assert curl("-d", "some text", url) == b"some text"
    file = tmp_path / "file"
    file.write_bytes(message(1_000_000))
    for header in ("Transfer-Encoding: chunked", "Expect: 100-continue"):
        assert curl("-T", file, "-H", header, url) == message(1_000_000)


# --- the client of HTTP/1.1 ----------------------------------------------------------------


def test_http_client(http_server):
    url = http_server.url
    with Program(EXAMPLES / "http_client.py", f"{url}/a", f"{url}/b?c=d") as client:
        client.succeed()
        assert client.lines == [f"{url}/a: 200 OK, 17 bytes", f"{url}/b?c=d: 200 OK, 21 bytes"]


def test_http_client_fetches_all_at_once():
    """Nobody is answered before all have asked. Bodies end as they please, or too early."""
    answers = {
        b"/chunks": b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"/close": b"HTTP/1.1 404 Gone Missing\r\n\r\n" + message(100_000),
        b"/short": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"/none": b"",
    }
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        urls = [url + path.decode() for path in answers] + ["ftp://x/", "http://x:port/"]
        with Program(EXAMPLES / "http_client.py", *urls) as client:
            asked = {}
            for _ in answers:
                sock, _ = listening.accept()
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += sock.recv(65536)
                asked[request.split()[1]] = sock
            for path, sock in asked.items():
                with sock:
                    sock.sendall(answers[path])
            assert client.wait() == 1
            chunks, close, short, none, other, port = client.lines
            assert chunks == f"{url}/chunks: 200 OK, 5 bytes"
            assert close == f"{url}/close: 404 Gone Missing, 100000 bytes"
            assert short.startswith(f"{url}/short: peer closed connection")
            assert none.startswith(f"{url}/none: ")
            assert other == "ftp://x/: not an address that begins with http://"
            assert port.startswith("http://x:port/: Port")
            assert client.errors == ""


def test_http_client_is_not_answered():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        with Program(EXAMPLES / "http_client.py", "--limit", "0.1", url) as client:
            assert client.wait() == 1
            assert client.lines == [f"{url}: no answer in 0.1 seconds"]
            assert client.errors == ""


# --- HTTP/2 ------------------------------------------------------------------------------


class HTTP2:
    """A client of HTTP/2. What comes is acknowledged at once, but for the streams in `lazy`."""

    def __init__(self, server):
        self.sock = server.dial()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.protocol = h2_connection.H2Connection()
        self.protocol.initiate_connection()
        self.status, self.bodies, self.ended = {}, {}, set()
        self.lazy = set()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.sock.close()

    def flush(self):
        self.sock.sendall(self.protocol.data_to_send())

    def begin(self, method, path="/", end=False):
        number = self.protocol.get_next_available_stream_id()
        names = {":method": method, ":path": path, ":scheme": "http", ":authority": "x"}
        self.protocol.send_headers(number, list(names.items()), end_stream=end)
        self.flush()
        self.bodies[number] = b""
        return number

    def receive(self):
        data = self.sock.recv(65536)
        assert data, "the server has closed the connection"
        for event in self.protocol.receive_data(data):
            number = getattr(event, "stream_id", None)
            if isinstance(event, h2_events.ResponseReceived):
                self.status[number] = dict(event.headers)[b":status"]
            elif isinstance(event, h2_events.DataReceived):
                self.bodies[number] += event.data
                if number not in self.lazy:
                    length = event.flow_controlled_length
                    self.protocol.acknowledge_received_data(length, number)
            elif isinstance(event, h2_events.StreamEnded):
                self.ended.add(number)
            elif isinstance(event, (h2_events.StreamReset, h2_events.ConnectionTerminated)):
                raise AssertionError(event)
        self.flush()

    def upload(self, number, data, end=False):
        """Sends all of it, as fast as the server takes it."""
        while data:
            room = self.protocol.local_flow_control_window(number)
            if room == 0:
                self.receive()
                continue
            size = min(room, self.protocol.max_outbound_frame_size)
            self.protocol.send_data(number, data[:size])
            self.flush()
            data = data[size:]
        if end:
            self.protocol.end_stream(number)
            self.flush()

    def receive_body(self, number, size):
        while len(self.bodies[number]) < size:
            self.receive()
        return self.bodies[number]

    def response(self, number):
        while number not in self.ended:
            self.receive()
        return self.status[number], self.bodies[number]

    def post(self, data):
        number = self.begin("POST")
        self.upload(number, data, end=True)
        return self.response(number)


def says_goodbye(frames):
    """Whether the last frame is of type GOAWAY (7), and on stream 0."""
    return frames[-17:-8] == b"\0\0\x08\x07\0\0\0\0\0"


def test_http2_methods(http2_server):
    with HTTP2(http2_server) as client:
        get = client.begin("GET", "/hello", end=True)
        head = client.begin("HEAD", "/hello", end=True)
        delete = client.begin("DELETE", end=True)
        assert client.response(delete) == (b"501", b"")
        assert client.response(head) == (b"200", b"")
        assert client.response(get) == (b"200", b"You asked for /hello\n")
        assert client.post(b"") == (b"200", b"")


def test_http2_streams_at_once(http2_server):
    """All are open, and each is answered while the others wait."""
    with HTTP2(http2_server) as client:
        numbers = [client.begin("POST") for _ in range(50)]
        for number in reversed(numbers):
            client.upload(number, b"one of %d " % number)
            client.receive_body(number, len(b"one of %d " % number))
        assert not client.ended
        for number in numbers:
            client.upload(number, b"two of %d" % number, end=True)
        for number in numbers:
            body = b"one of %d two of %d" % (number, number)
            assert client.response(number) == (b"200", body)


def test_http2_body_larger_than_the_window(http2_server):
    large = message(2**20)
    with HTTP2(http2_server) as client:
        assert client.post(large) == (b"200", large)
        # Several at once, that share the connection's window.
        numbers = [client.begin("PUT") for _ in range(4)]
        for start in range(0, len(large), 2**17):
            for number in numbers:
                client.upload(number, large[start : start + 2**17])
        for number in numbers:
            client.upload(number, b"", end=True)
            assert client.response(number) == (b"200", large)


def test_http2_respects_the_window_of_a_stream(http2_server):
    """No byte more than the client allows, on one stream; another one goes on."""
    window, size = 65_535, 80_000
    with HTTP2(http2_server) as client:
        client.protocol.increment_flow_control_window(2**20)  # of the connection
        slow = client.begin("POST")
        client.lazy.add(slow)
        client.upload(slow, message(size), end=True)
        client.receive_body(slow, window)
        assert client.post(b"quick") == (b"200", b"quick")
        assert client.bodies[slow] == message(window)
        client.protocol.increment_flow_control_window(1, slow)
        client.flush()
        client.receive_body(slow, window + 1)
        assert client.post(b"quick again") == (b"200", b"quick again")
        assert client.bodies[slow] == message(window + 1)
        client.protocol.increment_flow_control_window(size, slow)
        client.flush()
        assert client.response(slow) == (b"200", message(size))


def test_http2_window_is_changed_by_settings(http2_server):
    """It may even be less than nothing then."""
    small = {h2_connection.SettingCodes.INITIAL_WINDOW_SIZE: 10}
    large = {h2_connection.SettingCodes.INITIAL_WINDOW_SIZE: 100_000}
    with HTTP2(http2_server) as client:
        number = client.begin("POST")
        client.lazy.add(number)
        client.upload(number, message(20))
        client.receive_body(number, 20)
        client.protocol.update_settings(small)
        client.upload(number, message(30), end=True)
        assert client.post(b"quick") == (b"200", b"quick")
        assert client.bodies[number] == message(20)
        client.protocol.update_settings(large)
        client.flush()
        assert client.response(number) == (b"200", message(20) + message(30))


def test_http2_reset(http2_server):
    """A stream that is given up takes nothing along: no other stream, no part of the window."""
    with HTTP2(http2_server) as client:
        other = client.begin("POST")
        client.upload(other, b"before ")
        client.receive_body(other, len(b"before "))
        for size in (0, 1, 40_000, 65_000) * 5:
            number = client.begin("POST")
            client.upload(number, message(size))
            client.protocol.reset_stream(number)
            client.flush()
        client.upload(other, b"after", end=True)
        assert client.response(other) == (b"200", b"before after")
        assert client.post(message(200_000)) == (b"200", message(200_000))


def test_http2_reset_of_a_stream_that_waits(http2_server):
    """It waits for the window, and has not read all; the connection's window comes back."""
    with HTTP2(http2_server) as client:
        client.protocol.increment_flow_control_window(2**20)
        for _ in range(5):
            number = client.begin("POST")
            client.lazy.add(number)
            client.upload(number, message(90_000))
            client.receive_body(number, 65_535)
            client.protocol.reset_stream(number)
            client.flush()
        assert client.post(message(200_000)) == (b"200", message(200_000))


def test_http2_body_that_nobody_reads(http2_server):
    """The server answers a GET without its body, and the window is as large as before."""
    with HTTP2(http2_server) as client:
        for n in range(5):
            number = client.begin("GET", f"/{n}")
            client.upload(number, message(30_000), end=True)
            assert client.response(number) == (b"200", b"You asked for /%d\n" % n)
        assert client.post(message(100_000)) == (b"200", message(100_000))


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize(
    "words, goodbye",
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", False),  # no word of it is HTTP/2
        (PREFACE + bytes(9), True),  # data on stream 0, which is none
        (PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\1\1\5\0\0\0\1\xff", True),  # no headers
    ],
)
def test_http2_garbage(http2_server, words, goodbye):
    sock = http2_server.dial()
    sock.sendall(words)
    assert says_goodbye(until_closed(sock)) == goodbye
    with HTTP2(http2_server) as client:
        assert client.post(b"still there") == (b"200", b"still there")


def test_http2_client_goes_in_the_middle(http2_server):
    for leave in (hang_up, vanish):
        for rest in (b"", b"\0\0"):
            client = HTTP2(http2_server)
            for _ in range(3):
                number = client.begin("POST")
                client.upload(number, message(1000))
            client.receive_body(number, 1000)
            client.sock.sendall(rest)
            leave(client.sock)
    with HTTP2(http2_server) as client:
        assert client.post(b"still there") == (b"200", b"still there")


def test_http2_crowd(http2_server):
    clients = [HTTP2(http2_server) for _ in range(CROWD)]
    numbers = [client.begin("POST") for client in clients]
    for client, number in zip(clients, numbers, strict=True):
        client.upload(number, message(30_000))
    for client, number in reversed(list(zip(clients, numbers, strict=True))):
        with client:
            client.upload(number, message(10), end=True)
            assert client.response(number) == (b"200", message(30_000) + message(10))


def test_http2_client_that_says_nothing():
    with Server("http2_server.py", "--idle", "0.1") as server:
        assert says_goodbye(until_closed(server.dial()))
        server.stop()


def test_http2_with_curl(http2_server, tmp_path):
    url = http2_server.url
    assert curl2(f"{url}/one", "-w", "%{http_version} %{http_code}") == (
        b"You asked for /one\n2 200"
    )
    assert b"content-length: 16\r\n" in curl2("-I", url)
    file = tmp_path / "file"
    file.write_bytes(message(2**20))
    assert curl2("-T", file, url) == message(2**20)


def test_http2_over_tls_with_curl(tmp_path):
    """Some at once, in one connection; and somebody who does not talk TLS."""
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    command += " -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    options = ["--cert", tmp_path / "cert.pem", "--key", tmp_path / "key.pem"]
    with Server("http2_server.py", *options) as server:
        url = server.url
        assert url.startswith("https://")
        assert curl("-k", f"{url}/one", "-w", "%{http_version}") == b"You asked for /one\n2"
        file = tmp_path / "file"
        file.write_bytes(message(2**20))
        assert curl("-k", "-T", file, url) == message(2**20)
        answers = curl("-k", "-Z", f"{url}/[1-9]", "-w", "%{num_connects}\n").splitlines()
        asked = [b"You asked for /%d" % n for n in range(1, 10)]
        assert sorted(answers) == [b"0"] * 8 + [b"1"] + asked
        hang_up(server.dial())
        server.press_ctrl_c()
        assert server.wait() == 0, server.report()
        assert server.lines[-1] == "Server ended", server.report()


# --- WebSocket ---------------------------------------------------------------------------


class WebSocket:
    """A client of WebSocket."""

    def __init__(self, server):
        self.sock = server.dial()
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.events = iter(())
        self.send(ws_events.Request(host="x", target="/"))
        assert type(self.receive()) is ws_events.AcceptConnection

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.sock.close()

    def send(self, *events):
        self.sock.sendall(b"".join([self.protocol.send(event) for event in events]))

    def receive(self):
        while (event := next(self.events, None)) is None:
            data = self.sock.recv(65536)
            assert data, "the server has closed the connection"
            self.protocol.receive_data(data)
            self.events = self.protocol.events()
        return event

    def receive_message(self):
        fragments, finished = [], False
        while not finished:
            event = self.receive()
            assert isinstance(event, ws_events.Message), event
            fragments.append(event.data)
            finished = event.message_finished
        return event.data[:0].join(fragments)

    def echo(self, text):
        self.send(ws_events.TextMessage(text))
        return self.receive_message()


def test_websocket_messages(websocket_echo):
    with WebSocket(websocket_echo) as client:
        for text in ("hello", "", "Grüße, 世界 🌍", "x" * 125, "x" * 126, "x" * 70_000):
            assert client.echo(text) == text
        for data in (b"\0\xff", b"", message(2**20)):
            client.send(ws_events.BytesMessage(data))
            assert client.receive_message() == data
        client.send(*[ws_events.TextMessage(f"no {n}") for n in range(10)])
        assert [client.receive_message() for _ in range(10)] == [f"no {n}" for n in range(10)]


def test_websocket_fragments(websocket_echo):
    """They are put together; what is between them is answered at once."""
    with WebSocket(websocket_echo) as client:
        client.send(
            ws_events.TextMessage("Hel", message_finished=False),
            ws_events.Ping(b"between"),
            ws_events.TextMessage("", message_finished=False),
        )
        assert client.receive() == ws_events.Pong(b"between")
        client.send(ws_events.TextMessage("lo", message_finished=True))
        assert client.receive_message() == "Hello"
        client.send(ws_events.BytesMessage(b"ab", message_finished=False))
        client.send(ws_events.BytesMessage(b"c", message_finished=True))
        assert client.receive_message() == b"abc"


def test_websocket_ping(websocket_echo):
    with WebSocket(websocket_echo) as client:
        for payload in (b"", b"are you there?"):
            client.send(ws_events.Ping(payload))
            assert client.receive() == ws_events.Pong(payload)
        client.send(ws_events.Pong(b"nobody asked"))
        assert client.echo("on") == "on"


def test_websocket_close(websocket_echo):
    with WebSocket(websocket_echo) as client:
        assert client.echo("bye") == "bye"
        client.send(ws_events.CloseConnection(1000, "done"))
        assert client.receive() == ws_events.CloseConnection(1000, "done")
        assert until_closed(client.sock) == b""
    with WebSocket(websocket_echo) as client:
        client.sock.sendall(b"\x88\x80mask")  # a close frame with nothing in it
        assert until_closed(client.sock) == b"\x88\x00"


@pytest.mark.parametrize(
    "code, frame",
    [
        (1002, b"\x81\x02hi"),  # from a client, and not masked
        (1002, b"\x83\x80mask"),  # no such opcode
        (1007, b"\x81\x81\0\0\0\0\xff"),  # a text that is no UTF-8
        (1009, b"\x82\xff\0\0\0\0\1\0\0\1mask" + bytes(2**24 + 1)),
    ],
)
def test_websocket_refuses(websocket_echo, code, frame):
    with WebSocket(websocket_echo) as client:
        client.sock.sendall(frame)
        event = client.receive()
        assert (type(event), event.code) == (ws_events.CloseConnection, code)
        client.sock.shutdown(socket.SHUT_WR)
        assert until_closed(client.sock) == b""
    with WebSocket(websocket_echo) as client:
        assert client.echo("still there") == "still there"


@pytest.mark.parametrize(
    "status, request_",
    [
        (400, b"nonsense\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n"),
        (
            426,
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 7\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n",
        ),
    ],
)
def test_websocket_rejects(websocket_echo, status, request_):
    """Who comes for something else gets an answer of HTTP's, and the end of the connection."""
    sock = websocket_echo.dial()
    sock.sendall(request_)
    assert hang_up(sock).startswith(b"HTTP/1.1 %d " % status)


def test_websocket_client_goes_in_the_middle(websocket_echo):
    for leave in (hang_up, vanish):
        sock = websocket_echo.dial()
        sock.sendall(b"GET / HT")
        leave(sock)
        for rest in (b"", b"\x81\x85mask12"):
            client = WebSocket(websocket_echo)
            client.sock.sendall(rest)
            leave(client.sock)
    # It says so, and waits for no answer, which resets the connection under the server.
    client = WebSocket(websocket_echo)
    client.sock.sendall(b"\x88\x80mask")
    client.sock.close()
    with WebSocket(websocket_echo) as client:
        assert client.echo("still there") == "still there"


def test_websocket_crowd(websocket_echo):
    clients = [WebSocket(websocket_echo) for _ in range(CROWD)]
    for n, client in enumerate(clients):
        client.send(ws_events.TextMessage(f"this is {n}", message_finished=False))
    for n, client in reversed(list(enumerate(clients))):
        with client:
            client.send(ws_events.TextMessage(f" of {CROWD}"))
            assert client.receive_message() == f"this is {n} of {CROWD}"


def test_websocket_client_that_says_nothing():
    """It is asked; if it does not answer, that is the end."""
    with Server("websocket_echo.py", "--idle", "0.1") as server:
        client = None
        deadline = time.monotonic() + PATIENCE
        while client is None and time.monotonic() < deadline:
            try:
                client = WebSocket(server)
            except (AssertionError, ConnectionError):
                pass  # On a busy machine, we were too slow for it ourselves.
        assert client.receive() == ws_events.Ping(b"")
        assert until_closed(client.sock) == b""
        server.stop()


# --- the end -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_ctrl_c_with_clients(name):
    """In whatever state they are: the program ends, without complaints, and they are told."""
    with Server(name) as server:
        begun = [b"", b"GET / HT", PREFACE, b"nonsense\r\n\r\n"]
        socks = [server.dial() for _ in begun]
        for sock, words in zip(socks, begun, strict=True):
            sock.sendall(words)
        if name == "http2_server.py":
            client = HTTP2(server)
            socks.append(client.sock)
            slow = client.begin("POST")
            client.lazy.add(slow)
            client.upload(slow, message(80_000))
        elif name == "websocket_echo.py":
            socks.append(WebSocket(server).sock)
        server.stop()
        for sock in socks:
            sock.close()
