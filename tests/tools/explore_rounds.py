"""Search the schedules of a small fleet for broken invariants of the round machine.

    python -m tests.tools.explore_rounds --seconds 600 --graph complete4 --faults late=2,will=1
    python -m tests.tools.explore_rounds --seconds 600 --at-random

The agents are the real ones, and ciphertexts are symbols. The search decides every delivery, loss,
delay, last will and crash (`tests/support/round_model`). Prints how far the search came, and the
first schedule of every kind of violation. Exit code 1 if one of SECRECY or FAILURES was found.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable

from tests.support.round_model.bugs import BUGS, switched_off
from tests.support.round_model.graphs import GRAPHS
from tests.support.round_model.invariants import FAILURES, KINDS, SECRECY
from tests.support.round_model.model_nodes import MEMORIES
from tests.support.round_model.search import Limits, Report, explore, wander_many
from tests.support.round_model.world import Action, World, new_world


def main() -> int:
    args = _parser().parse_args()
    graphs = [GRAPHS[name] for name in args.graph] or list(GRAPHS.values())
    is_sealed = not args.pairwise
    worlds: list[Callable[[], World]] = [
        lambda graph=graph: new_world(graph, sealed=is_sealed)  # type: ignore[misc]
        for graph in graphs
    ]
    with switched_off(*args.bug):
        report = _search(worlds, args)
    print(describe(report))
    return 1 if report.found.keys() & (SECRECY | FAILURES) else 0


def _search(worlds: list[Callable[[], World]], args: argparse.Namespace) -> Report:
    if args.at_random:
        return wander_many(worlds, itertools.count(args.seed), seconds=args.seconds)
    limits = Limits(
        args.faults,
        most=args.most,
        last_round=args.last_round,
        rounds=args.rounds,
        memories=tuple(args.memories),
        healing_s=args.heal,
    )
    return explore(worlds[0], limits, seconds=args.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="end after so many seconds (default 60)")
    add("--graph", action="append", default=[], choices=sorted(GRAPHS))
    add("--pairwise", action="store_true", help="the pairwise exchange instead of the sealed one")
    add("--at-random", action="store_true", help="random schedules instead of all")
    add("--seed", type=int, default=0, help="of the first random schedule")
    add("--faults", type=_faults, default={"late": 2, "will": 1}, help="most faults of each kind")
    add("--most", type=int, default=3, help="faults in one schedule (default 3)")
    add("--last-round", type=int, default=3, help="no faults after this round (default 3)")
    add("--rounds", type=int, default=6, help="a schedule ends at this round (default 6)")
    add("--memories", nargs="+", default=["saved"], choices=MEMORIES)
    add("--heal", type=float, default=0.0, help="check progress so many seconds after the faults")
    add("--bug", action="append", default=[], choices=sorted(BUGS), help="switch a rule off")
    return parser


def _faults(text: str) -> dict[str, int]:
    pairs = (item.split("=") for item in text.split(","))
    return {kind: int(count) for kind, count in pairs}


def describe(report: Report) -> str:
    """Return the report as text."""
    lines = [
        f"{report.states} states, {report.schedules} whole schedules, {report.wall_s:.1f} s; "
        f"the longest has {report.depth} steps",
        f"all schedules with {report.faults} faults were visited" if report.faults >= 0 else "",
        f"refused messages: {dict(report.rejected)}",
    ]
    for kind, (violation, schedule) in sorted(report.found.items()):
        lines.append(f"{kind} ({report.counts[kind]} times): {KINDS[kind]}")
        lines.append(f"  first: node {violation.node} {violation.detail}")
        lines += [f"    step {step}: {_words(action)}" for step, action in schedule]
    return "\n".join(line for line in lines if line)


def _words(action: Action) -> str:
    """Return an action as text, such as `late answer b -> a`."""
    arrow = f"{action.other} -> {action.node}" if action.message else ""
    if action.kind == "crash":
        memory = f"{action.memory}, effects {action.place}, down {action.down_s} s"
        return f"crash {action.node} ({memory})"
    if action.kind == "cut":
        return f"cut {action.node} for {action.down_s} s"
    place = arrow or " ".join(part for part in (action.node, action.other) if part)
    return " ".join(part for part in (action.kind, action.message, place) if part)


if __name__ == "__main__":
    sys.exit(main())
