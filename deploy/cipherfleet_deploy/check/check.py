"""`cipherfleet check`: the advice on a fleet and its privacy, told before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cipherfleet_analysis.advice import schedule_advice
from cipherfleet_analysis.cost.board_card import PROFILES, Calibration, read_calibration
from cipherfleet_analysis.forecast import Expected, forecast, rounds_needed
from cipherfleet_analysis.privacy.audit import LEVELS, Finding, check_privacy
from cipherfleet_deploy.local.results import SETTLED, plural
from cipherfleet_node.errors import ConfigError
from cipherfleet_provisioning.fleet.fleet import Fleet, load_fleet

from .forecast_table import forecast_table

NODES_SHOWN = 5
FAR_OFF = 0.1  # relative error: not one digit of the answer is right
_STYLES = {"fail": "bold red", "warn": "yellow", "note": "cyan", "ok": "green"}
_HEADINGS = ("observer", "each round", "over many rounds", "never")


def check_fleet(
    file: Path, profile: str | None = None, calibration: Path | None = None
) -> dict[str, Any]:
    """The object that `--json` prints; raises ConfigError for a file that is no fleet.

    *profile* or the card in the file *calibration* tells what the parts of a round cost.
    """
    card = _card(profile, calibration)
    fleet = load_fleet(file)
    exchange = fleet.exchange
    privacy = check_privacy(fleet, exchange)
    foreseen = forecast(fleet, card)
    found = [*privacy.findings, *_advice(fleet), *_accuracy(fleet, foreseen.expected)]
    findings = sorted(found, key=lambda finding: LEVELS.index(finding.level))
    return {
        "fleet": fleet.file.fleet,
        "nodes": len(fleet.members),
        "edges": len(fleet.graph.edges),
        "exchange": exchange,
        "findings": [asdict(finding) for finding in findings],
        "forecast": foreseen.to_json(),
        "who_learns_what": [asdict(row) for row in privacy.who_learns_what],
    }


def _card(profile: str | None, calibration: Path | None) -> Calibration | None:
    if profile is not None and calibration is not None:
        raise ConfigError("--profile and --calibration are both given: leave one of them out")
    if calibration is not None:
        return read_calibration(calibration)
    return PROFILES[profile] if profile else None


def passes(told: dict[str, Any], *, strict: bool) -> bool:
    """Whether no finding fails; *strict* lets warnings fail as well."""
    bad = {"fail", "warn"} if strict else {"fail"}
    return not any(finding["level"] in bad for finding in told["findings"])


def _advice(fleet: Fleet) -> list[Finding]:
    """What `run` says of rounds and stepsizes; of spread 0 the privacy check says more."""
    lines = [line.partition(": ") for line in schedule_advice(fleet)]
    return [
        Finding(_level(level), "schedule", (), text)
        for level, _, text in lines
        if not text.startswith("stepsize.spread")
    ]


def _accuracy(fleet: Fleet, expected: Expected | None) -> Iterator[Finding]:
    """What is to be said of the error after the last round, if all rounds could be simulated."""
    if expected is None:
        return
    if not expected.stays_in_range:
        text = "in the simulated run an estimate leaves its range, and the fleet would stop"
        yield Finding("warn", "accuracy", (), text, "choose a smaller algorithm.stepsize.initial")
        return
    known = expected.relative_error is not None
    error = expected.relative_error if known else expected.disagreement
    if error is None or expected.rounds != expected.of:
        return
    what = "relative error" if known else "disagreement"
    text = f"after {plural(expected.rounds, 'round')} the simulated {what} is {error:.2g}"
    if error < SETTLED:
        yield Finding("ok", "accuracy", (), f"{text}, below {SETTLED:g}")
        return
    remedy = _remedy(fleet) if known else "more rounds, or other stepsizes"
    level = _level("warn" if error >= FAR_OFF else "note")
    yield Finding(level, "accuracy", (), f"{text}: it will not have settled ({SETTLED:g})", remedy)


def _remedy(fleet: Fleet) -> str:
    needed, simulated = rounds_needed(fleet, SETTLED)
    if needed is not None:
        return f"set algorithm.rounds to {needed} or more: the simulation settles there"
    return (
        f"{simulated} rounds do not settle it in the simulation either: choose longer steps that "
        "decay less (algorithm.stepsize)"
    )


def _level(word: str) -> Any:
    assert word in LEVELS, word
    return word


def show(told: dict[str, Any], console: Console) -> None:
    """The findings and the table that people read."""
    console.print(
        Text(
            f"{told['fleet']}: {told['nodes']} nodes, {told['edges']} edges, {told['exchange']} "
            "exchange"
        )
    )
    console.print(_findings(told["findings"]))
    console.print(forecast_table(told["forecast"]))
    console.print(_who_learns_what(told["who_learns_what"]))
    levels = [finding["level"] for finding in told["findings"]]
    console.print(", ".join(f"{levels.count(level)} {level}" for level in LEVELS))


def _findings(findings: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding["text"])
        if finding["nodes"] and finding["level"] in ("fail", "warn"):
            text.append(f"\n{_some(finding['nodes'])}", style="dim")
        if finding["mend"]:
            text.append(f"\nmend: {finding['mend']}", style="italic")
        table.add_row(Text(finding["level"], style=_STYLES[finding["level"]]), text)
    return table


def _some(nodes: Sequence[str]) -> str:
    more = f", and {len(nodes) - NODES_SHOWN:,} more" if len(nodes) > NODES_SHOWN else ""
    return ", ".join(nodes[:NODES_SHOWN]) + more


def _who_learns_what(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="who learns what", box=SIMPLE, pad_edge=False, show_lines=True)
    for heading in _HEADINGS:
        table.add_column(heading, overflow="fold", ratio=1)
    for row in rows:
        times = f" ({row['count']:,} of them)" if row["count"] > 1 else ""
        cells = (f"{row['observer']}{times}", row["each_round"], row["many_rounds"], row["never"])
        table.add_row(*(Text(cell) for cell in cells))
    return table
