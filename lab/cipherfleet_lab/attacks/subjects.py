"""The attacked systems: how each is built, and how adversaries read its log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Literal

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
from cipherfleet_lab.simulation.toy_keys import TOY_BITS
from cipherfleet_lab.systems import Log, Problem, System
from cipherfleet_node.settings.sections import Algorithm, Attenuation, ShieldName, Stepsize

from . import coalition as seen_by
from .catalogue import load_system
from .guards import describe_guards
from .names import ROUND_GUARDS, GraphName, Guard
from .one_exchange import HALF_WEIGHTS, Kind
from .transcripts import Reading, read_descent, read_push_sum, read_ring, read_tracking

Off = Collection[Guard]
GRAPHS: Mapping[GraphName, Edges] = {
    "chord": FIVE_EDGES,  # a ring with one chord
    "ring": [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)],
    "complete": list(combinations(range(5), 2)),
}
ROUNDS = 300
TRIALS_PER_FLEET = 10  # an attack on rounds runs whole fleets of agents, which takes longer
SETTLED = slice(100, ROUNDS - 1)  # the rounds in which the estimates move little
# The exact method soon leaves no difference between estimates; an attack on differences sees these.
MOVING = slice(5, 35)
Method = Literal["article", "exact"]
TERNARY_BOUND = 8.0
CLIP = 10.0  # more than any gradient of the five nodes near the optimum
NOISE_MULTIPLIER = 1.0  # of differential privacy
EXACT_RESOLUTION = "2^-32"
SHARES = 16.0  # of a shield: gradients at the five nodes' optimum are about twice c0
DEVIATION = 10.0  # deviation of every obfuscation, before scaling by the stepsize


@dataclass(frozen=True)
class Subject:
    """A system to attack; the catalogue has its command-line name.

    *wire* reads the plaintext messages; it is None if all messages are ciphertexts. *observers* are
    the views of a coalition on one other node: in one round, and over many rounds.
    """

    title: str
    build: Callable[[Off, Stepsize], System]
    guards: Sequence[Guard] = ()
    kind: Kind | None = None  # kind of the exchange, if the node's own code runs it
    wire: Callable[[Log], Reading] | None = None
    observers: tuple[seen_by.Observe, seen_by.Observe] | None = None
    sees_all_nodes: bool = False  # True if a node's observers are all other nodes
    descends: bool = True
    method: Method = "article"


def _builder(
    kind: Kind, method: Method, shield: ShieldName = "none"
) -> Callable[[Off, Stepsize], System]:
    return lambda off, stepsize: _build_cipherfleet(
        kind, _algorithm(method, off, stepsize, shield), off
    )


def _algorithm(method: Method, off: Off, stepsize: Stepsize, shield: ShieldName) -> Algorithm:
    spread = 0.0 if "stepsizes" in off else 1.0
    if method == "exact":
        steps = Stepsize(spread=spread)
        return Algorithm(
            method="exact",
            resolution=EXACT_RESOLUTION,
            stepsize=steps,
            shield=_shield(shield, off),
            shares=SHARES,
        )
    steps = Stepsize(
        initial=stepsize.initial,
        decay=stepsize.decay,
        exponent=stepsize.exponent,
        spread=spread,
    )
    attenuation: Attenuation | Literal["none"] = Attenuation()
    return Algorithm(
        method="article",
        stepsize=steps,
        attenuation="none" if "attenuation" in off else attenuation,
    )


def _shield(shield: ShieldName, off: Off) -> ShieldName:
    """Return what is left of *shield*: `quadratic` includes the linear shares."""
    if "shield" in off:
        return "none"
    return "linear" if "quadratic" in off and shield == "quadratic" else shield


def _build_cipherfleet(kind: Kind, algorithm: Algorithm, off: Off) -> System:
    return Cipherfleet(
        kind,
        algorithm,
        dither="dither" not in off,
        half_weights=HALF_WEIGHTS[len(HALF_WEIGHTS) // 2] if "half-weights" in off else None,
        masks="masks" not in off,
    )


_DRAWN: tuple[Guard, ...] = ("dither", "rerandomise", "half-weights", "stepsizes")

PAIRWISE = Subject(
    "the article's exchange",
    _builder("pairwise", "article"),
    guards=(*_DRAWN, "attenuation", *ROUND_GUARDS),
    kind="pairwise",
    observers=(seen_by.observe_differences, seen_by.observe_differences),
)
SEALED = Subject(
    "the sealed exchange",
    _builder("sealed", "article"),
    guards=(*_DRAWN, "attenuation", "masks", *ROUND_GUARDS),
    kind="sealed",
    observers=(seen_by.observe_sums, seen_by.observe_mean_sums),
)


def _exact(
    name: str, kind: Kind, guards: tuple[Guard, ...], shield: ShieldName = "none"
) -> Subject:
    """Return a system with the exact method.

    Its duals add up every round from the first: sums that leave no choice are solved exactly.
    """
    observe = {"pairwise": seen_by.observe_differences, "sealed": seen_by.observe_sums}[kind]
    return Subject(
        name,
        _builder(kind, "exact", shield),
        guards=(*_DRAWN, *guards),
        kind=kind,
        observers=(observe, observe),
        method="exact",
    )


PAIRWISE_EXACT = _exact("the article's exchange with the exact method", "pairwise", ROUND_GUARDS)
SEALED_EXACT = _exact(
    "the sealed exchange with the exact method", "sealed", ("masks", *ROUND_GUARDS)
)
PAIRWISE_SHIELDED = _exact(
    "the article's exchange with the exact method and its shield",
    "pairwise",
    ("shield",),
    "linear",
)
SEALED_SHIELDED = _exact(
    "the sealed exchange with the exact method and its shield",
    "sealed",
    ("masks", "shield"),
    "linear",
)
PAIRWISE_QUADRATIC = _exact(
    "the article's exchange with the exact method and its quadratic shield",
    "pairwise",
    ("shield", "quadratic"),
    "quadratic",
)
SEALED_QUADRATIC = _exact(
    "the sealed exchange with the exact method and its quadratic shield",
    "sealed",
    ("masks", "shield", "quadratic"),
    "quadratic",
)
DSGD = Subject("plaintext descent", lambda _, s: Dsgd(s), wire=read_descent)
TERNARY = Subject("ternary quantisation", lambda _, s: Ternary(s, TERNARY_BOUND), wire=read_descent)
OBFUSCATION = Subject(
    "Gade and Vaidya's obfuscation",
    lambda _, s: Obfuscation(s, DEVIATION),
    wire=read_descent,
    observers=(seen_by.observe_obfuscations, seen_by.observe_obfuscations),
)
DIFFERENTIAL_PRIVACY = Subject(
    "local differential privacy",
    lambda _, s: DifferentialPrivacy(s, CLIP, NOISE_MULTIPLIER),
    wire=read_descent,
)
GRADIENT_TRACKING = Subject(
    "plaintext gradient tracking",
    lambda _, s: GradientTracking(s.initial / 2),
    wire=read_tracking,
)
PUSH_SUM = Subject("plaintext push-sum", lambda _, s: PushSum(s), wire=read_push_sum)
PAILLIER_RING = Subject(
    "Paillier ring with a key holder",
    lambda _, s: PaillierRing(s),
    wire=read_ring,
    observers=(seen_by.observe_ring, seen_by.observe_ring),
    sees_all_nodes=True,
)
CONSENSUS = Subject(
    "plaintext average consensus", lambda *_: Consensus(), wire=read_descent, descends=False
)


@dataclass(frozen=True)
class AttackCase:
    """A system, by its name in the catalogue, with some guards off, attacked *trials* times.

    The same seed gives the same runs.

    For attacks on ciphertexts a trial is one round of one edge; for others it is a run of ROUNDS
    rounds.
    """

    system: str
    off: frozenset[Guard] = frozenset()
    trials: int = 20
    seed: int = 1
    bits: int = TOY_BITS
    problem: Problem = field(default_factory=five_nodes)
    stepsize: Stepsize = FIVE_STEPSIZE
    _kept: dict[int, Log] = field(init=False, default_factory=dict)

    def run_cached(self, trial: int) -> Log:
        """Return the run of *trial* on this case's own problem; runs are cached."""
        if trial not in self._kept:
            self._kept[trial] = self.run(self.solved_problem, trial)
        return self._kept[trial]

    @cached_property
    def subject(self) -> Subject:
        """The system, with what the attacks must know about it."""
        return load_system(self.system)

    @property
    def name(self) -> str:
        """The name of the system, with the guards that are off."""
        return self.system + describe_guards(self.off)

    @cached_property
    def solved_problem(self) -> Problem:
        """The problem that the system solves; consensus solves average consensus instead."""
        return self.problem if self.subject.descends else averages(FIVE_CENTRES, self.problem.edges)

    @property
    def watched(self) -> slice:
        """The rounds in which attacks look for differences between estimates."""
        return MOVING if self.subject.method == "exact" else SETTLED

    @property
    def fleets(self) -> int:
        """The number of fleets of an attack on rounds: one for TRIALS_PER_FLEET trials."""
        return max(self.trials // TRIALS_PER_FLEET, 1)

    @property
    def logs(self) -> Sequence[Log]:
        """The logs of all trials."""
        return [self.run_cached(trial) for trial in range(self.trials)]

    @cached_property
    def others(self) -> dict[str, AttackCase]:
        """The same system on other problems, by name; their runs are cached too."""
        return {}

    def run(self, problem: Problem, trial: int) -> Log:
        """Run *trial* on *problem*; trials of different seeds share no random choices."""
        system = self.subject.build(self.off, self.stepsize)
        return system.run(problem, ROUNDS, self.seed * 1000 + trial)

    def neighbours(self, node: int) -> list[int]:
        """Return the nodes that receive messages from *node*."""
        if self.subject.sees_all_nodes:
            return [other for other in range(self.solved_problem.nodes) if other != node]
        return self.solved_problem.neighbours(node)

    def read(self, log: Log, coalition: Collection[int], node: int, *, many: bool) -> Reading:
        """Return what *coalition* infers about *node* from *log*: one row instead of n."""
        if self.subject.observers is None:
            assert self.subject.wire is not None
            whole, own = self.subject.wire(log), slice(node, node + 1)
            return Reading(whole.states[:, own], whole.steps[:, own], whole.scales, whole.first)
        look = seen_by.observe_differences if log.opened else self.subject.observers[many]
        return look(log, self.solved_problem, coalition, node).reading(log)
