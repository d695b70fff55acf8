"""What devices send over a serial port, cut into records: lines of text, or frames with a checksum.

A parser takes bytes in any pieces and returns complete records. It finds the next record by itself
after noise, after a lost byte, and if it begins in the middle of one. It never raises an error.

Sources of the frames: Plantower, PMS5003 series data manual (2016), appendix I; Nova Fitness,
"Laser Dust Sensor Control Protocol V1.3" (SDS011).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from .payloads import Path_, PayloadError, number_at, read_json, read_plain

MAX_LINE_BYTES = 4096
_SEPARATORS = re.compile(rb"[;,\s]+")
_COLUMNS = re.compile(rb"[;,\t]")


class Record(Protocol):
    """One record of a device."""

    def number(self, place: Path_ | int) -> float:
        """Return the number at *place*; raises PayloadError if the record does not have it."""
        ...


class Parser(Protocol):
    """Bytes in, records out."""

    def feed(self, data: bytes) -> Iterator[Record]:
        """Yield the records that *data* completes."""
        ...

    @property
    def refused(self) -> int:
        """How many records had a wrong checksum or were too long, since the start."""
        ...


# -- lines of text --------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class PairsLine:
    """A line such as `pm25=12.3;rh=45`, or with a colon, a comma or spaces."""

    line: bytes

    def number(self, place: Path_ | int) -> float:
        """Return the number of the key *place*."""
        for pair in _SEPARATORS.split(self.line):
            key, _, value = pair.replace(b":", b"=", 1).partition(b"=")
            if key.decode("utf-8", "replace") == str(place):
                return read_plain(value)
        raise PayloadError(f"sent a line without {str(place)!r}")


@dataclass(frozen=True, repr=False)
class ColumnsLine:
    """A line such as `12.3,45`, with commas, semicolons or tabulators."""

    line: bytes

    def number(self, place: Path_ | int) -> float:
        """Return the number in the column *place*, counted from 1."""
        columns = _COLUMNS.split(self.line)
        if not isinstance(place, int) or not 1 <= place <= len(columns):
            raise PayloadError(f"sent a line with {len(columns)} columns only")
        return read_plain(columns[place - 1].strip())


@dataclass(frozen=True, repr=False)
class JsonLine:
    """A line that is one JSON document."""

    line: bytes

    def number(self, place: Path_ | int) -> float:
        """Return the number at the path *place*."""
        return number_at(read_json(self.line), [place] if isinstance(place, int) else place)


class LineParser:
    """Cut bytes into lines. The first one is dropped, since its begin may be missing."""

    def __init__(self, kind: Callable[[bytes], Record]) -> None:
        self._kind = kind
        self._rest = bytearray()
        self._is_cut = True  # the present line has no begin
        self.refused = 0

    def feed(self, data: bytes) -> Iterator[Record]:
        """Yield the lines that *data* completes."""
        for piece in data.splitlines(keepends=True):
            self._rest += piece
            if piece[-1:] in b"\r\n":
                line, is_cut = bytes(self._rest).strip(), self._is_cut
                self._rest.clear()
                self._is_cut = False
                if line and not is_cut:
                    yield self._kind(line)
            elif len(self._rest) > MAX_LINE_BYTES:
                self.refused += not self._is_cut
                self._rest.clear()
                self._is_cut = True


# -- frames ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrameFormat:
    """Frames of a fixed length that begin with *head*."""

    head: bytes
    length: int
    is_valid: Callable[[bytes], bool]
    # By quantity: the position of two bytes, the high one first or last, and what one count is.
    quantities: Mapping[str, int]
    high_first: bool
    scale: float


@dataclass(frozen=True, repr=False)
class Frame:
    """A frame whose checksum is right."""

    layout: FrameFormat
    data: bytes

    def number(self, place: Path_ | int) -> float:
        """Return the quantity *place* in micrograms per cubic metre, or particles in 0.1 litres."""
        position = self.layout.quantities.get(place if isinstance(place, str) else "")
        if position is None:
            raise PayloadError(f"has no quantity {place!r}")
        pair = self.data[position : position + 2]
        return int.from_bytes(pair, "big" if self.layout.high_first else "little") * (
            self.layout.scale
        )


class FrameParser:
    """Find frames in bytes. After a frame that is not valid, the search goes on behind its head."""

    def __init__(self, layout: FrameFormat) -> None:
        self._layout = layout
        self._rest = bytearray()
        self.refused = 0

    def feed(self, data: bytes) -> Iterator[Record]:
        """Yield the frames that *data* completes."""
        self._rest += data
        head, length = self._layout.head, self._layout.length
        while True:
            begin = self._rest.find(head)
            if begin < 0:
                # The last byte may be the first one of a head.
                del self._rest[: max(0, len(self._rest) - len(head) + 1)]
                return
            del self._rest[:begin]
            if len(self._rest) < length:
                return
            frame = bytes(self._rest[:length])
            is_valid = self._layout.is_valid(frame)
            self.refused += not is_valid
            del self._rest[: length if is_valid else len(head)]
            if is_valid:
                yield Frame(self._layout, frame)


def _is_pms5003(frame: bytes) -> bool:
    """Check the length field, 28, and the sum of all bytes before the last two."""
    return frame[2:4] == b"\0\x1c" and sum(frame[:30]) == int.from_bytes(frame[30:], "big")


def _is_sds011(frame: bytes) -> bool:
    """Check the tail, and the low byte of the sum of the six bytes of data."""
    return frame[9] == 0xAB and sum(frame[2:8]) & 0xFF == frame[8]


# Of the first three the factory has corrected the values for its own dust (CF=1), of the next three
# for air. The last six count particles above a diameter in micrometres.
_PMS5003 = (
    *("pm1_0_factory", "pm2_5_factory", "pm10_factory", "pm1_0", "pm2_5", "pm10"),
    *("n0_3", "n0_5", "n1_0", "n2_5", "n5_0", "n10"),
)
FRAMES = {
    "pms5003": FrameFormat(
        b"\x42\x4d", 32, _is_pms5003, {n: 4 + 2 * i for i, n in enumerate(_PMS5003)}, True, 1.0
    ),
    "sds011": FrameFormat(b"\xaa\xc0", 10, _is_sds011, {"pm2_5": 2, "pm10": 4}, False, 0.1),
}
_LINES: Mapping[str, Callable[[bytes], Record]] = {
    "lines": PairsLine,
    "csv": ColumnsLine,
    "json": JsonLine,
}


def make_parser(format_: str) -> Parser:
    """Return a parser of records in *format_*."""
    if format_ in FRAMES:
        return FrameParser(FRAMES[format_])
    return LineParser(_LINES[format_])
