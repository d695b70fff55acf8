"""node/vectors/README.md lists every file and list, with the number of its cases."""

from __future__ import annotations

import json
import re

from tests.support.paths import ROOT

FOLDER = ROOT / "node" / "vectors"
README = (FOLDER / "README.md").read_text()
ROW = re.compile(r"^\| (?:`([\w.]+)`)? *\| `(\w+)` \| (\d+) \|", re.MULTILINE)


def listed() -> dict[tuple[str, str], int]:
    found, file = {}, ""
    for name, part, count in ROW.findall(README):
        file = name or file
        found[file, part] = int(count)
    return found


def test_the_table_has_every_file_and_the_counts_are_right() -> None:
    found = listed()
    assert {file for file, _ in found} == {file.name for file in FOLDER.glob("*.json")}
    for (file, part), count in found.items():
        assert len(json.loads((FOLDER / file).read_text())[part]) == count, (file, part)


def test_no_list_of_cases_is_missing_in_the_table() -> None:
    """A list of objects with a name is a list of cases."""
    for file in FOLDER.glob("*.json"):
        for part, value in json.loads(file.read_text()).items():
            is_list = isinstance(value, list) and value and isinstance(value[0], dict)
            if is_list and "name" in value[0]:
                assert (file.name, part) in listed()


def test_the_number_of_scenarios_is_right() -> None:
    assert f"There are {len(list((FOLDER / 'scenarios').glob('*.json')))}." in README
