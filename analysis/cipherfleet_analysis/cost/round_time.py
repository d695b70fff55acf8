"""Predict the time of a round on a board: the number of operations times their cost.

Work of a node of degree g in one round, with C ciphertexts per vector:

    ahead     C (own obfuscator + g for neighbours)        pool threads, while the node waits
    crypto    C (blinding: 1 + g, answers: g, checks: 2g, one decryption)
    rest      1, and g times the cost of a neighbour       messages, signatures, everything else

On its own board, a node closes a round after crypto and rest, the disk's time and one round trip.
If the pools are too slow, the round itself computes obfuscators, too, and shares the remaining work
with the pool threads. Nodes wait for their neighbours, so the slowest neighbour decides. If all
nodes share one machine, a round is not shorter than the work of all nodes and of the broker on the
share of the cores that a fleet can use.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from cipherfleet_node.core.packing import HALF_WEIGHT_BITS, METROPOLIS_BITS
from cipherfleet_node.keys.fixed_base import ROWS
from cipherfleet_provisioning.fleet.fleet import Fleet

from .board_card import Calibration
from .traffic import layout_of

# Products per bit of a small exponent: one square, and a part of a window's product.
PRODUCTS_PER_BIT = 1.4
CHECK_PRODUCTS = 2.0  # of one ciphertext: a part of a greatest common divisor, a product mod n
HALF_SIZE = 0.3  # cost of a product mod p^2 relative to one mod n^2


@dataclass(frozen=True)
class Work:
    """The work of one node in a round, in ms of CPU time."""

    ahead: float
    crypto: float
    rest: float
    threads: int  # that compute obfuscators ahead; 0: the round computes them itself

    @property
    def cpu(self) -> float:
        """The sum over all threads."""
        return self.ahead + self.crypto + self.rest


@dataclass(frozen=True)
class RoundTime:
    """A prediction; *apart*: every node has its own board; *together*: all share one board."""

    board: str
    kind: str  # of the card's figures: measured or estimate
    source: str
    apart_ms: float
    together_ms: float
    cpu_ms: float  # per node, mean
    cpu_share: float  # of one core, apart
    ahead_ms: float  # the part of cpu_ms for obfuscators
    pools_keep_up: bool  # apart: no round waits for an obfuscator
    first_rounds: int  # number of first rounds with full powers for neighbours, to build tables
    first_apart_ms: float
    first_together_ms: float


def compute_work(degree: int, fleet: Fleet, card: Calibration, *, tables: bool = True) -> Work:
    """Return the work of a node with *degree* neighbours in a round.

    If *tables* is false, the tables of obfuscators are not complete yet, as in the first rounds.
    """
    crypto, layout = fleet.file.crypto, layout_of(fleet)
    powers, sealed = card.at(crypto.key_bits), fleet.exchange == "sealed"
    product, count = powers.product_ms, layout.ciphertexts
    full = crypto.rerandomise == "full" and tables
    towards = powers.table_ms if full else powers.powmod_ms
    exponent_bits = HALF_WEIGHT_BITS + (METROPOLIS_BITS if sealed else 0)
    small_power = PRODUCTS_PER_BIT * exponent_bits * product
    # The asking node's own exponents, mod p^2 and mod q^2; in the sealed exchange they are 1.
    own_bits = 1 if sealed else HALF_WEIGHT_BITS + METROPOLIS_BITS
    combined = 2 * HALF_SIZE * PRODUCTS_PER_BIT * own_bits * product
    blinding = 2 * product  # of a plaintext
    per_neighbour = blinding + small_power + product + 2 * CHECK_PRODUCTS * product + combined
    mask = 2 * product * (degree - 1) if sealed else 0.0  # one hash and one product each
    decrypt = powers.decrypt_ms * (1.4 if crypto.constant_time else 1.0)
    return Work(
        ahead=count * (powers.own_ms + degree * towards),
        crypto=count * (blinding + degree * (per_neighbour + mask) + decrypt),
        rest=card.round_ms + degree * card.neighbour_ms,
        threads=min(crypto.pool_threads, card.cores - 1) if crypto.pool else 0,
    )


def predict(fleet: Fleet, card: Calibration) -> RoundTime:
    """Predict the time from one round to the next for the median node; at least the period."""
    apart, together, works = _round_times(fleet, card, tables=True)
    first_apart, first_together, _ = _round_times(fleet, card, tables=False)
    crypto, node_works = fleet.file.crypto, [works[fleet.graph.degree(n)] for n in fleet.graph.ids]
    slowest = works[max(works)]
    cpu_ms = sum(work.cpu for work in node_works) / len(node_works)
    tables = crypto.rerandomise == "full"
    return RoundTime(
        board=card.board,
        kind=card.kind,
        source=card.source,
        apart_ms=apart,
        together_ms=together,
        cpu_ms=cpu_ms,
        cpu_share=cpu_ms / apart,
        ahead_ms=sum(work.ahead for work in node_works) / len(node_works),
        pools_keep_up=slowest.ahead
        <= slowest.threads * max(_ready_round_ms(slowest, card), _period_ms(fleet)),
        first_rounds=-(-ROWS // layout_of(fleet).ciphertexts) if tables else 0,
        first_apart_ms=first_apart,
        first_together_ms=first_together,
    )


def _round_times(
    fleet: Fleet, card: Calibration, *, tables: bool
) -> tuple[float, float, dict[int, Work]]:
    """Return the ms of a round apart and together, and the work of a node by its degree."""
    graph = fleet.graph
    degrees = {node: graph.degree(node) for node in graph.ids}
    works = {
        degree: compute_work(degree, fleet, card, tables=tables) for degree in set(degrees.values())
    }
    alone = {degree: _own_board_round_ms(work, card) for degree, work in works.items()}
    slowest_nearby = median(
        max(alone[degrees[other]] for other in (node, *graph.neighbours(node)))
        for node in graph.ids
    )
    deliveries = 4 * len(graph.edges)  # a query and an answer in each direction
    total = sum(works[degree].cpu for degree in degrees.values()) + deliveries * card.broker_ms
    apart = max(slowest_nearby, _period_ms(fleet))
    return apart, max(apart, total / card.cores / card.shared_use), works


def _period_ms(fleet: Fleet) -> float:
    return 1000.0 * (fleet.file.algorithm.period_s or 0.0)


def _ready_round_ms(work: Work, card: Calibration) -> float:
    """Return the ms of a round if all obfuscators are ready."""
    return work.crypto + work.rest + card.save_ms + card.round_trip_ms


def _own_board_round_ms(work: Work, card: Calibration) -> float:
    """Return the ms of each of many consecutive rounds on the node's own board."""
    ready = _ready_round_ms(work, card)
    return max(ready, (ready + work.ahead) / (1 + work.threads))
