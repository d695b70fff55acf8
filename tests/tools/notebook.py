"""Run the tour of the lab and write its page and its notebook: `make notebook`.

The source is docs/tutorials/lab.py, a script in percent format: `# %%` begins a cell, and
`# %% [markdown]` a cell of text. Editors show such a script as a notebook. This command runs the
cells in their order and writes `lab.md`, a page with what they print and draw, and `lab.ipynb`, the
notebook for Jupyter, without outputs. Neither this command nor the tests need Jupyter.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "tutorials" / "lab.py"
NOTE = "<!-- Written by `make notebook` from lab.py; do not edit. -->\n\n"
_BEGIN = re.compile(r"^# %%(.*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A cell of the script; *text* is Markdown or Python."""

    is_text: bool
    text: str


@dataclass
class Result:
    """What a cell printed, and the figures that it drew, as SVG."""

    printed: str = ""
    figures: list[bytes] = field(default_factory=list)


def main() -> int:
    """Run the command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--out", type=Path, default=SCRIPT.parent, metavar="DIR")
    given = options.parse_args()
    cells = list(cells_of(SCRIPT.read_text()))
    write(cells, run(cells), given.out)
    return 0


def cells_of(script: str) -> Iterator[Cell]:
    """The cells of a script in percent format."""
    parts = _BEGIN.split(script)
    for kind, text in zip(parts[1::2], parts[2::2], strict=True):
        is_text = kind.strip() == "[markdown]"
        lines = text.strip("\n").split("\n")
        if is_text:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        yield Cell(is_text, "\n".join(lines))


def run(cells: list[Cell]) -> list[Result]:
    """Run the cells of code in one namespace; what a cell raises ends the command."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "cipherfleet"  # equal figures give equal files
    names: dict[str, Any] = {"__name__": "__main__"}
    results = []
    for number, cell in enumerate(cells, 1):
        result = Result()
        if not cell.is_text:
            printed = io.StringIO()
            with redirect_stdout(printed):
                code = compile(cell.text, f"{SCRIPT.name}, cell {number}", "exec")
                exec(code, names)
            result = Result(printed.getvalue(), list(drawn()))
        results.append(result)
    return results


def drawn() -> Iterator[bytes]:
    """The open figures of matplotlib as SVG. They are closed."""
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        file = io.BytesIO()
        plt.figure(number).savefig(file, format="svg", metadata={"Date": None})
        plt.close(number)
        yield file.getvalue()


def write(cells: list[Cell], results: list[Result], out: Path) -> None:
    """Write lab.md with its figures, and lab.ipynb."""
    out.mkdir(parents=True, exist_ok=True)
    page, count = NOTE, 0
    for cell, result in zip(cells, results, strict=True):
        page += f"{cell.text}\n\n" if cell.is_text else f"```python\n{cell.text}\n```\n\n"
        page += f"```text\n{result.printed}```\n\n" if result.printed else ""
        for figure in result.figures:
            count += 1
            name = f"lab-{count}.svg"
            (out / name).write_bytes(figure)
            page += f"![What this cell draws]({name})\n\n"
    (out / "lab.md").write_text(page.rstrip("\n") + "\n")
    (out / "lab.ipynb").write_text(notebook_text(cells))


def notebook_text(cells: list[Cell]) -> str:
    """The notebook of *cells* in Jupyter's format 4.4, without outputs."""
    document = {
        "cells": [_as_json(cell) for cell in cells],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _as_json(cell: Cell) -> dict[str, Any]:
    source = cell.text.splitlines(keepends=True)
    if cell.is_text:
        return {"cell_type": "markdown", "metadata": {}, "source": source}
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source,
    }


if __name__ == "__main__":
    sys.exit(main())
