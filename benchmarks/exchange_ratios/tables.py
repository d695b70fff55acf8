"""The tables of `benchmarks/exchange.py`, from the report that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from .comparisons import (
    CIPHERTEXTS,
    DECRYPTION,
    EXCHANGE,
    HOST_KIND,
    MESSAGES,
    PARTS,
    PHE_JSON,
)

_SIZES = {"dimension": "d", "degree": "n"}
_LEGENDS = {
    EXCHANGE: "one asker, n neighbours; online: pools full, answers prepared\n"
    "all: everything timed, with these obfuscators (own key, neighbour's key)",
    PARTS: "prepare, answer: all n neighbours; decrypt: part of open\nsign, verify: one message",
    DECRYPTION: "n decryptions against one decryption of the combination",
}


def show(report: Mapping[str, Any], console: Console) -> None:
    """Print the tables of a report."""
    machine, versions = report["machine"], report["versions"]
    console.print(f"{report['kind']} figures of this machine, never of a device")
    console.print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_before']}")
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()), style="dim")
    for bits in sorted({c["key_bits"] for c in report["comparisons"] if c["unsafe"]}):
        console.print(f"{bits}! keys of {bits} bits are UNSAFE: for comparisons only")
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for comparison in report["comparisons"]:
        by_kind.setdefault(comparison["comparison"], []).append(comparison)
    for kind, comparisons in by_kind.items():
        console.print(_table_of_parts(comparisons) if kind == PARTS else _table(kind, comparisons))
    sized = [comparison for comparison in report["comparisons"] if comparison["bytes"]]
    if sized:
        console.print(_table_of_bytes(sized))


def _table(kind: str, comparisons: Sequence[Mapping[str, Any]]) -> Table:
    headings = (
        *_size_headings(comparisons[0]),
        "slow / fast",
        "ms / ms",
        "ratio",
        "min",
        "p10..p90",
    )
    passes = sorted({comparison["passes"] for comparison in comparisons})
    table = _columns(f"{kind}, {HOST_KIND}: ratios over {_range(passes)} passes", headings)
    table.caption = _LEGENDS.get(kind)
    for comparison in comparisons:
        for ratio in comparison["ratios"]:
            table.add_row(*_sizes(comparison), *_cells(comparison, ratio))
        table.add_section()
    return table


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _range(numbers: Sequence[int]) -> str:
    """Format the smallest and the largest of the sorted *numbers*."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _cells(comparison: Mapping[str, Any], ratio: Mapping[str, Any]) -> tuple[str, ...]:
    sides = ratio["slow"], ratio["fast"]
    return (
        " / ".join(sides),
        " / ".join(_figure(comparison["ms"][side]["median"]) for side in sides),
        f"[bold]{ratio['median']:.3g}x",
        f"{ratio['minimum']:.3g}",
        f"{ratio['p10']:.3g}..{ratio['p90']:.3g}",
    )


def _table_of_parts(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    names = list(comparisons[0]["ms"])
    headings = (*_size_headings(comparisons[0]), *names)
    table = _columns(f"{PARTS}, {HOST_KIND}: median ms", headings)
    table.caption = _LEGENDS[PARTS]
    for comparison in comparisons:
        figures = [f"{comparison['ms'][name]['median']:.3g}" for name in names]
        table.add_row(*_sizes(comparison), *figures)
    return table


def _table_of_bytes(comparisons: Iterable[Mapping[str, Any]]) -> Table:
    names = (PHE_JSON, CIPHERTEXTS, MESSAGES)
    headings = ("key", "d", *names, "J / c", "J / s")
    table = _columns("bytes of a query and an answer", headings)
    rows = {
        (comparison["key_bits"], comparison["dimension"]): comparison for comparison in comparisons
    }
    for comparison in rows.values():
        json_bytes, ciphertexts, messages = (comparison["bytes"][name] for name in names)
        counts = [f"{number:,}" for number in (json_bytes, ciphertexts, messages)]
        ratios = [f"{json_bytes / ciphertexts:.3g}x", f"{json_bytes / messages:.3g}x"]
        table.add_row(*_sizes(comparison)[:2], *counts, *ratios)
    return table


def _columns(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, box=SIMPLE, pad_edge=False, padding=0)
    for heading in headings:
        table.add_column(heading, justify="left" if "slow" in heading else "right", no_wrap=True)
    return table


def _size_headings(comparison: Mapping[str, Any]) -> list[str]:
    return ["key", *(heading for name, heading in _SIZES.items() if comparison[name] is not None)]


def _sizes(comparison: Mapping[str, Any]) -> list[str]:
    key = f"{comparison['key_bits']}{'!' if comparison['unsafe'] else ''}"
    return [key, *(str(comparison[name]) for name in _SIZES if comparison[name] is not None)]
