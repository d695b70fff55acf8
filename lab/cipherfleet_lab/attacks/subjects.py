"""The systems that are attacked: how each is built, and how an adversary reads it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

from cipherfleet_lab.baselines import (
    Consensus,
    DifferentialPrivacy,
    Dsgd,
    GradientTracking,
    Obfuscation,
    PaillierRing,
    PushSum,
    Ternary,
)
from cipherfleet_lab.cipherfleet import Cipherfleet
from cipherfleet_lab.problems import (
    FIVE_CENTRES,
    FIVE_EDGES,
    FIVE_STEPSIZE,
    Edges,
    averages,
    five_nodes,
)
from cipherfleet_lab.systems import Log, Problem, System
from cipherfleet_node.settings.sections import Algorithm, Attenuation, Stepsize

from . import coalition as seen_by
from .guards import told
from .names import GraphName, Guard
from .one_exchange import HALF_WEIGHTS, TOY_BITS, Kind
from .transcripts import Reading, of_descent, of_push_sum, of_ring, of_tracking

Off = Collection[Guard]
GRAPHS: Mapping[GraphName, Edges] = {
    "chord": FIVE_EDGES,  # a ring with one
    "ring": [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)],
    "complete": list(combinations(range(5), 2)),
}
ROUNDS = 300
SETTLED = slice(100, ROUNDS - 1)  # rounds in which the estimates move little
TERNARY_BOUND = 8.0
CLIP = 10.0  # longer than any gradient of the five nodes at rest
NOISE_MULTIPLIER = 1.0  # of differential privacy
DEVIATION = 10.0  # of every obfuscation, before the stepsize


@dataclass(frozen=True)
class Subject:
    """A system by its name on the command line.

    *wire* reads what travels in clear, None where nothing but ciphertexts does. *looks* are how
    nodes that pool what they saw read one other node: in one round, and over many.
    """

    name: str
    title: str
    build: Callable[[Off, Stepsize], System]
    guards: Sequence[Guard] = ()
    kind: Kind | None = None  # of the exchange, where the node's own code can be run
    wire: Callable[[Log], Reading] | None = None
    looks: tuple[seen_by.Look, seen_by.Look] | None = None
    everybody: bool = False  # whether all others are neighbours
    descends: bool = True


def _pairwise(off: Off, stepsize: Stepsize) -> System:
    return _cipherfleet("pairwise", off, stepsize)


def _sealed(off: Off, stepsize: Stepsize) -> System:
    return _cipherfleet("sealed", off, stepsize)


def _cipherfleet(kind: Kind, off: Off, stepsize: Stepsize) -> System:
    steps = Stepsize(
        initial=stepsize.initial,
        decay=stepsize.decay,
        exponent=stepsize.exponent,
        spread=0.0 if "stepsizes" in off else 1.0,
    )
    attenuated = Algorithm(stepsize=steps, attenuation=Attenuation())
    return Cipherfleet(
        kind,
        Algorithm(stepsize=steps) if "attenuation" in off else attenuated,
        dither="dither" not in off,
        half_weights=HALF_WEIGHTS[len(HALF_WEIGHTS) // 2] if "half-weights" in off else None,
        masks="masks" not in off,
    )


_DRAWN: tuple[Guard, ...] = ("dither", "rerandomise", "half-weights", "stepsizes", "attenuation")

SUBJECTS: Mapping[str, Subject] = {
    subject.name: subject
    for subject in (
        Subject(
            "pairwise", "the article's exchange", _pairwise, _DRAWN, "pairwise",
            looks=(seen_by.at_differences, seen_by.at_differences),
        ),
        Subject(
            "sealed", "the sealed exchange", _sealed, (*_DRAWN, "masks"), "sealed",
            looks=(seen_by.at_sums, seen_by.at_mean_sums),
        ),
        Subject("dsgd", "descent in clear", lambda _, s: Dsgd(s), wire=of_descent),
        Subject(
            "ternary", "ternary quantisation", lambda _, s: Ternary(s, TERNARY_BOUND),
            wire=of_descent,
        ),
        Subject(
            "obfuscation", "Gade and Vaidya's obfuscation",
            lambda _, s: Obfuscation(s, DEVIATION),
            wire=of_descent, looks=(seen_by.with_obfuscations, seen_by.with_obfuscations),
        ),
        Subject(
            "differential-privacy", "local differential privacy",
            lambda _, s: DifferentialPrivacy(s, CLIP, NOISE_MULTIPLIER), wire=of_descent,
        ),
        Subject(
            "gradient-tracking", "gradient tracking in clear",
            lambda _, s: GradientTracking(s.initial / 2), wire=of_tracking,
        ),
        Subject("push-sum", "push-sum in clear", lambda _, s: PushSum(s), wire=of_push_sum),
        Subject(
            "paillier-ring", "Paillier ring with a key holder", lambda _, s: PaillierRing(s),
            wire=of_ring, looks=(seen_by.beside_a_ring, seen_by.beside_a_ring), everybody=True,
        ),
        Subject(
            "consensus", "average consensus in clear", lambda *_: Consensus(), wire=of_descent,
            descends=False,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A system with some guards off, to be attacked *trials* times; the same seed, the same runs.

    trials are rounds of one edge for attacks on ciphertexts, and runs of ROUNDS rounds for others.
    """

    subject: Subject
    off: frozenset[Guard] = frozenset()
    trials: int = 20
    seed: int = 1
    bits: int = TOY_BITS
    problem: Problem = field(default_factory=five_nodes)
    stepsize: Stepsize = FIVE_STEPSIZE
    _kept: dict[int, Log] = field(init=False, default_factory=dict)

    def once(self, trial: int) -> Log:
        """The run of *trial* on this case's own problem, kept."""
        if trial not in self._kept:
            self._kept[trial] = self.run(self.solved, trial)
        return self._kept[trial]

    @property
    def name(self) -> str:
        """With the guards that are off."""
        return self.subject.name + told(self.off)

    @cached_property
    def solved(self) -> Problem:
        """What the system is run on: the problem, or the average of values where none descends."""
        return self.problem if self.subject.descends else averages(FIVE_CENTRES, self.problem.edges)

    @property
    def logs(self) -> Sequence[Log]:
        """One run for every trial."""
        return [self.once(trial) for trial in range(self.trials)]

    @cached_property
    def others(self) -> dict[str, Case]:
        """The same system on other problems, by name: their runs are kept as well."""
        return {}

    def run(self, problem: Problem, trial: int) -> Log:
        """The run of *trial* on *problem*; trials of one seed share no draws with the next."""
        system = self.subject.build(self.off, self.stepsize)
        return system.run(problem, ROUNDS, self.seed * 1000 + trial)

    def neighbours(self, node: int) -> list[int]:
        """Those who could pool what they saw of *node*."""
        if self.subject.everybody:
            return [other for other in range(self.solved.nodes) if other != node]
        return self.solved.neighbours(node)

    def read(self, log: Log, coalition: Collection[int], node: int, *, many: bool) -> Reading:
        """Of *node*, what *coalition* makes of *log*: one row instead of n."""
        if self.subject.looks is None:
            assert self.subject.wire is not None
            whole, own = self.subject.wire(log), slice(node, node + 1)
            return Reading(whole.states[:, own], whole.steps[:, own], whole.scales, whole.first)
        look = seen_by.at_differences if log.opened else self.subject.looks[many]
        return look(log, self.solved, coalition, node).reading(log)
