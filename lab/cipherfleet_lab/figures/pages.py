"""Pages of studies in Markdown, and their index page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .drawing import draw_svg
from .study import Result, Study, Table

INDEX = "README.md"
READINGS = (
    "Readings: Intel Berkeley Research Lab deployment, 2004 (Peter Bodik, Wei Hong, Carlos "
    "Guestrin, Sam Madden, Mark Paskin and Romain Thibaux, hosted at MIT CSAIL), reduced as "
    "examples/intel_lab says."
)
HEAD = """# Results

The measurements of the lab. Every page states the command that reproduces it, with its seeds:

    {command}

Lines are medians over seeds, bands contain eight of ten runs. Unless a page states a key size, the
fleets are simulated without encryption: the engine computes with the same integers that ciphertexts
would contain, and tests compare it with the encrypted fleet."""


def write_study(folder: Path, study: Study, result: Result, command: str) -> list[Path]:
    """Write the page and the figure of *study* into *folder*; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = folder / f"{study.name}.svg"
    figure.write_bytes(draw_svg(result.draw, result.size, command))
    page = folder / f"{study.name}.md"
    page.write_text(_page(study, result, command), encoding="utf-8")
    return [figure, page]


def write_index(folder: Path, studies: Sequence[Study], command: str) -> Path:
    """Write README.md over the pages in *folder*, from this run or an earlier one of *command*."""
    parts = [HEAD.format(command=command)]
    for study in studies:
        page = folder / f"{study.name}.md"
        if page.exists():
            title, finding, figure, *_ = page.read_text(encoding="utf-8").split("\n\n")
            parts.append(f"#{title}\n\n{finding} [Settings and numbers]({page.name})\n\n{figure}")
    parts += [READINGS] if len(parts) > 1 else []
    index = folder / INDEX
    index.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return index


def _page(study: Study, result: Result, command: str) -> str:
    figure = f"![{study.title}]({study.name}.svg)"
    parts = [f"# {study.title}", result.finding, figure, result.text]
    parts += [_markdown(table) for table in result.tables]
    parts += [READINGS] if study.shows_readings else []
    parts.append(f"Made by `{command}`.")
    return "\n\n".join(parts) + "\n"


def _markdown(table: Table) -> str:
    lines = [f"**{table.title}**", ""] if table.title else []
    lines += [_row(table.head), _row(["---"] * len(table.head))]
    lines += [_row([_cell(value) for value in row]) for row in table.rows]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    """Format a float with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
