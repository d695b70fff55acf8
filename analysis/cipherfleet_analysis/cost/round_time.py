"""How long a round takes on a board: operations counted, times what each costs there.

Work of a node of degree g, C ciphertexts per vector, one round:

    ahead     C (own obfuscator + g for neighbours)        pool threads, while the node waits
    crypto    C (blinding: 1 + g, answers: g, checks: 2g, one decryption)
    rest      1, and g times what a neighbour costs        messages, signatures, all else

A node on its own board closes a round after crypto and rest, the disk's time, and one round trip;
pools that fall behind are drawn on by the round itself, so that both share what is left to do.
Nodes wait for their neighbours: the slowest of those decides. Where all nodes share one machine no
round is shorter than the work of all of them, the broker's included, on as much of its cores as a
fleet gets to use.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_provisioning.fleet.fleet import Fleet

from .board_card import Calibration
from .traffic import layout_of

# Products of a small power for each bit of its exponent: a square, and a window's share.
PRODUCTS_PER_BIT = 1.4
CHECK_PRODUCTS = 2.0  # of one ciphertext: the greatest common divisor's share, a product mod n
HALF_SIZE = 0.3  # a product mod p^2, of one mod n^2


@dataclass(frozen=True)
class Work:
    """What one node does in a round, ms of CPU time."""

    ahead: float
    crypto: float
    rest: float
    threads: int  # that make obfuscators ahead; 0: they are made when they are needed

    @property
    def cpu(self) -> float:
        """All of it, whichever thread does it."""
        return self.ahead + self.crypto + self.rest


@dataclass(frozen=True)
class RoundTime:
    """A prediction. *apart*: every node on a board of its own; *together*: all on one board."""

    board: str
    kind: str  # of the figures behind it: measured or estimate
    source: str
    apart_ms: float
    together_ms: float
    cpu_ms: float  # per node, mean
    cpu_share: float  # of one core, every node on a board of its own
    ahead_ms: float  # of cpu_ms: obfuscators
    pools_keep_up: bool  # apart: no round waits for an obfuscator
    first_rounds: int  # whose obfuscators for neighbours are full powers, to make tables of
    first_apart_ms: float
    first_together_ms: float


def work_of(degree: int, fleet: Fleet, card: Calibration, *, tables: bool = True) -> Work:
    """What a node of *degree* neighbours does in a round; *tables* are made, if wanted."""
    crypto, layout = fleet.file.crypto, layout_of(fleet)
    powers, sealed = card.at(crypto.key_bits), fleet.exchange == "sealed"
    product, count = powers.product_ms, layout.ciphertexts
    full = crypto.rerandomise == "full" and tables
    towards = powers.table_ms if full else powers.powmod_ms
    exponent_bits = HALF_WEIGHT_BITS + (METROPOLIS_BITS if sealed else 0)
    small_power = PRODUCTS_PER_BIT * exponent_bits * product
    # The asker's own exponents, in both half-size rings; in the sealed exchange they are 1.
    own_bits = 1 if sealed else HALF_WEIGHT_BITS + METROPOLIS_BITS
    combined = 2 * HALF_SIZE * PRODUCTS_PER_BIT * own_bits * product
    blinding = 2 * product  # of a plaintext
    per_neighbour = blinding + small_power + product + 2 * CHECK_PRODUCTS * product + combined
    mask = 2 * product * (degree - 1) if sealed else 0.0  # hashed, and multiplied in
    decrypt = powers.decrypt_ms * (1.4 if crypto.constant_time else 1.0)
    return Work(
        ahead=count * (powers.own_ms + degree * towards),
        crypto=count * (blinding + degree * (per_neighbour + mask) + decrypt),
        rest=card.round_ms + degree * card.neighbour_ms,
        threads=min(crypto.pool_threads, card.cores - 1) if crypto.pool else 0,
    )


def predict(fleet: Fleet, card: Calibration) -> RoundTime:
    """The time from one round to the next, of the median node; at least the fleet's period."""
    apart, together, works = _rounds(fleet, card, tables=True)
    first_apart, first_together, _ = _rounds(fleet, card, tables=False)
    crypto, of_nodes = fleet.file.crypto, [works[fleet.graph.degree(n)] for n in fleet.graph.ids]
    slowest = works[max(works)]
    cpu_ms = sum(work.cpu for work in of_nodes) / len(of_nodes)
    tables = crypto.rerandomise == "full"
    return RoundTime(
        board=card.board,
        kind=card.kind,
        source=card.source,
        apart_ms=apart,
        together_ms=together,
        cpu_ms=cpu_ms,
        cpu_share=cpu_ms / apart,
        ahead_ms=sum(work.ahead for work in of_nodes) / len(of_nodes),
        pools_keep_up=slowest.ahead
        <= slowest.threads * max(_waiting(slowest, card), _period_ms(fleet)),
        first_rounds=-(-ROWS // layout_of(fleet).ciphertexts) if tables else 0,
        first_apart_ms=first_apart,
        first_together_ms=first_together,
    )


def _rounds(
    fleet: Fleet, card: Calibration, *, tables: bool
) -> tuple[float, float, dict[int, Work]]:
    """A round's ms apart and together, and the work of a node by its degree."""
    graph = fleet.graph
    degrees = {node: graph.degree(node) for node in graph.ids}
    works = {
        degree: work_of(degree, fleet, card, tables=tables) for degree in set(degrees.values())
    }
    alone = {degree: _alone(work, card) for degree, work in works.items()}
    waited = median(
        max(alone[degrees[other]] for other in (node, *graph.neighbours(node)))
        for node in graph.ids
    )
    deliveries = 4 * len(graph.edges)  # a query and an answer, each way
    total = sum(works[degree].cpu for degree in degrees.values()) + deliveries * card.broker_ms
    apart = max(waited, _period_ms(fleet))
    return apart, max(apart, total / card.cores / card.shared_use), works


def _period_ms(fleet: Fleet) -> float:
    return 1000.0 * (fleet.file.algorithm.period_s or 0.0)


def _waiting(work: Work, card: Calibration) -> float:
    """A round whose obfuscators are all ready, ms."""
    return work.crypto + work.rest + card.save_ms + card.round_trip_ms


def _alone(work: Work, card: Calibration) -> float:
    """Rounds one after the other on a board of its own, ms each."""
    ready = _waiting(work, card)
    return max(ready, (ready + work.ahead) / (1 + work.threads))
