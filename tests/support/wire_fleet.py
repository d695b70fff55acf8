"""A MemoryFleet whose messages are bytes on topics, open to an attacker between the nodes."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gmpy2 import mpz

from cipherfleet_node.core import paillier
from cipherfleet_node.core.agent import Agent
from cipherfleet_node.core.events import Event, MessageReceived, Publish, Rejected, Surplus
from cipherfleet_node.core.messages import OPERATOR, Answer, Message, Refusal
from cipherfleet_node.core.sample import Sample
from cipherfleet_node.core.wire import Verifier, decode, encode, topic_of
from cipherfleet_node.errors import WireError
from cipherfleet_node.settings.sections import Algorithm, Column, ObjectiveSection
from tests.support.memory_fleet import MemoryFleet

FLEET = "toy"  # the name that MemoryFleet gives
NODES = ("n00", "n01", "n02", "n03", "n04")
# A ring with a chord: some neighbours have neighbours in common, some pairs are strangers.
EDGES = (*zip(NODES, NODES[1:] + NODES[:1], strict=True), ("n00", "n02"))
FIELDS = ("u", "v")
OBJECTIVE = ObjectiveSection(kind="average", values=[Column(field=name) for name in FIELDS])
ROUNDS = 12
PAST_EPOCH = 1
LOSING = (("n04", "n00"), ("n03", "n02"))  # (answerer, asker): the answers that a lossy fleet loses

ExchangeName = Literal["pairwise", "sealed"]
EXCHANGES: tuple[ExchangeName, ...] = ("pairwise", "sealed")


def identity_of(name: str) -> Ed25519PrivateKey:
    """The signing key of *name*, always the same."""
    seed = hashlib.sha256(f"identity of {name} in {FLEET}".encode()).digest()
    return Ed25519PrivateKey.from_private_bytes(seed)


# Fleets of one seed say the same in every run: it is signed, and found good, once.
@lru_cache(maxsize=20_000)
def signature_of(name: str, data: bytes) -> bytes:
    """Of *data*, by *name*."""
    return identity_of(name).sign(data)


@lru_cache(maxsize=20_000)
def check_signature(name: str, signature: bytes, data: bytes) -> None:
    """Raise InvalidSignature unless *signature* is *name*'s on *data*."""
    identity_of(name).public_key().verify(signature, data)


# -- a fleet over real bytes ----------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """A genuine message on its way."""

    receiver: str
    topic: str
    payload: bytes
    message: Message

    @property
    def sender(self) -> str:
        return self.message.sender


@dataclass(frozen=True)
class Forgery:
    """Bytes that a broker, or a node through it, brings to *receiver*."""

    receiver: str
    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a forgery.

    *reason* is the one under which it was counted. It is empty if the forgery was accepted.
    """

    reason: str
    moved: bool  # whether anything in the agent changed, or it did anything but count
    verified: int  # signatures checked
    powers: int  # modular powers taken
    claimed: bool  # whether the round that its sender is in counts as another now


@dataclass(frozen=True)
class RememberingSigner:
    """The signing key of *name*."""

    name: str

    def sign(self, data: bytes, /) -> bytes:
        return signature_of(self.name, data)


@dataclass
class RecordingVerifier:
    """The public key of *name*, that counts how often it is asked."""

    name: str
    calls: list[str]

    def verify(self, signature: bytes, data: bytes, /) -> None:
        self.calls.append("verify")
        check_signature(self.name, signature, data)


@contextmanager
def recorded_powers() -> Iterator[list[str]]:
    """One entry for every modular power that the cryptosystem takes meanwhile."""
    calls: list[str] = []
    namespace = vars(paillier)
    genuine = namespace["powmod"]

    def recording(base: Any, exponent: Any, modulus: Any) -> mpz:
        calls.append("power")
        power: mpz = genuine(base, exponent, modulus)
        return power

    namespace["powmod"] = recording
    try:
        yield calls
    finally:
        namespace["powmod"] = genuine


Attack = Callable[["WireFleet", Frame], None]


@dataclass
class WireFleet(MemoryFleet):
    """A MemoryFleet whose every message is signed, made bytes, and decoded by its receiver.

    *attack* is called before each delivery, with the message that is about to come. What *loses*
    says is never delivered, though an attacker between the nodes has it.
    """

    attack: Attack | None = None
    loses: Callable[[Frame], bool] | None = None
    powers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.identities = {name: identity_of(name) for name in self.seats}
        self.log: list[Frame] = []
        self.verified: list[str] = []
        self.verifiers: dict[str, dict[str, Verifier]] = {
            name: {
                other: RecordingVerifier(other, self.verified)
                for other in [*self.neighbours[name], OPERATOR]
            }
            for name in self.seats
        }

    @property
    def exchange(self) -> ExchangeName:
        """Which one the nodes run."""
        return "sealed" if self.sealed else "pairwise"

    def _deliver(self, name: str, event: Event) -> None:
        if isinstance(event, MessageReceived):
            message = event.message
            payload = encode(message, RememberingSigner(message.sender))
            frame = Frame(name, topic_of(message), payload, message)
            if self.attack is not None:
                self.attack(self, frame)
            self.log.append(frame)
            if self.loses is not None and self.loses(frame):
                return
            received = decode(
                payload, frame.topic, FLEET, self.verifiers[name], retained=event.retained
            )
            event = MessageReceived(received, event.retained)
        super()._deliver(name, event)

    def offer(self, forgery: Forgery) -> Outcome:
        """Hand bytes to a node as its daemon would; nothing it wants to do is carried out."""
        agent = agent_of(self, forgery.receiver)
        verified, powers = len(self.verified), len(self.powers)
        blinded = self._blinded(forgery.receiver)
        before = standing(agent)
        claims = dict(agent.claims.rounds)
        reasons: list[str] = []
        others: list[object] = []
        verifiers = self.verifiers[forgery.receiver]
        try:
            message = decode(
                forgery.payload, forgery.topic, FLEET, verifiers, retained=forgery.retained
            )
        except WireError as error:
            reasons.append(error.reason)
        else:
            for effect in agent.handle(MessageReceived(message, forgery.retained), self.now):
                if isinstance(effect, Rejected | Surplus):
                    reasons.append(effect.reason)
                else:
                    others.append(effect)
        published = [effect.message for effect in others if isinstance(effect, Publish)]
        again = [m for m in published if isinstance(m, Refusal) or self._was_sent(m)]
        moved = standing(agent) != before or len(others) > len(again)
        return Outcome(
            " ".join(reasons),
            moved,
            len(self.verified) - verified,
            len(self.powers) - powers + self._blinded(forgery.receiver) - blinded,
            agent.claims.rounds != claims,
        )

    def _blinded(self, name: str) -> int:
        blinding = self.seats[name].blinding
        return blinding.taken.total() if blinding is not None else 0

    def _was_sent(self, message: Message) -> bool:
        """Whether exactly this answer has been given before."""
        if not isinstance(message, Answer):
            return False
        agent = agent_of(self, message.sender)
        return agent.answerer._sent.get((message.receiver, message.round)) is message


def agent_of(fleet: MemoryFleet, name: str) -> Agent:
    agent = fleet.seats[name].agent
    assert agent is not None
    return agent


def standing(agent: Agent) -> tuple[object, ...]:
    """All that messages can change in an agent, the claims of its neighbours apart."""
    around, current = agent.neighbours, agent.collector.current
    of_round = current and (
        current.number,
        sorted(current.answered),
        sorted(current.refused),
        current.deadline,
    )
    return (
        agent.phase,
        msgspec.structs.replace(agent.state, neighbours={}),
        {name: known.epoch for name, known in agent.state.neighbours.items()},
        of_round,
        sorted(agent.collector.answers),
        sorted(agent.answerer._sent),
        sorted(agent.answerer.prepared),
        list(agent.answerer.held.items()),
        agent.answerer.is_draw_wanted,
        (set(around.present), set(around._departed), set(around._finished), set(around._live)),
    )


def make_fleet(
    seed: int,
    attack: Attack | None = None,
    rounds: int = ROUNDS,
    exchange: ExchangeName = "pairwise",
    *,
    lossy: bool = True,
) -> WireFleet:
    """Five nodes that agree on two figures, every round's chances a function of *seed*.

    A sealed fleet that is *lossy* loses answers in two of six rounds: two nodes hold these rounds,
    and then ask fewer neighbours in the next one.
    """
    rng = random.Random("readings")
    samples: dict[str, Sequence[Sample]] = {
        name: [Sample({entry: rng.uniform(-5, 5) for entry in FIELDS})] for name in NODES
    }
    algorithm = Algorithm(rounds=rounds, answer_timeout_s=5.0)
    sealed = exchange == "sealed"
    fleet = WireFleet(
        EDGES,
        samples,
        OBJECTIVE,
        algorithm,
        seed=seed,
        sealed=sealed,
        attack=attack,
        loses=is_lost if sealed and lossy else None,
    )
    for seat in fleet.seats.values():
        seat.epoch = PAST_EPOCH
    return fleet


def is_lost(frame: Frame) -> bool:
    """Whether *frame* is one of the answers without which a round is held."""
    answer = frame.message
    if not isinstance(answer, Answer) or answer.round % 6 not in (1, 2):
        return False
    return (answer.sender, answer.receiver) in LOSING


@dataclass(frozen=True)
class Ending:
    """What a fleet has come to."""

    estimates: bytes
    silent: int
    rejected: Counter[str]


def ending(fleet: WireFleet) -> Ending:
    """Of a fleet that has run to its end."""
    return Ending(fleet.estimates().tobytes(), fleet.silent(), fleet.rejected())


@cache
def undisturbed(seed: int, exchange: ExchangeName = "pairwise") -> Ending:
    """What the fleet ends with when nobody attacks it."""
    fleet = make_fleet(seed, exchange=exchange)
    fleet.run()
    ended = ending(fleet)
    assert not ended.rejected
    assert bool(ended.silent) == fleet.sealed
    return ended


@cache
def past(exchange: ExchangeName) -> list[Frame]:
    """All that a former start of the same fleet said; its epoch is PAST_EPOCH."""
    fleet = make_fleet(10_000, exchange=exchange)
    for seat in fleet.seats.values():
        seat.epoch = PAST_EPOCH - 1
    fleet.run()
    return fleet.log
