"""The tables of `bench crypto` that people read, from the report that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .bench import KIND
from .bench_crypto import CIPHERTEXTS, EXCHANGE, MESSAGES, PARTS, PHE_JSON

_SIZES = {"dimension": "d", "degree": "degree"}
_LEGEND = (
    "online: pools full, answers prepared; "
    "all: everything timed, with obfuscators for the own key / for a neighbour's"
)


def show(told: Mapping[str, Any], console: Console) -> None:
    """The tables that people read, of a report."""
    where, with_ = told["machine"], told["versions"]
    console.print(f"{told['kind']} figures: of this machine, never of a device")
    console.print(f"{where['cpu']}, {where['cores']} cores, load {where['load_before']}")
    console.print(", ".join(f"{name} {version}" for name, version in with_.items()))
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for contest in told["contests"]:
        by_kind.setdefault(contest["contest"], []).append(contest)
    for kind, contests in by_kind.items():
        console.print(_table_of_parts(contests) if kind == PARTS else _table(kind, contests))
    sized = [contest for contest in told["contests"] if contest["bytes"]]
    if sized:
        console.print(_table_of_bytes(sized))


def _table(kind: str, contests: Sequence[Mapping[str, Any]]) -> Table:
    sizes = _size_headings(contests[0])
    headings = (*sizes, "slow", "ms", "fast", "ms", "ratio", "min", "p10..p90", "laps")
    table = _columns(f"{kind}: medians of ratios, {KIND}", headings)
    table.caption = _LEGEND if kind == EXCHANGE else None
    for contest in contests:
        for ratio in contest["ratios"]:
            table.add_row(*_sizes(contest), *_cells(contest, ratio), str(contest["laps"]))
        table.add_section()
    return table


def _cells(contest: Mapping[str, Any], ratio: Mapping[str, Any]) -> list[str]:
    cells: list[str] = []
    for side in (ratio["slow"], ratio["fast"]):
        cells += [side, f"{contest['ms'][side]['median']:.4g}"]
    spread = f"{ratio['p10']:.3g}..{ratio['p90']:.3g}"
    return [*cells, f"[bold]{ratio['median']:.3g}x", f"{ratio['minimum']:.3g}", spread]


def _table_of_parts(contests: Sequence[Mapping[str, Any]]) -> Table:
    names = list(contests[0]["ms"])
    table = _columns(f"{PARTS}: median ms, {KIND}", (*_size_headings(contests[0]), *names))
    for contest in contests:
        figures = [f"{contest['ms'][name]['median']:.3g}" for name in names]
        table.add_row(*_sizes(contest), *figures)
    return table


def _table_of_bytes(contests: Iterable[Mapping[str, Any]]) -> Table:
    names = (PHE_JSON, CIPHERTEXTS, MESSAGES)
    headings = ("key", "d", *names, "JSON / ciphertexts", "JSON / messages")
    table = _columns("bytes of a query and an answer", headings)
    rows = {(contest["key_bits"], contest["dimension"]): contest for contest in contests}
    for contest in rows.values():
        json_bytes, ciphertexts, messages = (contest["bytes"][name] for name in names)
        counts = [f"{number:,}" for number in (json_bytes, ciphertexts, messages)]
        ratios = [f"{json_bytes / ciphertexts:.3g}x", f"{json_bytes / messages:.3g}x"]
        table.add_row(*_sizes(contest)[:2], *counts, *ratios)
    return table


def _columns(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        if heading in ("slow", "fast"):
            table.add_column(heading)
        else:
            table.add_column(heading, justify="right", min_width=_narrowest(heading))
    return table


def _narrowest(heading: str) -> int:
    """Figures are never cut, names are broken into lines."""
    return {"key": 11, "p10..p90": 12, "ms": 6, "ratio": 6}.get(heading, 4)


def _size_headings(contest: Mapping[str, Any]) -> list[str]:
    return ["key", *(heading for name, heading in _SIZES.items() if contest[name] is not None)]


def _sizes(contest: Mapping[str, Any]) -> list[str]:
    key = f"{contest['key_bits']}{' unsafe' if contest['unsafe'] else ''}"
    return [key, *(str(contest[name]) for name in _SIZES if contest[name] is not None)]
