"""The tour of the lab runs, and its page and notebook are those of the script."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.tolerances import assert_same_text
from tests.tools.notebook import SCRIPT, Cell, cells_of, notebook_text, run, write

FOLDER = ROOT / "docs" / "tutorials"


def test_the_tour_prints_what_its_page_shows(tmp_path: Path) -> None:
    cells = list(cells_of(SCRIPT.read_text()))
    write(cells, run(cells), tmp_path)
    assert_same_text((tmp_path / "lab.md").read_text(), (FOLDER / "lab.md").read_text())
    shown = re.findall(r"\((lab-\d\.svg)\)", (FOLDER / "lab.md").read_text())
    assert shown
    for name in shown:
        assert (tmp_path / name).read_bytes().startswith(b"<?xml")
        assert (FOLDER / name).is_file()


def test_the_notebook_is_that_of_the_script() -> None:
    cells = list(cells_of(SCRIPT.read_text()))
    assert (FOLDER / "lab.ipynb").read_text() == notebook_text(cells), "make notebook"
    document = json.loads((FOLDER / "lab.ipynb").read_text())
    kinds = [cell["cell_type"] for cell in document["cells"]]
    assert set(kinds) == {"markdown", "code"}
    assert all("id" not in cell for cell in document["cells"])  # format 4.4 has none


def test_cells_of_both_kinds_are_read_and_run_in_one_namespace(tmp_path: Path) -> None:
    script = "# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 2\n\n# %%\nprint(a + 1)\n"
    cells = list(cells_of(script))
    assert cells == [
        Cell(True, "# Title\n\ntext"),
        Cell(False, "a = 2"),
        Cell(False, "print(a + 1)"),
    ]
    results = run(cells)
    assert [result.printed for result in results] == ["", "", "3\n"]
    write(cells, results, tmp_path)
    page = (tmp_path / "lab.md").read_text()
    assert "```python\nprint(a + 1)\n```\n\n```text\n3\n```\n" in page
