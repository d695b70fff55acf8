"""YAML documents: plain data of the core schema, with a position for every error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from cipherfleet_node.errors import ConfigError, Mark
from cipherfleet_node.settings.type_errors import dotted, validate
from cipherfleet_node.settings.yaml_document import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    parse_document,
    read_document,
)

FILE = Path("some.yaml")


def data(text: str) -> Any:
    return parse_document(text, FILE).data


def complaint(text: str, kind: Any = Any) -> str:
    with pytest.raises(ConfigError) as refused:
        parse_document(text, FILE).convert(kind)
    return str(refused.value)


# -- the core schema ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("NO", "NO"),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("010", 10),
        ("-007", -7),
        ("0x1F", 31),
        ("0o17", "0o17"),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2024-02-30", "2024-02-30"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("null", None),
        ("", None),
        ("2^-24", "2^-24"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("+12", 12),
        ('"12"', "12"),
        ("'true'", "true"),
        ("=", "="),
        ("on device", "on device"),
    ],
)
def test_plain_values_are_those_of_the_core_schema(text: str, value: object) -> None:
    (found,) = data(f"key: {text}").values()
    assert found == value
    assert type(found) is type(value)


@given(st.integers(-(10**20), 10**20))
def test_whole_numbers_are_read_exactly(number: int) -> None:
    assert data(f"key: {number}") == {"key": number}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_read_as_they_were_written(number: float) -> None:
    assert data(f"key: {number!r}") == {"key": number}


def test_keys_are_words_whatever_they_look_like() -> None:
    assert data("no: 1\n12: 2\n1e-3: 3\ntrue: 4\n2024-01-01: 5") == {
        "no": 1,
        "12": 2,
        "1e-3": 3,
        "true": 4,
        "2024-01-01": 5,
    }


@given(st.text(max_size=60))
def test_any_text_is_a_document_or_a_complaint_with_a_place(text: str) -> None:
    try:
        document = parse_document(text, FILE)
    except ConfigError as error:
        wording = str(error)
    else:
        wording = "some.yaml: no complaint"
        assert isinstance(document.data, dict)
    assert wording.startswith("some.yaml:")
    assert "\n" not in wording


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "some.yaml:3:1: a is given twice, first at 1:1"),
        ("x:\n  a: 1\n  a: 1", "some.yaml:3:3: x.a is given twice, first at 2:3"),
        ("a: &x 1\nb: *x", "some.yaml:2:4: is an alias, write out the value itself"),
        ("a: &x [1]\nb: [*x]", "some.yaml:2:5: is an alias, write out the value"),
        ("a: &x [*x]", "some.yaml:1:8: is an alias"),
        ("a: *x", "some.yaml:1:4: is an alias, write out the value"),
        ("a: !!python/object/apply:os.system [id]", "some.yaml:1:4: a has a YAML tag"),
        ("a: !!python/name:os.system", "some.yaml:1:4: a has a YAML tag or value"),
        ("a: !mine {b: 1}", "some.yaml:1:4: a has a YAML tag or value that is not allowed"),
        ("a: !!set {b}", "some.yaml:1:4: a has a YAML tag or value that is not allowed"),
        ("a: !!binary aGVsbG8=", "some.yaml:1:4: a has a YAML tag or value"),
        ("a: !!timestamp 2024-01-01", "some.yaml:1:4: a has a YAML tag or value"),
        ("a: !!int word", "some.yaml:1:4: a has a YAML tag or value"),
        ("a: 1e999", "some.yaml:1:4: a has a YAML tag or value that is not allowed"),
        ("a: -1e999", "some.yaml:1:4: a has a YAML tag or value that is not allowed"),
        ("a: " + "9" * 5000, "some.yaml:1:4: a has a YAML tag or value that is not allowed"),
        ("a: 1\n---\nb: 2", "some.yaml:2:1: is not valid YAML: but found another document"),
        ("a: [1", "is not valid YAML: did not find expected ',' or ']'"),
        ("a: 'open", "is not valid YAML"),
        ("a: 1\n\tb: 2", "some.yaml:2:1: is not valid YAML: found a tab"),
        ("a: \x01", "some.yaml:1:1: is not valid YAML: a character is not allowed"),
        ("? [a]\n: 1", "some.yaml:1:3: a key must be a plain word"),
        ("- a\n- b", "some.yaml:1:1: must be a mapping of settings"),
        ("words", "some.yaml:1:1: must be a mapping of settings"),
        ("", "some.yaml:1:1: is empty, must hold a mapping of settings"),
        ("# only a comment", "some.yaml:1:1: is empty"),
    ],
)
def test_what_is_not_one_plain_mapping_is_refused_at_its_place(text: str, words: str) -> None:
    assert words in complaint(text)


@pytest.mark.parametrize("levels", [MAX_DEPTH, 5_000, 200_000])
@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ("{a: ", "}")])
def test_deep_nesting_is_refused_before_the_parser_overruns_its_stack(
    levels: int, opened: str, closed: str
) -> None:
    text = "x: " + opened * levels + closed * levels
    assert "is nested too deeply, at most 32 levels" in complaint(text)


@pytest.mark.parametrize("inside", ['"{}"', "'{}'", "1 # {}"])
def test_brackets_that_open_no_level_are_not_counted(inside: str) -> None:
    text = f"a: {inside.format('[' * 100)}\nb: [1"
    assert "is not valid YAML" in complaint(text)


def test_nesting_within_the_limit_is_read() -> None:
    levels = MAX_DEPTH - 1
    found = data("x: " + "[" * levels + "]" * levels)["x"]
    for _ in range(levels - 1):
        (found,) = found
    assert found == []


def test_aliases_do_not_multiply() -> None:
    """Nine lines that would make a billion entries."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [" + ", ".join([f"*a{k - 1}"] * 10) + "]" for k in range(1, 9)]
    assert "some.yaml:2:10: is an alias, write out the value itself" in complaint("\n".join(lines))


# -- files ----------------------------------------------------------------------------------------


def read_complaint(file: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        read_document(file)
    return str(refused.value)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: 1 #" + "x" * MAX_DOCUMENT_BYTES)
    assert f"bytes, at most {MAX_DOCUMENT_BYTES} are allowed" in read_complaint(file)


def test_a_file_that_is_not_utf_8_tells_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(b"a: caf\xe9")
    assert read_complaint(file) == f"{file}: is not UTF-8 text (byte 6)"


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert (
        read_complaint(tmp_path / "x") == f"{tmp_path}/x: cannot be read: No such file or directory"
    )
    assert "cannot be read: Is a directory" in read_complaint(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_other_editors_files_are_read_too(tmp_path: Path, start: str, end: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(f"{start}a: 1{end}b: é{end}".encode())
    document = read_document(file)
    assert document.data == {"a": 1, "b": "é"}
    assert document.mark(("b",)).line == 2


# -- marks ----------------------------------------------------------------------------------------

TEXT = """\
fleet: lab
nodes:
  - {id: a, at: [1, 2]}
  - id: b
    at:
      - 3
"""


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        ((), 1, 1),
        (("fleet",), 1, 8),
        (("nodes",), 2, 1),
        (("nodes", 0), 3, 5),
        (("nodes", 0, "id"), 3, 10),
        (("nodes", 0, "at", 1), 3, 21),
        (("nodes", 1, "at"), 5, 5),
        (("nodes", 1, "at", 0), 6, 9),
        (("nodes", 1, "missing"), 4, 5),
        (("missing", "deeper"), 1, 1),
    ],
)
def test_every_value_has_its_place(path: tuple[str | int, ...], line: int, column: int) -> None:
    assert parse_document(TEXT, FILE).mark(path) == Mark("some.yaml", line, column)


def test_paths_are_written_as_operators_write_them() -> None:
    assert dotted(("nodes", 3, "id")) == "nodes[3].id"
    assert dotted(()) == ""


# -- conversion -----------------------------------------------------------------------------------


class Cold(msgspec.Struct, tag_field="kind", tag="cold", forbid_unknown_fields=True):
    depth: float = 0.0


class Hot(msgspec.Struct, tag_field="kind", tag="hot", forbid_unknown_fields=True):
    limits: dict[str, tuple[float, float]] = {}


Name = Annotated[str, Meta(pattern="^[a-z]+$", description="lower-case letters")]


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    name: Name = "x"
    colour: Literal["red", "green"] = "red"
    mode: Cold | Literal["none"] = "none"
    place: Cold | Hot | None = None
    count: Annotated[int, Meta(ge=1)] | None = None
    ratio: float = 0.0
    on: bool = False
    tags: dict[str, str] = {}
    parts: list[Cold] = []
    inner: dict[str, Cold] = {}
    named: dict[Name, Cold] = {}
    password: str = ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colur: red", "1:1: colur is not a known key, did you mean 'colour'?"),
        ("xyzzy: 1", "1:1: xyzzy is not a known key, known here are colour, count, inner, mode, "),
        ("colour: blue", "1:9: colour is 'blue', must be one of green, red"),
        ("colour: 5", "1:9: colour is 5, must be one of green, red"),
        ("mode: some", "1:7: mode is 'some', must be none or a mapping"),
        ("mode: 3", "1:7: mode is 3, must be none or a mapping"),
        ("mode: {dept: 1}", "1:8: mode.dept is not a known key, did you mean 'depth'?"),
        ("place: {kind: warm}", "1:15: place.kind is 'warm', must be one of cold, hot"),
        ("place: {kind: 5}", "1:15: place.kind is 5, must be one of cold, hot"),
        ("place: {}", "1:1: place.kind is missing and has no default"),
        ("name: A", "1:7: name is 'A', must be lower-case letters"),
        ("name: 5", "1:7: name is 5, must be a text"),
        ("name:", "1:6: name is nothing, must be a text"),
        ("count: 0", "1:8: count is 0, must be a whole number >= 1"),
        ("count: 1.5", "1:8: count is 1.5, must be a whole number >= 1 or nothing"),
        ("count: true", "1:8: count is true, must be a whole number >= 1 or nothing"),
        ("ratio: high", "1:8: ratio is 'high', must be a number"),
        ("ratio: .inf", "1:8: ratio is '.inf', must be a number"),
        ("on: yes", "1:5: on is 'yes', must be true or false"),
        ("parts: {}", "1:1: parts is an empty mapping, must be a list"),
        ("parts: [{depth: x}]", "1:17: parts[0].depth is 'x', must be a number"),
        ("parts: [{}, {dpth: 1}]", "1:14: parts[1].dpth is not a known key"),
        ("tags: {a: b, c: 5}", "1:17: tags.c is 5, must be a text"),
        ("tags: [a]", "1:1: tags is a list, must be a mapping"),
        ("inner: {a: {}, b: {depth: deep}}", "1:27: inner.b.depth is 'deep', must be a number"),
        (
            "named: {a: {}, B: {depth: deep}}",
            "1:16: named.B is not allowed as a key, must be lower-case letters",
        ),
        ("named: {a: {depth: deep}, b: {}}", "1:20: named.a.depth is 'deep', must be a number"),
        ("inner: {a: {depth: 1}, b: 7}", "1:27: inner.b is 7, must be a mapping"),
        (
            "place: {kind: hot, limits: {t: [1, 2], h: [1, x]}}",
            "1:47: place.limits.h[1] is 'x', must be a number",
        ),
        ("name: " + "é" * 100, "must be lower-case letters"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_what_would(text: str, words: str) -> None:
    assert words in complaint(text, Settings)


NASTY = ["x - at `$.y", "x - at `$.y`", "`", "...", "a.b", "[0]", "kind", "\n", "place", "é" * 99]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["cold", "hot", "none", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["kind", "depth", "limits", *NASTY]), inner, max_size=3)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from([*Settings.__struct_fields__, *NASTY])


@given(st.dictionaries(KEYS, VALUES, max_size=4))
@settings(max_examples=500)
def test_whatever_does_not_fit_is_told_and_nothing_else_happens(given_data: dict[str, Any]) -> None:
    _, misfits = validate(given_data, Settings)
    try:
        msgspec.convert(given_data, Settings)
    except msgspec.ValidationError:
        assert misfits
    else:
        assert not misfits
    assert len({misfit.path for misfit in misfits}) == len(misfits)


@pytest.mark.parametrize("key", NASTY)
def test_a_key_that_must_be_a_name_is_told_whatever_it_holds(key: str) -> None:
    data: dict[str, Any] = {"named": {"a": {}, "b": {"depth": "x"}, key: {}, "C": {}}}
    expected = {("named", "b", "depth"), ("named", "C")}
    expected |= set() if key.isascii() and key.isalpha() else {("named", key)}
    value, misfits = validate(data, Settings)
    assert {misfit.path for misfit in misfits} == expected
    assert sorted(value.named) == sorted({"a", "b", key} - {path[-1] for path in expected})


@pytest.mark.parametrize("key", NASTY)
def test_an_unknown_key_is_named_whatever_it_holds(key: str) -> None:
    known = {"place": {"kind": "hot", key: 1}} if key != "kind" else {"parts": [{"kind": "cold"}]}
    _, misfits = validate(known | {"zzz": 1}, Settings)
    expected = [] if key == "kind" else [("place", key)]
    assert [misfit.path for misfit in misfits if misfit.path != ("zzz",)] == expected
    assert ("zzz",) in [misfit.path for misfit in misfits]


def test_long_values_are_shortened() -> None:
    assert len(complaint("name: " + "A" * 10_000, Settings)) < 200


class Login(msgspec.Struct, forbid_unknown_fields=True):
    api_token: int = 0
    privateKey: int = 0  # noqa: N815
    secrets: list[int] = []
    inner: dict[str, int] = {}


@pytest.mark.parametrize(
    "text",
    [
        "api_token: hunter2",
        "privateKey: hunter2",
        "secrets: [hunter2]",
        "inner: {my_password: hunter2}",
        "password: hunter2",
        "api_token: 1\napi_token: hunter2",
        "api_token: !mine hunter2",
        "api_token: [hunter2",
    ],
)
def test_secrets_are_not_echoed(text: str) -> None:
    found = complaint(text, Login)
    assert "hunter2" not in found
    assert ("not shown" in found) == (":" in text and "must be" in found)


def test_what_fits_is_converted() -> None:
    text = "name: abc\nplace: {kind: cold, depth: 3}\ntags: {a: no}\ncount: 3"
    settings = parse_document(text, FILE).convert(Settings)
    assert settings == Settings(name="abc", place=Cold(3.0), tags={"a": "no"}, count=3)
