"""The forecast of `cipherfleet check` as people read it, from the object that `--json` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from cipherfleet_deploy.local.results import plural

Told = Mapping[str, Any]
_UNITS = ("B", "kB", "MB", "GB", "TB")


def forecast_table(told: Told) -> Table:
    """A line for each thing foreseen."""
    table = Table(
        title="forecast", box=None, show_header=False, pad_edge=False, title_justify="left"
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, line in _lines(told):
        table.add_row(Text(name), Text(line))
    return table


def _lines(told: Told) -> Iterator[tuple[str, str]]:
    yield "slots", _slots(told["room"])
    yield "headroom", _headroom(told["room"])
    yield "graph", _graph(told["mixing"])
    yield "traffic", _traffic(told["traffic"])
    yield from _over_time(told)
    yield "error", _error(told["expected"])
    yield "round time", _round_time(told["round_time"])


def _slots(room: Told) -> str:
    ciphertexts = plural(room["ciphertexts"], "ciphertext")
    return f"{room['slots']} of {room['slot_bits']} bits in a plaintext, {ciphertexts} per vector"


def _headroom(room: Told) -> str:
    start, largest, bits = room["start_bits"], room["largest_bits"], room["value_bits"]
    if start is None:
        return f"{bits} bits for an estimate; how many are used, only readings can tell"
    widest = f"{largest:g}" if largest is not None else "all and more"
    return f"first estimates and steps use {start:g} of {bits} bits, the simulated run {widest}"


def _graph(mixing: Told) -> str:
    gap, hops = mixing["spectral_gap"], mixing["diameter"]
    if mixing["method"] == "dense":
        return f"spectral gap {gap[0]:.3g}, diameter {hops[0]:,}"
    return (
        f"spectral gap {gap[0]:.2g} to {gap[1]:.2g}, diameter {hops[0]:,} to {hops[1]:,} "
        f"(bounds: {mixing['method']})"
    )


def _traffic(moved: Told) -> str:
    return (
        f"a round: {_bytes(moved['per_node'])} sent and received per node "
        f"(at most {_bytes(moved['busiest'])}, {moved['busiest_node']}), "
        f"{_bytes(moved['per_edge'])} per edge, {moved['overhead']:.1%} of it MQTT's; "
        "without TCP/IP and TLS"
    )


def _over_time(told: Told) -> Iterator[tuple[str, str]]:
    for name, heading in (("per_run", "whole run"), ("per_day", "a day")):
        if (moved := told[name]) is not None:
            yield (
                heading,
                (
                    f"{moved['rounds']:,.0f} rounds: {_bytes(moved['node'])} per node, "
                    f"{_bytes(moved['edge'])} per edge"
                ),
            )


def _error(expected: Told | None) -> str:
    if expected is None:
        return "no readings are at hand to simulate with"
    what = f"after {plural(expected['rounds'], 'round')}"
    if expected["of"] != expected["rounds"]:
        whole = "no end" if expected["of"] is None else f"{expected['of']:,}"
        what += f" (shortened: the fleet runs {whole})"
    figures = [
        f"{name} {expected[key]:.2g}"
        for key, name in (("relative_error", "relative error"), ("disagreement", "disagreement"))
        if expected[key] is not None
    ]
    if not expected["stays_in_range"]:
        figures = ["an estimate leaves its range, and the fleet would stop"]
    return f"{what}, simulated with {expected['readings']} readings: " + (
        ", ".join(figures) or "nothing that is relative to an answer"
    )


def _round_time(told: Told | None) -> str:
    if told is None:
        return "say on what: --profile pi-zero-2, pi-4, pi-5 or host, or --calibration FILE"
    how = "predicted from measured figures" if told["kind"] == "measured" else "ESTIMATE"
    first = ""
    if told["first_rounds"] and told["first_apart_ms"] > 1.05 * told["apart_ms"]:
        first = (
            f"; the first {plural(told['first_rounds'], 'round')}, which make the tables, "
            f"{_ms(told['first_apart_ms'])} and {_ms(told['first_together_ms'])}"
        )
    behind = "" if told["pools_keep_up"] else "; obfuscators set the pace"
    return (
        f"{how}, {told['board']}: {_ms(told['apart_ms'])} with a board for every node, "
        f"{_ms(told['together_ms'])} with all on one{first}; {_ms(told['cpu_ms'])} of CPU per node "
        f"(with a board each {told['cpu_share']:.0%} of a core)"
        f"{behind} ({told['source']})"
    )


def _ms(figure: float) -> str:
    return f"{figure / 1000:.3g} s" if figure >= 1000 else f"{figure:.3g} ms"


def _bytes(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {_UNITS[unit]}"
