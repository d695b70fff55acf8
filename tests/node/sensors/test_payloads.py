"""Numbers in payloads: plain ones, and those at a path in JSON."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.sensors.payloads import (
    MAX_PAYLOAD_BYTES,
    Path_,
    PayloadError,
    number_at,
    read_json,
    read_plain,
)

examples = settings(deadline=None, max_examples=100)
DOCUMENT = read_json(
    b'{"AM2301": {"Temperature": 24.5}, "a.b": {"0": 3}, "list": [1, {"x": -2}], "on": true,'
    b' "word": "21.5", "none": null, "long": 1' + b"0" * 400 + b"}"
)
paths = st.one_of(st.text(min_size=1), st.lists(st.text() | st.integers(), min_size=1, max_size=5))


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("AM2301.Temperature", 24.5),
        (["AM2301", "Temperature"], 24.5),
        (["a.b", 0], 3.0),
        (["a.b", "0"], 3.0),
        ("list.0", 1.0),
        ("list.1.x", -2.0),
        (["list", 1, "x"], -2.0),
    ],
)
def test_a_path_leads_to_its_number(path: Path_, number: float) -> None:
    assert number_at(DOCUMENT, path) == number


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("AM2301.Humidity", "without 'AM2301.Humidity': there is no 'Humidity', but 'Temperature'"),
        ("a.b", "there is no 'a'"),  # a key with a dot needs a list
        ("list.2", "a list has 2 items only"),
        ("list.-1", "nothing has a key '-1'"),
        ("list.x", "nothing has a key 'x'"),
        ("AM2301.Temperature.x", "nothing has a key 'x'"),
        ("AM2301", "is an object, not a number"),
        ("list", "is a list, not a number"),
        ("on", "is true or false, not a number"),
        ("word", "is a text, not a number"),
        ("none", "is null, not a number"),
        ("long", "too large"),
        ("list." + "9" * 5000, "nothing has a key"),
    ],
)
def test_a_path_without_a_number_is_named_and_no_value_is_shown(path: Path_, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        number_at(DOCUMENT, path)
    assert words in str(caught.value)
    assert "21.5" not in str(caught.value)
    assert "24.5" not in str(caught.value)


def test_keys_that_could_be_readings_are_not_shown() -> None:
    with pytest.raises(PayloadError, match="there is no 't', but 'rh'") as caught:
        number_at(read_json(b'{"23.75": 1, "rh": 2}'), "t")
    assert "23" not in str(caught.value)


@pytest.mark.parametrize(("payload", "number"), [(b"21.50", 21.5), (b" -3\n", -3), (b"1e2", 100)])
def test_a_plain_number_is_read(payload: bytes, number: float) -> None:
    assert read_plain(payload) == number


@pytest.mark.parametrize(
    "payload", [b"", b"nan", b"inf", b"21,5", b"21.5 C", b"0x10", b"1_0", b"\xff", b"1" * 65]
)
def test_what_is_not_one_plain_number_is_refused_and_not_shown(payload: bytes) -> None:
    with pytest.raises(PayloadError, match=f"sent {len(payload)} bytes that are not one number"):
        read_plain(payload)


def test_a_plain_number_beyond_floating_point_is_refused() -> None:
    with pytest.raises(PayloadError, match="too large"):
        read_plain(b"1e999")


@pytest.mark.parametrize(
    "payload", [b"", b"NaN", b"1e400", b'{"t": NaN}', b"{'t': 1}", b"[" * 5000, b"\xff"]
)
def test_what_is_not_json_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError, match="bytes that are not JSON"):
        read_json(payload)


def test_a_document_that_is_too_long_is_refused_before_it_is_read() -> None:
    assert read_json(b"1" + b" " * (MAX_PAYLOAD_BYTES - 1)) == 1
    with pytest.raises(PayloadError, match="more than 65536 bytes"):
        read_json(b"1" + b" " * MAX_PAYLOAD_BYTES)


@examples
@given(payload=st.binary(max_size=200) | st.text(max_size=100).map(str.encode), path=paths)
def test_any_bytes_are_a_number_or_a_payload_error(payload: bytes, path: Path_) -> None:
    for read in (read_plain, lambda data: number_at(read_json(data), path)):
        with suppress(PayloadError):
            assert math.isfinite(read(payload))


@examples
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
    path=paths,
)
def test_any_document_has_a_finite_number_at_a_path_or_there_is_an_error(
    document: Any, path: Path_
) -> None:
    with suppress(PayloadError):
        assert math.isfinite(number_at(document, path))
