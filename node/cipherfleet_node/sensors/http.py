"""A sensor that answers a GET request with JSON.

`http.client` and not `urllib.request`: the socket must be ours to close, since its timeout is for
each packet, and a device that sends a byte each second would never end. No proxy of the environment
is used: the device is in the owner's network.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from cipherfleet_node.core.sample import Sample
from cipherfleet_node.errors import ConfigError, SensorUnavailable
from cipherfleet_node.settings.sections import HttpSensor

from .base import check_fields, check_plausible
from .payloads import MAX_PAYLOAD_BYTES, PayloadError, number_at, read_json
from .sysfs import TimedReader

REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 3
LOOK_UP_S = 0.5  # added to timeout_s, for a request that ends by itself
HEADERS = {"Accept": "application/json", "Connection": "close", "User-Agent": "cipherfleet-node"}


class HttpDevice:
    """Send one GET request per read, and take each field from its place in the answer.

    The whole answer must come within timeout_s. A redirect is followed to the same host only.
    """

    def __init__(self, config: HttpSensor, folder: Path, needed: Collection[str]) -> None:
        self.fields = tuple(config.fields)
        self._config = config
        self._url = _parse(config.url)
        if self._url is None:
            raise ConfigError(f"http: sensor.url {config.url!r} has no valid host and port")
        self._who = f"http {self._url.hostname}"
        check_fields(self._who, self.fields, needed, config.limits)
        self._context = self._make_context(folder)
        # Looking up a name cannot be interrupted. All else ends by itself at the deadline.
        self._reader = TimedReader(self._who, config.timeout_s + LOOK_UP_S)

    def read(self) -> list[Sample]:
        """Return one sample; raises SensorUnavailable for an answer without numbers in time."""
        try:
            document = read_json(self._reader.run(self._fetch))
            values = {name: number_at(document, path) for name, path in self._config.fields.items()}
        except PayloadError as error:
            raise SensorUnavailable(f"{self._who}: {error.text}") from None
        check_plausible(self._who, values, self._config.limits)
        return [Sample(values)]

    def close(self) -> None:
        """Do nothing: no connection is open between two reads."""

    def _make_context(self, folder: Path) -> ssl.SSLContext | None:
        assert self._url is not None
        if self._url.scheme != "https":
            return None
        ca = self._config.ca
        try:
            return ssl.create_default_context(cafile=folder / ca if ca else None)
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or "holds no certificate"
            raise ConfigError(f"{self._who}: sensor.ca: {folder / (ca or '')}: {problem}") from None

    def _fetch(self) -> bytes:
        """Return the body of the answer."""
        deadline = time.monotonic() + self._config.timeout_s
        url: SplitResult | None = self._url
        for _ in range(MAX_REDIRECTS + 1):
            assert url is not None
            location, body = self._ask(url, deadline)
            if location is None:
                return body
            url = self._follow(url, location)
        raise SensorUnavailable(f"{self._who}: redirects more than {MAX_REDIRECTS} times")

    def _ask(self, url: SplitResult, deadline: float) -> tuple[str | None, bytes]:
        """Send one request; return where it is redirected to, and the body."""
        connection = self._connection(url, max(0.01, deadline - time.monotonic()))
        try:
            connection.connect()
            with _ended_at(deadline, connection.sock):
                path = f"{url.path or '/'}{f'?{url.query}' if url.query else ''}"
                connection.request("GET", path, headers=HEADERS)
                with closing(connection.getresponse()) as answer:
                    return self._take(answer, deadline)
        except (OSError, HTTPException, ValueError) as error:
            if time.monotonic() >= deadline:
                limit = f"{self._config.timeout_s:g} s"
                raise SensorUnavailable(f"{self._who}: no answer within {limit}") from None
            raise SensorUnavailable(f"{self._who}: {_describe(error)}") from None
        finally:
            connection.close()

    def _take(self, answer: HTTPResponse, deadline: float) -> tuple[str | None, bytes]:
        """Return the location and the body of *answer*."""
        body = answer.read(MAX_PAYLOAD_BYTES + 1) if answer.status == HTTPStatus.OK else b""
        if time.monotonic() >= deadline:
            raise TimeoutError  # what is there may be a part only
        if answer.status in REDIRECTS:
            return answer.getheader("Location") or "", b""
        if answer.status != HTTPStatus.OK:
            raise SensorUnavailable(f"{self._who}: answers with status {answer.status}")
        if answer.length and len(body) <= MAX_PAYLOAD_BYTES:
            raise ConnectionResetError  # the device has promised more
        return None, body

    def _connection(self, url: SplitResult, timeout_s: float) -> HTTPConnection:
        host = url.hostname or ""
        if self._context is None or url.scheme == "http":
            return HTTPConnection(host, url.port, timeout=timeout_s)
        return HTTPSConnection(host, url.port, timeout=timeout_s, context=self._context)

    def _follow(self, url: SplitResult, location: str) -> SplitResult:
        """Return the address to which *url* is redirected, if it is on the same host."""
        try:
            target = _parse(urljoin(url.geturl(), location))
        except ValueError:
            target = None
        if target is None or (target.scheme, target.hostname) != (url.scheme, url.hostname):
            raise SensorUnavailable(
                f"{self._who}: redirects to another host or scheme, which is not followed",
                remedy="write the new address as sensor.url",
            )
        return target


def _parse(url: str) -> SplitResult | None:
    """Return the parts of *url*; None unless it has a host, a valid port and a known scheme."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of a port above 65535
        return None
    return parts if is_valid else None


@contextmanager
def _ended_at(deadline: float, connection: socket.socket) -> Iterator[None]:
    """End *connection* at the deadline, even if the device always sends a little."""
    alarm = threading.Timer(deadline - time.monotonic(), _shut_down, [connection])
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):  # it may be closed by now
        connection.shutdown(socket.SHUT_RDWR)


def _describe(error: Exception) -> str:
    """Return the words for *error* without the content of the answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ConnectionResetError):
        return "has closed the connection before the end of its answer"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror or type(error).__name__}"
    return f"sent an answer that is not HTTP ({type(error).__name__})"
