"""`cipherfleet check`: findings about a fleet's privacy and settings, and a forecast of its run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cipherfleet_analysis.advice import schedule_advice
from cipherfleet_analysis.convergence import SPREAD
from cipherfleet_analysis.cost.board_card import BOARD_ESTIMATES, Calibration, read_calibration
from cipherfleet_analysis.forecast import Expected, Forecast, forecast
from cipherfleet_analysis.privacy.audit import check_privacy
from cipherfleet_analysis.privacy.observers import Observer
from cipherfleet_analysis.result_privacy import result_privacy_findings
from cipherfleet_analysis.rounds import Convergence, predict_convergence, rounds_needed
from cipherfleet_analysis.shield_advice import shield_findings
from cipherfleet_analysis.statistics_advice import statistics_advice
from cipherfleet_analysis.weights import weight_findings
from cipherfleet_deploy.local.results import SETTLED, plural
from cipherfleet_node.errors import ConfigError
from cipherfleet_node.findings import LEVELS, Finding, Level
from cipherfleet_node.settings.sections import ExchangeName, Weight
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

from .convergence import convergence_lines, link_findings
from .forecast_table import forecast_table
from .outputs import output_findings
from .sensors import sensor_findings

NODES_SHOWN = 5
FAR_OFF = 0.1  # relative error at which no digit of the answer is right
_STYLES: dict[Level, str] = {"fail": "bold red", "warn": "yellow", "note": "cyan", "ok": "green"}
_HEADINGS = ("observer", "each round", "over many rounds", "never")


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `cipherfleet check`: `--json` prints these keys in this order."""

    fleet: str
    nodes: int
    edges: int
    exchange: ExchangeName
    weight: Weight
    findings: tuple[Finding, ...]  # the most serious first
    forecast: Forecast
    convergence: Convergence | None  # None unless the fleet runs the exact method
    who_learns_what: tuple[Observer, ...]


def check_fleet(
    file: Path, profile: str | None = None, calibration: Path | None = None
) -> CheckResult:
    """Check and forecast the fleet in *file*. Raises ConfigError if it is not a valid fleet.

    The costs of the parts of a round come from *profile*, or from the card in *calibration*.
    """
    card = _card(profile, calibration)
    fleet = load_fleet(file)
    exchange = fleet.exchange
    privacy = check_privacy(fleet, exchange)
    prediction = forecast(fleet, card)
    convergence = predict_convergence(fleet)
    findings = [
        *privacy.findings,
        *_advice(fleet),
        *weight_findings(fleet),
        *_accuracy(fleet, prediction.expected),
        *statistics_advice(fleet),
        *shield_findings(fleet),
        *result_privacy_findings(fleet),
        *link_findings(convergence),
        *output_findings(fleet),
        *sensor_findings(fleet),
    ]
    return CheckResult(
        fleet=fleet.file.fleet,
        nodes=len(fleet.members),
        edges=len(fleet.graph.edges),
        exchange=exchange,
        weight=fleet.file.objective.weight,
        findings=tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level))),
        forecast=prediction,
        convergence=convergence,
        who_learns_what=privacy.who_learns_what,
    )


def _card(profile: str | None, calibration: Path | None) -> Calibration | None:
    if profile is not None and calibration is not None:
        raise ConfigError(
            "--profile and --calibration are both given", remedy="leave one of them out"
        )
    if calibration is not None:
        return read_calibration(calibration)
    return BOARD_ESTIMATES[profile] if profile else None


def passes(result: CheckResult, *, strict: bool) -> bool:
    """Return True if no finding fails. With *strict*, warnings are failures too."""
    bad = {"fail", "warn"} if strict else {"fail"}
    return not any(finding.level in bad for finding in result.findings)


def _advice(fleet: Fleet) -> list[Finding]:
    """Return the advice of `run` on rounds and stepsizes.

    Advice on stepsize.spread is left out: the privacy check says more about it.
    """
    return [finding for finding in schedule_advice(fleet) if finding.subject != SPREAD]


def _accuracy(fleet: Fleet, expected: Expected | None) -> Iterator[Finding]:
    """Yield a finding about the error after the last round, if all rounds could be simulated."""
    if expected is None:
        return
    if not expected.stays_in_range:
        text = "in the simulated run an estimate leaves its range; the fleet would stop there"
        yield Finding("warn", "accuracy", text, "choose a smaller algorithm.stepsize.initial")
        return
    known = expected.relative_error is not None
    error = expected.relative_error if known else expected.disagreement
    if error is None or expected.rounds != expected.of:
        return
    what = "relative error" if known else "disagreement"
    text = f"after {plural(expected.rounds, 'round')} the simulated {what} is {error:.2g}"
    if error < SETTLED:
        yield Finding("ok", "accuracy", f"{text}, below {SETTLED:g}")
        return
    remedy = _remedy(fleet) if known else "set more algorithm.rounds, or other stepsizes"
    text += f": the fleet will not have settled (below {SETTLED:g})"
    yield Finding("warn" if error >= FAR_OFF else "note", "accuracy", text, remedy)


def _remedy(fleet: Fleet) -> str:
    needed, simulated = rounds_needed(fleet, SETTLED)
    if needed is not None:
        return f"set algorithm.rounds to {needed} or more: the simulation has settled by then"
    return (
        f"choose larger stepsizes that decay less (algorithm.stepsize): the simulation has not "
        f"settled after {simulated} rounds either"
    )


def show(result: CheckResult, console: Console) -> None:
    """Print the findings, the forecast, and the table of who learns what."""
    size = f"{result.nodes} nodes, {result.edges} edges"
    how = f"{result.exchange} exchange, every {result.weight} counts alike"
    console.print(Text(f"{result.fleet}: {size}, {how}"))
    console.print(_findings_table(result.findings))
    console.print(forecast_table(result.forecast, convergence_lines(result.convergence)))
    console.print(_disclosure_table(result.who_learns_what))
    levels = [finding.level for finding in result.findings]
    console.print(", ".join(f"{levels.count(level)} {level}" for level in _STYLES))


def _findings_table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.text)
        if finding.nodes and finding.level in ("fail", "warn"):
            text.append(f"\n{_first_names(finding.nodes)}", style="dim")
        if finding.remedy:
            text.append(f"\nremedy: {finding.remedy}", style="italic")
        table.add_row(Text(finding.level, style=_STYLES[finding.level]), text)
    return table


def _first_names(nodes: Sequence[str]) -> str:
    more = f", and {len(nodes) - NODES_SHOWN:,} more" if len(nodes) > NODES_SHOWN else ""
    return ", ".join(nodes[:NODES_SHOWN]) + more


def _disclosure_table(rows: Sequence[Observer]) -> Table:
    table = Table(title="who learns what", box=SIMPLE, pad_edge=False, show_lines=True)
    for heading in _HEADINGS:
        table.add_column(heading, overflow="fold", ratio=1)
    for row in rows:
        times = f" ({row.count:,} of them)" if row.count > 1 else ""
        cells = (f"{row.observer}{times}", row.each_round, row.many_rounds, row.never)
        table.add_row(*(Text(cell) for cell in cells))
    return table
