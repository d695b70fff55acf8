"""The forecast of `cipherfleet check` as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text

from cipherfleet_analysis.cost.round_time import RoundTime
from cipherfleet_analysis.cost.traffic import Traffic
from cipherfleet_analysis.forecast import Expected, Forecast, Headroom, Mixing
from cipherfleet_deploy.local.results import plural

_UNITS = ("B", "kB", "MB", "GB", "TB")


def forecast_table(forecast: Forecast, more: Iterable[tuple[str, str]] = ()) -> Table:
    """Return a table with one line for each predicted quantity; *more* lines follow the error."""
    table = Table(
        title="forecast", box=None, show_header=False, pad_edge=False, title_justify="left"
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, line in _lines(forecast, more):
        table.add_row(Text(name), Text(line))
    return table


def _lines(forecast: Forecast, more: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    yield "slots", _slots(forecast.room)
    yield "headroom", _headroom(forecast.room)
    yield "graph", _graph(forecast.mixing)
    yield "traffic", _traffic(forecast.traffic)
    yield from _over_time(forecast)
    yield "error", _error(forecast.expected)
    yield from more
    yield "round time", _round_time(forecast.round_time)


def _slots(room: Headroom) -> str:
    ciphertexts = plural(room.ciphertexts, "ciphertext")
    return f"{room.slots} of {room.slot_bits} bits in a plaintext, {ciphertexts} per vector"


def _headroom(room: Headroom) -> str:
    start, largest, bits = room.start_bits, room.largest_bits, room.value_bits
    if start is None:
        return f"{bits} bits for an estimate; the readings decide how many are used"
    widest = f"{largest:g}" if largest is not None else "more than all of them"
    return f"first estimates and steps use {start:g} of {bits} bits, the simulated run {widest}"


def _graph(mixing: Mixing) -> str:
    gap, hops = mixing.spectral_gap, mixing.diameter
    if mixing.method == "dense":
        return f"spectral gap {gap[0]:.3g}, diameter {hops[0]:,}"
    return (
        f"spectral gap {gap[0]:.2g} to {gap[1]:.2g}, diameter {hops[0]:,} to {hops[1]:,} "
        f"(bounds: {mixing.method})"
    )


def _traffic(moved: Traffic) -> str:
    return (
        f"a round: {_bytes(moved.per_node)} sent and received per node "
        f"(at most {_bytes(moved.busiest)}, {moved.busiest_node}), "
        f"{_bytes(moved.per_edge)} per edge, {moved.overhead:.1%} of it MQTT's; "
        "without TCP/IP and TLS"
    )


def _over_time(forecast: Forecast) -> Iterator[tuple[str, str]]:
    for heading, volume in (("whole run", forecast.per_run), ("a day", forecast.per_day)):
        if volume is not None:
            line = (
                f"{volume.rounds:,.0f} rounds: {_bytes(volume.node)} per node, "
                f"{_bytes(volume.edge)} per edge"
            )
            yield heading, line


def _error(expected: Expected | None) -> str:
    if expected is None:
        return "not simulated: there are no readings to simulate with"
    what = f"after {plural(expected.rounds, 'round')}"
    if expected.of != expected.rounds:
        whole = "without end" if expected.of is None else f"{expected.of:,}"
        what += f" (shortened: the fleet runs {whole})"
    errors = {
        "relative error": expected.relative_error,
        "disagreement": expected.disagreement,
    }
    figures = [f"{name} {error:.2g}" for name, error in errors.items() if error is not None]
    if not expected.stays_in_range:
        figures = ["an estimate leaves its range; the fleet would stop there"]
    return f"{what}, simulated with {expected.readings} readings: " + (
        ", ".join(figures) or "no relative error is defined"
    )


def _round_time(predicted: RoundTime | None) -> str:
    if predicted is None:
        return "choose a board: --profile pi-zero-2, pi-4, pi-5 or host, or --calibration FILE"
    how = "predicted from measured figures" if predicted.kind == "measured" else "ESTIMATE"
    first = ""
    if predicted.first_rounds and predicted.first_apart_ms > 1.05 * predicted.apart_ms:
        first = (
            f"; in the first {plural(predicted.first_rounds, 'round')}, which compute the tables, "
            f"{_ms(predicted.first_apart_ms)} and {_ms(predicted.first_together_ms)}"
        )
    behind = "" if predicted.pools_keep_up else "; obfuscators limit the pace"
    return (
        f"{how}, {predicted.board}: {_ms(predicted.apart_ms)} with one board per node, "
        f"{_ms(predicted.together_ms)} with all nodes on one board{first}; "
        f"{_ms(predicted.cpu_ms)} of CPU time per node "
        f"({predicted.cpu_share:.0%} of a core with one board per node)"
        f"{behind} ({predicted.source})"
    )


def _ms(figure: float) -> str:
    return f"{figure / 1000:.3g} s" if figure >= 1000 else f"{figure:.3g} ms"


def _bytes(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {_UNITS[unit]}"
