"""What must hold in every state of a schedule, and at its end.

A leak of the kinds `isolated` and `half_weight` is exact. The kinds with `nearly` would be exact if
the half weights did not differ from draw to draw. SECURITY.md says which of them are accepted.
"""

from __future__ import annotations

from cipherfleet_node.core.state import HISTORY_ROUNDS

from .model_nodes import DEADLINE_S
from .world import STEP, Action, Violation, World

KINDS = {
    "two_queries": "a node sent two different estimates under one round number",
    "two_rosters": "a node sent two different rosters under one round number",
    "two_answers": "a node answered two different queries of one asker and round",
    "isolated": "sums that an asker holds give one term of one neighbour, exactly",
    "isolated_change": "sums that an asker holds give a combination of terms of one neighbour",
    "nearly_isolated": "two sums differ by one neighbour, and all others stood still",
    "nearly_isolated_change": "one neighbour moved between two sums, and all others stood still",
    "half_weight": "two pairwise answers give a half weight, and with it an estimate",
    "redrawn": "two pairwise answers have other half weights, though both ends stood still",
    "opened_in_part": "a node opened sealed answers that are not those of a whole roster",
    "unsaved": "a query or an answer was sent that the saved state does not have",
    "spoiled": "honest answers were out of range together",
    "exception": "an agent failed",
    "spin": "timers fire without an end at one moment",
    "deadlock": "no message is under way and no timer is set",
    "apart": "after the faults two neighbours stay more than two rounds apart",
    "idle": "after the faults a node closes no round with a coupling term",
    "one_end": "a round of an edge was counted at one end only",
}
SECRECY = frozenset(
    {
        "two_queries",
        "two_rosters",
        "two_answers",
        "isolated",
        "half_weight",
        "opened_in_part",
        "unsaved",
        "spoiled",
    }
)
FAILURES = frozenset({"exception", "spin", "deadlock", "apart", "idle"})

HEALING_S = 24 * DEADLINE_S  # from the end of the faults to the check
COUPLING_S = 12 * DEADLINE_S  # within so long before the check every node must have coupled
MAX_STEPS = 60_000


def heal(world: World, healing_s: float = HEALING_S) -> None:
    """End all faults, let the fleet run, and add the violations of progress."""
    world.flights += world.withheld
    world.withheld = []
    for name, node in list(world.nodes.items()):
        if node.down_until is not None or node.agent is None:
            world.own(name).down_until = world.now
    for name, other in sorted(world.wills):
        world.apply(Action("unwill", name, other))
    end, limit = world.now + healing_s, world.steps + MAX_STEPS
    while world.now < end and world.steps < limit:
        world.apply(STEP)
    world.violations |= frozenset(_unhealed(world))
    world.violations |= {
        Violation("one_end", name, f"{other}, round {k}")
        for name, other, k in counted_at_one_end(world)
    }


def _unhealed(world: World) -> list[Violation]:
    found = []
    for name, node in world.nodes.items():
        for other in node.neighbours:
            if abs(node.round_number - world.nodes[other].round_number) > 2:
                found.append(Violation("apart", name, f"from {other}"))
        can_couple = len(node.neighbours) >= 2 or not node.exchange.sealed
        if can_couple and node.coupled_at < world.now - COUPLING_S:
            found.append(Violation("idle", name))
    return found


def counted_at_one_end(world: World) -> set[tuple[str, str, int]]:
    """Return the counter, the other end and the round of each edge-round counted at one end only.

    Rounds that may still be pending at one of them are not considered.
    """
    found = set()
    for name, node in world.nodes.items():
        for other, k in node.counted:
            latest = min(node.round_number, world.nodes[other].round_number)
            if k < latest - HISTORY_ROUNDS and (name, k) not in world.nodes[other].counted:
                found.add((name, other, k))
    return found
