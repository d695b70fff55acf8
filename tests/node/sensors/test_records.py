"""What devices send over a serial port: lines and frames, cut out of any stream of bytes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipherfleet_node.sensors.payloads import Path_, PayloadError
from cipherfleet_node.sensors.records import FRAMES, MAX_LINE_BYTES, Record, make_parser

examples = settings(deadline=None, max_examples=100)
FORMATS = ("lines", "csv", "json", "pms5003", "sds011")


def pms5003(pm2_5: int, pm10: int = 30) -> bytes:
    """A frame after the data manual of the PMS5003, appendix I."""
    data = [9, 19, 29, 8, pm2_5, pm10, 1500, 400, 80, 12, 3, 1, 0x9700]
    frame = b"\x42\x4d\x00\x1c" + b"".join(each.to_bytes(2, "big") for each in data)
    return frame + sum(frame).to_bytes(2, "big")


# The example of the SDS011's data sheet has this layout; D4h 04h is 1236, so 123.6 ug/m3.
SDS011 = bytes.fromhex("aac0 d404 3a0a a160 1d ab".replace(" ", ""))
GOOD: dict[str, tuple[bytes, Path_ | int, float]] = {
    "lines": (b"pm25=12.5;rh=45\r\n", "rh", 45.0),
    "csv": (b"12.5,45\n", 2, 45.0),
    "json": (b'{"a": {"t": 21.5}}\n', "a.t", 21.5),
    "pms5003": (pms5003(20), "pm2_5", 20.0),
    "sds011": (SDS011, "pm2_5", 123.6),
}


def parsed(format_: str, pieces: Iterable[bytes]) -> list[Record]:
    parser = make_parser(format_)
    return [record for piece in pieces for record in parser.feed(piece)]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_record_is_read(format_: str) -> None:
    data, place, number = GOOD[format_]
    begin = b"cut off\n" if format_ in ("lines", "csv", "json") else b""
    (record,) = parsed(format_, [begin + data])
    assert record.number(place) == pytest.approx(number)


def test_all_quantities_of_the_dust_sensors_are_where_their_manuals_say() -> None:
    (frame,) = parsed("pms5003", [pms5003(20)])
    expected = {
        "pm1_0_factory": 9, "pm2_5_factory": 19, "pm10_factory": 29, "pm1_0": 8, "pm2_5": 20,
        "pm10": 30, "n0_3": 1500, "n0_5": 400, "n1_0": 80, "n2_5": 12, "n5_0": 3, "n10": 1,
    }  # fmt: skip
    assert {name: frame.number(name) for name in FRAMES["pms5003"].quantities} == expected
    (frame,) = parsed("sds011", [SDS011])
    assert [frame.number(name) for name in ("pm2_5", "pm10")] == pytest.approx([123.6, 261.8])


@examples
@given(
    format_=st.sampled_from(FORMATS),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    count=st.integers(1, 4),
)
def test_records_come_out_the_same_in_whatever_pieces_they_come(
    format_: str, cuts: list[int], count: int
) -> None:
    data, place, number = GOOD[format_]
    stream = (b"cut\n" if format_ in ("lines", "csv", "json") else b"") + data * count
    places = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(places)]
    found = [record.number(place) for record in parsed(format_, pieces)]
    assert found == pytest.approx([number] * count)


@examples
@given(noise=st.binary(max_size=60), format_=st.sampled_from(("pms5003", "sds011")))
def test_frames_are_found_again_after_noise(noise: bytes, format_: str) -> None:
    data, place, number = GOOD[format_]
    found = [record.number(place) for record in parsed(format_, [noise + data * 2])]
    # Noise that ends like the start of a frame may take the bytes of one, and fit its checksum.
    assert found[-1] == pytest.approx(number)


@pytest.mark.parametrize("format_", ["pms5003", "sds011"])
def test_a_frame_with_any_single_wrong_byte_is_refused_and_the_next_one_is_found(
    format_: str,
) -> None:
    data, place, number = GOOD[format_]
    for position in range(len(data)):
        wrong = bytearray(data)
        wrong[position] ^= 0x10
        parser = make_parser(format_)
        found = [record.number(place) for record in parser.feed(bytes(wrong) + data)]
        # The identity of an SDS011 is in the sum as well.
        assert found == pytest.approx([number])


def test_a_wrong_sum_is_counted() -> None:
    parser = make_parser("pms5003")
    assert not list(parser.feed(pms5003(20)[:-1] + b"\0"))
    assert parser.refused == 1


def test_a_frame_whose_data_hold_its_head_is_read() -> None:
    (frame,) = parsed("pms5003", [pms5003(0x424D)])
    assert frame.number("pm2_5") == 0x424D


def test_the_first_line_is_dropped_since_its_begin_may_be_missing() -> None:
    records = parsed("lines", [b"25=12.5\npm25=13\n"])
    assert [record.number("pm25") for record in records] == [13.0]


def test_a_line_without_end_takes_no_memory_and_the_next_line_is_read() -> None:
    parser = make_parser("lines")
    assert not list(parser.feed(b"begin\n"))
    for _ in range(100):
        assert not list(parser.feed(b"x" * MAX_LINE_BYTES))
    assert parser.refused == 1
    (record,) = parser.feed(b"t=1\nt=2\n")
    assert record.number("t") == 2.0


@pytest.mark.parametrize(
    ("format_", "line", "place", "words"),
    [
        ("lines", b"t=23.75", "rh", "sent a line without 'rh'"),
        ("lines", b"t=23.75C", "t", "bytes that are not one number"),
        ("lines", b"t", "t", "sent 0 bytes that are not one number"),
        ("csv", b"23.75;4", 3, "sent a line with 2 columns only"),
        ("csv", b"23.75;", 2, "sent 0 bytes that are not one number"),
        ("json", b"{'t': 23.75}", "t", "not JSON"),
        ("json", b'{"t": "23.75"}', "t", "is a text, not a number"),
    ],
)
def test_a_line_without_the_number_is_refused_and_not_shown(
    format_: str, line: bytes, place: Path_ | int, words: str
) -> None:
    (record,) = parsed(format_, [b"\n" + line + b"\n"])
    with pytest.raises(PayloadError, match=words) as caught:
        record.number(place)
    assert "23.75" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"t=1;rh=2", 2),
        (b"t:1 rh:2", 2),
        (b"t=1,rh=2", 2),
        (b"t=1  rh=2", 2),
        (b"rh=2:5;t=1", None),
    ],
)
def test_pairs_are_separated_in_several_ways(line: bytes, expected: float | None) -> None:
    (record,) = parsed("lines", [b"\n" + line + b"\n"])
    if expected is None:
        with pytest.raises(PayloadError):
            record.number("rh")
    else:
        assert record.number("rh") == expected


@examples
@given(
    format_=st.sampled_from(FORMATS),
    pieces=st.lists(st.binary(max_size=100) | st.sampled_from([b"\n", b"BM\0\x1c", b"\xaa\xc0"])),
    place=st.text() | st.integers() | st.lists(st.text() | st.integers(), min_size=1),
)
def test_any_bytes_are_records_whose_numbers_are_there_or_payload_errors(
    format_: str, pieces: list[bytes], place: Path_ | int
) -> None:
    for record in parsed(format_, pieces):
        with suppress(PayloadError):
            assert isinstance(record.number(place), float)
