"""Mixing matrices of plaintext systems, dense for small fleets and sparse for large ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from .systems import Array, Problem

DENSE_NODES = 300  # up to this size a dense product is faster
SHOWN_NODES = 2000  # a log contains the matrix only up to this size

Arcs = Iterable[tuple[int, int]]  # (from, to)


class MixingMatrix:
    """The map x -> W x, for W of shape (n, n) given by its entries."""

    def __init__(
        self, nodes: int, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], values: Array
    ) -> None:
        from scipy.sparse import csr_matrix

        sparse: Any = csr_matrix((values, (rows, columns)), shape=(nodes, nodes))
        self._matrix: Any = sparse.toarray() if nodes <= DENSE_NODES else sparse
        self._nodes = nodes

    def __call__(self, x: Array) -> Array:
        """Return W x, for x of shape (n, m)."""
        mixed: Array = self._matrix @ x
        return mixed

    @property
    def matrix(self) -> Array | None:
        """W as a dense matrix; None for more than SHOWN_NODES nodes."""
        if self._nodes > SHOWN_NODES:
            return None
        matrix: Array = self._matrix if self._nodes <= DENSE_NODES else self._matrix.toarray()
        return matrix


def metropolis(problem: Problem) -> MixingMatrix:
    """Return Metropolis weights: w_ij = 1/(1 + max(deg_i, deg_j)), w_ii the rest.

    Doubly stochastic.
    """
    edges = np.array(problem.edges, dtype=np.intp).reshape(-1, 2)
    degrees = np.bincount(edges.ravel(), minlength=problem.nodes)
    ends, others = np.concatenate([edges, edges[:, ::-1]]).T
    values = 1.0 / (1.0 + np.maximum(degrees[ends], degrees[others]))
    own = 1.0 - np.bincount(ends, values, problem.nodes)
    nodes = np.arange(problem.nodes)
    return MixingMatrix(
        problem.nodes,
        np.concatenate([ends, nodes]),
        np.concatenate([others, nodes]),
        np.concatenate([values, own]),
    )


def equal_shares(nodes: int, arcs: Arcs) -> MixingMatrix:
    """Return a column-stochastic matrix: a node gives equal shares to itself and its receivers."""
    loops = [(node, node) for node in range(nodes)]
    senders, receivers = np.array([*arcs, *loops], dtype=np.intp).T
    shares = 1.0 / np.bincount(senders, minlength=nodes)
    return MixingMatrix(nodes, receivers, senders, shares[senders])
