"""Phrases for lists of nodes, counts and ranges in findings."""

from __future__ import annotations

from collections.abc import Collection, Iterable

MOST_NAMED = 5  # owners or edges named in a sentence; a finding's nodes are complete


def format_nodes(nodes: Collection[str]) -> str:
    """Return the name of a single node, or the number of several nodes."""
    return f"node {next(iter(nodes))!r}" if len(nodes) == 1 else f"{len(nodes):,} nodes"


def format_count(things: Collection[object], word: str) -> str:
    return f"{len(things):,} {word}{'' if len(things) == 1 else 's'}"


def format_names(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - MOST_NAMED:,} more" if len(known) > MOST_NAMED else ""
    return ", ".join(known[:MOST_NAMED]) + more


def format_range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
