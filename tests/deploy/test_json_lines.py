"""A file of JSON lines is read while another process writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cipherfleet_deploy.local.json_lines import JsonLinesReader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


def append(file: Path, data: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(data)


def test_a_file_that_is_not_there_yet_has_no_lines(file: Path) -> None:
    tail = JsonLinesReader(file)
    assert tail.read() == []
    append(file, b'{"a": 1}\n')
    assert tail.read() == [{"a": 1}]


def test_every_line_comes_once(file: Path) -> None:
    tail = JsonLinesReader(file)
    append(file, b'{"a": 1}\n{"a": 2}\n')
    assert tail.read() == [{"a": 1}, {"a": 2}]
    assert tail.read() == []
    append(file, b'{"a": 3}\n')
    assert tail.read() == [{"a": 3}]


def test_a_line_without_its_end_waits_for_it(file: Path) -> None:
    tail = JsonLinesReader(file)
    append(file, b'{"a": 1}\n{"a"')
    assert tail.read() == [{"a": 1}]
    append(file, b": 2}")
    assert tail.read() == []
    append(file, b"\n")
    assert tail.read() == [{"a": 2}]


@pytest.mark.parametrize(
    "garbage",
    [b"{", b"[1]", b"1", b"null", b"", b"\0\0\0\0", b"\xff\xfe", b'{"a": 1', b"[" * 100_000],
    ids=lambda data: repr(data[:8]),
)
def test_a_line_that_is_no_object_is_skipped(garbage: bytes, file: Path) -> None:
    append(file, garbage + b'\n{"a": 1}\n')
    assert JsonLinesReader(file).read() == [{"a": 1}]


def test_a_file_cut_short_is_read_from_its_beginning(file: Path) -> None:
    tail = JsonLinesReader(file)
    append(file, b'{"a": 1}\n{"a": 2}\n')
    tail.read()
    file.write_bytes(b'{"b": 1}\n')
    assert tail.read() == [{"b": 1}]


def test_a_file_put_in_its_place_is_read_from_its_beginning_even_if_longer(file: Path) -> None:
    tail = JsonLinesReader(file)
    append(file, b'{"a": 1}\n')
    tail.read()
    file.rename(file.with_suffix(".old"))
    append(file, b'{"b": 1}\n{"b": 2}\n{"b": 3}\n')
    assert tail.read() == [{"b": 1}, {"b": 2}, {"b": 3}]


def test_a_separator_that_is_no_newline_ends_no_line(file: Path) -> None:
    append(file, '{"a": "one\u2028two"}\r\n'.encode())
    assert JsonLinesReader(file).read() == [{"a": "one\u2028two"}]


@given(
    lines=st.lists(st.dictionaries(st.text(), st.integers() | st.text(), max_size=3), max_size=6),
    cuts=st.lists(st.integers(1, 20), max_size=12),
)
def test_however_the_writes_are_cut_all_lines_come_in_order(
    lines: list[dict[str, Any]], cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("tail") / "lines.jsonl"
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    tail, seen = JsonLinesReader(file), []
    for cut in [*cuts, len(data)]:
        append(file, data[:cut])
        data = data[cut:]
        seen += tail.read()
    assert seen == lines
