"""The expected rounds of the exact method in words, and the advice on one more link."""

from __future__ import annotations

from collections.abc import Iterator

from cipherfleet_analysis.rounds import ACCURACIES, Convergence, Lag
from cipherfleet_deploy.local.results import plural
from cipherfleet_node.findings import Finding

LINK = "link"  # subject of findings


def convergence_lines(convergence: Convergence | None) -> Iterator[tuple[str, str]]:
    """Yield lines for the table of the forecast."""
    if convergence is None:
        return
    reached = [_reached(convergence, level) for level in ACCURACIES]
    yield "rounds", f"relative error {', '.join(reached)} ({_source(convergence)})"
    if convergence.lag is not None:
        yield "lag", _lag(convergence.lag)


def link_findings(convergence: Convergence | None) -> Iterator[Finding]:
    """Yield the advice on one more link, if one saves enough rounds."""
    link = convergence.link if convergence else None
    if link is None:
        return
    first, second = link.between
    text = (
        f"one more link between {first!r} and {second!r} saves about {link.saved} of "
        f"{plural(link.rounds + link.saved, 'round')} to a relative error of {ACCURACIES[0]}"
    )
    remedy = (
        "add this edge to the topology (kind: edges or file); all messages pass the broker, so any "
        "two nodes can be neighbours"
    )
    yield Finding("note", LINK, text, remedy, link.between)


def _reached(convergence: Convergence, level: str) -> str:
    rounds = convergence.rounds_to[level]
    if rounds is None:
        return f"not below {level} within the simulated rounds"
    about = "" if convergence.within is None else "about "
    return f"below {level} after {about}{plural(rounds, 'round')}"


def _source(convergence: Convergence) -> str:
    if convergence.within is None:
        return "simulated"
    return (
        f"from the spectral gap; nine of ten fleets are within a factor of {convergence.within:g}"
    )


def _lag(lag: Lag) -> str:
    after = "" if lag.seconds is None else f", {lag.seconds:,.0f} s"
    return (
        f"the answer trails a moving optimum of the windows by about {lag.rounds:.0f} rounds{after}"
    )
