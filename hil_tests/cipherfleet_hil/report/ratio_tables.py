"""The tables of `bench crypto` that people read, from the report that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cipherfleet_hil.measuring.exchange_scene import (
    CIPHERTEXTS,
    DECRYPTION,
    EXCHANGE,
    MESSAGES,
    PARTS,
    PHE_JSON,
    Follow,
)
from cipherfleet_hil.measuring.interleaved import KIND

_SIZES = {"dimension": "d", "degree": "n"}
_LEGENDS = {
    EXCHANGE: "one asker, n neighbours. online: pools full, answers prepared\n"
    "all: everything timed, with obfuscators for the own key, for a neighbour's",
    PARTS: "prepare, answer: of all n neighbours; decrypt: within open\nsign, verify: one message",
    DECRYPTION: "n decryptions against one of the combination",
}


def bar(console: Console) -> Follow:
    """A bar of the contests, on a terminal.

    It is drawn between the contests only: a thread that draws would count as ours.
    """
    hidden = not console.is_terminal
    return lambda jobs: track(jobs, "contests", console=console, disable=hidden, auto_refresh=False)


def show(told: Mapping[str, Any], console: Console) -> None:
    """The tables that people read, of a report."""
    where, with_ = told["machine"], told["versions"]
    console.print(f"{told['kind']} figures: of this machine, never of a device")
    console.print(f"{where['cpu']}, {where['cores']} cores, load {where['load_before']}")
    console.print(", ".join(f"{name} {version}" for name, version in with_.items()), style="dim")
    for bits in sorted({c["key_bits"] for c in told["contests"] if c["unsafe"]}):
        console.print(f"{bits}! keys of {bits} bits are UNSAFE: for comparisons only")
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for contest in told["contests"]:
        by_kind.setdefault(contest["contest"], []).append(contest)
    for kind, contests in by_kind.items():
        console.print(_table_of_parts(contests) if kind == PARTS else _table(kind, contests))
    sized = [contest for contest in told["contests"] if contest["bytes"]]
    if sized:
        console.print(_table_of_bytes(sized))


def _table(kind: str, contests: Sequence[Mapping[str, Any]]) -> Table:
    headings = (*_size_headings(contests[0]), "slow / fast", "ms / ms", "ratio", "min", "p10..p90")
    laps = sorted({contest["laps"] for contest in contests})
    table = _columns(f"{kind}, {KIND}: ratios over {_range(laps)} laps", headings)
    table.caption = _LEGENDS.get(kind)
    for contest in contests:
        for ratio in contest["ratios"]:
            table.add_row(*_sizes(contest), *_cells(contest, ratio))
        table.add_section()
    return table


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _range(numbers: Sequence[int]) -> str:
    """The least and the largest of sorted *numbers*."""
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _cells(contest: Mapping[str, Any], ratio: Mapping[str, Any]) -> tuple[str, ...]:
    sides = ratio["slow"], ratio["fast"]
    return (
        " / ".join(sides),
        " / ".join(_figure(contest["ms"][side]["median"]) for side in sides),
        f"[bold]{ratio['median']:.3g}x",
        f"{ratio['minimum']:.3g}",
        f"{ratio['p10']:.3g}..{ratio['p90']:.3g}",
    )


def _table_of_parts(contests: Sequence[Mapping[str, Any]]) -> Table:
    names = list(contests[0]["ms"])
    headings = (*_size_headings(contests[0]), *names)
    table = _columns(f"{PARTS}, {KIND}: median ms", headings)
    table.caption = _LEGENDS[PARTS]
    for contest in contests:
        figures = [f"{contest['ms'][name]['median']:.3g}" for name in names]
        table.add_row(*_sizes(contest), *figures)
    return table


def _table_of_bytes(contests: Iterable[Mapping[str, Any]]) -> Table:
    names = (PHE_JSON, CIPHERTEXTS, MESSAGES)
    headings = ("key", "d", *names, "J / c", "J / s")
    table = _columns("bytes of a query and an answer", headings)
    rows = {(contest["key_bits"], contest["dimension"]): contest for contest in contests}
    for contest in rows.values():
        json_bytes, ciphertexts, messages = (contest["bytes"][name] for name in names)
        counts = [f"{number:,}" for number in (json_bytes, ciphertexts, messages)]
        ratios = [f"{json_bytes / ciphertexts:.3g}x", f"{json_bytes / messages:.3g}x"]
        table.add_row(*_sizes(contest)[:2], *counts, *ratios)
    return table


def _columns(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, box=SIMPLE, pad_edge=False, padding=0)
    for heading in headings:
        table.add_column(heading, justify="left" if "slow" in heading else "right", no_wrap=True)
    return table


def _size_headings(contest: Mapping[str, Any]) -> list[str]:
    return ["key", *(heading for name, heading in _SIZES.items() if contest[name] is not None)]


def _sizes(contest: Mapping[str, Any]) -> list[str]:
    key = f"{contest['key_bits']}{'!' if contest['unsafe'] else ''}"
    return [key, *(str(contest[name]) for name in _SIZES if contest[name] is not None)]
