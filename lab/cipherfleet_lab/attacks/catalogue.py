"""The catalogue of attacks, by their command-line names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .common_factor import common_factor, divisor
from .eavesdropper import eavesdropper, key_holder, observer
from .leakage import leakage_of_round, leakage_of_several, leakage_of_telescoped, leakage_of_truth
from .neighbours import direction, triangulation, triangulation_by_two
from .randomness import randomness_of_answers
from .result import AttackResult
from .subjects import AttackCase
from .telescoping import one_round, telescoping, telescoping_but_one
from .wiretap import wiretap


@dataclass(frozen=True)
class Attack:
    """An attack; *run* returns None if it does not apply to the system."""

    name: str
    adversary: str
    run: Callable[[AttackCase], AttackResult | None]

    @property
    def text(self) -> str:
        """The description: the first line of the attack's docstring."""
        return (self.run.__doc__ or "").split("\n", maxsplit=1)[0]


ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("wiretap", "an eavesdropper", wiretap),
        Attack("eavesdropper", "an eavesdropper", eavesdropper),
        Attack("observer", "an eavesdropper", observer),
        Attack("key-holder", "the key holder", key_holder),
        Attack("common-factor", "one neighbour", common_factor),
        Attack("divisor", "one neighbour", divisor),
        Attack("randomness", "one neighbour", randomness_of_answers),
        Attack("direction", "one neighbour", direction),
        Attack("triangulation", "one neighbour", triangulation),
        Attack("triangulation-two", "two neighbours", triangulation_by_two),
        Attack("one-round", "all neighbours", one_round),
        Attack("telescoping", "all neighbours", telescoping),
        Attack("telescoping-but-one", "all neighbours but one", telescoping_but_one),
        Attack("leakage-round", "all neighbours", leakage_of_round),
        Attack("leakage-telescoped", "all neighbours", leakage_of_telescoped),
        Attack("leakage-several", "all neighbours", leakage_of_several),
        Attack("leakage-true", "no real adversary", leakage_of_truth),
    )
}
