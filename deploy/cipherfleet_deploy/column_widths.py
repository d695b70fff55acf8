"""Tables on a narrow terminal: fewer columns, or several tables, and never a value cut short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len


def columns_that_fit(
    columns: Mapping[str, Sequence[str]], least: Sequence[str], width: int, gap: int
) -> list[str]:
    """Return the headings of *columns* that fit into *width* characters, in their order.

    *columns* holds the texts below each heading. The headings in *least* are left out one by one,
    from the first on, until the others fit. *gap* is the number of characters between two columns.
    """
    kept = list(columns)
    widths = {name: max(map(cell_len, (name, *texts))) for name, texts in columns.items()}
    for name in least:
        if sum(widths[each] + gap for each in kept) - gap <= width:
            break
        kept.remove(name)
    return kept


def left_out_note(columns: Mapping[str, Sequence[str]], kept: Sequence[str]) -> str:
    """Return a line that names the columns left out, or "" if there are none."""
    names = [name for name in columns if name not in kept]
    return f"no room for: {', '.join(names)}" if names else ""


def split_columns(names: Sequence[str], first: int, each: int, width: int) -> list[Sequence[str]]:
    """Return *names* in groups for tables of *width* characters.

    The first column of each table takes *first* characters, and every other one takes *each*.
    """
    size = max(1, (width - first) // each)
    return [names[start : start + size] for start in range(0, len(names), size)]
