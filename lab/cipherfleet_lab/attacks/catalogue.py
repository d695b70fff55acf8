"""The attacks and the systems that they attack, by their command-line names.

This module imports quickly. The code of an attack or a system is imported when it is used; a
location names it, for example "telescoping:one_round".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .result import AttackResult
    from .subjects import AttackCase, Subject


@dataclass(frozen=True)
class Attack:
    """An attack; *location* is that of its function."""

    name: str
    adversary: str
    location: str
    is_on_rounds: bool = False  # it runs fleets of agents, in pairs: `round_table.py`
    depends_on_method: bool = False  # it uses how estimates move: see `algorithm.method`

    def run(self, case: AttackCase) -> AttackResult | None:
        """Run the attack; None if it does not apply to the system."""
        return self._function(case)

    @property
    def text(self) -> str:
        """The description: the first line of the attack's docstring."""
        return (self._function.__doc__ or "").split("\n", maxsplit=1)[0]

    @property
    def _function(self) -> Callable[[AttackCase], AttackResult | None]:
        function: Callable[[AttackCase], AttackResult | None] = _load(self.location)
        return function


ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("wiretap", "an eavesdropper", "wiretap:wiretap"),
        Attack("eavesdropper", "an eavesdropper", "eavesdropper:eavesdropper"),
        Attack("observer", "an eavesdropper", "eavesdropper:observer"),
        Attack("key-holder", "the key holder", "eavesdropper:key_holder"),
        Attack("common-factor", "one neighbour", "common_factor:common_factor"),
        Attack("divisor", "one neighbour", "common_factor:divisor"),
        Attack("randomness", "one neighbour", "randomness:randomness_of_answers"),
        Attack("direction", "one neighbour", "neighbours:direction"),
        Attack(
            "triangulation", "one neighbour", "neighbours:triangulation", depends_on_method=True
        ),
        Attack("triangulation-two", "two neighbours", "neighbours:triangulation_by_two"),
        Attack("one-round", "all neighbours", "telescoping:one_round", depends_on_method=True),
        Attack("telescoping", "all neighbours", "telescoping:telescoping", depends_on_method=True),
        Attack(
            "telescoping-but-one",
            "all neighbours but one",
            "telescoping:telescoping_but_one",
            depends_on_method=True,
        ),
        Attack(
            "telescoping-partners",
            "all neighbours and all partners",
            "telescoping:telescoping_by_partners",
        ),
        Attack(
            "second-moments",
            "all neighbours",
            "second_moments:second_moments",
            depends_on_method=True,
        ),
        Attack(
            "second-moments-partners",
            "all neighbours and all partners",
            "second_moments:second_moments_by_partners",
        ),
        Attack(
            "leakage-round", "all neighbours", "leakage:leakage_of_round", depends_on_method=True
        ),
        Attack(
            "leakage-telescoped",
            "all neighbours",
            "leakage:leakage_of_telescoped",
            depends_on_method=True,
        ),
        Attack(
            "leakage-several",
            "all neighbours",
            "leakage:leakage_of_several",
            depends_on_method=True,
        ),
        Attack(
            "late-answers",
            "one neighbour and the broker",
            "isolation:late_answers",
            is_on_rounds=True,
        ),
        Attack(
            "last-will", "one neighbour and the broker", "isolation:last_will", is_on_rounds=True
        ),
        Attack(
            "departure",
            "one neighbour",
            "isolation:departure",
            is_on_rounds=True,
            depends_on_method=True,
        ),
        Attack(
            "separation",
            "one neighbour and the broker",
            "separation:separation",
            is_on_rounds=True,
            depends_on_method=True,
        ),
        Attack(
            "second-query-after-restart",
            "a dishonest neighbour",
            "restarts:second_query_after_restart",
            is_on_rounds=True,
        ),
        Attack("old-card", "an accident", "restarts:old_card", is_on_rounds=True),
        Attack("far-round", "a dishonest member", "members:far_round", is_on_rounds=True),
        Attack(
            "overreach",
            "a dishonest member",
            "members:overreach",
            is_on_rounds=True,
            depends_on_method=True,
        ),
        Attack(
            "garbage",
            "a dishonest member",
            "members:garbage",
            is_on_rounds=True,
            depends_on_method=True,
        ),
        Attack("mute-member", "a dishonest member", "members:mute_member", is_on_rounds=True),
        Attack("leakage-true", "no real adversary", "leakage:leakage_of_truth"),
    )
}

# The location of each system; its command-line name is in no other place.
SYSTEMS: Mapping[str, str] = {
    "pairwise": "subjects:PAIRWISE",
    "sealed": "subjects:SEALED",
    "pairwise-exact": "subjects:PAIRWISE_EXACT",
    "sealed-exact": "subjects:SEALED_EXACT",
    "pairwise-shielded": "subjects:PAIRWISE_SHIELDED",
    "sealed-shielded": "subjects:SEALED_SHIELDED",
    "pairwise-quadratic": "subjects:PAIRWISE_QUADRATIC",
    "sealed-quadratic": "subjects:SEALED_QUADRATIC",
    "dsgd": "subjects:DSGD",
    "ternary": "subjects:TERNARY",
    "obfuscation": "subjects:OBFUSCATION",
    "differential-privacy": "subjects:DIFFERENTIAL_PRIVACY",
    "gradient-tracking": "subjects:GRADIENT_TRACKING",
    "push-sum": "subjects:PUSH_SUM",
    "paillier-ring": "subjects:PAILLIER_RING",
    "consensus": "subjects:CONSENSUS",
}


def load_system(name: str) -> Subject:
    """Import and return the system of this *name*, one of SYSTEMS."""
    subject: Subject = _load(SYSTEMS[name])
    return subject


def _load(location: str) -> Any:
    module, _, attribute = location.partition(":")
    return getattr(import_module(f".{module}", __package__), attribute)
