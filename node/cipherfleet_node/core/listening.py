"""How a node that enters comes close to the others before it moves them.

The first estimate of a newcomer, and of a node that has lost its state, is far from those of its
neighbours. A coupling term moves both ends of an edge by the same amount, so the neighbours would
be thrown back. In the exact method such a node *listens* first:

* it moves by its own coupling terms, without a gradient of its own, and books none of them in its
  ledger;
* it answers with zero, so no neighbour has a term of the edge either, and the duals of the fleet
  still sum to zero;
* it ends when a coupling term is below QUIET of its estimate, or after MOST_ROUNDS coupled rounds.

In the sum that a neighbour opens, a zero stands in the place of a term. So a node listens only if
each of its neighbours has two others, and it does not answer a roster of two.

Checked by test_a_node_that_enters_hardly_disturbs_its_neighbours.
"""

from __future__ import annotations

from . import progress
from .events import Setup
from .quantiser import START_NOISE
from .state import State

QUIET = 2.0**-6
MOST_ROUNDS = 32


def rounds_to_listen(setup: Setup, first: int) -> int:
    """Return for how many coupled rounds a node listens at most that enters in round *first*."""
    can_listen = setup.exact_scale is not None and setup.exchange.can_listen
    return MOST_ROUNDS if can_listen and first > 0 else 0


def listened(state: State, term: float, estimate: float, resolution: float) -> State:
    """Return *state* after a round of listening; *term* and *estimate* are root mean squares."""
    nothing = START_NOISE * resolution
    is_quiet = term <= QUIET * estimate + nothing
    return progress.replaced(state, listens=0 if is_quiet else max(state.listens - 1, 0))
