"""The forecast of `cipherfleet check` as a table, made from the object that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from cipherfleet_deploy.local.results import plural

Section = Mapping[str, Any]  # of the object that `--json` prints
_UNITS = ("B", "kB", "MB", "GB", "TB")


def forecast_table(result: Section) -> Table:
    """Return a table with one line for each predicted quantity."""
    table = Table(
        title="forecast", box=None, show_header=False, pad_edge=False, title_justify="left"
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, line in _lines(result):
        table.add_row(Text(name), Text(line))
    return table


def _lines(result: Section) -> Iterator[tuple[str, str]]:
    yield "slots", _slots(result["room"])
    yield "headroom", _headroom(result["room"])
    yield "graph", _graph(result["mixing"])
    yield "traffic", _traffic(result["traffic"])
    yield from _over_time(result)
    yield "error", _error(result["expected"])
    yield "round time", _round_time(result["round_time"])


def _slots(room: Section) -> str:
    ciphertexts = plural(room["ciphertexts"], "ciphertext")
    return f"{room['slots']} of {room['slot_bits']} bits in a plaintext, {ciphertexts} per vector"


def _headroom(room: Section) -> str:
    start, largest, bits = room["start_bits"], room["largest_bits"], room["value_bits"]
    if start is None:
        return f"{bits} bits for an estimate; the readings decide how many are used"
    widest = f"{largest:g}" if largest is not None else "more than all of them"
    return f"first estimates and steps use {start:g} of {bits} bits, the simulated run {widest}"


def _graph(mixing: Section) -> str:
    gap, hops = mixing["spectral_gap"], mixing["diameter"]
    if mixing["method"] == "dense":
        return f"spectral gap {gap[0]:.3g}, diameter {hops[0]:,}"
    return (
        f"spectral gap {gap[0]:.2g} to {gap[1]:.2g}, diameter {hops[0]:,} to {hops[1]:,} "
        f"(bounds: {mixing['method']})"
    )


def _traffic(moved: Section) -> str:
    return (
        f"a round: {_bytes(moved['per_node'])} sent and received per node "
        f"(at most {_bytes(moved['busiest'])}, {moved['busiest_node']}), "
        f"{_bytes(moved['per_edge'])} per edge, {moved['overhead']:.1%} of it MQTT's; "
        "without TCP/IP and TLS"
    )


def _over_time(result: Section) -> Iterator[tuple[str, str]]:
    for name, heading in (("per_run", "whole run"), ("per_day", "a day")):
        if (moved := result[name]) is not None:
            yield (
                heading,
                (
                    f"{moved['rounds']:,.0f} rounds: {_bytes(moved['node'])} per node, "
                    f"{_bytes(moved['edge'])} per edge"
                ),
            )


def _error(expected: Section | None) -> str:
    if expected is None:
        return "not simulated: there are no readings to simulate with"
    what = f"after {plural(expected['rounds'], 'round')}"
    if expected["of"] != expected["rounds"]:
        whole = "without end" if expected["of"] is None else f"{expected['of']:,}"
        what += f" (shortened: the fleet runs {whole})"
    figures = [
        f"{name} {expected[key]:.2g}"
        for key, name in (("relative_error", "relative error"), ("disagreement", "disagreement"))
        if expected[key] is not None
    ]
    if not expected["stays_in_range"]:
        figures = ["an estimate leaves its range; the fleet would stop there"]
    return f"{what}, simulated with {expected['readings']} readings: " + (
        ", ".join(figures) or "no relative error is defined"
    )


def _round_time(result: Section | None) -> str:
    if result is None:
        return "choose a board: --profile pi-zero-2, pi-4, pi-5 or host, or --calibration FILE"
    how = "predicted from measured figures" if result["kind"] == "measured" else "ESTIMATE"
    first = ""
    if result["first_rounds"] and result["first_apart_ms"] > 1.05 * result["apart_ms"]:
        first = (
            f"; in the first {plural(result['first_rounds'], 'round')}, which compute the tables, "
            f"{_ms(result['first_apart_ms'])} and {_ms(result['first_together_ms'])}"
        )
    behind = "" if result["pools_keep_up"] else "; obfuscators limit the pace"
    return (
        f"{how}, {result['board']}: {_ms(result['apart_ms'])} with one board per node, "
        f"{_ms(result['together_ms'])} with all nodes on one board{first}; "
        f"{_ms(result['cpu_ms'])} of CPU time per node "
        f"({result['cpu_share']:.0%} of a core with one board per node)"
        f"{behind} ({result['source']})"
    )


def _ms(figure: float) -> str:
    return f"{figure / 1000:.3g} s" if figure >= 1000 else f"{figure:.3g} ms"


def _bytes(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {_UNITS[unit]}"
