"""Outputs of other packages: found by name, and called with their options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cipherfleet_node.outputs.plugins import open_plugin
from cipherfleet_node.outputs.publisher import OutputFailed, OutputThread

from .test_file import ANSWER

PACKAGE = '''\
"""An output of another package."""

class Notes:
    def __init__(self, folder, *, name):
        self.file = folder / name

    def publish(self, answer):
        with self.file.open("a") as stream:
            stream.write(f"{answer.round} {answer.predict({'pm10': 40, 'rh': 60}):g}\\n")

    def close(self):
        with self.file.open("a") as stream:
            stream.write("closed\\n")
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a package as pip would install it."""
    place = tmp_path / "site"
    info = place / "fleet_notes-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "fleet_notes.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fleet-notes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[cipherfleet.outputs]\nnotes = fleet_notes:Notes\n")
    monkeypatch.syspath_prepend(str(place))
    return place


def test_a_plug_in_gets_each_answer_and_is_closed(tmp_path: Path, installed: Path) -> None:
    assert installed.is_dir()
    thread = OutputThread(
        "answer.plugins.notes", lambda: open_plugin("notes", tmp_path, {"name": "notes.txt"})
    )
    thread.put(ANSWER)
    thread.close()
    assert thread._thread is not None
    thread._thread.join(60.0)
    assert (tmp_path / "notes.txt").read_text() == "4 16\nclosed\n"


def test_a_plug_in_that_is_not_installed_is_an_error_with_those_that_are(
    tmp_path: Path, installed: Path
) -> None:
    assert installed.is_dir()
    with pytest.raises(OutputFailed, match=r"no installed package has it in .*; there are: notes"):
        open_plugin("note", tmp_path, {})


def test_a_node_without_plug_ins_and_mqtt_imports_nothing_for_them() -> None:
    code = (
        "import sys, cipherfleet_node.runtime.answer_outputs;"
        "names = ('outputs.mqtt', 'outputs.homeassistant');"
        "print([name for name in names if f'cipherfleet_node.{name}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
