"""The sensor `http`, with real servers: good ones, and those that send what they should not."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.sensors import SensorDevice, open_sensor
from cipherfleet_node.sensors.payloads import MAX_PAYLOAD_BYTES
from cipherfleet_node.settings.sections import HttpSensor
from cipherfleet_provisioning.certificates import issue_broker, make_authority

Handle = Callable[[BaseHTTPRequestHandler], None]
# What an AirGradient ONE answers to GET /measures/current, after the page "Local Server API" of
# github.com/airgradienthq/arduino.
AIRGRADIENT = (
    b'{"wifi":-46,"serialno":"ecda3b1eaaaf","rco2":447,"pm01":3,"pm02":7.5,"pm10":8,'
    b'"pm003Count":442,"atmp":25.87,"atmpCompensated":24.47,"rhum":43,"rhumCompensated":49,'
    b'"tvocIndex":100,"noxIndex":1,"boot":6,"firmware":"3.1.3","model":"I-9PSL"}'
)
TIMEOUT_S = 0.5
WAIT_S = 60.0


class Handler(BaseHTTPRequestHandler):
    """Answer each path with the function of its name."""

    answers: ClassVar[dict[str, Handle]] = {}

    def do_GET(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.answers[self.path](self)

    def log_message(self, *_: object) -> None:
        pass


def body(data: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> Handle:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send a byte of white space again and again: every packet comes in time."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(600):
        handler.wfile.write(b" ")
        time.sleep(0.1)


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(600):
        handler.wfile.write(b"x")
        time.sleep(0.1)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as server:
        yield server.server_address[1]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing about a client that has gone."""


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def opened(url: str, fields: dict[str, Any], folder: Path = Path(), **changes: Any) -> SensorDevice:
    given = {"kind": "http", "url": url, "fields": fields, "timeout_s": WAIT_S, **changes}
    return open_sensor(msgspec.convert(given, HttpSensor), folder, list(fields))


def complaint(url: str, **changes: Any) -> str:
    sensor = opened(url, {"t": "t"}, **changes)
    with pytest.raises(SensorUnavailable) as caught:
        sensor.read()
    return str(caught.value)


def test_an_air_sensor_is_read(port: int) -> None:
    Handler.answers["/measures/current"] = body(AIRGRADIENT)
    fields = {"pm25": "pm02", "temperature_c": "atmp", "co2_ppm": "rco2"}
    with closing(opened(f"http://127.0.0.1:{port}/measures/current", fields)) as sensor:
        for _ in range(2):
            (sample,) = sensor.read()
            assert sample.values == {"pm25": 7.5, "temperature_c": 25.87, "co2_ppm": 447.0}


def test_a_query_is_sent_and_a_chunked_answer_is_read(port: int) -> None:
    chunked = body(
        b'9\r\n{"t": {"u\r\na\r\n": [1,2]}}\r\n0\r\n\r\n', headers={"Transfer-Encoding": "chunked"}
    )
    Handler.protocol_version = "HTTP/1.1"
    try:
        Handler.answers["/status?id=0"] = chunked
        sensor = opened(f"http://127.0.0.1:{port}/status?id=0", {"t": ["t", "u", 1]})
        assert sensor.read()[0].values == {"t": 2.0}
    finally:
        Handler.protocol_version = "HTTP/1.0"


@pytest.mark.parametrize("handle", [drip, drip_headers])
def test_a_device_that_always_sends_a_little_is_late_and_blocks_no_later_read(
    port: int, handle: Handle
) -> None:
    Handler.answers["/slow"] = handle
    Handler.answers["/fast"] = body(b'{"t": 1}')
    url = f"http://127.0.0.1:{port}/slow"
    sensor = opened(url, {"t": "t"}, timeout_s=TIMEOUT_S)
    for _ in range(2):
        began = time.monotonic()
        # On a busy machine the earlier read may not have ended yet.
        with pytest.raises(SensorUnavailable, match=r"no answer within|an earlier read"):
            sensor.read()
        assert time.monotonic() - began < TIMEOUT_S + 30  # the drip takes a minute
    Handler.answers["/slow"] = Handler.answers["/fast"]
    for _ in range(100):
        with suppress(SensorUnavailable):
            assert sensor.read()[0].values == {"t": 1.0}
            return
    raise AssertionError("the sensor does not recover")


def test_a_device_that_sends_nothing_is_late() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert complaint(url, timeout_s=0.2) == "http 127.0.0.1: no answer within 0.2 s"


def test_an_answer_that_is_too_long_is_not_read_to_its_end(port: int) -> None:
    sent = []

    def huge(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" " * 65536)
            sent.append(1)

    Handler.answers["/huge"] = huge
    assert complaint(f"http://127.0.0.1:{port}/huge").endswith("sent more than 65536 bytes")
    assert len(sent) < 1000  # the rest of 64 MiB does not fit the buffers of the kernel
    Handler.answers["/full"] = body(b'{"t": 2}'.ljust(MAX_PAYLOAD_BYTES))
    assert opened(f"http://127.0.0.1:{port}/full", {"t": "t"}).read()[0].values == {"t": 2.0}


def test_an_answer_that_ends_early_is_refused(port: int) -> None:
    Handler.answers["/short"] = body(b'{"t": 1}', headers={"Content-Length": "100"})
    expected = "http 127.0.0.1: has closed the connection before the end of its answer"
    assert complaint(f"http://127.0.0.1:{port}/short") == expected


def test_a_redirect_is_followed_on_the_same_host_and_nowhere_else(port: int) -> None:
    Handler.answers["/new"] = body(b'{"t": 3}')
    with serving() as other:
        elsewhere = f"http://localhost:{other.server_address[1]}/new"
        for location, followed in (
            ("/new", True),
            (f"http://127.0.0.1:{port}/new", True),
            (elsewhere, False),
            (elsewhere.removeprefix("http:"), False),
            (f"https://127.0.0.1:{port}/new", False),
            ("file:///etc/hostname", False),
            ("http://[", False),
            ("http://127.0.0.1:99999/new", False),
        ):
            Handler.answers["/old"] = body(b"", 302, {"Location": location})
            url = f"http://127.0.0.1:{port}/old"
            if followed:
                assert opened(url, {"t": "t"}).read()[0].values == {"t": 3.0}
            else:
                assert "redirects to another host or scheme" in complaint(url)
    Handler.answers["/loop"] = body(b"", 307, {"Location": "/loop"})
    assert complaint(f"http://127.0.0.1:{port}/loop").endswith("redirects more than 3 times")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>23.75</html>", "sent 18 bytes that are not JSON"),
        (b'{"t": NaN}', "not JSON"),
        (b'{"t": "23.75"}', "'t' is a text, not a number"),
        (b'{"temperature": 23.75}', "there is no 't', but 'temperature'"),
        (b"[23.75]", "nothing has a key 't' there"),
        (b"", "sent 0 bytes that are not JSON"),
    ],
)
def test_an_answer_without_the_number_is_refused_and_not_shown(
    port: int, data: bytes, words: str
) -> None:
    Handler.answers["/odd"] = body(data)
    text = complaint(f"http://127.0.0.1:{port}/odd")
    assert text.startswith("http 127.0.0.1: ")
    assert words in text
    assert "23.75" not in text


def test_a_status_and_what_is_not_http_are_named(port: int) -> None:
    Handler.answers["/busy"] = body(b'{"t": 1}', 503)
    assert complaint(f"http://127.0.0.1:{port}/busy").endswith("answers with status 503")

    def ssh(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    Handler.answers["/ssh"] = ssh
    assert complaint(f"http://127.0.0.1:{port}/ssh").endswith("not HTTP (BadStatusLine)")
    assert complaint("http://127.0.0.1:9/").endswith("cannot be reached: Connection refused")


def test_a_value_outside_its_limits_is_withheld(port: int) -> None:
    Handler.answers["/hot"] = body(b'{"t": 85}')
    text = complaint(f"http://127.0.0.1:{port}/hot", limits={"t": [-40, 60]})
    assert text == "http 127.0.0.1: t is outside its limits [-40, 60]"


def test_an_address_without_a_valid_port_is_an_error_of_the_settings() -> None:
    with pytest.raises(ConfigError, match="has no valid host and port"):
        opened("http://127.0.0.1:99999/", {"t": "t"})


def test_a_file_of_authorities_must_hold_some(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"sensor\.ca: .*ca\.pem"):
        opened("https://127.0.0.1/", {"t": "t"}, tmp_path, ca="ca.pem")
    with pytest.raises(ConfigError, match=r"sensor\.ca: .*no\.pem: No such file"):
        opened("https://127.0.0.1/", {"t": "t"}, tmp_path, ca="no.pem")


def test_a_device_with_tls_is_read_if_its_authority_is_named(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = make_authority("home", now)
    device = issue_broker(authority, ["127.0.0.1"], now)
    device.write(tmp_path / "device.pem", tmp_path / "device.key")
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    Handler.answers["/tls"] = body(b'{"t": 4}')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "device.pem", tmp_path / "device.key")
    with serving(context) as server:
        url = f"https://127.0.0.1:{server.server_address[1]}/tls"
        assert opened(url, {"t": "t"}, tmp_path, ca="ca.pem").read()[0].values == {"t": 4.0}
        assert "its certificate is refused" in complaint(url)
